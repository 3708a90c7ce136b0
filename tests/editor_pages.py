"""Helpers for tests of the editor: a tiny network, a page without a browser, and a server in this process."""

import errno
import json
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from starlette.testclient import TestClient

from applications.editor.classes import class_names
from applications.editor.model import EditorModel
from applications.editor.protocol import pack, unpack
from applications.editor.security import ServerAddress, listen
from applications.editor.server import create_app, make_server
from training.networks.configs import CONFIGS
from training.networks.registry import construct

TINY = {
    "resolution": 128, "channel_base": 1024, "channel_max": 16, "encoder_width": 0.02, "sr_width": 0.05,
    "plane_resolution": 32, "depth_resolution": 4,
}  # fmt: skip
HOST = "127.0.0.1"
# Style vectors of the included cat model that come from the label map.
GEOMETRY_LAYERS = 5
FRONT = {"azimuth": np.pi / 2, "polar": np.pi / 2, "zoom": 1.0}
EDIT_FIELDS = {
    "drawing_view": FRONT, "seed": 0, "photo": None, "style": None, "geometry": None, "view": FRONT, "quality": "full",
}  # fmt: skip


def tiny_generator(cfg="seg2cat", class_name=None, disentangle=True, **changes):
    """Return a random network with the architecture of a published one; `changes` are fields of GeneratorOptions."""
    torch.manual_seed(0)
    options = replace(CONFIGS[cfg], **{"pose_conditioning": True, **TINY, **changes})
    kwargs = options.kwargs()
    kwargs["mapping_kwargs"] |= {"disentangle": disentangle}
    G = construct(class_name or options.class_name, kwargs).eval()
    G.neural_rendering_resolution = 16
    return G


def tiny_model(cfg="seg2cat", **changes):
    return EditorModel(tiny_generator(cfg, **changes), cfg)


def app_of(model, host=HOST, names=None, examples=(), photo=None, name="tiny"):
    """Create the application; `names` are the class names stored with the weights."""
    names = class_names(model.cfg, model.G.data_type, model.limits.classes, names)
    return create_app(model, names, ServerAddress(host, host), examples, photo, name)


class ScriptedPage:
    """A page whose messages are sent by a test."""

    def __init__(self, socket):
        self.socket, self.id = socket, 0
        self.hello, _ = self.receive()

    def send(self, kind, payload=b"", **fields):
        self.id += 1
        self.socket.send_bytes(pack(bytes(payload), type=kind, id=self.id, **fields))
        return self.id

    def receive(self):
        """Return header and payload of the next reply."""
        return unpack(self.socket.receive_bytes())

    def ask(self, kind, payload=b"", **fields):
        """Send a message and return its reply, which must not be an error."""
        id = self.send(kind, payload, **fields)
        header, content = self.receive()
        assert header["type"] != "error", header
        assert header["id"] == id
        return header, content

    def edit(self, drawing, view=FRONT, **changes):
        return self.ask("edit", drawing.tobytes(), **EDIT_FIELDS | {"view": view} | changes)


@contextmanager
def serving(app):
    """Start an application and yield an HTTP client for it."""
    with TestClient(app, base_url=f"http://{HOST}") as client:
        yield client


@contextmanager
def page_of(client):
    with client.websocket_connect(f"ws://{HOST}/channel", headers={"origin": f"http://{HOST}"}) as socket:
        yield ScriptedPage(socket)


@contextmanager
def real_server(model, names=None, examples=(), port=0, photo=None, name="tiny"):
    """Start a server in a thread and yield its URL."""
    with _listen(port) as listening:
        server = make_server(app_of(model, names=names, examples=examples, photo=photo, name=name))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield f"http://{HOST}:{listening.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join(30)


def _listen(port):
    """Retry `listen` while connections of a previous server on the port are being closed."""
    for _ in range(50):
        try:
            return listen(HOST, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            time.sleep(0.1)
    return listen(HOST, port)


def json_line(**header):
    return json.dumps(header).encode() + b"\n"
