"""An experiment's results: tidy tables, verdicts, and figures with where they come from."""

from __future__ import annotations

import io
import json
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from bondlab import best_of_n, checkpoints, measures, paths, plots, tables
from bondlab.experiments import EXPERIMENTS, Profile, difference, run, specs
from bondlab.plots import Level, Panel
from bondlab.results import RunFolder
from bondlab.sweep import Spec, held_out_bank

DIVERGENCES = (
    Panel("backward_kl", r"Backward KL($\pi$ || $\pi_{BoN}$)", "nats per summary"),
    Panel("forward_kl", r"Forward KL($\pi_{BoN}$ || $\pi$)", "nats per summary"),
    Panel("log_quantile", "Reward log quantile", "mean log quantile (nats)"),
)
QUALITY = (
    Panel("p_reward", "Reward", "mean p(entailment)"),
    Panel("kl_to_reference", "Distance from the reference", "KL to reference (nats)"),
    Panel("entropy", "Entropy", "nats per summary"),
)
TEXT = (
    Panel("words", "Length", "words per summary"),
    Panel("longest_copied_span", "Copying", "longest copied span (words)"),
    Panel("rougeL", "Likeness to the human summary", "ROUGE-L F1"),
)
EXAMPLES = 6


@dataclass(frozen=True)
class Results:
    """The tidy tables of an experiment, and where they come from.

    Args:
        evaluations: `tables.per_prompt` of every run, with its labels (n, beta, seed) and profile.
        baselines: `tables.best_of_n` of the reference, n = 1 the reference itself, with profile.
        examples: summaries of the first held-out documents before and after training.
        runs: a row a run: its labels, profile and manifest.
    """

    evaluations: pd.DataFrame
    baselines: pd.DataFrame
    examples: pd.DataFrame
    runs: pd.DataFrame

    def of(self, sizes: Sequence[int]) -> Results:
        """The part that concerns some Best-of-N sizes (and the reference)."""
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        return Results(**{k: v[v["n"].isin([1, *sizes])] for k, v in parts.items()})


def results(name: str, profile: Profile, workers: int | None = None) -> Results:
    """The results of an experiment: computed at a profile, or those that are shipped.

    Computed ones are also written beside the experiment's figures, from where "shipped" reads
    them: of each N the "study" results where there are any, else the "laptop" results.

    Raises:
        FileNotFoundError: "shipped" was asked for and nothing is.
    """
    if profile == "shipped":
        return _shipped(name)
    wanted = specs(name, profile)
    found = _collect(wanted, run(name, profile, workers), profile)
    _write(paths.figures_folder(name), profile, found)
    return found


def _collect(wanted: Sequence[Spec], folders: Sequence[RunFolder], profile: str) -> Results:
    task, evaluations, examples, runs = wanted[0].build(), [], [], []
    for spec, folder in zip(wanted, folders, strict=True):
        labels = {**spec.labels, "profile": profile}
        evaluation = folder.evaluation()
        evaluations.append(tables.per_prompt(evaluation, spec.labels["n"], task).assign(**labels))
        examples.append(_examples(evaluation).assign(**labels))
        runs.append({**labels, "run": folder.path.name, "manifest": json.dumps(folder.manifest)})
    sizes = sorted({1, *(spec.labels["n"] for spec in wanted)})
    baselines = tables.best_of_n(held_out_bank(wanted[0]), sizes, task.model, task)
    return Results(
        pd.concat(evaluations, ignore_index=True),
        baselines.assign(profile=profile),
        pd.concat(examples, ignore_index=True),
        pd.DataFrame(runs),
    )


def _examples(evaluation: pd.DataFrame) -> pd.DataFrame:
    chosen = evaluation[
        (evaluation["source"] == "policy")
        & (evaluation["sample"] == 0)
        & (evaluation["prompt"] < EXAMPLES)
        & evaluation["step"].isin([0, evaluation["step"].max()])
    ]
    return chosen[["step", "prompt", "reward", "text"]]


def _write(folder: Path, profile: str, found: Results) -> None:
    for field in fields(found):
        buffer = io.BytesIO()
        getattr(found, field.name).to_parquet(buffer, index=False)
        path = folder / f"results_{profile}_{field.name}.parquet"
        checkpoints.write_atomically(path, buffer.getvalue())


def _read(folder: Path, profile: str) -> Results | None:
    files = {f.name: folder / f"results_{profile}_{f.name}.parquet" for f in fields(Results)}
    if not all(path.exists() for path in files.values()):
        return None
    return Results(**{name: pd.read_parquet(path) for name, path in files.items()})


def _shipped(name: str) -> Results:
    folder = paths.figures_folder(name)
    parts = [part for p in ("study", "laptop") if (part := _read(folder, p)) is not None]
    if not parts:
        raise FileNotFoundError(f"{folder} holds no results: run the notebook at profile laptop")
    chosen, seen = [], set()
    for part in parts:
        chosen.append(part.of(sorted(set(part.evaluations["n"]) - seen)))
        seen |= set(part.evaluations["n"])
    return Results(**{
        f.name: pd.concat([getattr(part, f.name) for part in chosen], ignore_index=True)
        for f in fields(Results)
    })  # fmt: skip


# -- figures ---------------------------------------------------------------------------------------


def curve_table(found: Results, panels: Sequence[Panel]) -> pd.DataFrame:
    """The plotted numbers: row, panel, series, step, mean, low, high, count."""
    parts = [
        measures.grouped_intervals(found.evaluations, panel.name, ["n", "beta", "step"])
        .assign(panel=panel.name)
        for panel in panels
    ]  # fmt: skip
    table = pd.concat(parts, ignore_index=True)
    table["series"] = [f"beta = {beta:g} ({OBJECTIVES[beta]})" for beta in table["beta"]]
    table["row"] = [f"N = {n:g}" for n in table["n"]]
    return table.sort_values(["n", "panel", "beta", "step"], ignore_index=True)


OBJECTIVES = {0.0: "forward KL", 0.5: "Jeffreys", 1.0: "backward KL"}


def figure(found: Results, panels: Sequence[Panel], title: str) -> tuple[Figure, pd.DataFrame]:
    """Measures against training steps: a row a size N, a panel a measure, a curve a beta."""
    table = curve_table(found, panels)
    sizes = sorted(found.evaluations["n"].unique())
    rows = [f"N = {n:g}" for n in sizes]
    levels = [level for n in sizes for panel in panels for level in _levels(found, panel, n)]
    return plots.curves(table, panels, rows, levels, title=title, note=note(found)), table


def _levels(found: Results, panel: Panel, n: int) -> list[Level]:
    """What a panel is compared with: theory at the start, and sampled Best-of-N."""
    start, best = "theory at the start", "sampled Best-of-N"
    theory = {"backward_kl": best_of_n.reverse_kl(n), "forward_kl": best_of_n.kl_bound(n)}
    row = f"N = {n:g}"
    if panel.name in theory:
        return [Level(panel.name, theory[panel.name], start, row)]
    if panel.name not in found.baselines:
        return []
    profile = found.evaluations.loc[found.evaluations["n"] == n, "profile"].iloc[0]
    chosen = found.baselines[(found.baselines["profile"] == profile) & (found.baselines["n"] == n)]
    band = measures.mean_interval(chosen[panel.name].to_numpy())
    return [Level(panel.name, band.mean, best, row, band.low, band.high)]


def note(found: Results) -> str:
    """The small print of a figure: how much it rests on."""
    lines = []
    for (profile, sizes), part in _by_profile(found):
        seeds, prompts = part["seed"].nunique(), part["prompt"].nunique()
        means = "two-way bootstrap over seeds and documents" if seeds > 1 else "t over documents"
        lines.append(
            f"N = {sizes}: profile {profile}, {seeds} seed{'s' * (seeds > 1)}, {prompts} held-out "
            f"documents, 95 % intervals ({means})."
        )
    return " ".join(lines)


def _by_profile(found: Results) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    return [
        ((profile, ", ".join(f"{n:g}" for n in sorted(part["n"].unique()))), part)
        for profile, part in found.evaluations.groupby("profile", sort=False)
    ]


def save(
    name: str, stem: str, profile: Profile, found: Results, drawn: Figure, table: pd.DataFrame
) -> None:
    """Write a figure's files with their provenance; shipped figures are there already."""
    if profile == "shipped":
        return
    runs = [
        row | {"manifest": json.loads(row["manifest"])} for row in found.runs.to_dict("records")
    ]
    provenance = {
        "experiment": name,
        "paper_figure": EXPERIMENTS[name].figures.get(stem),
        "profile": profile,
        "note": note(found),
        "headline": headline(found),
        "runs": runs,
    }
    folder = paths.figures_folder(name)
    plots.save_figure(drawn, folder, f"{stem}_{profile}", table, provenance)


def publish(
    name: str, stem: str, profile: Profile, found: Results, panels: Sequence[Panel], title: str
) -> None:
    """Draw a figure, write its files and show it; a line of text where there are no such runs."""
    if found.evaluations.empty:
        print(f"The profile {profile} has no runs of this N.")
        return
    drawn, table = figure(found, panels, title)
    save(name, stem, profile, found, drawn, table)
    sizes = ", ".join(f"{n:g}" for n in sorted(found.evaluations["n"].unique()))
    plots.show(drawn, f"{title}, N = {sizes}: {', '.join(p.title for p in panels)} against steps")


# -- numbers ---------------------------------------------------------------------------------------


def headline(found: Results) -> list[dict]:
    """How the log quantile and both divergences changed from first to last evaluation."""
    rows = []
    for (n, beta), part in found.evaluations.groupby(["n", "beta"]):
        for column in ("log_quantile", "backward_kl", "forward_kl"):
            change = difference(part, beta, column, part["step"].max(), 0)
            rows.append({
                "what": f"N = {n:g}, beta = {beta:g}: change of {column}",
                "value": change.mean, "low": change.low, "high": change.high, "unit": "nats",
                "samples": int(part["prompt"].nunique()), "seeds": int(part["seed"].nunique()),
            })  # fmt: skip
    return rows


def budget_table(found: Results) -> pd.DataFrame:
    """What each size's runs were given: profile, runs, seeds, steps, documents, minutes a run."""
    rows = []
    for n, part in found.runs.groupby("n"):
        manifests = [json.loads(text) for text in part["manifest"]]
        config = manifests[0]["config"]["config"]
        evaluations = found.evaluations[found.evaluations["n"] == n]
        rows.append({
            "N": n, "profile": part["profile"].iloc[0], "runs": len(part),
            "seeds": part["seed"].nunique(), "steps": config["steps"],
            "documents a step": config["prompts_per_step"],
            "held-out documents": evaluations["prompt"].nunique(),
            "minutes a run": sum(m["seconds"] for m in manifests) / len(manifests) / 60,
        })  # fmt: skip
    return pd.DataFrame(rows)


def print_examples(found: Results, beta: float) -> None:
    """Print summaries before and after training, with their reward as a probability."""
    seed = found.examples["seed"].min()
    chosen = found.examples[(found.examples["beta"] == beta) & (found.examples["seed"] == seed)]
    for (n, prompt), rows in chosen.groupby(["n", "prompt"]):
        print(f"document {prompt}, N = {n:g}")
        for row in rows.sort_values("step").itertuples():
            chance = 1 / (1 + math.exp(-row.reward))
            text = textwrap.fill(row.text, 92, subsequent_indent=" " * 19)
            print(f"  step {row.step:4d} p {chance:.2f}  {text}")


def rules(name: str) -> str:
    """The experiment's claims and the rules that decide them."""
    return "\n".join(
        f"{i}. {claim.text} ({claim.source})\n"
        + textwrap.fill(claim.rule, 96, initial_indent="   ", subsequent_indent="   ")
        for i, claim in enumerate(EXPERIMENTS[name].claims, 1)
    )


def start_table(found: Results) -> pd.DataFrame:
    """Both divergences before the first step beside their formulas, and how far off in errors."""
    rows = []
    for n, part in found.evaluations[found.evaluations["step"] == 0].groupby("n"):
        prompts = part.groupby("prompt")[["backward_kl", "forward_kl", "log_quantile"]].mean()
        theory = {
            "backward_kl": best_of_n.reverse_kl(n),
            "forward_kl": best_of_n.kl_bound(n),
            "log_quantile": -1.0,
        }
        for column, expected in theory.items():
            found_here = measures.mean_interval(prompts[column].to_numpy())
            rows.append({
                "N": n, "measure": column, "theory": expected, "measured": found_here.mean,
                "s.e.": found_here.standard_error,
            })  # fmt: skip
    return pd.DataFrame(rows)


def last_table(found: Results, columns: Sequence[str]) -> pd.DataFrame:
    """Reference, sampled Best-of-N and every policy after its last step, mean [95 % interval]."""
    rows = []
    for n, part in found.evaluations.groupby("n"):
        ends = part[part["step"] == part["step"].max()]
        base = found.baselines[found.baselines["profile"] == part["profile"].iloc[0]]
        for label, size in (("reference", 1), (f"sampled Best-of-{n:g}", n)):
            rows.append((n, label, base[base["n"] == size]))
        rows += [(n, f"BOND, beta {beta:g}", own) for beta, own in ends.groupby("beta")]
    return pd.DataFrame([
        {"N": n, "policy": label} | {c: _cell(table, c) for c in columns}
        for n, label, table in rows
    ])  # fmt: skip


def _cell(table: pd.DataFrame, column: str) -> str:
    if column not in table or table[column].isna().all():
        return "-"
    # A document counts where every seed has a value: not every summary holds a number.
    lacking = table.loc[table[column].isna(), "prompt"]
    present = table[~table["prompt"].isin(lacking)].assign(all=0)
    if present.empty:
        return "-"
    grid = measures.grouped_intervals(present, column, ["all"]).iloc[0]
    if present[column].nunique() == 1:  # a closed form, or a measure that is the same everywhere
        return f"{grid['mean']:.3f}"
    return f"{grid['mean']:.3f} [{grid['low']:.3f}, {grid['high']:.3f}]"


def verdicts(name: str, found: Results) -> pd.DataFrame:
    """Each claim of the experiment, decided by its rule for each N: verdict and intervals."""
    rows = []
    for number, claim in enumerate(EXPERIMENTS[name].claims, 1):
        for n, part in found.evaluations.groupby("n"):
            verdict, intervals = claim.decide(part)
            rows += [
                {"claim": number, "N": n, "verdict": verdict, "measured": what,
                 "difference": str(interval)}
                for what, interval in intervals.items()
            ]  # fmt: skip
    return pd.DataFrame(rows)
