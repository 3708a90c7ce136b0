"""The GPU run goes on after a failure, reports it, and its small form runs to the end without a GPU."""

import json
import os
import subprocess

import pytest
import torch
from gpu import run, setting
from gpu.parts import PARTS, Part
from paths import ROOT

from torch_utils.ops import build
from training.networks import generator

CPU = setting.Setting(torch.device("cpu"), full=False)


def script(outdir, *words, **environment):
    """Run tests/gpu/run.sh, and return its exit code and results."""
    command = [ROOT / "tests" / "gpu" / "run.sh", outdir, *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **environment}
    done = subprocess.run([str(word) for word in command], env=environment, capture_output=True, text=True)
    assert (outdir / "results.json").exists(), done.stderr
    return done.returncode, json.loads((outdir / "results.json").read_text())


def rows_of(cases, tmp_path):
    """Measure the cases of a part, and return its last row of each."""
    file = tmp_path / "rows"
    run.measure(Part("some", lambda _: iter(cases), 60), CPU, file)
    rows = {row["case"]: row for row in map(json.loads, file.read_text().splitlines())}
    assert rows.pop("") == {"case": ""}  # the part is finished
    return rows


def test_a_case_that_fails_is_reported_with_its_message_and_the_others_go_on(tmp_path):
    def fail():
        raise RuntimeError("no such kernel\nsecond line")

    def skip():
        raise setting.Skipped("needs a GPU")

    rows = rows_of([("a", fail), ("b", skip), ("c", lambda: {"value": 2.5, "unit": "s"})], tmp_path)
    assert [row["status"] for row in rows.values()] == ["failed", "skipped", "ok"]
    assert rows["a"]["remark"] == "RuntimeError: no such kernel"
    assert rows["b"]["remark"] == "needs a GPU"

    results = {"machine": {"GPU": "none"}, "seconds": 1.0, "counts": {"ok": 1}, "rows": []}
    results["rows"] = [{"part": "some", **row} for row in rows.values()]
    lines = run.table(results).splitlines()
    assert lines[-1] == "| some | c | 2.5 s |  |  |  |  |"
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


def test_a_process_that_dies_or_hangs_fails_the_case_that_it_had_started(tmp_path, monkeypatch):
    part = Part("some", lambda _: iter(()), 60)
    started = 'echo \'{"case": "a", "status": "started"}\' > "$2"; '
    for ending, limit, remark in (("exit 3", 60, "exit code 3"), ("sleep 60", 3, "stopped after 3 s")):
        fake = tmp_path / "python"
        fake.write_text(f'#!/bin/bash\nset -- "$3" "${{@: -1}}"\n{started}{ending}\n')
        fake.chmod(0o755)
        monkeypatch.setattr(run.sys, "executable", str(fake))
        with open(tmp_path / "log", "w") as log:
            (row,) = run.run_part(part, [], limit, log)
        assert (row["part"], row["case"], row["status"]) == ("some", "a", "failed")
        assert remark in row["remark"]
    assert run.run_part(part, [], 1, None)[0]["status"] == "skipped"


def test_plain_forms_use_no_kernels_and_render_by_definition(monkeypatch):
    monkeypatch.setattr(build, "_load_kernels", lambda library: True)
    render = generator.render
    assert build.use_kernel("auto", torch.device("cpu"), build.CPU_KERNELS)
    with setting.plain_forms():
        assert not build.use_kernel("auto", torch.device("cpu"), build.CPU_KERNELS)
        assert generator.render.keywords == {"impl": "ref"}
    assert generator.render is render
    assert build.use_kernel("auto", torch.device("cpu"), build.CPU_KERNELS)


def test_cases_that_need_a_gpu_are_named_without_one():
    cases = {f"{part.name}: {case}": function for part in PARTS for case, function in part.cases(CPU)}
    for name in ("build: compile CUDA kernels", "frames: fp16, CUDA graph, planes cached", "kernels: CUDA kernels"):
        with pytest.raises(setting.Skipped, match="needs a CUDA device"):
            cases[name]()


@pytest.mark.slow
def test_small_form_runs_to_its_end_on_a_cpu(tmp_path):
    code, results = script(tmp_path / "out")
    failed = [row for row in results["rows"] if row["status"] == "failed"]
    assert (code, failed) == (0, [])
    assert {row["part"] for row in results["rows"]} == {part.name for part in PARTS}
    assert results["counts"]["ok"] > 20 and results["counts"]["skipped"] > 10
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"results.json", "results.md", "log.txt"}


@pytest.mark.slow
def test_a_failed_part_gives_exit_code_1(tmp_path):
    (tmp_path / "file").touch()
    code, results = script(
        tmp_path / "out", "--parts=build,renderer", TORCH_EXTENSIONS_DIR=str(tmp_path / "file" / "extensions")
    )
    status = {row["case"]: row["status"] for row in results["rows"]}
    assert code == 1
    assert status["compile CPU kernels"] == "failed"
    assert {row["status"] for row in results["rows"] if row["part"] == "renderer"} == {"ok"}
