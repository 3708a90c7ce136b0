"""Features of a data set's pictures, computed once for each data set and extractor."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dnnlib.util import atomic_write, default_cache_dir
from metrics.extractors import Extractor
from metrics.sharing import on_rank_0, shared, together
from metrics.tally import Tally
from torch_utils.distributed import rank
from training.data.dataset import PosedImageDataset

FORM = 1  # of cached files: a new number makes old ones invisible


def real_features(
    dataset: PosedImageDataset, members: Sequence[int], extractor: Extractor, batch: int, device: torch.device
) -> Tensor:
    """Features N,F of members of a data set, in their order; from the cache where they are there.

    All processes of the run share the work, and all get the features.
    """
    path = on_rank_0(lambda: _cached_at(dataset, members, extractor)) if extractor.kept else None
    cached = on_rank_0(lambda: path and _read(path, len(members)))
    if cached is not None:
        return cached
    features = together(lambda: _computed(dataset, members, extractor, batch, device)).gathered().rows("features")
    if rank() == 0 and path:
        _write(path, features)
    return features


def _computed(
    dataset: PosedImageDataset, members: Sequence[int], extractor: Extractor, batch: int, device: torch.device
) -> Tally:
    """This process's part."""
    tally = Tally()
    for numbers in shared(len(members), batch):
        pictures = np.stack([dataset[int(members[number])]["image"] for number in numbers])
        tally.put("features", list(numbers), extractor.features(torch.from_numpy(pictures).to(device)))
    return tally


def _cached_at(dataset: PosedImageDataset, members: Sequence[int], extractor: Extractor) -> Path:
    """A name that follows from the pictures' bytes and the extractor's weights."""
    sha = hashlib.sha256(f"{FORM} {extractor.digest} ".encode())
    for member in members:
        origin = dataset.get_details(int(member))
        sha.update(f"{origin.xflip} ".encode())
        sha.update(hashlib.sha256(dataset.images.read(origin.name)).digest())
    return default_cache_dir() / "features" / f"{dataset.name[:60]}-{sha.hexdigest()[:32]}.npy"


def _read(path: Path, count: int) -> Tensor | None:
    """None where there is no file, or one that is not what it should be."""
    try:
        features = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return torch.from_numpy(features) if features.ndim == 2 and len(features) == count else None


def _write(path: Path, features: Tensor) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            np.save(file, features.numpy(), allow_pickle=False)
    except OSError as error:
        warnings.warn(f"features of the real pictures are not kept for the next time ({error})", stacklevel=2)
