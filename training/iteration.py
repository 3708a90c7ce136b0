"""One iteration of training: all phases on one batch, on one process of possibly many."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torch_utils import distributed
from torch_utils.host_memory import keep_freed_memory
from torch_utils.training_stats import Collector
from training.data.label_maps import label_map_from_dataset
from training.data.sampler import BatchStream
from training.loss import Loss
from training.networks.augment import adapt_p
from training.networks.generator import TriPlane
from training.options import TrainingOptions
from training.parts import Parts, Phase
from training.perceptual import load_lpips
from training.state import StateError
from training.status import PhaseClock

ADA_INTERVAL = 4  # iterations


class TrainingError(RuntimeError):
    """The run cannot go on; one line that says why."""


@dataclass
class Progress:
    """Where a run is.

    Args:
        cur_nimg: images shown. iteration: done. tick: the one that is open. tick_start_nimg: when it began.
        seconds: that the run took until it was last started.
    """

    cur_nimg: int = 0
    iteration: int = 0
    tick: int = 0
    tick_start_nimg: int = 0
    seconds: float = 0.0


def set_up(options: TrainingOptions, device: torch.device) -> None:
    """Switches of torch: numbers as published, and what costs nothing but helps."""
    torch.backends.cudnn.benchmark = not options.nobench
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.autograd.set_detect_anomaly(options.debug)
    if device.type == "cpu":
        keep_freed_memory()


class Trainer:
    """One process of a run: data, networks, loss.

    Attributes:
        stats: what the loss reported since it was last asked.
        steps, bad_steps: of optimizers, and how many of them had gradients that were not finite (as a tensor).
    """

    def __init__(self, options: TrainingOptions, device: torch.device):
        self.options, self.device = options, device
        self.rank, world = distributed.rank(), distributed.world_size()
        torch.manual_seed(options.random_seed)  # the same weights however many processes share the run
        self.dataset = options.data.open()
        self.poses = torch.from_numpy(np.stack([self.dataset.get_label(i) for i in range(len(self.dataset))]))
        self.parts, self.progress = Parts(options, device), Progress()
        self.stream = BatchStream(
            self.dataset,
            options.batch_size // world,
            options.workers,
            device,
            rank=self.rank,
            num_replicas=world,
            seed=options.random_seed,
        )
        lpips = load_lpips(options.lpips_weights, device) if options.loss.lambda_lpips > 0 else None
        networks = {name: self.parts.networks.get(name) for name in ("G", "D", "D_semantic")}
        pipe, counts = self.parts.augment_pipe, options.class_counts
        self.loss = Loss(options.loss, **networks, augment_pipe=pipe, perceptual=lpips, class_counts=counts)
        self.stats, self.clock = Collector(device), PhaseClock(device)
        self.reset_steps()

    def reset_steps(self) -> None:
        self.steps, self.bad_steps = 0, torch.zeros([], dtype=torch.int64, device=self.device)

    def start(self, state: Mapping[str, Any] | None) -> str:
        """Take up a state (of rank 0), or the weights of --resume; without either keep rank 0's own. Says which."""
        state = distributed.from_rank_0(state)
        if state is not None:
            try:
                self.parts.load_state_dict(state["parts"])
                self.stream.load_state_dict(state["stream"])
                self.progress = Progress(**state["progress"])
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, LookupError, TypeError, ValueError) as error:
                what = " ".join(str(error).split())
                raise StateError(f"the state does not fit the options of its folder: {what:.200}") from error
            if self.rank:
                self.parts.ada.zero_()  # rank 0 has the sums of all
            return f"Going on at {self.progress.cur_nimg} images, tick {self.progress.tick}"
        source, said = self.options.resume_pkl, "Starting from random weights"
        if source and self.rank == 0:
            said = self.parts.warm_start(source)
        for module in self.parts.all_modules.values():
            distributed.copy_from_rank_0(module)
        return said

    def gather_ada(self) -> None:
        """Bring the signs that all processes counted to rank 0, whose state is saved; the sum stays what it is."""
        distributed.all_reduce(self.parts.ada)
        if self.rank:
            self.parts.ada.zero_()

    def state_dict(self) -> dict[str, Any]:
        """All that `start` needs to go on as if nothing had been; after `gather_ada`."""
        return {"parts": self.parts.state_dict(), "stream": self.stream.state_dict(), "progress": asdict(self.progress)}

    def iterate(self) -> None:
        """All phases on one batch of real samples."""
        o, p = self.options, self.progress
        batch = self.prepared(next(self.stream))
        for number, phase in enumerate(self.parts.phases):
            if p.iteration % phase.interval:
                continue
            optimizer = self.parts.optimizers[phase.network]
            with self.clock.measure(phase.name):
                optimizer.zero_grad(set_to_none=True)
                with self._debugged(phase):
                    self.accumulate(phase, number, batch)
                bad = distributed.average_gradients(self.parts.networks[phase.network].parameters())
                self._note(phase, bad)
                optimizer.step()
        self.parts.update_average(p.cur_nimg)
        p.cur_nimg += o.batch_size
        p.iteration += 1
        if o.augment is not None and o.augment.target is not None and p.iteration % ADA_INTERVAL == 0:
            self._adapt()

    def accumulate(self, phase: Phase, number: int, batch: Mapping[str, Tensor]) -> None:
        """Add the gradients of the mean loss over this process's share of the batch, round by round."""
        o = self.options
        gain = phase.gain * distributed.world_size() * o.batch_gpu / o.batch_size
        for real, z, pose in self.rounds(batch, number):
            self._report(self.loss.accumulate_gradients(phase.name, real, z, pose, gain, self.progress.cur_nimg))

    def prepared(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As the loss wants it, on the device."""
        moved = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
        image, mask = (
            moved["image"].float() / 127.5 - 1,
            label_map_from_dataset(moved["mask"], self.options.data.data_type),
        )
        return {**moved, "image": image, "mask": mask}

    def rounds(self, batch: Mapping[str, Tensor], phase: int) -> Iterator[tuple[dict[str, Tensor], Tensor, Tensor]]:
        """Real samples, z and random poses of each round.

        Rounds are numbered over all processes, each takes its share of samples from all over the batch, and everything
        drawn in it follows from (seed, images seen, phase, its number): the same rounds however many processes
        share them, and the same after a stop.
        """
        o, world = self.options, distributed.world_size()
        rounds = o.batch_size // (world * o.batch_gpu)
        for own in range(rounds):
            entropy = (o.random_seed, self.progress.cur_nimg, phase, self.rank + world * own)
            torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1))
            z = torch.randn(o.batch_gpu, self.parts.networks["G"].z_dim)
            poses = self.poses[torch.randint(len(self.poses), (o.batch_gpu,))]
            yield {name: x[own::rounds] for name, x in batch.items()}, z.to(self.device), poses.to(self.device)

    def _report(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self.stats.report(name, value)
        signs = values.get("Loss/signs/real")
        if signs is not None:
            self.parts.ada += torch.stack([signs.sum(), signs.new_tensor(signs.numel())])

    @contextmanager
    def _debugged(self, phase: Phase) -> Iterator[None]:
        """What torch's anomaly mode found, in one line."""
        try:
            yield
        except RuntimeError as error:
            if not (self.options.debug and "returned nan values" in str(error)):
                raise
            raise TrainingError(f"--debug: {phase.name} at {self.progress.cur_nimg} images: {error}") from error

    def _note(self, phase: Phase, bad: Tensor) -> None:
        self.steps += 1
        self.bad_steps += (bad > 0).to(self.device)
        if self.options.debug and bad > 0:
            at = f"{phase.name} at {self.progress.cur_nimg} images"
            raise TrainingError(f"--debug: {at}: {int(bad)} gradients are not finite")

    def _adapt(self) -> None:
        o, pipe = self.options, self.parts.augment_pipe
        distributed.all_reduce(self.parts.ada)
        total, count = self.parts.ada.tolist()
        mean_sign = total / count if count else float("nan")
        images = o.batch_size * ADA_INTERVAL
        pipe.p.fill_(adapt_p(pipe.p.item(), mean_sign, o.augment.target, images, o.augment.kimg))
        self.parts.ada.zero_()

    def augment_p(self) -> float:
        return 0.0 if self.parts.augment_pipe is None else self.parts.augment_pipe.p.item()

    def average(self) -> TriPlane:
        """G_ema as it is to be shown and saved: rendering as the schedule says by now."""
        size = self.options.loss.rendering_resolution(self.progress.cur_nimg)
        for module in (self.parts.average, self.parts.networks["G"]):
            module.neural_rendering_resolution = size
        return self.parts.average
