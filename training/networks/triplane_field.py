"""Radiance field of tri-planes and a decoder, prepared for evaluation at many points."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from training.networks.decoders import Decoder, DecoderPair, decode_deferred, decode_sigma, finish_features
from training.volumetric_rendering.planes import fold_planes, sample_planes, sample_planes_mean


class TriplaneField:
    """Features and raw density at any point; a `volumetric_rendering.renderer.Field`.

    The constructor folds planes and weights once, so a field is valid only until the weights change. Gradients reach
    planes, weights and points.

    Args:
        planes: N,3,C,P,P; for a DecoderPair, texture and label planes concatenated along C.
        decoder: reads the mean of the three planes.
        box_warp: side of the cube that the planes cover, world units.
        axes: "published" or "corrected", see `volumetric_rendering.planes`.
    Raises:
        ValueError: planes of another shape.
    """

    def __init__(self, planes: Tensor, decoder: Decoder | DecoderPair, box_warp: float, axes: str = "published"):
        self.planes = planes
        self.decoder = decoder
        self.box_warp = box_warp
        self.axes = axes

        # Once per field: planes that share axes are added up, gains are multiplied into the weights.
        self.folded = fold_planes(planes, axes)
        self.heads = decoder.heads()

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Features N,K,F (in [0, 1], labels raw) and raw density N,K,1 at points N,K,3."""
        # Nothing is composited: each point is a ray of a single sample with weight 1.
        deferred, sigma = self.deferred_features(points)
        return self.finish_features(deferred, torch.ones_like(sigma)), sigma

    def reference(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Compute `__call__` by definition, N,K,F and N,K,1: sample all planes at points N,K,3, apply the decoder."""
        # Three samples per point and every output of the decoder: several times slower than `__call__`.
        sampled = sample_planes(self.planes, points, self.box_warp, self.axes)  # N,3,K,C
        return self.decoder.decode(sampled.mean(dim=1))

    def sigma(self, points: Tensor) -> Tensor:
        """Raw density N,K,1 at points N,K,3, without colors."""
        return decode_sigma(self.heads, sample_planes_mean(self.folded, points, self.box_warp))

    def labels(self, points: Tensor) -> Tensor:
        """Features N,K,F of the last head at points N,K,3, label channels first, without colors."""
        # The last head has density and labels; of a decoder without labels it is the only one.
        heads = self.heads[-1:]
        deferred, sigma = decode_deferred(heads, sample_planes_mean(self.folded, points, self.box_warp))
        return finish_features(heads, deferred, torch.ones_like(sigma))

    def deferred_features(self, points: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Values N,K,any to composite, one tensor per head, and raw density N,K,1; see `decoders.decode_deferred`."""
        return decode_deferred(self.heads, sample_planes_mean(self.folded, points, self.box_warp))

    def finish_features(self, composited: Sequence[Tensor], weight_sum: Tensor) -> Tensor:
        """Features N,M,F from composited deferred features N,M,any and the sum of their weights N,M,1."""
        return finish_features(self.heads, composited, weight_sum)
