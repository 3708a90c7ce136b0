"""Label maps: the color palette, reading user files, and conversion between network tensors and images."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from training.data.image_io import CLASS_MODES, decode_class_ids, decode_image, open_class_map, resize_nearest

# Color of each class in the label images of the published tools; class 0 is the background.
PALETTE = np.array(
    [
        *[(255, 255, 255), (204, 0, 0), (76, 153, 0), (204, 204, 0), (51, 51, 255), (204, 0, 204), (0, 255, 255)],
        *[(255, 204, 204), (102, 51, 0), (255, 0, 0), (102, 204, 0), (255, 255, 0), (0, 0, 153), (0, 0, 204)],
        *[(255, 51, 153), (0, 204, 204), (0, 51, 0), (255, 153, 51), (0, 204, 0)],
    ],
    dtype=np.uint8,
)

# PIL modes whose colors are matched to the palette.
PALETTE_MODES = ("RGB", "RGBA")

# Median gray of a drawing: paper covers most of it. A darker one is a photo or has white lines on black.
MIN_PAPER_GRAY = 192

# --------------------------------------------------------------------------- palette


def colorize(ids: np.ndarray) -> np.ndarray:
    """Convert class ids of any shape to palette colors, uint8 ...,3; ids outside the palette become black."""
    # One more row of the table, black, for ids without a color.
    black = len(PALETTE)
    rows = np.where((ids >= 0) & (ids < black), ids, black)
    return np.concatenate([PALETTE, np.zeros((1, 3), np.uint8)])[rows]


def pack_rgb(rgb: np.ndarray) -> np.ndarray:
    """Pack colors ...,3 uint8 into integers 0xRRGGBB of shape ..."""
    # One integer per color can be sorted and searched.
    return rgb.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])


def index_from_colors(rgb: np.ndarray) -> np.ndarray:
    """Convert palette colors H,W,3 uint8 to class ids H,W uint8, the inverse of `colorize`.

    Raises:
        ValueError: a pixel has another color; the message says which and where.
    """
    # Look up each color in the sorted palette; an unknown one finds a neighbor.
    colors = pack_rgb(rgb)  # H,W
    palette = pack_rgb(PALETTE)
    order = palette.argsort()
    ids = order[np.searchsorted(palette, colors, sorter=order).clip(max=len(palette) - 1)]  # H,W

    # Report the first unknown color. Many of them are no typing error: the file is not a label map.
    unknown = palette[ids] != colors
    if unknown.any():
        y, x = np.argwhere(unknown)[0]
        color = ",".join(map(str, rgb[y, x]))
        count = len(np.unique(colors[unknown]))
        hint = f"; {count} such colors, so it looks like a photo or was saved with blending" if count > 1 else ""
        raise ValueError(f"color {color} at x={x} y={y} is none of the {len(PALETTE)} label colors{hint}")
    return ids.astype(np.uint8)


# --------------------------------------------------------------------------- files to network tensors


def read_label_map(path: str | os.PathLike[str], data_type: str, classes: int, resolution: int | None = None) -> Tensor:
    """Read a label map from an image file as input of the networks.

    Args:
        path: for "seg" a PNG of class ids (8-bit gray, or palette indices) or of palette colors; for "edge" a drawing
            of dark lines on white, where transparent pixels count as white.
        data_type: "seg" or "edge".
        classes: number of classes with the background (ignored for "edge").
        resolution: R, to which the label map is resized by nearest neighbor; None keeps the size of the file.
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
        label_map = decode_label_map(path.read_bytes(), data_type, classes)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return label_map if resolution is None else resize_label_map(label_map, resolution)


def decode_label_map(content: bytes, data_type: str, classes: int) -> Tensor:
    """Decode the bytes of an image file to a label map 1,1,H,W, H = W; otherwise as `read_label_map`.

    Raises:
        ValueError: not a label map with these classes.
    """
    pixels = _read_class_ids(content, classes) if data_type == "seg" else _read_drawing(content)  # H,W
    height, width = pixels.shape
    if height != width or not pixels.size:
        raise ValueError(f"{width}x{height} pixels; expected a square image")

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


def _read_class_ids(content: bytes, classes: int) -> np.ndarray:
    """Read uint8 H,W class ids below `classes`."""
    # Palette images hold ids, whatever their palette: that of another tool often differs.
    if open_class_map(content, CLASS_MODES + PALETTE_MODES).mode in PALETTE_MODES:
        ids = index_from_colors(decode_image(content).transpose(1, 2, 0))
    else:
        ids = decode_class_ids(content)

    # A larger id would index outside the one-hot channels of the networks.
    if ids.size and ids.max() >= classes:
        y, x = np.argwhere(ids >= classes)[0]
        raise ValueError(f"got class {ids[y, x]} at x={x} y={y}; this network's classes are 0 to {classes - 1}")
    return ids


def _read_drawing(content: bytes) -> np.ndarray:
    """Read uint8 H,W gray, 255 background."""
    gray = np.array(Image.fromarray(decode_image(content).transpose(1, 2, 0)).convert("L"))
    if gray.size:
        check_paper(np.median(gray))
    return gray


def check_paper(median_gray: float) -> None:
    """Raise ValueError if a drawing with this median gray (0 to 255, a scalar) is not dark lines on white."""
    if median_gray < MIN_PAPER_GRAY:
        raise ValueError(
            f"half of its pixels are darker than {median_gray:.0f} of 255; expected dark lines on white, "
            "not class ids, a photo or white lines on black"
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
