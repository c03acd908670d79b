"""Sweeps: nothing is computed twice, workers change no number, and a killed sweep leaves none."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import joblib
import pandas as pd
import pytest
import torch
from lab import spied

from bondlab import device
from bondlab.algorithms import bond
from bondlab.bank import BankFolder
from bondlab.config import Config
from bondlab.results import RunFolder
from bondlab.study import sweep
from bondlab.study.sweep import Spec
from bondlab.tasks import TaskSettings
from bondlab.trainer import Trainer

TASK = TaskSettings(name="tiny", train=12, evaluate=4)  # banks of 2 parts and 1
CONFIG = Config(
    steps=2, prompts_per_step=6, learning_rate=1e-2, lora_rank=2, bank_samples=8,
    evaluate_every=2, evaluation_samples=2, evaluation_bank=4, precision="fp32",
    checkpoint_seconds=0,
)  # fmt: skip


def specs(betas=(0.0, 0.5, 1.0), task: TaskSettings = TASK, **changed) -> list[Spec]:
    config = CONFIG.model_copy(update=changed)
    return [
        Spec(task, bond(3, beta, quantile_draws=5), config, {"n": 3, "beta": beta})
        for beta in betas
    ]


def assert_same(first: list[RunFolder], second: list[RunFolder]) -> None:
    """Records and evaluations are equal to the last bit."""
    for one, other in zip(first, second, strict=True):
        records = [run.record().drop(columns="seconds") for run in (one, other)]
        pd.testing.assert_frame_equal(*records, check_exact=True)
        pd.testing.assert_frame_equal(one.evaluation(), other.evaluation(), check_exact=True)


def test_a_sweep_computes_each_run_and_each_bank_part_once(runs, monkeypatch):
    """Three runs share 3 bank parts: 3 fills and 3 x 2 updates. The second sweep does nothing, and
    one with a fourth run only that one. Folders come in the order of the specs; labels name none.
    Runs that draw anew read no training bank: one of another seed shares the held-out bank's part.
    """
    updates = spied(monkeypatch, Trainer, "update", lambda *seen: seen)
    fills = spied(monkeypatch, BankFolder, "fill", lambda *seen: seen)
    fresh = specs((0.5,), fresh=True)
    assert sweep.sweep(fresh, runs / "x", workers=1)[0].finished
    assert (len(updates), len(fills)) == (2, 1)
    folders = sweep.sweep(specs(), runs / "x", workers=1)
    assert (len(updates), len(fills)) == (8, 3)
    assert len({(folder.path, part) for folder, _, part in fills}) == 3
    assert all(folder.finished for folder in folders)
    assert [folder.config["algorithm"]["settings"]["beta"] for folder in folders] == [0.0, 0.5, 1.0]
    relabelled = [dataclasses.replace(spec, labels={}) for spec in specs()]
    assert sweep.sweep(relabelled, runs / "x", workers=1) == folders
    more = sweep.sweep(specs((0.25, 0.5)), runs / "x", workers=1)
    assert (len(updates), len(fills)) == (10, 3) and more[1] == folders[1]
    assert specs((0.5,))[0].folder(runs / "y").path.name == more[1].path.name
    assert sweep.held_out_bank(specs()[0]).rewards.shape == (4, 4)


def test_a_sweep_goes_on_after_a_failure(runs, monkeypatch):
    """The second run fails in its second step: the first is kept, the error is the run's own, and
    the next sweep computes 1 + 2 updates more, to the same results as one without failure."""
    expected = sweep.sweep(specs(), runs / "whole", workers=1)
    update, calls = Trainer.update, []

    def failing(self) -> dict:
        calls.append(0)
        if len(calls) == 4:
            raise ValueError("the reward returned nan")
        return update(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "update", failing)
        with pytest.raises(ValueError, match="returned nan"):
            sweep.sweep(specs(), runs / "x", workers=1)
    assert [folder.finished for folder in (s.folder(runs / "x") for s in specs())] == [1, 0, 0]
    updates = spied(monkeypatch, Trainer, "update", lambda *seen: seen)
    assert_same(sweep.sweep(specs(), runs / "x", workers=1), expected)
    assert len(updates) == 3


def test_the_bar_goes_back_with_a_run(tmp_path, capfd):
    """A run that goes on forgets what it had past its checkpoint: the bar's rate stays positive."""
    run = RunFolder(tmp_path)
    record = run.path / "record.jsonl"
    record.write_text(5 * "\n")
    with sweep._bar_over_steps([run], 8):
        time.sleep(1.2)
        record.write_text(3 * "\n")
        time.sleep(1.2)
        record.write_text(6 * "\n")
    shown = capfd.readouterr().err
    assert "5/8" in shown and "3/8" in shown and "6/8" in shown and "-" not in shown


def test_two_workers_give_the_numbers_of_one(runs, capfd):
    """Processes with their share of threads compute what this one does, to the last bit, banks too.
    They draw no bars, and end with the sweep: idle ones would hold gigabytes. A run that is asked
    for under two names is no work for both."""
    threads = max(1, device.cores() // 2)  # as each worker has
    torch.set_num_threads(threads)
    wanted = specs((0.0, 1.0))
    expected = sweep.sweep(wanted, runs / "one", workers=1)
    (runs / "banks").rename(runs / "first")
    capfd.readouterr()
    twin, *found = sweep.sweep([*specs((0.0,)), *wanted], runs / "two", workers=2)
    assert twin == found[0]
    bars = capfd.readouterr().err
    assert "training:" in bars and "evaluation:" not in bars and "steps:" not in bars
    assert_same(found, expected)
    parts = [sorted(folder.glob("*/part-*")) for folder in (runs / "first", runs / "banks")]
    assert len(parts[0]) == len(parts[1]) == 3
    assert [p.read_bytes() for p in parts[0]] == [p.read_bytes() for p in parts[1]]
    processes = {folder.manifest["process"] for folder in found}
    assert os.getpid() not in processes
    assert not any(Path(f"/proc/{process}").exists() for process in processes)
    assert {folder.manifest["machine"]["threads"] for folder in found} == {threads}


def test_a_cluster_gives_the_numbers_of_one(runs, monkeypatch):
    """joblib's own setting sends bank parts and runs to the workers of dask, which are processes of
    one thread each; what they leave is equal to the last bit to what this one computes."""
    distributed = pytest.importorskip("distributed")
    expected = sweep.sweep(specs((0.5, 1.0)), runs / "one", workers=1)
    monkeypatch.setenv("BONDLAB_RUNS", str(runs / "cluster"))
    settings = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.Client(**settings) as client, joblib.parallel_config("dask"):
        found = sweep.sweep(specs((0.5, 1.0)), runs / "two")
        workers = {*client.run(os.getpid).values()}
    assert {folder.manifest["process"] for folder in found} <= workers
    assert len([*runs.glob("cluster/banks/*/part-*.pt")]) == 3
    assert_same(found, expected)


def test_workers_are_checked_and_chosen(monkeypatch, runs):
    """0 is refused before anything is built; by default one worker a core, at most 4, never more
    than runs, and one on a GPU."""
    with pytest.raises(ValueError, match="workers must be at least 1, not 0"):
        sweep.sweep(specs(), runs, workers=0)
    for cores, left, expected in [(2, 9, 2), (64, 9, 4), (8, 3, 3), (1, 5, 1)]:
        monkeypatch.setattr(device, "cores", lambda c=cores: c)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert sweep.default_workers(left) == expected
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert sweep.default_workers(9) == 1


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_sweep
from bondlab.study import sweep
sweep.sweep(test_sweep.specs((0.25, 0.75), steps=100_000), Path(sys.argv[1]), workers=2)
"""


def wait_for(condition, seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} not within {seconds} s"
        time.sleep(0.1)


def at_work(process: int) -> bool:
    """Whether a process runs and is no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def is_free(folder: RunFolder) -> bool:
    try:
        with folder.lock():
            return True
    except RuntimeError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_die_with_a_killed_sweep(runs):
    """A sweep of two endless runs is killed once both have recorded a step. Within seconds both
    workers are gone, though nobody has collected the killed process (in a container perhaps nobody
    ever does), their records no longer grow, and their locks are free."""
    command = [sys.executable, "-c", KILLED, str(runs / "x"), str(Path(__file__).parent)]
    parent = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def records() -> list[int]:
        return [path.stat().st_size for path in runs.glob("x/*/record.jsonl")]

    try:
        wait_for(lambda: len([n for n in records() if n]) == 2, 240, "two running workers")
        folders = [RunFolder(path.parent) for path in runs.glob("x/*/manifest.json")]
        workers = [folder.manifest["process"] for folder in folders]
        assert len(set(workers)) == 2 and all(map(at_work, workers))
    finally:
        parent.kill()
    try:
        wait_for(lambda: not any(map(at_work, workers)), 30, "the end of both workers")
    finally:
        for worker in filter(at_work, workers):
            os.kill(worker, signal.SIGKILL)
        parent.wait()
    before = records()
    for folder in folders:
        wait_for(lambda folder=folder: is_free(folder), 10, f"the lock of {folder.path}")
        assert len(folder.record()) > 0 and not folder.finished
    time.sleep(0.5)
    assert records() == before
