"""3D generators of pix2pix3D (Deng et al. 2023) and EG3D (Chan et al. 2022): latent, pose and label map to any view.

    z, pose, label map -> mapping -> ws -> planes -> field -> rendered features -> super-resolution -> images

One class implements all published generators; the table GENERATORS gives the architecture of each.
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

from dnnlib.limits import MAX_RENDER_SAMPLES
from training.networks.decoders import Decoder, DecoderPair, widened_sigmoid
from training.networks.layers import FullyConnectedLayer
from training.networks.style_encoder import StyleEncoder
from training.networks.superresolution import SUPERRESOLUTIONS
from training.networks.synthesis import NOISE_MODES, Generator
from training.networks.triplane_field import TriplaneField
from training.volumetric_rendering.rays import sample_rays
from training.volumetric_rendering.renderer import Rendering, RenderOptions, render

PUBLISHED_PLANE_RESOLUTION = 256
POSE_SIZE = 25
IMAGE_CHANNELS = 3
FEATURES = 32  # channels of a plane, and of each half (color, labels) of the rendered features
BACKGROUND_LABEL_SCALE = 10  # maps the label half of the background texture, in [-1, 1], to logits
BACKGROUND_LOGIT = 20  # of class 0 in the background, where labels are classes
INITIAL_RENDERING_RESOLUTION = 64


@dataclass(frozen=True)
class Architecture:
    """Architecture of a generator.

    Args:
        decoder: class name of the decoder of `backbone`'s planes, a key of `decoders.DECODERS`.
        labels: whether label maps are rendered.
        background: whether a second backbone generates what lies behind the scene.
        split: whether label maps have their own backbone, ws and decoder.
    """

    decoder: str
    labels: bool = False
    background: bool = False
    split: bool = False


class TriPlane(nn.Module):
    """Tri-plane generator: latent, pose and label map to images and label maps of any view.

    Args:
        mapping_kwargs: arguments of the mapping network; with `class_name` a conditional one.
        rendering_kwargs: published rendering options, which are read at every call.
        sr_num_fp16_res, sr_kwargs: arguments of both super-resolution networks.
        semantic_channels: S, classes of the label map; 1 for edges.
        data_type: seg or edge.
        plane_resolution: P, pixels of the planes, a power of two.
        style_bias: add to every plane channel a constant that depends on the last style vector, which lets the decoder
            see the style directly; small models learn colors faster with it. The published ones have none.
        synthesis_kwargs: further arguments of the backbones' SynthesisNetwork: channel_base, num_fp16_res, ...
    Raises:
        ValueError: semantic_channels out of range, or unknown class names.
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
        style_bias: bool = False,
        **synthesis_kwargs,
    ):
        super().__init__()
        if architecture.labels and not 0 < (semantic_channels or 0) <= FEATURES:
            raise ValueError(f"semantic_channels: expected 1 to {FEATURES}, got {semantic_channels}")
        self.architecture = architecture
        self.z_dim = z_dim
        self.c_dim = c_dim
        self.w_dim = w_dim
        self.img_resolution = img_resolution
        self.img_channels = img_channels
        self.semantic_channels = semantic_channels
        self.data_type = data_type

        # These two are stored with published weights, and scripts change them between calls.
        self.neural_rendering_resolution = INITIAL_RENDERING_RESOLUTION
        self.rendering_kwargs = dict(rendering_kwargs)

        # Backbones: 2D generators of planes and background texture. Only one of them sees the label map. The order in
        # which modules are built is that of the published state dicts, and fixes the random initial weights of a seed.
        mapping_kwargs = dict(mapping_kwargs or {})
        unconditional = {key: value for key, value in mapping_kwargs.items() if key == "num_layers"}
        backbone = partial(Generator, w_dim=w_dim, img_resolution=plane_resolution, **synthesis_kwargs)
        color_mapping = unconditional if architecture.split else mapping_kwargs
        self.backbone = backbone(z_dim, c_dim, img_channels=3 * FEATURES, mapping_kwargs=color_mapping)
        if architecture.split:
            self.backbone_semantic = backbone(0, c_dim, img_channels=3 * FEATURES, mapping_kwargs=mapping_kwargs)
        if architecture.background:
            self.backbone_bg = backbone(z_dim, 0, img_channels=2 * FEATURES, mapping_kwargs=unconditional)
        self.num_ws = self.backbone.num_ws

        self.style_bias = _zero_layer(w_dim, 3 * FEATURES) if style_bias else None

        # Super-resolution of color and labels: two networks of the same layout, which share no weights.
        sr_kwargs = {
            "channels": FEATURES,
            "img_resolution": img_resolution,
            "sr_num_fp16_res": sr_num_fp16_res,
            "sr_antialias": self.rendering_kwargs.get("sr_antialias", True),
            **(sr_kwargs or {}),
        }
        self.superresolution = _superresolution(self.rendering_kwargs["superresolution_module"], **sr_kwargs)
        if architecture.labels:
            name = self.rendering_kwargs["superresolution_module_semantic"]
            self.superresolution_semantic = _superresolution(name, semantic_channels=semantic_channels, **sr_kwargs)

        self._build_decoders()
        self.attach_style_encoder(None)

    def _build_decoders(self) -> None:
        """Decoders of plane features. Density comes from the decoder, or the head, of the labels where there is one."""
        options = {
            "decoder_lr_mul": self.rendering_kwargs.get("decoder_lr_mul", 1),
            "decoder_output_dim": FEATURES,
            "semantic_channels": self.semantic_channels,
        }
        inputs = 2 * FEATURES if self.architecture.split else FEATURES
        self.decoder = Decoder(inputs, options, self.architecture.decoder)
        if self.architecture.split:
            self.decoder_semantic = Decoder(FEATURES, options, "OSGDecoder_semantic")

    def attach_style_encoder(self, E: StyleEncoder | None) -> None:
        """Keep the style encoder that was trained with this generator as the attribute `style_encoder`.

        It is a network of its own in weights files, so it does not become a submodule: move it to the device yourself.
        """
        self.__dict__["style_encoder"] = E

    # ----------------------------------------------------------------------- properties

    @property
    def orbit(self) -> dict[str, Any]:
        """Radius and pivot of the training cameras, each None where the rendering options lack it."""
        return {name: self.rendering_kwargs.get(f"avg_camera_{name}") for name in ("radius", "pivot")}

    @property
    def conditional(self) -> bool:
        """Whether the mapping takes a label map."""
        return hasattr(self._label_mapping, "encode")

    @property
    def _label_mapping(self) -> nn.Module:
        """The mapping network that takes the label map, if any does."""
        return (self.backbone_semantic if self.architecture.split else self.backbone).mapping

    def ray_options(self) -> RenderOptions:
        """Parse the current rendering options."""
        # At every call: published scripts change `rendering_kwargs` between calls.
        return RenderOptions.from_rendering_kwargs(self.rendering_kwargs)

    def check_options(self) -> None:
        """Check every rendering option that rendering reads.

        Raises:
            KeyError, TypeError, ValueError: an option is missing or invalid.
        """
        # Rendering and super-resolution. The options come from a file, so anything may be in them.
        options = self.rendering_kwargs
        rays = self.ray_options()
        samples = self.neural_rendering_resolution**2 * (rays.samples + rays.fine_samples)
        if self.neural_rendering_resolution < 1 or samples > MAX_RENDER_SAMPLES:
            raise ValueError(
                f"a raw image of {self.neural_rendering_resolution}x{self.neural_rendering_resolution} pixels with "
                f"{rays.samples} and {rays.fine_samples} samples per ray, expected 1 to {MAX_RENDER_SAMPLES} samples"
            )
        if self.architecture.background and rays.auto:
            raise ValueError("ray_end: expected a number in a model with background, got 'auto'")
        if options["superresolution_noise_mode"] not in NOISE_MODES:
            raise ValueError(f"superresolution_noise_mode: got {options['superresolution_noise_mode']!r}")

        # Cameras and pose conditioning. Models without camera options have no usual views, but render any pose.
        x, y, z = options.get("avg_camera_pivot", (0, 0, 0))
        if not all(math.isfinite(number) for number in (x, y, z, options.get("c_scale", 0))):
            raise ValueError("avg_camera_pivot, c_scale: expected finite numbers")
        radius = options.get("avg_camera_radius", 1)
        if not radius > 0 or math.isinf(radius):
            raise ValueError(f"avg_camera_radius: expected more than 0, got {radius}")
        if not (options.get("background_radius") is None or 0 < options["background_radius"] < math.inf):
            raise ValueError(f"background_radius: expected more than 0, got {options['background_radius']}")

    def check_inputs(self) -> None:
        """Check that poses, label maps of the rendered size and classes, and style vectors fit all parts.

        For conditional generators with labels only. Arguments of a file may contradict each other, which building the
        network does not show.

        Raises:
            ValueError: they do not fit.
        """
        mapping = self._label_mapping
        is_seg = self.data_type == "seg"
        facts = {
            "c_dim": (self.c_dim, POSE_SIZE),
            "img_channels": (self.img_channels, IMAGE_CHANNELS),
            "w_dim": (self.w_dim, self.superresolution.block1.conv1.affine.weight.shape[1]),
            "data_type": (self.data_type, "seg" if is_seg else "edge"),
            "semantic_channels": (self.semantic_channels, self.semantic_channels if is_seg else 1),
            "one_hot": (bool(mapping.one_hot), is_seg),
            "in_channels": (mapping.in_channels, self.semantic_channels),
            "label_resolution": (mapping.label_resolution, self.img_resolution),
        }
        for name, (got, expected) in facts.items():
            if got != expected:
                raise ValueError(f"{name}: got {got!r:.50}, expected {expected!r}")

    # ----------------------------------------------------------------------- latents

    def encode(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Encode batch["mask"] for `mapping`, which takes the result with any z and pose.

        Args:
            batch: {"mask": N,1,H,W}.
        Returns:
            N,geometry_layer,w_dim or N,w_dim, see `label_encoder.ConditionalMappingNetwork`.
        """
        # Most of the time of `mapping` on a CPU, so several seeds of one label map should share it.
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
        """Map latent, pose and label map to style vectors.

        Args:
            z: N,z_dim.
            c: N,25 pose to condition on (Chan et al. 2022, section 4.4); scaled or zeroed by the rendering options.
            batch: {"mask": label map N,1,H,W} for conditional generators.
            encoded: result of `encode`, which replaces `batch`.
        Returns:
            ws N,num_ws,w_dim; N,num_ws,2*w_dim for split backbones, color first.
        Raises:
            ValueError: a conditional generator without a label map, or a batch that is not a dict.
        """
        # Pose to condition on. Zeros are embedded like any pose: the mapping network has the same inputs in both cases.
        c = c * self.rendering_kwargs.get("c_scale", 0)
        if self.rendering_kwargs.get("c_gen_conditioning_zero"):
            c = torch.zeros_like(c)
        if batch is not None and not isinstance(batch, Mapping):
            raise ValueError(f"batch: expected a dict with the label map as mask, or None, got {batch!r}")
        options = (truncation_psi, truncation_cutoff, update_emas)

        # Unconditional generators (EG3D). The label map of a batch is ignored.
        if not self.conditional:
            return self.backbone.mapping(z, c, *options)

        # Conditional generators. With separate backbones, labels do not depend on z.
        if encoded is None and (batch is None or "mask" not in batch):
            raise ValueError('batch: expected a dict with "mask", the label map; this generator is conditional')
        if not self.architecture.split:
            return self.backbone.mapping(z, c, batch, *options, encoded=encoded)
        color_ws = self.backbone.mapping(z, c, *options)
        label_ws = self.backbone_semantic.mapping(None, c, batch, *options, encoded=encoded)
        return torch.cat([color_ws, label_ws], dim=-1)

    # ----------------------------------------------------------------------- scene

    def planes(self, ws: Tensor, noise_mode: str = "random") -> Tensor:
        """Generate the tri-planes, which do not depend on the camera.

        Args:
            ws: N,num_ws,w_dim (twice w_dim for split backbones).
        Returns:
            N,3,32,P,P; N,3,64,P,P for split backbones, color first.
        """
        # The channels of a backbone's image are three planes of 32, plane by plane.
        color_ws = ws[..., : self.w_dim]
        images = [self.backbone.synthesis(color_ws, noise_mode)]  # N,96,P,P
        if self.style_bias is not None:
            images[0] = images[0] + self.style_bias(color_ws[:, -1].float())[:, :, None, None]
        if self.architecture.split:
            images.append(self.backbone_semantic.synthesis(ws[..., self.w_dim :], noise_mode))

        # Concatenated with channels last, as the backbones give them: another order would copy the memory twice.
        planes = [x.movedim(1, -1).unflatten(-1, (3, FEATURES)) for x in images]  # N,P,P,3,C
        return torch.cat(planes, dim=-1).permute(0, 3, 4, 1, 2)

    def field(self, planes: Tensor) -> TriplaneField:
        """Build the radiance field of planes N,3,C,P,P."""
        # The field folds planes and weights, so that one field should serve many points.
        decoder = DecoderPair(self.decoder, self.decoder_semantic) if self.architecture.split else self.decoder
        options = self.ray_options()
        return TriplaneField(planes, decoder, options.box_warp, options.plane_axes)

    # ----------------------------------------------------------------------- images

    def synthesis(
        self,
        ws: Tensor,
        c: Tensor,
        neural_rendering_resolution: int | None = None,
        noise_mode: str = "random",
        planes: Tensor | None = None,
        jitter: bool = True,
        outputs: Collection[str] | None = None,
    ) -> dict[str, Tensor]:
        """Render images and label maps of the scene.

        Args:
            ws: N,num_ws,w_dim.
            c: N,25 poses to render from; any number of poses if ws has batch size 1.
            neural_rendering_resolution: r, pixels of the raw image; None for the attribute of that name.
            planes: result of `planes` for these ws, to avoid computing them again.
            jitter: random depths along the rays; False makes rendering deterministic.
            outputs: names of the outputs to return; super-resolution that is not requested is not computed.
                None: all, but `weight` only for models with a background.
        Returns:
            image N,3,R,R; image_raw N,3,r,r; image_depth N,1,r,r; weight N,1,r,r, opacity of the scene; with labels
            semantic N,S,R,R and semantic_raw N,S,r,r.
        Raises:
            ValueError: c of another shape, or unknown outputs.
        """
        if c.ndim != 2 or c.shape[1] != POSE_SIZE:
            raise ValueError(f"pose: expected N,25, got {tuple(c.shape)}")
        outputs = self._check_outputs(outputs)
        r = self.neural_rendering_resolution if neural_rendering_resolution is None else neural_rendering_resolution

        # Scene. The planes do not depend on the camera: callers who render several views pass them in.
        if planes is None:
            planes = self.planes(ws, noise_mode)

        # Rays, with M = r*r, row by row.
        c = c.to(planes.dtype)
        cam2world = c[:, :16].unflatten(1, (4, 4))
        intrinsics = c[:, 16:].unflatten(1, (3, 3))
        origins, directions = sample_rays(cam2world, intrinsics, r)  # N,M,3
        features, depth, weight = self.render_rays(ws, planes, origins, directions, noise_mode, jitter)

        # Rays to raw images. The first three of the 32 color features are the raw RGB image; likewise the first S of
        # the label features are the raw label map.
        features, depth, weight = (x.transpose(1, 2).unflatten(2, (r, r)) for x in (features, depth, weight))
        images = {"image_raw": features[:, : self.img_channels], "image_depth": depth, "weight": weight}

        # Super-resolution of the requested outputs, from the raw image and all 32 features (Chan et al. 2022,
        # section 4.2).
        ws = ws.expand(len(c), -1, -1)
        color_ws, label_ws = ws.chunk(2, dim=-1) if self.architecture.split else (ws, ws)
        sr_noise_mode = self.rendering_kwargs["superresolution_noise_mode"]
        if "image" in outputs:
            color_features = features[:, :FEATURES]
            images["image"] = self.superresolution(images["image_raw"], color_features, color_ws, sr_noise_mode)
        if self.architecture.labels:
            images["semantic_raw"] = features[:, FEATURES : FEATURES + self.semantic_channels]
        if "semantic" in outputs:
            label_features = features[:, FEATURES:]
            semantic_raw = images["semantic_raw"]
            images["semantic"] = self.superresolution_semantic(semantic_raw, label_features, label_ws, sr_noise_mode)
        return {name: image for name, image in images.items() if name in outputs}

    def render_rays(
        self,
        ws: Tensor,
        planes: Tensor,
        origins: Tensor,
        directions: Tensor,
        noise_mode: str = "random",
        jitter: bool = True,
    ) -> Rendering:
        """Render features along rays; color features come first, then those of the labels.

        Args:
            ws: N,num_ws,w_dim; only models with a background use it.
            planes: result of `planes` for these ws, batch size N or 1.
            origins, directions: N,M,3; directions of length 1.
            noise_mode, jitter: as of `synthesis`.
        Returns:
            Features N,M,F in [-1, 1], labels of several classes as logits; depth N,M,1; opacity N,M,1 of the scene.
        """
        # Blend with the background: what light is left passes to it. In the published model its depth is the end of the
        # rays.
        features, depth, weight = self._render(planes, origins, directions, jitter)
        if self.architecture.background:
            features = features + (1 - weight) * self._background(ws, directions, noise_mode)
            depth = depth + (1 - weight) * self.rendering_kwargs["ray_end"]
        return Rendering(features, depth, weight)

    def _check_outputs(self, outputs: Collection[str] | None) -> Collection[str]:
        """Replace None by the default outputs. Raises ValueError for unknown ones."""
        available = {"image", "image_raw", "image_depth", "weight"}
        if self.architecture.labels:
            available |= {"semantic", "semantic_raw"}

        # As in the published code, only models with a background return the weight unless it is requested.
        if outputs is None:
            return available if self.architecture.background else available - {"weight"}
        if unknown := set(outputs) - available:
            raise ValueError(f"outputs: expected some of {', '.join(sorted(available))}, got {', '.join(unknown)}")
        return outputs

    def _render(self, planes: Tensor, origins: Tensor, directions: Tensor, jitter: bool) -> Rendering:
        """Render rays N,M,3; the planes' batch size is N or 1."""
        views, rays = origins.shape[:2]
        shared_scene = len(planes) == 1 and views > 1

        # Join the rays of several cameras on one scene, so that its planes are not copied.
        if shared_scene:
            origins = origins.reshape(1, -1, 3)
            directions = directions.reshape(1, -1, 3)

        out = render(self.field(planes), origins, directions, self.ray_options(), jitter=jitter)

        # Split the rays by camera again, N,M,any.
        if shared_scene:
            out = Rendering(*(x.reshape(views, rays, -1) for x in out))
        return out

    def _background(self, ws: Tensor, directions: Tensor, noise_mode: str) -> Tensor:
        """Features N,M,64 of the background in directions N,M,3: a texture on the sphere."""
        # Texture, from the last style vector alone. The mapping network of `backbone_bg` is not used.
        ws = ws[:, -1:].expand(-1, self.backbone_bg.num_ws, -1)
        texture = self.backbone_bg.synthesis(ws, noise_mode)  # N,64,P,P

        # Sample the texture at spherical coordinates. It is infinitely far: only directions count, not the camera's
        # position.
        x, y, z = directions.unbind(dim=-1)
        azimuth = torch.atan2(y, x) * 2 / math.pi  # N,M; the published range, [-2, 2], exceeds the texture
        polar = torch.acos(z) * 2 / math.pi - 1  # N,M in [-1, 1]
        grid = torch.stack([azimuth, polar], dim=-1)
        features = F.grid_sample(
            texture.expand(len(grid), -1, -1, -1),
            grid[:, :, None],
            mode="bilinear",
            padding_mode="border",
            align_corners=False,
        )  # N,64,M,1
        features = widened_sigmoid(features[..., 0].transpose(1, 2)) * 2 - 1  # N,M,64 in [-1, 1]

        # Labels: logits, fixed to class 0 where there are classes. Channels from S on are features for the
        # super-resolution of labels, and stay as generated.
        color, labels = features.split(FEATURES, dim=-1)
        labels = labels * BACKGROUND_LABEL_SCALE
        if self.semantic_channels > 1:
            fixed = torch.zeros_like(labels[..., : self.semantic_channels])
            fixed[..., 0] = BACKGROUND_LOGIT
            labels = torch.cat([fixed, labels[..., self.semantic_channels :]], dim=-1)
        return torch.cat([color, labels], dim=-1)

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
        """Generate a scene and render it.

        Args:
            z: N,z_dim.
            c: N,25 pose to render from.
            batch: {"mask": label map N,1,H,W, "pose": N,25 to condition on instead of c}.
        Returns:
            Images as from `synthesis`.
        """
        ws = self.mapping(z, self._mapping_pose(c, batch), batch, truncation_psi, truncation_cutoff, update_emas)
        return self.synthesis(ws, c, neural_rendering_resolution, noise_mode)

    def _mapping_pose(self, c: Tensor, batch: Mapping[str, Tensor] | None) -> Tensor:
        """The pose N,25 to condition on."""
        # The label map shows the scene from its own pose, c may be any view of it.
        return batch.get("pose", c) if self.conditional and isinstance(batch, Mapping) else c

    # ----------------------------------------------------------------------- points (the interface of EG3D's scripts)

    def sample_mixed(
        self,
        coordinates: Tensor,
        directions: Tensor | None,
        ws: Tensor,
        truncation_psi: float = 1,
        truncation_cutoff: int | None = None,
        noise_mode: str = "random",
        planes: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Evaluate the field at points.

        Args:
            coordinates: N,K,3 world coordinates.
            directions: N,K,3 or None, no effect.
            ws: N,num_ws,w_dim.
            truncation_psi, truncation_cutoff: no effect, since ws are truncated already.
            planes: result of `planes` for these ws.
        Returns:
            {"rgb": N,K,F features in [0, 1] (labels raw), "sigma": N,K,1 raw density}.
        """
        # The features are before the scaling to [-1, 1] that rendered ones have.
        if planes is None:
            planes = self.planes(ws, noise_mode)
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
        """Evaluate the field at points N,K,3 as `sample_mixed` does, from z (N,z_dim), pose c (N,25) and batch."""
        ws = self.mapping(z, self._mapping_pose(c, batch), batch, truncation_psi, truncation_cutoff)
        return self.sample_mixed(coordinates, directions, ws, noise_mode=noise_mode)


def _zero_layer(in_features: int, out_features: int) -> FullyConnectedLayer:
    """Fully connected layer whose output is 0 before training."""
    layer = FullyConnectedLayer(in_features, out_features)
    nn.init.zeros_(layer.weight)
    return layer


def _superresolution(class_name: str, **kwargs) -> nn.Module:
    """Build a super-resolution network by the last component of its published class name."""
    # Published rendering options name the class with its module path.
    build = SUPERRESOLUTIONS.get(class_name.rsplit(".", 1)[-1])
    if build is None:
        raise ValueError(f"super-resolution: expected one of {', '.join(SUPERRESOLUTIONS)}, got {class_name!r}")
    return build(**kwargs)


# Architectures of the published classes: EG3D or color alone; pix2pix3D; the same with background; separate backbones.
# Two published classes are called TriPlaneGenerator, EG3D's and a conditional one; they differ in the mapping only.
LABELED = Architecture("OSGDecoder_semantic_lateSeparate", labels=True)
GENERATORS = {
    "TriPlaneGenerator": partial(TriPlane, Architecture("OSGDecoder")),
    "TriPlaneSemanticEntangleGenerator": partial(TriPlane, LABELED),
    "TriPlaneSemanticEntangleGenerator_withBG": partial(TriPlane, replace(LABELED, background=True)),
    "TriPlaneSemanticGenerator": partial(TriPlane, Architecture("OSGDecoder", labels=True, split=True)),
}
