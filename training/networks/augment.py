"""Adaptive discriminator augmentation (Karras et al. 2020, "Training GANs with Limited Data", appendix B)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torch_utils.ops.upfirdn2d import downsample2d, setup_filter, upsample2d

# Low-pass taps of the orthonormal wavelets of Daubechies, "Ten Lectures on Wavelets", tables 6.1 and 6.3. Enlarging
# by 2 with SYM6 and reducing again with it is the identity.
SYM2 = [c / (4 * math.sqrt(2)) for c in (1 - math.sqrt(3), 3 - math.sqrt(3), 3 + math.sqrt(3), 1 + math.sqrt(3))]
SYM6 = [
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466,
    0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578,
    0.0017677118642428036, -0.007800708325034148,
]  # fmt: skip
# By how many pixels SYM6 moves what it enlarges: its middle is tap 5.1 of 0 to 11, published models take it for 5.
FILTER_DELAY = -0.25
REACH = len(SYM6) // 4  # pixels that the filter reaches to either side at twice the resolution
BAND_POWER = [10 / 13, 1 / 13, 1 / 13, 1 / 13]  # of natural pictures (spectrum 1/f), in the bands of `_filter_bank`


def adapt_p(p: float, mean_sign: float, target: float, images: int, kimg: float) -> float:
    """The heuristic of ADA: more augmentation while the discriminator is surer of real pictures than `target`.

    Args:
        p: probability until now.
        mean_sign: mean sign of D's logits of real pictures since the last call, in [-1, 1].
        images: shown since the last call.
        kimg: thousands of images over which p can rise by 1.
    Returns:
        The new probability, at least 0; as before when `mean_sign` is NaN (nothing was seen).
    """
    if math.isnan(mean_sign):
        return p
    direction = (mean_sign > target) - (mean_sign < target)
    return max(0.0, p + direction * images / (kimg * 1000))


@dataclass(frozen=True)
class AugmentPipeOptions:
    """Public names. Of each change: how probable it is, relative to `p` (0 = never); and how far it goes."""

    xflip: float = 0
    rotate90: float = 0
    xint: float = 0  # move by whole pixels
    xint_max: float = 0.125  # of the side
    scale: float = 0
    scale_std: float = 0.2  # octaves
    rotate: float = 0
    rotate_max: float = 1  # half turns
    aniso: float = 0  # stretch one axis, shrink the other
    aniso_std: float = 0.2  # octaves
    xfrac: float = 0  # move by any distance
    xfrac_std: float = 0.125  # of the side
    brightness: float = 0
    brightness_std: float = 0.2  # pictures are in [-1, 1]
    contrast: float = 0
    contrast_std: float = 0.5  # octaves
    lumaflip: float = 0  # mirror the gray part, keep the color
    hue: float = 0
    hue_max: float = 1  # half turns
    saturation: float = 0
    saturation_std: float = 1  # octaves
    imgfilter: float = 0  # strengthen or weaken bands of frequencies
    imgfilter_bands: Sequence[float] = (1, 1, 1, 1)  # how probable each is, lowest first
    imgfilter_std: float = 1  # octaves
    noise: float = 0
    noise_std: float = 0.1
    cutout: float = 0
    cutout_size: float = 0.5  # of the side


class _Draws:
    """Random numbers of N samples; with a percentile, that quantile in place of each and every change applied."""

    def __init__(self, count: int, p: Tensor, percentile: float | None):
        self.count, self.p, self.percentile = count, p, percentile

    def uniform(self, *size: int) -> Tensor:
        """N,*size in [0, 1)."""
        if self.percentile is None:
            return torch.rand(self.count, *size, device=self.p.device)
        return torch.full((self.count, *size), self.percentile, device=self.p.device)

    def normal(self, *size: int) -> Tensor:
        """N,*size, standard normal; the quantile is the published one, which is 1/sqrt(2) of the true one."""
        if self.percentile is None:
            return torch.randn(self.count, *size, device=self.p.device)
        return torch.erfinv(2 * self.uniform(*size) - 1)

    def choose(self, changed: Tensor, unchanged: float, probability: float | Tensor) -> Tensor:
        """`changed` (N or N,k) for the samples that are to be changed."""
        if self.percentile is not None:
            return changed
        chosen = torch.rand(self.count, *[1] * (changed.ndim - 1), device=self.p.device) < probability
        return torch.where(chosen, changed, unchanged)


class AugmentPipe(nn.Module):
    """Random changes of pictures before a discriminator sees them, real and generated ones alike.

    Options are those of AugmentPipeOptions. Buffer `p` (a number) scales the probability of all changes.
    """

    def __init__(self, **options):
        super().__init__()
        self.options = AugmentPipeOptions(**options)
        if len(self.options.imgfilter_bands) != len(BAND_POWER):
            raise ValueError(f"imgfilter_bands: expected {len(BAND_POWER)} numbers, got {self.options.imgfilter_bands}")
        self.register_buffer("p", torch.ones([]))
        self.register_buffer("Hz_geom", setup_filter(SYM6))
        self.register_buffer("Hz_fbank", _filter_bank())

    def forward(
        self, images: Tensor, debug_percentile: float | None = None, color_channels: Sequence[int] | None = None
    ) -> Tensor:
        """Change each sample in its own way, all of a sample's channels in the same.

        Args:
            images: N,C,H,W in [-1, 1].
            debug_percentile: apply every change at this quantile instead of a random one.
            color_channels: which channels are gray (one) or RGB (three for each picture), None for all. The others,
                label maps, are moved and cut out alike but keep their values.
        Returns:
            N,C,H,W, not confined to [-1, 1].
        Raises:
            ValueError: a number of color channels that is neither 1 nor a multiple of 3.
        Gradients of first and second order reach the images.
        """
        draws = _Draws(len(images), self.p, debug_percentile)
        images = self._move(images, draws)
        if color_channels is None:
            images = self._change_values(images, draws)
        else:
            places = torch.tensor(color_channels, device=images.device)
            images = images.index_copy(1, places, self._change_values(images[:, places], draws))
        return self._cut_out(images, draws)

    def _change_values(self, images: Tensor, draws: _Draws) -> Tensor:
        return self._add_noise(self._filter(self._recolor(images, draws), draws), draws)

    # ------------------------------------------------------------------- geometry

    def _move(self, images: Tensor, draws: _Draws) -> Tensor:
        o = self.options
        if not any((o.xflip, o.rotate90, o.xint, o.scale, o.rotate, o.aniso, o.xfrac)):
            return images
        return _warp(images, self._geometry(draws, *images.shape[2:]), self.Hz_geom)

    def _geometry(self, draws: _Draws, height: int, width: int) -> Tensor:
        """N,3,3 from a place in the changed picture to its place in the given one.

        Places are x, y in pixels from the picture's center. Each change acts on the outcome of those before it, so
        its inverse is multiplied from the right.
        """
        o, p = self.options, self.p
        to_source = torch.eye(3, device=p.device)
        size = torch.tensor([width, height], device=p.device)
        if o.xflip > 0:
            flip = draws.choose((2 * draws.uniform()).floor(), 0, o.xflip * p)
            to_source = to_source @ _scale(1 - 2 * flip, torch.ones_like(flip))
        if o.rotate90 > 0:
            quarters = draws.choose((4 * draws.uniform()).floor(), 0, o.rotate90 * p)
            to_source = to_source @ _rotate(quarters * (math.pi / 2))
        if o.xint > 0:
            shift = draws.choose((2 * draws.uniform(2) - 1) * o.xint_max, 0, o.xint * p)
            to_source = to_source @ _translate(-(shift * size).round())
        if o.scale > 0:
            factor = draws.choose((draws.normal() * o.scale_std).exp2(), 1, o.scale * p)
            to_source = to_source @ _scale(1 / factor, 1 / factor)
        # Turned before and after the stretch, each with the probability that makes either happen with o.rotate * p.
        either = 1 - (1 - o.rotate * p).clamp(0, 1).sqrt()
        if o.rotate > 0:
            angle_rad = draws.choose((2 * draws.uniform() - 1) * (math.pi * o.rotate_max), 0, either)
            to_source = to_source @ _rotate(angle_rad)
        if o.aniso > 0:
            factor = draws.choose((draws.normal() * o.aniso_std).exp2(), 1, o.aniso * p)
            to_source = to_source @ _scale(1 / factor, factor)
        if o.rotate > 0 and draws.percentile is None:  # a percentile turns once
            angle_rad = draws.choose((2 * draws.uniform() - 1) * (math.pi * o.rotate_max), 0, either)
            to_source = to_source @ _rotate(angle_rad)
        if o.xfrac > 0:
            shift = draws.choose(draws.normal(2) * o.xfrac_std, 0, o.xfrac * p)
            to_source = to_source @ _translate(-shift * size)
        return to_source

    # ------------------------------------------------------------------- color

    def _recolor(self, images: Tensor, draws: _Draws) -> Tensor:
        o, (n, channels, height, width) = self.options, images.shape
        if not any((o.brightness, o.contrast, o.lumaflip, o.hue, o.saturation)):
            return images
        if channels != 1 and channels % 3:
            raise ValueError(f"images: expected 1 color channel or a multiple of 3, got {channels}")
        transform = self._color_transform(draws)  # N,3,4
        if channels == 1:
            transform = transform.mean(dim=1)  # N,4: what becomes of gray, on average over the three colors
            return images * transform[:, :3].sum(dim=1).view(n, 1, 1, 1) + transform[:, 3].view(n, 1, 1, 1)
        pixels = images.reshape(n, channels // 3, 3, height * width)
        pixels = transform[:, None, :, :3] @ pixels + transform[:, None, :, 3:]
        return pixels.reshape(images.shape)

    def _color_transform(self, draws: _Draws) -> Tensor:
        """N,3,4: a matrix for RGB and, in the last column, what is added. Each change acts on those before it."""
        o, p = self.options, self.p
        identity = torch.eye(3, device=p.device)
        gray = torch.full((3, 3), 1 / 3, device=p.device)  # projection on the gray axis
        transform = torch.eye(3, 4, device=p.device).repeat(draws.count, 1, 1)
        if o.brightness > 0:
            shift = draws.choose(draws.normal() * o.brightness_std, 0, o.brightness * p)
            transform = transform + F.pad(shift.view(-1, 1, 1).expand(-1, 3, 1), (3, 0))
        if o.contrast > 0:
            factor = draws.choose((draws.normal() * o.contrast_std).exp2(), 1, o.contrast * p)
            transform = transform * factor.view(-1, 1, 1)
        if o.lumaflip > 0:
            flip = draws.choose((2 * draws.uniform()).floor(), 0, o.lumaflip * p)
            transform = (identity - 2 * flip.view(-1, 1, 1) * gray) @ transform
        if o.hue > 0:
            angle_rad = draws.choose((2 * draws.uniform() - 1) * (math.pi * o.hue_max), 0, o.hue * p)
            transform = _rotate_about_gray(angle_rad) @ transform
        if o.saturation > 0:
            factor = draws.choose((draws.normal() * o.saturation_std).exp2(), 1, o.saturation * p)
            transform = (gray + (identity - gray) * factor.view(-1, 1, 1)) @ transform
        return transform

    # ------------------------------------------------------------------- frequencies, noise, cutout

    def _filter(self, images: Tensor, draws: _Draws) -> Tensor:
        o, (n, channels, height, width) = self.options, images.shape
        if not o.imgfilter:
            return images
        power = torch.tensor(BAND_POWER, device=images.device)
        gains = torch.ones(n, len(BAND_POWER), device=images.device)
        for band, strength in enumerate(o.imgfilter_bands):
            factor = draws.choose((draws.normal() * o.imgfilter_std).exp2(), 1, o.imgfilter * self.p * strength)
            change = torch.ones_like(gains)
            change[:, band] = factor
            gains = gains * change / (power * change.square()).sum(dim=1, keepdim=True).sqrt()  # keeps the power
        taps = (gains @ self.Hz_fbank).repeat_interleave(channels, dim=0)  # N*C,taps
        side = taps.shape[1] // 2
        x = F.pad(images.reshape(1, n * channels, height, width), (side,) * 4, mode="reflect")
        x = F.conv2d(x, taps[:, None, None, :], groups=n * channels)
        x = F.conv2d(x, taps[:, None, :, None], groups=n * channels)
        return x.reshape(images.shape)

    def _add_noise(self, images: Tensor, draws: _Draws) -> Tensor:
        o = self.options
        if not o.noise:
            return images
        if draws.percentile is None:
            sigma = draws.choose(draws.normal().abs() * o.noise_std, 0, o.noise * self.p)
        else:
            sigma = torch.erfinv(draws.uniform()) * o.noise_std
        return images + torch.randn_like(images) * sigma.view(-1, 1, 1, 1)

    def _cut_out(self, images: Tensor, draws: _Draws) -> Tensor:
        o, (n, _, height, width) = self.options, images.shape
        if not o.cutout:
            return images
        size = draws.choose(torch.full((n,), o.cutout_size, device=images.device), 0, o.cutout * self.p)
        center = draws.uniform(2)  # N,2 (x, y) from the picture's corner, in sides
        x = (torch.arange(width, device=images.device) + 0.5) / width
        y = (torch.arange(height, device=images.device) + 0.5) / height
        half = size.view(n, 1) / 2
        beside = (x - center[:, :1]).abs() >= half  # N,W
        above = (y - center[:, 1:]).abs() >= half  # N,H
        return images * (beside[:, None, None, :] | above[:, None, :, None])


# --------------------------------------------------------------------------- filters and matrices


def _filter_bank() -> Tensor:
    """4,43 symmetric taps that split a signal into octaves, lowest first; together they leave it as it is."""
    low = torch.tensor(SYM2, dtype=torch.float64)
    high = low.flip(0) * torch.tensor([1, -1, 1, -1])
    passing, stopping = ([float(c) / 2 for c in _convolve(f, f.flip(0))] for f in (low, high))
    bands, rest = [], torch.ones(1, dtype=torch.float64)
    for octave in range(len(BAND_POWER) - 1):
        spread = 2**octave
        bands.append(_convolve(_spread(stopping, spread), rest))
        rest = _convolve(_spread(passing, spread), rest)
    bands.append(rest)
    return torch.stack([F.pad(band, ((len(rest) - len(band)) // 2,) * 2) for band in reversed(bands)]).float()


def _convolve(a: Tensor, b: Tensor) -> Tensor:
    return F.conv1d(a[None, None], b.flip(0)[None, None], padding=len(b) - 1)[0, 0]


def _spread(taps: Sequence[float], step: int) -> Tensor:
    """The same filter for a signal of `step` times the resolution."""
    spread = torch.zeros((len(taps) - 1) * step + 1, dtype=torch.float64)
    spread[::step] = torch.tensor(taps, dtype=torch.float64)
    return spread


def _scale(x: Tensor, y: Tensor) -> Tensor:
    """N,3,3 from N and N."""
    return torch.diag_embed(torch.stack([x, y, torch.ones_like(x)], dim=1))


def _rotate(angle_rad: Tensor) -> Tensor:
    """N,3,3 from N, from x towards y."""
    c, s, zero, one = angle_rad.cos(), angle_rad.sin(), torch.zeros_like(angle_rad), torch.ones_like(angle_rad)
    return torch.stack([c, -s, zero, s, c, zero, zero, zero, one], dim=1).view(-1, 3, 3)


def _translate(shift: Tensor) -> Tensor:
    """N,3,3 from N,2 (x, y)."""
    matrix = torch.eye(3, device=shift.device).repeat(len(shift), 1, 1)
    matrix[:, :2, 2] = shift
    return matrix


def _rotate_about_gray(angle_rad: Tensor) -> Tensor:
    """N,3,3 from N: turns RGB about the gray axis (Rodrigues' formula)."""
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=angle_rad.device) / math.sqrt(3)
    c, s = angle_rad.cos().view(-1, 1, 1), angle_rad.sin().view(-1, 1, 1)
    return c * torch.eye(3, device=angle_rad.device) + (1 - c) / 3 + s * cross


# --------------------------------------------------------------------------- resampling


def _warp(images: Tensor, to_source: Tensor, f: Tensor) -> Tensor:
    """Resample at twice the resolution, so that neither the warp nor the way back aliases; mirrored beyond borders.

    Args:
        images: N,C,H,W.
        to_source: N,3,3, see `AugmentPipe._geometry`.
        f: orthonormal low-pass filter.
    """
    n, c, h, w = images.shape
    left, right, top, bottom = _margins(to_source, h, w)
    x = F.pad(images, (left, right, top, bottom), mode="reflect")
    source_size = torch.tensor([x.shape[3], x.shape[2], 2], device=x.device)  # the third stays as it is
    x = upsample2d(x, f)
    out_height, out_width = h + 2 * REACH, w + 2 * REACH  # what the last filter reaches
    out_size = torch.tensor([out_width, out_height, 2], device=x.device)
    recenter = torch.tensor([[(left - right) / 2, (top - bottom) / 2]], device=x.device)
    center = torch.full((1, 2), FILTER_DELAY, device=x.device)
    to_source = _translate(recenter + center) @ to_source @ _translate(-center)
    to_source = to_source * out_size / source_size[:, None]  # both sides in [-1, 1]
    grid = F.affine_grid(to_source[:, :2], [n, c, 2 * out_height, 2 * out_width], align_corners=False)
    x = _Sample.apply(x, grid)
    return downsample2d(x, f, padding=-2 * REACH, flip_filter=True)


def _margins(to_source: Tensor, height: int, width: int) -> tuple[int, int, int, int]:
    """(left, right, top, bottom) pixels beyond the border that any sample of the batch needs, at most one picture."""
    x, y = width / 2, height / 2
    fx, fy = x + REACH, y + REACH  # what the filter on the way back sees
    corners = torch.tensor([[-fx, -fy, 1], [fx, -fy, 1], [fx, fy, 1], [-fx, fy, 1]], device=to_source.device)
    places = to_source[:, :2] @ corners.T  # N,2,4
    outermost = torch.cat([-places.amin(dim=(0, 2)), places.amax(dim=(0, 2))])  # left, top, right, bottom
    need = outermost - torch.tensor([x, y, x, y], device=to_source.device) + REACH + 1  # enlarging, interpolation
    left, top, right, bottom = need.ceil().int().tolist()  # waits for the device: the sizes of tensors follow
    return tuple(
        min(max(pixels, 0), size - 1)
        for pixels, size in ((left, width), (right, width), (top, height), (bottom, height))
    )


class _Sample(torch.autograd.Function):
    """Bilinear samples that can be differentiated twice with respect to the images, as R1 asks (old torch cannot).

    Sampling is linear in the images: its gradient is the transposed operation, whose gradient is sampling again.
    """

    @staticmethod
    def forward(ctx, x, grid):
        ctx.save_for_backward(grid)
        ctx.shape = x.shape
        return F.grid_sample(x, grid, align_corners=False)

    @staticmethod
    def backward(ctx, dy):
        return _SampleTransposed.apply(dy, ctx.saved_tensors[0], ctx.shape), None


class _SampleTransposed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, dy, grid, shape):
        ctx.save_for_backward(grid)
        like = dy.new_zeros(1).expand(shape)  # only its shape matters for the gradient of the images
        dx, _ = torch.ops.aten.grid_sampler_2d_backward(dy, like, grid, 0, 0, False, [True, False])
        return dx

    @staticmethod
    def backward(ctx, ddx):
        return _Sample.apply(ddx, ctx.saved_tensors[0]), None, None
