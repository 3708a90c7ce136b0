"""The result of projecting a photo into a generator, and its file."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dnnlib.errors import ConfigError
from dnnlib.limits import MAX_WEIGHTS_BYTES
from dnnlib.util import atomic_write, read_file
from inference.generator import network_digest
from inference.inputs import to_label_map
from inference.latents import latent_ws
from torch_utils.safe_pickle import WeightsError
from training.networks.generator import TriPlane
from training.weights.record import to_plain_data
from training.weights.safetensors_file import dump_safetensors, load_safetensors
from training.weights.tensors import check_tensors

FORMAT = "pix2pix3d-projection"
VERSION = 1
SUFFIX = ".safetensors"

# Names of tensors in a file; tuned weights follow with this prefix.
TENSORS = ("z", "offset", "pose", "label_map")
WEIGHTS_PREFIX = "weights."


@dataclass(frozen=True, eq=False)
class Projection:
    """A style that reproduces a photo: a latent code, an offset of ws, and perhaps weights of the generator.

    With the label map of the photo it reproduces the photo's scene, with another label map an edited scene.

    Args:
        z: 1,z_dim.
        offset: 1,num_ws,w_dim, added to the ws of z and a label map.
        pose: 1,25 that the photo is seen from.
        label_map: 1,1,R,R of the photo, class ids or edges.
        network: digest of the generator, see `network_digest`.
        weights: tuned weights of the generator by name, tensors of any shape; empty without tuning.
        settings: how it was made, plain data.
    """

    z: Tensor
    offset: Tensor
    pose: Tensor
    label_map: Tensor
    network: str
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def ws(self, G: TriPlane, encoded: Tensor) -> Tensor:
        """Return ws 1,num_ws,w_dim of a label map.

        Args:
            G: the generator.
            encoded: result of `G.encode` for one label map.
        """
        # The style belongs to the photo's pose, whatever pose the label map is seen from.
        device = next(G.parameters()).device
        return latent_ws(G, encoded, self.pose.to(device), self.z.to(device)) + self.offset.to(device)

    def generator(self, G: TriPlane) -> TriPlane:
        """Return the generator with the tuned weights: a copy, or G itself if there are none.

        Raises:
            ConfigError: the projection was made with another generator.
        """
        self.check(G)
        if not self.weights:
            return G

        # Not strict, since only tuned weights are stored.
        tuned = copy.deepcopy(G)
        tuned.load_state_dict(dict(self.weights), strict=False)
        return tuned

    def check(self, G: TriPlane) -> None:
        """Check that this is a projection into a generator.

        Raises:
            ConfigError: it is one into another generator, or damaged.
        """
        # The digest is that of weights, so the shapes fit too, unless the file was made by hand.
        hint = "load the network that it was made with"
        if self.network != network_digest(G):
            raise ConfigError("style", problem="a projection into another network", hint=hint)
        state = G.state_dict()
        fits = [self.z.shape == (1, G.z_dim), self.offset.shape[1:] == ws_shape(G)]
        fits += [name in state and state[name].shape == tensor.shape for name, tensor in self.weights.items()]
        if not all(fits):
            raise ConfigError("style", problem="a projection with tensors that do not fit the network", hint=hint)
        try:
            to_label_map(self.label_map, G)
        except ConfigError as error:
            raise ConfigError(
                "style", problem=f"a projection that does not fit the network ({error})", hint=hint
            ) from error

    # ----------------------------------------------------------------------- file

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a .safetensors file, which appears when it is complete.

        Raises:
            OSError: it cannot be written.
        """
        description = {"format": FORMAT, "version": VERSION, "network": self.network, "settings": dict(self.settings)}
        tensors = {name: getattr(self, name) for name in TENSORS}
        if not self.label_map.is_floating_point():
            tensors["label_map"] = self.label_map.to(torch.uint8)
        tensors |= {WEIGHTS_PREFIX + name: tensor for name, tensor in self.weights.items()}
        # Cloned, because the format allows no two names for the same memory.
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        with atomic_write(path) as file:
            file.write(dump_safetensors(description, tensors))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Projection:
        """Read a file, which can come from anywhere.

        Raises:
            OSError: no such file, or it cannot be read.
            ValueError: not a projection, or damaged; the message starts with the path.
        """
        content = read_file(path, MAX_WEIGHTS_BYTES)
        try:
            return _parse(*load_safetensors(content))
        except WeightsError as error:
            raise ValueError(f"{os.fspath(path)}: {error}") from error


def ws_shape(G: TriPlane) -> tuple[int, int]:
    """Return num_ws,w_dim of a scene's ws; networks with two backbones concatenate both along w_dim."""
    return G.num_ws, G.w_dim * (2 if G.architecture.split else 1)


def _parse(description: Any, tensors: dict[str, Tensor]) -> Projection:
    """Check the contents of a file and convert them."""
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise WeightsError("not a projection of a photo, which project_photo.py writes")
    if description.get("version") != VERSION:
        raise WeightsError(f"projection version {description.get('version')!r:.20}, expected {VERSION}")
    network = description.get("network")
    settings = description.get("settings")
    if not isinstance(network, str) or not isinstance(settings, dict):
        raise WeightsError("damaged: network or settings are missing")

    # Tensors; whether they have the sizes of a network is checked when they are used.
    check_tensors("projection", tensors)
    # In the type of networks, in which large numbers of float64 are infinite.
    tensors = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    axes = {"z": 2, "offset": 3, "pose": 2, "label_map": 4}
    for name, count in axes.items():
        tensor = tensors.get(name)
        if tensor is None or tensor.ndim != count or len(tensor) != 1 or not tensor.numel():
            raise WeightsError(f"damaged: {name} is missing, or has another shape")
    if not all(tensor.isfinite().all() for tensor in tensors.values()) or tensors["pose"].shape != (1, 25):
        raise WeightsError("damaged: holds numbers that are not finite, or no pose of 25 numbers")
    weights = {name[len(WEIGHTS_PREFIX) :]: x for name, x in tensors.items() if name.startswith(WEIGHTS_PREFIX)}
    named = {name: tensors[name] if name == "label_map" else tensors[name].float() for name in TENSORS}
    return Projection(**named, network=network, weights=weights, settings=to_plain_data(settings, "settings"))
