"""What a run leaves on disk: numbered folders, states that are whole, statistics without half lines."""

import errno
import json
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
from click.testing import CliRunner
from paths import ROOT
from PIL import Image, ImageColor
from small_training import small_data
from training.state import StateError, load_state, remove_parts, save_state

import dnnlib.util
from training import curves
from training.curves import read_curves
from training.data.dataset import PosedImageDataset
from training.data.sampler import BatchStream
from training.interruption import Interruption
from training.run_dir import STATS_FILE, create_run_folder, cut_stats, lock


def saved(folder, *counts, keep=2):
    for count in counts:
        save_state(folder, count, {"progress": {"cur_nimg": count}, "x": torch.full((3,), count)}, keep)


def states(folder):
    return sorted(path.name for path in folder.iterdir())


# --------------------------------------------------------------------------- folders


def test_folders_are_numbered_on_from_the_highest(tmp_path):
    assert create_run_folder(tmp_path / "runs", "afhq-cats").name == "00000-afhq-cats"
    (tmp_path / "runs" / "00041-other").mkdir()
    (tmp_path / "runs" / "notes").mkdir()
    (tmp_path / "runs" / "00099-file").write_text("no folder")
    assert create_run_folder(tmp_path / "runs", "afhq-cats").name == "00042-afhq-cats"


def test_a_file_in_the_place_of_a_folder_is_an_error_not_an_endless_search(tmp_path):
    (tmp_path / "00000-afhq-cats").touch()
    with pytest.raises(FileExistsError):
        create_run_folder(tmp_path, "afhq-cats")


# --------------------------------------------------------------------------- states


def test_the_newest_state_comes_back_and_only_so_many_are_kept(tmp_path):
    assert load_state(tmp_path) is None
    saved(tmp_path, 8, 1000, 90, 12000, keep=3)
    assert states(tmp_path) == [f"training-state-{count:09d}.pt" for count in (90, 1000, 12000)]
    state = load_state(tmp_path)
    assert state["progress"] == {"cur_nimg": 12000} and torch.equal(state["x"], torch.full((3,), 12000))


@pytest.mark.parametrize("keep", [1, 2])
def test_a_damaged_newer_state_never_costs_a_good_one_its_place(tmp_path, keep):
    saved(tmp_path, 4, 8)
    (tmp_path / "training-state-000000008.pt").write_bytes(b"")
    saved(tmp_path, 6, keep=keep)
    assert load_state(tmp_path)["progress"]["cur_nimg"] == 6
    assert (tmp_path / "training-state-000000004.pt").exists() == (keep == 2)


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "other file"])
def test_a_damaged_state_is_passed_over_for_the_one_before_and_named(tmp_path, damage, capfd):
    saved(tmp_path, 4, 8)
    newest = tmp_path / "training-state-000000008.pt"
    if damage == "other file":
        torch.save({"format": "something else"}, newest)
    elif damage == "flipped":  # a STOP at the start of the pickle: its reader finds an empty stack, IndexError
        newest.write_bytes(newest.read_bytes().replace(b"\x80\x02}", b"\x80\x02.", 1))
    else:
        newest.write_bytes(newest.read_bytes()[: 300 if damage == "cut" else 0])
    assert load_state(tmp_path)["progress"]["cur_nimg"] == 4
    assert re.fullmatch(rf"Passed over {re.escape(str(newest))}: .+\n", capfd.readouterr().out)


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "Permission denied"), MemoryError()])
def test_a_good_state_that_cannot_be_read_now_is_not_passed_over(tmp_path, monkeypatch, error):
    saved(tmp_path, 4, 8)

    def fail(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(type(error)):
        load_state(tmp_path)


def test_only_damaged_states_are_an_error_that_names_the_newest(tmp_path):
    saved(tmp_path, 4, 8)
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    with pytest.raises(StateError, match=r"training-state-000000008\.pt: "):
        load_state(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="folders cannot be synced there")
def test_the_new_name_of_a_state_is_on_the_disk_before_an_older_one_is_deleted(tmp_path, monkeypatch):
    saved(tmp_path, 4, 8)
    real, synced = os.fsync, []

    def note(descriptor):
        synced.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), states(tmp_path)))
        real(descriptor)

    monkeypatch.setattr(dnnlib.util.os, "fsync", note)
    saved(tmp_path, 12)
    (_, _), (is_folder, names) = synced
    assert is_folder and names == [f"training-state-{count:09d}.pt" for count in (4, 8, 12)]


def test_a_full_disk_leaves_the_states_that_were_there(tmp_path, monkeypatch):
    saved(tmp_path, 4, 8)

    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(dnnlib.util.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        saved(tmp_path, 12)
    assert states(tmp_path) == ["training-state-000000004.pt", "training-state-000000008.pt"]
    assert load_state(tmp_path)["progress"]["cur_nimg"] == 8


CROWDED = """
import resource, signal, sys, torch; from pathlib import Path; from training.state import save_state
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    save_state(Path(sys.argv[1]), 12, {"x": torch.zeros(1_000_000)}, 2)
except OSError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a limit of the size of files stands for a full disk")
def test_a_disk_that_is_full_in_the_middle_of_a_state_is_an_error_that_names_it(tmp_path):
    saved(tmp_path, 4, 8)
    command = [sys.executable, "-c", CROWDED, str(tmp_path)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.fullmatch(r"\[Errno \d+\] File too large: '.*/training-state-000000012\.pt'\n", said), said
    assert load_state(tmp_path)["progress"]["cur_nimg"] == 8 and len(states(tmp_path)) == 2


ENDLESS = """
import sys, torch; from pathlib import Path; from training.state import save_state
for count in range(1, 10**6):
    save_state(Path(sys.argv[1]), count, {"count": count, "x": torch.full((1_000_000,), count)}, 2)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="signals of this kind are POSIX")
def test_a_kill_in_the_middle_of_writing_leaves_a_whole_state(tmp_path):
    rng = np.random.default_rng(0)
    process = subprocess.Popen([sys.executable, "-c", ENDLESS, str(tmp_path)], cwd=ROOT)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("training-state-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    for _ in range(1000):  # until it is stopped while a file is being written
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
    remove_parts(tmp_path)
    assert all(re.fullmatch(r"training-state-\d{9}\.pt", name) for name in states(tmp_path))


# --------------------------------------------------------------------------- signals


def test_the_first_signal_is_noted_and_the_second_does_what_it_did_before(capfd):
    came = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    try:
        with Interruption("stopping soon\n") as interruption:
            os.kill(os.getpid(), signal.SIGTERM)
            assert interruption.signal is signal.SIGTERM and came == []
            os.kill(os.getpid(), signal.SIGTERM)
            assert came == [signal.SIGTERM]
        with Interruption(""):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        assert len(came) == 2
    finally:
        signal.signal(signal.SIGTERM, before)
    assert capfd.readouterr().err == "stopping soon\n"


def test_processes_that_read_data_outlive_signals_so_that_the_iteration_can_be_finished(tmp_path):
    files = small_data(tmp_path, size=16)
    others = set(multiprocessing.active_children())  # of tests before, on their way out
    stream = BatchStream(PosedImageDataset(files["data"], files["mask_data"]), batch_size=2, workers=1)
    next(stream)
    (worker,) = set(multiprocessing.active_children()) - others
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(worker.pid, number)
    for _ in range(20):
        assert len(next(stream)["idx"]) == 2
    assert worker.is_alive()


READER = """
import multiprocessing, sys; from torch_utils.launch import ProcessError
from training.data.dataset import PosedImageDataset; from training.data.sampler import BatchStream, lost_workers
stream = BatchStream(PosedImageDataset(*sys.argv[1:]), batch_size=2, workers=1)
try:
    with lost_workers():
        next(stream)
        multiprocessing.active_children()[0].kill()
        while True:
            next(stream)
except ProcessError as error:
    print(error)
"""


def test_a_reading_process_that_was_killed_is_one_line(tmp_path):  # elsewhere: torch raises it at any moment
    command = [sys.executable, "-c", READER, *small_data(tmp_path, size=16).values()]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100).stdout
    assert re.fullmatch(r"a data loading worker was killed; .*\n", said), said


# --------------------------------------------------------------------------- statistics


@pytest.mark.parametrize(("cur_nimg", "kept"), [(0, 0), (2, 1), (5, 1), (8, 3), (9, 3)])
def test_statistics_of_what_came_after_the_state_and_half_a_line_are_cut_off(tmp_path, cur_nimg, kept):
    path = tmp_path / STATS_FILE
    lines = [json.dumps({"Progress/kimg": {"mean": n / 1000}}) + "\n" for n in (2, 6, 8)]
    path.write_text("".join(lines) + '{"Progress')
    cut_stats(path, cur_nimg)
    assert path.read_text() == "".join(lines[:kept])
    cut_stats(tmp_path / "none", cur_nimg)


@pytest.mark.parametrize("damaged", [b"\0\0\0\n", b"{\n", b"{}\n", b"[]\n", b"\xff\n"])
def test_statistics_end_before_a_line_that_cannot_be_read(tmp_path, damaged):
    path, line = tmp_path / STATS_FILE, b'{"Progress/kimg": {"mean": 0.002}}\n'
    path.write_bytes(line + damaged + line)
    cut_stats(path, 8)
    assert path.read_bytes() == line


def test_curves_show_statistics_and_metrics_of_runs_over_thousands_of_images(tmp_path):
    for run, values in (("a", (1.0, 3.0)), ("b", (2.0, None))):
        (tmp_path / run).mkdir()
        means = [{"Progress/kimg": {"mean": kimg}, "Loss/G/loss": {"mean": kimg}} for kimg in (0.0, 2.0)]
        (tmp_path / run / STATS_FILE).write_text("".join(json.dumps(line) + "\n" for line in means))
        lines = [
            {"snapshot_pkl": f"x/network-snapshot-{n:06d}.pkl", "results": {"miou": v}} for n, v in enumerate(values)
        ]
        (tmp_path / run / "metric-miou.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_curves(tmp_path / "a", ["Loss/G/loss"]) == {"Loss/G/loss": [(0, 0), (2, 2)], "miou": [(0, 1), (1, 3)]}
    assert read_curves(tmp_path / "b", ["Loss/none"]) == {"miou": [(0, 2)]}
    words = [str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(tmp_path / "curves.png")]
    assert CliRunner().invoke(curves.main, words).exit_code == 0
    drawn = np.array(Image.open(tmp_path / "curves.png"))
    panel = drawn[curves.TOP : curves.HEIGHT - curves.BOTTOM, curves.LEFT : curves.WIDTH - curves.RIGHT].astype(int)
    rows, columns = np.nonzero(abs(panel[..., 2] - panel[..., 0]) > 50)
    assert np.corrcoef(rows, columns)[0, 1] < -0.99  # a straight line upwards
    with (tmp_path / "a" / STATS_FILE).open("a") as file:
        file.write('{"Progress')  # a run that is writing just now
    assert read_curves(tmp_path / "a", ["Loss/G/loss"])["Loss/G/loss"] == [(0, 0), (2, 2)]
    result = CliRunner().invoke(curves.main, [str(tmp_path)])
    assert result.exit_code == 2 and "no such statistics" in result.output


def test_runs_of_one_name_in_two_places_and_single_points_are_all_drawn(tmp_path):
    for place in ("a", "b"):
        folder = tmp_path / place / "00000-run"
        folder.mkdir(parents=True)
        line = {"snapshot_pkl": "network-snapshot-000004.pkl", "results": {"miou": 0.5 if place == "a" else 0.7}}
        (folder / "metric-miou.jsonl").write_text(json.dumps(line) + "\n")
    words = [str(path) for path in tmp_path.glob("*/*")] + ["--output", str(tmp_path / "curves.png")]
    assert CliRunner().invoke(curves.main, words).exit_code == 0
    drawn = np.array(Image.open(tmp_path / "curves.png"))
    assert drawn.shape[0] == curves.HEIGHT + 2 * 16
    for color in curves.COLORS[:2]:
        assert (drawn[: curves.HEIGHT] == ImageColor.getrgb(color)).all(-1).any()


# --------------------------------------------------------------------------- one process in a folder

HOLDER = """
import sys; from pathlib import Path; from training.run_folder import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True); sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such locks there")
def test_two_processes_cannot_train_in_one_folder_and_a_killed_one_leaves_it_free(tmp_path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], cwd=ROOT, **pipes)
    assert process.stdout.readline() == b"held\n"
    with pytest.raises(StateError, match="another process trains in this folder"), lock(tmp_path):
        pass
    process.kill()
    process.communicate()
    with lock(tmp_path):
        pass
