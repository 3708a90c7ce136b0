"""Tests of label maps: palette, reading of valid and invalid files, conversion to images."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from golden import golden
from paths import ROOT
from PIL import Image

from training.data.label_maps import (
    PALETTE,
    colorize,
    draw_image,
    draw_label_map,
    draw_semantic,
    index_from_colors,
    read_label_map,
    to_uint8,
)

ASSETS = ROOT / "applications" / "assets"
IDS = np.arange(36, dtype=np.uint8).reshape(6, 6) % 6


def saved(path, pixels, mode=None, **options):
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def palette_png(ids):
    """Encode class ids as a palette image with unrelated colors."""
    image = Image.frombytes("P", ids.shape[::-1], ids.tobytes())
    image.putpalette(bytes(range(250, 250 - 18, -1)))
    return image


# --------------------------------------------------------------------------- palette


def test_palette_and_coloring_equal_the_published_ones():
    expected, x = golden.load("helpers"), golden.inputs("helpers")
    assert (expected["color_list"] == PALETTE).all()
    assert (colorize(x["labels2d"].numpy()) == expected["color_mask2d"]).all()
    assert (colorize(x["labels3d"].numpy()) == expected["color_mask3d"]).all()


def test_ids_without_a_color_are_black():
    assert (colorize(np.array([-1, 19, 255, 10**6])) == 0).all()


def test_index_from_colors_inverts_colorize():
    ids = np.arange(19).reshape(1, 19)
    assert (index_from_colors(colorize(ids)) == ids).all()


def test_color_outside_the_palette_is_reported_with_its_position():
    rgb = colorize(IDS)
    rgb[2, 3] = (204, 0, 1)
    with pytest.raises(ValueError, match=r"^color 204,0,1 at x=3 y=2 is none of the 19 label colors$"):
        index_from_colors(rgb)
    rgb[4, 4] = (0, 0, 0)
    with pytest.raises(ValueError, match="2 such colors, so it looks like a photo"):
        index_from_colors(rgb)


# --------------------------------------------------------------------------- valid files


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P"])
def test_class_ids_are_read_from_gray_palette_and_color_images(tmp_path, mode):
    forms = {"L": Image.fromarray(IDS), "P": palette_png(IDS)}
    image = forms.get(mode) or Image.fromarray(colorize(IDS)).convert(mode)
    label_map = read_label_map(saved(tmp_path / "ids.png", image), "seg", 6, 6)
    assert image.mode == mode
    assert label_map.shape == (1, 1, 6, 6) and label_map.dtype == torch.int64
    assert (label_map[0, 0].numpy() == IDS).all()


def test_transparent_pixels_of_a_colored_map_are_background(tmp_path):
    rgba = np.dstack([colorize(np.full((4, 4), 3)), np.full((4, 4), 255, np.uint8)])
    rgba[0, 0, 3] = 0
    label_map = read_label_map(saved(tmp_path / "ids.png", rgba), "seg", 6, 4)
    assert label_map[0, 0, 0, 0] == 0 and label_map.flatten()[1:].eq(3).all()


def test_resizing_adds_no_class(tmp_path):
    ids = np.where(np.arange(64)[:, None] < 32, 1, 5).astype(np.uint8).repeat(64, 1)
    label_map = read_label_map(saved(tmp_path / "ids.png", ids), "seg", 6, 48)
    assert label_map.shape == (1, 1, 48, 48) and label_map.unique().tolist() == [1, 5]
    assert (label_map == 1).float().mean() == 0.5


def test_drawing_is_1_on_paper_and_minus_1_on_lines(tmp_path):
    gray = np.full((8, 8), 255, np.uint8)
    gray[3], gray[4] = 0, 51
    label_map = read_label_map(saved(tmp_path / "edges.png", gray), "edge", 1, 8)
    assert label_map.shape == (1, 1, 8, 8) and label_map.dtype == torch.float32
    golden.check(
        "rows", label_map[0, 0, :, 0], torch.tensor([1.0, 1, 1, -1, -0.6, 1, 1, 1]), rtol=1e-6
    )  # float32 rounding


def test_drawing_with_lines_in_its_alpha_channel_is_composited_on_white(tmp_path):
    rgba = np.zeros((8, 8, 4), np.uint8)  # black everywhere
    rgba[3, :, 3] = 255  # but only here opaque
    label_map = read_label_map(saved(tmp_path / "edges.png", rgba), "edge", 1, 8)
    assert (label_map[0, 0, 3] == -1).all() and (label_map == 1).sum() == 56


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1"])
def test_drawing_is_read_in_any_8_bit_mode(tmp_path, mode):
    gray = np.full((8, 8), 255, np.uint8)
    gray[3] = 0
    path = saved(tmp_path / "edges.png", Image.fromarray(gray).convert(mode))
    assert (read_label_map(path, "edge", 1, 8)[0, 0, :, 0] == torch.tensor([1.0, 1, 1, -1, 1, 1, 1, 1])).all()


def test_included_label_maps_have_their_classes_and_lines():
    cat = read_label_map(ASSETS / "cat.png", "seg", 6, 512)
    assert cat.unique().tolist() == [0, 1, 2, 3, 4, 5]
    car = read_label_map(ASSETS / "car.png", "edge", 1, 128)
    assert car.max() == 1 and car.min() == -1 and 0.02 < (car < 0).float().mean() < 0.2


# --------------------------------------------------------------------------- invalid files


def sixteen_bit(path):
    saved(path, np.full((8, 8), 1000, np.uint16))


def truncated(path):
    buffer = io.BytesIO()
    Image.fromarray(np.random.RandomState(0).randint(0, 6, (64, 64), np.uint8)).save(buffer, "png")
    path.write_bytes(buffer.getvalue()[:200])


def photo(path):
    saved(path, np.random.RandomState(0).randint(0, 150, (16, 16, 3), np.uint8))


def sized(width, height):
    """Return a writer of a PNG that declares this size and has no pixels."""

    def chunk(kind, content=b""):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND")
    return lambda path: path.write_bytes(png)


REFUSED = {
    "missing": ("seg", lambda path: None, "no such file"),
    "a folder": ("seg", lambda path: path.mkdir(), "not a file"),
    "empty": ("seg", lambda path: path.write_bytes(b""), "not a PNG or JPEG"),
    "text": ("seg", lambda path: path.write_text("a cat, please"), "not a PNG or JPEG"),
    "truncated": ("seg", truncated, "damaged"),
    "16 bits": ("seg", sixteen_bit, "I;16.*8 bits"),
    "16 bits, edges": ("edge", sixteen_bit, "I;16.*8 bits"),
    "gray in three channels": ("seg", lambda path: saved(path, IDS * 40, "RGB"), "gray up to 200 in several channels"),
    "cmyk": ("seg", lambda path: saved(path, np.zeros((8, 8, 4), np.uint8), "CMYK", format="jpeg"), "mode CMYK"),
    "jpeg": ("seg", lambda path: saved(path, IDS, format="jpeg"), "JPEG changes class ids"),
    "class too high": ("seg", lambda path: saved(path, IDS + 1), "class 6 at x=5 y=0.*classes are 0 to 5"),
    "color of a class too high": ("seg", lambda path: saved(path, colorize(IDS + 1)), "class 6 at x=5 y=0"),
    "photo": ("seg", photo, "none of the 19 label colors.*looks like a photo"),
    "photo, edges": ("edge", photo, "expected dark lines on white"),
    "inverted drawing": ("edge", lambda path: saved(path, np.zeros((8, 8), np.uint8)), "expected dark lines on white"),
    "not square": ("seg", lambda path: saved(path, IDS[:4]), "6x4 pixels; expected a square"),
    "not square, edges": (
        "edge",
        lambda path: saved(path, np.full((8, 9), 255, np.uint8)),
        "9x8 pixels",
    ),
    "no pixels": ("seg", sized(0, 0), "PNG or JPEG|expected a square"),
    "half a billion pixels": ("seg", sized(22000, 22000), "too many pixels"),
    "a hundred million pixels": ("seg", sized(10000, 10000), "too many pixels"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_invalid_label_map_is_rejected_in_one_line_that_starts_with_the_path(tmp_path, case, recwarn):
    data_type, write, message = REFUSED[case]
    path = tmp_path / "map.png"
    write(path)
    with pytest.raises((ValueError, OSError), match=message) as caught:
        read_label_map(path, data_type, 6, 8)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    assert not recwarn.list, "a warning would be a second line"


# --------------------------------------------------------------------------- images


@pytest.mark.parametrize("case", ["u8_color", "u8_edge"])
def test_to_uint8_equals_the_published_conversion(case):
    assert (to_uint8(golden.inputs("helpers")["u8_in"]).numpy() == golden.load("helpers")[case]).all()


def test_label_map_is_read_back_exactly_from_its_image(tmp_path):
    levels = torch.cat([torch.arange(256), torch.full((320,), 255)]).view(1, 1, 24, 24) / 127.5 - 1
    for data_type, classes, label_map in [
        ("seg", 19, torch.arange(361).view(1, 1, 19, 19) % 19),
        ("edge", 1, levels),
    ]:
        path = saved(tmp_path / f"{data_type}.png", draw_label_map(label_map, data_type)[0])
        assert torch.equal(read_label_map(path, data_type, classes, label_map.shape[-1]), label_map)


def test_drawn_images_have_channels_last():
    image = torch.full((2, 3, 4, 5), -1.0)
    image[1, 2] = 1
    assert draw_image(image).shape == (2, 4, 5, 3) and draw_image(image)[1, 0, 0].tolist() == [0, 0, 255]
    logits = torch.zeros(2, 6, 4, 5)
    logits[1, 4, 3, 2] = 1
    assert draw_semantic(logits, "seg").shape == (2, 4, 5, 3)
    assert draw_semantic(logits, "seg")[1, 3, 2].tolist() == PALETTE[4].tolist()
    assert draw_semantic(image[:, :1], "edge").shape == (2, 4, 5)
