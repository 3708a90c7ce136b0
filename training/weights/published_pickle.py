"""Published pickles of pix2pix3D and EG3D: read as data, nothing is executed.

Such a file stores each network as a record of its class's source text, constructor arguments and attributes. The
source text is ignored. The tensors come from the record's tree of submodules, the class name and the constructor
arguments from its root; `record.module_from_record` then builds our own class.
"""

import io
import re
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

import torch
from torch import Tensor

from dnnlib.limits import MAX_MODULE_DEPTH, MAX_NAME, MAX_TENSORS
from torch_utils.safe_pickle import SETSTATE, Global, Record, WeightsError, read_pickle
from training.weights.record import ATTRIBUTES, NetworkRecord, WeightsFile, arguments_by_name, to_plain_data
from training.weights.tensors import STORAGES, check_tensors, rebuild_tensor, values_from_bytes

PERSISTENCE_VERSION = 6  # of the format in which published code pickles its networks
NETWORKS = ("G", "D", "G_ema", "D_semantic", "augment_pipe")

# Classes pickled as ordinary objects instead of persistence records. The second form of their modules' names
# is that under which published code imports embedded source text.
_ORDINARY_CLASSES = frozenset((
    "OSGDecoder", "OSGDecoder_semantic", "OSGDecoder_semantic_entangle", "OSGDecoder_semantic_lateSeparate",
    "ImportanceRenderer", "ImportanceSemanticRenderer", "MipRayMarcher2", "RaySampler",
))  # fmt: skip
_ORDINARY_MODULES = re.compile(
    r"training\.triplane|training\.triplane_cond|training\.volumetric_rendering\.(ray_marcher|ray_sampler|renderer)"
    r"|_imported_module_[0-9a-f]{32}"
)


def read_published_pickle(stream: BinaryIO) -> WeightsFile:
    """Read the networks of a published pickle as records.

    Raises:
        WeightsError: not such a pickle, damaged, or with a name that `lookup` does not allow.
    """
    contents = read_pickle(stream, lookup)
    if not isinstance(contents, dict):
        raise WeightsError(f"not a network pickle: expected a dict of networks, got {type(contents).__name__}")

    # Networks and, as the only other content that is read, the arguments of the data set. A run without augmentation
    # stores None as augment_pipe.
    networks = {name: _network(name, contents[name]) for name in NETWORKS if contents.get(name) is not None}
    if not networks:
        raise WeightsError(f"not a network pickle: has none of {', '.join(NETWORKS)}")
    return WeightsFile(networks, to_plain_data(contents.get("training_set_kwargs"), "training_set_kwargs"))


def _network(name: str, record: Any) -> NetworkRecord:
    if not isinstance(record, Record):
        raise WeightsError(f"{name}: expected a network, got {type(record).__name__}")

    # Constructor arguments, stored by the decorator that makes published classes persistent.
    args = record.state.get("_init_args", ())
    kwargs = record.state.get("_init_kwargs")
    if not isinstance(args, tuple) or not isinstance(kwargs, dict):
        raise WeightsError(f"{name} ({record.class_name!r}): constructor arguments are missing")
    init_kwargs = to_plain_data(arguments_by_name(record.class_name, args, kwargs), f"{name}: arguments")

    # Tensors and attributes. Other state of a module, such as hooks and flags, is set by its constructor.
    attributes = {key: to_plain_data(record.state[key], key) for key in ATTRIBUTES if record.state.get(key) is not None}
    state = dict(_tensors(record))
    check_tensors(name, state)
    return NetworkRecord(record.class_name, init_kwargs, state, attributes)


def _tensors(network: Record) -> Iterator[tuple[str, Tensor]]:
    """Yield names as in `state_dict()` and tensors, depth first.

    An explicit stack instead of recursion, because submodules in the file may form a cycle.
    """
    # Modules to visit, with the prefix of their tensors' names.
    pending = [("", network)]
    entries = 0
    while pending:
        prefix, record = pending.pop()
        if not isinstance(record, Record) or prefix.count(".") > MAX_MODULE_DEPTH:
            raise WeightsError(f"{prefix!r:.100}: expected a module at most {MAX_MODULE_DEPTH} deep")

        # A submodule reachable by several paths is counted each time: n levels of two references to the next one are
        # 2^n modules.
        parameters = _named_entries(record, "_parameters")
        buffers = _named_entries(record, "_buffers")
        modules = _named_entries(record, "_modules")
        entries += 1 + len(parameters) + len(buffers) + len(modules)
        if entries > MAX_TENSORS:
            raise WeightsError(f"network of more than {MAX_TENSORS} submodules and tensors")

        # Non-persistent buffers are not in a state dict.
        non_persistent = record.state.get("_non_persistent_buffers_set")
        if isinstance(non_persistent, set):
            buffers = {key: tensor for key, tensor in buffers.items() if key not in non_persistent}

        # Optional parameters, such as an absent bias, are None.
        for key, tensor in (parameters | buffers).items():
            if isinstance(tensor, Tensor):
                yield prefix + key, tensor
            elif tensor is not None:
                raise WeightsError(f"{prefix + key!r:.100}: expected a tensor, got {type(tensor).__name__}")

        # Reversed, because the last one is visited first.
        pending += [(f"{prefix}{key}.", child) for key, child in reversed(modules.items()) if child is not None]


def _named_entries(record: Record, key: str) -> dict[str, Any]:
    entries = record.state.get(key)
    if not isinstance(entries, dict) or not all(isinstance(name, str) and len(name) <= MAX_NAME for name in entries):
        raise WeightsError(f"{record.class_name!r:.100}: {key} is missing or has invalid names")
    return entries


# --------------------------------------------------------------------------- tensors

_MAGIC = 0x1950A86A20F9469CFC6C  # first of the five pickles in PyTorch's legacy format
_FORMAT_VERSION = 1001
_HEADER_STEPS = 100  # of each pickle; 40


def read_storage(data: bytes) -> Tensor:
    """Read a storage in PyTorch's legacy (not zip) format.

    Five pickles (magic number, version, machine, the storage's reference, list of keys), then an 8-byte count and
    the raw values, both little endian.

    Returns:
        The stored values, shape (count,).
    Raises:
        WeightsError: any other format, or a count that does not match the data.
    """
    if not isinstance(data, bytes):
        raise WeightsError(f"tensor data: expected bytes, got {type(data).__name__}")
    stream = io.BytesIO(data)

    # Header. The machine's description also holds sizes of C types, which do not matter.
    magic, version, machine = (_read_header(stream) for _ in range(3))
    if magic != _MAGIC or version != _FORMAT_VERSION:
        raise WeightsError("tensor data: not in PyTorch's legacy format")
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise WeightsError("tensor data: written on a big-endian machine, only little endian is supported")

    # Type and size. The file would allow several storages, but each is stored by a call.
    dtype, key, count = _read_header(stream)
    if _read_header(stream) != [key]:
        raise WeightsError("tensor data: expected one storage")
    start = stream.tell() + 8
    if start + count * dtype.itemsize != len(data) or struct.unpack_from("<q", data, start - 8)[0] != count:
        raise WeightsError(f"tensor data: expected {count} values of {dtype}, got {max(len(data) - start, 0)} bytes")

    return values_from_bytes(memoryview(data)[start:], dtype)


def _read_header(stream: BinaryIO) -> Any:
    return read_pickle(stream, STORAGES.get, _storage_reference, _HEADER_STEPS)


def _storage_reference(reference: Any) -> tuple[torch.dtype, str, int]:
    match reference:
        # Kind, storage type, key, device, number of values; None, because no part of another storage.
        case ("storage", Global(meaning=torch.dtype() as dtype), str(key), str(), int(count), None) if count >= 0:
            return dtype, key, count
    raise WeightsError("tensor data: not a reference to a whole storage")


# --------------------------------------------------------------------------- other names in the pickle


def _short(value: Any) -> str:
    """Quote a scalar for a message; anything else by its type, since containers can be huge or contain themselves."""
    is_short = isinstance(value, str | float | bool | None) or (isinstance(value, int) and value.bit_length() < 64)
    return f"{value!r:.50}" if is_short else f"a {type(value).__name__}"


# Codes of `struct` by numpy's type codes.
_SCALARS = {"f8": "d", "f4": "f", "f2": "e", "i8": "q", "i4": "i", "i2": "h", "i1": "b", "b1": "?"}


def _numpy_dtype(code: str, *_flags: Any) -> Record:
    if not isinstance(code, str) or code not in _SCALARS:
        raise WeightsError(f"numpy dtype {_short(code)}, expected one of {', '.join(_SCALARS)}")
    return Record(code)


def _numpy_scalar(dtype: Record, data: bytes) -> float | int | bool:
    # The state is (version, byte order, ...), set by the opcode BUILD. Errors caused by any other are converted by the
    # reader.
    byte_order = dtype.state[SETSTATE][1]
    if byte_order not in ("<", "|"):
        raise WeightsError(f"numpy scalar: byte order {_short(byte_order)}, only little endian is supported")
    return struct.unpack("<" + _SCALARS[dtype.class_name], data)[0]


def _persistent_object(meta: dict[str, Any]) -> Record:
    """Read a persistence record of a network or layer; its source text, `meta["module_src"]`, is ignored."""
    version = meta.get("version")
    if meta.get("type") != "class" or version != PERSISTENCE_VERSION:
        got = f"got type {_short(meta.get('type'))}, version {_short(version)}"
        raise WeightsError(
            f"persistent object: {got}, expected 'class' and {PERSISTENCE_VERSION}; "
            "perhaps a network of stylegan2-ada or another program, which these programs do not take"
        )

    # All else, such as the module's name, is not needed to find our class.
    class_name = meta.get("class_name")
    state = meta.get("state")
    if not isinstance(class_name, str) or not isinstance(state, dict):
        raise WeightsError("persistent object: class name or state is missing")
    return Record(class_name, state)


def _set(items: list | tuple = ()) -> set[str]:
    if not all(isinstance(item, str) for item in items):
        raise WeightsError("set: expected strings only")
    return set(items)


# Our replacements by "module name". Whatever is missing here is an error, so this table is the attack surface: each
# function must accept any arguments, and may return only new plain data, tensors and Records.
_GLOBALS = {
    "builtins set": _set,  # protocol 3 has no opcode for sets
    "collections OrderedDict": lambda: {},
    "dnnlib.util EasyDict": lambda: {},
    "numpy dtype": _numpy_dtype,
    "numpy.core.multiarray scalar": _numpy_scalar,
    "numpy._core.multiarray scalar": _numpy_scalar,
    "torch._utils _rebuild_parameter": lambda tensor, *_unused: tensor,
    "torch._utils _rebuild_tensor": rebuild_tensor,
    "torch._utils _rebuild_tensor_v2": rebuild_tensor,
    "torch.storage _load_from_bytes": read_storage,
    "torch.nn.modules.activation Softplus": lambda: Record("Softplus"),
    "torch.nn.modules.container Sequential": lambda: Record("Sequential"),
    "torch_utils.persistence _reconstruct_persistent_obj": _persistent_object,
}


def lookup(name: str) -> Any:
    """Return our replacement for the global "module name" of a published pickle, None if it is not allowed."""
    module, _, class_name = name.partition(" ")
    if class_name in _ORDINARY_CLASSES and _ORDINARY_MODULES.fullmatch(module):
        return lambda: Record(class_name)
    return _GLOBALS.get(name)
