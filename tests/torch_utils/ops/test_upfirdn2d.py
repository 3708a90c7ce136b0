"""upfirdn2d: equality with the definition, derivatives, memory formats, invalid arguments."""

import itertools

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from torch_utils.ops.upfirdn2d import downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


PADDINGS = [0, (2, 1, 1, 2), (-3, 5, 4, -2), (9, -1, -5, 8)]
TAPS = [(1, 1), (4, 4), (2, 3), 12]
FACTORS = [(1, 1), (2, 1), (1, 2), (3, 2), ((2, 1), (1, 3))]


def make_filter(taps):
    return setup_filter(torch.arange(1.0, 1 + torch.ones(taps).numel()).view(taps), separable=isinstance(taps, int))


def pixel_by_pixel(x, f, up, down, padding, flip_filter):
    """Compute the defining sum for one channel H,W and a filter kh,kw."""
    (h, w), (fh, fw), (left, right, top, bottom) = x.shape, f.shape, padding
    height, width = (h * up + top + bottom - fh) // down + 1, (w * up + left + right - fw) // down + 1
    out = torch.zeros(height, width, dtype=x.dtype)
    for oy, ox, ty, tx in itertools.product(range(height), range(width), range(fh), range(fw)):
        y, x_ = oy * down + ty - top, ox * down + tx - left
        if y % up == 0 and x_ % up == 0 and 0 <= y < h * up and 0 <= x_ < w * up:
            tap = f[ty, tx] if flip_filter else f[fh - 1 - ty, fw - 1 - tx]
            out[oy, ox] += x[y // up, x_ // up] * tap
    return out


@pytest.mark.parametrize("impl", ["ref", "auto"])
@pytest.mark.parametrize("flip_filter", [False, True])
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2), (3, 2)])
def test_each_pixel_equals_the_defining_sum(up, down, flip_filter, impl):
    x, f, padding = torch.randn(5, 6, dtype=torch.float64), make_filter((2, 3)), (-1, 2, 3, -2)
    y = upfirdn2d(x[None, None], f, up, down, padding, flip_filter, impl=impl)
    torch.testing.assert_close(y[0, 0], pixel_by_pixel(x, f, up, down, padding, flip_filter), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(("up", "down"), FACTORS)
@pytest.mark.parametrize("taps", TAPS)
def test_convolution_equals_the_reference_and_keeps_the_memory_format(taps, up, down, padding, layout):
    x, f = torch.randn(2, 3, 14, 13).to(memory_format=layout), make_filter(taps)
    y = upfirdn2d(x, f, up, down, padding, gain=1.5)
    assert (up, down) == (3, 2) or torch.empty_like(y).is_contiguous(memory_format=layout)
    torch.testing.assert_close(y, upfirdn2d(x, f, up, down, padding, gain=1.5, impl="ref"), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2), ((1, 2), (2, 1))])
@pytest.mark.parametrize("taps", [(4, 4), 8])
def test_derivatives_match_finite_differences(taps, up, down):
    x = torch.randn(1, 2, 6, 5, dtype=torch.float64, requires_grad=True)
    operation = lambda x: upfirdn2d(x, make_filter(taps), up, down, padding=(4, 3), flip_filter=True)  # noqa: E731
    assert gradcheck(operation, x)
    assert gradgradcheck(operation, x)


@pytest.mark.parametrize("taps", [(4, 4), (3, 3), 12])
def test_resampling_scales_the_size_and_keeps_constant_images(taps):
    x, f = torch.ones(1, 2, 20, 24), setup_filter(torch.ones(taps), separable=isinstance(taps, int))
    for y, size in [(filter2d(x, f), (20, 24)), (upsample2d(x, f), (40, 48)), (downsample2d(x, f), (10, 12))]:
        assert y.shape[2:] == size
    assert upsample2d(x, setup_filter([1, 3, 3, 1]))[..., 2:-2, 2:-2].sub(1).abs().max() < 1e-6
    assert downsample2d(x, setup_filter([1, 3, 3, 1]))[..., 1:-1, 1:-1].sub(1).abs().max() < 1e-6


def test_a_separable_filter_equals_its_outer_product():
    x, taps = torch.randn(1, 2, 20, 20), torch.arange(1.0, 13)
    for gain in (1, 3):
        one, two = (setup_filter(taps, gain=gain, separable=s) for s in (True, False))
        torch.testing.assert_close(upsample2d(x, one), upsample2d(x, two), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("length", "axes"), [(4, 2), (7, 2), (8, 1), (12, 1)])
def test_a_list_of_at_least_eight_taps_stays_separable(length, axes):
    f = setup_filter([1.0] * length)
    assert f.ndim == axes
    assert f.sum() == pytest.approx(1)


def test_an_empty_batch_is_accepted():
    assert upsample2d(torch.zeros(0, 3, 4, 4), setup_filter([1, 3, 3, 1])).shape == (0, 3, 8, 8)


@pytest.mark.parametrize(
    "change",
    [
        {"x": torch.zeros(3, 8, 8)},
        {"x": torch.zeros(1, 3, 0, 8)},
        {"f": torch.ones(2, 2, 2)},
        {"f": torch.ones(0)},
        {"x": torch.zeros(1, 3, 3, 8)},
        {"padding": (-8, 20, 0, 0)},
        {"padding": (1, 2, 3)},
        {"up": 0},
        {"down": (1, 2, 3)},
        {"impl": "slow"},
    ],
)
def test_invalid_arguments_are_named_with_their_value(change):
    ((name, value),) = change.items()
    got = str(tuple(value.shape) if isinstance(value, torch.Tensor) else value)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the message is checked below)
        upfirdn2d(**{"x": torch.zeros(1, 3, 8, 8), "f": torch.ones(4, 4)} | change)
    assert got in str(caught.value)
    assert name in str(caught.value)


@pytest.mark.parametrize("arguments", [{"f": []}, {"f": torch.ones(2, 2, 2)}, {"f": [[1, 2]], "separable": True}])
def test_invalid_filters_are_rejected(arguments):
    with pytest.raises(ValueError, match="shape"):
        setup_filter(**arguments)
