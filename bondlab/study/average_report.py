"""What a moving average of LoRA factors is worth beside one of weights: notebook 06's numbers.

J-BOND with eta 0.02 is trained once more, with both averages followed on the way.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import pandas as pd

from bondlab import paths, training
from bondlab.results import digest, write_atomically
from bondlab.study import adapter_average, alignment, alignment_tables, collected
from bondlab.study import alignment_decisions as series
from bondlab.study.experiments import Profile
from bondlab.study.sweep import Spec

NAME, PART = "anchor_ablations", "averages"
VERSION = 1  # raise when the numbers change: what is stored then no longer matches


def results(profile: Profile, task: str = "sentiment", policy: str | None = None) -> pd.DataFrame:
    """`adapter_average.follow` of J-BOND at a profile, computed once; or what is shipped.

    Returns:
        Its columns, and run, manifest and profile; no rows where a profile trains all weights,
        whose average is exact.

    Raises:
        FileNotFoundError: "shipped" was asked for and nothing is.
    """
    folder = paths.figures_folder(NAME, profile) / alignment_tables.variant(task, policy)
    if profile == "shipped":
        return collected.shipped_part(folder, PART)
    spec = next(
        spec
        for spec in alignment.specs(NAME, profile, task, policy)
        if spec.labels["series"] == series.MOVING
    )
    if spec.config.lora_rank is None:
        return pd.DataFrame()
    run = spec.folder(paths.runs_folder() / alignment.RUNS).path.name
    name = digest([run, VERSION, adapter_average.SAMPLES])
    path = paths.runs_folder() / PART / f"{name}.parquet"
    if not path.exists():
        write_atomically(path, _followed(spec).to_parquet(index=False))
    found = pd.read_parquet(path).assign(profile=profile)
    collected.keep_part(folder, profile, PART, found)
    return found


def _followed(spec: Spec) -> pd.DataFrame:
    task, started = spec.build(), time.perf_counter()
    with tempfile.TemporaryDirectory() as parent:  # its policy is that of the run of equal name
        trainer = training.trainer(task, spec.algorithm, spec.config, Path(parent))
        found = adapter_average.follow(trainer, spec.config.evaluate_every)
        trainer.run.mark("finished", time.perf_counter() - started)
        manifest = json.dumps(trainer.run.manifest)
        return found.assign(run=trainer.run.path.name, manifest=manifest)


def table(found: pd.DataFrame) -> pd.DataFrame:
    """A line a comparison: the change's relative error, and both KL with their intervals."""

    def text(name: str) -> pd.Series:
        columns = found[name], found[f"{name}_low"], found[f"{name}_high"]
        return pd.Series([f"{m:.4f} [{a:.4f}, {b:.4f}]" for m, a, b in zip(*columns, strict=True)])

    return pd.DataFrame({
        "step": found["step"], "error of the change": found["relative_error"],
        "KL to averaged weights": text("kl"), "KL to the reference": text("kl_moved"),
        "prompts": found["prompts"], "profile": found["profile"],
    })  # fmt: skip
