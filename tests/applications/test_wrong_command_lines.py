"""Command lines that people mistype: one line that names the option, exit code 2, before any network is opened."""

import os
import re

import pytest
from click.testing import CliRunner
from command_lines import existing
from paths import ROOT

import calc_metrics
import dataset_tool
import legacy
from applications import extract_mesh, generate_samples, generate_video

CAT = str(ROOT / "applications" / "assets" / "cat.png")
NETWORK = ["--network", "net.pt"]
GIVEN = [*NETWORK, "--outdir", "out"]
ONE = [*GIVEN, "--input", CAT]
OTHERS = ["--outdir", "out", "--input", CAT]
TOY = ["toy", "--kind", "cats", "--outdir", "out"]
PACK = ["pack", "--images", "images", "--output", "a.zip"]

WRONG = {  # command, words, what the line says
    # all commands
    "an unknown option": (generate_samples, [*ONE, "--colour", "red"], "No such option"),
    "an option of another command": (generate_samples, [*ONE, "--fps", "3"], "No such option"),
    "a stray word": (generate_samples, [*ONE, "--device", "cpu", "cat.png"], "expected one value, got cat.png too"),
    "an option without its value": (generate_samples, [*GIVEN, "--input"], "'--input' requires an argument"),
    "nothing required": (generate_samples, ["--input", CAT], "Missing option '--network'"),
    "no directory": (generate_samples, [*NETWORK, "--input", CAT], "Missing option '--outdir'"),
    # networks and directories
    "no network": (generate_samples, ["--network", "no.pt", *OTHERS], "--network no.pt: No such file"),
    "an empty network": (generate_samples, ["--network", "", *OTHERS], "--network"),
    "a directory as network": (
        generate_samples, ["--network", "images", *OTHERS], "--network images: is a directory"
    ),
    "a pipe as network": (
        generate_samples, ["--network", "pipe", *OTHERS], "--network pipe: not a regular file"
    ),
    "another scheme": (
        generate_samples, ["--network", "ftp://x/net.pt", *OTHERS], "cannot open ftp:// URLs"
    ),
    "a configuration of none": (generate_samples, [*ONE, "--cfg", "cat"], "'--cfg': 'cat' is not one of"),
    "a precision of none": (generate_samples, [*ONE, "--precision", "fp8"], "'--precision': 'fp8' is not one of"),
    "an empty directory name": (generate_samples, [*NETWORK, "--input", CAT, "--outdir", ""], "expected the name of"),
    "a file as directory": (generate_samples, [*NETWORK, "--input", CAT, "--outdir", "net.pt"], "expected a directory"),
    # inputs
    "no input": (generate_samples, GIVEN, "--input, --input_id: expected one of them, got none"),
    "two sources": (generate_samples, [*ONE, "--input_id", "0"], "expected one of them, got both"),
    "an empty input": (generate_samples, [*GIVEN, "--input", ""], "--input: expected the name of a file or directory"),
    "a missing input": (generate_samples, [*GIVEN, "--input", "nowhere.png"], "--input nowhere.png: no such file"),
    "one missing of several": (generate_samples, [*ONE, "nowhere.png"], "--input nowhere.png: no such file"),
    "a pipe as input": (generate_samples, [*GIVEN, "--input", "pipe"], "--input pipe: no such file"),
    "a directory without images": (generate_samples, [*GIVEN, "--input", "images"], "--input images: holds no images"),
    "one input twice": (generate_samples, [*ONE, CAT], "have the same name, which names the files; rename one"),
    "a negative sample": (generate_samples, [*GIVEN, "--input_id", "-1"], "'--input_id': -1 is not in the range"),
    "data of a file": (generate_samples, [*ONE, "--data", "a.zip", "--mask_data", "b.zip"], "go with --input_id"),
    "half of a data set": (generate_samples, [*GIVEN, "--input_id", "0", "--data", "a.zip"], "expected both"),
    "a table that is missing": (generate_samples, [*ONE, "--classes", "no.json"], "'--classes'"),
    "a table that is a directory": (generate_samples, [*ONE, "--classes", "images"], "'--classes'"),
    "a table that is no JSON": (generate_samples, [*ONE, "--classes", "net.pt"], r"--classes net\.pt"),
    "void of 256": (generate_samples, [*ONE, "--ignore", "256"], "'--ignore': 256 is not in the range"),
    "a fit of none": (generate_samples, [*ONE, "--fit", "stretch"], "'--fit': 'stretch' is not one of"),
    "options of files for a sample": (generate_samples, [*GIVEN, "--input_id", "0", "--fit", "pad"], "go with --input"),
    # seeds and styles
    "a negative seed": (generate_samples, [*ONE, "--random_seed=-1"], "-1: expected a whole number from 0"),
    "a fraction": (generate_samples, [*ONE, "--random_seed", "1.5"], "1.5: expected a whole number"),
    "a number of 33 bits": (generate_samples, [*ONE, "--random_seed", "4294967296"], "the largest seed is 4294967295"),
    "a range backwards": (generate_samples, [*ONE, "--random_seed", "3-1"], "expected the smaller seed first"),
    "a huge range": (generate_samples, [*ONE, "--random_seed", "0-999999"], "at most 100000 seeds"),
    "digits of another script": (generate_samples, [*ONE, "--random_seed", "\u0663"], "expected a whole number"),
    "a photo that is missing": (generate_samples, [*ONE, "--style", "no.jpg"], "--style no.jpg: no such file"),
    # videos
    "no frames": (generate_video, [*ONE, "--frames", "0"], "'--frames': 0 is not in the range"),
    "too fast": (generate_video, [*ONE, "--fps", "241"], "'--fps': 241 is not in the range"),
    "a format of none": (generate_video, [*ONE, "--format", "avi"], "'avi': expected some of gif,mp4"),
    "an empty format": (generate_video, [*ONE, "--format", ""], "'': expected some of gif,mp4"),
    "a view of none": (generate_video, [*ONE, "--show", "color,normals"], "'normals': expected some of color"),
    "a path of none": (generate_video, [*ONE, "--path", "spiral"], "--path spiral: expected orbit, turn or"),
    "a path that is no JSON": (generate_video, [*ONE, "--path", "net.pt"], r"--path net\.pt: not JSON"),
    "nothing to interpolate": (generate_video, [*ONE, "--interpolate"], "expected several --random_seed"),
    "an end without a way": (generate_video, [*ONE, "--to", CAT], "--to: goes with --interpolate"),
    "an end that is missing": (generate_video, [*ONE, "--interpolate", "--to", "no.png"], "--to no.png: no such file"),
    "more seeds than frames": (
        generate_video, [*ONE, "--interpolate", "--random_seed", "0-9", "--frames", "5"], "10 seeds and styles need"
    ),
    # meshes
    "a threshold of nan": (extract_mesh, [*ONE, "--threshold", "nan"], "nan: expected a number or auto"),
    "an empty threshold": (extract_mesh, [*ONE, "--threshold", ""], ": expected a number or auto"),
    "a class of -1": (extract_mesh, [*ONE, "--without", "-1"], "-1: expected a class from 0 to 31, or none"),
    "a class by name": (extract_mesh, [*ONE, "--without", "ears"], "ears: expected a class from 0 to 31, or none"),
    "a class of a thousand digits": (extract_mesh, [*ONE, "--without", "9" * 1000], "expected a class from 0 to 31"),
    "a coarse grid": (extract_mesh, [*ONE, "--resolution", "7"], "'--resolution': 7 is not in the range"),
    "a color of none": (extract_mesh, [*ONE, "--color", "red"], "'--color': 'red' is not one of"),
    "a format of meshes": (extract_mesh, [*ONE, "--format", "stl"], "'stl': expected some of ply,obj,glb"),
    "frames of no video": (extract_mesh, [*ONE, "--no-film", "--frames", "3"], "--frames: sets the video"),
    "a seed and a photo": (extract_mesh, [*ONE, "--random_seed", "1", "--style", CAT], "expected one of them"),
    # data sets
    "part of an object": (dataset_tool, [*TOY, "--number", "3", "--views", "2"], "expected a multiple of --views 2"),
    "an odd resolution": (dataset_tool, [*TOY, "--resolution", "100"], "got 100, expected a power of two"),
    "no cameras": (dataset_tool, PACK, "expected either --cameras FILE or --front"),
    "cameras twice": (dataset_tool, [*PACK, "--front", "--cameras", "net.pt"], "expected either --cameras FILE"),
    "label maps to nowhere": (dataset_tool, [*PACK, "--front", "--label-maps", "images"], "both --label-maps and"),
    "one file for both": (
        dataset_tool, [*PACK, "--front", "--label-maps", "images", "--label-output", "./a.zip"], "use two names"
    ),
    "images that are missing": (
        dataset_tool, ["pack", "--images", "no", "--front", "--output", "a.zip"], "no: no such file or directory"
    ),
    "the output that exists": (
        dataset_tool, ["pack", "--images", "images", "--front", "--output", "net.pt"], "net.pt: exists already"
    ),
    "no number of blur": (
        dataset_tool, ["edges", "--data", "images", "--output", "e.zip", "--sigma", "nan"], "got nan, expected a number"
    ),
    "no samples": (dataset_tool, ["show", "--data", "images", "--output", "a.png", "--count", "0"], "0 is not in"),
    # weights and metrics
    "an ending of none": (legacy, ["convert", "net.pt", "net.onnx"], r"expected a name that ends in \.pkl"),
    "no such directory": (legacy, ["convert", "net.pt", "no/net.pt"], "directory no does not exist"),
    "onto itself": (legacy, ["convert", "net.pt", "net.pt"], "net.pt: exists already"),
    "weights that are none": (legacy, ["show", "net.pt"], "net.pt: not a weights file"),
    "a configuration of init": (legacy, ["init", "new.pt", "--cfg", "cat"], "'cat' is not one of"),
    "no metrics": (calc_metrics, NETWORK, "Missing option '--metrics'"),
    "half of the data": (calc_metrics, [*NETWORK, "--metrics", "miou", "--data", "a.zip"], "expected both"),
    "no samples of metrics": (calc_metrics, [*NETWORK, "--metrics", "miou", "--num", "0"], "0 is not in the range"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_one_line_names_what_is_wrong(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    existing(tmp_path / "net.pt")
    (tmp_path / "images").mkdir()
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.rglob("*"))
    module, words, message = WRONG[case]

    result = CliRunner().invoke(module.main, words)

    assert result.exit_code == 2 and isinstance(result.exception, SystemExit), (result.output, result.exception)
    (line,) = result.output.splitlines()
    assert line.startswith("Error: ") and re.search(message, line), line
    assert sorted(tmp_path.rglob("*")) == before
