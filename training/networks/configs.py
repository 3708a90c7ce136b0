"""Configurations of the published models: cameras and rendering by kind of object, generators by application.

Values from the published training command and its three runs (pix2pix3D, Deng et al. 2023) and, for rendering, from
EG3D (Chan et al. 2022).
"""

from dataclasses import dataclass
from typing import Any

from dnnlib.choices import CHANNEL_BASE, CHANNEL_MAX
from training.networks.generator import PUBLISHED_PLANE_RESOLUTION
from training.networks.label_encoder import PUBLISHED_GEOMETRY_LAYERS

PUBLISHED_Z_DIM = 512
PUBLISHED_MAPPING_LR = 0.01
CLAMP_WITH_FP16 = 256  # bound of activations where float16 is used
RAW_GENERATOR_CLASS = "training.triplane_cond.TriPlaneGenerator"
SEMANTIC_GENERATOR_CLASS = "training.triplane_cond.TriPlaneSemanticEntangleGenerator"
MAPPING_CLASSES = {"seg": "MaskMappingNetwork_disentangle", "edge": "EdgeMappingNetwork_disentangle"}
SUPER_RESOLUTION = {512: "SuperresolutionHybrid8XDC", 256: "SuperresolutionHybrid4X", 128: "SuperresolutionHybrid2X"}

# Rendering options under their published names: samples per ray; limits of the rays, side of the box, orbit radius and
# pivot of the cameras in world units.
_HEAD_RENDERING = {
    "depth_resolution": 48, "depth_resolution_importance": 48, "ray_start": 2.25, "ray_end": 3.3, "box_warp": 1,
    "avg_camera_radius": 2.7,
}  # fmt: skip
RENDERING: dict[str, dict[str, Any]] = {
    "afhq": {**_HEAD_RENDERING, "avg_camera_pivot": [0, 0, -0.06]},
    "celeba": {**_HEAD_RENDERING, "avg_camera_pivot": [0, 0, 0.2]},
    "ffhq": {**_HEAD_RENDERING, "avg_camera_pivot": [0, 0, 0.2]},
    "shapenet": {
        "depth_resolution": 64, "depth_resolution_importance": 64, "ray_start": 0.1, "ray_end": 2.6, "box_warp": 1.6,
        "white_back": True, "avg_camera_radius": 1.7, "avg_camera_pivot": [0, 0, 0],
    },
}  # fmt: skip


@dataclass(frozen=True)
class GeneratorOptions:
    """Options from which a generator is built; defaults are those of the training command.

    Raises:
        ValueError: unknown camera, resolution or data_type.
    """

    camera: str  # a key of RENDERING
    resolution: int  # R, output pixels
    data_type: str = "seg"  # seg or edge
    semantic_channels: int = 19  # classes of label maps; edge maps always have one channel
    render_labels: bool = True
    background: bool = False  # separate model of the background
    pose_conditioning: bool = False
    geometry_layer: int = PUBLISHED_GEOMETRY_LAYERS  # style vectors that come from the label map
    # Sizes. Narrow encoders, planes of 64 pixels and few samples make models that a CPU can train.
    encoder_width: float = 1.0  # of the label-map encoder, relative to the published width
    sr_width: float = 1.0  # of super-resolution, relative to the published width
    plane_resolution: int = PUBLISHED_PLANE_RESOLUTION
    depth_resolution: int | None = None  # coarse samples per ray, and as many fine ones; None for the camera's
    channel_base: int = CHANNEL_BASE  # the backbone's width at resolution r is min(channel_base // r, channel_max)
    channel_max: int = CHANNEL_MAX
    map_depth: int = 2  # layers of the mapping network
    map_lr_mul: float = PUBLISHED_MAPPING_LR  # learning rate of the mapping network relative to the other layers
    z_dim: int = PUBLISHED_Z_DIM  # size of the latent z
    encoder_resolution: int | None = None  # label maps are averaged to this size for their encoder; None: not
    style_bias: bool = False  # plane channels depend on the style directly, see training/networks/generator.py
    plane_axes: str = "published"  # or "corrected", see training/volumetric_rendering/planes.py
    # Limits of the rays and side of the box that the planes cover, world units; None for the camera's.
    ray_start: float | None = None
    ray_end: float | None = None
    box_warp: float | None = None
    # Radius of the sphere on whose far side rays that miss the object end, as a share of the box; None: nothing known.
    background_radius: float | None = None
    # Number of highest resolutions in float16, of the backbone and of super-resolution.
    num_fp16_res: int = 0
    sr_num_fp16_res: int = 4
    sr_module: str | None = None  # None: by resolution
    sr_noise_mode: str = "none"
    c_scale: float = 1.0  # factor of the conditioning pose
    decoder_lr_mul: float = 1.0
    # Density regularization, see training/density_regularization.py.
    density_reg: float = 0.25
    density_reg_p_dist: float = 0.004
    reg_type: str = "l1"

    def __post_init__(self) -> None:
        # Other fields are checked by the networks that they are passed to.
        choices = {"camera": RENDERING, "resolution": SUPER_RESOLUTION, "data_type": MAPPING_CLASSES}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: expected {', '.join(map(str, allowed))}, got {getattr(self, name)!r}")

    @property
    def label_channels(self) -> int:
        """Channels S of the label map."""
        # An edge map is one channel of values, whatever number of classes is set.
        return self.semantic_channels if self.data_type == "seg" else 1

    @property
    def class_name(self) -> str:
        """Published name of the generator's class."""
        if not self.render_labels:
            return RAW_GENERATOR_CLASS
        return SEMANTIC_GENERATOR_CLASS + ("_withBG" if self.background else "")

    def kwargs(self) -> dict[str, Any]:
        """Build the generator's constructor arguments, as new plain data.

        Options that the published code does not have are included only where they differ from their defaults, so that
        published models are described by published arguments.
        """
        # Arguments that the backbone shares with super-resolution. Fused convolutions are used in evaluation only: in
        # training, their weights per sample would have to be kept for the backward pass.
        backbone = {
            "channel_base": self.channel_base,
            "channel_max": self.channel_max,
            "fused_modconv_default": "inference_only",
        }

        # Published arguments. Activations are clamped only where float16 may be used, on any device.
        kwargs = {
            "z_dim": self.z_dim,
            "c_dim": 25,
            "w_dim": 512,
            "img_resolution": self.resolution,
            "img_channels": 3,
            "semantic_channels": self.label_channels,
            "data_type": self.data_type,
            "mapping_kwargs": self._mapping_kwargs(),
            **backbone,
            "num_fp16_res": self.num_fp16_res,
            "conv_clamp": CLAMP_WITH_FP16 if self.num_fp16_res > 0 else None,
            "sr_num_fp16_res": self.sr_num_fp16_res,
            "sr_kwargs": dict(backbone),
            "rendering_kwargs": self._rendering_kwargs(),
        }

        # Unpublished options.
        if self.sr_width != 1:
            kwargs["sr_kwargs"]["width"] = self.sr_width
        if self.plane_resolution != PUBLISHED_PLANE_RESOLUTION:
            kwargs["plane_resolution"] = self.plane_resolution
        if self.style_bias:
            kwargs["style_bias"] = True
        return kwargs

    def _mapping_kwargs(self) -> dict[str, Any]:
        kwargs: dict[str, Any] = {
            "num_layers": self.map_depth,
            "in_resolution": self.resolution,
            "in_channels": self.label_channels,
        }

        if self.map_lr_mul != PUBLISHED_MAPPING_LR:
            kwargs["lr_multiplier"] = self.map_lr_mul

        # The published classes ignore geometry_layer, and their encoders have one width and the label maps' resolution;
        # other values need our class.
        smaller_input = self.encoder_resolution not in (None, self.resolution)
        if self.geometry_layer != PUBLISHED_GEOMETRY_LAYERS or self.encoder_width != 1 or smaller_input:
            kwargs["class_name"] = "ConditionalMappingNetwork"
            kwargs["one_hot"] = self.data_type == "seg"
            if self.encoder_width != 1:
                kwargs["encoder_width"] = self.encoder_width
            if smaller_input:
                kwargs["label_resolution"] = self.resolution
                kwargs["in_resolution"] = self.encoder_resolution
            kwargs["geometry_layer"] = self.geometry_layer
            return kwargs

        # The published command records geometry_layer for edges only.
        if self.data_type == "edge":
            kwargs["geometry_layer"] = self.geometry_layer
        kwargs["class_name"] = f"training.triplane_cond.{MAPPING_CLASSES[self.data_type]}"
        return kwargs

    def _rendering_kwargs(self) -> dict[str, Any]:
        # Class names by resolution; the labels have their own super-resolution. The module path is the published one.
        superresolution = f"training.superresolution.{SUPER_RESOLUTION[self.resolution]}"
        camera = RENDERING[self.camera]
        kwargs = {
            # Renderer.
            "image_resolution": self.resolution,
            "disparity_space_sampling": False,
            "clamp_mode": "softplus",
            # Super-resolution and pose conditioning.
            "superresolution_module": self.sr_module or superresolution,
            "superresolution_module_semantic": f"{superresolution}_semantic",
            "c_gen_conditioning_zero": not self.pose_conditioning,
            "gpc_reg_prob": 0.5 if self.pose_conditioning else None,  # unused, but recorded in published models
            "c_scale": self.c_scale,
            "superresolution_noise_mode": self.sr_noise_mode,
            # Training.
            "density_reg": self.density_reg,
            "density_reg_p_dist": self.density_reg_p_dist,
            "reg_type": self.reg_type,
            "decoder_lr_mul": self.decoder_lr_mul,
            "sr_antialias": True,
            # Samples per ray, limits, box and cameras.
            **camera,
            "avg_camera_pivot": list(camera["avg_camera_pivot"]),
        }

        # Fewer samples than published, for small models.
        if self.depth_resolution:
            kwargs["depth_resolution"] = self.depth_resolution
            kwargs["depth_resolution_importance"] = self.depth_resolution

        # Other geometry of planes and rays than published.
        if self.plane_axes != "published":
            kwargs["plane_axes"] = self.plane_axes
        for name in ("ray_start", "ray_end", "box_warp", "background_radius"):
            if getattr(self, name) is not None:
                kwargs[name] = getattr(self, name)
        return kwargs


# Options of the published models, by application.
CONFIGS = {
    "seg2cat": GeneratorOptions("afhq", 512, semantic_channels=6, pose_conditioning=True),
    "seg2face": GeneratorOptions("celeba", 512, semantic_channels=19, pose_conditioning=True),
    "edge2car": GeneratorOptions("shapenet", 128, data_type="edge"),
    "edge2cat": GeneratorOptions("afhq", 512, data_type="edge", pose_conditioning=True),
}
# Raw rendering resolution r, before super-resolution. It is no constructor argument: training may raise it.
RAW_RESOLUTION = {"seg2cat": 128, "seg2face": 128, "edge2car": 64, "edge2cat": 128}
