"""--style of the applications: files, agreement with the Python API, and rejected input."""

import re
import shlex

import numpy as np
import pytest
from click.testing import CliRunner
from command_lines import lines_of
from metric_data import tiny_network
from paths import ROOT
from PIL import Image, ImageSequence

from applications import extract_mesh, generate_samples, generate_video
from inference import Scene, load_generator

CAT = ROOT / "applications" / "assets" / "toy_cat.png"
INPUT = ["--cfg", "seg2cat", "--device", "cpu", "--input", CAT]
MAINS = {"samples": generate_samples.main, "video": generate_video.main, "mesh": extract_mesh.main}


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return tiny_network(tmp_path_factory.mktemp("network") / "cats.pt", style_encoder=True)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three different photos; the last one has the name of the first."""
    directory = tmp_path_factory.mktemp("photos")
    paths = [directory / name for name in ("ginger.png", "tabby.jpg", "other/ginger.png")]
    for number, path in enumerate(paths):
        path.parent.mkdir(exist_ok=True)
        pixels = np.random.RandomState(number).randint(0, 256, (6, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((90, 60)).save(path)
    return paths


def run(application, *words):
    return CliRunner().invoke(MAINS[application], [str(word) for word in words])


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_samples_have_one_image_for_each_seed_and_each_photo(network, photos, tmp_path):
    words = ["--network", network, *INPUT, "--outdir", tmp_path, "--random_seed", 3, "--style", *photos[:2]]
    result = run("samples", *words)
    assert result.exit_code == 0, result.output
    styles = ["3", "style-ginger", "style-tabby"]
    made = [f"seg2cat_toy_cat_{style}_{kind}.png" for style in styles for kind in ("color", "label")]
    assert names(tmp_path) == sorted([*made, "seg2cat_toy_cat_input.png"])

    # The same as the Python API makes, and different styles.
    G = load_generator(network, "cpu")
    images = [np.array(Image.open(tmp_path / f"seg2cat_toy_cat_{style}_color.png")) for style in styles]
    scenes = [Scene.from_label_map(G, CAT, 3), *(Scene.from_label_map(G, CAT, style=photo) for photo in photos[:2])]
    for image, scene in zip(images, scenes, strict=True):
        assert np.array_equal(image, scene.render().image)
    assert len({image.tobytes() for image in images}) == 3


def test_a_photo_takes_the_place_of_the_default_seed(network, photos, tmp_path):
    result = run("samples", "--network", network, *INPUT, "--outdir", tmp_path, "--style", photos[0])
    assert result.exit_code == 0, result.output
    assert len(names(tmp_path)) == 3 and "seg2cat_toy_cat_style-ginger_label.png" in names(tmp_path)


def test_videos_show_a_photo_and_go_from_a_seed_to_a_photo(network, photos, tmp_path):
    words = ["--network", network, *INPUT, "--frames", 2, "--show", "color"]
    result = run("video", *words, "--outdir", tmp_path / "one", "--style", photos[0])
    assert result.exit_code == 0, result.output
    assert names(tmp_path / "one") == ["seg2cat_input.png", "seg2cat_style-ginger.gif"]

    result = run(
        "video", *words, "--outdir", tmp_path / "way", "--style", photos[1], "--random_seed", 1, "--interpolate"
    )
    assert result.exit_code == 0, result.output
    assert "seg2cat_1-style-tabby.gif" in names(tmp_path / "way")
    ends = {}
    for name, style in (("seed", ["--random_seed", 1]), ("photo", ["--style", photos[1]])):
        assert run("video", *words, "--outdir", tmp_path / name, *style).exit_code == 0
        ends[name] = frames(next((tmp_path / name).glob("*.gif")))
    first, last = frames(tmp_path / "way" / "seg2cat_1-style-tabby.gif")

    # A batch of two scenes rounds differently from one, by one level at most.
    for frame, end in ((first, ends["seed"][0]), (last, ends["photo"][1])):
        assert np.abs(frame.astype(int) - end).max() <= 1


def frames(path):
    with Image.open(path) as video:
        return [np.array(frame.convert("RGB")) for frame in ImageSequence.Iterator(video)]


def test_a_mesh_has_the_style_of_a_photo(network, photos, tmp_path):
    words = ["--network", network, *INPUT, "--no-film", "--resolution", 16, "--threshold", "auto", "--color", "image"]
    for name, style in (("photo", ["--style", photos[0]]), ("seed", [])):
        result = run("mesh", *words, "--outdir", tmp_path / name, *style)
        assert result.exit_code == 0, result.output
    meshes = [(tmp_path / name / "semantic_mesh.ply").read_bytes() for name in ("photo", "seed")]
    assert meshes[0] != meshes[1]


@pytest.mark.parametrize("application", MAINS)
@pytest.mark.parametrize(
    ("style", "message"),
    [
        (["nowhere.png"], "--style nowhere.png: no such file"),
        ([ROOT], "--style .*: no such file"),
        ([ROOT / "README.md"], "--style .*README.md: not a PNG or JPEG image"),
    ],
)
def test_what_is_no_photo_is_one_line_and_exit_code_2(application, style, message, network, tmp_path):
    result = run(application, "--network", network, *INPUT, "--outdir", tmp_path / "out", "--style", *style)
    assert result.exit_code == 2
    (line,) = lines_of(result)
    assert re.search(f"^Error: {message}", line), line
    assert not (tmp_path / "out").exists()


def test_photos_of_the_same_name_are_both_named(network, photos, tmp_path):
    for application in ("samples", "video"):
        words = ["--network", network, *INPUT, "--outdir", tmp_path / "out", "--style", *photos]
        result = run(application, *words)
        assert result.exit_code == 2
        (line,) = lines_of(result)
        assert f"--style {photos[0]} {photos[2]}: have the same name" in line


def test_a_mesh_has_either_a_seed_or_a_photo(network, photos, tmp_path):
    words = ["--network", network, *INPUT, "--outdir", tmp_path / "out", "--style", photos[0], "--random_seed", 0]
    result = run("mesh", *words)
    assert result.exit_code == 2 and "--random_seed, --style: expected one of them, got both" in result.output


@pytest.mark.parametrize("application", MAINS)
def test_networks_without_a_style_encoder_name_the_option(application, photos, tmp_path):
    network = tiny_network(tmp_path / "plain.pt")
    result = run(application, "--network", network, *INPUT, "--outdir", tmp_path / "out", "--style", photos[0])
    assert result.exit_code == 2
    assert "Error: --style: this network has no encoder of photos; choose its styles by seeds" in result.output


def test_the_commands_of_the_documentation_run(network, photos, tmp_path, monkeypatch):
    text = (ROOT / "docs" / "styles.md").read_text().replace("\\\n", " ")
    commands = re.findall(r"^python applications/(\w+)\.py (.*)$", text, re.MULTILINE)
    mains = {"generate_samples": "samples", "generate_video": "video", "extract_mesh": "mesh"}
    small = {"samples": [], "video": ["--frames", 4], "mesh": ["--no-film", "--resolution", 16, "--threshold", "auto"]}
    files = {"NETWORK": network, "ginger.jpg": photos[0], "tabby.jpg": photos[1], "out": tmp_path / "out"}
    monkeypatch.chdir(ROOT)
    for script, words in commands:
        name = mains.pop(script)
        result = run(name, *(files.get(word, word) for word in shlex.split(words)), *small[name])
        assert result.exit_code == 0, result.output
    assert not mains and "seg2cat_toy_cat_style-ginger_color.png" in names(tmp_path / "out")
