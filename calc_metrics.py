"""Evaluate a generator: compute metrics of a weights file on a data set; print a table, write JSON and protocols."""

from __future__ import annotations

import dnnlib.startup  # noqa: F401 first

from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch

import inference
from applications.cli import MAX_SEED, Directory, check_data_options, model_options, open_dataset, option
from dnnlib.cli import Command, InputError, echo, option_group, user_errors
from dnnlib.errors import ConfigError
from dnnlib.util import check_outdir
from inference.generator import config_of
from inference.latents import check_style_encoder
from metrics.distributed import run_on_rank_0
from metrics.evaluation import PHOTO, SEEDS, STYLES, Evaluator, SamplingOptions, SceneGenerator
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
from training.networks.generator import TriPlane
from training.networks.registry import construct, describe

# Samples that the constant baseline averages, at most: each of them is decoded once.
BASELINE_SAMPLES = 1000

# Seed of the weights of the untrained network.
UNTRAINED_SEED = 0

# Columns of the table, and keys of the JSON line.
NETWORK = "network"
UNTRAINED = "untrained"
CONSTANT = "constant"

# click shows constant defaults only, so a default that follows from the data is part of the text.
NUM_HELP = (
    "Number of label maps, for metrics whose names have no number.  "
    "[default: all, at most 50000; where a sample takes several images or a mesh, at most 200]"
)
EXTRACTOR_HELP = f"Feature extractor for fid, kid, pr and is: inception, inception:WEIGHTS, {SOURCES}."


@dataclass(frozen=True)
class Options:
    """Settings of an evaluation, for all processes: values of the command's options, some of them grouped."""

    # Model; without `cfg`, the configuration is read from the weights.
    network: str
    cfg: str | None

    # Archives, or the directory of the published data set.
    data: str | None
    mask_data: str | None
    data_dir: str | None

    # What to compute, from which samples and networks.
    metrics: list[Metric]
    sampling: SamplingOptions
    resources: ResourceOptions
    without: int | None
    baselines: bool

    # Output and machine.
    outdir: Path
    gpus: int
    precision: str


def split_names(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> list[str]:
    """Split names that are separated by commas (a callback of click)."""
    return [name for value in values for name in value.split(",") if name]


@click.command(cls=Command, fields={"processes": "gpus"})
@model_options
@option_group(
    "Data",
    option("data", str, None, "Images and poses.  [default: the published data set of --cfg]", metavar="ZIP|DIR"),
    option("mask_data", str, None, "Label maps that belong to --data.", metavar="ZIP|DIR"),
    option("data_dir", str, None, "Directory of the published data set of --cfg.  [default: data/]", metavar="DIR"),
    option("depth_data", str, None, "Depth for nvs and chamfer.  [default: DATA_depth.zip next to --data]",
           metavar="ZIP|DIR"),
)  # fmt: skip
@option_group(
    "Metrics",
    option("metrics", str, None, f"Metrics to compute: {EXAMPLES}.", metavar="NAMES", multiple=True, required=True,
           callback=split_names),
    option("num", click.IntRange(1, MAX_SAMPLES), None, NUM_HELP, metavar="N"),
    option("seed", click.IntRange(0, MAX_SEED), 0, "Seed of the order of the data set and of the latent codes."),
    option("style", click.Choice(STYLES), SEEDS, "Source of z. photo: the style encoder's mean for the photo of each "
           "label map. sg, diversity and nearest use seeds."),
    option("without", click.IntRange(0), None, "Class that chamfer's meshes leave out, such as a background (0) that "
           "the network models as solid.", metavar="CLASS"),
    option("baselines", bool, False, "Evaluate an untrained network and the best constant output too.", is_flag=True),
)  # fmt: skip
@option_group(
    "Networks of metrics",
    option("extractor", str, INCEPTION, EXTRACTOR_HELP, metavar="NETWORK"),
    option("embedding", str, None, "Feature extractor for fvv, in the same forms as --extractor.", metavar="NETWORK"),
    option("segmenter", str, None, "Segmentation of rendered images (N,S,H,W logits) for miou and acc.",
           metavar="NETWORK"),
    option("distance", click.Choice(DISTANCES), None, "Distance between images for sg and diversity.  [default: lpips; "
           "for diversity alone l1 where LPIPS is not available]"),
    option("lpips_weights", str, None, "VGG16's weights for --distance lpips.  [default: download]", metavar="FILE"),
)  # fmt: skip
@option_group(
    "Output and machine",
    option("outdir", Directory(), "out/metrics", "Directory of the results; created if missing.", metavar="DIR"),
    option("batch", click.IntRange(1), 4, "Images that each process renders at once."),
    option("gpus", click.IntRange(1), 1, "Number of processes, each on its own GPU, or all on the CPU."),
    option("device", click.Choice(["cuda", "mps", "cpu"]), None, "Kind of device.  [default: the first available]"),
    option("precision", click.Choice(PRECISIONS), "auto", "Number type of convolutions, auto: that of the weights."),
)
def main(device: str | None, **values: Any) -> None:
    """Compute metrics of a weights file on a data set.

    Appends a line to metric-NAME.jsonl for each metric, and writes all settings behind it to metric-NAME-protocol.txt.

    \b
    Example:
      python calc_metrics.py --network cat.pt --data cats.zip --mask_data cats_label.zip \\
          --metrics miou,acc,nvs --num 100
    """
    # Check everything that is known before the weights are loaded.
    check_data_options(values["data"], values["mask_data"], values["data_dir"])
    device_type = choose_device(device).type
    check_processes(device_type, values["gpus"])
    values["metrics"] = parse_metrics(values["metrics"])
    with user_errors("--outdir"):
        check_outdir(values["outdir"])

    # Group the options that belong to one class.
    sampling = SamplingOptions(**{f.name: values.pop(f.name) for f in fields(SamplingOptions)})
    resources = ResourceOptions(**{f.name: values.pop(f.name) for f in fields(ResourceOptions)})
    options = Options(sampling=sampling, resources=resources, **values)

    # Errors in files that are found later, such as a damaged image, are still errors of the input.
    try:
        launch(evaluate, options, processes=options.gpus, device=device_type)
    except (DataError, ProcessError, OSError) as error:
        raise InputError(str(error)) from error


# --------------------------------------------------------------------------- in every process


def evaluate(device: torch.device, options: Options) -> None:
    """Evaluate the network and its baselines; rank 0 prints and writes the results."""
    # Load the network, which knows its configuration. All processes load it, but only one prints messages about it.
    is_rank_0 = rank() == 0
    with user_errors("--network"):
        notify = echo if is_rank_0 else lambda _message: None
        G = inference.load_generator(options.network, device, options.precision, options.cfg, notify)
    cfg = options.cfg or config_of(G)
    if options.sampling.style == PHOTO:
        check_style_encoder(G)
    network = NetworkGenerator(G, options.without)

    # Open the data set, and check that all metrics can be computed before anything is rendered.
    dataset = open_dataset(options.data, options.mask_data, options.data_dir, cfg, G.data_type)
    check_metrics(options.metrics, dataset, options.resources, options.sampling.num)
    if dataset.resolution != G.img_resolution:
        problem = f"{dataset.images.path}: has {dataset.resolution} pixels, the network makes {G.img_resolution}"
        raise ConfigError("data", problem=problem, hint="dataset_tool.py pack makes another size")

    # Networks of metrics are loaded last, because they may have to be downloaded.
    resources = load_resources(options.resources, options.metrics, dataset, G.semantic_channels, device)
    evaluator = Evaluator(dataset, resources, options.sampling, device, G.semantic_channels, show_progress=is_rank_0)

    # Evaluate all generators metric by metric, and write each metric at once: a later one may fail.
    generators = make_generators(options, evaluator, network)
    run = run_settings(options, cfg, evaluator, G)
    rows = []
    evaluations = [evaluator.evaluate(generator, options.metrics) for generator in generators.values()]
    for row in zip(*evaluations, strict=True):
        results = dict(zip(generators, row, strict=True))
        settings = protocol(evaluator, row[0], run)
        write = partial(write_result, options.outdir, results, options.network, options.gpus, settings, cfg=cfg)
        run_on_rank_0(write)
        rows.append(row)

    # Print the figures in the order of --metrics; they were computed in the order of their modes.
    if is_rank_0:
        rows.sort(key=lambda row: options.metrics.index(row[0].metric))
        echo(*table(dict(zip(generators, zip(*rows, strict=True), strict=True))).split("\n"))
        echo(f"Wrote {options.outdir}/metric-*")


def make_generators(options: Options, evaluator: Evaluator, network: NetworkGenerator) -> dict[str, SceneGenerator]:
    """Return the network and, if requested, its baselines, by the names of their columns."""
    if not options.baselines:
        return {NETWORK: network}

    # The best output that ignores the label map: a figure that is not better shows nothing.
    members = evaluator.members(min(BASELINE_SAMPLES, len(evaluator.dataset)))
    constant = fit_mean_baseline(evaluator, members, network.pivot)
    untrained = NetworkGenerator(untrained_network(network.G, options.precision, evaluator.device), options.without)
    return {NETWORK: network, UNTRAINED: untrained, CONSTANT: constant}


def untrained_network(G: TriPlane, precision: str, device: torch.device) -> TriPlane:
    """Return a network of the architecture of G, style encoder included, with new weights."""
    # The fork keeps the global random state, so that no other number changes.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(UNTRAINED_SEED)
        untrained = construct(*describe(G))
        E = None if G.style_encoder is None else construct(*describe(G.style_encoder))

    # Settings that are not arguments of the constructor.
    untrained.rendering_kwargs = G.rendering_kwargs
    untrained.neural_rendering_resolution = G.neural_rendering_resolution
    set_precision(untrained, precision)
    if E is not None:
        untrained.attach_style_encoder(E.eval().requires_grad_(False).to(device))
    return untrained.eval().requires_grad_(False).to(device)


def run_settings(options: Options, cfg: str, evaluator: Evaluator, G: TriPlane) -> dict[str, str]:
    """Return the settings that the command line adds to the protocol."""
    # Weights, machine and data, and the sources of networks that were set.
    dataset = evaluator.dataset
    settings = {
        "network": options.network,
        "cfg": cfg,
        **network_settings(G, evaluator.device),
        "--precision": options.precision,
        "processes": str(options.gpus),
        "data": f"{dataset.images.path}, {dataset.label_maps.path}",
        **{f"--{name}": value for name, value in asdict(options.resources).items() if value},
    }
    if options.without is not None:
        settings["--without"] = str(options.without)

    # Definitions of the baselines.
    if options.baselines:
        settings[UNTRAINED] = f"the same architecture, torch.manual_seed({UNTRAINED_SEED})"
        settings[CONSTANT] = (
            f"mean color, most frequent class and mean depth of each pixel over at most {BASELINE_SAMPLES} samples; "
            "opaque where more than half of them have depth"
        )
    return settings


if __name__ == "__main__":
    main()
