"""Decode PNG and JPEG files to the arrays of a data set, and encode PNG."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from dnnlib.util import atomic_write

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg")

# PIL modes with 8 bits. CMYK and 16 bits have no unambiguous conversion to RGB.
COLOR_MODES = ("RGB", "L", "P", "RGBA", "LA", "1")
CLASS_MODES = ("L", "P", "1")

# Factor by which PIL spreads gray values of 2 or 4 bits per pixel over 0..255.
GRAY_SCALES = {2: 85, 4: 17}

# Byte offsets in a PNG file, and its color type gray (PNG specification, IHDR).
PNG_BIT_DEPTH = 24
PNG_COLOR_TYPE = 25
PNG_GRAY = 0

# Orientation of pixels that need no rotation.
EXIF_UPRIGHT = 1


def open_image(content: bytes, modes: tuple[str, ...] = COLOR_MODES) -> Image.Image:
    """Open an image and read only its header.

    Raises:
        ValueError: not a PNG or JPEG, too many pixels, or a PIL mode that is not in `modes`.
    """
    # PIL only warns about images between one and two times its limit of pixels, which are an attack or a mistake too.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=("PNG", "JPEG"))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"too many pixels ({error})") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError("not a PNG or JPEG image") from error
    if image.mode not in modes:
        raise ValueError(f"mode {image.mode}, allowed {', '.join(modes)}; save it as {modes[0]} with 8 bits")
    return image


def open_class_map(content: bytes, modes: tuple[str, ...] = CLASS_MODES) -> Image.Image:
    """Open an image of class ids like `open_image`, but reject JPEG, whose compression changes ids."""
    image = open_image(content, modes)
    if image.format == "JPEG":
        raise ValueError("JPEG changes class ids; save the label map as PNG")
    return image


def _load(image: Image.Image, apply_exif: bool = False) -> Image.Image:
    """Decode the pixels, and rotate them by the EXIF orientation if `apply_exif`."""
    try:
        image.load()
        return ImageOps.exif_transpose(image) if apply_exif else image
    except Exception as error:
        # Decoders and EXIF readers raise errors of many kinds on damaged bytes.
        raise ValueError(f"damaged image ({error})") from error


def has_exif_rotation(image: Image.Image) -> bool:
    """Return whether the EXIF orientation differs from the stored one; ValueError if EXIF is damaged."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, EXIF_UPRIGHT) != EXIF_UPRIGHT
    except Exception as error:
        raise ValueError(f"damaged EXIF ({error})") from error


def _to_rgb_on_white(image: Image.Image) -> Image.Image:
    """Convert to RGB and composite transparent pixels on white."""
    # Gray, RGB and palette images can have one transparent color or index instead of an alpha channel.
    if image.mode in ("RGBA", "LA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def decode_image(content: bytes, apply_exif: bool = False) -> np.ndarray:
    """Decode a color image to uint8 3,H,W, rotated by its EXIF orientation if `apply_exif`.

    Raises:
        ValueError: see `open_image`; or damaged.
    """
    image = _to_rgb_on_white(_load(open_image(content), apply_exif))
    return np.ascontiguousarray(np.array(image).transpose(2, 0, 1))


def decode_class_ids(content: bytes, apply_exif: bool = False) -> np.ndarray:
    """Decode class ids to uint8 H,W: palette indices, or the stored values of gray with 1, 2, 4 or 8 bits.

    Raises:
        ValueError: more than one channel, JPEG, or damaged.
    """
    ids = np.array(_load(open_class_map(content), apply_exif)).astype(np.uint8)

    # PIL returns 1-bit gray as 0 and 1, but spreads 2 and 4 bits; palette indices are never changed.
    if content[PNG_COLOR_TYPE] == PNG_GRAY:
        ids //= GRAY_SCALES.get(content[PNG_BIT_DEPTH], 1)
    return ids


def decode_edges(content: bytes, resolution: int) -> np.ndarray:
    """Decode a drawing of dark lines on white to its stored form: uint8 R,R, 0 background, 255 line.

    The inverted drawing is blurred by a 3x3 box (border mirrored without its edge pixel, rounded) and resized by
    `resize_nearest`, as in the published data sets.

    Raises:
        ValueError: not square, or see `decode_image`.
    """
    gray = np.array(_to_rgb_on_white(_load(open_image(content))).convert("L"))  # H,W
    height, width = gray.shape
    if height != width:
        raise ValueError(f"{width}x{height} pixels, drawings must be square (dataset_tool.py pack)")

    # Box blur in integers: sums of three rows, then of three columns. Adding 4 before the division by 9 rounds.
    padded = np.pad(255 - gray.astype(np.uint16), 1, mode="reflect")  # H+2,W+2
    rows = padded[:-2] + padded[1:-1] + padded[2:]  # H,W+2
    stored = ((rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4) // 9).astype(np.uint8)  # H,W
    return resize_nearest(stored, resolution)


def resize_nearest(pixels: np.ndarray, resolution: int) -> np.ndarray:
    """Resize H,W to R,R without blending; output pixel i is input pixel floor(i * size / resolution)."""
    height, width = pixels.shape
    # Integer arithmetic: PIL's nearest neighbor takes pixel centers, which gives other pixels.
    rows = np.arange(resolution) * height // resolution
    columns = np.arange(resolution) * width // resolution
    return pixels[np.ix_(rows, columns)]


def encode_png(pixels: np.ndarray) -> bytes:
    """Encode uint8 H,W or H,W,3, or uint16 H,W."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png", compress_level=6)
    return file.getvalue()


def write_png(path: str | os.PathLike[str], pixels: np.ndarray) -> None:
    """Write uint8 H,W or H,W,3 atomically, and create missing directories."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(encode_png(pixels))
