"""Example drawings that the page offers to start from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from applications import cli
from applications.editor.model import EditorModel
from applications.editor.protocol import CameraView
from applications.editor.session_file import drawing_png
from inference.projection import Projection

# Prefix of the file names of the repository's own weights.
TOY = "toy_"


@dataclass(frozen=True)
class Example:
    """Example drawing.

    Args:
        file: image file in applications/assets/.
        yaw_deg: direction that it is seen from, to the viewer's right.
        pitch_deg: direction that it is seen from, upwards.
    """

    file: str
    yaw_deg: float = 0
    pitch_deg: float = 0

    @property
    def view(self) -> CameraView:
        """The view that it is seen from."""
        # `polar` is linear in the height: see camera_utils.
        height = math.sin(math.radians(self.pitch_deg))
        return CameraView(math.pi / 2 + math.radians(self.yaw_deg), math.pi / 2 * (1 - height))

    @property
    def content(self) -> bytes:
        """Content of the file."""
        return (cli.ASSETS / self.file).read_bytes()


@dataclass(frozen=True)
class Drawing:
    """Drawing to start from that is no file of this repository, with the same attributes as an Example.

    Args:
        content: of an image file.
        view: that it is seen from.
    """

    content: bytes
    view: CameraView


def projected_drawing(model: EditorModel, projection: Projection) -> Drawing:
    """Return the label map of a projected photo, as a drawing that is seen as the photo is."""
    label_map = projection.label_map[0, 0].cpu()
    ids = label_map if model.G.data_type == "seg" else label_map < 0
    return Drawing(drawing_png(ids.to(torch.uint8).numpy(), model.G.data_type), model.projected_view(projection))


# By configuration; a page starts with the first.
EXAMPLES = {"seg2cat": (Example("cat.png"),), "edge2car": (Example("car.png"),)}

# Those of the repository's own weights, which draw other proportions than the authors'. Except for the first, they are
# held-out objects of the toy generator.
TOY_EXAMPLES = {
    "seg2cat": (
        Example("toy_cat.png"),
        Example("toy_cat_round_ears.png"),
        Example("toy_cat_large.png"),
        Example("toy_cat_turned.png", yaw_deg=25, pitch_deg=8),
    ),
    "edge2car": (
        Example("toy_car.png"),
        Example("toy_car_side.png", yaw_deg=90, pitch_deg=6),
        Example("toy_car_corner.png", yaw_deg=-40, pitch_deg=20),
        Example("toy_car_van.png", yaw_deg=-55, pitch_deg=22),
    ),
}


def examples_for(network: str, cfg: str) -> tuple[Example, ...]:
    """Return the examples for a network (path or URL of its file), which may be none."""
    table = TOY_EXAMPLES if Path(network).name.startswith(TOY) else EXAMPLES
    return table.get(cfg, ())
