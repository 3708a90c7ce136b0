"""Resampling of images: upsample with zeros, pad or crop, FIR filter, downsample."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_utils.ops.build import TOLERANCE, stream_handle, use_kernel

# From this length on, a list of taps stays a 1-D (separable) filter. A shorter one becomes its outer product, as
# [1, 3, 3, 1] is stored in published weights.
SEPARABLE_FROM_TAPS = 8

Ints = int | Sequence[int]


# --------------------------------------------------------------------------- arguments


def setup_filter(
    f: Tensor | Sequence | float | None,
    device: torch.device | str = "cpu",
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1,
    separable: bool | None = None,
) -> Tensor:
    """Prepare a FIR filter for `upfirdn2d`.

    Args:
        f: list of taps or kh,kw table; a number or None (= 1) is a single tap.
        device: of the result.
        normalize: divide by the sum of the taps.
        flip_filter: reverse the filter.
        gain: factor that filtering applies to the brightness, after normalization.
        separable: keep a list 1-D; None = from SEPARABLE_FROM_TAPS taps on.
    Returns:
        float32, shape taps (separable) or kh,kw.
    Raises:
        ValueError: no taps, more than two axes, or a separable kh,kw table.
    """
    f = torch.as_tensor(1 if f is None else f, dtype=torch.float32)
    if f.ndim > 2 or f.numel() == 0:
        raise ValueError(f"f: expected a number, a list of taps or a kh,kw table, got shape {tuple(f.shape)}")
    if f.ndim == 0:
        f = f.reshape(1)

    # One or two axes. Two passes of k taps cost less than one of k^2 if k is large.
    if separable is None:
        separable = f.ndim == 1 and f.numel() >= SEPARABLE_FROM_TAPS
    if separable and f.ndim == 2:
        raise ValueError(f"f: a separable filter is a list of taps, got shape {tuple(f.shape)}")
    if f.ndim == 1 and not separable:
        f = torch.outer(f, f)

    # Gain; a separable filter is applied twice, so it gets the square root.
    if normalize:
        f = f / f.sum()
    if flip_filter:
        f = f.flip(list(range(f.ndim)))
    return (f * gain ** (f.ndim / 2)).to(device)


def parse_pair(value: Ints, name: str) -> tuple[int, int]:
    """Return (x, y) for a positive integer or two."""
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or min(pair) < 1:
        raise ValueError(f"{name}: expected a positive integer or two (x, y), got {value}")
    return pair


def parse_padding(padding: Ints) -> tuple[int, int, int, int]:
    """Return (left, right, top, bottom) for one integer, two (x, y) or four."""
    sides = (padding,) * 4 if isinstance(padding, int) else tuple(padding)

    # As in `conv2d`, but x first.
    if len(sides) == 2:
        sides = (sides[0], sides[0], sides[1], sides[1])
    if len(sides) != 4:
        raise ValueError(f"padding: expected 1, 2 or 4 integers, got {padding}")
    return sides


def check_image(x: Tensor) -> None:
    """Raise ValueError unless `x` is N,C,H,W with at least one pixel."""
    if x.ndim != 4 or x.shape[2] < 1 or x.shape[3] < 1:
        raise ValueError(f"x: expected N,C,H,W with H and W at least 1, got {tuple(x.shape)}")


def filter_size(f: Tensor | None) -> tuple[int, int]:
    """Return (kw, kh) of a filter of shape taps or kh,kw; None is a single tap.

    Raises:
        ValueError: any other shape, or empty.
    """
    if f is None:
        return 1, 1
    if f.ndim not in (1, 2) or f.numel() == 0:
        raise ValueError(f"f: expected taps or kh,kw as setup_filter returns, got {tuple(f.shape)}")
    return f.shape[-1], f.shape[0]


def resample_padding(f: Tensor | None, up: tuple[int, int], down: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the padding with which resampling scales the size by exactly up/down and does not shift the image.

    Args:
        f: shape taps or kh,kw, or None.
        up, down: factors (x, y).
    """
    padding = []

    # Where the number of taps leaves a choice, the larger half comes first, as published weights require.
    for taps, axis_up, axis_down in zip(filter_size(f), up, down, strict=True):
        if axis_up > 1:
            padding += [(taps + axis_up - 1) // 2, (taps - axis_up) // 2]
        else:
            padding += [(taps - axis_down + 1) // 2, (taps - axis_down) // 2]
    return tuple(padding)


# --------------------------------------------------------------------------- operators


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    up: Ints = 1,
    down: Ints = 1,
    padding: Ints = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "auto",
) -> Tensor:
    """Insert `up`-1 zeros after each pixel, pad, convolve with `f`, keep every `down`-th pixel.

    Args:
        x: N,C,H,W, any floating point type; the memory format is kept, unless up and down both exceed 1 without the
            kernel.
        f: from `setup_filter`: taps (applied along x, then along y) or kh,kw; None = a single tap of 1.
        up, down: factors, one number or (x, y).
        padding: upsampled pixels: one number, (x, y) or (left, right, top, bottom); negative crops.
        flip_filter: correlate instead of convolving.
        gain: factor of the result.
        impl: see `build.use_kernel`.
    Returns:
        N,C,H',W' with W' = (W*up + left + right - kw) // down + 1, and H' accordingly.
    Raises:
        ValueError: wrong shapes, or an empty result.
    Gradients of any order reach x, none f.
    """
    # Arguments, by axis and by side.
    check_image(x)
    up = parse_pair(up, "up")
    down = parse_pair(down, "down")
    padding = parse_padding(padding)
    left, right, top, bottom = padding
    kw, kh = filter_size(f)

    # Each axis must keep a pixel of the image, and enough pixels for the filter.
    axes = ((x.shape[3] * up[0], kw, left, right), (x.shape[2] * up[1], kh, top, bottom))
    for size, taps, before, after in axes:
        if size + before + after < taps or min(before, after) <= -size:
            raise ValueError(f"x: {tuple(x.shape)}, up {up}, padding {padding} is too small for {kh} x {kw} taps")

    # Implementation: kernel, convolution, or the definition on request.
    f = torch.ones(1, 1, device=x.device) if f is None else f.detach()
    without_kernel = _upfirdn2d_ref if impl == "ref" else _upfirdn2d_conv
    run = _Upfirdn2d.apply if use_kernel(impl, x.device, comparison=_compare) else without_kernel

    # A kh,kw table takes one pass. A separable filter is applied along x, then along y, with the gain once.
    if f.ndim == 2:
        return run(x, f, up, down, padding, flip_filter, gain)
    x = run(x, f[None, :], (up[0], 1), (down[0], 1), (left, right, 0, 0), flip_filter, 1.0)
    return run(x, f[:, None], (1, up[1]), (1, down[1]), (0, 0, top, bottom), flip_filter, gain)


def filter2d(x: Tensor, f: Tensor | None, padding: Ints = 0, flip_filter: bool = False, gain: float = 1) -> Tensor:
    """Filter x N,C,H,W without changing its size; `padding` enlarges the result, negative crops. See `upfirdn2d`."""
    return _resample(x, f, (1, 1), (1, 1), padding, flip_filter, gain)


def upsample2d(
    x: Tensor, f: Tensor | None, up: Ints = 2, padding: Ints = 0, flip_filter: bool = False, gain: float = 1
) -> Tensor:
    """Upsample x N,C,H,W, keeping its brightness; `padding` is in pixels of the result. See `upfirdn2d`."""
    up = parse_pair(up, "up")
    # The gain makes up for the inserted zeros.
    return _resample(x, f, up, (1, 1), padding, flip_filter, gain * up[0] * up[1])


def downsample2d(
    x: Tensor, f: Tensor | None, down: Ints = 2, padding: Ints = 0, flip_filter: bool = False, gain: float = 1
) -> Tensor:
    """Downsample x N,C,H,W; `padding` is in pixels of x. See `upfirdn2d`."""
    return _resample(x, f, (1, 1), parse_pair(down, "down"), padding, flip_filter, gain)


def _resample(x, f, up, down, padding, flip_filter, gain):
    """Call `upfirdn2d` with the padding that does not shift the image, plus the caller's; factors (x, y)."""
    centered = resample_padding(f, up, down)
    padding = [a + b for a, b in zip(parse_padding(padding), centered, strict=True)]
    return upfirdn2d(x, f, up, down, padding, flip_filter, gain)


# --------------------------------------------------------------------------- reference


def _upfirdn2d_ref(x, f, up, down, padding, flip_filter, gain):
    """Reference: the definition step by step; x N,C,H,W, f kh,kw."""
    n, c, h, w = x.shape

    # Insert zeros and pad; F.pad crops where padding is negative.
    spaced = x.new_zeros(n, c, h, up[1], w, up[0])
    spaced[:, :, :, 0, :, 0] = x
    x = F.pad(spaced.reshape(n, c, h * up[1], w * up[0]), padding)

    # Filter each channel, and drop pixels. `conv2d` correlates, so a convolution needs the filter reversed.
    f = f if flip_filter else f.flip([0, 1])
    x = F.conv2d(x, _depthwise(f * gain, x), groups=c)
    return x[:, :, :: down[1], :: down[0]]


def _upfirdn2d_conv(x, f, up, down, padding, flip_filter, gain):
    """Compute `_upfirdn2d_ref` as one depthwise convolution, which skips inserted zeros and keeps the memory format."""
    # Crop first: PyTorch's convolutions take no negative padding.
    x, padding = _crop(x, up, padding)
    left, right, top, bottom = padding
    channels = x.shape[1]
    kh, kw = f.shape

    # Single tap: a multiplication of the pixels that are kept.
    if f.numel() == 1 and up == (1, 1) and not any(padding):
        return x[:, :, :: down[1], :: down[0]] * (f * gain).to(x.dtype)

    # Without upsampling: a convolution, which can pad only symmetrically.
    if up == (1, 1):
        f = f if flip_filter else f.flip([0, 1])
        if left != right or top != bottom:
            x = F.pad(x, padding)
            left = 0
            top = 0
        return F.conv2d(x, _depthwise(f * gain, x), stride=down[::-1], padding=(top, left), groups=channels)

    # With upsampling: a transposed convolution. Its result has a pixel wherever a tap of the filter meets the image.
    # Those beyond the padding are cut, equal amounts on both sides by the convolution itself; negative ones are added.
    f = f.flip([0, 1]) if flip_filter else f
    cut = [kw - 1 - left, kw - up[0] - right, kh - 1 - top, kh - up[1] - bottom]
    cut_x = max(0, min(cut[:2]))
    cut_y = max(0, min(cut[2:]))
    x = F.conv_transpose2d(x, _depthwise(f * gain, x), stride=up[::-1], padding=(cut_y, cut_x), groups=channels)

    # Cut or add the rest, which differs between the sides.
    remaining = [cut_x - cut[0], cut_x - cut[1], cut_y - cut[2], cut_y - cut[3]]
    x = F.pad(x, remaining) if any(remaining) else x
    return x if down == (1, 1) else x[:, :, :: down[1], :: down[0]]


def _depthwise(f: Tensor, x: Tensor) -> Tensor:
    """Return f kh,kw as C,1,kh,kw in the type of x N,C,H,W."""
    return f.to(x.dtype).expand(x.shape[1], 1, *f.shape)


def _crop(x: Tensor, up: tuple[int, int], padding: Sequence[int]) -> tuple[Tensor, tuple[int, ...]]:
    """Crop x N,C,H,W where padding is negative; the returned padding is above -up, so it crops only inserted zeros."""
    remaining = []
    for axis in (0, 1):  # x, y
        dim = 3 - axis
        size = x.shape[dim]
        before, after = padding[2 * axis : 2 * axis + 2]

        # First pixel that is kept.
        first = -(before // up[axis]) if before < 0 else 0
        # One past the last one.
        last = -((-size * up[axis] - after) // up[axis]) if after < 0 else size
        # A view; the convolution makes a copy if it needs one.
        if first or last < size:
            x = x.narrow(dim, first, last - first)
        remaining += [before + first * up[axis], after + (size - last) * up[axis]]
    return x, tuple(remaining)


# --------------------------------------------------------------------------- kernel


class _Upfirdn2d(torch.autograd.Function):
    """Kernel with autograd. The gradient is the same operator with up and down exchanged and the filter reversed."""

    @staticmethod
    def forward(ctx, x, f, up, down, padding, flip_filter, gain):
        # The operator is linear in x, so its gradient needs the shape of x only.
        ctx.save_for_backward(f)
        ctx.call = (x.shape, up, down, padding, flip_filter, gain)
        with torch.cuda.device_of(x):
            return torch.ops.pix2pix3d.upfirdn2d(
                x, f.float().contiguous(), *up, *down, list(padding), flip_filter, gain, stream_handle(x.device)
            )

    @staticmethod
    def backward(ctx, dy):
        (f,) = ctx.saved_tensors
        shape, up, down, (left, _, top, _), flip_filter, gain = ctx.call
        kh, kw = f.shape

        # With this padding the result has the shape of x, and each element of dy meets the taps it came from.
        padding = (
            kw - 1 - left,
            (shape[3] - 1) * up[0] - dy.shape[3] * down[0] + 1 + left,
            kh - 1 - top,
            (shape[2] - 1) * up[1] - dy.shape[2] * down[1] + 1 + top,
        )
        dx = _Upfirdn2d.apply(dy, f, down, up, padding, not flip_filter, gain)
        return dx, None, None, None, None, None, None


def _compare(device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Compute values, first and second derivatives by kernel and reference, see `build.use_kernel`."""
    # The usual filter at equal size, upsampling and downsampling. Values that 16 bits hold.
    f = setup_filter([1, 3, 3, 1], device=device)
    for dtype in TOLERANCE:
        for up, down in ((1, 1), (2, 1), (1, 2)):
            results = []
            for impl, kind in (("kernel", dtype), ("ref", torch.float32)):
                x = (torch.arange(126, device=device) % 13 / 4 - 1).view(2, 3, 7, 3).to(kind).requires_grad_()
                y = upfirdn2d(x, f, up, down, padding=(2, 1, 3, 1), impl=impl)
                dx = torch.autograd.grad(y.square().sum(), x, create_graph=True)[0]
                results.append((y, dx, torch.autograd.grad(dx.square().sum(), x)[0]))
            yield from zip(*results, strict=True)
