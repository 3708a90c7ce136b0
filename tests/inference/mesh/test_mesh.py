"""Density grids equal the field point by point; meshes of solids of known size; colors and files."""

import json
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import trimesh

from inference.mesh.density_grid import EMPTY, INTERPOLATION_ERROR, density_slabs, sum_of_softplus
from inference.mesh.extraction import extract_mesh, extraction_steps
from inference.mesh.surface import NoSurfaceError, clean_up, level_set, otsu_threshold, visible_threshold
from inference.mesh.triangles import linear_from_srgb
from training.data.label_maps import PALETTE
from training.networks.configs import GeneratorOptions
from training.networks.decoders import Decoder
from training.networks.registry import construct
from training.networks.triplane_field import TriplaneField
from training.volumetric_rendering.renderer import render

BOX = 1.6
LABELED = "OSGDecoder_semantic_lateSeparate"


def grid_points(resolution, box=BOX):
    line = torch.linspace(-box / 2, box / 2, resolution)
    return torch.stack(torch.meshgrid(line, line, line, indexing="ij"), dim=-1)


def random_field(axes="published", scale=1.0, size=24):
    torch.manual_seed(3)
    decoder = Decoder(32, {"decoder_output_dim": 32, "semantic_channels": 6}, LABELED).requires_grad_(False)
    return TriplaneField(scale * torch.randn(1, 3, 32, size, size), decoder, BOX, axes)


def density_grid(field, resolution):
    return torch.cat([slabs for _, slabs in density_slabs(field, resolution)])


# --------------------------------------------------------------------------- density grid


@pytest.mark.parametrize("axes", ["published", "corrected"])
@pytest.mark.parametrize("scale", [0.1, 1.0, 20.0])
@pytest.mark.parametrize("resolution", [2, 33])
def test_the_separable_grid_equals_the_field_at_every_point(axes, scale, resolution):
    field = random_field(axes, scale)
    _, expected = field.reference(grid_points(resolution).view(1, -1, 3))
    grid = density_grid(field, resolution)
    spread = field.reference(grid_points(33).view(1, -1, 3))[1].std()
    # a thousandth is what a mesh can stand; float32 rounding of sums of 64 terms near 1 is far below
    assert (grid.flatten() - expected[0, :, 0]).abs().max() < 2e-4 * spread


def test_the_grid_of_a_split_generator_reads_the_label_planes():
    options = GeneratorOptions("shapenet", 128, data_type="edge", channel_base=512, channel_max=8)
    kwargs = {**options.kwargs(), "plane_resolution": 16}
    kwargs["mapping_kwargs"] = {
        **kwargs["mapping_kwargs"],
        "class_name": "training.triplane_cond.EdgeMappingNetwork",
    }
    G = construct("training.triplane_cond.TriPlaneSemanticGenerator", kwargs).requires_grad_(False)
    field = G.field(torch.randn(1, 3, 64, 16, 16))
    expected = field.reference(grid_points(9, field.box_warp).view(1, -1, 3))[1].view(9, 9, 9)
    torch.testing.assert_close(density_grid(field, 9), expected, rtol=0, atol=1e-4 * expected.std().item())


@pytest.mark.parametrize("radius", [1e-6, 0.1, 1.0, 3.0, 10.0, 40.0])
def test_chebyshev_interpolation_meets_its_error_bound(radius):
    a = radius * torch.linspace(-1, 1, 301, dtype=torch.float64).view(1, -1, 1)
    b = torch.linspace(-60, 60, 401, dtype=torch.float64).view(1, -1, 1)
    found = sum_of_softplus(a, b, torch.ones(1, dtype=torch.float64))
    exact = torch.logaddexp(a + b.mT, torch.zeros(()))
    assert (found - exact).abs().max() < INTERPOLATION_ERROR


def test_progress_rises_to_1():
    G, planes = two_blocks()
    done = list(extraction_steps(G, planes, 33, 0.0))
    assert len(done) > 3 and done == sorted(done) and done[-1] == 1


def test_invalid_fields_and_resolutions_are_rejected():
    field = random_field()
    with pytest.raises(ValueError, match="2 points or more, got 1 and 1"):
        density_grid(field, 1)
    field.planes[0, 0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        density_grid(TriplaneField(field.planes, field.decoder, BOX), 8)


# --------------------------------------------------------------------------- solids of known size


def ball(radius, resolution=49, box=BOX):
    """Density that falls with the distance from the surface, 0 there."""
    return 100 * (radius - grid_points(resolution, box).norm(dim=-1))


def cuboid(low, high, resolution=41):
    """Distance inside a box, negative outside (Chebyshev), 0 on its faces."""
    points = grid_points(resolution)
    return torch.minimum(points - torch.tensor(low), torch.tensor(high) - points).amin(dim=-1)


def in_air(grid):
    return F.pad(grid, (1,) * 6, value=EMPTY)


def solid(mesh):
    return trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)


def test_a_ball_has_the_right_volume_a_closed_surface_and_normals_outwards():
    mesh = level_set(ball(0.5), BOX, 0.0)
    # A chord of a grid step h lies h^2 / 8r inside the ball: 0.06 % of the radius here, 0.2 % of the volume.
    assert solid(mesh).is_watertight
    assert solid(mesh).volume == pytest.approx(4 / 3 * np.pi * 0.5**3, rel=0.004)
    assert np.linalg.norm(mesh.vertices, axis=1) == pytest.approx(0.5, abs=1e-3)
    assert (mesh.normals() * mesh.vertices / 0.5).sum(1).min() > 0.98


def test_the_axes_of_the_grid_are_x_y_z():
    # on grid planes: step 0.04
    mesh = level_set(cuboid((-0.4, 0.0, 0.2), (0.0, 0.6, 0.6)), BOX, 0.0)
    np.testing.assert_allclose([mesh.vertices.min(0), mesh.vertices.max(0)], [[-0.4, 0, 0.2], [0, 0.6, 0.6]], atol=1e-4)
    assert solid(mesh).volume == pytest.approx(0.4 * 0.6 * 0.4, rel=0.04)  # marching cubes bevels edges


def test_only_the_largest_component_is_kept():
    two = torch.maximum(cuboid((-0.6, -0.6, -0.6), (-0.2, 0.6, 0.6)), cuboid((0.2, 0, 0), (0.5, 0.3, 0.3)))
    both = level_set(two, BOX, 0.0)
    one = clean_up(both, largest=True)
    assert solid(both).body_count == 2 and solid(one).body_count == 1
    assert solid(one).volume == pytest.approx(0.4 * 1.2 * 1.2, rel=0.02)
    assert one.vertices[:, 0].max() < 0
    assert solid(one).is_watertight


def test_closing_makes_a_cut_solid_watertight_at_the_box():
    grid = ball(0.55, box=1.0)
    open_, closed = level_set(grid, 1.0, 0.0), level_set(in_air(grid), 1.0, 0.0, closed=True)
    assert not solid(open_).is_watertight and solid(closed).is_watertight
    cap = np.pi * 0.05**2 * (3 * 0.55 - 0.05) / 3
    assert solid(closed).volume == pytest.approx(4 / 3 * np.pi * 0.55**3 - 6 * cap, rel=0.004)
    np.testing.assert_array_equal(abs(closed.vertices).max(0), 0.5)


def test_a_solid_cube_closes_to_the_cube():
    mesh = level_set(in_air(ball(9.0, 8)), BOX, 0.0, closed=True)
    assert solid(mesh).is_watertight
    assert solid(mesh).volume == pytest.approx(BOX**3, rel=1e-3)


def test_smoothing_reduces_roughness_and_keeps_the_volume():
    grid = ball(0.5)
    grid += torch.randn(grid.shape, generator=torch.Generator().manual_seed(0))
    rough, smooth = (clean_up(level_set(grid, BOX, 0.0), largest=True, smooth=rounds) for rounds in (0, 20))
    outwards = [
        (mesh.normals() * mesh.vertices).sum(1) / np.linalg.norm(mesh.vertices, axis=1) for mesh in (rough, smooth)
    ]
    tilt = [np.arccos(cosine.clip(-1, 1)).mean() for cosine in outwards]
    assert tilt[1] < 0.5 * tilt[0]
    assert solid(smooth).volume == pytest.approx(solid(rough).volume, rel=0.01)


def test_smoothing_stops_before_the_volume_changes_by_1_percent_and_stays_in_the_cube():
    thin = cuboid((-0.8, -0.8, -0.05), (0.8, 0.8, 0.05))  # a plate up to the faces of the cube: its rim wears off
    plate = level_set(in_air(thin), BOX, 0.0, closed=True)
    worn = clean_up(plate, smooth=1000)
    assert (worn.vertices != plate.vertices).any()
    assert solid(worn).volume == pytest.approx(solid(plate).volume, rel=0.01)
    assert abs(worn.vertices).max() <= BOX / 2
    assert worn.volume == pytest.approx(solid(worn).volume, rel=1e-4)


@pytest.mark.parametrize(("threshold", "side"), [(90.0, "below"), (-500.0, "above")])
def test_an_empty_level_set_is_reported_with_the_range_of_the_density(threshold, side):
    with pytest.raises(NoSurfaceError, match=rf"density \(-.* to 50, mean .*wholly {side} the threshold {threshold:g}"):
        level_set(ball(0.5), BOX, threshold)


# --------------------------------------------------------------------------- the threshold by itself


@pytest.mark.parametrize("share", [0.02, 0.3, 0.8])
def test_otsu_threshold_separates_two_clusters_whatever_their_shares(share):
    generator = torch.Generator().manual_seed(0)
    solid_points = torch.rand(20, 500, generator=generator) < share
    noise = torch.randn(20, 500, generator=generator)
    threshold = otsu_threshold(torch.where(solid_points, 60 + 5 * noise, -10 + 5 * noise), step=1 / 48)
    assert 5 < threshold < 45


def test_otsu_threshold_is_robust_to_a_few_huge_densities():
    grid = ball(0.5)
    threshold = otsu_threshold(grid, BOX / 64)
    grid[24, 24, 24] = 1e6
    assert otsu_threshold(grid, BOX / 64) == pytest.approx(threshold, abs=2)


def test_otsu_threshold_rejects_constant_density():
    with pytest.raises(NoSurfaceError, match="same opacity everywhere"):
        otsu_threshold(torch.full((3, 3, 3), 7.0), 0.02)


@pytest.mark.parametrize("slope", [100.0, 400.0])
def test_visible_threshold_is_the_density_where_rays_have_lost_half_of_their_light(slope):
    # A cube whose density rises from its faces inwards; integrate along a ray through the middle of a face.
    grid = slope * (0.4 - grid_points(129).abs().amax(-1))
    distance = torch.linspace(-0.4, 0.4, 100_001, dtype=torch.float64)  # behind the face
    absorbed = 1 - torch.exp(-(F.softplus(slope * distance - 1) * 0.8 / 100_000).cumsum(0))
    half = distance[torch.searchsorted(absorbed, 0.5)].item()

    # Rays near edges of the cube meet lower densities, so the quartile lies a little below.
    threshold = visible_threshold(grid, BOX / 128, default=0.0)
    assert slope * half / 2 < threshold < slope * (half + BOX / 128)
    faces = level_set(grid, BOX, threshold).vertices.max(0)
    assert faces == pytest.approx(0.4 - half, abs=half / 2)


def test_visible_threshold_of_a_translucent_scene_is_the_default():
    assert visible_threshold(torch.full((9, 9, 9), -3.0), BOX / 8, default=1.5) == 1.5


def test_visible_threshold_of_a_solid_of_constant_density_is_the_default():
    # Rays show the largest density, of which there is no level set.
    grid = torch.where(grid_points(33).norm(dim=-1) < 0.5, 100.0, -100.0)
    threshold = visible_threshold(grid, BOX / 32, default=0.0)
    assert threshold == 0
    assert level_set(grid, BOX, threshold).volume == pytest.approx(4 / 3 * torch.pi * 0.5**3, rel=0.1)


# --------------------------------------------------------------------------- from a generator


def two_blocks():
    """A small generator whose scene is known: class 3 at x < 0, class 5 at x > 0, solid where |y| < 0.2."""
    options = GeneratorOptions("afhq", 128, semantic_channels=7, channel_base=512, channel_max=8, encoder_width=0.125)
    G = construct(options.class_name, {**options.kwargs(), "plane_resolution": 32}).requires_grad_(False)
    for name in ("net", "net_semantic"):
        for layer in (G.decoder.get_submodule(name)[0], G.decoder.get_submodule(name)[2]):
            layer.weight.zero_()
            layer.bias.zero_()
    shape, color = G.decoder.net_semantic, G.decoder.net
    shape[0].weight[0, 0] = shape[0].weight[1, 1] = color[0].weight[0, 1] = 8 * 10  # hidden: softplus(30 * mean)
    shape[2].weight[0, 0] = 8  # channel 0 of the planes is density
    shape[2].bias[0] = -1
    shape[2].weight[1 + 3, 1], shape[2].bias[1 + 3] = -8, 1.0
    shape[2].weight[1 + 5, 1], shape[2].bias[1 + 5] = 8, -1.0
    color[2].weight[1, 0], color[2].bias[1] = 8, -3  # red grows with x
    pixels = (torch.arange(32) + 0.5) / 32 - 0.5  # world units
    planes = torch.zeros(1, 3, 32, 32, 32)
    planes[0, 0, 0] = 3 * (0.2 - pixels.abs())[:, None]  # (x, y): columns are x, rows are y
    planes[0, 0, 1] = 3 * pixels[None, :]
    return G, planes


def test_labels_and_colors_are_at_their_places():
    G, planes = two_blocks()
    level = np.log1p(np.exp(0.0)) - 1  # softplus of 0, less the bias: where |y| = 0.2
    mesh = extract_mesh(G, planes, 33, level)
    x, y, _ = mesh.vertices.T
    inner = abs(mesh.vertices).max(1) < 0.48  # beyond the last pixel's center planes fade to nothing
    assert abs(y[inner]) == pytest.approx(0.2, abs=0.005)  # bilinear planes cut the ridge at y = 0, not here
    away = inner & (abs(x) > 0.06)
    expected = np.where(x[away] < 0, 3, 5)
    np.testing.assert_array_equal(mesh.colors[away], PALETTE[expected])
    np.testing.assert_array_equal(
        extract_mesh(G, planes, 33, level, color="shown_label").colors[away], PALETTE[expected]
    )
    red = extract_mesh(G, planes, 33, level, color="image").colors
    assert red[inner & (x < -0.1), 0].max() < 60 < 120 < red[inner & (x > 0.3), 0].min()
    assert (red[:, 1] == red[0, 1]).all()
    assert extract_mesh(G, planes, 33, level, color=None).colors is None


def under_a_skin():
    """Class 5, red, under a skin of class 3, dark, that is so thin that hardly any of it is seen."""
    G, planes = two_blocks()
    pixels = (torch.arange(32) + 0.5) / 32 - 0.5
    planes[0, 0, 0] *= 30  # dense, so that a ray ends inside the solid
    planes[0, 0, 1] = 60 * (0.17 - pixels.abs())[:, None]
    return G, planes


def test_shown_labels_and_colors_come_from_beneath_a_thin_skin():
    G, planes = under_a_skin()
    at_point, shown, image = (extract_mesh(G, planes, 33, 0.0, color) for color in ("label", "shown_label", "image"))
    middle = abs(at_point.vertices).max(1) < 0.4
    assert (abs(at_point.vertices[middle, 1]) > 0.17).all()
    np.testing.assert_array_equal(at_point.colors[middle], np.tile(PALETTE[3], (middle.sum(), 1)))
    np.testing.assert_array_equal(shown.colors[middle], np.tile(PALETTE[5], (middle.sum(), 1)))
    assert image.colors[middle, 0].min() > 180  # the skin's own color is below 30


@torch.inference_mode()
def test_vertex_colors_equal_the_rendered_image_at_their_place():
    G, planes = under_a_skin()
    front, above = torch.tensor([0.0, -1.0, 0.0]), torch.tensor([[[0.05, 1.0, 0.05], [-0.1, 1.0, 0.1]]])
    field, options = G.field(planes), replace(G.ray_options(), start=0.5, end=1.5, samples=400, fine_samples=0)
    seen = render(field, above, front.expand_as(above), options, jitter=False)
    color = ((seen.features + 1) / 2 / seen.weight_sum)[0, :, 0]  # of what a ray meets, black behind it left out
    mesh = extract_mesh(G, planes, 65, 0.0, color="image")
    for at, red in zip(above[0], (color * 255).tolist(), strict=True):
        near = np.linalg.norm(mesh.vertices - [at[0], 0.2, at[2]], axis=1).argmin()
        assert mesh.colors[near, 0] == pytest.approx(red, abs=12)


def test_a_vertex_has_the_color_seen_by_the_camera_that_it_faces():
    G, planes = under_a_skin()
    planes[0, 0, 1] *= torch.linspace(-1, 1, 32).sign()[:, None]  # the upper half alone is red and of class 5
    above, below = torch.tensor([[0.0, 1, 0]]), torch.tensor([[0.0, -1, 0]])
    of_cameras = [
        extract_mesh(G, planes, 33, 0.0, "shown_label", cameras=c) for c in (above, below, torch.cat([above, below]))
    ]
    x, y, z = of_cameras[0].vertices.T
    top, bottom = (abs(x) < 0.3) & (abs(z) < 0.3) & (y > 0.1), (abs(x) < 0.3) & (abs(z) < 0.3) & (y < -0.1)
    assert (of_cameras[0].colors[top] == PALETTE[5]).all() and (of_cameras[1].colors[bottom] == PALETTE[3]).all()
    np.testing.assert_array_equal(of_cameras[2].colors[top], of_cameras[0].colors[top])
    np.testing.assert_array_equal(of_cameras[2].colors[bottom], of_cameras[1].colors[bottom])
    assert (of_cameras[0].colors[bottom] == PALETTE[3]).all(), "what no camera faces is seen from right over it"


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("largest", [False, True])
def test_a_class_can_be_removed(largest, closed):
    G, planes = two_blocks()
    level = np.log1p(np.exp(0.0)) - 1
    mesh = extract_mesh(G, planes, 33, level, without=3, largest=largest, closed=closed)
    assert len(mesh.faces) and (mesh.colors != PALETTE[3]).any(axis=1).all()
    assert mesh.vertices[:, 0].min() == pytest.approx(
        0.0376, abs=0.005
    )  # where the classes draw level; a step is 0.031
    cut = mesh.faces[(abs(mesh.vertices[mesh.faces][..., 0] - 0.0376) < 0.005).all(1)]
    assert len(cut) > 500  # the cut is a surface, so the mesh closes there
    assert solid(mesh).is_watertight == closed


def test_removing_a_class_keeps_the_rest_of_the_surface_in_place():
    G, planes = two_blocks()
    level = np.log1p(np.exp(0.0)) - 1
    mesh = extract_mesh(G, planes, 33, level, without=3)
    x, y, _ = mesh.vertices.T
    rest = (x > 0.1) & (abs(mesh.vertices).max(1) < 0.45)
    assert abs(y[rest]) == pytest.approx(0.2, abs=0.005)
    whole = extract_mesh(G, planes, 33, level)
    assert (whole.colors == PALETTE[3]).all(axis=1).any()


def test_removing_everything_or_an_unknown_class_is_rejected():
    G, planes = two_blocks()
    planes[0, 0, 1] = -1  # class 3 everywhere
    with pytest.raises(NoSurfaceError, match=r"without: all density above .* belongs to class 3"):
        extract_mesh(G, planes, 17, np.log1p(np.exp(0.0)) - 1, without=3)
    with pytest.raises(ValueError, match="without: got 7, expected a class from 0 to 6"):
        extract_mesh(G, planes, 17, without=7)


def test_auto_threshold_of_a_generator_is_the_density_that_its_rays_show():
    G, planes = two_blocks()
    planes[0, 0, 0] *= 10  # dense enough to be seen
    mesh = extract_mesh(G, planes, 17, "auto", color=None)
    grid = density_grid(G.field(planes), 17)
    spacing = G.ray_options().box_warp / 16
    assert mesh.threshold == pytest.approx(visible_threshold(grid, spacing, default=otsu_threshold(grid, 1 / 48)))
    assert grid.min() < mesh.threshold < grid.max()


def test_unknown_colors_are_rejected():
    with pytest.raises(ValueError, match="color: got 'blue', expected label, shown_label, image or None"):
        extract_mesh(*two_blocks(), 8, color="blue")


# --------------------------------------------------------------------------- files


@pytest.fixture
def painted():
    mesh = level_set(ball(0.5, 17), BOX, 0.0)
    return replace(mesh, colors=PALETTE[np.arange(len(mesh.vertices)) % 19])


@pytest.mark.parametrize("ending", [".ply", ".obj", ".glb"])
def test_trimesh_reads_back_what_was_written(painted, ending, tmp_path):
    path = tmp_path / "made" / f"ball{ending}"
    painted.export(path)
    read = trimesh.load(path, force="mesh", process=False)
    np.testing.assert_allclose(read.vertices, painted.vertices, atol=1e-7)  # obj has 8 decimals
    np.testing.assert_array_equal(read.faces, painted.faces)
    if ending == ".glb":  # linear there, and floats, which trimesh keeps beside the material
        (read,) = trimesh.load_scene(path, process=False).geometry.values()
        linear = read.visual.vertex_attributes["color"][:, :3]
        np.testing.assert_allclose(linear, linear_from_srgb(painted.colors), atol=1e-6)
    else:
        np.testing.assert_array_equal(read.visual.vertex_colors[:, :3], painted.colors)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert read.volume > 0


def test_a_ply_records_its_scale_and_can_be_parsed_by_hand(painted, tmp_path):
    painted.export(tmp_path / "ball.ply")
    header, body = (tmp_path / "ball.ply").read_bytes().split(b"end_header\n", 1)
    assert header.startswith(b"ply\nformat binary_little_endian 1.0\ncomment pix2pix3d mesh: world units")
    assert b"cube of side 1.6 about the origin; x right seen from the front, y up" in header
    properties = [line.split()[1:] for line in header.decode().splitlines() if line.startswith("property")]
    assert properties == [
        *[["float", axis] for axis in "xyz"],
        *[["uchar", name] for name in ("red", "green", "blue", "alpha")],
        ["list", "uchar", "int", "vertex_indices"],
    ]
    vertices = np.frombuffer(body, [("place", "<f4", 3), ("rgba", "u1", 4)], len(painted.vertices))
    faces = np.frombuffer(body, [("count", "u1"), ("corners", "<i4", 3)], offset=vertices.nbytes)
    np.testing.assert_array_equal(vertices["place"], painted.vertices)
    np.testing.assert_array_equal(vertices["rgba"][:, :3], painted.colors)
    np.testing.assert_array_equal(faces["corners"], painted.faces)


def test_a_glb_records_its_scale_and_can_be_parsed_by_hand(painted, tmp_path):
    painted.export(tmp_path / "ball.glb")
    content = (tmp_path / "ball.glb").read_bytes()
    magic, version, length, json_length = struct.unpack_from("<4sIII", content)
    assert (magic, version, length) == (b"glTF", 2, len(content))
    tree = json.loads(content[20 : 20 + json_length])
    assert "cube of side 1.6" in tree["asset"]["extras"]["description"]
    (primitive,) = tree["meshes"][0]["primitives"]
    binary = content[20 + json_length + 8 :]

    def array(accessor, kind, columns):
        """An accessor's numbers, by the glTF 2.0 specification."""
        found = tree["accessors"][accessor]
        assert found["componentType"] == {"<f4": 5126, "<u4": 5125}[kind]
        assert found["type"] == {1: "SCALAR", 3: "VEC3", 4: "VEC4"}[columns]
        view = tree["bufferViews"][found["bufferView"]]
        start = view.get("byteOffset", 0) + found.get("byteOffset", 0)
        return np.frombuffer(binary, kind, columns * found["count"], start).reshape(-1, columns)

    attributes = primitive["attributes"]
    np.testing.assert_array_equal(array(attributes["POSITION"], "<f4", 3), painted.vertices)
    np.testing.assert_allclose(array(attributes["NORMAL"], "<f4", 3), painted.normals(), atol=0.1)  # weighted otherwise
    np.testing.assert_array_equal(array(primitive["indices"], "<u4", 1).reshape(-1, 3), painted.faces)
    colors = array(attributes["COLOR_0"], "<f4", 4)  # linear
    shown = np.where(colors <= 0.0031308, colors * 12.92, 1.055 * colors ** (1 / 2.4) - 0.055)  # as a screen does
    np.testing.assert_array_equal((shown[:, :3] * 255).round(), painted.colors)
    assert (colors[:, 3] == 1).all()
    material = tree["materials"][primitive["material"]]
    assert material["doubleSided"] and material["pbrMetallicRoughness"] == {"metallicFactor": 0, "roughnessFactor": 1}


def test_an_obj_records_its_scale_in_its_first_line(painted, tmp_path):
    painted.export(tmp_path / "ball.obj")
    assert (tmp_path / "ball.obj").read_text().startswith("# pix2pix3d mesh: world units")


def test_another_suffix_is_rejected_and_nothing_is_written(painted, tmp_path):
    with pytest.raises(ValueError, match=r"path: got .*ball.stl, expected a name that ends in .ply, .obj, .glb"):
        painted.export(tmp_path / "ball.stl")
    assert not list(tmp_path.iterdir())
