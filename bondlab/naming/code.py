"""What code consists of and reads: its steps, the globals and modules that they take values from.

Told apart are installed libraries, whose code never changes while one works, and everything else:
the user's files, and this package.
"""

from __future__ import annotations

import dis
import functools
import importlib
import itertools
import operator
import sys
from contextlib import suppress
from importlib.util import find_spec, resolve_name
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

_MADE_BY_CODE = 1 << 9  # Python's flag of classes that are no part of compiled code
_TAKEN = ("LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM")  # from what is there


@functools.cache
def installed(module: str | None) -> bool:
    """Whether a module is Python's own or lies in a folder that pip installs into.

    Not this package, wherever it is installed, nor what is installed to be edited in its place.
    """
    root = (module or "").partition(".")[0]
    if root in sys.stdlib_module_names:
        return True
    try:
        spec = None if root in ("__main__", "bondlab") else find_spec(root)
    except ValueError:  # no name, or a module made by hand
        spec = None
    folders = getattr(spec, "submodule_search_locations", None) or [""]
    file = getattr(spec, "origin", None) or next(iter(folders))
    homes = set(map(Path, sys.path)) & set(Path(file).parents)
    return any(next(home.glob("*.dist-info"), None) for home in homes)


def installed_class(kind: type) -> bool:
    """Whether a class is a library's own; not one that its functions made of a user's settings."""
    if not kind.__flags__ & _MADE_BY_CODE:
        return True
    try:
        found = operator.attrgetter(kind.__qualname__)(sys.modules[kind.__module__])
    except (AttributeError, KeyError):
        return False
    return found is kind and installed(kind.__module__)


def steps(code: CodeType) -> list[tuple[str, Any]]:
    """Instructions with what they work on, of the code and behind them of all code inside it.

    None of them says where it stands in a file; the first of each code is its signature.
    """
    head = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    found = [("CODE", (*head, code.co_varnames, code.co_exceptiontable))]
    own = [(step.opname, step.argval) for step in dis.get_instructions(code)]
    found += [(name, None if isinstance(value, CodeType) else value) for name, value in own]
    inner = [each for each in code.co_consts if isinstance(each, CodeType)]
    return found + [step for each in inner for step in steps(each)]


def assigned(steps: list[tuple[str, Any]]) -> set[str]:
    """Names that code assigns and that are more than its locals: globals, outer variables."""
    kinds = ("STORE_GLOBAL", "STORE_DEREF", "STORE_NAME")  # the last of a class's body
    return {value for kind, value in steps if kind in kinds}


def loaded(steps: list[tuple[str, Any]]) -> set[tuple[str, ...]]:
    """Globals that code loads and does not assign, each with the attributes taken at once."""
    own, found = assigned(steps), set()
    for place, (kind, name) in enumerate(steps, 1):
        if kind in ("LOAD_GLOBAL", "LOAD_NAME") and name not in own:
            taken = itertools.takewhile(lambda step: step[0] in _TAKEN[:2], steps[place:])
            found.add((name, *(attribute for _, attribute in taken)))
    return found


def settings(steps: list[tuple[str, Any]], module: ModuleType) -> dict[str, Any]:
    """What code may read of a module that it imports when it runs, but for code."""
    names = {value for kind, value in steps if kind in _TAKEN}
    held = {name: getattr(module, name) for name in names if hasattr(module, name)}
    return {k: v for k, v in held.items() if not callable(v) and not isinstance(v, ModuleType)}


def imported(steps: list[tuple[str, Any]], package: str | None) -> dict[str, ModuleType]:
    """The user's modules that code imports when it runs."""
    found = {}
    for (_, level), _, (kind, value) in zip(steps, steps[1:], steps[2:], strict=False):
        if kind == "IMPORT_NAME" and not installed(
            name := resolve_name("." * level + value, package)
        ):
            with suppress(ImportError):  # the code may do without it
                found[name] = importlib.import_module(name)
    return found
