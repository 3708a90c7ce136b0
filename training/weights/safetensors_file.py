"""Safetensors files with a description in JSON and a checksum of everything."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from dnnlib.json_files import parse_json
from torch_utils.safe_pickle import WeightsError

# In the header of a file: all but the tensors, as JSON, and the checksum.
METADATA_KEY = "pix2pix3d"
CHECKSUM_KEY = "crc32"


def dump_safetensors(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """Encode plain data and CPU tensors of any shape by name; no two may share memory."""
    text = json.dumps(description)
    return safetensors.torch.save(dict(tensors), {METADATA_KEY: text, CHECKSUM_KEY: _checksum(text, tensors)})


def load_safetensors(data: bytes) -> tuple[Any, dict[str, Tensor]]:
    """Decode a file, which can come from anywhere: its description, any JSON, and its tensors of any shape by name.

    Raises:
        WeightsError: damaged, or not written by `dump_safetensors`.
    """
    try:
        # `load` checks the header; our part of it is JSON in JSON.
        tensors = safetensors.torch.load(data)
        metadata = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        text = metadata[METADATA_KEY]

        # Files of older versions have none.
        if CHECKSUM_KEY in metadata and metadata[CHECKSUM_KEY] != _checksum(text, tensors):
            raise WeightsError("damaged: its checksum does not match")
        return parse_json(text.encode()), tensors
    except WeightsError:
        raise
    except (safetensors.SafetensorError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise WeightsError(f"damaged, or a safetensors file not written by this program ({error!r:.200})") from None


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the CRC-32 of the description and of all tensors (any shape), as 8 hexadecimal digits."""
    # Against damage in storage and transfer, which changes numbers without any other sign.
    crc = zlib.crc32(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        crc = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), crc)
        crc = zlib.crc32(tensor.contiguous().flatten().view(torch.uint8).numpy(), crc)
    return f"{crc:08x}"
