"""Radiance field of tri-planes and a decoder, prepared for evaluation at many points."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torch_utils.ops.build import CPU_KERNELS, use_kernel
from training.networks.decoders import (
    Decoder,
    DecoderPair,
    HeadWeights,
    decode_deferred,
    decode_sigma,
    finish_features,
)
from training.volumetric_rendering.planes import fold_planes, sample_planes, sample_planes_mean

KERNEL_WIDTH = 32  # of which plane channels and hidden values are a multiple where the CPU kernel decodes them


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
        deferred, sigma = self._decode(heads, points)
        return finish_features(heads, deferred, torch.ones_like(sigma))

    def deferred_features(self, points: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Values N,K,any to composite, one tensor per head, and raw density N,K,1; see `decoders.decode_deferred`."""
        return self._decode(self.heads, points)

    def finish_features(self, composited: Sequence[Tensor], weight_sum: Tensor) -> Tensor:
        """Features N,M,F from composited deferred features N,M,any and the sum of their weights N,M,1."""
        return finish_features(self.heads, composited, weight_sum)

    def _decode(
        self, heads: Sequence[HeadWeights], points: Tensor, impl: str = "auto"
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Compute `deferred_features` of some heads; impl: see `build.use_kernel`, for a kernel without gradients."""
        supported = self._kernel_supports(heads, points)
        if impl == "kernel" and not supported:
            raise ValueError("impl: no kernel for these planes, heads or points; use auto or ref")
        if supported and use_kernel(impl, points.device, CPU_KERNELS):
            return self._decode_by_kernel(heads, points)
        return decode_deferred(heads, sample_planes_mean(self.folded, points, self.box_warp))

    def _kernel_supports(self, heads: Sequence[HeadWeights], points: Tensor) -> bool:
        """Return whether the kernel computes these heads at points N,K,3."""
        table = self.folded.table
        if table is None or points.shape[:1] + points.shape[2:] != (len(self.planes), 3):
            return False

        # Float32 on a CPU, sizes of whole vectors, and no gradients.
        tensors = [table, points, *(tensor for head in heads for tensor in head.tensors)]
        whole = table.shape[1] % KERNEL_WIDTH == 0 and all(len(head.bias0) % KERNEL_WIDTH == 0 for head in heads)
        needs_gradient = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
        return whole and not needs_gradient and all(tensor.dtype == torch.float32 for tensor in tensors)

    def _decode_by_kernel(self, heads: Sequence[HeadWeights], points: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Sample planes and evaluate heads in one pass, whose intermediate values stay in the cache."""
        channels = self.folded.table.shape[1]
        ranges = [(*head.inputs.indices(channels)[:2], head.logits.start, head.logits.stop) for head in heads]
        deferred, sigma = torch.ops.pix2pix3d.decode_triplanes(
            points.movedim(-1, 0).contiguous(),  # 3,N,K
            self.folded.table,
            self.planes.shape[-1],
            [axis for pair in self.folded.pairs for axis in pair],
            self.box_warp,
            [tensor.contiguous() for head in heads for tensor in head.tensors],
            [bound for bounds in ranges for bound in bounds],
        )
        return tuple(deferred), sigma
