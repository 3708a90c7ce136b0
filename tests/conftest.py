"""Fixtures that several test files share."""

import functools
import shutil
from contextlib import suppress

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import legacy


@pytest.fixture(autouse=True)
def same_random_numbers_every_time():
    """What fails, fails again."""
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(scope="session")
def untrained(tmp_path_factory):
    """Function from a config to the path of its untrained network with a narrow backbone, made once."""
    folder = tmp_path_factory.mktemp("networks")

    @functools.cache
    def make(cfg):
        path = folder / f"{cfg}.pt"
        narrow = ["--channel-base", "1024", "--channel-max", "16"]
        result = CliRunner().invoke(legacy.main, ["init", str(path), "--cfg", cfg, *narrow])
        assert result.exit_code == 0, result.output
        return path

    yield make
    shutil.rmtree(folder)  # the label encoder is full-size in every network: 200 MB each


@pytest.fixture(scope="session")
def torchvision_operators():
    """Two operators without which torchvision, made for CUDA, cannot be imported beside a CPU build of torch."""
    with suppress(ImportError, RuntimeError):
        import torchvision  # noqa: F401 one that goes with this torch brings its own

        return None
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library  # they last as long as it
