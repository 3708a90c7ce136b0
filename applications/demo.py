"""Render images, videos and meshes with the networks of this repository, and arrange them in an overview image."""

from __future__ import annotations

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
from inference.inputs import to_label_map
from inference.mesh.rasterize import orbit_frames
from inference.mesh.triangles import check_libraries
from inference.video import open_video
from inference.view import write_videos
from training.data.image_io import write_png
from training.data.label_maps import draw_label_map

# Short videos, so that the demo takes less than a minute on a CPU.
FRAMES = 24
FPS = 12
MESH_FRAMES = 12
# Size of an image on the overview, pixels.
CELL = 160
# Suffixes of file names, by what a video shows.
SUFFIXES = {"color": "", "label": "_label", "side_by_side": "_side_by_side"}


@dataclass(frozen=True)
class Example:
    """A label map and its network.

    Args:
        cfg: configuration of the network.
        network: path of its weights.
        label_map: path of an image file.
        seeds: one scene for each; videos and mesh show the first.
        mesh_name: file name of the mesh, without ending.
        mesh: arguments of `Scene.mesh`.
    """

    cfg: str
    network: Path
    label_map: Path
    seeds: tuple[int, ...]
    mesh_name: str
    mesh: dict[str, Any]

    def run(self, outdir: Path, device: torch.device) -> None:
        """Write the label map, images, videos and the mesh."""
        click.echo(f"Writing to {outdir}")
        G = cli.load_generator(str(self.network), self.cfg, device, "auto")
        label_map = to_label_map(self.label_map, G)
        scenes = list(Scene.from_seeds(G, label_map, self.seeds))

        # Label map, and the front view of each scene.
        prefix = outdir / f"{self.cfg}_{self.label_map.stem}"
        for path in (outdir / f"{self.cfg}_input.png", f"{prefix}_input.png"):
            write_png(path, draw_label_map(label_map, G.data_type)[0])
        for seed, scene in zip(self.seeds, scenes, strict=True):
            view = scene.render()
            write_png(f"{prefix}_{seed}_color.png", view.image)
            write_png(f"{prefix}_{seed}_label.png", view.label_image)

        # Three videos of the first scene, each view rendered once.
        first = scenes[0]
        views = first.views(first.path("orbit", FRAMES), {"image", "semantic"})
        write_videos(views, {self.video(outdir, show): show for show in SUFFIXES}, FPS)

        # Mesh of the first scene, and its video.
        mesh = first.mesh(largest=True, **self.mesh)
        for ending in ("ply", "glb"):
            mesh.export(outdir / f"{self.mesh_name}.{ending}")
        images = orbit_frames(mesh, self.cfg, G.orbit["pivot"], MESH_FRAMES, notify=click.echo)
        with closing(images), open_video(outdir / "rendered_mesh.gif", FPS) as write:
            for image in images:
                write(image)

    def video(self, outdir: Path, show: str) -> Path:
        """Return the path of a video of the first scene."""
        return outdir / f"{self.cfg}_{self.seeds[0]}{SUFFIXES[show]}.gif"

    def overview(self, outdir: Path, left: int, right: int) -> list[CaptionedImage]:
        """Return images of the first seed: input, front view, and frames `left` and `right` of the video."""
        prefix = outdir / f"{self.cfg}_{self.label_map.stem}"
        video = self.video(outdir, "color")
        return [
            ("given", Image.open(f"{prefix}_input.png")),
            ("image", Image.open(f"{prefix}_{self.seeds[0]}_color.png")),
            ("its label map", Image.open(f"{prefix}_{self.seeds[0]}_label.png")),
            ("image, one side", read_frame(video, left)),
            ("image, other side", read_frame(video, right)),
            ("label map, one side", read_frame(self.video(outdir, "label"), left)),
        ]


# Toy networks model the background as solid, so the cat's mesh leaves out class 0.
CATS = Example(
    cli.DEFAULT_CFG,
    cli.DEFAULT_NETWORK,
    cli.ASSETS / "toy_cat.png",
    seeds=(0, 1, 2),
    mesh_name="semantic_mesh",
    mesh={"resolution": 160, "without": 0, "color": "shown_label"},
)
CARS = Example(
    "edge2car",
    cli.DEFAULT_NETWORK.with_name("toy_edge2car.safetensors"),
    cli.ASSETS / "toy_car.png",
    seeds=(0,),
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
    device = cli.check_places(None, outdir)
    cats = outdir / "cats"
    cars = outdir / "cars"
    with cli.output_errors():
        CATS.run(cats, device)
        CARS.run(cars, device)

        # The overview shows the files as they were written, colors of the GIFs included.
        with atomic_write(outdir / "demo.png") as file:
            image_sheet(overview_rows(cats, cars), CELL).save(file, format="png")
        with atomic_write(outdir / "demo.gif") as file:
            file.write(CATS.video(cats, "side_by_side").read_bytes())
    click.echo(f"Look at {outdir}/demo.png first")


if __name__ == "__main__":
    main()
