"""Networks from images to features, class probabilities or label maps, and cached features of data sets.

All networks take images N,3,H,W uint8.
"""

from __future__ import annotations

import hashlib
import importlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dataset_preprocessing.edges import EdgeNetwork
from dnnlib.errors import ConfigError
from dnnlib.util import atomic_write, default_cache_dir
from metrics.choices import INCEPTION, SOURCES
from metrics.distributed import Accumulator, local_batches, run_on_all_ranks, run_on_rank_0
from torch_utils.distributed import rank
from torch_utils.safe_pickle import check_torch_load
from training.data.dataset import PosedImageDataset

# Types of ONNX inputs other than float32.
ONNX_TYPES = {"tensor(uint8)": torch.uint8, "tensor(float16)": torch.float16}
# Pixels; larger images are downscaled for the edge network.
EDGE_NETWORK_SIZE = 256
# Version of the files of cached features; a new number invalidates old ones.
CACHE_VERSION = 1

# Images N,3,H,W uint8 to a tensor N,...
ImageFunction = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Extractor:
    """Frozen network on images, with a digest that identifies it.

    Args:
        name: for the protocol.
        digest: of its weights, for the protocol and the cache.
        features: images N,3,H,W uint8 to features N,F; to logits N,S,H,W for a segmentation network.
        probabilities: images N,3,H,W uint8 to class probabilities N,C; None if the network has none.
        cacheable: whether the digest identifies it completely, so that its features may be cached between runs.
    """

    name: str
    digest: str
    features: ImageFunction
    probabilities: ImageFunction | None = None
    cacheable: bool = True

    @property
    def description(self) -> str:
        """Name and digest."""
        return f"{self.name}, sha256 {self.digest}"


def to_uint8(image: Tensor) -> Tensor:
    """Convert images of any shape from [-1, 1] to uint8, rounded, so that images of a data set are restored exactly."""
    return (image.float() * 127.5 + 128).clamp(0, 255).to(torch.uint8)


# --------------------------------------------------------------------------- loading


def load_extractor(
    source: str, device: torch.device, resolution: int, field: str = "extractor", classes: int | None = None
) -> Extractor:
    """Load a feature extractor or segmentation network, and try it on two images.

    Args:
        source: inception (the standard network of the package torch-fidelity), inception:FILE (with weights from a
            file), a TorchScript file, an .onnx file, .h5 weights of the edge network (features of its trunk), or
            MODULE:NAME, something to import that returns a torch module when called.
        device: where to run it.
        resolution: of the images that it will get.
        field: name of the option in errors.
        classes: for a segmentation network, whose features are logits N,S,H,W: the number S of classes.
    Raises:
        ConfigError: it cannot be loaded or returns another shape; later, if it fails or returns values that are not
            finite floating-point numbers.
    """
    # Two images, because an output without the batch dimension could pass with one.
    extractor = _load(source, device, field)
    images = torch.zeros(2, 3, resolution, resolution, dtype=torch.uint8, device=device)
    shape = tuple(extractor.features(images).shape)
    if classes is None and (len(shape) != 2 or shape[0] != 2):
        raise ConfigError(field, problem=f"{source}: expected N,F features of images, got {shape} for 2 images")
    logits = (2, classes, resolution, resolution)
    if classes is not None and shape != logits:
        raise ConfigError(field, problem=f"{source}: expected logits {logits} for 2 images, got {shape}")
    return extractor


def _load(source: str, device: torch.device, field: str) -> Extractor:
    """Load a network of any kind, with checked outputs in float32."""
    name, _, reference = source.partition(":")
    path = Path(source)

    # The kind of network follows from the form of its source.
    try:
        if name == INCEPTION:
            network = _inception(reference or None, device, field)
        elif path.suffix == ".h5":
            network = _edge_trunk(path, device)
        elif path.suffix == ".onnx":
            network = _onnx(path)
        elif reference and not path.exists():
            network = _imported(source, name, reference, device)
        else:
            network = _torchscript(path, device)
    except ConfigError:
        raise
    except (ValueError, ImportError) as error:
        raise ConfigError(field, problem=str(error)) from error

    # Check every output, also later ones: they are written to caches and enter means.
    checked = partial(_checked_output, source, field)
    probabilities = partial(checked, network.probabilities) if network.probabilities else None
    return replace(network, features=partial(checked, network.features), probabilities=probabilities)


def _checked_output(source: str, field: str, run: ImageFunction, images: Tensor) -> Tensor:
    """Run a network on images N,3,H,W and return its output N,... in float32, or raise ConfigError."""
    # User code can raise anything; the last line of a message usually names the cause.
    try:
        output = run(images)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        shape = ",".join(map(str, images.shape))
        raise ConfigError(field, problem=f"{source}: fails on images {shape} uint8, 0 to 255 ({reason})") from error

    # Outputs of other types, such as a tuple, would fail much later.
    if not isinstance(output, Tensor) or not output.is_floating_point():
        kind = output.dtype if isinstance(output, Tensor) else type(output).__name__
        raise ConfigError(field, problem=f"{source}: expected a tensor of floating-point numbers, got {kind}")
    if not output.isfinite().all():
        raise ConfigError(field, problem=f"{source}: returns numbers that are not finite")
    return output.float()


def state_digest(network: nn.Module, prefix: str = "") -> str:
    """Return the SHA-256 of names, types, shapes and values in a network's state dict."""
    # Names and shapes too, since equal bytes could belong to other layers.
    sha = hashlib.sha256(prefix.encode())
    for name, tensor in network.state_dict().items():
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return sha.hexdigest()


# --------------------------------------------------------------------------- kinds of networks


def _inception(weights: str | None, device: torch.device, field: str) -> Extractor:
    """Load the Inception network of 2015 that FID is defined with, from torch-fidelity."""
    # An optional dependency. OSError and RuntimeError: its torchvision is built for another version of torch.
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except (ImportError, OSError, RuntimeError) as error:
        problem = f"{INCEPTION}: needs torch-fidelity (pip install -e .[metrics]): {error}"
        raise ConfigError(field, problem=problem, hint=f"or set `{field}` to {SOURCES}") from error

    if weights:
        check_torch_load(field, weights)

    # The package downloads its weights when the network is constructed. Reading a
    # file with `weights_only` first rejects one that would run code.
    try:
        if weights:
            torch.load(weights, map_location="cpu", weights_only=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            layers = ["2048", "logits_unbiased"]
            network = FeatureExtractorInceptionV3(INCEPTION, layers, feature_extractor_weights_path=weights)
    # urllib, torch and zipfile raise many types.
    except Exception as error:
        problem = f"{INCEPTION}: its weights are not available ({error})"
        raise ConfigError(field, problem=problem, hint=f"set `{field}` to inception:FILE, {SOURCES}") from error

    # The code of the package is part of the network, so its version is part of the digest.
    network = network.eval().requires_grad_(False).to(device)
    return Extractor(
        "Inception 2015 (torch-fidelity)",
        state_digest(network, f"torch-fidelity {version('torch-fidelity')}"),
        lambda images: network(images)[0],
        lambda images: network(images)[1].softmax(1),
    )


def _torchscript(path: Path, device: torch.device) -> Extractor:
    """Load a TorchScript file, with features by `return_features` if its forward has it (StyleGAN's Inception file)."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected {INCEPTION}, {SOURCES}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            network = torch.jit.load(path, map_location=device).eval()
    except RuntimeError as error:
        raise ValueError(f"{path}: not a TorchScript file ({str(error).splitlines()[0]})") from error

    # The digest of the file; features and probabilities if its forward offers them.
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    arguments = {argument.name for argument in network.forward.schema.arguments}
    if "return_features" not in arguments:
        return Extractor(path.name, digest, network)

    options = {"no_output_bias": True} if "no_output_bias" in arguments else {}
    return Extractor(
        path.name,
        digest,
        lambda images: network(images, return_features=True),
        lambda images: network(images, **options),
    )


def _onnx(path: Path) -> Extractor:
    """Load an ONNX file, whose first input takes images and whose first output are the features."""
    # An optional dependency.
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError(f"{path}: needs onnxruntime (pip install onnxruntime)") from error
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        session = onnxruntime.InferenceSession(str(path), providers=onnxruntime.get_available_providers())
    # onnxruntime's exceptions have no common base class.
    except Exception as error:
        raise ValueError(f"{path}: not an ONNX file ({error})") from error

    # Type and batch size that the network expects.
    entry = session.get_inputs()[0]
    dtype = ONNX_TYPES.get(entry.type, torch.float32)
    fixed_batch = entry.shape[0] if isinstance(entry.shape[0], int) else None

    def run(images: Tensor) -> Tensor:
        # A network with a fixed batch size gets padded batches.
        outputs = []
        for batch in images.to("cpu", dtype).split(fixed_batch or len(images)):
            missing = (fixed_batch or len(batch)) - len(batch)
            padded = F.pad(batch, (0, 0) * 3 + (0, missing))
            output = session.run([session.get_outputs()[0].name], {entry.name: padded.numpy()})[0]
            outputs.append(torch.from_numpy(output)[: len(batch)])
        return torch.cat(outputs).to(images.device)

    # Weights in other files ("location") are not part of the digest.
    content = path.read_bytes()
    complete = b"location" not in content
    return Extractor(path.name, hashlib.sha256(content).hexdigest(), run, cacheable=complete)


def _imported(source: str, module: str, name: str, device: torch.device) -> Extractor:
    """Import MODULE and call NAME for a torch module."""
    # User code can raise anything.
    try:
        network = getattr(importlib.import_module(module), name)()
    except Exception as error:
        raise ValueError(f"{source}: {error or type(error).__name__}; expected {INCEPTION}, {SOURCES}") from error
    if not isinstance(network, nn.Module):
        raise ValueError(f"{source}: expected a callable that returns a torch module, got {type(network).__name__}")

    # Its code may change while its weights and its name stay the same, so features are not cached between runs.
    network = network.eval().requires_grad_(False).to(device)
    return Extractor(source, state_digest(network, source), network, cacheable=False)


def _edge_trunk(path: Path, device: torch.device) -> Extractor:
    """Load the edge network, with the mean of each channel of every stage as features."""
    network = EdgeNetwork.from_h5(path).to(device)

    # Forward hooks collect the mean of each channel at the end of every stage.
    activations: list[Tensor] = []
    for stage in network.stages:
        stage[-1].register_forward_hook(lambda _layer, _inputs, output: activations.append(output.relu().mean((2, 3))))

    def features(images: Tensor) -> Tensor:
        # Each call appends one tensor per stage.
        activations.clear()
        images = images.float()
        if images.shape[-1] > EDGE_NETWORK_SIZE:
            images = F.interpolate(images, EDGE_NETWORK_SIZE, mode="area")
        network(images)
        return torch.cat(activations, dim=1)

    name = f"trunk of the edge network (mean of each stage's channels, {EDGE_NETWORK_SIZE} pixels at most)"
    return Extractor(name, state_digest(network, name), features)


# --------------------------------------------------------------------------- features of a data set


def dataset_features(
    dataset: PosedImageDataset, indices: Sequence[int], extractor: Extractor, batch_size: int, device: torch.device
) -> Tensor:
    """Return features N,F of images of a data set, from the cache if possible; all processes share the computation.

    Args:
        dataset: the data set.
        indices: N samples of the data set.
        extractor: the network.
        batch_size: images at once.
        device: of the extractor; the result is on the CPU.
    """
    # Rank 0 reads the cache, so that all processes agree on whether it is valid.
    path = run_on_rank_0(lambda: _cache_path(dataset, indices, extractor)) if extractor.cacheable else None
    cached = run_on_rank_0(lambda: _read_cache(path, len(indices)) if path else None)
    if cached is not None:
        return cached

    # Compute them; each process has its own batches.
    def compute() -> Accumulator:
        accumulator = Accumulator()
        for batch in local_batches(len(indices), batch_size):
            images = np.stack([dataset[int(indices[i])]["image"] for i in batch])  # N,3,H,W
            accumulator.put_rows("features", list(batch), extractor.features(torch.from_numpy(images).to(device)))
        return accumulator

    # Join them in the order of the indices.
    features = run_on_all_ranks(compute).gather().rows("features")
    if path and rank() == 0:
        _write_cache(path, features)
    return features


def _cache_path(dataset: PosedImageDataset, indices: Sequence[int], extractor: Extractor) -> Path:
    """Return the file of cached features, named after the bytes of the images and the weights of the extractor."""
    # Content rather than names or times: a copied data set has the same features, a changed one does not.
    sha = hashlib.sha256(f"{CACHE_VERSION} {extractor.digest} ".encode())
    for index in indices:
        details = dataset.get_details(int(index))
        sha.update(f"{details.xflip} ".encode())
        sha.update(hashlib.sha256(dataset.images.read(details.name)).digest())
    return default_cache_dir() / "features" / f"{dataset.name[:60]}-{sha.hexdigest()[:32]}.npy"


def _read_cache(path: Path, count: int) -> Tensor | None:
    """Read cached features N,F, or None if there is no valid file of `count` rows."""
    # A file of another version of numpy, or one that is damaged, is as good as none.
    try:
        features = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return torch.from_numpy(features) if features.ndim == 2 and len(features) == count else None


def _write_cache(path: Path, features: Tensor) -> None:
    """Write features N,F to the cache; a failure is a warning."""
    # Atomic, since another evaluation may read it.
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            np.save(file, features.numpy(), allow_pickle=False)
    except OSError as error:
        warnings.warn(f"features of the real images could not be cached ({error})", stacklevel=2)
