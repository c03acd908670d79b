"""What notebooks show of one prompt: the rule's own numbers, on draws that can be made again."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from bondlab import rules
from bondlab.bank import seeded
from bondlab.quantiles import empirical
from bondlab.report.notebook import ParameterError
from bondlab.study import alignment, by_hand, j_bond, prompts, tuning
from bondlab.study.cooling import cooled
from bondlab.study.sweep import Spec
from bondlab.tasks import TaskSettings, build, tiny
from bondlab.training import train


@pytest.fixture
def drawn(monkeypatch):
    """The table for two made-up prompts and a tiny model."""
    monkeypatch.setitem(prompts.PROMPTS, "tiny_causal", tuple(tiny.documents(2)))
    return prompts.drawn("tiny_causal")


def test_the_committed_draws_are_of_these_prompts_and_columns(drawn):
    shipped = prompts.shipped()
    assert list(shipped) == list(drawn)
    sizes = shipped.groupby(["task", "prompt", "drawn_by"]).size()
    own = sizes.index.get_level_values("drawn_by").isin(prompts.TEMPERATURES)
    assert own.sum() == 3 * len(prompts.NEWS + prompts.REVIEWS + prompts.DIALOGUES)
    assert set(sizes) == {prompts.DRAWS}


def test_a_finished_run_writes_as_it_is_and_cooled(monkeypatch, runs):
    """Its last policy, not the reference: what it draws at 1 are the samples of `Run.policy`."""
    monkeypatch.setitem(prompts.PROMPTS, "tiny_causal", tuple(tiny.documents(2)))
    (spec,) = [
        s for s in alignment.specs(j_bond.runs, "", "smoke") if s.labels["series"] == j_bond.J_BOND
    ]
    policy = train(spec.build(), spec.algorithm, spec.config, runs / alignment.RUNS).policy
    table = prompts.trained(spec)
    assert list(table["drawn_by"].unique()) == [*prompts.writes(j_bond.J_BOND)]
    encoded = policy.encode(list(prompts.PROMPTS["tiny_causal"]))
    for name, temperature in prompts.writes(j_bond.J_BOND).items():
        seed = seeded(prompts.SEED, name)
        again = cooled(policy, temperature).sample(encoded, prompts.DRAWS, seed)
        assert table.query("drawn_by == @name")["text"].tolist() == sum(policy.decode(again), [])


def test_a_method_without_a_learning_rate_hides_no_finished_run(monkeypatch):
    def tuned(spec):
        if spec.labels["series"] != j_bond.J_BOND:
            raise ParameterError("no learning rate")
        return spec

    monkeypatch.setattr(tuning, "tuned", tuned)
    monkeypatch.setattr(Spec, "folder", lambda spec, parent: SimpleNamespace(finished=True))
    (own,) = prompts.finished()
    assert (own.labels["series"], own.labels["seed"]) == (j_bond.J_BOND, prompts.SEED)


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
        assert list(table["prompt"].unique()) == [text.replace("\n", " / ") for text in texts]
        reward = "reward (score)" if task == "chat" else "reward (p)"
        best = table[table["drawn"].str.startswith("best")][reward].to_numpy()
        assert (best >= table[table["drawn"] == "reference, one draw"][reward]).all()


def test_source_is_shown_as_it_is_written(capsys):
    by_hand.source(rules.forward_kl)
    assert "return _joined(scores, anchors=_best(scores))" in capsys.readouterr().out
