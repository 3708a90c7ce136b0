import io
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from paths import ROOT
from PIL import ExifTags, Image
from small_data import COUNT, SIZE, good_poses, image_files, label_files, name_of, png, write_folder, write_zip

from camera_utils import CARS, CATS, front_pose, opengl_to_opencv, pose_at, pose_problems, split_pose
from dataset_tool import main
from training.data.archive import Archive
from training.data.dataset import PosedImageDataset
from training.data.depth_maps import find_depth

STOPPED = "Stopped: complete files are kept, incomplete ones were removed."


def run(*arguments, code=0):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def small(tmp_path):
    return write_zip(tmp_path / "images.zip", image_files()), write_zip(tmp_path / "labels.zip", label_files())


@pytest.fixture
def photos():
    """Directory of the photos in scikit-image."""
    skimage = pytest.importorskip("skimage", reason="scikit-image is an extra")
    return Path(skimage.__file__).parent / "data"


# --------------------------------------------------------------------------- toy, check, show


def test_toy_data_is_written_checked_and_shown(tmp_path):
    output = run("toy", "--kind", "cats", "--outdir", tmp_path, "--number", 4, "--views", 2, "--resolution", 32,
                 "--held-out", 1, "--held-out-views", 3, "--workers", 0)  # fmt: skip
    assert "4 images" in output and "3 images" in output
    names = {path.name for path in tmp_path.iterdir()}
    split = {f"cats_32_test{ending}.zip" for ending in ("", "_label", "_depth")}
    assert names == {"cats_32.zip", "cats_32_label.zip"} | split
    data = ("--data", tmp_path / "cats_32.zip", "--mask_data", tmp_path / "cats_32_label.zip")
    output = run("check", *data, "--semantic_channels", 6, "--coverage", tmp_path / "where.png")
    assert "4 images of 32 pixels, 4 label maps" in output and "class 5:" in output and "no problems" in output
    assert "2 objects, 2 images of each" in output
    output = run("show", *data, "--output", tmp_path / "sheet.png", "--count", 3, "--xflip")
    assert "3 of 8 samples" in output and "2 objects, 2 images of each" in output
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (144, 3 * 256, 3)
    plain, mirrored = sheet[:128, :128], sheet[:128, 256:384]  # a sample beside its mirrored copy
    assert np.abs(plain.astype(int) - mirrored[:, ::-1]).mean() < 1  # resizing rounds differently from the other side


def test_toy_data_for_training_on_several_views_has_depth(tmp_path):
    run("toy", "--kind", "cats", "--outdir", tmp_path, "--number", 4, "--views", 2, "--wide-views", 1, "--depth",
        "--resolution", 16, "--held-out", 0, "--workers", 0)  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} == {f"cats_16{ending}.zip" for ending in ("", "_label", "_depth")}
    dataset = PosedImageDataset(tmp_path / "cats_16.zip", tmp_path / "cats_16_label.zip")
    depth = find_depth(dataset, None).read(dataset, 3)
    assert np.array_equal(depth[0] > 0, dataset[3]["mask"][0] > 0) and dataset.views_of(3).tolist() == [2, 3]


def test_coverage_plot_has_a_dot_for_each_camera(tmp_path, small):
    run("check", "--data", small[0], "--coverage", tmp_path / "where.png")
    where = np.asarray(Image.open(tmp_path / "where.png")).astype(int)
    rows, columns = np.nonzero(where[..., 2] - where[..., 0] > 60)  # the dots are blue
    assert abs(columns.mean() / 720 - 0.5) < 0.1 and abs(rows.mean() / 360 - 0.5) < 0.1


def test_check_lists_every_problem_and_exits_with_1(tmp_path):
    wrong = png(np.full((SIZE, SIZE), 9, np.uint8))
    labels = write_folder(tmp_path / "labels", {**label_files(), name_of(1): wrong, name_of(3): b"hello"})
    images = write_zip(tmp_path / "images.zip", image_files())
    output = run("check", "--data", images, "--mask_data", labels, "--semantic_channels", 6, code=1)
    assert f"{name_of(1)}: got class 9, expected 0 to 5" in output
    assert f"{name_of(3)}: not a PNG or JPEG image" in output
    assert "2 problems" in output


# --------------------------------------------------------------------------- pack


def test_photos_are_packed_with_edges_into_a_valid_data_set(tmp_path, photos):
    sources = {n: (photos / n).read_bytes() for n in ("chelsea.png", "astronaut.png", "rocket.jpg")}
    folder = write_folder(tmp_path / "photos", sources)
    packed, drawn = tmp_path / "cat.zip", tmp_path / "cat_edges.zip"
    run("pack", "--images", folder, "--front", "--cfg", "edge2cat", "--resolution", 128, "--output", packed)
    run("edges", "--data", packed, "--output", drawn)
    output = run("check", "--data", packed, "--mask_data", drawn, "--data_type", "edge")
    assert "3 images of 128 pixels, 3 label maps" in output
    dataset = PosedImageDataset(packed, drawn, "edge")
    sample = dataset[1]
    np.testing.assert_allclose(sample["pose"], front_pose(CATS)[0], atol=1e-6)
    assert 0.01 < (sample["mask"] > 100).mean() < 0.4  # lines, and not everywhere
    cat = Image.open(photos / "chelsea.png").convert("RGB")  # 451 x 300
    left = (cat.width - cat.height) // 2
    expected = cat.crop((left, 0, left + cat.height, cat.height)).resize((128, 128), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(sample["image"].transpose(1, 2, 0), np.asarray(expected))


def transforms(path, cameras, **shared):
    frames = [{"file_path": f"./images/{name}", "transform_matrix": m.tolist()} for name, m in cameras.items()]
    path.write_text(json.dumps({**shared, "frames": frames}))
    return path


def orbit(count, radius, center):
    """Return cam2world matrices as of Blender (OpenGL axes, z up) on a circle around `center`, looking at it."""
    cameras = {}
    for i in range(count):
        pose = pose_at(CATS, math.pi / 2 + 0.5 * i, math.pi / 2 - 0.1 * i, radius=radius, pivot=(0, 0, 0))
        matrix = opengl_to_opencv(split_pose(pose)[0])[0]
        to_z_up = torch.tensor([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
        matrix = to_z_up @ matrix
        matrix[:3, 3] += torch.tensor(center)
        cameras[f"view{i}"] = matrix
    return cameras


def test_nerf_cameras_are_moved_and_scaled_to_the_preset(tmp_path):
    cameras = orbit(4, radius=11.0, center=(3.0, -2.0, 5.0))
    file = transforms(tmp_path / "transforms.json", cameras, camera_angle_x=2 * math.atan(0.5 / 1.5))
    images = {f"view{i}.png": png(np.zeros((60, 80, 3), np.uint8)) for i in range(4)}
    folder = write_folder(tmp_path / "images", images)
    out = tmp_path / "out.zip"
    run("pack", "--images", folder, "--cameras", file, "--cfg", "shapenet", "--resolution", 64, "--output", out)
    poses = torch.from_numpy(PosedImageDataset(out).index.poses)
    assert not pose_problems(poses)
    for i in range(4):
        expected = pose_at(CATS, math.pi / 2 + 0.5 * i, math.pi / 2 - 0.1 * i, radius=CARS.radius, pivot=(0, 0, 0))
        torch.testing.assert_close(poses[i, :16], expected[0, :16], atol=1e-4, rtol=0)  # a least-squares center
    # focal 1.5 of 80 pixels is 2.0 of the middle 60, the same in both directions
    torch.testing.assert_close(poses[0, 16:], torch.tensor([2.0, 0, 0.5, 0, 2.0, 0.5, 0, 0, 1]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("width", [80, 81])  # of 81 pixels, 10 are cut on one side and 11 on the other
def test_colmap_intrinsics_are_adapted_to_the_crop(tmp_path, width):
    file = transforms(tmp_path / "t.json", orbit(1, 2.7, (0, 0, 0)), fl_x=90, fl_y=96, cx=44, cy=33, w=width, h=60)
    folder = write_folder(tmp_path / "images", {"view0.png": png(np.zeros((60, width, 3), np.uint8))})
    out = tmp_path / "out.zip"
    run("pack", "--images", folder, "--cameras", file, "--keep-world", "--resolution", 64, "--output", out)
    expected = torch.tensor([1.5, 0, (44 - 10) / 60, 0, 1.6, 33 / 60, 0, 0, 1])
    torch.testing.assert_close(torch.from_numpy(PosedImageDataset(out)[0]["pose"][16:]), expected)


CAMERAS_OF_TWO = orbit(2, 2.7, (0.0, 0.0, 0.0))
FRAMES = [{"file_path": f"{name}.png", "transform_matrix": m.tolist()} for name, m in CAMERAS_OF_TWO.items()]


def two_cameras(change=None, **shared):
    """Return the content of a transforms.json of view0 and view1, the second with changes."""
    return {"camera_angle_x": 0.5, **shared, "frames": [FRAMES[0], {**FRAMES[1], **(change or {})}]}


def two_poses(pose):
    return {"labels": [["view0.png", good_poses()[0][1]], ["view1.png", pose]]}


def outwards(matrix):
    """Reverse x and z of the camera, so that it looks the other way."""
    turned = matrix.clone()
    turned[:3, [0, 2]] *= -1
    return turned.tolist()


BAD_CAMERAS = {  # content of the camera file, error message
    "a pose of 24 numbers": (two_poses([1.0] * 24), "view1: expected 25 numbers"),
    "a null pose": (two_poses(None), "view1: expected 25 numbers"),
    "a NaN pose": (two_poses([math.nan] * 25), "view1: holds NaN or infinity"),
    "an integer beyond all floats": (two_poses([10**400] * 25), "view1: holds NaN or infinity"),
    "a name that is a number": ({"labels": [[5, good_poses()[0][1]]]}, "pairs of a name and a pose"),
    "a pose twice": ({"labels": good_poses(1) * 2}, "img00000000.png: has two poses"),
    "a path that is a number": (two_cameras({"file_path": 5}), "frame 1 has no file_path"),
    "a frame twice": (two_cameras({"file_path": "./view0.jpg"}), "view0.jpg: has two poses"),
    "a 3x3 matrix": (
        two_cameras({"transform_matrix": [[1, 0, 0]] * 3}),
        "view1: transform_matrix: expected 4x4 numbers",
    ),
    "a NaN matrix": (two_cameras({"transform_matrix": [[math.nan] * 4] * 4}), "view1: transform_matrix: holds NaN"),
    "no width": (two_cameras({"fl_x": 90, "h": 60}), "view1: no 'w'"),
    "width 0": (two_cameras({"fl_x": 90, "w": 0, "h": 60}), "view1: w: got 0, expected more than 0"),
    "angle 0": (two_cameras({"camera_angle_x": 0}), "view1: camera_angle_x: got 0, expected more than 0"),
    "a negative angle": (two_cameras({"camera_angle_x": -1}), "view1: camera_angle_x: got -1, expected more than 0"),
    "an angle in words": (two_cameras({"camera_angle_x": "wide"}), "view1: camera_angle_x: expected 1 number"),
    "a bent lens": (two_cameras(k1=-0.3), "view0: k1 is -0.3: lens distortion is not supported, undistort"),
    "no rotation": (
        two_cameras({"transform_matrix": [[2, 0, 0, 0], [0, 1, 0, 3], [0, 0, 1, 0], [0, 0, 0, 1]]}),
        "view1.png: pose: the axes of cam2world are not orthonormal",
    ),
    "cameras looking outwards": (
        {
            "camera_angle_x": 0.5,
            "frames": [{**f, "transform_matrix": outwards(CAMERAS_OF_TWO[f["file_path"][:-4]])} for f in FRAMES],
        },
        "view0.png: pose: the camera looks away from the scene",
    ),
    "parallel cameras": (two_cameras({"transform_matrix": FRAMES[0]["transform_matrix"]}), "look in one direction"),
    "another image's camera": (two_cameras({"file_path": "view2.png"}), "view1.png: no camera"),
    "ambiguous": (
        two_cameras({"file_path": "a/view1.png"})
        | {"frames": [FRAMES[0], *({**FRAMES[1], "file_path": f"{x}/view1.png"} for x in "ab")]},
        "view1.png: ambiguous camera: a/view1 or b/view1",
    ),
    "neither form": ([1, 2], "not readable as cameras (expected"),
    "deeply nested": ("[" * 100000, "not readable as cameras (nested too deeply)"),
}


@pytest.mark.parametrize("case", BAD_CAMERAS)
def test_invalid_cameras_are_one_line_that_names_the_entry(tmp_path, case):
    content, message = BAD_CAMERAS[case]
    (tmp_path / "cameras.json").write_text(content if isinstance(content, str) else json.dumps(content))
    folder = write_folder(tmp_path / "images", {f"view{i}.png": png(np.zeros((8, 8, 3), np.uint8)) for i in (0, 1)})
    output = run(
        "pack", "--images", folder, "--cameras", tmp_path / "cameras.json", "--output", tmp_path / "o.zip", code=2
    )
    assert message in output and output.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"cameras.json", "images"}


def test_valid_cameras_match_by_stem_and_unicode_form(tmp_path):
    names = {"view0": "./train/r.0001", "view1": unicodedata.normalize("NFD", "train/Kätzchen.PNG")}
    frames = [{**frame, "file_path": names[frame["file_path"][:-4]]} for frame in FRAMES]
    (tmp_path / "cameras.json").write_text(json.dumps({"camera_angle_x": 0.5, "k1": 0, "frames": frames}))
    image = png(np.zeros((8, 8, 3), np.uint8))
    folder = write_folder(tmp_path / "images", {"r.0001.png": image, "Kätzchen.png": image})
    run(
        "pack",
        "--images",
        folder,
        "--cameras",
        tmp_path / "cameras.json",
        "--resolution",
        16,
        "--output",
        tmp_path / "o.zip",
    )
    assert len(PosedImageDataset(tmp_path / "o.zip")) == 2


def test_packing_a_packed_data_set_again_keeps_poses_and_pixels(tmp_path, small):
    with_json = write_folder(tmp_path / "folder", image_files())
    out, label_out = tmp_path / "again.zip", tmp_path / "again_label.zip"
    run("pack", "--images", small[0], "--label-maps", small[1], "--cameras", with_json / "dataset.json",
        "--keep-world", "--resolution", SIZE, "--output", out, "--label-output", label_out)  # fmt: skip
    before, after = PosedImageDataset(*small), PosedImageDataset(out, label_out)
    for i in range(COUNT):
        for key in ("image", "mask"):
            np.testing.assert_array_equal(before[i][key], after[i][key])
        np.testing.assert_allclose(before[i]["pose"], after[i]["pose"], atol=1e-6)


def pack_labels(tmp_path, label, table=None, code=0):
    images = write_folder(tmp_path / "images", {"a.png": png(np.zeros((8, 8, 3), np.uint8))})
    labels = write_folder(tmp_path / "labels", {"a.png": png(label)})
    extra = []
    if table is not None:
        (tmp_path / "table.json").write_text(json.dumps(table))
        extra = ["--classes", tmp_path / "table.json"]
    out = tmp_path / "out.zip", tmp_path / "out_label.zip"
    output = run("pack", "--images", images, "--label-maps", labels, "--front", "--resolution", 16,
                 "--output", out[0], "--label-output", out[1], *extra, code=code)  # fmt: skip
    return output if code else PosedImageDataset(*out)[0]["mask"][0]


def test_class_table_maps_ids_without_blending(tmp_path):
    ids = np.array([[0, 17], [255, 17]], np.uint8).repeat(4, 0).repeat(4, 1)
    mapped = pack_labels(tmp_path, ids, {"0": 0, "17": 3, "255": 5})
    np.testing.assert_array_equal(mapped, np.array([[0, 3], [5, 3]]).repeat(8, 0).repeat(8, 1))


def test_class_table_maps_colors(tmp_path):
    colors = np.array([[[255, 0, 0], [0, 0, 0]]] * 2, np.uint8).repeat(4, 0).repeat(4, 1)
    mapped = pack_labels(tmp_path, colors, {"#FF0000": 2, "#000000": 0})
    np.testing.assert_array_equal(mapped, np.array([[2, 0]] * 2).repeat(8, 0).repeat(8, 1))


def test_palette_indices_are_mapped_by_number_or_else_by_color(tmp_path):
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8).repeat(4, 0).repeat(4, 1), "P")
    image.putpalette([0, 0, 0, 255, 0, 0, 255, 0, 0])
    mapped = pack_labels(tmp_path, image, {"#000000": 0, "#ff0000": 4, "2": 5})
    np.testing.assert_array_equal(mapped, np.array([[0, 4], [5, 4]]).repeat(8, 0).repeat(8, 1))


def turned_jpeg(pixels):
    """Encode a photo whose EXIF orientation moves its left side to the top."""
    exif, file = Image.Exif(), io.BytesIO()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(pixels).save(file, "jpeg", exif=exif, quality=95)
    return file.getvalue()


def test_photos_are_rotated_by_their_exif_orientation(tmp_path):
    stored = np.zeros((16, 16, 3), np.uint8)
    stored[:, :8] = 255  # the left half is white: shown, the upper one
    folder = write_folder(tmp_path / "images", {"view0.jpg": turned_jpeg(stored)})
    run("pack", "--images", folder, "--front", "--resolution", 16, "--output", tmp_path / "o.zip")
    image = PosedImageDataset(tmp_path / "o.zip")[0]["image"]
    assert image[:, :6].min() > 200 and image[:, 10:].max() < 50
    file = transforms(tmp_path / "t.json", orbit(1, 2.7, (0, 0, 0)), camera_angle_x=0.5)
    assert "view0.jpg: rotated by its EXIF orientation" in run(
        "pack", "--images", folder, "--cameras", file, "--keep-world", "--output", tmp_path / "p.zip", code=2
    )


# of an image with 60 rows and 80 columns; 27 is 26.7 rounded
LABEL_SHAPES = {(60, 80): True, (30, 40): True, (20, 27): True, (60, 60): False, (80, 60): False}


@pytest.mark.parametrize("shape", LABEL_SHAPES)
def test_label_map_with_another_aspect_ratio_is_rejected(tmp_path, shape):
    images = write_folder(tmp_path / "images", {"a.png": png(np.zeros((60, 80, 3), np.uint8))})
    labels = write_folder(tmp_path / "labels", {"a.png": png(np.zeros(shape, np.uint8))})
    output = run("pack", "--images", images, "--label-maps", labels, "--front", "--resolution", 16,
                 "--output", tmp_path / "o.zip", "--label-output", tmp_path / "l.zip",
                 code=0 if LABEL_SHAPES[shape] else 2)  # fmt: skip
    refused = f"labels: a.png: {shape[1]}x{shape[0]} pixels, its image has 80x60: another aspect ratio"
    assert (refused in output) != LABEL_SHAPES[shape]


def test_class_missing_in_the_table_is_named_and_leaves_no_file(tmp_path):
    ids = np.full((8, 8), 4, np.uint8)
    assert "a.png: class 4 is not in the table" in pack_labels(tmp_path, ids, {"0": 0}, code=2)
    assert {path.name for path in tmp_path.iterdir()} == {"images", "labels", "table.json"}


def pack_objects(tmp_path, objects, code=0):
    """Pack images a/1.jpg, a/2.jpg, b/3.jpg, b/c/4.jpg and 5.jpg with --objects; return the number of each's object."""
    names = ["a/1.jpg", "a/2.jpg", "b/3.jpg", "b/c/4.jpg", "5.jpg"]
    images = write_zip(tmp_path / "photos.zip", dict.fromkeys(names, png(np.zeros((16, 16, 3), np.uint8))))
    output = run("pack", "--images", images, "--front", "--resolution", 16, "--output", tmp_path / "o.zip",
                 "--objects", objects, code=code)  # fmt: skip
    if code:
        return output
    index = PosedImageDataset(tmp_path / "o.zip").index
    return {name: int(number) for name, number in zip(index.images, index.objects, strict=True)}


def test_images_of_a_folder_are_packed_as_one_object(tmp_path):
    assert pack_objects(tmp_path, "folders") == {"5.png": 0, "a/1.png": 1, "a/2.png": 1, "b/3.png": 2, "b/c/4.png": 3}
    output = run("check", "--data", tmp_path / "o.zip")
    assert "4 objects, 1 to 2 images of each" in output


def test_images_listed_together_are_packed_as_one_object(tmp_path):
    file = tmp_path / "objects.json"
    file.write_text('[["5.jpg", "./b/3.png"], ["a/2"]]')
    assert pack_objects(tmp_path, file) == {"5.png": 0, "a/1.png": 1, "a/2.png": 2, "b/3.png": 0, "b/c/4.png": 3}


def test_without_objects_none_are_written(tmp_path, small):
    run("pack", "--images", small[0], "--front", "--resolution", 16, "--output", tmp_path / "o.zip")
    assert list(json.loads(Archive(tmp_path / "o.zip").read("dataset.json"))) == ["labels"]
    assert "objects" not in run("check", "--data", tmp_path / "o.zip")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "objects.json: not JSON"),
        ('["a/1.jpg"]', "objects.json: expected a list of lists of image names"),
        ('[["a/1.jpg", "x.jpg"]]', "objects.json: x: no such image"),
        ('[["a/1.jpg"], ["a/1.png"]]', "objects.json: a/1: is listed twice"),
    ],
)
def test_wrong_lists_of_objects_are_rejected_before_packing(tmp_path, content, message):
    (tmp_path / "objects.json").write_text(content)
    assert message in pack_objects(tmp_path, tmp_path / "objects.json", code=2)
    assert not (tmp_path / "o.zip").exists()


def test_thin_lines_survive_packing(tmp_path):
    drawing = np.full((256, 256), 255, np.uint8)
    drawing[:, 101] = 0
    images = write_folder(tmp_path / "images", {"a.png": png(np.zeros((256, 256, 3), np.uint8))})
    labels = write_folder(tmp_path / "labels", {"a.png": png(drawing)})
    out = tmp_path / "o.zip", tmp_path / "l.zip"
    run("pack", "--images", images, "--label-maps", labels, "--data_type", "edge", "--front", "--resolution", 64,
        "--output", out[0], "--label-output", out[1])  # fmt: skip
    assert PosedImageDataset(*out, "edge")[0]["mask"][0].max(1).min() > 10  # on every row


# --------------------------------------------------------------------------- edges


def test_edge_network_loads_keras_weights(tmp_path, small):
    h5py = pytest.importorskip("h5py", reason="h5py is an extra")
    from dataset_preprocessing.edges import EdgeNetwork, learned_detector

    torch.manual_seed(0)
    network = EdgeNetwork().eval()
    weights = tmp_path / "edges.weights.h5"
    with h5py.File(weights, "w") as file:
        for layer, group in network.h5_groups().items():
            file[f"{group}/vars/0"] = layer.weight.detach().permute(2, 3, 1, 0).numpy()
            file[f"{group}/vars/1"] = layer.bias.detach().numpy()
    image = PosedImageDataset(small[0])[0]["image"]
    strength = learned_detector(weights, "cpu")(image)
    with torch.no_grad():
        np.testing.assert_array_equal(strength, network(torch.from_numpy(image)[None].float())[0, 0])
    run("edges", "--data", small[0], "--weights", weights, "--output", tmp_path / "drawn.zip")
    assert len(PosedImageDataset(small[0], tmp_path / "drawn.zip", "edge")) == COUNT


# --------------------------------------------------------------------------- wrong options

WRONG = {  # arguments -> error message; {t} is a directory with images.zip and labels.zip
    "toy --kind dogs --outdir {t}/o": "'dogs' is not one of",
    "toy --kind cats --outdir {t}/o --resolution 100": "got 100, expected a power of two",
    "toy --kind cats --outdir {t}/o --number 3 --views 2": "--number 3: expected a multiple of --views 2",
    "toy --kind cars --outdir {t}/o --wide-views 1": "--wide-views: got 1, expected 0; all views of cars are wide",
    "toy --kind cats --outdir {t}/o --wide-views 2": "--wide-views: got 2, expected 0 to 1, the number of views",
    "check --data {t}/nothing.zip": "nothing.zip: no such file or directory",
    "check --data {t}/text.zip": "text.zip: not a complete zip",
    "check": "Missing option '--data'",
    "show --data {t}/images.zip --mask_data {t}/empty --output {t}/o.png": "no label map of that name in empty",
    "show --data {t}/empty --output {t}/o.png": "empty: contains no images",
    "pack --images {t}/empty --front --output {t}/o.zip": "empty: contains no images",
    "pack --images {t}/images.zip --output {t}/o.zip": "expected either --cameras FILE or --front",
    "pack --images {t}/images.zip --front --cameras {t}/text.zip --output {t}/o.zip": "expected either --cameras",
    "pack --images {t}/images.zip --front --output {t}/o.zip --label-maps {t}/labels.zip": "expected both --label-maps",
    "pack --images {t}/cmyk --front --output {t}/o.zip --objects folders": "--objects: no image is in a folder",
    "pack --images {t}/images.zip --front --output {t}/o.zip --objects {t}/no.json": "no.json: No such file",
    "pack --images {t}/images.zip --front --output {t}/o.zip --classes {t}/text.zip": "--classes maps class ids",
    "pack --images {t}/images.zip --cameras {t}/text.zip --output {t}/o.zip": "text.zip: not readable as cameras",
    "pack --images {t}/images.zip --cameras {t}/none.json --output {t}/o.zip": "lists them (and 4 more: ",
    "pack --images {t}/images.zip --cameras {t}/half.json --output {t}/o.zip": "no 'transform_matrix'",
    "pack --images {t}/images.zip --label-maps {t}/labels.zip --classes {t}/half.json --front --output {t}/o.zip"
    " --label-output {t}/p.zip": "half.json: frames: ",
    "edges --data {t}/empty --output {t}/o.zip": "empty: contains no images",
    "edges --data {t}/images.zip --output {t}/o.zip --weights {t}/text.zip": "no weights of this edge network",
    "edges --data {t}/images.zip --output {t}/o.zip --weights {t}/text.zip --sigma 1": "give one of them",
    "edges --data {t}/images.zip --output {t}/o.zip --sigma 0": "0 is not in the range",
    "edges --data {t}/images.zip --output {t}/o.zip --sigma inf": "inf is not in the range",
    "edges --data {t}/images.zip --output {t}/o.zip --sigma nan": "got nan, expected a number",
    "edges --data {t}/double --output {t}/o.zip": "double/a.png: same name without extension as a.jpeg",
    "pack --images {t}/images.zip --label-maps {t}/labels.zip --front --output {t}/o.zip"
    " --label-output {t}/./o.zip": "use two names",
    "pack --images {t}/cmyk --cameras {t}/a.json --output {t}/o.zip": "cmyk: a.jpg: mode CMYK",
    "pack --images {t}/images.zip --label-maps {t}/labels.zip --classes {t}/deep.json --front --output {t}/o.zip"
    " --label-output {t}/p.zip": "nested too deeply",
    "pack --images {t}/images.zip --front --output {t}/text.zip/o.zip": "text.zip: File exists",
    "paint": "No such command 'paint'",
}


@pytest.mark.parametrize("arguments", WRONG)
def test_invalid_options_are_one_line_and_leave_no_file(tmp_path, small, arguments):
    (tmp_path / "text.zip").write_text("hello")
    (tmp_path / "empty").mkdir()
    (tmp_path / "none.json").write_text('{"frames": []}')
    (tmp_path / "half.json").write_text('{"frames": [{"file_path": "a"}]}')
    (tmp_path / "deep.json").write_text("[" * 100000)
    (tmp_path / "a.json").write_text(json.dumps({"labels": [["a.jpg", good_poses()[0][1]]]}))
    cmyk = io.BytesIO()
    Image.new("CMYK", (8, 8)).save(cmyk, "jpeg")
    write_folder(tmp_path / "cmyk", {"a.jpg": cmyk.getvalue()})
    write_folder(tmp_path / "double", {"a.png": b"", "a.jpeg": b""})
    before = {path.name for path in tmp_path.iterdir()}
    output = run(*arguments.format(t=tmp_path).split(), code=2)
    assert WRONG[arguments] in output
    assert output.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == before


def test_failed_run_keeps_an_existing_output(tmp_path, small):
    broken = write_zip(tmp_path / "broken.zip", {**image_files(), name_of(4): b"hello"})
    kept = tmp_path / "kept.zip"
    kept.write_bytes(b"the last good one")
    run("pack", "--images", broken, "--front", "--output", kept, "--resolution", 16, "--overwrite", code=2)
    assert kept.read_bytes() == b"the last good one"
    assert not list(tmp_path.glob("*.part"))


def test_script_runs_from_any_directory_without_a_traceback(tmp_path):
    call = [sys.executable, str(ROOT / "dataset_tool.py"), "check", "--data", "nothing"]
    result = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.strip() == "Error: nothing: no such file or directory"


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="signals of this kind are POSIX")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_stops_the_workers_quietly_and_leaves_no_file(tmp_path, number, code):
    call = [sys.executable, str(ROOT / "dataset_tool.py"), "toy", "--kind", "cats", "--outdir", str(tmp_path),
            "--resolution", "64", "--workers", "1"]  # fmt: skip
    tool = subprocess.Popen(call, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        while tool.poll() is None and not any(part.stat().st_size for part in tmp_path.iterdir()):
            time.sleep(0.05)
        assert tool.poll() is None
        os.killpg(tool.pid, number)  # to all processes, as a terminal does
        _, errors = tool.communicate(timeout=60)
    finally:
        tool.kill()
    begun, _, errors = errors.partition(" ...\n")
    assert begun.startswith("Rendering ") and (tool.returncode, errors.strip()) == (code, STOPPED)
    assert not list(tmp_path.iterdir())


def test_a_test_set_does_not_replace_a_training_set(tmp_path):
    training = ["toy", "--kind", "cats", "--outdir", tmp_path, "--number", 2, "--resolution", 16, "--workers", 0]
    run(*training, "--held-out", 0)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert before.keys() == {"cats_16.zip", "cats_16_label.zip"}

    # The same kind and size, for evaluation.
    output = run(*training[:6], 1, *training[7:], "--held-out", 1, "--held-out-views", 1, code=2)
    assert "cats_16.zip: exists already (and 1 more)" in output and "add --overwrite" in output
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    output = run(*training[:6], 1, *training[7:], "--held-out", 0, "--overwrite")
    assert output.splitlines()[-2:] == [f"Wrote {tmp_path}/cats_16.zip", f"Wrote {tmp_path}/cats_16_label.zip"]
    assert (tmp_path / "cats_16.zip").read_bytes() != before["cats_16.zip"]


# --------------------------------------------------------------------------- the page on own data

PAGE = (ROOT / "docs" / "own_data.md").read_text(encoding="utf-8")
PAGE_COMMANDS = [
    shlex.split(line.replace("\\\n", " "))[2:]
    for line in re.findall(r"^python dataset_tool\.py (?:.*\\\n)*.*$", PAGE, re.MULTILINE)
]
SMALL_TOY = ["--number", "2", "--resolution", "16", "--held-out", "1", "--held-out-views", "1", "--workers", "0"]


def test_commands_and_code_of_docs_own_data_work(tmp_path, monkeypatch):
    pytest.importorskip("skimage", reason="scikit-image is an extra")
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    names = [f"{letter}.png" for letter in "abcd"]
    write_folder(Path("photos"), {n: png(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)) for n in names})
    write_folder(Path("labels"), {n: png(rng.integers(0, 6, (30, 40), dtype=np.uint8)) for n in names})
    Path("table.json").write_text(json.dumps({str(i): i for i in range(6)}))
    for command in PAGE_COMMANDS:
        run(*command, *(SMALL_TOY if command[0] == "toy" else []))
    assert {command[0] for command in PAGE_COMMANDS} == {"pack", "edges", "check", "show", "toy"}
    made = {"my.zip", "my_labels.zip", "edge_cats.zip", "edge_cats_drawings.zip", "cameras.png", "sheet.png", "data"}
    assert {path.name for path in tmp_path.iterdir()} == made | {"photos", "labels", "table.json"}
    stream, pairs = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    page = {}
    exec(stream, page)
    assert page["batch"]["image"].shape == (4, 3, 256, 256) and page["batch"]["mask"].shape == (4, 1, 256, 256)
    assert page["state"] == {"position": 4}
    exec(pairs, page)
    assert {"image", "target_image", "target_mask", "target_pose"} <= set(page["batch"])
