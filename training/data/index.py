"""Match the images of a data set with their label maps and poses."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import torch

from camera_utils import pose_problems
from dnnlib.json_files import parse_json
from training.data.archive import WHOLE, Archive, Problem, normalize_name
from training.data.image_io import IMAGE_ENDINGS
from training.data.pose_files import POSES_FILE, by_name, is_list_of_groups, to_float32

# Names of files that are not read, in messages.
MAX_NAMED_UNREAD = 3


def stem_of(name: str) -> str:
    """Return the normalized path without an image file's extension."""
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
        unread = describe_unread(images)
        reason = f"contains no images ({', '.join(IMAGE_ENDINGS)})" + (f"; {unread}" if unread else "")
        problems.append(Problem(WHOLE, reason))

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
    matches = _match_stems(list(image_by_stem), list(label_map_by_stem))

    # Images without a label map are reported, and missing in the result.
    unread = {str(PurePosixPath(name).with_suffix("")): name for name in unread_files(label_maps)}
    for stem, name in image_by_stem.items():
        if stem not in matches:
            hint = f"; {unread[stem]} is not read, save it as PNG" if stem in unread else ""
            problems.append(Problem(name, f"no label map of that name in {label_maps.path.name}{hint}"))
    return [label_map_by_stem[matches[stem]] for stem in image_by_stem if stem in matches]


def _match_stems(images: list[str], label_maps: list[str]) -> dict[str, str]:
    """Return the label map of each image that has one; all are paths without extension."""
    # The same files may be in other folders: below one that holds all, or, if their names are unique, anywhere.
    for image_form, label_map_form in MATCHED_FORMS:
        image_keys = image_form(images)
        label_map_keys = label_map_form(label_maps)
        label_map_by_key = dict(zip(label_map_keys, label_maps, strict=True))
        is_unique = len(label_map_by_key) == len(label_maps) and len(set(image_keys)) == len(images)
        matches = {
            stem: label_map_by_key[key] for stem, key in zip(images, image_keys, strict=True) if key in label_map_by_key
        }
        if matches and is_unique:
            return matches
    return {}


def _below_common_folder(paths: list[str]) -> list[str]:
    """Return paths relative to the top folder that all are in, if there is one."""
    folders = {path.split("/")[0] for path in paths if "/" in path}
    is_common = len(folders) == 1 and all("/" in path for path in paths)
    return [path.split("/", 1)[1] for path in paths] if is_common else paths


def _file_names(paths: list[str]) -> list[str]:
    return [path.split("/")[-1] for path in paths]


# Forms of the paths of images and label maps that are compared, the first that fit.
MATCHED_FORMS = (
    (list, list),
    (list, _below_common_folder),
    (_below_common_folder, list),
    (_below_common_folder, _below_common_folder),
    (_file_names, _file_names),
)


def unread_files(archive: Archive) -> list[str]:
    """Return the files of an archive that are neither images that can be read nor JSON."""
    return [name for name in archive.names if not name.lower().endswith((*IMAGE_ENDINGS, ".json"))]


def describe_unread(archive: Archive) -> str:
    """Return a phrase with the number, kinds and first names of `unread_files`, "" if there are none."""
    names = unread_files(archive)
    if not names:
        return ""
    kinds = Counter(PurePosixPath(name).suffix.lower() or "without extension" for name in names)
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(MAX_NAMED_UNREAD))
    first = ", ".join(names[:MAX_NAMED_UNREAD])
    files = "file is" if len(names) == 1 else "files are"
    return f"{len(names)} {files} not read ({counts}): {first}{', ...' if len(names) > MAX_NAMED_UNREAD else ''}"


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
