"""What metrics cost beside rendering the pictures that they look at.

python tests/benchmarks/metrics.py [--cfg seg2cat] [--extractor FILE] [--samples 4] [--cpu-time]
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(1, str(Path(__file__).resolve().parents[1]))
from metric_data import noise_data

from metrics.evaluation import Choices, Evaluation, Tools
from metrics.extractors import load_extractor
from metrics.generated import Generator, Samples
from metrics.names import parse_metrics
from torch_utils.devices import choose_device
from torch_utils.host_memory import keep_freed_memory
from training.networks.configs import CONFIGS, RAW_RESOLUTION
from training.networks.registry import construct


@torch.inference_mode()
def render_alone(source: Generator, samples: list[Samples]) -> None:
    """The same pictures, their label maps read before."""
    for one in samples:
        scenes = source.scenes(one.label_map, one.pose, one.seeds)
        source.look(scenes, one.pose)["image"].sum().item()  # waits for the device


@click.command()
@click.option("--cfg", default="seg2cat", type=click.Choice(list(CONFIGS)))
@click.option("--extractor", default="metric_data:Thumbnails", show_default=True, help="As of calc_metrics.py.")
@click.option("--samples", default=4, show_default=True)
@click.option("--cpu-time", is_flag=True, help="Processor time of one thread, for a machine with other work to do.")
@click.option("--device", default=None)
def main(cfg: str, extractor: str, samples: int, cpu_time: bool, device: str | None) -> None:
    """Print seconds of rendering alone, and with fid, kid and label metrics, for a full-size untrained network."""
    chosen, options = choose_device(device), CONFIGS[cfg]
    keep_freed_memory()
    clock = time.process_time if cpu_time else time.perf_counter
    if cpu_time:
        torch.set_num_threads(1)
    G = construct(options.class_name, options.kwargs()).eval().requires_grad_(False).to(chosen)
    G.neural_rendering_resolution = RAW_RESOLUTION[cfg]
    source = Generator(G)

    def seconds(work: Callable[[], object]) -> float:
        started = clock()
        work()
        return clock() - started

    with tempfile.TemporaryDirectory() as folder:
        os.environ["PIX2PIX3D_CACHE"] = folder  # so that features are computed, not found
        dataset = noise_data(Path(folder), options.resolution, options.data_type, samples)
        network = load_extractor(extractor, chosen, options.resolution)
        evaluation = Evaluation(dataset, Tools(network), Choices(batch=1), chosen, G.semantic_channels)
        metrics = parse_metrics([*(["miou", "acc"] if options.data_type == "seg" else ["ap"]), "fid", "kid"])
        read = list(evaluation.batches(samples, 1, "pictures"))
        real = seconds(lambda: evaluation.real(metrics[-1]))
        render_alone(source, read[:1])  # whatever is made at the first call
        alone = seconds(lambda: render_alone(source, read))
        running = evaluation(source, metrics)
        drawn = seconds(lambda: next(running))  # the label metric comes first, as soon as all is drawn
        arithmetic = seconds(lambda: list(running))
    click.echo(f"rendering alone                {alone / samples:9.3f} s a picture")
    click.echo(f"with reading, features, labels {drawn / samples:9.3f} s a picture")
    click.echo(f"overhead                       {100 * (drawn / alone - 1):9.1f} %")
    click.echo(f"arithmetic of fid and kid      {arithmetic:9.3f} s, once")
    click.echo(f"features of real pictures      {real / samples:9.3f} s a picture, once for a data set")


if __name__ == "__main__":
    main()
