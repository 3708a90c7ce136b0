"""Weights files: our own snapshots (plain data and tensors), and opening a file of any kind by what it holds."""

import errno
import io
import json
import mmap
import os
import pickle
import re
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from dnnlib.util import atomic_write, open_url
from torch_utils.safe_pickle import WeightsError
from training.weights.published_pickle import read_public_weights
from training.weights.record import NetworkRecord, WeightsFile, build, is_known, plain, record_of

FORMAT = "pix2pix3d-snapshot"
VERSION = 1
METADATA_KEY = "pix2pix3d"  # in a safetensors file's header; its value is everything but the tensors, as JSON
UNTRAINED = "untrained"  # key of `extra`: true for weights as initialized
CLASS_NAMES = "class_names"  # key of `extra`: names of label classes, class 0 first
KEPT_AS_RECORD = "augment_pipe"  # no part of a model, so its class may be one that we do not have
MAX_HEADER_BYTES = 100_000_000  # of a safetensors file, as its library has it

ABSENT = "not in the source"

Source = str | os.PathLike[str] | BinaryIO

# --------------------------------------------------------------------------- writing


def save_snapshot(
    path: str | os.PathLike[str],
    networks: Mapping[str, nn.Module | NetworkRecord],
    training_set_kwargs: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write networks as plain data and tensors; the suffix .safetensors chooses that format, any other torch's.

    Args:
        networks: by their public names (G, D, G_ema, ...); modules are those of `registry.construct`.
        extra: plain data to keep with them.
    A .safetensors file gets a readable .json of the same name, less the tensors, beside it. Each file appears
    under its name only when it is complete and on the disk.
    """
    path = Path(path)
    records = {name: net if isinstance(net, NetworkRecord) else record_of(net) for name, net in networks.items()}
    contents = _to_plain(records, plain(training_set_kwargs, "training_set_kwargs"), plain(dict(extra or {}), "extra"))
    if path.suffix != ".safetensors":
        with atomic_write(path) as file:
            torch.save(contents, file)
        return
    # One tensor, one place: a network that stands under two names is written twice.
    tensors = {f"{name}.{key}": t.clone() for name, record in records.items() for key, t in record.state.items()}
    for network in contents["networks"].values():
        del network["state"]
    header = {METADATA_KEY: json.dumps(contents)}
    readable = path.with_suffix(".json")
    if readable.exists() and not _is_ours(readable):
        raise FileExistsError(errno.EEXIST, "not a description of weights, left alone", str(readable))
    with atomic_write(path) as file, atomic_write(readable) as description:  # both or neither
        file.write(safetensors.torch.save(tensors, header))
        description.write(json.dumps(contents, indent=1).encode())


def _is_ours(description: Path) -> bool:
    try:
        return json.loads(description.read_bytes()).get("format") == FORMAT
    except (ValueError, AttributeError, OSError):
        return False


def _to_plain(networks: Mapping[str, NetworkRecord], training_set_kwargs: Any, extra: dict) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "networks": {name: dict(vars(record)) for name, record in networks.items()},
        "training_set_kwargs": training_set_kwargs,
        "extra": extra,
    }


# --------------------------------------------------------------------------- reading


def load_network_pkl(source: Source, only: Collection[str] | None = None) -> dict[str, Any]:
    """The networks of a weights file of any kind, ready to use: pix2pix3D's or EG3D's pickle, or one of ours.

    Args:
        source: binary file, path or URL.
        only: names of the networks to build, None for all that are there.
    Returns:
        The networks by their public names (G, D, G_ema, D_semantic, augment_pipe as far as they are there), in eval
        mode on the CPU; training_set_kwargs (dict or None); extra (dict, what `save_snapshot` was given).
        An augment_pipe of a class that we do not have stays a NetworkRecord.
    Raises:
        WeightsError: cannot be opened, not a weights file, damaged, without a network that `only` names, or not of
            our networks; the message names the source.
    """
    contents = read_weights(source)
    data: dict[str, Any] = {}
    for name in contents.networks if only is None else only:
        if name not in contents.networks:
            raise WeightsError(f"{_label(source)}: holds {', '.join(contents.networks)}, but no {name}")
        record = contents.networks[name]
        try:
            foreign = name == KEPT_AS_RECORD and not is_known(record.class_name)
            data[name] = record if foreign else build(record)
        except WeightsError as error:
            raise WeightsError(f"{_label(source)}: {name}: {error}") from error
    return {**data, "training_set_kwargs": contents.training_set_kwargs, "extra": contents.extra}


def read_weights(source: Source) -> WeightsFile:
    """As `load_network_pkl`, but the networks as records: nothing is built."""
    try:
        # A file that the caller opened stays open.
        with open_url(os.fspath(source)) if isinstance(source, str | os.PathLike) else nullcontext(source) as file:
            return _read(file if file.seekable() else io.BytesIO(file.read()))
    except WeightsError as error:
        raise WeightsError(f"{_label(source)}: {error}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise WeightsError(f"{_label(source)}: cannot be read ({reason})") from error


def _label(source: Source) -> str:
    return str(source if isinstance(source, str | os.PathLike) else getattr(source, "name", "weights file"))


def _read(file: BinaryIO) -> WeightsFile:
    start = file.tell()
    head = file.read(9)
    file.seek(start)
    if not head:
        raise WeightsError("empty file")
    if head.startswith(b"PK"):
        return _from_plain(_load_torch(file))
    if head[0] == 0x80 and head[1:2] <= b"\x05":
        return read_public_weights(_mapped(file))
    if head[8:] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER_BYTES:
        return _load_safetensors(file.read())
    if head.lstrip().startswith(b"<"):
        raise WeightsError("a web page, not weights; was it saved from a download page's address?")
    expected = "a pix2pix3D or EG3D pickle, one of our snapshots, or .safetensors"
    raise WeightsError(f"not a weights file: starts with {head!r}, expected {expected}")


def _mapped(file: BinaryIO) -> BinaryIO:
    """The file's contents without reading them into memory, where the system can."""
    start = file.tell()
    try:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):  # io.UnsupportedOperation is both: no file of the system
        return io.BytesIO(file.read())
    mapped.seek(start)
    return mapped


def _load_torch(file: BinaryIO) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise WeightsError("a torch file with more than plain data and tensors; only our snapshots are read") from None
    except (RuntimeError, ValueError, LookupError, EOFError, TypeError, AttributeError) as error:
        reason = str(error).partition("\n")[0]  # torch appends where in its own code it was
        raise WeightsError(f"damaged, cut short, or a zip archive that torch did not write ({reason})") from None


def _load_safetensors(data: bytes) -> WeightsFile:
    try:
        tensors = safetensors.torch.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        contents = json.loads(header["__metadata__"][METADATA_KEY])
        for network in contents["networks"].values():
            network["state"] = {}
        for full_name in sorted(tensors):
            name, _, key = full_name.partition(".")
            contents["networks"][name]["state"][key] = tensors[full_name]
    except (safetensors.SafetensorError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise WeightsError(f"damaged, or a safetensors file that we did not write ({error!r:.200})") from None
    return _from_plain(contents)


def _from_plain(contents: Any) -> WeightsFile:
    """Undo `_to_plain`, trusting nothing."""
    if not isinstance(contents, dict) or contents.get("format") != FORMAT:
        raise WeightsError(f"a torch file, but not one of our snapshots ({FORMAT})")
    if contents.get("version") != VERSION:
        found = plain(contents.get("version"), "version")
        raise WeightsError(f"snapshot version {found!r:.50}, this program reads version {VERSION}")
    networks, extra = contents.get("networks"), contents.get("extra")
    named = isinstance(networks, dict) and networks and all(isinstance(name, str) for name in networks)
    if not named or not isinstance(extra, dict):
        raise WeightsError("a snapshot without networks, or without the table of extra values")
    records = {name: _record(name, network) for name, network in networks.items()}
    data_set = plain(contents.get("training_set_kwargs"), "training_set_kwargs")
    return WeightsFile(records, data_set, plain(extra, "extra"))


def _record(name: str, network: Any) -> NetworkRecord:
    match network:
        case {
            "class_name": str(class_name),
            "init_kwargs": dict(init),
            "attributes": dict(attributes),
            "state": dict(state),
        }:
            if all(isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in state.items()):
                return NetworkRecord(class_name, plain(init, name), state, plain(attributes, name))
    raise WeightsError(f"{name}: not a network's class, arguments, attributes and tensors")


# --------------------------------------------------------------------------- copying by name


@dataclass(frozen=True)
class CopyReport:
    """What `copy_by_name` did with each tensor of its destination."""

    sources: dict[str, str | None]  # by destination: the name it was copied from, None: stays as it was
    reasons: dict[str, str]  # of those that stay
    sizes: dict[str, int]

    def table(self) -> str:
        """How many tensors and numbers were copied, taken from another name, left as they were; and which."""
        same = [name for name, source in self.sources.items() if source == name]
        other = [name for name, source in self.sources.items() if source not in (name, None)]
        lines = [f"{'':18}{'tensors':>8}{'numbers':>14}"]
        for title, names in (("copied", same), ("from another name", other), ("left as it was", self.reasons)):
            lines.append(f"{title:18}{len(names):8}{sum(self.sizes[name] for name in names):14,}")
        # Whole modules stand for their tensors: up to the part that was renamed, or to the third level.
        modules = dict.fromkeys(re.match(r".*_semantic[^.]*", name)[0] for name in other)
        lines += [f"  {module}: from {module.replace('_semantic', '')}" for module in modules]
        absent = dict.fromkeys(".".join(n.split(".")[:3]) for n, reason in self.reasons.items() if reason == ABSENT)
        lines += [f"  {module}: {ABSENT}" for module in absent]
        lines += [f"  {name}: {reason}" for name, reason in self.reasons.items() if reason != ABSENT]
        return "\n".join(lines)


def copy_by_name(source: nn.Module, destination: nn.Module) -> CopyReport:
    """Start a network from another one's weights.

    Each parameter and buffer takes the source's of the same name, or else of the name without every "_semantic";
    what has no source, or one of another shape, stays as it is.
    """
    found, wanted = source.state_dict(), destination.state_dict()
    sources: dict[str, str | None] = dict.fromkeys(wanted)
    reasons = {}
    for name, tensor in wanted.items():
        other = name if name in found else name.replace("_semantic", "")
        if other not in found:
            reasons[name] = ABSENT
        elif found[other].shape != tensor.shape:
            reasons[name] = f"shape {tuple(tensor.shape)}, source {tuple(found[other].shape)}"
        else:
            tensor.copy_(found[other])  # state_dict() gives the tensors themselves, detached
            sources[name] = other
    return CopyReport(sources, reasons, {name: tensor.numel() for name, tensor in wanted.items()})
