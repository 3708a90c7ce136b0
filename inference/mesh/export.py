"""Meshes to PLY, OBJ and GLB files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dnnlib.util import atomic_write
from inference.mesh.surface import Mesh

if TYPE_CHECKING:  # an extra: imported where it is used
    import trimesh

SRGB_LINEAR_BELOW, SRGB_OFFSET, SRGB_POWER = 0.04045, 0.055, 2.4  # IEC 61966-2-1


def write_mesh(mesh: Mesh, path: str | os.PathLike[str]) -> None:
    """Write a mesh as its name's ending says; scale and axes stand in a PLY or OBJ comment or in a GLB's extras.

    Raises:
        OSError: it cannot be written; nothing is left then.
        ValueError: another ending than .ply, .obj or .glb.
    """
    path = Path(path)
    if path.suffix not in MESH_WRITERS:
        raise ValueError(f"{path}: expected a name that ends in {', '.join(MESH_WRITERS)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(MESH_WRITERS[path.suffix](mesh))


def _solid(mesh: Mesh, colors: np.ndarray | None) -> trimesh.Trimesh:
    import trimesh

    return trimesh.Trimesh(mesh.vertices, mesh.faces, vertex_colors=colors, process=False)


def _ply(mesh: Mesh) -> bytes:
    from trimesh.exchange.ply import export_ply

    content = export_ply(_solid(mesh, mesh.colors), vertex_normal=False)
    intro = b"format binary_little_endian 1.0\n"
    return content.replace(intro, intro + f"comment {mesh.description}\n".encode(), 1)


def _obj(mesh: Mesh) -> bytes:
    from trimesh.exchange.obj import export_obj

    return export_obj(_solid(mesh, mesh.colors), include_normals=False, header=mesh.description).encode()


def linear_from_srgb(colors: np.ndarray) -> np.ndarray:
    """uint8 of pictures to float32 in [0, 1], proportional to light."""
    values = colors.astype(np.float32) / 255
    curved = ((values + SRGB_OFFSET) / (1 + SRGB_OFFSET)) ** SRGB_POWER
    return np.where(values <= SRGB_LINEAR_BELOW, values / 12.92, curved).astype(np.float32)


def _glb(mesh: Mesh) -> bytes:
    """glTF takes vertex colors as linear; trimesh writes those of a mesh as they are, so they go as an attribute."""
    from trimesh.exchange.gltf import export_glb

    solid = _solid(mesh, None)
    if mesh.colors is not None:
        solid.vertex_attributes["color"] = np.pad(linear_from_srgb(mesh.colors), ((0, 0), (0, 1)), constant_values=1)

    def complete(tree: dict) -> None:
        tree["asset"]["extras"] = {"description": mesh.description}
        matt = {"metallicFactor": 0.0, "roughnessFactor": 1.0}
        tree["materials"] = [{"pbrMetallicRoughness": matt, "doubleSided": True}]
        (primitive,) = tree["meshes"][0]["primitives"]
        primitive["material"] = 0
        if mesh.colors is not None:
            primitive["attributes"]["COLOR_0"] = primitive["attributes"].pop("_color")

    return export_glb(solid.scene(), include_normals=True, tree_postprocessor=complete)


MESH_WRITERS = {".ply": _ply, ".obj": _obj, ".glb": _glb}
