"""Does the forward divergence fall on what a policy was trained on, and on what it was not?

Maximum likelihood on stored samples may learn them by heart. So the forward KL of a trained policy
is measured on three kinds of reference samples: the stored ones that it was trained on, new ones of
the same articles, and those of held-out articles. Learned by heart, it falls on the first alone;
steps that are too large raise all three. The paper shows held-out articles only.
"""

from __future__ import annotations

import json

import pandas as pd
import torch
from tqdm.auto import tqdm

from bondlab import device, measures, paths
from bondlab.bank import PROMPTS_A_PART, Bank, BankFolder
from bondlab.lm.language_model import LanguageModel
from bondlab.results import RunFolder, digest, write_atomically
from bondlab.study import collected, plots, provenance
from bondlab.study.experiments import EXPERIMENTS, Profile, specs
from bondlab.study.plots import Panel
from bondlab.study.sweep import Spec, sweep
from bondlab.training import banks, train

NAME, STEM, PART = "xsum_divergences", "forward_kl_by_article", "by_article"
N, ROW = 8, "N = 8"  # Figure 2's, with stored samples
STORED, NEW = "training articles, stored samples", "training articles, new samples"
HELD_OUT = "held-out articles"
STREAM = 2  # of random numbers, for the new samples; 0 and 1 are those of a run's own banks
PANEL = Panel("change", "Forward KL after training, less before", "nats per summary")


def changes(profile: Profile, workers: int | None = None) -> pd.DataFrame:
    """How the forward KL to Best-of-8 changed from the first to the last step.

    Computed ones are written beside the figures of Figure 2.

    Args:
        workers: runs at a time, should some be missing.

    Returns:
        A row a run, kind and prompt: series, beta, seed, profile, run, manifest, kind (`STORED`,
        `NEW` or `HELD_OUT`), prompt, change (nats).

    Raises:
        FileNotFoundError: "shipped" was asked for and nothing is.
    """
    folder = paths.figures_folder(NAME, profile)
    if profile == "shipped":
        return collected.shipped_part(folder, PART)
    chosen = [spec for spec in specs(NAME, profile) if spec.labels["row"] == ROW]
    runs = sweep(chosen, paths.runs_folder() / EXPERIMENTS[NAME].runs, workers)
    pairs, parts = list(zip(chosen, runs, strict=True)), []
    for spec, found in tqdm(pairs, desc="forward KL by article", leave=False):
        manifest = {"run": found.path.name, "manifest": json.dumps(found.manifest)}
        labels = {name: spec.labels[name] for name in ("series", "beta", "seed")}
        parts.append(_of(spec, found).assign(**labels, **manifest, profile=profile))
    table = pd.concat(parts, ignore_index=True)
    collected.keep_part(folder, profile, PART, table)
    return table


def _of(spec: Spec, found: RunFolder) -> pd.DataFrame:
    """kind, prompt and change of one finished run; kept in its folder."""
    task, config = spec.build(), spec.config
    stored = banks(task, spec.algorithm, config)[0]
    prompts = stored.prompts[: len(task.eval_prompts)]
    precision = device.resolve(config.precision)
    again = BankFolder.of(
        paths.runs_folder() / "banks", task, prompts, config.bank_samples, STREAM, precision
    )
    path = found.path / f"forward-{digest([stored.path.name, again.path.name])}.parquet"
    if not path.exists():
        policy = train(task, spec.algorithm, config, found.path.parent).policy
        accelerator = device.accelerator(config.precision)
        trained = {STORED: stored.filled(task, accelerator), NEW: again.filled(task, accelerator)}
        parts = [
            _rows(kind, change(policy, prompts, bank, config.precision))
            for kind, bank in trained.items()
        ]
        parts.append(_rows(HELD_OUT, _held_out(found)))
        table = pd.concat(parts, ignore_index=True)
        write_atomically(path, table.to_parquet(index=False))
    return pd.read_parquet(path)


@torch.no_grad()
def change(policy: LanguageModel, prompts: list[str], bank: Bank, precision: str) -> torch.Tensor:
    """KL(Best-of-8 || policy) less KL(Best-of-8 || reference), [B], nats (section 4.2, eq. 12).

    Args:
        bank: the reference's samples; its first B rows belong to the prompts.
    """
    found, accelerator = [], device.accelerator(precision)
    for start in range(0, len(prompts), PROMPTS_A_PART):
        index = slice(start, min(start + PROMPTS_A_PART, len(prompts)))
        drawn = bank.completions.rows(index)
        with accelerator.autocast():
            log_pi = policy(policy.encode(prompts[index]), drawn.to(policy.device)).sum(-1).cpu()
        found.append(measures.best_of_n_value(drawn.log_prob - log_pi, bank.rewards[index], N))
    return torch.cat(found)


def _held_out(found: RunFolder) -> torch.Tensor:
    """The same from the run's own last evaluation, [B]."""
    table = found.evaluation()
    table = table[(table["step"] == table["step"].max()) & (table["source"] == "reference")]
    grid = table.assign(fall=table["reference_log_prob"] - table["log_prob"])
    fall, rewards = (
        torch.tensor(grid.pivot(index="prompt", columns="sample", values=name).to_numpy())
        for name in ("fall", "reward")
    )
    return measures.best_of_n_value(fall, rewards, N)


def _rows(kind: str, values: torch.Tensor) -> pd.DataFrame:
    table = {"kind": kind, "prompt": range(len(values)), "change": values.tolist()}
    return pd.DataFrame(table)


def plotted(table: pd.DataFrame) -> pd.DataFrame:
    """The plotted numbers: panel, group (the kind), series, mean, low, high, count."""
    found = measures.grouped_intervals(table, "change", ["kind", "series"])
    return found.rename(columns={"kind": "group"}).assign(panel=PANEL.name)


def publish(profile: Profile, workers: int | None = None) -> None:
    """Draw the figure, write its files unless they are shipped, and show it."""
    table = changes(profile, workers)
    shown = plotted(table)
    seeds, prompts = table["seed"].nunique(), table["prompt"].nunique()
    note = (
        f"Profile {table['profile'].iloc[0]}, {seeds} seed{'s' * (seeds > 1)}, {prompts} articles "
        "of each kind, 32 samples each; 95 % intervals. Above 0: further from Best-of-8 than the "
        "reference is."
    )
    wrapped = shown.assign(group=shown["group"].str.replace(", ", ",\n"))
    drawn = plots.bars_with_intervals(wrapped, [PANEL], title="Learned by heart?", note=note)
    if profile != "shipped":
        runs = table[["series", "beta", "seed", "run", "manifest"]].drop_duplicates()
        made_by = [r | {"manifest": json.loads(r["manifest"])} for r in runs.to_dict("records")]
        headline = [
            provenance.number(f"{row.series}: change of the forward KL, {row.group}", row.mean,
                              row.low, row.high, "nats", prompts, seeds)
            for row in shown.itertuples()
        ]  # fmt: skip
        provenance.write(NAME, STEM, profile, drawn, shown, headline, note=note, runs=made_by)
    plots.show(drawn, "Change of the forward KL on training and held-out articles")
