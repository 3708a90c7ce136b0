"""Options of the training command: resolved as published, each with an effect, wrong ones rejected in one line."""

import errno
import functools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import golden
from small_data import dataset_json, good_poses, image_files, label_files, name_of, png, write_zip
from small_training import SMALL, arguments, run, small_data

import train
from training.options import AUGMENTATIONS, TrainingOptions
from training.resolve import RENAMED
from training.run_dir import create_run_dir, latest_run, write_options
from training.signals import Interrupted
from training.train_state import BETAS, EPS, build_optimizer
from training.training_loop import phases_of

SCRIPTS = Path(train.__file__).parent / "train_scripts"
RUNS = json.loads((golden.HERE / "train_options.json").read_text())
BUILT = [name for name, case in RUNS.items() if name != "about" and "result" in case]
REJECTED_BY_PUBLISHED = [name for name, case in RUNS.items() if name != "about" and "error" in case]
WITHOUT_COUNTERPART = {  # keys of the published configuration without a counterpart, and why
    "loss_kwargs.class_name": "one loss",
    "loss_kwargs.dual_discrimination": "always on, by the class of the discriminator",
    "loss_kwargs.gpc_reg_prob": "does nothing",
    "loss_kwargs.gpc_reg_fade_kimg": "does nothing",
    "loss_kwargs.style_mixing_prob": "does nothing",
    "data_loader_kwargs.pin_memory": "follows from the device",
    "data_loader_kwargs.prefetch_factor": "default of the data stream",
    "data_loader_kwargs.num_workers": "--workers is honored",
    "D_opt_kwargs.class_name": "always Adam",
    "G_opt_kwargs.class_name": "always Adam",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Function from an image size and a data type to the options of a tiny data set."""
    directory = tmp_path_factory.mktemp("data")

    @functools.cache
    def make(size=128, data_type="seg"):
        subdirectory = directory / f"{data_type}{size}"
        subdirectory.mkdir(exist_ok=True)
        return small_data(subdirectory, count=2, size=size, edges=data_type == "edge")

    yield make
    shutil.rmtree(directory)


def resolved(*words, **options) -> TrainingOptions:
    result = run("--dry-run", *words, **options)
    assert result.exit_code == 0, result.output
    text = result.output
    return TrainingOptions.from_plain(json.loads(text[text.index("{") : text.rindex("}") + 1]))


def error_line(*words, **options) -> str:
    result = run(*words, **options)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit), "a traceback"
    (line,) = result.output.splitlines()
    return line


def flat(tree, prefix=""):
    """Flatten nested dicts to values by dotted keys."""
    items = [(prefix + key, value) for key, value in tree.items()]
    nested = [flat(value, f"{name}.") for name, value in items if isinstance(value, dict)]
    return {name: value for name, value in items if not isinstance(value, dict)} | {
        k: v for part in nested for k, v in part.items()
    }


def as_published(options: TrainingOptions) -> dict:
    """Convert options to the published configuration, without arguments that networks get at construction."""
    networks = {name: {**kwargs, "class_name": cls} for name, (cls, kwargs) in options.networks.items()}
    at_construction = {"c_dim", "img_resolution", "img_channels", "semantic_channels", "data_type"}
    networks = {n: {k: v for k, v in kwargs.items() if k not in at_construction} for n, kwargs in networks.items()}
    adam = {"betas": list(BETAS), "eps": EPS}
    form = {
        "G_kwargs": networks["G"],
        "D_kwargs": networks["D"],
        "D_semantic_kwargs": networks.get("D_semantic"),
        "G_opt_kwargs": {**adam, "lr": options.g_lr},
        "D_opt_kwargs": {**adam, "lr": options.d_lr},
        "loss_kwargs": asdict(options.loss),
        "training_set_kwargs": {**options.data.kwargs(), "path": "DATA.zip", "mask_path": "MASK.zip"},
        "num_gpus": options.num_gpus,
        "batch_size": options.batch_size,
        "batch_gpu": options.batch_gpu,
        "metrics": options.metrics,
        "no_eval": not options.evaluate,
        "total_kimg": options.total_kimg,
        "kimg_per_tick": options.kimg_per_tick,
        "image_snapshot_ticks": options.snapshot_ticks,
        "network_snapshot_ticks": options.snapshot_ticks,
        "random_seed": options.random_seed,
        "ema_kimg": options.ema_kimg,
        "wandb_log": options.wandb_log,
        "debug": options.debug,
    }
    if options.g_reg_interval:
        form["G_reg_interval"] = options.g_reg_interval
    if options.resume_pkl:
        form |= {"resume_pkl": options.resume_pkl, "ada_kimg": 100, "ema_rampup": options.ema_rampup}
    if options.augment:
        form["augment_kwargs"] = {**AUGMENTATIONS, "class_name": "training.augment.AugmentPipe"}
        form |= (
            {"ada_target": options.augment.target}
            if options.augment.target is not None
            else {"augment_p": options.augment.p}
        )
    return form


def options_of(case: dict, data) -> dict:
    """Options of a recorded command line, with a data set of the recorded size and type."""
    options = dict(word.split("=") for word in case["args"].split())
    return options | data(case["data_resolution"], options.get("--data_type", options.get("data_type", "seg")))


@pytest.mark.parametrize("name", BUILT)
def test_command_lines_resolve_to_the_published_configuration(name, data, tmp_path):
    case = RUNS[name]
    ours = resolved(outdir=tmp_path, **{"wandb_log": True, **options_of(case, data)})
    expected = flat(case["result"]) | {"training_set_kwargs.max_size": 2}
    actual = flat(as_published(ours))
    if ours.generator.geometry_layer != 7:  # the published class ignores it
        mapping = "G_kwargs.mapping_kwargs."
        assert actual.pop(mapping + "one_hot") is False
        assert actual.pop(mapping + "class_name") == "ConditionalMappingNetwork" and expected.pop(
            mapping + "class_name"
        )
    assert {name: value for name, value in expected.items() if name not in WITHOUT_COUNTERPART} == actual


@pytest.mark.parametrize("name", REJECTED_BY_PUBLISHED)
def test_command_lines_that_the_published_command_rejects_are_rejected(name, data, tmp_path):
    case = RUNS[name]
    assert re.match(
        "Error: .*--(batch|batch-gpu|data|cfg)", error_line("-n", outdir=tmp_path, **options_of(case, data))
    )


BASE = {**SMALL, "resume": "x.pkl"}
BACKGROUND = {"use_bg": True}
EDGES = {"data_type": "edge"}
LARGE_ENOUGH = {"neural_rendering_resolution_initial": 16}  # for the downsampling of LPIPS
SIZES = {"dis_mask": False, "neural_rendering_resolution_initial": 64}  # that patches need
PATCHES = {**SIZES, "reconstruction": "patches"}
STYLE = {**PATCHES, "style_encoder": True}
PATCH_D = {**PATCHES, "lambda_patch_d": 0.1}
CHANGES = {  # option: value other than the default, and options that it needs
    "cfg": "ffhq", "data_type": "edge", "semantic_channels": 5, "mirror": True, "gpus": 2, "batch": 4,
    "batch_gpu": 1, "kimg": 5, "cond": False, "gen_pose_cond": True, "render_mask": (False, {"dis_mask": False}),
    "use_bg": True, "geometry_layer": 9, "cbase": 1024, "cmax": 16, "map_depth": 3, "decoder_lr_mul": 0.5,
    "c_scale": (0.5, {"gen_pose_cond": True}), "encoder_width": 0.05, "sr_width": 0.5, "plane_resolution": 128,
    "depth_resolution": 8, "sr_module": "SuperresolutionHybrid2X", "sr_noise_mode": "random",
    "neural_rendering_resolution_initial": 16, "neural_rendering_resolution_final": 32,
    "neural_rendering_resolution_fade_kimg": (5, {"neural_rendering_resolution_final": 32}),
    "g_num_fp16_res": 2, "sr_num_fp16_res": 0, "d_num_fp16_res": 0,
    "dis_mask": False, "gamma": 2, "mbstd_group": 2, "freezed": 2, "disc_c_noise": 0.1, "random_c_prob": 0.1,
    "lambda_l1": 3, "lambda_lpips": (1, LARGE_ENOUGH),
    "lpips_weights": ("vgg.pth", {"lambda_lpips": 1, **LARGE_ENOUGH}),
    "only_raw_recons": True, "lambda_d_semantic": 0.5,
    "lambda_cross_view": 0.1, "seg_weight": "auto", "edge_weight": (3, EDGES), "silhouette_loss": (True, BACKGROUND),
    "density_reg": 0, "density_reg_every": 8, "density_reg_p_dist": 0.1, "reg_type": "monotonic-fixed",
    "blur_fade_kimg": (7, {"resume_blur": True}),
    "resume_blur": True, "glr": 0.1, "dlr": 0.1, "aug": "ada", "p": (0.3, {"aug": "fixed"}),
    "target": (0.3, {"aug": "ada"}), "resume": "y.pkl", "desc": "note", "tick": 1, "snap": 3, "keep_states": 5,
    "grid": "2x2", "metrics": "none", "wandb_log": True, "seed": 3, "workers": 1, "nobench": True, "debug": True,
    "no_eval": (False, {"metrics": "miou"}),
    "mirror_classes": ("1-2", {"mirror": True}),
    "mirror_pose": (True, {"mirror": True}), "encoder_resolution": 64, "z_dim": 16, "map_lr_mul": 0.1,
    "style_bias": True,
    "plane_axes": "corrected", "box_warp": 1.2, "ray_start": 2.3, "ray_end": 3.2, "beta1": 0.9,
    "lr_schedule": "cosine", "warmup_kimg": 1, "clip_grad": 10, "ema_kimg": 1, "reconstruction": ("patches", SIZES),
    "patch_size": (16, PATCHES), "patch_prob": (0.4, PATCHES), "lambda_novel_view": (2, PATCHES),
    "lambda_patch_d": (0.1, PATCHES), "lambda_feature": (2, PATCH_D), "patch_d_start_kimg": (3, PATCH_D),
    "d_width": (8, PATCH_D), "style_encoder": (True, PATCHES), "lambda_kl": (1e-3, STYLE),
    "kl_warmup_kimg": (1, STYLE), "lambda_moments": (0.1, STYLE), "lambda_color": (2, STYLE),
    "prior_prob": (0.3, STYLE),
}  # fmt: skip
TESTED_ELSEWHERE = {
    *("outdir", "data", "mask_data", "continue_dir", "dry_run", "device", "data_resolution", *train.NO_EFFECT),
    *("depth_data", "lambda_depth", "lambda_empty", "guided_kimg", "version"),
}  # fmt: skip


def test_every_option_is_in_the_table_of_changes():
    assert {param.name for param in train.main.params} == CHANGES.keys() | TESTED_ELSEWHERE


@pytest.mark.parametrize("name", CHANGES)
def test_each_option_changes_the_resolved_options(name, data, tmp_path):
    value, needed = CHANGES[name] if isinstance(CHANGES[name], tuple) else (CHANGES[name], {})
    options = {"outdir": tmp_path, **BASE, **needed}
    changed = options | {name: value}
    before, after = (resolved(**each, **data(128, each.get("data_type", "seg"))) for each in (options, changed))
    files = {field: getattr(before.data, field) for field in ("path", "mask_path")}
    assert replace(after, data=replace(after.data, **files)) != before
    output = run("-n", **changed, **data(128, changed.get("data_type", "seg"))).output
    assert f"--{name} has no effect" not in output, "the option changes its field only"


WITHOUT_EFFECT = {  # option: options beside which it has no effect, and what it needs
    "edge_weight": ({"edge_weight": 3}, "--data_type=edge and --render_mask=True"),
    "seg_weight": ({"seg_weight": "auto", "render_mask": False, "dis_mask": False}, "--render_mask=True"),
    "lambda_cross_view": (
        {"lambda_cross_view": 1, "render_mask": False, "dis_mask": False},
        "--render_mask=True and --reconstruction=images",
    ),
    "lambda_kl": ({"lambda_kl": 1}, "--style_encoder=True"),
    "lambda_depth": ({"lambda_depth": 1}, "--depth_data"),
    "d_width": ({"d_width": 1}, "--lambda_patch_d above 0"),
    "p": ({"p": 0.3}, "--aug=fixed"),
    "lpips_weights": ({"lpips_weights": "vgg.pth"}, "--lambda_lpips above 0 or a metric that computes LPIPS"),
    "blur_fade_kimg": ({"blur_fade_kimg": 7}, "--resume_blur=True after --resume"),
    "c_scale": ({"c_scale": 2}, "--gen_pose_cond=True"),
}  # fmt: skip


@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_options_without_effect_are_reported(name, data, tmp_path):
    changes, needs = WITHOUT_EFFECT[name]
    options = {"outdir": tmp_path, **BASE, **data(), **changes}
    assert f"--{name} has no effect: it needs {needs}\n" in run("-n", **options).output
    del options[name]
    assert f"--{name} has" not in run("-n", **options).output


def test_lpips_weights_have_an_effect_if_only_a_metric_uses_them(data, tmp_path):
    options = {"outdir": tmp_path / "runs", **BASE, **data(), "metrics": "sg", "no_eval": False}
    assert "no effect" not in run("-n", **options, lpips_weights="none.pth").output
    line = error_line(**options, lpips_weights="none.pth")  # or no torchvision that fits this torch
    expected = r"Error: --metrics: distance: lpips is not available \(\S*/none\.pth: .*\); --no_eval=True .*"
    assert re.fullmatch(expected, line), line


def test_errors_of_renamed_fields_show_their_options():
    for field, name in RENAMED.items():
        assert train.main.option_of(field) == f"--{name}"


def test_docs_list_the_options_that_continue_allows():
    page = (Path(train.__file__).parent / "docs" / "training.md").read_text()
    listed = re.findall(r"`--([a-z_-]+)`", page.partition("run without the stop.")[2].partition("can be changed")[0])
    assert {name.replace("-", "_") for name in listed} == train.CHANGEABLE.keys() | {"device"}


@pytest.mark.parametrize("name", ["afhq_seg", "afhq_edge", "celeba_seg", "shapenet_edge"])
def test_published_training_scripts_have_valid_options(name, data, tmp_path):
    script = SCRIPTS / f"{name}.sh"
    text = script.read_text()
    assert os.access(script, os.X_OK) and subprocess.run(["bash", "-n", script], check=False).returncode == 0
    (command,) = re.findall(r"^exec python train\.py (.*)$", text.replace("\\\n", " "), re.MULTILINE)
    words = [word for word in shlex.split(command) if word != "$@"]
    pixels = 128 if "shapenet" in command else 512
    options = resolved(*words, outdir=tmp_path, **data(pixels, "edge" if "edge" in script.stem else "seg"))
    assert options.generator.render_labels and options.label_discriminator and options.loss.random_c_prob == 0.5
    assert options.resume_pkl or options.loss.lambda_lpips == 0


# In place of Python: says whether there is a GPU, and prints the options of the training command.
FAKE_PYTHON = """#!/bin/bash
case "$1" in
    -c) exit $NO_GPU ;;
    train.py) shift; printf "%s\\n" "$@" ;;
esac
"""


def options_of_script(directory: Path, script: str, *words: str, no_gpu: str = "1") -> list[str]:
    """Return the options with which a script calls train.py, without those that need a data set with depth."""
    # A copy, as scripts write into the directory above theirs.
    shutil.copytree(SCRIPTS, directory / "scripts" / "train_scripts")
    python = directory / "python"
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    environment = {"PATH": f"{directory}:{os.environ['PATH']}", "NO_GPU": no_gpu}
    command = [directory / "scripts" / "train_scripts" / script, *words]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    return [word for word in output.split() if not word.startswith("--depth_data")]


@pytest.mark.parametrize("no_gpu", ["0", "1"])
@pytest.mark.parametrize("kind", ["seg", "edge"])
def test_toy_training_scripts_have_valid_options(kind, no_gpu, data, tmp_path):
    words = options_of_script(tmp_path, f"toy_{kind}.sh", "--kimg=7", no_gpu=no_gpu)
    output = run("-n", *words, outdir=tmp_path, **data(128, kind)).output
    # This data set has no depth maps.
    depth = {"guided_kimg", "lambda_depth", "lambda_empty"}
    assert set(re.findall("--(\\w+) has no effect", output)) <= depth, output
    options = resolved(*words, outdir=tmp_path, **data(128, kind))
    assert options.total_kimg == 7
    assert options.style is not None
    assert options.patches.lambda_patch_d > 0
    assert (options.batch_size > 4) == (no_gpu == "0")


def test_every_variant_of_the_ablation_has_valid_and_different_options(data, tmp_path):
    text = (SCRIPTS / "ablation.sh").read_text()
    variants = text.partition("${*:-")[2].partition("}")[0].split()
    assert len(variants) > 6

    # All on the same data set, so that only the options differ.
    data_set = data(128, "seg")
    runs = []
    for name in variants:
        (tmp_path / name).mkdir()
        words = options_of_script(tmp_path / name, "ablation.sh", name)
        words = [word for word in words if not word.startswith(("--outdir", "--data=", "--mask_data"))]
        runs.append(resolved(*words, outdir=tmp_path, **data_set))
    assert all(a != b for a, b in combinations(runs, 2))


@pytest.mark.parametrize("name", train.NO_EFFECT)
def test_published_options_without_effect_are_accepted_and_reported(name, data, tmp_path):
    options = {"outdir": tmp_path, **SMALL, **data()}
    result = run("-n", **options, **{name.replace("_", "-"): 1})
    assert f"--{name} has no effect" in result.output
    assert f"--{name} " not in run("--help").output
    assert resolved(**options, **{name: 1}) == resolved(**options)


def test_options_may_be_written_with_dashes_or_underscores(data, tmp_path):
    options = {"outdir": tmp_path, **SMALL, **data()}
    dashed = {name.replace("_", "-"): value for name, value in options.items()}
    assert resolved(**dashed) == resolved(**options)


def test_dry_run_writes_nothing_and_prints_the_run_directory(data, tmp_path):
    result = run("-n", outdir=tmp_path / "runs", desc="try", **{**SMALL, **data(), "gamma": 0.3})
    assert f"{tmp_path}/runs/NNNNN-afhq-pictures-gpus1-batch2-gamma0.3-try" in result.output
    assert not (tmp_path / "runs").exists()


def test_options_are_equal_after_saving_and_loading(data, tmp_path):
    options = resolved(outdir=tmp_path, **{**BASE, **data(), "aug": "ada", "seg_weight": "auto"})
    assert TrainingOptions.from_plain(json.loads(json.dumps(options.to_plain()))) == options


def test_automatic_class_weights_count_pixels_of_the_data_set(data, tmp_path):
    counts = resolved(outdir=tmp_path, **{**SMALL, **data(), "seg_weight": "auto"}).class_counts
    assert len(counts) == 4 and sum(counts) == 2 * 128 * 128 and min(counts) > 7000  # four classes, uniformly sampled


def test_lazy_regularization_scales_learning_rate_and_betas(data, tmp_path):
    options = resolved(outdir=tmp_path, **{**SMALL, **data()})
    assert [(p.name, p.interval) for p in phases_of(options)] == [
        ("Gmain", 1), ("Greg", 4), ("Dmain", 1), ("Dreg", 16), ("D_semanticmain", 1), ("D_semanticreg", 16),
    ]  # fmt: skip
    for network, lr, share in (("G", 0.0025, 4 / 5), ("D", 0.002, 16 / 17), ("D_semantic", 0.002, 16 / 17)):
        group = build_optimizer(options, network, _one_parameter()).param_groups[0]
        assert (group["lr"], group["betas"], group["eps"]) == (lr * share, (0, 0.99**share), 1e-8)


def test_without_density_regularization_the_generator_has_one_phase_and_the_full_learning_rate(data, tmp_path):
    options = resolved(outdir=tmp_path, **{**SMALL, **data(), "density_reg": 0, "gamma": 0})
    assert [(p.name, p.interval) for p in phases_of(options)] == [("Gboth", 1), ("Dmain", 1), ("D_semanticmain", 1)]
    assert build_optimizer(options, "G", _one_parameter()).param_groups[0]["lr"] == 0.0025
    assert build_optimizer(options, "D", _one_parameter()).param_groups[0]["lr"] == 0.002 * 16 / 17


def _one_parameter():
    return torch.nn.Linear(1, 1)


def test_restart_continues_the_last_run_of_the_same_torchrun_and_options(data, tmp_path, monkeypatch):
    options = resolved(outdir=tmp_path, **{**SMALL, **data(), "seg_weight": "auto"})
    opened = replace(options, class_counts=None)  # before the files are checked
    other = replace(options, g_lr=0.1)  # with the same run name
    assert latest_run(tmp_path / "none", opened) is None
    for one, started_by in ((options, "a"), (options, "a"), (other, "a"), (options, "b"), (options, None)):
        if started_by is None:
            monkeypatch.delenv("TORCHELASTIC_RUN_ID")
        else:
            monkeypatch.setenv("TORCHELASTIC_RUN_ID", started_by)
        write_options(create_run_dir(tmp_path, one.run_name), one)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a")
    create_run_dir(tmp_path, options.run_name)  # stopped before its options were written
    assert latest_run(tmp_path, opened).name == f"00001-{options.run_name}"
    assert latest_run(tmp_path, replace(opened, desc="else")) is None


def test_options_are_checked_before_data_files_and_a_restart_reads_none(data, tmp_path, monkeypatch):
    def opened(*_args):
        raise AssertionError("a file was opened")

    monkeypatch.setattr("training.resolve.check_dataset", opened)
    options = {"outdir": tmp_path, **SMALL, **data()}
    for changes in ({"batch": 3, "gpus": 2}, {"desc": "a/b"}, {"resume": "none.pkl"}, {"mbstd_group": 4},
                    {"gpus": 200, "batch": 400}):  # fmt: skip
        error_line(**{**options, **changes})
    for name, value in {"TORCHELASTIC_RUN_ID": "a", "TORCHELASTIC_RESTART_COUNT": "1"}.items():
        monkeypatch.setenv(name, value)
    done = []
    monkeypatch.setattr(train, "launch", lambda *args, **how: done.append(args[3]))
    known = TrainingOptions.from_plain({**resolved_without_data(options).to_plain()})
    write_options(create_run_dir(tmp_path, known.run_name), known)
    assert run(**options).exit_code == 0 and done == [tmp_path / f"00000-{known.run_name}"]


def resolved_without_data(options):
    _, resolved_options = train._new_options(train.main.make_context("train.py", arguments(options)).params)
    return resolved_options


# --------------------------------------------------------------------------- wrong inputs


def dataset_with(**changes):
    """Function from a directory to options of a data set with some files replaced (None removes one)."""

    def make(directory):
        files = {"data": image_files(2, 128), "mask_data": label_files(2, 128, 4)}
        for name, replaced in changes.items():
            files[name] = {k: v for k, v in (files[name] | replaced).items() if v is not None}
        return {name: write_zip(directory / f"{name}.zip", content) for name, content in files.items()}

    return make


LPIPS = {"lambda_lpips": 1, **LARGE_ENOUGH}
GRAY = np.full((128, 128), 9, np.uint8)
INVALID = {  # options, or a function from a directory to them; pattern of the error line
    "no cfg": ({"cfg": None}, "missing --cfg"),
    "no required option": (dict.fromkeys(("outdir", "data", "gamma")), "missing --outdir, --data, --gamma"),
    "unknown cfg": ({"cfg": "dogs"}, "'--cfg': 'dogs' is not one of 'afhq'"),
    "unknown option": ({"color": "red"}, "No such option '?--color"),
    "missing data": ({"data": "none.zip"}, "--data: none.zip: no such file or directory"),
    "missing label maps": ({"mask_data": "none.zip"}, "Error: --mask_data: none.zip: no such file or directory"),
    "class ids as drawings": (
        {**EDGES, "semantic_channels": None},
        "Error: --mask_data: .*labels.zip: .*half of its "
        "pixels are darker than [0-9]+ of 255; expected dark lines on white, not class ids",
    ),
    "an empty outdir": ({"outdir": ""}, "'--outdir': the path is empty"),
    "an empty mask_data": ({"mask_data": ""}, "'--mask_data': the path is empty"),
    "an outdir that cannot be created": ({"outdir": "/proc/x"}, "Error: /proc/x: No such file or directory$"),
    "more processes than cores": (
        {"gpus": 2000, "batch": 4000},
        "Error: --gpus: 2000 processes on this machine, which has .* CPU cores",
    ),
    "not a zip": (lambda directory: {"data": _written(directory / "a.zip", b"hello")}, "--data: .*a.zip"),
    "images without poses": (dataset_with(data={"dataset.json": None}), "dataset.json: missing"),
    "an image without pose": (
        dataset_with(data={"dataset.json": dataset_json(good_poses(1))}),
        "no pose in dataset.json",
    ),
    "an image without label map": (dataset_with(mask_data={name_of(1): None}), "no label map of that name"),
    "a damaged image": (dataset_with(data={name_of(1): b"\x89PNG"}), "img00000001.png: not a PNG"),
    "a class id out of range": (
        dataset_with(mask_data={name_of(1): png(GRAY)}),
        "Error: --mask_data: .*got class 9, expected 0 to 3",
    ),
    "label maps of another size": (dataset_with(mask_data={name_of(0): png(GRAY[:64, :64] // 9)}), "64x64 pixels"),
    "images of an unsupported size": (
        lambda directory: small_data(directory, 2, 64),
        "Error: --data: [^:]*: images of 64 pixels, expected",
    ),
    "images of another size than data_resolution": (
        {"data_resolution": 512},
        "Error: --data_resolution: got 512, .* 128 pixels",
    ),
    "batch not a multiple of gpus": ({"batch": 3, "gpus": 2}, r"--batch: got 3, expected a multiple of --gpus \(2\)"),
    "fewer samples than processes": ({"batch": 1, "gpus": 2}, r"--batch: got 1, expected a multiple of --gpus \(2\)"),
    "batch not a multiple of microbatches": (
        {"batch": 4, "batch_gpu": 3},
        r"--batch: got 4, .*gpus \(1\) times --batch-gpu \(3\)",
    ),
    "groups larger than microbatches": (
        {"mbstd_group": 4},
        r"--batch-gpu: got 2, expected a multiple of --mbstd-group \(4\)",
    ),
    "an empty batch": ({"batch": 0}, "'--batch': 0 is not in the range x>=1"),
    "gamma below 0": ({"gamma": -1}, "'--gamma': -1.0 is not in the range x>=0"),
    "gamma not a number": ({"gamma": "nan"}, "'--gamma': nan is not a finite number"),
    "a probability above 1": ({"random_c_prob": 1.5}, "'--random_c_prob': 1.5 is not in the range"),
    "label discriminator without labels": ({"render_mask": False}, "--dis_mask: needs --render_mask=True"),
    "background without labels": ({"render_mask": False, "dis_mask": False, **BACKGROUND}, "--use_bg: needs"),
    "silhouette without background": ({"silhouette_loss": True}, "--silhouette_loss: needs --use_bg=True"),
    "generator pose without discriminator pose": (
        {"gen_pose_cond": True, "cond": False},
        "--gen_pose_cond: needs --cond=True",
    ),
    "published class weights for other classes": ({"seg_weight": 2}, "Error: --seg_weight: .*19 classes, .* 4, got 2"),
    "class weights for edges": (
        {"seg_weight": 1, **EDGES},
        "--seg_weight: got '1', expected 0, as edges have no classes",
    ),
    "too many geometry layers": ({"geometry_layer": 14, "plane_resolution": 256}, "_layer: got 14, expected 1 to 13"),
    "too many geometry layers for small planes": ({"geometry_layer": 10}, "--geometry_layer: got 10, expected 1 to 9"),
    "planes of a size other than a power of two": (
        {"plane_resolution": 100},
        "--plane_resolution: got 100, expected a power of two",
    ),
    "super-resolution of width 0": ({"sr_width": 0}, "'--sr_width': 0.0 is not in the range"),
    "too few samples per ray": ({"depth_resolution": 3}, "'--depth_resolution': 3 is not in the range"),
    "super-resolution to another size": (
        {"sr_module": "SuperresolutionHybrid8X"},
        "--sr-module: got .*, expected one for 128 pixels",
    ),
    "unknown metric": ({"metrics": "beauty"}, "--metrics: no such metric, got 'beauty', expected one or more of fid"),
    "evaluation without metrics": (
        {"metrics": "none", "no_eval": False},
        "--no_eval: got False, expected True, as --metrics is none",
    ),
    "a metric for another data type": (
        {"metrics": "ap", "no_eval": False},
        "--metrics: ap: is for edge data, this is seg; --no_eval=True",
    ),
    "unknown regularizer": ({"reg_type": "total-variation"}, "'--reg_type': .* is not one of 'l1'"),
    "an empty grid": ({"grid": "0x4"}, "'--grid': 0x4: expected the number of images across and down"),
    "a directory without a run": ({"continue": "."}, "--continue training_options.json: No such file"),
    "a file as outdir": (
        lambda directory: {"outdir": _written(directory / "taken", b"")},
        "taken: expected a directory, got a file",
    ),
    "an invalid weights file": (
        lambda directory: {"resume": _written(directory / "x.pkl", b"hi")},
        "--resume .*x.pkl: not a",
    ),
    "an unavailable device": ({"device": "mps"}, "Error: --device: got 'mps', expected one of .*cpu"),
    "missing lpips weights": (
        {**LPIPS, "lpips_weights": "none.pth"},  # or no torchvision that fits this torch
        "Error: (--lpips_weights: [^:]*none.pth|--lambda_lpips): .*--lambda_lpips=0",
    ),
    "raw images too small for lpips": (
        {**LPIPS, "neural_rendering_resolution_final": 8},
        "_final: got 8, expected at least 16 for LPIPS",
    ),
    "no channels at image resolution": ({"cbase": 64, "plane_resolution": 64}, "--cbase: got 64, expected 128 or more"),
    "no channels at plane resolution": (
        {"plane_resolution": 256, "cbase": 128},
        "--cbase: got 128, expected 256 or more",
    ),
    "raw images larger than the input of super-resolution": (
        lambda directory: {**small_data(directory, 2, 256), "neural_rendering_resolution_final": 160},
        "--neural_rendering_resolution_final: got 160, expected at most 128",
    ),
    "desc with slashes": ({"desc": "../b"}, "--desc: got '../b', expected printable characters"),
    "desc with a line break": ({"desc": "a\nb"}, r"--desc: got 'a\\nb', expected printable characters"),
    "empty resume": ({"resume": ""}, "'--resume': the path is empty"),
    "kimg out of range": ({"kimg": "1e308"}, "'--kimg': 1e[+]308 is not in the range"),
}


def _written(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("case", INVALID)
def test_invalid_input_gives_one_error_line_and_exit_code_2_and_writes_nothing(case, data, tmp_path):
    changes, message = INVALID[case]
    changes = changes(tmp_path) if callable(changes) else changes
    line = error_line(**{"outdir": tmp_path / "runs", **SMALL, **data(), **changes})
    assert line.startswith("Error: ") and re.search(message, line), line
    assert not (tmp_path / "runs").exists()


def test_number_of_processes_must_be_that_of_torchrun(data, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert "--gpus: got 1, expected 4, as started by torchrun" in error_line(
        outdir=tmp_path / "runs", **{**SMALL, **data()}
    )


def test_a_stopped_run_has_the_exit_code_of_its_signal_after_the_terminal_was_closed(data, tmp_path, monkeypatch):
    def stop(*_args, **_kwargs):
        raise Interrupted(signal.SIGTERM, tmp_path)

    def closed(*_args, **_kwargs):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(train, "launch", stop)
    monkeypatch.setattr(train.click, "echo", closed)
    assert run(outdir=tmp_path, **{**SMALL, **data()}).exit_code == 128 + signal.SIGTERM


def test_missing_wandb_is_reported_before_anything_is_written(data, tmp_path, monkeypatch):
    monkeypatch.setattr(train.importlib.util, "find_spec", lambda name: None)
    line = error_line(outdir=tmp_path / "runs", **{**SMALL, **data(), "wandb_log": True})
    assert "--wandb_log: the package wandb is not installed" in line and not list(tmp_path.iterdir())
