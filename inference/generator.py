"""Loading a generator for inference: device, precision, and the configuration that its weights follow."""

from __future__ import annotations

import hashlib
import math
import os
import warnings
from collections.abc import Callable

import torch

from camera_utils import CAMERAS
from dnnlib.choices import PRECISIONS
from dnnlib.errors import ConfigError
from torch_utils.devices import choose_device
from torch_utils.host_memory import keep_freed_memory
from torch_utils.precision import has_fast, set_precision
from training.networks.configs import CONFIGS, RAW_RESOLUTION, RENDERING
from training.networks.generator import TriPlane
from training.networks.style_encoder import StyleEncoder
from training.weights.snapshot import UNTRAINED, load_network_pkl

# Hexadecimal digits of a digest of weights.
DIGEST_LENGTH = 32

# Largest difference from a configuration's camera radius, as a share of it.
RADIUS_TOLERANCE = 0.2


def load_generator(
    network: str | os.PathLike[str],
    device: str | torch.device | None = None,
    precision: str = "auto",
    cfg: str | None = None,
    notify: Callable[[str], object] = warnings.warn,
) -> TriPlane:
    """Load G_ema of a weights file, ready to render, with the style encoder E where the file has one.

    Args:
        network: path or URL of a weights file: ours, or a published pickle.
        device: such as "cuda:1"; None chooses the first available of CUDA, MPS and CPU.
        precision: one of PRECISIONS; a CPU without fast convolutions of that type computes in fp32.
        cfg: expected configuration, a key of CONFIGS; None takes the one that the weights follow (`config_of`).
        notify: called with messages about the precision and about untrained weights.
    Raises:
        ConfigError: the weights do not follow `cfg`.
        ValueError: no such device, or a file that holds no usable generator.
    """
    # Device and number type.
    device = choose_device(None if device is None else str(device))
    if precision not in PRECISIONS:
        raise ConfigError("precision", precision, ", ".join(PRECISIONS))
    if not has_fast(precision, device):
        notify(f"This CPU has no {precision} convolutions: computing in fp32, which is faster here.")
        precision = "fp32"

    # Weights, and whether they are what is expected.
    network = os.fspath(network)
    data = load_network_pkl(network, only=("G_ema",), optional=("E",))
    G = data["G_ema"]
    check_generator(G, network, cfg)
    E = data.get("E")
    if E is not None:
        check_style_encoder(E, G, network)
    if data["extra"].get(UNTRAINED):
        notify("This network is untrained: its images show nothing real.")

    # Keep freed memory in the process: getting it anew from the system is slow.
    if device.type == "cpu":
        keep_freed_memory()

    G = G.to(device)
    if E is not None:
        G.attach_style_encoder(E.to(device))

    # Published weights hold the resolution of the last training phase, not the one for inference.
    if "training_options" not in data["extra"]:
        G.neural_rendering_resolution = RAW_RESOLUTION[cfg or _nearest_config(G)]
    set_precision(G, precision)
    return G


def check_generator(G: torch.nn.Module, network: str, cfg: str | None) -> None:
    """Reject networks that do not map label maps to images, other configurations than `cfg`, and non-finite weights.

    Args:
        G: the network that was loaded.
        network: its file, for messages.
        cfg: expected configuration, or None.
    Raises:
        ConfigError: G does not follow `cfg`.
        ValueError: anything else; the message starts with the file.
    """
    # EG3D's own generators, for example, take no label map.
    if not isinstance(G, TriPlane) or not G.conditional or not G.architecture.labels:
        raise ValueError(f"{network}: its G_ema does not make images and label maps from a label map")

    try:
        G.check_inputs()
    except ValueError as error:
        raise ValueError(f"{network}: its G_ema cannot be used ({error})") from error

    # Besides the detected configuration, those with its labels and camera radius are accepted: the pivot may differ.
    detected = config_of(G)
    labels = (G.data_type, G.semantic_channels)
    fitting = {name for name, config in CONFIGS.items() if (config.data_type, config.label_channels) == labels}
    allowed = [name for name in CONFIGS if name == detected or (name in fitting and _has_radius(G, name))]
    if cfg is not None and cfg not in allowed:
        takes = f"{G.semantic_channels} classes" if G.data_type == "seg" else "edges"
        hint = f"{network} takes {takes}, seen from a distance of {G.orbit['radius']}"
        raise ConfigError("cfg", cfg, " or ".join(allowed) or "none for this network", hint)

    _check_finite(G, network)


def check_style_encoder(E: torch.nn.Module, G: TriPlane, network: str) -> None:
    """Reject an E that does not encode photos for this generator, or has non-finite weights.

    Raises:
        ValueError: the message starts with the file.
    """
    if not isinstance(E, StyleEncoder) or E.z_dim != G.z_dim:
        raise ValueError(f"{network}: its E is not a style encoder of this G_ema, with a z of size {G.z_dim}")
    _check_finite(E, network)


def _check_finite(module: torch.nn.Module, network: str) -> None:
    # Weights of a diverged training give black images without any error.
    if not all(values.isfinite().all() for values in module.state_dict().values()):
        raise ValueError(f"{network}: holds weights that are not finite (NaN or infinity); its training diverged")


# --------------------------------------------------------------------------- configurations


def network_digest(G: TriPlane) -> str:
    """Return a digest of a generator's decoder, a few thousand numbers that every training step changes."""
    weights = [values.cpu().numpy().tobytes() for values in G.decoder.state_dict().values()]
    return hashlib.sha256(b"".join(weights)).hexdigest()[:DIGEST_LENGTH]


def config_of(G: TriPlane) -> str:
    """Return the name in CONFIGS of a generator's cameras and label type, such as "seg2cat".

    The number of classes may be the network's own. Where no configuration has its cameras and label type together
    (edges of faces, classes of cars), the camera preset alone is returned: "afhq", "celeba" or "shapenet". Either name
    is a key of CAMERAS.

    Raises:
        ConfigError: its cameras are at a distance for which there is no preset.
    """
    # The preset is enough for rendering; only published data sets and file names need a configuration.
    name = _nearest_config(G)
    config = CONFIGS[name]
    return name if config.data_type == G.data_type else config.camera


def _nearest_config(G: TriPlane) -> str:
    """Return the configuration with the nearest cameras; among equals, the one with its label type and classes."""
    near = [name for name in CONFIGS if _has_radius(G, name)]
    if not near:
        known = sorted({CAMERAS[name].radius for name in CONFIGS})
        allowed = f"cameras at a distance of about {' or '.join(map(str, known))}"
        raise ConfigError("network", allowed=allowed, problem=f"its cameras are at {G.orbit['radius']}")

    # The pivot tells cats from faces, whose cameras have the same radius. Some weights do not store it.
    def distance(name: str) -> tuple[float, bool, bool]:
        pivot = G.orbit["pivot"]
        from_pivot = 0.0 if pivot is None else math.dist(pivot, CAMERAS[name].pivot)
        config = CONFIGS[name]
        return from_pivot, config.data_type != G.data_type, config.label_channels != G.semantic_channels

    return min(near, key=distance)


def _has_radius(G: TriPlane, name: str) -> bool:
    # Weights without a stored radius may have any.
    radius = G.orbit["radius"]
    expected = RENDERING[CONFIGS[name].camera]["avg_camera_radius"]
    return radius is None or abs(radius - expected) <= RADIUS_TOLERANCE * expected
