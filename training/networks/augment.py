"""Adaptive discriminator augmentation (ADA; Karras et al. 2020, "Training GANs with Limited Data", appendix B)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torch_utils.ops.upfirdn2d import downsample2d, setup_filter, upsample2d

# Low-pass taps of orthonormal wavelets (Daubechies, "Ten Lectures on Wavelets", tables 6.1 and 6.3). Upsampling by 2
# with SYM6 and downsampling again with it is the identity.
SYM2 = [c / (4 * math.sqrt(2)) for c in (1 - math.sqrt(3), 3 - math.sqrt(3), 3 + math.sqrt(3), 1 + math.sqrt(3))]
SYM6 = [
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466,
    0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578,
    0.0017677118642428036, -0.007800708325034148,
]  # fmt: skip
# Shift, in pixels, of an image upsampled with SYM6. The filter's center is at tap 5.1 of 0 to 11; the published code
# uses 5.
FILTER_DELAY = -0.25
# Pixels of the image that SYM6 extends to either side at twice the resolution.
REACH = len(SYM6) // 4
# Power of natural images (spectrum 1/f) in the bands of `_filter_bank`.
BAND_POWER = [10 / 13, 1 / 13, 1 / 13, 1 / 13]


def adapt_p(p: float, mean_sign: float, target: float, images: int, kimg: float) -> float:
    """Adapt the augmentation probability to the discriminator's overfitting (section 3.1, r_t).

    Args:
        p: current probability.
        mean_sign: r_t, mean sign of D's logits of real images since the last call, in [-1, 1]; NaN if there are none.
        target: value of r_t to hold; p rises above it and falls below it.
        images: number of images shown since the last call.
        kimg: thousands of images over which p can rise by 1.
    Returns:
        The new probability, at least 0; unchanged if `mean_sign` is NaN.
    """
    # No real image was evaluated since the last call.
    if math.isnan(mean_sign):
        return p

    # Fixed steps, up or down: the size of the difference does not matter.
    direction = (mean_sign > target) - (mean_sign < target)
    return max(0.0, p + direction * images / (kimg * 1000))


@dataclass(frozen=True)
class AugmentPipeOptions:
    """Options of AugmentPipe, under their published names.

    Each augmentation has a probability, relative to the pipe's `p` (0 = never), and a strength.
    """

    # Geometry.
    xflip: float = 0
    rotate90: float = 0
    xint: float = 0  # translation by whole pixels
    xint_max: float = 0.125  # relative to the image size
    scale: float = 0
    scale_std: float = 0.2  # octaves
    rotate: float = 0
    rotate_max: float = 1  # half turns
    aniso: float = 0  # stretches one axis and shrinks the other
    aniso_std: float = 0.2  # octaves
    xfrac: float = 0  # translation by fractions of pixels
    xfrac_std: float = 0.125  # relative to the image size
    # Color.
    brightness: float = 0
    brightness_std: float = 0.2  # of images in [-1, 1]
    contrast: float = 0
    contrast_std: float = 0.5  # octaves
    lumaflip: float = 0  # inverts the luma, keeps the chroma
    hue: float = 0
    hue_max: float = 1  # half turns
    saturation: float = 0
    saturation_std: float = 1  # octaves
    # Frequency bands.
    imgfilter: float = 0
    imgfilter_bands: Sequence[float] = (1, 1, 1, 1)  # relative probability of each band, lowest first
    imgfilter_std: float = 1  # octaves
    # Corruption.
    noise: float = 0
    noise_std: float = 0.1
    cutout: float = 0
    cutout_size: float = 0.5  # relative to the image size


class _RandomParameters:
    """Random parameters of N samples.

    With a percentile, every random number is replaced by that quantile and every augmentation is applied.
    """

    def __init__(self, batch: int, p: Tensor, percentile: float | None):
        self.batch = batch
        self.p = p
        self.percentile = percentile

    def uniform(self, *size: int) -> Tensor:
        """N,*size in [0, 1)."""
        if self.percentile is None:
            return torch.rand(self.batch, *size, device=self.p.device)
        return torch.full((self.batch, *size), self.percentile, device=self.p.device)

    def normal(self, *size: int) -> Tensor:
        """N,*size, standard normal. The quantile is the published one, which is 1/sqrt(2) of the true one."""
        if self.percentile is None:
            return torch.randn(self.batch, *size, device=self.p.device)
        return torch.erfinv(2 * self.uniform(*size) - 1)

    def apply(self, augmented: Tensor, identity: float, probability: float | Tensor) -> Tensor:
        """Replace `augmented` (N or N,k) by `identity` in samples that are not selected with this probability."""
        if self.percentile is not None:
            return augmented
        # A random number is generated at any probability, so that a run's random sequence does not depend on p.
        selected = torch.rand(self.batch, *[1] * (augmented.ndim - 1), device=self.p.device) < probability
        return torch.where(selected, augmented, identity)


class AugmentPipe(nn.Module):
    """Random augmentation of the images that a discriminator sees, real and generated ones alike.

    Args:
        options: fields of AugmentPipeOptions. The buffer `p` (a scalar) scales all probabilities.
    Raises:
        ValueError: imgfilter_bands of another length.
    """

    def __init__(self, **options):
        super().__init__()
        self.options = AugmentPipeOptions(**options)
        if len(self.options.imgfilter_bands) != len(BAND_POWER):
            raise ValueError(f"imgfilter_bands: expected {len(BAND_POWER)} numbers, got {self.options.imgfilter_bands}")

        # p adapts during training and is part of its state.
        self.register_buffer("p", torch.ones([]))
        self.register_buffer("Hz_geom", setup_filter(SYM6))
        self.register_buffer("Hz_fbank", _filter_bank())

    def forward(
        self, images: Tensor, debug_percentile: float | None = None, color_channels: Sequence[int] | None = None
    ) -> Tensor:
        """Augment each sample with its own parameters, and all channels of a sample with the same.

        Args:
            images: N,C,H,W in [-1, 1].
            debug_percentile: apply every augmentation with this quantile instead of random parameters.
            color_channels: indices of the gray (one) or RGB (three per image) channels, None for all. The other
                channels, label maps, get the same geometry and cutout, but keep their values.
        Returns:
            N,C,H,W, not limited to [-1, 1].
        Raises:
            ValueError: the number of color channels is neither 1 nor a multiple of 3.
        First and second derivatives with respect to the images are supported (R1 needs both).
        """
        # The order of the random numbers is the published one: geometry, color, bands, noise, cutout.
        random = _RandomParameters(len(images), self.p, debug_percentile)
        images = self._transform_geometry(images, random)

        # Values of the color channels. Class probabilities and edges would lose their meaning.
        if color_channels is None:
            images = self._change_values(images, random)
        else:
            channels = torch.tensor(color_channels, device=images.device)
            images = images.index_copy(1, channels, self._change_values(images[:, channels], random))

        return self._cutout(images, random)

    def _change_values(self, images: Tensor, random: _RandomParameters) -> Tensor:
        """The augmentations that do not apply to labels: color, frequency bands, noise. N,C,H,W."""
        # Noise comes last, so that filters do not smooth it.
        images = self._transform_color(images, random)
        images = self._filter_bands(images, random)
        return self._add_noise(images, random)

    # ------------------------------------------------------------------- geometry

    def _transform_geometry(self, images: Tensor, random: _RandomParameters) -> Tensor:
        opts = self.options
        if not any((opts.xflip, opts.rotate90, opts.xint, opts.scale, opts.rotate, opts.aniso, opts.xfrac)):
            return images
        return _warp(images, self._geometry(random, *images.shape[2:]), self.Hz_geom)

    def _geometry(self, random: _RandomParameters, height: int, width: int) -> Tensor:
        """N,3,3 homogeneous transform from pixel coordinates of the output to those of the input.

        The origin is the image center. An augmentation acts on the result of those before it, so its inverse is
        multiplied from the right.
        """
        opts = self.options
        p = self.p
        to_source = torch.eye(3, device=p.device)
        size = torch.tensor([width, height], device=p.device)

        # Pixel blitting maps the pixel grid to itself: flips, quarter turns, whole pixels. The identity is among the
        # flips and quarter turns that are chosen from.
        if opts.xflip > 0:
            # 1 - 2 flip is -1 for mirrored images.
            flip = random.apply((2 * random.uniform()).floor(), 0, opts.xflip * p)
            to_source = to_source @ _scale(1 - 2 * flip, torch.ones_like(flip))
        if opts.rotate90 > 0:
            quarters = random.apply((4 * random.uniform()).floor(), 0, opts.rotate90 * p)
            to_source = to_source @ _rotate(quarters * (math.pi / 2))
        if opts.xint > 0:
            shift = random.apply((2 * random.uniform(2) - 1) * opts.xint_max, 0, opts.xint * p)
            to_source = to_source @ _translate(-(shift * size).round())

        # General geometry. Factors are log-normal, so that enlarging is as likely as shrinking. Rotations before and
        # after the anisotropic scaling make its direction random; each has the probability for which at least one of
        # them happens with probability rotate * p: 1 - (1 - p_rotate)^2 = rotate p.
        if opts.scale > 0:
            # An image is enlarged by reading it at coordinates that are closer together.
            factor = random.apply((random.normal() * opts.scale_std).exp2(), 1, opts.scale * p)
            to_source = to_source @ _scale(1 / factor, 1 / factor)
        p_rotate = 1 - (1 - opts.rotate * p).clamp(0, 1).sqrt()
        if opts.rotate > 0:
            angle_rad = random.apply((2 * random.uniform() - 1) * (math.pi * opts.rotate_max), 0, p_rotate)
            to_source = to_source @ _rotate(angle_rad)
        if opts.aniso > 0:
            # Opposite factors keep the area.
            factor = random.apply((random.normal() * opts.aniso_std).exp2(), 1, opts.aniso * p)
            to_source = to_source @ _scale(1 / factor, factor)
        # With a percentile, the image is rotated only once.
        if opts.rotate > 0 and random.percentile is None:
            angle_rad = random.apply((2 * random.uniform() - 1) * (math.pi * opts.rotate_max), 0, p_rotate)
            to_source = to_source @ _rotate(angle_rad)
        if opts.xfrac > 0:
            shift = random.apply(random.normal(2) * opts.xfrac_std, 0, opts.xfrac * p)
            to_source = to_source @ _translate(-shift * size)
        return to_source

    # ------------------------------------------------------------------- color

    def _transform_color(self, images: Tensor, random: _RandomParameters) -> Tensor:
        opts = self.options
        if not any((opts.brightness, opts.contrast, opts.lumaflip, opts.hue, opts.saturation)):
            return images
        n, channels, height, width = images.shape
        if channels != 1 and channels % 3:
            raise ValueError(f"images: expected 1 color channel or a multiple of 3, got {channels}")
        transform = self._color_transform(random)  # N,3,4

        # Gray images: the mean effect on R, G and B, for three equal inputs.
        if channels == 1:
            transform = transform.mean(dim=1)  # N,4
            return images * transform[:, :3].sum(dim=1).view(n, 1, 1, 1) + transform[:, 3].view(n, 1, 1, 1)

        # One or several RGB images per sample (final and raw image), all with the transform of the sample.
        pixels = images.reshape(n, channels // 3, 3, height * width)
        pixels = transform[:, None, :, :3] @ pixels + transform[:, None, :, 3:]
        return pixels.reshape(images.shape)

    def _color_transform(self, random: _RandomParameters) -> Tensor:
        """N,3,4: a matrix for RGB and, in the last column, an offset. Each augmentation acts on those before it."""
        # Start from the identity, one matrix per sample.
        opts = self.options
        p = self.p
        identity = torch.eye(3, device=p.device)
        gray = torch.full((3, 3), 1 / 3, device=p.device)  # projection on the gray axis
        transform = torch.eye(3, 4, device=p.device).repeat(random.batch, 1, 1)

        # Affine transforms of all colors: y = x + offset, y = factor x. The contrast scales earlier offsets too.
        if opts.brightness > 0:
            offset = random.apply(random.normal() * opts.brightness_std, 0, opts.brightness * p)
            transform = transform + F.pad(offset.view(-1, 1, 1).expand(-1, 3, 1), (3, 0))
        if opts.contrast > 0:
            factor = random.apply((random.normal() * opts.contrast_std).exp2(), 1, opts.contrast * p)
            transform = transform * factor.view(-1, 1, 1)

        # With the unit vector v of the gray axis, gray = v v^T. Householder reflection I - 2 v v^T, which negates the
        # luma; rotation about v; scaling of the distance from v.
        if opts.lumaflip > 0:
            flip = random.apply((2 * random.uniform()).floor(), 0, opts.lumaflip * p)
            transform = (identity - 2 * flip.view(-1, 1, 1) * gray) @ transform
        if opts.hue > 0:
            angle_rad = random.apply((2 * random.uniform() - 1) * (math.pi * opts.hue_max), 0, opts.hue * p)
            transform = _rotate_about_gray(angle_rad) @ transform
        if opts.saturation > 0:
            factor = random.apply((random.normal() * opts.saturation_std).exp2(), 1, opts.saturation * p)
            transform = (gray + (identity - gray) * factor.view(-1, 1, 1)) @ transform
        return transform

    # ------------------------------------------------------------------- frequency bands, noise, cutout

    def _filter_bands(self, images: Tensor, random: _RandomParameters) -> Tensor:
        opts = self.options
        if not opts.imgfilter:
            return images
        n, channels, height, width = images.shape

        # Random gain of each band, one band after the other; each time, all gains are normalized so that the expected
        # power of natural images is kept.
        power = torch.tensor(BAND_POWER, device=images.device)
        gains = torch.ones(n, len(BAND_POWER), device=images.device)
        for band, strength in enumerate(opts.imgfilter_bands):
            factor = random.apply((random.normal() * opts.imgfilter_std).exp2(), 1, opts.imgfilter * self.p * strength)
            band_gains = torch.ones_like(gains)
            band_gains[:, band] = factor
            gains = gains * band_gains / (power * band_gains.square()).sum(dim=1, keepdim=True).sqrt()

        # The sum of the bands, weighted by their gains, is a single filter per sample. Separable convolution of each
        # image with its own filter, as groups of one batch entry.
        taps = (gains @ self.Hz_fbank).repeat_interleave(channels, dim=0)  # N*C,taps
        side = taps.shape[1] // 2
        x = F.pad(images.reshape(1, n * channels, height, width), (side,) * 4, mode="reflect")
        x = F.conv2d(x, taps[:, None, None, :], groups=n * channels)
        x = F.conv2d(x, taps[:, None, :, None], groups=n * channels)
        return x.reshape(images.shape)

    def _add_noise(self, images: Tensor, random: _RandomParameters) -> Tensor:
        opts = self.options
        if not opts.noise:
            return images
        # Half-normal standard deviation per sample; its quantile function is erfinv up to a factor.
        if random.percentile is None:
            sigma = random.apply(random.normal().abs() * opts.noise_std, 0, opts.noise * self.p)
        else:
            sigma = torch.erfinv(random.uniform()) * opts.noise_std
        # Independent noise for every pixel and channel.
        return images + torch.randn_like(images) * sigma.view(-1, 1, 1, 1)

    def _cutout(self, images: Tensor, random: _RandomParameters) -> Tensor:
        opts = self.options
        if not opts.cutout:
            return images
        n, _, height, width = images.shape

        # A square of this size and center, relative to the image size from its corner; of size 0 where not selected.
        size = random.apply(torch.full((n,), opts.cutout_size, device=images.device), 0, opts.cutout * self.p)
        center = random.uniform(2)  # N,2 (x, y)
        half = size.view(n, 1) / 2

        # Keep the pixels outside of it. Those inside become 0, gray in the range [-1, 1].
        x = (torch.arange(width, device=images.device) + 0.5) / width
        y = (torch.arange(height, device=images.device) + 0.5) / height
        outside_x = (x - center[:, :1]).abs() >= half  # N,W
        outside_y = (y - center[:, 1:]).abs() >= half  # N,H
        return images * (outside_x[:, None, None, :] | outside_y[:, None, :, None])


# --------------------------------------------------------------------------- filters and matrices


def _filter_bank() -> Tensor:
    """4,43 symmetric taps that split a signal into octaves, lowest first; they sum to the identity.

    Half-band filters are made of SYM2 and its mirror; dilated by 2, 4, ... they split the low-pass remainder further.
    """
    # Half-band filters of length 7: autocorrelations of the wavelet's low-pass and high-pass filter. Half of each, they
    # sum to the identity.
    low = torch.tensor(SYM2, dtype=torch.float64)
    high = low.flip(0) * torch.tensor([1, -1, 1, -1])
    low_pass = [float(c) / 2 for c in _convolve(low, low.flip(0))]
    high_pass = [float(c) / 2 for c in _convolve(high, high.flip(0))]

    # Split off the highest octave of the remainder, again and again.
    bands = []
    remainder = torch.ones(1, dtype=torch.float64)
    for octave in range(len(BAND_POWER) - 1):
        bands.append(_convolve(_dilate(high_pass, 2**octave), remainder))
        remainder = _convolve(_dilate(low_pass, 2**octave), remainder)
    bands.append(remainder)

    # Center all bands in the length of the longest, 43 taps; lowest band first.
    length = len(remainder)
    return torch.stack([F.pad(band, ((length - len(band)) // 2,) * 2) for band in reversed(bands)]).float()


def _convolve(a: Tensor, b: Tensor) -> Tensor:
    # F.conv1d is a correlation, so the second operand is mirrored.
    return F.conv1d(a[None, None], b.flip(0)[None, None], padding=len(b) - 1)[0, 0]


def _dilate(taps: Sequence[float], step: int) -> Tensor:
    """Insert step - 1 zeros between taps: the same filter at `step` times the resolution."""
    # The frequency response is compressed by `step`, and repeats at higher frequencies.
    dilated = torch.zeros((len(taps) - 1) * step + 1, dtype=torch.float64)
    dilated[::step] = torch.tensor(taps, dtype=torch.float64)
    return dilated


def _scale(x: Tensor, y: Tensor) -> Tensor:
    """N,3,3 from the factors N along x and y."""
    return torch.diag_embed(torch.stack([x, y, torch.ones_like(x)], dim=1))


def _rotate(angle_rad: Tensor) -> Tensor:
    """N,3,3 from angles N, from x towards y."""
    cos = angle_rad.cos()
    sin = angle_rad.sin()
    # Row-major, so that angle 90 degrees maps (1, 0) to (0, 1).
    zero = torch.zeros_like(angle_rad)
    one = torch.ones_like(angle_rad)
    return torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], dim=1).view(-1, 3, 3)


def _translate(shift: Tensor) -> Tensor:
    """N,3,3 from shifts N,2 (x, y)."""
    # The last column holds the shift of homogeneous coordinates.
    matrix = torch.eye(3, device=shift.device).repeat(len(shift), 1, 1)
    matrix[:, :2, 2] = shift
    return matrix


def _rotate_about_gray(angle_rad: Tensor) -> Tensor:
    """N,3,3 from angles N: rotation of RGB about the gray axis (Rodrigues' formula)."""
    # cos I + (1 - cos) v v^T + sin [v]_x with v = (1, 1, 1) / sqrt(3), so that all elements of v v^T are 1/3.
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=angle_rad.device) / math.sqrt(3)
    cos = angle_rad.cos().view(-1, 1, 1)
    sin = angle_rad.sin().view(-1, 1, 1)
    return cos * torch.eye(3, device=angle_rad.device) + (1 - cos) / 3 + sin * cross


# --------------------------------------------------------------------------- resampling


def _warp(images: Tensor, to_source: Tensor, f: Tensor) -> Tensor:
    """Resample images at twice the resolution, to avoid aliasing; they are mirrored beyond their borders.

    Args:
        images: N,C,H,W.
        to_source: N,3,3, see `AugmentPipe._geometry`.
        f: orthonormal low-pass filter.
    """
    n, channels, height, width = images.shape

    # Mirror as far as the transforms reach, and upsample. Without the padding, moved images would get black borders,
    # which the generator would learn to imitate.
    left, right, top, bottom = _margins(to_source, height, width)
    x = F.pad(images, (left, right, top, bottom), mode="reflect")
    source_size = torch.tensor([x.shape[3], x.shape[2], 2], device=x.device)  # the third keeps homogeneous units
    x = upsample2d(x, f)

    # The same transform about the center of the padded image, in the units of grid_sample ([-1, 1]). Padding that
    # differs between two sides moves the center; the filter's delay is undone before the transform and redone after.
    out_height = height + 2 * REACH  # the extent that the final downsampling reads
    out_width = width + 2 * REACH
    out_size = torch.tensor([out_width, out_height, 2], device=x.device)
    recenter = torch.tensor([[(left - right) / 2, (top - bottom) / 2]], device=x.device)
    delay = torch.full((1, 2), FILTER_DELAY, device=x.device)
    to_source = _translate(recenter + delay) @ to_source @ _translate(-delay)
    to_source = to_source * out_size / source_size[:, None]

    # Sample at twice the resolution of the output, N,C,2(H+2 REACH),2(W+2 REACH), and downsample.
    grid = F.affine_grid(to_source[:, :2], [n, channels, 2 * out_height, 2 * out_width], align_corners=False)
    x = _GridSample.apply(x, grid)
    return downsample2d(x, f, padding=-2 * REACH, flip_filter=True)


def _margins(to_source: Tensor, height: int, width: int) -> tuple[int, int, int, int]:
    """Pixels (left, right, top, bottom) beyond the border that any sample of the batch needs.

    Each margin is less than the image size, the limit of mirroring.
    """
    # Corners of the area that the downsampling filter reads, in input coordinates. Affine maps are extreme at corners.
    x = width / 2
    y = height / 2
    reach_x = x + REACH
    reach_y = y + REACH
    corners = [[-reach_x, -reach_y, 1], [reach_x, -reach_y, 1], [reach_x, reach_y, 1], [-reach_x, reach_y, 1]]
    in_source = to_source[:, :2] @ torch.tensor(corners, device=to_source.device).T  # N,2,4

    # Extent beyond the border, plus that of the upsampling filter and of bilinear interpolation.
    extent = torch.cat([-in_source.amin(dim=(0, 2)), in_source.amax(dim=(0, 2))])  # left, top, right, bottom
    margin = extent - torch.tensor([x, y, x, y], device=to_source.device) + REACH + 1
    limit = torch.tensor([width, height, width, height], dtype=torch.int32, device=to_source.device) - 1
    # This waits for the device, once per call: tensor sizes depend on the result.
    left, top, right, bottom = margin.ceil().int().clamp(min=0).minimum(limit).tolist()
    return left, right, top, bottom


class _GridSample(torch.autograd.Function):
    """Bilinear sampling of images with second derivatives, which F.grid_sample lacks and R1 needs.

    Sampling is linear in the images: its gradient is the transposed operation, whose gradient is sampling again.
    """

    @staticmethod
    def forward(ctx, x, grid):
        ctx.save_for_backward(grid)
        ctx.shape = x.shape
        return F.grid_sample(x, grid, align_corners=False)

    @staticmethod
    def backward(ctx, dy):
        # No gradient for the grid: random transforms are not trained.
        return _GridSampleTransposed.apply(dy, ctx.saved_tensors[0], ctx.shape), None


class _GridSampleTransposed(torch.autograd.Function):
    """Gradient of `_GridSample` with respect to the images."""

    @staticmethod
    def forward(ctx, dy, grid, shape):
        ctx.save_for_backward(grid)
        # The gradient of the images needs their shape, but not their values. 0, 0 and False are the defaults of
        # F.grid_sample as used above: bilinear, zero padding, align_corners.
        like = dy.new_zeros(1).expand(shape)
        dx, _ = torch.ops.aten.grid_sampler_2d_backward(dy, like, grid, 0, 0, False, [True, False])
        return dx

    @staticmethod
    def backward(ctx, ddx):
        return _GridSample.apply(ddx, ctx.saved_tensors[0]), None, None
