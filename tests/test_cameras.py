import json
import math

import pytest
import torch
from golden import golden

import camera_utils as cu
from training.data.pose_files import read_poses

RTOL = 1e-5  # float32 round-off of a few products
ANGLES = [(0.4, 1.2), (math.pi / 2, math.pi / 2), (-2.0, 2.2)]


def project(pose, point):
    """Project a world point to image coordinates in [0, 1]."""
    cam2world, k = (m[0].double() for m in cu.split_pose(pose))
    x, y, z = torch.linalg.inv(cam2world)[:3] @ torch.tensor([*point, 1.0], dtype=torch.float64)
    return ((k[0, 0] * x + k[0, 1] * y) / z + k[0, 2]).item(), (k[1, 1] * y / z + k[1, 2]).item()


# --------------------------------------------------------------------------- published numbers


def test_samplers_without_spread_equal_the_published_ones():
    given, expected = golden.inputs("render_cameras"), golden.load("render_cameras")
    rows = given["hv_radius"].tolist()
    for name, sampler in [("gaussian", cu.GaussianCameraPoseSampler), ("uniform", cu.UniformCameraPoseSampler)]:
        golden.check(name, torch.cat([sampler.sample(h, v, radius=r) for h, v, r in rows]), expected, RTOL)
    look = [
        cu.LookAtPoseSampler.sample(h, v, torch.tensor(p), radius=r) for h, v, r, *p in given["lookat_args"].tolist()
    ]
    golden.check("lookat", torch.cat(look), expected, RTOL)


def test_samplers_with_spread_use_the_published_random_numbers():
    call, expected = golden.manifest("render_cameras")["noise_call"], golden.load("render_cameras")
    lookat = torch.tensor(call.pop("lookat"))
    with golden.golden_noise() as log:
        golden.check("gaussian_noise", cu.GaussianCameraPoseSampler.sample(**call), expected, RTOL)
        golden.check("lookat_noise", cu.LookAtPoseSampler.sample(lookat_position=lookat, **call), expected, RTOL)
        golden.check("uniform_noise", cu.UniformCameraPoseSampler.sample(**call), expected, RTOL)
    assert log == [("randn", (3, 1))] * 4 + [("rand", (3, 1))] * 2


def test_intrinsics_and_matrices_equal_the_published_ones():
    given, expected = golden.inputs("render_cameras"), golden.load("render_cameras")
    fov = torch.stack([cu.FOV_to_intrinsics(degrees) for degrees in given["fov_degrees"].tolist()])
    golden.check("fov_intrinsics", fov, expected, RTOL)
    matrix = cu.create_cam2world_matrix(given["forward"], given["origin"])
    golden.check("cam2world_from_forward", matrix, expected, RTOL)


@pytest.mark.parametrize(("key", "cfg"), [("cat", "seg2cat"), ("face", "seg2face"), ("car", "edge2car")])
def test_video_path_equals_the_published_one(key, cfg):
    frames = golden.inputs("helpers")["frames"].tolist()
    path = cu.path_poses("orbit", cu.CAMERAS[cfg])[list(frames)]
    golden.check(f"video_poses_{key}", path, golden.load("helpers"), RTOL)


# --------------------------------------------------------------------------- hand-made cameras


def test_front_camera_is_on_the_z_axis_and_looks_at_the_origin():
    by_hand = [1, 0, 0, 0, 0, -1, 0, 0, 0, 0, -1, 2.7, 0, 0, 0, 1, 4.2647, 0, 0.5, 0, 4.2647, 0.5, 0, 0, 1]
    torch.testing.assert_close(cu.front_pose(cu.CAMERAS["seg2cat"])[0], torch.tensor(by_hand), atol=1e-6, rtol=0)


def test_radius_and_pivot_of_a_network_replace_those_of_the_preset():
    pose = cu.pose_at(cu.CAMERAS["seg2cat"], 1.2, 1.4, radius=2.0, pivot=(0.1, 0.2, 0.3))
    assert pose[0, [3, 7, 11]].norm().item() == pytest.approx(2.0, abs=1e-5)
    assert project(pose, (0.1, 0.2, 0.3)) == pytest.approx((0.5, 0.5), abs=1e-5)


@pytest.mark.parametrize("cfg", cu.CAMERAS)
@pytest.mark.parametrize(("azimuth", "polar"), ANGLES)
def test_pivot_projects_to_the_image_center_with_y_up(cfg, azimuth, polar):
    preset = cu.CAMERAS[cfg]
    pose = cu.pose_at(preset, azimuth, polar)
    x, y, z = preset.pivot
    assert project(pose, preset.pivot) == pytest.approx((0.5, 0.5), abs=1e-5)
    assert project(pose, (x, y + 0.1, z))[1] < 0.5  # rows count downwards
    assert not cu.pose_problems(pose)


def test_configurations_of_the_same_objects_share_a_preset():
    assert cu.CAMERAS["seg2cat"] is cu.CAMERAS["edge2cat"] is cu.CAMERAS["afhq"]
    assert cu.CAMERAS["seg2face"] is cu.CAMERAS["celeba"] is cu.CAMERAS["ffhq"]
    assert cu.CAMERAS["edge2car"] is cu.CAMERAS["shapenet"]


def test_view_angles_inverts_pose_at():
    pose = cu.pose_at(cu.CAMERAS["edge2car"], math.pi / 2 - 0.3, math.pi / 2 * (1 - math.sin(0.2)))
    yaw, pitch = cu.view_angles(pose)
    assert yaw.item() == pytest.approx(-0.3, abs=1e-5)
    assert pose[0, 3] < 0  # negative yaw stands at negative x
    assert pitch.item() == pytest.approx(0.2, abs=1e-5)


@pytest.mark.parametrize(("azimuth", "polar"), ANGLES)
def test_mirrored_point_projects_to_the_mirrored_pixel(azimuth, polar):
    pose = cu.pose_at(cu.CAMERAS["seg2cat"], azimuth, polar)
    pose[0, 16 + 1], pose[0, 16 + 2] = 0.07, 0.46  # skew and an off-center principal point too
    mirrored = cu.mirror_pose(pose)
    u, v = project(pose, (0.11, -0.05, 0.2))
    assert project(mirrored, (-0.11, -0.05, 0.2)) == pytest.approx((1 - u, v), abs=1e-6)
    assert not cu.pose_problems(mirrored)
    torch.testing.assert_close(cu.mirror_pose(mirrored), pose)


def test_opengl_cameras_look_along_minus_z_and_convert_back():
    cv = cu.split_pose(cu.pose_at(cu.CAMERAS["seg2cat"], 1.0, 1.3))[0]
    gl = cu.opencv_to_opengl(cv)
    torch.testing.assert_close(gl[0, :3, 2], -cv[0, :3, 2])
    assert gl[0, 1, 1] > 0.9
    torch.testing.assert_close(gl[0, :, 3], cv[0, :, 3])
    torch.testing.assert_close(cu.opengl_to_opencv(gl), cv)


def test_blender_front_camera_becomes_the_front_pose():
    blender = torch.tensor([[1.0, 0, 0, 0], [0, 0, -1, -2.7], [0, 1, 0, 0], [0, 0, 0, 1]])[None]  # at -y, z up
    ours = cu.z_up_to_y_up(cu.opengl_to_opencv(blender))
    front = cu.split_pose(cu.front_pose(cu.CAMERAS["seg2cat"]))[0]
    torch.testing.assert_close(ours, front, atol=1e-6, rtol=0)


# --------------------------------------------------------------------------- bad poses


def _set(index, value):
    def spoil(pose):
        pose[index] = value
        return pose

    return spoil


def _scaled(pose):
    pose[:12].view(3, 4)[:, :3] *= 1.1
    return pose


def _mirrored(pose):
    pose[[0, 4, 8]] *= -1
    return pose


def _away(pose):
    pose[11] = -2.7
    return pose


BAD_POSES = {
    "NaN": _set(5, math.nan),
    "infinity": _set(3, math.inf),
    "last row of cam2world": _set(12, 0.5),
    "orthonormal": _scaled,
    "mirrored": _mirrored,
    "last row of the intrinsics": _set(24, 512.0),
    "focal length": _set(16, -4.0),
    "looks away": _away,
    "outside the image": _set(3, 0.6),
}


@pytest.mark.parametrize("reason", BAD_POSES)
def test_invalid_pose_is_found_among_valid_ones(reason):
    good = cu.front_pose(cu.CAMERAS["seg2cat"])[0]
    problems = cu.pose_problems(torch.stack([good, BAD_POSES[reason](good.clone()), good]))
    assert list(problems) == [1]
    assert reason in problems[1]


def test_split_pose_rejects_another_shape():
    with pytest.raises(ValueError, match=r"expected N,25, got \(2, 24\)"):
        cu.split_pose(torch.zeros(2, 24))


# --------------------------------------------------------------------------- paths

NEAR = {"atol": 1e-5, "rtol": 0}  # float32 round-off of a few products


def test_orbit_equals_its_frames_one_by_one():
    preset, own = cu.CAMERAS["seg2cat"], {"radius": 3.1, "pivot": (0.1, 0.0, 0.2)}
    poses = cu.path_poses("orbit", preset, 7, **own)
    for frame, pose in enumerate(poses):
        alone = cu.pose_at(preset, *cu.orbit_angles(preset, frame, 7), **own)
        torch.testing.assert_close(pose, alone[0], **NEAR)
        sampled = cu.LookAtPoseSampler.sample(
            *cu.orbit_angles(preset, frame, 7), torch.tensor(own["pivot"]), radius=own["radius"]
        )
        torch.testing.assert_close(alone[:, :16].view(1, 4, 4), sampled, **NEAR)
    assert not torch.allclose(poses[0], poses[1], atol=1e-2)


@pytest.mark.parametrize("cfg", ["seg2cat", "seg2face", "edge2car"])
def test_turn_is_uniform_at_constant_height_from_the_front_towards_plus_x(cfg):
    poses = cu.path_poses("turn", cu.CAMERAS[cfg], 12)
    yaw, pitch = cu.view_angles(poses)
    steps = torch.arange(12) * 2 * math.pi / 12
    # as points on the circle, for angles jump at half a turn
    torch.testing.assert_close(torch.stack([yaw.sin(), yaw.cos()]), torch.stack([steps.sin(), steps.cos()]), **NEAR)
    torch.testing.assert_close(pitch, pitch[:1].expand(12), **NEAR)
    assert pitch[0] > 0  # a little from above
    assert not cu.pose_problems(poses)


@pytest.mark.parametrize("form", ["list", "data set"])
def test_poses_are_read_back_from_a_file(form, tmp_path):
    poses = cu.path_poses("orbit", cu.CAMERAS["edge2car"], 3)
    rows = poses.tolist()
    content = rows if form == "list" else {"labels": [[f"{i}.png", row] for i, row in enumerate(rows)]}
    (tmp_path / "path.json").write_text(json.dumps(content))
    assert torch.equal(read_poses(tmp_path / "path.json"), poses)


GOOD = cu.front_pose(cu.CAMERAS["seg2cat"])[0].tolist()
BAD_FILES = {
    "nothing": (b"", "not JSON"),
    "no text": (b"\xff\xfe\x00\x01", "not JSON"),
    "nested without end": (b"[" * 100_000, "not JSON"),
    "a number": (b"7", "expected a list of poses"),
    "no pose": (b"[]", "expected a list of poses"),
    "data set without poses": (b'{"labels": null}', "expected a list of poses"),
    "one pose, not a list of them": (json.dumps(GOOD).encode(), "pose 0: expected 25 numbers"),
    "data set's row without a pose": (b'{"labels": [["a.png"]]}', "pose 0: expected 25 numbers"),
    "too few numbers": (json.dumps([GOOD, GOOD[:24]]).encode(), "pose 1: expected 25 numbers"),
    "words": (json.dumps([["1"] * 25]).encode(), "pose 0: expected 25 numbers"),
    "truth for a number": (json.dumps([[*GOOD[:24], True]]).encode(), "pose 0: expected 25 numbers"),
    "endless number": (json.dumps([[10**400, *GOOD[1:]]]).encode(), "too large"),
    "large number": (json.dumps([[10**30, *GOOD[1:]]]).encode(), "pose 0: the axes"),
    "not a number": (json.dumps([GOOD, [math.nan, *GOOD[1:]]]).encode(), "pose 1: holds NaN or infinity"),
    "looking away": (json.dumps([GOOD, GOOD, [*GOOD[:11], -2.7, *GOOD[12:]]]).encode(), "pose 2: .*looks away"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_file_without_valid_poses_is_rejected_in_one_line(case, tmp_path):
    content, message = BAD_FILES[case]
    path = tmp_path / "path.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_poses(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
