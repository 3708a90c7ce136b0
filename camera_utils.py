"""Poses: presets per configuration, samplers, the video's path, mirror, checks, other tools' conventions.

A pose is 25 numbers: cam2world 4x4 row-major (OpenCV camera: x right, y down, z forward; world y up), then
intrinsics 3x3 row-major divided by the image size. The scene stands at the origin and faces +z.
Azimuth pi/2 is the front; polar pi/2 is the horizon, smaller is higher (uniform in polar is uniform in height).
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

POLAR_MARGIN = 1e-5  # rad, keeps the camera off the poles, where "up" has no meaning
PATH_FRAMES = 120  # of a published video
PATH_PI = 3.14  # the published video path writes pi so; poses of published videos repeat only with it
PATH_TILT_RAD = 0.05  # the video's path looks down a little
FOV_DIAGONAL = 1.414  # published cameras state their field of view along the picture's diagonal


@dataclass(frozen=True)
class CameraPreset:
    """Camera set-up of one kind of scene; lengths in world units."""

    radius: float
    pivot: tuple[float, float, float]  # the point the camera looks at
    focal_norm: float  # focal length divided by the image size
    yaw_rad: float  # the video's swing to either side
    pitch_rad: float  # the video's swing up and down
    full_turn: bool = False  # the video goes all the way around


CATS = CameraPreset(2.7, (0.0, 0.0, -0.06), 4.2647, yaw_rad=0.35, pitch_rad=0.25)
FACES = CameraPreset(2.7, (0.0, 0.0, 0.2), 4.2647, yaw_rad=0.35, pitch_rad=0.25)
CARS = CameraPreset(1.7, (0.0, 0.0, 0.0), 1.7074, yaw_rad=math.pi, pitch_rad=math.pi / 2, full_turn=True)

CAMERAS = {
    **dict.fromkeys(("seg2cat", "edge2cat", "afhq"), CATS),
    **dict.fromkeys(("seg2face", "celeba", "ffhq"), FACES),
    **dict.fromkeys(("edge2car", "shapenet"), CARS),
}

# --------------------------------------------------------------------------- matrices


def create_cam2world_matrix(forward_vector: Tensor, origin: Tensor) -> Tensor:
    """Camera at `origin` (N,3) looking along `forward_vector` (N,3, any length, not vertical): N,4,4, no roll."""
    forward = F.normalize(forward_vector, dim=-1)
    up = torch.tensor([0.0, 1.0, 0.0], dtype=forward.dtype, device=forward.device).expand_as(forward)
    right = F.normalize(torch.linalg.cross(forward, up), dim=-1)
    down = torch.linalg.cross(forward, right)
    cam2world = torch.eye(4, dtype=forward.dtype, device=forward.device).repeat(len(forward), 1, 1)
    cam2world[:, :3] = torch.stack([right, down, forward, origin.to(forward)], dim=-1)
    return cam2world


def intrinsics_matrix(focal_norm: float, device: torch.device | str = "cpu") -> Tensor:
    """3,3 normalized intrinsics with the principal point in the middle."""
    return torch.tensor([[focal_norm, 0, 0.5], [0, focal_norm, 0.5], [0, 0, 1]], device=device)


def FOV_to_intrinsics(fov_degrees: float, device: torch.device | str = "cpu") -> Tensor:
    """3,3 normalized intrinsics of a field of view, given along the picture's diagonal."""
    return intrinsics_matrix(1 / (FOV_DIAGONAL * math.tan(math.radians(float(fov_degrees)) / 2)), device)


def join_pose(cam2world: Tensor, intrinsics: Tensor) -> Tensor:
    """N,4,4 and 3,3 or N,3,3 to poses N,25."""
    intrinsics = intrinsics.to(cam2world).expand(len(cam2world), 3, 3)
    return torch.cat([cam2world.flatten(1), intrinsics.flatten(1)], dim=1)


def split_pose(pose: Tensor) -> tuple[Tensor, Tensor]:
    """Poses N,25 to cam2world N,4,4 and intrinsics N,3,3.

    Raises:
        ValueError: another shape.
    """
    if pose.ndim != 2 or pose.shape[1] != 25:
        raise ValueError(f"pose: expected N,25, got {tuple(pose.shape)}")
    return pose[:, :16].view(-1, 4, 4), pose[:, 16:].view(-1, 3, 3)


# --------------------------------------------------------------------------- samplers


def _position(azimuth: Tensor, polar: Tensor, radius: float) -> Tensor:
    """Points N,3 on the sphere; azimuth and polar N,1 in rad. Heights, not angles, are linear in polar."""
    height = 1 - 2 * polar.clamp(POLAR_MARGIN, math.pi - POLAR_MARGIN) / math.pi
    phi = torch.arccos(height)
    side = math.pi - azimuth
    return radius * torch.cat([phi.sin() * side.cos(), phi.cos(), phi.sin() * side.sin()], dim=1)


class LookAtPoseSampler:
    """Normally distributed positions on a sphere about the origin, looking at a point."""

    @staticmethod
    def sample(
        horizontal_mean: float,
        vertical_mean: float,
        lookat_position: Tensor,
        horizontal_stddev: float = 0,
        vertical_stddev: float = 0,
        radius: float = 1,
        batch_size: int = 1,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """cam2world N,4,4; angles in rad (see the module), `lookat_position` 3 or N,3 in world units."""
        azimuth = torch.randn((batch_size, 1), device=device) * horizontal_stddev + horizontal_mean
        polar = torch.randn((batch_size, 1), device=device) * vertical_stddev + vertical_mean
        position = _position(azimuth, polar, radius)
        target = torch.as_tensor(lookat_position, dtype=position.dtype, device=device)
        return create_cam2world_matrix(target - position, position)


class GaussianCameraPoseSampler:
    """Normally distributed positions on a sphere, looking at the origin."""

    @staticmethod
    def sample(
        horizontal_mean: float,
        vertical_mean: float,
        horizontal_stddev: float = 0,
        vertical_stddev: float = 0,
        radius: float = 1,
        batch_size: int = 1,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """cam2world N,4,4; angles in rad (see the module)."""
        return LookAtPoseSampler.sample(
            horizontal_mean,
            vertical_mean,
            torch.zeros(3),
            horizontal_stddev,
            vertical_stddev,
            radius,
            batch_size,
            device,
        )


class UniformCameraPoseSampler:
    """Positions spread evenly over mean +- stddev on a sphere, looking at the origin."""

    @staticmethod
    def sample(
        horizontal_mean: float,
        vertical_mean: float,
        horizontal_stddev: float = 0,
        vertical_stddev: float = 0,
        radius: float = 1,
        batch_size: int = 1,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """cam2world N,4,4; angles in rad, `..._stddev` is half the width of the range."""
        azimuth = (torch.rand((batch_size, 1), device=device) * 2 - 1) * horizontal_stddev + horizontal_mean
        polar = (torch.rand((batch_size, 1), device=device) * 2 - 1) * vertical_stddev + vertical_mean
        position = _position(azimuth, polar, radius)
        return create_cam2world_matrix(-position, position)


# --------------------------------------------------------------------------- presets at work


def pose_at(
    preset: CameraPreset,
    azimuth_rad: float,
    polar_rad: float,
    radius: float | None = None,
    pivot: tuple[float, float, float] | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Pose 1,25 of a preset's camera; a network's own `radius` and `pivot` go before the preset's."""
    return _poses_at(preset, torch.tensor([[azimuth_rad, polar_rad]], device=device), radius, pivot)


def _poses_at(
    preset: CameraPreset, angles: Tensor, radius: float | None, pivot: tuple[float, float, float] | None
) -> Tensor:
    """N,25 for azimuth and polar N,2."""
    position = _position(*angles.split(1, dim=1), preset.radius if radius is None else radius)
    target = torch.as_tensor(preset.pivot if pivot is None else pivot).to(position)
    return join_pose(create_cam2world_matrix(target - position, position), intrinsics_matrix(preset.focal_norm))


def front_pose(
    preset: CameraPreset,
    radius: float | None = None,
    pivot: tuple[float, float, float] | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Pose 1,25 straight from the front."""
    return pose_at(preset, math.pi / 2, math.pi / 2, radius, pivot, device)


def orbit_angles(preset: CameraPreset, frame: int, frames: int = PATH_FRAMES) -> tuple[float, float]:
    """Azimuth and polar (rad) of one frame of the published video path, `frames` long."""
    turn = 2 * PATH_PI * frame / frames
    horizon = PATH_PI / 2 - PATH_TILT_RAD
    if preset.full_turn:
        return -PATH_PI / 2 + preset.yaw_rad * math.cos(turn), horizon + preset.pitch_rad * math.sin(turn)
    return PATH_PI / 2 + preset.yaw_rad * math.sin(turn), horizon + preset.pitch_rad * math.cos(turn)


def turn_angles(preset: CameraPreset, frame: int, frames: int = PATH_FRAMES) -> tuple[float, float]:
    """Azimuth and polar (rad) of one frame of a full turn at one height, from the front towards +x, at even speed."""
    return math.pi / 2 + 2 * math.pi * frame / frames, math.pi / 2 - PATH_TILT_RAD


PATHS = {"orbit": orbit_angles, "turn": turn_angles}
ORBIT_POSITIONS = 12


def path_poses(
    name: str,
    preset: CameraPreset,
    frames: int = PATH_FRAMES,
    radius: float | None = None,
    pivot: tuple[float, float, float] | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Poses frames,25 of one of PATHS; both are loops, so the last frame is the one before the first."""
    angles = [PATHS[name](preset, frame, frames) for frame in range(frames)]
    return _poses_at(preset, torch.tensor(angles, device=device), radius, pivot)


def orbit_positions(
    preset: CameraPreset, radius: float | None = None, pivot: tuple[float, float, float] | None = None
) -> Tensor:
    """ORBIT_POSITIONS,3 places of the published orbit's camera, from which a scene is usually seen."""
    return split_pose(path_poses("orbit", preset, ORBIT_POSITIONS, radius, pivot))[0][:, :3, 3]


def view_angles(pose: Tensor) -> tuple[Tensor, Tensor]:
    """Yaw (0 front, positive to +x) and pitch (positive above the horizon) of the cameras of N,25: N and N, rad."""
    position = split_pose(pose)[0][:, :3, 3]
    return torch.atan2(position[:, 0], position[:, 2]), torch.asin(F.normalize(position, dim=1)[:, 1])


# --------------------------------------------------------------------------- mirror and conventions


def mirror_pose(pose: Tensor) -> Tensor:
    """Poses N,25 of the pictures mirrored left to right, for scenes mirrored at the plane x = 0."""
    cam2world, intrinsics = split_pose(pose)
    flip = torch.tensor([-1.0, 1.0, 1.0, 1.0], dtype=pose.dtype, device=pose.device)
    mirrored = intrinsics.clone()
    mirrored[:, 0, 1] = -intrinsics[:, 0, 1]
    mirrored[:, 0, 2] = 1 - intrinsics[:, 0, 2]
    return join_pose(cam2world * flip[:, None] * flip, mirrored)


def opencv_to_opengl(cam2world: Tensor) -> Tensor:
    """The same cameras N,4,4 with axes x right, y up, z backward (OpenGL, NeRF, Blender). Its own inverse."""
    return cam2world * torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=cam2world.dtype, device=cam2world.device)


opengl_to_opencv = opencv_to_opengl


def z_up_to_y_up(cam2world: Tensor) -> Tensor:
    """Cameras N,4,4 of a world with z up, front at -y (Blender, NeRF) in ours: y up, front at +z."""
    turn = torch.tensor([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    return turn.to(cam2world) @ cam2world


# --------------------------------------------------------------------------- checks


POSE_TOLERANCE = 1e-3  # poses are often printed with few digits


def pose_problems(poses: Tensor) -> dict[int, str]:
    """Row -> what is wrong with that pose, for the faulty rows of N,25.

    Refused: numbers that are not finite, a last row other than 0 0 0 1, axes that are no rotation, intrinsics without
    a positive focal length, and cameras that do not have the origin in front of them and in their picture.
    """
    cam2world, intrinsics = (m.double() for m in split_pose(poses))
    axes, position = cam2world[:, :3, :3], cam2world[:, :3, 3:]
    unit = torch.eye(4, dtype=axes.dtype, device=axes.device)
    center = -axes.mT @ position  # N,3,1, the origin in camera coordinates
    picture = (intrinsics @ (center / center[:, 2:]))[:, :2, 0]  # N,2, where it lies in the picture
    faults = {
        "holds NaN or infinity": ~torch.isfinite(poses).all(1),
        "the last row of cam2world is not 0 0 0 1": (cam2world[:, 3] - unit[3]).abs().amax(1) > POSE_TOLERANCE,
        "the axes of cam2world are not orthonormal": (axes.mT @ axes - unit[:3, :3]).abs().amax((1, 2))
        > POSE_TOLERANCE,
        "the axes of cam2world are mirrored (determinant -1)": torch.linalg.det(axes) < 0,
        "the last row of the intrinsics is not 0 0 1": (intrinsics[:, 2] - unit[3, 1:]).abs().amax(1) > POSE_TOLERANCE,
        "the focal length is not positive": (intrinsics[:, 0, 0] <= 0) | (intrinsics[:, 1, 1] <= 0),
        "the camera looks away from the scene (origin)": center[:, 2, 0] <= 0,
        "the scene (origin) lies outside the picture": (picture - 0.5).abs().amax(1) > 0.5,
    }
    found: dict[int, str] = {}
    for what, bad in faults.items():
        for row in bad.nonzero()[:, 0].tolist():
            found.setdefault(row, what)  # the first fault explains the ones after it
    return found


# --------------------------------------------------------------------------- files


def read_poses(path: str | os.PathLike[str]) -> Tensor:
    """Poses F,25 of a JSON file: a list of lists of 25 numbers, or a data set's dataset.json.

    Raises:
        OSError: no such file, or it cannot be read.
        ValueError: anything else, in one line that starts with the path.
    """
    try:
        data = json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    if isinstance(data, dict) and isinstance(data.get("labels"), list):
        data = [row[1] if isinstance(row, list) and len(row) == 2 else None for row in data["labels"]]
    if not isinstance(data, list) or not data:
        raise ValueError(f"{path}: expected a list of poses, 25 numbers each, or a data set's dataset.json")
    for number, row in enumerate(data):
        if not isinstance(row, list) or len(row) != 25 or any(type(x) not in (int, float) for x in row):
            raise ValueError(f"{path}: pose {number}: expected a list of 25 numbers: cam2world 4x4, intrinsics 3x3")
    try:
        poses = torch.tensor(data, dtype=torch.float32)
    except (OverflowError, RuntimeError) as error:  # a whole number beyond every float
        raise ValueError(f"{path}: holds a number that is too large") from error
    for number, problem in sorted(pose_problems(poses).items())[:1]:
        raise ValueError(f"{path}: pose {number}: {problem}")
    return poses
