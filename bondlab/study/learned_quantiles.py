"""Learned quantiles on XSum (Figure 9): runs, claim, and what counted and learned quantiles cost.

Counting needs k samples of the reference, drawn and scored, where a learned model needs one, but
the model itself takes time. Learning pays once the samples that it saves cost more than that. A
sample's cost is measured as a difference: runs that draw the reference's samples anew differ in
nothing else from runs that read them from a bank.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import numpy as np
import pandas as pd

from bondlab import best_of_n, device
from bondlab.algorithms import bond
from bondlab.bank import seeded
from bondlab.quantiles import Learned
from bondlab.report.intervals import TAIL
from bondlab.report.kept import Results, Tables
from bondlab.results import RunFolder
from bondlab.study import calibration
from bondlab.study.cells import NAMES
from bondlab.study.claims import Claim, Term, lead
from bondlab.study.experiment import Experiment, RunSettings, seeds
from bondlab.study.sweep import Spec
from bondlab.study.xsum import AS_GOOD, RUNS, rated, spec
from bondlab.task import score

N = 8  # appendix B.1, Fig. 9
CLOSE = 0.1  # share of what a divergence is before training by its formula
STORED, FRESH = "counted, stored samples", "counted, fresh samples"
LEARNED = "learned"
RESAMPLES = 2000  # of steps, for the bootstrap of a median
PARTS = ("the policy's", "the reference's, drawn anew", "the store's, spread over the run")
# After 12 steps of 16 summaries the model knew nothing yet (profile laptop). Here it sees 4096.
LONGER = {"study": {"steps": 128, "evaluate_every": 32}}


def specs(profile: str) -> list[Spec]:
    """N = 8, beta 0.5: quantiles counted in stored or in fresh samples, or learned."""
    # Not stated; chosen equal to the policy's.
    learned = bond(N, 0.5, quantile_model=Learned(rated(profile).learning_rate))
    plans = [
        (STORED, bond(N, 0.5), False), (FRESH, bond(N, 0.5), True), (LEARNED, learned, False)
    ]  # fmt: skip
    return [
        spec(profile, algorithm, seed, {"row": f"N = {N}", "series": name}, fresh=fresh,
             **LONGER.get(profile, {}))
        for seed in seeds(profile) for name, algorithm, fresh in plans
    ]  # fmt: skip


def _beside(column: str, reach: float) -> Term:
    what = f"{NAMES[column]}, learned minus counted (stored)"
    return lead(what, LEARNED, STORED, column, -reach, reach)


EXPERIMENT = Experiment(
    "xsum_quantiles",
    "Learned quantiles, and how many samples are enough",
    "04_learned_quantiles",
    specs,
    runs=RUNS,
    claims=(
        Claim(
            "C8",
            "Learned quantiles give curves very close to Monte-Carlo quantiles.",
            "appendix B.1, Fig. 9",
            [
                _beside("backward_kl", CLOSE * best_of_n.backward_kl(N)),
                _beside("forward_kl", CLOSE * best_of_n.kl_bound(N)),
                _beside("log_quantile", AS_GOOD),
            ],
            "In nats, after the last step; of each divergence a tenth of its formula's value "
            "before training.",
            short="learned quantiles match counted ones",
        ),
    ),
)


def beside(found: Results, settings: RunSettings) -> Results:
    """The results with the tables predictions (`calibration.observed`) and steps (`steps`).

    Raises as `Results.load`.
    """

    def compute() -> Tables:
        specs = EXPERIMENT.specs(settings.profile)
        folders = EXPERIMENT.sweep(specs, settings.workers)
        predictions = [
            calibration.observed(run.evaluation(), spec.labels["seed"])
            for spec, run in zip(specs, folders, strict=True)
            if spec.algorithm.quantile_model
        ]
        timed = [steps(spec, run) for spec, run in zip(specs, folders, strict=True)]
        tables = {"predictions": predictions, "steps": timed}
        tables = {name: pd.concat(parts, ignore_index=True) for name, parts in tables.items()}
        alone = seconds_of_a_sample(specs[0])
        tables["steps"] = tables["steps"].assign(**alone)
        return {name: table.assign(profile=settings.profile) for name, table in tables.items()}

    return found.load(["predictions", "steps"], compute)


def steps(spec: Spec, run: RunFolder) -> pd.DataFrame:
    """What each training step of a run asked for, and how long it took.

    Returns:
        A row per step: run, series, seed, step, seconds; and, the same for all of the run: policy
        and reference (completions drawn and scored in a step), bank (samples stored once, before
        the first step), steps, prompts (of a step), draws (reference samples of each that the
        algorithm saw) and documents (to train on).
    """
    config, algorithm, documents = spec.config, spec.algorithm, spec.task.train
    prompts, draws = config.prompts_per_step, algorithm.anchor_draws + algorithm.quantile_draws
    anew = algorithm.draws_anew(config)
    return run.record()[["step", "seconds"]].assign(
        run=run.path.name,
        series=spec.labels["series"],
        seed=spec.labels["seed"],
        policy=prompts * algorithm.policy_draws,
        reference=prompts * draws if anew else 0,
        bank=0 if anew else len(spec.banks()[0].prompts) * config.bank_samples,
        steps=config.steps,
        prompts=prompts,
        draws=draws,
        documents=documents,
    )


def seconds_of_a_sample(spec: Spec) -> dict[str, float]:
    """Seconds to draw and to score one sample of the reference, alone: drawing, scoring."""
    task, prompts = spec.build(), spec.build().eval_prompts[: spec.config.prompts_per_step]
    with device.autocast(spec.config.precision):
        times = [time.perf_counter()]
        drawn = task.model.sample(task.model.encode(prompts), 16, seeded(0, "seconds"))
        texts = task.model.decode(drawn)
        times.append(time.perf_counter())
        score(task.reward, prompts, texts)
        times.append(time.perf_counter())
    drawing, scoring = np.diff(times) / drawn.tokens.shape[:2].numel()
    return {"drawing": float(drawing), "scoring": float(scoring)}


def cost_table(taken: pd.DataFrame) -> pd.DataFrame:
    """Completions and seconds per step: panel, group (the method), series (the part) and mean.

    Each completion is scored once, so reward calls are as many. The store is spread over the steps
    of its run. Seconds are the median over all steps of a method, with a bootstrap interval over
    steps (low, high, count); they say what the machine did beside it as well.
    """
    rows = []
    for method, part in taken.groupby("series", sort=False):
        plan = part.iloc[0]
        counts = zip(
            PARTS, (plan["policy"], plan["reference"], plan["bank"] / plan["steps"]), strict=True
        )
        rows += [("completions", method, name, n, math.nan, math.nan, 0) for name, n in counts]
        seconds = part["seconds"].to_numpy()
        low, high = np.quantile(_medians(seconds, np.random.default_rng(0)), [1 - TAIL, TAIL])
        ends = (low, high) if len(seconds) > 1 else (math.nan, math.nan)
        row = ("seconds", method, "the whole step", np.median(seconds), *ends, len(seconds))
        rows.append(row)
    columns = ["panel", "group", "series", "mean", "low", "high", "count"]
    return pd.DataFrame(rows, columns=columns)


def _medians(values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Medians of resampled values [RESAMPLES]."""
    return np.median(generator.choice(values, (RESAMPLES, len(values))), axis=1)


def break_even(taken: pd.DataFrame) -> pd.DataFrame:
    """What the model adds, what it saves, and the cost of a reward at which both are equal.

    Where samples are drawn anew, learning saves k - 1 of them for each of a step's prompts; where
    they are stored, k - 1 of each document's, once for all steps.

    Args:
        taken: `steps` of the three series, with drawing and scoring; the learned runs read stored
            samples.

    Returns:
        what, seconds, low, high (95 %, bootstrap over steps). A tie below 0 says that learning pays
        however cheap the reward is.
    """
    first = {name: part.iloc[0] for name, part in taken.groupby("series")}
    counted, scoring = first[STORED], float(taken["scoring"].iloc[0])
    fewer = counted["draws"] - first[LEARNED]["draws"]
    saved = {
        "fresh": fewer * counted["prompts"],
        "stored": fewer * counted["documents"] / counted["steps"],
    }

    def parts(medians: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        added = medians[LEARNED] - medians[STORED]
        sample = (medians[FRESH] - medians[STORED]) / (counted["draws"] * counted["prompts"])
        rows = {"the model adds to a step": added, "a reference sample and its reward": sample}
        for name, count in saved.items():
            rows[f"break-even, {name} samples: a sample and its reward"] = added / count
            rows[f"break-even, {name} samples: a reward call"] = scoring + added / count - sample
        return rows

    seconds = {name: part["seconds"].to_numpy() for name, part in taken.groupby("series")}
    values = parts({name: np.median(x) for name, x in seconds.items()})
    generator = np.random.default_rng(0)
    again = parts({name: _medians(x, generator) for name, x in seconds.items()})
    alone = [
        (f"{name} a reference sample, alone", taken[name].iloc[0], math.nan, math.nan)
        for name in ("drawing", "scoring")
    ]
    rows = [
        (what, float(value), *np.quantile(again[what], [1 - TAIL, TAIL]))
        for what, value in values.items()
    ]
    return pd.DataFrame([*alone, *rows], columns=["what", "seconds", "low", "high"])
