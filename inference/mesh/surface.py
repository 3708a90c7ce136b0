"""Level sets of a density grid: threshold, marching cubes, and cleaning up."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dnnlib.errors import ConfigError
from inference.mesh.triangles import Mesh

if TYPE_CHECKING:  # an optional dependency: imported where it is used
    from scipy import sparse

HISTOGRAM_BINS = 1024
# Least grid points per axis that enter a distribution (fewer in smaller grids).
POINTS_PER_AXIS = 128
# A ray along an axis shows a surface if this share of its light at least is absorbed.
OPAQUE = 0.95
# Quantile of the densities where rays have lost half of their light; below the median, so that thin parts stay.
SURFACE_QUANTILE = 0.25
# Alternating steps that shrink and expand, so that the volume stays (Taubin 1995, A signal processing approach to fair
# surface design); these keep what is larger than about ten triangles.
SHRINK, EXPAND = 0.5, -0.53
# Largest change of the volume by smoothing, as a share of it.
MAX_VOLUME_CHANGE = 0.01


class NoSurfaceError(ConfigError):
    """The density does not cross the threshold, or all of the surface belongs to a class that is left out."""


# --------------------------------------------------------------------------- threshold


def otsu_threshold(grid: Tensor, step: float) -> float:
    """Find the raw density that best separates empty space from solid.

    Otsu's method (1979) on the opacities that the densities give to one step of a ray: the level at which the
    variance between both sides is largest. Opacity is bounded, so that a few huge densities do not dominate.

    Args:
        grid: X,Y,Z raw densities (or any shape); long axes are subsampled.
        step: length of a step of a ray, world units.
    Raises:
        NoSurfaceError: all opacities are equal.
    """
    # Histogram of opacities.
    strides = [slice(None, None, max(1, length // POINTS_PER_AXIS)) for length in grid.shape]
    opacity = _opacity(grid[tuple(strides)], step)
    low, high = (bound.item() for bound in opacity.aminmax())
    if not high > low:
        problem = f"{_range(grid)} has the same opacity everywhere, so there is no surface"
        raise NoSurfaceError("threshold", problem=problem)
    counts = torch.histc(opacity, HISTOGRAM_BINS, low, high).double()
    edges = torch.linspace(low, high, HISTOGRAM_BINS + 1, dtype=torch.float64)

    # Variance between the two sides of each inner edge, from the share and the first moment below it.
    below = (counts / counts.sum()).cumsum(0)[:-1]
    moment = (counts / counts.sum() * (edges[1:] + edges[:-1]) / 2).cumsum(0)
    between = (moment[-1] * below - moment[:-1]) ** 2 / (below * (1 - below)).clamp_min(1e-12)

    # Between two clusters all levels are equally good: take the middle. Then invert `_opacity`.
    level = edges[1:-1][between == between.max()].mean()
    return (1 + torch.log(torch.expm1(-torch.log1p(-level) / step))).item()


def visible_threshold(grid: Tensor, spacing: float, default: float) -> float:
    """Find the raw density of the surface that rays show.

    Density rises over a distance, and a ray shows the depth where half of its light is absorbed. At any lower level the
    mesh is thicker than the rendered object. Rays run along the three axes, in both directions.

    Args:
        grid: X,Y,Z raw densities on a cube.
        spacing: distance of neighboring points, world units.
        default: returned if no ray is nearly opaque, or nothing is denser than what rays show.
    """
    # Transverse axes are subsampled, the axis of the rays is not.
    strides = [slice(None, None, max(1, length // POINTS_PER_AXIS)) for length in grid.shape]
    levels = []
    for axis in range(3):
        rays = grid[tuple(slice(None) if i == axis else strides[i] for i in range(3))].movedim(axis, 0)  # L,U,V
        for sigma in (rays, rays.flip(0)):
            # First point behind which less than half of the light is left; the surface is no border of the cube.
            depth = (F.softplus(sigma - 1) * spacing).cumsum(0)  # optical depth
            first = (depth > math.log(2)).to(torch.uint8).argmax(0)  # U,V
            is_surface = (first > 0) & (depth[-1] > -math.log(1 - OPAQUE))
            levels.append(sigma.gather(0, first[None])[0][is_surface])

    # A level set needs points on both sides.
    shown = torch.cat(levels)
    level = torch.quantile(shown, SURFACE_QUANTILE).item() if len(shown) else math.inf
    return level if level < grid.max().item() else default


def _opacity(sigma: Tensor, step: float) -> Tensor:
    """Return the opacity of a step through raw density (any shape), as in compositing."""
    return -torch.expm1(-F.softplus(sigma - 1) * step)


def _range(grid: Tensor) -> str:
    low, high = grid.aminmax()
    return f"the density ({low.item():.4g} to {high.item():.4g}, mean {grid.mean().item():.4g})"


# --------------------------------------------------------------------------- level set


def level_set(grid: Tensor, box_warp: float, threshold: float, closed: bool = False) -> Mesh:
    """Extract the surface where a density grid crosses a threshold, by marching cubes.

    Args:
        grid: X,Y,Z float32; the first and the last point of an axis lie on the faces of the cube.
        box_warp: side of the cube, world units.
        threshold: raw density; solid is above it.
        closed: the grid has one more layer of EMPTY all around, which closes the surface along the cube's faces; else
            it is open where the cube cuts the scene.
    Raises:
        NoSurfaceError: the grid does not cross the threshold. A closed grid that is solid throughout gives the cube.
    """
    from skimage.measure import marching_cubes

    # A closed grid is tested without its added layer, but may be solid throughout: its surface is then the cube.
    inside = grid[1:-1, 1:-1, 1:-1] if closed else grid
    low, high = (bound.item() for bound in inside.aminmax())
    if not low < threshold < high and not (closed and low >= threshold):
        side = "below" if high <= threshold else "above"
        problem = f"{_range(inside)} lies wholly {side} the threshold {threshold:g}, so there is no surface"
        raise NoSurfaceError("threshold", problem=problem, hint="try `threshold` auto")

    # "ascent" orients the faces counter-clockwise seen from outside, where solid is above the threshold.
    vertices, faces, _, _ = marching_cubes(grid.numpy(), threshold, gradient_direction="ascent")

    # Grid indices to world units; the added layer lies outside the cube and is moved onto its faces.
    spacing = box_warp / (len(inside) - 1)
    vertices = ((vertices - int(closed)) * spacing - box_warp / 2).clip(-box_warp / 2, box_warp / 2)
    return Mesh(vertices.astype(np.float32), faces.astype(np.int64), None, float(threshold), box_warp)


# --------------------------------------------------------------------------- cleaning up


def clean_up(mesh: Mesh, largest: bool = False, smooth: int = 0) -> Mesh:
    """Remove small components and smooth a mesh.

    Args:
        mesh: the mesh, which stays unchanged.
        largest: keep only the connected component with the most triangles.
        smooth: rounds of smoothing, each of which moves vertices by a fraction of a grid step. Stops before the volume
            changes by more than MAX_VOLUME_CHANGE, which is meaningful for closed meshes only. Vertices stay in the
            cube.
    """
    if largest:
        mesh = mesh.select(_in_largest_component(mesh.faces))
    if not smooth:
        return mesh

    # Alternate both steps until a round would change the volume too much.
    neighbors = _neighbors(mesh.faces, len(mesh.vertices))  # K,K
    count = np.maximum(neighbors.sum(axis=1), 1)  # K,1
    volume = mesh.volume
    half = mesh.box_warp / 2
    for _ in range(smooth):
        # Towards the mean of the neighbors, and away from it.
        vertices = mesh.vertices
        for step in (SHRINK, EXPAND):
            vertices = vertices + step * (np.asarray(neighbors @ vertices / count) - vertices)

        moved = replace(mesh, vertices=vertices.clip(-half, half).astype(np.float32))
        if abs(moved.volume - volume) > MAX_VOLUME_CHANGE * abs(volume):
            break
        mesh = replace(moved, smoothed=mesh.smoothed + 1)
    return mesh


def _neighbors(faces: np.ndarray, count: int) -> sparse.csr_matrix:
    """Return the adjacency matrix (count,count) of the vertices of faces M,3."""
    from scipy import sparse

    # Booleans, since an edge inside the mesh belongs to two faces but counts once.
    edges = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)  # 3M,2
    directed = sparse.csr_matrix((np.ones(len(edges), bool), edges.T), shape=(count, count))
    return (directed + directed.T).astype(np.float32)


def _in_largest_component(faces: np.ndarray) -> np.ndarray:
    """Return which faces (M bool, of M,3) belong to the connected component with the most faces."""
    from scipy.sparse.csgraph import connected_components

    # All vertices of a face are in one component, so that the first one decides.
    _, component = connected_components(_neighbors(faces, faces.max() + 1), directed=False)  # by vertex
    by_face = component[faces[:, 0]]
    return by_face == np.bincount(by_face).argmax()
