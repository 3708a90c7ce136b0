"""Signed distances of simple solids (negative inside) and how they are joined.

Points are 3,M in world units (x, y, z as rows: long contiguous rows are quick); a result is M and never much larger
than the true distance, so that rays can step by it. NumPy rather than torch: most calls have a few thousand points, and
there the cost of a call counts (five times less).
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray  # float32 throughout


def vector(numbers: list[float]) -> Array:
    return np.array(numbers, np.float32)


def fold(points: Array) -> Array:
    """Both halves of an object that is symmetric in x on the side of positive x."""
    return np.concatenate([np.abs(points[:1]), points[1:]])


def length(vectors: Array) -> Array:
    """Euclidean length M of the columns of 3,M."""
    x, y, z = vectors
    return np.sqrt(x * x + y * y + z * z)


def unit(vectors: Array, axis: int = 0) -> Array:
    """Vectors along `axis`, scaled to length 1."""
    return (vectors / np.linalg.norm(vectors, axis=axis, keepdims=True)).astype(np.float32)


def ellipsoid(points: Array, center: Array, radii: Array) -> Array:
    """Distance to first order: the implicit function over the length of its gradient."""
    offset = (points - center[:, None]) / radii[:, None]
    near = length(offset)
    return near * (near - 1) / np.maximum(length(offset / radii[:, None]), 1e-9)


def sphere(points: Array, center: Array, radius: float) -> Array:
    return length(points - center[:, None]) - radius


def capsule(points: Array, start: Array, end: Array, radius: float) -> Array:
    """All points within `radius` of a line from `start` to `end`."""
    axis = end - start
    offset = points - start[:, None]
    along = np.clip(axis / axis.dot(axis) @ offset, 0, 1)
    return length(offset - along * axis[:, None]) - radius


def wheel(points: Array, center: Array, radius: float, half_width: float) -> Array:
    """Cylinder whose axis is x."""
    x, y, z = points - center[:, None]
    around, aside = np.hypot(y, z) - radius, np.abs(x) - half_width
    return np.minimum(np.maximum(around, aside), 0) + np.hypot(np.maximum(around, 0), np.maximum(aside, 0))


def leaf(points: Array, height: float, width: float, flatness: float) -> Array:
    """A pointed leaf along y about the origin: half height, half width in x, thickness `flatness` times the width."""
    x, y, z = points
    arc = (width**2 + height**2) / (2 * width)
    across = np.sqrt(x * x + (z / flatness) ** 2) + (arc - width)
    return (np.sqrt(across * across + y * y) - arc) * flatness


def faces(points: Array, normals: Array, offsets: Array) -> Array:
    """Distances K,M to the planes normal . x = offset of a convex solid; unit normals K,3 point outwards."""
    return normals @ points - offsets[:, None]


def rounded_max(distances: Array, rounding: float) -> Array:
    """Solid inside all planes, M from K,M, its edges rounded by about `rounding`."""
    highest = distances.max(0)  # subtracted first, so that nothing overflows
    return highest + rounding * np.log(np.exp((distances - highest) / rounding).sum(0))


def blend(a: Array, b: Array, width: float) -> Array:
    """Union with a smooth transition `width` wide."""
    near = np.maximum(width - np.abs(a - b), 0)
    return np.minimum(a, b) - near * near / (4 * width)


def carve(a: Array, b: Array, width: float) -> Array:
    """`a` without `b`, with a smooth rim."""
    return -blend(-a, b, width)
