"""What tests of metrics share: toy objects with known 3D, a network as small as can be, and a perfect model."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from small_data import image_files, label_files, write_zip
from torch import nn

from dataset_preprocessing.toy.render import render
from dataset_preprocessing.toy.write import HELD_OUT, RenderJob, sample_object, write_toy
from training.data.dataset import PosedImageDataset
from training.networks.configs import GeneratorOptions
from training.networks.registry import construct
from training.weights.snapshot import save_snapshot

OBJECTS, VIEWS, SIZE = 3, 2, 128
JOBS = {kind: RenderJob(kind, SIZE, VIEWS, seed=5, split=HELD_OUT, depth=True) for kind in ("cats", "cars")}


def toy(folder: Path, kind: str = "cats") -> dict[str, Path]:
    """A data set as options of the command; its depth lies beside."""
    images, label_maps, _ = write_toy(JOBS[kind], OBJECTS, folder / kind)
    return {"data": images, "mask_data": label_maps}


def tiny_network(path: Path, kind: str = "cats", resolution: int = 8) -> Path:
    """An untrained generator of 128 pixels with a handful of channels."""
    camera, data_type, classes = {"cats": ("afhq", "seg", 6), "cars": ("shapenet", "edge", 1)}[kind]
    widths = {"channel_base": 512, "channel_max": 8, "encoder_width": 1 / 64, "sr_width": 1 / 64}
    small = {**widths, "plane_resolution": 32, "depth_resolution": 4, "pose_conditioning": kind == "cats"}
    options = GeneratorOptions(camera, SIZE, data_type, classes, **small)
    torch.manual_seed(0)
    G = construct(options.class_name, options.kwargs())
    G.neural_rendering_resolution = resolution
    save_snapshot(path, {"G_ema": G})
    return path


def noise_data(folder: Path, size: int, data_type: str, count: int) -> PosedImageDataset:
    """Pictures and label maps of nothing, of any size."""
    images = write_zip(folder / "images.zip", image_files(count, size))
    return PosedImageDataset(images, write_zip(folder / "labels.zip", label_files(count, size)), data_type)


class Oracle:
    """A perfect model of toy data: it knows the objects, and asks the renderer.

    Args:
        depth_factor: by which its depth is wrong.
    """

    pivot = torch.tensor([0.0, 0.0, -0.06])

    def __init__(self, dataset, kind="cats", depth_factor=1.0):
        self.kind, self.depth_factor = kind, depth_factor
        self.poses = np.stack([dataset.get_label(i) for i in range(len(dataset))])

    def scenes(self, label_map, pose, seeds):
        owners = [int(np.abs(self.poses - row).sum(1).argmin()) // VIEWS for row in pose.numpy()]
        return [sample_object(JOBS[self.kind], number)[0] for number in owners]

    def look(self, scenes, pose):
        scenes = scenes * (len(pose) // len(scenes))
        seen = [render(scene, row, SIZE) for scene, row in zip(scenes, pose.numpy(), strict=True)]
        depth = torch.stack([torch.from_numpy(view.depth)[None] for view in seen])
        weight = (depth > 0).float()
        depth = torch.where(depth > 0, depth, 3.3) * self.depth_factor  # the end of the rays, where nothing is
        image = torch.stack([torch.from_numpy(view.image.copy()).permute(2, 0, 1) / 127.5 - 1 for view in seen])
        parts = torch.stack([torch.from_numpy(view.parts.astype(np.int64)) for view in seen])
        semantic = F.one_hot(parts, 6).permute(0, 3, 1, 2).float()
        return {"image": image, "semantic": semantic, "image_depth": depth, "weight": weight}

    def surface(self, scene):
        return torch.zeros(0, 3)


class Thumbnails(nn.Module):
    """Features of pictures without weights: a few pixels of each."""

    def forward(self, pictures):
        return F.adaptive_avg_pool2d(pictures.float() / 255, 3).flatten(1)


class Squares(nn.Module):
    """What is no row of features."""

    def forward(self, pictures):
        return pictures.float()


class Whole(nn.Module):
    def forward(self, pictures):
        return pictures[..., 0, 0]


class Whims(nn.Module):
    """Fails."""

    def forward(self, pictures):
        raise RuntimeError("first line\nnot today")


class NotFinite(nn.Module):
    """Features of black pictures alone."""

    def forward(self, pictures):
        means = pictures.float().mean((2, 3))
        return torch.where(means > 0, torch.nan, means)


class Halves(nn.Module):
    """Thumbnails of few bits, which numpy does not know."""

    def forward(self, pictures):
        return Thumbnails()(pictures).bfloat16()


class Pair(nn.Module):
    def forward(self, pictures):
        means = pictures.float().mean((2, 3))
        return means, means


class Needy(nn.Module):
    def __init__(self, size):
        super().__init__()


def not_a_module():
    return 3


class Brightness(nn.Module):
    """Logits of six classes: class 1 where it is bright, else 0."""

    def forward(self, pictures):
        bright = pictures.float().mean(1) / 255
        return torch.stack([1 - bright, bright, *[torch.zeros_like(bright)] * 4], 1)
