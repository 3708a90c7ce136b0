"""What the renderer asks of an object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dataset_preprocessing.toy.sdf import Array, unit


@dataclass(frozen=True)
class Surface:
    """Looks of M points: `albedo` 3,M in [0, 1] (linear light) and `gloss` M in [0, 1]."""

    albedo: Array
    gloss: Array


class Scene(Protocol):
    """One object facing +z, within +-`half_size` 3 (world units); `light` is a unit vector towards the lamp."""

    half_size: Array
    light: Array
    velvet: float  # how much fur lights up at its outline

    def distance(self, points: Array) -> Array:
        """Signed distance M of points 3,M."""

    def parts(self, points: Array) -> Array:
        """Part ids M (from 1 on, uint8) of points 3,M on the surface."""

    def surface(self, points: Array, normals: Array, parts: Array) -> Surface:
        """Looks of points 3,M on the surface."""

    def background(self, directions: Array) -> Array:
        """Color 3,M in [0, 1] (linear light) seen along rays 3,M that miss."""


class Waves:
    """Smooth noise in about [-1, 1]: a sum of sines in random directions.

    Args:
        count: number of sines.
        low, high: range of angular frequency, rad per world unit.
    """

    def __init__(self, rng: np.random.Generator, count: int, low: float, high: float):
        directions = unit(rng.standard_normal((count, 3)), axis=1)
        self.frequency = (directions * rng.uniform(low, high, (count, 1))).astype(np.float32)
        self.phase = rng.uniform(0, 2 * np.pi, (count, 1)).astype(np.float32)

    def __call__(self, points: Array) -> Array:
        return np.sin(self.frequency @ points + self.phase).mean(axis=0) * 1.6  # of a few sines, seldom all in phase


def mix(a: Array, b: Array, weight: Array) -> Array:
    """From a to b (3,M or 3,1) by weight M in [0, 1]."""
    return a + (b - a) * weight


def smooth_step(x: Array, low: float, high: float) -> Array:
    """0 below `low`, 1 above `high`, smooth between; `low` above `high` turns it round."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)
