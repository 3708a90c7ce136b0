"""Discriminators of StyleGAN2 (Karras et al. 2020) and EG3D (dual discrimination, Chan et al. 2022, section 4.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torch_utils.ops.upfirdn2d import downsample2d, setup_filter, upsample2d
from torch_utils.precision import Precision, working_format
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

DUMMY_FADE_IMAGES = 500_000 / 32  # calls of DummyDualDiscriminator over which its raw image fades out


# --------------------------------------------------------------------------- StyleGAN2


class DiscriminatorBlock(nn.Module):
    """One resolution of a discriminator: from-RGB (first block or skip), convolution, convolution with downsampling.

    Args:
        in_channels: 0 for the block that reads the image.
        first_layer_idx: number of layers before this block; layers with an index below `freeze_layers` are frozen.
        architecture: skip, resnet or orig (Karras et al. 2020, figure 7).
        conv_clamp: bound of the outputs' magnitude, which keeps float16 from overflowing; None for no bound.
        use_fp16: compute in float16 on CUDA, unless the block's `precision` is set otherwise.
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
        self.in_channels = in_channels
        if architecture not in ARCHITECTURES:
            raise ValueError(f"architecture: got {architecture!r}, expected one of {', '.join(ARCHITECTURES)}")
        self.architecture = architecture
        self.precision = Precision(use_fp16, clamps=conv_clamp is not None)
        self.num_layers = 0
        self.register_buffer("resample_filter", setup_filter(resample_filter))

        # Layers, in the order of the published weights. They count for freezing from the image on (Mo et al. 2020), in
        # this order too.
        def layer(n_in: int, n_out: int, kernel_size: int, **overrides) -> Conv2dLayer:
            trainable = first_layer_idx + self.num_layers >= freeze_layers
            self.num_layers += 1
            options = {"activation": activation, "resample_filter": resample_filter, "conv_clamp": conv_clamp}
            return Conv2dLayer(n_in, n_out, kernel_size, trainable=trainable, **{**options, **overrides})

        # The image enters at the highest resolution, or at every resolution. The residual branch is linear, without
        # clamp.
        if in_channels == 0 or architecture == "skip":
            self.fromrgb = layer(img_channels, tmp_channels, 1)
        self.conv0 = layer(tmp_channels, tmp_channels, 3)
        self.conv1 = layer(tmp_channels, out_channels, 3, down=2)
        if architecture == "resnet":
            self.skip = layer(tmp_channels, out_channels, 1, down=2, conv_clamp=None, activation="linear", bias=False)

    def forward(self, x: Tensor | None, img: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Compute features at half the resolution.

        Args:
            x: features N,in_channels,H,W, None for the block that reads the image.
            img: image N,img_channels,H,W, None where it is no longer needed.
        Returns:
            Features N,out_channels,H/2,W/2; image N,img_channels,H/2,W/2 for the skip architecture, else None.
        """
        # Features and image change to the data type and memory format of this block.
        number_format = self.precision.format((img if x is None else x).device)
        if x is not None:
            x = x.to(**number_format)

        # Read the image: features N,tmp_channels,H,W.
        if self.in_channels == 0 or self.architecture == "skip":
            img = img.to(**number_format)
            y = self.fromrgb(img)
            x = y if x is None else x + y
            img = downsample2d(img, self.resample_filter) if self.architecture == "skip" else None

        # Convolve to N,out_channels,H/2,W/2.
        if self.architecture == "resnet":
            y = self.skip(x, gain=RESNET_GAIN)
            x = self.conv1(self.conv0(x), gain=RESNET_GAIN) + y
        else:
            x = self.conv1(self.conv0(x))
        return x, img


class MinibatchStdLayer(nn.Module):
    """Minibatch standard deviation, appended as channels (Karras et al. 2018, section 3).

    Args:
        group_size: samples per group, None for the whole batch.
        num_channels: number of statistics to append.
    """

    def __init__(self, group_size: int | None, num_channels: int = 1):
        super().__init__()
        self.group_size = group_size
        self.num_channels = num_channels

    def forward(self, x: Tensor) -> Tensor:
        """Map x (N,C,H,W) to N,C+num_channels,H,W.

        Raises:
            ValueError: N is not a multiple of the group size, or C of num_channels.
        """
        n, c, h, w = x.shape
        group = n if self.group_size is None else min(self.group_size, n)
        if n % group or c % self.num_channels:
            raise ValueError(
                f"minibatch std: {n} samples are not a multiple of {group}, or {c} channels of {self.num_channels}"
            )

        # Standard deviation over the samples of a group, averaged over pixels and over the channels of each statistic:
        # a batch without variety, such as that of a collapsed generator, is recognized by its small value. Sample i is
        # in group i mod (N / group).
        y = x.reshape(group, n // group, self.num_channels, c // self.num_channels, h, w)
        std = (y.var(dim=0, unbiased=False) + 1e-8).sqrt().mean(dim=[2, 3, 4])  # N/group,num_channels

        # Append it to every sample of its group, as constant channels.
        return torch.cat([x, std.repeat(group, 1)[:, :, None, None].expand(-1, -1, h, w)], dim=1)


class DiscriminatorEpilogue(nn.Module):
    """Last block of a discriminator, at 4x4: logits, or their projection on a mapped condition (Miyato & Koyama 2018).

    Args:
        cmap_dim: size of the mapped condition, 0 for none.
        mbstd_group_size: group size of the minibatch standard deviation, None for the whole batch.
        mbstd_num_channels: 0 omits the minibatch standard deviation.
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
        self.cmap_dim = cmap_dim
        self.architecture = architecture

        # The skip architecture reads the image at 4x4 too.
        if architecture == "skip":
            self.fromrgb = Conv2dLayer(img_channels, in_channels, 1, activation=activation)

        # Minibatch standard deviation, convolution, two fully connected layers. The clamp of the convolution belongs to
        # published weights trained in float16, although the epilogue never runs in it.
        self.mbstd = MinibatchStdLayer(mbstd_group_size, mbstd_num_channels) if mbstd_num_channels > 0 else None
        conv_channels = in_channels + mbstd_num_channels
        self.conv = Conv2dLayer(conv_channels, in_channels, 3, activation=activation, conv_clamp=conv_clamp)
        self.fc = FullyConnectedLayer(in_channels * resolution**2, in_channels, activation=activation)
        self.out = FullyConnectedLayer(in_channels, max(cmap_dim, 1))

    def forward(self, x: Tensor, img: Tensor | None, cmap: Tensor | None) -> Tensor:
        """Compute logits N,1 from features (N,C,4,4), the image (skip only) and the mapped condition (N,cmap_dim)."""
        # The epilogue always runs in float32: statistics and projection need its precision and cost little at 4x4.
        x = x.to(**working_format(x.device))
        if self.architecture == "skip":
            x = x + self.fromrgb(img.to(torch.float32))
        if self.mbstd is not None:
            x = self.mbstd(x)
        x = self.out(self.fc(self.conv(x).flatten(1)))  # N,max(cmap_dim,1)

        # Conditional discriminators project on the mapped condition; the root keeps the logits' scale independent of
        # its size.
        if self.cmap_dim > 0:
            x = (x * cmap).sum(dim=1, keepdim=True) / math.sqrt(self.cmap_dim)
        return x


class Discriminator(nn.Module):
    """StyleGAN2 discriminator of an image and a condition c.

    Args:
        c_dim: size of the condition, 0 for none.
        channel_base, channel_max: the width at resolution r is min(channel_base // r, channel_max).
        num_fp16_res: number of the highest resolutions that run in float16 on CUDA.
        cmap_dim: size of the mapped condition, None for the width at 4x4.
        block_kwargs, mapping_kwargs, epilogue_kwargs: further arguments of DiscriminatorBlock, MappingNetwork and
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
        self.c_dim = c_dim

        # Resolutions of the blocks and widths of the features at each resolution: the mirror image of the synthesis
        # network.
        self.resolutions = block_resolutions(img_resolution, smallest=8)[::-1]
        width = {res: channels_at(res, channel_base, channel_max) for res in [*self.resolutions, 4]}
        common = {"architecture": architecture, "conv_clamp": conv_clamp}

        # Blocks from the image's resolution down to 8. Each halves the resolution.
        num_layers = 0
        for res in self.resolutions:
            block = DiscriminatorBlock(
                width[res] if res < img_resolution else 0,
                width[res],
                width[res // 2],
                res,
                img_channels,
                first_layer_idx=num_layers,
                use_fp16=runs_in_fp16(res, img_resolution, num_fp16_res),
                **common,
                **(block_kwargs or {}),
            )
            self.add_module(f"b{res}", block)
            num_layers += block.num_layers

        # Condition and epilogue at 4x4. The mapping network has no z and returns a single vector per sample.
        cmap_dim = width[4] if cmap_dim is None else cmap_dim
        if c_dim > 0:
            self.mapping = MappingNetwork(0, c_dim, cmap_dim, None, w_avg_beta=None, **(mapping_kwargs or {}))
        else:
            cmap_dim = 0
        self.b4 = DiscriminatorEpilogue(width[4], cmap_dim, 4, img_channels, **common, **(epilogue_kwargs or {}))

    def forward(self, img: Tensor, c: Tensor | None) -> Tensor:
        """Compute logits N,1 from img (N,img_channels,R,R) and c (N,c_dim)."""
        logits, _ = self.logits_and_features(img, c)
        return logits

    def logits_and_features(self, img: Tensor, c: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """Compute logits N,1 as `forward` does, and the features N,C,res/2,res/2 after each block."""
        # Only the skip architecture needs the image after the first block.
        x = None
        features = []
        for res in self.resolutions:
            x, img = getattr(self, f"b{res}")(x, img)
            features.append(x)

        # Logits, or their projection on the mapped condition.
        cmap = self.mapping(None, c) if self.c_dim > 0 else None  # N,cmap_dim
        return self.b4(x, img, cmap), features


# --------------------------------------------------------------------------- final and raw image


class SingleDiscriminator(Discriminator):
    """Discriminator of the final image alone."""

    def forward(self, img: dict[str, Tensor], c: Tensor | None) -> Tensor:
        """Compute logits N,1 from img["image"] (N,C,R,R) and c (N,c_dim)."""
        return super().forward(img["image"], c)


class DualDiscriminator(Discriminator):
    """Discriminator of the final image joined with the upsampled raw image (Chan et al. 2022, section 4.3).

    Args:
        img_channels: channels of one of the two images.
        disc_c_noise: standard deviation of the noise added to each number of c, relative to its own over the batch.
        semantic_channels, data_type: recorded with published weights; img_channels already includes the labels.
    """

    def __init__(
        self,
        c_dim: int,
        img_resolution: int,
        img_channels: int,
        disc_c_noise: float = 0,
        semantic_channels: int | None = None,
        data_type: str | None = None,
        **kwargs,
    ):
        super().__init__(c_dim, img_resolution, 2 * img_channels, **kwargs)
        self.disc_c_noise = disc_c_noise
        self.raw_weight = 1.0  # below 1 in DummyDualDiscriminator only
        self.register_buffer("resample_filter", setup_filter(FIR))

    def forward(self, img: dict[str, Tensor], c: Tensor | None) -> Tensor:
        """Compute logits N,1 from img["image"] (N,C,R,R), img["image_raw"] (N,C,r,r) and c (N,c_dim)."""
        # Resize the raw image to the final resolution. Comparing the two makes super-resolution consistent with
        # rendering.
        image = img["image"]
        raw = filtered_resizing(img["image_raw"], image.shape[-1], self.resample_filter)

        # Noise on the pose keeps the discriminator from overfitting to it; the caller's tensor is not changed.
        if self.disc_c_noise > 0 and self.c_dim > 0:
            std = c.std(dim=0) if len(c) > 1 else torch.zeros_like(c)  # undefined for a single pose
            c = c + torch.randn_like(c) * std * self.disc_c_noise
        return super().forward(torch.cat([image, raw * self.raw_weight], dim=1), c)


class DummyDualDiscriminator(DualDiscriminator):
    """Dual discriminator whose raw image fades to zero over DUMMY_FADE_IMAGES calls (a published variant)."""

    def forward(self, img: dict[str, Tensor], c: Tensor | None) -> Tensor:
        """Compute logits N,1 as DualDiscriminator does, with a smaller weight of the raw image at every call."""
        # Every call counts, those of the generator's loss included.
        self.raw_weight = max(0.0, self.raw_weight - 1 / DUMMY_FADE_IMAGES)
        return super().forward(img, c)


def filtered_resizing(image: Tensor, size: int, f: Tensor, filter_mode: str | float = "antialiased") -> Tensor:
    """Resize square images N,C,H,H to N,C,size,size.

    Args:
        f: low-pass filter for "classic" (upsample, sample bilinearly, downsample).
        filter_mode: antialiased, none (bilinear), classic, or a number in [0, 1]: the share of antialiased in a
            blend with bilinear.
    Raises:
        ValueError: unknown filter_mode.
    """
    # A number blends the two modes.
    if isinstance(filter_mode, float | int) and 0 <= filter_mode <= 1:
        filtered = filtered_resizing(image, size, f, "antialiased")
        plain = filtered_resizing(image, size, f, "none")
        return plain.lerp(filtered, filter_mode)

    # Upsample, sample bilinearly with a margin, downsample and crop the margin. The filter, not the interpolation,
    # limits the bandwidth.
    if filter_mode == "classic":
        image = upsample2d(image, f, up=2)
        image = _bilinear(image, 2 * size + 2, antialias=False)
        return downsample2d(image, f, down=2, flip_filter=True, padding=-1)

    # Bilinear, with or without antialiasing.
    if filter_mode not in ("antialiased", "none"):
        raise ValueError(f"filter_mode: expected antialiased, none, classic or a number in [0, 1], got {filter_mode!r}")
    return _bilinear(image, size, antialias=filter_mode == "antialiased")


def _bilinear(image: Tensor, size: int, antialias: bool) -> Tensor:
    return F.interpolate(image, size=(size, size), mode="bilinear", align_corners=False, antialias=antialias)
