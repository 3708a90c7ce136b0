"""Perceptual image distance LPIPS (Zhang et al. 2018) from the package `lpips`, imported only when it is used."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from dnnlib.errors import ConfigError
from torch_utils.safe_pickle import check_torch_load

# Pixels: VGG16 halves its input four times.
SMALLEST_IMAGE = 16

Perceptual = Callable[[Tensor, Tensor], Tensor]  # two N,3,H,W in [-1, 1] to N distances, of any shape
WITHOUT_LPIPS = "train without LPIPS: `lambda_lpips=0` `lambda_l1=10`"


def load_lpips(weights: str | Path | None = None, device: torch.device | str = "cpu") -> nn.Module:
    """Load LPIPS 0.1 on VGG16, frozen and in eval mode: two N,3,H,W in [-1, 1] to N,1,1,1.

    Args:
        weights: file of torchvision's VGG16 (vgg16-397923af.pth); None lets the package download it on first use.
        device: where it computes.
    Raises:
        ConfigError: the package or the weights are not available; its hint says how to train without them.
    """
    # The package is optional, and slow to import.
    try:
        import lpips
    except (ImportError, OSError, RuntimeError) as error:  # the last two: a torchvision that does not fit this torch
        problem = f"the package lpips cannot be imported ({error})"
        hint = f"install it with pip install -e .[train], or {WITHOUT_LPIPS}"
        raise ConfigError("lambda_lpips", problem=problem, hint=hint) from error

    # The network. With a weights file, VGG16 is initialized randomly first (pnet_rand), so that nothing is downloaded.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the package uses a deprecated torchvision call
            network = lpips.LPIPS(net="vgg", version="0.1", pnet_rand=weights is not None, verbose=False)
    except (OSError, RuntimeError) as error:
        problem = f"the weights of VGG16 cannot be downloaded ({error})"
        hint = f"pass their file as `lpips_weights`, or {WITHOUT_LPIPS}"
        raise ConfigError("lambda_lpips", problem=problem, hint=hint) from error

    # The package has weights for its own layers; those of VGG16 come from the file.
    if weights is not None:
        _load_vgg16(network, Path(weights))
    return network.eval().requires_grad_(False).to(device)


def _load_vgg16(network: nn.Module, path: Path) -> None:
    """Copy torchvision's `features.<i>` into the layers that the package names `net.slice<k>.<i>`."""
    # `stored` has the classifier of VGG16 too, which LPIPS does not use.
    hint = f"give torchvision's VGG16 (vgg16-397923af.pth), or {WITHOUT_LPIPS}"
    check_torch_load("lpips_weights", path)
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        with torch.no_grad():
            for name, tensor in network.net.named_parameters():
                tensor.copy_(stored[f"features.{name.split('.', 1)[1]}"])
    except OSError as error:
        raise ConfigError("lpips_weights", problem=f"{path}: {error.strerror}", hint=hint) from error
    except (RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise ConfigError("lpips_weights", problem=f"{path}: not torchvision's VGG16", hint=hint) from error
