"""Volumetric rendering: rays, sampling of depths and planes, compositing. Functions on tensors, without parameters.

Networks that give features and density are in `training.networks`; cameras are in `camera_utils`. Shapes: N batch,
M rays, T samples on a ray, F features, r raw rendering resolution, P plane resolution, K points (docs/conventions.md).
"""
