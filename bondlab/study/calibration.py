"""Is an estimated quantile right? Predictions held against the bank, whose own noise is taken out.

The truth p_<=(y) is never seen, only the share of a bank's samples that score no higher than y. Its
mean is p whatever the bank's size, so a reliability curve needs no more; from squared errors the
share's own variance is subtracted. Both are then unbiased, and a few dozen samples per prompt do.

Legend: S seeds, B prompts.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd
from scipy import stats

from bondlab.report.intervals import (
    Interval,
    cell_interval,
    grid,
    grouped,
    known,
    mean_interval,
    text,
)

MONTE_CARLO = 16  # section 4.2
LEARNED, COUNTED, CONSTANT = "learned", f"counted in {MONTE_CARLO} samples", "always 1/2"
STORED = "counted in the store"
BINS = 10  # of equal width in predicted p
NOTHING = Interval(*[math.nan] * 4, 0)


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
    table = evaluation.reset_index(drop=True).rename(columns={"predicted_quantile": "predicted"})
    place = table.groupby(["step", "prompt"]).ngroup()
    own = (table["source"] == "reference").to_numpy()
    bank = table[own].assign(place=place).pivot(index="place", columns="sample", values="reward")
    bank = bank.reindex(range(place.max() + 1)).to_numpy()  # [steps and prompts, k]
    sizes = np.isfinite(bank).sum(1)
    if sizes.min() < 3:  # the noise of a share of one draw cannot be told
        raise ValueError(f"calibration needs three reference samples a prompt, not {sizes.min()}")
    beaten = (bank[place] <= table["reward"].to_numpy()[:, None]).sum(1) - own
    draws = sizes[place] - own
    table = table.assign(share=beaten / draws, draws=draws, seed=seed)
    return table[["step", "seed", "source", "prompt", "sample", "predicted", "share", "draws"]]


def squared_errors(table: pd.DataFrame) -> pd.DataFrame:
    """Unbiased squared errors of p, a row per completion and estimator.

    (q - share)^2 is too large by the share's variance p(1-p)/draws, which share (1 - share) /
    (draws - 1) estimates without bias. Counting 16 samples has the error p(1-p)/16, from the same
    estimate. A single value may be negative; means are not, but for noise.

    Returns:
        step, seed, source, prompt, series (`LEARNED`, `COUNTED`, `CONSTANT`), squared_error.
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


def curve_table(table: pd.DataFrame) -> pd.DataFrame:
    """The plotted numbers: row (the source), panel, series, kind, x, mean, low, high, count.

    Panels "predicted" and "reliability" are of the last step. predicted: percent of completions in
    each bin of p, as the model says and as the store counts. reliability: observed against
    predicted p in bins; mean is the share of reference samples at or below a bin's completions,
    which is x, the bin's mean prediction, where the model is calibrated. Panel "error": mean
    squared error of p against steps.
    """
    parts = []
    for source, part in table[table["step"] == table["step"].max()].groupby("source"):
        line = {"row": source, "panel": "reliability"}
        bins = reliability(part).assign(**line, series=LEARNED, kind="joined")
        same = {**line, "series": "calibrated", "kind": "formula"}
        parts += [_histogram(part).assign(row=source), bins]
        parts.append(pd.DataFrame([{**same, "x": x, "mean": x} for x in (0.0, 1.0)]))
    errors = grouped(squared_errors(table), "squared_error", ["source", "step", "series"])
    errors = errors.rename(columns={"source": "row", "step": "x"})
    return pd.concat([*parts, errors.assign(panel="error", kind="joined")], ignore_index=True)


def _histogram(table: pd.DataFrame) -> pd.DataFrame:
    """Percent of completions in each bin of the predicted and of the counted p."""
    middles, parts = (np.arange(BINS) + 0.5) / BINS, []
    for series, column in ((LEARNED, "predicted"), (STORED, "share")):
        count = np.histogram(table[column], BINS, (0, 1))[0]
        own = pd.DataFrame({"x": middles, "mean": 100 * count / count.sum(), "count": count})
        parts.append(own.assign(series=series, kind="joined", low=math.nan, high=math.nan))
    return pd.concat(parts).assign(panel="predicted")


def reliability(table: pd.DataFrame) -> pd.DataFrame:
    """Observed against predicted p in bins, of one source and step: x, mean, low, high, count.

    A bin's mean is a ratio; its interval is that of the ratio's linear part (delta method). Empty
    bins are left out.
    """
    cells, rows = _in_bins(table), []
    for b in np.flatnonzero(cells[0].sum((0, 1))):
        count, predicted, share = (values[:, :, b] for values in cells)
        mean = share.sum() / count.sum()
        found = _within(cell_interval(mean + (share - mean * count) / count.mean()), 0.0)
        x = predicted.sum() / count.sum()
        rows.append((x, found.mean, found.low, found.high, int(count.sum())))
    return pd.DataFrame(rows, columns=["x", "mean", "low", "high", "count"])


def calibration_error(table: pd.DataFrame) -> tuple[Interval, float]:
    """Mean over completions of |observed - predicted| of their bin, and what chance alone gives.

    Noise in the bins makes the error of a perfectly calibrated model positive too: its expectation
    is the second number, the bins' standard errors times sqrt(2 / pi). In the interval, cut at 0,
    each bin keeps its sign.

    Args:
        table: `observed` of one source and step.
    """
    count, predicted, share = _in_bins(table)
    gaps = (share - predicted) / count.sum(2).mean()
    errors = [cell_interval(gaps[:, :, b]).standard_error for b in range(BINS)]
    by_chance = math.sqrt(2 / math.pi) * sum(errors)
    return _within(cell_interval((gaps * np.sign(gaps.mean((0, 1)))).sum(2)), 0.0), by_chance


def _in_bins(table: pd.DataFrame) -> list[np.ndarray]:
    """Count, and sums of prediction and share, in each bin of the prediction: [S, B, BINS] each."""
    place = np.minimum((table["predicted"] * BINS).astype(int), BINS - 1)
    table = table.assign(count=1.0, bin=pd.Categorical(place, range(BINS)))
    names = ["count", "predicted", "share"]
    sums = table.groupby(["seed", "prompt", "bin"], observed=False)[names].sum()
    shape = [len(level) for level in sums.index.levels]
    return [sums[name].to_numpy().reshape(shape) for name in names]


def rank_correlations(table: pd.DataFrame) -> dict[str, Interval]:
    """Spearman's correlation of prediction and share: over all completions, and within prompts.

    Both are pulled towards 0 by the bank's noise. "within prompts" is the mean over prompts of
    each one's own correlation (seeds averaged), where both vary; "across prompts" ranks all
    completions together, and its interval is that of its linear part with these ranks kept. NaN
    where nothing varies.

    Args:
        table: `observed` of one source and step.
    """
    found = table.groupby(["prompt", "seed"])[["predicted", "share"]].corr("spearman")
    own = found.xs("predicted", level=-1)["share"].groupby("prompt").mean().dropna()
    within = mean_interval(own) if len(own) else NOTHING
    return {"within prompts": _within(within), "across prompts": _across(table)}


def _across(table: pd.DataFrame) -> Interval:
    if 1 in (table["predicted"].nunique(), table["share"].nunique()):
        return NOTHING
    x, y = (stats.zscore(stats.rankdata(table[name])) for name in ("predicted", "share"))
    found = (x * y).mean()
    values = table.assign(value=found + x * y - found * (x * x + y * y) / 2)
    return _within(cell_interval(grid(values, "value")))


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Errors, calibration and order at the end: text, a row per measure, a column per source."""
    columns = {}
    for source, part in table[table["step"] == table["step"].max()].groupby("source"):
        errors = grouped(squared_errors(part), "squared_error", ["series"])
        found = {f"mean squared error of p, {row.series}": row for row in errors.itertuples()}
        found["calibration error"], chance = calibration_error(part)
        found["calibration error by chance"] = known(chance)
        for name, interval in rank_correlations(part).items():
            found[f"rank correlation {name}"] = interval
        columns[source] = {what: text(i.mean, i.low, i.high) for what, i in found.items()}
    return pd.DataFrame(columns).rename_axis("measure").reset_index()


def _within(found: Interval, least: float = -1.0) -> Interval:
    """The interval cut at `least` and at 1."""
    return dataclasses.replace(found, low=max(found.low, least), high=min(found.high, 1.0))
