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


GENERATOR_CASES = sorted(path.stem.removeprefix("manifest_") for path in golden.HERE.glob("manifest_gen_*.json"))


def generate(case: str, G: torch.nn.Module) -> tuple[dict[str, torch.Tensor], list]:
    """Compute all values of a generator's case, on the device of G.

    Args:
        case: one of GENERATOR_CASES.
        G: result of `build`.
    Returns:
        Values by their golden names; the random numbers that were drawn, see `golden.golden_noise`.
    """
    m = golden.manifest(case)
    device = next(G.parameters()).device
    x = {name: tensor.to(device) for name, tensor in golden.inputs(case).items()}
    batch = {"mask": x["mask"], "pose": x["pose"]} if "mask" in x else None
    with torch.no_grad(), golden.golden_noise() as generated:
        ws = G.mapping(x["z"], x["pose"], batch)
        planes = G.planes(ws, noise_mode="const")
        r = m["neural_rendering_resolution"]
        out = G.synthesis(ws, x["c"], neural_rendering_resolution=r, noise_mode="const", planes=planes)
        sampled = G.sample_mixed(x["coords"], x["dirs"], ws, planes=planes)
    assert list(ws.shape) == m["ws_shape"]
    values = {"ws_first4": ws[:, :4], "ws_last2": ws[:, -2:]}
    values |= {"sample_rgb": sampled["rgb"], "sample_sigma": sampled["sigma"], **out}
    return values, generated


def generated_arrays(case: str) -> dict:
    """Return the golden arrays of a generator's case."""
    expected = golden.load(case)
    # Without a resize before super-resolution, the published code changes the raw images in place; ours does not.
    for name in golden.manifest(case)["outputs"]:
        if name.endswith("_before_sr"):
            expected[name.removesuffix("_before_sr")] = expected[name]
    return expected


def _call(forward: str) -> tuple[list[str], bool]:
    """Parse a call such as "m(x, img, ws, **kw)": argument names, and whether "ws" is picked from a dict of outputs."""
    inside = re.sub(r"'\w+'", "", re.match(r"m\((.*)\)", forward).group(1))
    return re.findall(r"\b(?!mask\b|kw\b)[a-z]+\b", inside), "['ws']" in forward


def _named(m: dict, out) -> dict[str, torch.Tensor]:
    """Outputs by the names of their cotangents in the manifest."""
    values = [t for t in (out if isinstance(out, tuple) else (out,)) if t is not None]
    names = [name[4:] for name in m["inputs"] if name.startswith("cot_")]
    return dict(zip(names, values, strict=True))
