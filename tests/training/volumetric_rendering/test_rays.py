"""Camera rays, and their limits inside the box."""

import pytest
import torch
from golden.golden import check, inputs, load

from training.volumetric_rendering.rays import MISS_END, MISS_START, auto_limits, box_limits, sample_rays

CASE = "render_rays"
RTOL = 2e-5  # of the golden arrays


@pytest.mark.parametrize("resolution", [4, 7])
def test_rays_are_golden(resolution):
    x, expected = inputs(CASE), load(CASE)
    origins, directions = sample_rays(x["cam2world"], x["intrinsics"], resolution)
    check(f"origins_{resolution}", origins, expected, RTOL)
    check(f"dirs_{resolution}", directions, expected, RTOL)


@pytest.mark.parametrize("side", [1.0, 1.6])
def test_box_limits_of_camera_rays_are_golden(side):
    expected = load(CASE)
    start, end = box_limits(torch.from_numpy(expected["origins_7"]), torch.from_numpy(expected["dirs_7"]), side)
    check(f"tmin_{side}", start, expected, RTOL)
    check(f"tmax_{side}", end, expected, RTOL)


def test_box_limits_of_random_rays_are_golden():
    x, expected = inputs(CASE), load(CASE)
    start, end = box_limits(x["ro2"], x["rd2"], 2.0)
    check("tmin_rand_2.0", start, expected, RTOL)
    check("tmax_rand_2.0", end, expected, RTOL)


def test_center_ray_of_an_odd_resolution_is_the_optical_axis():
    intrinsics = torch.tensor([[[2.0, 0, 0.5], [0, 2.0, 0.5], [0, 0, 1]]])
    _, directions = sample_rays(torch.eye(4)[None], intrinsics, 3)
    torch.testing.assert_close(directions[0, 4], torch.tensor([0.0, 0, 1]))
    assert directions[0, 5, 0] > 0  # the next pixel of a row is to the right
    assert directions[0, 7, 1] > 0  # the next row is below


def test_box_limits_of_a_ray_along_an_axis_are_the_faces():
    origins = torch.tensor([[[0.0, 0, -3], [0.5, 0, -3], [0.6, 0, -3]]])  # through the box, in a face, beside the box
    directions = torch.tensor([0.0, 0, 1]).expand_as(origins)
    start, end = box_limits(origins, directions, 1.0)
    assert start[0, 0].item() == 2.5 and end[0, 0].item() == 3.5
    assert torch.isfinite(start).all() and torch.isfinite(end).all()
    assert start[0, 2].item() == MISS_START and end[0, 2].item() == MISS_END


def test_rays_that_miss_get_the_range_of_starts_of_rays_that_hit():
    origins = torch.tensor([[[0.0, 0, -3], [0.0, 0, -4], [5.0, 0, -3]]])
    directions = torch.tensor([0.0, 0, 1]).expand_as(origins)
    start, end = auto_limits(origins, directions, 1.0)
    assert start.flatten().tolist() == [2.5, 3.5, 2.5]
    assert end.flatten().tolist() == [3.5, 4.5, 3.5]


def test_limits_are_valid_if_every_ray_misses():
    origins = torch.tensor([[[5.0, 0, -3]]])
    start, end = auto_limits(origins, torch.tensor([[[0.0, 0, 1]]]), 1.6)
    assert 0 <= start.item() < end.item() < torch.inf
