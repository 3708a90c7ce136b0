"""Generators to evaluate: a network, and the constant baseline that it must beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dnnlib.errors import ConfigError
from inference.latents import Styles, scene_planes, scene_ws
from inference.mesh.extraction import check_removed_class, extract_mesh
from inference.mesh.surface import NoSurfaceError
from metrics.evaluation import Evaluator
from metrics.views import MESH_GRID, Views, subsample_points, unproject
from training.networks.generator import TriPlane

# Surface points of the mean baseline, about as many as a mesh has.
BASELINE_POINTS = 2**16
# Outputs of the network that some metric uses; others need not be computed.
OUTPUTS = ("image", "semantic", "image_depth", "weight")


@dataclass(frozen=True)
class NetworkGenerator:
    """A generator network in eval mode, without truncation, and with constant noise.

    Args:
        G: the network.
        without: class that meshes leave out, such as a background that the network models as solid.
    Raises:
        ConfigError: no such class.
    """

    G: TriPlane
    without: int | None = None

    def __post_init__(self) -> None:
        check_removed_class(self.G, self.without)

    @property
    def pivot(self) -> Tensor:
        """Return the point (3, world units) that training cameras look at."""
        # Networks without this setting have cameras that look at the origin.
        return torch.tensor(self.G.rendering_kwargs.get("avg_camera_pivot", (0.0, 0.0, 0.0)), dtype=torch.float32)

    def generate(self, label_map: Tensor, pose: Tensor, styles: Styles) -> tuple[Tensor, Tensor]:
        """Return ws N,num_ws,w_dim and planes N,3,C,P,P of N styles; see `SceneGenerator`."""
        # The encoder runs once per label map: N styles may share one.
        ws = scene_ws(self.G, self.G.encode({"mask": label_map}), pose, styles)
        return ws, scene_planes(self.G, ws)

    def render(self, scenes: tuple[Tensor, Tensor], pose: Tensor) -> Views:
        """Render scenes from poses N,25; see `SceneGenerator`.

        Raises:
            ConfigError: image or labels are not finite.
        """
        # Rendering without jitter, so that figures are reproducible.
        ws, planes = scenes
        out = self.G.synthesis(ws, pose, planes=planes, noise_mode="const", jitter=False, outputs=OUTPUTS)

        # NaN would pass through argmax and rounding, and end in figures that look valid.
        if not all(out[name].isfinite().all() for name in ("image", "semantic")):
            problem = "renders numbers that are not finite"
            raise ConfigError("network", problem=problem, hint="its training has diverged")
        return out

    def surface_points(self, scene: tuple[Tensor, Tensor]) -> Tensor:
        """Return the vertices K,3 of the largest connected component of the scene's mesh."""
        # Only the largest: where no ray of the training cameras passes, density is arbitrary and forms others. A scene
        # without a surface is a possible result, not an error.
        _, planes = scene
        options = {"threshold": "auto", "color": None, "largest": True, "without": self.without}
        try:
            mesh = extract_mesh(self.G, planes, MESH_GRID, **options)
        except NoSurfaceError:
            return planes.new_zeros(0, 3)
        return torch.from_numpy(mesh.vertices).to(planes.device)


@dataclass(frozen=True)
class MeanBaseline:
    """Baseline with the same image, label map and depth for every input.

    Args:
        image: 3,R,R mean image.
        semantic: S,R,R frequency of each class at each pixel (edges: 1,R,R mean drawing). Its argmax over S is the
            constant label map with the best pixel accuracy.
        depth: 1,R,R mean depth of the object, or None if the data has no depth.
        weight: 1,R,R share of samples with an object at this pixel, 1 if the data has no depth.
        points: K,3 points of all objects together, or None if the data has no depth.
        pivot: 3, world units.
    """

    image: Tensor
    semantic: Tensor
    depth: Tensor | None
    weight: Tensor
    points: Tensor | None
    pivot: Tensor

    def generate(self, label_map: Tensor, pose: Tensor, styles: Styles) -> int:
        """Return the number N of scenes, which are all equal; label_map N,1,R,R and pose N,25 have no effect."""
        return len(styles)

    def render(self, scenes: int, pose: Tensor) -> Views:
        """Repeat the outputs for N scenes or poses N,25."""
        # One pose per scene, or several poses of one scene.
        count = max(scenes, len(pose))
        outputs = {"image": self.image, "semantic": self.semantic, "image_depth": self.depth, "weight": self.weight}
        return {name: x.expand(count, *x.shape) for name, x in outputs.items() if x is not None}

    def surface_points(self, scene: int) -> Tensor:
        """Return the points K,3 of all objects."""
        # Metrics of meshes are computed only for data with depth, so there are points.
        return self.points


def fit_mean_baseline(evaluator: Evaluator, members: Sequence[int], pivot: Tensor) -> MeanBaseline:
    """Average members (positions in the data set) of the evaluator's data; `pivot` is 3, world units."""
    # Sums are kept on the CPU: members are read one at a time, so a device would not be faster.
    device = evaluator.device
    depth_images = evaluator.resources.depth_images

    # Sums over members, one at a time.
    image_sum = semantic_sum = depth_sum = object_count = torch.zeros([])
    points = []
    for member in members:
        sample = evaluator.samples([0], [member], images=True)
        label_map = sample.label_map[0]
        if evaluator.dataset.data_type == "seg":
            # Frequencies of classes, since the mean of class ids means nothing.
            label_map = F.one_hot(label_map[0], evaluator.classes).permute(2, 0, 1)
        image_sum = image_sum + sample.image[0].cpu()
        semantic_sum = semantic_sum + label_map.cpu()

        # Depth counts only where there is an object; its points are thinned out to bound their total number.
        if depth_images:
            depth = depth_images.read(evaluator.dataset, member)  # 1,R,R
            depth_sum = depth_sum + depth
            object_count = object_count + (depth > 0)
            object_points = unproject(depth[None], sample.pose.cpu())[depth.flatten()[None] > 0]
            points.append(subsample_points(object_points, 1 + BASELINE_POINTS // len(members)))

    # Means; depth and points only where the data has depth.
    image = (image_sum / len(members)).to(device)
    semantic = (semantic_sum / len(members)).to(device)
    if not depth_images:
        return MeanBaseline(image, semantic, None, torch.ones_like(image[:1]), None, pivot)

    # Mean object depth at each pixel; where no sample has an object, the mean over all object pixels.
    mean_depth = depth_sum.sum() / object_count.sum()
    depth = torch.where(object_count > 0, depth_sum / object_count.clamp(min=1), mean_depth).to(device)
    weight = (object_count / len(members)).to(device)
    return MeanBaseline(image, semantic, depth, weight, torch.cat(points).to(device), pivot)
