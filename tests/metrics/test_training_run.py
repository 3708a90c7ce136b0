"""Metrics during training: results and failures of `evaluate_run`, and checks before training."""

import json
from types import SimpleNamespace

import pytest
import torch
from metric_data import OBJECTS, VIEWS

from dnnlib.errors import ConfigError
from metrics import training_run
from metrics.resources import ResourceOptions, Resources
from metrics.training_run import check_run_metrics, evaluate_run
from training.options import DataOptions

CPU = torch.device("cpu")
ALL = OBJECTS * VIEWS
THUMBNAILS = "metric_data:Thumbnails"


@pytest.fixture
def run(files, monkeypatch):
    """Return a function that makes options of a run on half of the images and their mirrored copies."""
    data = DataOptions("cats", str(files["data"]), str(files["mask_data"]), "seg", 128, max_size=ALL // 2, xflip=True)

    def options(*metrics, extractor=THUMBNAILS):
        resources = ResourceOptions(distance="l1", extractor=extractor)
        monkeypatch.setattr(training_run, "resource_options", lambda _options: resources)
        generator = SimpleNamespace(label_channels=6)
        return SimpleNamespace(data=data, metrics=list(metrics), lpips_weights=None, generator=generator)

    return options


def test_a_snapshot_is_evaluated_on_all_images_without_mirroring(G, run, tmp_path):
    figures = evaluate_run(G, run("miou", "fid", "nvs"), tmp_path, "network-snapshot-000001.pkl", CPU)
    assert {"miou", "fid", "nvs_psnr"} <= set(figures) and 0 <= figures["miou"] <= 1
    line = json.loads((tmp_path / "metric-fid.jsonl").read_text())
    assert line["snapshot_pkl"] == "network-snapshot-000001.pkl" and line["samples"] == ALL
    text = (tmp_path / "metric-fid-protocol.txt").read_text()
    assert f"real images: {ALL}, all" in text and "rendered at: 8 pixels" in text


@pytest.mark.parametrize(
    ("metrics", "extractor", "reason"),
    [
        (["ap"], THUMBNAILS, "metrics: ap: is for edge data"),
        (["miou", "fid"], "nowhere.pt", "extractor: nowhere.pt: no such file"),
        (["miou", "fid"], "metric_data:Failing", "extractor: metric_data:Failing: fails on"),
    ],
)
def test_a_failing_metric_is_printed_in_one_line_and_does_not_raise(
    metrics, extractor, reason, G, run, tmp_path, capsys
):
    assert evaluate_run(G, run(*metrics, extractor=extractor), tmp_path, "a.pkl", CPU) == {}
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"Metrics of a.pkl failed: {reason}")


def test_a_killed_data_loading_worker_is_not_taken_for_a_failing_metric(G, run, tmp_path, monkeypatch):
    def killed(*_):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    monkeypatch.setattr(training_run, "network_settings", killed)
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        evaluate_run(G, run("miou"), tmp_path, "a.pkl", CPU)


def test_metrics_use_the_lpips_weights_of_the_run(G, files, tmp_path, monkeypatch):
    weights = []

    def load(options, *_):
        weights.append(options.lpips_weights)
        return Resources()

    monkeypatch.setattr(training_run, "load_resources", load)
    data = DataOptions("cats", str(files["data"]), str(files["mask_data"]), "seg", 128, max_size=None)
    options = SimpleNamespace(data=data, metrics=["miou"], lpips_weights="vgg16.pth")
    assert evaluate_run(G, options, tmp_path, "a.pkl", CPU).keys() == {"miou"}
    assert weights == ["vgg16.pth"]


@pytest.mark.parametrize(
    ("metrics", "extractor", "problem"),
    [
        (["ap"], THUMBNAILS, "ap: is for edge data, this is seg"),
        (["fid"], "nowhere.pt", "extractor: nowhere.pt: no such file; expected .*"),
    ],
)
def test_checks_before_training_name_the_metrics_and_how_to_train_without(metrics, extractor, problem, run):
    with pytest.raises(ConfigError, match=f"^metrics: {problem}; no_eval=True trains without metrics$"):
        check_run_metrics(run(*metrics, extractor=extractor), load=True)
