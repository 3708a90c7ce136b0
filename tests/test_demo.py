"""The demonstration of make demo, with a small untrained network in the place of the repository's own."""

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from applications import common, demo
from training.configs import GeneratorOptions
from training.label_maps import read_label_map
from training.registry import construct
from training.snapshot import save_snapshot


@pytest.fixture
def network(tmp_path):
    torch.manual_seed(0)
    options = GeneratorOptions(
        "afhq", 128, semantic_channels=6, pose_conditioning=True, channel_base=512, channel_max=8,
        encoder_width=1 / 32, sr_width=1 / 16, plane_resolution=32, depth_resolution=4,
    )  # fmt: skip
    G = construct(options.class_name, options.kwargs())
    G.neural_rendering_resolution = 16
    save_snapshot(path := tmp_path / "small.pt", {"G_ema": G}, extra={"training_options": {}})
    return path


def run(**options):
    return CliRunner().invoke(demo.main, [f"--{name}={value}" for name, value in options.items()])


def test_the_demonstration_makes_pictures_films_a_mesh_and_a_sheet(network, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "MESH_RESOLUTION", 24)
    result = run(network=network, outdir=tmp_path / "out")
    assert result.exit_code == 0, result.output
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"demo.png", "seg2cat_0.gif", "seg2cat_0_label.gif", "semantic_mesh.ply", "semantic_mesh.glb"} <= names
    assert {f"seg2cat_toy_cat_{seed}_color.png" for seed in demo.SEEDS} <= names
    sheet = Image.open(tmp_path / "out" / "demo.png")
    assert sheet.size == (6 * demo.CELL, 2 * (demo.CELL + demo.CAPTION))
    assert Image.open(tmp_path / "out" / "seg2cat_0.gif").n_frames == demo.FRAMES


def test_a_label_map_that_is_not_there_is_one_line(network, tmp_path):
    result = run(network=network, outdir=tmp_path / "out", input="none.png")
    assert result.exit_code == 2 and result.output.startswith("Error: --input none.png"), result.output


def test_the_label_map_of_the_demonstration_is_of_the_networks_classes():
    ids = read_label_map(common.ASSETS / "toy_cat.png", "seg", 6)
    assert ids.unique().tolist() == [0, 1, 2, 3, 4, 5]
