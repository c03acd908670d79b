"""A notebook's parameters, checked before any work; `show` of its tables.

papermill only warns about a name that the notebook does not have, or that no cell is tagged
`parameters`, and YAML hands `1e-4` over as text. Each would cost a run, so the cell after them
calls `parameters`, and whoever starts a notebook can call `check` before there is a kernel.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError, create_model

from bondlab.report.shown import show

__all__ = ["ParameterError", "check", "declared", "parameters", "show"]

Model = TypeVar("Model", bound=BaseModel)

_INJECTED = "# Parameters"  # how papermill's cell with the given values begins
_ASSIGNED = re.compile(r"^(\w+)\s*(?::[^=\n]*)?=(?!=)", re.MULTILINE)
_REMEDIES = {  # a type that did not arrive -> how to give papermill the value so that it does
    "string_type": ". Pass it as text: -r {name} {value}",
    "bool_type": ". Write -p {name} True or -p {name} False",
    "list_type": ". Pass a list as YAML: -y '{name}: [...]'",
    "float_type": ". YAML takes 1e-4 for text, as it has no point: write 1.0e-4",
}


class ParameterError(ValueError):
    """A parameter that the notebook does not have, or a value of the wrong type."""

    def _render_traceback_(self) -> list[str]:
        """What IPython prints instead of the frames: the message says all there is to say."""
        return [f"{type(self).__name__}: {self}"]


def parameters(namespace: Mapping[str, Any], model: type[Model]) -> Model:
    """Validate the parameters cell: `parameters(globals(), Model)`, right after that cell.

    Args:
        namespace: the notebook's globals; IPython's `In`, the cells that ran, tells what was given.
        model: declares the parameters, one field each. Types are strict: text is no number.
    Raises:
        ParameterError: an unknown or missing name, or an ill-typed value; names all of them. Also
            where values were given and a later cell has overwritten them.
    """
    cells = [cell for cell in namespace.get("In", []) if cell]
    injected = next((cell for cell in reversed(cells) if cell.startswith(_INJECTED)), "")
    given = _ASSIGNED.findall(injected)
    if given and injected == cells[0]:  # where papermill puts it if no cell is tagged
        later = {name for cell in cells[1:-1] for name in _ASSIGNED.findall(cell)}
        if lost := ", ".join(f"`{name}`" for name in given if name in later):
            raise ParameterError(
                f"{lost}: the given value was overwritten by a cell after it. Tag the cell with "
                "the defaults `parameters`, so that given values come after them."
            )
    names = dict.fromkeys([*model.model_fields, *given])
    return _validate({name: namespace[name] for name in names if name in namespace}, model)


def check(notebook: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters that a run of `notebook` with `given` would see; no kernel is started.

    Raises:
        ParameterError: as `parameters`; also where the notebook's own cell cannot be read.
    """
    try:
        return _validate(given, declared(notebook)).model_dump()
    except ParameterError as error:
        raise ParameterError(f"{notebook.name}: {error}") from None


def declared(notebook: Path) -> type[BaseModel]:
    """The parameters cell as a model; each of its lines is to be `name: type = value`."""
    import nbformat  # only whoever starts a notebook needs it

    book = nbformat.read(notebook, as_version=4)
    cells = [c.source for c in book.cells if "parameters" in c.metadata.get("tags", [])]
    if len(cells) != 1:
        raise ParameterError(f"{len(cells)} cells are tagged `parameters`; tag exactly one")
    cell = ModuleType("cell")
    try:
        exec(cells[0], vars(cell))
    except Exception as error:
        raise ParameterError(f"its parameters cell fails: {error!r}") from None
    types = inspect.get_annotations(cell)
    values = {name: value for name, value in vars(cell).items() if not name.startswith("__")}
    for name in types.keys() ^ values.keys():
        raise ParameterError(f"`{name}` is no parameter; write `name: type = value`")
    return create_model("Parameters", **{name: (types[name], values[name]) for name in types})


def _validate(values: Mapping[str, Any], model: type[Model]) -> Model:
    try:
        return model.model_validate(dict(values), strict=True, extra="forbid")
    except ValidationError as error:
        problems = [_problem(each, values, model) for each in error.errors()]
    raise ParameterError("\n  ".join(problems))


def _problem(error: Any, values: Mapping[str, Any], model: type[BaseModel]) -> str:
    reason = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:  # the model's own rule about several parameters together
        return reason
    name, *places = error["loc"]
    if error["type"] == "missing":
        return f"`{name}` is missing from the parameters cell"
    if error["type"] == "extra_forbidden":
        return f"`{name}` is no parameter; the notebook has {', '.join(model.model_fields)}"
    place = "".join(f"[{part}]" for part in places)
    remedy = _REMEDIES.get(error["type"], "").format(name=name, value=values[name])
    kind = type(error["input"]).__name__
    return f"`{name}{place}` is {error['input']!r} ({kind}): {reason}{remedy}"
