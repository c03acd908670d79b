"""A notebook's parameters, checked before any work, and its tables, printed the same every time.

papermill only warns about a name that the notebook does not have, or that no cell is tagged
`parameters`, and YAML hands `1e-4` over as text. Each would cost a run, so a notebook's second cell
calls `parameters`, and whoever starts a notebook can call `check` before there is a kernel.
"""

from __future__ import annotations

import ast
import difflib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_origin

import nbformat
import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

Model = TypeVar("Model", bound=BaseModel)

_SIMPLE = (int, float, str, bool, list, dict, type(None))
_IPYTHON = {"In", "Out", "exit", "quit", "open", "get_ipython"}
_CHECKED = "_bondlab_parameters_checked"
_INJECTED = "# Parameters"  # how papermill's cell with the given values begins
_TYPES = {"int": int, "float": float, "str": str, "bool": bool, "list": list, "dict": dict}


class ParameterError(ValueError):
    """A parameter that the notebook does not have, or a value of the wrong type."""

    def _render_traceback_(self) -> list[str]:
        """What IPython prints instead of the frames: the message says all there is to say."""
        return [f"{type(self).__name__}: {self}"]


def parameters(namespace: dict[str, Any], model: type[Model]) -> Model:
    """Validate the parameters cell: `parameters(globals(), Model)`, right after that cell.

    Args:
        namespace: the notebook's globals. Every public name with a plain value (number, text,
            list, dict, None) is taken for a parameter, but not a constant in capitals, unless it
            is a parameter's name in capitals.
        model: declares the parameters, one field each. Types are strict: text is no number.
    Raises:
        ParameterError: an unknown or missing name, or an ill-typed value; names all of them. Also
            where values were given and a later cell has overwritten them.

    A notebook assigns names of its own later on. So unknown names are looked for until the first
    call that succeeds, and running the cell again by hand checks the model's fields alone.
    """
    values = {
        name: value
        for name, value in namespace.items()
        if isinstance(value, _SIMPLE) and not name.startswith("_") and name not in _IPYTHON
        if not name.isupper() or name.lower() in model.model_fields
    }
    if namespace.get(_CHECKED):
        values = {name: values[name] for name in values if name in model.model_fields}
    else:
        _require_given(namespace.get("In", []))
    missing = [name for name in model.model_fields if name not in values]
    result = _validate(values, model, missing)
    namespace[_CHECKED] = True
    return result


def _require_given(cells: Sequence[str]) -> None:
    """Values that were given still hold: no cell that ran after papermill's assigns them anew.

    It puts them before all cells where none is tagged, so that the defaults take their place.
    """
    ran = list(cells)[:-1]  # the last is the cell that asks
    places = [place for place, cell in enumerate(ran) if cell.startswith(_INJECTED)]
    if not places:
        return
    lost = _assigned(ran[places[-1]]) & set().union(*map(_assigned, ran[places[-1] + 1 :]))
    if lost:
        names = ", ".join(f"`{name}`" for name in sorted(lost))
        raise ParameterError(
            f"{names}: the given value was overwritten by a cell after it. Tag the cell with the "
            "defaults `parameters`, so that given values come after them."
        )


def _assigned(cell: str) -> set[str]:
    """The names that a cell assigns; none where it is not Python and so did not run."""
    try:
        nodes = ast.walk(ast.parse(cell))
    except SyntaxError:
        return set()
    return {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def check(notebook: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters that a run of `notebook` with `given` would see; no kernel is started.

    Args:
        notebook: a notebook whose cell tagged `parameters` holds lines `name: type = value`.
        given: the parameters to be passed to papermill.
    Raises:
        ParameterError: as `parameters`; also where the notebook's own cell cannot be read.
    """
    model = declared(notebook)
    defaults = {name: field.default for name, field in model.model_fields.items()}
    try:
        return _validate({**defaults, **given}, model, missing=[]).model_dump()
    except ParameterError as error:
        raise ParameterError(f"{notebook.name}: {error}") from None


def declared(notebook: Path) -> type[BaseModel]:
    """The parameters cell of a notebook as a model: names, annotated types and defaults."""
    cells = [
        cell.source
        for cell in nbformat.read(notebook, as_version=4).cells
        if "parameters" in cell.metadata.get("tags", [])
    ]
    if len(cells) != 1:
        raise ParameterError(
            f"{notebook}: {len(cells)} cells are tagged `parameters`; tag exactly one"
        )
    fields = dict(_field(line, notebook) for line in ast.parse(cells[0]).body)
    return create_model("Parameters", __config__=ConfigDict(extra="forbid"), **fields)


def show(table: pd.DataFrame, decimals: int = 3) -> None:
    """Print a table as plain text with rounded numbers, the same on every machine.

    A number that rounds to zero prints without a sign; a missing one prints as `-`.
    """

    def text(value: float) -> str:
        rounded = round(value, decimals) + 0.0  # + 0.0 turns -0.0 into 0.0
        return f"{rounded:.{decimals}f}"

    plain_index = isinstance(table.index, pd.RangeIndex)
    print(table.to_string(index=not plain_index, float_format=text, na_rep="-"))


def _field(line: ast.stmt, notebook: Path) -> tuple[str, tuple[Any, Any]]:
    if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value:
        try:
            return line.target.id, (_type(line.annotation), ast.literal_eval(line.value))
        except (ValueError, KeyError, TypeError):
            pass
    raise ParameterError(
        f"{notebook}: `{ast.unparse(line)}` is no parameter; write `name: type = value` with a "
        f"plain value and one of {', '.join(_TYPES)}, a list of one of them, or `| None`"
    )


def _type(annotation: ast.expr) -> Any:
    """`int`, `list[int]`, `float | None`, from plain names only: nothing is evaluated."""
    match annotation:
        case ast.Name(id=name):
            return _TYPES[name]
        case ast.Constant(value=None):
            return None
        case ast.Subscript(value=ast.Name(id="list"), slice=item):
            return list[_type(item)]
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _type(left) | _type(right)
    raise ValueError(ast.unparse(annotation))


def _validate(values: dict[str, Any], model: type[Model], missing: list[str]) -> Model:
    problems = [_unknown(name, model) for name in values if name not in model.model_fields]
    problems += [f"`{name}` is missing from the parameters cell" for name in missing]
    known = {name: value for name, value in values.items() if name in model.model_fields}
    result = None
    try:
        result = model.model_validate(known, strict=True)
    except ValidationError as error:
        problems += [_invalid(e, values, model) for e in error.errors() if e["type"] != "missing"]
    if problems or result is None:
        # `from None`: pydantic's own account repeats this one at greater length.
        raise ParameterError("\n  ".join(dict.fromkeys(problems))) from None
    return result


def _unknown(name: str, model: type[BaseModel]) -> str:
    close = difflib.get_close_matches(name.lower(), model.model_fields, n=1, cutoff=0.5)
    guess = f": did you mean `{close[0]}`?" if close else "."
    return (
        f"`{name}` is no parameter of this notebook{guess} "
        f"The notebook has {', '.join(model.model_fields)}. "
        f"(If it is left over in a live notebook, run `del {name}`.)"
    )


def _invalid(error: Any, values: dict[str, Any], model: type[BaseModel]) -> str:
    if not error["loc"]:  # the model's own rule about several parameters together
        return error["msg"].removeprefix("Value error, ")
    name = error["loc"][0]
    value, annotation = values[name], model.model_fields[name].annotation
    reason = error["msg"].removeprefix("Value error, ")
    place = "".join(f"[{part}]" for part in error["loc"][1:])
    return (
        f"`{name}{place}` is {error['input']!r} ({type(error['input']).__name__}): {reason}"
        f"{_hint(name, value, annotation)}"
    )


def _hint(name: str, value: Any, annotation: Any) -> str:
    """How to pass the value so that its type arrives; empty where the type is not the problem."""
    if isinstance(annotation, type) and isinstance(value, annotation):
        return ""
    if annotation is str:
        return f". Pass it as text: -r {name} {value}"
    if get_origin(annotation) is list and not isinstance(value, list):
        return f". Pass a list as YAML: -y '{name}: [...]'"
    if annotation is bool:
        return f". Write -p {name} True or -p {name} False"
    try:
        number = float(value if isinstance(value, str | float) else "")
    except ValueError:
        return ""
    if annotation is int and number.is_integer():
        return f". Write {int(number)}"
    if annotation is float and math.isfinite(number):
        # YAML takes 1e-4 for text because it has no point.
        mantissa, _, exponent = repr(number).partition("e")
        if exponent and "." not in mantissa:
            mantissa += ".0"
        return f". Write {mantissa}{'e' if exponent else ''}{exponent}"
    return ""
