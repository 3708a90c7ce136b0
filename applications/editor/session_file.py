"""Session files: JSON with everything that a page needs to continue. Also reads image files: drawings and photos."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from applications.editor.protocol import FIELDS, CameraView, MessageError, NetworkLimits, read_view
from inference.inputs import decode_photo
from training.data.image_io import encode_png, open_image
from training.data.label_maps import AS_STORED, LabelMapOptions, decode_label_map, draw_label_map, resize_label_map

# First fields of a file; a version that differs is rejected.
FORMAT = "pix2pix3d-session"
VERSION = 1
# Pixels on a side of an image file.
MAX_SIDE = 4096
# Largest magnitude of ws and z in a file; those of networks are below 100.
MAX_CODE = 1e4


@dataclass(frozen=True)
class Session:
    """State of a page.

    Args:
        cfg: configuration of the network.
        network: digest of its weights.
        drawing: class ids, R,R uint8.
        drawing_view: the view that the drawing is seen from; stored as "place".
        seed: of the latent code z.
        keep_style: whether further edits keep the texture.
        view: the view that the object is seen from.
        ws: 1,num_ws,w_dim of the scene.
        photo: 1,z_dim, z of the photo whose style takes the place of the seed's; None without one.
    """

    cfg: str
    network: str
    drawing: np.ndarray
    drawing_view: CameraView
    seed: int
    keep_style: bool
    view: CameraView
    ws: Tensor
    photo: Tensor | None = None


# --------------------------------------------------------------------------- images


def read_drawing_file(
    content: bytes, data_type: str, limits: NetworkLimits, options: LabelMapOptions = AS_STORED
) -> np.ndarray:
    """Read a label map (class ids, palette colors, or dark lines on white) and resize it to a drawing, R,R uint8.

    Raises:
        MessageError: the file is not a label map of this network.
    """
    try:
        _check_size(content)
        label_map = decode_label_map(content, data_type, limits.classes, options)  # 1,1,H,H
    except ValueError as error:
        raise MessageError(str(error)) from error

    # Class ids; lines of edge maps are negative.
    label_map = resize_label_map(label_map, limits.resolution)[0, 0]  # R,R
    return (label_map if data_type == "seg" else label_map < 0).to(torch.uint8).numpy()


def read_photo_file(content: bytes) -> Tensor:
    """Read a photo as the style encoder takes it, 1,3,H,H in [-1, 1].

    Raises:
        MessageError: not an image, or too large.
    """
    try:
        _check_size(content)
        return decode_photo(content)
    except ValueError as error:
        raise MessageError(str(error)) from error


def _check_size(content: bytes) -> None:
    # A small file can hold very many pixels, which take long to decode, so its header is read first.
    width, height = open_image(content).size
    if max(width, height) > MAX_SIDE:
        raise ValueError(f"{width}x{height} pixels; the limit is {MAX_SIDE}x{MAX_SIDE}")


def drawing_png(drawing: np.ndarray, data_type: str) -> bytes:
    """Encode a drawing (R,R uint8) as a PNG of class ids, or of black lines on white, for `read_drawing_file`."""
    # In the forms that other programs of this project read with --input.
    if data_type == "seg":
        return encode_png(drawing)
    edges = 1 - 2 * torch.from_numpy(drawing.astype(np.float32))[None, None]  # 1,1,R,R
    return encode_png(draw_label_map(edges, data_type)[0])


# --------------------------------------------------------------------------- sessions


def write_session(session: Session, data_type: str) -> bytes:
    """Encode a session file."""
    # Little-endian float32 on every machine. "place" is the key of the first version for the drawing's view.
    ws = session.ws.numpy().astype("<f4")
    contents = {
        "format": FORMAT,
        "version": VERSION,
        "cfg": session.cfg,
        "network": session.network,
        "seed": session.seed,
        "keep_style": session.keep_style,
        "place": asdict(session.drawing_view),
        "view": asdict(session.view),
        "drawing_png": base64.b64encode(drawing_png(session.drawing, data_type)).decode(),
        "ws_shape": list(ws.shape),
        "ws_float32": base64.b64encode(ws.tobytes()).decode(),
    }
    if session.photo is not None:
        contents["photo_float32"] = base64.b64encode(session.photo.numpy().astype("<f4").tobytes()).decode()
    return json.dumps(contents, indent=1).encode()


def read_session(content: bytes, cfg: str, data_type: str, limits: NetworkLimits) -> Session:
    """Decode and validate a session file, which can come from anywhere.

    Raises:
        MessageError: not a session, damaged, of another configuration, or outside the limits of this network.
    """
    # Format. Deeply nested JSON raises RecursionError.
    try:
        contents = json.loads(content)
    except (ValueError, RecursionError):
        raise MessageError("not a session file (it is not JSON)") from None
    if not isinstance(contents, dict) or contents.get("format") != FORMAT:
        raise MessageError("not a session file of this editor")
    if contents.get("version") != VERSION:
        raise MessageError(f"session version {contents.get('version')!r:.20}; this editor reads version {VERSION}")

    # Network. A session of other weights is accepted: its scene is computed again from the drawing.
    for name in ("cfg", "network"):
        if not isinstance(contents.get(name), str):
            raise MessageError(f"damaged session: {name} is not text")
    if contents["cfg"] != cfg:
        raise MessageError(f"the session is for configuration {contents['cfg']:.20}; this editor runs {cfg}")

    # State of the page, with the same checks as in messages. "place" is the view of the drawing.
    seed = FIELDS["seed"]("seed", contents.get("seed"), limits)
    keep_style = FIELDS["keep_style"]("keep_style", contents.get("keep_style"), limits)
    view = read_view("view", contents.get("view"), limits)
    drawing_view = read_view("place", contents.get("place"), limits)
    drawing = read_drawing_file(_read_base64(contents, "drawing_png"), data_type, limits)
    ws = _read_ws(contents)
    photo = torch.from_numpy(_read_codes(contents, "photo_float32"))[None] if "photo_float32" in contents else None
    return Session(cfg, contents["network"], drawing, drawing_view, seed, keep_style, view, ws, photo)


def _read_ws(contents: dict[str, Any]) -> Tensor:
    """Read ws of the stored shape, which should be 1,num_ws,w_dim."""
    # Three positive sizes; whether they are those of the network is checked where the ws are used.
    shape = contents.get("ws_shape")
    values = _read_codes(contents, "ws_float32")
    if not isinstance(shape, list) or len(shape) != 3 or any(type(size) is not int or size < 1 for size in shape):
        raise MessageError("damaged session: ws_shape is not three sizes")

    # The product in Python integers, which do not overflow.
    if len(values) != np.prod(shape, dtype=object):
        raise MessageError("damaged session: ws_float32 does not have ws_shape")
    return torch.from_numpy(values).reshape(shape)


def _read_codes(contents: dict[str, Any], name: str) -> np.ndarray:
    """Read latent codes, K float32."""
    # NaN fails the comparison with MAX_CODE.
    values = np.frombuffer(_read_base64(contents, name, multiple_of=4), "<f4").astype(np.float32)
    if not (np.abs(values) < MAX_CODE).all():
        raise MessageError(f"damaged session: {name} is not finite")
    return values


def _read_base64(contents: dict[str, Any], name: str, multiple_of: int = 1) -> bytes:
    # Anything that is not base64 text counts as missing.
    try:
        value = base64.b64decode(contents.get(name), validate=True)
    except (TypeError, ValueError, binascii.Error):
        value = b""
    if not value or len(value) % multiple_of:
        raise MessageError(f"damaged session: {name} is missing or incomplete")
    return value
