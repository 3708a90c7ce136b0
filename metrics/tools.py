"""What the metrics asked for need besides the model and the data, by the options that name it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from inference.mesh.triangles import check_libraries
from metrics.diversity import load_distance
from metrics.errors import OptionError, blamed_on
from metrics.evaluation import Tools
from metrics.extractors import INCEPTION, Extractor, Pictures, load_extractor, load_segmenter
from metrics.ground_truth import DepthPictures, Objects
from metrics.names import Metric, Pass
from training.data.dataset import PosedImageDataset

FEATURED = {"fid", "kid", "pr", "is"}
LABELED = {"miou", "acc"}


@dataclass(frozen=True)
class ToolOptions:
    """Networks as of `load_extractor`; files by path.

    Args:
        distance: of DISTANCES. lpips_weights: None to have them fetched.
        depth_data: depth of the data set's views; None for DATA_depth.zip beside it, where it is there.
    """

    extractor: str = INCEPTION
    embedding: str | None = None
    segmenter: str | None = None
    distance: str = "lpips"
    lpips_weights: str | None = None
    depth_data: str | None = None


def check_metrics(metrics: Sequence[Metric], dataset: PosedImageDataset, options: ToolOptions, num: int | None) -> None:
    """Refuse metrics that this data set cannot have, before anything is loaded.

    Args:
        num: samples asked for, see `Metric.samples`.
    Raises:
        OptionError.
    """
    for metric in metrics:
        if metric.kind.data_type not in (None, dataset.data_type):
            kind = f"is for {metric.kind.data_type} data, this is {dataset.data_type}"
            raise OptionError(f"--metrics {metric.name}: {kind}")
        count, least = metric.samples(num, len(dataset)), metric.kind.least
        if metric.key != "is":  # real pictures take part
            count = min(count, len(dataset))
        if count < least:
            raise OptionError(f"--metrics {metric.name}: takes {least} samples or more, there would be {count}")
    if options.segmenter and dataset.data_type != "seg":
        raise OptionError("--segmenter: is for classes, this data set has edges")
    if any(metric.kind.seen is Pass.TRUTH for metric in metrics):
        with blamed_on("metrics nvs, chamfer:"):
            Objects(dataset)
        with blamed_on("depth_data"):
            depths = find_depths(options, dataset)
        if any(metric.key == "chamfer" for metric in metrics):
            if depths is None:
                raise OptionError("--metrics chamfer: needs the depth of the data set's views; give --depth_data")
            with blamed_on("metrics chamfer:"):
                check_libraries()


def find_depths(options: ToolOptions, dataset: PosedImageDataset) -> DepthPictures | None:
    """Those that the options name, or those that lie beside the data set; DataError where they cannot be used."""
    images = dataset.images.path
    path = options.depth_data or images.with_name(f"{images.stem}_depth.zip")
    if not options.depth_data and not path.is_file():
        return None
    depths = DepthPictures(path)
    depths.of(dataset, 0)  # another data set's may have another size
    return depths


def _blamed(option: str, network: Extractor) -> Extractor:
    """A network whose later complaints start with the option too."""

    def blamed(run: Pictures) -> Pictures:
        def call(pictures: torch.Tensor) -> torch.Tensor:
            with blamed_on(option):
                return run(pictures)

        return call

    probabilities = network.probabilities and blamed(network.probabilities)
    return replace(network, features=blamed(network.features), probabilities=probabilities)


def load_tools(
    options: ToolOptions, metrics: Sequence[Metric], dataset: PosedImageDataset, classes: int, device: torch.device
) -> Tools:
    """What these metrics need, and nothing else; `check_metrics` found nothing wrong with them.

    Args:
        classes: channels of the network's label maps.
    Raises:
        OptionError: something cannot be had, or does not fit.
    """
    seen, keys = {metric.kind.seen for metric in metrics}, {metric.key for metric in metrics}
    size = dataset.resolution
    extractor = embedding = segmenter = distance = depths = None
    if keys & FEATURED or (Pass.SEEDS in seen and options.distance == "features"):
        with blamed_on("extractor"):
            extractor = _blamed("extractor", load_extractor(options.extractor, device, size))
        if "is" in keys and extractor.probabilities is None:
            raise OptionError(f"--metrics is: --extractor {options.extractor} gives no class probabilities")
    if Pass.TURN in seen and options.embedding:
        with blamed_on("embedding"):
            embedding = _blamed("embedding", load_extractor(options.embedding, device, size))
    if keys & LABELED and options.segmenter:
        with blamed_on("segmenter"):
            segmenter = _blamed("segmenter", load_segmenter(options.segmenter, device, size, classes))
    if Pass.SEEDS in seen:
        with blamed_on("distance"):
            distance = load_distance(options.distance, options.lpips_weights, extractor, device)
    if seen & {Pass.TURN, Pass.TRUTH}:  # turned views: of the constant guess
        with blamed_on("depth_data"):
            depths = find_depths(options, dataset)
    return Tools(extractor, embedding, segmenter, distance, depths)
