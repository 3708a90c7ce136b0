"""Strokes on label maps and the change of colors away from them: known answers and limits."""

import numpy as np
import pytest
import torch

from metrics.strokes import STROKE_MARGIN, STROKE_RADIUS, color_change, paint_stroke

SIZE = 64
RADIUS = STROKE_RADIUS * SIZE


def two_eyes():
    """A head of class 1 with two small eyes of class 3 on a background."""
    ids = torch.zeros(SIZE, SIZE, dtype=torch.long)
    ids[10:54, 10:54] = 1
    ids[20:24, 20:24] = ids[20:24, 40:44] = 3
    return ids


@pytest.mark.parametrize("seed", range(20))
def test_a_stroke_grows_one_class_within_a_disk(seed):
    ids = two_eyes()
    painted, away = paint_stroke(ids, seed)
    changed = (painted != ids).nonzero().double()  # K,2
    grown = painted[painted != ids].unique()
    assert len(grown) == 1 and grown.item() in (1, 3)
    assert 1 <= len(changed) <= np.pi * (RADIUS + 1) ** 2
    assert torch.cdist(changed, changed).max() <= 2 * RADIUS + 1e-6
    assert not away[painted != ids].any()
    margin = torch.cdist(changed, away.nonzero().double()).min()
    assert margin > STROKE_MARGIN * SIZE
    assert away.float().mean() > 0.9  # the disk and its ring are small


def test_strokes_depend_on_the_seed_only_and_small_classes_are_chosen_as_often_as_large_ones():
    ids = two_eyes()
    assert all(torch.equal(paint_stroke(ids, s)[0], paint_stroke(ids, s)[0]) for s in range(3))
    grown = [(paint_stroke(ids, s)[0] - ids).sum().item() for s in range(40)]
    assert len(set(grown)) > 3
    eyes = sum((painted == 3).sum() > (ids == 3).sum() for painted in (paint_stroke(ids, s)[0] for s in range(40)))
    assert 10 <= eyes <= 30


@pytest.mark.parametrize("ids", [torch.zeros(SIZE, SIZE, dtype=torch.long), torch.full((SIZE, SIZE), 2)])
def test_without_a_border_nothing_is_painted_or_compared(ids):
    painted, away = paint_stroke(ids, 0)
    assert torch.equal(painted, ids) and not away.any()


def test_the_change_of_color_is_in_levels_and_counts_compared_pixels_only():
    before = torch.zeros(2, 3, 4, 4)
    after = before + 10 / 127.5  # ten levels
    after[:, :, 0] = 1  # the first row, which is not compared in the first image
    compared = torch.ones(2, 4, 4, dtype=torch.bool)
    compared[0, 0] = False
    first, second = color_change(before, after, compared)
    assert first.item() == pytest.approx(10, abs=1e-6)
    assert second.item() == pytest.approx((3 * 10 + 127) / 4, abs=0.5)
    assert color_change(before, after, torch.zeros_like(compared)).isnan().all()
