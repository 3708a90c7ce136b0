"""Reports of an evaluation: a table for the console, a JSON line and a protocol of all settings for each metric."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from dnnlib.util import format_time
from metrics.choices import PHOTO
from metrics.evaluation import SEED_STEP, Evaluator, Result
from metrics.registry import EvalMode
from torch_utils.precision import Precision
from training.networks.generator import TriPlane

# Significant digits in the table. The JSON line has all digits.
DIGITS = 5
# Cell of a figure without a value.
MISSING = "-"


def table(columns: Mapping[str, Sequence[Result]]) -> str:
    """Format figures as a table with one row per figure and one column per generator.

    A figure that not all samples have is followed by the number of samples that have it.

    Args:
        columns: results by name of the generator.
    """
    # Text of each figure and generator. A baseline may lack figures of the network, such as those of its depth.
    cells: dict[str, dict[str, str]] = {}
    for generator, results in columns.items():
        for result in results:
            for name, value in result.figures.items():
                counted = result.counted.get(name)
                text = f"{value:.{DIGITS}g}" + (f" ({counted} of {result.num_samples})" if counted else "")
                cells.setdefault(name, {})[generator] = MISSING if math.isnan(value) else text

    # Columns of text, header first: names are aligned to the left, values to the right.
    names = ["", *cells]
    width = max(map(len, names))
    text_columns = [[name.ljust(width) for name in names]]
    for generator in columns:
        values = [generator, *(by_generator.get(generator, MISSING) for by_generator in cells.values())]
        width = max(map(len, values))
        text_columns.append([value.rjust(width) for value in values])
    return "\n".join("  ".join(row).rstrip() for row in zip(*text_columns, strict=True))


def network_settings(G: TriPlane, device: torch.device) -> dict[str, str]:
    """Return resolution, precision and device of a network, for the protocol."""
    # Convolution blocks choose their number type by device: float16 on CUDA for some, float32 elsewhere.
    blocks = [module.precision for module in G.modules() if isinstance(getattr(module, "precision", None), Precision)]
    dtypes = sorted({str(block.dtype(device)).removeprefix("torch.") for block in blocks})
    return {
        "rendered at": f"{G.neural_rendering_resolution} pixels, enlarged to {G.img_resolution}",
        "precision": f"{' and '.join(dtypes)}, metrics in float64",
        "device": str(device),
        "torch": torch.__version__,
    }


def protocol(evaluator: Evaluator, result: Result, run: Mapping[str, str]) -> dict[str, str]:
    """Return all settings behind the figures of one metric, by name.

    Args:
        evaluator: the evaluator.
        result: of this metric.
        run: settings that the caller knows, such as the weights file.
    """
    # Settings that all metrics have.
    dataset = evaluator.dataset
    metric = result.metric
    samples = "".join(f"; {n} of them have {name}" for name, n in result.counted.items())
    settings = {
        "metric": f"{metric.name}. {metric.spec.description}",
        "images": f"{metric.spec.mode.value}; clipped to [-1, 1]; rounded to uint8 before feature networks",
        "samples": f"{result.num_samples}{samples}",
        **run,
        "data set": f"{dataset.name}, {len(dataset)} images of {dataset.resolution} pixels, {dataset.data_type}",
        **asdict(evaluator.options),
        "order": f"numpy RandomState({evaluator.options.seed}).permutation, repeated",
        "z": f"{_source_of_z(evaluator, result)}; no truncation, const noise, no jitter",
    }

    # Real images and networks that this metric uses.
    if metric.spec.compares_with_real:
        count = evaluator.num_real(metric)
        settings["real images"] = f"{count}, " + ("all" if count == len(dataset) else "the first in that order")
    for name in metric.spec.resources:
        # None: the user gave none, or the data set has none.
        resource = getattr(evaluator.resources, name)
        settings[name] = resource.description if resource else "none"
    return {name: str(value) for name, value in settings.items()}


def _source_of_z(evaluator: Evaluator, result: Result) -> str:
    # Metrics of several seeds use seeds in either case.
    if evaluator.options.style == PHOTO and result.metric.spec.mode is not EvalMode.SEEDS:
        return "mean of the style encoder's distribution for the photo of the input view"
    return f"numpy RandomState((seed * {SEED_STEP} + i) mod 2^32).randn for image i"


def write_result(
    run_dir: Path,
    results: Mapping[str, Result],
    network: str,
    processes: int,
    settings: Mapping[str, str],
    **extra: Any,
) -> None:
    """Append a line to metric-NAME.jsonl, and the settings to metric-NAME-protocol.txt, for one metric.

    The keys are those of the StyleGAN family (results, metric, total_time, total_time_str, num_gpus, snapshot_pkl,
    timestamp), and samples, counted, baselines, protocol and `extra`. Figures without a value are null.

    Args:
        run_dir: directory of the files, created if needed.
        results: of the evaluated network first, then of its baselines.
        network: name of the weights.
        processes: number of processes.
        settings: see `protocol`; also in the JSON line.
        extra: more keys of the line.
    """
    # The line, with the keys of the StyleGAN family first, so that tools for its files can read it.
    run_dir.mkdir(parents=True, exist_ok=True)
    (_, result), *baselines = results.items()
    line = {
        "results": _finite_or_none(result),
        "metric": result.metric.name,
        "total_time": result.seconds,
        "total_time_str": format_time(result.seconds),
        "num_gpus": processes,
        "snapshot_pkl": network,
        "timestamp": time.time(),
        "samples": result.num_samples,
        "counted": result.counted,
        "baselines": {name: _finite_or_none(baseline) for name, baseline in baselines},
        "protocol": dict(settings),
        **extra,
    }
    # One unbuffered write: other evaluations may append to the same file.
    with (run_dir / f"metric-{result.metric.name}.jsonl").open("ab", buffering=0) as file:
        file.write(json.dumps(line, allow_nan=False).encode() + b"\n")

    # The settings, for people to read; those of further calls follow after an empty line.
    text = "".join(f"{name}: {value}\n" for name, value in settings.items())
    with (run_dir / f"metric-{result.metric.name}-protocol.txt").open("ab", buffering=0) as file:
        file.write((("\n" if file.tell() else "") + text).encode())


def _finite_or_none(result: Result) -> dict[str, float | None]:
    """Return the figures by name, with None for those that JSON cannot represent."""
    return {name: value if math.isfinite(value) else None for name, value in result.figures.items()}
