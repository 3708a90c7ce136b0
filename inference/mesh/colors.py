"""Vertex colors of a mesh: labels or image, at the vertex itself or as a rendered view shows it there."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.data.label_maps import colorize, to_uint8
from training.networks.decoders import RGB_CHANNELS
from training.networks.generator import FEATURES, TriPlane
from training.networks.triplane_field import TriplaneField
from training.volumetric_rendering.compositing import sample_weights

# Points evaluated at a time: their hidden activations fit a CPU's cache.
POINTS_PER_CHUNK = 2**14
# A rendered pixel blends what lies beneath the surface: samples along the inward ray.
INWARD_SAMPLES = 24
# Length of the inward ray, as a share of the cube's side.
INWARD_SHARE = 0.25


@torch.inference_mode()
def color_chunks(
    G: TriPlane,
    field: TriplaneField,
    vertices: np.ndarray,
    normals: np.ndarray,
    color: str,
    without: int | None = None,
    cameras: Tensor | None = None,
) -> Iterator[np.ndarray]:
    """Compute vertex colors chunk by chunk.

    Args:
        G: the generator.
        field: its scene.
        vertices: K,3 float32, world units.
        normals: K,3 float32.
        color: one of VERTEX_COLORS; like `without` and `cameras`, see `extraction_steps`.
    Yields:
        Colors of the next vertices, n,3 uint8.
    """
    # Label channels start after the color features, of which the first three are the raw image.
    size = POINTS_PER_CHUNK if color == "label" else POINTS_PER_CHUNK // INWARD_SAMPLES
    channels = slice(RGB_CHANNELS) if color == "image" else slice(FEATURES, FEATURES + G.semantic_channels)
    point_chunks = torch.from_numpy(vertices).split(size)
    normal_chunks = torch.from_numpy(normals).split(size)
    for points, outwards in zip(point_chunks, normal_chunks, strict=True):
        # Features of the vertices, K,S or K,3.
        if color == "label":
            values = labels_at(field, points, G.semantic_channels)
        else:
            # Blending happens along a ray: from the usual cameras if they are known, else along the normal.
            if cameras is not None:
                outwards = _directions_to_cameras(cameras.cpu(), points, outwards)
            values = _blended_features(field, points, outwards, channels)

        # Features to colors.
        if color == "image" or G.data_type == "edge":
            yield to_uint8(values * 2 - 1).expand(-1, 3).numpy()
            continue
        # Near the cut, the removed class may still have the largest logit.
        if without is not None:
            values[:, without] = -torch.inf
        yield colorize(values.argmax(1).numpy())


def labels_at(field: TriplaneField, points: Tensor, classes: int) -> Tensor:
    """Evaluate the label channels (K,S, on the CPU) of the field at points K,3."""
    chunks = points.split(POINTS_PER_CHUNK)
    return torch.cat([field.labels(chunk[None].to(field.planes.device))[0, :, :classes].cpu() for chunk in chunks])


def _directions_to_cameras(cameras: Tensor, vertices: Tensor, normals: Tensor) -> Tensor:
    """Return unit vectors (K,3) to the camera (of N,3) that each vertex (K,3) faces most directly, else its normal."""
    directions = F.normalize(cameras[:, None] - vertices, dim=2)  # N,K,3
    cosine, camera = (directions * normals).sum(2).max(0)  # K, K

    # Vertices that face away from all cameras have no positive cosine.
    return torch.where((cosine > 0)[:, None], directions[camera, torch.arange(len(vertices))], normals)


def _blended_features(field: TriplaneField, vertices: Tensor, outwards: Tensor, channels: slice) -> Tensor:
    """Render features (K,F, on the CPU) along rays that enter the surface at vertices K,3 from directions K,3.

    Density rises gradually: a ray goes on through the level set, and a rendered view shows what lies beneath it. The
    result is normalized by the ray's total weight.
    """
    # Samples along the rays.
    device = field.planes.device
    depths = torch.linspace(0, INWARD_SHARE * field.box_warp, INWARD_SAMPLES, device=device)  # T
    points = vertices.to(device)[:, None] - outwards.to(device)[:, None] * depths[:, None]  # K,T,3
    parts, sigma = field.deferred_features(points.view(1, -1, 3))

    # Weights of the samples; a ray through empty space shows the surface itself.
    weights = sample_weights(sigma.view(1, len(vertices), -1), depths.expand(1, len(vertices), -1))  # 1,K,T
    weights[..., 0] += torch.finfo(weights.dtype).tiny
    weights = (weights / weights.sum(-1, keepdim=True))[..., None]  # 1,K,T,1

    # The decoder's last layer is linear, so it is applied after blending.
    blended = [(part.unflatten(1, weights.shape[1:3]) * weights).sum(2) for part in parts]  # 1,K,F each
    return field.finish_features(blended, torch.ones_like(blended[0][..., :1]))[0, :, channels].cpu()
