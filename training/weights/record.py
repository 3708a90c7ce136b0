"""A network as plain data (class name, constructor arguments, tensors), converted from and to a module."""

import inspect
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dnnlib.limits import MAX_DATA_DEPTH, MAX_DATA_VALUES, MAX_NUMBER, MAX_RESOLUTION, MAX_TENSORS
from torch_utils.safe_pickle import WeightsError
from training.networks import registry
from training.networks.generator import TriPlane

# Attributes set after construction that are part of the model, with their types.
ATTRIBUTES = {"neural_rendering_resolution": int, "rendering_kwargs": dict}

# Tensors in published generators that no constructor creates and no code reads.
UNUSED_TENSORS = frozenset({"dataset_label_std"})

# Arguments and rendering options that can cost time or memory, or break a network, without any tensor in the file:
# allowed values of those whose name is, or ends in, the key.
RANGES = {
    "resolution": (1, MAX_RESOLUTION),
    "conv_clamp": (1e-3, MAX_NUMBER),
    "up": (1, 4),
    "down": (1, 4),
}

# A constructor may allocate twice as many elements as the file holds, plus this many.
SPARE_ELEMENTS = 1_000_000

# Tensor factories counted by `_AllocationLimit`, with their replacements, which skip random initialization.
_FACTORIES = {factory: factory for factory in (torch.zeros, torch.ones, torch.full, torch.empty, torch.eye)}
_FACTORIES |= {torch.randn: torch.empty, torch.rand: torch.empty}


@dataclass(frozen=True)
class NetworkRecord:
    """A network as plain data.

    Args:
        class_name: public class name, see training/networks/registry.py.
        init_kwargs: constructor arguments (dict, list, str, int, float, bool, None).
        state: CPU tensors of any shape, named as in `state_dict()`.
        attributes: values of ATTRIBUTES.
    """

    class_name: str
    init_kwargs: dict[str, Any]
    state: dict[str, Tensor]
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class WeightsFile:
    """Contents of a weights file of any format.

    Args:
        networks: by name (G, D, G_ema, ...).
        training_set_kwargs: arguments of the training data set, or None.
        extra: plain data saved with the networks.
    """

    networks: dict[str, NetworkRecord]
    training_set_kwargs: dict[str, Any] | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def to_plain_data(value: Any, name: str = "value") -> Any:
    """Copy nested data into plain dicts, lists and Python scalars.

    Subclasses of dict, tuples and numpy scalars are converted.

    Args:
        value: nested data.
        name: of the value in error messages.
    Raises:
        WeightsError: any other type, or more than MAX_DATA_DEPTH levels or MAX_DATA_VALUES values.
    """
    # Counts values of all levels. Without it a few kilobytes of lists that contain each other twice would be copied
    # into 2^30 values.
    budget = iter(range(MAX_DATA_VALUES))

    def convert(item: Any, depth: int) -> Any:
        if depth > MAX_DATA_DEPTH or next(budget, None) is None:
            raise WeightsError(f"{name}: more than {MAX_DATA_DEPTH} levels or {MAX_DATA_VALUES} values")

        # Scalars. A long integer would take quadratic time to print.
        if isinstance(item, np.generic):
            item = item.item()
        if isinstance(item, int) and item.bit_length() > 64:
            raise WeightsError(f"{name}: integer of more than 64 bits")
        if item is None or isinstance(item, bool | int | float | str):
            return item

        # Containers, with the types that JSON has.
        if isinstance(item, list | tuple):
            return [convert(element, depth + 1) for element in item]
        if isinstance(item, Mapping) and all(isinstance(key, str) for key in item):
            return {key: convert(element, depth + 1) for key, element in item.items()}
        raise WeightsError(f"{name}: expected plain data, got {type(item).__name__}")

    return convert(value, 0)


def is_registered(class_name: str) -> bool:
    """Return whether the class name, dotted or not, is one that `registry.construct` builds."""
    return class_name.rsplit(".", 1)[-1] in registry.NETWORKS


def arguments_by_name(class_name: str, args: tuple, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Merge positional and keyword constructor arguments into one dict by parameter name.

    Raises:
        WeightsError: positional arguments that the class does not accept.
    """
    if not args:
        return dict(kwargs)

    # Names of the positional arguments, by the signature of our class.
    try:
        signature = inspect.signature(registry.NETWORKS[class_name.rsplit(".", 1)[-1]])
        by_name = signature.bind_partial(*args).arguments
        if repeated := by_name.keys() & kwargs.keys():
            raise TypeError(f"{min(repeated)} passed twice")
    except (LookupError, TypeError) as error:
        raise WeightsError(f"{class_name!r}: invalid constructor arguments ({error})") from None
    return {**by_name, **kwargs}


# --------------------------------------------------------------------------- module to record


def record_from_module(module: nn.Module) -> NetworkRecord:
    """Convert a module into the record from which `module_from_record` builds an equal one.

    Raises:
        ValueError: the module was not built by `registry.construct`.
    """
    # Arguments of the constructor.
    class_name, init_kwargs = registry.describe(module)
    init_kwargs = to_plain_data(init_kwargs, f"arguments of {class_name}")

    # Tensors, cloned because saving a view would save its whole storage.
    state = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in module.state_dict().items()
    }

    # Attributes set after construction.
    attributes = {name: to_plain_data(getattr(module, name), name) for name in ATTRIBUTES if hasattr(module, name)}
    return NetworkRecord(class_name, init_kwargs, state, attributes)


def to_half(record: NetworkRecord) -> NetworkRecord:
    """Store float32 tensors as float16: half the size, about three digits; `module_from_record` restores float32.

    Raises:
        ValueError: a value too large for float16.
    """
    state = {}
    for name, tensor in record.state.items():
        # float64 tensors and integers, such as counters, stay exact.
        state[name] = tensor.to(torch.float16) if tensor.dtype == torch.float32 else tensor

        # Too large a value becomes infinite without an error.
        if torch.isinf(state[name]).any() and not torch.isinf(tensor).any():
            raise ValueError(f"{name}: {tensor.abs().max():g} is too large for float16")
    return replace(record, state=state)


# --------------------------------------------------------------------------- record to module


def module_from_record(record: NetworkRecord) -> nn.Module:
    """Build a record's network on the CPU, in eval mode, without gradients.

    Raises:
        WeightsError: unknown class, invalid arguments, or tensors with wrong names or shapes.
    """
    network = _construct(record)

    # Tensors. PyTorch checks names and shapes, and converts types (float16 from `to_half`).
    expected = network.state_dict()
    state = {name: tensor for name, tensor in record.state.items() if name in expected or name not in UNUSED_TENSORS}
    for name, tensor in expected.items():
        if name in state and state[name].is_floating_point() != tensor.is_floating_point():
            raise WeightsError(f"{name}: got {state[name].dtype}, expected {tensor.dtype} or one like it")
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(" ".join(str(error).split())) from None

    # Attributes set after construction. Others in the file are ignored: they could replace methods.
    for name, kind in ATTRIBUTES.items():
        if name in record.attributes:
            if type(record.attributes[name]) is not kind:
                raise WeightsError(f"{record.class_name}: {name}: expected {kind.__name__}")
            setattr(network, name, record.attributes[name])
    _check_values(record.class_name, record.attributes)

    # Rendering options are used only when rendering, but are checked now, while the file can be named.
    if isinstance(network, TriPlane):
        try:
            network.check_options()
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:  # data from a file can be anything
            raise WeightsError(f"{record.class_name}: invalid rendering options ({error})") from error
    return network.eval().requires_grad_(False)


def _construct(record: NetworkRecord) -> nn.Module:
    """Call the constructor within limits on its arguments and allocations."""
    if not is_registered(record.class_name):
        allowed = "training/networks/registry.py lists those allowed"
        raise WeightsError(f"unknown class {record.class_name!r:.100}; {allowed}")

    # Arguments. A large number of layers, for example, would keep a constructor busy for hours.
    _check_values(record.class_name, record.init_kwargs)

    # Elements in the file; storages shared by several tensors count once.
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() // tensor.itemsize
        for tensor in record.state.values()
    }
    with _AllocationLimit(2 * sum(storages.values()) + SPARE_ELEMENTS, MAX_TENSORS):
        try:
            return registry.construct(record.class_name, record.init_kwargs)
        except Exception as error:  # arguments from a file can break a constructor in any way
            reason = str(error) or type(error).__name__
            raise WeightsError(f"cannot build {record.class_name!r} ({reason})") from error


def _check_values(class_name: str, values: Mapping[str, Any]) -> None:
    """Raise WeightsError if a number in nested dicts and lists is too large, or a value outside its name's range."""
    for name, value in _named_values("", values):
        # Written so that NaN is an error too.
        if isinstance(value, int | float) and not abs(value) <= MAX_NUMBER:
            raise WeightsError(f"{class_name!r:.100}: {name!r:.100}: {value} is too large, {MAX_NUMBER} is allowed")
        for key, (low, high) in RANGES.items():
            if name == key or name.endswith(f"_{key}"):
                valid = value is None or (isinstance(value, int | float) and low <= value <= high)
                if not valid:
                    got = f"got {value!r:.50}, expected {low} to {high}"
                    raise WeightsError(f"{class_name!r:.100}: {name!r:.100}: {got}")


def _named_values(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield a value and all in it, nested dicts and lists too, each with the last key that leads to it."""
    yield name, value
    if isinstance(value, dict):
        for key, element in value.items():
            yield from _named_values(key, element)
    elif isinstance(value, list):
        for element in value:
            yield from _named_values(name, element)


class _AllocationLimit(TorchFunctionMode):
    """Raises ValueError before factories create more tensors or elements than allowed; skips random initialization.

    Thus arguments from a file cannot use memory or time out of proportion to the file. Initial values are overwritten
    by the file's, so drawing them would only cost time and change the random state.

    Args:
        elements: allowed in total.
        tensors: allowed number.
    """

    def __init__(self, elements: int, tensors: int):
        super().__init__()
        self.remaining = elements
        self.remaining_tensors = tensors

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        # PyTorch calls this instead of each of its functions while the mode is active. Sizes are passed as one sequence
        # or as several numbers.
        if function in _FACTORIES and args:
            size = args[0] if isinstance(args[0], list | tuple) else args
            if function == torch.eye:
                size = (size[0], size[-1])
            self.remaining -= math.prod(size)
            self.remaining_tensors -= 1
            if self.remaining < 0 or self.remaining_tensors < 0:
                raise ValueError("its arguments ask for more elements than the file holds, or for too many tensors")
        return _FACTORIES.get(function, function)(*args, **(kwargs or {}))
