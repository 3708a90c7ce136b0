"""Fixtures of the tests of metrics: toy cats with depth, an evaluator on them, and a tiny network."""

import pytest
import torch
from metric_data import Thumbnails, tiny_network, toy

from metrics.evaluation import Evaluator, SamplingOptions
from metrics.image_features import Extractor
from metrics.image_similarity import ImageDistance
from metrics.resources import Resources
from training.data.dataset import PosedImageDataset
from training.data.depth_maps import DepthImages
from training.weights.snapshot import load_network_pkl


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Toy cats as options: data, mask_data."""
    return toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def dataset(files):
    return PosedImageDataset(files["data"], files["mask_data"])


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PIX2PIX3D_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def evaluator(dataset, files):
    depth_images = DepthImages(files["data"].with_name("cats_depth.zip"))
    distance = ImageDistance("mean difference", lambda a, b: (a - b).abs().mean((1, 2, 3)))
    thumbnails = Extractor("thumbnails", "1", Thumbnails())
    resources = Resources(thumbnails, thumbnails, None, distance, depth_images)
    return Evaluator(dataset, resources, SamplingOptions(), torch.device("cpu"), 6)


@pytest.fixture(scope="session")
def network(tmp_path_factory):
    return tiny_network(tmp_path_factory.mktemp("network") / "tiny.pt")


@pytest.fixture
def G(network):
    return load_network_pkl(network)["G_ema"]
