"""Several label maps of one call: own names for all files, and nothing that a second call replaces."""

import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from command_lines import lines_of
from image_files import encode
from metric_data import tiny_network

import inference
from applications import extract_mesh, generate_samples, generate_video

SMALL_MESH = ["--resolution", 16, "--threshold", "auto", "--frames", 1]
MAINS = {
    "samples": (generate_samples.main, []),
    "video": (generate_video.main, ["--frames", 2, "--show", "color"]),
    "mesh": (extract_mesh.main, SMALL_MESH),
}
FILES = {  # of the first label map, alone and together with others
    "samples": ("seg2cat_a_0_color.png", "seg2cat_{}_0_color.png"),
    "video": ("seg2cat_0.gif", "seg2cat_{}_0.gif"),
    "mesh": ("semantic_mesh.ply", "seg2cat_{}_mesh.ply"),
}


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return tiny_network(tmp_path_factory.mktemp("network") / "cats.pt")


@pytest.fixture
def drawings(tmp_path):
    """Directory of two label maps, a file that is none, and a hidden one."""
    directory = tmp_path / "drawings"
    directory.mkdir()
    for number, name in enumerate(("a.png", "b.png"), start=1):
        ids = np.zeros((8, 8), np.uint8)
        ids[2:6, 2 : 2 + 2 * number] = number
        (directory / name).write_bytes(encode(ids))
    (directory / "notes.txt").touch()
    (directory / "._a.png").touch()
    return directory


def run(application, network, outdir, *words):
    main, small = MAINS[application]
    given = ["--network", network, "--outdir", outdir, "--device", "cpu", *small, *words]
    return CliRunner().invoke(main, [str(word) for word in given])


@pytest.mark.parametrize("application", MAINS)
def test_a_directory_and_several_files_give_the_same_files_and_load_the_network_once(
    application, network, drawings, tmp_path, monkeypatch
):
    loads = []
    load = inference.load_generator
    monkeypatch.setattr(
        inference, "load_generator", lambda *words, **options: (loads.append(1), load(*words, **options))[1]
    )
    by_directory = run(application, network, tmp_path / "one", "--input", drawings)
    assert by_directory.exit_code == 0, by_directory.output
    assert "1 other files are not read, such as notes.txt" in by_directory.output
    several = run(application, network, tmp_path / "two", "--input", drawings / "a.png", drawings / "b.png")
    assert several.exit_code == 0, several.output
    assert loads == [1, 1]

    _, name = FILES[application]
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert names == {path.name for path in (tmp_path / "two").iterdir()}
    assert {name.format("a"), name.format("b"), "seg2cat_a_input.png", "seg2cat_b_input.png"} <= names
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)
    assert {line for line in lines_of(several) if line.startswith("Wrote ")} == {
        f"Wrote {tmp_path / 'two' / name}" for name in names
    }


@pytest.mark.parametrize("application", MAINS)
def test_a_second_call_replaces_nothing(application, network, drawings, tmp_path):
    alone, _ = FILES[application]
    assert run(application, network, tmp_path / "out", "--input", drawings / "a.png").exit_code == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert tmp_path / "out" / alone in before

    # Another drawing, also one of the same name in another directory.
    (tmp_path / "more").mkdir()
    shutil.copy(drawings / "b.png", tmp_path / "more" / "a.png")
    result = run(application, network, tmp_path / "out", "--input", tmp_path / "more" / "a.png")
    assert result.exit_code == 2, result.output
    assert "exists already" in lines_of(result)[-1] and "add --overwrite" in lines_of(result)[-1]
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    result = run(application, network, tmp_path / "out", "--input", tmp_path / "more" / "a.png", "--overwrite")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / alone).read_bytes() != before[tmp_path / "out" / alone]


def test_two_inputs_of_one_name_are_both_named(network, drawings, tmp_path):
    (tmp_path / "more").mkdir()
    shutil.copy(drawings / "b.png", tmp_path / "more" / "a.png")
    result = run("samples", network, tmp_path / "out", "--input", drawings, tmp_path / "more")
    assert result.exit_code == 2 and not (tmp_path / "out").exists()
    assert f"--input {drawings}/a.png {tmp_path}/more/a.png: have the same name" in result.output


@pytest.mark.parametrize("application", MAINS)
def test_an_invalid_input_ends_the_command_before_the_first_is_rendered(application, network, drawings, tmp_path):
    ids = np.full((8, 8), 99, np.uint8)
    (drawings / "c.png").write_bytes(encode(ids))
    result = run(application, network, tmp_path / "out", "--input", drawings)
    assert result.exit_code == 2 and "c.png" in lines_of(result)[-1] and not (tmp_path / "out").exists()

    # A drawing of another label map is there already.
    (drawings / "c.png").unlink()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "seg2cat_b_input.png").write_bytes(encode(ids))
    result = run(application, network, tmp_path / "out", "--input", drawings)
    assert result.exit_code == 2 and "seg2cat_b_input.png: exists already" in lines_of(result)[-1]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["seg2cat_b_input.png"]
