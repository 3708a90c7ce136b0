"""Example drawings of the editor.

EDITOR_EXAMPLES=1 writes those of the toy generator to applications/assets/.
"""

import io
import os

import numpy as np
import pytest
from editor_pages import tiny_model
from PIL import Image
from small_data import png

from applications import cli
from applications.editor.examples import EXAMPLES, TOY_EXAMPLES, examples_for
from applications.editor.session_file import read_drawing_file
from camera_utils import pose_at
from dataset_preprocessing.toy.render import render
from dataset_preprocessing.toy.write import HELD_OUT, KINDS, RenderJob, sample_object
from training.data.label_maps import colorize

# Number of the held-out object of each file; the first example of each network is older.
CATS = {"toy_cat_round_ears.png": 4, "toy_cat_large.png": 11, "toy_cat_turned.png": 7}
CARS = {"toy_car_side.png": 10, "toy_car_corner.png": 3, "toy_car_van.png": 5}


@pytest.mark.parametrize(("cfg", "kind", "objects"), [("seg2cat", "cats", CATS), ("edge2car", "cars", CARS)])
def test_the_toy_examples_are_held_out_objects_seen_from_their_views(cfg, kind, objects):
    for example in TOY_EXAMPLES[cfg][1:]:
        scene, _ = sample_object(RenderJob(kind, 128, 1, 0, HELD_OUT), objects[example.file])
        pose = pose_at(KINDS[kind].preset, example.view.azimuth, example.view.polar)[0].numpy()
        label_map = KINDS[kind].label_map(render(scene, pose, 128))
        pixels = colorize(label_map) if kind == "cats" else label_map
        if os.environ.get("EDITOR_EXAMPLES"):
            (cli.ASSETS / example.file).write_bytes(png(pixels))
        stored = np.asarray(Image.open(io.BytesIO(example.content)))
        assert np.mean(stored != pixels) < 1e-3, example.file  # rounding differs by machine


@pytest.mark.parametrize("table", [EXAMPLES, TOY_EXAMPLES])
@pytest.mark.parametrize("cfg", ["seg2cat", "edge2car"])
def test_examples_are_drawings_within_the_limits_of_their_network(table, cfg):
    model = tiny_model(cfg)
    for example in table[cfg]:
        drawing = read_drawing_file(example.content, model.G.data_type, model.limits)
        assert 0.01 < (drawing > 0).mean() < 0.9, example.file
        for name in ("azimuth", "polar", "zoom"):
            low, high = getattr(model.limits.orbit, name)
            assert low <= getattr(example.view, name) <= high, example.file


def test_only_networks_of_this_repository_get_toy_examples():
    assert examples_for("checkpoints/toy_seg2cat.safetensors", "seg2cat") == TOY_EXAMPLES["seg2cat"]
    assert examples_for("https://example.org/pix2pix3d_seg2cat.pkl", "seg2cat") == EXAMPLES["seg2cat"]
    assert examples_for("pix2pix3d_seg2face.pkl", "seg2face") == ()
