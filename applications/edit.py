"""Serve the editor: paint a label map in a browser, see the object from any side, and paint on from there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import socket
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a clone without installing
import dnnlib.startup  # noqa: F401 first

import click

from applications import cli
from dnnlib.cli import Command, InputError, echo, option_group


@contextmanager
def _optional_packages() -> Iterator[None]:
    """Say what to install where the packages of the web server are missing."""
    try:
        yield
    except ImportError as error:
        raise InputError(f"{error.name} is not installed; the editor needs: pip install -e .[editor]") from error


def _listen(host: str, port: int) -> socket:
    """Return a listening socket."""
    with _optional_packages():
        from applications.editor.security import listen
    try:
        return listen(host, port)
    except OSError as error:
        raise InputError(
            f"--port {port}: cannot serve there on {host!r} ({error.strerror}); choose another port or host"
        ) from error


@click.command(cls=Command)
@option_group(
    "Model",
    click.option("--network", metavar="FILE|URL", default=str(cli.DEFAULT_NETWORK),
                 help=f"{cli.NETWORK_HELP}  [default: the toy cats of this repository]"),
    cli.cfg_option,
)  # fmt: skip
@option_group("Input", cli.style_option("Photo whose style the page starts with."), *cli.LABEL_MAP_OPTIONS)
@option_group(
    "Server",
    cli.option("host", str, "127.0.0.1", "Address to serve at; 0.0.0.0 serves every machine that reaches this one."),
    cli.option("port", click.IntRange(0, 65535), 7860, "Port to serve at; 0: any free one."),
)
@cli.device_options
def main(
    network: str, cfg: str | None, style: str | None, host: str, port: int, device: str | None, precision: str,
    **label_map_options: Any,
) -> None:  # fmt: skip
    """Serve a page on which label maps are painted and the object is seen from every side.

    --classes, --ignore and --fit apply to image files that are opened on the page, all of them.

    \b
    Examples:
      python applications/edit.py
      python applications/edit.py --network checkpoints/pix2pix3d_seg2face.pkl --cfg seg2face
    """
    # Before anything that imports PyTorch, reserve the port.
    photos = {} if style is None else cli.name_styles([], [style])
    cli.check_class_table(label_map_options["classes"])
    listening = _listen(host, port)
    cli.announce(network)

    with _optional_packages():
        from applications.editor.classes import class_names
        from applications.editor.examples import examples_for, projected_drawing
        from applications.editor.model import EditorModel
        from applications.editor.security import ServerAddress
        from applications.editor.server import create_app, make_server

    from inference.generator import config_of
    from inference.projection import Projection
    from torch_utils.devices import choose_device
    from training.weights.snapshot import CLASS_NAMES, read_weights

    torch_device = choose_device(device)
    options = cli.label_map_options(**label_map_options)

    # Load the network; its file may hold names of its classes.
    with listening:
        G = cli.load_generator(network, cfg, str(torch_device), precision)
        cfg = cfg or config_of(G)
        cli.check_label_map_options(options, G.data_type)
        start = next(iter(cli.read_styles(G, photos).values()), None)
        drawings = examples_for(network, cfg)

        # A projection can have weights of its own, and a drawing.
        if isinstance(start, Projection):
            model = EditorModel(start.generator(G), cfg, options)
            photo = (Path(style).name, model.add_projection(start))
            drawings = (projected_drawing(model, start), *drawings)
        else:
            model = EditorModel(G, cfg, options)
            photo = None if start is None else (Path(style).name, model.encode_photo(start))
        stored_names = read_weights(network).extra.get(CLASS_NAMES)
        names = class_names(cfg, G.data_type, model.limits.classes, stored_names)

        # Serve until Ctrl+C. Requests must come from these addresses: see `security`.
        address = ServerAddress(host, listening.getsockname()[0])
        app = create_app(model, names, address, drawings, photo, Path(network).stem)
        if address.is_public:
            echo("Every machine that reaches this one can use the editor: there is no password.")
        echo(f"Open {' or '.join(address.urls(listening.getsockname()[1]))} in a browser; Ctrl+C ends.")
        make_server(app).run(sockets=[listening])


if __name__ == "__main__":
    main()
