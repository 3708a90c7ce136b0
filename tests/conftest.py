"""Fixtures shared by several test files."""

import functools
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch

from training.networks.configs import CONFIGS
from training.networks.registry import construct
from training.weights.snapshot import UNTRAINED, save_snapshot


@pytest.fixture(autouse=True)
def fixed_seed():
    """Seed random numbers, so that failures are reproducible."""
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(scope="session")
def untrained(tmp_path_factory):
    """Return a function from a configuration to the path of an untrained, very narrow network, created once."""
    directory = tmp_path_factory.mktemp("networks")
    narrow = {"channel_base": 512, "channel_max": 8, "encoder_width": 0.02, "sr_width": 0.1, "plane_resolution": 32}

    @functools.cache
    def make(cfg):
        options = replace(CONFIGS[cfg], **narrow, depth_resolution=6)
        path = directory / f"{cfg}.pt"
        save_snapshot(path, {"G_ema": construct(options.class_name, options.kwargs())}, extra={UNTRAINED: True})
        return path

    return make


@pytest.fixture(scope="session")
def torchvision_operators():
    """Two operators without which a CUDA build of torchvision cannot be imported with a CPU build of torch."""
    with suppress(ImportError, RuntimeError):
        import torchvision  # noqa: F401 one built for this torch has its own

        return None
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library  # the operators exist as long as this object
