"""Softplus with gradients on a CPU: the kernel against PyTorch's operator in float64."""

import pytest
import torch
import torch.nn.functional as F

from torch_utils.ops import build
from torch_utils.ops.softplus import softplus_


@pytest.fixture(autouse=True)
def compiled():
    if not build.kernels_ready(torch.device("cpu"), build.CPU_KERNELS):
        pytest.skip("no C++ compiler: see the warning")


def derivatives(function, x):
    """Return value, first and second derivative of a function of each element."""
    x = x.detach().requires_grad_()
    y = function(x)
    (dx,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
    (differentiable,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    torch.testing.assert_close(dx, differentiable, equal_nan=True)
    (d2x,) = torch.autograd.grad((differentiable * torch.arange(1, x.numel() + 1).view_as(x)).sum(), x)
    return y.detach(), dx.detach(), d2x


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 33, 100_003])  # edges of vectors, and several threads
def test_kernel_equals_the_reference_up_to_second_derivatives(size):
    x = torch.linspace(-30, 30, size)
    kernel = derivatives(lambda x: softplus_(x * 1, impl="kernel"), x)
    reference = derivatives(F.softplus, x.double())
    for k, r in zip(kernel, reference, strict=True):
        assert k.dtype == torch.float32
        torch.testing.assert_close(k.double(), r, rtol=2e-6, atol=2e-7 * max(1, size))


def test_first_derivatives_are_accurate_where_they_are_small():
    x = torch.linspace(-60, 5, 300).requires_grad_()
    (dx,) = torch.autograd.grad(softplus_(x * 1, impl="kernel").sum(), x)
    torch.testing.assert_close(dx.double(), torch.sigmoid(x.detach().double()), rtol=1e-5, atol=0)


def test_kernel_keeps_large_numbers_and_nan_and_any_strides():
    x = torch.tensor([[3e38, float("inf"), -float("inf"), float("nan")], [-200.0, 200.0, 0.0, 1.0]]).T
    y, dx, _ = derivatives(lambda x: softplus_(x * 1, impl="kernel"), x)
    torch.testing.assert_close(y, F.softplus(x), equal_nan=True, rtol=1e-6, atol=1e-37)
    torch.testing.assert_close(dx.nan_to_num(7), torch.sigmoid(x).nan_to_num(7), rtol=1e-6, atol=1e-37)


def test_without_a_gradient_and_in_other_types_the_reference_runs(monkeypatch):
    monkeypatch.setattr(build, "kernels_ready", lambda device, library: pytest.fail("kernel"))
    x = torch.randn(5, requires_grad=True)
    with torch.no_grad():
        assert torch.equal(softplus_(x * 1), F.softplus(x))
    assert torch.equal(softplus_(x.detach()), F.softplus(x))
    assert torch.equal(softplus_(x.double()), F.softplus(x.double()))
