"""Metrics during training, of the network as it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from metrics.evaluation import Choices, Evaluation
from metrics.generated import Generator
from metrics.names import parse_metrics
from metrics.report import write_jsonl
from metrics.tools import ToolOptions, check_metrics, load_tools
from torch_utils.distributed import rank, world_size
from training.dataset import PosedImageDataset
from training.triplane import TriPlane


def judge_snapshot(
    G: TriPlane,
    dataset: PosedImageDataset,
    names: Sequence[str],
    folder: Path | None,
    snapshot: str,
    device: torch.device,
    options: ToolOptions | None = None,
    choices: Choices | None = None,
) -> dict[str, float]:
    """Figures of a generator, by name; all processes call it, share the work and get the same.

    Args:
        G: in eval mode, on the device.
        folder: where rank 0 adds a line to each metric-NAME.jsonl; None in the others.
        snapshot: name of the weights, for those lines.
    Raises:
        ValueError: a metric that is not there, or what it needs is not; starts with the option to blame.
    """
    metrics = parse_metrics(names)
    options, choices = options or ToolOptions(), choices or Choices()
    check_metrics(metrics, dataset, options, choices.num)
    tools = load_tools(options, metrics, dataset, G.semantic_channels, device)
    evaluation = Evaluation(dataset, tools, choices, device, G.semantic_channels)
    results = evaluation(Generator(G), metrics)
    if rank() == 0:
        write_jsonl(folder, {"network": results}, snapshot, world_size(), {})
    return {name: value for result in results for name, value in result.values.items()}
