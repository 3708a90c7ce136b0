"""Two synthesis blocks that bring the rendered features to the output's resolution: one class, a table of layouts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torch_utils.ops.upfirdn2d import setup_filter
from training.networks.synthesis import FIR, SynthesisBlock

W_DIM = 512


@dataclass(frozen=True)
class Layout:
    """One row of the table.

    Args:
        output, input: resolution in pixels. widths: channels of the two blocks.
        first_up: whether the first block doubles the resolution (the second always does).
        shrinks: whether a larger input is resized too, not only a smaller one.
        antialias: False overrules the option of that name.
        stores_filter: whether published weights hold an (unused) copy of the low-pass filter here.
    """

    output: int
    input: int
    widths: tuple[int, int]
    first_up: bool = False
    shrinks: bool = True
    antialias: bool = True
    stores_filter: bool = True


LAYOUTS = {
    "SuperresolutionHybrid8XDC": Layout(512, 128, (256, 128), first_up=True, stores_filter=False),
    "SuperresolutionHybrid8X": Layout(512, 128, (128, 64), first_up=True),
    "SuperresolutionHybrid4X": Layout(256, 128, (128, 64), shrinks=False),
    "SuperresolutionHybridDeepfp32": Layout(256, 128, (128, 64), shrinks=False, antialias=False),
    "SuperresolutionHybrid2X": Layout(128, 64, (128, 64)),
}


class SuperResolution(nn.Module):
    """Features and raw image to the final image.

    Args:
        channels: of the feature image. img_channels: of the raw and the final image.
        sr_num_fp16_res: above 0 the blocks run in float16 on CUDA, and clamp everywhere.
        sr_antialias: whether resizing the input to the layout's size is antialiased.
        width: of the blocks, relative to the layout's.
    Raises:
        ValueError: img_resolution is not the layout's, or a block is left without channels.
    """

    def __init__(
        self,
        layout: Layout,
        channels: int,
        img_resolution: int,
        img_channels: int = 3,
        sr_num_fp16_res: int = 0,
        sr_antialias: bool = True,
        fused_modconv_default: bool | str = True,
        width: float = 1,
    ):
        super().__init__()
        if img_resolution != layout.output:
            raise ValueError(f"super-resolution: this layout gives {layout.output} pixels, got {img_resolution}")
        self.layout, self.antialias = layout, sr_antialias and layout.antialias
        half = sr_num_fp16_res > 0
        common = {
            "w_dim": W_DIM,
            "img_channels": img_channels,
            "use_fp16": half,
            "conv_clamp": 256 if half else None,
            "fused_modconv_default": fused_modconv_default,
        }
        if layout.stores_filter:
            self.register_buffer("resample_filter", setup_filter(FIR))
        first, second = (int(channels * width) for channels in layout.widths)
        if second < 1:
            raise ValueError(f"super-resolution: width {width:g} leaves a block without channels")
        self.block0 = SynthesisBlock(
            channels, first, resolution=layout.output // 2, is_last=False, up=2 if layout.first_up else 1, **common
        )
        self.block1 = SynthesisBlock(first, second, resolution=layout.output, is_last=True, **common)

    def forward(
        self,
        rgb: Tensor,
        x: Tensor,
        ws: Tensor,
        noise_mode: str = "random",
        fused_modconv: bool | None = None,
        force_fp32: bool = False,
    ) -> Tensor:
        """N,img_channels,R,R from rgb N,img_channels,r,r, x N,channels,r,r and ws N,any,512 (the last is used)."""
        size, wanted = x.shape[-1], self.layout.input
        if size < wanted or (size > wanted and self.layout.shrinks):
            x, rgb = (
                F.interpolate(t, size=(wanted, wanted), mode="bilinear", align_corners=False, antialias=self.antialias)
                for t in (x, rgb)
            )
        ws = ws[:, -1:].expand(-1, self.block0.num_conv + self.block0.num_torgb, -1).to(torch.float32)
        x, rgb = self.block0(x, rgb, ws, noise_mode, fused_modconv, force_fp32)
        return self.block1(x, rgb, ws, noise_mode, fused_modconv, force_fp32)[1]


def _published(
    layout: Layout,
    *,
    channels: int,
    img_resolution: int,
    sr_num_fp16_res: int,
    sr_antialias: bool = True,
    fused_modconv_default: bool | str = True,
    semantic_channels: int = 3,
    channel_base: int = 0,
    channel_max: int = 0,
    width: float = 1,
) -> SuperResolution:
    """A published class. Its arguments hold the trunk's channel_base and channel_max, which widths do not follow."""
    return SuperResolution(
        layout, channels, img_resolution, semantic_channels, sr_num_fp16_res, sr_antialias, fused_modconv_default, width
    )


# The published family has no label variant but of 8XDC and 2X; here every layout has one.
SUPERRESOLUTIONS = {
    name + suffix: partial(_published, layout) for name, layout in LAYOUTS.items() for suffix in ("", "_semantic")
}
