"""Images of a mesh from a moving camera, off-screen: by OpenGL where it is available, else by a z-buffer in numpy.

The projection is orthographic. The light is at the camera, and both sides of a face are lit by the cosine of its angle
to the light. OpenGL takes four samples per pixel, the z-buffer one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator

import numpy as np
from torch import Tensor

from camera_utils import CAMERAS, CARS, CATS, FACES, path_poses, split_pose
from dnnlib.choices import PATH_FRAMES
from inference.mesh.triangles import Mesh

# Brightness of a face that is seen edge-on.
AMBIENT = 0.25
# Gray of the background.
BACKGROUND = 255
# Gray of a mesh without colors.
PLAIN_GRAY = 200
# Samples per pixel in OpenGL.
SAMPLES = 4
# Size of a video, pixels.
SIZE = 512
# Largest number of vertices from which the size of an image is computed.
SIZING_VERTICES = 20_000
# Width of an image relative to that of the mesh.
MARGIN = 1.05
# Pairs of a triangle and a pixel in its bounding box that are tested at a time.
CANDIDATES_PER_CHUNK = 2**20


# Cameras of the published mesh videos: radius of their path in world units (with the pivot it sets the direction), and
# half the width of the image as a share of the scene's cube.
ORBIT_VIEWS = {CATS: (1.0, 0.3), FACES: (1.0, 0.3), CARS: (1.2, 0.375)}


def orbit_frames(
    mesh: Mesh,
    cfg: str,
    pivot: tuple[float, float, float] | None = None,
    frames: int = PATH_FRAMES,
    notify: Callable[[str], object] = warnings.warn,
) -> Generator[np.ndarray, None, None]:
    """Render a video of a mesh on the published orbit; close the generator if it is not used to the end.

    Args:
        mesh: K vertices, M faces.
        cfg: its cameras, a key of CAMERAS.
        pivot: where the network's own cameras look, None for that of `cfg`.
        frames: number of frames.
        notify: called with a message where there is no OpenGL.
    Yields:
        SIZE,SIZE,3 uint8.
    """
    # The published camera, and a wider image where the mesh needs it.
    radius, half_width_share = ORBIT_VIEWS[CAMERAS[cfg]]
    poses = path_poses("orbit", CAMERAS[cfg], frames, radius, pivot)
    half_width = max(half_width_share * mesh.box_warp, fitting_half_width(mesh, poses))

    # OpenGL is faster by far, but needs a driver.
    problem = gl_problem()
    if problem:
        notify(f"No off-screen OpenGL ({problem}): numpy renders the video of the mesh, which takes longer.")
    return render_mesh(mesh, poses, SIZE, half_width, impl="plain" if problem else "gl")


def fitting_half_width(mesh: Mesh, poses: Tensor) -> float:
    """Return half the width, world units, of the smallest images from poses F,25 that show the whole mesh."""
    # A sample of the vertices is enough: the margin covers the others.
    cameras = split_pose(poses)[0].cpu().double().numpy()[:, :3, :4]  # columns: right, down, forward, position
    vertices = mesh.vertices[:: max(1, len(mesh.vertices) // SIZING_VERTICES)]
    reach = max(abs((vertices - pose[:, 3]) @ pose[:, :2]).max() for pose in cameras)
    return float(reach) * MARGIN


def render_mesh(
    mesh: Mesh, poses: Tensor, size: int, half_width: float, impl: str = "gl"
) -> Generator[np.ndarray, None, None]:
    """Render a mesh from each pose; close the generator if it is not used to the end.

    Args:
        mesh: K vertices, M faces.
        poses: F,25; the intrinsics are ignored.
        size: pixels on a side.
        half_width: of the image, world units.
        impl: "gl", or "plain" for the z-buffer.
    Yields:
        size,size,3 uint8.
    Raises:
        ValueError: another `impl`.
        Exception: of moderngl, where there is no OpenGL; see `gl_problem`.
    """
    if impl not in _RENDERERS:
        raise ValueError(f"impl: expected {' or '.join(_RENDERERS)}, got {impl!r}")
    cam2world = split_pose(poses)[0].cpu().double().numpy()  # F,4,4
    return _RENDERERS[impl](mesh, cam2world, size, half_width)


def _vertex_colors(mesh: Mesh) -> np.ndarray:
    """Return the vertex colors (K,3 uint8), gray for a mesh without."""
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
    """Return why off-screen OpenGL is not available, in a few words, or None if it is."""
    try:
        import moderngl  # an optional dependency

        moderngl.create_standalone_context(backend="egl").release()
    except Exception as error:  # of many types, from the loader, the driver and moderngl
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    return None


def _render_gl(mesh: Mesh, cam2world: np.ndarray, size: int, half_width: float) -> Generator[np.ndarray, None, None]:
    import moderngl

    context = moderngl.create_standalone_context(backend="egl")
    try:
        # Upload the mesh.
        context.enable(moderngl.DEPTH_TEST)
        program = context.program(VERTEX_SHADER, FRAGMENT_SHADER)
        # Four bytes for each color: OpenGL prefers attributes that are aligned to four.
        opaque = np.full((len(mesh.vertices), 1), 255, np.uint8)
        colors = np.concatenate([_vertex_colors(mesh), opaque], axis=1)
        content = [
            (context.buffer(mesh.vertices.tobytes()), "3f", "vertex"),
            (context.buffer(mesh.normals().tobytes()), "3f", "normal"),
            (context.buffer(colors.tobytes()), "4f1", "color"),
        ]
        triangles = context.vertex_array(program, content, context.buffer(mesh.faces.astype(np.uint32).tobytes()))

        # Several samples per pixel are rendered and then resolved into a second framebuffer.
        multisampled = context.simple_framebuffer((size, size), components=3, samples=min(SAMPLES, context.max_samples))
        resolved = context.simple_framebuffer((size, size), components=3)
        program["half_width"] = half_width
        program["ambient"] = AMBIENT
        program["depth_range"] = float(np.linalg.norm(mesh.vertices, axis=1).max()) * 1.01  # includes all vertices

        # One image per camera.
        for camera in cam2world:
            program["axes"] = tuple(camera[:3, :3].ravel())  # world to camera; OpenGL stores columns
            program["position"] = tuple(camera[:3, 3])
            multisampled.use()
            multisampled.clear(*[BACKGROUND / 255] * 3)
            triangles.render()
            context.copy_framebuffer(resolved, multisampled)
            image = np.frombuffer(resolved.read(components=3, alignment=1), np.uint8)
            yield image.reshape(size, size, 3)[::-1].copy()  # OpenGL's first row is at the bottom
    finally:
        context.release()


# --------------------------------------------------------------------------- z-buffer


def _render_plain(mesh: Mesh, cam2world: np.ndarray, size: int, half_width: float) -> Generator[np.ndarray, None, None]:
    normals = mesh.normals()
    colors = _vertex_colors(mesh)
    for camera in cam2world:
        # Project.
        axes = camera[:3, :3].T
        seen = (mesh.vertices - camera[:3, 3]) @ axes.T  # K,3 right, down, forward
        pixels = (seen[:, :2] / half_width + 1) * (size / 2)  # K,2; the center of the first pixel is at 0.5
        face, shares = _visible_faces(pixels[mesh.faces], seen[:, 2][mesh.faces], size)

        # Shade the n pixels that show a face.
        hit = face >= 0
        corners = mesh.faces[face[hit]]  # n,3
        shares = shares[hit][..., None]  # n,3,1
        normal = (normals[corners] * shares).sum(1)
        cosine = abs(normal @ axes[2]) / np.maximum(np.linalg.norm(normal, axis=1), 1e-12)
        color = (colors[corners] * shares).sum(1) * (AMBIENT + (1 - AMBIENT) * cosine)[:, None]

        image = np.full((size * size, 3), BACKGROUND, np.uint8)
        image[hit] = (color + 0.5).astype(np.uint8)
        yield image.reshape(size, size, 3)


def _visible_faces(corners: np.ndarray, depths: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest face at each pixel center.

    Args:
        corners: M,3,2 pixels.
        depths: M,3 of the corners.
        size: pixels on a side of the image; P = size * size.
    Returns:
        Face of each pixel (P int64, -1 for none), and barycentric coordinates in it (P,3 float32).
    """
    # Bounding boxes: the pixels whose centers lie in them.
    first = np.ceil(corners.min(1) - 0.5).clip(0, size).astype(np.int64)  # M,2
    beyond = np.floor(corners.max(1) + 0.5).clip(0, size).astype(np.int64)
    width, height = (beyond - first).clip(min=0).T

    # Edges from the first corner; twice the signed area is 0 for faces seen exactly edge-on, which are left out.
    a = corners[:, 0]
    ab = corners[:, 1] - a  # M,2
    ac = corners[:, 2] - a
    area = _cross(ab, ac)  # M
    counts = np.where(area != 0, width * height, 0)

    # Test faces in chunks of bounded memory; a face with many pixels is not split.
    nearest = np.full(size * size, np.inf, np.float32)
    face = np.full(size * size, -1)
    shares = np.zeros((size * size, 3), np.float32)
    faces = counts.nonzero()[0]
    chunk_numbers = np.cumsum(counts[faces]) // CANDIDATES_PER_CHUNK
    for chunk in np.split(faces, np.diff(chunk_numbers).nonzero()[0] + 1):
        # All pixels of all boxes, each with the face that it belongs to.
        owner = np.repeat(chunk, counts[chunk])  # n
        ends = np.cumsum(counts[chunk])
        y, x = np.divmod(np.arange(len(owner)) - np.repeat(ends - counts[chunk], counts[chunk]), width[owner])
        pixel = first[owner] + np.stack([x, y], axis=1)  # n,2

        # Those that lie inside the triangle, by their barycentric coordinates (shares).
        to_pixel = pixel + 0.5 - a[owner]
        share_b = _cross(to_pixel, ac[owner]) / area[owner]
        share_c = _cross(ab[owner], to_pixel) / area[owner]
        share = np.stack([1 - share_b - share_c, share_b, share_c], axis=1).astype(np.float32)  # n,3
        inside = (share >= 0).all(1)
        owner = owner[inside]
        share = share[inside]
        pixel = pixel[inside] @ [1, size]  # numbers of the pixels

        # Depth test.
        depth = (depths[owner] * share).sum(1, dtype=np.float32)
        np.minimum.at(nearest, pixel, depth)
        front = depth == nearest[pixel]
        face[pixel[front]] = owner[front]
        shares[pixel[front]] = share[front]
    return face, shares


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return z of the cross product of vectors n,2."""
    return u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]


_RENDERERS = {"gl": _render_gl, "plain": _render_plain}
