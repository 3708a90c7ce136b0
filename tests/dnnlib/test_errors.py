"""ConfigError and its translation to options by a command line; groups of options in --help."""

from __future__ import annotations

import pickle

import click
import pytest
from click.testing import CliRunner

from dnnlib.cli import Command, option_group
from dnnlib.errors import ConfigError


@click.command(cls=Command, old_names={"--colour": "--color"}, fields={"batch_size": "batch"})
@option_group(
    "General",
    click.option("--batch", type=int, help="Samples per iteration."),
    click.option("-g", "--gpus", type=int, default=1, help="Number of processes."),
)
@option_group("Output", click.option("--color", multiple=True, help="Color of the mesh."))
@click.option("--secret", hidden=True)
def command(batch: int | None, gpus: int, color: tuple[str, ...], secret: str | None) -> None:
    """Check a batch size."""
    if batch is not None and batch % gpus:
        raise ConfigError("batch_size", batch, f"a multiple of `gpus` ({gpus})", "lower `gpus=1`")
    click.echo(f"{color}")


def test_config_error_states_field_value_allowed_values_and_hint():
    error = ConfigError("batch", 7, "a multiple of `gpus` (2)", "lower `gpus`")
    assert str(error) == "batch: got 7, expected a multiple of gpus (2); lower gpus"
    assert error.field == "batch"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConfigError("desc", "a/b", "no slashes"), "desc: got 'a/b', expected no slashes"),
        (ConfigError("resume", problem="the file is damaged"), "resume: the file is damaged"),
        (ConfigError("counts", None, "a list"), "counts: got None, expected a list"),
        (ConfigError("pose", problem="no such file", hint="give a path"), "pose: no such file; give a path"),
    ],
)
def test_config_error_leaves_out_what_is_not_given(error, text):
    assert str(error) == text


def test_config_error_survives_pickling_between_processes():
    error = pickle.loads(pickle.dumps(ConfigError("resume", problem="the file is damaged", hint="try `seed`")))
    assert str(error) == "resume: the file is damaged; try seed"


def test_command_shows_fields_of_a_config_error_as_its_options():
    result = CliRunner().invoke(command, ["--batch=7", "--gpus=2"])
    assert result.exit_code == 2
    assert result.output == "Error: --batch: got 7, expected a multiple of --gpus (2); lower --gpus=1\n"


def test_command_shows_fields_without_an_option_by_name():
    assert command.option_of("batch_size") == "--batch"
    assert command.option_of("planes") == "planes"


def test_options_of_one_value_name_themselves_if_they_get_more():
    for words in (["--batch", "4", "6"], ["--batch=4", "6"], ["--gpus", "2", "--batch", "4", "6"]):
        result = CliRunner().invoke(command, words)
        assert (result.exit_code, result.output) == (2, "Error: --batch: expected one value, got 6 too\n")
    assert "--batch INTEGER" in CliRunner().invoke(command, ["--batch", "4", "6", "--help"]).output
    assert CliRunner().invoke(command, ["--batch", "4", "-g", "2", "--color", "a", "b"]).output == "('a', 'b')\n"


def test_help_lists_options_under_group_titles_in_order():
    text = CliRunner().invoke(command, ["--help"]).output
    places = [
        text.index(word) for word in ("General:", "--batch", "--gpus", "Output:", "--color", "Options:", "--help")
    ]
    assert places == sorted(places)
    assert "secret" not in text


def test_old_option_names_are_accepted_but_not_shown():
    assert "colour" not in CliRunner().invoke(command, ["--help"]).output
    assert CliRunner().invoke(command, ["--colour", "a", "b", "--colour=c"]).output == "('a', 'b', 'c')\n"
