"""Sphere tracing (Hart 1996) of one object: antialiased color, exact part ids, depth and normals at pixel centers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dataset_preprocessing.toy.scene import Scene
from dataset_preprocessing.toy.sdf import Array, length, unit

# Sphere tracing.
# Most rays need 15 steps; rays along an outline need nearly all.
MAX_STEPS = 72

# A ray has hit at this distance (world units). A pixel of a 512-pixel cat is 1.2e-3 wide.
HIT_DISTANCE = 3e-4

# After this many steps, rays without a hit advance by at least MIN_STRIDE (world units).
GRAZING_STEPS = 24
MIN_STRIDE = 1.5e-3

# Steps between removing finished rays, which copies the arrays of the others.
COMPACT_INTERVAL = 3

# Antialiasing: rays per side of a pixel on an edge.
SUBPIXELS = 3

# Difference between neighbors (display values in [0, 1]) that marks an edge.
EDGE_CONTRAST = 0.06

# The additional rays of a pixel start this much (world units) before the depth around it.
START_MARGIN = 0.03

# Shading.
AMBIENT_LIGHT = 0.42
LAMP_LIGHT = 0.95
SHADOW_SHARPNESS = 9.0
DISPLAY_GAMMA = 2.2


@dataclass(frozen=True)
class Rendering:
    """Image of an object with its geometry.

    Attributes:
        image: uint8 R,R,3.
        parts: uint8 R,R, part ids at pixel centers, 0 background.
        depth: float32 R,R, distance along the unit ray through the pixel center, world units; 0 background.
        normals: float32 R,R,3 at pixel centers; 0 background.
    """

    image: np.ndarray
    parts: np.ndarray
    depth: np.ndarray
    normals: np.ndarray


@dataclass(frozen=True)
class _RayHits:
    """First hits of M rays; all 0 but the color where a ray misses."""

    depth: Array  # M
    parts: Array  # M, uint8
    normals: Array  # 3,M
    color: Array  # 3,M display values in [0, 1]


def render(scene: Scene, pose: Array, resolution: int) -> Rendering:
    """Render a scene from a pose (25 numbers) at R,R pixels: one ray per pixel, SUBPIXELS**2 rays on edges."""
    # One ray through each pixel center.
    size = (resolution, resolution)
    centers = np.indices(size, np.float32).reshape(2, -1) + 0.5  # 2,R*R
    hits = _trace_and_shade(scene, *pixel_rays(pose, centers, resolution))
    color = hits.color.copy()

    # Replace the color of edge pixels by the mean of a grid of rays.
    # Only these pixels: nine rays for every pixel would take nine times as long.
    edge = np.flatnonzero(_edge_pixels(hits.parts.reshape(1, *size), hits.color.reshape(3, *size)))
    if len(edge):
        grid = (np.indices((SUBPIXELS, SUBPIXELS), np.float32).reshape(2, 1, -1) + 0.5) / SUBPIXELS - 0.5
        rays = pixel_rays(pose, (centers[:, edge, None] + grid).reshape(2, -1), resolution)
        start = _start_depth(hits.depth.reshape(size)).ravel()[edge].repeat(SUBPIXELS**2)
        color[:, edge] = _trace_and_shade(scene, *rays, start).color.reshape(3, len(edge), -1).mean(2)

    return Rendering(
        image=(color * 255).round().astype(np.uint8).T.reshape(*size, 3),
        parts=hits.parts.reshape(size),
        depth=hits.depth.reshape(size),
        normals=hits.normals.T.reshape(*size, 3),
    )


def pixel_rays(pose: Array, pixels: Array, resolution: int) -> tuple[Array, Array]:
    """Return the origin 3 and unit directions 3,M of rays through points 2,M of the image (row, column in pixels)."""
    # Pixels to the camera's plane z = 1, then to the world.
    cam2world = pose[:16].reshape(4, 4)
    intrinsics = pose[16:].reshape(3, 3)
    uv1 = np.concatenate([pixels[::-1] / resolution, np.ones((1, pixels.shape[1]), np.float32)])  # 3,M
    return cam2world[:3, 3], unit(cam2world[:3, :3] @ np.linalg.inv(intrinsics) @ uv1)


# --------------------------------------------------------------------------- antialiasing


def _edge_pixels(parts: Array, color: Array) -> Array:
    """Mark pixels R,R with a 4-neighbor of another part (1,R,R) or a clearly different color (3,R,R)."""
    edge = np.zeros(parts.shape[1:], bool)

    # Neighbors in the next row, then in the next column.
    for axis in (1, 2):
        part_rows = parts.swapaxes(1, axis)
        color_rows = color.swapaxes(1, axis)
        change = (part_rows[:, 1:] != part_rows[:, :-1]).any(0)
        change |= (np.abs(color_rows[:, 1:] - color_rows[:, :-1]) > EDGE_CONTRAST).any(0)

        # Both neighbors are on the edge.
        edge_view = edge.swapaxes(0, axis - 1)
        edge_view[1:] |= change
        edge_view[:-1] |= change
    return edge


def _start_depth(depth: Array) -> Array:
    """Return a depth R,R shortly before the nearest hit in the 3x3 pixels around each pixel; 0 without a hit."""
    # Infinity, a neutral element of the minimum, in place of misses and outside the image.
    padded = np.pad(np.where(depth > 0, depth, np.float32(np.inf)), 1, constant_values=np.inf)
    nearest = np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).min((2, 3))
    return np.where(np.isfinite(nearest), nearest - START_MARGIN, 0)


# --------------------------------------------------------------------------- rays


def _trace_and_shade(scene: Scene, origin: Array, directions: Array, start: Array | None = None) -> _RayHits:
    """Trace rays from `origin` 3 along `directions` 3,M."""
    # Rays that miss show the background.
    depth = trace(scene, origin, directions, start)
    parts = np.zeros(len(depth), np.uint8)
    normals = np.zeros_like(directions)
    linear = scene.background(directions)  # 3,M linear light

    # Rays that hit show the object; K of them.
    hit = np.flatnonzero(depth)
    if len(hit):
        hit_directions = directions.take(hit, axis=1)
        points = origin[:, None] + depth[hit] * hit_directions
        hit_normals = _normals(scene, points)
        normals[:, hit] = hit_normals
        parts[hit] = scene.parts(points)
        linear[:, hit] = _shade(scene, points, hit_normals, parts[hit], hit_directions)
    return _RayHits(depth, parts, normals, np.clip(linear, 0, 1) ** (1 / DISPLAY_GAMMA))


def trace(scene: Scene, origin: Array, directions: Array, start: Array | None = None) -> Array:
    """Sphere-trace rays to the surface.

    Args:
        scene: object to hit.
        origin: 3, world units.
        directions: 3,M unit vectors.
        start: M, depth at which tracing starts; None starts at the bounding box.
    Returns:
        M depth along the rays, 0 where they miss.
    """
    near, far = _box_intersection(scene.half_size, origin, directions)
    depth = np.zeros(directions.shape[1], np.float32)

    # Active rays; take() instead of [:, i] keeps rows contiguous, which makes distances four times as fast.
    rays = np.flatnonzero(near < far)
    t = near[rays]
    end = far[rays]
    ray_directions = directions.take(rays, axis=1)
    if start is not None:
        t = np.maximum(t, start[rays])

    for step in range(1, MAX_STEPS + 1):
        if not len(rays):
            break
        # No surface is nearer than the distance, so a ray can step by it. Rays that graze a surface would take ever
        # smaller steps.
        distance = scene.distance(origin[:, None] + t * ray_directions)
        is_grazing = (step > GRAZING_STEPS) & (distance > HIT_DISTANCE)
        t = t + np.where(is_grazing, np.maximum(distance, MIN_STRIDE), distance)

        # Store hits and keep the rays that are still inside the box.
        if step % COMPACT_INTERVAL == 0 or step == MAX_STEPS:
            is_hit = np.abs(distance) < HIT_DISTANCE
            depth[rays[is_hit]] = t[is_hit]
            active = np.flatnonzero(~is_hit & (t < end))
            rays = rays[active]
            t = t[active]
            end = end[active]
            ray_directions = ray_directions.take(active, axis=1)
    return depth


def _box_intersection(half_size: Array, origin: Array, directions: Array) -> tuple[Array, Array]:
    """Return depths M, M at which rays enter and leave the box about the origin; entry >= exit where they miss it."""
    # A ray crosses the two planes of axis i at depths (-origin_i -+ half_size_i) / direction_i. It is inside the box
    # while it is between the planes of every axis.
    slope = 1 / np.where(directions == 0, np.float32(1e-20), directions)
    middle = -origin[:, None] * slope
    reach = half_size[:, None] * np.abs(slope)
    return (middle - reach).max(0), (middle + reach).min(0)


def _normals(scene: Scene, points: Array, offset: float = 6e-4) -> Array:
    """Return unit gradients 3,M of the distance from the corners of a tetrahedron (Quilez, "Normals for an SDF")."""
    # The sum of corner * distance over the four corners is proportional to the gradient: four evaluations, not six.
    corners = np.array([[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]], np.float32)
    return unit(sum(corner[:, None] * scene.distance(points + offset * corner[:, None]) for corner in corners))


# --------------------------------------------------------------------------- shading


def _shade(scene: Scene, points: Array, normals: Array, parts: Array, directions: Array) -> Array:
    """Return linear color 3,M: sky with ambient occlusion, a lamp with soft shadow, specular light, velvet."""
    surface = scene.surface(points, normals, parts)

    # Lambertian light of the lamp; shadow rays start off the surface, which they would hit at once.
    lit = np.maximum(scene.light @ normals, 0)
    facing = np.flatnonzero(lit)
    lit[facing] *= _soft_shadow(scene, (points + 4e-3 * normals).take(facing, axis=1))

    # Sky: brighter from above, darker in cavities, and light through the fur's outline.
    sky = (0.72 + 0.28 * normals[1]) * _ambient_occlusion(scene, points, normals)
    outline = scene.velvet * np.clip(1 + (normals * directions).sum(0), 0, 1) ** 3
    light = AMBIENT_LIGHT * sky + LAMP_LIGHT * lit + outline * sky

    # Specular highlight (Blinn 1977).
    half_way = scene.light[:, None] - directions
    specular = surface.gloss * np.maximum((normals * half_way).sum(0) / length(half_way), 0) ** 40
    return surface.albedo * light + specular * (0.25 + 0.75 * (lit > 0))


def _ambient_occlusion(scene: Scene, points: Array, normals: Array) -> Array:
    """Return M in [0, 1], 1 if unoccluded, from distances along the normal (Evans 2006)."""
    # In the open, the distance at a point above the surface is its height; less means that something is beside it.
    blocked = np.zeros(points.shape[1], np.float32)
    for reach, weight in ((0.015, 0.9), (0.05, 0.6)):
        distance = scene.distance(points + reach * normals)
        blocked += weight / reach * np.maximum(reach - distance, 0)
    return np.clip(1 - 0.6 * blocked, 0.15, 1)


def _soft_shadow(scene: Scene, points: Array, steps: int = 7) -> Array:
    """Return M in [0, 1], 1 if fully lit; penumbra from the nearest miss on the way to the lamp (Quilez 2010)."""
    # distance / t is the angle by which the ray misses an obstacle; a large lamp is partly covered by a near miss.
    visibility = np.ones(points.shape[1], np.float32)
    t = np.full(points.shape[1], 0.012, np.float32)
    for _ in range(steps):
        distance = scene.distance(points + t * scene.light[:, None])
        visibility = np.minimum(visibility, SHADOW_SHARPNESS * distance / t)
        t = t + np.clip(distance, 0.015, 0.1)
    return np.clip(visibility, 0, 1)
