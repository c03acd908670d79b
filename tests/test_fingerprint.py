"""Values are named by what they compute: equal in every process, another after what counts."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import os
import re
import runpy
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import cloudpickle
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, pipeline

from bondlab import rules
from bondlab.naming.fingerprint import Unnamed, label, of
from bondlab.tasks import tiny


def module_of(folder: Path, monkeypatch, name: str, text: str):
    """A module of a file in the folder, imported afresh."""
    (folder / f"{name}.py").write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # another text in the same second
    sys.modules.pop(name, None)
    importlib.invalidate_caches()
    return importlib.import_module(name)


def made(text: str, name: str = "f"):
    """What a program without a file defines."""
    space: dict = {}
    exec(textwrap.dedent(text), space)
    return space[name]


# -- code -----------------------------------------------------------------------------------------

PROGRAM = """
    import helpers
    from helpers import limit as most
    WORDS = ["rain"]
    def pick(text, least=1):
        return [word for word in text.split() if word in WORDS][:most(least)]
    def reward(prompts, completions):
        return [[helpers.worth(pick(text)) for text in row] for row in completions]
"""
HELPERS = """
    def worth(words):
        from tables import VALUE
        return VALUE * len(words)
    def limit(least):
        return max(least, 3)
    def unused():
        return 0
"""


def program(tmp_path, monkeypatch, changed=("", ""), where: str = "program") -> str:
    """The name of `program.reward` in three files, one of which was edited."""
    files = {"tables": "VALUE = 1\n", "helpers": HELPERS, "program": PROGRAM}
    if changed[0]:
        assert changed[0] in files[where]
        files[where] = files[where].replace(*changed)
    for name, text in files.items():
        module = module_of(tmp_path, monkeypatch, name, text)
    return of(module.reward)


@pytest.mark.parametrize(
    ("where", "before", "after", "counts"),
    [
        ("program", "in WORDS]", "not in WORDS]", True),
        ("program", '["rain"]', '["fire"]', True),
        ("program", "least=1", "least=2", True),
        ("helpers", "* len(words)", "+ len(words)", True),
        ("helpers", "max(least, 3)", "max(least, 4)", True),
        ("tables", "VALUE = 1", "VALUE = 2", True),
        ("program", "least=1):", 'least=1):\n        "Doc."  # note', False),
        ("program", "    WORDS", "\n\n    # moved\n    WORDS", False),
        ("program", "word for word in text.split()", "word for word   in text.split( )", False),
        ("helpers", "return 0", "return 1", False),
    ],
)
def test_an_edit_of_what_runs_is_another_name(where, before, after, counts, tmp_path, monkeypatch):
    """The function itself, a global, a default, a helper of another file whether imported by name
    or looked up, and the constant of a third that the helper imports when it is called. Comments,
    docstrings, layout, lines above, and a function that is not used leave the name."""
    first = program(tmp_path, monkeypatch)
    assert first == program(tmp_path, monkeypatch)
    assert (program(tmp_path, monkeypatch, (before, after), where) != first) == counts


def test_what_runs_counts_not_what_the_file_says_now(tmp_path, monkeypatch):
    """A file edited since it was imported: the old code keeps its name until it is loaded anew."""
    old = "def reward(p, c):\n    return [1]\n"
    running = module_of(tmp_path, monkeypatch, "edited", old).reward
    first = of(running)
    (tmp_path / "edited.py").write_text(old.replace("[1]", "[22]"))
    assert of(running) == first
    reloaded = module_of(tmp_path, monkeypatch, "edited", old.replace("[1]", "[22]")).reward
    assert of(reloaded) != first


def test_code_without_a_file_is_named_too():
    """The same text is the same name, another constant, operation or nested function another."""
    texts = [
        "f = lambda p: [len(t) for t in p]",
        "f = lambda p: [2 * len(t) for t in p]",
        "f = lambda p: [3 * len(t) for t in p]",
        "f = lambda p: [len(t) ** 2 for t in p]",
        "def f(p):\n    def inner(t):\n        return 5\n    return inner(p)",
        "def f(p):\n    def inner(t):\n        return 6\n    return inner(p)",
        "def f(p):\n    try:\n        return p[0]\n    except KeyError:\n        return 0",
        "def f(p):\n    try:\n        return p[0]\n    except IndexError:\n        return 0",
    ]
    names = [of(made(text)) for text in texts]
    assert len(set(names)) == len(names)
    assert names == [of(made(text)) for text in texts]


class Plain:
    def __init__(self, x):
        self.x = x

    def __call__(self, p):
        return self.x


class Slotted:
    __slots__ = ("x",)

    def __init__(self, x):
        self.x = x


@dataclasses.dataclass(frozen=True)
class Record:
    x: int


def closure(x):
    return lambda p: x


def attribute(x):
    function = closure(0)
    function.x = x
    return function


def test_closures_arguments_and_attributes_count():
    """Everything that a function or object carries: one value changed is another name."""
    makers = [
        closure,
        Plain,
        Slotted,
        Record,
        attribute,
        lambda x: Plain(x).__call__,
        lambda x: functools.partial(closure, x),
        lambda x: functools.partial(closure, x=x),
        lambda x: functools.lru_cache(closure(x)),
        lambda x: torch.no_grad()(closure(x)),
        lambda x: torch.compile(closure(x)),
        lambda x: [(Plain(x),)],
        lambda x: {"k": {x}},
        lambda x: {x: "k"},
    ]
    names = [[of(make(1)), of(make(1)), of(make(2))] for make in makers]
    assert all(first == again != other for first, again, other in names)
    assert len({first for first, _, _ in names}) == len(makers)


def test_what_a_class_is_called_by_counts_whatever_it_is():
    class Scale:
        def __init__(self, by: float) -> None:
            self.by = by

        def __call__(self, *given) -> float:
            return self.by

    kinds = [type("Reward", (), {"__call__": Scale(by)}) for by in (1.0, 2.0, 1.0)]
    first, other, again = (of(kind()) for kind in kinds)
    assert first == again != other


def test_methods_count_inherited_ones_too():
    """A changed method of a base class is another object, an edited property as well."""
    text = """
        class Base:
            def score(self): return {}
        class f(Base):
            @property
            def twice(self): return {} * self.score()
            def __call__(self, p): return self.twice
    """
    names = [of(made(text.format(*x))()) for x in ((1, 2), (1, 2), (7, 2), (1, 3))]
    assert names[0] == names[1] and len(set(names)) == 3


class Lazy:
    @functools.cached_property
    def table(self):
        return [1, 2, 3]

    def __call__(self, p):
        return self.table


COUNTED = """
    calls = 0
    def counted(p):
        global calls
        calls += 1
    def outer():
        seen = 0
        def inner(p):
            nonlocal seen
            seen += 1
        return inner
"""


@pytest.mark.parametrize("make", [lambda: made(COUNTED, "counted"), made(COUNTED, "outer"), Lazy])
def test_what_code_keeps_for_itself_is_no_setting(make):
    """A global or outer variable that the function counts in, and a property kept once it was
    asked for: the name is the same before and after the calls."""
    reward = make()
    before = of(reward)
    reward("")
    assert of(reward) == before


def test_recursion_ends():
    """A function that calls itself, two that call each other, a list that holds itself."""
    alone = "def f(n):\n    return f(n - {})"
    pair = "def f(n):\n    return g(n)\ndef g(n):\n    return f(n - {})"
    for text in (alone, pair):
        assert of(made(text.format(1))) == of(made(text.format(1))) != of(made(text.format(2)))
    loop: list = [1]
    loop.append(loop)
    assert of(loop) != of([1, [1]])


# -- values ---------------------------------------------------------------------------------------


def test_plain_values_differ_where_they_differ():
    """By type as well as by value; sets have no order, lists and dictionaries do."""
    values = [
        None, True, 1, 1.0, 1j, "1", b"1", [1], (1,), {1}, frozenset({1}), {1: 1}, [[1], 2],
        [1, [2]], -0.0, 0.0, float("nan"), [1, 2], [2, 1], {"a": 1, "b": 2}, {"b": 2, "a": 1}, ...,
        Path("a"), Path("b"), re.compile("a"), re.compile("b"), "a".count, "b".count,
        np.float32(1), np.random.default_rng(0), np.random.default_rng(1),
    ]  # fmt: skip
    names = [of(value) for value in values]
    assert len(set(names)) == len(values)
    assert of({"c", "a", "b"}) == of({"a", "b", "c"})
    words = {"b": 1, "a": 2}
    assert of(words.keys()) == of({"b": 3, "a": 4}.keys()) != of(words.values())


def test_tensors_and_tables_count_by_type_shape_and_content():
    """Each changed entry, type and shape is another name, and a copy is not; numbers alone (no
    dimension) and empty ones too."""
    values = [
        torch.zeros(2, 3), torch.zeros(3, 2), torch.zeros(2, 3).bfloat16(), torch.zeros(()),
        torch.ones(()), torch.zeros(0), torch.eye(2), torch.eye(2).to_sparse(),
        torch.tensor(True), np.zeros((2, 3)), np.zeros((3, 2)), np.zeros(()), np.ones(()),
        np.add, np.multiply, np.array(["a"]), np.array(["b"], dtype=object),
        np.array(["2020-01-01"], "M8[D]"),
        pd.DataFrame({"a": [1, 2]}), pd.DataFrame({"b": [1, 2]}), pd.DataFrame({"a": [1.0, 2]}),
        pd.Series([1, 2]), pd.Series([1, 3]), pd.Series([1, 2], index=[1, 0]), pd.Index([1, 2]),
    ]  # fmt: skip
    names = [of(value) for value in values]
    assert len(set(names)) == len(values)
    wide = torch.arange(6.0).view(2, 3)
    assert of(wide.T) == of(wide.T.contiguous()) != of(wide)
    assert of(np.arange(6)[::2]) == of(np.array([0, 2, 4]))


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (threading.Lock, "a lock"),
        (lambda: open(os.devnull), "a TextIOWrapper"),  # noqa: SIM115
        (lambda: (x for x in ()), "a generator"),
        (lambda: torch.zeros(2, device="meta"), "a tensor without values"),
    ],
)
def test_what_has_no_name_is_refused_with_the_way_to_it(make, path):
    """Deep inside an object, in a list, and behind a function: the path says where."""
    reward = Plain([Plain(make())])
    with pytest.raises(Unnamed, match=rf"^reward\.x\[0\]\.x cannot be .* {path}"):
        of(reward, "reward")
    with pytest.raises(Unnamed, match=r"^reward\.reward\.x\[0\]\.x"):
        of(lambda: reward, "reward")


def test_a_helper_that_is_still_to_come_has_no_name():
    """It is defined before the first call, but nobody knows as what."""
    with pytest.raises(Unnamed, match="reward cannot be named: .* helper, which is not defined"):
        of(made("def f(p):\n    return helper(p)"), "reward")


# -- models ---------------------------------------------------------------------------------------


class Scorer(nn.Module):
    def __init__(self, slope: float = 0.1) -> None:
        super().__init__()
        self.layer, self.slope = nn.Linear(2, 1), slope
        nn.init.ones_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)
        self.register_buffer("scale", torch.ones(()), persistent=False)


def test_modules_count_by_weights_buffers_and_attributes():
    """A weight, a buffer that is not saved and a plain attribute; how it is used does not."""

    def changed(change=lambda scorer: None) -> str:
        scorer = Scorer()
        change(scorer)
        return of(scorer)

    assert changed() == changed(lambda s: s.train().requires_grad_(False))
    assert changed() == changed(lambda s: s.layer.register_forward_hook(print))
    others = [
        lambda s: s.layer.bias.data.fill_(1e-6),
        lambda s: s.scale.fill_(2),
        lambda s: setattr(s, "slope", 0.2),
        lambda s: setattr(s.layer, "in_features", 3),
        lambda s: s.double(),
    ]
    assert len({changed(), *map(changed, others)}) == 1 + len(others)


def test_a_pipeline_of_transformers_has_a_name():
    """A common way to write a reward: another weight is another name, using it is none."""
    config = BertConfig(
        vocab_size=len(tiny.tokenizer()), hidden_size=8, num_hidden_layers=1, num_labels=1,
        num_attention_heads=1, intermediate_size=8,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    scorer = pipeline("text-classification", model=model, tokenizer=tiny.tokenizer())

    def reward(prompts, completions):
        return [[answer["score"] for answer in scorer(texts)] for texts in completions]

    first = of(reward)
    reward(["rain"], [["a dog", "fire"]])
    assert of(reward) == first
    model.classifier.bias.data.add_(1)
    assert of(reward) != first


@pytest.mark.parametrize("make", [tiny.t5, tiny.gemma])
def test_what_samples_depend_on_names_a_policy(make):
    """Each is another distribution over texts; where a model was loaded from and how its attention
    is computed is none, nor what a call of its tokenizer left behind."""

    def changed(change=lambda model, tokenizer: None, **settings) -> str:
        model, tokenizer = make(), tiny.tokenizer()
        change(model, tokenizer)
        settings = {"max_new_tokens": 8} | settings
        return of(tiny.LanguageModel(model, tokenizer, **settings))

    same = [
        lambda m, t: setattr(m.config, "_name_or_path", "elsewhere"),
        lambda m, t: setattr(m.config, "architectures", ["Kind"]),
        lambda m, t: m.requires_grad_(False).train(),
        lambda m, t: t(["rain", "a dog"], truncation=True, max_length=1, padding=True),
    ]
    others = [
        lambda m, t: next(m.parameters()).data[0, 0].add_(1e-3),
        lambda m, t: m.to(torch.bfloat16),
        lambda m, t: setattr(m.generation_config, "eos_token_id", [1, 2]),
        lambda m, t: setattr(m.config, "final_logit_softcapping", 0.5),
        lambda m, t: setattr(m.config, "decoder_start_token_id", 5),
        lambda m, t: m.register_buffer("scales", torch.ones(1)),
        lambda m, t: t.add_tokens(["brandnew"]),
        lambda m, t: setattr(t, "pad_token", "rain"),
    ]
    settings = [
        {"template": "read {prompt}"}, {"template": lambda text: f"read {text}"},
        {"template": lambda text: f"tell {text}"}, {"max_new_tokens": 9},
        {"max_prompt_tokens": 9}, {"temperature": 0.5},
    ]  # fmt: skip
    assert {changed(c) for c in same} == {changed()}
    names = [changed()] + [changed(c) for c in others] + [changed(**s) for s in settings]
    assert len(set(names)) == len(names)


# -- between processes ----------------------------------------------------------------------------

SCRIPT = """
    import functools, torch
    from bondlab import Task, bond, tiny
    WORDS = {"rain", "fire", "law", "port", "sea"}
    def worth(text, factor): return factor * sum(word in WORDS for word in text.split())
    class Reward:
        def __init__(self): self.part = functools.partial(worth, factor=2)
        def __call__(self, p, c): return [[self.part(t) for t in row] for row in c]
    template = lambda text: f"read {text}"
    model = tiny.LanguageModel(tiny.t5(), tiny.tokenizer(), template=template)
    task = Task(model, Reward(), ["rain"], ["fire"])
    print(task.identity, bond(4, 0.5).identity)
"""


def test_every_process_gives_the_same_name(tmp_path, capsys):
    """Two processes whose sets have another order and whose objects other addresses."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    seed = str(int(os.environ.get("PYTHONHASHSEED", "random") == "1") + 1)
    environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(script)]
    other = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    space = runpy.run_path(str(script), run_name="__main__")
    capsys.readouterr()
    here = f"{space['task'].identity} {space['bond'](4, 0.5).identity}"
    assert other.stdout.strip() == here and "jeffreys@" in here
    assert label(functools.partial(rules.jeffreys, n=2)).startswith("jeffreys@")
    assert label(Scorer()).startswith("Scorer@")


def test_a_worker_gives_the_same_name():
    """Functions of a program or notebook reach a sweep's workers as copies of their code, with only
    the globals that they use: a run must not get another name there."""

    def rule(scores, factor=2):
        "Doc."
        return factor * len(WORDS)

    for value in (rule, lambda scores: rule(scores), functools.partial(rule, factor=3)):
        assert of(cloudpickle.loads(cloudpickle.dumps(value))) == of(value)


WORDS = {"rain", "fire"}


@pytest.mark.parametrize(("beside", "count"), [("notes", 2), ("other.dist-info", 1)])
def test_where_pip_installs_is_a_library(beside, count, tmp_path, monkeypatch):
    """As with `pip install --target`: beside its metadata code counts by name, wherever that is;
    a folder of one's own, with the same code, by what it says."""
    (tmp_path / beside).mkdir()
    texts = ("def worth(n):\n    return 2 * n\n", "def worth(n):\n    return 3 * n\n")
    modules = [module_of(tmp_path, monkeypatch, f"worth_{count}", text) for text in texts]
    assert len({of(module.worth) for module in modules}) == count


def test_a_tensors_type_and_a_keywords_default_count():
    kinds = (torch.bfloat16, torch.float16, torch.float32, torch.int32)
    assert len({of(torch.zeros(2, 3, dtype=kind)) for kind in kinds}) == 4
    texts = [f"def f(scores, *, beta={x}):\n    return beta" for x in (0.5, 0.7)]
    assert of(made(texts[0])) != of(made(texts[1]))


@pytest.mark.parametrize(
    "body",
    [
        "import owned.settings\ndef reward(p, c):\n    return owned.settings.TARGET",
        "def reward(p, c):\n    import owned.settings as own\n    return own.TARGET",
        "def reward(p, c):\n    from owned.settings import TARGET\n    return TARGET",
    ],
)
def test_settings_in_a_users_module_count_however_they_are_reached(body, tmp_path, monkeypatch):
    """As they are now, not as the module's file has them; another setting of it does not."""
    folder = tmp_path / "owned"
    folder.mkdir()
    for name in [name for name in sys.modules if name.startswith("owned")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    (folder / "__init__.py").write_text("")
    (folder / "settings.py").write_text("TARGET = 5\nOTHER = 1\n")
    settings = importlib.import_module("owned.settings")
    reward = made(body, "reward")
    before = of(reward)
    settings.OTHER = 2
    assert of(reward) == before
    settings.TARGET = 1
    assert of(reward) != before


def test_a_global_that_a_classs_body_reads_counts():
    text = "W = {}\ndef f(p):\n    class A:\n        x = W\n    return A.x"
    assert of(made(text.format(1), "f")) != of(made(text.format(2), "f"))
