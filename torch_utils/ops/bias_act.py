"""Bias, activation, gain and clamp in one operator, with first and second derivatives."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_utils.ops.build import TOLERANCE, stream_handle, use_kernel


class Activation(NamedTuple):
    """Row of ACTIVATIONS.

    Args:
        function: (x, alpha) -> act(x), any shape; alpha is the slope of lrelu below zero, unused by others.
        alpha: default.
        gain: default; compensates the loss of variance by the activation.
        in_place: the same function, which may write into x. Only for activations that are linear on both sides of
            zero: a positive gain may be applied before them, and their output determines their derivative.
    """

    function: Callable[[Tensor, float], Tensor]
    alpha: float
    gain: float
    in_place: Callable[[Tensor, float], Tensor] | None = None


_SQRT2 = 2**0.5

# Same order as enum Activation in bias_act.h. Gains as published: sqrt(2) restores the second moment of normal values
# after relu, and is used for lrelu and swish too.
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
    """Arguments of a call that are not tensors, with defaults filled in."""

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
    overwrite: bool = False,
) -> Tensor:
    """Compute clamp(gain * act(x + b)).

    Args:
        x: any shape, usually N,C,H,W or N,F; any floating point type; the memory format is kept.
        b: C values, one for each index of x along `dim`, or None.
        dim: axis of x.
        act: key of ACTIVATIONS.
        alpha: slope of lrelu below zero; None = default of the activation.
        gain: factor after the activation; None = default of the activation.
        clamp: maximum magnitude of the result, 0 or more; None = no limit.
        impl: see `build.use_kernel`.
        overwrite: the result may be written into x where no gradient is needed, which saves memory and its traffic.
    Returns:
        Shape and type of x; x itself if there is nothing to compute.
    Raises:
        ValueError: unknown activation, wrong shape of b, negative clamp.
    Gradients reach x and b, and are zero where the result is clamped: orders 1 and 2 of the kernel, any of the
    reference.
    """
    # Arguments.
    if act not in ACTIVATIONS:
        raise ValueError(f"act: expected one of {', '.join(ACTIVATIONS)}, got {act!r}")
    if b is not None and not (0 <= dim < x.ndim and b.shape == x.shape[dim : dim + 1]):
        raise ValueError(f"b: expected one value for each along axis {dim} of {tuple(x.shape)}, got {tuple(b.shape)}")
    if clamp is not None and not clamp >= 0:
        raise ValueError(f"clamp: expected 0 or more, or None, got {clamp}")

    # Defaults of the activation. The bias takes part in arithmetic of the type of x.
    default = ACTIVATIONS[act]
    alpha = default.alpha if alpha is None else alpha
    gain = default.gain if gain is None else gain
    spec = _Spec(dim, act, alpha, gain, clamp)
    b = None if b is None else b.to(x.dtype)

    # Implementation.
    if use_kernel(impl, x.device, comparison=_compare):
        return _BiasAct.apply(x, b, spec)
    needs_gradient = torch.is_grad_enabled() and (x.requires_grad or (b is not None and b.requires_grad))
    return _bias_act_ref(x, b, spec, overwrite and not needs_gradient)


# --------------------------------------------------------------------------- reference


def _bias_act_ref(x: Tensor, b: Tensor | None, spec: _Spec, overwrite: bool = False) -> Tensor:
    """Reference, with as few passes over memory as PyTorch's operators allow; x of any shape, b C or None."""
    activation = ACTIVATIONS[spec.act]
    # Shape 1,C,1,1 for N,C,H,W.
    if b is not None:
        b = b.view([-1 if i == spec.dim else 1 for i in range(x.ndim)])

    # Bias, activation and gain.
    if b is not None and spec.piecewise_linear:
        # act(x + b) * gain = act(x * gain + b * gain): gain and bias in one pass, then the activation in place, since
        # the sum is a new tensor or may replace x.
        y = torch.add(b * spec.gain, x, alpha=spec.gain, out=x if overwrite else None)
        y = activation.in_place(y, spec.alpha)
    else:
        y = activation.function(x if b is None else x + b, spec.alpha)
        if spec.gain != 1:
            y = y * spec.gain

    # Clamp, in place unless y is needed for gradients or belongs to the caller.
    if spec.clamp is None:
        return y
    if y.requires_grad or (y is x and not overwrite):
        return y.clamp(-spec.clamp, spec.clamp)
    return y.clamp_(-spec.clamp, spec.clamp)


# --------------------------------------------------------------------------- kernel


def _launch(source, is_output, b, dy, ddx, order, spec: _Spec) -> Tensor:
    """Launch the kernel for a derivative order (see bias_act.h); all tensors get the dense layout of `source`."""
    # The kernel takes numbers only: the activation's index, and a negative clamp for none.
    act = list(ACTIVATIONS).index(spec.act)
    clamp = -1.0 if spec.clamp is None else spec.clamp
    with torch.cuda.device_of(source):
        return torch.ops.pix2pix3d.bias_act(
            source, is_output, b, _in_layout_of(source, dy), _in_layout_of(source, ddx), order,
            spec.dim, act, spec.alpha, spec.gain, clamp, stream_handle(source.device),
        )  # fmt: skip


def _in_layout_of(source: Tensor, t: Tensor | None) -> Tensor | None:
    # Gradients can have any strides, such as 0 where they come from a sum.
    return t if t is None or t.stride() == source.stride() else torch.empty_like(source).copy_(t)


def _sum_to_bias(t: Tensor, dim: int) -> Tensor:
    """Sum over all axes but `dim`: the gradient of the bias, shape C."""
    return t.sum([i for i in range(t.ndim) if i != dim])


class _BiasAct(torch.autograd.Function):
    """Kernel with autograd.

    Where the output determines the derivative, it is saved instead of the input, since the next convolution saves it
    anyway.
    """

    @staticmethod
    def forward(ctx, x, b, spec):
        # The kernel reads any dense layout; these two are the common ones.
        dense = x.is_contiguous() or (x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last))
        x = x if dense else x.contiguous()
        b = None if b is None else b.contiguous()
        y = _launch(x, False, b, None, None, 0, spec)

        # Saved for the gradient, see above.
        ctx.spec = spec
        if spec.piecewise_linear:
            ctx.save_for_backward(y, None)
        else:
            ctx.save_for_backward(x, b)
        return y

    @staticmethod
    def backward(ctx, dy):
        dx = _BiasActGradient.apply(dy, *ctx.saved_tensors, ctx.spec)
        db = _sum_to_bias(dx, ctx.spec.dim) if ctx.needs_input_grad[1] else None
        return dx, db, None


class _BiasActGradient(torch.autograd.Function):
    """Gradient of the input; differentiable once in the saved tensors and any number of times in dy."""

    @staticmethod
    def forward(ctx, dy, source, b, spec):
        # `source` is the output or the input, as saved by `_BiasAct`.
        ctx.spec = spec
        ctx.save_for_backward(dy, source, b)
        return _launch(source, spec.piecewise_linear, b, dy, None, 1, spec)

    @staticmethod
    def backward(ctx, ddx):
        dy, source, b = ctx.saved_tensors
        ddy = _BiasActGradient.apply(ddx, source, b, ctx.spec) if ctx.needs_input_grad[0] else None

        # The second derivative of the activation is zero or unused.
        if ctx.spec.piecewise_linear or not any(ctx.needs_input_grad[1:3]):
            return ddy, None, None, None

        # Not differentiable again: third derivatives are not needed.
        d2x = _launch(source, False, b, dy, ddx, 2, ctx.spec)
        d2b = _sum_to_bias(d2x, ctx.spec.dim) if ctx.needs_input_grad[2] else None
        return ddy, d2x, d2b, None


def _compare(device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Compute values, first and second derivatives by kernel and reference, see `build.use_kernel`."""
    # An activation of either kind: lrelu derives from the output, swish from the input. Values that 16 bits hold.
    for dtype in TOLERANCE:
        for act in ("lrelu", "swish"):
            results = []
            for impl, kind in (("kernel", dtype), ("ref", torch.float32)):
                x = (torch.arange(-45, 45, device=device) / 16).view(2, 5, 3, 3).to(kind).requires_grad_()
                b = (torch.arange(5, device=device) / 8 + 1 / 64).to(kind).requires_grad_()
                y = bias_act(x, b, act=act, clamp=3, impl=impl)
                dx, db = torch.autograd.grad(y.square().sum(), (x, b), create_graph=True)
                results.append((y, dx, db, *torch.autograd.grad(dx.sum() + db.sum(), (x, b))))
            yield from zip(*results, strict=True)
