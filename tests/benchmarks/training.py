"""Time of a training step on toy data by phase: python tests/benchmarks/training.py [--late] [--steps 20] [--compare].

The options are those of train_scripts/toy_seg.sh on a laptop. Prints milliseconds of each phase, per step, and images
per second of one thread's processor time, so that other programs on the machine matter little.
"""

from __future__ import annotations

import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import click
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import train
from torch_utils.ops import build as kernels
from training import training_loop as loop
from training.resolve import examine_data
from training.status import TickStats
from training.train_state import TrainState

ROOT = Path(__file__).resolve().parents[2]
WARM_UP = 3  # steps
# Late in a run: samples are not guided by known depth, and the discriminator of patches is used.
LATE = ("--guided_kimg=0", "--patch_d_start_kimg=0")
CPU = torch.device("cpu")


def script_options(data: Path) -> list[str]:
    """Options of the script for data at `data`, without its output directory."""
    script = "source train_scripts/toy_options.sh; printf '%s\\n' $RECIPE $SIZE"
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    files = [f"--data={data}.zip", f"--mask_data={data}_label.zip", f"--depth_data={data}_depth.zip"]
    kind = shlex.split("--cfg=afhq --data_type=seg --semantic_channels=6 --lambda_l1=1.5 --gpus=1 --outdir=out")
    return [*files, *kind, *done.stdout.split()]


def build(options: list[str]) -> tuple[TrainState, Callable[[], dict[str, float]]]:
    """Prepare a run; return a function that makes a step and returns the seconds of processor time of its phases."""
    dataset, resolved = train._new_options(train.main.make_context("train.py", options).params)
    resolved = examine_data(resolved, dataset, train.main.make_context("train.py", options).params)
    loop.configure_backends(resolved, CPU)
    state = TrainState(resolved, CPU, loop.open_stream(dataset, resolved, CPU))
    loss = loop.build_loss(state)
    phases = loop.phases_of(resolved)
    poses = torch.from_numpy(np.stack([dataset.get_label(i) for i in range(len(dataset))]))
    stats = TickStats(state)

    def step() -> dict[str, float]:
        seconds: dict[str, float] = {}
        start = time.process_time()

        def done(name: str) -> None:
            seconds[name] = time.process_time() - start - sum(seconds.values())

        batch = loop.to_device(next(state.stream), resolved.data.data_type, CPU)
        done("data")
        for phase in phases:
            if state.iteration % phase.interval == 0 and state.cur_nimg >= phase.start_nimg:
                loop.run_phase(phase, state, loss, batch, poses, stats)
                done(phase.name)
        loop.update_ema(state)
        done("moving average")
        state.cur_nimg += resolved.batch_size
        state.iteration += 1
        return seconds

    return state, step


def print_ratio(step: Callable[[], dict[str, float]], rounds: int) -> None:
    """Print quartiles of the ratio of the times of three steps, without kernels and with them."""
    ratios = []
    for _ in range(rounds):
        fast = sum(sum(step().values()) for _ in range(3))
        with mock.patch.object(kernels, "kernels_ready", return_value=False):
            plain = sum(sum(step().values()) for _ in range(3))
        ratios.append(plain / fast)
    low, middle, high = statistics.quantiles(ratios)
    print(f"without kernels / with kernels: median {middle:.2f}, quartiles {low:.2f} and {high:.2f}")


@click.command()
@click.option("--late", is_flag=True, help="As late in a run: with the discriminator of patches.")
@click.option("--steps", default=20, show_default=True)
@click.option(
    "--compare",
    is_flag=True,
    help="Only print the ratio to steps without the CPU kernels: three of each in every of --steps rounds.",
)
def main(late: bool, steps: int, compare: bool) -> None:
    """Print the mean time of each phase, and images per second."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        words = "toy --kind cats --number 12 --views 3 --wide-views 1 --depth --outdir"
        subprocess.run([sys.executable, ROOT / "dataset_tool.py", *words.split(), directory], check=True)
        options = script_options(Path(directory) / "cats_128") + [*LATE] * late
        state, step = build(options)
        for _ in range(WARM_UP):
            step()
        if compare:
            print_ratio(step, steps)
            return
        times = [step() for _ in range(steps)]

    # Phases that run in some of the steps only count in proportion.
    for name in dict.fromkeys(name for row in times for name in row):
        print(f"{name:16s} {1000 * sum(row.get(name, 0) for row in times) / steps:8.1f} ms")
    total = sum(sum(row.values()) for row in times)
    print(f"{steps * state.options.batch_size / total:.2f} images per second of processor time")


if __name__ == "__main__":
    main()
