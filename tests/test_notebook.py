"""Parameters are checked by name and by type before any work, and tables print alike everywhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
from pydantic import BaseModel, Field

from bondlab.report.notebook import ParameterError, check, declared, parameters, show


class Parameters(BaseModel):
    profile: Literal["shipped", "smoke"]
    learning_rate: float = Field(gt=0)
    steps: int
    seeds: list[int]
    fresh: bool


GOOD = {"profile": "smoke", "learning_rate": 1e-4, "steps": 8, "seeds": [0, 1], "fresh": False}
CELL = """\
profile: str = "smoke"  # help
learning_rate: float = 1e-4
steps: int = 8
seeds: list[int] = [0, 1]
limit: int | None = None
"""


def write(folder: Path, *cells: str, tagged: int = 1) -> Path:
    """A notebook whose first `tagged` cells carry the tag."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    for cell in book.cells[:tagged]:
        cell.metadata["tags"] = ["parameters"]
    path = folder / "book.ipynb"
    nbformat.write(book, path)
    return path


def test_a_full_set_passes_and_what_is_no_parameter_is_left_alone():
    """Modules, functions, classes, constants and IPython's own names are no parameters."""
    namespace = {**GOOD, "pd": pd, "show": show, "Parameters": Parameters, "SIZES": [4, 8]}
    namespace |= {"In": ["x"], "Out": {}, "_": 3, "_i1": "x", "__name__": "__main__"}
    assert parameters(namespace, Parameters).model_dump() == GOOD


def test_a_whole_number_is_a_float_too():
    assert parameters({**GOOD, "learning_rate": 1}, Parameters).learning_rate == 1.0


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("learning_rate", "1e-4", "Write 0.0001"),
        ("learning_rate", "1e-5", "Write 1.0e-05"),
        ("learning_rate", True, "valid number"),
        ("learning_rate", -1.0, "greater than 0"),
        ("steps", "8", "Write 8"),
        ("steps", 8.0, "Write 8"),
        ("steps", 8.5, "valid integer"),
        ("steps", True, "valid integer"),
        ("steps", None, "valid integer"),
        ("seeds", "[0, 1]", "-y 'seeds: [...]'"),
        ("fresh", "true", "-p fresh True"),
        ("fresh", 1, "-p fresh True"),
        ("profile", "laptob", "'shipped' or 'smoke'"),
    ],
)
def test_an_ill_typed_value_is_named_with_its_value_and_a_remedy(name, value, says):
    with pytest.raises(ParameterError, match=re.escape(f"`{name}` is {value!r}")) as caught:
        parameters({**GOOD, name: value}, Parameters)
    assert says in str(caught.value)


def test_yaml_reads_the_remedy_as_a_number():
    """1e-5 is text to YAML, the spelling that the message proposes is not."""
    import yaml

    with pytest.raises(ParameterError) as caught:
        parameters({**GOOD, "learning_rate": yaml.safe_load("1e-5")}, Parameters)
    assert yaml.safe_load(str(caught.value).rsplit("Write ")[1]) == 1e-5


def test_an_ill_typed_item_is_named_by_its_place():
    with pytest.raises(ParameterError, match=r"`seeds\[1\]` is 'a'"):
        parameters({**GOOD, "seeds": [0, "a"]}, Parameters)


def test_a_misspelt_name_is_refused_with_a_guess():
    with pytest.raises(ParameterError, match="`learning_rat` .*did you mean `learning_rate`"):
        parameters({**GOOD, "learning_rat": 1.0}, Parameters)


def test_a_parameter_in_capitals_is_not_taken_for_a_constant():
    with pytest.raises(ParameterError, match="`STEPS` .*did you mean `steps`"):
        parameters({**GOOD, "STEPS": 9}, Parameters)


def test_a_parameter_that_the_cell_does_not_assign_is_missing():
    with pytest.raises(ParameterError, match="`steps` is missing"):
        parameters({k: v for k, v in GOOD.items() if k != "steps"}, Parameters)


def test_all_problems_are_told_at_once():
    with pytest.raises(ParameterError) as caught:
        parameters({**GOOD, "step": 1, "steps": "8", "fresh": "no"}, Parameters)
    assert all(f"`{name}`" in str(caught.value) for name in ("step", "steps", "fresh"))


def test_a_rule_over_two_parameters_is_told_in_its_own_words():
    from pydantic import model_validator

    class Ruled(Parameters):
        @model_validator(mode="after")
        def rule(self):
            raise ValueError("steps must exceed seeds")

    with pytest.raises(ParameterError, match="^steps must exceed seeds$"):
        parameters(dict(GOOD), Ruled)


def test_run_again_by_hand_the_cell_ignores_what_later_cells_assigned():
    namespace = dict(GOOD)
    parameters(namespace, Parameters)
    namespace |= {"total": 3, "steps": 9}
    assert parameters(namespace, Parameters).steps == 9
    namespace["steps"] = "9"
    with pytest.raises(ParameterError, match="`steps`"):
        parameters(namespace, Parameters)


def test_a_failed_check_does_not_count_as_the_first():
    namespace = {**GOOD, "step": 3}
    for _ in range(2):
        with pytest.raises(ParameterError, match="`step` is no parameter"):
            parameters(namespace, Parameters)


DEFAULTS, INJECTED, ASKS = (
    "seed: int = 0\nsteps: int = 8",
    "# Parameters\nsteps = 5\n",
    "parameters()",
)


@pytest.mark.parametrize(
    ("ran", "lost"),
    [
        ([DEFAULTS, ASKS], False),  # nothing was given
        ([DEFAULTS, INJECTED, ASKS], False),  # papermill's place behind a tagged cell
        ([INJECTED, DEFAULTS, ASKS], True),  # its place where no cell is tagged
        ([INJECTED, "import os", DEFAULTS, ASKS], True),
        ([INJECTED, "seed = 1", ASKS], False),  # another name
    ],
)
def test_a_given_value_that_the_defaults_overwrite_is_named(ran, lost):
    """`In` holds the cells that ran, an empty one first and the asking one last."""
    namespace = {**GOOD, "In": ["", *ran]}
    if lost:
        with pytest.raises(ParameterError, match="^`steps`: the given value was overwritten"):
            parameters(namespace, Parameters)
    else:
        parameters(namespace, Parameters)
        namespace["In"] += ["steps = 9", ASKS]  # in a live notebook whoever reads may change them
        parameters(namespace, Parameters)


def test_papermill_puts_values_before_all_cells_where_none_is_tagged(tmp_path):
    """Which is how a tag that was lost shows: a kernel runs such a notebook to the error."""
    ask = (
        "from pydantic import BaseModel\nfrom bondlab.report.notebook import parameters\n"
        "class Model(BaseModel):\n    steps: int\nprint(parameters(globals(), Model))"
    )
    book = write(tmp_path, "steps: int = 8", ask, tagged=0)
    with pytest.raises(papermill.PapermillExecutionError, match="`steps`: the given value"):
        papermill.execute_notebook(
            book, None, {"steps": 5}, kernel_name="python3", language="python", progress_bar=False
        )


def test_ipython_prints_the_message_without_frames():
    assert ParameterError("`a` is b")._render_traceback_() == ["ParameterError: `a` is b"]


def test_check_reads_the_cell_and_merges_what_is_given(tmp_path):
    book = write(tmp_path, CELL, "raise SystemExit")
    expected = {"profile": "laptop", "learning_rate": 1e-4, "steps": 8, "seeds": [0, 1]}
    assert check(book, {"profile": "laptop"}) == {**expected, "limit": None}
    assert check(book, {"limit": 3})["limit"] == 3


@pytest.mark.parametrize("given", [{"step": 3}, {"steps": "3"}, {"limit": "3"}, {"seeds": [0.5]}])
def test_check_refuses_before_there_is_a_kernel(tmp_path, given):
    with pytest.raises(ParameterError, match=f"`{next(iter(given))}"):
        check(write(tmp_path, CELL), given)


@pytest.mark.parametrize(
    "line", ["steps = 8", "steps: int", "steps: Steps = 8", "steps: int = f()", "import os"]
)
def test_a_cell_that_papermill_could_not_fill_is_refused(tmp_path, line):
    with pytest.raises(ParameterError, match="is no parameter; write `name: type = value`"):
        declared(write(tmp_path, line))


@pytest.mark.parametrize("tagged", [0, 2])
def test_exactly_one_cell_is_tagged(tmp_path, tagged):
    with pytest.raises(ParameterError, match=f"{tagged} cells are tagged"):
        declared(write(tmp_path, CELL, CELL, tagged=tagged))


def test_a_table_prints_rounded_and_without_signed_zero(capsys):
    show(pd.DataFrame({"rule": ["a", "b"], "value": [-1e-9, np.nan], "n": [1, 2]}), decimals=2)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["rule", "value", "n"], ["a", "0.00", "1"], ["b", "-", "2"]]


def test_a_named_index_is_printed(capsys):
    show(pd.DataFrame({"value": [0.25]}, index=pd.Index(["a"], name="rule")), decimals=1)
    assert capsys.readouterr().out.split() == ["value", "rule", "a", "0.2"]
