"""Read pickles as data, with an interpreter of the opcodes that weights files use. Nothing is executed.

No global that a file names is imported or looked up: the caller's table replaces it. The interpreter modifies only
lists, dicts, sets and `Record`s that it created itself. `pickletools` decodes the stream and checks every length
against the rest of it, and steps are counted, so that time and memory are bounded.
"""

import os
import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import torch

from dnnlib.errors import ConfigError, printable
from dnnlib.limits import MAX_PICKLE_STEPS

MAX_MESSAGE = 500  # characters
SAFE_TORCH_LOAD = (2, 10)  # version

Lookup = Callable[[str], Any]  # "module name" -> function to call or constant; None if it is not allowed


class WeightsError(ValueError):
    """Invalid weights file; the message is one line.

    It may quote names from the file, so it is cut to MAX_MESSAGE and control characters are escaped.
    """

    def __init__(self, message: str):
        super().__init__(printable(message[:MAX_MESSAGE]))


@dataclass(frozen=True)
class Global:
    """Global in the pickle ("module name"), with its replacement from the caller's table."""

    name: str
    meaning: Any


def check_torch_load(field: str, path: str | os.PathLike[str]) -> None:
    """Reject `torch.load` of a file of another program by a PyTorch whose memory such a file could corrupt.

    Args:
        field: option that gives the file.
        path: the file.
    Raises:
        ConfigError: PyTorch is older than 2.10, the first whose weights_only is safe.
    """
    major, minor = map(int, torch.__version__.split(".")[:2])
    if (major, minor) < SAFE_TORCH_LOAD:
        needed = ".".join(map(str, SAFE_TORCH_LOAD))
        problem = f"{path}: PyTorch {torch.__version__} cannot read such a file safely"
        raise ConfigError(field, problem=problem, hint=f"install PyTorch {needed} or newer")


SETSTATE = "__setstate__"


@dataclass
class Record:
    """Instance in the pickle: class name and attributes, without behavior.

    A state that is not a dict of attributes is stored under the key SETSTATE.
    """

    class_name: str
    state: dict[str, Any] = field(default_factory=dict)


def read_pickle(
    stream: BinaryIO,
    lookup: Lookup,
    persistent: Callable[[Any], Any] | None = None,
    max_steps: int = MAX_PICKLE_STEPS,
) -> Any:
    """Read one pickle of protocol 2 to 5, and leave the stream at its end.

    Args:
        stream: binary file at the start of the pickle; reading beyond its end must return fewer bytes.
        lookup: replacement of a global.
        persistent: replacement of a persistent id; without it such an id is an error.
        max_steps: allowed number of opcodes, and of values that calls and instances take.
    Returns:
        Plain data, Records, and results of functions from `lookup`.
    Raises:
        WeightsError: damaged or truncated, a global that is not allowed, or an opcode that no weights file uses.
    """
    start = stream.tell()
    stream.seek(0, os.SEEK_END)
    interpreter = _Interpreter(lookup, persistent, max_steps, max_bytes=stream.tell() - start)
    stream.seek(start)

    # `genops` decodes opcodes and arguments, checks lengths, and stops after the opcode STOP.
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            interpreter.step(opcode.name, argument)
    except WeightsError:
        raise
    except (ValueError, struct.error, OverflowError) as error:  # of pickletools: unknown opcode, length, end of file
        raise WeightsError(f"damaged or truncated ({error})") from None
    return interpreter.result()


# Opcodes that push their argument, a constant, a new container or a tuple of the topmost values. Those of older
# protocols, with numbers as text, are left out.
_PUSH_ARGUMENT = frozenset((
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
    "SHORT_BINBYTES", "BINBYTES", "BINBYTES8",
))  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_CONTAINERS = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}

# Values that calls may copy, and steps that count for each value that may hold pickles.
_CONTAINER_TYPES = (tuple, list, dict, set)
_DATA_STEPS = 100

# Opcodes without an effect on the result.
_IGNORED = frozenset({"FRAME", "STOP"})


class _Interpreter:
    """Stack, marks and memo of the pickle machine; the standard library's pickletools documents the opcodes."""

    def __init__(self, lookup: Lookup, persistent: Callable[[Any], Any] | None, max_steps: int, max_bytes: int):
        self.lookup = lookup
        self.persistent = persistent
        self.max_steps = max_steps
        self.remaining_steps = max_steps
        self.remaining_bytes = max_bytes
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

        # All other opcodes, as functions of the opcode's argument. Arguments of the methods come from the stack.
        self.opcodes: dict[str, Callable[[Any], None]] = {
            "PROTO": self._protocol,
            "MARK": lambda _: self.marks.append(len(self.stack)),
            "MEMOIZE": lambda _: self._store(len(self.memo)),
            "BINPUT": self._store,
            "LONG_BINPUT": self._store,
            "BINGET": self._load,
            "LONG_BINGET": self._load,
            "TUPLE": lambda _: self.stack.append(tuple(self._pop_to_mark())),
            "APPEND": lambda _: self._append(self._pop(1)),
            "APPENDS": lambda _: self._append(self._pop_to_mark()),
            "SETITEM": lambda _: self._set_items(self._pop(2)),
            "SETITEMS": lambda _: self._set_items(self._pop_to_mark()),
            "ADDITEMS": lambda _: self._add_items(self._pop_to_mark()),
            "GLOBAL": self._global,
            "STACK_GLOBAL": lambda _: self._stack_global(*self._pop(2)),
            "REDUCE": lambda _: self._call(*self._pop(2)),
            "NEWOBJ": lambda _: self._call(*self._pop(2)),
            "BUILD": lambda _: self._build(*self._pop(1)),
            "BINPERSID": lambda _: self._persistent_id(*self._pop(1)),
        }

    def step(self, name: str, argument: Any) -> None:
        self._spend(1)

        # Values that the opcode itself holds or makes from the topmost ones.
        if name in _PUSH_ARGUMENT:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _CONTAINERS:
            self.stack.append(_CONTAINERS[name]())
        elif name in _TUPLES:
            self.stack.append(tuple(self._pop(_TUPLES[name])))

        # Effects on other values. Opcodes that are not listed are errors.
        elif name in self.opcodes:
            self.opcodes[name](argument)
        elif name not in _IGNORED:
            raise WeightsError(f"pickle opcode {name} is not used by weights files")

    def result(self) -> Any:
        if len(self.stack) != 1 or self.marks:
            raise WeightsError(f"damaged pickle: {len(self.stack)} values at its end, expected 1")
        return self.stack[0]

    def _spend(self, steps: int) -> None:
        self.remaining_steps -= steps
        if self.remaining_steps < 0:
            raise WeightsError(f"a pickle of more than {self.max_steps} steps")

    # Stack. Values below the last mark are out of reach.

    def _pop(self, count: int) -> list[Any]:
        # Without this check, a damaged file could take values from below the mark.
        bottom = self.marks[-1] if self.marks else 0
        if len(self.stack) - bottom < count:
            raise WeightsError("damaged pickle: a value is missing")
        values = self.stack[-count:]
        del self.stack[-count:]
        return values

    def _pop_to_mark(self) -> list[Any]:
        if not self.marks:
            raise WeightsError("damaged pickle: a mark is missing")

        # Everything above the mark, in the order of the file.
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def _top(self, kind: type) -> Any:
        # Popped and pushed again, which checks that there is one above the mark.
        (value,) = self._pop(1)
        if not isinstance(value, kind):
            raise WeightsError(f"damaged pickle: expected a {kind.__name__}, got {type(value).__name__}")
        self.stack.append(value)
        return value

    def _protocol(self, version: int) -> None:
        if not 2 <= version <= 5:
            raise WeightsError(f"pickle protocol {version}, expected 2 to 5")

    # Memo.

    def _store(self, index: int) -> None:
        self.memo[index] = self._top(object)

    def _load(self, index: int) -> None:
        # A dict, so that a large index takes no memory.
        if index not in self.memo:
            raise WeightsError(f"damaged pickle: value {index} is used before it is stored")
        self.stack.append(self.memo[index])

    # Containers.

    def _append(self, values: list[Any]) -> None:
        self._top(list).extend(values)

    def _set_items(self, items: list[Any]) -> None:
        if len(items) % 2:
            raise WeightsError("damaged pickle: a dict key without a value")
        # Alternating keys and values.
        self._top(dict).update(zip(map(_check_key, items[::2]), items[1::2], strict=True))

    def _add_items(self, values: list[Any]) -> None:
        self._top(set).update(map(_check_key, values))

    # Globals, calls and instances.

    def _stack_global(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise WeightsError("damaged pickle: the name of a global is not a string")
        self._global(f"{module} {name}")

    def _global(self, name: str) -> None:
        # Never imported: the table of the caller decides.
        meaning = self.lookup(name)
        if meaning is None:
            # Cut, because the file can make it arbitrarily long.
            dotted = name.replace(" ", ".")
            raise WeightsError(f"refers to {dotted!r:.200}, which is not allowed in weights files")
        self.stack.append(Global(name, meaning))

    def _call(self, function: Any, arguments: Any) -> None:
        # Values from the file are never called: only a Global holds a function of the table.
        if not isinstance(function, Global) or not callable(function.meaning) or not isinstance(arguments, tuple):
            raise WeightsError("damaged pickle: call of something other than a function")

        # The file can pass the same values many times, and each call may copy them, or read pickles in them.
        data = [value for value in arguments if isinstance(value, bytes)]
        self._spend(sum(len(value) for value in (arguments, *arguments) if isinstance(value, _CONTAINER_TYPES)))
        self._spend(_DATA_STEPS * len(data))
        self.remaining_bytes -= sum(map(len, data))
        if self.remaining_bytes < 0:
            raise WeightsError("damaged pickle: calls with more data than the file has")
        try:
            self.stack.append(function.meaning(*arguments))
        except WeightsError:
            raise
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError, struct.error) as e:
            # The table's functions accept all that valid files contain, so any error is caused by the file.
            raise WeightsError(f"invalid arguments of {function.name.replace(' ', '.')} ({e})") from None

    def _build(self, state: Any) -> None:
        # Attributes of a dict, such as the versions of modules in a state dict, are ignored.
        if isinstance(self._top(object), dict):
            return

        # Of Records only, which are ours: attributes of other objects could change their behavior.
        if isinstance(state, dict):
            self._spend(len(state))
        self._top(Record).state.update(state if isinstance(state, dict) else {SETSTATE: state})

    def _persistent_id(self, value: Any) -> None:
        if self.persistent is None:
            raise WeightsError("reference to data outside the file")
        self.stack.append(self.persistent(value))


def _check_key(value: Any) -> Any:
    # No tuples, because hashing deeply nested ones overflows the C stack.
    if not isinstance(value, str | int | float | bytes | None):
        raise WeightsError(f"damaged pickle: {type(value).__name__} as key")
    return value
