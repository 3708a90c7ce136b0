"""Whole metrics on data whose answers are known: a perfect model, a constant one, shuffled pairs, two processes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from metric_data import OBJECTS, VIEWS, Oracle, Thumbnails, tiny_network, toy

from metrics.evaluation import Choices, Evaluation, Tools, constant_guess
from metrics.extractors import Extractor
from metrics.features import real_features
from metrics.generated import Generator, order_of, shared
from metrics.ground_truth import DepthPictures
from metrics.names import Metric, parse_metrics
from metrics.report import protocol, table
from metrics.snapshots import judge_snapshot
from metrics.tally import Tally
from metrics.tools import ToolOptions
from torch_utils import distributed
from training.dataset import PosedImageDataset
from training.snapshot import load_network_pkl

CPU = torch.device("cpu")
ALL = OBJECTS * VIEWS


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def dataset(files):
    return PosedImageDataset(files["data"], files["mask_data"])


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PIX2PIX3D_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def evaluation(dataset, files):
    depths = DepthPictures(files["data"].with_name("cats_depth.zip"))
    distance = lambda a, b: (a - b).abs().mean((1, 2, 3))  # noqa: E731
    thumbnails = Extractor("thumbnails", "1", Thumbnails())
    return Evaluation(dataset, Tools(thumbnails, thumbnails, None, distance, depths), Choices(), CPU, 6)


def figures(evaluation, source, *names):
    results = evaluation(source, parse_metrics(names))
    return {name: value for result in results for name, value in result.values.items()}


# --------------------------------------------------------------------------- limits


def test_a_perfect_model_scores_as_well_as_can_be(evaluation, dataset):
    found = figures(evaluation, Oracle(dataset), "fid", "kid", "pr", "miou", "acc", "nvs")
    assert found["fid"] == pytest.approx(0, abs=1e-5)  # pictures to [-1, 1] and back: a grey level here and there
    assert found["kid"] <= 0  # unbiased: equal sets are just below it
    assert found["pr_precision"] == found["pr_recall"] == 1
    assert found["miou"] == found["acc"] == found["nvs_miou"] == 1
    assert found["nvs_psnr"] > 80 and found["nvs_ssim"] == pytest.approx(1)  # stored poses are rounded
    assert found["nvs_depth"] < 1e-4  # one level of the stored depth


def test_a_depth_that_is_off_is_off_by_what_it_is_off(evaluation, dataset):
    depth = figures(evaluation, Oracle(dataset, depth_factor=1.02), "nvs")["nvs_depth"]
    assert depth == pytest.approx(0.02 * 2.6, rel=0.1)  # the cats' distance, give or take their own depth


def test_views_of_a_true_object_fit_each_other_and_those_of_a_wrong_depth_do_not(evaluation, dataset):
    evaluation = replace(evaluation, choices=Choices(num=1))
    true = figures(evaluation, Oracle(dataset), "fvv")
    assert true["fvv_compared"] > 0.15  # a cat fills a third of its picture
    assert true["fvv_label"] < 0.03  # outlines of parts, half a pixel wide
    assert true["fvv_colour"] < 0.03  # gloss and soft outlines move with the view
    wrong = figures(evaluation, Oracle(dataset, depth_factor=1.1), "fvv")
    assert wrong["fvv_label"] > 2 * true["fvv_label"] and wrong["fvv_compared"] < true["fvv_compared"]


def test_the_constant_guess_scores_by_hand(evaluation, dataset):
    members = range(ALL)
    guess = constant_guess(evaluation, members, torch.zeros(3))
    maps = np.stack([dataset[i]["mask"][0] for i in members])
    votes = np.stack([(maps == c).sum(0) for c in range(6)])
    found = figures(evaluation, guess, "acc", "miou", "sg", "fvv")
    assert found["acc"] == pytest.approx(votes.max(0).sum() / maps.size)
    chosen = votes.argmax(0)[None].repeat(ALL, 0)
    seen = [c for c in range(6) if (maps == c).any()]
    by_hand = [((maps == c) & (chosen == c)).sum() / ((maps == c) | (chosen == c)).sum() for c in seen]
    assert found["miou"] == pytest.approx(np.mean(by_hand))
    assert found["sg"] == 0 and found["fvv_embedding"] == 0
    truth = figures(evaluation, Oracle(dataset), "acc")["acc"]
    assert found["acc"] < truth


class Shuffled(Oracle):
    """The right pictures for the wrong label maps."""

    def look(self, scenes, pose):
        out = super().look(scenes, pose)
        return {name: x.roll(1, 0) for name, x in out.items()}


def test_a_shuffled_pairing_keeps_the_distribution_and_loses_the_alignment(evaluation, dataset):
    evaluation = replace(evaluation, choices=Choices(batch=ALL))
    found = figures(evaluation, Shuffled(dataset), "fid", "miou")
    assert found["fid"] == pytest.approx(0, abs=1e-5) and found["miou"] < 0.8


def test_the_input_view_and_members_follow_from_the_seed():
    assert np.array_equal(order_of(7, 3, 0)[:3], order_of(3, 3, 0)) and set(order_of(7, 3, 0)[3:6]) == {0, 1, 2}
    assert not np.array_equal(order_of(50, 50, 0), order_of(50, 50, 1))


# --------------------------------------------------------------------------- a real network


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return tiny_network(tmp_path_factory.mktemp("network") / "tiny.pt")


@pytest.fixture
def G(network):
    return load_network_pkl(network)["G_ema"]


def test_a_figure_is_the_same_whatever_the_batch_and_when_repeated(evaluation, G):
    names = ("fid", "miou", "sg", "fvv", "nvs")
    one = figures(evaluation, Generator(G), *names)
    again = figures(evaluation, Generator(G), *names)
    assert one == again
    larger = replace(evaluation, choices=Choices(batch=5))
    for name, value in figures(larger, Generator(G), *names).items():
        assert value == pytest.approx(one[name], rel=1e-4, abs=1e-6), name  # a batch's sums run in another order


def test_a_generator_with_other_seeds_makes_other_pictures(evaluation, G):
    one = figures(evaluation, Generator(G), "fid", "sg")
    other = replace(evaluation, choices=Choices(seed=100))
    assert one["sg"] > 0 and figures(other, Generator(G), "fid")["fid"] != one["fid"]


def test_names_with_numbers_take_that_many_and_go_around_the_data_again(evaluation, G):
    results = evaluation(Generator(G), [Metric("fid4", 4, 4), Metric("fid9_full", 9)])
    assert [result.samples for result in results] == [4, 9]
    assert results[0].values["fid4"] != results[1].values["fid9_full"]


def test_the_mesh_of_a_network_is_compared_with_the_true_points(evaluation, G):
    pytest.importorskip("skimage", reason="needs scikit-image (pip install pix2pix3d[mesh])")
    guess = constant_guess(evaluation, range(ALL), torch.zeros(3))
    own, constant = (figures(evaluation, source, "chamfer") for source in (Generator(G), guess))
    assert constant["chamfer_mean"] < 0.03  # points of the same three cats
    assert own["chamfer_surfaces"] <= 1
    if own["chamfer_surfaces"]:
        assert own["chamfer_mean"] > constant["chamfer_mean"]


def test_a_snapshot_is_judged_and_noted(G, dataset, tmp_path):
    options = ToolOptions(distance="l1", extractor="metric_data:Thumbnails")
    found = judge_snapshot(G, dataset, ["miou", "fid"], tmp_path, "network-snapshot-000001.pkl", CPU, options)
    assert set(found) == {"miou", "fid"} and 0 <= found["miou"] <= 1
    assert "network-snapshot-000001.pkl" in (tmp_path / "metric-fid.jsonl").read_text()
    with pytest.raises(ValueError, match=r"^--metrics ap: is for edge data"):
        judge_snapshot(G, dataset, ["ap"], tmp_path, "x", CPU, options)


# --------------------------------------------------------------------------- features, tallies, reports


def test_real_features_are_computed_once_for_each_data_set_and_extractor(dataset, cache):
    calls = []

    def features(pictures):
        calls.append(len(pictures))
        return Thumbnails()(pictures)

    def compute(digest="1", members=range(ALL)):
        return real_features(dataset, members, Extractor("x", digest, features), 4, CPU)

    first = compute()
    assert sum(calls) == ALL and torch.equal(compute(), first) and sum(calls) == ALL
    compute(digest="2")
    compute(members=range(3))
    assert sum(calls) == 2 * ALL + 3 and len(list(cache.rglob("*.npy"))) == 3
    for path in cache.rglob("*.npy"):
        path.write_bytes(path.read_bytes()[:50])  # a damaged cache is no cache
    assert torch.equal(compute(), first) and sum(calls) == 3 * ALL + 3


def test_rows_come_in_the_order_of_samples_however_they_were_put():
    tally = Tally()
    tally.put("x", [2, 0], torch.tensor([[2.0], [0.0]]))
    tally.put("x", [1], torch.tensor([[float("nan")]]))
    assert tally.rows("x")[[0, 2]].tolist() == [[0.0], [2.0]] and tally.mean("x") == [1.0]


def test_processes_have_the_batches_that_one_would_have(monkeypatch):
    alone = list(shared(10, 4))
    monkeypatch.setattr("metrics.generated.world_size", lambda: 2)
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr("metrics.generated.rank", lambda rank=rank: rank)
        parts += list(shared(10, 4))
    assert sorted(parts, key=lambda r: r.start) == alone == [range(0, 4), range(4, 8), range(8, 10)]


def test_the_table_shows_gaps_where_a_source_has_no_figure(evaluation, dataset):
    evaluation = replace(evaluation, choices=Choices(num=1))
    columns = {
        "network": evaluation(Oracle(dataset), parse_metrics(["acc", "fvv"])),
        "constant": evaluation(constant_guess(evaluation, [0], torch.zeros(3)), parse_metrics(["acc"])),
    }
    lines = table(columns).splitlines()
    assert lines[0].split() == ["network", "constant"] and lines[1].split()[:2] == ["acc", "1"]
    assert any(line.startswith("fvv_colour") and line.endswith("-") for line in lines)
    text = protocol(evaluation, columns["network"], {"network": "oracle"})
    assert "network: oracle" in text and "samples: 1" in text and "-0.35, -0.175" in text


def test_gathering_in_one_process_changes_nothing():
    assert distributed.world_size() == 1
    tally = Tally()
    tally.add("c", torch.tensor([1, 2]))
    assert tally.gathered().sum("c").tolist() == [1, 2]
