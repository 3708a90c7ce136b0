"""What is judged: scenes of label maps, from a generator or from a constant guess, one seed and one pose each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from inference.latents import latent
from inference.mesh.extraction import extract_mesh
from inference.mesh.surface import NoSurfaceError
from metrics.errors import OptionError
from training.data.archive import data_error
from training.data.dataset import PosedImageDataset
from training.data.label_maps import label_map_from_dataset
from training.networks.generator import TriPlane

MESH_GRID = 128  # points of the density grid on a side: a head is a hundred of them wide
SHOWN = ("image", "semantic", "image_depth", "weight")
POINTS = 4096  # of a surface, where surfaces are compared

# --------------------------------------------------------------------------- samples


class Samples(NamedTuple):
    """Some samples of a protocol.

    Args:
        numbers: their places in the protocol.
        image: N,3,R,R in [-1, 1], None where nobody asked. label_map: N,1,R,R in network form. pose: N,25.
        seeds: of z.
    """

    numbers: list[int]
    image: Tensor | None
    label_map: Tensor
    pose: Tensor
    seeds: list[int]


def order_of(count: int, length: int, seed: int) -> np.ndarray:
    """Which member each of `count` samples is: a shuffled data set, gone through as often as it takes."""
    once = np.random.RandomState(seed).permutation(length)
    return np.resize(once, count)


def read_samples(
    dataset: PosedImageDataset,
    classes: int,
    numbers: Sequence[int],
    members: Sequence[int],
    seeds: Sequence[int],
    device: torch.device,
    images: bool = False,
) -> Samples:
    """Members of a data set as samples, without their images unless asked: decoding them takes its time.

    Raises:
        DataError: a class that the network does not know.
    """
    found = [dataset[int(member)] if images else dataset.get_conditions(int(member)) for member in members]
    for sample in found:
        if dataset.data_type == "seg" and sample["mask"].max() >= classes:
            name = dataset.get_details(sample["idx"]).name
            what = f"its label map has class {sample['mask'].max()}, the network knows 0 to {classes - 1}"
            raise data_error(dataset.images.path, name, what)
    masks = torch.stack([label_map_from_dataset(sample["mask"], dataset.data_type) for sample in found])
    poses = torch.from_numpy(np.stack([sample["pose"] for sample in found]))
    image = None
    if images:
        image = torch.from_numpy(np.stack([sample["image"] for sample in found])).to(device) / 127.5 - 1
    return Samples(list(numbers), image, masks.to(device), poses.to(device), list(seeds))


def some_points(points: Tensor, count: int = POINTS) -> Tensor:
    """At most `count` of K,3, always the same ones."""
    return points[np.random.RandomState(0).permutation(len(points))[:count]]


# --------------------------------------------------------------------------- who draws


class Source(Protocol):
    """Something that makes scenes of label maps and shows them from anywhere."""

    pivot: Tensor  # 3, the point about which a scene is turned

    def scenes(self, label_map: Tensor, pose: Tensor, seeds: Sequence[int]) -> Any:
        """Scenes of label maps N,1,R,R with poses N,25 to condition on; one label map serves for all seeds."""

    def surface(self, scene: Any) -> Tensor:
        """Points K,3 of one scene's surface, world units; K is 0 where it has none."""

    def look(self, scenes: Any, pose: Tensor) -> dict[str, Tensor]:
        """image N,3,R,R; semantic N,S,R,R; image_depth and weight (how much of a ray the scene covers) N,1,r,r.

        From a pose for each scene, or several for one. A source without depth has no image_depth.
        """


@dataclass(frozen=True)
class Generator:
    """A generator's scenes, without truncation, jitter or chance."""

    G: TriPlane

    @property
    def pivot(self) -> Tensor:
        return torch.tensor(self.G.rendering_kwargs.get("avg_camera_pivot", (0.0, 0.0, 0.0)), dtype=torch.float32)

    def scenes(self, label_map: Tensor, pose: Tensor, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """ws and planes."""
        encoded = self.G.encode({"mask": label_map})
        z = torch.cat([latent(seed, self.G.z_dim) for seed in seeds]).to(pose.device)
        encoded, pose = (x.expand(len(z), *x.shape[1:]) for x in (encoded, pose))
        ws = self.G.mapping(z, pose, encoded=encoded)
        return ws, self.G.planes(ws, noise_mode="const")

    def surface(self, scene: tuple[Tensor, Tensor]) -> Tensor:
        _, planes = scene
        try:
            mesh = extract_mesh(self.G, planes, MESH_GRID, threshold="auto", color=None)
        except NoSurfaceError:
            return planes.new_zeros(0, 3)
        return torch.from_numpy(mesh.vertices).to(planes.device)

    def look(self, scenes: tuple[Tensor, Tensor], pose: Tensor) -> dict[str, Tensor]:
        ws, planes = scenes
        out = self.G.synthesis(ws, pose, planes=planes, noise_mode="const", jitter=False, outputs=SHOWN)
        if not all(out[name].isfinite().all() for name in ("image", "semantic")):
            raise OptionError("--network: draws numbers that are not finite; its training has diverged")
        return out


@dataclass(frozen=True)
class MeanBaseline:
    """The same picture, label map and depth for everything: what a model must beat.

    Args:
        image: 3,R,R the data's mean. semantic: S,R,R shares of the classes (edges: the mean drawing), so that the
            largest is the pixel's most frequent class, which no other constant map beats in accuracy.
        depth: 1,R,R mean depth of the object, or None where the data has none.
        weight: 1,R,R share of the data that has an object there, 1 where the data has no depth.
        points: K,3 of all objects together, or None likewise.
    """

    image: Tensor
    semantic: Tensor
    depth: Tensor | None
    weight: Tensor
    points: Tensor | None
    pivot: Tensor

    def scenes(self, label_map: Tensor, pose: Tensor, seeds: Sequence[int]) -> int:
        return len(seeds)

    def surface(self, scene: int) -> Tensor:
        return self.points

    def look(self, scenes: int, pose: Tensor) -> dict[str, Tensor]:
        count = max(scenes, len(pose))
        pictures = {"image": self.image, "semantic": self.semantic, "image_depth": self.depth, "weight": self.weight}
        return {name: x.expand(count, *x.shape) for name, x in pictures.items() if x is not None}
