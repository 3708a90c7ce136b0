"""Label maps: the color palette, reading image files, and conversion between network tensors and images."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dnnlib.limits import MAX_LABEL_PIXELS
from training.data.class_tables import find_colors, id_by_color, id_by_number, pack_rgb
from training.data.image_io import decode_class_map, decode_rgb, resize_nearest, to_rgb_on_white

# Color of each class in the label images of the published tools; class 0 is the background.
PALETTE = np.array(
    [
        *[(255, 255, 255), (204, 0, 0), (76, 153, 0), (204, 204, 0), (51, 51, 255), (204, 0, 204), (0, 255, 255)],
        *[(255, 204, 204), (102, 51, 0), (255, 0, 0), (102, 204, 0), (255, 255, 0), (0, 0, 153), (0, 0, 204)],
        *[(255, 51, 153), (0, 204, 204), (0, 51, 0), (255, 153, 51), (0, 204, 0)],
    ],
    dtype=np.uint8,
)
_PALETTE_IDS = {color: number for number, color in enumerate(pack_rgb(PALETTE).tolist())}

# The class of pixels without one, and around label maps that are padded.
BACKGROUND = 0

# Gray values below this are class ids in images of colors, whose three channels are equal then: more than any published
# number of classes, and less than the grays of photos and drawings.
MAX_GRAY_IDS = 32

# Count of distinct colors in messages: of so many pixels at most.
MAX_COUNTED = 1 << 20

# Median gray of a drawing: paper covers most of it. A darker one is a photo or has white lines on black.
MIN_PAPER_GRAY = 192

# Largest share of pixels with a color in a drawing, which are those whose channels differ by so many levels. Drawings
# may have lines of color; photos and label maps have areas.
MAX_COLORED = 0.1
MIN_COLOR = 64

# --------------------------------------------------------------------------- palette


def colorize(ids: np.ndarray) -> np.ndarray:
    """Convert class ids of any shape to palette colors, uint8 ...,3; ids outside the palette become black."""
    # One more row of the table, black, for ids without a color.
    black = len(PALETTE)
    rows = np.where((ids >= 0) & (ids < black), ids, black)
    return np.concatenate([PALETTE, np.zeros((1, 3), np.uint8)])[rows]


def index_from_colors(rgb: np.ndarray) -> np.ndarray:
    """Convert palette colors H,W,3 uint8 to class ids H,W uint8, the inverse of `colorize`.

    Raises:
        ValueError: a pixel has another color; the message says which and where.
    """
    ids, is_unknown = find_colors(rgb, _PALETTE_IDS)
    if not is_unknown.any():
        return ids

    # Report the first unknown color. Many of them are no typing error: the file is not a label map.
    y, x = _first(is_unknown)
    color = ",".join(map(str, rgb[y, x]))
    count = len(np.unique(pack_rgb(rgb[is_unknown][:MAX_COUNTED])))
    hint = f"; {count} such colors, so it looks like a photo or was saved with blending" if count > 1 else ""
    raise ValueError(f"color {color} at x={x} y={y} is none of the {len(PALETTE)} label colors{hint}")


def _first(mask: np.ndarray) -> tuple[int, int]:
    """Return row and column of the first true value of a mask H,W that has one."""
    y, x = np.unravel_index(mask.argmax(), mask.shape)
    return int(y), int(x)


# --------------------------------------------------------------------------- files to class ids


@dataclass(frozen=True)
class LabelMapOptions:
    """How image files of label maps are read.

    Args:
        class_table: new class id by id ("7") or color ("#ff0000") in the file, see `read_class_table`; None keeps ids,
            and reads the colors of PALETTE.
        ignore: id in the file of pixels without a class, often 255, which become background.
        fit: what makes label maps square that are not, one of FITS in `dnnlib.choices`; None rejects them.
    """

    class_table: dict[str, int] | None = None
    ignore: int | None = None
    fit: str | None = None


AS_STORED = LabelMapOptions()


def decode_class_ids(content: bytes, options: LabelMapOptions = AS_STORED) -> np.ndarray:
    """Decode an image file of class ids or of their colors to uint8 H,W.

    One channel holds ids: gray values or palette indices. An image of colors holds those of the palette, or of
    `options.class_table`, or ids below MAX_GRAY_IDS in three equal channels. A palette that shows colors of classes, or
    such ids, at other indices holds those: programs that save indexed images reorder palettes.

    Raises:
        ValueError: ids or colors without a class, or see `decode_class_map`.
    """
    image = decode_class_map(content)
    pixels = np.array(image)
    if image.mode != "RGB":
        return _ids_from_numbers(pixels.astype(np.uint8), options, image if image.mode == "P" else None)

    # Colors of a table.
    colors = id_by_color(options.class_table or {})
    if colors:
        ids, is_unknown = find_colors(pixels, colors)
        if is_unknown.any():
            raise ValueError(f"class #{pixels[_first(is_unknown)].tobytes().hex()} is not in the table of classes")
        return ids

    # Ids in three equal channels. White is also the color of the background.
    if (pixels == pixels[..., :1]).all() and pixels.min(initial=255) < 255:
        ids = pixels[..., 0]
        largest = max((number for number in np.unique(ids).tolist() if number != options.ignore), default=BACKGROUND)
        if largest >= MAX_GRAY_IDS and options.class_table is None:
            raise ValueError(f"gray up to {largest} in several channels; save class ids as one channel of 8 bits (L)")
        return _ids_from_numbers(ids, options)

    # Colors of the palette.
    if options.class_table is not None:
        raise ValueError('colors, of which the table of classes has none; expected entries like "#ff0000": 2')
    return index_from_colors(pixels)


def _ids_from_numbers(ids: np.ndarray, options: LabelMapOptions, palette: Image.Image | None = None) -> np.ndarray:
    """Replace the numbers H,W uint8 of one channel by class ids; `palette` is an image with their colors, if any."""
    # Most label maps of data sets.
    if palette is None and options.class_table is None and options.ignore is None:
        return ids

    # Numbers that occur, and their colors.
    numbers = [number for number in np.unique(ids).tolist() if number != options.ignore]
    colors = _palette_colors(palette, numbers) if palette and numbers else []

    # Their class ids: in the table by number, else by color; without a table as shown by the colors, or as stored.
    if options.class_table is None:
        new_ids = _shown_ids(colors) or numbers
    else:
        known = id_by_color(options.class_table)
        known = {number: known[color] for number, color in zip(numbers, colors, strict=False) if color in known}
        known |= id_by_number(options.class_table)
        missing = [number for number in numbers if number not in known]
        if missing:
            raise ValueError(f"class {missing[0]} is not in the table of classes")
        new_ids = [known[number] for number in numbers]

    # The number to be ignored keeps the initial value.
    table = np.full(256, BACKGROUND, np.uint8)
    table[numbers] = new_ids
    return table[ids]


def _palette_colors(image: Image.Image, numbers: list[int]) -> list[int]:
    """Return the colors 0xRRGGBB that palette indices show, transparent ones on white."""
    # An image of these indices, with the same palette.
    row = Image.frombytes("P", (len(numbers), 1), bytes(numbers))
    row.putpalette(image.getpalette("RGB"))
    row.info = image.info
    return pack_rgb(np.array(to_rgb_on_white(row))[0]).tolist()


def _shown_ids(colors: list[int]) -> list[int]:
    """Return the class ids that colors 0xRRGGBB of a palette show, none if they have no such meaning."""
    if all(color in _PALETTE_IDS for color in colors):
        return [_PALETTE_IDS[color] for color in colors]

    # Gray images that were saved with a palette. Black alone is the color of any class in palettes of other tools.
    grays = [color & 0xFF for color in colors]
    is_gray = [gray * 0x010101 for gray in grays] == colors and len(set(grays)) == len(grays)
    return grays if is_gray and 0 < max(grays) < MAX_GRAY_IDS else []


# --------------------------------------------------------------------------- files to network tensors


def read_label_map(
    path: str | os.PathLike[str],
    data_type: str,
    classes: int,
    resolution: int | None = None,
    options: LabelMapOptions = AS_STORED,
) -> Tensor:
    """Read a label map from an image file as input of the networks.

    Args:
        path: for "seg" an image of class ids or of palette colors, see `decode_class_ids`; for "edge" a drawing of dark
            lines on white, where transparent pixels count as white.
        data_type: "seg" or "edge".
        classes: number of classes with the background (ignored for "edge").
        resolution: R, to which the label map is resized by nearest neighbor; None keeps the size of the file.
        options: how files are read; of drawings, only `fit`.
    Returns:
        1,1,R,R: "seg" int64 class ids; "edge" float32, 1 background to -1 line.
    Raises:
        OSError: the file is missing or cannot be read.
        ValueError: any other problem, in one line that starts with the path.
    """
    # Messages of the system for these two cases do not say what is expected.
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if not path.is_file():
        raise ValueError(f"{path}: not a file; expected an image of a label map")
    try:
        label_map = decode_label_map(path.read_bytes(), data_type, classes, options)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return label_map if resolution is None else resize_label_map(label_map, resolution)


def decode_label_map(content: bytes, data_type: str, classes: int, options: LabelMapOptions = AS_STORED) -> Tensor:
    """Decode the bytes of an image file to a label map 1,1,H,W, H = W; otherwise as `read_label_map`.

    Raises:
        ValueError: not a label map with these classes.
    """
    # uint8 H,W: class ids, or gray from 0 (line) to 255 (paper).
    if data_type == "seg":
        pixels = decode_class_ids(content, options)
        _check_classes(pixels, classes)
        background = BACKGROUND
    else:
        drawing = decode_rgb(content)
        check_drawing(drawing)
        pixels = np.array(drawing.convert("L"))
        background = 255
    pixels = _fit_square(pixels, options.fit, background)  # R,R

    # Class ids stay integers; gray 0 to 255 becomes -1 (line) to 1 (background).
    label_map = torch.from_numpy(pixels)[None, None]
    return label_map.long() if data_type == "seg" else label_map / 127.5 - 1


def label_map_from_dataset(mask: np.ndarray | Tensor, data_type: str) -> Tensor:
    """Convert a data set's uint8 N,1,R,R (class ids, or edge maps in stored form) to input of the networks."""
    # Stored edges are inverted: 0 background to 255 line.
    mask = torch.as_tensor(mask)
    return mask.long() if data_type == "seg" else 1 - mask / 127.5


def resize_label_map(label_map: Tensor, resolution: int) -> Tensor:
    """Resize 1,1,H,W to 1,1,R,R by nearest neighbor, which adds no class and no gray value."""
    return torch.from_numpy(resize_nearest(label_map[0, 0].numpy(), resolution))[None, None]


def _check_classes(ids: np.ndarray, classes: int) -> None:
    """Raise ValueError if there are ids H,W of other classes: they would index outside the networks' channels."""
    if ids.size and ids.max() >= classes:
        y, x = _first(ids >= classes)
        hint = ""
        if np.isin(ids, (0, 255)).all():
            hint = "; pixels are only 0 and 255, as in an edge drawing or a mask"
        elif ids[y, x] == 255:
            # The number of pixels without a class in many data sets.
            hint = "; --ignore 255 reads such pixels as background"
        raise ValueError(f"got class {ids[y, x]} at x={x} y={y}; this network's classes are 0 to {classes - 1}{hint}")


def _fit_square(pixels: np.ndarray, fit: str | None, background: int) -> np.ndarray:
    """Make H,W square, see LabelMapOptions.fit."""
    height, width = pixels.shape
    if not pixels.size or (height != width and fit is None):
        raise ValueError(f"{width}x{height} pixels; expected a square image; --fit pad or --fit crop makes it one")

    # Both about the center.
    if fit == "crop":
        side = min(height, width)
        top = (height - side) // 2
        left = (width - side) // 2
        return pixels[top : top + side, left : left + side]
    side = max(height, width)
    if side * side > MAX_LABEL_PIXELS:
        raise ValueError(f"{width}x{height} pixels; too long to be padded to a square")
    square = np.full((side, side), background, np.uint8)
    top = (side - height) // 2
    left = (side - width) // 2
    square[top : top + height, left : left + width] = pixels
    return square


def check_drawing(drawing: Image.Image) -> None:
    """Raise ValueError if an RGB image is not a drawing of dark lines on white."""
    gray = np.array(drawing.convert("L"))  # H,W
    median = np.median(gray) if gray.size else 255
    if median < MIN_PAPER_GRAY:
        raise ValueError(
            f"half of its pixels are darker than {median:.0f} of 255; expected dark lines on white, "
            "not class ids, a photo or white lines on black"
        )

    # Label maps of a small object and photos of products are white for the most part, too.
    rgb = np.array(drawing)
    colored = (rgb.max(2) - rgb.min(2) >= MIN_COLOR).mean() if rgb.size else 0
    if colored > MAX_COLORED:
        raise ValueError(
            f"{colored:.0%} of its pixels have a color; expected dark lines on white, not class colors or a photo"
        )


# --------------------------------------------------------------------------- network tensors to images


def to_uint8(values: Tensor) -> Tensor:
    """Convert [-1, 1] to 0..255, clipped and truncated; any shape, both images and edge maps."""
    return ((values.float().clamp(-1, 1) + 1) * 127.5).to(torch.uint8)


def draw_image(image: Tensor) -> np.ndarray:
    """Convert images N,3,H,W in [-1, 1] to uint8 N,H,W,3."""
    return to_uint8(image).permute(0, 2, 3, 1).cpu().numpy()


def draw_semantic(semantic: Tensor, data_type: str) -> np.ndarray:
    """Convert rendered labels N,S,H,W to uint8: "seg" N,H,W,3, colors of the largest logit; "edge" N,H,W gray."""
    if data_type == "seg":
        return colorize(semantic.argmax(1).cpu().numpy())
    return to_uint8(semantic)[:, 0].cpu().numpy()


def draw_label_map(label_map: Tensor, data_type: str) -> np.ndarray:
    """Convert input label maps N,1,H,W to uint8 N,H,W,3 or N,H,W, which `read_label_map` reads back exactly."""
    if data_type == "seg":
        return colorize(label_map[:, 0].cpu().numpy())

    # Rounded: float32 errors are on either side of the level, and truncating as in `to_uint8` would lose one.
    return ((label_map[:, 0] + 1) * 127.5).round().to(torch.uint8).cpu().numpy()
