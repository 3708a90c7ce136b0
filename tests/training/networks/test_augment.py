"""Augmentation pipe and adaptive p: golden arrays, invariances, gradients."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden import golden
from torch.autograd import gradcheck, gradgradcheck

from training.networks.augment import SYM6, AugmentPipe, _GridSample, adapt_p
from training.networks.registry import construct

MANIFEST = golden.manifest("augment")
CASES = [name for name in MANIFEST["outputs"] if re.search(r"_[qp][\d.]+$", name)]
GEOMETRY = ("xflip", "rotate90", "xint", "scale", "rotate", "aniso", "xfrac")
SUBSETS = {
    "geom": dict.fromkeys(GEOMETRY, 1),
    "color": {name: 1 for name in MANIFEST["kwargs"] if name not in GEOMETRY},
    "all": {**MANIFEST["kwargs"], "imgfilter": 1, "noise": 1, "cutout": 1},
}


def make_pipe(p=1.0, **options):
    pipe = AugmentPipe(**options)
    pipe.p.fill_(p)
    return pipe


def smooth_image(size=32, count=1):
    """count,3,size,size without high frequencies."""
    x = torch.linspace(-1, 1, size)
    waves = torch.stack([x[:, None].sin() * x, (2 * x[:, None] + x).cos() / 2, (x[:, None] - x).sin()])
    return waves.repeat(count, 1, 1, 1)


# --------------------------------------------------------------------------- golden


@pytest.mark.parametrize("name", CASES)
def test_augmented_images_are_golden(name):
    kind, which, value = re.fullmatch(r"(\w+)_([qp])([\d.]+)", name).groups()
    images = golden.inputs("augment")[f"images_{kind}" if kind[0].isdigit() else "images_3ch"]
    augment = make_pipe(float(value) if which == "p" else 1.0, **SUBSETS.get(kind, MANIFEST["kwargs"]))
    with golden.golden_noise():
        out = augment(images, debug_percentile=float(value) if which == "q" else None)
    golden.check(name, out, golden.load("augment"), rtol=MANIFEST["rtol"])


def test_gradient_of_the_images_is_golden():
    inputs = golden.inputs("augment")
    images = inputs["images_3ch"].requires_grad_()
    (make_pipe(**MANIFEST["kwargs"])(images, debug_percentile=0.3) * inputs["cot"]).sum().backward()
    golden.check("3ch_q0.3_dimages", images.grad, golden.load("augment"), rtol=MANIFEST["rtol"])


def test_state_dict_is_golden_and_the_class_is_registered():
    augment = construct("training.augment.AugmentPipe", MANIFEST["kwargs"])
    assert [[name, list(t.shape)] for name, t in augment.state_dict().items()] == [s[:2] for s in MANIFEST["state"]]
    for name in ("Hz_geom", "Hz_fbank"):
        golden.check(name, getattr(augment, name), golden.load("augment"), rtol=1e-6)


def test_random_numbers_are_generated_as_in_the_golden_discriminator_phase():
    cases = {case["id"]: case for case in golden.manifest("loss_edge")["cases"]}
    calls = 2  # on fakes and on reals
    golden_draws = {(name, tuple(shape)): n // calls for name, shape, n in cases["Dmain_augment"]["draws"] if n > 1}
    with golden.golden_noise() as generated:
        make_pipe(0.5, **MANIFEST["kwargs"])(torch.zeros(2, 6, 32, 32))

    def counted_by_size(draws):  # golden values depend on how many numbers a call generates, not on their shape
        counts = {}
        for (name, shape), n in draws:
            counts[name, int(np.prod(shape))] = counts.get((name, int(np.prod(shape))), 0) + n
        return counts

    from_pipe = [(key, n) for key, n in golden_draws.items() if len(key[1]) < 4 and np.prod(key[1]) in (2, 4)]
    assert counted_by_size((draw, 1) for draw in generated) == counted_by_size(from_pipe)


# --------------------------------------------------------------------------- filters


def test_geometry_filter_is_orthonormal_with_six_vanishing_moments():
    h = np.array(SYM6)
    for shift in range(6):  # orthonormal to its shifts by two: upsampling, then downsampling, is the identity
        overlap = h[2 * shift :] @ h[: len(h) - 2 * shift]
        np.testing.assert_allclose(overlap, float(shift == 0), atol=1e-10)  # digits of the printed tables
    high = h[::-1] * (-1.0) ** np.arange(12)
    for power in range(6):
        np.testing.assert_allclose(high @ (np.arange(12) / 11) ** power, 0, atol=1e-9)


def test_filter_bank_sums_to_the_identity_and_splits_octaves():
    bank = AugmentPipe().Hz_fbank
    one = torch.zeros(43)
    one[21] = 1
    torch.testing.assert_close(bank.sum(0), one, atol=1e-6, rtol=0)
    response = torch.fft.rfft(bank, n=256).abs()  # bin 128 is the highest frequency
    assert response[:, [4, 24, 48, 112]].argmax(dim=0).tolist() == [0, 1, 2, 3]


# --------------------------------------------------------------------------- invariances


def test_probability_zero_is_the_identity():
    images = torch.rand(3, 3, 24, 24) * 2 - 1
    out = make_pipe(0.0, **SUBSETS["all"])(images)
    torch.testing.assert_close(out, images, atol=1e-5, rtol=0)  # two filters of twelve taps, float32


@pytest.mark.parametrize(("height", "width"), [(40, 40), (32, 48)])
def test_half_turns_and_flips_move_whole_pixels(height, width):
    images = smooth_image(48)[:, :, :height, :width]
    flipped = make_pipe(xflip=1)(images, debug_percentile=0.6)
    rotated = make_pipe(rotate90=1)(images, debug_percentile=0.6)
    inner = (slice(None), slice(None), slice(8, -8), slice(8, -8))  # mirrored padding is not smooth at the border
    for out, expected in ((flipped, images.flip(3)), (rotated, images.flip(2, 3))):
        # Off by 0.1 pixels along each flipped axis (FILTER_DELAY is rounded); half a pixel would give 0.017 and more.
        torch.testing.assert_close(out[inner], expected[inner], atol=0.01, rtol=0)


def test_translation_by_whole_pixels_is_exact_and_mirrors_beyond_the_border():
    images = torch.rand(2, 3, 32, 32)
    out = make_pipe(xint=1, xint_max=0.125)(images, debug_percentile=1.0)  # 4 pixels right and down
    expected = F.pad(images, (4, 0, 4, 0), mode="reflect")[:, :, :32, :32]
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)


def test_geometry_leaves_a_constant_image_unchanged_within_the_mirrored_range():
    images = torch.full((8, 3, 16, 16), 0.5)
    near = {"scale_std": 0.1, "aniso_std": 0.1, "xfrac_std": 0.05}  # beyond the mirrored padding, images are black
    moved = make_pipe(**SUBSETS["geom"], **near)(images)
    torch.testing.assert_close(moved, images, atol=1e-4, rtol=0)


def test_hue_and_saturation_leave_gray_unchanged():
    gray = torch.rand(4, 1, 16, 16).expand(-1, 3, -1, -1)
    torch.testing.assert_close(make_pipe(hue=1, saturation=1)(gray), gray, atol=1e-5, rtol=0)


def test_hue_rotation_by_a_third_of_a_turn_permutes_the_colors():
    images = torch.rand(2, 3, 8, 8)
    rotated = make_pipe(hue=1, hue_max=2 / 3)(images, debug_percentile=1.0)
    torch.testing.assert_close(rotated, images[:, [2, 0, 1]], atol=1e-5, rtol=0)


def test_lumaflip_twice_is_the_identity():
    images = torch.rand(2, 3, 8, 8)
    flip = make_pipe(lumaflip=1)
    once = flip(images, debug_percentile=0.6)
    torch.testing.assert_close(once.mean(dim=1), -images.mean(dim=1))
    torch.testing.assert_close(flip(once, debug_percentile=0.6), images)


def test_images_of_one_sample_change_alike_and_samples_differ():
    image = smooth_image()
    out = make_pipe(**MANIFEST["kwargs"])(torch.cat([image, image], dim=1).repeat(2, 1, 1, 1))
    torch.testing.assert_close(out[:, :3], out[:, 3:])
    assert (out[0] - out[1]).abs().max() > 0.1


def test_share_of_augmented_samples_equals_the_probability():
    torch.manual_seed(0)
    images = torch.rand(2000, 3, 2, 2)
    changed = (make_pipe(0.3, brightness=0.5)(images) != images).flatten(1).any(dim=1)
    assert abs(changed.float().mean() - 0.15) < 0.03  # 4 standard deviations


def test_cutout_zeroes_a_square_of_half_the_size_and_nothing_else():
    images = torch.ones(2, 3, 16, 16)
    out = make_pipe(cutout=1)(images, debug_percentile=0.5)
    blank = torch.zeros(16, 16, dtype=torch.bool)
    blank[4:12, 4:12] = True
    assert torch.equal(out == 0, blank.expand_as(out)) and (out[:, :, ~blank] == 1).all()


# --------------------------------------------------------------------------- label maps


def test_labels_get_the_geometry_of_the_colors_and_keep_their_values():
    image = smooth_image(count=4)
    labels = torch.cat([image, image[:, :2]], dim=1)  # copies of the colors, for comparison
    joined = torch.cat([image, labels, image, labels], dim=1)  # final and raw image, each with 5 label channels
    colors = [0, 1, 2, 8, 9, 10]

    moved = make_pipe(**SUBSETS["geom"])(joined, color_channels=colors)
    torch.testing.assert_close(moved[:, :3], moved[:, 3:6])
    recolored = make_pipe(**SUBSETS["color"], noise=1, imgfilter=1)(joined, color_channels=colors)
    others = [channel for channel in range(16) if channel not in colors]
    assert torch.equal(recolored[:, others], joined[:, others])
    assert ((recolored - joined)[:, colors].abs().amax(dim=(2, 3)) > 0).all()


def test_color_channels_default_to_all_channels():
    images = golden.inputs("augment")["images_6ch"]
    augment = make_pipe(**SUBSETS["all"])
    with golden.golden_noise():
        assert torch.equal(augment(images), augment(images, color_channels=range(6)))


def test_invalid_number_of_color_channels_is_rejected():
    with pytest.raises(ValueError, match="expected 1 color channel or a multiple of 3, got 4"):
        make_pipe(brightness=1)(torch.zeros(1, 4, 8, 8))


@pytest.mark.parametrize("options", [{"imgfilter_bands": [1, 1]}, {"blur": 1}])
def test_invalid_options_are_rejected_by_name(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        construct("AugmentPipe", options)


# --------------------------------------------------------------------------- gradients


def test_grid_sample_has_correct_first_and_second_derivatives():
    x = torch.randn(2, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    grid = torch.rand(2, 3, 6, 2, dtype=torch.float64) * 2.4 - 1.2  # some outside
    assert gradcheck(lambda a: _GridSample.apply(a, grid).sin(), x)
    assert gradgradcheck(lambda a: _GridSample.apply(a, grid).sin(), x)


def test_r1_penalty_through_every_augmentation_has_a_gradient():
    images = torch.rand(2, 3, 32, 32, requires_grad=True)
    weight = torch.ones([], requires_grad=True)
    score = (weight * make_pipe(**SUBSETS["all"])(images)).square().sum()
    (gradient,) = torch.autograd.grad(score, images, create_graph=True)
    penalty = gradient.square().sum()
    penalty.backward()
    # The gradient is proportional to the weight's square, the penalty to its fourth power.
    torch.testing.assert_close(weight.grad, 4 * penalty.detach())


# --------------------------------------------------------------------------- adaptation


@pytest.mark.parametrize(
    ("p", "mean_sign", "expected"),
    [(0.1, 0.9, 0.1 + 16 / 500_000), (0.1, 0.2, 0.1 - 16 / 500_000), (0.1, 0.6, 0.1), (0.0, -1.0, 0.0),
     (1.0, 0.9, 1 + 16 / 500_000), (0.1, float("nan"), 0.1)],
)  # fmt: skip
def test_p_rises_above_the_target_falls_below_it_and_stays_at_least_zero(p, mean_sign, expected):
    assert adapt_p(p, mean_sign, target=0.6, images=16, kimg=500) == pytest.approx(expected, abs=1e-12)


def test_p_rises_by_one_within_the_given_number_of_images():
    p = 0.0
    for _ in range(100_000 // 200):
        p = adapt_p(p, 1.0, target=0.6, images=200, kimg=100)
    assert p == pytest.approx(1)
