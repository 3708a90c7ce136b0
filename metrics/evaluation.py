"""Evaluation of a generator on a data set: render once for all metrics that need the same images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metrics.data import MultiViewObjects, Samples, read_samples, sample_order
from metrics.distributed import Accumulator, local_batches, run_on_all_ranks, run_on_rank_0
from metrics.generators import SceneGenerator
from metrics.image_features import dataset_features, to_uint8
from metrics.image_similarity import mean_pairwise_distance
from metrics.registry import EvalMode, Figures, Metric, MetricInputs
from metrics.resources import Resources
from metrics.segmentation import label_counts
from metrics.views import (
    TURNS_RAD,
    Views,
    chamfer_distances,
    embedding_distances,
    novel_view_errors,
    reprojection_errors,
    turn_pose,
    unproject,
    visible_points,
)
from training.data.dataset import PosedImageDataset

SEED_STEP = 2_654_435_761  # 2^32 / golden ratio: keeps the z of different seeds far apart
SEEDS_PER_LABEL_MAP = 5  # images of one label map, for diversity

Progress = Callable[[Iterable, int, str], Iterable]  # steps, their number, and what they process


@dataclass(frozen=True)
class SamplingOptions:
    """Random samples and batch size.

    Args:
        num: samples of metrics whose names have no number; None for the metric's default.
        batch: images rendered at once.
        seed: of the order of the data set and of z.
    """

    num: int | None = None
    batch: int = 4
    seed: int = 0

    def z_seeds(self, indices: Iterable[int]) -> list[int]:
        """Return the seeds of z of samples: for seed 0 the index of the sample, for others an offset added."""
        return [(self.seed * SEED_STEP + index) % 2**32 for index in indices]


@dataclass(frozen=True)
class Result:
    """Figures of one metric.

    Args:
        metric: the metric.
        figures: value by name; NaN if no sample has one.
        num_samples: generated samples.
        counted: number of samples behind a figure, for figures that fewer than `num_samples` samples have.
        seconds: time of rendering, shared with other metrics, and of the metric itself.
    """

    metric: Metric
    figures: Figures
    num_samples: int
    counted: dict[str, int]
    seconds: float


@dataclass(frozen=True)
class Evaluator:
    """Computes metrics of generators on one data set.

    Args:
        dataset: the data set.
        resources: networks and data that the metrics need.
        options: random samples and batch size.
        device: of the generators.
        classes: label channels S of the generators.
        progress: called around the steps of a rendering loop.
    """

    dataset: PosedImageDataset
    resources: Resources
    options: SamplingOptions
    device: torch.device
    classes: int
    progress: Progress = field(default=lambda steps, _count, _label: steps)
    _real_features: dict[int, Tensor] = field(init=False, default_factory=dict)  # by number of images

    @torch.inference_mode()
    def evaluate(self, generator: SceneGenerator, metrics: Sequence[Metric]) -> Iterator[Result]:
        """Yield the results of metrics, each as soon as it is known and the same in all processes."""
        for mode in EvalMode:
            selected = [metric for metric in metrics if metric.spec.mode is mode]
            if not selected:
                continue

            # Render once for all metrics of this mode.
            start = time.monotonic()
            accumulator = run_on_all_ranks(partial(LOOPS[mode], self, generator, selected)).gather()
            render_seconds = time.monotonic() - start

            # Compute the figures.
            for metric in selected:
                start = time.monotonic()
                count = self.num_samples(metric)
                real_features = self.real_features(metric) if metric.spec.compares_with_real else None
                figures = run_on_rank_0(partial(metric.figures, MetricInputs(accumulator, count, real_features)))
                counted = {name: int(x.isfinite().sum()) for name, x in metric.columns(accumulator).items()}
                counted = {name: n for name, n in counted.items() if n < count}
                yield Result(metric, figures, count, counted, render_seconds + time.monotonic() - start)

    def num_samples(self, metric: Metric) -> int:
        """Return how many samples a metric uses; of novel views at most one per object."""
        if metric.spec.mode is EvalMode.NOVEL_VIEWS:
            objects = MultiViewObjects(self.dataset).count
            return min(metric.num_samples(self.options.num, objects), objects)
        return metric.num_samples(self.options.num, len(self.dataset))

    def members(self, count: int) -> np.ndarray:
        """Return the members of the data set that the first `count` samples use."""
        return sample_order(count, len(self.dataset), self.options.seed)

    def num_real(self, metric: Metric) -> int:
        """Return how many real images a metric compares with."""
        return min(metric.max_real or len(self.dataset), len(self.dataset))

    def real_features(self, metric: Metric) -> Tensor:
        """Return features N,F of the real images of a metric, computed once, by all processes together."""
        count = self.num_real(metric)
        if count not in self._real_features:
            members = np.sort(self.members(count))
            features = dataset_features(
                self.dataset, members, self.resources.extractor, self.options.batch, self.device
            )
            self._real_features[count] = features.to(self.device)
        return self._real_features[count]

    def batches(self, count: int, batch_size: int, label: str) -> Iterator[Samples]:
        """Yield this process's batches of the first `count` samples, without images; `label` is for the progress."""
        members = self.members(count)
        steps = list(local_batches(count, batch_size))
        for indices in self.progress(steps, len(steps), label):
            yield self.samples(indices, members[indices.start : indices.stop])

    def samples(self, indices: Sequence[int], members: Sequence[int], images: bool = False) -> Samples:
        """Read members of the data set as samples of these indices; see `read_samples`."""
        seeds = self.options.z_seeds(indices)
        return read_samples(self.dataset, self.classes, indices, members, seeds, self.device, images)

    def render_batches(self, generator: SceneGenerator, scene: Any, poses: Tensor) -> Views:
        """Render one scene from poses N,25, a batch at a time."""
        batches = [generator.render(scene, batch) for batch in poses.split(self.options.batch)]
        return {name: torch.cat([views[name] for views in batches]) for name in batches[0]}


# --------------------------------------------------------------------------- rendering loops, one per mode


def _input_view_loop(evaluator: Evaluator, generator: SceneGenerator, metrics: Sequence[Metric]) -> Accumulator:
    """Render label maps from their own poses; accumulate label counts, features and class probabilities."""
    resources = evaluator.resources
    accumulator = Accumulator()
    counts = {"labels": 0, "features": 0, "probabilities": 0}  # samples that need each of them
    for metric in metrics:
        counts[metric.spec.input] = max(counts[metric.spec.input], evaluator.num_samples(metric))

    for samples in evaluator.batches(max(counts.values()), evaluator.options.batch, "images"):
        scenes = generator.generate(samples.label_map, samples.pose, samples.seeds)
        out = generator.render(scenes, samples.pose)
        images = to_uint8(out["image"])

        # Each kind of input has its own number of samples, which may end within this batch.
        remaining = {name: max(0, count - samples.indices[0]) for name, count in counts.items()}
        if n := remaining["labels"]:
            target = samples.label_map[:n]
            accumulator.add_counts("labels", label_counts(out["semantic"][:n].float(), target))
            if resources.segmenter:
                logits = resources.segmenter.features(images[:n])
                accumulator.add_counts("segmented", label_counts(logits, target))
        if n := remaining["features"]:
            accumulator.put_rows("features", samples.indices[:n], resources.extractor.features(images[:n]))
        if n := remaining["probabilities"]:
            probabilities = resources.extractor.probabilities(images[:n])
            accumulator.put_rows("probabilities", samples.indices[:n], probabilities)
    return accumulator


def _seeds_loop(evaluator: Evaluator, generator: SceneGenerator, metrics: Sequence[Metric]) -> Accumulator:
    """Render each label map with several seeds; accumulate distances between the images."""
    accumulator = Accumulator()
    options = evaluator.options
    for samples in evaluator.batches(max(map(evaluator.num_samples, metrics)), 1, "label maps"):
        first = samples.indices[0] * SEEDS_PER_LABEL_MAP
        z_seeds = options.z_seeds(range(first, first + SEEDS_PER_LABEL_MAP))
        images = []
        for start in range(0, len(z_seeds), options.batch):
            batch = z_seeds[start : start + options.batch]
            scenes = generator.generate(samples.label_map, samples.pose, batch)
            images.append(generator.render(scenes, samples.pose.expand(len(batch), -1))["image"])
        image = torch.cat(images).float().clamp(-1, 1)  # K,3,R,R
        distance = mean_pairwise_distance(image, evaluator.resources.distance, options.batch)
        accumulator.put_rows("diversity", samples.indices, distance)
    return accumulator


def _turned_views_loop(evaluator: Evaluator, generator: SceneGenerator, metrics: Sequence[Metric]) -> Accumulator:
    """Render the input view and views turned to both sides; accumulate their differences."""
    accumulator = Accumulator()
    embedding = evaluator.resources.embedding
    for samples in evaluator.batches(max(map(evaluator.num_samples, metrics)), 1, "scenes"):
        poses = torch.cat([turn_pose(samples.pose, yaw, generator.pivot) for yaw in TURNS_RAD])  # V,25
        scene = generator.generate(samples.label_map, samples.pose, samples.seeds)
        out = evaluator.render_batches(generator, scene, torch.cat([samples.pose, poses]))
        if "image_depth" in out:
            first = {name: x[:1] for name, x in out.items()}
            others = {name: x[1:] for name, x in out.items()}
            errors = reprojection_errors(first, samples.pose, others, poses)  # V,5
            accumulator.put_rows("reprojection", samples.indices, errors.nanmean(0)[None])
        if embedding:
            batches = to_uint8(out["image"]).split(evaluator.options.batch)
            embeddings = torch.cat([embedding.features(batch) for batch in batches])
            distances = embedding_distances(embeddings[:1], embeddings[1:])  # V,2
            accumulator.put_rows("embedding", samples.indices, distances.mean(0)[None])
    return accumulator


def _novel_views_loop(evaluator: Evaluator, generator: SceneGenerator, metrics: Sequence[Metric]) -> Accumulator:
    """Generate an object from its first view; accumulate errors of its other views and of its mesh."""
    accumulator = Accumulator()
    dataset = evaluator.dataset
    depth_images = evaluator.resources.depth_images
    objects = MultiViewObjects(dataset)
    counts = {metric.key: evaluator.num_samples(metric) for metric in metrics}
    num_objects = max(counts.values())
    order = sample_order(num_objects, objects.count, evaluator.options.seed)

    steps = list(local_batches(num_objects, 1))
    for (index,) in evaluator.progress(steps, len(steps), "objects"):
        members = objects.members(int(order[index]))
        true = evaluator.samples([index] * len(members), members, images=True)
        depth = None
        if depth_images:
            depth = torch.stack([depth_images.read(dataset, i) for i in members]).to(evaluator.device)  # V,1,R,R

        # Render the other views; for the mesh also the input view, since points that it sees are compared too.
        scene = generator.generate(true.label_map[:1], true.pose[:1], true.seeds[:1])
        with_mesh = index < counts.get("chamfer", 0)
        first = 0 if with_mesh else 1
        out = evaluator.render_batches(generator, scene, true.pose[first:])

        if index < counts.get("nvs", 0):
            novel = {name: x[1 - first :] for name, x in out.items()}
            accumulator.add_counts("novel_labels", label_counts(novel["semantic"].float(), true.label_map[1:]))
            errors = novel_view_errors(novel, true.image[1:], None if depth is None else depth[1:])
            accumulator.put_rows("novel_views", [index], errors[None])
        if with_mesh:
            surface = visible_points(generator.surface_points(scene), out["image_depth"], true.pose)
            true_points = unproject(depth, true.pose)[depth.flatten(1) > 0]
            accumulator.put_rows("chamfer", [index], chamfer_distances(surface, true_points)[None])
    return accumulator


LOOPS = {
    EvalMode.INPUT_VIEW: _input_view_loop,
    EvalMode.SEEDS: _seeds_loop,
    EvalMode.TURNED_VIEWS: _turned_views_loop,
    EvalMode.NOVEL_VIEWS: _novel_views_loop,
}
