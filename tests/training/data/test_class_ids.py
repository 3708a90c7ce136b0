"""Tests of what the numbers and colors of label maps mean: modes, palettes, tables, formats, shapes."""

import json

import numpy as np
import pytest
import torch
from image_files import SWAPPED, encode, palette_image, png_16
from PIL import Image
from small_data import gray_png

from training.data.archive import DataError
from training.data.class_tables import read_class_table
from training.data.image_io import decode_rgb
from training.data.label_maps import (
    MAX_GRAY_IDS,
    PALETTE,
    LabelMapOptions,
    check_drawing,
    colorize,
    decode_class_ids,
    decode_label_map,
)

IDS = (np.arange(48) % 6).reshape(6, 8).astype(np.uint8)
MASK = (IDS > 2).astype(np.uint8)
VOID = np.where(IDS == 5, 255, IDS).astype(np.uint8)
WITHOUT_5 = np.where(IDS == 5, 0, IDS)
OTHER_COLORS = np.array([(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128)])
ORDER = np.array([3, 0, 5, 1, 4, 2])  # index of each class in a reordered palette
REORDERED = palette_image(ORDER[IDS], PALETTE[np.argsort(ORDER)])
GRAYS = np.repeat(np.arange(6)[:, None], 3, axis=1)
TWO = np.where(IDS < 3, 2, 5)


def with_alpha(pixels, alpha=255):
    return np.dstack([pixels, np.broadcast_to(np.uint8(alpha), pixels.shape[:2])])


def clear_background():
    """A map of colors whose background is transparent, saved by a program that puts that color first."""
    image = palette_image(np.where(IDS == 0, 0, 6 - IDS), [(0, 0, 0), *PALETTE[5:0:-1]])
    return encode(image, transparency=0)


READ = {  # file -> ids
    "gray": (encode(IDS), IDS),
    "gray of 1 bit": (gray_png(MASK, 1), MASK),
    "gray of 2 bits": (gray_png(IDS % 4, 2), IDS % 4),
    "gray of 4 bits": (gray_png(IDS, 4), IDS),
    "gray with one transparent level": (encode(IDS, transparency=0), IDS),
    "gray with alpha": (encode(with_alpha(IDS)), IDS),
    "gray that is transparent": (encode(with_alpha(IDS, 0)), np.zeros_like(IDS)),
    "ids in three channels": (encode(np.dstack([IDS] * 3)), IDS),
    "ids in four channels": (encode(with_alpha(np.dstack([IDS] * 3))), IDS),
    "colors": (encode(colorize(IDS)), IDS),
    "colors with alpha": (encode(with_alpha(colorize(IDS))), IDS),
    "colors of 16 bits": (png_16(colorize(IDS).astype(np.uint16) * 257), IDS),
    "colors with a profile": (encode(colorize(IDS), icc_profile=SWAPPED), IDS),
    "white alone": (encode(np.full((4, 4, 3), 255, np.uint8)), np.zeros((4, 4))),
    "palette in the order of the classes": (encode(palette_image(IDS, PALETTE)), IDS),
    "palette in another order": (encode(REORDERED), IDS),
    "palette in another order, turned": (encode(REORDERED, exif=6), np.rot90(IDS, -1)),
    "palette with few of the classes": (encode(palette_image(MASK, PALETTE[[4, 11]])), np.where(MASK, 11, 4)),
    "palette with a transparent background": (clear_background(), IDS),
    "palette with two indices of one color": (encode(palette_image(IDS, PALETTE[[0, 1, 2, 2, 1, 0]])),
                                              np.array([0, 1, 2, 2, 1, 0])[IDS]),
    "palette of other colors": (encode(palette_image(IDS, OTHER_COLORS)), IDS),
    "palette with one other color": (encode(palette_image(ORDER[IDS], [*PALETTE[:5], (0, 0, 0)])), ORDER[IDS]),
    "palette of gray": (encode(palette_image(IDS, GRAYS)), IDS),
    "palette of gray in another order": (encode(palette_image(ORDER[IDS], GRAYS[np.argsort(ORDER)])), IDS),
    "palette of black only": (encode(palette_image(np.full((4, 4), 3), np.zeros((6, 3)))), np.full((4, 4), 3)),
    "palette whose other colors are not used": (encode(palette_image(MASK, [*PALETTE[[1, 0]], (9, 8, 7)])), 1 - MASK),
    "bmp, gray": (encode(IDS, "bmp"), IDS),
    "bmp, palette": (encode(palette_image(IDS, OTHER_COLORS), "bmp"), IDS),
    "bmp, colors": (encode(colorize(IDS), "bmp"), IDS),
    "gif, gray": (encode(TWO.astype(np.uint8), "gif"), TWO),
    "gif, colors": (encode(REORDERED, "gif"), IDS),
    "tiff, gray": (encode(IDS, "tiff"), IDS),
    "tiff, gray with lzw": (encode(IDS, "tiff", compression="tiff_lzw"), IDS),
    "tiff, palette": (encode(REORDERED, "tiff", compression="packbits"), IDS),
    "tiff, colors": (encode(colorize(IDS), "tiff", compression="tiff_adobe_deflate"), IDS),
    "tiff, turned": (encode(IDS, "tiff", exif=8), np.rot90(IDS)),
    "webp, colors": (encode(colorize(IDS), "webp", lossless=True), IDS),
    "webp, ids": (encode(np.dstack([IDS] * 3), "webp", lossless=True), IDS),
    "webp, metadata": (encode(colorize(IDS), "webp", lossless=True, icc_profile=SWAPPED, exif=3), IDS[::-1, ::-1]),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
def test_label_maps_mean_what_they_show(case):
    content, expected = READ[case]
    ids = decode_class_ids(content)
    assert ids.dtype == np.uint8 and np.array_equal(ids, expected)


NUMBERS = {"0": 0, "1": 4, "2": 3, "3": 2, "4": 1, "5": 9}
MAPPED = np.array([0, 4, 3, 2, 1, 9])[IDS]
COLOR_NAMES = {f"#{bytes(color.tolist()).hex()}": new for color, new in zip(PALETTE, [0, 4, 3, 2, 1, 9], strict=False)}
OTHER_NAMES = {
    f"#{bytes(color.tolist()).hex()}": new for color, new in zip(OTHER_COLORS, [0, 4, 3, 2, 1, 9], strict=True)
}

OPTIONS = {  # file, options -> ids
    "void, gray": (encode(VOID), {"ignore": 255}, WITHOUT_5),
    "void, three channels": (encode(np.dstack([VOID] * 3)), {"ignore": 255}, WITHOUT_5),
    "void, palette": (
        encode(palette_image(VOID, np.resize(OTHER_COLORS, (256, 3)))), {"ignore": 255}, WITHOUT_5
    ),
    "void, palette in another order": (
        encode(palette_image(np.where(IDS == 5, 255, ORDER[IDS]), np.resize(PALETTE[np.argsort(ORDER)], (256, 3)))),
        {"ignore": 255},
        WITHOUT_5,
    ),
    "void, another number": (encode(IDS), {"ignore": 5}, WITHOUT_5),
    "void that does not occur": (encode(IDS), {"ignore": 255}, IDS),
    "void alone, three channels": (encode(np.full((4, 4, 3), 7, np.uint8)), {"ignore": 7}, np.zeros((4, 4))),
    "void alone": (encode(palette_image(np.full((4, 4), 255), np.zeros((256, 3)))), {"ignore": 255}, np.zeros((4, 4))),
    "numbers, gray": (encode(IDS), {"class_table": NUMBERS}, MAPPED),
    "numbers, three channels": (encode(np.dstack([IDS] * 3)), {"class_table": NUMBERS}, MAPPED),
    "large numbers, three channels": (
        encode(np.dstack([IDS * 40] * 3)),
        {"class_table": {str(40 * int(key)): new for key, new in NUMBERS.items()}},
        MAPPED,
    ),
    "numbers, palette": (encode(palette_image(IDS, OTHER_COLORS)), {"class_table": NUMBERS}, MAPPED),
    "colors": (encode(colorize(IDS)), {"class_table": COLOR_NAMES}, MAPPED),
    "other colors": (encode(OTHER_COLORS[IDS].astype(np.uint8)), {"class_table": OTHER_NAMES}, MAPPED),
    "other colors, palette": (
        encode(palette_image(ORDER[IDS], OTHER_COLORS[np.argsort(ORDER)])), {"class_table": OTHER_NAMES}, MAPPED
    ),
    "other colors, gif": (encode(palette_image(IDS, OTHER_COLORS), "gif"), {"class_table": OTHER_NAMES}, MAPPED),
    "numbers and void": (
        encode(VOID), {"class_table": {**NUMBERS, "5": 7}, "ignore": 255}, np.where(IDS == 5, 0, MAPPED)
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", OPTIONS)
def test_tables_and_void_are_applied_to_any_kind_of_file(case):
    content, options, expected = OPTIONS[case]
    assert np.array_equal(decode_class_ids(content, LabelMapOptions(**options)), expected)


def tiff_with(tag: int, value: int) -> bytes:
    """Return a TIFF of gray with another value of a tag."""
    content = bytearray(encode(IDS, "tiff"))
    place = next(i for i in range(8, len(content), 2) if content[i : i + 2] == tag.to_bytes(2, "little"))
    content[place + 8 : place + 10] = value.to_bytes(2, "little")
    return bytes(content)


REFUSED = {
    "jpeg": (encode(IDS, "jpeg"), {}, "JPEG changes class ids; save the label map as PNG"),
    "jpeg of colors": (encode(colorize(IDS), "jpeg"), {}, "JPEG changes class ids"),
    "jpeg of a phone": (
        encode(Image.fromarray(IDS), "mpo", save_all=True, append_images=[Image.fromarray(IDS)]), {}, "JPEG changes"
    ),
    "webp": (encode(colorize(IDS), "webp", quality=100), {}, "WebP with loss changes class ids"),
    "webp with a profile": (encode(colorize(IDS), "webp", icc_profile=SWAPPED), {}, "WebP with loss changes class ids"),
    "jpeg in tiff": (encode(IDS, "tiff", compression="jpeg"), {}, "this kind of TIFF changes class ids"),
    "tiff with black and white exchanged": (tiff_with(262, 0), {}, "this kind of TIFF changes class ids"),
    "gif of other colors": (encode(palette_image(IDS, OTHER_COLORS), "gif"), {}, "none of the 19 label colors"),
    "large numbers in three channels": (
        encode(np.dstack([IDS * 40] * 3)), {}, r"gray up to 200 in several channels; .* one channel of 8 bits \(L\)"
    ),
    "a mask in three channels": (encode(np.dstack([MASK * 255] * 3)), {}, "gray up to 255 in several channels"),
    "the limit of gray": (encode(np.full((4, 4, 3), MAX_GRAY_IDS, np.uint8)), {}, "gray up to 32 in several channels"),
    "half transparent colors": (encode(with_alpha(colorize(IDS), 128)), {}, "partly transparent pixels"),
    "ids that are hardly transparent": (encode(with_alpha(IDS, 254)), {}, "partly transparent pixels"),
    "ids in color of 16 bits": (
        png_16(np.dstack([IDS] * 3).astype(np.uint16)), {}, "numbers below 256 in channels of 16 bits"
    ),
    "ids of 16 bits with alpha": (
        png_16(np.dstack([IDS.astype(np.uint16), np.full(IDS.shape, 65535, np.uint16)])), {}, "numbers below 256"
    ),
    "16 bits": (png_16(IDS.astype(np.uint16)[..., None]), {}, "mode I;16.* save it as L with 8 bits"),
    "a photo": (
        encode(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)), {}, "so it looks like a photo"
    ),
    "a number that is not in the table": (encode(IDS), {"class_table": {"0": 0}}, "class 1 is not in the table"),
    "a color that is not in the table": (
        encode(colorize(IDS)), {"class_table": {"#ffffff": 0}}, "class #cc0000 is not in the table of classes"
    ),
    "colors for a table of numbers": (encode(colorize(IDS)), {"class_table": NUMBERS}, "table of classes has none"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_label_maps_without_a_clear_meaning_are_refused(case):
    content, options, reason = REFUSED[case]
    with pytest.raises(ValueError, match=reason):
        decode_class_ids(content, LabelMapOptions(**options))


def test_class_255_of_a_network_is_refused_with_the_option_to_use():
    with pytest.raises(ValueError, match=r"got class 255 at x=5 y=0; .* 0 to 5; --ignore 255 reads such pixels"):
        decode_label_map(encode(VOID), "seg", 6, LabelMapOptions(fit="crop"))


@pytest.mark.parametrize("table", ['{"7": 256}', '{"7": true}', '{"#ff": 1}', "[1]", "{", '{"-1": 0}'])
def test_invalid_tables_are_named(tmp_path, table):
    path = tmp_path / "table.json"
    path.write_text(table)
    with pytest.raises(DataError, match=r"table\.json: "):
        read_class_table(path)
    path.write_text(json.dumps({"#FF0000": 1, "7": 2}))
    assert read_class_table(path) == {"#ff0000": 1, "7": 2}


# --------------------------------------------------------------------------- shape


@pytest.mark.parametrize("is_tall", [False, True])
@pytest.mark.parametrize("data_type", ["seg", "edge"])
def test_label_maps_are_padded_and_cropped_about_the_center(data_type, is_tall):
    lines = np.full((5, 8), 255, np.uint8)
    lines[2, 3] = 0
    pixels = IDS[:5] if data_type == "seg" else lines
    background = 0 if data_type == "seg" else 255
    padded = np.vstack([np.full((1, 8), background), pixels, np.full((2, 8), background)])
    cropped = pixels[:, 1:6]
    for fit, expected in {"pad": padded, "crop": cropped}.items():
        content = encode(np.ascontiguousarray(pixels.T) if is_tall else pixels)
        label_map = decode_label_map(content, data_type, 6, LabelMapOptions(fit=fit))
        expected = torch.from_numpy((expected.T if is_tall else expected).astype(np.uint8))[None, None]
        torch.testing.assert_close(label_map, expected.long() if data_type == "seg" else expected / 127.5 - 1)


def test_a_label_map_that_is_not_square_is_refused_with_the_options_to_use():
    with pytest.raises(
        ValueError, match=r"^8x6 pixels; expected a square image; --fit pad or --fit crop makes it one$"
    ):
        decode_label_map(encode(IDS), "seg", 6)


def test_a_long_strip_is_not_padded_to_a_huge_square():
    strip = encode(np.full((2, 60000), 255, np.uint8))
    with pytest.raises(ValueError, match="60000x2 pixels; too long to be padded to a square"):
        decode_label_map(strip, "edge", 1, LabelMapOptions(fit="pad"))
    assert decode_label_map(strip, "edge", 1, LabelMapOptions(fit="crop")).shape == (1, 1, 2, 2)


# --------------------------------------------------------------------------- drawings


def drawing(color, width):
    """Lines of a color on white, `width` of 64 pixels each."""
    image = np.full((64, 64, 3), 255, np.uint8)
    image[10 : 10 + width] = color
    return image


def test_lines_may_have_a_color_but_areas_may_not():
    check_drawing(Image.fromarray(drawing((0, 0, 200), 4)))  # a blue pen
    check_drawing(Image.fromarray(drawing((40, 40, 40), 20)))  # black marker
    for refused in (drawing((204, 0, 0), 16), colorize(np.where(drawing(0, 20)[..., 0] == 0, 1, 0))):
        for file_format in ("jpeg", "png"):
            with pytest.raises(ValueError, match=r"\d\d% of its pixels have a color; expected dark lines on white"):
                decode_label_map(encode(refused, file_format), "edge", 1)


def test_drawings_are_turned_and_converted_like_photos():
    upright = drawing((0, 0, 0), 4)
    stored = encode(np.ascontiguousarray(np.rot90(upright)), exif=6)
    assert torch.equal(decode_label_map(stored, "edge", 1), decode_label_map(encode(upright), "edge", 1))
    pen = encode(drawing((0, 0, 200), 4), icc_profile=SWAPPED)
    assert decode_rgb(pen).getpixel((5, 11))[0] > 190
