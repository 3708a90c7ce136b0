"""Runs a golden case: builds the module that its manifest names, fills it, calls it, compares values and gradients."""

from __future__ import annotations

import re

import torch
from golden import golden

from training.networks.registry import construct


def build(case: str, prefix: str | None = None) -> torch.nn.Module:
    """The case's module, filled by name, in the case's mode; its state's names, shapes and order are checked."""
    m = golden.manifest(case)
    module = construct(m["module"], m["init_kwargs"])
    golden.fill_(module, m["fill_prefix"] if prefix is None else prefix).train(m["mode"] == "train")
    assert [[name, list(t.shape)] for name, t in module.state_dict().items()] == [s[:2] for s in m["state"]]
    assert {name for name, _ in module.named_parameters()} == {s[0] for s in m["state"] if s[3] == "param"}
    return module


def check_forward(case: str) -> None:
    """Cases with a `forward`: every output, the gradients of the inputs and the norms of the parameters' gradients."""
    m, expected, inputs = golden.manifest(case), golden.load(case), golden.inputs(case)
    module = build(case)
    names, pick = _call(m["forward"])
    args = {name: inputs.get(name) for name in names}
    leaves = {n: t.requires_grad_() for n, t in args.items() if t is not None and t.is_floating_point()}
    with golden.golden_noise() as drawn:
        call = [{"img": args["x"]}] if "'img'" in m["forward"] else list(args.values())
        if "'mask'" in m["forward"]:
            call = [args["z"], args["c"], {"mask": inputs["mask"]}]
        out = module(*call, **m["forward_kwargs"])
    assert [list(shape) for _, shape in drawn] == [d[1] for d in m.get("draws", []) for _ in range(d[2])]
    outputs = _named(m, out["ws"] if pick else out)
    for name, value in outputs.items():
        golden.check(name, value, expected, rtol=m["rtol"])
    loss = sum((value * inputs[f"cot_{name}"]).sum() for name, value in outputs.items())
    loss.backward()
    rtol = m.get("rtol_gradients", m["rtol"])
    for name, leaf in leaves.items():
        if f"d{name}" in m["outputs"]:
            golden.check(f"d{name}", leaf.grad, expected, rtol=rtol)
    norms = {n: None if p.grad is None else p.grad.norm().item() for n, p in module.named_parameters()}
    golden.check_norms(case, norms, m.get("param_grad_norms", norms))


def _call(forward: str) -> tuple[list[str], bool]:
    """Argument names of "m(x, img, ws, **kw)" and whether its "ws" is picked from a dict."""
    inside = re.sub(r"'\w+'", "", re.match(r"m\((.*)\)", forward).group(1))
    return re.findall(r"\b(?!mask\b|kw\b)[a-z]+\b", inside), "['ws']" in forward


def _named(m: dict, out) -> dict[str, torch.Tensor]:
    values = [t for t in (out if isinstance(out, tuple) else (out,)) if t is not None]
    names = [name[4:] for name in m["inputs"] if name.startswith("cot_")]
    return dict(zip(names, values, strict=True))
