"""The folder of a run: its name, its options, its statistics as lines of JSON, for tensorboard and for wandb."""

from __future__ import annotations

import importlib
import json
import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import numpy as np

from dnnlib.util import whole_file
from training.options import TrainingOptions

OPTIONS_FILE = "training_options.json"
STATS_FILE = "stats.jsonl"
LOG_FILE = "log.txt"
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
        return folder


def latest_run(outdir: str | os.PathLike[str], options: TrainingOptions) -> Path | None:
    """The last run of the same options in outdir; one of the same name may be another run."""
    for _, name, folder in sorted(_runs(Path(outdir)), reverse=True):
        if name == options.run_name:
            with suppress(OSError, ValueError):  # a run that was stopped before it wrote them
                if read_options(folder) == options:
                    return folder
    return None


def _runs(outdir: Path) -> list[tuple[int, str, Path]]:
    folders = [path for path in outdir.iterdir() if path.is_dir()] if outdir.is_dir() else []
    matches = [(NUMBERED.fullmatch(folder.name), folder) for folder in folders]
    return [(int(match[1]), match[2], folder) for match, folder in matches if match]


def write_options(folder: Path, options: TrainingOptions) -> None:
    with whole_file(folder / OPTIONS_FILE) as file:
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
        folder: of the run. use_wandb: log to Weights & Biases too (offline where WANDB_MODE says so).
    """

    def __init__(self, folder: Path, options: TrainingOptions):
        self.folder, self.options = folder, options

    def __enter__(self) -> RunLog:
        path = self.folder / STATS_FILE
        drop_half_line(path)
        self._file = path.open("a", encoding="utf-8")
        tensorboard = loggers()
        self._events = tensorboard.SummaryWriter(str(self.folder)) if tensorboard else None
        self._wandb = None
        if self.options.wandb_log:
            wandb = importlib.import_module("wandb")
            about = {"project": WANDB_PROJECT, "name": self.folder.name, "id": self.folder.name, "resume": "allow"}
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


def drop_half_line(path: Path) -> None:
    """Remove what a killed run may have left of its last line."""
    if path.exists():
        content = path.read_bytes()
        os.truncate(path, content.rfind(b"\n") + 1)


def single(value: float) -> dict[str, Any]:
    """A statistic of one value."""
    return {"num": 1, "mean": float(value), "std": 0.0}
