import json
import math
import multiprocessing
import os
import signal
import zipfile

import numpy as np
import pytest
import torch

from camera_utils import CARS, CATS, mirror_pose, pose_at, view_angles
from dataset_preprocessing.toy.cars import PARTS, Car
from dataset_preprocessing.toy.cats import BODY, Cat
from dataset_preprocessing.toy.drawing import edge_drawing
from dataset_preprocessing.toy.render import pixel_rays, render
from dataset_preprocessing.toy.write import (
    DEPTH_UNIT,
    HELD_OUT,
    RenderJob,
    image_name,
    render_object,
    sample_object,
    write_toy,
)
from training.data.archive import Archive
from training.data.dataset import PosedImageDataset
from training.data.depth_maps import DepthImages
from training.data.label_maps import decode_class_ids

RESOLUTION = 64
VIEWS = {  # kind of object -> scene, two poses that share most of what they see
    "cats": (Cat, CATS, [(0.25, 0.05), (-0.10, 0.15)]),
    "cars": (Car, CARS, [(0.60, 0.30), (0.85, 0.45)]),
}


def pose_of(preset, yaw, pitch):
    return pose_at(preset, math.pi / 2 + yaw, math.pi / 2 * (1 - math.sin(pitch)))[0].numpy()


def view(kind, seed, number, resolution=RESOLUTION):
    scene, preset, angles = VIEWS[kind]
    pose = pose_of(preset, *angles[number])
    return render(scene(np.random.default_rng(seed)), pose, resolution), pose


def inner(labels):
    """Return the pixels (R,R bool) whose eight neighbors have the same label."""
    padded = np.pad(labels, 1, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
    return (windows == labels[..., None, None]).all((2, 3))


def agreement(first, second, first_labels, second_labels, poses):
    """Return the share of surface points with the same label in two views, and the number of points compared.

    Compared are points inside their region in both images that the second camera's depth shows to be visible.
    """
    resolution = first.depth.shape[0]
    rows, columns = np.nonzero((first.depth > 0) & inner(first_labels))
    pixels = np.stack([rows, columns]).astype(np.float32) + 0.5
    origin, rays = pixel_rays(poses[0], pixels, resolution)
    points = origin[:, None] + first.depth[rows, columns] * rays  # 3,M world
    cam2world, k = poses[1][:16].reshape(4, 4).astype(np.float64), poses[1][16:].reshape(3, 3)
    local = cam2world[:3, :3].T @ (points - cam2world[:3, 3:])
    u, v, _ = k @ (local / local[2])
    at = np.floor(np.stack([v, u]) * resolution).astype(int)
    kept = ((at >= 0) & (at < resolution)).all(0)
    row, column = at[:, kept]
    distance = np.linalg.norm(local[:, kept], axis=0)
    pixel = 2 * distance / resolution / k[0, 0]  # two pixels: the point is not at the pixel's center, surfaces slope
    visible = (np.abs(second.depth[row, column] - distance) < pixel) & inner(second_labels)[row, column]
    here = first_labels[rows, columns][kept][visible]
    return (here == second_labels[row, column][visible]).mean(), visible.sum()


@pytest.mark.parametrize("kind", VIEWS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_surface_points_have_the_same_class_in_two_views(kind, seed):
    (first, pose), (second, other) = view(kind, seed, 0), view(kind, seed, 1)
    share, count = agreement(first, second, first.parts, second.parts, [pose, other])
    assert share > 0.99
    assert count > (600 if kind == "cats" else 80)  # of 4,096 pixels; a car fills fewer and has more boundaries


def test_agreement_between_views_detects_a_wrong_pose():
    (first, pose), (second, _) = view("cats", 0, 0), view("cats", 0, 1)
    wrong = pose_of(CATS, -0.10, -0.15)
    share, count = agreement(first, second, first.parts, second.parts, [pose, wrong])
    assert share < 0.99 or count < 600


@pytest.mark.parametrize("kind", VIEWS)
def test_mirrored_images_agree_with_mirrored_poses(kind):
    (first, pose), (second, other) = view(kind, 0, 0), view(kind, 0, 1)
    poses = [mirror_pose(torch.from_numpy(p)[None])[0].numpy() for p in (pose, other)]
    flipped = [type(seen)(*[np.ascontiguousarray(a[:, ::-1]) for a in vars(seen).values()]) for seen in (first, second)]
    share, count = agreement(*flipped, flipped[0].parts, flipped[1].parts, poses)
    assert share > 0.99
    assert count > (600 if kind == "cats" else 80)
    unmirrored, fewer = agreement(*flipped, flipped[0].parts, flipped[1].parts, [pose, other])
    assert unmirrored < 0.99 or fewer < 0.9 * count


def test_depth_is_the_distance_to_the_surface():
    cat = Cat(np.random.default_rng(3))
    pose = pose_of(CATS, 0.1, 0.1)
    seen = render(cat, pose, RESOLUTION)
    rows, columns = np.nonzero(seen.depth)
    origin, rays = pixel_rays(pose, np.stack([rows, columns]).astype(np.float32) + 0.5, RESOLUTION)
    distance = cat.distance(origin[:, None] + seen.depth[rows, columns] * rays)
    assert np.abs(distance).max() < 3e-4  # HIT_DISTANCE of the tracer


def test_color_is_antialiased_and_label_maps_are_not_blended():
    seen, _ = view("cats", 1, 0)
    assert set(np.unique(seen.parts)) <= set(range(BODY + 1))
    fine = render(Cat(np.random.default_rng(1)), pose_of(CATS, 0.25, 0.05), RESOLUTION * 4)
    reference = fine.image.reshape(RESOLUTION, 4, RESOLUTION, 4, 3).mean((1, 3))
    edge = ~inner(seen.parts)
    smooth = np.abs(seen.image - reference)[edge].mean()
    single = np.abs(fine.image[2::4, 2::4] - reference)[edge].mean()  # one ray per pixel
    assert smooth < 0.4 * single


def test_front_view_of_every_cat_shows_all_classes():
    for seed in range(6):
        seen = render(Cat(np.random.default_rng(seed)), pose_of(CATS, 0, 0), RESOLUTION)
        share = np.bincount(seen.parts.ravel(), minlength=6) / seen.parts.size
        assert (share > 0.005).all()
        assert 0.2 < share[0] < 0.7


def test_colors_change_the_image_but_not_the_label_map():
    cats = [Cat(np.random.default_rng(seed)) for seed in (0, 1)]
    assert len(vars(cats[0].shape)) >= 12
    assert all(a != b for a, b in zip(vars(cats[0].shape).values(), vars(cats[1].shape).values(), strict=True))
    pose = pose_of(CATS, 0, 0)
    before = render(cats[0], pose, 32)
    cats[0]._paint(np.random.default_rng(9))
    after = render(cats[0], pose, 32)
    np.testing.assert_array_equal(before.parts, after.parts)
    assert (before.image != after.image).any()


def test_car_has_wheels_and_windows_and_lines_at_part_boundaries():
    job = RenderJob("cars", 128, 1, 0)
    scene, _ = sample_object(job, 0)
    seen = render(scene, pose_of(CARS, 0.7, 0.3), 128)
    names = {PARTS[part] for part in np.unique(seen.parts)}
    assert {"background", "tire", "rim", "glass", "hood", "roof"} <= names
    drawing = edge_drawing(seen)
    assert set(np.unique(drawing)) == {0, 255}
    assert (drawing[~inner(seen.parts)] == 0).mean() > 0.8
    assert (drawing[seen.parts == 0] == 255).mean() > 0.95


def test_object_is_determined_by_seed_and_number():
    job = RenderJob("cats", 32, 2, seed=4)
    once, again = render_object(job, 7), render_object(job, 7)
    assert once == again
    assert render_object(job, 8) != once
    assert render_object(RenderJob("cats", 32, 2, seed=5), 7) != once
    assert render_object(RenderJob("cats", 32, 2, seed=4, split=HELD_OUT), 7) != once


def test_archives_do_not_depend_on_the_number_of_workers(tmp_path):
    job = RenderJob("cats", 16, 2, seed=1)
    here = write_toy(job, 3, tmp_path / "here")
    there = write_toy(job, 3, tmp_path / "there", workers=2)
    assert [path.read_bytes() for path in here] == [path.read_bytes() for path in there]


def test_data_set_reads_back_rendered_images_and_depth(tmp_path):
    job = RenderJob("cats", 32, 2, seed=1, split=HELD_OUT, depth=True)
    images, labels, depths = write_toy(job, 2, tmp_path / "toy")
    dataset = PosedImageDataset(images, labels, semantic_channels=6)
    assert (len(dataset), dataset.resolution) == (4, 32)
    scene, poses = sample_object(job, 1)
    seen = render(scene, poses[1], 32)
    np.testing.assert_array_equal(dataset[3]["image"].transpose(1, 2, 0), seen.image)
    np.testing.assert_array_equal(dataset[3]["mask"][0], seen.parts)
    np.testing.assert_allclose(dataset[3]["pose"], poses[1], atol=1e-6)  # printed with seven digits
    np.testing.assert_allclose(DepthImages(depths).read(dataset, 3)[0], seen.depth, atol=0.51 * DEPTH_UNIT)


@pytest.mark.parametrize(("views", "objects"), [(2, [0, 0, 1, 1]), (1, [0, 1])])
def test_views_of_an_object_are_consecutive_images_and_listed_as_one_object(tmp_path, views, objects):
    images, labels = write_toy(RenderJob("cars", 16, views, seed=1), 2, tmp_path / "toy")
    assert PosedImageDataset(images, labels, "edge").objects.tolist() == objects
    assert ("objects" in json.loads(Archive(images).read("dataset.json"))) == (views > 1)


def test_the_last_views_are_wide_and_the_first_ones_unchanged():
    def yaws(**options):
        poses = [sample_object(RenderJob("cats", 16, 3, seed=0, **options), number)[1] for number in range(400)]
        return view_angles(torch.from_numpy(np.reshape(poses, (-1, 25))))[0].reshape(400, 3)

    # A uniform distribution in +-0.75 has a standard deviation of 0.433, the clipped normal one of about 0.29.
    narrow, wide = yaws(), yaws(wide_views=2)
    assert torch.equal(wide[:, 0], narrow[:, 0]) and narrow.std() < 0.32
    assert wide[:, 1:].std() == pytest.approx(0.433, abs=0.02) and wide.abs().max() < 0.7501


def test_label_maps_of_cars_are_dark_lines_on_white(tmp_path):
    images, labels = write_toy(RenderJob("cars", 32, 1, seed=0), 1, tmp_path / "toy")
    drawing = decode_class_ids(Archive(labels).read(image_name(0)))
    stored = PosedImageDataset(images, labels, "edge")[0]["mask"]
    assert np.median(drawing) == 255
    assert np.median(stored) == 0 and stored.max() > 127


def test_failure_leaves_no_file(tmp_path):
    def stop(objects):
        yield from list(objects)[:1]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_toy(RenderJob("cats", 16, 1, seed=1), 2, tmp_path / "toy", progress=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="Windows has no signals of this kind")
def test_workers_do_not_see_ctrl_c(tmp_path):
    def interrupt_workers(objects):
        for views in objects:
            for process in multiprocessing.active_children():
                os.kill(process.pid, signal.SIGINT)
            yield views

    images, _ = write_toy(RenderJob("cats", 16, 1, seed=1), 6, tmp_path / "toy", workers=1, progress=interrupt_workers)
    assert len(PosedImageDataset(images)) == 6


def test_killed_worker_is_one_error_and_leaves_no_file(tmp_path):
    def kill(objects):
        for views in objects:
            for process in multiprocessing.active_children():
                process.kill()
            yield views

    with pytest.raises(OSError, match="a rendering process was killed"):
        write_toy(RenderJob("cats", 16, 1, seed=1), 50, tmp_path / "toy", workers=1, progress=kill)
    assert list(tmp_path.iterdir()) == []


def test_zip_members_are_stored_with_a_fixed_date(tmp_path):
    images, _ = write_toy(RenderJob("cats", 16, 1, seed=1), 1, tmp_path / "toy")
    with zipfile.ZipFile(images) as archive:
        assert {(m.compress_type, m.date_time[0]) for m in archive.infolist()} == {(zipfile.ZIP_STORED, 1980)}
