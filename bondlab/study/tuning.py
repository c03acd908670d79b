"""One procedure that gives each method its learning rate, without a look at the held-out prompts.

A method is trained with each of `RATES`, `STEPS` steps of the study's batch (or as many as its runs
have, if fewer) with a seed that no other run has, on the first three quarters of the training
prompts, and measured on prompts of the last (`TaskSettings.rehearsal`). Chosen is the rate with the
highest reward at a KL of `REACH` nats to the reference, for that is what methods are compared by. A
run ends with the first evaluation that is further, as nothing later would count; one that gets
nowhere near counts with the reward that it ends with. All have the same budget, and what every rate
gave is kept.

Some runs take the rate of a sibling (their label `tuned`). Anchors and gamma are settings of one
method: all of J-BOND takes that of J-BOND with eta 0.02, and so do its halves without imitation.
REINFORCE is tuned at beta_RL 0.01 and 0.1: 0.001 takes the first's, 1 the second's. RLOO with three
draws has its own. Runs on noise take their method's. On XSum one run stands for all of BOND.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from bondlab import paths
from bondlab.bank import spread
from bondlab.report.kept import Results, Tables, runs_table
from bondlab.report.notebook import ParameterError
from bondlab.results import RunFolder
from bondlab.study.sweep import Spec, held_out_bank, sweep

NAME = "tuning"
RATES = (5e-4, 1e-3, 2e-3)
SEED, STEPS, EVERY, PROMPTS = 11, 100, 10, 64  # steps between evaluations; prompts measured on
REACH = 0.5  # nats: early in the frontier, where every method that moves has been
TIE = 0.02  # spreads of reward; of rates as good as that the smaller is taken
COLUMNS = ["series", "rate", "step", "reward", "kl_to_reference", "seed", "spread"]


def tuned(spec: Spec) -> Spec:
    """A run of the profile study with the learning rate that was chosen for it."""
    rate = chosen_rate(spec.task.name, str(spec.labels["tuned"]))
    return replace(spec, config=spec.config.model_copy(update={"learning_rate": rate}))


def candidates(specs: Sequence[Spec], only: Collection[str] = ()) -> list[Spec]:
    """The runs that choose: every rate for each method that is tuned itself, or for some of them.

    Raises:
        ParameterError: `only` names a series that is not tuned.
    """
    own = {s.labels["series"]: s for s in specs if s.labels["tuned"] == s.labels["series"]}
    if unknown := sorted({*only} - {*own}):
        raise ParameterError(f"not tuned: {', '.join(unknown)}; there are {', '.join(own)}")
    return [_with_rate(own[name], rate) for name in only or own for rate in RATES]


def _with_rate(spec: Spec, rate: float) -> Spec:
    config, few = spec.config, min(PROMPTS, spec.task.train // 4)
    often, steps = min(EVERY, config.evaluate_every), min(STEPS, config.steps)
    changed = {"steps": steps, "evaluate_every": often, "learning_rate": rate, "seed": SEED}
    changed["kl_limit"] = REACH
    task = spec.task.model_copy(update={"rehearsal": True, "evaluate": few})
    labels = {"series": spec.labels["series"], "rate": rate, "seed": SEED}
    return Spec(task, spec.algorithm, config.model_copy(update=changed), labels)


def tune(
    task: str,
    specs: Sequence[Spec],
    profile: str,
    only: Collection[str] = (),
    workers: int | None = None,
) -> pd.DataFrame:
    """Train what is missing of the candidates, keep the tables tuning and runs, return `choice`.

    Series that are not among `only` keep their lines of an earlier call. Raises as `candidates`.
    """
    wanted = candidates(specs, only)
    kept = Results(NAME, profile, _variant(task))

    def compute() -> Tables:
        folders = sweep(wanted, paths.runs_folder() / NAME, workers)
        parts = {"tuning": [], "runs": []}
        for spec, run in zip(wanted, folders, strict=True):
            parts["tuning"].append(_measured(spec, run))
            parts["runs"].append(runs_table(run.manifest, **spec.labels, profile=profile))
        return {name: _with_earlier(kept, name, pd.concat(new)) for name, new in parts.items()}

    return choice(kept.load(["tuning", "runs"], compute)["tuning"])


def _variant(task: str) -> str:
    return "" if task == "sentiment" else task


def _with_earlier(kept: Results, name: str, table: pd.DataFrame) -> pd.DataFrame:
    """The table with other series' lines of an earlier one."""
    path = kept.folder / f"results_{name}.parquet"
    earlier = pd.read_parquet(path) if path.exists() else table[:0]
    others = earlier[~earlier["series"].isin(table["series"])]
    return pd.concat([part for part in (others, table) if len(part)], ignore_index=True)


def _measured(spec: Spec, run: RunFolder) -> pd.DataFrame:
    """`COLUMNS` of a run, a row per evaluation: means over prompts and completions."""
    own = run.evaluation().query("source == 'policy'")
    means = own.groupby("step")[["reward", "kl"]].mean().reset_index()
    means = means.rename(columns={"kl": "kl_to_reference"}).assign(**spec.labels)
    return means.assign(spread=spread(held_out_bank(spec).rewards))[COLUMNS]


# -- choosing --------------------------------------------------------------------------------------


def height(kl: np.ndarray, reward: np.ndarray) -> float:
    """The reward where a run first is `REACH` nats away, straight in the root of the KL; [T] each.

    That of its last evaluation, if it never is.
    """
    (beyond,) = np.nonzero(kl >= REACH)
    if not beyond.size or not beyond[0]:
        return float(reward[-1])
    ends = slice(beyond[0] - 1, beyond[0] + 1)
    root = np.sqrt(np.clip(kl[ends], 0, None))
    return float(np.interp(np.sqrt(REACH), root, reward[ends]))


def choice(table: pd.DataFrame) -> pd.DataFrame:
    """series, rate, height (reward at `REACH` nats, in spreads) and chosen: a row a candidate."""
    rows = []
    for (series, rate), run in table.groupby(["series", "rate"], sort=False):
        way = run.sort_values("step")[["kl_to_reference", "reward"]].to_numpy().T
        rows.append((series, rate, height(*way) / run["spread"].iloc[0]))
    found = pd.DataFrame(rows, columns=["series", "rate", "height"])
    good = found["height"] >= found.groupby("series")["height"].transform("max") - TIE
    smallest = found["rate"].where(good).groupby(found["series"]).transform("min")
    return found.assign(chosen=found["rate"] == smallest)


def chosen_rate(task: str, series: str) -> float:
    """The learning rate of a method on a task, from the table that came with the clone.

    Raises:
        ParameterError: the table lacks it; the message says what makes it.
    """
    path = paths.committed_folder(NAME) / _variant(task) / "results_tuning.parquet"
    table = pd.read_parquet(path) if path.exists() else pd.DataFrame(columns=COLUMNS)
    found = choice(table[table["series"] == series])
    if found.empty:
        raise ParameterError(
            f"no learning rate was chosen for {series!r} on the task {task}: "
            f"python -m bondlab tune {task} --only {series!r} trains its candidates"
        )
    return float(found.loc[found["chosen"], "rate"].iloc[0])
