"""Fixtures that several test files share."""

import functools
import shutil

import pytest
from click.testing import CliRunner

import legacy


@pytest.fixture(scope="session")
def untrained(tmp_path_factory):
    """Function from a config to the path of its untrained network with a narrow backbone, made once."""
    folder = tmp_path_factory.mktemp("networks")

    @functools.cache
    def make(cfg):
        path = folder / f"{cfg}.pt"
        narrow = ["--channel-base", "1024", "--channel-max", "16"]
        result = CliRunner().invoke(legacy.main, ["init", str(path), "--cfg", cfg, *narrow])
        assert result.exit_code == 0, result.output
        return path

    yield make
    shutil.rmtree(folder)  # the label encoder is full-size in every network: 200 MB each
