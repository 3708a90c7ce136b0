"""Metrics of a training run: evaluate its generator at a snapshot, on the training data."""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path

import torch

from dnnlib.errors import ConfigError
from metrics.distributed import run_on_all_ranks, run_on_rank_0
from metrics.evaluation import Evaluator, SamplingOptions
from metrics.generators import NetworkGenerator
from metrics.registry import Metric, parse_metrics
from metrics.report import network_settings, protocol, write_result
from metrics.resources import ResourceOptions, check_metrics, load_resources
from torch_utils.distributed import rank, world_size
from training.data.dataset import PosedImageDataset
from training.data.sampler import is_lost_worker
from training.networks.generator import TriPlane
from training.options import DataOptions, TrainingOptions


def evaluation_data(data: DataOptions) -> PosedImageDataset:
    """Open the data set of a run for evaluation: all of its images, none of them mirrored."""
    return PosedImageDataset(data.path, data.mask_path, data.data_type, resolution=data.resolution)


def resource_options(options: TrainingOptions) -> ResourceOptions:
    """Return the sources of networks and data for the metrics of a run."""
    return ResourceOptions(lpips_weights=options.lpips_weights)


def check_run_metrics(options: TrainingOptions, load: bool = False) -> None:
    """Check before training that the metrics of a run can be computed.

    Args:
        options: options of the run.
        load: also try to load the networks that the metrics need, on the CPU.
    Raises:
        ConfigError: they cannot; the field is `metrics`.
    """
    # Open the data set as an evaluation does; its errors are those of the data.
    metrics = parse_metrics(options.metrics)
    dataset = evaluation_data(options.data)
    resources = resource_options(options)

    # Attribute every failure to the metrics of the run. Networks are tried on the CPU: no process has its device yet.
    try:
        check_metrics(metrics, dataset, resources, None)
        if load:
            load_resources(resources, metrics, dataset, options.generator.label_channels, torch.device("cpu"))
    except ConfigError as error:
        # The hint of the error may name fields that a run does not have.
        field, got, allowed, _hint, problem = error.args
        problem = str(ConfigError(field, got, allowed, problem=problem)).removeprefix("metrics: ")
        raise ConfigError("metrics", problem=problem, hint="`no_eval=True` trains without metrics") from error


def evaluate_run(
    G: TriPlane, options: TrainingOptions, run_dir: Path | None, snapshot: str, device: torch.device
) -> dict[str, float]:
    """Compute the metrics of a run for its current generator; all processes call it and share the work.

    A failure is printed as one line, and the figures known by then are returned, since training must go on. The loss of
    a data loading worker is raised, because it ends training wherever it is noticed.

    Args:
        G: the generator in eval mode, on the device.
        options: options of the run.
        run_dir: where rank 0 writes the results; None in other processes.
        snapshot: name of the weights.
        device: of G.
    Returns:
        Figures by name, the same in all processes.
    """
    # Set up the evaluation at the first snapshot; later ones reuse it.
    figures: dict[str, float] = {}
    try:
        metrics = parse_metrics(options.metrics)
        resources = resource_options(options)
        # A change of any of these makes another evaluator.
        key = (options.data, tuple(metrics), resources, G.semantic_channels, device)
        evaluator = run_on_all_ranks(partial(_evaluator, *key))

        # Settings that an evaluation by calc_metrics.py has too, for its protocol.
        run = {
            "network": snapshot,
            "processes": str(world_size()),
            "data": f"{options.data.path}, {options.data.mask_path}",
            **network_settings(G, device),
        }

        # Write each metric at once, so that a failure of a later one loses nothing.
        for result in evaluator.evaluate(NetworkGenerator(G), metrics):
            settings = protocol(evaluator, result, run)
            run_on_rank_0(partial(write_result, run_dir, {"network": result}, snapshot, world_size(), settings))
            figures |= result.figures
    # Metrics run networks and read files of users, which can raise anything.
    except Exception as error:
        if is_lost_worker(error):
            raise
        if rank() == 0:
            reason = " ".join(str(error).split()) or type(error).__name__
            print(f"Metrics of {snapshot} failed: {reason}", flush=True)
    return figures


@lru_cache(maxsize=1)
def _evaluator(
    data: DataOptions, metrics: tuple[Metric, ...], options: ResourceOptions, classes: int, device: torch.device
) -> Evaluator:
    """Create the evaluator at the first snapshot; later ones reuse its networks and real features."""
    # Checked again: the data may have changed since the run started.
    dataset = evaluation_data(data)
    check_metrics(metrics, dataset, options, None)
    resources = load_resources(options, metrics, dataset, classes, device)
    return Evaluator(dataset, resources, SamplingOptions(), device, classes)
