"""Best@n: what a policy gives to who still samples n times and keeps the best by the reward.

BOND promises the n = 1 end of this curve. Whoever can afford n completions per answer asks whether
training still pays there, since a policy that has lost its variety gains little from more draws.
The reference's own curve is sampled Best-of-n, from its bank of held-out samples.

Legend: B prompts, K completions per prompt.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from bondlab import device, paths
from bondlab.bank import PROMPTS_A_PART, seeded
from bondlab.bank import draw as sample
from bondlab.lm.language_model import LanguageModel
from bondlab.report import plots
from bondlab.report.intervals import cell, curves
from bondlab.report.kept import Results, Tables, once
from bondlab.report.notebook import show
from bondlab.report.plots import Panel
from bondlab.study import judge, report, tables
from bondlab.study.alignment import RUNS, SIZES, AlignmentSettings, chosen
from bondlab.study.experiment import Experiment
from bondlab.study.items import REFERENCE
from bondlab.study.sweep import Spec
from bondlab.training import train

SAMPLES = 16  # completions a held-out prompt of each policy: the largest n
PANELS = (
    Panel("reward", "Best of n by the reward", "mean reward of the chosen"),
    Panel("judge", "The chosen, under the second judge", "mean score of the judge"),
)


def results(
    experiment: Experiment, found: Results, settings: AlignmentSettings, series: Collection[str]
) -> Results:
    """The results with the table best_at: `per_prompt` of the reference and of some series.

    The series' runs are finished, and each is drawn from once. "shipped" has the table where the
    study's runs have left it; where not, it is empty.
    """

    def compute() -> Tables:
        specs = chosen(experiment, settings, series)
        task, bank = specs[0].build(), specs[0].banks()[-1].load()
        texts = task.model.decode(bank.completions)
        given = judge.scores(specs[0], task.eval_prompts, texts)
        parts = [per_prompt(bank.rewards, given).assign(series=REFERENCE, seed=0)]
        for spec in tqdm(specs, "best@n", leave=False):
            labels = {name: spec.labels[name] for name in ("series", "seed")}
            parts.append(per_prompt(*drawn(spec)).assign(**labels))
        return {"best_at": pd.concat(parts, ignore_index=True).assign(profile=settings.profile)}

    try:
        return found.load(["best_at"], compute)
    except FileNotFoundError:
        return replace(found, tables={**found.tables, "best_at": pd.DataFrame()})


def drawn(spec: Spec) -> tuple[Tensor, Tensor]:
    """Rewards and judge's scores [B, SAMPLES] of a finished run's last policy; drawn once."""
    task, parent = spec.build(), paths.runs_folder() / RUNS

    def measure() -> pd.DataFrame:
        policy = train(task, spec.algorithm, spec.config, parent).policy
        with device.autocast(spec.config.precision):
            starts = range(0, len(task.eval_prompts), PROMPTS_A_PART)
            return pd.concat([_part(spec, policy, start) for start in starts], ignore_index=True)

    what = {"run": spec.folder(parent).path.name, "samples": SAMPLES}
    table, _ = once("best_at", what, measure)
    wide = table.pivot(index="prompt", columns="sample")
    scores = judge.scores(spec, task.eval_prompts, wide["text"].to_numpy().tolist())
    return torch.tensor(wide["reward"].to_numpy(float)), scores


def _part(spec: Spec, policy: LanguageModel, start: int) -> pd.DataFrame:
    """Completions of a few held-out prompts from the `start`-th on, a row each."""
    task = spec.build()
    texts = task.eval_prompts[start : start + PROMPTS_A_PART]
    generator = seeded(spec.config.seed, "best_at", start)
    with torch.no_grad():
        completions, rewards = sample(policy, task.reward, texts, SAMPLES, generator)
    return pd.DataFrame(
        {"prompt": start + b, "sample": k, "reward": rewards[b, k].item(), "text": text}
        for b, own in enumerate(policy.decode(completions))
        for k, text in enumerate(own)
    )


def per_prompt(rewards: Tensor, scores: Tensor) -> pd.DataFrame:
    """`tables.best_of` of reward and judge's score, n up to K, but not above `SAMPLES`."""
    sizes = range(1, min(SAMPLES, rewards.shape[1]) + 1)
    return tables.best_of({"reward": rewards, "judge": scores}, rewards, sizes)


def draw(
    experiment: Experiment, found: Results, settings: AlignmentSettings, series: Sequence[str]
) -> None:
    """Publish the curves of `results` and show their tables; say so where there are none yet."""
    found = results(experiment, found, settings, series)
    if (table := found["best_at"]).empty:
        print("Best@n was not drawn from the runs shown; any other profile draws it.")
        return
    drawn, shown = curve_table(table, series), found.where(series=series)
    title, xlabel = "Best@n of every policy", "n, completions per answer"
    note = report.note(shown, "prompt")
    figure = plots.lines(drawn, PANELS, "n", xlabel, title=title, note=note)
    shown.publish("best_at_n", figure, drawn, PANELS)
    for panel in PANELS:
        show(ends(table, panel.name))


def curve_table(table: pd.DataFrame, series: Sequence[str]) -> pd.DataFrame:
    """The plotted numbers of some series: panel, series, n, mean, low, high, count."""
    shown = table[table["series"].isin([REFERENCE, *series])]
    return curves(shown, [panel.name for panel in PANELS], ["series", "n"]).assign(kind="curve")


def ends(table: pd.DataFrame, column: str = "reward") -> pd.DataFrame:
    """Mean [interval] of a measure at n = 1, 2, 4, 8, 16, a line per series."""
    sizes = [n for n in SIZES if n in set(table["n"])]
    return pd.DataFrame([
        {"policy": name, **{f"best@{n}": cell(part[part["n"] == n], column) for n in sizes}}
        for name, part in table.groupby("series", sort=False)
    ])  # fmt: skip
