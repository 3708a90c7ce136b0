"""Patch training: loss terms with known values, gradients of the right networks, resume, bad options."""

import json
import re

import numpy as np
import pytest
import torch
from small_data import image_files, label_files, name_of, png, write_zip
from small_training import SMALL, differences, edge_files, final_state, run, trained
from torch.testing import assert_close

from training import loss_terms
from training.weights.snapshot import load_network_pkl

PATCHES = {
    **SMALL, "dis_mask": False, "reconstruction": "patches", "neural_rendering_resolution_initial": 64,
    "patch_size": 8, "style_encoder": True, "z_dim": 6, "style_bias": True, "encoder_resolution": 32,
    "plane_axes": "corrected", "batch": 4, "batch_gpu": 2, "lambda_patch_d": 0.1, "d_width": 4, "d_num_fp16_res": 0,
    "sr_num_fp16_res": 0, "density_reg": 0, "lr_schedule": "cosine", "warmup_kimg": 0.01, "beta1": 0.9, "clip_grad": 1,
    "mirror": True, "mirror_pose": True, "snap": 1, "seg_weight": "auto", "kl_warmup_kimg": 0.01,
}  # fmt: skip


@pytest.fixture
def views(tmp_path):
    """Three objects of two views each, with depth, as options of train.py."""
    return data_of_views(tmp_path)


def data_of_views(directory, edges=False):
    images = image_files(6, 128)
    poses = json.loads(images["dataset.json"])
    names = [name for name, _ in poses["labels"]]
    poses["objects"] = [names[0:2], names[2:4], names[4:6]]
    images["dataset.json"] = json.dumps(poses).encode()
    rng = np.random.default_rng(1)
    depth = {name_of(i): png((rng.random((128, 128)) * 8000 + 23000).astype(np.uint16)) for i in range(6)}
    depth["depth.json"] = json.dumps({"world_units_per_level": 1e-4, "meaning": "test"}).encode()
    return {
        "data": write_zip(directory / "views.zip", images),
        "mask_data": write_zip(directory / "labels.zip", edge_files(6, 128) if edges else label_files(6, 128, 4)),
        "depth_data": write_zip(directory / "depth.zip", depth),
    }


# --------------------------------------------------------------------------- terms


def test_image_error_of_a_constant_difference_has_no_gradient_term():
    real = torch.rand(2, 3, 8, 8)
    weight = torch.ones(2, 1, 8, 8)
    expected = loss_terms.color_error(torch.tensor(0.25))
    assert_close(loss_terms.image_error(real + 0.25, real, weight, gradients=True), expected)


def test_image_error_counts_a_displaced_edge_in_its_gradients():
    real = torch.zeros(1, 3, 8, 8)
    real[..., 4:] = 1
    weight = torch.ones(1, 1, 8, 8)
    blurred = torch.nn.functional.avg_pool2d(real, 3, 1, 1, count_include_pad=False)
    plain = loss_terms.image_error(blurred, real, weight, gradients=False)
    assert loss_terms.image_error(blurred, real, weight, gradients=True) > 1.2 * plain


def test_color_error_prefers_the_mean_to_the_median():
    # Two gray samples and a red one: L1 is smallest at gray, the color error nearer to the mean.
    colors = torch.tensor([0.0, 0.0, 0.6])
    guesses = torch.linspace(0, 0.6, 61)[:, None]
    assert (guesses - colors).abs().mean(dim=1).argmin() == 0
    best = guesses[loss_terms.color_error(guesses - colors).mean(dim=1).argmin(), 0]
    assert 0.1 < best < 0.25


def test_weighted_mean_ignores_pixels_of_weight_zero():
    x = torch.tensor([[[[1.0, 5.0]], [[3.0, 7.0]]]])
    assert loss_terms.weighted_mean(x, torch.tensor([[[[1.0, 0.0]]]])) == 2
    assert loss_terms.weighted_mean(x, torch.zeros(1, 1, 1, 2)) == 0


def test_soft_cross_entropy_of_whole_pixels_is_the_cross_entropy():
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 5, 5)
    ids = torch.randint(4, (2, 1, 5, 5))
    weight = torch.tensor([1.0, 2.0, 0.5, 3.0])
    expected = loss_terms.cross_entropy2d(logits, ids[:, 0], weight)
    shares = loss_terms.one_hot(ids, 4).float()
    assert_close(loss_terms.soft_cross_entropy(logits, shares, weight.view(1, 4, 1, 1)), expected)


def test_line_weights_balance_lines_and_background():
    edges = torch.ones(1, 1, 10, 10)
    edges[..., 0] = -1  # a tenth of the pixels
    weight = loss_terms.line_weights(edges)
    assert_close(weight[0, 0, 0, 0] / weight[0, 0, 0, 1], torch.tensor(3.0))  # the root of 9


def test_depth_distance_is_zero_for_an_opaque_surface_at_the_known_depth():
    depths = torch.tensor([[[1.0, 2.0, 3.0]]])
    opaque = torch.tensor([[[0.0, 1.0, 0.0]]])
    one = torch.ones(1, 1, 1)
    distance = loss_terms.depth_distance(depths, opaque, one, torch.tensor([[2.0]]), miss=0.5)
    assert_close(distance, torch.zeros(1, 1), atol=1e-6, rtol=0)
    # A blurred surface of the same expected depth costs, and so does light that passes.
    blurred = torch.tensor([[[0.5, 0.0, 0.5]]])
    distance = loss_terms.depth_distance(depths, blurred, one, torch.tensor([[2.0]]), miss=0.5)
    assert_close(distance, torch.ones(1, 1), atol=1e-6, rtol=0)
    half = loss_terms.depth_distance(depths, opaque / 2, one / 2, torch.tensor([[2.0]]), miss=0.5)
    assert_close(half, torch.full((1, 1), np.log(2) / 2, dtype=torch.float32), atol=1e-5, rtol=0)


def test_an_almost_empty_ray_still_has_a_gradient_of_opacity():
    opacity = torch.full((1, 1, 1), 1e-5, requires_grad=True)
    zero = torch.zeros(1, 1, 1)
    loss_terms.depth_distance(zero + 1, zero, opacity, torch.ones(1, 1), miss=0.5).sum().backward()
    assert -opacity.grad * opacity.detach() > 0.4  # with respect to its logarithm, so to the raw density


def test_kl_of_the_prior_is_zero():
    assert_close(loss_terms.kl_to_normal(torch.zeros(2, 3), torch.zeros(2, 3)), torch.zeros(2))
    # By the closed form for one number: (m^2 + s^2 - 1 - log s^2) / 2.
    kl = loss_terms.kl_to_normal(torch.tensor([[2.0]]), torch.tensor([[4.0]]).log())
    assert_close(kl, torch.tensor([(4 + 4 - 1 - np.log(4)) / 2], dtype=torch.float32))


def test_region_means_are_the_mean_colors_of_their_pixels():
    image = torch.rand(1, 3, 4, 4)
    regions = torch.zeros(1, 2, 4, 4)
    regions[:, 0, :2] = 1
    means, pixels = loss_terms.region_means(image, regions)
    assert_close(means[0, 0], image[0, :, :2].mean(dim=(1, 2)))
    assert means[0, 1].tolist() == [0, 0, 0]
    assert pixels.tolist() == [[8, 0]]


# --------------------------------------------------------------------------- runs


def test_a_run_reports_all_terms_and_saves_the_style_encoder(views, tmp_path):
    run_dir = trained(outdir=tmp_path / "runs", **PATCHES, **views, kimg=0.012, guided_kimg=0.004, tick=0.004)
    lines = [json.loads(line) for line in (run_dir / "stats.jsonl").read_text().splitlines()]
    reported = {name.removeprefix("Loss/") for line in lines for name in line}
    expected = {"image_raw", "labels_raw", "image", "labels", "depth", "kl", "moments", "color", "adversarial"}
    assert {f"G/{name}" for name in expected} | {"G/feature_matching", "D/loss_patch"} <= reported

    # E in the file is the moving average, which is not the trained one.
    snapshot = max(run_dir.glob("network-snapshot-*.pkl"))
    networks = load_network_pkl(snapshot)
    state = final_state(run_dir)
    averaged = networks["E"].state_dict()["hidden.weight"]
    assert torch.equal(averaged, state[".parts.modules.E_ema.hidden.weight"])
    assert not torch.equal(averaged, state[".parts.modules.E.hidden.weight"])
    assert "E_ema" not in networks


def test_a_resumed_run_equals_one_without_stop_bit_for_bit(views, tmp_path):
    options = {**PATCHES, **views, "guided_kimg": 0.008, "patch_d_start_kimg": 0.008, "tick": 0.008, "kimg": 0.024}
    whole = trained(outdir=tmp_path / "whole", **options)
    half = trained(outdir=tmp_path / "half", **options)
    # Forget all but the state after 0.008 kimg or later, and go on from there.
    states = sorted(half.glob("training-state-*.pt"))
    assert len(states) == 2
    states[-1].unlink()
    resumed = trained(**{"continue": half, "tick": 0.004})
    assert differences(final_state(whole), final_state(resumed)) in ([], [".progress.tick"])


@pytest.mark.parametrize("workers", [0, 1])
def test_workers_do_not_change_the_pairs_of_views(views, tmp_path, workers):
    options = {**PATCHES, **views, "kimg": 0.008, "workers": workers, "seed": 5}
    run_dir = trained(outdir=tmp_path / f"runs{workers}", **options)
    reference = trained(outdir=tmp_path / "reference", **{**options, "workers": 0})
    assert differences(final_state(run_dir), final_state(reference)) == []


def test_edges_train_with_patches_too(tmp_path):
    options = {**PATCHES, **data_of_views(tmp_path, edges=True), "data_type": "edge", "seg_weight": "0"}
    run_dir = trained(outdir=tmp_path / "runs", **{**options, "cfg": "shapenet", "kimg": 0.008})
    assert "Loss/G/labels" in (run_dir / "stats.jsonl").read_text()


def test_without_views_depth_style_and_discriminator(views, tmp_path):
    options = {**PATCHES, **views, "kimg": 0.008, "style_encoder": False, "lambda_patch_d": 0, "lambda_novel_view": 0}
    run_dir = trained(outdir=tmp_path / "runs", **{**options, "depth_data": None, "density_reg": 0.1})
    text = (run_dir / "stats.jsonl").read_text()
    assert "Loss/G/density" in text
    assert "Loss/G/depth" not in text
    assert "Loss/G/kl" not in text


BAD = {
    "dis_mask": ({"dis_mask": True}, "--dis_mask: got True, .*False.*--reconstruction=patches"),
    "render_mask": ({"render_mask": False}, "--render_mask: got False"),
    "raw size": ({"neural_rendering_resolution_initial": 32}, "--neural_rendering_resolution_initial: got 32, .*64"),
    "patch size": ({"patch_size": 24}, "--patch_size: got 24, .*power of two of at most 64"),
    "style": ({"reconstruction": "images"}, "--style_encoder: needs --reconstruction=patches"),
    "depth": ({"depth_data": "nothing.zip"}, "--depth_data: .*nothing.zip: no such file"),
}


@pytest.mark.parametrize("name", BAD)
def test_options_that_patches_cannot_use_are_rejected(name, views, tmp_path):
    changes, message = BAD[name]
    result = run("-n", **{**PATCHES, **views, **changes}, outdir=tmp_path / "runs")
    assert result.exit_code == 2
    assert re.search(message, result.output), result.output
