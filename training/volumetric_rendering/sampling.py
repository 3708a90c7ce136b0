"""Depths of samples along rays: stratified, then by importance (Mildenhall et al. 2020, section 5.2).

The functions generate no random numbers: callers provide them, or evenly spaced values for deterministic rendering.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Added to every weight of a histogram; also the smallest step of its distribution to divide by.
PDF_EPS = 1e-5
# Makes every part of a ray reachable (alpha in Barron et al. 2021, eq. 18).
WEIGHT_FLOOR = 0.01


def stratified_depths(start: float | Tensor, end: float | Tensor, offsets: Tensor, disparity: bool = False) -> Tensor:
    """Space depths evenly from start to end, each shifted by its offset (Mildenhall et al. 2020, eq. 2).

    Args:
        start, end: world units, a number or N,M,1 for limits of each ray.
        offsets: N,M,T,1 in [0, 1), in units of one step: uniform random numbers, or zeros for no jitter. T is at least
            2; RenderOptions checks the number of samples.
        disparity: equal steps in 1/depth instead of depth.
    Returns:
        N,M,T,1 ascending; the last depth may exceed `end` by less than one step.
    """
    # T points divide the interval into T - 1 steps.
    samples = offsets.shape[2]
    steps = torch.arange(samples, dtype=offsets.dtype, device=offsets.device)  # T
    position = (steps + offsets[..., 0]) / (samples - 1)  # N,M,T; 0 at start, 1 at end

    # Interpolate the depth, or its inverse, with which steps grow with the distance.
    if disparity:
        return (1 / (1 / start * (1 - position) + 1 / end * position))[..., None]
    return (start + (end - start) * position)[..., None]


def sample_pdf(bins: Tensor, weights: Tensor, quantiles: Tensor) -> Tensor:
    """Inverse transform sampling of a histogram, linear within bins (Mildenhall et al. 2020, section 5.2).

    Args:
        bins: M,T+1 edges, ascending.
        weights: M,T not negative, any sum.
        quantiles: M,K in [0, 1].
    Returns:
        M,K. Gradients are not meant to be used.
    """
    # Cumulative distribution at the edges: 0 at the first, 1 at the last.
    weights = weights + PDF_EPS
    pdf = weights / weights.sum(dim=-1, keepdim=True)
    cdf = F.pad(pdf.cumsum(dim=-1), (1, 0))  # M,T+1

    # Edges on both sides of each quantile, by binary search; both are the last edge for a quantile of 1. With NaN
    # weights, the clamps keep the indices valid.
    index = torch.searchsorted(cdf, quantiles.contiguous(), right=True)  # M,K
    below = (index - 1).clamp_min(0)
    above = index.clamp_max(weights.shape[-1])
    cdf_below = cdf.gather(-1, below)
    bins_below = bins.gather(-1, below)

    # Interpolate linearly between the edges; a bin without weight gives its lower edge.
    step = cdf.gather(-1, above) - cdf_below
    step = step.masked_fill(step < PDF_EPS, 1)
    return bins_below + (quantiles - cdf_below) / step * (bins.gather(-1, above) - bins_below)


def importance_depths(depths: Tensor, weights: Tensor, quantiles: Tensor) -> Tensor:
    """Sample depths from the compositing weights of a coarse pass, blurred first (Barron et al. 2021, eq. 18).

    As in the published code, the histogram is misaligned by half a step towards the camera: its edges are all
    midpoints of the depths but the last, its weights those of all intervals but the first and the last.

    Args:
        depths: N,M,T,1 ascending, T of at least 4.
        weights: N,M,T-1,1 of the intervals between them.
        quantiles: N,M,K in [0, 1].
    Returns:
        N,M,K,1 within the range of `depths`, in the order of the quantiles. No gradient.
    """
    depths = depths.detach().flatten(0, 1)[..., 0]  # N*M,T
    weights = weights.detach().flatten(0, 1)[..., 0]  # N*M,T-1

    # Blur: maximum, then mean, of neighboring weights. A surface between two coarse samples may have its weight in
    # either interval, so both neighbors get samples.
    blurred = F.max_pool1d(weights[:, None], kernel_size=2, stride=1, padding=1)  # N*M,1,T
    blurred = F.avg_pool1d(blurred, kernel_size=2, stride=1)[:, 0] + WEIGHT_FLOOR  # N*M,T-1

    # Sample, in the published alignment of edges and weights: N*M,T-2 edges and N*M,T-3 weights.
    midpoints = (depths[:, :-1] + depths[:, 1:]) / 2  # N*M,T-1
    samples = sample_pdf(midpoints[:, :-1], blurred[:, 1:-1], quantiles.flatten(0, 1))
    return samples.view_as(quantiles)[..., None]


def sort_samples(depths: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """Sort depths (N,M,T,1) on every ray in ascending order, and each of `values` (N,M,T,any) in the same order."""
    depths, order = depths.sort(dim=2)
    return depths, *(x.gather(2, order.expand_as(x)) for x in values)
