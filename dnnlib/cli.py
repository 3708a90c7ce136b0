"""Command lines whose every complaint is one line, exit code 2."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import click

from dnnlib.errors import ConfigError


class InputError(click.ClickException):
    """What a user can put right: one line, exit code 2."""

    exit_code = 2

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))


@contextmanager
def user_errors(option: str) -> Iterator[None]:
    """Turn the ValueErrors and OSErrors of reading an option's value into one line that names the option.

    For reading and writing only: around computing it would hide faults of the program.
    """
    try:
        yield
    except ConfigError:
        raise  # names its field already; `Command` shows it as an option
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise InputError(f"{option} {where}{error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{option} {error}") from error


SIGNALLED = 128  # and the signal's number: exit code of what a signal ended, as shells have it
INTERRUPTED = SIGNALLED + signal.SIGINT
ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows: the first
DASHES = {"token_normalize_func": lambda name: name.replace("-", "_")}


class Ended(KeyboardInterrupt):
    """Another process asked this one to end; taken like Ctrl-C, so that nothing half-written is left."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number


@contextmanager
def _ended_like_interrupted() -> Iterator[None]:
    """Raise Ended for SIGTERM and SIGHUP; what was ignored (nohup) stays so. Forked workers end as they always do."""
    owner = os.getpid()

    def end(number: int, _frame: FrameType | None) -> None:
        if os.getpid() == owner:
            raise Ended(number)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, end) for number in ENDING if signal.getsignal(number) == signal.SIG_DFL}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        raise InputError(error.format_message()) from error


class Several(click.ParamType):
    """Some of a few names, separated by commas, as a list in the order given."""

    name = "names"

    def __init__(self, allowed: Iterable[str]):
        self.allowed = list(allowed)

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        names = list(dict.fromkeys(value.split(",")))
        if strange := [name for name in names if name not in self.allowed]:
            self.fail(f"{strange[0]!r}: expected some of {','.join(self.allowed)}", param, ctx)
        return names


def option_group(title: str, *options: Callable) -> Callable:
    """Decorate a function with click options that `--help` lists under a title.

    Args:
        title: heading of the group in `--help`.
        options: decorators such as `click.option(...)`, in the order of the help text.
    """

    def decorate(function: Callable) -> Callable:
        for option in reversed(options):
            already_there = len(getattr(function, "__click_params__", []))
            function = option(function)
            for param in function.__click_params__[already_there:]:
                param.group = title
        return function

    return decorate


class Command(click.Command):
    """Command whose errors are one line with exit code 2, and whose options are listed in groups.

    Option names may be written with dashes or underscores. A repeatable option takes several values at once:
    `--random_seed 0 1` means `--random_seed 0 --random_seed 1`. A ConfigError that the command raises is shown with the
    option that sets its field. Options declared with `option_group` are listed under its title in `--help`.

    Args:
        old_names: earlier names of options, still accepted but not shown: {"--colour": "--color"}.
        fields: parameter names of options that set a field of another name: {"batch_size": "batch"}.
    """

    def __init__(
        self,
        *args: Any,
        old_names: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, context_settings=DASHES, **kwargs)
        self.old_names = old_names or {}
        self.fields = fields or {}

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under the titles of their groups, in the order of their declaration."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)  # None for arguments and hidden options
            if record is not None:
                groups.setdefault(getattr(param, "group", "Options"), []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)

    def option_of(self, field: str) -> str:
        """Return the option that sets a field ("--batch"), or the field's name if no option does."""
        name = self.fields.get(field, field)
        for param in self.params:
            if param.name == name and isinstance(param, click.Option):
                return max(param.opts, key=len)
        return field

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **extra: Any) -> click.Context:
        with _one_line():
            return super().make_context(info_name, self._one_value_each(args), *rest, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _ended_like_interrupted():
                return super().invoke(ctx)
        except ConfigError as error:
            raise InputError(error.message(self.option_of)) from error
        except KeyboardInterrupt as stop:
            with suppress(OSError):  # after SIGHUP the terminal may be gone
                click.echo("\nStopped: files that were finished are kept, of others nothing is left.", err=True)
            sys.exit(SIGNALLED + stop.number if isinstance(stop, Ended) else INTERRUPTED)

    def _one_value_each(self, args: list[str]) -> list[str]:
        """Repeat the name of a repeatable option before its second value, its third, ..."""
        repeatable = {name for param in self.params if getattr(param, "multiple", False) for name in param.opts}
        spread, option, has_value = [], "", False
        for arg in args:
            if arg.startswith("--"):
                name, _, value = arg.partition("=")
                option, has_value = "--" + name[2:].replace("-", "_"), bool(value)
                if option in self.old_names:
                    option = self.old_names[option]
                    arg = arg.replace(name, option, 1)
            elif option in repeatable:
                spread += [option] * has_value
                has_value = True
            spread.append(arg)
        return spread


class Group(click.Group):
    """`Command`s under one name."""

    command_class = Command

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **extra: Any) -> click.Context:
        with _one_line():
            return super().make_context(info_name, args, *rest, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _one_line():
            return super().invoke(ctx)
