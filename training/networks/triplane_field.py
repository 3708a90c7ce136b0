"""The field of the model: planes and a decoder, made ready for many points."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from training.networks.decoders import Decoder, DecoderPair, density, evaluate, read_out
from training.volumetric_rendering.planes import fold_planes, sample_planes, sample_planes_mean


class TriplaneField:
    """Features and raw density at any point, for `volumetric_rendering.renderer.render` and for meshes.

    Folding planes and weights is done here, once; it holds for the weights' values at this moment. Gradients reach
    planes, weights and points.

    Args:
        planes: N,3,C,H,W, H = W; of a DecoderPair texture and label planes joined on C.
        decoder: reads the mean of the planes.
        box_warp: side of the cube that the planes cover, world units.
        axes: "published" or "corrected".
    Raises:
        ValueError: planes of another shape, unknown axes.
    """

    def __init__(self, planes: Tensor, decoder: Decoder | DecoderPair, box_warp: float, axes: str = "published"):
        self.planes, self.decoder, self.box_warp, self.axes = planes, decoder, box_warp, axes
        self.folded = fold_planes(planes, axes)
        self.heads = decoder.heads()

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Features N,K,F (not yet scaled to [-1, 1]) and raw density N,K,1 at points N,K,3."""
        parts, sigma = self.parts(points)
        return self.readout(parts, torch.ones_like(sigma)), sigma

    def sigma(self, points: Tensor) -> Tensor:
        """Raw density N,K,1 alone: no colors."""
        return density(self.heads, sample_planes_mean(self.folded, points, self.box_warp))

    def reference(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """The same as calling the field, by the plain form."""
        return self.decoder.decode(sample_planes(self.planes, points, self.box_warp, self.axes).mean(dim=1))

    def labels(self, points: Tensor) -> Tensor:
        """What the last head gives, N,K,F at points N,K,3: the label channels first; no colors."""
        heads = self.heads[-1:]
        parts, sigma = evaluate(heads, sample_planes_mean(self.folded, points, self.box_warp))
        return read_out(heads, parts, torch.ones_like(sigma))

    def parts(self, points: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """What the renderer blends (see `decoders.evaluate`), and raw density N,K,1."""
        return evaluate(self.heads, sample_planes_mean(self.folded, points, self.box_warp))

    def readout(self, blended: Sequence[Tensor], weight_sum: Tensor) -> Tensor:
        """Features N,M,F from the blend of parts."""
        return read_out(self.heads, blended, weight_sum)
