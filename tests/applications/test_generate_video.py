"""generate_video.py: files, camera paths, interpolation, rejected input, and Ctrl-C."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from command_lines import existing, lines_of
from paths import ROOT
from PIL import Image, ImageSequence
from small_data import png, write_published_data

from applications import generate_video
from applications.generate_video import interpolation_name
from camera_utils import CAMERAS, front_pose, path_poses
from inference import Scene, load_generator, view
from inference.latents import interpolate_ws, latent
from inference.video import render_views
from inference.view import View, interpolate_views
from training.data.label_maps import colorize, draw_image, read_label_map
from training.networks.configs import GeneratorOptions
from training.networks.generator import TriPlane
from training.networks.registry import construct
from training.weights.snapshot import load_network_pkl, save_snapshot

ASSETS = ROOT / "applications" / "assets"
FEW = ("--frames", 3, "--device", "cpu")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """Function from a config to the path of a network for it, as small as they get."""
    directory = tmp_path_factory.mktemp("networks")
    tiny = {"channel_base": 512, "channel_max": 8, "encoder_width": 0.02, "sr_width": 0.1, "plane_resolution": 32}
    cats = GeneratorOptions("afhq", 128, semantic_channels=6, pose_conditioning=True, depth_resolution=4, **tiny)
    cars = GeneratorOptions("shapenet", 128, data_type="edge", depth_resolution=4, **tiny)
    for cfg, options in {"seg2cat": cats, "edge2car": cars}.items():
        torch.manual_seed(0)
        G = construct(options.class_name, options.kwargs())
        G.neural_rendering_resolution = 32
        save_snapshot(
            directory / f"{cfg}.pt", {"G_ema": G}, extra={"training_options": {}}
        )  # ours: rendered as it says
    return lambda cfg: directory / f"{cfg}.pt"


def run(*words, **options):
    words = [*words, *(word for name, value in options.items() for word in (f"--{name}", value))]
    return CliRunner().invoke(generate_video.main, [str(word) for word in words])


def made(*words, **options):
    result = run(*words, *FEW, **options)
    if result.exit_code:
        raise AssertionError(result.output) from result.exception
    return sorted(path.name for path in Path(options["outdir"]).iterdir())


def frames(path):
    with Image.open(path) as image:
        return [np.array(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]


def close(a, b):
    """Return whether two frames of GIFs are equal up to the palette, which a difference of one level can change."""
    return np.abs(a.astype(int) - b).mean() < 2


# --------------------------------------------------------------------------- files


def test_the_published_command_works_unchanged(network, tmp_path):
    for directory in ("checkpoints", "examples"):
        (tmp_path / directory).mkdir()
    shutil.copy(network("seg2cat"), tmp_path / "checkpoints" / "pix2pix3d_seg2cat.pkl")
    shutil.copy(ASSETS / "cat.png", tmp_path / "examples" / "example_input.png")
    command = (
        "applications/generate_video.py --network checkpoints/pix2pix3d_seg2cat.pkl --outdir examples "
        "--random_seed 1 --cfg seg2cat --input examples/example_input.png"
    )
    script, *words = command.split()
    # a few frames are enough here; the number in use without --frames is tested below
    done = subprocess.run(
        [sys.executable, ROOT / script, *words, "--frames", "2"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "examples").iterdir()) == [
        "example_input.png",
        "seg2cat_1.gif",
        "seg2cat_1_label.gif",
        "seg2cat_input.png",
    ]


def test_videos_have_120_frames_at_60_per_second_by_default():
    defaults = {option.name: option.default for option in generate_video.main.params}
    assert generate_video.PATH_FRAMES == 120 and defaults["fps"] == 60 and defaults["path"] == "orbit"


@torch.inference_mode()
def test_frames_show_the_scene_of_the_seed_along_the_published_path(network, tmp_path):
    names = made("--random_seed", 3, 5, network=network("seg2cat"), outdir=tmp_path, cfg="seg2cat",
                 input=ASSETS / "cat.png", show="color,label,side_by_side,depth")  # fmt: skip
    endings = ("", "_depth", "_label", "_side_by_side")
    assert names == [*(f"seg2cat_{seed}{end}.gif" for seed in (3, 5) for end in endings), "seg2cat_input.png"]

    G = load_network_pkl(network("seg2cat"), only=("G_ema",))["G_ema"]
    label_map = read_label_map(ASSETS / "cat.png", "seg", 6, 128)
    ws = G.mapping(latent(5, G.z_dim), front_pose(CAMERAS["seg2cat"]), {"mask": label_map})
    poses = path_poses("orbit", CAMERAS["seg2cat"], 3)
    G = load_generator(network("seg2cat"), "cpu")
    video = {end: frames(tmp_path / f"seg2cat_5{end}.gif") for end in endings}
    assert all(len(images) == 3 for images in video.values())
    for frame, pose in enumerate(poses):
        out = G.synthesis(ws, pose[None], noise_mode="const", jitter=False)
        assert close(video[""][frame], draw_image(out["image"])[0])
        label = video["_label"][frame]
        # label colors are exact in a gif; a pixel at a border may fall to the other side by round-off
        assert (label == colorize(out["semantic"].argmax(1)[0].numpy())).all(-1).mean() > 0.999
        both = video["_side_by_side"][frame]
        assert both.shape == (128, 256, 3) and close(both[:, :128], video[""][frame]) and close(both[:, 128:], label)
        depth = video["_depth"][frame]
        size = 128 // G.neural_rendering_resolution
        # white at 2.7 - 0.5 from the camera, black at 2.7 + 0.5, in 255 steps
        shown = 2.7 + 0.5 - depth[::size, ::size, 0] / 255
        assert np.abs(shown - out["image_depth"][0, 0].clamp(2.2, 3.2).numpy()).max() < 1 / 255
    assert not close(frames(tmp_path / "seg2cat_3.gif")[0], video[""][0])


def test_file_names_contain_the_sample_and_sample_0_is_the_default_input(network, tmp_path):
    options = {
        "network": network("edge2car"),
        "cfg": "edge2car",
        "data_dir": write_published_data(tmp_path, "edge2car"),
    }
    names = ["edge2car_0.gif", "edge2car_0_label.gif"]
    assert sorted(made(**options, outdir=tmp_path / "a")) == sorted([*names, "edge2car_0_input.png"])
    assert sorted(made(**options, outdir=tmp_path / "b", input_id=2)) == sorted([*names, "edge2car_2_input.png"])
    zero, two = ((tmp_path / name).read_bytes() for name in ("a/edge2car_0_input.png", "b/edge2car_2_input.png"))
    assert zero != two


def test_one_run_writes_both_formats(network, tmp_path):
    av = pytest.importorskip("av", reason="mp4 needs PyAV")
    options = {"network": network("edge2car"), "cfg": "edge2car", "input": ASSETS / "car.png", "outdir": tmp_path}
    assert made(**options, format="gif,mp4", show="label", fps=25) == [
        "edge2car_0_label.gif",
        "edge2car_0_label.mp4",
        "edge2car_input.png",
    ]
    with av.open(tmp_path / "edge2car_0_label.mp4") as container:
        assert container.streams.video[0].average_rate == 25
        video = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    for ours, exact in zip(video, frames(tmp_path / "edge2car_0_label.gif"), strict=True):
        assert np.abs(ours.astype(int) - exact).mean() < 4  # H.264 at a quality where little is seen of it


# --------------------------------------------------------------------------- paths


def test_poses_are_read_from_a_file(network, tmp_path):
    poses = path_poses("turn", CAMERAS["edge2car"], 2)
    (tmp_path / "path.json").write_text(json.dumps(poses.tolist()))
    options = {"network": network("edge2car"), "cfg": "edge2car", "input": ASSETS / "car.png", "device": "cpu"}
    assert run(**options, outdir=tmp_path / "file", path=tmp_path / "path.json").exit_code == 0
    assert run(**options, outdir=tmp_path / "turn", path="turn", frames=2).exit_code == 0
    for name in ("edge2car_0.gif", "edge2car_0_label.gif"):
        assert (tmp_path / "file" / name).read_bytes() == (tmp_path / "turn" / name).read_bytes()
        assert len(frames(tmp_path / "file" / name)) == 2


# --------------------------------------------------------------------------- interpolation


def test_a_video_between_seeds_starts_and_ends_like_theirs(network, tmp_path):
    options = {"network": network("seg2cat"), "cfg": "seg2cat", "input": ASSETS / "cat.png"}
    made("--random_seed", 3, 5, **options, outdir=tmp_path / "plain")
    names = made("--random_seed", 3, 9, 5, "--interpolate", **options, outdir=tmp_path / "between")
    assert names == ["seg2cat_3-9-5.gif", "seg2cat_3-9-5_label.gif", "seg2cat_input.png"]
    first, middle, last = frames(tmp_path / "between" / "seg2cat_3-9-5.gif")
    assert close(first, frames(tmp_path / "plain" / "seg2cat_3.gif")[0])
    assert close(last, frames(tmp_path / "plain" / "seg2cat_5.gif")[-1])
    made("--random_seed", 9, **options, outdir=tmp_path / "plain")
    assert close(middle, frames(tmp_path / "plain" / "seg2cat_9.gif")[1])  # seeds are evenly spaced in time


@torch.inference_mode()
def test_a_video_between_label_maps_starts_and_ends_like_theirs(network):
    G = load_network_pkl(network("seg2cat"), only=("G_ema",))["G_ema"]
    cat = read_label_map(ASSETS / "cat.png", "seg", 6, 128)
    maps, pose, ends = [cat, cat.flip(2)], front_pose(CAMERAS["seg2cat"]), torch.tensor([0.0, 1.0])
    scenes = [Scene.from_label_map(G, label_map, 3, pose) for label_map in maps]
    keys = torch.stack([scene.ws for scene in scenes], dim=1)
    assert torch.equal(interpolate_ws(keys, ends), torch.cat([scene.ws for scene in scenes]))
    assert not torch.equal(scenes[0].ws, scenes[1].ws)


def test_the_to_option_is_the_label_map_of_the_last_frame(network, tmp_path):
    other = tmp_path / "other.png"
    Image.fromarray(255 - 255 * np.eye(128, dtype=np.uint8)).save(other)
    options = {"network": network("edge2car"), "cfg": "edge2car"}
    made(**options, input=other, outdir=tmp_path / "plain")
    names = made("--interpolate", **options, input=ASSETS / "car.png", to=other, outdir=tmp_path / "between")
    video = f"edge2car_0-to-{tmp_path.name}-other"
    assert names == [f"{video}.gif", f"{video}_label.gif", "edge2car_input.png"]
    last, plain = (frames(tmp_path / name)[-1] for name in (f"between/{video}.gif", "plain/edge2car_0.gif"))
    assert close(last, plain)


def test_names_of_interpolations_tell_seeds_and_label_map():
    assert interpolation_name(["3", "9", "5"], None) == "3-9-5"
    assert interpolation_name(["3"], "b.png") == "3-to-b"
    assert interpolation_name(["3"], "a/b.png") == "3-to-a-b" != interpolation_name(["3"], "c/b.png")
    assert interpolation_name([*map(str, range(90))], None) == "0-89"
    assert len(interpolation_name([*map(str, range(90))], 300 * "b" + ".png")) < 90


def test_only_the_outputs_that_are_shown_are_rendered(network, tmp_path, monkeypatch):
    seen = []
    plain = TriPlane.synthesis
    monkeypatch.setattr(
        TriPlane, "synthesis", lambda *args, **kwargs: seen.append(out := plain(*args, **kwargs)) or out
    )
    options = {"network": network("edge2car"), "cfg": "edge2car", "input": ASSETS / "car.png", "outdir": tmp_path}
    made(**options, show="label")
    assert {*seen[0]} == {"semantic"}
    made(**options, show="depth,color")
    assert {*seen[-1]} == {"image", "image_depth"}


def test_seeds_and_label_maps_are_interpolated_linearly_together():
    corners = torch.tensor([[[0.0, 0.0], [0.0, 10.0]], [[1.0, 0.0], [1.0, 10.0]], [[5.0, 0.0], [5.0, 10.0]]])
    ws = interpolate_ws(corners[:, :, None], torch.tensor([0, 0.25, 0.5, 0.75, 1]))  # K=3, M=2, num_ws=1, w_dim=2
    assert ws[:, 0].tolist() == [[0, 0], [0.5, 2.5], [1, 5], [3, 7.5], [5, 10]]


def test_interpolation_in_chunks_equals_interpolation_at_once(network, monkeypatch):
    G = load_network_pkl(network("edge2car"), only=("G_ema",))["G_ema"]
    G.neural_rendering_resolution = 8
    keys = torch.randn(2, 1, G.num_ws, G.w_dim, generator=torch.Generator().manual_seed(0))
    poses = path_poses("orbit", CAMERAS["edge2car"], 5)
    whole = [found.tensors["image"] for found in interpolate_views(G, keys, poses)]
    monkeypatch.setattr(view, "WS_AT_ONCE", 2)
    for chunk, expected in zip(interpolate_views(G, keys, poses), whole, strict=True):
        torch.testing.assert_close(chunk.tensors["image"], expected, atol=2e-5, rtol=1e-5)  # float32 round-off
    (alone,) = render_views(G, keys[1], None, poses[4:])
    torch.testing.assert_close(alone["image"], whole[-1], atol=2e-5, rtol=1e-5)


# --------------------------------------------------------------------------- rejected input


def path_file(content):
    def make(directory):
        path = directory / "path.json"
        path.write_text(content)
        return path

    return make


def drawn(pixels):
    def make(directory):
        path = directory / "other.png"
        path.write_bytes(png(pixels))
        return path

    return make


NINES = np.full((8, 8), 9, np.uint8)
# Changes to a valid command line, and the expected error message; functions make a file in a directory.
# Options that all applications share are tested with generate_samples.py.
REFUSED = {
    "word as path": ({"path": "spiral"}, "--path spiral: expected orbit, turn or a JSON file"),
    "no such path": ({"path": "nowhere.json"}, "--path nowhere.json: expected orbit, turn or a JSON file"),
    "directory as path": ({"path": ASSETS}, "--path .*assets: .*directory"),
    "text as path": ({"path": path_file("once around")}, "--path .*path.json: not JSON"),
    "empty path": ({"path": path_file("[]")}, "--path .*path.json: expected a list of poses"),
    "half a pose": ({"path": path_file("[[1, 0, 0, 0]]")}, "--path .*path.json: pose 0: expected .*25 numbers"),
    "blind pose": ({"path": path_file(json.dumps([[0] * 25]))}, "--path .*path.json: pose 0: the last row of cam2w"),
    "frames for a path that has its own": (
        {"path": path_file(json.dumps(front_pose(CAMERAS["seg2cat"]).tolist())), "frames": 7},
        "--frames: goes with --path orbit or turn; .*path.json holds 1 poses"),
    "no frame": ({"frames": 0}, "'--frames': 0 is not in the range"),
    "half a frame": ({"frames": 1.5}, "'--frames': '1.5' is not a valid integer"),
    "video without end": ({"frames": 10**9}, "'--frames': 1000000000 is not in the range"),
    "no frame a second": ({"fps": 0}, "'--fps': 0 is not in the range"),
    "too fast": ({"fps": 1000}, "'--fps': 1000 is not in the range"),
    "unknown format": ({"format": "gif,avi"}, "'--format': 'avi': expected some of gif,mp4"),
    "no format": ({"format": ""}, "'--format': '': expected some of gif,mp4"),
    "unknown view": ({"show": "hue"}, "'--show': 'hue': expected some of color,label,side_by_side,depth"),
    "word as seed": ({"random_seed": "one"}, "'--random_seed': one: expected a whole number"),
    "more seeds than frames": ({"interpolate": True, "random_seed": "0-7", "frames": 7},
                               "--interpolate: 8 seeds and styles need as many frames, got 7"),
    "one seed to go through": ({"interpolate": True}, "--interpolate: expected several --random_seed or --style"),
    "a place to go, no way": ({"to": ASSETS / "cat.png"}, "--to: goes with --interpolate"),
    "no such second label map": ({"interpolate": True, "to": "nowhere.png"}, "--to nowhere.png: no such file"),
    "second label map of another network": (
        {"interpolate": True, "to": drawn(NINES), "network": "seg2cat"},
        "--to .*other.png: got class 9 .*classes are 0 to 5"),
    "two inputs": ({"input_id": 0}, "--input, --input_id: expected one of them, got both"),
    "no data set for sample 0": ({"network": "seg2cat", "input": None, "data_dir": "nowhere"}, "--data_dir .*nowhere"),
    "network of another kind": ({"network": "edge2car"}, "--cfg: got 'seg2cat', expected edge2car"),
    "file in the place of outdir": ({"outdir": drawn(NINES)}, "--outdir .*other.png: expected a directory, got a file"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_input_gives_one_line_exit_code_2_and_no_file(case, tmp_path, network):
    changes, message = REFUSED[case]
    network_file = existing(tmp_path / "never-read.pkl")
    good = {"network": network_file, "outdir": tmp_path / "out", "cfg": "seg2cat", "input": ASSETS / "cat.png"}
    options = {name: value(tmp_path) if callable(value) else value for name, value in (good | changes).items()}
    if options["network"] in CAMERAS:
        options["network"] = network(options["network"])
    flags = ["--interpolate"] if options.pop("interpolate", False) else []
    before = sorted(tmp_path.rglob("*"))

    result = run(*flags, **{name: value for name, value in options.items() if value is not None})

    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit), "a traceback"
    (line,) = lines_of(result)
    assert re.search(f"^Error: .*{message}", line), line
    assert sorted(tmp_path.rglob("*")) == before, "something was left"


def test_without_pyav_mp4_is_rejected_and_gif_works(network, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)  # as where it is not installed
    options = {"network": network("edge2car"), "cfg": "edge2car", "input": ASSETS / "car.png", "outdir": tmp_path}
    result = run(**options, format="gif,mp4")
    assert result.exit_code == 2
    assert lines_of(result) == ['Error: --format mp4: needs PyAV, which is not installed; pip install -e ".[video]"']
    assert list(tmp_path.iterdir()) == []
    assert "edge2car_0.gif" in made(**options)


# --------------------------------------------------------------------------- interruption


def test_ctrl_c_keeps_complete_videos_and_removes_the_incomplete_one(network, tmp_path):
    outdir = tmp_path / "out"
    words = [ROOT / "applications" / "generate_video.py", "--network", network("edge2car"), "--cfg", "edge2car"]
    words += ["--input", ASSETS / "car.png", "--outdir", outdir, "--random_seed", "0-9999", "--frames", "4"]
    script = subprocess.Popen([sys.executable, *words, "--device", "cpu"], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not (outdir / "edge2car_0_label.gif").exists():  # then the second video is being written
        assert script.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(script.pid, signal.SIGINT)
    _, complaint = script.communicate(timeout=30)
    assert script.returncode == 130
    assert complaint.splitlines()[-1] == "Stopped: complete files are kept, incomplete ones were removed."
    left = list(outdir.iterdir())
    assert not [path for path in left if path.suffix not in (".gif", ".png")]
    assert all(len(frames(path)) == 4 for path in left if path.suffix == ".gif")


def test_a_bug_in_rendering_leaves_no_video_and_is_not_reported_as_a_user_error(network, tmp_path, monkeypatch):
    def broken(*_):
        raise ValueError("shapes differ")

    monkeypatch.setattr(View, "frame", broken)
    result = run(network=network("edge2car"), outdir=tmp_path, cfg="edge2car", input=ASSETS / "car.png")
    assert isinstance(result.exception, ValueError)
    assert [path.name for path in tmp_path.iterdir()] == ["edge2car_input.png"]
