"""What a scene is made of, as tensors of its network: label maps, photos and poses in every form that callers have."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from camera_utils import CAMERAS, front_pose, pose_problems
from dnnlib.errors import ConfigError
from training.data.image_io import decode_image, encode_png, open_image
from training.data.label_maps import AS_STORED, LabelMapOptions, decode_label_map, read_label_map, resize_label_map
from training.networks.generator import TriPlane

# Forms that the functions of this module accept.
LabelMap = str | os.PathLike[str] | np.ndarray | Image.Image | Tensor
Photo = str | os.PathLike[str] | np.ndarray | Image.Image | Tensor
Pose = Tensor | np.ndarray | Sequence[float]

# --------------------------------------------------------------------------- label maps


def to_label_map(label_map: LabelMap, G: TriPlane, options: LabelMapOptions = AS_STORED) -> Tensor:
    """Return a label map as the network takes it, 1,1,R,R on its device.

    Args:
        label_map: path of an image file, PIL image or array: class ids H,W or palette colors H,W,3, or for networks of
            edges a drawing with dark lines on white. Or a tensor H,W or 1,1,H,W in the network's own form: integer
            class ids, or edges from -1 (line) to 1 (background).
        G: the generator.
        options: how files, images and arrays are read.
    Raises:
        OSError: no such file.
        ValueError: not a label map of this network.
    """
    # Read files, images and arrays.
    if isinstance(label_map, str | os.PathLike):
        label_map = read_label_map(label_map, G.data_type, G.semantic_channels, options=options)
    elif not isinstance(label_map, Tensor):
        try:
            label_map = decode_label_map(_to_png(label_map), G.data_type, G.semantic_channels, options)
        except (OSError, ValueError) as error:
            raise ConfigError("label_map", problem=str(error)) from error

    # Tensors, of the user or of a data set, have not been checked yet.
    height, width = label_map.shape[-2:] if label_map.ndim >= 2 else (0, 0)
    if label_map.numel() != height * width or height != width or not height:
        raise ConfigError("label_map", tuple(label_map.shape), "1,1,R,R")
    if G.data_type == "seg" and label_map.is_floating_point():
        raise ConfigError("label_map", label_map.dtype, "integer class ids")

    # Type and range of the network.
    label_map = label_map.long() if G.data_type == "seg" else label_map.float()
    low, high = (0, G.semantic_channels - 1) if G.data_type == "seg" else (-1, 1)
    if not low <= label_map.min() <= label_map.max() <= high:  # also where there is a NaN
        raise ConfigError("label_map", f"{label_map.min()} to {label_map.max()}", f"{low} to {high}")

    # Resizing is done by numpy, on the CPU.
    resized = resize_label_map(label_map.cpu().view(1, 1, height, width), G.img_resolution)
    return resized.to(next(G.parameters()).device)


def _to_png(image: np.ndarray | Image.Image) -> bytes:
    """Encode an array or a PIL image as PNG, so that it is checked as files are.

    Raises:
        OSError, ValueError: not an image; the message does not name the argument.
    """
    if isinstance(image, Image.Image):
        file = io.BytesIO()
        image.save(file, "png")
        return file.getvalue()

    # Lists of lists are accepted as arrays, and whole numbers of any type if they fit into 8 bits.
    pixels = np.asarray(image)
    if pixels.dtype.kind not in "buif" or (pixels.ndim != 2 and pixels.shape[2:] != (3,)):
        got = f"{type(image).__name__} of {pixels.dtype} {pixels.shape}"
        raise ValueError(f"got {got}, expected a path, an image, a tensor, or an array H,W or H,W,3 of numbers")
    if not ((pixels >= 0) & (pixels <= 255) & (pixels % 1 == 0)).all():
        raise ValueError(f"got values from {pixels.min()} to {pixels.max()}, expected whole numbers from 0 to 255")
    return encode_png(pixels.astype(np.uint8))


# --------------------------------------------------------------------------- photos


def to_photo(photo: Photo) -> Tensor:
    """Return a photo as the style encoder takes it, 1,3,H,H in [-1, 1]: the largest square about its center.

    Args:
        photo: path of a PNG or JPEG file, PIL image or array H,W,3 of whole numbers from 0 to 255; transparent pixels
            are on white. Or a tensor 3,H,W or 1,3,H,W in [-1, 1].
    Raises:
        OSError: no such file.
        ValueError: not a photo.
    """
    # Read files, images and arrays.
    if isinstance(photo, str | os.PathLike):
        try:
            return decode_photo(Path(photo).read_bytes())
        except ValueError as error:
            raise ValueError(f"{os.fspath(photo)}: {error}") from error
    if not isinstance(photo, Tensor):
        try:
            return decode_photo(_to_png(photo))
        except (OSError, ValueError) as error:
            raise ConfigError("style", problem=str(error)) from error

    # Tensors, of the caller or of a data set, are in the form of the networks.
    photo = photo if photo.ndim == 4 else photo[None]
    if photo.ndim != 4 or photo.shape[:2] != (1, 3) or not photo.numel() or not photo.is_floating_point():
        raise ConfigError("style", f"{photo.dtype} {tuple(photo.shape)}", "3,H,W or 1,3,H,W floating point numbers")
    if not -1 <= photo.min() <= photo.max() <= 1:  # also where there is a NaN
        raise ConfigError("style", f"{photo.min():g} to {photo.max():g}", "-1 to 1")
    return _crop_square(photo.float())


def check_square(photo: Photo) -> None:
    """Check that a photo is square, as far as it is an image of any size.

    Raises:
        OSError: no such file.
        ValueError: not square, or not an image.
    """
    # Only the header of a file is read; other forms are checked when they are converted.
    if isinstance(photo, str | os.PathLike):
        width, height = open_image(Path(photo).read_bytes()).size
    elif isinstance(photo, Image.Image):
        width, height = photo.size
    elif isinstance(photo, Tensor):
        height, width = photo.shape[-2:] if photo.ndim >= 2 else (0, 0)
    else:
        height, width = (*np.shape(photo), 0, 0)[:2]
    if width != height:
        hint = "crop it and its label map to the same square"
        raise ConfigError("photo", f"{width}x{height} pixels", "a square", hint)


def decode_photo(content: bytes) -> Tensor:
    """Decode the bytes of a PNG or JPEG file to a photo 1,3,H,H in [-1, 1]; otherwise as `to_photo`.

    Raises:
        ValueError: not an image; the message does not name the file.
    """
    pixels = torch.from_numpy(decode_image(content))[None]  # 1,3,H,W
    return _crop_square(pixels) / 127.5 - 1


def _crop_square(photo: Tensor) -> Tensor:
    """Crop N,3,H,W about the center to squares: style encoders are trained on square photos."""
    height, width = photo.shape[-2:]
    side = min(height, width)
    top = (height - side) // 2
    left = (width - side) // 2
    return photo[..., top : top + side, left : left + side]


# --------------------------------------------------------------------------- poses


def to_pose(pose: Pose | None, G: TriPlane, cfg: str) -> Tensor:
    """Return 25 numbers, or None for the front, as a pose 1,25 on the generator's device.

    Raises:
        ConfigError: not 25 numbers, or not a pose.
    """
    device = next(G.parameters()).device
    if pose is None:
        return front_pose(CAMERAS[cfg], **G.orbit, device=device)
    pose = torch.as_tensor(pose, dtype=torch.float32)
    if pose.numel() != 25:
        raise ConfigError("pose", tuple(pose.shape), "25 numbers")
    pose = pose.reshape(1, 25)
    # On the CPU: the check is in double precision, which MPS has not.
    problems = pose_problems(pose.cpu(), scene=False)
    if problems:
        raise ConfigError("pose", problem=problems[0])
    return pose.to(device)
