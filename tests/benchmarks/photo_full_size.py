"""Time and memory of projecting a photo into a network of the published size, with random weights.

python tests/benchmarks/photo_full_size.py [--cfg seg2cat] [--steps 2] [--tune 2] [--threads 1]

Prints processor seconds of each step and the largest memory so far. The numbers of the losses mean nothing.
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

import click
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from inference.projector import ProjectionOptions, Projector
from torch_utils.host_memory import keep_freed_memory
from training.networks.configs import CONFIGS, RAW_RESOLUTION
from training.networks.registry import construct


def peak_gb() -> float:
    """Return the largest resident set size so far."""
    per_gb = 1e9 if sys.platform == "darwin" else 1e6  # getrusage counts bytes there, KiB here
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / per_gb


@click.command()
@click.option("--cfg", type=click.Choice(list(CONFIGS)), default="seg2cat", show_default=True)
@click.option("--steps", default=2, show_default=True)
@click.option("--tune", default=2, show_default=True)
@click.option("--threads", default=1, show_default=True)
def main(cfg: str, steps: int, tune: int, threads: int) -> None:
    torch.set_num_threads(threads)
    keep_freed_memory()
    torch.manual_seed(0)
    config = CONFIGS[cfg]
    G = construct(config.class_name, config.kwargs()).eval().requires_grad_(False)
    G.neural_rendering_resolution = RAW_RESOLUTION[cfg]
    click.echo(f"{cfg}, {G.img_resolution} pixels: {peak_gb():.1f} GB with the network alone")

    # Any photo, with a disk of class 1, or a line for edges.
    R = G.img_resolution
    photo = torch.rand(1, 3, R, R) * 2 - 1
    rows, columns = torch.meshgrid(torch.arange(R), torch.arange(R), indexing="ij")
    disk = (rows - R / 2).square() + (columns - R / 2).square() < (R / 3) ** 2
    label_map = disk.long() if G.data_type == "seg" else 1 - 2 * disk.float()
    projector = Projector(G, photo, label_map, options=ProjectionOptions(steps, tune, seeds=1))

    start = time.process_time()
    for progress in projector.steps():
        seconds = time.process_time() - start
        click.echo(f"{progress.phase} {progress.done}: {seconds:.1f} s, at most {peak_gb():.1f} GB")
        start = time.process_time()


if __name__ == "__main__":
    main()
