"""The training command's options: resolved as published, each with an effect, wrong ones refused in one line."""

import functools
import json
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import golden
from small_data import dataset_json, good_poses, image_files, label_files, name_of, png, write_zip
from small_training import SMALL, arguments, run, small_data

import train
from training.options import AUGMENTATIONS, TrainingOptions
from training.parts import BETAS, EPS, build_optimizer, phases_of
from training.run_dir import create_run_folder, latest_run, write_options

SCRIPTS = Path(train.__file__).parent / "train_scripts"
RUNS = json.loads((golden.HERE / "train_options.json").read_text())
BUILT = [name for name, case in RUNS.items() if name != "about" and "result" in case]
REFUSED_THERE = [name for name, case in RUNS.items() if name != "about" and "error" in case]
NOT_HERE = {  # of the published configuration, with the reason why ours has nothing in its place
    "loss_kwargs.class_name": "one loss",
    "loss_kwargs.dual_discrimination": "always, by the discriminator's class",
    "loss_kwargs.gpc_reg_prob": "does nothing",
    "loss_kwargs.gpc_reg_fade_kimg": "does nothing",
    "loss_kwargs.style_mixing_prob": "does nothing",
    "data_loader_kwargs.pin_memory": "follows from the device",
    "data_loader_kwargs.prefetch_factor": "the stream's own default",
    "data_loader_kwargs.num_workers": "--workers is honored",
    "D_opt_kwargs.class_name": "always Adam",
    "G_opt_kwargs.class_name": "always Adam",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Function from a size in pixels and a type to a tiny data set, as options."""
    folder = tmp_path_factory.mktemp("data")

    @functools.cache
    def make(size=128, data_type="seg"):
        place = folder / f"{data_type}{size}"
        place.mkdir(exist_ok=True)
        return small_data(place, count=2, size=size, edges=data_type == "edge")

    yield make
    shutil.rmtree(folder)


def resolved(*words, **options) -> TrainingOptions:
    result = run("--dry-run", *words, **options)
    assert result.exit_code == 0, result.output
    text = result.output
    return TrainingOptions.from_plain(json.loads(text[text.index("{") : text.rindex("}") + 1]))


def refused(*words, **options) -> str:
    result = run(*words, **options)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit), "a traceback"
    (line,) = result.output.splitlines()
    return line


def flat(tree, prefix=""):
    items = [(prefix + key, value) for key, value in tree.items()]
    nested = [flat(value, f"{name}.") for name, value in items if isinstance(value, dict)]
    return {name: value for name, value in items if not isinstance(value, dict)} | {
        k: v for part in nested for k, v in part.items()
    }


def as_published(o: TrainingOptions) -> dict:
    """Our options in the form of the published configuration, without what networks get at their construction."""
    networks = {name: {**kwargs, "class_name": cls} for name, (cls, kwargs) in o.networks.items()}
    at_construction = {"c_dim", "img_resolution", "img_channels", "semantic_channels", "data_type"}
    networks = {n: {k: v for k, v in kwargs.items() if k not in at_construction} for n, kwargs in networks.items()}
    adam = {"betas": list(BETAS), "eps": EPS}
    form = {
        "G_kwargs": networks["G"],
        "D_kwargs": networks["D"],
        "D_semantic_kwargs": networks.get("D_semantic"),
        "G_opt_kwargs": {**adam, "lr": o.g_lr},
        "D_opt_kwargs": {**adam, "lr": o.d_lr},
        "loss_kwargs": asdict(o.loss),
        "training_set_kwargs": {**o.data.kwargs(), "path": "DATA.zip", "mask_path": "MASK.zip"},
        "num_gpus": o.num_gpus,
        "batch_size": o.batch_size,
        "batch_gpu": o.batch_gpu,
        "metrics": o.metrics,
        "no_eval": not o.evaluate,
        "total_kimg": o.total_kimg,
        "kimg_per_tick": o.kimg_per_tick,
        "image_snapshot_ticks": o.snapshot_ticks,
        "network_snapshot_ticks": o.snapshot_ticks,
        "random_seed": o.random_seed,
        "ema_kimg": o.ema_kimg,
        "wandb_log": o.wandb_log,
        "debug": o.debug,
    }
    if o.g_reg_interval:
        form["G_reg_interval"] = o.g_reg_interval
    if o.resume_pkl:
        form |= {"resume_pkl": o.resume_pkl, "ada_kimg": 100, "ema_rampup": o.ema_rampup}
    if o.augment:
        form["augment_kwargs"] = {**AUGMENTATIONS, "class_name": "training.augment.AugmentPipe"}
        form |= {"ada_target": o.augment.target} if o.augment.target is not None else {"augment_p": o.augment.p}
    return form


def options_of(case: dict, data) -> dict:
    options = dict(word.split("=") for word in case["args"].split())
    return options | data(case["data_resolution"], options.get("--data_type", options.get("data_type", "seg")))


@pytest.mark.parametrize("name", BUILT)
def test_command_lines_build_what_the_published_command_builds(name, data, tmp_path):
    case = RUNS[name]
    ours = resolved(outdir=tmp_path, **{"wandb_log": True, **options_of(case, data)})
    expected = flat(case["result"]) | {"training_set_kwargs.max_size": 2}
    found = flat(as_published(ours))
    if ours.generator.geometry_layer != 7:  # there the class ignores it
        mapping = "G_kwargs.mapping_kwargs."
        assert found.pop(mapping + "one_hot") is False
        assert found.pop(mapping + "class_name") == "ConditionalMappingNetwork" and expected.pop(mapping + "class_name")
    assert {name: value for name, value in expected.items() if name not in NOT_HERE} == found


@pytest.mark.parametrize("name", REFUSED_THERE)
def test_command_lines_that_the_published_command_refuses_are_refused(name, data, tmp_path):
    case = RUNS[name]
    assert re.match("Error: .*--(batch|batch-gpu|data|cfg)", refused("-n", outdir=tmp_path, **options_of(case, data)))


BASE = {**SMALL, "resume": "x.pkl"}
BACKGROUND = {"use_bg": True}
EDGES = {"data_type": "edge"}
LARGE_ENOUGH = {"neural_rendering_resolution_initial": 16}  # for LPIPS
CHANGES = {  # option: another value, and what it needs beside it
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
}  # fmt: skip
ELSEWHERE = {  # options with tests of their own
    *("outdir", "data", "mask_data", "continue", "dry_run", "device", "data_resolution", *train.NO_EFFECT)
}


def test_the_table_of_changes_has_every_option():
    assert {param.name for param in train.main.params} == CHANGES.keys() | ELSEWHERE


@pytest.mark.parametrize("name", CHANGES)
def test_each_option_changes_what_is_trained(name, data, tmp_path):
    value, needed = CHANGES[name] if isinstance(CHANGES[name], tuple) else (CHANGES[name], {})
    options = {"outdir": tmp_path, **BASE, **needed}
    changed = options | {name: value}
    before, after = (resolved(**each, **data(128, each.get("data_type", "seg"))) for each in (options, changed))
    files = {field: getattr(before.data, field) for field in ("path", "mask_path")}
    assert replace(after, data=replace(after.data, **files)) != before
    said = run("-n", **changed, **data(128, changed.get("data_type", "seg"))).output
    assert f"--{name}: does nothing" not in said, "changed in the configuration alone"


IDLE = {  # options that do nothing beside the others, and why
    "edge_weight": ({"edge_weight": 3}, "it needs --data_type=edge"),
    "seg_weight": ({"seg_weight": "auto", "render_mask": False, "dis_mask": False}, "it needs --render_mask=True"),
    "lambda_cross_view": ({"lambda_cross_view": 1, "render_mask": False, "dis_mask": False}, "it needs --render_mask"),
    "p": ({"p": 0.3}, "it needs --aug=fixed"),
    "lpips_weights": ({"lpips_weights": "vgg.pth"}, "--lambda_lpips is 0"),
    "blur_fade_kimg": ({"blur_fade_kimg": 7}, "after --resume it needs --resume_blur=True"),
    "c_scale": ({"c_scale": 2}, "it needs --gen_pose_cond=True"),
}  # fmt: skip


@pytest.mark.parametrize("name", IDLE)
def test_an_option_that_does_nothing_beside_the_others_is_told(name, data, tmp_path):
    changes, why = IDLE[name]
    options = {"outdir": tmp_path, **BASE, **data(), **changes}
    assert f"--{name}: does nothing here, {why}" in run("-n", **options).output
    del options[name]
    assert f"--{name}:" not in run("-n", **options).output


def test_weights_of_lpips_serve_the_metrics_too(data, tmp_path):
    options = {"outdir": tmp_path / "runs", **BASE, **data(), "metrics": "sg", "no_eval": False}
    assert "does nothing" not in run("-n", **options, lpips_weights="none.pth").output
    line = refused(**options, lpips_weights="none.pth")  # or no torchvision that fits this torch
    said = r"Error: --metrics: distance lpips: cannot be had \(\S*/none\.pth: .*\); --no_eval=True goes without"
    assert re.fullmatch(said, line), line


def test_the_page_lists_what_goes_with_continue():
    page = (Path(train.__file__).parent / "docs" / "training.md").read_text()
    listed = re.findall(r"`--([a-z_-]+)`", page.partition("given another")[2].partition("anything else")[0])
    assert {name.replace("-", "_") for name in listed} == train.CHANGEABLE.keys() | {"device"}


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.sh")), ids=lambda path: path.stem)
def test_scripts_give_options_that_train(script, data, tmp_path):
    text = script.read_text()
    assert os.access(script, os.X_OK) and subprocess.run(["bash", "-n", script], check=False).returncode == 0
    sizes = re.findall(r'SIZE="([^"]*)"', text) or [""]
    (command,) = re.findall(r"^exec python train\.py (.*)$", text.replace("\\\n", " "), re.MULTILINE)
    assert len(sizes) == (2 if "toy" in script.stem else 1)
    for size in sizes:
        words = [word for word in shlex.split(command.replace("$SIZE", size)) if word != "$@"]
        pixels = 128 if "shapenet" in command or "toy" in script.stem else 512
        options = resolved(*words, outdir=tmp_path, **data(pixels, "edge" if "edge" in script.stem else "seg"))
        assert options.generator.render_labels and options.label_discriminator and options.loss.random_c_prob == 0.5
        assert options.resume_pkl or options.loss.lambda_lpips == 0


@pytest.mark.parametrize("name", train.NO_EFFECT)
def test_published_options_without_effect_are_taken_and_said_to_have_none(name, data, tmp_path):
    options = {"outdir": tmp_path, **SMALL, **data()}
    result = run("-n", **options, **{name.replace("_", "-"): 1})
    assert f"--{name}: does nothing" in result.output
    assert f"--{name} " not in run("--help").output
    assert resolved(**options, **{name: 1}) == resolved(**options)


def test_options_are_found_with_dashes_and_with_underscores(data, tmp_path):
    options = {"outdir": tmp_path, **SMALL, **data()}
    dashed = {name.replace("_", "-"): value for name, value in options.items()}
    assert resolved(**dashed) == resolved(**options)


def test_a_dry_run_writes_nothing_and_names_the_folder(data, tmp_path):
    result = run("-n", outdir=tmp_path / "runs", desc="try", **{**SMALL, **data(), "gamma": 0.3})
    assert f"{tmp_path}/runs/NNNNN-afhq-pictures-gpus1-batch2-gamma0.3-try" in result.output
    assert not (tmp_path / "runs").exists()


def test_options_survive_their_file(data, tmp_path):
    options = resolved(outdir=tmp_path, **{**BASE, **data(), "aug": "ada", "seg_weight": "auto"})
    assert TrainingOptions.from_plain(json.loads(json.dumps(options.to_plain()))) == options


def test_automatic_class_weights_count_the_pixels_of_the_data(data, tmp_path):
    counts = resolved(outdir=tmp_path, **{**SMALL, **data(), "seg_weight": "auto"}).class_counts
    assert len(counts) == 4 and sum(counts) == 2 * 128 * 128 and min(counts) > 7000  # four classes, evenly drawn


def test_lazy_regularization_scales_learning_rate_momentum_and_loss(data, tmp_path):
    options = resolved(outdir=tmp_path, **{**SMALL, **data()})
    assert [(p.name, p.interval, p.gain) for p in phases_of(options)] == [
        ("Gmain", 1, 1), ("Greg", 4, 4), ("Dmain", 1, 1), ("Dreg", 16, 16),
        ("D_semanticmain", 1, 1), ("D_semanticreg", 16, 16),
    ]  # fmt: skip
    for network, lr, share in (("G", 0.0025, 4 / 5), ("D", 0.002, 16 / 17), ("D_semantic", 0.002, 16 / 17)):
        group = build_optimizer(options, network, _one_parameter()).param_groups[0]
        assert (group["lr"], group["betas"], group["eps"]) == (lr * share, (0, 0.99**share), 1e-8)


def test_without_density_regularization_the_generator_has_one_phase_with_its_full_learning_rate(data, tmp_path):
    options = resolved(outdir=tmp_path, **{**SMALL, **data(), "density_reg": 0, "gamma": 0})
    assert [(p.name, p.interval) for p in phases_of(options)] == [("Gboth", 1), ("Dmain", 1), ("D_semanticmain", 1)]
    assert build_optimizer(options, "G", _one_parameter()).param_groups[0]["lr"] == 0.0025
    assert build_optimizer(options, "D", _one_parameter()).param_groups[0]["lr"] == 0.002 * 16 / 17


def _one_parameter():
    return torch.nn.Linear(1, 1)


def test_a_restart_goes_on_with_the_last_run_of_the_same_torchrun_and_the_same_options(data, tmp_path, monkeypatch):
    options = resolved(outdir=tmp_path, **{**SMALL, **data(), "seg_weight": "auto"})
    opened = replace(options, class_counts=None)  # what is known before all files were read
    other = replace(options, g_lr=0.1)  # of the same name
    assert latest_run(tmp_path / "none", opened) is None
    for one, started_by in ((options, "a"), (options, "a"), (other, "a"), (options, "b"), (options, None)):
        if started_by is None:
            monkeypatch.delenv("TORCHELASTIC_RUN_ID")
        else:
            monkeypatch.setenv("TORCHELASTIC_RUN_ID", started_by)
        write_options(create_run_folder(tmp_path, one.run_name), one)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a")
    create_run_folder(tmp_path, options.run_name)  # stopped before its options were written
    assert latest_run(tmp_path, opened).name == f"00001-{options.run_name}"
    assert latest_run(tmp_path, replace(opened, desc="else")) is None


def test_options_are_checked_before_the_files_of_the_data_set_and_a_restart_opens_none(data, tmp_path, monkeypatch):
    def opened(*_args):
        raise AssertionError("a file was opened")

    monkeypatch.setattr("training.resolve.check_dataset", opened)
    options = {"outdir": tmp_path, **SMALL, **data()}
    for changes in ({"batch": 3, "gpus": 2}, {"desc": "a/b"}, {"resume": "none.pkl"}, {"mbstd_group": 4},
                    {"gpus": 200, "batch": 400}):  # fmt: skip
        refused(**{**options, **changes})
    for name, value in {"TORCHELASTIC_RUN_ID": "a", "TORCHELASTIC_RESTART_COUNT": "1"}.items():
        monkeypatch.setenv(name, value)
    done = []
    monkeypatch.setattr(train, "launch", lambda *args, **how: done.append(args[3]))
    known = TrainingOptions.from_plain({**resolved_without_data(options).to_plain()})
    write_options(create_run_folder(tmp_path, known.run_name), known)
    assert run(**options).exit_code == 0 and done == [tmp_path / f"00000-{known.run_name}"]


def resolved_without_data(options):
    _, made = train._new_options(train.main.make_context("train.py", arguments(options)).params, set())
    return made


# --------------------------------------------------------------------------- wrong inputs


def made(**changes):
    """Function from a folder to options of a data set with some files changed (None removes one)."""

    def make(folder):
        files = {"data": image_files(2, 128), "mask_data": label_files(2, 128, 4)}
        for name, changed in changes.items():
            files[name] = {k: v for k, v in (files[name] | changed).items() if v is not None}
        return {name: write_zip(folder / f"{name}.zip", content) for name, content in files.items()}

    return make


LPIPS = {"lambda_lpips": 1, **LARGE_ENOUGH}
GRAY = np.full((128, 128), 9, np.uint8)
WRONG = {  # options, or a function from a folder to them; what the line says
    "no cfg": ({"cfg": None}, "missing --cfg"),
    "nothing at all": (dict.fromkeys(("outdir", "data", "gamma")), "missing --outdir, --data, --gamma"),
    "unknown cfg": ({"cfg": "dogs"}, "'--cfg': 'dogs' is not one of 'afhq'"),
    "unknown option": ({"color": "red"}, "No such option '?--color"),
    "data that is not there": ({"data": "none.zip"}, "--data none.zip: no such file or folder"),
    "label maps that are not there": ({"mask_data": "none.zip"}, "Error: --mask_data none.zip: no such file or folder"),
    "class ids as drawings": ({**EDGES, "semantic_channels": None}, "Error: --mask_data .*labels.zip: .*half of its "
                              "pixels are darker than [0-9]+ of 255; expected dark lines on white, not class ids"),
    "an empty outdir": ({"outdir": ""}, "'--outdir': it is empty"),
    "an empty mask_data": ({"mask_data": ""}, "'--mask_data': it is empty"),
    "an outdir that cannot be": ({"outdir": "/proc/x"}, "Error: /proc/x: No such file or directory$"),
    "more processes than cores": ({"gpus": 2000, "batch": 4000}, "--gpus 2000: .* CPU cores are there"),
    "no zip": (lambda folder: {"data": _written(folder / "a.zip", b"hello")}, "--data .*a.zip"),
    "images without poses": (made(data={"dataset.json": None}), "dataset.json: missing"),
    "a pose too few": (made(data={"dataset.json": dataset_json(good_poses(1))}), "no pose in dataset.json"),
    "an image without label map": (made(mask_data={name_of(1): None}), "no label map of that name"),
    "a damaged image": (made(data={name_of(1): b"\x89PNG"}), "img00000001.png: not a PNG"),
    "a class too many": (made(mask_data={name_of(1): png(GRAY)}),
                         "Error: --mask_data .*class 9 found, 4 classes are 0 to 3"),
    "label maps of another size": (made(mask_data={name_of(0): png(GRAY[:64, :64] // 9)}), "64x64 pixels"),
    "64 pixels": (lambda folder: small_data(folder, 2, 64), "Error: --data [^:]*: its images have 64 pixels, allowed"),
    "another size than asked for": ({"data_resolution": 512}, "Error: --data_resolution 512: the images have 128"),
    "batch no multiple of gpus": ({"batch": 3, "gpus": 2}, "--batch 3: expected a multiple of --gpus 2"),
    "batch no multiple of rounds": ({"batch": 4, "batch_gpu": 3}, "--batch 4: .* --gpus 1 times --batch-gpu 3"),
    "groups larger than rounds": ({"mbstd_group": 4}, "--batch-gpu 2: expected a multiple of --mbstd-group 4"),
    "no batch": ({"batch": 0}, "'--batch': 0 is not in the range x>=1"),
    "gamma below 0": ({"gamma": -1}, "'--gamma': -1.0 is not in the range x>=0"),
    "gamma no number": ({"gamma": "nan"}, "'--gamma': nan is not a finite number"),
    "a share above 1": ({"random_c_prob": 1.5}, "'--random_c_prob': 1.5 is not in the range"),
    "label discriminator without labels": ({"render_mask": False}, "--dis_mask: needs --render_mask=True"),
    "background without labels": ({"render_mask": False, "dis_mask": False, **BACKGROUND}, "--use_bg: needs"),
    "silhouette without background": ({"silhouette_loss": True}, "--silhouette_loss: needs --use_bg=True"),
    "pose without pose": ({"gen_pose_cond": True, "cond": False}, "--gen_pose_cond: needs --cond=True"),
    "published weights, other classes": ({"seg_weight": 2}, "Error: --seg_weight 2: .*19 classes, .* 4"),
    "weights of edges": ({"seg_weight": 1, **EDGES}, "--seg_weight 1: edges have no classes"),
    "too many geometry layers": ({"geometry_layer": 14, "plane_resolution": 256}, "_layer 14: expected 1 to 13"),
    "too many for small planes": ({"geometry_layer": 10}, "--geometry_layer 10: expected 1 to 9"),
    "planes of an odd size": ({"plane_resolution": 100}, "--plane_resolution 100: expected a power of two"),
    "no super-resolution": ({"sr_width": 0}, "'--sr_width': 0.0 is not in the range"),
    "too few samples of a ray": ({"depth_resolution": 3}, "'--depth_resolution': 3 is not in the range"),
    "super-resolution of another size": ({"sr_module": "SuperresolutionHybrid8X"}, "--sr-module .*: for 128 pixels"),
    "unknown metric": ({"metrics": "beauty"}, "--metrics beauty: no such metric; there are fid"),
    "metrics during training, but none": ({"metrics": "none", "no_eval": False}, "--no_eval: False computes"),
    "a metric of other data": ({"metrics": "ap", "no_eval": False}, "Error: --metrics: ap: is for edge data, this is "
                               "seg; --no_eval=True goes without"),
    "unknown regularizer": ({"reg_type": "total-variation"}, "'--reg_type': .* is not one of 'l1'"),
    "a grid of nothing": ({"grid": "0x4"}, "'--grid': 0x4: expected pictures across and down"),
    "a run folder that is none": ({"continue": "."}, "--continue training_options.json: No such file"),
    "a file in the place of outdir": (lambda folder: {"outdir": _written(folder / "taken", b"")}, "taken: is a file"),
    "weights that are none": (lambda folder: {"resume": _written(folder / "x.pkl", b"hi")}, "--resume .*x.pkl: not a"),
    "no such device": ({"device": "mps"}, "--device mps: no such device"),
    "no lpips weights": ({**LPIPS, "lpips_weights": "none.pth"},  # or no torchvision that fits this torch
                         "Error: (--lpips_weights [^:]*none.pth|--lambda_lpips): .*--lambda_lpips=0"),
    "raw images too small for lpips": ({**LPIPS, "neural_rendering_resolution_final": 8}, "_final 8: LPIPS takes 16"),
    "no channels": ({"cbase": 64, "plane_resolution": 64}, "--cbase 64: no channels are left at 128 pixels"),
    "no channels of the planes": ({"plane_resolution": 256, "cbase": 128}, "--cbase 128: no channels are left at 256"),
    "raw images larger than super-resolution takes": (
        lambda folder: {**small_data(folder, 2, 256), "neural_rendering_resolution_final": 160},
        "--neural_rendering_resolution_final 160: super-resolution to 256 pixels takes 128 at most",
    ),
    "a note that is a path": ({"desc": "../b"}, "--desc '../b': a part of a folder's name"),
    "a note too long": ({"desc": "\u6f22" * 80}, "--desc: .* folder would have a name of 274 bytes, at most 240"),
    "a note of two lines": ({"desc": "a\nb"}, r"--desc 'a\\nb': a part of a folder's name"),
    "weights without a name": ({"resume": ""}, "--resume: no file is named"),
    "more images than a life is long": ({"kimg": "1e308"}, "'--kimg': 1e[+]308 is not in the range"),
}  # fmt: skip


def _written(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_clear_line_exit_code_2_and_no_folder(case, data, tmp_path):
    changes, message = WRONG[case]
    changes = changes(tmp_path) if callable(changes) else changes
    line = refused(**{"outdir": tmp_path / "runs", **SMALL, **data(), **changes})
    assert line.startswith("Error: ") and re.search(message, line), line
    assert not (tmp_path / "runs").exists()


def test_more_processes_than_torchrun_started_are_refused(data, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert "--gpus 1: torchrun started 4 processes" in refused(outdir=tmp_path / "runs", **{**SMALL, **data()})


def test_wandb_is_missed_before_anything_is_made(data, tmp_path, monkeypatch):
    monkeypatch.setattr(train.importlib.util, "find_spec", lambda name: None)
    line = refused(outdir=tmp_path / "runs", **{**SMALL, **data(), "wandb_log": True})
    assert "--wandb_log: needs wandb" in line and not list(tmp_path.iterdir())
