"""Metrics of styles, against models whose figures are known: seeds, photos, and strokes."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from metric_data import OBJECTS, VIEWS, tiny_network

from dnnlib.errors import ConfigError
from inference import load_generator
from metrics.choices import PHOTO
from metrics.evaluation import SamplingOptions
from metrics.generators import NetworkGenerator
from metrics.image_similarity import psnr
from metrics.registry import NEAREST_OF, SEEDS_PER_LABEL_MAP, parse_metrics
from metrics.report import protocol
from metrics.resources import ResourceOptions, check_metrics, load_resources
from metrics.strokes import paint_stroke

ALL = OBJECTS * VIEWS
CPU = torch.device("cpu")


def evaluate(evaluator, generator, *names):
    results = evaluator.evaluate(generator, parse_metrics(names))
    return {name: value for result in results for name, value in result.figures.items()}


def photos(dataset):
    return torch.stack([torch.from_numpy(dataset[i]["image"]) / 127.5 - 1 for i in range(len(dataset))])


class Model:
    """A model whose scenes are images N,3,R,R, the same from every pose."""

    pivot = torch.zeros(3)

    def render(self, scenes, pose):
        return {"image": scenes.expand(len(pose), -1, -1, -1), "semantic": torch.zeros(len(pose), 6, 128, 128)}


class GrayBySeed(Model):
    """Gray images, brighter for every seed, without any end."""

    def generate(self, label_map, pose, styles):
        return torch.tensor([self.gray(seed) for seed in styles]).view(-1, 1, 1, 1).expand(-1, 3, 128, 128)

    @staticmethod
    def gray(seed):
        return (seed % 37) / 18.5 - 1


class PhotoItself(Model):
    """Shows the photo that it is given as a style."""

    def generate(self, label_map, pose, styles):
        return styles


class BrightnessOfLabels(Model):
    """Gray images, brighter for every pixel of class 1: no pixel keeps its color."""

    def generate(self, label_map, pose, styles):
        return self.image(label_map)

    @staticmethod
    def image(label_map):
        gray = ((label_map == 1).float().sum((1, 2, 3)) % 97) / 48.5 - 1
        return gray.view(-1, 1, 1, 1).expand(-1, 3, 128, 128)


class ColorsOfLabels(Model):
    """Colors each pixel by its own class: nothing changes elsewhere."""

    def generate(self, label_map, pose, styles):
        return (label_map / 3 - 1).expand(-1, 3, -1, -1)


# --------------------------------------------------------------------------- seeds


def test_the_nearest_seed_is_the_best_of_all_seeds_of_a_label_map(evaluator, dataset):
    real = photos(dataset)
    best = []
    for position, member in enumerate(evaluator.members(ALL)):
        grays = [GrayBySeed.gray(position * NEAREST_OF + k) for k in range(NEAREST_OF)]
        best.append(max(psnr(real[member : member + 1], torch.full((1, 3, 128, 128), g)).item() for g in grays))
    assert evaluate(evaluator, GrayBySeed(), "nearest")["nearest_psnr"] == pytest.approx(np.mean(best), rel=1e-6)


def test_diversity_is_the_distance_of_seeds_as_a_share_of_that_of_photos(evaluator, dataset):
    figures = evaluate(evaluator, GrayBySeed(), "diversity", "sg")

    count = SEEDS_PER_LABEL_MAP
    grays = [[GrayBySeed.gray(i * count + k) for k in range(count)] for i in range(ALL)]
    seeds = np.mean([abs(a - b) for row in grays for a, b in combinations(row, 2)])
    assert figures["diversity_seeds"] == figures["sg"] == pytest.approx(seeds, rel=1e-5)

    # Each photo and the next one of another object.
    real = photos(dataset)
    order = evaluator.members(ALL).tolist()
    distances = []
    for place, member in enumerate(order):
        other = next(x for x in order[place + 1 :] + order[:place] if x // VIEWS != member // VIEWS)
        distances.append((real[member] - real[other]).abs().mean().item())
    assert figures["diversity_real"] == pytest.approx(np.mean(distances), rel=1e-5)
    assert figures["diversity_ratio"] == pytest.approx(seeds / np.mean(distances), rel=1e-5)


def test_diversity_needs_two_objects_and_falls_back_to_pixels_unless_a_distance_is_set(dataset, files):
    one = type(dataset)(files["data"], files["mask_data"], max_size=VIEWS)
    if len(np.unique(one.objects)) == 1:
        with pytest.raises(ConfigError, match="diversity: needs images of two or more objects"):
            check_metrics(parse_metrics(["diversity"]), one, ResourceOptions(), None)
    missing = ResourceOptions(lpips_weights="none.pth")
    with pytest.raises(ConfigError, match="lpips is not available"):
        load_resources(missing, parse_metrics(["diversity"]), dataset, 6, CPU)
    l1 = load_resources(ResourceOptions(distance="l1"), parse_metrics(["diversity"]), dataset, 6, CPU)
    assert l1.distance.description == "L1, share of the range"


# --------------------------------------------------------------------------- photos


def test_with_style_photo_each_sample_has_the_style_of_its_own_photo(evaluator):
    evaluator = replace(evaluator, options=SamplingOptions(style=PHOTO, batch=4))
    assert evaluate(evaluator, PhotoItself(), "fid")["fid"] == pytest.approx(0, abs=1e-7)


def test_other_views_have_the_style_of_the_input_view(evaluator, dataset):
    evaluator = replace(evaluator, options=SamplingOptions(style=PHOTO))
    real = photos(dataset)
    others = [psnr(real[n : n + 1], real[n + 1 : n + 2]).item() for n in range(0, ALL, VIEWS)]
    assert evaluate(evaluator, PhotoItself(), "nvs")["nvs_psnr"] == pytest.approx(np.mean(others), rel=1e-6)


def test_metrics_of_several_seeds_use_seeds_whatever_the_style(evaluator):
    names = ("sg", "diversity", "nearest")
    by_photo = replace(evaluator, options=SamplingOptions(style=PHOTO))
    assert evaluate(by_photo, GrayBySeed(), *names) == evaluate(evaluator, GrayBySeed(), *names)


def test_a_network_renders_the_mean_of_its_style_encoder(evaluator, tmp_path):
    G = load_generator(tiny_network(tmp_path / "cats.pt", style_encoder=True), "cpu")
    G.neural_rendering_resolution = 8
    generator = NetworkGenerator(G)
    samples = evaluator.samples([0, 1], [0, 3], images=True)
    with torch.inference_mode():
        ws, _ = generator.generate(samples.label_map, samples.pose, samples.image)
        z, _ = G.style_encoder(samples.image)
        assert torch.allclose(ws, G.mapping(z, samples.pose, {"mask": samples.label_map}), atol=1e-5)

    names = ("miou", "fid", "fvv", "nvs", "stroke")
    seeds = evaluate(evaluator, generator, *names)
    photo = evaluate(replace(evaluator, options=SamplingOptions(style=PHOTO)), generator, *names)
    assert seeds.keys() == photo.keys() and photo["fid"] != seeds["fid"] and photo["nvs_psnr"] != seeds["nvs_psnr"]


def test_the_protocol_names_the_source_of_z(evaluator):
    for style, name, text in [
        ("seeds", "fid", "z: numpy RandomState"),
        ("photo", "fid", "z: mean of the style encoder's"),
        ("photo", "nearest", "z: numpy RandomState"),
    ]:
        chosen = replace(evaluator, options=SamplingOptions(style=style, num=1))
        model = PhotoItself() if (style, name) == ("photo", "fid") else GrayBySeed()
        (result,) = chosen.evaluate(model, parse_metrics([name]))
        settings = protocol(chosen, result, {})
        assert f"z: {settings['z']}".startswith(text) and settings["style"] == style


# --------------------------------------------------------------------------- strokes


def test_a_model_of_local_colors_keeps_its_style_under_strokes(evaluator):
    assert evaluate(evaluator, ColorsOfLabels(), "stroke")["stroke_color"] == 0


def test_the_change_under_strokes_equals_a_known_change(evaluator, dataset):
    changes = []
    for seed, member in enumerate(evaluator.members(ALL)):
        ids = torch.from_numpy(dataset[int(member)]["mask"]).long()  # 1,R,R
        painted, _ = paint_stroke(ids[0], seed)
        before, after = (BrightnessOfLabels.image(x)[0, 0, 0, 0] for x in (ids[None], painted[None, None]))
        levels = [((x + 1) * 127.5).round() for x in (before, after)]
        changes.append(abs(levels[0] - levels[1]).item())
    assert np.mean(changes) > 1
    figures = evaluate(evaluator, BrightnessOfLabels(), "stroke")
    assert figures["stroke_color"] == pytest.approx(np.mean(changes), abs=1)  # rounding of levels
