"""A network as plain data: class name, constructor arguments, tensors; from a module and back to one."""

import inspect
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from torch_utils.safe_pickle import WeightsError
from training.networks import registry
from training.networks.generator import TriPlane

ATTRIBUTES = {"neural_rendering_resolution": int, "rendering_kwargs": dict}  # set later, yet part of the model
UNREAD_TENSORS = frozenset({"dataset_label_std"})  # in public generators; no constructor makes it, nothing reads it
MAX_DEPTH = 32  # nesting of arguments; real ones have 3
MAX_VALUES = 10_000  # of one network's arguments; real ones have about 50
MAX_NUMBER = 2**24  # of an argument; the largest real one is 32,768
SPARE_NUMBERS = 1_000_000  # that a constructor may make besides twice what its file holds
_FACTORIES = {torch.randn: torch.empty, torch.rand: torch.empty} | {
    factory: factory for factory in (torch.zeros, torch.ones, torch.full, torch.empty)
}


@dataclass(frozen=True)
class NetworkRecord:
    """What a network is made of, all of it plain (dict, list, str, int, float, bool, None) or CPU tensors."""

    class_name: str
    init_kwargs: dict[str, Any]
    state: dict[str, Tensor]
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class WeightsFile:
    """What any weights file holds, whatever its kind."""

    networks: dict[str, NetworkRecord]
    training_set_kwargs: dict[str, Any] | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def plain(value: Any, where: str = "value") -> Any:
    """Copy of nested data with dict, list and Python's numbers in place of their subclasses, tuples and numpy's.

    Raises:
        WeightsError: anything else in it, or nesting and size beyond what arguments ever have.
    """
    budget = iter(range(MAX_VALUES))

    def convert(item: Any, depth: int) -> Any:
        if depth > MAX_DEPTH or next(budget, None) is None:
            raise WeightsError(f"{where}: more than {MAX_DEPTH} levels or {MAX_VALUES} values")
        if isinstance(item, np.generic):
            item = item.item()
        if isinstance(item, int) and item.bit_length() > 64:
            raise WeightsError(f"{where}: an integer of more than 64 bits")
        if item is None or isinstance(item, bool | int | float | str):
            return item
        if isinstance(item, list | tuple):
            return [convert(part, depth + 1) for part in item]
        if isinstance(item, Mapping) and all(isinstance(key, str) for key in item):
            return {key: convert(part, depth + 1) for key, part in item.items()}
        raise WeightsError(f"{where}: expected plain data, found a {type(item).__name__}")

    return convert(value, 0)


def is_known(class_name: str) -> bool:
    """Whether the class, dotted or not, is one that we can build."""
    return class_name.rsplit(".", 1)[-1] in registry.NETWORKS


def named_arguments(class_name: str, positional: tuple, keywords: Mapping[str, Any]) -> dict[str, Any]:
    """All constructor arguments by name.

    Raises:
        WeightsError: positional ones that the class does not take.
    """
    if not positional:
        return dict(keywords)
    try:
        network_class = registry.NETWORKS[class_name.rsplit(".", 1)[-1]]
        parameters = list(inspect.signature(network_class).parameters.values())[: len(positional)]
        if len(parameters) < len(positional) or any(p.kind is not p.POSITIONAL_OR_KEYWORD for p in parameters):
            raise TypeError(f"{len(positional)} positional arguments")
        by_name = {p.name: value for p, value in zip(parameters, positional, strict=True)}
        if repeated := by_name.keys() & keywords.keys():
            raise TypeError(f"{min(repeated)} given twice")
    except (LookupError, TypeError) as error:
        raise WeightsError(f"{class_name!r}: arguments that it does not take ({error})") from None
    return {**by_name, **keywords}


def record_of(module: nn.Module) -> NetworkRecord:
    """The record from which `build` makes an equal module.

    Raises:
        ValueError: the module was not built by `registry.construct`.
    """
    class_name, init_kwargs = registry.describe(module)
    state = {name: _own(tensor) for name, tensor in module.state_dict().items()}
    attributes = {name: plain(getattr(module, name), name) for name in ATTRIBUTES if hasattr(module, name)}
    return NetworkRecord(class_name, plain(init_kwargs, f"arguments of {class_name}"), state, attributes)


def halved(record: NetworkRecord) -> NetworkRecord:
    """The record with float32 stored as float16: three digits of each number, half the file; `build` gives float32.

    Raises:
        ValueError: a number too large for float16.
    """
    state = {name: t.to(torch.float16) if t.dtype == torch.float32 else t for name, t in record.state.items()}
    for name, tensor in state.items():
        if torch.isinf(tensor).any() and not torch.isinf(record.state[name]).any():
            raise ValueError(f"{name}: {record.state[name].abs().max():g} is too large for float16")
    return replace(record, state=state)


def build(record: NetworkRecord) -> nn.Module:
    """The record's network, filled strictly, in eval mode, without gradients, on the CPU.

    Raises:
        WeightsError: unknown class, arguments that it does not take, names or shapes that are not its own.
    """
    if not is_known(record.class_name):
        raise WeightsError(
            f"class {record.class_name!r:.100}, which is none of ours (training/networks/registry.py lists them)"
        )
    if not all(abs(number) <= MAX_NUMBER for number in _numbers(record.init_kwargs)):
        raise WeightsError(f"{record.class_name!r}: {max(_numbers(record.init_kwargs), key=abs)} as an argument")
    held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() // t.itemsize for t in record.state.values()}
    with _Allowance(2 * sum(held.values()) + SPARE_NUMBERS):
        network = _construct(record)
    expected = network.state_dict()
    state = {name: tensor for name, tensor in record.state.items() if name in expected or name not in UNREAD_TENSORS}
    _check_names_and_shapes(record.class_name, expected, state)
    network.load_state_dict(state)
    for name, kind in ATTRIBUTES.items():
        if name in record.attributes:
            if not isinstance(record.attributes[name], kind):
                raise WeightsError(f"{record.class_name}: {name}: expected {kind.__name__}")
            setattr(network, name, record.attributes[name])
    if isinstance(network, TriPlane):
        try:
            network.check_options()
        except (KeyError, TypeError, ValueError) as error:  # plain data of a file can be anything
            raise WeightsError(f"{record.class_name}: rendering options do not fit ({error})") from error
    return network.eval().requires_grad_(False)


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _numbers(part)


class _Allowance(TorchFunctionMode):
    """Ends a construction that makes more numbers than allowed, before it makes them; draws no random ones.

    So a file's arguments cannot take memory, or time in long loops, out of proportion to the file; and as the file
    has all values, initial ones would cost a second and change the program's random state for nothing.
    """

    def __init__(self, numbers: int):
        super().__init__()
        self.left = numbers

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function in _FACTORIES and args:
            size = args[0] if isinstance(args[0], list | tuple) else args
            self.left -= math.prod(size)
            if self.left < 0:
                raise ValueError("its arguments ask for more numbers than the file holds")
        return _FACTORIES.get(function, function)(*args, **(kwargs or {}))


def _construct(record: NetworkRecord) -> nn.Module:
    try:
        return registry.construct(record.class_name, record.init_kwargs)
    except Exception as error:  # arguments from a file can break a constructor in any way
        raise WeightsError(f"cannot build {record.class_name!r} ({str(error) or type(error).__name__})") from error


def _check_names_and_shapes(class_name: str, expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    for what, names in (("lacks", expected.keys() - state.keys()), ("has the unknown", state.keys() - expected.keys())):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise WeightsError(f"{class_name}: {what} tensor {min(names)!r}{more}")
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            shapes = f"expected {tuple(expected[name].shape)}, got {tuple(tensor.shape)}"
            raise WeightsError(f"{class_name}: {name}: {shapes}")


def _own(tensor: Tensor) -> Tensor:
    """CPU copy with memory of its own: a view would drag its whole storage into the file."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
