"""Complete generators: golden arrays, and invariances of rendering."""

import math
from dataclasses import replace

import pytest
import torch
from golden import golden
from golden_cases import GENERATOR_CASES, generate, generated_arrays
from golden_cases import build as build_case

from camera_utils import CAMERAS, front_pose
from torch_utils.precision import Precision, has_fast, set_precision
from training.networks.configs import CONFIGS
from training.networks.registry import construct
from training.networks.synthesis import count_ws
from training.volumetric_rendering.planes import sample_planes
from training.weights.record import module_from_record, record_from_module


@pytest.mark.parametrize("case", GENERATOR_CASES)
def test_images_labels_depth_and_point_samples_are_golden(case):
    m = golden.manifest(case)
    values, generated = generate(case, build_case(case))
    expected = generated_arrays(case)
    assert {n for n in m["outputs"] if not n.endswith("_before_sr")} == set(values)
    for name, value in values.items():
        golden.check(name, value, expected, rtol=m["rtol"])
    # Under golden_noise, random values depend on how many numbers a call generates.
    expected_sizes = [math.prod(shape) for function, shape, _ in m["draws"] if function != "randn"]
    assert [math.prod(shape) for function, shape in generated if function == "rand"] == expected_sizes


@pytest.fixture(scope="module")
def scene():
    """A small car generator, its ws and planes, and two poses."""
    kwargs = golden.manifest("gen_edge2car")["init_kwargs"]
    torch.manual_seed(0)
    G = construct("TriPlaneSemanticEntangleGenerator", {**kwargs, "channel_base": 512, "channel_max": 8}).eval()
    poses = torch.cat([golden.inputs("gen_edge2car")["c"], golden.inputs("gen_edge2car_res64")["c"]])
    with torch.no_grad():
        ws = G.mapping(torch.randn(1, 512), poses[:1], {"mask": torch.rand(1, 1, 128, 128) * 2 - 1})
        planes = G.planes(ws, noise_mode="const")
    return G, ws, planes, poses


def render_views(G, ws, poses, **kwargs):
    with torch.no_grad():
        return G.synthesis(ws, poses, neural_rendering_resolution=16, noise_mode="const", jitter=False, **kwargs)


def test_precomputed_planes_give_the_same_images(scene):
    G, ws, planes, poses = scene
    first, second = render_views(G, ws, poses[:1]), render_views(G, ws, poses[:1], planes=planes)
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_selected_outputs_equal_the_full_result_and_skip_unused_super_resolution(scene, monkeypatch):
    G, ws, planes, poses = scene
    whole = render_views(G, ws, poses[:1], planes=planes)
    monkeypatch.setattr(G.superresolution, "forward", None)  # would fail if it were called
    part = render_views(G, ws, poses[:1], planes=planes, outputs={"semantic", "image_raw"})
    assert part.keys() == {"semantic", "image_raw"}
    assert all(torch.equal(part[name], whole[name]) for name in part)


def test_weight_of_a_scene_without_background_is_returned_on_request(scene):
    G, ws, planes, poses = scene
    weight = render_views(G, ws, poses[:1], planes=planes, outputs={"weight"})["weight"]
    assert weight.shape == (1, 1, 16, 16) and 0 <= weight.min() < weight.max() <= 1
    assert "weight" not in render_views(G, ws, poses[:1], planes=planes)
    with pytest.raises(ValueError, match=r"outputs: .* got background"):
        render_views(G, ws, poses[:1], planes=planes, outputs={"background"})


def test_views_rendered_together_equal_views_rendered_separately(scene):
    G, ws, planes, poses = scene
    together = render_views(G, ws, poses, planes=planes)
    for i in range(2):
        alone = render_views(G, ws, poses[i : i + 1], planes=planes)
        for name in ("image", "image_raw", "semantic", "semantic_raw"):  # depth is clamped to the call's own range
            torch.testing.assert_close(together[name][i : i + 1], alone[name], rtol=1e-4, atol=1e-5)


def test_images_of_a_scene_differ_only_by_jitter(scene):
    G, ws, planes, poses = scene
    with torch.no_grad():
        jittered = [G.synthesis(ws, poses[:1], 16, "const", planes)["image_raw"] for _ in range(2)]
    assert not torch.equal(*jittered)
    assert torch.equal(*(render_views(G, ws, poses[:1], planes=planes)["image_raw"] for _ in range(2)))


def test_only_corrected_plane_axes_distinguish_heights_on_planes_2_and_3(scene):
    G, ws, planes, _ = scene
    planes = planes.clone()
    planes[:, 0] = 0
    points = torch.tensor([[[0.2, -0.3, 0.1], [0.2, 0.4, 0.1]]])
    published = G.sample_mixed(points, None, ws, planes=planes)["sigma"][0]
    G.rendering_kwargs["plane_axes"] = "corrected"
    corrected = G.sample_mixed(points, None, ws, planes=planes)["sigma"][0]
    del G.rendering_kwargs["plane_axes"]
    assert torch.equal(published[0], published[1])
    assert not torch.allclose(corrected[0], corrected[1])


def test_calls_of_eg3d_scripts_work():
    kwargs = golden.manifest("gen_eg3d_uncond")["init_kwargs"]
    G = construct("TriPlaneGenerator", {**kwargs, "channel_base": 512, "channel_max": 8}).eval()
    x = golden.inputs("gen_eg3d_uncond")
    G.rendering_kwargs["depth_resolution"] = 8  # scripts change options between calls
    with torch.no_grad():
        ws = G.mapping(x["z"], x["pose"], truncation_psi=0.7, truncation_cutoff=14)
        assert ws.shape == (1, G.backbone.mapping.num_ws, G.w_dim)
        image = G.synthesis(ws, x["c"], noise_mode="const")
        sample = G.sample(x["coords"], x["dirs"], x["z"], x["pose"], truncation_psi=0.7, truncation_cutoff=14,
                          noise_mode="const")  # fmt: skip
        again = G.sample_mixed(x["coords"], x["dirs"], ws, truncation_psi=0.7, noise_mode="const")
        whole = G(x["z"], x["c"], neural_rendering_resolution=8)
    assert image["image_raw"].shape == (1, 3, G.neural_rendering_resolution, G.neural_rendering_resolution)
    torch.testing.assert_close(sample, again)
    assert whole["image"].shape == (1, 3, 512, 512)


def test_forward_conditions_on_the_pose_of_the_batch_and_renders_from_c(scene):
    G, _, _, poses = scene
    z, mask = torch.randn(1, 512), torch.rand(1, 1, 128, 128)
    batch = {"mask": mask, "pose": poses[:1]}
    with torch.no_grad(), golden.golden_noise():
        G.rendering_kwargs["c_gen_conditioning_zero"] = False
        single_call = G(z, poses[1:], batch, neural_rendering_resolution=8, noise_mode="const")
        ws = G.mapping(z, poses[:1], batch)
        separate_calls = G.synthesis(ws, poses[1:], neural_rendering_resolution=8, noise_mode="const")
        G.rendering_kwargs["c_gen_conditioning_zero"] = True
    torch.testing.assert_close(single_call, separate_calls)


@pytest.fixture(scope="module")
def split():
    """A generator with separate backbones for colors and labels."""
    kwargs = golden.manifest("gen_edge2car")["init_kwargs"]
    mapping = {**kwargs["mapping_kwargs"], "class_name": "EdgeMappingNetwork"}
    del mapping["geometry_layer"]
    kwargs = {**kwargs, "mapping_kwargs": mapping, "channel_base": 512, "channel_max": 8}
    return construct("TriPlaneSemanticGenerator", kwargs).eval()


def test_split_generator_takes_color_from_the_first_half_of_ws_and_labels_from_the_second(split):
    pose = golden.inputs("gen_edge2car")["c"]
    with torch.no_grad():
        ws = split.mapping(torch.randn(1, 512), pose, {"mask": torch.rand(1, 1, 128, 128)})
        assert ws.shape == (1, 14, 1024)
        before = render_views(split, ws, pose)
        ws[..., :512] += 1
        after = render_views(split, ws, pose)
    assert torch.equal(before["semantic"], after["semantic"])
    assert torch.equal(before["image_depth"], after["image_depth"])
    assert not torch.equal(before["image"], after["image"])


def test_split_generator_takes_density_from_the_label_decoder(split):
    planes, points = torch.randn(1, 3, 64, 256, 256), torch.rand(1, 50, 3) - 0.5
    features = sample_planes(planes, points, split.ray_options().box_warp)  # 1,3,50,64
    with torch.no_grad():
        color = split.decoder(features)["rgb"]
        labels = split.decoder_semantic(features[..., 32:])
        sample = split.sample_mixed(points, None, torch.zeros(1, 14, 1024), planes=planes)
    torch.testing.assert_close(sample["rgb"], torch.cat([color, labels["rgb"]], dim=-1))
    torch.testing.assert_close(sample["sigma"], labels["sigma"])


def test_split_generator_takes_one_encoded_label_map_for_several_latents(split):
    poses, mask = torch.randn(2, 25), torch.rand(1, 1, 128, 128)
    with torch.no_grad():
        ws = split.mapping(torch.randn(2, 512), poses, encoded=split.encode({"mask": mask}))
    assert ws.shape == (2, 14, 1024)


def test_gradients_of_rendered_images_reach_every_module(scene):
    G, _, _, poses = scene
    G.train()
    out = G(torch.randn(1, 512), poses[:1], {"mask": torch.rand(1, 1, 128, 128), "pose": poses[:1]},
            neural_rendering_resolution=8)  # fmt: skip
    sum(v.square().mean() for v in out.values()).backward()
    without = {n for n, p in G.named_parameters() if p.grad is None}
    G.eval().zero_grad()
    # the published options disable noise in super-resolution
    assert {n for n in without if "noise_strength" not in n} == set()
    assert {n.split(".")[0] for n in without} <= {"superresolution", "superresolution_semantic"}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_close_to_float32(precision):
    kwargs = golden.manifest("net_synthesis_skip")["init_kwargs"]
    network = construct("SynthesisNetwork", {**kwargs, "architecture": "skip", "num_fp16_res": 4}).eval()
    ws = torch.randn(1, network.num_ws, kwargs["w_dim"])
    with torch.no_grad():
        plain = network(ws, noise_mode="const")
        set_precision(network, precision)
        half = network(ws, noise_mode="const")
        set_precision(network, "fp32")
        forced = network(ws, noise_mode="const")
    assert torch.equal(forced, plain)
    assert not torch.equal(half, plain)
    assert (half - plain).abs().mean() < 0.02 * plain.abs().mean()  # 8 bits of mantissa, summed over 4 resolutions


def test_missing_half_precision_convolutions_are_detected(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not has_fast("bf16", torch.device("cpu")) and has_fast("fp32", torch.device("cpu"))
    assert has_fast("bf16", torch.device("cuda"))


def test_precision_depends_on_device_module_and_setting():
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    row = {setting: Precision(use_fp16=True, clamps=True, setting=setting) for setting in ("auto", "fp32", "bf16")}
    assert row["auto"].dtype(cuda) is torch.float16 and row["auto"].dtype(cpu) is torch.float32
    assert row["fp32"].dtype(cuda) is torch.float32 and row["bf16"].dtype(cpu) is torch.bfloat16
    assert Precision(use_fp16=True, clamps=False, setting="fp16").dtype(cuda) is torch.float32  # it could overflow
    with pytest.raises(ValueError, match="expected one of auto, fp32, fp16, bf16, got 'half'"):
        set_precision(torch.nn.Identity(), "half")


def test_invalid_arguments_are_rejected(scene):
    G, ws, planes, poses = scene
    with pytest.raises(ValueError, match=r"pose: expected N,25, got \(1, 16\)"):
        G.synthesis(ws, poses[:1, :16])
    with pytest.raises(ValueError, match="this generator is conditional"):
        G.mapping(torch.zeros(1, 512), poses[:1])
    with pytest.raises(ValueError, match=r"batch: expected a dict .*, got 0\.7"):
        G(torch.zeros(1, 512), poses[:1], 0.7)
    with pytest.raises(ValueError, match="resolution: expected 1 or more pixels, got 0"):
        G.synthesis(ws, poses[:1], 0, planes=planes)
    kwargs = {**golden.manifest("gen_edge2car")["init_kwargs"], "semantic_channels": 40}
    with pytest.raises(ValueError, match="semantic_channels: expected 1 to 32, got 40"):
        construct("TriPlaneSemanticEntangleGenerator", kwargs)
    with pytest.raises(ValueError, match=r"z: expected N,512, got \(1, 12\)"):
        G.mapping(torch.zeros(1, 12), poses[:1], {"mask": torch.zeros(1, 1, 128, 128)})


def test_small_planes_and_narrow_super_resolution_are_recorded_only_if_not_published_values():
    changes = {"channel_base": 512, "channel_max": 8, "encoder_width": 1 / 32}
    small = {"plane_resolution": 32, "sr_width": 1 / 16, "depth_resolution": 6}
    kwargs = replace(CONFIGS["edge2car"], **changes, **small).kwargs()
    G = construct(CONFIGS["edge2car"].class_name, kwargs).eval()
    options = G.ray_options()
    assert (options.samples, options.fine_samples) == (6, 6)
    assert G.num_ws == count_ws(32) and G.superresolution.block1.conv1.weight.shape[:2] == (4, 4)
    ws = torch.randn(1, G.num_ws, 512)
    pose = front_pose(CAMERAS["edge2car"])
    assert G.planes(ws).shape == (1, 3, 32, 32, 32)
    again = module_from_record(record_from_module(G))
    same = {"noise_mode": "const", "jitter": False, "neural_rendering_resolution": 8}
    with torch.no_grad():  # both networks by the same kernels, if any
        assert torch.equal(again.synthesis(ws, pose, **same)["semantic"], G.synthesis(ws, pose, **same)["semantic"])
    published = replace(CONFIGS["edge2car"], **changes).kwargs()
    assert "plane_resolution" not in published and "width" not in published["sr_kwargs"]
    assert published["rendering_kwargs"]["depth_resolution"] == 64
