"""What a training run is made of: the command line's values checked, resolved and frozen.

Values and names as of the published training command; `TrainingOptions.to_plain` is what training_options.json holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from training.data.dataset import PosedImageDataset
from training.loss_options import LossOptions
from training.networks.configs import CLAMP_WITH_FP16, GeneratorOptions

POSE_NUMBERS = 25
IMAGE_CHANNELS = 3
D_REG_INTERVAL = 16  # iterations
AUGMENTATIONS = dict.fromkeys(  # what --aug switches on, as arguments of AugmentPipe
    [
        *("xflip", "rotate90", "xint", "scale", "rotate", "aniso", "xfrac"),
        *("brightness", "contrast", "lumaflip", "hue", "saturation"),
    ],
    1,
)

# --------------------------------------------------------------------------- parts


@dataclass(frozen=True)
class DataOptions:
    """The pictures to train on."""

    name: str  # of the archive, without folder and ending
    path: str
    mask_path: str
    data_type: str
    resolution: int
    max_size: int  # pictures, mirrored copies not counted
    xflip: bool = False

    def kwargs(self) -> dict[str, Any]:
        """As weights files record a data set."""
        kind = {"seg": "ImageSegFolderDataset", "edge": "ImageEdgeFolderDataset"}[self.data_type]
        fixed = {"class_name": f"training.dataset.{kind}", "use_labels": True, "random_seed": 0}
        own = asdict(self)
        del own["name"]
        return {**fixed, **own}

    def open(self) -> PosedImageDataset:
        """DataError where it is no longer what it was when the options were made."""
        rest = {"resolution": self.resolution, "max_size": self.max_size, "xflip": self.xflip}
        return PosedImageDataset(self.path, self.mask_path, self.data_type, **rest)


@dataclass(frozen=True)
class DiscriminatorOptions:
    """What both discriminators are built from."""

    resolution: int
    pose_conditioning: bool = True
    freeze_layers: int = 0
    mbstd_group: int = 4
    channel_base: int = 32768
    channel_max: int = 512
    num_fp16_res: int = 4
    disc_c_noise: float = 0.0

    def kwargs(self, channels: int) -> dict[str, Any]:
        """Constructor arguments of a DualDiscriminator that sees this many channels of one image."""
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
class AdaptOptions:
    """How often discriminators see augmented pictures: p, fixed or led by `adapt_p` to a target."""

    p: float = 0.0  # at the start
    target: float | None = None  # None: p stays
    kimg: float = 500  # over which p can grow by 1


@dataclass(frozen=True)
class TrainingOptions:
    """A whole run."""

    cfg: str
    generator: GeneratorOptions
    discriminator: DiscriminatorOptions
    loss: LossOptions
    data: DataOptions
    augment: AdaptOptions | None  # None: pictures are not augmented
    label_discriminator: bool
    class_counts: list[int] | None  # pixels of each class in the data set, where the loss weighs by them
    lpips_weights: str | None
    num_gpus: int
    batch_size: int
    batch_gpu: int
    g_lr: float
    d_lr: float
    g_reg_interval: int | None  # None: no density regularization
    ema_kimg: float
    ema_rampup: float | None
    resume_pkl: str | None
    total_kimg: float
    kimg_per_tick: float
    snapshot_ticks: int
    keep_states: int
    grid: tuple[int, int]  # pictures across and down
    random_seed: int
    workers: int
    metrics: list[str]
    evaluate: bool  # compute them at every snapshot
    wandb_log: bool
    nobench: bool
    debug: bool
    desc: str | None = None

    @property
    def networks(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """Public class name and constructor arguments of each trained network, by its public name."""
        dual = "training.dual_discriminator.DualDiscriminator"
        found = {
            "G": (self.generator.class_name, self.generator.kwargs()),
            "D": (dual, self.discriminator.kwargs(IMAGE_CHANNELS)),
        }
        if self.label_discriminator:
            found["D_semantic"] = (dual, self.discriminator.kwargs(IMAGE_CHANNELS + self.generator.channels))
        return found

    @property
    def intervals(self) -> dict[str, int | None]:
        """Iterations from one regularizing phase of a network to the next."""
        return {"G": self.g_reg_interval, "D": D_REG_INTERVAL, "D_semantic": D_REG_INTERVAL}

    @property
    def run_name(self) -> str:
        """What follows the number in the name of the run's folder."""
        name = f"{self.cfg}-{self.data.name}-gpus{self.num_gpus}-batch{self.batch_size}-gamma{self.loss.r1_gamma:g}"
        return f"{name}-{self.desc}" if self.desc else name

    def to_plain(self) -> dict[str, Any]:
        """Nested dicts, lists, strings and numbers."""
        return asdict(self)

    def for_others(self) -> TrainingOptions:
        """As weights hold them, which are given away: without the folders of the machine they were made on."""
        data = replace(self.data, path=Path(self.data.path).name, mask_path=Path(self.data.mask_path).name)
        return replace(self, data=data, lpips_weights=self.lpips_weights and Path(self.lpips_weights).name)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> TrainingOptions:
        """Undo `to_plain`.

        Raises:
            ValueError: not what another version of this program, or this one, would write.
        """
        try:
            parts = {name: part and PARTS[name](**part) for name, part in plain.items() if name in PARTS}
            return cls(**{**plain, **parts, "grid": tuple(plain["grid"])})
        except (TypeError, KeyError) as error:
            raise ValueError(f"not the options of a run of this version ({error})") from error

    def check_batch(self) -> None:
        """
        Raises:
            ValueError: processes, rounds or groups of the minibatch standard deviation would not be equally large.
        """
        batch, gpus, part, group = self.batch_size, self.num_gpus, self.batch_gpu, self.discriminator.mbstd_group
        if batch % gpus:
            raise ValueError(f"--batch {batch}: expected a multiple of --gpus {gpus}")
        if batch % (gpus * part):
            raise ValueError(f"--batch {batch}: expected a multiple of --gpus {gpus} times --batch-gpu {part}")
        if part < group or part % group:
            raise ValueError(f"--batch-gpu {part}: expected a multiple of --mbstd-group {group}; lower --mbstd-group")


PARTS = {
    "generator": GeneratorOptions,
    "discriminator": DiscriminatorOptions,
    "loss": LossOptions,
    "data": DataOptions,
    "augment": AdaptOptions,
}
