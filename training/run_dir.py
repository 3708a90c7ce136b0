"""The directory of a run: its number, lock, options, console log, and statistics for people, TensorBoard and wandb."""

from __future__ import annotations

import errno
import importlib
import itertools
import json
import os
import re
import secrets
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dnnlib.errors import ConfigError
from dnnlib.util import atomic_write, log_to_file
from torch_utils import distributed
from torch_utils.launch import TORCHRUN_ID
from training.data.dataset import PosedImageDataset
from training.data.fingerprint import find_difference
from training.data.image_io import write_png
from training.options import DataOptions, TrainingOptions
from training.train_state import StateError, load_state, remove_partial_files

# Files in the directory. The last two identify a run to Weights & Biases and to torchrun.
OPTIONS_FILE = "training_options.json"
FINGERPRINT_FILE = "data_fingerprint.json"
STATS_FILE = "stats.jsonl"
LOG_FILE = "log.txt"
LOCK_FILE = ".lock"
WANDB_ID_FILE = "wandb_id.txt"
TORCHRUN_ID_FILE = "torchrun_id.txt"

# Options of the training command with the paths of the data, and their fields of DataOptions.
DATA_PATHS = {"data": "path", "mask_data": "mask_path", "depth_data": "depth_path"}
KINDS_OF_DATA = {"images": "data", "label maps": "mask_data", "depth maps": "depth_data"}

# Name of the directory: number and name of the run.
NUMBERED = re.compile(r"(\d{5,})-(.*)")

WANDB_PROJECT = "pix2pix3d"

# --------------------------------------------------------------------------- directory


@contextmanager
def open_run(
    options: TrainingOptions, outdir: Path, run_dir: Path | None, dataset: PosedImageDataset
) -> Iterator[tuple[RunLog | None, dict[str, Any] | None]]:
    """Create or reopen a run's directory on rank 0; lock it and copy the console to its log while the context lasts.

    Args:
        options: written to the directory.
        outdir: parent of a new directory.
        run_dir: directory of the run to resume, None for a new run.
        dataset: that of the options; its fingerprint is written to the directory.
    Yields:
        The log of statistics and images, and the newest saved state or None; None and None in other processes.
    Raises:
        StateError: another process trains in the directory, or all of its states are damaged.
    """
    if distributed.rank() > 0:
        yield None, None
        return

    # Only rank 0 writes. The lock is held first: another process could be writing the files that are read here.
    run_dir = run_dir or create_run_dir(outdir, options.run_name)
    with lock(run_dir), log_to_file(run_dir / LOG_FILE):
        # None in a new run, or in one that was stopped before its first state.
        remove_partial_files(run_dir)
        saved = load_state(run_dir)

        # Options may have changed since the run was stopped, for instance its length.
        write_options(run_dir, options)
        if not (run_dir / FINGERPRINT_FILE).exists():
            _write_json(run_dir / FINGERPRINT_FILE, options.data.fingerprint(dataset))
        cur_nimg = saved["progress"]["cur_nimg"] if saved else 0
        with RunLog(run_dir, options, cur_nimg) as log:
            print(json.dumps(options.to_plain(), indent=2))
            print(f"Run directory: {run_dir}")
            yield log, saved


def create_run_dir(outdir: str | os.PathLike[str], run_name: str) -> Path:
    """Create `NNNNN-run_name` in outdir, where NNNNN is the highest number in use plus 1, or 00000."""
    # Numbers are never used again, even if runs between were deleted.
    outdir = Path(outdir)
    outdir.mkdir(parents=True, exist_ok=True)
    first_unused = max((number for number, _, _ in _runs(outdir)), default=-1) + 1

    # The directory can be taken by another run that starts at this moment.
    for number in itertools.count(first_unused):
        run_dir = outdir / f"{number:05d}-{run_name}"
        with suppress(FileExistsError):
            run_dir.mkdir()
            break

    # So that a restart by torchrun finds its run.
    if TORCHRUN_ID in os.environ:
        (run_dir / TORCHRUN_ID_FILE).write_text(os.environ[TORCHRUN_ID])
    return run_dir


def latest_run(outdir: str | os.PathLike[str], options: TrainingOptions) -> Path | None:
    """Find the last run in outdir that this torchrun started with equal options; None if there is none.

    `class_counts` are not compared: they are known only after the data set was examined. Options must be compared
    because torchrun's id is not unique: without --rdzv-id all runs on several machines share it.
    """
    # Highest number first.
    for _, name, run_dir in sorted(_runs(Path(outdir)), reverse=True):
        if name != options.run_name:
            continue
        # A run that was stopped before it wrote these files is skipped.
        with suppress(OSError, ValueError):
            saved = replace(read_options(run_dir), class_counts=options.class_counts)
            if saved == options and (run_dir / TORCHRUN_ID_FILE).read_text() == os.environ.get(TORCHRUN_ID):
                return run_dir
    return None


@contextmanager
def lock(run_dir: Path) -> Iterator[None]:
    """Keep other processes from training in this directory; does nothing where the system has no file locks.

    Raises:
        StateError: another process holds the lock.
    """
    # The system releases the lock when the process ends, even if it is killed. The empty file stays.
    with (run_dir / LOCK_FILE).open("w") as file:
        # Windows has no fcntl.
        with suppress(ImportError):
            import fcntl

            # Unlike flock, lockf is not inherited by data loading workers, which may outlive a killed run.
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Other errors mean that the file system has no locks.
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    raise StateError(f"{run_dir}: another process trains in this directory") from error
        yield


def _runs(outdir: Path) -> list[tuple[int, str, Path]]:
    """Return number, name and path of every run in outdir, which need not exist."""
    # Directories of other names are ignored.
    runs = []
    for path in outdir.iterdir() if outdir.is_dir() else []:
        match = NUMBERED.fullmatch(path.name)
        if match and path.is_dir():
            runs.append((int(match[1]), match[2], path))
    return runs


def write_options(run_dir: Path, options: TrainingOptions) -> None:
    """Write the options of a run to training_options.json."""
    _write_json(run_dir / OPTIONS_FILE, options.to_plain())


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_write(path) as file:
        file.write(json.dumps(content, indent=2).encode())


def read_options(run_dir: Path) -> TrainingOptions:
    """Read the options of a run.

    Raises:
        OSError: not the directory of a run.
        ValueError: the options were written by another version of this program.
    """
    # The file is plain JSON, which people may have edited.
    path = run_dir / OPTIONS_FILE
    try:
        return TrainingOptions.from_plain(json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def check_data(run_dir: Path, data: DataOptions, moved: Collection[str] = ()) -> None:
    """Check that the data set of a run is the one that it began with.

    Args:
        run_dir: directory of the run.
        data: options of the run, perhaps with new paths.
        moved: names in DATA_PATHS of these new paths.
    Raises:
        ConfigError: files are missing or are not those that the run began with.
        ValueError: files are damaged.
    """
    # Missing files have probably moved.
    for name, field in DATA_PATHS.items():
        path = getattr(data, field)
        if path is not None and not Path(path).exists():
            hint = "" if name in moved else "if the data have moved, this option takes their new path"
            raise ConfigError(name, problem=f"{path}: no such file or directory", hint=hint)

    # Runs of earlier versions have no fingerprint.
    dataset = data.open()
    file = run_dir / FINGERPRINT_FILE
    if not file.exists():
        for name in moved:
            problem = f"the run has no {FINGERPRINT_FILE} to compare the data with"
            raise ConfigError(name, problem=problem, hint=f"change the path in {OPTIONS_FILE} if the data are the same")
        return

    # The file is plain JSON, which people may have edited.
    before = json.loads(file.read_bytes())
    if not isinstance(before, dict) or not all(isinstance(part, dict | None) for part in before.values()):
        raise ValueError(f"{file}: not a fingerprint of data")
    difference = find_difference(before, data.fingerprint(dataset))
    if difference is not None:
        kind, reason = difference
        name = KINDS_OF_DATA[kind]
        problem = f"{getattr(data, DATA_PATHS[name])}: not the {kind} that the run began with ({reason})"
        raise ConfigError(name, problem=problem, hint="a new run can start from the weights of this one (`resume`)")


# --------------------------------------------------------------------------- statistics and images


class RunLog(ExitStack):
    """Statistics and images of a run: stats.jsonl, PNG files, TensorBoard if installed, wandb if `wandb_log`.

    Use as a context manager, which closes the files.

    Args:
        run_dir: directory of the run.
        options: of the run.
        cur_nimg: images at which the run resumes; statistics of later images are removed.
    """

    def __init__(self, run_dir: Path, options: TrainingOptions, cur_nimg: int = 0):
        super().__init__()
        self.run_dir = run_dir

        # One line of JSON per tick. A resumed run appends.
        truncate_stats(run_dir / STATS_FILE, cur_nimg)
        self._file = self.enter_context((run_dir / STATS_FILE).open("a", encoding="utf-8"))

        # TensorBoard, if installed. Statistics from purge_step on are hidden, as they will be written again.
        self._tensorboard = None
        with suppress(ImportError):
            tensorboard = importlib.import_module("torch.utils.tensorboard")
            writer = tensorboard.SummaryWriter(str(run_dir), purge_step=cur_nimg + 1)
            self._tensorboard = self.enter_context(writer)

        # Weights & Biases; WANDB_MODE=offline writes to the directory only. A failed run is marked as such.
        self._wandb = None
        if options.wandb_log:
            self._wandb = importlib.import_module("wandb")
            run = {"project": WANDB_PROJECT, "name": run_dir.name, "id": _wandb_id(run_dir), "resume": "allow"}
            self._wandb.init(dir=str(run_dir), config=options.to_plain(), **run)
            self.push(lambda error, *_: self._wandb.finish(exit_code=0 if error is None else 1))

    def write(self, stats: Mapping[str, Mapping[str, float]], cur_nimg: int) -> None:
        """Write the statistics of a tick: num, mean and std by name."""
        # Flushed, so that the line is in the file while the next tick runs.
        now = time.time()
        self._file.write(json.dumps({**stats, "timestamp": now}) + "\n")
        self._file.flush()

        # TensorBoard and wandb show the means.
        means = {name: value["mean"] for name, value in stats.items()}
        if self._tensorboard:
            for name, mean in means.items():
                self._tensorboard.add_scalar(name, mean, global_step=cur_nimg, walltime=now)
            self._tensorboard.flush()
        if self._wandb:
            self._wandb.log(means, step=cur_nimg)

    def write_images(self, images: Mapping[str, np.ndarray], cur_nimg: int) -> None:
        """Write images, H,W or H,W,3 uint8, to NAME.png."""
        # A resumed run replaces images that it renders again.
        for name, image in images.items():
            write_png(self.run_dir / f"{name}.png", image)
        if self._wandb:
            self._wandb.log({name: self._wandb.Image(image) for name, image in images.items()}, step=cur_nimg)


def truncate_stats(path: Path, cur_nimg: int) -> None:
    """Remove statistics of images after `cur_nimg`, which a killed run may have written, and unreadable lines."""
    if not path.exists():
        return

    # Bytes of the lines to keep, until the first that is later, incomplete or unreadable.
    size = 0
    with suppress(ValueError, LookupError, TypeError):
        for line in path.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n") or json.loads(line)["Progress/kimg"]["mean"] > cur_nimg / 1000:
                break
            size += len(line)
    os.truncate(path, size)


def _wandb_id(run_dir: Path) -> str:
    """Return the run's random wandb id, which stays the same when the run is resumed."""
    # Not derived from the run's name, which another directory can share.
    path = run_dir / WANDB_ID_FILE
    if not path.exists():
        path.write_text(secrets.token_hex(8))
    return path.read_text()
