"""Mean and spread of reported values, over all processes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from torch_utils import distributed


class Collector:
    """Sums up values by name until they are asked for; reporting never waits for the device.

    Args:
        device: where sums are kept; in a run of several processes, the process's own.
    """

    def __init__(self, device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        # Squares of large values need the digits; Apple's GPUs have none to spare.
        self.dtype = torch.float32 if self.device.type == "mps" else torch.float64
        self._sums: dict[str, Tensor] = {}

    def report(self, name: str, value: Tensor | float | Sequence[float]) -> None:
        """Count every element of `value`; none is as good as no report."""
        values = torch.as_tensor(value).detach().to(self.device, self.dtype).flatten()
        sums = torch.stack([values.new_tensor(len(values)), values.sum(), values.square().sum()])
        self._sums[name] = self._sums[name] + sums if name in self._sums else sums

    def as_dict(self) -> dict[str, dict[str, float]]:
        """What all processes reported since the last call, by name: num, mean and std (of the whole, not a sample).

        All processes must call it; they need not have reported the same names. A name that got no value is left out;
        one that got a NaN has NaN as mean and std.
        """
        sums, self._sums = self._sums, {}
        names = sorted(set().union(*distributed.gather_objects(list(sums))))
        if not names:
            return {}
        nothing = torch.zeros(3, dtype=self.dtype, device=self.device)
        total = torch.stack([sums.get(name, nothing) for name in names])
        distributed.all_reduce(total)
        moments = dict(zip(names, total.tolist(), strict=True))
        return {name: _summary(*sums) for name, sums in moments.items() if sums[0]}


def _summary(num: float, total: float, squares: float) -> dict[str, float]:
    mean = total / num
    variance = squares / num - mean * mean
    return {"num": int(num), "mean": mean, "std": variance if math.isnan(variance) else math.sqrt(max(variance, 0.0))}
