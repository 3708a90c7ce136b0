"""Edge drawings from the geometry of a rendered object."""

from __future__ import annotations

import numpy as np

from dataset_preprocessing.toy.render import Rendering

# A line is drawn where the cosine of the angle between neighboring normals is below this.
CREASE_COSINE = 0.80

# And where depth deviates this much (world units) from the line through its two neighbors.
MIN_DEPTH_JUMP = 0.03


def edge_drawing(rendering: Rendering) -> np.ndarray:
    """Draw part boundaries, creases and depth steps: uint8 R,R, black lines two to three pixels wide on white."""
    line = np.zeros(rendering.parts.shape, bool)

    # Edges between rows, then between columns.
    for axis in (0, 1):
        parts = rendering.parts.swapaxes(0, axis)
        depth = rendering.depth.swapaxes(0, axis)
        normals = rendering.normals.swapaxes(0, axis)

        # Boundaries of parts. Geometry counts only where both neighbors show the object: the background has none.
        inside = (parts[1:] > 0) & (parts[:-1] > 0)
        edge = parts[1:] != parts[:-1]
        edge |= inside & ((normals[1:] * normals[:-1]).sum(-1) < CREASE_COSINE)

        # The second difference of depth is small on slopes, and large where one surface is in front of another.
        step = np.abs(depth[2:] - 2 * depth[1:-1] + depth[:-2]) > MIN_DEPTH_JUMP
        edge[1:] |= inside[1:] & inside[:-1] & step

        # Mark the pixels on both sides of the edge.
        line_view = line.swapaxes(0, axis)
        line_view[1:] |= edge
        line_view[:-1] |= edge
    return np.where(line, 0, 255).astype(np.uint8)
