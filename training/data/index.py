"""Match the images of a data set with their label maps and poses."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import torch

from camera_utils import pose_problems
from dnnlib.json_files import parse_json
from training.data.archive import WHOLE, Archive, Problem
from training.data.image_io import IMAGE_ENDINGS
from training.data.pose_files import POSES_FILE, by_name, is_list_of_groups, normalize_name, to_float32


def stem_of(name: str) -> str:
    """Return the normalized path without a leading ./ and without an image file's extension."""
    # Only known endings: "a.1" is a name, not an extension.
    path = PurePosixPath(normalize_name(name))
    return str(path.with_suffix("") if path.suffix.lower() in IMAGE_ENDINGS else path)


@dataclass(frozen=True)
class Index:
    """Names and poses of a data set, sorted by the names of the images.

    Attributes:
        images: names in the image archive.
        label_maps: names in the label-map archive, parallel to `images`; None without label maps.
        poses: float32 N,25; None if poses are not read.
        objects: int64 N, number of the object in each image, from 0 in the order of the images; without groups in
            dataset.json, or if poses are not read, each image shows an object of its own.
        problems: if not empty, the lists above may lack the files with problems.
    """

    images: list[str]
    label_maps: list[str] | None
    poses: np.ndarray | None
    objects: np.ndarray
    problems: list[Problem]


def build_index(images: Archive, label_maps: Archive | None, use_labels: bool) -> Index:
    """Match images with label maps (by path without extension, or by unique file name) and poses (dataset.json).

    Images are not decoded. Invalid content is listed in `problems` instead of raised.

    Args:
        images: archive of the images and dataset.json.
        label_maps: archive of the label maps, None for no label maps.
        use_labels: read the poses, and which images show the same object.
    """
    # Images decide what the data set contains; label maps and poses without an image are ignored.
    problems: list[Problem] = []
    image_by_stem = _images_by_stem(images, problems)
    if not image_by_stem:
        problems.append(Problem(WHOLE, f"contains no images ({', '.join(IMAGE_ENDINGS)})"))

    # Label maps, poses and objects in the order of the images.
    names = list(image_by_stem.values())
    matched = None if label_maps is None else _match_label_maps(image_by_stem, label_maps, problems)
    poses, groups = _read_poses_file(images, names, problems) if use_labels and names else (None, [])
    return Index(names, matched, poses, _number_objects(len(names), groups), problems)


def _images_by_stem(archive: Archive, problems: list[Problem]) -> dict[str, str]:
    """Return the image files of an archive by their path without extension."""
    image_by_stem: dict[str, str] = {}
    for name in archive.names:
        if not name.lower().endswith(IMAGE_ENDINGS):
            continue

        # a.jpg and a.png cannot both belong to label map a.png.
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

    # Images without a label map are reported, and missing in the result.
    for stem, name in image_by_stem.items():
        if stem not in label_map_by_stem:
            problems.append(Problem(name, f"no label map of that name in {label_maps.path.name}"))
    return [label_map_by_stem[stem] for stem in image_by_stem if stem in label_map_by_stem]


# --------------------------------------------------------------------------- dataset.json


def _read_poses_file(images: Archive, names: list[str], problems: list[Problem]) -> tuple[np.ndarray, list[list[int]]]:
    """Return the poses (see `_convert_poses`) and the groups of images of the same object (see `_convert_groups`)."""
    # Without the file, there is nothing to report for each image.
    nothing = np.full((len(names), 25), np.nan, np.float32)
    if POSES_FILE not in images:
        problems.append(Problem(POSES_FILE, "missing; it holds the poses (dataset_tool.py pack writes one)"))
        return nothing, []

    # Any other content than expected raises one of these.
    try:
        content = parse_json(images.read(POSES_FILE))
        labels, duplicates = by_name(content["labels"])
    except (ValueError, KeyError, TypeError) as error:
        reason = f'expected {{"labels": [["name", [25 numbers]], ...]}} ({type(error).__name__}: {error})'
        problems.append(Problem(POSES_FILE, reason))
        return nothing, []
    problems += duplicates
    return _convert_poses(labels, names, problems), _convert_groups(content, labels, names, problems)


def _convert_poses(labels: dict[str, object], names: list[str], problems: list[Problem]) -> np.ndarray:
    """Return float32 N,25 with NaN in the rows of images whose pose is missing or malformed."""
    # Convert the rows one by one, so that each problem names its image.
    poses = np.full((len(names), 25), np.nan, np.float32)
    for row, name in enumerate(names):
        if normalize_name(name) not in labels:
            problems.append(Problem(name, f"no pose in {POSES_FILE}"))
            continue
        try:
            poses[row] = to_float32(labels[normalize_name(name)], 25)
        except ValueError as error:
            problems.append(Problem(name, f"pose: {error}"))

    # Check the geometry of the rest at once; NaN marks the rows that this skips.
    finite_rows = np.flatnonzero(np.isfinite(poses).all(axis=1))
    for row, reason in pose_problems(torch.from_numpy(poses[finite_rows])).items():
        problems.append(Problem(names[finite_rows[row]], f"pose: {reason}"))
    return poses


def _convert_groups(
    content: dict[str, object], labels: dict[str, object], names: list[str], problems: list[Problem]
) -> list[list[int]]:
    """Return the numbers of the images in each group of images that show the same object."""
    row_by_name = {normalize_name(name): row for row, name in enumerate(names)}

    # Before "objects", toy data sets had "views": so many images in a row show the same object.
    views = content.get("views")
    if "objects" not in content and type(views) is int and views > 1:
        listed = list(labels)
        chunks = [listed[start : start + views] for start in range(0, len(listed), views)]
        return [[row_by_name[name] for name in chunk if name in row_by_name] for chunk in chunks]

    # Names are compared as those of the poses are.
    groups = content.get("objects", [])
    if not is_list_of_groups(groups):
        reason = '"objects": expected a list of lists of image names, [["a.png", "b.png"], ...]'
        problems.append(Problem(POSES_FILE, reason))
        return []
    named = [name for group in groups for name in group]
    unknown = [name for name in named if normalize_name(name) not in row_by_name]
    problems += [Problem(POSES_FILE, f'"objects": {name} is not an image of the data set') for name in unknown]
    repeated = [name for name, count in Counter(map(normalize_name, named)).items() if count > 1]
    problems += [Problem(POSES_FILE, f'"objects": {name} is listed twice') for name in repeated]
    return [] if unknown else [[row_by_name[normalize_name(name)] for name in group] for group in groups]


def _number_objects(count: int, groups: list[list[int]]) -> np.ndarray:
    """Return the number of the object of each of `count` images, int64: of its group, or its own."""
    # The first image of a group represents it; numbering those in order makes the numbers consecutive.
    first = np.arange(count)
    for group in groups:
        first[group] = min(group, default=0)
    return np.unique(first, return_inverse=True)[1].astype(np.int64)
