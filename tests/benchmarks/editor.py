"""Latency of the editor from a stroke or a drag to the image, over a real WebSocket to a real server.

python tests/benchmarks/editor.py [--network FILE --cfg CFG] [--device cpu] [--precision bf16] [--count 20]

A stroke is a new drawing: encoding, tri-planes, and an image in preview or full quality. A drag is a preview of the
same scene, a settled view its full image. Showing the image in the browser takes another 5 to 10 ms.
To measure an untrained network of the published size:
python legacy.py init full.pt --cfg seg2cat
"""

from __future__ import annotations

import statistics
import sys
import time
from itertools import islice
from pathlib import Path

import click
import numpy as np
import torch
from websockets.sync.client import connect

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from editor_pages import FRONT, ScriptedPage, real_server

from applications import cli
from applications.editor.model import EditorModel
from torch_utils.devices import choose_device
from training.data.label_maps import read_label_map
from training.networks.configs import CONFIGS

ASSETS = Path(__file__).resolve().parents[2] / "applications" / "assets"


class Socket:
    """Adapter of a WebSocket connection for ScriptedPage."""

    def __init__(self, connection):
        self.send_bytes = connection.send
        self.receive_bytes = connection.recv


def drawings(model: EditorModel, count: int) -> list[np.ndarray]:
    """Return `count` drawings R,R uint8, each with one more disc of another class."""
    seg = model.G.data_type == "seg"
    asset = ASSETS / ("cat.png" if seg else "car.png")
    label_map = read_label_map(asset, model.G.data_type, model.limits.classes, model.limits.resolution)[0, 0].numpy()
    ids = (label_map if seg else label_map < 0).astype(np.uint8)
    size = len(ids)
    y, x = np.mgrid[:size, :size] / size
    variants = []
    for number in range(count):
        disc = (x - 0.3 - 0.4 * number / count) ** 2 + (y - 0.5) ** 2 < 0.05**2
        ids = np.where(disc, np.uint8(1 + number % (model.limits.classes - 1)), ids)
        variants.append(ids)
    return variants


def measure(action) -> tuple[float, float]:
    """Return wall time and CPU time of all threads of page and server, in milliseconds."""
    start = time.perf_counter(), time.process_time()
    action()
    return 1e3 * (time.perf_counter() - start[0]), 1e3 * (time.process_time() - start[1])


def show(title: str, times: list[tuple[float, float]]) -> None:
    passed, computed = zip(*times[1:], strict=True)  # the first includes memory allocation
    spread = f"{min(passed):.0f} to {max(passed):.0f} of {len(passed)}"
    click.echo(
        f"{title:20}{statistics.median(passed):8.0f} ms median, {spread}; {min(computed):.0f} ms computed, at least"
    )


@click.command()
@click.option("--network", default=str(cli.DEFAULT_NETWORK))
@click.option("--cfg", default=cli.DEFAULT_CFG, type=click.Choice(list(CONFIGS)))
@click.option("--device")
@click.option("--precision", default="auto")
@click.option("--count", default=20, help="Repetitions of each measurement.")
def main(network: str, cfg: str, device: str | None, precision: str, count: int) -> None:
    """Print median latencies in milliseconds."""
    model = EditorModel(cli.load_generator(network, cfg, choose_device(device), precision), cfg)
    r = model.G.neural_rendering_resolution
    click.echo(f"{model.limits.resolution} pixels, rendered at {r}, {model.device}, {torch.get_num_threads()} threads")
    with real_server(model) as address:
        connection = connect(address.replace("http", "ws") + "channel", origin=address.rstrip("/"), max_size=None)
        with connection:
            page = ScriptedPage(Socket(connection))
            strokes = iter(drawings(model, 2 * (count + 1)))
            for title, quality in (("stroke to preview", "preview"), ("stroke to image", "full")):
                edits = [lambda i=ids, q=quality: page.edit(i, quality=q) for ids in islice(strokes, count + 1)]
                show(title, [measure(edit) for edit in edits])
            for title, quality in (("drag to preview", "preview"), ("settled view", "full")):
                views = [FRONT | {"azimuth": FRONT["azimuth"] + 0.02 * step} for step in range(count + 1)]
                renders = [lambda v=v, q=quality: page.ask("render", scene=None, view=v, quality=q) for v in views]
                show(title, [measure(render) for render in renders])


if __name__ == "__main__":
    main()
