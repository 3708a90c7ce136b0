"""Density regularization: neighboring points alike, denser from front to back (Chan et al. 2022, supplement 1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dnnlib.errors import ConfigError

# Random points in each scene.
SMOOTHNESS_POINTS = 1000
MONOTONIC_POINTS = 2000

# Distance of neighbors in the monotonic forms as a share of box_warp: one pixel of the published planes.
STEP = 1 / 256

# Factor of the monotonicity term, which has no option, as published.
MONOTONIC_WEIGHT = 10
FORMS = ("l1", "monotonic-detach", "monotonic-fixed")

Density = Callable[[Tensor], Tensor]  # points N,K,3 in world units to raw density N,K,1


@dataclass(frozen=True)
class DensityRegularization:
    """Loss on raw densities at random points of the cube [-1, 1]^3 (world units, whatever box_warp is).

    Raises:
        ConfigError: unknown form.
    """

    weight: float  # of the smoothness term; 0: no regularization
    form: str = "l1"  # l1: smoothness only; monotonic-*: density grows away from the front too, see `monotonicity`
    perturbation: float = 0.004  # standard deviation between neighbors in the form l1, world units
    box_warp: float = 1.0  # side of the cube that the planes cover, world units; scales steps of the monotonic forms

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ConfigError("reg_type", self.form, f"one of {', '.join(FORMS)}")

    @classmethod
    def from_generator(cls, G: nn.Module) -> DensityRegularization:
        """Read the settings from a generator's rendering options; without any the weight is 0."""
        # Published generators keep these options of training among their rendering options.
        options = G.rendering_kwargs
        return cls(
            weight=options.get("density_reg", 0),
            form=options.get("reg_type", "l1"),
            perturbation=options.get("density_reg_p_dist", 0.004),
            box_warp=options["box_warp"],
        )

    def __call__(self, density: Density, samples: int, device: torch.device | str = "cpu") -> Tensor:
        """Compute the loss at fresh random points of every scene.

        Args:
            density: raw density N,K,1 at points N,K,3 of N scenes; gradients reach its parameters.
            samples: number of scenes N.
            device: where the points are created.
        Returns:
            Scalar.
        """
        # Smoothness only.
        if self.form == "l1":
            return self.weight * smoothness(density, samples, self.perturbation, device)

        # Monotonicity first, then smoothness at fresh points; both over the distance of one plane pixel.
        step = self.box_warp * STEP
        detach_front = self.form == "monotonic-detach"
        monotonic_loss = MONOTONIC_WEIGHT * monotonicity(density, samples, step, detach_front, device)
        return monotonic_loss + self.weight * smoothness(density, samples, step, device)


def smoothness(density: Density, samples: int, spread: float, device: torch.device | str) -> Tensor:
    """Compute the mean L1 distance of raw densities at random points and at neighbors, a scalar.

    Args:
        density: raw density N,K,1 at points N,K,3.
        samples: number of scenes N.
        spread: standard deviation of the offset to a neighbor on each axis, world units.
        device: where the points are created.
    """
    # Normally distributed neighbors, at other places in every call.
    points = _random_points(samples, SMOOTHNESS_POINTS, device)  # N,K,3
    first, second = _density_at_both(density, points, points + torch.randn_like(points) * spread)
    return F.l1_loss(first, second)


def monotonicity(density: Density, samples: int, step: float, detach_front: bool, device: torch.device | str) -> Tensor:
    """Compute the mean decrease of raw density from random points to points behind them (towards -z), a scalar.

    Args:
        density: raw density N,K,1 at points N,K,3.
        samples: number of scenes N.
        step: distance between both points, world units.
        detach_front: send no gradient into the density of the front point.
        device: where the points are created.
    """
    # Cameras look from +z, so that -z is further from a camera at the front.
    points = _random_points(samples, MONOTONIC_POINTS, device)  # N,K,3
    front, behind = _density_at_both(density, points, points - points.new_tensor([0, 0, step]))

    # Without a gradient at the front the density can only grow behind, not shrink in front.
    if detach_front:
        front = front.detach()
    return F.relu(front - behind).mean()


def _random_points(samples: int, count: int, device: torch.device | str) -> Tensor:
    """Sample points N,K,3 uniformly in [-1, 1]^3."""
    return torch.rand((samples, count, 3), device=device) * 2 - 1


def _density_at_both(density: Density, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Evaluate densities at two sets of points N,K,3 in one call."""
    # One call on all points takes less time than two.
    return density(torch.cat([first, second], dim=1)).chunk(2, dim=1)
