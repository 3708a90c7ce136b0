"""Camera rays and where they cross the box that holds the scene."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MISS_START, MISS_END = -1.0, -2.0  # what `box_limits` gives for a ray that misses: an interval that is empty


def sample_rays(cam2world: Tensor, intrinsics: Tensor, resolution: int) -> tuple[Tensor, Tensor]:
    """One ray through the center of every pixel of a square image, row by row.

    Args:
        cam2world: N,4,4 OpenCV camera (x right, y down, z forward) to world.
        intrinsics: N,3,3 in units of the image's size, skew allowed.
        resolution: r, pixels on a side.
    Returns:
        origins N,r*r,3 in world units and directions N,r*r,3 of length 1.
    Raises:
        ValueError: shapes other than these, or a resolution below 1.
    """
    if resolution < 1:
        raise ValueError(f"resolution: expected 1 or more pixels, got {resolution}")
    count = cam2world.shape[0]
    for name, matrix, side in (("cam2world", cam2world, 4), ("intrinsics", intrinsics, 3)):
        if matrix.shape != (count, side, side):
            raise ValueError(f"{name}: expected {count},{side},{side}, got {tuple(matrix.shape)}")
    centers = (torch.arange(resolution, dtype=cam2world.dtype, device=cam2world.device) + 0.5) / resolution
    v, u = (grid.reshape(1, -1) for grid in torch.meshgrid(centers, centers, indexing="ij"))  # 1,M
    focal_u, focal_v = intrinsics[:, 0, 0, None], intrinsics[:, 1, 1, None]  # N,1
    skew, center_u, center_v = intrinsics[:, 0, 1, None], intrinsics[:, 0, 2, None], intrinsics[:, 1, 2, None]
    y = (v - center_v) / focal_v
    x = (u - center_u - skew * y) / focal_u
    towards = torch.stack([x, y, torch.ones_like(x)], dim=-1)  # N,M,3 at depth 1 in front of the camera
    directions = F.normalize(towards @ cam2world[:, :3, :3].mT, dim=-1)
    return cam2world[:, None, :3, 3].expand_as(directions), directions


def box_limits(origins: Tensor, directions: Tensor, side: float) -> tuple[Tensor, Tensor]:
    """Distances at which rays enter and leave a cube about the origin ("slabs", Kay and Kajiya 1986).

    A cube behind the origin counts too and gives negative distances.

    Args:
        origins, directions: N,M,3.
        side: length of the cube's edge, world units.
    Returns:
        start, end: N,M,1; MISS_START and MISS_END where the ray misses.
    """
    inverse = directions.reciprocal()
    low, high = (-side / 2 - origins) * inverse, (side / 2 - origins) * inverse
    # fmin and fmax pass over the 0 * inf of a ray that runs inside a face
    start = torch.fmin(low, high).amax(dim=-1, keepdim=True)
    end = torch.fmax(low, high).amin(dim=-1, keepdim=True)
    miss = start > end
    return start.masked_fill(miss, MISS_START), end.masked_fill(miss, MISS_END)


def auto_limits(origins: Tensor, directions: Tensor, side: float) -> tuple[Tensor, Tensor]:
    """`box_limits` with something to sample on every ray.

    Rays that miss run from the smallest to the largest START of those that hit, over the whole call, as in the
    published model; where no ray hits, from 0 to `side`, all of it outside the box.
    """
    start, end = box_limits(origins, directions, side)
    hit = end > start
    any_hit = hit.any()
    nearest = start.masked_fill(~hit, torch.inf).amin()
    farthest = start.masked_fill(~hit, -torch.inf).amax()
    nearest = torch.where(any_hit, nearest, torch.zeros_like(nearest))
    farthest = torch.where(any_hit, farthest, torch.full_like(farthest, side))
    return torch.where(hit, start, nearest), torch.where(hit, end, farthest)
