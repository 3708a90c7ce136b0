"""Edge drawings from the geometry of a rendered object."""

from __future__ import annotations

import numpy as np

from dataset_preprocessing.toy.render import Rendering

CREASE_COSINE = 0.80  # a line is drawn where neighboring normals differ more than this
DEPTH_STEP = 0.03  # and where depth deviates this much (world units) from the line through its two neighbors


def edge_drawing(rendering: Rendering) -> np.ndarray:
    """Draw part boundaries, creases and depth steps: uint8 R,R, black lines two pixels wide on white."""
    line = np.zeros(rendering.parts.shape, bool)
    for axis in (0, 1):  # edges between rows, then between columns
        parts = rendering.parts.swapaxes(0, axis)
        depth = rendering.depth.swapaxes(0, axis)
        normals = rendering.normals.swapaxes(0, axis)

        inside = (parts[1:] > 0) & (parts[:-1] > 0)  # both neighbors show the object
        edge = parts[1:] != parts[:-1]
        edge |= inside & ((normals[1:] * normals[:-1]).sum(-1) < CREASE_COSINE)
        step = np.abs(depth[2:] - 2 * depth[1:-1] + depth[:-2]) > DEPTH_STEP
        edge[1:] |= inside[1:] & inside[:-1] & step

        # Mark the pixels on both sides of the edge.
        line_view = line.swapaxes(0, axis)
        line_view[1:] |= edge
        line_view[:-1] |= edge
    return np.where(line, 0, 255).astype(np.uint8)
