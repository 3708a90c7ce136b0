"""Radiance decoders: golden arrays, and deferred features against plain decoding."""

import pytest
import torch
from golden.golden import check, fill_, inputs, load, manifest

from training.networks import decoders
from training.networks.decoders import DECODERS, DecoderPair, decode_deferred, decode_sigma, finish_features

CASE = "render_decoders"
RTOL = 2e-5  # of the golden arrays
LABELS = {"lin": 6, "sig": 1}  # labels pass through the sigmoid only if they have a single channel


def published_decoder(name, entry):
    options = {"decoder_output_dim": 32, "decoder_lr_mul": 0.5 if name == "osg_lr" else 1}
    if entry["cls"] != "OSGDecoder":
        options["semantic_channels"] = LABELS[name.split("_")[-1]]
    n_features = entry["state"][0][1][1]
    return fill_(decoders.Decoder(n_features, options, entry["cls"]))


@pytest.mark.parametrize("name", manifest(CASE)["decoders"])
def test_decoder_is_golden(name):
    entry, x, expected = manifest(CASE)["decoders"][name], inputs(CASE), load(CASE)
    decoder = published_decoder(name, entry)
    assert [[n, list(t.shape)] for n, t in decoder.state_dict().items()] == [row[:2] for row in entry["state"]]
    out = decoder(x[f"features{entry['state'][0][1][1]}"], x["dirs"])
    check(f"{name}_rgb", out["rgb"], expected, RTOL)
    check(f"{name}_sigma", out["sigma"], expected, RTOL)


def small_decoder(class_name, labels=3, n_features=8):
    torch.manual_seed(0)
    decoder = decoders.Decoder(n_features, {"decoder_output_dim": 12, "semantic_channels": labels}, class_name)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    return decoder.double()


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("class_name", DECODERS)
def test_finishing_composited_deferred_features_equals_compositing_plain_features(class_name, labels):
    decoder = small_decoder(class_name, labels)
    features = torch.randn(2, 5, 7, 8, dtype=torch.float64)
    weights = torch.rand(2, 5, 7, 1, dtype=torch.float64)
    plain, sigma = decoder.decode(features)
    heads = decoder.heads()
    deferred, fast_sigma = decode_deferred(heads, features)
    composited = [(weights * x).sum(dim=2) for x in deferred]
    fast = finish_features(heads, composited, weights.sum(dim=2))
    torch.testing.assert_close(fast, (weights * plain).sum(dim=2))
    torch.testing.assert_close(fast_sigma, sigma)
    torch.testing.assert_close(decode_sigma(heads, features), sigma)


def test_gradients_of_deferred_features_equal_plain_ones():
    decoder = small_decoder("OSGDecoder_semantic_lateSeparate")
    features = torch.randn(6, 8, dtype=torch.float64, requires_grad=True)
    heads = decoder.heads()
    deferred, fast_sigma = decode_deferred(heads, features)
    fast = finish_features(heads, deferred, torch.ones_like(fast_sigma))
    plain, sigma = decoder.decode(features)
    cotangent, leaves = torch.randn_like(plain), [features, *decoder.parameters()]
    fast_gradients = torch.autograd.grad((fast * cotangent).sum() + fast_sigma.sum(), leaves)
    plain_gradients = torch.autograd.grad((plain * cotangent).sum() + sigma.sum(), leaves)
    torch.testing.assert_close(fast_gradients, plain_gradients)


def test_pair_reads_color_from_all_channels_and_density_from_the_second_half():
    pair = DecoderPair(small_decoder("OSGDecoder"), small_decoder("OSGDecoder_semantic", n_features=4))
    features = torch.randn(5, 8, dtype=torch.float64)
    plain, sigma = pair.decode(features)
    heads = pair.heads()
    deferred, fast_sigma = decode_deferred(heads, features)
    torch.testing.assert_close(finish_features(heads, deferred, torch.ones_like(sigma)), plain)
    torch.testing.assert_close(fast_sigma, sigma)
    texture_only = features.clone()
    texture_only[:, :4] += 1
    moved, same_sigma = pair.decode(texture_only)
    torch.testing.assert_close(same_sigma, sigma)
    torch.testing.assert_close(moved[:, 12:], plain[:, 12:])
    assert not torch.allclose(moved[:, :12], plain[:, :12])


def test_widened_sigmoid_exceeds_zero_and_one_slightly():
    x = decoders.widened_sigmoid(torch.tensor([-100.0, 0.0, 100.0]))
    torch.testing.assert_close(x, torch.tensor([-0.001, 0.5, 1.001]))
