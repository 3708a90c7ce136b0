"""The published models as data: cameras and rendering by kind of object, generators by application.

Values from the published training command and its three runs (Deng et al. 2023, pix2pix3D) and, for rendering,
from EG3D (Chan et al. 2022).
"""

from dataclasses import dataclass, replace
from typing import Any

from training.networks.generator import PUBLISHED_PLANE_RESOLUTION
from training.networks.label_encoder import PUBLISHED_GEOMETRY_LAYERS

CLAMP_WITH_FP16 = 256
RAW_GENERATOR_CLASS = "training.triplane_cond.TriPlaneGenerator"
SEMANTIC_GENERATOR_CLASS = "training.triplane_cond.TriPlaneSemanticEntangleGenerator"

# Samples per ray, ray limits and box in world units; the camera orbits at this radius and looks at this pivot.
_HEAD = {
    "depth_resolution": 48, "depth_resolution_importance": 48, "ray_start": 2.25, "ray_end": 3.3, "box_warp": 1,
    "avg_camera_radius": 2.7,
}  # fmt: skip
RENDERING: dict[str, dict[str, Any]] = {
    "afhq": {**_HEAD, "avg_camera_pivot": [0, 0, -0.06]},
    "celeba": {**_HEAD, "avg_camera_pivot": [0, 0, 0.2]},
    "ffhq": {**_HEAD, "avg_camera_pivot": [0, 0, 0.2]},
    "shapenet": {
        "depth_resolution": 64, "depth_resolution_importance": 64, "ray_start": 0.1, "ray_end": 2.6, "box_warp": 1.6,
        "white_back": True, "avg_camera_radius": 1.7, "avg_camera_pivot": [0, 0, 0],
    },
}  # fmt: skip
SUPER_RESOLUTION = {512: "SuperresolutionHybrid8XDC", 256: "SuperresolutionHybrid4X", 128: "SuperresolutionHybrid2X"}
MAPPINGS = {"seg": "MaskMappingNetwork_disentangle", "edge": "EdgeMappingNetwork_disentangle"}


@dataclass(frozen=True)
class GeneratorOptions:
    """What a generator is built from; defaults are those of the training command.

    `semantic_channels` counts classes of label maps; edges always have one channel.
    """

    camera: str  # a key of RENDERING
    resolution: int
    data_type: str = "seg"
    semantic_channels: int = 19
    render_labels: bool = True
    background: bool = False  # separate model of what is behind the object
    pose_conditioning: bool = False
    geometry_layer: int = PUBLISHED_GEOMETRY_LAYERS
    encoder_width: float = 1.0  # of the label map's encoder, relative to the published one
    sr_width: float = 1.0  # of super-resolution, likewise
    plane_resolution: int = PUBLISHED_PLANE_RESOLUTION
    depth_resolution: int | None = None  # coarse samples of a ray, and as many fine ones; None: as the camera says
    channel_base: int = 32768
    channel_max: int = 512
    map_depth: int = 2
    num_fp16_res: int = 0
    sr_num_fp16_res: int = 4
    sr_module: str | None = None  # None: by resolution
    sr_noise_mode: str = "none"
    c_scale: float = 1.0
    decoder_lr_mul: float = 1.0
    density_reg: float = 0.25
    density_reg_p_dist: float = 0.004
    reg_type: str = "l1"

    def __post_init__(self) -> None:
        for name, allowed in (("camera", RENDERING), ("resolution", SUPER_RESOLUTION), ("data_type", MAPPINGS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: expected {', '.join(map(str, allowed))}, got {getattr(self, name)!r}")

    @property
    def channels(self) -> int:
        """Of the label map."""
        return self.semantic_channels if self.data_type == "seg" else 1

    @property
    def class_name(self) -> str:
        if not self.render_labels:
            return RAW_GENERATOR_CLASS
        return SEMANTIC_GENERATOR_CLASS + ("_withBG" if self.background else "")

    def kwargs(self) -> dict[str, Any]:
        """The generator's constructor arguments, as new plain data."""
        widths = {"channel_base": self.channel_base, "channel_max": self.channel_max}
        backbone = {**widths, "fused_modconv_default": "inference_only"}
        # Recorded where they are not as published, so that published models are described as published.
        planes, narrow = self.plane_resolution != PUBLISHED_PLANE_RESOLUTION, self.sr_width != 1
        return {
            "z_dim": 512,
            "c_dim": 25,
            "w_dim": 512,
            "img_resolution": self.resolution,
            "img_channels": 3,
            "semantic_channels": self.channels,
            "data_type": self.data_type,
            "mapping_kwargs": self._mapping(),
            **backbone,
            "num_fp16_res": self.num_fp16_res,
            "conv_clamp": CLAMP_WITH_FP16 if self.num_fp16_res > 0 else None,
            "sr_num_fp16_res": self.sr_num_fp16_res,
            "sr_kwargs": {**backbone, **({"width": self.sr_width} if narrow else {})},
            "rendering_kwargs": self._rendering(),
            **({"plane_resolution": self.plane_resolution} if planes else {}),
        }

    def _mapping(self) -> dict[str, Any]:
        common = {"num_layers": self.map_depth, "in_resolution": self.resolution, "in_channels": self.channels}
        # The published classes take another geometry_layer and ignore it, and have encoders of one width.
        if self.geometry_layer != PUBLISHED_GEOMETRY_LAYERS or self.encoder_width != 1:
            ours = {"class_name": "ConditionalMappingNetwork", "one_hot": self.data_type == "seg"}
            width = {"encoder_width": self.encoder_width} if self.encoder_width != 1 else {}
            return {**common, **ours, **width, "geometry_layer": self.geometry_layer}
        recorded = {"geometry_layer": self.geometry_layer} if self.data_type == "edge" else {}
        return {**common, **recorded, "class_name": f"training.triplane_cond.{MAPPINGS[self.data_type]}"}

    def _rendering(self) -> dict[str, Any]:
        by_resolution = f"training.superresolution.{SUPER_RESOLUTION[self.resolution]}"
        view, samples = RENDERING[self.camera], self.depth_resolution
        return {
            "image_resolution": self.resolution,
            "disparity_space_sampling": False,
            "clamp_mode": "softplus",
            "superresolution_module": self.sr_module or by_resolution,
            "superresolution_module_semantic": f"{by_resolution}_semantic",
            "c_gen_conditioning_zero": not self.pose_conditioning,
            "gpc_reg_prob": 0.5 if self.pose_conditioning else None,  # recorded as published, read by nothing
            "c_scale": self.c_scale,
            "superresolution_noise_mode": self.sr_noise_mode,
            "density_reg": self.density_reg,
            "density_reg_p_dist": self.density_reg_p_dist,
            "reg_type": self.reg_type,
            "decoder_lr_mul": self.decoder_lr_mul,
            "sr_antialias": True,
            **view,
            "avg_camera_pivot": list(view["avg_camera_pivot"]),
            **({"depth_resolution": samples, "depth_resolution_importance": samples} if samples else {}),
        }


CONFIGS = {
    "seg2cat": GeneratorOptions("afhq", 512, semantic_channels=6, pose_conditioning=True),
    "seg2face": GeneratorOptions("celeba", 512, semantic_channels=19, pose_conditioning=True),
    "edge2car": GeneratorOptions("shapenet", 128, data_type="edge"),
    "edge2cat": GeneratorOptions("afhq", 512, data_type="edge", pose_conditioning=True),
}
RAW_RESOLUTION = {"seg2cat": 128, "seg2face": 128, "edge2car": 64, "edge2cat": 128}  # rendered, before enlargement


def generator_kwargs(cfg: str, **changes: Any) -> dict[str, Any]:
    """Constructor arguments of a published application's generator; `changes` are fields of GeneratorOptions.

    Raises:
        ValueError: a cfg that is not in CONFIGS.
    """
    if cfg not in CONFIGS:
        raise ValueError(f"cfg: expected {', '.join(CONFIGS)}, got {cfg!r}")
    return replace(CONFIGS[cfg], **changes).kwargs()
