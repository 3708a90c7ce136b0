"""Line drawings from what is known of a rendered object."""

from __future__ import annotations

import numpy as np

from dataset_preprocessing.toy.render import Rendering

FOLD = 0.80  # cosine between neighboring normals below which a line is drawn
STEP = 0.03  # world units by which depth may leave the line through its two neighbors


def edge_drawing(seen: Rendering) -> np.ndarray:
    """uint8 R,R: black lines two pixels wide on white, along part boundaries, folds and steps in depth."""
    line = np.zeros(seen.parts.shape, bool)
    for turn in (_same, np.transpose):
        parts, depth = turn(seen.parts), turn(seen.depth)
        normals = seen.normals if turn is _same else seen.normals.swapaxes(0, 1)
        both = (parts[1:] > 0) & (parts[:-1] > 0)
        edge = parts[1:] != parts[:-1]
        edge |= both & ((normals[1:] * normals[:-1]).sum(-1) < FOLD)
        bend = np.abs(depth[2:] - 2 * depth[1:-1] + depth[:-2]) > STEP
        edge[1:] |= both[1:] & both[:-1] & bend
        rows = turn(line)  # a view: writing there marks `line`
        rows[1:] |= edge
        rows[:-1] |= edge
    return np.where(line, 0, 255).astype(np.uint8)


def _same(array: np.ndarray) -> np.ndarray:
    return array
