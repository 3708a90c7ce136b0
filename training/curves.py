"""Curves of runs as a picture: python -m training.curves RUN_DIR [RUN_DIR ...] --output curves.png.

A panel for each statistic of stats.jsonl, and for each figure of metric-*.jsonl, over thousands of images.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
from PIL import Image, ImageDraw

from dnnlib.cli import Command, InputError
from training.data.image_io import write_png
from training.run_dir import STATS_FILE

SHOWN = ",".join(f"Loss/{name}" for name in (
    "G/loss", "G/loss_img_reconstruction", "G/loss_semantic_reconstruction", "D/loss", "D/loss_semantic"
))  # fmt: skip
SNAPSHOT_KIMG = re.compile(r"(\d{6,})\.\w+$")
WIDTH, HEIGHT, COLUMNS = 320, 200, 3  # pixels of a panel; panels in a row
LEFT, TOP, RIGHT, BOTTOM = 52, 22, 12, 20  # around a panel's axes
DOT = 2  # radius of a curve of one point
COLORS = ("#1f5fbf", "#c03028", "#2e8b57", "#8b5fbf")  # of the runs, in turn

Points = list[tuple[float, float]]  # kimg, value


def read_curves(folder: Path, names: list[str]) -> dict[str, Points]:
    """What there is of these statistics, and every figure of metrics; values that are not finite are left out."""
    curves: dict[str, Points] = {}
    for line in _lines(folder / STATS_FILE):
        for name in names:
            if name in line:
                curves.setdefault(name, []).append((line["Progress/kimg"]["mean"], line[name]["mean"]))
    for path in sorted(folder.glob("metric-*.jsonl")):
        for line in _lines(path):
            if kimg := SNAPSHOT_KIMG.search(line["snapshot_pkl"]):
                for name, value in line["results"].items():
                    curves.setdefault(name, []).append((float(kimg[1]), math.nan if value is None else value))
    finite = {name: sorted(p for p in points if math.isfinite(p[1])) for name, points in curves.items()}
    return {name: points for name, points in finite.items() if points}


def _lines(path: Path) -> Iterator[dict]:
    """But for a last one that is just being written."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        yield from (json.loads(line) for line in lines if line.endswith("\n"))


def draw_curves(runs: dict[str, dict[str, Points]]) -> Image.Image:
    """Panels row by row, the runs' names below."""
    names = list(dict.fromkeys(name for curves in runs.values() for name in curves))
    rows = math.ceil(len(names) / COLUMNS)
    picture = Image.new("RGB", (WIDTH * COLUMNS, HEIGHT * rows + 16 * len(runs)), "white")
    draw = ImageDraw.Draw(picture)
    for number, name in enumerate(names):
        corner = number % COLUMNS * WIDTH, number // COLUMNS * HEIGHT
        _draw_panel(draw, corner, name, [curves.get(name, []) for curves in runs.values()])
    for number, run in enumerate(runs):
        draw.text((LEFT, HEIGHT * rows + 16 * number), run, fill=COLORS[number % len(COLORS)])
    return picture


def _draw_panel(draw: ImageDraw.ImageDraw, corner: tuple[int, int], name: str, curves: list[Points]) -> None:
    x0, x1 = corner[0] + LEFT, corner[0] + WIDTH - RIGHT
    y0, y1 = corner[1] + HEIGHT - BOTTOM, corner[1] + TOP
    (_, low), (end, high) = (edge([p for points in curves for p in points], axis=0) for edge in (np.min, np.max))
    spread, end = high - low or 1, end or 1
    draw.rectangle([x0, y1, x1, y0], outline="#cccccc")
    draw.text((x0, y1 - 16), name, fill="black")
    for value, y in ((high, y1), (low, y0 - 10)):
        draw.text((x0 - 4, y), f"{value:.3g}", fill="#666666", anchor="ra")
    draw.text((x1, y0 + 4), f"{end:.3g} kimg", fill="#666666", anchor="ra")
    for number, points in enumerate(curves):
        line = [(x0 + (x1 - x0) * kimg / end, y0 + (y1 - y0) * (value - low) / spread) for kimg, value in points]
        draw.line(line, fill=COLORS[number % len(COLORS)], width=2)
        if len(line) == 1:
            (x, y), *_ = line
            draw.ellipse([x - DOT, y - DOT, x + DOT, y + DOT], fill=COLORS[number % len(COLORS)])


@click.command(cls=Command)
@click.argument("runs", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="RUN_DIR...")
@click.option("--output", type=click.Path(path_type=Path), default="curves.png", show_default=True, help="A PNG.")
@click.option("--names", default=SHOWN, show_default=True, help="Statistics of stats.jsonl, separated by commas.")
def main(runs: tuple[Path, ...], output: Path, names: str) -> None:
    """Draw how runs went, over thousands of images."""
    curves = {str(run): read_curves(run, names.split(",")) for run in runs}
    if empty := [run for run, found in curves.items() if not found]:
        raise InputError(f"{empty[0]}: no such statistics in {STATS_FILE}, and no metric-*.jsonl")
    write_png(output, np.array(draw_curves(curves)))


if __name__ == "__main__":
    main()
