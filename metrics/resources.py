"""Networks and data that metrics need besides the generator and the data set, and checks before they are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dnnlib.errors import ConfigError
from inference.mesh.triangles import check_libraries
from metrics.choices import INCEPTION
from metrics.image_features import Extractor, load_extractor
from metrics.image_similarity import ImageDistance, load_distance
from metrics.registry import EvalMode, Metric
from training.data.archive import WHOLE, DataError, data_error
from training.data.dataset import PosedImageDataset
from training.data.depth_maps import DepthImages, find_depth
from training.data.pose_files import POSES_FILE

# --------------------------------------------------------------------------- views of an object


class MultiViewObjects:
    """Groups of samples of a data set that show the same object.

    Args:
        dataset: a data set with the same number of views of each object, not mirrored.
    Attributes:
        views: number of views of each object.
        count: number of objects.
    Raises:
        DataError: one view of each object, different numbers of views, or mirrored copies.
    """

    def __init__(self, dataset: PosedImageDataset):
        # Mirrored copies follow after all others; their poses may be those of the originals.
        if dataset.get_details(len(dataset) - 1).xflip:
            raise data_error(dataset.images.path, WHOLE, "expected no mirrored copies of the images")

        # The metrics average over objects, so each must have as many views as the others.
        views = np.bincount(dataset.objects)
        if views.min() != views.max():
            problem = (
                f'"objects": got {views.min()} to {views.max()} images of an object, expected the same number of each'
            )
            raise data_error(dataset.images.path, POSES_FILE, problem)
        if views.max() == 1:
            problem = '"objects": got 1 image of each object, expected 2 or more'
            raise data_error(dataset.images.path, POSES_FILE, problem)

        # Samples of each object, in the order of the data set.
        self.views = int(views[0])
        self.count = len(views)
        self._members = np.argsort(dataset.objects, kind="stable").reshape(self.count, self.views)

    def members(self, number: int) -> list[int]:
        """Return the samples of an object in the data set."""
        return self._members[number].tolist()


# --------------------------------------------------------------------------- networks and data of metrics


@dataclass(frozen=True)
class ResourceOptions:
    """Sources of networks and data.

    Args:
        extractor: feature extractor, see `load_extractor`.
        embedding: feature extractor of turned views, or None.
        segmenter: segmentation network of rendered images, or None.
        distance: between images, one of DISTANCES; None for LPIPS, or L1 where only `diversity` needs one and LPIPS is
            not available.
        lpips_weights: file of VGG16's weights; None lets the package lpips download them.
        depth_data: depth of the data set's images; None for DATA_depth.zip next to it, if there is one.
    """

    extractor: str = INCEPTION
    embedding: str | None = None
    segmenter: str | None = None
    distance: str | None = None
    lpips_weights: str | None = None
    depth_data: str | None = None


@dataclass(frozen=True)
class Resources:
    """Loaded networks and data; None for those that no metric needs.

    Args:
        extractor: features of images.
        embedding: features of turned views.
        segmenter: logits of classes of rendered images.
        distance: between images.
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

    # Images of different objects.
    if any(metric.key == "diversity" for metric in metrics) and len(np.unique(dataset.objects)) == 1:
        raise ConfigError("metrics", problem="diversity: needs images of two or more objects")

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
        distance = _load_distance(options, metrics, extractor, device)
    if used & {"depth_images", "embedding"}:
        depth_images = find_depth(dataset, options.depth_data)
    return Resources(extractor, embedding, segmenter, distance, depth_images)


def _load_distance(
    options: ResourceOptions, metrics: Sequence[Metric], extractor: Extractor | None, device: torch.device
) -> ImageDistance:
    """Load the distance of images that is set, or the default one; errors as of `load_distance`."""
    try:
        return load_distance(options.distance or "lpips", options.lpips_weights, extractor, device)
    except ConfigError:
        # A ratio of distances has a meaning without LPIPS; figures of `sg` are compared with published ones.
        if options.distance or options.lpips_weights or any(metric.key == "sg" for metric in metrics):
            raise
        return load_distance("l1", None, None, device)
