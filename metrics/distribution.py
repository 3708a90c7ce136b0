"""Distances between two sets of images, computed from their features in float64: FID, KID, precision, recall, IS."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# Settings of the StyleGAN family of metrics, by which published figures are computed: random subsets of KID, nearest
# neighbor that balls of precision and recall reach to, splits of the Inception score.
KERNEL_SUBSETS = 100
KERNEL_SUBSET_SIZE = 1000
NEIGHBORS = 3
SPLITS = 10

# Rows of a distance matrix computed at once: 50,000 x 50,000 distances would take 20 GB.
DISTANCE_ROWS = 1024
# Squared distances below this share of the squared norms are rounding errors. Without it, samples that are equal
# would not be within balls of radius 0.
ROUNDING = 1e-13

# --------------------------------------------------------------------------- FID


class Statistics(NamedTuple):
    """Mean F and population covariance F,F of features."""

    mean: Tensor
    covariance: Tensor


def to_float64(x: Tensor) -> Tensor:
    """Convert to float64 in the same shape; moves to the CPU from devices without float64 (mps)."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def statistics(features: Tensor) -> Statistics:
    """Compute mean and covariance of N,F features, N at least 1."""
    # In two passes, which lose fewer digits than E[x x^T] - mean mean^T. Divided by N, as in the StyleGAN family.
    _check_features(features)
    features = to_float64(features)
    mean = features.mean(0)
    centered = features - mean
    return Statistics(mean, centered.mT @ centered / len(features))


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """Compute the squared 2-Wasserstein distance of two normal distributions: FID (Heusel et al. 2017)."""
    # tr (A B)^(1/2) is the sum of the square roots of the eigenvalues of A^(1/2) B A^(1/2). Two symmetric
    # decompositions stay real even if A and B are singular because there are fewer samples than features.
    eigenvalues, eigenvectors = torch.linalg.eigh(a.covariance)
    root = eigenvectors * eigenvalues.clamp(min=0).sqrt() @ eigenvectors.mT
    product = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp(min=0)

    # Distance of the means, and tr(A) + tr(B) - 2 tr (A B)^(1/2).
    traces = a.covariance.trace() + b.covariance.trace() - 2 * product.sqrt().sum()
    return float((a.mean - b.mean).square().sum() + traces)


# --------------------------------------------------------------------------- KID


def kernel_distance(
    real: Tensor, fake: Tensor, subsets: int = KERNEL_SUBSETS, subset_size: int = KERNEL_SUBSET_SIZE, seed: int = 0
) -> float:
    """Compute the unbiased squared MMD under the kernel (x.y/F + 1)^3: KID (Binkowski et al. 2018).

    Args:
        real: N,F features.
        fake: K,F features.
        subsets: number of random subsets to average over.
        subset_size: samples of either set in a subset; fewer if a set is smaller.
        seed: seed of the subsets.
    Raises:
        ValueError: fewer than two samples, or features of different widths.
    """
    _check_features(real, fake)
    size = min(len(real), len(fake), subset_size)
    if size < 2:
        raise ValueError(f"kernel distance: expected at least 2 samples of each set, got {len(real)} and {len(fake)}")

    # The fakes are drawn before the reals, as in the published implementation, so that subsets are the same.
    rng = np.random.RandomState(seed)
    total = 0.0
    for _ in range(subsets):
        y = to_float64(fake[rng.choice(len(fake), size, replace=False)])
        x = to_float64(real[rng.choice(len(real), size, replace=False)])
        total += _squared_mmd(x, y)
    return total / subsets


def _squared_mmd(x: Tensor, y: Tensor) -> float:
    """Estimate the squared MMD without bias from x and y, both N,F."""
    # The diagonal holds the kernel of each sample with itself, which would bias the means of x and y.
    count, width = x.shape
    within = (x @ x.mT / width + 1) ** 3 + (y @ y.mT / width + 1) ** 3  # N,N
    across = (x @ y.mT / width + 1) ** 3
    return float((within.sum() - within.trace()) / (count * (count - 1)) - 2 * across.mean())


# --------------------------------------------------------------------------- precision and recall


def precision_recall(real: Tensor, fake: Tensor, neighbors: int = NEIGHBORS) -> tuple[float, float]:
    """Compute the share of fakes in the real manifold and of reals in the fake one (Kynkaanniemi et al. 2019).

    A manifold is the union of balls around samples that reach to their `neighbors`-th nearest neighbor.

    Args:
        real: N,F features.
        fake: K,F features.
        neighbors: must be smaller than N and K.
    Raises:
        ValueError: too few samples, or features of different widths.
    """
    _check_features(real, fake)
    if min(len(real), len(fake)) <= neighbors:
        raise ValueError(f"precision: expected more than {neighbors} samples, got {len(real)} and {len(fake)}")

    # Products of centered features lose fewer digits.
    real, fake = to_float64(real), to_float64(fake)
    center = real.mean(0)
    real, fake = real - center, fake - center
    return _coverage(real, fake, neighbors), _coverage(fake, real, neighbors)


def _coverage(manifold: Tensor, points: Tensor, neighbors: int) -> float:
    """Return the share of points K,F inside the manifold of N,F samples, a block of rows of the distances at a time."""
    # Squared radius of every ball, from all distances within the manifold. neighbors + 1 because each
    # sample is its own nearest neighbor.
    blocks = (squared_distances(rows, manifold) for rows in manifold.split(DISTANCE_ROWS))
    radius = torch.cat([block.kthvalue(neighbors + 1, dim=1).values for block in blocks])  # N

    # A point is covered by any ball that it lies in.
    inside = [(squared_distances(rows, manifold) <= radius).any(1) for rows in points.split(DISTANCE_ROWS)]
    return float(torch.cat(inside).double().mean())


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Compute N,K squared distances of N,F and K,F float64 by one matrix product; rounding errors become 0."""
    # |a - b|^2 = |a|^2 + |b|^2 - 2 a.b; one matrix product is much faster than differences.
    norms = a.square().sum(1)[:, None] + b.square().sum(1)
    squares = norms - 2 * (a @ b.mT)
    return squares.masked_fill_(squares < ROUNDING * norms, 0)


# --------------------------------------------------------------------------- Inception score


def inception_score(probabilities: Tensor, splits: int = SPLITS) -> tuple[float, float]:
    """Compute mean and population standard deviation over splits of exp E KL(p(y|x) || p(y)) (Salimans et al. 2016).

    Args:
        probabilities: N,C rows that sum to 1.
        splits: at most N.
    """
    _check_features(probabilities)
    if len(probabilities) < splits:
        raise ValueError(f"inception score: expected at least {splits} samples, got {len(probabilities)}")

    # Score of each split; boundaries as in the published implementation, for numbers that 10 does not divide.
    scores = []
    bounds = [i * len(probabilities) // splits for i in range(splits + 1)]
    for start, end in pairwise(bounds):
        split = to_float64(probabilities[start:end])
        divergence = torch.special.xlogy(split, split) - torch.special.xlogy(split, split.mean(0))
        scores.append(divergence.sum(1).mean().exp())

    # Population standard deviation.
    stacked = torch.stack(scores)
    return float(stacked.mean()), float(stacked.std(correction=0))


def _check_features(*features: Tensor) -> None:
    """Raise ValueError unless all features are N,F with N at least 1 and the same F."""
    # Checked before any arithmetic, since broadcasting could hide a wrong shape.
    shapes = [tuple(x.shape) for x in features]
    valid = all(len(shape) == 2 and shape[0] > 0 for shape in shapes)
    if not valid or len({shape[1] for shape in shapes}) > 1:
        raise ValueError(f"features: expected N,F with the same F, got {' and '.join(map(str, shapes))}")
