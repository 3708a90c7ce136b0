"""Stratified and importance sampling of depths."""

import pytest
import torch
from golden.golden import check, golden_noise, inputs, load

from training.volumetric_rendering.sampling import importance_depths, sample_pdf, sort_samples, stratified_depths

CASE = "render_importance"
RTOL = 2e-5  # of the golden arrays


def test_inverse_transform_sampling_is_golden():
    x, expected = inputs(CASE), load(CASE)
    check("pdf_det", sample_pdf(x["bins"], x["weights"], torch.linspace(0, 1, 16).expand(7, 16)), expected, RTOL)
    with golden_noise():
        check("pdf_rand", sample_pdf(x["bins"], x["weights"], torch.rand(7, 16)), expected, RTOL)


def test_importance_depths_are_golden():
    x, expected = inputs(CASE), load(CASE)
    with golden_noise():
        sampled = importance_depths(x["z_vals"], x["imp_weights"], torch.rand(10, 10).view(2, 5, 10))
    check("importance", sampled, expected, RTOL)


@pytest.mark.parametrize("name", ["stratified", "stratified_disparity", "stratified_tensor"])
def test_stratified_depths_are_golden(name):
    x, expected = inputs(CASE), load(CASE)
    start, end = (x["start"], x["end"]) if name == "stratified_tensor" else (2.25, 3.3)
    with golden_noise():
        offsets = torch.rand(2, 5, 12, 1)
    check(name, stratified_depths(start, end, offsets, name == "stratified_disparity"), expected, RTOL)


def test_sorted_samples_are_golden():
    x, expected = inputs(CASE), load(CASE)
    joined = (torch.cat([x[f"{name}1"], x[f"{name}2"]], dim=2) for name in "dcs")
    for name, values in zip(("depths", "colors", "densities"), sort_samples(*joined), strict=True):
        check(f"unify_{name}", values, expected, 0)


@pytest.mark.parametrize("disparity", [False, True])
def test_depths_without_offsets_range_from_start_to_end(disparity):
    depths = stratified_depths(0.5, 2.0, torch.zeros(1, 2, 7, 1), disparity).flatten(0, 1)[0, :, 0]
    torch.testing.assert_close(depths[[0, -1]], torch.tensor([0.5, 2.0]))
    steps = (1 / depths if disparity else depths).diff()
    torch.testing.assert_close(steps, steps[:1].expand(6))


def test_stratified_depths_with_random_offsets_are_ascending():
    torch.manual_seed(0)
    assert (stratified_depths(2.25, 3.3, torch.rand(3, 50, 48, 1)).diff(dim=2) > 0).all()


def test_quantiles_follow_the_cumulative_weight():
    bins, weights = torch.tensor([[0.0, 1, 2, 10]]), torch.tensor([[1.0, 0, 1]])
    sampled = sample_pdf(bins, weights, torch.tensor([[0.0, 0.25, 0.75, 1.0]]))
    # PDF_EPS is added to every weight, which shifts the edges by about as much
    torch.testing.assert_close(sampled, torch.tensor([[0.0, 0.5, 6.0, 10.0]]), rtol=0, atol=2e-4)


def test_importance_depths_concentrate_at_a_surface_and_stay_within_the_coarse_range():
    depths = stratified_depths(2.0, 3.0, torch.zeros(1, 1, 41, 1))
    weights = torch.zeros(1, 1, 40, 1)
    weights[0, 0, 20] = 1  # between 2.5 and 2.525
    sampled = importance_depths(depths, weights, torch.linspace(0, 1, 100).view(1, 1, 100)).flatten()
    assert depths.min() <= sampled.min() and sampled.max() <= depths.max()
    assert ((sampled - 2.5).abs() < 0.05).float().mean() > 0.6  # WEIGHT_FLOOR spreads the others
    assert not importance_depths(depths, weights.requires_grad_(), torch.zeros(1, 1, 1)).requires_grad


def test_nan_weights_give_a_result_of_the_expected_shape():
    """Training counts NaN gradients, so NaN densities must not raise an error before."""
    depths = stratified_depths(2.0, 3.0, torch.zeros(1, 1, 8, 1))
    sampled = importance_depths(depths, torch.full((1, 1, 7, 1), torch.nan), torch.rand(1, 1, 4))
    assert sampled.shape == (1, 1, 4, 1)
