"""Super-resolution of the rendered features to the output resolution (Chan et al. 2022, section 4.2)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torch_utils.ops.upfirdn2d import setup_filter
from training.networks.layers import FIR
from training.networks.synthesis import SynthesisBlock

W_DIM = 512
CONV_CLAMP = 256  # bound of the activations where blocks may run in float16


@dataclass(frozen=True)
class Layout:
    """Architecture of a published super-resolution class.

    Args:
        output, input: resolution in pixels.
        widths: channels of the two blocks.
        first_up: whether the first block doubles the resolution; the second always does.
        shrinks: whether a larger input is resized, not only a smaller one.
        antialias: False overrides the option sr_antialias.
        stores_filter: whether published weights contain an unused copy of the low-pass filter.
    """

    output: int
    input: int
    widths: tuple[int, int]
    first_up: bool = False
    shrinks: bool = True
    antialias: bool = True
    stores_filter: bool = True


# The training command chooses 8XDC, 4X or 2X by resolution; 8X and Deepfp32 are their older published forms.
LAYOUTS = {
    "SuperresolutionHybrid8XDC": Layout(512, 128, (256, 128), first_up=True, stores_filter=False),
    "SuperresolutionHybrid8X": Layout(512, 128, (128, 64), first_up=True),
    "SuperresolutionHybrid4X": Layout(256, 128, (128, 64), shrinks=False),
    "SuperresolutionHybridDeepfp32": Layout(256, 128, (128, 64), shrinks=False, antialias=False),
    "SuperresolutionHybrid2X": Layout(128, 64, (128, 64)),
}


class SuperResolution(nn.Module):
    """Two synthesis blocks from rendered features and the raw image to the final image or label map.

    Args:
        channels: of the features.
        img_resolution: R, which must be the layout's.
        sr_num_fp16_res: above 0, the blocks run in float16 on CUDA and clamp their activations on all devices.
        sr_antialias: whether resizing the input to the layout's resolution is antialiased.
        semantic_channels: channels of the raw and of the final image; 3 for color.
        width: width of the blocks relative to the layout's.
        channel_base, channel_max: the backbone's widths, accepted because published arguments contain them; they
            have no effect here.
    Raises:
        ValueError: img_resolution is not the layout's.
    """

    def __init__(
        self,
        layout: Layout,
        channels: int,
        img_resolution: int,
        sr_num_fp16_res: int,
        sr_antialias: bool = True,
        fused_modconv_default: bool | str = True,
        semantic_channels: int = 3,
        width: float = 1,
        channel_base: int = 0,
        channel_max: int = 0,
    ):
        super().__init__()
        if img_resolution != layout.output:
            raise ValueError(f"super-resolution: this layout gives {layout.output} pixels, got {img_resolution}")

        # The layout's widths, not the backbone's: published super-resolution ignores channel_base and channel_max.
        first_width, second_width = (int(channels * width) for channels in layout.widths)
        self.layout = layout
        # Antialiasing matters for inputs above the layout's resolution only.
        self.antialias = sr_antialias and layout.antialias
        self.scale = layout.output // layout.input
        if layout.stores_filter:
            self.register_buffer("resample_filter", setup_filter(FIR))

        # Two blocks, of which the second always doubles the resolution. The clamp keeps float16 from overflowing, but
        # applies on every device, since weights trained with it depend on it.
        use_fp16 = sr_num_fp16_res > 0
        common = {
            "w_dim": W_DIM,
            "img_channels": semantic_channels,
            "use_fp16": use_fp16,
            "conv_clamp": CONV_CLAMP if use_fp16 else None,
            "fused_modconv_default": fused_modconv_default,
        }
        first_up = 2 if layout.first_up else 1
        self.block0 = SynthesisBlock(
            channels, first_width, resolution=layout.output // 2, is_last=False, up=first_up, **common
        )
        self.block1 = SynthesisBlock(first_width, second_width, resolution=layout.output, is_last=True, **common)

    def forward(self, rgb: Tensor, x: Tensor, ws: Tensor, noise_mode: str = "random") -> Tensor:
        """Compute the final image.

        Args:
            rgb: raw image N,semantic_channels,r,r.
            x: features N,channels,r,r.
            ws: N,any,512, of which the last vector is used.
        Returns:
            N,semantic_channels,R,R.
        """
        # Resize to the layout's input resolution: training starts at a lower rendering resolution r, and users may
        # render at any.
        size = self.layout.input
        # Layouts that do not shrink take larger inputs, and give larger images, as published.
        if x.shape[-1] < size or (x.shape[-1] > size and self.layout.shrinks):
            resizing = {"size": (size, size), "mode": "bilinear", "align_corners": False, "antialias": self.antialias}
            x = F.interpolate(x, **resizing)
            rgb = F.interpolate(rgb, **resizing)
        return self.upsample(rgb, x, ws, noise_mode)

    def upsample(self, rgb: Tensor, x: Tensor, ws: Tensor, noise_mode: str = "random") -> Tensor:
        """Compute the final image of an input at the layout's resolution, or of a patch of one.

        Args:
            rgb: N,semantic_channels,h,w.
            x: features N,channels,h,w.
            ws: N,any,512, of which the last vector is used.
        Returns:
            N,semantic_channels,H,W, larger by `scale`. Near inner edges of a patch it differs from the whole image.
        """
        # Both blocks are driven by the last style vector, once for each of their three layers.
        ws = ws[:, -1:].expand(-1, self.block0.num_conv + self.block0.num_torgb, -1).to(torch.float32)  # N,3,512
        x, rgb = self.block0(x, rgb, ws, noise_mode)  # N,any,R/2,R/2
        x, rgb = self.block1(x, rgb, ws, noise_mode)  # N,any,R,R
        return rgb


# Published classes. The label variants, "_semantic", were published for 8XDC and 2X; here every layout has one.
SUPERRESOLUTIONS = {
    name + suffix: partial(SuperResolution, layout) for name, layout in LAYOUTS.items() for suffix in ("", "_semantic")
}
