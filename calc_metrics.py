"""Evaluate a generator: compute metrics of a weights file on a data set; print a table, write JSON and protocols."""

from __future__ import annotations

import dnnlib.startup  # noqa: F401 first

from dataclasses import fields
from typing import Any

import click

from applications.cli import Directory, announce, check_data_options, model_options, option
from dnnlib.choices import MAX_SEED, PRECISIONS
from dnnlib.cli import Command, InputError, echo, option_group
from dnnlib.outputs import Outputs
from metrics.choices import DISTANCES, EXAMPLES, INCEPTION, MAX_SAMPLES, SEEDS, SOURCES, STYLES

# click shows constant defaults only, so a default that follows from the data is part of the text.
NUM_HELP = (
    "Number of label maps, for metrics whose names have no number.  "
    "[default: all, at most 50000; where a sample takes several images or a mesh, at most 200]"
)
EXTRACTOR_HELP = f"Feature extractor for fid, kid, pr and is: inception, inception:WEIGHTS, {SOURCES}."


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

    Appends a line to metric-NAME.jsonl for each metric, and all settings behind it to metric-NAME-protocol.txt.

    \b
    Example:
      python calc_metrics.py --network cat.pt --data cats.zip --mask_data cats_label.zip \\
          --metrics miou,acc,nvs --num 100
    """
    # Check what is known before the network is loaded.
    check_data_options(values["data"], values["mask_data"], values["data_dir"])
    announce(values["network"], values["outdir"])

    # These import PyTorch.
    from applications.evaluate import Options, evaluate
    from metrics.evaluation import SamplingOptions
    from metrics.registry import parse_metrics
    from metrics.resources import ResourceOptions
    from torch_utils.devices import choose_device
    from torch_utils.launch import ProcessError, check_processes, launch
    from training.data.archive import DataError

    device_type = choose_device(device).type
    check_processes(device_type, values["gpus"])
    values["metrics"] = parse_metrics(values["metrics"])

    # Group the options that belong to one class.
    sampling = SamplingOptions(**{f.name: values.pop(f.name) for f in fields(SamplingOptions)})
    resources = ResourceOptions(**{f.name: values.pop(f.name) for f in fields(ResourceOptions)})
    options = Options(sampling=sampling, resources=resources, **values)

    # Errors in files that are found later, such as a damaged image, are still errors of the input.
    try:
        launch(evaluate, options, processes=options.gpus, device=device_type)
    except (DataError, ProcessError, OSError) as error:
        raise InputError(str(error)) from error

    # Their files are appended to.
    written = Outputs()
    for metric in options.metrics:
        written.add(*(options.outdir / f"metric-{metric.name}{ending}" for ending in (".jsonl", "-protocol.txt")))
    echo(*written.lines())


if __name__ == "__main__":
    main()
