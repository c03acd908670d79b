"""Several processes on one run: the numbers of one process, one writer, any number to go on with.

Real processes, connected over gloo by accelerate as a launcher's are. They are forked from a server
that has imported torch, so that only the launcher's own test pays for starting up.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pytest
import torch
from lab import BOND, Killed, configured, kill, task_of
from test_sweep import specs
from torch.multiprocessing import start_processes

from bondlab import training
from bondlab.algorithms import bond, j_bond, reinforce
from bondlab.anchors import MovingAverage
from bondlab.quantiles import Learned
from bondlab.results import RunFolder
from bondlab.study import sweep
from bondlab.trainer import Trainer
from bondlab.training import train

# 5 prompts a step are shares of 2 and 3, or of 1, 1, 1 and 2. 20 prompts make 3 parts of a bank and
# 3 batches of an evaluation, of which the first of four processes has none.
CONFIG = configured(
    prompts_per_step=5, learning_rate=2e-3, evaluate_every=4, micro_batch=2, sampling_batch=2
)
MOVING = j_bond(anchor=MovingAverage(0.3))
LEARNED = bond(3, 0.5, quantile_model=Learned(learning_rate=2e-3))
CASES = {
    "j_bond": ("gemma", MOVING, {}),
    "learned": ("t5", LEARNED, {"steps": 2, "fresh": "shared"}),
    "reinforce, all weights": ("t5", reinforce(0.1), {"steps": 2, "lora_rank": None}),
}


def trained(name: str, folder: Path) -> list[torch.Tensor]:
    """Run a case; what policy, anchor and quantile model then are in this process."""
    (family, algorithm, changed), made, make = CASES[name], [], training.trainer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "trainer", lambda *given: made.append(make(*given)) or made[0])
        train(task_of(family, 20, 20), algorithm, CONFIG.model_copy(update=changed), folder / name)
    (trainer,) = made
    parts = [*trainer.parameters, *trainer.anchor_parameters]
    parts += trainer.quantiles.model.trainable() if algorithm.quantile_model else []
    return [part.detach() for part in parts]


def stopped(folder: Path) -> None:
    """One step of the first case, from wherever it is."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill(patch, Trainer, "update", 2, before=False)
        trained("j_bond", folder)


def refused() -> None:
    """What several processes may not do stops each of them, before anything is written."""
    with pytest.raises(ValueError, match=r"prompts_per_step must be . or more, .* not 1"):
        train(task_of(), BOND, configured(prompts_per_step=1))
    task = task_of()
    task.identity["reward"] = f"of process {os.environ['RANK']}"
    with pytest.raises(RuntimeError, match="must train the same.*; they differ in banks, reward"):
        train(task, BOND, CONFIG)


def everything(rank: int, environment: Mapping[str, str], folder: Path) -> None:
    """All that is asked of one set of processes, of which this is one."""
    os.environ.update(environment, RANK=str(rank), LOCAL_RANK=str(rank))
    refused()
    sweep.sweep(specs((0.5, 1.0)), folder / "swept", workers=2)
    stopped(folder.parent / "stopped")
    torch.save({name: trained(name, folder) for name in CASES}, folder / f"of-{rank}.pt")


def in_processes(count: int, folder: Path) -> list[dict[str, list[torch.Tensor]]]:
    """`everything` in so many connected processes: the parameters in each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    environment |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    environment |= {"BONDLAB_RUNS": str(folder / "runs")}
    multiprocessing.set_forkserver_preload(["bondlab.training", "bondlab.tasks", "peft", "pytest"])
    # The first that raises ends them all.
    start_processes(everything, (environment, folder), count, start_method="forkserver")
    return [torch.load(folder / f"of-{rank}.pt") for rank in range(count)]


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[int, tuple[Path, list]]:
    """Folder and parameters in each process, of one process and of 4 and 2 with their own banks."""
    folder = tmp_path_factory.mktemp("processes")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("BONDLAB_RUNS", str(folder / "1" / "runs"))
        found = {1: (folder / "1", [{name: trained(name, folder / "1") for name in CASES}])}
        sweep.sweep(specs((0.5, 1.0)), folder / "1" / "swept", workers=1)
        stopped(folder / "stopped")
        for count in (4, 2):
            found[count] = folder / str(count), in_processes(count, folder / str(count))
        trained("j_bond", folder / "stopped")
    return found


def run_in(folder: Path) -> RunFolder:
    (path,) = folder.iterdir()
    return RunFolder(path)


def assert_close(actual: RunFolder, expected: RunFolder) -> None:
    """The same run, up to float32 rounding: record, completions measured, and no file more.

    A uniform number may lie within rounding of where one token ends and the next begins (1e-9 was
    seen), and then draws either: of the evaluation's completions one in a hundred may be another.
    """
    assert actual.path.name == expected.path.name and actual.finished
    records = [run.record().drop(columns="seconds") for run in (actual, expected)]
    pd.testing.assert_frame_equal(*records, check_exact=False, rtol=1e-4, atol=1e-4)
    tables = [run.evaluation() for run in (actual, expected)]
    same = (tables[0]["text"].fillna("") == tables[1]["text"].fillna("")).to_numpy()
    assert same.mean() >= 0.99
    tables = [table[same] for table in tables]
    pd.testing.assert_frame_equal(*tables, check_exact=False, rtol=1e-4, atol=1e-4)
    files = [{p.relative_to(run.path) for p in run.path.rglob("*")} for run in (actual, expected)]
    assert files[0] == files[1]


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("name", CASES)
def test_processes_give_the_run_of_one(name, count, results):
    """The same prompts, random numbers and weights: what is trained differs by less than a tenth of
    one of Adam's steps (of 2e-3) from one process's, and from process to process by nothing."""
    (one, (alone,)), (many, found) = results[1], results[count]
    run = run_in(many / name)
    assert_close(run, run_in(one / name))
    assert run.manifest["machine"]["processes"] == count
    torch.testing.assert_close(found[0][name], alone[name], rtol=0, atol=2e-4)
    for other in found[1:]:
        torch.testing.assert_close(other[name], found[0][name], rtol=0, atol=0)


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_each_run_of_a_sweep(count, results):
    """Two runs of BOND from a bank, 6 prompts a step, one after the other: processes have no
    workers, which would take themselves for more of them."""
    folders = [sorted((results[n][0] / "swept").iterdir()) for n in (count, 1)]
    for paths in zip(*folders, strict=True):
        assert_close(*map(RunFolder, paths))


@pytest.mark.parametrize("count", [2, 4])
def test_processes_fill_the_banks_of_one(count, results):
    """Each part drawn once, by whoever, to the same bytes."""
    banks = [sorted((results[n][0] / "runs").rglob("part-*.pt")) for n in (1, count)]
    assert banks[0] and [p.parts[-2:] for p in banks[0]] == [p.parts[-2:] for p in banks[1]]
    assert [p.read_bytes() for p in banks[0]] == [p.read_bytes() for p in banks[1]]


def test_a_run_goes_on_with_another_number_of_processes(results):
    """Stopped after a step of one process, one of four and one of two, ended by one."""
    folder = results[1][0].parent / "stopped" / "j_bond"
    assert_close(run_in(folder), run_in(results[1][0] / "j_bond"))
    assert run_in(folder).manifest["starts"] == 4


# -- launched -------------------------------------------------------------------------------------

PROGRAM = """
import itertools, os, sys
sys.path.insert(0, sys.argv[1])
from lab import BOND, configured, task_of, taste
from bondlab import train

run = train(task_of(), BOND, configured())
run.save_pretrained("policy")
print(len(run.table), "steps of", run.folder.manifest["machine"]["processes"], flush=True)
asked = itertools.count()

def reward(prompts, completions):
    if os.environ["RANK"] == "1" and next(asked) == 3:
        raise ValueError("the judge does not answer")
    return taste(prompts, completions)

train(task_of(reward=reward), BOND, configured(seed=1))
"""


def test_a_launched_program_trains_and_an_error_in_one_process_ends_it(tmp_path):
    """As `accelerate launch` starts several GPUs' processes: the first run ends with one policy,
    the second in the error of the one process whose reward fails, long before any time-out."""
    (tmp_path / "program.py").write_text(PROGRAM)
    words = "-m accelerate.commands.launch --multi_gpu --num_processes 2 --main_process_port 0"
    command = [sys.executable, *words.split(), "program.py", str(Path(__file__).parent)]
    options = {"cwd": tmp_path, "env": os.environ | {"BONDLAB_RUNS": str(tmp_path / "runs")}}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600, **options)
    assert ended.stdout.splitlines() == ["4 steps of 2"] * 2
    assert (tmp_path / "policy" / "model.safetensors").exists()
    assert ended.returncode != 0 and "ValueError: the judge does not answer" in ended.stderr
    paths = (tmp_path / "runs" / "library").iterdir()
    (failed,) = [run for run in map(RunFolder, paths) if not run.finished]
    with failed.lock():  # nobody is left who holds it
        assert failed.manifest["status"] == "running"
