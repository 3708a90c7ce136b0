"""Values of the training command to `TrainingOptions`: what depends on other values, and every refusal.

All ValueErrors start with the option that is to blame.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from training.data.archive import DataError
from training.data.checks import check_dataset
from training.data.dataset import PosedImageDataset
from training.loss import class_weights
from training.loss_options import LossOptions
from training.networks.backbone import count_ws
from training.networks.configs import SUPER_RESOLUTION, GeneratorOptions
from training.networks.superresolution import LAYOUTS
from training.options import AdaptOptions, DataOptions, DiscriminatorOptions, TrainingOptions
from training.perceptual import SMALLEST_IMAGE

REFERENCE_BATCH = 32  # the batch for which the published schedules are stated
EMA_KIMG_AT_REFERENCE = 10
EMA_RAMPUP = 0.05  # the average's half-life is at most this share of the images seen
BLUR_INIT_SIGMA = 10  # pixels
ADA_KIMG, ADA_KIMG_RESUMED = 500, 100  # over which p can grow by 1
MAX_RUN_NAME = 240  # bytes: file systems take 255 with the number
AS_GIVEN = {  # field of TrainingOptions: the option that it is
    "cfg": "cfg", "label_discriminator": "dis_mask", "num_gpus": "gpus", "batch_size": "batch", "g_lr": "glr",
    "d_lr": "dlr", "resume_pkl": "resume", "total_kimg": "kimg", "kimg_per_tick": "tick", "snapshot_ticks": "snap",
    "grid": "grid", "keep_states": "keep_states", "random_seed": "seed", "workers": "workers",
    "wandb_log": "wandb_log", "nobench": "nobench", "debug": "debug", "desc": "desc",
}  # fmt: skip

# --------------------------------------------------------------------------- data


def open_data(values: Mapping[str, Any]) -> tuple[PosedImageDataset, DataOptions]:
    """A data set as far as its names, poses and first image tell.

    Raises:
        ValueError: anything that is wrong with these.
    """
    try:
        dataset = PosedImageDataset(values["data"], values["mask_data"], values["data_type"])
    except DataError as error:
        raise _blamed(values, error) from error
    options = DataOptions(
        dataset.name,
        path=os.path.abspath(values["data"]),  # --continue is given from any folder
        mask_path=os.path.abspath(values["mask_data"]),
        data_type=dataset.data_type,
        resolution=dataset.resolution,
        max_size=len(dataset),
        xflip=values["mirror"],
    )
    return dataset, options


def examine_data(
    options: TrainingOptions,
    dataset: PosedImageDataset,
    values: Mapping[str, Any],
    progress: Callable[[Iterable], Iterable] = iter,
) -> TrainingOptions:
    """Decode every file of the data set once; the options with what that gives to them.

    Raises:
        ValueError: anything that training would stumble over later, class ids out of range included.
    """
    classes = values["semantic_channels"] if dataset.data_type == "seg" else None
    report = check_dataset(dataset.images, dataset.label_maps, dataset.index, dataset.data_type, classes, progress)
    if report.problems:
        raise _blamed(values, DataError(values["data"], report.problems))
    counts = report.histogram[:classes].tolist() if options.loss.seg_weight == "auto" else None
    return replace(options, class_counts=counts)


def _blamed(values: Mapping[str, Any], error: DataError) -> ValueError:
    """With the option whose files are at fault."""
    label_maps, first = Path(values["mask_data"]), error.problems[0].file
    theirs = first.startswith(f"{label_maps.name}/") and label_maps.name != Path(values["data"]).name
    if theirs or Path(error.path) == label_maps:
        return ValueError(f"--mask_data {DataError(values['mask_data'], error.problems)}")
    return ValueError(f"--data {error}")


# --------------------------------------------------------------------------- everything


def resolve(values: Mapping[str, Any], data: DataOptions) -> TrainingOptions:
    """Everything but what `examine_data` adds.

    Args:
        values: of the training command, by name with underscores.
    Raises:
        ValueError: values that do not go together.
    """
    for check in (_check_size, _check_model, _check_widths, _check_rendering):
        check(values, data)
    resumed, batch = values["resume"] is not None, values["batch"]
    weights = values["lpips_weights"]
    options = TrainingOptions(
        generator=_generator(values, data),
        discriminator=_discriminator(values, data),
        loss=_loss(values),
        data=data,
        augment=_augment(values),
        class_counts=None,
        lpips_weights=weights and os.path.abspath(weights),
        batch_gpu=values["batch_gpu"] or batch // values["gpus"],
        g_reg_interval=values["density_reg_every"] if values["density_reg"] > 0 else None,
        ema_kimg=batch * EMA_KIMG_AT_REFERENCE / REFERENCE_BATCH,
        ema_rampup=None if resumed else EMA_RAMPUP,
        metrics=_metrics(values),
        evaluate=not values["no_eval"],
        **{field: values[name] for field, name in AS_GIVEN.items()},
    )
    options.check_batch()
    _check_names(values, options)
    return options


def idle(values: Mapping[str, Any]) -> dict[str, str]:
    """Options that do nothing beside the others, and why."""
    edges, labels, resumed = values["data_type"] == "edge", values["render_mask"], values["resume"] is not None
    l1 = values["density_reg"] > 0 and values["reg_type"] == "l1"
    judged = [] if values["no_eval"] else _metrics(values)
    rules = {
        "semantic_channels": (edges, "edges are no classes"),
        "data_resolution": (edges, "it checks data of --data_type=seg alone"),
        "edge_weight": (not (edges and labels), "it needs --data_type=edge and --render_mask=True"),
        "seg_weight": (not labels, "it needs --render_mask=True"),
        "lambda_cross_view": (not labels, "it needs --render_mask=True"),
        "lambda_d_semantic": (not values["dis_mask"], "it needs --dis_mask=True"),
        "lpips_weights": (
            values["lambda_lpips"] == 0 and not any(name.startswith("sg") for name in judged),
            "--lambda_lpips is 0, and no metric that is computed takes it",
        ),
        "p": (values["aug"] != "fixed", "it needs --aug=fixed"),
        "target": (values["aug"] != "ada", "it needs --aug=ada"),
        "resume_blur": (not resumed, "it needs --resume"),
        "blur_fade_kimg": (resumed and not values["resume_blur"], "after --resume it needs --resume_blur=True"),
        "neural_rendering_resolution_fade_kimg": (
            values["neural_rendering_resolution_final"] is None, "it needs --neural_rendering_resolution_final"
        ),
        "density_reg_every": (values["density_reg"] == 0, "--density_reg is 0"),
        "density_reg_p_dist": (not l1, "it needs --reg_type=l1, and --density_reg above 0"),
        "reg_type": (values["density_reg"] == 0, "--density_reg is 0"),
        "c_scale": (not values["gen_pose_cond"], "it needs --gen_pose_cond=True"),
        "disc_c_noise": (not values["cond"], "it needs --cond=True"),
    }  # fmt: skip
    return {name: why for name, (does_nothing, why) in rules.items() if does_nothing}


def _check_size(values: Mapping[str, Any], data: DataOptions) -> None:
    size, expected = data.resolution, values["data_resolution"]
    if size not in SUPER_RESOLUTION:
        sizes = ", ".join(map(str, sorted(SUPER_RESOLUTION)))
        raise ValueError(f"--data {data.path}: its images have {size} pixels, allowed are {sizes}")
    if data.data_type == "seg" and expected not in (0, size):
        raise ValueError(f"--data_resolution {expected}: the images have {size} pixels")


def _check_model(values: Mapping[str, Any], data: DataOptions) -> None:
    """Refuse parts of the model that need other parts which are off."""
    seg = data.data_type == "seg"
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
    if values["seg_weight"] in ("1", "2"):
        try:
            class_weights(int(values["seg_weight"]), values["semantic_channels"])
        except ValueError as error:
            raise ValueError(f"--{error}") from error
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


def _check_names(values: Mapping[str, Any], options: TrainingOptions) -> None:
    desc = values["desc"] or ""
    if not desc.isprintable() or set(desc) & set("/\\"):
        raise ValueError(f"--desc {desc!r}: a part of a folder's name, without / and \\")
    if (size := len(os.fsencode(options.run_name))) > MAX_RUN_NAME:
        option = "--desc" if desc else "--data"
        raise ValueError(f"{option}: the run's folder would have a name of {size} bytes, at most {MAX_RUN_NAME}")
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
