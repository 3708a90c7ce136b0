"""Which image belongs to which label map and which pose."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import torch

import camera_utils
from training.archive import Archive, Problem
from training.pictures import IMAGE_ENDINGS

POSES_FILE = "dataset.json"


@dataclass(frozen=True)
class Index:
    """Names and poses of a data set, in the order of the images' names.

    Attributes:
        images: names in the image archive.
        label_maps: names in the label-map archive, parallel to `images`; None without label maps.
        poses: float32 N,25; None where the data set is read without poses.
        problems: what is wrong; entries of files with problems may be missing from the lists above.
    """

    images: list[str]
    label_maps: list[str] | None
    poses: np.ndarray | None
    problems: list[Problem]


def build_index(images: Archive, label_maps: Archive | None, use_labels: bool) -> Index:
    """Pair images, label maps (by path without ending, or by unique file name) and poses (dataset.json).

    Nothing is decoded. Raises nothing for faulty content: faults are listed in `problems`.
    """
    problems: list[Problem] = []
    by_stem = _by_stem(images, problems)
    if not by_stem:
        problems.append(Problem("-", f"holds no pictures ({', '.join(IMAGE_ENDINGS)})"))
    names = list(by_stem.values())
    paired = None if label_maps is None else _pair(by_stem, label_maps, problems)
    poses = _read_poses(images, names, problems) if use_labels and names else None
    return Index(names, paired, poses, problems)


def _by_stem(archive: Archive, problems: list[Problem]) -> dict[str, str]:
    """Path without ending -> name, for the pictures of an archive."""
    found: dict[str, str] = {}
    for name in archive.names:
        if not name.lower().endswith(IMAGE_ENDINGS):
            continue
        # file systems differ in how they spell an accent; both spellings are one name
        stem = unicodedata.normalize("NFC", str(PurePosixPath(name).with_suffix("")))
        if stem in found:
            problems.append(Problem(name, f"same name without ending as {found[stem]}"))
        found.setdefault(stem, name)
    return found


def _pair(by_stem: dict[str, str], label_maps: Archive, problems: list[Problem]) -> list[str]:
    candidates = _by_stem(label_maps, problems)
    if not by_stem.keys() & candidates.keys():
        # another folder around the same files: pair by file names, if these are unique
        flat = {PurePosixPath(stem).name: name for stem, name in candidates.items()}
        if len(flat) == len(candidates):
            candidates = {stem: flat[base] for stem in by_stem if (base := PurePosixPath(stem).name) in flat}
    missing = [name for stem, name in by_stem.items() if stem not in candidates]
    problems += [Problem(name, f"no label map of that name in {label_maps.path.name}") for name in missing]
    return [candidates[stem] for stem in by_stem if stem in candidates]


def _read_poses(images: Archive, names: list[str], problems: list[Problem]) -> np.ndarray:
    """float32 N,25; NaN in the rows of images whose pose is missing or malformed."""
    poses = np.full((len(names), 25), np.nan, np.float32)
    labels = _read_labels(images, problems)
    if labels is None:
        return poses
    for row, name in enumerate(names):
        numbers = labels.get(unicodedata.normalize("NFC", name))
        if numbers is None:
            problems.append(Problem(name, f"no pose in {POSES_FILE}"))
        elif not _are_25_numbers(numbers):
            problems.append(Problem(name, f"its pose in {POSES_FILE} is not a list of 25 numbers"))
        else:
            poses[row] = numbers
            if not np.isfinite(poses[row]).all():
                problems.append(Problem(name, "pose: holds NaN or infinity"))
    finite = np.flatnonzero(np.isfinite(poses).all(axis=1))
    faults = camera_utils.pose_problems(torch.from_numpy(poses[finite]))
    problems += [Problem(names[finite[row]], f"pose: {what}") for row, what in faults.items()]
    return poses


def _read_labels(images: Archive, problems: list[Problem]) -> dict[str, object] | None:
    if POSES_FILE not in images:
        problems.append(Problem(POSES_FILE, "missing; it holds the poses (dataset_tool.py pack --front makes one)"))
        return None
    try:
        labels = json.loads(images.read(POSES_FILE))["labels"]
        return {unicodedata.normalize("NFC", name): numbers for name, numbers in labels}
    except (ValueError, KeyError, TypeError) as error:
        what = f'not {{"labels": [["name", [25 numbers]], ...]}} ({type(error).__name__}: {error})'
        problems.append(Problem(POSES_FILE, what))
        return None


def _are_25_numbers(numbers: object) -> bool:
    return isinstance(numbers, list) and len(numbers) == 25 and all(type(x) in (int, float) for x in numbers)
