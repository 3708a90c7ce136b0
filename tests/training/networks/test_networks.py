"""Layers, blocks, encoders, discriminators and super-resolution: golden arrays and edge cases."""

import pytest
import torch
from golden import golden
from golden_cases import build, check_forward

from training.networks.discriminator import MinibatchStdLayer
from training.networks.registry import construct, describe

FORWARD = sorted(
    path.stem.removeprefix("manifest_")
    for kind in ("layer", "block", "net", "encoder", "disc_epilogue")
    for path in golden.HERE.glob(f"manifest_{kind}_*.json")
)
MAPPINGS = sorted(
    path.stem.removeprefix("manifest_")
    for path in golden.HERE.glob("manifest_map_*.json")
    if not path.stem.endswith("_grad")
)
DISCRIMINATORS = sorted(
    path.stem.removeprefix("manifest_")
    for path in golden.HERE.glob("manifest_disc_*.json")
    if "epilogue" not in path.stem
)
SUPERRESOLUTIONS = sorted(path.stem.removeprefix("manifest_") for path in golden.HERE.glob("manifest_sr_*.json"))


@pytest.mark.parametrize("case", [*FORWARD, "map_mask_disentangle_grad"])
def test_outputs_and_gradients_are_golden(case):
    check_forward(case)


@pytest.mark.parametrize("case", MAPPINGS)
def test_mapping_networks_are_golden_with_and_without_truncation(case):
    m, expected, inputs = golden.manifest(case), golden.load(case), golden.inputs(case)
    network = build(case)
    batch = [{"mask": inputs["mask"]}] if "mask" in inputs else []
    options = {
        "ws_psi1": {},
        "ws_psi07": {"truncation_psi": 0.7},
        "ws_psi07_cut4": {"truncation_psi": 0.7, "truncation_cutoff": 4},
        "ws_ema": {"update_emas": True},
    }
    for name, kwargs in options.items():
        if name not in expected:
            continue
        with torch.no_grad(), golden.golden_noise():
            ws = network(inputs.get("z"), inputs.get("c"), *batch, **kwargs)
        golden.check(name, ws, expected, rtol=m["rtol"])
    if "w_avg_after" in expected:
        golden.check("w_avg_after", network.w_avg, expected, rtol=m["rtol"])


@pytest.mark.parametrize("case", SUPERRESOLUTIONS)
def test_super_resolution_is_golden_and_does_not_modify_its_inputs(case):
    m, expected, inputs = golden.manifest(case), golden.load(case), golden.inputs(case)
    network, before = build(case), inputs["rgb"].clone()
    with torch.no_grad():
        out = network(inputs["rgb"], inputs["x"], inputs["ws"], **m["forward_kwargs"])
    (name,) = m["outputs"]
    golden.check(name, out, expected, rtol=m["rtol"])
    assert torch.equal(inputs["rgb"], before)


@pytest.mark.parametrize("case", DISCRIMINATORS)
def test_discriminator_logits_r1_and_double_backward_are_golden(case):
    m, expected, inputs = golden.manifest(case), golden.load(case), golden.inputs(case)
    network = build(case)
    images = {k: inputs[k].requires_grad_() for k in ("image", "image_raw")}
    logits = network(images, inputs["c"])
    golden.check("logits", logits, expected, rtol=m["rtol"])
    used = [k for k in images if f"r1_norm_{k}" in m["outputs"]]
    gradients = torch.autograd.grad(logits.sum(), [images[k] for k in used], create_graph=True)
    r1 = {k: g.square().sum(dim=[1, 2, 3]) for k, g in zip(used, gradients, strict=True)}
    for k, gradient in zip(used, gradients, strict=True):
        golden.check(f"d_{k}", gradient, expected, rtol=m["rtol_gradients"])
        golden.check(f"r1_norm_{k}", r1[k], expected, rtol=m["rtol_gradients"])
    sum(r1.values()).mean().backward()
    norms = {n: None if p.grad is None else p.grad.norm().item() for n, p in network.named_parameters()}
    golden.check_norms(case, norms, m["r1_param_grad_norms"])


def test_geometry_layer_is_honored_outside_the_published_classes():
    kwargs = {"z_dim": 8, "c_dim": 0, "w_dim": 16, "num_ws": 14, "in_resolution": 8, "in_channels": 1}
    own = construct("ConditionalMappingNetwork", {**kwargs, "one_hot": False, "geometry_layer": 9})
    published = construct("EdgeMappingNetwork_disentangle", {**kwargs, "geometry_layer": 9})
    z, batch = torch.randn(2, 8), {"mask": torch.randn(2, 1, 8, 8)}
    other = {"mask": torch.randn(2, 1, 8, 8)}
    for network, layers in ((own, 9), (published, 7)):
        moved = (network(z, None, batch) != network(z, None, other)).any(dim=-1).all(dim=0)
        assert moved.tolist() == [True] * layers + [False] * (14 - layers)


def test_encoded_label_map_replaces_the_label_map_for_any_number_of_latents():
    kwargs = {"z_dim": 8, "c_dim": 0, "w_dim": 16, "num_ws": 14, "in_resolution": 8, "in_channels": 3}
    for name in ("MaskMappingNetwork", "MaskMappingNetwork_disentangle"):
        network = construct(name, kwargs)
        z, batch = torch.randn(3, 8), {"mask": torch.randint(3, (1, 1, 8, 8))}
        whole = network(z, None, {"mask": batch["mask"].expand(3, -1, -1, -1)})
        torch.testing.assert_close(network(z, None, None, encoded=network.encode(batch)), whole)


def test_invalid_label_maps_are_rejected():
    kwargs = {"z_dim": 8, "c_dim": 0, "w_dim": 16, "num_ws": 14, "in_resolution": 8, "in_channels": 3}
    network = construct("MaskMappingNetwork_disentangle", kwargs)
    with pytest.raises(ValueError, match="mask: expected class ids 0 to 2, got 0 to 3"):
        network(torch.zeros(1, 8), None, {"mask": torch.arange(64).view(1, 1, 8, 8) % 4})
    with pytest.raises(ValueError, match=r"label map: expected N,C,8,8, got \(1, 3, 16, 16\)"):
        network(torch.zeros(1, 8), None, {"mask": torch.zeros(1, 1, 16, 16)})


def test_pose_noise_of_the_discriminator_does_not_modify_the_pose_and_is_zero_for_one_sample():
    kwargs = golden.manifest("disc_dual_128_3ch")["init_kwargs"]
    network = construct("DualDiscriminator", {**kwargs, "disc_c_noise": 1.0})
    images = {"image": torch.randn(2, 3, 128, 128), "image_raw": torch.randn(2, 3, 64, 64)}
    c = torch.randn(2, 25)
    before = c.clone()
    assert not torch.equal(network(images, c), network(images, c))
    assert torch.equal(c, before)
    one = {name: image[:1] for name, image in images.items()}
    assert torch.equal(network(one, c[:1]), network(one, c[:1]))  # a single pose has no standard deviation


def test_mapping_without_w_avg_ignores_updates_and_rejects_truncation():
    network = construct("MappingNetwork", {"z_dim": 8, "c_dim": 0, "w_dim": 16, "num_ws": None})
    z = torch.randn(2, 8)
    assert torch.equal(network(z, None, update_emas=True), network(z, None))
    network = construct("MappingNetwork", {"z_dim": 8, "c_dim": 0, "w_dim": 16, "num_ws": 3, "w_avg_beta": None})
    with pytest.raises(ValueError, match="tracks no average"):
        network(z, None, truncation_psi=0.5)


def test_frozen_layers_are_buffers():
    block = construct("DiscriminatorBlock", golden.manifest("block_disc_freeze")["init_kwargs"])
    assert {n for n, _ in block.named_parameters()} == {"conv1.weight", "conv1.bias", "skip.weight"}


def test_minibatch_standard_deviation_of_a_constant_batch_is_zero():
    x = torch.ones(4, 3, 2, 2)
    assert torch.allclose(MinibatchStdLayer(4)(x)[:, 3], torch.full((4, 2, 2), 1e-4))  # square root of the epsilon 1e-8


def test_invalid_shapes_and_names_are_rejected():
    network = construct("SynthesisNetwork", golden.manifest("net_synthesis_skip")["init_kwargs"])
    with pytest.raises(ValueError, match=r"expected N,8,16, got \(2, 7, 16\)"):
        network(torch.zeros(2, 7, 16))
    with pytest.raises(ValueError, match="expected random, const or none, got 'some'"):
        network(torch.zeros(2, 8, 16), noise_mode="some")
    with pytest.raises(ValueError, match=r"got 'os\.system'"):
        construct("os.system", {})
    with pytest.raises(ValueError, match="constructor arguments do not fit"):
        construct("Encoder", {"img_resolution": 8})
    with pytest.raises(ValueError, match="power of two"):
        construct("SynthesisNetwork", {"w_dim": 8, "img_resolution": 48, "img_channels": 3})
    with pytest.raises(ValueError, match="power of two from 8 on, got 4"):
        construct("Discriminator", {"c_dim": 0, "img_resolution": 4, "img_channels": 3})
    with pytest.raises(ValueError, match="channel_base, channel_max: expected 64 and 1 or more for 64 pixels"):
        construct("SynthesisNetwork", {"w_dim": 8, "img_resolution": 64, "img_channels": 3, "channel_base": 32})
    with pytest.raises(ValueError, match="z_dim, c_dim: expected one of them above 0"):
        construct("MappingNetwork", {"z_dim": 0, "c_dim": 0, "w_dim": 16, "num_ws": 3})


def test_describe_returns_the_arguments_of_construct():
    kwargs = golden.manifest("layer_synth")["init_kwargs"]
    assert describe(construct("training.networks_stylegan2.SynthesisLayer", kwargs)) == ("SynthesisLayer", kwargs)
    with pytest.raises(ValueError, match="not built by construct"):
        describe(torch.nn.Linear(1, 1))


@pytest.mark.parametrize("name", ["SynthesisBlock", "DiscriminatorBlock"])
def test_an_unknown_block_architecture_is_an_error(name):
    sizes = {"w_dim": 8, "is_last": True} if name == "SynthesisBlock" else {"tmp_channels": 4, "first_layer_idx": 0}
    with pytest.raises(ValueError, match="architecture: got 'dense', expected one of skip, resnet, orig"):
        construct(
            name,
            {"in_channels": 4, "out_channels": 4, "resolution": 8, "img_channels": 3, "architecture": "dense", **sizes},
        )
