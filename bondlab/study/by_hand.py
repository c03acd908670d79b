"""One prompt worked by hand: a rule's source, its completions, and what it makes of each."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from scipy.special import expit
from torch import Tensor

from bondlab.study import prompts
from bondlab.study.excerpts import in_one_line
from bondlab.study.prompts import COOLED, PROMPTS, REFERENCE, WRITERS

SHOWN = {REFERENCE: "reference, one draw", COOLED: "reference at T = 0.7, one draw"}
BEST_OF = 8


def source(*rules: Callable) -> None:
    """Show the source of functions, highlighted where Jupyter can."""
    from IPython.display import display  # notebooks only

    text = "\n\n".join(textwrap.dedent(inspect.getsource(rule)).strip() for rule in rules)
    display({"text/markdown": f"```python\n{text}\n```", "text/plain": text}, raw=True)


@dataclass(frozen=True)
class Draws:
    """Some completions of one prompt as a rule wants them, [1, K]; `draws[:8]` are the first."""

    table: pd.DataFrame

    def __getitem__(self, some: slice) -> Draws:
        return Draws(self.table[some])

    @property
    def reward(self) -> Tensor:
        """Log-odds."""
        return self._column("reward")

    @property
    def log_pi(self) -> Tensor:
        """Log-probability under the policy, nats."""
        return self._column("log_pi_policy")

    @property
    def log_ratio(self) -> Tensor:
        """log pi - log pi_reference, nats."""
        return self.log_pi - self._column("log_pi_reference")

    def _column(self, name: str) -> Tensor:
        return torch.from_numpy(self.table[name].to_numpy("float64", copy=True)).unsqueeze(0)


def draws(task: str, prompt: int, drawn_by: str) -> Draws:
    """The committed completions of one prompt by one of `prompts.TEMPERATURES`."""
    own = prompts.shipped().query("task == @task and prompt == @prompt and drawn_by == @drawn_by")
    return Draws(own.reset_index(drop=True))


def table(parts: Sequence[Draws], columns: Mapping[str, Tensor]) -> pd.DataFrame:
    """A line per completion: who drew it, its text, reward and log ratio, and what a rule computed.

    Args:
        parts: in the order of the rule's weights, the anchor's completions first.
        columns: by name [1, N+K], or [1, K] of the last K alone.
    """
    rows = pd.concat([part.table for part in parts], ignore_index=True)
    found = pd.DataFrame({
        "drawn by": rows["drawn_by"],
        "completion": rows["text"].map(in_one_line),
        "reward (log-odds)": rows["reward"],
        "log ratio (nats)": rows["log_pi_policy"] - rows["log_pi_reference"],
    })  # fmt: skip
    for name, values in columns.items():
        cells = values.double().flatten().numpy()
        found[name] = pd.Series(cells, rows.index[len(rows) - len(cells) :])  # NaN before these
    return found


def examples(task: str) -> pd.DataFrame:
    """Each prompt in full, with a draw of the reference, one at T = 0.7, and the best of 8; and one
    of each trained policy that wrote, as it is and at T = 0.7.

    The reward is shown through the logistic function, as a probability; that of a chat's reply,
    which is none, as it is.
    """
    first = "reward (score)" if task == "chat" else "reward (p)"
    second = "longest copy (words)" if task == "xsum" else "second judge (log-odds)"
    table, lines = prompts.shipped(), []
    there = set(table.loc[table["task"] == task, "drawn_by"])
    policies = [n for series in WRITERS for n in prompts.writes(series) if n in there]
    for place, prompt in enumerate(PROMPTS[task]):
        turns = prompt.replace("\n", " / ")  # of a dialogue
        reference = draws(task, place, REFERENCE).table[:BEST_OF]
        best = reference.loc[[reference["reward"].idxmax()]]
        chosen = {what: draws(task, place, name).table[:1] for name, what in SHOWN.items()}
        chosen[f"best of {BEST_OF} by the reward"] = best
        chosen |= {f"{n}, one draw": draws(task, place, n).table[:1] for n in policies}
        for what, row in chosen.items():
            reward, judge = row["reward"].item(), row["judge"].item()
            shown = {"prompt": turns, "drawn": what, "completion": in_one_line(row["text"].item())}
            reward = reward if task == "chat" else expit(reward)
            lines.append({**shown, first: reward, second: judge})
    return pd.DataFrame(lines)
