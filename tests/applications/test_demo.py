"""demo.py with small untrained networks, and the toy model of the repository."""

from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from applications import cli, demo
from dataset_preprocessing.contact_sheet import CAPTION
from inference import Scene, load_generator
from training.data.label_maps import read_label_map
from training.networks.configs import GeneratorOptions
from training.networks.registry import construct
from training.weights.snapshot import save_snapshot

TINY = {"channel_base": 512, "channel_max": 8, "encoder_width": 1 / 32, "sr_width": 1 / 16, "plane_resolution": 32}


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Replace the networks by small ones, with coarse meshes and short videos."""
    cats = GeneratorOptions("afhq", 128, semantic_channels=6, pose_conditioning=True, depth_resolution=4, **TINY)
    cars = GeneratorOptions("shapenet", 128, data_type="edge", depth_resolution=4, **TINY)
    for name, options in (("CATS", cats), ("CARS", cars)):
        torch.manual_seed(0)
        G = construct(options.class_name, options.kwargs())
        G.neural_rendering_resolution = 16
        E = construct("StyleEncoder", {"z_dim": G.z_dim, "resolution": 16, "width": 2})
        save_snapshot(path := tmp_path / f"{name}.pt", {"G_ema": G, "E": E}, extra={"training_options": {}})
        example = getattr(demo, name)
        monkeypatch.setattr(demo, "MESH_FRAMES", 4)
        monkeypatch.setattr(demo, name, replace(example, network=path, mesh={**example.mesh, "resolution": 24}))


def run(outdir):
    return CliRunner().invoke(demo.main, [f"--outdir={outdir}"])


def test_the_demo_writes_images_videos_meshes_and_an_overview(small, tmp_path):
    result = run(tmp_path / "out")
    assert result.exit_code == 0, result.output
    names = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*")}
    assert {"demo.png", "demo.gif", "cats/semantic_mesh.glb", "cars/edge2car_mesh.ply"} <= names
    scenes = ("1", "2", "style-toy_cat_style1", "style-toy_cat_style2", "style-toy_cat_style3")
    assert {f"cats/seg2cat_toy_cat_{scene}_color.png" for scene in scenes} <= names
    assert "cars/edge2car_style-toy_car_style1.gif" in names
    sheet = Image.open(tmp_path / "out" / "demo.png")
    assert sheet.size == (6 * demo.CELL, 5 * (demo.CELL + CAPTION))
    video = Image.open(tmp_path / "out" / "demo.gif")
    assert (video.size, video.n_frames) == ((256, 128), demo.FRAMES)


def test_an_invalid_output_directory_gives_one_line(tmp_path):
    (tmp_path / "taken").touch()
    result = run(tmp_path / "taken")
    assert result.exit_code == 2 and result.output.startswith("Error: --outdir"), result.output


def test_the_label_map_of_the_demo_has_all_classes_of_the_network():
    ids = read_label_map(cli.ASSETS / "toy_cat.png", "seg", 6)
    assert ids.unique().tolist() == [0, 1, 2, 3, 4, 5]


def test_the_toy_model_renders_the_label_map_it_is_given():
    path = demo.CATS.label_map
    view = Scene.from_label_map(load_generator(demo.CATS.network, "cpu"), path).render()
    label_map = read_label_map(path, "seg", 6, 128)[0, 0].numpy()
    assert (view.label_map == label_map).mean() > 0.85
