"""Small training runs on the CPU: output files, exact resume, stop signals, and the steps of the loop."""

import copy
import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from golden import golden
from PIL import Image
from small_training import SMALL, differences, eg3d_like, final_state, run, small_data, trained
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from torch_utils import distributed
from training import training_loop as loop_module
from training.data.archive import DataError
from training.data.label_maps import colorize
from training.image_grid import ImageGrid
from training.run_dir import RunLog, read_options, write_options
from training.signals import Interrupted
from training.status import TickStats
from training.train_state import StateError, TrainingError, TrainState, load_state
from training.training_loop import (
    Phase,
    build_loss,
    current_G_ema,
    microbatches,
    open_stream,
    phases_of,
    run_phase,
    to_device,
    training_loop,
    update_augment_p,
    update_ema,
)
from training.weights.snapshot import load_network_pkl

CPU = torch.device("cpu")
SIX_STEPS = {
    **SMALL,
    "gen_pose_cond": True,
    "mirror": True,
    "aug": "ada",
    "target": 0.1,
    "tick": 0.004,
    "snap": 100,
}
GRID_SUFFIXES = ("", "_raw", "_depth", "_semantic", "_semantic_raw")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return small_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, data):
    """Directory of a run of six iterations."""
    outdir = tmp_path_factory.mktemp("whole")
    yield trained(outdir=outdir, kimg=0.0115, **SIX_STEPS, **data)
    shutil.rmtree(outdir)


@pytest.fixture(scope="module")
def options(whole_run):
    return read_options(whole_run)


def new_state(options) -> TrainState:
    return TrainState(options, CPU, open_stream(options.data.open(), options, CPU))


@pytest.fixture
def state(options):
    return new_state(replace(options, augment=None))


# --------------------------------------------------------------------------- stop and resume


def test_three_iterations_and_three_after_a_resume_equal_six_bit_for_bit(whole_run, data, tmp_path):
    half = trained(outdir=tmp_path, kimg=0.006, **SIX_STEPS, **data)
    result = run(**{"continue": half, "kimg": 0.0115})
    assert result.exit_code == 0 and "Resuming at 6 images" in result.output, result.output
    straight = final_state(whole_run)
    assert straight[".progress.iteration"] == 6 and len(straight) > 1000
    assert differences(straight, final_state(half)) == []


def test_resuming_a_finished_run_changes_nothing(whole_run):
    before = final_state(whole_run)
    result = run(**{"continue": whole_run})
    assert result.exit_code == 0 and "Done: 0.012 kimg" in result.output, result.output
    assert differences(before, final_state(whole_run)) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": 3}, "--gamma cannot be changed by --continue"),
        ({"outdir": "x", "kimg": 1}, "--outdir cannot be changed by --continue"),
        ({"gpus": 2}, "--batch: got 2, expected a multiple of --gpus (2) times --batch-gpu (2)"),
    ],
)
def test_resume_rejects_options_that_would_change_the_run(whole_run, options, message):
    result = run(**{"continue": whole_run, **options})
    assert result.exit_code == 2 and message in result.output, result.output


@pytest.fixture
def moved_run(whole_run, data, tmp_path):
    """Directory of a finished run and its data, after both have moved."""
    run_dir = shutil.copytree(whole_run, tmp_path / "moved run")
    options = read_options(run_dir)
    gone = replace(options.data, path=str(tmp_path / "gone.zip"), mask_path=str(tmp_path / "gone too.zip"))
    write_options(run_dir, replace(options, data=gone))
    return run_dir, {name: Path(shutil.copy(path, tmp_path / path.name)) for name, path in data.items()}


def test_a_run_continues_with_data_that_have_moved_and_remembers_where(moved_run):
    run_dir, files = moved_run
    result = run(**{"continue": run_dir, **files})
    assert result.exit_code == 0 and "Done: 0.012 kimg" in result.output, result.output
    options = read_options(run_dir).data
    assert (options.path, options.mask_path) == (str(files["data"]), str(files["mask_data"]))
    assert run(**{"continue": run_dir}).exit_code == 0


def test_a_missing_data_set_is_asked_for_in_one_line(moved_run):
    run_dir, files = moved_run
    result = run(**{"continue": run_dir, "data": files["data"]})
    expected = "Error: --mask_data: .*gone too.zip: no such file or directory; if the data have moved, this option .*\n"
    assert result.exit_code == 2 and re.fullmatch(expected, result.output), result.output


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"classes": 3},
            r"--mask_data: \S*labels.zip: not the label maps that the run began with .other sizes.; ",
        ),
        ({"count": 6}, r"--data: \S*pictures.zip: not the images that the run began with \(5, now 6\); a new run can"),
    ],
)
def test_a_run_does_not_continue_with_other_data(moved_run, tmp_path, changes, message):
    run_dir, files = moved_run
    small_data(tmp_path, **changes)
    result = run(**{"continue": run_dir, **files})
    assert result.exit_code == 2 and re.match(f"Error: {message}", result.output), result.output
    assert result.output.count("\n") == 1


def test_a_run_of_an_earlier_version_continues_only_with_data_in_the_same_place(whole_run, moved_run):
    run_dir, files = moved_run
    (run_dir / "data_fingerprint.json").unlink()
    result = run(**{"continue": run_dir, **files})
    assert result.exit_code == 2, result.output
    assert "Error: --data: the run has no data_fingerprint.json to compare the data with; change" in result.output
    shutil.copy(whole_run / "training_options.json", run_dir)
    assert run(**{"continue": run_dir}).exit_code == 0
    written, first = ((directory / "data_fingerprint.json").read_text() for directory in (run_dir, whole_run))
    assert written == first  # from now on


def test_a_class_that_the_network_lacks_ends_training_with_the_name_of_the_file(options, tmp_path):
    files = small_data(tmp_path, classes=7)
    changed = replace(options, workers=1, data=replace(options.data, mask_path=str(files["mask_data"])))
    with pytest.raises(DataError, match=r"labels.zip: 00000/img0000000\d.png: got class 6, expected 0 to 3"):
        training_loop(CPU, changed, tmp_path, tmp_path)


def test_sigterm_finishes_the_iteration_saves_and_prints_the_command_to_resume(data, tmp_path):
    ended = threading.Event()
    deadline = time.monotonic() + 300

    def stop_after_the_first_tick():
        while not any(path.read_text() for path in tmp_path.glob("*/stats.jsonl")) and time.monotonic() < deadline:
            if ended.wait(0.01):
                return
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_after_the_first_tick, daemon=True).start()
    result = run(outdir=tmp_path, desc="a b", **{**SMALL, **data, "dis_mask": False})
    ended.set()
    assert result.exit_code == 128 + signal.SIGTERM, result.output
    (run_dir,) = tmp_path.iterdir()
    images = load_state(run_dir)["progress"]["cur_nimg"]
    assert f"Stopped by SIGTERM at {images} images; the state is saved in {run_dir}\n" in result.output
    assert result.output.endswith(f"Resume with: python train.py --continue '{run_dir}'\n")
    assert 2 <= images < 20
    assert load_network_pkl(run_dir / "network-snapshot-000000.pkl")["extra"]["kimg"] == images / 1000


def test_each_stop_saves_once_and_reports_the_time_since_the_resume(options, tmp_path, monkeypatch):
    options = replace(options, kimg_per_tick=1)
    saved = []
    monkeypatch.setattr(loop_module, "save_snapshot", lambda path, *_: saved.append(path.name))

    # Stop after every iteration: the first time at a tick that saves, then twice within the next tick.
    def update_ema_and_stop(state):
        update_ema(state)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop_module, "update_ema", update_ema_and_stop)
    for _ in range(3):
        with pytest.raises(Interrupted) as stop:
            training_loop(CPU, options, tmp_path, tmp_path)
        assert stop.value.exit_code == 128 + signal.SIGTERM and stop.value.run_dir == tmp_path

    assert len(saved) == 3
    lines = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert [line["Progress/kimg"]["mean"] for line in lines] == [0.002, 0.004, 0.006]
    assert [line["Loss/scores/real"]["num"] for line in lines] == [4, 2, 2]  # Dreg too in the first iteration
    for line in lines:  # each of two images
        assert line["Timing/sec_per_kimg"]["mean"] == pytest.approx(line["Timing/sec_per_tick"]["mean"] / 0.002)


def test_a_state_of_other_networks_raises_one_line(whole_run, options):
    wider = replace(options, discriminator=replace(options.discriminator, channel_max=16))
    with pytest.raises(StateError, match=r"the saved state does not fit the options of the run: .*size mismatch"):
        new_state(wider).start(load_state(whole_run))


def test_out_of_memory_is_not_reported_as_a_state_that_does_not_fit(state, monkeypatch):
    def full(_state):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(state.networks["G"], "load_state_dict", full)
    with pytest.raises(torch.OutOfMemoryError):
        state.start(state.state_dict())


# --------------------------------------------------------------------------- what a run writes


def test_a_run_writes_its_documented_files(whole_run):
    assert whole_run.name == "00000-afhq-pictures-gpus1-batch2-gamma1"
    grids = {f"{kind}000000{ending}.png" for kind in ("fakes", "fakes_front") for ending in GRID_SUFFIXES}
    always = {"training_options.json", "log.txt", "stats.jsonl", "reals.png", "mask.png", "fakes_turn000000.png"}
    always |= {".lock", "data_fingerprint.json"}
    saved = {"network-snapshot-000000.pkl", "training-state-000000002.pt", "training-state-000000012.pt"}
    names = {path.name for path in whole_run.iterdir() if "tfevents" not in path.name}
    assert names == grids | always | saved and list(whole_run.glob("*tfevents*"))
    assert Image.open(whole_run / "fakes000000.png").size == (128, 128)
    assert Image.open(whole_run / "fakes000000_depth.png").size == (8, 8)
    assert Image.open(whole_run / "fakes_turn000000.png").size == (6 * 128, 128)


def test_ticks_end_after_the_first_iteration_then_every_kimg_per_tick_and_at_the_end(whole_run):
    ticks = [json.loads(line) for line in (whole_run / "stats.jsonl").read_text().splitlines()]
    assert [tick["Progress/kimg"]["mean"] for tick in ticks] == [0.002, 0.006, 0.01, 0.012]
    assert [tick["Progress/tick"]["mean"] for tick in ticks] == [0, 1, 2, 3]
    status = [line for line in (whole_run / "log.txt").read_text().splitlines() if line.startswith("tick ")]
    fields = ["tick", "kimg", "time", "sec/tick", "sec/kimg", "maintenance", "cpumem", "gpumem", "reserved", "augment"]
    assert len(status) == 4 and all(re.findall("|".join(fields), line) == fields for line in status)
    assert status[-1].endswith("left 0s")  # half an image more than total_kimg


def test_statistics_have_the_published_names(whole_run):
    first = json.loads((whole_run / "stats.jsonl").read_text().splitlines()[0])
    published = {
        name for case in ("loss_seg6", "loss_seg6_bg") for c in golden.manifest(case)["cases"] for name in c["reports"]
    }
    assert {name for name in first if name.startswith("Loss/")} >= published - {"Loss/G/loss_silhouette"}
    phases = {f"Timing/{network}{part}" for network in ("G", "D", "D_semantic") for part in ("main", "reg")}
    assert phases | {"Resources/cpu_mem_gb", "Timing/sec_per_kimg", "Progress/augment", "timestamp"} <= first.keys()
    assert first["Loss/scores/real"]["num"] == 2 * 2 and first["Timing/Greg"]["num"] == 1  # Dmain and Dreg, 2 samples


def test_snapshots_hold_the_weights_and_options_without_local_paths(whole_run, options):
    weights = load_network_pkl(whole_run / "network-snapshot-000000.pkl")
    state = load_state(whole_run)["parts"]["modules"]
    assert set(state) == {"G", "D", "D_semantic", "G_ema", "augment_pipe"}
    for name, tensors in state.items():
        assert not weights[name].training and differences(weights[name].state_dict(), tensors) == []
    assert weights["G_ema"].neural_rendering_resolution == 8
    names = {"path": "pictures.zip", "mask_path": "labels.zip"}
    assert weights["training_set_kwargs"] == {**options.data.kwargs(), **names}
    written = json.loads((whole_run / "training_options.json").read_text())
    assert weights["extra"]["training_options"] == {**written, "data": {**written["data"], **names}}
    assert Path(written["data"]["path"]).is_absolute()


def test_options_for_publication_name_weights_files_without_directories(options):
    private = replace(options, resume_pkl="/private/eg3d.pkl", lpips_weights="/private/vgg16.pth")
    public = private.without_local_paths()
    assert (public.resume_pkl, public.lpips_weights) == ("eg3d.pkl", "vgg16.pth")


def test_grids_show_the_same_samples_for_any_seed(options):
    dataset = options.data.open()
    torch.manual_seed(123)
    images = ImageGrid(dataset, (3, 2), "afhq", CPU, batch=4).real_images()
    order = np.arange(len(dataset))
    np.random.RandomState(0).shuffle(order)
    assert images["reals"].shape == images["mask"].shape == (2 * 128, 3 * 128, 3)
    for cell, index in enumerate(order[:6]):
        tile = np.s_[cell // 3 * 128 : (cell // 3 + 1) * 128, cell % 3 * 128 : (cell % 3 + 1) * 128]
        assert (images["reals"][tile] == dataset[index]["image"].transpose(1, 2, 0)).all()
        assert (images["mask"][tile] == colorize(dataset[index]["mask"][0])).all()


def test_a_grid_repeats_samples_of_a_small_data_set_and_shows_edges_dark_on_white(options):
    dataset = replace(options.data, data_type="edge", xflip=False).open()
    grid = ImageGrid(dataset, (7, 1), "afhq", CPU, batch=3)
    assert (grid.images[0] == grid.images[5]).all()
    assert (grid.real_images()["mask"][:, :128] == 255 - grid.masks[0, 0]).all()


def test_grids_do_not_depend_on_the_batch_size_and_the_orbit_shows_four_samples(state, options):
    dataset = options.data.open()
    grids = [ImageGrid(dataset, (5, 1), "afhq", CPU, batch=batch) for batch in (1, 3, 5)]
    first, *others = [grid.render(state.G_ema, 0) for grid in grids]
    assert first["fakes_turn000000"].shape == (4 * 128, 6 * 128, 3)
    for other in others:
        for name, image in first.items():
            assert np.abs(image.astype(int) - other[name]).mean() < 0.1, name  # sums in another order


@pytest.mark.filterwarnings("error")
def test_grids_of_nan_weights_are_rendered_without_a_warning(state, options):
    for parameter in state.G_ema.decoder.parameters():
        parameter.data.fill_(float("nan"))
    images = ImageGrid(options.data.open(), (1, 1), "afhq", CPU, batch=1).render(state.G_ema, 0)
    assert (images["fakes000000_depth"] == images["fakes000000_depth"][0, 0]).all()


VARIANTS = {
    "edges": {"cfg": "shapenet", "data_type": "edge", "geometry_layer": 9, "aug": "fixed", "p": 1},
    "background": {"use_bg": True, "silhouette_loss": True, "seg_weight": "auto", "reg_type": "monotonic-fixed"},
    "colors only": {"render_mask": False, "dis_mask": False, "cond": False, "density_reg": 0, "gamma": 0},
    "other views": {"lambda_cross_view": 1, "neural_rendering_resolution_final": 16, "batch_gpu": 1, "workers": 1,
                    "disc_c_noise": 1, "freezed": 2, "sr_noise_mode": "random", "random_c_prob": 1},
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_of_the_model_trains(variant, data, tmp_path):
    files = small_data(tmp_path, edges=True) if variant == "edges" else data
    run_dir = trained(outdir=tmp_path / "runs", **{**SMALL, **files, "kimg": 0.002, **VARIANTS[variant]})
    stats = json.loads((run_dir / "stats.jsonl").read_text())
    losses = {name: value["mean"] for name, value in stats.items() if name.startswith("Loss/")}
    assert np.isfinite(list(losses.values())).all() and stats["Progress/nonfinite_steps"]["mean"] == 0
    assert ("Loss/D/loss_semantic" in losses) == (variant != "colors only")
    assert (losses["Loss/G/loss_cross_view"] > 0) == (variant == "other views")
    assert (run_dir / "fakes000000_weight.png").exists() == (variant == "background")
    assert not (run_dir / "fakes_front000000_weight.png").exists()


def test_the_wandb_id_stays_the_same_after_a_resume_and_differs_between_directories(options, tmp_path, monkeypatch):
    ids = []
    fake_wandb = SimpleNamespace(init=lambda **kwargs: ids.append(kwargs["id"]), finish=lambda **_: None)
    monkeypatch.setitem(sys.modules, "wandb", fake_wandb)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # not installed
    for name in ("a", "a", "b"):
        run_dir = tmp_path / name / "00000-run"
        run_dir.mkdir(parents=True, exist_ok=True)
        with RunLog(run_dir, replace(options, wandb_log=True)):
            pass
    assert ids[0] == ids[1] != ids[2]


def tick(log, cur_nimg, value):
    kimg = {"num": 1, "mean": cur_nimg / 1000, "std": 0.0}
    log.write({"Loss/G/loss": {"num": 2, "mean": value, "std": 0.5}, "Progress/kimg": kimg}, cur_nimg)


def test_tensorboard_shows_each_tick_once_after_a_killed_run_is_resumed(options, tmp_path):
    with RunLog(tmp_path, options) as log:
        tick(log, 4000, 1.5)
        tick(log, 8000, 9.0)  # no state was saved there
    with RunLog(tmp_path, options, cur_nimg=4000) as log:
        tick(log, 8000, 1.0)
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("Loss/G/loss")
    assert [(event.step, event.value) for event in events] == [(4000, 1.5), (8000, 1.0)]
    lines = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert [line["Loss/G/loss"]["mean"] for line in lines] == [1.5, 1.0]


def test_statistics_and_images_are_logged_to_wandb(options, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="an extra (pip install -e .[wandb])")
    monkeypatch.setenv("WANDB_MODE", "offline")
    with RunLog(tmp_path, replace(options, wandb_log=True)) as log:
        tick(log, 4000, 1.5)
        log.write_images({"fakes": np.zeros((8, 8, 3), np.uint8)}, cur_nimg=4000)
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))


# --------------------------------------------------------------------------- steps of an iteration


def test_G_ema_starts_as_a_copy_and_moves_half_way_in_its_half_life(options):
    state = new_state(replace(options, ema_kimg=1, ema_rampup=0.05, batch_size=100))
    name, current = next(iter(state.networks["G"].named_parameters()))
    average = dict(state.G_ema.named_parameters())[name]

    # The half-life is 0 at first.
    current.data.fill_(1)
    state.networks["G"].backbone.mapping.w_avg.fill_(7)
    update_ema(state)
    assert average.eq(1).all() and state.G_ema.backbone.mapping.w_avg.eq(7).all()

    # Half-life 0.05 * 2000 images: one batch.
    current.data.fill_(2)
    state.cur_nimg = 2000
    update_ema(state)
    assert average.eq(1.5).all()

    # Half-life 1 kimg: a batch is a tenth of it.
    state.cur_nimg = 10**9
    update_ema(state)
    assert torch.allclose(average, torch.tensor(2 - 0.5 * 0.5**0.1))


POSES = torch.arange(100.0).view(4, 25)
PHASE = Phase("Dmain", "D", index=2)


def test_microbatches_do_not_depend_on_the_number_of_processes(state, monkeypatch):
    state.options = replace(state.options, batch_size=4, batch_gpu=1)
    idx = torch.arange(4)
    alone = [(real["idx"].tolist(), z, pose) for real, z, pose in microbatches(PHASE, state, {"idx": idx}, POSES)]
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        shared = list(microbatches(PHASE, state, {"idx": idx[rank::2]}, POSES))
        for (indices, z, pose), (real, z2, pose2) in zip(alone[rank::2], shared, strict=True):
            assert indices == real["idx"].tolist() and torch.equal(z, z2) and torch.equal(pose, pose2)


def test_initial_weights_do_not_depend_on_the_number_of_processes(options, monkeypatch):
    options = replace(options, random_seed=3, batch_size=4)
    alone = new_state(options).networks
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    shared = new_state(options).networks
    assert all(differences(alone[name].state_dict(), shared[name].state_dict()) == [] for name in alone)


def test_latent_codes_differ_between_microbatches_phases_iterations_and_seeds(state):
    def latents(index=0, **changes):
        state.options = replace(state.options, batch_size=2, batch_gpu=1, **changes)
        batch = {"idx": torch.arange(2)}
        return [z for _, z, _ in microbatches(Phase("Gmain", "G", index), state, batch, POSES)]

    first, second = latents()
    others = [second, latents(index=1)[0], latents(random_seed=1)[0]]
    state.cur_nimg = 2
    others.append(latents()[0])
    assert not any(torch.equal(first, other) for other in others)


def test_gradients_accumulated_over_microbatches_equal_those_of_the_whole_batch(state, options):
    (phase,) = [phase for phase in phases_of(options) if phase.name == "Dreg"]  # R1 uses no random numbers
    D = state.networks["D"]
    dataset = options.data.open()
    batch = to_device(torch.utils.data.default_collate([dataset[i] for i in range(4)]), options.data.data_type, CPU)
    gradients = []
    for batch_gpu in (4, 2, 1):
        state.options = replace(state.options, batch_size=4, batch_gpu=batch_gpu)
        state.optimizers["D"].param_groups[0]["lr"] = 0
        run_phase(phase, state, build_loss(state), batch, POSES, TickStats(state))
        gradients.append(torch.cat([p.grad.flatten() for p in D.parameters() if p.grad is not None]))
    first, *others = gradients
    assert first.norm() > 0
    for other in others:
        assert (other - first).norm() < 1e-4 * first.norm()  # float32, sums in another order


def test_ada_follows_the_signs_of_real_logits_since_the_last_update(options):
    state = new_state(replace(options, batch_size=4))
    for sign, p in ((1, 4 * 4 / 500e3), (1, 8 * 4 / 500e3), (-1, 4 * 4 / 500e3), (-1, 0), (-1, 0)):
        state.ada_signs += torch.tensor([3.0 * sign, 3.0])
        update_augment_p(state)
        assert state.augment_p == pytest.approx(p, abs=1e-9)  # stored as float32


def test_ada_signs_of_all_processes_are_saved_by_rank_0_and_counted_once_after_a_resume(options, monkeypatch):
    states = [new_state(options) for _ in range(2)]
    signs = torch.tensor([[1.0, 4.0], [3.0, 4.0]])
    monkeypatch.setattr(distributed, "all_reduce", lambda tensor: tensor.copy_(signs.sum(dim=0)))
    for rank, state in enumerate(states):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        state.ada_signs.copy_(signs[rank])
        state.gather_ada_signs()
    saved = copy.deepcopy(states[0].state_dict())
    for rank, state in enumerate(states):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        state.start(saved)
    assert [state.ada_signs.tolist() for state in states] == [[4, 8], [0, 0]]


def test_snapshots_and_images_use_the_rendering_resolution_of_the_schedule(state):
    grown = {"neural_rendering_resolution_final": 16, "neural_rendering_resolution_fade_kimg": 1}
    state.options = replace(state.options, loss=replace(state.options.loss, **grown))
    state.cur_nimg = 500
    assert current_G_ema(state).neural_rendering_resolution == 12


def test_non_finite_weights_are_not_saved_and_end_the_data_loading_workers(data, tmp_path):
    others = set(multiprocessing.active_children())
    result = run(outdir=tmp_path, **{**SMALL, **data, "glr": 1e30, "dlr": 1e30, "kimg": 0.004, "workers": 2})
    assert result.exit_code == 2 and "Error: weights are not finite (G." in result.output, result.output
    (run_dir,) = tmp_path.iterdir()
    assert not list(run_dir.glob("training-state*")) + list(run_dir.glob("network-snapshot*"))
    assert set(multiprocessing.active_children()) <= others


@pytest.mark.parametrize(("kimg", "steps"), [(10, 19), (0.002, 6)])
def test_a_run_stops_when_most_steps_are_not_finite_also_with_short_ticks_or_a_short_run(
    options, tmp_path, monkeypatch, kimg, steps
):
    options = replace(options, augment=None, kimg_per_tick=0.002, total_kimg=kimg)
    states = []

    def broken_state(*args):
        states.append(TrainState(*args))
        states[0].networks["G"].decoder.net_semantic[0].bias.data.fill_(float("nan"))
        return states[0]

    monkeypatch.setattr(loop_module, "TrainState", broken_state)
    monkeypatch.setattr(loop_module, "save_snapshot_and_state", lambda *_: None)  # it would find the NaN
    with pytest.raises(TrainingError, match=rf"of the last {steps} steps had non-finite gradients"):
        training_loop(CPU, options, tmp_path, tmp_path)
    for name, parameter in states[0].networks["D"].named_parameters():
        assert parameter.isfinite().all(), name  # NaN gradients became 0


@pytest.mark.parametrize("resumed", [False, True])
def test_a_few_bad_steps_at_the_end_of_a_long_run_are_tolerated(state, resumed):
    state.iteration = 100 * resumed
    stats = TickStats(state)
    if not resumed:
        stats.check_divergence(steps=16, bad_steps=0, done=False)
    stats.check_divergence(steps=5, bad_steps=3, done=True)
    with pytest.raises(TrainingError, match="13 of the last 21 steps"):
        stats.check_divergence(steps=16, bad_steps=10, done=True)


def test_debug_stops_at_the_first_non_finite_gradient(state, monkeypatch):
    state.options = replace(state.options, debug=True)
    loss = SimpleNamespace(accumulate_gradients=lambda *_: {})
    monkeypatch.setattr(distributed, "average_gradients", lambda _parameters: torch.tensor(3))
    with pytest.raises(TrainingError, match="debug: Dmain at 0 images: 3 non-finite gradients"):
        run_phase(PHASE, state, loss, {}, POSES, TickStats(state))


# --------------------------------------------------------------------------- warm start


def test_warm_start_copies_every_network_and_reports_its_source(whole_run, options):
    path = whole_run / "network-snapshot-000000.pkl"
    state = new_state(replace(options, resume_pkl=str(path), random_seed=5))
    report = state.start(None)
    weights = load_network_pkl(path)
    for name in ("G", "D", "D_semantic"):
        assert f"{name}, from its {name}" in report
        assert differences(state.networks[name].state_dict(), weights[name].state_dict()) == []
    assert differences(state.G_ema.state_dict(), weights["G_ema"].state_dict()) == []
    assert state.cur_nimg == 0


def test_warm_start_from_eg3d_copies_matching_tensors_and_lists_the_others(options, tmp_path):
    path = eg3d_like(tmp_path / "eg3d.pkl", options)
    state = new_state(replace(options, resume_pkl=str(path)))
    semantic = state.networks["D_semantic"]
    initial = copy.deepcopy(semantic.b128.fromrgb.weight)
    report = state.start(None)

    weights = load_network_pkl(path)
    G = state.networks["G"].state_dict()
    source = weights["G"].state_dict()
    assert torch.equal(G["superresolution_semantic.block0.conv0.weight"], source["superresolution.block0.conv0.weight"])
    assert torch.equal(G["backbone.synthesis.b8.conv0.weight"], source["backbone.synthesis.b8.conv0.weight"])
    assert torch.equal(semantic.b64.conv0.weight, weights["D"].b64.conv0.weight)
    assert torch.equal(semantic.b128.fromrgb.weight, initial)
    assert "D_semantic, from its D" in report and "backbone.mapping.embed_mask: not in the source" in report
    assert "b128.fromrgb.weight: shape (4, 14, 1, 1), source (4, 6, 1, 1)" in report


def test_metrics_are_computed_at_every_snapshot_on_request(data, tmp_path):
    metrics = {"metrics": "miou,acc", "no_eval": False, "kimg": 0.002}
    run_dir = trained(**{**SMALL, **data, **metrics, "dis_mask": False, "outdir": tmp_path / "runs"})
    for name in ("miou", "acc"):
        (line,) = (run_dir / f"metric-{name}.jsonl").read_text().splitlines()
        result = json.loads(line)
        assert result["metric"] == name and 0 <= result["results"][name] <= 1
        assert result["snapshot_pkl"] == "network-snapshot-000000.pkl"
