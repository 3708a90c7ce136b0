"""JSON of other people, with a limit on the memory that it takes."""

from __future__ import annotations

import json
import os

from dnnlib.limits import MAX_JSON_MEMORY, MAX_MEMBER_BYTES
from dnnlib.util import read_file

# Largest number of bytes of memory that a value, list, key or object takes, by the character that begins or ends it.
_JSON_MEMORY = {b",": 64, b"[": 128, b":": 128, b"{": 256}


def parse_json(content: bytes) -> object:
    """Parse JSON; ValueError if it is invalid, nested too deeply, or would take more than MAX_JSON_MEMORY."""
    # Text, whole and as strings, takes up to four bytes per character as soon as one is not ASCII.
    memory = 2 * len(content) * (1 if content.isascii() else 4)
    memory += sum(content.count(character) * size for character, size in _JSON_MEMORY.items())
    if memory > MAX_JSON_MEMORY:
        raise ValueError(f"{len(content)} bytes of JSON that would take more than {MAX_JSON_MEMORY} bytes of memory")

    # json.loads raises ValueError itself for invalid JSON and for text that is not UTF-8.
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_json(path: str | os.PathLike[str]) -> object:
    """Read and parse a JSON file.

    Raises:
        OSError: the file is missing, too large or cannot be read.
        ValueError: see `parse_json`.
    """
    return parse_json(read_file(path, MAX_MEMBER_BYTES))
