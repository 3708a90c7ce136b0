"""Checks of the GPU run: kernels are built and right, golden generators, gradients of training."""

from __future__ import annotations

import importlib.util
import shutil
import time
import warnings
from collections.abc import Iterator
from functools import lru_cache, partial

import golden_cases
import torch
from golden import golden
from gpu.setting import Case, Row, Setting, Skipped, needs_gpu
from paths import ROOT
from torch import nn

from torch_utils.ops import bias_act, build, upfirdn2d
from torch_utils.precision import has_fast, set_precision

# Largest relative gradient difference in golden_cases' sense (of the largest magnitude of an array) for each precision,
# of which the smallest that holds is reported.
WITHIN = (1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
ALLOWED = {"fp32": 1e-3, "fp16": 3e-2, "bf16": 1e-1}


# --------------------------------------------------------------------------- kernels


def build_cases(setting: Setting) -> Iterator[Case]:
    """Compile the kernels, and let each CUDA kernel compare itself with its reference."""
    for library in (build.CUDA_KERNELS, build.CPU_KERNELS):
        run = partial(compile_library, library)
        yield f"compile {library.title}", needs_gpu(setting, run) if library.device == "cuda" else run
    for module in (bias_act, upfirdn2d):
        name = module.__name__.rsplit(".", 1)[1]
        yield f"first comparison of {name}", needs_gpu(setting, partial(compare, module._compare, setting.device))


def compile_library(library: build.Library) -> Row:
    """Compile a library and load it."""
    compiler = "nvcc" if library.device == "cuda" else "c++"
    if shutil.which(compiler) is None:
        raise Skipped(f"no {compiler} on PATH; {library.title} are not used")
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ready = build.kernels_ready(torch.device(library.device), library)
    if not ready:
        raise RuntimeError("; ".join(str(w.message) for w in caught))
    return {"value": time.perf_counter() - start, "unit": "s"}


def compare(comparison: build.Comparison, device: torch.device) -> Row:
    """Run the comparison that decides whether a kernel is used."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        equal = build.use_kernel("auto", device, comparison=comparison)
    if not equal:
        raise RuntimeError("; ".join(str(w.message) for w in caught))
    return {}


class Tally:
    """Plugin of pytest that counts results and keeps the first failure."""

    def __init__(self):
        self.counts = {"passed": 0, "failed": 0, "skipped": 0}
        self.first = ""

    def pytest_runtest_logreport(self, report) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.counts[report.outcome] += 1
            if report.failed and not self.first:
                crash = getattr(report.longrepr, "reprcrash", None)
                self.first = f"{report.nodeid.split('::')[-1]}: {crash.message if crash else report.longrepr}"


def test_cases(setting: Setting) -> Iterator[Case]:
    """Run the tests of the operators: values, first and second derivatives, float16, odd sizes, memory layouts."""
    tests = "tests/torch_utils/ops"
    yield "CUDA kernels", needs_gpu(setting, partial(run_tests, f"{tests}/test_kernels.py", "-k", "cuda"))
    yield "kernel of plane sampling's gradient on this CPU", partial(run_tests, f"{tests}/test_weighted_gather.py")


def run_tests(*arguments: str) -> Row:
    """Run tests in this process."""
    if importlib.util.find_spec("pytest") is None:
        raise Skipped("needs pytest")
    import pytest

    tally = Tally()
    options = ["-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml")]
    code = pytest.main([*options, str(ROOT / arguments[0]), *arguments[1:]], plugins=[tally])
    if code:
        failed, passed = tally.counts["failed"], tally.counts["passed"]
        raise AssertionError(f"pytest exit code {int(code)}, {failed} failed, {passed} passed; {tally.first}")
    skipped = tally.counts["skipped"]
    return {"value": tally.counts["passed"], "unit": "passed", "remark": f"{skipped} skipped" if skipped else ""}


# --------------------------------------------------------------------------- golden generators


def golden_generator_cases(setting: Setting) -> Iterator[Case]:
    """Compare all golden generators with their arrays, in every precision that is fast here."""
    cases = golden_cases.GENERATOR_CASES if setting.full else ["gen_edge2car_res64"]
    for case in cases:
        for precision in ALLOWED:
            yield f"{case} {precision}", partial(check_golden, case, precision, setting)


@lru_cache(maxsize=1)
def golden_network(case: str, device: torch.device) -> nn.Module:
    """Build a generator once for all precisions."""
    return golden_cases.build(case).to(device)


def check_golden(case: str, precision: str, setting: Setting) -> Row:
    """Compare one generator in one precision."""
    if not (golden.HERE / f"{case}.npz").exists():
        raise Skipped("its golden arrays are not here")
    if not has_fast(precision, setting.device):
        raise Skipped(f"{precision} is slow on this device")
    full_float32()
    G = golden_network(case, setting.device)
    set_precision(G, precision)
    values, _ = golden_cases.generate(case, G)
    expected = golden_cases.generated_arrays(case)

    # The smallest limit that holds.
    for limit in WITHIN:
        try:
            for name, value in values.items():
                golden.check(name, value, expected, rtol=limit)
        except AssertionError:
            if limit >= ALLOWED[precision]:
                raise
            continue
        return {"value": limit, "unit": "of the largest value", "remark": f"allowed {ALLOWED[precision]:g}"}
    raise AssertionError("no limit holds")


def full_float32() -> None:
    """Let float32 be float32, as in training; PyTorch's default for convolutions is TF32."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
