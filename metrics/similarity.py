"""How alike two pictures are, pixel by pixel and by structure."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from metrics.distribution import in_float64

WINDOW, SIGMA = 11, 1.5  # of SSIM, pixels
K1, K2 = 0.01, 0.03
RANGE = 2.0  # of network images, -1 to 1
BEST_PSNR = 100.0  # dB, in place of infinity: equal pictures must not make a mean infinite


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of N,C,H,W in [-1, 1]: N."""
    error = in_float64(a - b).square().mean((1, 2, 3))
    return (10 * torch.log10(RANGE**2 / error)).clamp(max=BEST_PSNR)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004), Gaussian window, mean over pixels and channels of N,C,H,W: N.

    Windows that leave the picture are not looked at, so H and W are at least 11.
    """
    a, b = in_float64(a), in_float64(b)
    mean_a, mean_b = _blur(a), _blur(b)
    var_a, var_b = _blur(a * a) - mean_a**2, _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    c1, c2 = (K1 * RANGE) ** 2, (K2 * RANGE) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (var_a + var_b + c2)
    return (luminance * structure).mean((1, 2, 3))


def _blur(picture: Tensor) -> Tensor:
    offset = torch.arange(WINDOW, dtype=picture.dtype, device=picture.device) - WINDOW // 2
    weights = torch.exp(-(offset**2) / (2 * SIGMA**2))
    weights = (weights / weights.sum()).expand(picture.shape[1], 1, -1)
    rows = F.conv2d(picture, weights[:, :, None], groups=picture.shape[1])
    return F.conv2d(rows, weights[..., None], groups=picture.shape[1])
