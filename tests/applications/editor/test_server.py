"""The editor without a browser: what scenes are, what goes over the wire, whom it answers, the command line."""

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
from editor_pages import FRONT, HOST, app_of, page_of, real_server, serving, tiny_generator, tiny_studio
from paths import ROOT
from PIL import Image
from small_data import png
from starlette.websockets import WebSocketDisconnect
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from applications import edit, generate_samples
from applications.editor.classes import CLASS_NAMES, class_names
from applications.editor.guard import Place, listen
from applications.editor.protocol import View, unpack
from applications.editor.session_file import read_drawing_file
from applications.editor.studio import PLANES_KEPT, orbit_of
from camera_utils import CAMERAS, orbit_angles
from inference.generator import config_front_pose
from inference.mesh.extraction import DENSITY_SHARE
from training.data.label_maps import draw_image, draw_semantic, read_label_map
from training.weights.snapshot import save_snapshot

HERE = View(**FRONT)
SIDE = View(np.pi / 2 + 0.5, np.pi / 2 - 0.2)
ROUND = np.zeros((128, 128), np.uint8)
ROUND[40:90, 30:100] = 1
EARS = np.where(np.arange(128)[:, None] < 40, np.uint8(2), ROUND)


@pytest.fixture(scope="module")
def studio():
    return tiny_studio()


@pytest.fixture(scope="module")
def client(studio):
    with serving(app_of(studio)) as client:
        yield client


# --------------------------------------------------------------------------- scenes


@pytest.fixture
def inference():
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("cfg", ["seg2cat", "edge2car"])
def test_a_drawing_gives_the_picture_that_generate_samples_makes_of_it(cfg, tmp_path, inference):
    studio = tiny_studio(cfg)
    drawing = (ROUND > 0).astype(np.uint8)
    file = tmp_path / "drawing.png"
    file.write_bytes(png(drawing if cfg == "seg2cat" else 255 * (1 - drawing)))
    label_map = read_label_map(file, studio.G.data_type, studio.bounds.classes)
    pose = config_front_pose(studio.G, cfg, studio.device)
    (expected,) = generate_samples.sample(studio.G, label_map, pose, [5])
    picture = studio.picture(studio.edit(drawing, HERE, 5, None, None), HERE, "full")
    assert np.array_equal(picture.colors, draw_image(expected["image"])[0])
    if cfg == "seg2cat":
        assert np.array_equal(picture.ids, expected["semantic"][0].argmax(0).numpy())
    else:
        assert np.array_equal(picture.ids, draw_semantic(expected["semantic"], "edge")[0] < 128)


def test_keeping_style_keeps_the_texture_code_and_takes_the_new_form(studio, inference):
    layer = studio.G.backbone.mapping.geometry_layer
    first = studio.edit(ROUND, HERE, 1, None, None)
    kept, fresh = (studio.ws(studio.edit(EARS, SIDE, 1, style, None)) for style in (first, None))
    assert torch.equal(kept[:, layer:], studio.ws(first)[:, layer:])
    assert torch.equal(kept[:, :layer], fresh[:, :layer])
    assert not torch.equal(kept, fresh), "another pose gives another texture code unless it is kept"


@pytest.mark.parametrize("disentangle", [True, False])
def test_a_new_seed_with_the_geometry_kept_changes_the_texture_code_alone(disentangle, inference):
    studio = tiny_studio(disentangle=disentangle)
    layer = studio.G.backbone.mapping.geometry_layer
    old = studio.edit(ROUND, HERE, 1, None, None)
    new = studio.ws(studio.edit(ROUND, HERE, 2, None, old))
    assert torch.equal(new[:, :layer], studio.ws(old)[:, :layer])
    assert not torch.equal(new[:, layer:], studio.ws(old)[:, layer:])


def test_where_colors_have_a_trunk_of_their_own_that_is_the_texture(inference):
    studio = tiny_studio(class_name="training.triplane_cond.TriPlaneSemanticGenerator", disentangle=False)
    first = studio.edit(ROUND, HERE, 1, None, None)
    kept = studio.ws(studio.edit(EARS, HERE, 2, first, None))
    assert kept.shape[1:] == studio.ws_shape
    colors = studio.G.w_dim
    assert torch.equal(kept[..., :colors], studio.ws(first)[..., :colors])
    assert not torch.equal(kept[..., colors:], studio.ws(first)[..., colors:])
    assert studio.picture(first, HERE, "full").ids.shape == (128, 128)


def test_the_way_between_two_scenes_begins_and_ends_in_them(studio, inference):
    first, second = (studio.edit(drawing, HERE, 1, None, None) for drawing in (ROUND, EARS))
    assert studio.blend(first, second, 0) == first
    assert studio.blend(first, second, 1) == second
    middle = studio.ws(studio.blend(first, second, 0.5))
    # one rounding of a float32
    torch.testing.assert_close(middle, (studio.ws(first) + studio.ws(second)) / 2, rtol=1e-6, atol=1e-6)


def test_a_picture_stays_the_same_when_its_planes_were_forgotten(studio, inference):
    scene = studio.edit(ROUND, HERE, 1, None, None)
    before = studio.picture(scene, SIDE, "full")
    for seed in range(10, 10 + PLANES_KEPT):
        studio.scene_planes(studio.edit(ROUND, HERE, seed, None, None))
    assert scene not in studio.planes.items and len(studio.planes.items) == PLANES_KEPT
    after = studio.picture(scene, SIDE, "full")
    assert np.array_equal(before.colors, after.colors) and np.array_equal(before.ids, after.ids)


def test_turning_computes_the_planes_once(studio, inference, monkeypatch):
    scene = studio.edit(EARS, HERE, 77, None, None)
    counted = []
    planes = studio.G.planes
    monkeypatch.setattr(studio.G, "planes", lambda *a, **k: counted.append(1) or planes(*a, **k))
    for view in (HERE, SIDE, HERE):
        studio.picture(scene, view, "preview")
    assert counted == [1]


def test_zoom_lengthens_the_lens_and_moves_nothing(studio):
    near, far = studio.pose(View(1.5, 1.5, 2.0))[0], studio.pose(View(1.5, 1.5, 1.0))[0]
    assert torch.equal(near[:16], far[:16])
    assert near[16] == 2 * far[16] and near[20] == 2 * far[20] and near[18] == far[18] == 0.5


@pytest.mark.parametrize("cfg", ["seg2cat", "seg2face", "edge2cat"])
def test_the_film_stays_inside_what_a_page_may_turn(cfg):
    orbit = orbit_of(CAMERAS[cfg])
    for frame in range(120):
        for angle, (low, high) in zip(orbit_angles(CAMERAS[cfg], frame), (orbit.azimuth, orbit.polar), strict=True):
            assert low <= angle <= high


def test_a_car_turns_all_the_way_and_not_over_the_poles():
    orbit = orbit_of(CAMERAS["edge2car"])
    assert orbit.full_turn and orbit.azimuth == (-np.pi, np.pi)
    assert 0 < orbit.polar[0] < 0.2 and np.pi - 0.2 < orbit.polar[1] < np.pi


def test_class_names_come_from_the_weights_then_the_config_then_numbers():
    six = [f"part {i}" for i in range(6)]
    assert class_names("seg2cat", "seg", 6, six) == six
    assert class_names("seg2cat", "seg", 6, six[:5]) == list(CLASS_NAMES["seg2cat"])
    assert len(class_names("seg2face", "seg", 19)) == 19
    assert class_names("seg2face", "seg", 3) == ["class 0", "class 1", "class 2"]
    assert class_names("edge2car", "edge", 1) == ["background", "line"]


# --------------------------------------------------------------------------- over the wire


def test_a_session_reopens_to_the_same_pixels_in_another_server(studio, client):
    with page_of(client) as page:
        first, _ = page.edit(ROUND, seed=4)
        header, _ = page.edit(EARS, seed=4, style=first["scene"])
        view = {"azimuth": SIDE.azimuth, "polar": SIDE.polar, "zoom": 1.5}
        _, pixels = page.ask("look", scene=None, view=view, quality="full")
        fields = {"scene": None, "place": FRONT, "seed": 4, "keep_style": True, "view": view}
        file, content = page.ask("save_session", EARS.tobytes(), **fields)
        assert file["name"] == "seg2cat_session.json"
    with serving(app_of(tiny_studio())) as other, page_of(other) as page:
        opened, drawing = page.ask("open_session", content)
        assert drawing == EARS.tobytes() and opened["scene"] == header["scene"] and opened["keep_style"]
        _, again = page.ask("look", scene=opened["scene"], view=opened["view"], quality="full")
        assert again == pixels
    with serving(app_of(tiny_studio("edge2car"))) as cars, page_of(cars) as page:
        page.send("open_session", content)
        assert page.receive()[0]["reason"] == "a session of --cfg seg2cat; this editor was started with edge2car"
    with serving(app_of(tiny_studio(channel_max=8))) as retrained, page_of(retrained) as page:
        opened, drawing = page.ask("open_session", content)
        assert opened["scene"] is None and drawing == EARS.tobytes(), "other weights: only the drawing means something"


def test_files_come_as_they_are_named(client):
    with page_of(client) as page:
        _, pixels = page.edit(ROUND)
        file, content = page.ask("save_image", scene=None, view=FRONT)
        colors = np.frombuffer(pixels[: 3 * 128 * 128], np.uint8).reshape(128, 128, 3)
        assert file["name"] == "seg2cat_color.png" and np.array_equal(iio.imread(content), colors)
        _, content = page.ask("save_labels", scene=None, view=FRONT, png_form="ids")
        assert iio.imread(content).tobytes() == pixels[3 * 128 * 128 :], "the label map of the full picture"
        _, content = page.ask("save_drawing", ROUND.tobytes(), png_form="ids")
        assert Image.open(io.BytesIO(content)).mode == "L" and np.array_equal(iio.imread(content), ROUND)
        _, content = page.ask("save_drawing", ROUND.tobytes(), png_form="colors")
        assert page.ask("open_drawing", content)[1] == ROUND.tobytes()


@pytest.mark.slow
def test_a_film_and_a_mesh_are_made_and_pictures_come_meanwhile(client):
    with page_of(client) as page:
        page.edit(ROUND)
        film = page.send("save_film", scene=None, film_form="gif")
        look = page.send("look", scene=None, view=FRONT, quality="preview")
        replies = [page.receive()]
        while replies[-1][0]["type"] != "file":
            replies.append(page.receive())
        kinds = [header["type"] for header, _ in replies]
        assert kinds.index("picture") < len(kinds) - 2 and replies[-1][0]["id"] == film
        assert next(header["id"] for header, _ in replies if header["type"] == "picture") == look
        assert Image.open(io.BytesIO(replies[-1][1])).n_frames == 120
        page.send("save_mesh", scene=None, mesh_form="ply")
        replies = [page.receive()]
        while replies[-1][0]["type"] == "progress":
            replies.append(page.receive())
        done = [header["done"] for header, _ in replies[:-1]]
        assert len(done) > 5 and done == sorted(done), "other pages' pictures come between its slabs and its colors"
        header, content = replies[-1]
        if header["type"] == "file":
            assert content.startswith(b"ply") and done[-1] == 1 and sum(DENSITY_SHARE < d < 1 for d in done) > 5
        else:  # random weights may hold no surface, which is said
            assert "density" in header["reason"]


def test_a_film_can_be_cancelled(client):
    with page_of(client) as page:
        page.edit(ROUND)
        film = page.send("save_film", scene=None, film_form="gif")
        page.receive()  # the first progress
        page.send("cancel")
        while (reply := page.receive()[0])["type"] == "progress":
            pass
        assert (reply["type"], reply["id"]) == ("canceled", film)
        assert page.edit(EARS)[0]["type"] == "picture"


def test_twenty_fast_drags_leave_the_newest_view(client):
    with page_of(client) as page:
        page.edit(ROUND)
        azimuths = np.linspace(1.2, 1.9, 20)
        for azimuth in azimuths:
            newest = page.send("look", scene=None, view=FRONT | {"azimuth": azimuth}, quality="preview")
        replies = [page.receive()[0]]
        while replies[-1]["id"] != newest:
            replies.append(page.receive()[0])
        ids = [reply["id"] for reply in replies]
        assert ids == sorted(ids) and replies[-1]["view"]["azimuth"] == azimuths[-1]
        fields = {"scene": None, "view": FRONT}
        assert page.ask("save_image", **fields)[0]["type"] == "file", "nothing is left in the queue"


def test_two_pages_have_scenes_of_their_own(client):
    with page_of(client) as one, page_of(client) as two:
        first, second = one.edit(ROUND), two.edit(EARS)
        assert first[0]["scene"] != second[0]["scene"]
        assert one.ask("look", scene=None, view=FRONT, quality="full")[1] == first[1]
        assert two.ask("look", scene=None, view=FRONT, quality="full")[1] == second[1]


def test_a_page_that_drew_nothing_has_nothing_to_look_at(client):
    with page_of(client) as page:
        page.send("look", scene=None, view=FRONT, quality="full")
        assert "draw something first" in page.receive()[0]["reason"]


def test_a_crash_in_rendering_is_a_message_on_the_page_and_the_server_goes_on(studio, client, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("out of memory")

    with page_of(client) as page:
        with monkeypatch.context() as patch:
            patch.setattr(studio.G, "synthesis", broken)
            page.send(
                "edit", ROUND.tobytes(), place=FRONT, seed=0, style=None, geometry=None, view=FRONT, quality="full"
            )
            header, _ = page.receive()
            assert (header["type"], header["id"]) == ("error", page.id)
            assert header["reason"] == "the server failed: RuntimeError: out of memory"
        assert page.edit(ROUND)[0]["type"] == "picture"


# --------------------------------------------------------------------------- whom the server answers


def test_the_page_is_served_with_all_that_it_links_to_and_asks_no_other_host(client):
    index = client.get("/")
    assert index.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in index.headers["content-security-policy"]
    linked = set(re.findall(r'(?:href|src)="([^"]+)"', index.text))
    for name in list(linked):
        linked |= {found.removeprefix("./") for found in re.findall(r'from "([^"]+)"', client.get(f"/{name}").text)}
    assert {"main.js", "style.css", "board.js", "drawing.js"} <= linked
    for name in linked:
        answer = client.get(f"/{name}")
        assert answer.status_code == 200 and "://" not in re.sub(r"http://www\.w3\.org/2000/svg", "", answer.text)


@pytest.mark.parametrize("path", ["/../edit.py", "/..%2fedit.py", "/static/index.html", "/etc/passwd", "//etc/passwd"])
def test_no_path_reaches_the_disk(client, path):
    assert client.get(path).status_code == 404


def test_what_is_sent_over_http_is_not_taken(client):
    assert client.post("/", content=b"x" * 1000).status_code == 405


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"host": "evil.example"}, "does not answer to the name 'evil.example'"),
        ({"host": "127.0.0.1.evil.example:80"}, "does not answer to the name"),
        ({"host": ""}, "does not answer to the name"),
        ({"origin": "http://evil.example"}, "another site"),
        ({"origin": "http://127.0.0.1:9999"}, "another site"),
        ({"origin": "null"}, "another site"),
    ],
)
def test_requests_that_another_site_could_cause_are_refused(client, headers, reason):
    answer = client.get("/", headers=headers)
    assert answer.status_code == 403 and reason in answer.text
    good = {"host": HOST, "origin": f"http://{HOST}"}
    with (
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect(f"ws://{HOST}/channel", headers=good | headers),
    ):
        pytest.fail("the channel was opened")


def test_a_channel_without_origin_is_refused(client):
    with pytest.raises(WebSocketDisconnect), client.websocket_connect(f"ws://{HOST}/channel"):
        pytest.fail("the channel was opened")


@pytest.mark.parametrize("name", ["127.0.0.1:7860", "localhost:7860", "[::1]:7860"])
def test_this_machine_is_known_by_all_its_names(client, name):
    assert client.get("/", headers={"host": name}).status_code == 200


def test_served_to_all_machines_it_answers_to_addresses_but_not_to_names(studio):
    with serving(app_of(studio, "0.0.0.0")) as client:
        assert client.get("/", headers={"host": "192.168.1.7:7860"}).status_code == 200
        assert client.get("/", headers={"host": "evil.example:7860"}).status_code == 403


@pytest.mark.parametrize(
    ("host", "names", "strangers"),
    [
        ("127.0.0.1", ["127.0.0.1", "localhost:1", "[::1]:1"], ["evil.example", "192.168.1.7"]),
        ("127.0.0.2", ["127.0.0.2:1", "localhost"], ["evil.example"]),
        ("LOCALHOST", ["localhost"], ["evil.example"]),
        ("0", ["10.0.0.1:1", "localhost"], ["evil.example"]),
        ("0.0.0.0", ["10.0.0.1:1", "[fe80::1]:1"], ["evil.example", "10.0.0.1.evil.example"]),
    ],
)
def test_a_host_is_what_it_is_bound_to_and_is_reached_by_its_names(host, names, strangers):
    with listen(host, 0) as listening:
        place = Place(host, listening.getsockname()[0])
        assert place.is_open_to_others == host.startswith("0")
        assert all(place.knows(name) for name in names) and not any(place.knows(name) for name in strangers)
        port = listening.getsockname()[1]
        for url in place.urls(port):
            assert place.knows(url.removeprefix("http://").removesuffix("/"))
            with socket.create_connection((url.split("/")[2].rpartition(":")[0], port), timeout=5):
                pass


def test_a_machine_is_reached_by_the_name_that_it_was_asked_to_serve():
    place = Place("Studio.local", "192.168.1.7")
    assert place.knows("studio.local:7860") and place.knows("192.168.1.7:7860") and not place.knows("localhost:7860")
    assert place.is_open_to_others and place.urls(7860) == ["http://192.168.1.7:7860/"]


def test_a_message_above_the_limit_ends_one_connection_and_not_the_server(studio):
    with real_server(studio) as address:
        channel = address.replace("http", "ws") + "channel"
        with connect(channel, origin=address.rstrip("/"), max_size=None) as line:
            assert unpack(line.recv())[0]["type"] == "hello"
            with suppress(ConnectionClosed):  # before or after all is sent
                line.send(bytes(64 * 2**20))
            with pytest.raises(ConnectionClosed):
                line.recv()
        with connect(channel, origin=address.rstrip("/"), max_size=None) as line:
            assert unpack(line.recv())[0]["type"] == "hello"


# --------------------------------------------------------------------------- the command


def run(*words):
    return CliRunner().invoke(edit.main, [str(word) for word in words])


@pytest.mark.parametrize(("network", "cfg"), [("toy_x.pt", "seg2cat"), ("x.pkl", "seg2cat"), ("x.pkl", "edge2car")])
def test_the_drawing_to_begin_with_fits_the_network(network, cfg, studio):
    given = studio if cfg == "seg2cat" else tiny_studio(cfg)
    drawing = read_drawing_file(edit.example(network, cfg), given.G.data_type, given.bounds)
    assert 0.01 < (drawing > 0).mean() < 0.9
    assert edit.example(network, "seg2face") is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--network", "a.pt"], "--network, --cfg: expected both or none"),
        (["--cfg", "seg2cat"], "--network, --cfg: expected both or none"),
        (["--port", "99999"], "'--port': 99999 is not in the range"),
        (["--device", "gpu"], "--device gpu: no such device"),
        (["--port", "0", "--host", "192.0.2.1"], "--port 0: cannot serve there on '192.0.2.1'"),
        (["--port", "0", "--host", ""], "cannot serve there on '' .that is no address"),
        (["--port", "0", "--host", "x\0y"], r"cannot serve there on 'x.x00y' .that is no address"),
        (["--port", "0", "--host", "a" * 70], "cannot serve there on 'a*' .that is no address"),
        (["--port", "0", "--network", "nowhere.pt", "--cfg", "seg2cat"], "--network nowhere.pt: .*No such file"),
    ],
)
def test_wrong_options_are_one_clear_line_and_exit_code_2(words, message):
    result = run(*words)
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit), result.output
    (line,) = result.output.splitlines()
    assert re.search(f"^Error: .*{message}", line), line


def test_a_port_in_use_is_said_before_any_weights_are_read():
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        result = run("--port", port, "--network", "never-opened.pt", "--cfg", "seg2cat")
    assert result.exit_code == 2
    assert re.search(f"--port {port}: cannot serve there on '{HOST}' .*in use.*choose another", result.output)


@pytest.mark.slow
def test_the_command_says_its_address_and_serves_the_page_there(tmp_path):
    save_snapshot(tmp_path / "tiny.pt", {"G_ema": tiny_generator()}, extra={"class_names": list("abcdef")})
    words = [sys.executable, "applications/edit.py", "--network", str(tmp_path / "tiny.pt"), "--cfg", "seg2cat"]
    process = subprocess.Popen([*words, "--port", "0"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        address = re.search(r"Open (http://127\.0\.0\.1:[0-9]+/) in a browser", process.stdout.readline())[1]
        channel = address.replace("http", "ws") + "channel"
        with connect(channel, origin=address.rstrip("/")) as line:
            classes = unpack(line.recv())[0]["classes"]
        assert [row["name"] for row in classes] == list("abcdef")
    finally:
        process.terminate()
        process.wait(20)
