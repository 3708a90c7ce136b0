"""The page of the editor in a real browser: painting, turning, styles, files, looks.

EDITOR_SCREENSHOTS=1 writes docs/images/editor*.png.
"""

import base64
import json
import math
import os

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
    needs_browser,
    new_picture,
    open_drawing,
    open_file,
    opened,
    pixels,
    saved,
    set_size,
    settled,
    stroke,
    studio,
    sync_api,
)
from paths import ROOT
from small_data import png

from dataset_preprocessing.toy import cats
from training.data.label_maps import PALETTE

__all__ = ["address", "browser", "cat", "opened", "studio"]  # fixtures
pytestmark = needs_browser
IMAGES = ROOT / "docs" / "images"


def texture(session):
    """The texture code in a session file."""
    contents = json.loads(session)
    ws = np.frombuffer(base64.b64decode(contents["ws_float32"]), "<f4").reshape(contents["ws_shape"])
    return ws[:, 7:]


# --------------------------------------------------------------------------- the whole way


@pytest.mark.parametrize("scale", [1.5, *(pytest.param(scale, marks=pytest.mark.slow) for scale in (1, 2))])
def test_strokes_arrive_at_the_server_as_exact_class_ids(opened, studio, scale):
    page = opened(device_scale_factor=scale)
    expected = np.zeros((128, 128), np.uint8)
    strokes = [
        *[(1, 40, (59.5, 69.5), (69.5, 69.5)), (2, 9, (30, 30), (45, 12)), (4, 1, (5, 100), (120, 90))],
        (3, 2, (99.5, 19.5), (99.5, 19.5)),  # of an even brush the middle is a pixel's corner
    ]
    for id, size, start, end in strokes:
        page.keyboard.press(str(id))
        set_size(page, min(size, 32))
        with new_picture(page):
            stroke(page, start, end)
        expected = capsule(expected, start, end, min(size, 32), id)
    assert np.array_equal(drawing(page), expected)
    assert expected.tobytes() in studio.drawings.items, "what the network encoded"
    assert np.array_equal(canvas(page, "drawing")[..., :3], PALETTE[expected]), "what the person sees"


def test_paint_turn_edit_from_there_keep_style_undo_save_and_reopen(opened, cat):
    page = opened()
    open_drawing(page, cat)
    start = drawing(page)

    page.keyboard.press("4")
    set_size(page, 13)
    with new_picture(page):
        stroke(page, (30, 80), (60, 90))
    assert np.array_equal(drawing(page), capsule(start, (30, 80), (60, 90), 13, 4))
    before = saved(page, "session")

    with new_picture(page):
        drag(page, -60, 20)
    view = json.loads(settled(page)["view"])
    assert view["azimuth"] > math.pi / 2 + 0.1 and view["polar"] < math.pi / 2
    assert "from the front" in page.inner_text("#place")
    shown = pixels(saved(page, "view-ids"))

    page.click("[data-action=edit-here]")
    sync_api.expect(page.locator("#place")).to_contain_text("right")
    assert np.array_equal(drawing(page), shown), "the rendered label map of this view is the drawing now"
    assert page.inner_text("#place") == page.inner_text("#seen-from")

    with new_picture(page):
        stroke(page, (40, 40), (70, 40))
    after = saved(page, "session")
    assert json.loads(after)["place"]["azimuth"] == view["azimuth"], "the edit is encoded from where it was painted"
    assert np.array_equal(texture(after), texture(before)), "the texture code is kept"
    assert json.loads(after)["ws_float32"] != json.loads(before)["ws_float32"]
    image, view_ids = saved(page, "image"), saved(page, "view-ids")

    with new_picture(page):
        page.keyboard.press("Control+z")
    assert np.array_equal(drawing(page), shown)
    with new_picture(page):
        page.keyboard.press("Control+y")
    assert saved(page, "image") == image

    again = opened()
    with new_picture(again):
        open_file(again, "session.json", after)
    assert saved(again, "image") == image and saved(again, "view-ids") == view_ids
    assert np.array_equal(drawing(again), drawing(page)) and saved(again, "session") == after
    assert np.array_equal(canvas(again, "image"), canvas(page, "image"))


@pytest.mark.skipif(not TRAINED, reason="random weights put label changes anywhere: needs the repository's network")
def test_the_rendered_label_map_changes_to_what_was_painted_where_it_was_painted(opened, cat):
    page = opened()
    open_drawing(page, cat)
    before = pixels(saved(page, "view-ids"))
    y, x = (int(v.mean()) for v in np.nonzero(cat == cats.MUZZLE))
    page.keyboard.press(str(cats.MUZZLE))
    set_size(page, 32)
    with new_picture(page):
        stroke(page, (x - 8, y + 6), (x + 8, y + 6))  # a broader muzzle
    after = pixels(saved(page, "view-ids"))
    painted = drawing(page) != cat
    changed = after != before
    assert changed[painted].mean() > 2 * changed[~painted].mean()
    assert (after[painted] == cats.MUZZLE).mean() > (before[painted] == cats.MUZZLE).mean()


def test_a_new_style_keeps_the_geometry_and_history_and_blend_return_to_it(opened, cat):
    page = opened()
    open_drawing(page, cat)
    first = json.loads(saved(page, "session"))
    image = saved(page, "image")
    with new_picture(page):
        page.keyboard.press("n")
    second = json.loads(saved(page, "session"))
    assert second["seed"] == first["seed"] + 1 and second["ws_float32"] != first["ws_float32"]
    assert first["ws_float32"][: 4 * 512 * 7] == second["ws_float32"][: 4 * 512 * 7], "geometry is the first rows"
    assert saved(page, "image") != image
    page.click("#strip figure:nth-child(1) [data-end=first]")
    page.click("#strip figure:nth-child(2) [data-end=second]")
    for share, end in ((1, second), (0, first)):
        with new_picture(page):
            page.locator("#blend").evaluate(
                "(element, value) => { element.value = value; element.dispatchEvent(new Event('change')); }", str(share)
            )
        assert json.loads(saved(page, "session"))["ws_float32"] == end["ws_float32"]
    with new_picture(page):
        page.click("#strip figure:nth-child(2) button")
    assert json.loads(saved(page, "session")) == second


def test_twenty_fast_drags_leave_the_newest_view(opened, cat):
    page = opened()
    open_drawing(page, cat)
    for number in range(20):
        drag(page, 7 * (-1) ** number * number, 3, steps=2)
    with new_picture(page):
        drag(page, -33, -11, steps=2)
    shown = json.loads(settled(page)["view"])
    wanted = page.locator("#seen-from").inner_text()
    yaw = round(math.degrees(shown["azimuth"] - math.pi / 2))
    assert f"{abs(yaw)}° {'right' if yaw > 0 else 'left'}" in wanted


def test_the_wheel_zooms_within_limits_and_drawings_are_made_in_the_networks_own_lens(opened, cat):
    page = opened()
    open_drawing(page, cat)
    page.locator("#orbit").hover()
    for direction, limit in ((-1, 3.0), (1, 0.75)):
        with new_picture(page):
            for _ in range(12):
                page.mouse.wheel(0, direction * 120)
        assert json.loads(settled(page)["view"])["zoom"] == limit
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    sync_api.expect(page.locator("#place")).to_have_text("from 5° left")
    assert json.loads(settled(page)["view"])["zoom"] == 1
    assert np.array_equal(drawing(page), pixels(saved(page, "view-ids")))
    assert page.locator("#compass").get_attribute("aria-label") == "Painting from 5° left; looking from 5° left"
    with new_picture(page):
        page.keyboard.press("r")
    assert page.locator("#compass").get_attribute("aria-label") == "Painting from 5° left; looking from the front"


def test_two_pages_at_once_do_not_disturb_each_other(opened, cat):
    one, two = opened(), opened()
    open_drawing(one, cat)
    with new_picture(two):
        stroke(two, (20, 20), (100, 100))
    pictures = [saved(page, "image") for page in (one, two)]
    drag(one, -50, 0, release=False)
    drag(two, 50, 0, release=False)
    for page in (one, two):
        with new_picture(page):
            page.mouse.up()
        with new_picture(page):
            page.keyboard.press("r")
    assert [saved(page, "image") for page in (one, two)] == pictures
    assert not np.array_equal(drawing(one), drawing(two))


# --------------------------------------------------------------------------- files


def test_files_dropped_on_the_page_open(opened):
    page = opened()
    ids = np.arange(128 * 128, dtype=np.uint8).reshape(128, 128) % 6
    with new_picture(page):
        page.evaluate(
            """content => {
                const files = new DataTransfer();
                files.items.add(new File([new Uint8Array(content)], "ids.png"));
                document.body.dispatchEvent(new DragEvent("drop", {dataTransfer: files, bubbles: true}));
            }""",
            list(png(ids)),
        )
    assert np.array_equal(drawing(page), ids)


def test_a_session_is_known_by_its_content_and_opens_in_a_fresh_page(opened, cat):
    page, fresh = opened(), opened()
    open_drawing(page, cat)
    content = saved(page, "session")
    with new_picture(fresh):
        open_file(fresh, "no_ending", content)
    fresh.keyboard.press("Enter")
    assert fresh.locator("#strip figure").count() == 1
    assert saved(fresh, "image") == saved(page, "image")


@pytest.mark.slow
@pytest.mark.parametrize(("what", "start"), [("film-gif", b"GIF89a"), ("mesh-ply", b"ply\n")])
def test_a_film_and_a_mesh_come_from_the_page_and_a_cancelled_one_does_not(opened, cat, what, start):
    page = opened()
    open_drawing(page, cat)
    assert saved(page, what).startswith(start)
    assert not page.locator("#progress-row").is_visible()
    page.click("[data-action=save]")
    page.locator("#progress-row").wait_for()
    image = saved(page, "image")
    assert image.startswith(b"\x89PNG") and page.locator("#progress-row").is_visible(), "it comes meanwhile"
    page.on("download", lambda _: pytest.fail("it came"))
    page.click("[data-action=cancel]")
    page.locator("#progress-row").wait_for(state="hidden")
    with new_picture(page):
        drag(page, -40, 0)


NOISE = np.random.RandomState(0).randint(0, 150, (64, 64, 3), np.uint8)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("photo.png", png(NOISE), "looks like a photo"),
        ("cat.png", b"a cat, please", "not a PNG or JPEG picture"),
        ("ids.png", png(np.full((8, 8), 9, np.uint8)), "class 9 found at x=0 y=0; this network knows 0 to 5"),
        ("wide.png", png(np.zeros((4, 8), np.uint8)), "expected a square picture"),
        ("empty.png", b"", "the file is empty"),
        ("session.json", b'{"format": "other"}', "not a session file of this editor"),
        ("large.png", bytes(17 * 2**20), "files up to 16 MB"),
    ],
)
def test_a_wrong_file_is_refused_with_a_reason_and_the_drawing_stays(opened, tmp_path, name, content, reason):
    page = opened()
    stroke(page, (30, 30), (90, 90))
    before = drawing(page)
    (tmp_path / name).write_bytes(content)
    page.set_input_files("#file", tmp_path / name)
    sync_api.expect(page.locator("#notes p")).to_contain_text(f"{name}: ")
    sync_api.expect(page.locator("#notes p")).to_contain_text(reason)
    assert np.array_equal(drawing(page), before)
    with new_picture(page):
        stroke(page, (90, 30), (30, 90))


def test_a_crash_in_rendering_is_shown_and_the_page_works_on(opened, studio, monkeypatch):
    page = opened()
    with monkeypatch.context() as patch:
        patch.setattr(studio.G, "synthesis", lambda *a, **k: 1 / 0)
        stroke(page, (30, 30), (90, 90))
        sync_api.expect(page.locator("#notes p")).to_contain_text("the server failed: ZeroDivisionError")
    with new_picture(page):
        stroke(page, (90, 30), (30, 90))


# --------------------------------------------------------------------------- looks


SIZES = {"editor": (1280, 720, "light"), "editor_dark": (1280, 720, "dark"), "editor_tablet": (820, 1180, "light")}


@pytest.mark.parametrize("name", SIZES)
def test_everything_is_on_the_screen(opened, cat, name):
    width, height, colors = SIZES[name]
    page = opened(width, height, colors)
    open_drawing(page, cat)
    page.keyboard.press("n")
    page.locator("#strip figure").nth(1).wait_for()
    with new_picture(page):
        page.keyboard.press("ArrowRight")
    scroll = page.evaluate("() => [document.body.scrollWidth, document.body.scrollHeight]")
    assert scroll[0] <= width and scroll[1] <= height
    for element in page.locator("button:visible, input:visible, select:visible, canvas:visible").all():
        box = element.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width, element.evaluate("e => e.outerHTML")
        assert box["y"] >= 0 and box["y"] + box["height"] <= height, element.evaluate("e => e.outerHTML")
    reveal = "e => { e.value = 45; e.dispatchEvent(new Event('input')); e.blur(); }"
    page.locator("#reveal").evaluate(reveal)
    if os.environ.get("EDITOR_SCREENSHOTS"):
        page.screenshot(path=IMAGES / f"{name}.png")
