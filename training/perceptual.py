"""The perceptual distance LPIPS (Zhang et al. 2018), by the package `lpips`, loaded when a loss wants it."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

SMALLEST_IMAGE = 16  # pixels: VGG16 halves four times
Perceptual = Callable[[Tensor, Tensor], Tensor]  # two N,3,H,W in [-1, 1] to N distances, of any shape
WAY_ON = "train without it: --lambda_lpips=0 --lambda_l1=10, say"


def load_lpips(weights: str | Path | None = None, device: torch.device | str = "cpu") -> nn.Module:
    """LPIPS 0.1 on VGG16, frozen, in eval mode: (N,3,H,W, N,3,H,W) in [-1, 1] to N,1,1,1.

    Args:
        weights: file of torchvision's VGG16 (vgg16-397923af.pth); None lets the package fetch it at its first use.
    Raises:
        ValueError: the package or the weights cannot be had; says which option of train.py is to blame, why, and how
            to train without.
    """
    try:
        import lpips
    except (ImportError, OSError, RuntimeError) as error:  # the last two: a torchvision that does not fit this torch
        way_on = f"pip install -e .[train] to install it, or {WAY_ON}"
        raise ValueError(f"--lambda_lpips: the package lpips cannot be used ({error}); {way_on}") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it calls torchvision in an old way
            network = lpips.LPIPS(net="vgg", version="0.1", pnet_rand=weights is not None, verbose=False)
    except (OSError, RuntimeError) as error:
        way_on = f"--lpips_weights takes their file, or {WAY_ON}"
        raise ValueError(f"--lambda_lpips: VGG16's weights cannot be fetched ({error}); {way_on}") from error
    if weights is not None:
        _fill_trunk(network, Path(weights))
    return network.eval().requires_grad_(False).to(device)


def _fill_trunk(network: nn.Module, path: Path) -> None:
    """Weights of torchvision's `features.<i>` into the layers that the package groups as `net.slice<k>.<i>`."""
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        with torch.no_grad():
            for name, tensor in network.net.named_parameters():
                tensor.copy_(stored[f"features.{name.split('.', 1)[1]}"])
    except OSError as error:
        raise ValueError(f"--lpips_weights {path}: {error.strerror}; give torchvision's VGG16, or {WAY_ON}") from error
    except (RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
        what = "not torchvision's VGG16 (vgg16-397923af.pth)"
        raise ValueError(f"--lpips_weights {path}: {what}; or {WAY_ON}") from error
