"""The loop of one process: iterations in ticks; at their end statistics, now and then pictures, weights and state."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import torch

from dnnlib.util import Logger
from torch_utils import distributed
from torch_utils.host_memory import keep_freed_memory
from training.image_grids import ImageGrid, Pictures
from training.interruption import Interrupted, Interruption
from training.iteration import Trainer, TrainingError
from training.options import TrainingOptions
from training.pictures import write_png
from training.run_folder import LOG_FILE, RunLog, create_run_folder, single, write_options
from training.snapshot import save_snapshot
from training.state import load_state, remove_parts, save_state
from training.status import memory, status_line

SNAPSHOT = "network-snapshot-{:06d}.pkl"
MAX_BAD_SHARE = 0.5  # of a tick's steps that may have had gradients that are not finite ...
MIN_STEPS = 16  # ... if there were so many


def train(
    device: torch.device,
    options: TrainingOptions | None,
    outdir: Path,
    folder: Path | None,
    judge: Callable | None = None,
) -> None:
    """One process of a run, from its start, or from where it stopped, to the end.

    Args:
        options: of rank 0; the other processes get them from there.
        outdir: where rank 0 makes a new folder. folder: of the run that goes on, None for a new one.
        judge: `metrics.snapshots.judge_snapshot`, where the options ask for metrics.
    Raises:
        Interrupted: SIGTERM or Ctrl-C; the state is saved.
        TrainingError: most steps had gradients that are not finite.
    """
    options = distributed.from_rank_0(options)
    set_up(options, device)
    trainer = Trainer(options, device)
    notice = "" if distributed.rank() else "Finishing this iteration, then saving; once more to stop at once.\n"
    with Interruption(notice) as interruption:
        if distributed.rank() > 0:
            trainer.start(None)
            Loop(trainer, interruption, judge=judge).run()
            return
        state = None
        if folder:
            remove_parts(folder)
            state = load_state(folder)  # None: it was stopped before there was one
        else:
            folder = create_run_folder(outdir, options.run_name)
        write_options(folder, options)
        with Logger(folder / LOG_FILE), RunLog(folder, options) as log:
            print(json.dumps(options.to_plain(), indent=2))
            print(f"Run folder: {folder}")
            print(trainer.start(state), flush=True)
            Loop(trainer, interruption, folder, log, judge).run()


def set_up(options: TrainingOptions, device: torch.device) -> None:
    """Switches of torch: numbers as published, and what costs nothing but helps."""
    torch.backends.cudnn.benchmark = not options.nobench
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.autograd.set_detect_anomaly(options.debug)
    if device.type == "cpu":
        keep_freed_memory()


class Loop:
    """Iterations and what is between them.

    Args:
        folder, log: of rank 0, which alone writes.
        judge: see `train`.
    """

    def __init__(
        self,
        trainer: Trainer,
        interruption: Interruption,
        folder: Path | None = None,
        log: RunLog | None = None,
        judge: Callable | None = None,
    ):
        self.trainer, self.options, self.progress = trainer, trainer.options, trainer.progress
        self.interruption, self.folder, self.log, self.judge = interruption, folder, log, judge
        self.started = time.monotonic() - self.progress.seconds
        if log:
            o = self.options
            self.grid = ImageGrid(trainer.dataset, o.grid, o.cfg, trainer.device, o.batch_gpu)
            if self.progress.iteration == 0:
                self._write_pictures(self.grid.data())

    def run(self) -> None:
        """Train to the end, see `train`."""
        o, p = self.options, self.progress
        images = o.total_kimg * 1000
        tick_ended = tick_began = time.monotonic()
        while p.cur_nimg < images:
            self.trainer.iterate()
            done = p.cur_nimg >= images
            if done or p.tick == 0 or p.cur_nimg >= p.tick_start_nimg + o.kimg_per_tick * 1000:
                maintenance, tick_ended = tick_began - tick_ended, time.monotonic()
                self._report(tick_ended - tick_began, maintenance)
                saving = done or p.tick % o.snapshot_ticks == 0
                p.tick, p.tick_start_nimg = p.tick + 1, p.cur_nimg
                if saving and self.log:
                    self._write_pictures(self.grid.draw(self.trainer.average(), p.cur_nimg // 1000))
                    self._save()
                if saving and o.evaluate:
                    self._judge()
                tick_began = time.monotonic()
            if distributed.any_process(self.interruption.signal is not None) and not done:
                self._leave()
        if self.log:
            print(f"Done: {p.cur_nimg / 1000:g} kimg. The weights are in {self.folder}.", flush=True)

    def _report(self, seconds: float, maintenance: float) -> None:
        """Statistics of the tick that ends, by all processes; TrainingError if most of its steps went wrong."""
        o, p, t = self.options, self.progress, self.trainer
        stats = {**t.stats.as_dict(), **t.clock.read()}
        bad, steps = int(t.bad_steps), t.steps
        t.reset_steps()
        p.seconds = time.monotonic() - self.started
        per_kimg = seconds / (p.cur_nimg - p.tick_start_nimg) * 1000
        values = {
            "Progress/tick": p.tick,
            "Progress/kimg": p.cur_nimg / 1000,
            "Progress/augment": t.augment_p(),
            "Progress/nonfinite_steps": bad,
            "Timing/total_sec": p.seconds,
            "Timing/sec_per_tick": seconds,
            "Timing/sec_per_kimg": per_kimg,
            "Timing/maintenance_sec": maintenance,
            "Timing/total_hours": p.seconds / 3600,
            "Timing/total_days": p.seconds / 86400,
            **memory(t.device),
        }
        if self.log:
            print(status_line(values, (o.total_kimg - p.cur_nimg / 1000) * per_kimg), flush=True)
            if bad:
                print(f"{bad} of {steps} steps had gradients that are not finite; these were set to 0", flush=True)
            self.log.write({**stats, **{name: single(value) for name, value in values.items()}}, p.cur_nimg)
        if steps >= MIN_STEPS and bad > MAX_BAD_SHARE * steps:
            raise TrainingError(
                f"{bad} of the last {steps} steps had gradients that are not finite: training has diverged. "
                f"Try a larger --gamma, a smaller --glr and --dlr, or --d_num_fp16_res=0 --sr_num_fp16_res=0."
            )

    def _save(self) -> None:
        """Weights for everybody, and the state to go on from."""
        p, t, o = self.progress, self.trainer, self.options
        p.seconds = time.monotonic() - self.started
        t.average()
        extra = {"cfg": o.cfg, "kimg": p.cur_nimg / 1000, "training_options": o.to_plain()}
        path = self.folder / SNAPSHOT.format(p.cur_nimg // 1000)
        save_snapshot(path, t.parts.all_modules, o.data.kwargs(), extra)
        save_state(self.folder, p.cur_nimg, t.state_dict(), o.keep_states)

    def _judge(self) -> None:
        """Metrics of what was just saved, by all processes together; rank 0 keeps them."""
        t, name = self.trainer, SNAPSHOT.format(self.progress.cur_nimg // 1000)
        figures = self.judge(t.average(), self.options.data, self.options.metrics, self.folder, name, t.device)
        if self.log and figures:
            print("  ".join(f"{name} {value:.4g}" for name, value in figures.items()), flush=True)

    def _leave(self) -> None:
        number = self.interruption.signal or signal.SIGTERM  # another process may have got it
        if self.log:
            self._save()
            print(f"Stopped by {number.name} at {self.progress.cur_nimg} images. Go on with --continue {self.folder}")
        distributed.barrier()  # until rank 0 has saved: whoever leaves first ends all
        raise Interrupted(number)

    def _write_pictures(self, pictures: Pictures) -> None:
        for name, picture in pictures.items():
            write_png(self.folder / f"{name}.png", picture)
        self.log.show(pictures, self.progress.cur_nimg)
