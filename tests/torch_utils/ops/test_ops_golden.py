"""Operators of torch_utils/ops against golden values, first and second gradients."""

import json
from pathlib import Path

import pytest
import torch
from golden import golden

from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.conv2d_resample import conv2d_resample
from torch_utils.ops.modulated_conv2d import modulated_conv2d
from torch_utils.ops.upfirdn2d import downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d

OPS = {
    op.__name__: op
    for op in (bias_act, setup_filter, upfirdn2d, filter2d, upsample2d, downsample2d, conv2d_resample, modulated_conv2d)
}
TABLE = json.loads((Path(golden.__file__).parent / "ops.json").read_text())
CASES = [pytest.param(name, row, id=row["id"]) for name in TABLE if name.startswith("ops_") for row in TABLE[name]]
GRADIENTS = {"dx": "x", "db": "b", "ds": "styles", "dn": "noise"}


@pytest.fixture(scope="module")
def arrays():
    return {name: golden.load(name) for name in TABLE if name.startswith("ops_")}


@pytest.mark.parametrize(("name", "row"), CASES)
def test_values_and_gradients_equal_the_golden_ones(arrays, name, row):
    stored = {key[len(row["id"]) + 1 :]: a for key, a in arrays[name].items() if key.startswith(row["id"] + ".")}
    tensors = {t: torch.from_numpy(stored[f"in.{t}"]) for t in row["tensors"]}
    cot = tensors.pop("cot", None)
    if cot is not None:
        cot.requires_grad_()
    for t in set(tensors) - {"f", "resample_filter"}:
        tensors[t].requires_grad_()
    if row["op"] in ("upfirdn2d", "conv2d_resample"):
        tensors.setdefault("f", None)
    results = {"y": OPS[row["op"]](**tensors, **row["args"])}
    gradients = dict(GRADIENTS, dw="w" if "w" in tensors else "weight")
    first = [k for k in row["outputs"] if k in gradients]
    if first:
        sources = [tensors[gradients[k]] for k in first]
        results.update(
            zip(first, torch.autograd.grad((results["y"] * cot).sum(), sources, create_graph=True), strict=True)
        )
    second = {"d2x": tensors.get("x"), "d2r": cot}
    for k in set(row["outputs"]) & set(second):
        (results[k],) = torch.autograd.grad(results["dx"].square().sum(), second[k], retain_graph=True)
    for k in row["outputs"]:
        golden.check(k, results[k], stored[f"out.{k}"], rtol=TABLE["rtol"])
