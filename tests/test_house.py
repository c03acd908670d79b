"""Where a module may look: the algorithm knows nothing of tasks, and nothing knows of the study."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "bondlab"
# A folder of the package -> those that it may import from, besides itself and the core. The core is
# the files at the top, `lm` and `naming`.
CORE = {"", "lm", "naming"}
BELOW = {
    "report": set(),
    "toy": {"report"},
    "plan": set(),
    "assets": set(),
    "tasks": {"assets", "report"},
    "making": {"report", "assets", "tasks"},
    "bench": {"report", "assets", "tasks"},
    "study": {"report", "toy", "assets", "tasks", "making"},
}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__main__.py")


def folder(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def imported(path: Path) -> set[str]:
    """Folders of the package that a file imports from, at whatever place in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports say where from"
            names = [f"{node.module}.{a.name}" for a in node.names]
        for words in (name.split(".") for name in names):
            if words[0] == "bondlab" and len(words) > 1:
                found.add(words[1] if (PACKAGE / words[1]).is_dir() else "")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    own = folder(path)
    assert own in CORE | {*BELOW}, f"say in BELOW what {own} may import"
    allowed = CORE if own in CORE else CORE | {own} | BELOW[own]
    assert imported(path) <= allowed


def test_training_loads_the_core_alone():
    """What a user of the library waits for: no task, no package index, no plotting, and none of
    the modeling code that comes with the first model."""
    code = "from bondlab import train; import sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert {"bondlab.training", "bondlab.lm.network"} <= loaded
    assert not {f"bondlab.{name}" for name in BELOW} & loaded
    others = {"matplotlib", "datasets", "onnx", "gguf", "jupyterlab", "transformers.modeling_utils"}
    assert not others & loaded


def outside(path: Path) -> set[str]:
    """Installed packages that a file imports; torch's name is its own, and so are the others'."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {a.name for node in nodes if isinstance(node, ast.Import) for a in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.split(".")[0] for name in names} - {*sys.stdlib_module_names, "bondlab"}


def test_the_core_needs_its_own_dependencies_alone():
    """Who installs bondlab without the extra `study` can import, train and save."""
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    listed = {re.match(r"[\w-]+", line)[0] for line in project["dependencies"]}
    core = [path for path in FILES if folder(path) in CORE]
    used = set().union(*map(outside, core))
    assert used <= listed
    assert listed - used == {"pyarrow"}, "which pandas asks for where tables are written"


def test_notebook_00_loads_the_core_and_the_toy_alone():
    """The exact numbers need no task, no package index, no model."""
    path = PACKAGE.parent / "notebooks" / "00_best_of_n_in_exact_numbers.ipynb"
    cells = [cell["source"] for cell in json.loads(path.read_text())["cells"]]
    lines = [line.strip() for cell in cells for line in cell]
    imports = [line for line in lines if re.match(r"(from \S+ )?import ", line)]
    code = "\n".join([*imports, "import sys; print(*sys.modules)"])
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert {"bondlab.toy.exact", "bondlab.report.kept"} <= loaded
    assert not {f"bondlab.{name}" for name in ("lm", "assets", "tasks", "making", "study")} & loaded
    assert not {"transformers", "datasets", "papermill"} & loaded
