"""Signed distance functions of simple solids, and how to combine them.

Points are 3,M in world units (coordinates as rows: long contiguous rows are fast). Distances are M, negative inside,
and never much larger than the true distance, so that rays can step by them. The formulas are those of Quilez, "Distance
functions" (iquilezles.org). NumPy rather than PyTorch: a call costs five times less, which matters for the usual few
thousand points.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray  # float32 throughout

# --------------------------------------------------------------------------- vectors


def vector(numbers: list[float]) -> Array:
    """Return a float32 array of the numbers, shape 3."""
    return np.array(numbers, np.float32)


def fold(points: Array) -> Array:
    """Mirror points 3,M to x >= 0, for objects that are symmetric in x."""
    return np.concatenate([np.abs(points[:1]), points[1:]])


def length(vectors: Array) -> Array:
    """Return the Euclidean length M of vectors 3,M."""
    # Faster than np.linalg.norm along the first axis.
    x, y, z = vectors
    return np.sqrt(x * x + y * y + z * z)


def unit(vectors: Array, axis: int = 0) -> Array:
    """Normalize vectors along `axis` to length 1; any shape, such as 3,M."""
    return (vectors / np.linalg.norm(vectors, axis=axis, keepdims=True)).astype(np.float32)


# --------------------------------------------------------------------------- solids


def sphere(points: Array, center: Array, radius: float) -> Array:
    """Return the distance M of points 3,M to a sphere."""
    return length(points - center[:, None]) - radius


def ellipsoid(points: Array, center: Array, radii: Array) -> Array:
    """Return the first-order distance M of points 3,M to an ellipsoid: implicit function over its gradient's length."""
    # With q = p / radii: f = |q| - 1, |grad f| = |q / radii| / |q|; f over the gradient is |q| (|q| - 1) / |q / radii|.
    scaled = (points - center[:, None]) / radii[:, None]
    norm = length(scaled)
    return norm * (norm - 1) / np.maximum(length(scaled / radii[:, None]), 1e-9)


def capsule(points: Array, start: Array, end: Array, radius: float) -> Array:
    """Return the distance M of points 3,M to all points within `radius` of the segment from `start` to `end`."""
    axis = end - start
    offset = points - start[:, None]

    # Nearest point of the segment: 0 at start, 1 at end; M.
    position = np.clip(axis / axis.dot(axis) @ offset, 0, 1)
    return length(offset - position * axis[:, None]) - radius


def cylinder_x(points: Array, center: Array, radius: float, half_width: float) -> Array:
    """Return the distance M of points 3,M to a cylinder with axis x."""
    # In the plane of radius and axis it is a rectangle: the nearest side counts, or outside the nearest corner.
    x, y, z = points - center[:, None]
    radial = np.hypot(y, z) - radius
    axial = np.abs(x) - half_width
    return np.minimum(np.maximum(radial, axial), 0) + np.hypot(np.maximum(radial, 0), np.maximum(axial, 0))


def leaf(points: Array, height: float, width: float, flatness: float) -> Array:
    """Return the distance M of points 3,M to a pointed leaf along y (a vesica turned about y, flattened in z).

    Args:
        points: relative to the leaf's center.
        height: half of its extent in y.
        width: half of its extent in x.
        flatness: thickness (z) over width (x).
    """
    # The outline is an arc through (0, height) and (width, 0), whose center is beyond the y axis by arc_radius - width.
    x, y, z = points
    arc_radius = (width**2 + height**2) / (2 * width)
    radial = np.sqrt(x * x + (z / flatness) ** 2) + (arc_radius - width)

    # Stretching z by 1 / flatness makes distances too long by at most that factor.
    return (np.sqrt(radial * radial + y * y) - arc_radius) * flatness


class ConvexSolid:
    """Intersection of named half-spaces.

    Args:
        planes: name -> outward normal of any length, and a point on the plane.
    Attributes:
        normals: K,3 unit normals.
        offsets: K, the planes are normal . x = offset.
    """

    def __init__(self, planes: dict[str, tuple[tuple, tuple]]):
        self.names = list(planes)
        self.normals = unit(np.array([normal for normal, _ in planes.values()], np.float32), axis=1)
        self.offsets = (self.normals * np.array([point for _, point in planes.values()], np.float32)).sum(1)

    def plane_distances(self, points: Array) -> Array:
        """Return the signed distances K,M of points 3,M to all planes."""
        return self.normals @ points - self.offsets[:, None]

    def distance(self, points: Array, rounding: float) -> Array:
        """Return the distance M of points 3,M, with edges rounded by about `rounding`."""
        return smooth_max(self.plane_distances(points), rounding)

    def is_face(self, face: Array, *names: str) -> Array:
        """Return whether each plane index of `face` (M) is one of the named planes: bool M."""
        return np.isin(face, [self.names.index(name) for name in names])


# --------------------------------------------------------------------------- combinations


def smooth_max(distances: Array, rounding: float) -> Array:
    """Return the log-sum-exp maximum M of distances K,M: an intersection with rounded edges."""
    # The maximum is subtracted before exp, which could overflow.
    highest = distances.max(0)
    return highest + rounding * np.log(np.exp((distances - highest) / rounding).sum(0))


def smooth_union(a: Array, b: Array, width: float) -> Array:
    """Return the union M of distances M with a quadratic transition of the given width (Quilez, "smooth minimum")."""
    # Where the distances differ by less than `width`, subtract a parabola: width / 4 where they are equal.
    overlap = np.maximum(width - np.abs(a - b), 0)
    return np.minimum(a, b) - overlap * overlap / (4 * width)


def smooth_difference(a: Array, b: Array, width: float) -> Array:
    """Return distances M of `a` without `b`, with a smooth rim of the given width."""
    return -smooth_union(-a, b, width)
