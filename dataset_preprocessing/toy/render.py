"""Sphere tracing (Hart 1996) of one object: color with smooth edges, exact part ids and depth at pixel centers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dataset_preprocessing.toy.scene import Scene
from dataset_preprocessing.toy.sdf import Array, length, unit

STEPS = 72  # most rays need 15; those along an outline need nearly all
PATIENCE, STRIDE = 24, 1.5e-3  # after so many steps rays outside go at least that far (world units): they graze
HIT = 3e-4  # world units; a pixel of a 512-pixel cat is 1.2e-3 wide
SHRINK_EVERY = 3  # steps between removing the rays that are done
HEAD_START = 0.03  # world units before the depth around a pixel, where its finer rays start
SUBPIXELS = 3  # rays per side of a pixel that lies on an edge
CONTRAST = 0.06  # difference between neighbors (display values in [0, 1]) from which a pixel gets more rays
SHADOW_SHARPNESS = 9.0
AMBIENT, KEY = 0.42, 0.95


@dataclass(frozen=True)
class Rendering:
    """One picture of an object.

    Attributes:
        image: uint8 R,R,3.
        parts: uint8 R,R, part ids at pixel centers, 0 background.
        depth: float32 R,R, distance along the unit ray through the pixel's center, world units; 0 background.
        normals: float32 R,R,3 at pixel centers; 0 background.
    """

    image: np.ndarray
    parts: np.ndarray
    depth: np.ndarray
    normals: np.ndarray


@dataclass(frozen=True)
class _Seen:
    """What M rays meet."""

    depth: Array  # M, 0 where they meet nothing
    parts: Array  # M, uint8
    normals: Array  # 3,M
    color: Array  # 3,M display values in [0, 1]


def render(scene: Scene, pose: Array, resolution: int) -> Rendering:
    """Picture of `scene` from a pose (25 numbers): one ray per pixel, more where neighbors differ."""
    size = (resolution, resolution)
    centers = np.indices(size, np.float32).reshape(2, -1) + 0.5
    seen = _look(scene, *pixel_rays(pose, centers, resolution))
    color = seen.color.copy()
    edge = np.flatnonzero(_differs(seen.parts.reshape(1, *size), seen.color.reshape(3, *size)))
    if len(edge):
        grid = (np.indices((SUBPIXELS, SUBPIXELS), np.float32).reshape(2, 1, -1) + 0.5) / SUBPIXELS - 0.5
        rays = pixel_rays(pose, (centers[:, edge, None] + grid).reshape(2, -1), resolution)
        start = _nearest_around(seen.depth.reshape(size)).ravel()[edge].repeat(SUBPIXELS**2)
        color[:, edge] = _look(scene, *rays, start).color.reshape(3, len(edge), -1).mean(2)
    return Rendering(
        image=(color * 255).round().astype(np.uint8).T.reshape(*size, 3),
        parts=seen.parts.reshape(size),
        depth=seen.depth.reshape(size),
        normals=seen.normals.T.reshape(*size, 3),
    )


def pixel_rays(pose: Array, pixels: Array, resolution: int) -> tuple[Array, Array]:
    """Origin 3 and unit directions 3,M of the rays through picture points 2,M (row, column; centers end in .5)."""
    cam2world, intrinsics = pose[:16].reshape(4, 4), pose[16:].reshape(3, 3)
    image = np.concatenate([pixels[::-1] / resolution, np.ones((1, pixels.shape[1]), np.float32)])  # u, v, 1
    return cam2world[:3, 3], unit(cam2world[:3, :3] @ np.linalg.inv(intrinsics) @ image)


def _differs(parts: Array, color: Array) -> Array:
    """R,R: pixels whose right, left, upper or lower neighbor shows another part or a clearly different color."""
    marked = np.zeros(parts.shape[1:], bool)
    for marked_rows, part_rows, color_rows in (
        (marked, parts, color),
        (marked.T, parts.swapaxes(1, 2), color.swapaxes(1, 2)),
    ):
        change = (part_rows[:, 1:] != part_rows[:, :-1]).any(0)
        change |= (np.abs(color_rows[:, 1:] - color_rows[:, :-1]) > CONTRAST).any(0)
        marked_rows[1:] |= change
        marked_rows[:-1] |= change
    return marked


def _nearest_around(depth: Array) -> Array:
    """R,R: depth at which rays near a pixel may start; a little before the nearest hit of the pixels around it."""
    padded = np.pad(np.where(depth > 0, depth, np.float32(np.inf)), 1, constant_values=np.inf)
    nearest = np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).min((2, 3))
    return np.where(np.isfinite(nearest), nearest - HEAD_START, 0)


def _look(scene: Scene, origin: Array, directions: Array, start: Array | None = None) -> _Seen:
    depth = trace(scene, origin, directions, start)
    hit = np.flatnonzero(depth)
    parts, normals = np.zeros(len(depth), np.uint8), np.zeros_like(directions)
    linear = scene.background(directions)
    if len(hit):
        towards = directions.take(hit, axis=1)
        points = origin[:, None] + depth[hit] * towards
        normals[:, hit] = found = _normals(scene, points)
        parts[hit] = scene.parts(points)
        linear[:, hit] = _shade(scene, points, found, parts[hit], towards)
    return _Seen(depth, parts, normals, np.clip(linear, 0, 1) ** (1 / 2.2))


def trace(scene: Scene, origin: Array, directions: Array, start: Array | None = None) -> Array:
    """Distance M along unit rays 3,M to the surface, 0 where they miss; nothing is looked for before `start` M."""
    near, far = _box(scene.half_size, origin, directions)
    depth = np.zeros(directions.shape[1], np.float32)
    # take() where [:, i] would do: it keeps rows contiguous, and distances come four times as quick
    rays = np.flatnonzero(near < far)
    t, end, towards = near[rays], far[rays], directions.take(rays, axis=1)
    if start is not None:
        t = np.maximum(t, start[rays])
    for step in range(1, STEPS + 1):
        if not len(rays):
            break
        distance = scene.distance(origin[:, None] + t * towards)
        hurried = (step > PATIENCE) & (distance > HIT)
        t = t + np.where(hurried, np.maximum(distance, STRIDE), distance)
        if step % SHRINK_EVERY == 0 or step == STEPS:
            near = np.abs(distance) < HIT
            depth[rays[near]] = t[near]
            going = np.flatnonzero(~near & (t < end))
            rays, t, end, towards = rays[going], t[going], end[going], towards.take(going, axis=1)
    return depth


def _box(half_size: Array, origin: Array, directions: Array) -> tuple[Array, Array]:
    """Where rays enter and leave the box about the origin; they miss it where the second is not larger."""
    slope = 1 / np.where(directions == 0, np.float32(1e-20), directions)
    middle, reach = -origin[:, None] * slope, half_size[:, None] * np.abs(slope)
    return (middle - reach).max(0), (middle + reach).min(0)


def _normals(scene: Scene, points: Array, width: float = 6e-4) -> Array:
    """Gradient 3,M of the distance from its values at the corners of a tetrahedron."""
    corners = np.array([[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]], np.float32)
    return unit(sum(corner[:, None] * scene.distance(points + width * corner[:, None]) for corner in corners))


def _shade(scene: Scene, points: Array, normals: Array, parts: Array, directions: Array) -> Array:
    """Linear color 3,M: sky light with cheap occlusion, one lamp with a soft shadow, gloss, an outline on fur."""
    looks = scene.surface(points, normals, parts)
    lit = np.maximum(scene.light @ normals, 0)
    facing = np.flatnonzero(lit)
    lit[facing] *= _soft_shadow(scene, (points + 4e-3 * normals).take(facing, axis=1))
    sky = (0.72 + 0.28 * normals[1]) * _openness(scene, points, normals)
    half_way = scene.light[:, None] - directions
    shine = looks.gloss * np.maximum((normals * half_way).sum(0) / length(half_way), 0) ** 40
    outline = scene.velvet * np.clip(1 + (normals * directions).sum(0), 0, 1) ** 3
    light = AMBIENT * sky + KEY * lit + outline * sky
    return looks.albedo * light + shine * (0.25 + 0.75 * (lit > 0))


def _openness(scene: Scene, points: Array, normals: Array) -> Array:
    """M in [0, 1]: how far away the next surface is along the normal (ambient occlusion, Evans 2006)."""
    blocked = np.zeros(points.shape[1], np.float32)
    for reach, weight in ((0.015, 0.9), (0.05, 0.6)):
        distance = scene.distance(points + reach * normals)
        blocked += weight / reach * np.maximum(reach - distance, 0)
    return np.clip(1 - 0.6 * blocked, 0.15, 1)


def _soft_shadow(scene: Scene, points: Array, steps: int = 7) -> Array:
    """M in [0, 1]: 1 where nothing comes near the way to the lamp (penumbra by the nearest miss, Quilez 2010)."""
    free = np.ones(points.shape[1], np.float32)
    t = np.full(points.shape[1], 0.012, np.float32)
    for _ in range(steps):
        distance = scene.distance(points + t * scene.light[:, None])
        free = np.minimum(free, SHADOW_SHARPNESS * distance / t)
        t = t + np.clip(distance, 0.015, 0.1)
    return np.clip(free, 0, 1)
