"""Inference from trained weights: load a generator, make a scene of a label map, render it, export videos and meshes.

No command-line options, files of data sets or training code here; `applications` and `metrics` build on this package.
Shape letters: N batch, K points or mesh vertices, M faces, S label channels, H W pixels, R output and r raw rendering
resolution, P plane resolution, F features (of poses F,25: frames).
"""

from inference.generator import load_generator
from inference.mesh.triangles import Mesh
from inference.scene import Scene
from inference.view import View

__all__ = ["Mesh", "Scene", "View", "load_generator"]
