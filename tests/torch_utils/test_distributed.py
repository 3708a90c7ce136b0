"""Runs of several processes on the CPU: collective calls, failures, signals, torchrun."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from torch import nn

from dnnlib.cli import InputError
from torch_utils import distributed
from torch_utils.distributed import GRADIENT_LIMIT, average_gradients
from torch_utils.launch import ProcessError, _stop_signals_forwarded, check_processes, launch

INF = float("inf")
NAN = float("nan")


def net():
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def samples():
    return torch.linspace(-1, 1, 12).view(4, 3)


def parameter(*gradient):
    p = nn.Parameter(torch.zeros(max(len(gradient), 1)))
    p.grad = torch.tensor(gradient) if gradient else None
    return p


def gradients(*parameters):
    return [None if p.grad is None else p.grad.tolist() for p in parameters]


# --------------------------------------------------------------------------- two processes


def communicate(device, directory):
    """Make every kind of collective call and save the results."""
    rank = distributed.rank()
    results = {}
    results["process"] = (rank, distributed.world_size(), device)
    results["objects"] = (distributed.gather_objects(["a", rank]), distributed.from_rank_0({"seed": 10 + rank}))
    results["flags"] = [distributed.any_process(flag) for flag in (False, rank == 1, True)]

    # Parameters and buffers.
    shared = net()
    shared.register_buffer("count", torch.tensor(rank + 5))
    with torch.no_grad():
        shared[0].weight.add_(rank)
    distributed.copy_from_rank_0(shared)
    results["copied"] = shared.state_dict()

    # Gradients of half a batch per process.
    half = net()
    half(samples()[2 * rank : 2 * rank + 2]).square().mean().backward()
    average_gradients(half.parameters())
    results["batch gradients"] = [p.grad for p in half.parameters()]

    # Gradients missing in some processes, and not finite.
    everywhere = parameter(1.0 + rank, 2.0)
    in_one = parameter(*[8.0] * rank)
    nowhere = parameter()
    bad = average_gradients([everywhere, in_one, nowhere])
    results["partial"] = (gradients(everywhere, in_one, nowhere), bad.item())
    broken = parameter(1.0, (1.0, NAN)[rank], (-INF, 1.0)[rank])
    bad = average_gradients([broken])
    results["broken"] = (gradients(broken), bad.item())
    distributed.barrier()
    torch.save(results, directory / f"{rank}.pt")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Results of `communicate` in two processes."""
    directory = tmp_path_factory.mktemp("results")
    launch(communicate, directory, processes=2, device="cpu")
    return [torch.load(directory / f"{rank}.pt", weights_only=False) for rank in range(2)]


def test_each_process_has_its_rank_and_device(results):
    assert [result["process"] for result in results] == [(rank, 2, torch.device("cpu")) for rank in range(2)]


def test_objects_and_flags_are_exchanged(results):
    for result in results:
        assert result["objects"] == ([["a", 0], ["a", 1]], {"seed": 10})
        assert result["flags"] == [False, True, True]


def test_parameters_and_buffers_are_copied_from_rank_0(results):
    expected = {**net().state_dict(), "count": torch.tensor(5)}
    for result in results:
        assert result["copied"].keys() == expected.keys()
        assert all(torch.equal(result["copied"][name], expected[name]) for name in expected)


def test_averaged_gradients_of_two_halves_equal_those_of_the_whole_batch(results):
    full = net()
    full(samples()).square().mean().backward()
    for result in results:
        torch.testing.assert_close(result["batch gradients"], [p.grad for p in full.parameters()])


def test_a_gradient_missing_in_one_process_is_zero_and_in_all_processes_none(results):
    for result in results:
        assert result["partial"] == ([[1.5, 2.0], [4.0], None], 0)


def test_gradients_that_are_not_finite_are_replaced_and_counted(results):
    for result in results:
        assert result["broken"] == ([[1.0, 0.0, -GRADIENT_LIMIT]], 2)


# --------------------------------------------------------------------------- one process


def test_a_single_process_replaces_gradients_in_place():
    good, broken, without = parameter(1.0, -2.0), parameter(NAN, INF, -INF, 3.0), parameter()
    address = good.grad.data_ptr()
    bad = average_gradients([good, broken, without])
    assert bad.item() == 3
    assert gradients(good, broken, without) == [[1.0, -2.0], [0.0, GRADIENT_LIMIT, -GRADIENT_LIMIT, 3.0], None]
    assert average_gradients([without]).item() == 0
    assert good.grad.data_ptr() == address  # not copied


def test_finite_gradients_whose_sum_overflows_are_not_changed():
    large = parameter(3e38, 3e38, 3e38)
    assert average_gradients([large]).item() == 0
    assert gradients(large) == [[torch.tensor(3e38).item()] * 3]


def test_a_single_process_runs_in_this_one_without_a_process_group():
    seen = []
    launch(lambda device, value: seen.append((device, value, os.getpid())), 5, processes=1, device="cpu")
    assert seen == [(torch.device("cpu"), 5, os.getpid())]
    assert (distributed.rank(), distributed.world_size()) == (0, 1)


@pytest.mark.parametrize(
    ("device", "available"),
    [("cuda", f"{torch.cuda.device_count()} GPUs"), ("mps", "1 GPUs"), ("cpu", f"{os.cpu_count()} CPU cores")],
)
def test_more_processes_than_devices_are_rejected(device, available):
    with pytest.raises(ValueError, match=f"processes: 100000 processes on this machine, which has {available}"):
        launch(communicate, processes=100_000, device=device)


def test_a_core_runs_at_most_four_processes(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    check_processes("cpu", 4)
    with pytest.raises(ValueError, match=r"processes: 5 processes .* has 1 CPU cores; at most 4 processes per core"):
        check_processes("cpu", 5)


TORCHRUN_STARTED = {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}


def test_a_number_of_processes_other_than_torchrun_started_is_rejected(monkeypatch):
    for name, value in TORCHRUN_STARTED.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="processes: got 2, expected 4, as started by torchrun"):
        launch(communicate, processes=2, device="cpu")


def test_under_torchrun_each_machine_needs_devices_for_its_processes(monkeypatch):
    for name, value in TORCHRUN_STARTED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_processes("cuda", 4)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="processes: 2 processes on this machine, which has 1 GPUs"):
        check_processes("cuda", 4)
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ValueError, match="processes: 2 processes on this machine, which has 1 GPUs"):
        check_processes("cuda", 4)


def test_world_size_without_rank_is_not_torchrun(monkeypatch):  # some batch systems set it
    monkeypatch.setenv("WORLD_SIZE", "4")
    check_processes("cpu", 2)


# --------------------------------------------------------------------------- failures and signals


def fail_in_rank_1(device, how):
    if distributed.rank() == 1:
        if how == "user":
            raise InputError("--data cats.zip: no such file")
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise Unpicklable("a bug", "in the program")
    distributed.barrier()  # waits until terminated
    time.sleep(600)


class Unpicklable(Exception):
    def __init__(self, message, detail):
        super().__init__(message)


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [("user", InputError, "--data cats.zip: no such file"),
     ("killed", ProcessError, "process 1 of 2 was killed by SIGKILL"),
     ("bug", ProcessError, "process 1 of 2 failed:(?s:.*)in fail_in_rank_1(?s:.*)Unpicklable: a bug")],
)  # fmt: skip
def test_a_failure_of_one_process_ends_the_others_and_is_raised(how, error, message):
    start = time.monotonic()
    with pytest.raises(error, match=message) as caught:
        launch(fail_in_rank_1, how, processes=2, device="cpu")
    assert time.monotonic() - start < 300  # much less than TIMEOUT
    if how == "user":
        assert "process 1 of 2 failed" in str(caught.value.__cause__)


def wait_for_signal(device, directory):
    received = []
    signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    (directory / f"{distributed.rank()}.ready").touch()
    while not distributed.any_process(bool(received)):
        time.sleep(0.02)
    distributed.barrier()
    (directory / f"{distributed.rank()}.signals").write_text(str(len(received)))


def test_a_signal_reaches_every_process_once_and_can_be_handled(tmp_path):
    def send():
        while len(list(tmp_path.glob("*.ready"))) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=send, daemon=True).start()
    before = signal.getsignal(signal.SIGTERM)
    launch(wait_for_signal, tmp_path, processes=2, device="cpu")
    assert [path.read_text() for path in sorted(tmp_path.glob("*.signals"))] == ["1", "1"]
    assert signal.getsignal(signal.SIGTERM) == before


STOPPED = """
import multiprocessing, os, signal, threading, time
from torch_utils.launch import launch
import test_distributed
def send():
    while len(multiprocessing.active_children()) < 2:
        time.sleep(0.01)
    time.sleep(0.3)
    os.kill(os.getpid(), signal.{number})
if __name__ == "__main__":
    threading.Thread(target=send, daemon=True).start()
    try:
        launch(test_distributed.write_pid_and_sleep, {directory!r}, processes=2, device="cpu")
    except BaseException as stop:
        print(repr(stop))
"""


# In a new program, because resource_tracker already runs in this one. The signal arrives while the processes import
# modules or, on a fast machine, while they sleep; both must end without a traceback.
@pytest.mark.parametrize(("number", "message"), [("SIGINT", "KeyboardInterrupt()"), ("SIGTERM", "SystemExit(143)")])
def test_a_signal_while_processes_start_ends_them_without_a_traceback(number, message, tmp_path):
    script = tmp_path / "stopped.py"
    script.write_text(STOPPED.format(number=number, directory=str(tmp_path)))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True, timeout=300)
    assert done.stdout == f"{message}\n" and "Traceback" not in done.stderr, done.stdout + done.stderr


def test_ignored_signals_stay_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with _stop_signals_forwarded([]) as received:
            os.kill(os.getpid(), signal.SIGHUP)
        assert received == [] and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


ORPHAN = """
import time
from torch_utils.launch import launch
import test_distributed
if __name__ == "__main__":
    launch(test_distributed.write_pid_and_sleep, {directory!r}, processes=2, device="cpu")
"""


def write_pid_and_sleep(device, directory):
    with open(f"{directory}/{distributed.rank()}.pid", "x") as file:
        file.write(str(os.getpid()))
    time.sleep(600)


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not _is_zombie(pid)


def _is_zombie(pid):
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
    return state.strip().startswith("Z") or not state.strip()


@pytest.mark.slow
def test_processes_end_when_their_parent_is_killed(tmp_path):
    script = tmp_path / "orphan.py"
    script.write_text(ORPHAN.format(directory=str(tmp_path)))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, script], env=env)
    try:
        deadline = time.monotonic() + 60
        while len(pids := [p.read_text() for p in tmp_path.glob("*.pid")]) < 2 or not all(pids):
            assert time.monotonic() < deadline and parent.poll() is None
            time.sleep(0.05)
    finally:
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 10
    while any(is_alive(int(pid)) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


TORCHRUN = """
from pathlib import Path
from torch_utils.launch import launch
import test_distributed
launch(test_distributed.communicate, Path({directory!r}), processes=2, device="cpu")
"""


@pytest.mark.slow
def test_processes_started_by_torchrun_give_the_same_results(tmp_path, results):
    script = tmp_path / "under_torchrun.py"
    script.write_text(TORCHRUN.format(directory=str(tmp_path)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for rank, expected in enumerate(results):
        result = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        assert all(result[name] == expected[name] for name in ("process", "objects", "flags", "partial", "broken"))
