"""Evaluate a generator: compute metrics of a weights file on a data set; print a table, write JSON and protocols."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch

import inference
from applications.cli import Directory, model_options
from dnnlib.cli import Command, InputError, option_group, user_errors
from dnnlib.errors import ConfigError
from dnnlib.util import check_outdir
from inference.generator import config_of
from metrics.distributed import run_on_rank_0
from metrics.evaluation import Evaluator, Result, SamplingOptions, SceneGenerator
from metrics.generators import NetworkGenerator, fit_mean_baseline
from metrics.image_features import INCEPTION, SOURCES
from metrics.image_similarity import DISTANCES
from metrics.registry import EXAMPLES, MAX_SAMPLES, Metric, parse_metrics
from metrics.report import network_settings, protocol, table, write_result
from metrics.resources import ResourceOptions, check_metrics, load_resources
from torch_utils.devices import choose_device
from torch_utils.distributed import rank
from torch_utils.launch import ProcessError, check_processes, launch
from torch_utils.precision import PRECISIONS, set_precision
from training.data.archive import DataError
from training.data.dataset import PUBLISHED, PosedImageDataset
from training.networks.configs import CONFIGS
from training.networks.generator import TriPlane
from training.networks.registry import construct, describe

MAX_SEED = 2**31 - 1
BASELINE_SAMPLES = 1000  # that the constant baseline is fitted to, at most
UNTRAINED_SEED = 0  # of the weights of the untrained network
NETWORK = "network"
UNTRAINED = "untrained"
CONSTANT = "constant"
METRICS_HELP = f"Metrics to compute: {EXAMPLES}."
NUM_HELP = (
    "Number of label maps, for metrics whose names have no number.  "
    "[default: all, at most 50000; for sg, fvv, nvs and chamfer at most 200]"
)
EXTRACTOR_HELP = f"Feature extractor for fid, kid, pr and is: inception, inception:WEIGHTS, {SOURCES}."


@dataclass(frozen=True)
class Options:
    """Settings of an evaluation, for all processes; `cfg` is a key of CAMERAS."""

    network: str
    cfg: str
    data_type: str
    metrics: list[Metric]
    sampling: SamplingOptions
    resources: ResourceOptions
    data: str
    mask_data: str
    baselines: bool
    outdir: Path
    gpus: int
    precision: str


def option(name: str, kind: Any, default: Any, text: str, **extra: Any) -> Callable:
    """Return a click option; `kind` is a click type, or the placeholder of a text value in --help."""
    if isinstance(kind, str):
        extra["metavar"] = kind
        kind = str
    return click.option(f"--{name}", type=kind, default=default, help=text, show_default=default is not None, **extra)


def split_names(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> list[str]:
    """Split names that are separated by commas (a callback of click)."""
    return [name for value in values for name in value.split(",") if name]


@click.command(cls=Command, fields={"processes": "gpus"})
@model_options
@option_group(
    "Data",
    option("data", "ZIP|DIR", None, "Images and poses.  [default: the published data set of --cfg]"),
    option("mask_data", "ZIP|DIR", None, "Label maps that belong to --data."),
    option("data_dir", "DIR", None, "Directory of the published data set of --cfg.  [default: data/]"),
    option("depth_data", "ZIP|DIR", None, "Depth for nvs and chamfer.  [default: DATA_depth.zip next to --data]"),
)
@option_group(
    "Metrics",
    option("metrics", "NAMES", None, METRICS_HELP, multiple=True, callback=split_names, required=True),
    option("num", click.IntRange(1, MAX_SAMPLES), None, NUM_HELP, metavar="N"),
    option("seed", click.IntRange(0, MAX_SEED), 0, "Seed of the order of the data set and of the latent codes."),
    option("baselines", bool, False, "Evaluate an untrained network and the best constant output too.", is_flag=True),
)
@option_group(
    "Networks of metrics",
    option("extractor", "NETWORK", INCEPTION, EXTRACTOR_HELP),
    option("embedding", "NETWORK", None, "Feature extractor for fvv, in the same forms as --extractor."),
    option("segmenter", "NETWORK", None, "Segmentation of rendered images (N,S,H,W logits) for miou and acc."),
    option("distance", click.Choice(DISTANCES), "lpips", "Distance between images for sg."),
    option("lpips_weights", "FILE", None, "VGG16's weights for --distance lpips.  [default: download]"),
)
@option_group(
    "Output and machine",
    option("outdir", Directory(), "out/metrics", "Directory of the results; created if missing.", metavar="DIR"),
    option("batch", click.IntRange(1), 4, "Images that each process renders at once."),
    option("gpus", click.IntRange(1), 1, "Number of processes, each on its own GPU, or all on the CPU."),
    option("device", click.Choice(["cuda", "mps", "cpu"]), None, "Kind of device.  [default: the first available]"),
    option("precision", click.Choice(PRECISIONS), "auto", "Number type of convolutions, auto: that of the weights."),
)
def main(
    network: str, cfg: str | None, metrics: list[str], data_dir: str | None, device: str | None, **values: Any
) -> None:
    """Compute metrics of a weights file on a data set.

    Appends a line to metric-NAME.jsonl for each metric, and writes all settings behind it to metric-NAME-protocol.txt.

    \b
    Example:
      python calc_metrics.py --network cat.pt --data cats.zip --mask_data cats_label.zip \\
          --metrics miou,acc,nvs --num 100
    """
    # Check the machine and the options.
    device_type = choose_device(device).type
    check_processes(device_type, values["gpus"])
    parsed = parse_metrics(metrics)
    with user_errors("--outdir"):
        check_outdir(values["outdir"])

    # Collect the settings. Without --cfg they follow from the weights, which every process reads again.
    if cfg is not None:
        data_type = CONFIGS[cfg].data_type
    else:
        G = load_generator(network, None, torch.device("cpu"), "auto", verbose=False)
        cfg = config_of(G)
        data_type = G.data_type
    values["data"], values["mask_data"] = _data_files(cfg, data_dir, values["data"], values["mask_data"])
    sampling = SamplingOptions(**{f.name: values.pop(f.name) for f in fields(SamplingOptions)})
    resources = ResourceOptions(**{f.name: values.pop(f.name) for f in fields(ResourceOptions)})
    options = Options(network, cfg, data_type, parsed, sampling, resources, **values)

    # Check the data set, then evaluate.
    with user_errors("--data"):
        dataset = open_data(options)
    check_metrics(parsed, dataset, resources, sampling.num)
    try:
        launch(evaluate, options, processes=options.gpus, device=device_type)
    except (DataError, ProcessError, OSError) as error:
        raise InputError(str(error)) from error


def _data_files(cfg: str, data_dir: str | None, data: str | None, mask_data: str | None) -> tuple[str, str]:
    """Return the archives of images and label maps."""
    if (data is None) != (mask_data is None) or (data and data_dir):
        raise InputError("--data, --mask_data: expected both, without --data_dir")
    if data:
        return data, mask_data
    if cfg not in PUBLISHED:
        raise InputError("--data: no published data set fits this network; give --data and --mask_data")
    directory = Path(data_dir or "data")
    return str(directory / PUBLISHED[cfg].images), str(directory / PUBLISHED[cfg].label_maps)


def open_data(options: Options) -> PosedImageDataset:
    """Open the data set; raises DataError if its index is invalid."""
    return PosedImageDataset(options.data, options.mask_data, options.data_type)


def load_generator(
    network: str, cfg: str | None, device: torch.device, precision: str, verbose: bool = True
) -> TriPlane:
    """Load the generator; with `verbose`, messages about it go to the console."""
    notify = click.echo if verbose else lambda _message: None
    with user_errors("--network"):
        return inference.load_generator(network, device, precision, cfg, notify)


# --------------------------------------------------------------------------- in every process


def evaluate(device: torch.device, options: Options) -> None:
    """Evaluate the network and its baselines; rank 0 prints and writes the results."""
    # Load the network, the data set, and what the metrics need.
    is_rank_0 = rank() == 0
    expected_cfg = options.cfg if options.cfg in CONFIGS else None  # else cameras that were read from the weights
    G = load_generator(options.network, expected_cfg, device, options.precision, verbose=is_rank_0)
    dataset = open_data(options)
    if dataset.resolution != G.img_resolution:
        problem = f"{options.data}: has {dataset.resolution} pixels, the network makes {G.img_resolution}"
        raise ConfigError("data", problem=problem, hint="dataset_tool.py pack makes another size")
    resources = load_resources(options.resources, options.metrics, dataset, G.semantic_channels, device)
    evaluator = Evaluator(dataset, resources, options.sampling, device, G.semantic_channels, show_progress=is_rank_0)

    # Evaluate all generators metric by metric, and write each metric at once.
    evaluations = {}
    for name, generator in generators(options, evaluator, G).items():
        evaluations[name] = evaluator.evaluate(generator, options.metrics)
    settings = run_settings(options, G, device)
    by_metric: dict[str, dict[str, Result]] = {}
    for row in zip(*evaluations.values(), strict=True):
        results = dict(zip(evaluations, row, strict=True))
        run_on_rank_0(partial(write, options, results, protocol(evaluator, row[0], settings)))
        by_metric[row[0].metric.name] = results

    # Print the figures in the order of --metrics.
    if is_rank_0:
        columns = {name: [by_metric[metric.name][name] for metric in options.metrics] for name in evaluations}
        click.echo(table(columns))
        click.echo(f"Wrote {options.outdir}/metric-*")


def generators(options: Options, evaluator: Evaluator, G: TriPlane) -> dict[str, SceneGenerator]:
    """Return the network and, if requested, its baselines, by the names of their columns."""
    network = NetworkGenerator(G)
    if not options.baselines:
        return {NETWORK: network}

    # The same architecture with new weights; other random numbers do not change.
    class_name, init_kwargs = describe(G)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(UNTRAINED_SEED)
        untrained = construct(class_name, init_kwargs)
    untrained.rendering_kwargs = G.rendering_kwargs
    untrained.neural_rendering_resolution = G.neural_rendering_resolution
    set_precision(untrained, options.precision)
    untrained = untrained.eval().requires_grad_(False).to(evaluator.device)

    members = evaluator.members(min(BASELINE_SAMPLES, len(evaluator.dataset)))
    constant = fit_mean_baseline(evaluator, members, network.pivot)
    return {NETWORK: network, UNTRAINED: NetworkGenerator(untrained), CONSTANT: constant}


def run_settings(options: Options, G: TriPlane, device: torch.device) -> dict[str, str]:
    """Return the settings that the command line adds to the protocol."""
    settings = {
        "network": options.network,
        "cfg": options.cfg,
        **network_settings(G, device),
        "--precision": options.precision,
        "processes": str(options.gpus),
        "data": f"{options.data}, {options.mask_data}",
        **{f"--{name}": value for name, value in asdict(options.resources).items() if value},
    }
    if options.baselines:
        settings[UNTRAINED] = f"the same architecture, torch.manual_seed({UNTRAINED_SEED})"
        settings[CONSTANT] = (
            f"mean color, most frequent class and mean depth of each pixel over at most {BASELINE_SAMPLES} samples; "
            "opaque where more than half of them have depth"
        )
    return settings


def write(options: Options, results: dict[str, Result], settings: dict[str, str]) -> None:
    """Write the line and the protocol of one metric."""
    try:
        write_result(options.outdir, results, options.network, options.gpus, settings, cfg=options.cfg)
    except OSError as error:
        raise ConfigError("outdir", problem=f"{error.filename or options.outdir}: {error.strerror}") from error


if __name__ == "__main__":
    main()
