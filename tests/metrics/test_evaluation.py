"""Evaluation end to end: a perfect model, a constant baseline, shuffled pairs, and a network."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from metric_data import OBJECTS, VIEWS, Oracle, Thumbnails, noise_data

from dnnlib.errors import ConfigError
from metrics.evaluation import Evaluator, SamplingOptions, sample_order
from metrics.generators import NetworkGenerator, fit_mean_baseline
from metrics.image_features import Extractor, to_uint8
from metrics.registry import Metric, parse_metrics
from metrics.resources import MultiViewObjects, ResourceOptions, Resources, load_resources
from training.data.archive import DataError
from training.data.dataset import PosedImageDataset
from training.data.depth_maps import DepthImages

CPU = torch.device("cpu")
ALL = OBJECTS * VIEWS
PIVOT = torch.zeros(3)


def evaluate(evaluator, generator, *names):
    """Return all figures by name."""
    results = evaluator.evaluate(generator, parse_metrics(names))
    return {name: value for result in results for name, value in result.figures.items()}


# --------------------------------------------------------------------------- limits


def test_a_perfect_model_has_the_best_scores(evaluator, dataset):
    figures = evaluate(evaluator, Oracle(dataset), "fid", "kid", "pr", "miou", "acc", "nvs")
    assert figures["fid"] == pytest.approx(0, abs=1e-7)  # conversion to [-1, 1] and back is exact
    assert figures["kid"] <= 0  # unbiased: equal sets are slightly below 0
    assert figures["pr_precision"] == figures["pr_recall"] == 1
    assert figures["miou"] == figures["acc"] == figures["nvs_miou"] == 1
    assert figures["nvs_psnr"] > 80 and figures["nvs_ssim"] == pytest.approx(1)  # stored poses are rounded
    assert figures["nvs_depth"] < 1e-4  # one level of the stored depth


def test_depth_error_equals_a_known_error(evaluator, dataset):
    figures = evaluate(evaluator, Oracle(dataset, depth_factor=1.02), "nvs")
    assert figures["nvs_depth"] == pytest.approx(0.02 * 2.6, rel=0.1)  # the cats' distance varies with their shape


def test_views_agree_with_true_depth_and_disagree_with_wrong_depth(evaluator, dataset):
    evaluator = replace(evaluator, options=SamplingOptions(num=1))
    true = evaluate(evaluator, Oracle(dataset), "fvv")
    assert true["fvv_compared"] > 0.15  # a cat fills a third of its image
    assert true["fvv_label"] < 0.03  # outlines of classes, half a pixel wide
    assert true["fvv_color"] < 0.03  # highlights and soft outlines depend on the view
    wrong = evaluate(evaluator, Oracle(dataset, depth_factor=1.1), "fvv")
    assert wrong["fvv_label"] > 2 * true["fvv_label"] and wrong["fvv_compared"] < true["fvv_compared"]


def test_scores_of_the_mean_baseline_equal_hand_computed_values(evaluator, dataset):
    baseline = fit_mean_baseline(evaluator, range(ALL), PIVOT)
    figures = evaluate(evaluator, baseline, "acc", "miou", "sg", "fvv")

    # The most frequent class of each pixel.
    maps = np.stack([dataset[i]["mask"][0] for i in range(ALL)])
    votes = np.stack([(maps == c).sum(0) for c in range(6)])
    predicted = votes.argmax(0)[None].repeat(ALL, 0)
    assert figures["acc"] == pytest.approx(votes.max(0).sum() / maps.size)
    ious = []
    for c in range(6):
        if (maps == c).any():
            ious.append(((maps == c) & (predicted == c)).sum() / ((maps == c) | (predicted == c)).sum())
    assert figures["miou"] == pytest.approx(np.mean(ious))

    assert figures["sg"] == 0 and figures["fvv_embedding"] == 0
    assert figures["acc"] < evaluate(evaluator, Oracle(dataset), "acc")["acc"]


class ShuffledOracle(Oracle):
    """Returns correct images for the wrong label maps."""

    def render(self, scenes, pose):
        out = super().render(scenes, pose)
        return {name: x.roll(1, 0) for name, x in out.items()}


def test_shuffled_pairs_keep_the_distribution_and_lose_the_alignment(evaluator, dataset):
    evaluator = replace(evaluator, options=SamplingOptions(batch=ALL))
    figures = evaluate(evaluator, ShuffledOracle(dataset), "fid", "miou")
    assert figures["fid"] == pytest.approx(0, abs=1e-5) and figures["miou"] < 0.8


# --------------------------------------------------------------------------- samples


def test_sample_order_is_a_repeated_permutation_that_depends_on_the_seed():
    assert np.array_equal(sample_order(7, 3, 0)[:3], sample_order(3, 3, 0))
    assert set(sample_order(7, 3, 0)[3:6]) == {0, 1, 2}
    assert not np.array_equal(sample_order(50, 50, 0), sample_order(50, 50, 1))


def test_z_seeds_of_different_seeds_do_not_overlap():
    ranges = [set(SamplingOptions(seed=seed).z_seeds(range(100_000))) for seed in (0, 1, 2, 3, 1000)]
    assert ranges[0] == set(range(100_000)) and sum(map(len, ranges)) == len(set().union(*ranges))


def test_uint8_images_are_restored_exactly_and_other_values_clipped():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(levels / 127.5 - 1), levels)
    assert to_uint8(torch.tensor([-3.0, -1, 1, 3])).tolist() == [0, 0, 255, 255]


def test_multi_view_objects_need_as_many_views_of_each_and_no_mirrored_copies(files):
    mirrored = PosedImageDataset(files["data"], files["mask_data"], xflip=True)
    with pytest.raises(DataError, match="expected no mirrored copies"):
        MultiViewObjects(mirrored)
    subset = PosedImageDataset(files["data"], files["mask_data"], max_size=OBJECTS * VIEWS - 1)
    with pytest.raises(DataError, match='"objects": got 1 to 2 images of an object, expected the same number of each'):
        MultiViewObjects(subset)


def test_depth_is_mirrored_with_its_image_and_must_have_its_size(files, tmp_path):
    mirrored = PosedImageDataset(files["data"], files["mask_data"], xflip=True)
    depth_images = DepthImages(files["data"].with_name("cats_depth.zip"))
    assert torch.equal(depth_images.read(mirrored, ALL), depth_images.read(mirrored, 0).flip(2))
    small = noise_data(tmp_path, 16, "seg", 2)
    with pytest.raises(DataError, match="128x128 pixels, but its color image has 16; is it the depth of another data"):
        depth_images.read(small, 0)


# --------------------------------------------------------------------------- a network


def test_figures_are_reproducible_and_independent_of_the_batch_size(evaluator, G):
    names = ("fid", "miou", "sg", "fvv", "nvs")
    figures = evaluate(evaluator, NetworkGenerator(G), *names)
    again = evaluate(evaluator, NetworkGenerator(G), *names)
    assert figures.keys() == again.keys()
    assert np.array_equal([*figures.values()], [*again.values()], equal_nan=True)

    larger = replace(evaluator, options=SamplingOptions(batch=5))
    for name, value in evaluate(larger, NetworkGenerator(G), *names).items():
        # Sums within a larger batch have another order.
        assert value == pytest.approx(figures[name], rel=1e-4, abs=1e-6, nan_ok=True), name


def test_another_seed_gives_other_images(evaluator, G):
    figures = evaluate(evaluator, NetworkGenerator(G), "fid", "sg")
    other = replace(evaluator, options=SamplingOptions(seed=100))
    assert figures["sg"] > 0 and evaluate(other, NetworkGenerator(G), "fid")["fid"] != figures["fid"]


def test_numbered_metrics_repeat_the_data_set(evaluator, G):
    results = list(evaluator.evaluate(NetworkGenerator(G), parse_metrics(["fid4", "fid9_full"])))
    assert [result.num_samples for result in results] == [4, 9]
    assert results[0].figures["fid4"] != results[1].figures["fid9_full"]


def test_the_mesh_of_a_network_is_compared_with_true_points(evaluator, G):
    pytest.importorskip("skimage", reason="needs scikit-image (pip install -e .[mesh])")
    constant = evaluate(evaluator, fit_mean_baseline(evaluator, range(ALL), PIVOT), "chamfer")
    untrained = evaluate(evaluator, NetworkGenerator(G), "chamfer")
    assert constant["chamfer_mean"] < 0.03  # points of the same three cats
    assert not untrained["chamfer_mean"] <= constant["chamfer_mean"]  # NaN if no density has a surface


def test_a_network_with_nan_outputs_is_an_error(evaluator, G):
    G = copy.deepcopy(G)
    next(G.superresolution.parameters()).data.fill_(torch.nan)
    with pytest.raises(ConfigError, match=r"^network: renders numbers that are not finite"):
        evaluate(evaluator, NetworkGenerator(G), "miou")


def test_no_more_images_than_the_batch_size_are_rendered_at_once(evaluator, G):
    class Watched(NetworkGenerator):
        def render(self, scenes, pose):
            assert len(pose) <= 1
            return super().render(scenes, pose)

    evaluator = replace(evaluator, options=SamplingOptions(batch=1, num=1))
    assert evaluate(evaluator, Watched(G), "sg", "fvv", "nvs", "miou")["sg"] > 0


def test_views_without_surfaces_are_not_compared(evaluator, G):
    """The density of an untrained network is too low for opaque rays."""
    evaluator = replace(evaluator, options=SamplingOptions(num=1))
    figures = evaluate(evaluator, NetworkGenerator(G), "fvv")
    assert figures["fvv_compared"] == 0 and np.isnan(figures["fvv_color"])


def test_images_are_not_decoded_for_metrics_that_do_not_use_them(evaluator, dataset, G, monkeypatch):
    def decode(self, idx):
        raise AssertionError("decoded")

    monkeypatch.setattr(type(dataset), "__getitem__", decode)
    assert evaluate(evaluator, NetworkGenerator(G), "miou", "sg", "fvv")["miou"] >= 0


def test_the_mean_baseline_does_not_depend_on_the_metrics(dataset):
    def fit(*names):
        options = ResourceOptions(distance="l1", extractor="metric_data:Thumbnails")
        resources = load_resources(options, parse_metrics(names), dataset, 6, CPU)
        return fit_mean_baseline(Evaluator(dataset, resources, SamplingOptions(), CPU, 6), range(ALL), PIVOT)

    one = fit("fvv")
    two = fit("fvv", "nvs")
    assert torch.equal(one.depth, two.depth) and torch.equal(one.weight, two.weight)
    assert 0 < (one.weight > 0.5).float().mean() < 0.6  # cats fill about a third


def test_metrics_and_generators_share_the_features_of_real_images(evaluator, dataset, G, monkeypatch):
    num_images = []
    files_read = []
    read = type(dataset.images).read

    def features(images):
        num_images.append(len(images))
        return Thumbnails()(images)

    def counting_read(archive, name):
        files_read.append((archive, name))
        return read(archive, name)

    monkeypatch.setattr(type(dataset.images), "read", counting_read)
    evaluator = replace(evaluator, resources=Resources(Extractor("x", "1", features)))
    for generator in (NetworkGenerator(G), Oracle(dataset)):
        evaluate(evaluator, generator, "fid", "kid", "pr")
    assert sum(num_images) == 3 * ALL  # real images once, and those of both generators
    first_image = (dataset.images, dataset.get_details(0).name)
    assert files_read.count(first_image) == 2  # for the digest and for the features


def test_metrics_of_one_mode_have_their_own_numbers_of_samples(evaluator, dataset):
    metrics = [Metric("fid2", "fid", 2, 2), Metric("miou", "miou")]
    results = {result.metric.name: result for result in evaluator.evaluate(Oracle(dataset), metrics)}
    assert results["fid2"].num_samples == 2 and results["miou"].num_samples == ALL
    assert results["fid2"].figures["fid2"] == pytest.approx(0, abs=1e-7) and results["miou"].figures["miou"] == 1
