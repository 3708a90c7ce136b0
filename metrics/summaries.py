"""From what a pass over samples found to figures."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from metrics import distribution
from metrics.alignment import average_precision, mean_iou, pixel_accuracy
from metrics.names import Metric
from metrics.tally import Tally

COMPARED = {"fid", "kid", "pr"}  # with features of the real pictures
Values = dict[str, float]


class Found(NamedTuple):
    """What is summed up: a pass's tally, how many samples, features of the real pictures where a metric compares."""

    tally: Tally
    samples: int
    real: Tensor | None
    device: torch.device


ROWS = {  # of a tally -> endings of the figures that are the means of their columns, by metric
    "sg": {"diversity": ("",)},
    "fvv": {
        "reprojection": ("_color", "_label", "_color_unmoved", "_label_unmoved", "_compared"),
        "embedding": ("_embedding", "_embedding_cosine"),
    },
    "nvs": {"novel views": ("_psnr", "_ssim", "_depth")},
    "chamfer": {"chamfer": ("_to_truth", "_from_truth", "_mean")},
}


def columns(metric: Metric, tally: Tally) -> dict[str, Tensor]:
    """What every sample adds to the mean that a figure is; NaN where it adds nothing."""
    return {
        metric.name + ending: column
        for rows, endings in ROWS.get(metric.key, {}).items()
        if rows in tally
        for ending, column in zip(endings, tally.rows(rows).double().unbind(1), strict=True)
    }


def _means(metric: Metric, found: Found) -> Values:
    return {name: float(column.nanmean()) for name, column in columns(metric, found.tally).items()}


def _compared(found: Found) -> tuple[Tensor, Tensor]:
    """Features of the real pictures and of the rendered ones."""
    return found.real.to(found.device), found.tally.rows("features", found.samples).to(found.device)


def _fid(metric: Metric, found: Found) -> Values:
    real, fake = map(distribution.statistics, _compared(found))
    return {metric.name: distribution.frechet_distance(real, fake)}


def _kid(metric: Metric, found: Found) -> Values:
    return {metric.name: distribution.kernel_distance(*_compared(found))}


def _pr(metric: Metric, found: Found) -> Values:
    precision, recall = distribution.precision_recall(*_compared(found))
    return {f"{metric.name}_precision": precision, f"{metric.name}_recall": recall}


def _is(metric: Metric, found: Found) -> Values:
    mean, deviation = distribution.inception_score(found.tally.rows("probabilities", found.samples))
    return {f"{metric.name}_mean": mean, f"{metric.name}_std": deviation}


def _labels(summary: Callable[[Tensor], float], metric: Metric, found: Found) -> Values:
    kinds = {"labels": metric.name, "segmented": f"{metric.name}_segmented"}
    return {name: summary(found.tally.sum(kind)) for kind, name in kinds.items() if kind in found.tally}


def _nvs(metric: Metric, found: Found) -> Values:
    counts = found.tally.sum("novel labels")
    edges = counts.shape[0] != counts.shape[1]
    ending, summary = ("_ap", average_precision) if edges else ("_miou", mean_iou)
    return {metric.name + ending: summary(counts), **_means(metric, found)}


SUMMARIES: dict[str, Callable[[Metric, Found], Values]] = {
    "fid": _fid,
    "kid": _kid,
    "pr": _pr,
    "is": _is,
    "miou": partial(_labels, mean_iou),
    "acc": partial(_labels, pixel_accuracy),
    "ap": partial(_labels, average_precision),
    "sg": _means,
    "fvv": _means,
    "nvs": _nvs,
    "chamfer": _means,
}
