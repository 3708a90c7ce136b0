"""Plane sampling: the definition against golden arrays, the fast form against the definition."""

import dataclasses

import pytest
import torch
from golden.golden import check, inputs, load

from torch_utils.ops import weighted_gather
from training.volumetric_rendering.planes import (
    PLANE_AXES,
    fold_planes,
    project,
    sample_planes,
    sample_planes_mean,
)

CASE = "render_planes"
RTOL = 2e-5  # of the golden arrays


def without_table(folded):
    """The form used on other devices than a CPU."""
    return dataclasses.replace(folded, table=None)


FORMS = {"table": lambda folded: folded, "maps": without_table}


@pytest.fixture(params=["published", "corrected"])
def axes(request):
    return request.param


@pytest.fixture(params=FORMS)
def form(request):
    return FORMS[request.param]


def test_published_axes_are_golden():
    check("plane_axes", PLANE_AXES["published"], load(CASE), 0)


def test_projection_is_golden():
    x, expected = inputs(CASE), load(CASE)
    check("project", project(x["coords"], PLANE_AXES["published"]).flatten(0, 1), expected, RTOL)
    check("project_custom_axes", project(x["coords"], x["custom_axes"]).flatten(0, 1), expected, RTOL)


@pytest.mark.parametrize("box_warp", [1, 1.6])
def test_samples_and_gradients_are_golden(box_warp):
    x, expected = inputs(CASE), load(CASE)
    planes, points = x["planes"].requires_grad_(), x["coords"].requires_grad_()
    sampled = sample_planes(planes, points, box_warp)
    (sampled * x["cot"]).sum().backward()
    check(f"sample_{box_warp}", sampled, expected, RTOL)
    check(f"sample_{box_warp}_dplanes", planes.grad, expected, RTOL)
    check(f"sample_{box_warp}_dcoords", points.grad, expected, RTOL)


def test_fast_mean_equals_the_mean_of_all_planes_with_gradients(axes, form):
    torch.manual_seed(0)
    planes = torch.randn(2, 3, 5, 9, 9, dtype=torch.float64, requires_grad=True)
    points = torch.empty(2, 200, 3, dtype=torch.float64).uniform_(-1, 1).requires_grad_()  # many outside of 1.2 / 2
    cotangent = torch.randn(2, 200, 5, dtype=torch.float64)
    fast = sample_planes_mean(form(fold_planes(planes, axes)), points, 1.2)
    plain = sample_planes(planes, points, 1.2, axes).mean(dim=1)
    torch.testing.assert_close(fast, plain)
    fast_gradients = torch.autograd.grad((fast * cotangent).sum(), (planes, points))
    plain_gradients = torch.autograd.grad((plain * cotangent).sum(), (planes, points))
    torch.testing.assert_close(fast_gradients, plain_gradients)


@pytest.mark.parametrize("kernel", [True, False])
def test_gradients_of_planes_in_float32_equal_those_of_the_definition(axes, kernel, monkeypatch):
    if not kernel:
        monkeypatch.setattr(weighted_gather, "use_kernel", lambda *_: False)
    planes, points = torch.randn(2, 3, 5, 9, 9, requires_grad=True), torch.rand(2, 200, 3) - 0.5
    cotangent = torch.randn(2, 200, 5)
    fast = sample_planes_mean(fold_planes(planes, axes), points, 1.0)
    plain = sample_planes(planes, points, 1.0, axes).mean(dim=1)
    gradients = [torch.autograd.grad((form * cotangent).sum(), planes)[0] for form in (fast, plain)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


def test_published_axes_fold_to_two_maps_and_corrected_ones_to_three():
    planes = torch.randn(1, 3, 2, 4, 4)
    assert fold_planes(planes, "published").maps.shape[1] == 2
    assert fold_planes(planes, "corrected").maps.shape[1] == 3


def test_samples_fade_to_zero_at_the_border_and_are_zero_outside(form):
    planes = torch.ones(1, 3, 1, 4, 4)
    edge = 0.5 - 0.5 / 4  # center of the outermost pixel, box_warp 1
    at = torch.tensor([0, edge, 0.5, 0.5 + 0.5 / 4, 0.7, 1e9, -0.5, -0.7])
    points = torch.stack([at, torch.zeros_like(at), torch.zeros_like(at)], dim=-1)[None]
    fast = sample_planes_mean(form(fold_planes(planes)), points, 1.0)[0, :, 0]
    torch.testing.assert_close(fast, torch.tensor([1, 1, 0.5, 0, 0, 0, 0.5, 0]))  # x is on all three planes


def test_nan_points_count_as_outside():
    planes = fold_planes(torch.ones(1, 3, 1, 4, 4))
    assert sample_planes_mean(planes, torch.full((1, 1, 3), torch.nan), 1.0).item() == 0


def test_planes_2_and_3_depend_on_y_only_with_the_corrected_axes():
    torch.manual_seed(0)
    planes = torch.randn(1, 3, 4, 16, 16)
    planes[:, 0] = 0
    points = torch.tensor([[[0.1, -0.3, 0.2], [0.1, 0.3, 0.2]]])
    published = sample_planes_mean(fold_planes(planes, "published"), points, 1.0)[0]
    corrected = sample_planes_mean(fold_planes(planes, "corrected"), points, 1.0)[0]
    torch.testing.assert_close(published[0], published[1])
    assert (corrected[0] - corrected[1]).abs().max() > 0.1


def test_invalid_shapes_and_axes_are_rejected():
    planes, points = torch.zeros(2, 3, 4, 8, 8), torch.zeros(2, 5, 3)
    with pytest.raises(ValueError, match=r"planes: expected N,3,C,H,W, got \(2, 2, 4, 8, 8\)"):
        sample_planes(planes[:, :2], points, 1.0)
    with pytest.raises(ValueError, match=r"points: expected 2,K,3, got \(1, 5, 3\)"):
        sample_planes(planes, points[:1], 1.0)
    with pytest.raises(ValueError, match=r"points: expected 2,K,3, got \(2, 5, 2\)"):
        sample_planes_mean(fold_planes(planes), points[..., :2], 1.0)
    with pytest.raises(ValueError, match="expected square ones"):
        fold_planes(planes[..., :6])
