"""Label-map encoder and conditional mapping network of pix2pix3D (Deng et al. 2023, section 3.1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torch_utils.precision import working_format
from training.networks.discriminator import DiscriminatorBlock
from training.networks.layers import EqualConv2d, block_resolutions, channels_at, normalize_2nd_moment
from training.networks.mapping import MappingNetwork

PUBLISHED_GEOMETRY_LAYERS = 7  # fixed in the published disentangled mappings, whatever geometry_layer they are given
PUBLISHED_CHANNEL_BASE = 32768  # of the encoder
PUBLISHED_CHANNEL_MAX = 512
CONDITIONAL_W_AVG_BETA = 0.995  # decay of the moving average of w in conditional mapping networks


# --------------------------------------------------------------------------- encoder


class Encoder(nn.Module):
    """Encoder of a label map into style vectors: a discriminator's blocks down to 4x4, then a linear projection.

    Args:
        model_kwargs: `num_ws` and `w_dim` of the result; `output_mode` "W+" (num_ws different vectors) or "W" (one
            vector, repeated).
        channel_base: relative to the published width.
    Raises:
        ValueError: unknown output_mode.
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        model_kwargs: Mapping,
        architecture: str = "resnet",
        channel_base: float = 1,
        channel_max: int = PUBLISHED_CHANNEL_MAX,
    ):
        super().__init__()
        output_mode = model_kwargs["output_mode"]
        if output_mode not in ("W", "W+"):
            raise ValueError(f"output_mode: expected W or W+, got {output_mode!r}")

        # Shape of the result. "W" repeats one vector for all layers; "W+" gives each layer its own (Abdal et al. 2019).
        self.num_ws = model_kwargs["num_ws"]
        self.w_dim = model_kwargs["w_dim"]
        self.num_vectors = self.num_ws if output_mode == "W+" else 1
        self.register_buffer("alpha", torch.tensor(-1.0))  # unused, but present in published weights

        # Discriminator blocks down to 4x4, always in float32 and without clamping. Their widths do not follow the
        # backbone's channel_base and channel_max.
        self.resolutions = block_resolutions(img_resolution, smallest=8)[::-1]
        for res in self.resolutions:
            width = channels_at(res, channel_base * PUBLISHED_CHANNEL_BASE, channel_max)
            next_width = channels_at(res // 2, channel_base * PUBLISHED_CHANNEL_BASE, channel_max)
            in_channels = width if res < img_resolution else 0
            block = DiscriminatorBlock(
                in_channels, width, next_width, res, img_channels, first_layer_idx=0, architecture=architecture
            )
            self.add_module(f"b{res}", block)

        # Linear projection of the 4x4 features to all style vectors, as a 4x4 convolution without padding.
        self.projector = EqualConv2d(next_width, self.w_dim * self.num_vectors, 4, bias=False)

    def forward(self, inputs: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Encode a label map.

        Args:
            inputs: N,img_channels,R,R, or a dict with that tensor as "img".
        Returns:
            {"ws": N,num_ws,w_dim}.
        Raises:
            ValueError: another resolution.
        """
        # The number of blocks, and with it the input size, is fixed by the weights.
        img = inputs["img"] if isinstance(inputs, Mapping) else inputs
        size = self.resolutions[0]
        if img.shape[2:] != (size, size):
            raise ValueError(f"label map: expected N,C,{size},{size}, got {tuple(img.shape)}")

        # Halve the resolution in every block; `img` is None after the first, unless the architecture is skip.
        x = None
        for res in self.resolutions:
            x, img = getattr(self, f"b{res}")(x, img)  # N,channels,res/2,res/2

        # Split the projection into vectors, of which "W" repeats the only one.
        x = self.projector(x.to(**working_format(x.device)))  # N,num_vectors*w_dim,1,1
        return {"ws": x.reshape(len(x), self.num_vectors, self.w_dim).expand(-1, self.num_ws, -1)}


# --------------------------------------------------------------------------- mapping


class ConditionalMappingNetwork(MappingNetwork):
    """Mapping network conditioned on a label map: z, pose and label map to ws.

    Disentangled: the encoder gives the first `geometry_layer` style vectors; the fully connected layers give the
    others (texture) from z and pose. Entangled: the encoder gives one normalized vector, which joins z and the
    embedded pose at the input of the fully connected layers.

    Args:
        in_resolution: of the encoder's input, pixels.
        label_resolution: of the label maps if it is a multiple of in_resolution, to which they are averaged (class
            channels become shares of the pixels); None: in_resolution.
        in_channels: classes of the label map; 1 for edges.
        one_hot: the label map holds class ids, to be converted to one-hot channels; False uses its values directly.
        geometry_layer: number of style vectors given by the encoder (disentangled).
        encoder_name: name of the encoder in the state dict.
        encoder_width: width of the encoder's layers relative to the published ones.
        mapping_kwargs: further arguments of MappingNetwork: num_layers, lr_multiplier, ...
    Raises:
        ValueError: geometry_layer out of range, or a layer of the encoder would have no channels.
    """

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int,
        in_resolution: int,
        in_channels: int,
        one_hot: bool,
        disentangle: bool = True,
        geometry_layer: int = PUBLISHED_GEOMETRY_LAYERS,
        encoder_name: str = "embed_mask",
        encoder_width: float = 1,
        label_resolution: int | None = None,
        w_avg_beta: float | None = CONDITIONAL_W_AVG_BETA,
        **mapping_kwargs,
    ):
        if disentangle and not 0 < geometry_layer < num_ws:
            raise ValueError(f"geometry_layer: expected 1 to {num_ws - 1}, got {geometry_layer}")
        label_resolution = in_resolution if label_resolution is None else label_resolution
        if label_resolution < in_resolution or label_resolution % in_resolution:
            raise ValueError(f"label_resolution: expected a multiple of {in_resolution}, got {label_resolution}")

        # Narrow encoders scale both the base and the maximum of the published width.
        channel_max = int(encoder_width * PUBLISHED_CHANNEL_MAX)

        # The encoder is built before the base class: its initial weights come first in the random sequence.
        output = {"num_ws": geometry_layer if disentangle else 1, "w_dim": w_dim, "output_mode": "W+"}
        encoder = Encoder(in_resolution, in_channels, output, channel_base=encoder_width, channel_max=channel_max)
        # The disentangled average has one vector per layer, since those of the geometry differ.
        super().__init__(
            z_dim,
            c_dim,
            w_dim,
            num_ws,
            w_avg_beta=w_avg_beta,
            extra_modules={encoder_name: encoder},
            extra_features=0 if disentangle else w_dim,
            w_avg_shape=[num_ws, w_dim] if disentangle else None,
            **mapping_kwargs,
        )
        self.in_channels = in_channels
        self.one_hot = one_hot
        self.label_resolution = label_resolution
        self.pooling = label_resolution // in_resolution
        self.disentangle = disentangle
        self.geometry_layer = geometry_layer
        self.encoder_name = encoder_name

    def encode(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Encode the label map, the part of the mapping that depends on neither z nor pose.

        Args:
            batch: {"mask": N,1,H,W class ids (one_hot) or N,in_channels,H,W}.
        Returns:
            N,geometry_layer,w_dim (disentangled) or N,w_dim normalized.
        Raises:
            ValueError: the mask is not N,1,H,W (one_hot), or its class ids are out of range (checked on CPU only).
        """
        # Classes become one-hot channels, so that no order among them is implied; edges are used directly.
        label_map = batch["mask"]
        if self.one_hot:
            if label_map.ndim != 4 or label_map.shape[1] != 1:
                raise ValueError(f"mask: expected N,1,H,W class ids, got {tuple(label_map.shape)}")
            ids = label_map.squeeze(1).long()  # N,H,W
            # On other devices, reading the range would wait for the device.
            if ids.device.type == "cpu" and not 0 <= ids.min() <= ids.max() < self.in_channels:
                raise ValueError(
                    f"mask: expected class ids 0 to {self.in_channels - 1}, got {ids.min()} to {ids.max()}"
                )
            label_map = F.one_hot(ids, self.in_channels).permute(0, 3, 1, 2)  # N,in_channels,H,W

        # Style vectors N,geometry_layer,w_dim; a single one is normalized like z, with which it is concatenated.
        encoder = getattr(self, self.encoder_name)
        label_map = label_map.to(torch.float32)
        if self.pooling > 1:
            label_map = F.avg_pool2d(label_map, self.pooling)
        vectors = encoder(label_map)["ws"]
        return vectors if self.disentangle else normalize_2nd_moment(vectors[:, 0])

    def forward(
        self,
        z: Tensor | None,
        c: Tensor | None,
        batch: Mapping[str, Tensor] | None,
        truncation_psi: float = 1,
        truncation_cutoff: int | None = None,
        update_emas: bool = False,
        encoded: Tensor | None = None,
    ) -> Tensor:
        """Map z, pose and label map to style vectors.

        Args:
            z: N,z_dim.
            c: N,c_dim pose.
            batch: {"mask": label map}, see `encode`.
            encoded: result of `encode`, which replaces `batch`; its batch size may be 1.
        Returns:
            ws N,num_ws,w_dim.
        """
        # Encoding takes most of the time, so callers may reuse its result for several z and poses.
        if encoded is None:
            encoded = self.encode(batch)

        if self.disentangle:
            # Geometry from the label map, texture from z and pose. The first layers of the backbone synthesize low
            # resolutions, which determine shape; the later ones determine appearance.
            texture = self.map_to_w(z, c)
            texture_ws = texture.unsqueeze(1).expand(-1, self.num_ws - self.geometry_layer, -1)
            ws = torch.cat([encoded.expand(len(texture), -1, -1), texture_ws], dim=1)
        else:
            # One w from all inputs; the batch size is that of z or c.
            batch_size = next((len(x) for x in (z, c) if x is not None), -1)
            w = self.map_to_w(z, c, encoded.expand(batch_size, -1))
            ws = w.unsqueeze(1).repeat(1, self.num_ws, 1)

        # Entangled ws are copies of one vector.
        if update_emas:
            self.update_w_avg(ws if self.disentangle else ws[:, 0])
        return self.truncate(ws, truncation_psi, truncation_cutoff)


def _published(**options) -> Callable[..., ConditionalMappingNetwork]:
    """Constructor of a published class: `options` are its defaults, and geometry_layer has no effect."""

    # The published command for cars sets geometry_layer to 9, but the weights that it trained have 7 geometry vectors.
    def build(*args, geometry_layer: int | None = None, **kwargs) -> ConditionalMappingNetwork:
        return ConditionalMappingNetwork(*args, **{**options, **kwargs})

    return build


# Mapping networks with label maps, by class name. Only the entangled one of edges calls its encoder embed_edge.
MAPPINGS = {
    "ConditionalMappingNetwork": ConditionalMappingNetwork,
    "MaskMappingNetwork": _published(one_hot=True, disentangle=False),
    "MaskMappingNetwork_disentangle": _published(one_hot=True, disentangle=True),
    "EdgeMappingNetwork": _published(one_hot=False, disentangle=False, encoder_name="embed_edge"),
    "EdgeMappingNetwork_disentangle": _published(one_hot=False, disentangle=True),
}
