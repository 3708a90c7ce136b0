"""The 3D generators: ws to planes, planes to features along rays, features to images and label maps.

All published generators walk this one road; which architecture they are built of is the table GENERATORS.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.networks.backbone import PUBLISHED_PLANE_RESOLUTION, Generator
from training.networks.decoders import Decoder, DecoderPair, widened_sigmoid
from training.networks.superresolution import SUPERRESOLUTIONS
from training.networks.synthesis import NOISE_MODES
from training.networks.triplane_field import TriplaneField
from training.volumetric_rendering.rays import sample_rays
from training.volumetric_rendering.renderer import RenderOptions, render

FEATURES = 32  # of a plane, and of each half (color, labels) of what is rendered
BACKGROUND_SCALE = 10  # of the background's label half, which its texture stores in [-1, 1]
BACKGROUND_LOGIT = 20  # of class 0, where the background's classes are fixed
FRESH_RENDERING_RESOLUTION = 64


@dataclass(frozen=True)
class Architecture:
    """What a generator is built of.

    Args:
        decoder: public name of the decoder of `backbone`'s planes.
        labels: whether label maps are rendered.
        background: whether a second trunk draws what lies behind the scene.
        split: whether label maps have a trunk, ws and a decoder of their own.
    """

    decoder: str
    labels: bool = False
    background: bool = False
    split: bool = False


class TriPlane(nn.Module):
    """z, pose and label map to images and label maps of any view.

    Args:
        mapping_kwargs: of the mapping network; with class_name a conditional one.
        rendering_kwargs: the public rendering options, read at every call.
        sr_kwargs: of the super-resolution, besides what sr_num_fp16_res and rendering_kwargs say.
        semantic_channels: classes of the label map (1 for edges). data_type: seg or edge.
        plane_resolution: pixels of the planes, a power of two.
        trunk_kwargs: of SynthesisNetwork: channel_base, channel_max, num_fp16_res, conv_clamp, ...
    """

    def __init__(
        self,
        architecture: Architecture,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        rendering_kwargs: Mapping,
        mapping_kwargs: Mapping | None = None,
        sr_num_fp16_res: int = 0,
        sr_kwargs: Mapping | None = None,
        semantic_channels: int | None = None,
        data_type: str | None = None,
        plane_resolution: int = PUBLISHED_PLANE_RESOLUTION,
        **trunk_kwargs,
    ):
        super().__init__()
        if architecture.labels and not 0 < (semantic_channels or 0) <= FEATURES:
            raise ValueError(f"semantic_channels: expected 1 to {FEATURES}, got {semantic_channels}")
        self.architecture, self.z_dim, self.c_dim, self.w_dim = architecture, z_dim, c_dim, w_dim
        self.img_resolution, self.img_channels = img_resolution, img_channels
        self.semantic_channels, self.data_type = semantic_channels, data_type
        self.neural_rendering_resolution = FRESH_RENDERING_RESOLUTION
        self.rendering_kwargs = dict(rendering_kwargs)
        mapping_kwargs = dict(mapping_kwargs or {})
        plain = {"num_layers": mapping_kwargs["num_layers"]} if "num_layers" in mapping_kwargs else {}

        def trunk(z: int, c: int, channels: int, mapping: Mapping) -> Generator:
            return Generator(z, c, w_dim, plane_resolution, channels, mapping, **trunk_kwargs)

        self.backbone = trunk(z_dim, c_dim, 3 * FEATURES, plain if architecture.split else mapping_kwargs)
        if architecture.split:
            self.backbone_semantic = trunk(0, c_dim, 3 * FEATURES, mapping_kwargs)
        if architecture.background:
            self.backbone_bg = trunk(z_dim, 0, 2 * FEATURES, plain)
        self.num_ws = self.backbone.num_ws
        sr = {
            "channels": FEATURES,
            "img_resolution": img_resolution,
            "sr_num_fp16_res": sr_num_fp16_res,
            "sr_antialias": self.rendering_kwargs.get("sr_antialias", True),
            **(sr_kwargs or {}),
        }
        name = self.rendering_kwargs["superresolution_module"]
        self.superresolution = _super_resolution(name, **sr)
        if architecture.labels:
            name = self.rendering_kwargs["superresolution_module_semantic"]
            self.superresolution_semantic = _super_resolution(name, semantic_channels=semantic_channels, **sr)
        options = {
            "decoder_lr_mul": self.rendering_kwargs.get("decoder_lr_mul", 1),
            "decoder_output_dim": FEATURES,
            "semantic_channels": semantic_channels,
        }
        self.decoder = Decoder(2 * FEATURES if architecture.split else FEATURES, options, architecture.decoder)
        if architecture.split:
            self.decoder_semantic = Decoder(FEATURES, options, "OSGDecoder_semantic")

    @property
    def orbit(self) -> dict[str, Any]:
        """Radius and pivot of its own cameras, each None where the rendering options do not say."""
        return {name: self.rendering_kwargs.get(f"avg_camera_{name}") for name in ("radius", "pivot")}

    @property
    def conditional(self) -> bool:
        """Whether the mapping takes a label map."""
        return hasattr(self._label_mapping, "encode")

    @property
    def _label_mapping(self) -> nn.Module:
        return (self.backbone_semantic if self.architecture.split else self.backbone).mapping

    def encode(self, batch: Mapping[str, Tensor]) -> Tensor:
        """What batch["mask"] gives to `mapping` whatever z and pose are: once per label map."""
        return self._label_mapping.encode(batch)

    def mapping(
        self,
        z: Tensor,
        c: Tensor,
        batch: Mapping[str, Tensor] | None = None,
        truncation_psi: float = 1,
        truncation_cutoff: int | None = None,
        update_emas: bool = False,
        encoded: Tensor | None = None,
    ) -> Tensor:
        """ws N,num_ws,w_dim (twice w_dim for split trunks, color first).

        Args:
            z: N,z_dim. c: N,25 pose to condition on; zeroed and scaled as the rendering options say.
            batch: {"mask": label map} for conditional generators. encoded: an earlier `encode` in its place.
        Raises:
            ValueError: a conditional generator without a label map.
        """
        c = c * self.rendering_kwargs.get("c_scale", 0)
        if self.rendering_kwargs.get("c_gen_conditioning_zero"):
            c = torch.zeros_like(c)
        if batch is not None and not isinstance(batch, Mapping):
            raise ValueError(f"batch: expected a dict with the label map as mask, or None, got {batch!r}")
        rest = (truncation_psi, truncation_cutoff, update_emas)
        if not self.conditional:
            return self.backbone.mapping(z, c, *rest)
        if encoded is None and (batch is None or "mask" not in batch):
            raise ValueError('batch: expected a dict with "mask", the label map; this generator is conditional')
        if self.architecture.split:
            ws = [self.backbone.mapping(z, c, *rest), self._label_mapping(None, c, batch, *rest, encoded=encoded)]
            return torch.cat(ws, dim=-1)
        return self.backbone.mapping(z, c, batch, *rest, encoded=encoded)

    def planes(self, ws: Tensor, noise_mode: str = "random", force_fp32: bool = False) -> Tensor:
        """The scene, which depends on ws alone: N,3,32,P,P, P plane_resolution (split: 64 channels, color first)."""
        kwargs = {"noise_mode": noise_mode, "force_fp32": force_fp32}
        images = [self.backbone.synthesis(ws[..., : self.w_dim], **kwargs)]
        if self.architecture.split:
            images.append(self.backbone_semantic.synthesis(ws[..., self.w_dim :], **kwargs))
        return torch.cat([x.unflatten(1, (3, FEATURES)) for x in images], dim=2)

    def field(self, planes: Tensor) -> TriplaneField:
        """Features and density at any point of the scene that planes hold."""
        decoder = DecoderPair(self.decoder, self.decoder_semantic) if self.architecture.split else self.decoder
        options = self.ray_options()
        return TriplaneField(planes, decoder, options.box_warp, options.plane_axes)

    def ray_options(self) -> RenderOptions:
        return RenderOptions.from_rendering_kwargs(self.rendering_kwargs)

    def synthesis(
        self,
        ws: Tensor,
        c: Tensor,
        neural_rendering_resolution: int | None = None,
        noise_mode: str = "random",
        planes: Tensor | None = None,
        jitter: bool = True,
        rays_per_chunk: int | None = None,
        force_fp32: bool = False,
        outputs: Collection[str] | None = None,
    ) -> dict[str, Tensor]:
        """Images of the scene from the cameras c.

        Args:
            ws: N,num_ws,w_dim. c: N,25 poses, or any number of poses with one ws.
            neural_rendering_resolution: pixels of the raw image, None for the attribute of that name.
            planes: what `planes` gave for these ws, so as not to compute them again.
            jitter: random depths along the rays; False renders the same picture every time.
            rays_per_chunk: bound of the memory; the values do not depend on it.
            outputs: names of the images to return; super-resolution that nobody wants is not computed. None: all,
                but weight of models with a background alone.
        Returns:
            image N,3,R,R; image_raw N,3,r,r; image_depth N,1,r,r; weight N,1,r,r, how much of a pixel is the scene;
            with labels: semantic N,S,R,R and semantic_raw N,S,r,r.
        """
        if c.ndim != 2 or c.shape[1] != 25:
            raise ValueError(f"pose: expected N,25, got {tuple(c.shape)}")
        if outputs is None:
            outputs = self.available_outputs if self.architecture.background else self.available_outputs - {"weight"}
        elif unknown := set(outputs) - self.available_outputs:
            raise ValueError(
                f"outputs: expected some of {', '.join(sorted(self.available_outputs))}, got {', '.join(unknown)}"
            )
        r = self.neural_rendering_resolution if neural_rendering_resolution is None else neural_rendering_resolution
        planes = self.planes(ws, noise_mode, force_fp32) if planes is None else planes
        c = c.to(planes.dtype)
        origins, directions = sample_rays(c[:, :16].unflatten(1, (4, 4)), c[:, 16:].unflatten(1, (3, 3)), r)
        features, depth, weight = self._render(planes, origins, directions, jitter, rays_per_chunk)
        if self.architecture.background:
            features = features + (1 - weight) * self._background(ws, directions, noise_mode, force_fp32)
            depth = depth + (1 - weight) * self.rendering_kwargs["ray_end"]
        features, depth, weight = (x.transpose(1, 2).unflatten(2, (r, r)) for x in (features, depth, weight))
        images = {"image_raw": features[:, : self.img_channels], "image_depth": depth, "weight": weight}
        ws = ws.expand(len(c), -1, -1)
        color_ws, label_ws = (ws.chunk(2, dim=-1)) if self.architecture.split else (ws, ws)
        sr = {"noise_mode": self.rendering_kwargs["superresolution_noise_mode"], "force_fp32": force_fp32}
        if "image" in outputs:
            images["image"] = self.superresolution(images["image_raw"], features[:, :FEATURES], color_ws, **sr)
        if self.architecture.labels:
            raw = images["semantic_raw"] = features[:, FEATURES : FEATURES + self.semantic_channels]
            if "semantic" in outputs:
                images["semantic"] = self.superresolution_semantic(raw, features[:, FEATURES:], label_ws, **sr)
        return {name: image for name, image in images.items() if name in outputs}

    @property
    def available_outputs(self) -> frozenset[str]:
        """What `synthesis` can make."""
        labels = {"semantic", "semantic_raw"} if self.architecture.labels else set()
        return frozenset({"image", "image_raw", "image_depth", "weight"} | labels)

    def _render(self, planes: Tensor, origins: Tensor, directions: Tensor, jitter: bool, rays_per_chunk: int | None):
        """Render; several cameras on one scene become one long list of rays."""
        views, rays = origins.shape[:2]
        shared = len(planes) == 1 and views > 1
        if shared:
            origins, directions = origins.reshape(1, -1, 3), directions.reshape(1, -1, 3)
        out = render(
            self.field(planes), origins, directions, self.ray_options(), jitter=jitter, rays_per_chunk=rays_per_chunk
        )
        return out._make(x.reshape(views, rays, -1) for x in out) if shared else out

    def _background(self, ws: Tensor, directions: Tensor, noise_mode: str, force_fp32: bool) -> Tensor:
        """Features N,M,64 that lie behind the scene in these directions (N,M,3)."""
        ws = ws[:, -1:].expand(-1, self.backbone_bg.num_ws, -1)
        texture = self.backbone_bg.synthesis(ws, noise_mode=noise_mode, force_fp32=force_fp32)
        x, y, z = directions.unbind(dim=-1)
        grid = torch.stack([torch.atan2(y, x) * 2 / math.pi, torch.acos(z) * 2 / math.pi - 1], dim=-1)
        features = F.grid_sample(
            texture.expand(len(grid), -1, -1, -1),
            grid[:, :, None],
            mode="bilinear",
            padding_mode="border",
            align_corners=False,
        )
        features = widened_sigmoid(features[..., 0].transpose(1, 2)) * 2 - 1
        color, labels = features.split(FEATURES, dim=-1)
        labels = labels * BACKGROUND_SCALE
        if self.semantic_channels > 1:
            fixed = torch.zeros_like(labels[..., : self.semantic_channels])
            fixed[..., 0] = BACKGROUND_LOGIT
            labels = torch.cat([fixed, labels[..., self.semantic_channels :]], dim=-1)
        return torch.cat([color, labels], dim=-1)

    def sample_mixed(
        self,
        coordinates: Tensor,
        directions: Tensor | None,
        ws: Tensor,
        truncation_psi: float = 1,
        truncation_cutoff: int | None = None,
        noise_mode: str = "random",
        planes: Tensor | None = None,
        force_fp32: bool = False,
    ) -> dict[str, Tensor]:
        """{"rgb": N,K,F features in [0, 1] (labels raw), "sigma": N,K,1 raw density} at N,K,3 world coordinates.

        Neither looks at directions. Scripts for this family give the truncation here too; ws have theirs already.
        """
        planes = self.planes(ws, noise_mode, force_fp32) if planes is None else planes
        features, sigma = self.field(planes)(coordinates)
        return {"rgb": features, "sigma": sigma}

    def sample(
        self,
        coordinates: Tensor,
        directions: Tensor | None,
        z: Tensor,
        c: Tensor,
        batch: Mapping[str, Tensor] | None = None,
        truncation_psi: float = 1,
        truncation_cutoff: int | None = None,
        noise_mode: str = "random",
    ) -> dict[str, Tensor]:
        """`sample_mixed` from z and pose (conditional: batch["pose"] and batch["mask"])."""
        ws = self.mapping(z, self._mapping_pose(c, batch), batch, truncation_psi, truncation_cutoff)
        return self.sample_mixed(coordinates, directions, ws, noise_mode=noise_mode)

    def forward(
        self,
        z: Tensor,
        c: Tensor,
        batch: Mapping[str, Tensor] | None = None,
        truncation_psi: float = 1,
        truncation_cutoff: int | None = None,
        neural_rendering_resolution: int | None = None,
        update_emas: bool = False,
        noise_mode: str = "random",
    ) -> dict[str, Tensor]:
        """`synthesis` of the scene of z, batch["mask"] and batch["pose"], seen from c (else conditioned on c)."""
        ws = self.mapping(z, self._mapping_pose(c, batch), batch, truncation_psi, truncation_cutoff, update_emas)
        return self.synthesis(ws, c, neural_rendering_resolution, noise_mode)

    def check_options(self) -> None:
        """Read every rendering option once, as drawing a picture would.

        Raises:
            KeyError, TypeError, ValueError: one is missing or not what it should be.
        """
        options = self.rendering_kwargs
        self.ray_options()
        if options["superresolution_noise_mode"] not in NOISE_MODES:
            raise ValueError(f"superresolution_noise_mode: got {options['superresolution_noise_mode']!r}")
        x, y, z = options.get("avg_camera_pivot", (0, 0, 0))
        if not all(math.isfinite(number) for number in (x, y, z, options.get("c_scale", 0))):
            raise ValueError("avg_camera_pivot, c_scale: expected finite numbers")
        if not options.get("avg_camera_radius", 1) > 0:
            raise ValueError(f"avg_camera_radius: expected more than 0, got {options['avg_camera_radius']}")

    def _mapping_pose(self, c: Tensor, batch: Mapping[str, Tensor] | None) -> Tensor:
        return batch.get("pose", c) if self.conditional and isinstance(batch, Mapping) else c


def _super_resolution(name: str, **kwargs) -> nn.Module:
    build = SUPERRESOLUTIONS.get(name.rsplit(".", 1)[-1])
    if build is None:
        raise ValueError(f"super-resolution: expected one of {', '.join(SUPERRESOLUTIONS)}, got {name!r}")
    return build(**kwargs)


LABELED = Architecture("OSGDecoder_semantic_lateSeparate", labels=True)
GENERATORS = {
    "TriPlaneGenerator": partial(TriPlane, Architecture("OSGDecoder")),
    "TriPlaneSemanticEntangleGenerator": partial(TriPlane, LABELED),
    "TriPlaneSemanticEntangleGenerator_withBG": partial(TriPlane, replace(LABELED, background=True)),
    "TriPlaneSemanticGenerator": partial(TriPlane, Architecture("OSGDecoder", labels=True, split=True)),
}
