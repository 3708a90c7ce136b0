"""Communication between the processes of a run; a single process needs no process group."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

GRADIENT_LIMIT = 1e5  # replaces infinite gradients


def rank() -> int:
    """Return the number of this process, from 0; rank 0 writes files and prints."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Wait until all processes have called this."""
    if world_size() > 1:
        dist.barrier()


def all_reduce(tensor: Tensor) -> None:
    """Sum a tensor over all processes in place; any shape, the same in all processes."""
    if world_size() > 1:
        dist.all_reduce(tensor)


def gather_objects(value: Any) -> list[Any]:
    """Return the values of all processes, by rank; any picklable type."""
    if world_size() == 1:
        return [value]
    # Filled in by PyTorch.
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def from_rank_0(value: Any) -> Any:
    """Return the value of rank 0; any picklable type."""
    if world_size() == 1:
        return value
    # Replaced in place, except on rank 0.
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def any_process(flag: bool) -> bool:
    """Return whether the flag is set in at least one process; the answer is the same in all of them."""
    if world_size() == 1:
        return flag
    # A tensor rather than gather_objects, which pickles: this runs in every iteration.
    count = torch.tensor(int(flag), device="cuda" if dist.get_backend() == "nccl" else "cpu")
    all_reduce(count)
    return count.item() > 0


def copy_from_rank_0(module: nn.Module) -> None:
    """Copy parameters and buffers of rank 0 into the module."""
    if world_size() == 1:
        return
    for tensor in module.state_dict().values():
        # broadcast needs contiguous tensors, and channels-last parameters are not contiguous.
        contiguous = tensor.contiguous()
        dist.broadcast(contiguous, src=0)
        tensor.copy_(contiguous)


def average_gradients(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Average gradients over all processes in place, with a single all-reduce, and make them finite.

    A gradient that only some processes have counts as zero in the others; one that no process has stays None. In the
    mean, NaN becomes 0 and +-infinity becomes +-GRADIENT_LIMIT. A single process makes no copy.

    Args:
        parameters: any shapes, one type and device, the same in all processes.
    Returns:
        Number of elements of the mean that were not finite: int64 scalar on the device.
    """
    # None in all processes: optimizers skip these parameters, so they must stay None.
    parameters = _with_gradient_in_any_process(list(parameters))
    if not parameters:
        return torch.zeros([], dtype=torch.int64)

    # A single process only replaces values, in the gradients themselves.
    if world_size() == 1:
        return _make_finite([p.grad for p in parameters])

    # Mean of all gradients as one vector: a call for each would cost more in latency than in transfer.
    mean = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
    all_reduce(mean)
    mean /= world_size()
    bad = _make_finite([mean])

    # Gradients are views of it, which saves a copy.
    for p, gradient in zip(parameters, mean.split([p.numel() for p in parameters]), strict=True):
        p.grad = gradient.view_as(p)
    return bad


def _make_finite(gradients: list[Tensor]) -> Tensor:
    """Replace values that are not finite in place, and return their number (scalar)."""
    # Usually there are none. On a CPU one sum of each gradient finds that out, since NaN and infinity stay in a sum;
    # elsewhere it would have to be waited for.
    if gradients[0].device.type == "cpu" and torch.stack([gradient.sum() for gradient in gradients]).isfinite().all():
        return torch.zeros([], dtype=torch.int64)

    # Counted on the device, since training does not wait for it.
    bad = torch.stack([gradient.isfinite().logical_not_().sum() for gradient in gradients]).sum()
    for gradient in gradients:
        gradient.nan_to_num_(nan=0.0, posinf=GRADIENT_LIMIT, neginf=-GRADIENT_LIMIT)
    return bad


def _with_gradient_in_any_process(parameters: list[nn.Parameter]) -> list[nn.Parameter]:
    """Select parameters with a gradient; processes differ where a random choice skips a part of the loss."""
    # The number of processes with a gradient, for each parameter.
    present = [p.grad is not None for p in parameters]
    if world_size() > 1 and parameters:
        counts = torch.tensor(present, dtype=torch.int32, device=parameters[0].device)
        all_reduce(counts)
        present = counts.tolist()  # waits for the device
    return [p for p, is_present in zip(parameters, present, strict=True) if is_present]
