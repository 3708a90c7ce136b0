"""From samples along rays to pixels (Mildenhall et al. 2020; midpoints as in Barron et al. 2021)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TRANSMITTANCE_EPS = 1e-10  # keeps the product, and its gradient, from becoming exactly 0
Limits = tuple[Tensor, Tensor]


def _interval_weights(sigma: Tensor, depths: Tensor) -> Tensor:
    """Weights (...,T-1) of the intervals between samples; sigma and depths are ...,T in ascending order."""
    density = F.softplus((sigma[..., :-1] + sigma[..., 1:]) / 2 - 1)
    alpha = 1 - torch.exp(-density * depths.diff(dim=-1))
    passed = torch.cumprod(1 - alpha + TRANSMITTANCE_EPS, dim=-1)
    transmittance = F.pad(passed[..., :-1], (1, 0), value=1.0)
    return alpha * transmittance


def interval_weights(sigma: Tensor, depths: Tensor) -> Tensor:
    """Share (N,M,T-1,1) of a pixel that each interval between samples gives.

    Args:
        sigma: N,M,T,1 raw density before softplus(x - 1).
        depths: N,M,T,1 ascending.
    """
    return _interval_weights(sigma[..., 0], depths[..., 0])[..., None]


def depth_limits(depths: Tensor) -> Limits:
    """Smallest and largest of all depths of a call."""
    return depths.detach().amin(), depths.detach().amax()


def expected_depth(weighted: Tensor, weight_sum: Tensor, limits: Limits) -> Tensor:
    """Mean depth of rays, in the call's range; empty rays get the largest, with a gradient of zero.

    Args:
        weighted: sum of weight times depth on each ray; weight_sum: sum of weights. Any equal shapes.
        limits: smallest and largest depth of the whole call, of which these rays may be a part.
    """
    empty = weight_sum == 0
    mean = weighted / weight_sum.masked_fill(empty, 1)
    return mean.masked_fill(empty, torch.inf).clamp(*limits)


def finish(features: Tensor, weight_sum: Tensor, white_back: bool) -> Tensor:
    """Put white behind composited features (N,M,F) if asked, and map [0, 1] to [-1, 1]."""
    if white_back:
        features = features + (1 - weight_sum)
    return features * 2 - 1


def composite(
    features: Tensor, sigma: Tensor, depths: Tensor, white_back: bool = False, limits: Limits | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Blend samples front to back on interval midpoints: the plain form.

    Args:
        features: N,M,T,F in [0, 1].
        sigma: N,M,T,1 raw density before softplus, any real number.
        depths: N,M,T,1 distance along unit rays, world units, ascending.
        white_back: what the ray does not hit is white, else black.
        limits: range of the depths of the whole call if this is a part of it.
    Returns:
        N,M,F in [-1, 1]; N,M,1 expected depth; N,M,T-1,1 weights, sum <= 1.
    Raises:
        ValueError: T below 2, or not the same in all three.
    Gradients reach all three; those of an empty ray's depth are zero.
    """
    if not features.shape[:3] == sigma.shape[:3] == depths.shape[:3] or depths.shape[2] < 2:
        shapes = ", ".join(str(tuple(x.shape)) for x in (features, sigma, depths))
        raise ValueError(f"features, sigma, depths: expected N,M,T,* with one T of at least 2, got {shapes}")
    weights = interval_weights(sigma, depths)
    blended = (weights * (features[:, :, :-1] + features[:, :, 1:]) / 2).sum(dim=2)
    weighted_depth = (weights * (depths[:, :, :-1] + depths[:, :, 1:]) / 2).sum(dim=2)
    weight_sum = weights.sum(dim=2)
    depth = expected_depth(weighted_depth, weight_sum, limits or depth_limits(depths))
    return finish(blended, weight_sum, white_back), depth, weights


def sample_weights(sigma: Tensor, depths: Tensor) -> Tensor:
    """Share (N,M,T) of a pixel that each sample gives, for samples in any order (sigma and depths N,M,T).

    The mean of two neighbors, weighted, is each of them with half the weight: so depths and densities are sorted
    here, but never the features.
    """
    depths, order = depths.sort(dim=-1)
    half = _interval_weights(sigma.gather(-1, order), depths) / 2
    shares = F.pad(half, (1, 0)) + F.pad(half, (0, 1))
    return torch.zeros_like(shares).scatter(-1, order, shares)
