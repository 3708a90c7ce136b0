"""Label maps into the style space: the encoder and the one conditional mapping network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torch_utils.precision import working_format
from training.networks.discriminator import DiscriminatorBlock
from training.networks.synthesis import (
    MappingNetwork,
    block_resolutions,
    channels_at,
    normalize_2nd_moment,
)

PUBLISHED_GEOMETRY_LAYERS = 7  # fixed in the published disentangled mappings, whatever their argument says
PUBLISHED_CHANNEL_MAX = 512  # of the encoder
CONDITIONAL_BETA = 0.995  # decay of the tracked mean of w, where label maps condition it


class EqualConv2d(nn.Module):
    """Convolution with equalized learning rate: weight N(0,1), scaled by 1/sqrt(in k k) when used."""

    def __init__(
        self, in_channel: int, out_channel: int, kernel_size: int, stride: int = 1, padding: int = 0, bias: bool = True
    ):
        super().__init__()
        self.stride, self.padding = stride, padding
        self.weight = nn.Parameter(torch.randn(out_channel, in_channel, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channel)) if bias else None
        self.weight_gain = 1 / math.sqrt(in_channel * kernel_size**2)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.weight_gain, self.bias, stride=self.stride, padding=self.padding)


class Encoder(nn.Module):
    """Label map to vectors of the style space, through a discriminator's trunk down to 4x4.

    Args:
        model_kwargs: num_ws and w_dim of the result; output_mode "W+" (num_ws different vectors) or "W" (one,
            repeated).
        channel_base: in units of 32768, so that 1 gives the published widths.
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
        self.num_ws, self.w_dim = model_kwargs["num_ws"], model_kwargs["w_dim"]
        mode = model_kwargs["output_mode"]
        if mode not in ("W", "W+"):
            raise ValueError(f"output_mode: expected W or W+, got {mode!r}")
        self.vectors = self.num_ws if mode == "W+" else 1
        self.register_buffer("alpha", torch.tensor(-1.0))  # unused; published weights hold it
        self.resolutions = block_resolutions(img_resolution, smallest=8)[::-1]
        for res in self.resolutions:
            n_in, n_out = (channels_at(r, channel_base * 32768, channel_max) for r in (res, res // 2))
            block = DiscriminatorBlock(
                n_in if res < img_resolution else 0, n_in, n_out, res, img_channels, 0, architecture=architecture
            )
            self.add_module(f"b{res}", block)
        self.projector = EqualConv2d(n_out, self.w_dim * self.vectors, 4, bias=False)

    def forward(self, inputs: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
        """{"ws": N,num_ws,w_dim} from N,img_channels,R,R, given as it is or under "img"."""
        x, img = None, inputs["img"] if isinstance(inputs, Mapping) else inputs
        if img.shape[2:] != (self.resolutions[0],) * 2:
            raise ValueError(
                f"label map: expected N,C,{self.resolutions[0]},{self.resolutions[0]}, got {tuple(img.shape)}"
            )
        for res in self.resolutions:
            x, img = getattr(self, f"b{res}")(x, img)
        x = self.projector(x.to(**working_format(x.device)))
        return {"ws": x.reshape(len(x), self.vectors, self.w_dim).expand(-1, self.num_ws, -1)}


class ConditionalMappingNetwork(MappingNetwork):
    """z, pose and label map to ws.

    Entangled: the encoder gives one normalized vector that joins z and the embedded pose before the fully
    connected layers. Disentangled: it gives the first `geometry_layer` of ws, and z with the pose all others.

    Args:
        in_resolution, in_channels: size and channels (classes; 1 for edges) of the label map.
        one_hot: the label map holds class ids, to be spread over in_channels; False takes it as it is.
        encoder_name: name of the encoder in the state.
        encoder_width: of its layers, relative to the published ones.
    Raises:
        ValueError: no such layers; a width that leaves a layer without channels.
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
        num_layers: int = 8,
        embed_features: int | None = None,
        layer_features: int | None = None,
        activation: str = "lrelu",
        lr_multiplier: float = 0.01,
        w_avg_beta: float | None = CONDITIONAL_BETA,
    ):
        if disentangle and not 0 < geometry_layer < num_ws:
            raise ValueError(f"geometry_layer: expected 1 to {num_ws - 1}, got {geometry_layer}")
        form = {"num_ws": geometry_layer if disentangle else 1, "w_dim": w_dim, "output_mode": "W+"}
        widths = {"channel_base": encoder_width, "channel_max": int(encoder_width * PUBLISHED_CHANNEL_MAX)}
        if not encoder_width > 0 or not min(widths["channel_max"], encoder_width * 32768 // in_resolution):
            raise ValueError(f"encoder_width: {encoder_width} leaves a layer without channels")
        super().__init__(
            z_dim,
            c_dim,
            w_dim,
            num_ws,
            num_layers=num_layers,
            embed_features=embed_features,
            layer_features=layer_features,
            activation=activation,
            lr_multiplier=lr_multiplier,
            w_avg_beta=w_avg_beta,
            extra={encoder_name: Encoder(in_resolution, in_channels, form, **widths)},
            extra_features=0 if disentangle else w_dim,
            average_shape=[num_ws, w_dim] if disentangle else None,
        )
        self.in_channels, self.one_hot, self.disentangle = in_channels, one_hot, disentangle
        self.geometry_layer, self.encoder_name = geometry_layer, encoder_name

    def encode(self, batch: Mapping[str, Tensor]) -> Tensor:
        """What the label map batch["mask"] alone gives: N,geometry_layer,w_dim or (entangled) N,w_dim.

        Raises:
            ValueError: the label map is not N,1,H,W (one_hot), or, on a CPU, its class ids do not fit.
        """
        label_map = batch["mask"]
        if self.one_hot:
            if label_map.ndim != 4 or label_map.shape[1] != 1:
                raise ValueError(f"mask: expected N,1,H,W class ids, got {tuple(label_map.shape)}")
            ids = label_map.squeeze(1).long()
            if ids.device.type == "cpu" and not 0 <= ids.min() <= ids.max() < self.in_channels:  # elsewhere it waits
                raise ValueError(
                    f"mask: expected class ids 0 to {self.in_channels - 1}, got {ids.min()} to {ids.max()}"
                )
            label_map = F.one_hot(ids, self.in_channels).permute(0, 3, 1, 2)
        vectors = getattr(self, self.encoder_name)(label_map.to(torch.float32))["ws"]
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
        """ws N,num_ws,w_dim; `encoded` is an earlier result of `encode`, used in place of batch."""
        encoded = self.encode(batch) if encoded is None else encoded
        if self.disentangle:
            texture = self.fully_connected(z, c)
            rest = texture.unsqueeze(1).expand(-1, self.num_ws - self.geometry_layer, -1)
            ws = torch.cat([encoded.expand(len(rest), -1, -1), rest], dim=1)
        else:
            encoded = encoded.expand(next((len(t) for t in (z, c) if t is not None), -1), -1)
            ws = self.fully_connected(z, c, encoded).unsqueeze(1).repeat(1, self.num_ws, 1)
        if update_emas:
            self.track(ws if self.disentangle else ws[:, 0])
        return self.truncate(ws, truncation_psi, truncation_cutoff)


def _published(seg: bool, disentangle: bool) -> Callable[..., ConditionalMappingNetwork]:
    """A published class. one_hot exists for class ids only; geometry_layer is taken and ignored, as it is there."""

    def build(*args, geometry_layer: int | None = None, **kwargs) -> ConditionalMappingNetwork:
        if not seg and "one_hot" in kwargs:
            raise TypeError("one_hot: edge maps have no classes")
        if "encoder_width" in kwargs:
            raise TypeError("encoder_width: published encoders have one width")
        one_hot = kwargs.pop("one_hot", True)
        name = "embed_edge" if not seg and not disentangle else "embed_mask"
        return ConditionalMappingNetwork(
            *args, one_hot=seg and one_hot, disentangle=disentangle, encoder_name=name, **kwargs
        )

    return build


MAPPINGS = {
    "ConditionalMappingNetwork": ConditionalMappingNetwork,
    "MaskMappingNetwork": _published(seg=True, disentangle=False),
    "MaskMappingNetwork_disentangle": _published(seg=True, disentangle=True),
    "EdgeMappingNetwork": _published(seg=False, disentangle=False),
    "EdgeMappingNetwork_disentangle": _published(seg=False, disentangle=True),
}
