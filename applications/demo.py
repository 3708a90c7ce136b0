"""Render images, videos and meshes with the networks of this repository, and arrange them in an overview image."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a clone without installing
import dnnlib.startup  # noqa: F401 first

from contextlib import closing
from dataclasses import dataclass
from typing import Any

import click
from PIL import Image

from applications import cli
from dataset_preprocessing.contact_sheet import CaptionedImage, image_sheet
from dnnlib.cli import Command, echo, option_group, overwrite_option, user_errors
from dnnlib.outputs import Outputs
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
MESH_FORMATS = ("ply", "glb")
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
        photos: one scene with the style of each; videos and mesh show the first.
        seeds: one scene for each.
        angles: yaw and pitch in radians of the images, and of the two sides.
        mesh_name: file name of the mesh, without ending.
        mesh: arguments of `Scene.mesh`.
    """

    cfg: str
    network: Path
    label_map: Path
    photos: tuple[Path, ...]
    seeds: tuple[int, ...]
    angles: tuple[tuple[float, float], ...]
    mesh_name: str
    mesh: dict[str, Any]

    def files(self, outdir: Path) -> list[Path]:
        """Return all files that `run` writes."""
        prefix = f"{self.cfg}_{self.label_map.stem}"
        sides = [f"{self.styles[0]}_side{number}" for number in range(1, len(self.angles))]
        views = [f"{prefix}_{name}_{show}.png" for name in (*self.styles, *sides) for show in ("color", "label")]
        names = [f"{self.cfg}_input.png", f"{prefix}_input.png", *views, "rendered_mesh.gif"]
        names += [f"{self.mesh_name}.{ending}" for ending in MESH_FORMATS]
        return [*(outdir / name for name in names), *(self.video(outdir, show) for show in SUFFIXES)]

    def run(self, outdir: Path) -> None:
        """Write the label map, images, videos and the mesh."""
        cli.announce(str(self.network), outdir)
        G = cli.load_generator(str(self.network), self.cfg, None, "auto")
        label_map = to_label_map(self.label_map, G)
        scenes = dict(zip(self.styles, Scene.from_styles(G, label_map, (*self.photos, *self.seeds)), strict=True))

        # Label map, and one view of each scene.
        prefix = outdir / f"{self.cfg}_{self.label_map.stem}"
        for path in (outdir / f"{self.cfg}_input.png", f"{prefix}_input.png"):
            write_png(path, draw_label_map(label_map, G.data_type)[0])
        for style, scene in scenes.items():
            view = scene.render(*self.angles[0])
            write_png(f"{prefix}_{style}_color.png", view.image)
            write_png(f"{prefix}_{style}_label.png", view.label_image)

        # The first scene from both sides.
        for number, angles in enumerate(self.angles[1:], start=1):
            view = scenes[self.styles[0]].render(*angles)
            write_png(f"{prefix}_{self.styles[0]}_side{number}_color.png", view.image)
            write_png(f"{prefix}_{self.styles[0]}_side{number}_label.png", view.label_image)

        # Three videos of the first scene, each view rendered once.
        first = scenes[self.styles[0]]
        views = first.views(first.path("orbit", FRAMES), {"image", "semantic"})
        write_videos(views, {self.video(outdir, show): show for show in SUFFIXES}, FPS)

        # Mesh of the first scene, and its video.
        mesh = first.mesh(**self.mesh)
        for ending in MESH_FORMATS:
            mesh.export(outdir / f"{self.mesh_name}.{ending}")
        images = orbit_frames(mesh, self.cfg, G.orbit["pivot"], MESH_FRAMES, notify=echo)
        with closing(images), open_video(outdir / "rendered_mesh.gif", FPS) as write:
            for image in images:
                write(image)

    @property
    def styles(self) -> list[str]:
        """Names of the scenes in file names: style-PHOTO, then seeds."""
        return [*(f"style-{photo.stem}" for photo in self.photos), *map(str, self.seeds)]

    def video(self, outdir: Path, show: str) -> Path:
        """Return the path of a video of the first scene."""
        return outdir / f"{self.cfg}_{self.styles[0]}{SUFFIXES[show]}.gif"

    def image(self, outdir: Path, style: str, show: str = "color") -> Image.Image:
        """Open the image of a scene."""
        return Image.open(outdir / f"{self.cfg}_{self.label_map.stem}_{style}_{show}.png")

    def views_row(self, outdir: Path) -> list[CaptionedImage]:
        """Return the input, and images of the first scene from three sides."""
        style = self.styles[0]
        return [
            ("label map" if self.cfg == cli.DEFAULT_CFG else "drawing", Image.open(outdir / f"{self.cfg}_input.png")),
            ("generated image", self.image(outdir, style)),
            ("its labels", self.image(outdir, style, "label")),
            ("from one side", self.image(outdir, f"{style}_side1")),
            ("from the other side", self.image(outdir, f"{style}_side2")),
            ("labels from there", self.image(outdir, f"{style}_side2", "label")),
        ]

    def styles_row(self, outdir: Path) -> list[CaptionedImage]:
        """Return each photo, followed by the scene with its style."""
        row = []
        for number, (photo, style) in enumerate(zip(self.photos, self.styles, strict=False), start=1):
            row += [(f"photo {number}", Image.open(photo)), (f"with its style {number}", self.image(outdir, style))]
        return row


# Toy networks model the background as solid, so the cat's mesh leaves out class 0.
CATS = Example(
    cli.DEFAULT_CFG,
    cli.DEFAULT_NETWORK,
    cli.ASSETS / "toy_cat.png",
    photos=tuple(cli.ASSETS / f"toy_cat_style{number}.png" for number in (1, 2, 3)),
    seeds=(1, 2),
    angles=((0.0, 0.0), (0.55, 0.0), (-0.55, 0.0)),
    mesh_name="semantic_mesh",
    mesh={"resolution": 160, "color": "shown_label"},
)
CARS = Example(
    "edge2car",
    cli.DEFAULT_NETWORK.with_name("toy_edge2car.safetensors"),
    cli.ASSETS / "toy_car.png",
    photos=tuple(cli.ASSETS / f"toy_car_style{number}.png" for number in (1, 2, 3)),
    seeds=(0,),
    angles=((0.8, 0.35), (-0.8, 0.35), (2.3, 0.35)),
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
    rows = [CATS.views_row(cats), CATS.styles_row(cats)]

    # Two seeds, and the cat's mesh from four sides.
    row = [(f"seed {seed}", CATS.image(cats, str(seed))) for seed in CATS.seeds]
    captions = ("mesh, from below", "from one side", "from above", "from the other side")  # quarters of the path
    for quarter, caption in enumerate(captions):
        row.append((caption, read_frame(cats / "rendered_mesh.gif", quarter * MESH_FRAMES // 4)))
    rows.append(row)

    return [*rows, CARS.views_row(cars), CARS.styles_row(cars)]


@click.command(cls=Command)
@option_group("Output", cli.outdir_option)
@overwrite_option
def main(outdir: Path, outputs: Outputs) -> None:
    """Render a label map of a cat and a drawing of a car: images, videos and meshes.

    Writes demo.png, an overview, demo.gif, a video, and all other files into cats/ and cars/.

    \b
    Example:
      python applications/demo.py --outdir out/demo
    """
    # Check before the first network is loaded.
    with user_errors("The demo:"):
        check_libraries()
    cats = outdir / "cats"
    cars = outdir / "cars"
    outputs.claim(outdir / "demo.png", outdir / "demo.gif", *CATS.files(cats), *CARS.files(cars))
    with cli.output_errors():
        CATS.run(cats)
        CARS.run(cars)

        # The overview shows the files as they were written, colors of the GIFs included.
        with atomic_write(outdir / "demo.png") as file:
            image_sheet(overview_rows(cats, cars), CELL).save(file, format="png")
        with atomic_write(outdir / "demo.gif") as file:
            file.write(CATS.video(cats, "side_by_side").read_bytes())
    echo(f"Look at {outdir}/demo.png first")


if __name__ == "__main__":
    main()
