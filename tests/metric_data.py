"""Data and models of the tests of metrics: toy objects with known 3D, a tiny network, and a perfect model."""

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

OBJECTS = 3
VIEWS = 2
SIZE = 128
NETWORKS = {"cats": ("afhq", "seg", 6), "cars": ("shapenet", "edge", 1), "face edges": ("celeba", "edge", 1)}
JOBS = {kind: RenderJob(kind, SIZE, VIEWS, seed=5, split=HELD_OUT, depth=True) for kind in ("cats", "cars")}


def toy(directory: Path, kind: str = "cats") -> dict[str, Path]:
    """Write a toy data set, with depth next to it; return it as options of the command."""
    images, label_maps, _ = write_toy(JOBS[kind], OBJECTS, directory / kind)
    return {"data": images, "mask_data": label_maps}


def tiny_network(path: Path, kind: str = "cats", resolution: int = 8, style_encoder: bool = False) -> Path:
    """Write the weights of an untrained generator of 128 pixels with very few channels."""
    camera, data_type, classes = NETWORKS[kind]
    widths = {"channel_base": 512, "channel_max": 8, "encoder_width": 1 / 64, "sr_width": 1 / 64}
    small = {**widths, "plane_resolution": 32, "depth_resolution": 4, "pose_conditioning": kind == "cats"}
    options = GeneratorOptions(camera, SIZE, data_type, classes, **small)
    torch.manual_seed(0)
    G = construct(options.class_name, options.kwargs())
    G.neural_rendering_resolution = resolution
    networks = {"G_ema": G}
    if style_encoder:
        E = construct("StyleEncoder", {"z_dim": G.z_dim, "regions": classes, "width": 4})
        torch.nn.init.normal_(E.out.weight)  # so that photos have different styles without training
        networks["E"] = E
    save_snapshot(path, networks, extra={"training_options": {}})  # keeps its rendering resolution
    return path


def noise_data(directory: Path, size: int, data_type: str, count: int) -> PosedImageDataset:
    """Write and open a data set of random images and label maps."""
    images = write_zip(directory / "images.zip", image_files(count, size))
    return PosedImageDataset(images, write_zip(directory / "labels.zip", label_files(count, size)), data_type)


class Oracle:
    """Perfect model of toy data: recognizes the object by the pose and ray-traces it.

    Args:
        depth_factor: scales its depth, for a model with wrong geometry.
    """

    pivot = torch.tensor([0.0, 0.0, -0.06])

    def __init__(self, dataset, kind="cats", depth_factor=1.0):
        self.kind = kind
        self.depth_factor = depth_factor
        self.poses = np.stack([dataset.get_label(i) for i in range(len(dataset))])

    def generate(self, label_map, pose, seeds):
        objects = [int(np.abs(self.poses - row).sum(1).argmin()) // VIEWS for row in pose.numpy()]
        return [sample_object(JOBS[self.kind], number)[0] for number in objects]

    def render(self, scenes, pose):
        scenes = scenes * (len(pose) // len(scenes))
        views = [render(scene, row, SIZE) for scene, row in zip(scenes, pose.numpy(), strict=True)]
        depth = torch.stack([torch.from_numpy(view.depth)[None] for view in views])
        weight = (depth > 0).float()
        depth = torch.where(depth > 0, depth, 3.3) * self.depth_factor  # background: the end of the rays
        image = torch.stack([torch.from_numpy(view.image.copy()).permute(2, 0, 1) / 127.5 - 1 for view in views])
        labels = torch.stack([torch.from_numpy(view.parts.astype(np.int64)) for view in views])
        semantic = F.one_hot(labels, 6).permute(0, 3, 1, 2).float()
        return {"image": image, "semantic": semantic, "image_depth": depth, "weight": weight}

    def surface_points(self, scene):
        return torch.zeros(0, 3)


class Thumbnails(nn.Module):
    """Features without weights: the images at 3x3 pixels."""

    def forward(self, images):
        return F.adaptive_avg_pool2d(images.float() / 255, 3).flatten(1)


class FloatImages(nn.Module):
    """Output of the wrong shape for features: the images themselves."""

    def forward(self, images):
        return images.float()


class IntegerFeatures(nn.Module):
    """Output of the wrong type: uint8."""

    def forward(self, images):
        return images[..., 0, 0]


class Failing(nn.Module):
    """Raises an error with two lines."""

    def forward(self, images):
        raise RuntimeError("first line\nsecond line")


class NotFinite(nn.Module):
    """NaN except for black images."""

    def forward(self, images):
        means = images.float().mean((2, 3))
        return torch.where(means > 0, torch.nan, means)


class BFloat16Features(nn.Module):
    """Features of a type that numpy does not know."""

    def forward(self, images):
        return Thumbnails()(images).bfloat16()


class TwoOutputs(nn.Module):
    """Output that is a tuple."""

    def forward(self, images):
        means = images.float().mean((2, 3))
        return means, means


class NeedsArgument(nn.Module):
    """Cannot be constructed without arguments."""

    def __init__(self, size):
        super().__init__()


def not_a_module():
    return 3


class Brightness(nn.Module):
    """Logits of six classes: class 1 where the image is bright, else 0."""

    def forward(self, images):
        bright = images.float().mean(1) / 255
        return torch.stack([1 - bright, bright, *[torch.zeros_like(bright)] * 4], 1)
