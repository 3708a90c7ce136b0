"""Networks that turn pictures into features, class probabilities or label maps: given by file, by name, by reference.

Whatever its kind, such a network takes pictures N,3,H,W uint8.
"""

from __future__ import annotations

import hashlib
import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dataset_preprocessing.edges import EdgeNetwork

Pictures = Callable[[Tensor], Tensor]  # uint8 N,3,H,W to what the network says
INCEPTION = "inception"
WAYS = "a TorchScript file, an .onnx file, an edge network's .h5 or MODULE:NAME"
ONNX_TYPES = {"tensor(uint8)": torch.uint8, "tensor(float16)": torch.float16}  # of the input; else float32
TRUNK_SIZE = 256  # pixels; larger pictures are made smaller for the edge network


@dataclass(frozen=True)
class Extractor:
    """A network and what it is.

    Args:
        name: for people. digest: of its weights, for caches.
        features: uint8 N,3,H,W to N,F; of a segmenter N,S,H,W.
        probabilities: uint8 N,3,H,W to N,C class probabilities, where it has them.
        kept: whether the digest stands for all of it, so that its features can be kept from run to run.
    """

    name: str
    digest: str
    features: Pictures
    probabilities: Pictures | None = None
    kept: bool = True


def to_pictures(image: Tensor) -> Tensor:
    """Network range [-1, 1] to uint8, rounded: a picture of a data set comes back as it was."""
    return (image.float() * 127.5 + 128).clamp(0, 255).to(torch.uint8)


def load_extractor(source: str, device: torch.device, resolution: int) -> Extractor:
    """A network of features.

    Args:
        source: inception (the standard one, of the package torch-fidelity), inception:FILE (its weights), a
            TorchScript file, an .onnx file, .h5 weights of the edge network (features of its trunk), or MODULE:NAME,
            something to import that makes a torch module when called.
        resolution: of the pictures that it will see; it is tried on two.
    Raises:
        ValueError: it cannot be had, or does not turn pictures into rows of numbers.
    """
    extractor = load_network(source, device)
    found = extractor.features(torch.zeros(2, 3, resolution, resolution, dtype=torch.uint8, device=device))
    if found.ndim != 2 or len(found) != 2:
        raise ValueError(f"{source}: expected N,F features of pictures, got {tuple(found.shape)} for 2 of them")
    return extractor


def load_segmenter(source: str, device: torch.device, resolution: int, classes: int) -> Extractor:
    """A segmentation network, whose features are logits of classes N,S,H,W; ValueError as of `load_extractor`."""
    segmenter = load_network(source, device)
    found = segmenter.features(torch.zeros(2, 3, resolution, resolution, dtype=torch.uint8, device=device))
    if found.shape != (2, classes, resolution, resolution):
        expected = f"2,{classes},{resolution},{resolution}"
        raise ValueError(f"{source}: expected logits {expected} for 2 pictures, got {tuple(found.shape)}")
    return segmenter


def load_network(source: str, device: torch.device) -> Extractor:
    """As `load_extractor`, whatever the network makes of pictures: float32, finite, or else ValueError."""
    network = _load(source, device)
    probabilities = network.probabilities and _checked(source, network.probabilities)
    return replace(network, features=_checked(source, network.features), probabilities=probabilities)


def _checked(source: str, run: Pictures) -> Pictures:
    def checked(pictures: Tensor) -> Tensor:
        shape = ",".join(map(str, pictures.shape))
        try:
            found = run(pictures)
        except Exception as error:  # somebody else's code: any
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
            raise ValueError(f"{source}: fails on pictures {shape} uint8, 0 to 255 ({reason})") from error
        if not isinstance(found, Tensor) or not found.is_floating_point():
            kind = found.dtype if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"{source}: expected a tensor of floating-point numbers, got {kind}")
        if not found.isfinite().all():
            raise ValueError(f"{source}: gives numbers that are not finite")
        return found.float()

    return checked


def _load(source: str, device: torch.device) -> Extractor:
    name, _, rest = source.partition(":")
    path = Path(source)
    if name == INCEPTION:
        return _inception(rest or None, device)
    if path.suffix == ".h5":
        return _edge_trunk(path, device)
    if path.suffix == ".onnx":
        return _onnx(path)
    if rest and not path.exists():
        return _imported(source, name, rest, device)
    return _torchscript(path, device)


# --------------------------------------------------------------------------- kinds


def _inception(weights: str | None, device: torch.device) -> Extractor:
    """The Inception network of 2015 that FID is defined with, as torch-fidelity has it."""
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except (ImportError, OSError, RuntimeError) as error:  # the last two: a torchvision that does not fit this torch
        raise ValueError(f"{INCEPTION}: needs torch-fidelity ({error}); install it, or give {WAYS}") from error
    layers = ["2048", "logits_unbiased"]
    try:
        if weights:
            torch.load(weights, map_location="cpu", weights_only=True)  # refuses files that would run code
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = FeatureExtractorInceptionV3(INCEPTION, layers, feature_extractor_weights_path=weights)
    except Exception as error:  # urllib's, torch's and zipfile's: any of them means the weights cannot be had
        raise ValueError(f"{INCEPTION}: its weights cannot be had ({error}); give their file as inception:FILE, "
                         f"or {WAYS}") from error  # fmt: skip
    network = network.eval().requires_grad_(False).to(device)
    return Extractor(
        "Inception 2015 (torch-fidelity)",
        digest_of(network, f"torch-fidelity {version('torch-fidelity')}"),
        lambda pictures: network(pictures)[0],
        lambda pictures: network(pictures)[1].softmax(1),
    )


def _torchscript(path: Path, device: torch.device) -> Extractor:
    """Any; one whose forward takes `return_features`, as the public family's Inception does, is asked for them."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected {INCEPTION}, {WAYS}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            network = torch.jit.load(path, map_location=device).eval()
    except RuntimeError as error:
        raise ValueError(f"{path}: not a TorchScript file ({str(error).splitlines()[0]})") from error
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    options = {argument.name for argument in network.forward.schema.arguments}
    if "return_features" not in options:
        return Extractor(path.name, digest, network)
    plain = {"no_output_bias": True} if "no_output_bias" in options else {}
    return Extractor(
        path.name,
        digest,
        lambda pictures: network(pictures, return_features=True),
        lambda pictures: network(pictures, **plain),
    )


def _onnx(path: Path) -> Extractor:
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError(f"{path}: needs onnxruntime (pip install onnxruntime)") from error
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        session = onnxruntime.InferenceSession(str(path), providers=onnxruntime.get_available_providers())
    except Exception as error:  # onnxruntime's own, which have no base class of theirs
        raise ValueError(f"{path}: not an ONNX file ({error})") from error
    (entry, *_), (first, *_) = session.get_inputs(), session.get_outputs()
    dtype = ONNX_TYPES.get(entry.type, torch.float32)
    fixed = entry.shape[0] if isinstance(entry.shape[0], int) else None  # pictures that it always takes at once

    def run(pictures: Tensor) -> Tensor:
        found = []
        for part in pictures.to("cpu", dtype).split(fixed or len(pictures)):
            full = F.pad(part, (0, 0) * 3 + (0, (fixed or len(part)) - len(part)))
            found.append(torch.from_numpy(session.run([first.name], {entry.name: full.numpy()})[0])[: len(part)])
        return torch.cat(found).to(pictures.device)

    content = path.read_bytes()
    whole = b"location" not in content  # of weights in other files, which the digest would not see
    return Extractor(path.name, hashlib.sha256(content).hexdigest(), run, kept=whole)


def _imported(source: str, module: str, name: str, device: torch.device) -> Extractor:
    try:
        network = getattr(importlib.import_module(module), name)()
    except Exception as error:  # somebody else's code: any
        raise ValueError(f"{source}: {error or type(error).__name__}; expected {INCEPTION}, {WAYS}") from error
    if not isinstance(network, nn.Module):
        raise ValueError(f"{source}: expected a torch module when called, got {type(network).__name__}")
    network = network.eval().requires_grad_(False).to(device)
    return Extractor(source, digest_of(network, source), network, kept=False)  # its code may change


def _edge_trunk(path: Path, device: torch.device) -> Extractor:
    try:
        network = EdgeNetwork.from_h5(path).to(device)
    except ImportError as error:
        raise ValueError(str(error)) from error
    found: list[Tensor] = []
    for stage in network.stages:
        stage[-1].register_forward_hook(lambda _layer, _inputs, output: found.append(output.relu().mean((2, 3))))

    def features(pictures: Tensor) -> Tensor:
        found.clear()
        pictures = pictures.float()
        if pictures.shape[-1] > TRUNK_SIZE:
            pictures = F.interpolate(pictures, TRUNK_SIZE, mode="area")
        network(pictures)
        return torch.cat(found, dim=1)

    name = f"trunk of the edge network (mean of each stage's channels, {TRUNK_SIZE} pixels at most)"
    return Extractor(name, digest_of(network, name), features)


def digest_of(network: nn.Module, what: str = "") -> str:
    """SHA-256 of a network's names and weights."""
    sha = hashlib.sha256(what.encode())
    for name, tensor in network.state_dict().items():
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return sha.hexdigest()
