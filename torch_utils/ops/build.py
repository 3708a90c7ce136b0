"""Compile the CUDA kernels at first use; without a compiler or a GPU, the PyTorch references run instead."""

import functools
import hashlib
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import torch

DIRECTORY = Path(__file__).parent
SOURCES = tuple(DIRECTORY / f"{op}{suffix}" for op in ("bias_act", "upfirdn2d") for suffix in (".cpp", ".cu"))
LIBRARY = "pix2pix3d_kernels"  # registers its operators as torch.ops.pix2pix3d.*
HOST_FLAGS = ("-O3", "-DKERNEL_DEVICE=CUDA")
DEVICE_FLAGS = ("-O3",)  # no fast-math: exp and tanh stay as accurate as PyTorch's


def use_kernel(impl: str, device: torch.device) -> bool:
    """Whether an operator should run its kernel on `device`; compiles the kernels on the first call for CUDA.

    Args:
        impl: auto (kernel if available), ref (PyTorch reference), kernel (kernel or error).
    Raises:
        ValueError: unknown `impl`, or "kernel" without one.
    """
    if impl not in ("auto", "ref", "kernel"):
        raise ValueError(f"impl: expected auto, ref or kernel, got {impl!r}")
    # Before anything is compiled.
    if impl == "ref":
        return False

    # Compiles on the first call for a GPU.
    ready = kernels_ready(device)
    if impl == "kernel" and not ready:
        raise ValueError(f"impl: no kernel for {device}; use auto or ref")
    return ready


def kernels_ready(device: torch.device) -> bool:
    """Whether the kernels run on `device`."""
    return device.type == "cuda" and _load_kernels()


def stream_handle(device: torch.device) -> int:
    """Return the device's current CUDA stream as the integer that kernels take; 0 on other devices."""
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


@functools.cache
def _load_kernels() -> bool:
    """Load the kernels, compiled if they are not yet, once per process; False with a warning if that fails."""
    try:
        path = _library_path()
        if path.exists():
            torch.ops.load_library(path)
        else:
            _compile_and_load(path)
    except Exception as error:
        # Compilers fail in many ways, and the references give the same numbers. The first line is enough: the rest is
        # the compiler's output.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        warnings.warn(
            f"CUDA kernels could not be built ({reason}); using PyTorch operators: same results, slower. "
            "The kernels need nvcc of PyTorch's CUDA version, a C++ compiler and ninja.",
            stacklevel=2,
        )
        return False
    return True


def _library_path() -> Path:
    """Return the path of the compiled kernels, which names all that they depend on by a digest."""
    # Versions, GPU architectures, compiler flags and sources: a change of any compiles anew.
    gpus = sorted({torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())})
    digest = hashlib.sha256(repr((torch.__version__, torch.version.cuda, gpus, HOST_FLAGS, DEVICE_FLAGS)).encode())
    for source in sorted([*SOURCES, *DIRECTORY.glob("*.h")]):
        digest.update(source.name.encode() + source.read_bytes())

    # The directory that PyTorch uses for extensions.
    cache = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or Path.home() / ".cache" / "torch_extensions")
    return cache / f"{LIBRARY}-{digest.hexdigest()[:16]}.so"


def _compile_and_load(path: Path) -> None:
    """Compile in a temporary directory and rename, so that processes starting together do not read partial files."""
    # Searches for a compiler when imported.
    from torch.utils import cpp_extension

    # Compiling takes long enough for a message, which goes to stderr because stdout may be redirected to a file.
    print(f"Building CUDA kernels (once, about a minute): {path}", file=sys.stderr, flush=True)

    # On the same file system as the result, for an atomic rename.
    path.parent.mkdir(parents=True, exist_ok=True)
    directory = tempfile.mkdtemp(prefix=f"{LIBRARY}-", dir=path.parent)
    try:
        cpp_extension.load(
            LIBRARY,
            [str(source) for source in SOURCES],
            extra_cflags=list(HOST_FLAGS),
            extra_cuda_cflags=list(DEVICE_FLAGS),
            build_directory=directory,
            with_cuda=True,
            is_python_module=False,
        )

        # Loaded already; the renamed file is for later processes.
        os.replace(Path(directory) / f"{LIBRARY}{cpp_extension.LIB_EXT}", path)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
