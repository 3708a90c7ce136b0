"""Image grids of runs with a style encoder: every second row has the style of its photos."""

import numpy as np
import pytest
import torch
from metric_data import noise_data, tiny_network

from training.data.label_maps import draw_image, label_map_from_dataset
from training.image_grid import ImageGrid
from training.weights.snapshot import load_network_pkl

CPU = torch.device("cpu")
COLUMNS, ROWS = 2, 3


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    return load_network_pkl(tiny_network(tmp_path_factory.mktemp("network") / "cats.pt", style_encoder=True))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return noise_data(tmp_path_factory.mktemp("data"), 128, "seg", 5)


def row(image, number):
    return image[128 * number : 128 * (number + 1)]


def test_every_second_row_has_the_style_of_its_photos(networks, dataset):
    G, E = networks["G_ema"], networks["E"]
    grid = ImageGrid(dataset, (COLUMNS, ROWS), "afhq", CPU, batch=3)
    photos = grid.render(G, 0, E)
    assert grid.render(G, 0).keys() == photos.keys()

    # Other photos change rows 0, 2, 4, ... only.
    other_grid = ImageGrid(dataset, (COLUMNS, ROWS), "afhq", CPU, batch=3)
    other_grid.images = 255 - grid.images
    others = other_grid.render(G, 0, E)
    for number in range(ROWS):
        same = np.array_equal(row(others["fakes000000"], number), row(photos["fakes000000"], number))
        assert same == (number % 2 == 1)

    # The last sample of the last row, by hand.
    with torch.no_grad():
        photo = torch.from_numpy(grid.images[-1:]).permute(0, 3, 1, 2) / 127.5 - 1
        mask = label_map_from_dataset(grid.masks[-1:], "seg")
        ws = G.mapping(E(photo)[0], grid.poses[-1:], {"mask": mask})
        image = draw_image(G.synthesis(ws, grid.poses[-1:], noise_mode="const", jitter=False)["image"])[0]
    tile = row(photos["fakes000000"], ROWS - 1)[:, -128:]
    assert np.abs(image.astype(int) - tile).mean() < 0.1  # sums in another order


def test_grids_with_photos_do_not_depend_on_the_batch_size(networks, dataset):
    grids = [ImageGrid(dataset, (COLUMNS, ROWS), "afhq", CPU, batch=batch) for batch in (1, 6)]
    one, all_at_once = [grid.render(networks["G_ema"], 0, networks["E"])["fakes000000"] for grid in grids]
    assert np.abs(one.astype(int) - all_at_once).mean() < 0.1
