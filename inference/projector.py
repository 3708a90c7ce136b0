"""Projection of a photo into a generator: find the latent code, and on request weights, that reproduce it.

    photo, label map -> z -> ws + offset -> planes -> rays of the photo's pose -> losses of patch training

The offset of ws is optimized first (Abdal et al. 2019), then the weights that affect color (pivotal tuning, Roich et
al. 2021). The label map determines most of the geometry, so geometry layers take smaller steps than style layers.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from camera_utils import CAMERAS, pose_at, view_angles
from dnnlib.errors import ConfigError
from inference.generator import config_of, network_digest
from inference.inputs import LabelMap, Photo, Pose, check_square, to_label_map, to_photo, to_pose
from inference.latents import latent_ws, style_latents, style_mask
from inference.photo_loss import PhotoLoss, resize_photo
from inference.projection import Projection
from torch_utils.precision import set_precision
from training.networks.generator import TriPlane
from training.perceptual import Perceptual

# Shares of the steps in which the step size grows from 0, and in which it decays (Karras et al. 2020, appendix D).
WARMUP = 0.05
DECAY = 0.25
LAST_STEP = 0.05  # smallest factor of the decay: with 0, the last step would have no effect
BETAS = (0.9, 0.99)
# Steps after which the whole image is compared with the best so far.
CHECK_STEPS = 25

# Prefixes of tuned parameters, without those of density and labels alone: one photo hardly constrains geometry.
TUNED = ("backbone.synthesis.", "style_bias.", "decoder.net.", "superresolution.")
# Points in the box at which a tuned density is compared with the original one.
DENSITY_POINTS = 4096
# Steps between comparisons of another scene, and the position of its ws between this scene (0) and a random seed (1).
LOCAL_STEPS = 4
LOCAL_DISTANCE = 0.5

# Search of the pose: first candidates, in radians from the start, and rounds of halved steps about the best.
YAWS = (-0.6, -0.4, -0.2, 0.0, 0.2, 0.4, 0.6)
FULL_TURN_YAWS = tuple(number * math.pi / 8 for number in range(-8, 8))
MAX_PITCH = 1.4
PITCHES = (-0.3, -0.15, 0.0, 0.15, 0.3)
FIRST_STEPS = (0.1, 0.075, 0.05)  # of yaw and pitch in radians, and of the logarithm of the focal length
POSE_ROUNDS = 7


@dataclass(frozen=True)
class ProjectionOptions:
    """Options of a projection.

    Args:
        steps: of the latent code.
        tune: steps of the weights; 0 leaves them as they are.
        seeds: number of seeds of which the best is the start, where the network has no style encoder.
        search_pose: refine yaw, pitch and focal length of the pose first.
        style_rate, geometry_rate: step sizes of the ws of style and of geometry layers.
        tune_rate: step size of weights.
        lambda_start: weight of the mean squared offset of ws.
        lambda_labels: weight of the label map.
        lambda_lpips: weight of LPIPS, where it is available.
        lambda_density: weight of changes of density by tuning.
        lambda_local: weight of changes of other scenes near this one by tuning.
        random_seed: of the pixels that the steps choose.
    Raises:
        ConfigError: no step at all, or a number out of range.
    """

    steps: int = 100
    tune: int = 0
    seeds: int = 8
    search_pose: bool = False
    style_rate: float = 0.05
    geometry_rate: float = 0.01
    tune_rate: float = 3e-3
    lambda_start: float = 0.1
    lambda_labels: float = 0.3
    lambda_lpips: float = 1.0
    lambda_density: float = 0.1
    lambda_local: float = 1.0
    random_seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "seeds"):
            if getattr(self, name) < 1:
                raise ConfigError(name, getattr(self, name), "1 or more")
        for name, value in asdict(self).items():
            if not 0 <= value < math.inf:
                raise ConfigError(name, value, "0 or more")


DEFAULTS = ProjectionOptions()


@dataclass(frozen=True)
class Progress:
    """Progress after one step.

    Args:
        phase: start, pose, style or tune.
        done, total: steps of this phase.
        losses: weighted terms by name.
    """

    phase: str
    done: int
    total: int
    losses: dict[str, float]


class Projector:
    """Projects one photo, step by step. `result` is valid after any step, so that it can be stopped.

    Args:
        G: the generator, which is not changed.
        photo: a square photo, see `to_photo`.
        label_map: what the photo shows where, see `to_label_map`.
        pose: 25 numbers of the camera that took the photo, or where its search starts; None for the front.
        cfg: configuration of the cameras; None for the one that the weights follow.
        options: numbers of steps, step sizes and weights of losses.
        perceptual: image distance, or None.
    Raises:
        ConfigError, ValueError: a photo, label map or pose that cannot be used.
    """

    def __init__(
        self,
        G: TriPlane,
        photo: Photo,
        label_map: LabelMap,
        pose: Pose | None = None,
        cfg: str | None = None,
        options: ProjectionOptions = DEFAULTS,
        perceptual: Perceptual | None = None,
    ):
        # A copy in float32: in float16, small gradients would become 0.
        device = next(G.parameters()).device
        self.G = copy.deepcopy(G)
        set_precision(self.G, "fp32")
        self.cfg = cfg or config_of(G)
        self.options = options

        # Targets, in the network's format.
        check_square(photo)
        self.photo = resize_photo(to_photo(photo).to(device), G.img_resolution)
        self.label_map = to_label_map(label_map, G)
        pose = to_pose(pose, G, self.cfg)
        lambdas = (options.lambda_labels, options.lambda_lpips)
        self.loss = PhotoLoss(G, self.photo, self.label_map, pose, *lambdas, perceptual)

        # State of the search. Rates 1,num_ws,w_dim turn steps of size 1 into those of each layer.
        self.z = torch.zeros(1, G.z_dim, device=device)
        self.offset: Tensor | None = None
        self.weights: dict[str, Tensor] = {}
        style = style_mask(G)
        self.rates = torch.where(style, options.style_rate, options.geometry_rate)[None].to(device)
        with torch.no_grad():
            self.encoded = G.encode({"mask": self.label_map})

    def steps(self) -> Iterator[Progress]:
        """Run all phases; each step is done when it is yielded."""
        yield from self._find_start()
        if self.options.search_pose:
            yield from self._search_pose()
        for progress, offset in self._descend("style", _OffsetSearch(self), self.options.steps):
            self.offset = offset
            yield progress
        if self.options.tune:
            for progress, weights in self._descend("tune", _Tuning(self), self.options.tune):
                self.weights = weights
                yield progress

    def run(self) -> Projection:
        """Run all phases, and return the result."""
        for _ in self.steps():
            pass
        return self.result()

    @property
    def pose(self) -> Tensor:
        """Pose 1,25 of the photo, as given or as found so far."""
        return self.loss.pose

    @property
    def has_result(self) -> bool:
        """Whether a start has been found, so that there is a result."""
        return self.offset is not None

    def result(self) -> Projection:
        """Return what has been found so far.

        Raises:
            RuntimeError: before the first step.
        """
        if not self.has_result:
            raise RuntimeError("the projection has no start yet")
        settings = {"cfg": self.cfg, **asdict(self.options)}
        digest = network_digest(self.G)
        return Projection(self.z, self.offset, self.loss.pose, self.label_map, digest, self.weights, settings)

    # ----------------------------------------------------------------------- start

    def _find_start(self) -> Iterator[Progress]:
        """Take the style encoder's z, or that of the best of several seeds."""
        has_encoder = self.G.style_encoder is not None
        candidates = [self.photo] if has_encoder else [[seed] for seed in range(self.options.seeds)]

        best = math.inf
        for number, candidate in enumerate(candidates, 1):
            with torch.no_grad():
                z = style_latents(self.G, candidate)
            ws = self.ws_of(z)
            error = self.loss.error(self.G, ws).item()
            if error < best or self.offset is None:
                best = error
                self.z = z
                self.offset = torch.zeros_like(ws)
            yield Progress("start", number, len(candidates), {"error": best})

    @torch.no_grad()
    def ws_of(self, z: Tensor) -> Tensor:
        """Return ws (1,num_ws,w_dim, without offset) of z (1,z_dim) with the label map, at the current pose."""
        return latent_ws(self.G, self.encoded, self.loss.pose, z)

    # ----------------------------------------------------------------------- pose

    def _search_pose(self) -> Iterator[Progress]:
        """Find yaw, pitch and focal length: the best of a grid, then of neighbors at halved distances."""
        ws = self.ws_of(self.z)
        focal = self.loss.pose[0, 16].item()
        yaw, pitch = (angle.item() for angle in view_angles(self.loss.pose))
        error_of = partial(self._pose_errors, ws)

        # Grid.
        best = (yaw, pitch, math.log(focal))
        yaws = FULL_TURN_YAWS if CAMERAS[self.cfg].full_turn else YAWS
        candidates = [(yaw + a, pitch + b, best[2]) for a in yaws for b in PITCHES if abs(pitch + b) < MAX_PITCH]
        best, error = error_of(candidates)
        yield Progress("pose", 1, POSE_ROUNDS + 1, {"error": error})

        # Neighbors along each axis.
        for number in range(POSE_ROUNDS):
            steps = [step / 2**number for step in FIRST_STEPS]
            moves = [(axis, sign) for axis in range(3) for sign in (-1, 1)]
            neighbors = [tuple(x + sign * steps[i] * (i == axis) for i, x in enumerate(best)) for axis, sign in moves]
            best, error = error_of([best, *neighbors])
            self.loss.pose = self._pose(best)
            yield Progress("pose", number + 2, POSE_ROUNDS + 1, {"error": error})

    def _pose(self, angles: tuple[float, float, float]) -> Tensor:
        """Pose 1,25 at yaw and pitch in radians, with the logarithm of the focal length."""
        yaw, pitch, log_focal = angles
        polar = (1 - math.sin(pitch)) * math.pi / 2
        device = self.photo.device
        pose = pose_at(CAMERAS[self.cfg], math.pi / 2 + yaw, polar, **self.G.orbit, device=device)
        pose[:, [16, 20]] = math.exp(log_focal)
        return pose

    def _pose_errors(
        self, ws: Tensor, candidates: list[tuple[float, float, float]]
    ) -> tuple[tuple[float, float, float], float]:
        """Return the best of several poses, for ws 1,num_ws,w_dim, and its error."""
        errors = self.loss.error(self.G, ws, torch.cat([self._pose(angles) for angles in candidates]))
        best = int(errors.argmin())
        return candidates[best], errors[best].item()

    # ----------------------------------------------------------------------- descent

    def _descend(self, phase: str, search: _Search, steps: int) -> Iterator[tuple[Progress, Any]]:
        """Minimize by Adam; yield each step with the best result so far, evaluated on the whole image."""
        optimizer = torch.optim.Adam(search.parameters, betas=BETAS)
        best = search.error()
        result = search.result()
        devices = [self.photo.device] if self.photo.is_cuda else []
        for number in range(steps):
            # Random pixels depend on the step alone, and torch's random state stays the caller's.
            with torch.random.fork_rng(devices), torch.enable_grad():
                _seed(self.options.random_seed + number, self.photo)
                terms = search.terms(number)
                sum(terms.values()).backward()
            optimizer.param_groups[0]["lr"] = search.rate * _schedule((number + 1) / steps)
            optimizer.step()
            optimizer.zero_grad()

            # Not by the losses of single steps, which vary with the random pixels.
            if (number + 1) % CHECK_STEPS == 0 or number + 1 == steps:
                error = search.error()
                if error < best:
                    best = error
                    result = search.result()
            losses = {name: term.item() for name, term in terms.items()}
            yield Progress(phase, number + 1, steps, losses), result


def _seed(number: int, photo: Tensor) -> None:
    """Seed the generators of the CPU and of the photo's device; `torch.manual_seed` would seed those of all devices."""
    torch.default_generator.manual_seed(number)
    if photo.device.type != "cpu":
        with torch.cuda.device_of(photo):
            torch.get_device_module(photo.device).manual_seed(number)


def _schedule(share: float) -> float:
    """Factor of the step size after a share of the steps."""
    return min(1, share / WARMUP) * min(1, max(LAST_STEP, (1 - share) / DECAY))


class _Search(Protocol):
    """Parameters that are optimized: `rate` is their step size, `terms` the loss, `error` that of the whole image."""

    parameters: list[Tensor]
    rate: float

    def terms(self, number: int) -> dict[str, Tensor]: ...
    def error(self) -> float: ...
    def result(self) -> Any: ...


class _OffsetSearch:
    """Offset of the ws; its result is the offset 1,num_ws,w_dim."""

    rate = 1.0

    def __init__(self, projector: Projector):
        self.projector = projector
        self.start = projector.ws_of(projector.z)
        self.moves = torch.zeros_like(self.start, requires_grad=True)  # in units of the rates
        self.parameters = [self.moves]

    def terms(self, number: int) -> dict[str, Tensor]:
        G = self.projector.G
        offset = self.moves * self.projector.rates
        ws = self.start + offset
        loss = self.projector.loss
        terms = loss.terms(G, ws, G.planes(ws, noise_mode="const"), loss.sample_grid(number))
        terms["start"] = self.projector.options.lambda_start * offset.square().mean()
        return terms

    def error(self) -> float:
        return self.projector.loss.error(self.projector.G, self.start + self.result()).item()

    def result(self) -> Tensor:
        return (self.moves * self.projector.rates).detach()


class _Tuning:
    """Weights of a copy of the generator, for the scene of the offset; its result is a dict of weights by name."""

    def __init__(self, projector: Projector):
        self.projector = projector
        self.rate = projector.options.tune_rate
        self.ws = projector.ws_of(projector.z) + projector.offset
        self.G = copy.deepcopy(projector.G)
        self.named = {name: x for name, x in self.G.named_parameters() if name.startswith(TUNED)}
        self.parameters = list(self.named.values())
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        with torch.no_grad():
            self.original = projector.G.field(projector.G.planes(self.ws, noise_mode="const"))

    def terms(self, number: int) -> dict[str, Tensor]:
        loss = self.projector.loss
        options = self.projector.options
        planes = self.G.planes(self.ws, noise_mode="const")
        terms = loss.terms(self.G, self.ws, planes, loss.sample_grid(number))

        # Density at random points of the box.
        if options.lambda_density > 0:
            box = self.G.ray_options().box_warp
            points = (torch.rand(1, DENSITY_POINTS, 3, device=planes.device) - 0.5) * box
            change = self.G.field(planes).sigma(points) - self.original.sigma(points)
            terms["density"] = options.lambda_density * change.abs().mean()

        # Another scene near this one: nearby scenes would change most.
        if options.lambda_local > 0 and number % LOCAL_STEPS == 0:
            terms["local"] = options.lambda_local * self._local_change()
        return terms

    def _local_change(self) -> Tensor:
        """Mean change, a scalar, of the rendered features of a scene on the way to that of a random seed."""
        projector = self.projector
        grid = projector.loss.sample_grid(0)
        with torch.no_grad():
            other = projector.ws_of(style_latents(projector.G, [int(torch.randint(2**31, []))]))
            ws = torch.lerp(self.ws, other, LOCAL_DISTANCE)
            target = projector.loss.render(projector.G, ws, projector.G.planes(ws, noise_mode="const"), grid)
        return (projector.loss.render(self.G, ws, self.G.planes(ws, noise_mode="const"), grid) - target).abs().mean()

    def error(self) -> float:
        return self.projector.loss.error(self.G, self.ws).item()

    def result(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.named.items()}
