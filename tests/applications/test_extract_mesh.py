"""extract_mesh.py: files, rejected input, and Ctrl-C."""

import re
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import trimesh
from click.testing import CliRunner
from command_lines import existing, lines_of
from paths import ROOT
from PIL import Image

from applications import extract_mesh, generate_samples, generate_video
from dnnlib.cli import INTERRUPTED
from inference import Scene
from inference.mesh.extraction import network_options
from inference.mesh.rasterize import gl_problem
from inference.mesh.surface import NoSurfaceError
from inference.mesh.triangles import check_libraries
from training.data.label_maps import PALETTE, read_label_map
from training.networks.configs import GeneratorOptions
from training.networks.registry import construct
from training.weights.snapshot import load_network_pkl, save_snapshot

ASSETS = ROOT / "applications" / "assets"
NARROW = {"channel_base": 512, "channel_max": 8, "encoder_width": 0.125, "sr_width": 0.125, "plane_resolution": 32}
KINDS = {"seg2cat": {"camera": "afhq", "semantic_channels": 6}, "edge2car": {"camera": "shapenet", "data_type": "edge"}}
SMALL = {"resolution": 24, "threshold": "auto", "device": "cpu"}


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """Function from a config to the path of a small network with random weights."""

    def make(cfg):
        path = directory / f"{cfg}.pt"
        if not path.exists():
            torch.manual_seed(0)
            options = GeneratorOptions(resolution=128, **KINDS[cfg], **NARROW)
            save_snapshot(path, {"G_ema": construct(options.class_name, options.kwargs())})
        return path

    directory = tmp_path_factory.mktemp("networks")
    return make


def words(*flags, **options):
    return [str(word) for word in [*flags, *(word for name, v in options.items() for word in (f"--{name}", v))]]


def run(*flags, **options):
    return CliRunner().invoke(extract_mesh.main, words(*flags, **options))


# --------------------------------------------------------------------------- files


def test_a_run_writes_input_mesh_and_video_and_nothing_else(network, tmp_path):
    outdir = tmp_path / "made" / "here"
    options = {"network": network("seg2cat"), "outdir": outdir, "cfg": "seg2cat", "input": ASSETS / "cat.png"}
    result = run(**options, **SMALL, frames=5, fps=25)
    assert result.exit_code == 0, result.output
    names = ["rendered_mesh.gif", "seg2cat_cat_input.png", "semantic_mesh.ply"]
    assert sorted(path.name for path in outdir.iterdir()) == names
    assert read_label_map(outdir / names[1], "seg", 6).shape == (1, 1, 128, 128)
    mesh = trimesh.load(outdir / names[2], process=False)
    assert len(mesh.faces) > 100 and abs(mesh.vertices).max() <= 0.5
    colors = {tuple(color) for color in np.unique(mesh.visual.vertex_colors[:, :3], axis=0).tolist()}
    assert colors <= {tuple(color) for color in PALETTE[:6].tolist()}
    video = Image.open(outdir / names[0])
    assert (video.size, video.n_frames, video.info["duration"]) == ((512, 512), 5, 40)
    assert (extract_mesh.PATH_FRAMES, extract_mesh.FPS) == (120, 60)  # defaults
    threshold = re.search(r"--threshold auto: took (\S+)", result.output)[1]
    assert f"density threshold {threshold}".encode() in (outdir / names[2]).read_bytes()[:600]


def test_a_drawing_that_may_not_be_replaced_is_noticed_before_the_mesh_is_extracted(network, tmp_path, monkeypatch):
    (tmp_path / "seg2cat_cat_input.png").write_bytes(b"another")
    monkeypatch.setattr(extract_mesh, "extract", lambda *_: pytest.fail("extracts a mesh"))
    options = {"network": network("seg2cat"), "outdir": tmp_path, "cfg": "seg2cat", "input": ASSETS / "cat.png"}
    result = run("--no-film", **options, **SMALL)
    assert result.exit_code == 2 and "seg2cat_cat_input.png: exists already" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["seg2cat_cat_input.png"]


def test_edges_give_a_mesh_without_colors_in_a_larger_box(network, tmp_path):
    options = {"network": network("edge2car"), "outdir": tmp_path, "cfg": "edge2car", "input": ASSETS / "car.png"}
    result = run("--no-film", **options, **SMALL)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["edge2car_car_input.png", "edge2car_mesh.ply"]
    header = (tmp_path / "edge2car_mesh.ply").read_bytes()[:600]
    assert b"cube of side 1.6" in header and b"property uchar red" not in header
    result = run("--no-film", "--overwrite", **options, **SMALL, color="label")
    assert result.exit_code == 0, result.output
    colors = trimesh.load(tmp_path / "edge2car_mesh.ply", process=False).visual.vertex_colors
    assert (colors[:, 0] == colors[:, 1]).all() and (colors[:, 0] == colors[:, 2]).all()


def test_every_option_reaches_the_mesh(network, tmp_path):
    options = {"network": network("seg2cat"), "cfg": "seg2cat", "input": ASSETS / "cat.png", **SMALL}
    variants = {
        "plain": ([], {}),
        "seed": ([], {"random_seed": 1}),
        "image": ([], {"colour": "image"}),  # the old spelling is still accepted
        "closed": (["--closed"], {}),
        "largest": (["--largest"], {}),
        "solid": (["--closed", "--largest"], {}),
        "smooth": (["--closed", "--largest"], {"smooth": 3}),
        "too smooth": ([], {"smooth": 3}),
        "finer": ([], {"resolution": 32}),
    }
    meshes = {}
    outputs = {}
    for name, (flags, more) in variants.items():
        result = run("--no-film", *flags, **(options | more), outdir=tmp_path / name, format="ply,glb")
        assert result.exit_code == 0, result.output
        outputs[name] = result.output
        read = [
            trimesh.load(tmp_path / name / f"semantic_mesh.{end}", force="mesh", process=False)
            for end in ("ply", "glb")
        ]
        np.testing.assert_allclose(read[0].vertices, read[1].vertices, atol=1e-6)
        meshes[name] = read[0]
    plain = meshes.pop("plain")
    assert meshes["closed"].is_watertight and not plain.is_watertight
    assert len(meshes["largest"].faces) < len(plain.faces) < len(meshes["finer"].faces)
    assert (meshes["image"].vertices == plain.vertices).all()
    assert (meshes["image"].visual.vertex_colors != plain.visual.vertex_colors).any()
    assert (meshes["smooth"].faces == meshes["solid"].faces).all() and "--smooth" not in outputs["smooth"]
    moved = np.linalg.norm(meshes["smooth"].vertices - meshes["solid"].vertices, axis=1)
    assert 0.001 < np.median(moved) < 0.04  # a grid step is 0.043
    assert meshes["smooth"].volume == pytest.approx(meshes["solid"].volume, rel=0.01)
    assert (meshes["too smooth"].vertices == plain.vertices).all()
    assert "--smooth 3: made 0 rounds" in outputs["too smooth"]  # noise, whose volume one round would change too much
    assert meshes["seed"].vertices.shape != plain.vertices.shape


@pytest.mark.parametrize("cfg", KINDS)
def test_options_follow_from_the_network_unless_they_are_given(cfg, capsys):
    options = GeneratorOptions(resolution=128, **KINDS[cfg], **NARROW)
    G = construct(options.class_name, options.kwargs())
    is_seg = cfg == "seg2cat"
    published = {"threshold": 50.0, "color": "label" if is_seg else None, "largest": False, "without": None}
    assert network_options(G) == published
    G.rendering_kwargs["plane_axes"] = "corrected"
    suitable = {"threshold": "auto", "color": "shown_label" if is_seg else "image", "largest": True, "without": None}
    assert network_options(G) == suitable
    G.rendering_kwargs["background_radius"] = 0.48
    assert network_options(G) == {**suitable, "without": 0 if is_seg else None}
    extract_mesh.complete_options(G, dict.fromkeys(suitable))
    said = "--color shown_label --largest --without 0" if is_seg else "--color image --largest"
    assert capsys.readouterr().out == f"Chosen for this network: --threshold auto {said}\n"

    given = {"threshold": 3.0, "color": "none", "largest": False, "without": "none"}
    assert extract_mesh.complete_options(G, given) == {**given, "color": None, "without": None}
    assert extract_mesh.complete_options(G, {**given, "color": None})["color"] == suitable["color"]


def test_the_published_command_works_unchanged(network, tmp_path):
    published = (
        "python applications/extract_mesh.py --network checkpoints/pix2pix3d_seg2cat.pkl --outdir examples "
        "--cfg seg2cat --input examples/example_input.png"
    )
    command = shlex.split(published)
    for option, value in (("--network", network("seg2cat")), ("--outdir", tmp_path), ("--input", ASSETS / "cat.png")):
        command[command.index(option) + 1] = str(value)
    small = words("--no-film", **SMALL)
    done = subprocess.run([sys.executable, *command[1:], *small], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "semantic_mesh.ply").exists()


# --------------------------------------------------------------------------- rejected input

REFUSED = {
    "a class too many": ({"network": "seg2cat", "without": 6}, "--without: got 6, expected a class from 0 to 5"),
    "a class of edges": (
        {"network": "edge2car", "cfg": "edge2car", "input": ASSETS / "car.png", "without": 0},
        "--without: got 0, expected none for edges",
    ),
    "no input": ({"input": None}, "--input, --input_id: expected one of them, got none"),
    "unknown format": ({"format": "ply,stl"}, "'--format': 'stl': expected some of ply,obj,glb"),
    "no format": ({"format": ""}, "'--format': '': expected some of"),
    "unknown color": ({"color": "red"}, "'--color': 'red' is not one of 'label', 'shown_label', 'image', 'none'"),
    "word as threshold": ({"threshold": "high"}, "'--threshold': high: expected a number or auto"),
    "endless threshold": ({"threshold": "inf"}, "'--threshold': inf: expected a number or auto"),
    "no number as threshold": ({"threshold": "nan"}, "'--threshold': nan: expected a number or auto"),
    "grid too coarse": ({"resolution": 1}, "'--resolution': 1 is not in the range 8<=x<=1024"),
    "grid too fine": ({"resolution": 100000}, "'--resolution': 100000 is not in the range"),
    "negative smoothing": ({"smooth": -1}, "'--smooth': -1 is not in the range"),
    "two seeds": ({"random_seed": "0-3"}, "'--random_seed': '0-3' is not a valid integer"),
    "no such network": ({"network": "nowhere.pkl"}, "--network nowhere.pkl: .*No such file"),
    "another kind of network": ({"network": "edge2car"}, "--cfg: got 'seg2cat', expected edge2car"),
    "no such input": ({"input": "nowhere.png"}, "--input nowhere.png: no such file"),
    "drawing as classes": ({"network": "seg2cat", "input": ASSETS / "car.png"}, "--input .*car.png: got class"),
    "file in the place of outdir": ({"outdir": ASSETS / "cat.png"}, "--outdir .*cat.png: expected a directory"),
}  # fmt: skip


@pytest.mark.parametrize("option", ["frames", "fps"])
def test_video_options_are_rejected_without_a_video(option, tmp_path):
    result = run("--no-film", network="x.pkl", outdir=tmp_path, cfg="seg2cat", input=ASSETS / "cat.png", **{option: 3})
    assert (result.exit_code, result.output) == (2, f"Error: --{option}: sets the video, which --no-film turns off\n")


def test_a_grid_larger_than_the_memory_is_rejected_first(tmp_path, monkeypatch):
    monkeypatch.setattr(extract_mesh, "free_memory", lambda: 10**9)
    result = run(network="never-opened.pkl", outdir=tmp_path, cfg="seg2cat", input=ASSETS / "cat.png", resolution=1000)
    assert result.exit_code == 2
    assert result.output == "Error: --resolution 1000: needs 9.0 GB of memory, 1.0 are free; expected 480 or less\n"


def test_networks_that_are_not_finite_are_rejected(network, tmp_path):
    data = load_network_pkl(network("seg2cat"), only=("G_ema",))
    with torch.no_grad():
        data["G_ema"].decoder.net[0].weight[0, 0] = float("nan")
    save_snapshot(tmp_path / "nan.pt", {"G_ema": data["G_ema"]})
    options = {
        "network": tmp_path / "nan.pt",
        "outdir": tmp_path / "out",
        "cfg": "seg2cat",
        "input": ASSETS / "cat.png",
    }
    result = run(**options, **SMALL)
    assert result.exit_code == 2 and not (tmp_path / "out").exists()
    (line,) = lines_of(result)
    assert re.fullmatch(r"Error: --network .*nan.pt: holds weights that are not finite .*", line)
    with torch.no_grad():
        data["G_ema"].decoder.net[0].weight[0, 0] = 0
        data["G_ema"].backbone.synthesis.b4.const[:] = 3e38  # finite, but not what becomes of it
    save_snapshot(tmp_path / "nan.pt", {"G_ema": data["G_ema"]})
    for application in (extract_mesh, generate_samples, generate_video):
        arguments = words(**options, **(SMALL if application is extract_mesh else {"device": "cpu"}))
        result = CliRunner().invoke(application.main, arguments)
        assert result.exit_code == 2, result.output
        assert result.output.splitlines()[-1].startswith("Error: --network: makes scenes that are not finite")


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_input_gives_one_line_exit_code_2_and_no_file(case, network, tmp_path):
    changes, message = REFUSED[case]
    network_file = existing(tmp_path / "never-read.pkl")
    good = {"network": network_file, "outdir": tmp_path / "out", "cfg": "seg2cat", "input": ASSETS / "cat.png"}
    options = {name: value for name, value in (good | changes).items() if value is not None}
    if options["network"] in KINDS:
        options["network"] = network(options["network"])
    result = run(**options)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit), "a traceback"
    (line,) = lines_of(result)
    assert re.search(f"^Error: .*{message}", line), line
    assert list(tmp_path.iterdir()) == [network_file]


def test_an_empty_level_set_is_reported_with_the_range_of_the_density(network, tmp_path):
    result = run(network=network("seg2cat"), outdir=tmp_path, cfg="seg2cat", input=ASSETS / "cat.png", resolution=8)
    assert result.exit_code == 2, result.output
    (line,) = lines_of(result)
    number = r"-?[\d.e-]+"
    assert re.fullmatch(
        rf"Error: --threshold: the density \({number} to {number}, mean {number}\) lies wholly below the threshold 50, "
        "so there is no surface; try --threshold auto",
        line,
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "options", "message"),
    [
        (NoSurfaceError("threshold", problem="all alike"), {"threshold": "auto"}, "--threshold: all alike"),
        (NoSurfaceError("without", problem="all of class 0"), {"without": 0}, "--without: all of class 0"),
    ],
)
def test_a_missing_surface_names_the_option_to_change(network, tmp_path, monkeypatch, error, options, message):
    def steps(*_, **__):
        raise error
        yield

    monkeypatch.setattr(Scene, "mesh_steps", steps)
    result = run(network=network("seg2cat"), outdir=tmp_path, cfg="seg2cat", input=ASSETS / "cat.png", **options)
    assert (result.exit_code, lines_of(result)) == (2, [f"Error: {message}"])


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)  # what Python itself takes for "not to be found"
    with pytest.raises(ValueError, match=r'meshes need skimage.*pip install -e "\.\[mesh\]"'):
        check_libraries()


# --------------------------------------------------------------------------- interruption and fallbacks


def test_ctrl_c_during_the_video_keeps_the_mesh_and_removes_the_video(network, tmp_path):
    options = {"network": network("seg2cat"), "outdir": tmp_path, "cfg": "seg2cat", "input": ASSETS / "cat.png"}
    command = [sys.executable, "applications/extract_mesh.py", *words(**options, **SMALL)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 300
    while not any(path.stat().st_size for path in tmp_path.glob(".rendered_mesh.gif*")):  # there are frames
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED
    assert "Traceback" not in errors and "Stopped" in errors
    assert sorted(path.name for path in tmp_path.iterdir()) == ["seg2cat_cat_input.png", "semantic_mesh.ply"]
    trimesh.load(tmp_path / "semantic_mesh.ply")


@pytest.mark.skipif(gl_problem() is not None, reason="no OpenGL to take away")
def test_without_opengl_the_video_is_rendered_by_numpy_and_reported(network, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "moderngl", None)
    options = {"network": network("seg2cat"), "outdir": tmp_path, "cfg": "seg2cat", "input": ASSETS / "cat.png"}
    result = run(**options, **(SMALL | {"resolution": 8}), frames=2)
    assert result.exit_code == 0, result.output
    assert re.search(
        r"^No off-screen OpenGL \(.*moderngl.*\): numpy renders the video of the mesh, which takes longer.$",
        result.output,
        re.M,
    )
    assert Image.open(tmp_path / "rendered_mesh.gif").n_frames == 2
