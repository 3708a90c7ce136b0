"""Training runs as subprocesses: several processes, kills at random times, torchrun, the published command."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from paths import ROOT
from small_training import SMALL, arguments, eg3d_like, final_state, run, small_data, trained

from training.run_dir import read_options
from training.train_state import load_state

pytestmark = pytest.mark.slow  # real iterations of real networks: minutes on two cores

ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}  # sums in the same order in every process


def start(*words, **options):
    command = [sys.executable, "train.py", *words, *arguments(options)]
    return subprocess.Popen(
        command, cwd=ROOT, env=ONE_THREAD, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finished(process) -> str:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return output


@pytest.fixture
def data(tmp_path):
    return small_data(tmp_path)


def test_two_processes_give_the_same_weights_as_one(data, tmp_path):
    states = []
    for gpus in (1, 2):
        outdir = tmp_path / f"gpus{gpus}"
        finished(start(outdir=outdir, **{**SMALL, **data, "gpus": gpus, "batch_gpu": 1, "kimg": 0.006, "snap": 100}))
        (run_dir,) = outdir.iterdir()
        states.append(final_state(run_dir))
    assert states[0][".progress.iteration"] == 3
    weights = [name for name in states[0] if ".modules." in name and "w_avg" not in name]  # w_avg: of rank 0's samples
    assert len(weights) > 400
    for name in weights:  # weights of the mapping are stored 100 times larger, so their last digit is near 1e-5
        assert torch.allclose(states[0][name], states[1][name], rtol=1e-6, atol=1e-5), name


def test_an_interrupted_run_of_two_processes_saves_and_resumes_with_one(data, tmp_path):
    process = start(outdir=tmp_path / "runs", **{**SMALL, **data, "gpus": 2, "batch_gpu": 1, "dis_mask": False})
    for line in process.stdout:
        if line.startswith("tick 0"):
            break
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM and "Stopped by SIGTERM" in output, output
    (run_dir,) = (tmp_path / "runs").iterdir()
    assert output.count(f"Resume with: python train.py --continue {run_dir}\n") == 1, output
    images = load_state(run_dir)["progress"]["cur_nimg"]
    result = run(**{"continue": run_dir, "gpus": 1, "kimg": (images + 2) / 1000})
    assert result.exit_code == 0 and f"Resuming at {images} images" in result.output, result.output


def test_a_run_killed_twenty_times_resumes_from_its_last_state_each_time(data, tmp_path):
    rng = np.random.default_rng(0)
    outdir = tmp_path / "runs"
    small = {**SMALL, **data, "dis_mask": False, "kimg": 10, "tick": 0.002, "snap": 1}
    process = start(outdir=outdir, **small)
    images = 0
    torn = 0  # kills while a file was being written
    for attempt in range(20):
        message = next(line for line in process.stdout if line.startswith(("Starting from", "Resuming at")))
        assert message.startswith("Starting" if images == 0 else f"Resuming at {images} images"), message
        (run_dir,) = outdir.iterdir()
        # Kill after a random time, or while such a file is being written.
        partial = (None, ".*.part", None, ".training-state*.part")[attempt % 4]
        _wait(run_dir, rng.uniform(0, 8), partial)
        process.kill()
        process.communicate()
        torn += bool(list(run_dir.glob(".*.part")))
        state = load_state(run_dir)
        assert state or images == 0
        previous = images
        images = state["progress"]["cur_nimg"] if state else 0
        assert images >= previous
        process = start(**{"continue": run_dir})
    process.kill()
    process.communicate()
    assert torn >= 5, "the kills missed the times of writing"
    assert images >= 6, "no run made progress"
    finished(start(**{"continue": run_dir, "kimg": (images + 2) / 1000}))
    assert not list(run_dir.glob(".*.part"))


def _wait(run_dir, seconds, partial):
    end = time.monotonic() + (60 if partial else seconds)
    while time.monotonic() < end and not (partial and list(run_dir.glob(partial))):
        time.sleep(0.002)


def test_torchrun_restarts_a_failed_run_from_its_last_state(data, tmp_path):
    options = {**SMALL, **data, "outdir": tmp_path / "runs", "dis_mask": False, "tick": 0.002, "snap": 1}
    words = ["--standalone", "--nproc_per_node=1", "--max_restarts=1", "train.py", *arguments(options), "--kimg=0.008"]
    command = [sys.executable, "-m", "torch.distributed.run", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, env=ONE_THREAD, **pipes)
    for line in process.stdout:
        if line.startswith("tick 1"):
            (worker,) = _children(process.pid)
            os.kill(worker, signal.SIGKILL)
            break
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert re.search(r"Resuming at [24] images", output), output
    assert len(list((tmp_path / "runs").iterdir())) == 1


def _children(pid):
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


SIZES = ("cbase", "cmax", "plane_resolution", "depth_resolution")


def published() -> list[str]:
    """Return the first command of docs/training.md for one process, without its paths."""
    page = (ROOT / "docs" / "training.md").read_text()
    python, script, *words = shlex.split(page.split("```")[1].replace("\\\n", " "))
    assert [python, script] == ["python", "train.py"]
    options = dict(word.split("=", 1) for word in words)
    paths = [options.pop(f"--{name}") for name in ("outdir", "data", "mask_data", "resume")]
    assert len(options) == 16 and all("/" in path for path in paths[1:])
    return [f"{name}={value}" for name, value in {**options, "--gpus": 1}.items()]


def test_the_published_command_for_cats_trains_on_a_toy_data_set(tmp_path):
    files = {"outdir": tmp_path / "runs", **small_data(tmp_path, classes=6)}
    widths = {name: SMALL[name] for name in SMALL if "width" in name or name in SIZES}
    same_size = trained(**{**SMALL, **files, "kimg": 0.002, "dis_mask": False, "semantic_channels": 6})
    resume = eg3d_like(tmp_path / "afhqcats512-128.pkl", read_options(same_size))
    assert run(*published(), "-n", **files, resume=resume).exit_code == 0
    shorter = {"kimg": 0.008, "tick": 0.004, "lambda_lpips": 0, "grid": "1x1", "workers": 1}  # no VGG16 weights here
    process = start(*published(), **files, **widths, **shorter, resume=resume)
    output = finished(process)
    assert "D_semantic, from its D" in output and output.count("\ntick ") == 2
