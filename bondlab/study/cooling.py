"""The reference sampled at lower temperatures: what is had at each KL without any training.

A policy whose rewards lie on this curve has learned to be less random, and no more. KL and log
quantile are to the reference at temperature 1, as a trained policy's are.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

import pandas as pd
import torch

from bondlab import device
from bondlab.bank import seeded
from bondlab.evaluation import evaluate
from bondlab.lm.language_model import LanguageModel
from bondlab.report.kept import Results, once
from bondlab.study import judge, rescored, tables
from bondlab.study.sweep import Spec, held_out_bank

TEMPERATURES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7)
SAMPLES = 8  # a prompt and temperature
# Those that compute it; the others are to take minutes, or GPUs.
PROFILES = {"smoke": (1.0, 0.7), "study": TEMPERATURES}


def beside(found: Results, run: Callable[[], Spec]) -> Results:
    """The results with the table cooling: computed at `PROFILES`, at shipped where it is there.

    Args:
        run: gives one of the results' runs, whose task, bank and n are taken.
    """
    there = (found.folder / "results_cooling.parquet").exists()
    if found.profile in PROFILES or (found.profile == "shipped" and there):
        return found.load(["cooling"], lambda: {"cooling": measured(run(), found.profile)})
    return found


def measured(run: Spec, profile: str) -> pd.DataFrame:
    """A row a temperature and prompt: temperature, profile, `tables.per_prompt`, judge if there,
    and the measurement's run and manifest."""
    run = rescored.measured(run)
    task, parts = run.build(), []
    for temperature in PROFILES[profile]:
        drawn, manifest = evaluation(run, temperature)
        labels = {"temperature": temperature, "profile": profile}
        part = tables.per_prompt(drawn.assign(step=0), int(run.labels["n"]), task)
        if judge.has_one(run.task):
            own = drawn[drawn["source"] == "policy"]
            texts = own.pivot(index="prompt", columns="sample", values="text").to_numpy().tolist()
            part["judge"] = judge.scores(run, task.eval_prompts, texts).mean(1).numpy()
        made = {"run": manifest["run"], "manifest": json.dumps(manifest)}
        parts.append(part.drop(columns="step").assign(**labels, **made))
    return pd.concat(parts, ignore_index=True)


def evaluation(run: Spec, temperature: float) -> tuple[pd.DataFrame, dict]:
    """`evaluation.evaluate` of the run's reference at a temperature, measured once, and the
    manifest of that."""
    task, generators = run.build(), partial(seeded, 0, "cooled")

    def measure() -> pd.DataFrame:
        bank, model = held_out_bank(run), cooled(task.model, temperature)
        with torch.no_grad(), device.autocast(run.config.precision):
            return evaluate(model, task.model, task, bank, SAMPLES, generators)

    bank = run.banks()[-1].path.name
    name = {"bank": bank, "temperature": temperature, "samples": SAMPLES}
    return once("cooled", name, measure)


def cooled(model: LanguageModel, temperature: float) -> LanguageModel:
    """The model at another temperature; both share their weights."""
    limits = model.max_prompt_tokens, model.max_new_tokens
    return LanguageModel(model.model, model.tokenizer, model.template, *limits, temperature)
