"""Distances of feature sets: golden values, torch-fidelity as a second implementation, and limit cases."""

import weakref

import numpy as np
import pytest
import torch
from golden import golden

from metrics import distribution
from metrics.distribution import (
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
    squared_distances,
    statistics,
)

RTOL = golden.manifest("metrics")["rtol"]
ROUNDING = 1e-9  # of float64 sums and eigenvalues, for features of size 1


@pytest.fixture(scope="module")
def case():
    return golden.inputs("metrics"), golden.load("metrics")


def samples(count, width=16, seed=0, scale=1.0, shift=0.0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) * scale + shift


def frechet(real, fake):
    return frechet_distance(statistics(real), statistics(fake))


# --------------------------------------------------------------------------- golden


def test_statistics_and_frechet_distance_equal_golden_values(case):
    x, expected = case
    for name, features in (("real", x["real"]), ("gen", x["gen"])):
        mean, covariance = statistics(features)
        golden.check(f"mu_{name}", mean, expected, RTOL)
        golden.check(f"sigma_{name}", covariance, expected, RTOL)
    golden.check("fid", frechet(x["real"], x["gen"]), expected, RTOL)
    golden.check("capped_mu", statistics(x["real"][: int(expected["capped_count"])]).mean, expected, RTOL)


def test_kernel_distance_equals_golden_values_with_the_same_subsets(case):
    x, expected = case
    golden.check("kid_full", kernel_distance(x["real"][:180], x["gen"], subsets=1), expected, RTOL)
    golden.check("kid_sub", kernel_distance(x["real"], x["gen"], subsets=10, subset_size=50), expected, RTOL)


def test_precision_recall_and_inception_score_equal_golden_values(case):
    x, expected = case
    precision, recall = precision_recall(x["real"], x["gen"])
    golden.check("precision", precision, expected, RTOL)
    golden.check("recall", recall, expected, RTOL)
    mean, deviation = inception_score(x["probs"])
    golden.check("is_mean", mean, expected, RTOL)
    golden.check("is_std", deviation, expected, RTOL)


# --------------------------------------------------------------------------- a second implementation


@pytest.fixture(scope="module")
def fidelity(torchvision_operators):
    """The library torch-fidelity."""
    import torch_fidelity

    return torch_fidelity


def test_frechet_distance_agrees_with_torch_fidelity(fidelity):
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    real, fake = samples(300, seed=1).double(), samples(400, seed=2, scale=1.2, shift=0.1).double()
    reference = fid_statistics_to_metric(fid_features_to_statistics(real), fid_features_to_statistics(fake), False)
    # torch-fidelity divides covariances by N - 1, this project by N: replace them, or use many samples
    ours = [statistics(x)._replace(covariance=torch.cov(x.mT)) for x in (real, fake)]
    assert frechet_distance(*ours) == pytest.approx(reference["frechet_inception_distance"], rel=1e-8)
    many, more = samples(20_000, seed=3).double(), samples(20_000, seed=4, scale=1.2, shift=0.1).double()
    reference = fid_statistics_to_metric(fid_features_to_statistics(many), fid_features_to_statistics(more), False)
    assert frechet(many, more) == pytest.approx(reference["frechet_inception_distance"], rel=1e-3)


def test_kernel_distance_agrees_with_torch_fidelity(fidelity):
    from torch_fidelity.metric_kid import kid_features_to_metric

    real, fake = samples(200, seed=1), samples(200, seed=2, scale=1.1, shift=0.3)
    options = {"kid_subsets": 1, "kid_subset_size": 200, "kid_kernel": "poly", "verbose": False, "rng_seed": 0}
    options |= {"kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": None, "kid_kernel_poly_coef0": 1}
    reference = kid_features_to_metric(real.double(), fake.double(), **options)["kernel_inception_distance_mean"]
    assert kernel_distance(real, fake, subsets=1) == pytest.approx(reference, rel=1e-3)


def test_precision_and_recall_agree_with_torch_fidelity(fidelity):
    from torch_fidelity.metric_prc import prc_features_to_metric

    real, fake = samples(300, seed=1), samples(250, seed=2, scale=1.3)
    # its first argument are the generated features
    reference = prc_features_to_metric(
        fake, real, prc_neighborhood=3, prc_batch_size=100, verbose=False, save_cpu_ram=False
    )
    assert precision_recall(real, fake) == pytest.approx((reference["precision"], reference["recall"]), abs=1e-6)


def test_frechet_distance_agrees_with_the_matrix_square_root():
    linalg = pytest.importorskip("scipy.linalg")
    a, b = statistics(samples(60, seed=5)), statistics(samples(50, seed=6, scale=2.0))
    root = linalg.sqrtm((a.covariance @ b.covariance).numpy()).real
    expected = (a.mean - b.mean).square().sum() + (a.covariance + b.covariance).trace() - 2 * np.trace(root)
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-9)


# --------------------------------------------------------------------------- limits


def test_a_set_has_distance_0_and_full_coverage_to_itself():
    features = samples(150)
    assert abs(frechet(features, features)) < ROUNDING
    # unbiased: without the terms of a sample with itself, the result is slightly below 0
    assert -2 / 150 * 20 < kernel_distance(features, features, subsets=1) <= 0
    assert precision_recall(features, features) == (1.0, 1.0)


def test_frechet_distance_is_finite_with_fewer_samples_than_features():
    few = samples(5, width=64)
    assert abs(frechet(few, few)) < 64 * 1e-7  # eigenvalues of 0 are computed as 1e-15, and their roots are summed
    assert np.isfinite(frechet(few, samples(7, width=64, seed=1)))


def test_frechet_distance_of_a_shift_is_its_square():
    features = samples(100)
    assert frechet(features, features + 0.5) == pytest.approx(16 * 0.25, rel=1e-6)  # float32 input


def test_kernel_distance_of_two_samples_of_one_distribution_is_near_0():
    assert abs(kernel_distance(samples(2000, seed=1), samples(2000, seed=2), subsets=5)) < 5e-3  # noise of 1000 samples
    assert kernel_distance(samples(500), samples(500, seed=1, shift=0.5), subsets=5) > 0.2


def test_distant_sets_have_precision_and_recall_0():
    assert precision_recall(samples(50), samples(50, seed=1, shift=100)) == (0.0, 0.0)


def test_precision_recall_keeps_one_block_of_distances_in_memory(monkeypatch):
    blocks = []

    def watched(a, b):
        held = [block for block in blocks if block() is not None]
        assert len(held) <= 1  # the previous block, until its variable is reassigned
        distances = squared_distances(a, b)
        blocks.append(weakref.ref(distances))
        return distances

    monkeypatch.setattr(distribution, "DISTANCE_ROWS", 8)
    monkeypatch.setattr(distribution, "squared_distances", watched)
    precision_recall(samples(50), samples(40, seed=1))
    assert len(blocks) == 2 * (7 + 5)


def test_squared_distances_by_products_equal_those_by_differences():
    a, b = samples(80, width=300, shift=5).double(), samples(90, width=300, seed=1, shift=5).double()
    slow = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
    assert torch.allclose(squared_distances(a, b), slow.square(), rtol=1e-11)
    assert (squared_distances(a, a.clone()).diagonal() == 0).all()


def test_a_set_of_equal_samples_covers_only_itself():
    same = samples(1, shift=3).expand(20, -1)  # balls of radius 0
    assert precision_recall(same, same) == (1.0, 1.0)
    assert precision_recall(same, same + 1) == (0.0, 0.0)


def test_one_repeated_sample_has_high_precision_and_low_recall():
    real = samples(200)
    precision, recall = precision_recall(real, real[:1].expand(50, -1) + 1e-4 * samples(50, seed=3))
    assert precision == 1.0 and recall < 0.05


def test_inception_score_is_1_for_equal_rows_and_the_number_of_classes_for_one_hot_rows():
    assert inception_score(torch.full((40, 4), 0.25)) == pytest.approx((1.0, 0.0))
    assert inception_score(torch.eye(4).repeat(20, 1)) == pytest.approx((4.0, 0.0))


def test_inception_score_has_the_published_split_boundaries():
    rows = torch.softmax(samples(25, width=4), dim=1).double()
    splits = [rows[i * 25 // 10 : (i + 1) * 25 // 10] for i in range(10)]  # 2, 3, 2, 3, ...
    scores = [(part * (part / part.mean(0)).log()).sum(1).mean().exp().item() for part in splits]
    assert inception_score(rows) == pytest.approx((np.mean(scores), np.std(scores)))


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        (lambda: statistics(torch.zeros(0, 3)), "expected N,F"),
        (lambda: statistics(torch.zeros(3)), "expected N,F"),
        (lambda: kernel_distance(torch.zeros(4, 3), torch.zeros(4, 2)), "same F, got .4, 3. and .4, 2."),
        (lambda: kernel_distance(torch.zeros(1, 3), torch.zeros(4, 3)), "at least 2 samples of each set, got 1 and 4"),
        (lambda: precision_recall(torch.zeros(3, 3), torch.zeros(9, 3)), "more than 3 samples, got 3 and 9"),
        (lambda: inception_score(torch.ones(9, 1)), "at least 10 samples, got 9"),
    ],
)
def test_invalid_features_are_rejected(compute, message):
    with pytest.raises(ValueError, match=message):
        compute()
