"""Images of the same object in a data set, and training samples with a second view and its depth."""

import json
from itertools import islice

import numpy as np
import pytest
import torch
from small_data import COUNT, SIZE, good_poses, image_files, label_files, name_of, png, write_zip

from training.data.archive import DataError
from training.data.dataset import PosedImageDataset
from training.data.depth_maps import DEPTH_FILE, DepthImages
from training.data.sampler import BatchStream, Draw, InfiniteSampler
from training.data.views import ViewPairs

# Images 0, 3 and 4 show one object, 1 and 2 another each.
GROUPS = [[name_of(3), name_of(0), name_of(4)], [name_of(2)]]
OBJECTS = [0, 1, 2, 0, 0]
UNIT = 0.5


def content(**entries) -> dict[str, bytes]:
    return image_files() | {"dataset.json": json.dumps({"labels": good_poses(), **entries}).encode()}


def make(directory, files, **options) -> PosedImageDataset:
    images = write_zip(directory / "a.zip", files)
    return PosedImageDataset(images, write_zip(directory / "b.zip", label_files()), **options)


def make_depth(directory) -> DepthImages:
    """Depth of image i: level 10 * i + 1, and 0 in the first column."""
    files = {DEPTH_FILE: json.dumps({"world_units_per_level": UNIT}).encode()}
    for i in range(COUNT):
        levels = np.full((SIZE, SIZE), 10 * i + 1, np.uint16)
        levels[:, 0] = 0
        files[name_of(i)] = png(levels)
    return DepthImages(write_zip(directory / "depth.zip", files))


@pytest.fixture
def grouped(tmp_path):
    return make(tmp_path, content(objects=GROUPS))


# --------------------------------------------------------------------------- objects


def test_images_of_a_group_show_one_object_and_others_their_own(grouped, tmp_path):
    assert grouped.objects.tolist() == OBJECTS
    assert [grouped.views_of(i).tolist() for i in range(COUNT)] == [[0, 3, 4], [1], [2], [0, 3, 4], [0, 3, 4]]
    alone = make(tmp_path, content())
    assert [alone.views_of(i).tolist() for i in range(COUNT)] == [[i] for i in range(COUNT)]


def test_views_respect_subsets_and_mirrored_copies(tmp_path):
    mirrored = make(tmp_path, content(objects=GROUPS), xflip=True)
    assert mirrored.views_of(3).tolist() == [0, 3, 4] and mirrored.views_of(8).tolist() == [5, 8, 9]
    subset = make(tmp_path, content(objects=GROUPS), max_size=3)
    kept = [subset.get_details(i).raw_idx for i in range(3)]
    for i, raw_idx in enumerate(kept):
        assert subset.views_of(i).tolist() == [j for j in range(3) if OBJECTS[kept[j]] == OBJECTS[raw_idx]]


def test_data_sets_with_a_number_of_views_have_groups_of_consecutive_images(tmp_path):
    assert make(tmp_path, content(views=2)).objects.tolist() == [0, 0, 1, 1, 2]
    assert make(tmp_path, content(views=1)).objects.tolist() == list(range(COUNT))
    assert make(tmp_path, content(views=2, objects=GROUPS)).objects.tolist() == OBJECTS


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ({"a": 1}, '"objects": expected a list of lists of image names'),
        ([name_of(0)], '"objects": expected a list of lists of image names'),
        ([[1, 2]], '"objects": expected a list of lists of image names'),
        ([[name_of(0), "x.png"]], '"objects": x.png is not an image of the data set'),
        ([[name_of(0), name_of(1)], [name_of(1)]], f'"objects": {name_of(1)} is listed twice'),
        ([[name_of(0), name_of(0)]], f'"objects": {name_of(0)} is listed twice'),
    ],
)
def test_invalid_objects_are_reported_with_their_file(tmp_path, objects, message):
    with pytest.raises(DataError) as error:
        make(tmp_path, content(objects=objects))
    assert message in str(error.value)
    assert error.value.problems[0].file == "dataset.json"


def test_names_in_groups_may_write_accents_another_way(tmp_path):
    # The image's name is in composed form (NFC), those of poses and groups are decomposed.
    image = image_files()[name_of(0)]
    names, decomposed = ["caf\u00e9.png", "b.png"], ["cafe\u0301.png", "b.png"]
    labels = [[name, good_poses()[0][1]] for name in decomposed]
    poses = {"dataset.json": json.dumps({"labels": labels, "objects": [decomposed]}).encode()}
    data = write_zip(tmp_path / "a.zip", dict.fromkeys(names, image) | poses)
    assert PosedImageDataset(data).objects.tolist() == [0, 0]


# --------------------------------------------------------------------------- pairs


def test_targets_are_all_views_of_the_object_equally_often(grouped):
    pairs = ViewPairs(grouped, None, seed=1, other_views=True)
    poses = [pairs[Draw(3, position)]["target_pose"] for position in range(600)]
    counts = [sum(np.array_equal(pose, grouped.get_label(i)) for pose in poses) for i in range(COUNT)]
    assert counts[1] == counts[2] == 0 and sum(counts) == 600
    assert min(counts[0], counts[3], counts[4]) > 150  # expected 200, standard deviation 12


def test_a_pair_is_two_samples_and_the_depth_of_the_second(tmp_path):
    dataset = make(tmp_path, content(objects=GROUPS), xflip=True, mirror_pose=False)
    depth = make_depth(tmp_path)
    pairs = ViewPairs(dataset, depth, seed=0, other_views=True)
    for idx in range(len(dataset)):
        pair = pairs[Draw(idx, idx)]
        number = int(pair["target_depth"].max() / UNIT - 1) // 10 + (COUNT if idx >= COUNT else 0)
        assert number in dataset.views_of(idx)
        for key, value in dataset[idx].items():
            assert np.array_equal(pair[key], value)
            if key != "idx":
                assert np.array_equal(pair[f"target_{key}"], dataset[number][key])

        # Empty where nothing is: in the first column, the last one of mirrored samples.
        empty = pair["target_depth"][0].eq(0).all(0).nonzero().flatten().tolist()
        assert empty == [SIZE - 1 if idx >= COUNT else 0] and pair["target_depth"].dtype == torch.float32


def test_without_other_views_a_sample_is_its_own_target_and_decoded_once(grouped, monkeypatch):
    reads = []
    monkeypatch.setattr(grouped.images, "decode", lambda name, decode: reads.append(name) or np.zeros((3, 1, 1)))
    pairs = ViewPairs(grouped, None, seed=0, other_views=False)
    for position in range(20):
        pair = pairs[Draw(0, position)]
        assert pair["target_image"] is pair["image"] and np.array_equal(pair["target_pose"], pair["pose"])
    assert reads == [name_of(0)] * 20 and "target_depth" not in pair


def test_targets_depend_on_seed_and_position_only(grouped):
    def targets(seed, **options):
        stream = BatchStream(ViewPairs(grouped, None, seed, True), 4, seed=3, **options)
        return [pose.tolist() for batch in islice(stream, 6) for pose in batch["target_pose"]]

    # The same for other numbers of workers and after a resume; two processes share the draws of one.
    alone = targets(7)
    assert targets(7, workers=2) == alone != targets(8)
    assert targets(7, start=12)[:12] == alone[12:]
    shares = [targets(7, rank=rank, num_replicas=2) for rank in (0, 1)]
    assert [pose for both in zip(*shares, strict=True) for pose in both][:24] == alone


def test_samplers_give_positions_to_data_sets_of_pairs_only(grouped):
    pairs = ViewPairs(grouped, None, 0, True)
    indices = list(islice(InfiniteSampler(grouped, 1, 2, seed=5), 9))
    assert all(type(index) is int for index in indices)
    draws = list(islice(InfiniteSampler(pairs, 1, 2, seed=5), 9))
    assert draws == [Draw(index, 2 * i + 1) for i, index in enumerate(indices)]


def test_batches_of_pairs_report_missing_depth_by_its_name(tmp_path, grouped):
    files = {DEPTH_FILE: json.dumps({"world_units_per_level": UNIT}).encode()}
    depth = DepthImages(write_zip(tmp_path / "depth.zip", files))
    with pytest.raises(DataError, match=r"depth.zip: 00000/img0000000\d.png: no such file"):
        next(BatchStream(ViewPairs(grouped, depth, 0, True), 2))


@pytest.mark.parametrize("scale", ["-1", "0", "NaN", "Infinity", '"a"', "null"])
def test_the_scale_of_depth_must_be_a_positive_number(tmp_path, scale):
    depth = write_zip(tmp_path / "depth.zip", {DEPTH_FILE: f'{{"world_units_per_level": {scale}}}'.encode()})
    with pytest.raises(DataError, match=r"depth.json: .*expected .*number"):
        DepthImages(depth)
