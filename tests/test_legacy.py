"""Published pickles are read as data; malicious and damaged files are rejected in one line; legacy.py commands."""

import io
import os
import pickle
import random
import re
import shlex
import struct
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import public_pickle
import pytest
import torch
from click.testing import CliRunner
from golden import golden
from paths import ROOT
from torch import nn

import legacy
from legacy import WeightsError, load_network_pkl
from torch_utils.safe_pickle import read_pickle
from training.networks.augment import AugmentPipe
from training.networks.configs import CONFIGS
from training.weights import published_pickle
from training.weights.record import NetworkRecord
from training.weights.snapshot import save_snapshot

pytestmark = pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")  # by torch.save of a storage
SMALL = "map_plain"  # 12,032 numbers


def built(case: str) -> tuple[nn.Module, str, dict]:
    """Return a golden case's network with random weights, its public class name and its arguments."""
    manifest = golden.manifest(case)
    module = legacy.construct(manifest["module"], manifest["init_kwargs"])
    return golden.fill_(module), manifest["module"], manifest["init_kwargs"]


def record(case: str = SMALL, **changes) -> public_pickle.Call:
    return public_pickle.network(*built(case), **changes)


def snapshot(*, protocol: int = 4, **networks) -> io.BytesIO:
    return io.BytesIO(public_pickle.snapshot(networks, protocol))


def assert_same_state(module: nn.Module, expected: nn.Module) -> None:
    state = module.state_dict()
    expected_state = expected.state_dict()
    assert state.keys() == expected_state.keys()
    assert all(torch.equal(state[name], expected_state[name]) for name in expected_state)


def rejected(contents: bytes | io.BytesIO, *words: str) -> str:
    """Return the error message of reading a file, one line that contains all `words`."""
    with pytest.raises(WeightsError) as caught:
        load_network_pkl(io.BytesIO(contents) if isinstance(contents, bytes) else contents)
    line = str(caught.value)
    assert "\n" not in line and all(word in line for word in words), line
    return line


# --------------------------------------------------------------------------- valid files


@pytest.mark.parametrize("protocol", [3, 4])
def test_a_published_generator_loads_bit_for_bit_with_its_attributes(protocol):
    module, name, kwargs = built("gen_eg3d_uncond")
    module.register_buffer("dataset_label_std", torch.rand(25))  # in public generators, made by no constructor
    attributes = {"neural_rendering_resolution": 96, "rendering_kwargs": {**kwargs["rendering_kwargs"], "c_scale": 0.5}}
    mappings = public_pickle.MAPPINGS[protocol]
    published = public_pickle.network(module, name, kwargs, attributes, mappings=mappings)
    data = load_network_pkl(snapshot(protocol=protocol, G=published, G_ema=published))

    del module.dataset_label_std
    for loaded in (data["G"], data["G_ema"]):
        assert_same_state(loaded, module)
        assert loaded.neural_rendering_resolution == 96 and loaded.rendering_kwargs["c_scale"] == 0.5
        assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    assert data["training_set_kwargs"]["resolution"] == 512 and type(data["training_set_kwargs"]) is dict


@pytest.mark.slow
def test_the_conditional_generator_of_a_published_pickle_renders_the_golden_image():
    manifest, arrays, x = (f("gen_edge2car") for f in (golden.manifest, golden.load, golden.inputs))
    generator = load_network_pkl(snapshot(G_ema=record("gen_edge2car")))["G_ema"]
    with torch.no_grad(), golden.golden_noise():
        ws = generator.mapping(x["z"], x["pose"], {"mask": x["mask"], "pose": x["pose"]})
        size = manifest["neural_rendering_resolution"]
        out = generator.synthesis(ws, x["c"], neural_rendering_resolution=size, noise_mode="const")
    golden.check("image", out["image"], arrays, rtol=manifest["rtol"])


def test_a_published_discriminator_computes_the_golden_logits():
    manifest, arrays, x = (f("net_discriminator") for f in (golden.manifest, golden.load, golden.inputs))
    discriminator = load_network_pkl(snapshot(D=record("net_discriminator")))["D"]
    with torch.no_grad():
        out = discriminator(x["img"], x["c"])
    golden.check("logits", out, arrays, rtol=manifest["rtol"])


def test_loading_does_not_change_the_random_state():
    file = snapshot(G_ema=record())
    before = torch.get_rng_state()
    load_network_pkl(file)
    assert torch.equal(torch.get_rng_state(), before)


def test_positional_constructor_arguments_are_accepted():
    module, name, kwargs = built(SMALL)
    remaining = {key: value for key, value in kwargs.items() if key not in ("z_dim", "c_dim")}
    published = public_pickle.network(module, name, remaining, args=(kwargs["z_dim"], kwargs["c_dim"]))
    assert_same_state(load_network_pkl(snapshot(G_ema=published))["G_ema"], module)


def test_tensors_of_every_type_and_views_are_read():
    base = torch.arange(24).reshape(4, 6)
    for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.uint8, torch.bool):
        for view in (base.to(dtype), base.to(dtype).T, base.to(dtype)[1:3, ::2], base.to(dtype)[:0]):
            result = read_pickle(io.BytesIO(public_pickle.dumps(view)), published_pickle.lookup)
            assert result.dtype == dtype and torch.equal(result, view)


@pytest.mark.parametrize("protocol", [3, 4])
def test_numpy_scalars_and_sets_become_plain_values(protocol):
    values = [np.float64(0.1), np.float32(0.5), np.int64(-7), np.bool_(True), {"a", "b"}]
    result = read_pickle(io.BytesIO(public_pickle.dumps(values, protocol)), published_pickle.lookup)
    assert result == [0.1, 0.5, -7, True, {"a", "b"}]
    assert not any(isinstance(value, np.generic) for value in result)


def test_a_published_augmentation_pipeline_loads_with_its_options_and_probability():
    pipe = AugmentPipe(xflip=1, hue_max=0.5)
    pipe.p.fill_(0.25)
    published = public_pickle.network(pipe, "AugmentPipe", {"xflip": 1, "hue_max": 0.5})
    loaded = load_network_pkl(snapshot(G_ema=record(), augment_pipe=published))["augment_pipe"]
    assert isinstance(loaded, AugmentPipe) and loaded.options == pipe.options
    assert_same_state(loaded, pipe)


def test_an_augmentation_pipeline_of_an_unknown_class_stays_a_record():
    module = nn.Module()
    module.register_buffer("p", torch.tensor(0.25))
    published = public_pickle.network(module, "UnknownPipe", {"xflip": 1})
    pipe = load_network_pkl(snapshot(G_ema=record(), augment_pipe=published))["augment_pipe"]
    assert isinstance(pipe, NetworkRecord)
    assert (pipe.class_name, pipe.init_kwargs, pipe.state["p"].item()) == ("UnknownPipe", {"xflip": 1}, 0.25)


def test_an_ordinary_class_of_an_imported_module_is_known():
    decoder = public_pickle.named("_imported_module_" + "0a" * 16, "OSGDecoder")
    contents = public_pickle.dumps(decoder(), stand_ins=(decoder,))
    assert read_pickle(io.BytesIO(contents), published_pickle.lookup).class_name == "OSGDecoder"
    other = public_pickle.named("_imported_module_" + "0a" * 16, "Other")
    with pytest.raises(WeightsError, match="Other"):
        read_pickle(io.BytesIO(public_pickle.dumps(other(), stand_ins=(other,))), published_pickle.lookup)


# --------------------------------------------------------------------------- malicious files


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (os.system, ("touch marker",)),
        (eval, ("open('marker', 'w')",)),
        (getattr, ("x", "__class__")),
        (subprocess.Popen, (["touch", "marker"],)),
        (torch.load, ("marker",)),
        (np.load, ("marker",)),
        (print, ("x",)),
    ],
)
def test_a_call_of_any_other_function_is_rejected_and_not_executed(
    tmp_path, monkeypatch, protocol, function, arguments
):
    monkeypatch.chdir(tmp_path)
    call = public_pickle.Call(function, *arguments)
    for file in (
        snapshot(protocol=protocol, G_ema=record(), extra=call),
        snapshot(protocol=protocol, G_ema=record(attributes={"neural_rendering_resolution": call})),
    ):
        rejected(file, function.__name__, "not allowed")
    assert not list(tmp_path.iterdir())


def test_embedded_source_code_is_not_executed(tmp_path):
    marker = tmp_path / "marker"
    source = f"open({str(marker)!r}, 'w').close()\n"
    published = record()
    published.arguments[0]["module_src"] = source
    load_network_pkl(snapshot(G_ema=published))
    assert not marker.exists()


def test_a_call_inside_tensor_data_is_rejected(tmp_path):
    payload = pickle.dumps(public_pickle.Call(os.system, f"touch {tmp_path / 'marker'}"))
    genuine = io.BytesIO()
    torch.save(torch.zeros(3).storage(), genuine, _use_new_zipfile_serialization=False)
    for data in (payload, genuine.getvalue()[:100] + payload, payload + genuine.getvalue()):
        rejected(snapshot(G_ema=record(), extra=public_pickle.Call(torch.storage._load_from_bytes, data)))
    assert not list(tmp_path.iterdir())


def test_lengths_and_indices_beyond_the_file_allocate_no_memory():
    head = b"\x80\x04"
    for body in (
        b"\x8e" + struct.pack("<Q", 2**60) + b"x",  # bytes of 2**60
        b"\x8d" + struct.pack("<Q", 2**60) + b"x",  # text of 2**60
        b"B" + struct.pack("<I", 2**32 - 1) + b"x",
        b"\x8b" + struct.pack("<i", 2**31 - 1) + b"x",  # an integer of 2**31 bytes
        b"\x95" + struct.pack("<Q", 2**63) + b"N.",  # a frame
        b"Nr" + struct.pack("<I", 2**32 - 1) + b".",  # place 2**32 - 1 of the memo
        b"]" * 20_000 + b"a" * 19_999 + b".",  # lists in lists
        b")" + b"\x85" * 20_000 + b"}" + b"\x8c\x01a" + b"s.",
        b"}" + b")" + b"\x85" * 20_000 + b"Ns.",  # a nested tuple as key: hashing it would recurse
    ):
        rejected(head + body)


def test_tensors_beyond_their_storage_are_rejected():
    storage = torch.zeros(10).storage()
    rebuild = torch._utils._rebuild_tensor_v2
    for offset, size, stride in [(0, (11,), (1,)), (8, (3,), (1,)), (0, (2, 2), (9, 2)), (-1, (2,), (1,)),
                                 (0, (2,), (-1,)), (0, (2**40,), (0,)), (0, (3,), (1, 1)), (0, (True,), (1,)),
                                 (2**70, (1,), (1,))]:  # fmt: skip
        call = public_pickle.Call(rebuild, storage, offset, size, stride, False, {})
        rejected(snapshot(G_ema=record(), extra=call), "tensor")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data.replace(b"little_endian\x94\x88", b"little_endian\x94\x89"), "endian"),
        (lambda data: data[:-1], "10 values of torch.float32"),
        (lambda data: data + b"x", "10 values of torch.float32"),
        (lambda data: data[:-48] + struct.pack("<q", 11) + data[-40:], "10 values"),
        (lambda data: data.replace(b"FloatStorage", b"QuietStorage"), "QuietStorage"),
        (lambda data: data.replace(b"FloatStorage", b"DoubleTensor"), "DoubleTensor"),
        (lambda data: data[5:], "damaged"),
        (lambda data: b"", "truncated"),
    ],
)
def test_damaged_tensor_data_is_rejected(damage, words):
    genuine = io.BytesIO()
    torch.save(torch.zeros(10).storage(), genuine, _use_new_zipfile_serialization=False, pickle_protocol=4)
    assert torch.equal(published_pickle.read_storage(genuine.getvalue()), torch.zeros(10))
    with pytest.raises(WeightsError, match=words):
        published_pickle.read_storage(damage(genuine.getvalue()))


def test_cycles_and_exponentially_nested_data_are_rejected():
    decoder = public_pickle.CLASSES["decoder"]()
    decoder.__dict__.update(nn.Module().__dict__)
    decoder.__dict__.update({"_modules": {"again": decoder}})
    published = record()
    published.arguments[0]["state"]["_modules"]["loop"] = decoder
    rejected(snapshot(G_ema=published), "deep")

    doubling: list = [0]
    for _ in range(30):
        doubling = [doubling, doubling]
    loop: list = []
    loop.append(loop)
    for value in (doubling, loop):
        published = record()
        published.arguments[0]["state"]["_init_kwargs"]["value"] = value
        rejected(snapshot(G_ema=published), "levels")

    for _ in range(30):  # 2**30 modules
        outer = public_pickle.CLASSES["decoder"]()
        outer.__dict__.update(nn.Module().__dict__)
        outer.__dict__.update({"_modules": {"a": decoder, "b": decoder}})
        decoder.__dict__["_modules"] = {} if decoder.__dict__["_modules"].get("again") else decoder._modules
        decoder = outer
    published = record()
    published.arguments[0]["state"]["_modules"]["many"] = decoder
    rejected(snapshot(G_ema=published), "submodules")
    published.arguments[0]["version"] = doubling  # 2**30 zeros, if the message quoted it
    rejected(snapshot(G_ema=published), "version a list")


@pytest.mark.parametrize("change", [{"version": 5}, {"version": "6"}, {"type": "module"}, {"state": None}])
def test_invalid_persistence_records_are_rejected(change):
    published = record()
    published.arguments[0].update(change)
    rejected(snapshot(G_ema=published), "persistent object")


# --------------------------------------------------------------------------- invalid networks


def test_wrong_tensor_names_shapes_classes_and_arguments_are_rejected():
    module, name, kwargs = built(SMALL)

    def attempt(*words: str, class_name: str = name, **changes) -> None:
        published = public_pickle.network(module, class_name, {**kwargs, **changes})
        rejected(snapshot(G_ema=published), "G_ema", *words)

    attempt("size mismatch for fc0.weight", "[64, 192]", "[64, 96]", z_dim=128)
    attempt("Missing key", "fc2", num_layers=3)
    attempt("Unexpected key", "fc1", num_layers=1)
    attempt("NoSuchNetwork", class_name="NoSuchNetwork")
    attempt("color", color="red")
    attempt("more elements than the file holds", w_dim=2**20)
    attempt("more elements than the file holds", num_layers=2**20)
    attempt("1073741824", num_layers=2**30)


# --------------------------------------------------------------------------- damaged files and other formats


def test_a_truncated_file_is_rejected(tmp_path):
    full = snapshot(G_ema=record()).getvalue()
    path = tmp_path / "cut.pkl"
    for length in [*range(40), *range(40, len(full), 997), len(full) - 1]:
        path.write_bytes(full[:length])
        rejected(full[:length])
        with pytest.raises(WeightsError, match=r"cut\.pkl"):
            load_network_pkl(path)


def test_a_file_with_a_changed_byte_loads_or_raises_weights_error():
    full = snapshot(G_ema=record()).getvalue()
    rng = random.Random(0)
    loaded = {True: 0, False: 0}
    for _ in range(300):
        damaged = bytearray(full)
        # Mostly in the first 3000 bytes, which hold the structure; the remaining is tensor data.
        damaged[rng.randrange(len(full)) if rng.random() < 0.2 else rng.randrange(3000)] = rng.randrange(256)
        try:
            load_network_pkl(io.BytesIO(damaged))
            loaded[True] += 1
        except WeightsError:
            loaded[False] += 1
    assert min(loaded.values()) > 20  # both cases are tested


def torch_file(contents, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(contents, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def zip_file() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo("dataset.json"), "{}")  # no date, because the bytes are part of the test name
    return file.getvalue()


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (b"", "empty file"),
        (b"<!DOCTYPE html>\n<html>no such file</html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (bytes(range(1, 200)), "starts with"),
        (zip_file(), "zip"),
        (zip_file()[:50], "zip"),
        (torch_file({"weight": torch.zeros(3)}), "not a snapshot"),
        (torch_file(nn.Linear(2, 2)), "not allowed in weights files"),
        (torch_file({"weight": torch.zeros(3)}, zipped=False), "got int"),
        (pickle.dumps([1, 2]), "expected a dict of networks"),
        (pickle.dumps({"G_ema": 3}), "G_ema: expected a network"),
        (pickle.dumps({"weights": 3}), "has none of G, D"),
        (pickle.dumps({"G_ema": 3}, protocol=1), "starts with"),
        (b"\x80\x09N.", "starts with"),
        (struct.pack("<Q", 30) + b'{"a":{"dtype":"F32","shape":[1],', "safetensors"),
    ],
)
def test_each_other_format_is_named_in_a_one_line_error(contents, words):
    rejected(contents, words)


def test_a_missing_file_and_a_directory_cannot_be_read(tmp_path):
    for path in (tmp_path / "none.pkl", tmp_path):
        with pytest.raises(WeightsError, match="cannot be read"):
            load_network_pkl(path)


# --------------------------------------------------------------------------- commands


@pytest.fixture
def published_file(tmp_path) -> Path:
    path = tmp_path / "public.pkl"
    path.write_bytes(snapshot(G=record(), G_ema=record(), D=record("net_discriminator")).getvalue())
    return path


def run(*arguments) -> tuple[int, str]:
    result = CliRunner().invoke(legacy.main, [str(a) for a in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.mark.parametrize("target", ["loaded.pkl", "loaded.pt", "loaded.safetensors"])
def test_convert_keeps_every_tensor(published_file, tmp_path, target):
    code, output = run("convert", published_file.as_uri(), tmp_path / target)
    assert code == 0, output
    original = load_network_pkl(published_file)
    converted = load_network_pkl(tmp_path / target)
    for name in ("G", "G_ema", "D"):
        assert_same_state(converted[name], original[name])
    assert converted["training_set_kwargs"] == original["training_set_kwargs"]


def test_convert_only_keeps_the_named_network(published_file, tmp_path):
    assert run("convert", published_file, tmp_path / "one.pt", "--only", "G_ema")[0] == 0
    assert load_network_pkl(tmp_path / "one.pt").keys() == {"G_ema", "training_set_kwargs", "extra"}


def test_convert_half_halves_the_size_and_keeps_three_digits(published_file, tmp_path):
    full, small = tmp_path / "full.safetensors", tmp_path / "small.safetensors"
    run("convert", published_file, full)
    run("convert", full, small, "--half")
    assert small.stat().st_size < 0.6 * full.stat().st_size
    before, after = (load_network_pkl(path)["G_ema"].state_dict() for path in (full, small))
    for name, tensor in after.items():
        assert tensor.dtype == before[name].dtype
        assert torch.allclose(tensor, before[name], rtol=2**-10, atol=1e-6), name


def test_convert_half_rejects_values_too_large_for_float16(tmp_path):
    G, _, _ = built(SMALL)
    next(G.parameters()).data.fill_(1e6)
    save_snapshot(tmp_path / "x.pt", {"G_ema": G})
    status, output = run("convert", tmp_path / "x.pt", tmp_path / "y.pt", "--half")
    assert status == 2 and "is too large for float16" in output and not (tmp_path / "y.pt").exists()


def test_show_prints_class_arguments_and_tensors(published_file):
    code, output = run("show", published_file)
    manifest = golden.manifest(SMALL)
    assert code == 0
    assert "G_ema: MappingNetwork" in output and '"num_ws": 14' in output
    numbers = sum(int(np.prod(shape)) for _, shape, *_ in manifest["state"])
    assert f"{len(manifest['state'])} tensors, {numbers:,} numbers" in output


def test_init_writes_a_generator_marked_as_untrained(tmp_path):
    arguments = ("--cfg", "edge2car", "--channel-base", 1024, "--channel-max", 16, "--seed", 3)
    code, output = run("init", tmp_path / "fresh.pkl", *arguments)
    assert code == 0, output
    data = load_network_pkl(tmp_path / "fresh.pkl")
    assert data["extra"] == {"untrained": True, "cfg": "edge2car", "seed": 3}
    assert data["G_ema"].neural_rendering_resolution == 64
    torch.manual_seed(3)
    kwargs = replace(CONFIGS["edge2car"], channel_base=1024, channel_max=16).kwargs()
    expected = legacy.construct("TriPlaneSemanticEntangleGenerator", kwargs)
    assert_same_state(data["G"], expected)
    assert_same_state(data["G_ema"], expected)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("convert", "{public}", "x.zip"), "ends in .pkl, .pt, .safetensors"),
        (("convert", "{public}", "nowhere/x.pt"), "does not exist"),
        (("convert", "none.pkl", "x.pt"), "none.pkl: cannot be read"),
        (("convert", "{public}", "x.pt", "--only", "D_semantic"), "no D_semantic"),
        (("show", "none.pkl"), "none.pkl: cannot be read"),
        (("init", "x.pkl", "--cfg", "seg2dog"), "seg2dog"),
        (("init", "x.pkl", "--cfg", "seg2cat", "--channel-base", "100"), "channel_base"),
        (("init", "x.pkl", "--cfg", "seg2cat", "--channel-base", "1000000000000"), "range"),
        (("init", "x.pkl", "--cfg", "seg2cat", "--channel-max", "0"), "range"),
        (("init", "x.pkl", "--cfg", "seg2cat", "--seed", "99999999999999999999999"), "range"),
        (("nonsense",), "No such command"),
    ],
)
def test_invalid_input_prints_one_line_and_exits_with_2(published_file, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, output = run(*(a.format(public=published_file) for a in arguments))
    assert code == 2 and words in output and "Traceback" not in output
    assert len(output.splitlines()) == 1
    assert list(tmp_path.iterdir()) == [published_file]


def test_convert_does_not_replace_an_unrelated_json_file_and_then_writes_nothing(published_file, tmp_path):
    notes = tmp_path / "loaded.json"
    for make in (lambda: notes.write_text('{"labels": []}'), lambda: (notes.unlink(), notes.mkdir())):
        make()
        code, output = run("convert", published_file, tmp_path / "loaded.safetensors")
        assert code == 2 and "loaded.json" in output and len(output.splitlines()) == 1
        assert sorted(tmp_path.iterdir()) == sorted([published_file, notes])


COMMAND = re.compile(r"^python (legacy\.py .*)$", re.MULTILINE)


def test_the_commands_in_the_readme_run(tmp_path, monkeypatch):
    commands = [shlex.split(line) for line in COMMAND.findall((ROOT / "README.md").read_text())]
    assert [command[1] for command in commands] == ["init", "show", "convert"]
    monkeypatch.chdir(tmp_path)
    for command in commands:
        code, output = run(*command[1:])
        assert code == 0, output


def test_convert_stores_class_names(published_file, tmp_path):
    run("convert", published_file, tmp_path / "named.pt", "--class_names", "background,left ear")
    assert load_network_pkl(tmp_path / "named.pt")["extra"]["class_names"] == ["background", "left ear"]


def test_convert_rejects_a_wrong_number_of_class_names(tmp_path):
    toy = ROOT / "checkpoints" / "toy_seg2cat.safetensors"
    code, output = run("convert", toy, tmp_path / "named.pt", "--class_names", "background,left ear")
    assert (code, output) == (2, "Error: --class_names: expected 6 names, one for each class, got 2\n")
    assert not (tmp_path / "named.pt").exists()
