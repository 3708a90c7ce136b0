import io
import os
import unicodedata
import zipfile
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import golden
from PIL import Image
from small_data import (
    COUNT,
    SIZE,
    dataset_json,
    good_poses,
    gray_png,
    image_files,
    label_files,
    name_of,
    png,
    write_folder,
    write_zip,
)

from camera_utils import mirror_pose
from training.data.archive import MAX_MEMBER_BYTES, Archive, DataError
from training.data.checks import check_dataset
from training.data.dataset import (
    PUBLISHED,
    PosedImageDataset,
)
from training.data.index import build_index
from training.data.sampler import RANDOM_BLOCK, BatchStream, InfiniteSampler

VARIANTS = golden.manifest("dataset")["variants"]
DATA_TYPES = {"ImageSegFolderDataset": "seg", "ImageEdgeFolderDataset": "edge", "ImageFolderDataset": "seg"}


def open_variant(variant, **extra):
    spec = VARIANTS[variant]
    kwargs = dict(spec["kwargs"])
    for key in ("path", "mask_path"):
        if key in kwargs:
            kwargs[key] = golden.HERE / kwargs[key]
    return PosedImageDataset(data_type=DATA_TYPES[spec["cls"]], **kwargs, **extra), spec


@pytest.mark.parametrize("variant", VARIANTS)
def test_samples_equal_the_published_samples_exactly(variant):
    dataset, spec = open_variant(variant, mirror_pose=False)
    expected = golden.load("dataset")
    assert len(dataset) == spec["length"]
    for key in ("resolution", "has_labels", "name"):
        assert getattr(dataset, key) == spec[key]
    assert dataset[0]["image"].shape == (spec["num_channels"], spec["resolution"], spec["resolution"])
    assert list(dataset.get_label(0).shape) == spec["label_shape"]
    details = [dataset.get_details(i) for i in range(len(dataset))]
    assert [d.raw_idx for d in details] == spec["raw_idx"]
    assert [int(d.xflip) for d in details] == spec["flipped"]
    for i in spec["indices"]:
        sample = dataset[i]
        assert sample["idx"] == i
        for key in ("image", "mask", "pose"):
            if f"{variant}.{i}.{key}" in expected:
                np.testing.assert_array_equal(sample[key], expected[f"{variant}.{i}.{key}"])
                assert sample[key].dtype == expected[f"{variant}.{i}.{key}"].dtype
    if spec["has_labels"]:
        np.testing.assert_array_equal(dataset.get_label_std(), expected[f"{variant}.label_std"])


@pytest.mark.parametrize("name", golden.manifest("dataset")["samplers"])
def test_sampler_has_the_published_order(name):
    options = golden.manifest("dataset")["samplers"][name]
    walk = iter(InfiniteSampler(range(8), **options))
    assert [next(walk) for _ in range(40)] == golden.load("dataset")[name].tolist()


# --------------------------------------------------------------------------- forms


def make(tmp_path, images=write_zip, labels=write_zip, **files):
    """Write a small data set and return its paths; `image_files` and `label_files` replace its content."""
    return (
        images(tmp_path / "images.zip", files.get("image_files", image_files())),
        labels(tmp_path / "labels.zip", files.get("label_files", label_files())),
    )


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("images", [write_zip, write_folder])
@pytest.mark.parametrize("labels", [write_zip, write_folder])
def test_zips_and_directories_give_the_same_samples(tmp_path, images, labels):
    expected = PosedImageDataset(*make(tmp_path), xflip=True)
    (tmp_path / "other").mkdir()
    dataset = PosedImageDataset(*make(tmp_path / "other", images, labels), xflip=True, semantic_channels=6)
    assert len(dataset) == 2 * COUNT
    assert all(same(dataset[i], expected[i]) for i in range(len(dataset)))
    assert dataset.name == "images" if images is write_zip else "images.zip"


def test_label_maps_are_matched_by_name_and_not_by_position(tmp_path):
    files = label_files()
    del files[name_of(0)]
    files["00000/zzz.png"] = files[name_of(1)]  # as many files as images, but not the same
    with pytest.raises(DataError, match=r"img00000000\.png: no label map of that name"):
        PosedImageDataset(*make(tmp_path, label_files=files))


def test_label_maps_in_another_directory_are_matched_by_file_name(tmp_path):
    moved = {f"masks/{name.split('/')[1]}": content for name, content in label_files().items()}
    expected = PosedImageDataset(*make(tmp_path))
    (tmp_path / "moved").mkdir()
    dataset = PosedImageDataset(*make(tmp_path / "moved", label_files=moved))
    assert all(same(dataset[i], expected[i]) for i in range(COUNT))


def test_images_in_two_directories_never_share_a_label_map(tmp_path):
    image, label, pose = image_files()[name_of(0)], label_files()[name_of(0)], good_poses()[0][1]
    images = {"x/1.png": image, "y/1.png": image, "dataset.json": dataset_json([["x/1.png", pose], ["y/1.png", pose]])}
    with pytest.raises(DataError, match=r"x/1\.png: no label map of that name in labels\.zip \(and 1 more"):
        PosedImageDataset(*make(tmp_path, image_files=images, label_files={"m/1.png": label}))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_gray_label_maps_keep_their_values_at_any_bit_depth(tmp_path, bits):
    ids = np.arange(SIZE * SIZE, dtype=np.uint8).reshape(SIZE, SIZE) % min(2**bits, 6)
    files = dict.fromkeys(label_files(), gray_png(ids, bits))
    dataset = PosedImageDataset(*make(tmp_path, label_files=files), semantic_channels=6)
    np.testing.assert_array_equal(dataset[2]["mask"][0], ids)


def test_palette_label_maps_keep_their_indices(tmp_path):
    ids = (np.arange(SIZE * SIZE) % 6).reshape(SIZE, SIZE).astype(np.uint8)
    image = Image.fromarray(ids, "P")
    image.putpalette([255, 0, 0, 0, 255, 0] * 3)
    files = dict.fromkeys(label_files(), png(image))
    dataset = PosedImageDataset(*make(tmp_path, label_files=files), semantic_channels=6)
    np.testing.assert_array_equal(dataset[2]["mask"][0], ids)


def test_transparent_pixels_of_images_become_white(tmp_path):
    clear = png(np.zeros((SIZE, SIZE, 4), np.uint8))
    files = image_files() | {name_of(1): clear}
    assert (PosedImageDataset(*make(tmp_path, image_files=files))[1]["image"] == 255).all()


def test_accented_names_match_in_either_unicode_form(tmp_path):
    image, label = image_files()[name_of(0)], label_files()[name_of(0)]
    composed, split = unicodedata.normalize("NFC", "Kätzchen 猫.png"), unicodedata.normalize("NFD", "Kätzchen 猫.png")
    poses = dataset_json([[composed, good_poses()[0][1]]])
    paths = make(tmp_path, image_files={split: image, "dataset.json": poses}, label_files={composed: label})
    assert PosedImageDataset(*paths)[0]["pose"][0] == np.float32(good_poses()[0][1][0])


def test_a_mirrored_copy_has_the_mirrored_pose(tmp_path):
    dataset = PosedImageDataset(*make(tmp_path), xflip=True)
    plain, mirrored = dataset[1], dataset[1 + COUNT]
    np.testing.assert_array_equal(mirrored["image"], plain["image"][..., ::-1])
    np.testing.assert_array_equal(mirrored["mask"], plain["mask"][..., ::-1])
    expected = mirror_pose(torch.from_numpy(plain["pose"])[None])[0].numpy()
    np.testing.assert_array_equal(mirrored["pose"], expected)


def test_label_std_is_empty_without_poses(tmp_path):
    assert PosedImageDataset(*make(tmp_path), use_labels=False).get_label_std().shape == (0,)


def test_changing_a_sample_does_not_change_the_data_set(tmp_path):
    dataset = PosedImageDataset(*make(tmp_path))
    before = dataset[0]["pose"].copy()
    dataset[0]["pose"][:] = 0
    np.testing.assert_array_equal(dataset[0]["pose"], before)


def test_published_data_sets_open_in_a_data_directory(tmp_path):
    for files, writer in ((image_files(), "afhq_v2_train_cat_512.zip"), (label_files(), "afhqcat_seg_6c.zip")):
        write_zip(tmp_path / writer, files)
    dataset = PUBLISHED["seg2cat"].open(tmp_path)
    assert (len(dataset), dataset.data_type) == (COUNT, "seg")
    with pytest.raises(DataError, match=r"cars_128\.zip: no such file"):
        PUBLISHED["edge2car"].open(tmp_path)


# --------------------------------------------------------------------------- workers and position


def test_two_workers_give_the_same_thousand_samples_as_none(tmp_path):
    dataset = PosedImageDataset(*make(tmp_path), xflip=True)
    assert len(dataset[0]["image"])  # a handle is open before the workers fork
    serial, parallel = (BatchStream(dataset, 50, workers=n, seed=3) for n in (0, 2))
    for _ in range(20):
        a, b = next(serial), next(parallel)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("workers", [0, 2])
def test_stream_continues_at_its_saved_position(tmp_path, workers):
    dataset = PosedImageDataset(*make(tmp_path))
    stream = BatchStream(dataset, 4, workers=workers, seed=1)
    for _ in range(3):
        next(stream)
    state = stream.state_dict()
    ahead = [next(stream)["idx"].tolist() for _ in range(4)]
    other = BatchStream(dataset, 4, workers=workers, seed=1)
    other.load_state_dict(state)
    assert [next(other)["idx"].tolist() for _ in range(4)] == ahead
    assert state == {"position": 12}


def test_two_processes_together_have_the_order_of_one(tmp_path):
    alone = list(islice(InfiniteSampler(range(7), seed=5, start=12), 20))
    parts = [list(islice(InfiniteSampler(range(7), rank, 2, seed=5, start=12), 10)) for rank in (0, 1)]
    assert [index for pair in zip(*parts, strict=True) for index in pair] == alone


def test_start_beyond_one_block_of_random_numbers_continues_the_order():
    start = RANDOM_BLOCK - 3
    whole = list(islice(InfiniteSampler(range(50), seed=2), start + 10))
    assert list(islice(InfiniteSampler(range(50), seed=2, start=start), 10)) == whole[start:]


def test_invalid_sampler_arguments_raise():
    with pytest.raises(ValueError, match="rank: got 2, allowed 0 to 1"):
        InfiniteSampler(range(4), rank=2, num_replicas=2)
    with pytest.raises(ValueError, match="start: got 3, expected 0 or a multiple of the 2"):
        InfiniteSampler(range(4), num_replicas=2, start=3)
    with pytest.raises(ValueError, match="start: got -4"):
        InfiniteSampler(range(4), start=-4)
    with pytest.raises(ValueError, match="start: got 3, expected 0 or a multiple of the 2"):
        BatchStream(range(4), 1, num_replicas=2).load_state_dict({"position": 3})
    with pytest.raises(ValueError, match="empty"):
        InfiniteSampler([])


# --------------------------------------------------------------------------- broken data sets


def _pose_with(number, value):
    labels = good_poses()
    labels[1][1][number] = value
    return {"dataset.json": dataset_json(labels)}


def _jpeg(image):
    file = io.BytesIO()
    image.save(file, "jpeg")
    return file.getvalue()


A = name_of(1)
GRAY16 = Image.fromarray(np.zeros((SIZE, SIZE), np.uint16))
BROKEN_IMAGES = {  # case -> changed files (None: deleted), and the expected file and reason
    "empty": (dict.fromkeys(image_files()), "images.zip: contains no images"),
    "no dataset.json": ({"dataset.json": None}, "dataset.json: missing"),
    "dataset.json is no JSON": ({"dataset.json": b"{"}, "dataset.json: expected {"),
    "labels is null": ({"dataset.json": b'{"labels": null}'}, "dataset.json: expected {"),
    "dataset.json without labels": ({"dataset.json": b"{}"}, "dataset.json: expected {"),
    "a pose is missing": ({"dataset.json": dataset_json(good_poses()[:1] + good_poses()[2:])}, f"{A}: no pose"),
    "a pose of 24 numbers": (
        {"dataset.json": dataset_json([[n, p[: 24 if n == A else 25]] for n, p in good_poses()])},
        f"{A}: pose: expected 25 numbers",
    ),
    "a pose with text": (_pose_with(3, "x"), f"{A}: pose: expected 25 numbers"),
    "a NaN pose": (_pose_with(3, float("nan")), f"{A}: pose: holds NaN or infinity"),
    "an infinite pose": (_pose_with(3, float("inf")), f"{A}: pose: holds NaN or infinity"),
    "axes that are no rotation": (_pose_with(0, 0.2), f"{A}: pose: the axes of cam2world are not orthonormal"),
    "a camera that looks away": (_pose_with(11, -5.0), f"{A}: pose: the camera looks away"),
    "intrinsics in pixels": (_pose_with(24, 512), f"{A}: pose: the last row of the intrinsics"),
    "the same name twice": (
        {A.replace(".png", ".jpg"): _jpeg(GRAY16.convert("L"))},
        f"{A}: same name without extension",
    ),
    "another size": ({A: png(np.zeros((32, 32, 3), np.uint8))}, f"{A}: 32x32 pixels, expected 16x16"),
    "not square": ({A: png(np.zeros((16, 32, 3), np.uint8))}, f"{A}: 32x16 pixels, images must be square"),
    "no power of two": ({A: png(np.zeros((12, 12, 3), np.uint8))}, f"{A}: 12x12 pixels, images must be square and"),
    "CMYK": ({A: _jpeg(Image.new("CMYK", (SIZE, SIZE)))}, f"{A}: mode CMYK"),
    "16 bits": ({A: png(GRAY16)}, f"{A}: mode I;16"),
    "text with a image's name": ({A: b"hello"}, f"{A}: not a PNG or JPEG image"),
    "an image cut short": ({A: image_files()[A][:300]}, f"{A}: damaged image"),
    "two poses": ({"dataset.json": dataset_json([*good_poses(), good_poses()[1]])}, f"{A}: has two poses"),
    "an integer beyond all floats": (_pose_with(3, 10**400), f"{A}: pose: holds NaN or infinity"),
    "a number beyond float32": (_pose_with(3, 1e300), f"{A}: pose: holds NaN or infinity"),
    "a null pose": ({"dataset.json": dataset_json([*good_poses()[:1], [A, None]])}, f"{A}: pose: expected 25"),
    "a number as name": ({"dataset.json": dataset_json([[5, good_poses()[0][1]]])}, "dataset.json: expected {"),
    "deeply nested JSON": ({"dataset.json": b"[" * 100000}, "dataset.json: expected {"),
    "a bomb of pixels": ({A: png(Image.new("1", (40000, 40000)))}, f"{A}: too many pixels"),
    "a path outside the archive": ({"../escape.png": png(GRAY16)}, "../escape.png: path outside the archive"),
    "an absolute path": ({"/etc/escape.png": png(GRAY16)}, "/etc/escape.png: path outside the archive"),
    "a drive": ({"C:/escape.png": png(GRAY16)}, "C:/escape.png: path outside the archive"),
}
BROKEN_LABELS = {
    "a label map is missing": ({A: None}, f"{A}: no label map of that name"),
    "class 7 of 6": ({A: png(np.full((SIZE, SIZE), 7, np.uint8))}, f"{A}: got class 7, expected 0 to 5"),
    "a photo as label map": ({A: image_files()[A]}, "none of the 19 label colors; 256 such colors"),
    "a 16-bit label map": ({A: png(GRAY16)}, f"{A}: mode I;16"),
    "a label map of another size": ({A: png(np.zeros((8, 8), np.uint8))}, f"{A}: 8x8 pixels, its image has 16"),
    "a JPEG label map": ({A: _jpeg(GRAY16.convert("L"))}, f"{A}: JPEG changes class ids"),
    "a name twice among label maps": ({A.replace(".png", ".jpg"): b"x"}, f"labels.zip/{A}: same name without"),
    "a label map cut short": ({A: label_files()[A][:60]}, f"{A}: damaged image"),
}


def replaced(files, changes):
    return {name: content for name, content in (files | changes).items() if content is not None}


@pytest.mark.parametrize("case", [*BROKEN_IMAGES, *BROKEN_LABELS])
def test_invalid_data_set_is_rejected_with_file_and_reason(tmp_path, case):
    images = replaced(image_files(), BROKEN_IMAGES[case][0] if case in BROKEN_IMAGES else {})
    labels = replaced(label_files(), BROKEN_LABELS[case][0] if case in BROKEN_LABELS else {})
    _, message = (BROKEN_IMAGES | BROKEN_LABELS)[case]
    with pytest.raises(DataError) as caught:
        PosedImageDataset(*make(tmp_path, image_files=images, label_files=labels), semantic_channels=6)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated_zip_is_rejected(tmp_path):
    images, _ = make(tmp_path)
    images.write_bytes(images.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"images\.zip: not a complete zip"):
        PosedImageDataset(images)


def test_zip_bomb_is_rejected_by_its_declared_size(tmp_path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open(A, "w") as member:
        for _ in range(MAX_MEMBER_BYTES // (1 << 24) + 1):
            member.write(bytes(1 << 24))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(DataError, match=rf"{A}: declares \d+ bytes, expected at most"):
        PosedImageDataset(path)


def test_duplicate_zip_member_is_rejected(tmp_path):
    images, _ = make(tmp_path)
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(images, "a") as archive:
        archive.writestr(A, image_files()[A])
    with pytest.raises(DataError, match="is in the zip twice"):
        PosedImageDataset(images)


def test_damaged_zip_member_is_named(tmp_path):
    images, labels = make(tmp_path)
    content = image_files()[A]
    images.write_bytes(images.read_bytes().replace(content[40:60], bytes(20)))
    with pytest.raises(DataError, match=rf"{A}: cannot be read"):
        PosedImageDataset(images, labels, semantic_channels=6)


FLIPPED = {  # bytes of the zip's directory, by offset from the start of an entry
    "a zip version of the far future": {6: 200},
    "a name that claims to be UTF-8 and is not": {9: 8, 46: 0xFF},
    "an extra field longer than the directory": {30: 0xFF, 31: 0xFF},
    "no entry": {0: 0},
}


@pytest.mark.parametrize("case", FLIPPED)
def test_damaged_zip_directory_is_rejected(tmp_path, case):
    images, _ = make(tmp_path)
    content = bytearray(images.read_bytes())
    start = content.index(b"PK\x01\x02")
    for offset, byte in FLIPPED[case].items():
        content[start + offset] = byte
    images.write_bytes(content)
    with pytest.raises(DataError, match=r"images\.zip: not a complete zip"):
        PosedImageDataset(images)


def test_file_name_that_is_not_utf_8_is_rejected(tmp_path):
    folder = write_folder(tmp_path / "images", image_files())
    try:
        Path(os.fsdecode(os.fsencode(folder) + b"/\xff.png")).write_bytes(b"")
    except OSError:
        pytest.skip("this file system only holds UTF-8 names")
    with pytest.raises(DataError, match=r": \\xff\.png: the file name is not UTF-8"):
        PosedImageDataset(folder)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="an administrator may read every folder")
def test_unreadable_directory_is_rejected(tmp_path):
    folder = write_folder(tmp_path / "images", image_files())
    (folder / "00000").chmod(0)
    with pytest.raises(DataError, match="00000: cannot be read"):
        PosedImageDataset(folder)


def test_drawing_that_is_not_square_is_rejected(tmp_path):
    white = png(np.full((SIZE, SIZE), 255, np.uint8))
    files = dict.fromkeys(label_files(), white) | {A: png(np.zeros((SIZE, 4 * SIZE), np.uint8))}
    paths = make(tmp_path, label_files=files)
    with pytest.raises(DataError, match=rf"{A}: 64x16 pixels, drawings must be square"):
        PosedImageDataset(*paths, "edge", semantic_channels=1)
    with pytest.raises(DataError, match=rf"{A}: 64x16 pixels, drawings must be square"):
        PosedImageDataset(*paths, "edge")[1]


def test_link_to_a_directory_and_broken_link_are_rejected(tmp_path):
    folder = write_folder(tmp_path / "images", image_files())
    (folder / "linked").symlink_to(tmp_path)
    with pytest.raises(DataError, match="linked: symbolic link to a directory"):
        PosedImageDataset(folder)
    (folder / "linked").unlink()
    (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match=r"gone\.png: not a regular file, or a broken link"):
        PosedImageDataset(folder)


def test_all_problems_are_collected_and_counted_in_the_message(tmp_path):
    wrong = png(np.full((SIZE, SIZE), 9, np.uint8))
    paths = make(tmp_path, label_files=dict.fromkeys(label_files(), wrong))
    with pytest.raises(DataError, match=r"got class 9.*\(and 4 more; ") as caught:
        PosedImageDataset(*paths, semantic_channels=6)
    assert len(caught.value.problems) == COUNT


def test_only_images_are_reported_if_none_can_be_read(tmp_path, recwarn):
    images = {name: b"hello" if name.endswith("png") else content for name, content in image_files().items()}
    image_archive, label_maps = (Archive(path) for path in make(tmp_path, image_files=images))
    index = build_index(image_archive, label_maps, use_labels=True)
    for data_type in ("seg", "edge"):
        problems = check_dataset(image_archive, label_maps, index, data_type).problems
        assert [problem.file for problem in problems] == [f"images.zip/{name}" for name in index.images]
    assert not recwarn.list


def test_data_error_in_a_worker_reaches_the_consumer_unchanged(tmp_path):
    files = image_files() | {name_of(3): b"hello"}
    stream = BatchStream(PosedImageDataset(*make(tmp_path, image_files=files)), 2 * COUNT, workers=1)
    reason = "not a PNG or JPEG image, nor WebP, BMP, GIF or TIFF"
    with pytest.raises(DataError, match=rf"images\.zip: 00000/img00000003\.png: {reason}$"):
        next(stream)


def test_hidden_files_are_ignored(tmp_path):
    files = image_files() | {"__MACOSX/00000/._img.png": b"x", ".DS_Store": b"x", "notes.txt": b"x"}
    assert len(PosedImageDataset(*make(tmp_path, image_files=files), semantic_channels=6)) == COUNT


def test_invalid_data_set_arguments_raise(tmp_path):
    images, labels = make(tmp_path)
    with pytest.raises(ValueError, match="data_type: got 'depth', allowed are seg, edge"):
        PosedImageDataset(images, labels, "depth")
    with pytest.raises(DataError, match="16 pixels, expected 512"):
        PosedImageDataset(images, labels, resolution=512)
