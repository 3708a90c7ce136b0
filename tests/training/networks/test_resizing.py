"""Resizing between the final and the raw image: golden arrays and edge cases."""

import re

import pytest
import torch
from golden import golden

from torch_utils.ops.upfirdn2d import setup_filter
from training.networks.discriminator import filtered_resizing
from training.networks.layers import FIR

OUTPUTS = [k for k in golden.manifest("filtered_resizing")["outputs"] if not k.startswith("d_")]


@pytest.mark.parametrize("name", OUTPUTS)
def test_resized_images_and_gradients_are_golden(name):
    mode, before, after = re.fullmatch(r"([a-z0-9.]+)_(\d+)to(\d+)", name).groups()
    expected, inputs = golden.load("filtered_resizing"), golden.inputs("filtered_resizing")
    x = inputs[f"image{before}"].requires_grad_()
    out = filtered_resizing(x, int(after), setup_filter(FIR), float(mode) if mode[0].isdigit() else mode)
    rtol = golden.manifest("filtered_resizing")["rtol"]
    golden.check(name, out, expected, rtol=rtol)
    if f"d_{name}__stride2" in expected:
        (out * inputs["cot"]).sum().backward()
        golden.check(f"d_{name}", x.grad, expected, rtol=rtol)


@pytest.mark.parametrize("mode", ["cubic", 1.5, -0.1])
def test_unknown_filter_mode_is_rejected(mode):
    with pytest.raises(ValueError, match=f"filter_mode: expected .*, got {mode!r}"):
        filtered_resizing(torch.zeros(1, 3, 8, 8), 4, setup_filter(FIR), mode)


def test_blend_shares_0_and_1_equal_the_two_modes():
    image, f = torch.randn(1, 3, 16, 16), setup_filter(FIR)
    for share, mode in ((0, "none"), (1, "antialiased")):
        torch.testing.assert_close(filtered_resizing(image, 8, f, share), filtered_resizing(image, 8, f, mode))
