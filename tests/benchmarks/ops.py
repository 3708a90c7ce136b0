"""Time the operators of torch_utils/ops at the sizes of the 512-pixel model: python tests/benchmarks/ops.py

Batch 1, float32, channels-last, best of several runs; gradients only where stated. Each implementation is listed with
its alternatives, so that the choice can be verified on another machine. The alternatives take turns, since the speed of
a machine varies, and the last column is their time divided by that of the first.
"""

import argparse
import itertools
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[2]))

from torch_utils.host_memory import keep_freed_memory
from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.conv2d import conv2d, conv2d_transposed
from torch_utils.ops.conv2d_resample import conv2d_resample
from torch_utils.ops.modulated_conv2d import modulated_conv2d
from torch_utils.ops.upfirdn2d import setup_filter, upfirdn2d, upsample2d
from torch_utils.ops.weighted_gather import weighted_gather

CONVS = [(512, 512, 64), (256, 256, 256), (128, 128, 512), (64, 64, 512), (512, 512, 16), (32, 32, 64)]
DOWNSAMPLING_CONVS = [(64, 128, 513), (256, 512, 129), (512, 512, 65)]
UPSAMPLING_CONVS = [(32, 256, 128), (256, 128, 256), (512, 512, 32)]  # channels in, out, size in


def best_ms(runs, device, repeats):
    """Return the minimum milliseconds of each function in `repeats` rounds after a warm-up."""
    times = []
    for _ in range(repeats + 1):
        round_times = []
        for run in runs:
            start = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            round_times.append(time.perf_counter() - start)
        times.append(round_times)
    return [1e3 * min(column) for column in zip(*times[1:], strict=True)]


def image(channels, size, device, batch=1):
    return torch.randn(batch, channels, size, size, device=device).contiguous(memory_format=torch.channels_last)


def four_phases(x, w, f):
    """Upsample and convolve by 3x3 as four small convolutions, one for each phase of the result, then filter."""
    n, _, h, width = x.shape
    kernel = w.flip([2, 3])
    y = x.new_empty(n, w.shape[0], 2 * h + 1, 2 * width + 1).contiguous(memory_format=torch.channels_last)
    for a in (0, 1):
        for b in (0, 1):
            phase = kernel[:, :, a::2, b::2].flip([2, 3])
            y[:, :, a::2, b::2] = F.conv2d(x, phase, padding=(1 - a, 1 - b))
    return upfirdn2d(y, f, padding=1, gain=4)


def merged(x, w, f):
    """Merge kernel and filter to 6x6, compute its four 3x3 phases as one convolution, and interleave them."""
    out, channels = w.shape[:2]
    kernels = w.flip([2, 3]).reshape(-1, 1, 3, 3)
    kernels = F.conv2d(F.pad(kernels, [3] * 4), 4 * f.flip([0, 1])[None, None]).view(out, channels, 6, 6)
    phases = [kernels[:, :, 1 - a :: 2, 1 - b :: 2].flip([2, 3]) for a in (0, 1) for b in (0, 1)]
    return F.pixel_shuffle(F.conv2d(x, torch.stack(phases, 1).flatten(0, 1), padding=1), 2)


def cases(device):
    """Yield (operation, implementation, function) in the order of the table."""
    f = setup_filter([1, 3, 3, 1], device=device)
    x, b = image(256, 256, device), torch.randn(256, device=device)
    yield "copy 256 x 256^2 (lower bound)", "clone", lambda x=x: x.clone()
    yield "bias, lrelu, clamp 256 x 256^2", "chosen", lambda x=x: bias_act(x, b, act="lrelu", clamp=256)
    naive = lambda x=x: (F.leaky_relu(x + b.view(1, -1, 1, 1), 0.2) * 2**0.5).clamp(-256, 256)  # noqa: E731
    yield "bias, lrelu, clamp 256 x 256^2", "one pass each", naive
    for size in (257, 259):
        x = image(256, size, device)
        yield f"filter 256 x {size}^2", "chosen (depthwise)", lambda x=x: upfirdn2d(x, f, padding=1)
        one = setup_filter([1, 3, 3, 1], separable=True, device=device)
        yield f"filter 256 x {size}^2", "two 1-D passes", lambda x=x, one=one: upfirdn2d(x, one, padding=1)
        first = x.contiguous()
        yield f"filter 256 x {size}^2", "channels first", lambda x=first: upfirdn2d(x, f, padding=1)
    for channels, size in [(3, 128), (6, 128), (3, 256), (6, 256)]:
        x = image(channels, size, device)
        yield f"upsample {channels} x {size}^2", "chosen", lambda x=x: upsample2d(x, f)
        yield (
            f"upsample {channels} x {size}^2",
            "definition",
            lambda x=x: upfirdn2d(x, f, up=2, padding=(2, 1, 2, 1), gain=4, impl="ref"),
        )
    for channels, out, size in UPSAMPLING_CONVS:
        x, w = image(channels, size, device), torch.randn(out, channels, 3, 3, device=device)
        operation = f"conv up 2, {channels} to {out}, {size}^2"
        yield operation, "chosen", lambda x=x, w=w: conv2d_resample(x, w, f, up=2, padding=1)
        yield operation, "four phases", lambda x=x, w=w: four_phases(x, w, f)
        yield operation, "merged with filter", lambda x=x, w=w: merged(x, w, f)
    for channels, size, batch in [(512, 32, 1), (256, 256, 1), (256, 64, 4)]:
        x, w = image(channels, size, device, batch), torch.randn(channels, channels, 3, 3, device=device)
        s, operation = torch.randn(batch, channels, device=device), f"modulated {batch} x {channels} x {size}^2"
        plain = lambda x=x, w=w: conv2d_resample(x, w, padding=1)  # noqa: E731
        yield operation, "plain convolution", plain
        for fused in (True, False):
            run = lambda x=x, w=w, s=s, fused=fused: modulated_conv2d(x, w, s, padding=1, fused_modconv=fused)  # noqa: E731
            yield operation, "fused" if fused else "unfused", run

    yield from convolutions(device)
    yield from plane_sampling(device)


def convolutions(device):
    """Yield 3x3 convolutions by the kernels, where there is one, and by PyTorch."""
    kinds = [
        ("conv", CONVS, lambda x, w, impl: conv2d(x, w, (1, 1), impl=impl)),
        ("conv down 2", DOWNSAMPLING_CONVS, lambda x, w, impl: conv2d(x, w, stride=2, impl=impl)),
        ("transposed conv", UPSAMPLING_CONVS, lambda x, w, impl: conv2d_transposed(x, w, 2, impl=impl)),
    ]
    for name, sizes, run in kinds:
        for channels, out, size in sizes:
            x, w = image(channels, size, device), torch.randn(out, channels, 3, 3, device=device)
            operation = f"{name}, {channels} to {out}, {size}^2"
            yield operation, "chosen (kernel)", lambda x=x, w=w, run=run: run(x, w, "auto")
            yield operation, "PyTorch", lambda x=x, w=w, run=run: run(x, w, "ref")


def plane_sampling(device):
    """Yield the sampling of 4 scenes with 1024 rays of 10 points, with the gradient of the planes."""
    # Neighboring points on each of 3 maps, as in volumetric_rendering/planes.py.
    scenes, maps, width, points, channels = 4, 3, 67, 10_240, 32
    u, v = (torch.linspace(0, width - 2, points, device=device) * i % (width - 2) for i in (1, 100))
    corner = (v.int() * width + u.int())[:, None, None]
    first = torch.arange(maps, device=device)[:, None] * width**2
    rows = (corner + first + torch.tensor([0, 1, width, width + 1], device=device)).flatten(1)  # K,J of one scene
    scene = torch.arange(scenes, device=device)[:, None, None] * maps * width**2
    rows = (rows + scene).flatten(0, 1).int()
    weights = torch.rand(rows.shape, device=device)
    table = torch.randn(scenes * maps * width**2, channels, device=device, requires_grad=True)
    dy = torch.randn(len(rows), channels, device=device)

    def run(impl, with_gradient):
        with torch.set_grad_enabled(with_gradient):
            y = weighted_gather(table, rows, weights, impl)
        if with_gradient:
            torch.autograd.grad(y, table, dy)

    size = f"{len(rows)} x {rows.shape[1]}"
    yield f"weighted gather {size}", "chosen", lambda: run("auto", False)
    for implementation, impl in (("chosen (kernel)", "auto"), ("reference", "ref")):
        yield f"the same with gradient, {size}", implementation, lambda impl=impl: run(impl, True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--repeats", default=5, type=int)
    options = parser.parse_args()
    keep_freed_memory()  # as the applications do
    print(f"PyTorch {torch.__version__}, {options.device}, {torch.get_num_threads()} threads")
    with torch.no_grad():
        for operation, alternatives in itertools.groupby(cases(options.device), key=lambda case: case[0]):
            _, implementations, runs = zip(*alternatives, strict=True)
            times = best_ms(runs, options.device, options.repeats)
            for implementation, ms in zip(implementations, times, strict=True):
                print(f"{operation:36s}{implementation:22s}{ms:9.2f} ms{ms / times[0]:8.2f}", flush=True)


if __name__ == "__main__":
    main()
