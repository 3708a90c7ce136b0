"""2-D convolutions, with kernels for CPUs that need a fraction of the multiplications for 3x3 weights."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_utils.ops.build import CPU_KERNELS, use_kernel

# Where the kernels are faster than PyTorch's convolutions, as measured with tests/benchmarks/ops.py: transforms of
# input, result and weights must be few beside the products over channels. Smallest number of channels and of tiles of
# the result: with stride 1, and with stride 2, whose kernels save fewer multiplications.
MIN_SIZES = {1: (16, 16), 2: (32, 64)}
# Tiles of all samples from which on the kernel for gradients of weights is faster.
MIN_TILES_OF_GRADIENT = 64
# Smaller convolutions would gain less than compiling the kernels costs.
MIN_MULTIPLICATIONS = 2**22
TILE = 4  # pixels on a side, of the result, or of the largest phase of a transposed convolution


def conv2d(
    x: Tensor,
    w: Tensor,
    padding: tuple[int, int] = (0, 0),
    groups: int = 1,
    stride: int = 1,
    impl: str = "auto",
) -> Tensor:
    """Correlate x with w, as `torch.nn.functional.conv2d`.

    In float32 on a CPU, 3x3 weights can be applied by a kernel: with stride 1 by Winograd's F(4x4, 3x3) (Lavin and Gray
    2016), a quarter of the multiplications, with stride 2 by F(4, 2) for the even pixels, 81 instead of 144. Rounding
    errors are about twice those of PyTorch's convolution.

    Args:
        x: N,C,H,W; the memory format is kept.
        w: O,C/groups,kh,kw, type of x.
        padding: zeros added on both sides of the (y, x) axes.
        groups: groups of channels.
        stride: distance of the pixels of the result, for which the kernel takes 1 and 2.
        impl: see `build.use_kernel`; auto: the kernel for sizes at which it is faster, in channels-last format.
    Returns:
        N,O,(H+2*padding-kh)//stride+1,(W+2*padding-kw)//stride+1.
    Raises:
        ValueError: impl "kernel", which the kernel does not support here.
        RuntimeError: the padded image is smaller than w (from PyTorch).
    Gradients of any order reach x and w.
    """
    # Size of the result of 3x3 weights.
    size = [(length + 2 * pad - 3) // stride + 1 for length, pad in zip(x.shape[2:], padding, strict=True)]
    supported = _is_supported(x, w, groups) and min(size) > 0 and stride in (1, 2)
    if _use_kernel(impl, x, w, supported, size, stride):
        return _Conv2d.apply(x, w, padding, stride)
    return F.conv2d(x, w, padding=padding, stride=stride, groups=groups)


def conv2d_transposed(
    x: Tensor, w: Tensor, stride: int = 1, padding: tuple[int, int] = (0, 0), groups: int = 1, impl: str = "auto"
) -> Tensor:
    """Insert stride-1 zeros between pixels, convolve, crop, as `torch.nn.functional.conv_transpose2d`.

    The kernel computes each of the four phases of the result, three of them with Winograd's F(4, 2): 81
    multiplications instead of 144. It supports what that of `conv2d` supports, with stride 2 and no padding.

    Args:
        x: N,C,H,W; the memory format is kept.
        w: O,C/groups,kh,kw, type of x.
        stride: factor of upsampling.
        padding: pixels cropped on both sides of the (y, x) axes of the result.
        groups: groups of channels.
        impl: see `conv2d`.
    Returns:
        N,O,(H-1)*stride+kh-2*padding,(W-1)*stride+kw-2*padding.
    Raises:
        ValueError: impl "kernel", which the kernel does not support here.
    Gradients of any order reach x and w.
    """
    supported = _is_supported(x, w, groups) and stride == 2 and tuple(padding) == (0, 0)
    size = [length + 1 for length in x.shape[2:]]  # of the largest phase
    if _use_kernel(impl, x, w, supported, size, stride):
        return _Conv2dTransposed.apply(x, w)

    # PyTorch's layout of the weights.
    w = w.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)  # C,O/groups,kh,kw
    return F.conv_transpose2d(x, w, stride=stride, padding=padding, groups=groups)


def _is_supported(x: Tensor, w: Tensor, groups: int) -> bool:
    """Return whether kernels compute convolutions of these types and channels."""
    is_float = x.device.type == "cpu" and x.dtype == w.dtype == torch.float32
    return is_float and x.ndim == 4 and groups == 1 and w.shape[1:] == (x.shape[1], 3, 3)


def _use_kernel(impl: str, x: Tensor, w: Tensor, supported: bool, size: list[int], stride: int) -> bool:
    """Return whether a kernel should run: with "auto" where it is faster, which follows from sizes alone.

    Not from that of the batch, so that an image is the same in any batch.
    """
    if impl == "kernel" and not supported:
        raise ValueError(f"impl: no kernel for x {tuple(x.shape)} {x.dtype}, w {tuple(w.shape)}; use auto or ref")
    if impl == "auto" and supported:
        min_channels, min_tiles = MIN_SIZES[stride]
        large = _tiles(size) >= min_tiles and math.prod(size) * w.numel() >= MIN_MULTIPLICATIONS
        supported = large and min(w.shape[:2]) >= min_channels and x.is_contiguous(memory_format=torch.channels_last)
    return supported and use_kernel(impl, x.device, CPU_KERNELS)


def _tiles(size: Sequence[int]) -> int:
    """Return the number of tiles of a result of H,W pixels."""
    return math.prod(math.ceil(length / TILE) for length in size)


# --------------------------------------------------------------------------- kernels with autograd

# Gradients of x are such convolutions again, by a kernel where it is faster. Those of w are computed by PyTorch with
# stride 2, for few tiles, or if they need gradients themselves.


class _Conv2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w, padding, stride):
        ctx.save_for_backward(x, w)
        ctx.options = (padding, stride)
        x = x.contiguous(memory_format=torch.channels_last)
        return torch.ops.pix2pix3d.winograd_conv3x3(x, w.contiguous(), *padding, stride)

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        padding, stride = ctx.options
        dy = dy.contiguous(memory_format=torch.channels_last)
        dx, dw = None, None
        if ctx.needs_input_grad[0]:
            dx = _gradient_of_input(dy, w, x.shape[2:], padding, stride)
        if ctx.needs_input_grad[1]:
            dw = _gradient_of_weight(dy, x, w, padding, stride)
        return dx, dw, None, None


class _Conv2dTransposed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        x = x.contiguous(memory_format=torch.channels_last)
        return torch.ops.pix2pix3d.winograd_conv3x3_transposed(x, w.contiguous())

    @staticmethod
    def backward(ctx, dy):
        # This is the gradient of a convolution's input: dy takes the part of that input, and x that of its gradient.
        x, w = ctx.saved_tensors
        w = w.transpose(0, 1)
        dy = dy.contiguous(memory_format=torch.channels_last)
        dx, dw = None, None
        if ctx.needs_input_grad[0]:
            dx = conv2d(dy, w, stride=2)
        if ctx.needs_input_grad[1]:
            dw = _gradient_of_weight(x, dy, w, (0, 0), 2).transpose(0, 1)
        return dx, dw


def _gradient_of_input(dy: Tensor, w: Tensor, size: Sequence[int], padding: tuple[int, int], stride: int) -> Tensor:
    """Return the gradient N,C,H,W of the input, whose size is H,W, from that of the result of `conv2d`."""
    w = w.transpose(0, 1)
    if stride == 1 and max(padding) <= 2:
        return conv2d(dy, w.flip([2, 3]), (2 - padding[0], 2 - padding[1]))

    # Pixels at the end that the convolution does not reach have no gradient.
    dx = conv2d_transposed(dy, w, stride)
    missing = [length + 2 * pad - got for length, pad, got in zip(size, padding, dx.shape[2:], strict=True)]
    return F.pad(dx, (-padding[1], missing[1] - padding[1], -padding[0], missing[0] - padding[0]))


def _gradient_of_weight(dy: Tensor, x: Tensor, w: Tensor, padding: tuple[int, int], stride: int) -> Tensor:
    """Return the gradient O,C,3,3 of the weight, from that of the result of `conv2d`."""
    # The kernel has no derivatives. It pays if the transforms of the weights are few beside the sums over all tiles.
    if stride == 1 and not torch.is_grad_enabled() and len(dy) * _tiles(dy.shape[2:]) >= MIN_TILES_OF_GRADIENT:
        x = x.contiguous(memory_format=torch.channels_last)
        return torch.ops.pix2pix3d.winograd_conv3x3_weight_gradient(dy, x, *padding)
    options = ([stride, stride], padding, [1, 1], False, [0, 0], 1)
    return torch.ops.aten.convolution_backward(dy, x, w, None, *options, [False, True, False])[1]
