"""Every choice behind a metric's figures, in words."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from metrics.alignment import EDGE_TOLERANCE, LEVELS, LINE_BELOW, edge_tolerance
from metrics.distribution import KERNEL_SUBSET_SIZE, KERNEL_SUBSETS, NEIGHBORS, SPLITS
from metrics.diversity import SEEDS
from metrics.evaluation import GUESS_POINTS, SEED_STEP, Evaluation, Result
from metrics.extractors import Extractor
from metrics.generated import MESH_GRID, POINTS
from metrics.names import Pass
from metrics.similarity import BEST_PSNR, SIGMA, WINDOW
from metrics.summaries import COMPARED
from metrics.views import DEPTH_AGREEMENT, OPAQUE, TURNS_RAD
from torch_utils.precision import Precision
from training.networks.generator import TriPlane

LESS, MORE = "lower is better", "higher is better"
MEANINGS = {  # a figure's name, less the metric's number -> what it is, and which way is better
    "fid": f"Frechet distance of the features, {LESS}; of few pictures it is larger than of many",
    "kid": f"squared kernel distance of the features, {LESS}; may be just below 0",
    "pr_precision": f"share of pictures that could be real ones, {MORE}",
    "pr_recall": f"share of real pictures that could be made, {MORE}",
    "is_mean": f"Inception score, {MORE}",
    "is_std": "its standard deviation over the parts",
    "miou": f"mean over the classes in either map of intersection over union, all samples' pixels together, {MORE}",
    "miou_segmented": f"the same, of the segmentation network's labels on the rendered picture, {MORE}",
    "acc": f"share of pixels with the class asked for, {MORE}",
    "acc_segmented": f"the same, of the segmentation network's labels on the rendered picture, {MORE}",
    "ap": f"average precision, {MORE}",
    "sg": f"mean distance between pictures of one label map, {MORE}, if they are good",
    "fvv_color": f"color difference of reprojected pixels, share of the range, {LESS}",
    "fvv_label": f"share of reprojected pixels with another class (edges: mean difference), {LESS}",
    "fvv_color_unmoved": "color difference of the same pixels without reprojection, to be well above fvv_color",
    "fvv_label_unmoved": "difference of labels of the same pixels without reprojection, to be well above fvv_label",
    "fvv_compared": "share of pixels that two views both see, by their depths",
    "fvv_embedding": f"Euclidean distance of embeddings to the input view's, {LESS}",
    "fvv_embedding_cosine": f"cosine distance of embeddings to the input view's, {LESS}",
    "nvs_miou": f"as miou, of the other views, {MORE}",
    "nvs_ap": f"as ap, of the other views, {MORE}",
    "nvs_psnr": f"dB, {MORE}; colors are free where only labels are given",
    "nvs_ssim": f"{MORE}; see psnr",
    "nvs_depth": f"mean error where the data has an object, world units, {LESS}",
    "chamfer_to_truth": f"mean distance from the mesh, as far as the views see it, to the nearest true point, {LESS}",
    "chamfer_from_truth": f"mean distance from true points to the nearest of the mesh, world units, {LESS}",
    "chamfer_mean": f"of both, {LESS}",
}


def of_network(G: TriPlane, device: torch.device) -> dict[str, str]:
    """How a network draws."""
    blocks = (module.precision for module in G.modules() if isinstance(getattr(module, "precision", None), Precision))
    types = sorted({str(block.dtype(device)).removeprefix("torch.") for block in blocks})
    return {
        "rendered at": f"{G.neural_rendering_resolution} pixels, enlarged to {G.img_resolution}",
        "precision": f"{' and '.join(types)}, metrics in float64",
        "device": str(device),
        "torch": torch.__version__,
    }


def protocol(evaluation: Evaluation, result: Result, made: Mapping[str, str]) -> dict[str, str]:
    """Every choice behind one metric's figures, by name.

    Args:
        made: what the caller knows and this does not (network, files).
    """
    dataset, metric = evaluation.dataset, result.metric
    size, few = dataset.resolution, result.counted
    found = {
        "metric": f"{metric.name}, {metric.kind.what}",
        **{name: MEANINGS[metric.key + name.removeprefix(metric.name)] for name in result.values},
        "samples": f"{result.samples}" + "".join(f"; {n} of them have {name}" for name, n in few.items()),
        **made,
        "data set": f"{dataset.name}, {len(dataset)} pictures of {size} pixels, {dataset.data_type}",
        "batch": f"{evaluation.choices.batch}",
        **_draws(evaluation, metric.kind.seen),
        "pictures": "clipped to [-1, 1]; for networks 0 to 255, rounded, at full size",
    }
    return {**found, **_choices_of(evaluation, result)}


def _draws(evaluation: Evaluation, seen: Pass) -> dict[str, str]:
    seed = evaluation.choices.seed
    what = "objects" if seen is Pass.TRUTH else "data set"
    place = f"({seed} * {SEED_STEP} + i) mod 2^32"
    number = f"{SEEDS} i to {SEEDS} i + {SEEDS - 1} in the place of i" if seen is Pass.SEEDS else "one"
    return {
        "seed": f"{seed}",
        "order": f"numpy RandomState({seed}).permutation of the {what}, gone through as often as it takes",
        "z": f"of sample i: numpy RandomState({place}).randn, {number}; no truncation, const noise, no jitter",
        "pose": "each sample's own, to condition on and to look from, unless said otherwise",
    }


def _network(network: Extractor) -> str:
    return f"{network.name}, sha256 {network.digest}"


def _choices_of(evaluation: Evaluation, result: Result) -> dict[str, str]:
    """Those that only this metric has."""
    metric, tools, found = result.metric, evaluation.tools, {}
    edge = evaluation.dataset.data_type == "edge"
    if metric.key in COMPARED | {"is"}:
        found["extractor"] = _network(tools.extractor)
    if metric.key in COMPARED:
        count = evaluation.reals(metric)
        every = count == len(evaluation.dataset)
        found["real pictures"] = f"{count}, " + ("all" if every else "the first in that order")
    if metric.key in ("miou", "acc") and tools.segmenter:
        found["segmenter"] = _network(tools.segmenter)
    if metric.key == "ap" or (metric.key == "nvs" and edge):
        found["edges"] = _edges(evaluation.dataset.resolution)
    if metric.kind.seen is Pass.TRUTH:
        found["depth of the data"] = str(tools.depths.archive.path) if tools.depths else "none"
    if metric.key == "sg":
        found["distance"] = f"{tools.distance.name}; over all pairs of {SEEDS} pictures"
        if tools.extractor:
            found["extractor"] = _network(tools.extractor)
    if metric.key == "fvv":
        found["views"] = _turned_views()
        found["embedding"] = _network(tools.embedding) if tools.embedding else "none"
    return {**found, **({metric.key: ARITHMETIC[metric.key]} if metric.key in ARITHMETIC else {})}


ARITHMETIC = {
    "fid": "covariances divided by N",
    "kid": f"kernel (x.y / F + 1)^3, {KERNEL_SUBSETS} subsets of {KERNEL_SUBSET_SIZE} or all if fewer, RandomState(0)",
    "pr": f"balls to the {NEIGHBORS}rd nearest neighbor",
    "is": f"{SPLITS} parts, part i from i N // {SPLITS} on",
    "nvs": (
        "the first view of an object is the input, its others are compared at their poses; SSIM with a Gaussian of "
        f"{SIGMA} in {WINDOW} pixels, PSNR {BEST_PSNR:g} at most; rendered depth enlarged bilinearly"
    ),
    "chamfer": (
        f"world units; a mesh on a grid of {MESH_GRID}, density threshold auto, less what no view sees by its rendered "
        f"depth and {DEPTH_AGREEMENT:.0%}; the true depth of all views; from {POINTS} points of either to all of the "
        "other, so that a true surface is off by a pixel or a cell of the grid; objects without a surface, or "
        f"whose data has no depth, are left out; the constant guess has {GUESS_POINTS} points of all objects"
    ),
}


def _edges(resolution: int) -> str:
    return (
        f"lines are where the network form is below {LINE_BELOW}; {LEVELS} thresholds; a pixel found is right if one "
        f"of a line is within {EDGE_TOLERANCE} of the diagonal, here {edge_tolerance(resolution)} pixels. Not the "
        "Berkeley benchmark: lines found are not thinned, and several of their pixels may go with one true pixel"
    )


def _turned_views() -> str:
    degrees = ", ".join(f"{yaw:+g}" for yaw in TURNS_RAD)
    return (
        f"the sample's own and turned by {degrees} rad about the vertical axis through the pivot; compared with the "
        f"own one where depths agree within {DEPTH_AGREEMENT:.0%} and both cover more than {OPAQUE:.0%} of their "
        "rays; depths enlarged bilinearly"
    )
