"""Intervals told in words are those of the committed results, of a notebook's output or a table."""

from __future__ import annotations

import json
import re
from functools import cache

import nbformat
import numpy as np
import pandas as pd
import pytest

from bondlab.paths import committed_folder, repository_root

ROOT = repository_root()
NUMBER = r"(-?\d+(?:\.\d+)?)"
INTERVAL = re.compile(rf"\[{NUMBER}, {NUMBER}\](?!\()")  # no link
IN_COLUMNS = re.compile(rf"(?<![\d.])(?={NUMBER} +{NUMBER} +{NUMBER}(?![\d.]))")  # mean, low, high
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TEXTS = [ROOT / "README.md", *NOTEBOOKS]


def told(path) -> list[tuple[str, str]]:
    """The ends of each interval in a text's prose."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = nbformat.reads(text, as_version=4).cells
        text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return INTERVAL.findall(" ".join(text.split()))


@cache
def known() -> np.ndarray:
    """The ends [n, 2] of every interval that notebooks print, claims have or figures tell."""
    text = (ROOT / "CLAIMS.md").read_text(encoding="utf-8")
    for path in NOTEBOOKS:
        for cell in nbformat.read(path, as_version=4).cells:
            for out in cell.get("outputs", []):
                text += out.get("text", "") + out.get("data", {}).get("text/plain", "")
    pairs = [np.array(INTERVAL.findall(text), dtype=float)]
    threes = np.array(IN_COLUMNS.findall(text), dtype=float)
    pairs.append(threes[(threes[:, 1] <= threes[:, 0]) & (threes[:, 0] <= threes[:, 2]), 1:])
    for path in committed_folder("").rglob("*.csv"):
        table = pd.read_csv(path)
        if {"low", "high"} <= {*table}:
            ends = table[["low", "high"]].apply(pd.to_numeric, errors="coerce")
            pairs.append(ends.dropna().to_numpy())
    for path in committed_folder("").rglob("*.json"):
        headline = json.loads(path.read_text(encoding="utf-8")).get("headline", [])
        pairs += [[[n["low"], n["high"]]] for n in headline if None not in (n["low"], n["high"])]
    return np.concatenate(pairs)


def is_known(low: str, high: str) -> bool:
    """Whether a result has these ends to the digits given, as a share, in percent, or negated."""
    digits = max(len(end.partition(".")[2]) for end in (low, high))
    wanted, off = np.array([float(low), float(high)]), 0.51 * 10.0**-digits
    signed = (known(), -known()[:, ::-1])
    return any((abs(scale * ends - wanted) <= off).all(1).any()
               for ends in signed for scale in (1, 100))  # fmt: skip


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_intervals_in_prose_are_those_of_results(path):
    assert [f"[{low}, {high}]" for low, high in told(path) if not is_known(low, high)] == []


def test_another_number_would_be_found_out():
    assert len(told(ROOT / "README.md")) >= 2 and len(known()) > 1000
    assert is_known("-14.1", "-3.4") and not is_known("-14.3", "-3.4")
