"""The page of the editor with a slow server: actions before a reply arrives still lead to the right result."""

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
    is_encoded,
    model,
    needs_browser,
    open_drawing,
    open_page,
    pixels,
    position,
    save,
    shown_scene,
    shown_yaw,
    stroke,
    sync_api,
    wait_for_image,
    wait_until_settled,
)
from editor_pages import GEOMETRY_LAYERS, real_server

from applications.editor.examples import TOY_EXAMPLES
from applications.editor.model import EditorModel
from applications.editor.requests import RequestHandler
from applications.editor.session_file import read_drawing_file, write_session

__all__ = ["address", "browser", "cat", "gate", "model", "open_page"]  # fixtures
pytestmark = needs_browser


@pytest.fixture
def page(open_page, cat):
    page = open_page()
    open_drawing(page, cat)
    return page


@contextmanager
def failing_renders(model):
    """Context manager in which rendering fails."""
    working, model.G.synthesis = model.G.synthesis, lambda *a, **k: 1 / 0
    try:
        yield
    finally:
        model.G.synthesis = working


def click_result(page, number, element="button"):
    page.click(f"#results figure:nth-child({number}) {element}")


def move_blend(page, share, event="change"):
    page.locator("#blend").evaluate(
        "(slider, [share, event]) => { slider.value = share; slider.dispatchEvent(new Event(event)); }", [share, event]
    )


def ws(model, scene):
    return model.ws(scene).numpy()


def ws_of(session):
    return np.frombuffer(base64.b64decode(json.loads(session)["ws_float32"]), "<f4")


# --------------------------------------------------------------------------- edit from here


def test_edit_from_here_waits_for_the_image_of_that_view(page, gate):
    drag(page, -60, 0)
    wait_until_settled(page)
    gate.close()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    gate.open()
    yaw = shown_yaw(page)
    assert page.inner_text("#drawing-view") == f"from {round(abs(yaw))}° right"
    assert np.array_equal(drawing(page), pixels(save(page, "labels-ids")))


def test_edit_from_here_is_canceled_by_further_rotation(page, gate):
    before = drawing(page)
    gate.close()
    drag(page, -60, 0)
    page.keyboard.press("Enter")
    drag(page, -80, 0)
    gate.open()
    wait_until_settled(page)
    assert page.inner_text("#drawing-view") == "from the front" and np.array_equal(drawing(page), before)
    assert shown_yaw(page) > 10


def test_a_failed_edit_from_here_is_not_resumed_later(page, model):
    before = drawing(page)
    with wait_for_image(page):
        page.keyboard.press("+")
    with failing_renders(model):
        page.keyboard.press("Enter")
        sync_api.expect(page.locator("#notifications p")).to_contain_text("ZeroDivisionError")
    with wait_for_image(page):
        page.keyboard.press("ArrowLeft")
    assert page.inner_text("#drawing-view") == "from the front" and np.array_equal(drawing(page), before)


# --------------------------------------------------------------------------- views


def test_the_image_has_the_view_that_the_page_states(page, gate):
    gate.close()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("r")
    gate.open()
    assert shown_yaw(page) == 0 and page.inner_text("#object-view") == "from the front"
    gate.close()
    drag(page, -80, 0, release=False)
    box = page.locator("#viewer").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=3)
    page.mouse.up()
    gate.open()
    assert shown_yaw(page) == 0 and page.inner_text("#object-view") == "from the front"


def test_a_page_has_one_request_in_flight(page, gate, monkeypatch):
    requests = []
    render = RequestHandler.render
    monkeypatch.setattr(
        RequestHandler, "render", lambda *args, **values: requests.append(values) or render(*args, **values)
    )
    gate.close()
    drag(page, -90, 0, steps=30)
    gate.open()
    wait_until_settled(page)
    assert [values["quality"] for values in requests] == ["preview", "full"], "the first and the last view"


def test_a_failed_view_does_not_block_the_next_one(page, gate, model, monkeypatch):
    render = model.render
    errors = [ZeroDivisionError()]

    def fails_once(*args):
        image = render(*args)
        if errors:
            raise errors.pop()
        return image

    monkeypatch.setattr(model, "render", fails_once)
    gate.close()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    gate.open()
    sync_api.expect(page.locator("#notifications p")).to_contain_text("ZeroDivisionError")
    assert shown_yaw(page) == -10


# --------------------------------------------------------------------------- scenes


def test_a_new_style_right_after_a_stroke_keeps_the_geometry_of_that_stroke(page, gate, model):
    before = shown_scene(page)
    gate.close()
    page.keyboard.press("2")
    stroke(page, (20, 100), (110, 100))
    page.keyboard.press("n")
    gate.open()
    page.locator("#results figure").nth(2).wait_for()
    styled = shown_scene(page)
    with wait_for_image(page):
        click_result(page, 2)
    stroked = shown_scene(page)
    geometry = [ws(model, scene)[:, :GEOMETRY_LAYERS] for scene in (before, stroked, styled)]
    assert np.array_equal(geometry[1], geometry[2]) and not np.array_equal(geometry[0], geometry[2])


def test_a_selected_result_stays_although_older_images_arrive(page, gate):
    first = shown_scene(page)
    with wait_for_image(page):
        page.keyboard.press("n")
    gate.close()
    drag(page, -30, 0)
    click_result(page, 1)
    gate.open()
    wait_until_settled(page)  # the image of the drag arrived first
    drag(page, -30, 0)
    assert shown_scene(page) == first
    assert page.locator("#results figure.current").evaluate("e => [...e.parentNode.children].indexOf(e)") == 0


def test_rotation_does_not_cancel_a_blend(page, gate, model):
    first = shown_scene(page)
    with wait_for_image(page):
        page.keyboard.press("n")
    second = shown_scene(page)
    click_result(page, 1, "[data-endpoint=first]")
    click_result(page, 2, "[data-endpoint=second]")
    gate.close()
    drag(page, -20, 0)
    move_blend(page, 0.5)
    drag(page, -20, 0)
    gate.open()
    blended = shown_scene(page)
    middle = (ws(model, first) + ws(model, second)) / 2
    np.testing.assert_allclose(ws(model, blended), middle, rtol=1e-6, atol=1e-6)
    assert page.locator("#results figure").count() == 3, "a blend is added to the results"


def record_edits(model, monkeypatch):
    """Return a list that receives the seed and the style of each edit."""
    edits = []
    edit = model.edit

    def record(seed, style, **fields):
        edits.append((seed, style))
        return edit(seed=seed, style=style, **fields)

    monkeypatch.setattr(model, "edit", record)
    return edits


def mark_two_results(page):
    with wait_for_image(page):
        page.keyboard.press("n")
    click_result(page, 1, "[data-endpoint=first]")
    click_result(page, 2, "[data-endpoint=second]")


def test_a_stroke_after_dragging_the_blend_slider_keeps_the_texture_of_the_last_blend(page, gate, model, monkeypatch):
    edits = record_edits(model, monkeypatch)
    mark_two_results(page)
    gate.close()
    for share in (0.1, 0.5, 0.9):
        move_blend(page, share, "input")
    move_blend(page, 0.9)
    gate.open()
    blended = shown_scene(page)
    with wait_for_image(page):
        stroke(page, (20, 100), (110, 100))
    assert edits[-1][1] == blended


def test_a_seed_typed_during_a_blend_is_kept(page, gate, model, monkeypatch):
    edits = record_edits(model, monkeypatch)
    mark_two_results(page)
    gate.close()
    move_blend(page, 0.4)
    page.fill("#seed", "42")
    page.locator("#seed").blur()
    gate.open()
    sync_api.expect(page.locator("#results figure")).to_have_count(4)
    wait_until_settled(page)
    assert edits[-1][0] == 42 and page.input_value("#seed") == "42"


def test_a_new_style_waits_for_the_end_of_the_stroke_in_progress(page, gate):
    before = wait_until_settled(page)["id"]
    gate.close()
    stroke(page, (20, 30), (110, 30))
    page.keyboard.press("n")
    page.mouse.move(*position(page, 20, 60))
    page.mouse.down()
    page.mouse.move(*position(page, 60, 60))
    gate.open()
    page.wait_for_selector(f"#viewer[data-busy=false]:not([data-id='{before}'])")
    page.mouse.move(*position(page, 110, 60))
    page.mouse.up()
    sync_api.expect(page.locator("#seed")).to_have_value("1")
    assert (drawing(page)[[30, 60], 20:111] == 1).all()


def test_a_new_style_undone_and_redone_before_it_arrived_keeps_the_geometry_of_the_blend(page, gate, model):
    mark_two_results(page)
    with wait_for_image(page):
        page.keyboard.press("Delete")
    click_result(page, 3, "[data-endpoint=second]")
    move_blend(page, 0.5)
    blended = shown_scene(page)
    gate.close()
    page.keyboard.press("n")
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+y")
    gate.open()
    assert np.array_equal(ws(model, shown_scene(page))[:, :GEOMETRY_LAYERS], ws(model, blended)[:, :GEOMETRY_LAYERS])


def test_the_drawing_becomes_the_label_map_of_a_blend(page):
    before = drawing(page)
    with wait_for_image(page):
        page.keyboard.press("Delete")
    with wait_for_image(page):
        stroke(page, (20, 20), (110, 110))
    last = drawing(page)
    click_result(page, 1, "[data-endpoint=first]")
    click_result(page, 3, "[data-endpoint=second]")
    with wait_for_image(page):
        move_blend(page, 0.3)
    blended = shown_scene(page)
    shown = drawing(page)
    assert np.array_equal(shown, pixels(save(page, "labels-ids"))), "the drawing is the label map of the blend"
    assert not np.array_equal(shown, before)
    page.keyboard.press("Control+z")
    assert np.array_equal(drawing(page), last)
    page.keyboard.press("Control+y")
    assert np.array_equal(drawing(page), shown) and shown_scene(page) == blended


# --------------------------------------------------------------------------- undo, saving and reconnection


def test_saving_right_after_a_stroke_includes_the_stroke(page, gate, model):
    gate.close("full")
    stroke(page, (20, 100), (110, 100))
    session = save(page, "session", gate.open)
    assert np.array_equal(ws_of(session), ws(model, shown_scene(page)).ravel())
    gate.close("full")
    drag(page, -60, 0)
    early = save(page, "labels-ids", gate.open)
    wait_until_settled(page)
    assert save(page, "labels-ids") == early, "previews are never saved"


def test_undo_restores_scene_and_style(page):
    scenes = [shown_scene(page)]
    for act in (lambda: page.keyboard.press("n"), lambda: stroke(page, (20, 100), (110, 100))):
        with wait_for_image(page):
            act()
        scenes.append(shown_scene(page))
    for scene, seed in ((scenes[1], "1"), (scenes[0], "0")):
        with wait_for_image(page):
            page.keyboard.press("Control+z")
        assert shown_scene(page) == scene and page.input_value("#seed") == seed
    with wait_for_image(page):
        page.keyboard.press("Control+y")
        page.keyboard.press("Control+y")
    assert shown_scene(page) == scenes[2]


def test_held_keys_and_actions_without_effect_add_no_undo_steps(page):
    before = drawing(page)
    for _ in range(60):
        page.keyboard.down("Delete")  # all but the first are repeats of a held key
    page.keyboard.up("Delete")
    page.keyboard.press("Delete")
    assert not drawing(page).any()
    page.keyboard.press("Control+z")
    assert np.array_equal(drawing(page), before)


def test_the_browser_asks_before_unsaved_work_is_lost(open_page, cat):
    dialogs = []
    fresh, painted = open_page(), open_page()
    open_drawing(painted, cat)
    for page in (fresh, painted):
        page.on("dialog", lambda dialog: dialogs.append(dialog.type) or dialog.accept())
        page.reload()
    assert dialogs == ["beforeunload"]


def test_strokes_made_while_a_session_is_written_count_as_unsaved(page, monkeypatch):
    dialogs = []
    written = threading.Event()
    monkeypatch.setattr(
        "applications.editor.requests.write_session", lambda *args: written.wait(30) and write_session(*args)
    )
    with page.expect_download():
        page.keyboard.press("Control+s")
        stroke(page, (20, 100), (110, 100))
        written.set()
    page.on("dialog", lambda dialog: dialogs.append(dialog.type) or dialog.dismiss())
    with page.expect_event("dialog"):
        page.evaluate("setTimeout(() => location.reload())")
    with page.expect_download():
        page.keyboard.press("Control+s")
    assert dialogs == ["beforeunload"]
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert dialogs == ["beforeunload"]


def test_after_a_server_restart_the_page_continues_with_its_drawing(open_page, cat, model):
    with real_server(model) as url:
        page = open_page(url=url)
        open_drawing(page, cat)
        assert page.is_checked("#keep-style")
    sync_api.expect(page.locator("#status")).to_contain_text("Not connected to the server")
    page.keyboard.press("Control+s")
    sync_api.expect(page.locator("#notifications")).to_contain_text("Not connected to the server")
    stroke(page, (20, 100), (110, 100))
    fresh = EditorModel(model.G, model.cfg)  # has no scenes
    with real_server(fresh, port=int(url.rstrip("/").rpartition(":")[2])):
        sync_api.expect(page.locator("#notifications")).to_contain_text("rendered again from the drawing")
        wait_until_settled(page)
        restored = drawing(page)
        assert not np.array_equal(restored, cat) and is_encoded(fresh, restored)
        with wait_for_image(page):
            stroke(page, (20, 20), (110, 20))
        assert page.locator("#status").inner_text() == ""


def test_a_rejected_page_states_the_reason(open_page, model, monkeypatch):
    monkeypatch.setattr("applications.editor.server.MAX_PAGES", 1)
    with real_server(model) as url:
        refused = open_page(url=url).context.new_page()
        refused.goto(url)
        sync_api.expect(refused.locator("#status")).to_contain_text("limit of 1 open pages is reached. Reconnecting")


def test_a_page_starts_with_the_example_object(open_page, model):
    examples = TOY_EXAMPLES["seg2cat"]
    with real_server(model, examples=examples) as url:
        page = open_page(url=url)
        page.wait_for_selector("#viewer[data-busy=false][data-quality=full]")
        shown = read_drawing_file(examples[0].content, "seg", model.limits)
        assert np.array_equal(drawing(page), shown) and page.locator("[data-action=undo]").is_disabled()
