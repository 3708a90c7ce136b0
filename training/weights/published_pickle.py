"""Read the network snapshots of pix2pix3D and EG3D: pickles that we take for data and never execute.

Such a file stores each network as a record with its class's source text, constructor arguments and attributes.
The source is not looked at. From the record's tree of submodules we take the tensors, from its top the class name
and the arguments; `network_record.build` makes our own class from these.
"""

import io
import math
import re
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

import torch
from torch import Tensor

from torch_utils.safe_pickle import SETSTATE, Global, Record, WeightsError, read_pickle
from training.weights.record import ATTRIBUTES, NetworkRecord, WeightsFile, named_arguments, plain

PERSISTENCE_VERSION = 6
NETWORKS = ("G", "D", "G_ema", "D_semantic", "augment_pipe")
MAX_PARTS = 100_000  # submodules and tensors of one network; real ones have about 600
MAX_DEPTH = 32  # of submodules; real ones have 6
MAX_NAME = 100  # characters of a part's; real ones have 25
MAX_AXES = 64  # of a tensor, torch's own limit

# Classes that are stored as ordinary objects, not as persistent ones.
_UNDECORATED = frozenset((
    "OSGDecoder", "OSGDecoder_semantic", "OSGDecoder_semantic_entangle", "OSGDecoder_semantic_lateSeparate",
    "ImportanceRenderer", "ImportanceSemanticRenderer", "MipRayMarcher2", "RaySampler",
))  # fmt: skip
_UNDECORATED_MODULE = re.compile(
    r"training\.triplane|training\.triplane_cond|training\.volumetric_rendering\.(ray_marcher|ray_sampler|renderer)"
    r"|_imported_module_[0-9a-f]{32}"
)

# --------------------------------------------------------------------------- tensors

_STORAGES = {
    "torch FloatStorage": torch.float32,
    "torch DoubleStorage": torch.float64,
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch LongStorage": torch.int64,
    "torch IntStorage": torch.int32,
    "torch ShortStorage": torch.int16,
    "torch CharStorage": torch.int8,
    "torch ByteStorage": torch.uint8,
    "torch BoolStorage": torch.bool,
}
_MAGIC = 0x1950A86A20F9469CFC6C  # first of the five pickles in torch's old format
_FORMAT_VERSION = 1001


def read_storage(data: bytes) -> Tensor:
    """The one storage in the bytes of torch's old (not zip) format, as a flat tensor.

    Five pickles (magic number, version, machine, the storage's reference, list of keys), then an 8-byte count and
    the raw values, both little endian.
    """
    if not isinstance(data, bytes):
        raise WeightsError(f"tensor data: expected bytes, got {type(data).__name__}")
    stream = io.BytesIO(data)
    magic, version, machine = (read_pickle(stream, _STORAGES.get) for _ in range(3))
    if magic != _MAGIC or version != _FORMAT_VERSION:
        raise WeightsError("tensor data: not in torch's old format")
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise WeightsError("tensor data: from a big-endian machine, only little endian is read")
    dtype, key, count = read_pickle(stream, _STORAGES.get, persistent=_storage_reference)
    if read_pickle(stream, _STORAGES.get) != [key]:
        raise WeightsError("tensor data: expected one storage")
    start = stream.tell() + 8
    if start + count * dtype.itemsize != len(data) or struct.unpack_from("<q", data, start - 8)[0] != count:
        raise WeightsError(f"tensor data: {count} values of {dtype} announced, {max(len(data) - start, 0)} bytes there")
    if count == 0:
        return torch.empty(0, dtype=dtype)
    values = bytearray(memoryview(data)[start:])  # a copy, for tensors are writable
    if dtype == torch.bool:
        return torch.frombuffer(values, dtype=torch.uint8).bool()  # any byte becomes a valid truth value
    return torch.frombuffer(values, dtype=dtype)


def _storage_reference(reference: Any) -> tuple[torch.dtype, str, int]:
    match reference:
        case ("storage", Global(meaning=torch.dtype() as dtype), str(key), str(), int(count), None) if count >= 0:
            return dtype, key, count
    raise WeightsError("tensor data: not a reference to one whole storage")


def _tensor(storage: Tensor, offset: int, size: tuple, stride: tuple, *_unread: Any) -> Tensor:
    """A view of the storage; what follows the stride (gradient flag, hooks, metadata) does not matter here."""
    numbers = (offset, *size, *stride)
    fits = len(size) <= MAX_AXES and all(type(n) is int and 0 <= n < 2**62 for n in numbers)
    if not isinstance(storage, Tensor) or not fits:
        raise WeightsError("tensor: its storage, offset, size or stride is none")
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if count > storage.numel() or (count and last >= storage.numel()):
        raise WeightsError(f"tensor: size {size} reaches past its {storage.numel()} stored values")
    return storage.as_strided(size, stride, offset)


def _parameter(tensor: Tensor, *_unread: Any) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise WeightsError(f"parameter: expected a tensor, got {type(tensor).__name__}")
    return tensor


# --------------------------------------------------------------------------- the other names


def _quoted(value: Any) -> str:
    """For messages; what is not small by its kind (lists can hold themselves) is named by its kind."""
    return f"{value!r:.50}" if isinstance(value, str | float | bool | None) else f"a {type(value).__name__}"


_SCALARS = {"f8": "d", "f4": "f", "f2": "e", "i8": "q", "i4": "i", "i2": "h", "i1": "b", "b1": "?"}


def _numpy_dtype(code: str, *_flags: Any) -> Record:
    if not isinstance(code, str) or code not in _SCALARS:
        raise WeightsError(f"numpy dtype {_quoted(code)}, expected one of {', '.join(_SCALARS)}")
    return Record(code)


def _numpy_scalar(dtype: Record, data: bytes) -> float | int | bool:
    byte_order = dtype.state[SETSTATE][1]
    if byte_order not in ("<", "|"):
        raise WeightsError(f"numpy scalar: byte order {_quoted(byte_order)}, only little endian is read")
    return struct.unpack("<" + _SCALARS[dtype.class_name], data)[0]


def _persistent_object(meta: dict[str, Any]) -> Record:
    """A network or layer of theirs. `meta["module_src"]`, its source text, stays unread."""
    if meta.get("type") != "class" or meta.get("version") != PERSISTENCE_VERSION:
        found = f"type {_quoted(meta.get('type'))}, version {_quoted(meta.get('version'))}"
        raise WeightsError(f"persistent object: expected type 'class', version {PERSISTENCE_VERSION}, got {found}")
    class_name, state = meta.get("class_name"), meta.get("state")
    if not isinstance(class_name, str) or not isinstance(state, dict):
        raise WeightsError("persistent object: without class name or state")
    return Record(class_name, state)


def _set(items: list | tuple = ()) -> set[str]:
    if not all(isinstance(item, str) for item in items):
        raise WeightsError("set: expected names only")
    return set(items)


_NAMES = {
    "builtins set": _set,  # protocol 3 has no opcode for sets
    "collections OrderedDict": lambda: {},
    "dnnlib.util EasyDict": lambda: {},
    "numpy dtype": _numpy_dtype,
    "numpy.core.multiarray scalar": _numpy_scalar,
    "numpy._core.multiarray scalar": _numpy_scalar,
    "torch._utils _rebuild_parameter": _parameter,
    "torch._utils _rebuild_tensor": _tensor,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch.storage _load_from_bytes": read_storage,
    "torch.nn.modules.activation Softplus": lambda: Record("Softplus"),
    "torch.nn.modules.container Sequential": lambda: Record("Sequential"),
    "torch_utils.persistence _reconstruct_persistent_obj": _persistent_object,
}


def lookup(name: str) -> Any:
    """What "module name" in a public snapshot means to us; None for what such a file does not need."""
    module, _, class_name = name.partition(" ")
    if class_name in _UNDECORATED and _UNDECORATED_MODULE.fullmatch(module):
        return lambda: Record(class_name)
    return _NAMES.get(name)


# --------------------------------------------------------------------------- the whole file


def read_public_weights(stream: BinaryIO) -> WeightsFile:
    """The networks of a public snapshot as plain records.

    Raises:
        WeightsError: not such a pickle, damaged, or one that names anything outside the table above.
    """
    contents = read_pickle(stream, lookup)
    if not isinstance(contents, dict):
        raise WeightsError(f"a pickle, but no snapshot: expected a dict of networks, got {type(contents).__name__}")
    networks = {name: _network(name, contents[name]) for name in NETWORKS if contents.get(name) is not None}
    if not networks:
        raise WeightsError(f"a pickle, but no snapshot: it holds none of {', '.join(NETWORKS)}")
    return WeightsFile(networks, plain(contents.get("training_set_kwargs"), "training_set_kwargs"))


def _network(name: str, record: Any) -> NetworkRecord:
    if not isinstance(record, Record):
        raise WeightsError(f"{name}: expected a network, got {type(record).__name__}")
    positional, keywords = record.state.get("_init_args", ()), record.state.get("_init_kwargs")
    if not isinstance(positional, tuple) or not isinstance(keywords, dict):
        raise WeightsError(f"{name} ({record.class_name!r}): its constructor arguments are not there")
    arguments = plain(named_arguments(record.class_name, positional, keywords), f"{name}: arguments")
    attributes = {key: plain(record.state[key], key) for key in ATTRIBUTES if record.state.get(key) is not None}
    return NetworkRecord(record.class_name, arguments, dict(_tensors(record)), attributes)


def _tensors(network: Record) -> Iterator[tuple[str, Tensor]]:
    """Names as in state_dict() and the tensors, depth first; no recursion, for the file may hold a loop."""
    pending, parts = [("", network)], 0
    while pending:
        prefix, record = pending.pop()
        if not isinstance(record, Record) or prefix.count(".") > MAX_DEPTH:
            raise WeightsError(f"{prefix!r:.100}: expected a module at most {MAX_DEPTH} deep")
        parameters, buffers, modules = (_parts(record, key) for key in ("_parameters", "_buffers", "_modules"))
        parts += 1 + len(parameters) + len(buffers) + len(modules)
        if parts > MAX_PARTS:
            raise WeightsError(f"a network of more than {MAX_PARTS} submodules and tensors")
        passing = record.state.get("_non_persistent_buffers_set")
        kept = {key: tensor for key, tensor in buffers.items() if not isinstance(passing, set) or key not in passing}
        for key, tensor in (parameters | kept).items():
            if isinstance(tensor, Tensor):
                yield prefix + key, tensor
            elif tensor is not None:
                raise WeightsError(f"{prefix + key!r:.100}: expected a tensor, got {type(tensor).__name__}")
        pending += [(f"{prefix}{key}.", child) for key, child in reversed(modules.items()) if child is not None]


def _parts(record: Record, key: str) -> dict[str, Any]:
    parts = record.state.get(key)
    if not isinstance(parts, dict) or not all(isinstance(name, str) and len(name) <= MAX_NAME for name in parts):
        raise WeightsError(f"a {record.class_name!r:.100} without {key}, or with wrong names in it")
    return parts
