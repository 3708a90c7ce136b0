"""--classes, --ignore and --fit of the applications and the editor, and label maps in the forms that people have."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from image_files import encode
from metric_data import tiny_network
from PIL import Image

from applications import edit, extract_mesh, generate_samples, generate_video
from inference.generator import load_generator
from inference.inputs import to_label_map
from training.data.label_maps import LabelMapOptions, colorize

IDS = np.zeros((6, 8), np.uint8)
IDS[1:5, 2:6] = np.arange(16).reshape(4, 4) % 5
FOREIGN = IDS * 10
TABLE = {str(number * 10): number for number in range(5)}
MAINS = {"samples": generate_samples.main, "video": generate_video.main, "mesh": extract_mesh.main, "edit": edit.main}


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return tiny_network(tmp_path_factory.mktemp("network") / "cats.pt")


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table.json"
    path.write_text(json.dumps(TABLE))
    return path


def run(application, *words):
    return CliRunner().invoke(MAINS[application], [str(word) for word in words])


def written(path, content):
    path.write_bytes(content)
    return path


def read_back(path):
    """Return the class ids of the input that an application has written, at the size of the network."""
    return np.array(Image.open(path))


PADDED = np.vstack([np.zeros((1, 8), np.uint8), IDS, np.zeros((1, 8), np.uint8)])
CASES = {  # file, options -> 8x8 or 6x6 ids
    "a table": (encode(FOREIGN), ["--classes", "table", "--fit", "crop"], IDS[:, 1:7]),
    "padded": (encode(IDS), ["--fit", "pad"], PADDED),
    "void": (encode(np.where(IDS == 0, 255, IDS).astype(np.uint8)), ["--ignore", 255, "--fit", "crop"], IDS[:, 1:7]),
    "turned, in three channels": (encode(np.dstack([PADDED] * 3), exif=6), [], np.rot90(PADDED, -1)),
}


@pytest.mark.parametrize("case", CASES)
def test_input_is_read_by_the_options(network, table, tmp_path, case):
    content, options, expected = CASES[case]
    file = written(tmp_path / "a.png", content)
    options = [table if word == "table" else word for word in options]
    result = run("samples", "--network", network, "--cfg", "seg2cat", "--device", "cpu", "--input", file,
                 "--outdir", tmp_path / "out", *options)  # fmt: skip
    assert result.exit_code == 0, result.output
    shown = read_back(tmp_path / "out" / "seg2cat_a_input.png")
    rows = np.arange(len(shown)) * len(expected) // len(shown)
    assert np.array_equal(shown, colorize(expected[np.ix_(rows, rows)]))


def test_options_of_the_python_api_apply_to_files_images_and_arrays(network, tmp_path):
    G = load_generator(network, "cpu")
    options = LabelMapOptions(TABLE, fit="pad")
    file = written(tmp_path / "a.png", encode(FOREIGN))
    forms = [to_label_map(form, G, options) for form in (file, Image.fromarray(FOREIGN), FOREIGN)]
    assert all(np.array_equal(form, to_label_map(PADDED, G)) for form in forms)


@pytest.mark.parametrize("application", MAINS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--classes", "no.json"], "--classes"),
        (["--classes", "bad.json"], 'bad.json: expected a JSON object like {"7": 1, "#ff0000": 2}'),
        (["--ignore", "256"], "'--ignore': 256 is not in the range 0<=x<=255"),
        (["--fit", "stretch"], "'--fit': 'stretch' is not one of 'pad', 'crop'"),
    ],
)
def test_wrong_values_are_refused_before_the_network_is_opened(tmp_path, monkeypatch, application, options, message):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "bad.json", b"[1]")
    written(tmp_path / "a.png", encode(IDS))
    outputs = ["--port", "0"] if application == "edit" else ["--outdir", "out", "--input", "a.png"]
    result = run(application, "--network", "never-opened.pkl", *outputs, *options)
    assert result.exit_code == 2 and message in result.output and result.output.count("\n") == 1, result.output


def test_options_without_an_effect_are_refused(network, table, tmp_path):
    words = ["--network", network, "--outdir", tmp_path / "out", "--input_id", 0]
    for options in (["--classes", table], ["--ignore", 255], ["--fit", "pad"]):
        result = run("samples", *words, *options)
        assert result.exit_code == 2 and "--classes, --ignore, --fit: go with --input" in result.output


def test_drawings_have_no_classes(untrained, tmp_path):
    file = written(tmp_path / "a.png", encode(np.full((8, 8), 255, np.uint8)))
    words = ["--network", untrained("edge2car"), "--device", "cpu"]
    result = run("samples", *words, "--outdir", tmp_path / "out", "--input", file, "--ignore", 255)
    assert result.exit_code == 2 and "this network takes drawings, which have no classes" in result.output
    result = run("edit", *words, "--port", 0, "--ignore", 255)
    assert result.exit_code == 2 and "this network takes drawings, which have no classes" in result.output


# --------------------------------------------------------------------------- editor


def test_the_editor_opens_image_files_by_the_options_but_not_its_own():
    pytest.importorskip("starlette", reason="the editor's packages are an extra")
    from editor_pages import tiny_generator

    from applications.editor.examples import Drawing
    from applications.editor.model import EditorModel
    from applications.editor.requests import FRONT, RequestHandler

    model = EditorModel(tiny_generator(), "seg2cat", LabelMapOptions(TABLE, ignore=255, fit="pad"))
    handler = RequestHandler(model)
    size = model.limits.resolution
    rows = np.arange(size) * 8 // size
    expected = PADDED[np.ix_(rows, rows)].tobytes()
    assert next(handler.open_drawing(None, encode(FOREIGN))).payload == expected
    assert next(handler.open_drawing(None, encode(np.dstack([FOREIGN] * 3)))).payload == expected

    # The drawing that a page starts with has the classes of the network.
    start = Drawing(encode(PADDED), FRONT)
    assert handler.hello("cats", ["a"] * 6, [start], None).endswith(expected)
