"""Benchmark of the cost of metrics relative to rendering.

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

from metrics.evaluation import Evaluator, Samples, SamplingOptions
from metrics.generators import NetworkGenerator
from metrics.image_features import load_extractor
from metrics.registry import parse_metrics
from metrics.resources import Resources
from torch_utils.devices import choose_device
from torch_utils.host_memory import keep_freed_memory
from training.networks.configs import CONFIGS, RAW_RESOLUTION
from training.networks.registry import construct


@torch.inference_mode()
def render_only(generator: NetworkGenerator, batches: list[Samples]) -> None:
    """Render samples that were read before."""
    for samples in batches:
        scenes = generator.generate(samples.label_map, samples.pose, samples.styles)
        generator.render(scenes, samples.pose)["image"].sum().item()  # waits for the device


@click.command()
@click.option("--cfg", default="seg2cat", type=click.Choice(list(CONFIGS)), help="Network and type of label maps.")
@click.option("--extractor", default="metric_data:Thumbnails", show_default=True, help="As for calc_metrics.py.")
@click.option("--samples", type=click.IntRange(2), default=4, show_default=True, help="Number of images.")
@click.option("--cpu-time", is_flag=True, help="Measure processor time of one thread, on a machine that is not idle.")
@click.option("--device", default=None, help="Device.  [default: the first available]")
def main(cfg: str, extractor: str, samples: int, cpu_time: bool, device: str | None) -> None:
    """Print the time of rendering alone and with fid, kid and label metrics, for a full-size untrained network."""
    chosen = choose_device(device)
    options = CONFIGS[cfg]
    keep_freed_memory()
    clock = time.process_time if cpu_time else time.perf_counter
    if cpu_time:
        torch.set_num_threads(1)
    G = construct(options.class_name, options.kwargs()).eval().requires_grad_(False).to(chosen)
    G.neural_rendering_resolution = RAW_RESOLUTION[cfg]
    generator = NetworkGenerator(G)

    def seconds(work: Callable[[], object]) -> float:
        start = clock()
        work()
        return clock() - start

    with tempfile.TemporaryDirectory() as directory:
        os.environ["PIX2PIX3D_CACHE"] = directory  # an empty cache of features
        dataset = noise_data(Path(directory), options.resolution, options.data_type, samples)
        resources = Resources(load_extractor(extractor, chosen, options.resolution))
        evaluator = Evaluator(dataset, resources, SamplingOptions(batch=1), chosen, G.semantic_channels)
        label_metrics = ["miou", "acc"] if options.data_type == "seg" else ["ap"]
        metrics = parse_metrics([*label_metrics, "fid", "kid"])
        batches = list(evaluator.batches(samples, 1, "images"))

        real = seconds(lambda: evaluator.real_features(metrics[-1]))
        render_only(generator, batches[:1])  # warm up
        alone = seconds(lambda: render_only(generator, batches))
        results = evaluator.evaluate(generator, metrics)
        rendering = seconds(lambda: next(results))  # a label metric, known as soon as all images are rendered
        arithmetic = seconds(lambda: list(results))

    click.echo(f"rendering alone                {alone / samples:9.3f} s per image")
    click.echo(f"with reading, features, labels {rendering / samples:9.3f} s per image")
    click.echo(f"overhead                       {100 * (rendering / alone - 1):9.1f} %")
    click.echo(f"arithmetic of fid and kid      {arithmetic:9.3f} s, once")
    click.echo(f"features of real images        {real / samples:9.3f} s per image, once per data set")


if __name__ == "__main__":
    main()
