"""Paint a label map in a browser and see the object; turn it, paint again from there."""

from __future__ import annotations

import sys
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a clone, nothing need be installed
from applications import common
from applications.editor.classes import class_names
from dnnlib.cli import Command, InputError, user_errors
from torch_utils.devices import choose_device
from training.networks.configs import CONFIGS
from training.weights.snapshot import CLASS_NAMES, read_weights

EXAMPLES = {"seg2cat": "cat.png", "edge2car": "car.png"}  # drawings to open with
TOY = "toy_"  # so begin our own weights, and the drawings for them


def example(network: str, cfg: str) -> bytes | None:
    """The file of a drawing that this network makes something of, if there is one."""
    name = EXAMPLES.get(cfg)
    toy = TOY if Path(network).name.startswith(TOY) else ""
    return name and (common.ASSETS / (toy + name)).read_bytes()


@click.command(cls=Command)
@click.option("--network", metavar="FILE|URL", help="Weights: ours, or the authors' pickle.  [default: our own cats]")
@click.option("--cfg", type=click.Choice(list(CONFIGS)), help="What the network was trained for; goes with --network.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to serve; 0.0.0.0: every machine may.")
@click.option("--port", default=7860, show_default=True, type=click.IntRange(0, 65535), help="0: any free one.")
@common.device_options
def main(network: str | None, cfg: str | None, host: str, port: int, device: str | None, precision: str) -> None:
    """Serve a page on which label maps are painted and the object is seen from every side.

    \b
    Examples:
      python applications/edit.py
      python applications/edit.py --network checkpoints/pix2pix3d_seg2face.pkl --cfg seg2face
    """
    try:
        from applications.editor.guard import Place, listen
        from applications.editor.server import create_app, make_server
        from applications.editor.studio import Studio
    except ImportError as error:
        raise InputError(f"{error.name} is not installed; the editor needs: pip install -e .[editor]") from error
    if (network is None) != (cfg is None):
        raise InputError("--network, --cfg: expected both or none")
    network, cfg = network or str(common.DEFAULT_NETWORK), cfg or common.DEFAULT_CFG
    with user_errors("--device"):
        chosen = choose_device(device)
    try:
        listening = listen(host, port)  # before the weights, which take long
    except OSError as error:
        raise InputError(
            f"--port {port}: cannot serve there on {host!r} ({error.strerror}); choose another port or host"
        ) from error
    with listening:
        studio = Studio(common.load_generator(network, cfg, chosen, precision), cfg)
        given = read_weights(network).extra.get(CLASS_NAMES)
        names = class_names(cfg, studio.G.data_type, studio.bounds.classes, given)
        place = Place(host, listening.getsockname()[0])
        app = create_app(studio, names, place, example(network, cfg))
        if place.is_open_to_others:
            click.echo("Every machine that reaches this one can use the editor: there is no password.")
        click.echo(f"Open {' or '.join(place.urls(listening.getsockname()[1]))} in a browser; Ctrl+C ends.")
        make_server(app).run(sockets=[listening])


if __name__ == "__main__":
    main()
