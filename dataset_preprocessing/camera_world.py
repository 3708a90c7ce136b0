"""Crop cameras to the center square, and normalize the world of their poses."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from camera_utils import CameraPreset, join_pose, split_pose
from dataset_preprocessing.cameras import Camera

# Largest ratio of the focal lengths in pixels. Pixels of photos are square; a larger ratio means another image.
MAX_PIXEL_ASPECT = 1.15

# Smallest eigenvalue per camera of the least-squares matrix of `_target`: the mean squared sine of the angles between
# the axes and their common direction, so about 2 degrees.
MIN_AXIS_SPREAD = 1e-3

# Smallest distance of the cameras from where their axes meet, relative to their distance from the origin.
MIN_DISTANCE = 1e-6

# Deviation from a preset's distance and pivot up to which cameras are in its world, relative to its distance. Real
# cameras aim at the pivot only on average.
PRESET_TOLERANCE = 0.05

# Iterations that are enough for double precision, as each doubles the number of digits.
NEWTON_STEPS = 8

# --------------------------------------------------------------------------- crop


def center_square(width: int, height: int) -> tuple[int, int, int]:
    """Return left, top and side of the largest centered square, in whole pixels."""
    side = min(width, height)
    return (width - side) // 2, (height - side) // 2, side


def is_scaled_copy(size: tuple[float, float], other: tuple[float, float]) -> bool:
    """Return whether sizes (width, height) have equal aspect ratios, up to a pixel of rounding of the smaller one."""
    small, large = sorted([size, other])
    excess_width = abs(small[0] - small[1] * large[0] / large[1])
    excess_height = abs(small[1] - small[0] * large[1] / large[0])
    return min(excess_width, excess_height) <= 1


def crop_camera(camera: Camera, width: int, height: int) -> np.ndarray:
    """Return the pose, float64 25, of the center square of a width x height image.

    Raises:
        ValueError: the camera is that of an image with another shape.
    """
    if camera.size and not is_scaled_copy(camera.size, (width, height)):
        raise ValueError(
            f"{width}x{height} pixels, but its camera is for {camera.size[0]:g}x{camera.size[1]:g}: rotated or cropped "
            "after the cameras were found"
        )

    # A view of the copied numbers. Without a vertical focal length, pixels are square.
    pose = camera.pose.copy()
    k = pose[16:].reshape(3, 3)
    if np.isnan(k[1, 1]):
        k[1, 1] = k[0, 0] * width / height

    # From fractions of the image to fractions of the square, with the origin at the square's corner.
    left, top, side = center_square(width, height)
    k[0] *= width / side
    k[1] *= height / side
    k[0, 2] -= left / side
    k[1, 2] -= top / side

    # Finds files without the size of the image: poses of square images, for example, with images that are not square.
    if min(k[0, 0], k[1, 1]) > 0 and max(k[0, 0], k[1, 1]) > MAX_PIXEL_ASPECT * min(k[0, 0], k[1, 1]):
        raise ValueError(
            f"{width}x{height} pixels, whose focal lengths would be {k[0, 0] * side:.4g} and {k[1, 1] * side:.4g} "
            "pixels, expected equal ones: rotated, cropped or stretched after the cameras were found"
        )
    return pose


# --------------------------------------------------------------------------- normalize


def normalize_cameras(poses: Tensor, preset: CameraPreset) -> Tensor:
    """Move and scale the world of poses N,25 to that of a preset.

    The point that the cameras look at becomes the preset's pivot, and their mean distance from the origin its radius.

    Raises:
        ValueError: the cameras do not determine a point or a scale.
    """
    cam2world, intrinsics = split_pose(poses.double())
    offset = cam2world[:, :3, 3] - _target(cam2world)  # N,3
    if offset.norm(dim=1).mean() <= MIN_DISTANCE * cam2world[:, :3, 3].norm(dim=1).max():
        raise ValueError("the cameras stand at one point, where their axes meet (are these world-to-camera matrices?)")

    # Rotations stay.
    pivot = torch.tensor(preset.pivot, dtype=torch.float64)
    moved = cam2world.clone()
    moved[:, :3, 3] = pivot + offset * _scale_to_radius(offset, pivot, preset.radius)
    return join_pose(moved, intrinsics)


def fits_preset(poses: Tensor, preset: CameraPreset) -> bool:
    """Return whether poses N,25 are in the world of a preset: its distance, and its pivot as far as it is known."""
    cam2world = split_pose(poses.double())[0]
    tolerance = PRESET_TOLERANCE * preset.radius
    if abs(cam2world[:, :3, 3].norm(dim=1).mean() - preset.radius) > tolerance:
        return False

    # Parallel axes do not say where the scene is.
    try:
        target = _target(cam2world)
    except ValueError:
        return True
    return bool((target - torch.tensor(preset.pivot)).norm() <= tolerance)


def _target(cam2world: Tensor) -> Tensor:
    """Return the point 3 nearest to the optical axes of cameras N,4,4 (least squares).

    Raises:
        ValueError: the axes are almost parallel and do not determine a point.
    """
    # The squared distance of x to an axis with direction d is |P (x - position)|^2, where P = I - d d^T projects across
    # d. The sum over all axes is least where sum(P) x = sum(P position).
    position = cam2world[:, :3, 3:]  # N,3,1
    forward = cam2world[:, :3, 2:3]  # N,3,1
    projection = torch.eye(3).to(forward) - forward @ forward.mT  # N,3,3
    total = projection.sum(0)
    if torch.linalg.eigvalsh(total)[0] < MIN_AXIS_SPREAD * len(cam2world):
        raise ValueError("the cameras look in one direction, which does not determine where the scene is")
    return torch.linalg.solve(total, (projection @ position).sum(0))[:, 0]


def _scale_to_radius(offset: Tensor, pivot: Tensor, radius: float) -> Tensor:
    """Return the positive scale with which the mean norm of pivot + scale * offset is `radius`; offset N,3, pivot 3."""
    # The mean is convex in the scale, so Newton's steps from above approach the solution from above. The first guess is
    # the solution for a pivot at the origin.
    scale = (radius + pivot.norm()) / offset.norm(dim=1).mean()
    for _ in range(NEWTON_STEPS):
        position = pivot + scale * offset
        slope = (F.normalize(position, dim=1) * offset).sum(1).mean()
        scale = scale - (position.norm(dim=1).mean() - radius) / slope
    return scale
