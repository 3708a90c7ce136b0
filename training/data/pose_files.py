"""Poses in JSON files: dataset.json of a data set, and lists of poses."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from camera_utils import pose_problems
from dnnlib.json_files import read_json
from training.data.archive import Problem, normalize_name

POSES_FILE = "dataset.json"


def to_float32(value: object, *shape: int) -> np.ndarray:
    """Convert nested lists of finite numbers to an array of the given shape (none: one number).

    Raises:
        ValueError: another shape, other types, NaN, infinity, or numbers too large for float32.
    """
    # NumPy alone would convert booleans and strings too.
    if not _has_shape(value, shape):
        raise ValueError(f"expected {'x'.join(map(str, shape)) or 1} number{'s' if shape else ''}")

    # A number too large for float32 becomes infinity; an integer too large for float64 raises OverflowError.
    try:
        with np.errstate(over="ignore"):
            numbers = np.array(value, np.float32)
    except OverflowError:
        numbers = np.array(np.inf)
    if not np.isfinite(numbers).all():
        raise ValueError("holds NaN or infinity, or a number too large for float32")
    return numbers


def _has_shape(value: object, shape: tuple[int, ...]) -> bool:
    # `type` rather than isinstance, because True is an int too.
    if not shape:
        return type(value) in (int, float)
    return isinstance(value, list) and len(value) == shape[0] and all(_has_shape(item, shape[1:]) for item in value)


def by_name(pairs: object, normalize: Callable[[str], str] = normalize_name) -> tuple[dict[str, object], list[Problem]]:
    """Convert [[name, pose], ...] to a dict with normalized names; duplicate names become problems.

    Raises:
        ValueError: not a list of such pairs.
    """
    if not isinstance(pairs, list) or not all(_is_named_pair(pair) for pair in pairs):
        raise ValueError("expected pairs of a name and a pose")

    # Keep the first pose of a name.
    poses: dict[str, object] = {}
    problems = []
    for name, pose in pairs:
        if normalize(name) in poses:
            problems.append(Problem(name, "has two poses"))
        poses.setdefault(normalize(name), pose)
    return poses, problems


def _is_named_pair(pair: object) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)


def is_list_of_groups(value: object) -> bool:
    """Return whether parsed JSON is a list of lists of strings."""
    if not isinstance(value, list) or not all(isinstance(group, list) for group in value):
        return False
    return all(isinstance(name, str) for group in value for name in group)


def read_poses(path: str | os.PathLike[str]) -> Tensor:
    """Read poses F,25 from JSON: a list of lists of 25 numbers, or a data set's dataset.json.

    Raises:
        OSError: the file is missing or cannot be read.
        ValueError: any other problem, in one line that starts with the path.
    """
    # Both forms become a list of poses; a data set's names are dropped, and its order is that of the file.
    try:
        rows = read_json(path)
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    if isinstance(rows, dict) and isinstance(rows.get("labels"), list):
        rows = [pair[1] if _is_named_pair(pair) else None for pair in rows["labels"]]
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{path}: expected a list of poses, 25 numbers each, or a data set's dataset.json")

    return check_poses(rows, str(path))


def check_poses(rows: list, name: str) -> Tensor:
    """Convert lists of 25 numbers to poses F,25.

    Args:
        rows: F lists, of which nothing is known.
        name: of their source, for messages.
    Raises:
        ValueError: one is not a pose, in one line that starts with the name.
    """
    # Convert one by one, so that an error names its row; then check the geometry of all.
    poses = np.empty((len(rows), 25), np.float32)
    for number, row in enumerate(rows):
        try:
            poses[number] = to_float32(row, 25)
        except ValueError as error:
            got = f", got {len(row)}" if isinstance(row, list) and len(row) != 25 else ""
            raise ValueError(f"{name}: pose {number}: {error}{got}") from error
    problems = pose_problems(torch.from_numpy(poses))
    if problems:
        number = min(problems)
        raise ValueError(f"{name}: pose {number}: {problems[number]}")
    return torch.from_numpy(poses)
