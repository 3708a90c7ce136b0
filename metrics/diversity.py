"""How much pictures of one label map differ from seed to seed: SG diversity (Deng et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import torch
from torch import Tensor

from metrics.extractors import Extractor
from training.label_maps import to_uint8
from training.perceptual import load_lpips

DISTANCES = ("lpips", "l1", "features")
SEEDS = 5  # pictures of each label map

Distance = Callable[[Tensor, Tensor], Tensor]  # two N,3,R,R in [-1, 1] to N


def load_distance(name: str, weights: str | Path | None, extractor: Extractor | None, device: torch.device) -> Distance:
    """A distance of pictures by its name.

    Args:
        weights: of LPIPS, None to have them fetched. extractor: of the distance "features".
    Raises:
        ValueError: LPIPS cannot be had.
    """
    if name == "l1":
        return lambda a, b: (a - b).abs().mean((1, 2, 3)) / 2
    if name == "features":
        return lambda a, b: (extractor.features(to_uint8(a)) - extractor.features(to_uint8(b))).norm(dim=1)
    lpips = load_lpips(weights, device)
    return lambda a, b: lpips(a, b).flatten()


def mean_distance(pictures: Tensor, distance: Distance) -> Tensor:
    """Over all pairs of K pictures K,3,R,R: 1,1."""
    first, second = zip(*combinations(range(len(pictures)), 2), strict=True)
    return distance(pictures[list(first)], pictures[list(second)]).double().mean().view(1, 1)
