"""The session file: everything that a page needs to go on where it was, as JSON."""

from __future__ import annotations

import base64
import binascii
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from applications.editor.protocol import FIELDS, Bounds, MessageError, View
from training.data.image_io import encode_png, open_image
from training.data.label_maps import draw_label_map, read_label_map

FORMAT = "pix2pix3d-session"
VERSION = 1
MAX_SIDE = 4096  # pixels of a picture
MAX_WS = 1e4  # magnitude; a network's ws are below 100


@dataclass(frozen=True)
class Session:
    """What a page shows and paints on.

    Args:
        network: name of the network that made ws.
        drawing: class ids uint8 R,R, seen from `place`. view: from where the scene is seen.
        keep_style: whether further edits keep the texture of ws. ws: 1,num_ws,w_dim, the scene itself.
    """

    cfg: str
    network: str
    drawing: np.ndarray
    place: View
    seed: int
    keep_style: bool
    view: View
    ws: Tensor


def read_drawing_file(content: bytes, data_type: str, bounds: Bounds) -> np.ndarray:
    """Class ids uint8 R,R of a picture of a label map: class ids, palette colors, or dark lines on white.

    Raises:
        MessageError: it is none, with the reason.
    """
    with tempfile.TemporaryDirectory() as folder:  # the reader takes files; this one has a name of ours
        path = Path(folder) / "picture"
        path.write_bytes(content)
        try:
            _check_size(content)
            label_map = read_label_map(path, data_type, bounds.classes, bounds.resolution)[0, 0]
        except ValueError as error:
            raise MessageError(str(error).removeprefix(f"{path}: ")) from error
    return (label_map if data_type == "seg" else label_map < 0).to(torch.uint8).numpy()


def _check_size(content: bytes) -> None:
    """ValueError for more pixels than anybody draws: a small file may hold very many, and decoding them costs."""
    width, height = open_image(content).size
    if max(width, height) > MAX_SIDE:
        raise ValueError(f"is {width}x{height}; pictures up to {MAX_SIDE}x{MAX_SIDE} are opened")


def drawing_png(drawing: np.ndarray, data_type: str) -> bytes:
    """PNG of the class ids, or of black lines on white, which `read_drawing_file` reads back."""
    if data_type == "seg":
        return encode_png(drawing)
    return encode_png(draw_label_map(1 - 2 * torch.from_numpy(drawing.astype(np.float32))[None, None], data_type)[0])


def write_session(session: Session, data_type: str) -> bytes:
    """The file."""
    ws = session.ws.numpy().astype("<f4")
    contents = {
        "format": FORMAT,
        "version": VERSION,
        "cfg": session.cfg,
        "network": session.network,
        "seed": session.seed,
        "keep_style": session.keep_style,
        "place": asdict(session.place),
        "view": asdict(session.view),
        "drawing_png": base64.b64encode(drawing_png(session.drawing, data_type)).decode(),
        "ws_shape": list(ws.shape),
        "ws_float32": base64.b64encode(ws.tobytes()).decode(),
    }
    return json.dumps(contents, indent=1).encode()


def read_session(content: bytes, cfg: str, data_type: str, bounds: Bounds) -> Session:
    """What `write_session` wrote, trusting nothing.

    Raises:
        MessageError: not a session, damaged, of another cfg, or with a drawing or view that this network does not take.
    """
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        raise MessageError("not a session file (it is not JSON)") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise MessageError("not a session file of this editor")
    if found.get("version") != VERSION:
        raise MessageError(f"session version {found.get('version')!r:.20}; this editor reads version {VERSION}")
    if strange := [name for name in ("cfg", "network") if not isinstance(found.get(name), str)]:
        raise MessageError(f"damaged session: {strange[0]} is not text")
    if found["cfg"] != cfg:
        raise MessageError(f"a session of --cfg {found['cfg']:.20}; this editor was started with {cfg}")
    fields = {name: FIELDS[name](name, found.get(name), bounds) for name in ("seed", "keep_style", "view", "place")}
    drawing = read_drawing_file(_bytes(found, "drawing_png"), data_type, bounds)
    return Session(cfg, found["network"], drawing, ws=_read_ws(found), **fields)


def _read_ws(found: dict[str, Any]) -> Tensor:
    shape, values = found.get("ws_shape"), np.frombuffer(_bytes(found, "ws_float32", multiple_of=4), "<f4")
    if not isinstance(shape, list) or len(shape) != 3 or any(type(n) is not int or n < 1 for n in shape):
        raise MessageError("damaged session: ws_shape is not three sizes")
    if len(values) != np.prod(shape, dtype=object) or not (np.abs(values) < MAX_WS).all():
        raise MessageError("damaged session: its scene is not what its size says, or not finite")
    return torch.from_numpy(values.astype(np.float32)).reshape(shape)


def _bytes(found: dict[str, Any], name: str, multiple_of: int = 1) -> bytes:
    try:
        value = base64.b64decode(found.get(name), validate=True)
    except (TypeError, ValueError, binascii.Error):
        value = b""
    if not value or len(value) % multiple_of:
        raise MessageError(f"damaged session: {name} is missing or cut short")
    return value
