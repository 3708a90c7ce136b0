"""Evaluation of a generator on a data set: render once for all metrics that need the same images."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from inference.latents import Styles
from metrics.choices import PHOTO, SEEDS
from metrics.distributed import Accumulator, local_batches, run_on_all_ranks, run_on_rank_0
from metrics.image_features import dataset_features, to_uint8
from metrics.image_similarity import mean_pairwise_distance, psnr
from metrics.registry import NEAREST_OF, SEEDS_PER_LABEL_MAP, EvalMode, Figures, Metric, MetricInputs
from metrics.resources import MultiViewObjects, Resources
from metrics.segmentation import label_counts
from metrics.strokes import color_change, paint_stroke
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
from training.data.archive import data_error
from training.data.dataset import PosedImageDataset
from training.data.label_maps import label_map_from_dataset

# 2^32 / golden ratio. Consecutive seeds shift the seeds of z by this, so that no z is shared by two evaluations.
SEED_STEP = 2_654_435_761


@dataclass(frozen=True)
class SamplingOptions:
    """Random samples and batch size.

    Args:
        num: samples of metrics whose names have no number; None for the metric's default.
        batch: images rendered at once.
        seed: of the order of the data set and of z.
        style: source of z, one of STYLES: a seed for each sample, or its photo by the style encoder. Metrics of several
            seeds use seeds in either case.
    """

    num: int | None = None
    batch: int = 4
    seed: int = 0
    style: str = SEEDS

    def z_seeds(self, indices: Iterable[int]) -> list[int]:
        """Return the seeds of z of samples: for seed 0 the index of the sample, for others an offset added."""
        return [(self.seed * SEED_STEP + index) % 2**32 for index in indices]


class Samples(NamedTuple):
    """A batch of evaluation samples.

    Args:
        indices: N positions in the evaluation; seeds and the members of the data set follow from them.
        image: N,3,R,R in [-1, 1], or None if not read.
        label_map: N,1,R,R in network form.
        pose: N,25.
        styles: N seeds of z, or the images.
    """

    indices: list[int]
    image: Tensor | None
    label_map: Tensor
    pose: Tensor
    styles: Styles


def sample_order(count: int, length: int, seed: int) -> np.ndarray:
    """Return `count` members of a data set of `length`: a permutation, repeated as often as needed."""
    # More samples than members repeat the same order, with other seeds of z. np.resize repeats the array.
    return np.resize(np.random.RandomState(seed).permutation(length), count)


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


class SceneGenerator(Protocol):
    """Generator of scenes from label maps that can be rendered from any pose."""

    pivot: Tensor  # 3, world units: center of turned views

    def generate(self, label_map: Tensor, pose: Tensor, styles: Styles) -> Any:
        """Generate N scenes.

        Args:
            label_map: N,1,R,R in network form, or 1,1,R,R for all styles.
            pose: N,25 or 1,25 to condition on.
            styles: N seeds of z, or photos N,3,R,R in [-1, 1].
        """

    def render(self, scenes: Any, pose: Tensor) -> Views:
        """Render scenes from poses N,25, one for each scene or several for one scene.

        Returns:
            image N,3,R,R; semantic N,S,R,R; weight (opacity of a ray) and image_depth N,1,r,r, the last one only if the
            generator has depth.
        """

    def surface_points(self, scene: Any) -> Tensor:
        """Return points K,3 on the surface of one scene, world units; K = 0 if it has none."""


@dataclass(frozen=True)
class Evaluator:
    """Computes metrics of generators on one data set.

    Args:
        dataset: the data set.
        resources: networks and data that the metrics need.
        options: random samples and batch size.
        device: of the generators.
        classes: label channels S of the generators.
        show_progress: whether rendering loops show a progress bar.
    """

    dataset: PosedImageDataset
    resources: Resources
    options: SamplingOptions
    device: torch.device
    classes: int
    show_progress: bool = False
    _real_features: dict[int, Tensor] = field(init=False, default_factory=dict)  # by number of images

    @torch.inference_mode()
    def evaluate(self, generator: SceneGenerator, metrics: Sequence[Metric]) -> Iterator[Result]:
        """Yield the results of metrics, each as soon as it is known and the same in all processes."""
        for mode, loop in LOOPS.items():
            selected = [metric for metric in metrics if metric.spec.mode is mode]
            if not selected:
                continue

            # Render once for all metrics of this mode.
            start = time.monotonic()
            accumulator = run_on_all_ranks(partial(loop, self, generator, selected)).gather()
            render_seconds = time.monotonic() - start

            for metric in selected:
                # Features of real images are computed by all processes, figures by one: both may take minutes.
                start = time.monotonic()
                count = self.num_samples(metric)
                real_features = self.real_features(metric) if metric.spec.compares_with_real else None
                figures = run_on_rank_0(partial(metric.figures, MetricInputs(accumulator, count, real_features)))

                # Number of samples behind figures that not all samples have.
                counted = {name: int(x.isfinite().sum()) for name, x in metric.columns(accumulator).items()}
                counted = {name: n for name, n in counted.items() if n < count}
                yield Result(metric, figures, count, counted, render_seconds + time.monotonic() - start)

    def num_samples(self, metric: Metric) -> int:
        """Return how many samples a metric uses; of novel views at most one per object."""
        # An object seen twice would render the same input view with another z only.
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
        # The members are sorted, so that evaluations with all images share a cache file whatever their seed.
        count = self.num_real(metric)
        if count not in self._real_features:
            members = np.sort(self.members(count))
            features = dataset_features(
                self.dataset, members, self.resources.extractor, self.options.batch, self.device
            )
            self._real_features[count] = features.to(self.device)
        return self._real_features[count]

    def batches(self, count: int, batch_size: int, label: str, images: bool = False) -> Iterator[Samples]:
        """Yield this process's batches of the first `count` samples.

        Args:
            count: number of samples of all processes.
            batch_size: samples in a batch.
            label: of the progress bar.
            images: whether to decode the images, which takes most of the time of reading.
        """
        members = self.members(count)
        for indices in self.progress(local_batches(count, batch_size), label):
            yield self.samples(indices, members[indices.start : indices.stop], images)

    def progress(self, batches: Iterable[range], label: str) -> Iterable[range]:
        """Show a progress bar around batches if they take longer than 2 seconds."""
        # None disables the bar only where the output is no terminal.
        disable = None if self.show_progress else True
        return tqdm(list(batches), desc=label, unit="step", delay=2, disable=disable)

    def samples(self, indices: Sequence[int], members: Sequence[int], images: bool = False) -> Samples:
        """Read N members of the data set as samples of these indices.

        Args:
            indices: N positions in the evaluation.
            members: N positions in the data set.
            images: whether to decode the images, which takes time; done anyway where they are the styles.
        Raises:
            DataError: a class that the network does not know.
        """
        # Read files; label maps are checked here, since the data set does not know the network.
        dataset = self.dataset
        images = images or self.options.style == PHOTO
        items = [dataset[int(i)] if images else dataset.get_conditions(int(i)) for i in members]
        for item in items:
            if dataset.data_type == "seg" and item["mask"].max() >= self.classes:
                problem = f"its label map has class {item['mask'].max()}, the network knows 0 to {self.classes - 1}"
                raise data_error(dataset.images.path, dataset.get_details(item["idx"]).name, problem)

        # Convert to tensors in network form.
        label_map = torch.stack([label_map_from_dataset(item["mask"], dataset.data_type) for item in items])
        pose = torch.from_numpy(np.stack([item["pose"] for item in items]))
        image = None
        if images:
            image = torch.from_numpy(np.stack([item["image"] for item in items])).to(self.device) / 127.5 - 1
        styles = image if self.options.style == PHOTO else self.options.z_seeds(indices)
        return Samples(list(indices), image, label_map.to(self.device), pose.to(self.device), styles)

    def other_object(self, index: int) -> Tensor:
        """Return the image 1,3,R,R in [-1, 1] of the next sample after a position that shows another object."""
        order = np.roll(self.members(len(self.dataset)), -index)
        objects = self.dataset.objects[order]
        member = order[np.argmax(objects != objects[0])]
        return self.samples([index], [member], images=True).image

    def render_batches(self, generator: SceneGenerator, scene: Any, poses: Tensor) -> Views:
        """Render one scene from poses N,25, a batch at a time."""
        # A batch bounds the memory of rendering; all views of a scene together are small.
        batches = [generator.render(scene, batch) for batch in poses.split(self.options.batch)]
        return {name: torch.cat([views[name] for views in batches]) for name in batches[0]}

    def render_seeds(self, generator: SceneGenerator, sample: Samples, count: int) -> Tensor:
        """Render a batch of one sample with `count` seeds, which no other sample has: count,3,R,R in [-1, 1]."""
        first = sample.indices[0] * count
        z_seeds = self.options.z_seeds(range(first, first + count))

        # A batch of seeds at a time; the label map and its pose serve for all of them.
        images = []
        for start in range(0, count, self.options.batch):
            batch = z_seeds[start : start + self.options.batch]
            scenes = generator.generate(sample.label_map, sample.pose, batch)
            images.append(generator.render(scenes, sample.pose.expand(len(batch), -1))["image"])
        return torch.cat(images).float().clamp(-1, 1)


# --------------------------------------------------------------------------- rendering loops, one per mode


def _input_view_loop(evaluator: Evaluator, generator: SceneGenerator, metrics: Sequence[Metric]) -> Accumulator:
    """Render label maps from their own poses; accumulate label counts, features and class probabilities."""
    # Number of samples that need labels, features and class probabilities.
    resources = evaluator.resources
    accumulator = Accumulator()
    counts = {"labels": 0, "features": 0, "probabilities": 0}
    for metric in metrics:
        counts[metric.spec.input] = max(counts[metric.spec.input], evaluator.num_samples(metric))

    for samples in evaluator.batches(max(counts.values()), evaluator.options.batch, "images"):
        # Render.
        scenes = generator.generate(samples.label_map, samples.pose, samples.styles)
        out = generator.render(scenes, samples.pose)
        images = to_uint8(out["image"])  # N,3,R,R

        # Accumulate. Each kind of input has its own number of samples, which may end within this batch.
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
    """Render each label map with several seeds; accumulate distances between the images and to the photo."""
    # Rows that the metrics average; photos are read only for those that need them.
    accumulator = Accumulator()
    distance = evaluator.resources.distance
    rows = {name for metric in metrics for name in metric.spec.means}
    photos = not rows.isdisjoint({"real_diversity", "nearest"})

    for samples in evaluator.batches(max(map(evaluator.num_samples, metrics)), 1, "label maps", photos):
        # Compare all pairs of images.
        if "diversity" in rows:
            image = evaluator.render_seeds(generator, samples, SEEDS_PER_LABEL_MAP)
            pairs = mean_pairwise_distance(image, distance, evaluator.options.batch)
            accumulator.put_rows("diversity", samples.indices, pairs)

        # Compare the photo with that of another object.
        if "real_diversity" in rows:
            other = evaluator.other_object(samples.indices[0])
            accumulator.put_rows("real_diversity", samples.indices, distance.between(samples.image, other)[:, None])

        # Compare the photo with its nearest image.
        if "nearest" in rows:
            image = evaluator.render_seeds(generator, samples, NEAREST_OF)
            nearest = psnr(image, samples.image.expand_as(image)).max()
            accumulator.put_rows("nearest", samples.indices, nearest.view(1, 1))
    return accumulator


def _strokes_loop(evaluator: Evaluator, generator: SceneGenerator, metrics: Sequence[Metric]) -> Accumulator:
    """Render each label map before and after a stroke; accumulate changes of color away from it."""
    accumulator = Accumulator()
    options = evaluator.options
    for samples in evaluator.batches(max(map(evaluator.num_samples, metrics)), options.batch, "strokes"):
        # A stroke on each label map.
        seeds = options.z_seeds(samples.indices)
        strokes = [paint_stroke(ids, seed) for ids, seed in zip(samples.label_map[:, 0], seeds, strict=True)]
        painted, away = (torch.stack(maps) for maps in zip(*strokes, strict=True))  # N,R,R each

        # Render with and without it, in the same style.
        images = []
        for label_map in (samples.label_map, painted[:, None]):
            scenes = generator.generate(label_map, samples.pose, samples.styles)
            images.append(generator.render(scenes, samples.pose)["image"])
        accumulator.put_rows("stroke", samples.indices, color_change(*images, away)[:, None])
    return accumulator


def _turned_views_loop(evaluator: Evaluator, generator: SceneGenerator, metrics: Sequence[Metric]) -> Accumulator:
    """Render the input view and views turned to both sides; accumulate their differences."""
    # One scene at a time: its views fill a batch.
    accumulator = Accumulator()
    embedding = evaluator.resources.embedding
    for samples in evaluator.batches(max(map(evaluator.num_samples, metrics)), 1, "scenes"):
        # Render the input view and turned views.
        poses = torch.cat([turn_pose(samples.pose, yaw, generator.pivot) for yaw in TURNS_RAD])  # V,25
        scene = generator.generate(samples.label_map, samples.pose, samples.styles)
        out = evaluator.render_batches(generator, scene, torch.cat([samples.pose, poses]))

        # Compare them through the rendered depth; baselines may have none.
        if "image_depth" in out:
            first = {name: x[:1] for name, x in out.items()}
            others = {name: x[1:] for name, x in out.items()}
            errors = reprojection_errors(first, samples.pose, others, poses)  # V,5
            accumulator.put_rows("reprojection", samples.indices, errors.nanmean(0)[None])

        # Compare features of a network for identities, say of faces.
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

    # Objects in random order; the metrics of this mode may have different numbers of them.
    objects = MultiViewObjects(dataset)
    counts = {metric.key: evaluator.num_samples(metric) for metric in metrics}
    num_objects = max(counts.values())
    order = sample_order(num_objects, objects.count, evaluator.options.seed)

    for (index,) in evaluator.progress(local_batches(num_objects, 1), "objects"):
        # Read all views of the object.
        members = objects.members(int(order[index]))
        true = evaluator.samples([index] * len(members), members, images=True)
        depth = None
        if depth_images:
            depth = torch.stack([depth_images.read(dataset, i) for i in members]).to(evaluator.device)  # V,1,R,R

        # Render the other views; for the mesh also the input view, since points that it sees are compared too.
        scene = generator.generate(true.label_map[:1], true.pose[:1], true.styles[:1])
        with_mesh = index < counts.get("chamfer", 0)
        first = 0 if with_mesh else 1
        out = evaluator.render_batches(generator, scene, true.pose[first:])

        # Errors of the other views.
        # The rendered input view, if any, is left out: its label map was given.
        if index < counts.get("nvs", 0):
            novel = {name: x[1 - first :] for name, x in out.items()}
            accumulator.add_counts("novel_labels", label_counts(novel["semantic"].float(), true.label_map[1:]))
            errors = novel_view_errors(novel, true.image[1:], None if depth is None else depth[1:])
            accumulator.put_rows("novel_views", [index], errors[None])

        # Distance of the visible part of the mesh to the true surface, which the data set knows from its views only.
        if with_mesh:
            surface = visible_points(generator.surface_points(scene), out["image_depth"], true.pose)
            true_points = unproject(depth, true.pose)[depth.flatten(1) > 0]
            accumulator.put_rows("chamfer", [index], chamfer_distances(surface, true_points)[None])
    return accumulator


# Metrics are computed in this order of modes.
LOOPS = {
    EvalMode.INPUT_VIEW: _input_view_loop,
    EvalMode.SEEDS: _seeds_loop,
    EvalMode.STROKES: _strokes_loop,
    EvalMode.TURNED_VIEWS: _turned_views_loop,
    EvalMode.NOVEL_VIEWS: _novel_views_loop,
}
