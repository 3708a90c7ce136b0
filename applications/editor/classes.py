"""Names and colors of the classes of label maps, as the page shows them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from training.data.label_maps import colorize

# Classes of the published label maps: docs/conventions.md and CelebAMask-HQ (Lee et al. 2020).
CLASS_NAMES = {
    "seg2cat": ("background", "head", "ears", "nose and muzzle", "eyes", "other"),
    "seg2face": (
        *("background", "skin", "nose", "glasses", "left eye", "right eye", "left brow", "right brow", "left ear"),
        *("right ear", "mouth", "upper lip", "lower lip", "hair", "hat", "earring", "necklace", "neck", "clothes"),
    ),
}
# Edge maps are drawn with two classes: black lines on white.
EDGE_NAMES = ("background", "line")
EDGE_COLORS = np.array([[255] * 3, [0] * 3], np.uint8)


def class_names(cfg: str, data_type: str, classes: int, stored_names: object = None) -> list[str]:
    """Return the names stored with the weights if there is one per class, else those of `cfg`, else numbers."""
    if data_type == "edge":
        return list(EDGE_NAMES)

    # Stored names come from a file, so their type and number are checked.
    for names in (stored_names, CLASS_NAMES.get(cfg)):
        if isinstance(names, Sequence) and len(names) == classes and all(isinstance(name, str) for name in names):
            return list(names)
    return [f"class {number}" for number in range(classes)]


def mirror_ids(names: Sequence[str]) -> list[int]:
    """Return the class of mirrored strokes for each class: left and right classes change places."""
    swapped = {"left": "right", "right": "left"}
    mirrored = [" ".join(swapped.get(word, word) for word in name.split(" ")) for name in names]
    return [names.index(name) if name in names else id for id, name in enumerate(mirrored)]


def colorize_ids(ids: np.ndarray, data_type: str) -> np.ndarray:
    """Convert class ids of any shape ... to the colors ...,3 uint8 used in files and on the page."""
    return EDGE_COLORS[ids] if data_type == "edge" else colorize(ids)
