"""Validation of messages and session files."""

import base64
import json
import re

import numpy as np
import pytest
import torch
from editor_pages import FRONT, json_line, page_of, serving, tiny_model
from editor_pages import app_of as editor
from small_data import png

from applications.editor import session_file
from applications.editor.protocol import (
    MAX_HEADER_BYTES,
    MAX_MESSAGE_BYTES,
    CameraView,
    MessageError,
    NetworkLimits,
    OrbitLimits,
    pack,
    read_message,
    unpack,
)
from training.data.label_maps import colorize

LIMITS = NetworkLimits(16, 6, OrbitLimits((1.0, 2.0), (1.2, 1.8), (0.75, 3.0), False))
DRAWING = np.arange(256, dtype=np.uint8).reshape(16, 16) % 6
VIEW = {"azimuth": 1.5, "polar": 1.5, "zoom": 1}
EDIT = {
    "type": "edit", "id": 7, "drawing_view": VIEW, "seed": 3, "photo": "b" * 32, "style": None, "geometry": "a" * 32,
    "view": VIEW, "quality": "full",
}  # fmt: skip
RENDER = {"type": "render", "id": 8, "scene": None, "view": VIEW, "quality": "full"}
BLEND = {
    "type": "blend", "id": 9, "first": "0" * 32, "second": "f" * 32, "weight": 0.5, "drawing_view": VIEW, "view": VIEW,
    "quality": "full",
}  # fmt: skip


def test_unpack_inverts_pack():
    payload = bytes(range(256))
    assert unpack(pack(payload, type="x", id=1)) == ({"type": "x", "id": 1}, payload)


def test_a_valid_message_is_converted_to_typed_values():
    message = read_message(pack(DRAWING.tobytes(), **EDIT), LIMITS)
    assert (message.kind, message.id) == ("edit", 7)
    assert message.values["view"] == CameraView(1.5, 1.5, 1.0)
    assert (message.values["seed"], message.values["style"], message.values["geometry"]) == (3, None, "a" * 32)
    assert np.array_equal(message.values["drawing"], DRAWING)


def test_a_view_beyond_the_limit_by_rounding_is_clamped():
    message = read_message(pack(**RENDER | {"view": VIEW | {"azimuth": 2.0 + 5e-7}}), LIMITS)
    assert message.values["view"].azimuth == 2.0


def without(message, name):
    return {key: value for key, value in message.items() if key != name}


# Invalid or malicious frames, and a pattern of the error message.
INVALID = {
    "nothing": (b"", "no JSON line"),
    "no newline": (b'{"type": "render"}', "no JSON line in the first 4096"),
    "endless line": (b" " * (MAX_HEADER_BYTES + 1) + b"\n", "no JSON line in the first 4096"),
    "too large": (bytes(MAX_MESSAGE_BYTES + 1), f"at most {MAX_MESSAGE_BYTES}"),
    "pixels only": (bytes(range(11, 256)) + b"\n", "not JSON"),
    "bad UTF-8": (b'{"type": "\xff"}\n', "not JSON"),
    "nested without end": (b"[" * 4000 + b"\n", "not JSON"),
    "a list": (b"[1, 2]\n", "not a JSON object"),
    "no id": (json_line(**without(RENDER, "id")), "id: expected an integer"),
    "id as word": (json_line(**RENDER | {"id": "1"}), "id: expected an integer"),
    "huge id": (json_line(**RENDER | {"id": 10**30}), "id: expected an integer from 0 to"),
    "no type": (json_line(**without(RENDER, "type")), "type: expected edit or render"),
    "type with special name": (json_line(**RENDER | {"type": "__class__"}), "type: expected edit"),
    "a private method as type": (json_line(**RENDER | {"type": "_file"}), "type: expected edit"),
    "type as list": (json_line(**RENDER | {"type": ["render"]}), "type: expected edit"),
    "unknown field": (json_line(**RENDER | {"path": "/etc/passwd"}), "render: unknown field 'path'"),
    "missing field": (json_line(**without(RENDER, "quality")), "render: field 'quality' is missing"),
    "quality unknown": (json_line(**RENDER | {"quality": "best"}), "quality: expected preview or full, got 'best'"),
    "view as number": (json_line(**RENDER | {"view": 3}), "view: expected azimuth, polar and zoom"),
    "view without zoom": (json_line(**RENDER | {"view": without(VIEW, "zoom")}), "view: expected azimuth, polar"),
    "azimuth NaN": (json_line(**RENDER | {"view": VIEW | {"azimuth": float("nan")}}), "azimuth: expected a number"),
    "zoom infinite": (json_line(**RENDER | {"view": VIEW | {"zoom": float("inf")}}), "zoom: expected a number"),
    "zoom true": (json_line(**RENDER | {"view": VIEW | {"zoom": True}}), "zoom: expected a number, got True"),
    "zoom beyond every float": (json_line(**RENDER | {"view": VIEW | {"zoom": 10**400}}), "zoom: expected .* got 100"),
    "zoom below every float": (json_line(**RENDER | {"view": VIEW | {"zoom": -(10**400)}}), "zoom: expected .* got -1"),
    "zoom 0": (json_line(**RENDER | {"view": VIEW | {"zoom": 0}}), "zoom: expected 0.75 to 3, got 0"),
    "turned too far": (json_line(**RENDER | {"view": VIEW | {"azimuth": -9}}), "azimuth: expected .* got -9"),
    "scene by path": (json_line(**RENDER | {"scene": "../../etc/passwd"}), "scene: expected a name"),
    "scene by number": (json_line(**RENDER | {"scene": 5}), "scene: expected a name"),
    "unknown scene": (json_line(**RENDER | {"scene": "0" * 32}), "no longer has this object"),
    "unexpected binary data": (json_line(**RENDER) + b"x", "render: expected no binary data, got 1 bytes"),
    "weight above 1": (json_line(**BLEND | {"weight": 1.5}), "weight: expected 0 to 1, got 1.5"),
    "photo by path": (json_line(**EDIT | {"photo": "cat.png"}) + bytes(128 * 128), "photo: expected a name of 32"),
    "blend with nothing": (json_line(**BLEND | {"first": None}), "first: expected a name"),
    "seed negative": (json_line(**EDIT | {"seed": -1}) + bytes(128 * 128), "seed: expected an integer"),
    "seed fraction": (json_line(**EDIT | {"seed": 0.5}) + bytes(128 * 128), "seed: expected an integer"),
    "seed too large": (json_line(**EDIT | {"seed": 2**32}) + bytes(128 * 128), "seed: .*4294967295"),
    "drawing missing": (json_line(**EDIT), "drawing: expected 128x128 bytes, got 0"),
    "drawing too small": (json_line(**EDIT) + bytes(127 * 128), "drawing: expected 128x128 bytes"),
    "drawing too large": (json_line(**EDIT) + bytes(512 * 512), "drawing: expected 128x128 bytes"),
    "class out of range": (json_line(**EDIT) + bytes(130) + b"\x06" + bytes(128 * 128 - 131),
                           "got class 6 at x=2 y=1; this network's classes are 0 to 5"),
    "empty file": (json_line(type="open_drawing", id=1), "file is empty"),
    "text as image": (json_line(type="open_drawing", id=1) + b"a cat, please", "not a PNG or JPEG"),
    "photo": (json_line(type="open_drawing", id=1)
              + png(np.random.RandomState(0).randint(0, 150, (64, 64, 3), np.uint8)), "looks like a photo"),
    "image not square": (json_line(type="open_drawing", id=1) + png(np.zeros((4, 8), np.uint8)), "8x4 pixels"),
    "classes of another network": (json_line(type="open_drawing", id=1) + png(np.full((8, 8), 9, np.uint8)),
                                   "got class 9"),
    "image with too many pixels": (json_line(type="open_drawing", id=1) + png(np.zeros((5000, 1), np.uint8)),
                                             "1x5000 pixels; the limit is 4096x4096"),
    "truncated image": (json_line(type="open_drawing", id=1)
                          + png(np.random.RandomState(0).randint(0, 6, (64, 64), np.uint8))[:300], "damaged"),
    "image as session": (json_line(type="open_session", id=1) + png(np.zeros((8, 8), np.uint8)), "not a session"),
    "other JSON as session": (json_line(type="open_session", id=1) + b'{"labels": []}', "not a session file of this"),
    "unknown video format": (json_line(type="save_video", id=1, scene=None, video_format="../x"), "video_format: exp"),
}  # fmt: skip


@pytest.fixture(scope="module")
def client():
    with serving(editor(tiny_model())) as client:
        yield client


@pytest.fixture(scope="module")
def page(client):
    with page_of(client) as page:
        yield page


@pytest.mark.parametrize("case", INVALID)
def test_an_invalid_message_is_rejected_with_a_reason_and_the_server_continues(case, page):
    frame, reason = INVALID[case]
    page.socket.send_bytes(frame)
    header, payload = page.receive()
    assert header["type"] == "error" and payload == b""
    assert re.search(reason, header["reason"]), header["reason"]
    assert "\n" not in header["reason"] and "Traceback" not in header["reason"]
    header, _ = page.edit(np.zeros((128, 128), np.uint8))
    assert header["type"] == "image"


def test_a_text_frame_is_rejected_and_the_server_continues(page):
    page.socket.send_text('{"type": "render"}')
    assert page.receive()[0]["reason"] == "message: expected binary data, got text"
    assert page.edit(np.zeros((128, 128), np.uint8))[0]["type"] == "image"


def test_an_unexpected_error_while_reading_a_message_is_reported_and_the_server_continues(page, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("applications.editor.server.read_message", lambda *_: 1 / 0)
        page.socket.send_bytes(b"x")
        assert page.receive()[0]["reason"] == "Server error: ZeroDivisionError: division by zero"
    assert page.edit(np.zeros((128, 128), np.uint8))[0]["type"] == "image"


# --------------------------------------------------------------------------- files


def session(**changes):
    values = {
        "cfg": "seg2cat", "network": "n", "drawing": DRAWING, "drawing_view": CameraView(1.5, 1.5), "seed": 3,
        "keep_style": True, "view": CameraView(1.1, 1.7, 2.0),
        "ws": torch.randn(1, 5, 4, generator=torch.Generator().manual_seed(0)),
    }  # fmt: skip
    return session_file.Session(**values | changes)


def test_a_session_round_trips_exactly():
    written = session()
    read = session_file.read_session(session_file.write_session(written, "seg"), "seg2cat", "seg", LIMITS)
    assert np.array_equal(read.drawing, written.drawing) and torch.equal(read.ws, written.ws)
    for name in ("cfg", "network", "drawing_view", "seed", "keep_style", "view"):
        assert getattr(read, name) == getattr(written, name)


def test_session_files_keep_their_keys():
    keys = {"format", "version", "cfg", "network", "seed", "keep_style", "place", "view", "drawing_png"}
    assert set(json.loads(session_file.write_session(session(), "seg"))) == keys | {"ws_shape", "ws_float32"}


def changed(**changes):
    return json.dumps(json.loads(session_file.write_session(session(), "seg")) | changes).encode()


NAN = base64.b64encode(np.full(20, np.nan, "<f4").tobytes()).decode()
DAMAGED = {
    "of another configuration": (changed(cfg="edge2car"), "for configuration edge2car; this editor runs seg2cat"),
    "of a later version": (changed(version=2), "session version 2; this editor reads version 1"),
    "without a network": (changed(network=None), "network is not text"),
    "without a drawing": (changed(drawing_png=None), "drawing_png is missing"),
    "drawing is not an image": (changed(drawing_png="AAAA"), "not a PNG"),
    "drawing of another network": (changed(drawing_png=base64.b64encode(png(DRAWING + 9)).decode()), "got class 9"),
    "seed as word": (changed(seed="three"), "seed: expected an integer"),
    "view outside": (changed(view={"azimuth": 7, "polar": 1.5, "zoom": 1}), "azimuth: expected 1 to 2, got 7"),
    "truncated scene": (changed(ws_float32="AAAAAA=="), "does not have ws_shape"),
    "scene of NaN": (changed(ws_float32=NAN), "ws_float32 is not finite"),
    "scene of negative size": (changed(ws_shape=[1, -5, -4]), "ws_shape is not three sizes"),
    "scene of huge size": (changed(ws_shape=[10**9, 10**9, 10**9]), "does not have ws_shape"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_session_is_rejected_with_a_reason(case):
    content, reason = DAMAGED[case]
    with pytest.raises(MessageError, match=reason):
        session_file.read_session(content, "seg2cat", "seg", LIMITS)


@pytest.mark.parametrize("image", [DRAWING, colorize(DRAWING)], ids=["class ids", "palette colors"])
def test_a_label_map_is_read_from_class_ids_and_from_palette_colors(image):
    assert np.array_equal(session_file.read_drawing_file(png(image), "seg", LIMITS), DRAWING)


def test_an_edge_drawing_round_trips_and_gray_is_thresholded():
    edges = NetworkLimits(16, 2, LIMITS.orbit)
    drawing = (DRAWING == 1).astype(np.uint8)
    content = session_file.drawing_png(drawing, "edge")
    assert np.array_equal(session_file.read_drawing_file(content, "edge", edges), drawing)
    gray = png(np.where(drawing, 100, 200).astype(np.uint8))  # the nearer of black and white
    assert np.array_equal(session_file.read_drawing_file(gray, "edge", edges), drawing)


def test_the_editor_starts_with_the_front_view(page):
    assert page.hello["front"] == FRONT
