"""Latency of the editor: stroke to picture and drag to picture, over a real WebSocket to a real server.

python tests/benchmarks/editor.py [--network FILE --cfg CFG] [--device cpu] [--precision bf16] [--count 20]

A stroke is a new drawing (encoded, planes, and a full picture, or where that takes long a preview first); a drag is a
preview of the same scene, a settled view its full picture. Painting the answer in the browser takes 5 to 10 ms more.
An untrained network of full size:
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
from editor_pages import FRONT, TestPage, real_server

from applications import cli
from applications.editor.studio import Studio
from torch_utils.devices import choose_device
from training.data.label_maps import read_label_map
from training.networks.configs import CONFIGS

ASSETS = Path(__file__).resolve().parents[2] / "applications" / "assets"


class Socket:
    """A WebSocket connection as TestPage uses one."""

    def __init__(self, line):
        self.send_bytes, self.receive_bytes = line.send, line.recv


def drawings(studio: Studio, count: int) -> list[np.ndarray]:
    """A label map with one more disc of another class on each."""
    seg = studio.G.data_type == "seg"
    asset = ASSETS / ("cat.png" if seg else "car.png")
    label_map = read_label_map(asset, studio.G.data_type, studio.bounds.classes, studio.bounds.resolution)[0, 0].numpy()
    ids = (label_map if seg else label_map < 0).astype(np.uint8)
    size = len(ids)
    y, x = np.mgrid[:size, :size] / size
    found = []
    for number in range(count):
        disc = (x - 0.3 - 0.4 * number / count) ** 2 + (y - 0.5) ** 2 < 0.05**2
        ids = np.where(disc, np.uint8(1 + number % (studio.bounds.classes - 1)), ids)
        found.append(ids)
    return found


def measured(action) -> tuple[float, float]:
    """Milliseconds that pass, and that all threads of page and server compute together."""
    start = time.perf_counter(), time.process_time()
    action()
    return 1e3 * (time.perf_counter() - start[0]), 1e3 * (time.process_time() - start[1])


def show(what: str, times: list[tuple[float, float]]) -> None:
    passed, computed = zip(*times[1:], strict=True)  # the first pays for memory that is then there
    spread = f"{min(passed):.0f} to {max(passed):.0f} of {len(passed)}"
    click.echo(
        f"{what:20}{statistics.median(passed):8.0f} ms median, {spread}; {min(computed):.0f} ms computed, at least"
    )


@click.command()
@click.option("--network", default=str(cli.DEFAULT_NETWORK))
@click.option("--cfg", default=cli.DEFAULT_CFG, type=click.Choice(list(CONFIGS)))
@click.option("--device")
@click.option("--precision", default="auto")
@click.option("--count", default=20, help="Of each kind; their median is shown.")
def main(network: str, cfg: str, device: str | None, precision: str, count: int) -> None:
    """Print medians in milliseconds."""
    studio = Studio(cli.load_generator(network, cfg, choose_device(device), precision), cfg)
    r = studio.G.neural_rendering_resolution
    click.echo(
        f"{studio.bounds.resolution} pixels, rendered at {r}, {studio.device}, {torch.get_num_threads()} threads"
    )
    with real_server(studio) as address:
        line = connect(address.replace("http", "ws") + "channel", origin=address.rstrip("/"), max_size=None)
        with line:
            page = TestPage(Socket(line))
            strokes = iter(drawings(studio, 2 * (count + 1)))
            for what, quality in (("stroke to preview", "preview"), ("stroke to picture", "full")):
                edits = [lambda i=ids, q=quality: page.edit(i, quality=q) for ids in islice(strokes, count + 1)]
                show(what, [measured(edit) for edit in edits])
            for what, quality in (("drag to preview", "preview"), ("settled view", "full")):
                views = [FRONT | {"azimuth": FRONT["azimuth"] + 0.02 * step} for step in range(count + 1)]
                looks = [lambda v=v, q=quality: page.ask("look", scene=None, view=v, quality=q) for v in views]
                show(what, [measured(look) for look in looks])


if __name__ == "__main__":
    main()
