"""Decoding of tri-planes by the CPU kernel, against the plain form."""

import pytest
import torch

from torch_utils.ops import build
from training.networks import triplane_field as module
from training.networks.decoders import DECODERS, Decoder, DecoderPair, decode_deferred
from training.networks.triplane_field import TriplaneField
from training.volumetric_rendering.planes import sample_planes_mean
from training.volumetric_rendering.renderer import RenderOptions, render

CPU = torch.device("cpu")
OPTIONS = {"decoder_output_dim": 32, "decoder_lr_mul": 1, "semantic_channels": 6}
# Softplus and sigmoid have errors of 1e-7, and sums are added up in another order.
TOLERANCE = {"rtol": 1e-5, "atol": 5e-6}


@pytest.fixture
def kernel():
    if not build.kernels_ready(CPU, build.CPU_KERNELS):
        pytest.skip("the kernel cannot be built here: see the warning")


def field(decoder="OSGDecoder_semantic_lateSeparate", batch=2, size=9, axes="published", scale=1.0, channels=32):
    if decoder == "pair":
        decoder = DecoderPair(Decoder(64, OPTIONS), Decoder(32, OPTIONS, "OSGDecoder_semantic"))
        networks = [decoder.texture, decoder.semantic]
        channels = 64
    else:
        decoder = Decoder(channels, OPTIONS, decoder)
        networks = [decoder]
    for network in networks:
        network.requires_grad_(False)
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    planes = torch.randn(batch, 3, channels, size, size) * scale
    return TriplaneField(planes, decoder, box_warp=2.0, axes=axes)


def points_of(batch=2, count=77):
    # Inside and outside of the cube from -1 to 1.
    return torch.randn(batch, count, 3)


def assert_kernel_equals_plain_form(scene, points):
    fast, fast_sigma = scene._decode(scene.heads, points, impl="kernel")
    plain, plain_sigma = decode_deferred(scene.heads, sample_planes_mean(scene.folded, points, scene.box_warp))
    assert len(fast) == len(plain)
    for a, b in zip([*fast, fast_sigma], [*plain, plain_sigma], strict=True):
        torch.testing.assert_close(a, b, **TOLERANCE)


@pytest.mark.parametrize("axes", ["published", "corrected"])
@pytest.mark.parametrize("decoder", [*DECODERS, "pair"])
def test_kernel_equals_the_plain_form_for_every_decoder(kernel, decoder, axes):
    assert_kernel_equals_plain_form(field(decoder, axes=axes), points_of())


@pytest.mark.parametrize("count", [0, 1, 2, 47, 48, 49, 96, 97, 193])
@pytest.mark.parametrize("batch", [1, 3])
def test_kernel_equals_the_plain_form_for_any_number_of_points(kernel, batch, count):
    assert_kernel_equals_plain_form(field(batch=batch), points_of(batch, count))


@pytest.mark.parametrize("size", [1, 2, 16])
def test_kernel_samples_zeros_outside_of_the_planes(kernel, size):
    scene = field("OSGDecoder", batch=1, size=size)
    edges = torch.tensor([-1e30, -3.0, -1.001, -1.0, -0.999, -1 + 1 / size, 0.0, 1 - 1 / size, 0.999, 1.0, 1.2, 1e30])
    nan = torch.full((1, 3), torch.nan)
    assert_kernel_equals_plain_form(scene, torch.cat([torch.cartesian_prod(edges, edges, edges), nan])[None])


@pytest.mark.parametrize("scale", [1e-6, 30.0])
def test_kernel_equals_the_plain_form_for_small_and_large_activations(kernel, scale):
    scene, points = field(scale=scale, batch=1), points_of(1, 200)
    fast, fast_sigma = scene._decode(scene.heads, points, impl="kernel")
    plain, plain_sigma = scene._decode(scene.heads, points, impl="ref")
    for a, b in zip([*fast, fast_sigma], [*plain, plain_sigma], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * b.abs().max().item())


def test_huge_activations_stay_finite(kernel):
    scene = field(scale=1e20, batch=1)
    fast, fast_sigma = scene._decode(scene.heads, points_of(1), impl="kernel")
    assert all(x.isfinite().all() for x in (*fast, fast_sigma))


def test_nan_in_the_planes_is_not_hidden(kernel):
    scene = field("OSGDecoder", batch=1)
    scene.folded.table.fill_(torch.nan)
    (features,), sigma = scene._decode(scene.heads, torch.zeros(1, 3, 3), impl="kernel")
    assert features.isnan().all() and sigma.isnan().all()


def test_rendering_with_the_kernel_equals_the_definition(kernel, monkeypatch):
    scene = field("OSGDecoder_semantic_lateSeparate", batch=2)
    options = RenderOptions(start=1.0, end=4.0, samples=12, fine_samples=9, box_warp=2.0, white_back=True)
    origins = torch.tensor([0.0, 0.0, 2.5]).expand(2, 50, 3)
    directions = torch.nn.functional.normalize(torch.randn(2, 50, 3) * 0.2 - torch.tensor([0.0, 0.0, 1.0]), dim=-1)
    calls = []
    decode = TriplaneField._decode_by_kernel
    monkeypatch.setattr(TriplaneField, "_decode_by_kernel", lambda *args: calls.append(1) or decode(*args))
    with torch.no_grad():
        fast = render(scene, origins, directions, options, jitter=False)
        plain = render(scene, origins, directions, options, jitter=False, impl="ref")
    assert len(calls) == 2  # coarse and fine
    for a, b in zip(fast, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_result_is_the_same_bits_with_any_number_of_threads(kernel):
    scene, points = field(), points_of(2, 1000)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            deferred, sigma = scene._decode(scene.heads, points, impl="kernel")
            results.append([*deferred, sigma])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("case", ["gradient of planes", "gradient of weights", "gradient of points", "16 channels"])
def test_nothing_is_compiled_where_the_plain_form_runs(case, monkeypatch):
    monkeypatch.setattr(module, "use_kernel", lambda *_: pytest.fail("compiled"))
    scene = field("OSGDecoder", channels=16 if case == "16 channels" else 32)
    points = points_of()
    if case == "gradient of points":
        points.requires_grad_()
    elif case != "16 channels":
        decoder = scene.decoder.requires_grad_(case == "gradient of weights")
        planes = scene.planes.requires_grad_(case == "gradient of planes")
        scene = TriplaneField(planes, decoder, box_warp=2.0)
    scene.deferred_features(points)
    with pytest.raises(ValueError, match="impl: no kernel"):
        scene._decode(scene.heads, points, impl="kernel")


def test_binding_rejects_tensors_that_the_kernel_cannot_read(kernel):
    scene = field("OSGDecoder", batch=1)
    (head,) = scene.heads
    good = {
        "points": torch.zeros(3, 1, 5),
        "table": scene.folded.table,
        "size": 9,
        "axes": [0, 1, 0, 2],
        "box_warp": 2.0,
        "weights": [tensor.contiguous() for tensor in head.tensors],
        "ranges": [0, 32, 0, 0],
    }
    decode = torch.ops.pix2pix3d.decode_triplanes
    decode(**good)
    bad = [{"points": torch.zeros(1, 5, 3)}, {"points": torch.zeros(3, 1, 5).double()}, {"size": 10}, {"size": 0}]
    bad += [{"points": torch.zeros(3, 2, 5)}, {"axes": [0, 3, 0, 2]}, {"axes": [0, 1]}, {"box_warp": 0.0}]
    bad += [{"table": scene.folded.table[:, :20]}, {"weights": []}, {"weights": [head.bias0] * 3}]
    bad += [{"ranges": ranges} for ranges in ([0, 33, 0, 0], [-1, 32, 0, 0], [0, 32, 0, 33], [0, 16, 0, 0])]
    bad += [{"weights": [tensor[..., :-1] for tensor in head.tensors]}]
    for change in bad:
        with pytest.raises(ValueError, match="expected"):
            decode(**{**good, **change})
