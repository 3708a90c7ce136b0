"""Loss terms one by one: known values, schedules, terms that are skipped, invalid options."""

import copy
import functools
import math
import sys
from dataclasses import replace
from urllib.error import URLError

import pytest
import torch
import torch.nn.functional as F
from golden import golden
from torch.utils._python_dispatch import TorchDispatchMode

from training.density_regularization import DensityRegularization
from training.loss import Loss
from training.loss_terms import CLASS_WEIGHTS, blur, class_weights, r1_penalty, silhouette
from training.networks.augment import AugmentPipe
from training.networks.configs import GeneratorOptions
from training.networks.label_encoder import Encoder
from training.networks.registry import construct
from training.options import LossOptions
from training.perceptual import load_lpips

CLASSES = 3
RAW = 8  # pixels of the small raw images
FEW_SAMPLES = {"depth_resolution": 6, "depth_resolution_importance": 6}
OPTIONS = LossOptions(
    r1_gamma=1, lambda_l1=1, lambda_lpips=0, blur_init_sigma=0, neural_rendering_resolution_initial=RAW
)


@functools.cache
def _small_generator(data_type, changes):
    options = GeneratorOptions(
        *("afhq", 128, data_type, CLASSES), pose_conditioning=True, channel_base=512, channel_max=8, **dict(changes)
    )
    G = construct(options.class_name, options.kwargs())
    G.rendering_kwargs |= FEW_SAMPLES
    form = {"num_ws": 7, "w_dim": 512, "output_mode": "W+"}
    G.backbone.mapping.embed_mask = Encoder(128, options.label_channels, form, channel_base=1 / 32)
    return golden.fill_(G).train()


def small_generator(data_type="seg", **changes):
    """Generator of 128 pixels with few samples per ray and a narrow backbone and encoder."""
    return copy.deepcopy(_small_generator(data_type, tuple(changes.items())))


def small_discriminator(channels=3):
    D = construct(
        "DualDiscriminator",
        {"c_dim": 25, "img_resolution": 128, "img_channels": channels, "channel_base": 512, "channel_max": 8},
    )
    return golden.fill_(D).train()


def inputs():
    """One sample of a golden case."""
    return {name: value[:1] for name, value in golden.inputs("loss_seg6").items()}


def samples(data_type="seg"):
    """Batch of one real sample."""
    x = inputs()
    mask = (x["mask"] % CLASSES).to(torch.uint8)
    return {"image": x["image"], "pose": x["pose"], "mask": mask if data_type == "seg" else mask.float() - 1}


def accumulate(loss, phase, batch=None, **kwargs):
    x = inputs()
    with golden.golden_noise():
        return loss.accumulate_gradients(phase, batch or samples(), x["gen_z"], x["gen_c"], **kwargs)


def calls_of(module):
    """List that gets an item whenever the module is called."""
    calls = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


# --------------------------------------------------------------------------- terms that are skipped


@pytest.mark.parametrize(("weight", "evaluations"), [(0, 0), (0.5, 1)])
def test_label_discriminator_of_weight_0_is_not_evaluated(weight, evaluations):
    options = replace(OPTIONS, lambda_D_semantic=weight, random_c_prob=1)
    loss = Loss(options, small_generator(), small_discriminator(), small_discriminator(3 + CLASSES))
    calls = calls_of(loss.networks["D_semantic"])
    reports = accumulate(loss, "Gmain")
    assert len(calls) == evaluations == len([name for name in reports if name == "Loss/scores/fake_semantic"])


@pytest.mark.parametrize(
    ("weight", "renders_labels", "scenes"), [(0, True, 1), (1, True, 2), (1, False, 1)], ids=["off", "on", "no labels"]
)
def test_cross_view_consistency_renders_only_with_a_weight_and_labels(weight, renders_labels, scenes):
    G = small_generator(render_labels=renders_labels)
    encodings, colors = calls_of(G.backbone.mapping), calls_of(G.superresolution)
    labels = calls_of(G.superresolution_semantic) if renders_labels else [1]
    reports = accumulate(Loss(replace(OPTIONS, lambda_cross_view=weight), G, small_discriminator()), "Gmain")
    assert (
        len(encodings) == scenes and len(colors) == 1 and len(labels) == scenes
    )  # of the last view only the raw image is needed
    assert (reports["Loss/G/loss_cross_view"] > 0) == (scenes == 2)


def test_no_labels_are_computed_for_the_color_discriminator():
    G = small_generator()
    labels = calls_of(G.superresolution_semantic)
    loss = Loss(OPTIONS, G, small_discriminator(), small_discriminator(3 + CLASSES))
    accumulate(loss, "Dmain")
    assert not labels
    accumulate(loss, "D_semanticmain")
    assert len(labels) == 1


@pytest.mark.parametrize(("phase", "module"), [("Dreg", "D"), ("D_semanticreg", "D_semantic")])
def test_without_gamma_discriminator_regularization_computes_nothing(phase, module):
    loss = Loss(
        replace(OPTIONS, r1_gamma=0), small_generator(), small_discriminator(), small_discriminator(3 + CLASSES)
    )
    calls = calls_of(loss.networks[module])
    assert accumulate(loss, phase) == {} and not calls
    assert all(p.grad is None for p in loss.networks[module].parameters())


def test_without_weight_density_regularization_computes_nothing():
    G = small_generator(density_reg=0)
    calls = calls_of(G.backbone.mapping)
    assert accumulate(Loss(OPTIONS, G, small_discriminator()), "Greg") == {}
    assert not calls and all(p.grad is None for p in G.parameters())


class ConvolutionGradients(TorchDispatchMode):
    """Record of the gradients (input, weight, bias) that each backward convolution computes."""

    def __init__(self):
        super().__init__()
        self.masks = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution_backward.default:
            self.masks.append(args[-1])
        return func(*args, **(kwargs or {}))


def test_first_gradient_of_r1_computes_no_gradients_of_convolution_weights():
    D, images = small_discriminator(), {k: torch.randn(1, 3, r, r) for k, r in (("image", 128), ("image_raw", RAW))}
    images = {k: v.requires_grad_() for k, v in images.items()}
    logits = D(images, inputs()["pose"])
    with ConvolutionGradients() as first:
        penalty = r1_penalty(logits, list(images.values()))
    assert first.masks and not any(mask[1] for mask in first.masks)
    with ConvolutionGradients() as second:
        penalty.mean().backward()
    assert any(mask[1] for mask in second.masks)


# --------------------------------------------------------------------------- values


@pytest.mark.parametrize(("data_type", "random_pose"), [("seg", 0), ("edge", 1)])
def test_cross_view_consistency_equals_its_definition_without_shared_renders(data_type, random_pose):
    weight, gain, x, batch = 3.0, 2.0, inputs(), samples(data_type)
    G, D = small_generator(data_type), small_discriminator()

    def gradient(lambda_cross_view):
        G.zero_grad()
        options = replace(OPTIONS, lambda_cross_view=lambda_cross_view, random_c_prob=random_pose)
        reports = accumulate(Loss(options, G, D), "Gmain", batch, gain=gain)
        return reports["Loss/G/loss_cross_view"], G.backbone.mapping.embed_mask.projector.weight.grad.clone()

    value, with_cross_view = gradient(weight)
    _, without = gradient(0)
    G.zero_grad()
    with golden.golden_noise():
        with torch.no_grad():
            ws = G.mapping(x["gen_z"], batch["pose"], batch)
            other_view = G.synthesis(ws, x["gen_c"], RAW)["semantic"]
            target = G.synthesis(ws, batch["pose"], RAW)["semantic_raw"]
        label_map = other_view.argmax(1, keepdim=True) if data_type == "seg" else other_view
        ws = G.mapping(x["gen_z"], batch["pose"], {"mask": label_map})
        expected = F.smooth_l1_loss(G.synthesis(ws, batch["pose"], RAW)["semantic_raw"], target) * weight
    (expected * gain).backward()
    torch.testing.assert_close(value, expected.detach())
    gradients = G.backbone.mapping.embed_mask.projector.weight.grad
    # The difference of two sums of gradients has the rounding errors of both.
    golden.check(
        "gradient",
        with_cross_view - without,
        gradients.numpy(),
        rtol=1e-3,
        atol=1e-5 * with_cross_view.abs().max().item(),
    )
    assert gradients.abs().max() > 1e-3 * with_cross_view.abs().max()


def test_gradients_of_the_label_discriminator_stop_at_colors():
    options = replace(OPTIONS, random_c_prob=1)
    G, D = small_generator(), small_discriminator()
    label_discriminator = small_discriminator(3 + CLASSES)
    gradients = []
    for D_semantic in (None, label_discriminator):
        G.zero_grad()
        accumulate(Loss(options, G, D, D_semantic), "Gmain")
        gradients.append({name: p.grad for name, p in G.named_parameters()})
    color = "superresolution.block1.torgb.weight"
    torch.testing.assert_close(gradients[0][color], gradients[1][color], rtol=0, atol=0)
    label = "superresolution_semantic.block1.torgb.weight"
    assert gradients[0][label] is None and gradients[1][label].abs().max() > 0


def test_augmentation_changes_colors_but_not_label_values():
    augment_pipe = AugmentPipe(brightness=1, hue=1)
    G, D_semantic = small_generator(), small_discriminator(3 + CLASSES)
    seen = []
    D_semantic.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    batch = samples()
    for pipe in (None, augment_pipe):
        accumulate(Loss(OPTIONS, G, small_discriminator(), D_semantic, pipe), "D_semanticreg", batch)
    plain, augmented = (images["image"].detach() for images in seen)
    torch.testing.assert_close(augmented[:, 3:], plain[:, 3:], rtol=0, atol=0)
    assert (augmented[:, :3] - plain[:, :3]).abs().mean() > 0.01
    plain, augmented = (images["image_raw"].detach() for images in seen)
    assert (augmented[:, :3] - plain[:, :3]).abs().mean() > 0.01


def test_unconditional_generator_has_no_reconstruction_loss():
    kwargs = GeneratorOptions("afhq", 128, render_labels=False, channel_base=512, channel_max=8).kwargs()
    kwargs |= {"mapping_kwargs": {"num_layers": 2}, "semantic_channels": None, "data_type": None}
    G = construct("TriPlaneGenerator", kwargs)
    G.rendering_kwargs |= FEW_SAMPLES
    batch = {k: v for k, v in samples().items() if k != "mask"}
    reports = accumulate(Loss(OPTIONS, G, small_discriminator()), "Gmain", batch)
    assert reports["Loss/G/loss_img_reconstruction"] == 0 < reports["Loss/G/loss"].mean()


def test_gradients_of_microbatches_add_up():
    D = small_discriminator()
    loss = Loss(OPTIONS, small_generator(), D)
    accumulate(loss, "Dreg")
    once = [None if p.grad is None else p.grad.clone() for p in D.parameters()]
    accumulate(loss, "Dreg")
    for p, first in zip(D.parameters(), once, strict=True):
        assert first is None or torch.allclose(p.grad, 2 * first, rtol=1e-5)


def test_silhouette_loss_is_the_share_of_wrong_pixels():
    label_map = torch.tensor([0, 0, 1, 5]).view(1, 1, 2, 2)
    assert silhouette(torch.tensor([0.0, 1, 1, 1]).view(1, 1, 2, 2), label_map) == 0.25
    assert silhouette((label_map > 0).float(), label_map) == 0


# --------------------------------------------------------------------------- classes


def test_published_class_weights_follow_the_formula_that_auto_applies():
    shares = [1 / (len(CLASS_WEIGHTS) * w**2) for w in CLASS_WEIGHTS]
    assert sum(shares) == pytest.approx(1, abs=2e-3)  # the published shares are of resized label maps
    pixels = [round(share * 1e9) for share in shares]
    assert class_weights("auto", 19, pixels) == pytest.approx(CLASS_WEIGHTS, rel=2e-3)
    assert class_weights(1, 19) == list(CLASS_WEIGHTS)
    assert class_weights(2, 19) == [w**2 for w in CLASS_WEIGHTS]
    assert class_weights(0, 6) is None


def test_auto_weights_are_1_for_equally_frequent_classes_and_finite_for_absent_ones():
    assert class_weights("auto", 4, [10, 10, 10, 10]) == [1] * 4
    assert all(map(math.isfinite, class_weights("auto", 2, [100, 0])))


# --------------------------------------------------------------------------- schedules


def test_blur_and_rendering_resolution_change_linearly_then_stay_constant():
    options = LossOptions(5, neural_rendering_resolution_initial=64, neural_rendering_resolution_final=128)
    options = replace(options, blur_init_sigma=10, blur_fade_kimg=20, neural_rendering_resolution_fade_kimg=10)
    assert [options.blur_sigma(n) for n in (0, 5000, 20000, 90000)] == [10, 7.5, 0, 0]
    assert [options.rendering_resolution(n) for n in (0, 2500, 2580, 10000, 90000)] == [64, 80, 81, 128, 128]
    assert replace(options, neural_rendering_resolution_final=None).rendering_resolution(90000) == 64
    assert replace(options, neural_rendering_resolution_fade_kimg=0).rendering_resolution(0) == 128
    assert replace(options, blur_fade_kimg=0).blur_sigma(0) == 0


def test_blur_of_a_point_is_the_filter_and_small_blur_does_nothing():
    image = torch.zeros(1, 2, 21, 21)
    image[..., 10, 10] = 1
    taps = torch.tensor([2 ** -((x / 1.5) ** 2) for x in range(-4, 5)])
    taps = taps / taps.sum()
    expected = F.pad(torch.outer(taps, taps), (6, 6, 6, 6))
    torch.testing.assert_close(blur(image, 1.5)[0, 1], expected)
    assert blur(image, 0) is image and blur(image, 0.3) is image  # no pixel within 3 sigma


@pytest.mark.parametrize("sigma", [0.4, 3.3, 10])  # filters of three pixels, and of more pixels than the image
def test_blur_equals_a_separable_convolution_with_zero_padding(sigma):
    image = torch.randn(2, 3, 24, 24, dtype=torch.float64)
    half = math.floor(3 * sigma)
    taps = torch.tensor([2 ** -((x / sigma) ** 2) for x in range(-half, half + 1)], dtype=torch.float64)
    taps = (taps / taps.sum()).expand(3, 1, -1)
    rows = F.conv2d(image, taps[:, :, None], padding=(0, half), groups=3)
    expected = F.conv2d(rows, taps[..., None], padding=(half, 0), groups=3)
    torch.testing.assert_close(blur(image.float(), sigma), expected.float(), atol=1e-6, rtol=1e-5)


# --------------------------------------------------------------------------- density


def test_monotonic_loss_is_0_for_growing_density_and_proportional_to_a_falling_slope():
    regularize = DensityRegularization(weight=0, form="monotonic-fixed", box_warp=2)
    assert regularize(lambda points: -5 * points[..., 2:], samples=2) == 0
    falls = regularize(lambda points: 5 * points[..., 2:], samples=2)
    assert falls == pytest.approx(10 * 5 * 2 / 256, rel=1e-3)  # weight, slope, step; differences of float32


@pytest.mark.parametrize(("form", "reaches_front"), [("monotonic-detach", False), ("monotonic-fixed", True)])
def test_only_the_fixed_form_sends_gradients_into_the_front_point(form, reaches_front):
    level = torch.zeros(1, requires_grad=True)  # added to all densities: gradients of both points cancel
    DensityRegularization(0, form)(lambda points: points[..., 2:] + level, samples=1).backward()
    assert level.grad.item() == pytest.approx(0 if reaches_front else -10, abs=1e-5)


@pytest.mark.parametrize(("form", "spread"), [("l1", 0.05), ("monotonic-fixed", 1.6 / 256)])
def test_smoothness_loss_is_the_slope_times_the_mean_distance(form, spread):
    torch.manual_seed(0)
    regularize = DensityRegularization(weight=0.5, form=form, perturbation=0.05, box_warp=1.6)
    loss = regularize(lambda points: 3 * points[..., :1], samples=8)
    mean_distance = spread * math.sqrt(2 / math.pi)
    assert loss == pytest.approx(0.5 * 3 * mean_distance, rel=0.05)  # 8000 samples: 5 standard errors


# --------------------------------------------------------------------------- LPIPS


def test_without_a_weight_lpips_is_not_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)  # importing it now fails
    assert Loss(OPTIONS, small_generator(), small_discriminator()).perceptual is None


def test_missing_lpips_package_gives_a_hint_how_to_train_without(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ValueError, match=r"lpips.*install it .*, or train without LPIPS: lambda_lpips=0 lambda_l1="):
        load_lpips()


def test_loss_with_lpips_needs_an_image_distance():
    with pytest.raises(ValueError, match="perceptual: got None, expected an image distance, as lambda_lpips is 1"):
        Loss(replace(OPTIONS, lambda_lpips=1), small_generator(), small_discriminator())


@pytest.fixture
def lpips_package(torchvision_operators):
    """The package lpips, if it is installed."""
    return pytest.importorskip("lpips", reason="the package lpips is not installed")


def test_lpips_loads_vgg16_from_a_file_and_is_frozen(lpips_package, tmp_path):
    torch.manual_seed(0)
    trunk = {
        f"features.{name.split('.', 1)[1]}": p
        for name, p in lpips_package.LPIPS(pnet_rand=True, net="vgg", verbose=False).net.named_parameters()
    }
    torch.save(trunk, tmp_path / "vgg16.pth")
    first, second = (load_lpips(tmp_path / "vgg16.pth") for _ in range(2))
    a, b = torch.rand(2, 2, 3, 32, 32) * 2 - 1
    distance = first(a, b)
    assert distance.shape == (2, 1, 1, 1) and (distance > 0).all() and (first(a, a) == 0).all()
    torch.testing.assert_close(distance, second(a, b), rtol=0, atol=0)  # no random weights are left
    assert not first.training and not any(p.requires_grad for p in first.parameters())
    assert torch.equal(first.net.get_parameter("slice1.0.weight"), trunk["features.0.weight"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("missing", "No such file"),
        ("not an archive", "not torchvision's VGG16"),
        ("other weights", "not torchvision's VGG16"),
    ],
)
def test_invalid_lpips_weights_are_reported_with_their_path(lpips_package, tmp_path, content, message):
    path = tmp_path / "weights.pth"
    if content == "not an archive":
        path.write_bytes(b"not a weights file")
    elif content == "other weights":
        torch.save({"classifier.weight": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match=rf"weights\.pth: {message}.*lambda_lpips=0"):
        load_lpips(path)


def test_failed_download_of_vgg16_gives_a_hint_how_to_train_without(lpips_package, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # no earlier download
    monkeypatch.setattr("torch.hub.urlopen", fail)
    with pytest.raises(
        ValueError, match=r"the weights of VGG16 cannot be downloaded \(.*no route.*\); .*lambda_lpips=0"
    ):
        load_lpips()


def fail(*_args, **_kwargs):
    raise URLError("no route")


# --------------------------------------------------------------------------- invalid options


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"lambda_l1": -1}, "lambda_l1: got -1, expected a finite number of at least 0"),
        ({"r1_gamma": math.nan}, "r1_gamma: got nan, expected a finite number"),
        ({"random_c_prob": 2}, "random_c_prob: got 2, expected 0 to 1"),
        ({"seg_weight": 3}, "seg_weight: got 3, expected 0, 1, 2 or auto"),
    ],
)
def test_options_out_of_range_are_rejected(wrong, message):
    with pytest.raises(ValueError, match=message):
        replace(OPTIONS, **wrong)


@pytest.mark.parametrize(
    ("changes", "data_type", "message"),
    [
        ({"seg_weight": 2}, "seg", "seg_weight: .* for 19 classes, this model has 3, got 2; use 0 or auto"),
        ({"seg_weight": "auto"}, "seg", "class_counts: got None, expected the number of pixels of each of 3 classes"),
    ],
)
def test_options_that_do_not_fit_the_generator_are_rejected(changes, data_type, message):
    with pytest.raises(ValueError, match=message):
        Loss(replace(OPTIONS, **changes), small_generator(data_type), small_discriminator())


def test_unknown_forms_of_density_regularization_and_edges_as_integers_are_rejected():
    with pytest.raises(ValueError, match="reg_type: got 'tv', expected one of l1, monotonic-detach, monotonic-fixed"):
        DensityRegularization(1, "tv")
    edges = Loss(OPTIONS, small_generator("edge"), small_discriminator())
    with pytest.raises(ValueError, match=r"mask: got torch.uint8, expected edges as floats in \[-1, 1\]"):
        accumulate(edges, "Gmain", samples("seg"))
