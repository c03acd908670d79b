"""What counted and learned quantiles cost, and how dear a reward must be for learning to pay.

Counting needs k samples of the reference, drawn and scored, where a learned model needs one, but
the model itself takes time. Learning pays once the samples that it saves cost more than that.

A sample's cost is measured as a difference: runs that draw the reference's samples anew differ in
nothing else from runs that read them from a bank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from bondlab.measures import Interval
from bondlab.results import RunFolder
from bondlab.study.sweep import Spec

STORED, FRESH = "Monte Carlo, stored samples", "Monte Carlo, fresh samples"
LEARNED = "learned"
RESAMPLES = 2000


def steps(specs: Sequence[Spec], folders: Sequence[RunFolder]) -> pd.DataFrame:
    """What each training step of each run asked for, and how long it took.

    Returns:
        A row a run and step: run, series, seed, step, seconds; and, the same for all of a run:
        policy and reference (completions drawn and scored in a step), bank (samples stored once,
        before the first step), steps, prompts (of a step), draws (reference samples of each that
        the algorithm saw) and documents (to train on).
    """
    parts = []
    for spec, folder in zip(specs, folders, strict=True):
        record = folder.record()[["step", "seconds"]]
        labels = {"run": folder.path.name, "series": spec.labels["series"],
                  "seed": spec.labels["seed"]}  # fmt: skip
        parts.append(record.assign(**labels, **_plan(spec)))
    return pd.concat(parts, ignore_index=True)


def _plan(spec: Spec) -> dict[str, int]:
    config, algorithm, documents = spec.config, spec.algorithm, spec.task.train
    prompts, draws = config.prompts_per_step, algorithm.anchor_draws + algorithm.quantile_draws
    anew = config.fresh or algorithm.anchor_moves
    return {
        "policy": prompts * algorithm.policy_draws,
        "reference": prompts * draws if anew else 0,
        "bank": 0 if anew else documents * config.bank_samples,
        "steps": config.steps,
        "prompts": prompts,
        "draws": draws,
        "documents": documents,
    }


def table(taken: pd.DataFrame) -> pd.DataFrame:
    """Reward calls, completions and seconds: panel, group, series, mean, low, high, count.

    The bank is spread over the steps of its run. Seconds are the median over all steps of a series,
    with a bootstrap interval over steps; they say what the machine did beside it as well.
    """
    rows = []
    for series, part in taken.groupby("series", sort=False):
        plan = part.iloc[0]
        spread = plan["bank"] / plan["steps"]
        counts = (
            ("calls", "each step", plan["policy"] + plan["reference"]),
            ("calls", "bank, spread", spread),
            ("completions", "policy", plan["policy"]),
            ("completions", "reference", plan["reference"]),
            ("completions", "bank, spread", spread),
        )
        rows += [(panel, group, series, n, math.nan, math.nan, 0) for panel, group, n in counts]
        found = median_interval(part["seconds"])
        ends = (found.mean, found.low, found.high, found.count)
        rows.append(("seconds", "each step", series, *ends))
    columns = ["panel", "group", "series", "mean", "low", "high", "count"]
    return pd.DataFrame(rows, columns=columns)


def median_interval(values: Sequence[float]) -> Interval:
    """Median with a 95 % bootstrap interval; a single value has none."""
    values = np.asarray(values, float)
    again = _medians(values, np.random.default_rng(0))
    low, high = np.quantile(again, [0.025, 0.975]) if len(values) > 1 else (math.nan, math.nan)
    middle = float(np.median(values))
    return Interval(middle, float(low), float(high), float(again.std(ddof=1)), len(values))


def _medians(values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Medians of resampled values [RESAMPLES]."""
    return np.median(generator.choice(values, (RESAMPLES, len(values))), axis=1)


# -- where learning pays ---------------------------------------------------------------------------


def break_even(found: pd.DataFrame, scoring: float) -> pd.DataFrame:
    """What the model adds, what it saves, and the cost of a reward at which both are equal.

    Where samples are drawn anew, learning saves k - 1 of them for each of a step's prompts; where
    they are stored, k - 1 of each document's, once for all steps.

    Args:
        found: `steps` of the three series; the learned runs read stored samples.
        scoring: seconds of one reward call as it is now.

    Returns:
        what, value, low, high (95 %, bootstrap over steps), all in seconds. A tie below 0 says that
        learning pays however cheap the reward is.
    """
    seconds = {name: part["seconds"].to_numpy() for name, part in found.groupby("series")}
    plans = {name: part.iloc[0] for name, part in found.groupby("series")}
    counted, learned = plans[STORED], plans[LEARNED]
    fewer = counted["draws"] - learned["draws"]
    saved = {
        "fresh": fewer * counted["prompts"],
        "stored": fewer * counted["documents"] / counted["steps"],
    }

    def parts(medians: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        added = medians[LEARNED] - medians[STORED]
        sample = (medians[FRESH] - medians[STORED]) / (counted["draws"] * counted["prompts"])
        rows = {"the model adds to a step": added, "a reference sample and its reward": sample}
        for name, count in saved.items():
            rows[f"tie, {name} samples: a sample and its reward"] = added / count
            rows[f"tie, {name} samples: a reward call"] = scoring + added / count - sample
        return rows

    values = parts({name: np.median(x) for name, x in seconds.items()})
    generator = np.random.default_rng(0)
    again = parts({name: _medians(x, generator) for name, x in seconds.items()})
    ends = {what: np.quantile(x, [0.025, 0.975]) for what, x in again.items()}
    return pd.DataFrame(
        [(what, float(value), *ends[what]) for what, value in values.items()],
        columns=["what", "value", "low", "high"],
    )
