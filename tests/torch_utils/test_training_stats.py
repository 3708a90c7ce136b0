"""Statistics of reported values in one process and over several."""

import math

import numpy as np
import pytest
import torch

from torch_utils import distributed
from torch_utils.launch import launch
from torch_utils.training_stats import Collector


def test_all_elements_of_all_reports_have_equal_weight():
    collector = Collector()
    reports = [torch.randn(2, 3), 4, [1.5, -2], torch.tensor(7.0), np.float32(0.25)]
    for value in reports:
        collector.report("x", value)
    values = np.concatenate([np.ravel(value) for value in reports])
    assert collector.as_dict()["x"] == {
        "num": 11,
        "mean": pytest.approx(values.mean()),
        "std": pytest.approx(values.std()),
    }


def test_as_dict_resets_the_statistics():
    collector = Collector()
    collector.report("x", 1.0)
    assert collector.as_dict()["x"]["num"] == 1
    assert collector.as_dict() == {}
    collector.report("x", 5.0)
    assert collector.as_dict() == {"x": {"num": 1, "mean": 5.0, "std": 0.0}}


def test_a_small_deviation_of_large_values_is_accurate():
    collector = Collector()
    collector.report("kimg", torch.tensor([25_000_000.0, 25_000_002.0]))
    assert collector.as_dict()["kimg"]["std"] == pytest.approx(1, rel=0.2)  # in float32 it would be 0 or thousands


def test_empty_reports_are_left_out_and_nan_is_reported():
    collector = Collector()
    collector.report("empty", torch.zeros(0))
    collector.report("nan", [1.0, math.nan])
    stats = collector.as_dict()
    assert stats.keys() == {"nan"} and stats["nan"]["num"] == 2
    assert math.isnan(stats["nan"]["mean"]) and math.isnan(stats["nan"]["std"])


def test_reports_are_detached():
    collector = Collector()
    x = torch.ones(3, requires_grad=True)
    collector.report("x", (x * 2).square())
    assert collector.as_dict()["x"] == {"num": 3, "mean": 4.0, "std": 0.0}


def report(device, folder):
    """Report under a name that both processes share and one that only this process uses."""
    rank = distributed.rank()
    collector = Collector(device)
    collector.report("shared", torch.arange(3.0) + 3 * rank)
    collector.report(f"only {rank}", 10.0 * rank)
    torch.save([collector.as_dict(), collector.as_dict()], folder / f"{rank}.pt")


def test_processes_are_combined_even_if_their_names_differ(tmp_path):
    launch(report, tmp_path, processes=2, device="cpu")
    six = np.arange(6.0)
    expected = {
        "shared": {"num": 6, "mean": six.mean(), "std": pytest.approx(six.std())},
        "only 0": {"num": 1, "mean": 0.0, "std": 0.0},
        "only 1": {"num": 1, "mean": 10.0, "std": 0.0},
    }
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt") == [expected, {}]
