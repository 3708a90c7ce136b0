"""Read cameras from dataset.json (EG3D) and transforms.json (NeRF), and find those of images."""

from __future__ import annotations

import math
import reprlib
from collections import ChainMap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from camera_utils import join_pose, opengl_to_opencv, z_up_to_y_up
from dnnlib.json_files import read_json
from training.data.archive import WHOLE, DataError, Problem, data_error
from training.data.index import stem_of
from training.data.pose_files import by_name, to_float32

# Names of lens models whose images are those of a pinhole camera if their distortion parameters are 0 (COLMAP,
# nerfstudio, Blender), and the keys of transforms.json that hold such names.
PINHOLE_MODELS = (
    "PINHOLE",
    "SIMPLE_PINHOLE",
    "PERSPECTIVE",
    "PERSP",
    "SIMPLE_RADIAL",
    "RADIAL",
    "OPENCV",
    "FULL_OPENCV",
)
MODEL_KEYS = ("camera_model", "camera_type", "lens_model")

# Keys of transforms.json that mean a pinhole camera only if they are 0, false or null: distortion parameters of OpenCV,
# COLMAP, Metashape and instant-ngp, and other projections and axes of instant-ngp.
LENS_KEYS = (
    *(f"{letter}{number}" for letter in "kps" for number in range(1, 9)),
    *("b1", "b2", "sx1", "sy1", "tau_x", "tau_y", "omega", "skew", "rolling_shutter", "distortion"),
    *("distortion_params", "distortion_coefficients", *(f"ftheta_p{number}" for number in range(5))),
    *("is_fisheye", "fisheye", "equirectangular", "latlong", "orthographic", "from_mitsuba", "from_na"),
)

# Values of the file in messages.
SHORT = reprlib.Repr()
SHORT.maxlevel = 1
SHORT.maxlist = 4

# Longest list of distortion parameters.
MAX_PARAMETERS = 16

# Directories of a path that are compared, from its end; bounds the time for hostile paths.
MAX_DEPTH = 32

# Smallest focal length divided by the image's width: a field of view of 157 degrees. A smaller one is not in pixels.
MIN_FOCAL_NORM = 0.1


@dataclass(frozen=True)
class Camera:
    """Camera of an image.

    Attributes:
        pose: float64 25; intrinsics are divided by the image's width and height. The vertical focal length is NaN if
            only the horizontal field of view is known.
        size: width and height of the image of which the camera was found, pixels; None if unknown.
    """

    pose: np.ndarray
    size: tuple[float, float] | None = None


def read_cameras(path: Path, z_up: bool = True) -> tuple[dict[str, Camera], bool]:
    """Read the cameras of images.

    Args:
        path: a dataset.json (EG3D), or a transforms.json (NeRF, COLMAP, Blender: OpenGL cameras).
        z_up: for transforms.json, the world has z up and front -y, as in Blender; else y up and front +z.
    Returns:
        Cameras by image name without extension; whether the format is that of this project (dataset.json).
    Raises:
        DataError: another format; or entries that are incomplete, duplicate or of another lens than a pinhole.
    """
    # Entries by name: lists of 25 numbers, or frames. Names may have the separators of Windows.
    try:
        content = read_json(path)
        is_eg3d = isinstance(content, dict) and "labels" in content
        pairs = content["labels"] if is_eg3d else _nerf_frames(content)
        entries, problems = by_name(pairs, normalize=lambda name: stem_of(name.replace("\\", "/")))
    except ValueError as error:
        raise data_error(path, WHOLE, f"not readable as cameras ({error})") from error

    # Convert one by one, so that each problem names its entry.
    cameras = {}
    for name, entry in entries.items():
        try:
            cameras[name] = Camera(_to_float64(entry, 25)) if is_eg3d else _nerf_camera(entry, z_up)
        except ValueError as error:
            problems.append(Problem(name, str(error)))
    if problems:
        raise DataError(path, problems, check_lists_all=False)
    return cameras, is_eg3d


def match_cameras(names: Iterable[str], cameras: Iterable[str]) -> dict[str, list[str]]:
    """Find the cameras of images: by path, else by the end of either path, as files often add a directory.

    Args:
        names: of images.
        cameras: paths without extension.
    Returns:
        For each image the cameras that match; a camera of the same path is the only one.
    """
    stems = {name: stem_of(name) for name in names}
    known = dict.fromkeys(cameras)

    # Cameras by those ends of their paths that are images. A table, as comparing all pairs takes hours for large sets.
    wanted = set(stems.values())
    by_end: dict[str, list[str]] = {}
    for camera in known:
        for end in _path_ends(camera):
            if end in wanted:
                by_end.setdefault(end, []).append(camera)

    # The other way, the image's path is the longer one.
    found = {}
    for name, stem in stems.items():
        shorter = [end for end in _path_ends(stem) if end in known]
        found[name] = [stem] if stem in known else by_end.get(stem, []) + shorter
    return found


def _path_ends(path: str) -> list[str]:
    """Return "a/b/c", "b/c" and "c" for "a/b/c"; of very long paths only the last MAX_DEPTH."""
    parts = path.split("/")[-MAX_DEPTH:]
    return ["/".join(parts[start:]) for start in range(len(parts))]


# --------------------------------------------------------------------------- transforms.json


def _nerf_frames(content: object) -> list[list]:
    """Return [file_path, frame] pairs, where each frame inherits the values of the whole file."""
    if not isinstance(content, dict) or not isinstance(content.get("frames"), list):
        raise ValueError(
            'expected {"labels": [...]} of EG3D\'s dataset.json or {"frames": [...]} of NeRF\'s transforms.json'
        )

    # Intrinsics may be given once for all frames or in each frame. Nothing is copied: time is linear.
    for number, frame in enumerate(content["frames"]):
        if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str):
            raise ValueError(f"frame {number} has no file_path")
    return [[frame["file_path"], ChainMap(frame, content)] for frame in content["frames"]]


def _nerf_camera(frame: Mapping, z_up: bool) -> Camera:
    """Convert a frame to a camera."""
    _check_lens(frame)

    # To the camera axes and world axes of this project.
    cam2world = opengl_to_opencv(torch.from_numpy(_numbers(frame, "transform_matrix", 4, 4))[None])
    if z_up:
        cam2world = z_up_to_y_up(cam2world)

    # Intrinsics in pixels (COLMAP), or the horizontal field of view (Blender), where the size may be unknown.
    if _has(frame, "fl_x"):
        size = _number_between(frame, "w"), _number_between(frame, "h")
        intrinsics = _intrinsics_in_pixels(frame, *size)
    else:
        size = (_number_between(frame, "w"), _number_between(frame, "h")) if _has(frame, "w", "h") else None
        focal_norm = 0.5 / math.tan(_number_between(frame, "camera_angle_x", math.pi) / 2)
        intrinsics = [[focal_norm, 0, 0.5], [0, math.nan, 0.5], [0, 0, 1]]
    pose = join_pose(cam2world, torch.tensor(intrinsics, dtype=torch.float64)[None])
    return Camera(pose[0].numpy(), size)


def _check_lens(frame: Mapping) -> None:
    """Raise ValueError unless the frame was taken by a pinhole camera."""
    # Only models that are known to be right: there are more others than can be listed.
    for key in MODEL_KEYS:
        if _has(frame, key) and not _is_pinhole(frame[key]):
            model = SHORT.repr(frame[key])
            raise ValueError(f"{key} {model} is not supported; undistort the images to a pinhole camera")

    # Parameters that are 0 are as good as missing.
    for key in LENS_KEYS:
        if not _is_zero(frame.get(key)):
            value = SHORT.repr(frame[key])
            raise ValueError(f"{key} is {value}: lens distortion is not supported, undistort the images first")


def _is_pinhole(model: object) -> bool:
    return isinstance(model, str) and model.upper().replace("-", "_").replace(" ", "_") in PINHOLE_MODELS


def _is_zero(value: object) -> bool:
    """Return whether a value of JSON is 0, false, null or a short list of such values."""
    if isinstance(value, list):
        return len(value) <= MAX_PARAMETERS and all(item in (0, None) for item in value)
    return not value


def _intrinsics_in_pixels(frame: Mapping, width: float, height: float) -> list[list[float]]:
    """Read normalized intrinsics 3x3; the principal point defaults to the center, fl_y to fl_x."""
    focal_x = _number_between(frame, "fl_x")
    focal_y = _number_between(frame, "fl_y") if _has(frame, "fl_y") else focal_x
    center_x = float(_numbers(frame, "cx")) if _has(frame, "cx") else width / 2
    center_y = float(_numbers(frame, "cy")) if _has(frame, "cy") else height / 2

    # Values that are divided by the image's size already.
    if min(focal_x / width, focal_y / height) < MIN_FOCAL_NORM or max(center_x, center_y) <= 1 < min(width, height) / 2:
        raise ValueError(
            f"fl_x {focal_x:g}, fl_y {focal_y:g}, cx {center_x:g}, cy {center_y:g} do not fit {width:g}x{height:g} "
            "pixels; expected pixels"
        )
    return [[focal_x / width, 0, center_x / width], [0, focal_y / height, center_y / height], [0, 0, 1]]


def _has(frame: Mapping, *keys: str) -> bool:
    return all(frame.get(key) is not None for key in keys)


def _numbers(frame: Mapping, key: str, *shape: int) -> np.ndarray:
    if not _has(frame, key):
        raise ValueError(f"no {key!r}")
    try:
        return _to_float64(frame[key], *shape)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


def _number_between(frame: Mapping, key: str, end: float = math.inf) -> float:
    """Return a number between 0 and `end`, both excluded."""
    number = float(_numbers(frame, key))
    if not 0 < number < end:
        limit = f", less than {end:g}" if end < math.inf else ""
        raise ValueError(f"{key}: got {number:g}, expected more than 0{limit}")
    return number


def _to_float64(value: object, *shape: int) -> np.ndarray:
    """Convert like `to_float32`, to double precision: positions may be large, as coordinates on a map are."""
    to_float32(value, *shape)
    return np.array(value, np.float64)
