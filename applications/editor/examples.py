"""Example drawings that the page offers to start from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from applications import cli
from applications.editor.protocol import CameraView

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
