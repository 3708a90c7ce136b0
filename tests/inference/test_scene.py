"""The Python API: scenes from label maps of every kind, views, videos and meshes."""

import inspect
import math

import numpy as np
import pytest
import torch
import trimesh
from paths import ROOT
from PIL import Image

import inference
from camera_utils import CAMERAS, front_pose, pose_at, view_angles
from inference import Mesh, Scene, View, load_generator
from inference.inputs import to_label_map
from training.data.label_maps import colorize, draw_image, draw_semantic, read_label_map

ASSETS = ROOT / "applications" / "assets"
CAT, CAR = ASSETS / "toy_cat.png", ASSETS / "toy_car.png"


@pytest.fixture(scope="module")
def cats():
    return load_generator(ROOT / "checkpoints" / "toy_seg2cat.safetensors", "cpu")


@pytest.fixture(scope="module")
def cars():
    return load_generator(ROOT / "checkpoints" / "toy_edge2car.safetensors", "cpu")


@pytest.fixture(scope="module")
def scene(cats):
    return Scene.from_label_map(cats, CAT, seed=1)


# --------------------------------------------------------------------------- label maps


def test_every_form_of_a_label_map_of_classes_gives_the_same_tensor(cats):
    expected = read_label_map(CAT, "seg", 6, 128)
    ids = read_label_map(CAT, "seg", 6)[0, 0].numpy().astype(np.uint8)
    forms = [CAT, str(CAT), Image.open(CAT), ids, ids.astype(np.int64), colorize(ids), Image.fromarray(colorize(ids))]
    forms += [torch.from_numpy(ids), torch.from_numpy(ids)[None, None].long(), expected]
    for form in forms:
        label_map = to_label_map(form, cats)
        assert label_map.dtype == torch.int64 and torch.equal(label_map, expected), type(form)


def test_every_form_of_a_drawing_gives_the_same_tensor(cars):
    expected = read_label_map(CAR, "edge", 1, 128)
    gray = np.array(Image.open(CAR).convert("L"))
    for form in [CAR, Image.open(CAR), gray, np.repeat(gray[..., None], 3, axis=2), expected]:
        assert torch.equal(to_label_map(form, cars), expected), type(form)


@pytest.mark.parametrize(
    ("label_map", "message"),
    [
        (np.full((8, 8), 6, np.uint8), "label_map: got class 6 at x=0 y=0; this network's classes are 0 to 5"),
        (np.full((8, 8), -1), "label_map: got values from -1 to -1, expected whole numbers from 0 to 255"),
        (np.full((8, 8), 0.5), "label_map: got values from 0.5 to 0.5, expected whole numbers"),
        (np.full((8, 8), np.nan), "label_map: got values from nan to nan, expected whole numbers"),
        (np.zeros((1, 1, 8, 8), np.uint8), r"label_map: got ndarray of uint8 \(1, 1, 8, 8\), expected .*H,W or H,W,3"),
        (None, "label_map: got NoneType .*, expected a path, an image, a tensor"),
        (b"png", "label_map: got bytes .*, expected a path, an image, a tensor"),
        (np.random.RandomState(0).randint(0, 256, (8, 8, 3)), "label_map: color .* looks like a photo"),
        (np.zeros((8, 4), np.uint8), "label_map: 4x8 pixels; expected a square"),
        (Image.new("CMYK", (8, 8)), "label_map: cannot write mode CMYK"),
        (torch.full((8, 8), 6), "label_map: got '6 to 6', expected 0 to 5"),
        (torch.zeros(8, 8), "label_map: got torch.float32, expected integer class ids"),
        (torch.zeros(1, 2, 8, 8), r"label_map: got \(1, 2, 8, 8\), expected 1,1,R,R"),
        (torch.zeros(8), r"label_map: got \(8,\), expected 1,1,R,R"),
    ],
)
def test_invalid_label_maps_are_rejected(label_map, message, cats):
    with pytest.raises(ValueError, match=message):
        to_label_map(label_map, cats)


@pytest.mark.parametrize("value", [255.0, math.nan])
def test_edges_outside_the_range_of_the_network_are_rejected(value, cars):
    with pytest.raises(ValueError, match=r"label_map: got .*, expected -1 to 1"):
        to_label_map(torch.full((8, 8), value), cars)


@pytest.mark.parametrize("seed", ["1", 1.5, None, -1, 2**32])
def test_seeds_that_are_no_whole_numbers_in_range_are_rejected(seed, cats):
    with pytest.raises(ValueError, match=r"seed: got .*, expected a whole number from 0 to 4294967295"):
        Scene.from_label_map(cats, CAT, seed=seed)


def test_unknown_cameras_and_a_path_in_place_of_the_generator_are_rejected(cats):
    with pytest.raises(ValueError, match="cfg: got 'seg2dog', expected seg2cat"):
        Scene.from_label_map(cats, CAT, cfg="seg2dog")
    with pytest.raises(ValueError, match="G: got 'str', expected a generator; load_generator"):
        Scene.from_label_map("toy_seg2cat.safetensors", CAT)


def test_a_missing_file_is_a_file_not_found_error(cats):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        Scene.from_label_map(cats, "nowhere.png")


# --------------------------------------------------------------------------- views


def test_yaw_and_pitch_are_those_of_the_camera(scene):
    for yaw, pitch in [(0.3, 0.1), (-0.5, -0.3), (0.0, 0.0)]:
        found_yaw, found_pitch = view_angles(scene.pose_at(yaw, pitch))
        assert (found_yaw.item(), found_pitch.item()) == (pytest.approx(yaw, abs=1e-5), pytest.approx(pitch, abs=1e-5))
    assert torch.equal(scene.pose_at(0, 0), front_pose(CAMERAS["seg2cat"], **scene.G.orbit))


@torch.inference_mode()
def test_a_view_is_what_synthesis_renders(scene, cats):
    view = scene.render(yaw=0.3, pitch=0.1)
    out = cats.synthesis(scene.ws, scene.pose_at(0.3, 0.1), noise_mode="const", jitter=False)
    assert isinstance(view, View)
    assert np.array_equal(view.image, draw_image(out["image"])[0])
    assert np.array_equal(colorize(view.label_map), draw_semantic(out["semantic"], "seg")[0])
    assert np.array_equal(view.depth, out["image_depth"][0, 0].numpy())
    assert view.image.shape == (128, 128, 3) and view.image.dtype == np.uint8
    assert view.label_map.shape == (128, 128) and view.label_map.max() < 6
    assert view.depth.shape == (64, 64) and view.depth.dtype == np.float32
    assert {"image", "semantic", "image_raw", "semantic_raw", "image_depth"} <= view.tensors.keys()


def test_a_pose_of_25_numbers_is_taken_in_place_of_angles(scene):
    pose = pose_at(CAMERAS["seg2cat"], 1.2, 1.4)
    images = [scene.render(pose=form).image for form in (pose, pose[0], pose[0].tolist(), pose.numpy())]
    assert all(np.array_equal(image, images[0]) for image in images)
    assert not np.array_equal(images[0], scene.render().image)
    with pytest.raises(ValueError, match=r"pose: got \(3,\), expected 25 numbers"):
        scene.render(pose=[1, 2, 3])

    # Matrices are checked before they are used.
    for place, value, problem in ((0, math.nan, "holds NaN or infinity"), (16, -1, "the focal length is not positive")):
        wrong = pose.clone()
        wrong[0, place] = value
        with pytest.raises(ValueError, match=f"pose: {problem}"):
            scene.render(pose=wrong)


@pytest.mark.parametrize("angles", [{"yaw": 30}, {"pitch": 10}, {"yaw": math.nan}])
def test_angles_in_degrees_are_rejected(angles, scene):
    with pytest.raises(ValueError, match=r"yaw, pitch: got .* radians, .* math.radians converts degrees"):
        scene.render(**angles)


def test_views_of_edges_are_drawings(cars):
    view = Scene.from_label_map(cars, CAR).render()
    assert view.label_map.shape == (128, 128) and view.label_map.dtype == np.uint8
    assert np.median(view.label_map) > 192 > view.label_map.min()
    assert view.frame("label").shape == (128, 128, 3)


def test_the_label_map_is_encoded_once_and_planes_are_computed_once(cats, tmp_path, monkeypatch):
    calls = []
    for name in ("encode", "planes"):
        plain = getattr(type(cats), name)
        monkeypatch.setattr(
            type(cats), name, lambda *a, name=name, plain=plain, **k: calls.append(name) or plain(*a, **k)
        )
    scenes = list(Scene.from_seeds(cats, CAT, [1, 2]))
    assert calls == ["encode"]
    scenes[0].render()
    scenes[0].video(tmp_path / "cat.gif", frames=2)
    scenes[0].mesh(resolution=24)
    assert calls == ["encode", "planes"]


def test_scenes_of_seeds_equal_scenes_made_one_by_one(cats, scene):
    first, second = Scene.from_seeds(cats, CAT, [0, 1])
    assert torch.equal(second.ws, scene.ws) and not torch.equal(first.ws, scene.ws)


# --------------------------------------------------------------------------- files


def test_a_video_has_the_frames_that_are_asked_for(scene, tmp_path):
    scene.video(tmp_path / "cat.gif", frames=3, fps=10, show="side_by_side", trajectory="turn")
    with Image.open(tmp_path / "cat.gif") as video:
        assert (video.size, video.n_frames, video.info["duration"]) == ((256, 128), 3, 100)
    scene.video(tmp_path / "poses.gif", trajectory=scene.path("orbit", 2), show="depth")
    with Image.open(tmp_path / "poses.gif") as video:
        assert (video.size, video.n_frames) == ((128, 128), 2)
    with pytest.raises(ValueError, match="show: got 'x-ray', expected color, label, side_by_side, depth"):
        scene.video(tmp_path / "cat.gif", show="x-ray")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trajectory": "spiral"}, "trajectory: got 'spiral', expected orbit or turn, or poses F,25"),
        ({"trajectory": torch.zeros(2, 16)}, r"poses: got \(2, 16\), expected F,25"),
        ({"frames": 0}, "frames: got 0, expected 1 or more"),
        ({"fps": 0}, "fps: expected a positive number, got 0"),
    ],
)
def test_invalid_options_of_videos_are_rejected_and_nothing_is_written(options, message, scene, tmp_path):
    with pytest.raises(ValueError, match=message):
        scene.video(tmp_path / "cat.gif", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution": 1}, "resolution: got 1, expected 2 or more"),
        ({"threshold": "high"}, "threshold: got 'high', expected a number or 'auto'"),
        ({"threshold": 1e9}, "threshold: the density .* lies wholly below .*; try threshold auto"),
    ],
)
def test_invalid_options_of_meshes_are_rejected(options, message, scene):
    with pytest.raises(ValueError, match=message):
        scene.mesh(**({"resolution": 8} | options))


def test_a_mesh_is_extracted_at_an_automatic_threshold_and_exported(scene, tmp_path):
    mesh = scene.mesh(resolution=48, largest=True)
    assert isinstance(mesh, Mesh) and mesh.threshold != 50
    mesh.export(tmp_path / "made" / "cat.glb")
    read = trimesh.load(tmp_path / "made" / "cat.glb", force="mesh", process=False)
    assert len(read.faces) == len(mesh.faces) > 500


def test_a_mesh_has_no_background_where_the_network_models_it_as_solid(scene):
    mesh = scene.mesh(resolution=48, color=None)
    whole = scene.mesh(resolution=48, color=None, largest=False, without=None)
    radius, whole_radius = (np.linalg.norm(x.vertices, axis=1).max() for x in (mesh, whole))
    assert radius < scene.G.rendering_kwargs["background_radius"] < whole_radius


def test_public_names_have_docstrings():
    for name in inference.__all__:
        assert inspect.getdoc(getattr(inference, name))
