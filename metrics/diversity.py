"""How much pictures of one label map differ from seed to seed: SG diversity (Deng et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import torch
from torch import Tensor

from metrics.distribution import in_float64
from metrics.extractors import Extractor, digest_of, to_pictures
from training.perceptual import load_lpips

DISTANCES = ("lpips", "l1", "features")
SEEDS = 5  # pictures of each label map


@dataclass(frozen=True)
class Distance:
    """Of pictures.

    Args:
        name: for people, with the digest of its weights.
        between: two N,3,R,R in [-1, 1] to N.
    """

    name: str
    between: Callable[[Tensor, Tensor], Tensor]


def load_distance(name: str, weights: str | Path | None, extractor: Extractor | None, device: torch.device) -> Distance:
    """A distance of pictures by its name.

    Args:
        weights: of LPIPS, None to have them fetched. extractor: of the distance "features".
    Raises:
        ValueError: LPIPS cannot be had.
    """
    if name == "l1":
        return Distance("L1, share of the range", lambda a, b: (a - b).abs().mean((1, 2, 3)) / 2)
    if name == "features":

        def between(a: Tensor, b: Tensor) -> Tensor:
            return (extractor.features(to_pictures(a)) - extractor.features(to_pictures(b))).norm(dim=1)

        return Distance("Euclidean, of the extractor's features", between)
    try:
        lpips = load_lpips(weights, device)
    except ValueError as error:
        reason = f"{weights or 'package and weights'}: {error.__cause__}"
        raise ValueError(f"lpips: cannot be had ({reason}); give --lpips_weights FILE, or --distance l1") from error
    return Distance(f"LPIPS 0.1 on VGG16, sha256 {digest_of(lpips)}", lambda a, b: lpips(a, b).flatten())


def mean_distance(pictures: Tensor, distance: Distance, batch: int) -> Tensor:
    """Over all pairs of K pictures K,3,R,R, `batch` pairs at once: 1,1."""
    pairs = torch.tensor(list(combinations(range(len(pictures)), 2)), device=pictures.device)
    found = [distance.between(pictures[part[:, 0]], pictures[part[:, 1]]) for part in pairs.split(batch)]
    return in_float64(torch.cat(found)).mean().view(1, 1)
