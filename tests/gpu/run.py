"""Run all parts of the GPU check, each in a process with its own time limit, and write one JSON file and one table.

tests/gpu/run.sh [DIRECTORY] [--small] [--parts build,golden] [--seconds 470]
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import nullcontext
from pathlib import Path
from typing import TextIO

import click
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(1, str(Path(__file__).resolve().parents[1]))
from gpu.parts import PARTS, Part
from gpu.setting import Setting, Skipped, peak_gb, without_kernels

from dnnlib.util import atomic_write
from torch_utils.processes import exit_with_parent

# Fields of a row that the table shows.
COLUMNS = ("part", "case", "result", "plain form", "ratio", "peak GB", "remark")
MAX_REMARK = 160


@click.command()
@click.argument("directory", type=click.Path(path_type=Path), default=Path("out/gpu"))
@click.option("--small", is_flag=True, help="Small sizes on a GPU too; on a CPU they are always small.")
@click.option("--parts", default=",".join(part.name for part in PARTS), show_default=True, help="Parts to run.")
@click.option("--seconds", type=click.IntRange(1), default=470, show_default=True, help="Time for all parts.")
@click.option("--part", "part_name", hidden=True, help="Run one part in this process; DIRECTORY is its file of rows.")
@click.option("--no-kernels", is_flag=True, hidden=True, help="With --part: do not try to compile them again.")
def main(directory: Path, small: bool, parts: str, seconds: int, part_name: str | None, no_kernels: bool) -> None:
    """Write results.json, results.md and log.txt to DIRECTORY; exit code 1 if a part failed."""
    by_name = {part.name: part for part in PARTS}
    unknown = set(parts.split(",")) - by_name.keys()
    if unknown:
        raise click.UsageError(f"--parts: got {', '.join(sorted(unknown))}, allowed {', '.join(by_name)}")
    if part_name is not None:
        exit_with_parent(os.getppid())
        with without_kernels() if no_kernels else nullcontext():
            measure(by_name[part_name], setting(small), directory)
        return

    # Parts in their order, as long as there is time. The results are written after each.
    directory.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + seconds
    machine = describe_machine()
    rows: list[dict] = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the running part too
    with open(directory / "log.txt", "w") as log:
        for name in parts.split(","):
            limit = min(by_name[name].seconds, deadline - time.monotonic())
            click.echo(f"{name} ...", err=True)
            options = ["--small"] * small + ["--no-kernels"] * any_failed(rows, "build")
            found = run_part(by_name[name], options, limit, log)
            rows += found
            write_results(directory, machine, rows, seconds - (deadline - time.monotonic()))
            for row in found:
                click.echo(f"  {row['status']:8s} {row['case']}: {shown_result(row)} {row.get('remark', '')}", err=True)

    # The table, and whether everything went well.
    click.echo((directory / "results.md").read_text())
    if any_failed(rows):
        sys.exit(1)


def setting(small: bool) -> Setting:
    """Return the device and sizes of this run."""
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    return Setting(device, full=device.type == "cuda" and not small)


def any_failed(rows: list[dict], part: str | None = None) -> bool:
    """Return whether a case of a part, or of any, has failed."""
    return any(row["status"] == "failed" and part in (None, row["part"]) for row in rows)


# --------------------------------------------------------------------------- one part, in a process of its own


def run_part(part: Part, options: list[str], limit: float, log: TextIO) -> list[dict]:
    """Run a part in a process, since an error on the device ends all later work of a process.

    Args:
        part: row of PARTS.
        options: of its command line.
        limit: seconds after which the process is killed.
        log: file of all output.
    Returns:
        Its rows. What was not finished, or not started, is a row with that status.
    """
    if limit < 2:
        return [{"part": part.name, "case": "all", "status": "skipped", "remark": "no time left"}]
    command = [sys.executable, __file__, "--part", part.name, *options]
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "rows"
        file.touch()
        log.write(f"---- {part.name}\n")
        log.flush()
        process = subprocess.Popen([*command, file], stdout=log, stderr=log, start_new_session=True)
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            # Compilers and data workers that it started, too.
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        lines = file.read_text().splitlines()

    # A case has a row when it starts, and another one when it is finished; after the last case comes an empty one. Then
    # nothing is missing, even if the process takes long to end.
    rows = {row["case"]: row for row in map(json.loads, lines)}
    finished = rows.pop("", None)
    problem = f"the process ended with exit code {code}, see log.txt" if code else f"stopped after {limit:.0f} s"
    for row in rows.values():
        if row["status"] == "started":
            row.update(status="failed", remark=problem)
    if not finished and not any(row["status"] == "failed" for row in rows.values()):
        rows["all"] = {"case": "all", "status": "failed", "remark": problem}
    return [{"part": part.name, **row} for row in rows.values()]


def measure(part: Part, setting: Setting, file: Path) -> None:
    """Run the cases of a part one after the other, and append their rows to a file."""

    def write(row: dict) -> None:
        with file.open("a") as out:
            out.write(json.dumps(row) + "\n")

    for case, run in part.cases(setting):
        write({"case": case, "status": "started"})
        if setting.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        try:
            row = {"status": "ok", **run()}
        except Skipped as reason:
            row = {"status": "skipped", "remark": str(reason)}
        except Exception as error:
            traceback.print_exc()
            lines = str(error).strip().splitlines() or [""]
            row = {"status": "failed", "remark": f"{type(error).__name__}: {lines[0]}"}
        seconds = time.perf_counter() - start
        write({"case": case, "peak GB": peak_gb(setting), **row, "seconds": seconds})
    write({"case": ""})


# --------------------------------------------------------------------------- results


def describe_machine() -> dict[str, str]:
    """Return versions and hardware."""
    info = {"system": platform.platform(), "Python": platform.python_version(), "PyTorch": torch.__version__}
    info["CPU"] = f"{os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"
    info["threads"] = str(torch.get_num_threads())
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        info["GPU"] = (
            f"{properties.name}, {properties.total_memory / 2**30:.0f} GB, sm_{properties.major}{properties.minor}"
        )
        info["CUDA"] = str(torch.version.cuda)
        info["cuDNN"] = str(torch.backends.cudnn.version())
    else:
        info["GPU"] = "none: small sizes on the CPU, whose times say nothing about a GPU"
    return info


def write_results(directory: Path, machine: dict, rows: list[dict], seconds: float) -> None:
    """Write results.json and results.md, each complete at any time."""
    counts = {status: sum(row["status"] == status for row in rows) for status in ("ok", "failed", "skipped")}
    results = {"machine": machine, "seconds": seconds, "counts": counts, "rows": rows}
    with atomic_write(directory / "results.json") as file:
        file.write(json.dumps(results, indent=1).encode())
    with atomic_write(directory / "results.md") as file:
        file.write(table(results).encode())


def table(results: dict) -> str:
    """Return the results as Markdown."""
    facts = [f"{name}: {value}" for name, value in results["machine"].items()]
    counts = ", ".join(f"{number} {status}" for status, number in results["counts"].items())
    lines = ["; ".join(facts), "", f"{counts}; {results['seconds']:.0f} s", ""]
    lines += ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for row in results["rows"]:
        cells = {**row, "result": shown_result(row), "plain form": shown(row.get("plain"))}
        cells |= {name: shown(row.get(name)) for name in ("ratio", "peak GB")}
        cells["remark"] = cells.get("remark", "").replace("|", "/")[:MAX_REMARK]
        lines.append("| " + " | ".join(cells[name] for name in COLUMNS) + " |")
    return "\n".join(lines) + "\n"


def shown_result(row: dict) -> str:
    """Return value and unit, or the status of a row that has no value."""
    if row["status"] != "ok":
        return row["status"]
    return f"{shown(row.get('value'))} {row.get('unit', '')}".strip() or "ok"


def shown(number: float | None) -> str:
    """Return a number with three digits; empty for None."""
    return "" if number is None else f"{number:.3g}"


if __name__ == "__main__":
    main()
