"""From evaluations to what notebooks show of them, against tables made by hand and tiny runs."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache
from itertools import product

import pandas as pd
import pytest
import torch

from bondlab import bank
from bondlab.bank import Bank
from bondlab.best_of_n import kl_bound
from bondlab.lm.completions import Completions
from bondlab.report.intervals import mean_interval, text
from bondlab.report.kept import Results
from bondlab.report.plots import Level, Mark, Panel
from bondlab.study import divergences, evidence, excerpts, items, iterative, report, tables
from bondlab.study.divergences import HELD_OUT, NEW, STORED
from bondlab.tasks import Task, tiny

# -- from evaluations to measures ------------------------------------------------------------------


@cache
def task() -> Task:
    texts = tiny.documents(4)
    model = tiny.language_model()
    return Task(model, tiny.reward, texts[:2], texts[2:], ["city river", "team goal"], {})


def test_every_measure_by_hand():
    """Quantiles 1/4, 1/2 and a KL of 1: mean log quantile is -log(8)/2, and with N = 3 the backward
    KL is 1 + 2 log(8)/2 - log 3, and the forward one, of a policy that is the reference, log 3 -
    2/3; entropy is 10.5 nats. "city" is one of the two words of the reference "city river": ROUGE-1
    of 1/2. Without the reference's samples there is no forward KL."""
    own = pd.DataFrame({"prompt": [1, 1, 0, 0], "sample": [1, 0, 1, 0]})  # in whatever order
    own = own.assign(source="policy", text="city 2", reward=own["prompt"] + own["sample"])
    own = own.assign(quantile=[0.5, 0.25] * 2, log_prob=-10.0 - own["sample"], kl=[0, 2, 2, 0])
    drawn = pd.DataFrame(product([0, 1], range(8)), columns=["prompt", "sample"])
    drawn = drawn.assign(source="reference", reward=drawn["sample"], log_prob=-9.0)
    table = pd.concat([own, drawn]).assign(tokens=5)
    table["reference_log_prob"] = table["log_prob"]
    steps = pd.concat([table.assign(step=0), table.assign(step=4)])
    found = tables.per_prompt(steps, 3, task())
    assert found[["step", "prompt"]].to_numpy().tolist() == [[0, 0], [0, 1], [4, 0], [4, 1]]
    found = found.query("step == 4")
    assert found["log_quantile"].tolist() == pytest.approx([-math.log(8) / 2] * 2)
    assert found["backward_kl"].tolist() == pytest.approx([1 + math.log(8) - math.log(3)] * 2)
    assert found["forward_kl"].tolist() == pytest.approx([math.log(3) - 2 / 3] * 2)
    columns = ["kl_to_reference", "entropy", "reward", "words", "tokens"]
    assert found[columns].to_numpy().tolist() == [[1, 10.5, 0.5, 2, 5], [1, 10.5, 1.5, 2, 5]]
    assert found["rouge1"].tolist() == [0.5, 0]
    chance = [1 / (1 + math.exp(-x)) for x in range(3)]
    assert found["p_reward"].tolist() == pytest.approx([sum(chance[:2]) / 2, sum(chance[1:]) / 2])
    alone = tables.per_prompt(steps[steps["source"] == "policy"], 3, task())
    assert {*found} - {*alone} == {"forward_kl"}


def test_sampled_best_of_n_by_hand():
    """Best-of-1 of rewards 0..3 earns 1.5, Best-of-4 of all four 3; the KL column is the bound."""
    rewards = torch.arange(4.0).expand(2, 4)
    tokens, mask = torch.full((2, 4, 3), 3), torch.ones(2, 4, 3, dtype=torch.bool)
    drawn = Bank(Completions(tokens, mask, torch.zeros(2, 4, 3)), rewards)
    table = tables.best_of_n(drawn, [1, 4], task().model, task()).groupby("n").mean()
    assert table["reward"].tolist() == pytest.approx([1.5, 3.0])
    assert table["kl_to_reference"].tolist() == pytest.approx([0, math.log(4) - 3 / 4])
    assert table["log_quantile"].tolist() == [-1, -1 / 4] and table["tokens"].tolist() == [3, 3]


# -- what is shown ---------------------------------------------------------------------------------

STEPS, PROMPTS = (0, 20, 40), (0, 1, 2)
RUNS = (("N = 8", 8, 0), ("iterative, n = 2", 2, 20))
SIZES = {"steps": 40, "prompts_per_step": 3}
MANIFEST = {
    "config": {"config": SIZES, "algorithm": {"draws": [8, 2, 16], "anchor": "Frozen()"}},
    "seconds": 90,
}
GAINS = (Panel("p_reward", "Reward", "p"), Panel("log_quantile", "Log quantile", "nats"))


def results(row: str = "", runs: tuple = RUNS, seeds: int = 1, profile: str = "laptop") -> Results:
    """The run of index i has, at step s and on prompt p, the value i + s / 100 + p / 10 of every
    measure, but a log quantile that lies 3 lower. Best-of-n earns n + p / 10."""
    labels = pd.DataFrame(runs, columns=["series", "n", "every"]).rename_axis("index").reset_index()
    labels = labels.merge(pd.DataFrame({"seed": range(seeds), "row": row}), how="cross")
    labels["profile"] = profile
    places = pd.DataFrame(product(STEPS, PROMPTS), columns=["step", "prompt"])
    table = labels.merge(places, how="cross").assign(reference_samples=1)
    value = table["index"] + table["step"] / 100 + table["prompt"] / 10
    for name in ("p_reward", "backward_kl", "forward_kl", "kl_to_reference"):
        table[name] = value
    base = pd.DataFrame(product((1, 2, 8), PROMPTS), columns=["n", "prompt"])
    base["kl_to_reference"], base["log_quantile"] = base["n"].map(kl_bound), -1 / base["n"]
    found = {
        "evaluations": table.assign(log_quantile=value - 3),
        "baselines": base.assign(p_reward=base["n"] + base["prompt"] / 10, profile=profile),
        "examples": labels.assign(step=0, prompt=0, reward=0.0, text="city 2"),
        "runs": labels.assign(run="01", manifest=json.dumps(MANIFEST)),
    }
    return Results("some", profile, tables=found)


def joined(*parts: Results) -> Results:
    whole = {name: pd.concat(p[name] for p in parts) for name in parts[0].tables}
    return Results("some", "shipped", tables=whole)


def test_curves_keep_rows_series_and_steps_in_their_order_of_appearance():
    """The mean of i + s / 100 + (0, 0.1, 0.2) is i + s / 100 + 0.1; one seed's interval is t's."""
    runs = [("zebra", 8, 0), ("ant", 8, 0)]
    found = joined(*(results(row, runs, seeds=2) for row in ("N = 8", "N = 4")))
    table = report.curve_table(found, GAINS)
    order = product(["N = 8", "N = 4"], ["p_reward", "log_quantile"], ["zebra", "ant"], STEPS)
    assert list(map(tuple, table[["row", "panel", "series", "step"]].to_numpy())) == list(order)
    ant = table.query("row == 'N = 4' and panel == 'log_quantile' and series == 'ant'")
    assert ant["mean"].tolist() == pytest.approx([1 - 2.9, 1.2 - 2.9, 1.4 - 2.9])
    assert ant["count"].tolist() == [6, 6, 6]
    assert report.rows_of(found) == ["N = 8", "N = 4"] and report.rows_of(results()) == []
    first, band = report.curve_table(results(), GAINS).iloc[0], mean_interval([0, 0.1, 0.2])
    assert (first["low"], first["high"]) == pytest.approx((band.low, band.high))


def test_levels_are_theory_or_sampled_best_of_n_and_marks_where_the_anchor_moves():
    """Backward 7 - log 8, forward log 8 - 7/8; log quantile -1/8. `every` = 20 over 40 steps: at
    20; a copy after the last step changes nothing drawn."""
    found = results("N = 8", RUNS[:1])
    levels = report.levels(found, report.DIVERGENCES)
    expected = [7 - math.log(8), math.log(8) - 7 / 8, -1 / 8]
    assert [level.value for level in levels] == pytest.approx(expected)
    assert [level.label for level in levels] == ["theory at the start"] * 2 + ["sampled Best-of-N"]
    (reward,) = report.levels(found, GAINS[:1])
    band = mean_interval([8, 8.1, 8.2])
    names = "sampled Best-of-N", "N = 8"
    assert reward == Level("p_reward", band.mean, *names, band.low, band.high)
    assert report.levels(results(), GAINS) == []  # of several N in one row, none
    chosen = report.levels(results(), (*GAINS[:1], report.DISTANCE), sizes=[2])
    assert chosen == [Level("p_reward", pytest.approx(2.1), "sampled Best-of-2")]
    assert report.anchor_marks(results()) == [Mark(20, "policy copied into the anchor")]
    assert report.anchor_marks(found) == []


def test_the_last_table_sets_policies_beside_the_reference_and_best_of_n():
    """After step 40: 0.4 and 1.4 more than (0, 0.1, 0.2); a closed form has no interval."""
    table = report.last(results(), ["p_reward", "log_quantile", "absent"], sizes=[2])
    table = table.set_index("policy")
    names = ["reference", "sampled Best-of-2", "sampled Best-of-8", "N = 8", "iterative, n = 2"]
    assert table.index.tolist() == names and "row" not in table
    means = [1.1, 2.1, 8.1, 0.5, 1.5]
    assert [float(x.split()[0]) for x in table["p_reward"]] == pytest.approx(means)
    assert table.loc["reference", "p_reward"] == str(mean_interval([1, 1.1, 1.2]))
    assert table.loc["sampled Best-of-8", "log_quantile"] == "-0.125"
    assert set(table["absent"]) == {"-"}
    named = report.last(results("N = 8", RUNS[:1]), ["p_reward"])
    assert named["row"].tolist() == ["N = 8"] * 3


def test_the_budget_and_the_small_print_say_what_runs_were_given():
    """90 seconds are 1.5 minutes; 8 Best-of-N draws, 2 own samples and 16 for quantiles are 26."""
    found = results()
    line = report.budget(found, "document", ["profile"]).iloc[0].to_dict()
    labels, counts = {"series": "N = 8", "profile": "laptop"}, {"seeds": 1, "steps": 40}
    costs = {"documents per step": 3, "completions per document": 26, "minutes per run": 1.5}
    assert line == labels | counts | costs | {"anchor's samples": "stored"}
    plain = "Profile laptop, 1 seed, 3 held-out prompts, 95 % intervals (t over prompts)."
    assert report.note(found, "prompt") == plain
    parts = results("N = 2"), results("N = 4"), results("N = 8", seeds=2, profile="study")
    assert report.note(joined(*parts)) == (
        "N = 2, N = 4: profile laptop, 1 seed, 3 held-out documents, 95 % intervals (t over "
        "documents). N = 8: profile study, 2 seeds, 3 held-out documents, 95 % intervals (t "
        "over seeds and documents)."
    )
    # Kinds of machine are named where there are several: of runs, and of the samples they read.
    toy = replace(results("N = 2", seeds=2), experiment=report.TOY)  # each seed has its own
    assert report.note(toy, "prompt") == (
        "N = 2: profile laptop, 2 seeds, each with prompts of its own, 95 % intervals (t over "
        "seeds)."
    )
    several = f"{plain} Computed on several kinds of machine: a; b."
    for kinds, told in (([], plain), (["b"], plain), (["a"], several)):
        kinds = {"kinds": ["b"], "bank_kinds": kinds}
        found["runs"]["manifest"] = json.dumps(MANIFEST | kinds)
        assert report.note(found, "prompt") == told


def test_examples_are_those_of_the_labels_asked_for(capsys):
    """A reward of 0 is a probability of one half; a run evaluated once is its own end."""
    excerpts.before_and_after(results(seeds=2), series="iterative, n = 2")
    head, line = capsys.readouterr().out.splitlines()
    assert head.split() == "run document before after p before p after".split()
    assert line.split() == "iterative, n = 2 0 city 2 city 2 0.500 0.500".split()
    chat = replace(results(), variant="chat")  # its reward is no probability's
    excerpts.before_and_after(chat, series="iterative, n = 2")
    head, line = capsys.readouterr().out.splitlines()
    assert head.split()[-4:] == "reward before reward after".split()
    assert [float(x) for x in line.split()[-2:]] == [0, 0]
    excerpts.before_and_after(results(), n=4)
    assert capsys.readouterr().out == ""


def test_the_start_is_set_beside_its_theory():
    """(N-1) - log N, log N - (N-1)/N and -1 for N = 8, and 0.1 or -2.9 measured."""
    table = divergences.starts(results("N = 8", RUNS[:1]))
    assert table["theory"].tolist() == pytest.approx([7 - math.log(8), math.log(8) - 7 / 8, -1])
    assert table["measured"].tolist() == pytest.approx([0.1, 0.1, -2.9])
    assert table["s.e."].tolist() == pytest.approx([0.1 / math.sqrt(3)] * 3)


def test_differences_are_paired_by_item():
    """The reference earns 1 + p / 10, so that a policy of 0.4 + p / 10 lies 0.6 below it on every
    prompt; what samples lack is compared with the first step, 0.5 + p / 10 on average."""
    table = items.of_results(results(), ["p_reward", "backward_kl"])
    means = items.intervals(table).set_index(["policy", "measure"])
    assert means["mean"]["reference", "p_reward"] == pytest.approx(1.1)
    assert means["mean"]["sampled Best-of-8", "p_reward"] == pytest.approx(8.1)
    assert means["mean"]["iterative, n = 2", "backward_kl"] == pytest.approx(1.5)
    gaps = items.differences(table).set_index(["policy", "measure"])
    for measure, gap in (("p_reward", -0.6), ("backward_kl", -0.1)):
        row = gaps.loc[("N = 8", measure), ["mean", "low", "high"]]
        assert row.tolist() == pytest.approx([gap] * 3)
    words = items.table(items.differences(table), group="prompts")
    assert words.columns.tolist() == ["policy", "p_reward", "backward_kl"]
    assert words.set_index("policy").loc["sampled Best-of-2"].tolist() == [text(1, 1, 1), "-"]
    # An item without a value for some seed counts nowhere; groups are shown together as well.
    table = pd.DataFrame({"seed": [0, 1] * 3, "item": [0, 0, 1, 1, 2, 2], "group": list("xxxxyy")})
    table = table.assign(policy="a", measure="m", value=[1, 3, 9, None, 5, 7])
    means = items.intervals(table).set_index("group")
    assert means["mean"].to_dict() == {"all": 4, "x": 2, "y": 6}
    wide = items.table(items.intervals(table), "group", None)
    assert wide.columns.tolist() == ["policy", "all", "x", "y"]
    rows = items.of_results(joined(results("N = 4"), results("N = 8")), ["p_reward"])
    assert {"N = 4: iterative, n = 2", "N = 8: N = 8"} <= set(rows["policy"])
    with pytest.raises(ValueError, match="laptop and study have different prompts"):
        items.of_results(joined(results("a"), results("b", profile="study")), ["p_reward"])


def test_each_seed_has_its_own_run_in_the_evidence():
    found, days = results("N = 8", RUNS[:1], seeds=2), ["2026-11-01", "2026-11-02"]
    kept = [json.dumps(MANIFEST | {"started": day}) for day in days]
    runs = found["runs"].assign(run=["first", "second"], manifest=kept)
    table = evidence.of(replace(found, tables=found.tables | {"runs": runs}))
    own = table.dropna(subset="seed").groupby("seed")[["run", "started"]].agg(set)
    assert own.to_numpy().tolist() == [[{"first"}, {days[0]}], [{"second"}, {days[1]}]]


def test_a_drawn_figure_has_its_levels_and_marks_or_is_a_line_of_text(monkeypatch, capsys):
    """Curves of two series, sampled Best-of-2's 2.1, and the step at which the anchor moves."""
    made = []
    monkeypatch.setattr(Results, "publish", lambda self, *given: made.append(given))
    report.draw(results(), "gains", GAINS, "Gains", "4", sizes=[2])
    ((stem, figure, table, panels, paper),) = made
    assert (stem, panels, paper) == ("gains", GAINS, "4") and len(table) == 2 * 2 * 3
    *curves, level, mark = figure.axes[0].lines
    assert curves[1].get_ydata() == pytest.approx([1.1, 1.3, 1.5])
    assert level.get_ydata()[0] == pytest.approx(2.1) and mark.get_xdata()[0] == 20
    report.draw(results(), "gains", GAINS[:1], "Gains", bought=GAINS[0])
    (_, (_, figure, table, *_)) = made
    assert figure.axes[1].lines[0].get_xdata() == pytest.approx([0.1, 0.3, 0.5])
    assert set(table["panel"]) == {"p_reward", "against KL"}
    report.draw(results().where(n=[16]), "gains", GAINS, "Gains")
    assert len(made) == 2 and capsys.readouterr().out == (
        "Gains: the profile laptop has no such runs.\n"
    )


# -- the trade-off and effective N -----------------------------------------------------------------


def test_the_trade_off_pairs_each_measure_with_the_distance():
    """By hand: x is i + s / 100 + 0.1 on both panels, and so is the reward; sampled Best-of-N is at
    its KL, with the rewards n + (0, 0.1, 0.2). The bound is -1/N at the KL of Best-of-N, from the
    reference past every run's KL of 1.5."""
    table = report.tradeoff(results(), GAINS)
    others = [report.OWN_BEST, report.BOUND]
    assert table["series"].unique().tolist() == [*(run[0] for run in RUNS), *others]
    own = table[table["series"] == "iterative, n = 2"]
    for panel, shift in (("p_reward", 0), ("log_quantile", -3)):
        part = own[own["panel"] == panel]
        assert part["x"].tolist() == pytest.approx([1.1, 1.3, 1.5])
        assert (part["mean"] - part["x"]).tolist() == pytest.approx([shift] * 3)
        assert (part["x_high"] - part["x"]).tolist() == pytest.approx(part["high"] - part["mean"])
        assert part["point"].tolist() == ["step 0", "step 20", "step 40"]
    points = table[table["kind"] == "named"].set_index(["panel", "point"])
    reward, band = points.loc[("p_reward", "N = 8")], mean_interval([8, 8.1, 8.2])
    assert reward["x"] == reward["x_low"] == reward["x_high"] == pytest.approx(math.log(8) - 7 / 8)
    ends = [band.mean, band.low, band.high]
    assert reward[["mean", "low", "high"]].tolist() == pytest.approx(ends)
    assert points.loc[("log_quantile", "N = 2"), "mean"] == -0.5 and len(points) == 4
    bound = table[table["kind"] == "formula"]
    assert bound.iloc[0][["panel", "x", "mean"]].tolist() == ["log_quantile", 0, -1]
    assert bound["x"].is_monotonic_increasing and bound["x"].iloc[-1] >= 1.5
    for size in (2, 8, math.e):
        near = (bound["mean"] + 1 / size).abs().idxmin()
        assert bound.loc[near, "x"] == pytest.approx(math.log(size) - (size - 1) / size, abs=0.03)


def test_effective_n_inverts_the_mean_and_the_intervals_ends():
    """With k = 1 the log quantile of Best-of-N measures -log 2 / (N + 1): N = 1, 2, 3 on the three
    steps. The KL of Best-of-3 is log 3 - 2/3; spent are 0.5 and 1.5."""
    found = results()
    table, panels = found["evaluations"], (Panel("effective_n", "N", "N"), report.DISTANCE)
    noise = 0.01 * (table["prompt"] - 1)
    table["log_quantile"] = -math.log(2) / (table["step"] / 20 + 2) + noise
    sizes = iterative.with_effective_n(found, panels)
    assert sizes["panel"].tolist() == ["effective_n"] * 6 + ["kl_to_reference"] * 6
    assert sizes["mean"][:6].tolist() == pytest.approx([1, 2, 3] * 2)
    band = mean_interval([-math.log(2) / 2 + x for x in (-0.01, 0, 0.01)])
    ends = [-math.log(2) / end - 1 for end in (band.low, band.high)]
    assert sizes.loc[0, ["low", "high"]].tolist() == pytest.approx(ends)
    table = iterative.effective_n_table(found)
    assert table["series"].tolist() == ["N = 8", "iterative, n = 2"]
    assert [words.split()[0] for words in table["effective N"]] == ["3.00", "3.00"]
    assert [words.split()[0] for words in table["KL to reference (nats)"]] == ["0.500", "1.50"]
    assert table["KL of that Best-of-N (nats)"].tolist() == pytest.approx([math.log(3) - 2 / 3] * 2)


# -- learned by heart ------------------------------------------------------------------------------


def test_the_change_is_that_of_the_best_sample():
    """With 8 samples there is one subset of 8: Best-of-8 is the best of them, and the change of the
    forward KL is what the policy lost of that sample's log-probability; an untrained policy lost
    nothing. (Rewards are told apart, since tied samples would share the weight.)"""
    prompts = tiny.documents(10)  # more than a part holds
    generator = torch.Generator().manual_seed(0)
    completions, rewards = bank.draw(tiny.language_model(), tiny.reward, prompts, 8, generator)
    drawn = Bank(completions, rewards + torch.linspace(0, 1e-3, 8))
    untrained = tiny.language_model().trainable_copy(2)
    found = divergences.change(untrained, prompts, drawn, "fp32")
    assert found.shape == (10,) and found.abs().max() < 1e-4
    policy = tiny.language_model(seed=1)  # another distribution
    log_pi = policy(policy.encode(prompts), completions).sum(-1)
    best = drawn.rewards.argmax(1, keepdim=True)
    lost = (completions.log_prob - log_pi).gather(1, best)[:, 0]
    found = divergences.change(policy, prompts, drawn, "fp32")
    assert torch.allclose(found.float(), lost, atol=1e-4) and lost.abs().min() > 1e-3


@pytest.mark.usefixtures("runs")
def test_tiny_runs_are_collected_and_compared_article_by_article(monkeypatch):
    """6 runs of 3 evaluations of 4 held-out articles, N = 8 and 16; as many training articles. The
    change on held-out ones is the curve's last value less its first. What is found is kept. The run
    that the notebook trains on the spot is one of them."""
    monkeypatch.setattr(divergences, "SIZES", (8, 16))
    settings = divergences.Settings(
        profile="smoke", workers=1, sizes_of_figure_2=[8], sizes_of_figure_10=[16], train_here=True
    )
    found = divergences.EXPERIMENT.results(settings)
    counts = {"evaluations": 6 * 3 * 4, "baselines": 3 * 4, "examples": 6 * 2 * 4, "runs": 6}
    assert {name: len(table) for name, table in found.tables.items()} == counts
    assert found["baselines"]["n"].unique().tolist() == [1, 8, 16]
    labels = ["row", "series", "n", "beta", "seed", "profile"]
    assert all(set(labels) <= set(found[name]) for name in ("evaluations", "examples", "runs"))
    assert {row["manifest"]["status"] for row in found.manifests} == {"finished"}
    table = divergences.by_article(found, settings)["by_article"]
    counts = table.groupby(["beta", "kind"])["prompt"].nunique()
    assert len(counts) == 9 and set(counts) == {4}
    stored, new = (table.loc[table["kind"] == kind, "change"].to_numpy() for kind in (STORED, NEW))
    assert (stored != new).any()
    curve = found["evaluations"].query("n == 8")
    steps = curve.pivot(index=["beta", "prompt"], columns="step", values="forward_kl")
    own = table[table["kind"] == HELD_OUT].set_index(["beta", "prompt"])["change"]
    assert own.sort_index().to_numpy() == pytest.approx((steps[2] - steps[0]).to_numpy(), abs=1e-4)
    here = divergences.trained_here(settings)
    assert here["runs"]["run"].tolist() == found.where(n=[8], beta=[0.5])["runs"]["run"].tolist()
    steps = curve.query("beta == 0.5").pivot(index="prompt", columns="step", values="log_quantile")
    assert divergences.gain(here) == divergences.gain(found) == mean_interval(steps[2] - steps[0])
    monkeypatch.setattr(divergences, "train", None)
    again = divergences.by_article(found, settings)
    pd.testing.assert_frame_equal(again["by_article"], table)
    drawn = divergences.article_table(again)
    kinds = [kind.replace(", ", ",\n") for kind in (STORED, NEW, HELD_OUT)]
    assert drawn["group"].unique().tolist() == kinds and set(drawn["count"]) == {4}
