"""Label maps between files, network and eye: one reader, the palette, and what pictures of labels show."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from training.data.image_io import CLASS_MODES, decode_class_ids, decode_image, open_class_map, resize_nearest

# Color of each class, as the published tools write their label pictures; class 0 is the background.
PALETTE = np.array(
    [
        *[(255, 255, 255), (204, 0, 0), (76, 153, 0), (204, 204, 0), (51, 51, 255), (204, 0, 204), (0, 255, 255)],
        *[(255, 204, 204), (102, 51, 0), (255, 0, 0), (102, 204, 0), (255, 255, 0), (0, 0, 153), (0, 0, 204)],
        *[(255, 51, 153), (0, 204, 204), (0, 51, 0), (255, 153, 51), (0, 204, 0)],
    ],
    dtype=np.uint8,
)
PALETTE_MODES = ("RGB", "RGBA")  # matched to the palette
DARKEST_PAPER = 192  # median gray of a drawing; below it is a photo or white lines on black

# --------------------------------------------------------------------------- palette


def colorize(ids: np.ndarray) -> np.ndarray:
    """Class ids of any shape to palette colors: uint8 ...,3; ids without a color become black."""
    black = len(PALETTE)
    known = np.where((ids >= 0) & (ids < black), ids, black)
    return np.concatenate([PALETTE, np.zeros((1, 3), np.uint8)])[known]


def index_from_colors(rgb: np.ndarray) -> np.ndarray:
    """Palette colors H,W,3 uint8 to class ids H,W uint8, the inverse of `colorize`.

    Raises:
        ValueError: a pixel of another color; says which and where.
    """
    numbers, palette = (colors.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1]) for colors in (rgb, PALETTE))
    order = palette.argsort()
    nearest = np.searchsorted(palette, numbers, sorter=order).clip(max=len(palette) - 1)
    ids = order[nearest]
    strange = palette[ids] != numbers
    if strange.any():
        y, x = np.argwhere(strange)[0]
        color = ",".join(map(str, rgb[y, x]))
        count = len(np.unique(numbers[strange]))
        many = f"; {count} such colors, so it looks like a photo or was saved with blending" if count > 1 else ""
        raise ValueError(f"color {color} at x={x} y={y} is none of the {len(PALETTE)} label colors{many}")
    return ids.astype(np.uint8)


# --------------------------------------------------------------------------- file to network


def read_label_map(path: str | os.PathLike[str], data_type: str, classes: int, resolution: int | None = None) -> Tensor:
    """A label map as the networks take it, from a picture file.

    Args:
        path: for "seg" a lossless picture of class ids (8-bit gray or palette, whose indices count) or of palette
            colors; for "edge" a drawing with dark lines on white, where transparent parts count as white.
        data_type: "seg" or "edge".
        classes: number of classes of a "seg" network, background included; "edge" has none.
        resolution: side in pixels; another size is resized by nearest neighbor. None keeps the picture's own.
    Returns:
        1,1,H,W: "seg" int64 class ids; "edge" float32, +1 background to -1 line.
    Raises:
        OSError: no such file, or it cannot be read.
        ValueError: anything else that is wrong with it, in one line that starts with the path.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if not path.is_file():
        raise ValueError(f"{path}: is not a file; expected a picture of a label map")
    content = path.read_bytes()
    try:
        pixels = _read_class_ids(content, classes) if data_type == "seg" else _read_drawing(content)
        _check_square(pixels)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    label_map = torch.from_numpy(pixels)[None, None]
    label_map = label_map.long() if data_type == "seg" else label_map / 127.5 - 1
    return label_map if resolution is None else resize_label_map(label_map, resolution)


def label_map_from_dataset(mask: np.ndarray | Tensor, data_type: str) -> Tensor:
    """A data set's uint8 label map (class ids, or stored edges: 0 background) as the networks take it."""
    mask = torch.as_tensor(mask)
    return mask.long() if data_type == "seg" else 1 - mask / 127.5


def resize_label_map(label_map: Tensor, resolution: int) -> Tensor:
    """1,1,H,W to 1,1,resolution,resolution by nearest neighbor: no class and no gray that was not there."""
    return torch.from_numpy(resize_nearest(label_map[0, 0].numpy(), resolution))[None, None]


def _read_class_ids(content: bytes, classes: int) -> np.ndarray:
    """H,W uint8 below `classes`."""
    if open_class_map(content, CLASS_MODES + PALETTE_MODES).mode in PALETTE_MODES:
        ids = index_from_colors(decode_image(content).transpose(1, 2, 0))
    else:
        ids = decode_class_ids(content)
    if ids.size and ids.max() >= classes:
        y, x = np.argwhere(ids >= classes)[0]
        raise ValueError(f"class {ids[y, x]} found at x={x} y={y}; this network knows 0 to {classes - 1}")
    return ids


def _read_drawing(content: bytes) -> np.ndarray:
    """H,W uint8 gray, 255 background."""
    gray = np.array(Image.fromarray(decode_image(content).transpose(1, 2, 0)).convert("L"))
    if gray.size and (paper := np.median(gray)) < DARKEST_PAPER:
        raise ValueError(
            f"half of its pixels are darker than {paper:.0f} of 255; expected dark lines on white, "
            "not a photo or white lines on black"
        )
    return gray


def _check_square(pixels: np.ndarray) -> None:
    height, width = pixels.shape
    if height != width or not pixels.size:
        raise ValueError(f"is {width}x{height}; expected a square picture")


# --------------------------------------------------------------------------- network to eye


def to_uint8(values: Tensor) -> Tensor:
    """Network range [-1, 1] to 0..255, clipped and truncated: color images and rendered edges alike."""
    return ((values.float().clamp(-1, 1) + 1) * 127.5).to(torch.uint8)


def draw_image(image: Tensor) -> np.ndarray:
    """`image` N,3,H,W in [-1, 1] as pictures N,H,W,3 uint8."""
    return to_uint8(image).permute(0, 2, 3, 1).cpu().numpy()


def draw_semantic(semantic: Tensor, data_type: str) -> np.ndarray:
    """`semantic` of a synthesis as pictures: N,H,W,3 palette colors of the largest logit, or N,H,W gray edges."""
    if data_type == "seg":
        return colorize(semantic.argmax(1).cpu().numpy())
    return to_uint8(semantic)[:, 0].cpu().numpy()


def draw_label_map(label_map: Tensor, data_type: str) -> np.ndarray:
    """A label map N,1,H,W as pictures that `read_label_map` reads back exactly: N,H,W,3 colors or N,H,W gray."""
    if data_type == "seg":
        return colorize(label_map[:, 0].cpu().numpy())
    return ((label_map[:, 0] + 1) * 127.5).round().to(torch.uint8).cpu().numpy()  # truncating would lose a level
