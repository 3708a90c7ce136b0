"""Sharing of an evaluation between processes: batches, accumulated values, failures."""

import re

import pytest
import torch

from dnnlib.errors import ConfigError
from metrics.distributed import Accumulator, local_batches, run_on_all_ranks, run_on_rank_0
from torch_utils.launch import ProcessError


def test_processes_together_have_the_batches_of_a_single_one(monkeypatch):
    single = list(local_batches(10, 4))
    monkeypatch.setattr("metrics.distributed.world_size", lambda: 2)
    both = []
    for rank in (0, 1):
        monkeypatch.setattr("metrics.distributed.rank", lambda rank=rank: rank)
        both += list(local_batches(10, 4))
    assert sorted(both, key=lambda batch: batch.start) == single == [range(0, 4), range(4, 8), range(8, 10)]


def test_rows_are_in_the_order_of_sample_indices():
    accumulator = Accumulator()
    accumulator.put_rows("x", [2, 0], torch.tensor([[2.0], [0.0]]))
    accumulator.put_rows("x", [1], torch.tensor([[float("nan")]]))
    assert accumulator.rows("x")[[0, 2]].tolist() == [[0.0], [2.0]]
    assert accumulator.rows("x", 1).tolist() == [[0.0]]


def test_gathering_adds_counts_and_joins_rows_of_all_processes(monkeypatch):
    first, second = Accumulator(), Accumulator()
    first.add_counts("c", torch.tensor([1, 2]))
    second.add_counts("c", torch.tensor([3, 4]))
    first.put_rows("x", [1], torch.tensor([[1.0]]))
    second.put_rows("x", [0], torch.tensor([[0.0]]))
    assert first.gather().counts("c").tolist() == [1, 2]  # a single process
    monkeypatch.setattr("metrics.distributed.gather_objects", lambda accumulator: [accumulator, second])
    total = first.gather()
    assert total.counts("c").tolist() == [4, 6] and total.rows("x").tolist() == [[0.0], [1.0]]


def test_a_failure_in_one_process_is_raised_in_all(monkeypatch):
    monkeypatch.setattr("metrics.distributed.gather_objects", lambda error: [error, ProcessError("disk full")])
    with pytest.raises(ProcessError, match="disk full"):
        run_on_all_ranks(lambda: 3)
    with pytest.raises(ZeroDivisionError):
        run_on_rank_0(lambda: 1 / 0)


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (ZeroDivisionError(), ProcessError, r"(?s)Traceback .*in fail\b.*ZeroDivisionError\n"),
        (OSError("disk full"), ProcessError, "disk full"),
        (ConfigError("data", problem="no such file"), ConfigError, "data: no such file"),
    ],
)
def test_other_processes_get_input_errors_as_text_and_bugs_with_a_traceback(error, kind, text, monkeypatch):
    sent = []

    def gather(value):
        sent.append(value)
        return sent

    def fail():
        raise error

    monkeypatch.setattr("metrics.distributed.gather_objects", gather)
    with pytest.raises(type(error)):
        run_on_all_ranks(fail)
    assert type(sent[0]) is kind and re.fullmatch(text, str(sent[0]))
