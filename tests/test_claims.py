"""The rules that decide claims: what is repeated, what is not, what is open, and what it takes."""

from __future__ import annotations

from math import inf, nan

import numpy as np
import pandas as pd
import pytest

from bondlab.report.intervals import mean_interval
from bondlab.study import cells, claims
from bondlab.study.claims import Claim, Term

NOISE = np.linspace(-1, 1, 5)  # mean 0, standard error sqrt(0.125), t(0.975; 4) 2.776, reach 0.9817


def one(series: str, values: np.ndarray, **labels) -> pd.DataFrame:
    """Evidence whose measure x is [S, B]."""
    rows = [
        {"series": series, "seed": s, "prompt": b, "step": 0, "x": value, **labels}
        for s, seed in enumerate(values) for b, value in enumerate(seed)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def x_of(series: str, above: float = -inf, below: float = inf) -> Term:
    return Term(f"x of {series}", [series], lambda t: cells.at(t, series, "x"), above, below)


@pytest.mark.parametrize(
    ("above", "below", "words", "answers"),
    [  # of means -2.5, 0 and 2.5, one prompt's interval 0.98 on either side
        (0, inf, "x of a above 0", ["not repeated", "open", "repeated"]),
        (-inf, 1.5, "x of a below 1.5", ["repeated", "repeated", "not repeated"]),
        (-2.5, 2.5, "x of a within 2.5 of 0", ["open", "repeated", "open"]),
        (1.5, 4, "x of a above 1.5 and below 4", ["not repeated", "not repeated", "repeated"]),
        (-inf, inf, "x of a (shown alone)", ["repeated"] * 3),
    ],
)
def test_a_terms_whole_interval_lies_within_its_bounds_or_wholly_elsewhere(
    above, below, words, answers
):
    term = x_of("a", above, below)
    assert str(term) == words
    assert [term.answer(mean + NOISE[None], 1) for mean in (-2.5, 0, 2.5)] == answers
    unsure = term.answer(np.full((1, 5), nan), 1)
    assert unsure == ("repeated" if "alone" in words else "open")


def test_to_reject_a_claim_takes_an_interval_that_allows_for_its_number():
    """-1.1 with a reach of 0.98 is below 0; as one of four, t(1 - 0.00625; 4) = 4.315 makes it
    1.53. To repeat it the number does not matter: all have to hold."""
    term = x_of("a", above=0)
    assert term.answer(-1.1 + NOISE[None], 1) == "not repeated"
    assert term.answer(-1.1 + NOISE[None], 4) == "open"
    assert term.answer(1.1 + NOISE[None], 4) == "repeated"
    term = x_of("a", below=0)  # and from above
    assert [term.answer(1.1 + NOISE[None], looks) for looks in (1, 4)] == [claims.NO, claims.OPEN]


def decided(*terms: Term, **values: np.ndarray) -> claims.Decision:
    table = pd.concat([one(name, value) for name, value in values.items()])
    return Claim("C0", "", "", terms).decide(table)


def test_below_three_seeds_there_is_no_verdict():
    """Four prompts at 2 and at -2 with a little noise, of one, two and three seeds."""
    exact = np.linspace(-0.1, 0.1, 4)
    words = {
        1: ("one run: suggests yes", "one run: suggests no", "one run: open"),
        2: ("2 runs: suggest yes", "2 runs: suggest no", "2 runs: open"),
        3: ("repeated", "not repeated", "open"),
    }
    for seeds, expected in words.items():
        values = [np.tile(mean + exact, (seeds, 1)) for mean in (2, -2, 0)]
        found = [decided(x_of("a", above=0), a=value) for value in values]
        assert tuple(f.verdict for f in found) == expected
        assert found[0].needed == 3 - seeds and found[0].seeds == seeds


def test_a_series_or_measure_that_is_missing_is_not_run():
    """And what is there is shown. A seed that one series lacks does not count for either."""
    values = np.tile([1.0, 1.1, 0.9], (3, 1))
    both = [x_of("a", above=0), x_of("b", above=0)]
    found = decided(*both, a=values)
    assert (found.verdict, found.seeds, found.needed) == ("not run", 0, 3)
    assert found.intervals["x of b"] is None and found.intervals["x of a"].mean == pytest.approx(1)
    gap = claims.lead("gap", "a", "b", "x", above=0)
    assert decided(gap, a=values + 1, b=values[:2]).verdict == "2 runs: suggest yes"
    absent = claims.lead("gap", "a", "b", "y", above=0)
    assert decided(absent, a=values, b=values).verdict == "not run"
    best = one("b", values[:1]).assign(seed=nan)  # what was not trained has no seed
    found = Claim("C0", "", "", [gap]).decide(pd.concat([one("a", values + 1), best]))
    assert (found.verdict, found.intervals["gap"].mean) == ("repeated", pytest.approx(1))


def test_a_term_that_is_shown_alone_decides_nothing():
    """It adds no interval that has to hold, lacks no seed, and says nothing."""
    values, shown = np.tile([1.0, 1.1, 0.9], (3, 1)), x_of("b")
    found = decided(x_of("a", above=0), shown, a=values, b=values[:1] - 9)
    assert (found.verdict, found.looks, found.seeds) == ("repeated", 1, 3)
    assert found.says == {"x of a": "yes", "x of b": ""}
    assert [term.decides for term in (shown, x_of("b", 0), x_of("b", below=0))] == [0, 1, 1]


def test_seeds_that_a_verdict_still_needs():
    """Seeds at -1, 0, 1 (variance 1) around 2, prompts alike: the interval of S seeds,
    t(0.975; S - 1) / sqrt(S), is below 2 from S = 4 on (3: 2.48, 4: 1.59); around 0.01 no hundred
    do. A term that lies outside its bounds decides alone, by the sooner."""
    apart = np.array([[-1.0], [0.0], [1.0]]) + np.zeros((3, 6))
    assert decided(x_of("a", above=0), a=2 + apart).needed == 1
    assert decided(x_of("a", above=0), a=0.01 + apart).needed == inf
    terms = [x_of("a", above=0), x_of("b", above=0)]
    assert decided(*terms, a=0.01 + apart, b=-2 + apart).needed == 2  # t(1 - 0.0125; 4) = 3.495
    assert decided(*terms, a=2 + apart, b=1 + apart).needed == 4  # t(0.975; 6) / sqrt(7) = 0.92
    assert claims.in_words(decided(x_of("a", above=0), a=apart)) == "over 100"


def test_a_claim_says_its_rule_and_decides_each_row():
    claim = Claim("C9", "A claim.", "Fig. 1", [x_of("a", above=0), x_of("b", below=9)], "In nats.")
    words = claims.described([claim]).splitlines()
    assert words[0].startswith("A claim is repeated if each of its 95 % intervals lies inside")
    assert words[-2] == "C9. A claim. (Fig. 1)"
    assert words[-1].startswith("   x of a above 0; x of b below 9. In nats. Fixed 2026-")
    runs = {"run": "r1", "started": "2026-11-01T00:00:00+00:00"}
    later = {"run": "r2", "started": "2999-01-01T00:00:00+00:00"}
    parts = [
        one(series, mean + NOISE[None], row=row, **own)
        for mean, row, own in ((0, "N = 4", runs), (2, "", later)) for series in "ab"
    ]  # fmt: skip
    found = claims.decided([claim], pd.concat(parts))
    whole, terms = found[found["claim"] == "C9"], found[found["claim"] == ""]
    assert whole["says"].tolist() == ["one run: open", "one run: suggests yes"]
    assert whole["fixed"].tolist() == ["after these runs", "before these runs"]
    assert set(whole["what"]) == {claim.text}
    assert set(whole["needed"]) == {"at least 2"} and whole.index.tolist() == [0, 3]
    assert terms["value"].tolist()[2] == str(mean_interval(2 + NOISE))
    assert terms["says"].tolist() == ["open", "yes", "yes", "yes"]
    assert terms["bounds"].tolist() == ["above 0", "below 9"] * 2
    assert "row" not in claims.decided([claim], pd.concat(parts[2:]))
    both = pd.concat([one("a", NOISE[None], **own) for own in (later, runs)])
    assert claims.when_fixed(claim, both) == "after these runs"  # by the oldest of them


def test_the_first_term_that_is_clearly_outside_is_enough():
    """Both means lie outside; the further one is told with fewer seeds."""
    apart = np.array([[-1.0], [0.0], [1.0]]) + np.zeros((3, 6))
    terms = [x_of("a", above=0), x_of("b", above=0)]
    each = [t.seeds_needed(mean + apart, 2) for t, mean in zip(terms, (-1, -2), strict=True)]
    assert decided(*terms, a=-1 + apart, b=-2 + apart).needed == min(each) < max(each)


def test_halves_of_an_even_number_of_evaluations():
    """Of 0, 1, 3, 9 the first half rises to the third."""
    rows = {"series": "a", "seed": 0, "prompt": 0, "step": range(4), "x": [0.0, 1, 3, 9]}
    first, second = cells.halves(pd.DataFrame(rows), "a", "x")
    assert (first.item(), second.item()) == (3, 6)
