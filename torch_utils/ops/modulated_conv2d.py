"""Convolution whose kernel is modulated for each sample (StyleGAN2)."""

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
    """Scale input channels by `styles`, convolve, demodulate and add noise.

    Karras et al. 2020, section 2.2 and appendix B.

    Args:
        x: N,C,H,W; the memory format is kept.
        weight: O,C,kh,kw.
        styles: N,C factors.
        noise: broadcasts to the result, or None.
        up, down, padding, resample_filter, flip_weight: see `conv2d_resample`.
        demodulate: divide each output channel by the L2 norm of its scaled kernel.
        fused_modconv: scale the kernels instead of the images, which is equal up to rounding. Several samples then
            are groups of one convolution. That is slow on a CPU and makes a copy in channels-last format, so in both
            cases the images are scaled anyway.
    Returns:
        N,O,H',W' in the type of x.
    Raises:
        ValueError: wrong shape of styles or weight.
    Gradients of any order reach x, weight, styles and noise.
    """
    n, channels = x.shape[:2]
    if weight.ndim != 4 or weight.shape[1] != channels:
        raise ValueError(f"weight: expected O,{channels},kh,kw, got {tuple(weight.shape)} for x {tuple(x.shape)}")
    if styles.shape != (n, channels):
        raise ValueError(f"styles: expected {n},{channels}, got {tuple(styles.shape)} for x {tuple(x.shape)}")

    # Demodulation factors, from the weights alone, as if all channels of x had unit variance.
    if x.dtype == torch.float16 and demodulate:
        weight, styles = _normalize_for_half(weight, styles)
    demod = _demodulation(weight, styles) if demodulate else None  # N,O

    # Convolution, by the faster of two forms, see `fused_modconv`.
    resample = {"f": resample_filter, "up": up, "down": down, "padding": padding, "flip_weight": flip_weight}
    if fused_modconv and (n == 1 or (x.device.type != "cpu" and x.is_contiguous())):
        x = _scale_kernels(x, weight, styles, demod, resample)
    else:
        x = _scale_images(x, weight, styles, demod, resample)

    # In place, because x is a new tensor whose value no gradient needs.
    return x if noise is None else x.add_(noise.to(x.dtype))


def _scale_kernels(x, weight, styles, demod, resample):
    """Convolve each sample with its own kernel, N samples as N groups of one convolution."""
    # Kernels, one for each sample.
    n = x.shape[0]
    scale = styles[:, None, :]  # N,1,C
    if demod is not None:
        scale = scale * demod[:, :, None]  # N,O,C
    kernels = (weight * scale[..., None, None]).to(x.dtype)  # N,O,C,kh,kw

    # A single sample is not reshaped, because PyTorch would not recognize the new strides as channels-last.
    if n == 1:
        return conv2d_resample(x, kernels[0], **resample)

    # Samples as groups of channels.
    x = conv2d_resample(x.reshape(1, -1, *x.shape[2:]), kernels.flatten(0, 1), groups=n, **resample)  # 1,N*O,H',W'
    return x.reshape(n, -1, *x.shape[2:])


def _scale_images(x, weight, styles, demod, resample):
    """Convolve all samples with the same kernel, scaling their channels before and after."""
    x = conv2d_resample(x * styles.to(x.dtype)[:, :, None, None], weight.to(x.dtype), **resample)
    return x if demod is None else x * demod.to(x.dtype)[:, :, None, None]


def _demodulation(weight: Tensor, styles: Tensor) -> Tensor:
    """Return N,O reciprocal norms of the scaled kernels, without computing these; weight O,C,kh,kw, styles N,C."""
    return (styles.square() @ weight.square().sum([2, 3]).T + DEMODULATION_EPS).rsqrt()


def _normalize_for_half(weight: Tensor, styles: Tensor) -> tuple[Tensor, Tensor]:
    """Scale weight O,C,kh,kw and styles N,C so that sums do not overflow float16; demodulation cancels the factors."""
    # The largest weight of a kernel becomes 1/sqrt(fan-in), so that a sum over it stays near the magnitude of x.
    fan_in = weight[0].numel()
    # Keeps channels and samples of zeros at zero.
    tiny = torch.finfo(torch.float32).tiny
    weight = weight / (weight.abs().amax([1, 2, 3], keepdim=True).clamp_min(tiny) * fan_in**0.5)
    return weight, styles / styles.abs().amax(1, keepdim=True).clamp_min(tiny)
