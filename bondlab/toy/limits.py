"""How far two formulas carry: the bound on KL(Best-of-n || reference), and J-BOND's penalty.

Both assume a reward that never ties. Where outcomes are few or tie, log n - (n-1)/n is above the
true divergence (Beirami et al., arXiv 2401.01879), and J-BOND's penalty fires on fewer completions
than the third on which it counts. Divergences in nats.
"""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

from bondlab import best_of_n, rules
from bondlab.report.intervals import accuracy_interval, known, mean_interval
from bondlab.toy.exact import Settings, even

OUTCOMES = (2, 4, 8, 16, 32, 64, 128, 256, 512, 2048, 10_000)
SIZES = (2, 8, 64)
ZIPF, TIED = "mass 1/rank", "10,000 outcomes in groups that tie"
TIED_N = 8  # of the panel on masses and ties
ORDERS = 10  # random orders of the uneven masses' rewards
FAIR = 0.95  # share of the bound from which on we call it fair


# -- the bound -------------------------------------------------------------------------------------


def true_kl(probs: Tensor, rewards: Tensor, n: int) -> Tensor:
    """KL(Best-of-n || reference) of outcomes [..., V], by Theorem 1: [...]."""
    chosen, log_probs = best_of_n.pmf(probs, rewards, n), probs.log()
    return (chosen * (best_of_n.log_pmf(log_probs, rewards, n) - log_probs)).sum(-1)


def bound(settings: Settings) -> pd.DataFrame:
    """The true KL as a share of log n - (n-1)/n, against the number of outcomes.

    Panel sizes: equally likely outcomes, none tied, for each n. Panel masses, for n = 8: masses as
    1/rank with rewards in random order (mean and interval over orders); and 10,000 outcomes tied in
    so many equal groups, as far as those divide.
    """
    rows = []
    for count in OUTCOMES:
        for n in SIZES:
            share = true_kl(even(count), torch.arange(count), n).item() / best_of_n.kl_bound(n)
            rows.append(known(share).row(panel="sizes", series=f"n = {n}", x=count))
        full = best_of_n.kl_bound(TIED_N)
        zipf = 1 / torch.arange(1, count + 1, dtype=torch.float64)
        orders = torch.rand(ORDERS, count, generator=settings.generator(), dtype=torch.float64)
        shares = true_kl((zipf / zipf.sum()).expand(ORDERS, -1), orders, TIED_N) / full
        rows.append(mean_interval(shares.numpy()).row(panel="masses", series=ZIPF, x=count))
        if OUTCOMES[-1] % count == 0:
            groups = torch.arange(OUTCOMES[-1]) % count
            share = true_kl(even(OUTCOMES[-1]), groups, TIED_N).item() / full
            rows.append(known(share).row(panel="masses", series=TIED, x=count))
    return pd.DataFrame(rows)


def fair(table: pd.DataFrame) -> pd.DataFrame:
    """Of each series: some shares, and the first number of outcomes from which on it is `FAIR`."""
    lines, words = [], {"sizes": "equally likely", "masses": f"n = {TIED_N}"}
    for (panel, name), part in table.groupby(["panel", "series"], sort=False):
        reached = part.loc[part["mean"] >= FAIR, "x"]
        first = str(reached.iloc[0]) if len(reached) else f"more than {part['x'].iloc[-1]}"
        shares = part.set_index("x")["mean"]
        lines.append({
            "outcomes": words[panel], "series": name,
            "true KL / bound of 2": shares[2], "of 16": shares[16],
            f"fewest with {FAIR:g}": first,
        })  # fmt: skip
    return pd.DataFrame(lines)


# -- rewards of few values -------------------------------------------------------------------------


def firing(settings: Settings) -> pd.DataFrame:
    """Share of completions that J-BOND penalises while policy and anchor agree.

    Panel binary: a reward of yes and no against the chance p of yes, (1-p) p^2, and simulated.
    Panel values: m equally likely values, and simulated; 1/3 without ties.
    """
    rows, generator = [], settings.generator()

    def simulated(rewards: Tensor) -> dict[str, float]:
        fired = rules.j_bond_reward(rewards[:, :1], rewards[:, 1:]) < 0
        return accuracy_interval(fired.flatten().numpy()).row(kind="points", series="penalty fires")

    for p in (i / 50 for i in range(51)):
        labels = {"panel": "binary", "x": p, "kind": "formula"}
        rows.append(known(binary_firing(p)).row(series="penalty fires", **labels))
        rows.append(known(p**2 + (1 - p) ** 2).row(series="both anchor draws tie", **labels))
    for p in (i / 10 for i in range(1, 10)):
        drawn = torch.rand(settings.draws, 3, generator=generator, dtype=torch.float64) < p
        rows.append({**simulated(drawn.double()), "panel": "binary", "x": p})
    for m in (2, 3, 4, 5, 8, 16, 32):
        rows.append(
            known(values_firing(m)).row(panel="values", series="penalty fires", kind="formula", x=m)
        )
        drawn = torch.randint(0, m, (settings.draws, 3), generator=generator)
        rows.append({**simulated(drawn.double()), "panel": "values", "x": m})
    return pd.DataFrame(rows)


def binary_firing(p: float) -> float:
    """(1-p) p^2: the policy's completion is wrong and both of the anchor's are right."""
    return (1 - p) * p**2


def values_firing(m: int) -> float:
    """(m-1)(2m-1)/(6 m^2): the mean of (share of m equally likely values above one's own)^2."""
    return (m - 1) * (2 * m - 1) / (6 * m * m)


def firing_table() -> pd.DataFrame:
    """That share for some rewards, beside the 1/3 without ties; at p = 2/3 it is largest, 4/27."""
    chances = {"1/20": 0.05, "1/10": 0.1, "1/4": 0.25, "1/2": 0.5, "2/3": 2 / 3, "9/10": 0.9}
    shares = {f"yes or no, p = {name}": binary_firing(p) for name, p in chances.items()}
    shares |= {f"{m} equally likely values": values_firing(m) for m in (3, 5, 16)}
    return pd.DataFrame([
        {"reward": name, "penalty fires": share, "of the 1/3 without ties": 3 * share}
        for name, share in shares.items()
    ])  # fmt: skip
