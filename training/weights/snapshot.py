"""Weights files: write our own snapshots, and read a file of any supported format, detected from its first bytes."""

import errno
import io
import json
import mmap
import os
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from dnnlib.json_files import read_json
from dnnlib.limits import MAX_HEADER_BYTES, MAX_NETWORKS, MAX_WEIGHTS_BYTES
from dnnlib.util import atomic_write, cached_path, open_url
from torch_utils.safe_pickle import WeightsError
from training.weights.published_pickle import read_published_pickle
from training.weights.record import (
    NetworkRecord,
    WeightsFile,
    is_registered,
    module_from_record,
    record_from_module,
    to_plain_data,
)
from training.weights.safetensors_file import dump_safetensors, load_safetensors
from training.weights.tensors import check_tensors
from training.weights.torch_file import read_torch_file

FORMAT = "pix2pix3d-snapshot"
VERSION = 1

# Keys of `extra`.
UNTRAINED = "untrained"  # True for weights as initialized
CLASS_NAMES = "class_names"  # names of label classes, class 0 first

# Not needed to run a model, so a class that is not registered is no error: it stays a record.
OPTIONAL_NETWORK = "augment_pipe"

Source = str | os.PathLike[str] | BinaryIO

# --------------------------------------------------------------------------- writing


def save_snapshot(
    path: str | os.PathLike[str],
    networks: Mapping[str, nn.Module | NetworkRecord],
    training_set_kwargs: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Save networks as plain data and tensors: as safetensors if `path` ends in .safetensors, else as a PyTorch file.

    Files appear under their names only once they are complete and on the disk. Next to a .safetensors file, everything
    but the tensors is written to a .json file of the same name.

    Args:
        path: of the file.
        networks: by public name (G, D, G_ema, ...); modules must have been built by `registry.construct`.
        training_set_kwargs: arguments of the training data set.
        extra: other plain data.
    Raises:
        OSError: cannot be written, or the .json file exists and does not describe weights.
        ValueError: anything but plain data and registered networks.
    """
    path = Path(path)

    # Contents, the same in both formats. Plain data only, so that reading them needs no trust in the file.
    records = {
        name: network if isinstance(network, NetworkRecord) else record_from_module(network)
        for name, network in networks.items()
    }
    contents = {
        "format": FORMAT,
        "version": VERSION,
        "networks": {name: dict(vars(record)) for name, record in records.items()},
        "training_set_kwargs": to_plain_data(training_set_kwargs, "training_set_kwargs"),
        "extra": to_plain_data(dict(extra or {}), "extra"),
    }

    # File, in the format that its name asks for.
    if path.suffix.lower() == ".safetensors":
        _save_safetensors(path, contents)
    else:
        with atomic_write(path) as file:
            torch.save(contents, file)


def _save_safetensors(path: Path, contents: dict[str, Any]) -> None:
    # Cloned, because the format allows no two names for the same memory: G and G_ema may be one network.
    tensors = {
        f"{name}.{key}": tensor.clone()
        for name, network in contents["networks"].items()
        for key, tensor in network.pop("state").items()
    }

    # Do not overwrite an unrelated .json file, such as a data set's labels.
    description_path = path.with_suffix(".json")
    if description_path.exists() and not _is_description(description_path):
        raise FileExistsError(errno.EEXIST, "exists and does not describe weights, not replaced", str(description_path))

    # Nested, so that an error while writing the contents leaves neither file.
    with atomic_write(path) as file, atomic_write(description_path) as description:
        file.write(dump_safetensors(contents, tensors))
        description.write(json.dumps(contents, indent=1).encode())


def _is_description(path: Path) -> bool:
    try:
        return read_json(path).get("format") == FORMAT
    except (ValueError, AttributeError, OSError):
        return False


# --------------------------------------------------------------------------- reading


def load_network_pkl(
    source: Source, only: Collection[str] | None = None, optional: Collection[str] = ()
) -> dict[str, Any]:
    """Load the networks of a weights file: a published pickle of pix2pix3D or EG3D, or one of our snapshots.

    Args:
        source: path, URL or binary file.
        only: names of the networks to build; None builds all.
        optional: names of further networks to build if the file has them.
    Returns:
        The networks in the file by public name (G, D, G_ema, D_semantic, augment_pipe), in eval mode on the CPU;
        "training_set_kwargs" (dict or None); "extra" (dict, see `save_snapshot`). An augment_pipe whose class is not
        registered stays a NetworkRecord.
    Raises:
        WeightsError: cannot be opened, not a weights file, damaged, lacks a network that `only` names, or has a
            network of an unknown class; the message starts with the source.
    """
    contents = read_weights(source)

    # Networks. Each takes memory and time to build, so those that are not asked for are left out.
    data: dict[str, Any] = {}
    names = list(contents.networks)
    if only is not None:
        names = [*only, *(name for name in optional if name in contents.networks)]
    for name in names:
        if name not in contents.networks:
            raise WeightsError(f"{_label(source)}: has {', '.join(contents.networks)}, but no {name}")

        # Building checks the record; errors name file and network.
        record = contents.networks[name]
        if name == OPTIONAL_NETWORK and not is_registered(record.class_name):
            data[name] = record
            continue
        try:
            data[name] = module_from_record(record)
        except WeightsError as error:
            raise WeightsError(f"{_label(source)}: {name}: {error}") from error
    return {**data, "training_set_kwargs": contents.training_set_kwargs, "extra": contents.extra}


def read_weights(source: Source) -> WeightsFile:
    """Read a weights file without building its networks.

    Raises:
        WeightsError: as `load_network_pkl`.
    """
    is_path = isinstance(source, str | os.PathLike)
    try:
        # A download is kept only if it can be read. A file that the caller opened stays open. Formats are detected by
        # looking ahead, so pipes are read whole.
        with open_url(os.fspath(source), check=_read) if is_path else nullcontext(source) as file:
            return _read(file if file.seekable() else io.BytesIO(file.read(MAX_WEIGHTS_BYTES + 1)))
    except WeightsError as error:
        raise WeightsError(f"{_label(source)}: {error}") from None
    except (OSError, ValueError) as error:
        # ValueError: unknown scheme, or a null character in the path.
        reason = getattr(error, "strerror", None) or error
        raise WeightsError(f"{_label(source)}: cannot be read ({reason})") from error


def _label(source: Source) -> str:
    if not isinstance(source, str | os.PathLike):
        return str(getattr(source, "name", "weights file"))

    # The cached file of a URL, which would be used again until it is deleted.
    path = cached_path(os.fspath(source))
    return f"{source} (downloaded to {path})" if path is not None and path.exists() else str(source)


def _read(file: BinaryIO) -> WeightsFile:
    """Detect the format from the first bytes and read the file."""
    start = file.tell()
    size = file.seek(0, os.SEEK_END) - start
    if size > MAX_WEIGHTS_BYTES:
        raise WeightsError(f"{size} bytes, expected at most {MAX_WEIGHTS_BYTES}")

    # Just enough for all formats.
    file.seek(start)
    head = file.read(40)
    file.seek(start)

    # Safetensors start with the length of their JSON header in 8 bytes, which may look like another format's start.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER_BYTES:
        return _load_safetensors(file.read())

    # Zip archives are PyTorch files; 0x80 and a protocol number start a pickle.
    if head.startswith(b"PK"):
        return _parse_contents(read_torch_file(file))
    if head[:1] == b"\x80" and head[1:2] <= b"\x05":
        return read_published_pickle(_map_into_memory(file))

    # Anything else is an error. Common cases are named: an interrupted download, a download page, an incomplete clone.
    if not head:
        raise WeightsError("empty file")
    if head.lstrip().startswith(b"<"):
        raise WeightsError("a web page instead of weights; is the URL that of a download page?")
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError("a Git LFS pointer instead of weights; get the file with: git lfs pull")
    expected = "a pix2pix3D or EG3D pickle, a snapshot of this program, or .safetensors"
    raise WeightsError(f"not a weights file: starts with {head[:9]!r}, expected {expected}")


def _map_into_memory(file: BinaryIO) -> BinaryIO:
    """Map the file instead of reading it where the system supports it, since most of it is skipped over."""
    start = file.tell()
    try:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):  # io.UnsupportedOperation is both: not a file of the operating system
        return io.BytesIO(file.read())

    # The mapping begins with the file, not with its current position.
    mapped.seek(start)
    return mapped


def _load_safetensors(data: bytes) -> WeightsFile:
    contents, tensors = load_safetensors(data)
    try:
        # Tensors go back to their networks, in the order of their names, since the format keeps no order.
        for network in contents["networks"].values():
            network["state"] = {}
        for full_name in sorted(tensors):
            name, _, key = full_name.partition(".")
            contents["networks"][name]["state"][key] = tensors[full_name]
    except (LookupError, TypeError, AttributeError) as error:
        raise WeightsError(f"damaged, or a safetensors file not written by this program ({error!r:.200})") from None
    return _parse_contents(contents)


def _parse_contents(contents: Any) -> WeightsFile:
    """Check and convert the contents of a snapshot; any value may be invalid."""
    # Format.
    if not isinstance(contents, dict) or not _equals(contents.get("format"), FORMAT):
        raise WeightsError(f"not a snapshot of this program (format is not {FORMAT})")
    version = contents.get("version")
    if not _equals(version, VERSION):
        got = version if isinstance(version, int) and version.bit_length() < 64 else f"of type {type(version).__name__}"
        raise WeightsError(f"snapshot version {got}, expected {VERSION}")

    # Structure. torch.load returns any nesting of plain data, so types are checked before use.
    networks = contents.get("networks")
    if not isinstance(networks, dict) or not networks or not all(isinstance(name, str) for name in networks):
        raise WeightsError("a snapshot without networks")
    if len(networks) > MAX_NETWORKS:
        raise WeightsError(f"{len(networks)} networks, expected at most {MAX_NETWORKS}")
    extra = contents.get("extra")
    if not isinstance(extra, dict):
        raise WeightsError(f"extra: expected a dict, got {type(extra).__name__}")
    training_set_kwargs = contents.get("training_set_kwargs")
    if not isinstance(training_set_kwargs, dict | None):
        raise WeightsError(f"training_set_kwargs: expected a dict, got {type(training_set_kwargs).__name__}")

    # Values. Names and shapes of tensors are checked when the network is built.
    records = {name: _parse_network(name, network) for name, network in networks.items()}
    training_set_kwargs = to_plain_data(training_set_kwargs, "training_set_kwargs")
    return WeightsFile(records, training_set_kwargs, to_plain_data(extra, "extra"))


def _equals(value: Any, expected: str | int) -> bool:
    # A comparison with a tensor would be a tensor.
    return type(value) is type(expected) and value == expected


def _parse_network(name: str, network: Any) -> NetworkRecord:
    match network:
        case {
            "class_name": str(class_name),
            "init_kwargs": dict(init_kwargs),
            "attributes": dict(attributes),
            "state": dict(state),
        }:
            if all(isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in state.items()):
                check_tensors(name, state)
                init_kwargs = to_plain_data(init_kwargs, name)
                return NetworkRecord(class_name, init_kwargs, state, to_plain_data(attributes, name))
    raise WeightsError(f"{name}: expected class name, arguments, attributes and tensors")
