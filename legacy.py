"""Weights files: open published pickles (pix2pix3D, EG3D) without running them, convert and show any weights file.

    python legacy.py convert afhq_v2_train_cat_512.pkl seg2cat.safetensors
    python legacy.py show seg2cat.safetensors
    python legacy.py init untrained.pkl --cfg seg2cat

A published pickle is read as data: its embedded source code is never executed and nothing that it names is imported.
"""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import click
import torch

from dnnlib.cli import Group, InputError
from torch_utils.safe_pickle import WeightsError
from training.networks.configs import CONFIGS, RAW_RESOLUTION, GeneratorOptions
from training.networks.registry import construct
from training.weights.record import NetworkRecord, halved, record_of
from training.weights.snapshot import CLASS_NAMES, UNTRAINED, load_network_pkl, read_weights, save_snapshot

__all__ = ["WeightsError", "construct", "load_network_pkl"]

SUFFIXES = (".pkl", ".pt", ".safetensors")
WIDTH = click.IntRange(1, 2**17)  # four times the published width


@click.group(cls=Group)
def main() -> None:
    """Weights files: convert published ones, show what is in one, make an untrained one."""


@main.command()
@click.argument("source")
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--only", metavar="NAME", multiple=True, help="Network to keep, such as G_ema; repeat for more.")
@click.option("--class_names", metavar="A,B,...", help="Names of the classes, class 0 first, which the editor shows.")
@click.option("--half", is_flag=True, help="Store numbers in float16: half the file, three digits each.")
def convert(source: str, target: Path, only: tuple[str, ...], class_names: str | None, half: bool) -> None:
    """Write weights SOURCE (path or URL, any kind) as plain data to TARGET (.pkl, .pt or .safetensors)."""
    _check_target(target)
    try:
        data = load_network_pkl(source, only or None)
    except WeightsError as error:
        raise InputError(str(error)) from error
    training_set_kwargs, extra = data.pop("training_set_kwargs"), data.pop("extra")
    if class_names:
        extra[CLASS_NAMES] = _names(class_names, data.values())
    if half:
        try:
            data = {name: halved(n if isinstance(n, NetworkRecord) else record_of(n)) for name, n in data.items()}
        except ValueError as error:
            raise InputError(f"--half: {error}") from error
    _save(target, data, training_set_kwargs, extra)


@main.command()
@click.argument("source")
def show(source: str) -> None:
    """Print classes, constructor arguments and tensors of the networks in SOURCE (path or URL, any kind)."""
    try:
        contents = read_weights(source)
    except WeightsError as error:
        raise InputError(str(error)) from error
    for name, record in contents.networks.items():
        click.echo(f"{name}: {record.class_name}\n{json.dumps(record.init_kwargs, indent=2)}")
        click.echo(f"attributes: {json.dumps(record.attributes)}\n{_tensor_table(record)}\n")
    click.echo(f"training_set_kwargs: {json.dumps(contents.training_set_kwargs)}\nextra: {json.dumps(contents.extra)}")


@main.command()
@click.argument("target", metavar="OUT", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--cfg", required=True, type=click.Choice(list(CONFIGS)), help="Which published model's construction.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1), help="Of the random weights.")
@click.option("--channel-base", default=GeneratorOptions.channel_base, show_default=True, type=WIDTH,
              help="Width of the backbone at resolution r is this / r ...")  # fmt: skip
@click.option("--channel-max", default=GeneratorOptions.channel_max, show_default=True, type=WIDTH,
              help="... and at most this.")  # fmt: skip
def init(target: Path, cfg: str, seed: int, channel_base: int, channel_max: int) -> None:
    """Write an untrained generator (G and G_ema) built as published ones are: for tests and timing."""
    _check_target(target)
    options = replace(CONFIGS[cfg], channel_base=channel_base, channel_max=channel_max)
    torch.manual_seed(seed)
    try:
        generator = construct(options.class_name, options.kwargs())
    except ValueError as error:
        raise InputError(str(error)) from error
    generator.neural_rendering_resolution = RAW_RESOLUTION[cfg]
    record = record_of(generator)
    _save(target, {"G": record, "G_ema": record}, None, {UNTRAINED: True, "cfg": cfg, "seed": seed})


def _names(class_names: str, networks: Iterable[NetworkRecord | torch.nn.Module]) -> list[str]:
    """The names, one for each class of the networks that know how many they have."""
    names = class_names.split(",")
    for network in networks:
        own = network.init_kwargs if isinstance(network, NetworkRecord) else vars(network)
        classes = own.get("semantic_channels")
        if classes and classes != len(names):
            raise InputError(f"--class_names: expected {classes} names, one for each class, got {len(names)}")
    return names


def _check_target(target: Path) -> None:
    if target.suffix not in SUFFIXES:
        raise InputError(f"{target}: expected a name that ends in {', '.join(SUFFIXES)}")
    if not target.parent.is_dir():
        raise InputError(f"{target}: there is no folder {target.parent}")


def _save(target: Path, networks: dict, training_set_kwargs: dict | None, extra: dict) -> None:
    try:
        save_snapshot(target, networks, training_set_kwargs, extra)
    except OSError as error:
        raise InputError(f"{error.filename or target}: cannot be written ({error.strerror})") from error
    click.echo(f"{target}: {', '.join(networks)}; {target.stat().st_size / 1e6:,.1f} MB")


def _tensor_table(record: NetworkRecord) -> str:
    width = max(map(len, record.state), default=0)
    rows = [
        (name, str(list(t.shape)), str(t.dtype).removeprefix("torch."), t.numel()) for name, t in record.state.items()
    ]
    lines = [f"{name:{width}}  {shape:20} {dtype:8} {count:>12,}" for name, shape, dtype, count in rows]
    total = sum(count for *_, count in rows)
    return "\n".join([*lines, f"{len(rows)} tensors, {total:,} numbers"])


if __name__ == "__main__":
    main()
