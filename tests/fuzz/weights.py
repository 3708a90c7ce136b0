"""Open damaged and hostile weights files as the applications do, and report each that is not refused in one line.

    PYTHONPATH=.:tests python tests/fuzz/weights.py [--number 100] [--values 2] [--seed 0]

Each file is opened and rendered once in a process of its own. It passes if it is refused with one line, or if it gives
the same network and the same data as the file from which it was made; or, where only options were changed, if it
renders finite images. None may take more than 30 s of processor time or 2 GB more than an intact file.
"""

from __future__ import annotations

import io
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import public_pickle
import torch
from harness import Case, arguments, judge, refusal
from paths import ROOT
from safetensors.torch import save

from inference import Scene, load_generator
from inference.inputs import to_label_map
from training.networks.configs import GeneratorOptions
from training.networks.registry import construct
from training.weights.record import record_from_module
from training.weights.safetensors_file import METADATA_KEY
from training.weights.snapshot import read_weights, save_snapshot

TINY = {"channel_base": 512, "channel_max": 8, "encoder_width": 0.02, "sr_width": 0.1, "plane_resolution": 32}
ODD_NUMBERS = (0, -1, 1, 3, 0.5, 20_000, 10_000_000, 2**40, 1e300, float("inf"), float("nan"))
ODD_VALUES = (*ODD_NUMBERS, None, True, "x", "\x1b[2J\n", [], [1, 2], {}, {"a": 1}, ["x"] * 9999, [[[[1]]]])

File = tuple[str, bytes, bool]  # description, content, whether another network than the intact one is expected


def build() -> torch.nn.Module:
    """Return a small generator of cats whose weights are not all alike."""
    torch.manual_seed(0)
    options = GeneratorOptions("afhq", 128, semantic_channels=6, depth_resolution=8, **TINY)
    G = construct(options.class_name, options.kwargs())
    G.neural_rendering_resolution = 16
    return G


def contents_of(path: Path, G: torch.nn.Module) -> bytes:
    save_snapshot(path, {"G_ema": G}, extra={"training_options": {}})
    return path.read_bytes()


# --------------------------------------------------------------------------- damage


def damaged(name: str, content: bytes, rng: Random) -> File:
    """Truncate a file, change bits or bytes, or remove, repeat or insert a part."""
    data = bytearray(content)
    # Half of the changes hit the structure at either end.
    place = rng.choice((rng.randrange(len(data)), rng.randrange(4000), len(data) - 1 - rng.randrange(4000)))
    kind = rng.choice(("cut", "bit", "bit", "bit", "byte", "zeros", "removed", "repeated", "inserted"))
    size = rng.choice((1, 8, 64, 4096))
    if kind == "cut":
        del data[place:]
    elif kind == "bit":
        data[place] ^= 1 << rng.randrange(8)
    elif kind == "byte":
        data[place] = rng.randrange(256)
    elif kind == "zeros":
        data[place : place + size] = bytes(len(data[place : place + size]))
    elif kind == "removed":
        del data[place : place + size]
    else:
        data[place:place] = data[place : place + size] if kind == "repeated" else rng.randbytes(size)
    return f"{name}: {kind} at {place}", bytes(data), False


# --------------------------------------------------------------------------- hostile contents


def odd_tensors(tensor: torch.Tensor) -> dict[str, Any]:
    """Return replacements of a tensor that has two axes."""
    return {
        "sparse": tensor.to_sparse(),
        "sparse rows": tensor.to_sparse_csr(),
        "quantized": torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
        "meta": tensor.to("meta"),
        "complex": tensor.to(torch.complex64),
        "float8": tensor.to(torch.float8_e4m3fn),
        "whole numbers": tensor.to(torch.int64),
        "bools": tensor.to(torch.bool),
        "transposed": tensor.T,
        "one axis": tensor.flatten(),
        "empty": tensor[:0],
        "repeated": tensor[:1, :1].expand(1 << 20, 1 << 20),
        "nested": torch.nested.nested_tensor([tensor, tensor[:1]]),
        "not finite": tensor * float("nan"),
        "not a tensor": 3,
        "text": "x" * 1_000_000,
    }


def odd_snapshots(content: bytes, rng: Random, values: int) -> Iterator[File]:
    """Yield PyTorch files with odd tensors, and with odd arguments, options and attributes."""

    def changed(change: Callable[[dict], object]) -> bytes:
        contents = torch.load(io.BytesIO(content), weights_only=True)
        change(contents["networks"]["G_ema"])
        file = io.BytesIO()
        torch.save(contents, file)
        return file.getvalue()

    # Tensors.
    intact = torch.load(io.BytesIO(content), weights_only=True)["networks"]["G_ema"]
    name = next(name for name, tensor in intact["state"].items() if tensor.ndim == 2)
    for kind, value in odd_tensors(intact["state"][name]).items():
        yield f"tensor {kind}", changed(lambda network, value=value: network["state"].update({name: value})), True
    many = {f"x{number}": torch.zeros(1) for number in range(20_000)}
    yield "20,000 more tensors", changed(lambda network: network["state"].update(many)), False

    # Every argument, option and attribute, with odd values; attributes replace the options of the same name.
    for group in ("init_kwargs", "attributes"):
        for path in paths_of(intact[group]):
            for value in rng.sample(ODD_VALUES, values):
                case = changed(lambda network, group=group, path=path, value=value: assign(network[group], path, value))
                yield f"{group}.{'.'.join(path)} = {value!r:.40}", case, True
    for resolution in (0, -1, 20_000, 10_000_000, 1024):
        yield (
            f"neural_rendering_resolution {resolution}",
            changed(lambda network, r=resolution: network["attributes"].update(neural_rendering_resolution=r)),
            True,
        )


def paths_of(values: dict) -> list[list[str]]:
    """Return the keys that lead to each value in nested dicts."""
    paths = []
    for key, value in values.items():
        paths.append([key])
        if isinstance(value, dict):
            paths += [[key, *path] for path in paths_of(value)]
    return paths


def assign(values: dict, path: list[str], value: Any) -> None:
    for key in path[:-1]:
        values = values[key]
    values[path[-1]] = value


def odd_files(content: bytes, G: torch.nn.Module) -> Iterator[File]:
    """Yield files of odd form: compressed, of huge declared sizes, deeply nested."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    yield "compressed", file.getvalue(), False
    huge = b'{"x":{"dtype":"F32","shape":[1000000,1000000],"data_offsets":[0,4000000000000]}}'
    yield "safetensors of 4 TB", len(huge).to_bytes(8, "little") + huge, False
    deep = save({}, {METADATA_KEY: "[" * 100_000})
    yield "nested JSON", deep, False
    yield "many lists", b"\x80\x04" + b"]" * 20_000_000 + b".", False
    yield "many sets", b"\x80\x04" + b"\x8f" * 2_900_000 + b".", False
    calls = b"cbuiltins\nset\n\x94" + b"h\x01h\x00\x85R" * 100_000
    yield "many calls with a long list", b"\x80\x04]\x94(" + b"\x8c\x01a" * 500_000 + b"e" + calls + b".", False
    padded = public_pickle.network(G, *describe(G), {"x" * 1_000_000: 1})
    yield "long attribute", public_pickle.snapshot({"G_ema": padded}), True


def describe(G: torch.nn.Module) -> tuple[str, dict]:
    record = record_from_module(G)
    return record.class_name, record.init_kwargs


# --------------------------------------------------------------------------- one file


def same(path: Path, intact: Any) -> bool:
    """Return whether two files have equal networks, arguments and metadata."""
    contents = read_weights(path)
    if (contents.training_set_kwargs, contents.extra) != (intact.training_set_kwargs, intact.extra):
        return False
    a, b = contents.networks["G_ema"], intact.networks["G_ema"]
    if (a.class_name, a.init_kwargs, a.attributes, a.state.keys()) != (
        b.class_name,
        b.init_kwargs,
        b.attributes,
        b.state.keys(),
    ):
        return False
    return all(torch.equal(tensor, b.state[name]) for name, tensor in a.state.items())


def verdict(path: Path, drawing: Path, other: bool, intact: Any) -> str:
    """Open and render a file; return "refused: ...", "same", "rendered", or what is wrong."""
    try:
        G = load_generator(path, "cpu", notify=lambda _message: None)
        view = Scene.from_label_map(G, to_label_map(drawing, G), seed=0).render()
    except ValueError as error:
        return refusal(error)
    if not other:
        return "same" if same(path, intact) else "WRONG: opened with other contents"
    return "rendered" if np.isfinite(view.depth).all() else "WRONG: not finite"


def main() -> None:
    """Make the files, open them and print what was wrong."""
    options = arguments(__doc__, 100)
    rng = Random(options.seed)
    torch.set_num_threads(1)
    G = build()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "weights")
        drawing = ROOT / "applications" / "assets" / "toy_cat.png"
        intact = {ending: contents_of(Path(folder, f"w.{ending}"), G) for ending in ("pt", "safetensors")}
        expected = read_weights(Path(folder, "w.pt"))
        damage = (damaged(*rng.choice(list(intact.items())), rng) for _ in range(options.number))
        files = chain(odd_files(intact["pt"], G), odd_snapshots(intact["pt"], rng, options.values), damage)

        def case(name: str, content: bytes, other: bool) -> Case:
            path.write_bytes(content)
            return name, lambda: verdict(path, drawing, other, expected)

        # Files are written one by one, as `judge` asks for them.
        is_right = judge((case(*file) for file in files), options.all, case("intact", intact["pt"], False)[1])
    sys.exit(not is_right)


if __name__ == "__main__":
    main()
