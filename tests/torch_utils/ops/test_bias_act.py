"""bias_act: derivatives, memory formats, invalid arguments. Golden values are in test_ops_golden.py."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from torch_utils.ops.bias_act import ACTIVATIONS, bias_act


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def away_from_kinks(*shape):
    """Return float64 values at which activations and clamp (at 0.9) are smooth within the step of gradcheck."""
    x = torch.linspace(-2.03, 2.11, int(torch.tensor(shape).prod()), dtype=torch.float64).view(shape)
    return x.requires_grad_()


@pytest.mark.parametrize("clamp", [None, 0.9])
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_first_and_second_derivatives_match_finite_differences(act, clamp):
    x = away_from_kinks(2, 3, 2, 3)
    b = torch.tensor([0.011, -0.023, 0.037], dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x, b: bias_act(x, b, act=act, clamp=clamp), (x, b))
    assert gradgradcheck(lambda x, b: bias_act(x, b, act=act, clamp=clamp), (x, b))


@pytest.mark.parametrize("act", ["linear", "lrelu", "swish"])
def test_channels_last_input_gives_the_same_values_in_channels_last(act):
    x, b = torch.randn(2, 5, 4, 3), torch.randn(5)
    y = bias_act(x.to(memory_format=torch.channels_last), b, act=act, clamp=0.5)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, bias_act(x, b, act=act, clamp=0.5))  # vectorized and scalar exp round differently


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("bias", [None, torch.full((5,), 0.1)])
def test_inputs_are_not_modified(act, bias, requires_grad):
    x = torch.randn(2, 5, requires_grad=requires_grad)
    before, bias_before = x.detach().clone(), None if bias is None else bias.clone()
    y = bias_act(x, bias, act=act, gain=1, clamp=0.3)
    assert y.abs().max() <= 0.3
    assert torch.equal(x, before)
    assert bias is None or torch.equal(bias, bias_before)


@pytest.mark.parametrize("act", ["linear", "relu", "lrelu"])
def test_gain_applied_before_the_activation_gives_the_same_values(act):
    x, b = torch.randn(2, 5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    for gain in (3.0, -3.0, 0.0):
        torch.testing.assert_close(bias_act(x, b, act=act, gain=gain), gain * bias_act(x, b, act=act, gain=1))


def test_clamp_is_applied_after_gain_and_stops_the_gradient():
    x = torch.tensor([-3.0, -0.1, 0.1, 3.0], requires_grad=True)
    y = bias_act(x, gain=2, clamp=1)
    y.sum().backward()
    assert y.tolist() == pytest.approx([-1, -0.2, 0.2, 1])
    assert x.grad.tolist() == [0, 2, 2, 0]


def test_bias_is_converted_to_the_type_of_x():
    assert bias_act(torch.zeros(1, 2, dtype=torch.bfloat16), torch.ones(2), act="lrelu").dtype == torch.bfloat16


def test_an_empty_tensor_is_accepted():
    assert bias_act(torch.zeros(0, 3, 4, 4), torch.zeros(3), act="lrelu", clamp=1).shape == (0, 3, 4, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"act": "gelu"}, "linear.*swish.*gelu"),
        ({"b": torch.zeros(4)}, r"\(2, 5\).*\(4,\)"),
        ({"b": torch.zeros(5, 1)}, r"\(5, 1\)"),
        ({"dim": 2}, "axis 2"),
        ({"clamp": -1}, "-1"),
        ({"clamp": float("nan")}, "nan"),
    ],
)
def test_invalid_arguments_are_named_with_the_allowed_values(change, message):
    call = {"x": torch.zeros(2, 5), "b": torch.zeros(5)} | change
    with pytest.raises(ValueError, match=message):
        bias_act(**call)


@pytest.mark.parametrize("clamp", [None, 0.3])
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_overwriting_gives_the_same_bits_and_never_touches_what_gradients_need(act, clamp):
    x = torch.randn(2, 5, 3, 4).contiguous(memory_format=torch.channels_last)
    b = torch.randn(5)
    expected = bias_act(x, b, act=act, clamp=clamp)
    overwritten = x.clone(memory_format=torch.preserve_format)
    y = bias_act(overwritten, b, act=act, clamp=clamp, overwrite=True)
    assert torch.equal(y, expected)
    if ACTIVATIONS[act].in_place is not None:
        assert y.data_ptr() == overwritten.data_ptr()

    # With gradients, x keeps its values.
    for inputs in ((x.clone().requires_grad_(), b), (x, b.clone().requires_grad_())):
        assert torch.equal(bias_act(*inputs, act=act, clamp=clamp, overwrite=True), expected)
        assert torch.equal(inputs[0], x)
