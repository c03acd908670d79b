"""The paper's figures on the exact toy (`toy.runs`): the study's algorithms, steps and rules.

What decides a claim on language models decides it here, in many runs with problems of their own and
without an error of measurement. What the toy lacks: prompts that share parameters, held-out ones,
and a model of quantiles (Figure 9). Learning rates are chosen as the study's are (`tuning`), on
other problems; they are of logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import pandas as pd
from pydantic import BaseModel

from bondlab.algorithms import max_at_k, qrpo, wind
from bondlab.naming.fingerprint import label
from bondlab.report.kept import Profile, Results, Tables, once, runs_table
from bondlab.study import (
    alignment,
    anchor_ablations,
    anchor_speeds,
    claims,
    controls,
    divergences,
    evidence,
    iterative,
    j_bond,
    other_baselines,
    tuning,
    xsum,
)
from bondlab.study.alignment import FIRST, SIZES
from bondlab.study.claims import Claim
from bondlab.study.controls import FLOAT32
from bondlab.study.cooling import TEMPERATURES
from bondlab.study.experiments import methods
from bondlab.study.report import TOY
from bondlab.study.sweep import Spec
from bondlab.tasks import stand_ins
from bondlab.toy.runs import World, train

PROFILES = {"smoke": 2, "laptop": 20, "study": 100, "paper": 100}  # runs of each series
RATES = (0.02, 0.05, 0.1)
TUNED_ON, TUNING_RUNS = 1, 20  # the seed of other problems, and how many runs choose a rate
# Run here alone, not with their papers' values: a KL as strong as WARP's and online DPO's; the best
# of half of eight draws.
HERE_ALONE: alignment.Runs = {
    "WIND": (wind(0.1), {}),
    "QRPO": (qrpo(0.1), {}),
    "max@4 of 8": (max_at_k(4, 0.1), {"beta_rl": 0.1}),
}
READ = ("steps", "warmup", "evaluate_every", "prompts_per_step", "learning_rate")  # by `train`
TABLES = ("evaluations", "baselines", "cooling", "runs")


class Settings(BaseModel):
    """The parameters of the notebook."""

    profile: Profile


@dataclass(frozen=True)
class Shown:
    """What figures show: the runs of a profile, one of each series, and the claims on them.

    Without those that an exact toy which goes slowly has no use for: first steps, and float32.
    """

    specs: Callable[[str], Sequence[Spec]]
    claims: Sequence[Claim]


def _alignment(profile: str) -> list[Spec]:
    def runs(scale: str) -> alignment.Runs:
        found = anchor_ablations.runs(scale) | controls.runs(scale)
        return found | anchor_speeds.runs(scale) | _methods(scale)

    found = alignment.specs(runs, "", profile, tuned=False)
    return [s for s in found if not s.labels["series"].endswith((FIRST, FLOAT32))]


def _methods(profile: str) -> alignment.Runs:
    return methods(profile) | HERE_ALONE


FIGURES = {
    "figure_2": Shown(  # without the runs on stored samples, which the toy does not have
        partial(
            divergences.runs, sizes=(divergences.N, *divergences.OTHERS), seeds=(0,), tuned=False
        ),
        divergences.EXPERIMENT.claims,
    ),
    "figure_4": Shown(partial(iterative.specs, tuned=False), iterative.EXPERIMENT.claims),
    "figures_5_6_7": Shown(
        _alignment,
        [
            claim
            for each in (anchor_ablations, controls, anchor_speeds, j_bond, other_baselines)
            for claim in each.EXPERIMENT.claims
            if not any(FLOAT32 in term.series for term in claim.terms)
        ],
    ),
}


def results(name: str, profile: Profile) -> Results:
    """The tables of one of `FIGURES`: computed (seconds to minutes), or those that are shipped."""
    return Results(TOY, profile, name).load(TABLES, lambda: _tables(name, profile))


def decided(name: str, found: Results) -> pd.DataFrame:
    """`claims.decided` of one of `FIGURES`, without what all have alike: seeds and dates."""
    table = claims.decided(FIGURES[name].claims, evidence.of(found))
    return table.drop(columns=["seeds", "needed", "fixed"])


def _tables(name: str, profile: Profile) -> Tables:
    given = "smoke" if profile == "smoke" else "study"
    specs = [spec for spec in FIGURES[name].specs(given) if spec.labels["seed"] == 0]
    rates, world = _rates(specs, given, PROFILES[profile]), World.of(0, PROFILES[profile])
    evaluations, runs = [], []
    for spec in specs:
        rate = rates[spec.labels.get("tuned", xsum.TUNED)]
        table, manifest = _trained(spec, world, 0, rate)
        labels = {k: v for k, v in spec.labels.items() if k != "seed"} | {"profile": profile}
        runs.append(runs_table(manifest, **labels, learning_rate=rate))
        few = {k: labels[k] for k in ("row", "series", "n", "warmup", "profile") if k in labels}
        evaluations.append(_of_runs(table).assign(**few, spread=world.spread))
    best = [_of_runs(world.measured(world.best_of(n), n)).assign(n=n) for n in SIZES]
    cooled = [
        _of_runs(world.measured(world.cooled(t), 1)).assign(temperature=t) for t in TEMPERATURES
    ]
    # Figures place Best-of-n at one KL.
    best = [t.assign(kl_to_reference=t["kl_to_reference"].mean()) for t in best]
    return {
        "evaluations": _small(pd.concat(evaluations, ignore_index=True)),
        "baselines": _small(pd.concat(best, ignore_index=True).assign(profile=profile)),
        "cooling": _small(pd.concat(cooled, ignore_index=True).assign(profile=profile)),
        "runs": pd.concat(runs, ignore_index=True),
    }


def _trained(spec: Spec, world: World, seed: int, rate: float) -> tuple[pd.DataFrame, dict]:
    """All runs of a series on a world of this seed, and their manifest; trained once."""
    config = spec.config.model_copy(update={"learning_rate": rate})
    n, on_noise = int(spec.labels.get("n", 2)), spec.task.reward == stand_ins.NOISE
    identity = {
        "algorithm": spec.algorithm.identity,
        "code": label(train, "train"),
        "problems": [seed, world.runs],
        "config": {name: getattr(config, name) for name in READ} | {"fresh": True},
        "n": n,
        "noise": on_noise,
    }
    return once(TOY, identity, lambda: train(spec.algorithm, world, config, n, on_noise))


def _rates(specs: Sequence[Spec], profile: str, runs: int) -> dict[str, float]:
    """Chosen for each method of these runs: `tuning.choice` on other problems."""
    known = [*xsum.untuned(profile), *alignment.specs(_methods, "", profile, tuned=False)]
    wanted = {spec.labels.get("tuned", xsum.TUNED) for spec in specs}
    tried = {s.labels["series"]: s for s in known if s.labels["series"] in wanted}
    world, rows = World.of(TUNED_ON, min(runs, TUNING_RUNS)), []
    for series, spec in tried.items():
        steps = min(tuning.STEPS, spec.config.steps)
        every = min(tuning.EVERY, spec.config.evaluate_every)
        config = spec.config.model_copy(update={"steps": steps, "evaluate_every": every})
        for rate in RATES:
            table, _ = _trained(replace(spec, config=config), world, TUNED_ON, rate)
            means = table.groupby("step")[["reward", "kl_to_reference"]].mean().reset_index()
            rows.append(means.assign(series=series, rate=rate, spread=world.spread))
    chosen = tuning.choice(pd.concat(rows)).query("chosen")
    return dict(zip(chosen["series"], chosen["rate"], strict=True))


def _of_runs(table: pd.DataFrame) -> pd.DataFrame:
    """Means over each run's prompts, which no other run has: a row per run, and step if there."""
    keys = [name for name in ("step", "seed") if name in table]
    return table.groupby(keys, sort=False, as_index=False).mean().assign(prompt=0)


def _small(table: pd.DataFrame) -> pd.DataFrame:
    """Measures in float32, which halves the files."""
    measures = table.select_dtypes("float64").columns
    return table.astype(dict.fromkeys(measures, "float32"))
