"""Statistics of a tick: losses, seconds per phase, memory, non-finite steps; the status line."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

import numpy as np
import torch
from torch import Tensor

from dnnlib.util import format_time
from torch_utils.training_stats import Collector
from training.train_state import TrainingError, TrainState

GB = 2**30

# Training has diverged if more than this share of the steps had non-finite gradients, counted over at least MIN_STEPS
# optimizer steps, or over the whole run if it is shorter.
MAX_BAD_SHARE = 0.5
MIN_STEPS = 16
DIVERGED_HINT = (
    "Try a larger R1 weight (gamma), lower learning rates (glr, dlr) or float32 (d_num_fp16_res=0, sr_num_fp16_res=0)."
)

# num, mean and std by public name.
Stats = dict[str, dict[str, float]]


class TickStats:
    """Statistics since the last report, collected without waiting for the device.

    Args:
        state: training state of the run; if it is resumed, earlier steps have been checked for divergence.
    Attributes:
        start_nimg: images shown when the interval began; later than the tick's start if the run was resumed within it.
    """

    def __init__(self, state: TrainState):
        # Losses by reported name; start and end of every run of a phase.
        self.device = state.device
        self._losses = Collector(self.device)
        self._spans: dict[str, list[tuple]] = {}

        # Optimizer steps of this tick, and how many of them had non-finite gradients: counted on the device, as reading
        # the number would wait for the step.
        self._steps = 0
        self._bad_steps = torch.zeros([], dtype=torch.int64, device=self.device)

        # Steps of the window over which check_divergence counts; it spans ticks that are shorter.
        self._window_steps = 0
        self._window_bad_steps = 0
        self._checked = state.iteration > 0

        # Seconds of the monotonic clock. Between the end of a tick and the start of the next one, images and snapshots
        # are written (maintenance).
        self._end_time = time.monotonic()
        self.begin_tick(state.cur_nimg)

    def begin_tick(self, cur_nimg: int) -> None:
        """Start to measure, after images and snapshots of the tick before."""
        self.start_nimg = cur_nimg
        self._start_time = time.monotonic()

    def report(self, values: Mapping[str, Tensor]) -> None:
        """Add reported values of the loss, tensors of any shape by public name."""
        for name, value in values.items():
            self._losses.report(name, value)

    def count_step(self, bad_gradients: Tensor) -> None:
        """Count an optimizer step; `bad_gradients` is the scalar number of its non-finite gradient elements."""
        self._steps += 1
        self._bad_steps += (bad_gradients > 0).to(self.device)

    @contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Measure the time of a phase; on CUDA by events on the device."""
        start = self._now()
        yield
        self._spans.setdefault(phase, []).append((start, self._now()))

    def finish_tick(self, state: TrainState) -> tuple[Stats, int, int]:
        """Return all statistics since the last call, and start anew; every process must call it.

        Returns:
            Statistics by public name; number of optimizer steps; how many of them had non-finite gradients.
        """
        # Losses of all processes, and the phases' times of this one. Waits for the device.
        stats = {**self._losses.as_dict(), **self._phase_times()}
        steps = self._steps
        bad_steps = int(self._bad_steps)
        self._steps = 0
        self._bad_steps.zero_()

        # Time of the tick, and of images and snapshots before it.
        maintenance = self._start_time - self._end_time
        self._end_time = time.monotonic()
        seconds = self._end_time - self._start_time
        total = state.seconds

        # Statistics of a single value, named as in the published code.
        values = {
            "Progress/tick": state.tick,
            "Progress/kimg": state.cur_nimg / 1000,
            "Progress/augment": state.augment_p,
            "Progress/nonfinite_steps": bad_steps,
            "Timing/total_sec": total,
            "Timing/sec_per_tick": seconds,
            "Timing/sec_per_kimg": seconds / (state.cur_nimg - self.start_nimg) * 1000,
            "Timing/maintenance_sec": maintenance,
            "Timing/total_hours": total / 3600,
            "Timing/total_days": total / 86400,
            **memory(self.device),
        }
        stats |= {name: {"num": 1, "mean": float(value), "std": 0.0} for name, value in values.items()}
        return stats, steps, bad_steps

    def check_divergence(self, steps: int, bad_steps: int, done: bool) -> None:
        """Check the share of steps with non-finite gradients over windows of at least MIN_STEPS steps.

        Args:
            steps, bad_steps: of the last tick, see `finish_tick`.
            done: whether the run ends; then a shorter window counts if there has been no full one.
        Raises:
            TrainingError: more than MAX_BAD_SHARE of the steps.
        """
        # Full windows are compared at the end of a tick, so they can be longer than MIN_STEPS.
        self._window_steps += steps
        self._window_bad_steps += bad_steps
        full = self._window_steps >= MIN_STEPS
        too_many = self._window_bad_steps > MAX_BAD_SHARE * self._window_steps
        if too_many and (full or (done and not self._checked)):
            counts = f"{self._window_bad_steps} of the last {self._window_steps} steps had non-finite gradients"
            raise TrainingError(f"training has diverged: {counts}. {DIVERGED_HINT}")

        # The next window starts empty.
        if full:
            self._window_steps = 0
            self._window_bad_steps = 0
            self._checked = True

    def _now(self) -> float | torch.cuda.Event:
        # A CUDA event is recorded when the device reaches it, so measuring does not slow training down.
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _phase_times(self) -> Stats:
        """Return Timing/PHASE in seconds, and start anew."""
        cuda = self.device.type == "cuda"
        if cuda:
            torch.cuda.synchronize()

        # One value per run of the phase; CUDA events measure milliseconds.
        stats = {}
        for phase, spans in self._spans.items():
            times = np.array([start.elapsed_time(end) / 1000 if cuda else end - start for start, end in spans])
            stats[f"Timing/{phase}"] = {"num": len(times), "mean": float(times.mean()), "std": float(times.std())}
        self._spans = {}
        return stats


def status_line(stats: Stats, kimg_left: float) -> str:
    """Format a tick's statistics as one line for the console."""

    def mean(name: str) -> float:
        return stats[name]["mean"]

    return "  ".join(
        [
            f"tick {mean('Progress/tick'):<5.0f}",
            f"kimg {mean('Progress/kimg'):<8.1f}",
            f"time {format_time(mean('Timing/total_sec')):<12}",
            f"sec/tick {mean('Timing/sec_per_tick'):<7.1f}",
            f"sec/kimg {mean('Timing/sec_per_kimg'):<7.2f}",
            f"maintenance {mean('Timing/maintenance_sec'):<6.1f}",
            f"cpumem {mean('Resources/cpu_mem_gb'):<6.2f}",
            f"gpumem {mean('Resources/peak_gpu_mem_gb'):<6.2f}",
            f"reserved {mean('Resources/peak_gpu_mem_reserved_gb'):<6.2f}",
            f"augment {mean('Progress/augment'):.3f}",
            f"left {format_time(kimg_left * mean('Timing/sec_per_kimg'))}",
        ]
    )


def memory(device: torch.device) -> dict[str, float]:
    """Return peak memory in GB: of this process since its start, of the GPU since the last call (0 without a GPU)."""
    peaks = {"cpu_mem_gb": 0.0, "peak_gpu_mem_gb": 0.0, "peak_gpu_mem_reserved_gb": 0.0}

    # Resident memory: bytes on macOS, kilobytes elsewhere. Windows has no `resource` module.
    with suppress(ImportError):
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        peaks["cpu_mem_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GB

    # Tensors, and the memory that PyTorch's allocator keeps for them.
    if device.type == "cuda":
        peaks["peak_gpu_mem_gb"] = torch.cuda.max_memory_allocated(device) / GB
        peaks["peak_gpu_mem_reserved_gb"] = torch.cuda.max_memory_reserved(device) / GB
        torch.cuda.reset_peak_memory_stats(device)
    return {f"Resources/{name}": value for name, value in peaks.items()}
