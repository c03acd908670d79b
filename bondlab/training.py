"""The loop: sample, score, turn scores into weights, weighted maximum likelihood.

It never knows which algorithm runs. What differs from the paper, or fills what it leaves open:
1. The reference's samples come from a bank drawn once; `Config.fresh`, as the paper, draws anew.
2. Policies are LoRA adapters over shared frozen weights, unless `lora_rank` is None.
3. Prompts go by in shuffled passes; two policy samples per prompt (J-BOND: one); no weight decay.
4. The log ratio compares the sampler's log-probabilities with a scoring pass of the anchor; the
   trained pass is never run twice. Under bf16 the two are rounded nearly alike.
5. A moving anchor cannot have a bank: its Best-of-n and quantile draws are made at each step.
6. A learned quantile model reads prompt and completion, its head the last state; it has its own
   Adam, gives its estimate before it learns from the step's batch, and is trained on the policy's
   completions alone.
7. Gradients are clipped where their norm exceeds `Config.clip`, which it rarely does.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from bondlab import device, paths, processes
from bondlab.algorithms import Algorithm
from bondlab.bank import SHARED_STREAMS, BankFolder, passing, spread_bank
from bondlab.config import Config
from bondlab.evaluation import COLUMNS, means
from bondlab.lm.language_model import LanguageModel
from bondlab.results import RunFolder, digest, write_atomically
from bondlab.rules import check
from bondlab.task import Task, score
from bondlab.trainer import Trainer

Log = Callable[[dict[str, float], int], None]
"""(numbers by name, training steps taken) -> None."""
EVALUATION = "evaluation/"  # what the names of an evaluation's numbers begin with


@dataclass(frozen=True)
class Run:
    """A finished run: its tables and its policy."""

    folder: RunFolder
    policy: LanguageModel

    @property
    def table(self) -> pd.DataFrame:
        """The record: one row per step, with step, loss, gradient_norm (before clipping), clipped
        (0 or 1), seconds, what `evaluation.step_measures` measures and, where there are any,
        quantile_loss, reward_scale and anchor_share."""
        return self.folder.record()

    @property
    def evaluation(self) -> pd.DataFrame:
        """One row per completion and evaluation; see `evaluation.evaluate`."""
        return self.folder.evaluation()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the policy as a folder that `from_pretrained` loads; see `Trainable`.

        Of several processes, which all have the policy, the main one writes.
        """
        if processes.is_main():
            self.policy.save_pretrained(folder)


def identity(task: Task, algorithm: Algorithm, config: Config) -> dict:
    """Everything that determines a run's numbers, as its folder is named by it."""
    left_out = {"checkpoint_seconds", "micro_batch", "sampling_batch"}
    left_out |= {"kl_limit"} if config.kl_limit is None else set()
    settings, folders = config.model_dump(exclude=left_out), banks(task, algorithm, config)
    settings["precision"] = device.resolve(config.precision)
    if len(folders) == 1:  # there is nothing to share
        settings["fresh"] = bool(config.fresh)
    return {
        "task": task.identity,
        "banks": [folder.path.name for folder in folders],
        "train_prompts": digest(list(task.train_prompts)),
        "algorithm": algorithm.identity,
        "config": settings,
    }


def banks(task: Task, algorithm: Algorithm, config: Config) -> list[BankFolder]:
    """The reference's stored samples that a run reads: of training prompts, of held-out prompts.

    The held-out ones stand alone where the others are drawn anew at each step or not wanted. Only
    training prompts that the run will read are sampled and scored: a reward may cost money.

    Raises:
        ValueError: the training bank is too small for the algorithm.
    """
    given = config.precision, config.micro_batch
    held_out = BankFolder.of(task, task.eval_prompts, config.evaluation_bank, 1, *given)
    wanted, stored = algorithm.anchor_draws + algorithm.quantile_draws, config.bank_samples
    if algorithm.draws_anew(config) or not wanted:
        return [held_out]
    demand = f"the algorithm needs bank_samples of {wanted} or more, or fresh=True"
    check(demand, wanted <= stored, stored)
    read = [task.train_prompts[i] for i in passing(len(task.train_prompts), config)]
    stream = SHARED_STREAMS + config.seed if config.fresh else 0
    return [BankFolder.of(task, read, stored, stream, *given), held_out]


def trainer(task: Task, algorithm: Algorithm, config: Config, parent: Path) -> Trainer:
    """What `train` loops over: a run below `parent` at its last checkpoint."""
    run = RunFolder.of(parent, identity(task, algorithm, config))
    return Trainer(task, algorithm, config, run, banks(task, algorithm, config))


def train(
    task: Task,
    algorithm: Algorithm,
    config: Config,
    folder: Path | str | None = None,
    log: Log | None = None,
) -> Run:
    """Train a policy, or go on where an earlier call stopped, or return what it left.

    Several processes that call it alike share one run (`processes`), whose name does not tell how
    many: it may go on with another number of them.

    Args:
        task: prompts, reference and reward.
        algorithm: for example `algorithms.bond(n=8, beta=0.5)`.
        config: see `Config`.
        folder: parent of the run's folder; by default `runs/library`.
        log: given, as they come, each step's row of `Run.table` and, as "evaluation/reward" and so
            on, each evaluation's `evaluation.means`; of several processes the main one calls it.
            `Accelerator.log` of accelerate, after `init_trackers`, takes them to a tracker.

    Raises:
        TypeError: something else in an argument's place.
        ValueError: the bank is too small for the algorithm; a reward or the loss is not finite;
            `log` is no function.
        RuntimeError: another program computes the same run; processes that share a run name it
            differently, or find different files.
    """
    for kind, given in ((Task, task), (Algorithm, algorithm), (Config, config)):
        if not isinstance(given, kind):
            told = (
                f"train takes a Task, an Algorithm, such as j_bond(), and a Config, not {given!r}"
            )
            raise TypeError(told)
    demand = "log must be a function of numbers and step, such as accelerate's Accelerator.log"
    check(demand, log is None or callable(log), log)
    parent = Path(folder).expanduser() if folder else paths.runs_folder() / "library"
    name = identity(task, algorithm, config)
    _agree(name, config)
    if not processes.told(lambda: RunFolder(RunFolder.place(parent, name)).manifest):
        # Ask a new run's reward about four short texts, before anything long is computed for it.
        prompts = task.eval_prompts[:2]
        score(task.reward, prompts, [[" ".join(text.split()[:5]), "Yes."] for text in prompts])
    run = RunFolder.of(parent, name)
    if (kinds := run.manifest.get("kinds")) and kinds[-1] != device.kind():
        warnings.warn(
            f"{run.path} was computed on {kinds[-1]}, this is {device.kind()}: numbers of the two "
            "differ from the last digit on; its manifest names the kinds that it comes from",
            stacklevel=2,
        )
    # Also where the caller has gradients turned off.
    with run.lock(), torch.inference_mode(False), torch.enable_grad():
        processes.gathered(None)  # the folder is there, and locked
        found = trainer(task, algorithm, config, parent)
        seen = {"files": run.path.exists(), "checkpoint": found.step}
        processes.alike(seen, f"{run.path} must be one folder, which all processes read")
        # Its last checkpoint may be gone.
        if processes.told(lambda: not run.finished or found.step < _end(run, config)):
            _loop(found, log if processes.is_main() else None)
        processes.gathered(None)  # once all is written
    return Run(run, found.policy)


def _agree(name: Mapping[str, Any], config: Config) -> None:
    """Raise unless all processes are about to train the same, and each has a prompt per step."""
    demand = (
        "all processes must train the same: sort what comes from a set, and give what cannot be "
        'named a name, Task(identity={"reward": "..."})'
    )
    processes.alike({**name, **name["task"]}, demand)
    few = f"prompts_per_step must be {processes.count()} or more, one for each process"
    check(few, config.prompts_per_step >= processes.count(), config.prompts_per_step)


def _loop(trainer: Trainer, log: Log | None) -> None:
    saved, kept = time.perf_counter(), trainer.step
    config, run = trainer.config, trainer.run
    run.mark("running", 0.0)
    run.rewind(trainer.step)
    for folder in trainer.folders:  # before any step is timed
        folder.complete(trainer.task)
    shown = {"desc": "steps", "unit": "step", "leave": False, "disable": not processes.is_main()}
    bar = tqdm(total=config.steps, initial=trainer.step, **shown)
    last = False
    while not last:
        last = trainer.step == config.steps
        if last or trainer.step % config.evaluate_every == 0:
            last |= _evaluate(trainer, log)
        if not last:
            row = trainer.update()
            run.append(row)
            if log:
                log({name: value for name, value in row.items() if name != "step"}, trainer.step)
            bar.update()
        now = time.perf_counter()
        wanted = last or trainer.step == config.steps or now - saved >= config.checkpoint_seconds
        if wanted and kept < trainer.step and processes.is_main():  # by its own clock
            run.spent(now - saved)  # before what it may be killed after
            trainer.save()
            saved, kept = now, trainer.step
    bar.close()
    drawn = [*trainer.folders]
    if trainer.algorithm.scales_rewards:
        drawn.append(spread_bank(trainer.task, config.precision))
    kinds = [kind for folder in drawn for kind in folder.kinds]
    run.mark("finished", time.perf_counter() - saved, kinds)


def _end(run: RunFolder, config: Config) -> int:
    """The last step of a finished run, which was evaluated."""
    return max(run.evaluation().get("step", ()), default=config.steps)


def _evaluate(trainer: Trainer, log: Log | None) -> bool:
    """Measure the policy, unless that was done; whether it is past `Config.kl_limit`."""
    run, step, limit = trainer.run, trainer.step, trainer.config.kl_limit
    if not processes.told(lambda: run.evaluated(step)):
        found = trainer.evaluate() if step else _start(trainer)
        run.add_evaluation(found)
        if log:
            told = {f"{EVALUATION}{name}": value for name, value in means(found).items()}
            log(told, step)

    def past() -> bool:
        table = run.evaluation()
        return means(table[table["step"] == step])["kl_to_reference"] > limit

    return limit is not None and processes.told(past)


def _start(trainer: Trainer) -> pd.DataFrame:
    """The evaluation before the first step: of the reference itself, so runs of a seed share it."""
    config, held_out = trainer.config, trainer.folders[-1]
    # A quantile model adds its predictions, and a copy in float32 rounds in its own way.
    if trainer.algorithm.quantile_model or config.lora_rank is None:
        return trainer.evaluate()
    depends_on = [config.seed, config.evaluation_samples, config.forward_kl, COLUMNS]
    path = held_out.path / f"start-{digest(depends_on)}.parquet"
    if not processes.told(path.exists):
        data = trainer.evaluate().to_parquet(index=False)
        if processes.is_main():
            held_out.note_kind()
            write_atomically(path, data)
    return processes.told(lambda: pd.read_parquet(path))
