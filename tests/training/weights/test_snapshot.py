"""Snapshots: round trips, atomic writes, validation of untrusted contents, initialization from other weights."""

import io
import json
import pickle
import re
import struct
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import torch
from golden import golden
from torch import nn

from torch_utils.safe_pickle import WeightsError
from training.networks import registry
from training.networks.configs import CONFIGS, RAW_RESOLUTION, GeneratorOptions
from training.weights.record import NetworkRecord, module_from_record, record_from_module, to_plain_data
from training.weights.snapshot import FORMAT, VERSION, load_network_pkl, save_snapshot
from training.weights.transfer import copy_by_name


def built(case: str, fill: bool = True) -> nn.Module:
    manifest = golden.manifest(case)
    module = registry.construct(manifest["module"], manifest["init_kwargs"])
    return golden.fill_(module) if fill else module


@pytest.fixture(scope="module")
def mapping() -> nn.Module:
    return built("map_plain")


def same_state(a: nn.Module, b: nn.Module) -> bool:
    state_a = a.state_dict()
    state_b = b.state_dict()
    return state_a.keys() == state_b.keys() and all(torch.equal(state_a[name], state_b[name]) for name in state_b)


# --------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("name", ["weights.pkl", "weights.pt", "weights.safetensors"])
def test_saved_networks_and_metadata_load_bit_for_bit(tmp_path, mapping, name):
    discriminator = built("net_discriminator").train()
    data_set = OrderedDict(path="cats.zip", sizes=(512, np.int64(6)))
    networks = {"G_ema": mapping, "D": discriminator, "G": mapping}
    save_snapshot(tmp_path / name, networks, data_set, {"kimg": np.float32(0.5), "cfg": "seg2cat"})
    data = load_network_pkl(tmp_path / name)
    assert all(same_state(data[key], module) for key, module in networks.items())
    assert data["training_set_kwargs"] == {"path": "cats.zip", "sizes": [512, 6]}
    assert data["extra"] == {"kimg": 0.5, "cfg": "seg2cat"}
    assert not data["D"].training and discriminator.training
    assert not any(p.requires_grad for p in data["D"].parameters())
    assert registry.describe(data["D"]) == registry.describe(discriminator)


@pytest.mark.parametrize("name", ["weights.pkl", "weights.safetensors"])
def test_an_open_file_is_read_and_not_closed(tmp_path, mapping, name):
    save_snapshot(tmp_path / name, {"G_ema": mapping})
    with (tmp_path / name).open("rb") as file:
        assert same_state(load_network_pkl(file)["G_ema"], mapping)
        assert not file.closed


def test_generator_attributes_are_saved(tmp_path):
    generator = built("gen_eg3d_uncond", fill=False)
    generator.neural_rendering_resolution = 96
    generator.rendering_kwargs = {**generator.rendering_kwargs, "depth_resolution": 24}
    save_snapshot(tmp_path / "g.pkl", {"G_ema": generator})
    loaded = load_network_pkl(tmp_path / "g.pkl")["G_ema"]
    assert loaded.neural_rendering_resolution == 96 and loaded.rendering_kwargs == generator.rendering_kwargs


def test_a_snapshot_loads_with_weights_only_and_names_its_format(tmp_path, mapping):
    save_snapshot(tmp_path / "w.pkl", {"G_ema": mapping})
    contents = torch.load(tmp_path / "w.pkl", weights_only=True)
    assert (contents["format"], contents["version"]) == (FORMAT, VERSION)
    assert contents["networks"]["G_ema"]["class_name"] == "MappingNetwork"
    assert contents["networks"]["G_ema"]["init_kwargs"] == golden.manifest("map_plain")["init_kwargs"]


def test_safetensors_are_described_by_a_json_file(tmp_path, mapping):
    save_snapshot(tmp_path / "w.safetensors", {"G_ema": mapping}, extra={"cfg": "seg2cat"})
    description = json.loads((tmp_path / "w.json").read_text())
    assert description["networks"]["G_ema"]["init_kwargs"]["num_ws"] == 14 and description["extra"] == {
        "cfg": "seg2cat"
    }


def test_saving_a_view_does_not_save_its_whole_storage(tmp_path, mapping):
    record = record_from_module(mapping)
    size = sum(t.numel() * t.element_size() for t in record.state.values())
    mapping_of_views = registry.construct(record.class_name, record.init_kwargs)
    for parameter in mapping_of_views.parameters():
        parameter.data = torch.zeros(1_000_000)[: parameter.numel()].view(parameter.shape)
    save_snapshot(tmp_path / "w.pkl", {"G_ema": mapping_of_views})
    assert (tmp_path / "w.pkl").stat().st_size < size + 50_000


# --------------------------------------------------------------------------- errors


def test_a_failed_write_keeps_the_previous_file_and_no_temporary_one(tmp_path, mapping):
    path = tmp_path / "w.pkl"
    save_snapshot(path, {"G_ema": mapping})
    before = path.read_bytes()
    unwritable = NetworkRecord("MappingNetwork", {}, {"weight": lambda: None})
    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        save_snapshot(path, {"G_ema": mapping, "G": unwritable})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_saving_anything_but_plain_data_and_registered_networks_is_an_error(tmp_path, mapping):
    with pytest.raises(WeightsError, match=r"extra: expected plain data, got Tensor"):
        save_snapshot(tmp_path / "w.pkl", {"G_ema": mapping}, extra={"x": torch.zeros(1)})
    with pytest.raises(ValueError, match="not built by"):
        save_snapshot(tmp_path / "w.pkl", {"G_ema": nn.Linear(2, 2)})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["w.pkl", "w.safetensors"])
def test_a_truncated_snapshot_is_rejected(tmp_path, mapping, name):
    save_snapshot(tmp_path / name, {"G_ema": mapping})
    full = (tmp_path / name).read_bytes()
    for length in [*range(0, 64, 7), *range(64, len(full), 2003), len(full) - 1]:
        with pytest.raises(WeightsError):
            load_network_pkl(io.BytesIO(full[:length]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(version=2), "snapshot version 2"),
        (lambda c: c.update(version=torch.ones(2)), "snapshot version of type Tensor"),
        (lambda c: c.update(format="other"), "not a snapshot"),
        (lambda c: c.update(networks={}), "without networks"),
        (lambda c: c.update(extra=None), "extra: expected a dict, got NoneType"),
        (lambda c: c["networks"].update(G_ema=3), "G_ema: expected class name"),
        (lambda c: c["networks"]["G_ema"]["state"].update(x=3), "G_ema: expected class name"),
        (lambda c: c["networks"]["G_ema"]["state"].pop("w_avg"), r'Missing key.*"w_avg"'),
        (
            lambda c: c["networks"]["G_ema"]["state"].update(w_avg=torch.zeros(3)),
            r"size mismatch for w_avg: .*\[3\].*\[64\]",
        ),
        (lambda c: c["networks"]["G_ema"].update(class_name="None"), "unknown class 'None'"),
        (lambda c: c["networks"]["G_ema"]["attributes"].update(rendering_kwargs=3), "rendering_kwargs: expected dict"),
    ],
)
def test_changed_snapshot_contents_are_rejected(tmp_path, mapping, change, message):
    save_snapshot(tmp_path / "w.pkl", {"G_ema": mapping})
    contents = torch.load(tmp_path / "w.pkl", weights_only=True)
    change(contents)
    torch.save(contents, tmp_path / "w.pkl")
    with pytest.raises(WeightsError, match=message):
        load_network_pkl(tmp_path / "w.pkl")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"avg_camera_radius": "x"}, "'>' not supported"),
        ({"avg_camera_radius": -1}, "avg_camera_radius: expected more than 0, got -1"),
        ({"avg_camera_pivot": [0, 0]}, "not enough values"),
        ({"depth_resolution": 2}, "samples: expected 4 or more"),
        ({"c_scale": "x"}, "must be real number"),
        ({"plane_axes": "z"}, "plane_axes: expected one of published, corrected, got 'z'"),
        ({"superresolution_noise_mode": "some"}, "superresolution_noise_mode: got 'some'"),
        (None, "rendering options lack ray_start"),
    ],
)
def test_invalid_rendering_options_are_rejected_on_loading(generator_record, changed, message):
    options = {} if changed is None else {**generator_record.attributes["rendering_kwargs"], **changed}
    with pytest.raises(WeightsError, match=f"invalid rendering options .*{message}"):
        module_from_record(replace(generator_record, attributes={"rendering_kwargs": options}))


@pytest.fixture(scope="module")
def generator_record():
    return record_from_module(built("gen_eg3d_uncond", fill=False))


def test_a_snapshot_cannot_replace_methods_of_a_network(mapping):
    record = record_from_module(mapping)
    changed = NetworkRecord(record.class_name, record.init_kwargs, record.state, {"forward": "nothing"})
    assert callable(module_from_record(changed).forward)


@pytest.mark.parametrize("start", [b"\x80\x01", b"PK"])
def test_a_safetensors_header_length_that_looks_like_another_format_is_read(start):
    # The header is padded with spaces to the length whose bytes are `start`.
    header = b"{}".ljust(int.from_bytes(start, "little"))
    with pytest.raises(WeightsError, match="safetensors file not written by this program"):
        load_network_pkl(io.BytesIO(start.ljust(8, b"\0") + header))


def test_a_safetensors_file_of_another_program_is_rejected():
    header = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    with pytest.raises(WeightsError, match="safetensors file not written by this program"):
        load_network_pkl(io.BytesIO(struct.pack("<Q", len(header)) + header + bytes(4)))


def test_to_plain_data_copies_data_and_rejects_anything_else():
    original = {"a": (1, np.float64(0.5)), "b": OrderedDict(c=[None, True, "x"])}
    copied = to_plain_data(original)
    assert copied == {"a": [1, 0.5], "b": {"c": [None, True, "x"]}} and type(copied["b"]) is dict
    copied["b"]["c"].append(1)
    assert original["b"]["c"] == [None, True, "x"]
    for bad in ({1: 2}, {"x": b"bytes"}, {"x": object()}, [0] * 20_000):
        with pytest.raises(WeightsError):
            to_plain_data(bad)


# --------------------------------------------------------------------------- initialization from other weights


def test_initializing_from_eg3d_copies_the_tensors_in_the_golden_map():
    expected = json.loads((golden.HERE / "resume_map.json").read_text())
    source, destination = built(expected["src_case"]), built(expected["dst_case"], fill=False)
    fresh = {name: tensor.clone() for name, tensor in destination.state_dict().items()}
    report = copy_by_name(source, destination)

    assert report.sources == expected["map"]
    source_state = source.state_dict()
    for name, tensor in destination.state_dict().items():
        origin = expected["map"][name]
        assert torch.equal(tensor, fresh[name] if origin is None else source_state[origin]), name
    table = report.table()
    kinds = [
        "same" if origin == name else "none" if origin is None else "other" for name, origin in expected["map"].items()
    ]
    rows = [
        re.search(rf"^{title} +(\d+)", table, re.MULTILINE)[1] for title in ("copied", "from another name", "unchanged")
    ]
    assert [int(row) for row in rows] == [kinds.count(kind) for kind in ("same", "other", "none")]
    assert "superresolution_semantic: from superresolution\n" in table
    assert "backbone.mapping.w_avg: shape (14, 512), source (512,)" in table
    assert "backbone.mapping.embed_mask: not in the source" in table


def test_a_discriminator_is_initialized_from_one_with_fewer_input_channels():
    kwargs = golden.manifest("net_discriminator")["init_kwargs"]
    source, destination = (registry.construct("Discriminator", {**kwargs, "img_channels": n}) for n in (3, 8))
    report = copy_by_name(source, destination)
    assert set(report.reasons) == {"b32.fromrgb.weight"}
    assert torch.equal(destination.b16.conv0.weight, source.b16.conv0.weight)


# --------------------------------------------------------------------------- configurations


@pytest.mark.parametrize(
    ("cfg", "case"), [("seg2cat", "gen_seg2cat_full"), ("seg2face", "gen_seg2face"), ("edge2car", "gen_edge2car")]
)
def test_generator_arguments_equal_the_published_ones(cfg, case):
    published = golden.manifest(case)["init_kwargs"]
    widths = {key: published[key] for key in ("channel_base", "channel_max")}
    if cfg == "edge2car":  # the golden file has 9, but published weights have 7 and published classes ignore it
        published["mapping_kwargs"]["geometry_layer"] = 7
    assert replace(CONFIGS[cfg], **widths).kwargs() == published


def test_edge2cat_has_the_camera_of_seg2cat_and_one_channel():
    cat = CONFIGS["seg2cat"].kwargs()
    edge = CONFIGS["edge2cat"].kwargs()
    assert edge["rendering_kwargs"] == cat["rendering_kwargs"]
    assert (edge["semantic_channels"], edge["data_type"], edge["img_resolution"]) == (1, "edge", 512)
    assert edge["mapping_kwargs"]["in_channels"] == 1
    assert CONFIGS.keys() == RAW_RESOLUTION.keys()


def test_geometry_layer_other_than_7_uses_a_mapping_class_that_honors_it():
    options = GeneratorOptions("shapenet", 128, "edge", geometry_layer=9)
    mapping_kwargs = options.kwargs()["mapping_kwargs"]
    sizes = {"z_dim": 512, "c_dim": 25, "w_dim": 512, "num_ws": 14}
    arguments = {key: value for key, value in mapping_kwargs.items() if key != "class_name"}
    assert registry.construct(mapping_kwargs["class_name"], {**sizes, **arguments}).geometry_layer == 9


def test_an_unknown_resolution_is_rejected():
    with pytest.raises(ValueError, match="resolution: expected 512, 256, 128, got 64"):
        replace(CONFIGS["seg2cat"], resolution=64)


def test_options_return_new_constructor_arguments_each_time():
    first = CONFIGS["seg2cat"].kwargs()
    first["rendering_kwargs"]["avg_camera_pivot"][2] = 5
    assert CONFIGS["seg2cat"].kwargs()["rendering_kwargs"]["avg_camera_pivot"] == [0, 0, -0.06]
