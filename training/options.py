"""Options of a training run: resolved, checked and frozen.

Field names and values follow the published training command; they are the keys of training_options.json.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from dnnlib.errors import ConfigError
from training.data.dataset import PosedImageDataset
from training.networks.configs import CLAMP_WITH_FP16, GeneratorOptions

POSE_NUMBERS = 25  # cam2world and intrinsics, flattened
IMAGE_CHANNELS = 3

# Iterations between two computations of R1 (lazy regularization), as published.
D_REG_INTERVAL = 16

# Published class names, by which weights files and `training.networks.registry` know the classes.
DUAL_DISCRIMINATOR = "training.dual_discriminator.DualDiscriminator"
DATASET_CLASSES = {"seg": "training.dataset.ImageSegFolderDataset", "edge": "training.dataset.ImageEdgeFolderDataset"}

# Arguments of AugmentPipe: each of these augmentations with probability p.
AUGMENTATION_NAMES = "xflip rotate90 xint scale rotate aniso xfrac brightness contrast lumaflip hue saturation"
AUGMENTATIONS = dict.fromkeys(AUGMENTATION_NAMES.split(), 1)


@dataclass(frozen=True)
class DataOptions:
    """Data set to train on."""

    name: str  # file name of the images without directory and extension
    path: str  # images and poses, zip or directory
    mask_path: str  # label maps, zip or directory
    data_type: str  # "seg" or "edge"
    resolution: int  # image size R, pixels
    max_size: int  # number of images, mirrored copies not counted
    xflip: bool = False  # add mirrored copies

    def kwargs(self) -> dict[str, Any]:
        """Return the description of the data set that is saved with weights, in the published form."""
        # The published form has no name, and settings that are constant here.
        options = asdict(self)
        del options["name"]
        return {"class_name": DATASET_CLASSES[self.data_type], "use_labels": True, "random_seed": 0, **options}

    def open(self) -> PosedImageDataset:
        """Open the data set.

        Raises:
            DataError: it is missing, or not the data set that the options were resolved for.
        """
        expected = {"resolution": self.resolution, "max_size": self.max_size}
        return PosedImageDataset(self.path, self.mask_path, self.data_type, xflip=self.xflip, **expected)


@dataclass(frozen=True)
class DiscriminatorOptions:
    """Architecture of both discriminators."""

    resolution: int  # image size R, pixels
    pose_conditioning: bool = True
    freeze_layers: int = 0  # number of first layers that are not trained
    mbstd_group: int = 4  # samples per group of the minibatch standard deviation
    channel_base: int = 32768  # a layer of r pixels has channel_base / r channels
    channel_max: int = 512  # upper limit of channels per layer
    num_fp16_res: int = 4  # number of highest resolutions in float16 (CUDA only)
    disc_c_noise: float = 0.0  # noise on the pose, in standard deviations of each of its numbers

    def kwargs(self, channels: int) -> dict[str, Any]:
        """Return constructor arguments of a DualDiscriminator for images of so many channels."""
        return {
            "c_dim": POSE_NUMBERS if self.pose_conditioning else 0,
            "img_resolution": self.resolution,
            "img_channels": channels,
            "block_kwargs": {"freeze_layers": self.freeze_layers},
            "mapping_kwargs": {},
            "epilogue_kwargs": {"mbstd_group_size": self.mbstd_group},
            "channel_base": self.channel_base,
            "channel_max": self.channel_max,
            "disc_c_noise": self.disc_c_noise,
            "num_fp16_res": self.num_fp16_res,
            "conv_clamp": CLAMP_WITH_FP16 if self.num_fp16_res > 0 else None,
        }


@dataclass(frozen=True)
class LossOptions:
    """Weights and schedules of the loss. A term of weight 0 is not computed.

    Raises:
        ConfigError: a value out of range.
    """

    # R1.
    r1_gamma: float  # weight gamma of R1: the loss is gamma / 2 times the penalty

    # Terms of the generator's loss.
    random_c_prob: float = 0  # probability of rendering a microbatch from random poses instead of its own, 0 to 1
    lambda_l1: float = 0  # weight of the image reconstruction's smooth L1
    lambda_lpips: float = 10  # weight of the image reconstruction's LPIPS
    lambda_D_semantic: float = 1  # weight of D_semantic in the generator's adversarial loss
    seg_weight: float | str = 0  # class weights of the label cross-entropy, see `training.loss_terms.class_weights`
    edge_weight: float = 2  # weight of the edge reconstruction's smooth L1
    only_raw_recons: bool = False  # reconstruct raw images only, not those after super-resolution
    silhouette_loss: bool = False  # compare the foreground's opacity with the pixels that are not class 0
    lambda_cross_view: float = 0  # weight of cross-view consistency

    # Real raw images.
    filter_mode: str | float = "antialiased"  # resizing of real images to raw size, see `filtered_resizing`

    # Schedules.
    blur_init_sigma: float = 10  # blur of discriminator inputs at the start, pixels
    blur_fade_kimg: float = 200  # thousands of images over which the blur decreases linearly to 0
    neural_rendering_resolution_initial: int = 64  # size r of raw images at the start, pixels
    neural_rendering_resolution_final: int | None = None  # size r at the end, pixels; None: the initial one
    neural_rendering_resolution_fade_kimg: float = 1000  # thousands of images between both

    def __post_init__(self) -> None:
        # Weights and schedules; a NaN in a hand-edited file would otherwise appear as diverged training.
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float | int) and not (math.isfinite(value) and value >= 0):
                raise ConfigError(field.name, value, "a finite number of at least 0")

        # Fields with a smaller range.
        if self.random_c_prob > 1:
            raise ConfigError("random_c_prob", self.random_c_prob, "0 to 1")
        if self.seg_weight not in (0, 1, 2, "auto"):
            raise ConfigError("seg_weight", self.seg_weight, "0, 1, 2 or auto")

    def blur_sigma(self, cur_nimg: float) -> float:
        """Return the blur after cur_nimg images: the sigma of `training.loss_terms.blur`, pixels."""
        # No time to fade: no blur.
        if self.blur_fade_kimg == 0:
            return 0.0
        return self.blur_init_sigma * max(1 - cur_nimg / (self.blur_fade_kimg * 1000), 0)

    def rendering_resolution(self, cur_nimg: float) -> int:
        """Return the size r of raw images after cur_nimg images, pixels."""
        # Constant.
        initial = self.neural_rendering_resolution_initial
        final = self.neural_rendering_resolution_final
        if final is None:
            return initial

        # Linear from the initial to the final size.
        fade_nimg = self.neural_rendering_resolution_fade_kimg * 1000
        progress = min(cur_nimg / fade_nimg, 1) if fade_nimg > 0 else 1
        return round(initial + (final - initial) * progress)


@dataclass(frozen=True)
class AugmentOptions:
    """Probability of augmenting discriminator inputs: fixed, or adapted to a target (ADA, Karras et al. 2020)."""

    p: float = 0.0  # probability at the start, 0 to 1
    target: float | None = None  # mean sign of D's logits for real images to aim at; None: p is fixed
    kimg: float = 500  # thousands of images over which p can change by 1


@dataclass(frozen=True)
class TrainingOptions:
    """All options of a training run."""

    # Networks, loss and data.
    cfg: str  # kind of object, a key of `training.networks.configs.RENDERING`
    generator: GeneratorOptions
    discriminator: DiscriminatorOptions
    loss: LossOptions
    data: DataOptions
    augment: AugmentOptions | None  # None: no augmentation
    label_discriminator: bool  # train D_semantic
    class_counts: list[int] | None  # pixels of each class in the data set, if loss.seg_weight is "auto"
    lpips_weights: str | None  # file of VGG16's weights; None: the package downloads them

    # Batch, split over processes and then into microbatches.
    num_gpus: int  # number of processes
    batch_size: int  # samples per iteration of all processes
    batch_gpu: int  # samples per microbatch of one process

    # Optimization.
    g_lr: float  # learning rate of G, before the correction for lazy regularization
    d_lr: float  # learning rate of D and D_semantic, likewise
    g_reg_interval: int | None  # iterations between density regularizations; None: no density regularization
    ema_kimg: float  # half-life of G_ema, thousands of images
    ema_rampup: float | None  # upper limit of the half-life as a share of the images seen; None: no limit
    resume_pkl: str | None  # weights to start from, file or URL

    # Length and output; a tick ends with a status line.
    total_kimg: float  # length of the run, thousands of images
    kimg_per_tick: float  # thousands of images between status lines
    snapshot_ticks: int  # ticks between snapshots
    keep_states: int  # number of training states that are kept
    grid: tuple[int, int]  # images across and down in image grids

    # Machine, metrics and logging.
    random_seed: int  # seed of weights, order of the data and all sampling
    workers: int  # data loading processes per GPU
    metrics: list[str]  # names of metrics
    evaluate: bool  # compute the metrics at every snapshot
    wandb_log: bool  # log to Weights & Biases
    nobench: bool  # disable cuDNN's benchmark
    debug: bool  # stop at the first number that is not finite
    desc: str | None = None  # appended to the name of the run directory

    @property
    def networks(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """Published class name and constructor arguments of each trained network, by network name."""
        # In the order of training and of weights files.
        networks = {
            "G": (self.generator.class_name, self.generator.kwargs()),
            "D": (DUAL_DISCRIMINATOR, self.discriminator.kwargs(IMAGE_CHANNELS)),
        }
        if self.label_discriminator:
            channels = IMAGE_CHANNELS + self.generator.label_channels
            networks["D_semantic"] = (DUAL_DISCRIMINATOR, self.discriminator.kwargs(channels))
        return networks

    @property
    def intervals(self) -> dict[str, int | None]:
        """Iterations between regularization phases of each network; None: no such phase."""
        return {"G": self.g_reg_interval, "D": D_REG_INTERVAL, "D_semantic": D_REG_INTERVAL}

    @property
    def run_name(self) -> str:
        """Name of the run directory after its number."""
        # As published, so that scripts that look for runs keep working.
        name = f"{self.cfg}-{self.data.name}-gpus{self.num_gpus}-batch{self.batch_size}-gamma{self.loss.r1_gamma:g}"
        return f"{name}-{self.desc}" if self.desc else name

    def to_plain(self) -> dict[str, Any]:
        """Convert to nested dicts, lists, strings and numbers."""
        return asdict(self)

    def without_local_paths(self) -> TrainingOptions:
        """Copy with file names instead of local paths, for weights that may be published."""
        # Directories can contain names of users and projects.
        data = replace(self.data, path=Path(self.data.path).name, mask_path=Path(self.data.mask_path).name)
        weights = {name: getattr(self, name) for name in ("lpips_weights", "resume_pkl")}
        return replace(self, data=data, **{name: path and Path(path).name for name, path in weights.items()})

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> TrainingOptions:
        """Rebuild options from the result of `to_plain`.

        Raises:
            ValueError: missing or unknown fields, for example of another version, or values out of range.
        """
        # Nested options are dicts, and JSON has no tuples.
        values = dict(plain)
        try:
            for name, options_class in NESTED_OPTIONS.items():
                if values[name] is not None:  # only augment may be
                    values[name] = options_class(**values[name])
            values["grid"] = tuple(values["grid"])
            return cls(**values)
        except (TypeError, KeyError) as error:
            raise ValueError(f"not the options of a run of this version ({error})") from error

    def check_batch(self) -> None:
        """Check that the batch can be split evenly: over processes, microbatches and groups of the discriminators.

        Raises:
            ConfigError: batch_size or batch_gpu is not the multiple that it must be.
        """
        # Equal shares for all processes and microbatches, or the mean over processes would not be that of the batch.
        if self.batch_size % (self.num_gpus * self.batch_gpu):
            allowed = f"a multiple of `num_gpus` ({self.num_gpus}) times `batch_gpu` ({self.batch_gpu})"
            raise ConfigError("batch_size", self.batch_size, allowed)

        # Whole groups of the minibatch standard deviation in each microbatch.
        group = self.discriminator.mbstd_group
        if self.batch_gpu % group:
            raise ConfigError(
                "batch_gpu", self.batch_gpu, f"a multiple of `mbstd_group` ({group})", "lower `mbstd_group`"
            )


# Fields of TrainingOptions that are options themselves, for `from_plain`.
NESTED_OPTIONS = {
    "generator": GeneratorOptions,
    "discriminator": DiscriminatorOptions,
    "loss": LossOptions,
    "data": DataOptions,
    "augment": AugmentOptions,
}
