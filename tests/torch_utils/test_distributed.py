"""Runs of several processes: real ones, on the CPU, which tell what they found in files."""

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
from torch_utils.distributed import GRADIENT_LIMIT, ProcessError, average_gradients, check_processes, launch

INF, NAN = float("inf"), float("nan")


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


def talk(device, folder):
    """Every kind of exchange once."""
    rank, found = distributed.rank(), {}
    found["who"] = (rank, distributed.world_size(), device)
    found["objects"] = (distributed.gather_objects(["a", rank]), distributed.from_rank_0({"seed": 10 + rank}))
    found["flags"] = [distributed.any_process(flag) for flag in (False, rank == 1, True)]

    shared = net()
    shared.register_buffer("count", torch.tensor(rank + 5))
    with torch.no_grad():
        shared[0].weight.add_(rank)
    distributed.copy_from_rank_0(shared)
    found["copied"] = shared.state_dict()

    half = net()
    half(samples()[2 * rank : 2 * rank + 2]).square().mean().backward()
    average_gradients(half.parameters())
    found["mean of halves"] = [p.grad for p in half.parameters()]

    everywhere, in_one, nowhere = parameter(1.0 + rank, 2.0), parameter(*[8.0] * rank), parameter()
    bad = average_gradients([everywhere, in_one, nowhere])
    found["partial"] = (gradients(everywhere, in_one, nowhere), bad.item())
    broken = parameter(1.0, (1.0, NAN)[rank], (-INF, 1.0)[rank])
    bad = average_gradients([broken])
    found["broken"] = (gradients(broken), bad.item())
    distributed.barrier()
    torch.save(found, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("told")
    launch(talk, folder, processes=2, device="cpu")
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def test_every_process_knows_its_number_and_device(told):
    assert [found["who"] for found in told] == [(rank, 2, torch.device("cpu")) for rank in range(2)]


def test_values_and_flags_reach_all(told):
    for found in told:
        assert found["objects"] == ([["a", 0], ["a", 1]], {"seed": 10})
        assert found["flags"] == [False, True, True]


def test_parameters_and_buffers_become_those_of_rank_0(told):
    expected = {**net().state_dict(), "count": torch.tensor(5)}
    for found in told:
        assert found["copied"].keys() == expected.keys()
        assert all(torch.equal(found["copied"][name], expected[name]) for name in expected)


def test_two_halves_of_a_batch_give_the_gradients_of_the_whole(told):
    whole = net()
    whole(samples()).square().mean().backward()
    for found in told:
        torch.testing.assert_close(found["mean of halves"], [p.grad for p in whole.parameters()])


def test_a_gradient_that_one_process_lacks_counts_as_zero_and_one_that_all_lack_stays_none(told):
    for found in told:
        assert found["partial"] == ([[1.5, 2.0], [4.0], None], 0)


def test_one_process_with_a_broken_gradient_breaks_no_other(told):
    for found in told:
        assert found["broken"] == ([[1.0, 0.0, -GRADIENT_LIMIT]], 2)


# --------------------------------------------------------------------------- one process


def test_alone_gradients_stay_but_for_what_is_not_finite():
    good, broken, without = parameter(1.0, -2.0), parameter(NAN, INF, -INF, 3.0), parameter()
    place = good.grad.data_ptr()
    bad = average_gradients([good, broken, without])
    assert bad.item() == 3
    assert gradients(good, broken, without) == [[1.0, -2.0], [0.0, GRADIENT_LIMIT, -GRADIENT_LIMIT, 3.0], None]
    assert average_gradients([without]).item() == 0
    assert good.grad.data_ptr() == place  # no copy was made


def test_a_run_of_one_is_this_process_and_needs_no_group():
    seen = []
    launch(lambda device, value: seen.append((device, value, os.getpid())), 5, processes=1, device="cpu")
    assert seen == [(torch.device("cpu"), 5, os.getpid())]
    assert (distributed.rank(), distributed.world_size()) == (0, 1)


@pytest.mark.parametrize(
    ("device", "there"),
    [("cuda", f"{torch.cuda.device_count()} GPUs"), ("mps", "1 GPUs"), ("cpu", f"{os.cpu_count()} CPU cores")],
)
def test_more_processes_than_devices_are_refused(device, there):
    with pytest.raises(ValueError, match=f"100000: 100000 processes on this machine, {there} are there"):
        launch(talk, processes=100_000, device=device)


def test_a_core_takes_a_few_processes(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    check_processes("cpu", 4)
    with pytest.raises(ValueError, match="5: 5 processes on this machine, 1 CPU cores are there, 4 processes for each"):
        check_processes("cpu", 5)


TORCHRUN_STARTED = {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}


def test_another_number_of_processes_than_torchrun_started_is_refused(monkeypatch):
    for name, value in TORCHRUN_STARTED.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="2: torchrun started 4 processes"):
        launch(talk, processes=2, device="cpu")


def test_under_torchrun_each_machine_needs_devices_for_its_own_processes(monkeypatch):
    for name, value in TORCHRUN_STARTED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_processes("cuda", 4)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="4: 2 processes on this machine, 1 GPUs are there"):
        check_processes("cuda", 4)
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ValueError, match="4: 2 processes on this machine, 1 GPUs are there"):
        check_processes("cuda", 4)


def test_a_number_of_processes_alone_is_not_torchrun(monkeypatch):  # as batch systems set it
    monkeypatch.setenv("WORLD_SIZE", "4")
    check_processes("cpu", 2)


# --------------------------------------------------------------------------- failures and signals


def stumble(device, how):
    if distributed.rank() == 1:
        if how == "user":
            raise InputError("--data cats.zip: no such file")
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise Unpicklable("a fault", {"of": "the program"})
    distributed.barrier()  # for ever, were it not ended
    time.sleep(600)


class Unpicklable(Exception):
    def __init__(self, message, more):
        super().__init__(message)


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [("user", InputError, "--data cats.zip: no such file"),
     ("killed", ProcessError, "process 1 of 2 was killed by SIGKILL"),
     ("fault", ProcessError, "process 1 of 2 failed:(?s:.*)in stumble(?s:.*)Unpicklable: a fault")],
)  # fmt: skip
def test_a_failure_of_one_process_ends_all_with_its_message(how, error, message):
    start = time.monotonic()
    with pytest.raises(error, match=message) as caught:
        launch(stumble, how, processes=2, device="cpu")
    assert time.monotonic() - start < 300  # not the half hour that a collective call waits
    if how == "user":
        assert "process 1 of 2 failed" in str(caught.value.__cause__)


def wait_for_signal(device, folder):
    got = []
    signal.signal(signal.SIGTERM, lambda number, _: got.append(number))
    (folder / f"{distributed.rank()}.ready").touch()
    while not distributed.any_process(bool(got)):
        time.sleep(0.02)
    distributed.barrier()
    (folder / f"{distributed.rank()}.signals").write_text(str(len(got)))


def test_a_signal_reaches_every_process_once_and_lets_it_end_well(tmp_path):
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
from torch_utils.distributed import launch
import test_distributed
def send():
    while len(multiprocessing.active_children()) < 2:
        time.sleep(0.01)
    time.sleep(0.3)
    os.kill(os.getpid(), signal.{number})
if __name__ == "__main__":
    threading.Thread(target=send, daemon=True).start()
    try:
        launch(test_distributed.say_number_and_sleep, {folder!r}, processes=2, device="cpu")
    except BaseException as stop:
        print(repr(stop))
"""


# A new program: in this one what starts with the first process is there already. The time is one in which processes
# still import, or begin to sleep where they are quick: neither may be seen.
@pytest.mark.parametrize(("number", "said"), [("SIGINT", "KeyboardInterrupt()"), ("SIGTERM", "SystemExit(143)")])
def test_a_signal_while_processes_start_ends_them_as_it_ends_one_alone(number, said, tmp_path):
    script = tmp_path / "stopped.py"
    script.write_text(STOPPED.format(number=number, folder=str(tmp_path)))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True, timeout=300)
    assert done.stdout == f"{said}\n" and "Traceback" not in done.stderr, done.stdout + done.stderr


def test_signals_that_are_ignored_stay_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with distributed._signals_passed_on([]) as came:
            os.kill(os.getpid(), signal.SIGHUP)
        assert came == [] and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


ORPHAN = """
import time
from torch_utils.distributed import launch
import test_distributed
if __name__ == "__main__":
    launch(test_distributed.say_number_and_sleep, {folder!r}, processes=2, device="cpu")
"""


def say_number_and_sleep(device, folder):
    with open(f"{folder}/{distributed.rank()}.pid", "x") as file:
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
def test_processes_end_when_the_one_that_started_them_is_killed(tmp_path):
    script = tmp_path / "orphan.py"
    script.write_text(ORPHAN.format(folder=str(tmp_path)))
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
from torch_utils.distributed import launch
import test_distributed
launch(test_distributed.talk, Path({folder!r}), processes=2, device="cpu")
"""


@pytest.mark.slow
def test_under_torchrun_the_started_processes_are_the_run(tmp_path, told):
    script = tmp_path / "under_torchrun.py"
    script.write_text(TORCHRUN.format(folder=str(tmp_path)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for rank, expected in enumerate(told):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        assert all(found[name] == expected[name] for name in ("who", "objects", "flags", "partial", "broken"))
