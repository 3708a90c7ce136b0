"""Data sets that know their 3D: several views of each object, with depth."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.data.archive import Archive, DataError, data_error
from training.data.dataset import PosedImageDataset
from training.data.image_io import open_image
from training.data.index import POSES_FILE, parse_json

DEPTH_FILE = "depth.json"
DEPTH_MODES = ("I;16", "I;16B", "I")  # 16-bit gray, as PIL's versions call it
SCALE = "world_units_per_level"


class DepthPictures:
    """16-bit pictures of the distance along each pixel's ray, under the images' names.

    Raises:
        DataError: no such archive, or without the scale.
    """

    def __init__(self, path: str | Path):
        self.archive = Archive(path)
        try:
            self.scale = float(parse_json(self.archive.read(DEPTH_FILE))[SCALE])
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, DataError):
                raise
            raise data_error(path, DEPTH_FILE, f'expected {{"{SCALE}": number}}') from error

    def of(self, dataset: PosedImageDataset, member: int) -> Tensor:
        """1,R,R world units of a member's picture, 0 where there is no object; DataError where there is none."""
        details = dataset.get_details(member)
        name, size = details.name, dataset.resolution
        content = self.archive.read(name)
        try:
            levels = np.array(open_image(content, DEPTH_MODES)).astype(np.float32)
        except (OSError, SyntaxError, ValueError) as error:
            raise data_error(self.archive.path, name, f"not a depth picture ({error})") from error
        if levels.shape != (size, size):
            what = f"{levels.shape[1]}x{levels.shape[0]} pixels, its image has {size}; depth of another data set?"
            raise data_error(self.archive.path, name, what)
        if details.xflip:
            levels = np.ascontiguousarray(levels[:, ::-1])
        return torch.from_numpy(levels)[None] * self.scale


class Objects:
    """Which samples of a data set show the same object.

    Raises:
        DataError: one view of each, or none that is told; a data set mirrored or in part, whose order is another.
    """

    def __init__(self, dataset: PosedImageDataset):
        content = json.loads(dataset.images.read(POSES_FILE))
        self.views = content.get("views", 1)
        whole = isinstance(self.views, int) and self.views > 1 and len(dataset.index.images) % self.views == 0
        if not whole:
            what = f'expected "views", 2 or more pictures of each object in a row, got {self.views!r}'
            raise data_error(dataset.images.path, POSES_FILE, what)
        if any(dataset.get_details(i).raw_idx != i for i in range(len(dataset))):
            raise data_error(dataset.images.path, POSES_FILE, "expected all pictures in their order, none mirrored")
        self.count = len(dataset) // self.views

    def members(self, number: int) -> range:
        """The views of an object."""
        return range(number * self.views, (number + 1) * self.views)
