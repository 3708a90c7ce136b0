"""Regularization of the density field: neighbors alike, and denser from front to back (Chan et al. 2022, suppl. 1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMOOTHNESS_POINTS = 1000  # per sample
MONOTONIC_POINTS = 2000
MONOTONIC_WEIGHT = 10
STEP = 1 / 256  # of box_warp: one pixel of the planes
FORMS = ("l1", "monotonic-detach", "monotonic-fixed")

Density = Callable[[Tensor], Tensor]  # points N,K,3 in world units to raw density N,K,1


@dataclass(frozen=True)
class DensityRegularization:
    """What is asked of the raw density at random points of the cube [-1, 1]^3 (world units, whatever box_warp is).

    Args:
        weight: of the smoothness term.
        form: l1 (smoothness alone), or monotonic-detach and monotonic-fixed, which want density to grow away from the
            front too; the former sends no gradient into the nearer point.
        perturbation: standard deviation between neighbors of the form l1, world units.
        box_warp: side of the cube that the planes cover; sets the distances of the monotonic forms.
    Raises:
        ValueError: unknown form, negative weight.
    """

    weight: float
    form: str = "l1"
    perturbation: float = 0.004
    box_warp: float = 1.0

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"reg_type: expected one of {', '.join(FORMS)}, got {self.form!r}")
        if not self.weight >= 0:
            raise ValueError(f"density_reg: expected 0 or more, got {self.weight}")

    @classmethod
    def of(cls, G: nn.Module) -> DensityRegularization:
        """As the generator's rendering options say; without density_reg there is none (weight 0)."""
        o = G.rendering_kwargs
        return cls(o.get("density_reg", 0), o.get("reg_type", "l1"), o.get("density_reg_p_dist", 0.004), o["box_warp"])

    def __call__(self, density: Density, samples: int, device: torch.device | str = "cpu") -> Tensor:
        """The loss, from fresh points of each of the `samples` scenes in `density`. Gradients reach the density."""
        if self.form == "l1":
            return self.weight * smoothness(density, samples, self.perturbation, device)
        step = self.box_warp * STEP
        grows = MONOTONIC_WEIGHT * monotonicity(density, samples, step, self.form == "monotonic-detach", device)
        return grows + self.weight * smoothness(density, samples, step, device)


def smoothness(density: Density, samples: int, spread: float, device: torch.device | str) -> Tensor:
    """Mean L1 distance of the raw densities at random points and at normally distributed neighbors."""
    points = _points(samples, SMOOTHNESS_POINTS, device)
    here, there = _pair(density, points, points + torch.randn_like(points) * spread)
    return F.l1_loss(here, there)


def monotonicity(density: Density, samples: int, step: float, detach_front: bool, device: torch.device | str) -> Tensor:
    """Mean amount by which density falls from random points to those `step` behind them (towards -z)."""
    points = _points(samples, MONOTONIC_POINTS, device)
    front, behind = _pair(density, points, points - points.new_tensor([0, 0, step]))
    return F.relu((front.detach() if detach_front else front) - behind).mean()


def _points(samples: int, count: int, device: torch.device | str) -> Tensor:
    return torch.rand((samples, count, 3), device=device) * 2 - 1


def _pair(density: Density, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Densities at two sets of points, evaluated at once."""
    return density(torch.cat([first, second], dim=1)).chunk(2, dim=1)
