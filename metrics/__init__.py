"""Judging a model: how real, how faithful, how varied, how much 3D its pictures are. `evaluation` puts it together."""
