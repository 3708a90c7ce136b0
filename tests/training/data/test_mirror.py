"""Left and right classes of mirrored label maps."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from small_data import COUNT, SIZE, image_files, label_files, png, write_zip
from small_training import SMALL, run, small_data

from applications.editor.classes import CLASS_NAMES
from dataset_tool import main
from dnnlib.errors import ConfigError
from training.data.dataset import PosedImageDataset
from training.data.mirror import TABLES, parse_pairs, swap_table
from training.data.sampler import Draw
from training.data.views import ViewPairs
from training.options import TrainingOptions

LEFT_EYE, RIGHT_EYE = 4, 5


def face(tmp_path):
    """Write a data set of a face whose left eye is in the left half of each label map and right eye in the right."""
    ids = np.ones((SIZE, SIZE), np.uint8)
    ids[4:6, 3:5], ids[4:6, 10:12] = LEFT_EYE, RIGHT_EYE
    labels = write_zip(tmp_path / "labels.zip", dict.fromkeys(label_files(), png(ids)))
    return write_zip(tmp_path / "images.zip", image_files()), labels, ids


def test_published_pairs_are_the_classes_named_left_and_right():
    names = CLASS_NAMES["seg2face"]
    named = [
        [names.index(name), names.index(name.replace("left", "right"))] for name in names if name.startswith("left ")
    ]
    assert TABLES["celebamask"] == named and len(named) == 3


def test_a_mirrored_face_has_its_left_eye_on_the_same_side(tmp_path):
    images, labels, ids = face(tmp_path)
    dataset = PosedImageDataset(images, labels, xflip=True, mirror_swaps=TABLES["celebamask"])
    np.testing.assert_array_equal(dataset[0]["mask"][0], ids)  # not the copy
    mirrored = dataset[COUNT]["mask"]
    assert mirrored.dtype == np.uint8 and mirrored.flags["C_CONTIGUOUS"]
    expected = ids[:, ::-1].copy()
    expected[ids[:, ::-1] == LEFT_EYE], expected[ids[:, ::-1] == RIGHT_EYE] = RIGHT_EYE, LEFT_EYE
    np.testing.assert_array_equal(mirrored[0], expected)
    assert np.nonzero(mirrored[0] == LEFT_EYE)[1].max() < SIZE / 2


def test_without_pairs_ids_are_those_of_the_published_loader(tmp_path):
    images, labels, ids = face(tmp_path)
    dataset = PosedImageDataset(images, labels, xflip=True)
    np.testing.assert_array_equal(dataset[COUNT]["mask"][0], ids[:, ::-1])


def test_the_other_view_of_a_pair_is_exchanged_too(tmp_path):
    images, labels, _ = face(tmp_path)
    dataset = PosedImageDataset(images, labels, xflip=True, mirror_swaps=[[LEFT_EYE, RIGHT_EYE]])
    pair = ViewPairs(dataset, None, seed=0, other_views=True)[Draw(COUNT, 0)]
    np.testing.assert_array_equal(pair["target_mask"], pair["mask"])


def test_drawings_have_no_classes(tmp_path):
    images, labels, _ = face(tmp_path)
    plain, swapped = (
        PosedImageDataset(images, labels, "edge", xflip=True, mirror_swaps=pairs)[COUNT]["mask"]
        for pairs in ([], [[250, 251]])
    )
    np.testing.assert_array_equal(plain, swapped)


def test_exchanging_twice_changes_nothing():
    table = swap_table([[4, 5], [0, 255]])
    np.testing.assert_array_equal(table[table], np.arange(256))
    assert table[[0, 4, 5, 6, 255]].tolist() == [255, 5, 4, 6, 0]


TEXTS = {  # text, number of classes -> pairs; None if it is refused
    ("4-5,6-7,8-9", 19): [[4, 5], [6, 7], [8, 9]],
    ("4-5, 6-7", 19): [[4, 5], [6, 7]],
    ("5-4", 6): [[5, 4]],
    ("0-255", 256): [[0, 255]],
    ("none", 2): [],
    ("celebamask", 19): [[4, 5], [6, 7], [8, 9]],
    ("celebamask", 6): None,
    ("4-6", 6): None,
    ("4-4", 19): None,
    ("4-5,5-6", 19): None,
    ("4", 19): None,
    ("4-5-6", 19): None,
    ("4-", 19): None,
    ("-1-2", 19): None,
    ("left-right", 19): None,
    ("4:5", 19): None,
    ("4-5;6-7", 19): None,
    ("", 19): None,
    (",", 19): None,
    ("²-³", 19): None,
    ("1-99999999999999999999", 19): None,
}


@pytest.mark.parametrize(("text", "classes"), TEXTS)
def test_pairs_are_read_or_refused_in_one_line(text, classes):
    expected = TEXTS[text, classes]
    if expected is not None:
        assert parse_pairs(text, classes) == expected
        return
    with pytest.raises(ConfigError, match="mirror_classes: got ") as caught:
        parse_pairs(text, classes)
    assert f"pairs of classes 0 to {classes - 1} like 4-5,6-7" in str(caught.value) and "\n" not in str(caught.value)


# --------------------------------------------------------------------------- command lines


def show(tmp_path, *options, code=0):
    images, labels, _ = face(tmp_path)
    words = ["show", "--data", images, "--mask_data", labels, "--output", tmp_path / "sheet.png", "--count", 2]
    result = CliRunner().invoke(main, [*map(str, words), "--overwrite", *options])
    assert result.exit_code == code, result.output
    return result.output


def test_show_says_what_becomes_of_the_classes(tmp_path):
    assert "Mirrored copies" not in show(tmp_path)
    assert "Mirrored copies keep all class ids; --mirror_classes exchanges left" in show(tmp_path, "--xflip")
    kept = np.asarray(Image.open(tmp_path / "sheet.png"))
    output = show(tmp_path, "--xflip", "--mirror_classes", "celebamask")
    assert "Mirrored copies exchange the classes 4-5, 6-7, 8-9." in output
    exchanged = np.asarray(Image.open(tmp_path / "sheet.png"))
    differs = (kept != exchanged).any(2).any(0)  # by column: of the two samples, only the second is a copy
    assert not differs[: len(differs) // 2].any() and differs[len(differs) // 2 :].any()
    assert "it needs --xflip" in show(tmp_path, "--mirror_classes", "4-5", code=2)
    output = show(tmp_path, "--xflip", "--mirror_classes", "4", code=2)
    assert output.startswith("Error: --mirror_classes: got '4', expected none, celebamask or pairs")


FACES_19 = {"cfg": "celeba", "semantic_channels": 19}
TRAINING = {  # options -> pairs of the run, and what is said
    "faces": ({**FACES_19, "mirror": True}, [[4, 5], [6, 7], [8, 9]], "exchange the classes 4-5, 6-7, 8-9."),
    "other faces": ({**FACES_19, "cfg": "ffhq", "mirror": True}, [[4, 5], [6, 7], [8, 9]], "exchange the classes"),
    "faces as published": ({**FACES_19, "mirror": True, "mirror_classes": "none"}, None, "keep all class ids"),
    "faces of other classes": ({**FACES_19, "semantic_channels": 12, "mirror": True}, None, "keep all class ids"),
    "faces without mirror": (FACES_19, None, None),
    "cats": ({"mirror": True}, None, "keep all class ids"),
    "own classes": ({"mirror": True, "mirror_classes": "2-3"}, [[2, 3]], "exchange the classes 2-3."),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return small_data(tmp_path_factory.mktemp("data"), count=2)


@pytest.mark.parametrize("case", TRAINING)
def test_training_exchanges_the_classes_of_its_table(tmp_path, data, case):
    options, pairs, said = TRAINING[case]
    output = run("-n", outdir=tmp_path, **{**SMALL, **options}, **data).output
    resolved = TrainingOptions.from_plain(json.loads(output[output.index("{") : output.rindex("}") + 1]))
    assert resolved.data.mirror_swaps == pairs
    assert ("Mirrored copies" in output) == (said is not None) and (said or "") in output
    assert "mirror_swaps" not in resolved.data.kwargs()  # which has the published form
    plain, dataset = PosedImageDataset(*data.values()), resolved.data.open()
    if pairs:
        expected = swap_table(pairs)[plain[1]["mask"][..., ::-1]]
        np.testing.assert_array_equal(dataset[len(plain) + 1]["mask"], expected)


def test_runs_of_earlier_versions_keep_their_ids(tmp_path, data):
    output = run("-n", outdir=tmp_path, **{**SMALL, "mirror": True}, **data).output
    plain = json.loads(output[output.index("{") : output.rindex("}") + 1])
    del plain["data"]["mirror_swaps"]
    dataset = TrainingOptions.from_plain(plain).data.open()
    np.testing.assert_array_equal(dataset[2]["mask"], dataset[0]["mask"][..., ::-1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mirror": True, "mirror_classes": "2-7"}, "--mirror_classes: got '2-7', expected none, celebamask or pairs"),
        ({"mirror": True, "mirror_classes": "celebamask"}, "--mirror_classes: got 'celebamask'"),
        ({"mirror": True, "mirror_classes": ""}, "--mirror_classes: got ''"),
    ],
)
def test_classes_that_the_network_does_not_have_are_refused(tmp_path, data, options, message):
    result = run("-n", outdir=tmp_path, **{**SMALL, **options}, **data)
    assert result.exit_code == 2 and message in result.output and result.output.count("\n") == 1


def test_pairs_without_mirrored_copies_are_reported(tmp_path, data):
    output = run("-n", outdir=tmp_path, **SMALL, mirror_classes="2-3", **data).output
    assert "--mirror_classes has no effect: it needs --mirror=True and --data_type=seg" in output
