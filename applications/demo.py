"""The whole road on one label map: pictures, films and a mesh by the repository's own model, and a sheet of all."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a clone, nothing need be installed
from applications import common, extract_mesh, generate_samples, generate_video
from dnnlib.cli import Command, user_errors
from dnnlib.util import check_outdir, whole_file

CFG = common.OWN_CFG
SEEDS = (0, 1, 2)
FRAMES, FPS = 24, 12
LEFT, RIGHT = FRAMES // 4, 3 * FRAMES // 4  # frames of the orbit that look from its two ends
MESH_RESOLUTION, MESH_FRAMES = 160, 12
CELL, CAPTION = 160, 14  # pixels of a picture on the sheet, and of the line under it

Picture = tuple[str, Image.Image]  # caption first


def frame(path: Path, number: int) -> Image.Image:
    """One picture of a film."""
    with Image.open(path) as film:
        film.seek(number)
        return film.convert("RGB")


def made(outdir: Path, name: str) -> list[list[Picture]]:
    """What the applications left in outdir, row by row."""
    still = {ending: Image.open(outdir / f"{CFG}_{name}_{ending}.png") for ending in ("input", "0_color", "0_label")}
    turned = {ending: outdir / f"{CFG}_0{ending}.gif" for ending in ("", "_label")}
    others = [(f"seed {seed}", Image.open(outdir / f"{CFG}_{name}_{seed}_color.png")) for seed in SEEDS[1:]]
    steps = [
        (f"mesh, {side}", i * MESH_FRAMES // 4) for i, side in enumerate(("below", "one side", "above", "other side"))
    ]
    return [
        [
            ("label map, given", still["input"]),
            ("image", still["0_color"]),
            ("its label map", still["0_label"]),
            *((f"image, {side}", frame(turned[""], at)) for side, at in (("one side", LEFT), ("other side", RIGHT))),
            ("label map, one side", frame(turned["_label"], LEFT)),
        ],
        [*others, *((caption, frame(outdir / "rendered_mesh.gif", at)) for caption, at in steps)],
    ]


def sheet(rows: list[list[Picture]]) -> Image.Image:
    """All pictures in rows, each over its caption."""
    page = Image.new("RGB", (CELL * max(map(len, rows)), (CELL + CAPTION) * len(rows)), "white")
    draw = ImageDraw.Draw(page)
    for y, row in enumerate(rows):
        for x, (caption, picture) in enumerate(row):
            corner = (x * CELL, y * (CELL + CAPTION))
            page.paste(picture.convert("RGB").resize((CELL, CELL), Image.Resampling.LANCZOS), corner)
            draw.text((corner[0] + 3, corner[1] + CELL + 1), caption, fill="black")
    return page


@click.command(cls=Command)
@click.option("--outdir", required=True, metavar="DIR", type=common.FOLDER, help="Made if it is not there.")
@click.option("--network", default=str(common.OWN_NETWORK), show_default=True, metavar="FILE|URL")
@click.option("--input", "label_map", default=str(common.ASSETS / "toy_cat.png"), show_default=True, metavar="FILE")
def main(outdir: Path, network: str, label_map: str) -> None:
    """Make everything that the applications make of one label map, and demo.png, which shows it.

    \b
    Example:
      python applications/demo.py --outdir out/demo
    """
    with user_errors("--outdir"):
        check_outdir(outdir)
    words = ["--network", network, "--cfg", CFG, "--input", label_map, "--outdir", str(outdir)]
    extra = {
        generate_samples: f"--random_seed {' '.join(map(str, SEEDS))}",
        generate_video: f"--frames {FRAMES} --fps {FPS}",
        extract_mesh: f"--resolution {MESH_RESOLUTION} --threshold auto --largest --without 0 --format ply,glb "
        f"--frames {MESH_FRAMES} --fps {FPS}",
    }
    for application, options in extra.items():
        application.main([*words, *options.split()], standalone_mode=False)
    path = outdir / "demo.png"
    with user_errors("--outdir"), whole_file(path) as file:
        sheet(made(outdir, Path(label_map).stem)).save(file, format="png")
    click.echo(f"Look at {path} first")


if __name__ == "__main__":
    main()
