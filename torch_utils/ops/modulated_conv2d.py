"""Convolution whose kernel is scaled anew for each sample."""

import torch
from torch import Tensor

from torch_utils.ops.conv2d_resample import conv2d_resample
from torch_utils.ops.upfirdn2d import Ints

DEMODULATION_EPS = 1e-8


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: Ints = 0,
    resample_filter: Tensor | None = None,
    demodulate: bool = True,
    flip_weight: bool = True,
    fused_modconv: bool = True,
) -> Tensor:
    """Scale input channels by `styles`, convolve, divide by the scaled kernel's norm, add noise.

    Karras et al. 2020, section 2.2 and appendix B.

    Args:
        x: N,C,H,W; memory format is kept.
        weight: O,C,kh,kw.
        styles: N,C factors.
        noise: broadcasts to the result, or None.
        up, down, padding, resample_filter, flip_weight: see `conv2d_resample`.
        demodulate: divide each output channel by the L2 norm of its scaled kernel.
        fused_modconv: scale the kernels instead of the images before and after: equal up to rounding. Several samples
            are then groups of one convolution, except on a CPU (slow) and in channels-last format (a copy): there
            the images are scaled all the same.
    Returns:
        N,O,H',W' in the type of x.
    Raises:
        ValueError: styles or weight do not fit x.
    Gradients of any order reach x, weight, styles and noise.
    """
    n, channels = x.shape[:2]
    if weight.ndim != 4 or weight.shape[1] != channels:
        raise ValueError(f"weight: expected O,{channels},kh,kw, got {tuple(weight.shape)} for x {tuple(x.shape)}")
    if styles.shape != (n, channels):
        raise ValueError(f"styles: expected {n},{channels}, got {tuple(styles.shape)} for x {tuple(x.shape)}")
    if x.dtype == torch.float16 and demodulate:
        weight, styles = _within_half_range(weight, styles)
    demod = _demodulation(weight, styles) if demodulate else None  # N,O
    resample = {"f": resample_filter, "up": up, "down": down, "padding": padding, "flip_weight": flip_weight}
    if fused_modconv and (n == 1 or (x.device.type != "cpu" and x.is_contiguous())):
        x = _scale_kernels(x, weight, styles, demod, resample)
    else:
        x = _scale_images(x, weight, styles, demod, resample)
    return x if noise is None else x.add_(noise.to(x.dtype))  # x is ours, and no gradient needs it


def _scale_kernels(x, weight, styles, demod, resample):
    n = x.shape[0]
    scale = styles[:, None, :] if demod is None else styles[:, None, :] * demod[:, :, None]  # N,O|1,C
    kernels = (weight * scale[..., None, None]).to(x.dtype)  # N,O,C,kh,kw
    if n == 1:  # no reshaping: PyTorch would see strides that it does not take for channels-last
        return conv2d_resample(x, kernels[0], **resample)
    x = conv2d_resample(x.reshape(1, -1, *x.shape[2:]), kernels.flatten(0, 1), groups=n, **resample)
    return x.reshape(n, -1, *x.shape[2:])


def _scale_images(x, weight, styles, demod, resample):
    x = conv2d_resample(x * styles.to(x.dtype)[:, :, None, None], weight.to(x.dtype), **resample)
    return x if demod is None else x * demod.to(x.dtype)[:, :, None, None]


def _demodulation(weight: Tensor, styles: Tensor) -> Tensor:
    """N,O factors that bring the norm of each scaled kernel to 1; the kernels themselves are not formed."""
    return (styles.square() @ weight.square().sum([2, 3]).T + DEMODULATION_EPS).rsqrt()


def _within_half_range(weight: Tensor, styles: Tensor) -> tuple[Tensor, Tensor]:
    """Scale so that no sum over C*kh*kw products overflows float16; demodulation takes the factors out again."""
    fan_in = weight[0].numel()
    tiny = torch.finfo(torch.float32).tiny  # a channel or sample of zeros stays zero
    weight = weight / (weight.abs().amax([1, 2, 3], keepdim=True).clamp_min(tiny) * fan_in**0.5)
    return weight, styles / styles.abs().amax(1, keepdim=True).clamp_min(tiny)
