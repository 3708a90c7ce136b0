"""Build of the CUDA kernels at first use; without a compiler or a GPU the plain PyTorch operators run instead."""

import functools
import hashlib
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import torch

FOLDER = Path(__file__).parent
SOURCES = tuple(FOLDER / f"{op}{suffix}" for op in ("bias_act", "upfirdn2d") for suffix in (".cpp", ".cu"))
LIBRARY = "pix2pix3d_kernels"  # its operators are torch.ops.pix2pix3d.*
HOST_FLAGS = ("-O3", "-DKERNEL_DEVICE=CUDA")
DEVICE_FLAGS = ("-O3",)  # no fast-math: exp and tanh stay as exact as PyTorch's


def use_kernel(impl: str, device: torch.device) -> bool:
    """Whether an operator runs its kernel on `device`; the first question about a CUDA device builds all kernels.

    Args:
        impl: "auto" = kernel where there is one, "ref" = the definition in plain PyTorch, "kernel" = kernel or error.
    Raises:
        ValueError: another `impl`, or "kernel" where there is none.
    """
    if impl not in ("auto", "ref", "kernel"):
        raise ValueError(f"impl: expected auto, ref or kernel, got {impl!r}")
    if impl == "ref":
        return False
    ready = kernels_ready(device)
    if impl == "kernel" and not ready:
        raise ValueError(f"impl: there is no kernel for {device}; use auto or ref")
    return ready


def kernels_ready(device: torch.device) -> bool:
    """Whether the kernels run on `device`."""
    return device.type == "cuda" and _built()


def stream_handle(device: torch.device) -> int:
    """The device's current stream as the number that the launchers take; 0 where there are no streams."""
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


@functools.cache
def _built() -> bool:
    """Build or find the kernels and load them, once per process."""
    try:
        path = _library_path()
        if path.exists():
            torch.ops.load_library(path)
        else:
            _compile_and_load(path)
    except Exception as error:  # whatever the tools raise, the plain operators give the same numbers
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        warnings.warn(
            f"CUDA kernels could not be built ({reason}); plain PyTorch runs instead: same results, slower. "
            "They need nvcc of PyTorch's CUDA version, a C++ compiler and ninja.",
            stacklevel=2,
        )
        return False
    return True


def _library_path() -> Path:
    """Where the compiled kernels for this source, this PyTorch and these GPUs lie."""
    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or Path.home() / ".cache" / "torch_extensions")
    return root / f"{LIBRARY}-{_digest()}.so"


def _digest() -> str:
    """Names everything that the compiled kernels depend on."""
    arches = sorted({torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())})
    key = hashlib.sha256(repr((torch.__version__, torch.version.cuda, arches, HOST_FLAGS, DEVICE_FLAGS)).encode())
    for source in sorted([*SOURCES, *FOLDER.glob("*.h")]):
        key.update(source.name.encode() + source.read_bytes())
    return key.hexdigest()[:16]


def _compile_and_load(path: Path) -> None:
    """Compile into a folder of our own and rename: processes that start together cannot meet half a file or a lock."""
    from torch.utils import cpp_extension  # its import looks for a compiler

    print(f"Building CUDA kernels, once, about a minute: {path}", file=sys.stderr, flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = tempfile.mkdtemp(prefix=f"{LIBRARY}-", dir=path.parent)
    try:
        cpp_extension.load(
            LIBRARY,
            [str(source) for source in SOURCES],
            extra_cflags=list(HOST_FLAGS),
            extra_cuda_cflags=list(DEVICE_FLAGS),
            build_directory=folder,
            with_cuda=True,
            is_python_module=False,
        )
        os.replace(Path(folder) / f"{LIBRARY}{cpp_extension.LIB_EXT}", path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
