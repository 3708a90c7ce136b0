"""Errors of invalid options and arguments, shared by the library and the command lines; text that is safe to print."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

# `field` or `field=value` in a message.
_REFERENCE = re.compile(r"`(\w+)([^`]*)`")


def show_fields(text: str, show_field: Callable[[str], str] = str) -> str:
    """Replace every field in backticks by what `show_field` returns for it: "`p=1`" by "--p=1", for example."""
    return _REFERENCE.sub(lambda match: show_field(match[1]) + match[2], text)


def printable(text: str) -> str:
    r"""Escape control characters, such as "\x1b", and all others that a terminal does not show as one character.

    Names in files of other people can hold any character: a newline would forge a line, others would move the cursor,
    hide text or change its direction.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class ConfigError(ValueError):
    """Invalid value of an option or argument, named by its field.

    `str(error)` reads "batch: got 7, expected a multiple of gpus (2); lower gpus". Other fields that the text mentions
    are written in backticks ("a multiple of `gpus` (2)"), so that a command line can show all of them as its own
    options (see `message`).

    Args:
        field: name of the field, with underscores and without dashes.
        got: the value; left out of the message if not passed.
        allowed: the valid values, in words that can follow "expected".
        hint: how to fix it.
        problem: what is wrong, where "got ..., expected ..." does not say it, for instance "the file is damaged".
    """

    def __init__(self, field: str, got: Any = ..., allowed: str = "", hint: str = "", problem: str = ""):
        # All of them, because pickle calls the class with `args` to pass an error between processes.
        super().__init__(field, got, allowed, hint, problem)
        self.field = field

        # The message without its field. None and "" are values that can be shown, so a missing one is `...`.
        facts = []
        if problem:
            facts.append(problem)
        if got is not ...:
            facts.append(f"got {got!r}" if isinstance(got, str) else f"got {got}")
        if allowed:
            facts.append(f"expected {allowed}")
        self._text = ", ".join(facts) + (f"; {hint}" if hint else "")

    def message(self, show_field: Callable[[str], str] = str) -> str:
        """Return the message in one line, with every field written as `show_field` returns it."""
        return f"{show_field(self.field)}: {show_fields(self._text, show_field)}"

    def __str__(self) -> str:
        # Fields by name: library code does not know options.
        return self.message()
