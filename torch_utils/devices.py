"""Choice of the compute device."""

from __future__ import annotations

from contextlib import suppress

import torch

from dnnlib.errors import ConfigError


def choose_device(name: str | None) -> torch.device:
    """Return the named device, or without a name the first available one of CUDA, MPS and CPU.

    Raises:
        ConfigError: not available; the field is `device`.
    """
    # Number of devices of each type, the fastest first.
    counts = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    available = [kind for kind, count in counts.items() if count]
    if name is None:
        return torch.device(available[0])

    # Unknown names, types that this program does not use, and numbers beyond the last device.
    device = None
    # Raised for unknown names.
    with suppress(RuntimeError):
        device = torch.device(name)
    if device is None or (device.index or 0) >= counts.get(device.type, 0):
        raise ConfigError("device", name, f"one of {', '.join(available)}")
    return device
