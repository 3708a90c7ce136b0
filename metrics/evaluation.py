"""Metrics of a model: one pass over samples for all metrics that look at the same pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from metrics import distribution
from metrics.alignment import average_precision, mean_iou, pixel_accuracy
from metrics.diversity import SEEDS, Distance, mean_distance
from metrics.extractors import Extractor
from metrics.features import real_features
from metrics.generated import ConstantGuess, Samples, Source, order_of, read_samples, shared, some_points
from metrics.ground_truth import DepthPictures, Objects
from metrics.names import Metric, Pass
from metrics.tally import Tally
from metrics.views import (
    TURNS_RAD,
    chamfer,
    embedding_distances,
    label_counts,
    picture_errors,
    points_of,
    reprojection,
    seen_points,
    turned,
)
from training.dataset import PosedImageDataset
from training.label_maps import to_uint8

Values = dict[str, float]
Progress = Callable[[Iterable, int, str], Iterable]  # steps, how many, of what


@dataclass(frozen=True)
class Tools:
    """What metrics need besides the model and the data; None where no metric needs it.

    Args:
        extractor: features of pictures. embedding: of the turned views. segmenter: logits of classes.
        distance: of pictures, for diversity. depths: of the data set's views.
    """

    extractor: Extractor | None = None
    embedding: Extractor | None = None
    segmenter: Extractor | None = None
    distance: Distance | None = None
    depths: DepthPictures | None = None


@dataclass(frozen=True)
class Choices:
    """What is drawn at random, and how much at once.

    Args:
        num: samples where a metric's name does not say; None for the metric's own number.
        seed: of the order of the data set; sample i has the z of seed + i.
    """

    num: int | None = None
    batch: int = 4
    seed: int = 0


@dataclass(frozen=True)
class Result:
    """One metric's figures. `seconds` are those of the pass that it shares with others, and its own arithmetic."""

    metric: Metric
    values: Values
    samples: int
    seconds: float


@dataclass(frozen=True)
class Evaluation:
    """A data set, the tools and the choices: everything but the model.

    Args:
        progress: around the steps of a pass.
    """

    dataset: PosedImageDataset
    tools: Tools
    choices: Choices
    device: torch.device
    classes: int  # of the network's label maps
    progress: Progress = field(default=lambda steps, _count, _what: steps)

    @torch.inference_mode()
    def __call__(self, source: Source, metrics: Sequence[Metric]) -> list[Result]:
        """Figures of a source, the same in all processes; in the order of `metrics`."""
        results: dict[str, Result] = {}
        for seen in Pass:
            mine = [metric for metric in metrics if metric.kind.seen is seen]
            if not mine:
                continue
            counts = {metric.name: self.count(metric) for metric in mine}
            started = time.monotonic()
            tally = PASSES[seen](self, source, counts).gathered()
            seconds = time.monotonic() - started
            for metric in mine:
                started = time.monotonic()
                values = SUMMARIES[metric.key](self, metric, counts[metric.name], tally)
                values = {name: value for name, value in values.items() if not np.isnan(value)}  # what nothing was for
                took = seconds + time.monotonic() - started
                results[metric.name] = Result(metric, values, counts[metric.name], took)
        return [results[metric.name] for metric in metrics]

    def count(self, metric: Metric) -> int:
        """Samples that this metric takes; of objects with several views no more than there are."""
        if metric.kind.seen is Pass.TRUTH:
            objects = Objects(self.dataset).count
            return min(metric.samples(self.choices.num, objects), objects)
        return metric.samples(self.choices.num, len(self.dataset))

    def members(self, count: int) -> np.ndarray:
        """Which members of the data set the first samples are."""
        return order_of(count, len(self.dataset), self.choices.seed)

    def batches(self, count: int, batch: int, what: str) -> Iterable[Samples]:
        """This process's samples."""
        members = self.members(count)
        steps = list(shared(count, batch))
        for numbers in self.progress(steps, len(steps), what):
            yield self.samples(numbers, members[numbers.start : numbers.stop], self.choices.seed)

    def samples(self, numbers: Sequence[int], members: Sequence[int], seed: int) -> Samples:
        """Members of the data set as the samples of these numbers; see `read_samples`."""
        return read_samples(self.dataset, self.classes, numbers, members, seed, self.device)


# --------------------------------------------------------------------------- passes


def own_view_pass(evaluation: Evaluation, source: Source, counts: dict[str, int]) -> Tally:
    """Pictures of label maps from their own poses: label counts, and what extractor and segmenter say."""
    tally, tools = Tally(), evaluation.tools
    keys = {key: max((n for name, n in counts.items() if Metric(name).key == key), default=0) for key in SUMMARIES}
    labelled = max(keys[key] for key in ("miou", "acc", "ap"))
    featured, scored = max(keys[key] for key in ("fid", "kid", "pr")), keys["is"]
    for samples in evaluation.batches(max(counts.values()), evaluation.choices.batch, "pictures"):
        out = source.look(source.scenes(samples.label_map, samples.pose, samples.seeds), samples.pose)
        pictures = to_uint8(out["image"])
        if (n := _within(samples, labelled)) > 0:
            tally.add("labels", label_counts(out["semantic"][:n].float(), samples.label_map[:n]))
            if tools.segmenter:
                tally.add("segmented", label_counts(tools.segmenter.features(pictures[:n]), samples.label_map[:n]))
        if (n := _within(samples, featured)) > 0:
            tally.put("features", samples.numbers[:n], tools.extractor.features(pictures[:n]))
        if (n := _within(samples, scored)) > 0:
            tally.put("probabilities", samples.numbers[:n], tools.extractor.probabilities(pictures[:n]))
    return tally


def _within(samples: Samples, count: int) -> int:
    """How many of these samples are among the first `count`."""
    return min(len(samples.numbers), count - samples.numbers[0])


def seeds_pass(evaluation: Evaluation, source: Source, counts: dict[str, int]) -> Tally:
    """Pictures of one label map with several seeds."""
    tally = Tally()
    for samples in evaluation.batches(max(counts.values()), 1, "label maps"):
        first = evaluation.choices.seed + samples.numbers[0] * SEEDS
        scenes = source.scenes(samples.label_map, samples.pose, range(first, first + SEEDS))
        pictures = source.look(scenes, samples.pose.expand(SEEDS, -1))["image"].float().clamp(-1, 1)
        tally.put("diversity", samples.numbers, mean_distance(pictures, evaluation.tools.distance))
    return tally


def turn_pass(evaluation: Evaluation, source: Source, counts: dict[str, int]) -> Tally:
    """The input's view and others to either side of it."""
    tally, embedding = Tally(), evaluation.tools.embedding
    for samples in evaluation.batches(max(counts.values()), 1, "scenes"):
        poses = torch.cat([turned(samples.pose, yaw, source.pivot) for yaw in TURNS_RAD])
        scene = source.scenes(samples.label_map, samples.pose, samples.seeds)
        out = source.look(scene, torch.cat([samples.pose, poses]))
        if "image_depth" in out:
            first, others = ({name: x[part] for name, x in out.items()} for part in (slice(1), slice(1, None)))
            tally.put(
                "reprojection", samples.numbers, reprojection(first, samples.pose, others, poses).nanmean(0)[None]
            )
        if embedding:
            found = embedding.features(to_uint8(out["image"]))
            tally.put("embedding", samples.numbers, embedding_distances(found[:1], found[1:]).mean(0)[None])
    return tally


def truth_pass(evaluation: Evaluation, source: Source, counts: dict[str, int]) -> Tally:
    """An object's first view as input; its other views as rendered and as the data set has them."""
    tally, dataset, choices = Tally(), evaluation.dataset, evaluation.choices
    objects = Objects(dataset)
    count = max(counts.values())
    views_of, meshes = (counts.get(name, 0) for name in ("nvs", "chamfer"))
    order = order_of(count, objects.count, choices.seed)
    steps = list(shared(count, 1))
    for (number,) in evaluation.progress(steps, len(steps), "objects"):
        members = objects.members(int(order[number]))
        views = evaluation.samples(range(len(members)), members, choices.seed + number)
        scene = source.scenes(views.label_map[:1], views.pose[:1], views.seeds[:1])
        out = source.look(scene, views.pose[1:])
        depth = None
        if depths := evaluation.tools.depths:
            depth = torch.stack([depths.of(dataset, member) for member in members]).to(evaluation.device)
        if number < views_of:
            tally.add("novel labels", label_counts(out["semantic"].float(), views.label_map[1:]))
            errors = picture_errors(out, views.image[1:], None if depth is None else depth[1:])
            tally.put("novel views", [number], errors[None])
        if number < meshes:
            surface = seen_points(source.surface(scene), out["image_depth"], views.pose[1:])
            truth = some_points(points_of(depth, views.pose)[depth.flatten(1) > 0])
            tally.put(
                "chamfer", [number], chamfer(surface, truth)[None] if len(surface) else torch.full((1, 3), torch.nan)
            )
    return tally


def constant_guess(evaluation: Evaluation, members: Sequence[int], pivot: Tensor) -> ConstantGuess:
    """The guess that fits these members of the data set best."""
    dataset, depths = evaluation.dataset, evaluation.tools.depths
    image, semantic, depth, seen = (torch.zeros([]) for _ in range(4))
    points = []
    for member in members:
        sample = evaluation.samples([0], [member], 0)
        label_map = sample.label_map[0]
        if dataset.data_type == "seg":
            label_map = F.one_hot(label_map[0], evaluation.classes).permute(2, 0, 1)
        image, semantic = image + sample.image[0].cpu(), semantic + label_map.cpu()
        if depths:
            found = depths.of(dataset, member)
            depth, seen = depth + found, seen + (found > 0)
            points.append(points_of(found[None], sample.pose.cpu())[found.flatten()[None] > 0][:: len(members)])
    if depths:  # where no member has an object: the mean over all
        depth = torch.where(seen > 0, depth / seen.clamp(min=1), depth.sum() / seen.sum()).to(evaluation.device)
    image, semantic = ((x / len(members)).to(evaluation.device) for x in (image, semantic))
    cloud = some_points(torch.cat(points)).to(evaluation.device) if depths else None
    return ConstantGuess(image, semantic, depth if depths else None, cloud, pivot)


PASSES = {
    Pass.OWN_VIEW: own_view_pass,
    Pass.SEEDS: seeds_pass,
    Pass.TURN: turn_pass,
    Pass.TRUTH: truth_pass,
}

# --------------------------------------------------------------------------- from a tally to figures


def _features(evaluation: Evaluation, metric: Metric, count: int, tally: Tally) -> tuple[Tensor, Tensor]:
    """Of the real pictures and of the `count` rendered ones."""
    total = len(evaluation.dataset)
    members = np.arange(total)
    if metric.reals is not None and metric.reals < total:
        members = np.sort(evaluation.members(metric.reals))
    tools, choices = evaluation.tools, evaluation.choices
    real = real_features(evaluation.dataset, members, tools.extractor, choices.batch, evaluation.device)
    return real, tally.rows("features", count)


def _fid(evaluation: Evaluation, metric: Metric, count: int, tally: Tally) -> Values:
    real, fake = map(distribution.statistics, _features(evaluation, metric, count, tally))
    return {metric.name: distribution.frechet_distance(real, fake)}


def _kid(evaluation: Evaluation, metric: Metric, count: int, tally: Tally) -> Values:
    return {metric.name: distribution.kernel_distance(*_features(evaluation, metric, count, tally))}


def _pr(evaluation: Evaluation, metric: Metric, count: int, tally: Tally) -> Values:
    precision, recall = distribution.precision_recall(*_features(evaluation, metric, count, tally))
    return {f"{metric.name}_precision": precision, f"{metric.name}_recall": recall}


def _is(_evaluation: Evaluation, metric: Metric, count: int, tally: Tally) -> Values:
    mean, deviation = distribution.inception_score(tally.rows("probabilities", count))
    return {f"{metric.name}_mean": mean, f"{metric.name}_std": deviation}


def _labels(
    summary: Callable[[Tensor], float], _evaluation: Evaluation, metric: Metric, _count: int, tally: Tally
) -> Values:
    kinds = {"labels": metric.name, "segmented": f"{metric.name}_segmented"}
    return {name: summary(tally.sum(kind)) for kind, name in kinds.items() if kind in tally}


def _sg(_evaluation: Evaluation, metric: Metric, _count: int, tally: Tally) -> Values:
    return {metric.name: tally.mean("diversity")[0]}


def _fvv(_evaluation: Evaluation, metric: Metric, _count: int, tally: Tally) -> Values:
    parts = {"reprojection": ("colour", "label", "compared"), "embedding": ("embedding", "embedding_cosine")}
    return {
        f"{metric.name}_{name}": value
        for kind, names in parts.items()
        if kind in tally
        for name, value in zip(names, tally.mean(kind), strict=True)
    }


def _nvs(evaluation: Evaluation, metric: Metric, _count: int, tally: Tally) -> Values:
    psnr, ssim, depth = tally.mean("novel views")
    seg = evaluation.dataset.data_type == "seg"
    agreement = ("miou", mean_iou) if seg else ("ap", average_precision)
    values = {agreement[0]: agreement[1](tally.sum("novel labels")), "psnr": psnr, "ssim": ssim, "depth": depth}
    return {f"{metric.name}_{name}": value for name, value in values.items()}


def _chamfer(_evaluation: Evaluation, metric: Metric, _count: int, tally: Tally) -> Values:
    names = ("to_truth", "from_truth", "mean")
    found = tally.rows("chamfer").isfinite().all(1).double().mean().item()
    values = zip(names, tally.mean("chamfer"), strict=True)
    return {f"{metric.name}_surfaces": found, **{f"{metric.name}_{name}": value for name, value in values}}


SUMMARIES: dict[str, Callable[[Evaluation, Metric, int, Tally], Values]] = {
    "fid": _fid,
    "kid": _kid,
    "pr": _pr,
    "is": _is,
    "miou": partial(_labels, mean_iou),
    "acc": partial(_labels, pixel_accuracy),
    "ap": partial(_labels, average_precision),
    "sg": _sg,
    "fvv": _fvv,
    "nvs": _nvs,
    "chamfer": _chamfer,
}
