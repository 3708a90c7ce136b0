"""Whole metrics on data whose answers are known: a perfect model, a constant one, shuffled pairs, two processes."""

import copy
import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from metric_data import OBJECTS, VIEWS, Oracle, Thumbnails, noise_data, tiny_network, toy

from metrics import snapshots
from metrics.diversity import Distance
from metrics.errors import OptionError
from metrics.evaluation import Choices, Evaluation, Result, Tools, constant_guess
from metrics.extractors import Extractor, to_pictures
from metrics.features import real_features
from metrics.generated import Generator, order_of
from metrics.ground_truth import DepthPictures, Objects
from metrics.names import Metric, parse_metrics
from metrics.protocol import protocol
from metrics.report import table, write_result
from metrics.sharing import on_rank_0, shared, together
from metrics.snapshots import judge_snapshot
from metrics.tally import Tally
from metrics.tools import ToolOptions, load_tools
from torch_utils import distributed
from torch_utils.launch import ProcessError
from training.data.archive import DataError
from training.data.dataset import PosedImageDataset
from training.options import DataOptions
from training.weights.snapshot import load_network_pkl

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
    distance = Distance("mean difference", lambda a, b: (a - b).abs().mean((1, 2, 3)))
    thumbnails = Extractor("thumbnails", "1", Thumbnails())
    return Evaluation(dataset, Tools(thumbnails, thumbnails, None, distance, depths), Choices(), CPU, 6)


def figures(evaluation, source, *names):
    results = evaluation(source, parse_metrics(names))
    return {name: value for result in results for name, value in result.values.items()}


# --------------------------------------------------------------------------- limits


def test_a_perfect_model_scores_as_well_as_can_be(evaluation, dataset):
    found = figures(evaluation, Oracle(dataset), "fid", "kid", "pr", "miou", "acc", "nvs")
    assert found["fid"] == pytest.approx(0, abs=1e-7)  # pictures to [-1, 1] and back are what they were
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
    assert true["fvv_color"] < 0.03  # gloss and soft outlines move with the view
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
    assert one.keys() == again.keys() and np.array_equal([*one.values()], [*again.values()], equal_nan=True)
    larger = replace(evaluation, choices=Choices(batch=5))
    for name, value in figures(larger, Generator(G), *names).items():
        assert value == pytest.approx(one[name], rel=1e-4, abs=1e-6, nan_ok=True), (
            name
        )  # a batch's sums run in another order


def test_a_generator_with_other_seeds_makes_other_pictures(evaluation, G):
    one = figures(evaluation, Generator(G), "fid", "sg")
    other = replace(evaluation, choices=Choices(seed=100))
    assert one["sg"] > 0 and figures(other, Generator(G), "fid")["fid"] != one["fid"]


def test_names_with_numbers_take_that_many_and_go_around_the_data_again(evaluation, G):
    results = list(evaluation(Generator(G), [Metric("fid4", 4, 4), Metric("fid9_full", 9)]))
    assert [result.samples for result in results] == [4, 9]
    assert results[0].values["fid4"] != results[1].values["fid9_full"]


def test_the_mesh_of_a_network_is_compared_with_the_true_points(evaluation, G):
    pytest.importorskip("skimage", reason="needs scikit-image (pip install -e .[mesh])")
    guess = constant_guess(evaluation, range(ALL), torch.zeros(3))
    own, constant = (figures(evaluation, source, "chamfer") for source in (Generator(G), guess))
    assert constant["chamfer_mean"] < 0.03  # points of the same three cats
    assert not own["chamfer_mean"] <= constant["chamfer_mean"]  # NaN where none of its densities has a surface


@pytest.fixture
def data(files):
    """As a run on half of these pictures and their mirrored copies has it."""
    return DataOptions("cats", str(files["data"]), str(files["mask_data"]), "seg", 128, max_size=ALL // 2, xflip=True)


TOOLS = ToolOptions(distance="l1", extractor="metric_data:Thumbnails")


def test_a_snapshot_is_judged_on_all_pictures_as_they_are_and_noted(G, data, tmp_path):
    found = judge_snapshot(G, data, ["miou", "fid", "nvs"], tmp_path, "network-snapshot-000001.pkl", CPU, TOOLS)
    assert {"miou", "fid", "nvs_psnr"} <= set(found) and 0 <= found["miou"] <= 1
    line = json.loads((tmp_path / "metric-fid.jsonl").read_text())
    assert line["snapshot_pkl"] == "network-snapshot-000001.pkl" and line["samples"] == ALL
    told = (tmp_path / "metric-fid-protocol.txt").read_text()
    assert f"real pictures: {ALL}, all" in told and "rendered at: 8 pixels" in told


@pytest.mark.parametrize(
    ("names", "options", "reason"),
    [
        (["ap"], TOOLS, "--metrics ap: is for edge data"),
        (["miou", "fid"], replace(TOOLS, extractor="nowhere.pt"), "--extractor nowhere.pt: no such file"),
        (["miou", "fid"], replace(TOOLS, extractor="metric_data:Whims"), "--extractor metric_data:Whims: fails on"),
    ],
)
def test_a_metric_that_fails_is_told_in_a_line_and_ends_nothing(names, options, reason, G, data, tmp_path, capsys):
    assert judge_snapshot(G, data, names, tmp_path, "a.pkl", CPU, options) == {}
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"Metrics of a.pkl failed: {reason}")


def test_a_run_judges_with_the_weights_of_lpips_that_it_was_given(G, data, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(snapshots, "load_tools", lambda options, *_: seen.append(options.lpips_weights) or Tools())
    run = SimpleNamespace(data=data, metrics=["miou"], lpips_weights="vgg16.pth")
    assert snapshots.evaluate_run(G, run, tmp_path, "a.pkl", CPU).keys() == {"miou"}
    assert seen == ["vgg16.pth"]


def test_the_death_of_a_process_that_reads_training_data_is_not_taken_for_a_metric_that_fails(
    G, data, tmp_path, monkeypatch
):
    def interrupted(*_):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    monkeypatch.setattr(snapshots, "of_network", interrupted)
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        judge_snapshot(G, data, ["miou"], tmp_path, "a.pkl", CPU, TOOLS)


def test_a_diverged_network_is_told_apart_from_a_bad_one(evaluation, G):
    G = copy.deepcopy(G)
    next(G.superresolution.parameters()).data.fill_(torch.nan)
    with pytest.raises(OptionError, match=r"^--network: draws numbers that are not finite"):
        figures(evaluation, Generator(G), "miou")


def test_what_fails_in_one_process_fails_in_all(monkeypatch):
    monkeypatch.setattr("metrics.sharing.gather_objects", lambda mine: [mine, "disk full"])
    with pytest.raises(ProcessError, match="disk full"):
        together(lambda: 3)
    with pytest.raises(ZeroDivisionError):
        on_rank_0(lambda: 1 / 0)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ZeroDivisionError(), r"(?s)Traceback .*in fail\b.*ZeroDivisionError\n"),
        (OptionError("no such file"), "no such file"),
    ],
)
def test_other_processes_hear_where_a_fault_is_but_of_a_wrong_input_only_what(error, said, monkeypatch):
    sent = []
    monkeypatch.setattr("metrics.sharing.gather_objects", lambda mine: sent.append(mine) or sent)

    def fail():
        raise error

    with pytest.raises(type(error)):
        together(fail)
    assert re.fullmatch(said, sent[0])


def test_no_more_pictures_than_the_batch_are_drawn_at_once(evaluation, G):
    class Watched(Generator):
        def look(self, scenes, pose):
            assert len(pose) <= 1
            return super().look(scenes, pose)

    one = replace(evaluation, choices=Choices(batch=1, num=1))
    assert figures(one, Watched(G), "sg", "fvv", "nvs", "miou")["sg"] > 0


def test_thin_density_is_not_a_surface(evaluation, G):
    """Whatever its planes hold: an untrained network is fog."""
    found = figures(replace(evaluation, choices=Choices(num=1)), Generator(G), "fvv")
    assert found["fvv_compared"] == 0 and np.isnan(found["fvv_color"])


def test_no_image_is_decoded_that_no_metric_looks_at(evaluation, dataset, G, monkeypatch):
    def decoded(self, idx):
        raise AssertionError("decoded")

    monkeypatch.setattr(type(dataset), "__getitem__", decoded)
    assert figures(evaluation, Generator(G), "miou", "sg", "fvv")["miou"] >= 0


def test_the_constant_guess_is_the_same_whatever_else_is_asked(files, dataset):
    def guess(*names):
        tools = load_tools(TOOLS, parse_metrics(names), dataset, 6, CPU)
        return constant_guess(Evaluation(dataset, tools, Choices(), CPU, 6), range(ALL), torch.zeros(3))

    alone, both = guess("fvv"), guess("fvv", "nvs")
    assert torch.equal(alone.depth, both.depth) and torch.equal(alone.weight, both.weight)
    assert 0 < (alone.weight > 0.5).float().mean() < 0.6  # cats fill about a third


def test_depth_of_other_pictures_and_objects_in_another_order_are_refused(files, tmp_path):
    mirrored = PosedImageDataset(files["data"], files["mask_data"], xflip=True)
    for changed in (mirrored, PosedImageDataset(files["data"], files["mask_data"], max_size=4)):
        with pytest.raises(DataError, match="expected all pictures in their order"):
            Objects(changed)
    depths = DepthPictures(files["data"].with_name("cats_depth.zip"))
    assert torch.equal(depths.of(mirrored, ALL), depths.of(mirrored, 0).flip(2))
    small = noise_data(tmp_path, 16, "seg", 2)
    with pytest.raises(DataError, match="128x128 pixels, its image has 16; depth of another data set"):
        depths.of(small, 0)


# --------------------------------------------------------------------------- features, tallies, reports


def counting():
    """Thumbnails, and how many pictures they saw."""
    calls = []

    def features(pictures):
        calls.append(len(pictures))
        return Thumbnails()(pictures)

    return features, calls


def test_real_features_are_computed_once_for_each_data_set_and_extractor(dataset, cache):
    features, calls = counting()

    def compute(digest="1", members=range(ALL), **kept):
        return real_features(dataset, members, Extractor("x", digest, features, **kept), 4, CPU)

    first = compute()
    assert sum(calls) == ALL and torch.equal(compute(), first) and sum(calls) == ALL
    compute(digest="2")
    compute(members=range(3))
    assert sum(calls) == 2 * ALL + 3 and len(list(cache.rglob("*.npy"))) == 3
    for path in cache.rglob("*.npy"):
        path.write_bytes(path.read_bytes()[:50])  # a damaged cache is no cache
    assert torch.equal(compute(), first) and sum(calls) == 3 * ALL + 3
    assert torch.equal(compute(kept=False), first) and sum(calls) == 4 * ALL + 3  # its code may be another


def test_a_cache_that_cannot_be_written_is_a_warning(dataset, cache):
    cache.write_bytes(b"in the way")
    with pytest.warns(UserWarning, match="features of the real pictures are not kept"):
        assert len(real_features(dataset, range(2), Extractor("x", "1", Thumbnails()), 4, CPU)) == 2


def test_metrics_and_sources_share_the_features_of_the_real_pictures(evaluation, dataset, G, monkeypatch):
    features, calls = counting()
    read = []
    whole = type(dataset.images).read
    monkeypatch.setattr(type(dataset.images), "read", lambda self, name: read.append((self, name)) or whole(self, name))
    evaluation = replace(evaluation, tools=Tools(Extractor("x", "1", features)))
    for source in (Generator(G), Oracle(dataset)):
        figures(evaluation, source, "fid", "kid", "pr")
    assert sum(calls) == 3 * ALL  # of the real pictures once, and of each source's
    assert read.count((dataset.images, dataset.get_details(0).name)) == 2  # for the digest, and to compute


def test_rows_come_in_the_order_of_samples_however_they_were_put():
    tally = Tally()
    tally.put("x", [2, 0], torch.tensor([[2.0], [0.0]]))
    tally.put("x", [1], torch.tensor([[float("nan")]]))
    assert tally.rows("x")[[0, 2]].tolist() == [[0.0], [2.0]] and tally.rows("x", 1).tolist() == [[0.0]]


def test_processes_have_the_batches_that_one_would_have(monkeypatch):
    alone = list(shared(10, 4))
    monkeypatch.setattr("metrics.sharing.world_size", lambda: 2)
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr("metrics.sharing.rank", lambda rank=rank: rank)
        parts += list(shared(10, 4))
    assert sorted(parts, key=lambda r: r.start) == alone == [range(0, 4), range(4, 8), range(8, 10)]


def test_the_table_shows_gaps_where_a_source_has_no_figure(evaluation, dataset):
    evaluation = replace(evaluation, choices=Choices(num=1))
    columns = {
        "network": list(evaluation(Oracle(dataset), parse_metrics(["acc", "fvv"]))),
        "constant": list(evaluation(constant_guess(evaluation, [0], torch.zeros(3)), parse_metrics(["acc"]))),
    }
    lines = table(columns).splitlines()
    assert lines[0].split() == ["network", "constant"] and lines[1].split()[:2] == ["acc", "1"]
    assert any(line.startswith("fvv_color") and line.endswith("-") for line in lines)
    told = protocol(evaluation, columns["network"][1], {"network": "oracle"})
    assert told["network"] == "oracle" and told["samples"] == "1" and "-0.35, -0.175" in told["views"]


def test_every_level_of_a_picture_comes_back():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_pictures(levels / 127.5 - 1), levels)
    assert to_pictures(torch.tensor([-3.0, -1, 1, 3])).tolist() == [0, 0, 255, 255]


def test_figures_that_are_not_there_are_null_and_the_others_say_how_many_have_them(tmp_path):
    values = {"fvv_color": 0.5, "fvv_label": float("nan")}
    result = Result(Metric("fvv"), values, 3, {"fvv_color": 2, "fvv_label": 0}, 1.0)
    for _ in range(2):
        write_result(tmp_path, {"network": result, "constant": result}, "a.pt", 1, {"seed": "0"}, cfg="seg2cat")
    assert table({"network": [result]}).splitlines()[1:] == ["fvv_color  0.5 (2 of 3)", "fvv_label              -"]
    first, second = map(json.loads, (tmp_path / "metric-fvv.jsonl").read_text().splitlines())
    assert first["results"] == second["baselines"]["constant"] == {"fvv_color": 0.5, "fvv_label": None}
    assert first["counted"] == {"fvv_color": 2, "fvv_label": 0} and first["protocol"] == {"seed": "0"}


def test_seeds_of_two_runs_have_no_sample_in_common():
    ranges = [set(Choices(seed=seed).z_seeds(range(100_000))) for seed in (0, 1, 2, 3, 1000)]
    assert ranges[0] == set(range(100_000)) and sum(map(len, ranges)) == len(set().union(*ranges))


def test_gathering_in_one_process_changes_nothing():
    assert distributed.world_size() == 1
    tally = Tally()
    tally.add("c", torch.tensor([1, 2]))
    assert tally.gathered().sum("c").tolist() == [1, 2]
