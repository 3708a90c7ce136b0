"""Match the images of a data set with their label maps and poses."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import torch

from camera_utils import pose_problems
from training.data.archive import WHOLE, Archive, Problem
from training.data.image_io import IMAGE_ENDINGS

POSES_FILE = "dataset.json"

# --------------------------------------------------------------------------- JSON


def parse_json(content: bytes) -> object:
    """Parse JSON; ValueError if it is invalid or nested too deeply."""
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def to_float32(value: object, *shape: int) -> np.ndarray:
    """Convert nested lists of finite numbers to an array of the given shape (none: one number).

    Raises:
        ValueError: another shape, other types, NaN, infinity, or numbers too large for float32.
    """
    if not _has_shape(value, shape):
        raise ValueError(f"expected {'x'.join(map(str, shape)) or 1} number{'s' if shape else ''}")
    try:
        with np.errstate(over="ignore"):  # a number too large for float32 becomes infinity
            numbers = np.array(value, np.float32)
    except OverflowError:  # an integer too large for float64
        numbers = np.array(np.inf)
    if not np.isfinite(numbers).all():
        raise ValueError("holds NaN or infinity")
    return numbers


def _has_shape(value: object, shape: tuple[int, ...]) -> bool:
    if not shape:
        return type(value) in (int, float)
    return isinstance(value, list) and len(value) == shape[0] and all(_has_shape(item, shape[1:]) for item in value)


def normalize_name(name: str) -> str:
    """Normalize to Unicode form NFC: file systems differ in how they encode accents."""
    return unicodedata.normalize("NFC", name)


def stem_of(name: str) -> str:
    """Return the normalized path without a leading ./ and without an image file's extension."""
    path = PurePosixPath(normalize_name(name))
    return str(path.with_suffix("") if path.suffix.lower() in IMAGE_ENDINGS else path)


def by_name(pairs: object, normalize: Callable[[str], str] = normalize_name) -> tuple[dict[str, object], list[Problem]]:
    """Convert [[name, pose], ...] to a dict with normalized names; duplicate names become problems.

    Raises:
        ValueError: not a list of such pairs.
    """
    if not isinstance(pairs, list) or not all(_is_named_pair(pair) for pair in pairs):
        raise ValueError("expected pairs of a name and a pose")
    poses: dict[str, object] = {}
    problems = []
    for name, pose in pairs:
        if normalize(name) in poses:
            problems.append(Problem(name, "has two poses"))
        poses.setdefault(normalize(name), pose)
    return poses, problems


def _is_named_pair(pair: object) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)


# --------------------------------------------------------------------------- index


@dataclass(frozen=True)
class Index:
    """Names and poses of a data set, sorted by the names of the images.

    Attributes:
        images: names in the image archive.
        label_maps: names in the label-map archive, parallel to `images`; None without label maps.
        poses: float32 N,25; None if poses are not read.
        problems: if not empty, the lists above may lack the files with problems.
    """

    images: list[str]
    label_maps: list[str] | None
    poses: np.ndarray | None
    problems: list[Problem]


def build_index(images: Archive, label_maps: Archive | None, use_labels: bool) -> Index:
    """Match images with label maps (by path without extension, or by unique file name) and poses (dataset.json).

    Images are not decoded. Invalid content is listed in `problems` instead of raised.

    Args:
        images: archive of the images and dataset.json.
        label_maps: archive of the label maps, None for no label maps.
        use_labels: read the poses.
    """
    problems: list[Problem] = []
    image_by_stem = _images_by_stem(images, problems)
    if not image_by_stem:
        problems.append(Problem(WHOLE, f"contains no images ({', '.join(IMAGE_ENDINGS)})"))
    names = list(image_by_stem.values())
    matched = None if label_maps is None else _match_label_maps(image_by_stem, label_maps, problems)
    poses = _read_poses(images, names, problems) if use_labels and names else None
    return Index(names, matched, poses, problems)


def _images_by_stem(archive: Archive, problems: list[Problem]) -> dict[str, str]:
    """Return the image files of an archive by their path without extension."""
    image_by_stem: dict[str, str] = {}
    for name in archive.names:
        if not name.lower().endswith(IMAGE_ENDINGS):
            continue
        first = image_by_stem.setdefault(stem_of(name), name)
        if first != name:
            problems.append(Problem(f"{archive.path.name}/{name}", f"same name without extension as {first}"))
    return image_by_stem


def _match_label_maps(image_by_stem: dict[str, str], label_maps: Archive, problems: list[Problem]) -> list[str]:
    """Return the label map of each image that has one; the others become problems."""
    label_map_by_stem = _images_by_stem(label_maps, problems)

    # The same files in another directory: match by file names, if these are unique in both archives.
    if not image_by_stem.keys() & label_map_by_stem.keys():
        label_map_by_file = {PurePosixPath(stem).name: name for stem, name in label_map_by_stem.items()}
        file_by_stem = {stem: PurePosixPath(stem).name for stem in image_by_stem}
        unique = len(set(file_by_stem.values())) == len(file_by_stem)
        if unique and len(label_map_by_file) == len(label_map_by_stem):
            label_map_by_stem = {
                stem: label_map_by_file[file] for stem, file in file_by_stem.items() if file in label_map_by_file
            }

    for stem, name in image_by_stem.items():
        if stem not in label_map_by_stem:
            problems.append(Problem(name, f"no label map of that name in {label_maps.path.name}"))
    return [label_map_by_stem[stem] for stem in image_by_stem if stem in label_map_by_stem]


def _read_poses(images: Archive, names: list[str], problems: list[Problem]) -> np.ndarray:
    """Return float32 N,25 with NaN in the rows of images whose pose is missing or malformed."""
    poses = np.full((len(names), 25), np.nan, np.float32)
    labels = _read_labels(images, problems)
    if labels is None:
        return poses

    # Convert the rows one by one, so that each problem names its image.
    for row, name in enumerate(names):
        if normalize_name(name) not in labels:
            problems.append(Problem(name, f"no pose in {POSES_FILE}"))
            continue
        try:
            poses[row] = to_float32(labels[normalize_name(name)], 25)
        except ValueError as error:
            problems.append(Problem(name, f"pose: {error}"))

    # Check the geometry of the rest at once.
    finite_rows = np.flatnonzero(np.isfinite(poses).all(axis=1))
    for row, reason in pose_problems(torch.from_numpy(poses[finite_rows])).items():
        problems.append(Problem(names[finite_rows[row]], f"pose: {reason}"))
    return poses


def _read_labels(images: Archive, problems: list[Problem]) -> dict[str, object] | None:
    """Return the unchecked poses of dataset.json by image name; None if they cannot be read."""
    if POSES_FILE not in images:
        problems.append(Problem(POSES_FILE, "missing; it holds the poses (dataset_tool.py pack writes one)"))
        return None
    try:
        labels, duplicates = by_name(parse_json(images.read(POSES_FILE))["labels"])
    except (ValueError, KeyError, TypeError) as error:
        reason = f'expected {{"labels": [["name", [25 numbers]], ...]}} ({type(error).__name__}: {error})'
        problems.append(Problem(POSES_FILE, reason))
        return None
    problems += duplicates
    return labels
