"""Judge a model: pictures, label maps and 3D of a weights file against a data set, as a table, JSON and a protocol."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from tqdm import tqdm

from applications.common import load_generator
from dnnlib.cli import Command, InputError, user_errors
from dnnlib.util import check_outdir
from metrics.diversity import DISTANCES
from metrics.errors import OptionError
from metrics.evaluation import Choices, Evaluation, Result, constant_guess
from metrics.extractors import INCEPTION
from metrics.generated import Generator, Source
from metrics.names import EXAMPLES, MAX_SAMPLES, Metric, parse_metrics
from metrics.protocol import of_network, protocol
from metrics.report import table, write_result
from metrics.sharing import on_rank_0
from metrics.tools import ToolOptions, check_metrics, load_tools
from torch_utils.devices import choose_device
from torch_utils.distributed import ProcessError, check_processes, launch, rank
from torch_utils.precision import PRECISIONS, set_precision
from training.data.archive import DataError
from training.data.dataset import PUBLISHED, PosedImageDataset
from training.networks.configs import CONFIGS
from training.networks.generator import TriPlane
from training.networks.registry import construct
from training.weights.record import record_from_module

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
@click.option("--num", type=click.IntRange(1, MAX_SAMPLES), metavar="N", help="Label maps of metrics whose names do "
              "not say how many.  [default: all, at most 50000; sg, fvv, nvs: 200]")  # fmt: skip
@click.option("--outdir", metavar="DIR", type=click.Path(path_type=Path), default="out/metrics", show_default=True,
              help="Where lines and protocols go.")  # fmt: skip
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
def main(metrics: list[str], data_dir: str | None, outdir: Path, device: str | None, gpus: int, **values: Any) -> None:
    """Compute metrics of a weights file on a data set.

    Writes one line to metric-NAME.jsonl for each metric, and every choice behind it to metric-NAME-protocol.txt.

    \b
    Example:
      python calc_metrics.py --network cat.pt --cfg seg2cat --data cats.zip --mask_data cats_label.zip \\
          --metrics miou,acc,nvs --num 100
    """
    with user_errors("--device"):
        kind_of_device = choose_device(device).type
    with user_errors("--gpus"):
        check_processes(kind_of_device, gpus)
    with user_errors("--metrics"):
        parsed = parse_metrics(metrics)
    with user_errors("--outdir"):
        check_outdir(outdir)
    values["data"], values["mask_data"] = _data_files(values["cfg"], data_dir, values["data"], values["mask_data"])
    choices, tools = (kind(**{f.name: values.pop(f.name) for f in fields(kind)}) for kind in (Choices, ToolOptions))
    options = Options(metrics=parsed, outdir=outdir, choices=choices, processes=gpus, tools=tools, **values)
    with user_errors("--data"):
        dataset = open_data(options)
    try:
        check_metrics(parsed, dataset, tools, choices.num)
        launch(evaluate, options, processes=gpus, device=kind_of_device)
    except (DataError, OptionError, ProcessError, OSError) as error:
        raise InputError(str(error)) from error


# --------------------------------------------------------------------------- what can be known before any work


def _data_files(cfg: str, data_dir: str | None, data: str | None, mask_data: str | None) -> tuple[str, str]:
    if (data is None) != (mask_data is None) or (data and data_dir):
        raise InputError("--data, --mask_data: expected both, without --data_dir")
    if data:
        return data, mask_data
    folder, names = Path(data_dir or "data"), PUBLISHED[cfg]
    return str(folder / names.images), str(folder / names.label_maps)


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
    tools = load_tools(options.tools, options.metrics, dataset, G.semantic_channels, device)
    show = progress_bar if first else lambda steps, *_: steps
    evaluation = Evaluation(dataset, tools, options.choices, device, G.semantic_channels, show)
    made = told(options, G, device)
    columns: dict[str, dict[str, Result]] = {}  # by source and metric
    running = {name: evaluation(source, options.metrics) for name, source in sources(options, evaluation, G).items()}
    for found in zip(*running.values(), strict=True):  # metric by metric: what is known is kept at once
        results = dict(zip(running, found, strict=True))
        on_rank_0(partial(keep, options, results, protocol(evaluation, found[0], made)))
        for source, result in results.items():
            columns.setdefault(source, {})[result.metric.name] = result
    if first:
        click.echo(table({source: [found[m.name] for m in options.metrics] for source, found in columns.items()}))
        click.echo(f"Wrote {options.outdir}/metric-*")


def open_data(options: Options) -> PosedImageDataset:
    """DataError for anything that is wrong with its index."""
    return PosedImageDataset(options.data, options.mask_data, CONFIGS[options.cfg].data_type)


def progress_bar(steps: Iterable, count: int, what: str) -> Iterable:
    return tqdm(steps, total=count, desc=what, unit="step", delay=2, disable=None)


def sources(options: Options, evaluation: Evaluation, G: TriPlane) -> dict[str, Source]:
    """The network, and what it must beat."""
    found: dict[str, Source] = {NETWORK: Generator(G)}
    if options.baselines:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(WEIGHTS_SEED)
            fresh = construct(record_from_module(G).class_name, record_from_module(G).init_kwargs)
        fresh.rendering_kwargs = G.rendering_kwargs
        fresh.neural_rendering_resolution = G.neural_rendering_resolution
        set_precision(fresh, options.precision)
        found[UNTRAINED] = Generator(fresh.eval().requires_grad_(False).to(evaluation.device))
        members = evaluation.members(min(GUESS_FROM, len(evaluation.dataset)))
        found[CONSTANT] = constant_guess(evaluation, members, found[NETWORK].pivot)
    return found


def told(options: Options, G: TriPlane, device: torch.device) -> dict[str, str]:
    """What the command line adds to the protocol."""
    made = {
        "network": options.network,
        "cfg": options.cfg,
        **of_network(G, device),
        "--precision": options.precision,
        "processes": str(options.processes),
        "data": f"{options.data}, {options.mask_data}",
        **{f"--{name}": value for name, value in vars(options.tools).items() if value},
    }
    if options.baselines:
        made[UNTRAINED] = f"the same network with new weights, torch.manual_seed({WEIGHTS_SEED})"
        made[CONSTANT] = (
            f"each pixel's mean color, most frequent class and mean depth over {GUESS_FROM} samples at most; it "
            "covers what has depth in more than half of them"
        )
    return made


def keep(options: Options, results: dict[str, Result], protocol: dict[str, str]) -> None:
    """One metric's line and protocol."""
    with user_errors("--outdir"):
        write_result(options.outdir, results, options.network, options.processes, protocol, cfg=options.cfg)


if __name__ == "__main__":
    main()
