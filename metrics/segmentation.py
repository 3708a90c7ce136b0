"""Agreement of rendered label maps and edges with the input ones, from counts that add up over images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Stored edges are slightly blurred: a line one pixel wide keeps a third of its darkness, which is 1/3 in network form.
# Values below this are lines.
LINE_BELOW = 0.5
# Largest distance of matching lines, as a share of the image diagonal: that of the Berkeley benchmark (Martin et al.
# 2004).
EDGE_TOLERANCE = 0.0075
# Steps of line strength, those of a stored image.
LEVELS = 256


def label_counts(semantic: Tensor, label_map: Tensor) -> Tensor:
    """Count agreement of rendered and input label maps.

    Args:
        semantic: N,S,R,R rendered logits; S = 1 for edges.
        label_map: N,1,R,R in network form.
    Returns:
        S,S int64 for `mean_iou` and `pixel_accuracy`, or 3,LEVELS int64 for `average_precision` if S = 1.
    """
    # A single label channel holds edges; there is no data with one class.
    if semantic.shape[1] == 1:
        return edge_histograms(label_map.to(semantic), semantic, edge_tolerance(label_map.shape[-1]))
    return confusion_matrix(label_map, semantic.argmax(1, keepdim=True), semantic.shape[1])


# --------------------------------------------------------------------------- classes


def confusion_matrix(target: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Count pixels of every pair of classes: S,S int64, rows target, columns predicted.

    Args:
        target: class ids of any shape, 0 to classes - 1.
        predicted: class ids of the same shape.
        classes: S.
    """
    # A pair of classes as one number, so that one bincount counts all pairs.
    pairs = target.flatten().long() * classes + predicted.flatten().long()
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes)


def mean_iou(counts: Tensor) -> float:
    """Average intersection over union of a confusion matrix S,S, over the classes that appear in either map."""
    # Classes that appear in neither map have no union and do not count.
    counts = counts.double()
    union = counts.sum(0) + counts.sum(1) - counts.diag()  # S
    present = union > 0
    return float((counts.diag()[present] / union[present]).mean())


def pixel_accuracy(counts: Tensor) -> float:
    """Return the share of pixels on the diagonal of a confusion matrix S,S."""
    return float(counts.diag().sum() / counts.sum())


# --------------------------------------------------------------------------- edges


def edge_tolerance(resolution: int) -> int:
    """Return how many pixels a line may be off, at least 1."""
    return max(1, round(EDGE_TOLERANCE * resolution * 2**0.5))


def edge_histograms(target: Tensor, predicted: Tensor, tolerance: int) -> Tensor:
    """Count pixels by line strength, as input of `average_precision`.

    Args:
        target: N,1,H,W in network form, +1 background to -1 line.
        predicted: N,1,H,W likewise.
        tolerance: pixels that a line may be off.
    Returns:
        3,LEVELS int64: predicted pixels by strength; those of them near a target line; pixels of target lines by the
        largest strength predicted near them.
    """
    # Strength of predicted lines, as one of LEVELS steps; target lines are binary.
    lines = (target < LINE_BELOW).to(predicted.dtype)
    strength = (1 - predicted.clamp(-1, 1)) / 2  # N,1,H,W in [0, 1]
    level = (strength * (LEVELS - 1)).round().long()

    # Correct predictions are near a target line; found targets have a prediction near them.
    near_lines = _dilate(lines, tolerance) > 0
    level_nearby = (_dilate(strength, tolerance) * (LEVELS - 1)).round().long()

    # A histogram holds the counts for all thresholds at once.
    selected = (level, level[near_lines], level_nearby[lines > 0])
    return torch.stack([torch.bincount(x.flatten(), minlength=LEVELS) for x in selected])


def average_precision(histograms: Tensor) -> float:
    """Integrate precision over recall, over all thresholds of line strength.

    Precision is the share of predicted pixels within the tolerance of a target line, recall the share of target pixels
    with a predicted one within the tolerance. Level 0 (no line at all) is not a threshold.

    Args:
        histograms: 3,LEVELS of `edge_histograms`.
    """
    # Cumulative counts from the strongest level to level 1.
    predicted, correct, recalled = histograms.double().flip(1)[:, :-1].cumsum(1)

    # A threshold without any prediction adds no recall, so its precision does not matter.
    precision = correct / predicted.clamp(min=1)
    recall = recalled / histograms[2].sum().clamp(min=1)

    # Area under the curve as a sum of rectangles.
    steps = torch.diff(recall, prepend=recall.new_zeros(1))
    return float((steps * precision).sum())


def _dilate(image: Tensor, radius: int) -> Tensor:
    """Take the maximum over a disc around each pixel of N,1,H,W, with 0 outside the image."""
    # Offsets of the pixels of the disc.
    side = 2 * radius + 1
    offset = torch.arange(side, device=image.device) - radius
    disc = offset[:, None] ** 2 + offset**2 <= radius**2

    # Maximum over shifted copies. Padding with 0 is neutral, since line strengths are not negative.
    padded = F.pad(image, (radius,) * 4)
    height, width = image.shape[2:]
    shifted = [padded[..., y : y + height, x : x + width] for y, x in disc.nonzero().tolist()]
    return torch.stack(shifted).amax(0)
