"""The whole road on a label map and on a drawing: pictures, films and meshes by our own models, and a sheet of all."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import click
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a clone, nothing need be installed
from applications import common, extract_mesh, generate_samples, generate_video
from dataset_preprocessing.contact_sheet import CaptionedImage, image_sheet
from dnnlib.cli import Command, user_errors
from dnnlib.util import atomic_write, check_outdir

FRAMES, FPS = 24, 12
MESH_FRAMES = 12
CELL = 160  # pixels of a picture on the sheet


@dataclass(frozen=True)
class Part:
    """What is made with one network.

    Args:
        label_map: name of a picture in assets. sides: frames of the film that look from its two ends.
        mesh: options of its mesh.
    """

    cfg: str
    network: str
    label_map: str
    seeds: tuple[int, ...]
    sides: tuple[int, int]
    mesh: str

    def make(self, outdir: Path) -> None:
        """Run the applications."""
        label_map = str(common.ASSETS / self.label_map)
        words = ["--network", self.network, "--cfg", self.cfg, "--input", label_map, "--outdir", str(outdir)]
        options = {
            generate_samples: f"--random_seed {' '.join(map(str, self.seeds))}",
            generate_video: f"--frames {FRAMES} --fps {FPS} --show color,label,side_by_side",
            extract_mesh: f"--threshold auto --largest --format ply,glb --frames {MESH_FRAMES} --fps {FPS} {self.mesh}",
        }
        for application, more in options.items():
            application.main([*words, *more.split()], standalone_mode=False)

    def still(self, outdir: Path, ending: str) -> Image.Image:
        return Image.open(outdir / f"{self.cfg}_{Path(self.label_map).stem}_{ending}.png")

    def pictures(self, outdir: Path) -> list[CaptionedImage]:
        """Of the first seed: what was given, from the front, from both sides."""
        first, (left, right) = self.seeds[0], self.sides
        film, labels = (outdir / f"{self.cfg}_{first}{ending}.gif" for ending in ("", "_label"))
        return [
            ("given", self.still(outdir, "input")),
            ("image", self.still(outdir, f"{first}_color")),
            ("its label map", self.still(outdir, f"{first}_label")),
            ("image, one side", frame(film, left)),
            ("image, other side", frame(film, right)),
            ("label map, one side", frame(labels, left)),
        ]


CATS = Part(
    common.DEFAULT_CFG,
    str(common.DEFAULT_NETWORK),
    "toy_cat.png",
    seeds=(0, 1, 2),
    sides=(FRAMES // 4, 3 * FRAMES // 4),
    mesh="--resolution 160 --without 0 --color shown_label",
)
CARS = Part(
    "edge2car",
    str(common.DEFAULT_NETWORK.with_name("toy_edge2car.safetensors")),
    "toy_car.png",
    seeds=(0,),
    sides=(FRAMES // 6, FRAMES // 3),  # the film of cars goes all the way round
    mesh="--resolution 128 --color image",
)


def frame(path: Path, number: int) -> Image.Image:
    """One picture of a film."""
    with Image.open(path) as film:
        film.seek(number)
        return film.convert("RGB")


def rows(cats: Path, cars: Path) -> list[list[CaptionedImage]]:
    """What the applications left in the two folders."""
    others = [(f"seed {seed}", CATS.still(cats, f"{seed}_color")) for seed in CATS.seeds[1:]]
    steps = [
        (f"mesh, {side}", i * MESH_FRAMES // 4) for i, side in enumerate(("below", "one side", "above", "other side"))
    ]
    mesh = [(caption, frame(cats / "rendered_mesh.gif", at)) for caption, at in steps]
    car = [*CARS.pictures(cars)[:5], ("mesh", frame(cars / "rendered_mesh.gif", MESH_FRAMES // 6))]
    return [CATS.pictures(cats), [*others, *mesh], car]


@click.command(cls=Command)
@click.option("--outdir", required=True, metavar="DIR", type=common.FOLDER, help="Made if it is not there.")
def main(outdir: Path) -> None:
    """Make everything that the applications make of a label map of a cat and of a drawing of a car.

    Writes demo.png, which shows it, demo.gif, a film, and all the rest into cats/ and cars/.

    \b
    Example:
      python applications/demo.py --outdir out/demo
    """
    with user_errors("--outdir"):
        check_outdir(outdir)
    cats, cars = outdir / "cats", outdir / "cars"
    CATS.make(cats)
    CARS.make(cars)
    with user_errors("--outdir"):
        with atomic_write(outdir / "demo.png") as file:
            image_sheet(rows(cats, cars), CELL).save(file, format="png")
        with atomic_write(outdir / "demo.gif") as file:
            shutil.copyfileobj((cats / f"{CATS.cfg}_0_side_by_side.gif").open("rb"), file)
    click.echo(f"Look at {outdir}/demo.png first")


if __name__ == "__main__":
    main()
