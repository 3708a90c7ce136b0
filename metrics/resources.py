"""Networks and data that metrics need besides the generator and the data set, and checks before they are loaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import ConfigError
from inference.mesh.triangles import check_libraries
from metrics.image_features import INCEPTION, Extractor, load_extractor
from metrics.image_similarity import ImageDistance, load_distance
from metrics.registry import EvalMode, Metric
from training.data.archive import Archive, DataError, data_error
from training.data.dataset import PosedImageDataset
from training.data.image_io import open_image
from training.data.pose_files import POSES_FILE, parse_json

# File with the scale of depth images, and its key.
DEPTH_FILE = "depth.json"
DEPTH_SCALE = "world_units_per_level"
# Names of 16-bit gray images in different versions of PIL.
DEPTH_MODES = ("I;16", "I;16B", "I")


# --------------------------------------------------------------------------- data with known 3D


class DepthImages:
    """16-bit images of the distance along the ray of each pixel, with the names of a data set's images.

    Args:
        path: zip or directory with DEPTH_FILE.
    Raises:
        DataError: missing or damaged, or without the scale.
    """

    def __init__(self, path: str | Path):
        # `parse_json` raises DataError itself; anything else in the file is reported as what is expected.
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

        # Objects without a remainder, as checked above.
        self.count = len(dataset) // self.views

    def members(self, number: int) -> range:
        """Return the samples of an object in the data set."""
        return range(number * self.views, (number + 1) * self.views)


# --------------------------------------------------------------------------- networks and data of metrics


@dataclass(frozen=True)
class ResourceOptions:
    """Sources of networks and data.

    Args:
        extractor: feature extractor, see `load_extractor`.
        embedding: feature extractor of turned views, or None.
        segmenter: segmentation network of rendered images, or None.
        distance: between images of different seeds, one of DISTANCES.
        lpips_weights: file of VGG16's weights; None lets the package lpips download them.
        depth_data: depth of the data set's images; None for DATA_depth.zip next to it, if there is one.
    """

    extractor: str = INCEPTION
    embedding: str | None = None
    segmenter: str | None = None
    distance: str = "lpips"
    lpips_weights: str | None = None
    depth_data: str | None = None


@dataclass(frozen=True)
class Resources:
    """Loaded networks and data; None for those that no metric needs.

    Args:
        extractor: features of images.
        embedding: features of turned views.
        segmenter: logits of classes of rendered images.
        distance: between images of different seeds.
        depth_images: depth of the data set's images.
    """

    extractor: Extractor | None = None
    embedding: Extractor | None = None
    segmenter: Extractor | None = None
    distance: ImageDistance | None = None
    depth_images: DepthImages | None = None


def check_metrics(
    metrics: Sequence[Metric], dataset: PosedImageDataset, options: ResourceOptions, num_samples: int | None
) -> None:
    """Check that metrics can be computed on a data set, before anything is loaded.

    Args:
        metrics: the metrics.
        dataset: the data set.
        options: sources of networks and data.
        num_samples: number of samples that the user set, see `Metric.num_samples`.
    Raises:
        ConfigError: a metric of another type of data, with too few samples, or without the views or depth it needs.
    """
    # Type of label maps and number of samples.
    for metric in metrics:
        spec = metric.spec
        if spec.data_type not in (None, dataset.data_type):
            problem = f"{metric.name}: is for {spec.data_type} data, this is {dataset.data_type}"
            raise ConfigError("metrics", problem=problem)
        count = metric.num_samples(num_samples, len(dataset))

        # The smaller set counts: a metric may generate more images than there are real ones.
        if spec.compares_with_real:
            count = min(count, len(dataset))
        if count < spec.min_samples:
            problem = f"{metric.name}: needs at least {spec.min_samples} samples, got {count}"
            raise ConfigError("metrics", problem=problem)

    # Networks and views.
    if options.segmenter and dataset.data_type != "seg":
        raise ConfigError("segmenter", problem="is for label maps of classes, this data set has edges")
    if any(metric.spec.mode is EvalMode.NOVEL_VIEWS for metric in metrics):
        _check_novel_views(dataset, options, mesh=any(metric.key == "chamfer" for metric in metrics))


def _check_novel_views(dataset: PosedImageDataset, options: ResourceOptions, mesh: bool) -> None:
    """Raise ConfigError unless the data set has several views and, for metrics of meshes, depth."""
    # Several views of each object.
    try:
        MultiViewObjects(dataset)
    except DataError as error:
        raise ConfigError("metrics", problem=f"nvs, chamfer: {error}") from error

    # Depth is optional for views, since it only adds the depth error.
    depth_images = find_depth(dataset, options.depth_data)
    if not mesh:
        return
    if depth_images is None:
        problem = "chamfer: needs the depth of the data set's images"
        raise ConfigError("metrics", problem=problem, hint="set `depth_data`")

    # Meshes need optional packages.
    try:
        check_libraries()
    except ValueError as error:
        raise ConfigError("metrics", problem=f"chamfer: {error}") from error


def load_resources(
    options: ResourceOptions, metrics: Sequence[Metric], dataset: PosedImageDataset, classes: int, device: torch.device
) -> Resources:
    """Load what these metrics need, and nothing else.

    Args:
        options: sources of networks and data.
        metrics: metrics that passed `check_metrics`.
        dataset: the data set.
        classes: label channels S of the generator.
        device: of the networks.
    Raises:
        ConfigError: something cannot be loaded or does not fit.
    """
    # Names of fields of Resources.
    used = {name for metric in metrics for name in metric.spec.resources}
    resolution = dataset.resolution
    extractor = embedding = segmenter = distance = depth_images = None

    # Features and class probabilities.
    if "extractor" in used or ("distance" in used and options.distance == "features"):
        extractor = load_extractor(options.extractor, device, resolution)

        # Only a classifier has an Inception score.
        if extractor.probabilities is None and any(metric.key == "is" for metric in metrics):
            problem = f"is: the extractor {options.extractor} has no class probabilities"
            raise ConfigError("metrics", problem=problem, hint="set `extractor` to a classifier such as inception")

    # Optional networks.
    if "embedding" in used and options.embedding:
        embedding = load_extractor(options.embedding, device, resolution, "embedding")
    if "segmenter" in used and options.segmenter:
        segmenter = load_extractor(options.segmenter, device, resolution, "segmenter", classes)

    # Distance of images and depth of the data. Turned views use the depth only for the mean baseline.
    if "distance" in used:
        distance = load_distance(options.distance, options.lpips_weights, extractor, device)
    if used & {"depth_images", "embedding"}:
        depth_images = find_depth(dataset, options.depth_data)
    return Resources(extractor, embedding, segmenter, distance, depth_images)
