"""How well label maps and edges of pictures agree with those that were asked for."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# A line one pixel wide keeps a third of its darkness in the blur of the stored form, whose network form is then 1/3:
# whatever is below this counts as line.
LINE_BELOW = 0.5
EDGE_TOLERANCE = 0.0075  # of the picture's diagonal, as in the Berkeley benchmark (Martin et al. 2004)
LEVELS = 256  # of line strength

# --------------------------------------------------------------------------- classes


def confusion(expected: Tensor, found: Tensor, classes: int) -> Tensor:
    """Pixels of every pair of classes: S,S int64, rows expected, columns found.

    Args:
        expected, found: class ids of the same shape, 0 to classes - 1.
    """
    pairs = expected.flatten().long() * classes + found.flatten().long()
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes)


def mean_iou(counts: Tensor) -> float:
    """Mean intersection over union of a confusion S,S, over the classes that are in either of the two maps."""
    counts = counts.double()
    union = counts.sum(0) + counts.sum(1) - counts.diag()
    there = union > 0
    return float((counts.diag()[there] / union[there]).mean())


def pixel_accuracy(counts: Tensor) -> float:
    """Share of pixels with the expected class, of a confusion S,S."""
    return float(counts.diag().sum() / counts.sum())


# --------------------------------------------------------------------------- edges


def edge_tolerance(resolution: int) -> int:
    """Pixels by which a line may be off, at least 1."""
    return max(1, round(EDGE_TOLERANCE * resolution * 2**0.5))


def edge_histograms(expected: Tensor, found: Tensor, tolerance: int) -> Tensor:
    """What `average_precision` needs, as counts that add up over pictures.

    Args:
        expected, found: N,1,H,W in network form, +1 background to -1 line.
        tolerance: pixels by which a line may be off.
    Returns:
        3,LEVELS int64 over line strength: all pixels found; those of them near an expected line; pixels of expected
        lines, by the strongest line found near them.
    """
    lines = (expected < LINE_BELOW).to(found.dtype)
    strength = (1 - found.clamp(-1, 1)) / 2
    level = (strength * (LEVELS - 1)).round().long()
    near_lines = _dilated(lines, tolerance) > 0
    level_nearby = (_dilated(strength, tolerance) * (LEVELS - 1)).round().long()
    chosen = (level, level[near_lines], level_nearby[lines > 0])
    return torch.stack([torch.bincount(x.flatten(), minlength=LEVELS) for x in chosen])


def average_precision(histograms: Tensor) -> float:
    """Area under precision over recall, over all thresholds of line strength (3,LEVELS of `edge_histograms`).

    Precision: share of the pixels found that lie within the tolerance of an expected line. Recall: share of the
    expected lines' pixels that have a found one within it. The weakest level, no line at all, is no threshold.
    """
    found, right, reached = histograms.double().flip(1)[:, :-1].cumsum(1)  # from the strongest on
    precision = right / found.clamp(min=1)
    recall = reached / histograms[2].sum().clamp(min=1)
    steps = torch.diff(recall, prepend=recall.new_zeros(1))
    return float((steps * precision).sum())


def _dilated(picture: Tensor, radius: int) -> Tensor:
    """The largest value within a disc, N,1,H,W; outside the picture there is nothing."""
    side = 2 * radius + 1
    offset = torch.arange(side, device=picture.device) - radius
    disc = offset[:, None] ** 2 + offset**2 <= radius**2
    padded = F.pad(picture, (radius,) * 4)
    height, width = picture.shape[2:]
    shifted = [padded[..., y : y + height, x : x + width] for y, x in disc.nonzero().tolist()]
    return torch.stack(shifted).amax(0)
