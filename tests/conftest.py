"""What every test relies on: no network, one state of the process, a skip for absent assets."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before anything imports torch or transformers: both read these once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["MPLBACKEND"] = "Agg"
# The one place that says where tests compute: on the processor, whose numbers they are about, also
# on a machine with a GPU. `placement` is about other devices, and takes them from `second_device`.
os.environ["ACCELERATE_USE_CPU"] = "true"
for name in ("BONDLAB_FIGURES", "ONEDNN_DEFAULT_FPMATH_MODE", "TQDM_DISABLE"):
    os.environ.pop(name, None)  # what is shipped, exact float32, bars: whatever the caller prefers


# Files that take longest, first, so that no process ends alone with one of them.
LONGEST = (
    "test_placement.py",
    "test_notebooks.py",
    "test_training.py",
    "test_processes.py",
    "04_learned_quantiles.ipynb",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The order of files, as `--no-loadscope-reorder` keeps it."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Start as if no test had run before; skip one marked `assets(names)` unless all are intact."""
    if "torch" in sys.modules:
        _start_afresh()
    for mark in item.iter_markers("assets"):
        from bondlab import assets

        absent = [name for name in mark.args if assets.state(name) != "ready"]
        if absent:
            pytest.skip(f"not in the cache: {', '.join(absent)} (python -m bondlab fetch)")


def _start_afresh() -> None:
    """Threads, float32 mode, random state and loaded tasks: what tests share with the process."""
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.set_float32_matmul_precision("highest")
    torch.manual_seed(0)
    for module, loader in (("tasks", "build"), ("tasks.scorers", "load")):
        if loaded := sys.modules.get(f"bondlab.{module}"):
            getattr(loaded, loader).cache_clear()


@pytest.fixture(scope="session", autouse=True)
def no_runs_of_the_clone(tmp_path_factory) -> Iterator[None]:
    """Whatever a test or a fixture leaves, it leaves in a temporary folder, and finds nothing."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("BONDLAB_RUNS", str(tmp_path_factory.mktemp("all") / "runs"))
        yield


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Path:
    """The folder of all runs and banks, moved into the test's temporary folder as the figures'."""
    for name in ("runs", "figures"):
        monkeypatch.setenv(f"BONDLAB_{name.upper()}", str(tmp_path / name))
    return tmp_path / "runs"


@pytest.fixture(scope="module")
def shared_folders(tmp_path_factory) -> Iterator[None]:
    """The same two folders, for what all tests of a module look at."""
    with pytest.MonkeyPatch.context() as environment:
        for name in ("BONDLAB_RUNS", "BONDLAB_FIGURES"):
            environment.setenv(name, str(tmp_path_factory.mktemp(name)))
        yield
