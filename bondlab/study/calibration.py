"""Is an estimated quantile right? Predictions held against the bank, whose own noise is taken out.

The truth p_<=(y) is never seen, only the share of a bank's samples that score no higher than y. Its
mean is p whatever the bank's size, so a reliability curve needs no more; from squared errors the
share's own variance is subtracted. Both are then unbiased, and a few dozen samples a prompt do.

Legend: S seeds, B prompts, F columns, R resamples.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from bondlab import measures
from bondlab.measures import Interval

MONTE_CARLO = 16  # section 4.2
LEARNED, COUNTED, CONSTANT = "learned", f"Monte Carlo, {MONTE_CARLO} samples", "always 1/2"
SOURCES = ("policy", "reference")
RESAMPLES = 2000


def observed(evaluation: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """What a run's quantile model said of each completion, and what the bank says.

    Args:
        evaluation: of a run with learned quantiles, as `evaluation.evaluate` makes it.
        seed: the run's, kept as a label.

    Returns:
        step, seed, source, prompt, sample, predicted, share (of the bank's samples of the prompt
        that score no higher; a reference sample is compared with the others, as it is one of them
        itself) and draws (samples behind the share).

    Raises:
        ValueError: there is no prediction for some completion, or a prompt has fewer than three
            reference samples.
    """
    if "predicted_quantile" not in evaluation or evaluation["predicted_quantile"].isna().any():
        raise ValueError("calibration needs a predicted_quantile of every row: a learned run's")
    table = _against_bank(evaluation.reset_index(drop=True)).assign(seed=seed)
    table = table.rename(columns={"predicted_quantile": "predicted"})
    return table[["step", "seed", "source", "prompt", "sample", "predicted", "share", "draws"]]


def _against_bank(table: pd.DataFrame) -> pd.DataFrame:
    """The rows with share and draws."""
    place = table.groupby(["step", "prompt"]).ngroup()
    own = (table["source"] == "reference").to_numpy()
    bank = table[own].assign(place=place).pivot(index="place", columns="sample", values="reward")
    bank = bank.reindex(range(place.max() + 1)).to_numpy()  # [steps and prompts, k]
    sizes = np.isfinite(bank).sum(1)
    if sizes.min() < 3:  # the noise of a share of one draw cannot be told
        raise ValueError(f"calibration needs three reference samples a prompt, not {sizes.min()}")
    beaten = (bank[place] <= table["reward"].to_numpy()[:, None]).sum(1) - own
    draws = sizes[place] - own
    return table.assign(share=beaten / draws, draws=draws)


# -- squared errors --------------------------------------------------------------------------------


def squared_errors(table: pd.DataFrame) -> pd.DataFrame:
    """Unbiased squared errors of p, a row a completion and estimator.

    (q - share)^2 is too large by the share's variance p(1-p)/draws, which share (1 - share) /
    (draws - 1) estimates without bias. Counting 16 samples has the error p(1-p)/16, from the same
    estimate. A single value may be negative; means are not, but for noise.

    Returns:
        step, seed, source, prompt, series (learned, Monte Carlo, always 1/2), squared_error.
    """
    noise = table["share"] * (1 - table["share"]) / (table["draws"] - 1)
    errors = {
        LEARNED: (table["predicted"] - table["share"]) ** 2 - noise,
        COUNTED: noise * table["draws"] / MONTE_CARLO,
        CONSTANT: (0.5 - table["share"]) ** 2 - noise,
    }
    labels = table[["step", "seed", "source", "prompt"]]
    parts = [labels.assign(series=name, squared_error=value) for name, value in errors.items()]
    return pd.concat(parts, ignore_index=True)


def error_curves(table: pd.DataFrame) -> pd.DataFrame:
    """Mean squared error of p against steps: source, step, series, mean, low, high, count."""
    by = ["source", "step", "series"]
    return measures.grouped_intervals(squared_errors(table), "squared_error", by)


# -- reliability -----------------------------------------------------------------------------------


def reliability(table: pd.DataFrame, bins: int = 10) -> pd.DataFrame:
    """Observed against predicted p in bins of equal width: source, step, x, mean, low, high, count.

    x is a bin's mean prediction, mean the share of reference samples at or below its completions,
    which is x where the model is calibrated; the interval resamples prompts (and seeds, if
    several). Empty bins are left out.
    """
    rows = []
    for (source, step), part in table.groupby(["source", "step"]):
        totals, again = _resampled(part, _in_bins(part, bins))
        counts, predicted, shares = np.split(totals, 3)
        with np.errstate(invalid="ignore"):  # a bin may be empty in a resample
            means = again[:, 2 * bins :] / again[:, :bins]
        for b in np.flatnonzero(counts):
            low, high = np.nanquantile(means[:, b], [0.025, 0.975])
            count = int(round(counts[b] * _cells(part)))
            ends = (shares[b] / counts[b], low, high, count)
            rows.append((source, step, predicted[b] / counts[b], *ends))
    return pd.DataFrame(rows, columns=["source", "step", "x", "mean", "low", "high", "count"])


def calibration_error(table: pd.DataFrame, bins: int = 10) -> tuple[Interval, float]:
    """Mean over completions of |observed - predicted| of their bin, and what chance alone gives.

    Noise in the bins makes the error of a perfectly calibrated model positive too: its expectation
    is the second number, the bins' bootstrap errors times sqrt(2 / pi). The interval is normal,
    with the bootstrap's error, and cut at 0: resampling would add that noise a second time, so
    that a percentile interval would lie too high. `count` is the number of prompts times seeds.

    Args:
        table: `observed` of one source and step.
    """
    totals, again = _resampled(table, _in_bins(table, bins))

    def gaps(sums: np.ndarray) -> np.ndarray:
        count, predicted, share = np.split(sums, 3, axis=-1)
        return (share - predicted) / count.sum(-1, keepdims=True)

    by_chance = math.sqrt(2 / math.pi) * gaps(again).std(axis=0, ddof=1).sum()
    value, values = np.abs(gaps(totals)).sum(), np.abs(gaps(again)).sum(-1)
    return _normal(value, values, _cells(table), least=0.0), float(by_chance)


def _in_bins(table: pd.DataFrame, bins: int) -> np.ndarray:
    """Count, prediction and share of each completion, each in its bin's column: [rows, 3 bins]."""
    place = np.minimum((table["predicted"] * bins).astype(int), bins - 1).to_numpy()
    values = np.stack([np.ones(len(table)), table["predicted"], table["share"]], 1)
    return (values[:, :, None] * np.eye(bins)[place][:, None, :]).reshape(len(table), -1)


# -- order -----------------------------------------------------------------------------------------


def rank_correlations(table: pd.DataFrame) -> dict[str, Interval]:
    """Spearman's correlation of prediction and share: over all completions, and within prompts.

    Both are pulled towards 0 by the bank's noise. "within prompts" is the mean over prompts of
    each one's own correlation (seeds averaged), where both vary; "across prompts" ranks all
    completions together, and its interval resamples prompts with these ranks kept. NaN where
    nothing varies.

    Args:
        table: `observed` of one source and step.
    """
    return {"within prompts": _within(table), "across prompts": _across(table)}


def _within(table: pd.DataFrame) -> Interval:
    values: dict[int, list[float]] = {}
    for (prompt, _), part in table.groupby(["prompt", "seed"]):
        if _varies(part):
            found = stats.spearmanr(part["predicted"], part["share"]).statistic
            values.setdefault(prompt, []).append(found)
    if not values:
        return _nothing(_cells(table))
    found = measures.mean_interval([np.mean(own) for own in values.values()])
    return dataclasses.replace(found, low=max(found.low, -1.0), high=min(found.high, 1.0))


def _varies(table: pd.DataFrame) -> bool:
    return table["predicted"].nunique() > 1 and table["share"].nunique() > 1


def _across(table: pd.DataFrame) -> Interval:
    if not _varies(table):
        return _nothing(_cells(table))
    x, y = (stats.zscore(stats.rankdata(table[name])) for name in ("predicted", "share"))
    totals, again = _resampled(table, np.stack([np.ones(len(x)), x, y, x * x, y * y, x * y], 1))
    return _normal(_correlation(totals), _correlation(again), _cells(table))


def _correlation(sums: np.ndarray) -> np.ndarray:
    count, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    return (count * xy - x * y) / np.sqrt((count * xx - x * x) * (count * yy - y * y))


def summary(table: pd.DataFrame, steps: Sequence[int]) -> pd.DataFrame:
    """Errors, calibration and order at some steps: a row a source, step and measure."""
    errors = squared_errors(table)
    rows = []
    for source in SOURCES:
        for step in steps:
            part = table[(table["source"] == source) & (table["step"] == step)]
            chosen = errors[(errors["source"] == source) & (errors["step"] == step)]
            found = {
                f"mean squared error of p, {row.series}": row
                for row in measures.grouped_intervals(chosen, "squared_error", ["series"])
                .itertuples()
            }  # fmt: skip
            found["calibration error"], chance = calibration_error(part)
            found["calibration error by chance"] = Interval(chance, math.nan, math.nan, 0.0, 0)
            for name, interval in rank_correlations(part).items():
                found[f"rank correlation {name}"] = interval
            rows += [
                {"source": source, "step": step, "measure": name, "value": i.mean, "low": i.low,
                 "high": i.high}
                for name, i in found.items()
            ]  # fmt: skip
    return pd.DataFrame(rows)


# -- resampling ------------------------------------------------------------------------------------


def _cells(table: pd.DataFrame) -> int:
    return table["seed"].nunique() * table["prompt"].nunique()


def _resampled(table: pd.DataFrame, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means over seeds and prompts of their totals: as they are [F], and resampled [R, F].

    Args:
        table: rows with seed and prompt.
        values: [rows, F], added up within each seed and prompt.
    """
    frame = pd.DataFrame(values).groupby([table["seed"].to_numpy(), table["prompt"].to_numpy()])
    shape = (table["seed"].nunique(), table["prompt"].nunique(), values.shape[1])
    sums = frame.sum().to_numpy().reshape(shape)  # an unbalanced table fails here
    generator = np.random.default_rng(0)
    seeds, prompts = (measures.resampling_shares(n, RESAMPLES, generator) for n in shape[:2])
    again = np.einsum("rs,rb,sbf->rf", seeds, prompts, sums, optimize=True)
    return sums.mean((0, 1)), again


def _normal(value: float, values: np.ndarray, count: int, least: float = -1.0) -> Interval:
    """value +- 1.96 times the spread of its resamples, within [least, 1]."""
    error = float(values.std(ddof=1))
    reach = float(stats.norm.ppf(0.975)) * error
    value = float(value)
    return Interval(value, max(value - reach, least), min(value + reach, 1.0), error, count)


def _nothing(count: int) -> Interval:
    return Interval(math.nan, math.nan, math.nan, math.nan, count)
