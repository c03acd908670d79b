"""Runs that were trained on noise (`tasks.noise`), measured by the reward that they never saw.

Such a run shows what KL the gradients' noise alone makes at a batch and rate. In figures it stands
beside runs on the task's own reward, so it is shown by that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from bondlab import device, quantiles, results
from bondlab.report.kept import once
from bondlab.results import RunFolder
from bondlab.study.sweep import Spec, held_out_bank
from bondlab.task import Task, score
from bondlab.tasks import noise


def measured(spec: Spec) -> Spec:
    """The run with the reward that it is measured by: the task's own."""
    if spec.task.reward != noise.NAME:
        return spec
    return replace(spec, task=spec.task.model_copy(update={"reward": None}))


def evaluation(spec: Spec, run: RunFolder) -> pd.DataFrame:
    """A finished run's evaluations; of one on noise, reward and quantile are the task's own."""
    table = run.evaluation()
    if spec.task.reward != noise.NAME:
        return table
    real = measured(spec)
    task, mine = real.build(), table["source"] == "policy"
    stored = task.model.decode(held_out_bank(spec).completions)
    others = _rewards(real, task, task.eval_prompts, stored)
    texts = table[mine].pivot(index=["step", "prompt"], columns="sample", values="text")
    place = texts.index.get_level_values("prompt").to_numpy()
    asked = [task.eval_prompts[i] for i in place]
    rewards = _rewards(real, task, asked, texts.to_numpy().tolist())
    ranks = quantiles.empirical(torch.from_numpy(rewards), torch.from_numpy(others[place]))
    own, rest = table[mine], table[~mine]
    cells = texts.index.get_indexer(pd.MultiIndex.from_frame(own[["step", "prompt"]]))
    at = cells, own["sample"].to_numpy()
    table.loc[mine, "reward"], table.loc[mine, "quantile"] = rewards[at], ranks.numpy()[at]
    table.loc[~mine, "reward"] = others[rest["prompt"].to_numpy(), rest["sample"].to_numpy()]
    return table


def _rewards(
    spec: Spec, task: Task, prompts: Sequence[str], texts: Sequence[Sequence[str]]
) -> np.ndarray:
    """What the task's reward gives B lists of K texts, [B, K]; each list is scored once."""
    precision = device.resolve(spec.config.precision)

    def measure() -> pd.DataFrame:
        with torch.no_grad(), device.accelerator(precision).autocast():
            return pd.DataFrame(score(task.reward, prompts, texts).numpy()).add_prefix("sample ")

    name = {"reward": task.identity["reward"], "precision": precision}
    read = {"texts": results.digest([list(prompts), list(texts)])}
    return once("rewarded", name | read, measure)[0].to_numpy("float64", copy=True)
