"""showcase.py: the video at the top of the README."""

from contextlib import closing

import numpy as np
import torch
from click.testing import CliRunner
from PIL import Image

from applications import cli, showcase
from training.data.label_maps import read_label_map


def test_a_scaled_class_keeps_its_lowest_row_and_leaves_background():
    label_map = torch.zeros(1, 1, 8, 4, dtype=torch.long)
    label_map[..., 6:, :] = 1  # another class
    label_map[..., 2:6, 1] = 2  # four rows
    scaled = showcase.scale_height(label_map, 2, 0.5)
    assert (scaled[0, 0, :, 1] == torch.tensor([0, 0, 0, 0, 2, 2, 1, 1])).all()
    assert torch.equal(showcase.scale_height(label_map, 2, 1.0), label_map)


def test_the_camera_swings_to_both_sides_and_back():
    yaws = list(showcase.swing(24))
    assert yaws[0] == 0
    assert max(yaws) == -min(yaws) == showcase.SWING_RAD


def test_the_label_map_of_the_showcase_has_the_class_that_is_painted():
    ids = read_label_map(cli.ASSETS / "toy_cat.png", "seg", 6)
    assert showcase.EARS in ids


def test_the_showcase_draws_paints_turns_and_changes_style(tmp_path, monkeypatch):
    for name in ("DRAW_FRAMES", "PAINT_FRAMES", "TURN_FRAMES", "STYLE_FRAMES", "PAUSE_FRAMES"):
        monkeypatch.setattr(showcase, name, 2)
    result = CliRunner().invoke(showcase.main, [f"--outdir={tmp_path}"])
    assert result.exit_code == 0, result.output
    with closing(Image.open(tmp_path / "showcase.gif")) as video:
        # Two frames each of drawing, pause, painting, pause, turning and three styles.
        assert video.n_frames == 16
        video.seek(video.n_frames - 1)
        last = np.asarray(video.convert("RGB"))
    assert last.shape == (showcase.CELL + 2 * showcase.MARGIN + showcase.CAPTION, 2 * showcase.CELL + 24, 3)
