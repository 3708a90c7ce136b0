"""Images of meshes, by OpenGL and by the z-buffer."""

import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from camera_utils import CARS, pose_at
from inference.mesh.rasterize import AMBIENT, PLAIN_GRAY, fitting_half_width, gl_problem, orbit_frames, render_mesh
from inference.mesh.surface import level_set
from inference.mesh.triangles import Mesh

NO_GL = gl_problem()
IMPLS = [pytest.param("gl", marks=pytest.mark.skipif(NO_GL is not None, reason=f"no OpenGL: {NO_GL}")), "plain"]
SIZE = 64


def view(azimuth=math.pi / 2, polar=math.pi / 2):
    return pose_at(CARS, azimuth, polar, radius=1.2)


def square(low, high, z, color):
    """Two triangles in a plane of one z that face +z."""
    (x0, y0), (x1, y1) = low, high
    vertices = np.array([[x0, y0, z], [x1, y0, z], [x1, y1, z], [x0, y1, z]], np.float32)
    return Mesh(vertices, np.array([[0, 1, 2], [0, 2, 3]]), np.tile(np.uint8(color), (4, 1)), 0.0, 1.0)


def together(*meshes):
    starts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes[:-1])])
    return replace(
        meshes[0],
        vertices=np.concatenate([mesh.vertices for mesh in meshes]),
        faces=np.concatenate([mesh.faces + start for mesh, start in zip(meshes, starts, strict=True)]),
        colors=np.concatenate([mesh.colors for mesh in meshes]),
    )


def lumps():
    """Three balls of two colors, one cut by the cube."""
    line = torch.linspace(-0.5, 0.5, 40)
    points = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), dim=-1)
    balls = [((0.1, 0.2, 0.1), 0.25), ((-0.2, -0.2, 0.0), 0.2), ((0.2, -0.3, 0.45), 0.15)]
    grid = torch.stack([radius - (points - torch.tensor(at)).norm(dim=-1) for at, radius in balls]).amax(0)
    mesh = level_set(grid, 1.0, 0.0)
    return replace(mesh, colors=np.where(mesh.vertices[:, 1:2] > 0, np.uint8([204, 0, 0]), np.uint8([51, 51, 255])))


def rendered(mesh, pose, impl, half_width=0.6, size=SIZE):
    (frame,) = render_mesh(mesh, pose, size, half_width, impl)
    assert frame.shape == (size, size, 3) and frame.dtype == np.uint8
    return frame.astype(int)


@pytest.mark.parametrize("impl", IMPLS)
def test_axes_and_scale_of_the_image(impl):
    frame = rendered(square((0.15, 0.3), (0.45, 0.6), 0.1, (204, 0, 0)), view(), impl)
    # 64 pixels show 1.2 world units: x 0.15 to 0.45 are pixels 40 to 56, y 0.6 down to 0.3 rows 0 to 16
    expected = np.full((SIZE, SIZE, 3), 255)
    expected[0:16, 40:56] = (204, 0, 0)
    np.testing.assert_allclose(frame, expected, atol=1)


@pytest.mark.parametrize("impl", IMPLS)
def test_the_nearer_face_hides_the_farther_one(impl):
    both = together(
        square((-0.3, -0.3), (0.3, 0.3), 0.2, (200, 0, 0)), square((-0.3, -0.3), (0.3, 0.3), 0, (0, 0, 200))
    )
    for azimuth, color in ((math.pi / 2, (200, 0, 0)), (-math.pi / 2, (0, 0, 200))):
        np.testing.assert_allclose(rendered(both, view(azimuth), impl)[32, 32], color, atol=1)


@pytest.mark.parametrize("impl", IMPLS)
def test_shading_follows_the_angle_to_the_camera(impl):
    turned = math.pi / 3
    frame = rendered(square((-0.3, -0.3), (0.3, 0.3), 0, (200, 200, 200)), view(math.pi / 2 + turned), impl)
    np.testing.assert_allclose(frame[32, 32], 200 * (AMBIENT + (1 - AMBIENT) * math.cos(turned)), atol=1)


@pytest.mark.parametrize("impl", IMPLS)
def test_a_mesh_without_colors_is_gray(impl):
    mesh = replace(square((-0.3, -0.3), (0.3, 0.3), 0, (0, 0, 0)), colors=None)
    np.testing.assert_allclose(rendered(mesh, view(), impl)[32, 32], PLAIN_GRAY, atol=1)


@pytest.mark.skipif(NO_GL is not None, reason=f"no OpenGL: {NO_GL}")
@pytest.mark.parametrize(("azimuth", "polar"), [(math.pi / 2, math.pi / 2), (0.4, 1.0), (-1.5, 2.5)])
def test_opengl_and_the_z_buffer_render_the_same_image(azimuth, polar):
    gl, plain = (rendered(lumps(), view(azimuth, polar), impl, size=128) for impl in ("gl", "plain"))
    # the same but along outlines, which OpenGL smooths: about 5 % of the pixels here
    assert abs(gl - plain).mean() < 2
    assert np.median(abs(gl - plain).max(-1)) <= 1
    assert (abs(gl - plain).max(-1) > 3).mean() < 0.06
    assert (plain != 255).any(-1).mean() > 0.15


def test_the_fitting_half_width_shows_the_whole_mesh_and_hardly_more():
    mesh = lumps()
    poses = torch.cat([view(azimuth, polar) for azimuth, polar in ((0.0, 1.5), (1.0, 0.8), (2.5, 2.2))])
    found = fitting_half_width(mesh, poses)
    reached = []
    for frame in render_mesh(mesh, poses, 128, found, "plain"):
        shown = (frame != 255).any(-1)
        assert not (shown[0].any() or shown[-1].any() or shown[:, 0].any() or shown[:, -1].any())
        rows, columns = shown.any(1).nonzero()[0], shown.any(0).nonzero()[0]
        reached.append(max(abs(place - 63.5).max() for place in (rows, columns)) / 63.5)
    assert max(reached) > 0.9


def test_there_is_one_frame_per_pose():
    poses = torch.cat([view(azimuth) for azimuth in (0.0, 1.0, 2.0)])
    frames = list(render_mesh(lumps(), poses, 32, 0.6, "plain"))
    assert len(frames) == 3
    assert (frames[0] != frames[1]).any()


def test_orbit_frames_use_numpy_without_opengl_and_report_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "moderngl", None)
    messages = []
    frames = list(orbit_frames(lumps(), "edge2car", frames=2, notify=messages.append))
    assert [frame.shape for frame in frames] == [(512, 512, 3)] * 2
    assert len(messages) == 1 and "No off-screen OpenGL" in messages[0]


def test_without_moderngl_opengl_is_reported_as_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "moderngl", None)  # what Python itself takes for "not to be found"
    assert "moderngl" in gl_problem()


def test_unknown_implementations_are_rejected():
    with pytest.raises(ValueError, match="expected gl or plain, got 'vulkan'"):
        render_mesh(lumps(), view(), 32, 0.6, "vulkan")
