"""Volume rendering of a field: coarse samples, more where they found something, one blend (Chan et al. 2022)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from training.volumetric_rendering.compositing import (
    Limits,
    composite,
    depth_limits,
    expected_depth,
    finish,
    interval_weights,
    sample_weights,
)
from training.volumetric_rendering.planes import PLANE_PAIRS
from training.volumetric_rendering.rays import auto_limits
from training.volumetric_rendering.sampling import importance_depths, sort_samples, stratified_depths

# Samples of one pass that are evaluated at a time where no gradient is needed. On a CPU the hidden values of a piece
# stay in the cache; elsewhere the piece fills the device and bounds its memory.
CPU_SAMPLES_PER_CHUNK = 2**14
DEVICE_SAMPLES_PER_CHUNK = 2**20


class Field(Protocol):
    """What is rendered: features and raw density at points.

    `reference` is the plain form. `parts` and `readout` may be a quicker way to the same: parts are blended along the
    ray first, then `readout` makes features of the blend; it is linear in (parts, weight sum).
    """

    def reference(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Features N,K,F and raw density N,K,1 at points N,K,3 (world units)."""

    def parts(self, points: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Tensors N,K,any to be blended, and raw density N,K,1."""

    def readout(self, blended: Sequence[Tensor], weight_sum: Tensor) -> Tensor:
        """Features N,M,F from blended parts N,M,any and the sum of the weights N,M,1."""


@dataclass(frozen=True)
class FunctionField:
    """A field given by one function from points N,K,3 to features N,K,F and raw density N,K,1."""

    reference: Callable[[Tensor], tuple[Tensor, Tensor]]

    def parts(self, points: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        features, sigma = self.reference(points)
        return (features,), sigma

    def readout(self, blended: Sequence[Tensor], weight_sum: Tensor) -> Tensor:
        return blended[0]


@dataclass(frozen=True)
class RenderOptions:
    """How rays are sampled and blended.

    Args:
        start, end: world units from the camera; both "auto" for where the ray crosses the cube of side box_warp.
        samples, fine_samples: per ray, coarse and by importance.
        box_warp: side of the cube that the planes cover, world units.
        disparity: coarse samples evenly spaced in 1/depth.
        white_back: white behind the scene, else black.
        density_noise: standard deviation of what is added to the raw density (training only).
        plane_axes: "published" or "corrected", see planes.py.
    Raises:
        ValueError: a value outside what is said here.
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
        if self.auto:
            if self.start != self.end:
                raise ValueError(f"start, end: expected two numbers or twice 'auto', got {self.start}, {self.end}")
        elif not 0 <= self.start < self.end:
            raise ValueError(f"start, end: expected 0 <= start < end, got {self.start}, {self.end}")
        smallest = 4 if self.fine_samples else 2
        if self.samples < smallest or self.fine_samples < 0:
            raise ValueError(
                f"samples: expected {smallest} or more and fine_samples 0 or more, "
                f"got {self.samples} and {self.fine_samples}"
            )
        if self.box_warp <= 0 or self.density_noise < 0:
            raise ValueError(
                f"expected box_warp above 0 and density_noise 0 or more, got {self.box_warp}, {self.density_noise}"
            )
        if self.plane_axes not in PLANE_PAIRS:
            raise ValueError(f"plane_axes: expected one of {', '.join(PLANE_PAIRS)}, got {self.plane_axes!r}")
        if self.disparity and not self.auto and self.start == 0:
            raise ValueError("disparity: expected start above 0, got 0")

    @property
    def auto(self) -> bool:
        return "auto" in (self.start, self.end)

    @classmethod
    def from_rendering_kwargs(cls, kwargs: Mapping[str, Any]) -> RenderOptions:
        """Read the published names; other keys of the same mapping belong to other parts of the model.

        Raises:
            ValueError: a required name is missing, or clamp_mode is not softplus.
        """
        required = ("ray_start", "ray_end", "depth_resolution", "depth_resolution_importance", "box_warp")
        if missing := [name for name in required if name not in kwargs]:
            raise ValueError(f"rendering options lack {', '.join(missing)}")
        if kwargs.get("clamp_mode", "softplus") != "softplus":
            raise ValueError(f"clamp_mode: expected softplus, got {kwargs['clamp_mode']!r}")
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


class Rendering(NamedTuple):
    """Pixels: features N,M,F in [-1, 1], expected depth N,M,1 in world units, sum of weights N,M,1 in [0, 1]."""

    features: Tensor
    depth: Tensor
    weight_sum: Tensor


class _Rays(NamedTuple):
    """Rays and every number drawn for them, so that any part of them renders alike."""

    origins: Tensor  # N,M,3
    directions: Tensor  # N,M,3
    depths: Tensor  # N,M,T,1
    quantiles: Tensor | None  # N,M,K
    noise: Tensor | None  # N,M,T,1
    fine_noise: Tensor | None  # N,M,K,1

    def part(self, rays: slice) -> _Rays:
        return _Rays(*(None if x is None else x[:, rays] for x in self))


def render(
    field: Field | Callable[[Tensor], tuple[Tensor, Tensor]],
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
        field: a Field, or a function as FunctionField takes it.
        origins, directions: N,M,3; directions of length 1.
        jitter: draw depths, quantiles and density noise at random (torch's global generator); False: no jitter, no
            noise, evenly spaced quantiles, so that the same call gives the same picture.
        rays_per_chunk: how many rays, over the whole batch, are in memory at once; the pixels do not depend on it.
            None: all with gradients on, else as many as run well on the device.
        impl: "fast", or "ref" for the plain form: the field's reference, all samples sorted, `composite`.
    Raises:
        ValueError: shapes other than these, or an unknown impl.
    No gradient passes through the choice of depths.
    """
    if origins.ndim != 3 or origins.shape[-1] != 3 or origins.shape != directions.shape:
        raise ValueError(
            f"origins, directions: expected N,M,3 twice, got {tuple(origins.shape)}, {tuple(directions.shape)}"
        )
    if rays_per_chunk is not None and rays_per_chunk < 1:
        raise ValueError(f"rays_per_chunk: expected 1 or more, got {rays_per_chunk}")
    if impl not in ("fast", "ref"):
        raise ValueError(f"impl: expected fast or ref, got {impl!r}")
    if not hasattr(field, "parts"):
        field = FunctionField(field)
    rays = _choose_samples(origins, directions, options, jitter)
    limits = depth_limits(rays.depths)  # importance samples lie between coarse ones, so these are the call's
    count, total = origins.shape[:2]
    if rays_per_chunk is None:
        rays_per_chunk = count * total if torch.is_grad_enabled() else _default_chunk(origins.device, options)
    step = max(1, rays_per_chunk // max(1, count))
    blend = _render_fast if impl == "fast" else _render_ref
    chunks = [blend(field, rays.part(slice(i, i + step)), options, limits) for i in range(0, total, step)]
    return Rendering(*(torch.cat(pieces, dim=1) for pieces in zip(*chunks, strict=True)))


def _default_chunk(device: torch.device, options: RenderOptions) -> int:
    samples = CPU_SAMPLES_PER_CHUNK if device.type == "cpu" else DEVICE_SAMPLES_PER_CHUNK
    return samples // max(options.samples, options.fine_samples)


def _choose_samples(origins: Tensor, directions: Tensor, options: RenderOptions, jitter: bool) -> _Rays:
    """Limits over all rays, and all draws of a call, each in one piece."""
    shape = (*origins.shape[:2], options.samples, 1)
    fine_shape = (*origins.shape[:2], options.fine_samples)
    like = {"dtype": origins.dtype, "device": origins.device}
    start, end = options.start, options.end
    if options.auto:
        start, end = auto_limits(origins, directions, options.box_warp)
    offsets = torch.rand(shape, **like) if jitter else torch.zeros(shape, **like)
    quantiles = noise = fine_noise = None
    if options.fine_samples:
        even = torch.linspace(0, 1, options.fine_samples, **like)
        quantiles = torch.rand(fine_shape, **like) if jitter else even.expand(fine_shape)
    if jitter and options.density_noise > 0:
        noise = torch.randn(shape, **like) * options.density_noise
        if options.fine_samples:
            fine_noise = torch.randn((*fine_shape, 1), **like) * options.density_noise
    depths = stratified_depths(start, end, offsets, options.disparity)
    return _Rays(origins, directions, depths, quantiles, noise, fine_noise)


def _points(rays: _Rays, depths: Tensor) -> Tensor:
    """N,M*T,3 points, in memory coordinate by coordinate: elementwise work on them runs along rays."""
    origins, directions = (x.movedim(-1, 0)[..., None] for x in (rays.origins, rays.directions))  # 3,N,M,1
    return torch.addcmul(origins, directions, depths[None, ..., 0]).flatten(2).movedim(0, -1)


def _density(sigma: Tensor, depths: Tensor, noise: Tensor | None) -> Tensor:
    """Raw density N,M,T,1 from a field's N,M*T,1."""
    sigma = sigma.view_as(depths)
    return sigma if noise is None else sigma + noise


def _fine_depths(rays: _Rays, sigma: Tensor) -> Tensor:
    return importance_depths(rays.depths, interval_weights(sigma.detach(), rays.depths), rays.quantiles)


def _render_fast(field: Field, rays: _Rays, options: RenderOptions, limits: Limits) -> Rendering:
    """Every sample is evaluated once, blended unsorted, and read out once a ray."""
    parts, sigma = field.parts(_points(rays, rays.depths))
    depths, sigma = rays.depths, _density(sigma, rays.depths, rays.noise)
    passes = [parts]
    if rays.quantiles is not None:
        fine = _fine_depths(rays, sigma)
        fine_parts, fine_sigma = field.parts(_points(rays, fine))
        passes.append(fine_parts)
        sigma = torch.cat([sigma, _density(fine_sigma, fine, rays.fine_noise)], dim=2)
        depths = torch.cat([depths, fine], dim=2)
    depths = depths[..., 0]
    weights = sample_weights(sigma[..., 0], depths)  # N,M,T
    weight_sum = weights.sum(dim=-1, keepdim=True)
    by_pass = weights.split([options.samples, options.fine_samples][: len(passes)], dim=-1)
    blended = [
        sum(_blend(w, part) for w, part in zip(by_pass, same_part, strict=True))
        for same_part in zip(*passes, strict=True)
    ]
    features = field.readout(blended, weight_sum)
    depth = expected_depth((weights * depths).sum(dim=-1, keepdim=True), weight_sum, limits)
    return Rendering(finish(features, weight_sum, options.white_back), depth, weight_sum)


def _blend(weights: Tensor, part: Tensor) -> Tensor:
    """Sum over samples of weights N,M,T times part N,M*T,F."""
    rays, samples = weights.flatten(0, 1).shape
    return torch.bmm(weights.reshape(rays, 1, samples), part.reshape(rays, samples, -1)).view(*weights.shape[:2], -1)


def _render_ref(field: Field, rays: _Rays, options: RenderOptions, limits: Limits) -> Rendering:
    features, sigma = field.reference(_points(rays, rays.depths))
    depths, sigma = rays.depths, _density(sigma, rays.depths, rays.noise)
    features = features.unflatten(1, depths.shape[1:3])
    if rays.quantiles is not None:
        fine = _fine_depths(rays, sigma)
        fine_features, fine_sigma = field.reference(_points(rays, fine))
        fine_features = fine_features.unflatten(1, fine.shape[1:3])
        depths, features, sigma = sort_samples(
            torch.cat([depths, fine], dim=2),
            torch.cat([features, fine_features], dim=2),
            torch.cat([sigma, _density(fine_sigma, fine, rays.fine_noise)], dim=2),
        )
    features, depth, weights = composite(features, sigma, depths, options.white_back, limits)
    return Rendering(features, depth, weights.sum(dim=2))
