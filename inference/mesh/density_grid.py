"""Raw density on a regular grid: what a mesh is made of, without visiting the grid's points one by one.

The decoder's first layer commutes with reading the planes, so it is applied to them once. On a regular grid the
planes' samples separate: the hidden value at (x, y, z) is softplus(xy[x, y] + xz[x, z]), and the density is a
weighted sum of 64 of these. Seen along y with x fixed, softplus(a + b) is an analytic function of a; Chebyshev
interpolation in a writes it as a short sum of products f_k(a) g_k(b), and the slab of an x becomes one matrix
product. The number of terms follows from the width of a's range, so that the error stays at float32's own rounding
(Trefethen, Approximation Theory and Approximation Practice, theorem 8.2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from training.networks.triplane_field import TriplaneField

AIR = -1e9  # density so low that a surface between it and any matter lies at the matter
INTERPOLATION_ERROR = 1e-6  # of one softplus, absolute
USUAL_TERMS = 16  # a guess at the mean, by which pieces are cut
TERMS_STEP = 4  # hidden units share a product if their numbers of terms agree when rounded up to a multiple of this
# Floats that a piece of work may hold at a time: on a CPU what the cache holds, elsewhere what fills the device.
CPU_FLOATS_PER_PIECE = 2**21
DEVICE_FLOATS_PER_PIECE = 2**26


@torch.inference_mode()
def density_grid(
    field: TriplaneField, resolution: int, on_slabs: Callable[[int], object] | None = None, closed: bool = False
) -> Tensor:
    """Raw density at the points of a grid over the field's cube, both faces included.

    Besides the result (0.5 GB at resolution 512) it holds two or three arrays of resolution^2 times 64 floats (67 MB
    each at 512) and one piece of work.

    Args:
        field: of one scene (N = 1).
        resolution: points on a side, R >= 2; point i lies at -box_warp/2 + i * box_warp/(R - 1).
        on_slabs: told the number of x slabs that have been finished, after each piece of work.
        closed: put a layer of AIR around, one point thick.
    Returns:
        R,R,R float32 in main memory (closed: R + 2 each); axes x, y, z.
    Raises:
        ValueError: several scenes, fewer than 2 points, or a density that is not finite.
    """
    grid = torch.full((resolution + 2,) * 3, AIR) if closed else torch.empty((resolution,) * 3)
    inside = grid[1:-1, 1:-1, 1:-1] if closed else grid
    for part, slabs in density_slabs(field, resolution):
        inside[part] = slabs
        if on_slabs:
            on_slabs(len(slabs))
    return grid


@torch.inference_mode()
def density_slabs(field: TriplaneField, resolution: int) -> Iterator[tuple[slice, Tensor]]:
    """The pieces of `density_grid`, one after another, for who has other things to do between them: place and value."""
    if len(field.planes) != 1 or resolution < 2:
        raise ValueError(f"expected one scene and 2 points or more, got {len(field.planes)} and {resolution}")
    head = field.heads[-1]
    weight, bias = head.weight1[:, 0].float(), head.bias1[0].item()
    tables = _hidden_tables(field, resolution)
    xy, xz, yz = tables[0, 1] + head.bias0, tables[0, 2], tables.get((1, 2))
    if not all(table.isfinite().all() for table in tables.values()) or not weight.isfinite().all():
        raise ValueError("the network's planes or weights are not finite (NaN or infinity)")
    floats = CPU_FLOATS_PER_PIECE if xy.device.type == "cpu" else DEVICE_FLOATS_PER_PIECE
    slabs = max(1, floats // (2 * resolution * len(weight) * USUAL_TERMS))
    for start in range(0, resolution, slabs):
        part = slice(start, min(start + slabs, resolution))
        if yz is None:
            yield part, sum_of_softplus(xy[part], xz[part], weight) + bias
        else:
            yield part, _sum_of_softplus_plain(xy[part], xz[part], yz, weight, floats) + bias


def _hidden_tables(field: TriplaneField, resolution: int) -> dict[tuple[int, int], Tensor]:
    """What each folded plane adds to the hidden layer: by the two axes (lower first) R,R,hidden."""
    head, maps = field.heads[-1], field.folded.maps[0].float()  # P,C,H,W
    line = torch.linspace(-1, 1, resolution, device=maps.device)
    rows, columns = torch.meshgrid(line, line, indexing="ij")
    grid = torch.stack([columns, rows], dim=-1)[None]  # 1,R,R,2
    tables = {}
    for (column, row), plane in zip(field.folded.pairs, maps[:, head.inputs], strict=True):
        hidden = torch.einsum("chw,cf->fhw", plane, head.weight0.float())
        table = F.grid_sample(hidden[None], grid, align_corners=False)[0]  # hidden,row,column; zero outside
        order = (2, 1, 0) if column < row else (1, 2, 0)
        tables[min(column, row), max(column, row)] = table.permute(order).contiguous()
    return tables


def terms_needed(radius: Tensor) -> Tensor:
    """Terms by which Chebyshev interpolation of softplus over intervals of half-width `radius` has a small error.

    Softplus is analytic but for the points i pi (2n + 1). The largest ellipse about the interval without them has the
    parameter rho = q + sqrt(q^2 + 1), q = pi / radius, and the error falls like rho^-terms.
    """
    q = math.pi / radius.cpu().double()  # on the CPU: MPS has no float64
    return (math.log(1 / INTERPOLATION_ERROR) / torch.asinh(q)).ceil().long()


def sum_of_softplus(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """Sum over hidden units h of weight[h] * softplus(a[x, y, h] + b[x, z, h]), up to rounding.

    Args:
        a: X,Y,H. b: X,Z,H. weight: H.
    Returns:
        X,Y,Z.
    """
    low, high = a.amin(1, keepdim=True), a.amax(1, keepdim=True)
    center, radius = (low + high) / 2, ((high - low) / 2).clamp_min(1e-3)  # X,1,H
    terms = (terms_needed(radius.amax((0, 1))) / TERMS_STEP).ceil().long() * TERMS_STEP  # H
    angle = torch.arccos(((a - center) / radius).clamp(-1, 1))
    total = a.new_zeros(len(a), a.shape[1], b.shape[1])
    for count in terms.unique().tolist():
        units = (terms == count).nonzero()[:, 0].to(a.device)
        k = torch.arange(count, dtype=a.dtype, device=a.device)
        nodes = math.pi / count * (k + 0.5)  # angles
        to_coefficients = torch.cos(nodes[:, None] * k) * (2 / count)  # node,k
        to_coefficients[:, 0] /= 2
        at_nodes = center[..., units, None] + radius[..., units, None] * nodes.cos()  # X,1,h,node
        coefficients = F.softplus(b[..., units, None] + at_nodes) @ to_coefficients  # X,Z,h,k
        basis = torch.cos(angle[..., units, None] * k) * weight[units, None]  # X,Y,h,k
        total.baddbmm_(basis.flatten(2), coefficients.flatten(2).mT)
    return total


def _sum_of_softplus_plain(a: Tensor, b: Tensor, c: Tensor, weight: Tensor, floats: int) -> Tensor:
    """As `sum_of_softplus` with c (Y,Z,H) added inside, which does not separate: every point is visited."""
    total = a.new_empty(len(a), a.shape[1], b.shape[1])
    rows = max(1, floats // (4 * b.shape[1] * len(weight)))
    for x in range(len(a)):
        for y in range(0, a.shape[1], rows):
            part = slice(y, y + rows)
            total[x, part] = F.softplus(a[x, part, None] + b[x] + c[part]) @ weight
    return total
