"""Toy data with known 3D: procedural cats and cars from signed distance functions, rendered by sphere tracing.

sdf.py has the distances, scene.py the interface of an object, cats.py and cars.py the objects, render.py the renderer.
Shapes: M rays or points (vectors are 3,M), R resolution, K planes of a solid.
"""
