"""Files that commands write: never replaced in silence, listed at the end; --version; commands that answer at once."""

import re
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner
from paths import ROOT

from dnnlib import choices
from dnnlib.cli import Command, overwrite_option
from dnnlib.errors import ConfigError
from dnnlib.outputs import MAX_LISTED, Outputs
from dnnlib.version import version

COMMANDS = ("calc_metrics", "dataset_tool", "legacy", "train")
APPLICATIONS = ("generate_samples", "generate_video", "extract_mesh", "edit", "demo", "showcase", "project_photo",
                "style_matrix")  # fmt: skip
# Commands whose help, and whose errors in options, do not wait for PyTorch.
LIGHT = ("calc_metrics", "dataset_tool", "legacy", *(f"applications.{name}" for name in APPLICATIONS[:4]))


@click.command(cls=Command)
@click.argument("paths", nargs=-1)
@click.option("--exit_code", type=int)
@overwrite_option
def write(paths, exit_code, outputs):
    outputs.claim(*paths)
    for path in paths:
        with open(path, "w") as file:
            file.write("new")
    if exit_code:
        raise SystemExit(exit_code)


def run(*words):
    return CliRunner().invoke(write, [str(word) for word in words])


# --------------------------------------------------------------------------- replacing


def test_a_file_that_exists_is_kept_unless_overwrite_is_given(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    refused = run(tmp_path / "new.txt", path)
    assert refused.exit_code == 2
    hint = "choose another place, or add --overwrite to replace what is there"
    assert refused.output == f"Error: {path}: exists already; {hint}\n"
    assert path.read_text() == "old" and not (tmp_path / "new.txt").exists()
    assert run(path, "--overwrite").exit_code == 0 and path.read_text() == "new"


def test_all_files_that_exist_are_counted(tmp_path):
    for name in "abc":
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=r"/a: exists already \(and 2 more\)"):
        Outputs().claim(*(tmp_path / name for name in "zabc"))


def test_a_link_and_a_directory_count_as_existing(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for path in (tmp_path / "link", tmp_path):
        with pytest.raises(ConfigError, match="exists already"):
            Outputs().claim(path)


def test_two_outputs_of_one_name_are_refused_even_with_overwrite(tmp_path):
    outputs = Outputs(overwrite=True)
    outputs.claim(tmp_path / "a")
    for paths in ([tmp_path / "a"], [tmp_path / "b", tmp_path / "b"]):
        with pytest.raises(ConfigError, match="written twice"):
            outputs.claim(*paths)


def test_a_file_with_the_same_content_is_kept_and_one_with_another_is_not_replaced(tmp_path):
    path = tmp_path / "made" / "input.png"
    Outputs().claim_small(path, b"one")()
    Outputs().claim_small(path, b"one")()
    with pytest.raises(ConfigError, match="exists already"):
        Outputs().claim_small(path, b"two")
    assert path.read_bytes() == b"one"
    Outputs(overwrite=True).claim_small(path, b"two")()
    assert path.read_bytes() == b"two"


# --------------------------------------------------------------------------- listing


@pytest.mark.parametrize("exit_code", [0, 1])
def test_written_files_are_listed_at_the_end(tmp_path, exit_code):
    result = run(tmp_path / "a", tmp_path / "b\n", "--exit_code", exit_code)
    assert result.exit_code == exit_code
    assert result.output.splitlines() == [f"Wrote {tmp_path}/a", f"Wrote {tmp_path}/b\\n"]


def test_a_long_list_is_shortened(tmp_path):
    lines = run(*(tmp_path / f"{number}" for number in range(MAX_LISTED + 5))).output.splitlines()
    assert len(lines) == MAX_LISTED + 1 and lines[-1] == f"Wrote 5 more files, the last is {tmp_path}/{MAX_LISTED + 4}"


# --------------------------------------------------------------------------- version, help, options


def test_the_version_is_that_of_the_project():
    assert f'\nversion = "{version()}"\n' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("name", [*COMMANDS, *(f"applications.{name}" for name in APPLICATIONS)])
def test_every_command_has_a_version(name):
    main = __import__(name, fromlist=["main"]).main
    for command in [main, *getattr(main, "commands", {}).values()]:
        result = CliRunner().invoke(command, ["--version"])
        assert (result.exit_code, result.output) == (0, f"pix2pix3d {version()}\n")


def test_help_and_wrong_options_do_not_wait_for_pytorch():
    code = (
        f"import sys, importlib; from click.testing import CliRunner\nfor name in {LIGHT}:\n"
        "    main = importlib.import_module(name).main\n"
        "    for words in (['--help'], ['--bad'], ['--network', 'no.pt', '--outdir', 'o', '--metrics', 'miou',\n"
        f"                   '--input', {str(ROOT / 'README.md')!r}]):\n"
        "        result = CliRunner().invoke(main, words)\n"
        "        assert result.exit_code == (0 if words == ['--help'] else 2), (name, result.output)\n"
        "        assert 'torch' not in sys.modules, (name, words)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_network_is_named_before_pytorch_is_imported(tmp_path):
    # A module of this name in place of PyTorch ends the program when it is imported.
    (tmp_path / "torch.py").write_text("import sys; print('importing'); sys.exit(3)\n")
    (tmp_path / "net.pt").touch()
    words = ["--network", tmp_path / "net.pt", "--outdir", tmp_path / "out", "--device", "cpu"]
    more = {
        "generate_samples": ["--input", ROOT / "README.md"], "generate_video": ["--input", ROOT / "README.md"],
        "extract_mesh": ["--input", ROOT / "README.md"], "calc_metrics": ["--metrics", "miou"],
    }  # fmt: skip
    for name, options in more.items():
        script = ROOT / f"{name}.py" if (ROOT / f"{name}.py").exists() else ROOT / "applications" / f"{name}.py"
        code = f"import sys, runpy; sys.path.insert(0, {str(tmp_path)!r}); sys.argv[0] = {str(script)!r}; " + (
            f"runpy.run_path({str(script)!r}, run_name='__main__')"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, words), *map(str, options)], cwd=ROOT, capture_output=True, text=True
        )
        assert re.match(r"Loading .*net\.pt \.\.\.\n", done.stderr), (name, done.stderr)


def test_names_of_options_are_the_keys_of_their_tables():
    from camera_utils import CAMERAS, PATHS
    from dataset_preprocessing.toy.write import KINDS
    from inference.mesh.triangles import MESH_WRITERS
    from inference.video import ENCODERS
    from inference.view import SHOWS
    from training.networks.configs import CONFIGS

    tables = {
        choices.CONFIG_NAMES: CONFIGS, choices.CAMERA_NAMES: CAMERAS, choices.PATH_NAMES: PATHS,
        choices.TOY_KINDS: KINDS, choices.SHOW_NAMES: SHOWS, choices.VIDEO_FORMATS: ENCODERS,
        tuple(f".{name}" for name in choices.MESH_FORMATS): MESH_WRITERS,
    }  # fmt: skip
    for names, table in tables.items():
        assert list(names) == list(table)
