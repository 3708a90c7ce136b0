"""Tri-plane features at points in space (Chan et al. 2022, section 3).

`sample_planes` is the definition. `sample_planes_mean` computes the mean over the three planes, which is all that the
decoders use, several times faster: planes with the same two axes are added up beforehand, and on a CPU the bilinear
sum is one gather of whole channel rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from torch_utils.ops.weighted_gather import weighted_gather

# Coordinates of a point (0 x, 1 y, 2 z) along each plane's (column, row). "published" keeps EG3D's axis bug, with
# which the published weights were trained: planes 2 and 3 both span x and z and ignore y. "corrected" lets the third
# plane span z and y.
PLANE_COORDINATES = {
    "published": ((0, 1), (0, 2), (2, 0)),
    "corrected": ((0, 1), (0, 2), (2, 1)),
}
# Zeros around each plane of a lookup table: room for the four neighbors of a point clamped to just outside.
BORDER_BEFORE = 1
BORDER_AFTER = 2


def _plane_axes(coordinates: Sequence[tuple[int, int]]) -> Tensor:
    """3,3,3: the unit vectors of each plane's column, row and normal."""
    return torch.stack([torch.eye(3)[[column, row, 3 - column - row]] for column, row in coordinates])


PLANE_AXES = {name: _plane_axes(coordinates) for name, coordinates in PLANE_COORDINATES.items()}


def _check_planes(planes: Tensor) -> None:
    if planes.ndim != 5 or planes.shape[1] != 3:
        raise ValueError(f"planes: expected N,3,C,H,W, got {tuple(planes.shape)}")


def _check_points(points: Tensor, batch: int) -> None:
    if points.ndim != 3 or points.shape[0] != batch or points.shape[2] != 3:
        raise ValueError(f"points: expected {batch},K,3, got {tuple(points.shape)}")


# --------------------------------------------------------------------------- definition


def project(points: Tensor, axes: Tensor) -> Tensor:
    """Project points on planes.

    Args:
        points: N,K,3.
        axes: 3,3,3; the rows of each matrix are a plane's column axis, row axis and normal, not necessarily orthogonal.
    Returns:
        N,3,K,2 column and row coordinates, in the units of the points.
    """
    # Coordinates along the axes, of which the third is the distance from the plane. The inverse also serves axes that
    # are not orthogonal.
    projection = torch.linalg.inv(axes.to(points))[..., :2]  # 3,3,2
    return points[:, None] @ projection


def sample_planes(planes: Tensor, points: Tensor, box_warp: float, axes: str = "published") -> Tensor:
    """Sample every plane bilinearly, with zeros outside.

    Args:
        planes: N,3,C,H,W covering a cube of side box_warp about the origin.
        points: N,K,3 world units.
        axes: a key of PLANE_COORDINATES.
    Returns:
        N,3,K,C.
    Raises:
        ValueError: other shapes.
    """
    _check_planes(planes)
    _check_points(points, planes.shape[0])
    grid = project(points * (2 / box_warp), PLANE_AXES[axes]).flatten(0, 1)[:, None]  # N*3,1,K,2 in [-1, 1]

    # Each plane is an image with its own points: N*3,C,1,K.
    sampled = F.grid_sample(planes.flatten(0, 1), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return sampled[:, :, 0].mT.unflatten(0, planes.shape[:2])


# --------------------------------------------------------------------------- fast mean over planes


@dataclass(frozen=True)
class FoldedPlanes:
    """Planes prepared by `fold_planes`. J, their number, is 2 for the published axes and 3 for the corrected ones.

    Args:
        maps: N,J,C,P,P, whose sum over J at a point is the mean of the three planes.
        pairs: (column, row) coordinate of each map.
        table: N*J*(P+3)*(P+3),C, one row of channels for each pixel of the maps and of a border of zeros; None on
            other devices than a CPU.
    """

    maps: Tensor
    pairs: tuple[tuple[int, int], ...]
    table: Tensor | None


def fold_planes(planes: Tensor, axes: str = "published") -> FoldedPlanes:
    """Divide planes by 3 and add up those that span the same two axes, transposed where the axes are swapped.

    With the published axes, plane 3 (z, x) is plane 2 (x, z) transposed, so two maps remain. This is exact, since
    bilinear sampling is linear in the planes. Gradients reach the planes.

    Args:
        planes: N,3,C,P,P.
        axes: a key of PLANE_COORDINATES.
    Raises:
        ValueError: planes of another shape or not square.
    """
    _check_planes(planes)
    if planes.shape[3] != planes.shape[4]:
        raise ValueError(f"planes: expected square ones, got {tuple(planes.shape)}")

    # Planes that span the axes of each map, and whether they are transposed.
    sources: dict[tuple[int, int], list[tuple[int, bool]]] = {}
    for i, pair in enumerate(PLANE_COORDINATES[axes]):
        swapped = pair[::-1]
        if swapped in sources:
            sources[swapped].append((i, True))
        else:
            sources[pair] = [(i, False)]

    # Maps, as a view without the border.
    padded = _PaddedMaps.apply(planes, tuple(sources.values()))  # N,J,P+3,P+3,C
    maps = _inside(padded, planes.shape[-1]).movedim(-1, 2)
    table = padded.flatten(0, 3) if planes.device.type == "cpu" else None
    return FoldedPlanes(maps, tuple(sources), table)


def _inside(padded: Tensor, size: int) -> Tensor:
    """Return ...,P,P,C of ...,P+3,P+3,C without the border."""
    inside = slice(BORDER_BEFORE, BORDER_BEFORE + size)
    return padded[..., inside, inside, :]


class _PaddedMaps(torch.autograd.Function):
    """Maps N,J,P+3,P+3,C with a border of zeros, so that no neighbor needs a check for being outside.

    Channels are last, so that those of a neighbor are contiguous: one read of C numbers instead of C reads far apart.
    With autograd of its own, planes and gradients are each read once, and gradients keep the planes' memory format.
    """

    @staticmethod
    def forward(ctx, planes, sources):
        # Every map is the sum of its planes. Dividing them by 3 is cheaper than dividing every sample.
        batch, _, channels, size, _ = planes.shape
        width = size + BORDER_BEFORE + BORDER_AFTER
        padded = planes.new_zeros(batch, len(sources), width, width, channels)
        for maps, members in zip(_inside(padded, size).unbind(1), sources, strict=True):
            for number, (i, transposed) in enumerate(members):
                plane = _channels_last(planes[:, i], transposed)  # N,P,P,C
                if number == 0:
                    torch.div(plane, 3, out=maps)
                else:
                    maps += plane / 3

        ctx.sources = sources
        ctx.format = torch.empty_like(planes, device="meta")
        return padded

    @staticmethod
    @once_differentiable
    def backward(ctx, dpadded):
        # Every plane is part of one map, whose gradient it receives.
        dplanes = torch.empty_like(ctx.format, device=dpadded.device)
        for dmaps, members in zip(_inside(dpadded, dplanes.shape[-1]).unbind(1), ctx.sources, strict=True):
            for i, transposed in members:
                torch.div(dmaps, 3, out=_channels_last(dplanes[:, i], transposed))
        return dplanes, None


def _channels_last(plane: Tensor, transposed: bool) -> Tensor:
    """View N,C,P,P as N,P,P,C, with rows and columns exchanged if `transposed`."""
    return plane.permute(0, 3, 2, 1) if transposed else plane.permute(0, 2, 3, 1)


def sample_planes_mean(planes: FoldedPlanes, points: Tensor, box_warp: float) -> Tensor:
    """Compute `sample_planes(...).mean(dim=1)` up to rounding.

    Fastest for points that are a view of a 3,N,K tensor.

    Args:
        points: N,K,3 world units. NaN counts as outside.
    Returns:
        N,K,C. Gradients reach planes and points.
    Raises:
        ValueError: points of another shape.
    """
    _check_points(points, planes.maps.shape[0])
    if planes.table is None:
        return _sample_maps(planes, points, box_warp)
    return _sample_table(planes, points, box_warp)


def _sample_maps(planes: FoldedPlanes, points: Tensor, box_warp: float) -> Tensor:
    """`sample_planes_mean` by grid_sample, for GPUs."""
    # The J maps of a scene become J images with the same channels, which one call samples. Coordinates are not chosen
    # by a list of indices, which would be copied to the device: a CUDA graph allows no such copies.
    grids = [torch.stack([points[..., column], points[..., row]], dim=-1) for column, row in planes.pairs]
    grid = torch.stack(grids, dim=1) * (2 / box_warp)  # N,J,K,2
    sampled = F.grid_sample(planes.maps.flatten(0, 1), grid.flatten(0, 1)[:, None], align_corners=False)
    return sampled[:, :, 0].unflatten(0, grid.shape[:2]).sum(dim=1).mT


def _sample_table(planes: FoldedPlanes, points: Tensor, box_warp: float) -> Tensor:
    """`sample_planes_mean` as a weighted sum of table rows, for CPUs: 4 neighbors on each of the J maps."""
    batch, num_maps, _, size, _ = planes.maps.shape
    width = size + BORDER_BEFORE + BORDER_AFTER  # of a map in the table

    # Pixel coordinates, clamped to the border of zeros, and the fractions between neighbors. The gradient of a clamped
    # coordinate is zero, as it is with grid_sample's zero padding.
    pixels = points.movedim(-1, 0) * (size / box_warp) + (size - 1) / 2  # 3,N,K
    pixels = pixels.nan_to_num(nan=-1.0).clamp(-1, size)
    corner = pixels.detach().floor()
    after = pixels - corner  # weight of the neighbor at corner + 1
    before = 1 - after
    corner = corner.to(torch.int32) + BORDER_BEFORE

    # Table rows and bilinear weights of all neighbors. 32-bit rows halve the memory traffic of indices.
    batch_index = torch.arange(batch, dtype=torch.int32, device=points.device)[:, None]  # N,1
    first_row = batch_index * (num_maps * width * width)
    rows = []
    weights = []
    for i, (u, v) in enumerate(planes.pairs):
        top_left = corner[v] * width + corner[u] + (first_row + i * width * width)  # N,K
        rows += [top_left, top_left + 1, top_left + width, top_left + (width + 1)]
        weights += [before[v] * before[u], before[v] * after[u], after[v] * before[u], after[v] * after[u]]

    # Weighted sum of 4 J rows for each point: one pass, without storing the rows.
    sampled = weighted_gather(
        planes.table,
        torch.stack(rows, dim=-1).flatten(0, 1),
        torch.stack(weights, dim=-1).flatten(0, 1),
    )
    return sampled.unflatten(0, points.shape[:2])
