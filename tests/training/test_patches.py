"""Rays and targets of patches."""

import pytest
import torch
from torch.testing import assert_close

from camera_utils import CATS, pose_at, split_pose
from training.networks.superresolution import SUPERRESOLUTIONS
from training.patches import EDGE_PIXELS, PixelGrid, depth_target, far_side, sample_patches, sample_strided
from training.volumetric_rendering.rays import sample_rays


def grid_at(top: int, left: int, size: int, resolution: int) -> PixelGrid:
    rows = torch.arange(top, top + size)[None]
    return PixelGrid(rows, torch.arange(left, left + size)[None], resolution, is_patch=True)


def test_rays_of_a_patch_are_those_of_the_whole_image():
    pose = pose_at(CATS, 1.4, 1.5)
    grid = grid_at(3, 5, 8, 16)
    origins, directions = grid.rays(pose)
    all_origins, all_directions = sample_rays(*split_pose(pose), 16)
    pixels = (grid.rows[0, :, None] * 16 + grid.columns[0]).flatten()
    assert_close(directions, all_directions[:, pixels])
    assert_close(origins, all_origins[:, pixels])


def test_crops_show_the_same_area_at_both_resolutions():
    image = torch.rand(1, 3, 32, 32)
    grid = grid_at(3, 5, 8, 16)
    raw = torch.nn.functional.avg_pool2d(image, 2)
    assert torch.equal(grid.crop(raw), raw[:, :, 3:11, 5:13])
    assert torch.equal(grid.crop_scaled(image, 2), image[:, :, 6:22, 10:26])


def test_samples_of_a_batch_have_their_own_patches():
    torch.manual_seed(0)
    grid = sample_patches(64, 8, 16)
    assert len(set(map(tuple, grid.rows.tolist()))) > 4
    assert grid.rows.min() == 0
    assert grid.rows.max() == 15
    image = torch.arange(16.0).view(1, 1, 16, 1).expand(64, 1, 16, 16)  # shows its row numbers
    assert torch.equal(grid.crop(image)[:, 0, :, 0], grid.rows.float())


def test_strided_pixels_cover_the_whole_image():
    torch.manual_seed(0)
    grid = sample_strided(2, 8, 32)
    assert torch.equal(grid.rows.diff(), torch.full((2, 7), 4))
    assert grid.rows[0, 0] < 4
    assert not grid.is_patch


@pytest.mark.parametrize(("top", "first", "last"), [(0, 0, 32 - EDGE_PIXELS), (8, EDGE_PIXELS, 32 - EDGE_PIXELS)])
def test_edges_of_a_patch_are_left_out_unless_they_are_those_of_the_image(top, first, last):
    interior = grid_at(top, 16, 16, 32).interior(2)[0, 0]  # its right edge is the image's
    rows = interior.amax(dim=1).nonzero().flatten()
    columns = interior.amax(dim=0).nonzero().flatten()
    assert (rows[0], rows[-1] + 1) == (first, last)
    assert (columns[0], columns[-1] + 1) == (EDGE_PIXELS, 32)


def test_super_resolution_of_a_patch_is_nearly_that_of_the_whole_image_in_its_interior():
    torch.manual_seed(0)
    sr = SUPERRESOLUTIONS["SuperresolutionHybrid2X"](channels=32, img_resolution=128, sr_num_fp16_res=0, width=0.1)
    features = torch.randn(1, 32, 64, 64)
    ws = torch.randn(1, 1, 512)
    whole = sr(features[:, :3], features, ws, "none")
    grid = grid_at(0, 20, 32, 64)
    patch = grid.crop(features)
    inside = grid.interior(2) > 0
    fake = sr.upsample(patch[:, :3], patch, ws, "none")
    expected = grid.crop_scaled(whole, 2)
    error = (fake - expected).abs() / expected.std()
    assert error[inside.expand_as(error)].mean() < 0.01
    assert error[~inside.expand_as(error)].mean() > 0.1


def test_far_side_is_on_the_sphere():
    pose = pose_at(CATS, 1.4, 1.5)
    origins, directions = sample_rays(*split_pose(pose), 4)
    depth = far_side(origins, directions, 0.9)
    ends = origins + depth[..., None] * directions
    assert_close(ends.norm(dim=-1), torch.full((1, 16), 0.9))
    assert (depth > 2.7).all()  # behind the origin


def test_depth_targets_leave_out_edges_and_name_empty_rays():
    depth = torch.full((1, 1, 8, 8), 2.0)
    depth[..., 4:] = 0  # nothing
    depth[:, :, 0, 0] = 2.5  # an edge within a raw pixel
    depth[:, :, 2, 4] = 2.0  # the object's outline
    target = depth_target(depth, grid_at(0, 0, 4, 4), torch.full((1, 16), 3.0), ray_length=1)
    surface = target.is_surface.view(4, 4)
    empty = target.is_empty.view(4, 4)
    assert surface.tolist() == [[False, True, False, False], *[[True, True, False, False]] * 3]
    assert empty[:, 2:].tolist() == [[True, True], [False, True], [True, True], [True, True]]
    assert target.depth.view(4, 4)[1].tolist()[:2] == [2.0, 2.0]
    assert target.depth.view(4, 4)[3, 3] == 3
