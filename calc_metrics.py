"""Judge a model: pictures, label maps and 3D of a weights file against a data set, as a table, JSON and a protocol."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import click
import torch
from tqdm import tqdm

from applications.common import load_generator
from dnnlib.cli import Command, InputError, user_errors
from dnnlib.util import check_outdir
from metrics.diversity import DISTANCES
from metrics.evaluation import Choices, Evaluation, Result, constant_guess
from metrics.extractors import INCEPTION
from metrics.generated import Generator, Source
from metrics.names import EXAMPLES, Metric, parse_metrics
from metrics.report import protocol, table, write_jsonl, write_protocol
from metrics.tools import ToolOptions, check_metrics, load_tools
from torch_utils.devices import choose_device
from torch_utils.distributed import ProcessError, launch, rank
from torch_utils.precision import PRECISIONS, set_precision
from training.archive import DataError
from training.configs import CONFIGS
from training.dataset import PUBLISHED, PosedImageDataset
from training.network_record import record_of
from training.registry import construct
from training.triplane import TriPlane

MAX_SEED = 2**31 - 1
GUESS_FROM = 1000  # samples behind the constant guess
WEIGHTS_SEED = 0  # of the untrained network
NETWORK, UNTRAINED, CONSTANT = "network", "untrained", "constant"


@dataclass(frozen=True)
class Options:
    """The command line, for every process."""

    network: str
    outdir: Path
    cfg: str
    data: str
    mask_data: str
    metrics: list[Metric]
    choices: Choices
    baselines: bool
    processes: int
    precision: str
    tools: ToolOptions


def split_names(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> list[str]:
    """Names given with commas, one by one, or both."""
    return [name for value in values for name in value.split(",") if name]


@click.command(cls=Command)
@click.option("--network", required=True, metavar="FILE|URL", help="Weights: ours, or the authors' pickle.")
@click.option("--cfg", required=True, type=click.Choice(list(CONFIGS)), help="What the network was trained for.")
@click.option("--data", metavar="ZIP|DIR", help="Images and poses ...")
@click.option("--mask_data", metavar="ZIP|DIR", help="... and label maps.  [default: those of --cfg in --data_dir]")
@click.option("--data_dir", metavar="DIR", help="Folder of the published data set of --cfg.  [default: data/]")
@click.option("--metrics", multiple=True, callback=split_names, required=True, metavar="NAMES", help=f"{EXAMPLES}.")
@click.option("--num", type=click.IntRange(1), metavar="N", help="Label maps of metrics whose names do not say how "
              "many.  [default: all, at most 50000; sg, fvv, nvs: 200]")  # fmt: skip
@click.option("--outdir", metavar="DIR", type=click.Path(path_type=Path), help="[default: the network's folder]")
@click.option("--baselines", is_flag=True, help="Score an untrained network of the same form and the best constant "
              "guess beside it.")  # fmt: skip
@click.option("--extractor", default=INCEPTION, show_default=True, metavar="NETWORK", help="Of features for fid, kid, "
              "pr, is: inception[:WEIGHTS], TorchScript, ONNX, .h5 of the edge network, or MODULE:NAME.")  # fmt: skip
@click.option("--embedding", metavar="NETWORK", help="Of features for fvv (faces, say); as --extractor.")
@click.option("--segmenter", metavar="NETWORK", help="Label maps of rendered pictures for miou, acc: N,S,H,W logits.")
@click.option(
    "--distance", type=click.Choice(DISTANCES), default="lpips", show_default=True, help="Of pictures, for sg."
)
@click.option(
    "--lpips_weights", metavar="FILE", help="VGG16's weights for --distance lpips, if they cannot be fetched."
)
@click.option("--depth_data", metavar="ZIP|DIR", help="Depth of --data for nvs.  [default: DATA_depth.zip beside it]")
@click.option("--batch", type=click.IntRange(1), default=4, show_default=True, help="Pictures at once, each process.")
@click.option("--seed", type=click.IntRange(0, MAX_SEED), default=0, show_default=True, help="Of order and z.")
@click.option("--gpus", type=click.IntRange(1), default=1, show_default=True, help="Processes, each on its own GPU, or "
              "all on the CPU.")  # fmt: skip
@click.option("--device", type=click.Choice(["cuda", "mps", "cpu"]), help="[default: the first that is there]")
@click.option("--precision", type=click.Choice(PRECISIONS), default="auto", show_default=True, help="As of the "
              "applications.")  # fmt: skip
def main(
    metrics: list[str], data_dir: str | None, outdir: Path | None, device: str | None, gpus: int, **values: Any
) -> None:
    """Compute metrics of a weights file on a data set.

    Writes one line to metric-NAME.jsonl for each metric, and every choice behind the figures to metric-protocol.txt.

    \b
    Example:
      python calc_metrics.py --network cat.pt --cfg seg2cat --data cats.zip --mask_data cats_label.zip \\
          --metrics miou,acc,nvs --num 100
    """
    with user_errors("--device"):
        kind_of_device = choose_device(device).type
    _check_machine(kind_of_device, gpus)
    with user_errors("--metrics"):
        parsed = parse_metrics(metrics)
    outdir = outdir or _folder_of(values["network"])
    with user_errors("--outdir"):
        check_outdir(outdir)
    values["data"], values["mask_data"] = _data_files(values["cfg"], data_dir, values["data"], values["mask_data"])
    choices, tools = (kind(**{f.name: values.pop(f.name) for f in fields(kind)}) for kind in (Choices, ToolOptions))
    options = Options(metrics=parsed, outdir=outdir, choices=choices, processes=gpus, tools=tools, **values)
    with user_errors("--data"):
        dataset = open_data(options)
    with _one_line():
        check_metrics(parsed, dataset, tools, choices.num)
    try:
        launch(evaluate, options, processes=gpus, device=kind_of_device)
    except (DataError, ProcessError, OSError) as error:
        raise InputError(str(error)) from error


# --------------------------------------------------------------------------- what can be known before any work


def _check_machine(device: str, processes: int) -> None:
    started = int(os.environ.get("WORLD_SIZE", processes))
    if started != processes:
        raise InputError(f"--gpus {processes}: torchrun started {started} processes")
    here = torch.cuda.device_count() if device == "cuda" else 1
    if device != "cpu" and "WORLD_SIZE" not in os.environ and processes > here:
        raise InputError(f"--gpus {processes}: {here} here; --device=cpu computes on the CPU")


def _data_files(cfg: str, data_dir: str | None, data: str | None, mask_data: str | None) -> tuple[str, str]:
    if (data is None) != (mask_data is None) or (data and data_dir):
        raise InputError("--data, --mask_data: expected both, without --data_dir")
    if data:
        return data, mask_data
    folder, names = Path(data_dir or "data"), PUBLISHED[cfg]
    return str(folder / names.images), str(folder / names.label_maps)


def _folder_of(network: str) -> Path:
    return Path(".") if "://" in network else Path(network).absolute().parent


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """Complaints that start with the option to blame."""
    try:
        yield
    except ValueError as error:
        raise InputError(str(error)) from error


# --------------------------------------------------------------------------- one process


def evaluate(device: torch.device, options: Options) -> None:
    """What every process does; rank 0 shows and writes."""
    first = rank() == 0
    with contextlib.ExitStack() as quiet:
        if not first:  # it would say the same
            quiet.enter_context(contextlib.redirect_stdout(quiet.enter_context(open(os.devnull, "w"))))
        G = load_generator(options.network, options.cfg, device, options.precision)
    dataset = open_data(options)
    if dataset.resolution != G.img_resolution:
        sizes = f"{dataset.resolution} pixels, the network makes {G.img_resolution}"
        raise InputError(f"--data {options.data}: has {sizes}; dataset_tool.py pack makes another size")
    with _one_line():
        tools = load_tools(options.tools, options.metrics, dataset, G.semantic_channels, device)
    show = progress_bar if first else lambda steps, *_: steps
    evaluation = Evaluation(dataset, tools, options.choices, device, G.semantic_channels, show)
    columns = {
        name: evaluation(source, options.metrics) for name, source in sources(options, evaluation, G, device).items()
    }
    if first:
        report(options, evaluation, columns, G)


def open_data(options: Options) -> PosedImageDataset:
    """DataError for anything that is wrong with its index."""
    return PosedImageDataset(options.data, options.mask_data, CONFIGS[options.cfg].data_type)


def progress_bar(steps: Iterable, count: int, what: str) -> Iterable:
    return tqdm(steps, total=count, desc=what, unit="step", delay=2, disable=None)


def sources(options: Options, evaluation: Evaluation, G: TriPlane, device: torch.device) -> dict[str, Source]:
    """The network, and what it must beat."""
    found: dict[str, Source] = {NETWORK: Generator(G)}
    if options.baselines:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(WEIGHTS_SEED)
            fresh = construct(record_of(G).class_name, record_of(G).init_kwargs)
        fresh.rendering_kwargs = G.rendering_kwargs
        fresh.neural_rendering_resolution = G.neural_rendering_resolution
        set_precision(fresh, options.precision)
        found[UNTRAINED] = Generator(fresh.eval().requires_grad_(False).to(device))
        members = evaluation.members(min(GUESS_FROM, len(evaluation.dataset)))
        found[CONSTANT] = constant_guess(evaluation, members, found[NETWORK].pivot)
    return found


def report(options: Options, evaluation: Evaluation, columns: dict[str, Sequence[Result]], G: TriPlane) -> None:
    """On screen and in files."""
    click.echo(table(columns))
    made = {
        "network": options.network,
        "cfg": options.cfg,
        "rendered at": f"{G.neural_rendering_resolution} pixels, enlarged to {G.img_resolution}",
        "precision": options.precision,
        "processes": str(options.processes),
        "device": str(evaluation.device),
        "data": f"{options.data}, {options.mask_data}",
        **{f"--{name}": value for name, value in vars(options.tools).items() if value},
    }
    if options.baselines:
        made[UNTRAINED] = f"the same network with new weights, torch.manual_seed({WEIGHTS_SEED})"
        made[CONSTANT] = (
            f"each pixel's mean colour, most frequent class and mean depth over {GUESS_FROM} samples at most"
        )
    with user_errors("--outdir"):
        write_jsonl(options.outdir, columns, options.network, options.processes, {"cfg": options.cfg})
        write_protocol(options.outdir, protocol(evaluation, columns[NETWORK], made))
    click.echo(f"Wrote {options.outdir}/metric-*")


if __name__ == "__main__":
    main()
