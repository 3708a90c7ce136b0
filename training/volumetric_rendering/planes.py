"""Features of points in space, read from three planes (Chan et al. 2022, section 4).

`sample_planes` is the definition. `sample_planes_mean` gives the mean over the planes, which is all that the
decoders use, and is several times quicker: planes that see the same two axes are added up beforehand, and on a CPU
the bilinear sum is one gather of whole channel rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Which coordinate of a point is each plane's (column, row). The published weights were trained with a third plane
# that sees the second's axes again: nothing tells (x, y, z) from a point with another y on planes 2 and 3.
PLANE_PAIRS = {
    "published": ((0, 1), (0, 2), (2, 0)),
    "corrected": ((0, 1), (0, 2), (2, 1)),
}
# Border of zeros about each plane of a table: room for the four neighbors of a point clamped to just outside.
BORDER_BEFORE, BORDER_AFTER = 1, 2


def _axes(pairs: Sequence[tuple[int, int]]) -> Tensor:
    """P,3,3: per plane, the unit vectors of its column, its row and its normal."""
    return torch.stack([torch.eye(3)[[column, row, 3 - column - row]] for column, row in pairs])


PLANE_AXES = {name: _axes(pairs) for name, pairs in PLANE_PAIRS.items()}


def _pairs(axes: str) -> tuple[tuple[int, int], ...]:
    if axes not in PLANE_PAIRS:
        raise ValueError(f"plane axes: expected one of {', '.join(PLANE_PAIRS)}, got {axes!r}")
    return PLANE_PAIRS[axes]


def _check_planes(planes: Tensor) -> None:
    if planes.ndim != 5 or planes.shape[1] != 3:
        raise ValueError(f"planes: expected N,3,C,H,W, got {tuple(planes.shape)}")


def _check_points(points: Tensor, count: int) -> None:
    if points.ndim != 3 or points.shape[0] != count or points.shape[2] != 3:
        raise ValueError(f"points: expected {count},K,3, got {tuple(points.shape)}")


def project(points: Tensor, axes: Tensor) -> Tensor:
    """Coordinates of points on planes given by their axes.

    Args:
        points: N,K,3.
        axes: P,3,3; rows are a plane's column axis, row axis and normal, not necessarily orthogonal.
    Returns:
        N,P,K,2 column and row coordinate, in the units of the points.
    """
    onto = torch.linalg.inv(axes.to(points))[..., :2]  # P,3,2
    return points[:, None] @ onto


def sample_planes(planes: Tensor, points: Tensor, box_warp: float, axes: str = "published") -> Tensor:
    """Bilinear samples of every plane, zero outside: the plain form.

    Args:
        planes: N,3,C,H,W covering a cube of side box_warp about the origin.
        points: N,K,3 world units.
        axes: a name of PLANE_PAIRS.
    Returns:
        N,3,K,C.
    Raises:
        ValueError: shapes other than these, or an unknown name of axes.
    """
    _pairs(axes)
    _check_planes(planes)
    _check_points(points, planes.shape[0])
    grid = project(points * (2 / box_warp), PLANE_AXES[axes]).flatten(0, 1)[:, None]  # N*3,1,K,2 in [-1, 1]
    sampled = F.grid_sample(planes.flatten(0, 1), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return sampled[:, :, 0].mT.unflatten(0, planes.shape[:2])


@dataclass(frozen=True)
class FoldedPlanes:
    """Planes made ready by `fold_planes`; P is 2 for the published axes and 3 for the corrected ones.

    Args:
        maps: N,P,C,H,W, their sum over P at a point being the mean of the three planes.
        pairs: (column, row) coordinate of each of the P.
        table: N*P*(H+3)*(W+3),C, one row of channels for each pixel and for a border of zeros; None off the CPU.
    """

    maps: Tensor
    pairs: tuple[tuple[int, int], ...]
    table: Tensor | None


def fold_planes(planes: Tensor, axes: str = "published") -> FoldedPlanes:
    """Divide planes (N,3,C,H,W) by 3 and add each to an earlier one with the same axes, transposed if they are swapped.

    Exact, since bilinear sampling is linear in the planes. Gradients reach the planes.

    Raises:
        ValueError: planes of another shape or not square, or an unknown name of axes.
    """
    _check_planes(planes)
    if planes.shape[3] != planes.shape[4]:
        raise ValueError(f"planes: expected square ones, got {tuple(planes.shape)}")
    folded: dict[tuple[int, int], Tensor] = {}
    for pair, plane in zip(_pairs(axes), (planes / 3).unbind(1), strict=True):
        swapped = pair[::-1]
        if swapped in folded:
            folded[swapped] = folded[swapped] + plane.mT
        else:
            folded[pair] = plane
    maps = torch.stack(list(folded.values()), dim=1)
    maps = maps.movedim(2, -1).contiguous().movedim(-1, 2)  # channels last in memory: a neighbor is one read
    table = None
    if planes.device.type == "cpu":
        border = (0, 0) + 2 * (BORDER_BEFORE, BORDER_AFTER)
        table = F.pad(maps.movedim(2, -1), border).flatten(0, 3)
    return FoldedPlanes(maps, tuple(folded), table)


def sample_planes_mean(planes: FoldedPlanes, points: Tensor, box_warp: float) -> Tensor:
    """`sample_planes(...).mean(dim=1)` up to rounding; quickest for points whose memory is coordinate by coordinate.

    Args:
        points: N,K,3 world units. NaN counts as outside.
    Returns:
        N,K,C. Gradients reach planes and points.
    Raises:
        ValueError: points of another shape.
    """
    _check_points(points, planes.maps.shape[0])
    return _sample_maps(planes, points, box_warp) if planes.table is None else _sample_table(planes, points, box_warp)


def _sample_maps(planes: FoldedPlanes, points: Tensor, box_warp: float) -> Tensor:
    grid = torch.stack([points[..., list(pair)] for pair in planes.pairs], dim=1) * (2 / box_warp)  # N,P,K,2
    sampled = F.grid_sample(planes.maps.flatten(0, 1), grid.flatten(0, 1)[:, None], align_corners=False)
    return sampled[:, :, 0].unflatten(0, grid.shape[:2]).sum(dim=1).mT


def _sample_table(planes: FoldedPlanes, points: Tensor, box_warp: float) -> Tensor:
    count, maps, _, size, _ = planes.maps.shape
    row = size + BORDER_BEFORE + BORDER_AFTER
    pixels = points.movedim(-1, 0) * (size / box_warp) + (size - 1) / 2  # 3,N,K
    pixels = pixels.nan_to_num(nan=-1.0).clamp(-1, size)  # from -1 and to `size`: only zeros of the border
    corner = pixels.detach().floor()
    after = pixels - corner
    before = 1 - after
    corner = corner.to(torch.int32) + BORDER_BEFORE
    first = torch.arange(count, dtype=torch.int32, device=points.device)[:, None] * (maps * row * row)  # N,1
    rows, weights = [], []
    for i, (u, v) in enumerate(planes.pairs):
        top_left = corner[v] * row + corner[u] + (first + i * row * row)  # N,K
        rows += [top_left, top_left + 1, top_left + row, top_left + (row + 1)]
        weights += [before[v] * before[u], before[v] * after[u], after[v] * before[u], after[v] * after[u]]
    sampled = F.embedding_bag(
        torch.stack(rows, dim=-1).flatten(0, 1),
        planes.table,
        mode="sum",
        per_sample_weights=torch.stack(weights, dim=-1).flatten(0, 1),
    )
    return sampled.unflatten(0, points.shape[:2])
