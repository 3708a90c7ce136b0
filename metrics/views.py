"""Several views of one scene: whether they fit each other, through the rendered depth, and whether they fit truth."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from camera_utils import join_pose, split_pose
from metrics.alignment import confusion, edge_histograms, edge_tolerance
from metrics.distribution import in_float64
from metrics.generated import some_points
from metrics.similarity import psnr, ssim
from training.volumetric_rendering.rays import sample_rays

TURNS_RAD = (-0.35, -0.175, 0.175, 0.35)  # of the other views, about the vertical axis; the video's swing of a face
DEPTH_AGREEMENT = 0.01  # of a point's distance: views whose depths differ less see the same surface
OPAQUE = 0.5  # of a ray must be covered for its depth to be that of a surface

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
        first, others: image, semantic, image_depth and weight of one view and of V.
    Returns:
        V,5: mean color difference (share of the range); share of pixels of another class, or mean difference of line
        strength; the same two of the pictures laid on each other as they are, over the same pixels; share of the
        pixels that were compared. The first four are NaN where none was.
    """
    size, count = first["image"].shape[-1], len(poses)
    depth, others_depth, weight, others_weight = (
        enlarged(view[name].float(), size) for name in ("image_depth", "weight") for view in (first, others)
    )
    points = points_of(others_depth, poses)  # V,M,3
    uv, distance = project(points, first_pose.expand(count, -1))
    there, cover = (_picked(x.expand(count, -1, -1, -1), uv, "bilinear")[:, 0] for x in (depth, weight))
    both = (uv > 0).all(-1) & (uv < 1).all(-1) & (there - distance).abs().lt(DEPTH_AGREEMENT * distance)
    both &= (cover > OPAQUE) & (others_weight.flatten(1) > OPAQUE)
    unmoved, _ = project(points, poses)
    errors = [error for place in (uv, unmoved) for error in _differences(first, others, place)]
    compared = both.sum(1)
    means = [torch.where(both, error, 0).sum(1) / compared for error in errors]  # 0 / 0 is NaN
    return torch.stack([*means, both.float().mean(1)], dim=1)


def _differences(first: dict[str, Tensor], others: dict[str, Tensor], uv: Tensor) -> tuple[Tensor, Tensor]:
    """Color and label of the first view at uv against the others' pixels: V,M twice, in [0, 1]."""
    image, semantic = (first[name].float().expand(len(uv), -1, -1, -1) for name in ("image", "semantic"))
    color = (_picked(image, uv, "bilinear") - others["image"].float().flatten(2)).abs().mean(1) / 2
    if semantic.shape[1] == 1:
        lines = _picked(semantic, uv, "bilinear") - others["semantic"].float().flatten(2)
        return color, lines[:, 0].abs().clamp(max=2) / 2
    ids = _picked(semantic.argmax(1, keepdim=True).float(), uv, "nearest")[:, 0]
    return color, (ids != others["semantic"].argmax(1).flatten(1)).float()


def embedding_distances(first: Tensor, others: Tensor) -> Tensor:
    """V,2: Euclidean and cosine distance of embeddings V,F to that of the first view, 1,F."""
    first, others = in_float64(first), in_float64(others)
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
        error = (enlarged(found["image_depth"].float(), depth.shape[-1]) - depth).abs()[there]
        error = in_float64(error).mean()
    drawn = found["image"].float().clamp(-1, 1)
    return torch.stack([x.cpu() for x in (psnr(drawn, image).mean(), ssim(drawn, image).mean(), error)])


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


def chamfer(surface: Tensor, truth: Tensor) -> Tensor:
    """Mean distance from `some_points` of a surface K,3 to the nearest true point of L,3, the other way, and of both.

    All points of the other side are there to be found, so that what remains for equal surfaces is a share of the
    distance from point to point. 3 float64; NaN where a side has no points.
    """
    if not (len(surface) and len(truth)):
        return torch.full((3,), torch.nan, dtype=torch.float64)
    from scipy.spatial import cKDTree  # an extra, which meshes need too

    pairs = ((x.cpu(), y.cpu()) for x, y in ((surface, truth), (truth, surface)))
    there, back = (cKDTree(y.numpy()).query(some_points(x).numpy())[0].mean() for x, y in pairs)
    return torch.tensor([there, back, (there + back) / 2])
