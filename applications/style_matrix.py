"""Render the picture of docs/photo.md: the style of each of five photos on the label map of each of them."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a clone without installing
import dnnlib.startup  # noqa: F401 first

import click
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from applications import cli
from dataset_preprocessing.toy.render import Rendering, render
from dataset_preprocessing.toy.write import HELD_OUT, KINDS, RenderJob, sample_object
from dnnlib.cli import Command, option_group, overwrite_option
from dnnlib.outputs import Outputs
from inference import Scene
from inference.projection import Projection
from inference.projector import ProjectionOptions, Projector
from training.data.image_io import write_png
from training.data.label_maps import colorize
from training.networks.generator import TriPlane

# Toy cats on which the included model was not trained: white, striped, tuxedo, gray, and blue with large ears.
OBJECTS = (0, 2, 6, 9, 18)
KIND = "cats"
# Pixels between images.
MARGIN = 4


def photograph(number: int, resolution: int) -> tuple[Rendering, Tensor]:
    """Return photo and label map of a held-out object, and its pose, 25."""
    scene, (pose,) = sample_object(RenderJob(KIND, resolution, 1, seed=0, split=HELD_OUT), number)
    return render(scene, pose, resolution), torch.from_numpy(pose)


def project(G: TriPlane, photo: Rendering, pose: Tensor, options: ProjectionOptions, bar: tqdm) -> Projection:
    """Project a photo, seen from a pose (25)."""
    projector = Projector(G, photo.image, label_map_of(photo), pose, options=options)
    for progress in projector.steps():
        bar.update(progress.phase == "style")
    return projector.result()


def label_map_of(photo: Rendering) -> np.ndarray:
    """Return the class ids R,R of a photo."""
    return KINDS[KIND].label_map(photo)


def arrange(rows: list[list[np.ndarray]]) -> np.ndarray:
    """Arrange images R,R,3 in rows, with white margins: H,W,3."""
    size = len(rows[0][1]) + MARGIN
    sheet = Image.new("RGB", (size * len(rows[0]) - MARGIN, size * len(rows) - MARGIN), "white")
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            sheet.paste(Image.fromarray(image), (x * size, y * size))
    return np.asarray(sheet)


@click.command(cls=Command)
@option_group(
    "Output",
    cli.outdir_option,
    cli.option("steps", click.IntRange(1, 100_000), ProjectionOptions.steps, "Steps of each photo's projection."),
)
@overwrite_option
def main(outdir: Path, steps: int, outputs: Outputs) -> None:
    """Render style_matrix.png: photos of toy cats above, their label maps on the left, and all combinations.

    \b
    Example:
      python applications/style_matrix.py --outdir docs/images
    """
    path = outdir / "style_matrix.png"
    outputs.claim(path)
    cli.announce(str(cli.DEFAULT_NETWORK), outdir)
    G = cli.load_generator(str(cli.DEFAULT_NETWORK), cli.DEFAULT_CFG, None, "auto")

    # The styles of all photos.
    photos = [photograph(number, G.img_resolution) for number in OBJECTS]
    with tqdm(total=len(photos) * steps, unit="step", delay=2, disable=None) as bar:  # None: only on a terminal
        styles = [project(G, photo, pose, ProjectionOptions(steps), bar) for photo, pose in photos]

    # One row for each label map, from its photo's pose.
    white = np.full((G.img_resolution, G.img_resolution, 3), 255, np.uint8)
    rows = [[white, *(photo.image for photo, _ in photos)]]
    for photo, pose in photos:
        ids = label_map_of(photo)
        scenes = Scene.from_styles(G, ids, styles, pose)
        rows.append([colorize(ids), *(scene.render(pose=pose, outputs={"image"}).image for scene in scenes)])
    with cli.output_errors():
        write_png(path, arrange(rows))


if __name__ == "__main__":
    main()
