"""Radiance decoders: what a point's plane features mean. One class; the published ones are rows of a table.

Every decoder is one or two networks "linear, softplus, linear" (heads). Channel 0 of the last head is the raw
density. Colors go through a sigmoid a little wider than [0, 1]; label channels do too if there is one of them (edge
maps), and are logits as they are if there are several.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.networks.synthesis import FullyConnectedLayer

HIDDEN_WIDTH = 64
SIGMOID_WIDENING = 0.001  # keeps the sigmoid's gradient alive at pure black and white (Barron et al. 2021)
RGB_CHANNELS = 3


@dataclass(frozen=True)
class HeadForm:
    """A network of a decoder.

    Args:
        name: its state name.
        labels: which of its outputs are label channels: none, all, or the S that follow three colors.
    """

    name: str
    labels: str = "none"

    def logits(self, channels: int, semantic_channels: int) -> slice:
        """The outputs, density not counted, that no sigmoid bounds."""
        if self.labels == "none" or semantic_channels == 1:
            return slice(0, 0)
        if self.labels == "all":
            return slice(0, channels)
        return slice(RGB_CHANNELS, RGB_CHANNELS + semantic_channels)


FORMS = {
    "OSGDecoder": (HeadForm("net"),),
    "OSGDecoder_semantic": (HeadForm("net", labels="all"),),
    "OSGDecoder_semantic_entangle": (HeadForm("net", labels="after_rgb"),),
    "OSGDecoder_semantic_lateSeparate": (HeadForm("net"), HeadForm("net_semantic", labels="all")),
}


def widened_sigmoid(x: Tensor) -> Tensor:
    """Sigmoid with the range (-0.001, 1.001)."""
    return torch.sigmoid(x) * (1 + 2 * SIGMOID_WIDENING) - SIGMOID_WIDENING


def _activate(x: Tensor, logits: slice) -> Tensor:
    """Widened sigmoid of all channels but those of `logits`."""
    if logits == slice(0, 0):
        return widened_sigmoid(x)
    bounded = (x[..., : logits.start], x[..., logits.stop :])
    return torch.cat([widened_sigmoid(bounded[0]), x[..., logits], widened_sigmoid(bounded[1])], dim=-1)


class Head(NamedTuple):
    """A head's weights with their gains multiplied in, for evaluating many points in pieces.

    `inputs` are the feature channels that it reads, `logits` its outputs (density not counted) without sigmoid.
    """

    weight0: Tensor  # in,hidden
    bias0: Tensor
    weight1: Tensor  # hidden,1+out
    bias1: Tensor
    inputs: slice
    logits: slice

    @property
    def linear(self) -> bool:
        """Whether the last layer has no activation at all."""
        return self.logits == slice(0, self.bias1.shape[0] - 1)

    def hidden(self, features: Tensor) -> Tensor:
        """K,in to K,hidden."""
        return F.softplus(torch.addmm(self.bias0, features[:, self.inputs], self.weight0))


def density(heads: Sequence[Head], features: Tensor) -> Tensor:
    """Raw density (...,1) from features (...,C): one head and one of its outputs."""
    head = heads[-1]
    sigma = torch.addmm(head.bias1[:1], head.hidden(features.flatten(0, -2)), head.weight1[:, :1])
    return sigma.unflatten(0, features.shape[:-1])


def evaluate(heads: Sequence[Head], features: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """What has to be computed at every sample, and no more.

    Args:
        features: ...,C mean of the planes.
    Returns:
        One tensor (...,any) a head: its outputs, or its hidden values where its last layer is linear and can
        therefore wait until after the sum along the ray (`read_out`); and the raw density ...,1.
    """
    flat, shape = features.flatten(0, -2), features.shape[:-1]
    parts = []
    for head in heads:
        hidden = head.hidden(flat)
        last = head is heads[-1]
        if head.linear:
            parts.append(hidden)
            if last:
                sigma = torch.addmm(head.bias1[:1], hidden, head.weight1[:, :1])
        elif last:
            out = torch.addmm(head.bias1, hidden, head.weight1)
            sigma, out = out[:, :1], out[:, 1:]
            parts.append(_activate(out, head.logits))
        else:
            parts.append(_activate(torch.addmm(head.bias1[1:], hidden, head.weight1[:, 1:]), head.logits))
    return tuple(part.unflatten(0, shape) for part in parts), sigma.unflatten(0, shape)


def read_out(heads: Sequence[Head], parts: Sequence[Tensor], weight_sum: Tensor) -> Tensor:
    """Features (...,F) from weighted sums of `evaluate`'s parts (...,any) and the sum of those weights (...,1)."""
    done = [
        part @ head.weight1[:, 1:] + weight_sum * head.bias1[1:] if head.linear else part
        for head, part in zip(heads, parts, strict=True)
    ]
    return torch.cat(done, dim=-1)


class Decoder(nn.Module):
    """Features and raw density from the samples of three planes.

    Args:
        n_features: channels of the plane features.
        options: `decoder_output_dim`, channels of each head without the density; `decoder_lr_mul` (1 if absent);
            `semantic_channels` S, for the forms with labels.
        form: a key of FORMS.
    Raises:
        ValueError: an option is missing, or the label channels are more than a head has.
    """

    def __init__(self, n_features: int, options: Mapping[str, float], form: str = "OSGDecoder"):
        super().__init__()
        self.forms = FORMS[form]
        with_labels = any(head.labels != "none" for head in self.forms)
        required = ["decoder_output_dim", *(["semantic_channels"] if with_labels else [])]
        if missing := [name for name in required if name not in options]:
            raise ValueError(f"{form}: options lack {', '.join(missing)}; got {', '.join(options) or 'none'}")
        self.output_dim = int(options["decoder_output_dim"])
        self.semantic_channels = int(options["semantic_channels"]) if with_labels else 0
        if not int(with_labels) <= self.semantic_channels <= self.output_dim:
            raise ValueError(f"{form}: semantic_channels must be 1 to {self.output_dim}, got {self.semantic_channels}")
        lr_multiplier = options.get("decoder_lr_mul", 1)
        for head in self.forms:
            net = nn.Sequential(
                FullyConnectedLayer(n_features, HIDDEN_WIDTH, lr_multiplier=lr_multiplier),
                nn.Softplus(),
                FullyConnectedLayer(HIDDEN_WIDTH, 1 + self.output_dim, lr_multiplier=lr_multiplier),
            )
            self.add_module(head.name, net)

    def forward(self, sampled_features: Tensor, ray_directions: Tensor | None = None) -> dict[str, Tensor]:
        """Decode plane samples: the plain form, under the published names.

        Args:
            sampled_features: N,3,M,C of the three planes.
            ray_directions: N,M,3; the published decoders are given them and do not look at them.
        Returns:
            `rgb` N,M,F, all features in the order of the heads, and `sigma` N,M,1.
        """
        rgb, sigma = self.decode(sampled_features.mean(dim=1))
        return {"rgb": rgb, "sigma": sigma}

    def decode(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features ...,F and raw density ...,1 from the planes' mean (...,C)."""
        outputs = []
        for head in self.forms:
            out = self.get_submodule(head.name)(features)
            outputs.append(_activate(out[..., 1:], head.logits(self.output_dim, self.semantic_channels)))
        return torch.cat(outputs, dim=-1), out[..., :1]

    def heads(self, inputs: slice = slice(None)) -> list[Head]:
        """The heads for `evaluate`, reading the channels `inputs`; gradients reach the weights."""
        heads = []
        for form in self.forms:
            first, _, last = self.get_submodule(form.name)
            weights = (t for fc in (first, last) for t in (fc.weight.T * fc.weight_gain, fc.bias * fc.bias_gain))
            heads.append(Head(*weights, inputs, form.logits(self.output_dim, self.semantic_channels)))
        return heads


@dataclass(frozen=True)
class DecoderPair:
    """Two decoders on texture and label planes whose channels are joined, texture first.

    Args:
        texture: reads all channels; its density is not used.
        semantic: reads the second half; gives labels and density.
    """

    texture: Decoder
    semantic: Decoder

    def decode(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features ...,F (color, then labels) and raw density ...,1 from the mean of the joined planes (...,C)."""
        color, _ = self.texture.decode(features)
        labels, sigma = self.semantic.decode(features[..., features.shape[-1] // 2 :])
        return torch.cat([color, labels], dim=-1), sigma

    def heads(self) -> list[Head]:
        """The heads of both for `evaluate`."""
        width = self.texture.get_submodule("net")[0].weight.shape[1]
        return [*self.texture.heads(), *self.semantic.heads(slice(width // 2, width))]
