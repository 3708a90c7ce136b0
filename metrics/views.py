"""Several views of one scene: camera geometry, consistency of views, and errors against known views and depth."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from camera_utils import join_pose, split_pose
from metrics.distribution import to_float64
from metrics.image_similarity import psnr, ssim
from training.volumetric_rendering.rays import sample_rays

# Yaw of turned views relative to the input view; the range of the video of faces.
TURNS_RAD = (-0.35, -0.175, 0.175, 0.35)
# Relative difference of depth below which two views see the same surface.
DEPTH_AGREEMENT = 0.01
# Rays with less weight have no surface.
OPAQUE = 0.5

# Density grid points per axis for meshes: a head is about 100 of them wide.
MESH_GRID = 128
# Points of each surface that are compared.
SURFACE_POINTS = 4096

Views = dict[str, Tensor]  # image N,3,R,R; semantic N,S,R,R; image_depth and weight N,1,r,r

# --------------------------------------------------------------------------- geometry


def turn_pose(pose: Tensor, yaw_rad: float, pivot: Tensor) -> Tensor:
    """Rotate cameras N,25 around the vertical axis through a point (3, world units)."""
    # Rotation about the vertical (y) axis.
    cam2world, intrinsics = split_pose(pose)
    pivot = pivot.to(pose)
    cos = math.cos(yaw_rad)
    sin = math.sin(yaw_rad)
    rotation = pose.new_tensor([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])

    # As a 4,4 matrix that leaves the pivot where it is.
    turn = torch.eye(4, dtype=pose.dtype, device=pose.device)
    turn[:3, :3] = rotation
    turn[:3, 3] = pivot - rotation @ pivot
    return join_pose(turn @ cam2world, intrinsics)


def unproject(depth: Tensor, pose: Tensor) -> Tensor:
    """Compute world points N,H*W,3 of depth images N,1,H,H (distance along unit rays) with poses N,25."""
    # Depth is measured along the ray, not along the optical axis.
    origins, directions = sample_rays(*split_pose(pose), depth.shape[-1])
    return origins + directions * depth.flatten(1)[..., None]


def project(points: Tensor, pose: Tensor) -> tuple[Tensor, Tensor]:
    """Project points N,M,3 into cameras N,25.

    Returns:
        N,M,2 image coordinates (u, v), in [0, 1] inside the image and -1 for points behind the camera; N,M distance.
    """
    cam2world, intrinsics = split_pose(pose)

    # Camera coordinates: the inverse of a rotation is its transpose.
    offset = points - cam2world[:, None, :3, 3]
    x, y, z = (offset @ cam2world[:, :3, :3]).unbind(-1)

    # Perspective division; points behind the camera are moved out of the image.
    positive_z = z.clamp(min=1e-6)
    image = torch.stack([x / positive_z, y / positive_z, torch.ones_like(z)], dim=-1) @ intrinsics.mT
    uv = torch.where((z > 0)[..., None], image[..., :2], torch.full_like(image[..., :2], -1.0))
    return uv, offset.norm(dim=-1)


def _inside(uv: Tensor) -> Tensor:
    """Return whether image coordinates N,M,2 lie inside the image: N,M bool."""
    return (uv > 0).all(-1) & (uv < 1).all(-1)


def _sample_image(image: Tensor, uv: Tensor, mode: str = "bilinear") -> Tensor:
    """Sample N,C,H,W at image coordinates N,M,2: N,C,M."""
    # grid_sample takes [-1, 1] between the outer edges of the border pixels.
    return F.grid_sample(image, uv[:, None] * 2 - 1, mode=mode, padding_mode="border", align_corners=False)[:, :, 0]


def _upsample(image: Tensor, resolution: int) -> Tensor:
    """Resize N,1,r,r to N,1,R,R in float32."""
    return F.interpolate(image.float(), resolution, mode="bilinear", align_corners=False)


# --------------------------------------------------------------------------- consistency of views


def reprojection_errors(first: Views, first_pose: Tensor, others: Views, poses: Tensor) -> Tensor:
    """Compare V views with a first view at the pixels where both see the same surface according to their depths.

    Args:
        first: outputs of one view.
        first_pose: 1,25.
        others: outputs of V views.
        poses: V,25.
    Returns:
        V,5: mean color difference (share of the range); share of pixels of another class, or mean difference of line
        strength for edges; the same two without reprojection, at the same pixels; share of pixels that were compared.
        The first four are NaN for a view without such pixels.
    """
    # Reproject the pixels of the other views into the first one.
    resolution = first["image"].shape[-1]
    count = len(poses)
    points = unproject(_upsample(others["image_depth"], resolution), poses)  # V,M,3
    uv, distance = project(points, first_pose.expand(count, -1))

    # Pixels that are inside the first view, at the depth that it sees there, and opaque in both views.
    first_depth = _upsample(first["image_depth"], resolution).expand(count, -1, -1, -1)
    first_weight = _upsample(first["weight"], resolution).expand(count, -1, -1, -1)
    depth_error = (_sample_image(first_depth, uv)[:, 0] - distance).abs()
    compared = _inside(uv) & depth_error.lt(DEPTH_AGREEMENT * distance)
    compared &= _sample_image(first_weight, uv)[:, 0] > OPAQUE
    compared &= _upsample(others["weight"], resolution).flatten(1) > OPAQUE  # V,M

    # Mean differences at these pixels, with and without reprojection; 0 / 0 is NaN.
    unmoved_uv, _ = project(points, poses)
    errors = [*_view_differences(first, others, uv), *_view_differences(first, others, unmoved_uv)]
    means = [torch.where(compared, error, 0).sum(1) / compared.sum(1) for error in errors]
    return torch.stack([*means, compared.float().mean(1)], dim=1)


def _view_differences(first: Views, others: Views, uv: Tensor) -> tuple[Tensor, Tensor]:
    """Compute differences in color and label, both V,M in [0, 1], of the first view at uv (V,M,2) and V other views."""
    # Color: mean over channels, as a share of the range [-1, 1].
    image = first["image"].float().expand(len(uv), -1, -1, -1)
    semantic = first["semantic"].float().expand(len(uv), -1, -1, -1)
    color = (_sample_image(image, uv) - others["image"].float().flatten(2)).abs().mean(1) / 2

    # Line strength of edges, a range of 2.
    if semantic.shape[1] == 1:
        difference = _sample_image(semantic, uv) - others["semantic"].float().flatten(2)
        return color, difference[:, 0].abs().clamp(max=2) / 2

    # Classes have no values in between, so the nearest pixel is compared.
    classes = _sample_image(semantic.argmax(1, keepdim=True).float(), uv, "nearest")[:, 0]
    return color, (classes != others["semantic"].argmax(1).flatten(1)).float()


def embedding_distances(first: Tensor, others: Tensor) -> Tensor:
    """Compute V,2 Euclidean and cosine distances of embeddings V,F to that of the first view, 1,F."""
    first = to_float64(first)
    others = to_float64(others)
    cosine = 1 - F.cosine_similarity(first, others)
    return torch.stack([(first - others).norm(dim=1), cosine], dim=1)


# --------------------------------------------------------------------------- errors against the data set


def novel_view_errors(views: Views, image: Tensor, depth: Tensor | None) -> Tensor:
    """Average over V views PSNR (dB), SSIM, and depth error on the object (world units, NaN without depth): 3.

    Args:
        views: outputs of V views.
        image: V,3,R,R true images in [-1, 1].
        depth: V,1,R,R true depth, 0 where there is no object; None if unknown.
    """
    # Depth is compared at the resolution of the data, on the object only.
    depth_error = torch.tensor(torch.nan, dtype=torch.float64)
    if depth is not None and "image_depth" in views:
        error = (_upsample(views["image_depth"], depth.shape[-1]) - depth).abs()
        depth_error = to_float64(error[depth > 0]).mean()

    # Images are compared within the range of stored images.
    rendered = views["image"].float().clamp(-1, 1)
    return torch.stack([x.cpu() for x in (psnr(rendered, image).mean(), ssim(rendered, image).mean(), depth_error)])


def subsample_points(points: Tensor, count: int = SURFACE_POINTS) -> Tensor:
    """Select at most `count` of K,3 points, always the same ones for the same K."""
    return points[np.random.RandomState(0).permutation(len(points))[:count]]


def visible_points(points: Tensor, depth: Tensor, pose: Tensor) -> Tensor:
    """Select those of K,3 points that at least one of V cameras V,25 sees according to its depth V,1,r,r."""
    # A point is visible if it is not farther away than what the camera sees in its direction.
    uv, distance = project(points.expand(len(pose), -1, -1), pose)
    max_distance = _sample_image(depth.float(), uv)[:, 0] * (1 + DEPTH_AGREEMENT)  # V,K
    return points[(_inside(uv) & (distance < max_distance)).any(0)]


def chamfer_distances(surface: Tensor, truth: Tensor) -> Tensor:
    """Compute the mean distance from surface points to the true ones, the other way around, and the mean of both.

    A subset of one side is compared with all points of the other, so that equal surfaces differ by less than the
    distance between neighboring points.

    Args:
        surface: K,3 points of the surface.
        truth: L,3 points of the true surface.
    Returns:
        3 float64; NaN if K or L is 0.
    """
    # An empty density field or a depth image without an object has no distance.
    if len(surface) == 0 or len(truth) == 0:
        return torch.full((3,), torch.nan, dtype=torch.float64)
    to_truth = _nearest_distance(surface, truth)
    from_truth = _nearest_distance(truth, surface)
    return torch.tensor([to_truth, from_truth, (to_truth + from_truth) / 2])


def _nearest_distance(points: Tensor, targets: Tensor) -> float:
    """Average the distance of a subset of K,3 points to the nearest of L,3 targets."""
    from scipy.spatial import cKDTree  # optional dependency, shared with mesh extraction

    distances, _ = cKDTree(targets.cpu().numpy()).query(subsample_points(points.cpu()).numpy())
    return distances.mean()
