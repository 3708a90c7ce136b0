"""Kernels: compilation, equality with the references, and use of the references without a compiler.

Without a GPU the CUDA kernels run too: a C++ compiler builds them for the CPU with the replacement headers in
tests/cuda_on_cpu, including checks, binding and autograd.
"""

import importlib
import shutil
import subprocess
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from paths import ROOT
from torch.utils import cpp_extension

from torch_utils.ops import build
from torch_utils.ops.bias_act import ACTIVATIONS, bias_act
from torch_utils.ops.upfirdn2d import setup_filter, upfirdn2d


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


CUDA_ON_CPU = ROOT / "tests" / "cuda_on_cpu"
WARP_AND_BLOCK_EDGES = [0, 1, 31, 32, 33, 255, 256, 257, 1023, 1024, 1025]
# PyTorch's build flags, which disable implicit conversions of 16-bit types.
NVCC_FLAGS = ["-D__CUDA_NO_HALF_OPERATORS__", "-D__CUDA_NO_HALF_CONVERSIONS__", "-D__CUDA_NO_BFLOAT16_CONVERSIONS__"]


@pytest.mark.parametrize(
    "source", sorted(s for s in build.CUDA_KERNELS.sources if s.suffix == ".cu"), ids=lambda s: s.name
)
def test_device_code_compiles_without_pytorch(source, tmp_path):
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("no nvcc on PATH")
    targets = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in (80, 90)]
    command = [nvcc, "-c", "-std=c++17", *NVCC_FLAGS, *targets, source, "-o", tmp_path / "kernel.o"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def cpu_library(tmp_path_factory):
    """Build the kernels for the CPU, as one source because most of the time is spent on PyTorch's headers."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ on PATH")
    library = tmp_path_factory.mktemp("kernels") / "kernels.so"
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    flags = ["-std=c++20", "-shared", "-fPIC", "-DKERNEL_DEVICE=CPU", abi]
    include = [f"-I{path}" for path in [CUDA_ON_CPU, *cpp_extension.include_paths()]]
    link = [*(f"-L{path}" for path in cpp_extension.library_paths()), "-ltorch_cpu", "-lc10"]
    source = "".join(f'#include "{path}"\n' for path in build.CUDA_KERNELS.sources)
    command = [compiler, *flags, *include, "-x", "c++", "-", "-o", library, *link]
    done = subprocess.run(command, input=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    torch.ops.load_library(library)


@pytest.fixture(params=["cpu", "cuda"])
def device(request, monkeypatch):
    """Device on which the kernels run: a GPU, or the CPU with kernels built for it."""
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        if not build.kernels_ready(torch.device("cuda")):
            pytest.skip("the kernels cannot be built here: see the warning")
        return torch.device("cuda")
    request.getfixturevalue("cpu_library")
    monkeypatch.setattr(build, "kernels_ready", lambda device, library: True)
    return torch.device("cpu")


def value_and_gradients(op, tensors, order):
    """Return the value, its gradients and (order 2) their gradients, each of a weighted sum."""
    tensors = [t.detach().requires_grad_() for t in tensors]

    def against_ramp(results):
        return sum((t * torch.linspace(-1, 2, t.numel()).to(t).view_as(t)).sum() for t in results)

    y = op(*tensors)
    first = torch.autograd.grad(against_ramp([y]), tensors, create_graph=order == 2)
    curved = [t for t in first if t.requires_grad]
    second = torch.autograd.grad(against_ramp(curved), tensors, allow_unused=True) if curved else [None] * len(tensors)
    return [y, *first, *(torch.zeros_like(t) if g is None else g for t, g in zip(tensors, second, strict=True))]


def assert_same(op, tensors, order=2, dtype=torch.float64, device="cpu", rtol=1e-9):
    """Compare op(impl="kernel") in `dtype` with op(impl="ref") in float64 on the same values."""
    tensors = [t.to(device, dtype) for t in tensors]
    kernel = value_and_gradients(lambda *t: op(*t, impl="kernel"), tensors, order)
    reference = value_and_gradients(lambda *t: op(*t, impl="ref"), [t.double() for t in tensors], order)
    for k, r in zip(kernel, reference, strict=True):
        assert k.dtype == dtype
        limit = rtol * max(1.0, r.abs().max().item() if r.numel() else 0)
        torch.testing.assert_close(k.double(), r, rtol=rtol, atol=limit)


# Tolerances for one rounding of the result and of each gradient; sums over the bias are rounded once at the end.
PRECISIONS = [(torch.float32, 2e-6), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)]


@pytest.mark.parametrize("clamp", [None, 0.7])
@pytest.mark.parametrize("gain", [None, 1.7, -0.6])
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_bias_act_kernel_equals_reference_up_to_second_derivatives(device, act, gain, clamp):
    x, b = torch.randn(3, 5, 7, 6, dtype=torch.float64) * 2, torch.randn(5, dtype=torch.float64)
    assert_same(lambda x, b, impl: bias_act(x, b, act=act, gain=gain, clamp=clamp, impl=impl), [x, b], device=device)


@pytest.mark.parametrize(("dtype", "rtol"), PRECISIONS)
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_bias_act_kernel_equals_reference_in_lower_precision(device, act, dtype, rtol):
    x, b = torch.randint(-30, 30, (2, 5, 7, 6)) / 8 + 1 / 16, torch.arange(-2, 3) / 8  # exact in 8 bits, x != -b
    op = lambda x, b, impl: bias_act(x, b, act=act, impl=impl)  # noqa: E731
    assert_same(op, [x, b], order=1, dtype=dtype, device=device, rtol=rtol)


@pytest.mark.parametrize("size", WARP_AND_BLOCK_EDGES)
def test_bias_act_kernel_at_warp_and_block_boundaries(device, size):
    x, b = torch.randn(size, 1), torch.randn(1)
    op = lambda x, b, impl: bias_act(x, b, act="lrelu", clamp=1.0, impl=impl)  # noqa: E731
    assert_same(op, [x, b], order=1, dtype=torch.float32, device=device, rtol=2e-6)


@pytest.mark.parametrize("dim", [0, 1, 2, 3])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed", "sliced"])
def test_bias_act_kernel_in_every_memory_layout(device, layout, dim):
    x = torch.randn(3, 4, 5, 6, dtype=torch.float64, device=device)
    x = {
        "contiguous": x,
        "channels_last": x.to(memory_format=torch.channels_last),
        "transposed": x.transpose(1, 2),
        "sliced": x[:, ::2, :, 1:],
    }[layout]
    b = torch.randn(x.shape[dim], dtype=torch.float64, device=device)
    y = bias_act(x, b, dim=dim, act="swish", impl="kernel")
    torch.testing.assert_close(y, bias_act(x, b, dim=dim, act="swish", impl="ref"))
    assert layout in ("transposed", "sliced") or y.stride() == x.stride()


def test_bias_act_kernel_keeps_nan(device):
    x = torch.tensor([[float("nan"), float("inf"), -float("inf")]], device=device)
    y = bias_act(x, act="lrelu", gain=1, clamp=2.0, impl="kernel")
    torch.testing.assert_close(y, torch.tensor([[float("nan"), 2.0, -2.0]], device=device), equal_nan=True)


RESAMPLINGS = [  # up, down, padding, taps along y and x (one number: separable)
    (1, 1, 0, (4, 4)),
    (1, 1, (1, 2, 0, 3), (4, 4)),
    (2, 1, (2, 1, 2, 1), (4, 4)),
    (1, 2, 1, (4, 4)),
    (2, 1, (-3, 2, 4, -1), (4, 4)),
    ((2, 1), (1, 3), (5, 4, 6, 5), (2, 3)),
    ((1, 3), 2, 6, (5, 5)),
    (2, 2, 11, 12),
    (3, 1, (-4, -2, 7, -5), 5),
    (1, 1, (-1, -1, -2, 0), (1, 1)),
]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("flip_filter", [False, True])
@pytest.mark.parametrize(("up", "down", "padding", "taps"), RESAMPLINGS)
def test_upfirdn2d_kernel_equals_reference(device, up, down, padding, taps, flip_filter, layout):
    f = setup_filter(torch.rand(taps), separable=isinstance(taps, int), device=device)
    x = torch.randn(2, 3, 9, 11, dtype=torch.float64).to(memory_format=layout)

    def op(x, impl):
        return upfirdn2d(x, f, up, down, padding, flip_filter, gain=2.5, impl=impl)

    assert_same(op, [x], device=device, rtol=1e-6)  # the reference multiplies filter and gain in float32
    assert op(x.to(device), "kernel").is_contiguous(memory_format=layout)


@pytest.mark.parametrize(("dtype", "rtol"), PRECISIONS)
@pytest.mark.parametrize("width", [1, 31, 32, 33, 255, 256, 257, 1025])
def test_upfirdn2d_kernel_at_warp_and_block_boundaries(device, width, dtype, rtol):
    f = setup_filter([1, 3, 3, 1], device=device)
    op = lambda x, impl: upfirdn2d(x, f, up=2, padding=(2, 1, 2, 1), gain=4, impl=impl)  # noqa: E731
    assert_same(op, [torch.randn(1, 1, 1, width)], order=1, dtype=dtype, device=device, rtol=rtol)


def test_upfirdn2d_kernel_accepts_an_empty_batch(device):
    x = torch.zeros(0, 3, 4, 4, device=device)
    assert upfirdn2d(x, setup_filter([1, 3, 3, 1], device=device), impl="kernel").shape == (0, 3, 1, 1)


def test_binding_rejects_tensors_that_the_kernel_cannot_read(device):
    x, b, f = (torch.zeros(s, device=device) for s in [(2, 4, 6, 6), 4, (4, 4)])

    def call(x=x, b=b, dy=None, order=0, dim=1, act=0):
        return torch.ops.pix2pix3d.bias_act(x, False, b, dy, None, order, dim, act, 0.2, 1.0, -1.0, 0)

    last = x.to(memory_format=torch.channels_last)
    bad = [{"x": x[:, :, ::2]}, {"x": x.int()}, {"b": b[:3]}, {"b": b.double()}, {"dim": 4}, {"act": len(ACTIVATIONS)}]
    bad += [{"order": 1}, {"order": 3}, {"dy": x}, {"order": 1, "dy": last}]
    for case in bad:
        with pytest.raises(ValueError, match=r"expected|unknown|missing|not used"):
            call(**case)
    for image, taps in [(x[0], f), (x, f[0]), (x, f.double()), (x[:, :, :2], f)]:
        with pytest.raises(ValueError, match=r"expected|smaller"):
            torch.ops.pix2pix3d.upfirdn2d(image, taps, 1, 1, 1, 1, [0, 0, 0, 0], False, 1.0, 0)


@pytest.mark.parametrize("library", [build.CUDA_KERNELS, build.CPU_KERNELS], ids=lambda library: library.device)
def test_a_failed_build_warns_once_and_the_references_run(library, monkeypatch, tmp_path):
    broken = tmp_path / f"broken{library.sources[-1].suffix}"
    broken.write_text("#error this cannot be compiled\n")
    library = replace(library, sources=(broken,))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "built"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert not build.use_kernel("auto", torch.device(library.device), library)
        assert not build.use_kernel("auto", torch.device(library.device), library)
    build_warnings = [w for w in caught if f"{library.title} could not be built" in str(w.message)]
    assert len(build_warnings) == 1
    assert "\n" not in str(build_warnings[0].message)
    assert list((tmp_path / "built").iterdir()) == []  # no partial files
    with pytest.raises(ValueError, match="impl"):
        build.use_kernel("kernel", torch.device(library.device), library)


def test_threads_that_start_together_load_kernels_one_after_the_other(monkeypatch):
    running, most = [], []

    def load(library):
        running.append(library)
        most.append(len(running))
        time.sleep(0.02)
        running.pop()
        return True

    monkeypatch.setattr(build, "_load_kernels", load)
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda _: build.kernels_ready(torch.device("cpu"), build.CPU_KERNELS), range(4)))
    assert most == [1] * 4


def test_a_library_is_compiled_only_for_its_device(monkeypatch):
    monkeypatch.setattr(build, "_load_kernels", lambda library: pytest.fail("compiled"))
    assert not build.use_kernel("auto", torch.device("cpu"), build.CUDA_KERNELS)
    assert not build.use_kernel("auto", torch.device("cuda"), build.CPU_KERNELS)
    assert not build.use_kernel("ref", torch.device("cpu"), build.CPU_KERNELS)


def test_libraries_for_other_processors_have_other_names(monkeypatch):
    names = {build._library_path(build.CPU_KERNELS)}
    monkeypatch.setattr(build, "CPU_CAPABILITY", "another")
    names.add(build._library_path(build.CPU_KERNELS))
    monkeypatch.setattr(build.platform, "machine", lambda: "another")
    names.add(build._library_path(build.CPU_KERNELS))
    assert len(names) == 3


def test_kernel_on_a_cpu_and_unknown_impl_are_rejected():
    for impl in ("kernel", "cuda"):
        with pytest.raises(ValueError, match="impl"):
            bias_act(torch.zeros(2, 3), impl=impl)


@pytest.mark.parametrize("module", ["bias_act", "upfirdn2d"])
def test_kernels_pass_the_comparison_of_their_first_call(device, module):
    comparison = importlib.import_module(f"torch_utils.ops.{module}")._compare
    build._equals_reference.cache_clear()
    with torch.no_grad():
        assert build.use_kernel("auto", device, comparison=comparison)
    pairs = [(kernel.dtype, reference) for kernel, reference in comparison(device)]
    # Values and derivatives in both types; none of them is zero everywhere, which would equal anything.
    assert {dtype for dtype, _ in pairs} == set(build.TOLERANCE)
    assert all(reference.any() for _, reference in pairs)
