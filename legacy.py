"""Weights files: convert published pickles (pix2pix3D, EG3D) without executing them, and show any weights file.

    python legacy.py convert afhq_v2_train_cat_512.pkl seg2cat.safetensors
    python legacy.py show seg2cat.safetensors
    python legacy.py init untrained.pkl --cfg seg2cat

A published pickle is read as data: its embedded source code is never executed and nothing that it names is imported.
"""

from __future__ import annotations

import dnnlib.startup  # noqa: F401 first

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dnnlib.choices import CHANNEL_BASE, CHANNEL_MAX, CONFIG_NAMES
from dnnlib.cli import Group, InputError, echo, overwrite_option, user_errors
from dnnlib.outputs import Outputs

if TYPE_CHECKING:  # these import PyTorch, which takes seconds: commands import them after their options are parsed
    from torch_utils.safe_pickle import WeightsError
    from training.networks.registry import construct
    from training.weights.record import NetworkRecord
    from training.weights.snapshot import load_network_pkl

__all__ = ["WeightsError", "construct", "load_network_pkl"]

SUFFIXES = (".pkl", ".pt", ".safetensors")
WIDTH = click.IntRange(1, 2**17)  # up to four times the published channel_base


def __getattr__(name: str) -> Any:
    """Import what __all__ lists when it is first used."""
    from torch_utils.safe_pickle import WeightsError
    from training.networks.registry import construct
    from training.weights.snapshot import load_network_pkl

    names = {"WeightsError": WeightsError, "construct": construct, "load_network_pkl": load_network_pkl}
    if name not in names:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return names[name]


@click.group(cls=Group)
def main() -> None:
    """Convert weights files, show their contents, and create untrained weights."""


@main.command()
@click.argument("source")
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--only", metavar="NAME", multiple=True, help="Networks to keep, such as G_ema; may be repeated.")
@click.option("--class_names", metavar="A,B,...", help="Names of the label classes, class 0 first, for the editor.")
@click.option("--half", is_flag=True, help="Store weights in float16: half the size, about three digits.")
@overwrite_option
def convert(
    source: str, target: Path, only: tuple[str, ...], class_names: str | None, half: bool, outputs: Outputs
) -> None:
    """Convert weights SOURCE (path or URL, any format) to TARGET (.pkl, .pt or .safetensors)."""
    # Check first, because reading may take long.
    _check_target(target)
    outputs.claim(*_files(target))

    from training.weights.record import NetworkRecord, record_from_module, to_half
    from training.weights.snapshot import CLASS_NAMES, load_network_pkl

    with user_errors("SOURCE"):
        data = load_network_pkl(source, only or None)

    # Metadata and, under all other keys, networks. Building them has checked that names, shapes and arguments fit.
    training_set_kwargs = data.pop("training_set_kwargs")
    extra = data.pop("extra")
    records = {name: n if isinstance(n, NetworkRecord) else record_from_module(n) for name, n in data.items()}

    # Options that change the contents.
    if class_names:
        extra[CLASS_NAMES] = _parse_class_names(class_names, records.values())
    if half:
        with user_errors("--half"):
            records = {name: to_half(record) for name, record in records.items()}
    _save(target, records, training_set_kwargs, extra)


@main.command()
@click.argument("source")
def show(source: str) -> None:
    """Print classes, constructor arguments and tensors of the networks in SOURCE (path or URL, any format)."""
    from training.weights.snapshot import read_weights

    # Without building the networks, so that it shows files that cannot be built too.
    with user_errors("SOURCE"):
        contents = read_weights(source)

    # Networks, then metadata.
    for name, record in contents.networks.items():
        echo(f"{name}: {record.class_name}", *json.dumps(record.init_kwargs, indent=2).splitlines())
        echo(f"attributes: {json.dumps(record.attributes)}", *_tensor_table(record), "")
    echo(f"training_set_kwargs: {json.dumps(contents.training_set_kwargs)}", f"extra: {json.dumps(contents.extra)}")


@main.command()
@click.argument("target", metavar="TARGET", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--cfg", required=True, type=click.Choice(CONFIG_NAMES), help="Published architecture to use.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1), help="Seed of the weights.")
@click.option("--channel-base", default=CHANNEL_BASE, show_default=True, type=WIDTH,
              help="Channels of the backbone at resolution r: at most this / r.")  # fmt: skip
@click.option("--channel-max", default=CHANNEL_MAX, show_default=True, type=WIDTH,
              help="Maximum number of channels of the backbone.")  # fmt: skip
@overwrite_option
def init(target: Path, cfg: str, seed: int, channel_base: int, channel_max: int, outputs: Outputs) -> None:
    """Write an untrained generator (G and G_ema) with a published architecture, for tests and timing."""
    _check_target(target)
    outputs.claim(*_files(target))

    import torch

    from training.networks.configs import CONFIGS, RAW_RESOLUTION
    from training.networks.registry import construct
    from training.weights.record import record_from_module
    from training.weights.snapshot import UNTRAINED

    # Published architecture, except for the width: narrow networks make fast tests.
    options = replace(CONFIGS[cfg], channel_base=channel_base, channel_max=channel_max)

    # Equal options and seed give equal weights.
    torch.manual_seed(seed)
    try:
        generator = construct(options.class_name, options.kwargs())
    except ValueError as error:
        raise InputError(str(error)) from error
    generator.neural_rendering_resolution = RAW_RESOLUTION[cfg]

    # G and G_ema are equal before training. Marked, so that programs can warn.
    record = record_from_module(generator)
    _save(target, {"G": record, "G_ema": record}, None, {UNTRAINED: True, "cfg": cfg, "seed": seed})


def _parse_class_names(class_names: str, records: Iterable[NetworkRecord]) -> list[str]:
    """Split comma-separated names; their number must be that of each network's label classes."""
    # In the order of the classes' numbers.
    names = class_names.split(",")
    for record in records:
        # Networks without label channels are skipped.
        classes = record.init_kwargs.get("semantic_channels")
        if classes and classes != len(names):
            raise InputError(f"--class_names: expected {classes} names, one for each class, got {len(names)}")
    return names


def _check_target(target: Path) -> None:
    # The suffix chooses the format; `save_snapshot` would write any other as a PyTorch file.
    if target.suffix not in SUFFIXES:
        raise InputError(f"{target}: expected a name that ends in {', '.join(SUFFIXES)}")
    if not target.parent.is_dir():
        raise InputError(f"{target}: directory {target.parent} does not exist")


def _files(target: Path) -> list[Path]:
    """Return all files that are written: beside .safetensors a description."""
    return [target, target.with_suffix(".json")] if target.suffix == ".safetensors" else [target]


def _save(target: Path, records: dict[str, NetworkRecord], training_set_kwargs: dict | None, extra: dict) -> None:
    from training.weights.snapshot import save_snapshot

    with user_errors("TARGET"):
        save_snapshot(target, records, training_set_kwargs, extra)
    echo(f"{target}: {', '.join(records)}; {target.stat().st_size / 1e6:,.1f} MB")


def _tensor_table(record: NetworkRecord) -> list[str]:
    """List name, shape, type and number of elements of each tensor, and their total."""
    # One row for each tensor, aligned by the longest name.
    width = max(map(len, record.state), default=0)
    lines = []
    total = 0
    for name, tensor in record.state.items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        lines.append(f"{name:{width}}  {list(tensor.shape)!s:20} {dtype:8} {tensor.numel():>12,}")
        total += tensor.numel()
    return [*lines, f"{len(lines)} tensors, {total:,} numbers"]


if __name__ == "__main__":
    main()
