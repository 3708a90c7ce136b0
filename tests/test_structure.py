"""Structure of the code: imports run one way, functions are short, public functions say what they take."""

from __future__ import annotations

import ast
import importlib
import re
from functools import cache
from pathlib import Path

import pytest
from paths import ROOT

# Packages from the bottom up; a package may import those before it. Scripts at the top may import everything.
LAYERS = (
    {"dnnlib"},
    {"torch_utils", "camera_utils"},
    {"training"},
    {"inference", "dataset_preprocessing"},
    {"metrics"},
    {"applications"},
    {"calc_metrics", "dataset_tool", "legacy", "train"},
)
LAYER_OF = {name: number for number, names in enumerate(LAYERS) for name in names}

# Inside training/, subpackages from the bottom up; modules directly in training/ may import all of them.
TRAINING_LAYERS = ({"volumetric_rendering"}, {"networks", "data"}, {"weights"})
TRAINING_LAYER_OF = {name: number for number, names in enumerate(TRAINING_LAYERS) for name in names}

MAX_FUNCTION_LINES = 70
MIN_DOCUMENTED = 0.9
ARRAY_TYPES = re.compile(r"\b(Tensor|ndarray)\b")
SHAPE = re.compile(r"\b[\dA-Za-z_+]+(?:,[\dA-Za-z_+]+)+\b|\bscalar\b|\bshape\b|\b[NMTFSHWRPK]\b")


def source_files() -> list[Path]:
    """Return the Python files of the packages and scripts, tests excluded."""
    folders = [name for name in LAYER_OF if (ROOT / name).is_dir()]
    packages = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return packages + [ROOT / f"{name}.py" for name in LAYER_OF if (ROOT / f"{name}.py").is_file()]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def trees() -> dict[str, ast.Module]:
    """Return the syntax tree of every module, by its dotted name."""
    return {module_name(path): ast.parse(path.read_text()) for path in source_files()}


@cache
def imports() -> dict[str, set[str]]:
    """Return the modules of this project that each module imports, imports inside functions included."""
    found = {}
    for name, tree in trees().items():
        targets = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                targets |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                # `from package import x` imports the module package.x if there is one, else package itself.
                dotted = {f"{node.module}.{alias.name}" for alias in node.names}
                targets |= {target if target in trees() else node.module for target in dotted}
        found[name] = {target for target in targets if target in trees() and target != name}
    return found


def functions() -> list[tuple[str, ast.FunctionDef, bool]]:
    """Return every function as (place, node, whether it is public)."""
    found = []
    for name, tree in trees().items():
        for node in tree.body:
            members = node.body if isinstance(node, ast.ClassDef) else [node]
            hidden = isinstance(node, ast.ClassDef) and node.name.startswith("_")
            for member in members:
                if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef):
                    public = not hidden and not member.name.startswith("_")
                    found.append((f"{name}:{member.lineno} {member.name}", member, public))
    return found


def test_packages_import_only_packages_below_them():
    upward = [
        f"{name} imports {target}"
        for name, targets in imports().items()
        for target in targets
        if LAYER_OF[target.split(".")[0]] > LAYER_OF[name.split(".")[0]]
    ]
    assert upward == []


def test_subpackages_of_training_import_only_those_below_them():
    def layer(module: str) -> int:
        name = module.split(".")[1] if "." in module else ""
        return TRAINING_LAYER_OF.get(name, len(TRAINING_LAYERS))

    training = {name: targets for name, targets in imports().items() if name.startswith("training.")}
    upward = [
        f"{name} imports {target}"
        for name, targets in training.items()
        for target in targets
        if target.startswith("training.") and layer(target) > layer(name)
    ]
    assert upward == []


def test_scripts_in_applications_do_not_import_each_other():
    scripts = {module_name(path) for path in (ROOT / "applications").glob("*.py")}
    scripts -= {"applications", "applications.cli"}
    crossed = [f"{name} imports {target}" for name in scripts for target in imports()[name] & scripts]
    assert crossed == []


def test_no_module_imports_itself_through_others():
    order: list[str] = []
    visiting: list[str] = []

    def visit(name: str) -> None:
        if name in order:
            return
        assert name not in visiting, " -> ".join([*visiting[visiting.index(name) :], name])
        visiting.append(name)
        for target in sorted(imports()[name]):
            visit(target)
        visiting.pop()
        order.append(name)

    for name in imports():
        visit(name)


def test_a_circular_import_would_be_found(monkeypatch):
    circle = {"a": {"b"}, "b": {"c"}, "c": {"a"}}
    monkeypatch.setitem(globals(), "imports", lambda: circle)
    with pytest.raises(AssertionError, match="a -> b -> c -> a"):
        test_no_module_imports_itself_through_others()


def test_functions_fit_on_a_screen():
    long = [place for place, node, _ in functions() if node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES]
    assert long == []


def test_public_functions_have_docstrings():
    public = [(place, node) for place, node, is_public in functions() if is_public]
    missing = [place for place, node in public if not ast.get_docstring(node)]
    assert len(missing) <= (1 - MIN_DOCUMENTED) * len(public), missing


def test_docstrings_of_functions_on_tensors_state_shapes():
    on_tensors = []
    for place, node, is_public in functions():
        signature = ast.unparse(node.args) + (ast.unparse(node.returns) if node.returns else "")
        if is_public and ARRAY_TYPES.search(signature):
            on_tensors.append((place, node))
    missing = [place for place, node in on_tensors if not SHAPE.search(ast.get_docstring(node) or "")]
    assert len(missing) <= (1 - MIN_DOCUMENTED) * len(on_tensors), missing


@pytest.mark.parametrize("name", sorted(name for name in LAYER_OF if (ROOT / name).is_dir()))
def test_packages_say_what_they_hold(name):
    docstrings = {p: ast.get_docstring(ast.parse(p.read_text())) for p in (ROOT / name).rglob("__init__.py")}
    assert docstrings and all(docstrings.values()), [str(path) for path, text in docstrings.items() if not text]


@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_benchmarks_import_names_that_exist(path):
    # No test runs the benchmarks, which take minutes.
    missing = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in LAYER_OF:
            module = importlib.import_module(node.module)
            names = [alias.name for alias in node.names if f"{node.module}.{alias.name}" not in trees()]
            missing += [f"{node.module}.{name}" for name in names if not hasattr(module, name)]
    assert missing == []


def test_messages_are_printed_by_one_function_which_escapes_control_characters():
    calls = [path.name for path in source_files() if "click.echo(" in path.read_text()]
    assert calls == ["cli.py"]
