"""Resizing between the final and the raw image."""

import re

import pytest
import torch
from golden import golden

from torch_utils.ops.upfirdn2d import setup_filter
from training.dual_discriminator import filtered_resizing
from training.networks_stylegan2 import FIR

OUTPUTS = [k for k in golden.manifest("filtered_resizing")["outputs"] if not k.startswith("d_")]


@pytest.mark.parametrize("name", OUTPUTS)
def test_every_mode_of_resizing_is_golden_with_its_gradient(name):
    mode, before, after = re.fullmatch(r"([a-z0-9.]+)_(\d+)to(\d+)", name).groups()
    expected, inputs = golden.load("filtered_resizing"), golden.inputs("filtered_resizing")
    x = inputs[f"image{before}"].requires_grad_()
    out = filtered_resizing(x, int(after), setup_filter(FIR), float(mode) if mode[0].isdigit() else mode)
    rtol = golden.manifest("filtered_resizing")["rtol"]
    golden.check(name, out, expected, rtol=rtol)
    if f"d_{name}__stride2" in expected:
        (out * inputs["cot"]).sum().backward()
        golden.check(f"d_{name}", x.grad, expected, rtol=rtol)


def test_an_unknown_mode_is_named():
    with pytest.raises(ValueError, match="got 'cubic'"):
        filtered_resizing(torch.zeros(1, 3, 8, 8), 4, setup_filter(FIR), "cubic")
