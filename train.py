"""Train a model: images with poses and label maps in, a run directory with weights, images and statistics out."""

from __future__ import annotations

import dnnlib.startup  # noqa: F401 first

import importlib.util
import json
import math
import os
import shlex
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from tqdm import tqdm

from dnnlib.choices import DATA_TYPES
from dnnlib.cli import Command, InputError, echo, option_group, user_errors
from dnnlib.errors import ConfigError, show_fields
from dnnlib.util import check_outdir
from metrics.registry import parse_metrics
from metrics.training_run import check_run_metrics, evaluate_run
from torch_utils.devices import choose_device
from torch_utils.launch import ProcessError, check_processes, launch, started_by_torchrun
from torch_utils.safe_pickle import WeightsError
from training.data.archive import DataError
from training.data.dataset import PosedImageDataset
from training.data.mirror import describe_pairs
from training.networks.configs import RENDERING
from training.options import TrainingOptions
from training.perceptual import load_lpips
from training.resolve import RENAMED, examine_data, open_data, resolve, without_effect
from training.run_dir import DATA_PATHS, check_data, latest_run, read_options
from training.signals import Interrupted
from training.train_state import StateError, TrainingError
from training.training_loop import training_loop
from training.volumetric_rendering.planes import PLANE_COORDINATES
from training.weights.snapshot import read_weights

# Seeds of NumPy's generators have at most 32 bits.
MAX_SEED = 2**31 - 1

# Of a new run. Not required by click, as --continue takes them from the run.
REQUIRED = ("outdir", "cfg", "data", "mask_data", "gpus", "batch", "gamma")

# Options of the published command that have no effect in this model; accepted, so that old command lines run.
NO_EFFECT = (
    "c_noise", "gpc_reg_prob", "gpc_reg_fade_kimg", "sr_first_cutoff", "sr_first_stopband", "style_mixing_prob"
)  # fmt: skip

# Options that may be combined with --continue, and their fields of TrainingOptions. Except for the length of the run,
# they do not change its results.
CHANGEABLE = {
    "kimg": "total_kimg", "tick": "kimg_per_tick", "snap": "snapshot_ticks", "keep_states": "keep_states",
    "grid": "grid", "gpus": "num_gpus", "batch_gpu": "batch_gpu", "workers": "workers", "wandb_log": "wandb_log",
    "nobench": "nobench", "debug": "debug",
}  # fmt: skip

# --------------------------------------------------------------------------- options


class Number(click.FloatRange):
    """Finite number in a range."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse the number; nan and inf, which a range does not exclude, are errors."""
        # nan is neither below nor above any bound.
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class NonEmptyPath(click.Path):
    """Path other than "", which would mean the current directory."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse the path."""
        if value == "":
            self.fail("the path is empty.", param, ctx)
        return super().convert(value, param, ctx)


class GridSize(click.ParamType):
    """Number of images across and down, like 8x4."""

    name = "WxH"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Parse "WxH"."""
        # At most 64 each, as a grid is a single image in memory.
        numbers = value.split("x")
        if len(numbers) != 2 or not all(number.isdecimal() and 1 <= int(number) <= 64 for number in numbers):
            self.fail(f"{value}: expected the number of images across and down, like 8x4, each 1 to 64", param, ctx)
        return int(numbers[0]), int(numbers[1])


def option(name: str, kind: Any, default: Any = None, text: str = "", **extra: Any) -> Callable:
    """Declare an option that shows in --help its default, or that it is required."""
    # Defaults that depend on other options are described in the text.
    if name in REQUIRED:
        text += "  [required]"
    return click.option(f"--{name}", type=kind, default=default, help=text, show_default=default is not None, **extra)


# Types of options. Ranges are checked here, conditions across options by `training.resolve`.
COUNT = click.IntRange(1)
COUNT_OR_0 = click.IntRange(0)
NOT_NEGATIVE = Number(min=0)
POSITIVE = Number(min=0, min_open=True)
PROBABILITY = Number(0, 1)
PATH = NonEmptyPath(path_type=Path)
TEXT_PATH = NonEmptyPath()


# Defaults are those of the published command, except that --wandb_log is on there. Their names too, dashes included.
@click.command(cls=Command, fields={**RENAMED, "run_dir": "continue_dir"})
@option_group(
    "General",
    option("outdir", PATH, None, "Directory for runs; each run gets a numbered subdirectory."),
    option("cfg", click.Choice(list(RENDERING)), None, "Kind of object, which sets cameras and rendering."),
    option("gpus", COUNT, None, "Number of processes, each on its own GPU, or all on the CPU."),
    option("batch", COUNT, None, "Samples per iteration, of all processes together."),
    option("batch-gpu", COUNT, None, "Samples per GPU at a time; gradients accumulate.  [default: batch / gpus]"),
    option("kimg", Number(0, 1e9, min_open=True), 25000, "Length of the run, thousands of images."),
    option("seed", click.IntRange(0, MAX_SEED), 0, "Random seed of weights, order of the data and all sampling."),
    option("desc", str, None, "Text to append to the name of the run directory."),
    click.option("-n", "--dry-run", is_flag=True, help="Check all options and files, print the options, and stop."),
)  # fmt: skip
@option_group(
    "Data",
    option("data", TEXT_PATH, None, "Images and poses, zip or directory."),
    option("mask_data", TEXT_PATH, None, "Label maps with the file names of the images, zip or directory."),
    option("data_type", click.Choice(DATA_TYPES), "seg", "Label maps of classes (seg) or edge drawings (edge)."),
    option("semantic_channels", click.IntRange(2, 32), 19, "Number of classes, background included."),
    option("data_resolution", COUNT_OR_0, 0, "Required image size, pixels; 0 accepts any."),
    option("mirror", bool, False, "Add mirrored copies of images and label maps."),
    option("mirror_pose", bool, False, "Mirror the poses of mirrored copies too; published training does not."),
    option("mirror_classes", str, "auto", "Left and right classes, swapped in mirrored label maps: pairs like "
           "4-5,6-7; celebamask; none; or auto, which is celebamask for faces of 19 classes.", metavar="PAIRS"),
    option("depth_data", TEXT_PATH, None, "Depth maps with the file names of the images, zip or directory."),
)  # fmt: skip
@option_group(
    # Besides the published sizes, --encoder_width and --sr_width make small models possible.
    "Generator",
    option("render_mask", bool, False, "Render label maps together with images."),
    option("gen_pose_cond", bool, False, "Condition the mapping network on the pose."),
    option("use_bg", bool, False, "Model the background separately."),
    option("geometry_layer", COUNT, 7, "Number of ws from the label map; the others come from z."),
    option("map-depth", click.IntRange(1, 64), 2, "Layers of the mapping network."),
    option("cbase", click.IntRange(1, 2**17), 32768, "Channels of a layer times its resolution."),
    option("cmax", click.IntRange(1, 2**17), 512, "Maximum number of channels of a layer."),
    option("encoder_width", Number(1 / 64, 2), 1.0, "Width of the label map encoder relative to the published one."),
    option("sr_width", Number(1 / 64, 2), 1.0, "Width of super-resolution relative to the published one."),
    option("encoder_resolution", click.IntRange(8, 512), None, "Size to which label maps are averaged for their "
           "encoder, pixels.  [default: the images' size]"),
    option("z_dim", click.IntRange(1, 512), 512, "Size of the latent z."),
    option("map_lr_mul", POSITIVE, 0.01, "Learning rate of the mapping network relative to the other layers."),
    option("style_bias", bool, False, "Let the decoder see the style directly, as a bias of the tri-planes."),
    option("decoder_lr_mul", POSITIVE, 1.0, "Learning rate of the decoder relative to the other layers."),
    option("c-scale", NOT_NEGATIVE, 1.0, "Factor of the pose in the mapping network."),
    option("sr-module", str, None, "Class of the super-resolution of colors.  [default: by resolution]"),
    option("sr_noise_mode", click.Choice(["none", "random"]), "none", "Noise in super-resolution."),
    option("g_num_fp16_res", COUNT_OR_0, 0, "Number of highest resolutions of the generator in float16 (CUDA)."),
    option("sr_num_fp16_res", COUNT_OR_0, 4, "Super-resolution in float16 (CUDA) if above 0."),
)  # fmt: skip
@option_group(
    "Rendering",
    option("plane_resolution", click.IntRange(16, 512), 256, "Size of the tri-planes, pixels."),
    option("plane_axes", click.Choice(list(PLANE_COORDINATES)), "published", "Axes of the tri-planes: as published "
           "(EG3D's, without a plane of y and z) or corrected."),
    option("box_warp", POSITIVE, None, "Side of the cube that the tri-planes cover, world units.  [default: by cfg]"),
    option("ray_start", NOT_NEGATIVE, None, "Start of the rays, world units from the camera.  [default: by cfg]"),
    option("ray_end", POSITIVE, None, "End of the rays, world units from the camera.  [default: by cfg]"),
    option("depth_resolution", click.IntRange(4, 512), None, "Coarse samples per ray, then as many fine ones.  "
           "[default: by cfg]"),
    option("neural_rendering_resolution_initial", click.IntRange(4, 512), 64, "Size of the rendered (raw) image at the "
           "start, pixels."),
    option("neural_rendering_resolution_final", click.IntRange(4, 512), None, "Size of the rendered (raw) image at the "
           "end, pixels.  [default: the initial size]"),
    option("neural_rendering_resolution_fade_kimg", NOT_NEGATIVE, 1000.0, "Time from the initial to the final size, "
           "thousands of images."),
)  # fmt: skip
@option_group(
    # A weight of 0 switches a term off, and its computation.
    "Discriminators and losses",
    option("dis_mask", bool, False, "Train a second discriminator (D_semantic), of images joined with label maps."),
    option("cond", bool, True, "Condition discriminators on the pose."),
    option("mbstd-group", COUNT, 4, "Samples per group of the minibatch standard deviation."),
    option("freezed", COUNT_OR_0, 0, "Number of first discriminator layers that are not trained."),
    option("d_num_fp16_res", COUNT_OR_0, 4, "Number of highest discriminator resolutions in float16 (CUDA)."),
    option("disc_c_noise", NOT_NEGATIVE, 0.0, "Noise on the discriminators' pose, in standard deviations."),
    option("random_c_prob", PROBABILITY, 0.0, "Probability of rendering from the pose of another sample."),
    option("lambda_l1", NOT_NEGATIVE, 0.0, "Weight of smooth L1 in image reconstruction."),
    option("lambda_lpips", NOT_NEGATIVE, 10.0, "Weight of LPIPS in image reconstruction; needs the package lpips."),
    option("lpips_weights", TEXT_PATH, None, "File of torchvision's VGG16 for LPIPS.  [default: download]"),
    option("only_raw_recons", bool, False, "Reconstruct the raw image only, not the super-resolved one."),
    option("seg_weight", click.Choice(["0", "1", "2", "auto"]), "0", "Class weights of the label reconstruction: equal "
           "(0), the published table of 19 classes (1), its squares (2), or by class frequency in the data (auto)."),
    option("edge_weight", NOT_NEGATIVE, 2.0, "Weight of the edge reconstruction."),
    option("silhouette_loss", bool, False, "Match the foreground's opacity with the pixels that are not class 0."),
    option("lambda_d_semantic", NOT_NEGATIVE, 1.0, "Weight of D_semantic in the generator's loss."),
    option("lambda_cross_view", NOT_NEGATIVE, 0.0, "Weight of cross-view consistency."),
)  # fmt: skip
@option_group(
    # In place of the published losses, see docs/training.md.
    "Patches, views and style",
    option("reconstruction", click.Choice(["images", "patches"]), "images", "Published losses on whole images, or "
           "reconstruction of patches from any view of the object."),
    option("patch_size", click.IntRange(8, 256), 32, "Rays of a patch on a side."),
    option("patch_prob", PROBABILITY, 0.5, "Share of patches; the other samples are rendered whole, with a stride."),
    option("lambda_novel_view", NOT_NEGATIVE, 1.0, "Weight of other views of the object than the input's, if the data "
           "set names its objects."),
    option("lambda_depth", NOT_NEGATIVE, 2.0, "Weight of the distance to known depth."),
    option("lambda_empty", NOT_NEGATIVE, 1.0, "Weight of rays that are known to miss the object."),
    option("guided_kimg", NOT_NEGATIVE, 0.0, "Time in which rays are sampled about known depth, thousands of images."),
    option("style_encoder", bool, False, "Train an encoder of photos to z."),
    option("lambda_kl", NOT_NEGATIVE, 3e-4, "Weight of the KL divergence of z from the prior."),
    option("kl_warmup_kimg", NOT_NEGATIVE, 5.0, "Time over which that weight grows from 0, thousands of images."),
    option("lambda_moments", NOT_NEGATIVE, 0.01, "Weight of mean and covariance of z over all photos."),
    option("lambda_color", NOT_NEGATIVE, 0.5, "Weight of reading the mean color of each class from z."),
    option("prior_prob", PROBABILITY, 0.2, "Share of the samples with z from the prior."),
    option("lambda_patch_d", NOT_NEGATIVE, 0.0, "Weight of a discriminator of patches; 0 trains none."),
    option("lambda_feature", NOT_NEGATIVE, 1.0, "Weight of feature matching with that discriminator."),
    option("patch_d_start_kimg", NOT_NEGATIVE, 0.0, "Time before that discriminator starts, thousands of images."),
    option("d_width", click.IntRange(1, 256), 32, "Channels of that discriminator's first layer."),
)  # fmt: skip
@option_group(
    "Regularization and augmentation",
    option("gamma", NOT_NEGATIVE, None, "Weight of R1."),
    option("density_reg", NOT_NEGATIVE, 0.25, "Weight of density regularization."),
    option("density_reg_every", COUNT, 4, "Iterations between density regularizations."),
    option("density_reg_p_dist", NOT_NEGATIVE, 0.004, "Distance of neighbors in density regularization, world units."),
    option("reg_type", click.Choice(["l1", "monotonic-detach", "monotonic-fixed"]), "l1", "Form of density "
           "regularization.", metavar="[l1|monotonic-detach|monotonic-fixed]"),
    option("aug", click.Choice(["noaug", "ada", "fixed"]), "noaug", "Augmentation of discriminator inputs: off, "
           "adaptive or with a fixed probability."),
    option("p", PROBABILITY, 0.2, "Augmentation probability for --aug=fixed."),
    option("target", PROBABILITY, 0.6, "Mean sign of D for real images to aim at for --aug=ada."),
)  # fmt: skip
@option_group(
    "Schedule",
    option("glr", POSITIVE, 0.0025, "Learning rate of the generator."),
    option("dlr", POSITIVE, 0.002, "Learning rate of the discriminators."),
    option("beta1", Number(0, 1, max_open=True), 0.0, "Adam's beta1 of the generator; 0.9 without discriminators."),
    option("lr_schedule", click.Choice(["constant", "cosine"]), "constant", "Learning rate of the generator over the "
           "run."),
    option("warmup_kimg", NOT_NEGATIVE, 0.0, "Time over which the learning rate grows from 0, thousands of images."),
    option("clip_grad", POSITIVE, None, "Largest norm of the generator's gradients.  [default: any]"),
    option("ema_kimg", POSITIVE, None, "Half-life of the moving average of the generator, thousands of images.  "
           "[default: batch * 10 / 32]"),
    option("blur_fade_kimg", NOT_NEGATIVE, 200.0, "Time over which the blur of discriminator inputs fades out, "
           "thousands of images at a batch size of 32."),
)  # fmt: skip
@option_group(
    # --resume takes weights only; --continue takes the whole state and all options of a run.
    "Resume",
    option("resume", TEXT_PATH, None, "Weights to start from (this project's, pix2pix3D's or EG3D's), file or URL."),
    option("resume_blur", bool, False, "Start with blurred discriminator inputs after --resume too."),
    click.option("--continue", "continue_dir", type=PATH, metavar="RUN_DIR", help="Continue the run in this directory "
                 "exactly where it stopped. It allows only the options "
                 f"{', '.join(f'--{name}' for name in CHANGEABLE)}, --device, and, for the new paths of data that have "
                 f"moved, {', '.join(f'--{name}' for name in DATA_PATHS)}."),
)  # fmt: skip
@option_group(
    "Output and evaluation",
    option("tick", POSITIVE, 4.0, "Thousands of images between status lines."),
    option("snap", COUNT, 10, "Ticks between snapshots of images, weights and training state."),
    option("keep_states", COUNT, 2, "Number of training states to keep."),
    option("grid", GridSize(), "8x4", "Number of images across and down in image grids.", metavar="WxH"),
    option("metrics", str, "fid50k_full", "Comma-separated metrics, or none."),
    option("no_eval", bool, True, "Skip the metrics; False computes them on the training data at every snapshot."),
    option("wandb_log", bool, False, "Log to Weights & Biases (pip install -e .[wandb])."),
)  # fmt: skip
@option_group(
    "Machine",
    option("device", click.Choice(["cuda", "mps", "cpu"]), None, "Kind of device.  [default: the first available]"),
    option("workers", click.IntRange(0, 64), 3, "Data loading processes per GPU; 0 loads in the training process."),
    option("nobench", bool, False, "Disable cuDNN's benchmark of algorithms."),
    option("debug", bool, False, "Stop at the first number that is not finite (slow)."),
)  # fmt: skip
@option_group("Hidden", *(click.option(f"--{name}", type=str, hidden=True) for name in NO_EFFECT))
@click.pass_context
def main(ctx: click.Context, dry_run: bool, device: str | None, continue_dir: Path | None, **values: Any) -> None:
    """Train a model that turns label maps into 3D objects.

    \b
    Examples:
      python train.py --outdir=runs --cfg=afhq --data=cats.zip --mask_data=cats_label.zip --semantic_channels=6 \\
          --render_mask=True --dis_mask=True --gpus=1 --batch=4 --gamma=5 --lambda_lpips=1
      python train.py --continue runs/00000-afhq-cats-gpus1-batch4-gamma5
    """
    # Options of old command lines, and the names of options that are not set by default.
    for name in NO_EFFECT:
        if values.pop(name) is not None:
            echo(f"--{name} has no effect in this model; it is accepted for old command lines.")
    given = {name for name in values if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}

    # Under torchrun, rank 0 resolves them and sends them to the other processes.
    rank_0 = not started_by_torchrun() or os.environ["RANK"] == "0"
    if rank_0:
        options, dataset, run_dir = _resolve_run(ctx, continue_dir, values, given)
        processes = options.num_gpus
    else:
        options = None
        dataset = None
        run_dir = None
        processes = int(os.environ["WORLD_SIZE"])

    # Machine and data are checked before anything is written; the slow check of all files comes last. A continued run
    # has no `dataset`: its files were checked when it began.
    if not dry_run:
        device = _check_machine(device, processes, options, new=run_dir is None)
    if dataset is not None:
        progress = partial(tqdm, desc="Checking the data", unit="file", delay=2, disable=None)
        options = examine_data(options, dataset, values, progress)
    if dry_run:
        if options:
            echo(*json.dumps(options.to_plain(), indent=2).split("\n"))
            run_dir = run_dir or values["outdir"] / f"NNNNN-{options.run_name}"
            echo(f"Dry run: nothing is trained. The run directory would be {run_dir}")
        return

    # Training. Errors that the user can fix become one line.
    try:
        launch(training_loop, options, values["outdir"], run_dir, evaluate_run, processes=processes, device=device)
    except Interrupted as stop:
        # After SIGHUP the terminal may be closed.
        if rank_0:
            with suppress(OSError):
                echo(f"Resume with: python train.py --continue {shlex.quote(str(stop.run_dir))}")
        raise SystemExit(stop.exit_code) from None
    except (DataError, StateError, WeightsError, TrainingError, ProcessError) as error:
        raise InputError(str(error)) from error
    except OSError as error:  # for example a full disk
        where = f"{error.filename}: " if error.filename else ""
        raise InputError(f"{where}{error.strerror or error}") from error


# --------------------------------------------------------------------------- options and checks of a run


def _resolve_run(
    ctx: click.Context, continue_dir: Path | None, values: dict[str, Any], given: set[str]
) -> tuple[TrainingOptions, PosedImageDataset | None, Path | None]:
    """Resolve the options of a new or continued run.

    Returns:
        Options; the data set of a new run, whose files are still to be checked; the directory of a continued run.
    """
    if continue_dir is not None:
        return _continued_options(continue_dir, values, given), None, continue_dir

    # Only options that the user has set are reported.
    dataset, options = _new_options(values)
    for name, needs in without_effect(values).items():
        if name in given:
            echo(f"--{name} has no effect: it needs {show_fields(needs, ctx.command.option_of)}")
    if options.data.xflip and options.data.data_type == "seg":
        echo(describe_pairs(options.data.mirror_swaps))

    # torchrun restarts failed processes with the same command line, which then continues the run.
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)):
        run_dir = latest_run(values["outdir"], options)
        if run_dir is not None:
            return read_options(run_dir), None, run_dir
    return options, dataset, None


def _new_options(values: dict[str, Any]) -> tuple[PosedImageDataset, TrainingOptions]:
    """Resolve and check the options of a new run; of the data set, only names, poses and the first image are read.

    Raises:
        InputError, ConfigError: missing, wrong or contradictory options.
    """
    # Cheap checks first: required options, then a writable output directory.
    missing = [f"--{name}" for name in REQUIRED if values[name] is None]
    if missing:
        raise InputError(f"missing {', '.join(missing)}")
    with user_errors("--outdir"):
        check_outdir(values["outdir"])

    # Everything that depends on other options or on the data.
    dataset, data = open_data(values)
    options = resolve(values, data)

    # Names of metrics are checked even if they are not evaluated, since they are saved with the options.
    if options.metrics:
        parse_metrics(options.metrics)
    if options.evaluate:
        check_run_metrics(options)
    return dataset, options


def _continued_options(run_dir: Path, values: dict[str, Any], given: set[str]) -> TrainingOptions:
    """Read the options of a run, with the given changes.

    Raises:
        InputError, ConfigError: not a run directory, or options that would make it another run.
    """
    with user_errors("--continue"):
        options = read_options(run_dir)

    # Other options would mix two settings in one run, which no training_options.json describes.
    fixed = sorted(given - CHANGEABLE.keys() - DATA_PATHS.keys())
    if fixed:
        allowed = ", ".join(f"--{name}" for name in (*CHANGEABLE, *DATA_PATHS))
        raise InputError(f"--{fixed[0]} cannot be changed by --continue; allowed are {allowed}")

    # The changes must fit. The data must be the same, but may have moved.
    moved = {name: os.path.abspath(values[name]) for name in DATA_PATHS if name in given}
    data = replace(options.data, **{DATA_PATHS[name]: path for name, path in moved.items()})
    changed = {CHANGEABLE[name]: values[name] for name in given - moved.keys()}
    options = replace(options, data=data, **changed)
    options.check_batch()
    with user_errors("--continue"):
        check_data(run_dir, data, moved)
    return options


def _check_machine(device: str | None, processes: int, options: TrainingOptions | None, new: bool) -> str:
    """Check that devices, packages and weights are available.

    Args:
        device: value of --device.
        processes: number of processes of the run.
        options: of the run; None in processes of torchrun other than rank 0, which check devices only.
        new: whether the run starts from --resume; a continued run has its own weights.
    Returns:
        Kind of device: cuda, mps or cpu.
    """
    # Devices.
    kind = choose_device(device).type
    check_processes(kind, processes)
    if options is None:
        return kind

    # Packages and weights that the options need, loaded once for the check and again by the processes that use them.
    if options.wandb_log and importlib.util.find_spec("wandb") is None:
        raise ConfigError("wandb_log", problem="the package wandb is not installed", hint="pip install -e .[wandb]")
    if options.loss.lambda_lpips > 0:
        load_lpips(options.lpips_weights)
    if options.evaluate:
        check_run_metrics(options, load=True)
    if options.resume_pkl and new:
        with user_errors("--resume"):
            read_weights(options.resume_pkl)
    return kind


if __name__ == "__main__":
    main()
