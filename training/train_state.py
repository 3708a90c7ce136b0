"""All mutable training state, and the files training-state-IMAGES.pt from which a run resumes."""

from __future__ import annotations

import copy
import hashlib
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dnnlib.util import atomic_write
from torch_utils import distributed
from training.data.sampler import BatchStream
from training.networks import registry
from training.options import AUGMENTATIONS, TrainingOptions
from training.weights.snapshot import load_network_pkl
from training.weights.torch_file import read_torch_file
from training.weights.transfer import copy_by_name

# Adam, as published; without momentum, as usual for adversarial training.
BETAS = (0.0, 0.99)
EPS = 1e-8

# Learning rate of the style encoder relative to G's: z must not move faster than G learns to read it.
STYLE_LR = 0.5

# For each network: names in a weights file from which it can start, in order of preference.
WARM_START = {
    "G": ("G", "G_ema"), "G_ema": ("G_ema", "G"), "E": ("E",), "E_ema": ("E",),
    "D": ("D",), "D_semantic": ("D_semantic", "D"), "D_patch": ("D_patch",),
}  # fmt: skip

# State files: format and version are checked before anything else is read.
FORMAT = "pix2pix3d-training-state"
VERSION = 1
DIGEST = "sha256"
STATE_NAME = re.compile(r"training-state-(\d+)\.pt")

# Attributes of TrainState that are saved as its progress.
COUNTERS = ("cur_nimg", "iteration", "tick", "tick_start_nimg")


class StateError(ValueError):
    """The saved state cannot be used: unreadable, of another model, or in use by another process."""


class TrainingError(RuntimeError):
    """Training cannot continue, for example because it diverged."""


def build_optimizer(options: TrainingOptions, network: str, module: nn.Module) -> torch.optim.Adam:
    """Build the optimizer that the main and the regularization phase of a network share.

    With lazy regularization every k-th iteration makes two steps, so learning rate and betas are scaled by k / (k + 1)
    (Karras et al. 2020, appendix B).
    """
    interval_scale = _lazy_scale(options, network)
    beta1 = options.beta1 if network in ("G", "E") else BETAS[0]
    betas = tuple(beta**interval_scale for beta in (beta1, BETAS[1]))
    return torch.optim.Adam(module.parameters(), lr=learning_rate(options, network), betas=betas, eps=EPS, fused=True)


def learning_rate(options: TrainingOptions, network: str) -> float:
    """Return the learning rate of a network without schedule, corrected for lazy regularization."""
    lr = options.g_lr if network in ("G", "E") else options.d_lr
    if network == "E":
        lr *= STYLE_LR
    return lr * _lazy_scale(options, network)


def _lazy_scale(options: TrainingOptions, network: str) -> float:
    """Factor of learning rate and exponent of betas, see `build_optimizer`."""
    # None: the regularization is part of the main phase, or there is none.
    interval = options.intervals[network]
    return interval / (interval + 1) if interval else 1


class TrainState:
    """All mutable training state of one process: networks, optimizers, augmentation, data position, progress.

    Args:
        options: of the run.
        device: where networks and optimizers live.
        stream: real samples; its position is saved with the state.
    Attributes:
        networks: those of the options (G, D, ...), in train mode.
        G_ema: exponential moving average of G, in eval mode.
        E_ema: the same of the style encoder E, or None.
        optimizers: one per network, by the same names.
        augment_pipe: augmentation of discriminator inputs, or None.
        ada_signs: sum and count of the signs of D's logits for real images since the last ADA update.
        cur_nimg: images shown to the discriminators, all processes together.
        iteration: number of completed iterations.
        tick: index of the current tick, an interval between two reports.
        tick_start_nimg: `cur_nimg` when the current tick began.
    """

    def __init__(self, options: TrainingOptions, device: torch.device, stream: BatchStream):
        self.options = options
        self.device = device
        self.stream = stream

        # The same initial weights in every process, for any number of processes. Gradients are off; each phase of the
        # loss enables those of the network that it trains.
        torch.manual_seed(options.random_seed)
        self.networks: dict[str, nn.Module] = {}
        for name, (class_name, kwargs) in options.networks.items():
            self.networks[name] = registry.construct(class_name, kwargs).train().requires_grad_(False).to(device)
        self.G_ema = copy.deepcopy(self.networks["G"]).eval()
        self.E_ema = copy.deepcopy(self.networks["E"]).eval() if "E" in self.networks else None
        self.optimizers = {name: build_optimizer(options, name, net) for name, net in self.networks.items()}

        # Augmentation with adaptive or fixed probability p.
        self.augment_pipe = None
        if options.augment is not None:
            pipe = registry.construct("training.augment.AugmentPipe", AUGMENTATIONS)
            self.augment_pipe = pipe.train().requires_grad_(False).to(device)
            self.augment_pipe.p.fill_(options.augment.p)
        self.ada_signs = torch.zeros(2, device=device)

        # Progress. The start is moved back when a run is resumed, so that `seconds` counts its earlier time too.
        self.cur_nimg = 0
        self.iteration = 0
        self.tick = 0
        self.tick_start_nimg = 0
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Training time of the run in seconds, without the time between stop and resume."""
        return time.monotonic() - self._started

    @property
    def augment_p(self) -> float:
        """Current augmentation probability, 0 without augmentation."""
        return 0.0 if self.augment_pipe is None else self.augment_pipe.p.item()

    @property
    def modules(self) -> dict[str, nn.Module]:
        """All modules by name."""
        # Weights files keep this order.
        modules = {**self.networks, "G_ema": self.G_ema}
        if self.E_ema is not None:
            modules["E_ema"] = self.E_ema
        if self.augment_pipe is not None:
            modules["augment_pipe"] = self.augment_pipe
        return modules

    @property
    def public_modules(self) -> dict[str, nn.Module]:
        """Modules by the names that they have in weights files, where E is the moving average."""
        modules = self.modules
        if self.E_ema is not None:
            modules["E"] = modules.pop("E_ema")
        return modules

    def find_nonfinite(self) -> str | None:
        """Return the name of a parameter or buffer with NaN or infinite elements, None if there is none."""
        tensors = {}
        for name, module in self.modules.items():
            tensors |= {f"{name}.{key}": tensor for key, tensor in module.state_dict().items()}

        # One wait for the device.
        finite = torch.stack([tensor.isfinite().all() for tensor in tensors.values()])
        return None if finite.all() else list(tensors)[int(finite.int().argmin())]

    def scale_learning_rate(self, factor: float) -> None:
        """Set the learning rates of G and E to their maximum times `factor`."""
        for network in ("G", "E"):
            if network in self.optimizers:
                for group in self.optimizers[network].param_groups:
                    group["lr"] = learning_rate(self.options, network) * factor

    # ----------------------------------------------------------------------- start

    def start(self, saved: Mapping[str, Any] | None) -> str:
        """Resume from a saved state, or warm start from `resume_pkl`, or keep the random initial weights.

        Args:
            saved: rank 0's result of `load_state`; ignored in other processes.
        Returns:
            A message that says which of these happened.
        Raises:
            StateError, WeightsError: the state or the weights do not fit, see `load_state_dict` and `warm_start`.
        """
        # Resume: every process gets the whole state.
        saved = distributed.from_rank_0(saved)
        if saved is not None:
            self.load_state_dict(saved)
            return f"Resuming at {self.cur_nimg} images, tick {self.tick}"

        # New run: only rank 0 reads the weights file.
        message = "Starting from random weights"
        if self.options.resume_pkl and distributed.rank() == 0:
            message = self.warm_start(self.options.resume_pkl)

        # All processes start from rank 0's weights; without a weights file they are equal already.
        for module in self.modules.values():
            distributed.copy_from_rank_0(module)
        return message

    def warm_start(self, source: str) -> str:
        """Copy all tensors of matching name and shape from a weights file, given as path or URL.

        Returns:
            A table of the tensors that were copied and of those that were not.
        Raises:
            WeightsError: not a weights file.
        """
        # A network that the file lacks starts from the most similar one, such as D_semantic from EG3D's discriminator.
        loaded = load_network_pkl(source)
        lines = [f"Starting from {source}"]
        for name, module in self.modules.items():
            if name not in WARM_START:
                continue
            sources = [key for key in WARM_START[name] if key in loaded]
            if sources:
                lines.append(f"{name}, from its {sources[0]}")
                lines.append(copy_by_name(loaded[sources[0]], module).table())
            else:
                lines.append(f"{name}: not in the file, keeps its random weights")
        return "\n".join(lines)

    # ----------------------------------------------------------------------- save and restore

    def gather_ada_signs(self) -> None:
        """Move the sign counts of all processes to rank 0, which saves the state; their sum stays the same."""
        # A resumed run can have another number of processes, so counts of each of them could not be restored.
        distributed.all_reduce(self.ada_signs)
        if distributed.rank():
            self.ada_signs.zero_()

    def state_dict(self) -> dict[str, Any]:
        """Return everything that `load_state_dict` needs for an exact resume; tensors are references, not copies.

        Call `gather_ada_signs` before, in all processes.
        """
        # Keys of version 1: a change needs another VERSION, or old runs cannot be resumed.
        return {
            "parts": {
                "modules": {name: module.state_dict() for name, module in self.modules.items()},
                "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
                "ada": self.ada_signs,
            },
            "stream": self.stream.state_dict(),
            "progress": {**{name: getattr(self, name) for name in COUNTERS}, "seconds": self.seconds},
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Restore the result of `state_dict`.

        Raises:
            StateError: the state is of a run with other options.
        """
        try:
            # Networks, optimizers and augmentation; missing or additional tensors are errors.
            for name, module in self.modules.items():
                module.load_state_dict(saved["parts"]["modules"][name])
            for name, optimizer in self.optimizers.items():
                optimizer.load_state_dict(saved["parts"]["optimizers"][name])
            self.ada_signs.copy_(saved["parts"]["ada"])

            # Position in the data, which any number of processes can continue, and progress.
            self.stream.load_state_dict(saved["stream"])
            for name in COUNTERS:
                setattr(self, name, saved["progress"][name])
            self._started = time.monotonic() - saved["progress"]["seconds"]
        except torch.OutOfMemoryError:  # a RuntimeError that says nothing about the state
            raise
        except (RuntimeError, LookupError, TypeError, ValueError) as error:
            # PyTorch lists every tensor that does not fit, one a line; the first ones are enough.
            reason = " ".join(str(error).split())
            raise StateError(f"the saved state does not fit the options of the run: {reason:.200}") from error

        # Rank 0 has the sign counts of all processes, see gather_ada_signs.
        if distributed.rank():
            self.ada_signs.zero_()


# --------------------------------------------------------------------------- state files


def save_state(run_dir: Path, cur_nimg: int, contents: Mapping[str, Any], keep: int) -> Path:
    """Write training-state-IMAGES.pt, then delete older states until `keep` are left, this one included.

    The file appears under its name when it is complete and on the disk; until then no older state is deleted. States
    of more images can only be damaged ones, or the run would have resumed from them: they are ignored.
    """
    # Written under another name, then renamed.
    path = run_dir / f"training-state-{cur_nimg:09d}.pt"
    with atomic_write(path) as file:
        torch.save({"format": FORMAT, "version": VERSION, DIGEST: _digest(contents), **contents}, file)

    # Counted from this state, not from the newest.
    paths = _state_files(run_dir)
    for older in paths[paths.index(path) + keep :]:
        older.unlink()
    return path


def load_state(run_dir: Path) -> dict[str, Any] | None:
    """Load the newest readable state to the CPU, and print which damaged ones were skipped; None if there is no state.

    Raises:
        StateError: all states are damaged; the message names the newest.
        OSError, MemoryError: a state that may be intact cannot be read now.
    """
    # Newest first; the first readable one is used.
    problems = []
    for path in _state_files(run_dir):
        try:
            with path.open("rb") as file:
                contents = read_torch_file(file)
            if contents.pop("format", None) != FORMAT or contents.pop("version", None) != VERSION:
                raise ValueError(f"not a training state of version {VERSION}")

            # States of earlier versions have no digest, only the checksums that PyTorch writes.
            digest = contents.pop(DIGEST, None)
            if digest not in (None, _digest(contents)):
                raise ValueError("not the numbers that were saved: their digest differs")
            return contents
        # The file may be intact: skipping it would silently lose progress.
        except (OSError, MemoryError):
            raise
        # Damaged bytes raise many types, such as IndexError and KeyError.
        except Exception as error:
            reason = str(error).split("\n")[0] or type(error).__name__
            problems.append(f"{path}: {reason}")
            print(f"Skipped a damaged state, {problems[-1]}", flush=True)

    # Without any state the run is new; with damaged ones, starting anew would be a mistake.
    if problems:
        raise StateError(problems[0])
    return None


def _digest(contents: Mapping[str, Any]) -> str:
    """Return the SHA-256 of names, types, shapes and values of a state, 0.3 to 1 s for 500 MB."""
    total = hashlib.sha256()
    for name, value in _values(contents):
        # Numbers and strings in full; of tensors, the elements in their logical order.
        if not isinstance(value, Tensor):
            total.update(f"{name} {value!r}\n".encode())
            continue
        tensor = value.detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return total.hexdigest()


def _values(contents: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values in nested dicts, lists and tuples, with their path."""
    if not isinstance(contents, Mapping | list | tuple):
        yield name, contents
        return
    for key, value in contents.items() if isinstance(contents, Mapping) else enumerate(contents):
        yield from _values(value, f"{name}.{key}")


def remove_partial_files(run_dir: Path) -> None:
    """Delete incomplete files of a process that was killed while writing."""
    for path in run_dir.glob(".*.part"):
        path.unlink()


def _state_files(run_dir: Path) -> list[Path]:
    """Return the state files, newest first."""
    numbered = []
    for path in run_dir.iterdir():
        if match := STATE_NAME.fullmatch(path.name):
            numbered.append((int(match[1]), path))
    return [path for _, path in sorted(numbered, reverse=True)]
