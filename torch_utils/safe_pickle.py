"""Read a pickle as plain data, with a small machine of our own for the opcodes that weights files use.

Nothing that a file names is imported, called or looked up: every global goes through the caller's table, and the
machine changes only lists, dicts, sets and `Record`s that it made itself. `pickletools` takes the stream apart and
checks every length against what is left of it, so memory stays in proportion to the file.
"""

import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

MAX_MESSAGE = 500  # characters


class WeightsError(ValueError):
    """A weights file that cannot be used; the message is one line: what, what was found, what is allowed.

    It may quote names from the file, so its length is bounded and what does not print is left out.
    """

    def __init__(self, message: str):
        super().__init__("".join(c if c.isprintable() else " " for c in message[:MAX_MESSAGE]))


@dataclass(frozen=True)
class Global:
    """A name in the file ("module name", as the file spells it) and what our table gives for it."""

    name: str
    meaning: Any


@dataclass
class Record:
    """An object in the file: its class's name and its attributes. Inert.

    A state that is not a dict of attributes is kept whole under the key SETSTATE.
    """

    class_name: str
    state: dict[str, Any] = field(default_factory=dict)


SETSTATE = "__setstate__"
Lookup = Callable[[str], Any]  # "module name" -> a function for calls, or any constant; None: not allowed

_ARGUMENT = frozenset((
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
    "SHORT_BINBYTES", "BINBYTES", "BINBYTES8",
))  # fmt: skip
_CONSTANT = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set, "EMPTY_TUPLE": tuple}
_SHORT_TUPLE = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NO_EFFECT = frozenset({"FRAME", "STOP"})


def read_pickle(stream: BinaryIO, lookup: Lookup, persistent: Callable[[Any], Any] | None = None) -> Any:
    """Read one pickle of protocol 2 to 5 and leave the stream right behind it.

    Args:
        stream: binary, positioned at the pickle; reads past the end must come back short, not fail.
        lookup: meaning of a global, called with "module name".
        persistent: meaning of a persistent id; without it such an id is an error.
    Returns:
        Plain data, Records, and whatever `lookup`'s functions returned.
    Raises:
        WeightsError: damaged or cut short, a global that is not allowed, or an opcode that no weights file has.
    """
    machine = _Machine(lookup, persistent)
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            machine.step(opcode.name, argument)
    except WeightsError:
        raise
    except (ValueError, struct.error, OverflowError) as error:  # pickletools: unknown opcode, length, end of file
        raise WeightsError(f"damaged or cut short ({error})") from None
    return machine.result()


class _Machine:
    """Stack, marks and memo of the pickle language (Python's pickletools documents the opcodes)."""

    def __init__(self, lookup: Lookup, persistent: Callable[[Any], Any] | None):
        self.lookup = lookup
        self.persistent = persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.effects: dict[str, Callable[[Any], None]] = {
            "PROTO": self._protocol,
            "MARK": lambda _: self.marks.append(len(self.stack)),
            "MEMOIZE": lambda _: self._remember(len(self.memo)),
            "BINPUT": self._remember,
            "LONG_BINPUT": self._remember,
            "BINGET": self._recall,
            "LONG_BINGET": self._recall,
            "TUPLE": lambda _: self.stack.append(tuple(self._since_mark())),
            "APPEND": lambda _: self._append(self._pop(1)),
            "APPENDS": lambda _: self._append(self._since_mark()),
            "SETITEM": lambda _: self._set_items(self._pop(2)),
            "SETITEMS": lambda _: self._set_items(self._since_mark()),
            "ADDITEMS": lambda _: self._add_items(self._since_mark()),
            "GLOBAL": self._global,
            "STACK_GLOBAL": lambda _: self._stack_global(*self._pop(2)),
            "REDUCE": lambda _: self._call(*self._pop(2)),
            "NEWOBJ": lambda _: self._call(*self._pop(2)),
            "BUILD": lambda _: self._build(*self._pop(1)),
            "BINPERSID": lambda _: self._persistent_id(*self._pop(1)),
        }

    def step(self, name: str, argument: Any) -> None:
        if name in _ARGUMENT:
            self.stack.append(argument)
        elif name in _CONSTANT:
            self.stack.append(_CONSTANT[name])
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name in _SHORT_TUPLE:
            self.stack.append(tuple(self._pop(_SHORT_TUPLE[name])))
        elif name in self.effects:
            self.effects[name](argument)
        elif name not in _NO_EFFECT:
            raise WeightsError(f"pickle opcode {name}, which no weights file has")

    def result(self) -> Any:
        if len(self.stack) != 1 or self.marks:
            raise WeightsError(f"damaged pickle: {len(self.stack)} values left at its end, expected 1")
        return self.stack[0]

    def _pop(self, count: int) -> list[Any]:
        floor = self.marks[-1] if self.marks else 0
        if len(self.stack) - floor < count:
            raise WeightsError("damaged pickle: a value is missing")
        values = self.stack[-count:]
        del self.stack[-count:]
        return values

    def _since_mark(self) -> list[Any]:
        if not self.marks:
            raise WeightsError("damaged pickle: a mark is missing")
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def _top(self, kind: type | tuple[type, ...]) -> Any:
        (value,) = self._pop(1)
        if not isinstance(value, kind):
            raise WeightsError(f"damaged pickle: a {type(value).__name__} where it changes another kind of value")
        self.stack.append(value)
        return value

    def _protocol(self, version: int) -> None:
        if not 2 <= version <= 5:
            raise WeightsError(f"pickle protocol {version}, expected 2 to 5")

    def _remember(self, index: int) -> None:
        self.memo[index] = self._top(object)

    def _recall(self, index: int) -> None:
        if index not in self.memo:
            raise WeightsError(f"damaged pickle: value {index} is used before it is there")
        self.stack.append(self.memo[index])

    def _append(self, values: list[Any]) -> None:
        self._top(list).extend(values)

    def _set_items(self, flat: list[Any]) -> None:
        if len(flat) % 2:
            raise WeightsError("damaged pickle: a dict entry without a value")
        self._top(dict).update(zip(map(_key, flat[::2]), flat[1::2], strict=True))

    def _add_items(self, values: list[Any]) -> None:
        self._top(set).update(map(_key, values))

    def _stack_global(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise WeightsError("damaged pickle: a global whose name is no text")
        self._global(f"{module} {name}")

    def _global(self, name: str) -> None:
        meaning = self.lookup(name)
        if meaning is None:
            dotted = name.replace(" ", ".")
            raise WeightsError(f"names {dotted!r:.200}, which is not allowed in weights files")
        self.stack.append(Global(name, meaning))

    def _call(self, function: Any, arguments: Any) -> None:
        if not isinstance(function, Global) or not callable(function.meaning) or not isinstance(arguments, tuple):
            raise WeightsError("damaged pickle: a call of something that is no function")
        try:
            self.stack.append(function.meaning(*arguments))
        except WeightsError:
            raise
        except (
            TypeError,
            ValueError,
            LookupError,
            AttributeError,
            ArithmeticError,
            RuntimeError,
            struct.error,
        ) as error:
            # The table's functions take what writers of such files give them; anything else is the file's fault.
            raise WeightsError(f"arguments that {function.name.replace(' ', '.')} does not take ({error})") from None

    def _build(self, state: Any) -> None:
        self._top(Record).state.update(state if isinstance(state, dict) else {SETSTATE: state})

    def _persistent_id(self, value: Any) -> None:
        if self.persistent is None:
            raise WeightsError("a reference to data outside the file")
        self.stack.append(self.persistent(value))


def _key(value: Any) -> Any:
    # Nested tuples are left out: hashing a deep one recurses without limit in C.
    if not isinstance(value, str | int | float | bytes | None):
        raise WeightsError(f"damaged pickle: a {type(value).__name__} as key")
    return value
