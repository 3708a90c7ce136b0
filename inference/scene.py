"""A 3D scene made of a label map: render it, export videos and meshes."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from camera_utils import CAMERAS, PATHS, orbit_positions, path_poses, pose_at
from dnnlib.choices import FPS, PATH_FRAMES
from dnnlib.errors import ConfigError
from inference.generator import config_of
from inference.inputs import LabelMap, Photo, Pose, to_label_map, to_photo, to_pose
from inference.latents import check_seed, scene_planes, scene_ws
from inference.mesh.extraction import extraction_steps, network_options, run_steps
from inference.mesh.triangles import Mesh
from inference.projection import SUFFIX, Projection
from inference.projector import DEFAULTS, ProjectionOptions, Projector
from inference.video import render_views
from inference.view import SHOWS, View, write_videos
from training.networks.generator import TriPlane

# Points of the density grid on a side. This takes seconds on a CPU, the published 512 minutes.
MESH_RESOLUTION = 256


# Styles of scenes: seeds, photos, projections of photos, and files of both.
Style = int | Photo | Projection


def to_style(style: Style) -> int | Tensor | Projection:
    """Read the file of a style, a photo 1,3,H,H or a projection; seeds, photos in memory and projections stay.

    Raises:
        OSError: no such file.
        ValueError: neither a photo nor a projection.
    """
    if isinstance(style, Integral | Projection):
        return style
    if isinstance(style, str | os.PathLike) and Path(style).suffix.lower() == SUFFIX:
        return Projection.load(style)
    return to_photo(style)


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
        cls,
        G: TriPlane,
        label_map: LabelMap,
        seed: int = 0,
        pose: Pose | None = None,
        cfg: str | None = None,
        style: Photo | Projection | None = None,
    ) -> Scene:
        """Make a scene from a label map and a seed, a photo or the projection of a photo.

        Args:
            G: the generator.
            label_map: see `to_label_map`.
            seed: of the latent code z, 0 to MAX_SEED.
            pose: camera that the label map is seen from, 25 numbers; None for the front.
            cfg: configuration of the cameras; None for the one that the weights follow.
            style: photo whose style the scene takes, in place of the seed, see `to_photo`; or a projection or its
                .safetensors file, see `from_photo`.
        Raises:
            ConfigError: an invalid argument, or a photo for a network without a style encoder.
        """
        if style is None:
            return next(cls.from_seeds(G, label_map, [seed], pose, cfg))
        return next(cls.from_styles(G, label_map, [style], pose, cfg))

    @classmethod
    def from_seeds(
        cls, G: TriPlane, label_map: LabelMap, seeds: Sequence[int], pose: Pose | None = None, cfg: str | None = None
    ) -> Iterator[Scene]:
        """Make one scene per seed; the label map is encoded once. Arguments as of `from_label_map`."""
        # Checked here, since a text would be the path of a photo.
        return cls.from_styles(G, label_map, map(check_seed, seeds), pose, cfg)

    @classmethod
    @torch.inference_mode()
    def from_styles(
        cls,
        G: TriPlane,
        label_map: LabelMap,
        styles: Iterable[Style],
        pose: Pose | None = None,
        cfg: str | None = None,
    ) -> Iterator[Scene]:
        """Make one scene per style: a seed, photo or projection. Arguments as of `from_label_map`."""
        # Reject swapped arguments and unknown cameras here, where the message can name them.
        if not isinstance(G, TriPlane):
            raise ConfigError("G", type(G).__name__, "a generator", "load_generator loads one from a file")
        cfg = cfg or config_of(G)
        if cfg not in CAMERAS:
            raise ConfigError("cfg", cfg, ", ".join(CAMERAS))

        # The encoder is run once; it takes longer than the mapping of a style.
        pose = to_pose(pose, G, cfg)
        encoded = G.encode({"mask": to_label_map(label_map, G)})
        for style in map(to_style, styles):
            if isinstance(style, Projection):
                style_G = style.generator(G)
                yield cls(style_G, style.ws(style_G, encoded), cfg)
            else:
                one_style = [style] if isinstance(style, Integral) else style
                yield cls(G, scene_ws(G, encoded, pose, one_style), cfg)

    @classmethod
    def from_photo(
        cls,
        G: TriPlane,
        photo: Photo,
        label_map: LabelMap,
        pose: Pose | None = None,
        cfg: str | None = None,
        options: ProjectionOptions = DEFAULTS,
    ) -> Scene:
        """Make the scene that reproduces a photo, by optimization; takes about a minute for small networks.

        `Projector` does the same step by step, and gives the projection, a file that other label maps can use.

        Args:
            G: the generator, which is not changed.
            photo: a square photo, see `to_photo`.
            label_map: what the photo shows where, see `to_label_map`.
            pose: camera that took the photo, 25 numbers; None for the front.
            cfg: configuration of the cameras; None for the one that the weights follow.
            options: numbers of steps and weights of losses, whether the pose is searched and weights are tuned.
        Raises:
            ConfigError, ValueError: an invalid argument.
        """
        projection = Projector(G, photo, label_map, pose, cfg, options).run()
        return cls.from_label_map(G, projection.label_map, pose=projection.pose, cfg=cfg, style=projection)

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
            options: largest, closed, smooth and without, of `extraction_steps`; if not given, largest and without are
                those that suit the network, see `network_options`.
        Raises:
            NoSurfaceError: no density crosses the threshold.
        """
        return run_steps(self.mesh_steps(resolution, threshold, color, **options))

    def mesh_steps(self, *args: Any, **options: Any) -> Generator[float, None, Mesh]:
        """Extract a mesh in short steps that yield the share of the work done; arguments as of `extraction_steps`.

        If not given, largest and without are those that suit the network.
        """
        # A background that the network models as solid would hide the object.
        suitable = network_options(self.G)
        options = {name: suitable[name] for name in ("largest", "without")} | options

        # Colors as seen from the published camera path, the views that the networks were made for.
        cameras = orbit_positions(CAMERAS[self.cfg], **self.G.orbit)
        return extraction_steps(self.G, self.planes, *args, cameras=cameras, **options)
