"""Strokes on label maps, and how much they change the image elsewhere."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from metrics.distribution import to_float64
from metrics.image_features import to_uint8

# Radius of a stroke, and width of the ring around it that is not compared, as shares of the image's side: 4 pixels of
# 128.
STROKE_RADIUS = 1 / 32
STROKE_MARGIN = 1 / 32
# Class that is not grown: a stroke of the background would remove something.
BACKGROUND = 0


def paint_stroke(label_map: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Grow one class of a label map over a disk about a random pixel at its border.

    Args:
        label_map: R,R class ids.
        seed: of the class, which small ones have the same chance to be, and of the pixel.
    Returns:
        R,R class ids, of which some have changed; R,R bool, pixels away from the stroke. Where no class but the
        background has a border, nothing has changed and no pixel is away from the stroke.
    """
    # Pixels with a neighbor of another class.
    ids = label_map.cpu().numpy()
    padded = np.pad(ids, 1, mode="edge")
    neighbors = np.stack([padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]])  # 4,R,R
    border = (neighbors != ids).any(axis=0) & (ids != BACKGROUND)
    if not border.any():
        return label_map, torch.zeros_like(label_map, dtype=torch.bool)

    # The class and the center.
    random = np.random.RandomState(seed)
    label = random.choice(np.unique(ids[border]))
    places = np.argwhere(border & (ids == label))
    y, x = places[random.randint(len(places))]

    # The disk holds the center and its neighbors, so at least one pixel changes.
    side = len(ids)
    rows, columns = np.ogrid[:side, :side]
    distance = np.hypot(rows - y, columns - x) / side
    painted = np.where(distance <= max(STROKE_RADIUS, 1 / side), label, ids)
    away = distance > max(STROKE_RADIUS, 1 / side) + STROKE_MARGIN
    return torch.from_numpy(painted).to(label_map), torch.from_numpy(away).to(label_map.device)


def color_change(before: Tensor, after: Tensor, compared: Tensor) -> Tensor:
    """Average the absolute difference of images in levels of 255 over pixels.

    Args:
        before: N,3,R,R in [-1, 1].
        after: N,3,R,R likewise.
        compared: N,R,R bool, the pixels to average over.
    Returns:
        N float64; NaN for an image without such pixels.
    """
    change = (to_uint8(before).float() - to_uint8(after).float()).abs().mean(1)  # N,R,R
    return to_float64(change * compared).sum((1, 2)) / compared.sum((1, 2))
