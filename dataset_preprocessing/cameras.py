"""Import camera poses from dataset.json (EG3D) and transforms.json (NeRF), crop and normalize them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from camera_utils import join_pose, opengl_to_opencv, split_pose, z_up_to_y_up
from training.data.archive import WHOLE, DataError, Problem, data_error
from training.data.index import stem_of
from training.data.pose_files import by_name, parse_json, to_float32

# Lens parameters in transforms.json.
DISTORTION_KEYS = ("k1", "k2", "k3", "k4", "p1", "p2")

# Smallest eigenvalue per camera of the least-squares matrix of `normalize_cameras`: the mean squared sine of the angles
# between the axes and their common direction, so about 2 degrees.
MIN_AXIS_SPREAD = 1e-3


def read_cameras(path: Path, z_up: bool = True) -> dict[str, np.ndarray]:
    """Read poses by image name without extension, float32 25 each; intrinsics are divided by the image's width, height.

    Args:
        path: a dataset.json (EG3D), or a transforms.json (NeRF, COLMAP, Blender: OpenGL cameras).
        z_up: for transforms.json, the world has z up and front -y, as in Blender; else y up and front +z.
    Raises:
        DataError: another format; or entries that are incomplete, duplicate or have lens distortion.
    """
    # Entries by name: lists of 25 numbers, or frames. Names may have the separators of Windows.
    try:
        content = parse_json(path.read_bytes())
        is_eg3d = isinstance(content, dict) and "labels" in content
        pairs = content["labels"] if is_eg3d else _nerf_frames(content)
        entries, problems = by_name(pairs, normalize=lambda name: stem_of(name.replace("\\", "/")))
    except ValueError as error:
        raise data_error(path, WHOLE, f"not readable as cameras ({error})") from error

    # Convert one by one, so that each problem names its entry.
    poses = {}
    for name, entry in entries.items():
        try:
            poses[name] = to_float32(entry, 25) if is_eg3d else _nerf_pose(entry, z_up)
        except ValueError as error:
            problems.append(Problem(name, str(error)))
    if problems:
        raise DataError(path, problems)
    return poses


# --------------------------------------------------------------------------- transforms.json


def _nerf_frames(content: object) -> list[list]:
    """Return [file_path, frame] pairs, where each frame inherits the values of the whole file."""
    if not isinstance(content, dict) or not isinstance(content.get("frames"), list):
        raise ValueError(
            'expected {"labels": [...]} of EG3D\'s dataset.json or {"frames": [...]} of NeRF\'s transforms.json'
        )

    # Intrinsics may be given once for all frames or in each frame.
    for number, frame in enumerate(content["frames"]):
        if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str):
            raise ValueError(f"frame {number} has no file_path")
    return [[frame["file_path"], {**content, **frame}] for frame in content["frames"]]


def _nerf_pose(frame: dict, z_up: bool) -> np.ndarray:
    """Convert a frame to 25 float32; the vertical focal length is NaN if only the field of view is known."""
    # Parameters that are 0 are as good as missing.
    distortion = [key for key in DISTORTION_KEYS if frame.get(key)]
    if distortion:
        key = distortion[0]
        raise ValueError(f"{key} is {frame[key]}: lens distortion is not supported, undistort the images first")

    # To the camera axes and world axes of this project.
    cam2world = opengl_to_opencv(torch.from_numpy(_numbers(frame, "transform_matrix", 4, 4))[None])
    if z_up:
        cam2world = z_up_to_y_up(cam2world)

    # Intrinsics of COLMAP, in pixels: the principal point defaults to the center, fl_y to fl_x.
    if "fl_x" in frame:
        width = _number_between(frame, "w")
        height = _number_between(frame, "h")
        focal_x = _number_between(frame, "fl_x")
        focal_y = _number_between(frame, "fl_y") if "fl_y" in frame else focal_x
        center_x = float(_numbers(frame, "cx")) / width if "cx" in frame else 0.5
        center_y = float(_numbers(frame, "cy")) / height if "cy" in frame else 0.5
        intrinsics = [[focal_x / width, 0, center_x], [0, focal_y / height, center_y], [0, 0, 1]]

    # Of Blender: the horizontal field of view. The image's size is not known here; `crop_intrinsics` replaces the NaN.
    else:
        focal_norm = 0.5 / math.tan(_number_between(frame, "camera_angle_x", math.pi) / 2)
        intrinsics = [[focal_norm, 0, 0.5], [0, math.nan, 0.5], [0, 0, 1]]
    return join_pose(cam2world, torch.tensor(intrinsics)[None])[0].numpy()


def _numbers(frame: dict, key: str, *shape: int) -> np.ndarray:
    if key not in frame:
        raise ValueError(f"no {key!r}")
    try:
        return to_float32(frame[key], *shape)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


def _number_between(frame: dict, key: str, end: float = math.inf) -> float:
    """Return a number between 0 and `end`, both excluded."""
    number = float(_numbers(frame, key))
    if not 0 < number < end:
        limit = f", less than {end:g}" if end < math.inf else ""
        raise ValueError(f"{key}: got {number:g}, expected more than 0{limit}")
    return number


# --------------------------------------------------------------------------- crop and normalize


def center_square(width: int, height: int) -> tuple[int, int, int]:
    """Return left, top and side of the largest centered square, in whole pixels."""
    side = min(width, height)
    return (width - side) // 2, (height - side) // 2, side


def crop_intrinsics(pose: np.ndarray, width: int, height: int) -> np.ndarray:
    """Convert a pose (25) of a width x height image to that of its center square."""
    left, top, side = center_square(width, height)
    pose = pose.copy()

    # A view of the copied numbers. Without a vertical focal length, pixels are square.
    k = pose[16:].reshape(3, 3)
    if np.isnan(k[1, 1]):
        k[1, 1] = k[0, 0] * width / height

    # From fractions of the image to fractions of the square, with the origin at the square's corner.
    k[0] *= width / side
    k[1] *= height / side
    k[0, 2] -= left / side
    k[1, 2] -= top / side
    return pose


def normalize_cameras(poses: Tensor, radius: float) -> Tensor:
    """Move and scale the world of poses N,25: all cameras look at the origin, at a mean distance of `radius`.

    The new origin is the point nearest to all optical axes (least squares).

    Raises:
        ValueError: the axes are almost parallel and do not determine a point.
    """
    cam2world, intrinsics = split_pose(poses)
    position = cam2world[:, :3, 3:].double()  # N,3,1
    forward = cam2world[:, :3, 2:3].double()  # N,3,1

    # The squared distance of x to an axis with direction d is |P (x - position)|^2, where P = I - d d^T projects across
    # d. The sum over all axes is least where sum(P) x = sum(P position).
    projection = torch.eye(3, dtype=torch.float64) - forward @ forward.mT  # N,3,3
    total = projection.sum(0)
    if torch.linalg.eigvalsh(total)[0] < MIN_AXIS_SPREAD * len(poses):
        raise ValueError("the cameras look in one direction, which does not determine where the scene is")
    center = torch.linalg.solve(total, (projection @ position).sum(0))  # 3,1

    # Rotations stay; positions are relative to the center, and scaled.
    moved = position - center
    moved = moved * (radius / moved.norm(dim=1).mean())
    cam2world = cam2world.clone()
    cam2world[:, :3, 3] = moved[:, :, 0].to(cam2world)
    return join_pose(cam2world, intrinsics)
