"""Cameras as people have them: what dataset_tool.py pack makes of them, and what it refuses."""

import json
import math
import time

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from small_data import png, write_folder

from camera_utils import CAMERAS, CARS, CATS, FACES, opengl_to_opencv, pose_at, pose_problems, split_pose
from dataset_preprocessing.camera_world import fits_preset, is_scaled_copy, normalize_cameras
from dataset_preprocessing.cameras import match_cameras, read_cameras
from dataset_tool import main
from training.data.dataset import PosedImageDataset

COUNT = 4
ANGLES = [(math.pi / 2 + 0.4 * i, math.pi / 2 - 0.1 * i) for i in range(-1, COUNT - 1)]  # azimuth, polar
PIXELS = {"w": 60, "h": 40, "fl_x": 75, "fl_y": 75, "cx": 30, "cy": 20}
TO_Z_UP = torch.tensor([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]], dtype=torch.float64)


def matrices(radius=11.0, center=(3.0, -2.0, 5.0), pivot=(0, 0, 0)):
    """Return OpenGL cam2world matrices COUNT,4,4 in a world with z up; the cameras look at `center` + `pivot`."""
    poses = torch.cat([pose_at(CATS, *angles, radius=radius, pivot=pivot) for angles in ANGLES])
    moved = TO_Z_UP @ opengl_to_opencv(split_pose(poses.double())[0])
    moved[:, :3, 3] += torch.tensor(center, dtype=torch.float64)
    return moved.numpy()


def transforms(cam2world=None, frame=None, **shared):
    """Return the content of a transforms.json of images 0, 1, ...; `frame` changes the last one."""
    cam2world = matrices() if cam2world is None else cam2world
    frames = [{"file_path": f"images/{i}.png", "transform_matrix": m.tolist()} for i, m in enumerate(cam2world)]
    frames[-1] |= frame or {}
    return {**PIXELS, **shared, "frames": frames}


def eg3d(preset, radius=None, jitter=0.0):
    """Return the content of EG3D's dataset.json, and its poses COUNT,25."""
    generator = torch.Generator().manual_seed(0)
    poses = []
    for angles in ANGLES:
        pivot = torch.tensor(preset.pivot) + jitter * torch.randn(3, generator=generator)
        poses.append(pose_at(preset, *angles, radius=radius, pivot=tuple(pivot.tolist())))
    poses = torch.cat(poses)
    return {"labels": [[f"{i}.png", pose.tolist()] for i, pose in enumerate(poses)]}, poses


def pack(tmp_path, content, *options, size=(60, 40), names=None, code=0):
    """Pack images of `size` with cameras; return the output, and the data set if there is one."""
    names = names or [f"{i}.png" for i in range(COUNT)]
    image = png(np.zeros((size[1], size[0], 3), np.uint8))
    folder = write_folder(tmp_path / "photos", dict.fromkeys(names, image))
    (tmp_path / "cameras.json").write_text(json.dumps(content))
    words = ["pack", "--images", folder, "--cameras", tmp_path / "cameras.json", "--resolution", 16]
    result = CliRunner().invoke(main, [*map(str, [*words, "--output", tmp_path / "o.zip", "--overwrite", *options])])
    assert result.exit_code == code, result.output
    if code:
        assert result.output.count("\n") == 1 and not (tmp_path / "o.zip").exists()
        return result.output, None
    return result.output, PosedImageDataset(tmp_path / "o.zip")


def poses_of(dataset):
    return torch.from_numpy(dataset.index.poses)


# --------------------------------------------------------------------------- lens models

OTHER_LENSES = {  # values in transforms.json: reason
    "opencv's fisheye without distortion": (
        {"camera_model": "OPENCV_FISHEYE", "k1": 0, "k2": 0, "k3": 0, "k4": 0},
        "camera_model 'OPENCV_FISHEYE' is not supported",
    ),
    "equirectangular": ({"camera_model": "EQUIRECTANGULAR"}, "camera_model 'EQUIRECTANGULAR' is not supported"),
    "orthographic": ({"camera_model": "ORTHOPHOTO"}, "camera_model 'ORTHOPHOTO' is not supported"),
    "field of view model": ({"camera_model": "FOV"}, "camera_model 'FOV' is not supported"),
    "thin prism": ({"camera_model": "THIN_PRISM_FISHEYE"}, "camera_model 'THIN_PRISM_FISHEYE' is not supported"),
    "aria": ({"camera_model": "FISHEYE624"}, "camera_model 'FISHEYE624' is not supported"),
    "half a sphere": ({"camera_model": "VR180_L"}, "camera_model 'VR180_L' is not supported"),
    "model in small letters": ({"camera_model": "opencv-fisheye"}, "camera_model 'opencv-fisheye' is not supported"),
    "model by number": ({"camera_model": 5}, "camera_model 5 is not supported"),
    "model under another key": ({"camera_type": "fisheye"}, "camera_type 'fisheye' is not supported"),
    "instant-ngp's fisheye": ({"is_fisheye": True}, "is_fisheye is True: lens distortion is not supported"),
    "fisheye in words": ({"is_fisheye": "false"}, "is_fisheye is 'false'"),
    "instant-ngp's f-theta": ({"ftheta_p0": 0.1}, "ftheta_p0 is 0.1"),
    "instant-ngp's globe": ({"latlong": True}, "latlong is True"),
    "rational model": ({"k5": 0.2, "k6": 0.1}, "k5 is 0.2: lens distortion is not supported"),
    "thin prism by its numbers": ({"s1": 0.01}, "s1 is 0.01"),
    "tangential": ({"p3": 0.01}, "p3 is 0.01"),
    "not a number": ({"k1": math.nan}, "k1 is nan"),
    "list of parameters": ({"distortion_params": [0, 0.1, 0, 0]}, "distortion_params is [0, 0.1, 0, 0]: lens"),
    "rolling shutter": ({"rolling_shutter": [0, 0, 0.01, 0]}, "rolling_shutter is [0, 0, 0.01, 0]"),
}


@pytest.mark.parametrize("case", OTHER_LENSES)
def test_lenses_other_than_a_pinhole_are_refused_by_name(tmp_path, case):
    values, reason = OTHER_LENSES[case]
    output, _ = pack(tmp_path, transforms(**values), code=2)
    assert f"images/0: {reason}" in output
    assert "(and 3 more: images/1, images/2, images/3)" in output


def test_lens_of_a_single_frame_is_seen(tmp_path):
    output, _ = pack(tmp_path, transforms(frame={"camera_model": "OPENCV_FISHEYE"}), code=2)
    assert f"images/{COUNT - 1}: camera_model 'OPENCV_FISHEYE'" in output


PINHOLES = {
    "pinhole": {"camera_model": "PINHOLE"},
    "simple pinhole": {"camera_model": "SIMPLE_PINHOLE"},
    "opencv without distortion": {"camera_model": "OPENCV", **dict.fromkeys(("k1", "k2", "k3", "p1", "p2"), 0.0)},
    "radial in words": {"camera_model": "Simple Radial", "k1": 0},
    "false flags": {"is_fisheye": False, "k1": None, "camera_model": None},
    "zeros in a list": {"distortion_params": [0, 0.0, 0, 0, 0, 0]},
    "no center and no vertical focal length": {"cx": None, "cy": None, "fl_y": None},
    "values that mean nothing here": {"aabb_scale": 16, "ply_file_path": "a.ply", "applied_transform": [[1, 0, 0, 0]]},
}


@pytest.mark.parametrize("case", PINHOLES)
def test_pinhole_cameras_in_all_their_forms_give_the_same_poses(tmp_path, case):
    _, dataset = pack(tmp_path, transforms(**PINHOLES[case]))
    (tmp_path / "plain").mkdir()
    _, plain = pack(tmp_path / "plain", transforms())
    assert torch.equal(poses_of(dataset), poses_of(plain))


# --------------------------------------------------------------------------- size of the image

SIZES = {  # size of the image, change of transforms.json with 60x40 -> reason, or None if it fits
    "the same": ((60, 40), {}, None),
    "half": ((30, 20), {}, None),
    "a third, rounded": ((20, 13), {}, None),
    "enlarged": ((120, 80), {}, None),
    "a pixel off": ((61, 40), {}, None),
    "rotated": ((40, 60), {}, "40x60 pixels, but its camera is for 60x40"),
    "cropped": ((40, 40), {}, "40x40 pixels, but its camera is for 60x40"),
    "stretched": ((64, 64), {}, "64x64 pixels, but its camera is for 60x40"),
    "rotated, field of view": ((40, 60), {"fl_x": None, "camera_angle_x": 0.7}, "but its camera is for 60x40"),
    "field of view without size": (
        (40, 60), {**dict.fromkeys(PIXELS), "camera_angle_x": 0.4}, None,
    ),
    "normalized intrinsics": ((60, 40), {"fl_x": 1.25, "fl_y": 1.25}, "fl_x 1.25, fl_y 1.25, cx 30, cy 20 do not fit"),
    "normalized center": ((60, 40), {"cx": 0.5, "cy": 0.5}, "cx 0.5, cy 0.5 do not fit 60x40 pixels; expected pixels"),
    "pixels that are not square": ((60, 40), {"fl_y": 150}, "60x40 pixels, whose focal lengths would be 75 and 150"),
    "pixels that are almost square": ((60, 40), {"fl_y": 80}, None),
}  # fmt: skip


@pytest.mark.parametrize("case", SIZES)
def test_camera_must_be_that_of_an_image_of_this_shape(tmp_path, case):
    size, change, reason = SIZES[case]
    output, dataset = pack(tmp_path, transforms(**change), size=size, code=2 if reason else 0)
    if reason:
        assert reason in output
        return
    k = poses_of(dataset)[0, 16:].reshape(3, 3)
    assert k[1, 1] / k[0, 0] == pytest.approx((change.get("fl_y") or 75) / 75, abs=0.03)  # a pixel of 40


def test_poses_of_square_images_do_not_fit_other_images(tmp_path):
    output, _ = pack(tmp_path, eg3d(CATS)[0], code=2)
    assert "0.png: 60x40 pixels, whose focal lengths would be 255.9 and 170.6 pixels, expected equal ones" in output
    pack(tmp_path, eg3d(CATS)[0], size=(40, 40))


@pytest.mark.parametrize(
    ("size", "other", "same"),
    [((4096, 3072), (100, 75), True), ((100, 75), (4096, 3072), True), ((4096, 3072), (101, 75), True),
     ((4000, 3000), (3000, 2000), False), ((1920, 1080), (1080, 1080), False)],
)  # fmt: skip
def test_copies_are_compared_at_the_size_of_the_smaller_one(size, other, same):
    assert is_scaled_copy(size, other) is is_scaled_copy(other, size) is same


# --------------------------------------------------------------------------- matrices


def world_to_camera(cam2world):
    return np.linalg.inv(cam2world)


MATRICES = {  # change of all matrices -> reason
    "transposed": (lambda m: m.transpose(0, 2, 1), "0 0 0 1, but its last column is: it is transposed"),
    "scaled": (lambda m: m * [2, 2, 2, 1], "not orthonormal but scaled"),
    "shrunk": (lambda m: m * [0.5, 0.5, 0.5, 1], "not orthonormal but scaled"),
    "scaled in one direction": (lambda m: m * [1, 2, 1, 1], "not orthonormal ("),
    "sheared": (lambda m: m + np.array([[0, 0.3, 0, 0], [0] * 4, [0] * 4, [0] * 4]), "not orthonormal ("),
    "mirrored": (lambda m: m * [-1, 1, 1, 1], "are mirrored (determinant -1)"),
    "no last row": (lambda m: m * np.array([[1], [1], [1], [0]]), "the last row of cam2world is not 0 0 0 1 ("),
    "all zero": (lambda m: m * 0, "the last row of cam2world is not 0 0 0 1 ("),
    "opencv's axes": (lambda m: m * [1, -1, -1, 1], "the camera looks away from the scene"),
    "world to camera": (world_to_camera, "the cameras stand at one point"),
    "one direction": (lambda m: m[:1].repeat(COUNT, 0) + np.eye(4, k=3), "the cameras look in one direction"),
}


@pytest.mark.parametrize("case", MATRICES)
def test_matrices_that_are_no_cam2world_are_refused_with_the_true_reason(tmp_path, case):
    change, reason = MATRICES[case]
    output, _ = pack(tmp_path, transforms(change(matrices(center=(0.0, 0.0, 0.0)))), code=2)
    assert reason in output
    assert ("keep_world" in output) == (case in ("world to camera", "one direction"))


@pytest.mark.parametrize("case", ["transposed", "scaled", "mirrored"])
def test_matrices_are_checked_if_the_world_is_kept_too(tmp_path, case):
    change, reason = MATRICES[case]
    output, _ = pack(tmp_path, transforms(change(matrices(2.7, (0.0, 0.0, 0.0)))), "--keep-world", code=2)
    assert reason in output


def test_every_bad_matrix_is_named(tmp_path):
    cam2world = matrices()
    cam2world[1:3, :3, :3] *= 2
    output, _ = pack(tmp_path, transforms(cam2world), code=2)
    assert "1.png: pose: the axes of cam2world are not orthonormal but scaled" in output
    assert output.endswith("(and 1 more: 2.png)\n")


def test_coordinates_of_a_map_keep_their_precision(tmp_path):
    near, far = tmp_path / "near", tmp_path / "far"
    near.mkdir()
    far.mkdir()
    _, expected = pack(near, transforms(matrices(20.0, (0.0, 0.0, 0.0))))
    _, dataset = pack(far, transforms(matrices(20.0, (500_000.0, 5_400_000.0, 300.0))))
    torch.testing.assert_close(poses_of(dataset), poses_of(expected), atol=1e-5, rtol=0)


# --------------------------------------------------------------------------- world of the preset


@pytest.mark.parametrize("cfg", ["seg2face", "seg2cat", "edge2car"])
@pytest.mark.parametrize("jitter", [0.0, 0.02])  # real cameras look at the pivot only on average
def test_poses_of_a_published_data_set_come_out_unchanged(tmp_path, cfg, jitter):
    content, poses = eg3d(CAMERAS[cfg], jitter=jitter)
    _, dataset = pack(tmp_path, content, "--cfg", cfg, size=(32, 32))
    torch.testing.assert_close(poses_of(dataset), poses, atol=1e-7, rtol=0)  # seven digits are written


@pytest.mark.parametrize("preset", [FACES, CATS, CARS], ids=["faces", "cats", "cars"])
def test_any_world_becomes_that_of_the_preset(tmp_path, preset):
    expected = torch.cat([pose_at(preset, *angles) for angles in ANGLES])
    scale = 3.7
    cam2world = matrices(preset.radius, (0.0, 0.0, 0.0), preset.pivot)
    cam2world[:, :3, 3] = cam2world[:, :3, 3] * scale + [10, -20, 5]
    cfg = next(name for name in CAMERAS if CAMERAS[name] is preset)
    _, dataset = pack(tmp_path, transforms(cam2world), "--cfg", cfg)
    torch.testing.assert_close(poses_of(dataset)[:, :16], expected[:, :16], atol=1e-5, rtol=0)


def test_poses_of_another_scale_are_normalized(tmp_path):
    content, _ = eg3d(FACES, radius=4.0)
    _, dataset = pack(tmp_path, content, "--cfg", "seg2face", size=(32, 32))
    position = split_pose(poses_of(dataset))[0][:, :3, 3]
    assert position.norm(dim=1).mean() == pytest.approx(FACES.radius, abs=1e-5)
    (tmp_path / "kept").mkdir()
    _, kept = pack(tmp_path / "kept", content, "--cfg", "seg2face", "--keep-world", size=(32, 32))
    torch.testing.assert_close(split_pose(poses_of(kept))[0][:, :3, 3].norm(dim=1), torch.full((COUNT,), 4.0))


def test_poses_of_another_preset_are_not_taken_for_those_of_this_one():
    for preset in (FACES, CATS, CARS):
        for other in (FACES, CATS, CARS):
            assert fits_preset(eg3d(preset)[1], other) == (preset is other)


def test_front_poses_alone_need_no_point_to_look_at(tmp_path):
    front = pose_at(FACES, math.pi / 2, math.pi / 2)[0].tolist()
    content = {"labels": [[f"{i}.png", front] for i in range(COUNT)]}
    _, dataset = pack(tmp_path, content, "--cfg", "seg2face", size=(32, 32))
    assert len(dataset) == COUNT


def test_normalized_cameras_are_normalized_again_without_a_change():
    once = normalize_cameras(eg3d(CATS, radius=5.0, jitter=0.3)[1], FACES)
    torch.testing.assert_close(normalize_cameras(once, FACES), once)


# --------------------------------------------------------------------------- images without a camera


def test_images_without_a_camera_are_all_named_and_can_be_left_out(tmp_path):
    content = transforms(matrices()[:2])
    output, _ = pack(tmp_path, content, code=2)
    assert "2.png: no camera; --skip-missing leaves out such images, and lists them (and 1 more: 3.png)" in output
    output, dataset = pack(tmp_path, content, "--skip-missing")
    assert output.splitlines() == [
        "left out: 2.png: no camera", "left out: 3.png: no camera", "2 images", f"Wrote {tmp_path / 'o.zip'}",
    ]  # fmt: skip
    assert dataset.index.images == ["0.png", "1.png"] and not pose_problems(poses_of(dataset))


def test_a_message_names_twenty_further_images(tmp_path):
    names = [f"{i}.png" for i in range(30)]
    output, _ = pack(tmp_path, transforms(), names=names, code=2)
    assert "(and 25 more: 11.png, " in output and output.endswith(", 4.png, ...)\n")


def test_label_maps_and_objects_of_images_without_a_camera_are_left_out(tmp_path):
    labels = {f"{i}.png": png(np.full((40, 60), i, np.uint8)) for i in range(COUNT)}
    write_folder(tmp_path / "labels", labels)
    (tmp_path / "objects.json").write_text('[["0", "2"], ["1", "3"]]')
    content = transforms()
    del content["frames"][0], content["frames"][1]  # those of images 0 and 2
    pack(tmp_path, content, "--skip-missing", "--label-maps", tmp_path / "labels", "--label-output", tmp_path / "l.zip",
         "--objects", tmp_path / "objects.json")  # fmt: skip
    dataset = PosedImageDataset(tmp_path / "o.zip", tmp_path / "l.zip")
    assert dataset.index.images == ["1.png", "3.png"] and dataset.objects.tolist() == [0, 0]
    assert [int(dataset[i]["mask"].max()) for i in range(2)] == [1, 3]


def test_at_least_one_image_needs_a_camera(tmp_path):
    output, _ = pack(tmp_path, transforms(), "--skip-missing", names=["a.png", "b.png"], code=2)
    assert "no image has a camera; the first is a.png" in output


def test_ambiguous_cameras_are_refused_with_skip_missing_too(tmp_path):
    content = transforms()
    content["frames"][1]["file_path"] = "others/0.png"
    output, _ = pack(tmp_path, content, "--skip-missing", code=2)
    assert "0.png: ambiguous camera: images/0 or others/0" in output


def test_leaving_out_images_needs_cameras(tmp_path):
    write_folder(tmp_path / "photos", {"0.png": png(np.zeros((8, 8, 3), np.uint8))})
    words = ["pack", "--images", tmp_path / "photos", "--front", "--skip-missing", "--output", tmp_path / "o.zip"]
    result = CliRunner().invoke(main, [*map(str, words)])
    assert result.exit_code == 2 and "it needs --cameras" in result.output


# --------------------------------------------------------------------------- names

MATCHES = {  # image, cameras -> those that match
    "the same path": ("a/0.png", ["a/0", "b/0", "0"], ["a/0"]),
    "a directory more": ("0.png", ["images/0", "images/10"], ["images/0"]),
    "a directory less": ("train/0.png", ["0", "10"], ["0"]),
    "two directories more": ("0.jpg", ["home/me/0"], ["home/me/0"]),
    "an absolute path": ("images/0.png", ["/data/images/0"], ["/data/images/0"]),
    "a path upwards": ("images/0.png", ["../images/0"], ["../images/0"]),
    "only whole names": ("0.png", ["images/00", "x0"], []),
    "two of them": ("0.png", ["a/0", "b/0"], ["a/0", "b/0"]),
    "both ways": ("a/0.png", ["x/a/0", "0"], ["x/a/0", "0"]),
    "another directory": ("a/0.png", ["b/0"], []),
}


@pytest.mark.parametrize("case", MATCHES)
def test_cameras_are_found_by_the_end_of_the_path(case):
    name, cameras, expected = MATCHES[case]
    assert match_cameras([name], cameras)[name] == expected


PATHS = [("{}.png", "images/{}"), ("train/{}.png", "{}"), ("{}/a.png", "scenes/{}/a"), ("{0}/{0}.png", "x/{0}/{0}")]


@pytest.mark.parametrize(("image", "camera"), PATHS)
def test_time_to_find_cameras_is_linear(image, camera):
    count = 30_000  # comparing all pairs would take ten minutes
    start = time.perf_counter()
    found = match_cameras([image.format(i) for i in range(count)], [camera.format(i) for i in range(count)])
    assert time.perf_counter() - start < 20
    assert all(len(cameras) == 1 for cameras in found.values()) and len(found) == count


def test_values_of_the_whole_file_are_not_copied_to_each_frame(tmp_path):
    count = 3000
    shared = {f"note{i}": 0 for i in range(count)} | {"k1": [0] * 1_000_000}
    frame = {"transform_matrix": np.eye(4).tolist()}
    content = {**PIXELS, **shared, "frames": [{**frame, "file_path": f"{i}.png"} for i in range(count)]}
    (tmp_path / "t.json").write_text(json.dumps(content))
    start = time.perf_counter()
    with pytest.raises(ValueError, match=r"k1 is \[0, 0, 0, 0, \.\.\.\]"):
        read_cameras(tmp_path / "t.json")
    assert time.perf_counter() - start < 20  # 9 million copies, or 3 billion zeros, take longer
