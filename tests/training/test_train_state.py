"""Files of a run: numbered directories, state files, statistics; stop signals and the lock."""

import errno
import json
import math
import multiprocessing
import os
import re
import signal
import stat
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from paths import ROOT
from small_training import small_data

import dnnlib.util
from train import main
from training import train_state
from training.data.dataset import PosedImageDataset
from training.data.sampler import BatchStream
from training.run_dir import STATS_FILE, create_run_dir, lock, truncate_stats
from training.signals import STOP_MESSAGE, defer_signals
from training.train_state import StateError, load_state, remove_partial_files, save_state


def save(run_dir, *counts, keep=2):
    for count in counts:
        save_state(run_dir, count, {"progress": {"cur_nimg": count}, "x": torch.full((3,), count)}, keep)


def file_names(run_dir):
    return sorted(path.name for path in run_dir.iterdir())


# --------------------------------------------------------------------------- run directories


def test_run_directories_are_numbered_from_the_highest_number(tmp_path):
    assert create_run_dir(tmp_path / "runs", "afhq-cats").name == "00000-afhq-cats"
    (tmp_path / "runs" / "00041-other").mkdir()
    (tmp_path / "runs" / "notes").mkdir()
    (tmp_path / "runs" / "00099-file").write_text("a file")
    assert create_run_dir(tmp_path / "runs", "afhq-cats").name == "00042-afhq-cats"


def test_a_file_with_the_name_of_the_run_directory_is_skipped(tmp_path):
    (tmp_path / "00000-afhq-cats").touch()
    assert create_run_dir(tmp_path, "afhq-cats").name == "00001-afhq-cats"


# --------------------------------------------------------------------------- states


def test_the_newest_state_is_loaded_and_the_given_number_is_kept(tmp_path):
    assert load_state(tmp_path) is None
    save(tmp_path, 8, 1000, 90, 12000, keep=3)
    assert file_names(tmp_path) == [f"training-state-{count:09d}.pt" for count in (90, 1000, 12000)]
    state = load_state(tmp_path)
    assert state["progress"] == {"cur_nimg": 12000} and torch.equal(state["x"], torch.full((3,), 12000))


@pytest.mark.parametrize("keep", [1, 2])
def test_a_damaged_newer_state_does_not_count_as_kept(tmp_path, keep):
    save(tmp_path, 4, 8)
    (tmp_path / "training-state-000000008.pt").write_bytes(b"")
    save(tmp_path, 6, keep=keep)
    assert load_state(tmp_path)["progress"]["cur_nimg"] == 6
    assert (tmp_path / "training-state-000000004.pt").exists() == (keep == 2)


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "other file"])
def test_a_damaged_state_is_reported_and_the_one_before_is_loaded(tmp_path, damage, capfd):
    save(tmp_path, 4, 8)
    newest = tmp_path / "training-state-000000008.pt"
    if damage == "other file":
        torch.save({"format": "something else"}, newest)
    elif damage == "flipped":  # a STOP opcode at the start of the pickle, which raises IndexError
        newest.write_bytes(newest.read_bytes().replace(b"\x80\x02}", b"\x80\x02.", 1))
    else:
        newest.write_bytes(newest.read_bytes()[: 300 if damage == "cut" else 0])
    assert load_state(tmp_path)["progress"]["cur_nimg"] == 4
    assert re.fullmatch(rf"Skipped a damaged state, {re.escape(str(newest))}: .+\n", capfd.readouterr().out)


@pytest.mark.parametrize("place", ["a weight", "the number of images", "a learning rate"])
def test_a_state_with_one_altered_number_is_damaged(tmp_path, place, capfd):
    contents = {"progress": {"cur_nimg": 4}, "weights": {"w": torch.zeros(2, 3, 4)}, "optimizer": [{"lr": 0.1}]}
    save_state(tmp_path, 4, contents, keep=2)
    path = save_state(tmp_path, 8, contents, keep=2)
    altered = torch.load(path, weights_only=True)
    if place == "a weight":
        altered["weights"]["w"][1, 2, 3] = 1e-45
    elif place == "the number of images":
        altered["progress"]["cur_nimg"] = 5
    else:
        altered["optimizer"][0]["lr"] = math.nextafter(0.1, 1)
    torch.save(altered, path)
    assert load_state(tmp_path)["progress"] == {"cur_nimg": 4}
    assert re.fullmatch(rf"Skipped a damaged state, {path}: .*digest differs\n", capfd.readouterr().out)


def test_no_flipped_byte_of_a_state_changes_what_is_loaded(tmp_path, capfd):
    save(tmp_path, 4, 8)
    path = tmp_path / "training-state-000000008.pt"
    content = path.read_bytes()
    skipped = 0
    for place in range(0, len(content), 3):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :])
        state = load_state(tmp_path)
        loaded = state["progress"]["cur_nimg"]
        assert loaded in (4, 8) and torch.equal(state["x"], torch.full((3,), loaded)), place
        skipped += loaded == 4
    assert skipped > 50  # the other bytes are padding, or names that are stored twice


def test_a_state_of_an_earlier_version_has_no_digest(tmp_path):
    path = save_state(tmp_path, 8, {"progress": {"cur_nimg": 8}}, keep=2)
    contents = torch.load(path, weights_only=True)
    del contents["sha256"]
    torch.save(contents, path)
    assert load_state(tmp_path) == {"progress": {"cur_nimg": 8}}


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "Permission denied"), MemoryError()])
def test_a_state_that_cannot_be_read_now_is_not_skipped(tmp_path, monkeypatch, error):
    save(tmp_path, 4, 8)

    def fail(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(train_state, "read_torch_file", fail)
    with pytest.raises(type(error)):
        load_state(tmp_path)


def test_an_error_names_the_newest_state_if_all_are_damaged(tmp_path):
    save(tmp_path, 4, 8)
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    with pytest.raises(StateError, match=r"training-state-000000008\.pt: "):
        load_state(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot sync directories")
def test_a_state_is_synced_to_disk_before_an_older_one_is_deleted(tmp_path, monkeypatch):
    save(tmp_path, 4, 8)
    fsync = os.fsync
    synced = []

    def recording_fsync(descriptor):
        synced.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), file_names(tmp_path)))
        fsync(descriptor)

    monkeypatch.setattr(dnnlib.util.os, "fsync", recording_fsync)
    save(tmp_path, 12)
    _, (is_directory, names) = synced
    assert is_directory and names == [f"training-state-{count:09d}.pt" for count in (4, 8, 12)]


def test_a_full_disk_keeps_the_older_states(tmp_path, monkeypatch):
    save(tmp_path, 4, 8)

    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(dnnlib.util.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, 12)
    assert file_names(tmp_path) == ["training-state-000000004.pt", "training-state-000000008.pt"]
    assert load_state(tmp_path)["progress"]["cur_nimg"] == 8


FILE_LIMIT_SCRIPT = """
import resource, signal, sys, torch; from pathlib import Path; from training.train_state import save_state
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    save_state(Path(sys.argv[1]), 12, {"x": torch.zeros(1_000_000)}, 2)
except OSError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit of file sizes, in place of a full disk")
def test_the_error_of_a_disk_that_fills_up_names_the_state_file(tmp_path):
    save(tmp_path, 4, 8)
    command = [sys.executable, "-c", FILE_LIMIT_SCRIPT, str(tmp_path)]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.fullmatch(r"\[Errno \d+\] File too large: '.*/training-state-000000012\.pt'\n", output), output
    assert load_state(tmp_path)["progress"]["cur_nimg"] == 8 and len(file_names(tmp_path)) == 2


ENDLESS_SAVE_SCRIPT = """
import sys, torch; from pathlib import Path; from training.train_state import save_state
for count in range(1, 10**6):
    save_state(Path(sys.argv[1]), count, {"count": count, "x": torch.full((1_000_000,), count)}, 2)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="POSIX signals")
def test_a_kill_while_writing_leaves_a_complete_state(tmp_path):
    rng = np.random.default_rng(0)
    process = subprocess.Popen([sys.executable, "-c", ENDLESS_SAVE_SCRIPT, str(tmp_path)], cwd=ROOT)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("training-state-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    for _ in range(1000):  # until it stops while a file is being written
        time.sleep(rng.uniform(0, 0.005))
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        if list(tmp_path.glob(".*.part")):
            break
        process.send_signal(signal.SIGCONT)
    process.kill()
    process.wait()
    assert list(tmp_path.glob(".*.part")), "nothing was being written"
    state = load_state(tmp_path)
    assert state["x"].eq(state["count"]).all()
    remove_partial_files(tmp_path)
    assert all(re.fullmatch(r"training-state-\d{9}\.pt", name) for name in file_names(tmp_path))


# --------------------------------------------------------------------------- signals


def test_the_first_signal_is_deferred_and_the_second_calls_the_previous_handler(capfd):
    handled = []
    previous = signal.signal(signal.SIGTERM, lambda number, frame: handled.append(number))
    try:
        with defer_signals() as received:
            os.kill(os.getpid(), signal.SIGTERM)
            assert received == [signal.SIGTERM] and handled == []
            os.kill(os.getpid(), signal.SIGTERM)
            assert received == [signal.SIGTERM] and handled == [signal.SIGTERM]
        with defer_signals():
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        assert len(handled) == 2
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert capfd.readouterr().err == STOP_MESSAGE


def test_data_loading_workers_ignore_stop_signals_so_that_the_iteration_can_finish(tmp_path):
    files = small_data(tmp_path, size=16)
    earlier = set(multiprocessing.active_children())  # of earlier tests, about to end
    stream = BatchStream(PosedImageDataset(files["data"], files["mask_data"]), batch_size=2, workers=1)
    next(stream)
    (worker,) = set(multiprocessing.active_children()) - earlier
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(worker.pid, number)
    for _ in range(20):
        assert len(next(stream)["idx"]) == 2
    assert worker.is_alive()


LOST_WORKER_SCRIPT = """
import multiprocessing, sys; from dnnlib.errors import ConfigError
from training.data.dataset import PosedImageDataset; from training.data.sampler import BatchStream
stream = BatchStream(PosedImageDataset(*sys.argv[1:]), batch_size=2, workers=1)
try:
    with stream:
        next(stream)
        multiprocessing.active_children()[0].kill()
        while True:
            next(stream)
except ConfigError as error:
    print(error)
"""


def test_a_killed_data_loading_worker_is_reported_in_one_line(tmp_path):  # own process: torch can raise it anywhere
    command = [sys.executable, "-c", LOST_WORKER_SCRIPT, *small_data(tmp_path, size=16).values()]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100).stdout
    assert re.fullmatch(r"workers: a data loading process was killed; .* with run_dir\n", output), output
    assert [main.option_of(field) for field in ("workers", "run_dir")] == ["--workers", "--continue"]


# --------------------------------------------------------------------------- statistics


@pytest.mark.parametrize(("cur_nimg", "kept"), [(0, 0), (2, 1), (5, 1), (8, 3), (9, 3)])
def test_statistics_after_the_saved_state_and_an_incomplete_line_are_removed(tmp_path, cur_nimg, kept):
    path = tmp_path / STATS_FILE
    lines = [json.dumps({"Progress/kimg": {"mean": n / 1000}}) + "\n" for n in (2, 6, 8)]
    path.write_text("".join(lines) + '{"Progress')
    truncate_stats(path, cur_nimg)
    assert path.read_text() == "".join(lines[:kept])
    truncate_stats(tmp_path / "none", cur_nimg)


@pytest.mark.parametrize("damaged", [b"\0\0\0\n", b"{\n", b"{}\n", b"[]\n", b"\xff\n"])
def test_statistics_are_truncated_at_an_unreadable_line(tmp_path, damaged):
    path = tmp_path / STATS_FILE
    line = b'{"Progress/kimg": {"mean": 0.002}}\n'
    path.write_bytes(line + damaged + line)
    truncate_stats(path, 8)
    assert path.read_bytes() == line


# --------------------------------------------------------------------------- lock

LOCK_SCRIPT = """
import sys; from pathlib import Path; from training.run_dir import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True); sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fcntl")
def test_only_one_process_can_train_in_a_directory_and_a_killed_one_frees_it(tmp_path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", LOCK_SCRIPT, str(tmp_path)], cwd=ROOT, **pipes)
    assert process.stdout.readline() == b"held\n"
    with pytest.raises(StateError, match="another process trains in this directory"), lock(tmp_path):
        pass
    process.kill()
    process.communicate()
    with lock(tmp_path):
        pass
