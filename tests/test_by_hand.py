"""What notebooks show of one prompt: the rule's own numbers, on draws that can be made again."""

from __future__ import annotations

import pytest

from bondlab import rules
from bondlab.bank import seeded
from bondlab.quantiles import empirical
from bondlab.study import by_hand, prompts
from bondlab.study.cooling import cooled
from bondlab.tasks import TaskSettings, build, tiny


@pytest.fixture
def drawn(monkeypatch):
    """The table for two made-up prompts and a tiny model."""
    monkeypatch.setitem(prompts.PROMPTS, "tiny_causal", tuple(tiny.documents(2)))
    return prompts.drawn("tiny_causal")


def test_the_committed_draws_are_of_these_prompts_and_columns(drawn):
    shipped = prompts.shipped()
    assert list(shipped) == list(drawn)
    sizes = shipped.groupby(["task", "prompt", "drawn_by"]).size()
    assert len(sizes) == 3 * len(prompts.NEWS + prompts.REVIEWS)
    assert set(sizes) == {prompts.DRAWS}


def test_log_probabilities_are_those_of_the_two_temperatures(drawn):
    made = build(TaskSettings(name="tiny_causal", train=1, evaluate=1), prompts.PRECISION)
    encoded = made.model.encode(list(prompts.PROMPTS["tiny_causal"]))
    for name, temperature in ((prompts.REFERENCE, 1.0), (prompts.POLICY, 0.95)):
        model = cooled(made.model, temperature)
        again = model.sample(encoded, prompts.DRAWS, seeded(prompts.SEED, name))
        own = drawn[drawn["drawn_by"] == name].sort_values(["prompt", "sample"])
        assert own["text"].tolist() == sum(model.decode(again), [])
        assert own[f"log_pi_{name}"].tolist() == pytest.approx(
            again.log_prob.flatten().tolist(), 1e-4
        )


def test_a_prompt_worked_by_hand_is_the_rules_arithmetic():
    reference = by_hand.draws("xsum", 0, prompts.REFERENCE)
    best_of, behind = reference[:8], reference[8:]
    own = by_hand.draws("xsum", 0, prompts.POLICY)[:2]
    quantile = empirical(own.reward, behind.reward)
    scores = rules.Scores(best_of.reward, own.reward, quantile, own.log_ratio)
    weight = rules.jeffreys(scores, n=8, beta=0.5)
    shown = by_hand.table([best_of, own], {"quantile": quantile, "weight": weight})
    assert shown["weight"][:8].idxmax() == shown["reward (log-odds)"][:8].idxmax()
    assert shown["weight"][:8].sum() == 0.5 and shown["quantile"].isna().sum() == 8
    first, second = (7 * quantile.log() - own.log_ratio)[0].tolist()
    assert shown["weight"][8] == pytest.approx(0.5 * (first - second) / 2)


def test_examples_show_each_prompt_and_the_best_draw():
    for task, texts in prompts.PROMPTS.items():
        table = by_hand.examples(task)
        assert list(table["prompt"].unique()) == list(texts)
        best = table[table["drawn"].str.startswith("best")]["reward (p)"].to_numpy()
        assert (best >= table[table["drawn"] == "reference, one draw"]["reward (p)"]).all()


def test_source_is_shown_as_it_is_written(capsys):
    by_hand.source(rules.forward_kl)
    assert "return _joined(scores, anchors=_best(scores))" in capsys.readouterr().out
