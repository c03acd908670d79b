"""The law of Best-of-N against enumeration in rationals, 800-digit decimals and sampling."""

from __future__ import annotations

import math
from decimal import MIN_EMIN, Decimal, localcontext
from fractions import Fraction
from itertools import combinations, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bondlab import best_of_n

F64 = torch.float64
quiet = settings(deadline=None)  # the first call of a process pays for the set-up


def tensor(values) -> torch.Tensor:
    return torch.tensor([float(v) for v in values], dtype=F64)


@st.composite
def laws(draw, max_outcomes: int = 5):
    """Rational probabilities, some of them 0, and rewards with many ties."""
    count = draw(st.integers(1, max_outcomes))
    weights = st.lists(st.integers(0, 50), min_size=count, max_size=count).filter(any)
    weights = draw(weights)
    rewards = draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    return [Fraction(w, sum(weights)) for w in weights], rewards


def enumerated(probs, rewards, n):
    """Every sequence of n draws; the first maximum is kept. Exact rationals."""
    law = [Fraction(0)] * len(probs)
    for draws in product(range(len(probs)), repeat=n):
        kept = max(draws, key=lambda y: rewards[y])  # max returns the first maximum
        law[kept] += math.prod(probs[y] for y in draws)
    return law


def closed_form(probs, rewards, n, number=Fraction):
    """p / tie * (p_<=^n - p_<^n): the chance that the best group is y's, shared by mass."""
    probs = [number(p) for p in probs]
    total = sum(probs)
    law = []
    for p, r in zip(probs, rewards, strict=True):
        less = sum((q for q, s in zip(probs, rewards, strict=True) if s < r), number(0)) / total
        tie = sum((q for q, s in zip(probs, rewards, strict=True) if s == r), number(0)) / total
        law.append(p / total / tie * ((less + tie) ** n - less**n) if p else number(0))
    return law


def assert_relative(actual: torch.Tensor, expected, tolerance: float = 1e-12) -> None:
    for a, e in zip(actual.tolist(), expected, strict=True):
        assert abs(type(e)(a) - e) <= type(e)(tolerance) * abs(e), (a, float(e))


def assert_digits(probs: torch.Tensor, rewards: list[int], n: int) -> list[Decimal]:
    """`pmf` where it is a normal float, against 800-digit decimals, which are returned."""
    with localcontext() as context:
        context.prec, context.Emin = 800, MIN_EMIN
        exact = closed_form(probs.tolist(), rewards, n, Decimal)
        kept = [i for i, e in enumerate(exact) if e > Decimal("1e-290")]
        assert_relative(best_of_n.pmf(probs, tensor(rewards), n)[kept], [exact[i] for i in kept])
    return exact


@given(laws(4), st.integers(1, 4))
@quiet
def test_pmf_equals_enumeration(law, n):
    """Enumerating the V^n sequences of draws gives the exact law, ties included; the rational
    closed form used below equals it without error."""
    probs, rewards = law
    exact = enumerated(probs, rewards, n)
    assert closed_form(probs, rewards, n) == exact
    assert_relative(best_of_n.pmf(tensor(probs), tensor(rewards), n), exact)


@given(st.data(), st.sampled_from([1, 2, 3, 64, 1000, 10_000]))
@settings(max_examples=60, deadline=None)
def test_pmf_keeps_its_digits_for_tiny_masses_and_large_n(data, n):
    """Masses from 1e-300 to 1 and n up to 10^4, against 800-digit decimals: 1e-12 relative
    where the law is a normal float, and in absolute log where it is not."""
    exponents = data.draw(st.lists(st.floats(-300, 0), min_size=1, max_size=12))
    rewards = data.draw(st.lists(st.integers(0, 6), min_size=len(exponents), max_size=13))
    rewards = rewards[: len(exponents)]
    probs = tensor([10.0**e for e in exponents])
    probs = probs / probs.sum()
    exact = assert_digits(probs, rewards, n)
    assert all(exact), "a mass below what a decimal holds"
    with localcontext() as context:
        context.prec, context.Emin = 40, MIN_EMIN  # enough for what are to be floats
        logs = [float(e.ln()) for e in exact]
    log_law = best_of_n.log_pmf(probs.log(), tensor(rewards), n)
    # The argument log(p) itself is rounded by half an ulp of up to 700, n times.
    allowed = [1e-12 + 2e-15 * max(1.0, abs(value)) for value in logs]
    assert all(abs(a - b) <= c for a, b, c in zip(log_law.tolist(), logs, allowed, strict=True))


@pytest.mark.parametrize("n", [2, 100, 10_000])
def test_pmf_of_many_outcomes_keeps_its_digits(n):
    """300 outcomes, a third tied: a running sum of 300 roundings to the power 10^4 would lose
    the twelfth digit; 800-digit decimals are the truth."""
    generator = torch.Generator().manual_seed(0)
    probs = torch.rand(300, dtype=F64, generator=generator)
    probs = probs / probs.sum()
    assert_digits(probs, torch.randint(0, 200, (300,), generator=generator).tolist(), n)


@pytest.mark.parametrize("exponent", range(-24, 0))
def test_collision_term_between_its_limits(exponent):
    """(B) runs from n for a rare outcome to 1: masses (1/2 - t, 1/2, t), the rare one best, for
    t from 1e-24 to 0.1 and n = 10^4, against 800-digit decimals."""
    t = 10.0**exponent
    assert_digits(tensor([0.5 - t, 0.5, t]), [0, 1, 2], 10_000)


def test_log_pmf_of_a_mass_that_is_no_float():
    """A mass e^-800 above 1/2 and below 1/2: p_<= = 1/2, (B) = n, so log pi_BoN = -800 +
    (n-1) log(1/2) + log n."""
    log_probs = torch.tensor([math.log(0.5), -800.0, math.log(0.5)], dtype=F64)
    log_law = best_of_n.log_pmf(log_probs, tensor([0, 1, 2]), 5)
    expected = -800 + 4 * math.log(0.5) + math.log(5)
    assert log_law[1].item() == pytest.approx(expected, rel=1e-14)


def test_log_pmf_is_finite_where_the_pmf_underflows():
    """Two outcomes, the worse with mass e^-1000: pi_BoN of it is its n-th power, so its log is
    -1000 n, and the better one's log is log(1 - e^-1000n) = 0."""
    log_law = best_of_n.log_pmf(torch.tensor([-1000.0, 0.0], dtype=F64), tensor([0, 1]), 10_000)
    assert log_law.tolist() == pytest.approx([-1e7, 0.0], rel=1e-12)


def test_worked_example_of_the_notes():
    """pi = (0.5, 0.3, 0.2), N = 2: (B) = 1 + p_</p_<= = (1, 1.625, 1.8), so the law is
    (0.25, 0.39, 0.36) and r_BOND = log p_<= + log (B)."""
    probs, rewards = tensor([0.5, 0.3, 0.2]), tensor([1, 2, 3])
    assert best_of_n.pmf(probs, rewards, 2).tolist() == pytest.approx([0.25, 0.39, 0.36])
    expected = [math.log(0.5), math.log(0.8 * 1.625), math.log(1.8)]
    assert best_of_n.bond_reward(probs, rewards, 2).tolist() == pytest.approx(expected, rel=1e-12)


@given(laws(), st.integers(2, 100))
@quiet
def test_only_the_order_of_rewards_matters(law, n):
    """x -> exp(x)^3 - 7 is strictly increasing, so every comparison is unchanged: equal bits."""
    probs, rewards = tensor(law[0]), tensor(law[1])
    changed = rewards.exp() ** 3 - 7
    assert torch.equal(best_of_n.pmf(probs, rewards, n), best_of_n.pmf(probs, changed, n))
    assert torch.equal(
        best_of_n.bond_reward(probs, rewards, n), best_of_n.bond_reward(probs, changed, n)
    )


@given(laws(), st.integers(2, 50))
@quiet
def test_bond_reward_tilts_to_best_of_n(law, n):
    """pi exp(r_BOND (n-1)) is Best-of-n with partition function 1 (section 3, eq. 7-8)."""
    probs, rewards = tensor(law[0]), tensor(law[1])
    reward = best_of_n.bond_reward(probs, rewards, n)
    tilted = torch.where(probs > 0, probs * ((n - 1) * reward).exp(), 0.0)
    torch.testing.assert_close(tilted, best_of_n.pmf(probs, rewards, n), rtol=1e-11, atol=1e-300)


def test_laws_in_float32_are_normalised():
    """A float32 law sums to 1 but for some 1e-8, which the power 10^4 would blow up to 1e-4: the
    result is that of the law divided by its sum, from masses and from logs."""
    probs = torch.tensor([0.1, 0.2, 0.7], dtype=torch.float32) * (1 + 1e-6)
    rewards = torch.tensor([2, 2, 1])
    exact = closed_form(probs.double().tolist(), rewards.tolist(), 10_000, Fraction)
    law = best_of_n.pmf(probs, rewards, 10_000)
    assert_relative(law[:2], exact[:2])
    logs = best_of_n.log_pmf(probs.double().log(), rewards, 10_000)
    assert_relative(logs.exp()[:2], exact[:2])
    assert law.sum().item() == pytest.approx(1, rel=1e-12)


def test_leading_axes_are_independent_problems():
    """A batch of laws gives the same bits as each law alone, and rewards broadcast."""
    generator = torch.Generator().manual_seed(1)
    probs = torch.rand(2, 3, 7, dtype=F64, generator=generator).softmax(-1)
    rewards = torch.randint(0, 4, (3, 7), generator=generator)
    batch = best_of_n.pmf(probs, rewards, 5)
    for i, j in product(range(2), range(3)):
        alone = best_of_n.pmf(probs[i, j], rewards[j], 5)
        torch.testing.assert_close(batch[i, j], alone, rtol=1e-14, atol=0)
    logs = best_of_n.log_pmf(probs.log(), rewards, 5)
    torch.testing.assert_close(logs.exp(), batch, rtol=1e-12, atol=0)


@given(laws())
@quiet
def test_tail_probs_are_the_two_quantiles(law):
    """p_< and p_<= by direct summation of rationals (eq. 2-3); their log agrees."""
    probs, rewards = law
    pairs = list(zip(probs, rewards, strict=True))
    less, leq = best_of_n.tail_probs(tensor(probs), tensor(rewards))
    assert_relative(less, [sum((p for p, s in pairs if s < r), Fraction(0)) for r in rewards])
    exact = [sum((p for p, s in pairs if s <= r), Fraction(0)) for r in rewards]
    assert_relative(leq, exact)
    logs = best_of_n.log_quantiles(tensor(probs).log(), tensor(rewards)).exp()
    assert_relative(logs, exact)


def test_select_follows_the_law():
    """The first maximum of n draws has law pmf: 200,000 repeats, 5 standard errors, with ties."""
    probs, rewards, n = tensor([0.2, 0.3, 0.1, 0.4]), tensor([1, 2, 2, 0]), 3
    repeats = 200_000
    generator = torch.Generator().manual_seed(2)
    draws = torch.multinomial(probs.expand(repeats, -1), n, True, generator=generator)
    kept = draws.gather(1, best_of_n.select(rewards[draws]).unsqueeze(1)).squeeze(1)
    shares = torch.bincount(kept, minlength=4) / repeats
    law = best_of_n.pmf(probs, rewards, n)
    assert ((shares - law).abs() < 5 * (law * (1 - law) / repeats).sqrt()).all()


def test_select_takes_the_first_maximum():
    """Ties go to the earlier draw."""
    assert best_of_n.select(torch.tensor([[1.0, 3.0, 3.0], [2.0, 2.0, 1.0]])).tolist() == [1, 0]


@pytest.mark.parametrize(("k", "n"), [(1, 1), (5, 1), (5, 3), (6, 6), (7, 2)])
def test_order_weights_count_subsets(k, n):
    """Count, over all n-subsets of ranks 1..k, which rank is the largest."""
    best = [max(subset) for subset in combinations(range(k), n)]
    expected = [best.count(j) / len(best) for j in range(k)]
    assert best_of_n.order_weights(k, n).tolist() == pytest.approx(expected, rel=1e-15)


def test_order_weights_at_scale():
    """k = 10^4, n = 10^3: the masses still sum to 1 and the best rank has n/k."""
    weights = best_of_n.order_weights(10_000, 1_000)
    assert weights.sum().item() == pytest.approx(1, rel=1e-12)
    assert weights[-1].item() == 0.1


@pytest.mark.parametrize(
    ("n", "forward", "backward", "log_quantile", "win"),
    [
        (1, 0, 0, -1, 0.5),
        (2, 0.193, 0.307, -0.5, 0.667),
        (4, 0.636, 1.614, -0.25, 0.8),
        (8, 1.204, 4.921, -0.125, 0.889),
        (16, 1.835, 12.227, -0.0625, 0.941),
        (32, 2.497, 27.534, -0.03125, 0.970),
    ],
)
def test_constants_of_a_continuous_reward(n, forward, backward, log_quantile, win):
    """With u uniform and density n u^(n-1): KL = log n - (n-1)/n, backward KL = (n-1) - log n,
    E[log u] = -1/n, E[u] = n/(n+1). 20,000 equal masses approach each of them, the forward KL
    from below (it is a bound for every discrete reward)."""
    assert best_of_n.kl_bound(n) == pytest.approx(forward, abs=5e-4)
    assert best_of_n.backward_kl(n) == pytest.approx(backward, abs=5e-4)
    assert best_of_n.win_rate(n) == pytest.approx(win, abs=5e-4)
    count = 20_000
    probs = torch.full((count,), 1 / count, dtype=F64)
    rewards = torch.arange(count)
    log_law, log_u = best_of_n.log_pmf(probs.log(), rewards, n), probs.cumsum(0).log()
    law = log_law.exp()
    fine = (law * (log_law - probs.log())).sum().item()
    assert fine <= best_of_n.kl_bound(n) + 1e-12
    assert fine == pytest.approx(best_of_n.kl_bound(n), abs=2e-3)
    away = (probs * (probs.log() - log_law)).sum().item()
    assert away == pytest.approx(best_of_n.backward_kl(n), abs=2e-2)
    assert (law * log_u).sum().item() == pytest.approx(log_quantile, abs=2e-3)
    assert (law * log_u.exp()).sum().item() == pytest.approx(best_of_n.win_rate(n), abs=2e-3)


@pytest.mark.parametrize("n", [0, -1, 1.5, "2", None])
def test_n_must_be_a_positive_integer(n):
    """n counts draws."""
    for call in (best_of_n.pmf, best_of_n.log_pmf, best_of_n.bond_reward):
        with pytest.raises(ValueError, match="n must be"):
            call(tensor([1]), tensor([0]), n)
    for formula in (best_of_n.kl_bound, best_of_n.win_rate, best_of_n.order_weights):
        with pytest.raises(ValueError, match="n must be"):
            formula(*([3] if formula is best_of_n.order_weights else []), n)


@pytest.mark.parametrize("probs", [[0.5, 0.6], [1.5, -0.5], [math.nan, 1.0], [0.5, 0.4]])
def test_masses_must_be_a_law(probs):
    """Negative, NaN or not summing to 1."""
    with pytest.raises(ValueError, match="sum to 1"):
        best_of_n.pmf(tensor(probs), tensor([0, 1]), 2)
    with pytest.raises(ValueError, match="sum to 1"):
        best_of_n.log_pmf(tensor(probs).log(), tensor([0, 1]), 2)


def test_nan_rewards_stop():
    """A NaN compares with nothing, so no draw would be best."""
    rewards = torch.tensor([0.0, math.nan])
    for call in (best_of_n.pmf, best_of_n.tail_probs, best_of_n.bond_reward):
        with pytest.raises(ValueError, match="NaN"):
            call(tensor([0.5, 0.5]), rewards, *([] if call is best_of_n.tail_probs else [2]))
    with pytest.raises(ValueError, match="NaN"):
        best_of_n.select(rewards)


def test_what_has_no_answer_stops():
    """No completion to choose from; more draws than there are; n = 1 prefers nothing."""
    with pytest.raises(ValueError, match="at least one"):
        best_of_n.select(torch.zeros(2, 0))
    with pytest.raises(ValueError, match="k = 3"):
        best_of_n.order_weights(3, 4)
    with pytest.raises(ValueError, match="at least 2"):
        best_of_n.bond_reward(tensor([1]), tensor([0]), 1)
