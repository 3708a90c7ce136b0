"""Raw density on a regular grid, for meshes, without evaluating the decoder at each grid point.

The decoder's first layer commutes with sampling the planes, so it is applied to them once. On a regular grid the
planes' samples separate: the hidden value at (x, y, z) is softplus(xy[x, y] + xz[x, z]), and the density is a
weighted sum of 64 of these. Along y with x fixed, softplus(a + b) is an analytic function of a; Chebyshev
interpolation in a writes it as a short sum of products f_k(a) g_k(b), and the slab of an x becomes one matrix
product. The number of terms follows from the width of a's range, so that the error stays at float32's own rounding
(Trefethen, Approximation Theory and Approximation Practice, theorem 8.2).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from training.networks.triplane_field import TriplaneField

# Density so low that a surface between it and anything solid lies at the solid.
EMPTY = -1e9
# Absolute error of one softplus.
INTERPOLATION_ERROR = 1e-6
# Expected mean number of terms, from which the size of chunks is computed.
EXPECTED_TERMS = 16
# Hidden units share a product if their numbers of terms agree when rounded up to a multiple of this.
TERMS_STEP = 4
# Floats in a chunk of work: what fits the cache of a CPU, or fills a GPU.
CPU_FLOATS_PER_CHUNK = 2**21
DEVICE_FLOATS_PER_CHUNK = 2**26


@torch.inference_mode()
def density_slabs(field: TriplaneField, resolution: int) -> Iterator[tuple[slice, Tensor]]:
    """Compute raw density on a grid over the field's cube, both faces included, some slabs of equal x at a time.

    Besides its results it holds two or three arrays of resolution^2 times 64 floats (67 MB each at 512) and one chunk.

    Args:
        field: of one scene (N = 1).
        resolution: points on a side, K >= 2; point i lies at -box_warp/2 + i * box_warp/(K - 1).
    Yields:
        Indices along x of n slabs, and their densities n,K,K float32 with axes x, y, z, on the field's device.
    Raises:
        ValueError: several scenes, fewer than 2 points, or a density that is not finite.
    """
    if len(field.planes) != 1 or resolution < 2:
        raise ValueError(f"expected one scene and 2 points or more, got {len(field.planes)} and {resolution}")

    # What each plane adds to the hidden layer.
    head = field.heads[-1]
    weight = head.weight1[:, 0].float()  # hidden units
    bias = head.bias1[0].item()
    tables = _hidden_tables(field, resolution)
    if not all(table.isfinite().all() for table in tables.values()) or not weight.isfinite().all():
        raise ValueError("the network's planes or weights are not finite (NaN or infinity)")
    xy = tables[0, 1] + head.bias0
    xz = tables[0, 2]
    yz = tables.get((1, 2))  # only with corrected plane axes

    # Slabs, as many at a time as a chunk holds.
    floats = CPU_FLOATS_PER_CHUNK if xy.device.type == "cpu" else DEVICE_FLOATS_PER_CHUNK
    slabs = max(1, floats // (2 * resolution * len(weight) * EXPECTED_TERMS))
    for start in range(0, resolution, slabs):
        part = slice(start, min(start + slabs, resolution))
        if yz is None:
            yield part, sum_of_softplus(xy[part], xz[part], weight) + bias
        else:
            yield part, _sum_of_softplus_direct(xy[part], xz[part], yz, weight, floats) + bias


def _hidden_tables(field: TriplaneField, resolution: int) -> dict[tuple[int, int], Tensor]:
    """Return the hidden values (K,K,hidden) that each folded plane adds, by its two axes, lower first."""
    # Grid points in the planes' coordinates [-1, 1].
    head = field.heads[-1]
    maps = field.folded.maps[0].float()  # planes,F,P,P
    line = torch.linspace(-1, 1, resolution, device=maps.device)
    rows, columns = torch.meshgrid(line, line, indexing="ij")
    grid = torch.stack([columns, rows], dim=-1)[None]  # 1,K,K,2

    # Apply the first layer to each plane, then sample: both are linear.
    tables = {}
    for (column, row), plane in zip(field.folded.pairs, maps[:, head.inputs], strict=True):
        hidden = torch.einsum("chw,cf->fhw", plane, head.weight0.float())
        table = F.grid_sample(hidden[None], grid, align_corners=False)[0]  # hidden,row,column; zero outside
        order = (2, 1, 0) if column < row else (1, 2, 0)
        tables[min(column, row), max(column, row)] = table.permute(order).contiguous()
    return tables


def terms_needed(radius: Tensor) -> Tensor:
    """Return how many terms of Chebyshev interpolation bound the error of softplus by INTERPOLATION_ERROR.

    Softplus is analytic except at the points i pi (2n + 1). The largest ellipse about the interval without them has the
    parameter rho = q + sqrt(q^2 + 1), q = pi / radius, and the error falls like rho^-terms.

    Args:
        radius: half-widths of intervals, any shape, which is the result's shape.
    """
    q = math.pi / radius.cpu().double()  # on the CPU: MPS has no float64
    return (math.log(1 / INTERPOLATION_ERROR) / torch.asinh(q)).ceil().long()


def sum_of_softplus(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """Sum weight[h] * softplus(a[x, y, h] + b[x, z, h]) over hidden units h, up to rounding.

    Args:
        a: X,Y,H.
        b: X,Z,H.
        weight: H.
    Returns:
        X,Y,Z.
    """
    # Range of a along y, and the number of terms that it needs.
    low = a.amin(1, keepdim=True)
    high = a.amax(1, keepdim=True)
    center = (low + high) / 2  # X,1,H
    radius = ((high - low) / 2).clamp_min(1e-3)
    terms = (terms_needed(radius.amax((0, 1))) / TERMS_STEP).ceil().long() * TERMS_STEP  # H
    angle = torch.arccos(((a - center) / radius).clamp(-1, 1))

    # Units with equally many terms are computed together.
    total = a.new_zeros(len(a), a.shape[1], b.shape[1])
    for count in terms.unique().tolist():
        # Chebyshev nodes, and the cosine transform from values at the nodes to coefficients.
        units = (terms == count).nonzero()[:, 0].to(a.device)  # h
        k = torch.arange(count, dtype=a.dtype, device=a.device)
        nodes = math.pi / count * (k + 0.5)  # angles
        to_coefficients = torch.cos(nodes[:, None] * k) * (2 / count)  # node,k
        to_coefficients[:, 0] /= 2

        # Interpolate over a for each value of b: one matrix product per x.
        at_nodes = center[..., units, None] + radius[..., units, None] * nodes.cos()  # X,1,h,node
        coefficients = F.softplus(b[..., units, None] + at_nodes) @ to_coefficients  # X,Z,h,k
        basis = torch.cos(angle[..., units, None] * k) * weight[units, None]  # X,Y,h,k
        total.baddbmm_(basis.flatten(2), coefficients.flatten(2).mT)
    return total


def _sum_of_softplus_direct(a: Tensor, b: Tensor, c: Tensor, weight: Tensor, floats: int) -> Tensor:
    """As `sum_of_softplus` with c (Y,Z,H) added inside, which does not separate: every point is evaluated."""
    # Some rows at a time, so that the hidden values of a chunk fit the cache.
    total = a.new_empty(len(a), a.shape[1], b.shape[1])
    rows = max(1, floats // (4 * b.shape[1] * len(weight)))
    for x in range(len(a)):
        for y in range(0, a.shape[1], rows):
            part = slice(y, y + rows)
            total[x, part] = F.softplus(a[x, part, None] + b[x] + c[part]) @ weight
    return total
