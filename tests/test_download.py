"""The script that fetches released models, against a server on this machine."""

import hashlib
import os
import re
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from paths import ROOT

SCRIPT = ROOT / "checkpoints" / "download_models.sh"
pytestmark = pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
CONTENT = b"\x80" + bytes(range(256)) * 400  # a pickle's first byte


class Files(BaseHTTPRequestHandler):
    """Serves server.files, from the byte that Range asks for if server.ranges; breaks off after server.cut bytes."""

    def do_GET(self):
        content = self.server.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        start = int((re.match(r"bytes=(\d+)-", self.headers.get("Range", "")) or [0, 0])[1])
        self.server.starts.append(start)
        if not self.server.ranges:
            start = 0
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(content[start : self.server.cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Files) as found:
        found.files, found.cut, found.starts = {"/pix2pix3d_seg2cat.pkl": CONTENT}, None, []
        found.ranges = True
        threading.Thread(target=found.serve_forever, args=(0.02,), daemon=True).start()
        yield found
        found.shutdown()


@pytest.fixture
def fetch(server, tmp_path):
    script = shutil.copy(SCRIPT, tmp_path)

    def call(*models):
        env = {**os.environ, "PIX2PIX3D_MODELS": f"http://127.0.0.1:{server.server_port}", "no_proxy": "127.0.0.1"}
        return subprocess.run(["bash", script, *models], capture_output=True, text=True, env=env, check=False)

    return call


def test_a_model_arrives_whole_and_its_digest_is_remembered(fetch, tmp_path):
    assert fetch("seg2cat").returncode == 0
    assert (tmp_path / "pix2pix3d_seg2cat.pkl").read_bytes() == CONTENT
    digest = hashlib.sha256(CONTENT).hexdigest()
    assert (tmp_path / "download.sha256").read_text() == f"{digest}  pix2pix3d_seg2cat.pkl\n"
    assert "is here" in fetch("seg2cat").stdout


def test_a_cut_download_goes_on_where_it_stopped(fetch, server, tmp_path):
    server.cut = 30_000
    assert fetch("seg2cat").returncode == 2
    assert not (tmp_path / "pix2pix3d_seg2cat.pkl").exists()
    server.cut, server.starts = None, []
    assert fetch("seg2cat").returncode == 0
    assert server.starts[0] >= 30_000
    assert (tmp_path / "pix2pix3d_seg2cat.pkl").read_bytes() == CONTENT


def test_a_download_that_was_stopped_after_its_last_byte_is_complete(fetch, server, tmp_path):
    (tmp_path / "pix2pix3d_seg2cat.pkl.part").write_bytes(CONTENT)
    assert fetch("seg2cat").returncode == 0  # the server answers 416, so it is fetched once more
    assert (tmp_path / "pix2pix3d_seg2cat.pkl").read_bytes() == CONTENT
    (tmp_path / "pix2pix3d_seg2cat.pkl").rename(tmp_path / "pix2pix3d_seg2cat.pkl.part")
    server.starts.clear()
    assert fetch("seg2cat").returncode == 0 and server.starts == []  # its digest is known: nothing to ask for


def test_a_server_that_cannot_go_on_begins_again(fetch, server, tmp_path):
    (tmp_path / "pix2pix3d_seg2cat.pkl.part").write_bytes(CONTENT[:30_000])
    server.ranges = False
    result = fetch("seg2cat")
    assert result.returncode == 0 and "from the start" in result.stdout
    assert server.starts == [30_000, 0]
    assert (tmp_path / "pix2pix3d_seg2cat.pkl").read_bytes() == CONTENT


def test_a_server_that_is_down_costs_nothing_that_was_fetched(fetch, server, tmp_path):
    part = tmp_path / "pix2pix3d_seg2cat.pkl.part"
    part.write_bytes(CONTENT[:30_000])
    server.files.clear()
    assert fetch("seg2cat").returncode == 2
    assert part.read_bytes() == CONTENT[:30_000]


def test_a_web_page_in_the_place_of_a_model_is_refused_and_forgotten(fetch, server, tmp_path):
    server.files["/pix2pix3d_seg2cat.pkl"] = b"<!doctype html>"
    result = fetch("seg2cat")
    assert result.returncode == 2 and "is no pickle" in result.stderr.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["download_models.sh"]


def test_a_file_that_is_here_must_be_what_was_downloaded(fetch, tmp_path):
    fetch("seg2cat")
    (tmp_path / "pix2pix3d_seg2cat.pkl").write_bytes(b"\x80 another")
    result = fetch("seg2cat")
    assert result.returncode == 2 and "not what was downloaded first" in result.stderr
    assert (tmp_path / "pix2pix3d_seg2cat.pkl").read_bytes() == b"\x80 another"


def test_a_file_that_changed_since_the_first_download_is_not_taken(fetch, server, tmp_path):
    fetch("seg2cat")
    (tmp_path / "pix2pix3d_seg2cat.pkl").unlink()
    server.files["/pix2pix3d_seg2cat.pkl"] = CONTENT[:-1] + b"x"
    result = fetch("seg2cat")
    assert result.returncode == 2 and "the first download had" in result.stderr
    assert not (tmp_path / "pix2pix3d_seg2cat.pkl").exists()


@pytest.mark.parametrize(("model", "said"), [("seg2dog", "expected seg2cat"), ("edge2car", "cannot be fetched")])
def test_what_is_not_there_is_one_line_and_exit_code_2(fetch, tmp_path, model, said):
    result = fetch(model)
    assert result.returncode == 2 and said in result.stderr.splitlines()[-1]
    assert not list(tmp_path.glob("*.pkl"))
