"""The editor in a real browser against the real server: Chromium by Playwright, the repository's trained network.

Fixtures and hands for the tests that need them. EDITOR_TEST_NETWORK names other weights of --cfg seg2cat.
"""

import io
import json
import math
import os
import shutil
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from editor_pages import real_server, tiny_studio
from PIL import Image
from small_data import png

from applications import cli
from applications.editor.studio import Studio
from camera_utils import CATS, front_pose
from dataset_preprocessing.toy import cats
from dataset_preprocessing.toy.render import render
from training.weights.snapshot import CLASS_NAMES, read_weights

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install -e .[dev]")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium here (Debian, Ubuntu: apt-get install chromium)"
)
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
WAIT_MS = 30_000  # a machine that does other things too
sync_api.expect.set_options(timeout=WAIT_MS)
NETWORK = Path(os.environ.get("EDITOR_TEST_NETWORK", cli.DEFAULT_NETWORK))
TRAINED = NETWORK.exists()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=BROWSER, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def studio():
    """The trained network, or where the repository has none, a random one: most of what a page does is the same."""
    if not TRAINED:
        return tiny_studio()
    return Studio(cli.load_generator(str(NETWORK), "seg2cat", torch.device("cpu"), "auto"), "seg2cat")


@pytest.fixture(scope="module")
def address(studio):
    names = read_weights(NETWORK).extra.get(CLASS_NAMES) if TRAINED else None
    with real_server(studio, names) as address:
        yield address


@pytest.fixture
def opened(browser, address):
    """Function that opens a page of the editor; faults of the page's program fail the test."""
    contexts, faults = [], []

    def open_page(width=1280, height=720, colors="light", url=address, **options):
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=colors, accept_downloads=True, **options
        )
        context.set_default_timeout(WAIT_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: is_fault(message) and faults.append(message.text))
        page.on("request", lambda request: request.url.startswith(url) or faults.append(request.url))
        page.goto(url)
        page.wait_for_selector("body[data-ready]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


def is_fault(message):
    return message.type == "error" and "ERR_CONNECTION_REFUSED" not in message.text  # a server that was ended


class Gate:
    """What pictures of the given qualities wait at while it is shut."""

    def __init__(self):
        self.opened = {quality: threading.Event() for quality in ("full", "preview")}
        self.open()

    def open(self):
        for event in self.opened.values():
            event.set()

    def shut(self, *qualities):
        for quality in qualities or self.opened:
            self.opened[quality].clear()


@pytest.fixture
def gate(studio, monkeypatch):
    gate, picture = Gate(), studio.picture

    def late(scene, view, quality):
        assert gate.opened[quality].wait(WAIT_MS / 1e3)
        return picture(scene, view, quality)

    monkeypatch.setattr(studio, "picture", late)
    yield gate
    gate.open()


# --------------------------------------------------------------------------- hands


def settled(page):
    """Wait until the newest picture has come; what the page says of it."""
    page.wait_for_selector("#orbit[data-busy=false][data-quality=full]")
    return page.locator("#orbit").evaluate("element => ({...element.dataset})")


@contextmanager
def new_picture(page):
    """Wait for the picture that what is done inside brings."""
    before = page.locator("#orbit").get_attribute("data-id") or "0"
    yield
    page.wait_for_selector(f"#orbit[data-busy=false][data-quality=full]:not([data-id='{before}'])")


def position(page, x, y):
    """Where a pixel of the 128-pixel drawing has its center on the screen."""
    box = page.locator("#drawing").bounding_box()
    return box["x"] + (x + 0.5) * box["width"] / 128, box["y"] + (y + 0.5) * box["height"] / 128


def stroke(page, *points):
    """Draw through pixels of the drawing with the mouse."""
    page.mouse.move(*position(page, *points[0]))
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*position(page, *point))
    page.mouse.up()


def set_size(page, pixels):
    slider = page.locator("#size")
    slider.evaluate(
        "(element, value) => { element.value = value; element.dispatchEvent(new Event('input')); }", str(pixels)
    )


def drag(page, right, down, steps=4, release=True):
    box = page.locator("#orbit").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    for step in range(1, steps + 1):
        page.mouse.move(x + right * step / steps, y + down * step / steps)
    if release:
        page.mouse.up()


def saved(page, what, meanwhile=lambda: None):
    """Bytes of the file that the page saves."""
    page.select_option("#save-what", what)
    with page.expect_download() as download:
        page.click("[data-action=save]")
        meanwhile()
    return Path(download.value.path()).read_bytes()


def pixels(content):
    return np.array(Image.open(io.BytesIO(content)))


def drawing(page):
    return pixels(saved(page, "drawing-ids"))


def canvas(page, name):
    """The pixels that a canvas shows, H,W,4."""
    found = page.locator(f"#{name}").evaluate(
        "c => [c.width, c.height, ...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
    )
    return np.array(found[2:], np.uint8).reshape(found[1], found[0], 4)


def open_file(page, name, content):
    page.set_input_files("#file", {"name": name, "mimeType": "application/octet-stream", "buffer": content})


@pytest.fixture(scope="module")
def cat():
    """A front view as the repository's network was trained on: class ids 128,128."""
    return render(cats.Cat(np.random.default_rng(3)), front_pose(CATS)[0].numpy(), 128).parts


def scene_of(page):
    """Name of the scene that is shown."""
    return settled(page)["scene"]


def yaw_of(page):
    """Degrees by which the newest picture is seen from the side."""
    return round(math.degrees(json.loads(settled(page)["view"])["azimuth"] - math.pi / 2), 1)


def open_drawing(page, ids):
    with new_picture(page):
        open_file(page, "drawing.png", png(ids))


def capsule(ids, start, end, diameter, id):
    """A stroke by its definition: the pixels whose centers are within half a diameter of the line."""
    y, x = np.mgrid[:128, :128].astype(float)
    (x0, y0), (x1, y1) = start, end
    length = (x1 - x0) ** 2 + (y1 - y0) ** 2
    along = np.clip(((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / max(length, 1e-9), 0, 1)
    distance = (x - x0 - along * (x1 - x0)) ** 2 + (y - y0 - along * (y1 - y0)) ** 2
    return np.where(distance <= diameter**2 / 4, np.uint8(id), ids)
