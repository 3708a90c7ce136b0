"""Tables from the class ids and colors of other tools to class ids, and finding colors in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dnnlib.json_files import read_json
from training.data.archive import WHOLE, data_error

COLOR_KEY = re.compile(r"#[0-9a-f]{6}")

# Rows of an image whose colors are found at once, which bounds the memory.
ROWS = 256


def read_class_table(path: Path) -> dict[str, int]:
    """Read a JSON object from old class id or #rrggbb to new id; DataError for anything else."""
    # Keys are compared in lower case, as #FF0000 is the same color.
    try:
        table = {str(key).lower(): value for key, value in read_json(path).items()}
    except (ValueError, AttributeError) as error:
        raise data_error(path, WHOLE, f'expected a JSON object like {{"7": 1, "#ff0000": 2}} ({error})') from error

    # Label maps have 8 bits; `type` rather than isinstance, because True is an int too.
    for key, value in table.items():
        is_valid_key = key.isdecimal() or COLOR_KEY.fullmatch(key)
        if not is_valid_key or type(value) is not int or not 0 <= value <= 255:
            raise data_error(path, key, f'got {value!r}, expected "7": 1 or "#ff0000": 2 (new ids are 0 to 255)')
    return table


def id_by_number(table: Mapping[str, int]) -> dict[int, int]:
    """Return the new ids of the old class ids in a table."""
    return {int(key): value for key, value in table.items() if not key.startswith("#")}


def id_by_color(table: Mapping[str, int]) -> dict[int, int]:
    """Return the new ids of the colors 0xRRGGBB in a table."""
    return {int(key[1:], 16): value for key, value in table.items() if key.startswith("#")}


def pack_rgb(rgb: np.ndarray) -> np.ndarray:
    """Pack colors ...,3 uint8 into integers 0xRRGGBB of shape ..."""
    # One integer per color can be sorted and searched.
    return rgb.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])


def find_colors(rgb: np.ndarray, ids: Mapping[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Find colors in a table.

    Args:
        rgb: H,W,3 uint8.
        ids: class id by color 0xRRGGBB, at least one.
    Returns:
        H,W uint8 class ids; H,W bool, true where a color is not in the table.
    """
    # Look up each color in the sorted table; an unknown one finds a neighbor.
    keys = np.array(sorted(ids))
    values = np.array([ids[key] for key in keys.tolist()], np.uint8)
    found = np.empty(rgb.shape[:2], np.uint8)
    is_unknown = np.empty(rgb.shape[:2], bool)
    for start in range(0, len(rgb), ROWS):
        colors = pack_rgb(rgb[start : start + ROWS])
        places = np.searchsorted(keys, colors).clip(max=len(keys) - 1)
        found[start : start + ROWS] = values[places]
        is_unknown[start : start + ROWS] = keys[places] != colors
    return found, is_unknown
