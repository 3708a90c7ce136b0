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
from training.data.depth_maps import DepthImages
from training.data.fingerprint import Fingerprint, take_fingerprint
from training.data.views import ViewPairs
from training.networks.configs import CLAMP_WITH_FP16, GeneratorOptions

POSE_NUMBERS = 25  # cam2world and intrinsics, flattened
IMAGE_CHANNELS = 3

# Iterations between two computations of R1 (lazy regularization), as published.
D_REG_INTERVAL = 16

# Published class names, by which weights files and `training.networks.registry` know the classes.
DISCRIMINATOR = "training.networks_stylegan2.Discriminator"
DUAL_DISCRIMINATOR = "training.dual_discriminator.DualDiscriminator"
DATASET_CLASSES = {"seg": "training.dataset.ImageSegFolderDataset", "edge": "training.dataset.ImageEdgeFolderDataset"}

# Networks that are trained in the phases of another one.
TRAINED_WITH = {"E": "G"}

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
    mirror_pose: bool = False  # mirror the poses of mirrored copies too; published training does not
    mirror_swaps: list[list[int]] | None = None  # pairs of classes that change places in mirrored copies
    other_views: bool = False  # reconstruct other views of the object, see training/data/views.py
    depth_path: str | None = None  # depth maps of the images, zip or directory

    def kwargs(self) -> dict[str, Any]:
        """Return the description of the data set that is saved with weights, in the published form."""
        # The published form has no name, classes, views and depth, and settings that are constant here.
        options = asdict(self)
        for name in ("name", "mirror_pose", "mirror_swaps", "other_views", "depth_path"):
            del options[name]
        return {"class_name": DATASET_CLASSES[self.data_type], "use_labels": True, "random_seed": 0, **options}

    def open(self, classes: int | None = None) -> PosedImageDataset:
        """Open the data set.

        Args:
            classes: number of classes; reading other class ids raises DataError. None accepts all ids.
        Raises:
            DataError: it is missing, or not the data set that the options were resolved for.
        """
        expected = {"resolution": self.resolution, "max_size": self.max_size}
        mirror = {"xflip": self.xflip, "mirror_pose": self.mirror_pose, "mirror_swaps": self.mirror_swaps or ()}
        return PosedImageDataset(self.path, self.mask_path, self.data_type, classes=classes, **mirror, **expected)

    def open_pairs(self, dataset: PosedImageDataset, seed: int) -> ViewPairs:
        """Pair every sample of the opened data set with a target view.

        Raises:
            DataError: the depth maps are missing or do not fit.
        """
        return ViewPairs(dataset, self._open_depth(), seed, self.other_views)

    def fingerprint(self, dataset: PosedImageDataset) -> Fingerprint:
        """Return the fingerprint of the opened data set and its depth maps.

        Raises:
            DataError: a file is missing or damaged.
        """
        return take_fingerprint(dataset, self._open_depth())

    def _open_depth(self) -> DepthImages | None:
        return DepthImages(self.depth_path) if self.depth_path else None


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
class StyleOptions:
    """Style encoder and its losses, see training/networks/style_encoder.py."""

    lambda_kl: float  # weight of the KL divergence of z from N(0, 1)
    kl_warmup_kimg: float  # thousands of images over which lambda_kl grows from 0
    lambda_moments: float  # weight of mean and covariance of z over all photos, which shall be those of N(0, 1)
    lambda_color: float  # weight of reading the mean color of each class from z
    prior_prob: float  # share of the samples whose z is from the prior, 0 to 1

    def kwargs(self, generator: GeneratorOptions) -> dict[str, Any]:
        """Return constructor arguments of a StyleEncoder for a generator."""
        # One region per class; edges have one, the object.
        return {"z_dim": generator.z_dim, "regions": generator.label_channels}


@dataclass(frozen=True)
class PatchOptions:
    """Patch training, see training/patch_loss.py."""

    patch_size: int  # rays on a side
    patch_prob: float  # share of patches, which are super-resolved; the others are strided over the whole image
    lambda_novel_view: float  # weight of targets other than the input view
    lambda_depth: float  # weight of the distance to known surfaces
    lambda_empty: float  # weight of empty rays
    guided_kimg: float  # thousands of images for which samples are placed about known surfaces
    lambda_patch_d: float  # weight of the discriminator of patches
    lambda_feature: float  # weight of feature matching
    patch_d_start_kimg: float  # thousands of images before the discriminator starts
    d_width: int  # channels of the discriminator's first layer

    def discriminates(self, cur_nimg: float) -> bool:
        """Return whether the discriminator of patches is used after cur_nimg images."""
        return self.lambda_patch_d > 0 and cur_nimg >= self.patch_d_start_kimg * 1000

    def discriminator_kwargs(self, generator: GeneratorOptions, rendering_resolution: int) -> dict[str, Any]:
        """Return constructor arguments of a Discriminator of super-resolved patches and label channels."""
        size = self.patch_size * generator.resolution // rendering_resolution
        return {
            "c_dim": 0,
            "img_resolution": size,
            "img_channels": IMAGE_CHANNELS + generator.label_channels,
            "channel_base": self.d_width * size,
            "channel_max": 3 * self.d_width,
            "num_fp16_res": 0,
            "conv_clamp": None,
            # Statistics over a small batch of different patches say little.
            "epilogue_kwargs": {"mbstd_num_channels": 0},
        }


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
    patches: PatchOptions | None  # patch training; None: the published losses and discriminators
    style: StyleOptions | None  # style encoder; None: every z is random
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
    beta1: float  # Adam's beta1 of G
    lr_schedule: str  # of G: constant, or cosine to LR_END
    warmup_kimg: float  # thousands of images over which the learning rate of G grows from 0
    clip_grad: float | None  # largest norm of G's gradients; None: any
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
        networks = {"G": (self.generator.class_name, self.generator.kwargs())}
        if self.patches is not None:
            return networks | self._patch_networks(self.patches)
        networks["D"] = (DUAL_DISCRIMINATOR, self.discriminator.kwargs(IMAGE_CHANNELS))
        if self.label_discriminator:
            channels = IMAGE_CHANNELS + self.generator.label_channels
            networks["D_semantic"] = (DUAL_DISCRIMINATOR, self.discriminator.kwargs(channels))
        return networks

    def _patch_networks(self, patches: PatchOptions) -> dict[str, tuple[str, dict[str, Any]]]:
        """Networks of patch training other than G."""
        networks = {}
        if self.style is not None:
            networks["E"] = ("StyleEncoder", self.style.kwargs(self.generator))
        if patches.lambda_patch_d > 0:
            size = self.loss.neural_rendering_resolution_initial
            networks["D_patch"] = (DISCRIMINATOR, patches.discriminator_kwargs(self.generator, size))
        return networks

    @property
    def intervals(self) -> dict[str, int | None]:
        """Iterations between regularization phases of each network; None: no such phase."""
        return {
            "G": self.g_reg_interval, "E": None,
            "D": D_REG_INTERVAL, "D_semantic": D_REG_INTERVAL, "D_patch": D_REG_INTERVAL,
        }  # fmt: skip

    @property
    def total_images(self) -> float:
        """Length of the run in images."""
        return self.total_kimg * 1000

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
        paths = {name: getattr(self.data, name) for name in ("path", "mask_path", "depth_path")}
        data = replace(self.data, **{name: path and Path(path).name for name, path in paths.items()})
        weights = {name: getattr(self, name) for name in ("lpips_weights", "resume_pkl")}
        return replace(self, data=data, **{name: path and Path(path).name for name, path in weights.items()})

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> TrainingOptions:
        """Rebuild options from the result of `to_plain`.

        Raises:
            ValueError: missing or unknown fields, for example of another version, or values out of range.
        """
        # Nested options are dicts, and JSON has no tuples.
        values = {**OPTIONS_OF_OLDER_RUNS, **plain}
        try:
            for name, options_class in NESTED_OPTIONS.items():
                if values[name] is not None:  # augment, patches and style may be
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

        # Whole groups of the minibatch standard deviation in each microbatch; the discriminator of patches has none.
        if self.patches is not None:
            return
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
    "patches": PatchOptions,
    "style": StyleOptions,
}

# Values of options that runs of earlier versions did not record.
OPTIONS_OF_OLDER_RUNS = {
    "patches": None, "style": None, "beta1": 0.0, "lr_schedule": "constant", "warmup_kimg": 0.0, "clip_grad": None,
}  # fmt: skip
