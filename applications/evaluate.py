"""Evaluation of a network and its baselines, in each process of calc_metrics.py."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

import inference
from applications.cli import open_dataset
from dnnlib.cli import echo, user_errors
from dnnlib.errors import ConfigError
from inference.generator import config_of
from inference.latents import check_style_encoder
from metrics.choices import PHOTO
from metrics.distributed import run_on_rank_0
from metrics.evaluation import Evaluator, SamplingOptions, SceneGenerator
from metrics.generators import NetworkGenerator, fit_mean_baseline
from metrics.registry import Metric
from metrics.report import network_settings, protocol, table, write_result
from metrics.resources import ResourceOptions, check_metrics, load_resources
from torch_utils.distributed import rank
from torch_utils.precision import set_precision
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
