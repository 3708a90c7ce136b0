"""Distances between two sets of pictures, from their features: arithmetic alone, in float64."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

KERNEL_SUBSETS, KERNEL_SUBSET_SIZE = 100, 1000  # as the public family of metrics has them
NEIGHBORS = 3
SPLITS = 10
DISTANCE_ROWS = 1024  # of a distance matrix at once: bounds the memory
EQUAL = 1e-13  # of the squared norms: a squared distance below it is rounding


class Statistics(NamedTuple):
    """Mean F and population covariance F,F of features."""

    mean: Tensor
    covariance: Tensor


def in_float64(x: Tensor) -> Tensor:
    """On the CPU where the device has no such numbers."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def statistics(features: Tensor) -> Statistics:
    """Of N,F features; ValueError if there is not one."""
    _check(features)
    features = in_float64(features)
    mean = features.mean(0)
    centered = features - mean
    return Statistics(mean, centered.mT @ centered / len(features))


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """Squared 2-Wasserstein distance of two normal distributions: FID on Inception features (Heusel et al. 2017).

    tr (A B)^(1/2) is the sum of the roots of the eigenvalues of A^(1/2) B A^(1/2): two symmetric decompositions, which
    stay real where fewer samples than features make A and B singular.
    """
    values, vectors = torch.linalg.eigh(a.covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.mT
    inner = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp(min=0)
    traces = a.covariance.trace() + b.covariance.trace() - 2 * inner.sqrt().sum()
    return float((a.mean - b.mean).square().sum() + traces)


def kernel_distance(
    real: Tensor,
    fake: Tensor,
    subsets: int = KERNEL_SUBSETS,
    subset_size: int = KERNEL_SUBSET_SIZE,
    seed: int = 0,
) -> float:
    """Unbiased squared MMD under the kernel (x.y/F + 1)^3, a mean over random subsets: KID (Binkowski et al. 2018).

    Args:
        real: N,F. fake: K,F. Subsets have at most `subset_size` of each, as many of one as of the other.
    Raises:
        ValueError: fewer than two samples, or features that do not go together.
    """
    _check(real, fake)
    size = min(len(real), len(fake), subset_size)
    if size < 2:
        raise ValueError(f"kernel distance: expected 2 samples or more of each kind, got {len(real)} and {len(fake)}")
    rng = np.random.RandomState(seed)
    total = 0.0
    for _ in range(subsets):
        y = in_float64(fake[rng.choice(len(fake), size, replace=False)])
        x = in_float64(real[rng.choice(len(real), size, replace=False)])
        total += _mmd(x, y)
    return total / subsets


def _mmd(x: Tensor, y: Tensor) -> float:
    """Unbiased estimate from as many samples of one kind as of the other."""
    count, width = x.shape
    within = (x @ x.mT / width + 1) ** 3 + (y @ y.mT / width + 1) ** 3
    across = (x @ y.mT / width + 1) ** 3
    return float((within.sum() - within.trace()) / (count * (count - 1)) - 2 * across.mean())


def precision_recall(real: Tensor, fake: Tensor, neighbors: int = NEIGHBORS) -> tuple[float, float]:
    """Share of fakes within the real manifold, and of reals within the fake one (Kynkaanniemi et al. 2019).

    A manifold is the union of balls about the samples that reach to their `neighbors`-th nearest neighbor.

    Raises:
        ValueError: a set with no more than `neighbors` samples, or features that do not go together.
    """
    _check(real, fake)
    if min(len(real), len(fake)) <= neighbors:
        raise ValueError(f"precision: expected more than {neighbors} samples, got {len(real)} and {len(fake)}")
    real, fake = in_float64(real), in_float64(fake)
    middle = real.mean(0)  # products of numbers around 0 lose less
    real, fake = real - middle, fake - middle
    return _covered(real, fake, neighbors), _covered(fake, real, neighbors)


def _covered(manifold: Tensor, points: Tensor, neighbors: int) -> float:
    own = (squared_distances(rows, manifold) for rows in manifold.split(DISTANCE_ROWS))  # one after the other
    radius = torch.cat([rows.kthvalue(neighbors + 1, dim=1).values for rows in own])  # + 1: each is its own nearest
    inside = [(squared_distances(rows, manifold) <= radius).any(1) for rows in points.split(DISTANCE_ROWS)]
    return float(torch.cat(inside).double().mean())


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """N,M of N,F and M,F float64, by one matrix product; 0 where rounding would leave almost 0."""
    norms = a.square().sum(1)[:, None] + b.square().sum(1)
    squares = norms - 2 * (a @ b.mT)
    return squares.masked_fill_(squares < EQUAL * norms, 0)


def inception_score(probabilities: Tensor, splits: int = SPLITS) -> tuple[float, float]:
    """Mean and population standard deviation over splits of exp E KL(p(y|x) || p(y)) (Salimans et al. 2016).

    Args:
        probabilities: N,C rows that sum to 1, N at least `splits`.
    """
    _check(probabilities)
    if len(probabilities) < splits:
        raise ValueError(f"inception score: expected {splits} samples or more, got {len(probabilities)}")
    scores, ends = [], [i * len(probabilities) // splits for i in range(splits + 1)]
    for start, end in pairwise(ends):
        part = in_float64(probabilities[start:end])
        divergence = torch.special.xlogy(part, part) - torch.special.xlogy(part, part.mean(0))
        scores.append(divergence.sum(1).mean().exp())
    stacked = torch.stack(scores)
    return float(stacked.mean()), float(stacked.std(correction=0))


def _check(*features: Tensor) -> None:
    shapes = [tuple(x.shape) for x in features]
    if any(len(shape) != 2 or not shape[0] for shape in shapes) or len({shape[1] for shape in shapes}) > 1:
        raise ValueError(f"features: expected N,F with one F, got {' and '.join(map(str, shapes))}")
