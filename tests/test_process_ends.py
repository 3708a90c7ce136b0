"""Whichever process of a run dies, and however it dies: no process is left a few seconds later."""

import os
import signal
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path

import pytest
from paths import ROOT
from small_data import image_files, label_files, write_zip
from small_training import SMALL, arguments, small_data

from torch_utils import distributed
from training.data.dataset import PosedImageDataset
from training.data.sampler import BatchStream

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in /proc")

MARK = "PIX2PIX3D_TEST_RUN"  # environment variable that all processes of a run inherit
START_SECONDS = 300  # on a busy machine
END_SECONDS = 20


# --------------------------------------------------------------------------- a run without networks


class BreakableDataset(PosedImageDataset):
    """Data set that raises an error when a file says so."""

    def __getitem__(self, idx):
        if Path(self.images.path.parent, "break the data").exists():
            raise RuntimeError("broken data")
        return super().__getitem__(idx)


def load_data(device, directory, workers):
    """Load data until the end of days, or until a file demands an error of this process."""
    rank = distributed.rank()
    dataset = BreakableDataset(directory / "pictures.zip", directory / "labels.zip")
    with BatchStream(dataset, 2, workers, rank=rank, num_replicas=distributed.world_size()) as stream:
        while True:
            next(stream)
            distributed.barrier()
            (directory / f"{rank}.pid").write_text(str(os.getpid()))
            if (directory / f"break rank {rank}").exists():
                raise RuntimeError(f"broken rank {rank}")
            time.sleep(0.05)


SCRIPT = """
import sys
from pathlib import Path
from test_process_ends import load_data
from torch_utils.launch import launch
if __name__ == "__main__":
    directory, processes, workers = sys.argv[1:]
    launch(load_data, Path(directory), int(workers), processes=int(processes), device="cpu")
"""


def write_run(directory):
    """Write data and the script run.py, whose arguments are the directory, processes and workers."""
    write_zip(directory / "pictures.zip", image_files())
    write_zip(directory / "labels.zip", label_files())
    (directory / "run.py").write_text(SCRIPT)


def wait_until_all_load(run, directory, processes):
    """Wait until all ranks of a run have loaded data."""
    paths = [directory / f"{rank}.pid" for rank in range(processes)]
    run.wait_until(lambda _: all(path.exists() and path.read_text() for path in paths), START_SECONDS)


# --------------------------------------------------------------------------- its processes


class Run:
    """A started command and all of its processes."""

    def __init__(self, command, output):
        self.mark = f"{MARK}={uuid.uuid4()}"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        environment[MARK] = self.mark.partition("=")[2]
        self.output = output
        with output.open("w") as file:
            streams = {"stdout": file, "stderr": file}
            self.starter = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **streams)

    def processes(self):
        """Return the running processes: id of the parent and command line by id."""
        # Reaped, or it would stay as a zombie.
        self.starter.poll()
        found = {}
        for path in Path("/proc").iterdir():
            if not path.name.isdigit():
                continue
            try:
                if self.mark.encode() in (path / "environ").read_bytes().split(b"\0"):
                    state, parent = (path / "stat").read_text().rpartition(")")[2].split()[:2]
                    if state != "Z":
                        found[int(path.name)] = (int(parent), (path / "cmdline").read_text())
            # Ended meanwhile, or of another user.
            except OSError:
                continue
        return found

    def wait_until(self, condition, seconds):
        """Wait until the condition holds for the running processes."""
        deadline = time.monotonic() + seconds
        while not condition(processes := self.processes()):
            assert time.monotonic() < deadline, f"{processes}\n{self.output.read_text()}"
            time.sleep(0.1)

    def wait_until_ended(self):
        """Wait until no process is left, and return the exit code of the starter."""
        self.wait_until(lambda processes: not processes, END_SECONDS)
        return self.starter.wait()

    def kill(self):
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.starter.wait()


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a command; whatever is left of it is killed after the test."""
    runs = []

    def start_run(*command):
        runs.append(Run([sys.executable, *map(str, command)], tmp_path / "output.txt"))
        return runs[-1]

    yield start_run
    for run in runs:
        run.kill()


def victim_of(run, victim, directory):
    """Return the process id of the starter, of a rank ("rank 1"), or of the data loading worker of a rank."""
    if victim == "starter":
        return run.starter.pid
    rank = int((directory / f"{victim.split()[-1]}.pid").read_text())
    if victim.startswith("rank"):
        return rank
    (worker,) = [pid for pid, (parent, _) in run.processes().items() if parent == rank]
    return worker


SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGSEGV": signal.SIGSEGV}
DEATHS = {
    2: [(victim, how) for victim in ("starter", "rank 0", "rank 1") for how in SIGNALS]
    + [("rank 0", "error"), ("rank 1", "error")],
    1: [("starter", "SIGKILL"), ("starter", "SIGSEGV"), ("rank 0", "error")],
}
OF_WORKERS = {
    2: [("worker of rank 0", "SIGKILL"), ("worker of rank 1", "SIGSEGV"), ("worker of all ranks", "error")],
    1: [("worker of rank 0", "SIGKILL"), ("worker of rank 0", "SIGSEGV"), ("worker of all ranks", "error")],
}
CASES = [
    (processes, workers, *death)
    for processes in (2, 1)
    for workers in (1, 0)
    for death in DEATHS[processes] + workers * OF_WORKERS[processes]
]
FAST = {(1, 1, "rank 0", "error"), (1, 1, "worker of rank 0", "SIGKILL"), (2, 1, "starter", "SIGKILL")}


@pytest.mark.parametrize(
    ("processes", "workers", "victim", "how"),
    [pytest.param(*case, marks=[] if case in FAST else pytest.mark.slow) for case in CASES],
)
def test_no_process_is_left_when_one_dies(start, tmp_path, processes, workers, victim, how):
    write_run(tmp_path)
    run = start(tmp_path / "run.py", tmp_path, processes, workers)
    wait_until_all_load(run, tmp_path, processes)

    # The starter; several ranks and their resource tracker; workers.
    expected = 1 + (processes + 1 if processes > 1 else 0) + processes * workers
    assert len(run.processes()) == expected, run.processes()

    # One dies, then all end.

    if how in SIGNALS:
        os.kill(victim_of(run, victim, tmp_path), SIGNALS[how])
    else:
        (tmp_path / ("break the data" if "worker" in victim else f"break {victim}")).touch()
    assert run.wait_until_ended() != 0


@pytest.mark.slow
def test_no_process_is_left_when_torchrun_is_killed(start, tmp_path):
    write_run(tmp_path)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    run = start(*torchrun, tmp_path / "run.py", tmp_path, 2, 1)
    wait_until_all_load(run, tmp_path, 2)
    run.starter.kill()
    assert run.wait_until_ended() == -signal.SIGKILL


@pytest.mark.slow
def test_no_process_is_left_when_the_rendering_of_a_data_set_is_killed(start, tmp_path):
    run = start("dataset_tool.py", "toy", "--kind=cats", f"--outdir={tmp_path}", "--number=9999", "--workers=2")
    run.wait_until(lambda processes: len(processes) == 4, START_SECONDS)  # and the resource tracker
    run.starter.kill()
    assert run.wait_until_ended() == -signal.SIGKILL


@pytest.mark.slow
def test_an_error_of_a_training_run_ends_its_workers(start, tmp_path):
    options = {**SMALL, **small_data(tmp_path), "dis_mask": False, "workers": 1, "glr": 1e30, "dlr": 1e30}
    run = start("train.py", *arguments({**options, "kimg": 0.004, "outdir": tmp_path / "runs"}))
    run.wait_until(lambda _: "Error: weights are not finite" in run.output.read_text(), START_SECONDS)
    assert run.wait_until_ended() == 2
