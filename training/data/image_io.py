"""Decode image files to the arrays of a data set, and encode PNG; whatever reads an image file does it here."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms, PngImagePlugin

from dnnlib.limits import MAX_LABEL_PIXELS, MAX_PHOTO_PIXELS, MAX_PNG_TEXT_BYTES
from dnnlib.util import atomic_write
from training.data.jpeg import check_jpeg
from training.data.png import check_png

# Formats that are read, as PIL names them, and extensions of their file names.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff")

# PIL's names of JPEG. MPO, which phones write, is a JPEG file with a second one behind it; the first is read.
JPEG_FORMATS = ("JPEG", "MPO")

# PIL modes with 8 bits. CMYK and 16-bit gray have no unambiguous conversion; of 16-bit color, PIL keeps the upper bits.
COLOR_MODES = ("RGB", "L", "P", "RGBA", "LA", "1")
CLASS_MODES = ("L", "P", "1")

# Photos with more pixels are read at half their width and height, which bounds the memory: 2 GB at MAX_PHOTO_PIXELS.
MAX_FULL_SIZE_PIXELS = 89_478_485

# Rows that are halved at once, an even number.
BAND = 512

# PIL's own limits, which hold for the whole process: pixels, and bytes of a PNG's text or color profile.
Image.MAX_IMAGE_PIXELS = MAX_PHOTO_PIXELS
PngImagePlugin.MAX_TEXT_CHUNK = MAX_PNG_TEXT_BYTES

# Kinds of TIFF whose numbers PIL returns as they are stored: compressions without loss (PIL's names), and values of
# PhotometricInterpretation (TIFF 6.0: black is zero, RGB, palette).
TIFF_LOSSLESS = ("raw", "packbits", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate")
TIFF_PHOTOMETRIC = (1, 2, 3)

# Factor by which PIL spreads gray values of 2 or 4 bits per pixel over 0..255.
GRAY_SCALES = {2: 85, 4: 17}

# Byte offsets in a PNG file, and its color type gray (PNG specification, IHDR).
PNG_BIT_DEPTH = 24
PNG_COLOR_TYPE = 25
PNG_GRAY = 0

# What turns stored pixels upright, by EXIF orientation. 1 is upright, and other values have no meaning.
EXIF_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Levels by which conversion to sRGB changes colors that are sRGB already: vendors round its profile differently.
SRGB_TOLERANCE = 2

# How browsers convert: white stays white, and black black.
PROFILE_INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
PROFILE_FLAG = ImageCms.Flags.BLACKPOINTCOMPENSATION

# --------------------------------------------------------------------------- opening


@contextmanager
def _decoder_errors() -> Iterator[None]:
    """Turn errors of decoders into ValueErrors, and drop warnings about metadata."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # PIL only warns of images between one and two times its limit of pixels.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"too many pixels ({error})") from error
    except Image.UnidentifiedImageError as error:
        raise ValueError("not a PNG or JPEG image, nor WebP, BMP, GIF or TIFF") from error
    except Exception as error:
        # Decoders raise errors of many kinds on damaged bytes.
        raise ValueError(f"damaged image ({error})") from error


def open_image(content: bytes, modes: tuple[str, ...] = COLOR_MODES) -> Image.Image:
    """Open an image and read only its header.

    Raises:
        ValueError: another format, several images, too many pixels, or a PIL mode that is not in `modes`.
    """
    check_jpeg(content)
    check_png(content)
    with _decoder_errors():
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        is_animated = getattr(image, "is_animated", False)

    # Of PNG and JPEG, the first image is what programs show; decoders of other formats hold the pixels several times.
    if image.format in ("PNG", *JPEG_FORMATS):
        _check_pixels(image, MAX_PHOTO_PIXELS)
    else:
        _check_pixels(image, MAX_LABEL_PIXELS)
        if is_animated:
            raise ValueError(f"more than one image in a {image.format} file; save one of them")
    if image.mode not in modes:
        raise ValueError(f"mode {image.mode}, allowed {', '.join(modes)}; save it as {modes[0]} with 8 bits")
    return image


def _check_pixels(image: Image.Image, limit: int) -> None:
    width, height = image.size
    if width * height > limit:
        raise ValueError(f"too many pixels ({width}x{height}, at most {limit / 1e6:.0f} million can be read)")


def _load(image: Image.Image) -> None:
    """Decode the pixels of an opened image."""
    with _decoder_errors():
        image.load()


def _exif_turn(image: Image.Image) -> Image.Transpose | None:
    """Return what turns an image upright by its EXIF orientation, None if nothing does."""
    # Programs that show images ignore EXIF that they cannot read.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return EXIF_TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:
        return None


def has_exif_rotation(image: Image.Image) -> bool:
    """Return whether the EXIF orientation of an opened image differs from the stored one."""
    return _exif_turn(image) is not None


# --------------------------------------------------------------------------- color images


def decode_rgb(content: bytes) -> Image.Image:
    """Decode a color image to an upright RGB image in sRGB, with transparent pixels on white.

    Images with more than MAX_FULL_SIZE_PIXELS have half their width and height, rounded up.

    Raises:
        ValueError: see `open_image`; or damaged.
    """
    # JPEG decoders can halve the size while they decode.
    image = open_image(content)
    width, height = image.size
    is_large = width * height > MAX_FULL_SIZE_PIXELS
    if is_large:
        image.draft(None, (width // 2, height // 2))
    _load(image)

    # EXIF is read first: it is dropped by conversions.
    turn = _exif_turn(image)
    image = _to_rgb_or_rgba(image)
    if is_large and image.size == (width, height):
        image = _halve(image)
    if turn is not None:
        image = image.transpose(turn)
    return _on_white(_to_srgb(image))


def to_rgb_on_white(image: Image.Image) -> Image.Image:
    """Convert a decoded image of any mode to RGB, with transparent pixels on white."""
    return _on_white(_to_rgb_or_rgba(image))


def decode_image(content: bytes) -> np.ndarray:
    """Decode a color image to uint8 3,H,W, otherwise as `decode_rgb`."""
    return np.ascontiguousarray(np.array(decode_rgb(content)).transpose(2, 0, 1))


def _to_rgb_or_rgba(image: Image.Image) -> Image.Image:
    # Gray, RGB and palette images can have one transparent color or index instead of an alpha channel.
    is_transparent = image.mode in ("RGBA", "LA") or "transparency" in image.info
    mode = "RGBA" if is_transparent else "RGB"

    # PIL copies also an image that has the mode already.
    return image if image.mode == mode else image.convert(mode)


def _halve(image: Image.Image) -> Image.Image:
    """Average squares of 2x2 pixels of RGB or RGBA."""
    # In bands, as PIL copies an image with alpha to reduce it.
    width, height = image.size
    halved = Image.new(image.mode, ((width + 1) // 2, (height + 1) // 2))
    for top in range(0, height, BAND):
        band = image.crop((0, top, width, min(top + BAND, height)))
        halved.paste(band.reduce(2), (0, top // 2))
    return halved


def _on_white(image: Image.Image) -> Image.Image:
    """Composite RGBA on white; RGB stays."""
    if image.mode == "RGB":
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _to_srgb(image: Image.Image) -> Image.Image:
    """Convert RGB or RGBA from its color profile to sRGB, in place if possible."""
    profile = image.info.get("icc_profile")
    convert = _profile_to_srgb(profile, image.mode) if isinstance(profile, bytes) else None
    return image if convert is None else convert(image)


@lru_cache(maxsize=4)
def _profile_to_srgb(profile: bytes, mode: str) -> Callable[[Image.Image], Image.Image] | None:
    """Return a function that converts images of a mode, RGB or RGBA, from a color profile to sRGB.

    None for profiles of sRGB itself, and for those that are damaged or made for other images (CMYK, printers), which
    programs that show images ignore too.
    """
    # All levels of gray, or colors at equal distances.
    levels = np.arange(256, dtype=np.uint8)[None]
    cube = np.stack(np.meshgrid(*[levels[0, ::51]] * 3), -1).reshape(1, -1, 3)
    try:
        source = ImageCms.getOpenProfile(io.BytesIO(profile))
        is_gray = source.profile.xcolor_space.strip() == "GRAY"
        modes = ("L", "RGB") if is_gray else (mode, mode)
        transform = ImageCms.buildTransform(
            source, ImageCms.createProfile("sRGB"), *modes, PROFILE_INTENT, PROFILE_FLAG
        )
        chart = Image.fromarray(levels if is_gray else cube).convert(modes[0])
        shown = np.array(ImageCms.applyTransform(chart, transform))
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None

    # A profile that changes no color is sRGB, whatever its name.
    if np.abs(shown.astype(int) - np.array(chart.convert(modes[1]))).max() <= SRGB_TOLERANCE:
        return None

    # Gray images have three equal channels here, which are converted by a table of all levels; alpha stays.
    if is_gray:
        tables = [*shown[0, :, 0].tolist()] * 3 + ([*range(256)] if mode == "RGBA" else [])
        return lambda image: image.point(tables)

    def convert(image: Image.Image) -> Image.Image:
        ImageCms.applyTransform(image, transform, inPlace=True)
        return image

    return convert


def decode_edges(content: bytes, resolution: int) -> np.ndarray:
    """Decode a drawing of dark lines on white to its stored form, see `to_stored_edges`.

    Raises:
        ValueError: not square, or see `decode_rgb`.
    """
    return to_stored_edges(decode_rgb(content), resolution)


def to_stored_edges(drawing: Image.Image, resolution: int) -> np.ndarray:
    """Convert a drawing of dark lines on white to its stored form: uint8 R,R, 0 background, 255 line.

    The inverted drawing is blurred by a 3x3 box (border mirrored without its edge pixel, rounded) and resized by
    `resize_nearest`, as in the published data sets.

    Raises:
        ValueError: not square.
    """
    gray = np.array(drawing.convert("L"))  # H,W
    height, width = gray.shape
    if height != width:
        raise ValueError(f"{width}x{height} pixels, drawings must be square (dataset_tool.py pack)")

    # Box blur in integers: sums of three rows, then of three columns. Adding 4 before the division by 9 rounds.
    padded = np.pad(255 - gray.astype(np.uint16), 1, mode="reflect")  # H+2,W+2
    rows = padded[:-2] + padded[1:-1] + padded[2:]  # H,W+2
    stored = ((rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4) // 9).astype(np.uint8)  # H,W
    return resize_nearest(stored, resolution)


# --------------------------------------------------------------------------- class maps


def decode_class_map(content: bytes) -> Image.Image:
    """Decode an image of classes with the numbers that are stored, upright.

    Returns:
        Modes L, P and 1: one channel of gray values with 1, 2, 4 or 8 bits, or of palette indices. Mode RGB: colors,
        with transparent pixels on white; not converted to sRGB, because they stand for classes.
    Raises:
        ValueError: compressed with loss, as in JPEG; see `open_image`; or damaged.
    """
    # Modes start with the one to save as.
    image = open_image(content, (*CLASS_MODES, *(mode for mode in COLOR_MODES if mode not in CLASS_MODES)))
    _check_pixels(image, MAX_LABEL_PIXELS)
    inexact = _inexact_format(image, content)
    if inexact:
        raise ValueError(f"{inexact} changes class ids; save the label map as PNG")
    _load(image)
    _check_unchanged(image, content)
    turn = _exif_turn(image)

    # GIF stores colors: programs reorder the indices of its palette.
    if image.mode not in CLASS_MODES or image.format == "GIF":
        image = to_rgb_on_white(image)

    # PIL returns 1-bit gray as 0 and 1, but spreads 2 and 4 bits; palette indices are never changed.
    elif image.format == "PNG" and content[PNG_COLOR_TYPE] == PNG_GRAY and content[PNG_BIT_DEPTH] in GRAY_SCALES:
        scale = GRAY_SCALES[content[PNG_BIT_DEPTH]]
        image = image.point([value // scale for value in range(256)])
    return image if turn is None else image.transpose(turn)


def _check_unchanged(image: Image.Image, content: bytes) -> None:
    """Raise ValueError if the numbers of a decoded class map would change on their way to 8 bits without alpha."""
    # On white, a color that is partly transparent becomes another one, and id 3 may become 4.
    if image.mode in ("LA", "RGBA") and any(image.getchannel("A").histogram()[1:255]):
        raise ValueError("partly transparent pixels, whose class is unclear; save the label map without transparency")

    # Of 16 bits, PIL keeps the upper 8, which are 0 for small numbers.
    is_deep = image.format == "PNG" and content[PNG_BIT_DEPTH] == 16
    if is_deep and all(high == 0 for _, high in image.convert("RGB").getextrema()):
        raise ValueError("numbers below 256 in channels of 16 bits; save class ids as one channel of 8 bits (L)")


def _inexact_format(image: Image.Image, content: bytes) -> str:
    """Return the name of a format that does not keep the numbers of an opened image, "" if it keeps them."""
    if image.format in JPEG_FORMATS:
        return "JPEG"
    if image.format == "WEBP" and not _is_lossless_webp(content):
        return "WebP with loss"
    if image.format == "TIFF":
        tags = image.tag_v2
        bits = tags.get(ExifTags.Base.BitsPerSample, (1,))
        is_plain = tags.get(ExifTags.Base.PhotometricInterpretation) in TIFF_PHOTOMETRIC and set(bits) <= {1, 8}
        if not is_plain or image.info.get("compression") not in TIFF_LOSSLESS:
            return "this kind of TIFF"
    return ""


def _is_lossless_webp(content: bytes) -> bool:
    # The pixels are in the first chunk of either name (RIFF: name, size, content padded to even).
    position = 12
    while position + 8 <= len(content):
        name = content[position : position + 4]
        if name in (b"VP8 ", b"VP8L"):
            return name == b"VP8L"
        size = int.from_bytes(content[position + 4 : position + 8], "little")
        position += 8 + size + size % 2
    return False


# --------------------------------------------------------------------------- resizing and encoding


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
