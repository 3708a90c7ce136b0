"""generate_samples.py: files, rejected input, and the command line that all applications share."""

import os
import pickle
import re
import shlex
import zipfile

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from command_lines import existing, lines_of
from paths import ROOT
from PIL import Image
from small_data import image_files, label_files, png, write_published_data, write_zip

from applications import cli, generate_samples
from camera_utils import CAMERAS, front_pose
from dnnlib.cli import ChoiceList, Command
from inference import Scene
from inference.latents import latent
from torch_utils.devices import choose_device
from torch_utils.precision import has_fast
from training.data.dataset import PosedImageDataset
from training.data.label_maps import colorize, draw_image, draw_semantic, read_label_map
from training.networks.configs import GeneratorOptions
from training.networks.registry import construct
from training.weights.snapshot import load_network_pkl, save_snapshot

ASSETS = ROOT / "applications" / "assets"
CPU = torch.device("cpu")
UNTRAINED_MESSAGE = "This network is untrained: its images show nothing real."


def run(*arguments, **options):
    words = [*arguments, *(word for name, value in options.items() for word in (f"--{name}", str(value)))]
    return CliRunner().invoke(generate_samples.main, [str(word) for word in words])


def pixels(path):
    return np.array(Image.open(path))


# --------------------------------------------------------------------------- files


@pytest.fixture(scope="module")
def cars(untrained, tmp_path_factory):
    """Output directory of one successful run."""
    outdir = tmp_path_factory.mktemp("samples") / "made" / "here"
    words = ["--random_seed", 3, 5, "--device", "cpu"]
    result = run(*words, network=untrained("edge2car"), outdir=outdir, cfg="edge2car", input=ASSETS / "car.png")
    assert result.exit_code == 0, result.output
    assert UNTRAINED_MESSAGE in result.output.splitlines()
    return outdir


def test_a_run_writes_the_input_and_two_images_per_seed_and_nothing_else(cars):
    assert sorted(path.name for path in cars.iterdir()) == [
        "edge2car_car_3_color.png",
        "edge2car_car_3_label.png",
        "edge2car_car_5_color.png",
        "edge2car_car_5_label.png",
        "edge2car_car_input.png",
    ]
    assert pixels(cars / "edge2car_car_3_color.png").shape == (128, 128, 3)
    assert pixels(cars / "edge2car_car_3_label.png").shape == (128, 128)


def test_the_saved_input_reads_back_as_the_input(cars):
    saved, given = (read_label_map(path, "edge", 1) for path in (cars / "edge2car_car_input.png", ASSETS / "car.png"))
    assert torch.equal(saved, given)


@torch.inference_mode()
def test_a_sample_is_the_front_view_of_its_seed_without_truncation_or_noise(cars, untrained):
    G = load_network_pkl(untrained("edge2car"))["G_ema"]
    label_map = read_label_map(ASSETS / "car.png", "edge", 1)
    pose = front_pose(CAMERAS["edge2car"])
    z = torch.from_numpy(np.random.RandomState(5).randn(1, 512).astype(np.float32))
    ws = G.mapping(z, pose, {"mask": label_map, "pose": pose})
    out = G.synthesis(ws, pose, neural_rendering_resolution=64, noise_mode="const", jitter=False)
    # one gray level: a process with another number of threads adds in another order
    for name, image in (("color", draw_image(out["image"])), ("label", draw_semantic(out["semantic"], "edge"))):
        saved = pixels(cars / f"edge2car_car_5_{name}.png").astype(int)
        assert abs(saved - image[0]).max() <= 1
    assert (pixels(cars / "edge2car_car_3_color.png") != pixels(cars / "edge2car_car_5_color.png")).any()


def test_label_maps_are_written_in_the_palette_they_are_read_with(tmp_path):
    narrow = {"channel_base": 512, "channel_max": 8, "encoder_width": 0.02, "sr_width": 0.1, "plane_resolution": 32}
    options = GeneratorOptions("afhq", 128, semantic_channels=6, depth_resolution=6, **narrow)
    G = construct(options.class_name, options.kwargs())
    save_snapshot(tmp_path / "small.pt", {"G_ema": G})
    colored = tmp_path / "colored.png"
    Image.fromarray(colorize(pixels(ASSETS / "cat.png"))).save(colored)
    result = run(network=tmp_path / "small.pt", outdir=tmp_path, cfg="seg2cat", input=colored, device="cpu")
    assert result.exit_code == 0, result.output
    assert "untrained" not in result.output
    for name in ("seg2cat_colored_input.png", "seg2cat_colored_0_label.png"):
        ids = read_label_map(tmp_path / name, "seg", 6)
        assert ids.shape == (1, 1, 128, 128)
    resized = read_label_map(colored, "seg", 6, 128)
    assert torch.equal(read_label_map(tmp_path / "seg2cat_colored_input.png", "seg", 6), resized)


def test_a_sample_of_a_data_set_is_rendered_from_its_own_pose(tmp_path, untrained):
    data_dir = write_published_data(tmp_path, "edge2car")
    options = {"network": untrained("edge2car"), "cfg": "edge2car", "input_id": 2}
    result = run(**options, outdir=tmp_path / "published", data_dir=data_dir)
    assert result.exit_code == 0, result.output
    own = {"data": data_dir / "cars_128.zip", "mask_data": data_dir / "shapenet_car_contour.zip"}
    assert run(**options, outdir=tmp_path / "own", **own).exit_code == 0
    names = ["edge2car_2_0_color.png", "edge2car_2_0_label.png", "edge2car_2_input.png"]
    for directory in ("published", "own"):
        assert sorted(path.name for path in (tmp_path / directory).iterdir()) == names
    assert all((tmp_path / "own" / name).read_bytes() == (tmp_path / "published" / name).read_bytes() for name in names)

    stored = PosedImageDataset(own["data"], own["mask_data"], "edge")[2]
    drawing = pixels(tmp_path / "own" / names[2])
    assert np.array_equal(drawing[::8, ::8], 255 - stored["mask"][0])  # 16 pixels to the network's 128
    G = load_network_pkl(untrained("edge2car"))["G_ema"]
    pose = torch.from_numpy(stored["pose"])[None]
    G.neural_rendering_resolution = 64
    view = Scene.from_label_map(G, tmp_path / "own" / names[2], 0, pose).render(pose=pose)
    # The two conversions from 0..255 to the network's range round differently: an image may differ by one level.
    difference = pixels(tmp_path / "own" / names[0]).astype(int) - view.image
    assert abs(difference).max() <= 1


def test_without_cfg_the_configuration_is_read_from_the_weights(tmp_path, untrained):
    result = run(network=untrained("edge2car"), outdir=tmp_path, input=ASSETS / "car.png", device="cpu")
    assert result.exit_code == 0, result.output
    names = ["edge2car_car_0_color.png", "edge2car_car_0_label.png", "edge2car_car_input.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def own_classes(directory, classes, camera="afhq"):
    """Path of a small network with a number of classes that no published configuration has."""
    narrow = {"channel_base": 512, "channel_max": 8, "encoder_width": 0.02, "sr_width": 0.1, "plane_resolution": 32}
    options = GeneratorOptions(camera, 128, semantic_channels=classes, depth_resolution=6, **narrow)
    save_snapshot(directory / "own.pt", {"G_ema": construct(options.class_name, options.kwargs())})
    return directory / "own.pt"


@pytest.mark.parametrize(("camera", "cfg"), [("afhq", "seg2cat"), ("celeba", "seg2face"), ("shapenet", "shapenet")])
def test_a_network_with_its_own_number_of_classes_uses_the_preset_of_its_cameras(camera, cfg, tmp_path):
    network = own_classes(tmp_path, 8, camera)
    write_zip(tmp_path / "images.zip", image_files(1))
    write_zip(tmp_path / "labels.zip", label_files(1, classes=8))
    ids = tmp_path / "ids.png"
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) % 8).save(ids)
    given = [{"input": ids}, {"input_id": 0, "data": tmp_path / "images.zip", "mask_data": tmp_path / "labels.zip"}]
    given += [{"input": ids, "cfg": cfg}] if cfg != "shapenet" else []
    for options in given:
        result = run("--overwrite", network=network, outdir=tmp_path / "out", device="cpu", **options)
        assert result.exit_code == 0, result.output
    names = [f"{cfg}_{name}_{end}.png" for name in ("0", "ids") for end in ("0_color", "0_label", "input")]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names

    Image.fromarray(np.full((8, 8), 8, np.uint8)).save(ids)
    refused = run(network=network, outdir=tmp_path / "other", input=ids)
    assert refused.exit_code == 2 and "got class 8 at x=0 y=0; this network's classes are 0 to 7" in refused.output


def test_a_network_without_published_data_needs_its_data_set_named(tmp_path):
    result = run(network=own_classes(tmp_path, 8, "shapenet"), outdir=tmp_path / "out", input_id=0)
    assert result.exit_code == 2
    (line,) = lines_of(result)
    assert line.startswith("Error: --data: no published data set fits this network; give --data and")


# --------------------------------------------------------------------------- rejected input


def written(name, content):
    def make(directory):
        path = directory / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, np.ndarray):
            Image.fromarray(content).save(path)
        else:
            content(path)
        return path

    return make


def snapshot(class_name, kwargs, name="G_ema"):
    return lambda path: save_snapshot(path, {name: construct(class_name, kwargs)})


def cut_short(path):
    TINY["in another role"](path)
    path.write_bytes(path.read_bytes()[:2000])


class Runs:
    """A pickle that would run a command when a plain unpickler opens it."""

    def __reduce__(self):
        return print, ("this ran",)


def cars_in(directory):
    return write_published_data(directory, "edge2car")


FULLY_CONNECTED = ("FullyConnectedLayer", {"in_features": 2, "out_features": 3})
TINY = {"in another role": snapshot(*FULLY_CONNECTED, name="G"), "no generator": snapshot(*FULLY_CONNECTED)}
IDS = np.arange(64, dtype=np.uint8).reshape(8, 8) % 6
NOISE = np.random.RandomState(0).randint(0, 150, (64, 64, 3), np.uint8)
EDGE = {"cfg": "edge2car"}
CAT = {"network": "seg2cat"}  # else the network is never opened
CAR = {**EDGE, "network": "edge2car"}

# Changes to a valid command line, and the expected error message. None removes an option; functions
# make a file in a directory.
REFUSED = {
    # the command line
    "no network": ({"network": None}, "Missing option '--network'"),
    "no outdir": ({"outdir": None}, "Missing option '--outdir'"),
    "no input": ({"input": None}, "--input, --input_id: expected one of them, got none"),
    "two inputs": ({"input_id": 0}, "--input, --input_id: expected one of them, got both"),
    "data set without a sample's number": ({"data_dir": "data"}, "--data, --mask_data, --data_dir: go with --input_id"),
    "negative sample": ({"input": None, "input_id": -1}, "'--input_id': -1 is not in the range"),
    "no such data directory": ({**CAT, "input": None, "input_id": 0, "data_dir": "nowhere"}, "--data_dir .*nowhere"),
    "images without label maps": ({"input": None, "input_id": 0, "data": "a.zip"}, "--data, --mask_data: .* both"),
    "sample beyond the last": ({**CAR, "input": None, "input_id": 5, "data_dir": cars_in},
                               "--input_id 5: cars_128 has samples 0 to 4"),
    "sample with other classes": (
        {"input": None, "input_id": 0, "data": lambda directory: cars_in(directory) / "cars_128.zip",
         "mask_data": lambda directory: write_zip(directory / "classes.zip", label_files(classes=200)),
         "network": "seg2cat"},
        "--input_id: got '0 to 1[0-9]+', expected 0 to 5"),
    "unknown option": ({"sed": 1}, "No such option.*--sed"),
    "unknown config": ({"cfg": "seg2dog"}, "'--cfg': 'seg2dog' is not one of 'seg2cat'"),
    "unknown precision": ({"precision": "int8"}, "'--precision': 'int8' is not one of 'auto', 'fp32'"),
    "unknown device": ({"device": "gpu"}, "--device: got 'gpu', expected one of .*cpu"),
    "a device that is not here": ({"device": "cuda:99"}, "--device: got 'cuda:99', expected one of "),
    "a device that cannot compute": ({"device": "meta"}, "--device: got 'meta', expected one of "),
    "word as seed": ({"random_seed": "one"}, "'--random_seed': one: expected a whole number from 0 to 4294967295"),
    "fraction as seed": ({"random_seed": "1.5"}, "'--random_seed': 1.5: expected a whole number"),
    "empty seed": ({"random_seed": ""}, "'--random_seed': : expected a whole number"),
    "negative seed": ({"random_seed": "-1"}, "'--random_seed': -1: expected a whole number from 0"),
    "seed too large": ({"random_seed": 2**32}, "'--random_seed': 4294967296: the largest seed is 4294967295"),
    "endless seed": ({"random_seed": "9" * 5000}, "'--random_seed': 9+: expected a whole number"),
    "seeds backwards": ({"random_seed": "3-1"}, "'--random_seed': 3-1: expected the smaller seed first"),
    "a million seeds": ({"random_seed": "0-999999"}, "'--random_seed': 0-999999: .*at most 100000 seeds"),
    # the network
    "no such network": ({"network": "nowhere.pkl"}, "--network nowhere.pkl: .*No such file"),
    "directory as network": ({"network": ASSETS}, f"--network {ASSETS}: .*directory"),
    "empty network": ({"network": written("a.pkl", b"")}, "--network .*a.pkl: empty file"),
    "text as network": ({"network": written("a.pkl", b"hello, network")}, "--network .*a.pkl: not a weights file"),
    "web page as network": ({"network": written("a.pkl", b"<!doctype html>")}, "--network .*a.pkl: a web page"),
    "image as network": ({"network": ASSETS / "cat.png"}, "--network .*cat.png: not a weights file"),
    "truncated network": ({"network": written("a.pt", cut_short)}, "--network .*a.pt: damaged"),
    "foreign pickle": ({"network": written("a.pkl", pickle.dumps({"G": 1}))}, r"--network .*a.pkl: .*\bG\b"),
    "pickle that would run code": ({"network": written("a.pkl", pickle.dumps(Runs()))}, "--network .*a.pkl: .*print"),
    "foreign torch file": ({"network": written("a.pt", lambda path: torch.save({"w": torch.ones(2)}, path))},
                           "--network .*a.pt: .*not a snapshot"),
    "zip as network": ({"network": written("a.zip", lambda path: zipfile.ZipFile(path, "w").close())},
                       "--network .*a.zip: "),
    "network without G_ema": ({"network": written("a.pt", TINY["in another role"])}, "a.pt: .*no G_ema"),
    "no generator": ({"network": written("a.pt", TINY["no generator"])}, "G_ema does not make images and label maps"),
    "no server at the address": ({"network": "http://127.0.0.1:9/a.pkl"}, "--network http://127.0.0.1:9/.*refused"),
    "unknown kind of address": ({"network": "ftp://a/b.pkl"}, "--network ftp://a/b.pkl: .*cannot open ftp"),
    "cars as cats": ({"network": "edge2car", "cfg": "seg2cat"}, "got 'seg2cat', expected edge2car; .* takes edges"),
    "cats as faces": ({"network": "seg2cat", "cfg": "seg2face"}, "got 'seg2face', expected seg2cat; .*6 classes"),
    "cars as cats from edges": ({"network": "edge2car", "cfg": "edge2cat", "input": ASSETS / "car.png"},
                                "--cfg: got 'edge2cat', expected edge2car; .* distance of 1.7"),
    # the label map
    "no such input": ({"input": "nowhere.png"}, "--input nowhere.png: no such file"),
    "directory without images as input": ({"input": ROOT / "dnnlib"}, "--input .*dnnlib: holds no images"),
    "named pipe as input": ({"input": written("pipe.png", os.mkfifo)}, "--input .*pipe.png: no such file"),
    "empty input": ({**CAT, "input": written("a.png", b"")}, "--input .*a.png: not a PNG or JPEG"),
    "text named .png": ({**CAT, "input": written("a.png", b"a cat, please")}, "--input .*a.png: not a PNG or JPEG"),
    "truncated input": ({**CAT, "input": written("a.png", png(NOISE)[:4000])}, "--input .*a.png: damaged"),
    "16 bits": ({**CAT, "input": written("a.png", IDS.astype(np.uint16) * 1000)}, "--input .*a.png: mode I;16"),
    "class ids of another network": (
        {**CAT, "input": written("a.png", IDS + 3)}, "got class 6 .*classes are 0 to 5"),
    "wrong palette": ({**CAT, "input": written("a.png", 255 - colorize(IDS))}, "color 0,0,0 at x=0 y=0 is none"),
    "photo": ({**CAT, "input": written("a.png", NOISE)}, "looks like a photo"),
    "jpeg": ({**CAT, "input": written("a.jpg", IDS)}, "JPEG changes class ids"),
    "not square": ({**CAT, "input": written("a.png", IDS[:5])}, "8x5 pixels; expected a square"),
    "class ids as drawing": ({**CAR, "input": ASSETS / "cat.png"}, "expected dark lines on white|edge"),
    "white lines on black": ({**CAR, "input": written("a.png", IDS // 5 * 255)}, "expected dark lines on white"),
    # the place to write
    "file in the place of outdir": ({"outdir": written("taken", b"mine")}, "--outdir .*taken: expected a directory"),
    "file above outdir": ({"outdir": lambda directory: written("taken", b"")(directory) / "x"},
                              "--outdir .*taken: expected a directory"),
    "outdir without a name": ({"outdir": ""}, "'--outdir': expected the name of a directory"),
    "name too long": ({"outdir": lambda directory: directory / ("x" * 300)}, "--outdir .*File name too long"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_input_gives_one_line_exit_code_2_and_no_file(case, tmp_path, untrained):
    changes, message = REFUSED[case]
    good = {"network": "seg2cat", "outdir": tmp_path / "out", "cfg": "seg2cat", "input": ASSETS / "cat.png"}
    options = good | changes
    options = {name: value(tmp_path) if callable(value) else value for name, value in options.items()}
    if options["network"] in CAMERAS:
        options["network"] = (
            untrained(options["network"]) if "network" in changes else existing(tmp_path / "never-read.pkl")
        )
    before = sorted(tmp_path.rglob("*"))

    result = run(**{name: value for name, value in options.items() if value is not None})

    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit), "a traceback"
    *messages, line = lines_of(result)
    assert re.search(f"^Error: .*{message}", line), line
    assert messages in ([], [UNTRAINED_MESSAGE])
    assert sorted(tmp_path.rglob("*")) == before, "something was left"


@pytest.mark.skipif(has_fast("bf16", CPU), reason="this CPU has bf16 convolutions")
def test_a_precision_without_fast_convolutions_is_reported_and_computed_in_fp32(tmp_path, untrained):
    options = {"network": untrained("edge2car"), "cfg": "edge2car", "input": ASSETS / "car.png", "device": "cpu"}
    result = run(**options, outdir=tmp_path / "bf16", precision="bf16")
    assert "computing in fp32" in result.output
    assert run(**options, outdir=tmp_path / "fp32", precision="fp32").exit_code == 0
    for path in (tmp_path / "fp32").iterdir():
        assert path.read_bytes() == (tmp_path / "bf16" / path.name).read_bytes()


def test_a_bug_in_rendering_is_not_reported_as_a_user_error(monkeypatch, untrained, tmp_path):
    def broken(*args, **kwargs):
        raise ValueError("shapes differ")

    monkeypatch.setattr(Scene, "render", broken)
    result = run(network=untrained("edge2car"), outdir=tmp_path, cfg="edge2car", input=ASSETS / "car.png")
    assert isinstance(result.exception, ValueError)


# --------------------------------------------------------------------------- command line


@click.command(cls=Command)
@click.option("--random_seed", "seeds", type=cli.Seeds(), callback=cli.unique_seeds, multiple=True, default=["7"])
@click.option("--some_name", default="x")
@click.argument("rest", nargs=-1)
def echo(seeds, some_name, rest):
    click.echo(f"{seeds} {some_name} {list(rest)}")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", "[7] x []"),
        ("--random_seed 0", "[0] x []"),
        ("--random_seed 0 1 2", "[0, 1, 2] x []"),
        ("--random-seed 0 1 --some-name y", "[0, 1] y []"),
        ("--random_seed=4 5", "[4, 5] x []"),
        ("--random_seed 2-4 9 3", "[2, 3, 4, 9] x []"),
        ("--random_seed 1 --some_name y --random_seed 2", "[1, 2] y []"),
        ("word --random_seed 1 -- 2", "[1] x ['word', '2']"),
    ],
)
def test_seeds_are_parsed_from_numbers_and_ranges(line, expected):
    result = CliRunner().invoke(echo, shlex.split(line))
    assert result.output == f"{expected}\n"


def test_the_default_device_is_the_first_available():
    first = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert choose_device(None).type == first
    assert choose_device("cpu") == CPU


def test_latent_codes_of_a_seed_never_change():
    z = latent(1, 512)
    assert z.shape == (1, 512) and z.dtype == torch.float32
    # known first draws of numpy's legacy generator, whose stream is frozen
    torch.testing.assert_close(z[0, :3], torch.tensor([1.6243454, -0.6117564, -0.5281718]), rtol=0, atol=1e-6)


def test_ctrl_c_gives_one_line_and_exit_code_130():
    @click.command(cls=Command)
    def interrupted() -> None:
        raise KeyboardInterrupt

    result = CliRunner().invoke(interrupted, [])
    assert (result.exit_code, result.output.count("Stopped: ")) == (130, 1)
    assert result.output.strip().count("\n") == 0


def test_a_list_of_names_keeps_its_order_without_duplicates():
    @click.command(cls=Command)
    @click.option("--show", type=ChoiceList(["a", "b", "c"]))
    def shown(show: list[str]) -> None:
        click.echo(show)

    assert CliRunner().invoke(shown, ["--show", "c,a,c"]).output == "['c', 'a']\n"
    refused = CliRunner().invoke(shown, ["--show", "a,d"])
    assert refused.exit_code == 2 and "'d': expected some of a,b,c" in refused.output
