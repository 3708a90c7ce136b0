"""Benchmark rendering of toy data and data loading: python tests/benchmarks/toy.py [--number 200] [--workers 2].

Prints one line each: images rendered, time and peak memory of this process and of its largest worker; samples loaded
per second at 512 pixels, for seg and edge data.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dataset_preprocessing.toy.write import KINDS, RenderJob, write_toy
from training.data.dataset import PosedImageDataset
from training.data.sampler import BatchStream

BATCH = 8
LOADER_RESOLUTION = 512


def peak_mib() -> str:
    """Return the largest resident set sizes so far."""
    per_mib = 1 << 20 if sys.platform == "darwin" else 1 << 10  # getrusage counts bytes there, KiB here
    main_process, workers = (
        resource.getrusage(who).ru_maxrss / per_mib for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return f"peak memory {main_process:.0f} MiB here, {workers:.0f} MiB in a worker"


def samples_per_second(dataset: PosedImageDataset, workers: int, batches: int) -> float:
    """Return the loading speed after a warm-up."""
    stream = BatchStream(dataset, BATCH, workers=workers)
    for _ in range(2 * max(workers, 1)):  # start workers and fill queues
        next(stream)
    start = time.perf_counter()
    for _ in range(batches):
        next(stream)
    return batches * BATCH / (time.perf_counter() - start)


@click.command()
@click.option("--number", default=200, show_default=True, help="images of each kind")
@click.option("--resolution", default=128, show_default=True)
@click.option("--workers", default=2, show_default=True)
@click.option("--batches", default=40, show_default=True, help="read by the loader")
def main(number: int, resolution: int, workers: int, batches: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            start = time.perf_counter()
            write_toy(RenderJob(kind, resolution, 1, seed=0), number, Path(folder, kind), workers)
            seconds = time.perf_counter() - start
            click.echo(f"{kind}: {number} images of {resolution} pixels in {seconds:.1f} s, {peak_mib()}")
        for kind, details in KINDS.items():
            paths = write_toy(
                RenderJob(kind, LOADER_RESOLUTION, 1, seed=0), 2 * BATCH, Path(folder, f"large_{kind}"), workers
            )
            speed = samples_per_second(PosedImageDataset(*paths, details.data_type), workers, batches)
            click.echo(f"loader, {details.data_type}: {speed:.0f} samples/s of {LOADER_RESOLUTION} pixels")


if __name__ == "__main__":
    main()
