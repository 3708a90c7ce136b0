"""Tables, JSON lines and protocols."""

import json
from dataclasses import replace

import torch
from metric_data import Oracle

from metrics.evaluation import Result, SamplingOptions
from metrics.generators import fit_mean_baseline
from metrics.registry import Metric, parse_metrics
from metrics.report import protocol, table, write_result


def test_the_table_shows_a_dash_for_missing_figures(evaluator, dataset):
    evaluator = replace(evaluator, options=SamplingOptions(num=1))
    baseline = fit_mean_baseline(evaluator, [0], torch.zeros(3))
    columns = {
        "network": list(evaluator.evaluate(Oracle(dataset), parse_metrics(["acc", "fvv"]))),
        "constant": list(evaluator.evaluate(baseline, parse_metrics(["acc"]))),
    }
    lines = table(columns).splitlines()
    assert lines[0].split() == ["network", "constant"] and lines[1].split()[:2] == ["acc", "1"]
    assert any(line.startswith("fvv_color") and line.endswith("-") for line in lines)


def test_the_protocol_contains_options_metric_and_networks(evaluator, dataset):
    evaluator = replace(evaluator, options=SamplingOptions(num=1, seed=7))
    (result,) = evaluator.evaluate(Oracle(dataset), parse_metrics(["fvv"]))
    settings = protocol(evaluator, result, {"network": "oracle"})
    assert settings["network"] == "oracle" and settings["samples"] == "1" and settings["seed"] == "7"
    assert "-0.35, -0.175" in settings["metric"] and settings["embedding"] == "thumbnails, sha256 1"
    assert "distance" not in settings  # other metrics use it
    assert all(type(value) is str for value in settings.values())


def test_missing_figures_are_null_and_others_state_their_number_of_samples(tmp_path):
    values = {"fvv_color": 0.5, "fvv_label": float("nan")}
    result = Result(Metric("fvv", "fvv"), values, 3, {"fvv_color": 2, "fvv_label": 0}, 1.0)
    for _ in range(2):
        write_result(tmp_path, {"network": result, "constant": result}, "a.pt", 1, {"seed": "0"}, cfg="seg2cat")
    rows = [line.split(maxsplit=1) for line in table({"network": [result]}).splitlines()[1:]]
    assert rows == [["fvv_color", "0.5 (2 of 3)"], ["fvv_label", "-"]]
    first, second = map(json.loads, (tmp_path / "metric-fvv.jsonl").read_text().splitlines())
    assert first["results"] == second["baselines"]["constant"] == {"fvv_color": 0.5, "fvv_label": None}
    assert first["counted"] == {"fvv_color": 2, "fvv_label": 0} and first["protocol"] == {"seed": "0"}
