"""The folder of a run: its name, its options, its statistics as lines of JSON, for tensorboard and for wandb."""

from __future__ import annotations

import errno
import importlib
import json
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import numpy as np

from dnnlib.util import atomic_write
from training.options import TrainingOptions
from training.state import StateError

OPTIONS_FILE = "training_options.json"
STATS_FILE = "stats.jsonl"
LOG_FILE = "log.txt"
LOCK_FILE = ".lock"
WANDB_ID_FILE = "wandb_id.txt"
TORCHRUN_ID_FILE = "torchrun_id.txt"
TORCHRUN_ID = "TORCHELASTIC_RUN_ID"  # environment variable, the same when torchrun starts a run again
WANDB_PROJECT = "pix2pix3d"
NUMBERED = re.compile(r"(\d{5,})-(.*)")

Stats = Mapping[str, Mapping[str, float]]  # name: num, mean, std

# --------------------------------------------------------------------------- the folder


def create_run_folder(outdir: str | os.PathLike[str], run_name: str) -> Path:
    """Make `NNNNN-run_name` in outdir; NNNNN is the highest number there plus 1, or 00000."""
    outdir = Path(outdir)
    outdir.mkdir(parents=True, exist_ok=True)
    while True:
        number = max((number for number, _, _ in _runs(outdir)), default=-1) + 1
        folder = outdir / f"{number:05d}-{run_name}"
        try:
            folder.mkdir()
        except FileExistsError:
            if not folder.is_dir():
                raise
            continue  # another run was started in the same moment
        if TORCHRUN_ID in os.environ:
            (folder / TORCHRUN_ID_FILE).write_text(os.environ[TORCHRUN_ID])
        return folder


def latest_run(outdir: str | os.PathLike[str], options: TrainingOptions) -> Path | None:
    """The last run in outdir that this torchrun started with the same options, but for what its data gave to them.

    Its number alone would not tell: without --rdzv-id all runs of several machines have the same.
    """
    for _, name, folder in sorted(_runs(Path(outdir)), reverse=True):
        if name == options.run_name:
            with suppress(OSError, ValueError):  # a run that was stopped before it wrote them
                same = replace(read_options(folder), class_counts=options.class_counts) == options
                if same and (folder / TORCHRUN_ID_FILE).read_text() == os.environ.get(TORCHRUN_ID):
                    return folder
    return None


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Keep other processes from training in this folder; where the system cannot, do nothing.

    Raises:
        StateError: another one does.
    """
    with (folder / LOCK_FILE).open("w") as file:
        with suppress(ImportError):
            import fcntl

            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not inherited: workers may live a little longer
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    raise StateError(f"{folder}: another process trains in this folder") from error
        yield


def _runs(outdir: Path) -> list[tuple[int, str, Path]]:
    folders = [path for path in outdir.iterdir() if path.is_dir()] if outdir.is_dir() else []
    matches = [(NUMBERED.fullmatch(folder.name), folder) for folder in folders]
    return [(int(match[1]), match[2], folder) for match, folder in matches if match]


def write_options(folder: Path, options: TrainingOptions) -> None:
    with atomic_write(folder / OPTIONS_FILE) as file:
        file.write(json.dumps(options.to_plain(), indent=2).encode())


def read_options(folder: Path) -> TrainingOptions:
    """
    Raises:
        OSError: not the folder of a run.
        ValueError: its options are not of this version.
    """
    path = folder / OPTIONS_FILE
    try:
        return TrainingOptions.from_plain(json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


# --------------------------------------------------------------------------- statistics


def loggers() -> ModuleType | None:
    """Tensorboard's writer, if that package is there."""
    try:
        return importlib.import_module("torch.utils.tensorboard")
    except ImportError:
        return None


class RunLog:
    """Statistics and pictures of a run, written where people look for them; to be used as a context.

    Args:
        folder, options: of the run; options.wandb_log: to Weights & Biases too (offline where WANDB_MODE says so).
        cur_nimg: where it goes on; what was written of later images is cut off.
    """

    def __init__(self, folder: Path, options: TrainingOptions, cur_nimg: int = 0):
        self.folder, self.options, self.cur_nimg = folder, options, cur_nimg

    def __enter__(self) -> RunLog:
        path = self.folder / STATS_FILE
        cut_stats(path, self.cur_nimg)
        self._file = path.open("a", encoding="utf-8")
        tensorboard = loggers()
        events = {"log_dir": str(self.folder), "purge_step": self.cur_nimg + 1}
        self._events = tensorboard.SummaryWriter(**events) if tensorboard else None
        self._wandb = None
        if self.options.wandb_log:
            wandb = importlib.import_module("wandb")
            about = {
                "project": WANDB_PROJECT,
                "name": self.folder.name,
                "id": _wandb_id(self.folder),
                "resume": "allow",
            }
            self._wandb = wandb.init(dir=str(self.folder), config=self.options.to_plain(), **about)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()
        if self._events:
            self._events.close()
        if self._wandb:
            self._wandb.finish(exit_code=0 if kind is None else 1)

    def write(self, stats: Stats, cur_nimg: int) -> None:
        """One line for a tick."""
        now = time.time()
        self._file.write(json.dumps({**stats, "timestamp": now}) + "\n")
        self._file.flush()
        if self._events:
            for name, value in stats.items():
                self._events.add_scalar(name, value["mean"], global_step=cur_nimg, walltime=now)
            self._events.flush()
        if self._wandb:
            self._wandb.log({name: value["mean"] for name, value in stats.items()}, step=cur_nimg)

    def show(self, pictures: Mapping[str, np.ndarray], cur_nimg: int) -> None:
        """Pictures H,W or H,W,3 by name, for wandb; their files are the caller's business."""
        if self._wandb:
            wandb = importlib.import_module("wandb")
            self._wandb.log({name: wandb.Image(picture) for name, picture in pictures.items()}, step=cur_nimg)


def cut_stats(path: Path, cur_nimg: int) -> None:
    """Remove what a killed run wrote after its last state, and what cannot be read, with all that follows."""
    if not path.exists():
        return
    kept = 0
    with suppress(ValueError, LookupError, TypeError):  # of a line that is none: the end
        for line in path.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n") or json.loads(line)["Progress/kimg"]["mean"] > cur_nimg / 1000:
                break
            kept += len(line)
    os.truncate(path, kept)


def _wandb_id(folder: Path) -> str:
    """The same whenever the run goes on, another for a run of the same name in another folder."""
    path = folder / WANDB_ID_FILE
    if not path.exists():
        with atomic_write(path) as file:
            file.write(secrets.token_hex(8).encode())
    return path.read_text()


def single(value: float) -> dict[str, Any]:
    """A statistic of one value."""
    return {"num": 1, "mean": float(value), "std": 0.0}
