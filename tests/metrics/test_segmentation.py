"""Agreement of label maps and edges: known answers, chance level, and a slow reference for average precision."""

import numpy as np
import pytest
import torch

from metrics.segmentation import (
    average_precision,
    confusion_matrix,
    edge_histograms,
    edge_tolerance,
    mean_iou,
    pixel_accuracy,
)


def random_map(seed, classes=5, size=64):
    return torch.randint(classes, (1, 1, size, size), generator=torch.Generator().manual_seed(seed))


# --------------------------------------------------------------------------- classes


def test_scores_of_a_constant_label_map_equal_hand_computed_values():
    target = torch.tensor([[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 2, 2], [0, 0, 2, 2]])  # 10, 2 and 4 pixels
    counts = confusion_matrix(target, torch.zeros_like(target), classes=6)
    assert counts[:3, 0].tolist() == [10, 2, 4] and counts.sum() == 16
    assert pixel_accuracy(counts) == 10 / 16
    assert mean_iou(counts) == pytest.approx((10 / 16 + 0 + 0) / 3)  # classes 3 to 5 appear nowhere and do not count
    counts = confusion_matrix(target, torch.ones_like(target), classes=6)
    assert mean_iou(counts) == pytest.approx((0 + 2 / 16 + 0) / 3)


def test_equal_label_maps_score_1():
    counts = confusion_matrix(random_map(0), random_map(0), 5)
    assert mean_iou(counts) == pixel_accuracy(counts) == 1


def test_independent_label_maps_score_at_chance_level():
    maps = [random_map(seed) for seed in range(8)]
    counts = sum(confusion_matrix(a, b, 5) for a, b in zip(maps, maps[1:] + maps[:1], strict=True))
    # evenly spread classes: agreement 1/5, intersection 1/25 over union 9/25; sampling noise of 32768 pixels
    assert pixel_accuracy(counts) == pytest.approx(1 / 5, abs=0.01)
    assert mean_iou(counts) == pytest.approx(1 / 9, abs=0.01)


def test_confusion_matrices_add_up_over_images():
    a, b = torch.cat([random_map(0), random_map(1)]), torch.cat([random_map(2), random_map(3)])
    parts = confusion_matrix(a[:1], b[:1], 5) + confusion_matrix(a[1:], b[1:], 5)
    assert torch.equal(confusion_matrix(a, b, 5), parts)


# --------------------------------------------------------------------------- edges


def drawing(column, size=32, value=-1.0):
    """Draw one vertical line."""
    lines = torch.ones(1, 1, size, size)
    lines[..., column] = value
    return lines


def score(target, predicted, tolerance=1):
    return average_precision(edge_histograms(target, predicted, tolerance))


def test_equal_drawings_have_average_precision_1_for_any_strength_of_lines():
    assert score(drawing(9), drawing(9)) == pytest.approx(1)
    assert score(drawing(9), drawing(9, value=0.4)) == pytest.approx(1)


def test_a_line_counts_only_within_the_tolerance():
    assert score(drawing(9), drawing(10)) == pytest.approx(1)
    assert score(drawing(9), drawing(11)) == 0
    assert score(drawing(9), drawing(11), tolerance=2) == pytest.approx(1)


def test_the_tolerance_is_a_disc_and_excludes_the_corner_of_a_square():
    target, predicted = torch.ones(1, 1, 9, 9), torch.ones(1, 1, 9, 9)
    target[..., 4, 4] = -1
    predicted[..., 5, 5] = -1
    assert score(target, predicted, tolerance=1) == 0 and score(target, predicted, tolerance=2) == pytest.approx(1)


def test_average_precision_of_an_empty_and_of_a_full_drawing():
    assert score(drawing(9), torch.ones(1, 1, 32, 32)) == 0
    assert score(drawing(9), -torch.ones(1, 1, 32, 32)) == pytest.approx(3 / 32)  # the line and one pixel on each side


def test_weak_false_lines_cost_less_than_strong_ones():
    correct = drawing(9, value=0.0)
    weak, strong = torch.minimum(correct, drawing(20, value=0.5)), torch.minimum(correct, drawing(20, value=-1.0))
    assert score(drawing(9), weak) == pytest.approx(1)  # a threshold above it selects only correct lines
    assert score(drawing(9), strong) == pytest.approx(0.5)  # one of two lines is correct


def test_average_precision_equals_a_sweep_over_thresholds():
    rng = torch.Generator().manual_seed(0)
    target = torch.where(torch.rand(1, 1, 24, 24, generator=rng) < 0.05, -1.0, 1.0)
    predicted = torch.rand(1, 1, 24, 24, generator=rng) * 2 - 1
    level = ((1 - predicted[0, 0]) / 2 * 255).round().numpy()
    lines = np.argwhere(target[0, 0].numpy() < 0.5)
    area = last = 0.0
    for threshold in range(255, 0, -1):
        drawn = np.argwhere(level >= threshold)
        if not len(drawn):
            continue
        near = ((drawn[:, None] - lines) ** 2).sum(-1) <= 1
        precision, recall = near.any(1).mean(), near.any(0).mean()
        area, last = area + precision * (recall - last), recall
    assert score(target, predicted) == pytest.approx(area)


def test_lines_of_one_pixel_count_after_the_blur_of_stored_edges():
    stored = torch.zeros(1, 1, 16, 16)
    stored[..., 7:10] = 85.0  # a line of one pixel through a 3x3 box
    assert score(1 - stored / 127.5, drawing(8, size=16)) == pytest.approx(1)


def test_edge_tolerance_grows_with_the_resolution():
    assert [edge_tolerance(size) for size in (16, 128, 512)] == [1, 1, 5]
