"""What metrics cost beside rendering the pictures that they look at.

python tests/benchmarks/metrics.py [--cfg seg2cat] [--extractor FILE] [--samples 4] [--cpu-time]
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import click
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(1, str(Path(__file__).resolve().parents[1]))
from metric_data import noise_data

from metrics.evaluation import Choices, Evaluation, Tools
from metrics.extractors import load_extractor
from metrics.generated import Generator
from metrics.names import parse_metrics
from torch_utils.devices import choose_device
from torch_utils.host_memory import keep_freed_memory
from training.configs import CONFIGS, RAW_RESOLUTION
from training.registry import construct


@torch.inference_mode()
def render_alone(evaluation: Evaluation, source: Generator, count: int) -> None:
    for samples in evaluation.batches(count, evaluation.choices.batch, "pictures"):
        scenes = source.scenes(samples.label_map, samples.pose, samples.seeds)
        source.look(scenes, samples.pose)["image"].sum().item()  # waits for the device


@click.command()
@click.option("--cfg", default="seg2cat", type=click.Choice(list(CONFIGS)))
@click.option("--extractor", default="metric_data:Thumbnails", show_default=True, help="As of calc_metrics.py.")
@click.option("--samples", default=4, show_default=True)
@click.option("--cpu-time", is_flag=True, help="Processor time of one thread, for a machine with other work to do.")
@click.option("--device", default=None)
def main(cfg: str, extractor: str, samples: int, cpu_time: bool, device: str | None) -> None:
    """Print seconds of rendering alone and with fid, kid and label metrics, for a full-size untrained network."""
    chosen, options = choose_device(device), CONFIGS[cfg]
    keep_freed_memory()
    clock = time.process_time if cpu_time else time.perf_counter
    if cpu_time:
        torch.set_num_threads(1)
    G = construct(options.class_name, options.kwargs()).eval().requires_grad_(False).to(chosen)
    G.neural_rendering_resolution = RAW_RESOLUTION[cfg]
    with tempfile.TemporaryDirectory() as folder:
        dataset = noise_data(Path(folder), options.resolution, options.data_type, samples)
        network = load_extractor(extractor, chosen, options.resolution)
        evaluation = Evaluation(dataset, Tools(network), Choices(batch=1), chosen, G.semantic_channels)
        metrics = parse_metrics(["fid", "kid", *(["miou", "acc"] if options.data_type == "seg" else ["ap"])])
        evaluation(Generator(G), metrics)  # features of the real pictures are there from now on
        seconds = {}
        for name, work in {
            "rendering alone": lambda: render_alone(evaluation, Generator(G), samples),
            "with metrics": lambda: evaluation(Generator(G), metrics),
        }.items():
            started = clock()
            work()
            seconds[name] = clock() - started
    for name, value in seconds.items():
        click.echo(f"{name:20s} {value / samples:7.3f} s a picture")
    alone, together = seconds.values()
    click.echo(f"{'overhead':20s} {100 * (together / alone - 1):7.1f} %")


if __name__ == "__main__":
    main()
