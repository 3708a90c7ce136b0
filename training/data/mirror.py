"""Pairs of left and right classes, which change places in mirrored label maps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from dnnlib.errors import ConfigError

# Pairs by the name that users type; of CelebAMask-HQ's 19 classes: eyes, brows and ears.
TABLES = {"none": [], "celebamask": [[4, 5], [6, 7], [8, 9]]}

MAX_CLASSES = 256  # of 8-bit label maps

_PAIR = re.compile(r"(\d{1,3})-(\d{1,3})", re.ASCII)


def parse_pairs(text: str, classes: int = MAX_CLASSES) -> list[list[int]]:
    """Return pairs of class ids from a name of TABLES, or from text like "4-5,6-7".

    Raises:
        ConfigError: other text, a class that is not below `classes`, or a class in two pairs.
    """
    # A pair that is not understood is empty.
    if text in TABLES:
        pairs = [list(pair) for pair in TABLES[text]]
    else:
        matches = [_PAIR.fullmatch(part.strip()) for part in text.split(",")]
        pairs = [[int(number) for number in match.groups()] if match else [] for match in matches]

    # Each class at most once, or the exchange would lose one.
    ids = [number for pair in pairs for number in pair]
    if not all(pairs) or max(ids, default=0) >= classes or len(set(ids)) != len(ids):
        allowed = f"{', '.join(TABLES)} or pairs of classes 0 to {classes - 1} like 4-5,6-7, each class at most once"
        raise ConfigError("mirror_classes", text, allowed)
    return pairs


def swap_table(pairs: Iterable[Sequence[int]]) -> np.ndarray:
    """Return the class id in mirrored label maps of each class id, uint8 256."""
    table = np.arange(MAX_CLASSES, dtype=np.uint8)
    for left, right in pairs:
        table[left], table[right] = right, left
    return table


def describe_pairs(pairs: Sequence[Sequence[int]] | None) -> str:
    """Return one line that says what becomes of the classes of mirrored label maps."""
    if not pairs:
        return "Mirrored copies keep all class ids; --mirror_classes exchanges left and right ones."
    return "Mirrored copies exchange the classes " + ", ".join(f"{left}-{right}" for left, right in pairs) + "."
