"""A 3D scene made of a label map: render it, export videos and meshes."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from camera_utils import CAMERAS, PATH_FRAMES, PATHS, front_pose, orbit_positions, path_poses, pose_at
from dnnlib.errors import ConfigError
from inference.generator import config_of
from inference.latents import scene_planes, scene_ws
from inference.mesh.extraction import extraction_steps, run_steps
from inference.mesh.triangles import Mesh
from inference.video import FPS, render_views
from inference.view import SHOWS, View, write_videos
from training.data.image_io import encode_png
from training.data.label_maps import decode_label_map, read_label_map, resize_label_map
from training.networks.generator import TriPlane

# Points of the density grid on a side. This takes seconds on a CPU, the published 512 minutes.
MESH_RESOLUTION = 256

# Forms that `to_label_map` and `to_pose` accept.
LabelMap = str | os.PathLike[str] | np.ndarray | Image.Image | Tensor
Pose = Tensor | np.ndarray | Sequence[float]


@dataclass(frozen=True, eq=False)
class Scene:
    """A generator's 3D scene. Its tri-planes are computed once, when they are first needed.

    Args:
        G: the generator.
        ws: 1,num_ws,w_dim latent codes, which the scene depends on alone.
        cfg: its cameras, a key of CAMERAS.
    """

    G: TriPlane
    ws: Tensor
    cfg: str

    @classmethod
    def from_label_map(
        cls, G: TriPlane, label_map: LabelMap, seed: int = 0, pose: Pose | None = None, cfg: str | None = None
    ) -> Scene:
        """Make a scene from a label map and a seed.

        Args:
            G: the generator.
            label_map: see `to_label_map`.
            seed: of the latent code z, 0 to MAX_SEED.
            pose: camera that the label map is seen from, 25 numbers; None for the front.
            cfg: configuration of the cameras; None for the one that the weights follow.
        """
        return next(cls.from_seeds(G, label_map, [seed], pose, cfg))

    @classmethod
    @torch.inference_mode()
    def from_seeds(
        cls, G: TriPlane, label_map: LabelMap, seeds: Sequence[int], pose: Pose | None = None, cfg: str | None = None
    ) -> Iterator[Scene]:
        """Make one scene per seed; the label map is encoded once. Arguments as of `from_label_map`."""
        # Reject swapped arguments and unknown cameras here, where the message can name them.
        if not isinstance(G, TriPlane):
            raise ConfigError("G", type(G).__name__, "a generator", "load_generator loads one from a file")
        cfg = cfg or config_of(G)
        if cfg not in CAMERAS:
            raise ConfigError("cfg", cfg, ", ".join(CAMERAS))

        # The encoder is run once; it takes longer than the mapping of a seed.
        pose = to_pose(pose, G, cfg)
        encoded = G.encode({"mask": to_label_map(label_map, G)})
        for seed in seeds:
            yield cls(G, scene_ws(G, encoded, pose, [seed]), cfg)

    @cached_property
    def planes(self) -> Tensor:
        """Tri-planes, 1,3,C,P,P.

        Raises:
            ConfigError: they are not finite.
        """
        with torch.inference_mode():
            return scene_planes(self.G, self.ws)

    # ----------------------------------------------------------------------- views

    @torch.inference_mode()
    def render(
        self, yaw: float = 0.0, pitch: float = 0.0, pose: Pose | None = None, outputs: Collection[str] | None = None
    ) -> View:
        """Render one view.

        Args:
            yaw: radians from the front, at most a full turn, positive towards +x (right in the front view).
            pitch: radians above the horizon, -pi/2 to pi/2.
            pose: 25 numbers in place of both angles.
            outputs: names of the images to compute, None for all; see `G.synthesis`.
        Raises:
            ConfigError: angles that cannot be radians, or a pose that is not 25 numbers.
        """
        if pose is None:
            pose = self.pose_at(yaw, pitch)
        return next(self.views(to_pose(pose, self.G, self.cfg), outputs))

    def views(self, poses: Tensor | Sequence[Pose], outputs: Collection[str] | None = None) -> Iterator[View]:
        """Render a view for each of F,25 poses, only as far as the iterator is consumed."""
        poses = torch.as_tensor(poses, dtype=torch.float32, device=self.ws.device)
        if poses.ndim != 2 or poses.shape[1] != 25:
            raise ConfigError("poses", tuple(poses.shape), "F,25")
        rendered = render_views(self.G, self.ws, self.planes, poses, outputs=outputs)
        for pose, tensors in zip(poses, rendered, strict=True):
            yield View(self.G, pose[None], tensors)

    def pose_at(self, yaw: float, pitch: float) -> Tensor:
        """Return the pose (1,25) on the network's own orbit; angles in radians, as of `render`."""
        # Most angles in degrees are outside these bounds, and so is NaN.
        if not (abs(yaw) <= 2 * math.pi and abs(pitch) <= math.pi / 2):
            allowed = "radians, at most 2 pi and pi/2"
            raise ConfigError("yaw, pitch", f"{yaw:g}, {pitch:g}", allowed, "math.radians converts degrees")

        # `pose_at` has polar angles that are uniform in height.
        polar = (1 - math.sin(pitch)) * math.pi / 2
        return pose_at(CAMERAS[self.cfg], math.pi / 2 + yaw, polar, **self.G.orbit, device=self.ws.device)

    def path(self, name: str = "orbit", frames: int = PATH_FRAMES) -> Tensor:
        """Return the poses (F,25) of a camera path, one of PATHS.

        Raises:
            ConfigError: an unknown path, or no frame.
        """
        if name not in PATHS:
            raise ConfigError("trajectory", name, f"{' or '.join(PATHS)}, or poses F,25")
        if frames < 1:
            raise ConfigError("frames", frames, "1 or more")
        return path_poses(name, CAMERAS[self.cfg], frames, **self.G.orbit, device=self.ws.device)

    # ----------------------------------------------------------------------- files

    def video(
        self,
        path: str | os.PathLike[str],
        frames: int = PATH_FRAMES,
        fps: int = FPS,
        trajectory: str | Tensor | Sequence[Pose] = "orbit",
        show: str = "color",
    ) -> None:
        """Write a video.

        Args:
            path: ends in .gif, or in .mp4, which needs PyAV.
            frames: number of frames, if `trajectory` is a name.
            fps: frames per second; a .gif shows 50 at most.
            trajectory: "orbit" (the published swing around the front; cars: all around), "turn" (once around), or
                poses F,25.
            show: one of SHOWS.
        Raises:
            ConfigError: unknown `show` or `trajectory`, or no frame.
            ValueError: another suffix or an `fps` that is not positive; see `open_video`.
        """
        if show not in SHOWS:
            raise ConfigError("show", show, ", ".join(SHOWS))
        poses = self.path(trajectory, frames) if isinstance(trajectory, str) else trajectory

        # Only the outputs that the video shows are rendered, a few frames at a time.
        write_videos(self.views(poses, SHOWS[show]), {Path(path): show}, fps)

    def mesh(
        self,
        resolution: int = MESH_RESOLUTION,
        threshold: float | str = "auto",
        color: str | None = "image",
        **options: Any,
    ) -> Mesh:
        """Extract a triangle mesh, with colors as seen from the network's usual cameras.

        Args:
            resolution: points of the density grid on a side.
            threshold: raw density of the surface, or "auto".
            color: "image", "label", "shown_label" or None.
            options: largest, closed, smooth and without, of `extraction_steps`.
        Raises:
            NoSurfaceError: no density crosses the threshold.
        """
        return run_steps(self.mesh_steps(resolution, threshold, color, **options))

    def mesh_steps(self, *args: Any, **options: Any) -> Generator[float, None, Mesh]:
        """Extract a mesh in short steps that yield the share of the work done; arguments as of `extraction_steps`."""
        # Colors as seen from the published camera path, the views that the networks were made for.
        cameras = orbit_positions(CAMERAS[self.cfg], **self.G.orbit)
        return extraction_steps(self.G, self.planes, *args, cameras=cameras, **options)


# --------------------------------------------------------------------------- inputs


def to_label_map(label_map: LabelMap, G: TriPlane) -> Tensor:
    """Return a label map as the network takes it, 1,1,R,R on its device.

    Args:
        label_map: path of an image file, PIL image or array: class ids H,W or palette colors H,W,3, or for networks of
            edges a drawing with dark lines on white. Or a tensor H,W or 1,1,H,W in the network's own form: integer
            class ids, or edges from -1 (line) to 1 (background).
        G: the generator.
    Raises:
        OSError: no such file.
        ValueError: not a label map of this network.
    """
    # Read files, images and arrays.
    if isinstance(label_map, str | os.PathLike):
        label_map = read_label_map(label_map, G.data_type, G.semantic_channels)
    elif not isinstance(label_map, Tensor):
        try:
            label_map = decode_label_map(_to_png(label_map), G.data_type, G.semantic_channels)
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


def to_pose(pose: Pose | None, G: TriPlane, cfg: str) -> Tensor:
    """Return 25 numbers, or None for the front, as a pose 1,25 on the generator's device.

    Raises:
        ConfigError: not 25 numbers.
    """
    device = next(G.parameters()).device
    if pose is None:
        return front_pose(CAMERAS[cfg], **G.orbit, device=device)
    pose = torch.as_tensor(pose, dtype=torch.float32, device=device)
    if pose.numel() != 25:
        raise ConfigError("pose", tuple(pose.shape), "25 numbers")
    return pose.view(1, 25)
