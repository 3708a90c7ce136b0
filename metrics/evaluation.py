"""Metrics of a model: one pass over samples for all metrics that look at the same pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from metrics.diversity import SEEDS, Distance, mean_distance
from metrics.extractors import Extractor, to_pictures
from metrics.features import real_features
from metrics.generated import MeanBaseline, Samples, Source, order_of, read_samples, some_points
from metrics.ground_truth import DepthPictures, Objects
from metrics.names import Metric, Pass
from metrics.sharing import on_rank_0, shared, together
from metrics.summaries import COMPARED, SUMMARIES, Found, Values, columns
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
from training.data.dataset import PosedImageDataset

SEED_STEP = 2_654_435_761  # 2^32 / golden ratio: the samples' z of one seed lie far from those of another
GUESS_POINTS = 2**16  # of the constant guess, about as many as a mesh has

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
        batch: pictures at once.
        seed: of the order of the data set and of every z.
    """

    num: int | None = None
    batch: int = 4
    seed: int = 0

    def z_seeds(self, numbers: Iterable[int]) -> list[int]:
        """Seeds of z of the samples with these numbers: the number itself, further on with another seed."""
        return [(self.seed * SEED_STEP + number) % 2**32 for number in numbers]


@dataclass(frozen=True)
class Result:
    """One metric's figures.

    Args:
        values: NaN where no sample has one.
        counted: figures that fewer than `samples` samples have -> how many.
        seconds: of the pass that it shares with others, and its own arithmetic.
    """

    metric: Metric
    values: Values
    samples: int
    counted: dict[str, int]
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
    _real: dict[int, Tensor] = field(init=False, default_factory=dict)  # by how many they are

    @torch.inference_mode()
    def __call__(self, source: Source, metrics: Sequence[Metric]) -> Iterator[Result]:
        """Figures of a source, the same in all processes, each as soon as it is known."""
        for seen in Pass:
            mine = [metric for metric in metrics if metric.kind.seen is seen]
            if not mine:
                continue
            counts = {metric.name: self.count(metric) for metric in mine}
            started = time.monotonic()
            tally = together(partial(PASSES[seen], self, source, counts)).gathered()
            seconds = time.monotonic() - started
            for metric in mine:
                started, count = time.monotonic(), counts[metric.name]
                found = Found(tally, count, self.real(metric) if metric.key in COMPARED else None, self.device)
                values = on_rank_0(partial(SUMMARIES[metric.key], metric, found))
                counted = {name: int(x.isfinite().sum()) for name, x in columns(metric, tally).items()}
                counted = {name: number for name, number in counted.items() if number < count}
                yield Result(metric, values, count, counted, seconds + time.monotonic() - started)

    def count(self, metric: Metric) -> int:
        """Samples that this metric takes; of objects with several views no more than there are."""
        if metric.kind.seen is Pass.TRUTH:
            objects = Objects(self.dataset).count
            return min(metric.samples(self.choices.num, objects), objects)
        return metric.samples(self.choices.num, len(self.dataset))

    def members(self, count: int) -> np.ndarray:
        """Which members of the data set the first samples are."""
        return order_of(count, len(self.dataset), self.choices.seed)

    def reals(self, metric: Metric) -> int:
        """Real pictures that this metric compares with."""
        return min(metric.reals or len(self.dataset), len(self.dataset))

    def real(self, metric: Metric) -> Tensor:
        """Their features, computed once, by all processes together."""
        count = self.reals(metric)
        if count not in self._real:
            members = np.sort(self.members(count))
            batch, extractor = self.choices.batch, self.tools.extractor
            self._real[count] = real_features(self.dataset, members, extractor, batch, self.device)
        return self._real[count]

    def batches(self, count: int, batch: int, what: str) -> Iterable[Samples]:
        """This process's samples."""
        members = self.members(count)
        steps = list(shared(count, batch))
        for numbers in self.progress(steps, len(steps), what):
            yield self.samples(numbers, members[numbers.start : numbers.stop])

    def samples(self, numbers: Sequence[int], members: Sequence[int], images: bool = False) -> Samples:
        """Members of the data set as the samples of these numbers; see `read_samples`."""
        seeds = self.choices.z_seeds(numbers)
        return read_samples(self.dataset, self.classes, numbers, members, seeds, self.device, images)

    def views(self, source: Source, scene: Any, poses: Tensor) -> dict[str, Tensor]:
        """One scene from all poses, a batch at once."""
        return _joined([source.look(scene, part) for part in poses.split(self.choices.batch)])


def _joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


# --------------------------------------------------------------------------- passes


def own_view_pass(evaluation: Evaluation, source: Source, counts: dict[str, int]) -> Tally:
    """Pictures of label maps from their own poses: label counts, and what extractor and segmenter say."""
    tally, tools = Tally(), evaluation.tools
    keys = {key: max((n for name, n in counts.items() if Metric(name).key == key), default=0) for key in SUMMARIES}
    labeled = max(keys[key] for key in ("miou", "acc", "ap"))
    featured, scored = max(keys[key] for key in ("fid", "kid", "pr")), keys["is"]
    for samples in evaluation.batches(max(counts.values()), evaluation.choices.batch, "pictures"):
        out = source.look(source.scenes(samples.label_map, samples.pose, samples.seeds), samples.pose)
        pictures = to_pictures(out["image"])
        if (n := _within(samples, labeled)) > 0:
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
    tally, choices = Tally(), evaluation.choices
    for samples in evaluation.batches(max(counts.values()), 1, "label maps"):
        first = samples.numbers[0] * SEEDS
        pictures = []
        for seeds in torch.tensor(choices.z_seeds(range(first, first + SEEDS))).split(choices.batch):
            scenes = source.scenes(samples.label_map, samples.pose, seeds.tolist())
            pictures.append(source.look(scenes, samples.pose.expand(len(seeds), -1))["image"])
        drawn = torch.cat(pictures).float().clamp(-1, 1)
        tally.put("diversity", samples.numbers, mean_distance(drawn, evaluation.tools.distance, choices.batch))
    return tally


def turn_pass(evaluation: Evaluation, source: Source, counts: dict[str, int]) -> Tally:
    """The input's view and others to either side of it."""
    tally, embedding = Tally(), evaluation.tools.embedding
    for samples in evaluation.batches(max(counts.values()), 1, "scenes"):
        poses = torch.cat([turned(samples.pose, yaw, source.pivot) for yaw in TURNS_RAD])
        scene = source.scenes(samples.label_map, samples.pose, samples.seeds)
        out = evaluation.views(source, scene, torch.cat([samples.pose, poses]))
        if "image_depth" in out:
            first, others = ({name: x[part] for name, x in out.items()} for part in (slice(1), slice(1, None)))
            differences = reprojection(first, samples.pose, others, poses)
            tally.put("reprojection", samples.numbers, differences.nanmean(0)[None])
        if embedding:
            found = torch.cat(
                [embedding.features(x) for x in to_pictures(out["image"]).split(evaluation.choices.batch)]
            )
            tally.put("embedding", samples.numbers, embedding_distances(found[:1], found[1:]).mean(0)[None])
    return tally


def truth_pass(evaluation: Evaluation, source: Source, counts: dict[str, int]) -> Tally:
    """An object's first view as input; its other views as rendered and as the data set has them."""
    tally, dataset, depths = Tally(), evaluation.dataset, evaluation.tools.depths
    objects = Objects(dataset)
    count = max(counts.values())
    views_of, meshes = (counts.get(name, 0) for name in ("nvs", "chamfer"))
    order = order_of(count, objects.count, evaluation.choices.seed)
    steps = list(shared(count, 1))
    for (number,) in evaluation.progress(steps, len(steps), "objects"):
        members = objects.members(int(order[number]))
        views = evaluation.samples([number] * len(members), members, images=True)
        depth = depths and torch.stack([depths.of(dataset, member) for member in members]).to(evaluation.device)
        scene = source.scenes(views.label_map[:1], views.pose[:1], views.seeds[:1])
        shown = 0 if number < meshes else 1  # the mesh is seen from the input's pose too
        out = evaluation.views(source, scene, views.pose[shown:])
        if number < views_of:
            novel = {name: x[1 - shown :] for name, x in out.items()}
            tally.add("novel labels", label_counts(novel["semantic"].float(), views.label_map[1:]))
            errors = picture_errors(novel, views.image[1:], None if depth is None else depth[1:])
            tally.put("novel views", [number], errors[None])
        if number < meshes:
            surface = seen_points(source.surface(scene), out["image_depth"], views.pose)
            truth = points_of(depth, views.pose)[depth.flatten(1) > 0]
            tally.put("chamfer", [number], chamfer(surface, truth)[None])
    return tally


def constant_guess(evaluation: Evaluation, members: Sequence[int], pivot: Tensor) -> MeanBaseline:
    """The guess that fits these members of the data set best."""
    dataset, depths = evaluation.dataset, evaluation.tools.depths
    image, semantic, depth, seen = (torch.zeros([]) for _ in range(4))
    points = []
    for member in members:
        sample = evaluation.samples([0], [member], images=True)
        label_map = sample.label_map[0]
        if dataset.data_type == "seg":
            label_map = F.one_hot(label_map[0], evaluation.classes).permute(2, 0, 1)
        image, semantic = image + sample.image[0].cpu(), semantic + label_map.cpu()
        if depths:
            found = depths.of(dataset, member)
            depth, seen = depth + found, seen + (found > 0)
            own = points_of(found[None], sample.pose.cpu())[found.flatten()[None] > 0]
            points.append(some_points(own, 1 + GUESS_POINTS // len(members)))
    image, semantic, weight = ((x / len(members)).to(evaluation.device) for x in (image, semantic, seen))
    if not depths:
        return MeanBaseline(image, semantic, None, torch.ones_like(image[:1]), None, pivot)
    # where no member has an object: the mean over all
    depth = torch.where(seen > 0, depth / seen.clamp(min=1), depth.sum() / seen.sum()).to(evaluation.device)
    return MeanBaseline(image, semantic, depth, weight, torch.cat(points).to(evaluation.device), pivot)


PASSES = {
    Pass.OWN_VIEW: own_view_pass,
    Pass.SEEDS: seeds_pass,
    Pass.TURN: turn_pass,
    Pass.TRUTH: truth_pass,
}
