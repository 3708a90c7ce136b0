"""Compositing: golden arrays, limiting cases, and weights of unsorted samples."""

import pytest
import torch
from golden.golden import check, inputs, load

from training.volumetric_rendering.compositing import (
    composite,
    depth_range,
    expected_depth,
    interval_weights,
    sample_weights,
)
from training.volumetric_rendering.sampling import sort_samples

CASE = "render_ray_marcher"
RTOL = 2e-5  # of the golden arrays


@pytest.mark.parametrize("white_back", [False, True])
def test_composite_and_gradients_are_golden(white_back):
    x, expected = inputs(CASE), load(CASE)
    names = ("colors", "densities", "depths")
    leaves = [x[name].requires_grad_() for name in names]
    rgb, depth, weights = composite(*leaves, white_back=white_back)
    prefix = f"wb{int(white_back)}"
    for name, value in (("rgb", rgb), ("depth", depth), ("weights", weights)):
        check(f"{prefix}_{name}", value, expected, RTOL)
    grads = torch.autograd.grad((rgb * x["cot_rgb"]).sum() + (weights * x["cot_weights"]).sum(), leaves)
    for name, grad in zip(names, grads, strict=True):
        check(f"{prefix}_d{name}", grad, expected, RTOL)


def test_depth_gradients_are_golden():
    x, expected = inputs(CASE), load(CASE)
    leaves = [x[name][1:].requires_grad_() for name in ("colors", "densities", "depths")]
    _, depth, _ = composite(*leaves)
    grads = torch.autograd.grad((depth * x["cot_depth"][1:]).sum(), leaves[1:])
    check("wb0_depth_ddensities", grads[0], expected, RTOL)
    check("wb0_depth_ddepths", grads[1], expected, RTOL)


def test_empty_ray_has_the_largest_depth_and_zero_gradient():
    x = inputs(CASE)
    sigma = x["densities"].requires_grad_()  # the third ray of item 0 is empty
    _, depth, weights = composite(x["colors"], sigma, x["depths"])
    assert weights[0, 2].sum() == 0 and depth[0, 2] == x["depths"].max()
    depth.sum().backward()
    assert torch.isfinite(sigma.grad).all() and not sigma.grad[0, 2].any() and sigma.grad[0, 1].any()


def ray(samples=5):
    return torch.linspace(1, 2, samples).view(1, 1, samples, 1)


def test_composite_hides_samples_behind_an_opaque_wall():
    depths = ray(9)
    sigma = torch.where(depths >= 1.5, 2000.0, -50.0)
    features = (depths > 1.8).float()  # white behind the wall
    blended, depth, weights = composite(features, sigma, depths)
    assert weights[0, 0, -1] < 1e-4 and weights.sum() > 0.999
    assert blended.item() < -0.999
    assert 1.3 < depth.item() < 1.6


@pytest.mark.parametrize(("white_back", "shade"), [(False, -1.0), (True, 1.0)])
def test_empty_ray_shows_the_background(white_back, shade):
    blended, _, weights = composite(torch.rand(1, 1, 5, 3), torch.full((1, 1, 5, 1), -50.0), ray(), white_back)
    assert weights.sum() == 0
    assert blended.flatten().tolist() == [shade] * 3


def test_constant_density_follows_the_beer_lambert_law():
    sigma, feature = 0.7, 0.25
    blended, _, weights = composite(torch.full((1, 1, 33, 2), feature), torch.full((1, 1, 33, 1), sigma), ray(33))
    density = torch.nn.functional.softplus(torch.tensor(sigma - 1))
    total = 1 - torch.exp(-density)  # over a length of 1, however many samples there are
    torch.testing.assert_close(weights.sum(), total)
    torch.testing.assert_close(blended, (2 * feature * total - 1).expand(1, 1, 2))


def test_depth_range_of_the_whole_call_bounds_a_chunk():
    x = inputs(CASE)
    whole = composite(x["colors"], x["densities"], x["depths"])[1]
    first = composite(x["colors"][:1], x["densities"][:1], x["depths"][:1], limits=depth_range(x["depths"]))[1]
    torch.testing.assert_close(first, whole[:1])
    assert x["depths"][:1].max() < x["depths"].max()  # else the empty ray could not show a difference


def test_weights_of_unsorted_samples_give_the_composite_of_sorted_ones_with_gradients():
    torch.manual_seed(0)
    features, sigma, depths = (torch.randn(2, 4, 11, c, dtype=torch.float64) for c in (3, 1, 1))
    depths = depths.abs() + 1
    sigma, features = (3 * sigma).requires_grad_(), features.requires_grad_()
    sorted_depths, sorted_features, sorted_sigma = sort_samples(depths, features, sigma)
    plain, depth, weights = composite(sorted_features, sorted_sigma, sorted_depths)
    weights_unsorted = sample_weights(sigma[..., 0], depths[..., 0])[..., None]
    fast = (weights_unsorted * features).sum(dim=2) * 2 - 1
    torch.testing.assert_close(fast, plain)
    torch.testing.assert_close(weights_unsorted.sum(dim=2), weights.sum(dim=2))
    fast_depth = expected_depth(
        (weights_unsorted * depths).sum(dim=2), weights_unsorted.sum(dim=2), depth_range(depths)
    )
    torch.testing.assert_close(fast_depth, depth)
    cotangent = torch.randn_like(plain)
    fast_gradients, plain_gradients = (
        torch.autograd.grad((out * cotangent).sum(), (features, sigma)) for out in (fast, plain)
    )
    torch.testing.assert_close(fast_gradients, plain_gradients)


def test_weights_sum_to_at_most_one_for_extreme_densities():
    torch.manual_seed(0)
    weights = interval_weights(torch.randn(4, 50, 24) * 100, ray(24)[..., 0].expand(4, 50, 24))
    assert (weights >= 0).all()
    assert (weights.sum(dim=2) <= 1 + 1e-5).all()  # rounding of 23 terms


def test_mismatched_shapes_are_rejected():
    with pytest.raises(ValueError, match=r"\(1, 2, 5, 3\), \(1, 2, 4, 1\), \(1, 2, 5, 1\)"):
        composite(torch.zeros(1, 2, 5, 3), torch.zeros(1, 2, 4, 1), torch.zeros(1, 2, 5, 1))
    with pytest.raises(ValueError, match="T of at least 2"):
        composite(torch.zeros(1, 2, 1, 3), torch.zeros(1, 2, 1, 1), torch.zeros(1, 2, 1, 1))
