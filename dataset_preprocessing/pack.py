"""Pack images, label maps and cameras of a user into the zips of a data set."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from camera_utils import CameraPreset, front_pose, pose_problems
from dataset_preprocessing.camera_world import (
    center_square,
    crop_camera,
    fits_preset,
    is_scaled_copy,
    normalize_cameras,
)
from dataset_preprocessing.cameras import Camera, match_cameras, read_cameras
from dnnlib.errors import ConfigError
from dnnlib.json_files import read_json
from training.data.archive import WHOLE, Archive, DataError, Problem, data_error, write_archive
from training.data.image_io import decode_rgb, encode_png, has_exif_rotation, open_image
from training.data.index import build_index, stem_of
from training.data.label_maps import LabelMapOptions, check_drawing, decode_class_ids
from training.data.pose_files import POSES_FILE, is_list_of_groups

# Value of PackOptions.objects.
FOLDERS = "folders"

# --------------------------------------------------------------------------- images


def _encode_square(image: Image.Image, resolution: int, resampling: Image.Resampling) -> bytes:
    """Crop the center square, resize it and encode it as PNG."""
    left, top, side = center_square(*image.size)
    square = image.crop((left, top, left + side, top + side)).resize((resolution, resolution), resampling)
    return encode_png(np.asarray(square))


def _check_same_aspect(image: Image.Image, label_map: Image.Image) -> None:
    """Raise ValueError if the aspect ratios differ by more than a pixel of rounding."""
    if not is_scaled_copy(image.size, label_map.size):
        width, height = image.size
        label_width, label_height = label_map.size
        raise ValueError(f"{label_width}x{label_height} pixels, its image has {width}x{height}: another aspect ratio")


# --------------------------------------------------------------------------- data set


@dataclass(frozen=True)
class PackOptions:
    """Options of `pack`.

    Attributes:
        resolution: side of the packed images in pixels.
        preset: cameras to normalize to, and the front pose for images without `cameras`.
        data_type: "seg" or "edge".
        cameras: dataset.json or transforms.json; None gives every image the front pose.
        z_up: of transforms.json, see `read_cameras`.
        keep_world: do not normalize camera positions.
        class_table, ignore: of label maps of classes, see `LabelMapOptions`.
        objects: FOLDERS if images in the same folder show the same object, or the path of a JSON file with groups of
            names of images that show the same object; None if each image shows another object.
        skip_missing: leave out images without a camera in `cameras`, instead of reporting them.
    """

    resolution: int
    preset: CameraPreset
    data_type: str = "seg"
    cameras: Path | None = None
    z_up: bool = True
    keep_world: bool = False
    class_table: dict[str, int] | None = None
    objects: str | None = None
    skip_missing: bool = False
    ignore: int | None = None


def pack(
    images: Archive,
    label_maps: Archive | None,
    output: Path,
    label_output: Path | None,
    options: PackOptions,
    progress: Callable[[Iterable], Iterable] = iter,
) -> tuple[int, list[str]]:
    """Write the zip of images with dataset.json, and that of label maps; both appear complete or not at all.

    Args:
        images: photos of any size.
        label_maps: label maps with the same names and aspect ratios, None for none.
        output: zip of images.
        label_output: zip of label maps.
        options: see PackOptions.
        progress: wraps the loop over images, for a progress bar.
    Returns:
        Number of images; names of those that were left out, see PackOptions.skip_missing.
    Raises:
        DataError: all images without pose or label map, all wrong names in `objects`, or the first image that cannot be
            converted.
        ConfigError: no image is in a folder, with objects FOLDERS.
    """
    index = build_index(images, label_maps, use_labels=False)
    if index.problems:
        raise DataError(images.path, index.problems)

    # Before the images are converted, which takes longer.
    poses = _read_poses(images, index.images, options)
    groups = _read_objects(index.images, options.objects, poses)

    labels = []
    with ExitStack() as stack:
        add_image = stack.enter_context(write_archive(output))
        add_label_map = stack.enter_context(write_archive(label_output)) if label_maps else None
        for number, name in enumerate(progress(index.images)):
            if name not in poses:
                continue
            png_name = _packed_name(name)
            image = images.decode(name, decode_rgb)
            add_image(png_name, _encode_square(image, options.resolution, Image.Resampling.LANCZOS))

            # The label map gets the name of its image, so that a data set matches by path.
            if add_label_map:
                convert = partial(_convert_label_map, image=image, options=options)
                add_label_map(png_name, label_maps.decode(index.label_maps[number], convert))
            labels.append([png_name, [round(float(x), 7) for x in poses[name]]])
        add_image(POSES_FILE, json.dumps({"labels": labels, **({"objects": groups} if groups else {})}))
    return len(labels), [name for name in index.images if name not in poses]


def _packed_name(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(".png"))


def _convert_label_map(content: bytes, image: Image.Image, options: PackOptions) -> bytes:
    """Decode the label map of an image and encode its center square as PNG."""
    # Class ids cannot be blended; of drawings, nearest neighbor would lose thin lines.
    if options.data_type == "seg":
        ids = decode_class_ids(content, LabelMapOptions(options.class_table, options.ignore))
        label_map = Image.fromarray(ids)
        resampling = Image.Resampling.NEAREST
    else:
        drawing = decode_rgb(content)
        check_drawing(drawing)
        label_map = drawing.convert("L")
        resampling = Image.Resampling.BILINEAR
    _check_same_aspect(image, label_map)
    return _encode_square(label_map, options.resolution, resampling)


# --------------------------------------------------------------------------- objects


def _read_objects(names: list[str], source: str | None, packed: Collection[str]) -> list[list[str]]:
    """Return groups of packed names of images that show the same object; see PackOptions.objects.

    Args:
        names: of all images.
        source: value of PackOptions.objects.
        packed: names of the images that are not left out.
    """
    if source is None:
        return []
    groups = _group_by_folder(names) if source == FOLDERS else _read_groups(names, Path(source))

    # Without the images that are left out.
    packed_names = {_packed_name(name) for name in packed}
    kept = [[name for name in group if name in packed_names] for group in groups]
    return [group for group in kept if group]


def _group_by_folder(names: list[str]) -> list[list[str]]:
    # Images outside of all folders are left out: nothing says that they show the same object.
    groups: dict[PurePosixPath, list[str]] = {}
    for name in names:
        folder = PurePosixPath(name).parent
        if folder.name:
            groups.setdefault(folder, []).append(_packed_name(name))
    if not groups:
        problem = "no image is in a folder"
        raise ConfigError("objects", problem=problem, hint="put the images of each object in a folder of its own")
    return list(groups.values())


def _read_groups(names: list[str], path: Path) -> list[list[str]]:
    # Names with any image's ending, as for label maps.
    try:
        groups = read_json(path)
    except ValueError as error:
        raise data_error(path, WHOLE, f"not JSON ({error})") from error
    if not is_list_of_groups(groups):
        raise data_error(path, WHOLE, 'expected a list of lists of image names, [["a.jpg", "b.jpg"], ...]')
    stems = [[stem_of(name) for name in group] for group in groups]

    # A data set would reject names without image, and images in two groups.
    packed = {stem_of(name): _packed_name(name) for name in names}
    counts = Counter(chain.from_iterable(stems))
    problems = [Problem(stem, "no such image") for stem in counts if stem not in packed]
    problems += [Problem(stem, "is listed twice") for stem, count in counts.items() if count > 1]
    if problems:
        raise DataError(path, problems, check_lists_all=False)
    return [[packed[stem] for stem in group] for group in stems]


# --------------------------------------------------------------------------- poses


def _read_poses(images: Archive, names: list[str], options: PackOptions) -> dict[str, Tensor]:
    """Return the pose, 25, of the center square of each image that is not left out."""
    if options.cameras is None:
        return dict.fromkeys(names, front_pose(options.preset)[0])
    cameras, is_eg3d = read_cameras(options.cameras, options.z_up)
    camera_of = _cameras_by_image(names, cameras, options)
    names = list(camera_of)

    # Intrinsics of the center square, which depend on the size of each image. Matrices are checked before they are
    # used, as the normalization of anything but rotations would hide what is wrong with them.
    cropped = [images.decode(name, partial(_crop, camera_of[name])) for name in names]
    poses = torch.from_numpy(np.stack(cropped))  # N,25
    _check_poses(names, poses, options, scene=False)

    # Move the scene to that of the preset, unless it is there: poses of published data sets stay as they are.
    if not (options.keep_world or (is_eg3d and fits_preset(poses, options.preset))):
        try:
            poses = normalize_cameras(poses, options.preset)
        except ValueError as error:
            raise data_error(options.cameras, WHOLE, f"{error}; keep_world leaves positions as they are") from error

    # What a data set would reject is reported now, at its precision.
    poses = poses.float()
    _check_poses(names, poses, options)
    return dict(zip(names, poses, strict=True))


def _cameras_by_image(names: list[str], cameras: dict[str, Camera], options: PackOptions) -> dict[str, Camera]:
    """Return the camera of each image that has one; DataError for all images without exactly one."""
    problems = []
    found = {}
    for name, matches in match_cameras(names, cameras).items():
        if len(matches) == 1:
            found[name] = cameras[matches[0]]
        elif matches:
            problems.append(Problem(name, f"ambiguous camera: {matches[0]} or {matches[1]}"))
        elif not options.skip_missing:
            problems.append(Problem(name, "no camera; --skip-missing leaves out such images, and lists them"))
    if not problems and not found:
        problems = [Problem(WHOLE, f"no image has a camera; the first is {names[0]}")]
    if problems:
        raise DataError(options.cameras, problems, check_lists_all=False)
    return found


def _check_poses(names: list[str], poses: Tensor, options: PackOptions, scene: bool = True) -> None:
    """Raise DataError with all invalid poses N,25; `scene` as in `pose_problems`."""
    faults = pose_problems(poses, scene)
    if faults:
        problems = [Problem(names[row], f"pose: {reason}") for row, reason in faults.items()]
        raise DataError(options.cameras, problems, check_lists_all=False)


def _crop(camera: Camera, content: bytes) -> np.ndarray:
    """Return the pose, 25, of the center square of an image; ValueError if it does not have the camera's shape."""
    # Only the header is read.
    image = open_image(content)
    if has_exif_rotation(image):
        raise ValueError("rotated by its EXIF orientation, unlike its camera; rotate its pixels, then find cameras")
    return crop_camera(camera, *image.size)
