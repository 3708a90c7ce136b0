"""Values of the training command to `TrainingOptions`: what depends on other values, and every refusal.

All ValueErrors start with the option that is to blame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from training.archive import DataError
from training.backbone import count_ws
from training.configs import SUPER_RESOLUTION, GeneratorOptions
from training.data_checks import examine
from training.dataset import PosedImageDataset
from training.loss import LossOptions, class_weights
from training.options import AdaptOptions, DataOptions, DiscriminatorOptions, TrainingOptions
from training.perceptual import SMALLEST_IMAGE
from training.superresolution import LAYOUTS

REFERENCE_BATCH = 32  # the batch for which the published schedules are stated
EMA_KIMG_AT_REFERENCE = 10
EMA_RAMPUP = 0.05  # the average's half-life is at most this share of the images seen
BLUR_INIT_SIGMA = 10  # pixels
ADA_KIMG, ADA_KIMG_RESUMED = 500, 100  # over which p can grow by 1
MAX_DESC = 100  # characters: file systems take 255 for the whole name

# --------------------------------------------------------------------------- data


def read_data(
    values: Mapping[str, Any], progress: Callable[[Iterable], Iterable] = iter
) -> tuple[DataOptions, np.ndarray]:
    """Open the data set and every file in it once.

    Returns:
        Its options; pixels of each class id over all label maps, int64 256 (zeros for edges).
    Raises:
        DataError: anything that training would stumble over later, class ids out of range included.
    """
    data_type = values["data_type"]
    dataset = PosedImageDataset(values["data"], values["mask_data"], data_type)
    classes = values["semantic_channels"] if data_type == "seg" else None
    report = examine(dataset.images, dataset.label_maps, dataset.index, data_type, classes, progress)
    if report.problems:
        raise DataError(values["data"], report.problems)
    paths = {"path": str(values["data"]), "mask_path": str(values["mask_data"])}
    options = DataOptions(
        dataset.name,
        **paths,
        data_type=data_type,
        resolution=dataset.resolution,
        max_size=len(dataset),
        xflip=values["mirror"],
    )
    return options, report.histogram


# --------------------------------------------------------------------------- everything


def resolve(values: Mapping[str, Any], data: DataOptions, histogram: np.ndarray) -> TrainingOptions:
    """
    Args:
        values: of the training command, by name with underscores.
        data, histogram: of `read_data`.
    Raises:
        ValueError: values that do not go together.
    """
    _check_size(values, data)
    _check_model(values)
    _check_widths(values, data)
    _check_rendering(values, data)
    _check_names(values)
    resumed = values["resume"] is not None
    batch, gpus = values["batch"], values["gpus"]
    if batch % gpus:
        raise ValueError(f"--batch {batch}: expected a multiple of --gpus {gpus}")
    loss, counts = _loss(values), histogram[: values["semantic_channels"]].tolist()
    if data.data_type == "seg":
        class_weights(loss.seg_weight, values["semantic_channels"], counts)  # says what does not fit
    options = TrainingOptions(
        cfg=values["cfg"],
        generator=_generator(values, data),
        discriminator=_discriminator(values, data),
        loss=loss,
        data=data,
        augment=_augment(values),
        label_discriminator=values["dis_mask"],
        class_counts=counts if loss.seg_weight == "auto" else None,
        lpips_weights=values["lpips_weights"],
        num_gpus=gpus,
        batch_size=batch,
        batch_gpu=values["batch_gpu"] or batch // gpus,
        g_lr=values["glr"],
        d_lr=values["dlr"],
        g_reg_interval=values["density_reg_every"] if values["density_reg"] > 0 else None,
        ema_kimg=batch * EMA_KIMG_AT_REFERENCE / REFERENCE_BATCH,
        ema_rampup=None if resumed else EMA_RAMPUP,
        resume_pkl=values["resume"],
        total_kimg=values["kimg"],
        kimg_per_tick=values["tick"],
        snapshot_ticks=values["snap"],
        grid=values["grid"],
        keep_states=values["keep_states"],
        random_seed=values["seed"],
        workers=values["workers"],
        metrics=_metrics(values),
        evaluate=not values["no_eval"],
        wandb_log=values["wandb_log"],
        nobench=values["nobench"],
        debug=values["debug"],
        desc=values["desc"],
    )
    options.check_batch()
    return options


def _check_size(values: Mapping[str, Any], data: DataOptions) -> None:
    size, expected = data.resolution, values["data_resolution"]
    if size not in SUPER_RESOLUTION:
        sizes = ", ".join(map(str, sorted(SUPER_RESOLUTION)))
        raise ValueError(f"--data {data.path}: its images have {size} pixels, allowed are {sizes}")
    if data.data_type == "seg" and expected not in (0, size):
        raise ValueError(f"--data_resolution {expected}: the images have {size} pixels")


def _check_model(values: Mapping[str, Any]) -> None:
    """Refuse parts of the model that need other parts which are off."""
    seg = values["data_type"] == "seg"
    needs = {  # option that is on -> what it needs, and whether that is there
        "dis_mask": ("--render_mask=True", values["render_mask"]),
        "use_bg": ("--render_mask=True", values["render_mask"]),
        "silhouette_loss": ("--use_bg=True and --data_type=seg", values["use_bg"] and seg),
        "gen_pose_cond": ("--cond=True", values["cond"]),
    }
    for name, (needed, there) in needs.items():
        if values[name] and not there:
            raise ValueError(f"--{name}: needs {needed}")
    if values["seg_weight"] != "0" and not seg:
        raise ValueError(f"--seg_weight {values['seg_weight']}: edges have no classes; --edge_weight weighs them")
    planes = values["plane_resolution"]
    if planes & (planes - 1):
        raise ValueError(f"--plane_resolution {planes}: expected a power of two")
    layers = count_ws(planes)
    if not 0 < values["geometry_layer"] < layers:
        raise ValueError(f"--geometry_layer {values['geometry_layer']}: expected 1 to {layers - 1}")


def _check_widths(values: Mapping[str, Any], data: DataOptions) -> None:
    largest = max(data.resolution, values["plane_resolution"])
    if values["cbase"] < largest:
        raise ValueError(f"--cbase {values['cbase']}: no channels are left at {largest} pixels; give {largest} or more")


def _check_rendering(values: Mapping[str, Any], data: DataOptions) -> None:
    """Refuse super-resolution to another size, and raw images that are, now or in the end, too large or too small."""
    fitting = {name: row for name, row in LAYOUTS.items() if row.output == data.resolution}
    module = values["sr_module"] or SUPER_RESOLUTION[data.resolution]
    layout = fitting.get(module.rsplit(".", 1)[-1])
    if layout is None:
        raise ValueError(f"--sr-module {module}: for {data.resolution} pixels there is {', '.join(fitting)}")
    for end in ("initial", "final"):
        size = values[f"neural_rendering_resolution_{end}"]
        given = f"--neural_rendering_resolution_{end} {size}"
        if size is not None and size > layout.input and not layout.shrinks:
            raise ValueError(f"{given}: super-resolution to {layout.output} pixels takes {layout.input} at most")
        if size is not None and size < SMALLEST_IMAGE and values["lambda_lpips"] > 0:
            raise ValueError(f"{given}: LPIPS takes {SMALLEST_IMAGE} or more; or go without: --lambda_lpips=0")


def _check_names(values: Mapping[str, Any]) -> None:
    desc = values["desc"] or ""
    if not desc.isprintable() or set(desc) & set("/\\") or len(desc) > MAX_DESC:
        raise ValueError(f"--desc {desc!r}: a part of a folder's name, at most {MAX_DESC} characters without / and \\")
    if values["resume"] == "":
        raise ValueError("--resume: no file is named; leave it out to start from random weights")


def _generator(values: Mapping[str, Any], data: DataOptions) -> GeneratorOptions:
    return GeneratorOptions(
        camera=values["cfg"],
        resolution=data.resolution,
        data_type=data.data_type,
        semantic_channels=values["semantic_channels"],
        render_labels=values["render_mask"],
        background=values["use_bg"],
        pose_conditioning=values["gen_pose_cond"],
        geometry_layer=values["geometry_layer"],
        encoder_width=values["encoder_width"],
        sr_width=values["sr_width"],
        plane_resolution=values["plane_resolution"],
        depth_resolution=values["depth_resolution"],
        channel_base=values["cbase"],
        channel_max=values["cmax"],
        map_depth=values["map_depth"],
        num_fp16_res=values["g_num_fp16_res"],
        sr_num_fp16_res=values["sr_num_fp16_res"],
        sr_module=values["sr_module"],
        sr_noise_mode=values["sr_noise_mode"],
        c_scale=values["c_scale"],
        decoder_lr_mul=values["decoder_lr_mul"],
        density_reg=values["density_reg"],
        density_reg_p_dist=values["density_reg_p_dist"],
        reg_type=values["reg_type"],
    )


def _discriminator(values: Mapping[str, Any], data: DataOptions) -> DiscriminatorOptions:
    return DiscriminatorOptions(
        resolution=data.resolution,
        pose_conditioning=values["cond"],
        freeze_layers=values["freezed"],
        mbstd_group=values["mbstd_group"],
        channel_base=values["cbase"],
        channel_max=values["cmax"],
        num_fp16_res=values["d_num_fp16_res"],
        disc_c_noise=values["disc_c_noise"],
    )


def _loss(values: Mapping[str, Any]) -> LossOptions:
    blurred = values["resume"] is None or values["resume_blur"]
    same_name = ("random_c_prob", "lambda_l1", "lambda_lpips", "lambda_cross_view", "edge_weight", "only_raw_recons",
                 "silhouette_loss", "neural_rendering_resolution_initial", "neural_rendering_resolution_final",
                 "neural_rendering_resolution_fade_kimg")  # fmt: skip
    return LossOptions(
        r1_gamma=values["gamma"],
        lambda_D_semantic=values["lambda_d_semantic"],
        seg_weight="auto" if values["seg_weight"] == "auto" else int(values["seg_weight"]),
        blur_init_sigma=BLUR_INIT_SIGMA if blurred else 0,
        blur_fade_kimg=values["batch"] * values["blur_fade_kimg"] / REFERENCE_BATCH,
        **{name: values[name] for name in same_name},
    )


def _augment(values: Mapping[str, Any]) -> AdaptOptions | None:
    kimg = ADA_KIMG if values["resume"] is None else ADA_KIMG_RESUMED
    ways = {"noaug": None, "fixed": AdaptOptions(values["p"]), "ada": AdaptOptions(0.0, values["target"], kimg)}
    return ways[values["aug"]]


def _metrics(values: Mapping[str, Any]) -> list[str]:
    names = [] if values["metrics"] == "none" else [name.strip() for name in values["metrics"].split(",")]
    if not names and not values["no_eval"]:
        raise ValueError("--no_eval: False computes --metrics, but these are none")
    return names
