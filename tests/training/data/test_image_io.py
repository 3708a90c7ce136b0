"""Tests of reading image files: orientation, color profiles, bits, sizes, metadata, formats."""

import io
import zlib

import numpy as np
import pytest
from image_files import (
    LINEAR_GRAY,
    SRGB,
    SWAPPED,
    encode,
    palette_image,
    png_16,
    png_header,
    with_chunk,
    with_text,
)
from PIL import Image, ImageOps

from training.data import image_io
from training.data.image_io import decode_class_map, decode_edges, decode_image, decode_rgb, open_image

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 10, 3), np.uint8)
GRAY = RNG.integers(0, 256, (6, 10), np.uint8)
SMOOTH = np.linspace(0, 255, 16 * 24 * 3).reshape(16, 24, 3).astype(np.uint8)


def pixels(content: bytes) -> np.ndarray:
    return np.array(decode_rgb(content)).astype(int)


# --------------------------------------------------------------------------- orientation

TURNING = {
    "png": lambda turn: encode(RGB, exif=turn),
    "jpeg": lambda turn: encode(RGB, "jpeg", exif=turn),
    "webp": lambda turn: encode(RGB, "webp", lossless=True, exif=turn),
    "tiff": lambda turn: encode(RGB, "tiff", exif=turn),
    "palette": lambda turn: encode(palette_image(GRAY % 4, RGB[0, :4]), exif=turn),
    "gray with one transparent level": lambda turn: encode(GRAY, exif=turn, transparency=7),
}


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("form", TURNING)
def test_images_are_turned_upright_as_pil_does(form, turn):
    content = TURNING[form](turn)
    shown = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert decode_rgb(content).size == shown.size == ((10, 6) if turn < 5 else (6, 10))
    if "transparent" not in form:
        assert np.array_equal(pixels(content), np.array(shown.convert("RGB")))


def test_orientation_6_moves_the_left_side_to_the_top():
    left = np.zeros((4, 4), np.uint8)
    left[:, 0] = 255
    content = encode(left, exif=6)
    assert np.array_equal(pixels(content)[..., 0], left.T)
    assert np.array_equal(np.array(decode_class_map(content)), left.T)
    assert np.array_equal(decode_image(content)[0], left.T)
    assert np.array_equal(decode_edges(content, 4), decode_edges(encode(left.T.copy()), 4))


@pytest.mark.parametrize("turn", [0, 1, 9, 255, 65535])
def test_unknown_orientations_turn_nothing(turn):
    assert np.array_equal(pixels(encode(RGB, exif=turn)), RGB)
    assert not image_io.has_exif_rotation(open_image(encode(RGB, exif=turn)))


@pytest.mark.parametrize("damage", [b"", b"MM", b"hello", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff"])
def test_damaged_exif_turns_nothing_and_warns_of_nothing(damage, recwarn):
    content = with_chunk(encode(RGB), b"eXIf", damage)
    assert np.array_equal(pixels(content), RGB)
    assert not recwarn.list


def test_orientation_behind_the_pixels_is_found():
    exif = encode(RGB, exif=6)
    start = exif.index(b"eXIf") + 4
    content = with_chunk(encode(RGB), b"eXIf", exif[start : exif.index(b"IDAT") - 8], before=b"IEND")
    assert np.array_equal(pixels(content), np.rot90(RGB, -1))
    assert image_io.has_exif_rotation(open_image(content))


# --------------------------------------------------------------------------- color profiles

PROFILED = {
    "png": lambda profile: encode(RGB, icc_profile=profile),
    "webp": lambda profile: encode(RGB, "webp", lossless=True, icc_profile=profile),
    "tiff": lambda profile: encode(RGB, "tiff", icc_profile=profile),
    "png with alpha": lambda profile: encode(
        np.dstack([RGB, np.full(RGB.shape[:2], 255, np.uint8)]), icc_profile=profile
    ),
    "palette": lambda profile: encode(
        palette_image(np.arange(60, dtype=np.uint8).reshape(6, 10), RGB.reshape(-1, 3)), icc_profile=profile
    ),
    "16 bits": lambda profile: with_chunk(
        png_16(RGB.astype(np.uint16) * 257), b"iCCP", b"p\0\0" + zlib.compress(profile), before=b"IDAT"
    ),
}


@pytest.mark.parametrize("form", PROFILED)
def test_colors_are_converted_to_srgb(form):
    converted = pixels(PROFILED[form](SWAPPED))
    assert np.abs(converted - RGB[..., ::-1].astype(int)).max() <= 1  # its red is the blue of sRGB
    assert np.array_equal(pixels(PROFILED[form](SRGB)), RGB)


def test_jpeg_is_converted_to_srgb():
    plain, swapped = (pixels(encode(SMOOTH, "jpeg", quality=95, icc_profile=p)) for p in (SRGB, SWAPPED))
    assert np.abs(swapped - plain[..., ::-1]).max() <= 1
    assert np.array_equal(plain, pixels(encode(SMOOTH, "jpeg", quality=95)))


def test_half_of_the_light_is_level_188_in_srgb():
    gray = np.array([[0, 128, 255]], np.uint8)
    for mode in ("L", "LA"):
        content = encode(Image.fromarray(gray).convert(mode), icc_profile=LINEAR_GRAY)
        assert np.array_equal(pixels(content), np.array([[[0] * 3, [188] * 3, [255] * 3]]))


def test_transparent_pixels_are_white_after_the_conversion():
    rgba = np.dstack([RGB, np.full(RGB.shape[:2], 255, np.uint8)])
    rgba[0, :, 3] = 0
    converted = pixels(encode(rgba, icc_profile=SWAPPED))
    assert (converted[0] == 255).all() and np.abs(converted[1:] - RGB[1:, :, ::-1].astype(int)).max() <= 1


@pytest.mark.parametrize("profile", [b"hello", SWAPPED[:200], SWAPPED[:16] + b"CMYK" + SWAPPED[20:], bytes(500)])
def test_profiles_that_cannot_be_used_are_ignored(profile):
    assert np.array_equal(pixels(encode(RGB, icc_profile=profile)), RGB)


def test_profile_of_gray_in_an_image_of_color_is_applied_to_each_channel():
    table = pixels(encode(np.arange(256, dtype=np.uint8)[None], icc_profile=LINEAR_GRAY))[0, :, 0]
    assert np.array_equal(pixels(encode(RGB, icc_profile=LINEAR_GRAY)), table[RGB])


def test_colors_that_stand_for_classes_are_not_converted():
    assert np.array_equal(np.array(decode_class_map(encode(RGB, icc_profile=SWAPPED))), RGB)


# --------------------------------------------------------------------------- bits


def test_color_of_16_bits_keeps_the_upper_8():
    levels = RNG.integers(0, 65536, (5, 7, 4), np.uint16)
    levels[..., 3] = 65535
    assert np.array_equal(pixels(png_16(levels)), levels[..., :3] >> 8)
    assert np.array_equal(pixels(png_16(levels[..., :3])), levels[..., :3] >> 8)
    gray = png_16(levels[..., 2:])  # with alpha
    assert np.array_equal(pixels(gray)[..., 0], levels[..., 2] >> 8)


@pytest.mark.parametrize("decode", [decode_rgb, decode_class_map])
def test_gray_of_16_bits_is_refused_with_the_mode_to_save_as(decode):
    mode = "RGB" if decode is decode_rgb else "L"
    with pytest.raises(ValueError, match=f"^mode I;16, allowed .*; save it as {mode} with 8 bits$"):
        decode(png_16(np.zeros((4, 4, 1), np.uint16)))


# --------------------------------------------------------------------------- size and metadata


def test_photos_of_108_megapixels_are_opened_and_larger_ones_than_the_limit_are_not():
    assert open_image(png_header(12000, 9000)).size == (12000, 9000)
    assert open_image(png_header(16320, 12240)).size == (16320, 12240)
    with pytest.raises(ValueError, match="too many pixels"):
        open_image(png_header(17000, 17000))
    with pytest.raises(ValueError, match=r"too many pixels \(12000x9000, at most 67 million can be read\)"):
        decode_class_map(png_header(12000, 9000))


@pytest.mark.parametrize("size", [(40, 30), (41, 31)])
@pytest.mark.parametrize("turn", [1, 6])
@pytest.mark.parametrize("form", ["jpeg", "png", "gray", "palette", "transparent"])
def test_large_photos_are_halved(monkeypatch, form, turn, size):
    monkeypatch.setattr(image_io, "MAX_FULL_SIZE_PIXELS", 1000)
    monkeypatch.setattr(image_io, "BAND", 8)
    image = Image.fromarray(SMOOTH).resize(size)
    mode = {"gray": "L", "palette": "P", "transparent": "RGBA"}.get(form, "RGB")
    content = encode(image.convert(mode), "jpeg" if form == "jpeg" else "png", exif=turn)
    halved = decode_rgb(content)
    monkeypatch.undo()
    full = decode_rgb(content)
    assert halved.size == tuple((side + 1) // 2 for side in full.size)
    difference = np.array(full.resize(halved.size, Image.Resampling.BOX)).astype(int) - np.array(halved)
    assert np.abs(difference).mean() < 8  # half a pixel, where a side is odd


@pytest.mark.parametrize("before", [b"IDAT", b"IEND"])
@pytest.mark.parametrize("length", [1000, 2 << 20, 40 << 20])
def test_png_with_long_text_is_read(before, length):
    assert np.array_equal(pixels(with_text(encode(RGB), length, before)), RGB)


@pytest.mark.parametrize("before", [b"IDAT", b"IEND"])
def test_text_beyond_the_limit_is_named(before):
    with pytest.raises(ValueError, match=r"damaged image .*too large"):
        decode_rgb(with_text(encode(RGB), 65 << 20, before))


# --------------------------------------------------------------------------- formats

READ = {
    "webp": encode(SMOOTH, "webp", quality=95),
    "webp, lossless": encode(SMOOTH, "webp", lossless=True),
    "bmp": encode(SMOOTH, "bmp"),
    "gif": encode(SMOOTH, "gif"),
    "tiff": encode(SMOOTH, "tiff"),
    "tiff, lzw": encode(SMOOTH, "tiff", compression="tiff_lzw"),
    "tiff, jpeg": encode(SMOOTH, "tiff", compression="jpeg"),
    "progressive jpeg": encode(SMOOTH, "jpeg", progressive=True, quality=95),
    "mpo": encode(Image.fromarray(SMOOTH), "mpo", save_all=True, append_images=[Image.fromarray(SMOOTH)], quality=95),
}


@pytest.mark.parametrize("form", READ)
def test_photos_are_read_in_many_formats(form):
    assert np.abs(pixels(READ[form]) - SMOOTH).mean() < 8  # GIF has 256 colors


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
REFUSED = {
    "heic": (HEIC, "not a PNG or JPEG image, nor WebP, BMP, GIF or TIFF"),
    "text": (b"hello", "not a PNG or JPEG image"),
    "nothing": (b"", "not a PNG or JPEG image"),
    "cut short": (encode(SMOOTH)[:-40], "damaged image"),
    "cut tiff": (encode(SMOOTH, "tiff")[:-40], "damaged image|not a PNG"),
    "cut webp": (encode(SMOOTH, "webp")[:-40], "damaged image|not a PNG"),
    "cut gif": (encode(SMOOTH, "gif")[:60], "damaged image|not a PNG"),
    "cmyk": (encode(Image.new("CMYK", (8, 8)), "jpeg"), "mode CMYK"),
    "cmyk tiff": (encode(Image.new("CMYK", (8, 8)), "tiff"), "mode CMYK"),
    "floats": (encode(np.zeros((8, 8), np.float32), "tiff"), "mode F"),
    "lab": (encode(Image.new("LAB", (8, 8)), "tiff"), "mode LAB"),
    "an animation": (
        encode(Image.new("L", (8, 8)), "gif", save_all=True, append_images=[Image.new("L", (8, 8), 9)]),
        "more than one image in a GIF file",
    ),
    "an animated webp": (
        encode(Image.new("RGB", (8, 8)), "webp", save_all=True, append_images=[Image.new("RGB", (8, 8), "red")]),
        "more than one image in a WEBP file",
    ),
    "pages": (
        encode(Image.new("L", (8, 8)), "tiff", save_all=True, append_images=[Image.new("L", (8, 8), 9)]),
        "more than one image in a TIFF file",
    ),
}


@pytest.mark.parametrize("decode", [decode_rgb, decode_class_map])
def test_damaged_pixels_of_a_png_are_noticed_by_their_checksum(decode):
    # Not compressed, so that other pixels are no error of the decoder.
    content = bytearray(encode(SMOOTH, compress_level=0))
    decode(bytes(content))
    content[content.index(b"IDAT") + 100] ^= 1
    with pytest.raises(ValueError, match=r"damaged image \(the checksum of IDAT is wrong\)"):
        decode(bytes(content))


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_read_is_refused_with_the_reason(case, recwarn):
    content, reason = REFUSED[case]
    with pytest.raises(ValueError, match=reason) as caught:
        decode_rgb(content)
    assert "\n" not in str(caught.value) and not recwarn.list
