"""Layers, mapping and synthesis networks of StyleGAN2 (Karras et al. 2020, configuration F).

Weights are stored at unit variance and scaled when used ("equalized learning rate"), so every layer learns at the
same speed. The order in which parameters, buffers and sub-modules are made is the order of published weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torch_utils.ops.bias_act import ACTIVATIONS, bias_act
from torch_utils.ops.conv2d_resample import conv2d_resample
from torch_utils.ops.modulated_conv2d import modulated_conv2d
from torch_utils.ops.upfirdn2d import setup_filter, upsample2d
from torch_utils.precision import Precision

FIR = (1, 3, 3, 1)  # the low-pass filter of every change of resolution
NOISE_MODES = ("random", "const", "none")
RESNET_GAIN = math.sqrt(0.5)  # each of two summed branches, so that their sum keeps its variance


def normalize_2nd_moment(x: Tensor, eps: float = 1e-8) -> Tensor:
    """Divide each row of x (N,C) by its root mean square."""
    return x * (x.square().mean(dim=1, keepdim=True) + eps).rsqrt()


def block_resolutions(img_resolution: int, smallest: int = 4) -> list[int]:
    """Powers of two from `smallest` to `img_resolution`, ascending.

    Raises:
        ValueError: img_resolution is not a power of two of at least `smallest`.
    """
    if img_resolution < smallest or img_resolution & (img_resolution - 1):
        raise ValueError(f"img_resolution: expected a power of two from {smallest} on, got {img_resolution}")
    return [2**k for k in range(smallest.bit_length() - 1, img_resolution.bit_length())]


def channels_at(resolution: int, channel_base: float, channel_max: int) -> int:
    """Width of a network at a resolution.

    Raises:
        ValueError: no channel would be left.
    """
    width = min(int(channel_base) // resolution, channel_max)
    if width < 1:
        raise ValueError(
            f"channel_base, channel_max: expected {resolution} and 1 or more for {resolution} pixels, "
            f"got {channel_base:g} and {channel_max}"
        )
    return width


def runs_in_fp16(resolution: int, img_resolution: int, num_fp16_res: int) -> bool:
    """Whether a resolution is among the `num_fp16_res` highest (those below 8 never are)."""
    return resolution >= max(2 * img_resolution >> num_fp16_res, 8)


class FullyConnectedLayer(nn.Module):
    """y = act(x W^T g + b lr), g = lr / sqrt(in); x is ...,in_features.

    Args:
        lr_multiplier: the layer's learning rate relative to the optimizer's, by way of the stored weights' scale.
        bias_init: start value of the bias as stored.
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
        self.activation = activation
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full([out_features], float(bias_init))) if bias else None
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        weight = (self.weight * self.weight_gain).to(x.dtype)
        bias = None if self.bias is None else (self.bias * self.bias_gain).to(x.dtype)
        if self.activation == "linear":
            return F.linear(x, weight, bias)
        return bias_act(F.linear(x, weight), bias, dim=x.ndim - 1, act=self.activation)


class Conv2dLayer(nn.Module):
    """Convolution with bias, activation, gain and clamp, optionally between a change of resolution by 2.

    Args:
        up, down: integer factors; the signal is low-passed by `resample_filter`.
        conv_clamp: bound of the output's magnitude, None for no bound; a gain given at the call scales it.
        trainable: False keeps weight and bias as buffers (frozen layers).
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
        self.activation, self.up, self.down, self.conv_clamp = activation, up, down, conv_clamp
        self.padding = kernel_size // 2
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.act_gain = ACTIVATIONS[activation].gain
        self.register_buffer("resample_filter", setup_filter(resample_filter))
        weight = torch.randn(out_channels, in_channels, kernel_size, kernel_size)
        start = torch.zeros(out_channels) if bias else None
        if trainable:
            self.weight = nn.Parameter(weight)
            self.bias = None if start is None else nn.Parameter(start)
        else:
            self.register_buffer("weight", weight)
            self.register_buffer("bias", start)

    def forward(self, x: Tensor, gain: float = 1) -> Tensor:
        weight = (self.weight * self.weight_gain).to(x.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        x = conv2d_resample(
            x,
            weight,
            f=self.resample_filter,
            up=self.up,
            down=self.down,
            padding=self.padding,
            flip_weight=self.up == 1,
        )
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        return bias_act(x, bias, act=self.activation, gain=self.act_gain * gain, clamp=clamp)


class MappingNetwork(nn.Module):
    """z (and an embedded condition c) to the style space W.

    Args:
        z_dim: size of the latent, 0 for none. c_dim: size of the condition, 0 for none.
        num_ws: copies of the result along a new axis, None for N,w_dim.
        w_avg_beta: decay of the tracked mean of w, None to track none.
        extra: modules of a derived class, registered between `embed` and `fc0` as published weights have them.
        extra_features: size of the vector that a derived class puts between z and the condition.
        average_shape: of the tracked mean, None for w_dim.
    """

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int | None,
        num_layers: int = 8,
        embed_features: int | None = None,
        layer_features: int | None = None,
        activation: str = "lrelu",
        lr_multiplier: float = 0.01,
        w_avg_beta: float | None = 0.998,
        extra: Mapping[str, nn.Module] | None = None,
        extra_features: int = 0,
        average_shape: Sequence[int] | None = None,
    ):
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim, self.num_ws = z_dim, c_dim, w_dim, num_ws
        self.num_layers, self.w_avg_beta = num_layers, w_avg_beta
        if z_dim + c_dim + extra_features <= 0:
            raise ValueError("z_dim, c_dim: expected one of them above 0, got 0 and 0")
        embed_features = (w_dim if embed_features is None else embed_features) if c_dim > 0 else 0
        layer_features = w_dim if layer_features is None else layer_features
        if num_ws is not None and w_avg_beta is not None:
            self.register_buffer("w_avg", torch.zeros(average_shape or [w_dim]))
        if c_dim > 0:
            self.embed = FullyConnectedLayer(c_dim, embed_features)
        for name, module in (extra or {}).items():
            self.add_module(name, module)
        widths = [z_dim + extra_features + embed_features, *[layer_features] * (num_layers - 1), w_dim]
        for i, (n_in, n_out) in enumerate(pairwise(widths)):
            self.add_module(
                f"fc{i}", FullyConnectedLayer(n_in, n_out, activation=activation, lr_multiplier=lr_multiplier)
            )

    def fully_connected(self, z: Tensor | None, c: Tensor | None, extra: Tensor | None = None) -> Tensor:
        """N,w_dim from z (N,z_dim), an already normalized extra vector and c (N,c_dim), in that order."""
        parts = []
        if self.z_dim > 0:
            if z is None or z.ndim != 2 or z.shape[1] != self.z_dim:
                raise ValueError(f"z: expected N,{self.z_dim}, got {None if z is None else tuple(z.shape)}")
            parts.append(normalize_2nd_moment(z.to(torch.float32)))
        if extra is not None:
            parts.append(extra)
        if self.c_dim > 0:
            if c is None or c.ndim != 2 or c.shape[1] != self.c_dim:
                raise ValueError(f"c: expected N,{self.c_dim}, got {None if c is None else tuple(c.shape)}")
            parts.append(normalize_2nd_moment(self.embed(c.to(torch.float32))))
        x = torch.cat(parts, dim=1)
        for i in range(self.num_layers):
            x = getattr(self, f"fc{i}")(x)
        return x

    def track(self, w: Tensor) -> None:
        """Move the tracked mean, if there is one, towards the mean of w over the batch."""
        if hasattr(self, "w_avg"):
            self.w_avg.copy_(w.detach().mean(dim=0).lerp(self.w_avg, self.w_avg_beta))

    def truncate(self, ws: Tensor, psi: float, cutoff: int | None) -> Tensor:
        """Pull ws (N,num_ws,w_dim) towards the tracked mean; only the first `cutoff` of them where it is given."""
        if psi == 1:
            return ws
        if not hasattr(self, "w_avg"):
            raise ValueError("truncation_psi: this mapping network tracks no mean, so only 1 is possible")
        cutoff = self.num_ws if cutoff is None else cutoff
        near = self.w_avg.expand(self.num_ws, self.w_dim).lerp(ws, psi)
        return torch.cat([near[:, :cutoff], ws[:, cutoff:]], dim=1)

    def forward(
        self,
        z: Tensor | None,
        c: Tensor | None,
        truncation_psi: float = 1,
        truncation_cutoff: int | None = None,
        update_emas: bool = False,
    ) -> Tensor:
        w = self.fully_connected(z, c)
        if update_emas:
            self.track(w)
        if self.num_ws is None:
            return w
        ws = w.unsqueeze(1).repeat(1, self.num_ws, 1)
        return self.truncate(ws, truncation_psi, truncation_cutoff)


class SynthesisLayer(nn.Module):
    """Modulated convolution, noise, bias and activation.

    Args:
        resolution: of the output; fixes the size of the constant noise.
        up: factor of upsampling before the convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        kernel_size: int = 3,
        up: int = 1,
        use_noise: bool = True,
        activation: str = "lrelu",
        resample_filter: Sequence[float] = FIR,
        conv_clamp: float | None = None,
    ):
        super().__init__()
        self.resolution, self.up, self.use_noise = resolution, up, use_noise
        self.activation, self.conv_clamp, self.padding = activation, conv_clamp, kernel_size // 2
        self.act_gain = ACTIVATIONS[activation].gain
        self.register_buffer("resample_filter", setup_filter(resample_filter))
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        if use_noise:
            self.register_buffer("noise_const", torch.randn(resolution, resolution))
            self.noise_strength = nn.Parameter(torch.zeros([]))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def noise(self, batch: int, mode: str) -> Tensor | None:
        """N,1,H,W, 1,1,H,W or None. Raises ValueError for an unknown mode."""
        if mode not in NOISE_MODES:
            raise ValueError(f"noise_mode: expected random, const or none, got {mode!r}")
        if not self.use_noise or mode == "none":
            return None
        if mode == "const":
            return (self.noise_const * self.noise_strength)[None, None]
        shape = [batch, 1, self.resolution, self.resolution]
        return torch.randn(shape, device=self.bias.device) * self.noise_strength

    def forward(
        self, x: Tensor, w: Tensor, noise_mode: str = "random", fused_modconv: bool = True, gain: float = 1
    ) -> Tensor:
        x = modulated_conv2d(
            x,
            self.weight,
            self.affine(w),
            noise=self.noise(len(x), noise_mode),
            up=self.up,
            padding=self.padding,
            resample_filter=self.resample_filter,
            flip_weight=self.up == 1,
            fused_modconv=fused_modconv,
        )
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        return bias_act(x, self.bias.to(x.dtype), act=self.activation, gain=self.act_gain * gain, clamp=clamp)


class ToRGBLayer(nn.Module):
    """Modulated 1x1 convolution without demodulation: features to image channels."""

    def __init__(
        self, in_channels: int, out_channels: int, w_dim: int, kernel_size: int = 1, conv_clamp: float | None = None
    ):
        super().__init__()
        self.conv_clamp = conv_clamp
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor, w: Tensor, fused_modconv: bool = True) -> Tensor:
        styles = self.affine(w) * self.weight_gain
        x = modulated_conv2d(x, self.weight, styles, demodulate=False, fused_modconv=fused_modconv)
        return bias_act(x, self.bias.to(x.dtype), clamp=self.conv_clamp)


class SynthesisBlock(nn.Module):
    """One resolution of a synthesis network: (constant | convolution), convolution, to-RGB.

    Args:
        in_channels: 0 makes the block start from a learned constant.
        up: 2 doubles the resolution in the first convolution and of the image; 1 keeps both.
        architecture: skip (images summed over resolutions), resnet (features summed), orig.
        fused_modconv_default: True, False, or "inference_only" (fused in eval mode).
        use_fp16: computed in float16 on CUDA, unless the module's `precision` says otherwise.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        img_channels: int,
        is_last: bool,
        architecture: str = "skip",
        resample_filter: Sequence[float] = FIR,
        conv_clamp: float | None = 256,
        use_fp16: bool = False,
        fused_modconv_default: bool | str = True,
        use_noise: bool = True,
        activation: str = "lrelu",
        up: int = 2,
    ):
        super().__init__()
        if architecture not in ("skip", "resnet", "orig"):
            raise ValueError(f"architecture: expected skip, resnet or orig, got {architecture!r}")
        self.in_channels, self.w_dim, self.resolution, self.up = in_channels, w_dim, resolution, up
        self.architecture, self.fused_modconv_default = architecture, fused_modconv_default
        self.precision = Precision(use_fp16, clamps=conv_clamp is not None)
        self.register_buffer("resample_filter", setup_filter(resample_filter))
        layer = {
            "w_dim": w_dim,
            "resolution": resolution,
            "conv_clamp": conv_clamp,
            "use_noise": use_noise,
            "activation": activation,
            "resample_filter": resample_filter,
        }
        if in_channels == 0:
            self.const = nn.Parameter(torch.randn(out_channels, resolution, resolution))
        else:
            self.conv0 = SynthesisLayer(in_channels, out_channels, up=up, **layer)
        self.conv1 = SynthesisLayer(out_channels, out_channels, **layer)
        self.num_conv = 1 if in_channels == 0 else 2
        self.num_torgb = int(is_last or architecture == "skip")
        if self.num_torgb:
            self.torgb = ToRGBLayer(out_channels, img_channels, w_dim, conv_clamp=conv_clamp)
        if in_channels > 0 and architecture == "resnet":
            self.skip = Conv2dLayer(in_channels, out_channels, 1, bias=False, up=up, resample_filter=resample_filter)

    def forward(
        self,
        x: Tensor | None,
        img: Tensor | None,
        ws: Tensor,
        noise_mode: str = "random",
        fused_modconv: bool | None = None,
        force_fp32: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Features and image of this resolution.

        Args:
            x: N,in_channels,H/up,W/up, None for the first block. img: N,img_channels,H/up,W/up float32 or None.
            ws: N,num_conv+num_torgb,w_dim.
        """
        if ws.ndim != 3 or ws.shape[1:] != (self.num_conv + self.num_torgb, self.w_dim):
            raise ValueError(f"ws: expected N,{self.num_conv + self.num_torgb},{self.w_dim}, got {tuple(ws.shape)}")
        if fused_modconv is None:
            default = self.fused_modconv_default
            fused_modconv = not self.training if default == "inference_only" else bool(default)
        w = iter(ws.unbind(dim=1))
        like = self.precision.format(ws.device, force_fp32)
        layer = {"noise_mode": noise_mode, "fused_modconv": fused_modconv}
        if self.in_channels == 0:
            x = self.const.expand(len(ws), *self.const.shape).to(**like)
            x = self.conv1(x, next(w), **layer)
        elif self.architecture == "resnet":
            x = x.to(**like)
            y = self.skip(x, gain=RESNET_GAIN)
            x = self.conv1(self.conv0(x, next(w), **layer), next(w), gain=RESNET_GAIN, **layer) + y
        else:
            x = self.conv1(self.conv0(x.to(**like), next(w), **layer), next(w), **layer)
        if img is not None and self.up > 1:
            img = upsample2d(img, self.resample_filter, up=self.up)
        if self.num_torgb:
            y = self.torgb(x, next(w), fused_modconv=fused_modconv).to(torch.float32)
            img = y if img is None else img + y
        return x, img


class SynthesisNetwork(nn.Module):
    """ws to an image, resolution by resolution from 4x4.

    Args:
        channel_base, channel_max: width at resolution r is min(channel_base // r, channel_max).
        num_fp16_res: how many of the highest resolutions run in float16 on CUDA.
    """

    def __init__(
        self,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        channel_base: int = 32768,
        channel_max: int = 512,
        num_fp16_res: int = 4,
        conv_clamp: float | None = 256,
        architecture: str = "skip",
        fused_modconv_default: bool | str = True,
        resample_filter: Sequence[float] = FIR,
        use_noise: bool = True,
        activation: str = "lrelu",
    ):
        super().__init__()
        self.w_dim, self.img_resolution, self.img_channels = w_dim, img_resolution, img_channels
        self.resolutions = block_resolutions(img_resolution)
        in_channels, convs = 0, 0
        for res in self.resolutions:
            out_channels = channels_at(res, channel_base, channel_max)
            block = SynthesisBlock(
                in_channels,
                out_channels,
                w_dim,
                res,
                img_channels,
                is_last=res == img_resolution,
                architecture=architecture,
                conv_clamp=conv_clamp,
                fused_modconv_default=fused_modconv_default,
                resample_filter=resample_filter,
                use_noise=use_noise,
                activation=activation,
                use_fp16=runs_in_fp16(res, img_resolution, num_fp16_res),
            )
            self.add_module(f"b{res}", block)
            in_channels, convs = out_channels, convs + block.num_conv
        self.num_ws = convs + block.num_torgb

    def forward(
        self, ws: Tensor, noise_mode: str = "random", fused_modconv: bool | None = None, force_fp32: bool = False
    ) -> Tensor:
        """N,img_channels,R,R float32 from ws N,num_ws,w_dim."""
        if ws.ndim != 3 or ws.shape[1:] != (self.num_ws, self.w_dim):
            raise ValueError(f"ws: expected N,{self.num_ws},{self.w_dim}, got {tuple(ws.shape)}")
        ws = ws.to(torch.float32)
        x = img = None
        first = 0
        for res in self.resolutions:
            block = getattr(self, f"b{res}")
            own = ws.narrow(1, first, block.num_conv + block.num_torgb)  # to-RGB peeks at the next block's first
            x, img = block(x, img, own, noise_mode, fused_modconv, force_fp32)
            first += block.num_conv
        return img
