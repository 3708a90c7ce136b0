"""project_photo.py: files, agreement with the Python API, --style with its result everywhere, and wrong inputs."""

import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from metric_data import tiny_network
from paths import ROOT
from PIL import Image

from applications import extract_mesh, generate_samples, generate_video, project_photo
from applications.editor.examples import projected_drawing
from applications.editor.model import EditorModel
from applications.editor.protocol import CameraView
from camera_utils import CATS, pose_at
from inference import Scene, load_generator
from inference.projection import Projection
from inference.projector import ProjectionOptions, Projector
from training.data.label_maps import draw_image

POSE = pose_at(CATS, 1.7, 1.5)[0]
SHORT = ["--steps", 2, "--tune", 1, "--no-film"]


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    directory = tmp_path_factory.mktemp("networks")
    return {
        "cats": tiny_network(directory / "cats.pt", style_encoder=True),
        "cars": tiny_network(directory / "cars.pt", "cars"),
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A photo, its label map and its pose, and files that do not fit."""
    directory = tmp_path_factory.mktemp("files")
    rng = np.random.RandomState(0)
    colors = rng.randint(0, 256, (8, 8, 3), dtype=np.uint8)
    ids = rng.randint(0, 6, (8, 8), dtype=np.uint8)
    images = {
        "cat": Image.fromarray(colors).resize((128, 128), Image.Resampling.NEAREST),
        "labels": Image.fromarray(ids).resize((64, 64), Image.Resampling.NEAREST),
        "wide": Image.fromarray(colors).resize((96, 64)),
        "wide_labels": Image.fromarray(ids).resize((48, 32), Image.Resampling.NEAREST),
        "unknown_class": Image.fromarray(ids + 4),
    }
    for name, image in images.items():
        image.save(directory / f"{name}.png")
    poses = {"pose": POSE.tolist(), "poses": [POSE.tolist()] * 2, "short": POSE.tolist()[:16], "zeros": [0.0] * 25}
    for name, pose in poses.items():
        (directory / f"{name}.json").write_text(json.dumps(pose))
    (directory / "broken.png").write_bytes((directory / "cat.png").read_bytes()[:60])
    return directory


def run(main, *words):
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def projected(networks, files, tmp_path_factory):
    """The directory of a projection, made by the command."""
    outdir = tmp_path_factory.mktemp("projected")
    words = ["--target", files / "cat.png", "--input", files / "labels.png", "--pose", files / "pose.json"]
    result = run(project_photo.main, "--network", networks["cats"], "--outdir", outdir, *words, *SHORT)
    assert result.exit_code == 0, result.output
    assert re.search(
        r"The scene reproduces the photo with PSNR \d+\.\d dB, SSIM -?0\.\d\d, \d+% of the labels", result.output
    )
    return outdir


def test_the_command_writes_what_the_python_api_makes(networks, files, projected):
    assert sorted(path.name for path in projected.iterdir()) == ["cat_comparison.png", "cat_projection.safetensors"]
    G = load_generator(networks["cats"])
    options = ProjectionOptions(steps=2, tune=1)
    projector = Projector(G, files / "cat.png", files / "labels.png", POSE, options=options)
    expected = projector.run()
    written = Projection.load(projected / "cat_projection.safetensors")
    assert np.allclose(written.offset, expected.offset) and np.allclose(written.pose, POSE)

    # The comparison: photo, scene and label map.
    view = Scene.from_label_map(G, files / "labels.png", style=written).render(pose=POSE)
    shown = np.array(Image.open(projected / "cat_comparison.png"))
    parts = [draw_image(projector.photo)[0], view.image, view.label_image]
    assert np.array_equal(shown, np.concatenate(parts, axis=1))


def test_a_video_is_written_and_existing_files_are_kept(networks, files, tmp_path):
    words = ["--network", networks["cats"], "--outdir", tmp_path, "--target", files / "cat.png"]
    words += ["--input", files / "labels.png", "--steps", 1]
    assert run(project_photo.main, *words).exit_code == 0
    assert Image.open(tmp_path / "cat_turn.gif").n_frames == project_photo.FRAMES
    result = run(project_photo.main, *words)
    assert result.exit_code == 2 and "cat_projection.safetensors: exists already" in result.output


@pytest.mark.parametrize("pose", ["front", "search", " ".join(map(str, POSE.tolist()))])
def test_poses_are_words_or_numbers(networks, files, tmp_path, pose):
    words = ["--network", networks["cats"], "--outdir", tmp_path, "--target", files / "cat.png"]
    words += ["--input", files / "labels.png", "--steps", 1, "--no-film", "--pose", pose]
    assert run(project_photo.main, *words).exit_code == 0
    found = Projection.load(tmp_path / "cat_projection.safetensors").pose
    front = Scene.from_label_map(load_generator(networks["cats"]), files / "labels.png").pose_at(0, 0)
    assert np.allclose(found, front, atol=1e-6) == (pose == "front")
    assert np.allclose(found, POSE, atol=1e-5) == (pose not in ("front", "search"))


def test_wide_photos_and_their_label_maps_are_cropped_alike(networks, files, tmp_path):
    words = ["--network", networks["cats"], "--outdir", tmp_path, "--target", files / "wide.png", "--steps", 1]
    words += ["--input", files / "wide_labels.png", "--fit", "crop", "--no-film"]
    assert run(project_photo.main, *words).exit_code == 0
    label_map = Projection.load(tmp_path / "wide_projection.safetensors").label_map
    cropped = np.array(Image.open(files / "wide_labels.png"))[:, 8:40]
    assert np.array_equal(label_map[0, 0], cropped.repeat(4, 0).repeat(4, 1))


def test_ctrl_c_writes_the_best_so_far(networks, files, tmp_path):
    words = [ROOT / "applications" / "project_photo.py", "--network", networks["cats"], "--outdir", tmp_path]
    words += ["--target", files / "cat.png", "--input", files / "labels.png", "--steps", 100_000, "--no-film"]
    code = "import sys, tqdm; tqdm.tqdm.update = lambda self, n=1: print('step', flush=True); "
    code += "import runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if line == "step\n":
            break
    os.kill(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "Stopped: the best so far is kept." in errors and "Wrote" in output
    Projection.load(tmp_path / "cat_projection.safetensors")


# --------------------------------------------------------------------------- --style


def test_all_applications_take_a_projection_as_style(networks, files, projected, tmp_path):
    style = projected / "cat_projection.safetensors"
    common = ["--network", networks["cats"], "--input", files / "labels.png", "--style", style]
    result = run(generate_samples.main, *common, "--outdir", tmp_path / "samples")
    assert result.exit_code == 0, result.output
    scene = Scene.from_label_map(load_generator(networks["cats"]), files / "labels.png", style=style)
    written = Image.open(tmp_path / "samples" / "seg2cat_labels_style-cat_projection_color.png")
    assert np.array_equal(np.array(written), scene.render().image)

    video = ["--outdir", tmp_path / "video", "--frames", 2, "--show", "color"]
    assert run(generate_video.main, *common, *video).exit_code == 0
    mesh = ["--outdir", tmp_path / "mesh", "--resolution", 16, "--threshold", "auto", "--no-film"]
    assert run(extract_mesh.main, *common, *mesh).exit_code == 0

    # Frames between scenes of different weights would be of neither.
    result = run(generate_video.main, *common, *video[:-2], "--random_seed", 0, "--interpolate", "--overwrite")
    assert result.exit_code == 2
    assert "--interpolate: style-cat_projection has weights of its own, which cannot be interpolated" in result.output


def test_the_editor_starts_with_the_projected_photo_and_paints_on_it(networks, files, projected):
    G = load_generator(networks["cats"])
    projection = Projection.load(projected / "cat_projection.safetensors")
    model = EditorModel(projection.generator(G), "seg2cat")
    photo = model.add_projection(projection)
    drawing = projection.label_map[0, 0].numpy().astype(np.uint8)
    name = model.edit(drawing, CameraView(1.5, 1.5), 0, None, None, photo)
    expected = Scene.from_label_map(G, files / "labels.png", style=projection)
    assert np.array_equal(model.scene(name).render(0.1).image, expected.render(0.1).image)

    # Painted on, it keeps the style layers.
    painted = drawing.copy()
    painted[:40] = 0
    other = model.edit(painted, CameraView(1.5, 1.5), 0, None, None, photo)
    layer = G.backbone.mapping.geometry_layer
    assert np.array_equal(model.ws(other)[:, layer:], model.ws(name)[:, layer:]) and other != name

    # The page begins with its label map, seen as in the photo.
    start = projected_drawing(model, projection)
    assert np.allclose([start.view.azimuth, start.view.polar, start.view.zoom], [1.7, 1.5, 1], atol=1e-3)


# --------------------------------------------------------------------------- wrong inputs

# Options that replace those of a valid call, network, message.
WRONG = {
    "no photo": (["--target", "nowhere.png"], "--target nowhere.png: no such file"),
    "a directory as photo": (["--target", "."], "--target .*: no such file"),
    "a text as photo": (["--target", "pose.json"], "--target .*pose.json: not a PNG or JPEG image"),
    "a damaged photo": (["--target", "broken.png"], "--target .*broken.png: damaged image"),
    "a wide photo": (["--target", "wide.png", "--input", "wide_labels.png"],
                     "--target .*: 96x64 pixels, expected a square; --fit crop takes the center"),
    "a label map of another shape": (["--input", "wide_labels.png"],
                                     "--input .*: 48x32 pixels, but --target has 128x128; a label map shows the same"),
    "no label map": (["--input", "nowhere.png"], "--input nowhere.png: no such file"),
    "classes of another network": (["--input", "unknown_class.png"], "--input .*: got class [6-9] at .* are 0 to 5"),
    "a photo as label map": (["--input", "cat.png"], "--input .*cat.png: .*color"),
    "a word as pose": (["--pose", "left"], "--pose left: expected front, search, 25 numbers, or a JSON file"),
    "16 numbers in a file": (["--pose", "short.json"], "--pose .*short.json: pose 0: expected 25 numbers, got 16"),
    "3 numbers as pose": (["--pose", "1,2,3"], "--pose 1,2,3: pose 0: expected 25 numbers, got 3"),
    "several poses": (["--pose", "poses.json"], "--pose .*poses.json: holds 2 poses, expected one"),
    "a camera that is none": (["--pose", "zeros.json"], "--pose .*zeros.json: pose 0: the last row of"),
    "no steps": (["--steps", "0"], "Invalid value for '--steps': 0 is not in the range"),
    "LPIPS weights that are none": (["--lpips_weights", "cat.png"], "--lpips_weights .*; leave the option out"),
    "a network that is none": (["--network", "cat.png"], "--network .*cat.png: not a weights file"),
    "a network of drawings": (["--network", "cars"], "--input .*labels.png: .*"),
    "another configuration": (["--cfg", "edge2car"], "--cfg: got 'edge2car', expected"),
    "a file as directory": (["--outdir", "cat.png"], "--outdir .*: expected a directory, got a file"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_inputs_are_one_line_and_exit_code_2(case, networks, files, tmp_path):
    changes, message = WRONG[case]
    words = {"--network": networks["cats"], "--outdir": tmp_path / "out", "--target": files / "cat.png"}
    words |= {"--input": files / "labels.png", "--steps": 1}
    for option, value in zip(changes[::2], changes[1::2], strict=True):
        known = networks | {path.name: path for path in files.iterdir()}
        words[option] = known.get(value, value)
    result = run(project_photo.main, *(word for pair in words.items() for word in pair))
    lines = [line for line in result.output.splitlines() if not line.startswith("Loading ")]
    assert result.exit_code == 2 and len(lines) == 1, result.output
    assert re.search(f"^Error: {message}", lines[0]), lines[0]
    assert not (tmp_path / "out").exists()


def test_a_projection_into_another_network_is_refused(networks, files, projected, tmp_path):
    style = projected / "cat_projection.safetensors"
    words = ["--network", ROOT / "checkpoints" / "toy_seg2cat.safetensors", "--input", files / "labels.png"]
    result = run(generate_samples.main, *words, "--outdir", tmp_path / "out", "--style", style)
    assert result.exit_code == 2
    assert "Error: --style: a projection into another network; load the network" in result.output


def test_the_commands_of_the_documentation_run(tmp_path, monkeypatch):
    text = (ROOT / "docs" / "photo.md").read_text().replace("\\\n", " ")
    commands = re.findall(r"^python applications/(\w+)\.py (.*)$", text, re.MULTILINE)
    mains = {"project_photo": project_photo, "generate_samples": generate_samples, "extract_mesh": extract_mesh}
    small = {
        "project_photo": ["--steps", 1, "--tune", 1, "--no-film"],
        "extract_mesh": ["--no-film", "--resolution", 16],
    }
    monkeypatch.chdir(ROOT)
    for script, words in commands:
        # The editor does not end, but opens the same file.
        if script in mains:
            given = words.replace(" out", f" {tmp_path}").split()
            result = run(mains.pop(script).main, *given, *small.get(script, []))
            assert result.exit_code == 0, result.output
    assert not mains
