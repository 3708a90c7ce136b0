"""Triangle meshes of level sets of the density, with colours, and the files that hold them.

World units are the network's own: the scene fills a cube of side box_warp about the origin. x points to the right of
somebody who looks at the scene from the front, y up, z at them (right-handed, as in glTF).
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dnnlib.util import whole_file
from training.decoders import RGB_CHANNELS
from training.density_grid import density_grid
from training.fields import TriplaneField
from training.label_maps import colourise, to_uint8
from training.triplane import FEATURES, TriPlane

if TYPE_CHECKING:  # an extra: imported where they are used
    import trimesh
    from scipy import sparse

LIBRARIES = ("scipy", "skimage", "trimesh")
PUBLISHED_THRESHOLD = 50.0
COLOURS = ("label", "image")
POINTS_PER_PIECE = 2**18  # vertices that are coloured at a time
HISTOGRAM_BINS = 1024
POINTS_PER_AXIS = 128  # that the histogram looks at: two million are plenty for a distribution
AIR_GAP = 1e4  # density ranges between matter and the air that closes it; the surface is off by 1/AIR_GAP grid steps
# Steps of smoothing that shrink and swell in turn, so that the volume stays (Taubin 1995, A signal processing
# approach to fair surface design); these let pass what is larger than about ten triangles.
SHRINK, SWELL = 0.5, -0.53


class NoSurface(ValueError):
    """The density does not cross the threshold anywhere."""


@dataclass(frozen=True)
class Mesh:
    """Triangles, counter-clockwise seen from outside.

    Args:
        vertices: K,3 float32 world units. faces: M,3 int64.
        colours: K,3 uint8, or None.
        threshold: raw density of the level set. box_warp: side of the cube it was looked for in, world units.
    """

    vertices: np.ndarray
    faces: np.ndarray
    colours: np.ndarray | None
    threshold: float
    box_warp: float

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
        colours = None if self.colours is None else self.colours[used]
        return replace(self, vertices=self.vertices[used], faces=numbers.reshape(-1, 3), colours=colours)


def check_libraries() -> None:
    """ValueError unless the libraries that meshes need are installed."""
    for name in LIBRARIES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ValueError(f"meshes need {name}, which is not installed; pip install pix2pix3d[mesh]") from error


# --------------------------------------------------------------------------- from a network


@torch.inference_mode()
def extract_mesh(
    G: TriPlane,
    planes: Tensor,
    resolution: int = 512,
    threshold: float | str = PUBLISHED_THRESHOLD,
    colour: str | None = "label",
    largest: bool = False,
    closed: bool = False,
    smooth: int = 0,
    without: int | None = None,
    on_slabs: Callable[[int], object] | None = None,
) -> Mesh:
    """The surface of the scene that planes hold.

    Args:
        planes: 1,3,C,H,W of `G.planes`.
        resolution: points of the density grid on a side, 2 or more.
        threshold: raw density, or "auto": see `auto_threshold`.
        colour: of vertices: "label" (palette colour of the largest label channel, grey for edges), "image" (the raw
            image's colour there) or None.
        largest, closed, smooth: see `surface`.
        without: class whose faces are left out (networks of classes only), such as a modelled background's, 0.
        on_slabs: see `density_grid`.
    Raises:
        NoSurface: nothing lies above the threshold, or everything does, or nothing is left.
        ValueError: an argument outside what is said here.
    """
    if colour not in (None, *COLOURS):
        raise ValueError(f"colour: expected {', '.join(COLOURS)} or None, got {colour!r}")
    if without is not None and not (G.data_type == "seg" and 0 <= without < G.semantic_channels):
        raise ValueError(f"without: expected a class of the network, got {without}")
    field = G.field(planes)
    grid = density_grid(field, resolution, on_slabs)
    if threshold == "auto":
        threshold = auto_threshold(grid, field.box_warp / G.ray_options().samples)
    mesh = surface(grid, field.box_warp, threshold, largest and without is None, closed, smooth)
    if without is not None:
        labels = _values(G, field, mesh.vertices, _labels_of(G)).argmax(1).numpy()
        mesh = mesh.part((labels[mesh.faces] != without).all(axis=1))
        if not len(mesh.faces):
            raise NoSurface(f"the surface at {threshold:g} is all of class {without}, so nothing is left")
        mesh = mesh.part(_in_largest_piece(mesh.faces)) if largest else mesh
    return mesh if colour is None else replace(mesh, colours=_colours(G, field, mesh.vertices, colour))


def _colours(G: TriPlane, field: TriplaneField, vertices: np.ndarray, colour: str) -> np.ndarray:
    """K,3 uint8."""
    values = _values(G, field, vertices, slice(RGB_CHANNELS) if colour == "image" else _labels_of(G))
    if colour == "label" and G.data_type == "seg":
        return colourise(values.argmax(1).numpy())
    return to_uint8(values * 2 - 1).expand(-1, 3).numpy()


def _labels_of(G: TriPlane) -> slice:
    return slice(FEATURES, FEATURES + G.semantic_channels)


def _values(G: TriPlane, field: TriplaneField, vertices: np.ndarray, channels: slice) -> Tensor:
    """K,C features of the field at vertices, on the CPU."""
    pieces = torch.from_numpy(vertices).split(POINTS_PER_PIECE)
    return torch.cat([field(points[None].to(field.planes.device))[0][0, :, channels].cpu() for points in pieces])


# --------------------------------------------------------------------------- from a density grid


def auto_threshold(grid: Tensor, step: float) -> float:
    """The raw density that parts a scene into air and matter best, by its own distribution.

    Otsu's method (1979): of the opacities that the densities give to one step of a ray, the level for which the
    variance between its two sides is largest. Opacity is bounded, so that a few huge densities do not count for more.

    Args:
        grid: raw densities of any shape; of a long axis, some. step: length of a step of a ray, world units.
    Raises:
        NoSurface: all opacities are the same.
    """
    strides = [slice(None, None, max(1, length // POINTS_PER_AXIS)) for length in grid.shape]
    opacity = _opacity(grid[tuple(strides)], step)
    low, high = (edge.item() for edge in opacity.aminmax())
    if not high > low:
        raise NoSurface(f"{_range(grid)} is all of one opacity, so there is no surface; give a threshold")
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


def surface(
    grid: Tensor, box_warp: float, threshold: float, largest: bool = False, closed: bool = False, smooth: int = 0
) -> Mesh:
    """Where a density grid crosses a threshold (marching cubes), matter above it.

    Args:
        grid: R,R,R float32, axes x, y, z; the first and the last point of an axis lie on the faces of the cube.
        box_warp: side of the cube, world units.
        largest: keep only the connected piece with the most triangles.
        closed: close the surface along the cube's faces where matter reaches them (this copies the grid); else it is
            open there.
        smooth: rounds of smoothing; a vertex moves by a fraction of a grid step.
    Raises:
        NoSurface: the grid lies wholly on one side of the threshold.
    """
    from skimage.measure import marching_cubes

    low, high = (edge.item() for edge in grid.aminmax())
    if not low < threshold < high and not (closed and low >= threshold):
        side = "below" if high <= threshold else "above"
        raise NoSurface(f"{_range(grid)} lies wholly {side} the threshold {threshold:g}, so there is no surface")
    spacing, first = box_warp / (len(grid) - 1), 0
    if closed:
        # The air around is so thin that the surface between it and any matter lies on the cube's face.
        grid, first = F.pad(grid, (1,) * 6, value=threshold - AIR_GAP * (high - low + 1)), 1
    vertices, faces, _, _ = marching_cubes(grid.numpy(), threshold, gradient_direction="ascent")
    vertices = (vertices - first) * spacing - box_warp / 2
    vertices = vertices.clip(-box_warp / 2, box_warp / 2)
    mesh = Mesh(vertices.astype(np.float32), faces.astype(np.int64), None, float(threshold), box_warp)
    mesh = mesh.part(_in_largest_piece(mesh.faces)) if largest else mesh
    return replace(mesh, vertices=_smoothed(mesh.vertices, mesh.faces, smooth)) if smooth else mesh


def _neighbours(faces: np.ndarray, count: int) -> sparse.csr_matrix:
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

    _, piece = connected_components(_neighbours(faces, faces.max() + 1), directed=False)
    by_face = piece[faces[:, 0]]
    return by_face == np.bincount(by_face).argmax()


def _smoothed(vertices: np.ndarray, faces: np.ndarray, rounds: int) -> np.ndarray:
    matrix = _neighbours(faces, len(vertices))
    count = np.maximum(matrix.sum(axis=1), 1)
    for step in [SHRINK, SWELL] * rounds:
        vertices = vertices + step * (np.asarray(matrix @ vertices / count) - vertices)
    return vertices.astype(np.float32)


# --------------------------------------------------------------------------- files


def write_mesh(mesh: Mesh, path: str | os.PathLike[str]) -> None:
    """Write a mesh as its name's ending says; scale and axes stand in a PLY or OBJ comment or in a GLB's extras.

    Raises:
        OSError: it cannot be written; nothing is left then.
        ValueError: another ending than .ply, .obj or .glb.
    """
    import trimesh

    path = Path(path)
    if path.suffix not in ENCODERS:
        raise ValueError(f"{path}: expected a name that ends in {', '.join(ENCODERS)}")
    solid = trimesh.Trimesh(mesh.vertices, mesh.faces, vertex_colors=mesh.colours, process=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write(ENCODERS[path.suffix](solid, mesh.description))


def _ply(solid: trimesh.Trimesh, description: str) -> bytes:
    from trimesh.exchange.ply import export_ply

    content = export_ply(solid, vertex_normal=False)
    intro = b"format binary_little_endian 1.0\n"
    return content.replace(intro, intro + f"comment {description}\n".encode(), 1)


def _obj(solid: trimesh.Trimesh, description: str) -> bytes:
    from trimesh.exchange.obj import export_obj

    return export_obj(solid, include_normals=False, header=description).encode()


def _glb(solid: trimesh.Trimesh, description: str) -> bytes:
    from trimesh.exchange.gltf import export_glb

    def describe(tree: dict) -> None:
        tree["asset"]["extras"] = {"description": description}

    return export_glb(solid.scene(), include_normals=True, tree_postprocessor=describe)


ENCODERS = {".ply": _ply, ".obj": _obj, ".glb": _glb}
