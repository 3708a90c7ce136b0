"""Training in the GPU run: gradients of every phase against the plain forms, and the time of each phase."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from gpu.setting import Case, Row, Setting, mean_seconds, measure_both, plain_forms
from paths import ROOT
from small_training import SMALL, arguments, small_data
from torch import Tensor, nn

import train
from training import training_loop
from training.status import TickStats
from training.train_state import TrainState

# Widths of VGG16's convolutions, M for a pooling layer (Simonyan and Zisserman 2015, configuration D, without its last
# pooling layer).
VGG16 = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512)
# Options that make the networks small, but leave the loss as it is.
SMALL_NAMES = ("cbase", "cmax", "encoder_width", "sr_width", "plane_resolution", "depth_resolution")
# Share of the norm of all gradients of a network: rounding, and pre-activations so near a kink that it changes sides.
MAX_GRADIENT_DIFFERENCE = 1e-2
SMALL_RAW = 16  # pixels of raw images, which VGG16 can still halve four times
SIZES = {True: 512, False: 128}  # pixels by Setting.full


class RandomVGG(nn.Module):
    """Stand-in for LPIPS, whose weights need a download: the same convolutions with random weights, the same cost."""

    def __init__(self):
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in VGG16:
            if width == "M":
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
        self.layers = nn.Sequential(*layers).requires_grad_(False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance N of images N,3,H,W."""
        return (self.layers(a) - self.layers(b)).square().mean(dim=[1, 2, 3])


class Run:
    """One training run, ready for its phases, with the options of a script of train_scripts/ on random images.

    Args:
        device: of the networks.
        size: pixels of the images.
        words: further options, which replace those of the script.
        name: of the script.
    """

    def __init__(self, device: torch.device, size: int, words: list[str], name: str = "afhq_seg"):
        # Options.
        script = (ROOT / "train_scripts" / f"{name}.sh").read_text()
        line = shlex.split(script.split("train.py", 1)[1].replace("\\\n", " "))
        line = [word for word in line if word != "$@" and not word.startswith("--resume")]
        self.directory = tempfile.TemporaryDirectory()
        data = small_data(Path(self.directory.name), 4, size, classes=6, edges="--data_type=edge" in line)
        line += [*arguments(data), "--gpus=1", "--workers=0", *words]
        dataset, self.options = train._new_options(train.main.make_context("train.py", line).params)

        # Networks, data and loss, as in the training loop.
        training_loop.configure_backends(self.options, device)
        stream = training_loop.open_stream(dataset, self.options, device)
        self.state = TrainState(self.options, device, stream)
        with mock.patch.object(training_loop, "load_lpips", lambda weights, device: RandomVGG().to(device)):
            self.loss = training_loop.build_loss(self.state)
        self.phases = training_loop.phases_of(self.options)
        self.poses = torch.from_numpy(np.stack([dataset.get_label(i) for i in range(len(dataset))]))
        self.batch = training_loop.to_device(next(stream), self.options.data.data_type, device)
        self.stats = TickStats(self.state)

    def step(self, phase: training_loop.Phase) -> None:
        """Run a phase with its optimizer step."""
        training_loop.run_phase(phase, self.state, self.loss, self.batch, self.poses, self.stats)

    def gradients(self, phase: training_loop.Phase) -> Tensor:
        """Return all gradients of a phase's network as one vector, without a step."""
        network = self.state.networks[phase.network]
        network.zero_grad(set_to_none=True)
        for real, z, pose in training_loop.microbatches(phase, self.state, self.batch, self.poses):
            self.loss.accumulate_gradients(phase.name, real, z, pose, 1, self.state.cur_nimg)
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in network.parameters()]
        return torch.cat([part.double().flatten() for part in parts])


# --------------------------------------------------------------------------- gradients


def gradient_cases(setting: Setting) -> Iterator[Case]:
    """Compare the gradients of every phase, small networks in float32, with those of the plain forms."""
    words = [f"--{name}={SMALL[name]}" for name in SMALL_NAMES]
    words += [f"--neural_rendering_resolution_initial={SMALL_RAW}", "--batch=2", "--mbstd-group=1", "--random_c_prob=0"]
    words += ["--sr_num_fp16_res=0", "--d_num_fp16_res=0"]
    run = cache(partial(Run, setting.device, SIZES[False], words))
    for name in phase_names():
        yield name, partial(compare_gradients, run, name)


def phase_names() -> list[str]:
    """Return the phases of the script's options."""
    return ["Gmain", "Greg", "Dmain", "Dreg", "D_semanticmain", "D_semanticreg"]


def compare_gradients(get_run, name: str) -> Row:
    """Compare the gradients of one phase, of the same samples and random numbers."""
    run = get_run()
    (phase,) = (phase for phase in run.phases if phase.name == name)
    fast = run.gradients(phase)
    with plain_forms():
        plain = run.gradients(phase)
    if not fast.isfinite().all() or not plain.any():
        raise AssertionError("gradients are not finite, or all zero")
    difference = ((fast - plain).norm() / plain.norm()).item()
    if difference > MAX_GRADIENT_DIFFERENCE:
        raise AssertionError(f"difference {difference:.1e} of the norm, allowed {MAX_GRADIENT_DIFFERENCE:g}")
    return {"value": difference, "unit": "of the norm", "remark": f"allowed {MAX_GRADIENT_DIFFERENCE:g}"}


# --------------------------------------------------------------------------- time


def training_cases(setting: Setting) -> Iterator[Case]:
    """Run and time every phase at full size, with float16 where published, and add up the time of 1000 images."""
    words = [] if setting.full else [f"--{name}={SMALL[name]}" for name in SMALL_NAMES]
    if not setting.full:
        words += [f"--neural_rendering_resolution_initial={SMALL_RAW}"]
    # As after --resume, without blur; and always from the samples' own poses, so that each step takes the same time.
    words += ["--blur_fade_kimg=0", "--random_c_prob=0"]
    get_run = cache(partial(fitting_run, setting, words))
    times: dict[tuple[str, bool], float] = {}

    # Plain forms first: if memory is short, both use the microbatches that fit them.
    for name in phase_names():
        yield f"{name}, step", partial(time_phase, setting, get_run, name, times)
    yield "1000 images", partial(add_up, get_run, times)
    yield "all steps are finite", partial(count_bad_steps, get_run)


def fitting_run(setting: Setting, words: list[str]) -> Run:
    """Return a run whose largest phase fits the memory by plain forms, with the largest microbatch that does."""
    for batch_gpu in (4, 2, 1):
        run = None  # frees the one before
        try:
            run = Run(setting.device, SIZES[setting.full], [*words, f"--batch-gpu={batch_gpu}", "--mbstd-group=1"])
            with plain_forms():
                run.step(run.phases[0])
            return run
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
    raise RuntimeError("a microbatch of one sample does not fit the memory")


def time_phase(setting: Setting, get_run, name: str, times: dict) -> Row:
    """Time one phase in both forms."""
    run = get_run()
    (phase,) = (phase for phase in run.phases if phase.name == name)
    row = measure_both(lambda: mean_seconds(lambda: run.step(phase), setting, seconds=1.5, most=10), setting)
    times[name, False] = row["value"]
    times[name, True] = row["plain"]
    return row | {"remark": f"microbatches of {run.options.batch_gpu}"}


def add_up(get_run, times: dict) -> Row:
    """Add up all phases, each as often as it runs."""
    run = get_run()
    if len(times) < 2 * len(run.phases):
        raise RuntimeError("a phase was not timed")
    seconds = {}
    for plain in (True, False):
        iteration = sum(times[phase.name, plain] / phase.interval for phase in run.phases)
        seconds[plain] = iteration * 1000 / run.options.batch_size
    remark = f"batch {run.options.batch_size} on one device, random VGG16 as LPIPS, all samples reconstructed"
    ratio = seconds[True] / seconds[False]
    return {"value": seconds[False], "unit": "s", "plain": seconds[True], "ratio": ratio, "remark": remark}


def count_bad_steps(get_run) -> Row:
    """Check that no step had gradients that are not finite."""
    stats = get_run().stats
    bad = int(stats._bad_steps.item())
    if bad:
        raise AssertionError(f"{bad} of {stats._steps} steps had non-finite gradients")
    return {"value": stats._steps, "unit": "steps"}
