"""Camera rays, and where they cross the cube that holds the scene."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Empty interval that `box_limits` returns for rays that miss the cube.
MISS_START = -1.0
MISS_END = -2.0


def sample_rays(cam2world: Tensor, intrinsics: Tensor, resolution: int) -> tuple[Tensor, Tensor]:
    """Generate one ray through the center of every pixel of a square image, row by row.

    Args:
        cam2world: N,4,4 OpenCV camera (x right, y down, z forward) to world.
        intrinsics: N,3,3 divided by the image size, skew allowed.
        resolution: r, pixels on a side.
    Returns:
        origins N,r*r,3 in world units; directions N,r*r,3 of length 1.
    Raises:
        ValueError: a resolution below 1.
    """
    if resolution < 1:
        raise ValueError(f"resolution: expected 1 or more pixels, got {resolution}")

    # Pixel centers in [0, 1]: u along a row, v along a column. The first ray is that of the top left pixel.
    centers = (torch.arange(resolution, dtype=cam2world.dtype, device=cam2world.device) + 0.5) / resolution
    v, u = torch.meshgrid(centers, centers, indexing="ij")
    return rays_through(cam2world, intrinsics, u.reshape(1, -1), v.reshape(1, -1))


def rays_through(cam2world: Tensor, intrinsics: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Generate rays through image points.

    Args:
        cam2world: N,4,4 OpenCV camera (x right, y down, z forward) to world.
        intrinsics: N,3,3 divided by the image size, skew allowed.
        u, v: N,M or 1,M points along rows and along columns, 0 to 1 from edge to edge.
    Returns:
        origins N,M,3 in world units; directions N,M,3 of length 1.
    """
    # Invert the pinhole projection u = focal_u x + skew y + center_u, v = focal_v y + center_v at depth 1.
    focal_u = intrinsics[:, 0, 0, None]  # N,1
    focal_v = intrinsics[:, 1, 1, None]
    skew = intrinsics[:, 0, 1, None]
    center_u = intrinsics[:, 0, 2, None]
    center_v = intrinsics[:, 1, 2, None]
    y = (v - center_v) / focal_v  # N,M
    x = (u - center_u - skew * y) / focal_u

    # Rotate to world coordinates. With directions of length 1, depths are distances from the camera.
    in_camera = torch.stack([x, y, torch.ones_like(x)], dim=-1)  # N,M,3
    directions = F.normalize(in_camera @ cam2world[:, :3, :3].mT, dim=-1)
    origins = cam2world[:, None, :3, 3].expand_as(directions)
    return origins, directions


def box_limits(origins: Tensor, directions: Tensor, side: float) -> tuple[Tensor, Tensor]:
    """Compute where rays enter and leave a cube about the origin (slab method, Kay and Kajiya 1986).

    A cube behind the origin of a ray counts too and gives negative distances.

    Args:
        origins, directions: N,M,3.
        side: edge length of the cube, world units.
    Returns:
        start, end: N,M,1 distances along the ray; MISS_START and MISS_END where the ray misses.
    """
    # A ray parallel to two faces has infinite distances to them, with signs that make the comparisons below right.
    inverse = directions.reciprocal()
    low = (-side / 2 - origins) * inverse  # N,M,3 distances to the two faces normal to each axis
    high = (side / 2 - origins) * inverse

    # The ray is inside between its last entry and its first exit. fmin and fmax ignore the NaN, 0 * inf, of a ray that
    # lies in a face.
    start = torch.fmin(low, high).amax(dim=-1, keepdim=True)
    end = torch.fmax(low, high).amin(dim=-1, keepdim=True)
    miss = start > end
    return start.masked_fill(miss, MISS_START), end.masked_fill(miss, MISS_END)


def auto_limits(origins: Tensor, directions: Tensor, side: float) -> tuple[Tensor, Tensor]:
    """Compute `box_limits` with a valid interval for every ray.

    As in the published code, rays that miss the cube get the interval from the smallest to the largest *start* of the
    rays of the call that hit it. If no ray hits, all get the interval from 0 to `side`.

    Args:
        origins, directions: N,M,3.
        side: edge length of the cube, world units.
    Returns:
        start, end: N,M,1.
    """
    start, end = box_limits(origins, directions, side)
    hit = end > start

    # Range of starts of the rays that hit, scalars. Rays that miss sample only the zeros outside of the planes, so
    # their interval hardly matters, but it has to be finite.
    nearest = start.masked_fill(~hit, torch.inf).amin()
    farthest = start.masked_fill(~hit, -torch.inf).amax()

    # Without any hit the range is [0, side]; torch.where avoids waiting for the device.
    any_hit = hit.any()
    nearest = torch.where(any_hit, nearest, torch.zeros_like(nearest))
    farthest = torch.where(any_hit, farthest, torch.full_like(farthest, side))
    return torch.where(hit, start, nearest), torch.where(hit, end, farthest)
