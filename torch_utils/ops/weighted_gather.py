"""Weighted sums of table rows, with a kernel for the table's gradient on CPUs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_utils.ops.build import CPU_KERNELS, use_kernel


def weighted_gather(table: Tensor, rows: Tensor, weights: Tensor, impl: str = "auto") -> Tensor:
    """Compute the sum over j of weights[k, j] * table[rows[k, j]] for every k.

    PyTorch's operator is the fastest forward. Its backward sorts all rows, which takes ten times longer than the
    additions, so those of a float32 table on a CPU are done by a kernel. It adds in the order of k, as PyTorch does.

    Args:
        table: T,C, any floating point type.
        rows: K,J, int32, from 0 to T - 1.
        weights: K,J, type of the table.
        impl: see `build.use_kernel`; for the gradient of a float32 table, if weights need none. All else is computed
            by the reference.
    Returns:
        K,C.
    Gradients reach table and weights. Second derivatives: those of the table by the kernel; PyTorch has none.
    """
    needs_kernel = torch.is_grad_enabled() and table.requires_grad and not weights.requires_grad
    if needs_kernel and table.dtype == torch.float32 and use_kernel(impl, table.device, CPU_KERNELS):
        return _WeightedGather.apply(table, rows, weights)
    return _weighted_gather_ref(table, rows, weights)


def _weighted_gather_ref(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Reference: K,C from table T,C, rows and weights K,J, in one pass that stores no rows."""
    return F.embedding_bag(rows, table, mode="sum", per_sample_weights=weights)


class _WeightedGather(torch.autograd.Function):
    """Reference with the kernel as gradient of the table."""

    @staticmethod
    def forward(ctx, table, rows, weights):
        ctx.table_size = len(table)
        ctx.save_for_backward(rows, weights)
        return _weighted_gather_ref(table, rows, weights)

    @staticmethod
    def backward(ctx, dy):
        return _WeightedScatter.apply(dy, *ctx.saved_tensors, ctx.table_size), None, None


class _WeightedScatter(torch.autograd.Function):
    """Kernel: the transpose of `_WeightedGather`, so each is the gradient of the other."""

    @staticmethod
    def forward(ctx, dy, rows, weights, table_size):
        ctx.save_for_backward(rows, weights)
        return torch.ops.pix2pix3d.weighted_scatter(
            dy.contiguous(), rows.contiguous(), weights.contiguous(), table_size
        )

    @staticmethod
    def backward(ctx, dtable):
        return _WeightedGather.apply(dtable, *ctx.saved_tensors), None, None, None
