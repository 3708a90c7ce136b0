"""Ctrl-C while a script imports its modules."""

import os
import signal
import subprocess
import sys
import time

import pytest
from paths import ROOT

import train  # noqa: F401

FILES = [*ROOT.glob("*.py"), *(ROOT / "applications").glob("*.py")]
SCRIPTS = sorted(str(path.relative_to(ROOT)) for path in FILES if '__name__ == "__main__"' in path.read_text())

# In place of PyTorch: an import that takes long, and ignores exceptions.
SLOW_IMPORT = """
import pathlib, sys, time
pathlib.Path(__file__).with_name("started").touch()
try:
    time.sleep(60)
except BaseException:
    sys.exit("interrupted")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("script", SCRIPTS)
def test_ctrl_c_while_a_script_imports_modules_ends_it_silently(script, tmp_path):
    # Every script imports click, even where --help needs no PyTorch.
    (tmp_path / "click").mkdir()
    (tmp_path / "click" / "__init__.py").write_text(SLOW_IMPORT)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen([sys.executable, script, "--help"], cwd=ROOT, env=environment, **pipes)
    deadline = time.monotonic() + 50
    while not (tmp_path / "click" / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate()
    assert (process.returncode, output) == (-signal.SIGINT, b"")


def test_every_script_is_tested():
    assert {"train.py", "applications/demo.py"} < set(SCRIPTS)


def test_ctrl_c_raises_again_when_a_script_is_imported():
    assert signal.getsignal(signal.SIGINT) != signal.SIG_DFL
