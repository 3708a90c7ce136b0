"""Colors of a mesh's vertices: of the labels or the image, at a place or as a picture shows it there."""

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

COLORS = ("label", "shown_label", "image")
POINTS_PER_PIECE = 2**14  # that the field is evaluated at at a time: their hidden values stay in a CPU's cache
# What a picture shows at a place is a blend of what lies beneath the surface: so many samples, so far inwards.
INWARD_SAMPLES = 24
INWARD_SHARE = 0.25  # of the cube's side


@torch.inference_mode()
def color_pieces(
    G: TriPlane,
    field: TriplaneField,
    vertices: np.ndarray,
    normals: np.ndarray,
    color: str,
    without: int | None = None,
    cameras: Tensor | None = None,
) -> Iterator[np.ndarray]:
    """k,3 uint8 of the vertices K,3 with normals K,3, some at a time; the other arguments are `extract_mesh`'s."""
    rows = POINTS_PER_PIECE if color == "label" else POINTS_PER_PIECE // INWARD_SAMPLES
    channels = slice(RGB_CHANNELS) if color == "image" else slice(FEATURES, FEATURES + G.semantic_channels)
    for points, upwards in zip(
        torch.from_numpy(vertices).split(rows), torch.from_numpy(normals).split(rows), strict=True
    ):
        if color == "label":
            values = labels_at(field, points, G.semantic_channels)
        else:
            outwards = upwards if cameras is None else _towards(cameras.cpu(), points, upwards)
            values = _shown(field, points, outwards, channels)
        if color == "image" or G.data_type == "edge":
            yield to_uint8(values * 2 - 1).expand(-1, 3).numpy()
            continue
        if without is not None:
            values[:, without] = -torch.inf
        yield colorize(values.argmax(1).numpy())


def labels_at(field: TriplaneField, points: Tensor, classes: int) -> Tensor:
    """K,S label channels of the field at points K,3, on the CPU."""
    pieces = points.split(POINTS_PER_PIECE)
    return torch.cat([field.labels(piece[None].to(field.planes.device))[0, :, :classes].cpu() for piece in pieces])


def _towards(cameras: Tensor, vertices: Tensor, normals: Tensor) -> Tensor:
    """K,3 unit vectors from each vertex to the camera (P,3) that it faces most directly, else its normal."""
    best, outwards = torch.zeros(len(vertices)), normals.clone()
    for camera in cameras:
        direction = F.normalize(camera - vertices, dim=1)
        cosine = (direction * normals).sum(1)
        better = cosine > best
        best[better], outwards[better] = cosine[better], direction[better]
    return outwards


def _shown(field: TriplaneField, vertices: Tensor, outwards: Tensor, channels: slice) -> Tensor:
    """k,F features that a ray blends which comes from `outwards` k,3, as a share of what it meets; on the CPU.

    Matter is thin on the outside: a ray goes on through the level set, and what a picture shows there lies beneath.
    """
    device = field.planes.device
    depths = torch.linspace(0, INWARD_SHARE * field.box_warp, INWARD_SAMPLES, device=device)
    points = vertices.to(device)[:, None] - outwards.to(device)[:, None] * depths[:, None]  # k,T,3
    parts, sigma = field.parts(points.view(1, -1, 3))
    weights = sample_weights(sigma.view(1, len(vertices), -1), depths.expand(1, len(vertices), -1))
    weights[..., 0] += torch.finfo(weights.dtype).tiny  # where there is nothing at all: the surface itself
    weights = (weights / weights.sum(-1, keepdim=True))[..., None]  # 1,k,T,1
    blended = [(part.unflatten(1, weights.shape[1:3]) * weights).sum(2) for part in parts]
    return field.readout(blended, torch.ones_like(blended[0][..., :1]))[0, :, channels].cpu()
