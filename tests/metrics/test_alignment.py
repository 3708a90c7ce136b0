"""Label maps, edges and pictures against those that were asked for."""

import numpy as np
import pytest
import torch

from metrics.alignment import (
    average_precision,
    confusion,
    edge_histograms,
    edge_tolerance,
    mean_iou,
    pixel_accuracy,
)
from metrics.similarity import BEST_PSNR, psnr, ssim


def random_map(seed, classes=5, size=64):
    return torch.randint(classes, (1, 1, size, size), generator=torch.Generator().manual_seed(seed))


# --------------------------------------------------------------------------- classes


def test_a_constant_label_map_scores_what_is_computed_by_hand():
    expected = torch.tensor([[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 2, 2], [0, 0, 2, 2]])  # 10, 2 and 4 pixels
    counts = confusion(expected, torch.zeros_like(expected), classes=6)
    assert counts[:3, 0].tolist() == [10, 2, 4] and counts.sum() == 16
    assert pixel_accuracy(counts) == 10 / 16
    assert mean_iou(counts) == pytest.approx((10 / 16 + 0 + 0) / 3)  # classes 3 to 5 are nowhere and do not count
    counts = confusion(expected, torch.ones_like(expected), classes=6)
    assert mean_iou(counts) == pytest.approx((0 + 2 / 16 + 0) / 3)


def test_the_same_map_scores_1():
    counts = confusion(random_map(0), random_map(0), 5)
    assert mean_iou(counts) == pixel_accuracy(counts) == 1


def test_a_shuffled_pairing_falls_to_chance():
    maps = [random_map(seed) for seed in range(8)]
    counts = sum(confusion(a, b, 5) for a, b in zip(maps, maps[1:] + maps[:1], strict=True))
    # evenly spread classes: agreement 1/5, intersection 1/25 over union 9/25; sampling noise of 32768 pixels
    assert pixel_accuracy(counts) == pytest.approx(1 / 5, abs=0.01)
    assert mean_iou(counts) == pytest.approx(1 / 9, abs=0.01)


def test_confusions_add_up_over_pictures():
    a, b = torch.cat([random_map(0), random_map(1)]), torch.cat([random_map(2), random_map(3)])
    parts = confusion(a[:1], b[:1], 5) + confusion(a[1:], b[1:], 5)
    assert torch.equal(confusion(a, b, 5), parts)


# --------------------------------------------------------------------------- edges


def drawing(column, size=32, value=-1.0):
    """One upright line."""
    lines = torch.ones(1, 1, size, size)
    lines[..., column] = value
    return lines


def score(expected, found, tolerance=1):
    return average_precision(edge_histograms(expected, found, tolerance))


def test_the_same_drawing_has_average_precision_1_whatever_the_strength_of_its_lines():
    assert score(drawing(9), drawing(9)) == pytest.approx(1)
    assert score(drawing(9), drawing(9, value=0.4)) == pytest.approx(1)


def test_a_line_within_the_tolerance_counts_and_one_beyond_it_does_not():
    assert score(drawing(9), drawing(10)) == pytest.approx(1)
    assert score(drawing(9), drawing(11)) == 0
    assert score(drawing(9), drawing(11), tolerance=2) == pytest.approx(1)


def test_the_corner_of_a_square_is_farther_than_the_tolerance():
    expected, found = torch.ones(1, 1, 9, 9), torch.ones(1, 1, 9, 9)
    expected[..., 4, 4], found[..., 5, 5] = -1, -1
    assert score(expected, found, tolerance=1) == 0 and score(expected, found, tolerance=2) == pytest.approx(1)


def test_an_empty_drawing_and_one_that_is_all_line_score_nothing_and_the_share_of_near_pixels():
    assert score(drawing(9), torch.ones(1, 1, 32, 32)) == 0
    assert score(drawing(9), -torch.ones(1, 1, 32, 32)) == pytest.approx(3 / 32)  # the line and a pixel to each side


def test_weaker_false_lines_cost_less_than_stronger_ones():
    right = drawing(9, value=0.0)
    weak, strong = torch.minimum(right, drawing(20, value=0.5)), torch.minimum(right, drawing(20, value=-1.0))
    assert score(drawing(9), weak) == pytest.approx(1)  # at a threshold above it all is found
    assert score(drawing(9), strong) == pytest.approx(0.5)  # one of two lines is right


def test_average_precision_is_that_of_the_sweep_over_thresholds():
    rng = torch.Generator().manual_seed(0)
    expected = torch.where(torch.rand(1, 1, 24, 24, generator=rng) < 0.05, -1.0, 1.0)
    found = torch.rand(1, 1, 24, 24, generator=rng) * 2 - 1
    level = ((1 - found[0, 0]) / 2 * 255).round().numpy()
    lines = np.argwhere(expected[0, 0].numpy() < 0.5)
    area = last = 0.0
    for threshold in range(255, 0, -1):
        drawn = np.argwhere(level >= threshold)
        if not len(drawn):
            continue
        near = ((drawn[:, None] - lines) ** 2).sum(-1) <= 1
        precision, recall = near.any(1).mean(), near.any(0).mean()
        area, last = area + precision * (recall - last), recall
    assert score(expected, found) == pytest.approx(area)


def test_thin_lines_survive_the_blur_of_the_stored_form():
    stored = torch.zeros(1, 1, 16, 16)
    stored[..., 7:10] = 85.0  # a line of one pixel through a 3x3 box
    assert score(1 - stored / 127.5, drawing(8, size=16)) == pytest.approx(1)


def test_the_tolerance_grows_with_the_picture_as_the_benchmark_says():
    assert [edge_tolerance(size) for size in (16, 128, 512)] == [1, 1, 5]


# --------------------------------------------------------------------------- pictures


def pictures(seed):
    return torch.rand(2, 3, 40, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_equal_pictures_are_as_alike_as_can_be():
    assert psnr(pictures(0), pictures(0)).tolist() == [BEST_PSNR] * 2
    assert torch.allclose(ssim(pictures(0), pictures(0)), torch.ones(2, dtype=torch.float64))


def test_the_noise_ratio_of_a_known_error():
    assert psnr(torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.2)).item() == pytest.approx(20)  # 4 / 0.04


def test_structural_similarity_agrees_with_another_library():
    metrics = pytest.importorskip("skimage.metrics", reason="needs scikit-image")
    a = pictures(0)
    b = (a + 0.3 * pictures(1)).clamp(-1, 1)
    for ours, x, y in zip(ssim(a, b), a, b, strict=True):
        _, full = metrics.structural_similarity(
            x.double().numpy(), y.double().numpy(), channel_axis=0, data_range=2.0, gaussian_weights=True,
            sigma=1.5, use_sample_covariance=False, full=True,
        )  # fmt: skip
        assert ours.item() == pytest.approx(full[:, 5:-5, 5:-5].mean(), rel=1e-6)
