"""Bytes of a PNG or JPEG to the arrays that a data set hands out, and back."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from dnnlib.util import whole_file

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg")
COLOUR_MODES = ("RGB", "L", "P", "RGBA", "LA", "1")  # 8 bits; CMYK and 16 bits are refused rather than guessed at
CLASS_MODES = ("L", "P", "1")


def open_picture(content: bytes, modes: tuple[str, ...] = COLOUR_MODES) -> Image.Image:
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


def _loaded(picture: Image.Image) -> Image.Image:
    try:
        picture.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"damaged picture ({error})") from error
    return picture


def on_white(picture: Image.Image) -> Image.Image:
    """The picture as RGB; where it was transparent it shows white."""
    if picture.mode in ("RGBA", "LA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def decode_image(content: bytes) -> np.ndarray:
    """Colour picture as uint8 3,H,W; ValueError if it is none."""
    return np.ascontiguousarray(np.array(on_white(_loaded(open_picture(content)))).transpose(2, 0, 1))


def decode_class_ids(content: bytes) -> np.ndarray:
    """Class ids as uint8 H,W; palette pictures keep their indices. ValueError if there is more than one channel."""
    return np.array(_loaded(open_picture(content, CLASS_MODES))).astype(np.uint8)


def decode_edges(content: bytes, resolution: int) -> np.ndarray:
    """Stored form of a drawing with dark lines on white: uint8 H,W, 0 background, high on lines.

    The inverted drawing through a 3x3 box (border mirrored without its edge pixel, rounded), then the nearest pixel up
    and left where the size differs.
    """
    grey = np.array(on_white(_loaded(open_picture(content))).convert("L"))
    padded = np.pad(255 - grey.astype(np.uint16), 1, mode="reflect")
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
    with whole_file(path) as file:
        file.write(encode_png(picture))
