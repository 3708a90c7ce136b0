"""The README's commands and Python example, run unchanged except for shorter videos and coarser meshes.

The repository's own weights take the place of published ones.

Its commands of calc_metrics.py are run by test_calc_metrics.py, of legacy.py by test_legacy.py, of make by
test_repository.py.
"""

import os
import re
import shlex
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import pytest
from click.testing import CliRunner
from paths import ROOT
from small_data import write_published_data

import dataset_tool
from applications import edit, extract_mesh, generate_samples, generate_video

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
LINES = [line for kind, text in BLOCKS if not kind for line in text.replace("\\\n", " ").splitlines()]
COMMANDS = [shlex.split(line, comments=True) for line in LINES]
APPLICATIONS = {
    "generate_samples": (generate_samples.main, []),
    "generate_video": (generate_video.main, ["--frames", "2"]),
    "extract_mesh": (extract_mesh.main, ["--frames", "1", "--resolution", "32", "--threshold", "auto"]),
}
ELSEWHERE = {"calc_metrics.py", "legacy.py"}


def name_of(command):
    return Path(command[1]).stem if command[0] == "python" else command[0]


OURS = [command for command in COMMANDS if name_of(command) in APPLICATIONS]


@pytest.mark.parametrize("command", [pytest.param(c, id=f"{name_of(c)}-{i}") for i, c in enumerate(OURS)])
def test_readme_commands_of_applications_run(command, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    main, small = APPLICATIONS[name_of(command)]
    words = [word.replace("pix2pix3d_seg2cat.pkl", "toy_seg2cat.safetensors") for word in command[2:]]
    words[words.index("--outdir") + 1] = str(tmp_path / "out")
    if "--data_dir" in words:
        number = int(words[words.index("--input_id") + 1])
        words[words.index("--data_dir") + 1] = str(write_published_data(tmp_path, "seg2cat", number + 1))
    result = CliRunner().invoke(main, [*words, *small])
    assert result.exit_code == 0, result.output
    made = {path.name for path in (tmp_path / "out").iterdir()}
    if main is extract_mesh.main:
        assert {"semantic_mesh.ply", "rendered_mesh.gif"} <= made
    elif main is generate_video.main:
        assert {"seg2cat_1.gif", "seg2cat_1_label.gif"} <= made
    else:
        first = words.index("--random_seed") + 1 if "--random_seed" in words else len(words)
        scenes = len(list(takewhile(str.isdigit, words[first:]))) or words.count("--style")
        assert len(made) == 1 + 2 * scenes
        if scenes == 2:  # the command under which the text names its files
            assert set(re.findall(r"`(seg2cat_toy_cat_\w+\.png)`", README)) <= made


def test_other_readme_commands_exist():
    for command in COMMANDS:
        words = [*takewhile(lambda word: "=" in word, command)]
        command = command[len(words) :]
        name = name_of(command)
        if command[0] == "make":
            assert f"\n{command[1]}:" in (ROOT / "Makefile").read_text()
        elif command[0] == "python":
            assert name in APPLICATIONS or command[1] in ELSEWHERE | {"applications/edit.py", "dataset_tool.py"}
        elif command[0] == "source":
            assert command[1] == ".venv/bin/activate"
        else:
            assert os.access(ROOT / command[0], os.X_OK), command
    assert CliRunner().invoke(edit.main, ["--help"]).exit_code == 0
    (toy,) = [command for command in COMMANDS if command[:2] == ["python", "dataset_tool.py"]]
    tool = dataset_tool.main.commands[toy[2]]
    assert {word for word in toy if word.startswith("--")} <= {name for option in tool.params for name in option.opts}


def test_the_python_example_runs_from_another_directory(tmp_path):
    pytest.importorskip("av", reason="mp4 needs PyAV")
    (code,) = [text for kind, text in BLOCKS if kind == "python"]
    small = {'"cat.mp4"': '"cat.mp4", frames=2', ".mesh()": ".mesh(resolution=48)"}
    files = {f'"{name}': f'"{ROOT}/{name}' for name in ("checkpoints/", "applications/")}
    for original, replacement in (small | files).items():
        assert original in code
        code = code.replace(original, replacement)
    code += "print(view.image.shape, view.image.dtype, view.label_map.shape, view.depth.shape, sorted(view.tensors)[0])"

    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)

    assert result.returncode == 0, result.stderr
    assert result.stdout == "(128, 128, 3) uint8 (128, 128) (64, 64) image\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cat.glb", "cat.mp4"]


def test_options_named_in_the_readme_exist():
    commands = [generate_samples.main, generate_video.main, extract_mesh.main, edit.main]
    known = {name for command in commands for option in command.params for name in option.opts + option.secondary_opts}
    tables = re.findall(r"^\| (`--.*?`) \|", README, re.MULTILINE)
    named = {option for cell in tables for option in re.findall(r"--[\w-]+", cell)}
    assert len(named) > 10 and named <= known
