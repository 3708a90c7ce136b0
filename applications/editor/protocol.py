"""Messages between page and server, and every check of what comes from a page.

One message is one binary WebSocket frame: a line of JSON, a newline, then bytes (pixels, a file) where the kind has
some. Nothing that a page sends is used before `read_message` has passed it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from applications.cli import MAX_SEED

MAX_MESSAGE_BYTES = 16 * 2**20  # a label map of 2048 pixels as a badly packed PNG is below
MAX_HEADER_BYTES = 4096
MAX_ID = 2**31 - 1
SCENE_NAME_LENGTH = 32  # hexadecimal digits
ROUNDING_RAD = 1e-6  # by which a page's number may lie beyond a limit that it has read as text
QUALITIES = ("preview", "full")
PNG_FORMS = ("ids", "colors")
FILM_FORMS = ("mp4", "gif")
MESH_FORMS = ("ply", "glb", "obj")


class MessageError(ValueError):
    """What is wrong with a message, in words for the person at the page. `id` is the message's, if it has one."""

    def __init__(self, reason: str, id: int | None = None):
        super().__init__(reason)
        self.id = id


class UnknownScene(MessageError):
    """A scene that this server never made, or too long ago: the page has to have it made anew."""


@dataclass(frozen=True)
class View:
    """Where a camera stands on its orbit (rad, as camera_utils has them) and how much longer its lens is."""

    azimuth: float
    polar: float
    zoom: float = 1.0


@dataclass(frozen=True)
class Orbit:
    """How far a page may turn: lowest and highest of each number; a full turn has no end in azimuth."""

    azimuth: tuple[float, float]
    polar: tuple[float, float]
    zoom: tuple[float, float]
    full_turn: bool


@dataclass(frozen=True)
class Bounds:
    """What the messages to one network are held against.

    Args:
        resolution: pixels of a drawing. classes: of a drawing; edges have two, background and line.
    """

    resolution: int
    classes: int
    orbit: Orbit


@dataclass(frozen=True)
class Message:
    """A message that has passed.

    Args:
        values: exactly the fields of its kind in MESSAGES, each of its own type. size: bytes of the payload.
    """

    kind: str
    id: int
    values: Mapping[str, Any]
    size: int


# --------------------------------------------------------------------------- frames


def pack(payload: bytes = b"", /, **header: Any) -> bytes:
    """One frame."""
    return json.dumps(header, allow_nan=False).encode() + b"\n" + payload


def unpack(frame: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and payload of a frame.

    Raises:
        MessageError: not of that form.
    """
    if len(frame) > MAX_MESSAGE_BYTES:
        raise MessageError(f"message of {len(frame)} bytes; at most {MAX_MESSAGE_BYTES} are taken")
    end = frame.find(b"\n", 0, MAX_HEADER_BYTES)
    if end < 0:
        raise MessageError(f"no line of JSON in the first {MAX_HEADER_BYTES} bytes")
    try:
        header = json.loads(frame[:end])
    except (ValueError, RecursionError):
        raise MessageError("the first line is not JSON") from None
    if not isinstance(header, dict):
        raise MessageError("the first line is not a JSON object")
    return header, frame[end + 1 :]


# --------------------------------------------------------------------------- fields


def _number(name: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < math.inf:
        raise MessageError(f"{name}: expected a number, got {value!r:.40}")
    if not low - ROUNDING_RAD <= value <= high + ROUNDING_RAD:
        raise MessageError(f"{name}: expected {low:.4g} to {high:.4g}, got {value!r:.40}")
    return float(min(max(value, low), high))


def _whole(name: str, value: Any, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= high:
        raise MessageError(f"{name}: expected a whole number from 0 to {high}, got {value!r:.40}")
    return value


def _one_of(allowed: tuple[str, ...]) -> Callable[[str, Any, Bounds], str]:
    def read(name: str, value: Any, _bounds: Bounds) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise MessageError(f"{name}: expected {' or '.join(allowed)}, got {value!r:.40}")
        return value

    return read


def _flag(name: str, value: Any, _bounds: Bounds) -> bool:
    if not isinstance(value, bool):
        raise MessageError(f"{name}: expected true or false, got {value!r:.40}")
    return value


def _scene(name: str, value: Any, _bounds: Bounds) -> str:
    if not isinstance(value, str) or len(value) != SCENE_NAME_LENGTH or not set(value) <= set("0123456789abcdef"):
        raise MessageError(f"{name}: expected the name of a scene, got {value!r:.40}")
    return value


def _scene_or_none(name: str, value: Any, bounds: Bounds) -> str | None:
    return None if value is None else _scene(name, value, bounds)


def read_view(name: str, value: Any, bounds: Bounds) -> View:
    """A view inside the orbit.

    Raises:
        MessageError: not {"azimuth", "polar", "zoom"} with numbers inside.
    """
    if not isinstance(value, dict) or set(value) != {"azimuth", "polar", "zoom"}:
        raise MessageError(f"{name}: expected azimuth, polar and zoom, got {value!r:.60}")
    limits = bounds.orbit
    return View(**{key: _number(f"{name} {key}", value[key], *getattr(limits, key)) for key in asdict(View(0, 0))})


def read_drawing(payload: bytes, bounds: Bounds) -> np.ndarray:
    """Class ids uint8 R,R.

    Raises:
        MessageError: another size, or a class that the network does not have.
    """
    size = bounds.resolution
    if len(payload) != size * size:
        raise MessageError(f"drawing: expected {size}x{size} bytes, got {len(payload)}")
    ids = np.frombuffer(payload, np.uint8).reshape(size, size)
    if (largest := int(ids.max())) >= bounds.classes:
        y, x = np.argwhere(ids == largest)[0]
        raise MessageError(f"drawing: class {largest} at x={x} y={y}; this network knows 0 to {bounds.classes - 1}")
    return ids


def _content(payload: bytes, _bounds: Bounds) -> bytes:
    if not payload:
        raise MessageError("the file is empty")
    return payload


FIELDS: dict[str, Callable[[str, Any, Bounds], Any]] = {
    "seed": lambda name, value, _bounds: _whole(name, value, MAX_SEED),
    "view": read_view,
    "place": read_view,  # from where a drawing is seen
    "scene": _scene_or_none,  # None: the page's newest
    "style": _scene_or_none,  # whose texture to keep
    "geometry": _scene_or_none,  # whose form to keep
    "first": _scene,
    "second": _scene,
    "share": lambda name, value, _bounds: _number(name, value, 0, 1),
    "keep_style": _flag,
    "quality": _one_of(QUALITIES),
    "png_form": _one_of(PNG_FORMS),
    "film_form": _one_of(FILM_FORMS),
    "mesh_form": _one_of(MESH_FORMS),
}
PAYLOADS: dict[str, Callable[[bytes, Bounds], Any]] = {"drawing": read_drawing, "content": _content}

MESSAGES = {  # kind: its fields, the payload last
    "edit": ("place", "seed", "style", "geometry", "view", "quality", "drawing"),
    "look": ("scene", "view", "quality"),
    "blend": ("first", "second", "share", "place", "view", "quality"),
    "open_drawing": ("content",),
    "open_session": ("content",),
    "save_session": ("scene", "place", "seed", "keep_style", "view", "drawing"),
    "save_image": ("scene", "view"),
    "save_labels": ("scene", "view", "png_form"),
    "save_drawing": ("png_form", "drawing"),
    "save_film": ("scene", "film_form"),
    "save_mesh": ("scene", "mesh_form"),
    "cancel": (),
}


def read_message(frame: bytes, bounds: Bounds) -> Message:
    """A page's message, checked whole.

    Raises:
        MessageError: with the first thing that is wrong.
    """
    header, payload = unpack(frame)
    id = _whole("id", header.pop("id", None), MAX_ID)
    try:
        kind = header.pop("type", None)
        if not isinstance(kind, str) or kind not in MESSAGES:
            raise MessageError(f"type: expected one of {', '.join(MESSAGES)}, got {kind!r:.40}")
        names = [name for name in MESSAGES[kind] if name not in PAYLOADS]
        if strange := sorted(set(header) - set(names)):
            raise MessageError(f"{kind}: has no field {strange[0]!r:.40}")
        if missing := [name for name in names if name not in header]:
            raise MessageError(f"{kind}: {missing[0]} is missing")
        values = {name: FIELDS[name](name, header[name], bounds) for name in names}
        held = [name for name in MESSAGES[kind] if name in PAYLOADS]
        if payload and not held:
            raise MessageError(f"{kind}: {len(payload)} bytes after its line; it has none")
        values |= {name: PAYLOADS[name](payload, bounds) for name in held}
    except MessageError as error:
        error.id = id
        raise
    return Message(kind, id, values, len(payload))
