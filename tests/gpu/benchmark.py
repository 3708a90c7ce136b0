"""Times of the GPU run: frames, torch.compile, CUDA graphs, meshes, the renderer and single operators."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
from benchmarks.mesh import compare_grids
from benchmarks.ops import best_ms
from benchmarks.rendering import CAT, scene
from gpu.checks import full_float32
from gpu.setting import Case, Row, Setting, Skipped, mean_seconds, needs_gpu, peak_gb, plain_forms, without_kernels
from torch import Tensor

from camera_utils import CAMERAS, path_poses
from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.upfirdn2d import setup_filter, upfirdn2d
from torch_utils.precision import has_fast, set_precision
from training.networks.configs import CONFIGS, RAW_RESOLUTION
from training.networks.registry import construct
from training.volumetric_rendering.renderer import render

# Generator of the small sizes.
NARROW = {
    "channel_base": 512, "channel_max": 8, "encoder_width": 0.02, "sr_width": 0.1, "plane_resolution": 32,
    "depth_resolution": 6,
}  # fmt: skip
# Images of another form than float32 must be this close to those of the plain forms, dB over their range.
MIN_PSNR = {"fp32": 60, "fp16": 40, "bf16": 30}


# --------------------------------------------------------------------------- frames


@dataclass(frozen=True)
class Form:
    """Way to render a frame.

    Args:
        precision: of the convolutions; fp32 without TF32.
        plain: by the plain forms.
        views: rendered at a time.
        graph: replayed as a CUDA graph.
        compiled: by torch.compile, of the plain operators, which it fuses itself.
    """

    precision: str
    plain: bool = False
    views: int = 1
    graph: bool = False
    compiled: bool = False

    @property
    def name(self) -> str:
        marks = {"plain forms": self.plain, "torch.compile": self.compiled, "CUDA graph": self.graph}
        views = [f"{self.views} views at a time"] if self.views > 1 else []
        return ", ".join([self.precision, *(mark for mark, on in marks.items() if on), *views])

    def context(self) -> AbstractContextManager:
        if self.plain:
            return plain_forms()
        return without_kernels() if self.compiled else nullcontext()


BASELINE = Form("fp32", plain=True)
FORMS = (
    BASELINE,
    Form("fp32"),
    Form("fp16"),
    Form("bf16"),
    Form("fp16", views=4),
    Form("fp16", graph=True),
    Form("bf16", graph=True),
)
COMPILED = (Form("fp16", compiled=True), Form("fp16", compiled=True, graph=True))


class Frames:
    """A scene and its frames from an orbit: a generator of random weights, in full size that of seg2cat."""

    def __init__(self, setting: Setting):
        full_float32()
        torch.backends.cudnn.benchmark = True
        options = CONFIGS["seg2cat"] if setting.full else replace(CONFIGS["seg2cat"], **NARROW)
        torch.manual_seed(0)
        self.setting = setting
        self.G = construct(options.class_name, options.kwargs()).eval().requires_grad_(False).to(setting.device)
        self.resolution = RAW_RESOLUTION["seg2cat"] if setting.full else 16
        self.poses = path_poses("orbit", CAMERAS["seg2cat"], 60).to(setting.device)
        self.ws = torch.randn(1, self.G.num_ws, self.G.w_dim, device=setting.device)
        self.baseline: dict[bool, tuple[float, Tensor]] = {}  # seconds and images, by whether planes are cached

    def frame(self, pose: Tensor, planes: Tensor | None) -> tuple[Tensor, Tensor]:
        """Color image N,3,R,R and label map N,S,R,R."""
        out = self.G.synthesis(
            self.ws, pose, self.resolution, "const", planes, jitter=False, outputs={"image", "semantic"}
        )
        return out["image"], out["semantic"]

    @torch.no_grad()
    def time(self, form: Form, cached: bool) -> Row:
        """Measure frames per second of one form, and compare its images with the baseline's."""
        if form.compiled and self.setting.on_gpu and importlib.util.find_spec("triton") is None:
            raise Skipped("torch.compile needs triton")
        if not has_fast(form.precision, self.setting.device):
            raise Skipped(f"{form.precision} is slow on this device")
        set_precision(self.G, form.precision)
        pose = self.poses[: form.views].clone()
        with form.context():
            planes = self.G.planes(self.ws, noise_mode="const") if cached else None
            render_frame = self.render_function(form, pose, planes)

            # A new pose for every call, as in a video.
            calls = iter(range(1 << 30))

            def next_frame() -> None:
                first = next(calls) % (len(self.poses) - form.views + 1)
                pose.copy_(self.poses[first : first + form.views])
                render_frame()

            seconds = mean_seconds(next_frame, self.setting) / form.views
            pose.copy_(self.poses[: form.views])
            images = [image[:1].float() for image in render_frame()]

        # Against the plain forms.
        if form == BASELINE:
            self.baseline[cached] = (seconds, images)
        if cached not in self.baseline:
            raise RuntimeError("the plain forms failed")
        plain_seconds, expected = self.baseline[cached]
        quality = min(psnr(a, b) for a, b in zip(images, expected, strict=True))
        if quality < MIN_PSNR[form.precision]:
            raise AssertionError(f"PSNR {quality:.0f} dB of {form.name}, expected {MIN_PSNR[form.precision]} or more")
        row = {"value": 1 / seconds, "unit": "frames/s", "plain": 1 / plain_seconds, "ratio": plain_seconds / seconds}
        return row | {"peak GB": peak_gb(self.setting), "remark": f"PSNR {min(quality, 999):.0f} dB"}

    def render_function(self, form: Form, pose: Tensor, planes: Tensor | None) -> Callable[[], tuple[Tensor, Tensor]]:
        """Return a function that renders the frame of the current content of `pose` N,25."""
        run = partial(torch.compile(self.frame, dynamic=False) if form.compiled else self.frame, pose, planes)
        if not form.graph:
            return run

        # Warm-up on another stream, as capturing demands: kernels are built, and algorithms chosen.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            images = run()

        def replay() -> tuple[Tensor, Tensor]:
            graph.replay()
            return images

        return replay


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio in dB, where the peak is the range of b; shape of both: any."""
    error = (a - b).double().square().mean()
    return (20 * (b.max() - b.min()).double().log10() - 10 * error.clamp_min(1e-30).log10()).item()


def frame_cases(setting: Setting, forms: tuple[Form, ...] = FORMS) -> Iterator[Case]:
    """Render colors and labels at 512 pixels (small sizes too), with the planes of the scene cached or not."""
    get_frames = cache(partial(Frames, setting))
    for cached in (True, False):
        for form in forms:
            run = partial(time_form, get_frames, form, cached)
            case = f"{form.name}, {'planes cached' if cached else 'with planes'}"
            yield case, needs_gpu(setting, run) if form.graph or form.compiled else run


def time_form(get_frames: Callable[[], Frames], form: Form, cached: bool) -> Row:
    """Build the scene if it is not yet, and time one form."""
    return get_frames().time(form, cached)


def compile_cases(setting: Setting) -> Iterator[Case]:
    """Render compiled frames; the time of a case includes compilation."""
    return frame_cases(setting, (BASELINE, *COMPILED))


# --------------------------------------------------------------------------- meshes, renderer, operators


def mesh_cases(setting: Setting) -> Iterator[Case]:
    """Compute the density of a mesh's grid plane by plane, against point by point."""
    resolution = 512 if setting.full else 48
    for axes in ("published", "corrected"):
        yield f"density of {resolution}^3, {axes} axes", partial(time_mesh, setting, resolution, axes)


def time_mesh(setting: Setting, resolution: int, axes: str) -> Row:
    """Time one grid."""
    full_float32()
    seconds, plain, difference = compare_grids(resolution, slabs=2, axes=axes, device=str(setting.device))
    if difference > 1e-3:
        raise AssertionError(f"difference {difference:.1e} standard deviations, allowed 1e-3")
    remark = f"difference {difference:.0e} standard deviations"
    return {"value": seconds, "unit": "s", "plain": plain, "ratio": plain / seconds, "remark": remark}


def renderer_cases(setting: Setting) -> Iterator[Case]:
    """Render rays of a random field, and their gradients, against the definition."""
    size = 128 if setting.full else 8
    for with_gradient in (False, True):
        name = f"{size}x{size} rays{', forward and backward' if with_gradient else ''}"
        yield name, partial(time_renderer, setting, size, with_gradient)


def time_renderer(setting: Setting, size: int, with_gradient: bool) -> Row:
    """Time the fast renderer and the definition."""
    full_float32()
    field, origins, directions = scene(size, setting.device)
    planes = field.planes.requires_grad_(with_gradient)
    outputs: dict[str, Tensor] = {}
    gradients: dict[str, Tensor] = {}
    seconds = {}

    def run(impl: str) -> None:
        with torch.set_grad_enabled(with_gradient):
            new_field = type(field)(planes, field.decoder, CAT.box_warp)
            outputs[impl] = render(new_field, origins, directions, CAT, jitter=False, impl=impl).features
        if with_gradient:
            gradients[impl] = torch.autograd.grad(outputs[impl].sum(), planes)[0]

    for impl in ("ref", "fast"):
        seconds[impl] = mean_seconds(partial(run, impl), setting, seconds=1)
    difference = (outputs["fast"] - outputs["ref"]).abs().max().item()
    if with_gradient:
        errors = (gradients["fast"] - gradients["ref"]).norm() / gradients["ref"].norm()
        difference = max(difference, errors.item())
    if not difference < 1e-3:
        raise AssertionError(f"difference {difference:.1e}, allowed 1e-3")
    ratio = seconds["ref"] / seconds["fast"]
    remark = f"difference {difference:.0e}"
    return {"value": seconds["fast"], "unit": "s", "plain": seconds["ref"], "ratio": ratio, "remark": remark}


def operator_cases(setting: Setting) -> Iterator[Case]:
    """Time bias_act and upfirdn2d at the sizes of super-resolution, in both types and memory formats."""
    size = 256 if setting.full else 16
    for dtype, memory_format in ((torch.float32, torch.contiguous_format), (torch.float16, torch.channels_last)):
        name = str(dtype).removeprefix("torch.")
        x = torch.randn(1, 128, size, size).to(setting.device, dtype, memory_format=memory_format)
        b = torch.randn(128).to(setting.device, dtype)
        f = setup_filter([1, 3, 3, 1], device=setting.device)
        small = x[:, :6]
        operators = {
            f"bias_act 128x{size}x{size}": lambda x=x, b=b: bias_act(x, b, act="lrelu", clamp=256),
            f"filter 128x{size}x{size}": lambda x=x, f=f: upfirdn2d(x, f, padding=1, gain=4),
            f"upsample 6x{size}x{size}": lambda x=small, f=f: upfirdn2d(x, f, up=2, padding=(2, 1, 2, 1), gain=4),
        }
        for operator, run in operators.items():
            yield f"{operator} {name}", needs_gpu(setting, partial(time_operator, setting, run))


@torch.no_grad()
def time_operator(setting: Setting, run: Callable[[], Tensor]) -> Row:
    """Time an operator by its kernel and by PyTorch's operators, in turns."""

    def run_plain() -> Tensor:
        with plain_forms():
            return run()

    torch.testing.assert_close(run().float(), run_plain().float(), rtol=1e-2, atol=1e-2)
    kernel, plain = best_ms([run, run_plain], setting.device, repeats=20)
    return {"value": kernel, "unit": "ms", "plain": plain, "ratio": plain / kernel}
