"""A 3D scene made of a label map: render it, export videos and meshes."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from camera_utils import CAMERAS, PATH_FRAMES, orbit_positions, path_poses, pose_at
from dnnlib.errors import ConfigError
from inference.generator import config_front_pose, config_of
from inference.latents import scene_planes, scene_ws
from inference.mesh.extraction import extraction_steps, run_steps
from inference.mesh.triangles import Mesh
from inference.video import FPS, open_video, render_views
from inference.view import SHOWS, View
from training.data.label_maps import read_label_map, resize_label_map
from training.networks.generator import TriPlane

# Points of the density grid on a side. This takes seconds on a CPU, the published 512 minutes.
MESH_RESOLUTION = 256

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
        """Make the scene of a label map.

        Args:
            G: the generator.
            label_map: see `to_label_map`.
            seed: of the latent code z, 0 to 2**32 - 1.
            pose: 25 numbers, from where the label map is seen; None for the front.
            cfg: configuration of the cameras; None for the one that the weights follow.
        """
        return next(cls.from_seeds(G, label_map, [seed], pose, cfg))

    @classmethod
    @torch.inference_mode()
    def from_seeds(
        cls, G: TriPlane, label_map: LabelMap, seeds: Sequence[int], pose: Pose | None = None, cfg: str | None = None
    ) -> Iterator[Scene]:
        """Make one scene per seed; the label map is encoded once. Arguments as of `from_label_map`."""
        cfg = cfg or config_of(G)
        pose = to_pose(pose, G, cfg)
        encoded = G.encode({"mask": to_label_map(label_map, G)})
        for seed in seeds:
            yield cls(G, scene_ws(G, encoded, pose, [seed]), cfg)

    @cached_property
    def planes(self) -> Tensor:
        """Tri-planes, 1,3,F,P,P.

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
            yaw: radians from the front, positive to the right of somebody who looks at the scene (+x).
            pitch: radians above the horizon.
            pose: 25 numbers in place of both angles.
            outputs: names of the images to compute, None for all; see `G.synthesis`.
        """
        if pose is None:
            pose = self.pose_at(yaw, pitch)
        return next(self.views(to_pose(pose, self.G, self.cfg), outputs))

    def views(self, poses: Tensor, outputs: Collection[str] | None = None) -> Iterator[View]:
        """Render a view for each of F,25 poses, as they are asked for."""
        poses = poses.to(self.ws.device)
        for pose, tensors in zip(
            poses, render_views(self.G, self.ws, self.planes, poses, outputs=outputs), strict=True
        ):
            yield View(self.G, pose[None], tensors)

    def pose_at(self, yaw: float, pitch: float) -> Tensor:
        """Return the pose (1,25) on the network's own orbit; angles in radians, as of `render`."""
        polar = (1 - math.sin(pitch)) * math.pi / 2  # `pose_at` has polar angles that are uniform in height
        return pose_at(CAMERAS[self.cfg], math.pi / 2 + yaw, polar, **self.G.orbit, device=self.ws.device)

    def path(self, name: str = "orbit", frames: int = PATH_FRAMES) -> Tensor:
        """Return the poses (F,25) of a camera path, one of PATHS."""
        return path_poses(name, CAMERAS[self.cfg], frames, **self.G.orbit, device=self.ws.device)

    # ----------------------------------------------------------------------- files

    def video(
        self,
        path: str | os.PathLike[str],
        frames: int = PATH_FRAMES,
        fps: int = FPS,
        trajectory: str | Tensor = "orbit",
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
            ConfigError: another `show`.
        """
        if show not in SHOWS:
            raise ConfigError("show", show, ", ".join(SHOWS))
        poses = self.path(trajectory, frames) if isinstance(trajectory, str) else trajectory
        with open_video(path, fps) as write:
            for view in self.views(poses, SHOWS[show]):
                write(view.frame(show))

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
        label_map = _label_map_of_image(label_map, G)

    # Check shape and classes; those of tensors have not been checked yet.
    height, width = label_map.shape[-2:]
    if label_map.numel() != height * width or height != width:
        raise ConfigError("label_map", tuple(label_map.shape), "1,1,R,R")
    if G.data_type == "seg" and not 0 <= label_map.min() <= label_map.max() < G.semantic_channels:
        raise ConfigError("label_map", f"class {label_map.max()}", f"0 to {G.semantic_channels - 1}")

    # Type and size of the network.
    label_map = label_map.long() if G.data_type == "seg" else label_map.float()
    resized = resize_label_map(label_map.cpu().view(1, 1, height, width), G.img_resolution)
    return resized.to(next(G.parameters()).device)


def _label_map_of_image(image: np.ndarray | Image.Image, G: TriPlane) -> Tensor:
    """Read an array or a PIL image by way of a PNG file, so that it is checked as files are."""
    if isinstance(image, np.ndarray):
        if image.ndim != 2 and image.shape[2:] != (3,):
            raise ConfigError("label_map", image.shape, "H,W or H,W,3")

        # Integers of any type are taken if they fit into 8 bits.
        pixels = image.astype(np.uint8)
        if (pixels != image).any():
            raise ConfigError("label_map", f"values from {image.min()} to {image.max()}", "whole numbers from 0 to 255")
        image = Image.fromarray(pixels)

    # Errors name the argument instead of the temporary file.
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "label_map.png"
        image.save(path)
        try:
            return read_label_map(path, G.data_type, G.semantic_channels)
        except ValueError as error:
            raise ValueError(f"label_map: {str(error).removeprefix(f'{path}: ')}") from error


def to_pose(pose: Pose | None, G: TriPlane, cfg: str) -> Tensor:
    """Return 25 numbers, or None for the front, as a pose 1,25 on the generator's device.

    Raises:
        ConfigError: not 25 numbers.
    """
    device = next(G.parameters()).device
    if pose is None:
        return config_front_pose(G, cfg, device)
    pose = torch.as_tensor(pose, dtype=torch.float32, device=device)
    if pose.numel() != 25:
        raise ConfigError("pose", tuple(pose.shape), "25 numbers")
    return pose.view(1, 25)
