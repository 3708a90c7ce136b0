"""The whole state of a run in one file, so that it goes on as if it had never stopped."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dnnlib.util import atomic_write

FORMAT = "pix2pix3d-training-state"
VERSION = 1
NAME = re.compile(r"training-state-(\d+)\.pt")


class StateError(ValueError):
    """Saved states, and none that can be read."""


def save_state(folder: Path, cur_nimg: int, contents: Mapping[str, Any], keep: int) -> Path:
    """Write training-state-IMAGES.pt, then delete older ones until `keep` are left with it.

    The file appears under its name when it is whole and on the disk; until then no older one is touched. A newer one
    (damaged, or this run would not stand before it) is left alone and does not count.
    """
    path = folder / f"training-state-{cur_nimg:09d}.pt"
    with atomic_write(path) as file:
        torch.save({"format": FORMAT, "version": VERSION, **contents}, file)
    states = _states(folder)
    for older in states[states.index(path) + keep :]:
        older.unlink()
    return path


def load_state(folder: Path) -> dict[str, Any] | None:
    """The newest state that can be read, on the CPU; None if none was saved. Says which damaged ones it passed over.

    Raises:
        StateError: there are some, and all are damaged; the message names the newest.
        OSError, MemoryError: a state that may be good cannot be read now.
    """
    problems = []
    for path in _states(folder):
        try:
            contents = torch.load(path, map_location="cpu", weights_only=True)
            if contents.get("format") != FORMAT or contents.get("version") != VERSION:
                raise ValueError(f"not a training state of version {VERSION}")
            return contents
        except (OSError, MemoryError):
            raise
        except Exception as error:  # damaged bytes make IndexError, KeyError, ... too
            problems.append(f"{path}: {str(error).partition(chr(10))[0] or type(error).__name__}")
            print(f"Passed over {problems[-1]}", flush=True)
    if problems:
        raise StateError(problems[0])
    return None


def remove_parts(folder: Path) -> None:
    """Delete what a killed process was writing."""
    for part in folder.glob(".*.part"):
        part.unlink()


def _states(folder: Path) -> list[Path]:
    """Newest first."""
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]
