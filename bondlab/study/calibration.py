"""Is an estimated quantile right? Predictions held against the bank, whose own noise is taken out.

The truth p_<=(y) is never seen, only the share of a bank's samples that score no higher than y. Its
mean is p whatever the bank's size, so a reliability curve needs no more; from squared errors the
share's own variance is subtracted. Both are then unbiased, and a few dozen samples per prompt do.

Legend: S seeds, B prompts, F columns.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd
from scipy import stats

from bondlab.report.intervals import TAIL, Interval, grouped, known, mean_interval, text

MONTE_CARLO = 16  # section 4.2
LEARNED, COUNTED, CONSTANT = "learned", f"counted in {MONTE_CARLO} samples", "always 1/2"
STORED = "counted in the store"
RESAMPLES = 2000  # of seeds and prompts, for the bootstrap
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

    The interval resamples prompts (and seeds, if several). Empty bins are left out.
    """
    draws = _resampled(table, _in_bins(table))
    counts, predicted, shares = np.split(draws[0], 3)
    cells, rows = table["seed"].nunique() * table["prompt"].nunique(), []
    for b in np.flatnonzero(counts):
        with np.errstate(invalid="ignore"):  # a bin may be empty in a resample
            means = draws[1:, 2 * BINS + b] / draws[1:, b]
        low, high = np.nanquantile(means, [1 - TAIL, TAIL])
        count = int(round(counts[b] * cells))
        rows.append((predicted[b] / counts[b], shares[b] / counts[b], low, high, count))
    return pd.DataFrame(rows, columns=["x", "mean", "low", "high", "count"])


def calibration_error(table: pd.DataFrame) -> tuple[Interval, float]:
    """Mean over completions of |observed - predicted| of their bin, and what chance alone gives.

    Noise in the bins makes the error of a perfectly calibrated model positive too: its expectation
    is the second number, the bins' bootstrap errors times sqrt(2 / pi). The interval is normal,
    with the bootstrap's error, and cut at 0: resampling would add that noise a second time, so
    that a percentile interval would lie too high.

    Args:
        table: `observed` of one source and step.
    """
    count, predicted, share = np.split(_resampled(table, _in_bins(table)), 3, axis=1)
    gaps = (share - predicted) / count.sum(1, keepdims=True)
    by_chance = math.sqrt(2 / math.pi) * gaps[1:].std(axis=0, ddof=1).sum()
    return _normal(np.abs(gaps).sum(1), least=0.0), float(by_chance)


def _in_bins(table: pd.DataFrame) -> np.ndarray:
    """Count, prediction and share of each completion, each in its bin's column: [rows, 3 bins]."""
    place = np.minimum((table["predicted"] * BINS).astype(int), BINS - 1).to_numpy()
    values = np.stack([np.ones(len(table)), table["predicted"], table["share"]], 1)
    return (values[:, :, None] * np.eye(BINS)[place][:, None, :]).reshape(len(table), -1)


def rank_correlations(table: pd.DataFrame) -> dict[str, Interval]:
    """Spearman's correlation of prediction and share: over all completions, and within prompts.

    Both are pulled towards 0 by the bank's noise. "within prompts" is the mean over prompts of
    each one's own correlation (seeds averaged), where both vary; "across prompts" ranks all
    completions together, and its interval resamples prompts with these ranks kept. NaN where
    nothing varies.

    Args:
        table: `observed` of one source and step.
    """
    values: dict[int, list[float]] = {}
    for (prompt, _), part in table.groupby(["prompt", "seed"]):
        if _varies(part):
            found = stats.spearmanr(part["predicted"], part["share"]).statistic
            values.setdefault(prompt, []).append(found)
    within = mean_interval([np.mean(own) for own in values.values()]) if values else NOTHING
    within = dataclasses.replace(within, low=max(within.low, -1.0), high=min(within.high, 1.0))
    return {"within prompts": within, "across prompts": _across(table)}


def _varies(table: pd.DataFrame) -> bool:
    return table["predicted"].nunique() > 1 and table["share"].nunique() > 1


def _across(table: pd.DataFrame) -> Interval:
    if not _varies(table):
        return NOTHING
    x, y = (stats.zscore(stats.rankdata(table[name])) for name in ("predicted", "share"))
    sums = _resampled(table, np.stack([np.ones(len(x)), x, y, x * x, y * y, x * y], 1))
    count, x, y, xx, yy, xy = sums.T
    return _normal((count * xy - x * y) / np.sqrt((count * xx - x * x) * (count * yy - y * y)))


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


def _resampled(table: pd.DataFrame, values: np.ndarray) -> np.ndarray:
    """Means over seeds and prompts of the totals of values [rows, F] in each: [1 + RESAMPLES, F].

    The first as they are, the others resampled: of S seeds and B prompts S - 1 and B - 1 are drawn,
    which makes each mean vary as much as the mean of S or B does. An unbalanced table fails here.
    """
    frame = pd.DataFrame(values).groupby([table["seed"].to_numpy(), table["prompt"].to_numpy()])
    shape = (table["seed"].nunique(), table["prompt"].nunique(), values.shape[1])
    totals, generator, shares = frame.sum().to_numpy().reshape(shape), np.random.default_rng(0), []
    for count in shape[:2]:
        draws = max(count - 1, 1)
        chosen = generator.multinomial(draws, np.full(count, 1 / count), size=RESAMPLES)
        shares.append(chosen / draws)
    again = np.einsum("rs,rb,sbf->rf", *shares, totals, optimize=True)
    return np.concatenate([totals.mean((0, 1))[None], again])


def _normal(draws: np.ndarray, least: float = -1.0) -> Interval:
    """The first draw +- 1.96 times the spread of the others, within [least, 1]."""
    value, error = float(draws[0]), float(draws[1:].std(ddof=1))
    reach = float(stats.norm.ppf(TAIL)) * error
    return Interval(value, max(value - reach, least), min(value + reach, 1.0), error, 0)
