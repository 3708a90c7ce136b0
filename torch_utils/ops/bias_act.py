"""Bias, activation, gain and clamp in one operator, with first and second derivatives."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_utils.ops.build import stream_handle, use_kernel


class Activation(NamedTuple):
    """One row of ACTIVATIONS."""

    function: Callable[[Tensor, float], Tensor]  # (x, alpha) -> act(x); alpha is the slope below zero, lrelu only
    alpha: float  # default
    gain: float  # default: keeps the variance of the activations that halve it
    # Linear on each side of zero: a positive gain may come first, the output tells the derivative, and the function
    # may write into its argument.
    in_place: Callable[[Tensor, float], Tensor] | None = None


_SQRT2 = 2**0.5

# Activation in bias_act.h names them in the same order.
ACTIVATIONS = {
    "linear": Activation(lambda x, _: x, 0.0, 1.0, lambda x, _: x),
    "relu": Activation(lambda x, _: F.relu(x), 0.0, _SQRT2, lambda x, _: F.relu_(x)),
    "lrelu": Activation(F.leaky_relu, 0.2, _SQRT2, F.leaky_relu_),
    "tanh": Activation(lambda x, _: torch.tanh(x), 0.0, 1.0),
    "sigmoid": Activation(lambda x, _: torch.sigmoid(x), 0.0, 1.0),
    "elu": Activation(lambda x, _: F.elu(x), 0.0, 1.0),
    "selu": Activation(lambda x, _: F.selu(x), 0.0, 1.0),
    "softplus": Activation(lambda x, _: F.softplus(x), 0.0, 1.0),
    "swish": Activation(lambda x, _: x * torch.sigmoid(x), 0.0, _SQRT2),
}


class _Spec(NamedTuple):
    """Everything about one call that is not a tensor, defaults filled in."""

    dim: int
    act: str
    alpha: float
    gain: float
    clamp: float | None

    @property
    def piecewise_linear(self) -> bool:
        return ACTIVATIONS[self.act].in_place is not None and self.gain > 0 and self.alpha >= 0


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    impl: str = "auto",
) -> Tensor:
    """clamp(gain * act(x + b)).

    Args:
        x: any shape, any float type; memory format is kept.
        b: as many values as x has along `dim`, or None.
        dim: axis of x that b runs along.
        act: a key of ACTIVATIONS.
        alpha: slope of lrelu below zero; None = the activation's default.
        gain: factor after the activation; None = the activation's default.
        clamp: limit of the result's magnitude, 0 or more; None = no limit.
        impl: see `build.use_kernel`.
    Returns:
        The shape and type of x; x itself where nothing is asked.
    Raises:
        ValueError: an unknown activation, a bias that does not fit, a negative clamp.
    Gradients of any order reach x and b; they are zero where the clamp cuts. The kernel gives orders 1 and 2.
    """
    if act not in ACTIVATIONS:
        raise ValueError(f"act: expected one of {', '.join(ACTIVATIONS)}, got {act!r}")
    if b is not None and not (0 <= dim < x.ndim and b.shape == x.shape[dim : dim + 1]):
        raise ValueError(f"b: expected one value for each along axis {dim} of {tuple(x.shape)}, got {tuple(b.shape)}")
    if clamp is not None and not clamp >= 0:
        raise ValueError(f"clamp: expected 0 or more, or None, got {clamp}")
    row = ACTIVATIONS[act]
    spec = _Spec(dim, act, row.alpha if alpha is None else alpha, row.gain if gain is None else gain, clamp)
    b = None if b is None else b.to(x.dtype)
    if use_kernel(impl, x.device):
        return _BiasAct.apply(x, b, spec)
    return _bias_act_ref(x, b, spec)


def _bias_act_ref(x: Tensor, b: Tensor | None, spec: _Spec) -> Tensor:
    """The definition, in as few passes over memory as PyTorch's operators allow."""
    row, gain = ACTIVATIONS[spec.act], spec.gain
    if b is not None:
        b = b.view([-1 if i == spec.dim else 1 for i in range(x.ndim)])
    if b is not None and spec.piecewise_linear:
        y = row.in_place(torch.add(b * gain, x, alpha=gain), spec.alpha)  # gain and bias in one pass; the sum is ours
    else:
        y = row.function(x if b is None else x + b, spec.alpha)
        y = y if gain == 1 else y * gain
    if spec.clamp is None:
        return y
    if y.requires_grad or y is x:
        return y.clamp(-spec.clamp, spec.clamp)
    return y.clamp_(-spec.clamp, spec.clamp)


def _launch(source, is_output, b, dy, ddx, order, spec: _Spec) -> Tensor:
    """One kernel launch; all tensors are brought into the layout of `source`, which must be dense."""
    dy, ddx = (None if t is None else _in_layout_of(source, t) for t in (dy, ddx))
    act = list(ACTIVATIONS).index(spec.act)
    clamp = -1.0 if spec.clamp is None else spec.clamp
    with torch.cuda.device_of(source):
        return torch.ops.pix2pix3d.bias_act(
            source, is_output, b, dy, ddx, order, spec.dim, act, spec.alpha, spec.gain, clamp,
            stream_handle(source.device),
        )  # fmt: skip


def _in_layout_of(source: Tensor, t: Tensor) -> Tensor:
    return t if t.stride() == source.stride() else torch.empty_like(source).copy_(t)


def _sum_to_bias(t: Tensor, dim: int) -> Tensor:
    return t.sum([i for i in range(t.ndim) if i != dim])


class _BiasAct(torch.autograd.Function):
    """The kernel. Saves the output instead of the input where it suffices: the next convolution saves it anyway."""

    @staticmethod
    def forward(ctx, x, b, spec):
        dense = x.is_contiguous() or (x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last))
        x = x if dense else x.contiguous()
        b = None if b is None else b.contiguous()
        y = _launch(x, False, b, None, None, 0, spec)
        ctx.spec = spec
        ctx.save_for_backward(*((y, None) if spec.piecewise_linear else (x, b)))
        return y

    @staticmethod
    def backward(ctx, dy):
        dx = _BiasActGradient.apply(dy, *ctx.saved_tensors, ctx.spec)
        return dx, _sum_to_bias(dx, ctx.spec.dim) if ctx.needs_input_grad[1] else None, None


class _BiasActGradient(torch.autograd.Function):
    """dx of dy; itself differentiable once in the saved tensors and any number of times in dy."""

    @staticmethod
    def forward(ctx, dy, source, b, spec):
        ctx.spec = spec
        ctx.save_for_backward(dy, source, b)
        return _launch(source, spec.piecewise_linear, b, dy, None, 1, spec)

    @staticmethod
    def backward(ctx, ddx):
        dy, source, b = ctx.saved_tensors
        ddy = _BiasActGradient.apply(ddx, source, b, ctx.spec) if ctx.needs_input_grad[0] else None
        if ctx.spec.piecewise_linear or not any(ctx.needs_input_grad[1:3]):  # no curvature
            return ddy, None, None, None
        d2x = _launch(source, False, b, dy, ddx, 2, ctx.spec)
        return ddy, d2x, _sum_to_bias(d2x, ctx.spec.dim) if ctx.needs_input_grad[2] else None, None
