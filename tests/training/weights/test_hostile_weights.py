"""Damaged and hostile weights files are refused in one line, with bounded time and memory; dense tensors are read."""

import http.server
import io
import json
import os
import pickletools
import struct
import threading
import zipfile
from dataclasses import replace

import public_pickle
import pytest
import torch
from golden import golden
from safetensors.torch import save

from dnnlib import limits
from torch_utils import safe_pickle
from torch_utils.safe_pickle import WeightsError, read_pickle
from training.networks import registry
from training.weights import torch_file
from training.weights.published_pickle import lookup
from training.weights.record import NetworkRecord, module_from_record, record_from_module
from training.weights.safetensors_file import CHECKSUM_KEY, METADATA_KEY
from training.weights.snapshot import load_network_pkl, read_weights, save_snapshot
from training.weights.torch_file import read_torch_file

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of PyTorch, about sparse and quantized tensors
W = "fc0.weight"


def built(case: str) -> torch.nn.Module:
    manifest = golden.manifest(case)
    return registry.construct(manifest["module"], manifest["init_kwargs"])


@pytest.fixture(scope="module")
def record() -> NetworkRecord:
    return record_from_module(built("map_plain"))


@pytest.fixture(scope="module")
def generator() -> NetworkRecord:
    return record_from_module(built("gen_eg3d_uncond"))


def contents_of(record: NetworkRecord) -> dict:
    networks = {"G_ema": {**vars(record), "state": dict(record.state)}}
    return {
        "format": "pix2pix3d-snapshot",
        "version": 1,
        "networks": networks,
        "training_set_kwargs": None,
        "extra": {},
    }


def torch_bytes(contents) -> bytes:
    file = io.BytesIO()
    torch.save(contents, file)
    return file.getvalue()


def snapshot_bytes(tmp_path, record: NetworkRecord, ending: str) -> bytes:
    path = tmp_path / f"w.{ending}"
    save_snapshot(path, {"G_ema": record})
    return path.read_bytes()


def rejected(content: bytes, message: str) -> None:
    with pytest.raises(WeightsError, match=message) as caught:
        load_network_pkl(io.BytesIO(content))
    assert str(caught.value).isprintable() and len(str(caught.value)) < 600


# --------------------------------------------------------------------------- tensors


BASE = torch.arange(24.0).reshape(4, 6)
DENSE = {
    **{str(dtype): BASE.to(dtype) for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.bool)},
    "transposed": BASE.T,
    "part": BASE[1:3, ::2],
    "number": torch.tensor(3.0),
    "empty": BASE[:0],
    "parameter": torch.nn.Parameter(BASE),
}


def test_dense_tensors_of_every_type_are_read_as_pytorch_reads_them(monkeypatch):
    contents = {**DENSE, "same storage": DENSE["transposed"], "state": torch.nn.Linear(2, 3).state_dict()}
    content = torch_bytes(contents)
    expected = torch.load(io.BytesIO(content), weights_only=True)
    monkeypatch.setattr(torch, "load", None)
    got = read_torch_file(io.BytesIO(content))
    assert got.keys() == expected.keys() and got["state"].keys() == expected["state"].keys()
    for name, tensor in {**expected, **expected["state"]}.items():
        if isinstance(tensor, torch.Tensor):
            same = {**got, **got["state"]}[name]
            assert same.dtype == tensor.dtype and same.stride() == tensor.stride() and torch.equal(same, tensor), name
    assert got["same storage"].data_ptr() == got["transposed"].data_ptr()


ODD = {
    "sparse": (lambda x: x.to_sparse(), "_rebuild_sparse_tensor"),
    "sparse rows": (lambda x: x.to_sparse_csr(), "_rebuild_sparse_tensor"),
    "quantized": (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), "_rebuild_qtensor"),
    "meta": (lambda x: x.to("meta"), "meta"),
    "nested": (lambda x: torch.nested.nested_tensor([x, x[:1]]), "_rebuild_nested_tensor"),
    "complex": (lambda x: x.to(torch.complex64), "ComplexFloatStorage"),
    "float8": (lambda x: x.to(torch.float8_e4m3fn), "_rebuild_tensor_v3"),
    "integers": (lambda x: x.long(), "got torch.int64, expected torch.float32"),
    "bools": (lambda x: x.bool(), "got torch.bool, expected torch.float32"),
    "repeated": (lambda x: x[:1, :1].expand(1 << 20, 1 << 20), "beyond its storage"),
    "other shape": (lambda x: x.T, "size mismatch for fc0.weight"),
    "flat": (lambda x: x.flatten(), "size mismatch for fc0.weight"),
    "list": (lambda x: x.tolist(), "expected class name, arguments, attributes and tensors"),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_tensors_are_refused(record, kind):
    change, message = ODD[kind]
    contents = contents_of(record)
    contents["networks"]["G_ema"]["state"][W] = change(record.state[W])
    rejected(torch_bytes(contents), message)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.complex64, torch.uint16])
def test_odd_types_in_safetensors_are_refused(record, dtype):
    text = json.dumps(
        {**contents_of(replace(record, state={})), "networks": {"G_ema": {**vars(record), "state": None}}}
    )
    content = save({f"G_ema.{W}": record.state[W].to(dtype)}, {METADATA_KEY: text})
    rejected(content, f"got {dtype}, .*expected a dense tensor")


def test_too_many_or_too_long_names_and_shared_memory_are_refused(record):
    x = torch.zeros(1000)
    for state, message in [
        ({f"x{i}": torch.zeros(1) for i in range(limits.MAX_TENSORS + 1)}, "tensors, expected at most"),
        ({"x" * 1000: x}, "name of 1000 characters"),
        ({f"x{i}": x for i in range(9)}, "much larger than the values that are stored"),
    ]:
        rejected(torch_bytes(contents_of(replace(record, state=state))), message)
    contents = contents_of(record)
    contents["networks"] = {f"G{i}": contents["networks"]["G_ema"] for i in range(limits.MAX_NETWORKS + 1)}
    rejected(torch_bytes(contents), "33 networks, expected at most 32")


# --------------------------------------------------------------------------- PyTorch's archives


def rewritten(content: bytes, change, compression: int = zipfile.ZIP_STORED) -> bytes:
    """Write the archive again, with the members that `change` (dict of bytes by name) has changed."""
    with zipfile.ZipFile(io.BytesIO(content)) as source:
        members = {name: source.read(name) for name in source.namelist()}
    change(members)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as target:
        for name, data in members.items():
            target.writestr(name, data)
    return file.getvalue()


ROOT_NAME = "archive"  # of members, by torch.save into memory
PICKLE = f"{ROOT_NAME}/data.pkl"


def in_pickle(old: bytes, new: bytes):
    def change(members):
        assert old in members[PICKLE]
        members[PICKLE] = members[PICKLE].replace(old, new)

    return change


ARCHIVES = {
    "no pickle": (lambda m: m.pop(PICKLE), "no data.pkl"),
    "two pickles": (lambda m: m.update({"other/data.pkl": b"\x80\x02N."}), "or several"),
    "no storage": (lambda m: m.pop(f"{ROOT_NAME}/data/0"), "'data/0' is missing"),
    "short storage": (lambda m: m.update({f"{ROOT_NAME}/data/0": b"\0\0\0\0"}), "invalid reference to a storage"),
    "long storage": (lambda m: m.update({f"{ROOT_NAME}/data/0": bytes(10**6)}), "invalid reference to a storage"),
    "half a number": (lambda m: m.update({f"{ROOT_NAME}/data/0": b"\0\0\0"}), "."),
    "big-endian": (lambda m: m.update({f"{ROOT_NAME}/byteorder": b"big"}), "big-endian"),
    "a number as storage": (lambda m: m.update({PICKLE: b"\x80\x02K\x05Q."}), "invalid reference to a storage"),
    "a name outside": (in_pickle(b"X\x01\0\0\x000", b"X\x01\0\0\0/"), "'data//' is missing"),
    "other type": (in_pickle(b"FloatStorage", b"DoubleStorage"), "invalid reference|beyond"),
    "other function": (in_pickle(b"torch._utils\n_rebuild_tensor_v2", b"os\nsystem"), "refers to 'os.system'"),
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_damaged_archives_are_refused(record, kind):
    change, message = ARCHIVES[kind]
    content = torch_bytes(contents_of(record))
    load_network_pkl(io.BytesIO(rewritten(content, lambda members: None)))
    rejected(rewritten(content, change), message)


def test_compressed_archives_and_overlapping_files_are_refused(record):
    content = torch_bytes(contents_of(record))
    rejected(rewritten(content, lambda members: None, zipfile.ZIP_DEFLATED), "compressed")
    directory = content.index(b"PK\x01\x02")
    for size in (0, 2**31):
        declared = bytearray(content)
        struct.pack_into("<II", declared, directory + 20, size, size)
        with pytest.raises(WeightsError):
            load_network_pkl(io.BytesIO(declared))


def test_a_list_of_files_beyond_the_limit_is_not_read(record, monkeypatch):
    content = torch_bytes(contents_of(record))
    monkeypatch.setattr(torch_file, "MAX_HEADER_BYTES", 300)
    rejected(content, "whose list of files has more than 300 bytes")


# --------------------------------------------------------------------------- checksums


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_any_changed_bit_is_noticed_or_without_effect(tmp_path, record, ending):
    content = snapshot_bytes(tmp_path, record, ending)
    expected = read_weights(io.BytesIO(content)).networks["G_ema"]
    refused = 0
    for position in [
        *range(0, 3000, 97),
        *range(3000, len(content), 1999),
        *range(len(content) - 500, len(content), 23),
    ]:
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        try:
            network = read_weights(io.BytesIO(damaged)).networks["G_ema"]
        except WeightsError:
            refused += 1
            continue
        assert (network.class_name, network.init_kwargs) == (expected.class_name, expected.init_kwargs)
        assert network.state.keys() == expected.state.keys()
        assert all(torch.equal(tensor, expected.state[name]) for name, tensor in network.state.items())
    assert refused > 50


def test_safetensors_without_checksum_of_older_versions_are_read(tmp_path, record):
    content = snapshot_bytes(tmp_path, record, "safetensors")
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    del header["__metadata__"][CHECKSUM_KEY]
    text = json.dumps(header, separators=(",", ":")).encode().ljust(length)
    assert read_weights(io.BytesIO(content[:8] + text + content[8 + length :])).networks.keys() == {"G_ema"}


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "{}", "3", "null", "\ud800", '{"networks": 3}', '{"networks": {"G": 3}}']
)
def test_odd_descriptions_in_safetensors_are_refused(text):
    header = json.dumps({"__metadata__": {METADATA_KEY: text}}).encode()
    rejected(len(header).to_bytes(8, "little") + header, "not written by this program|not a snapshot")


# --------------------------------------------------------------------------- arguments and options


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_layers": 499_000, "w_dim": 1, "layer_features": 1, "z_dim": 1}, "too many tensors"),
        ({"num_layers": 2**24 + 1}, "'num_layers': 16777217 is too large"),
        ({"num_layers": float("nan")}, "'num_layers': nan is too large"),
        ({"num_layers": -5}, "Unexpected key"),
        ({"num_layers": "x"}, "cannot build"),
        ({"w_dim": -1}, "cannot build"),
        ({"w_avg_shape": [2**12, 2**12]}, "more elements than the file holds"),
        ({"activation": "x"}, "cannot build"),
        ({"resolution": 0}, "'resolution': got 0, expected 1 to 1024"),
        ({"img_resolution": 2048}, "'img_resolution': got 2048, expected 1 to 1024"),
        ({"conv_clamp": "x"}, "'conv_clamp': got 'x'"),
        ({"conv_clamp": {}}, "'conv_clamp': got {}"),
        ({"conv_clamp": -1}, "'conv_clamp': got -1"),
        ({"layer": {"up": 1000}}, "'up': got 1000, expected 1 to 4"),
        ({"x": ["a"] * 20_000}, "values"),
    ],
)
def test_odd_arguments_are_refused(record, changed, message):
    rejected(torch_bytes(contents_of(replace(record, init_kwargs={**record.init_kwargs, **changed}))), message)


def test_a_style_encoder_cannot_ask_for_a_huge_identity_matrix():
    with pytest.raises(WeightsError, match="more elements than the file holds"):
        module_from_record(NetworkRecord("StyleEncoder", {"z_dim": 1900, "resolution": 16, "width": 1}, {}))


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        *[
            ("neural_rendering_resolution", r, "a raw image of|neural_rendering_resolution")
            for r in (0, -1, 20_000, True)
        ],
        ("neural_rendering_resolution", 10_000_000, "expected 1 to 1024"),
        ("neural_rendering_resolution", 1000, "a raw image of 1000x1000 pixels with 48 and 48 samples"),
        ("neural_rendering_resolution", "64", "expected int"),
        ("depth_resolution", 10_000_000, "expected 1 to 1024"),
        ("depth_resolution", 48.5, "expected whole numbers"),
        ("depth_resolution_importance", 10_000_000, "raw image of"),
        ("depth_resolution_importance", -1, "fine_samples 0 or more"),
        ("depth_resolution_importance", None, "expected whole numbers"),
        ("ray_end", float("inf"), "inf is too large"),
        ("ray_end", 1, "expected 0 <= start < end"),
        ("ray_start", "auto", "start, end"),
        ("box_warp", 0, "box_warp above 0"),
        ("box_warp", float("nan"), "nan is too large"),
        ("box_warp", "x", "not supported"),
        ("box_warp", None, "not supported"),
        ("avg_camera_radius", 2**30, "too large"),
        ("avg_camera_pivot", [0, 0, "x"], "must be real number"),
        ("background_radius", -1, "background_radius: expected more than 0"),
        ("c_scale", 10**400, "integer of more than 64 bits"),
        ("superresolution_noise_mode", [], "superresolution_noise_mode"),
    ],
)
def test_odd_rendering_options_are_refused(generator, attribute, value, message):
    attributes = {**generator.attributes}
    if attribute in attributes:
        attributes[attribute] = value
    else:
        attributes["rendering_kwargs"] = {**attributes["rendering_kwargs"], attribute: value}
    rejected(torch_bytes(contents_of(replace(generator, attributes=attributes))), message)


def test_the_largest_options_of_a_training_run_are_accepted(generator):
    options = {**generator.attributes["rendering_kwargs"], "depth_resolution": 256, "depth_resolution_importance": 256}
    attributes = {"rendering_kwargs": options, "neural_rendering_resolution": 256}
    assert module_from_record(replace(generator, attributes=attributes)).neural_rendering_resolution == 256


# --------------------------------------------------------------------------- pickles


def steps_of(content: bytes) -> int:
    return sum(1 for _ in pickletools.genops(content))


def test_published_generators_take_a_small_part_of_the_steps():
    manifest = golden.manifest("gen_seg2cat")
    module = registry.construct(manifest["module"], manifest["init_kwargs"])
    content = public_pickle.snapshot(
        {"G_ema": public_pickle.network(module, manifest["module"], manifest["init_kwargs"])}
    )
    networks = 6
    data_steps = len(module.state_dict()) * safe_pickle._DATA_STEPS
    assert networks * (2 * steps_of(content) + data_steps) < limits.MAX_PICKLE_STEPS


@pytest.mark.parametrize(
    "body",
    [
        b"]" * 5000,
        b"\x8f" * 5000,  # sets
        b"]\x94("
        + b"\x8c\x01a" * 300
        + b"e"
        + b"cbuiltins\nset\n\x94"
        + b"h\x01h\x00\x85R" * 20,  # the same list in each call
        b"]" + b"]a" * 5000,
    ],
)
def test_steps_are_limited(body):
    with pytest.raises(WeightsError, match="more than 1000 steps"):
        read_pickle(io.BytesIO(b"\x80\x04" + body + b"."), lookup, max_steps=1000)


def test_data_cannot_be_used_by_many_calls():
    storage = io.BytesIO()
    torch.save(torch.zeros(1000).storage(), storage, _use_new_zipfile_serialization=False)
    data = storage.getvalue()
    function = b"ctorch.storage\n_load_from_bytes\n\x94"
    content = b"\x80\x04" + function + b"B" + struct.pack("<I", len(data)) + data + b"\x85\x94R"
    assert read_pickle(io.BytesIO(content + b"."), lookup).numel() == 1000
    with pytest.raises(WeightsError, match="more data than the file has"):
        read_pickle(io.BytesIO(content + b"h\x00h\x01R" * 50 + b"."), lookup)


@pytest.mark.parametrize(
    ("version", "shown"), [(4, "version 4"), (5, "version 5"), (2**70, "version a int"), ("6", "version '6'")]
)
def test_networks_of_other_programs_are_named(version, shown):
    network = public_pickle.persistent("Generator", {}, version=version)
    rejected(
        public_pickle.snapshot({"G_ema": network}),
        f"{shown}, expected 'class' and 6; perhaps a network of stylegan2-ada",
    )


# --------------------------------------------------------------------------- files


def test_pipes_devices_and_directories_are_refused_without_waiting(tmp_path):
    pipe = tmp_path / "pipe.pt"
    os.mkfifo(pipe)
    for path, message in [
        (pipe, "not a regular file"),
        (tmp_path, "is a directory"),
        ("/dev/zero", "not a regular file"),
    ]:
        with pytest.raises(WeightsError, match=f"cannot be read \\({message}"):
            load_network_pkl(path)


def test_a_file_of_a_huge_declared_or_real_size_is_refused(tmp_path):
    header = b'{"x":{"dtype":"F32","shape":[1000000,1000000],"data_offsets":[0,4000000000000]}}'
    rejected(len(header).to_bytes(8, "little") + header, "safetensors")
    path = tmp_path / "sparse.pt"
    with path.open("wb") as file:
        file.truncate(limits.MAX_WEIGHTS_BYTES + 1)
    with pytest.raises(WeightsError, match="bytes, expected at most"):
        load_network_pkl(path)


class Answers(http.server.BaseHTTPRequestHandler):
    """Answers with server.status, server.headers and server.content."""

    def do_GET(self):
        self.send_response(self.server.status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, *args):
        """Print nothing."""


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("PIX2PIX3D_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        server.status, server.headers, server.content = 200, {}, b""
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        server.url = f"http://127.0.0.1:{server.server_port}/w.pt"
        yield server
        server.shutdown()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"content": b"<!doctype html><html>"}, "a web page instead of weights"),
        ({"content": b'{"error": "not found"}'}, "not a weights file"),
        ({"content": b""}, "empty file"),
        ({"content": b"half"}, "damaged|truncated"),
        ({"status": 206, "headers": {"Content-Range": "bytes 0-3/4", "Content-Length": "4"}}, "206 with 4 bytes"),
        ({"headers": {"Content-Length": "-1"}}, "200 with -1 bytes"),
        ({"headers": {"Content-Length": "many"}}, "200 with many bytes"),
        ({"headers": {"Content-Length": str(2**40)}}, "not the whole file"),
        ({"headers": {"Content-Length": "999999"}}, "connection lost"),
    ],
)
def test_an_answer_that_is_no_weights_file_is_not_kept(server, record, tmp_path, answer, message):
    whole = torch_bytes(contents_of(record))
    server.content = whole
    for name, value in answer.items():
        setattr(server, name, value)
    if server.content == b"half":
        server.content = whole[: len(whole) // 2]
    with pytest.raises(WeightsError, match=message):
        load_network_pkl(server.url)
    assert list((tmp_path / "cache").iterdir()) == []

    # The next try gets the right answer.
    server.status, server.headers, server.content = 200, {}, whole
    assert load_network_pkl(server.url)["G_ema"].num_ws == 14


def test_the_error_of_a_downloaded_file_names_it(server, record, tmp_path):
    server.content = torch_bytes(contents_of(record))
    load_network_pkl(server.url)
    (path,) = (tmp_path / "cache").iterdir()
    with pytest.raises(WeightsError, match=f"{server.url} \\(downloaded to {path}\\): has G_ema, but no D"):
        load_network_pkl(server.url, only=["D"])
    path.write_bytes(b"<html>")
    with pytest.raises(WeightsError, match=f"downloaded to {path}.: a web page"):
        load_network_pkl(server.url)
