"""Depth maps beside a data set: 16-bit images with the names of its images."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import ConfigError
from dnnlib.json_files import parse_json
from training.data.archive import Archive, DataError, data_error
from training.data.dataset import PosedImageDataset
from training.data.image_io import open_image

# File with the scale of depth images, and its key.
DEPTH_FILE = "depth.json"
DEPTH_SCALE = "world_units_per_level"
# Names of 16-bit gray images in different versions of PIL.
DEPTH_MODES = ("I;16", "I;16B", "I")


class DepthImages:
    """16-bit images of the distance along the ray of each pixel, with the names of a data set's images.

    Args:
        path: zip or directory with DEPTH_FILE.
    Raises:
        DataError: missing or damaged, or without a positive scale.
    """

    def __init__(self, path: str | Path):
        # `parse_json` raises DataError itself; anything else in the file is reported as what is expected.
        self.archive = Archive(path)
        try:
            self.scale = float(parse_json(self.archive.read(DEPTH_FILE))[DEPTH_SCALE])
        except DataError:
            raise
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise data_error(path, DEPTH_FILE, f'expected {{"{DEPTH_SCALE}": number}}') from error
        if not 0 < self.scale < math.inf:
            raise data_error(path, DEPTH_FILE, f"{DEPTH_SCALE}: got {self.scale}, expected a positive number")

    @property
    def description(self) -> str:
        """Path of the archive."""
        return str(self.archive.path)

    def read(self, dataset: PosedImageDataset, idx: int) -> Tensor:
        """Return the depth (float32 1,R,R, world units, 0 where there is no object) of a sample.

        Raises:
            DataError: no such image, not a depth image, or of another size than the color image.
        """
        # Decode the image of the same name.
        details = dataset.get_details(idx)
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
        return torch.from_numpy(levels)[None] * self.scale  # 1,R,R


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
