"""Similarity of single images: PSNR, SSIM, and the distances of the diversity metric."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from dnnlib.errors import ConfigError
from metrics.distribution import to_float64
from metrics.image_features import Extractor, state_digest, to_uint8
from training.perceptual import load_lpips

# Settings of Wang et al. (2004): window and sigma in pixels.
SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SSIM_K = (0.01, 0.03)
# Of images in [-1, 1].
VALUE_RANGE = 2.0
# dB. Equal images have an infinite PSNR, which would make a mean infinite.
MAX_PSNR = 100.0


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Compute the peak signal-to-noise ratio (N, dB) of images N,C,H,W in [-1, 1]."""
    # The peak of the signal is the range of values; equal images have error 0 and an infinite ratio.
    error = to_float64(a - b).square().mean((1, 2, 3))
    return (10 * torch.log10(VALUE_RANGE**2 / error)).clamp(max=MAX_PSNR)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Compute structural similarity (N) of images N,C,H,W in [-1, 1] (Wang et al. 2004).

    The window is Gaussian and stays inside the image, so H and W must be at least SSIM_WINDOW.
    """
    # Local moments under the Gaussian window.
    a = to_float64(a)
    b = to_float64(b)
    mean_a = _gaussian_blur(a)
    mean_b = _gaussian_blur(b)
    var_a = _gaussian_blur(a * a) - mean_a**2
    var_b = _gaussian_blur(b * b) - mean_b**2
    covariance = _gaussian_blur(a * b) - mean_a * mean_b

    # The constants keep dark and flat regions stable.
    c1, c2 = ((k * VALUE_RANGE) ** 2 for k in SSIM_K)
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (var_a + var_b + c2)
    return (luminance * structure).mean((1, 2, 3))


def _gaussian_blur(image: Tensor) -> Tensor:
    """Blur N,C,H,W without padding: N,C,H-10,W-10."""
    # The Gaussian is separable: a filter along x, then one along y.
    offset = torch.arange(SSIM_WINDOW, dtype=image.dtype, device=image.device) - SSIM_WINDOW // 2
    weights = torch.exp(-(offset**2) / (2 * SSIM_SIGMA**2))
    weights = (weights / weights.sum()).expand(image.shape[1], 1, -1)
    rows = F.conv2d(image, weights[:, :, None], groups=image.shape[1])
    return F.conv2d(rows, weights[..., None], groups=image.shape[1])


# --------------------------------------------------------------------------- diversity


@dataclass(frozen=True)
class ImageDistance:
    """Distance between images.

    Args:
        description: for the protocol, with the digest of its weights.
        between: two N,3,R,R in [-1, 1] to N distances.
    """

    description: str
    between: Callable[[Tensor, Tensor], Tensor]


def load_distance(
    name: str, lpips_weights: str | Path | None, extractor: Extractor | None, device: torch.device
) -> ImageDistance:
    """Load a distance between images.

    Args:
        name: one of DISTANCES.
        lpips_weights: file of VGG16's weights; None lets the package lpips download them.
        extractor: network of the distance "features".
        device: where to put LPIPS.
    Raises:
        ConfigError: LPIPS or its weights are not available.
    """
    # Distances without weights of their own.
    if name == "l1":
        return ImageDistance("L1, share of the range", lambda a, b: (a - b).abs().mean((1, 2, 3)) / 2)
    if name == "features":
        features = extractor.features
        return ImageDistance(
            f"Euclidean, of features of {extractor.description}",
            lambda a, b: (features(to_uint8(a)) - features(to_uint8(b))).norm(dim=1),
        )

    # LPIPS may have to be downloaded; the error of load_lpips is about training, so it is replaced.
    try:
        lpips = load_lpips(lpips_weights, device)
    except ValueError as error:
        problem = f"lpips is not available ({lpips_weights or 'package and weights'}: {error.__cause__})"
        hint = "set `lpips_weights` to the file of VGG16's weights, or `distance` to l1"
        raise ConfigError("distance", problem=problem, hint=hint) from error
    return ImageDistance(f"LPIPS 0.1 on VGG16, sha256 {state_digest(lpips)}", lambda a, b: lpips(a, b).flatten())


def mean_pairwise_distance(images: Tensor, distance: ImageDistance, batch_size: int) -> Tensor:
    """Average a distance over all pairs of K images K,3,R,R: 1,1 (Deng et al. 2023)."""
    # K (K - 1) / 2 pairs, a batch at a time.
    pairs = torch.tensor(list(combinations(range(len(images)), 2)), device=images.device)
    batches = [distance.between(images[batch[:, 0]], images[batch[:, 1]]) for batch in pairs.split(batch_size)]
    return to_float64(torch.cat(batches)).mean().view(1, 1)
