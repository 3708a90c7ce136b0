"""Interface between objects and the renderer, and tools to sample and color objects."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Protocol

import numpy as np

from dataset_preprocessing.toy.sdf import Array, unit


@dataclass(frozen=True)
class Surface:
    """Material at M points.

    Attributes:
        albedo: 3,M in [0, 1], linear light.
        gloss: M in [0, 1].
    """

    albedo: Array
    gloss: Array


class Scene(Protocol):
    """One object that faces +z, inside the box +-`half_size` (world units)."""

    half_size: Array  # 3
    light: Array  # 3, unit vector towards the lamp
    velvet: float  # brightness of fur at grazing angles

    def distance(self, points: Array) -> Array:
        """Return the signed distance M of points 3,M."""

    def parts(self, points: Array) -> Array:
        """Return part ids M (uint8, from 1) of points 3,M on the surface."""

    def surface(self, points: Array, normals: Array, parts: Array) -> Surface:
        """Return the material of points 3,M on the surface, with normals 3,M and part ids M."""

    def background(self, directions: Array) -> Array:
        """Return the color 3,M in [0, 1] (linear light) of rays with directions 3,M that miss the object."""


def sample_shape(rng: np.random.Generator, ranges: dict[str, tuple[float, float]]) -> SimpleNamespace:
    """Sample each parameter uniformly from its range."""
    return SimpleNamespace(**{name: float(rng.uniform(low, high)) for name, (low, high) in ranges.items()})


class Waves:
    """Smooth noise in about [-1, 1]: a sum of sines in random directions.

    Args:
        rng: random generator.
        count: number of sines.
        low: lowest angular frequency, rad per unit of the points.
        high: highest angular frequency.
    """

    def __init__(self, rng: np.random.Generator, count: int, low: float, high: float):
        # Directions uniform on the sphere: normal vectors, normalized.
        directions = unit(rng.standard_normal((count, 3)), axis=1)
        self.frequency = (directions * rng.uniform(low, high, (count, 1))).astype(np.float32)
        self.phase = rng.uniform(0, 2 * np.pi, (count, 1)).astype(np.float32)

    def __call__(self, points: Array) -> Array:
        """Return the noise M at points 3,M."""
        # The mean of sines is seldom near 1, because they are seldom all in phase.
        return np.sin(self.frequency @ points + self.phase).mean(axis=0) * 1.6


def mix(a: Array, b: Array, weight: Array) -> Array:
    """Interpolate from a to b (3,M or 3,1) by weight M in [0, 1]."""
    return a + (b - a) * weight


def smooth_step(x: Array, low: float, high: float) -> Array:
    """Return M: 0 below `low`, 1 above `high`, cubic between; reversed if `low` is above `high`."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)
