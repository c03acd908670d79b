"""What every test relies on: one thread, no network, and a skip where models or data are absent."""

from __future__ import annotations

import os
from pathlib import Path

# Before anything imports torch or transformers: both read these once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["MPLBACKEND"] = "Agg"

import pytest


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test marked `assets(names)` unless all of them are in the cache and intact."""
    for mark in item.iter_markers("assets"):
        from bondlab import assets

        absent = [name for name in mark.args if assets.state(name) != "ready"]
        if absent:
            pytest.skip(f"not in the cache: {', '.join(absent)} (python -m bondlab fetch)")


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Path:
    """The folder of all runs and banks, moved into the test's temporary folder."""
    monkeypatch.setenv("BONDLAB_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"
