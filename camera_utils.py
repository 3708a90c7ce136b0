"""Camera poses: presets, published samplers and video paths, mirroring, conversion between conventions, checks.

A pose is 25 numbers: cam2world 4x4 row-major, then intrinsics 3x3 row-major divided by the image size. Camera axes are
OpenCV's (x right, y down, z forward). The world has y up; the object is at the origin and faces +z.

Positions on a sphere are given by EG3D's angles. The azimuth is pi/2 at the front (+z) and 0 at -x. The "polar" angle
is pi/2 at the horizon and smaller above it; the height, and not the angle to the vertical, is linear in it.

Shapes: N poses, F frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dnnlib.choices import PATH_FRAMES

# Keeps cameras off the poles, where "up" is undefined.
POLAR_MARGIN_RAD = 1e-5

# The published video path: its value of pi (another one would give other poses), and the height of its center above the
# horizon.
PATH_PI = 3.14
PATH_TILT_RAD = 0.05

# The published field of view is that of the image's diagonal, this many times as long as a side.
FOV_DIAGONAL = 1.414

# Number of typical viewpoints.
ORBIT_POSITIONS = 12

# Of checks: poses are often printed with few digits.
POSE_TOLERANCE = 1e-3

Vector3 = tuple[float, float, float]
Device = torch.device | str


@dataclass(frozen=True)
class CameraPreset:
    """Cameras of one kind of object; lengths in world units."""

    radius: float
    pivot: Vector3  # point that the camera looks at
    focal_norm: float  # focal length divided by the image size
    yaw_rad: float  # amplitude of the published video path
    pitch_rad: float  # amplitude of the published video path
    full_turn: bool = False  # whether the video path goes all the way around


# Radius, pivot and focal length of the published networks. Heads are seen from the front, cars from all sides.
CATS = CameraPreset(2.7, (0.0, 0.0, -0.06), 4.2647, yaw_rad=0.35, pitch_rad=0.25)
FACES = CameraPreset(2.7, (0.0, 0.0, 0.2), 4.2647, yaw_rad=0.35, pitch_rad=0.25)
CARS = CameraPreset(1.7, (0.0, 0.0, 0.0), 1.7074, yaw_rad=math.pi, pitch_rad=math.pi / 2, full_turn=True)

# Preset of each configuration, by the names of weights and of training options.
CAMERAS = {
    **dict.fromkeys(("seg2cat", "edge2cat", "afhq"), CATS),
    **dict.fromkeys(("seg2face", "celeba", "ffhq"), FACES),
    **dict.fromkeys(("edge2car", "shapenet"), CARS),
}

# --------------------------------------------------------------------------- matrices


def create_cam2world_matrix(forward_vector: Tensor, origin: Tensor) -> Tensor:
    """Build cam2world matrices N,4,4 without roll.

    Args:
        forward_vector: N,3 viewing directions of any length, not vertical.
        origin: N,3 camera positions.
    """
    # The camera's axes in world coordinates (x right, y down, z forward), orthogonal by cross products; right is
    # horizontal.
    forward = F.normalize(forward_vector, dim=-1)
    up = torch.tensor([0.0, 1.0, 0.0], dtype=forward.dtype, device=forward.device).expand_as(forward)
    right = F.normalize(torch.linalg.cross(forward, up), dim=-1)
    down = torch.linalg.cross(forward, right)

    # The axes and the position are the columns.
    cam2world = torch.eye(4, dtype=forward.dtype, device=forward.device).repeat(len(forward), 1, 1)
    cam2world[:, :3] = torch.stack([right, down, forward, origin.to(forward)], dim=-1)
    return cam2world


def intrinsics_matrix(focal_norm: float, device: Device = "cpu") -> Tensor:
    """Build normalized intrinsics 3,3 with the principal point at the image center."""
    return torch.tensor([[focal_norm, 0, 0.5], [0, focal_norm, 0.5], [0, 0, 1]], device=device)


def FOV_to_intrinsics(fov_degrees: float, device: Device = "cpu") -> Tensor:
    """Build normalized intrinsics 3,3 from the field of view of the image's diagonal."""
    # Half the diagonal is focal length * tan(fov / 2); lengths are divided by the image's side.
    return intrinsics_matrix(1 / (FOV_DIAGONAL * math.tan(math.radians(float(fov_degrees)) / 2)), device)


def join_pose(cam2world: Tensor, intrinsics: Tensor) -> Tensor:
    """Join cam2world N,4,4 and intrinsics 3,3 or N,3,3 to poses N,25."""
    intrinsics = intrinsics.to(cam2world).expand(len(cam2world), 3, 3)
    return torch.cat([cam2world.flatten(1), intrinsics.flatten(1)], dim=1)


def split_pose(pose: Tensor) -> tuple[Tensor, Tensor]:
    """Split poses N,25 into cam2world N,4,4 and intrinsics N,3,3; ValueError for another shape."""
    if pose.ndim != 2 or pose.shape[1] != 25:
        raise ValueError(f"pose: expected N,25, got {tuple(pose.shape)}")
    return pose[:, :16].view(-1, 4, 4), pose[:, 16:].view(-1, 3, 3)


# --------------------------------------------------------------------------- published samplers


def _position(azimuth: Tensor, polar: Tensor, radius: float) -> Tensor:
    """Convert azimuth N,1 and polar N,1 (rad, see the module) to positions N,3 on a sphere about the origin."""
    # Height linear in the polar angle: uniform angles give positions uniform on the sphere (Archimedes).
    height = 1 - 2 * polar.clamp(POLAR_MARGIN_RAD, math.pi - POLAR_MARGIN_RAD) / math.pi

    # Spherical coordinates: phi is the angle to the vertical.
    phi = torch.arccos(height)
    theta = math.pi - azimuth
    return radius * torch.cat([phi.sin() * theta.cos(), phi.cos(), phi.sin() * theta.sin()], dim=1)


def _normal(size: tuple[int, int], device: Device) -> Tensor:
    """Sample from the standard normal distribution; shape `size`."""
    return torch.randn(size, device=device)


def _uniform(size: tuple[int, int], device: Device) -> Tensor:
    """Sample uniformly from [-1, 1); shape `size`."""
    return torch.rand(size, device=device) * 2 - 1


class LookAtPoseSampler:
    """Sampler of cameras at normally distributed angles that look at a point."""

    noise = staticmethod(_normal)

    @classmethod
    def sample(
        cls,
        horizontal_mean: float,
        vertical_mean: float,
        lookat_position: Tensor,
        horizontal_stddev: float = 0,
        vertical_stddev: float = 0,
        radius: float = 1,
        batch_size: int = 1,
        device: Device = "cpu",
    ) -> Tensor:
        """Sample cam2world N,4,4.

        Args:
            horizontal_mean, horizontal_stddev: azimuth in rad.
            vertical_mean, vertical_stddev: polar angle in rad.
            lookat_position: 3 or N,3 in world units.
            radius: distance to the origin in world units.
            batch_size: N.
        """
        # Azimuth first, then polar: the published order of random numbers.
        azimuth = cls.noise((batch_size, 1), device=device) * horizontal_stddev + horizontal_mean
        polar = cls.noise((batch_size, 1), device=device) * vertical_stddev + vertical_mean

        # Look from there at the target.
        position = _position(azimuth, polar, radius)
        target = torch.as_tensor(lookat_position, dtype=position.dtype, device=device)
        return create_cam2world_matrix(target - position, position)


class GaussianCameraPoseSampler(LookAtPoseSampler):
    """Sampler of cameras at normally distributed angles that look at the origin."""

    @classmethod
    def sample(cls, horizontal_mean: float, vertical_mean: float, *args: float, **kwargs) -> Tensor:
        """Sample cam2world N,4,4; arguments of LookAtPoseSampler without `lookat_position`."""
        return super().sample(horizontal_mean, vertical_mean, torch.zeros(3), *args, **kwargs)


class UniformCameraPoseSampler(GaussianCameraPoseSampler):
    """Sampler of cameras that look at the origin, at angles uniform in mean +- stddev."""

    noise = staticmethod(_uniform)


# --------------------------------------------------------------------------- poses and paths of a preset


def pose_at(
    preset: CameraPreset,
    azimuth_rad: float,
    polar_rad: float,
    radius: float | None = None,
    pivot: Vector3 | None = None,
    device: Device = "cpu",
) -> Tensor:
    """Return the pose 1,25 at the given angles; `radius` and `pivot` of a network replace those of the preset."""
    return _poses_at(preset, torch.tensor([[azimuth_rad, polar_rad]], device=device), radius, pivot)


def _poses_at(preset: CameraPreset, angles: Tensor, radius: float | None, pivot: Vector3 | None) -> Tensor:
    """Return poses N,25 at azimuth and polar angles N,2 in rad."""
    position = _position(*angles.split(1, dim=1), preset.radius if radius is None else radius)
    target = torch.as_tensor(preset.pivot if pivot is None else pivot).to(position)
    return join_pose(create_cam2world_matrix(target - position, position), intrinsics_matrix(preset.focal_norm))


def front_pose(
    preset: CameraPreset, radius: float | None = None, pivot: Vector3 | None = None, device: Device = "cpu"
) -> Tensor:
    """Return the pose 1,25 of the front view; arguments as in `pose_at`."""
    return pose_at(preset, math.pi / 2, math.pi / 2, radius, pivot, device)


def orbit_angles(preset: CameraPreset, frame: int, frames: int = PATH_FRAMES) -> tuple[float, float]:
    """Return azimuth and polar angle (rad) of one frame of the published video path."""
    phase = 2 * PATH_PI * frame / frames
    polar_center = PATH_PI / 2 - PATH_TILT_RAD

    # From the front once around, below the object, and back the same way, above it; or an ellipse about the front.
    if preset.full_turn:
        return -PATH_PI / 2 + preset.yaw_rad * math.cos(phase), polar_center + preset.pitch_rad * math.sin(phase)
    return PATH_PI / 2 + preset.yaw_rad * math.sin(phase), polar_center + preset.pitch_rad * math.cos(phase)


def turn_angles(_preset: CameraPreset, frame: int, frames: int = PATH_FRAMES) -> tuple[float, float]:
    """Return azimuth and polar angle (rad) of a frame of a full turn at constant height, from the front towards +x."""
    return math.pi / 2 + 2 * math.pi * frame / frames, math.pi / 2 - PATH_TILT_RAD


# Video paths by the name that users type: functions of preset, frame and number of frames.
PATHS = {"orbit": orbit_angles, "turn": turn_angles}


def path_poses(
    name: str,
    preset: CameraPreset,
    frames: int = PATH_FRAMES,
    radius: float | None = None,
    pivot: Vector3 | None = None,
    device: Device = "cpu",
) -> Tensor:
    """Return the poses F,25 of one of PATHS, a closed loop; other arguments as in `pose_at`."""
    angles = [PATHS[name](preset, frame, frames) for frame in range(frames)]
    return _poses_at(preset, torch.tensor(angles, device=device), radius, pivot)


def orbit_positions(preset: CameraPreset, radius: float | None = None, pivot: Vector3 | None = None) -> Tensor:
    """Return ORBIT_POSITIONS,3 camera positions on the published video path, as typical viewpoints."""
    return split_pose(path_poses("orbit", preset, ORBIT_POSITIONS, radius, pivot))[0][:, :3, 3]


def view_angles(pose: Tensor) -> tuple[Tensor, Tensor]:
    """Return yaw N (0 front, positive to +x) and pitch N (positive above the horizon) of poses N,25 in rad."""
    position = split_pose(pose)[0][:, :3, 3]
    return torch.atan2(position[:, 0], position[:, 2]), torch.asin(F.normalize(position, dim=1)[:, 1])


# --------------------------------------------------------------------------- mirror and conventions


def mirror_pose(pose: Tensor) -> Tensor:
    """Return poses N,25 of horizontally mirrored images: the scene mirrored at the plane x = 0."""
    # With M = diag(-1, 1, 1, 1): M cam2world M mirrors the world, and the camera's x axis, so that it stays a rotation.
    cam2world, intrinsics = split_pose(pose)
    flip = torch.tensor([-1.0, 1.0, 1.0, 1.0], dtype=pose.dtype, device=pose.device)

    # Pixel u becomes 1 - u: skew changes its sign, and the principal point moves to the other side.
    mirrored = intrinsics.clone()
    mirrored[:, 0, 1] = -intrinsics[:, 0, 1]
    mirrored[:, 0, 2] = 1 - intrinsics[:, 0, 2]
    return join_pose(cam2world * flip[:, None] * flip, mirrored)


def opencv_to_opengl(cam2world: Tensor) -> Tensor:
    """Convert cam2world N,4,4 to camera axes x right, y up, z backward (OpenGL, NeRF, Blender); its own inverse."""
    return cam2world * torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=cam2world.dtype, device=cam2world.device)


opengl_to_opencv = opencv_to_opengl


def z_up_to_y_up(cam2world: Tensor) -> Tensor:
    """Convert cam2world N,4,4 from a world with z up and front -y (Blender, NeRF) to y up and front +z."""
    # (x, y, z) becomes (x, z, -y).
    rotation = torch.tensor([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    return rotation.to(cam2world) @ cam2world


# --------------------------------------------------------------------------- checks


def pose_problems(poses: Tensor, scene: bool = True) -> dict[int, str]:
    """Check poses N,25 and return the reason for each invalid row.

    Valid poses are finite, have a rotation and last row 0 0 0 1 in cam2world, and a positive focal length.

    Args:
        poses: N,25.
        scene: also require the origin in front of the camera and inside the image.
    """
    # In double precision, so that rounding does not add to the error of the numbers.
    cam2world, intrinsics = (matrix.double() for matrix in split_pose(poses))
    intrinsics_error = (intrinsics[:, 2] - torch.tensor([0, 0, 1]).to(intrinsics)).abs().amax(1)
    checks = {
        "holds NaN or infinity": ~torch.isfinite(poses).all(1),
        **_rigid_motion_checks(cam2world),
        "the last row of the intrinsics is not 0 0 1": intrinsics_error > POSE_TOLERANCE,
        "the focal length is not positive": (intrinsics[:, 0, 0] <= 0) | (intrinsics[:, 1, 1] <= 0),
    }

    # Project the origin, from camera coordinates into the image, which is [0, 1] by [0, 1].
    if scene:
        origin = -cam2world[:, :3, :3].mT @ cam2world[:, :3, 3:]  # N,3,1
        origin_uv = (intrinsics @ (origin / origin[:, 2:]))[:, :2, 0]  # N,2
        checks["the camera looks away from the scene (origin)"] = origin[:, 2, 0] <= 0
        checks["the scene (origin) is outside the image"] = (origin_uv - 0.5).abs().amax(1) > 0.5

    # Keep the first reason of each row: it explains later ones.
    problems: dict[int, str] = {}
    for reason, failed in checks.items():
        for row in failed.nonzero()[:, 0].tolist():
            problems.setdefault(row, reason)
    return problems


def _rigid_motion_checks(cam2world: Tensor) -> dict[str, Tensor]:
    """Return for each way in which N,4,4 is no rigid motion which rows are wrong, bool N; specific reasons first."""
    identity = torch.eye(4).to(cam2world)
    rotation = cam2world[:, :3, :3]

    # A transposed matrix has its last row in its last column; a camera at the origin has it in both.
    last_row_is_wrong = (cam2world[:, 3] - identity[3]).abs().amax(1) > POSE_TOLERANCE
    is_transposed = (cam2world[:, :, 3] - identity[3]).abs().amax(1) <= POSE_TOLERANCE

    # Axes of equal length at right angles: their products are a multiple of the identity.
    products = rotation.mT @ rotation  # N,3,3
    square = products.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]  # N,1,1, squared length of the axes
    is_no_rotation = (products - identity[:3, :3]).abs().amax((1, 2)) > POSE_TOLERANCE
    is_scaled = ((products - square * identity[:3, :3]).abs() <= POSE_TOLERANCE * square).all(2).all(1)
    return {
        "the last row of cam2world is not 0 0 0 1, but its last column is: it is transposed": last_row_is_wrong
        & is_transposed,
        "the last row of cam2world is not 0 0 0 1": last_row_is_wrong,
        "the axes of cam2world are not orthonormal but scaled (remove the scale of the camera and of its parents)":
            is_no_rotation & is_scaled,
        "the axes of cam2world are not orthonormal": is_no_rotation,
        "the axes of cam2world are mirrored (determinant -1)": torch.linalg.det(rotation) < 0,
    }  # fmt: skip
