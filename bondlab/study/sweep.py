"""Run many runs: the finished are skipped, the unfinished go on, several at a time.

Each worker is a process with its share of the processor's threads: two processes with two threads
each on two cores would fight over them. joblib starts the workers here, or sends the runs to those
that its own setting names, a cluster's for example:

    with dask.distributed.Client(address), joblib.parallel_config("dask"): sweep(specs, parent)

They must be processes of one thread that see the same disk and have the same BONDLAB_RUNS.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky import get_reusable_executor
from joblib.parallel import get_active_backend
from tqdm.auto import tqdm

from bondlab import device, processes, tasks
from bondlab.algorithms import Algorithm
from bondlab.bank import Bank, BankFolder
from bondlab.config import Config
from bondlab.lm.completions import slices
from bondlab.results import RunFolder
from bondlab.tasks import TaskSettings
from bondlab.training import banks, identity, train

JOBS = 8  # of drawing a bank, about so many for each worker
MOST_WORKERS = 4  # each holds about 1.5 GB; more are there for the asking


@dataclass(frozen=True)
class Spec:
    """One run to be: what to train, and the labels that tell it from its siblings in tables."""

    task: TaskSettings
    algorithm: Algorithm
    config: Config
    labels: Mapping[str, float | str]

    def build(self) -> tasks.Task:
        """Load the task; sibling runs of one process share it."""
        return tasks.build(self.task, device.resolve(self.config.precision))

    def banks(self) -> list[BankFolder]:
        """The reference's samples it reads; the last are of the held-out prompts."""
        return banks(self.build(), self.algorithm, self.config)

    def folder(self, parent: Path) -> RunFolder:
        """Where this run's results are or will be."""
        return RunFolder.of(parent, identity(self.build(), self.algorithm, self.config))


def default_workers(runs: int) -> int:
    """One run at a time on a GPU; else one a core, up to `MOST_WORKERS`."""
    on_gpu = device.place().type != "cpu"
    return 1 if on_gpu else max(1, min(device.cores(), MOST_WORKERS, runs))


def sweep(specs: Sequence[Spec], parent: Path, workers: int | None = None) -> list[RunFolder]:
    """Compute all runs that are not finished; returns every run's folder, in order.

    Two series may name one run, where the machine has no bfloat16 for example.

    Args:
        specs: the runs.
        parent: folder of their folders.
        workers: runs at a time on this machine; None takes `default_workers`.

    Raises:
        ValueError: fewer than one worker; or what a run raises (the others' results are kept).
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}")
    folders = [spec.folder(parent) for spec in specs]
    found = zip(specs, folders, strict=True)
    left = [*{run.path: (spec, run) for spec, run in found if not run.finished}.values()]
    if not left:
        return folders
    if processes.count() > 1:  # which share each run and each bank
        for spec, _ in left:
            _train(spec, parent)
        return folders
    workers = min(workers or default_workers(len(left)), len(left))
    missing = {  # the parts of each bank, with one of the runs that need it
        folder.path: (spec, which, folder.missing())
        for spec, _ in left
        for which, folder in enumerate(spec.banks())
    }
    jobs = [
        (spec, which, parts[some])
        for spec, which, parts in missing.values()
        for some in slices(len(parts), max(1, len(parts) // (JOBS * workers)))
    ]
    with _pool(workers):
        filled = Parallel(return_as="generator_unordered", batch_size=1)(
            delayed(_fill)(*each) for each in jobs
        )
        # A job in this process draws bars of its own, which tell more than these.
        list(tqdm(filled, "reference samples", len(jobs), leave=False, disable=workers == 1))
        with _bar_over_steps([run for _, run in left], sum(spec.config.steps for spec, _ in left)):
            Parallel(batch_size=1)(delayed(_train)(spec, parent) for spec, _ in left)
    return folders


@contextmanager
def _pool(workers: int) -> Iterator[None]:
    """Workers of this machine, unless joblib was set to others that look after their threads."""
    backend, _ = get_active_backend()
    if not backend.supports_inner_max_num_threads:
        yield
        return
    threads = max(1, device.cores() // workers)
    with parallel_config(
        "loky",
        n_jobs=workers,
        inner_max_num_threads=threads,
        initializer=_start_worker,
        initargs=(os.getpid(), threads),
    ):
        yield
    if workers > 1:  # idle workers would go on holding gigabytes
        get_reusable_executor().shutdown(wait=True)


def held_out_bank(spec: Spec) -> Bank:
    """The reference's samples of the held-out prompts that a run is measured with.

    Drawn where they are missing: a run on noise leaves none that the task's reward has seen.
    """
    return spec.banks()[-1].filled(spec.build())


def _fill(spec: Spec, which: int, parts: Sequence[int]) -> None:
    folder = spec.banks()[which]  # which is named by all of its prompts: asked for once a job
    for part in parts:
        folder.fill(spec.build(), part)


def _train(spec: Spec, parent: Path) -> None:
    train(spec.build(), spec.algorithm, spec.config, parent)


def _start_worker(parent: int, threads: int) -> None:
    """A process with its share of threads, no bars in the terminal that it shares, and an end.

    It ends with its sweep: one that was killed must not go on beside the one that replaces it.
    """
    torch.set_num_threads(threads)
    make = tqdm.__init__
    tqdm.__init__ = lambda bar, *given, **named: make(bar, *given, **named | {"disable": True})

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def beside(follow: Callable[[threading.Event], None]) -> Iterator[None]:
    """A thread beside the work that shows how far it is; the event tells it that the work ended."""
    ended = threading.Event()
    thread = threading.Thread(target=follow, args=(ended,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _bar_over_steps(runs: Sequence[RunFolder], total: int) -> AbstractContextManager:
    """One bar over the steps of all runs, read off their records, whichever process writes them."""

    def follow(ended: threading.Event) -> None:
        done, going = sum(run.steps for run in runs), True
        with tqdm(total=total, initial=done, desc="training", unit="step") as bar:
            while going:
                going = not ended.wait(1.0)
                more = sum(run.steps for run in runs) - bar.n
                bar.initial += min(more, 0)  # what a run that goes on had past its checkpoint
                bar.update(more)

    return beside(follow)
