"""Which device to compute on."""

from __future__ import annotations

from contextlib import suppress

import torch


def choose_device(name: str | None) -> torch.device:
    """The named device, or the first there is of CUDA, MPS and CPU.

    Raises:
        ValueError: no such device here.
    """
    counts = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    available = [kind for kind, count in counts.items() if count]
    if name is None:
        return torch.device(available[0])
    device = None
    with suppress(RuntimeError):  # torch's word for a name that it does not know
        device = torch.device(name)
    if device is None or (device.index or 0) >= counts.get(device.type, 0):
        raise ValueError(f"{name}: no such device here; there is {', '.join(available)}")
    return device
