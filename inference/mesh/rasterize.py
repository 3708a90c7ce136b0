"""Pictures of a mesh from a moving camera, off-screen: by OpenGL where it is there, else by a z-buffer in numpy.

Orthographic; the light is at the camera and both sides of a face are lit by the cosine of its angle to it. The two
ways differ in that OpenGL takes four samples a pixel.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from camera_utils import split_pose
from inference.mesh.triangles import Mesh

AMBIENT = 0.25  # of a face that is seen edge-on
PAPER = 255  # gray of the background
PLAIN_GRAY = 200  # of a mesh without colors
SAMPLES = 4  # per pixel, in OpenGL
VERTICES_LOOKED_AT = 20_000  # for the size of a picture
MARGIN = 1.05  # of it
CANDIDATES_PER_PIECE = 2**20  # pairs of a triangle and a pixel in its bounding box that are tested at a time


@dataclass(frozen=True)
class FilmView:
    """From where a kind of scene is filmed.

    Args:
        radius: of the camera's path about the origin, world units; with the pivot it sets the direction.
        half_width: of what the picture shows, as a share of the scene's cube.
    """

    radius: float
    half_width: float


HEAD_VIEW = FilmView(radius=1.0, half_width=0.3)
FILM_VIEWS = {  # by camera, as the published script has them
    **dict.fromkeys(("afhq", "celeba", "ffhq"), HEAD_VIEW),
    "shapenet": FilmView(radius=1.2, half_width=0.375),
}


def half_width_of(mesh: Mesh, poses: Tensor) -> float:
    """Half the width, world units, of the smallest pictures from these poses (F,25) that show the whole mesh."""
    cameras = split_pose(poses)[0].cpu().double().numpy()[:, :3, :4]  # columns: right, down, forward, position
    few = mesh.vertices[:: max(1, len(mesh.vertices) // VERTICES_LOOKED_AT)]
    reach = max(abs((few - pose[:, 3]) @ pose[:, :2]).max() for pose in cameras)
    return float(reach) * MARGIN


class _Camera(NamedTuple):
    """world to picture: right, down and forward axes as rows, and the camera's position."""

    axes: np.ndarray  # 3,3
    position: np.ndarray  # 3


def render_mesh(
    mesh: Mesh, poses: Tensor, size: int, half_width: float, impl: str = "gl"
) -> Generator[np.ndarray, None, None]:
    """A mesh seen from each pose; whoever stops early closes the generator.

    Args:
        poses: F,25; the intrinsics do not matter.
        size: pixels on a side.
        half_width: of what the picture shows, world units.
        impl: "gl", or "plain" for the z-buffer.
    Yields:
        size,size,3 uint8.
    Raises:
        ValueError: another `impl`. What moderngl raises where there is no OpenGL: see `gl_problem`.
    """
    if impl not in _RENDERERS:
        raise ValueError(f"impl: expected {' or '.join(_RENDERERS)}, got {impl!r}")
    cam2world = split_pose(poses)[0].cpu().double().numpy()
    cameras = [_Camera(matrix[:3, :3].T, matrix[:3, 3]) for matrix in cam2world]
    return _RENDERERS[impl](mesh, cameras, size, half_width)


def _paint(mesh: Mesh) -> np.ndarray:
    """K,3 uint8."""
    return np.full(mesh.vertices.shape, PLAIN_GRAY, np.uint8) if mesh.colors is None else mesh.colors


# --------------------------------------------------------------------------- OpenGL

VERTEX_SHADER = """
#version 330
uniform mat3 axes; uniform vec3 position; uniform float half_width; uniform float depth_range;
in vec3 vertex; in vec3 normal; in vec4 color;
out vec3 seen_normal; out vec3 seen_color;
void main() {
    vec3 seen = axes * (vertex - position);  // right, down, forward
    float origin_depth = (axes * -position).z;
    gl_Position = vec4(seen.xy / half_width * vec2(1, -1), (seen.z - origin_depth) / depth_range, 1);
    seen_normal = axes * normal;
    seen_color = color.rgb;
}
"""
FRAGMENT_SHADER = """
#version 330
uniform float ambient;
in vec3 seen_normal; in vec3 seen_color;
out vec4 pixel;
void main() { pixel = vec4(seen_color * mix(abs(normalize(seen_normal).z), 1, ambient), 1); }
"""


def gl_problem() -> str | None:
    """Why there is no off-screen OpenGL here, in a few words; None if there is."""
    try:
        import moderngl  # here, for it is an extra

        moderngl.create_standalone_context(backend="egl").release()
    except Exception as error:  # of many kinds, from the loader, the driver and moderngl; the other way does as well
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    return None


def _render_gl(mesh: Mesh, cameras: list[_Camera], size: int, half_width: float) -> Generator[np.ndarray, None, None]:
    import moderngl

    context = moderngl.create_standalone_context(backend="egl")
    try:
        context.enable(moderngl.DEPTH_TEST)
        program = context.program(VERTEX_SHADER, FRAGMENT_SHADER)
        paint = np.concatenate([_paint(mesh), np.full((len(mesh.vertices), 1), PAPER, np.uint8)], axis=1)
        content = [
            (context.buffer(mesh.vertices.tobytes()), "3f", "vertex"),
            (context.buffer(mesh.normals().tobytes()), "3f", "normal"),
            (context.buffer(paint.tobytes()), "4f1", "color"),
        ]
        triangles = context.vertex_array(program, content, context.buffer(mesh.faces.astype(np.uint32).tobytes()))
        sampled = context.simple_framebuffer((size, size), components=3, samples=min(SAMPLES, context.max_samples))
        whole = context.simple_framebuffer((size, size), components=3)
        program["half_width"], program["ambient"] = half_width, AMBIENT
        program["depth_range"] = float(np.linalg.norm(mesh.vertices, axis=1).max()) * 1.01  # all lies inside it
        for camera in cameras:
            program["axes"] = tuple(camera.axes.T.ravel())  # OpenGL stores columns
            program["position"] = tuple(camera.position)
            sampled.use()
            sampled.clear(*[PAPER / 255] * 3)
            triangles.render()
            context.copy_framebuffer(whole, sampled)
            picture = np.frombuffer(whole.read(components=3, alignment=1), np.uint8)
            yield picture.reshape(size, size, 3)[::-1].copy()  # OpenGL begins at the bottom
    finally:
        context.release()


# --------------------------------------------------------------------------- z-buffer


def _render_plain(
    mesh: Mesh, cameras: list[_Camera], size: int, half_width: float
) -> Generator[np.ndarray, None, None]:
    normals, paint = mesh.normals(), _paint(mesh)
    for camera in cameras:
        seen = (mesh.vertices - camera.position) @ camera.axes.T  # K,3 right, down, forward
        places = (seen[:, :2] / half_width + 1) * (size / 2)  # pixels; the center of the first is at 0.5
        face, shares = _visible(places[mesh.faces], seen[:, 2][mesh.faces], size)
        hit = face >= 0
        corners, shares = mesh.faces[face[hit]], shares[hit][..., None]  # P,3 and P,3,1
        normal = (normals[corners] * shares).sum(1)
        cosine = abs(normal @ camera.axes[2]) / np.maximum(np.linalg.norm(normal, axis=1), 1e-12)
        color = (paint[corners] * shares).sum(1) * (AMBIENT + (1 - AMBIENT) * cosine)[:, None]
        picture = np.full((size * size, 3), PAPER, np.uint8)
        picture[hit] = (color + 0.5).astype(np.uint8)
        yield picture.reshape(size, size, 3)


def _visible(corners: np.ndarray, depths: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of size*size pixels the nearest face at its center (-1: none) and the shares of its corners P,3.

    Args:
        corners: M,3,2 pixels. depths: M,3.
    """
    first = np.ceil(corners.min(1) - 0.5).clip(0, size).astype(np.int64)  # pixels whose centers lie in the box
    beyond = np.floor(corners.max(1) + 0.5).clip(0, size).astype(np.int64)
    width, height = (beyond - first).clip(min=0).T
    a = corners[:, 0]
    ab, ac = corners[:, 1] - a, corners[:, 2] - a
    area = _cross(ab, ac)
    faces = ((width * height > 0) & (area != 0)).nonzero()[0]
    counts, first, width, ab, ac = (width * height)[faces], first[faces], width[faces], ab[faces], ac[faces]
    start = first + 0.5 - a[faces]
    # the shares of the second and the third corner at the box's first pixel, and how they grow along x and y
    shares_b = np.stack([_cross(start, ac), ac[:, 1], -ac[:, 0]], axis=1) / area[faces, None]
    shares_c = np.stack([_cross(ab, start), -ab[:, 1], ab[:, 0]], axis=1) / area[faces, None]
    slopes = np.concatenate([shares_b, shares_c], axis=1).astype(np.float32)  # the boxes are small: that is enough
    nearest, face = np.full(size * size, np.inf, np.float32), np.full(size * size, -1)
    shares = np.zeros((size * size, 3), np.float32)
    pieces = np.cumsum(counts) // CANDIDATES_PER_PIECE
    for piece in np.split(np.arange(len(faces)), np.diff(pieces).nonzero()[0] + 1):
        owner = np.repeat(piece, counts[piece])
        ends = np.cumsum(counts[piece])
        y, x = np.divmod(np.arange(len(owner)) - np.repeat(ends - counts[piece], counts[piece]), width[owner])
        b0, bx, by, c0, cx, cy = slopes[owner].T
        share_b, share_c = b0 + bx * x + by * y, c0 + cx * x + cy * y
        inside = ((share_b >= 0) & (share_c >= 0) & (share_b + share_c <= 1)).nonzero()[0]
        owner, share_b, share_c = owner[inside], share_b[inside], share_c[inside]
        share = np.stack([1 - share_b - share_c, share_b, share_c], axis=1).astype(np.float32)
        pixel = (first[owner, 1] + y[inside]) * size + first[owner, 0] + x[inside]
        owner = faces[owner]
        depth = (depths[owner] * share).sum(1, dtype=np.float32)
        np.minimum.at(nearest, pixel, depth)
        front = depth == nearest[pixel]
        face[pixel[front]], shares[pixel[front]] = owner[front], share[front]
    return face, shares


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """z of the cross product of vectors P,2."""
    return u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]


_RENDERERS = {"gl": _render_gl, "plain": _render_plain}
