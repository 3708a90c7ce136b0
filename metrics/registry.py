"""Metrics by name: what each one renders, computes and reports.

A metric is a row of `METRICS`. The names that users write ("fid50k_full", "nvs") are parsed by `parse_metrics`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial

from torch import Tensor

from dnnlib.errors import ConfigError
from metrics import distribution
from metrics.choices import EXAMPLES, MAX_SAMPLES
from metrics.distributed import Accumulator
from metrics.distribution import KERNEL_SUBSET_SIZE, KERNEL_SUBSETS, NEIGHBORS, SPLITS
from metrics.image_similarity import MAX_PSNR, SSIM_SIGMA, SSIM_WINDOW
from metrics.segmentation import EDGE_TOLERANCE, LEVELS, LINE_BELOW, average_precision, mean_iou, pixel_accuracy
from metrics.strokes import STROKE_MARGIN, STROKE_RADIUS
from metrics.views import DEPTH_AGREEMENT, MESH_GRID, OPAQUE, SURFACE_POINTS, TURNS_RAD

# Default number of samples, for metrics that render one image per sample and for those that render several.
MANY_SAMPLES = 50_000
FEW_SAMPLES = 200
# Images of one label map for diversity: 10 pairs.
SEEDS_PER_LABEL_MAP = 5
# Images of one label map from which the nearest to the photo is chosen.
NEAREST_OF = 20

# --------------------------------------------------------------------------- from accumulated values to figures


@dataclass(frozen=True)
class MetricInputs:
    """Everything that the figures of a metric are computed from.

    Args:
        accumulator: values of all samples, from all processes.
        num_samples: generated samples of this metric; the accumulator may hold more.
        real_features: N,F features of real images, for metrics that compare with them.
    """

    accumulator: Accumulator
    num_samples: int
    real_features: Tensor | None = None

    def features(self) -> tuple[Tensor, Tensor]:
        """Return features of real images (N,F) and of generated images (K,F) on the same device."""
        generated = self.accumulator.rows("features", self.num_samples)
        return self.real_features, generated.to(self.real_features.device)


# By name, or by the suffix that follows the metric's name.
Figures = dict[str, float]


def _fid(inputs: MetricInputs) -> Figures:
    real, generated = inputs.features()
    return {"": distribution.frechet_distance(distribution.statistics(real), distribution.statistics(generated))}


def _kid(inputs: MetricInputs) -> Figures:
    return {"": distribution.kernel_distance(*inputs.features())}


def _precision_recall(inputs: MetricInputs) -> Figures:
    precision, recall = distribution.precision_recall(*inputs.features())
    return {"_precision": precision, "_recall": recall}


def _inception_score(inputs: MetricInputs) -> Figures:
    mean, std = distribution.inception_score(inputs.accumulator.rows("probabilities", inputs.num_samples))
    return {"_mean": mean, "_std": std}


def _label_score(score: Callable[[Tensor], float], inputs: MetricInputs) -> Figures:
    """Score the rendered label maps and, with a segmentation network, the label maps of the rendered images."""
    figures = {"": score(inputs.accumulator.counts("labels"))}
    if "segmented" in inputs.accumulator:
        figures["_segmented"] = score(inputs.accumulator.counts("segmented"))
    return figures


def _novel_view_labels(inputs: MetricInputs) -> Figures:
    # Classes have a confusion matrix, edges 3 histograms.
    counts = inputs.accumulator.counts("novel_labels")
    if counts.shape[0] == counts.shape[1]:
        return {"_miou": mean_iou(counts)}
    return {"_ap": average_precision(counts)}


def _diversity_ratio(inputs: MetricInputs) -> Figures:
    seeds, real = (inputs.accumulator.rows(name).double().mean() for name in ("diversity", "real_diversity"))
    return {"_ratio": float(seeds / real)}


# --------------------------------------------------------------------------- the metrics


class EvalMode(Enum):
    """Images that a metric needs; metrics of one mode share them."""

    INPUT_VIEW = "one image per label map, from the pose of its sample"
    SEEDS = "images of one label map with several seeds"
    TURNED_VIEWS = "views of one scene, turned to both sides of the input pose"
    STROKES = "two images of one label map, before and after a stroke, from the pose of its sample with the same z"
    NOVEL_VIEWS = "views of one object at the poses of its other images in the data set"


@dataclass(frozen=True)
class MetricSpec:
    """Definition of a metric.

    Args:
        mode: images that it needs.
        description: its definition in one sentence, for the protocol.
        compute: figures by suffix, from accumulated values; None if all figures are means.
        means: further figures: name of accumulated rows -> suffix of each column; the figure is the mean over samples.
        input: entry of the accumulator that `compute` reads, in mode INPUT_VIEW.
        resources: fields of `Resources` that it uses, if the user provides them.
        max_samples: default number of samples; fewer if the data set has fewer.
        min_samples: fewest samples that it is defined for.
        data_type: "seg" or "edge" if it is defined for one type of label map only.
        numbered: whether its name may contain a number of samples, as in fid50k_full.
        max_real: most real images of names that end in _full; None for all.
    """

    mode: EvalMode
    description: str
    compute: Callable[[MetricInputs], Figures] | None = None
    means: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    input: str = ""
    resources: tuple[str, ...] = ()
    max_samples: int = MANY_SAMPLES
    min_samples: int = 1
    data_type: str | None = None
    numbered: bool = False
    max_real: int | None = None

    @property
    def compares_with_real(self) -> bool:
        """Whether it compares features of generated images with features of real images."""
        return self.input == "features"


# Shared arguments of the rows below.
_input_view = partial(MetricSpec, EvalMode.INPUT_VIEW)
_DISTRIBUTION = {"input": "features", "resources": ("extractor",), "numbered": True}
_CLASSES = {"input": "labels", "resources": ("segmenter",), "data_type": "seg"}
_SEGMENTED = "_segmented: the same for a segmentation network's labels of the rendered image. Higher is better."
METRICS = {
    # Realism.
    "fid": _input_view(
        "Frechet distance of features, with covariances divided by N; lower is better, and larger with fewer images.",
        _fid, **_DISTRIBUTION,
    ),
    "kid": _input_view(
        f"Squared MMD of features under the kernel (x.y / F + 1)^3, mean over {KERNEL_SUBSETS} random subsets of at "
        f"most {KERNEL_SUBSET_SIZE}; lower is better, and may be just below 0.",
        _kid, **_DISTRIBUTION, min_samples=2, max_real=1_000_000,
    ),
    "pr": _input_view(
        "Share of generated images within the manifold of real images (precision) and the other way around (recall), "
        f"each a union of balls with radius to neighbor {NEIGHBORS}; higher is better.",
        _precision_recall, **_DISTRIBUTION, min_samples=NEIGHBORS + 1, max_real=200_000,
    ),
    "is": _input_view(
        f"Inception score, mean and standard deviation over {SPLITS} splits; higher is better.",
        _inception_score, input="probabilities", resources=("extractor",), numbered=True, min_samples=SPLITS,
    ),
    # Agreement with the label map.
    "miou": _input_view(
        "Intersection over union of rendered and input label maps over all pixels of all samples, averaged over the "
        f"classes that occur in either. {_SEGMENTED}",
        partial(_label_score, mean_iou), **_CLASSES,
    ),
    "acc": _input_view(
        f"Share of pixels whose rendered class is that of the input label map. {_SEGMENTED}",
        partial(_label_score, pixel_accuracy), **_CLASSES,
    ),
    "ap": _input_view(
        f"Average precision of rendered edges over {LEVELS} thresholds, within {EDGE_TOLERANCE} of the image diagonal; "
        f"input lines are values below {LINE_BELOW}, rendered lines are not thinned; higher is better.",
        partial(_label_score, average_precision), input="labels", data_type="edge",
    ),
    # Diversity.
    "sg": MetricSpec(
        EvalMode.SEEDS,
        f"Mean distance over all pairs of {SEEDS_PER_LABEL_MAP} images of one label map; higher is more diverse.",
        means={"diversity": ("",)}, resources=("distance",), max_samples=FEW_SAMPLES,
    ),
    "diversity": MetricSpec(
        EvalMode.SEEDS,
        f"Mean distance over all pairs of {SEEDS_PER_LABEL_MAP} images of one label map (_seeds), over pairs of photos "
        "of different objects (_real: each photo and the next one in the order of samples), and the share of the first "
        "in the second (_ratio), which is 1 where seeds differ as much as photos.",
        _diversity_ratio, {"diversity": ("_seeds",), "real_diversity": ("_real",)}, resources=("distance",),
        max_samples=FEW_SAMPLES,
    ),
    "nearest": MetricSpec(
        EvalMode.SEEDS,
        f"PSNR in dB ({MAX_PSNR:g} at most) between the photo and the most similar of {NEAREST_OF} images of its label "
        "map; higher is better.",
        means={"nearest": ("_psnr",)}, max_samples=FEW_SAMPLES,
    ),
    # Editing.
    "stroke": MetricSpec(
        EvalMode.STROKES,
        "Mean absolute change of colors, in levels of 255, outside of a stroke that grows one class, with z unchanged. "
        f"The stroke is a disk of radius {STROKE_RADIUS:g} of the image's side about a random pixel at the border of a "
        f"random class other than 0; pixels less than {STROKE_MARGIN:g} of the side from it are left out. Lower is "
        "better.",
        means={"stroke": ("_color",)}, max_samples=FEW_SAMPLES, data_type="seg",
    ),
    # Consistency of views, and agreement with known 3D.
    "fvv": MetricSpec(
        EvalMode.TURNED_VIEWS,
        f"Differences between the input view and views turned by {', '.join(map(str, TURNS_RAD))} rad, after pixels "
        "are reprojected with the rendered depth. _color: mean difference as a share of the range. _label: share of "
        "pixels whose class differs (edges: mean difference). _embedding: distance of embeddings. Pixels count where "
        f"depths agree within {DEPTH_AGREEMENT:.0%} and both views are more than {OPAQUE:.0%} opaque; _compared is "
        "their share. _unmoved: without reprojection. Lower is better.",
        means={
            "reprojection": ("_color", "_label", "_color_unmoved", "_label_unmoved", "_compared"),
            "embedding": ("_embedding", "_embedding_cosine"),
        },
        resources=("embedding",), max_samples=FEW_SAMPLES,
    ),
    "nvs": MetricSpec(
        EvalMode.NOVEL_VIEWS,
        "Views of an object other than the input view, compared with the images of the data set: labels, PSNR in dB "
        f"({MAX_PSNR:g} at most), SSIM (Gaussian window of {SSIM_WINDOW} pixels, sigma {SSIM_SIGMA}; higher is better),"
        " and error of depth in world units on the object (lower is better).",
        _novel_view_labels, {"novel_views": ("_psnr", "_ssim", "_depth")}, resources=("depth_images",),
        max_samples=FEW_SAMPLES,
    ),
    "chamfer": MetricSpec(
        EvalMode.NOVEL_VIEWS,
        f"Mean distance in world units from {SURFACE_POINTS} mesh points that are visible in at least one view "
        f"(density grid of {MESH_GRID} points per axis, automatic threshold, largest component) to the nearest point "
        "of the data set's depth (_to_truth), the reverse (_from_truth), and their mean, over objects that have both; "
        "lower is better.",
        means={"chamfer": ("_to_truth", "_from_truth", "_mean")}, resources=("depth_images",), max_samples=FEW_SAMPLES,
    ),
}  # fmt: skip

# --------------------------------------------------------------------------- names

# fid, fid5k, fid50k_full, fid123; pr50k3: the 3 after k is the number of neighbors.
NAME = re.compile(r"(?P<key>[a-z]+)(?:(?P<number>[0-9]+)(?P<kilo>k?)(?P<neighbors>(?<=k)3)?(?P<full>_full)?)?")


@dataclass(frozen=True)
class Metric:
    """A metric with the numbers of samples that its name states.

    Args:
        name: as the user wrote it; figures and files are named after it.
        key: its row of METRICS.
        num_generated: samples to generate; None if the name does not say.
        max_real: most real images to compare with; None for all.
    """

    name: str
    key: str
    num_generated: int | None = None
    max_real: int | None = None

    @property
    def spec(self) -> MetricSpec:
        """Its row of METRICS."""
        return METRICS[self.key]

    def num_samples(self, requested: int | None, available: int) -> int:
        """Return how many samples to generate.

        Args:
            requested: number that the user set for metrics whose names have none; None for the metric's default.
            available: number of label maps, which limits the default only.
        """
        return self.num_generated or requested or min(available, self.spec.max_samples)

    def columns(self, accumulator: Accumulator) -> dict[str, Tensor]:
        """Return the samples' values (N float64, NaN if missing) behind each figure that is a mean."""
        # The row of an object may be NaN, and a whole entry is missing if its network or depth was not available.
        columns = {}
        for rows, suffixes in self.spec.means.items():
            if rows in accumulator:
                values = accumulator.rows(rows).double().unbind(1)
                columns.update({self.name + suffix: x for suffix, x in zip(suffixes, values, strict=True)})
        return columns

    def figures(self, inputs: MetricInputs) -> Figures:
        """Compute all figures, by name."""
        # Figures of all samples together, such as FID, then means over samples.
        computed = self.spec.compute(inputs) if self.spec.compute else {}
        figures = {self.name + suffix: value for suffix, value in computed.items()}
        means = {name: float(column.nanmean()) for name, column in self.columns(inputs.accumulator).items()}
        return {**figures, **means}


def parse_metrics(names: Sequence[str]) -> list[Metric]:
    """Parse names of metrics; repeated names count once.

    fid50k_full compares 50,000 generated images with all real ones, fid50k with 50,000. Any number is allowed, with k
    for thousands. pr may have a 3 after its k, for its 3 nearest neighbors.

    Raises:
        ConfigError: unknown name, too many samples, or no name at all.
    """
    if not names:
        raise ConfigError("metrics", "", f"one or more of {EXAMPLES}")
    return [_parse(name) for name in dict.fromkeys(names)]


def _parse(name: str) -> Metric:
    # Name without a number.
    unknown = ConfigError("metrics", name, f"one or more of {EXAMPLES}", problem="no such metric")
    match = NAME.fullmatch(name)
    if not match or match["key"] not in METRICS:
        raise unknown
    key = match["key"]
    if match["number"] is None:
        return Metric(name, key)

    # Number of generated images; of real ones as many, or up to all of them.
    count = int(match["number"]) * (1000 if match["kilo"] else 1)
    if not METRICS[key].numbered or count == 0 or (match["neighbors"] and key != "pr"):
        raise unknown
    if count > MAX_SAMPLES:
        raise ConfigError("metrics", name, f"at most {MAX_SAMPLES} samples")
    return Metric(name, key, count, METRICS[key].max_real if match["full"] else count)
