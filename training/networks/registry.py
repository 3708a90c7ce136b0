"""Networks by their public class names, and what a network was built from."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from torch import nn

from training.networks.augment import AugmentPipe
from training.networks.backbone import Generator
from training.networks.decoders import FORMS, Decoder
from training.networks.discriminator import Discriminator, DiscriminatorBlock, DiscriminatorEpilogue, MinibatchStdLayer
from training.networks.dual_discriminator import DualDiscriminator, DummyDualDiscriminator, SingleDiscriminator
from training.networks.generator import GENERATORS
from training.networks.label_encoder import MAPPINGS, Encoder, EqualConv2d
from training.networks.superresolution import SUPERRESOLUTIONS
from training.networks.synthesis import (
    Conv2dLayer,
    FullyConnectedLayer,
    MappingNetwork,
    SynthesisBlock,
    SynthesisLayer,
    SynthesisNetwork,
    ToRGBLayer,
)

_SAME_NAME = (
    AugmentPipe,
    Conv2dLayer,
    Discriminator,
    DiscriminatorBlock,
    DiscriminatorEpilogue,
    DualDiscriminator,
    DummyDualDiscriminator,
    Encoder,
    EqualConv2d,
    FullyConnectedLayer,
    Generator,
    MappingNetwork,
    MinibatchStdLayer,
    SingleDiscriminator,
    SynthesisBlock,
    SynthesisLayer,
    SynthesisNetwork,
    ToRGBLayer,
)
NETWORKS = {
    **{cls.__name__: cls for cls in _SAME_NAME},
    "Generator_cond": Generator,
    "SynthesisBlockNoUp": partial(SynthesisBlock, up=1),
    **MAPPINGS,
    **SUPERRESOLUTIONS,
    **{name: partial(Decoder, form=name) for name in FORMS},
    **GENERATORS,
}


def construct(class_name: str, init_kwargs: Mapping) -> nn.Module:
    """Build a network from its public class name (dotted or not) and its public constructor arguments.

    Raises:
        ValueError: unknown name, or arguments that the class does not take.
    """
    name = class_name.rsplit(".", 1)[-1]
    if name not in NETWORKS:
        raise ValueError(f"network class: expected one of {', '.join(sorted(NETWORKS))}, got {class_name!r}")
    try:
        module = NETWORKS[name](**init_kwargs)
    except TypeError as error:
        raise ValueError(f"{name}: constructor arguments do not fit: {error}") from error
    module.built_from = (name, dict(init_kwargs))
    return module


def describe(module: nn.Module) -> tuple[str, dict]:
    """Class name and constructor arguments that `construct` built a network from.

    Raises:
        ValueError: the network was not built by `construct`.
    """
    if not hasattr(module, "built_from"):
        raise ValueError(f"{type(module).__name__}: not built by construct(), so its arguments are not known")
    return module.built_from
