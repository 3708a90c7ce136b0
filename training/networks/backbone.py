"""A mapping and a synthesis network: the 2D generator that draws tri-planes."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, nn

from training.networks.label_encoder import MAPPINGS
from training.networks.synthesis import MappingNetwork, SynthesisNetwork

PUBLISHED_PLANE_RESOLUTION = 256


def count_ws(resolution: int) -> int:
    """Vectors that a synthesis network of this resolution takes."""
    return 2 * int(math.log2(resolution)) - 2


class Generator(nn.Module):
    """StyleGAN2's generator, with the mapping network that mapping_kwargs["class_name"] asks for.

    Args:
        mapping_kwargs: arguments of the mapping network; class_name (dotted or not) chooses a conditional one.
        synthesis_kwargs: arguments of SynthesisNetwork.
    """

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        mapping_kwargs: Mapping | None = None,
        **synthesis_kwargs,
    ):
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim = z_dim, c_dim, w_dim
        self.img_resolution, self.img_channels = img_resolution, img_channels
        self.synthesis = SynthesisNetwork(w_dim, img_resolution, img_channels, **synthesis_kwargs)
        self.num_ws = self.synthesis.num_ws
        kwargs = dict(mapping_kwargs or {})
        name = kwargs.pop("class_name", None)
        build = MappingNetwork if name is None else _mapping_class(name)
        self.mapping = build(z_dim, c_dim, w_dim, self.num_ws, **kwargs)

    def forward(
        self,
        z: Tensor,
        c: Tensor | None,
        truncation_psi: float = 1,
        truncation_cutoff: int | None = None,
        update_emas: bool = False,
        noise_mode: str = "random",
    ) -> Tensor:
        """N,img_channels,R,R from z and c, for a mapping network without a label map."""
        return self.synthesis(self.mapping(z, c, truncation_psi, truncation_cutoff, update_emas), noise_mode)


def _mapping_class(name: str):
    build = MAPPINGS.get(name.rsplit(".", 1)[-1])
    if build is None:
        raise ValueError(f"mapping class_name: expected one of {', '.join(MAPPINGS)}, got {name!r}")
    return build
