"""The page of the editor and a slow server: whatever is done before an answer comes, what is wanted is shown."""

import base64
import json
import threading
from contextlib import contextmanager

import numpy as np
import pytest
from editor_browser import (
    address,
    browser,
    cat,
    drag,
    drawing,
    gate,
    needs_browser,
    new_picture,
    open_drawing,
    opened,
    pixels,
    position,
    saved,
    scene_of,
    settled,
    stroke,
    studio,
    sync_api,
    yaw_of,
)
from editor_pages import real_server
from small_data import png

from applications.editor.requests import Requests
from applications.editor.session_file import write_session
from applications.editor.studio import Studio

__all__ = ["address", "browser", "cat", "gate", "opened", "studio"]  # fixtures
pytestmark = needs_browser


@pytest.fixture
def page(opened, cat):
    page = opened()
    open_drawing(page, cat)
    return page


@contextmanager
def broken(studio):
    """Pictures fail meanwhile."""
    working, studio.G.synthesis = studio.G.synthesis, lambda *a, **k: 1 / 0
    try:
        yield
    finally:
        studio.G.synthesis = working


def choose(page, number, what="button"):
    page.click(f"#strip figure:nth-child({number}) {what}")


def move_blend(page, share, event="change"):
    page.locator("#blend").evaluate(
        "(slider, [share, event]) => { slider.value = share; slider.dispatchEvent(new Event(event)); }", [share, event]
    )


def ws(studio, scene):
    return studio.ws(scene).numpy()


def ws_of(session):
    return np.frombuffer(base64.b64decode(json.loads(session)["ws_float32"]), "<f4")


# --------------------------------------------------------------------------- edit from here


def test_edit_from_here_waits_for_the_picture_of_that_view(page, gate):
    drag(page, -60, 0)
    settled(page)
    gate.shut()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    gate.open()
    yaw = yaw_of(page)
    assert page.inner_text("#place") == f"from {round(abs(yaw))}° right"
    assert np.array_equal(drawing(page), pixels(saved(page, "view-ids")))


def test_edit_from_here_is_given_up_by_turning_on(page, gate):
    before = drawing(page)
    gate.shut()
    drag(page, -60, 0)
    page.keyboard.press("Enter")
    drag(page, -80, 0)
    gate.open()
    settled(page)
    assert page.inner_text("#place") == "from the front" and np.array_equal(drawing(page), before)
    assert yaw_of(page) > 10


def test_edit_from_here_that_failed_does_not_come_back_later(page, studio):
    before = drawing(page)
    with new_picture(page):
        page.keyboard.press("+")
    with broken(studio):
        page.keyboard.press("Enter")
        sync_api.expect(page.locator("#notes p")).to_contain_text("ZeroDivisionError")
    with new_picture(page):
        page.keyboard.press("ArrowLeft")
    assert page.inner_text("#place") == "from the front" and np.array_equal(drawing(page), before)


# --------------------------------------------------------------------------- views


def test_the_picture_is_seen_from_where_the_page_says(page, gate):
    gate.shut()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("r")
    gate.open()
    assert yaw_of(page) == 0 and page.inner_text("#seen-from") == "from the front"
    gate.shut()
    drag(page, -80, 0, release=False)
    box = page.locator("#orbit").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=3)
    page.mouse.up()
    gate.open()
    assert yaw_of(page) == 0 and page.inner_text("#seen-from") == "from the front"


def test_a_page_has_one_question_at_a_time(page, gate, monkeypatch):
    asked, look = [], Requests.look
    monkeypatch.setattr(Requests, "look", lambda *args, **values: asked.append(values) or look(*args, **values))
    gate.shut()
    drag(page, -90, 0, steps=30)
    gate.open()
    settled(page)
    assert [values["quality"] for values in asked] == ["preview", "full"], "the first move, and where it ended"


def test_a_view_that_failed_does_not_keep_the_next_one_from_being_asked_for(page, gate, studio, monkeypatch):
    picture, faults = studio.picture, [ZeroDivisionError()]

    def fails_once(*args):
        found = picture(*args)
        if faults:
            raise faults.pop()
        return found

    monkeypatch.setattr(studio, "picture", fails_once)
    gate.shut()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    gate.open()
    sync_api.expect(page.locator("#notes p")).to_contain_text("ZeroDivisionError")
    assert yaw_of(page) == -10


# --------------------------------------------------------------------------- scenes


def test_a_new_style_right_after_a_stroke_keeps_the_form_of_that_stroke(page, gate, studio):
    before = scene_of(page)
    gate.shut()
    page.keyboard.press("2")
    stroke(page, (20, 100), (110, 100))
    page.keyboard.press("n")
    gate.open()
    page.locator("#strip figure").nth(2).wait_for()
    styled = scene_of(page)
    with new_picture(page):
        choose(page, 2)
    stroked = scene_of(page)
    form = [ws(studio, scene)[:, :7] for scene in (before, stroked, styled)]
    assert np.array_equal(form[1], form[2]) and not np.array_equal(form[0], form[2])


def test_a_result_that_was_chosen_stays_though_older_pictures_come(page, gate):
    first = scene_of(page)
    with new_picture(page):
        page.keyboard.press("n")
    gate.shut()
    drag(page, -30, 0)
    choose(page, 1)
    gate.open()
    settled(page)  # the picture of the drag has come before this one
    drag(page, -30, 0)
    assert scene_of(page) == first
    assert page.locator("#strip figure.now").evaluate("e => [...e.parentNode.children].indexOf(e)") == 0


def test_a_blend_is_not_lost_by_turning(page, gate, studio):
    first = scene_of(page)
    with new_picture(page):
        page.keyboard.press("n")
    second = scene_of(page)
    choose(page, 1, "[data-end=first]")
    choose(page, 2, "[data-end=second]")
    gate.shut()
    drag(page, -20, 0)
    move_blend(page, 0.5)
    drag(page, -20, 0)
    gate.open()
    blended = scene_of(page)
    middle = (ws(studio, first) + ws(studio, second)) / 2
    np.testing.assert_allclose(ws(studio, blended), middle, rtol=1e-6, atol=1e-6)
    assert page.locator("#strip figure").count() == 3, "it is a result like others"


def asked_edits(studio, monkeypatch):
    """List that fills with the seed and the style of each edit that is made."""
    asked, edit = [], studio.edit

    def recorded(drawing, place, seed, style, geometry):
        asked.append((seed, style))
        return edit(drawing, place, seed, style, geometry)

    monkeypatch.setattr(studio, "edit", recorded)
    return asked


def two_ends(page):
    with new_picture(page):
        page.keyboard.press("n")
    choose(page, 1, "[data-end=first]")
    choose(page, 2, "[data-end=second]")


def test_a_stroke_after_the_blend_slider_was_dragged_has_the_texture_of_the_last_blend(page, gate, studio, monkeypatch):
    asked = asked_edits(studio, monkeypatch)
    two_ends(page)
    gate.shut()
    for share in (0.1, 0.5, 0.9):
        move_blend(page, share, "input")
    move_blend(page, 0.9)
    gate.open()
    blended = scene_of(page)
    with new_picture(page):
        stroke(page, (20, 100), (110, 100))
    assert asked[-1][1] == blended


def test_a_seed_that_is_typed_while_a_blend_is_made_is_kept(page, gate, studio, monkeypatch):
    asked = asked_edits(studio, monkeypatch)
    two_ends(page)
    gate.shut()
    move_blend(page, 0.4)
    page.fill("#seed", "42")
    page.locator("#seed").blur()
    gate.open()
    sync_api.expect(page.locator("#strip figure")).to_have_count(4)
    settled(page)
    assert asked[-1][0] == 42 and page.input_value("#seed") == "42"


def test_a_new_style_that_comes_while_one_paints_waits_for_the_end_of_the_stroke(page, gate):
    before = settled(page)["id"]
    gate.shut()
    stroke(page, (20, 30), (110, 30))
    page.keyboard.press("n")
    page.mouse.move(*position(page, 20, 60))
    page.mouse.down()
    page.mouse.move(*position(page, 60, 60))
    gate.open()
    page.wait_for_selector(f"#orbit[data-busy=false]:not([data-id='{before}'])")
    page.mouse.move(*position(page, 110, 60))
    page.mouse.up()
    sync_api.expect(page.locator("#seed")).to_have_value("1")
    assert (drawing(page)[[30, 60], 20:111] == 1).all()


def test_a_new_style_of_a_blend_keeps_its_form_though_it_is_undone_and_done_before_it_was_made(page, gate, studio):
    two_ends(page)
    with new_picture(page):
        page.keyboard.press("Delete")
    choose(page, 3, "[data-end=second]")
    move_blend(page, 0.5)
    blended = scene_of(page)
    gate.shut()
    page.keyboard.press("n")
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+y")
    gate.open()
    assert np.array_equal(ws(studio, scene_of(page))[:, :7], ws(studio, blended)[:, :7])


def test_a_stroke_after_a_blend_goes_on_from_the_blend(page):
    before = drawing(page)
    with new_picture(page):
        page.keyboard.press("Delete")
    with new_picture(page):
        stroke(page, (20, 20), (110, 110))
    last = drawing(page)
    choose(page, 1, "[data-end=first]")
    choose(page, 3, "[data-end=second]")
    with new_picture(page):
        move_blend(page, 0.3)
    blended = scene_of(page)
    shown = drawing(page)
    assert np.array_equal(shown, pixels(saved(page, "view-ids"))), "what the blend looks like is the drawing now"
    assert not np.array_equal(shown, before)
    page.keyboard.press("Control+z")
    assert np.array_equal(drawing(page), last)
    page.keyboard.press("Control+y")
    assert np.array_equal(drawing(page), shown) and scene_of(page) == blended


# --------------------------------------------------------------------------- keeping


def test_what_is_saved_right_after_a_stroke_is_what_was_painted(page, gate, studio):
    gate.shut("full")
    stroke(page, (20, 100), (110, 100))
    session = saved(page, "session", gate.open)
    assert np.array_equal(ws_of(session), ws(studio, scene_of(page)).ravel())
    gate.shut("full")
    drag(page, -60, 0)
    early = saved(page, "view-ids", gate.open)
    settled(page)
    assert saved(page, "view-ids") == early, "a preview is never saved"


def test_undo_returns_to_the_same_scene_and_style(page):
    scenes = [scene_of(page)]
    for act in (lambda: page.keyboard.press("n"), lambda: stroke(page, (20, 100), (110, 100))):
        with new_picture(page):
            act()
        scenes.append(scene_of(page))
    for scene, seed in ((scenes[1], "1"), (scenes[0], "0")):
        with new_picture(page):
            page.keyboard.press("Control+z")
        assert scene_of(page) == scene and page.input_value("#seed") == seed
    with new_picture(page):
        page.keyboard.press("Control+y")
        page.keyboard.press("Control+y")
    assert scene_of(page) == scenes[2]


def test_a_held_key_and_idle_ones_do_not_fill_the_steps_back(page):
    before = drawing(page)
    for _ in range(60):
        page.keyboard.down("Delete")  # from the second on as a held key repeats
    page.keyboard.up("Delete")
    page.keyboard.press("Delete")
    assert not drawing(page).any()
    page.keyboard.press("Control+z")
    assert np.array_equal(drawing(page), before)


def test_the_browser_asks_before_work_is_lost(opened, cat):
    asked = []
    fresh, painted = opened(), opened()
    open_drawing(painted, cat)
    for page in (fresh, painted):
        page.on("dialog", lambda dialog: asked.append(dialog.type) or dialog.accept())
        page.reload()
    assert asked == ["beforeunload"]


def test_what_was_painted_while_a_session_was_written_is_not_in_it(page, monkeypatch):
    asked, written = [], threading.Event()
    monkeypatch.setattr(
        "applications.editor.requests.write_session", lambda *args: written.wait(30) and write_session(*args)
    )
    with page.expect_download():
        page.keyboard.press("Control+s")
        stroke(page, (20, 100), (110, 100))
        written.set()
    page.on("dialog", lambda dialog: asked.append(dialog.type) or dialog.dismiss())
    with page.expect_event("dialog"):
        page.evaluate("setTimeout(() => location.reload())")
    with page.expect_download():
        page.keyboard.press("Control+s")
    assert asked == ["beforeunload"]
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert asked == ["beforeunload"]


def test_after_a_restart_of_the_server_the_page_goes_on_with_its_drawing(opened, cat, studio):
    with real_server(studio) as url:
        page = opened(url=url)
        open_drawing(page, cat)
        assert page.is_checked("#keep-style")
    sync_api.expect(page.locator("#status")).to_contain_text("no connection to the server")
    page.click("[data-action=save]")
    sync_api.expect(page.locator("#notes")).to_contain_text("Files need the server")
    stroke(page, (20, 100), (110, 100))
    fresh = Studio(studio.G, studio.cfg)  # knows no scene
    with real_server(fresh, port=int(url.rstrip("/").rpartition(":")[2])):
        sync_api.expect(page.locator("#notes")).to_contain_text("made again from the drawing")
        settled(page)
        found = drawing(page)
        assert not np.array_equal(found, cat) and found.tobytes() in fresh.drawings.items
        with new_picture(page):
            stroke(page, (20, 20), (110, 20))
        assert page.locator("#status").inner_text() == ""


def test_a_page_that_the_server_refuses_says_why(opened, studio, monkeypatch):
    monkeypatch.setattr("applications.editor.server.MAX_PAGES", 1)
    with real_server(studio) as url:
        refused = opened(url=url).context.new_page()
        refused.goto(url)
        sync_api.expect(refused.locator("#status")).to_contain_text("1 pages are open already; trying again")


def test_a_page_opens_with_an_object(opened, cat, studio):
    with real_server(studio, example=png(cat)) as url:
        page = opened(url=url)
        page.wait_for_selector("#orbit[data-busy=false][data-quality=full]")
        assert np.array_equal(drawing(page), cat) and page.locator("[data-action=undo]").is_disabled()
