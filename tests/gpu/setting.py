"""Shared by all parts of the GPU check: device and sizes, cases, plain forms, times."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from unittest import mock

import torch

from torch_utils.ops import build
from training.networks import generator
from training.volumetric_rendering.renderer import render


@dataclass(frozen=True)
class Setting:
    """Device and sizes of the check.

    Args:
        device: cuda:0 or cpu.
        full: published sizes; else small ones, which show that the check itself runs.
    """

    device: torch.device
    full: bool

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"


class Skipped(Exception):
    """A case does not apply here; the message says why."""


# A row of the table: value and unit, or nothing more than "ok"; plain: value of the plain form; ratio, so that above 1
# is better; remark.
Row = dict
Case = tuple[str, Callable[[], Row]]


def needs_gpu(setting: Setting, run: Callable[[], Row]) -> Callable[[], Row]:
    """Return the function of a case that is skipped without a GPU."""

    def skip() -> Row:
        raise Skipped("needs a CUDA device")

    return run if setting.on_gpu else skip


def _no_kernels(device: torch.device, library: build.Library) -> bool:
    return False


@contextmanager
def without_kernels() -> Iterator[None]:
    """Run PyTorch's operators instead of all kernels."""
    with mock.patch.object(build, "kernels_ready", _no_kernels):
        yield


@contextmanager
def plain_forms() -> Iterator[None]:
    """Run PyTorch's operators instead of all kernels, and rendering by definition."""
    with without_kernels(), mock.patch.object(generator, "render", partial(render, impl="ref")):
        yield


def measure_both(measure: Callable[[], float], setting: Setting) -> Row:
    """Measure the plain forms, then the usual ones: seconds of each, ratio, peak memory on a GPU."""
    seconds, peaks = {}, {}
    for plain in (True, False):
        if setting.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        with plain_forms() if plain else nullcontext():
            seconds[plain] = measure()
        peaks[plain] = peak_gb(setting)
    row = {"value": seconds[False], "unit": "s", "plain": seconds[True], "ratio": seconds[True] / seconds[False]}
    return row | {"peak GB": peaks[False], "plain peak GB": peaks[True]}


def peak_gb(setting: Setting) -> float | None:
    """Return the largest memory that tensors took since the last reset, in units of 2^30 bytes; None without a GPU."""
    return torch.cuda.max_memory_allocated() / 2**30 if setting.on_gpu else None


def mean_seconds(run: Callable[[], object], setting: Setting, seconds: float = 2.0, most: int = 200) -> float:
    """Return the mean time of a call, over about `seconds` (small sizes: one call) after one that warms up."""
    seconds = seconds if setting.full else 0
    wait = torch.cuda.synchronize if setting.on_gpu else lambda: None
    run()
    wait()

    # In growing numbers: a GPU is not waited for after each call.
    count = 1
    while True:
        start = time.perf_counter()
        for _ in range(count):
            run()
        wait()
        passed = time.perf_counter() - start
        if passed >= seconds / 2 or count >= most:
            return passed / count
        count = min(most, max(2 * count, int(seconds / passed * count)))
