"""2-D convolution with resampling before or after it, the cheapest exact way."""

import torch.nn.functional as F
from torch import Tensor

from torch_utils.ops.upfirdn2d import Ints, check_image, parse_padding, resample_padding, upfirdn2d


def conv2d_resample(
    x: Tensor,
    w: Tensor,
    f: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: Ints = 0,
    groups: int = 1,
    flip_weight: bool = True,
    flip_filter: bool = False,
) -> Tensor:
    """Upsample by `f`, pad, convolve with `w`, downsample by `f`.

    Args:
        x: N,C,H,W; memory format is kept.
        w: O,C/groups,kh,kw, type of x.
        f: resampling filter from `setup_filter`; None = a single tap.
        up, down: integer factors.
        padding: upsampled pixels: one, (x, y) or (left, right, top, bottom).
        flip_weight: correlate (what `torch.nn.functional.conv2d` does) instead of convolve.
        flip_filter: the same for f.
    Returns:
        N,O,H',W': with padding (k-1)/2 exactly up/down times the size of x.
    Raises:
        ValueError: shapes that do not fit, factors below 1, or nothing left to convolve.
    Gradients of any order reach x and w, none f.
    """
    _check(x, w, up, down, groups)
    own = zip(resample_padding(f, (up, up), (1, 1)), resample_padding(f, (1, 1), (down, down)), strict=True)
    own = [(a if up > 1 else 0) + (b if down > 1 else 0) for a, b in own]
    pad = [p + q for p, q in zip(parse_padding(padding), own, strict=True)]
    if w.shape[2] == w.shape[3] == 1 and up > 1 and down == 1:  # one pixel at a time: convolve the smaller image
        return upfirdn2d(_conv(x, w, groups=groups), f, up, padding=pad, flip_filter=flip_filter, gain=up**2)
    if up > 1 and min(pad) >= 0:
        x = _upsampling_conv(x, w, f, up, pad, groups, flip_weight, flip_filter)
        return x if down == 1 else upfirdn2d(x, f, down=down, flip_filter=flip_filter)
    w = w if flip_weight else w.flip([2, 3])
    if up > 1:  # cropping comes before the convolution, so the definition in its own order
        x = upfirdn2d(x, f, up, padding=pad, flip_filter=flip_filter, gain=up**2)
        x = _conv(x, w, groups=groups)
        return x if down == 1 else upfirdn2d(x, f, down=down, flip_filter=flip_filter)
    if down > 1 and w.shape[2] == w.shape[3] == 1:
        return _conv(upfirdn2d(x, f, down=down, padding=pad, flip_filter=flip_filter), w, groups=groups)
    if down > 1:  # the two filters commute; only every down-th pixel is convolved
        return _conv(upfirdn2d(x, f, padding=pad, flip_filter=flip_filter), w, stride=down, groups=groups)
    if pad[0] != pad[1] or pad[2] != pad[3] or min(pad) < 0:
        x, pad = upfirdn2d(x, None, padding=pad), [0] * 4
    return _conv(x, w, padding=(pad[2], pad[0]), groups=groups)


def _check(x: Tensor, w: Tensor, up: int, down: int, groups: int) -> None:
    check_image(x)
    if w.ndim != 4 or w.shape[1] * groups != x.shape[1] or w.shape[0] % groups:
        raise ValueError(
            f"w: expected O,{x.shape[1]}/{groups},kh,kw with O a multiple of {groups}, "
            f"got {tuple(w.shape)} for x {tuple(x.shape)}"
        )
    if up < 1 or down < 1:
        raise ValueError(f"up, down: expected integers of at least 1, got {up}, {down}")


def _conv(x: Tensor, w: Tensor, stride: int = 1, padding: tuple[int, int] = (0, 0), groups: int = 1) -> Tensor:
    (h, width), (kh, kw) = x.shape[2:], w.shape[2:]
    if h + 2 * padding[0] < kh or width + 2 * padding[1] < kw:
        raise ValueError(f"x: {tuple(x.shape)} with padding {padding} is smaller than the {kh} x {kw} kernel")
    return F.conv2d(x, w, stride=stride, padding=padding, groups=groups)


def _upsampling_conv(x, w, f, up, pad, groups, flip_weight, flip_filter):
    """The kernel meets real pixels only (a transposed convolution), the filter its result: both commute.

    Measured on a CPU against four small convolutions, one for each phase of the result: 0.9 to 1.4 times as fast; and
    against kernel and filter merged into one: 1.3 to 3 times (tests/benchmarks/ops.py).
    """
    kh, kw = w.shape[2:]
    w = w.flip([2, 3]) if flip_weight else w
    w = w.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)  # C,O/groups,kh,kw
    # The transposed convolution reaches kernel-1 pixels beyond the image on the left and up-1 less on the right.
    left, right, top, bottom = pad
    pad = [left - kw + 1, right - kw + up, top - kh + 1, bottom - kh + up]
    cut = [max(0, -max(pad[:2])), max(0, -max(pad[2:]))]  # what both sides crop is not computed at all
    x = F.conv_transpose2d(x, w, stride=up, padding=cut[::-1], groups=groups)
    pad = [p + cut[i // 2] for i, p in enumerate(pad)]
    return upfirdn2d(x, f, padding=pad, flip_filter=flip_filter, gain=up**2)
