"""The first call of a kernel in a process compares it with the reference; a kernel that differs is not used."""

import warnings

import pytest
import torch

from torch_utils.ops import bias_act as bias_act_module
from torch_utils.ops import build
from torch_utils.ops import upfirdn2d as upfirdn2d_module
from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.upfirdn2d import setup_filter, upfirdn2d

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def not_compared_yet(monkeypatch):
    """Let every test be the first of a process, on a device for which the kernels are built."""
    build._equals_reference.cache_clear()
    monkeypatch.setattr(build, "kernels_ready", lambda device, library: True)
    yield
    build._equals_reference.cache_clear()


class Doubled(torch.autograd.Function):
    """Kernel of a wrong value with right gradients: twice the first argument."""

    @staticmethod
    def forward(ctx, x, *others):
        ctx.others = len(others)
        return 2 * x

    @staticmethod
    def backward(ctx, dy):
        return (2 * dy, *(None for _ in range(ctx.others)))


def caught_warnings(run):
    """Return the result of two calls, the second without gradients, and the messages of all warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with torch.inference_mode():
            run()
        result = run()
    return result, [str(w.message) for w in caught]


def test_a_kernel_with_wrong_values_is_not_used_and_warns_once(monkeypatch):
    x = torch.randn(2, 3, 5, 5)
    f = setup_filter([1, 3, 3, 1])
    monkeypatch.setattr(upfirdn2d_module, "_Upfirdn2d", Doubled)
    monkeypatch.setattr(bias_act_module, "_BiasAct", Doubled)
    for run in (lambda impl="auto": upfirdn2d(x, f, padding=1, impl=impl), lambda impl="auto": bias_act(x, impl=impl)):
        result, messages = caught_warnings(run)
        torch.testing.assert_close(result, run("ref"))
        (message,) = messages
        assert "not equal to the reference" in message and "\n" not in message


def test_a_kernel_that_raises_is_not_used(monkeypatch):
    def fail(*args):
        raise RuntimeError("no kernel image is available\nmore lines")

    monkeypatch.setattr(bias_act_module, "_launch", fail)
    result, messages = caught_warnings(lambda: bias_act(torch.ones(1, 2), act="swish"))
    torch.testing.assert_close(result, bias_act(torch.ones(1, 2), act="swish", impl="ref"))
    assert len(messages) == 1 and "no kernel image" in messages[0] and "more lines" not in messages[0]


@pytest.mark.parametrize("order", [0, 1, 2])
def test_wrong_derivatives_and_nan_are_found(monkeypatch, order):
    def pairs(scale):
        for i in range(3):
            yield torch.full([2], 1 + scale * (i == order)), torch.ones(2)

    assert build._equals_reference(lambda device: pairs(1e-6), CPU)
    for scale in (1e-2, float("nan")):
        with pytest.warns(UserWarning, match="not equal"):
            assert not build._equals_reference(lambda device, scale=scale: pairs(scale), CPU)


def test_the_comparison_runs_once_for_each_device_and_leaves_random_numbers_alone():
    devices = []
    comparison = lambda device: devices.append(device) or []  # noqa: E731
    state = torch.get_rng_state()
    for device in (CPU, CPU, torch.device("cuda", 0), CPU):
        assert build.use_kernel("auto", device, comparison=comparison)
    assert devices == [CPU, torch.device("cuda", 0)]
    assert torch.equal(state, torch.get_rng_state())
    assert build.use_kernel("kernel", torch.device("cuda", 1), comparison=comparison) and len(devices) == 2
