"""Compositing of samples along rays (Mildenhall et al. 2020, eq. 3), on interval midpoints as in Mip-NeRF."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Keeps the product of transmittances, and its gradient, from becoming exactly 0.
TRANSMITTANCE_EPS = 1e-10
# Smallest and largest depth, scalars.
DepthRange = tuple[Tensor, Tensor]


def interval_weights(sigma: Tensor, depths: Tensor) -> Tensor:
    """Compositing weight w_i = T_i alpha_i of each interval between samples (Mildenhall et al. 2020, eq. 3).

    alpha_i = 1 - exp(-density_i delta_i) is the opacity of interval i, of length delta_i, and T_i the product of
    1 - alpha_j over j < i: the transmittance from the camera to the interval. The raw density of an interval is the
    mean of its end points (as EG3D, after Barron et al. 2021); the density is softplus(raw - 1).

    Args:
        sigma: N,M,T raw density, any real number.
        depths: N,M,T ascending, world units.
    Returns:
        N,M,T-1, each in [0, 1], sum <= 1.
    """
    # Density at the midpoints of the intervals. The shift by -1 makes untrained fields, whose raw density is about 0,
    # more transparent, as in Mip-NeRF.
    density = F.softplus((sigma[..., :-1] + sigma[..., 1:]) / 2 - 1)  # N,M,T-1

    # Opacity, and the transmittance behind and before each interval. Nothing is before the first one.
    alpha = 1 - torch.exp(-density * depths.diff(dim=-1))
    transmittance_after = torch.cumprod(1 - alpha + TRANSMITTANCE_EPS, dim=-1)
    transmittance = F.pad(transmittance_after[..., :-1], (1, 0), value=1.0)  # N,M,T-1
    return alpha * transmittance


def sample_weights(sigma: Tensor, depths: Tensor) -> Tensor:
    """Compositing weights of samples in any order.

    An interval's features are the mean of its end points, so each sample gets half the weight of the intervals on its
    two sides. Sorting densities and depths for that, and the weights back, is cheaper than sorting the features.

    Args:
        sigma: N,M,T raw density.
        depths: N,M,T world units, in any order.
    Returns:
        N,M,T in the order of the samples.
    """
    # Weights of the intervals between sorted samples. `order` has no gradient; gather and scatter pass it through.
    depths, order = depths.sort(dim=-1)
    half = interval_weights(sigma.gather(-1, order), depths) / 2  # N,M,T-1

    # Each sample is the end of one interval and the start of the next; back to the given order.
    weights = F.pad(half, (1, 0)) + F.pad(half, (0, 1))  # N,M,T
    return torch.zeros_like(weights).scatter(-1, order, weights)


def depth_range(depths: Tensor) -> DepthRange:
    """Smallest and largest of depths of any shape, as scalars without gradient."""
    return depths.detach().amin(), depths.detach().amax()


def expected_depth(weighted: Tensor, weight_sum: Tensor, limits: DepthRange) -> Tensor:
    """Weighted mean of the depths on each ray, clamped to `limits`.

    Empty rays get the largest depth, with a gradient of zero.

    Args:
        weighted: N,M,1 sum of weight times depth.
        weight_sum: N,M,1.
        limits: depth range of the whole call, of which these rays may be a chunk.
    Returns:
        N,M,1 world units.
    """
    # Dividing by 1 instead of 0 keeps NaN out of the gradients; the infinite depth of empty rays is then clamped.
    empty = weight_sum == 0
    mean = weighted / weight_sum.masked_fill(empty, 1)
    return mean.masked_fill(empty, torch.inf).clamp(*limits)


def to_output_range(features: Tensor, weight_sum: Tensor, white_back: bool) -> Tensor:
    """Add a white background if asked, and map [0, 1] to [-1, 1].

    Args:
        features: N,M,F composited over black.
        weight_sum: N,M,1.
    Returns:
        N,M,F.
    """
    # White adds 1 to all features, label channels included, as in the published code.
    if white_back:
        features = features + (1 - weight_sum)
    return features * 2 - 1


def composite(
    features: Tensor, sigma: Tensor, depths: Tensor, white_back: bool = False, limits: DepthRange | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Blend sorted samples front to back (Mildenhall et al. 2020, eq. 3): the plain implementation.

    Args:
        features: N,M,T,F in [0, 1].
        sigma: N,M,T,1 raw density before softplus, any real number.
        depths: N,M,T,1 distance along unit rays, world units, ascending.
        white_back: white background, else black.
        limits: depth range of the whole call, if this is a chunk of it.
    Returns:
        N,M,F in [-1, 1]; N,M,1 expected depth; N,M,T-1,1 weights, sum <= 1.
    Raises:
        ValueError: T below 2, or not the same in all three.
    Gradients reach all three inputs; those of an empty ray's depth are zero.
    """
    if not features.shape[:3] == sigma.shape[:3] == depths.shape[:3] or depths.shape[2] < 2:
        shapes = ", ".join(str(tuple(x.shape)) for x in (features, sigma, depths))
        raise ValueError(f"features, sigma, depths: expected N,M,T,* with one T of at least 2, got {shapes}")
    weights = interval_weights(sigma[..., 0], depths[..., 0])[..., None]  # N,M,T-1,1

    # Features and depth of an interval are the means of its end points.
    blended = (weights * (features[:, :, :-1] + features[:, :, 1:]) / 2).sum(dim=2)  # N,M,F
    weighted_depth = (weights * (depths[:, :, :-1] + depths[:, :, 1:]) / 2).sum(dim=2)  # N,M,1
    weight_sum = weights.sum(dim=2)  # N,M,1

    # Normalize the depth only: features of a ray that lets light through show the background.
    depth = expected_depth(weighted_depth, weight_sum, limits or depth_range(depths))
    return to_output_range(blended, weight_sum, white_back), depth, weights
