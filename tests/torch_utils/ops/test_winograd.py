"""2-D convolution: the CPU kernel against PyTorch's convolution, and where it is used."""

import warnings
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from torch_utils.ops import build
from torch_utils.ops import conv2d as module
from torch_utils.ops.conv2d import conv2d, conv2d_transposed

CPU = torch.device("cpu")
# Of the largest value: transforms lose up to two bits.
TOLERANCE = 1e-5


@pytest.fixture
def kernel():
    if not build.kernels_ready(CPU, build.CPU_KERNELS):
        pytest.skip("the kernel cannot be built here: see the warning")


def example(batch=1, channels=32, out=32, height=64, width=64, dtype=torch.float32):
    x = torch.randn(batch, channels, height, width, dtype=dtype).contiguous(memory_format=torch.channels_last)
    return x, torch.randn(out, channels, 3, 3, dtype=dtype)


def assert_kernel_equals_definition(x, w, padding=(1, 1), stride=1):
    result = conv2d(x, w, padding, stride=stride, impl="kernel")
    expected = F.conv2d(x.double(), w.double(), padding=padding, stride=stride)
    assert result.shape == expected.shape
    assert result.dtype == torch.float32
    assert result.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=TOLERANCE * expected.abs().max().item())


@pytest.mark.parametrize("height", [1, 4, 5, 9, 41])
@pytest.mark.parametrize("width", [1, 6, 7, 37])
@pytest.mark.parametrize("stride", [1, 2])
def test_kernel_equals_the_definition_at_odd_sizes(kernel, height, width, stride):
    assert_kernel_equals_definition(*example(height=height, width=width), stride=stride)


@pytest.mark.parametrize("channels", [1, 16, 17, 64])
@pytest.mark.parametrize("out", [1, 5, 32, 33, 48])
def test_kernel_equals_the_definition_with_any_number_of_channels(kernel, channels, out):
    for stride in (1, 2):
        assert_kernel_equals_definition(*example(2, channels, out, 9, 10), stride=stride)


@pytest.mark.parametrize("padding", [(0, 0), (0, 1), (2, 0), (3, 5)])
def test_kernel_pads_both_axes(kernel, padding):
    for stride in (1, 2):
        assert_kernel_equals_definition(*example(2, 16, 32, 11, 6), padding, stride)
        assert_kernel_equals_definition(*example(1, 16, 32, 3, 3), padding, stride)


def test_kernel_handles_empty_batches_and_no_channels(kernel):
    assert_kernel_equals_definition(*example(batch=3))
    x, w = example()
    assert conv2d(x[:0], w, (1, 1), impl="kernel").shape == (0, 32, 64, 64)
    assert conv2d(x, w[:0], (1, 1), impl="kernel").shape == (1, 0, 64, 64)
    assert conv2d(x[:, :0], w[:, :0], (1, 1), impl="kernel").equal(torch.zeros(1, 32, 64, 64))


def test_kernel_reads_tensors_in_any_layout(kernel):
    x, w = example(channels=16)
    assert_kernel_equals_definition(x.contiguous(), w)
    assert_kernel_equals_definition(x, w.flip([2, 3]).transpose(2, 3))
    assert_kernel_equals_definition(x[:, :, ::2, 3:], w.transpose(0, 1).contiguous().transpose(0, 1))


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (3, 4), (4, 5), (7, 8), (13, 30)])
@pytest.mark.parametrize("channels", [(1, 1), (16, 32), (17, 33), (40, 5)])
def test_transposed_kernel_equals_the_definition(kernel, size, channels):
    x, w = example(2, *channels, *size)
    result = conv2d_transposed(x, w, 2, impl="kernel")
    expected = F.conv_transpose2d(x.double(), w.double().transpose(0, 1), stride=2)
    assert result.shape == expected.shape
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=TOLERANCE * expected.abs().max().item())
    assert conv2d_transposed(x[:0], w, 2, impl="kernel").shape == (0, *expected.shape[1:])


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_reference_inserts_zeros_and_convolves(groups):
    x, w = example(2, 6, 4, 5, 7, torch.float64)
    w = w[:, : 6 // groups]
    spaced = torch.zeros(2, 6, 9, 13, dtype=x.dtype)
    spaced[:, :, ::2, ::2] = x
    expected = F.conv2d(spaced, w.flip([2, 3]), padding=2, groups=groups)
    torch.testing.assert_close(conv2d_transposed(x, w, 2, groups=groups), expected)
    torch.testing.assert_close(conv2d_transposed(x, w, 2, (1, 0), groups), expected[:, :, 1:-1])


def test_transposed_kernel_runs_where_it_is_faster(kernel):
    x, w = example(1, 64, 64)
    fast = conv2d_transposed(x, w, 2)
    assert torch.equal(fast, conv2d_transposed(x, w, 2, impl="kernel"))
    plain = F.conv_transpose2d(x, w.transpose(0, 1), stride=2)
    assert not torch.equal(fast, plain)
    for case in ((x[:, :, :8], w, 2), (x.contiguous(), w, 2), (x, w[:5], 2), (x, w, 1), (x.double(), w.double(), 2)):
        plain = F.conv_transpose2d(case[0], case[1].transpose(0, 1), stride=case[2])
        assert torch.equal(conv2d_transposed(*case), plain)
    for padding, stride in (((1, 1), 2), ((0, 0), 3)):
        with pytest.raises(ValueError, match="impl: no kernel"):
            conv2d_transposed(x, w, stride, padding, impl="kernel")


def test_a_single_tap_copies_the_image(kernel):
    x, w = example(channels=3, out=3, height=10, width=13)
    w = torch.zeros_like(w)
    w[[0, 1, 2], [0, 1, 2], 1, 1] = 1
    torch.testing.assert_close(conv2d(x, w, (1, 1), impl="kernel"), x, rtol=0, atol=2e-6)


def test_result_is_the_same_bits_with_any_number_of_threads(kernel):
    before = torch.get_num_threads()
    examples = [example(1, 32, 100, 12, 12), example(1, 20, 40, 67, 50)]
    try:
        results = []
        for threads in (1, 2, 5, 2):
            torch.set_num_threads(threads)
            results.append([conv2d(x, w, (1, 1), impl="kernel") for x, w in examples])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def derivatives(convolve, x, w):
    """Return the result of a convolution, its gradients, and those of their norms."""
    x, w = x.detach().requires_grad_(), w.detach().requires_grad_()
    y = convolve(x, w)
    first = torch.autograd.grad(y.square().sum(), (x, w), create_graph=True)
    second = torch.autograd.grad(sum(d.square().sum() for d in first), (x, w))
    # Without a graph of the gradients, as in training.
    again = torch.autograd.grad(convolve(x, w).square().sum(), (x, w))
    return [y, *first, *second, *again]


def assert_derivatives_equal(fast, reference, x, w):
    for got, expected in zip(derivatives(fast, x, w), derivatives(reference, x.double(), w.double()), strict=True):
        assert got.shape == expected.shape and got.dtype == torch.float32
        torch.testing.assert_close(got.double(), expected, rtol=0, atol=TOLERANCE * expected.abs().max().item())


@pytest.mark.parametrize("size", [(9, 10), (8, 8), (4, 7), (33, 32)])
@pytest.mark.parametrize("padding", [(0, 0), (1, 1), (2, 0), (3, 1)])
@pytest.mark.parametrize("stride", [1, 2])
def test_first_and_second_derivatives_equal_those_of_the_definition(kernel, size, padding, stride):
    assert_derivatives_equal(
        lambda x, w: conv2d(x, w, padding, stride=stride, impl="kernel"),
        lambda x, w: F.conv2d(x, w, padding=padding, stride=stride),
        *example(2, 20, 33, *size),
    )


@pytest.mark.parametrize("size", [(9, 10), (8, 8), (4, 7), (33, 32)])
def test_derivatives_of_the_transposed_kernel_equal_those_of_the_definition(kernel, size):
    assert_derivatives_equal(
        lambda x, w: conv2d_transposed(x, w, 2, impl="kernel"),
        lambda x, w: F.conv_transpose2d(x, w.transpose(0, 1), stride=2),
        *example(2, 33, 40, *size),
    )


# The second has more tiles than one matrix product adds up.
@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1), (3, 40, 5, 70, 66), (2, 16, 48, 8, 9), (0, 16, 16, 8, 8)])
@pytest.mark.parametrize("padding", [(0, 1), (1, 0), (1, 1), (2, 4)])
def test_gradient_of_weights_equals_the_definition(kernel, shape, padding):
    batch, channels, out, height, width = shape
    x, w = example(batch, channels, out, height + 2, width + 2)
    dy = torch.randn_like(conv2d(x, w, padding)).contiguous(memory_format=torch.channels_last)
    result = torch.ops.pix2pix3d.winograd_conv3x3_weight_gradient(dy, x, *padding)
    expected = torch.nn.grad.conv2d_weight(x.double(), w.shape, dy.double(), padding=padding)
    atol = TOLERANCE * expected.abs().max().item()
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=atol)


def test_gradients_are_computed_where_they_are_wanted(kernel):
    x, w = example(channels=64, out=64)
    for wanted in ((True, False), (False, True)):
        inputs = [t.clone().requires_grad_(needed) for t, needed in zip((x, w), wanted, strict=True)]
        conv2d(*inputs, (1, 1)).sum().backward()
        conv2d_transposed(*inputs, 2).sum().backward()
        assert [t.grad is not None for t in inputs] == list(wanted)


def test_large_convolutions_use_the_kernel(kernel):
    x, w = example(channels=64, out=64)
    fast = conv2d(x, w, (1, 1))
    assert torch.equal(fast, conv2d(x, w, (1, 1), impl="kernel"))
    assert not torch.equal(fast, conv2d(x, w, (1, 1), impl="ref"))
    with torch.inference_mode():
        assert torch.equal(conv2d(x, w, (1, 1)), fast)
    assert torch.equal(conv2d(x, w.requires_grad_(), (1, 1)), fast)
    with torch.no_grad():
        assert torch.equal(conv2d(x, w, (1, 1)), fast)


@pytest.mark.parametrize("case", ["float64", "bfloat16", "groups", "5x5", "few channels", "small", "NCHW"])
def test_nothing_is_compiled_where_pytorch_computes(case, monkeypatch):
    monkeypatch.setattr(module, "use_kernel", lambda *_: pytest.fail("compiled"))
    dtypes = {"float64": torch.float64, "bfloat16": torch.bfloat16}
    x, w = example(channels=64, out=64, dtype=dtypes.get(case, torch.float32))
    groups = 1
    if case == "groups":
        groups, w = 2, w[:, :32]
    elif case == "5x5":
        w = torch.randn(64, 64, 5, 5)
    elif case == "few channels":
        w = w[:3]
    elif case == "small":
        x = x[:, :, :4, :4].contiguous(memory_format=torch.channels_last)
    elif case == "NCHW":
        x = x.contiguous()
    assert torch.equal(conv2d(x, w, (1, 1), groups), F.conv2d(x, w, padding=1, groups=groups))


def test_kernel_for_an_unsupported_convolution_is_an_error():
    x, w = example(dtype=torch.float64)
    with pytest.raises(ValueError, match="impl: no kernel"):
        conv2d(x, w, impl="kernel")
    with pytest.raises(ValueError, match="impl: no kernel"):
        conv2d(*example(), stride=3, impl="kernel")
    with pytest.raises(RuntimeError):
        conv2d(*example(height=2, width=2))


def test_without_a_compiler_pytorch_computes_with_one_warning(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", str(tmp_path / "no_compiler"))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setattr(module, "CPU_KERNELS", replace(build.CPU_KERNELS, name="without_compiler_2"))
    x, w = example(channels=64, out=64)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results = [conv2d(x, w, (1, 1)) for _ in range(2)]
    assert all(torch.equal(result, F.conv2d(x, w, padding=1)) for result in results)
    assert ["CPU kernels could not be built" in str(w.message) for w in caught].count(True) == 1


def test_binding_rejects_tensors_that_the_kernel_cannot_read(kernel):
    x, w = example(channels=16)
    convolve = torch.ops.pix2pix3d.winograd_conv3x3
    bad = [(x.double(), w), (x, w.double()), (x.contiguous(), w), (x[0], w), (x[:, :8], w), (x, w[:, :8])]
    bad += [(x, w[..., :2].contiguous()), (x, w.transpose(2, 3))]
    for tensors in bad:
        with pytest.raises(ValueError, match="expected"):
            convolve(*tensors, 1, 1, 1)
        with pytest.raises(ValueError, match="expected"):
            torch.ops.pix2pix3d.winograd_conv3x3_transposed(*tensors)
    dy = convolve(x, w, 1, 1, 1)
    gradient = torch.ops.pix2pix3d.winograd_conv3x3_weight_gradient
    for tensors in (
        (dy.double(), x),
        (dy, x.double()),
        (dy.contiguous(), x),
        (dy, x[:, :, 1:]),
        (dy[:0], x),
        (dy[0], x),
    ):
        with pytest.raises(ValueError, match="expected"):
            gradient(*tensors, 1, 1)
    with pytest.raises(ValueError, match="expected"):
        gradient(dy, x, 1, 2)
    for padding in ((-1, 0), (0, -1)):
        with pytest.raises(ValueError, match="padding"):
            convolve(x, w, *padding, 1)
    with pytest.raises(ValueError, match="padding"):
        convolve(x[:, :, :2].contiguous(memory_format=torch.channels_last), w, 0, 0, 1)
    with pytest.raises(ValueError, match="stride"):
        convolve(x, w, 1, 1, 3)
