"""Loss terms against the golden arrays."""

import pytest
from golden import golden

from training.loss import cross_entropy2d


@pytest.mark.parametrize("weighted", ["", "_weighted"])
@pytest.mark.parametrize("logits", ["logits", "logits8"])
def test_cross_entropy_of_label_maps_is_golden_with_weights_and_with_resizing(logits, weighted):
    expected, inputs = golden.load("helpers"), golden.inputs("helpers")
    x = inputs[logits].requires_grad_()
    loss = cross_entropy2d(x, inputs["target"], inputs["weight"] if weighted else None)
    loss.backward()
    name = f"ce_resized{weighted}" if logits == "logits8" else f"ce{weighted or '_plain'}"
    rtol = golden.manifest("helpers")["rtol"]
    golden.check(name, loss, expected, rtol=rtol)
    golden.check(f"d_{name}", x.grad, expected, rtol=rtol)
