"""Registry of networks by their published class names, with the arguments from which each network was built."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from torch import nn

from training.networks.augment import AugmentPipe
from training.networks.decoders import DECODERS, Decoder
from training.networks.discriminator import (
    Discriminator,
    DiscriminatorBlock,
    DiscriminatorEpilogue,
    DualDiscriminator,
    DummyDualDiscriminator,
    MinibatchStdLayer,
    SingleDiscriminator,
)
from training.networks.generator import GENERATORS
from training.networks.label_encoder import MAPPINGS, Encoder
from training.networks.layers import Conv2dLayer, EqualConv2d, FullyConnectedLayer
from training.networks.mapping import MappingNetwork
from training.networks.style_encoder import StyleEncoder
from training.networks.superresolution import SUPERRESOLUTIONS
from training.networks.synthesis import Generator, SynthesisBlock, SynthesisLayer, SynthesisNetwork, ToRGBLayer

# Classes that keep their published name. Layers and blocks are here too, since golden tests build them by name.
_CLASSES = (
    AugmentPipe, Encoder, Generator, MappingNetwork, StyleEncoder,
    Conv2dLayer, EqualConv2d, FullyConnectedLayer,
    SynthesisBlock, SynthesisLayer, SynthesisNetwork, ToRGBLayer,
    Discriminator, DiscriminatorBlock, DiscriminatorEpilogue, MinibatchStdLayer,
    DualDiscriminator, DummyDualDiscriminator, SingleDiscriminator,
)  # fmt: skip

# Constructors by published name. Variants are rows of tables, published names of one class are aliases.
NETWORKS = {
    **{cls.__name__: cls for cls in _CLASSES},
    "Generator_cond": Generator,
    "SynthesisBlockNoUp": partial(SynthesisBlock, up=1),
    **MAPPINGS,
    **SUPERRESOLUTIONS,
    **{name: partial(Decoder, class_name=name) for name in DECODERS},
    **GENERATORS,
}


def construct(class_name: str, init_kwargs: Mapping) -> nn.Module:
    """Build a network from its published class name and constructor arguments.

    Args:
        class_name: a key of NETWORKS, or a dotted name whose last component is one.
    Raises:
        ValueError: unknown name, or arguments that the class does not accept.
    """
    # Published module paths differ from ours, so only the last component of the name counts. It is looked up, never
    # imported: names come from weights files, which must not choose what code runs.
    name = class_name.rsplit(".", 1)[-1]
    if name not in NETWORKS:
        raise ValueError(f"network class: expected one of {', '.join(sorted(NETWORKS))}, got {class_name!r}")
    try:
        module = NETWORKS[name](**init_kwargs)
    except TypeError as error:
        raise ValueError(f"{name}: constructor arguments do not fit: {error}") from error

    # Weights files store class name and arguments; modules do not remember theirs.
    module.built_from = (name, dict(init_kwargs))
    return module


def describe(module: nn.Module) -> tuple[str, dict]:
    """Return the class name and the constructor arguments from which `construct` built a network.

    Raises:
        ValueError: the network was not built by `construct`.
    """
    # Without its arguments, a network could be saved but not built again.
    if not hasattr(module, "built_from"):
        raise ValueError(f"{type(module).__name__}: not built by construct(), so its arguments are not known")
    return module.built_from
