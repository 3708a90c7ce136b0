"""Synthesis network of StyleGAN2 and its generator, which renders tri-planes as an image (Karras et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from torch_utils.ops.bias_act import ACTIVATIONS, bias_act
from torch_utils.ops.modulated_conv2d import modulated_conv2d
from torch_utils.ops.upfirdn2d import setup_filter, upsample2d
from torch_utils.precision import Precision
from training.networks.label_encoder import MAPPINGS
from training.networks.layers import (
    ARCHITECTURES,
    FIR,
    RESNET_GAIN,
    Conv2dLayer,
    FullyConnectedLayer,
    block_resolutions,
    channels_at,
    runs_in_fp16,
)
from training.networks.mapping import MappingNetwork

NOISE_MODES = ("random", "const", "none")


def count_ws(resolution: int) -> int:
    """Number of style vectors of a synthesis network: one per convolution, and one for the last to-RGB layer."""
    # Two convolutions at each of log2(resolution) - 1 resolutions, but one at 4x4.
    return 2 * int(math.log2(resolution)) - 2


# --------------------------------------------------------------------------- layers


class SynthesisLayer(nn.Module):
    """Modulated convolution with noise, bias and activation.

    Args:
        resolution: of the output; fixes the size of the constant noise.
        up: factor of upsampling before the convolution.
        conv_clamp: bound of the output's magnitude, None for no bound; scaled by the gain given to `forward`.
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
        self.resolution = resolution
        self.up = up
        self.use_noise = use_noise
        self.activation = activation
        self.conv_clamp = conv_clamp
        self.padding = kernel_size // 2
        self.act_gain = ACTIVATIONS[activation].gain
        self.register_buffer("resample_filter", setup_filter(resample_filter))

        # Modulated convolution; a style of 1, the initial value of the affine layer's bias, modulates nothing.
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))

        # Per-pixel noise with a learned strength, which starts at 0 (Karras et al. 2019, section 3.2). The constant
        # noise belongs to the weights, so that equal calls give equal images on every machine.
        if use_noise:
            self.register_buffer("noise_const", torch.randn(resolution, resolution))
            self.noise_strength = nn.Parameter(torch.zeros([]))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def noise(self, batch: int, mode: str) -> Tensor | None:
        """Noise to add: N,1,H,W (random), 1,1,H,W (const) or None. Raises ValueError for an unknown mode."""
        if mode not in NOISE_MODES:
            raise ValueError(f"noise_mode: expected random, const or none, got {mode!r}")
        if not self.use_noise or mode == "none":
            return None

        # The same noise for all samples, or independent noise. Videos and meshes take the former: noise that changed
        # between two views of a scene would change its geometry.
        if mode == "const":
            return (self.noise_const * self.noise_strength)[None, None]
        shape = [batch, 1, self.resolution, self.resolution]
        return torch.randn(shape, device=self.bias.device) * self.noise_strength

    def forward(
        self, x: Tensor, w: Tensor, noise_mode: str = "random", fused_modconv: bool = True, gain: float = 1
    ) -> Tensor:
        """Map x (N,in_channels,H/up,W/up) with styles from w (N,w_dim) to N,out_channels,H,W."""
        # Convolution with the weights w' of Karras et al. 2020, eq. 1 (modulation) and eq. 3 (demodulation).
        x = modulated_conv2d(
            x,
            self.weight,
            self.affine(w),  # styles N,in_channels
            noise=self.noise(len(x), noise_mode),
            up=self.up,
            padding=self.padding,
            resample_filter=self.resample_filter,
            flip_weight=self.up == 1,  # see Conv2dLayer
            fused_modconv=fused_modconv,
        )

        # A gain on the output scales its bound too.
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        options = {"act": self.activation, "gain": self.act_gain * gain, "clamp": clamp}
        return bias_act(x, self.bias.to(x.dtype), **options, overwrite=True)


class ToRGBLayer(nn.Module):
    """Modulated 1x1 convolution without demodulation, from features to image channels."""

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
        """Map x (N,in_channels,H,W) with styles from w (N,w_dim) to N,out_channels,H,W."""
        # Demodulation would remove any gain of the weights. Without it, the equalized learning rate needs the gain; it
        # is applied to the styles, which are fewer.
        styles = self.affine(w) * self.weight_gain  # N,in_channels
        x = modulated_conv2d(x, self.weight, styles, demodulate=False, fused_modconv=fused_modconv)
        return bias_act(x, self.bias.to(x.dtype), clamp=self.conv_clamp, overwrite=True)


# --------------------------------------------------------------------------- networks


class SynthesisBlock(nn.Module):
    """One resolution of a synthesis network: constant or convolution, convolution, to-RGB (Karras et al. 2020, fig. 7).

    Args:
        in_channels: 0 makes the block start from a learned constant.
        up: 2 doubles the resolution of the features (in the first convolution) and of the image; 1 keeps both.
        architecture: skip (images summed over resolutions), resnet (residual features) or orig (neither).
        conv_clamp: bound of the outputs' magnitude, which keeps float16 from overflowing; None for no bound.
        use_fp16: compute in float16 on CUDA, unless the block's `precision` is set otherwise.
        fused_modconv_default: whether styles scale the weights, in one grouped convolution, instead of the
            activations: True, False, or "inference_only" (in eval mode alone).
        layer_kwargs: further arguments of SynthesisLayer: use_noise, activation.
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
        up: int = 2,
        **layer_kwargs,
    ):
        super().__init__()
        self.in_channels = in_channels
        self.up = up
        if architecture not in ARCHITECTURES:
            raise ValueError(f"architecture: got {architecture!r}, expected one of {', '.join(ARCHITECTURES)}")
        self.architecture = architecture
        self.fused_modconv_default = fused_modconv_default
        self.precision = Precision(use_fp16, clamps=conv_clamp is not None)
        self.register_buffer("resample_filter", setup_filter(resample_filter))

        # Number of style vectors that the block takes. Only skip architectures have a to-RGB layer at every resolution.
        self.num_conv = 1 if in_channels == 0 else 2
        self.num_torgb = int(is_last or architecture == "skip")

        # Layers, in the order of the published weights. The first block starts from a constant, not from z: all
        # variation enters through the styles (Karras et al. 2019, section 2).
        layer_kwargs = {"conv_clamp": conv_clamp, "resample_filter": resample_filter, **layer_kwargs}
        if in_channels == 0:
            self.const = nn.Parameter(torch.randn(out_channels, resolution, resolution))
        else:
            self.conv0 = SynthesisLayer(in_channels, out_channels, w_dim, resolution, up=up, **layer_kwargs)
        self.conv1 = SynthesisLayer(out_channels, out_channels, w_dim, resolution, **layer_kwargs)
        if self.num_torgb:
            self.torgb = ToRGBLayer(out_channels, img_channels, w_dim, conv_clamp=conv_clamp)
        if in_channels > 0 and architecture == "resnet":
            self.skip = Conv2dLayer(in_channels, out_channels, 1, bias=False, up=up, resample_filter=resample_filter)

    def forward(
        self, x: Tensor | None, img: Tensor | None, ws: Tensor, noise_mode: str = "random"
    ) -> tuple[Tensor, Tensor | None]:
        """Compute features and image at this block's resolution.

        Args:
            x: features N,in_channels,H/up,W/up, None for the first block.
            img: image N,img_channels,H/up,W/up in float32, or None.
            ws: N,num_conv+num_torgb,w_dim.
            noise_mode: random, const or none.
        Returns:
            Features N,out_channels,H,W; image N,img_channels,H,W in float32, or None.
        """
        # Precision, form of the modulated convolutions, and style vectors. Grouped convolutions (fused) need one pass
        # over the activations less, but a copy of the weights per sample, which training would keep for the backward
        # pass; both forms are exact.
        number_format = self.precision.format(ws.device)
        fused_modconv = self.fused_modconv_default
        if fused_modconv == "inference_only":
            fused_modconv = not self.training
        options = {"noise_mode": noise_mode, "fused_modconv": fused_modconv}
        w = iter(ws.unbind(dim=1))  # one N,w_dim for each layer, in order

        # Features N,out_channels,H,W. The residual branch skips both convolutions.
        if self.in_channels == 0:
            x = self.const.expand(len(ws), *self.const.shape).to(**number_format)
            x = self.conv1(x, next(w), **options)
        elif self.architecture == "resnet":
            x = x.to(**number_format)
            y = self.skip(x, gain=RESNET_GAIN)
            x = self.conv0(x, next(w), **options)
            x = self.conv1(x, next(w), gain=RESNET_GAIN, **options) + y
        else:
            x = self.conv0(x.to(**number_format), next(w), **options)
            x = self.conv1(x, next(w), **options)

        # Image N,img_channels,H,W: upsample the previous resolution's and add this one's. The sum is in float32, since
        # float16 would lose the small contributions of high resolutions.
        if img is not None and self.up > 1:
            img = upsample2d(img, self.resample_filter, up=self.up)
        if self.num_torgb:
            y = self.torgb(x, next(w), fused_modconv=fused_modconv).to(torch.float32)
            img = y if img is None else img + y
        return x, img


class SynthesisNetwork(nn.Module):
    """Synthesis network: style vectors ws to an image, one block per resolution from 4x4 upwards.

    Args:
        channel_base, channel_max: the width at resolution r is min(channel_base // r, channel_max).
        num_fp16_res: number of the highest resolutions that run in float16 on CUDA.
        architecture: skip, resnet or orig.
        block_kwargs: further arguments of SynthesisBlock: conv_clamp, fused_modconv_default, ...
    """

    def __init__(
        self,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        channel_base: int = 32768,
        channel_max: int = 512,
        num_fp16_res: int = 4,
        **block_kwargs,
    ):
        super().__init__()
        self.w_dim = w_dim

        # One block per resolution, of which only the last one's to-RGB layer has its own style vector: 14 vectors in
        # all for 256 pixels.
        self.resolutions = block_resolutions(img_resolution)
        self.num_ws = 0
        in_channels = 0
        for res in self.resolutions:
            out_channels = channels_at(res, channel_base, channel_max)
            is_last = res == img_resolution
            use_fp16 = runs_in_fp16(res, img_resolution, num_fp16_res)
            block = SynthesisBlock(
                in_channels, out_channels, w_dim, res, img_channels, is_last, use_fp16=use_fp16, **block_kwargs
            )
            self.add_module(f"b{res}", block)
            self.num_ws += block.num_conv + (block.num_torgb if is_last else 0)
            in_channels = out_channels

    def forward(self, ws: Tensor, noise_mode: str = "random") -> Tensor:
        """Generate an image N,img_channels,R,R in float32 from ws (N,num_ws,w_dim).

        Raises:
            ValueError: ws of another shape.
        """
        if ws.ndim != 3 or ws.shape[1:] != (self.num_ws, self.w_dim):
            raise ValueError(f"ws: expected N,{self.num_ws},{self.w_dim}, got {tuple(ws.shape)}")

        # Features x and image img, from 4x4 upwards. Styles stay in float32; blocks convert their activations only.
        ws = ws.to(torch.float32)
        x = img = None
        first = 0
        for res in self.resolutions:
            block = getattr(self, f"b{res}")
            # A block's to-RGB layer shares its style vector with the first convolution of the next block.
            # The last block has no next one, so its to-RGB layer adds one vector to num_ws.
            block_ws = ws.narrow(1, first, block.num_conv + block.num_torgb)
            x, img = block(x, img, block_ws, noise_mode)
            first += block.num_conv
        return img


class Generator(nn.Module):
    """StyleGAN2 generator: a mapping and a synthesis network.

    Args:
        mapping_kwargs: arguments of the mapping network; `class_name` (last component of a dotted name) selects
            a conditional one of `label_encoder.MAPPINGS`.
        synthesis_kwargs: arguments of SynthesisNetwork.
    Raises:
        ValueError: unknown class_name.
    """

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        mapping_kwargs: Mapping | None = None,
        **synthesis_kwargs,
    ):
        super().__init__()
        # The synthesis network comes first in published weights, and initial values are generated in that order.
        self.synthesis = SynthesisNetwork(w_dim, img_resolution, img_channels, **synthesis_kwargs)
        self.num_ws = self.synthesis.num_ws

        # Mapping network, conditional or not. Published arguments name its class with a module path that differs from
        # ours, so only the last component counts.
        mapping_kwargs = dict(mapping_kwargs or {})
        class_name = (mapping_kwargs.pop("class_name", None) or "MappingNetwork").rsplit(".", 1)[-1]
        mappings = {"MappingNetwork": MappingNetwork, **MAPPINGS}
        if class_name not in mappings:
            raise ValueError(f"mapping class_name: expected one of {', '.join(mappings)}, got {class_name!r}")
        self.mapping = mappings[class_name](z_dim, c_dim, w_dim, self.num_ws, **mapping_kwargs)

    def forward(self, z: Tensor, c: Tensor | None, *, noise_mode: str = "random", **mapping_options) -> Tensor:
        """Generate an image N,img_channels,R,R from z (N,z_dim) and c (N,c_dim), without a label map.

        Args:
            mapping_options: truncation_psi, truncation_cutoff and update_emas of the mapping network.
        """
        return self.synthesis(self.mapping(z, c, **mapping_options), noise_mode)
