"""A person's own folders to the zip form: cameras read and normalized, pictures cropped and resized, classes mapped."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from camera_utils import (
    CameraPreset,
    front_pose,
    join_pose,
    opengl_to_opencv,
    pose_problems,
    split_pose,
    z_up_to_y_up,
)
from training.data.archive import Archive, ArchiveWriter, DataError, Problem, data_error
from training.data.image_io import (
    CLASS_MODES,
    COLOR_MODES,
    decode_class_ids,
    decode_image,
    encode_png,
    has_exif_rotation,
    open_class_map,
    open_image,
)
from training.data.index import POSES_FILE, build_index, by_name, parse_json, stem_of, to_float32
from training.data.label_maps import index_from_colors

COLOR_KEY = re.compile(r"#[0-9a-f]{6}")
DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")  # of a lens, as transforms.json spells it

# --------------------------------------------------------------------------- cameras


def read_cameras(path: Path, z_up: bool = True) -> dict[str, np.ndarray]:
    """Poses by name without ending, 25 float32 each, intrinsics divided by the picture's own width and height.

    Args:
        path: a dataset.json (EG3D), or a transforms.json (NeRF, COLMAP, Blender: OpenGL cameras).
        z_up: of transforms.json: the world's z points up and its front is -y, as in Blender; else y is up, front +z.
    Raises:
        DataError: not one of these, or entries that lack something, come twice or belong to a lens with distortion.
    """
    try:
        content = parse_json(path.read_bytes())
        is_eg3d = isinstance(content, dict) and "labels" in content
        entries, problems = by_name(content["labels"] if is_eg3d else _frames(content), _key)
    except ValueError as error:
        raise data_error(path, "-", f"not readable as cameras ({error})") from error
    poses = {}
    for name, entry in entries.items():
        try:
            poses[name] = to_float32(entry, 25) if is_eg3d else _nerf_pose(entry, z_up)
        except ValueError as error:
            problems.append(Problem(name, str(error)))
    if problems:
        raise DataError(path, problems)
    return poses


def _key(name: str) -> str:
    return stem_of(name.replace("\\", "/"))


def _frames(content: object) -> list[list]:
    """Pairs of file_path and frame of a transforms.json, to each frame added what the file says of all."""
    if not isinstance(content, dict) or not isinstance(content.get("frames"), list):
        raise ValueError(
            'expected {"labels": [...]} of EG3D\'s dataset.json or {"frames": [...]} of NeRF\'s transforms.json'
        )
    for number, frame in enumerate(content["frames"]):
        if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str):
            raise ValueError(f"frame {number} has no file_path")
    return [[frame["file_path"], {**content, **frame}] for frame in content["frames"]]


def _nerf_pose(frame: dict, z_up: bool) -> np.ndarray:
    """25 float32; the vertical focal length is NaN where it follows from the picture's shape (`crop_intrinsics`)."""
    bent = [key for key in DISTORTION if frame.get(key)]
    if bent:
        raise ValueError(f"{bent[0]} is {frame[bent[0]]}: lens distortion is not modeled, undistort the pictures first")
    cam2world = opengl_to_opencv(torch.from_numpy(_numbers(frame, "transform_matrix", 4, 4))[None])
    if z_up:
        cam2world = z_up_to_y_up(cam2world)
    if "fl_x" in frame:
        width, height = _within(frame, "w"), _within(frame, "h")
        focal_x = _within(frame, "fl_x")
        focal = focal_x / width, (_within(frame, "fl_y") if "fl_y" in frame else focal_x) / height
        middle = [
            float(_numbers(frame, key)) / size if key in frame else 0.5 for key, size in (("cx", width), ("cy", height))
        ]
        intrinsics = [[focal[0], 0, middle[0]], [0, focal[1], middle[1]], [0, 0, 1]]
    else:
        focal = 0.5 / math.tan(_within(frame, "camera_angle_x", math.pi) / 2)
        intrinsics = [[focal, 0, 0.5], [0, math.nan, 0.5], [0, 0, 1]]
    return join_pose(cam2world, torch.tensor(intrinsics)[None])[0].numpy()


def _numbers(frame: dict, key: str, *shape: int) -> np.ndarray:
    if key not in frame:
        raise ValueError(f"no {key!r}")
    try:
        return to_float32(frame[key], *shape)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


def _within(frame: dict, key: str, end: float = math.inf) -> float:
    """A number between 0 and `end`."""
    number = float(_numbers(frame, key))
    if not 0 < number < end:
        raise ValueError(
            f"{key}: got {number:g}, expected more than 0" + (f", less than {end:g}" if end < math.inf else "")
        )
    return number


def crop_intrinsics(pose: np.ndarray, width: int, height: int) -> np.ndarray:
    """The pose of the middle square of a picture, its intrinsics divided by the square's side."""
    left, top, side = middle_of(width, height)
    pose = pose.copy()
    k = pose[16:].reshape(3, 3)
    if np.isnan(k[1, 1]):
        k[1, 1] = k[0, 0] * width / height  # square pixels
    k[0] *= width / side
    k[1] *= height / side
    k[0, 2] -= left / side
    k[1, 2] -= top / side
    return pose


def middle_of(width: int, height: int) -> tuple[int, int, int]:
    """Left, top and side of the largest square in the middle, in whole pixels."""
    side = min(width, height)
    return (width - side) // 2, (height - side) // 2, side


def normalize_cameras(poses: Tensor, radius: float) -> Tensor:
    """Move and scale the world of N,25 so that all cameras look at the origin and stand `radius` away on average.

    The new origin is the point nearest to all optical axes (least squares).

    Raises:
        ValueError: the axes are almost parallel, so that they do not say how far away the scene is.
    """
    cam2world, intrinsics = split_pose(poses)
    position, forward = cam2world[:, :3, 3:].double(), cam2world[:, :3, 2:3].double()
    across = torch.eye(3, dtype=torch.float64) - forward @ forward.mT  # projection on the plane across each axis
    total = across.sum(0)
    if torch.linalg.eigvalsh(total)[0] < 1e-3 * len(poses):
        raise ValueError("the cameras look in one direction, which does not say where the scene is (see --keep-world)")
    center = torch.linalg.solve(total, (across @ position).sum(0))
    moved = position - center
    moved = moved * (radius / moved.norm(dim=1).mean())
    cam2world = cam2world.clone()
    cam2world[:, :3, 3] = moved[:, :, 0].to(cam2world)
    return join_pose(cam2world, intrinsics)


# --------------------------------------------------------------------------- pictures


def read_photo(content: bytes) -> Image.Image:
    """RGB, the way up that its EXIF orientation says."""
    return Image.fromarray(decode_image(content, apply_exif=True).transpose(1, 2, 0))


def read_drawing(content: bytes) -> Image.Image:
    """Gray picture of a drawing, dark on white."""
    return read_photo(content).convert("L")


def read_class_ids(content: bytes, table: dict[str, int] | None) -> Image.Image:
    """Gray picture of class ids.

    Args:
        table: new id by old id ("7") or color ("#ff0000"), where indices of a palette that it lacks go by their
            color; None keeps ids, and reads colors by the palette of label maps.
    """
    picture = open_class_map(content, COLOR_MODES)
    if picture.mode in CLASS_MODES:
        ids = decode_class_ids(content, apply_exif=True)
        ids = ids if table is None else _mapped(ids, _by_id(table, picture))
    else:
        rgb = decode_image(content, apply_exif=True).transpose(1, 2, 0)
        ids = index_from_colors(rgb) if table is None else _mapped(_packed(rgb), _by_color(table))
    return Image.fromarray(ids.astype(np.uint8))


def squared(picture: Image.Image, resolution: int, resampling: Image.Resampling) -> bytes:
    """PNG of the middle square."""
    left, top, side = middle_of(*picture.size)
    square = picture.crop((left, top, left + side, top + side)).resize((resolution, resolution), resampling)
    return encode_png(np.asarray(square))


def check_same_shape(picture: Image.Image, label_map: Image.Image) -> None:
    """Pictures of one scene are as wide for their height, but for a pixel of rounding; ValueError if not."""
    (width, height), (label_width, label_height) = picture.size, label_map.size
    off = abs(label_width - label_height * width / height), abs(label_height - label_width * height / width)
    if min(off) > 1:
        raise ValueError(f"{label_width}x{label_height} pixels, its image has {width}x{height}: another shape")


def read_class_table(path: Path) -> dict[str, int]:
    """A JSON object from old id or #rrggbb to new id, checked; DataError if it is something else."""
    try:
        table = {str(key).lower(): value for key, value in parse_json(path.read_bytes()).items()}
    except (ValueError, AttributeError) as error:
        raise data_error(path, "-", f'not a JSON object like {{"7": 1, "#ff0000": 2}} ({error})') from error
    for key, value in table.items():
        if not (key.isdecimal() or COLOR_KEY.fullmatch(key)) or type(value) is not int or not 0 <= value <= 255:
            raise data_error(path, key, f'{value!r} is not like "7": 1 or "#ff0000": 2 (new ids are 0 to 255)')
    return table


def _packed(rgb: np.ndarray) -> np.ndarray:
    return rgb.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])


def _by_color(table: dict[str, int]) -> dict[int, int]:
    return {int(key[1:], 16): value for key, value in table.items() if key.startswith("#")}


def _by_id(table: dict[str, int], picture: Image.Image) -> dict[int, int]:
    colors, by_color = picture.getpalette("RGB") or [], _by_color(table)
    numbers = _packed(np.array(colors).reshape(-1, 3)).tolist()
    ids = {index: by_color[number] for index, number in enumerate(numbers) if number in by_color}
    return ids | {int(key): value for key, value in table.items() if not key.startswith("#")}


def _mapped(values: np.ndarray, table: dict[int, int]) -> np.ndarray:
    found, position = np.unique(values, return_inverse=True)
    unknown = [int(value) for value in found if int(value) not in table]
    if unknown:
        shown = f"#{unknown[0]:06x}" if values.dtype == np.int64 else str(unknown[0])
        raise ValueError(f"class {shown} is not in the table of classes")
    return np.array([table[int(value)] for value in found])[position].reshape(values.shape)


# --------------------------------------------------------------------------- the whole set


@dataclass(frozen=True)
class PackOptions:
    """How `pack` works.

    Attributes:
        resolution: side of the packed pictures.
        preset: camera set-up to normalize to, and whose front pose is used without `cameras`.
        data_type: "seg" or "edge".
        cameras: dataset.json or transforms.json; None gives every picture the front pose.
        z_up: of transforms.json, see read_cameras.
        keep_world: leave positions as they are instead of normalizing them.
        table: of classes, see pack_class_ids.
    """

    resolution: int
    preset: CameraPreset
    data_type: str = "seg"
    cameras: Path | None = None
    z_up: bool = True
    keep_world: bool = False
    table: dict[str, int] | None = None


def pack(
    images: Archive,
    label_maps: Archive | None,
    output: Path,
    label_output: Path | None,
    options: PackOptions,
    progress: Callable[[Iterable], Iterable] = iter,
) -> int:
    """Write the zip of images with dataset.json, and that of label maps; both appear complete or not at all.

    Returns:
        The number of pictures.
    Raises:
        DataError: with every picture that lacks a pose or a label map, or the first that cannot be converted.
    """
    index = build_index(images, label_maps, use_labels=False)
    if index.problems:
        raise DataError(images.path, index.problems)
    poses = _poses(images, index.images, options)
    read_label_map, resampling = {
        "seg": (partial(read_class_ids, table=options.table), Image.Resampling.NEAREST),
        "edge": (read_drawing, Image.Resampling.BILINEAR),  # nearest neighbors would lose thin lines
    }[options.data_type]
    labels = []
    with ExitStack() as stack:
        out = stack.enter_context(ArchiveWriter(output))
        label_out = stack.enter_context(ArchiveWriter(label_output)) if label_maps else None
        for number, name in enumerate(progress(index.images)):
            new_name = str(PurePosixPath(name).with_suffix(".png"))
            with _naming(images, name):
                picture = read_photo(images.read(name))
            out.add(new_name, squared(picture, options.resolution, Image.Resampling.LANCZOS))
            if label_out:
                with _naming(label_maps, index.label_maps[number]):
                    label_map = read_label_map(label_maps.read(index.label_maps[number]))
                    check_same_shape(picture, label_map)
                label_out.add(new_name, squared(label_map, options.resolution, resampling))
            labels.append([new_name, [round(float(x), 7) for x in poses[number]]])
        out.add(POSES_FILE, json.dumps({"labels": labels}))
    return len(labels)


@contextmanager
def _naming(archive: Archive, name: str) -> Iterator[None]:
    """Turn a ValueError about a file's content into a DataError that names the file."""
    try:
        yield
    except DataError:
        raise
    except ValueError as error:
        raise data_error(archive.path, name, str(error)) from error


def _poses(images: Archive, names: list[str], options: PackOptions) -> Tensor:
    """N,25 for the cropped pictures."""
    if options.cameras is None:
        return front_pose(options.preset).expand(len(names), 25)
    cameras = read_cameras(options.cameras, options.z_up)
    keys = [_matching(name, cameras) for name in names]
    unclear = [
        Problem(name, f"ambiguous camera: {found[0]} or {found[1]}" if found else "no camera")
        for name, found in zip(names, keys, strict=True)
        if len(found) != 1
    ]
    if unclear:
        raise DataError(options.cameras, unclear)
    poses = [
        crop_intrinsics(cameras[key], *_stored_size(images, name)) for name, (key,) in zip(names, keys, strict=True)
    ]
    tensor = torch.from_numpy(np.stack(poses))
    if not options.keep_world:
        try:
            tensor = normalize_cameras(tensor, options.preset.radius)
        except ValueError as error:
            raise data_error(options.cameras, "-", str(error)) from error
    faults = pose_problems(tensor)
    if faults:
        raise DataError(options.cameras, [Problem(names[row], f"pose: {what}") for row, what in faults.items()])
    return tensor


def _stored_size(images: Archive, name: str) -> tuple[int, int]:
    """Width and height of a picture with a camera, which must not be turned any more."""
    with _naming(images, name):
        picture = open_image(images.read(name))
        if has_exif_rotation(picture):
            raise ValueError(
                "is turned by its EXIF orientation, its camera is not; turn its pixels before finding cameras"
            )
    return picture.size


def _matching(name: str, cameras: dict[str, np.ndarray]) -> list[str]:
    """Keys of the cameras of a picture: by path, else by its end, since cameras files often name the folder too."""
    stem = stem_of(name)
    if stem in cameras:
        return [stem]
    return [key for key in cameras if key.endswith("/" + stem) or stem.endswith("/" + key)]
