"""Decode pictures of odd encoders, and damaged ones, as photos and as label maps; report each that is wrong.

    PYTHONPATH=.:tests python tests/fuzz/pictures.py [--number 200] [--seed 0] [--all]

The pixels of each picture are known from its construction. It passes if it is refused with one line, or if a label map
gives exactly its class ids, and a photo its colors up to the loss of its encoder. A damaged picture passes if it is
refused, or if it gives the pixels of the intact one; of formats without checksums, if it is decoded without an error.
None may take more than 30 s of processor time or 2 GB.
"""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from random import Random

import numpy as np
from harness import Case, arguments, judge, refusal
from image_files import SRGB, SWAPPED, encode, palette_image, png_chunk
from PIL import Image

from training.data.image_io import decode_rgb
from training.data.label_maps import PALETTE, colorize, decode_class_ids

CLASSES = 6
SIGNATURE = b"\x89PNG\r\n\x1a\n"
# First row, first column, steps of the seven passes of interlaced PNGs (PNG specification, 8.2).
PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# Mean difference of levels by lossy encoders, of smooth pictures.
LOSS = 12
CHECKED = (SIGNATURE,)  # beginnings of formats with checksums

# Content, pixels that it shows (ids H,W or colors H,W,3; None if unknown), largest mean difference.
Picture = tuple[str, bytes, np.ndarray | None, float]


def ids_of(rng: Random) -> np.ndarray:
    """Return class ids of an odd shape."""
    height, width = rng.choice(((1, 1), (7, 5), (8, 8), (33, 17), (64, 64)))
    return np.random.default_rng(rng.randrange(1 << 30)).integers(0, CLASSES, (height, width), np.uint8)


def colors_of(rng: Random) -> np.ndarray:
    """Return a smooth picture H,W,3."""
    height, width = rng.choice(((8, 8), (33, 17), (64, 48)))
    y, x = np.mgrid[:height, :width]
    phase = rng.random()
    return np.stack([128 + 100 * np.sin(x / 9 + phase), 128 + 100 * np.cos(y / 7), 60 + 2 * x + phase], -1).astype(
        np.uint8
    )


# --------------------------------------------------------------------------- PNG


def scanlines(samples: np.ndarray, bits: int, rng: Random) -> bytes:
    """Pack samples H,W,C into filtered rows of a PNG."""
    height, width, channels = samples.shape
    if not height or not width:
        return b""
    if bits == 16:
        rows = samples.astype(">u2").reshape(height, -1).view(np.uint8)
    else:
        places = np.unpackbits(samples.astype(np.uint8)[..., None], axis=3)[..., -bits:]
        rows = np.packbits(places.reshape(height, -1), axis=1)

    # Filters none, sub and up.
    step = max(1, bits * channels // 8)
    content = []
    above = np.zeros(rows.shape[1], np.uint8)
    for row in rows:
        kind = rng.choice((0, 1, 2))
        left = np.concatenate([np.zeros(step, np.uint8), row[:-step]])
        content.append(bytes([kind]) + (row - {0: np.uint8(0), 1: left, 2: above}[kind]).astype(np.uint8).tobytes())
        above = row
    return b"".join(content)


def png(samples: np.ndarray, bits: int, color_type: int, rng: Random, before: list[bytes]) -> bytes:
    """Encode samples H,W,C with any bit depth and color type, interlaced or not, with several IDAT chunks or one."""
    height, width, _ = samples.shape
    interlaced = rng.random() < 0.4
    parts = [samples[y::dy, x::dx] for y, x, dy, dx in PASSES] if interlaced else [samples]
    data = zlib.compress(b"".join(scanlines(part, bits, rng) for part in parts), rng.choice((0, 1, 9)))
    cut = rng.randrange(len(data)) if rng.random() < 0.5 else len(data)
    pieces = [data[:cut], data[cut:]] if cut < len(data) else [data]
    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, int(interlaced))
    chunks = [png_chunk(b"IHDR", header), *before, *(png_chunk(b"IDAT", piece) for piece in pieces)]
    return SIGNATURE + b"".join(chunks) + png_chunk(b"IEND")


def odd_chunks(rng: Random) -> list[bytes]:
    """Return chunks that change no pixel, some of them damaged inside."""
    known = [
        png_chunk(b"tEXt", b"Comment\0x"), png_chunk(b"zTXt", b"Raw\0\0" + zlib.compress(b"A" * 100_000)),
        png_chunk(b"pHYs", struct.pack(">IIB", 1, 1, 0)), png_chunk(b"tIME", bytes(7)), png_chunk(b"prVt", b"private"),
        png_chunk(b"eXIf", b"MM\0*junk"), png_chunk(b"iTXt", b"XML\0\0\0\0\0<x>"), png_chunk(b"iCCP", b"x\0\0junk"),
    ]  # fmt: skip
    return rng.sample(known, rng.randrange(3))


def label_png(rng: Random) -> Picture:
    """A PNG of class ids, in a random form."""
    ids = ids_of(rng)
    before = odd_chunks(rng)
    form = rng.choice(
        ("gray", "palette", "palette", "colors", "gray with alpha", "colors of 16 bits", "three channels")
    )
    if form == "gray":
        bits = rng.choice((4, 8, 16))
        return f"ids, gray of {bits} bits", png(ids[..., None], bits, 0, rng, before), ids, 0
    if form == "palette":
        # Stored numbers, or the colors of the classes in another order.
        order = list(range(CLASSES))
        is_reordered = rng.random() < 0.5
        if is_reordered:
            rng.shuffle(order)
        numbers = np.array(order, np.uint8)[ids]
        colors = PALETTE[np.argsort(order)] if is_reordered else np.arange(3 * CLASSES, dtype=np.uint8).reshape(-1, 3)
        before.append(png_chunk(b"PLTE", colors.astype(np.uint8).tobytes()))
        if rng.random() < 0.3:
            before.append(png_chunk(b"tRNS", b"\xff" * CLASSES))
        bits = rng.choice((4, 8))
        return f"ids, palette of {bits} bits {order}", png(numbers[..., None], bits, 3, rng, before), ids, 0
    if form == "colors":
        return "ids, colors", png(colorize(ids), 8, 2, rng, before), ids, 0
    if form == "colors of 16 bits":
        return "ids, colors of 16 bits", png(colorize(ids).astype(np.uint16) * 257, 16, 2, rng, before), ids, 0
    if form == "gray with alpha":
        bits = rng.choice((8, 16))
        alpha = np.full(ids.shape, (1 << bits) - 1 - rng.choice((0, 0, 1)))
        return f"ids, gray with alpha of {bits}", png(np.dstack([ids, alpha]), bits, 4, rng, before), ids, 0
    bits = rng.choice((8, 16))
    return f"ids, three channels of {bits} bits", png(np.dstack([ids] * 3), bits, 2, rng, before), ids, 0


def photo_png(rng: Random) -> Picture:
    """A PNG of colors, in a random form."""
    colors = colors_of(rng)
    bits = rng.choice((8, 16))
    scale = 257 if bits == 16 else 1
    samples = colors.astype(np.uint16) * scale
    before = odd_chunks(rng)
    form = rng.choice(("colors", "alpha", "gray", "palette"))
    if form == "alpha":
        opaque = np.full(colors.shape[:2], 255 * scale)
        return f"photo, alpha of {bits} bits", png(np.dstack([samples, opaque]), bits, 6, rng, before), colors, 0
    if form == "gray":
        gray = colors[..., :1]
        return (
            f"photo, gray of {bits} bits",
            png(gray.astype(np.uint16) * scale, bits, 0, rng, before),
            gray.repeat(3, 2),
            0,
        )
    if form == "palette":
        numbers = colors[..., 0] // 16
        table = np.arange(48, dtype=np.uint8).reshape(16, 3) * 5
        before.append(png_chunk(b"PLTE", table.tobytes()))
        return "photo, palette of 4 bits", png(numbers[..., None], 4, 3, rng, before), table[numbers], 0
    return f"photo, colors of {bits} bits", png(samples, bits, 2, rng, before), colors, 0


# --------------------------------------------------------------------------- other formats


def photo_file(rng: Random) -> Picture:
    """A photo as other encoders write it."""
    colors = colors_of(rng)
    turn = rng.choice((None, 1, 3, 6, 8, 0, 9))
    shown = {3: colors[::-1, ::-1], 6: np.rot90(colors, -1), 8: np.rot90(colors)}.get(turn, colors)
    options = {} if turn is None else {"exif": turn}
    if rng.random() < 0.3:
        options["icc_profile"] = rng.choice((SRGB, SWAPPED, b"junk"))
        shown = shown[..., ::-1] if options["icc_profile"] == SWAPPED else shown
    form = rng.choice(("jpeg", "jpeg", "jpeg", "webp", "tiff", "bmp", "gif", "mpo"))
    if form == "jpeg":
        options |= {"quality": 95, "progressive": rng.random() < 0.5, "subsampling": rng.choice((0, 1, 2))}
        options |= rng.choice(({}, {"restart_marker_rows": 1}, {"optimize": True}, {"comment": b"\xff\xda" * 9}))
    if form == "webp":
        options |= {"lossless": True} if rng.random() < 0.5 else {"quality": 95}
    if form == "tiff":
        options["compression"] = rng.choice(("raw", "tiff_lzw", "packbits", "tiff_adobe_deflate", "jpeg"))
        if turn in (0, 9):  # libtiff writes no such orientation
            del options["exif"]
    if form in ("bmp", "gif"):
        options, shown = {}, colors
    if form == "mpo":
        options = {"save_all": True, "append_images": [Image.fromarray(colors[::-1].copy())], "quality": 95}
        shown = colors
    return f"photo, {form} {options!r:.60}", encode(colors, form, **options), shown, 3 * LOSS if form == "gif" else LOSS


def label_file(rng: Random) -> Picture:
    """A label map as other encoders write it."""
    ids = ids_of(rng)
    pixels, name = rng.choice(((ids, "gray"), (colorize(ids), "colors"), (palette_image(ids, PALETTE), "palette")))
    form = rng.choice(("bmp", "gif", "tiff", "webp", "jpeg", "mpo"))
    options = {}
    if form == "tiff":
        options["compression"] = rng.choice(("raw", "tiff_lzw", "packbits", "tiff_adobe_deflate", "jpeg"))
        pixels = pixels if options["compression"] != "jpeg" or name != "palette" else colorize(ids)
    if form == "webp":
        options["lossless"] = rng.random() < 0.7
    if form == "mpo":
        options = {"save_all": True, "append_images": [Image.fromarray(ids)]}
    if form in ("jpeg", "mpo", "webp") and name == "palette":
        pixels = colorize(ids)
    return f"ids, {form} of {name} {options!r:.40}", encode(pixels, form, **options), ids, 0


# --------------------------------------------------------------------------- damage and hostile headers


def damaged(picture: Picture, rng: Random) -> Picture:
    """Cut a picture, change bits, or remove, repeat or insert a part."""
    name, content, shown, tolerance = picture
    data = bytearray(content)
    place = rng.randrange(8, max(9, len(data)))
    kind = rng.choice(("cut", "bit", "bit", "bit", "byte", "removed", "inserted", "repeated"))
    if kind == "cut":
        del data[place:]
    elif kind == "bit":
        data[place % len(data)] ^= 1 << rng.randrange(8)
    elif kind == "byte":
        data[place % len(data)] = rng.randrange(256)
    elif kind == "removed":
        del data[place : place + rng.choice((1, 4, 64))]
    else:
        data[place:place] = data[place : place + 16] if kind == "repeated" else rng.randbytes(4)

    # Without checksums, other pixels cannot be told from the right ones.
    is_checked = content.startswith(CHECKED)
    return f"{name}; {kind} at {place}", bytes(data), shown if is_checked else None, tolerance


def huge(rng: Random) -> Picture:
    """A small file that declares huge sizes, or would take long."""
    width, height = rng.choice(((1 << 31 - 1, 1), (65_535, 65_535), (1 << 30, 1 << 30), (0, 5), (20_000, 20_000)))
    form = rng.choice(("png", "gif", "bmp", "tiff", "jpeg", "text"))
    if form == "png":
        content = bytearray(png(np.zeros((4, 4, 1), np.uint8), 8, 0, rng, []))
        content[16:33] = struct.pack(">II", width & 0x7FFFFFFF, height & 0x7FFFFFFF) + content[24:33]
        content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    elif form == "gif":
        content = bytearray(encode(np.zeros((4, 4), np.uint8), "gif"))
        content[6:10] = struct.pack("<HH", width & 0xFFFF, height & 0xFFFF)
    elif form == "bmp":
        content = bytearray(encode(np.zeros((4, 4), np.uint8), "bmp"))
        content[18:26] = struct.pack("<ii", width & 0x7FFFFFFF, height & 0x7FFFFFFF)
    elif form == "tiff":
        content = bytearray(encode(np.zeros((4, 4), np.uint8), "tiff"))
        place = rng.randrange(8, len(content) - 4)
        content[place : place + 4] = struct.pack("<I", width & 0xFFFFFFFF)
    elif form == "jpeg":
        content = bytearray(encode(np.zeros((8, 8), np.uint8), "jpeg"))
        place = content.index(b"\xff\xc0")
        content[place + 5 : place + 9] = struct.pack(">HH", height & 0xFFFF, width & 0xFFFF)
    else:
        text = png_chunk(b"zTXt", b"Raw\0\0" + zlib.compress(bytes(200_000_000), 1))
        content = bytearray(png(np.zeros((4, 4, 1), np.uint8), 8, 0, rng, [text]))
    return f"{form} of {width}x{height}", bytes(content), None, 0


# --------------------------------------------------------------------------- verdicts


def verdict(content: bytes, shown: np.ndarray | None, tolerance: float, as_ids: bool) -> str:
    """Decode a picture and compare it with what it shows."""
    try:
        decoded = decode_class_ids(content) if as_ids else np.array(decode_rgb(content))
    except ValueError as error:
        return refusal(error)
    if shown is None:
        return "decoded"
    if decoded.shape != shown.shape:
        return f"WRONG: shape {decoded.shape}, expected {shown.shape}"
    difference = np.abs(decoded.astype(int) - shown).mean()
    return "same" if difference <= tolerance else f"WRONG: other pixels, mean difference {difference:.1f}"


def cases(number: int, rng: Random) -> Iterator[Case]:
    """Yield pictures of all kinds, a third of them damaged."""
    makers: list[tuple[Callable[[Random], Picture], bool]] = [
        (label_png, True), (photo_png, False), (photo_file, False), (label_file, True)
    ]  # fmt: skip
    for count in range(number):
        if count % 10 == 0:
            picture, as_ids = huge(rng), rng.random() < 0.5
        else:
            make, as_ids = makers[count % len(makers)]
            picture = make(rng)
            if count % 3 == 0:
                picture = damaged(picture, rng)
        name, content, shown, tolerance = picture
        yield name, lambda c=content, s=shown, t=tolerance, a=as_ids: verdict(c, s, t, a)


if __name__ == "__main__":
    options = arguments(__doc__, 200)
    sys.exit(not judge(cases(options.number, Random(options.seed)), options.all))
