"""Projection of photos: the optimization, tuning, the search of poses, and files of projections."""

import numpy as np
import public_pickle
import pytest
import torch
from metric_data import tiny_network
from paths import ROOT

from camera_utils import view_angles
from dnnlib.errors import ConfigError
from inference import Scene, load_generator
from inference.generator import network_digest
from inference.inputs import to_label_map
from inference.latents import latent, style_mask
from inference.photo_loss import resize_photo
from inference.projection import Projection
from inference.projector import TUNED, ProjectionOptions, Projector
from training.networks.registry import construct, describe
from training.weights.safetensors_file import dump_safetensors
from training.weights.snapshot import load_network_pkl

TOY = ROOT / "checkpoints" / "toy_seg2cat.safetensors"
CAT = ROOT / "applications" / "assets" / "toy_cat.png"
SHORT = ProjectionOptions(steps=3, tune=2, seeds=2)


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    directory = tmp_path_factory.mktemp("networks")
    return {
        kind: tiny_network(directory / f"{kind}.pt", kind, style_encoder=kind == "cats") for kind in ("cats", "cars")
    }


@pytest.fixture(scope="module")
def G(networks):
    return load_generator(networks["cats"], "cpu")


@pytest.fixture(scope="module")
def photo():
    squares = np.random.RandomState(0).uniform(-0.5, 0.5, (1, 3, 8, 8)).astype(np.float32)
    return torch.from_numpy(squares.repeat(16, axis=2).repeat(16, axis=3))


@pytest.fixture(scope="module")
def projection(G, photo):
    return Projector(G, photo, CAT, options=SHORT).run()


def error(projector, projection):
    G = projection.generator(projector.G)
    return projector.loss.error(G, projection.ws(G, projector.encoded)).item()


# --------------------------------------------------------------------------- optimization


def test_optimization_and_tuning_each_come_closer_to_the_photo(G, photo):
    projector = Projector(G, photo, CAT, options=ProjectionOptions(steps=30, tune=20, geometry_rate=0.05))
    errors = {}
    for progress in projector.steps():
        errors[progress.phase] = error(projector, projector.result()) if progress.done == progress.total else None
    assert errors["style"] < 0.9 * errors["start"]
    assert errors["tune"] < errors["style"]


def test_a_projection_leaves_the_network_and_the_random_state_as_they_were(G, photo):
    before = {name: tensor.clone() for name, tensor in G.state_dict().items()}
    random_state = torch.get_rng_state()
    Projector(G, photo, CAT, options=SHORT).run()
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in G.state_dict().items())
    assert not any(parameter.requires_grad for parameter in G.parameters())


def test_a_projection_on_a_cpu_leaves_the_random_states_of_gpus(G, photo, monkeypatch):
    seeds = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    Projector(G, photo, CAT, options=SHORT).run()
    assert not seeds


def test_equal_calls_give_equal_projections_and_other_seeds_others(G, photo, projection):
    again = Projector(G, photo, CAT, options=SHORT).run()
    assert torch.equal(again.offset, projection.offset)
    assert all(torch.equal(again.weights[name], tensor) for name, tensor in projection.weights.items())
    other = Projector(G, photo, CAT, options=ProjectionOptions(steps=3, tune=2, random_seed=1)).run()
    assert not torch.equal(other.offset, projection.offset)


def test_a_perceptual_distance_is_a_term_of_patches(G, photo):
    def distance(a, b):
        assert a.shape == b.shape == (1, 3, 128, 128)
        return (a - b).square().mean((1, 2, 3))

    options = ProjectionOptions(steps=2, lambda_lpips=2)
    losses = [progress.losses for progress in Projector(G, photo, CAT, options=options, perceptual=distance).steps()]
    assert losses[2]["lpips"] > 0 and "lpips" not in losses[1]


def test_geometry_layers_move_less_than_style_layers(G, projection):
    sizes = projection.offset[0].abs()
    style = style_mask(G)
    ratio = ProjectionOptions.geometry_rate / ProjectionOptions.style_rate
    assert 0 < sizes[~style].max() <= 1.01 * ratio * sizes[style].max()


def test_tuning_changes_nothing_that_makes_labels_or_reads_the_label_map(G, projection):
    assert projection.weights and all(name.startswith(TUNED) for name in projection.weights)
    tuned = projection.generator(G)
    for part in (tuned.backbone.mapping, tuned.decoder.net_semantic, tuned.superresolution_semantic):
        prefix = next(name for name, module in tuned.named_modules() if module is part)
        original = G.get_submodule(prefix).state_dict()
        assert all(torch.equal(tensor, original[name]) for name, tensor in part.state_dict().items())


def test_the_result_is_valid_after_every_step_and_there_is_none_before(G, photo):
    projector = Projector(G, photo, CAT, options=SHORT)
    with pytest.raises(RuntimeError, match="no start yet"):
        projector.result()
    phases = []
    for progress in projector.steps():
        phases.append((progress.phase, progress.done, progress.total))
        assert np.isfinite(error(projector, projector.result()))
    assert phases == [("start", 1, 1), *[("style", i, 3) for i in (1, 2, 3)], ("tune", 1, 2), ("tune", 2, 2)]


def test_a_worse_end_is_not_taken(G, photo):
    # Steps so large that they lead away from the photo.
    options = ProjectionOptions(steps=3, style_rate=1e3, geometry_rate=1e3)
    assert Projector(G, photo, CAT, options=options).run().offset.abs().max() == 0


def test_networks_without_a_style_encoder_start_from_the_best_seed(networks, photo):
    G = load_generator(networks["cars"], "cpu")
    drawing = np.full((128, 128), 255, np.uint8)
    drawing[40:90, 60] = 0
    projector = Projector(G, photo, drawing, options=ProjectionOptions(steps=1, seeds=3))
    projection = projector.run()
    errors = [projector.loss.error(G, projector.ws_of(latent(seed, G.z_dim))).item() for seed in range(3)]
    assert torch.equal(projection.z, latent(int(np.argmin(errors)), G.z_dim))


@pytest.mark.parametrize("size", [32, 128, 512, 200])
def test_photos_of_any_size_are_averaged_to_that_of_the_network(size):
    photo = torch.linspace(-1, 1, size).expand(1, 3, size, size)
    resized = resize_photo(photo, 128)
    assert resized.shape == (1, 3, 128, 128) and resized.abs().max() <= 1
    assert (resized[0, 0, 0] - torch.linspace(-1, 1, 128)).abs().max() < 0.03  # half a pixel at the borders


@pytest.mark.parametrize("known", [True, False])
def test_the_pose_of_a_rendered_photo_is_found(known):
    # The trained model, at a quarter of its raw resolution.
    G = load_generator(TOY, "cpu")
    G.neural_rendering_resolution = 16
    scene = Scene.from_label_map(G, CAT)
    pose = scene.pose_at(0.25, 0.1)
    pose[:, [16, 20]] *= 1.05
    view = scene.render(pose=pose)
    start = scene.pose_at(0.2, 0.05) if known else None
    options = ProjectionOptions(steps=1, search_pose=True)
    found = Projector(G, view.image, view.label_map, start, options=options).run().pose
    for angle, expected in zip(view_angles(found), view_angles(pose), strict=True):
        assert abs(angle - expected).rad2deg() < 4
    assert abs(found[0, 16] / pose[0, 16] - 1) < 0.05


# --------------------------------------------------------------------------- other architectures


def test_a_published_pickle_can_be_projected_into(networks, photo, tmp_path):
    module = load_network_pkl(networks["cats"], only=["G_ema"])["G_ema"]
    class_name, init_kwargs = describe(module)
    record = public_pickle.network(module, class_name, init_kwargs, {"rendering_kwargs": module.rendering_kwargs})
    (tmp_path / "cats.pkl").write_bytes(public_pickle.snapshot({"G_ema": record}))
    G = load_generator(tmp_path / "cats.pkl", "cpu")
    G.neural_rendering_resolution = 8  # that of published weights takes longer
    assert G.style_encoder is None
    projector = Projector(G, photo, CAT, options=ProjectionOptions(steps=4, tune=2, seeds=2))
    projection = projector.run()
    assert error(projector, projection) < projector.loss.error(G, projector.ws_of(projection.z)).item()


def test_networks_with_two_backbones_move_the_color_half_as_style(networks, photo):
    module = load_network_pkl(networks["cats"], only=["G_ema"])["G_ema"]
    _, init_kwargs = describe(module)
    torch.manual_seed(0)
    G = construct("TriPlaneSemanticGenerator", init_kwargs).eval().requires_grad_(False)
    G.neural_rendering_resolution = 8
    projection = Projector(G, photo, CAT, options=ProjectionOptions(steps=2, seeds=1, geometry_rate=0)).run()
    color, labels = projection.offset.chunk(2, dim=-1)
    assert color.abs().max() > 0 and labels.abs().max() == 0


# --------------------------------------------------------------------------- scenes and files


def test_a_scene_of_the_file_is_that_of_the_projection(G, photo, projection, tmp_path):
    projection.save(tmp_path / "a.safetensors")
    views = [
        Scene.from_label_map(G, CAT, style=style).render(0.2).image
        for style in (projection, tmp_path / "a.safetensors", str(tmp_path / "a.safetensors"))
    ]
    assert all(np.array_equal(view, views[0]) for view in views)
    assert np.array_equal(Scene.from_photo(G, photo, CAT, options=SHORT).render(0.2).image, views[0])
    assert not np.array_equal(Scene.from_label_map(G, CAT, style=photo).render(0.2).image, views[0])

    # Files say how they were made.
    loaded = Projection.load(tmp_path / "a.safetensors")
    assert loaded.settings == projection.settings and loaded.settings["tune"] == 2


def test_another_label_map_keeps_the_style_and_the_offset(G, projection):
    ids = to_label_map(CAT, G)
    painted = ids.clone()
    painted[..., :40, :] = 0
    ws, painted_ws = (projection.ws(G, G.encode({"mask": label_map})) for label_map in (ids, painted))
    style = style_mask(G)
    assert torch.equal(ws[:, style], painted_ws[:, style]) and not torch.equal(ws, painted_ws)
    plain = Projection(projection.z, projection.offset * 0, projection.pose, ids, projection.network)
    assert torch.allclose(painted_ws - plain.ws(G, G.encode({"mask": painted})), projection.offset, atol=1e-5)


def test_a_projection_into_another_network_is_refused(networks, projection):
    other = load_generator(networks["cats"], "cpu")
    with torch.no_grad():
        other.decoder.net[0].weight[0, 0] += 1
    with pytest.raises(ValueError, match="style: a projection into another network; load the network that it was made"):
        Scene.from_label_map(other, CAT, style=projection)


def damaged(projection, **changes):
    description = {"format": "pix2pix3d-projection", "version": 1, "network": projection.network, "settings": {}}
    tensors = {name: getattr(projection, name).clone() for name in ("z", "offset", "pose")}
    tensors["label_map"] = projection.label_map.to(torch.uint8)
    for name, value in changes.items():
        (description if name in description else tensors)[name] = value
    return dump_safetensors(description, {name: tensor for name, tensor in tensors.items() if tensor is not None})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "not a projection of a photo, which project_photo.py writes"),
        ({"version": 2}, "projection version 2, expected 1"),
        ({"network": 3}, "damaged: network or settings are missing"),
        ({"settings": []}, "damaged: network or settings are missing"),
        ({"z": None}, "damaged: z is missing, or has another shape"),
        ({"offset": torch.zeros(2, 14, 512)}, "damaged: offset is missing, or has another shape"),
        ({"z": torch.full((1, 512), torch.nan)}, "damaged: holds numbers that are not finite, or no pose"),
        ({"z": torch.full((1, 512), 1e300, dtype=torch.float64)}, "damaged: holds numbers that are not finite"),
        ({"pose": torch.zeros(1, 16)}, "damaged: holds numbers that are not finite, or no pose of 25 numbers"),
    ],
)
def test_files_that_are_no_projection_are_refused_in_one_line(projection, tmp_path, changes, message):
    path = tmp_path / "a.safetensors"
    path.write_bytes(damaged(projection, **changes))
    with pytest.raises(ValueError, match=f"^{path}: {message}") as caught:
        Projection.load(path)
    assert "\n" not in str(caught.value)


def test_every_damaged_byte_of_a_file_is_noticed(projection, tmp_path):
    content = damaged(projection)
    for place in np.random.RandomState(0).randint(0, len(content), 20):
        broken = bytearray(content)
        broken[place] ^= 1
        (tmp_path / "a.safetensors").write_bytes(broken)
        with pytest.raises(ValueError, match=r"a\.safetensors: "):
            Projection.load(tmp_path / "a.safetensors")


def test_tensors_of_other_sizes_are_refused_when_they_are_used(G, projection, tmp_path):
    wrong = {
        "z": torch.zeros(1, 3),
        "offset": torch.zeros(1, 2, 5),
        "weights.backbone.synthesis.b4.const": torch.zeros(3),
        "weights.nothing": torch.zeros(3),
    }
    for name, tensor in wrong.items():
        (tmp_path / "a.safetensors").write_bytes(damaged(projection, **{name: tensor}))
        with pytest.raises(ValueError, match="style: a projection with tensors that do not fit the network"):
            Scene.from_label_map(G, CAT, style=tmp_path / "a.safetensors")


@pytest.mark.parametrize("label_map", [torch.full((1, 1, 8, 8), 200), torch.zeros(1, 1, 8, 4), torch.zeros(1, 1, 8, 8)])
def test_label_maps_that_do_not_fit_are_those_of_the_style(G, projection, tmp_path, label_map):
    content = damaged(projection, label_map=label_map if label_map.is_floating_point() else label_map.to(torch.uint8))
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(ConfigError, match=r"^style: a projection that does not fit the network \(label_map: got "):
        Scene.from_label_map(G, CAT, style=tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps: got 0, expected 1 or more"),
        ({"tune": -1}, "tune: got -1, expected 0 or more"),
        ({"style_rate": float("nan")}, "style_rate: got nan, expected 0 or more"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ProjectionOptions(**options)


def test_photos_of_every_float_type_are_projected_in_float32(G, photo):
    smaller = photo[..., :100, :100]
    errors = []
    for dtype in (torch.float32, torch.float64, torch.float16):
        projector = Projector(G, smaller.to(dtype), CAT, options=SHORT)
        assert projector.photo.dtype == torch.float32
        errors.append(error(projector, projector.run()))
    assert errors == pytest.approx([errors[0]] * 3, rel=1e-3)  # float16 keeps three digits of the photo


def test_photos_that_are_not_square_are_refused(G):
    with pytest.raises(ValueError, match="photo: got '12x8 pixels', expected a square; crop it and its label map"):
        Projector(G, np.zeros((8, 12, 3), np.uint8), CAT)


def test_the_digest_is_that_of_the_weights(G, networks):
    assert network_digest(G) == network_digest(load_generator(networks["cats"], "cpu"))
    assert network_digest(G) != network_digest(load_generator(networks["cars"], "cpu"))
