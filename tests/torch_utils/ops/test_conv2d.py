"""conv2d_resample and modulated_conv2d: equality with the definition, derivatives, memory formats, errors."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from torch_utils.ops.conv2d_resample import conv2d_resample
from torch_utils.ops.modulated_conv2d import _scale_images, _scale_kernels, modulated_conv2d
from torch_utils.ops.upfirdn2d import resample_padding, setup_filter, upfirdn2d


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


FILTER = setup_filter([1, 3, 3, 1])
ASYMMETRIC = setup_filter([[1, 2, 3], [5, 7, 2], [0, 1, 4]])


def step_by_step(x, w, f, up, down, padding, groups, flip_weight, flip_filter):
    """Upsample with all padding, convolve, downsample, in this order."""
    pad = [0, 0, 0, 0]
    if up > 1:
        pad = [a + b for a, b in zip(pad, resample_padding(f, (up, up), (1, 1)), strict=True)]
    if down > 1:
        pad = [a + b for a, b in zip(pad, resample_padding(f, (1, 1), (down, down)), strict=True)]
    pad = [a + b for a, b in zip(pad, padding, strict=True)]
    x = upfirdn2d(x, f if up > 1 else None, up, padding=pad, gain=up**2, flip_filter=flip_filter, impl="ref")
    x = F.conv2d(x, w if flip_weight else w.flip([2, 3]), groups=groups)
    return upfirdn2d(x, f if down > 1 else None, down=down, flip_filter=flip_filter, impl="ref")


@pytest.mark.parametrize("padding", [(1, 1, 1, 1), (2, 0, 1, 3), (-1, 2, 0, -2), (-6, 3, 2, -5), (7, 8, 9, 6)])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 4)])
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2), (2, 2), (3, 1), (1, 3)])
def test_conv2d_resample_equals_the_definition_in_every_case(up, down, kernel, padding):
    x, w = torch.randn(2, 4, 13, 14, dtype=torch.float64), torch.randn(6, 2, *kernel, dtype=torch.float64)
    for f, flip_weight, flip_filter in itertools.product([FILTER, ASYMMETRIC], [False, True], [False, True]):
        arguments = (x, w, f, up, down, padding, 2, flip_weight, flip_filter)
        torch.testing.assert_close(conv2d_resample(*arguments), step_by_step(*arguments), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2)])
def test_derivatives_of_conv2d_resample_match_finite_differences(up, down):
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    w = torch.randn(2, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    operation = lambda x, w: conv2d_resample(x, w, FILTER, up, down, padding=1, flip_weight=up == 1)  # noqa: E731
    assert gradcheck(operation, (x, w))
    assert gradgradcheck(operation, (x, w))


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2)])
def test_channels_last_input_gives_the_same_values_in_channels_last(up, down, kernel):
    x, w = torch.randn(1, 4, 8, 8), torch.randn(6, 4, kernel, kernel)
    styles, noise = torch.randn(1, 4), torch.randn(8 * up // down, 8 * up // down)
    for operation in (
        lambda x: conv2d_resample(x, w, FILTER, up, down, padding=kernel // 2),
        lambda x: modulated_conv2d(x, w, styles, noise, up, down, kernel // 2, FILTER),
        lambda x: modulated_conv2d(x, w, styles, noise, up, down, kernel // 2, FILTER, fused_modconv=False),
    ):
        y = operation(x.to(memory_format=torch.channels_last))
        assert y.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(y, operation(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("demodulate", [False, True])
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2)])
def test_scaling_kernels_equals_scaling_images(up, down, demodulate):
    x, weight, styles = (torch.randn(s, dtype=torch.float64) for s in [(3, 4, 8, 8), (5, 4, 3, 3), (3, 4)])
    demod = torch.rand(3, 5, dtype=torch.float64) if demodulate else None
    resample = {"f": FILTER, "up": up, "down": down, "padding": 1, "flip_weight": True}
    expected = _scale_images(x, weight, styles, demod, resample)
    torch.testing.assert_close(_scale_kernels(x, weight, styles, demod, resample), expected)


@pytest.mark.parametrize("fused_modconv", [False, True])
def test_demodulated_output_has_unit_variance_for_any_scale_of_weight_and_styles(fused_modconv):
    x = torch.randn(1, 16, 32, 32)
    for scale in (1e-2, 1, 1e3):
        weight, styles = torch.randn(8, 16, 3, 3) * scale, torch.rand(1, 16) * scale
        y = modulated_conv2d(x, weight, styles, padding=1, fused_modconv=fused_modconv)
        assert y[..., 1:-1, 1:-1].var() == pytest.approx(1, abs=0.1)  # 7200 values


@pytest.mark.parametrize("fused_modconv", [False, True])
@pytest.mark.parametrize("samples", [1, 2])
def test_derivatives_of_modulated_conv2d_match_finite_differences(samples, fused_modconv):
    shapes = [(samples, 2, 3, 3), (2, 2, 3, 3), (samples, 2), (samples, 1, 6, 6)]
    tensors = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]

    def operation(x, weight, styles, noise):
        return modulated_conv2d(x, weight, styles, noise, 2, 1, 1, FILTER, fused_modconv=fused_modconv)

    assert gradcheck(operation, tensors)
    assert gradgradcheck(operation, tensors)


def test_float16_does_not_overflow_with_large_weights_and_styles():
    x, weight, styles = torch.randn(1, 64, 4, 4), torch.randn(8, 64, 1, 1) * 1e3, torch.rand(1, 64) * 1e3
    expected = modulated_conv2d(x, weight, styles)
    y = modulated_conv2d(x.half(), weight, styles)
    assert y.dtype == torch.float16
    torch.testing.assert_close(y.float(), expected, rtol=1e-2, atol=1e-2)  # sums of 64 products with 11 bits


def test_inputs_are_not_modified():
    tensors = [torch.randn(s) for s in [(1, 4, 8, 8), (5, 4, 1, 1), (1, 4), (1, 1, 8, 8)]]
    before = [t.clone() for t in tensors]
    for fused_modconv in (False, True):
        modulated_conv2d(*tensors, fused_modconv=fused_modconv)
    assert all(torch.equal(t, b) for t, b in zip(tensors, before, strict=True))


@pytest.mark.parametrize(
    "change",
    [
        {"x": torch.zeros(4, 8, 8)},
        {"x": torch.zeros(1, 4, 0, 8)},
        {"x": torch.zeros(1, 5, 8, 8)},
        {"w": torch.zeros(6, 4, 3)},
        {"up": 0},
        {"groups": 4},
    ],
)
def test_invalid_arguments_of_conv2d_resample_are_rejected(change):
    call = {"x": torch.zeros(1, 4, 8, 8), "w": torch.zeros(6, 4, 3, 3), "f": FILTER} | change
    with pytest.raises(ValueError, match="expected"):
        conv2d_resample(**call)


@pytest.mark.parametrize("change", [{"styles": torch.zeros(2, 4)}, {"weight": torch.zeros(6, 5, 3, 3)}])
def test_invalid_arguments_of_modulated_conv2d_are_rejected_with_both_shapes(change):
    call = {"x": torch.zeros(1, 4, 8, 8), "weight": torch.zeros(6, 4, 3, 3), "styles": torch.zeros(1, 4)} | change
    with pytest.raises(ValueError, match=r"expected .*\(1, 4, 8, 8\)"):
        modulated_conv2d(**call)
