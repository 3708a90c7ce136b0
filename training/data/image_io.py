"""Bytes of a PNG or JPEG to the arrays that a data set hands out, and back."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from dnnlib.util import atomic_write

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg")
COLOR_MODES = ("RGB", "L", "P", "RGBA", "LA", "1")  # 8 bits; CMYK and 16 bits are refused rather than guessed at
CLASS_MODES = ("L", "P", "1")
GRAY_STEP = {2: 85, 4: 17}  # PIL spreads grays of so many bits over 0..255
PNG_GRAY = 0  # color type
UPRIGHT = 1  # EXIF orientation


def open_image(content: bytes, modes: tuple[str, ...] = COLOR_MODES) -> Image.Image:
    """A PIL picture of which only the header is read.

    Raises:
        ValueError: no picture, one with far too many pixels, or a mode that is not in `modes`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(content), formats=("PNG", "JPEG"))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"far too many pixels ({error})") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError("not a PNG or JPEG picture") from error
    if picture.mode not in modes:
        raise ValueError(f"mode {picture.mode}, allowed {', '.join(modes)}; save it as {modes[0]} with 8 bits")
    return picture


def open_class_map(content: bytes, modes: tuple[str, ...] = CLASS_MODES) -> Image.Image:
    """As `open_image`, for pictures whose values are classes: blurring compression is refused."""
    picture = open_image(content, modes)
    if picture.format == "JPEG":
        raise ValueError("JPEG changes class ids; save the label map as PNG")
    return picture


def _loaded(picture: Image.Image, upright: bool = False) -> Image.Image:
    """With pixels; `upright` turns them as the EXIF orientation says."""
    try:
        picture.load()
        return ImageOps.exif_transpose(picture) if upright else picture
    except Exception as error:  # decoders and EXIF readers raise errors of many kinds on damaged bytes
        raise ValueError(f"damaged picture ({error})") from error


def is_turned(picture: Image.Image) -> bool:
    """Whether EXIF says to show it another way up than it is stored; ValueError if EXIF is damaged."""
    try:
        return picture.getexif().get(ExifTags.Base.Orientation, UPRIGHT) != UPRIGHT
    except Exception as error:  # as above
        raise ValueError(f"damaged EXIF ({error})") from error


def on_white(picture: Image.Image) -> Image.Image:
    """The picture as RGB; where it was transparent it shows white."""
    if picture.mode in ("RGBA", "LA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def decode_image(content: bytes, upright: bool = False) -> np.ndarray:
    """Color picture as uint8 3,H,W, turned by its EXIF orientation if `upright`; ValueError if it is none."""
    picture = on_white(_loaded(open_image(content), upright))
    return np.ascontiguousarray(np.array(picture).transpose(2, 0, 1))


def decode_class_ids(content: bytes, upright: bool = False) -> np.ndarray:
    """Class ids as uint8 H,W; palettes keep their indices, gray of 1, 2, 4 or 8 bits its stored values.

    Raises:
        ValueError: more than one channel, JPEG, or a damaged picture.
    """
    ids = np.array(_loaded(open_class_map(content), upright)).astype(np.uint8)
    bits, color_type = content[24], content[25]  # of a PNG's header
    return ids // GRAY_STEP[bits] if color_type == PNG_GRAY and bits in GRAY_STEP else ids


def decode_edges(content: bytes, resolution: int) -> np.ndarray:
    """Stored form of a drawing with dark lines on white: uint8 H,W, 0 background, high on lines.

    The inverted drawing through a 3x3 box (border mirrored without its edge pixel, rounded), then the nearest pixel up
    and left where the size differs. ValueError if it is no square picture.
    """
    gray = np.array(on_white(_loaded(open_image(content))).convert("L"))
    height, width = gray.shape
    if height != width:
        raise ValueError(f"{width}x{height} pixels, drawings must be square (dataset_tool.py pack)")
    padded = np.pad(255 - gray.astype(np.uint16), 1, mode="reflect")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    stored = ((rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4) // 9).astype(np.uint8)
    return resize_nearest(stored, resolution)


def resize_nearest(pixels: np.ndarray, resolution: int) -> np.ndarray:
    """H,W to resolution,resolution without blending; pixel i is taken from floor(i * size / resolution)."""
    height, width = pixels.shape
    rows, columns = (np.arange(resolution) * size // resolution for size in (height, width))
    return pixels[np.ix_(rows, columns)]


def encode_png(pixels: np.ndarray) -> bytes:
    """PNG of uint8 H,W or H,W,3, or uint16 H,W."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png", compress_level=6)
    return file.getvalue()


def write_png(path: str | os.PathLike[str], picture: np.ndarray) -> None:
    """Write uint8 H,W or H,W,3 and the folders above; the name appears only once the file is whole."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(encode_png(picture))
