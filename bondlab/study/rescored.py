"""Runs that were trained on a stand-in, measured by the task's own reward, which they never saw.

One on noise shows what KL the gradients' noise alone makes at a batch and rate, one on the own
reward made binary what is lost with its size (both are in `tasks.stand_ins`). In figures they stand
beside runs on the task's own reward, so they are shown by that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import pandas as pd
import torch

from bondlab import device, quantiles, results
from bondlab.report.kept import once
from bondlab.results import RunFolder
from bondlab.study.sweep import Spec, held_out_bank
from bondlab.task import Reward, score
from bondlab.tasks import stand_ins


def measured(spec: Spec) -> Spec:
    """The run with the reward that it is measured by: the task's own."""
    reward = spec.task.reward
    if reward != stand_ins.NOISE and stand_ins.threshold(reward) is None:
        return spec
    return replace(spec, task=spec.task.model_copy(update={"reward": None}))


def evaluation(spec: Spec, run: RunFolder) -> pd.DataFrame:
    """A finished run's evaluations; of one on a stand-in, reward and quantile are the task's."""
    table, real = run.evaluation(), measured(spec)
    if real == spec:
        return table
    task, mine = real.build(), table["source"] == "policy"
    stored = task.model.decode(held_out_bank(spec).completions)
    given = device.resolve(real.config.precision)
    name = {"reward": task.identity["reward"], "precision": given}
    by_reward = partial(scored, "rewarded", name, task.reward, precision=given)
    others = by_reward(task.eval_prompts, stored)
    own, rest = table[mine].sort_values(["step", "prompt", "sample"]), table[~mine]
    texts = own.pivot(index=["step", "prompt"], columns="sample", values="text")
    place = list(texts.index.get_level_values("prompt"))
    rewards = by_reward([task.eval_prompts[i] for i in place], texts.to_numpy().tolist())
    ranks = quantiles.empirical(rewards, others[place])
    table.loc[own.index, "reward"] = rewards.flatten().numpy()
    table.loc[own.index, "quantile"] = ranks.flatten().numpy()
    table.loc[~mine, "reward"] = others.numpy()[rest["prompt"], rest["sample"]]
    return table


def scored(
    kind: str,
    name: Mapping[str, str],
    reward: Reward,
    prompts: Sequence[str],
    texts: Sequence[Sequence[str]],
    precision: device.Precision,
) -> torch.Tensor:
    """What a reward or judge gives B lists of K texts, [B, K]; each list is scored once.

    `kind` and `name` are those of `once`, to which the texts are added.
    """

    def measure() -> pd.DataFrame:
        with torch.no_grad(), device.autocast(precision):
            return pd.DataFrame(score(reward, prompts, texts).numpy()).add_prefix("sample ")

    read = {"texts": results.digest([list(prompts), list(texts)])}
    table, _ = once(kind, {**name, **read}, measure)
    return torch.from_numpy(table.to_numpy("float64", copy=True))
