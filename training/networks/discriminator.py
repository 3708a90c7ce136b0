"""The discriminator of StyleGAN2 (Karras et al. 2020, configuration F)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torch_utils.ops.upfirdn2d import downsample2d, setup_filter
from torch_utils.precision import Precision, working_format
from training.networks.synthesis import (
    FIR,
    RESNET_GAIN,
    Conv2dLayer,
    FullyConnectedLayer,
    MappingNetwork,
    block_resolutions,
    channels_at,
    runs_in_fp16,
)


class DiscriminatorBlock(nn.Module):
    """One resolution of a discriminator: (from-RGB), convolution, convolution down by 2.

    Args:
        in_channels: 0 for the block that reads the image.
        first_layer_idx: number of layers before this block; those with an index below `freeze_layers` are buffers.
    """

    def __init__(
        self,
        in_channels: int,
        tmp_channels: int,
        out_channels: int,
        resolution: int,
        img_channels: int,
        first_layer_idx: int,
        architecture: str = "resnet",
        activation: str = "lrelu",
        resample_filter: Sequence[float] = FIR,
        conv_clamp: float | None = None,
        use_fp16: bool = False,
        freeze_layers: int = 0,
    ):
        super().__init__()
        if architecture not in ("skip", "resnet", "orig"):
            raise ValueError(f"architecture: expected skip, resnet or orig, got {architecture!r}")
        self.in_channels, self.resolution, self.architecture = in_channels, resolution, architecture
        self.precision = Precision(use_fp16, clamps=conv_clamp is not None)
        self.register_buffer("resample_filter", setup_filter(resample_filter))
        self.num_layers = 0

        def layer(
            n_in: int,
            n_out: int,
            kernel_size: int,
            down: int = 1,
            clamp: float | None = conv_clamp,
            act: str = activation,
            bias: bool = True,
        ) -> Conv2dLayer:
            trainable = first_layer_idx + self.num_layers >= freeze_layers
            self.num_layers += 1
            return Conv2dLayer(
                n_in,
                n_out,
                kernel_size,
                bias=bias,
                activation=act,
                down=down,
                resample_filter=resample_filter,
                conv_clamp=clamp,
                trainable=trainable,
            )

        if in_channels == 0 or architecture == "skip":
            self.fromrgb = layer(img_channels, tmp_channels, 1)
        self.conv0 = layer(tmp_channels, tmp_channels, 3)
        self.conv1 = layer(tmp_channels, out_channels, 3, down=2)
        if architecture == "resnet":
            self.skip = layer(tmp_channels, out_channels, 1, down=2, clamp=None, act="linear", bias=False)

    def forward(self, x: Tensor | None, img: Tensor | None, force_fp32: bool = False) -> tuple[Tensor, Tensor | None]:
        """Features at half the resolution, and the image at half for the skip architecture, else None."""
        like = self.precision.format((img if x is None else x).device, force_fp32)
        if x is not None:
            x = x.to(**like)
        if self.in_channels == 0 or self.architecture == "skip":
            img = img.to(**like)
            y = self.fromrgb(img)
            x = y if x is None else x + y
            img = downsample2d(img, self.resample_filter) if self.architecture == "skip" else None
        if self.architecture == "resnet":
            y = self.skip(x, gain=RESNET_GAIN)
            return self.conv1(self.conv0(x), gain=RESNET_GAIN) + y, img
        return self.conv1(self.conv0(x)), img


class MinibatchStdLayer(nn.Module):
    """Appends the standard deviation over groups of samples as channels (Karras et al. 2018, section 3).

    Args:
        group_size: samples per group, None for the whole batch. num_channels: statistics to append.
    """

    def __init__(self, group_size: int | None, num_channels: int = 1):
        super().__init__()
        self.group_size, self.num_channels = group_size, num_channels

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        group = n if self.group_size is None else min(self.group_size, n)
        if n % group or c % self.num_channels:
            raise ValueError(
                f"minibatch std: {n} samples are not a multiple of {group}, or {c} channels of {self.num_channels}"
            )
        y = x.reshape(group, n // group, self.num_channels, c // self.num_channels, h, w)
        std = (y.var(dim=0, unbiased=False) + 1e-8).sqrt().mean(dim=[2, 3, 4])  # N/group,num_channels
        return torch.cat([x, std.repeat(group, 1)[:, :, None, None].expand(-1, -1, h, w)], dim=1)


class DiscriminatorEpilogue(nn.Module):
    """The 4x4 end of a discriminator: logits, or their projection on a mapped condition.

    Args:
        cmap_dim: size of the mapped condition, 0 for none.
        mbstd_num_channels: 0 leaves the minibatch standard deviation out.
    """

    def __init__(
        self,
        in_channels: int,
        cmap_dim: int,
        resolution: int,
        img_channels: int,
        architecture: str = "resnet",
        mbstd_group_size: int | None = 4,
        mbstd_num_channels: int = 1,
        activation: str = "lrelu",
        conv_clamp: float | None = None,
    ):
        super().__init__()
        self.cmap_dim, self.architecture = cmap_dim, architecture
        if architecture == "skip":
            self.fromrgb = Conv2dLayer(img_channels, in_channels, 1, activation=activation)
        self.mbstd = MinibatchStdLayer(mbstd_group_size, mbstd_num_channels) if mbstd_num_channels > 0 else None
        self.conv = Conv2dLayer(
            in_channels + mbstd_num_channels, in_channels, 3, activation=activation, conv_clamp=conv_clamp
        )
        self.fc = FullyConnectedLayer(in_channels * resolution**2, in_channels, activation=activation)
        self.out = FullyConnectedLayer(in_channels, max(cmap_dim, 1))

    def forward(self, x: Tensor, img: Tensor | None, cmap: Tensor | None) -> Tensor:
        """N,1 logits from features N,C,4,4, the image (skip only) and the mapped condition N,cmap_dim."""
        x = x.to(**working_format(x.device))
        if self.architecture == "skip":
            x = x + self.fromrgb(img.to(torch.float32))
        if self.mbstd is not None:
            x = self.mbstd(x)
        x = self.out(self.fc(self.conv(x).flatten(1)))
        if self.cmap_dim > 0:
            x = (x * cmap).sum(dim=1, keepdim=True) / math.sqrt(self.cmap_dim)
        return x


class Discriminator(nn.Module):
    """Image (and condition c) to logits.

    Args:
        c_dim: size of the condition, 0 for none. cmap_dim: size it is mapped to, None for the width at 4x4.
        block_kwargs, mapping_kwargs, epilogue_kwargs: passed to DiscriminatorBlock, MappingNetwork and
            DiscriminatorEpilogue.
    """

    def __init__(
        self,
        c_dim: int,
        img_resolution: int,
        img_channels: int,
        architecture: str = "resnet",
        channel_base: int = 32768,
        channel_max: int = 512,
        num_fp16_res: int = 4,
        conv_clamp: float | None = 256,
        cmap_dim: int | None = None,
        block_kwargs: dict | None = None,
        mapping_kwargs: dict | None = None,
        epilogue_kwargs: dict | None = None,
    ):
        super().__init__()
        self.c_dim, self.img_resolution, self.img_channels = c_dim, img_resolution, img_channels
        self.resolutions = block_resolutions(img_resolution, smallest=8)[::-1]
        width = {res: channels_at(res, channel_base, channel_max) for res in [*self.resolutions, 4]}
        cmap_dim = (width[4] if cmap_dim is None else cmap_dim) if c_dim > 0 else 0
        layers = 0
        for res in self.resolutions:
            block = DiscriminatorBlock(
                width[res] if res < img_resolution else 0,
                width[res],
                width[res // 2],
                res,
                img_channels,
                layers,
                architecture=architecture,
                conv_clamp=conv_clamp,
                use_fp16=runs_in_fp16(res, img_resolution, num_fp16_res),
                **(block_kwargs or {}),
            )
            self.add_module(f"b{res}", block)
            layers += block.num_layers
        if c_dim > 0:
            self.mapping = MappingNetwork(0, c_dim, cmap_dim, None, w_avg_beta=None, **(mapping_kwargs or {}))
        self.b4 = DiscriminatorEpilogue(
            width[4],
            cmap_dim,
            4,
            img_channels,
            architecture=architecture,
            conv_clamp=conv_clamp,
            **(epilogue_kwargs or {}),
        )

    def forward(self, img: Tensor, c: Tensor | None, *, force_fp32: bool = False) -> Tensor:
        """N,1 logits from img N,img_channels,R,R and c N,c_dim."""
        x = None
        for res in self.resolutions:
            x, img = getattr(self, f"b{res}")(x, img, force_fp32=force_fp32)
        return self.b4(x, img, self.mapping(None, c) if self.c_dim > 0 else None)
