"""Intervals told in words are those of results: of what a notebook prints, and of its figures."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from bondlab.paths import committed_folder, repository_root
from bondlab.study.experiments import EXPERIMENTS

ROOT = repository_root()
NUMBER = r"(-?\d+(?:\.\d+)?)"
INTERVAL = re.compile(rf"\[{NUMBER}, {NUMBER}\](?!\()")  # no link
NOTEBOOKS = {path.stem: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
TEXTS = {"README": ROOT / "README.md", **NOTEBOOKS}
# Whose results a text also tells, by notebook.
ELSEWHERE = {
    "02_forward_backward_jeffreys": ["03_iterative_bond", "04_learned_quantiles"],
    "07_jbond_against_reinforce": ["06d_jbond_controls"],
}


def told(path: Path) -> list[tuple[str, str]]:
    """The ends of each interval in a text's prose."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = nbformat.reads(text, as_version=4).cells
        text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return INTERVAL.findall(" ".join(text.split()))


@cache
def known(name: str) -> np.ndarray:
    """The ends [n, 2] of intervals: of a notebook's outputs and figures, the README's of claims."""
    if name == "README":
        text = (ROOT / "CLAIMS.md").read_text(encoding="utf-8")
        return np.array(INTERVAL.findall(text), dtype=float)
    text = ""
    for cell in nbformat.read(NOTEBOOKS[name], as_version=4).cells:
        for out in cell.get("outputs", []):
            text += out.get("text", "") + out.get("data", {}).get("text/plain", "")
    pairs = [np.array(INTERVAL.findall(text), dtype=float).reshape(-1, 2)]
    for folder in [committed_folder(e.name) for e in EXPERIMENTS.values() if e.notebook == name]:
        for path in folder.rglob("*.csv"):
            table = pd.read_csv(path)
            if {"low", "high"} <= {*table}:
                ends = table[["low", "high"]].apply(pd.to_numeric, errors="coerce")
                pairs.append(ends.dropna().to_numpy())
        for path in folder.rglob("*.json"):
            headline = json.loads(path.read_text(encoding="utf-8")).get("headline", [])
            ends = [(n["low"], n["high"]) for n in headline if None not in (n["low"], n["high"])]
            pairs.append(np.array(ends, dtype=float).reshape(-1, 2))
    return np.concatenate([*pairs, *(known(other) for other in ELSEWHERE.get(name, []))])


def is_known(name: str, low: str, high: str) -> bool:
    """Whether a result has these ends to the digits given, as a share, in percent, or negated."""
    digits = max(len(end.partition(".")[2]) for end in (low, high))
    wanted, off = np.array([float(low), float(high)]), 0.51 * 10.0**-digits
    ends = known(name)
    return any((abs(scale * each - wanted) <= off).all(1).any()
               for each in (ends, -ends[:, ::-1]) for scale in (1, 100))  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_intervals_in_prose_are_those_of_results(name):
    found = told(TEXTS[name])
    assert [f"[{low}, {high}]" for low, high in found if not is_known(name, low, high)] == []
    assert all(float(low) <= float(high) for low, high in found)


def test_another_number_would_be_found_out():
    """Of all these intervals with one end moved by two to nine of its last digits."""
    moved = []
    for name, path in TEXTS.items():
        for place, (low, high) in enumerate(told(path)):
            digits = len(high.partition(".")[2])
            other = f"{float(high) + (2 + place % 8) * 10.0**-digits:.{digits}f}"
            moved.append(is_known(name, low, other))
    assert len(moved) > 100 and np.mean(moved) < 0.05
