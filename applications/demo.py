"""Run the other applications with the networks of this repository, and arrange the results in an overview image."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a clone without installing
from applications import cli, extract_mesh, generate_samples, generate_video
from dataset_preprocessing.contact_sheet import CaptionedImage, image_sheet
from dnnlib.cli import Command, option_group, user_errors
from dnnlib.util import atomic_write, check_outdir
from inference.mesh.triangles import check_libraries

# Short videos, so that the demo takes less than a minute on a CPU.
FRAMES = 24
FPS = 12
MESH_FRAMES = 12
# Size of an image on the overview, pixels.
CELL = 160


@dataclass(frozen=True)
class Example:
    """A label map and its network.

    Args:
        cfg: configuration of the network.
        network: path of its weights.
        label_map: path of an image file.
        seeds: of the images, a range; videos and mesh are of seed 0.
        mesh: options of extract_mesh.py.
    """

    cfg: str
    network: Path
    label_map: Path
    seeds: str
    mesh: dict[str, Any]

    def run(self, outdir: Path) -> None:
        """Run the applications; each command line is printed."""
        # The options of each application besides those that all share.
        shared = {"network": self.network, "cfg": self.cfg, "input": self.label_map, "outdir": outdir}
        samples = {"random_seed": self.seeds}
        videos = {"show": "color,label,side_by_side", "frames": FRAMES, "fps": FPS}
        mesh = {"threshold": "auto", "format": "ply,glb", "frames": MESH_FRAMES, "fps": FPS, **self.mesh}
        for application, options in ((generate_samples, samples), (generate_video, videos), (extract_mesh, mesh)):
            # As typed in a shell; --largest is a flag without a value.
            words = [str(word) for name, value in (shared | options).items() for word in (f"--{name}", value)]
            words += ["--largest"] if application is extract_mesh else []
            click.echo(f"python applications/{Path(application.__file__).name} {shlex.join(words)}")
            # Errors are raised instead of ending the process, so that the demo's own command prints them.
            application.main.main(words, standalone_mode=False)

    def overview(self, outdir: Path, left: int, right: int) -> list[CaptionedImage]:
        """Return images of seed 0: input, front view, and the two frames of the video that look from both sides."""
        images = outdir / f"{self.cfg}_{self.label_map.stem}"
        video = outdir / f"{self.cfg}_0.gif"
        return [
            ("given", Image.open(f"{images}_input.png")),
            ("image", Image.open(f"{images}_0_color.png")),
            ("its label map", Image.open(f"{images}_0_label.png")),
            ("image, one side", read_frame(video, left)),
            ("image, other side", read_frame(video, right)),
            ("label map, one side", read_frame(outdir / f"{self.cfg}_0_label.gif", left)),
        ]


# Toy networks model the background as solid, so the cat's mesh leaves out class 0.
TOY_CAT = cli.ASSETS / "toy_cat.png"
TOY_CAR = cli.ASSETS / "toy_car.png"
CAR_NETWORK = cli.DEFAULT_NETWORK.with_name("toy_edge2car.safetensors")
CATS_MESH = {"resolution": 160, "without": 0, "color": "shown_label"}
CATS = Example(cli.DEFAULT_CFG, cli.DEFAULT_NETWORK, TOY_CAT, "0-2", CATS_MESH)
CARS = Example("edge2car", CAR_NETWORK, TOY_CAR, "0", {"resolution": 128, "color": "image"})


def read_frame(path: Path, number: int) -> Image.Image:
    """Read one frame of a GIF."""
    with Image.open(path) as video:
        video.seek(number)
        return video.convert("RGB")


def overview_rows(cats: Path, cars: Path) -> list[list[CaptionedImage]]:
    """Arrange images of the files in both directories."""
    # Videos of cats swing to both sides: the extremes are at a quarter and three quarters.
    first_row = CATS.overview(cats, FRAMES // 4, 3 * FRAMES // 4)

    # The other seeds, and the cat's mesh from four sides.
    second_row = [(f"seed {n}", Image.open(cats / f"{CATS.cfg}_{CATS.label_map.stem}_{n}_color.png")) for n in (1, 2)]
    captions = ("mesh, below", "mesh, one side", "mesh, above", "mesh, other side")  # quarters of the camera's path
    for quarter, caption in enumerate(captions):
        second_row.append((caption, read_frame(cats / "rendered_mesh.gif", quarter * MESH_FRAMES // 4)))

    # Videos of cars go all the way around. A label map would be an edge drawing, so the mesh takes its place.
    third_row = CARS.overview(cars, FRAMES // 6, FRAMES // 3)[:5]
    third_row.append(("mesh", read_frame(cars / "rendered_mesh.gif", MESH_FRAMES // 6)))
    return [first_row, second_row, third_row]


@click.command(cls=Command)
@option_group("Output", cli.outdir_option)
def main(outdir: Path) -> None:
    """Render a label map of a cat and a drawing of a car: images, videos and meshes.

    Writes demo.png, an overview, demo.gif, a video, and all other files into cats/ and cars/.

    \b
    Example:
      python applications/demo.py --outdir out/demo
    """
    # Check before the first network is loaded.
    with user_errors("The demo:"):
        check_libraries()
    with user_errors("--outdir"):
        check_outdir(outdir)
    cats = outdir / "cats"
    cars = outdir / "cars"
    CATS.run(cats)
    CARS.run(cars)

    # The overview shows the files as they were written, colors of the GIFs included.
    with cli.output_errors():
        with atomic_write(outdir / "demo.png") as file:
            image_sheet(overview_rows(cats, cars), CELL).save(file, format="png")
        with atomic_write(outdir / "demo.gif") as file:
            file.write((cats / f"{CATS.cfg}_0_side_by_side.gif").read_bytes())
    click.echo(f"Look at {outdir}/demo.png first")


if __name__ == "__main__":
    main()
