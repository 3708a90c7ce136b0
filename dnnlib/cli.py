"""Click commands whose errors are one line with exit code 2, and which clean up when they are stopped."""

from __future__ import annotations

import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import click

from dnnlib.errors import ConfigError, printable
from dnnlib.outputs import Outputs
from dnnlib.version import version

# Exit codes after a signal, as shells define them.
SIGNAL_EXIT = 128  # plus the signal's number
INTERRUPTED = SIGNAL_EXIT + signal.SIGINT

# Option names are compared with underscores, as Python spells parameters, so that dashes may be typed too.
CONTEXT_SETTINGS = {"token_normalize_func": lambda name: name.replace("-", "_")}


# --------------------------------------------------------------------------- messages and errors


def echo(*lines: str, err: bool = False) -> None:
    """Print lines of text; names of other people's files in them cannot move the cursor or begin a line.

    Args:
        lines: each is printed as one line, with its control characters escaped.
        err: to stderr.
    """
    for line in lines:
        click.echo(printable(line), err=err)


class InputError(click.ClickException):
    """Error that the user can fix: printed as one line, exit code 2."""

    exit_code = 2

    def __init__(self, message: str):
        # Messages of libraries can have several lines; scripts and logs expect one.
        super().__init__(printable(re.sub(r"[ \t\r\n]+", " ", message.strip())))


@contextmanager
def user_errors(option: str) -> Iterator[None]:
    """Convert ValueError and OSError to an InputError that names the option.

    For code that reads or writes files only: around computation it would hide bugs.

    Args:
        option: as typed, such as "--input".
    """
    try:
        yield
    except ConfigError:
        # Names its field; `Command` converts it to an option.
        raise
    except OSError as error:
        # str(error) would begin with "[Errno 2]" and quote the path.
        where = f"{error.filename}: " if error.filename else ""
        raise InputError(f"{option} {where}{error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{option} {error}") from error


def _show_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    """Print the version and end (a callback of click)."""
    if value and not ctx.resilient_parsing:
        click.echo(f"pix2pix3d {version()}")
        ctx.exit()


class _BaseCommand(click.Command):
    """Adds --version, and replaces click's usage errors, which are several lines; mixed into commands and groups."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        # is_eager: before missing options are reported.
        text = "Show the version and exit."
        self.params.append(
            click.Option(
                ["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help=text
            )
        )

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with self._convert_usage_errors():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        # A group parses its subcommand's options here, and a command may raise a usage error when it runs.
        with self._convert_usage_errors():
            return super().invoke(ctx)

    @contextmanager
    def _convert_usage_errors(self) -> Iterator[None]:
        try:
            yield
        except click.exceptions.NoArgsIsHelpError:
            # Not an error of the user: prints the help text.
            raise
        except click.UsageError as error:
            raise InputError(error.format_message()) from error


# --------------------------------------------------------------------------- signals


class Terminated(SystemExit):
    """SIGTERM or SIGHUP, raised as an exception so that temporary files are removed."""


def _raise_on_ctrl_c() -> None:
    """Undo `dnnlib.startup`: Ctrl-C raises KeyboardInterrupt."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        with suppress(ValueError):  # only the main thread can set handlers
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _terminate(number: int, _frame: FrameType | None) -> None:
    raise Terminated(SIGNAL_EXIT + number)


@contextmanager
def _signals_raise_terminated() -> Iterator[None]:
    """Raise Terminated on SIGTERM and SIGHUP, unless they are ignored (nohup) or handled already."""
    previous = {}

    # Python allows no other thread to set handlers.
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            # Windows has no SIGHUP.
            number = getattr(signal, name, None)

            # Not where a program such as nohup, or a library, has changed it.
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:
                previous[number] = signal.signal(number, _terminate)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


# --------------------------------------------------------------------------- options and commands


class ChoiceList(click.ParamType):
    """Comma-separated subset of allowed names, as a list in the order typed, without duplicates.

    Args:
        allowed: names.
    """

    name = "names"

    def __init__(self, allowed: Iterable[str]):
        self.allowed = list(allowed)

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        """Split and check the value."""
        # A dict drops duplicates and keeps the order.
        names = list(dict.fromkeys(value.split(",")))
        for name in names:
            if name not in self.allowed:
                self.fail(f"{name!r}: expected some of {','.join(self.allowed)}", param, ctx)
        return names


# The command gets an Outputs as the argument `outputs`, and passes it the names of its files before it makes them.
overwrite_option = click.option("--overwrite", "outputs", is_flag=True, help="Replace files that exist already.",
                                callback=lambda _ctx, _param, value: Outputs(value))  # fmt: skip


def option_group(title: str, *options: Callable) -> Callable:
    """Decorate a function with click options that `--help` lists under a title.

    Args:
        title: heading of the group in `--help`.
        options: decorators that add one option each, such as `click.option(...)`, in the order of the help text.
    """

    def decorate(function: Callable) -> Callable:
        # Decorators apply from the bottom up; each appends one option, and click reverses their order.
        for option in reversed(options):
            function = option(function)
            function.__click_params__[-1].group = title
        return function

    return decorate


def _long_names(options: Iterable[click.Option]) -> set[str]:
    """Return the names of options that begin with two dashes, with underscores."""
    names = (name for option in options for name in option.opts)
    return {"--" + name[2:].replace("-", "_") for name in names if name.startswith("--")}


class Command(_BaseCommand):
    """Command whose errors are one line with exit code 2, and whose options are listed in groups.

    Option names may be written with dashes or underscores. A repeatable option takes several values at once:
    `--random_seed 0 1` means `--random_seed 0 --random_seed 1`. A ConfigError that the command raises is shown with the
    option that sets its field. Options declared with `option_group` are listed under its title in `--help`. Files of
    `overwrite_option` are listed at the end.

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
        super().__init__(*args, context_settings=CONTEXT_SETTINGS, **kwargs)
        _raise_on_ctrl_c()
        self.old_names = old_names or {}
        self.fields = fields or {}

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under the titles of their groups, in the order of their declaration."""
        # Rows of (option, help) by title; dicts keep the order.
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            # None for arguments and hidden options.
            record = param.get_help_record(ctx)
            if record is not None:
                groups.setdefault(getattr(param, "group", "Options"), []).append(record)

        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)

    def option_of(self, field: str) -> str:
        """Return the option that sets a field ("--batch"), or the field's name if no option does."""
        # Most options have the name of their field.
        name = self.fields.get(field, field)
        for param in self.params:
            if param.name == name and isinstance(param, click.Option):
                # The long form of an option with a short one.
                return max(param.opts, key=len)
        return field

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the command line."""
        return super().parse_args(ctx, self._expand(args))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; convert its errors and signals to one line and an exit code."""
        try:
            with _signals_raise_terminated():
                result = super().invoke(ctx)
            echo(*self._written(ctx))
            return result
        except Terminated as stop:
            self._say_stopped()
            sys.exit(stop.code)
        except KeyboardInterrupt:
            self._say_stopped()
            sys.exit(INTERRUPTED)
        except ConfigError as error:
            raise InputError(error.message(self.option_of)) from error
        except SystemExit:
            # An exit code of the command's own: it did its work.
            echo(*self._written(ctx))
            raise

    @staticmethod
    def _say_stopped() -> None:
        # After SIGHUP there may be no terminal.
        with suppress(OSError):
            click.echo("\nStopped: complete files are kept, incomplete ones were removed.", err=True)

    @staticmethod
    def _written(ctx: click.Context) -> list[str]:
        outputs = ctx.params.get("outputs")
        return outputs.lines() if isinstance(outputs, Outputs) else []

    def _expand(self, args: list[str]) -> list[str]:
        """Replace old option names, and repeat the name of a repeatable option before each further value."""
        # Names of the options that may be repeated, and of those that take one value.
        options = [param for param in self.params if isinstance(param, click.Option)]
        repeatable = _long_names(param for param in options if param.multiple)
        single = _long_names(param for param in options if not (param.multiple or param.is_flag))
        short = {name for param in options for name in param.opts if not name.startswith("--")}
        takes_arguments = len(options) < len(self.params)
        # These end the command before errors are reported.
        asks_for_help = {"--help", "--version"} & set(args)

        # The option that the current argument follows, and whether it has a value already.
        expanded = []
        option = ""
        has_value = False
        for arg in args:
            # An option, perhaps under its old name.
            if arg.startswith("--"):
                name, _, value = arg.partition("=")
                option = "--" + name[2:].replace("-", "_")
                has_value = bool(value)
                if option in self.old_names:
                    option = self.old_names[option]
                    arg = arg.replace(name, option, 1)
            elif arg in short:
                option = arg
                has_value = False

            # A value: a further one needs the option's name again.
            elif option in repeatable:
                if has_value:
                    expanded.append(option)
                has_value = True
            elif option in single and not takes_arguments:
                if has_value and not asks_for_help:
                    raise click.UsageError(f"{option}: expected one value, got {arg} too")
                has_value = True
            expanded.append(arg)
        return expanded


class Group(_BaseCommand, click.Group):
    """Group of subcommands of class `Command`."""

    command_class = Command
