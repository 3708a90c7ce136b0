"""What a pass over samples finds, put together from all processes so that their number does not show."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from torch_utils.distributed import gather_objects


class Tally:
    """Whole numbers that add up exactly, and rows of real ones, each kept under its sample's number."""

    def __init__(self):
        self._sums: dict[str, Tensor] = {}
        self._rows: dict[str, dict[int, np.ndarray]] = {}

    def add(self, name: str, counts: Tensor) -> None:
        """Add int64 counts of any shape."""
        counts = counts.cpu()
        self._sums[name] = self._sums[name] + counts if name in self._sums else counts

    def put(self, name: str, numbers: list[int], rows: Tensor) -> None:
        """Keep one row of N,F for each sample."""
        self._rows.setdefault(name, {}).update(zip(numbers, rows.cpu().numpy(), strict=True))

    def gathered(self) -> Tally:
        """That of all processes together, in each of them."""
        whole = Tally()
        for part in gather_objects(self):
            for name, counts in part._sums.items():
                whole.add(name, counts)
            for name, rows in part._rows.items():
                whole._rows.setdefault(name, {}).update(rows)
        return whole

    def __contains__(self, name: str) -> bool:
        return name in self._sums or name in self._rows

    def sum(self, name: str) -> Tensor:
        return self._sums[name]

    def rows(self, name: str, count: int | None = None) -> Tensor:
        """N,F in the order of the samples' numbers; the first `count`, None for all."""
        found = self._rows[name]
        return torch.from_numpy(np.stack([found[number] for number in sorted(found)[:count]]))
