"""The page of the editor in a browser: the style of a photo."""

import json

import numpy as np
import pytest
import torch
from editor_browser import (
    address,
    browser,
    needs_browser,
    open_file,
    open_page,
    pixels,
    save,
    stroke,
    sync_api,
    wait_for_image,
)
from editor_pages import real_server, tiny_generator
from small_data import png

from applications.editor.model import EditorModel
from inference.inputs import to_photo
from training.networks.registry import construct

__all__ = ["address", "browser", "open_page"]  # fixtures
pytestmark = needs_browser
PHOTO = np.random.RandomState(0).randint(0, 256, (40, 60, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model():
    G = tiny_generator()
    torch.manual_seed(1)
    E = construct("StyleEncoder", {"z_dim": G.z_dim, "width": 4}).eval()
    torch.nn.init.normal_(E.out.weight)  # so that photos have different styles without training
    G.attach_style_encoder(E)
    return EditorModel(G, "seg2cat")


def choose(page, name, photo):
    page.set_input_files("#photo-file", {"name": name, "mimeType": "image/png", "buffer": png(photo)})


def drop(page, selector, name, content):
    page.evaluate(
        """([selector, name, content]) => {
            const files = new DataTransfer();
            files.items.add(new File([new Uint8Array(content)], name));
            const target = document.querySelector(selector);
            for (const kind of ["dragover", "drop"]) {
                target.dispatchEvent(new DragEvent(kind, {dataTransfer: files, bubbles: true}));
            }
        }""",
        [selector, name, list(content)],
    )


def button(page):
    return page.locator("[data-action=choose-photo]")


def start(open_page):
    page = open_page()
    with wait_for_image(page):
        stroke(page, (30, 60), (100, 60))
    return page


def test_a_photo_sets_the_style_until_a_seed_is_chosen_and_undo_returns(open_page):
    page = start(open_page)
    by_seed = save(page, "image")
    with wait_for_image(page):
        choose(page, "ginger.png", PHOTO)
    assert button(page).inner_text() == "Photo ginger.png" and button(page).get_attribute("aria-pressed") == "true"
    by_photo = save(page, "image")
    assert not np.array_equal(pixels(by_photo), pixels(by_seed))

    # Without a kept style, too, further strokes have the style of the photo.
    page.uncheck("#keep-style")
    with wait_for_image(page):
        stroke(page, (60, 20), (60, 40))
    with wait_for_image(page):
        page.keyboard.press("Control+z")
    assert save(page, "image") == by_photo

    with wait_for_image(page):
        page.keyboard.press("n")
    assert button(page).inner_text() == "Photo…" and button(page).get_attribute("aria-pressed") == "false"
    with wait_for_image(page):
        page.keyboard.press("Control+z")
    assert save(page, "image") == by_photo and button(page).inner_text() == "Photo ginger.png"
    with wait_for_image(page):
        page.keyboard.press("Control+z")
    assert save(page, "image") == by_seed and button(page).inner_text() == "Photo…"


def test_a_photo_dropped_on_the_style_is_no_label_map_and_one_dropped_elsewhere_is(open_page):
    page = start(open_page)
    before = save(page, "drawing-ids")
    with wait_for_image(page):
        drop(page, "#style", "tabby.png", png(PHOTO))
    assert button(page).inner_text() == "Photo tabby.png" and save(page, "drawing-ids") == before
    assert page.locator("body").get_attribute("class") in (None, "")
    drop(page, "#drawing", "tabby.png", png(PHOTO))
    sync_api.expect(page.locator("#notifications p")).to_contain_text("tabby.png: ")


def test_a_photo_chosen_before_the_first_stroke_is_the_style_of_the_first_scene(open_page):
    page = open_page()
    choose(page, "ginger.png", PHOTO)
    sync_api.expect(button(page)).to_have_text("Photo ginger.png")
    with wait_for_image(page):
        stroke(page, (30, 60), (100, 60))
    other = start(open_page)
    assert save(page, "image") != save(other, "image")


def test_a_session_keeps_the_photo(open_page):
    page, fresh = start(open_page), open_page()
    page.uncheck("#keep-style")
    with wait_for_image(page):
        choose(page, "ginger.png", PHOTO)
    content = save(page, "session")
    assert json.loads(content)["photo_float32"]
    with wait_for_image(fresh):
        open_file(fresh, "session.json", content)
    assert save(fresh, "image") == save(page, "image")
    assert button(fresh).inner_text() == "Photo of the session"
    for each in (page, fresh):
        with wait_for_image(each):
            stroke(each, (60, 20), (60, 40))
    assert save(fresh, "image") == save(page, "image"), "new strokes have the style of the photo"


def test_the_page_starts_with_the_photo_of_the_command(open_page, model):
    chosen = start(open_page)
    with wait_for_image(chosen):
        choose(chosen, "ginger.png", PHOTO)
    with real_server(model, photo=("ginger", model.encode_photo(to_photo(PHOTO)))) as url:
        page = open_page(url=url)
        assert button(page).inner_text() == "Photo ginger"
        page.uncheck("#keep-style")
        with wait_for_image(page):
            stroke(page, (30, 60), (100, 60))
        chosen.uncheck("#keep-style")
        with wait_for_image(chosen):
            chosen.keyboard.press("Delete")
        with wait_for_image(chosen):
            stroke(chosen, (30, 60), (100, 60))
        assert save(page, "image") == save(chosen, "image")
        page.close()


def test_a_lost_photo_falls_back_on_the_seed(open_page, model, monkeypatch):
    page = start(open_page)
    with wait_for_image(page):
        choose(page, "ginger.png", PHOTO)
    monkeypatch.setattr(model, "_photos", type(model._photos)(1, model._photos.unknown))
    page.uncheck("#keep-style")
    with wait_for_image(page):
        stroke(page, (60, 20), (60, 40))
    sync_api.expect(page.locator("#notifications p")).to_contain_text("choose the photo again")
    assert button(page).inner_text() == "Photo…"


def test_what_is_no_photo_is_rejected_with_its_name(open_page):
    page = start(open_page)
    page.set_input_files("#photo-file", {"name": "cat.png", "mimeType": "image/png", "buffer": b"a cat"})
    sync_api.expect(page.locator("#notifications p")).to_contain_text("cat.png: not a PNG or JPEG image")
    assert button(page).inner_text() == "Photo…"


def test_networks_without_a_style_encoder_show_no_photos(open_page):
    with real_server(EditorModel(tiny_generator(), "seg2cat")) as url:
        page = open_page(url=url)
        assert not button(page).is_visible()
        drop(page, "#style", "tabby.png", png(PHOTO))
        sync_api.expect(page.locator("#notifications p")).to_contain_text("looks like a photo")
        page.close()


@pytest.mark.parametrize(("width", "height"), [(1280, 720), (820, 1180)])
def test_a_long_name_of_a_photo_fits_into_the_page(open_page, width, height):
    page = open_page(width, height)
    with wait_for_image(page):
        stroke(page, (30, 60), (100, 60))
    with wait_for_image(page):
        choose(page, f"{'a very long name ' * 6}.png", PHOTO)
    scroll = page.evaluate("() => [document.body.scrollWidth, document.body.scrollHeight]")
    assert scroll[0] <= width and scroll[1] <= height
    box, strip = button(page).bounding_box(), page.locator("#history").bounding_box()
    assert box["x"] + box["width"] <= width and box["y"] + box["height"] <= height
    assert strip["width"] > 200
