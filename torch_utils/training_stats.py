"""Mean and standard deviation of reported values over all processes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from torch_utils import distributed


class Collector:
    """Moments of reported values by name, accumulated without waiting for the device.

    Args:
        device: where sums are kept; with several processes, the device of this process.
    """

    def __init__(self, device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        # float64, or the variance of large values loses its digits; MPS has no float64.
        self.dtype = torch.float32 if self.device.type == "mps" else torch.float64
        self._moments: dict[str, Tensor] = {}

    def report(self, name: str, value: Tensor | float | Sequence[float]) -> None:
        """Add every element of `value`, of any shape; an empty one adds nothing."""
        # Number, sum and sum of squares: three numbers of any number of values, which can be added over processes.
        values = torch.as_tensor(value).detach().to(self.device, self.dtype).flatten()
        moments = torch.stack([values.new_tensor(len(values)), values.sum(), values.square().sum()])
        self._moments[name] = self._moments.get(name, 0) + moments

    def as_dict(self) -> dict[str, dict[str, float]]:
        """Return num, mean and population standard deviation by name since the last call, over all processes.

        All processes must call this; they need not have reported the same names. Names without values are left out; a
        reported NaN makes mean and std NaN.
        """
        # Start anew, also if nothing was reported.
        local = self._moments
        self._moments = {}

        # Processes may have reported different names, but must add the same rows.
        # Sorted, because the order of a set differs between processes.
        names = sorted(set().union(*distributed.gather_objects(list(local))))
        if not names:
            return {}

        # Sums over all processes, in one call.
        zeros = torch.zeros(3, dtype=self.dtype, device=self.device)
        total = torch.stack([local.get(name, zeros) for name in names])  # names,3
        distributed.all_reduce(total)

        moments = zip(names, total.tolist(), strict=True)  # waits for the device
        return {name: _summary(*values) for name, values in moments if values[0]}


def _summary(num: float, total: float, squares: float) -> dict[str, float]:
    mean = total / num
    variance = squares / num - mean * mean

    # Rounding errors can make it negative. `max` returns its first argument if that is NaN.
    return {"num": int(num), "mean": mean, "std": math.sqrt(max(variance, 0.0))}
