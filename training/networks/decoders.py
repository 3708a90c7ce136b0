"""Radiance decoders: MLPs from tri-plane features to color, labels and raw density (Chan et al. 2022, section 4.1).

A decoder is one or two MLPs ("heads") of the form linear, softplus, linear. Channel 0 of the last head is the raw
density. Colors, and labels with a single channel (edges), pass through a slightly widened sigmoid; labels with several
channels are logits without activation.

Deferred features: a head whose last layer is linear commutes with compositing. With weights w_t and hidden values h_t
of the samples on a ray,

    sum_t w_t (A h_t + b) = A (sum_t w_t h_t) + b sum_t w_t,

so it suffices to composite the hidden values and to apply the last layer once per ray instead of once per sample.
`decode_deferred` computes what has to be composited, `finish_features` applies the last layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from torch_utils.ops.softplus import softplus_
from training.networks.layers import FullyConnectedLayer

HIDDEN_WIDTH = 64
SIGMOID_WIDENING = 0.001  # keeps the sigmoid's gradient alive at pure black and white (Barron et al. 2021)
RGB_CHANNELS = 3


@dataclass(frozen=True)
class HeadSpec:
    """One MLP of a decoder.

    Args:
        name: of the module in the state dict.
        labels: which outputs are label channels: none, all, or after_rgb (the S channels that follow three colors).
    """

    name: str
    labels: str = "none"

    def logits(self, channels: int, semantic_channels: int) -> slice:
        """Slice of the `channels` outputs, density excluded, that have no sigmoid."""
        # A single label channel is an edge map, which has a bounded range like colors.
        if self.labels == "none" or semantic_channels == 1:
            return slice(0, 0)
        if self.labels == "all":
            return slice(0, channels)
        return slice(RGB_CHANNELS, RGB_CHANNELS + semantic_channels)


# Heads of the published decoder classes. The last one, of pix2pix3D's generators, computes colors and labels with
# separate MLPs on the same features; density comes with the labels, so that labels and geometry agree.
DECODERS = {
    "OSGDecoder": (HeadSpec("net"),),
    "OSGDecoder_semantic": (HeadSpec("net", labels="all"),),
    "OSGDecoder_semantic_entangle": (HeadSpec("net", labels="after_rgb"),),
    "OSGDecoder_semantic_lateSeparate": (HeadSpec("net"), HeadSpec("net_semantic", labels="all")),
}


# --------------------------------------------------------------------------- modules


class Decoder(nn.Module):
    """Decoder of plane features to output features and raw density.

    Args:
        n_features: channels C of the plane features.
        options: `decoder_output_dim`, channels of each head without the density; `decoder_lr_mul`, learning rate
            relative to the optimizer's (default 1); `semantic_channels` S, required by decoders with labels.
        class_name: a key of DECODERS.
    Raises:
        KeyError: a missing option.
    """

    def __init__(self, n_features: int, options: Mapping[str, float], class_name: str = "OSGDecoder"):
        super().__init__()
        self.specs = DECODERS[class_name]

        with_labels = any(spec.labels != "none" for spec in self.specs)
        self.output_dim = int(options["decoder_output_dim"])
        self.semantic_channels = int(options["semantic_channels"]) if with_labels else 0

        # One MLP per head, whose modules 0 and 2 hold the weights. Every head has a density, even where it is not used.
        lr_multiplier = options.get("decoder_lr_mul", 1)
        for spec in self.specs:
            net = nn.Sequential(
                FullyConnectedLayer(n_features, HIDDEN_WIDTH, lr_multiplier=lr_multiplier),
                nn.Softplus(),
                FullyConnectedLayer(HIDDEN_WIDTH, 1 + self.output_dim, lr_multiplier=lr_multiplier),
            )
            self.add_module(spec.name, net)

    def forward(self, sampled_features: Tensor, ray_directions: Tensor | None = None) -> dict[str, Tensor]:
        """Decode samples of the three planes (the published interface).

        Args:
            sampled_features: N,3,K,C, one sample from each plane.
            ray_directions: N,K,3, accepted for compatibility; the published decoders ignore them.
        Returns:
            `rgb` N,K,F, the features of all heads in order, and `sigma` N,K,1.
        """
        # The published decoders take the mean over the planes, where EG3D's paper has their sum.
        rgb, sigma = self.decode(sampled_features.mean(dim=1))
        return {"rgb": rgb, "sigma": sigma}

    def decode(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Decode plane features.

        Args:
            features: mean over the planes, shape ...,C.
        Returns:
            Features ...,F, the heads' outputs in order; raw density ...,1.
        """
        outputs = []
        for spec in self.specs:
            out = self.get_submodule(spec.name)(features)  # ...,1+output_dim
            outputs.append(_activate(out[..., 1:], spec.logits(self.output_dim, self.semantic_channels)))

        # Density comes from the last head; channel 0 of the others is not used.
        sigma = out[..., :1]
        return torch.cat(outputs, dim=-1), sigma

    def heads(self, inputs: slice = slice(None)) -> list[HeadWeights]:
        """Fold gains into the heads' weights, for the functions below; gradients reach the parameters.

        Args:
            inputs: the channels of the plane features that this decoder reads.
        """
        heads = []
        for spec in self.specs:
            # Linear, softplus, linear. Transposed once here, as addmm multiplies from the right.
            first, _, last = self.get_submodule(spec.name)
            head = HeadWeights(
                weight0=first.weight.T * first.weight_gain,
                bias0=first.bias * first.bias_gain,
                weight1=last.weight.T * last.weight_gain,
                bias1=last.bias * last.bias_gain,
                inputs=inputs,
                logits=spec.logits(self.output_dim, self.semantic_channels),
            )
            heads.append(head)
        return heads


@dataclass(frozen=True)
class DecoderPair:
    """Two decoders on texture and label planes, whose channels are concatenated, texture first.

    Args:
        texture: reads all channels and gives the color; its density is not used.
        semantic: reads the second half of the channels and gives labels and density.
    """

    texture: Decoder
    semantic: Decoder

    def decode(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Decode plane features.

        Args:
            features: mean over the joined planes, shape ...,C.
        Returns:
            Features ...,F, color first, then labels; raw density ...,1.
        """
        # Color depends on texture and labels, so it follows the geometry; labels do not depend on texture.
        color, _ = self.texture.decode(features)
        labels, sigma = self.semantic.decode(features[..., features.shape[-1] // 2 :])
        return torch.cat([color, labels], dim=-1), sigma

    def heads(self) -> list[HeadWeights]:
        """Fold gains into the weights of both decoders' heads, see `Decoder.heads`."""
        # Both read the same joined features, of which the labels' are the second half.
        width = self.texture.get_submodule("net")[0].weight.shape[1]
        return [*self.texture.heads(), *self.semantic.heads(slice(width // 2, width))]


# --------------------------------------------------------------------------- evaluation with folded weights


class HeadWeights(NamedTuple):
    """Weights of one head with gains folded in, for evaluating many points in chunks.

    `inputs` selects the feature channels that the head reads, `logits` its outputs (density excluded) without sigmoid.
    """

    weight0: Tensor  # C,hidden
    bias0: Tensor  # hidden
    weight1: Tensor  # hidden,1+output_dim
    bias1: Tensor  # 1+output_dim
    inputs: slice
    logits: slice

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Weights and biases of both layers."""
        return self.weight0, self.bias0, self.weight1, self.bias1

    @property
    def is_linear(self) -> bool:
        """Whether no output has an activation, so that the last layer can be deferred."""
        # The bias has one more element than the logits, for the density.
        return self.logits == slice(0, self.bias1.shape[0] - 1)

    def hidden(self, features: Tensor) -> Tensor:
        """Hidden values K,hidden from features K,C."""
        return softplus_(torch.addmm(self.bias0, features[:, self.inputs], self.weight0))


def decode_sigma(heads: Sequence[HeadWeights], features: Tensor) -> Tensor:
    """Decode the raw density alone, one output of the last head: shape ...,1 from features of shape ...,C."""
    # One column of the last layer: for a density grid, this saves half of the decoder's multiplications and more.
    head = heads[-1]
    sigma = torch.addmm(head.bias1[:1], head.hidden(features.flatten(0, -2)), head.weight1[:, :1])
    return sigma.unflatten(0, features.shape[:-1])


def decode_deferred(heads: Sequence[HeadWeights], features: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """Decode what has to be computed at every sample (see the module's docstring).

    Args:
        features: mean over the planes, shape ...,C.
    Returns:
        One tensor per head: ...,hidden where the last layer is deferred, else ...,output_dim; raw density ...,1.
    """
    # One matrix product over all points is faster than a batched one.
    flat = features.flatten(0, -2)  # K,C
    deferred = []
    for head in heads:
        hidden = head.hidden(flat)  # K,hidden
        has_density = head is heads[-1]
        if head.is_linear:
            # Composite the hidden values; only the density is needed at every sample.
            deferred.append(hidden)
            if has_density:
                sigma = torch.addmm(head.bias1[:1], hidden, head.weight1[:, :1])
        elif has_density:
            # All outputs at every sample: compositing does not commute with the sigmoid.
            out = torch.addmm(head.bias1, hidden, head.weight1)
            sigma = out[:, :1]
            deferred.append(_activate(out[:, 1:], head.logits))
        else:
            # All outputs but the density, which is not used.
            out = torch.addmm(head.bias1[1:], hidden, head.weight1[:, 1:])
            deferred.append(_activate(out, head.logits))

    shape = features.shape[:-1]
    return tuple(x.unflatten(0, shape) for x in deferred), sigma.unflatten(0, shape)


def finish_features(heads: Sequence[HeadWeights], composited: Sequence[Tensor], weight_sum: Tensor) -> Tensor:
    """Apply the deferred last layers.

    Args:
        composited: per head, the weighted sum over samples of the result of `decode_deferred`, shape ...,any.
        weight_sum: ...,1 sum of those weights.
    Returns:
        Composited features ...,F.
    """
    # Heads whose outputs have activations were decoded at every sample, so nothing is left to do for them.
    features = []
    for head, x in zip(heads, composited, strict=True):
        # sum_t w_t (A h_t + b) = A sum_t w_t h_t + b sum_t w_t. Where light is left, the sum of weights is below 1 and
        # scales the bias.
        if head.is_linear:
            x = x @ head.weight1[:, 1:] + weight_sum * head.bias1[1:]
        features.append(x)
    return torch.cat(features, dim=-1)


def widened_sigmoid(x: Tensor) -> Tensor:
    """Sigmoid with the range (-0.001, 1.001), any shape."""
    return torch.sigmoid(x) * (1 + 2 * SIGMOID_WIDENING) - SIGMOID_WIDENING


def _activate(x: Tensor, logits: slice) -> Tensor:
    """Apply the widened sigmoid to all channels of x (...,F) outside of `logits`."""
    # Without logits, the usual case of colors, a copy is saved.
    if logits == slice(0, 0):
        return widened_sigmoid(x)
    before = widened_sigmoid(x[..., : logits.start])
    after = widened_sigmoid(x[..., logits.stop :])
    return torch.cat([before, x[..., logits], after], dim=-1)
