"""The page of the editor in a browser: drawing, rotation, styles, files."""

import base64
import json
import math

import numpy as np
import pytest
from editor_browser import (
    TRAINED,
    address,
    browser,
    canvas,
    capsule,
    cat,
    drag,
    drawing,
    is_encoded,
    model,
    needs_browser,
    open_drawing,
    open_file,
    open_page,
    pixels,
    save,
    set_size,
    stroke,
    sync_api,
    wait_for_image,
    wait_until_settled,
)
from editor_pages import GEOMETRY_LAYERS
from small_data import png

from dataset_preprocessing.toy import cats
from training.data.label_maps import PALETTE

__all__ = ["address", "browser", "cat", "model", "open_page"]  # fixtures
pytestmark = needs_browser


def texture(session):
    """Return the texture ws in a session file."""
    contents = json.loads(session)
    ws = np.frombuffer(base64.b64decode(contents["ws_float32"]), "<f4").reshape(contents["ws_shape"])
    return ws[:, GEOMETRY_LAYERS:]


# --------------------------------------------------------------------------- editing


@pytest.mark.parametrize("scale", [1.5, *(pytest.param(scale, marks=pytest.mark.slow) for scale in (1, 2))])
def test_strokes_reach_the_server_as_exact_class_ids(open_page, model, scale):
    page = open_page(device_scale_factor=scale)
    expected = np.zeros((128, 128), np.uint8)
    strokes = [
        *[(1, 40, (59.5, 69.5), (69.5, 69.5)), (2, 9, (30, 30), (45, 12)), (4, 1, (5, 100), (120, 90))],
        (3, 2, (99.5, 19.5), (99.5, 19.5)),  # an even brush is centered on a pixel corner
    ]
    for id, size, start, end in strokes:
        page.keyboard.press(str(id))
        set_size(page, min(size, 32))
        with wait_for_image(page):
            stroke(page, start, end)
        expected = capsule(expected, start, end, min(size, 32), id)
    assert np.array_equal(drawing(page), expected)
    assert is_encoded(model, expected), "the network has encoded exactly this drawing"
    assert np.array_equal(canvas(page, "drawing")[..., :3], PALETTE[expected]), "pixels of the canvas"


def test_draw_rotate_edit_from_here_undo_save_and_reopen(open_page, cat):
    page = open_page()
    open_drawing(page, cat)
    start = drawing(page)

    page.keyboard.press("4")
    set_size(page, 13)
    with wait_for_image(page):
        stroke(page, (30, 80), (60, 90))
    assert np.array_equal(drawing(page), capsule(start, (30, 80), (60, 90), 13, 4))
    before = save(page, "session")

    with wait_for_image(page):
        drag(page, -60, 20)
    view = json.loads(wait_until_settled(page)["view"])
    assert view["azimuth"] > math.pi / 2 + 0.1 and view["polar"] < math.pi / 2
    assert "from the front" in page.inner_text("#drawing-view")
    shown = pixels(save(page, "labels-ids"))

    page.click("[data-action=edit-here]")
    sync_api.expect(page.locator("#drawing-view")).to_contain_text("right")
    assert np.array_equal(drawing(page), shown), "the drawing is the rendered label map of this view"
    assert page.inner_text("#drawing-view") == page.inner_text("#object-view")

    with wait_for_image(page):
        stroke(page, (40, 40), (70, 40))
    after = save(page, "session")
    assert json.loads(after)["place"]["azimuth"] == view["azimuth"], "the edit is encoded from the view it was drawn in"
    assert np.array_equal(texture(after), texture(before)), "the texture is kept"
    assert json.loads(after)["ws_float32"] != json.loads(before)["ws_float32"]
    image, view_ids = save(page, "image"), save(page, "labels-ids")

    with wait_for_image(page):
        page.keyboard.press("Control+z")
    assert np.array_equal(drawing(page), shown)
    with wait_for_image(page):
        page.keyboard.press("Control+y")
    assert save(page, "image") == image

    again = open_page()
    with wait_for_image(again):
        open_file(again, "session.json", after)
    assert save(again, "image") == image and save(again, "labels-ids") == view_ids
    assert np.array_equal(drawing(again), drawing(page)) and save(again, "session") == after
    assert np.array_equal(canvas(again, "image"), canvas(page, "image"))


@pytest.mark.skipif(not TRAINED, reason="with random weights, labels change anywhere")
def test_rendered_labels_follow_a_stroke_where_it_was_drawn(open_page, cat):
    page = open_page()
    open_drawing(page, cat)
    before = pixels(save(page, "labels-ids"))
    y, x = (int(v.mean()) for v in np.nonzero(cat == cats.MUZZLE))
    page.keyboard.press(str(cats.MUZZLE))
    set_size(page, 32)
    with wait_for_image(page):
        stroke(page, (x - 8, y + 6), (x + 8, y + 6))  # a broader muzzle
    after = pixels(save(page, "labels-ids"))
    painted = drawing(page) != cat
    changed = after != before
    assert changed[painted].mean() > 2 * changed[~painted].mean()
    assert (after[painted] == cats.MUZZLE).mean() > (before[painted] == cats.MUZZLE).mean()


def test_new_style_keeps_the_geometry_and_results_and_blends_restore_scenes(open_page, cat):
    page = open_page()
    open_drawing(page, cat)
    first = json.loads(save(page, "session"))
    image = save(page, "image")
    with wait_for_image(page):
        page.keyboard.press("n")
    second = json.loads(save(page, "session"))
    assert second["seed"] == first["seed"] + 1 and second["ws_float32"] != first["ws_float32"]
    size = 4 * 512 * GEOMETRY_LAYERS
    assert first["ws_float32"][:size] == second["ws_float32"][:size], "geometry is the first rows"
    assert save(page, "image") != image
    page.click("#results figure:nth-child(1) [data-endpoint=first]")
    page.click("#results figure:nth-child(2) [data-endpoint=second]")
    for share, end in ((1, second), (0, first)):
        with wait_for_image(page):
            page.locator("#blend").evaluate(
                "(element, value) => { element.value = value; element.dispatchEvent(new Event('change')); }", str(share)
            )
        assert json.loads(save(page, "session"))["ws_float32"] == end["ws_float32"]
    with wait_for_image(page):
        page.click("#results figure:nth-child(2) button")
    assert json.loads(save(page, "session")) == second


def test_after_many_fast_drags_the_newest_view_is_shown(open_page, cat):
    page = open_page()
    open_drawing(page, cat)
    for number in range(20):
        drag(page, 7 * (-1) ** number * number, 3, steps=2)
    with wait_for_image(page):
        drag(page, -33, -11, steps=2)
    shown = json.loads(wait_until_settled(page)["view"])
    stated_view = page.locator("#object-view").inner_text()
    yaw = round(math.degrees(shown["azimuth"] - math.pi / 2))
    assert f"{abs(yaw)}° {'right' if yaw > 0 else 'left'}" in stated_view


def test_wheel_zooms_within_limits_and_edit_from_here_resets_the_zoom(open_page, cat):
    page = open_page()
    open_drawing(page, cat)
    page.locator("#viewer").hover()
    for direction, limit in ((-1, 3.0), (1, 0.75)):
        with wait_for_image(page):
            for _ in range(12):
                page.mouse.wheel(0, direction * 120)
        assert json.loads(wait_until_settled(page)["view"])["zoom"] == limit
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    sync_api.expect(page.locator("#drawing-view")).to_have_text("from 5° left")
    assert json.loads(wait_until_settled(page)["view"])["zoom"] == 1
    assert np.array_equal(drawing(page), pixels(save(page, "labels-ids")))
    compass = page.locator("#compass")
    assert compass.get_attribute("aria-label") == "Drawing seen from 5° left, object seen from 5° left"
    with wait_for_image(page):
        page.keyboard.press("r")
    assert (
        page.locator("#compass").get_attribute("aria-label") == "Drawing seen from 5° left, object seen from the front"
    )


def test_two_open_pages_are_independent(open_page, cat):
    one, two = open_page(), open_page()
    open_drawing(one, cat)
    with wait_for_image(two):
        stroke(two, (20, 20), (100, 100))
    images = [save(page, "image") for page in (one, two)]
    drag(one, -50, 0, release=False)
    drag(two, 50, 0, release=False)
    for page in (one, two):
        with wait_for_image(page):
            page.mouse.up()
        with wait_for_image(page):
            page.keyboard.press("r")
    assert [save(page, "image") for page in (one, two)] == images
    assert not np.array_equal(drawing(one), drawing(two))


# --------------------------------------------------------------------------- files


def test_a_file_dropped_on_the_page_is_opened(open_page):
    page = open_page()
    ids = np.arange(128 * 128, dtype=np.uint8).reshape(128, 128) % 6
    with wait_for_image(page):
        page.evaluate(
            """content => {
                const files = new DataTransfer();
                files.items.add(new File([new Uint8Array(content)], "ids.png"));
                document.body.dispatchEvent(new DragEvent("drop", {dataTransfer: files, bubbles: true}));
            }""",
            list(png(ids)),
        )
    assert np.array_equal(drawing(page), ids)


def test_a_session_file_without_suffix_opens_in_a_new_page(open_page, cat):
    page, fresh = open_page(), open_page()
    open_drawing(page, cat)
    content = save(page, "session")
    with wait_for_image(fresh):
        open_file(fresh, "no_suffix", content)
    fresh.keyboard.press("Enter")
    assert fresh.locator("#results figure").count() == 1
    assert save(fresh, "image") == save(page, "image")


@pytest.mark.slow
@pytest.mark.parametrize(("option", "start"), [("video-gif", b"GIF89a"), ("mesh-ply", b"ply\n")])
def test_videos_and_meshes_are_downloaded_unless_canceled(open_page, cat, option, start):
    page = open_page()
    open_drawing(page, cat)
    assert save(page, option).startswith(start)
    assert not page.locator("#progress-row").is_visible()
    page.click("#save")
    page.click(f"[data-save={option}]")
    page.locator("#progress-row").wait_for()
    image = save(page, "image")
    assert image.startswith(b"\x89PNG") and page.locator("#progress-row").is_visible(), "an image is saved meanwhile"
    page.on("download", lambda _: pytest.fail("the canceled file was downloaded"))
    page.click("[data-action=cancel]")
    page.locator("#progress-row").wait_for(state="hidden")
    with wait_for_image(page):
        drag(page, -40, 0)


NOISE = np.random.RandomState(0).randint(0, 150, (64, 64, 3), np.uint8)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("photo.png", png(NOISE), "looks like a photo"),
        ("cat.png", b"a cat, please", "not a PNG or JPEG image"),
        ("ids.png", png(np.full((8, 8), 9, np.uint8)), "got class 9 at x=0 y=0; this network's classes are 0 to 5"),
        ("wide.png", png(np.zeros((4, 8), np.uint8)), "expected a square image"),
        ("empty.png", b"", "the file is empty"),
        ("session.json", b'{"format": "other"}', "not a session file of this editor"),
        ("large.png", bytes(17 * 2**20), "the limit is 16 MB"),
    ],
)
def test_an_invalid_file_is_rejected_with_a_reason_and_the_drawing_stays(open_page, tmp_path, name, content, reason):
    page = open_page()
    stroke(page, (30, 30), (90, 90))
    before = drawing(page)
    (tmp_path / name).write_bytes(content)
    page.set_input_files("#file", tmp_path / name)
    sync_api.expect(page.locator("#notifications p")).to_contain_text(f"{name}: ")
    sync_api.expect(page.locator("#notifications p")).to_contain_text(reason)
    assert np.array_equal(drawing(page), before)
    with wait_for_image(page):
        stroke(page, (90, 30), (30, 90))


def test_a_rendering_error_is_shown_and_the_page_keeps_working(open_page, model, monkeypatch):
    page = open_page()
    with monkeypatch.context() as patch:
        patch.setattr(model.G, "synthesis", lambda *a, **k: 1 / 0)
        stroke(page, (30, 30), (90, 90))
        sync_api.expect(page.locator("#notifications p")).to_contain_text("Server error: ZeroDivisionError")
    with wait_for_image(page):
        stroke(page, (90, 30), (30, 90))
