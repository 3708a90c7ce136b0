"""Control characters in names of other people's files do not reach the terminal."""

import click
import pytest
from click.testing import CliRunner

from dnnlib.cli import Command, InputError, echo, user_errors
from dnnlib.errors import ConfigError, printable
from torch_utils.safe_pickle import WeightsError
from training.data.archive import WHOLE, DataError, Problem, data_error

HOSTILE = [
    ("a\x1b[2Jb", r"a\x1b[2Jb"),  # clears the screen
    ("a\x1b]0;title\x07", r"a\x1b]0;title\x07"),  # sets the window's title
    ("a\x9b31mb", r"a\x9b31mb"),  # a sequence of one character
    ("a\nError: b", r"a\nError: b"),  # forges a line
    ("a\rb", r"a\rb"),
    ("a\x08\x08b", r"a\x08\x08b"),
    ("a\x7fb\x00", r"a\x7fb\x00"),
    ("a\u2028b\u2029", r"a\u2028b\u2029"),  # line and paragraph separators
    ("a\x85b\x0bc\x0c", r"a\x85b\x0bc\x0c"),
    ("a\u202egpj.exe", r"a\u202egpj.exe"),  # text from right to left
    ("a\u200bb\ufeff", r"a\u200bb\ufeff"),  # no width
    ("a\ud800b", r"a\ud800b"),  # cannot be encoded
    ("a\udc80b", r"a\udc80b"),  # a byte of a file name that is not UTF-8
    ("a\U000e0041b", r"a\U000e0041b"),
    ("a\tb", r"a\tb"),
]
HARMLESS = ["a b.png", "Größe", "猫", "\N{CAT FACE}", r"C:\new", "e\u0301", "עברית", ""]


@pytest.mark.parametrize(("name", "shown"), HOSTILE, ids=range(len(HOSTILE)))
def test_control_characters_are_shown_escaped(name, shown):
    assert printable(name) == shown


@pytest.mark.parametrize("name", HARMLESS)
def test_other_characters_stay_as_they_are(name):
    assert printable(name) == name


def command(action) -> str:
    """Return what a command prints that does this."""

    @click.command(cls=Command)
    def run() -> None:
        action()

    return CliRunner().invoke(run, []).output


def raising(error: Exception):
    def action() -> None:
        with user_errors("--data"):
            raise error

    return action


@pytest.mark.parametrize("name", [name for name, _ in HOSTILE], ids=range(len(HOSTILE)))
def test_no_message_or_error_prints_them(name):
    actions = [
        lambda: echo(f"{name}: 3 images"),
        lambda: echo(f"problem: {Problem(name, name)}", err=True),
        raising(data_error(name, name, name)),
        raising(DataError("data.zip", [Problem(WHOLE, name), Problem(name, "")])),
        raising(WeightsError(name)),
        raising(ValueError(name)),
        raising(OSError(2, "No such file", name)),
        raising(InputError(name)),
        raising(ConfigError("data", name, name, name, name)),
        raising(click.UsageError(name)),
    ]
    for action in actions:
        output = command(action)
        assert output.endswith("\n") and output[:-1].isprintable() and len(output.splitlines()) == 1, repr(output)


def test_lines_of_an_own_text_stay_lines():
    assert command(lambda: echo("a", "b\n", err=False)) == "a\nb\\n\n"
    assert command(raising(ValueError("first line\n  second line"))) == "Error: --data first line second line\n"
