"""Render the video at the top of the README: a label map is drawn, painted on, turned, and takes three styles."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a clone without installing
import dnnlib.startup  # noqa: F401 first

from collections.abc import Iterator
from contextlib import closing

import click
import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from applications import cli
from dnnlib.cli import Command, option_group, overwrite_option
from dnnlib.outputs import Outputs
from inference import Scene
from inference.inputs import to_label_map
from inference.video import open_video
from training.data.label_maps import draw_label_map
from training.networks.generator import TriPlane

FPS = 12
# Size of an image, margin and caption, pixels.
CELL = 192
MARGIN = 8
CAPTION = 24

# Frames of each part.
DRAW_FRAMES = 14
PAINT_FRAMES = 10
TURN_FRAMES = 24
STYLE_FRAMES = 14
PAUSE_FRAMES = 6

# Class that is painted on, and how much of its height it loses.
EARS = 2
SHRINKING = 0.6
# Yaw of the camera to both sides, radians.
SWING_RAD = 0.55

STYLES = tuple(cli.ASSETS / f"toy_cat_style{number}.png" for number in (1, 2, 3))


class Showcase:
    """Frames of the video.

    Args:
        G: generator with a style encoder.
        label_map: 1,1,R,R class ids.
    """

    def __init__(self, G: TriPlane, label_map: Tensor):
        self.G = G
        self.label_map = label_map

    def frames(self) -> Iterator[np.ndarray]:
        """Yield all frames, H,W,3 uint8."""
        yield from self._drawing()
        painted = yield from self._painting()
        yield from self._turning(painted)
        yield from self._styles(painted)

    def _drawing(self) -> Iterator[np.ndarray]:
        """The label map appears from the top; the result follows."""
        for frame in range(1, DRAW_FRAMES + 1):
            rows = torch.arange(self.label_map.shape[-1], device=self.label_map.device)[:, None]
            drawn = self.label_map * (rows < frame / DRAW_FRAMES * len(rows))
            yield arrange("Draw a label map", draw(drawn), None)
        image = self._render(self.label_map)
        for _ in range(PAUSE_FRAMES):
            yield arrange("It becomes a 3D scene", draw(self.label_map), image)

    def _painting(self) -> Iterator[np.ndarray]:
        """The ears shrink; the scene follows. Returns the painted label map."""
        for frame in range(1, PAINT_FRAMES + 1):
            painted = scale_height(self.label_map, EARS, 1 - SHRINKING * frame / PAINT_FRAMES)
            shown = arrange("Paint on it", draw(painted), self._render(painted))
            yield shown
        yield from [shown] * PAUSE_FRAMES
        return painted

    def _turning(self, label_map: Tensor) -> Iterator[np.ndarray]:
        """Label map and image from a camera that swings to both sides."""
        scene = self._scene(label_map, STYLES[0])
        for yaw in swing(TURN_FRAMES):
            view = scene.render(yaw)
            yield arrange("Turn it: labels and image from any view", view.label_image, view.image)

    def _styles(self, label_map: Tensor) -> Iterator[np.ndarray]:
        """The same label map with the styles of other photos, still turning."""
        for photo in (*STYLES[1:], STYLES[0]):
            scene = self._scene(label_map, photo)
            picture = np.asarray(Image.open(photo).convert("RGB"))
            for yaw in swing(STYLE_FRAMES):
                yield arrange("Take the style of a photo", picture, scene.render(yaw, outputs={"image"}).image)

    def _scene(self, label_map: Tensor, photo: Path) -> Scene:
        return Scene.from_label_map(self.G, label_map, style=photo)

    def _render(self, label_map: Tensor) -> np.ndarray:
        """Front view, H,W,3 uint8, of a label map 1,1,R,R."""
        return self._scene(label_map, STYLES[0]).render(outputs={"image"}).image


def draw(label_map: Tensor) -> np.ndarray:
    """Colors H,W,3 uint8 of a label map 1,1,H,W."""
    return draw_label_map(label_map, "seg")[0]


def scale_height(label_map: Tensor, label: int, factor: float) -> Tensor:
    """Scale the height of a class of a label map 1,1,H,W by `factor` up to 1, and leave background where it was."""
    # Each row shows the row of the class that is scaled to it; its lowest row stays.
    mask = label_map[0, 0] == label  # H,W
    rows = torch.arange(len(mask), device=mask.device)
    lowest = rows[mask.any(dim=1)].max()
    source = (lowest - (lowest - rows) / factor).round().long()
    inside = (source >= 0) & (source <= lowest)
    scaled = mask[source.clamp(0, lowest)] & inside[:, None]
    cleared = label_map.masked_fill(mask, 0)
    return torch.where(scaled & (cleared == 0), label, cleared)


def swing(count: int) -> Iterator[float]:
    """Yaw of each frame in radians: from the front to both sides and back."""
    for frame in range(count):
        yield SWING_RAD * float(np.sin(2 * np.pi * frame / count))


def arrange(caption: str, left: np.ndarray, right: np.ndarray | None) -> np.ndarray:
    """Place two images side by side below a caption.

    Args:
        caption: one line.
        left, right: H,W,3 uint8, each resized; None leaves its place empty.
    Returns:
        H,W,3 uint8.
    """
    frame = Image.new("RGB", (2 * CELL + 3 * MARGIN, CELL + 2 * MARGIN + CAPTION), "white")
    ImageDraw.Draw(frame).text((MARGIN, MARGIN), caption, fill="black", font_size=16)
    for column, image in enumerate((left, right)):
        if image is not None:
            resized = Image.fromarray(image).resize((CELL, CELL), Image.Resampling.BICUBIC)
            frame.paste(resized, (MARGIN + column * (CELL + MARGIN), CAPTION + MARGIN))
    return np.asarray(frame)


@click.command(cls=Command)
@option_group("Output", cli.outdir_option)
@overwrite_option
def main(outdir: Path, outputs: Outputs) -> None:
    """Render showcase.gif: the included cat model draws, paints, turns, and changes style.

    \b
    Example:
      python applications/showcase.py --outdir docs/images
    """
    path = outdir / "showcase.gif"
    outputs.claim(path)
    cli.announce(str(cli.DEFAULT_NETWORK), outdir)
    G = cli.load_generator(str(cli.DEFAULT_NETWORK), cli.DEFAULT_CFG, None, "auto")
    label_map = to_label_map(cli.ASSETS / "toy_cat.png", G)
    frames = Showcase(G, label_map).frames()
    with cli.output_errors(), closing(frames), open_video(path, FPS) as write:
        for frame in frames:
            write(frame)


if __name__ == "__main__":
    main()
