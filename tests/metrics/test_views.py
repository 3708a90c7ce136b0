"""Camera geometry, consistency of views, visibility and distances of surfaces, on a painted sphere."""

import math

import pytest
import torch
import torch.nn.functional as F

from camera_utils import CARS, CATS, front_pose, pose_at, split_pose
from metrics.views import chamfer_distances, project, reprojection_errors, turn_pose, unproject, visible_points


def test_a_turned_camera_keeps_its_distance_and_looks_at_the_pivot():
    pivot = torch.tensor(CATS.pivot)
    pose = pose_at(CATS, 1.3, 1.4)
    other = turn_pose(pose, 0.4, pivot)
    before, after = (split_pose(p)[0][0] for p in (pose, other))
    assert (after[:3, 3] - pivot).norm() == pytest.approx((before[:3, 3] - pivot).norm().item(), rel=1e-6)
    uv, _ = project(pivot.view(1, 1, 3), other)
    assert torch.allclose(uv, torch.full((1, 1, 2), 0.5), atol=1e-5)
    assert torch.equal(other[:, 16:], pose[:, 16:])


def test_turning_around_the_origin_changes_the_yaw():
    other = turn_pose(front_pose(CARS), 0.3, torch.zeros(3))
    assert torch.allclose(other, pose_at(CARS, math.pi / 2 + 0.3, math.pi / 2), atol=1e-5)


def test_projecting_unprojected_points_restores_pixels_and_depth():
    pose = pose_at(CATS, 1.2, 1.3)
    depth = 2.5 + 0.1 * torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    uv, distance = project(unproject(depth, pose), pose)
    centers = (torch.arange(8) + 0.5) / 8
    v, u = torch.meshgrid(centers, centers, indexing="ij")
    assert torch.allclose(uv[0], torch.stack([u.flatten(), v.flatten()], -1), atol=1e-5)
    assert torch.allclose(distance[0], depth.flatten(), atol=1e-5)


def test_points_behind_a_camera_are_outside_its_image():
    pose = front_pose(CATS)
    behind = split_pose(pose)[0][:, None, :3, 3] * 2
    uv, _ = project(behind, pose)
    assert (uv < 0).all()


def sphere(pose, radius=0.3, size=64):
    """Render a painted sphere at the origin."""
    start = unproject(torch.zeros(1, 1, size, size), pose)
    towards = unproject(torch.ones(1, 1, size, size), pose) - start
    center_depth = -(start * towards).sum(-1)
    inside = radius**2 - (start.square().sum(-1) - center_depth**2)
    depth = torch.where(inside > 0, center_depth - inside.clamp(min=0).sqrt(), 3.3).view(1, 1, size, size)
    points = unproject(depth, pose)
    image = (points * 4).sin().mT.reshape(1, 3, size, size)
    semantic = torch.stack([points[..., 0] > 0, points[..., 0] <= 0], 1).float().view(1, 2, size, size)
    weight = (inside > 0).float().view(1, 1, size, size)
    return {"image": image, "semantic": semantic, "image_depth": depth, "weight": weight}


def test_views_of_a_painted_sphere_agree_and_a_static_image_does_not():
    pose = front_pose(CATS)
    other = turn_pose(pose, 0.3, torch.zeros(3))
    first, second = sphere(pose), sphere(other)
    color, label, color_unmoved, label_unmoved, compared = reprojection_errors(first, pose, second, other)[0].tolist()
    assert 0.5 < compared < 0.71  # the sphere without the regions that only one view sees
    assert color < 0.005 and label < 0.02  # bilinear sampling, and the border between the two halves
    assert color_unmoved > 10 * color and label_unmoved > 5 * label
    static = {**second, "image": first["image"], "semantic": first["semantic"]}
    wrong = reprojection_errors(first, pose, static, other)[0].tolist()
    assert wrong[0] > 10 * color and wrong[1] > 5 * label
    assert wrong[2] == pytest.approx(0, abs=1e-6) and wrong[3] == 0  # equal images without reprojection


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_pixels_without_a_surface_are_not_compared(weight):
    pose = front_pose(CATS)
    view = {**sphere(pose), "image_depth": torch.full((1, 1, 64, 64), 2.7)}
    view["weight"] = torch.full((1, 1, 64, 64), weight)
    *differences, compared = reprojection_errors(view, pose, view, pose)[0].tolist()
    assert compared == 0 and all(math.isnan(x) for x in differences)


def test_chamfer_distances_in_both_directions():
    a = torch.tensor([[0.0, 0, 0], [1, 0, 0]])
    assert chamfer_distances(a, a).tolist() == [0, 0, 0]
    assert chamfer_distances(a, a[:1]).tolist() == [0.5, 0, 0.25]
    shifted = chamfer_distances(a, a + torch.tensor([0, 0.25, 0]))
    assert shifted.tolist() == pytest.approx([0.25] * 3)


@pytest.mark.parametrize("sizes", [(0, 5), (5, 0), (0, 0)])
def test_chamfer_distances_of_an_empty_set_are_nan(sizes):
    assert chamfer_distances(*(torch.zeros(size, 3) for size in sizes)).isnan().all()


def test_the_true_surface_is_as_near_as_its_sampling_allows():
    poses = torch.cat([front_pose(CATS), turn_pose(front_pose(CATS), 0.5, torch.zeros(3))])
    depth = torch.cat([sphere(pose[None], size=128)["image_depth"] for pose in poses])
    truth = unproject(depth, poses)[depth.flatten(1) < 3]
    surface = F.normalize(torch.randn(40_000, 3, generator=torch.Generator().manual_seed(0)), dim=1) * 0.3
    to_truth, from_truth, _ = chamfer_distances(visible_points(surface, depth, poses), truth).tolist()
    pixel = 0.005  # at the sphere, world units
    assert to_truth < 1.5 * pixel  # true points are sparse near the outline
    assert from_truth < 0.6 * pixel  # the 40,000 points of the surface are denser


def test_the_back_of_a_sphere_is_not_visible():
    pose = front_pose(CATS)
    points = F.normalize(torch.randn(500, 3, generator=torch.Generator().manual_seed(0)), dim=1) * 0.3
    visible = visible_points(points, sphere(pose)["image_depth"], pose)
    assert 0.3 * len(points) < len(visible) < 0.6 * len(points)
    assert (visible[:, 2] > -0.1).all()  # the camera is at +z; the tolerance of 1 % of the distance adds a little
