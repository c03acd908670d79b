"""Parameters are checked by name and by type before any work, and tables print alike everywhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
from pydantic import BaseModel, Field, model_validator

from bondlab.report.notebook import ParameterError, check, declared, parameters, show
from bondlab.report.shown import Shown


class Parameters(BaseModel):
    model: str
    learning_rate: float = Field(gt=0)
    steps: int
    seeds: list[int]
    fresh: bool

    @model_validator(mode="after")
    def rule(self):
        if self.steps < len(self.seeds):
            raise ValueError("steps must exceed seeds")
        return self


GOOD = {"model": "tiny", "learning_rate": 1e-4, "steps": 8, "seeds": [0, 1], "fresh": False}
CELL = 'model: str = "tiny"  # help\nrate: float = 1e-4\nseeds: list[int] = [0]\nn: int | None = 2'
ASKS = "parameters(globals(), Parameters)"


def given(cell: str, *others: str, **values: object) -> dict:
    """The globals of a notebook whose cells ran up to the one that asks; papermill's is `cell`."""
    return {**GOOD, **values, "In": ["", "steps: int = 8", "# Parameters\n" + cell, *others, ASKS]}


def write(folder: Path, *cells: str, tagged: int = 1) -> Path:
    """A notebook whose first `tagged` cells carry the tag."""
    tags = [{"tags": ["parameters"]}] * tagged + [{}] * len(cells)
    made = [nbformat.v4.new_code_cell(cell, metadata=tags[i]) for i, cell in enumerate(cells)]
    nbformat.write(nbformat.v4.new_notebook(cells=made), folder / "book.ipynb")
    return folder / "book.ipynb"


def test_a_full_set_passes_whatever_else_the_notebook_holds():
    """What a cell but papermill's assigns is no parameter, before the check and after it."""
    namespace = given("steps = 9\n", "NAME = 'x'", "%time y = 1", steps=9, pd=pd, NAME="x", y=1)
    assert parameters(namespace, Parameters).model_dump() == GOOD | {"steps": 9}
    namespace["In"] += ["steps = 10", ASKS]  # whoever reads a live notebook may change them
    assert parameters(namespace | {"steps": 10}, Parameters).steps == 10
    assert parameters(GOOD | {"learning_rate": 1}, Parameters).learning_rate == 1.0


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("learning_rate", "1e-4", "write 1.0e-4"),
        ("learning_rate", True, "valid number"),
        ("learning_rate", -1.0, "greater than 0"),
        ("steps", "8", "valid integer"),
        ("steps", 8.0, "valid integer"),
        ("steps", True, "valid integer"),
        ("steps", None, "valid integer"),
        ("seeds", "[0, 1]", "-y 'seeds: [...]'"),
        ("fresh", "true", "-p fresh True"),
        ("fresh", 1, "-p fresh True"),
        ("model", 12, "-r model 12"),
    ],
)
def test_an_ill_typed_value_is_named_with_its_value_and_a_remedy(name, value, says):
    with pytest.raises(ParameterError, match=re.escape(f"`{name}` is {value!r}")) as caught:
        parameters({**GOOD, name: value}, Parameters)
    assert says in str(caught.value)


def test_all_problems_are_told_at_once():
    """An unknown name in either case, a missing one, an ill-typed value and item; no more."""
    namespace = given("step = 1\nSTEPS = 2\n", step=1, STEPS=2, seeds=[0, "a"], fresh="no")
    del namespace["model"]
    with pytest.raises(ParameterError) as caught:
        parameters(namespace, Parameters)
    problems = [re.match(r"\s*`(.*?)` is (\S+)", line) for line in str(caught.value).splitlines()]
    typed = {("seeds[1]", "'a'"), ("fresh", "'no'")}
    named = {("step", "no"), ("STEPS", "no"), ("model", "missing")}
    assert {match.groups() for match in problems} == typed | named
    assert "has model, learning_rate, steps, seeds, fresh" in str(caught.value)


def test_a_rule_over_two_parameters_is_told_in_its_own_words():
    with pytest.raises(ParameterError, match="^steps must exceed seeds$"):
        parameters(GOOD | {"steps": 1}, Parameters)


def test_a_given_value_that_the_defaults_overwrite_is_named():
    """papermill puts its cell before all others where none is tagged."""
    ran = ["", "# Parameters\nsteps = 5\n", "x = steps == 3\nif 1:\n    steps = 2", ASKS]
    assert parameters(GOOD | {"In": ran}, Parameters).steps == 8
    ran.insert(2, "steps: int = 8")
    with pytest.raises(ParameterError, match="^`steps`: the given value was overwritten"):
        parameters(GOOD | {"In": ran}, Parameters)


def test_a_kernel_stops_at_the_lost_tag_with_the_message_alone(tmp_path):
    ask = (
        "from pydantic import BaseModel\nfrom bondlab.report.notebook import parameters\n"
        "class Model(BaseModel):\n    steps: int\nprint(parameters(globals(), Model))"
    )
    book = write(tmp_path, "steps: int = 8", ask, tagged=0)
    with pytest.raises(papermill.PapermillExecutionError, match="`steps`: the given") as caught:
        papermill.execute_notebook(
            book, None, {"steps": 5}, kernel_name="python3", language="python", progress_bar=False
        )
    assert len(caught.value.traceback) == 1 and caught.value.ename == "ParameterError"


def test_check_reads_the_cell_and_merges_what_is_given(tmp_path):
    """And refuses what the notebook would, before there is a kernel."""
    book = write(tmp_path, CELL, "raise SystemExit")
    expected = {"model": "tiny", "rate": 1e-3, "seeds": [0], "n": None}
    assert check(book, {"rate": 1e-3, "n": None}) == expected
    for wrong in ({"step": 3}, {"rate": "3"}, {"n": "3"}, {"seeds": [0.5]}):
        with pytest.raises(ParameterError, match=f"^book.ipynb: `{next(iter(wrong))}"):
            check(book, wrong)


@pytest.mark.parametrize(
    ("cells", "tagged", "says"),
    [
        (["steps = 8"], 1, "`steps` is no parameter; write `name: type = value`"),
        (["steps: int"], 1, "`steps` is no parameter"),
        (["import os"], 1, "`os` is no parameter"),
        (["steps: int = f()"], 1, "its parameters cell fails: NameError"),
        ([CELL], 0, "0 cells are tagged"),
        ([CELL, CELL], 2, "2 cells are tagged"),
    ],
)
def test_a_cell_that_papermill_could_not_fill_is_refused(tmp_path, cells, tagged, says):
    with pytest.raises(ParameterError, match=says):
        declared(write(tmp_path, *cells, tagged=tagged))


def test_a_table_is_shown_with_words_and_three_digits(capsys):
    """Outside a notebook as text: three digits and at most three decimals, more where all of a
    column are small; no sign of zero; units."""
    show(pd.DataFrame({"rule": ["a", "b"], "kl": [-1e-9, np.nan], "n": [1, 2]}), decimals=2)
    numbers = {"value": [0.00025, 62.123], "small": [0.00025, -0.001]}
    show(pd.DataFrame(numbers, index=pd.Index(["a", "b"], name="rule")))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["rule", "KL", "to", "reference", "(nats)", "n"]
    assert lines[1:3] == [["a", "0.00", "1"], ["b", "-", "2"]]
    assert lines[3:5] == [["value", "small"], ["rule"]]
    assert lines[5:] == [["a", "0.000", "0.00025"], ["b", "62.1", "-0.00100"]]


def test_low_and_high_are_shown_as_an_interval_behind_their_number():
    """A missing end leaves the number alone, and so do ends that round to it; what stands on the
    other side stays."""
    ends = {"low": [0.1, np.nan, -2e-7], "high": [0.3, np.nan, -1e-7]}
    means = {"what": ["a", "b", "c"], "mean": [0.2, 0.5, -1.5e-7]}
    shown = Shown(pd.DataFrame({**means, **ends, "count": [3, 1, 2]}))
    assert list(shown.cells) == ["what", "mean", "count"]
    assert shown.cells["mean"].tolist() == ["0.200 [0.100, 0.300]", "0.500", "0.000"]
    assert shown.cells["count"].tolist() == ["3", "1", "2"]


def test_a_table_of_html_groups_lines_escapes_text_and_colours_verdicts():
    """A label that repeats the line above is left out, unless one before it changed; what reads
    like HTML is text."""
    table = pd.DataFrame({
        "row": ["N = 4", "N = 4", "N = 8"], "verdict": ["open", "repeated", "repeated"],
        "measure": ["backward_kl", "<b>", "x"],
    })  # fmt: skip
    shown = Shown(table)
    assert shown.cells["row"].tolist() == ["N = 4", "", "N = 8"]
    assert shown.cells["verdict"].tolist() == ["open", "repeated", "repeated"]
    html = shown._repr_html_()
    assert html.count("background:") == 2 and "&lt;b&gt;" in html
    assert "backward KL (nats)" in html


def test_intervals_never_wrap_and_columns_of_words_begin_on_the_left():
    """A column with one word in it is one of words, and so is its head; a long text wraps."""
    table = pd.DataFrame({
        "what": ["long " * 20, "ours-1"],
        "value": ["0.1 [-0.2, 0.3]", "-"],
        "n": ["0", "at least 3"],
    })  # fmt: skip
    html = Shown(table)._repr_html_()
    left, fixed = "text-align:left", "white-space:nowrap"
    assert re.findall('<th(?: style="(.*?)")?>', html) == [left, "", left]
    looks = re.findall('<td(?: style="(.*?)")?>', html)
    top = "vertical-align:top"
    assert looks[0].startswith(f"{left}; {top}; white-space:normal")
    words = f"{left}; {top}"
    assert looks[1:] == [f"{top}; {fixed}", words, f"{words}; {fixed}", top, f"{words}; {fixed}"]
    assert top not in Shown(table.assign(what="short"))._repr_html_()


def test_a_notebook_that_asks_and_shows_loads_no_papermill():
    code = "import sys; from bondlab.report.notebook import parameters, show; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"papermill", "nbformat", "torch"} & set(run.stdout.split())
