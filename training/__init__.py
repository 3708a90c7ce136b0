"""Training: the loop, its state, loss, options, reports and run directories.

Networks, volume rendering, data sets and weights files are in the subpackages. What trained models are used for lives
elsewhere: rendering in `inference`, evaluation in `metrics`, command lines in the scripts.

Shape letters in docstrings: N batch, M rays, T samples on a ray, F features, S label channels, H W pixels, R output
and r raw (neural) rendering resolution, P plane resolution, K points or poses.
"""
