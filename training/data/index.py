"""Which image belongs to which label map and which pose."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import torch

import camera_utils
from training.data.archive import Archive, Problem
from training.data.image_io import IMAGE_ENDINGS

POSES_FILE = "dataset.json"

# --------------------------------------------------------------------------- JSON that someone else wrote


def parse_json(content: bytes) -> object:
    """What the text holds; ValueError if it is no JSON."""
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def to_float32(value: object, *shape: int) -> np.ndarray:
    """Nested lists of finite numbers as an array of that shape (none: one number); ValueError for anything else."""
    if not _has_shape(value, shape):
        raise ValueError(f"expected {'x'.join(map(str, shape)) or 1} number{'s' * bool(shape)}")
    try:
        with np.errstate(over="ignore"):  # too large for float32: infinity, which is refused
            numbers = np.array(value, np.float32)
    except OverflowError:  # an integer beyond float64
        numbers = np.array(np.inf)
    if not np.isfinite(numbers).all():
        raise ValueError("holds NaN or infinity")
    return numbers


def _has_shape(value: object, shape: tuple[int, ...]) -> bool:
    if not shape:
        return type(value) in (int, float)
    return isinstance(value, list) and len(value) == shape[0] and all(_has_shape(part, shape[1:]) for part in value)


def nfc(name: str) -> str:
    """File systems differ in how they spell an accent; both spellings are one name."""
    return unicodedata.normalize("NFC", name)


def stem_of(name: str) -> str:
    """Path, accents spelt one way, without a leading ./ and without a picture's ending."""
    path = PurePosixPath(nfc(name))
    return str(path.with_suffix("") if path.suffix.lower() in IMAGE_ENDINGS else path)


def by_name(pairs: object, spell: Callable[[str], str] = nfc) -> tuple[dict[str, object], list[Problem]]:
    """[[name, pose], ...] as a dict from `spell`ed names, and the names that come twice.

    Raises:
        ValueError: something else than such pairs.
    """
    if not _has_pairs(pairs):
        raise ValueError("expected pairs of a name and a pose")
    found: dict[str, object] = {}
    problems = []
    for name, pose in pairs:
        if spell(name) in found:
            problems.append(Problem(name, "has two poses"))
        found.setdefault(spell(name), pose)
    return found, problems


def _has_pairs(pairs: object) -> bool:
    return isinstance(pairs, list) and all(
        isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) for pair in pairs
    )


# --------------------------------------------------------------------------- the index


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
        stem = stem_of(name)
        if stem in found:
            problems.append(Problem(f"{archive.path.name}/{name}", f"same name without ending as {found[stem]}"))
        found.setdefault(stem, name)
    return found


def _pair(by_stem: dict[str, str], label_maps: Archive, problems: list[Problem]) -> list[str]:
    candidates = _by_stem(label_maps, problems)
    if not by_stem.keys() & candidates.keys():
        # another folder around the same files: pair by file names, if these are unique on both sides
        flat = {PurePosixPath(stem).name: name for stem, name in candidates.items()}
        if len(flat) == len(candidates) and len({PurePosixPath(stem).name for stem in by_stem}) == len(by_stem):
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
        if nfc(name) not in labels:
            problems.append(Problem(name, f"no pose in {POSES_FILE}"))
            continue
        try:
            poses[row] = to_float32(labels[nfc(name)], 25)
        except ValueError as error:
            problems.append(Problem(name, f"pose: {error}"))
    finite = np.flatnonzero(np.isfinite(poses).all(axis=1))
    faults = camera_utils.pose_problems(torch.from_numpy(poses[finite]))
    problems += [Problem(names[finite[row]], f"pose: {what}") for row, what in faults.items()]
    return poses


def _read_labels(images: Archive, problems: list[Problem]) -> dict[str, object] | None:
    if POSES_FILE not in images:
        problems.append(Problem(POSES_FILE, "missing; it holds the poses (dataset_tool.py pack --front makes one)"))
        return None
    try:
        labels, doubles = by_name(parse_json(images.read(POSES_FILE))["labels"])
    except (ValueError, KeyError, TypeError) as error:
        what = f'not {{"labels": [["name", [25 numbers]], ...]}} ({type(error).__name__}: {error})'
        problems.append(Problem(POSES_FILE, what))
        return None
    problems += doubles
    return labels
