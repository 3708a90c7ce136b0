"""The page of the editor in a browser: tools, pointers and shortcuts."""

import json
from itertools import pairwise

import numpy as np
from editor_browser import (
    address,
    browser,
    canvas,
    capsule,
    cat,
    drag,
    drawing,
    model,
    needs_browser,
    open_drawing,
    open_page,
    position,
    save,
    set_size,
    stroke,
    sync_api,
    wait_for_image,
)

__all__ = ["address", "browser", "cat", "model", "open_page"]  # fixtures
pytestmark = needs_browser


def test_fill_line_eraser_and_pick_change_the_expected_pixels(open_page):
    page = open_page()
    expected = np.zeros((128, 128), np.uint8)
    page.keyboard.press("l")
    page.keyboard.press("3")
    set_size(page, 3)
    corners = [(20, 20), (100, 20), (100, 100), (20, 100), (20, 20)]
    for start, end in pairwise(corners):
        stroke(page, start, (64, 64), end)  # a line follows the pointer: only its last end counts
        expected = capsule(expected, start, end, 3, 3)
    page.keyboard.press("f")
    page.keyboard.press("5")
    stroke(page, (50, 50))
    expected[22:99, 22:99] = 5
    page.keyboard.press("e")
    set_size(page, 8)
    stroke(page, (59.5, 59.5))
    expected = capsule(expected, (59.5, 59.5), (59.5, 59.5), 8, 0)
    assert np.array_equal(drawing(page), expected)
    page.mouse.click(*position(page, 20, 60), button="right")
    assert page.locator("#classes [aria-pressed=true]").get_attribute("data-id") == "3"
    page.keyboard.press("p")
    stroke(page, (50, 50))
    assert page.locator("#classes [aria-pressed=true]").get_attribute("data-id") == "5"
    assert page.locator("#tool-choice [aria-pressed=true]").get_attribute("data-tool") == "brush"
    assert np.array_equal(drawing(page), expected)
    page.keyboard.press("Delete")
    assert not drawing(page).any()
    for _ in range(60):
        page.keyboard.press("Control+z")
    assert not drawing(page).any() and page.locator("[data-action=undo]").is_disabled()
    for _ in range(6):
        page.keyboard.press("Control+Shift+Z")
    assert np.array_equal(drawing(page), expected)


def test_undo_goes_back_at_most_fifty_steps(open_page):
    page = open_page()
    set_size(page, 1)
    for number in range(52):
        page.mouse.click(*position(page, 2 * number, 5))
    for _ in range(60):
        page.keyboard.press("Control+z")
    assert np.flatnonzero(drawing(page)[5]).tolist() == [0, 2]


def fingers(page, *steps):
    """Touch the screen; each step lists the positions of all fingers, and the last is empty."""
    session = page.context.new_cdp_session(page)
    kinds = ["touchStart", *["touchMove"] * (len(steps) - 2), "touchEnd"]
    for kind, points in zip(kinds, steps, strict=True):
        touches = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})


def pointer(page, name, x, y, **values):
    """Dispatch an event of a pointer that Playwright does not support, at pixel x, y of the drawing."""
    x, y = position(page, x, y)
    page.locator("#drawing").evaluate(
        """(canvas, [name, values]) => {
            canvas.setPointerCapture = () => {};
            canvas.dispatchEvent(new PointerEvent(name, {bubbles: true, button: 0, buttons: 1, ...values}));
        }""",
        [name, {"clientX": x, "clientY": y, **values}],
    )


def test_one_finger_draws_and_rotates_and_two_zoom(open_page):
    page = open_page(820, 700, has_touch=True)
    with wait_for_image(page):
        fingers(page, [position(page, 64, 64)], [position(page, 80, 64)], [])
    page.locator("#results figure").wait_for()
    assert page.evaluate("scrollY") == 0, "the strip of results scrolls, but not the page"
    assert drawing(page)[64, 64:80].all()
    page.evaluate("scrollTo(0, 0)")
    box = page.locator("#viewer").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    with wait_for_image(page):
        fingers(page, [(x, y)], [(x - 40, y)], [])
    assert page.inner_text("#object-view").endswith("right")
    with wait_for_image(page):
        fingers(page, [(x - 40, y), (x + 40, y)], [(x - 80, y), (x + 80, y)], [])
    assert page.inner_text("#object-zoom") == "2.00× Reset"


def test_a_pen_overrides_touch_and_its_eraser_erases(open_page):
    page = open_page()
    set_size(page, 3)
    hand = {"pointerId": 7, "pointerType": "touch"}
    pen = {"pointerId": 8, "pointerType": "pen"}
    pointer(page, "pointerdown", 100, 100, **hand)
    pointer(page, "pointerdown", 20, 20, **pen)
    pointer(page, "pointermove", 110, 110, **hand)
    pointer(page, "pointermove", 60, 20, **pen)
    pointer(page, "pointerup", 110, 110, **hand)
    pointer(page, "pointerup", 60, 20, **pen)
    assert np.array_equal(drawing(page), capsule(np.zeros((128, 128), np.uint8), (20, 20), (60, 20), 3, 1))
    pointer(page, "pointerdown", 60, 20, **pen, button=5, buttons=32)
    pointer(page, "pointermove", 20, 20, **pen, button=-1, buttons=32)
    pointer(page, "pointerup", 20, 20, **pen, button=5, buttons=0)
    assert not drawing(page).any()


def test_other_mouse_buttons_neither_draw_nor_rotate(open_page, cat):
    page = open_page()
    open_drawing(page, cat)
    page.mouse.click(*position(page, 10, 100), button="middle")
    assert np.array_equal(drawing(page), cat)
    box = page.locator("#viewer").bounding_box()
    page.mouse.move(box["x"] + 200, box["y"] + 200)
    page.mouse.down(button="right")
    page.mouse.move(box["x"] + 260, box["y"] + 200)
    page.mouse.up(button="right")
    assert page.inner_text("#object-view") == "from the front"


def test_strokes_follow_the_pointer_on_an_enlarged_drawing(open_page):
    page = open_page()
    set_size(page, 1)
    page.mouse.move(*position(page, 127, 127))
    page.keyboard.down("Control")
    page.mouse.wheel(0, -200)
    page.keyboard.up("Control")
    assert page.locator("#drawing").bounding_box()["width"] > 6 * page.locator("#frame").bounding_box()["width"]
    page.mouse.wheel(0, -100)
    page.mouse.click(*position(page, 120, 120))
    cursor = page.locator("#cursor").bounding_box()
    x, y = position(page, 120, 120)
    assert abs(cursor["x"] + cursor["width"] / 2 - x) < 1 and abs(cursor["y"] + cursor["height"] / 2 - y) < 1
    assert np.argwhere(drawing(page)).tolist() == [[120, 120]]


def test_escape_cancels_a_stroke(open_page):
    page = open_page()
    page.mouse.move(*position(page, 20, 20))
    page.mouse.down()
    page.mouse.move(*position(page, 90, 90))
    page.keyboard.press("Escape")
    page.mouse.up()
    assert not drawing(page).any() and page.locator("[data-action=undo]").is_disabled()


def test_shortcuts_work_after_a_click_but_not_while_typing_in_a_field(open_page, cat):
    page = open_page()
    open_drawing(page, cat)
    page.click("#classes button:nth-child(3)")
    with wait_for_image(page):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")  # does not press the button again
    sync_api.expect(page.locator("#drawing-view")).to_have_text("from 5° left")
    before = drawing(page)
    page.focus("#seed")
    page.keyboard.press("Control+z")
    page.keyboard.press("7")
    with wait_for_image(page):
        page.locator("#seed").blur()
    assert np.array_equal(drawing(page), before) and json.loads(save(page, "session"))["seed"] == 70
    with wait_for_image(page):
        page.fill("#seed", "1e99")
        page.locator("#seed").blur()
    assert page.input_value("#seed") == str(2**32 - 1)


def test_arrow_keys_rotate_like_a_drag_in_that_direction(open_page, cat):
    page = open_page()
    open_drawing(page, cat)
    for key, right, down in (("ArrowRight", 30, 0), ("ArrowUp", 0, -30)):
        directions = []
        for turn in (lambda k=key: page.keyboard.press(k), lambda r=right, d=down: drag(page, r, d)):
            with wait_for_image(page):
                turn()
            directions.append(page.inner_text("#object-view").split()[-1])
            with wait_for_image(page):
                page.keyboard.press("r")
        assert directions[0] == directions[1]


def test_the_overlay_shows_only_when_drawing_and_image_have_the_same_view(open_page, cat):
    page = open_page()
    open_drawing(page, cat)
    page.keyboard.press("v")
    assert page.locator("#overlay").is_visible()
    assert np.array_equal(canvas(page, "overlay"), canvas(page, "image"))
    with wait_for_image(page):
        page.keyboard.press("ArrowLeft")
    assert not page.locator("#overlay").is_visible()
    page.keyboard.press("Enter")
    sync_api.expect(page.locator("#overlay")).to_be_visible()


def test_help_lists_the_shortcuts_and_closes(open_page):
    page = open_page()
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    assert page.locator("#shortcuts dt").count() >= 20
    page.keyboard.press("Escape")
    assert not page.locator("#help").is_visible()
    for close in (lambda: page.keyboard.press("?"), lambda: page.mouse.click(5, 5)):
        page.keyboard.press("?")
        assert page.locator("#help").is_visible()
        close()
        assert not page.locator("#help").is_visible()


def test_unavailable_actions_are_disabled(open_page):
    page = open_page()
    unavailable = [f"[data-action={action}]" for action in ("undo", "redo", "clear", "edit-here", "new-style")]
    unavailable += [f"[data-save={kind}]" for kind in ("image", "labels-ids", "video-gif", "mesh-ply", "session")]
    for selector in unavailable:
        assert page.locator(selector).is_disabled(), selector
    assert page.locator("[data-save=drawing-ids]").is_enabled(), "an empty drawing can be saved"
    for key in ("Enter", "n", "Delete", "a", ">", "PageUp", "Control+z"):
        page.keyboard.press(key)
    page.keyboard.press("Control+s")
    sync_api.expect(page.locator("#notifications p")).to_contain_text("Draw something first")
    with wait_for_image(page):
        stroke(page, (20, 20), (90, 90))
    assert page.locator("[data-save=image]").is_enabled()
