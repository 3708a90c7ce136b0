"""Train a model: posed pictures and label maps in, a run's folder with weights, pictures and statistics out."""

from __future__ import annotations

import importlib.util
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from click.core import ParameterSource
from tqdm import tqdm

from dnnlib.cli import Command, InputError, user_errors
from dnnlib.util import check_outdir
from metrics.names import parse_metrics
from metrics.snapshots import evaluate_run, plain_data, tool_options
from metrics.tools import check_metrics, load_tools
from torch_utils.devices import choose_device
from torch_utils.distributed import ProcessError, by_torchrun, check_processes, launch
from torch_utils.safe_pickle import WeightsError
from training.data.archive import DataError
from training.data.dataset import DATA_TYPES, PosedImageDataset
from training.interruption import Interrupted
from training.iteration import TrainingError
from training.networks.configs import RENDERING
from training.options import TrainingOptions
from training.perceptual import load_lpips
from training.resolve import AS_GIVEN, examine_data, idle, open_data, resolve
from training.run_dir import latest_run, read_options
from training.state import StateError
from training.training_loop import train
from training.weights.snapshot import read_weights

MAX_SEED = 2**31 - 1
NO_EFFECT = (
    "c_noise",
    "gpc_reg_prob",
    "gpc_reg_fade_kimg",
    "sr_first_cutoff",
    "sr_first_stopband",
    "style_mixing_prob",
)
REQUIRED = ("outdir", "cfg", "data", "mask_data", "gpus", "batch", "gamma")


class Number(click.FloatRange):
    """A finite number in a range."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class Place(click.Path):
    """A path that is not empty, which would be the folder that one is in."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("it is empty.", param, ctx)
        return super().convert(value, param, ctx)


class GridSize(click.ParamType):
    """Pictures across and down, like 8x4."""

    name = "WxH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        numbers = value.split("x")
        if len(numbers) != 2 or not all(n.isdecimal() and 1 <= int(n) <= 64 for n in numbers):
            self.fail(f"{value}: expected pictures across and down, like 8x4, each 1 to 64", param, ctx)
        return int(numbers[0]), int(numbers[1])


def option(name: str, kind: Any, default: Any = None, text: str = "", **extra: Any) -> Callable:
    """An option whose default is shown."""
    return click.option(f"--{name}", type=kind, default=default, help=text, show_default=default is not None, **extra)


NOT_NEGATIVE, POSITIVE, SHARE = Number(min=0), Number(min=0, min_open=True), Number(0, 1)
PATH, PLACE = Place(path_type=Path), Place()
OPTIONS = (
    # what is trained on what
    option("outdir", PATH, None, "Where runs are saved; this one gets a numbered folder there."),
    option("cfg", click.Choice(list(RENDERING)), None, "Cameras and rendering by kind of object."),
    option("data", PLACE, None, "Images and poses, zip or folder."),
    option("mask_data", PLACE, None, "Label maps of the same names, zip or folder."),
    option("data_type", click.Choice(DATA_TYPES), "seg", "Label maps of classes, or drawings of edges."),
    option("semantic_channels", click.IntRange(2, 32), 19, "Number of classes, background included."),
    option("data_resolution", click.IntRange(0), 0, "Size that the images must have; 0 takes any."),
    option("mirror", bool, False, "Train on mirrored copies too; their poses are mirrored with them."),
    option("gpus", click.IntRange(1), None, "Processes, each on its own GPU, or all on the CPU."),
    option("batch", click.IntRange(1), None, "Samples of an iteration, all processes together."),
    option("batch-gpu", click.IntRange(1), None, "Samples at once on one GPU.  [default: batch / gpus]"),
    option("kimg", Number(0, 1e9, min_open=True), 25000, "Thousands of images to train on."),
    # generator
    option("cond", bool, True, "Discriminators judge with the pose in mind."),
    option("gen_pose_cond", bool, False, "The generator's mapping takes the pose too."),
    option("render_mask", bool, False, "Render label maps with the images."),
    option("use_bg", bool, False, "A separate model of what is behind the object."),
    option("geometry_layer", click.IntRange(1), 7, "How many ws the label map gives; z gives the others."),
    option("cbase", click.IntRange(1, 2**17), 32768, "Width at resolution r is this / r ..."),
    option("cmax", click.IntRange(1, 2**17), 512, "... and at most this."),
    option("encoder_width", Number(1 / 64, 2), 1.0, "Of the label map's encoder, relative to the published one."),
    option("sr_width", Number(1 / 64, 2), 1.0, "Of super-resolution, likewise."),
    option("plane_resolution", click.IntRange(16, 512), 256, "Pixels of the three planes that hold a scene."),
    option("depth_resolution", click.IntRange(4, 512), None,
           "Coarse samples of a ray, and as many fine ones.  [default: by cfg]"),
    option("map-depth", click.IntRange(1, 64), 2, "Layers of the generator's mapping network."),
    option("decoder_lr_mul", POSITIVE, 1.0, "Learning rate of the decoder, relative to the rest."),
    option("c-scale", NOT_NEGATIVE, 1.0, "Factor of the pose that the mapping takes."),
    option("sr-module", str, None, "Super-resolution of colors by class name.  [default: by resolution]"),
    option("sr_noise_mode", click.Choice(["none", "random"]), "none", "Noise in super-resolution."),
    option("neural_rendering_resolution_initial", click.IntRange(4, 512), 64, "Pixels of the rendered image ..."),
    option("neural_rendering_resolution_final", click.IntRange(4, 512), None, "... and in the end, if it shall grow."),
    option("neural_rendering_resolution_fade_kimg", NOT_NEGATIVE, 1000.0, "Thousands of images over which it does."),
    option("g_num_fp16_res", click.IntRange(0), 0, "Highest resolutions in float16 (CUDA): generator ..."),
    option("sr_num_fp16_res", click.IntRange(0), 4, "... super-resolution (any above 0: all) ..."),
    option("d_num_fp16_res", click.IntRange(0), 4, "... and discriminators."),
    # discriminators and losses
    option("dis_mask", bool, False, "A second discriminator, which judges label maps with images."),
    option("gamma", NOT_NEGATIVE, None, "Weight of R1."),
    option("mbstd-group", click.IntRange(1), 4, "Samples over which discriminators compare."),
    option("freezed", click.IntRange(0), 0, "First layers of the discriminators that stay as they are."),
    option("disc_c_noise", NOT_NEGATIVE, 0.0, "Noise on the pose that discriminators get, in standard deviations."),
    option("random_c_prob", SHARE, 0.0, "Share of steps that render from the pose of another sample."),
    option("lambda_l1", NOT_NEGATIVE, 0.0, "Weight of reconstruction: smooth L1 ..."),
    option("lambda_lpips", NOT_NEGATIVE, 10.0, "... and LPIPS, which needs the package lpips ..."),
    option("lpips_weights", PLACE, None, "... and VGG16's file, if it cannot be fetched."),
    option("only_raw_recons", bool, False, "Reconstruct the rendered image only, not the enlarged one too."),
    option("lambda_d_semantic", NOT_NEGATIVE, 1.0, "Weight of the second discriminator in the generator's loss."),
    option("lambda_cross_view", NOT_NEGATIVE, 0.0, "Weight of consistency between views."),
    option("seg_weight", click.Choice(["0", "1", "2", "auto"]), "0",
           "Weights of classes: none, the published table of 19, its squares, or by the data's own shares."),
    option("edge_weight", NOT_NEGATIVE, 2.0, "Weight of the reconstruction of edges."),
    option("silhouette_loss", bool, False, "Background model: the object covers what is not class 0."),
    option("density_reg", NOT_NEGATIVE, 0.25, "Weight of density regularization ..."),
    option("density_reg_every", click.IntRange(1), 4, "... how often, in iterations ..."),
    option("density_reg_p_dist", NOT_NEGATIVE, 0.004, "... over which distance, in world units ..."),
    option("reg_type", click.Choice(["l1", "monotonic-detach", "monotonic-fixed"]), "l1", "... and of which form."),
    option("blur_fade_kimg", NOT_NEGATIVE, 200.0,
           "Thousands of images (at batch 32) until discriminators see sharp images."),
    option("resume_blur", bool, False, "Blur after --resume too."),
    option("glr", POSITIVE, 0.0025, "Learning rate of the generator ..."),
    option("dlr", POSITIVE, 0.002, "... and of the discriminators."),
    option("aug", click.Choice(["noaug", "ada", "fixed"]), "noaug", "Augment what discriminators see ..."),
    option("p", SHARE, 0.2, "... how often (fixed) ..."),
    option("target", SHARE, 0.6, "... or as often as keeps D this sure of real images (ada)."),
    # where from, what to write
    option("resume", str, None, "Start from these weights: ours, pix2pix3D's or EG3D's; file or URL."),
    option("continue", PATH, None, "Go on exactly where the run in this folder stopped; takes no other options but "
           "--kimg, --tick, --snap, --keep_states, --grid, --gpus, --batch-gpu, --workers, --wandb_log, --nobench, "
           "--debug, --device.", metavar="RUN_DIR"),
    option("desc", str, None, "Added to the name of the run's folder."),
    option("tick", POSITIVE, 4.0, "Thousands of images between two status lines."),
    option("snap", click.IntRange(1), 10, "Ticks between two savings of pictures, weights and state."),
    option("keep_states", click.IntRange(1), 2, "How many states to go on from are kept."),
    option("grid", GridSize(), "8x4", "Pictures across and down in the grids.", metavar="WxH"),
    option("metrics", str, "fid50k_full", "Comma-separated metrics, or none ..."),
    option("no_eval", bool, True, "... not computed; False: at every snapshot, of the training data."),
    option("wandb_log", bool, False, "Log to Weights & Biases too (pip install -e .[wandb])."),
    # machine
    option("seed", click.IntRange(0, MAX_SEED), 0, "Of weights, order of the data and everything drawn."),
    option("workers", click.IntRange(0, 64), 3, "Processes that read data, for each GPU; 0: none."),
    option("device", click.Choice(["cuda", "mps", "cpu"]), None, "[default: the first that is there]"),
    option("nobench", bool, False, "Do not let cuDNN choose algorithms by trying them."),
    option("debug", bool, False, "Stop where the first number that is not finite comes up (slow)."),
    click.option("-n", "--dry-run", is_flag=True, help="Check everything, print what would be trained, and stop."),
    *(click.option(f"--{name}", type=str, hidden=True) for name in NO_EFFECT),
)  # fmt: skip
CHANGEABLE = {  # options that --continue takes beside it, and their names in TrainingOptions
    "batch_gpu": "batch_gpu",
    **{option: field for field, option in AS_GIVEN.items() if option in (
        "kimg", "tick", "snap", "keep_states", "grid", "gpus", "workers", "wandb_log", "nobench", "debug"
    )},
}  # fmt: skip


def training_options(command: Callable) -> Callable:
    for decorate in reversed(OPTIONS):
        command = decorate(command)
    return command


@click.command(cls=Command)
@training_options
@click.pass_context
def main(ctx: click.Context, dry_run: bool, device: str | None, **values: Any) -> None:
    """Train a model that turns label maps into 3D objects.

    \b
    Examples:
      python train.py --outdir=runs --cfg=afhq --data=cats.zip --mask_data=cats_label.zip --semantic_channels=6 \\
          --render_mask=True --dis_mask=True --gpus=1 --batch=4 --gamma=5 --lambda_lpips=1
      python train.py --continue runs/00000-afhq-cats-gpus1-batch4-gamma5
    """
    for name in NO_EFFECT:
        if values.pop(name) is not None:
            click.echo(f"--{name}: does nothing in this model; taken so that old command lines run.")
    folder = values.pop("continue")
    given = {name for name in values if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    options = dataset = None
    if by_torchrun() and os.environ["RANK"] != "0":  # these get the options from rank 0
        processes = int(os.environ["WORLD_SIZE"])
    else:
        options, dataset, folder = _what_to_train(folder, values, given)
        processes = options.num_gpus
    if not dry_run:
        device = _check_machine(device, processes, options, new=folder is None)
    if dataset is not None:
        bar = partial(tqdm, desc="Checking the data", unit="file", delay=2, disable=None)
        with _one_line():
            options = examine_data(options, dataset, values, bar)
    if dry_run:
        if options:
            where = folder or values["outdir"] / f"NNNNN-{options.run_name}"
            click.echo(json.dumps(options.to_plain(), indent=2))
            click.echo(f"Dry run: nothing is trained. The run's folder would be {where}")
        return
    try:
        launch(train, options, values["outdir"], folder, evaluate_run, processes=processes, device=device)
    except Interrupted as stop:
        raise SystemExit(stop.exit_code) from None
    except (DataError, StateError, WeightsError, TrainingError, ProcessError) as error:
        raise InputError(str(error)) from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise InputError(f"{where}{error.strerror or error}") from error


@contextmanager
def _one_line() -> Iterator[None]:
    """ValueErrors that say themselves which option is to blame."""
    try:
        yield
    except ValueError as error:
        raise InputError(str(error)) from error


@contextmanager
def _metrics_to_blame() -> Iterator[None]:
    """ValueErrors of the metrics, whose ways on (what follows the last semicolon) are options of calc_metrics.py."""
    try:
        yield
    except ValueError as error:
        said = str(error).removeprefix("--").removeprefix("metrics ")
        raise InputError(f"--metrics: {said.rpartition('; ')[0] or said}; --no_eval=True goes without") from error


def _what_to_train(
    folder: Path | None, values: dict[str, Any], given: set[str]
) -> tuple[TrainingOptions, PosedImageDataset | None, Path | None]:
    """Options; the data set of a new run, whose files are still to be opened, or the folder of one that goes on."""
    if folder is not None:
        return _continued_options(folder, values, given), None, folder
    dataset, options = _new_options(values, given)
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)):  # the same command, once more
        folder = latest_run(values["outdir"], options)
    if folder is not None:
        return read_options(folder), None, folder
    return options, dataset, None


def _new_options(values: dict[str, Any], given: set[str]) -> tuple[PosedImageDataset, TrainingOptions]:
    """Options of a new run, checked as far as the data set's first file goes; says which given ones do nothing.

    Raises:
        InputError: anything that is missing, wrong, or does not go together.
    """
    missing = [f"--{name}" for name in REQUIRED if values[name] is None]
    if missing:
        raise InputError(f"missing {', '.join(missing)}")
    with user_errors("--outdir"):
        check_outdir(values["outdir"])
    with _one_line():
        dataset, data = open_data(values)
        options = resolve(values, data)
    if options.metrics:
        with user_errors("--metrics"):
            parsed = parse_metrics(options.metrics)
    if options.evaluate:
        with _metrics_to_blame():
            check_metrics(parsed, plain_data(options.data), tool_options(options), None)
    for name, why in idle(values).items():
        if name in given:
            click.echo(f"--{name}: does nothing here, {why}")
    return dataset, options


def _continued_options(folder: Path, values: dict[str, Any], given: set[str]) -> TrainingOptions:
    """Options of the run in a folder, with those changed that may be.

    Raises:
        InputError: not a run's folder, or options that make it another run.
    """
    with user_errors("--continue"):
        options = read_options(folder)
    if stray := sorted(given - CHANGEABLE.keys()):
        allowed = ", ".join(f"--{name}" for name in CHANGEABLE)
        raise InputError(f"--{stray[0]}: belongs to the run that goes on; with --continue can be changed: {allowed}")
    with _one_line():
        changed = replace(options, **{CHANGEABLE[name]: values[name] for name in given})
        changed.check_batch()
    with user_errors("--continue"):
        options.data.open()
    return changed


def _check_machine(device: str | None, processes: int, options: TrainingOptions | None, new: bool) -> str:
    """Refuse what this machine has not: devices, packages and files; before anything is made.

    Returns:
        The kind of device.
    """
    with user_errors("--device"):
        kind = choose_device(device).type
    with user_errors("--gpus"):
        check_processes(kind, processes)
    if options is None:
        return kind
    if options.wandb_log and importlib.util.find_spec("wandb") is None:
        raise InputError("--wandb_log: needs wandb (pip install -e .[wandb])")
    with _one_line():
        if options.loss.lambda_lpips > 0:
            load_lpips(options.lpips_weights)
    if options.evaluate:
        with _metrics_to_blame():
            dataset, classes = plain_data(options.data), options.generator.channels
            load_tools(tool_options(options), parse_metrics(options.metrics), dataset, classes, torch.device("cpu"))
    if options.resume_pkl and new:  # a run that goes on has its own
        try:
            read_weights(options.resume_pkl)
        except WeightsError as error:
            raise InputError(f"--resume {error}") from error
    return kind


if __name__ == "__main__":
    main()
