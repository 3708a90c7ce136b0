"""Bytes of image files for tests, which PIL cannot write or only with many arguments."""

import io
import struct
import zlib

import numpy as np
from PIL import ExifTags, Image

# Colorants of sRGB (X, Y, Z for white D50), and the parameters of its curve, in the form of color profiles.
SRGB_COLORANTS = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def encode(pixels, file_format="png", **options) -> bytes:
    """Encode an array or a PIL image; a true `exif` is an orientation."""
    if "exif" in options:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = options["exif"]
        options["exif"] = exif
    file = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(file, file_format, **options)
    return file.getvalue()


def palette_image(indices: np.ndarray, colors) -> Image.Image:
    """Make an indexed image of indices H,W uint8 with colors n,3."""
    image = Image.frombytes("P", indices.shape[::-1], indices.astype(np.uint8).tobytes())
    image.putpalette(np.asarray(colors, np.uint8).tobytes())
    return image


# --------------------------------------------------------------------------- PNG


def png_chunk(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_16(pixels: np.ndarray) -> bytes:
    """Encode uint16 H,W,C as a PNG of 16 bits, C = 1 to 4."""
    height, width, channels = pixels.shape
    color_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)  # 0: no filter
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def png_header(width: int, height: int) -> bytes:
    """Return a PNG of color that declares a size and has no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def with_chunk(png: bytes, kind: bytes, content: bytes, before: bytes = b"IDAT") -> bytes:
    """Insert a chunk into a PNG."""
    place = png.index(before) - 4
    return png[:place] + png_chunk(kind, content) + png[place:]


def with_text(png: bytes, length: int, before: bytes = b"IDAT") -> bytes:
    """Insert compressed text of `length` bytes."""
    return with_chunk(png, b"zTXt", b"Raw\0\0" + zlib.compress(bytes([65]) * length), before)


# --------------------------------------------------------------------------- color profiles


def _fixed(*numbers: float) -> bytes:
    return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)


def color_profile(colorants=SRGB_COLORANTS, curve=SRGB_CURVE) -> bytes:
    """Return a color profile: of RGB with three colorants, or of gray if there are none (ICC.1:2010).

    `curve` are the parameters of sRGB's kind of curve, or one number, a gamma.
    """
    if isinstance(curve, tuple):
        shape = b"para" + bytes(4) + struct.pack(">HH", 3, 0) + _fixed(*curve)
    else:
        shape = b"curv" + bytes(4) + struct.pack(">IH", 1, round(curve * 256)) + bytes(2)
    tags = {b"wtpt": b"XYZ " + bytes(4) + _fixed(0.9642, 1, 0.8249)}
    if colorants:
        tags |= {
            bytes([key]) + b"XYZ": b"XYZ " + bytes(4) + _fixed(*c) for key, c in zip(b"rgb", colorants, strict=True)
        }
        tags |= {bytes([key]) + b"TRC": shape for key in b"rgb"}
    else:
        tags[b"kTRC"] = shape

    # Header of 128 bytes, table of tags, tags.
    table, content = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, tag in tags.items():
        table += struct.pack(">4sII", name, start + len(content), len(tag))
        content += tag
    header = struct.pack(">I4sI4s4s4s", start + len(content), bytes(4), 0x04200000, b"mntr",
                         b"RGB " if colorants else b"GRAY", b"XYZ ")  # fmt: skip
    header += bytes(12) + b"acsp" + bytes(28) + _fixed(0.9642, 1, 0.8249)
    return header.ljust(128, b"\0") + table + content


# Red and blue change places; sRGB; gray in equal steps of light.
SWAPPED = color_profile(SRGB_COLORANTS[::-1])
SRGB = color_profile()
LINEAR_GRAY = color_profile(None, 1.0)
