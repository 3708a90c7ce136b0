"""Compile kernels for CUDA and CPUs at first use; without a compiler, the PyTorch references run instead."""

import functools
import hashlib
import os
import platform
import shutil
import sys
import sysconfig
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

DIRECTORY = Path(__file__).parent
# The vector instructions with which PyTorch compiles its own operators for each `torch.backends.cpu` capability. Unlike
# -march=native, they do not ask for more than the capability promises, which is part of the name of the library.
CPU_CAPABILITY = torch.backends.cpu.get_cpu_capability()
VECTOR_FLAGS = {
    "AVX2": ("-mavx2", "-mfma"),
    "AVX512": ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma"),
}
# Largest difference of a kernel from the reference in its first comparison, relative to the largest value: rounding of
# the results, and of sums in another order.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2}

_LOADING = threading.Lock()

# Compares a kernel with its reference on a device: pairs of results, the kernel's first, in a type of TOLERANCE.
Comparison = Callable[[torch.device], Iterable[tuple[Tensor, Tensor]]]


@dataclass(frozen=True)
class Library:
    """Kernels for one type of device, compiled into one file that registers them as torch.ops.pix2pix3d.*

    Args:
        name: stem of the file.
        device: type of the devices on which the kernels run.
        sources: .cpp and .cu files.
        host_flags, device_flags: of the C++ compiler and of nvcc.
        build_time: roughly, for the message.
        requirements: for the warning.
    """

    name: str
    device: str
    sources: tuple[Path, ...]
    host_flags: tuple[str, ...]
    device_flags: tuple[str, ...]
    build_time: str
    requirements: str

    @property
    def title(self) -> str:
        return f"{self.device.upper()} kernels"


CUDA_KERNELS = Library(
    name="pix2pix3d_kernels",
    device="cuda",
    sources=tuple(DIRECTORY / f"{op}{suffix}" for op in ("bias_act", "upfirdn2d") for suffix in (".cpp", ".cu")),
    host_flags=("-O3", "-DKERNEL_DEVICE=CUDA"),
    device_flags=("-O3",),  # no fast-math: exp and tanh stay as accurate as PyTorch's
    build_time="about a minute",
    requirements="nvcc of PyTorch's CUDA version, a C++ compiler and ninja",
)
CPU_KERNELS = Library(
    name="pix2pix3d_cpu_kernels",
    device="cpu",
    sources=tuple(DIRECTORY / f"{op}.cpp" for op in ("weighted_gather", "softplus", "winograd", "triplane")),
    # OpenMP only for the compiler: linked to it, the library could load a second one beside PyTorch's.
    host_flags=("-O3", "-fopenmp", *VECTOR_FLAGS.get(CPU_CAPABILITY, ())),
    device_flags=(),
    build_time="about 20 seconds",
    requirements="a C++ compiler and ninja",
)


def use_kernel(
    impl: str, device: torch.device, library: Library = CUDA_KERNELS, comparison: Comparison | None = None
) -> bool:
    """Return whether an operator should run its kernel on `device`; compile the library on the first call for it.

    Args:
        impl: auto (kernel if available and equal to the reference), ref (PyTorch reference), kernel (kernel or error).
        library: contains the kernel.
        comparison: computes small results of both, which are compared on the first call for the device.
    Raises:
        ValueError: unknown `impl`, or "kernel" without one.
    """
    if impl not in ("auto", "ref", "kernel"):
        raise ValueError(f"impl: expected auto, ref or kernel, got {impl!r}")
    # Before anything is compiled.
    if impl == "ref":
        return False

    # Compiles on the first call for the library's device.
    ready = kernels_ready(device, library)
    if impl == "kernel" and not ready:
        raise ValueError(f"impl: no kernel for {device}; use auto or ref")

    # Compares on the first call for the device. The comparison itself asks for the kernel.
    if impl == "kernel" or not ready or comparison is None:
        return ready
    return _equals_reference(comparison, device)


def kernels_ready(device: torch.device, library: Library = CUDA_KERNELS) -> bool:
    """Return whether the kernels of a library run on `device`."""
    if device.type != library.device:
        return False
    # Threads that start together would compile and register the same operators.
    with _LOADING:
        return _load_kernels(library)


def stream_handle(device: torch.device) -> int:
    """Return the device's current CUDA stream as the integer that kernels take; 0 on other devices."""
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


@functools.cache
def _equals_reference(comparison: Comparison, device: torch.device) -> bool:
    """Compare a kernel with its reference, once per process and device; False with a warning if they differ.

    The first user of a GPU, driver or compiler version may be the first to run the kernel with it at all.
    """
    # Callers may have disabled gradients. A kernel that is not compiled for the device raises an error.
    problem = None
    try:
        with torch.inference_mode(False), torch.enable_grad():
            for kernel, reference in comparison(device):
                limit = TOLERANCE[kernel.dtype] * max(reference.abs().max().item(), 1)
                difference = (kernel.double() - reference.double()).abs().max().item()
                if not difference <= limit:  # NaN too
                    problem = f"difference {difference:.2g} in {kernel.dtype}, allowed {limit:.2g}"
                    break
    except RuntimeError as error:
        problem = str(error).splitlines()[0]

    if problem is not None:
        warnings.warn(
            f"{comparison.__module__}: the kernel on {device} is not equal to the reference ({problem}); using PyTorch "
            "operators: same results, slower. Please report this with the versions of GPU, driver and compiler.",
            stacklevel=2,
        )
    return problem is None


@functools.cache
def _load_kernels(library: Library) -> bool:
    """Load a library, compiled if it is not yet, once per process; False with a warning if that fails."""
    try:
        path = _library_path(library)
        if path.exists():
            torch.ops.load_library(path)
        else:
            _compile_and_load(library, path)
    except Exception as error:
        # Compilers fail in many ways, and the references give the same numbers. The first line is enough: the rest is
        # the compiler's output.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        warnings.warn(
            f"{library.title} could not be built ({reason}); using PyTorch operators: same results, slower. "
            f"The kernels need {library.requirements}.",
            stacklevel=2,
        )
        return False
    return True


def _library_path(library: Library) -> Path:
    """Return the path of the compiled library, which names all that it depends on by a digest."""
    # Versions, processors, compiler flags and sources: a change of any compiles anew. A home directory may be shared by
    # machines with different processors.
    if library.device == "cuda":
        target = (
            torch.version.cuda,
            sorted({torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}),
        )
    else:
        target = platform.system(), platform.machine(), CPU_CAPABILITY
    digest = hashlib.sha256(repr((torch.__version__, target, library.host_flags, library.device_flags)).encode())
    for source in sorted([*library.sources, *DIRECTORY.glob("*.h")]):
        digest.update(source.name.encode() + source.read_bytes())

    # The directory that PyTorch uses for extensions.
    cache = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or Path.home() / ".cache" / "torch_extensions")
    return cache / f"{library.name}-{digest.hexdigest()[:16]}.so"


def _compile_and_load(library: Library, path: Path) -> None:
    """Compile in a temporary directory and rename, so that processes starting together do not read partial files."""
    # Searches for a compiler when imported.
    from torch.utils import cpp_extension

    # Compiling takes long enough for a message, which goes to stderr because stdout may be redirected to a file.
    print(f"Building {library.title} (once, {library.build_time}): {path}", file=sys.stderr, flush=True)

    # On the same file system as the result, for an atomic rename.
    path.parent.mkdir(parents=True, exist_ok=True)
    directory = tempfile.mkdtemp(prefix=f"{library.name}-", dir=path.parent)

    # Find the ninja of a virtual environment that is not activated too.
    programs = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join([programs, sysconfig.get_path("scripts")])
    try:
        cpp_extension.load(
            library.name,
            [str(source) for source in library.sources],
            extra_cflags=list(library.host_flags),
            extra_cuda_cflags=list(library.device_flags),
            build_directory=directory,
            with_cuda=library.device == "cuda",
            is_python_module=False,
        )

        # Loaded already; the renamed file is for later processes.
        os.replace(Path(directory) / f"{library.name}{cpp_extension.LIB_EXT}", path)
    finally:
        os.environ["PATH"] = programs
        shutil.rmtree(directory, ignore_errors=True)
