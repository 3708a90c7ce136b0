"""A person's own folders to the zip form: cameras read and normalised, pictures cropped and resized, classes mapped."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from camera_utils import CameraPreset, front_pose, join_pose, opengl_to_opencv, split_pose, z_up_to_y_up
from training.archive import Archive, ArchiveWriter, DataError, Problem, data_error
from training.data_index import POSES_FILE, build_index
from training.label_maps import index_from_colours
from training.pictures import CLASS_MODES, decode_class_ids, decode_image, encode_png, open_picture

COLOUR_KEY = re.compile(r"#[0-9a-f]{6}")

# --------------------------------------------------------------------------- cameras


def read_cameras(path: Path, z_up: bool = True) -> dict[str, np.ndarray]:
    """Poses by name without ending, 25 float32 each, intrinsics divided by the picture's own width and height.

    Args:
        path: a dataset.json (EG3D), or a transforms.json (NeRF, COLMAP, Blender: OpenGL cameras).
        z_up: of transforms.json: the world's z points up and its front is -y, as in Blender; else y is up, front +z.
    Raises:
        DataError: not one of these, or an entry that lacks something.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if "labels" in content:
            return {_stem(name): np.array(numbers, np.float32) for name, numbers in content["labels"]}
        return {_stem(frame["file_path"]): _nerf_pose(frame, content, z_up) for frame in content["frames"]}
    except KeyError as error:
        raise data_error(path, "-", f"no {error}; expected EG3D's dataset.json or NeRF's transforms.json") from error
    except (ValueError, TypeError) as error:
        raise data_error(path, "-", f"not readable as cameras ({error})") from error


def _stem(name: str) -> str:
    """Path without leading dots and without ending."""
    path = PurePosixPath(name.replace("\\", "/"))
    return str(path.with_suffix("") if path.suffix else path).removeprefix("./")


def _nerf_pose(frame: dict, shared: dict, z_up: bool) -> np.ndarray:
    cam2world = opengl_to_opencv(torch.tensor(frame["transform_matrix"], dtype=torch.float32)[None])
    if cam2world.shape != (1, 4, 4):
        raise ValueError(f"{frame['file_path']}: transform_matrix is not 4x4")
    if z_up:
        cam2world = z_up_to_y_up(cam2world)
    given = {**shared, **frame}
    if "fl_x" in given:
        width, height = given["w"], given["h"]
        focal = given["fl_x"] / width, given.get("fl_y", given["fl_x"]) / height
        middle = given.get("cx", width / 2) / width, given.get("cy", height / 2) / height
        intrinsics = [[focal[0], 0, middle[0]], [0, focal[1], middle[1]], [0, 0, 1]]
    else:
        focal = 0.5 / math.tan(given["camera_angle_x"] / 2)
        # the vertical one follows from the picture's shape when it is cropped: square pixels
        intrinsics = [[focal, 0, 0.5], [0, math.nan, 0.5], [0, 0, 1]]
    return join_pose(cam2world, torch.tensor(intrinsics)[None])[0].numpy()


def crop_intrinsics(pose: np.ndarray, width: int, height: int) -> np.ndarray:
    """The pose of the middle square of a picture, its intrinsics divided by the square's side."""
    side = min(width, height)
    pose = pose.copy()
    k = pose[16:].reshape(3, 3)
    if np.isnan(k[1, 1]):
        k[1, 1] = k[0, 0] * width / height
    k[0] *= width / side
    k[1] *= height / side
    k[0, 2] -= (width - side) / 2 / side
    k[1, 2] -= (height - side) / 2 / side
    return pose


def normalise_cameras(poses: Tensor, radius: float) -> Tensor:
    """Move and scale the world of N,25 so that all cameras look at the origin and stand `radius` away on average.

    The new origin is the point nearest to all optical axes (least squares). Axes that are almost parallel do not say
    how far away the scene is; then the world is left as it is.
    """
    cam2world, intrinsics = split_pose(poses)
    position, forward = cam2world[:, :3, 3:].double(), cam2world[:, :3, 2:3].double()
    across = torch.eye(3, dtype=torch.float64) - forward @ forward.mT  # projection on the plane across each axis
    total = across.sum(0)
    if torch.linalg.eigvalsh(total)[0] < 1e-3 * len(poses):
        return poses
    centre = torch.linalg.solve(total, (across @ position).sum(0))
    moved = position - centre
    moved = moved * (radius / moved.norm(dim=1).mean())
    cam2world = cam2world.clone()
    cam2world[:, :3, 3] = moved[:, :, 0].to(cam2world)
    return join_pose(cam2world, intrinsics)


# --------------------------------------------------------------------------- pictures


def middle_square(picture: Image.Image) -> Image.Image:
    """The largest square in the middle."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side))


def pack_image(content: bytes, resolution: int) -> bytes:
    """PNG of the middle square, antialiased."""
    picture = Image.fromarray(decode_image(content).transpose(1, 2, 0))
    return _png(middle_square(picture).resize((resolution, resolution), Image.Resampling.LANCZOS))


def pack_drawing(content: bytes, resolution: int) -> bytes:
    """Grey PNG of a drawing, dark on white; antialiased, since nearest neighbours would lose thin lines."""
    grey = Image.fromarray(decode_image(content).transpose(1, 2, 0)).convert("L")
    return _png(middle_square(grey).resize((resolution, resolution), Image.Resampling.BILINEAR))


def pack_class_ids(content: bytes, resolution: int, table: dict[str, int] | None) -> bytes:
    """Grey PNG of class ids, nearest neighbours.

    Args:
        table: new id by old id ("7") or colour ("#ff0000"); None keeps ids, and reads colours by the palette.
    """
    if open_picture(content).mode in CLASS_MODES:
        ids = decode_class_ids(content)
        ids = ids if table is None else _mapped(ids, {int(k): v for k, v in table.items() if not k.startswith("#")})
    else:
        rgb = decode_image(content).transpose(1, 2, 0)
        ids = index_from_colours(rgb) if table is None else _mapped(_packed(rgb), _by_colour(table))
    square = middle_square(Image.fromarray(ids.astype(np.uint8)))
    return _png(square.resize((resolution, resolution), Image.Resampling.NEAREST))


def read_class_table(path: Path) -> dict[str, int]:
    """A JSON object from old id or #rrggbb to new id, checked; DataError if it is something else."""
    try:
        table = {str(key).lower(): value for key, value in json.loads(path.read_text(encoding="utf-8")).items()}
    except (ValueError, AttributeError) as error:
        raise data_error(path, "-", f'not a JSON object like {{"7": 1, "#ff0000": 2}} ({error})') from error
    for key, value in table.items():
        if not (key.isdecimal() or COLOUR_KEY.fullmatch(key)) or type(value) is not int or not 0 <= value <= 255:
            raise data_error(path, key, f'{value!r} is not like "7": 1 or "#ff0000": 2 (new ids are 0 to 255)')
    return table


def _packed(rgb: np.ndarray) -> np.ndarray:
    return rgb.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])


def _by_colour(table: dict[str, int]) -> dict[int, int]:
    return {int(key[1:], 16): value for key, value in table.items() if key.startswith("#")}


def _mapped(values: np.ndarray, table: dict[int, int]) -> np.ndarray:
    found, position = np.unique(values, return_inverse=True)
    unknown = [int(value) for value in found if int(value) not in table]
    if unknown:
        shown = f"#{unknown[0]:06x}" if values.dtype == np.int64 else str(unknown[0])
        raise ValueError(f"class {shown} is not in the table of classes")
    return np.array([table[int(value)] for value in found])[position].reshape(values.shape)


def _png(picture: Image.Image) -> bytes:
    return encode_png(np.array(picture))


# --------------------------------------------------------------------------- the whole set


@dataclass(frozen=True)
class PackOptions:
    """How `pack` works.

    Attributes:
        resolution: side of the packed pictures.
        preset: camera set-up to normalise to, and whose front pose is used without `cameras`.
        data_type: "seg" or "edge".
        cameras: dataset.json or transforms.json; None gives every picture the front pose.
        z_up: of transforms.json, see read_cameras.
        keep_world: leave positions as they are instead of normalising them.
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
    convert = {
        "seg": lambda content: pack_class_ids(content, options.resolution, options.table),
        "edge": lambda content: pack_drawing(content, options.resolution),
    }[options.data_type]
    labels = []
    with ExitStack() as stack:
        out = stack.enter_context(ArchiveWriter(output))
        label_out = stack.enter_context(ArchiveWriter(label_output)) if label_maps else None
        for number, name in enumerate(progress(index.images)):
            new_name = str(PurePosixPath(name).with_suffix(".png"))
            out.add(new_name, _converted(images, name, lambda content: pack_image(content, options.resolution)))
            if label_out:
                label_out.add(new_name, _converted(label_maps, index.label_maps[number], convert))
            labels.append([new_name, [round(float(x), 7) for x in poses[number]]])
        out.add(POSES_FILE, json.dumps({"labels": labels}))
    return len(labels)


def _converted(archive: Archive, name: str, convert: Callable[[bytes], bytes]) -> bytes:
    try:
        return convert(archive.read(name))
    except DataError:
        raise
    except ValueError as error:
        raise data_error(archive.path, name, str(error)) from error


def _poses(images: Archive, names: list[str], options: PackOptions) -> Tensor:
    """N,25 for the cropped pictures."""
    if options.cameras is None:
        return front_pose(options.preset).expand(len(names), 25)
    cameras = read_cameras(options.cameras, options.z_up)
    found = [_camera_of(name, cameras) for name in names]
    missing = [Problem(name, "no camera") for name, pose in zip(names, found, strict=True) if pose is None]
    if missing:
        raise DataError(options.cameras, missing)
    sizes = [open_picture(images.read(name)).size for name in names]
    poses = [crop_intrinsics(pose, *size) for pose, size in zip(found, sizes, strict=True)]
    tensor = torch.from_numpy(np.stack(poses))
    return tensor if options.keep_world else normalise_cameras(tensor, options.preset.radius)


def _camera_of(name: str, cameras: dict[str, np.ndarray]) -> np.ndarray | None:
    """By path, else by the end of the path: cameras files often name the folder too."""
    stem = _stem(name)
    if stem in cameras:
        return cameras[stem]
    ending = [pose for key, pose in cameras.items() if key.endswith("/" + stem) or stem.endswith("/" + key)]
    return ending[0] if len(ending) == 1 else None
