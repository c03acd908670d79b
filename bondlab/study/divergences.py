"""Forward vs. backward vs. Jeffreys on XSum: Figures 2 and 10, and what was memorised.

Maximum likelihood on stored samples may memorise them. So the forward KL of a trained policy
is measured on three kinds of reference samples: the stored ones that it was trained on, new ones of
the same articles, and those of held-out articles. If they were memorised, it falls on the first
alone; whether that is why it rises elsewhere, steps that are too large would hide. The paper shows
held-out articles only.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from tqdm.auto import tqdm

from bondlab import best_of_n, device, measures
from bondlab.algorithms import bond
from bondlab.bank import PROMPTS_A_PART, Bank, BankFolder
from bondlab.lm.completions import slices
from bondlab.lm.language_model import LanguageModel
from bondlab.report.intervals import Interval, cell_interval, grouped, mean_interval
from bondlab.report.kept import Results, once
from bondlab.results import RunFolder
from bondlab.study import cooling
from bondlab.study.cells import NAMES, at, rise
from bondlab.study.claims import Claim, Term, lead
from bondlab.study.experiment import Experiment, RunSettings, collect, seeds
from bondlab.study.report import OWN_BEST, best_name
from bondlab.study.sweep import Spec
from bondlab.study.tables import by_sample
from bondlab.study.xsum import AS_GOOD, RUNS, SIZES, spec
from bondlab.toy.descents import OBJECTIVES
from bondlab.training import train

FORWARD, JEFFREYS, BACKWARD = OBJECTIVES.values()
N, ROW = 8, "N = 8"  # Figure 2's
OTHERS = tuple(n for n in SIZES if n != N)  # Figure 10's
STORED, NEW = "training articles, stored samples", "training articles, new samples"
HELD_OUT = "held-out articles"
REACHED = 0.9  # of Best-of-N's gain: as good, but for a tenth
STREAM = 2  # of random numbers, for the new samples; 0 and 1 are those of a run's own banks


class Settings(RunSettings):
    """The parameters of the notebook: the N of each figure, and whether to train one run more."""

    sizes_of_figure_2: Annotated[list[int], Field(min_length=1)]
    sizes_of_figure_10: Annotated[list[int], Field(min_length=1)]
    train_here: bool


def runs(
    profile: str,
    sizes: Sequence[int],
    seeds: Sequence[int],
    stored: bool = False,
    tuned: bool = True,
) -> list[Spec]:
    """One run for each seed, N and beta, all with the same budget, tuning and random numbers.

    `stored` reads the reference's samples from a bank, whatever the profile does, in a row of its
    own. `tuned`: as in `xsum.spec`.
    """
    row, changed = ("N = {}, stored samples", {"fresh": False}) if stored else ("N = {}", {})
    return [
        spec(profile, bond(n, beta), seed, {"row": row.format(n), "series": name}, tuned, **changed)
        for seed in seeds for n in sizes for beta, name in OBJECTIVES.items()
    ]  # fmt: skip


def specs(profile: str, tuned: bool = True) -> list[Spec]:
    """The runs of a profile: Figure 2's, what stored samples make of it, and Figure 10's."""
    made = partial(runs, profile, seeds=seeds(profile), tuned=tuned)
    if profile != "study":
        return made(SIZES)
    return [*made([N]), *made([N], stored=True), *made(OTHERS)]


def _fall(column: str) -> Term:
    what = f"{NAMES[column]} before minus after, beta 0.5"
    return Term(what, [JEFFREYS], lambda t: -rise(t, JEFFREYS, column), above=0)


def _of_best(table: pd.DataFrame) -> np.ndarray:
    """A policy's gain of p(entailment) minus `REACHED` of Best-of-N's, [S, B]."""
    policy, best, reference = (at(table, s, "p_reward") for s in (JEFFREYS, OWN_BEST, best_name(1)))
    return policy - reference - REACHED * (best - reference)


EXPERIMENT = Experiment(
    "xsum_divergences",
    "Forward vs. backward vs. Jeffreys on XSum",
    "02_forward_backward_jeffreys",
    specs,
    runs=RUNS,
    trains={"train_here": True},
    claims=(
        Claim(
            "C2a",
            "The Jeffreys objective (beta 0.5) lowers both divergences to Best-of-N.",
            "section 6, Fig. 2 left and middle",
            [_fall("backward_kl"), _fall("forward_kl")],
            "After the last step: dips on the way do not count.",
            short="Jeffreys lowers both divergences",
        ),
        Claim(
            "C2b",
            "Each pure objective is worse than beta 0.5 on the other divergence.",
            "section 6, Fig. 2 left and middle",
            [
                lead("backward KL, beta 0 minus beta 0.5", FORWARD, JEFFREYS, "backward_kl", 0),
                lead("forward KL, beta 1 minus beta 0.5", BACKWARD, JEFFREYS, "forward_kl", 0),
            ],
            "After the last step.",
            short="each pure objective neglects the other",
        ),
        Claim(
            "C3",
            "On log quantiles beta 0.5 is about as good as 1, and 0 clearly lags.",
            "section 6, Fig. 2 right",
            [
                lead("log quantile, beta 0.5 minus beta 0", JEFFREYS, FORWARD, "log_quantile", 0),
                lead("log quantile, beta 0.5 minus beta 1", JEFFREYS, BACKWARD, "log_quantile",
                     -AS_GOOD),
            ],
            "After the last step, in nats.",
            short="Jeffreys' quantile matches backward's, forward's lags",
        ),
        Claim(
            "C16",
            "One sample of the trained policy is as good as the best of N of the reference.",
            "abstract and section 1",
            [Term(f"p by the reward, gain minus {REACHED} of Best-of-N's", [JEFFREYS, OWN_BEST,
                  best_name(1)], _of_best, above=0)],
            "After the last step, beta 0.5; gains over the reference, on the same articles. The "
            "margin is a tenth of Best-of-N's own gain.",
            short="one sample is worth Best-of-N",
        ),
    ),
)  # fmt: skip


def results(settings: RunSettings) -> Results:
    """The tables of the runs, and that of `cooling`. Raises as `Experiment.results`."""
    return cooling.beside(EXPERIMENT.results(settings), lambda: runs(settings.profile, [N], [0])[0])


def trained_here(settings: Settings) -> Results:
    """The tables of one run, N = 8 and beta = 0.5, trained now where it is missing.

    At "shipped" its scale is one of its own (`xsum.SCALES`), elsewhere it is a run of the profile.
    """
    one = spec(settings.profile, bond(N, 0.5), 0, {"row": ROW, "series": JEFFREYS})
    found = collect([one], EXPERIMENT.sweep([one], settings.workers), settings.profile)
    return Results(EXPERIMENT.name, settings.profile, tables=found)


def gain(found: Results) -> Interval:
    """By how much the log quantile rose in training, N = 8 and beta = 0.5, on the same articles.

    Training moved the policy if the interval excludes 0; fixed before any run was made for it.
    """
    table = found.where(row=[ROW])["evaluations"]
    return cell_interval(rise(table, JEFFREYS, "log_quantile"))


def by_article(found: Results, settings: RunSettings) -> Results:
    """The results with the table by_article: how the forward KL to Best-of-8 changed in training.

    A row per run, kind and prompt: series, beta, seed, profile, kind (`STORED`, `NEW` or
    `HELD_OUT`), prompt, change (from the first step to the last, nats). Raises as `Results.load`.
    """

    def compute() -> dict[str, pd.DataFrame]:
        chosen = [s for s in specs(settings.profile) if s.labels["n"] == N and not s.config.fresh]
        parts = []
        folders = EXPERIMENT.sweep(chosen, settings.workers)
        for one, run in zip(tqdm(chosen, "by article", leave=False), folders, strict=True):
            labels = {name: one.labels[name] for name in ("series", "beta", "seed")}
            parts.append(_of(one, run).assign(**labels, profile=settings.profile))
        return {"by_article": pd.concat(parts, ignore_index=True)}

    return found.load(["by_article"], compute)


def _of(spec: Spec, run: RunFolder) -> pd.DataFrame:
    """prompt, kind and change of one finished run."""
    task, config = spec.build(), spec.config
    stored = spec.banks()[0]
    prompts = stored.prompts[: len(task.eval_prompts)]
    again = BankFolder.of(task, prompts, config.bank_samples, STREAM, config.precision)

    def measure() -> pd.DataFrame:
        policy = train(task, spec.algorithm, config, run.path.parent).policy
        changes = {
            kind: change(policy, prompts, bank.filled(task), config.precision).numpy()
            for kind, bank in ((STORED, stored), (NEW, again))
        }
        table = pd.DataFrame({**changes, HELD_OUT: _held_out(run).numpy()}).rename_axis("prompt")
        return table.reset_index().melt("prompt", var_name="kind", value_name="change")

    names = [run.path.name, stored.path.name, again.path.name]
    return once("by_article", {"run and banks": names}, measure)[0]


@torch.no_grad()
def change(policy: LanguageModel, prompts: list[str], bank: Bank, precision: str) -> torch.Tensor:
    """KL(Best-of-8 || policy) minus KL(Best-of-8 || reference), [B], nats (section 4.2, eq. 12).

    Args:
        bank: the reference's samples; its first B rows belong to the prompts.
    """
    found = []
    for index in slices(len(prompts), PROMPTS_A_PART):
        drawn = bank.completions.rows(index)
        with device.autocast(precision):
            log_pi = policy(policy.encode(prompts[index]), drawn.to(policy.device)).sum(-1).cpu()
        found.append(measures.best_of_n_value(drawn.log_prob - log_pi, bank.rewards[index], N))
    return torch.cat(found)


def _held_out(run: RunFolder) -> torch.Tensor:
    """The same from the run's own last evaluation, [B]."""
    table = run.evaluation()
    table = table[(table["step"] == table["step"].max()) & (table["source"] == "reference")]
    table = table.assign(fall=table["reference_log_prob"] - table["log_prob"])
    return measures.best_of_n_value(by_sample(table, "fall"), by_sample(table, "reward"), N)


def starts(found: Results) -> pd.DataFrame:
    """Both divergences before the first step beside their formulas, and how far off in errors."""
    rows, table = [], found["evaluations"]
    for n, part in table[table["step"] == 0].groupby("n"):
        theory = {
            "backward_kl": best_of_n.backward_kl(n),
            "forward_kl": best_of_n.kl_bound(n),
            "log_quantile": -1.0,
        }
        for column, expected in theory.items():
            here = mean_interval(part.groupby("prompt")[column].mean())
            line = {"N": n, "measure": column, "theory": expected, "measured": here.mean}
            rows.append({**line, "s.e.": here.standard_error})
    return pd.DataFrame(rows)


def article_table(found: Results) -> pd.DataFrame:
    """What is plotted of `by_article`: panel, group (the kind), series, mean, low, high, count."""
    table = grouped(found["by_article"], "change", ["kind", "series"]).assign(panel="change")
    return table.rename(columns={"kind": "group"}).replace({"group": {", ": ",\n"}}, regex=True)
