"""Fingerprints of data sets, by which a run recognizes the data that it began with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from training.data.archive import Archive
from training.data.dataset import PosedImageDataset
from training.data.depth_maps import DepthImages

# Files of each archive whose content is read, evenly spaced; reading all takes minutes.
SAMPLED_FILES = 64

# Numbers, and SHA-256 of what is longer, of each kind of files; None for a kind that the data set lacks.
Fingerprint = Mapping[str, Mapping[str, Any] | None]


def take_fingerprint(dataset: PosedImageDataset, depth: DepthImages | None = None) -> Fingerprint:
    """Take the fingerprint of everything that training reads, which does not depend on where the files are.

    Args:
        dataset: the data set; all of its images count, also if its samples are a subset.
        depth: depth of its images, or None.
    Raises:
        DataError: a file is missing or damaged.
    """
    index = dataset.index
    images = {
        "number": len(index.images),
        "names": _sha256(name.encode() for name in index.images),
        "poses": _sha256([] if index.poses is None else [index.poses.tobytes()]),
        "objects": _sha256([index.objects.tobytes()]),
        **_files(dataset.images, index.images),
    }
    return {
        "images": images,
        "label maps": _files(dataset.label_maps, index.label_maps) if dataset.label_maps else None,
        "depth maps": {"scale": depth.scale, **_files(depth.archive, index.images)} if depth else None,
    }


def find_difference(before: Fingerprint, now: Fingerprint) -> tuple[str, str] | None:
    """Return the first kind of files in which two fingerprints differ and how; None if they are equal."""
    for kind, new in now.items():
        old = before.get(kind)
        if old is None and new is not None:
            return kind, "there were none"
        if old is not None and new is None:
            return kind, "there are none now"
        for entry, value in (new or {}).items():
            if old.get(entry) != value:
                return kind, f"{old.get(entry)}, now {value}" if entry == "number" else f"other {entry}"
    return None


def _files(archive: Archive, names: Sequence[str]) -> dict[str, str]:
    """Return digests of the sizes of all files and of the content of some."""
    sizes = np.array([archive.size(name) for name in names], np.int64)
    sampled = np.unique(np.linspace(0, len(names) - 1, SAMPLED_FILES).astype(int))
    content = _sha256(archive.read(names[number]) for number in sampled)
    return {"sizes": _sha256([sizes.tobytes()]), "content": content}


def _sha256(parts: Iterable[bytes]) -> str:
    """Return the digest of a sequence of byte strings."""
    # Each after its length, as "a", "bc" is not "ab", "c".
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "little"))
        total.update(part)
    return total.hexdigest()
