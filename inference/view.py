"""Rendered views of scenes, as arrays and as frames of a video."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from inference.latents import interpolate_ws, scene_planes
from inference.video import open_video, render_views
from training.data.label_maps import draw_image, draw_semantic
from training.networks.generator import TriPlane

# Entries of ws that are interpolated at a time, so that memory does not grow with the length of the video.
WS_AT_ONCE = 64
# Outputs of `G.synthesis` that each kind of video frame needs.
SHOWS: dict[str, set[str]] = {
    "color": {"image"},
    "label": {"semantic"},
    "side_by_side": {"image", "semantic"},
    "depth": {"image_depth"},
}


@dataclass(frozen=True, eq=False)
class View:
    """A scene seen from one pose; the arrays are on the CPU and made when they are asked for.

    Args:
        G: the generator that rendered the view.
        pose: 1,25.
        tensors: outputs of `G.synthesis` by name: image 1,3,R,R and semantic 1,S,R,R; image_raw 1,3,r,r,
            semantic_raw 1,S,r,r and image_depth 1,1,r,r at the rendering resolution.
    """

    G: TriPlane
    pose: Tensor
    tensors: dict[str, Tensor]

    @property
    def image(self) -> np.ndarray:
        """Color image, R,R,3 uint8."""
        return draw_image(self.tensors["image"])[0]

    @property
    def label_map(self) -> np.ndarray:
        """Class ids, R,R uint8; for networks of edges a drawing, R,R uint8 with dark lines on white."""
        # Logits to ids; `label_image` has the palette's colors of the same ids.
        if self.G.data_type == "seg":
            return self.tensors["semantic"][0].argmax(0).to(torch.uint8).cpu().numpy()
        return self.label_image

    @property
    def label_image(self) -> np.ndarray:
        """Label map to look at: palette colors R,R,3 uint8, or the drawing R,R uint8."""
        return draw_semantic(self.tensors["semantic"], self.G.data_type)[0]

    @property
    def depth(self) -> np.ndarray:
        """Expected distance from the camera along each ray, r,r float32, world units."""
        return self.tensors["image_depth"][0, 0].float().cpu().numpy()

    @property
    def depth_image(self) -> np.ndarray:
        """Depth as brightness, R,R uint8: white where the scene's box begins, black where it ends.

        Measured along the line through the box's center, so that all frames of all videos have one scale. Pixels of
        the raw resolution are enlarged without blending, since nothing is known between them.
        """
        # The farthest point of the line through the center, from the camera's position in cam2world.
        box = self.G.rendering_kwargs["box_warp"]
        farthest = self.pose[0, [3, 7, 11]].norm() + box / 2
        brightness = ((farthest - self.tensors["image_depth"]) / box).clamp(0, 1)
        enlarged = F.interpolate(brightness, size=self.G.img_resolution, mode="nearest")[0, 0]
        return (enlarged * 255).round().to(torch.uint8).cpu().numpy()

    def frame(self, show: str) -> np.ndarray:
        """Return a video frame, H,W,3 uint8, of what one of SHOWS names."""
        if show == "side_by_side":
            return np.concatenate([self.frame("color"), self.frame("label")], axis=1)
        # Videos have three channels; edges and depth are gray.
        attribute = {"color": "image", "label": "label_image", "depth": "depth_image"}[show]
        image = getattr(self, attribute)
        return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image


@torch.inference_mode()
def interpolate_views(
    G: TriPlane, keys: Tensor, poses: Tensor, outputs: Collection[str] | None = None
) -> Iterator[View]:
    """Render a view per pose of scenes on the way through several ws; see `interpolate_ws`.

    Args:
        G: the generator.
        keys: K,M,num_ws,w_dim.
        poses: F,25.
        outputs: names of the images to compute, None for all.
    Raises:
        ConfigError: the first scene is not finite.
    """
    # Reject networks whose scenes are not finite.
    scene_planes(G, keys[0, :1])

    # Each view has its own ws, and so its own planes: a frame takes longer than one of a single scene.
    poses = poses.to(keys.device)
    times = torch.linspace(0, 1, len(poses), device=keys.device)
    for part_poses, part_times in zip(poses.split(WS_AT_ONCE), times.split(WS_AT_ONCE), strict=True):
        ws = interpolate_ws(keys, part_times)  # T,num_ws,w_dim
        for pose, tensors in zip(part_poses, render_views(G, ws, None, part_poses, outputs=outputs), strict=True):
            yield View(G, pose[None], tensors)


def write_videos(
    views: Iterable[View], paths: Mapping[Path, str], fps: int, on_frame: Callable[[], object] = lambda: None
) -> None:
    """Write several videos of the same views; their files appear together when all is written.

    Args:
        views: rendered only as far as they are consumed.
        paths: what each file shows, one of SHOWS.
        fps: frames per second.
        on_frame: called after each frame, for a progress bar.
    """
    # Closing a writer gives its file the final name; after an exception all are removed.
    with ExitStack() as stack:
        writers = [(show, stack.enter_context(open_video(path, fps))) for path, show in paths.items()]
        for view in views:
            frames = {show: view.frame(show) for show in set(paths.values())}  # once for all formats
            for show, write in writers:
                write(frames[show])
            on_frame()
