"""Fingerprints of data sets: equal wherever the data are, different after every change."""

import json

import numpy as np
import pytest
from small_data import dataset_json, good_poses, image_files, label_files, name_of, png, write_folder, write_zip

from training.data.archive import DataError
from training.data.dataset import PosedImageDataset
from training.data.depth_maps import DepthImages
from training.data.fingerprint import find_difference, take_fingerprint

COUNT = 5
SIZE = 16


def depth_files(scale=1e-4, level=3):
    image = png(np.full((SIZE, SIZE), level, np.uint16))
    return {name_of(i): image for i in range(COUNT)} | {
        "depth.json": json.dumps({"world_units_per_level": scale}).encode()
    }


def fingerprint(directory, images=None, label_maps=None, depth=None, write=write_zip):
    """Return the fingerprint of a data set of these files; by default, the same ones."""
    directory.mkdir(exist_ok=True)
    image_path = write(directory / "images", images or image_files(COUNT))
    dataset = PosedImageDataset(image_path, write(directory / "labels", label_maps or label_files(COUNT)))
    return take_fingerprint(dataset, DepthImages(write(directory / "depth", depth)) if depth else None)


def test_equal_data_have_the_same_fingerprint_in_a_zip_in_a_folder_and_in_a_folder_in_a_zip(tmp_path):
    def write_nested(path, files):
        return write_zip(path, {f"top/{name}": content for name, content in files.items()})

    writers = (write_zip, write_folder, write_nested)
    first, *others = [fingerprint(tmp_path / write.__name__, depth=depth_files(), write=write) for write in writers]
    for other in others:
        assert find_difference(first, other) is None
    assert find_difference(json.loads(json.dumps(first)), first) is None  # as written to a file


def poses(change):
    """Return images and poses, one number of which is different."""
    labels = good_poses(COUNT)
    labels[-1][1][11] += change
    return image_files(COUNT) | {"dataset.json": dataset_json(labels)}


ONE_OBJECT = {"labels": good_poses(COUNT), "objects": [[name_of(0), name_of(1)]]}
RENAMED = {name: content for name, content in image_files(COUNT).items() if name != name_of(4)}
RENAMED |= {
    "00000/other.png": image_files(COUNT)[name_of(4)],
    "dataset.json": dataset_json([*good_poses(COUNT - 1), ["00000/other.png", good_poses(COUNT)[-1][1]]]),
}
SAME_SIZE = label_files(COUNT)[name_of(1)][:-1] + b"\0"  # the last byte of a checksum that is not read

CHANGES = {
    "number": ({"images": image_files(6), "label_maps": label_files(6)}, "images", "5, now 6"),
    "name": (
        {"images": RENAMED, "label_maps": label_files(COUNT) | {"00000/other.png": label_files(COUNT)[name_of(4)]}},
        "images", "other names",
    ),
    "pose": ({"images": poses(1e-3)}, "images", "other poses"),
    "objects": ({"images": image_files(COUNT) | {"dataset.json": json.dumps(ONE_OBJECT)}}, "images", "other objects"),
    "image": ({"images": image_files(COUNT) | {name_of(2): png(np.zeros((SIZE, SIZE, 3), np.uint8))}}, "images",
              "other sizes"),
    "label map": ({"label_maps": label_files(COUNT) | {name_of(1): SAME_SIZE}}, "label maps", "other content"),
    "new depth": ({"depth": depth_files()}, "depth maps", "there were none"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_of_the_data_is_found(tmp_path, change):
    files, kind, reason = CHANGES[change]
    before, now = fingerprint(tmp_path / "before"), fingerprint(tmp_path / "now", **files)
    assert find_difference(before, now) == (kind, reason)


@pytest.mark.parametrize(
    ("depth", "reason"),
    [(None, "there are none now"), (depth_files(scale=2e-4), "other scale"), (depth_files(level=4), "other content")],
)
def test_each_change_of_the_depth_is_found(tmp_path, depth, reason):
    before, now = (fingerprint(tmp_path / str(files is None), depth=files) for files in (depth_files(), depth))
    assert find_difference(before, now) == ("depth maps", reason)


def test_a_depth_map_that_is_missing_is_named(tmp_path):
    files = depth_files()
    del files[name_of(3)]
    with pytest.raises(DataError, match=r"depth: 00000/img00000003.png: no such file"):
        fingerprint(tmp_path, depth=files)


def test_files_of_a_large_data_set_are_sampled_from_the_first_to_the_last(tmp_path, monkeypatch):
    monkeypatch.setattr("training.data.fingerprint.SAMPLED_FILES", 3)
    before = fingerprint(tmp_path / "before")
    for number, found in ((0, True), (1, False), (2, True), (3, False), (4, True)):
        content = label_files(COUNT)[name_of(number)]
        changed = label_files(COUNT) | {name_of(number): content[:-1] + bytes([content[-1] ^ 1])}
        difference = find_difference(before, fingerprint(tmp_path / "now", label_maps=changed))
        assert difference == (("label maps", "other content") if found else None)
