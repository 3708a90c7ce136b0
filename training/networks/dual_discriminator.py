"""Discriminators of the final and the raw image, and the resizing between them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_utils.ops.upfirdn2d import downsample2d, setup_filter, upsample2d
from training.networks.discriminator import Discriminator
from training.networks.synthesis import FIR

DUMMY_FADE_IMAGES = 500_000 / 32  # calls of the dummy discriminator over which its raw image fades out


def filtered_resizing(image: Tensor, size: int, f: Tensor, filter_mode: str | float = "antialiased") -> Tensor:
    """Resize square images N,C,H,H to N,C,size,size.

    Args:
        f: low-pass filter for "classic" (upsample, sample bilinearly, downsample).
        filter_mode: antialiased, none (bilinear), classic, or a number in [0, 1]: that share of antialiased,
            the rest bilinear.
    Raises:
        ValueError: unknown filter_mode.
    """
    if isinstance(filter_mode, float | int) and 0 <= filter_mode <= 1:
        filtered, plain = (filtered_resizing(image, size, f, mode) for mode in ("antialiased", "none"))
        return plain.lerp(filtered, filter_mode)
    if filter_mode == "classic":
        image = upsample2d(image, f, up=2)
        image = _bilinear(image, 2 * size + 2, antialias=False)
        return downsample2d(image, f, down=2, flip_filter=True, padding=-1)
    if filter_mode not in ("antialiased", "none"):
        raise ValueError(f"filter_mode: expected antialiased, none, classic or a number in [0, 1], got {filter_mode!r}")
    return _bilinear(image, size, antialias=filter_mode == "antialiased")


def _bilinear(image: Tensor, size: int, antialias: bool) -> Tensor:
    return F.interpolate(image, size=(size, size), mode="bilinear", align_corners=False, antialias=antialias)


class SingleDiscriminator(Discriminator):
    """Judges img["image"] alone."""

    def forward(self, img: dict[str, Tensor], c: Tensor | None, *, force_fp32: bool = False) -> Tensor:
        return super().forward(img["image"], c, force_fp32=force_fp32)


class DualDiscriminator(Discriminator):
    """Judges img["image"] joined with img["image_raw"], resized to the same size (Chan et al. 2022, section 4.3).

    Args:
        img_channels: of one of the two images.
        disc_c_noise: noise added to c, in standard deviations of the batch's c, per number.
        semantic_channels, data_type: recorded with published weights; img_channels already counts the labels'.
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
        self.raw_weight = 1.0
        self.register_buffer("resample_filter", setup_filter(FIR))

    def forward(self, img: dict[str, Tensor], c: Tensor | None, *, force_fp32: bool = False) -> Tensor:
        image = img["image"]
        raw = filtered_resizing(img["image_raw"], image.shape[-1], self.resample_filter)
        if self.disc_c_noise > 0 and self.c_dim > 0:
            spread = c.std(dim=0) if len(c) > 1 else torch.zeros_like(c)  # one pose has no spread
            c = c + torch.randn_like(c) * spread * self.disc_c_noise
        return super().forward(torch.cat([image, raw * self.raw_weight], dim=1), c, force_fp32=force_fp32)


class DummyDualDiscriminator(DualDiscriminator):
    """The dual discriminator whose raw image fades to zero over DUMMY_FADE_IMAGES calls (a published variant)."""

    def forward(self, img: dict[str, Tensor], c: Tensor | None, *, force_fp32: bool = False) -> Tensor:
        self.raw_weight = max(0.0, self.raw_weight - 1 / DUMMY_FADE_IMAGES)
        return super().forward(img, c, force_fp32=force_fp32)
