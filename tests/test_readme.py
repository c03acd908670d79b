"""The README's program runs as printed, its links exist, and the tests' own table is complete."""

from __future__ import annotations

import re

import pytest
from transformers import AutoModelForSeq2SeqLM

from bondlab.paths import repository_root
from bondlab.tasks import tiny

TEXT = (repository_root() / "README.md").read_text(encoding="utf-8")
TESTS = repository_root() / "tests"


def test_the_program_trains_a_model_that_loads_again(tmp_path, monkeypatch):
    """With a tiny T5 in place of the hub's, and two steps in place of two hundred."""
    tiny.t5().save_pretrained(tmp_path / "tiny")
    tiny.tokenizer().save_pretrained(tmp_path / "tiny")
    (program,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    for printed, used in (("google/flan-t5-small", "tiny"), ("steps=200", "steps=2")):
        assert printed in program
        program = program.replace(printed, used)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BONDLAB_RUNS", str(tmp_path / "runs"))
    texts = tiny.documents(12)
    namespace = {"train_prompts": texts[:8], "eval_prompts": texts[8:]}
    exec(program, namespace)
    assert namespace["run"].table["step"].tolist() == [1, 2]
    AutoModelForSeq2SeqLM.from_pretrained("my-policy")


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!http)([^)#]+)", TEXT))))
def test_a_linked_file_exists(link):
    assert (repository_root() / link).exists()


def test_its_table_has_every_notebook():
    listed = re.findall(r"^\| \[(\w+)\]\(notebooks/", TEXT, re.MULTILINE)
    assert listed == sorted(path.stem for path in (repository_root() / "notebooks").glob("*.ipynb"))


def test_the_table_of_tests_names_every_file_once():
    """A file of tests that the table leaves out is proof of nothing to its reader."""
    table = (TESTS / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+\.py)`", table)
    assert sorted(named) == sorted(path.name for path in TESTS.glob("test_*.py"))
