"""What a run tells about itself at the end of a tick: progress, times by phase, memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
import torch

from dnnlib.util import format_time

GB = 2**30


class PhaseClock:
    """Seconds that phases take; on CUDA measured by the device, which is waited for only in `read`."""

    def __init__(self, device: torch.device):
        self._cuda = device.type == "cuda"
        self._spans: dict[str, list] = {}

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        start = self._now()
        yield
        self._spans.setdefault(name, []).append((start, self._now()))

    def read(self) -> dict[str, dict[str, float]]:
        """Timing/NAME: num, mean, std of what was measured since the last call."""
        if self._cuda:
            torch.cuda.synchronize()
        seconds = {name: [self._between(*span) for span in spans] for name, spans in self._spans.items()}
        self._spans = {}
        return {
            f"Timing/{name}": {"num": len(values), "mean": float(np.mean(values)), "std": float(np.std(values))}
            for name, values in seconds.items()
        }

    def _now(self) -> float | torch.cuda.Event:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _between(self, start: float | torch.cuda.Event, end: float | torch.cuda.Event) -> float:
        return start.elapsed_time(end) / 1000 if self._cuda else end - start


def timing(total: float, tick: float, kimg: float, maintenance: float) -> dict[str, float]:
    """Seconds under their public names."""
    return {
        "Timing/total_sec": total,
        "Timing/sec_per_tick": tick,
        "Timing/sec_per_kimg": kimg,
        "Timing/maintenance_sec": maintenance,
        "Timing/total_hours": total / 3600,
        "Timing/total_days": total / 86400,
    }


def status_line(values: dict[str, float], seconds_left: float) -> str:
    """One line for people; `values` are the statistics of one value each, by name."""
    return "  ".join(
        [
            f"tick {values['Progress/tick']:<5.0f}",
            f"kimg {values['Progress/kimg']:<8.1f}",
            f"time {format_time(values['Timing/total_sec']):<12}",
            f"sec/tick {values['Timing/sec_per_tick']:<7.1f}",
            f"sec/kimg {values['Timing/sec_per_kimg']:<7.2f}",
            f"maintenance {values['Timing/maintenance_sec']:<6.1f}",
            f"cpumem {values['Resources/cpu_mem_gb']:<6.2f}",
            f"gpumem {values['Resources/peak_gpu_mem_gb']:<6.2f}",
            f"reserved {values['Resources/peak_gpu_mem_reserved_gb']:<6.2f}",
            f"augment {values['Progress/augment']:.3f}",
            f"left {format_time(seconds_left)}",
        ]
    )


def memory(device: torch.device) -> dict[str, float]:
    """Peaks in GB: of this process since its start, of the GPU since the last call (0 without one)."""
    used = {"cpu_mem_gb": _peak_host_bytes() / GB, "peak_gpu_mem_gb": 0.0, "peak_gpu_mem_reserved_gb": 0.0}
    if device.type == "cuda":
        used["peak_gpu_mem_gb"] = torch.cuda.max_memory_allocated(device) / GB
        used["peak_gpu_mem_reserved_gb"] = torch.cuda.max_memory_reserved(device) / GB
        torch.cuda.reset_peak_memory_stats(device)
    return {f"Resources/{name}": value for name, value in used.items()}


def _peak_host_bytes() -> float:
    """0 where the system does not tell (Windows)."""
    with suppress(ImportError):
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return 0.0
