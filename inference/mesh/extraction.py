"""Triangle mesh of the scene in a generator's tri-planes."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnnlib.choices import PUBLISHED_THRESHOLD, VERTEX_COLORS
from dnnlib.errors import ConfigError
from inference.mesh.colors import color_chunks, labels_at
from inference.mesh.density_grid import EMPTY, density_slabs
from inference.mesh.surface import NoSurfaceError, clean_up, level_set, otsu_threshold, visible_threshold
from inference.mesh.triangles import Mesh
from training.networks.generator import TriPlane
from training.networks.triplane_field import TriplaneField

# Share of the density grid in the time of an extraction; most of the rest is spent on vertex colors.
DENSITY_SHARE = 0.25

# The background is as thick as its depth is uncertain: what is beyond this share of its radius belongs to it.
BACKGROUND_SHARE = 0.93

# Value of the rendering option plane_axes in published networks.
PUBLISHED_AXES = "published"


def extract_mesh(G: TriPlane, planes: Tensor, *args: Any, **options: Any) -> Mesh:
    """Extract the surface of a scene, planes 1,3,C,P,P, at once; arguments and errors as of `extraction_steps`."""
    return run_steps(extraction_steps(G, planes, *args, **options))


def run_steps(steps: Generator[float, None, Mesh], progress: Callable[[float], object] = lambda share: None) -> Mesh:
    """Run the steps of an extraction to the end, pass the share of each to `progress`, and return the mesh."""
    # A generator's return value is the value of StopIteration.
    try:
        while True:
            progress(next(steps))
    except StopIteration as end:
        return end.value


def network_options(G: TriPlane) -> dict[str, Any]:
    """Return the threshold, color, largest and without of `extraction_steps` that suit a network.

    Published networks get the published ones. Networks of this project's recipes have an option that no published one
    has; their densities are of another size, and those trained on label maps may model the background as solid.
    """
    is_seg = G.data_type == "seg"
    if G.ray_options().plane_axes == PUBLISHED_AXES:
        return {
            "threshold": PUBLISHED_THRESHOLD, "color": "label" if is_seg else None, "largest": False, "without": None
        }  # fmt: skip
    solid_background = is_seg and G.rendering_kwargs.get("background_radius") is not None
    return {
        "threshold": "auto", "color": "shown_label" if is_seg else "image", "largest": True,
        "without": 0 if solid_background else None,
    }  # fmt: skip


@torch.inference_mode()
def extraction_steps(
    G: TriPlane,
    planes: Tensor,
    resolution: int = 256,
    threshold: float | str = "auto",
    color: str | None = "label",
    largest: bool = False,
    closed: bool = False,
    smooth: int = 0,
    without: int | None = None,
    cameras: Tensor | None = None,
) -> Generator[float, None, Mesh]:
    """Extract the surface of a scene in short steps.

    Args:
        G: the generator.
        planes: 1,3,C,P,P of `G.planes`.
        resolution: points of the density grid on a side, 2 or more.
        threshold: raw density of the surface, or "auto": see `visible_threshold`.
        color: of the vertices: "label" (palette color of the largest label channel at that very point, gray for
            edges), "shown_label" (of what a ray blends that goes inwards from there, as in the model's label map),
            "image" (the color of the raw image, blended likewise) or None.
        largest: keep the largest connected component only.
        closed: make the mesh watertight where the cube cuts the scene.
        smooth: rounds of smoothing, see `clean_up`.
        without: class whose density is removed (networks of classes only), such as a modeled background's, 0.
        cameras: N,3 usual camera positions, for shown_label and image: a vertex has the color that is seen by the
            camera which it faces most directly. None, and where it faces none: by a camera right above it.
    Yields:
        Share of the work that is done, in [0, 1].
    Returns:
        The mesh, as the value of the generator (of `yield from`, or of StopIteration).
    Raises:
        NoSurfaceError: all of the density lies on one side of the threshold, or nothing is left.
        ConfigError: `resolution`, `threshold`, `color` or `without` is not available.
        ValueError: several scenes, or a density that is not finite.
    """
    _check_options(G, resolution, threshold, color, without)

    # Density grid; for a closed mesh with a layer of empty space around it.
    field = G.field(planes)
    grid = torch.full((resolution + 2,) * 3, EMPTY) if closed else torch.empty((resolution,) * 3)
    inside = grid[1:-1, 1:-1, 1:-1] if closed else grid  # resolution,resolution,resolution
    for part, slabs in density_slabs(field, resolution):
        inside[part] = slabs
        yield DENSITY_SHARE * part.stop / resolution

    # Surface: marching cubes is a single call, without progress.
    level = _prepare_level(inside, field, threshold, G, without)
    mesh = level_set(grid, field.box_warp, level, closed)
    del grid, inside  # half a gigabyte at resolution 512
    mesh = clean_up(mesh, largest, smooth)
    yield DENSITY_SHARE
    if color is None:
        return mesh

    # Vertex colors, chunk by chunk, so that the caller can show progress or stop.
    colors = np.empty(mesh.vertices.shape, np.uint8)
    colored = 0
    for chunk in color_chunks(G, field, mesh.vertices, mesh.normals(), color, without, cameras):
        colors[colored : colored + len(chunk)] = chunk
        colored += len(chunk)
        yield DENSITY_SHARE + (1 - DENSITY_SHARE) * colored / len(colors)
    return replace(mesh, colors=colors)


def _check_options(
    G: TriPlane, resolution: int, threshold: float | str, color: str | None, without: int | None
) -> None:
    if resolution < 2:
        raise ConfigError("resolution", resolution, "2 or more")
    if isinstance(threshold, str) and threshold != "auto":
        raise ConfigError("threshold", threshold, "a number or 'auto'")
    if color not in (None, *VERTEX_COLORS):
        raise ConfigError("color", color, f"{', '.join(VERTEX_COLORS)} or None")
    check_removed_class(G, without)


def check_removed_class(G: TriPlane, without: int | None) -> None:
    """Check a class that a mesh shall leave out; None for all of them.

    Raises:
        ConfigError: the generator has no such class.
    """
    if without is not None and not (G.data_type == "seg" and 0 <= without < G.semantic_channels):
        allowed = f"a class from 0 to {G.semantic_channels - 1}" if G.data_type == "seg" else "none for edges"
        raise ConfigError("without", without, allowed)


def _prepare_level(
    grid: Tensor, field: TriplaneField, threshold: float | str, G: TriPlane, without: int | None
) -> float:
    """Remove a class from the density in place (K,K,K points), and return the level of the surface of what is left."""
    # What is solid at all; one step of a ray is the box's side divided by the number of coarse samples.
    is_auto = threshold == "auto"
    level = otsu_threshold(grid, field.box_warp / G.ray_options().samples) if is_auto else threshold
    if without is not None:
        _remove_class(grid, field, level, G, without)
    return visible_threshold(grid, field.box_warp / (len(grid) - 1), default=level) if is_auto else level


def _remove_class(grid: Tensor, field: TriplaneField, threshold: float, G: TriPlane, label: int) -> None:
    """Lower the density in place (K,K,K points) where a class has the largest of the label channels.

    For the background, class 0, also near and beyond the sphere on which a network was trained to have it: what no ray
    has seen there has any label. The density becomes the threshold where the class ties with another one, and falls by
    the grid's whole range for each unit of the logits beyond, so that the cut runs between grid points and the rest of
    the surface stays in its place.
    """
    # Slab by slab: the logits of all solid points at once would take several times the grid's memory.
    low, high = (bound.item() for bound in grid.aminmax())
    line = torch.linspace(-field.box_warp / 2, field.box_warp / 2, len(grid))
    radius = G.rendering_kwargs.get("background_radius") if label == 0 else None
    anything_left = False
    for x, slab in zip(line, grid, strict=True):
        # Labels at the solid points of the slab.
        y, z = (slab > threshold).nonzero(as_tuple=True)  # K, K
        points = torch.stack([x.expand(len(y)), line[y], line[z]], dim=1)
        logits = labels_at(field, points, G.semantic_channels)  # K,S

        # How far the best other class is ahead: positive where the point stays, negative where it is removed.
        label_logits = logits[:, label].clone()
        logits[:, label] = -torch.inf
        lead = logits.amax(1) - label_logits  # K
        if radius is not None:
            inside = BACKGROUND_SHARE * radius * field.box_warp - points.norm(dim=1).to(lead)
            lead = torch.minimum(lead, inside / (line[1] - line[0]))
        slab[y, z] = torch.minimum(slab[y, z], threshold + (high - low) * lead)
        anything_left = anything_left or bool((lead > 0).any())

    if high > threshold and not anything_left:
        problem = f"all density above {threshold:g} belongs to class {label}, so nothing is left"
        raise NoSurfaceError("without", problem=problem)
