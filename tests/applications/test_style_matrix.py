"""style_matrix.py: the picture of docs/photo.md."""

import numpy as np
from click.testing import CliRunner
from PIL import Image

from applications import cli, style_matrix
from camera_utils import CATS, front_pose
from dataset_preprocessing.toy.render import render
from dataset_preprocessing.toy.write import HELD_OUT, RenderJob, sample_object
from training.data.label_maps import colorize


def test_the_picture_has_photos_above_label_maps_on_the_left_and_their_combinations(tmp_path, monkeypatch):
    # Two objects suffice.
    monkeypatch.setattr(style_matrix, "OBJECTS", style_matrix.OBJECTS[:2])
    result = CliRunner().invoke(style_matrix.main, ["--outdir", str(tmp_path), "--steps", "1"])
    assert result.exit_code == 0, result.output
    picture = np.array(Image.open(tmp_path / "style_matrix.png"))
    size = 128 + style_matrix.MARGIN
    assert picture.shape == (3 * size - style_matrix.MARGIN, 3 * size - style_matrix.MARGIN, 3)

    # Without steps, the style encoder alone puts the color of each photo on both label maps.
    cells = [[picture[y * size :, x * size :][:128, :128] for x in range(3)] for y in range(3)]
    photos = [style_matrix.photograph(number, 128)[0] for number in style_matrix.OBJECTS]
    for number, photo in enumerate(photos, 1):
        assert np.array_equal(cells[0][number], photo.image)
        assert np.array_equal(cells[number][0], colorize(photo.parts))
    for row in cells[1:]:
        heads = [cell[60:100, 50:78].mean((0, 1)) for cell in row[1:]]
        expected = [photo.image[60:100, 50:78].mean((0, 1)) for photo in photos]
        distances = [[np.abs(head - color).mean() for color in expected] for head in heads]
        assert np.argmin(distances, axis=1).tolist() == [0, 1]


def test_the_photo_of_the_documentation_shows_the_object_of_its_label_map():
    scene, _ = sample_object(RenderJob("cats", 128, 1, 0, HELD_OUT), 4)
    rendering = render(scene, front_pose(CATS)[0].numpy(), 128)
    stored = np.array(Image.open(cli.ASSETS / "toy_cat_round_ears_photo.png"))
    labels = np.array(Image.open(cli.ASSETS / "toy_cat_round_ears.png"))
    assert np.mean(np.abs(stored.astype(int) - rendering.image) > 2) < 1e-3  # rounding differs by machine
    assert np.mean(labels != colorize(rendering.parts)) < 1e-3
