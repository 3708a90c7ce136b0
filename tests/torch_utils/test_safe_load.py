"""Weights of other programs are read by torch.load only where its weights_only is safe."""

import pytest
import torch

from dnnlib.errors import ConfigError
from torch_utils.safe_pickle import check_torch_load


@pytest.mark.parametrize("version", ["2.10.0", "2.10.0a0+git1234", "2.13.0+cpu", "3.0.0"])
def test_a_pytorch_from_2_10_on_may_read_them(monkeypatch, version):
    monkeypatch.setattr(torch, "__version__", version)
    check_torch_load("lpips_weights", "vgg.pth")


@pytest.mark.parametrize("version", ["2.6.0", "2.9.1+cu128", "1.13.1"])
def test_an_older_pytorch_is_named_in_one_line(monkeypatch, version):
    monkeypatch.setattr(torch, "__version__", version)
    with pytest.raises(ConfigError) as caught:
        check_torch_load("lpips_weights", "vgg.pth")
    expected = (
        f"lpips_weights: vgg.pth: PyTorch {version} cannot read such a file safely; install PyTorch 2.10 or newer"
    )
    assert str(caught.value) == expected
