"""Two-pass volume rendering of a radiance field (Mildenhall et al. 2020, section 5.2; Chan et al. 2022, section 4.1).

Coarse samples are spread evenly along each ray; their compositing weights give a distribution from which fine samples
are sampled; both sets are composited together. Two implementations give the same result: "ref" follows the equations
(sort all samples by depth, blend their features); "fast", the default, computes the weights of the unsorted samples
and composites deferred features (training/networks/decoders.py), which are decoded once per ray.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from training.volumetric_rendering.compositing import (
    DepthRange,
    composite,
    depth_range,
    expected_depth,
    interval_weights,
    sample_weights,
    to_output_range,
)
from training.volumetric_rendering.planes import PLANE_COORDINATES
from training.volumetric_rendering.rays import auto_limits
from training.volumetric_rendering.sampling import importance_depths, sort_samples, stratified_depths

# Samples of one pass that are evaluated at a time when no gradient is needed. On a CPU, the hidden values of a chunk
# should stay in the cache, without too many calls; elsewhere, a chunk should fill the device and bound its memory.
CPU_SAMPLES_PER_CHUNK = 2**15
DEVICE_SAMPLES_PER_CHUNK = 2**20


# --------------------------------------------------------------------------- fields


class Field(Protocol):
    """Radiance field: features and raw density at points.

    `reference` is the definition. `deferred_features` and `finish_features` may compute the same faster: the renderer
    composites deferred features along the ray, then `finish_features`, linear in both arguments, maps the result to
    features.
    """

    def reference(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Features N,K,F and raw density N,K,1 at points N,K,3 (world units)."""

    def deferred_features(self, points: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Tensors N,K,any to composite, and raw density N,K,1, at points N,K,3."""

    def finish_features(self, composited: Sequence[Tensor], weight_sum: Tensor) -> Tensor:
        """Features N,M,F from composited deferred features N,M,any and the sum of their weights N,M,1."""


# --------------------------------------------------------------------------- options


@dataclass(frozen=True)
class RenderOptions:
    """Options of ray sampling and compositing.

    Args:
        start, end: limits of the depths, world units from the camera; both "auto" to use the points where each ray
            enters and leaves the cube of side box_warp.
        samples, fine_samples: samples per ray of the coarse and of the fine pass; fine_samples 0 omits the latter.
        box_warp: side of the cube that the planes cover, world units.
        disparity: space coarse samples evenly in 1/depth.
        white_back: white background, else black.
        density_noise: standard deviation of noise added to the raw density (training only).
        plane_axes: "published" or "corrected", see planes.py.
    Raises:
        ValueError: a value out of range.
    """

    start: float | str
    end: float | str
    samples: int = 48
    fine_samples: int = 48
    box_warp: float = 1.0
    disparity: bool = False
    white_back: bool = False
    density_noise: float = 0.0
    plane_axes: str = "published"

    def __post_init__(self) -> None:
        # Limits. In disparity, a start of 0 would be infinitely far.
        if self.auto:
            if self.start != self.end:
                raise ValueError(f"start, end: expected two numbers or twice 'auto', got {self.start}, {self.end}")
        elif not 0 <= self.start < self.end < math.inf:
            raise ValueError(f"start, end: expected 0 <= start < end, got {self.start}, {self.end}")
        elif self.disparity and self.start == 0:
            raise ValueError("disparity: expected start above 0, got 0")

        # Samples: the histogram of importance sampling needs at least 4.
        if not isinstance(self.samples, int) or not isinstance(self.fine_samples, int):
            raise ValueError(f"samples: expected whole numbers, got {self.samples!r} and {self.fine_samples!r}")
        smallest = 4 if self.fine_samples else 2
        if self.samples < smallest or self.fine_samples < 0:
            raise ValueError(
                f"samples: expected {smallest} or more and fine_samples 0 or more, "
                f"got {self.samples} and {self.fine_samples}"
            )

        # Field.
        if not (0 < self.box_warp < math.inf and 0 <= self.density_noise < math.inf):
            raise ValueError(
                f"expected box_warp above 0 and density_noise 0 or more, got {self.box_warp}, {self.density_noise}"
            )
        if self.plane_axes not in PLANE_COORDINATES:
            raise ValueError(f"plane_axes: expected one of {', '.join(PLANE_COORDINATES)}, got {self.plane_axes!r}")

    @property
    def auto(self) -> bool:
        """Whether the limits of the depths are computed per ray."""
        return "auto" in (self.start, self.end)

    @classmethod
    def from_rendering_kwargs(cls, kwargs: Mapping[str, Any]) -> RenderOptions:
        """Read the published rendering options; keys that concern other modules are ignored.

        Raises:
            ValueError: a missing key, or a clamp_mode other than softplus.
        """
        # Required options.
        required = ("ray_start", "ray_end", "depth_resolution", "depth_resolution_importance", "box_warp")
        missing = [name for name in required if name not in kwargs]
        if missing:
            raise ValueError(f"rendering options lack {', '.join(missing)}")
        if kwargs.get("clamp_mode", "softplus") != "softplus":
            raise ValueError(f"clamp_mode: expected softplus, got {kwargs['clamp_mode']!r}")

        # The published names, with the published defaults of the optional ones.
        return cls(
            start=kwargs["ray_start"],
            end=kwargs["ray_end"],
            samples=kwargs["depth_resolution"],
            fine_samples=kwargs["depth_resolution_importance"],
            box_warp=kwargs["box_warp"],
            disparity=bool(kwargs.get("disparity_space_sampling", False)),
            white_back=bool(kwargs.get("white_back", False)),
            density_noise=kwargs.get("density_noise", 0.0),
            plane_axes=kwargs.get("plane_axes", "published"),
        )


# --------------------------------------------------------------------------- rendering


class Rendering(NamedTuple):
    """Rendered rays."""

    features: Tensor  # N,M,F in [-1, 1]
    depth: Tensor  # N,M,1 expected depth, world units
    weight_sum: Tensor  # N,M,1 in [0, 1], opacity of the ray


class WeightedRendering(NamedTuple):
    """Rendered rays with their samples, in no particular order."""

    features: Tensor  # N,M,F in [-1, 1]
    depths: Tensor  # N,M,T of the samples, world units
    weights: Tensor  # N,M,T compositing weights
    weight_sum: Tensor  # N,M,1 in [0, 1], opacity of the ray


class _Rays(NamedTuple):
    """Rays and all random numbers used on them, so that chunks of rays render like the whole."""

    origins: Tensor  # N,M,3
    directions: Tensor  # N,M,3
    depths: Tensor  # N,M,T,1 of the coarse samples
    quantiles: Tensor | None  # N,M,fine_samples in [0, 1]
    noise: Tensor | None  # N,M,T,1, added to the raw density of the coarse samples
    fine_noise: Tensor | None  # N,M,fine_samples,1

    def chunk(self, rays: slice) -> _Rays:
        """Select a slice of the M rays."""
        return _Rays(*(None if x is None else x[:, rays] for x in self))


def render(
    field: Field,
    origins: Tensor,
    directions: Tensor,
    options: RenderOptions,
    *,
    jitter: bool = True,
    rays_per_chunk: int | None = None,
    impl: str = "fast",
) -> Rendering:
    """Render rays.

    Args:
        field: radiance field.
        origins, directions: N,M,3; directions of length 1.
        jitter: random depths, quantiles and density noise, from torch's global generator. False: evenly spaced
            depths and quantiles and no noise, so that equal calls give equal results.
        rays_per_chunk: rays, over the whole batch, that are in memory at once; the result does not depend on it.
            None: all if gradients are enabled, else a number that is efficient on the device.
        impl: "fast", or "ref" for the plain implementation.
    Returns:
        Features N,M,F; expected depth N,M,1; sum of weights N,M,1.
    Raises:
        ValueError: an unknown impl.
    No gradient passes through the choice of depths.
    """
    if impl not in ("fast", "ref"):
        raise ValueError(f"impl: expected fast or ref, got {impl!r}")

    # Generate all random numbers and the depth range for the whole call, before it is split into chunks.
    rays = _coarse_samples(origins, directions, options, jitter)
    limits = depth_range(rays.depths)  # includes the fine samples, which lie between the coarse ones

    # Render in chunks of rays. With gradients, chunks would save nothing: all their intermediates are kept anyway.
    batch, num_rays = origins.shape[:2]
    if rays_per_chunk is None:
        samples = CPU_SAMPLES_PER_CHUNK if origins.device.type == "cpu" else DEVICE_SAMPLES_PER_CHUNK
        rays_per_chunk = samples // max(options.samples, options.fine_samples)
        if torch.is_grad_enabled():
            rays_per_chunk = batch * num_rays
    step = max(1, rays_per_chunk // max(1, batch))
    render_chunk = _render_fast if impl == "fast" else _render_ref
    chunks = [
        render_chunk(field, rays.chunk(slice(first, first + step)), options, limits)
        for first in range(0, num_rays, step)
    ]
    return Rendering(*(torch.cat(tensors, dim=1) for tensors in zip(*chunks, strict=True)))


def render_weighted(
    field: Field, origins: Tensor, directions: Tensor, options: RenderOptions, depths: Tensor | None = None
) -> WeightedRendering:
    """Render rays for training losses on the depths of samples.

    Args:
        field: radiance field.
        origins, directions: N,M,3; directions of length 1.
        depths: N,M,T of all samples, in any order, world units; None samples in two passes with jitter, as `render`.
    Returns:
        Features, depths and weights. No gradient passes through the choice of depths.
    """
    if depths is None:
        return _composite_passes(field, _coarse_samples(origins, directions, options, jitter=True), options)
    return _composite_passes(field, _Rays(origins, directions, depths[..., None], None, None, None), options)


def _coarse_samples(origins: Tensor, directions: Tensor, options: RenderOptions, jitter: bool) -> _Rays:
    """Choose the coarse depths, and generate all random numbers of a call, each kind in one tensor."""
    # Shapes of both passes.
    shape = (*origins.shape[:2], options.samples, 1)
    fine_shape = (*origins.shape[:2], options.fine_samples)
    like = {"dtype": origins.dtype, "device": origins.device}

    # Random numbers, in this order: depth offsets, quantiles, density noise. Golden arrays depend on how many numbers
    # are generated at once.
    offsets = torch.rand(shape, **like) if jitter else torch.zeros(shape, **like)
    # Without jitter, quantiles are evenly spaced from 0 to 1.
    quantiles = None
    if options.fine_samples and jitter:
        quantiles = torch.rand(fine_shape, **like)
    elif options.fine_samples:
        quantiles = torch.linspace(0, 1, options.fine_samples, **like).expand(fine_shape)
    # Density noise is used in training only.
    noise = None
    fine_noise = None
    if jitter and options.density_noise > 0:
        noise = torch.randn(shape, **like) * options.density_noise
        if options.fine_samples:
            fine_noise = torch.randn((*fine_shape, 1), **like) * options.density_noise

    # Depths between the limits, numbers or N,M,1 in world units.
    if options.auto:
        start, end = auto_limits(origins, directions, options.box_warp)
    else:
        start = options.start
        end = options.end
    depths = stratified_depths(start, end, offsets, options.disparity)
    return _Rays(origins, directions, depths, quantiles, noise, fine_noise)


def _points(rays: _Rays, depths: Tensor) -> Tensor:
    """Points N,M*T,3 at depths N,M,T,1.

    The result is a view of a 3,N,M*T tensor: elementwise operations on one coordinate run over contiguous memory.
    """
    origins = rays.origins.movedim(-1, 0)[..., None]  # 3,N,M,1
    directions = rays.directions.movedim(-1, 0)[..., None]
    points = torch.addcmul(origins, directions, depths[None, ..., 0])  # 3,N,M,T
    return points.flatten(2).movedim(0, -1)


def _add_noise(sigma: Tensor, noise: Tensor | None, depths: Tensor) -> Tensor:
    """Reshape a field's raw density N,M*T,1 to N,M,T,1, as depths, and add density noise, if any."""
    sigma = sigma.view_as(depths)
    return sigma if noise is None else sigma + noise


def _fine_depths(rays: _Rays, sigma: Tensor) -> Tensor:
    """Depths N,M,fine_samples,1 of the fine pass, by importance sampling; sigma N,M,T,1 of the coarse samples."""
    # No gradient: moving samples would let the density escape its own loss.
    weights = interval_weights(sigma.detach()[..., 0], rays.depths[..., 0])  # N,M,T-1
    return importance_depths(rays.depths, weights[..., None], rays.quantiles)


def _render_fast(field: Field, rays: _Rays, options: RenderOptions, limits: DepthRange) -> Rendering:
    """Composite deferred features of unsorted samples, and decode them once per ray."""
    features, depths, weights, weight_sum = _composite_passes(field, rays, options)
    depth = expected_depth((weights * depths).sum(dim=-1, keepdim=True), weight_sum, limits)
    return Rendering(features, depth, weight_sum)


def _composite_passes(field: Field, rays: _Rays, options: RenderOptions) -> WeightedRendering:
    """Composite both passes, or the given samples alone where there are no quantiles for a fine one."""
    # Coarse pass: N,M*T,any for each head.
    deferred, sigma = field.deferred_features(_points(rays, rays.depths))
    depths = rays.depths  # N,M,T,1
    sigma = _add_noise(sigma, rays.noise, depths)
    passes = [deferred]

    # Fine pass.
    if rays.quantiles is not None:
        fine_depths = _fine_depths(rays, sigma)
        fine_deferred, fine_sigma = field.deferred_features(_points(rays, fine_depths))
        passes.append(fine_deferred)
        sigma = torch.cat([sigma, _add_noise(fine_sigma, rays.fine_noise, fine_depths)], dim=2)
        depths = torch.cat([depths, fine_depths], dim=2)

    # Weights of all samples of both passes. Only densities and depths are sorted, one number each, not the features.
    depths = depths[..., 0]  # N,M,T where T counts the samples of both passes
    weights = sample_weights(sigma[..., 0], depths)  # N,M,T
    weight_sum = weights.sum(dim=-1, keepdim=True)  # N,M,1

    # Composite each deferred tensor: the sum of its coarse and its fine samples, each with their weights.
    samples = rays.depths.shape[2]
    weights_of_pass = weights.split([samples, depths.shape[2] - samples][: len(passes)], dim=-1)
    composited = []
    for tensors in zip(*passes, strict=True):
        sums = [_weighted_sum(w, x) for w, x in zip(weights_of_pass, tensors, strict=True)]
        composited.append(sum(sums))

    # Decode once per ray, instead of once for each of its 96 samples.
    features = to_output_range(field.finish_features(composited, weight_sum), weight_sum, options.white_back)
    return WeightedRendering(features, depths, weights, weight_sum)


def _weighted_sum(weights: Tensor, x: Tensor) -> Tensor:
    """Sum over samples of weights N,M,T times x N,M*T,F, as a batched matrix product: N,M,F."""
    # One matrix product per ray, of a row of weights and a T,F matrix; the product of all N,M,T,F elements is never
    # stored.
    rays, samples = weights.flatten(0, 1).shape
    summed = torch.bmm(weights.reshape(rays, 1, samples), x.reshape(rays, samples, -1))  # N*M,1,F
    return summed.view(*weights.shape[:2], -1)


def _render_ref(field: Field, rays: _Rays, options: RenderOptions, limits: DepthRange) -> Rendering:
    """Sort all samples by depth and composite their features."""
    # Coarse pass.
    features, sigma = field.reference(_points(rays, rays.depths))
    depths = rays.depths  # N,M,T,1
    sigma = _add_noise(sigma, rays.noise, depths)
    features = features.unflatten(1, depths.shape[1:3])  # N,M,T,F

    # Fine pass.
    if rays.quantiles is not None:
        fine_depths = _fine_depths(rays, sigma)
        fine_features, fine_sigma = field.reference(_points(rays, fine_depths))
        depths, features, sigma = sort_samples(
            torch.cat([depths, fine_depths], dim=2),
            torch.cat([features, fine_features.unflatten(1, fine_depths.shape[1:3])], dim=2),
            torch.cat([sigma, _add_noise(fine_sigma, rays.fine_noise, fine_depths)], dim=2),
        )

    # Blend the sorted samples. All features are decoded and sorted: simple, but slow and large.
    features, depth, weights = composite(features, sigma, depths, options.white_back, limits)
    return Rendering(features, depth, weights.sum(dim=2))
