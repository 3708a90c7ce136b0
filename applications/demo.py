"""Render samples, videos and meshes with the networks of this repository, and an overview image of all."""

from __future__ import annotations

import shutil
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a clone without installing
from applications import cli
from dataset_preprocessing.contact_sheet import CaptionedImage, image_sheet
from dnnlib.cli import Command, option_group, user_errors
from dnnlib.util import atomic_write
from inference import Scene
from inference.mesh.rasterize import orbit_frames
from inference.mesh.triangles import check_libraries
from inference.scene import to_label_map
from inference.video import write_videos
from training.data.image_io import write_png
from training.data.label_maps import draw_label_map

# Short videos, so that the demo takes less than a minute on a CPU.
FRAMES = 24
FPS = 12
MESH_FRAMES = 12
# Size of an image on the overview, pixels.
CELL = 160
# Suffixes of file names, by what is shown.
VIDEOS = {"color": "", "label": "_label", "side_by_side": "_side_by_side"}


@dataclass(frozen=True)
class Example:
    """A label map with its network, and the files that are made of them.

    Args:
        cfg: configuration of the network.
        network: path of its weights.
        label_map: file name in the assets.
        seeds: of the scenes; videos and mesh are of the first.
        sides: frames of the video that look from the two ends of the camera's path.
        mesh_name: file name of the mesh.
        mesh: arguments of `Scene.mesh`.
    """

    cfg: str
    network: Path
    label_map: str
    seeds: tuple[int, ...]
    sides: tuple[int, int]
    mesh_name: str
    mesh: dict[str, Any]

    def write_files(self, outdir: Path, device: torch.device) -> None:
        """Write the label map, images, videos and the mesh, computed on a device."""
        click.echo(f"Writing to {outdir}")
        G = cli.load_generator(str(self.network), self.cfg, device, "auto")
        label_map = to_label_map(cli.ASSETS / self.label_map, G)
        scenes = list(Scene.from_seeds(G, label_map, self.seeds))
        first = scenes[0]

        # Label map, and the front view of each scene.
        prefix = outdir / f"{self.cfg}_{Path(self.label_map).stem}"
        for path in (outdir / f"{self.cfg}_input.png", f"{prefix}_input.png"):
            write_png(path, draw_label_map(label_map, G.data_type)[0])
        for seed, scene in zip(self.seeds, scenes, strict=True):
            front = scene.render()
            write_png(f"{prefix}_{seed}_color.png", front.image)
            write_png(f"{prefix}_{seed}_label.png", front.label_image)

        # Videos of the first scene.
        views = first.views(first.path("orbit", FRAMES), {"image", "semantic"})
        frames = ({show: view.frame(show) for show in VIDEOS} for view in views)
        write_videos(frames, {self.video(outdir, show): show for show in VIDEOS}, FPS)

        # Mesh of the first scene, and its video.
        mesh = first.mesh(largest=True, **self.mesh)
        for ending in ("ply", "glb"):
            mesh.export(outdir / f"{self.mesh_name}.{ending}")
        with closing(orbit_frames(mesh, self.cfg, G.orbit["pivot"], MESH_FRAMES, notify=click.echo)) as images:
            write_videos(({"mesh": image} for image in images), {outdir / "rendered_mesh.gif": "mesh"}, FPS)

    def image(self, outdir: Path, ending: str) -> Image.Image:
        """Open one of the images that were written."""
        return Image.open(outdir / f"{self.cfg}_{Path(self.label_map).stem}_{ending}.png")

    def video(self, outdir: Path, show: str) -> Path:
        """Return the path of a video of the first scene."""
        return outdir / f"{self.cfg}_{self.seeds[0]}{VIDEOS[show]}.gif"

    def overview(self, outdir: Path) -> list[CaptionedImage]:
        """Return images of the first seed: input, front view, views from both sides."""
        first = self.seeds[0]
        left, right = self.sides
        video = self.video(outdir, "color")
        return [
            ("given", self.image(outdir, "input")),
            ("image", self.image(outdir, f"{first}_color")),
            ("its label map", self.image(outdir, f"{first}_label")),
            ("image, one side", read_frame(video, left)),
            ("image, other side", read_frame(video, right)),
            ("label map, one side", read_frame(self.video(outdir, "label"), left)),
        ]


CATS = Example(
    cli.DEFAULT_CFG,
    cli.DEFAULT_NETWORK,
    "toy_cat.png",
    seeds=(0, 1, 2),
    sides=(FRAMES // 4, 3 * FRAMES // 4),
    mesh_name="semantic_mesh",
    mesh={"resolution": 160, "without": 0, "color": "shown_label"},
)
CARS = Example(
    "edge2car",
    cli.DEFAULT_NETWORK.with_name("toy_edge2car.safetensors"),
    "toy_car.png",
    seeds=(0,),
    sides=(FRAMES // 6, FRAMES // 3),  # videos of cars go all the way around
    mesh_name="edge2car_mesh",
    mesh={"resolution": 128, "color": "image"},
)


def read_frame(path: Path, number: int) -> Image.Image:
    """Read one frame of a GIF."""
    with Image.open(path) as video:
        video.seek(number)
        return video.convert("RGB")


def overview_rows(cats: Path, cars: Path) -> list[list[CaptionedImage]]:
    """Arrange images of the files in both directories."""
    more_seeds = [(f"seed {seed}", CATS.image(cats, f"{seed}_color")) for seed in CATS.seeds[1:]]
    captions = ("mesh, below", "mesh, one side", "mesh, above", "mesh, other side")  # quarters of the camera's path
    mesh = [
        (caption, read_frame(cats / "rendered_mesh.gif", quarter * MESH_FRAMES // 4))
        for quarter, caption in enumerate(captions)
    ]
    car_mesh = ("mesh", read_frame(cars / "rendered_mesh.gif", MESH_FRAMES // 6))
    return [CATS.overview(cats), [*more_seeds, *mesh], [*CARS.overview(cars)[:5], car_mesh]]


@click.command(cls=Command)
@option_group("Output", cli.outdir_option)
def main(outdir: Path) -> None:
    """Render a label map of a cat and a drawing of a car: images, videos and meshes.

    Writes demo.png, an overview, demo.gif, a video, and all other files into cats/ and cars/.

    \b
    Example:
      python applications/demo.py --outdir out/demo
    """
    with user_errors("The demo:"):
        check_libraries()
    device = cli.check_places(None, outdir)
    cats = outdir / "cats"
    cars = outdir / "cars"
    with cli.output_errors():
        CATS.write_files(cats, device)
        CARS.write_files(cars, device)

        # The overview shows the files as they were written, colors of the GIFs included.
        with atomic_write(outdir / "demo.png") as file:
            image_sheet(overview_rows(cats, cars), CELL).save(file, format="png")
        with atomic_write(outdir / "demo.gif") as file, CATS.video(cats, "side_by_side").open("rb") as video:
            shutil.copyfileobj(video, file)
    click.echo(f"Look at {outdir}/demo.png first")


if __name__ == "__main__":
    main()
