"""The page of the editor in a browser: notes, labels, examples, and drawing with symmetry or the keyboard."""

import re

import numpy as np
import pytest
from editor_browser import (
    TRAINED,
    address,
    browser,
    cat,
    drag,
    drawing,
    model,
    needs_browser,
    open_drawing,
    open_file,
    open_page,
    pixels,
    position,
    save,
    set_size,
    stroke,
    sync_api,
    wait_for_image,
    wait_until_settled,
)
from editor_pages import real_server, tiny_generator, tiny_model

from applications.editor.examples import TOY_EXAMPLES
from applications.editor.model import EditorModel
from applications.editor.session_file import read_drawing_file
from training.networks.registry import construct

__all__ = ["address", "browser", "cat", "model", "open_page"]  # fixtures
pytestmark = needs_browser


def move_slider(page, name, value):
    page.locator(name).evaluate("(e, value) => { e.value = value; e.dispatchEvent(new Event('input')); }", str(value))


def note(page):
    return page.locator("#notifications p")


# --------------------------------------------------------------------------- notes


def test_an_error_note_goes_away_with_the_next_success(open_page):
    page = open_page()
    open_file(page, "cat.png", b"a cat, please")
    sync_api.expect(note(page)).to_contain_text("cat.png: not a PNG or JPEG image")
    page.wait_for_timeout(3500)
    assert note(page).is_visible(), "it stays until something succeeds"
    with wait_for_image(page):
        stroke(page, (30, 30), (90, 90))
    sync_api.expect(note(page)).to_have_count(0)


def test_the_answer_to_an_earlier_request_does_not_remove_an_error(open_page):
    shown = open_page().evaluate(
        """async () => {
            const { Notifications } = await import("./notifications.js");
            const container = document.createElement("div");
            const notifications = new Notifications(container);
            const wait = () => new Promise((resolve) => setTimeout(resolve, 3200));
            const counts = [];
            notifications.show("request 5 failed", true, 7);
            for (const id of [6, 7, 8]) {
                notifications.handleSuccess(id);
                await wait();
                counts.push(container.children.length);
            }
            return counts;
        }"""
    )
    assert shown == [1, 1, 0], "requests 6 and 7 were sent before the error"


def test_edit_from_here_reports_strokes_without_effect_and_undo_returns_them(open_page, model, cat, monkeypatch):
    page = open_page()
    open_drawing(page, cat)
    rendered = pixels(save(page, "labels-ids"))

    # The object shows the first stroke and ignores the second.
    def render(scene, view, quality, render=model.render):
        colors, _ = render(scene, view, quality)
        ids = rendered.copy()
        ids[16:24, 16:60] = 5
        return colors, ids

    page.keyboard.press("5")
    set_size(page, 7)
    with wait_for_image(page):
        stroke(page, (20, 20), (56, 20))
    with wait_for_image(page):
        stroke(page, (20, 110), (100, 110))
    painted = drawing(page)
    with wait_for_image(page):
        drag(page, -60, 0)
    monkeypatch.setattr(model, "render", render)
    page.keyboard.press("r")
    wait_until_settled(page)
    page.click("[data-action=edit-here]")
    sync_api.expect(note(page)).to_contain_text("1 of 2 strokes had no effect on the object")
    assert not np.array_equal(drawing(page), painted)
    page.keyboard.press("Control+z")
    assert np.array_equal(drawing(page), painted), "one undo away"


def test_edit_from_here_is_silent_when_nothing_was_painted(open_page, cat):
    page = open_page()
    open_drawing(page, cat)
    with wait_for_image(page):
        page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    sync_api.expect(page.locator("#drawing-view")).to_have_text("from 5° right")
    page.wait_for_timeout(500)
    assert note(page).count() == 0


# --------------------------------------------------------------------------- sliders, zoom, results, files


def test_sliders_say_their_name_and_value(open_page, cat):
    page = open_page()
    open_drawing(page, cat)
    for slider, output, name in [
        ("#overlay-opacity", "#overlay-value", "Overlay image"),
        ("#label-share", "#label-value", "Show labels"),
    ]:
        assert page.locator(f"label:has({slider})").inner_text().split("\n")[0] == name
        assert page.locator(output).inner_text() == "off"
        move_slider(page, slider, 40)
        assert page.locator(output).inner_text() == "40%"
    with wait_for_image(page):
        page.keyboard.press("ArrowLeft")
    assert page.locator("#overlay-value").inner_text() == "hidden", "the views differ"


def test_blend_appears_once_two_results_are_chosen(open_page, cat):
    page = open_page()
    open_drawing(page, cat)
    page.keyboard.press("n")
    page.locator("#results figure").nth(1).wait_for()
    hint = page.locator("#blend-hint")
    assert "Mark two results as A and B" in hint.inner_text() and not page.locator("#blend").is_visible()
    heights = [page.locator("#viewer").bounding_box()["height"]]
    page.click("#results figure:nth-child(1) [data-endpoint=first]")
    assert hint.is_visible() and not page.locator("#blend").is_visible()
    page.click("#results figure:nth-child(2) [data-endpoint=second]")
    assert not hint.is_visible() and page.locator("#blend").is_visible()
    heights.append(page.locator("#viewer").bounding_box()["height"])
    assert heights[0] == heights[1], "the page does not jump"
    with wait_for_image(page):
        page.keyboard.press(">")
    assert re.sub(r"\s+", " ", page.locator("#blend-row").inner_text()).strip() == "Blend: A 95% B 5%"


def test_zoom_shows_its_factor_and_is_reset_by_a_click(open_page, cat):
    page = open_page()
    open_drawing(page, cat)
    assert not page.locator("#object-zoom").is_visible() and not page.locator("#drawing-zoom").is_visible()
    with wait_for_image(page):
        page.keyboard.press("+")
    assert page.inner_text("#object-zoom") == "1.10× Reset"
    page.mouse.move(*position(page, 40, 40))
    page.keyboard.down("Control")
    page.mouse.wheel(0, -100)
    page.keyboard.up("Control")
    assert page.inner_text("#drawing-zoom") == "2.72× Reset"
    page.click("#drawing-zoom")
    assert page.locator("#drawing").bounding_box()["width"] <= page.locator("#frame").bounding_box()["width"]
    with wait_for_image(page):
        page.click("#object-zoom")
    assert not page.locator("#object-zoom").is_visible() and not page.locator("#drawing-zoom").is_visible()


def test_saving_is_one_menu_and_names_carry_the_seed(open_page, cat):
    page = open_page()
    open_drawing(page, cat)
    page.keyboard.press("s")
    assert page.locator("#save-menu").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#save-menu").is_visible()
    for seed, kind, name in [
        (0, "image", "color.png"),
        (41, "labels-ids", "label_ids.png"),
        (41, "session", "session.json"),
    ]:
        if page.input_value("#seed") != str(seed):
            with wait_for_image(page):
                page.fill("#seed", str(seed))
                page.locator("#seed").blur()
        page.click("#save")
        with page.expect_download() as download:
            page.click(f"[data-save={kind}]")
        assert download.value.suggested_filename == f"seg2cat_seed{seed}_{name}"
        assert not page.locator("#save-menu").is_visible()


def test_examples_are_drawn_with_a_click_and_undone(open_page, model):
    examples = TOY_EXAMPLES["seg2cat"]
    with real_server(model, examples=examples) as url:
        page = open_page(url=url)
        wait_until_settled(page)
        first = drawing(page)
        assert page.locator("#example-row button").count() == len(examples)
        with wait_for_image(page):
            page.click("#example-row button:nth-child(4)")
        assert np.array_equal(drawing(page), read_drawing_file(examples[3].content, "seg", model.limits))
        assert page.inner_text("#drawing-view") == page.inner_text("#object-view") == "from 25° right, 8° up"
        page.keyboard.press("Control+z")
        assert np.array_equal(drawing(page), first) and page.inner_text("#drawing-view") == "from the front"


def test_without_examples_the_row_is_missing(open_page):
    assert not open_page().locator("#examples").is_visible()


def test_a_line_says_which_network_this_is_and_what_it_can_do(open_page):
    G = tiny_generator()
    G.attach_style_encoder(construct("StyleEncoder", {"z_dim": G.z_dim, "width": 4}).eval())
    texts = []
    for network, name in [(EditorModel(G, "seg2cat"), "cats"), (tiny_model("edge2car"), "cars")]:
        with real_server(network, name=name) as url:
            texts.append(open_page(url=url).inner_text("#network"))
    assert texts[0] == (
        "cats turns label maps of 6 classes into objects: 128-pixel images, up to 40° sideways and 19° up or down, "
        "in the style of a seed or a photo"
    )
    assert texts[1] == (
        "cars turns edge drawings into objects: 128-pixel images, from all sides and 67° up or down, "
        "in the style of a seed"
    )


# --------------------------------------------------------------------------- drawing


def test_symmetric_strokes_are_exact_mirror_images(open_page):
    page = open_page()
    page.keyboard.press("m")
    assert page.is_checked("#symmetric") and page.locator("#axis").is_visible()
    for key, size, tool in (("2", 9, "b"), ("3", 8, "l")):
        page.keyboard.press(key)
        page.keyboard.press(tool)
        set_size(page, size)
        stroke(page, (20, 30 + size), (47, 61), (30, 90))
    ids = drawing(page)
    assert (ids == 2).any() and (ids == 3).any() and np.array_equal(ids, ids[:, ::-1])
    assert not ids[:, 60:68].any()

    # Fill both halves of the background, which a wall separates; then erase.
    page.keyboard.press("m")
    page.keyboard.press("1")
    stroke(page, (63.5, 0), (63.5, 127))
    page.keyboard.press("m")
    page.keyboard.press("f")
    page.keyboard.press("4")
    stroke(page, (5, 5))
    ids = drawing(page)
    assert ids[5, 5] == ids[5, 122] == 4 and np.array_equal(ids, ids[:, ::-1])
    page.keyboard.press("e")
    stroke(page, (5, 60))
    ids = drawing(page)
    assert ids[60, 5] == ids[60, 122] == 0 and np.array_equal(ids, ids[:, ::-1])


def test_strokes_are_not_mirrored_in_drawings_from_the_side(open_page, cat):
    page = open_page()
    open_drawing(page, cat)
    page.keyboard.press("m")
    with wait_for_image(page):
        page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    sync_api.expect(page.locator("#drawing-view")).to_have_text("from 5° right")
    assert page.locator("#symmetric").is_disabled() and not page.locator("#axis").is_visible()
    before = drawing(page)
    set_size(page, 5)
    with wait_for_image(page):
        stroke(page, (4, 4), (4, 20))
    changed = np.argwhere(drawing(page) != before)
    assert len(changed) > 0 and changed[:, 1].max() < 10
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+z")
    assert page.locator("#symmetric").is_enabled() and page.locator("#axis").is_visible()


def test_symmetric_strokes_exchange_left_and_right_classes(open_page):
    with real_server(tiny_model("seg2face")) as url:
        page = open_page(url=url)
        page.keyboard.press("m")
        page.keyboard.press("4")
        set_size(page, 5)
        stroke(page, (30, 40), (40, 40))
        page.keyboard.press("f")
        page.keyboard.press("1")
        stroke(page, (64, 100))
        ids = drawing(page)
    left, right = (np.argwhere(ids == id) for id in (4, 5))
    assert left[:, 1].max() < 64 <= right[:, 1].min() and len(left) == len(right) > 0
    assert set(np.unique(ids)) == {1, 4, 5}


def test_the_drawing_is_reached_and_painted_by_keyboard(open_page):
    page = open_page()
    set_size(page, 1)
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "drawing":
            break
    assert page.evaluate("document.activeElement.id") == "drawing"
    assert page.locator("#cursor").is_visible() and page.inner_text("#brush-position") == "64, 64: background"

    # A line of 11 pixels downwards, in one stroke.
    page.keyboard.press("2")
    page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("Space")
    assert page.inner_text("#brush-position") == "painting at 56, 64"
    page.keyboard.press("Shift+ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    with wait_for_image(page):
        page.keyboard.press("Space")
    expected = np.zeros((128, 128), np.uint8)
    expected[64:75, 56] = 2
    assert page.inner_text("#object-view") == "from the front", "the arrow keys did not rotate the object"

    # Escape cancels a stroke, fill acts at once, pick selects.
    page.keyboard.press("Space")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("f")
    page.keyboard.press("3")
    with wait_for_image(page):
        page.keyboard.press("Space")
    expected[expected == 0] = 3
    page.keyboard.press("ArrowRight")
    page.keyboard.press("p")
    page.keyboard.press("Space")
    assert page.locator("#classes [aria-pressed=true]").get_attribute("data-id") in ("2", "3")
    assert np.array_equal(drawing(page), expected)


def test_a_click_on_the_drawing_leaves_the_arrow_keys_to_the_object(open_page):
    page = open_page()
    with wait_for_image(page):
        stroke(page, (30, 30), (90, 90))
    with wait_for_image(page):
        page.keyboard.press("ArrowRight")
    assert page.inner_text("#object-view") == "from 5° left"


@pytest.mark.skipif(not TRAINED, reason="random weights have no style to keep")
def test_keep_style_holds_the_colors_of_what_was_not_painted(open_page, cat):
    page = open_page()
    open_drawing(page, cat)
    before, before_ids = pixels(save(page, "image")).astype(int), pixels(save(page, "labels-ids"))
    changes = []
    for key, size, points in [
        ("3", 15, [(60, 60)]),
        ("1", 20, [(40, 24), (90, 24)]),
        ("5", 12, [(30, 100), (100, 100)]),
    ]:
        page.keyboard.press(key)
        set_size(page, size)
        with wait_for_image(page):
            stroke(page, *points)
        painted = drawing(page) != cat
        after, ids = pixels(save(page, "image")).astype(int), pixels(save(page, "labels-ids"))
        for id in set(np.unique(cat)) - {int(key)}:
            here = ~painted & (before_ids == id) & (ids == id)
            if here.sum() > 50:
                changes.append(np.abs(after[here].mean(0) - before[here].mean(0)).mean())
        with wait_for_image(page):
            page.keyboard.press("Control+z")
    assert np.mean(changes) < 5, changes  # of 255
