"""What code reads: the text that runs, the globals and modules it takes its values from.

Told apart are installed libraries, whose code never changes while one works, and everything else:
the user's files, and this package.
"""

from __future__ import annotations

import ast
import dis
import functools
import importlib
import inspect
import sys
import sysconfig
import textwrap
import types
from collections.abc import Iterator
from importlib.util import find_spec, resolve_name
from pathlib import Path

_MADE_BY_CODE = 1 << 9  # Python's flag of classes that are no part of compiled code


@functools.cache
def installed(file: str | None) -> bool:
    """Whether code of this file is a library's: of Python, or of a folder that pip installs into.

    Not this package's, wherever it is installed, nor what is installed to be edited in its place.
    """
    if file is None or file.startswith("<frozen"):
        return file is not None
    path = Path(file)
    if Path(__file__).parents[1] in path.parents:
        return False
    places = {Path(sysconfig.get_path(kind)) for kind in ("stdlib", "platstdlib")}
    return bool(
        {"site-packages", "dist-packages"} & set(path.parts)
        or places & set(path.parents)
        or any(_holds_packages(str(folder)) for folder in path.parents if str(folder) in sys.path)
    )


@functools.cache
def _holds_packages(folder: str) -> bool:
    """Whether pip installed something here, as it does with --target."""
    return next(Path(folder).glob("*.dist-info"), None) is not None


def library(module: str | None) -> bool:
    """Whether a module of this name is a library's."""
    name = module or ""
    found = sys.modules.get(name) or sys.modules.get(name.partition(".")[0])
    if found is None or name == "__main__":
        return False
    origin = getattr(getattr(found, "__spec__", None), "origin", None)
    folders = iter(getattr(found, "__path__", ()))
    file = getattr(found, "__file__", None) or next(folders, None)
    return origin in ("built-in", "frozen") or installed(file)


def library_class(kind: type) -> bool:
    """Whether a class is a library's own; not one that its functions made of a user's settings."""
    if not kind.__flags__ & _MADE_BY_CODE:
        return True
    found = sys.modules.get(kind.__module__) if library(kind.__module__) else None
    for name in kind.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is kind


def text(code: types.CodeType) -> str | None:
    """A function's text without comments and docstrings, or None.

    Only where the file still holds what runs: it may have been edited since it was imported. A
    notebook's cells are in no file: other processes, which share its work, could not read them.
    """
    if not Path(code.co_filename).exists():
        return None
    try:
        lines, _ = inspect.findsource(code)
        if code.co_name == "<lambda>" or code not in _compiled("".join(lines)):
            return None
        return bare(textwrap.dedent(inspect.getsource(code)))
    except (OSError, TypeError, SyntaxError, ValueError):
        return None


@functools.lru_cache(maxsize=64)
def _compiled(source: str) -> frozenset[types.CodeType]:
    return frozenset(_nested(compile(source, "<source>", "exec", dont_inherit=True)))


def bare(source: str) -> str:
    """Source in one form whatever its layout, comments and docstrings."""
    tree = ast.parse(source)
    kinds = (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for node in ast.walk(tree):
        if isinstance(node, kinds) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def stored(code: types.CodeType) -> set[str]:
    """Globals and outer variables that code assigns."""
    names = ("STORE_GLOBAL", "DELETE_GLOBAL", "STORE_DEREF", "DELETE_DEREF")
    return {s.argval for steps in _steps(code) for s in steps if s.opname in names}


def loaded(code: types.CodeType) -> list[tuple[str, str]]:
    """Globals that code loads, each with the attribute that it takes of it at once, or ""."""
    found = set()
    for steps in _steps(code):
        own = {step.argval for step in steps if step.opname == "STORE_NAME"}  # of a class's body
        for step, after in zip(steps, steps[1:], strict=False):
            if step.opname in ("LOAD_GLOBAL", "LOAD_NAME") and step.argval not in own:
                taken = after.opname in ("LOAD_ATTR", "LOAD_METHOD")
                found.add((step.argval, after.argval if taken else ""))
    return sorted(found)


def imported(code: types.CodeType, package: str) -> dict[str, types.ModuleType | None]:
    """Modules that code imports when it runs; None for a library's, which its name stands for."""
    names = set()
    for steps in _steps(code):
        for place, step in enumerate(steps):
            if step.opname == "IMPORT_NAME":
                level = steps[place - 2].argval
                names.add(
                    resolve_name("." * level + step.argval, package) if level else step.argval
                )
    return {name: _module(name) for name in sorted(names)}


def _module(name: str) -> types.ModuleType | None:
    root = name.partition(".")[0]
    try:
        spec = getattr(sys.modules.get(root), "__spec__", None) or find_spec(root)
        if spec is None or spec.origin in ("built-in", "frozen") or installed(spec.origin):
            return None
        return importlib.import_module(name)  # as the code itself will
    except (ImportError, ValueError):  # which may do without it
        return None


def _nested(code: types.CodeType) -> list[types.CodeType]:
    """The code and all code inside it."""
    inner = [each for each in code.co_consts if isinstance(each, types.CodeType)]
    return [code, *(deeper for each in inner for deeper in _nested(each))]


def _steps(code: types.CodeType) -> Iterator[list[dis.Instruction]]:
    for each in _nested(code):
        yield [step for step in dis.get_instructions(each) if step.opname != "EXTENDED_ARG"]
