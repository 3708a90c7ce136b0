"""Data sets of images, label maps and poses: reading, checking, sampling, and conversion between files and tensors.

Making data sets is in dataset_preprocessing/, camera poses are in camera_utils.py.
Shapes: N batch, H W pixels, R resolution of the images, S label channels.
"""
