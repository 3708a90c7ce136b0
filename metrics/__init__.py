"""Evaluation of generators: realism, agreement with label maps, diversity, and consistency of 3D.

`evaluation` renders and computes the metrics that `registry` defines; `report` writes them. Command-line options and
training are elsewhere (calc_metrics.py, `training`). Shape letters: N batch, M rays or pixels, F features, S label
channels, V views of one scene, H W pixels, R output and r raw rendering resolution, K and L points.
"""
