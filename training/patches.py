"""Rays of training patches: which pixels of an image are rendered, and the same pixels of its targets.

A grid of `size` x `size` raw pixels is either a patch (neighboring pixels, which can be super-resolved) or the whole
image with a stride. Rendering a grid instead of all r x r rays makes a training step several times cheaper.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from camera_utils import split_pose
from training.volumetric_rendering.rays import rays_through

# Patches start up to this many pixels outside of the image and are moved inside, so that borders are sampled as often
# as the middle.
OVERHANG = 6

# Output pixels next to an inner edge of a patch that super-resolution makes differently than in a whole image, as it
# sees zero padding in place of neighbors. Up to three more differ a little.
EDGE_PIXELS = 5

# Range of the depths within a pixel, as a share of the rays' length, above which it shows an edge of the object.
DEPTH_EDGE = 0.04

# Radius of the sphere, as a share of the planes' box, on whose far side empty rays end if there is no white background.
BACKGROUND_RADIUS = 0.48


@dataclass(frozen=True)
class PixelGrid:
    """Raw pixels of each sample.

    Args:
        rows, columns: N,h and N,w int64 pixel indices.
        resolution: r, size of the raw image.
        is_patch: whether the pixels are neighbors.
    """

    rows: Tensor
    columns: Tensor
    resolution: int
    is_patch: bool

    def crop(self, image: Tensor) -> Tensor:
        """Cut these pixels from N,C,r,r: N,C,h,w."""
        samples = torch.arange(len(image), device=image.device)[:, None, None]
        return image[samples, :, self.rows[:, :, None], self.columns[:, None, :]].movedim(-1, 1)

    def crop_scaled(self, image: Tensor, scale: int) -> Tensor:
        """Cut the area of a patch from an image N,C,scale*r,scale*r: N,C,scale*h,scale*w."""
        return PixelGrid(_scaled(self.rows, scale), _scaled(self.columns, scale), 0, True).crop(image)

    def rays(self, pose: Tensor) -> tuple[Tensor, Tensor]:
        """Origins and directions N,h*w,3 of the rays through the pixels' centers, row by row; pose N,25."""
        # Image points of all combinations of rows and columns, N,h,w.
        shape = (len(self.rows), self.rows.shape[1], self.columns.shape[1])
        v = ((self.rows + 0.5) / self.resolution)[:, :, None].expand(shape)
        u = ((self.columns + 0.5) / self.resolution)[:, None, :].expand(shape)
        return rays_through(*split_pose(pose), u.flatten(1), v.flatten(1))

    def interior(self, scale: int) -> Tensor:
        """Return N,1,scale*h,scale*w: 1 where super-resolution of a patch sees what it sees in the whole image."""
        rows = _is_interior(self.rows, self.resolution, scale)
        columns = _is_interior(self.columns, self.resolution, scale)
        return (rows[:, None, :, None] & columns[:, None, None, :]).float()


def _scaled(pixels: Tensor, scale: int) -> Tensor:
    """Pixel indices N,scale*h of the area that N,h neighboring pixels cover in a larger image."""
    return (pixels[..., None] * scale + torch.arange(scale, device=pixels.device)).flatten(1)


def _is_interior(pixels: Tensor, resolution: int, scale: int) -> Tensor:
    """Return whether scaled pixels N,scale*h are far enough from edges of the patch that are not the image's."""
    size = pixels.shape[1] * scale
    position = torch.arange(size, device=pixels.device)
    after_start = (position >= EDGE_PIXELS) | (pixels[:, :1] == 0)
    before_end = (position < size - EDGE_PIXELS) | (pixels[:, -1:] == resolution - 1)
    return after_start & before_end


def sample_patches(count: int, size: int, resolution: int, device: torch.device | str = "cpu") -> PixelGrid:
    """Sample a patch of neighboring raw pixels for each of `count` samples.

    Args:
        count: number of samples N.
        size: pixels on a side.
        resolution: r, of the raw image.
        device: of the result; random numbers are generated on the CPU.
    """
    last = resolution - size  # first pixel of the last possible patch
    first = torch.randint(-OVERHANG, last + OVERHANG + 1, (2, count, 1)).clamp(0, last).to(device)
    rows, columns = first + torch.arange(size, device=device)
    return PixelGrid(rows, columns, resolution, is_patch=True)


def sample_strided(count: int, size: int, resolution: int, device: torch.device | str = "cpu") -> PixelGrid:
    """Sample every (r / size)-th raw pixel of the whole image, with a random offset; arguments as `sample_patches`."""
    stride = resolution // size
    offset = torch.randint(stride, (2, 1, 1)).to(device)
    rows, columns = offset + stride * torch.arange(size, device=device).expand(2, count, size)
    return PixelGrid(rows, columns, resolution, is_patch=False)


# --------------------------------------------------------------------------- depth


@dataclass(frozen=True)
class DepthTarget:
    """Known depth of rays.

    Args:
        depth: N,M where each ray ends, world units; arbitrary where neither of the following is true.
        is_surface: N,M bool, rays that end on a smooth part of the object.
        is_empty: N,M bool, rays that miss the object.
    """

    depth: Tensor
    is_surface: Tensor
    is_empty: Tensor


def depth_target(depth_map: Tensor, grid: PixelGrid, background: Tensor, ray_length: float) -> DepthTarget:
    """Reduce a depth map to the rays of a grid.

    Args:
        depth_map: N,1,R,R distance along rays, world units, 0 where nothing is; R is a multiple of r.
        grid: raw pixels.
        background: N,M depth of rays that miss the object.
        ray_length: of the part of the rays that is rendered, world units.
    """
    # Smallest, largest and mean depth in each raw pixel, N,1,r,r.
    factor = depth_map.shape[-1] // grid.resolution
    smallest = -F.max_pool2d(-depth_map, factor)
    largest = F.max_pool2d(depth_map, factor)
    mean = F.avg_pool2d(depth_map, factor)

    # Pixels with an edge of the object have no depth of their own.
    is_surface = (smallest > 0) & (largest - smallest < DEPTH_EDGE * ray_length)
    is_surface, is_empty, mean = (grid.crop(x).flatten(1) for x in (is_surface, largest == 0, mean))
    return DepthTarget(torch.where(is_empty, background, mean), is_surface, is_empty)


def far_side(origins: Tensor, directions: Tensor, radius: float) -> Tensor:
    """Depth N,M at which rays N,M,3 leave a sphere about the origin; of the nearest point for rays that miss it."""
    # Solve |origin + t direction| = radius for the larger t.
    half_b = (origins * directions).sum(-1)
    discriminant = half_b.square() - origins.square().sum(-1) + radius**2
    return discriminant.clamp(min=0).sqrt() - half_b
