"""Parts of the GPU run in their order, each run in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gpu.benchmark import compile_cases, frame_cases, mesh_cases, operator_cases, renderer_cases
from gpu.checks import build_cases, golden_generator_cases, test_cases
from gpu.setting import Case, Setting
from gpu.training import gradient_cases, training_cases


@dataclass(frozen=True)
class Part:
    """Row of PARTS.

    Args:
        name: for the option --parts.
        cases: yields the cases by name, see `setting`.
        seconds: after which its process is stopped.
    """

    name: str
    cases: Callable[[Setting], Iterator[Case]]
    seconds: int


# Checks come first. All limits together exceed the time of a run: what is fast leaves its time to the others, and
# torch.compile, the slowest, takes what is left.
PARTS = (
    Part("build", build_cases, 180),
    Part("kernels", test_cases, 90),
    Part("golden", golden_generator_cases, 90),
    Part("gradients", gradient_cases, 60),
    Part("frames", frame_cases, 75),
    Part("training", training_cases, 100),
    Part("mesh", mesh_cases, 40),
    Part("renderer", renderer_cases, 30),
    Part("operators", operator_cases, 30),
    Part("compile", compile_cases, 150),
)
