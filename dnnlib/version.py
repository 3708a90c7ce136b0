"""Version of this project, as pyproject.toml says."""

from __future__ import annotations

import importlib.metadata
import re
from contextlib import suppress
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def version() -> str:
    """Return the version: that of the clone this file is in, else of the installed package."""
    # The metadata of an editable installation can be older than the clone.
    with suppress(OSError):
        match = re.search(r'^version = "(.+)"$', PYPROJECT.read_text(encoding="utf-8"), re.MULTILINE)
        if match:
            return match[1]
    return importlib.metadata.version("pix2pix3d")
