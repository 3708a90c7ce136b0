"""Fixtures and helpers to test the editor in Chromium (by Playwright), with a real server and trained weights.

EDITOR_TEST_NETWORK names other weights of --cfg seg2cat.
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
from editor_pages import real_server, tiny_model
from PIL import Image
from small_data import png

from applications import cli
from applications.editor.model import EditorModel
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
WAIT_MS = 30_000  # tests may share a busy machine
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
def model():
    """Trained network, or a random one if the weights are missing: most tests do not depend on the weights."""
    if not TRAINED:
        return tiny_model()
    return EditorModel(cli.load_generator(str(NETWORK), "seg2cat", torch.device("cpu"), "auto"), "seg2cat")


@pytest.fixture(scope="module")
def address(model):
    names = read_weights(NETWORK).extra.get(CLASS_NAMES) if TRAINED else None
    with real_server(model, names) as address:
        yield address


@pytest.fixture
def open_page(browser, address):
    """Function that opens a page of the editor. JavaScript errors and requests to other hosts fail the test."""
    contexts, errors = [], []

    def open_page(width=1280, height=720, colors="light", url=address, **options):
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=colors, accept_downloads=True, **options
        )
        context.set_default_timeout(WAIT_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: is_error(message) and errors.append(message.text))
        page.on("request", lambda request: request.url.startswith(url) or errors.append(request.url))
        page.goto(url)
        page.wait_for_selector("body[data-ready]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []


def is_error(message):
    return message.type == "error" and "ERR_CONNECTION_REFUSED" not in message.text  # a server that a test has stopped


class Gate:
    """Holds back images of the given qualities while it is closed."""

    def __init__(self):
        self.opened = {quality: threading.Event() for quality in ("full", "preview")}
        self.open()

    def open(self):
        for event in self.opened.values():
            event.set()

    def close(self, *qualities):
        for quality in qualities or self.opened:
            self.opened[quality].clear()


@pytest.fixture
def gate(model, monkeypatch):
    gate = Gate()
    render = model.render

    def delayed_render(scene, view, quality):
        assert gate.opened[quality].wait(WAIT_MS / 1e3)
        return render(scene, view, quality)

    monkeypatch.setattr(model, "render", delayed_render)
    yield gate
    gate.open()


# --------------------------------------------------------------------------- helpers


def wait_until_settled(page):
    """Wait until the newest full image is shown, and return its data attributes."""
    page.wait_for_selector("#viewer[data-busy=false][data-quality=full]")
    return page.locator("#viewer").evaluate("element => ({...element.dataset})")


@contextmanager
def wait_for_image(page):
    """Context manager that waits for the full image that follows the actions in its block."""
    before = page.locator("#viewer").get_attribute("data-id") or "0"
    yield
    page.wait_for_selector(f"#viewer[data-busy=false][data-quality=full]:not([data-id='{before}'])")


def position(page, x, y):
    """Return the screen position of the center of a pixel of the 128x128 drawing."""
    box = page.locator("#drawing").bounding_box()
    return box["x"] + (x + 0.5) * box["width"] / 128, box["y"] + (y + 0.5) * box["height"] / 128


def stroke(page, *points):
    """Draw a stroke through pixels of the drawing with the mouse."""
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
    box = page.locator("#viewer").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    for step in range(1, steps + 1):
        page.mouse.move(x + right * step / steps, y + down * step / steps)
    if release:
        page.mouse.up()


def save(page, what, meanwhile=lambda: None):
    """Choose an action of the menu and return the file's content; `meanwhile` runs before the download."""
    page.click("#save")
    with page.expect_download() as download:
        page.click(f"[data-save={what}]")
        meanwhile()
    return Path(download.value.path()).read_bytes()


def pixels(content):
    return np.array(Image.open(io.BytesIO(content)))


def drawing(page):
    return pixels(save(page, "drawing-ids"))


def canvas(page, name):
    """Return the pixels of a canvas, H,W,4."""
    values = page.locator(f"#{name}").evaluate(
        "c => [c.width, c.height, ...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
    )
    return np.array(values[2:], np.uint8).reshape(values[1], values[0], 4)


def open_file(page, name, content):
    page.set_input_files("#file", {"name": name, "mimeType": "application/octet-stream", "buffer": content})


@pytest.fixture(scope="module")
def cat():
    """Class ids 128,128 of a front view from the training distribution of the toy network."""
    return render(cats.Cat(np.random.default_rng(3)), front_pose(CATS)[0].numpy(), 128).parts


def shown_scene(page):
    """Return the name of the scene on screen."""
    return wait_until_settled(page)["scene"]


def shown_yaw(page):
    """Return the yaw of the image on screen, in degrees."""
    return round(math.degrees(json.loads(wait_until_settled(page)["view"])["azimuth"] - math.pi / 2), 1)


def open_drawing(page, ids):
    with wait_for_image(page):
        open_file(page, "drawing.png", png(ids))


def capsule(ids, start, end, diameter, id):
    """Draw a stroke by its definition: pixels whose centers are within half a diameter of the segment."""
    y, x = np.mgrid[:128, :128].astype(float)
    (x0, y0), (x1, y1) = start, end
    length = (x1 - x0) ** 2 + (y1 - y0) ** 2
    along = np.clip(((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / max(length, 1e-9), 0, 1)
    distance = (x - x0 - along * (x1 - x0)) ** 2 + (y - y0 - along * (y1 - y0)) ** 2
    return np.where(distance <= diameter**2 / 4, np.uint8(id), ids)


def is_encoded(model, ids):
    """Return whether the server has encoded a drawing, which must still be in its cache."""
    hits = model.encode.cache_info().hits
    with torch.inference_mode():
        model.encode(ids.tobytes())
    return model.encode.cache_info().hits == hits + 1
