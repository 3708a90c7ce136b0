"""Triangle meshes and their PLY, OBJ and GLB files.

World units are the network's own: the scene fills a cube of side box_warp about the origin. x points to the right of
somebody who looks at the scene from the front, y up, z towards them (right-handed, as in glTF).
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dnnlib.util import atomic_write

if TYPE_CHECKING:  # an optional dependency: imported where it is used
    import trimesh

LIBRARIES = ("scipy", "skimage", "trimesh")
# Transfer function of sRGB (IEC 61966-2-1).
SRGB_LINEAR_BELOW = 0.04045
SRGB_OFFSET = 0.055
SRGB_POWER = 2.4


def check_libraries() -> None:
    """Check that the optional dependencies of meshes are installed.

    Raises:
        ValueError: one is missing.
    """
    for name in LIBRARIES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ValueError(f'meshes need {name}, which cannot be imported; pip install -e ".[mesh]"') from error


@dataclass(frozen=True)
class Mesh:
    """Triangle mesh of a level set of the density; faces are counter-clockwise seen from outside.

    Args:
        vertices: K,3 float32, world units.
        faces: M,3 int64 vertex numbers.
        colors: K,3 uint8 sRGB, or None.
        threshold: raw density of the level set.
        box_warp: side of the cube that was searched, world units.
        smoothed: rounds of smoothing that were applied.
    """

    vertices: np.ndarray
    faces: np.ndarray
    colors: np.ndarray | None
    threshold: float
    box_warp: float
    smoothed: int = 0

    @property
    def volume(self) -> float:
        """Volume in cubic world units, of a closed mesh."""
        # Sum of the signed tetrahedra between the faces and the origin; float64, since most of it cancels.
        a, b, c = self.vertices[self.faces].astype(np.float64).transpose(1, 0, 2)
        return float((a * np.cross(b, c)).sum() / 6)

    @property
    def description(self) -> str:
        """Scale and axes in one line, for the headers of files."""
        return (
            f"pix2pix3d mesh: world units of the network, scene in a cube of side {self.box_warp:g} about the origin; "
            f"x right seen from the front, y up, z towards the viewer; density threshold {self.threshold:g}"
        )

    def normals(self) -> np.ndarray:
        """Return unit vertex normals (K,3 float32): the area-weighted mean of the adjacent faces, pointing outwards."""
        # The length of the cross product is twice the area.
        corners = self.vertices[self.faces]  # M,3,3
        face_normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])  # M,3

        # Sum over the faces of each vertex. bincount is faster than np.add.at.
        ends = self.faces.ravel()  # 3M
        sums = [np.bincount(ends, np.repeat(face_normals[:, i], 3), minlength=len(self.vertices)) for i in range(3)]
        normals = np.stack(sums, axis=1)  # K,3

        # Vertices without a face, or whose faces cancel, get zero.
        length = np.linalg.norm(normals, axis=1, keepdims=True)
        return (normals / np.maximum(length, np.finfo(np.float32).tiny)).astype(np.float32)

    def select(self, kept: np.ndarray) -> Mesh:
        """Return the faces for which `kept` (M bool) is true, with their vertices."""
        # Numbers of the vertices change, their order does not.
        used, numbers = np.unique(self.faces[kept], return_inverse=True)
        colors = None if self.colors is None else self.colors[used]
        return replace(self, vertices=self.vertices[used], faces=numbers.reshape(-1, 3), colors=colors)

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write a file; scale and axes are recorded in a PLY or OBJ comment or in the GLB's extras.

        Args:
            path: ends in .ply, .obj or .glb.
        Raises:
            OSError: the file cannot be written; no incomplete file is left.
            ValueError: another suffix.
        """
        path = Path(path)
        # The suffix determines the format; the directory is created only if it is valid.
        if path.suffix not in MESH_WRITERS:
            raise ValueError(f"path: got {path}, expected a name that ends in {', '.join(MESH_WRITERS)}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(MESH_WRITERS[path.suffix](self))


# --------------------------------------------------------------------------- file formats


def _to_trimesh(mesh: Mesh, colors: np.ndarray | None) -> trimesh.Trimesh:
    import trimesh

    # Processing would merge equal vertices and so renumber them.
    return trimesh.Trimesh(mesh.vertices, mesh.faces, vertex_colors=colors, process=False)


def _ply(mesh: Mesh) -> bytes:
    from trimesh.exchange.ply import export_ply

    # trimesh writes no comments, so the description is inserted after the line of the format.
    content = export_ply(_to_trimesh(mesh, mesh.colors), vertex_normal=False)
    intro = b"format binary_little_endian 1.0\n"
    return content.replace(intro, intro + f"comment {mesh.description}\n".encode(), 1)


def _obj(mesh: Mesh) -> bytes:
    from trimesh.exchange.obj import export_obj

    return export_obj(_to_trimesh(mesh, mesh.colors), include_normals=False, header=mesh.description).encode()


def linear_from_srgb(colors: np.ndarray) -> np.ndarray:
    """Convert sRGB colors (uint8, any shape) to linear light (float32 in [0, 1])."""
    # A power law, with a straight line near black.
    values = colors.astype(np.float32) / 255
    curved = ((values + SRGB_OFFSET) / (1 + SRGB_OFFSET)) ** SRGB_POWER
    return np.where(values <= SRGB_LINEAR_BELOW, values / 12.92, curved).astype(np.float32)


def _glb(mesh: Mesh) -> bytes:
    from trimesh.exchange.gltf import export_glb

    # glTF's vertex colors are linear, but trimesh would write our sRGB bytes unchanged. Write linear colors as a custom
    # attribute instead, which is renamed to COLOR_0 below.
    solid = _to_trimesh(mesh, None)
    if mesh.colors is not None:
        solid.vertex_attributes["color"] = np.pad(linear_from_srgb(mesh.colors), ((0, 0), (0, 1)), constant_values=1)

    # trimesh's default material is metallic and shows front faces only.
    def complete(tree: dict) -> None:
        tree["asset"]["extras"] = {"description": mesh.description}
        matte = {"metallicFactor": 0.0, "roughnessFactor": 1.0}
        tree["materials"] = [{"pbrMetallicRoughness": matte, "doubleSided": True}]
        (primitive,) = tree["meshes"][0]["primitives"]
        primitive["material"] = 0
        if mesh.colors is not None:  # trimesh prefixes custom attributes with an underscore
            primitive["attributes"]["COLOR_0"] = primitive["attributes"].pop("_color")

    return export_glb(solid.scene(), include_normals=True, tree_postprocessor=complete)


MESH_WRITERS = {".ply": _ply, ".obj": _obj, ".glb": _glb}
