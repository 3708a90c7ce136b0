"""Styles from photos in the editor, without a browser: messages, sessions and rejected files."""

import io
import json

import numpy as np
import pytest
import torch
from editor_pages import FRONT, app_of, page_of, serving, tiny_generator
from PIL import Image
from small_data import png

from applications.editor import session_file
from applications.editor.model import EditorModel
from inference import Scene
from training.networks.registry import construct

HEAD = np.zeros((128, 128), np.uint8)
HEAD[40:90, 30:100] = 1
EARS = np.where(np.arange(128)[:, None] < 40, np.uint8(2), HEAD)
PHOTO = np.random.RandomState(0).randint(0, 256, (20, 30, 3), dtype=np.uint8)
UNKNOWN = "0" * 32


def style_model(**changes):
    """A model with a style encoder whose styles differ without training."""
    G = tiny_generator(**changes)
    torch.manual_seed(1)
    E = construct("StyleEncoder", {"z_dim": G.z_dim, "width": 4}).eval()
    torch.nn.init.normal_(E.out.weight)
    G.attach_style_encoder(E)
    return EditorModel(G, "seg2cat")


@pytest.fixture(scope="module")
def model():
    return style_model()


@pytest.fixture(scope="module")
def client(model):
    with serving(app_of(model)) as client:
        yield client


def test_a_photo_gives_the_pixels_of_the_python_api(model, client):
    with page_of(client) as page, torch.inference_mode():
        assert page.hello["photos"]
        photo = page.ask("open_photo", png(PHOTO))[0]["photo"]
        _, pixels = page.edit(HEAD, seed=3, photo=photo)
        expected = Scene.from_label_map(model.G, HEAD, style=PHOTO, cfg="seg2cat").render().image
        assert np.array_equal(np.frombuffer(pixels[: 3 * 128 * 128], np.uint8).reshape(128, 128, 3), expected)

        # In place of the seed, until there is a seed again.
        assert page.edit(HEAD, seed=4, photo=photo)[1] == pixels
        assert page.edit(HEAD, seed=3)[1] != pixels
        assert page.ask("open_photo", png(PHOTO))[0]["photo"] == photo
        assert page.ask("open_photo", png(255 - PHOTO))[0]["photo"] != photo


def test_a_photo_with_kept_geometry_changes_the_texture_only_and_is_kept_with_the_style(model, client):
    layer = model.G.backbone.mapping.geometry_layer
    with page_of(client) as page:
        first = page.edit(HEAD)[0]["scene"]
        photo = page.ask("open_photo", png(PHOTO))[0]["photo"]
        styled = page.edit(HEAD, photo=photo, geometry=first)[0]["scene"]
        assert torch.equal(model.ws(styled)[:, :layer], model.ws(first)[:, :layer])
        assert not torch.equal(model.ws(styled)[:, layer:], model.ws(first)[:, layer:])
        kept = page.edit(EARS, photo=photo, style=styled)[0]["scene"]
        assert torch.equal(model.ws(kept)[:, layer:], model.ws(styled)[:, layer:])


def test_a_session_holds_the_style_of_the_photo(client):
    with page_of(client) as page:
        photo = page.ask("open_photo", png(PHOTO))[0]["photo"]
        _, pixels = page.edit(EARS, photo=photo)
        page.edit(HEAD, photo=photo)
        fields = {"scene": None, "drawing_view": FRONT, "seed": 4, "photo": photo, "keep_style": False, "view": FRONT}
        _, content = page.ask("save_session", HEAD.tobytes(), **fields)
        _, without = page.ask("save_session", HEAD.tobytes(), **fields | {"photo": None})
        assert page.ask("open_session", without)[0]["photo"] is None

    # Another server knows the photo from the file, and needs it for edits that keep no style.
    with serving(app_of(style_model())) as other, page_of(other) as page:
        opened, _ = page.ask("open_session", content)
        assert opened["photo"] == photo and opened["seed"] == 4
        assert page.edit(EARS, photo=opened["photo"])[1] == pixels

    # Other weights have other styles.
    with serving(app_of(style_model(channel_max=8))) as retrained, page_of(retrained) as page:
        assert page.ask("open_session", content)[0]["photo"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"photo_float32": "AAAA"}, "photo_float32 is missing or incomplete"),
        ({"photo_float32": None}, "photo_float32 is missing or incomplete"),
        ({"photo_float32": "AADAfw=="}, "photo_float32 is not finite"),
        ({"photo_float32": "AAAAAA=="}, "photo_float32 is not a z of this network"),
    ],
)
def test_damaged_styles_in_sessions_are_rejected(change, message, client):
    with page_of(client) as page:
        page.edit(HEAD)
        fields = {"scene": None, "drawing_view": FRONT, "seed": 4, "photo": None, "keep_style": True, "view": FRONT}
        _, content = page.ask("save_session", HEAD.tobytes(), **fields)
        page.send("open_session", json.dumps(json.loads(content) | change).encode())
        assert page.receive()[0]["reason"] == f"damaged session: {message}"


def wide_jpeg():
    file = io.BytesIO()
    Image.new("L", (session_file.MAX_SIDE + 1, 2)).save(file, "jpeg")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"text", "not a PNG or JPEG image"),
        (b"", "the file is empty"),
        (wide_jpeg(), "4097x2 pixels; the limit is 4096x4096"),
        (png(PHOTO)[:200], "damaged image"),
    ],
)
def test_files_that_are_no_photos_are_rejected(content, message, client):
    with page_of(client) as page:
        page.send("open_photo", content)
        header, _ = page.receive()
        assert header["type"] == "error" and message in header["reason"]
        assert page.edit(HEAD)[0]["type"] == "image"


def test_a_photo_that_the_server_does_not_have_is_an_error_that_the_page_recognizes(client):
    with page_of(client) as page:
        page.send("edit", HEAD.tobytes(), drawing_view=FRONT, seed=0, photo=UNKNOWN, style=None, geometry=None,
                  view=FRONT, quality="full")  # fmt: skip
        header, _ = page.receive()
        assert header["type"] == "error" and header["unknown_photo"] and "unknown_scene" not in header


def test_networks_without_a_style_encoder_say_so():
    with serving(app_of(EditorModel(tiny_generator(), "seg2cat"))) as client, page_of(client) as page:
        assert not page.hello["photos"]
        page.send("open_photo", png(PHOTO))
        assert "this network has no encoder of photos" in page.receive()[0]["reason"]
