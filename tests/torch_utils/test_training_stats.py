"""Statistics of reported values, alone and over processes."""

import math

import numpy as np
import pytest
import torch

from torch_utils import distributed
from torch_utils.launch import launch
from torch_utils.training_stats import Collector


def test_every_element_of_every_report_counts_alike():
    collector, reports = Collector(), [torch.randn(2, 3), 4, [1.5, -2], torch.tensor(7.0), np.float32(0.25)]
    for value in reports:
        collector.report("x", value)
    values = np.concatenate([np.ravel(value) for value in reports])
    found = collector.as_dict()["x"]
    assert found == {"num": 11, "mean": pytest.approx(values.mean()), "std": pytest.approx(values.std())}


def test_asking_starts_anew():
    collector = Collector()
    collector.report("x", 1.0)
    assert collector.as_dict()["x"]["num"] == 1
    assert collector.as_dict() == {}
    collector.report("x", 5.0)
    assert collector.as_dict() == {"x": {"num": 1, "mean": 5.0, "std": 0.0}}


def test_a_small_spread_of_large_values_keeps_its_digits():
    collector = Collector()
    collector.report("kimg", torch.tensor([25_000_000.0, 25_000_002.0]))
    assert collector.as_dict()["kimg"]["std"] == pytest.approx(1, rel=0.2)  # in float32 it would be 0 or thousands


def test_reporting_nothing_is_no_report_and_a_nan_is_seen():
    collector = Collector()
    collector.report("nothing", torch.zeros(0))
    collector.report("broken", [1.0, math.nan])
    found = collector.as_dict()
    assert found.keys() == {"broken"} and found["broken"]["num"] == 2
    assert math.isnan(found["broken"]["mean"]) and math.isnan(found["broken"]["std"])


def test_reports_hold_no_gradients():
    collector, x = Collector(), torch.ones(3, requires_grad=True)
    collector.report("x", (x * 2).square())
    assert collector.as_dict()["x"] == {"num": 3, "mean": 4.0, "std": 0.0}


def report(device, folder):
    """Each process reports under a name that both share and one of its own."""
    rank, collector = distributed.rank(), Collector(device)
    collector.report("shared", torch.arange(3.0) + 3 * rank)
    collector.report(f"only {rank}", 10.0 * rank)
    found = [collector.as_dict(), collector.as_dict()]
    torch.save(found, folder / f"{rank}.pt")


def test_processes_are_summed_also_where_their_names_differ(tmp_path):
    launch(report, tmp_path, processes=2, device="cpu")
    six = np.arange(6.0)
    expected = {
        "shared": {"num": 6, "mean": six.mean(), "std": pytest.approx(six.std())},
        "only 0": {"num": 1, "mean": 0.0, "std": 0.0},
        "only 1": {"num": 1, "mean": 10.0, "std": 0.0},
    }
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt") == [expected, {}]
