"""The layout of the editor's page on screens of all sizes.

EDITOR_SCREENSHOTS=1 writes docs/images/editor*.png.
"""

import os

import pytest
from editor_browser import (
    NETWORK,
    TRAINED,
    browser,
    model,
    needs_browser,
    open_page,
    sync_api,
    wait_for_image,
    wait_until_settled,
)
from editor_pages import real_server, tiny_generator
from paths import ROOT

from applications.editor.examples import TOY_EXAMPLES
from applications.editor.model import EditorModel
from training.networks.registry import construct
from training.weights.snapshot import CLASS_NAMES, read_weights

__all__ = ["browser", "model", "open_page"]  # fixtures
pytestmark = needs_browser
IMAGES = ROOT / "docs" / "images"


@pytest.fixture(scope="module")
def address(model):
    names = read_weights(NETWORK).extra.get(CLASS_NAMES) if TRAINED else None
    with real_server(model, names, TOY_EXAMPLES["seg2cat"], name=NETWORK.stem) as address:
        yield address


def make_results(page):
    """Make three results, the last one turned, and mark two of them."""
    wait_until_settled(page)
    page.keyboard.press("a")
    for number in (1, 2):
        page.keyboard.press("n")
        page.locator("#results figure").nth(number).wait_for()
    page.keyboard.press("a")
    with wait_for_image(page):
        for _ in range(5):
            page.keyboard.press("ArrowRight")


# --------------------------------------------------------------------------- screenshots


SIZES = {"editor": (1280, 720, "light"), "editor_dark": (1280, 720, "dark"), "editor_tablet": (820, 1180, "light")}


@pytest.mark.parametrize("name", SIZES)
def test_all_controls_are_visible_without_scrolling(open_page, name):
    width, height, colors = SIZES[name]
    page = open_page(width, height, colors)
    make_results(page)
    scroll = page.evaluate("() => [document.body.scrollWidth, document.body.scrollHeight]")
    assert scroll[0] <= width and scroll[1] <= height
    assert_inside(page, width, height)
    assert_line_is_complete(page)
    if os.environ.get("EDITOR_SCREENSHOTS"):
        page.screenshot(path=IMAGES / f"{name}.png")


def assert_line_is_complete(page):
    scroll, client = page.locator("#network").evaluate("e => [e.scrollHeight, e.clientHeight]")
    assert scroll <= client, "the line about the network is complete"


def assert_inside(page, width, height):
    for element in page.locator("button:visible, input:visible, canvas:visible").all():
        box = element.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width, element.evaluate("e => e.outerHTML")
        assert box["y"] >= 0 and box["y"] + box["height"] <= height, element.evaluate("e => e.outerHTML")


# --------------------------------------------------------------------------- overlaps


DESKTOPS = [(900, 600), (1000, 700), (1024, 600), (1280, 720), (1366, 768), (1440, 900), (1920, 1080)]
PHONES = [(844, 390), (667, 375), (932, 430)]

# Boxes of all texts and controls, cut to the parts of the page that scroll by themselves; those that only contain
# others, and those that are meant to lie on others, do not count. Returns pairs that overlap, what is outside of the
# window, and texts that are cut off; names from outside may be.
FIND_PROBLEMS = """() => {
    const cut = ".square, #classes *, #brush-position, [data-action=choose-photo]";
    const layers = "#zoom-layer *, #viewer *, figure *, dialog *, #save-menu, #save-menu *, #notifications, svg *";
    const shown = [...document.querySelectorAll("body *")].filter(element =>
        element.checkVisibility() && !element.matches(layers)
        && (element.matches("button, input, svg, .square, figure, output") || [...element.childNodes].some(
            node => node.nodeType === Node.TEXT_NODE && node.textContent.trim())));
    const boxes = shown.map(element => {
        const range = document.createRange();
        const isControl = element.matches("button, input, svg, .square, figure");
        range.selectNodeContents(element);
        let {left, top, right, bottom} = (isControl ? element : range).getBoundingClientRect();
        for (let clip = element; clip; clip = clip.parentElement) {
            if (getComputedStyle(clip).overflowX === "visible" || clip.matches("html, body")) continue;
            const box = clip.getBoundingClientRect();
            [left, top] = [Math.max(left, box.left), Math.max(top, box.top)];
            [right, bottom] = [Math.min(right, box.right), Math.min(bottom, box.bottom)];
        }
        return [left, top, right, bottom];
    });
    const name = element => element.id || element.dataset.action || element.textContent.trim() || element.outerHTML;
    const problems = [];
    boxes.forEach(([left, top, right, bottom], i) => {
        if (right <= left || bottom <= top) return;
        if (left < -1 || right > innerWidth + 1 || (bottom > innerHeight + 1 && !SCROLLS)) {
            problems.push(`${name(shown[i])} is outside of the window`);
        }
        const isCut = shown[i].scrollWidth > shown[i].clientWidth + 1 && !shown[i].matches(cut);
        if (isCut) problems.push(`${name(shown[i])} is cut off`);
        boxes.slice(0, i).forEach((other, j) => {
            if (shown[i].contains(shown[j]) || shown[j].contains(shown[i])) return;
            const width = Math.min(right, other[2]) - Math.max(left, other[0]);
            const height = Math.min(bottom, other[3]) - Math.max(top, other[1]);
            if (width > 1 && height > 1) problems.push(`${name(shown[j])} and ${name(shown[i])} overlap`);
        });
    });
    return problems;
}"""


def crowd(page):
    """Show everything that a page can show at once: zoom factors, a file in progress, the keyboard's brush, a photo."""
    box = page.locator("#frame").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.keyboard.down("Control")
    page.mouse.wheel(0, -100)
    page.keyboard.up("Control")
    with wait_for_image(page):
        page.keyboard.press("ArrowUp")
        page.keyboard.press("+")
    page.evaluate("""() => {
        document.getElementById("progress-row").hidden = false;
        document.getElementById("brush-position").textContent = "120, 101: background";
        const photo = document.querySelector("[data-action=choose-photo]");
        Object.assign(photo, {hidden: false, textContent: "Photo a_very_long_name_of_a_photo.jpeg"});
    }""")


@pytest.fixture(scope="module", params=["seg2cat", "seg2face", "edge2car"])
def any_address(request):
    """Servers of networks with few classes, with many, and with edges."""
    model = EditorModel(tiny_generator(request.param), request.param)
    if request.param == "seg2face":
        model.G.attach_style_encoder(construct("StyleEncoder", {"z_dim": model.G.z_dim, "width": 4}).eval())
    examples = TOY_EXAMPLES.get(request.param, TOY_EXAMPLES["seg2cat"])
    with real_server(model, examples=examples, name="pix2pix3d_" + request.param) as address:
        yield address


@pytest.mark.parametrize("touch", [False, True])
def test_nothing_overlaps_or_is_cut_off(open_page, any_address, touch):
    page = open_page(1280, 720, url=any_address, has_touch=touch)
    make_results(page)
    crowd(page)
    for width, height in [*DESKTOPS, (820, 1180), (390, 844), *PHONES]:
        page.set_viewport_size({"width": width, "height": height})
        scrolls = "true" if width < 880 or height < 540 else "false"
        assert page.evaluate(FIND_PROBLEMS.replace("SCROLLS", scrolls)) == [], f"{width}x{height}"


def test_desktop_pages_do_not_scroll(open_page):
    page = open_page()
    make_results(page)
    for width, height in DESKTOPS:
        page.set_viewport_size({"width": width, "height": height})
        scroll = page.evaluate("() => [document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
        assert scroll == [width, height]
        assert_line_is_complete(page)
        sides = [page.locator(name).bounding_box()["width"] for name in ("#frame", "#viewer")]
        assert sides[0] == sides[1] > 0.5 * height - 4, "the drawing takes at least half of the height"


@pytest.mark.parametrize(("width", "height"), PHONES)
def test_drawing_and_object_are_side_by_side_on_a_phone_in_landscape(open_page, width, height):
    page = open_page(width, height, has_touch=True, is_mobile=True)
    wait_until_settled(page)
    drawing, viewer = (page.locator(name).bounding_box() for name in ("#frame", "#viewer"))
    assert drawing["y"] == viewer["y"] >= 0 and drawing["x"] + drawing["width"] < viewer["x"]
    assert drawing["width"] == viewer["width"] > 0.5 * height
    assert drawing["y"] + drawing["height"] < height and viewer["x"] + viewer["width"] <= width
    for name in ("[data-action=undo]", "[data-action=edit-here]", "#label-share", "[data-tool=brush]", "#size"):
        box = page.locator(name).bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= height, name
    page.locator("[data-action=help]").scroll_into_view_if_needed()
    sync_api.expect(page.locator("[data-action=help]")).to_be_in_viewport()
