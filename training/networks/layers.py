"""Layers and helpers shared by all networks (StyleGAN2, Karras et al. 2020, configuration F).

Every layer uses the equalized learning rate (Karras et al. 2018, section 4.1): weights are stored with unit variance
and multiplied by a constant gain when used, so that the optimizer's step size is the same for all layers. The order
in which parameters, buffers and submodules are registered is the order of the published weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torch_utils.ops.bias_act import ACTIVATIONS, bias_act
from torch_utils.ops.conv2d_resample import conv2d_resample
from torch_utils.ops.upfirdn2d import setup_filter

ARCHITECTURES = ("skip", "resnet", "orig")  # of blocks (Karras et al. 2020, figure 7)
FIR = (1, 3, 3, 1)  # low-pass filter used by every change of resolution
# Scales both branches of a residual block: the sum of two independent signals has twice the variance.
RESNET_GAIN = math.sqrt(0.5)


# --------------------------------------------------------------------------- helpers


def normalize_2nd_moment(x: Tensor, eps: float = 1e-8) -> Tensor:
    """Divide each row of x (N,C) by its root mean square."""
    # "Pixel norm" of Karras et al. 2018, section 4.2, on vectors.
    return x * (x.square().mean(dim=1, keepdim=True) + eps).rsqrt()


def block_resolutions(img_resolution: int, smallest: int = 4) -> list[int]:
    """List the powers of two from `smallest` to `img_resolution`, ascending.

    Raises:
        ValueError: img_resolution is not a power of two of at least `smallest`.
    """
    # A power of two shares no bit with the number below it.
    if img_resolution < smallest or img_resolution & (img_resolution - 1):
        raise ValueError(f"img_resolution: expected a power of two from {smallest} on, got {img_resolution}")
    return [2**k for k in range(smallest.bit_length() - 1, img_resolution.bit_length())]


def channels_at(resolution: int, channel_base: float, channel_max: int) -> int:
    """Number of channels at a resolution: min(channel_base // resolution, channel_max).

    Raises:
        ValueError: the result is below 1.
    """
    width = min(int(channel_base) // resolution, channel_max)
    if width < 1:
        raise ValueError(
            f"channel_base, channel_max: expected {resolution} and 1 or more for {resolution} pixels, "
            f"got {channel_base:g} and {channel_max}"
        )
    return width


def runs_in_fp16(resolution: int, img_resolution: int, num_fp16_res: int) -> bool:
    """Return whether a resolution is among the `num_fp16_res` highest; resolutions below 8 always use float32."""
    # The n highest resolutions are R, R/2, ... down to R / 2^(n-1).
    return resolution >= max(2 * img_resolution >> num_fp16_res, 8)


# --------------------------------------------------------------------------- layers


class FullyConnectedLayer(nn.Module):
    """Fully connected layer with activation: act(x (W g)^T + b lr), where g = lr / sqrt(in_features).

    Args:
        lr_multiplier: learning rate of this layer relative to the optimizer's; realized by the scale of the
            stored weights.
        bias_init: initial value of the stored bias.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        activation: str = "linear",
        lr_multiplier: float = 1,
        bias_init: float = 0,
    ):
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation: expected one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        self.activation = activation

        # Adam's steps do not depend on the scale of the gradients, so weights stored larger by 1 / lr_multiplier learn
        # slower by lr_multiplier.
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full([out_features], float(bias_init))) if bias else None
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        """Map x of shape ...,in_features to ...,out_features."""
        # Gains are applied in float32, before the weights are rounded to the working precision.
        weight = (self.weight * self.weight_gain).to(x.dtype)
        bias = None if self.bias is None else (self.bias * self.bias_gain).to(x.dtype)

        # Without an activation, the bias is fused into the matrix product.
        if self.activation == "linear":
            return F.linear(x, weight, bias)
        return bias_act(F.linear(x, weight), bias, dim=x.ndim - 1, act=self.activation)


class Conv2dLayer(nn.Module):
    """Convolution with optional resampling by a factor, bias, activation, gain and clamp.

    Args:
        up, down: integer factors; the signal is low-pass filtered by `resample_filter`.
        conv_clamp: bound of the output's magnitude, None for no bound; scaled by the gain given to `forward`.
        trainable: False stores weight and bias as buffers (frozen layers).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        bias: bool = True,
        activation: str = "linear",
        up: int = 1,
        down: int = 1,
        resample_filter: Sequence[float] = FIR,
        conv_clamp: float | None = None,
        trainable: bool = True,
    ):
        super().__init__()
        self.activation = activation
        self.up = up
        self.down = down
        self.conv_clamp = conv_clamp
        self.padding = kernel_size // 2
        # He et al. 2015 without its factor sqrt(2), which is in the gain of the activation.
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.act_gain = ACTIVATIONS[activation].gain
        # Registered even where neither up nor down needs it: published weights contain it.
        self.register_buffer("resample_filter", setup_filter(resample_filter))

        # Frozen layers store buffers, so that optimizers do not see them.
        weight = torch.randn(out_channels, in_channels, kernel_size, kernel_size)
        initial_bias = torch.zeros(out_channels) if bias else None
        if trainable:
            self.weight = nn.Parameter(weight)
            self.bias = None if initial_bias is None else nn.Parameter(initial_bias)
        else:
            self.register_buffer("weight", weight)
            self.register_buffer("bias", initial_bias)

    def forward(self, x: Tensor, gain: float = 1) -> Tensor:
        """Map x (N,in_channels,H,W) to N,out_channels,H*up/down,W*up/down."""
        weight = (self.weight * self.weight_gain).to(x.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)

        # Published upsampling layers store kernels of a true convolution, all others of a correlation.
        flip_weight = self.up == 1
        resampling = {"f": self.resample_filter, "up": self.up, "down": self.down}
        x = conv2d_resample(x, weight, **resampling, padding=self.padding, flip_weight=flip_weight)

        # A gain on the output scales its bound too.
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        return bias_act(x, bias, act=self.activation, gain=self.act_gain * gain, clamp=clamp)


class EqualConv2d(nn.Module):
    """Plain convolution with equalized learning rate, used by the label-map encoder."""

    def __init__(
        self, in_channel: int, out_channel: int, kernel_size: int, stride: int = 1, padding: int = 0, bias: bool = True
    ):
        super().__init__()
        self.stride = stride
        self.padding = padding
        self.weight = nn.Parameter(torch.randn(out_channel, in_channel, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channel)) if bias else None
        self.weight_gain = 1 / math.sqrt(in_channel * kernel_size**2)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x (N,in_channel,H,W) to N,out_channel,H',W'."""
        # Always float32, and the bias has no gain.
        weight = self.weight * self.weight_gain

        # A kernel that covers the whole input is a matrix product, without copies of the weights into a format for
        # convolutions: on a CPU 2.7 times as fast, gradients included.
        if x.shape[2:] == weight.shape[2:] and self.padding == 0:
            return F.linear(x.flatten(1), weight.flatten(1), self.bias)[:, :, None, None]
        return F.conv2d(x, weight, self.bias, stride=self.stride, padding=self.padding)
