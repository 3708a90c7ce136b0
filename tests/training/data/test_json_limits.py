"""JSON of data sets that would fill the memory, and pipes in place of files, are refused before they are read."""

import json
import os

import pytest

from dnnlib import json_files
from dnnlib.json_files import parse_json, read_json
from dnnlib.util import open_url, read_file
from training.data.pose_files import read_poses


@pytest.mark.parametrize(
    "content",
    [
        b"[" + b"[]," * 600 + b"1]",
        b"[" + b"{}," * 400 + b"1]",
        b"[" + b"1," * 1600 + b"1]",
        b'{"a":' * 300 + b"1" + b"}" * 300,
        b'{"labels": [' + b'["a",[]],' * 300 + b'["a",[]]]}',
        ('["' + "x" * 13_000 + '\N{GRINNING FACE}"]').encode(),
    ],
    ids=["lists", "objects", "numbers", "keys", "labels", "text"],
)
def test_json_that_would_fill_the_memory_is_refused_before_it_is_parsed(content, monkeypatch):
    monkeypatch.setattr(json_files, "MAX_JSON_MEMORY", 1_000_000)
    parse_json(content)
    monkeypatch.setattr(json_files, "MAX_JSON_MEMORY", 100_000)
    with pytest.raises(ValueError, match="bytes of JSON that would take more than"):
        parse_json(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"1" * 5000, "integer string conversion"),
        (b"[1, 2", "delimiter"),
        (b"\xff\xfe\xff", "."),
        (b"", "Expecting value"),
    ],
)
def test_other_damaged_json_is_a_value_error(content, message):
    with pytest.raises(ValueError, match=message):
        parse_json(content)


def test_the_poses_of_many_images_are_read():
    poses = [[f"{number:08d}.png", [0.123456789] * 25] for number in range(20_000)]
    assert parse_json(json.dumps({"labels": poses}).encode()) == {"labels": poses}


@pytest.fixture
def pipe(tmp_path):
    """A named pipe that nobody writes to."""
    path = tmp_path / "pipe.json"
    os.mkfifo(path)
    return path


@pytest.mark.parametrize("read", [read_json, read_poses, open_url, lambda path: open_url(path.as_uri())])
def test_a_pipe_a_device_and_a_directory_are_refused_without_waiting(read, pipe, tmp_path):
    for path in (pipe, tmp_path, type(pipe)("/dev/zero")):
        with pytest.raises(OSError, match=r"not a regular file|is a directory"):
            read(path)


def test_a_file_of_more_bytes_than_allowed_is_refused(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_file(path, at_most=5) == b"12345"
    with pytest.raises(OSError, match="more than 4 bytes"):
        read_file(path, at_most=4)
