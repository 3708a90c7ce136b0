"""Plot curves of runs to an image: python -m training.curves RUN_DIR [RUN_DIR ...] --output curves.png.

One panel for each chosen statistic of stats.jsonl and for each value of metric-*.jsonl, over thousands of images.
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

# Names in stats.jsonl.
DEFAULT_NAMES = (
    "Loss/G/loss,Loss/G/loss_img_reconstruction,Loss/G/loss_semantic_reconstruction,Loss/D/loss,Loss/D/loss_semantic"
)
# Thousands of images in the name of a weights file.
SNAPSHOT_KIMG = re.compile(r"(\d{6,})\.\w+$")

# Size of a panel in pixels, panels in a row, margins around its axes.
WIDTH, HEIGHT, COLUMNS = 320, 200, 3
LEFT, TOP, RIGHT, BOTTOM = 52, 22, 12, 20

# Height of a run's line in the legend; radius of a curve of one point.
LEGEND_HEIGHT = 16
DOT = 2

# Colors of the runs in turn.
COLORS = ("#1f5fbf", "#c03028", "#2e8b57", "#8b5fbf")

# Pairs of kimg and value.
Points = list[tuple[float, float]]


def read_curves(run_dir: Path, names: list[str]) -> dict[str, Points]:
    """Read the named statistics and all metrics of a run, without non-finite values; missing ones are left out."""
    # Statistics of each tick.
    curves: dict[str, Points] = {}
    for line in _read_lines(run_dir / STATS_FILE):
        for name in names:
            if name in line:
                curves.setdefault(name, []).append((line["Progress/kimg"]["mean"], line[name]["mean"]))

    # Metrics of each snapshot; non-finite values are stored as null.
    for path in sorted(run_dir.glob("metric-*.jsonl")):
        for line in _read_lines(path):
            if kimg := SNAPSHOT_KIMG.search(line["snapshot_pkl"]):
                for name, value in line["results"].items():
                    name = name.replace("_colour", "_color")  # spelling of older files
                    curves.setdefault(name, []).append((float(kimg[1]), math.nan if value is None else value))

    # Drawn from left to right; a resumed run can have evaluated a snapshot twice.
    finite = {name: sorted(point for point in points if math.isfinite(point[1])) for name, points in curves.items()}
    return {name: points for name, points in finite.items() if points}


def _read_lines(path: Path) -> Iterator[dict]:
    """Read lines of JSON, without an incomplete last one that is being written."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        yield from (json.loads(line) for line in lines if line.endswith("\n"))


def draw_curves(runs: dict[str, dict[str, Points]]) -> Image.Image:
    """Draw one panel per statistic, row by row, and a legend of the runs below."""
    names = list(dict.fromkeys(name for curves in runs.values() for name in curves))
    rows = math.ceil(len(names) / COLUMNS)
    image = Image.new("RGB", (WIDTH * COLUMNS, HEIGHT * rows + LEGEND_HEIGHT * len(runs)), "white")
    draw = ImageDraw.Draw(image)

    # All runs share a panel.
    for number, name in enumerate(names):
        corner = (number % COLUMNS * WIDTH, number // COLUMNS * HEIGHT)
        _draw_panel(draw, corner, name, [curves.get(name, []) for curves in runs.values()])

    # Legend.
    for number, run in enumerate(runs):
        draw.text((LEFT, HEIGHT * rows + LEGEND_HEIGHT * number), run, fill=COLORS[number % len(COLORS)])
    return image


def _draw_panel(draw: ImageDraw.ImageDraw, corner: tuple[int, int], name: str, curves: list[Points]) -> None:
    # Axes in pixels, from (x0, y0) at the lower left to (x1, y1).
    x0 = corner[0] + LEFT
    x1 = corner[0] + WIDTH - RIGHT
    y0 = corner[1] + HEIGHT - BOTTOM
    y1 = corner[1] + TOP

    # Axes in data units: kimg from 0, values over their range.
    points = np.array([point for curve in curves for point in curve])  # K,2
    kimg_range = points[:, 0].max() or 1
    low = points[:, 1].min()
    high = points[:, 1].max()
    value_range = high - low or 1

    # Frame, title, and the ends of both axes.
    draw.rectangle([x0, y1, x1, y0], outline="#cccccc")
    draw.text((x0, y1 - 16), name, fill="black")
    draw.text((x0 - 4, y1), f"{high:.3g}", fill="#666666", anchor="ra")
    draw.text((x0 - 4, y0 - 10), f"{low:.3g}", fill="#666666", anchor="ra")
    draw.text((x1, y0 + 4), f"{kimg_range:.3g} kimg", fill="#666666", anchor="ra")

    # Curves; a single point becomes a dot.
    for number, curve in enumerate(curves):
        color = COLORS[number % len(COLORS)]
        pixels = [
            (x0 + (x1 - x0) * kimg / kimg_range, y0 + (y1 - y0) * (value - low) / value_range) for kimg, value in curve
        ]
        draw.line(pixels, fill=color, width=2)
        if len(pixels) == 1:
            x, y = pixels[0]
            draw.ellipse([x - DOT, y - DOT, x + DOT, y + DOT], fill=color)


@click.command(cls=Command)
@click.argument("runs", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="RUN_DIR...")
@click.option("--output", type=click.Path(path_type=Path), default="curves.png", show_default=True, help="PNG file.")
@click.option(
    "--names", default=DEFAULT_NAMES, show_default=True, help="Statistics of stats.jsonl, separated by commas."
)
def main(runs: tuple[Path, ...], output: Path, names: str) -> None:
    """Plot losses and metrics of runs over thousands of images."""
    curves = {str(run_dir): read_curves(run_dir, names.split(",")) for run_dir in runs}
    for run_dir, run_curves in curves.items():
        if not run_curves:
            raise InputError(f"{run_dir}: none of the statistics in {STATS_FILE}, and no metric-*.jsonl; see --names")
    write_png(output, np.array(draw_curves(curves)))


if __name__ == "__main__":
    main()
