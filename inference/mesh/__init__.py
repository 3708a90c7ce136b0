"""Meshes of scenes: density grid, level-set surface, vertex colors, files, and images of meshes.

`extraction` runs the steps on a generator's planes; `triangles` has the mesh itself. Rays and compositing are in
`training.volumetric_rendering`.
"""
