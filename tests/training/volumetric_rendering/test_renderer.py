"""Renderer: golden arrays, fast against reference implementation, chunks against the whole."""

import dataclasses

import pytest
import torch
from golden.golden import check, fill_, golden_noise, inputs, load, manifest

from training.networks.decoders import Decoder, DecoderPair
from training.networks.triplane_field import TriplaneField
from training.volumetric_rendering.rays import sample_rays
from training.volumetric_rendering.renderer import RenderOptions, render

SINGLE, PAIR = "render_importance_renderer", "render_semantic_renderer"
RTOL = 2e-4  # of the golden arrays; densities of 24 sorted samples amplify rounding
OPTIONS = {"decoder_output_dim": 32, "semantic_channels": 6}
IMPLS = ("ref", "fast")


class FunctionField:
    """Field given by a function from points N,K,3 to features N,K,F and raw density N,K,1; nothing is deferred."""

    def __init__(self, reference):
        self.reference = reference

    def deferred_features(self, points):
        features, sigma = self.reference(points)
        return (features,), sigma

    def finish_features(self, composited, weight_sum):
        return composited[0]


def rays_of(x, variant):
    suffix = "_wide" if variant == "auto_miss" else ""
    return x[f"origins{suffix}"], x[f"dirs{suffix}"]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("variant", manifest(SINGLE)["variants"])
def test_rendering_and_gradients_are_golden(variant, impl):
    x, expected = inputs(SINGLE), load(SINGLE)
    options = RenderOptions.from_rendering_kwargs(manifest(SINGLE)["variants"][variant])
    decoder, planes = fill_(Decoder(32, OPTIONS, "OSGDecoder")), x["planes"].requires_grad_()
    with golden_noise():
        out = render(TriplaneField(planes, decoder, options.box_warp), *rays_of(x, variant), options, impl=impl)
    for name, value in zip(("rgb", "depth", "weight"), out, strict=True):
        check(f"{variant}_{name}", value, expected, RTOL)
    if f"{variant}_grad_planes_norm" not in expected:
        return
    (out.features * x["cot"]).sum().backward()
    check(f"{variant}_grad_planes", planes.grad, {k: v for k, v in expected.items() if "norm" not in k}, RTOL)
    check(f"{variant}_grad_planes_norm", planes.grad.norm(), expected, RTOL)
    for name, parameter in decoder.named_parameters():
        check(f"{variant}_grad_decoder.{name}", parameter.grad, expected, RTOL)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("variant", manifest(PAIR)["variants"])
def test_rendering_with_two_decoders_is_golden(variant, impl):
    x, expected = inputs(PAIR), load(PAIR)
    options = RenderOptions.from_rendering_kwargs(manifest(PAIR)["variants"][variant])
    pair = DecoderPair(fill_(Decoder(64, OPTIONS, "OSGDecoder")), fill_(Decoder(32, OPTIONS, "OSGDecoder_semantic")))
    planes = torch.cat([x["planes_texture"], x["planes_semantic"]], dim=2)
    with golden_noise(), torch.no_grad():
        out = render(TriplaneField(planes, pair, options.box_warp), x["origins"], x["dirs"], options, impl=impl)
    for name, value in zip(("features", "depth", "weight"), out, strict=True):
        check(f"{variant}_{name}", value, expected, RTOL)


def scene(labels=6, axes="published", dtype=torch.float32):
    """A field with a surface and 2 cameras of 25 rays, some of which miss the cube of side 1."""
    torch.manual_seed(0)
    decoder = Decoder(32, {"decoder_output_dim": 32, "semantic_channels": labels}, "OSGDecoder_semantic_lateSeparate")
    planes = torch.randn(2, 3, 32, 16, 16, dtype=dtype) * 3
    cam2world = torch.diag(torch.tensor([1.0, -1, -1, 1], dtype=dtype)).repeat(2, 1, 1)
    cam2world[:, 2, 3] = torch.tensor([2.7, 2.2])
    intrinsics = torch.tensor([[2.0, 0, 0.5], [0, 2.0, 0.5], [0, 0, 1]], dtype=dtype).repeat(2, 1, 1)
    return TriplaneField(planes, decoder.to(dtype), 1.0, axes), *sample_rays(cam2world, intrinsics, 5)


FIXED = RenderOptions(1.8, 3.3, samples=12, fine_samples=12)
VARIANTS = {
    "fixed": FIXED,
    "auto": dataclasses.replace(FIXED, start="auto", end="auto"),
    "one pass": dataclasses.replace(FIXED, fine_samples=0),
    "uneven passes": dataclasses.replace(FIXED, fine_samples=5),
    "white": dataclasses.replace(FIXED, white_back=True),
    "disparity": dataclasses.replace(FIXED, disparity=True),
    "noise": dataclasses.replace(FIXED, density_noise=0.5),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("labels", [1, 6])
def test_fast_equals_reference(variant, labels):
    field, origins, directions = scene(labels, dtype=torch.float64)
    torch.manual_seed(1)
    fast = render(field, origins, directions, VARIANTS[variant])
    torch.manual_seed(1)
    reference = render(field, origins, directions, VARIANTS[variant], impl="ref")
    torch.testing.assert_close(tuple(fast), tuple(reference), rtol=1e-9, atol=1e-9)  # float64: rounding only


def test_fast_equals_reference_with_corrected_axes():
    field, origins, directions = scene(axes="corrected", dtype=torch.float64)
    fast, reference = (render(field, origins, directions, FIXED, jitter=False, impl=impl) for impl in IMPLS)
    torch.testing.assert_close(tuple(fast), tuple(reference), rtol=1e-9, atol=1e-9)
    published = render(TriplaneField(field.planes, field.decoder, 1.0), origins, directions, FIXED, jitter=False)
    assert (published.features - fast.features).abs().max() > 0.01


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_chunks_equal_the_whole(variant, impl):
    field, origins, directions = scene()
    results = []
    for rays_per_chunk in (None, 14, 1):
        torch.manual_seed(1)
        results.append(render(field, origins, directions, VARIANTS[variant], rays_per_chunk=rays_per_chunk, impl=impl))
    for chunked in results[1:]:  # matrix products of other sizes round differently
        torch.testing.assert_close(tuple(chunked), tuple(results[0]), rtol=1e-4, atol=1e-5)


def test_empty_rays_of_a_chunk_get_the_largest_depth_of_the_whole():
    def slab(points):
        return points, torch.where(points[..., :1].abs() < 0.2, 30.0, -100.0)

    _, origins, directions = scene()
    torch.manual_seed(1)
    whole = render(FunctionField(slab), origins, directions, FIXED)
    torch.manual_seed(1)
    chunked = render(FunctionField(slab), origins, directions, FIXED, rays_per_chunk=2)
    empty = whole.weight_sum == 0
    assert 0 < empty.sum() < empty.numel()
    assert (chunked.depth[empty] == whole.depth.max()).all()


def test_rendering_without_jitter_is_deterministic_and_uses_no_random_numbers():
    field, origins, directions = scene()
    options = VARIANTS["noise"]
    state = torch.get_rng_state()
    first = render(field, origins, directions, options, jitter=False)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    second = render(field, origins, directions, options, jitter=False)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(render(field, origins, directions, options).features, first.features)


def test_samples_without_jitter_range_from_start_to_end():
    seen = []

    def field(points):
        seen.append(points)
        return torch.zeros_like(points), torch.zeros_like(points[..., :1])

    _, origins, directions = scene()
    render(FunctionField(field), origins, directions, dataclasses.replace(FIXED, fine_samples=0), jitter=False)
    distances = (seen[0].unflatten(1, (25, 12)) - origins[:, :, None]).norm(dim=-1)
    torch.testing.assert_close(distances[..., 0], torch.full((2, 25), 1.8))
    torch.testing.assert_close(distances[..., -1], torch.full((2, 25), 3.3))


def test_every_sample_is_evaluated_once():
    counted = []

    def field(points):
        counted.append(points.shape[1])
        return points, points[..., :1]

    _, origins, directions = scene()
    render(FunctionField(field), origins, directions, dataclasses.replace(FIXED, fine_samples=7), rays_per_chunk=20)
    assert sum(counted) == 25 * (12 + 7)


def test_opaque_sphere_has_its_distance_and_color():
    def sphere(points):
        inside = points.norm(dim=-1, keepdim=True) < 0.3
        return torch.full_like(points, 0.75), torch.where(inside, 3000.0, -50.0)

    origins = torch.tensor([[[0.0, 0, 2.7], [0.0, 0.4, 2.7]]])
    directions = torch.tensor([0.0, 0, -1]).expand_as(origins)
    options = RenderOptions(2.25, 3.3, samples=96, fine_samples=96, white_back=True)
    out = render(FunctionField(sphere), origins, directions, options, jitter=False)
    assert out.weight_sum.flatten().tolist() == pytest.approx([1, 0], abs=1e-4)
    assert out.depth[0, 0].item() == pytest.approx(2.4, abs=0.02)  # two coarse steps
    torch.testing.assert_close(out.features[0, 0], torch.full((3,), 0.5), rtol=0, atol=1e-3)
    torch.testing.assert_close(out.features[0, 1], torch.ones(3))  # white background


def test_gradients_of_chunks_equal_those_of_the_whole():
    grads = []
    for rays_per_chunk in (None, 6):
        field, origins, directions = scene(dtype=torch.float64)
        planes = field.planes.requires_grad_()
        field = TriplaneField(planes, field.decoder, 1.0)
        out = render(field, origins, directions, FIXED, jitter=False, rays_per_chunk=rays_per_chunk)
        (out.features.square().sum() + out.depth.sum()).backward()
        grads.append([planes.grad, *(p.grad for p in field.decoder.parameters())])
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("axes", ["published", "corrected"])
def test_methods_of_a_field_agree_at_points(axes):
    field, *_ = scene(axes=axes, dtype=torch.float64)
    points = torch.rand(2, 40, 3, dtype=torch.float64) * 1.4 - 0.7
    features, sigma = field(points)
    torch.testing.assert_close((features, sigma), field.reference(points))
    torch.testing.assert_close(field.sigma(points), sigma)


def test_published_rendering_options_are_read_and_other_keys_ignored():
    kwargs = {"depth_resolution": 64, "depth_resolution_importance": 32, "ray_start": 0.1, "ray_end": 2.6,
              "box_warp": 1.6, "disparity_space_sampling": True, "white_back": True, "density_noise": 0.25,
              "clamp_mode": "softplus", "superresolution_noise_mode": "none"}  # fmt: skip
    assert RenderOptions.from_rendering_kwargs(kwargs) == RenderOptions(
        start=0.1, end=2.6, samples=64, fine_samples=32, box_warp=1.6, disparity=True, white_back=True,
        density_noise=0.25, plane_axes="published",
    )  # fmt: skip
    with pytest.raises(ValueError, match="clamp_mode: expected softplus, got 'relu'"):
        RenderOptions.from_rendering_kwargs({**kwargs, "clamp_mode": "relu"})
    with pytest.raises(ValueError, match="rendering options lack depth_resolution, box_warp"):
        RenderOptions.from_rendering_kwargs(
            {k: v for k, v in kwargs.items() if k not in ("depth_resolution", "box_warp")}
        )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"start": "auto"}, "expected two numbers or twice 'auto', got auto, 3.3"),
        ({"start": 4.0}, "expected 0 <= start < end, got 4.0, 3.3"),
        ({"start": 0.0, "disparity": True}, "disparity: expected start above 0"),
        ({"samples": 3}, "expected 4 or more and fine_samples 0 or more, got 3 and 12"),
        ({"samples": 1, "fine_samples": 0}, "expected 2 or more"),
        ({"fine_samples": -1}, "fine_samples 0 or more"),
        ({"box_warp": 0}, "expected box_warp above 0"),
        ({"plane_axes": "xyz"}, "expected one of published, corrected, got 'xyz'"),
    ],
)
def test_invalid_options_are_rejected(wrong, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(FIXED, **wrong)


def test_unknown_implementation_is_rejected():
    field, origins, directions = scene()
    with pytest.raises(ValueError, match="impl: expected fast or ref, got 'slow'"):
        render(field, origins, directions, FIXED, impl="slow")


def test_nan_planes_give_images_and_nan_gradients_without_an_error():
    field, origins, directions = scene()
    planes = torch.full_like(field.planes, torch.nan).requires_grad_()
    out = render(TriplaneField(planes, field.decoder, 1.0), origins, directions, FIXED)
    out.features.sum().backward()
    assert out.features.shape == (2, 25, 64) and planes.grad.isnan().any()
