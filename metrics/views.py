"""Several views of one scene: whether they fit each other, through the rendered depth, and whether they fit truth."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from camera_utils import join_pose, split_pose
from metrics.alignment import confusion, edge_histograms, edge_tolerance
from metrics.similarity import psnr, ssim
from training.volumetric_rendering.rays import sample_rays

TURNS_RAD = (-0.35, -0.175, 0.175, 0.35)  # of the other views, about the vertical axis; the video's swing of a face
DEPTH_AGREEMENT = 0.01  # of a point's distance: views whose depths differ less see the same surface
EMPTY = 0.999  # of the largest depth of a call, which is what rays without anything get

# --------------------------------------------------------------------------- geometry


def turned(pose: Tensor, yaw_rad: float, pivot: Tensor) -> Tensor:
    """Poses N,25 of the cameras turned about the vertical axis through a point (3, world units)."""
    cam2world, intrinsics = split_pose(pose)
    cos, sin = math.cos(yaw_rad), math.sin(yaw_rad)
    turn = torch.eye(4, dtype=pose.dtype, device=pose.device)
    turn[0, 0], turn[0, 2], turn[2, 0], turn[2, 2] = cos, sin, -sin, cos
    pivot = pivot.to(pose)
    turn[:3, 3] = pivot - turn[:3, :3] @ pivot
    return join_pose(turn @ cam2world, intrinsics)


def points_of(depth: Tensor, pose: Tensor) -> Tensor:
    """World points N,H*W,3 of depth pictures N,1,H,H (distance along unit rays) with poses N,25."""
    origins, directions = sample_rays(*split_pose(pose), depth.shape[-1])
    return origins + directions * depth.flatten(1)[..., None]


def project(points: Tensor, pose: Tensor) -> tuple[Tensor, Tensor]:
    """Where cameras N,25 see points N,M,3: picture coordinates N,M,2 (u, v in [0, 1] inside) and distance N,M.

    Points behind a camera get coordinates outside the picture.
    """
    cam2world, intrinsics = split_pose(pose)
    offset = points - cam2world[:, None, :3, 3]
    x, y, z = (offset @ cam2world[:, :3, :3]).unbind(-1)
    ahead = z.clamp(min=1e-6)
    image = torch.stack([x / ahead, y / ahead, torch.ones_like(z)], dim=-1) @ intrinsics.mT
    uv = torch.where((z > 0)[..., None], image[..., :2], torch.full_like(image[..., :2], -1.0))
    return uv, offset.norm(dim=-1)


def _picked(picture: Tensor, uv: Tensor, mode: str) -> Tensor:
    """N,C,M values of N,C,H,W at picture coordinates N,M,2."""
    found = F.grid_sample(picture, uv[:, None] * 2 - 1, mode=mode, padding_mode="border", align_corners=False)
    return found[:, :, 0]


def enlarged(depth: Tensor, resolution: int) -> Tensor:
    """N,1,r,r as N,1,R,R."""
    return F.interpolate(depth, resolution, mode="bilinear", align_corners=False)


# --------------------------------------------------------------------------- views against each other


def reprojection(first: dict[str, Tensor], first_pose: Tensor, others: dict[str, Tensor], poses: Tensor) -> Tensor:
    """How far other views differ from the first where both see the same surface, by their own depths.

    Args:
        first, others: image, semantic and image_depth of one view and of V.
    Returns:
        V,3: mean colour difference (share of the range); share of pixels of another class, or mean difference of line
        strength; share of the pixels that were compared. The first two are NaN where none was.
    """
    size, count = first["image"].shape[-1], len(poses)
    depths = [enlarged(view["image_depth"].float(), size) for view in (first, others)]
    points = points_of(depths[1], poses)  # V,M,3
    uv, distance = project(points, first_pose.expand(count, -1))
    pictures = {name: first[name].float().expand(count, -1, -1, -1) for name in ("image", "semantic")}
    there = _picked(depths[0].expand(count, -1, -1, -1), uv, "bilinear")[:, 0]
    far = EMPTY * max(view["image_depth"].max().item() for view in (first, others))
    both = (uv > 0).all(-1) & (uv < 1).all(-1) & (depths[1].flatten(1) < far)
    both &= (there - distance).abs() < DEPTH_AGREEMENT * distance
    colour = (_picked(pictures["image"], uv, "bilinear") - others["image"].float().flatten(2)).abs().mean(1) / 2
    label = _label_difference(pictures["semantic"], others["semantic"].float(), uv)
    compared = both.sum(1)
    errors = [torch.where(both, error, 0).sum(1) / compared for error in (colour, label)]  # 0 / 0 is NaN
    return torch.stack([*errors, both.float().mean(1)], dim=1)


def _label_difference(first: Tensor, others: Tensor, uv: Tensor) -> Tensor:
    """N,M in [0, 1]."""
    if first.shape[1] == 1:
        return (_picked(first, uv, "bilinear") - others.flatten(2))[:, 0].abs().clamp(max=2) / 2
    ids = first.argmax(1, keepdim=True).float()
    return (_picked(ids, uv, "nearest")[:, 0] != others.argmax(1).flatten(1)).float()


def embedding_distances(first: Tensor, others: Tensor) -> Tensor:
    """V,2: Euclidean and cosine distance of embeddings V,F to that of the first view, 1,F."""
    first, others = first.double(), others.double()
    cosine = 1 - F.cosine_similarity(first, others)
    return torch.stack([(first - others).norm(dim=1), cosine], dim=1)


# --------------------------------------------------------------------------- views against the truth


def picture_errors(found: dict[str, Tensor], image: Tensor, depth: Tensor | None) -> Tensor:
    """Means over V views: PSNR in dB, SSIM, and mean depth error (world units) on the object, NaN without depth: 3.

    Args:
        found: image, image_depth of V views. image: V,3,R,R in [-1, 1]. depth: V,1,R,R, 0 where there is no object.
    """
    error = torch.tensor(torch.nan, dtype=torch.float64)
    if depth is not None and "image_depth" in found:
        there = depth > 0
        error = (enlarged(found["image_depth"].float(), depth.shape[-1]) - depth).abs()[there].double().mean()
    drawn = found["image"].float().clamp(-1, 1)
    return torch.stack([psnr(drawn, image).mean(), ssim(drawn, image).mean(), error.to(image.device)])


def label_counts(semantic: Tensor, label_map: Tensor) -> Tensor:
    """Counts for `mean_iou` and `pixel_accuracy` (classes), or for `average_precision` (edges).

    Args:
        semantic: N,S,R,R as rendered. label_map: N,1,R,R in network form.
    """
    if semantic.shape[1] == 1:
        return edge_histograms(label_map.to(semantic), semantic, edge_tolerance(label_map.shape[-1]))
    return confusion(label_map, semantic.argmax(1, keepdim=True), semantic.shape[1])


def seen_points(points: Tensor, depth: Tensor, pose: Tensor) -> Tensor:
    """Those of K,3 points that at least one of V cameras sees, by its depth picture V,1,r,r."""
    uv, distance = project(points.expand(len(pose), -1, -1), pose)
    limit = _picked(depth.float(), uv, "bilinear")[:, 0] * (1 + DEPTH_AGREEMENT)
    return points[((uv > 0).all(-1) & (uv < 1).all(-1) & (distance < limit)).any(0)]


def chamfer(a: Tensor, b: Tensor) -> Tensor:
    """Mean distance from points a (K,3) to the nearest of b (L,3), the other way round, and the mean of both: 3."""
    there, back = (torch.cdist(x, y).amin(1).double().mean() for x, y in ((a, b), (b, a)))
    return torch.stack([there, back, (there + back) / 2])
