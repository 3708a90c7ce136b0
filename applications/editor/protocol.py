"""Messages between page and server, and the validation of everything that a page sends.

A message is one binary WebSocket frame: a line of JSON, a newline, and binary data (pixels, a file) if the message type
has any. Nothing from a page is used before `read_message` has checked it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from dnnlib.choices import MAX_SEED

# More than a label map of 2048x2048 pixels as an inefficiently compressed PNG.
MAX_MESSAGE_BYTES = 16 * 2**20
MAX_HEADER_BYTES = 4096
MAX_ID = 2**31 - 1
# Hexadecimal digits of the names of scenes and photos.
NAME_LENGTH = 32
# How far a number may exceed its limits, which the page reads as decimal text.
ROUNDING_RAD = 1e-6


class MessageError(ValueError):
    """Invalid request, with a message for the user of the page.

    Args:
        reason: the message.
        id: of the request, if it has one.
    """

    # Further fields of the reply, by which the page recognizes the error.
    fields: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, reason: str, id: int | None = None):
        super().__init__(reason)
        self.id = id


class UnknownSceneError(MessageError):
    """A scene that this server never had or no longer has; the page has to request it again."""

    fields: ClassVar = {"unknown_scene": True}


class UnknownPhotoError(MessageError):
    """A photo that this server never had or no longer has; the page falls back on its seed."""

    fields: ClassVar = {"unknown_photo": True}


@dataclass(frozen=True)
class CameraView:
    """Camera on its orbit.

    Args:
        azimuth: radians, as in camera_utils.
        polar: radians, as in camera_utils.
        zoom: factor of the focal length.
    """

    azimuth: float
    polar: float
    zoom: float = 1.0


@dataclass(frozen=True)
class OrbitLimits:
    """Lowest and highest value of each field of a CameraView; azimuth wraps around if `full_turn`."""

    azimuth: tuple[float, float]
    polar: tuple[float, float]
    zoom: tuple[float, float]
    full_turn: bool


@dataclass(frozen=True)
class NetworkLimits:
    """Limits that requests to a network are checked against.

    Args:
        resolution: pixels on a side of a drawing.
        classes: number of classes of a drawing; edges have two, background and line.
        orbit: limits of views.
    """

    resolution: int
    classes: int
    orbit: OrbitLimits


@dataclass(frozen=True)
class Message:
    """A valid message of a page.

    Args:
        kind: its type, a key of MESSAGES.
        id: chosen by the page; replies repeat it.
        values: the fields of this type by name, checked and converted.
        size: bytes of binary data.
    """

    kind: str
    id: int
    values: dict[str, Any]
    size: int


@dataclass(frozen=True)
class Reply:
    """A message to a page, without the id of the request that it answers."""

    kind: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    payload: bytes = b""


# --------------------------------------------------------------------------- frames


def pack(payload: bytes = b"", /, **header: Any) -> bytes:
    """Encode a frame."""
    return json.dumps(header, allow_nan=False).encode() + b"\n" + payload


def unpack(frame: bytes) -> tuple[dict[str, Any], bytes]:
    """Decode a frame to header and payload.

    Raises:
        MessageError: the frame is too large or malformed.
    """
    if len(frame) > MAX_MESSAGE_BYTES:
        raise MessageError(f"message: got {len(frame)} bytes, allowed are at most {MAX_MESSAGE_BYTES}")

    # A search in the first bytes only: pixels contain newlines, too.
    end = frame.find(b"\n", 0, MAX_HEADER_BYTES)
    if end < 0:
        raise MessageError(f"message: no JSON line in the first {MAX_HEADER_BYTES} bytes")

    # Deeply nested JSON raises RecursionError.
    try:
        header = json.loads(frame[:end])
    except (ValueError, RecursionError):
        raise MessageError("message: the first line is not JSON") from None
    if not isinstance(header, dict):
        raise MessageError("message: the first line is not a JSON object")
    return header, frame[end + 1 :]


# --------------------------------------------------------------------------- fields


def _read_number(name: str, value: Any, low: float, high: float) -> float:
    # JSON of Python admits NaN, infinity and integers beyond every float; bool is a subclass of int.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < math.inf:
        raise MessageError(f"{name}: expected a number, got {value!r:.40}")
    if not low - ROUNDING_RAD <= value <= high + ROUNDING_RAD:
        raise MessageError(f"{name}: expected {low:.4g} to {high:.4g}, got {value!r:.40}")
    return float(min(max(value, low), high))


def _read_integer(name: str, value: Any, high: int) -> int:
    # 1.0 is a float, and true an int, in Python.
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= high:
        raise MessageError(f"{name}: expected an integer from 0 to {high}, got {value!r:.40}")
    return value


def _read_choice(name: str, value: Any, allowed: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise MessageError(f"{name}: expected {' or '.join(allowed)}, got {value!r:.40}")
    return value


def _read_flag(name: str, value: Any, _limits: NetworkLimits) -> bool:
    if not isinstance(value, bool):
        raise MessageError(f"{name}: expected true or false, got {value!r:.40}")
    return value


def _read_name(name: str, value: Any, _limits: NetworkLimits) -> str:
    if not isinstance(value, str) or len(value) != NAME_LENGTH or not set(value) <= set("0123456789abcdef"):
        raise MessageError(f"{name}: expected a name of {NAME_LENGTH} digits, got {value!r:.40}")
    return value


def _read_optional_name(name: str, value: Any, limits: NetworkLimits) -> str | None:
    return None if value is None else _read_name(name, value, limits)


def read_view(name: str, value: Any, limits: NetworkLimits) -> CameraView:
    """Read a view.

    Raises:
        MessageError: not an object of azimuth, polar and zoom, or outside the limits of the orbit.
    """
    # Values just outside the limits, by rounding, are moved onto them.
    fields = ("azimuth", "polar", "zoom")
    if not isinstance(value, dict) or set(value) != set(fields):
        raise MessageError(f"{name}: expected azimuth, polar and zoom, got {value!r:.60}")
    return CameraView(*(_read_number(f"{name} {key}", value[key], *getattr(limits.orbit, key)) for key in fields))


def read_drawing(payload: bytes, limits: NetworkLimits) -> np.ndarray:
    """Read the class ids of a drawing, R,R uint8, from binary data.

    Raises:
        MessageError: wrong size, or a class that the network does not have.
    """
    # One byte per pixel, in rows from the top.
    size = limits.resolution
    if len(payload) != size * size:
        raise MessageError(f"drawing: expected {size}x{size} bytes, got {len(payload)}")
    ids = np.frombuffer(payload, np.uint8).reshape(size, size)

    # Report the first pixel of the largest class, for a message that helps to find it.
    largest = int(ids.max())
    if largest >= limits.classes:
        y, x = np.argwhere(ids == largest)[0]
        allowed = f"this network's classes are 0 to {limits.classes - 1}"
        raise MessageError(f"drawing: got class {largest} at x={x} y={y}; {allowed}")
    return ids


def _read_file(payload: bytes, _limits: NetworkLimits) -> bytes:
    # Its content is checked by the job, since decoding takes time.
    if not payload:
        raise MessageError("the file is empty")
    return payload


# How each field is read, by name.
FIELDS: dict[str, Callable[[str, Any, NetworkLimits], Any]] = {
    "seed": lambda name, value, _limits: _read_integer(name, value, MAX_SEED),
    # Photo whose style takes the place of the seed's; null: none.
    "photo": _read_optional_name,
    "view": read_view,
    # The view that the drawing is seen from.
    "drawing_view": read_view,
    # null: the page's newest scene.
    "scene": _read_optional_name,
    # Scenes whose texture or geometry is kept.
    "style": _read_optional_name,
    "geometry": _read_optional_name,
    # Two scenes, and the weight of the second in their blend.
    "first": _read_name,
    "second": _read_name,
    "weight": lambda name, value, _limits: _read_number(name, value, 0, 1),
    "keep_style": _read_flag,
    "quality": lambda name, value, _limits: _read_choice(name, value, ("preview", "full")),
    "png_format": lambda name, value, _limits: _read_choice(name, value, ("ids", "colors")),
    "video_format": lambda name, value, _limits: _read_choice(name, value, ("mp4", "gif")),
    "mesh_format": lambda name, value, _limits: _read_choice(name, value, ("ply", "glb", "obj")),
}
PAYLOADS: dict[str, Callable[[bytes, NetworkLimits], Any]] = {"drawing": read_drawing, "content": _read_file}

# Fields of each message type; a name of PAYLOADS stands for the binary data.
MESSAGES = {
    "edit": ("drawing_view", "seed", "photo", "style", "geometry", "view", "quality", "drawing"),
    "render": ("scene", "view", "quality"),
    "labels": ("scene", "view"),
    "blend": ("first", "second", "weight", "drawing_view", "view", "quality"),
    "open_drawing": ("content",),
    "open_session": ("content",),
    "open_photo": ("content",),
    "save_session": ("scene", "drawing_view", "seed", "photo", "keep_style", "view", "drawing"),
    "save_image": ("scene", "view"),
    "save_labels": ("scene", "view", "png_format"),
    "save_drawing": ("png_format", "drawing"),
    "save_video": ("scene", "video_format"),
    "save_mesh": ("scene", "mesh_format"),
    "cancel": (),
}


def read_message(frame: bytes, limits: NetworkLimits) -> Message:
    """Decode and validate a message of a page.

    Raises:
        MessageError: the first problem that is found.
    """
    # The id comes first, so that errors in the other fields can be assigned to the request.
    header, payload = unpack(frame)
    id = _read_integer("id", header.pop("id", None), MAX_ID)
    try:
        kind = _read_choice("type", header.pop("type", None), tuple(MESSAGES))
        values = _read_values(kind, header, payload, limits)
    except MessageError as error:
        error.id = id
        raise
    return Message(kind, id, values, len(payload))


def _read_values(kind: str, header: dict[str, Any], payload: bytes, limits: NetworkLimits) -> dict[str, Any]:
    """Read exactly the fields of a message type."""
    names = [name for name in MESSAGES[kind] if name in FIELDS]
    payload_names = [name for name in MESSAGES[kind] if name in PAYLOADS]

    # No field more or less, so that a misspelled optional field is noticed.
    unknown = sorted(set(header) - set(names))
    if unknown:
        raise MessageError(f"{kind}: unknown field {unknown[0]!r:.40}")
    missing = [name for name in names if name not in header]
    if missing:
        raise MessageError(f"{kind}: field {missing[0]!r} is missing")
    if payload and not payload_names:
        raise MessageError(f"{kind}: expected no binary data, got {len(payload)} bytes")

    values = {name: FIELDS[name](name, header[name], limits) for name in names}
    return values | {name: PAYLOADS[name](payload, limits) for name in payload_names}
