"""What an evaluation found: a table for the screen, lines of JSON to keep, and the protocol in words."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from dnnlib.util import format_time, whole_file
from metrics.alignment import EDGE_TOLERANCE, LINE_BELOW, edge_tolerance
from metrics.diversity import SEEDS
from metrics.evaluation import Evaluation, Result
from metrics.generated import MESH_GRID, POINTS
from metrics.names import Pass
from metrics.views import DEPTH_AGREEMENT, TURNS_RAD

PROTOCOL_FILE = "metric-protocol.txt"
DIGITS = 5  # significant ones
MISSING = "-"
MEANINGS = {  # end of a figure's name -> what it is, and which way is better
    "precision": "share of pictures that could be real ones, higher is better",
    "recall": "share of real pictures that could be made, higher is better",
    "segmented": "the same, of the segmentation network's labels on the rendered picture",
    "colour": "colour difference of reprojected pixels, share of the range, lower is better",
    "label": "share of reprojected pixels with another class (edges: mean difference), lower is better",
    "compared": "share of pixels that two views both see, by their depths",
    "embedding": "Euclidean distance of embeddings to the input view's, lower is better",
    "embedding_cosine": "cosine distance of embeddings to the input view's, lower is better",
    "psnr": "dB, higher is better; colours are free where only labels are given",
    "ssim": "higher is better; see psnr",
    "depth": "mean error on the object, world units, lower is better",
    "to_truth": "mean distance from the mesh, as far as the views see it, to the nearest true point, world units",
    "from_truth": "mean distance from true points to the nearest of the mesh, world units",
    "surfaces": "share of the objects whose density has a surface; only these count",
    "mean": "of both, lower is better",
}


def table(columns: Mapping[str, Sequence[Result]]) -> str:
    """Figures by name down, sources across; the columns may lack some."""
    figures = {source: {k: v for r in results for k, v in r.values.items()} for source, results in columns.items()}
    names = list(dict.fromkeys(name for values in figures.values() for name in values))
    rows = [["", *figures]]
    for name in names:
        rows.append([name, *(f"{v[name]:.{DIGITS}g}" if name in v else MISSING for v in figures.values())])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *cells in rows:
        right = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        lines.append("  ".join([name.ljust(widths[0]), *right]).rstrip())
    return "\n".join(lines)


def write_jsonl(
    folder: Path, columns: Mapping[str, Sequence[Result]], network: str, processes: int, extra: Mapping[str, Any]
) -> None:
    """Add one line per metric to metric-NAME.jsonl; the first column is the network's, others are what it must beat.

    Keys as in the public family: results, metric, total_time, total_time_str, num_gpus, snapshot_pkl, timestamp; and
    samples, baselines and those of `extra`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own, *others = columns
    for place, result in enumerate(columns[own]):
        line = {
            "results": result.values,
            "metric": result.metric.name,
            "total_time": result.seconds,
            "total_time_str": format_time(result.seconds),
            "num_gpus": processes,
            "snapshot_pkl": network,
            "timestamp": time.time(),
            "samples": result.samples,
            "baselines": {name: columns[name][place].values for name in others},
            **extra,
        }
        _append(folder / f"metric-{result.metric.name}.jsonl", json.dumps(line))


def _append(path: Path, line: str) -> None:
    before = b""
    with suppress(FileNotFoundError):
        before = path.read_bytes()
    with whole_file(path) as file:
        file.write(before + line.encode() + b"\n")


def write_protocol(folder: Path, text: str) -> None:
    """PROTOCOL_FILE in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / PROTOCOL_FILE) as file:
        file.write(text.encode())


def protocol(evaluation: Evaluation, results: Sequence[Result], made: Mapping[str, str]) -> str:
    """Every choice behind the figures, one on a line.

    Args:
        made: name -> what the caller knows and this does not (network, precision, files, tools by name).
    """
    dataset, choices, tools = evaluation.dataset, evaluation.choices, evaluation.tools
    size = dataset.resolution
    lines = [f"{name}: {value}" for name, value in made.items()]
    lines += [
        f"data set: {dataset.name}, {len(dataset)} pictures of {size} pixels, {dataset.data_type}",
        f"order: numpy RandomState({choices.seed}).permutation of the data set, gone through as often as it takes",
        f"z of sample i: numpy RandomState({choices.seed} + i).randn; no truncation, noise const, no jitter of depths",
        f"batch: {choices.batch}",
        "pose: each sample's own, to condition on and to look from, unless said otherwise",
        "pictures: clipped to [-1, 1], then 0 to 255 truncated to whole numbers; networks take them at full size",
    ]
    seen = {result.metric.kind.seen: result for result in results}
    if tools.extractor:
        lines.append(f"extractor: {tools.extractor.name}, sha256 {tools.extractor.digest}")
    if Pass.OWN_VIEW in seen and dataset.data_type == "edge":
        lines.append(
            f"edges: lines are where the network form is below {LINE_BELOW}; a line may be off by {EDGE_TOLERANCE} of "
            f"the diagonal, here {edge_tolerance(size)} pixels"
        )
    if Pass.SEEDS in seen:
        lines.append(f"diversity: all pairs of {SEEDS} seeds on each label map; those of sample i start at {SEEDS} i")
    if Pass.TURN in seen:
        degrees = ", ".join(f"{yaw:+g}" for yaw in TURNS_RAD)
        lines.append(
            f"views: the sample's own and turned by {degrees} rad about the vertical axis through the pivot; compared "
            f"with the own one, where depths agree within {DEPTH_AGREEMENT:.0%}; depths enlarged bilinearly"
        )
    if Pass.TRUTH in seen:
        lines.append("novel views: the first view of an object is the input, its others are compared at their poses")
    if any(result.metric.key == "chamfer" for result in results):
        lines.append(
            f"chamfer: {POINTS} points of a mesh on a grid of {MESH_GRID}, density threshold auto; {POINTS} points of "
            "the true depth of all views; objects without a surface are left out"
        )
    for result in results:
        lines.append(f"{result.metric.name}: {result.metric.kind.what}; samples: {result.samples}")
        for name in result.values:
            meaning = MEANINGS.get(name.removeprefix(f"{result.metric.name}_"))
            lines += [f"  {name}: {meaning}"] if meaning else []
    return "\n".join(lines) + "\n"
