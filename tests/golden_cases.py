"""Run golden cases: build the module that a manifest names, fill and call it, compare values and gradients."""

from __future__ import annotations

import re

import torch
from golden import golden

from training.networks.registry import construct


def build(case: str, prefix: str | None = None) -> torch.nn.Module:
    """Build the module of a case with golden weights; check names, shapes and order of its state.

    Args:
        case: name of a manifest.
        prefix: seed prefix of the weights; None for that of the manifest.
    """
    m = golden.manifest(case)
    module = construct(m["module"], m["init_kwargs"])
    golden.fill_(module, m["fill_prefix"] if prefix is None else prefix).train(m["mode"] == "train")
    assert [[name, list(t.shape)] for name, t in module.state_dict().items()] == [s[:2] for s in m["state"]]
    assert {name for name, _ in module.named_parameters()} == {s[0] for s in m["state"] if s[3] == "param"}
    return module


def check_forward(case: str) -> None:
    """Check every output, the gradients of inputs and the gradient norms of parameters of a case with a `forward`."""
    m = golden.manifest(case)
    expected = golden.load(case)
    inputs = golden.inputs(case)
    module = build(case)

    # Call the module with the case's inputs and noise.
    names, picks_ws = _call(m["forward"])
    args = {name: inputs.get(name) for name in names}
    leaves = {n: t.requires_grad_() for n, t in args.items() if t is not None and t.is_floating_point()}
    with golden.golden_noise() as samples:
        call = [{"img": args["x"]}] if "'img'" in m["forward"] else list(args.values())
        if "'mask'" in m["forward"]:
            call = [args["z"], args["c"], {"mask": inputs["mask"]}]
        out = module(*call, **m["forward_kwargs"])
    assert [list(shape) for _, shape in samples] == [d[1] for d in m.get("draws", []) for _ in range(d[2])]

    # Compare outputs, then the gradients of their sum weighted by cotangents.
    outputs = _named(m, out["ws"] if picks_ws else out)
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
    """Parse a call such as "m(x, img, ws, **kw)": argument names, and whether "ws" is picked from a dict of outputs."""
    inside = re.sub(r"'\w+'", "", re.match(r"m\((.*)\)", forward).group(1))
    return re.findall(r"\b(?!mask\b|kw\b)[a-z]+\b", inside), "['ws']" in forward


def _named(m: dict, out) -> dict[str, torch.Tensor]:
    """Outputs by the names of their cotangents in the manifest."""
    values = [t for t in (out if isinstance(out, tuple) else (out,)) if t is not None]
    names = [name[4:] for name in m["inputs"] if name.startswith("cot_")]
    return dict(zip(names, values, strict=True))
