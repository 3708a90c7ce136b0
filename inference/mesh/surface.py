"""Triangle meshes of level sets of the density.

World units are the network's own: the scene fills a cube of side box_warp about the origin. x points to the right of
somebody who looks at the scene from the front, y up, z at them (right-handed, as in glTF).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from inference.mesh.colors import COLORS, color_pieces, labels_at
from inference.mesh.density_grid import AIR, density_grid
from training.networks.generator import TriPlane
from training.networks.triplane_field import TriplaneField

if TYPE_CHECKING:  # an extra: imported where they are used
    from scipy import sparse

LIBRARIES = ("scipy", "skimage", "trimesh")
PUBLISHED_THRESHOLD = 50.0
HISTOGRAM_BINS = 1024
POINTS_PER_AXIS = 128  # that the histogram looks at: two million are plenty for a distribution
# Steps of smoothing that shrink and swell in turn, so that the volume stays (Taubin 1995, A signal processing
# approach to fair surface design); these let pass what is larger than about ten triangles.
SHRINK, SWELL = 0.5, -0.53
MOST_VOLUME_CHANGE = 0.01  # of smoothing, as a share of the volume


class NoSurfaceError(ValueError):
    """The density does not cross the threshold anywhere."""


class EmptyMeshError(NoSurfaceError):
    """All that lies above the threshold is of the class that was left out."""


@dataclass(frozen=True)
class Mesh:
    """Triangles, counter-clockwise seen from outside.

    Args:
        vertices: K,3 float32 world units. faces: M,3 int64.
        colors: K,3 uint8, or None.
        threshold: raw density of the level set. box_warp: side of the cube it was looked for in, world units.
        smoothed: rounds of smoothing that were made.
    """

    vertices: np.ndarray
    faces: np.ndarray
    colors: np.ndarray | None
    threshold: float
    box_warp: float
    smoothed: int = 0

    @property
    def volume(self) -> float:
        """World units cubed, of a closed mesh."""
        a, b, c = self.vertices[self.faces].astype(np.float64).transpose(1, 0, 2)
        return float((a * np.cross(b, c)).sum() / 6)

    @property
    def description(self) -> str:
        """Scale and axes in one line, for the files' headers."""
        return (
            f"pix2pix3d mesh: world units of the network, scene in a cube of side {self.box_warp:g} about the origin; "
            f"x right seen from the front, y up, z towards the viewer; density threshold {self.threshold:g}"
        )

    def normals(self) -> np.ndarray:
        """K,3 float32 unit vectors outwards: the mean of the faces about a vertex, by their area."""
        corners = self.vertices[self.faces]  # M,3,3
        by_face = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        ends = self.faces.ravel()
        total = [np.bincount(ends, np.repeat(by_face[:, i], 3), minlength=len(self.vertices)) for i in range(3)]
        normals = np.stack(total, axis=1)
        length = np.linalg.norm(normals, axis=1, keepdims=True)
        return (normals / np.maximum(length, np.finfo(np.float32).tiny)).astype(np.float32)

    def part(self, kept: np.ndarray) -> Mesh:
        """The faces that `kept`, M bool, is true for, and their vertices."""
        used, numbers = np.unique(self.faces[kept], return_inverse=True)
        colors = None if self.colors is None else self.colors[used]
        return replace(self, vertices=self.vertices[used], faces=numbers.reshape(-1, 3), colors=colors)


def check_libraries() -> None:
    """ValueError unless the libraries that meshes need are installed."""
    for name in LIBRARIES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ValueError(f'meshes need {name}, which is not installed; pip install -e ".[mesh]"') from error


# --------------------------------------------------------------------------- from a network


@torch.inference_mode()
def extract_mesh(
    G: TriPlane,
    planes: Tensor,
    resolution: int = 512,
    threshold: float | str = PUBLISHED_THRESHOLD,
    color: str | None = "label",
    largest: bool = False,
    closed: bool = False,
    smooth: int = 0,
    without: int | None = None,
    on_slabs: Callable[[int], object] | None = None,
    grid: Tensor | None = None,
    cameras: Tensor | None = None,
) -> Mesh:
    """The surface of the scene that planes hold.

    Args:
        planes: 1,3,C,H,W of `G.planes`.
        resolution: points of the density grid on a side, 2 or more.
        threshold: raw density, or "auto": see `auto_threshold`.
        color: of vertices: "label" (palette color of the largest label channel at that very point, gray for
            edges), "shown_label" (of what a ray blends that goes inwards from there, as in the model's label map),
            "image" (the color of the raw image, blended so too) or None.
        largest, smooth: see `finished`.
        closed: see `surface`.
        without: class whose matter is taken for air (networks of classes only), such as a modeled background's, 0.
        on_slabs: see `density_grid`.
        grid: what `density_grid` gave for these planes, in place of `resolution` and `on_slabs`. What is changed about
            it (closed, without) is changed in a copy.
        cameras: P,3 positions from which the model is usually seen, for shown_label and image: a vertex has the color
            that the one which it faces most directly sees there. None, and where it faces none: a camera right over it.
    Raises:
        NoSurfaceError: nothing lies above the threshold, or everything does, or nothing is left.
        ValueError: an argument outside what is said here.
    """
    if color not in (None, *COLORS):
        raise ValueError(f"color: expected {', '.join(COLORS)} or None, got {color!r}")
    if without is not None and not (G.data_type == "seg" and 0 <= without < G.semantic_channels):
        raise ValueError(f"without: expected a class of the network, got {without}")
    field = G.field(planes)
    if grid is None:
        grid = density_grid(field, resolution, on_slabs, closed)
    elif closed:
        grid = F.pad(grid, (1,) * 6, value=AIR)
    elif without is not None:
        grid = grid.clone()
    inside = grid[1:-1, 1:-1, 1:-1] if closed else grid
    if threshold == "auto":
        threshold = auto_threshold(inside, field.box_warp / G.ray_options().samples)
    if without is not None:
        _turn_to_air(inside, field, threshold, G.semantic_channels, without)
    mesh = surface(grid, field.box_warp, threshold, closed)
    del grid, inside  # half a gigabyte at resolution 512
    mesh = finished(mesh, largest, smooth)
    if color is None:
        return mesh
    pieces = color_pieces(G, field, mesh.vertices, mesh.normals(), color, without, cameras)
    return replace(mesh, colors=np.concatenate(list(pieces)))


def _turn_to_air(grid: Tensor, field: TriplaneField, threshold: float, classes: int, label: int) -> None:
    """Lower the density, in place, where a class has the largest label channel.

    Down to the threshold where the class draws level with another one, and by the grid's whole range for each step of
    the logits beyond: so that the cut runs between the grid's points, and the rest of the surface stays where it is.
    """
    low, high = (edge.item() for edge in grid.aminmax())
    line = torch.linspace(-field.box_warp / 2, field.box_warp / 2, len(grid))
    left = False
    for x, slab in zip(line, grid, strict=True):
        y, z = (slab > threshold).nonzero(as_tuple=True)
        logits = labels_at(field, torch.stack([x.expand(len(y)), line[y], line[z]], dim=1), classes)
        own = logits[:, label].clone()
        logits[:, label] = -torch.inf
        lead = logits.amax(1) - own
        slab[y, z] = torch.minimum(slab[y, z], threshold + (high - low) * lead)
        left = left or bool((lead > 0).any())
    if high > threshold and not left:
        raise EmptyMeshError(f"what lies above {threshold:g} is all of class {label}, so nothing is left")


# --------------------------------------------------------------------------- from a density grid


def auto_threshold(grid: Tensor, step: float) -> float:
    """The raw density that parts a scene into air and matter best, by its own distribution.

    Otsu's method (1979): of the opacities that the densities give to one step of a ray, the level for which the
    variance between its two sides is largest. Opacity is bounded, so that a few huge densities do not count for more.

    Args:
        grid: raw densities of any shape; of a long axis, some. step: length of a step of a ray, world units.
    Raises:
        NoSurfaceError: all opacities are the same.
    """
    strides = [slice(None, None, max(1, length // POINTS_PER_AXIS)) for length in grid.shape]
    opacity = _opacity(grid[tuple(strides)], step)
    low, high = (edge.item() for edge in opacity.aminmax())
    if not high > low:
        raise NoSurfaceError(f"{_range(grid)} is all of one opacity, so there is no surface; give a threshold")
    counts = torch.histc(opacity, HISTOGRAM_BINS, low, high).double()
    edges = torch.linspace(low, high, HISTOGRAM_BINS + 1, dtype=torch.float64)
    below = (counts / counts.sum()).cumsum(0)[:-1]  # share of the grid under each inner edge
    moment = (counts / counts.sum() * (edges[1:] + edges[:-1]) / 2).cumsum(0)
    between = (moment[-1] * below - moment[:-1]) ** 2 / (below * (1 - below)).clamp_min(1e-12)
    level = edges[1:-1][between == between.max()].mean()  # between two clusters all levels are as good: the middle
    return (1 + torch.log(torch.expm1(-torch.log1p(-level) / step))).item()


def _opacity(sigma: Tensor, step: float) -> Tensor:
    """Share of the light that a step through this raw density takes away, as in compositing."""
    return -torch.expm1(-F.softplus(sigma - 1) * step)


def _range(grid: Tensor) -> str:
    low, high = grid.aminmax()
    return f"the density ({low.item():.4g} to {high.item():.4g}, mean {grid.mean().item():.4g})"


def surface(grid: Tensor, box_warp: float, threshold: float, closed: bool = False) -> Mesh:
    """Where a density grid crosses a threshold (marching cubes), matter above it.

    Args:
        grid: R,R,R float32, axes x, y, z; the first and the last point of an axis lie on the faces of the cube.
        box_warp: side of the cube, world units.
        closed: the grid has one more layer of AIR all around (`density_grid` makes it so), which closes the surface
            along the cube's faces where matter reaches them; else it is open there.
    Raises:
        NoSurfaceError: the grid lies wholly on one side of the threshold.
    """
    from skimage.measure import marching_cubes

    first = int(closed)
    inside = grid[1:-1, 1:-1, 1:-1] if closed else grid
    low, high = (edge.item() for edge in inside.aminmax())
    if not low < threshold < high and not (closed and low >= threshold):
        side = "below" if high <= threshold else "above"
        raise NoSurfaceError(f"{_range(inside)} lies wholly {side} the threshold {threshold:g}, so there is no surface")
    vertices, faces, _, _ = marching_cubes(grid.numpy(), threshold, gradient_direction="ascent")
    spacing = box_warp / (len(inside) - 1)
    vertices = ((vertices - first) * spacing - box_warp / 2).clip(-box_warp / 2, box_warp / 2)
    return Mesh(vertices.astype(np.float32), faces.astype(np.int64), None, float(threshold), box_warp)


def finished(mesh: Mesh, largest: bool = False, smooth: int = 0) -> Mesh:
    """A surface cleaned up.

    Args:
        largest: keep only the connected piece with the most triangles.
        smooth: rounds of smoothing, in each of which a vertex moves by a fraction of a grid step; fewer where the
            volume would change by more than MOST_VOLUME_CHANGE, which is a bound for closed meshes only: an open one
            has no volume of its own, and what is measured depends on where it is open. Nothing leaves the cube.
    """
    mesh = mesh.part(_in_largest_piece(mesh.faces)) if largest else mesh
    if not smooth:
        return mesh
    matrix = _neighbors(mesh.faces, len(mesh.vertices))
    count = np.maximum(matrix.sum(axis=1), 1)
    volume, half = mesh.volume, mesh.box_warp / 2
    for _ in range(smooth):
        vertices = mesh.vertices
        for step in (SHRINK, SWELL):
            vertices = vertices + step * (np.asarray(matrix @ vertices / count) - vertices)
        moved = replace(mesh, vertices=vertices.clip(-half, half).astype(np.float32))
        if abs(moved.volume - volume) > MOST_VOLUME_CHANGE * abs(volume):
            break
        mesh = replace(moved, smoothed=mesh.smoothed + 1)
    return mesh


def _neighbors(faces: np.ndarray, count: int) -> sparse.csr_matrix:
    """count,count: 1 where two vertices share an edge."""
    from scipy import sparse

    start, end = faces[:, [0, 1, 2]].ravel(), faces[:, [1, 2, 0]].ravel()
    ones = np.ones(2 * len(start), np.float32)
    matrix = sparse.csr_matrix((ones, (np.append(start, end), np.append(end, start))), shape=(count, count))
    matrix.data[:] = 1  # an edge inside the mesh belongs to two faces
    return matrix


def _in_largest_piece(faces: np.ndarray) -> np.ndarray:
    """M bool: faces of the connected piece that has the most."""
    from scipy.sparse.csgraph import connected_components

    _, piece = connected_components(_neighbors(faces, faces.max() + 1), directed=False)
    by_face = piece[faces[:, 0]]
    return by_face == np.bincount(by_face).argmax()
