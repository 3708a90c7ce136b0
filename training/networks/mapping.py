"""Mapping network of StyleGAN2: latent z and condition c to the style space W (Karras et al. 2020)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from training.networks.layers import FullyConnectedLayer, normalize_2nd_moment


class MappingNetwork(nn.Module):
    """Mapping network: z and an embedded condition c to w, repeated num_ws times.

    Args:
        z_dim: size of the latent z, 0 for none.
        c_dim: size of the condition c, 0 for none.
        num_ws: number of copies of w along a new axis, None to return N,w_dim.
        embed_features, layer_features: widths of the embedded condition and of the hidden layers, None for w_dim.
        lr_multiplier: learning rate of the fully connected layers relative to the optimizer's.
        w_avg_beta: decay of the moving average of w, None to track no average.
        extra_modules: submodules of a derived class, registered between `embed` and `fc0` as in published weights.
        extra_features: size of the vector that a derived class inserts between z and the embedded condition.
        w_avg_shape: shape of the moving average, None for w_dim.
    Raises:
        ValueError: there is neither z, nor c, nor an extra vector.
    """

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int | None,
        num_layers: int = 8,
        embed_features: int | None = None,
        layer_features: int | None = None,
        activation: str = "lrelu",
        lr_multiplier: float = 0.01,
        w_avg_beta: float | None = 0.998,
        extra_modules: Mapping[str, nn.Module] | None = None,
        extra_features: int = 0,
        w_avg_shape: Sequence[int] | None = None,
    ):
        super().__init__()
        if z_dim + c_dim + extra_features <= 0:
            raise ValueError("z_dim, c_dim: expected one of them above 0, got 0 and 0")
        self.z_dim = z_dim
        self.c_dim = c_dim
        self.w_dim = w_dim
        self.num_ws = num_ws
        self.num_layers = num_layers
        self.w_avg_beta = w_avg_beta

        # Moving average of w, the center of the truncation trick. The mapping of a discriminator's condition has none.
        if num_ws is not None and w_avg_beta is not None:
            self.register_buffer("w_avg", torch.zeros(w_avg_shape or [w_dim]))

        # Embedding of the condition, then the modules of a derived class. The order of registration is that of the
        # published state dicts, and optimizer states refer to parameters by their position in it.
        embed_features = w_dim if embed_features is None else embed_features
        if c_dim > 0:
            self.embed = FullyConnectedLayer(c_dim, embed_features)
        else:
            embed_features = 0
        for name, module in (extra_modules or {}).items():
            self.add_module(name, module)

        # Fully connected layers. They learn 100 times slower than the synthesis network (lr_multiplier 0.01), for
        # stability (Karras et al. 2019, appendix C).
        layer_features = w_dim if layer_features is None else layer_features
        widths = [z_dim + extra_features + embed_features, *[layer_features] * (num_layers - 1), w_dim]
        for i, (n_in, n_out) in enumerate(pairwise(widths)):
            layer = FullyConnectedLayer(n_in, n_out, activation=activation, lr_multiplier=lr_multiplier)
            self.add_module(f"fc{i}", layer)

    def map_to_w(self, z: Tensor | None, c: Tensor | None, extra: Tensor | None = None) -> Tensor:
        """Compute one w per sample.

        Args:
            z: N,z_dim.
            c: N,c_dim.
            extra: N,extra_features, already normalized.
        Returns:
            N,w_dim.
        Raises:
            ValueError: z or c of another shape.
        """
        # Normalize the inputs and join them in the order of the published weights: z, extra, c. Without normalization,
        # the scale of a condition would depend on its embedding's weights.
        inputs = []
        if self.z_dim > 0:
            if z is None or z.ndim != 2 or z.shape[1] != self.z_dim:
                raise ValueError(f"z: expected N,{self.z_dim}, got {None if z is None else tuple(z.shape)}")
            inputs.append(normalize_2nd_moment(z.to(torch.float32)))
        if extra is not None:
            inputs.append(extra)
        if self.c_dim > 0:
            if c is None or c.ndim != 2 or c.shape[1] != self.c_dim:
                raise ValueError(f"c: expected N,{self.c_dim}, got {None if c is None else tuple(c.shape)}")
            inputs.append(normalize_2nd_moment(self.embed(c.to(torch.float32))))

        # Fully connected layers, each with activation, also the last: w is not centered at 0.
        x = torch.cat(inputs, dim=1)  # N,z_dim+extra_features+embed_features
        for i in range(self.num_layers):
            x = getattr(self, f"fc{i}")(x)
        return x  # N,w_dim

    def update_w_avg(self, w: Tensor) -> None:
        """Move the average, if one is tracked, towards the mean over the batch of w (N,w_dim or N,num_ws,w_dim)."""
        # w_avg = beta w_avg + (1 - beta) mean(w), in place: w_avg is a buffer of the state dict.
        if hasattr(self, "w_avg"):
            self.w_avg.copy_(w.detach().mean(dim=0).lerp(self.w_avg, self.w_avg_beta))

    def truncate(self, ws: Tensor, psi: float, cutoff: int | None) -> Tensor:
        """Interpolate ws from w_avg (truncation trick, Karras et al. 2019, appendix B).

        Args:
            ws: N,num_ws,w_dim.
            psi: 1 leaves ws unchanged, 0 gives the average.
            cutoff: number of leading ws to truncate, None for all.
        Returns:
            N,num_ws,w_dim.
        Raises:
            ValueError: psi is not 1 and no average is tracked.
        """
        # The usual case costs nothing and needs no average.
        if psi == 1:
            return ws
        if not hasattr(self, "w_avg"):
            raise ValueError("truncation_psi: this mapping network tracks no average of w, so it must be 1")

        # w_avg + psi (ws - w_avg) in the first `cutoff` vectors, which control the coarse resolutions.
        cutoff = self.num_ws if cutoff is None else cutoff
        truncated = self.w_avg.expand(self.num_ws, self.w_dim).lerp(ws, psi)  # N,num_ws,w_dim
        return torch.cat([truncated[:, :cutoff], ws[:, cutoff:]], dim=1)

    def forward(
        self,
        z: Tensor | None,
        c: Tensor | None,
        truncation_psi: float = 1,
        truncation_cutoff: int | None = None,
        update_emas: bool = False,
    ) -> Tensor:
        """Map z (N,z_dim) and c (N,c_dim) to ws (N,num_ws,w_dim), or to N,w_dim where num_ws is None."""
        w = self.map_to_w(z, c)
        if update_emas:
            self.update_w_avg(w)
        if self.num_ws is None:
            return w

        # The same w for every layer; style mixing would insert different ones.
        ws = w.unsqueeze(1).repeat(1, self.num_ws, 1)
        return self.truncate(ws, truncation_psi, truncation_cutoff)
