"""PyTorch's files (zip archives) of plain data and tensors, read as data, with their checksums.

The archive has the pickle NAME/data.pkl and one uncompressed file NAME/data/KEY for each storage. `torch.load` is not
used, even with weights_only: it accepts sparse, quantized and compressed data, does not compare checksums, and before
PyTorch 2.10 a hostile file could corrupt the memory.
"""

import io
import os
import struct
import zipfile
import zlib
from typing import Any, BinaryIO

import torch
from torch import Tensor

from dnnlib.limits import MAX_HEADER_BYTES
from torch_utils.safe_pickle import Global, WeightsError, read_pickle
from training.weights.tensors import STORAGES, rebuild_tensor, values_from_bytes

# Length of a member's header, and where it stores the lengths of the name and of the extra field that follow it.
_LOCAL_HEADER = 30
_LOCAL_LENGTHS = 26

# Replacements of the globals in such a pickle, see `safe_pickle`.
_GLOBALS = {
    **STORAGES,
    "collections OrderedDict": lambda: {},
    "torch._utils _rebuild_parameter": lambda tensor, *_unused: tensor,
    "torch._utils _rebuild_tensor_v2": rebuild_tensor,
}


def read_torch_file(file: BinaryIO) -> Any:
    """Read the contents of a file written by `torch.save`, tensors on the CPU.

    Args:
        file: seekable, the archive begins at its start.
    Raises:
        WeightsError: damaged (a checksum does not match), compressed, or anything but plain data and dense tensors.
    """
    archive = _Archive(file)
    return read_pickle(io.BytesIO(archive.read("data.pkl")), _GLOBALS.get, archive.storage)


class _DirectoryReader:
    """File from which `zipfile` reads the list of members, which is limited in size."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.seek = file.seek
        self.tell = file.tell

    def read(self, size: int = -1) -> bytes:
        # Not more than the limit, or than a negative size, which stands for everything.
        data = self._file.read(MAX_HEADER_BYTES + 1 if size < 0 else min(size, MAX_HEADER_BYTES + 1))
        if len(data) > MAX_HEADER_BYTES:
            raise WeightsError(f"a zip archive whose list of files has more than {MAX_HEADER_BYTES} bytes")
        return data


class _Archive:
    """Uncompressed members of a PyTorch file."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.storages: dict[str, Tensor] = {}
        self.size = file.seek(0, os.SEEK_END)
        try:
            members = zipfile.ZipFile(_DirectoryReader(file)).infolist()
        except WeightsError:
            raise
        except Exception as error:  # a damaged directory also raises UnicodeDecodeError, IndexError, ...
            raise WeightsError(f"damaged or truncated zip archive ({error})") from None

        # All names begin with that of the archive.
        roots = [name.removesuffix("data.pkl") for name in (m.filename for m in members) if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise WeightsError("a zip archive not written by PyTorch: it has no data.pkl, or several")
        if sum(member.file_size for member in members) > self.size:
            raise WeightsError("a compressed zip archive, or one whose files overlap; PyTorch writes neither")
        self.members = {m.filename.removeprefix(roots[0]): m for m in members if m.filename.startswith(roots[0])}
        if "byteorder" in self.members and self.read("byteorder") != b"little":
            raise WeightsError("written on a big-endian machine, only little endian is supported")

    def read(self, name: str) -> bytes:
        """Return the content of a member, whose checksum must match."""
        member = self.members.get(name)
        if member is None:
            raise WeightsError(f"damaged PyTorch file: {name!r:.100} is missing")
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            raise WeightsError("a compressed or encrypted zip archive; PyTorch writes neither")

        # The content follows the member's header, whose name and extra field may have other lengths than in the list.
        if 0 <= member.header_offset <= self.size - _LOCAL_HEADER:
            self.file.seek(member.header_offset + _LOCAL_LENGTHS)
            lengths = struct.unpack("<HH", self.file.read(_LOCAL_HEADER - _LOCAL_LENGTHS))
            self.file.seek(sum(lengths), os.SEEK_CUR)
            data = self.file.read(member.file_size)
            if len(data) == member.file_size and zlib.crc32(data) == member.CRC:
                return data
        raise WeightsError(f"damaged file: the checksum of {name!r:.100} does not match")

    def storage(self, reference: Any) -> Tensor:
        """Return the storage of a persistent id, shape (count,); each member is read once."""
        match reference:
            # Kind, storage type, key, device, number of values.
            case ("storage", Global(meaning=torch.dtype() as dtype), str(key), str(), int(count)):
                if key not in self.storages:
                    self.storages[key] = values_from_bytes(self.read(f"data/{key}"), dtype)
                storage = self.storages[key]
                if storage.dtype == dtype and storage.numel() == count:
                    return storage
        raise WeightsError("damaged PyTorch file: invalid reference to a storage")
