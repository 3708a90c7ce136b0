"""checkpoints/download_models.sh, with a local server."""

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
CONTENT = b"\x80" + bytes(range(256)) * 400 + b"."  # a pickle's first and last byte


class Files(BaseHTTPRequestHandler):
    """Serves server.files, with ranges if server.ranges, and closes the connection after server.cut bytes.

    The start and the total in the header of a range are larger than they should be by server.shift and server.excess.
    """

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
            first, total = start + self.server.shift, len(content) + self.server.excess
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{total}")
        self.end_headers()
        self.wfile.write(content[start : self.server.cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Files) as server:
        server.files = {"/pix2pix3d_seg2cat.pkl": CONTENT}
        server.cut = None
        server.starts = []
        server.ranges = True
        server.shift = server.excess = 0
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def fetch(server, tmp_path):
    script = shutil.copy(SCRIPT, tmp_path)

    def call(*models):
        env = {**os.environ, "PIX2PIX3D_MODELS": f"http://127.0.0.1:{server.server_port}", "no_proxy": "127.0.0.1"}
        return subprocess.run(["bash", script, *models], capture_output=True, text=True, env=env, check=False)

    return call


def test_a_model_is_downloaded_and_its_digest_stored(fetch, tmp_path):
    assert fetch("seg2cat").returncode == 0
    assert (tmp_path / "pix2pix3d_seg2cat.pkl").read_bytes() == CONTENT
    digest = hashlib.sha256(CONTENT).hexdigest()
    assert (tmp_path / "download.sha256").read_text() == f"{digest}  pix2pix3d_seg2cat.pkl\n"
    assert "exists" in fetch("seg2cat").stdout


def test_an_interrupted_download_is_resumed(fetch, server, tmp_path):
    server.cut = 30_000
    assert fetch("seg2cat").returncode == 2
    assert not (tmp_path / "pix2pix3d_seg2cat.pkl").exists()
    server.cut, server.starts = None, []
    assert fetch("seg2cat").returncode == 0
    assert server.starts[0] >= 30_000
    assert (tmp_path / "pix2pix3d_seg2cat.pkl").read_bytes() == CONTENT


def test_a_download_interrupted_after_its_last_byte_is_completed(fetch, server, tmp_path):
    (tmp_path / "pix2pix3d_seg2cat.pkl.part").write_bytes(CONTENT)
    assert fetch("seg2cat").returncode == 0  # the server answers 416, so it is downloaded again
    assert (tmp_path / "pix2pix3d_seg2cat.pkl").read_bytes() == CONTENT
    (tmp_path / "pix2pix3d_seg2cat.pkl").rename(tmp_path / "pix2pix3d_seg2cat.pkl.part")
    server.starts.clear()
    assert fetch("seg2cat").returncode == 0 and server.starts == []  # its digest is stored, so there is no request


def test_a_download_starts_again_if_the_server_cannot_resume(fetch, server, tmp_path):
    (tmp_path / "pix2pix3d_seg2cat.pkl.part").write_bytes(CONTENT[:30_000])
    server.ranges = False
    result = fetch("seg2cat")
    assert result.returncode == 0 and "starting again" in result.stdout
    assert server.starts == [30_000, 0]
    assert (tmp_path / "pix2pix3d_seg2cat.pkl").read_bytes() == CONTENT


def test_a_failed_request_keeps_the_partial_download(fetch, server, tmp_path):
    part = tmp_path / "pix2pix3d_seg2cat.pkl.part"
    part.write_bytes(CONTENT[:30_000])
    server.files.clear()
    assert fetch("seg2cat").returncode == 2
    assert part.read_bytes() == CONTENT[:30_000]


def test_what_is_no_complete_pickle_is_rejected_and_removed(fetch, server, tmp_path):
    for content in (b"<!doctype html>", b"\x80", CONTENT[:-1], b"PK" + CONTENT, CONTENT[1:]):
        server.files["/pix2pix3d_seg2cat.pkl"] = content
        result = fetch("seg2cat")
        assert result.returncode == 2 and "expected a pickle" in result.stderr.splitlines()[-1]
        assert [path.name for path in tmp_path.iterdir()] == ["download_models.sh"]


def test_the_rest_of_another_file_is_refused_and_removed(fetch, server, tmp_path):
    (tmp_path / "pix2pix3d_seg2cat.pkl.part").write_bytes(CONTENT[:30_000])
    server.excess = 1000
    result = fetch("seg2cat")
    assert result.returncode == 2 and "its size differs" in result.stderr.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["download_models.sh"]
    assert fetch("seg2cat").returncode == 0


def test_a_range_with_another_start_is_not_appended(fetch, server, tmp_path):
    (tmp_path / "pix2pix3d_seg2cat.pkl.part").write_bytes(CONTENT[:30_000])
    server.shift = 10
    assert fetch("seg2cat").returncode == 0
    assert (tmp_path / "pix2pix3d_seg2cat.pkl").read_bytes() == CONTENT
    assert server.starts == [30_000, 0]


def test_an_existing_file_must_have_the_stored_digest(fetch, tmp_path):
    fetch("seg2cat")
    (tmp_path / "pix2pix3d_seg2cat.pkl").write_bytes(b"\x80 another.")
    result = fetch("seg2cat")
    assert result.returncode == 2 and "differs from the first download" in result.stderr
    assert (tmp_path / "pix2pix3d_seg2cat.pkl").read_bytes() == b"\x80 another."


def test_a_download_with_another_digest_is_rejected(fetch, server, tmp_path):
    fetch("seg2cat")
    (tmp_path / "pix2pix3d_seg2cat.pkl").unlink()
    server.files["/pix2pix3d_seg2cat.pkl"] = CONTENT[:-2] + b"x."
    result = fetch("seg2cat")
    assert result.returncode == 2 and "that of the first download was" in result.stderr
    assert not (tmp_path / "pix2pix3d_seg2cat.pkl").exists()


@pytest.mark.parametrize(("model", "message"), [("seg2dog", "expected seg2cat"), ("edge2car", "download failed")])
def test_a_missing_model_prints_one_line_and_exits_with_2(fetch, tmp_path, model, message):
    result = fetch(model)
    assert result.returncode == 2 and message in result.stderr.splitlines()[-1]
    assert not list(tmp_path.glob("*.pkl"))
