"""Time of an iteration of edge2car's training at its published size on a CPU, with the CPU kernels and without.

python tests/benchmarks/training_full_size.py [--batch 4] [--repeat 2]

The options are those of train_scripts/shapenet_edge.sh, the images are random, and VGG16 of LPIPS has random weights.
Prints seconds of each phase, the fastest of several runs in turns, and those of an iteration, for which phases that run
in every n-th iteration count an n-th.
"""

from __future__ import annotations

import resource
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import click
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))
from gpu.training import Run

from torch_utils.ops import build


@click.command()
@click.option("--batch", default=4, show_default=True, help="Images.")
@click.option("--repeat", default=2, show_default=True)
def main(batch: int, repeat: int) -> None:
    """Print seconds of all phases in both forms."""
    forms = {"kernels": nullcontext, "PyTorch": lambda: mock.patch.object(build, "kernels_ready", return_value=False)}
    # As after --resume, without blur; and always from the samples' own poses, so that each step takes the same time.
    words = [f"--batch={batch}", f"--batch-gpu={batch}", "--blur_fade_kimg=0", "--random_c_prob=0"]
    run = Run(torch.device("cpu"), 128, words, name="shapenet_edge")

    # Every phase once to warm up, then in turns.
    iteration = dict.fromkeys(forms, 0.0)
    for phase in run.phases:
        run.step(phase)
        seconds = dict.fromkeys(forms, float("inf"))
        for name in list(forms) * repeat:
            start = time.perf_counter()
            with forms[name]():
                run.step(phase)
            seconds[name] = min(seconds[name], time.perf_counter() - start)
        for name in forms:
            iteration[name] += seconds[name] / phase.interval
        show(f"{phase.name}, every {phase.interval}", seconds)
    show("iteration", iteration)
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB at most")


def show(name: str, seconds: dict[str, float]) -> None:
    """Print the seconds of both forms and their ratio."""
    columns = "  ".join(f"{form} {value:6.2f} s" for form, value in seconds.items())
    print(f"{name:26s} {columns}  ratio {seconds['PyTorch'] / seconds['kernels']:.2f}", flush=True)


if __name__ == "__main__":
    main()
