"""Resampling of images: insert zeros, pad or crop, FIR filter, keep every n-th pixel."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_utils.ops.build import stream_handle, use_kernel

# A list of taps stays a 1-D (separable) filter from this length on; a shorter one becomes its outer product, which is
# how [1, 3, 3, 1] is stored in published weights.
SEPARABLE_FROM_TAPS = 8

Ints = int | Sequence[int]


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
        f: taps as a list (separable) or a kh,kw table; one number or None (= 1) is a single tap.
        normalize: make the taps add up to 1.
        gain: of a constant image, after normalization.
        separable: keep a list as it is; None = from SEPARABLE_FROM_TAPS taps on.
    Returns:
        float32, taps (separable) or kh,kw.
    Raises:
        ValueError: no taps, more than two axes, or a table asked to be separable.
    """
    f = torch.as_tensor(1 if f is None else f, dtype=torch.float32)
    if f.ndim > 2 or f.numel() == 0:
        raise ValueError(f"f: expected a number, a list of taps or a kh,kw table, got shape {tuple(f.shape)}")
    f = f.reshape(1) if f.ndim == 0 else f
    if separable is None:
        separable = f.ndim == 1 and f.numel() >= SEPARABLE_FROM_TAPS
    if separable and f.ndim == 2:
        raise ValueError(f"f: a separable filter is a list of taps, got shape {tuple(f.shape)}")
    if f.ndim == 1 and not separable:
        f = torch.outer(f, f)
    if normalize:
        f = f / f.sum()
    if flip_filter:
        f = f.flip(list(range(f.ndim)))
    return (f * gain ** (f.ndim / 2)).to(device)  # a 1-D filter runs twice: half the gain each


def parse_pair(value: Ints, name: str) -> tuple[int, int]:
    """(x, y) from one positive integer or two."""
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or min(pair) < 1:
        raise ValueError(f"{name}: expected a positive integer or two (x, y), got {value}")
    return pair


def parse_padding(padding: Ints) -> tuple[int, int, int, int]:
    """(left, right, top, bottom) from one integer, two (x, y) or all four."""
    p = (padding,) * 4 if isinstance(padding, int) else tuple(padding)
    if len(p) == 2:
        p = (p[0], p[0], p[1], p[1])
    if len(p) != 4:
        raise ValueError(f"padding: expected 1, 2 or 4 integers, got {padding}")
    return p


def check_image(x: Tensor, name: str = "x") -> None:
    """Raise ValueError unless `x` is N,C,H,W with at least one pixel."""
    if x.ndim != 4 or x.shape[2] < 1 or x.shape[3] < 1:
        raise ValueError(f"{name}: expected N,C,H,W with H and W at least 1, got {tuple(x.shape)}")


def filter_size(f: Tensor | None) -> tuple[int, int]:
    """(width, height) of a filter in taps; None is a single tap.

    Raises:
        ValueError: not taps or kh,kw, or empty.
    """
    if f is None:
        return 1, 1
    if f.ndim not in (1, 2) or f.numel() == 0:
        raise ValueError(f"f: expected taps or kh,kw as setup_filter gives them, got {tuple(f.shape)}")
    return f.shape[-1], f.shape[0]


def resample_padding(f: Tensor | None, up: tuple[int, int], down: tuple[int, int]) -> tuple[int, int, int, int]:
    """Padding with which filtering by `f` changes the size by exactly up/down and keeps the image in its place."""
    padding = []
    for taps, u, d in zip(filter_size(f), up, down, strict=True):
        before, after = (taps + u - 1, taps - u) if u > 1 else (taps - d + 1, taps - d)
        padding += [before // 2, after // 2]
    return tuple(padding)


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
        x: N,C,H,W, any float type; memory format is kept (by the kernel always, else unless up and down both exceed 1).
        f: from `setup_filter`: taps (applied along x, then along y) or kh,kw; None = a single tap of 1.
        up, down: factors, one or (x, y).
        padding: upsampled pixels, negative crops: one, (x, y) or (left, right, top, bottom).
        flip_filter: correlate instead of convolve.
        gain: factor of the result.
        impl: see `build.use_kernel`.
    Returns:
        N,C,H',W' with W' = (W*up + left + right - taps) // down + 1, H' alike.
    Raises:
        ValueError: not an image or a filter, or the padding leaves no pixel or less than the filter covers.
    Gradients of any order reach x, none f.
    """
    check_image(x)
    up, down, padding = parse_pair(up, "up"), parse_pair(down, "down"), parse_padding(padding)
    (fw, fh), (left, right, top, bottom) = filter_size(f), padding
    for size, taps, before, after in (x.shape[3] * up[0], fw, left, right), (x.shape[2] * up[1], fh, top, bottom):
        if size + before + after < taps or min(before, after) <= -size:
            raise ValueError(f"x: {tuple(x.shape)}, up {up}, padding {padding} is too small for {fh} x {fw} taps")
    f = torch.ones(1, 1, device=x.device) if f is None else f.detach()
    plain = _upfirdn2d_ref if impl == "ref" else _upfirdn2d_conv
    run = _Upfirdn2d.apply if use_kernel(impl, x.device) else plain
    if f.ndim == 2:
        return run(x, f, up, down, padding, flip_filter, gain)
    x = run(x, f[None, :], (up[0], 1), (down[0], 1), (left, right, 0, 0), flip_filter, 1.0)
    return run(x, f[:, None], (1, up[1]), (1, down[1]), (0, 0, top, bottom), flip_filter, gain)


def filter2d(
    x: Tensor, f: Tensor | None, padding: Ints = 0, flip_filter: bool = False, gain: float = 1, impl: str = "auto"
) -> Tensor:
    """Filter N,C,H,W at its size; `padding` enlarges (negative: crops) the result. See `upfirdn2d`."""
    return _resample(x, f, 1, 1, padding, flip_filter, gain, impl)


def upsample2d(
    x: Tensor,
    f: Tensor | None,
    up: Ints = 2,
    padding: Ints = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "auto",
) -> Tensor:
    """Enlarge N,C,H,W by `up`, brightness kept; `padding` counts pixels of the result. See `upfirdn2d`."""
    ux, uy = parse_pair(up, "up")
    return _resample(x, f, up, 1, padding, flip_filter, gain * ux * uy, impl)  # zeros thin the image by ux*uy


def downsample2d(
    x: Tensor,
    f: Tensor | None,
    down: Ints = 2,
    padding: Ints = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "auto",
) -> Tensor:
    """Reduce N,C,H,W by `down`; `padding` counts pixels of x. See `upfirdn2d`."""
    return _resample(x, f, 1, down, padding, flip_filter, gain, impl)


def _resample(x, f, up, down, padding, flip_filter, gain, impl):
    own = resample_padding(f, parse_pair(up, "up"), parse_pair(down, "down"))
    padding = [p + q for p, q in zip(parse_padding(padding), own, strict=True)]
    return upfirdn2d(x, f, up, down, padding, flip_filter, gain, impl)


def _upfirdn2d_ref(x, f, up, down, padding, flip_filter, gain):
    """The definition, step by step."""
    n, c, h, w = x.shape
    spaced = x.new_zeros(n, c, h, up[1], w, up[0])
    spaced[:, :, :, 0, :, 0] = x
    x = F.pad(spaced.reshape(n, c, h * up[1], w * up[0]), padding)
    f = f if flip_filter else f.flip([0, 1])
    x = F.conv2d(x, (f * gain).to(x.dtype).expand(c, 1, *f.shape), groups=c)
    return x[:, :, :: down[1], :: down[0]]


def _upfirdn2d_conv(x, f, up, down, padding, flip_filter, gain):
    """The same as one depthwise convolution, which leaves out the inserted zeros and keeps the memory format."""
    x, padding = _crop(x, up, padding)
    if f.numel() == 1 and up == (1, 1) and not any(padding):
        return x[:, :, :: down[1], :: down[0]] * (f * gain).to(x.dtype)
    c, (fh, fw), (left, right, top, bottom) = x.shape[1], f.shape, padding
    if up == (1, 1):
        f = f if flip_filter else f.flip([0, 1])
        if left != right or top != bottom:
            x, left, top = F.pad(x, padding), 0, 0
        return F.conv2d(x, _depthwise(f * gain, x), stride=down[::-1], padding=(top, left), groups=c)
    f = f.flip([0, 1]) if flip_filter else f
    # The transposed convolution starts where only the first tap sees the first pixel, and ends likewise. Cut what the
    # padding does not reach (both sides alike inside the convolution, the rest after it), or add zeros.
    cut = [fw - 1 - left, fw - up[0] - right, fh - 1 - top, fh - up[1] - bottom]
    inside = [max(0, min(cut[:2])), max(0, min(cut[2:]))]
    x = F.conv_transpose2d(x, _depthwise(f * gain, x), stride=up[::-1], padding=inside[::-1], groups=c)
    rest = [inside[0] - cut[0], inside[0] - cut[1], inside[1] - cut[2], inside[1] - cut[3]]
    x = F.pad(x, rest) if any(rest) else x
    return x if down == (1, 1) else x[:, :, :: down[1], :: down[0]]


def _depthwise(f: Tensor, x: Tensor) -> Tensor:
    return f.to(x.dtype).expand(x.shape[1], 1, *f.shape)


def _crop(x: Tensor, up: tuple[int, int], padding: Sequence[int]) -> tuple[Tensor, tuple[int, ...]]:
    """Cut the pixels off that a negative padding drops; what remains of it is above -up and drops zeros only."""
    padding = list(padding)
    for axis, u in ((0, up[0]), (1, up[1])):
        dim, size = 3 - axis, x.shape[3 - axis]
        before, after = padding[2 * axis : 2 * axis + 2]
        first = -(before // u) if before < 0 else 0  # the first pixel still inside
        last = -((-size * u - after) // u) if after < 0 else size  # one past the last one
        if first or last < size:
            x = x.narrow(dim, first, last - first)
        padding[2 * axis : 2 * axis + 2] = [before + first * u, after + (size - last) * u]
    return x, tuple(padding)


class _Upfirdn2d(torch.autograd.Function):
    """The kernel. The gradient is the same operator with up and down exchanged and the filter turned."""

    @staticmethod
    def forward(ctx, x, f, up, down, padding, flip_filter, gain):
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
        fh, fw = f.shape
        padding = (
            fw - 1 - left,
            (shape[3] - 1) * up[0] - dy.shape[3] * down[0] + 1 + left,
            fh - 1 - top,
            (shape[2] - 1) * up[1] - dy.shape[2] * down[1] + 1 + top,
        )
        dx = _Upfirdn2d.apply(dy, f, down, up, padding, not flip_filter, gain)
        return dx, None, None, None, None, None, None
