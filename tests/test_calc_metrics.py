"""calc_metrics.py: table, files, baselines, processes, invalid input, and the commands of our documentation."""

import json
import re
import shlex
import sys
import warnings

import pytest
import torch
from click.testing import CliRunner
from command_lines import lines_of
from metric_data import OBJECTS, VIEWS, tiny_network, toy
from paths import ROOT
from PIL import Image
from small_data import image_files, label_files, write_zip
from torch import nn

import calc_metrics
import inference
from training.data.archive import write_archive
from training.weights.snapshot import load_network_pkl, save_snapshot

CAT = ROOT / "applications" / "assets" / "cat.png"
THUMBNAILS = "metric_data:Thumbnails"


def run(*arguments, **options):
    words = [*arguments, *(f"--{name}={value}" for name, value in options.items() if value is not None)]
    return CliRunner().invoke(calc_metrics.main, [str(word) for word in words])


@pytest.fixture(scope="module")
def cats(tmp_path_factory):
    """Options of a valid call on toy cats."""
    directory = tmp_path_factory.mktemp("cats")
    return {"network": tiny_network(directory / "cats.pt"), "cfg": "seg2cat", "device": "cpu", **toy(directory)}


@pytest.fixture(scope="module")
def cars(tmp_path_factory):
    directory = tmp_path_factory.mktemp("cars")
    return {
        "network": tiny_network(directory / "cars.pt", "cars"),
        "cfg": "edge2car",
        "device": "cpu",
        **toy(directory, "cars"),
    }


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PIX2PIX3D_CACHE", str(tmp_path / "cache"))


def figures(directory):
    """Return all figures in the last lines of a directory's files."""
    lines = [path.read_text().splitlines()[-1] for path in sorted(directory.glob("metric-*.jsonl"))]
    return {name: value for line in lines for name, value in json.loads(line)["results"].items()}


# --------------------------------------------------------------------------- output


def test_output_is_a_table_and_a_json_line_and_a_protocol_for_each_metric(cats, tmp_path):
    options = {**cats, "outdir": tmp_path / "made" / "here", "metrics": "miou,fid4_full", "num": 3}
    result = run(**options, extractor=THUMBNAILS)
    assert result.exit_code == 0, result.output
    directory = options["outdir"]
    names = [f"metric-{name}{ending}" for name in ("fid4_full", "miou") for ending in ("-protocol.txt", ".jsonl")]
    assert sorted(path.name for path in directory.iterdir()) == names
    line = json.loads((directory / "metric-miou.jsonl").read_text())
    assert line["metric"] == "miou" and line["samples"] == 3 and line["num_gpus"] == 1
    assert line["snapshot_pkl"] == str(cats["network"]) and line["cfg"] == "seg2cat"
    assert re.search(rf"^miou +{line['results']['miou']:.5g}$", result.output, re.MULTILINE)
    text = (directory / "metric-fid4_full-protocol.txt").read_text()
    settings = ("RandomState(0)", "samples: 4", THUMBNAILS, "sha256", "no jitter", "batch: 4", "real images: 6, all")
    for setting in (*settings, "float32", "torch: ", "seed: 0", "rounded", "divided by N", "lower is better"):
        assert setting in text, setting
    assert "samples: 3" in (directory / "metric-miou-protocol.txt").read_text()
    assert "higher is better" in line["protocol"]["metric"].lower()

    # A second call appends the same figures.
    assert run(**options, extractor=THUMBNAILS).exit_code == 0
    lines = (directory / "metric-miou.jsonl").read_text().splitlines()
    assert len(lines) == 2 and json.loads(lines[1])["results"] == line["results"]


def test_each_baseline_has_a_column_and_a_json_entry(cats, tmp_path):
    result = run("--baselines", **cats, outdir=tmp_path, metrics="acc,nvs", num=2)
    assert result.exit_code == 0, result.output
    assert any(line.split() == ["network", "untrained", "constant"] for line in result.output.splitlines())
    line = json.loads((tmp_path / "metric-nvs.jsonl").read_text())
    names = {"nvs_miou", "nvs_psnr", "nvs_ssim", "nvs_depth"}
    assert set(line["results"]) == set(line["baselines"]["untrained"]) == set(line["baselines"]["constant"]) == names
    assert line["baselines"]["constant"]["nvs_miou"] > line["results"]["nvs_miou"]  # the network is untrained too


def test_the_style_of_the_photo_is_that_of_the_encoder_also_of_the_untrained_network(cats, tmp_path):
    network = tiny_network(tmp_path / "style.pt", style_encoder=True)
    results = {}
    for style in ("seeds", "photo"):
        outdir = tmp_path / style
        options = {**cats, "network": network, "outdir": outdir, "metrics": "nvs", "num": 1, "style": style}
        result = run("--baselines", **options)
        assert result.exit_code == 0, result.output
        results[style] = json.loads((outdir / "metric-nvs.jsonl").read_text())
    by_seed, by_photo = results["seeds"], results["photo"]
    assert by_photo["protocol"]["style"] == "photo" and by_photo["results"] != by_seed["results"]
    assert by_photo["baselines"]["untrained"] != by_seed["baselines"]["untrained"]
    assert by_photo["baselines"]["constant"] == by_seed["baselines"]["constant"]


def test_metrics_of_styles_and_strokes_run_together(cats, tmp_path):
    result = run(**cats, outdir=tmp_path, metrics="diversity,stroke", num=1, distance="l1", without=0)
    assert result.exit_code == 0, result.output
    assert set(figures(tmp_path)) == {"diversity_seeds", "diversity_real", "diversity_ratio", "stroke_color"}
    assert "--without: 0" in (tmp_path / "metric-stroke-protocol.txt").read_text()


def test_edges_have_average_precision(cars, tmp_path):
    result = run(**cars, outdir=tmp_path, metrics="ap", num=2)
    assert result.exit_code == 0, result.output
    assert 0 <= figures(tmp_path)["ap"] <= 1
    assert "0.0075 of the image diagonal" in (tmp_path / "metric-ap-protocol.txt").read_text()


def test_metrics_may_be_separate_words_and_go_to_out_metrics_by_default(cats, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("--metrics", "miou", "acc", **cats, num=1)
    assert result.exit_code == 0, result.output
    assert set(figures(tmp_path / "out" / "metrics")) == {"miou", "acc"}


def test_results_are_kept_when_a_later_metric_fails(cats, tmp_path):
    result = run(**cats, outdir=tmp_path, metrics="sg,miou", distance="features", extractor="metric_data:NotFinite")
    assert result.exit_code == 2
    assert "--extractor: metric_data:NotFinite: returns numbers that are not finite" in result.output
    assert set(figures(tmp_path)) == {"miou"}


def test_the_configuration_is_read_from_the_weights_which_are_loaded_once(cats, cars, tmp_path, monkeypatch):
    loaded = []
    load = inference.load_generator

    def counting_load(network, *args):
        loaded.append(network)
        return load(network, *args)

    monkeypatch.setattr(inference, "load_generator", counting_load)
    for options, metric, cfg in ((cats, "miou", "seg2cat"), (cars, "ap", "edge2car")):
        result = run(**{**options, "cfg": None}, outdir=tmp_path, metrics=metric, num=1)
        assert result.exit_code == 0, result.output
        assert json.loads((tmp_path / f"metric-{metric}.jsonl").read_text())["cfg"] == cfg
    assert loaded == [str(cats["network"]), str(cars["network"])]


def test_networks_that_follow_no_configuration_need_data_and_no_cfg(tmp_path):
    network = tiny_network(tmp_path / "faces.pt", "face edges")
    result = run(network=network, metrics="ap", device="cpu", outdir=tmp_path / "out")
    assert result.exit_code == 2 and "give --data and --mask_data" in result.output
    data, mask_data = toy_sized(tmp_path)
    options = {"data": data, "mask_data": mask_data, "num": 1}
    result = run(network=network, metrics="ap", device="cpu", outdir=tmp_path / "out", **options)
    assert result.exit_code == 0, result.output


def test_half_precision_features_are_accepted(cats, tmp_path):
    result = run(**cats, outdir=tmp_path, metrics="fid", extractor="metric_data:BFloat16Features")
    assert result.exit_code == 0, result.output


def test_a_segmenter_scores_the_rendered_images(cats, tmp_path):
    result = run(**cats, outdir=tmp_path, metrics="miou", num=2, segmenter="metric_data:Brightness")
    assert result.exit_code == 0, result.output
    assert set(figures(tmp_path)) == {"miou", "miou_segmented"}


@pytest.mark.slow
def test_two_processes_compute_the_same_figures_as_one(cats, tmp_path):
    by_processes = []
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
        by_processes.append(figures(tmp_path / str(gpus)))
    one, two = by_processes
    assert one.keys() == two.keys() and len(one) == 17
    for name in one:  # fewer threads per process add in another order; None: this network has no surface
        assert two[name] == one[name] or two[name] == pytest.approx(one[name], rel=1e-4, abs=1e-6), name


# --------------------------------------------------------------------------- invalid input


def other_size(directory):
    return {
        "data": write_zip(directory / "a.zip", image_files()),
        "mask_data": write_zip(directory / "b.zip", label_files()),
    }


def more_classes(directory):
    files = toy_sized(directory, classes=9)
    return {"data": files[0], "mask_data": files[1]}


def toy_sized(directory, classes=6):
    images, labels = image_files(size=128), label_files(size=128, classes=classes)
    return write_zip(directory / "a.zip", images), write_zip(directory / "b.zip", labels)


def one_view(directory):
    data, mask_data = toy_sized(directory)
    return {"data": data, "mask_data": mask_data, "metrics": "nvs"}


def depth_without_scale(directory):
    with write_archive(directory / "depth.zip") as add:
        add("depth.json", "{}")
    return {"metrics": "nvs", "depth_data": directory / "depth.zip"}


def small_depth(directory, mode):
    """Depth images of another size than the color images; mode RGB is not a depth image."""
    Image.new(mode, (4, 4)).save(directory / "x.png")
    with write_archive(directory / "depth.zip") as add:
        add("depth.json", '{"world_units_per_level": 0.1}')
        for number in range(OBJECTS * VIEWS):
            add(f"00000/img{number:08d}.png", (directory / "x.png").read_bytes())
    return {"metrics": "nvs", "depth_data": directory / "depth.zip"}


def colors_as_depth(directory):
    return small_depth(directory, "RGB")


def depth_of_other_images(directory):
    return small_depth(directory, "I;16")


class Convolution(nn.Module):
    """Needs floating-point images."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 1)

    def forward(self, images):
        return self.layer(images).mean((2, 3))


def needs_float(directory):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(Convolution()).save(directory / "float.pt")
    return {"metrics": "fid", "extractor": directory / "float.pt"}


def invalid_module(directory):
    (directory / "no_python.py").write_text("class Net(")
    sys.path.append(str(directory))  # removed by the test
    return {"metrics": "fid", "extractor": "no_python:Net"}


def file_as_outdir(directory):
    (directory / "taken").write_bytes(b"")
    return {"outdir": directory / "taken"}


# Changes to a valid call (None removes an option), and a pattern of the error message.
INVALID = {
    "no network": ({"network": None}, "Missing option '--network'"),
    "no such network": ({"network": "nowhere.pt"}, "--network nowhere.pt: .*No such file"),
    "unknown configuration": ({"cfg": "seg2dog"}, "'--cfg': 'seg2dog' is not one of"),
    "cats as faces": ({"cfg": "seg2face"}, "--cfg: got 'seg2face', expected seg2cat; .*takes 6 classes"),
    "no metrics": ({"metrics": None}, "Missing option '--metrics'"),
    "empty metrics": ({"metrics": ","}, "--metrics: got '', expected one or more of fid, kid"),
    "unknown metric": (
        {"metrics": "miou,beauty"},
        "--metrics: no such metric, got 'beauty', expected one or more of fid, kid",
    ),
    "photos without an encoder": (
        {"style": "photo"},
        "--style: this network has no encoder of photos; choose its styles by seeds",
    ),
    "unknown style": ({"style": "mean"}, "'--style': 'mean' is not one of 'seeds', 'photo'"),
    "no such class to leave out": ({"without": 6}, "--without: got 6, expected a class from 0 to 5"),
    "edges of classes": ({"metrics": "ap"}, "--metrics: ap: is for edge data, this is seg"),
    "no samples": ({"num": 0}, "'--num': 0 is not in the range 1<=x"),
    "word as number": ({"num": "all"}, "'--num': 'all' is not a valid integer"),
    "too few for precision": ({"metrics": "pr", "num": 3}, "--metrics: pr: needs at least 4 samples, got 3"),
    "too few images for a score": ({"metrics": "is9"}, "--metrics: is9: needs at least 10 samples, got 9"),
    "more samples than fit": ({"num": 10**15}, "'--num': 10{15} is not in the range"),
    "more images than fit": ({"metrics": "fid999999999999k"}, "got 'fid9+k', expected at most 10000000 samples"),
    "digits of another script": ({"metrics": "fid\u0663"}, "--metrics: no such metric, got 'fid.'"),
    "negative seed": ({"seed": -1}, "'--seed': -1 is not in the range"),
    "no batch": ({"batch": 0}, "'--batch': 0 is not in the range"),
    "unknown device": ({"device": "tpu"}, "'--device': 'tpu' is not one of"),
    "a device that is not here": ({"device": "mps"}, "--device: got 'mps', expected one of .*cpu"),
    "unknown distance": ({"distance": "l7"}, "'--distance': 'l7' is not one of 'lpips', 'l1', 'features'"),
    "unknown option": ({"metric": "fid"}, "No such option.*--metric"),
    # data
    "no such data": ({"data": "nowhere.zip"}, "--data nowhere.zip: .*no such file"),
    "images without label maps": ({"mask_data": None}, "--data, --mask_data: expected both"),
    "data twice": ({"data_dir": "data"}, "--data, --mask_data: expected both, without --data_dir"),
    "no such data directory": (
        {"data": None, "mask_data": None, "data_dir": "nowhere"},
        "--data_dir nowhere/afhq.*no such file",
    ),
    "another size": (other_size, "--data: .*has 16 pixels, the network makes 128"),
    "unknown classes": (more_classes, "its label map has class [678], the network knows 0 to 5"),
    "one view of each object": (
        one_view,
        '--metrics: nvs, chamfer: .*dataset.json: "objects": got 1 image of each object, expected 2 or more',
    ),
    "no such depth": ({"metrics": "nvs", "depth_data": "none.zip"}, "--depth_data: none.zip: .*no such file"),
    "depth without scale": (depth_without_scale, "--depth_data: .*depth.json: expected .*world_units_per_level"),
    "colors as depth": (colors_as_depth, "img0000000.*not a depth image .*mode RGB"),
    "depth of other images": (
        depth_of_other_images,
        "--depth_data: .*4x4 pixels, but its color image has 128; is it the depth of an",
    ),
    # networks
    "extractor of float images": (needs_float, "--extractor: .*float.pt: fails on images 2,3,128,128 uint8"),
    "extractor with two outputs": (
        {"metrics": "fid", "extractor": "metric_data:TwoOutputs"},
        "--extractor: .*expected a tensor .*numbers, got tuple",
    ),
    "extractor that needs arguments": (
        {"metrics": "fid", "extractor": "metric_data:NeedsArgument"},
        "--extractor: .*missing 1 required positional argument",
    ),
    "extractor that fails": ({"metrics": "fid", "extractor": "metric_data:Failing"}, r"--extractor: .*\(second line\)"),
    "extractor with a syntax error": (invalid_module, "--extractor: no_python:Net: .*was never closed"),
    "features that are NaN": (
        {"metrics": "fid", "extractor": "metric_data:NotFinite"},
        "--extractor: .*returns numbers that are not finite",
    ),
    "no such extractor": ({"metrics": "fid", "extractor": "no.pt"}, "--extractor: no.pt: no such file; expected incep"),
    "extractor that is an image": ({"metrics": "fid", "extractor": CAT}, "cat.png: not a TorchScript file"),
    "score without probabilities": (
        {"metrics": "is10_full", "extractor": THUMBNAILS},
        "--metrics: is: the extractor .* has no class probabilities; set --extractor",
    ),
    "no such embedding": ({"metrics": "fvv", "embedding": "no.pt"}, "--embedding: no.pt: no such file"),
    "segmenter of other classes": (
        {"segmenter": "metric_data:FloatImages"},
        r"--segmenter: metric_data:FloatImages: expected logits \(2, 6, 128, 128\)",
    ),
    "no LPIPS weights": (
        {"metrics": "sg", "lpips_weights": "no.pth"},
        "--distance: lpips is not available .*; set --lpips_weights to .* or --distance to l1",
    ),
    # output
    "file as outdir": (file_as_outdir, "--outdir .*taken: expected a directory, got a file"),
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid_input_is_one_line_and_exit_code_2_and_writes_no_file(case, cats, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    changes, message = INVALID[case]
    options = {**cats, "outdir": tmp_path / "out", "metrics": "miou", "num": None}
    options |= changes(tmp_path) if callable(changes) else changes

    result = run(**options)

    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit), "a traceback"
    (line,) = lines_of(result)
    assert re.search(f"^Error: .*({message})", line), line
    assert not (tmp_path / "out").exists()


def test_edge_data_rejects_segmenters_and_metrics_of_classes(cars, tmp_path):
    cases = [
        ({"segmenter": "x.pt", "metrics": "ap"}, "--segmenter: is for label maps of classes"),
        ({"metrics": "miou"}, "--metrics: miou: is for seg data, this is edge"),
        ({"metrics": "stroke"}, "--metrics: stroke: is for seg data, this is edge"),
        ({"metrics": "ap", "without": 0}, "--without: got 0, expected none for edges"),
    ]
    for options, message in cases:
        result = run(**cars, **options, outdir=tmp_path / "out")
        assert result.exit_code == 2 and message in result.output


@pytest.mark.parametrize("started", ["4", "abc"])
def test_gpus_must_equal_the_number_of_processes_of_torchrun(started, cats, monkeypatch, tmp_path):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", started)
    result = run(**cats, metrics="miou", outdir=tmp_path / "out")
    assert result.exit_code == 2 and f"--gpus: got 1, expected {started}, as started by torchrun" in result.output


def test_weights_that_are_not_finite_are_rejected(cars, tmp_path):
    broken = tmp_path / "broken.pt"
    G = load_network_pkl(cars["network"])["G_ema"]
    next(G.superresolution_semantic.parameters()).data.fill_(torch.nan)
    save_snapshot(broken, {"G_ema": G})
    result = run(**{**cars, "network": broken}, metrics="ap", outdir=tmp_path / "out")
    assert result.exit_code == 2 and re.search("Error: --network .* not finite", result.output), result.output


# --------------------------------------------------------------------------- documentation


def commands(page):
    """Return the command lines of calc_metrics.py on a page, as lists of words."""
    text = (ROOT / page).read_text().replace("\\\n", " ")
    lines = re.findall(r"^python calc_metrics.py (.*)$", text, re.MULTILINE)
    return [pytest.param(shlex.split(line), id=f"{page}-{number}") for number, line in enumerate(lines)]


@pytest.mark.parametrize("words", [*commands("docs/metrics.md"), *commands("README.md")])
def test_commands_of_the_documentation_run(words, cats, tmp_path, monkeypatch):
    """With small files in place of the original ones."""
    monkeypatch.chdir(tmp_path)
    small = {**cats, "num": 2, "extractor": THUMBNAILS}
    if "--style" in words:
        network = tiny_network(tmp_path / "style.pt", style_encoder=True)
        small |= {"network": network, "num": 1}  # 20 images of each label map
    for place, word in enumerate(words):
        if (name := word.removeprefix("--")) in small:
            words[place + 1] = str(small[name])
    result = run(*words)
    assert result.exit_code == 0, result.output
    assert any(tmp_path.rglob("metric-*.jsonl"))
