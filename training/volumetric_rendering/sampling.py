"""Where on a ray to look: stratified depths, then more of them where the first ones found something.

Nothing here draws random numbers: the caller gives them, and evenly spaced ones make a deterministic rendering.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PDF_EPS = 1e-5  # added to weights, and the smallest step of the distribution that is divided by
WEIGHT_FLOOR = 0.01  # so that no part of a ray is never sampled (Barron et al. 2021, eq. 18)


def stratified_depths(start: float | Tensor, end: float | Tensor, offsets: Tensor, disparity: bool = False) -> Tensor:
    """Evenly spaced depths from start to end, each moved on by its share of one step.

    Args:
        start, end: world units, for all rays or N,M,1.
        offsets: N,M,T,1 in [0, 1): uniform random numbers, or zeros for none.
        disparity: even steps in 1/depth instead of depth.
    Returns:
        N,M,T,1 ascending; the last may pass `end` by less than one step.
    Raises:
        ValueError: T below 2.
    """
    samples = offsets.shape[2]
    if samples < 2:
        raise ValueError(f"offsets: expected N,M,T,1 with T of at least 2, got {tuple(offsets.shape)}")
    start, end = (x[..., None] if isinstance(x, Tensor) else x for x in (start, end))  # N,M,1,1
    steps = torch.arange(samples, dtype=offsets.dtype, device=offsets.device).view(1, 1, -1, 1)
    position = (steps + offsets) / (samples - 1)
    if disparity:
        return 1 / (1 / start * (1 - position) + 1 / end * position)
    return start + (end - start) * position


def sample_pdf(bins: Tensor, weights: Tensor, quantiles: Tensor) -> Tensor:
    """Inverse of the cumulative distribution of a histogram, linear within bins (Mildenhall et al. 2020, 5.2).

    Args:
        bins: B,T+1 edges, ascending.
        weights: B,T not below 0, any sum.
        quantiles: B,K in [0, 1].
    Returns:
        B,K. No gradient is meant to pass.
    Raises:
        ValueError: edges are not one more than weights.
    """
    if bins.shape[-1] != weights.shape[-1] + 1:
        raise ValueError(f"bins: expected one more than weights {tuple(weights.shape)}, got {tuple(bins.shape)}")
    weights = weights + PDF_EPS
    pdf = weights / weights.sum(dim=-1, keepdim=True)
    cdf = F.pad(pdf.cumsum(dim=-1), (1, 0))  # B,T+1
    found = torch.searchsorted(cdf, quantiles.contiguous(), right=True)
    below, above = (found - 1).clamp_min(0), found.clamp_max(weights.shape[-1])  # the same at the last edge
    cdf_below, bins_below = cdf.gather(-1, below), bins.gather(-1, below)
    step = cdf.gather(-1, above) - cdf_below
    step = step.masked_fill(step < PDF_EPS, 1)
    return bins_below + (quantiles - cdf_below) / step * (bins.gather(-1, above) - bins_below)


def importance_depths(depths: Tensor, weights: Tensor, quantiles: Tensor) -> Tensor:
    """Depths where a first pass over the ray found weight, which is blurred first (Barron et al. 2021, 3.1).

    As in the published model, the histogram's edges are all midpoints but the last, and its weights all intervals'
    but the first's and the last's, so that mass lies half a step too near.

    Args:
        depths: N,M,T,1 ascending, T of at least 4.
        weights: N,M,T-1,1 of the intervals between them.
        quantiles: N,M,K in [0, 1].
    Returns:
        N,M,K,1 within the range of `depths`, in the order of the quantiles. No gradient.
    Raises:
        ValueError: T below 4.
    """
    if depths.shape[2] < 4:
        raise ValueError(f"depths: expected N,M,T,1 with T of at least 4, got {tuple(depths.shape)}")
    depths, weights = depths.detach().flatten(0, 1)[..., 0], weights.detach().flatten(0, 1)[..., 0]  # B,T; B,T-1
    blurred = F.max_pool1d(weights[:, None], kernel_size=2, stride=1, padding=1)
    blurred = F.avg_pool1d(blurred, kernel_size=2, stride=1)[:, 0] + WEIGHT_FLOOR  # B,T-1
    midpoints = (depths[:, :-1] + depths[:, 1:]) / 2
    found = sample_pdf(midpoints[:, :-1], blurred[:, 1:-1], quantiles.flatten(0, 1))
    return found.view_as(quantiles)[..., None]


def sort_samples(depths: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """Depths (N,M,T,1) in ascending order on every ray, and each of `values` (N,M,T,any) in that order too."""
    depths, order = depths.sort(dim=2)
    return depths, *(x.gather(2, order.expand_as(x)) for x in values)
