"""Samples of a data set that metrics use: label maps, poses, images and depth, and several views of one object."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import ConfigError
from training.data.archive import Archive, DataError, data_error
from training.data.dataset import PosedImageDataset
from training.data.image_io import open_image
from training.data.index import POSES_FILE, parse_json

DEPTH_FILE = "depth.json"
DEPTH_SCALE = "world_units_per_level"  # key of DEPTH_FILE
DEPTH_MODES = ("I;16", "I;16B", "I")  # names of 16-bit gray images in different versions of PIL


class Samples(NamedTuple):
    """A batch of evaluation samples.

    Args:
        indices: N positions in the evaluation; `seeds` and the members of the data set follow from them.
        image: N,3,R,R in [-1, 1], or None if not read.
        label_map: N,1,R,R in network form.
        pose: N,25.
        seeds: N seeds of z.
    """

    indices: list[int]
    image: Tensor | None
    label_map: Tensor
    pose: Tensor
    seeds: list[int]


def sample_order(count: int, length: int, seed: int) -> np.ndarray:
    """Return `count` members of a data set of `length`: a permutation, repeated as often as needed."""
    # np.resize repeats the array.
    return np.resize(np.random.RandomState(seed).permutation(length), count)


# --------------------------------------------------------------------------- data with known 3D


class DepthImages:
    """16-bit images of the distance along the ray of each pixel, with the names of a data set's images.

    Args:
        path: zip or directory with DEPTH_FILE.
    Raises:
        DataError: missing or damaged, or without the scale.
    """

    def __init__(self, path: str | Path):
        self.archive = Archive(path)
        try:
            self.scale = float(parse_json(self.archive.read(DEPTH_FILE))[DEPTH_SCALE])
        except DataError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise data_error(path, DEPTH_FILE, f'expected {{"{DEPTH_SCALE}": number}}') from error

    @property
    def description(self) -> str:
        """Path of the archive."""
        return str(self.archive.path)

    def read(self, dataset: PosedImageDataset, member: int) -> Tensor:
        """Return the depth (1,R,R, world units, 0 where there is no object) of a member of the data set.

        Raises:
            DataError: no such image, not a depth image, or of another size than the color image.
        """
        # Decode the image of the same name.
        details = dataset.get_details(member)
        content = self.archive.read(details.name)
        try:
            levels = np.array(open_image(content, DEPTH_MODES)).astype(np.float32)
        except (OSError, SyntaxError, ValueError) as error:
            raise data_error(self.archive.path, details.name, f"not a depth image ({error})") from error

        # It must fit the color image, also if that one is mirrored.
        if levels.shape != (dataset.resolution, dataset.resolution):
            sizes = f"{levels.shape[1]}x{levels.shape[0]} pixels, but its color image has {dataset.resolution}"
            raise data_error(self.archive.path, details.name, f"{sizes}; is it the depth of another data set?")
        if details.xflip:
            levels = np.ascontiguousarray(levels[:, ::-1])
        return torch.from_numpy(levels)[None] * self.scale


def find_depth(dataset: PosedImageDataset, path: str | None) -> DepthImages | None:
    """Open the depth images of a data set: those at `path`, by default DATA_depth.zip next to it, None if missing.

    Raises:
        ConfigError: not usable, or of images of another size.
    """
    # The depth next to the data set is optional, a path from the user is not.
    images = dataset.images.path
    default_path = images.with_name(f"{images.stem}_depth.zip")
    if not path and not default_path.is_file():
        return None

    # Reading one image finds depth of another data set before anything is rendered.
    try:
        depth_images = DepthImages(path or default_path)
        depth_images.read(dataset, 0)  # checks the size
    except DataError as error:
        raise ConfigError("depth_data", problem=str(error)) from error
    return depth_images


class MultiViewObjects:
    """Groups of samples of a data set that show the same object.

    Args:
        dataset: a whole data set with all views of an object in a row, not mirrored.
    Attributes:
        views: number of views of each object.
        count: number of objects.
    Raises:
        DataError: the data set has one view of each object or does not state their number, or is mirrored or a subset.
    """

    def __init__(self, dataset: PosedImageDataset):
        # The data set states the number of views in the file of its poses.
        self.views = json.loads(dataset.images.read(POSES_FILE)).get("views", 1)
        grouped = isinstance(self.views, int) and self.views > 1 and len(dataset.index.images) % self.views == 0
        if not grouped:
            problem = f'"views": got {self.views!r}, expected 2 or more consecutive images of each object'
            raise data_error(dataset.images.path, POSES_FILE, problem)

        # Views of an object are found by their position, which mirroring and subsets change.
        if any(dataset.get_details(i).raw_idx != i for i in range(len(dataset))):
            raise data_error(dataset.images.path, POSES_FILE, "expected all images in order, none of them mirrored")
        self.count = len(dataset) // self.views

    def members(self, number: int) -> range:
        """Return the samples of an object in the data set."""
        return range(number * self.views, (number + 1) * self.views)
