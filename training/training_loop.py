"""The training loop: phases of all networks, EMA, ADA, reports, images, snapshots, metrics, stop signals."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from torch_utils import distributed
from torch_utils.host_memory import keep_freed_memory
from training.data.dataset import PosedImageDataset
from training.data.label_maps import label_map_from_dataset
from training.data.sampler import BatchStream
from training.image_grid import ImageGrid
from training.loss import Loss
from training.networks.augment import adapt_p
from training.options import TRAINED_WITH, TrainingOptions
from training.patch_loss import PatchLoss
from training.perceptual import load_lpips
from training.run_dir import RunLog, open_run
from training.signals import Interrupted, defer_signals
from training.status import DIVERGED_HINT, TickStats, status_line
from training.train_state import TrainingError, TrainState, save_state
from training.weights.snapshot import save_snapshot

# Weights for inference, numbered by thousands of images.
SNAPSHOT = "network-snapshot-{:06d}.pkl"

# Iterations between two updates of the augmentation probability.
ADA_INTERVAL = 4

# Learning rate at the end of the cosine schedule, as a share of its maximum.
LR_END = 0.02


def training_loop(
    device: torch.device,  # of this process
    options: TrainingOptions | None,  # of rank 0; *_kimg in thousands of images, batch_size and batch_gpu in samples
    outdir: Path,  # rank 0 creates the numbered directory of a new run here
    run_dir: Path | None,  # directory of the run to resume, None for a new run
    evaluate_snapshot: Callable | None = None,  # metrics.training_run.evaluate_run, called if options.evaluate
) -> None:
    """Train until options.total_kimg; every process of the run calls this.

    Raises:
        Interrupted: SIGTERM, SIGHUP or Ctrl-C; the state is saved.
        TrainingError: most steps had non-finite gradients, or weights became non-finite.
        StateError: no saved state is readable, it does not fit, or another process trains in the directory.
        DataError, ConfigError: a file is damaged or has a class that the network lacks; a data worker was killed.
    """
    options = distributed.from_rank_0(options)
    configure_backends(options, device)

    # Data; networks, optimizers, G_ema and augmentation; loss and the phases that minimize it.
    dataset = options.data.open(options.generator.semantic_channels)
    poses = torch.from_numpy(np.stack([dataset.get_label(i) for i in range(len(dataset))]))  # K,25
    state = TrainState(options, device, open_stream(dataset, options, device))
    loss = build_loss(state)
    phases = phases_of(options)

    with defer_signals() as signals, state.stream, open_run(options, outdir, run_dir, dataset) as (log, saved):
        # Resume the saved state, or start from given or random weights.
        message = state.start(saved)
        stats = TickStats(state)
        if log:
            print(message, flush=True)
        grid = start_grid(dataset, state, log)

        while state.cur_nimg < options.total_images:
            batch = to_device(next(state.stream), options.data.data_type, device)
            update_learning_rate(state)

            # Main and regularization phases of G and the discriminators, each with an optimizer step.
            for phase in phases:
                if state.iteration % phase.interval == 0 and state.cur_nimg >= phase.start_nimg:
                    with stats.measure(phase.name):
                        run_phase(phase, state, loss, batch, poses, stats)

            # Moving averages of G and E, progress, and the augmentation probability (ADA).
            update_ema(state)
            state.cur_nimg += options.batch_size
            state.iteration += 1
            update_augment_p(state)

            # End of a tick: report; every snapshot_ticks ticks save images, weights and state, and compute metrics.
            done = state.cur_nimg >= options.total_images
            saving = False
            if done or state.tick == 0 or state.cur_nimg >= state.tick_start_nimg + options.kimg_per_tick * 1000:
                report_tick(state, stats, log, done)
                saving = done or state.tick % options.snapshot_ticks == 0
                state.tick += 1
                state.tick_start_nimg = state.cur_nimg
                if saving:
                    save_images(state, grid, log)
                    save_snapshot_and_state(state, log)
                if saving and options.evaluate:
                    report_metrics(state, log, evaluate_snapshot)
                stats.begin_tick(state.cur_nimg)

            # Stop signals, received by any process.
            if distributed.any_process(bool(signals)) and not done:
                stop(state, stats, log, signals, saved=saving)

        if log:
            print(f"Done: {state.cur_nimg / 1000:g} kimg. The weights are in {log.run_dir}.", flush=True)


# --------------------------------------------------------------------------- setup


def configure_backends(options: TrainingOptions, device: torch.device) -> None:
    """Configure PyTorch: no TF32 and no float16 accumulation, as published; cuDNN benchmarks unless options.nobench."""
    # Sizes are the same in every iteration, so cuDNN's search for the fastest algorithm pays off.
    torch.backends.cudnn.benchmark = not options.nobench

    # Reduced precision where layers ask for float16, and nowhere else.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False

    # Slow: checks the result of every backward function for NaN.
    torch.autograd.set_detect_anomaly(options.debug)

    # Otherwise the memory of large feature maps is returned to the system and cleared again for every layer.
    if device.type == "cpu":
        keep_freed_memory()


def open_stream(dataset: PosedImageDataset, options: TrainingOptions, device: torch.device) -> BatchStream:
    """Open an endless stream of this process's share of each batch."""
    world_size = distributed.world_size()
    share = options.batch_size // world_size
    order = {"rank": distributed.rank(), "num_replicas": world_size, "seed": options.random_seed}
    samples = dataset if options.patches is None else options.data.open_pairs(dataset, options.random_seed)
    return BatchStream(samples, share, options.workers, device, **order)


def build_loss(state: TrainState) -> Loss | PatchLoss:
    """Build the loss of the state's networks; LPIPS is loaded only if it has a weight."""
    options = state.options
    lpips = load_lpips(options.lpips_weights, state.device) if options.loss.lambda_lpips > 0 else None

    # Patch training.
    if options.patches is not None:
        networks = {name: state.networks.get(name) for name in ("G", "E", "D_patch")}
        extra = {"perceptual": lpips, "class_counts": options.class_counts}
        return PatchLoss(options.loss, options.patches, options.style, **networks, **extra)

    # Published losses.
    networks = {name: state.networks.get(name) for name in ("G", "D", "D_semantic")}
    data = {"augment_pipe": state.augment_pipe, "class_counts": options.class_counts}
    return Loss(options.loss, **networks, **data, perceptual=lpips)


def start_grid(dataset: PosedImageDataset, state: TrainState, log: RunLog | None) -> ImageGrid | None:
    """On rank 0, which has the log, choose the samples of the image grids, and write them if the run is new."""
    if log is None:
        return None
    options = state.options
    grid = ImageGrid(dataset, options.grid, options.cfg, state.device, options.batch_gpu)
    if state.iteration == 0:
        log.write_images(grid.real_images(), state.cur_nimg)
    return grid


def to_device(batch: Mapping[str, Tensor], data_type: str, device: torch.device) -> dict[str, Tensor]:
    """Move a batch of the data set to the device and normalize it.

    Args:
        batch: image N,3,H,W and mask N,1,H,W, both uint8 as stored, and the same of a target view; pose N,25; other
            entries are only moved.
        data_type: "seg" or "edge".
    Returns:
        The same entries with images in [-1, 1] and masks as the networks take them: class ids, or edges in [-1, 1].
    """
    # Memory is pinned for CUDA, so the copy does not wait for the device.
    batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}

    # The data set stores 8 bits per pixel.
    for prefix in ("", "target_") if "target_image" in batch else ("",):
        batch[f"{prefix}image"] = batch[f"{prefix}image"].float() / 127.5 - 1
        batch[f"{prefix}mask"] = label_map_from_dataset(batch[f"{prefix}mask"], data_type)
    return batch


# --------------------------------------------------------------------------- iteration


@dataclass(frozen=True)
class Phase:
    """One optimizer step of an iteration.

    Args:
        name: phase name of the loss, such as Gmain.
        network: name of the network that is trained; see TRAINED_WITH for others.
        index: position among all phases; random numbers depend on it.
        interval: iterations from one step to the next; also the factor of the loss, as in lazy regularization a phase
            that runs every k-th iteration counts k times (Karras et al. 2020).
        start_nimg: images shown before the phase runs.
    """

    name: str
    network: str
    index: int
    interval: int = 1
    start_nimg: float = 0


def phases_of(options: TrainingOptions) -> list[Phase]:
    """Return the phases of an iteration in order: for each network the main loss, then its regularization.

    Without an interval both losses share one phase; without density regularization or R1 there is no regularization
    phase.
    """
    phases = []
    for network in options.networks:
        if network in TRAINED_WITH:
            continue

        # Main loss, in every iteration.
        start_nimg = options.patches.patch_d_start_kimg * 1000 if network == "D_patch" else 0
        interval = options.intervals[network]
        phases.append(Phase(network + ("main" if interval else "both"), network, len(phases), 1, start_nimg))

        # Density regularization of G, R1 of D and D_semantic.
        regularized = network == "G" or options.loss.r1_gamma > 0
        if interval and regularized:
            phases.append(Phase(network + "reg", network, len(phases), interval, start_nimg))
    return phases


def update_learning_rate(state: TrainState) -> None:
    """Set the learning rates of G and E for the next iteration: warm-up, then constant or a half cosine."""
    options = state.options
    if options.lr_schedule == "constant" and options.warmup_kimg == 0:
        return

    # Linear warm-up; its first iteration makes a step.
    factor = 1.0
    if options.warmup_kimg > 0:
        factor = min((state.cur_nimg + options.batch_size) / (options.warmup_kimg * 1000), 1)

    # Over the whole run, whose length --continue may change.
    if options.lr_schedule == "cosine":
        progress = min(state.cur_nimg / options.total_images, 1)
        factor *= LR_END + (1 - LR_END) * (1 + math.cos(math.pi * progress)) / 2
    state.scale_learning_rate(factor)


def run_phase(
    phase: Phase, state: TrainState, loss: Loss, batch: Mapping[str, Tensor], poses: Tensor, stats: TickStats
) -> None:
    """Accumulate gradients over the microbatches, average them over the processes, and make an optimizer step.

    Args:
        batch: this process's share of the real samples, N first, see `to_device`.
        poses: all poses of the data set, K,25.
    """
    # Gradients None instead of 0: parameters that a phase does not use are not updated by Adam.
    options = state.options
    trained = [name for name in state.networks if phase.network in (name, TRAINED_WITH.get(name))]
    for name in trained:
        state.optimizers[name].zero_grad(set_to_none=True)

    # Gradients of the mean over this process's share; average_gradients divides by the number of processes below.
    gain = phase.interval * distributed.world_size() * options.batch_gpu / options.batch_size
    for real, z, pose in microbatches(phase, state, batch, poses):
        values = loss.accumulate_gradients(phase.name, real, z, pose, gain, state.cur_nimg)
        stats.report(values)

        # ADA follows the signs of D's logits for real images.
        signs = values.get("Loss/signs/real")
        if signs is not None:
            state.ada_signs += torch.stack([signs.sum(), signs.new_tensor(signs.numel())])

    # All-reduce. NaN becomes 0 and infinity 1e5, as published; from here on all processes have the same gradients.
    parameters = [parameter for name in trained for parameter in state.networks[name].parameters()]
    bad_gradients = distributed.average_gradients(parameters)
    stats.count_step(bad_gradients)
    if options.debug and bad_gradients > 0:
        raise TrainingError(f"debug: {phase.name} at {state.cur_nimg} images: {bad_gradients} non-finite gradients")

    # One optimizer serves both phases of a network, see build_optimizer.
    if options.clip_grad is not None and phase.network == "G":
        torch.nn.utils.clip_grad_norm_(parameters, options.clip_grad)
    for name in trained:
        state.optimizers[name].step()


def microbatches(
    phase: Phase, state: TrainState, batch: Mapping[str, Tensor], poses: Tensor
) -> Iterator[tuple[dict[str, Tensor], Tensor, Tensor]]:
    """Split a batch into microbatches of `batch_gpu` samples, and sample latent codes and poses for each.

    Seeds follow from (random_seed, images shown, phase, microbatch number over all processes), so that random numbers
    depend neither on the number of processes nor on whether the run was resumed.

    Args:
        batch: this process's share of the batch, N first.
        poses: all poses of the data set, K,25.
    Yields:
        Real samples, n first; z, n,z_dim; random poses, n,25, where n is `batch_gpu`.
    """
    # Microbatches of this process; they are numbered over all processes.
    options = state.options
    world_size = distributed.world_size()
    count = options.batch_size // (world_size * options.batch_gpu)
    for i in range(count):
        number = distributed.rank() + world_size * i

        # SeedSequence mixes the numbers; PyTorch takes 63 bits of it.
        entropy = (options.random_seed, state.cur_nimg, phase.index, number)
        seed = np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1
        torch.manual_seed(int(seed))

        # On the CPU, where random numbers do not depend on the kind of device.
        z = torch.randn(options.batch_gpu, state.networks["G"].z_dim)
        random_poses = poses[torch.randint(len(poses), (options.batch_gpu,))]

        # Every count-th sample, so that microbatches are the same for any number of processes.
        real = {name: tensor[i::count] for name, tensor in batch.items()}
        yield real, z.to(state.device), random_poses.to(state.device)


@torch.no_grad()
def update_ema(state: TrainState) -> None:
    """Move G_ema and E_ema towards G and E with a half-life of `ema_kimg`; early in the run it is shorter."""
    # Half-life in images, limited to a multiple of the images shown so far.
    options = state.options
    half_life = options.ema_kimg * 1000
    if options.ema_rampup is not None:
        half_life = min(half_life, state.cur_nimg * options.ema_rampup)
    decay = 0.5 ** (options.batch_size / max(half_life, 1e-8))

    # Parameters are averaged; buffers, such as w_avg, are copied.
    for average, name in ((state.G_ema, "G"), (state.E_ema, "E")):
        if average is None:
            continue
        network = state.networks[name]
        torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
        if buffers := list(network.buffers()):
            torch._foreach_copy_(list(average.buffers()), buffers)


def update_augment_p(state: TrainState) -> None:
    """Every ADA_INTERVAL iterations, adapt the augmentation probability to the signs of D's logits for real images.

    ADA, Karras et al. 2020. With a fixed probability, or without augmentation, do nothing.
    """
    augment = state.options.augment
    if augment is None or augment.target is None or state.iteration % ADA_INTERVAL:
        return

    # Mean sign over all processes since the last update.
    distributed.all_reduce(state.ada_signs)
    total, count = state.ada_signs.tolist()  # waits for the device
    mean_sign = total / count if count else float("nan")
    state.ada_signs.zero_()

    # Raise p if D recognizes real images more often than the target, else lower it.
    images = state.options.batch_size * ADA_INTERVAL
    p = adapt_p(state.augment_p, mean_sign, augment.target, images, augment.kimg)
    state.augment_pipe.p.fill_(p)


# --------------------------------------------------------------------------- reports, snapshots, stop


def report_tick(state: TrainState, stats: TickStats, log: RunLog | None, done: bool = False) -> None:
    """Print the status line and write the tick's statistics; every process calls this, rank 0 has the log.

    Raises:
        TrainingError: most of the last steps had non-finite gradients.
    """
    # Combined over all processes.
    values, steps, bad_steps = stats.finish_tick(state)

    # Console, which is copied to log.txt, and statistics.
    if log:
        kimg_left = max(state.options.total_kimg - state.cur_nimg / 1000, 0)
        print(status_line(values, kimg_left), flush=True)
        if bad_steps:
            print(f"{bad_steps} of {steps} steps had non-finite gradients, which were set to 0", flush=True)
        log.write(values, state.cur_nimg)

    # All processes count the same steps, so all of them raise.
    stats.check_divergence(steps, bad_steps, done)


def current_G_ema(state: TrainState) -> torch.nn.Module:
    """Return G_ema, with G and G_ema set to the rendering resolution that the schedule has reached."""
    size = state.options.loss.rendering_resolution(state.cur_nimg)
    for G in (state.G_ema, state.networks["G"]):
        G.neural_rendering_resolution = size
    return state.G_ema


def save_images(state: TrainState, grid: ImageGrid | None, log: RunLog | None) -> None:
    """Render and write the image grids, on rank 0."""
    if grid and log:
        log.write_images(grid.render(current_G_ema(state), state.cur_nimg // 1000, state.E_ema), state.cur_nimg)


def save_snapshot_and_state(state: TrainState, log: RunLog | None) -> None:
    """Write the weights for inference and the state to resume from; every process calls this, rank 0 writes.

    Raises:
        TrainingError: a weight is not finite; nothing is written.
    """
    state.gather_ada_signs()
    if log is None:
        return

    # Training cannot recover from non-finite weights; an older state may still be good.
    if name := state.find_nonfinite():
        raise TrainingError(f"weights are not finite ({name}); the last saved state is kept. {DIVERGED_HINT}")

    # Weights for publication: without local paths in their metadata.
    current_G_ema(state)
    public = state.options.without_local_paths()
    extra = {"cfg": public.cfg, "kimg": state.cur_nimg / 1000, "training_options": public.to_plain()}
    path = log.run_dir / SNAPSHOT.format(state.cur_nimg // 1000)
    save_snapshot(path, state.public_modules, public.data.kwargs(), extra)

    # Everything that an exact resume needs.
    save_state(log.run_dir, state.cur_nimg, state.state_dict(), state.options.keep_states)


def report_metrics(state: TrainState, log: RunLog | None, evaluate_snapshot: Callable) -> None:
    """Compute metrics of the snapshot that was just saved, with all processes; print them."""
    snapshot = SNAPSHOT.format(state.cur_nimg // 1000)
    run_dir = log.run_dir if log else None
    metrics = evaluate_snapshot(current_G_ema(state), state.options, run_dir, snapshot, state.device)
    if log and metrics:
        print("  ".join(f"{name} {value:.4g}" for name, value in metrics.items()), flush=True)


def stop(
    state: TrainState, stats: TickStats, log: RunLog | None, signals: list[signal.Signals], saved: bool
) -> NoReturn:
    """Save and report the interrupted tick, and raise Interrupted; every process calls this.

    Args:
        signals: received by this process.
        saved: whether this iteration has saved already.
    """
    if not saved:
        save_snapshot_and_state(state, log)

    # Right after the end of a tick there is nothing to report.
    if state.cur_nimg > stats.start_nimg:
        report_tick(state, stats, log)

    # If only another process received a signal, it is not known which.
    received = signals[0] if signals else signal.SIGTERM
    if log:
        print(f"Stopped by {received.name} at {state.cur_nimg} images; the state is saved in {log.run_dir}", flush=True)

    # Rank 0 must have saved before the first process ends, as that ends all of them.
    run_dir = distributed.from_rank_0(log.run_dir if log else None)
    distributed.barrier()
    raise Interrupted(received, run_dir)
