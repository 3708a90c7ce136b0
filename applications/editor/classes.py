"""What the page calls the classes, and the colors it paints them in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from training.data.label_maps import colorize

CLASS_NAMES = {  # of the published label maps: docs/conventions.md, and CelebAMask-HQ (Lee et al. 2020)
    "seg2cat": ("background", "head", "ears", "nose and muzzle", "eyes", "the rest"),
    "seg2face": (
        *("background", "skin", "nose", "glasses", "left eye", "right eye", "left brow", "right brow", "left ear"),
        *("right ear", "mouth", "upper lip", "lower lip", "hair", "hat", "earring", "necklace", "neck", "clothes"),
    ),
}
EDGE_NAMES = ("background", "line")
EDGE_COLORS = np.array([[255] * 3, [0] * 3], np.uint8)


def class_names(cfg: str, data_type: str, classes: int, given: object = None) -> list[str]:
    """The weights' own names where they have one for each class, else the configuration's, else numbers."""
    if data_type == "edge":
        return list(EDGE_NAMES)
    for names in (given, CLASS_NAMES.get(cfg)):
        if isinstance(names, Sequence) and len(names) == classes and all(isinstance(name, str) for name in names):
            return list(names)
    return [f"class {number}" for number in range(classes)]


def paint(ids: np.ndarray, data_type: str) -> np.ndarray:
    """Class ids of any shape to the colors ...,3 in which files and page show them."""
    return EDGE_COLORS[ids] if data_type == "edge" else colorize(ids)
