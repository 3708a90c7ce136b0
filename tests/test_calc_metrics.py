"""The command that judges a model: what it shows and writes, one process or two, what it refuses."""

import json
import re
import shlex
import sys
import warnings

import pytest
import torch
from click.testing import CliRunner
from metric_data import OBJECTS, VIEWS, tiny_network, toy
from paths import ROOT
from PIL import Image
from small_data import image_files, label_files, write_zip
from torch import nn

import calc_metrics
from training.data.archive import ArchiveWriter
from training.weights.snapshot import load_network_pkl, save_snapshot

CAT = ROOT / "applications" / "assets" / "cat.png"
THUMBNAILS = "metric_data:Thumbnails"


def run(*arguments, **options):
    words = [*arguments, *(f"--{name}={value}" for name, value in options.items() if value is not None)]
    return CliRunner().invoke(calc_metrics.main, [str(word) for word in words])


@pytest.fixture(scope="module")
def cats(tmp_path_factory):
    """Options of a good run on toy cats."""
    folder = tmp_path_factory.mktemp("cats")
    return {"network": tiny_network(folder / "cats.pt"), "cfg": "seg2cat", "device": "cpu", **toy(folder)}


@pytest.fixture(scope="module")
def cars(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cars")
    return {
        "network": tiny_network(folder / "cars.pt", "cars"),
        "cfg": "edge2car",
        "device": "cpu",
        **toy(folder, "cars"),
    }


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PIX2PIX3D_CACHE", str(tmp_path / "cache"))


def figures(folder):
    """All results in a folder's files, of their last lines."""
    lines = [path.read_text().splitlines()[-1] for path in sorted(folder.glob("metric-*.jsonl"))]
    return {name: value for line in lines for name, value in json.loads(line)["results"].items()}


# --------------------------------------------------------------------------- what it shows and writes


def test_a_run_shows_a_table_and_keeps_a_line_for_each_metric_and_the_protocol(cats, tmp_path):
    options = {**cats, "outdir": tmp_path / "made" / "here", "metrics": "miou,fid4_full", "num": 3}
    result = run(**options, extractor=THUMBNAILS)
    assert result.exit_code == 0, result.output
    folder = options["outdir"]
    names = [f"metric-{name}{ending}" for name in ("fid4_full", "miou") for ending in ("-protocol.txt", ".jsonl")]
    assert sorted(path.name for path in folder.iterdir()) == names
    line = json.loads((folder / "metric-miou.jsonl").read_text())
    assert line["metric"] == "miou" and line["samples"] == 3 and line["num_gpus"] == 1
    assert line["snapshot_pkl"] == str(cats["network"]) and line["cfg"] == "seg2cat"
    assert re.search(rf"^miou +{line['results']['miou']:.5g}$", result.output, re.MULTILINE)
    told = (folder / "metric-fid4_full-protocol.txt").read_text()
    choices = ("RandomState(0)", "samples: 4", THUMBNAILS, "sha256", "no jitter", "batch: 4", "real pictures: 6, all")
    for choice in (*choices, "float32", "torch: ", "seed: 0", "rounded", "divided by N", "lower is better"):
        assert choice in told, choice
    assert "samples: 3" in (folder / "metric-miou-protocol.txt").read_text() and "higher" in line["protocol"]["miou"]
    assert run(**options, extractor=THUMBNAILS).exit_code == 0
    lines = (folder / "metric-miou.jsonl").read_text().splitlines()
    assert len(lines) == 2 and json.loads(lines[1])["results"] == line["results"]  # the same, once more


def test_baselines_stand_beside_the_network(cats, tmp_path):
    result = run("--baselines", **cats, outdir=tmp_path, metrics="acc,nvs", num=2)
    assert result.exit_code == 0, result.output
    assert any(line.split() == ["network", "untrained", "constant"] for line in result.output.splitlines())
    line = json.loads((tmp_path / "metric-nvs.jsonl").read_text())
    names = {"nvs_miou", "nvs_psnr", "nvs_ssim", "nvs_depth"}
    assert set(line["results"]) == set(line["baselines"]["untrained"]) == set(line["baselines"]["constant"]) == names
    assert line["baselines"]["constant"]["nvs_miou"] > line["results"]["nvs_miou"]  # this network is untrained itself


def test_edges_have_an_average_precision(cars, tmp_path):
    result = run(**cars, outdir=tmp_path, metrics="ap", num=2)
    assert result.exit_code == 0, result.output
    assert 0 <= figures(tmp_path)["ap"] <= 1
    assert "of the diagonal, here 1 pixels" in (tmp_path / "metric-ap-protocol.txt").read_text()


def test_metrics_are_given_with_commas_or_one_by_one_and_land_in_out(cats, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("--metrics", "miou", "acc", **cats, num=1)
    assert result.exit_code == 0, result.output
    assert set(figures(tmp_path / "out" / "metrics")) == {"miou", "acc"}


def test_what_is_known_is_kept_when_a_later_metric_fails(cats, tmp_path):
    result = run(**cats, outdir=tmp_path, metrics="sg,miou", distance="features", extractor="metric_data:NotFinite")
    assert result.exit_code == 2
    assert "--extractor metric_data:NotFinite: gives numbers that are not finite" in result.output
    assert set(figures(tmp_path)) == {"miou"}


def test_features_of_few_bits_are_taken(cats, tmp_path):
    result = run(**cats, outdir=tmp_path, metrics="fid", extractor="metric_data:Halves")
    assert result.exit_code == 0, result.output


def test_a_segmenter_judges_the_pictures(cats, tmp_path):
    result = run(**cats, outdir=tmp_path, metrics="miou", num=2, segmenter="metric_data:Brightness")
    assert result.exit_code == 0, result.output
    assert set(figures(tmp_path)) == {"miou", "miou_segmented"}


@pytest.mark.slow
def test_two_processes_find_what_one_finds(cats, tmp_path):
    found = []
    for gpus in (1, 2):
        options = {
            **cats,
            "metrics": "fid,kid,pr,miou,sg,fvv,nvs",
            "extractor": THUMBNAILS,
            "distance": "l1",
            "batch": 2,
            "num": 4,
        }
        result = run(**options, embedding=THUMBNAILS, outdir=tmp_path / str(gpus), gpus=gpus)
        assert result.exit_code == 0, result.output
        found.append(figures(tmp_path / str(gpus)))
    one, two = found
    assert one.keys() == two.keys() and len(one) == 17
    for name in one:  # processes have fewer threads, which add in another order; None: this network has no surface
        assert two[name] == one[name] or two[name] == pytest.approx(one[name], rel=1e-4, abs=1e-6), name


# --------------------------------------------------------------------------- what it refuses


def other_size(folder):
    return {"data": write_zip(folder / "a.zip", image_files()), "mask_data": write_zip(folder / "b.zip", label_files())}


def more_classes(folder):
    files = toy_sized(folder, classes=9)
    return {"data": files[0], "mask_data": files[1]}


def toy_sized(folder, classes=6):
    images, labels = image_files(size=128), label_files(size=128, classes=classes)
    return write_zip(folder / "a.zip", images), write_zip(folder / "b.zip", labels)


def one_view(folder):
    data, mask_data = toy_sized(folder)
    return {"data": data, "mask_data": mask_data, "metrics": "nvs"}


def depth_without_scale(folder):
    with ArchiveWriter(folder / "depth.zip") as archive:
        archive.add("depth.json", "{}")
    return {"metrics": "nvs", "depth_data": folder / "depth.zip"}


def small_depth(folder, mode):
    """Depth under the pictures' names, of a size of its own; RGB is none at all."""
    Image.new(mode, (4, 4)).save(folder / "x.png")
    with ArchiveWriter(folder / "depth.zip") as archive:
        archive.add("depth.json", '{"world_units_per_level": 0.1}')
        for number in range(OBJECTS * VIEWS):
            archive.add(f"00000/img{number:08d}.png", (folder / "x.png").read_bytes())
    return {"metrics": "nvs", "depth_data": folder / "depth.zip"}


def colors_as_depth(folder):
    return small_depth(folder, "RGB")


def depth_of_other_pictures(folder):
    return small_depth(folder, "I;16")


class Doubled(nn.Module):
    """A convolution, whose weights want floating-point pictures."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 1)

    def forward(self, pictures):
        return self.layer(pictures).mean((2, 3))


def wants_float(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(Doubled()).save(folder / "float.pt")
    return {"metrics": "fid", "extractor": folder / "float.pt"}


def module_that_is_none(folder):
    (folder / "no_python.py").write_text("class Net(")
    sys.path.append(str(folder))  # taken out by the test
    return {"metrics": "fid", "extractor": "no_python:Net"}


def taken(folder):
    (folder / "taken").write_bytes(b"")
    return {"outdir": folder / "taken"}


# What is wrong -> changes to a good call, and how the answer starts or what it contains. None leaves an option out.
REFUSED = {
    "no network": ({"network": None}, "Missing option '--network'"),
    "no such network": ({"network": "nowhere.pt"}, "--network nowhere.pt: .*No such file"),
    "unknown config": ({"cfg": "seg2dog"}, "'--cfg': 'seg2dog' is not one of"),
    "cats as faces": ({"cfg": "seg2face"}, "takes 6 classes.*fits seg2cat"),
    "no metrics": ({"metrics": None}, "Missing option '--metrics'"),
    "empty metrics": ({"metrics": ","}, "--metrics expected some of fid, kid"),
    "unknown metric": ({"metrics": "miou,beauty"}, "--metrics beauty: no such metric; there are fid, kid"),
    "edges of classes": ({"metrics": "ap"}, "--metrics ap: is for edge data, this is seg"),
    "no samples": ({"num": 0}, "'--num': 0 is not in the range 1<=x"),
    "word as number": ({"num": "all"}, "'--num': 'all' is not a valid integer"),
    "too few for precision": ({"metrics": "pr", "num": 3}, "--metrics pr: takes 4 samples or more, there would be 3"),
    "too few pictures for a score": ({"metrics": "is9"}, "--metrics is9: takes 10 samples or more, there would be 9"),
    "more samples than fit": ({"num": 10**15}, "'--num': 10{15} is not in the range"),
    "more pictures than fit": ({"metrics": "fid999999999999k"}, "fid9+k: expected 10000000 samples at most"),
    "digits of another script": ({"metrics": "fid\u0663"}, "--metrics fid.: no such metric"),
    "negative seed": ({"seed": -1}, "'--seed': -1 is not in the range"),
    "no batch": ({"batch": 0}, "'--batch': 0 is not in the range"),
    "unknown device": ({"device": "tpu"}, "'--device': 'tpu' is not one of"),
    "a device that is not here": ({"device": "mps"}, "--device mps: device not available"),
    "unknown distance": ({"distance": "l7"}, "'--distance': 'l7' is not one of 'lpips', 'l1', 'features'"),
    "unknown option": ({"metric": "fid"}, "No such option.*--metric"),
    # data
    "no such data": ({"data": "nowhere.zip"}, "--data nowhere.zip: .*no such file"),
    "images without label maps": ({"mask_data": None}, "--data, --mask_data: expected both"),
    "data twice": ({"data_dir": "data"}, "--data, --mask_data: expected both, without --data_dir"),
    "no such data folder": (
        {"data": None, "mask_data": None, "data_dir": "nowhere"}, "--data nowhere/afhq.*no such file"),
    "another size": (other_size, "--data .*has 16 pixels, the network makes 128"),
    "unknown classes": (more_classes, "its label map has class [678], the network knows 0 to 5"),
    "one view of each object": (one_view, "--metrics nvs, chamfer: .*dataset.json: expected \"views\", 2 or more"),
    "no such depth": ({"metrics": "nvs", "depth_data": "none.zip"}, "--depth_data none.zip: .*no such file"),
    "depth without scale": (depth_without_scale, "--depth_data .*depth.json: expected .*world_units_per_level"),
    "colors as depth": (colors_as_depth, "img0000000.*not a depth picture .*mode RGB"),
    "depth of other pictures": (depth_of_other_pictures, "--depth_data .*4x4 pixels, its image has 128; depth of an"),
    # tools
    "extractor that wants floats": (wants_float, "--extractor .*float.pt: fails on pictures 2,3,128,128 uint8"),
    "extractor of two things": (
        {"metrics": "fid", "extractor": "metric_data:Pair"}, "--extractor .*expected a tensor .*numbers, got tuple"),
    "extractor that must be told more": (
        {"metrics": "fid", "extractor": "metric_data:Needy"}, "--extractor .*missing 1 required positional argument"),
    "extractor that fails": ({"metrics": "fid", "extractor": "metric_data:Whims"}, r"--extractor .*\(not today\)"),
    "extractor that is no Python": (module_that_is_none, "--extractor no_python:Net: .*was never closed"),
    "features that are no numbers": (
        {"metrics": "fid", "extractor": "metric_data:NotFinite"}, "--extractor .*gives numbers that are not finite"),
    "no such extractor": ({"metrics": "fid", "extractor": "no.pt"}, "--extractor no.pt: no such file; expected incep"),
    "extractor that is a picture": ({"metrics": "fid", "extractor": CAT}, "cat.png: not a TorchScript file"),
    "score without probabilities": (
        {"metrics": "is10_full", "extractor": THUMBNAILS}, "--metrics is: --extractor .* gives no class probabilities"),
    "no such embedding": ({"metrics": "fvv", "embedding": "no.pt"}, "--embedding no.pt: no such file"),
    "segmenter of other classes": (
        {"segmenter": "metric_data:Squares"}, "--segmenter metric_data:Squares: expected logits 2,6,128,128"),
    "no LPIPS weights": (
        {"metrics": "sg", "lpips_weights": "no.pth"}, "--distance lpips: .*; give --lpips_weights FILE, or --distance"),
    # the place to write
    "file in the place of outdir": (taken, "--outdir .*taken: is a file"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_input_is_one_clear_line_exit_code_2_and_no_file(case, cats, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    changes, message = REFUSED[case]
    options = {**cats, "outdir": tmp_path / "out", "metrics": "miou", "num": None}
    options |= changes(tmp_path) if callable(changes) else changes

    result = run(**options)

    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit), "a traceback"
    (line,) = result.output.splitlines()
    assert re.search(f"^Error: .*({message})", line), line
    assert not (tmp_path / "out").exists()


def test_edges_cannot_be_segmented_and_have_no_classes(cars, tmp_path):
    for options, message in (({"segmenter": "x.pt", "metrics": "ap"}, "--segmenter: is for classes"),
                             ({"metrics": "miou"}, "--metrics miou: is for seg data, this is edge")):  # fmt: skip
        result = run(**cars, **options, outdir=tmp_path / "out")
        assert result.exit_code == 2 and message in result.output


@pytest.mark.parametrize("started", ["4", "abc"])
def test_other_processes_than_torchrun_started_are_refused(started, cats, monkeypatch, tmp_path):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", started)
    result = run(**cats, metrics="miou", outdir=tmp_path / "out")
    assert result.exit_code == 2 and f"--gpus 1: torchrun started {started} processes" in result.output


def test_edges_that_are_not_finite_are_one_line(cars, tmp_path):
    broken = tmp_path / "broken.pt"
    G = load_network_pkl(cars["network"])["G_ema"]
    next(G.superresolution_semantic.parameters()).data.fill_(torch.nan)
    save_snapshot(broken, {"G_ema": G})
    result = run(**{**cars, "network": broken}, metrics="ap", outdir=tmp_path / "out")
    assert result.exit_code == 2 and re.search("Error: --network .* not finite", result.output), result.output


# --------------------------------------------------------------------------- what the pages say


def commands(page):
    """Command lines of calc_metrics.py on a page, as lists of words."""
    text = (ROOT / page).read_text().replace("\\\n", " ")
    lines = re.findall(r"^python calc_metrics.py (.*)$", text, re.MULTILINE)
    return [pytest.param(shlex.split(line), id=f"{page}-{number}") for number, line in enumerate(lines)]


@pytest.mark.parametrize("words", [*commands("docs/metrics.md"), *commands("README.md")])
def test_commands_on_our_pages_run(words, cats, tmp_path, monkeypatch):
    """As they stand there, but with the smallest files in the place of their own."""
    monkeypatch.chdir(tmp_path)
    small = {**cats, "num": 2, "extractor": THUMBNAILS}
    for place, word in enumerate(words):
        if (name := word.removeprefix("--")) in small:
            words[place + 1] = str(small[name])
    result = run(*words)
    assert result.exit_code == 0, result.output
    assert any(tmp_path.rglob("metric-*.jsonl"))
