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
from training.data.image_io import write_png
from training.data.sampler import lost_workers
from training.image_grid import ImageGrid, Pictures
from training.interruption import Interrupted, Interruption
from training.iteration import Trainer, TrainingError, set_up
from training.options import TrainingOptions
from training.run_dir import LOG_FILE, RunLog, create_run_folder, lock, single, write_options
from training.state import load_state, remove_parts, save_state
from training.status import memory, status_line, timing
from training.weights.snapshot import save_snapshot

WAYS_ON = "Try a larger --gamma, a smaller --glr and --dlr, or --d_num_fp16_res=0 --sr_num_fp16_res=0."
SNAPSHOT = "network-snapshot-{:06d}.pkl"
MAX_BAD_SHARE = 0.5  # of the steps of some ticks that may have had gradients that are not finite ...
MIN_STEPS = 16  # ... together so many at least, or all that a run has


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
        judge: `metrics.snapshots.evaluate_run`, where the options ask for metrics.
    Raises:
        Interrupted: SIGTERM or Ctrl-C; the state is saved.
        TrainingError: most steps had gradients that are not finite, or weights became so.
        StateError: no state can be read, it does not fit the options, or another process trains in the folder.
        ProcessError: a process that reads data was killed.
    """
    options = distributed.from_rank_0(options)
    set_up(options, device)
    trainer = Trainer(options, device)
    notice = "" if distributed.rank() else "Finishing this iteration, then saving; once more to stop at once.\n"
    with Interruption(notice) as interruption, lost_workers():
        if distributed.rank() > 0:
            trainer.start(None)
            Loop(trainer, interruption, judge=judge).run()
            return
        folder = folder or create_run_folder(outdir, options.run_name)
        with lock(folder), Logger(folder / LOG_FILE):
            remove_parts(folder)
            state = load_state(folder)  # None: a new run, or it was stopped before there was one
            write_options(folder, options)
            with RunLog(folder, options, state["progress"]["cur_nimg"] if state else 0) as log:
                print(json.dumps(options.to_plain(), indent=2))
                print(f"Run folder: {folder}")
                print(trainer.start(state), flush=True)
                Loop(trainer, interruption, folder, log, judge).run()


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
        self.tick_ended = time.monotonic()
        self.started = self.tick_ended - self.progress.seconds
        self.saved_at, self.steps, self.bad_steps = -1, 0, 0  # images; steps since they were last checked
        self.checked = self.progress.iteration > 0  # once at least; by whoever trained before, if it goes on
        if log:
            o = self.options
            self.grid = ImageGrid(trainer.dataset, o.grid, o.cfg, trainer.device, o.batch_gpu)
            if self.progress.iteration == 0:
                self._write_pictures(self.grid.data())

    def run(self) -> None:
        """Train to the end, see `train`."""
        o, p = self.options, self.progress
        images = o.total_kimg * 1000
        self._begin_count()
        while p.cur_nimg < images:
            self.trainer.iterate()
            done = p.cur_nimg >= images
            if done or p.tick == 0 or p.cur_nimg >= p.tick_start_nimg + o.kimg_per_tick * 1000:
                self._report(done)
                saving = done or p.tick % o.snapshot_ticks == 0
                p.tick, p.tick_start_nimg = p.tick + 1, p.cur_nimg
                if saving:
                    self._draw()
                    self._save()
                if saving and o.evaluate:
                    self._judge()
                self._begin_count()
            if distributed.any_process(self.interruption.signal is not None) and not done:
                self._leave()
        if self.log:
            print(f"Done: {p.cur_nimg / 1000:g} kimg. The weights are in {self.folder}.", flush=True)

    def _begin_count(self) -> None:
        """Of seconds and images: with the tick, but for one that was interrupted."""
        self.counted_from, self.tick_began = self.progress.cur_nimg, time.monotonic()

    def _report(self, done: bool = False) -> None:
        """Statistics since the last time, by all processes; TrainingError if most steps went wrong."""
        o, p, t = self.options, self.progress, self.trainer
        stats = {**t.stats.as_dict(), **t.clock.read()}
        bad, steps = int(t.bad_steps), t.steps
        t.reset_steps()
        maintenance, self.tick_ended = self.tick_began - self.tick_ended, time.monotonic()
        seconds, p.seconds = self.tick_ended - self.tick_began, self.tick_ended - self.started
        per_kimg = seconds / (p.cur_nimg - self.counted_from) * 1000
        values = {
            "Progress/tick": p.tick,
            "Progress/kimg": p.cur_nimg / 1000,
            "Progress/augment": t.augment_p(),
            "Progress/nonfinite_steps": bad,
            **timing(p.seconds, seconds, per_kimg, maintenance),
            **memory(t.device),
        }
        if self.log:
            print(status_line(values, max(o.total_kimg - p.cur_nimg / 1000, 0) * per_kimg), flush=True)
            if bad:
                print(f"{bad} of {steps} steps had gradients that are not finite; these were set to 0", flush=True)
            self.log.write({**stats, **{name: single(value) for name, value in values.items()}}, p.cur_nimg)
        self._check_steps(bad, steps, done)

    def _check_steps(self, bad: int, steps: int, done: bool) -> None:
        self.bad_steps, self.steps = self.bad_steps + bad, self.steps + steps
        if self.bad_steps > MAX_BAD_SHARE * self.steps and (self.steps >= MIN_STEPS or (done and not self.checked)):
            what = f"{self.bad_steps} of the last {self.steps} steps had gradients that are not finite"
            raise TrainingError(f"{what}: training has diverged. {WAYS_ON}")
        if self.steps >= MIN_STEPS:
            self.bad_steps, self.steps, self.checked = 0, 0, True

    def _save(self) -> None:
        """Weights for everybody, and the state to go on from; all processes take part, rank 0 writes."""
        p, t, o = self.progress, self.trainer, self.options
        t.gather_ada()
        if not self.log or self.saved_at == p.cur_nimg:
            return
        if broken := t.parts.not_finite():
            raise TrainingError(f"weights are not finite ({broken}); the state before is kept. {WAYS_ON}")
        self.saved_at, p.seconds = p.cur_nimg, time.monotonic() - self.started
        t.average()
        told = o.for_others()
        extra = {"cfg": o.cfg, "kimg": p.cur_nimg / 1000, "training_options": told.to_plain()}
        save_snapshot(self.folder / SNAPSHOT.format(p.cur_nimg // 1000), t.parts.all_modules, told.data.kwargs(), extra)
        save_state(self.folder, p.cur_nimg, t.state_dict(), o.keep_states)

    def _judge(self) -> None:
        """Metrics of what was just saved, by all processes together; rank 0 keeps them."""
        t, name = self.trainer, SNAPSHOT.format(self.progress.cur_nimg // 1000)
        figures = self.judge(t.average(), self.options, self.folder, name, t.device)
        if self.log and figures:
            print("  ".join(f"{name} {value:.4g}" for name, value in figures.items()), flush=True)

    def _leave(self) -> None:
        number = self.interruption.signal or signal.SIGTERM  # another process may have got it
        self._save()
        if self.progress.cur_nimg > self.counted_from:  # in the middle of a tick
            self._report()
        if self.log:
            print(f"Stopped by {number.name} at {self.progress.cur_nimg} images. Go on with --continue {self.folder}")
        distributed.barrier()  # until rank 0 has saved: whoever leaves first ends all
        raise Interrupted(number)

    def _draw(self) -> None:
        if self.log:
            self._write_pictures(self.grid.draw(self.trainer.average(), self.progress.cur_nimg // 1000))

    def _write_pictures(self, pictures: Pictures) -> None:
        for name, picture in pictures.items():
            write_png(self.folder / f"{name}.png", picture)
        self.log.show(pictures, self.progress.cur_nimg)
