"""Metrics during training, of the network as it is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path

import torch

from metrics.evaluation import Choices, Evaluation
from metrics.generated import Generator
from metrics.names import parse_metrics
from metrics.protocol import of_network, protocol
from metrics.report import write_result
from metrics.sharing import on_rank_0, together
from metrics.tools import ToolOptions, check_metrics, load_tools
from torch_utils.distributed import rank, world_size
from training.data.dataset import PosedImageDataset
from training.data.sampler import is_lost_worker
from training.networks.generator import TriPlane
from training.options import DataOptions, TrainingOptions


def plain_data(data: DataOptions) -> PosedImageDataset:
    """All pictures that a run trains on, each once and as it is: what its networks are judged on."""
    return PosedImageDataset(data.path, data.mask_path, data.data_type, resolution=data.resolution)


def tool_options(options: TrainingOptions) -> ToolOptions:
    """What the metrics of a run need, as far as its options say."""
    return ToolOptions(lpips_weights=options.lpips_weights)


def evaluate_run(
    G: TriPlane, options: TrainingOptions, folder: Path | None, snapshot: str, device: torch.device
) -> dict[str, float]:
    """`judge_snapshot` as a run's options have it."""
    return judge_snapshot(G, options.data, options.metrics, folder, snapshot, device, tool_options(options))


def judge_snapshot(
    G: TriPlane,
    data: DataOptions,
    names: Sequence[str],
    folder: Path | None,
    snapshot: str,
    device: torch.device,
    options: ToolOptions | None = None,
    choices: Choices | None = None,
) -> dict[str, float]:
    """Figures of a generator, by name; all processes call it, share the work and get the same.

    Whatever fails is told in one line, and figures known by then are given: training must go on. But a process that
    reads data and was killed, which ends training, comes up wherever this process is just then: that is raised.

    Args:
        G: in eval mode, on the device.
        folder: where rank 0 adds a line to each metric-NAME.jsonl; None in the others.
        snapshot: name of the weights, for those lines.
    """
    options, choices, figures = options or ToolOptions(), choices or Choices(), {}
    made = {"network": snapshot, "processes": str(world_size()), "data": f"{data.path}, {data.mask_path}"}
    try:
        evaluation = together(lambda: _evaluation(data, tuple(names), options, choices, G.semantic_channels, device))
        made |= of_network(G, device)
        for result in evaluation(Generator(G), parse_metrics(names)):
            text = protocol(evaluation, result, made)
            on_rank_0(partial(write_result, folder, {"network": result}, snapshot, world_size(), text))
            figures |= result.values
    except Exception as error:  # of networks and files of other people too: any
        if is_lost_worker(error):
            raise
        if rank() == 0:
            print(f"Metrics of {snapshot} failed: {' '.join(str(error).split()) or type(error).__name__}", flush=True)
    return figures


@lru_cache(maxsize=1)
def _evaluation(
    data: DataOptions,
    names: tuple[str, ...],
    options: ToolOptions,
    choices: Choices,
    classes: int,
    device: torch.device,
) -> Evaluation:
    """Made at the first snapshot; later ones find data, networks and real features there."""
    metrics, dataset = parse_metrics(names), plain_data(data)
    check_metrics(metrics, dataset, options, choices.num)
    return Evaluation(dataset, load_tools(options, metrics, dataset, classes, device), choices, device, classes)
