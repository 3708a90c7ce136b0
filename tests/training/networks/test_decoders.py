"""Radiance decoders: published forms against the fixture, the piecewise evaluation against the plain one."""

import pytest
import torch
from golden.golden import check, fill_, inputs, load, manifest

from training.networks import decoders
from training.networks.decoders import DECODERS, DecoderPair, decode_deferred, decode_sigma, finish_features

CASE = "render_decoders"
RTOL = 2e-5  # of the fixtures
LABELS = {"lin": 6, "sig": 1}  # a sigmoid bounds labels only where there is one channel of them


def published(name, entry):
    options = {"decoder_output_dim": 32, "decoder_lr_mul": 0.5 if name == "osg_lr" else 1}
    if entry["cls"] != "OSGDecoder":
        options["semantic_channels"] = LABELS[name.split("_")[-1]]
    n_features = entry["state"][0][1][1]
    return fill_(decoders.Decoder(n_features, options, entry["cls"]))


@pytest.mark.parametrize("name", manifest(CASE)["decoders"])
def test_decoder_matches_the_fixture(name):
    entry, x, expected = manifest(CASE)["decoders"][name], inputs(CASE), load(CASE)
    decoder = published(name, entry)
    assert [[n, list(t.shape)] for n, t in decoder.state_dict().items()] == [row[:2] for row in entry["state"]]
    out = decoder(x[f"features{entry['state'][0][1][1]}"], x["dirs"])
    check(f"{name}_rgb", out["rgb"], expected, RTOL)
    check(f"{name}_sigma", out["sigma"], expected, RTOL)


def small(form, labels=3, n_features=8):
    torch.manual_seed(0)
    decoder = decoders.Decoder(n_features, {"decoder_output_dim": 12, "semantic_channels": labels}, form)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    return decoder.double()


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("form", DECODERS)
def test_piecewise_evaluation_of_a_blend_equals_the_blend_of_plain_features(form, labels):
    decoder = small(form, labels)
    features = torch.randn(2, 5, 7, 8, dtype=torch.float64)
    weights = torch.rand(2, 5, 7, 1, dtype=torch.float64)
    plain, sigma = decoder.decode(features)
    heads = decoder.heads()
    parts, quick_sigma = decode_deferred(heads, features)
    blended = [(weights * part).sum(dim=2) for part in parts]
    quick = finish_features(heads, blended, weights.sum(dim=2))
    torch.testing.assert_close(quick, (weights * plain).sum(dim=2))
    torch.testing.assert_close(quick_sigma, sigma)
    torch.testing.assert_close(decode_sigma(heads, features), sigma)


def test_piecewise_gradients_equal_plain_ones():
    decoder = small("OSGDecoder_semantic_lateSeparate")
    features = torch.randn(6, 8, dtype=torch.float64, requires_grad=True)
    heads = decoder.heads()
    parts, quick_sigma = decode_deferred(heads, features)
    quick = finish_features(heads, parts, torch.ones_like(quick_sigma))
    plain, sigma = decoder.decode(features)
    cotangent, leaves = torch.randn_like(plain), [features, *decoder.parameters()]
    ours = torch.autograd.grad((quick * cotangent).sum() + quick_sigma.sum(), leaves)
    theirs = torch.autograd.grad((plain * cotangent).sum() + sigma.sum(), leaves)
    torch.testing.assert_close(ours, theirs)


def test_a_pair_reads_color_from_all_channels_and_density_from_the_second_half():
    pair = DecoderPair(small("OSGDecoder"), small("OSGDecoder_semantic", n_features=4))
    features = torch.randn(5, 8, dtype=torch.float64)
    plain, sigma = pair.decode(features)
    heads = pair.heads()
    parts, quick_sigma = decode_deferred(heads, features)
    torch.testing.assert_close(finish_features(heads, parts, torch.ones_like(sigma)), plain)
    torch.testing.assert_close(quick_sigma, sigma)
    texture_only = features.clone()
    texture_only[:, :4] += 1
    moved, same_sigma = pair.decode(texture_only)
    torch.testing.assert_close(same_sigma, sigma)
    torch.testing.assert_close(moved[:, 12:], plain[:, 12:])
    assert not torch.allclose(moved[:, :12], plain[:, :12])


def test_colors_stay_within_the_widened_range_and_reach_beyond_zero_and_one():
    x = decoders.widened_sigmoid(torch.tensor([-100.0, 0.0, 100.0]))
    torch.testing.assert_close(x, torch.tensor([-0.001, 0.5, 1.001]))


def test_missing_and_impossible_options_are_refused():
    with pytest.raises(ValueError, match="OSGDecoder: options lack decoder_output_dim"):
        decoders.Decoder(32, {}, "OSGDecoder")
    with pytest.raises(ValueError, match="options lack semantic_channels; got decoder_output_dim"):
        decoders.Decoder(32, {"decoder_output_dim": 32}, "OSGDecoder_semantic")
    with pytest.raises(ValueError, match="semantic_channels must be 1 to 32, got 40"):
        decoders.Decoder(32, {"decoder_output_dim": 32, "semantic_channels": 40}, "OSGDecoder_semantic_lateSeparate")
