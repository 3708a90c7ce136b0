"""What an evaluation found: a table for the screen, and files to keep."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dnnlib.util import atomic_write, format_time
from metrics.evaluation import Result

DIGITS = 5  # significant ones
MISSING = "-"


def table(columns: Mapping[str, Sequence[Result]]) -> str:
    """Figures by name down, sources across; behind a figure, how many samples have it where not all do."""
    cells = {source: {k: v for r in results for k, v in _cells(r).items()} for source, results in columns.items()}
    names = list(dict.fromkeys(name for values in cells.values() for name in values))
    rows = [["", *cells], *([name, *(values.get(name, MISSING) for values in cells.values())] for name in names)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *others in rows:
        right = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        lines.append("  ".join([name.ljust(widths[0]), *right]).rstrip())
    return "\n".join(lines)


def _cells(result: Result) -> dict[str, str]:
    shown = {}
    for name, value in result.values.items():
        few = f" ({result.counted[name]} of {result.samples})" if result.counted.get(name) else ""
        shown[name] = MISSING if math.isnan(value) else f"{value:.{DIGITS}g}{few}"
    return shown


def write_result(
    folder: Path, results: Mapping[str, Result], network: str, processes: int, protocol: Mapping[str, str], **more: Any
) -> None:
    """Add a line to metric-NAME.jsonl of one metric, and put its protocol into metric-NAME-protocol.txt.

    Keys as in the public family: results, metric, total_time, total_time_str, num_gpus, snapshot_pkl, timestamp; and
    samples, counted, baselines, protocol and those of `more`. A figure that there is not is null.

    Args:
        results: of the network first, then of what it must beat.
        protocol: every choice behind these figures; in the line too, since a later call may choose otherwise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (_, own), *others = results.items()
    line = {
        "results": _with_null(own),
        "metric": own.metric.name,
        "total_time": own.seconds,
        "total_time_str": format_time(own.seconds),
        "num_gpus": processes,
        "snapshot_pkl": network,
        "timestamp": time.time(),
        "samples": own.samples,
        "counted": own.counted,
        "baselines": {name: _with_null(result) for name, result in others},
        "protocol": dict(protocol),
        **more,
    }
    with (folder / f"metric-{own.metric.name}.jsonl").open("ab", buffering=0) as file:
        file.write(json.dumps(line, allow_nan=False).encode() + b"\n")  # at once: others may write to it too
    with atomic_write(folder / f"metric-{own.metric.name}-protocol.txt") as file:
        file.write("".join(f"{name}: {value}\n" for name, value in protocol.items()).encode())


def _with_null(result: Result) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in result.values.items()}
