"""2-D convolution, with a kernel for CPUs that needs a quarter of the multiplications for 3x3 weights."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_utils.ops.build import CPU_KERNELS, use_kernel

# Where the kernel is faster than PyTorch's convolution, as measured with tests/benchmarks/ops.py: transforms of input,
# result and weights must be few beside the products over channels. Smaller convolutions would gain less than compiling
# the kernel costs.
MIN_CHANNELS = 16
MIN_TILES = 16
MIN_MULTIPLICATIONS = 2**26
TILE = 4  # pixels of the result on a side


def conv2d(x: Tensor, w: Tensor, padding: tuple[int, int] = (0, 0), groups: int = 1, impl: str = "auto") -> Tensor:
    """Correlate x with w at every pixel, as `torch.nn.functional.conv2d` with stride 1.

    Without gradients, 3x3 weights in float32 on a CPU can be applied by a kernel, Winograd's F(4x4, 3x3) (Lavin and
    Gray 2016). Its rounding errors are about 1e-5 of the largest value of the result.

    Args:
        x: N,C,H,W; the memory format is kept.
        w: O,C/groups,kh,kw, type of x.
        padding: zeros added on both sides of the (y, x) axes.
        groups: groups of channels.
        impl: see `build.use_kernel`; auto: the kernel for sizes at which it is faster, in channels-last format.
    Returns:
        N,O,H+2*padding-kh+1,W+2*padding-kw+1.
    Raises:
        ValueError: impl "kernel", which the kernel does not support here.
        RuntimeError: the padded image is smaller than w (from PyTorch).
    Gradients of any order reach x and w, by PyTorch's convolution.
    """
    supported = _is_supported(x, w, padding, groups)
    if impl == "kernel" and not supported:
        raise ValueError(f"impl: no kernel for x {tuple(x.shape)} {x.dtype}, w {tuple(w.shape)}; use auto or ref")
    if supported and (impl != "auto" or _is_faster(x, w, padding)) and use_kernel(impl, x.device, CPU_KERNELS):
        x = x.contiguous(memory_format=torch.channels_last)
        return torch.ops.pix2pix3d.winograd_conv3x3(x, w.contiguous(), *padding)
    return F.conv2d(x, w, padding=padding, groups=groups)


def _is_supported(x: Tensor, w: Tensor, padding: tuple[int, int], groups: int) -> bool:
    """Whether the kernel computes this convolution."""
    if torch.is_grad_enabled() and (x.requires_grad or w.requires_grad):
        return False
    is_float = x.device.type == "cpu" and x.dtype == w.dtype == torch.float32
    fits = x.ndim == 4 and min(_output_size(x, padding)) > 0
    return is_float and fits and groups == 1 and w.shape[1:] == (x.shape[1], 3, 3)


def _is_faster(x: Tensor, w: Tensor, padding: tuple[int, int]) -> bool:
    """Whether the kernel is faster, from the sizes alone, so that results do not vary from run to run."""
    height, width = _output_size(x, padding)
    tiles = len(x) * math.ceil(height / TILE) * math.ceil(width / TILE)
    large = len(x) * height * width * w.numel() >= MIN_MULTIPLICATIONS
    suitable = min(w.shape[:2]) >= MIN_CHANNELS and tiles >= MIN_TILES
    return large and suitable and x.is_contiguous(memory_format=torch.channels_last)


def _output_size(x: Tensor, padding: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the result of 3x3 weights."""
    return x.shape[2] + 2 * padding[0] - 2, x.shape[3] + 2 * padding[1] - 2
