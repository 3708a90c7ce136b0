"""Small runs of the training command on the CPU: what they write, that they go on exactly, how they end."""

import copy
import json
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
from training import run_dir as run_folder
from training import training_loop
from training.data.label_maps import colorize
from training.image_grid import ImageGrid
from training.interruption import Interrupted, Interruption
from training.iteration import Trainer, TrainingError
from training.parts import Parts
from training.run_dir import RunLog, read_options
from training.state import StateError, load_state
from training.training_loop import Loop
from training.weights.snapshot import load_network_pkl

CPU = torch.device("cpu")
WHOLE = {**SMALL, "gen_pose_cond": True, "mirror": True, "aug": "ada", "target": 0.1, "tick": 0.004, "snap": 100}
GRID_ENDINGS = ("", "_raw", "_depth", "_semantic", "_semantic_raw")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return small_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, data):
    """Folder of a run of six iterations."""
    outdir = tmp_path_factory.mktemp("whole")
    yield trained(outdir=outdir, kimg=0.0115, **WHOLE, **data)
    shutil.rmtree(outdir)


@pytest.fixture(scope="module")
def options(whole_run):
    return read_options(whole_run)


@pytest.fixture
def trainer(options):
    return Trainer(replace(options, augment=None), CPU)


# --------------------------------------------------------------------------- stopping and going on


def test_three_iterations_and_three_more_are_six_bit_for_bit(whole_run, data, tmp_path):
    half = trained(outdir=tmp_path, kimg=0.006, **WHOLE, **data)
    result = run(**{"continue": half, "kimg": 0.0115})
    assert result.exit_code == 0 and "Going on at 6 images" in result.output, result.output
    straight, halves = final_state(whole_run), final_state(half)
    assert straight[".progress.iteration"] == 6 and len(straight) > 1000
    assert differences(straight, halves) == []


def test_a_finished_run_has_nothing_left_to_do(whole_run):
    before = final_state(whole_run)
    result = run(**{"continue": whole_run})
    assert result.exit_code == 0 and "Done: 0.012 kimg" in result.output, result.output
    assert differences(before, final_state(whole_run)) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": 3}, "--gamma: belongs to the run that goes on"),
        ({"outdir": "x", "kimg": 1}, "--outdir: belongs to the run"),
        ({"gpus": 2}, "--batch 2: expected a multiple of --gpus 2 times --batch-gpu 2"),
    ],
)
def test_what_makes_it_another_run_cannot_be_changed(whole_run, options, message):
    result = run(**{"continue": whole_run, **options})
    assert result.exit_code == 2 and message in result.output, result.output


def test_sigterm_ends_the_iteration_saves_and_says_how_to_go_on(data, tmp_path):
    ended, deadline = threading.Event(), time.monotonic() + 300

    def stop_once_there_is_a_tick():
        while not any(path.read_text() for path in tmp_path.glob("*/stats.jsonl")) and time.monotonic() < deadline:
            if ended.wait(0.01):
                return
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_once_there_is_a_tick, daemon=True).start()
    result = run(outdir=tmp_path, **{**SMALL, **data, "dis_mask": False})
    ended.set()
    assert result.exit_code == 128 + signal.SIGTERM, result.output
    (folder,) = tmp_path.iterdir()
    images = load_state(folder)["progress"]["cur_nimg"]
    assert f"Stopped by SIGTERM at {images} images. Go on with --continue {folder}" in result.output
    assert (
        2 <= images < 20 and load_network_pkl(folder / "network-snapshot-000000.pkl")["extra"]["kimg"] == images / 1000
    )


def interrupted(options, folder, iterations):
    """Go on with, or begin, the run in a folder, and stop it after so many iterations."""
    folder.mkdir(exist_ok=True)
    trainer, state = Trainer(options, CPU), load_state(folder)
    print(trainer.start(state))
    interruption, iterate = Interruption(""), trainer.iterate

    def iterate_and_interrupt():
        iterate()
        if next(left) == 0:
            interruption.signal = signal.SIGTERM

    trainer.iterate, left = iterate_and_interrupt, iter(range(iterations - 1, -1, -1))
    cur_nimg = trainer.progress.cur_nimg
    with RunLog(folder, options, cur_nimg) as log, pytest.raises(Interrupted):
        Loop(trainer, interruption, folder, log).run()


def test_each_stop_saves_once_with_its_statistics_and_times_count_from_where_the_run_went_on(
    options, tmp_path, monkeypatch
):
    options, written = replace(options, kimg_per_tick=1), []
    monkeypatch.setattr(training_loop, "save_snapshot", lambda path, *_: written.append(path.name))
    for _ in range(3):  # the first at a tick that saves, the others inside the next tick
        interrupted(options, tmp_path, 1)
    assert len(written) == 3
    lines = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert [line["Progress/kimg"]["mean"] for line in lines] == [0.002, 0.004, 0.006]
    assert [line["Loss/scores/real"]["num"] for line in lines] == [4, 2, 2]  # Dreg too in the first iteration
    for line in lines:  # each of two images
        assert line["Timing/sec_per_kimg"]["mean"] == pytest.approx(line["Timing/sec_per_tick"]["mean"] / 0.002)


def test_a_state_of_other_networks_is_one_line(whole_run, options):
    wider = replace(options, discriminator=replace(options.discriminator, channel_max=16))
    with pytest.raises(StateError, match=r"the state does not fit the options of its folder: .*size mismatch"):
        Trainer(wider, CPU).start(load_state(whole_run))


def test_a_state_that_there_is_no_memory_for_now_is_not_called_another_networks(trainer, monkeypatch):
    def full(_state):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(trainer.parts, "load_state_dict", full)
    with pytest.raises(torch.OutOfMemoryError):
        trainer.start({"parts": {}})


# --------------------------------------------------------------------------- what a run writes


def test_the_folder_holds_what_people_look_for(whole_run):
    assert whole_run.name == "00000-afhq-pictures-gpus1-batch2-gamma1"
    grids = {f"{kind}000000{ending}.png" for kind in ("fakes", "fakes_front") for ending in GRID_ENDINGS}
    always = {"training_options.json", "log.txt", "stats.jsonl", "reals.png", "mask.png", "fakes_turn000000.png"}
    always.add(".lock")
    saved = {"network-snapshot-000000.pkl", "training-state-000000002.pt", "training-state-000000012.pt"}
    names = {path.name for path in whole_run.iterdir() if "tfevents" not in path.name}
    assert names == grids | always | saved and list(whole_run.glob("*tfevents*"))
    assert Image.open(whole_run / "fakes000000.png").size == (128, 128)
    assert Image.open(whole_run / "fakes000000_depth.png").size == (8, 8)
    assert Image.open(whole_run / "fakes_turn000000.png").size == (6 * 128, 128)


def test_ticks_end_after_the_first_iteration_then_after_so_many_images_and_at_the_end(whole_run):
    ticks = [json.loads(line) for line in (whole_run / "stats.jsonl").read_text().splitlines()]
    assert [tick["Progress/kimg"]["mean"] for tick in ticks] == [0.002, 0.006, 0.01, 0.012]
    assert [tick["Progress/tick"]["mean"] for tick in ticks] == [0, 1, 2, 3]
    status = [line for line in (whole_run / "log.txt").read_text().splitlines() if line.startswith("tick ")]
    fields = ["tick", "kimg", "time", "sec/tick", "sec/kimg", "maintenance", "cpumem", "gpumem", "reserved", "augment"]
    assert len(status) == 4 and all(re.findall("|".join(fields), line) == fields for line in status)
    assert status[-1].endswith("left 0s")  # half an image more than asked for


def test_statistics_have_the_published_names(whole_run):
    first = json.loads((whole_run / "stats.jsonl").read_text().splitlines()[0])
    published = {
        name for case in ("loss_seg6", "loss_seg6_bg") for c in golden.manifest(case)["cases"] for name in c["reports"]
    }
    assert {name for name in first if name.startswith("Loss/")} >= published - {"Loss/G/loss_silhouette"}
    phases = {
        "Timing/Gmain",
        "Timing/Greg",
        "Timing/Dmain",
        "Timing/Dreg",
        "Timing/D_semanticmain",
        "Timing/D_semanticreg",
    }
    assert phases | {"Resources/cpu_mem_gb", "Timing/sec_per_kimg", "Progress/augment", "timestamp"} <= first.keys()
    assert first["Loss/scores/real"]["num"] == 2 * 2 and first["Timing/Greg"]["num"] == 1  # Dmain and Dreg, 2 samples


def test_the_weights_open_with_what_they_were_trained_on(whole_run, options):
    weights = load_network_pkl(whole_run / "network-snapshot-000000.pkl")
    state = load_state(whole_run)["parts"]["modules"]
    assert set(state) == {"G", "D", "D_semantic", "G_ema", "augment_pipe"}
    for name, tensors in state.items():
        assert not weights[name].training and differences(weights[name].state_dict(), tensors) == []
    assert weights["G_ema"].neural_rendering_resolution == 8
    there = {"path": "pictures.zip", "mask_path": "labels.zip"}  # no folders of this machine
    assert weights["training_set_kwargs"] == {**options.data.kwargs(), **there}
    kept = json.loads((whole_run / "training_options.json").read_text())
    assert weights["extra"]["training_options"] == {**kept, "data": {**kept["data"], **there}}
    assert Path(kept["data"]["path"]).is_absolute()


def test_grids_show_the_same_samples_whatever_the_seed(options):
    dataset = options.data.open()
    torch.manual_seed(123)
    pictures = ImageGrid(dataset, (3, 2), "afhq", CPU, batch=4).data()
    order = np.arange(len(dataset))
    np.random.RandomState(0).shuffle(order)
    assert pictures["reals"].shape == pictures["mask"].shape == (2 * 128, 3 * 128, 3)
    for cell, index in enumerate(order[:6]):
        place = np.s_[cell // 3 * 128 : (cell // 3 + 1) * 128, cell % 3 * 128 : (cell % 3 + 1) * 128]
        assert (pictures["reals"][place] == dataset[index]["image"].transpose(1, 2, 0)).all()
        assert (pictures["mask"][place] == colorize(dataset[index]["mask"][0])).all()


def test_a_grid_may_be_larger_than_the_data_set_and_edges_are_drawn_dark_on_white(options):
    dataset = replace(options.data, data_type="edge", xflip=False).open()
    grid = ImageGrid(dataset, (7, 1), "afhq", CPU, batch=3)
    assert (grid.images[0] == grid.images[5]).all()
    assert (grid.data()["mask"][:, :128] == 255 - grid.masks[0, 0]).all()


def test_pictures_do_not_depend_on_how_many_are_rendered_at_once_and_a_turn_shows_four_of_a_row(trainer):
    grids = [ImageGrid(trainer.dataset, (5, 1), "afhq", CPU, batch=batch) for batch in (1, 3, 5)]
    drawn = [grid.draw(trainer.average(), 0) for grid in grids]
    assert drawn[0]["fakes_turn000000"].shape == (4 * 128, 6 * 128, 3)
    for other in drawn[1:]:
        for name, picture in drawn[0].items():
            assert np.abs(picture.astype(int) - other[name]).mean() < 0.1, name  # sums in another order


@pytest.mark.filterwarnings("error")
def test_pictures_of_broken_weights_are_drawn_without_a_warning(trainer):
    for parameter in trainer.parts.average.decoder.parameters():
        parameter.data.fill_(float("nan"))
    pictures = ImageGrid(trainer.dataset, (1, 1), "afhq", CPU, batch=1).draw(trainer.average(), 0)
    assert (pictures["fakes000000_depth"] == pictures["fakes000000_depth"][0, 0]).all()


VARIANTS = {
    "edges": {"cfg": "shapenet", "data_type": "edge", "geometry_layer": 9, "aug": "fixed", "p": 1},
    "background": {"use_bg": True, "silhouette_loss": True, "seg_weight": "auto", "reg_type": "monotonic-fixed"},
    "colors only": {"render_mask": False, "dis_mask": False, "cond": False, "density_reg": 0, "gamma": 0},
    "other views": {"lambda_cross_view": 1, "neural_rendering_resolution_final": 16, "batch_gpu": 1, "workers": 1,
                    "disc_c_noise": 1, "freezed": 2, "sr_noise_mode": "random", "random_c_prob": 1},
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_kind_of_model_trains(variant, data, tmp_path):
    files = small_data(tmp_path, edges=True) if variant == "edges" else data
    folder = trained(outdir=tmp_path / "runs", **{**SMALL, **files, "kimg": 0.002, **VARIANTS[variant]})
    stats = json.loads((folder / "stats.jsonl").read_text())
    losses = {name: value["mean"] for name, value in stats.items() if name.startswith("Loss/")}
    assert np.isfinite(list(losses.values())).all() and stats["Progress/nonfinite_steps"]["mean"] == 0
    assert ("Loss/D/loss_semantic" in losses) == (variant != "colors only")
    assert (losses["Loss/G/loss_cross_view"] > 0) == (variant == "other views")
    assert (folder / "fakes000000_weight.png").exists() == (variant == "background")
    assert not (folder / "fakes_front000000_weight.png").exists()


def test_a_run_keeps_its_wandb_id_and_one_of_the_same_name_elsewhere_has_another(options, tmp_path, monkeypatch):
    seen = []
    fake = SimpleNamespace(init=lambda **about: seen.append(about["id"]) or SimpleNamespace(finish=lambda **_: None))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr(run_folder, "loggers", lambda: None)
    for place in ("a", "a", "b"):
        folder = tmp_path / place / "00000-run"
        folder.mkdir(parents=True, exist_ok=True)
        with RunLog(folder, replace(options, wandb_log=True)):
            pass
    assert seen[0] == seen[1] != seen[2]


def tick(log, cur_nimg, value):
    kimg = {"num": 1, "mean": cur_nimg / 1000, "std": 0.0}
    log.write({"Loss/G/loss": {"num": 2, "mean": value, "std": 0.5}, "Progress/kimg": kimg}, cur_nimg)


def test_tensorboard_shows_each_tick_once_though_a_killed_run_went_on_from_before(options, tmp_path):
    with RunLog(tmp_path, options) as log:
        tick(log, 4000, 1.5)
        tick(log, 8000, 9.0)  # no state was saved there
    with RunLog(tmp_path, options, cur_nimg=4000) as log:
        tick(log, 8000, 1.0)
    found = EventAccumulator(str(tmp_path)).Reload().Scalars("Loss/G/loss")
    assert [(event.step, event.value) for event in found] == [(4000, 1.5), (8000, 1.0)]
    lines = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert [line["Loss/G/loss"]["mean"] for line in lines] == [1.5, 1.0]


def test_statistics_and_pictures_reach_wandb(options, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="an extra (pip install -e .[wandb])")
    monkeypatch.setenv("WANDB_MODE", "offline")
    with RunLog(tmp_path, replace(options, wandb_log=True)) as log:
        tick(log, 4000, 1.5)
        log.show({"fakes": np.zeros((8, 8, 3), np.uint8)}, cur_nimg=4000)
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))


# --------------------------------------------------------------------------- the parts of an iteration


def test_the_average_is_a_copy_at_first_and_moves_half_way_in_its_half_life(options):
    parts = Parts(replace(options, ema_kimg=1, ema_rampup=0.05, batch_size=100), CPU)
    name, current = next(iter(parts.networks["G"].named_parameters()))
    average = dict(parts.average.named_parameters())[name]
    current.data.fill_(1)
    parts.networks["G"].backbone.mapping.w_avg.fill_(7)
    parts.update_average(0)
    assert average.eq(1).all() and parts.average.backbone.mapping.w_avg.eq(7).all()
    current.data.fill_(2)
    parts.update_average(2000)  # half-life 0.05 * 2000 images: one batch
    assert average.eq(1.5).all()
    parts.update_average(10**9)  # half-life 1 kimg: a tenth of it
    assert torch.allclose(average, torch.tensor(2 - 0.5 * 0.5**0.1))


def test_rounds_are_the_same_however_many_processes_share_them(trainer, monkeypatch):
    trainer.options = replace(trainer.options, batch_size=4, batch_gpu=1)
    positions = torch.arange(4)
    alone = [(r["idx"].tolist(), z, c) for r, z, c in trainer.rounds({"idx": positions}, phase=2)]
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    for rank in (0, 1):
        trainer.rank = rank
        shared = list(trainer.rounds({"idx": positions[rank::2]}, phase=2))
        for (indices, z, pose), (real, z2, pose2) in zip(alone[rank::2], shared, strict=True):
            assert indices == real["idx"].tolist() and torch.equal(z, z2) and torch.equal(pose, pose2)


def test_weights_start_the_same_however_many_processes_share_them(trainer, monkeypatch):
    options = replace(trainer.options, random_seed=3, batch_size=4)
    alone = Trainer(options, CPU).parts.networks
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    shared = Trainer(options, CPU).parts.networks
    assert all(differences(alone[name].state_dict(), shared[name].state_dict()) == [] for name in alone)


def test_draws_differ_between_rounds_phases_iterations_and_seeds(trainer):
    def z(phase=0, **changes):
        trainer.options = replace(trainer.options, batch_size=2, batch_gpu=1, **changes)
        return [z for _, z, _ in trainer.rounds({"idx": torch.arange(2)}, phase)]

    first, second = z()
    others = [second, z(phase=1)[0], z(random_seed=1)[0]]
    trainer.progress.cur_nimg = 2
    others.append(z()[0])
    assert not any(torch.equal(first, other) for other in others)


def test_gradients_accumulated_over_rounds_are_those_of_the_whole_batch(trainer):
    number = [phase.name for phase in trainer.parts.phases].index("Dreg")  # R1 draws nothing at random
    D, found = trainer.parts.networks["D"], []
    samples = [trainer.dataset[i] for i in range(4)]
    batch = trainer.prepared(torch.utils.data.default_collate(samples))
    for batch_gpu in (4, 2, 1):
        trainer.options = replace(trainer.options, batch_size=4, batch_gpu=batch_gpu)
        D.zero_grad()
        trainer.accumulate(trainer.parts.phases[number], number, batch)
        found.append(torch.cat([p.grad.flatten() for p in D.parameters() if p.grad is not None]))
    assert found[0].norm() > 0
    for other in found[1:]:
        assert (other - found[0]).norm() < 1e-4 * found[0].norm()  # float32, sums in another order


def test_ada_follows_the_sign_of_real_logits_since_the_last_time(options):
    trainer = Trainer(replace(options, batch_size=4), CPU)
    for sign, p in ((1, 4 * 4 / 500e3), (1, 8 * 4 / 500e3), (-1, 4 * 4 / 500e3), (-1, 0), (-1, 0)):
        trainer._report({"Loss/signs/real": torch.full((3, 1), sign)})
        trainer._adapt()
        assert trainer.augment_p() == pytest.approx(p, abs=1e-9)  # stored as float32


def test_signs_that_every_process_counted_are_in_rank_0s_state_and_counted_once_when_it_goes_on(options, monkeypatch):
    trainers = [Trainer(options, CPU) for _ in range(2)]
    signs = torch.tensor([[1.0, 4.0], [3.0, 4.0]])
    monkeypatch.setattr(distributed, "all_reduce", lambda tensor: tensor.copy_(signs.sum(dim=0)))
    for rank, trainer in enumerate(trainers):
        trainer.rank = rank
        trainer.parts.ada.copy_(signs[rank])
        trainer.gather_ada()
    state = copy.deepcopy(trainers[0].state_dict())
    for trainer in trainers:
        trainer.start(state)
    assert [trainer.parts.ada.tolist() for trainer in trainers] == [[4, 8], [0, 0]]


def test_weights_that_are_not_finite_are_not_saved(data, tmp_path):
    result = run(outdir=tmp_path, **{**SMALL, **data, "glr": 1e30, "dlr": 1e30, "kimg": 0.004})
    assert result.exit_code == 2 and "Error: weights are not finite (G." in result.output, result.output
    (folder,) = tmp_path.iterdir()
    assert not list(folder.glob("training-state*")) + list(folder.glob("network-snapshot*"))


@pytest.mark.parametrize(("ends", "steps"), [(10, 19), (0.002, 6)])
def test_a_run_whose_steps_are_mostly_not_finite_stops_however_short_its_ticks_and_itself_are(trainer, ends, steps):
    trainer.options = replace(trainer.options, kimg_per_tick=0.002, total_kimg=ends)
    trainer.parts.networks["G"].decoder.net_semantic[0].bias.data.fill_(float("nan"))
    with (
        Interruption("") as interruption,
        pytest.raises(TrainingError, match=rf"of the last {steps} steps .* not finite"),
    ):
        Loop(trainer, interruption).run()
    for name, parameter in trainer.parts.networks["D"].named_parameters():
        assert parameter.isfinite().all(), name  # NaN gradients became 0


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_few_bad_steps_at_the_end_of_a_long_run_do_not_cost_its_last_weights(trainer, goes_on):
    trainer.progress.iteration = 100 * goes_on
    with Interruption("") as interruption:
        loop = Loop(trainer, interruption)
        if not goes_on:
            loop._check_steps(bad=0, steps=16, done=False)
        loop._check_steps(bad=3, steps=5, done=True)
        with pytest.raises(TrainingError, match="13 of the last 21 steps"):
            loop._check_steps(bad=10, steps=16, done=True)


def test_debug_stops_at_the_first_gradient_that_is_not_finite(trainer):
    trainer.options = replace(trainer.options, debug=True)
    with pytest.raises(TrainingError, match="Dmain at 0 images: 3 gradients"):
        trainer._note(trainer.parts.phases[2], torch.tensor(3))


def test_debug_names_the_phase_in_which_a_gradient_became_nan(trainer):
    trainer.options = replace(trainer.options, debug=True)
    anomaly = "Function 'DivBackward0' returned nan values in its 0th output."
    message = "--debug: Gmain at 0 images: Function 'DivBackward0' returned nan values"
    with pytest.raises(TrainingError, match=message), trainer._debugged(trainer.parts.phases[0]):
        raise RuntimeError(anomaly)
    with pytest.raises(RuntimeError, match="no anomaly"), trainer._debugged(trainer.parts.phases[0]):
        raise RuntimeError("no anomaly")


# --------------------------------------------------------------------------- warm start


def test_resume_starts_every_network_from_its_own_and_says_so(whole_run, options):
    path = whole_run / "network-snapshot-000000.pkl"
    trainer = Trainer(replace(options, resume_pkl=str(path), random_seed=5), CPU)
    report = trainer.start(None)
    weights = load_network_pkl(path)
    for name in ("G", "D", "D_semantic"):
        assert f"{name}, from its {name}" in report
        assert differences(trainer.parts.networks[name].state_dict(), weights[name].state_dict()) == []
    assert differences(trainer.parts.average.state_dict(), weights["G_ema"].state_dict()) == []
    assert trainer.progress.cur_nimg == 0


def test_a_start_from_eg3d_takes_what_fits_and_lists_what_does_not(options, tmp_path):
    path = eg3d_like(tmp_path / "eg3d.pkl", options)
    trainer = Trainer(replace(options, resume_pkl=str(path)), CPU)
    fresh = copy.deepcopy(trainer.parts.networks["D_semantic"].b128.fromrgb.weight)
    report = trainer.start(None)
    weights, G = load_network_pkl(path), trainer.parts.networks["G"].state_dict()
    source = weights["G"].state_dict()
    assert torch.equal(G["superresolution_semantic.block0.conv0.weight"], source["superresolution.block0.conv0.weight"])
    assert torch.equal(G["backbone.synthesis.b8.conv0.weight"], source["backbone.synthesis.b8.conv0.weight"])
    semantic = trainer.parts.networks["D_semantic"]
    assert torch.equal(semantic.b64.conv0.weight, weights["D"].b64.conv0.weight)
    assert torch.equal(semantic.b128.fromrgb.weight, fresh)
    assert "D_semantic, from its D" in report and "backbone.mapping.embed_mask: not in the source" in report
    assert "b128.fromrgb.weight: shape (4, 14, 1, 1), source (4, 6, 1, 1)" in report


def test_metrics_are_computed_at_every_snapshot_where_they_are_asked_for(data, tmp_path):
    asked = {"metrics": "miou,acc", "no_eval": False, "kimg": 0.002}
    folder = trained(**{**SMALL, **data, **asked, "dis_mask": False, "outdir": tmp_path / "runs"})
    for name in ("miou", "acc"):
        (line,) = (folder / f"metric-{name}.jsonl").read_text().splitlines()
        figure = json.loads(line)
        assert figure["metric"] == name and 0 <= figure["results"][name] <= 1
        assert figure["snapshot_pkl"] == "network-snapshot-000000.pkl"
