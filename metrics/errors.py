"""Complaints that start with the option to blame."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class OptionError(ValueError):
    """What an option of the metrics names cannot be had, or does not fit; one line that starts with the option."""


@contextmanager
def blamed_on(option: str) -> Iterator[None]:
    """ValueErrors as OptionErrors."""
    try:
        yield
    except ValueError as error:
        raise OptionError(f"--{option} {error}") from error
