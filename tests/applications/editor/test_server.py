"""The editor without a browser: scenes, messages over the WebSocket, security checks, and the command line."""

import io
import re
import socket
import subprocess
import sys
from contextlib import suppress

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from editor_pages import EDIT_FIELDS, FRONT, HOST, app_of, page_of, real_server, serving, tiny_generator, tiny_model
from paths import ROOT
from PIL import Image
from small_data import png
from starlette.websockets import WebSocketDisconnect
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from applications import edit
from applications.editor.classes import CLASS_NAMES, class_names, mirror_ids
from applications.editor.model import MAX_SCENES, orbit_limits
from applications.editor.protocol import CameraView, unpack
from applications.editor.security import ServerAddress, listen
from camera_utils import CAMERAS, orbit_angles
from inference import Scene
from inference.mesh.extraction import DENSITY_SHARE
from training.weights.snapshot import save_snapshot

FRONT_VIEW = CameraView(**FRONT)
SIDE_VIEW = CameraView(np.pi / 2 + 0.5, np.pi / 2 - 0.2)
HEAD = np.zeros((128, 128), np.uint8)
HEAD[40:90, 30:100] = 1
EARS = np.where(np.arange(128)[:, None] < 40, np.uint8(2), HEAD)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def client(model):
    with serving(app_of(model)) as client:
        yield client


# --------------------------------------------------------------------------- scenes


@pytest.fixture
def inference():
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("cfg", ["seg2cat", "edge2car"])
def test_the_editor_renders_the_same_pixels_as_the_python_api(cfg, tmp_path, inference):
    model = tiny_model(cfg)
    drawing = (HEAD > 0).astype(np.uint8)
    file = tmp_path / "drawing.png"
    file.write_bytes(png(drawing if cfg == "seg2cat" else 255 * (1 - drawing)))
    expected = Scene.from_label_map(model.G, file, seed=5, cfg=cfg).render()
    colors, ids = model.render(model.edit(drawing, FRONT_VIEW, 5, None, None), FRONT_VIEW, "full")
    assert np.array_equal(colors, expected.image)
    assert np.array_equal(ids, expected.label_map if cfg == "seg2cat" else expected.label_map < 128)


def test_a_kept_style_keeps_the_texture_ws_and_takes_the_new_geometry_ws(model, inference):
    layer = model.G.backbone.mapping.geometry_layer
    first = model.edit(HEAD, FRONT_VIEW, 1, None, None)
    kept, fresh = (model.ws(model.edit(EARS, SIDE_VIEW, 1, style, None)) for style in (first, None))
    assert torch.equal(kept[:, layer:], model.ws(first)[:, layer:])
    assert torch.equal(kept[:, :layer], fresh[:, :layer])
    assert not torch.equal(kept, fresh), "without a kept style, another pose gives another texture"


@pytest.mark.parametrize("disentangle", [True, False])
def test_a_new_seed_with_kept_geometry_changes_the_texture_ws_only(disentangle, inference):
    model = tiny_model(disentangle=disentangle)
    layer = model.G.backbone.mapping.geometry_layer
    old = model.edit(HEAD, FRONT_VIEW, 1, None, None)
    new = model.ws(model.edit(HEAD, FRONT_VIEW, 2, None, old))
    assert torch.equal(new[:, :layer], model.ws(old)[:, :layer])
    assert not torch.equal(new[:, layer:], model.ws(old)[:, layer:])


def test_with_two_backbones_the_texture_is_the_color_backbone(inference):
    model = tiny_model(class_name="training.triplane_cond.TriPlaneSemanticGenerator", disentangle=False)
    first = model.edit(HEAD, FRONT_VIEW, 1, None, None)
    kept = model.ws(model.edit(EARS, FRONT_VIEW, 2, first, None))
    assert kept.shape[1:] == model.ws_shape
    colors = model.G.w_dim
    assert torch.equal(kept[..., :colors], model.ws(first)[..., :colors])
    assert not torch.equal(kept[..., colors:], model.ws(first)[..., colors:])
    assert model.render(first, FRONT_VIEW, "full")[1].shape == (128, 128)


def test_blend_weights_zero_and_one_return_the_two_scenes(model, inference):
    first, second = (model.edit(drawing, FRONT_VIEW, 1, None, None) for drawing in (HEAD, EARS))
    assert model.blend(first, second, 0) == first
    assert model.blend(first, second, 1) == second
    middle = model.ws(model.blend(first, second, 0.5))
    expected = (model.ws(first) + model.ws(second)) / 2
    torch.testing.assert_close(middle, expected, rtol=1e-6, atol=1e-6)  # rounding of float32


def test_an_image_is_the_same_after_its_planes_left_the_cache(model, inference):
    scene = model.edit(HEAD, FRONT_VIEW, 1, None, None)
    before = model.render(scene, SIDE_VIEW, "full")
    for seed in range(10, 10 + MAX_SCENES):
        assert model.scene(model.edit(HEAD, FRONT_VIEW, seed, None, None)).planes.isfinite().all()
    misses = model.scene.cache_info().misses
    after = model.render(scene, SIDE_VIEW, "full")
    assert model.scene.cache_info().misses == misses + 1 and model.scene.cache_info().currsize == MAX_SCENES
    assert np.array_equal(before[0], after[0]) and np.array_equal(before[1], after[1])


def test_rotation_computes_the_planes_once(model, inference, monkeypatch):
    scene = model.edit(EARS, FRONT_VIEW, 77, None, None)
    calls = []
    planes = model.G.planes
    monkeypatch.setattr(model.G, "planes", lambda *args, **kwargs: calls.append(1) or planes(*args, **kwargs))
    for view in (FRONT_VIEW, SIDE_VIEW, FRONT_VIEW):
        model.render(scene, view, "preview")
    assert calls == [1]


def test_zoom_scales_the_focal_length_only(model):
    zoomed = model.pose(CameraView(1.5, 1.5, 2.0))[0]
    plain = model.pose(CameraView(1.5, 1.5, 1.0))[0]
    assert torch.equal(zoomed[:16], plain[:16])
    assert zoomed[16] == 2 * plain[16] and zoomed[20] == 2 * plain[20] and zoomed[18] == plain[18] == 0.5


@pytest.mark.parametrize("cfg", ["seg2cat", "seg2face", "edge2cat"])
def test_the_video_path_is_within_the_orbit_limits(cfg):
    orbit = orbit_limits(CAMERAS[cfg])
    for frame in range(120):
        for angle, (low, high) in zip(orbit_angles(CAMERAS[cfg], frame), (orbit.azimuth, orbit.polar), strict=True):
            assert low <= angle <= high


def test_cars_rotate_fully_but_not_over_the_poles():
    orbit = orbit_limits(CAMERAS["edge2car"])
    assert orbit.full_turn and orbit.azimuth == (-np.pi, np.pi)
    assert 0 < orbit.polar[0] < 0.2 and np.pi - 0.2 < orbit.polar[1] < np.pi


def test_class_names_come_from_the_weights_then_the_configuration_then_numbers():
    six = [f"part {i}" for i in range(6)]
    assert class_names("seg2cat", "seg", 6, six) == six
    assert class_names("seg2cat", "seg", 6, six[:5]) == list(CLASS_NAMES["seg2cat"])
    assert len(class_names("seg2face", "seg", 19)) == 19
    assert class_names("seg2face", "seg", 3) == ["class 0", "class 1", "class 2"]
    assert class_names("edge2car", "edge", 1) == ["background", "line"]


def test_left_and_right_classes_are_mirror_images_of_each_other():
    names = class_names("seg2face", "seg", 19)
    mirrored = {names[id]: names[mirror] for id, mirror in enumerate(mirror_ids(names)) if mirror != id}
    sides = {"left eye": "right eye", "left brow": "right brow", "left ear": "right ear"}
    assert mirrored == sides | {right: left for left, right in sides.items()}
    assert mirror_ids(["background", "left wing", "bright left"]) == [0, 1, 2], "without a partner"


# --------------------------------------------------------------------------- messages


def test_labels_are_rendered_without_replacing_the_newest_scene(model, client):
    with page_of(client) as page:
        first, pixels = page.edit(HEAD)
        second, _ = page.edit(EARS)
        header, ids = page.ask("labels", scene=first["scene"], view=FRONT)
        assert header["type"] == "labels" and ids == pixels[3 * 128 * 128 :]
        shown, _ = page.ask("render", scene=None, view=FRONT, quality="full")
        assert shown["scene"] == second["scene"]


def test_a_session_reopens_to_the_same_pixels_on_another_server(model, client):
    with page_of(client) as page:
        first, _ = page.edit(HEAD, seed=4)
        header, _ = page.edit(EARS, seed=4, style=first["scene"])
        view = {"azimuth": SIDE_VIEW.azimuth, "polar": SIDE_VIEW.polar, "zoom": 1.5}
        _, pixels = page.ask("render", scene=None, view=view, quality="full")
        fields = {
            "scene": None, "drawing_view": FRONT, "seed": 4, "photo": None, "keep_style": True, "view": view,
        }  # fmt: skip
        file, content = page.ask("save_session", EARS.tobytes(), **fields)
        assert file["name"] == "session.json"
    with serving(app_of(tiny_model())) as other, page_of(other) as page:
        opened, drawing = page.ask("open_session", content)
        assert drawing == EARS.tobytes() and opened["scene"] == header["scene"] and opened["keep_style"]
        _, again = page.ask("render", scene=opened["scene"], view=opened["view"], quality="full")
        assert again == pixels
    with serving(app_of(tiny_model("edge2car"))) as cars, page_of(cars) as page:
        page.send("open_session", content)
        assert page.receive()[0]["reason"] == "the session is for configuration seg2cat; this editor runs edge2car"
    with serving(app_of(tiny_model(channel_max=8))) as retrained, page_of(retrained) as page:
        opened, drawing = page.ask("open_session", content)
        assert opened["scene"] is None and drawing == EARS.tobytes(), "with other weights, only the drawing is valid"


def test_saved_files_have_the_content_that_their_names_state(client):
    with page_of(client) as page:
        _, pixels = page.edit(HEAD)
        file, content = page.ask("save_image", scene=None, view=FRONT)
        colors = np.frombuffer(pixels[: 3 * 128 * 128], np.uint8).reshape(128, 128, 3)
        assert file["name"] == "color.png" and np.array_equal(iio.imread(content), colors)
        _, content = page.ask("save_labels", scene=None, view=FRONT, png_format="ids")
        assert iio.imread(content).tobytes() == pixels[3 * 128 * 128 :], "the label map of the full image"
        _, content = page.ask("save_drawing", HEAD.tobytes(), png_format="ids")
        assert Image.open(io.BytesIO(content)).mode == "L" and np.array_equal(iio.imread(content), HEAD)
        _, content = page.ask("save_drawing", HEAD.tobytes(), png_format="colors")
        assert page.ask("open_drawing", content)[1] == HEAD.tobytes()


@pytest.mark.slow
def test_images_are_rendered_while_a_video_or_mesh_is_made(client):
    with page_of(client) as page:
        page.edit(HEAD)
        video = page.send("save_video", scene=None, video_format="gif")
        preview = page.send("render", scene=None, view=FRONT, quality="preview")
        replies = [page.receive()]
        while replies[-1][0]["type"] != "file":
            replies.append(page.receive())
        kinds = [header["type"] for header, _ in replies]
        assert kinds.index("image") < len(kinds) - 2 and replies[-1][0]["id"] == video
        assert next(header["id"] for header, _ in replies if header["type"] == "image") == preview
        assert Image.open(io.BytesIO(replies[-1][1])).n_frames == 120
        page.send("save_mesh", scene=None, mesh_format="ply")
        replies = [page.receive()]
        while replies[-1][0]["type"] == "progress":
            replies.append(page.receive())
        done = [header["done"] for header, _ in replies[:-1]]
        assert len(done) > 5 and done == sorted(done), "each progress message lets other pages run"
        header, content = replies[-1]
        if header["type"] == "file":
            assert content.startswith(b"ply") and done[-1] == 1 and sum(DENSITY_SHARE < d < 1 for d in done) > 5
        else:  # random weights may have no surface
            assert "density" in header["reason"]


def test_a_video_can_be_canceled(client):
    with page_of(client) as page:
        page.edit(HEAD)
        video = page.send("save_video", scene=None, video_format="gif")
        page.receive()  # the first progress
        page.send("cancel")
        while (reply := page.receive()[0])["type"] == "progress":
            pass
        assert (reply["type"], reply["id"]) == ("canceled", video)
        assert page.edit(EARS)[0]["type"] == "image"


def test_after_many_fast_drags_the_newest_view_is_shown(client):
    with page_of(client) as page:
        page.edit(HEAD)
        azimuths = np.linspace(1.2, 1.9, 20)
        for azimuth in azimuths:
            newest = page.send("render", scene=None, view=FRONT | {"azimuth": azimuth}, quality="preview")
        replies = [page.receive()[0]]
        while replies[-1]["id"] != newest:
            replies.append(page.receive()[0])
        ids = [reply["id"] for reply in replies]
        assert ids == sorted(ids) and replies[-1]["view"]["azimuth"] == azimuths[-1]
        fields = {"scene": None, "view": FRONT}
        assert page.ask("save_image", **fields)[0]["type"] == "file", "no request is left in the queue"


def test_each_page_has_its_own_newest_scene(client):
    with page_of(client) as one, page_of(client) as two:
        first, second = one.edit(HEAD), two.edit(EARS)
        assert first[0]["scene"] != second[0]["scene"]
        assert one.ask("render", scene=None, view=FRONT, quality="full")[1] == first[1]
        assert two.ask("render", scene=None, view=FRONT, quality="full")[1] == second[1]


def test_rendering_before_the_first_edit_is_an_error(client):
    with page_of(client) as page:
        page.send("render", scene=None, view=FRONT, quality="full")
        assert "Draw something first" in page.receive()[0]["reason"]


def test_a_rendering_error_is_reported_to_the_page_and_the_server_continues(model, client, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("out of memory")

    with page_of(client) as page:
        with monkeypatch.context() as patch:
            patch.setattr(model.G, "synthesis", broken)
            page.send("edit", HEAD.tobytes(), **EDIT_FIELDS)
            header, _ = page.receive()
            assert (header["type"], header["id"]) == ("error", page.id)
            assert header["reason"] == "Server error: RuntimeError: out of memory"
        assert page.edit(HEAD)[0]["type"] == "image"


# --------------------------------------------------------------------------- security


def test_all_linked_files_are_served_and_none_links_to_another_host(client):
    index = client.get("/")
    assert index.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in index.headers["content-security-policy"]
    linked = set(re.findall(r'(?:href|src)="([^"]+)"', index.text))
    for name in list(linked):
        linked |= {found.removeprefix("./") for found in re.findall(r'from "([^"]+)"', client.get(f"/{name}").text)}
    assert {"main.js", "style.css", "drawing_canvas.js", "drawing.js"} <= linked
    for name in linked:
        answer = client.get(f"/{name}")
        assert answer.status_code == 200 and "://" not in re.sub(r"http://www\.w3\.org/2000/svg", "", answer.text)


@pytest.mark.parametrize("path", ["/../edit.py", "/..%2fedit.py", "/static/index.html", "/etc/passwd", "//etc/passwd"])
def test_request_paths_never_reach_the_disk(client, path):
    assert client.get(path).status_code == 404


def test_http_post_is_not_allowed(client):
    assert client.post("/", content=b"x" * 1000).status_code == 405


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"host": "evil.example"}, "host 'evil.example' is not a name"),
        ({"host": "127.0.0.1.evil.example:80"}, "is not a name of this server"),
        ({"host": ""}, "is not a name of this server"),
        ({"origin": "http://evil.example"}, "other sites are rejected"),
        ({"origin": "http://127.0.0.1:9999"}, "other sites are rejected"),
        ({"origin": "null"}, "other sites are rejected"),
    ],
)
def test_requests_with_foreign_host_or_origin_are_rejected(client, headers, reason):
    answer = client.get("/", headers=headers)
    assert answer.status_code == 403 and reason in answer.text
    good = {"host": HOST, "origin": f"http://{HOST}"}
    with (
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect(f"ws://{HOST}/channel", headers=good | headers),
    ):
        pytest.fail("the WebSocket was opened")


def test_a_websocket_without_origin_is_rejected(client):
    with pytest.raises(WebSocketDisconnect), client.websocket_connect(f"ws://{HOST}/channel"):
        pytest.fail("the WebSocket was opened")


@pytest.mark.parametrize("name", ["127.0.0.1:7860", "localhost:7860", "[::1]:7860"])
def test_all_loopback_names_are_accepted(client, name):
    assert client.get("/", headers={"host": name}).status_code == 200


def test_a_wildcard_server_accepts_addresses_but_not_names(model):
    with serving(app_of(model, "0.0.0.0")) as client:
        assert client.get("/", headers={"host": "192.168.1.7:7860"}).status_code == 200
        assert client.get("/", headers={"host": "evil.example:7860"}).status_code == 403


@pytest.mark.parametrize(
    ("host", "accepted", "rejected"),
    [
        ("127.0.0.1", ["127.0.0.1", "localhost:1", "[::1]:1"], ["evil.example", "192.168.1.7"]),
        ("127.0.0.2", ["127.0.0.2:1", "localhost"], ["evil.example"]),
        ("LOCALHOST", ["localhost"], ["evil.example"]),
        ("0", ["10.0.0.1:1", "localhost"], ["evil.example"]),
        ("0.0.0.0", ["10.0.0.1:1", "[fe80::1]:1"], ["evil.example", "10.0.0.1.evil.example"]),
    ],
)
def test_a_server_accepts_its_names_and_is_reachable_at_its_urls(host, accepted, rejected):
    with listen(host, 0) as listening:
        address = ServerAddress(host, listening.getsockname()[0])
        assert address.is_public == host.startswith("0")
        assert all(address.accepts(name) for name in accepted) and not any(address.accepts(name) for name in rejected)
        port = listening.getsockname()[1]
        for url in address.urls(port):
            assert address.accepts(url.removeprefix("http://").removesuffix("/"))
            with socket.create_connection((url.split("/")[2].rpartition(":")[0], port), timeout=5):
                pass


def test_the_name_given_as_host_is_accepted():
    address = ServerAddress("Studio.local", "192.168.1.7")
    assert (
        address.accepts("studio.local:7860")
        and address.accepts("192.168.1.7:7860")
        and not address.accepts("localhost:7860")
    )
    assert address.is_public and address.urls(7860) == ["http://192.168.1.7:7860/"]


def test_an_oversized_message_closes_one_connection_but_not_the_server(model):
    with real_server(model) as address:
        channel = address.replace("http", "ws") + "channel"
        with connect(channel, origin=address.rstrip("/"), max_size=None) as websocket:
            assert unpack(websocket.recv())[0]["type"] == "hello"
            with suppress(ConnectionClosed):  # while or after it is sent
                websocket.send(bytes(64 * 2**20))
            with pytest.raises(ConnectionClosed):
                websocket.recv()
        with connect(channel, origin=address.rstrip("/"), max_size=None) as websocket:
            assert unpack(websocket.recv())[0]["type"] == "hello"


# --------------------------------------------------------------------------- the command


def run(*words):
    return CliRunner().invoke(edit.main, [str(word) for word in words])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--port", "99999"], "'--port': 99999 is not in the range"),
        (["--device", "gpu"], "--device: got 'gpu', expected one of "),
        (["--port", "0", "--host", "192.0.2.1"], "--port 0: cannot serve there on '192.0.2.1'"),
        (["--port", "0", "--host", ""], "cannot serve there on '' .not a valid address"),
        (["--port", "0", "--host", "x\0y"], r"cannot serve there on 'x.x00y' .not a valid address"),
        (["--port", "0", "--host", "a" * 70], "cannot serve there on 'a*' .not a valid address"),
        (["--port", "0", "--network", "nowhere.pt", "--cfg", "seg2cat"], "--network nowhere.pt: .*No such file"),
        (["--port", "0", "--style", "nowhere.png"], "--style nowhere.png: no such file"),
    ],
)
def test_invalid_options_give_one_line_and_exit_code_2(words, message):
    result = run(*words)
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit), result.output
    *progress, line = result.output.splitlines()
    assert re.search(f"^Error: .*{message}", line), line
    assert all(text.startswith("Loading ") for text in progress)


def test_a_port_in_use_is_reported_before_weights_are_read():
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        result = run("--port", port, "--network", "never-opened.pt", "--cfg", "seg2cat")
    assert result.exit_code == 2
    assert re.search(f"--port {port}: cannot serve there on '{HOST}' .*in use.*choose another", result.output)


@pytest.mark.slow
def test_the_command_prints_its_url_and_serves_the_page(tmp_path):
    save_snapshot(tmp_path / "tiny.pt", {"G_ema": tiny_generator()}, extra={"class_names": list("abcdef")})
    words = [sys.executable, "applications/edit.py", "--network", str(tmp_path / "tiny.pt"), "--cfg", "seg2cat"]
    process = subprocess.Popen([*words, "--port", "0"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        address = re.search(r"Open (http://127\.0\.0\.1:[0-9]+/) in a browser", process.stdout.readline())[1]
        channel = address.replace("http", "ws") + "channel"
        with connect(channel, origin=address.rstrip("/")) as websocket:
            classes = unpack(websocket.recv())[0]["classes"]
        assert [row["name"] for row in classes] == list("abcdef")
    finally:
        process.terminate()
        process.wait(20)
