"""What is trained: networks, the generator's average, phases with their optimizers; built, started, saved, restored."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from training.networks import registry
from training.options import AUGMENTATIONS, TrainingOptions
from training.weights.snapshot import load_network_pkl
from training.weights.transfer import copy_by_name

BETAS, EPS = (0.0, 0.99), 1e-8  # Adam, as published
WARM_START = {"G": ("G", "G_ema"), "G_ema": ("G_ema", "G"), "D": ("D",), "D_semantic": ("D_semantic", "D")}


@dataclass(frozen=True)
class Phase:
    """One of the steps of an iteration.

    Args:
        name: as the loss knows it. network: which it trains.
        interval: iterations from one to the next. gain: factor of its loss.
    """

    name: str
    network: str
    interval: int = 1
    gain: float = 1


def phases_of(options: TrainingOptions) -> list[Phase]:
    """In their order. A regularizing phase that comes every k-th iteration counts k times (Karras et al. 2020)."""
    phases = []
    for network in options.networks:
        interval = options.intervals[network]
        penalized = network == "G" or options.loss.r1_gamma > 0
        phases.append(Phase(network + ("main" if interval else "both"), network))
        if interval and penalized:
            phases.append(Phase(f"{network}reg", network, interval, gain=interval))
    return phases


def build_optimizer(options: TrainingOptions, network: str, module: nn.Module) -> torch.optim.Adam:
    """One for both phases of a network; its steps are as large as if both came every time."""
    interval = options.intervals[network]
    share = interval / (interval + 1) if interval else 1
    lr = options.g_lr if network == "G" else options.d_lr
    betas = tuple(b**share for b in BETAS)
    return torch.optim.Adam(module.parameters(), lr=lr * share, betas=betas, eps=EPS, fused=True)


class Parts:
    """Everything with numbers in it that training changes.

    Attributes:
        networks: by public name, in train mode. average: G_ema, in eval mode.
        optimizers: by network.
        augment_pipe: None where pictures are not augmented.
        ada: sum and count of the signs of D's logits of real pictures since p was last changed.
    """

    def __init__(self, options: TrainingOptions, device: torch.device):
        self.options, self.device = options, device
        self.networks: dict[str, nn.Module] = {
            name: registry.construct(*made_of).train().requires_grad_(False).to(device)
            for name, made_of in options.networks.items()
        }
        self.average = copy.deepcopy(self.networks["G"]).eval()
        self.optimizers = {name: build_optimizer(options, name, net) for name, net in self.networks.items()}
        self.phases = phases_of(options)
        self.ada = torch.zeros(2, device=device)
        self.augment_pipe = None
        if options.augment is not None:
            pipe = registry.construct("training.augment.AugmentPipe", AUGMENTATIONS)
            self.augment_pipe = pipe.train().requires_grad_(False).to(device)
            self.augment_pipe.p.fill_(options.augment.p)

    @property
    def all_modules(self) -> dict[str, nn.Module]:
        """By their public names, as weights files hold them."""
        pipe = {} if self.augment_pipe is None else {"augment_pipe": self.augment_pipe}
        return {**self.networks, "G_ema": self.average, **pipe}

    @torch.no_grad()
    def update_average(self, cur_nimg: int) -> None:
        """Move G_ema towards G: half of the way in `ema_kimg`, sooner in the beginning."""
        half_life = self.options.ema_kimg * 1000
        if self.options.ema_rampup is not None:
            half_life = min(half_life, cur_nimg * self.options.ema_rampup)
        keep = 0.5 ** (self.options.batch_size / max(half_life, 1e-8))
        current = self.networks["G"]
        torch._foreach_lerp_(list(self.average.parameters()), list(current.parameters()), 1 - keep)
        torch._foreach_copy_(list(self.average.buffers()), list(current.buffers()))

    def not_finite(self) -> str | None:
        """Name of a parameter or buffer with a value that is not finite, None if all are."""
        tensors = {f"{n}.{key}": t for n, module in self.all_modules.items() for key, t in module.state_dict().items()}
        finite = torch.stack([tensor.isfinite().all() for tensor in tensors.values()])
        return None if finite.all() else list(tensors)[int(finite.int().argmin())]

    def warm_start(self, source: str) -> str:
        """Start from the networks of a weights file of any kind; a table of what was taken.

        Raises:
            WeightsError: not a weights file.
        """
        found = load_network_pkl(source)
        lines = [f"Starting from {source}"]
        for name, module in {**self.networks, "G_ema": self.average}.items():
            origin = next((key for key in WARM_START[name] if key in found), None)
            if origin is None:
                lines.append(f"{name}: not in the file, stays as initialized")
            else:
                lines += [f"{name}, from its {origin}", copy_by_name(found[origin], module).table()]
        return "\n".join(lines)

    def state_dict(self) -> dict[str, Any]:
        """Plain data and tensors; tensors are the parts' own, not copies."""
        return {
            "modules": {name: module.state_dict() for name, module in self.all_modules.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "ada": self.ada,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Undo `state_dict`."""
        for name, module in self.all_modules.items():
            module.load_state_dict(state["modules"][name])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.ada.copy_(state["ada"])
