"""Convert the values of the training command to `TrainingOptions`: dependent defaults, and checks across options.

Errors name fields of the options, or values by the parameter names of the training command.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from camera_utils import CAMERAS, FACES
from dnnlib.errors import ConfigError
from training.data.archive import DataError
from training.data.checks import check_dataset
from training.data.dataset import PosedImageDataset
from training.data.depth_maps import DepthImages
from training.data.mirror import TABLES, parse_pairs
from training.loss_terms import class_weights
from training.networks.configs import RENDERING, SUPER_RESOLUTION, GeneratorOptions
from training.networks.superresolution import LAYOUTS
from training.networks.synthesis import count_ws
from training.options import (
    AugmentOptions,
    DataOptions,
    DiscriminatorOptions,
    LossOptions,
    PatchOptions,
    StyleOptions,
    TrainingOptions,
)
from training.patches import BACKGROUND_RADIUS
from training.perceptual import SMALLEST_IMAGE

# Constants of the published training command.

# Half-life of G_ema at the batch size that schedules refer to, thousands of images; its upper limit as a share of the
# images seen.
REFERENCE_BATCH = 32
EMA_KIMG_AT_REFERENCE = 10
EMA_RAMPUP = 0.05

# Blur of discriminator inputs at the start, pixels.
BLUR_INIT_SIGMA = 10

# Thousands of images over which the augmentation probability can change by 1, in new runs and after `resume`.
ADA_KIMG = 500
ADA_KIMG_RESUMED = 100

# Classes of the published label maps of faces (CelebAMask-HQ).
CELEBAMASK_CLASSES = 19

# Names of values by the fields of TrainingOptions and its groups, where they differ, and by an argument of `launch`.
# Two fields are not listed, as generator and discriminator have their own value: pose_conditioning and num_fp16_res.
RENAMED = {
    "label_discriminator": "dis_mask", "num_gpus": "gpus", "batch_size": "batch", "g_lr": "glr", "d_lr": "dlr",
    "resume_pkl": "resume", "total_kimg": "kimg", "kimg_per_tick": "tick", "snapshot_ticks": "snap",
    "random_seed": "seed", "r1_gamma": "gamma", "lambda_D_semantic": "lambda_d_semantic", "camera": "cfg",
    "render_labels": "render_mask", "background": "use_bg", "channel_base": "cbase", "channel_max": "cmax",
    "freeze_layers": "freezed", "processes": "gpus", "depth_path": "depth_data",
    "mirror_swaps": "mirror_classes",
}  # fmt: skip

# Components of the model, and the values that they need.
COMPONENT_NEEDS = {
    "dis_mask": {"render_mask": True},
    "use_bg": {"render_mask": True},
    "silhouette_loss": {"use_bg": True, "data_type": "seg"},
    "gen_pose_cond": {"cond": True},
    "style_encoder": {"reconstruction": "patches"},
}

# Values that patch training needs, as its loss has no other form.
PATCH_NEEDS = {"render_mask": True, "dis_mask": False, "use_bg": False, "aug": "noaug"}

# Values that have an effect only in combination with others; see also `without_effect`.
_IMAGES = {"reconstruction": "images"}
_PATCHES = {"reconstruction": "patches"}
_STYLE = {"style_encoder": True}
EFFECT_NEEDS = {
    "semantic_channels": {"data_type": "seg"},
    "data_resolution": {"data_type": "seg"},
    "edge_weight": {"data_type": "edge", "render_mask": True},
    "seg_weight": {"render_mask": True},
    "lambda_cross_view": {"render_mask": True, **_IMAGES},
    "lambda_d_semantic": {"dis_mask": True},
    "p": {"aug": "fixed"},
    "target": {"aug": "ada"},
    "density_reg_p_dist": {"reg_type": "l1"},
    "c_scale": {"gen_pose_cond": True},
    "disc_c_noise": {"cond": True},
    "mirror_pose": {"mirror": True},
    "mirror_classes": {"mirror": True, "data_type": "seg"},
    "random_c_prob": _IMAGES,
    "only_raw_recons": _IMAGES,
    "cond": _IMAGES,
    "mbstd_group": _IMAGES,
    "patch_size": _PATCHES,
    "patch_prob": _PATCHES,
    "lambda_novel_view": _PATCHES,
    "depth_data": _PATCHES,
    "lambda_patch_d": _PATCHES,
    "lambda_kl": _STYLE,
    "kl_warmup_kimg": _STYLE,
    "lambda_moments": _STYLE,
    "lambda_color": _STYLE,
    "prior_prob": _STYLE,
}

Values = Mapping[str, Any]  # of the training command, by parameter name

# --------------------------------------------------------------------------- data


def open_data(values: Values) -> tuple[PosedImageDataset, DataOptions]:
    """Open the data set and check file names, poses and the first image.

    Raises:
        ConfigError: the data set is missing or invalid.
    """
    # Decodes only the first image; `examine_data` decodes all.
    try:
        dataset = PosedImageDataset(values["data"], values["mask_data"], values["data_type"])
    except DataError as error:
        raise _data_config_error(values, error) from error

    # Absolute paths, as a run can be continued from any directory.
    options = DataOptions(
        dataset.name,
        path=os.path.abspath(values["data"]),
        mask_path=os.path.abspath(values["mask_data"]),
        data_type=dataset.data_type,
        resolution=dataset.resolution,
        max_size=len(dataset),
        xflip=values["mirror"],
        mirror_pose=values["mirror"] and values["mirror_pose"],
        mirror_swaps=_mirror_swaps(values),
        other_views=values["reconstruction"] == "patches" and values["lambda_novel_view"] > 0,
        depth_path=values["depth_data"] and os.path.abspath(values["depth_data"]),
    )
    _check_depth(dataset, options)
    return dataset, options


def _mirror_swaps(values: Values) -> list[list[int]] | None:
    """Return the pairs of classes that change places in mirrored copies, or None for none."""
    if not values["mirror"] or values["data_type"] != "seg":
        return None
    if values["mirror_classes"] != "auto":
        return parse_pairs(values["mirror_classes"], values["semantic_channels"]) or None

    # The only published classes with a left and a right side.
    is_celebamask = CAMERAS[values["cfg"]] is FACES and values["semantic_channels"] == CELEBAMASK_CLASSES
    return TABLES["celebamask"] if is_celebamask else None


def _check_depth(dataset: PosedImageDataset, options: DataOptions) -> None:
    """Read one depth map, which finds those of another data set."""
    if options.depth_path is not None:
        try:
            DepthImages(options.depth_path).read(dataset, 0)
        except DataError as error:
            raise ConfigError("depth_data", problem=str(error)) from error


def examine_data(
    options: TrainingOptions,
    dataset: PosedImageDataset,
    values: Values,
    progress: Callable[[Iterable], Iterable] = iter,
) -> TrainingOptions:
    """Decode every file of the data set once, and add what the options take from the files (class counts).

    Raises:
        ConfigError: a file that training would fail on, for example with class ids out of range.
    """
    # All problems are collected before any is reported; edges have no classes.
    classes = values["semantic_channels"] if dataset.data_type == "seg" else None
    report = check_dataset(dataset.images, dataset.label_maps, dataset.index, dataset.data_type, classes, progress)
    if report.problems:
        raise _data_config_error(values, DataError(values["data"], report.problems))

    # Class frequencies, if the loss uses them.
    counts = report.histogram[:classes].tolist() if options.loss.seg_weight == "auto" else None
    return replace(options, class_counts=counts)


def _data_config_error(values: Values, error: DataError) -> ConfigError:
    """Attribute an error of the data set to the images or to the label maps."""
    # Problems found by `check_dataset` begin with the name of the archive, which both may share; other errors have the
    # path of the archive.
    label_maps = Path(values["mask_data"])
    in_label_maps = error.problems[0].file.startswith(f"{label_maps.name}/")
    names_differ = label_maps.name != Path(values["data"]).name
    if Path(error.path) == label_maps or (in_label_maps and names_differ):
        return ConfigError("mask_data", problem=str(DataError(values["mask_data"], error.problems)))
    return ConfigError("data", problem=str(error))


# --------------------------------------------------------------------------- all options


def resolve(values: Values, data: DataOptions) -> TrainingOptions:
    """Resolve all options except those that `examine_data` adds.

    Args:
        values: of the training command, by parameter name.
        data: result of `open_data`.
    Raises:
        ConfigError: values that contradict each other or the data.
    """
    # Contradictions between values, or of values and data.
    _check_desc(values["desc"] or "")
    _check_size(values, data)
    _check_model(values, data)
    _check_rendering(values, data)
    if values["reconstruction"] == "patches":
        _check_patches(values, data)

    # Dependent defaults. Schedules are proportional to the batch size, so that they take equally many iterations. Paths
    # are absolute, as a run can be continued from any directory.
    batch = values["batch"]
    lpips_weights = values["lpips_weights"]
    options = _from_values(
        TrainingOptions,
        values,
        generator=_generator(values, data),
        discriminator=_discriminator(values, data),
        loss=_loss(values),
        data=data,
        augment=_augment(values),
        patches=_from_values(PatchOptions, values) if values["reconstruction"] == "patches" else None,
        style=_from_values(StyleOptions, values) if values["style_encoder"] else None,
        class_counts=None,
        lpips_weights=lpips_weights and os.path.abspath(lpips_weights),
        batch_gpu=values["batch_gpu"] or max(batch // values["gpus"], 1),
        g_reg_interval=values["density_reg_every"] if values["density_reg"] > 0 else None,
        ema_kimg=values["ema_kimg"] or batch * EMA_KIMG_AT_REFERENCE / REFERENCE_BATCH,
        ema_rampup=EMA_RAMPUP if values["resume"] is None else None,
        metrics=_metrics(values),
        evaluate=not values["no_eval"],
    )

    # The default of batch_gpu is known now.
    options.check_batch()
    return options


def without_effect(values: Values) -> dict[str, str]:
    """Return the names of values that have no effect in combination with the others, and what they would need.

    These descriptions contain other values' names in backticks, as `show_fields` reads them.
    """
    metric_uses_lpips = not values["no_eval"] and any(name.startswith("sg") for name in _metrics(values))

    # Conditions other than equality with a value: whether they are met, and their description.
    needs = {
        "lpips_weights": (
            values["lambda_lpips"] > 0 or metric_uses_lpips, "`lambda_lpips` above 0 or a metric that computes LPIPS"
        ),
        "resume_blur": (values["resume"] is not None, "`resume`"),
        "blur_fade_kimg": (_has_blur(values), "`resume_blur=True` after `resume`"),
        "neural_rendering_resolution_fade_kimg": (
            values["neural_rendering_resolution_final"] is not None, "`neural_rendering_resolution_final`"
        ),
    }  # fmt: skip
    for name in ("lambda_depth", "lambda_empty", "guided_kimg"):
        needs[name] = (values["depth_data"] is not None, "`depth_data`")
    for name in ("lambda_feature", "patch_d_start_kimg", "d_width"):
        needs[name] = (values["lambda_patch_d"] > 0, "`lambda_patch_d` above 0")
    for name in ("density_reg_every", "density_reg_p_dist", "reg_type"):
        needs[name] = (values["density_reg"] > 0, "`density_reg` above 0")
    unmet = {name: description for name, (met, description) in needs.items() if not met}
    return _unmet(EFFECT_NEEDS, values) | unmet


def _unmet(needs: Mapping[str, Mapping[str, Any]], values: Values) -> dict[str, str]:
    """Return the names whose needed values are not set, with a description of these values."""
    # For example "`data_type=edge` and `render_mask=True`".
    return {
        name: " and ".join(f"`{field}={value}`" for field, value in needed.items())
        for name, needed in needs.items()
        if any(values[field] != value for field, value in needed.items())
    }


# --------------------------------------------------------------------------- checks


def _check_size(values: Values, data: DataOptions) -> None:
    """Check the size of the images, and that layers of all sizes have channels."""
    # Super-resolution exists for few sizes.
    size = data.resolution
    if size not in SUPER_RESOLUTION:
        sizes = ", ".join(map(str, sorted(SUPER_RESOLUTION)))
        raise ConfigError("data", problem=f"{data.path}: images of {size} pixels, expected {sizes}")
    if data.data_type == "seg" and values["data_resolution"] not in (0, size):
        raise ConfigError("data_resolution", values["data_resolution"], f"the size of the images, {size} pixels, or 0")

    # A layer of r pixels has cbase / r channels.
    largest = max(size, values["plane_resolution"])
    if values["cbase"] < largest:
        raise ConfigError(
            "cbase", values["cbase"], f"{largest} or more, so that layers of {largest} pixels have channels"
        )


def _check_model(values: Values, data: DataOptions) -> None:
    """Check that components of the model have the components that they need."""
    # Only those that are switched on.
    for name, needed in _unmet(COMPONENT_NEEDS, values).items():
        if values[name]:
            raise ConfigError(name, problem=f"needs {needed}")

    # Class weights need classes, and the published table fits one data set only.
    if values["seg_weight"] != "0" and data.data_type != "seg":
        raise ConfigError("seg_weight", values["seg_weight"], "0, as edges have no classes", "use `edge_weight`")
    if values["seg_weight"] in ("1", "2"):
        class_weights(int(values["seg_weight"]), values["semantic_channels"])  # raises if there is no table

    # Planes double in size from block to block; larger planes have more blocks, each with its own ws.
    planes = values["plane_resolution"]
    if planes & (planes - 1):
        raise ConfigError("plane_resolution", planes, "a power of two")
    layers = count_ws(planes)
    if not 0 < values["geometry_layer"] < layers:
        raise ConfigError("geometry_layer", values["geometry_layer"], f"1 to {layers - 1}")


def _check_rendering(values: Values, data: DataOptions) -> None:
    """Check that super-resolution fits the images, and raw images fit super-resolution and LPIPS."""
    # Super-resolution of this output size; its name may be the published one, with a module.
    layouts = {name: layout for name, layout in LAYOUTS.items() if layout.output == data.resolution}
    module = values["sr_module"] or SUPER_RESOLUTION[data.resolution]
    layout = layouts.get(module.rsplit(".", 1)[-1])
    if layout is None:
        raise ConfigError("sr_module", module, f"one for {data.resolution} pixels: {', '.join(layouts)}")

    # Raw images at the start and at the end of the schedule. Super-resolution enlarges smaller ones to its input; only
    # some layouts accept larger ones.
    for field in ("neural_rendering_resolution_initial", "neural_rendering_resolution_final"):
        size = values[field]
        if size is None:
            continue
        if size > layout.input and not layout.shrinks:
            allowed = f"at most {layout.input}, the input of super-resolution to {layout.output} pixels"
            raise ConfigError(field, size, allowed)
        if size < SMALLEST_IMAGE and values["lambda_lpips"] > 0:
            raise ConfigError(field, size, f"at least {SMALLEST_IMAGE} for LPIPS", "or set `lambda_lpips=0`")


def _check_patches(values: Values, data: DataOptions) -> None:
    """Check that the model has what the loss of patches needs, and that patches fit the raw image."""
    for name, needed in PATCH_NEEDS.items():
        if values[name] != needed:
            raise ConfigError(name, values[name], str(needed), "`reconstruction=patches` needs that")

    # Patches are super-resolved without resizing, so raw images have the size of super-resolution's input.
    layout = LAYOUTS[SUPER_RESOLUTION[data.resolution]]
    raw = values["neural_rendering_resolution_initial"]
    if raw != layout.input or values["neural_rendering_resolution_final"] not in (None, raw):
        allowed = f"{layout.input} without a final size, as patches are super-resolved to {layout.output} pixels"
        raise ConfigError("neural_rendering_resolution_initial", raw, allowed)
    size = values["patch_size"]
    if raw % size or size & (size - 1):
        raise ConfigError("patch_size", size, f"a power of two of at most {raw}, the size of the raw image")


def _check_desc(desc: str) -> None:
    """Check that the run directory's name can end in this description on all systems."""
    if not desc.isprintable() or set(desc) & set("/\\"):
        raise ConfigError("desc", desc, "printable characters other than / and \\")


# --------------------------------------------------------------------------- groups of options


def _from_values(options_class: type, values: Values, **computed: Any) -> Any:
    """Build options from the values that their fields name, see RENAMED, and from computed fields, which go first."""
    names = {field.name: RENAMED.get(field.name, field.name) for field in fields(options_class)}
    unchanged = {field: values[name] for field, name in names.items() if name in values}
    return options_class(**{**unchanged, **computed})


def _generator(values: Values, data: DataOptions) -> GeneratorOptions:
    return _from_values(
        GeneratorOptions,
        values,
        resolution=data.resolution,
        background_radius=BACKGROUND_RADIUS if _has_solid_background(values, data) else None,
        pose_conditioning=values["gen_pose_cond"],
        num_fp16_res=values["g_num_fp16_res"],
    )


def _has_solid_background(values: Values, data: DataOptions) -> bool:
    """Return whether training with depth asks empty rays to end on a sphere, see `training.patches.far_side`."""
    return (
        values["reconstruction"] == "patches"
        and bool(data.depth_path)
        and not RENDERING[values["cfg"]].get("white_back")
    )


def _discriminator(values: Values, data: DataOptions) -> DiscriminatorOptions:
    return _from_values(
        DiscriminatorOptions,
        values,
        resolution=data.resolution,
        pose_conditioning=values["cond"],
        num_fp16_res=values["d_num_fp16_res"],
    )


def _loss(values: Values) -> LossOptions:
    # The time of the fade is proportional to the batch size.
    return _from_values(
        LossOptions,
        values,
        seg_weight="auto" if values["seg_weight"] == "auto" else int(values["seg_weight"]),
        blur_init_sigma=BLUR_INIT_SIGMA if _has_blur(values) else 0,
        blur_fade_kimg=values["batch"] * values["blur_fade_kimg"] / REFERENCE_BATCH,
    )


def _has_blur(values: Values) -> bool:
    """Return whether discriminator inputs are blurred at first: in new runs, after `resume` only if asked for."""
    return values["resume"] is None or values["resume_blur"]


def _augment(values: Values) -> AugmentOptions | None:
    # Adaptive augmentation starts without any.
    if values["aug"] == "fixed":
        return AugmentOptions(values["p"])
    if values["aug"] == "ada":
        return AugmentOptions(0.0, values["target"], ADA_KIMG if values["resume"] is None else ADA_KIMG_RESUMED)
    return None


def _metrics(values: Values) -> list[str]:
    # Their names are checked by the training command, as this package cannot import the metrics.
    names = [] if values["metrics"] == "none" else [name.strip() for name in values["metrics"].split(",")]
    if not names and not values["no_eval"]:
        raise ConfigError("no_eval", False, "True, as `metrics` is none")
    return names
