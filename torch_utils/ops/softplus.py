"""Softplus, with a kernel for training on CPUs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_utils.ops.build import CPU_KERNELS, use_kernel


def softplus_(x: Tensor, impl: str = "auto") -> Tensor:
    """Compute log(1 + exp(x)), which may overwrite x.

    In training, writing large tensors takes longer than the arithmetic. The kernel needs none for the result, and its
    gradient is computed from the result, which the next layer keeps anyway.

    Args:
        x: any shape, any floating point type; not a leaf, and not needed by its own gradient.
        impl: see `build.use_kernel`; for contiguous float32 on a CPU with a gradient. All else is computed by the
            reference.
    Returns:
        Shape of x.
    Gradients of first and second order reach x.
    """
    needs_kernel = torch.is_grad_enabled() and x.requires_grad and x.dtype == torch.float32 and x.is_contiguous()
    if needs_kernel and use_kernel(impl, x.device, CPU_KERNELS):
        return _Softplus.apply(x)
    return F.softplus(x)


class _Softplus(torch.autograd.Function):
    """Kernel with autograd."""

    @staticmethod
    def forward(ctx, x):
        torch.ops.pix2pix3d.softplus_in_place(x)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx, dy):
        (y,) = ctx.saved_tensors
        # Differentiable again, if a second derivative is wanted.
        if torch.is_grad_enabled():
            return dy * -torch.expm1(-y)
        return torch.ops.pix2pix3d.softplus_gradient(dy.contiguous(), y)
