"""Messages between page and server, and session files: what is taken, what is refused and why."""

import base64
import json
import re

import numpy as np
import pytest
import torch
from editor_pages import FRONT, json_line, page_of, serving, tiny_studio
from editor_pages import app_of as editor
from small_data import png

from applications.editor import session_file
from applications.editor.protocol import (
    MAX_HEADER_BYTES,
    MAX_MESSAGE_BYTES,
    Bounds,
    MessageError,
    Orbit,
    View,
    pack,
    read_message,
    unpack,
)
from training.data.label_maps import colorize

BOUNDS = Bounds(16, 6, Orbit((1.0, 2.0), (1.2, 1.8), (0.75, 3.0), False))
DRAWING = np.arange(256, dtype=np.uint8).reshape(16, 16) % 6
VIEW = {"azimuth": 1.5, "polar": 1.5, "zoom": 1}
EDIT = {
    "type": "edit", "id": 7, "place": VIEW, "seed": 3, "style": None, "geometry": "a" * 32, "view": VIEW,
    "quality": "full",
}  # fmt: skip
LOOK = {"type": "look", "id": 8, "scene": None, "view": VIEW, "quality": "full"}
BLEND = {
    "type": "blend", "id": 9, "first": "0" * 32, "second": "f" * 32, "share": 0.5, "place": VIEW, "view": VIEW,
    "quality": "full",
}  # fmt: skip


def test_what_is_packed_is_unpacked():
    payload = bytes(range(256))
    assert unpack(pack(payload, type="x", id=1)) == ({"type": "x", "id": 1}, payload)


def test_a_good_message_arrives_with_its_values_in_their_types():
    message = read_message(pack(DRAWING.tobytes(), **EDIT), BOUNDS)
    assert (message.kind, message.id) == ("edit", 7)
    assert message.values["view"] == View(1.5, 1.5, 1.0)
    assert (message.values["seed"], message.values["style"], message.values["geometry"]) == (3, None, "a" * 32)
    assert np.array_equal(message.values["drawing"], DRAWING)


def test_a_view_on_the_limit_is_taken_though_the_page_rounded_it():
    message = read_message(pack(**LOOK | {"view": VIEW | {"azimuth": 2.0 + 5e-7}}), BOUNDS)
    assert message.values["view"].azimuth == 2.0


def without(message, name):
    return {key: value for key, value in message.items() if key != name}


# What a page could send by mistake or malice, and what the refusal must say.
HOSTILE = {
    "nothing": (b"", "no line of JSON"),
    "no newline": (b'{"type": "look"}', "no line of JSON in the first 4096"),
    "endless line": (b" " * (MAX_HEADER_BYTES + 1) + b"\n", "no line of JSON in the first 4096"),
    "too large": (bytes(MAX_MESSAGE_BYTES + 1), f"at most {MAX_MESSAGE_BYTES}"),
    "pixels only": (bytes(range(11, 256)) + b"\n", "not JSON"),
    "bad UTF-8": (b'{"type": "\xff"}\n', "not JSON"),
    "nested without end": (b"[" * 4000 + b"\n", "not JSON"),
    "a list": (b"[1, 2]\n", "not a JSON object"),
    "no id": (json_line(**without(LOOK, "id")), "id: expected a whole number"),
    "id as word": (json_line(**LOOK | {"id": "1"}), "id: expected a whole number"),
    "huge id": (json_line(**LOOK | {"id": 10**30}), "id: expected a whole number from 0 to"),
    "no type": (json_line(**without(LOOK, "type")), "type: expected one of edit, look"),
    "type of Python's own": (json_line(**LOOK | {"type": "__class__"}), "type: expected one of"),
    "a private method as type": (json_line(**LOOK | {"type": "_file"}), "type: expected one of"),
    "type as list": (json_line(**LOOK | {"type": ["look"]}), "type: expected one of"),
    "unknown field": (json_line(**LOOK | {"path": "/etc/passwd"}), "look: has no field 'path'"),
    "missing field": (json_line(**without(LOOK, "quality")), "look: quality is missing"),
    "quality unknown": (json_line(**LOOK | {"quality": "best"}), "quality: expected preview or full, got 'best'"),
    "view as number": (json_line(**LOOK | {"view": 3}), "view: expected azimuth, polar and zoom"),
    "view with a part missing": (json_line(**LOOK | {"view": without(VIEW, "zoom")}), "view: expected azimuth, polar"),
    "azimuth NaN": (json_line(**LOOK | {"view": VIEW | {"azimuth": float("nan")}}), "azimuth: expected a number"),
    "zoom infinite": (json_line(**LOOK | {"view": VIEW | {"zoom": float("inf")}}), "zoom: expected a number"),
    "zoom true": (json_line(**LOOK | {"view": VIEW | {"zoom": True}}), "zoom: expected a number, got True"),
    "zoom beyond every float": (json_line(**LOOK | {"view": VIEW | {"zoom": 10**400}}), "zoom: expected .* got 100"),
    "zoom below every float": (json_line(**LOOK | {"view": VIEW | {"zoom": -(10**400)}}), "zoom: expected .* got -1"),
    "zoom 0": (json_line(**LOOK | {"view": VIEW | {"zoom": 0}}), "zoom: expected 0.75 to 3, got 0"),
    "turned too far": (json_line(**LOOK | {"view": VIEW | {"azimuth": -9}}), "azimuth: expected .* got -9"),
    "scene by path": (json_line(**LOOK | {"scene": "../../etc/passwd"}), "scene: expected the name of a scene"),
    "scene by number": (json_line(**LOOK | {"scene": 5}), "scene: expected the name of a scene"),
    "scene never made": (json_line(**LOOK | {"scene": "0" * 32}), "does not know this object any more"),
    "bytes where none belong": (json_line(**LOOK) + b"x", "look: 1 bytes after its line"),
    "share above 1": (json_line(**BLEND | {"share": 1.5}), "share: expected 0 to 1, got 1.5"),
    "blend with nothing": (json_line(**BLEND | {"first": None}), "first: expected the name of a scene"),
    "seed negative": (json_line(**EDIT | {"seed": -1}) + bytes(128 * 128), "seed: expected a whole number"),
    "seed fraction": (json_line(**EDIT | {"seed": 0.5}) + bytes(128 * 128), "seed: expected a whole number"),
    "seed too large": (json_line(**EDIT | {"seed": 2**32}) + bytes(128 * 128), "seed: .*4294967295"),
    "drawing missing": (json_line(**EDIT), "drawing: expected 128x128 bytes, got 0"),
    "drawing too small": (json_line(**EDIT) + bytes(127 * 128), "drawing: expected 128x128 bytes"),
    "drawing too large": (json_line(**EDIT) + bytes(512 * 512), "drawing: expected 128x128 bytes"),
    "class out of range": (json_line(**EDIT) + bytes(130) + b"\x06" + bytes(128 * 128 - 131),
                           "class 6 at x=2 y=1; this network knows 0 to 5"),
    "empty file": (json_line(type="open_drawing", id=1), "file is empty"),
    "text as picture": (json_line(type="open_drawing", id=1) + b"a cat, please", "not a PNG or JPEG"),
    "photo": (json_line(type="open_drawing", id=1)
              + png(np.random.RandomState(0).randint(0, 150, (64, 64, 3), np.uint8)), "looks like a photo"),
    "picture not square": (json_line(type="open_drawing", id=1) + png(np.zeros((4, 8), np.uint8)), "is 8x4"),
    "classes of another network": (json_line(type="open_drawing", id=1) + png(np.full((8, 8), 9, np.uint8)),
                                   "class 9 found"),
    "picture with more pixels than memory": (json_line(type="open_drawing", id=1) + png(np.zeros((5000, 1), np.uint8)),
                                             "is 1x5000; pictures up to 4096x4096"),
    "picture cut short": (json_line(type="open_drawing", id=1)
                          + png(np.random.RandomState(0).randint(0, 6, (64, 64), np.uint8))[:300], "damaged"),
    "picture as session": (json_line(type="open_session", id=1) + png(np.zeros((8, 8), np.uint8)), "not a session"),
    "other JSON as session": (json_line(type="open_session", id=1) + b'{"labels": []}', "not a session file of this"),
    "film of a strange kind": (json_line(type="save_film", id=1, scene=None, film_form="../x"), "film_form: expected"),
}  # fmt: skip


@pytest.fixture(scope="module")
def client():
    with serving(editor(tiny_studio())) as client:
        yield client


@pytest.fixture(scope="module")
def page(client):
    with page_of(client) as page:
        yield page


@pytest.mark.parametrize("case", HOSTILE)
def test_a_broken_message_is_refused_with_its_reason_and_the_server_goes_on(case, page):
    frame, reason = HOSTILE[case]
    page.socket.send_bytes(frame)
    header, payload = page.receive()
    assert header["type"] == "error" and payload == b""
    assert re.search(reason, header["reason"]), header["reason"]
    assert "\n" not in header["reason"] and "Traceback" not in header["reason"]
    header, _ = page.edit(np.zeros((128, 128), np.uint8))
    assert header["type"] == "picture"


def test_text_is_refused_and_the_server_goes_on(page):
    page.socket.send_text('{"type": "look"}')
    assert page.receive()[0]["reason"] == "expected a binary message, got text"
    assert page.edit(np.zeros((128, 128), np.uint8))[0]["type"] == "picture"


def test_what_nobody_foresaw_in_a_message_is_said_and_the_server_goes_on(page, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("applications.editor.server.read_message", lambda *_: 1 / 0)
        page.socket.send_bytes(b"x")
        assert page.receive()[0]["reason"] == "the server failed: ZeroDivisionError: division by zero"
    assert page.edit(np.zeros((128, 128), np.uint8))[0]["type"] == "picture"


# --------------------------------------------------------------------------- files


def session(**changes):
    values = {
        "cfg": "seg2cat", "network": "n", "drawing": DRAWING, "place": View(1.5, 1.5), "seed": 3, "keep_style": True,
        "view": View(1.1, 1.7, 2.0), "ws": torch.randn(1, 5, 4, generator=torch.Generator().manual_seed(0)),
    }  # fmt: skip
    return session_file.Session(**values | changes)


def test_a_session_reads_back_exactly():
    given = session()
    found = session_file.read_session(session_file.write_session(given, "seg"), "seg2cat", "seg", BOUNDS)
    assert np.array_equal(found.drawing, given.drawing) and torch.equal(found.ws, given.ws)
    for name in ("cfg", "network", "place", "seed", "keep_style", "view"):
        assert getattr(found, name) == getattr(given, name)


def changed(**changes):
    return json.dumps(json.loads(session_file.write_session(session(), "seg")) | changes).encode()


NAN = base64.b64encode(np.full(20, np.nan, "<f4").tobytes()).decode()
DAMAGED = {
    "of another configuration": (changed(cfg="edge2car"), "a session of --cfg edge2car; .* started with seg2cat"),
    "of the future": (changed(version=2), "session version 2; this editor reads version 1"),
    "without a network": (changed(network=None), "network is not text"),
    "without a drawing": (changed(drawing_png=None), "drawing_png is missing"),
    "drawing is no picture": (changed(drawing_png="AAAA"), "not a PNG"),
    "drawing of another network": (changed(drawing_png=base64.b64encode(png(DRAWING + 9)).decode()), "class 9 found"),
    "seed as word": (changed(seed="three"), "seed: expected a whole number"),
    "view outside": (changed(view={"azimuth": 7, "polar": 1.5, "zoom": 1}), "azimuth: expected 1 to 2, got 7"),
    "scene cut short": (changed(ws_float32="AAAAAA=="), "its scene is not what its size says"),
    "scene of no numbers": (changed(ws_float32=NAN), "or not finite"),
    "scene of negative size": (changed(ws_shape=[1, -5, -4]), "ws_shape is not three sizes"),
    "scene of huge size": (changed(ws_shape=[10**9, 10**9, 10**9]), "its scene is not what its size says"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_session_is_refused_with_its_reason(case):
    content, reason = DAMAGED[case]
    with pytest.raises(MessageError, match=reason):
        session_file.read_session(content, "seg2cat", "seg", BOUNDS)


@pytest.mark.parametrize("picture", [DRAWING, colorize(DRAWING)], ids=["class ids", "palette colors"])
def test_a_label_map_opens_from_both_forms_of_png(picture):
    assert np.array_equal(session_file.read_drawing_file(png(picture), "seg", BOUNDS), DRAWING)


def test_an_edge_drawing_becomes_lines_and_background_and_reads_back():
    edges = Bounds(16, 2, BOUNDS.orbit)
    drawing = (DRAWING == 1).astype(np.uint8)
    content = session_file.drawing_png(drawing, "edge")
    assert np.array_equal(session_file.read_drawing_file(content, "edge", edges), drawing)
    soft = png(np.where(drawing, 100, 200).astype(np.uint8))  # grays: the nearer of black and white
    assert np.array_equal(session_file.read_drawing_file(soft, "edge", edges), drawing)


def test_front_is_where_the_editor_begins(page):
    assert page.hello["front"] == FRONT
