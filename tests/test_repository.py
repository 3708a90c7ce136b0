"""The repository: consistent requirements files, working make targets, no paths of a local machine, no broken links."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from paths import ROOT

TEXT_ENDINGS = {"", ".py", ".md", ".toml", ".txt", ".yml", ".cfg", ".sh", ".h", ".cpp", ".cu", ".js", ".css", ".html"}
LOCAL_PATHS = re.compile(r"(?<![\w.])/(?:home|Users|root|work|mnt|scratch)/[\w.-]+")


UNTESTED_EXTRAS = {"wandb"}  # optional and not needed by any test, so no version is pinned


def pyproject():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no TOML reader")
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def ranges():
    """Every package that pyproject.toml names, extras included."""
    project = pyproject()["project"]
    extras = [lines for name, lines in project["optional-dependencies"].items() if name not in UNTESTED_EXTRAS]
    lines = [*project["dependencies"], *(line for extra in extras for line in extra)]
    found = {}
    for requirement in map(Requirement, lines):
        assert found.setdefault(requirement.name, requirement).specifier == requirement.specifier, requirement.name
    return found


def pins():
    lines = (line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines())
    return [Requirement(line) for line in lines if line]


def tracked_files():
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_requirements_pin_every_package_of_pyproject_within_its_range():
    allowed = ranges()
    assert {pin.name for pin in pins()} == set(allowed)
    for pin in pins():
        (pinned,) = pin.specifier
        assert pinned.operator == "==" and Version(pinned.version) in allowed[pin.name].specifier, str(pin)


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13", "3.14"])
def test_each_package_has_one_pin_per_python_version(python):
    names = [pin.name for pin in pins() if pin.marker is None or pin.marker.evaluate({"python_version": python})]
    assert sorted(names) == sorted(ranges())


def test_conda_environment_installs_the_same_requirements():
    lines = (ROOT / "environment.yml").read_text().splitlines()
    keys = [line.rstrip(":") for line in lines if re.fullmatch(r"\w+:", line)]
    entries = [line.strip().removeprefix("- ") for line in lines if line.strip().startswith("- ")]
    assert keys == ["channels", "dependencies"]
    assert entries[:2] == ["conda-forge", "nodefaults"]
    python, *rest = entries[2:]
    assert python.removeprefix("python=") in SpecifierSet(pyproject()["project"]["requires-python"])
    assert rest == ["pip", "pip:", "--requirement requirements.txt", "--editable ."]


def test_every_package_is_installed():
    patterns = pyproject()["tool"]["setuptools"]["packages"]["find"]["include"]
    tops = {path.parent.relative_to(ROOT).parts[0] for path in tracked_files() if path.name == "__init__.py"}
    assert tops - {"tests"} <= {pattern.removesuffix("*") for pattern in patterns}


def test_every_top_level_module_is_installed():
    listed = set(pyproject()["tool"]["setuptools"]["py-modules"])
    assert all((ROOT / f"{name}.py").is_file() for name in listed)


@pytest.mark.parametrize("target", ["demo", "test", "test-all", "lint", "format"])
def test_make_targets_exist_and_use_the_virtual_environment(target):
    plan = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True)
    assert plan.returncode == 0, plan.stderr
    assert ".venv/bin/" in plan.stdout


def test_ci_runs_make_test():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().splitlines()[-1] == "make test"


def test_no_file_contains_paths_of_a_local_machine():
    named = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in tracked_files()
        if path.suffix in TEXT_ENDINGS and path != Path(__file__)
        for match in LOCAL_PATHS.finditer(path.read_text())
    ]
    assert named == []


def test_links_between_pages_are_not_broken():
    pages = [path for path in tracked_files() if path.suffix == ".md"]
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text())
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert pages and broken == []
