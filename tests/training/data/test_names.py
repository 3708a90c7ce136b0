"""Tests of names of files: one normal form on every side, folders around a data set, and files that are not read."""

import json
import unicodedata

import numpy as np
import pytest
from click.testing import CliRunner
from small_data import good_poses, image_files, label_files, name_of, png, write_folder, write_zip

from dataset_tool import main
from training.data.archive import Archive, DataError, normalize_name
from training.data.dataset import PosedImageDataset
from training.data.index import describe_unread

FORMS = {
    "a/b.png": "a/b.png",
    "a\\b.png": "a/b.png",
    "./a/b.png": "a/b.png",
    ".\\a\\b.png": "a/b.png",
    "a//b.png": "a/b.png",
    "a/./b.png": "a/b.png",
    "././b.png": "b.png",
    unicodedata.normalize("NFD", "Kätzchen/é.png"): unicodedata.normalize("NFC", "Kätzchen/é.png"),
    "a b/c.d.png": "a b/c.d.png",
    "a/../b.png": "a/../b.png",
}


@pytest.mark.parametrize("name", FORMS)
def test_names_have_one_normal_form(name):
    assert normalize_name(name) == FORMS[name]


def renamed(files, rename):
    return {name if name == "dataset.json" else rename(name): content for name, content in files.items()}


def with_poses(files, rename):
    labels = [[rename(name), pose] for name, pose in good_poses()]
    return files | {"dataset.json": json.dumps({"labels": labels}).encode()}


def in_folder(files, folder="my data"):
    return {f"{folder}/{name}": content for name, content in files.items()}


def to_windows(name):
    return name.replace("/", "\\")


def to_dots(name):
    return f"./{name}"


IMAGES, LABELS = image_files(), label_files()
SAME = {  # images, label maps
    "backslashes in the zip": (renamed(IMAGES, to_windows), LABELS),
    "backslashes in dataset.json": (with_poses(IMAGES, to_windows), LABELS),
    "backslashes in both": (with_poses(renamed(IMAGES, to_windows), to_windows), renamed(LABELS, to_windows)),
    "backslashes of label maps": (IMAGES, renamed(LABELS, to_windows)),
    "./ in the zip": (renamed(IMAGES, to_dots), LABELS),
    "./ in dataset.json": (with_poses(IMAGES, to_dots), LABELS),
    ".\\ in dataset.json": (with_poses(IMAGES, lambda name: ".\\" + to_windows(name)), LABELS),
    "./ of label maps": (IMAGES, renamed(LABELS, to_dots)),
    "// in dataset.json": (with_poses(IMAGES, lambda name: name.replace("/", "//")), LABELS),
    "a folder around all": (in_folder(IMAGES), LABELS),
    "a folder around label maps": (IMAGES, in_folder(LABELS)),
    "two folders": (in_folder(IMAGES), in_folder(LABELS, "labels")),
    "a folder of Windows around all": (renamed(in_folder(IMAGES), to_windows) , LABELS),
    "a folder, and shadows of macOS": (in_folder(IMAGES) | {"__MACOSX/my data/._x.png": b"x"}, LABELS),
    "a folder, and hidden files": (in_folder(IMAGES) | {".DS_Store": b"x", "my data/.DS_Store": b"x"}, LABELS),
    "label maps without their folder": (IMAGES, {name.split("/")[1]: content for name, content in LABELS.items()}),
}  # fmt: skip


@pytest.mark.parametrize("case", SAME)
def test_names_in_other_forms_give_the_same_samples(tmp_path, case):
    expected = PosedImageDataset(write_zip(tmp_path / "a.zip", IMAGES), write_zip(tmp_path / "b.zip", LABELS))
    images, label_maps = SAME[case]
    dataset = PosedImageDataset(
        write_zip(tmp_path / "c.zip", images), write_zip(tmp_path / "d.zip", label_maps), semantic_channels=6
    )
    assert dataset.index.images == expected.index.images
    for number in range(len(expected)):
        assert all(np.array_equal(dataset[number][key], value) for key, value in expected[number].items())


def test_folders_of_label_maps_are_matched_below_a_common_one(tmp_path):
    content = png(np.zeros((16, 16), np.uint8))
    other = png(np.ones((16, 16), np.uint8))
    images = write_zip(tmp_path / "i.zip", dict.fromkeys(["x/1.png", "y/1.png"], IMAGES[name_of(0)]))
    labels = write_zip(tmp_path / "l.zip", {"masks/x/1.png": content, "masks/y/1.png": other})
    dataset = PosedImageDataset(images, labels, use_labels=False)
    assert [int(dataset[i]["mask"].max()) for i in (0, 1)] == [0, 1]


def test_two_files_with_one_name_in_normal_form_are_refused(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"a/b.png": b"1", "a\\b.png": b"2"})
    with pytest.raises(DataError, match=r"a/b\.png: two files have this name"):
        Archive(path)


def test_a_directory_with_a_folder_around_all_is_read(tmp_path):
    archive = Archive(write_folder(tmp_path / "data", in_folder(IMAGES)))
    assert archive.read(name_of(1)) == IMAGES[name_of(1)] and "dataset.json" in archive


def test_a_folder_of_photos_without_dataset_json_keeps_its_name(tmp_path):
    assert Archive(write_zip(tmp_path / "a.zip", {"x/1.png": b"", "x/2.png": b""})).names == ["x/1.png", "x/2.png"]


# --------------------------------------------------------------------------- files that are not read

PHOTO = png(np.zeros((20, 20, 3), np.uint8))
UNREAD = {"b.heic": b"x", "c.NEF": b"x", "d.heic": b"x", "notes.txt": b"x", "README": b"x"}


def run(*arguments, code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_files_that_are_not_read_are_counted_and_named(tmp_path):
    folder = write_folder(tmp_path / "photos", {"a.png": PHOTO, **UNREAD, ".hidden": b"", "transforms.json": b"{}"})
    phrase = "5 files are not read (2 .heic, 1 without extension, 1 .nef): README, b.heic, c.NEF, ..."
    assert describe_unread(Archive(folder)) == phrase
    output = run("pack", "--images", folder, "--front", "--resolution", 16, "--output", tmp_path / "o.zip")
    assert f"photos: {phrase}" in output and "1 images" in output
    assert f"photos: {phrase}" in run("check", "--data", folder, code=1)


def test_nothing_is_said_if_all_files_are_read(tmp_path):
    names = ["a.png", "b.JPG", "c.jpeg", "d.jfif", "e.webp", "f.bmp", "g.tif", "h.tiff", "i.gif"]
    folder = write_folder(tmp_path / "photos", dict.fromkeys(names, PHOTO))
    assert describe_unread(Archive(folder)) == ""
    output = run("pack", "--images", folder, "--front", "--resolution", 16, "--output", tmp_path / "o.zip")
    assert "9 images" in output and "not read" not in output


def test_a_folder_without_images_says_what_is_there(tmp_path):
    folder = write_folder(tmp_path / "photos", UNREAD)
    output = run("pack", "--images", folder, "--front", "--output", tmp_path / "o.zip", code=2)
    assert "contains no images (.png" in output and "5 files are not read (2 .heic" in output


def test_a_label_map_that_is_not_read_is_named_beside_its_image(tmp_path):
    images = write_folder(tmp_path / "photos", {"a.png": PHOTO, "b.png": PHOTO})
    labels = write_folder(tmp_path / "labels", {"a.npy": b"x", "b.bmp": PHOTO})
    output = run("pack", "--images", images, "--label-maps", labels, "--front", "--output", tmp_path / "o.zip",
                 "--label-output", tmp_path / "l.zip", code=2)  # fmt: skip
    assert "a.png: no label map of that name in labels; a.npy is not read, save it as PNG" in output


def test_pack_reads_void_as_background(tmp_path):
    images = write_folder(tmp_path / "photos", {"a.png": PHOTO})
    labels = write_folder(tmp_path / "labels", {"a.png": png(np.full((20, 20), 255, np.uint8))})
    packed = tmp_path / "o.zip", tmp_path / "l.zip"
    run("pack", "--images", images, "--label-maps", labels, "--front", "--resolution", 16, "--ignore", 255,
        "--output", packed[0], "--label-output", packed[1])  # fmt: skip
    assert not PosedImageDataset(*packed, semantic_channels=1)[0]["mask"].any()
    output = run("pack", "--images", images, "--front", "--output", packed[0], "--ignore", 255, code=2)
    assert "--ignore maps class ids: it needs --label-maps" in output


def test_pack_refuses_label_maps_as_drawings(tmp_path):
    images = write_folder(tmp_path / "photos", {"a.png": PHOTO})
    colors = np.full((20, 20, 3), 255, np.uint8)
    colors[:8] = (204, 0, 0)
    labels = write_folder(tmp_path / "labels", {"a.png": png(colors)})
    output = run("pack", "--images", images, "--label-maps", labels, "--front", "--data_type", "edge",
                 "--output", tmp_path / "o.zip", "--label-output", tmp_path / "l.zip", code=2)  # fmt: skip
    assert "a.png: 40% of its pixels have a color; expected dark lines on white" in output
