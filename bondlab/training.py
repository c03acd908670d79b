"""The loop: sample, score, turn scores into weights, weighted maximum likelihood.

It never knows which algorithm runs. What differs from the paper, or fills what it leaves open:
1. The reference's samples come from a bank drawn once (`fresh=True` draws anew, as the paper does).
2. Policies are LoRA adapters over shared frozen weights, unless `lora_rank` is None.
3. Prompts go by in shuffled passes; two policy samples a prompt; Adam without weight decay.
4. Under bf16 the log ratio compares the sampler's log-probabilities with a scoring pass of the
   reference, both rounded alike; the trained pass is never run twice.
"""

from __future__ import annotations

import math
import time
from functools import partial
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from tqdm.auto import tqdm

from bondlab import bank as banks
from bondlab import checkpoints, device, paths, quantiles
from bondlab.algorithms import Algorithm
from bondlab.bank import Bank, BankFolder, seeded
from bondlab.evaluation import evaluate
from bondlab.language_model import Completions, LanguageModel, concatenate
from bondlab.results import RunFolder
from bondlab.rewards import score
from bondlab.rules import Scores
from bondlab.tasks import Task

Count = Annotated[int, Field(ge=1)]


class Config(BaseModel):
    """Settings of a run; what the paper does not state says why it was chosen.

    All counts are per optimiser step or per evaluation; `learning_rate` is Adam's after warm-up.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    steps: Count
    prompts_per_step: Count = 8  # not stated for XSum; chosen because two cores do it in seconds
    learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    warmup: Annotated[int, Field(ge=0)] = 10  # the Gemma runs use 100 (section 6), of longer runs
    clip: Annotated[float, Field(gt=0)] = 1.0  # not stated
    lora_rank: Count | None = 8  # not stated; None trains every weight
    micro_batch: Count = 8  # prompts passed through the policy together; does not change results
    bank_samples: Count = 32  # 16 for quantiles (section 4.2) beside Best-of-16
    fresh: bool = False
    evaluate_every: Count = 500  # section 6
    evaluation_samples: Count = 4  # policy completions a held-out prompt; not stated
    evaluation_bank: Count = 32  # k of section 6
    checkpoint_every: Count = 1
    seed: int = 0
    precision: device.Precision = "auto"


class Run:
    """A finished run: its tables and its policy."""

    def __init__(self, folder: RunFolder, policy: LanguageModel) -> None:
        self.folder, self.policy = folder, policy

    @property
    def table(self) -> pd.DataFrame:
        """The record: one row a training step."""
        return self.folder.record()

    @property
    def evaluation(self) -> pd.DataFrame:
        """One row a completion and evaluation; see `evaluate`."""
        return self.folder.evaluation()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the policy as a folder that transformers' `from_pretrained` loads."""
        self.policy.save_pretrained(Path(folder))


def identity(task: Task, algorithm: Algorithm, config: Config) -> dict:
    """Everything that determines a run's numbers, as its folder is named by it."""
    settings = config.model_dump() | {"precision": device.resolve(config.precision)}
    for free in ("checkpoint_every", "micro_batch"):
        del settings[free]
    return {
        "task": task.identity,
        "banks": [folder.path.name for folder in bank_folders(task, config)],
        "algorithm": algorithm.identity,
        "config": settings,
    }


def fill_banks(task: Task, config: Config) -> tuple[Bank | None, Bank]:
    """The training bank (None with `fresh`) and the held-out bank, drawing what is missing."""
    accelerator = device.accelerator(config.precision)
    loaded = []
    for folder in wanted_banks(task, config):
        for part in tqdm(folder.missing(), desc="reference samples", leave=False):
            folder.fill(task, part, accelerator)
        loaded.append(folder.load())
    return None if config.fresh else loaded[0], loaded[-1]


def wanted_banks(task: Task, config: Config) -> list[BankFolder]:
    """The banks that a run reads: with `fresh` the held-out one alone."""
    return bank_folders(task, config)[1 if config.fresh else 0 :]


def bank_folders(task: Task, config: Config) -> list[BankFolder]:
    """Where the two banks lie; the held-out one comes from another stream of random numbers."""
    return [
        BankFolder.of(paths.runs_folder() / "banks", task, prompts, samples, seed)
        for seed, (prompts, samples) in enumerate(
            [
                (task.train_prompts, config.bank_samples),
                (task.eval_prompts, config.evaluation_bank),
            ]
        )
    ]


def train(
    task: Task, algorithm: Algorithm, config: Config, folder: Path | str | None = None
) -> Run:
    """Train a policy, or go on where an earlier call stopped, or return what it left.

    Args:
        task: prompts, reference and reward.
        algorithm: for example `algorithms.bond(n=8, beta=0.5)`.
        config: see `Config`.
        folder: parent of the run's folder; by default `runs/library`.

    Raises:
        ValueError: the reward returned something not finite, or the loss became so.
        RuntimeError: another process computes the same run.
    """
    parent = Path(folder) if folder else paths.runs_folder() / "library"
    run = RunFolder.of(parent, identity(task, algorithm, config))
    lock = run.lock()
    try:
        trainer = Trainer(task, algorithm, config, run)
        if not run.finished or trainer.step < config.steps:  # its last checkpoint may be gone
            _loop(trainer, run, config)
        return Run(run, trainer.policy)
    finally:
        lock.release()


def _loop(trainer: Trainer, run: RunFolder, config: Config) -> None:
    started = time.perf_counter()
    run.mark("running", 0.0)
    trainer.load_banks()
    run.rewind(trainer.step)
    bar = tqdm(total=config.steps, initial=trainer.step, desc="steps", unit="step", leave=False)
    while True:
        due = trainer.step % config.evaluate_every == 0 or trainer.step == config.steps
        if due and not run.evaluated(trainer.step):
            run.add_evaluation(trainer.evaluate())
        if trainer.step == config.steps:
            break
        run.append(trainer.update())
        if trainer.step % config.checkpoint_every == 0 or trainer.step == config.steps:
            trainer.save()
        bar.update()
    bar.close()
    run.mark("finished", time.perf_counter() - started)


class Trainer:
    """Policy, reference, optimiser and banks of one run, at some step."""

    def __init__(self, task: Task, algorithm: Algorithm, config: Config, run: RunFolder) -> None:
        self.task, self.algorithm, self.config, self.run = task, algorithm, config, run
        self.accelerator = device.accelerator(config.precision)
        self.reference = task.model
        self.policy = task.model.trainable_copy(config.lora_rank, config.seed)
        self.policy.to(self.accelerator.device)
        self.parameters = self.policy.trainable()
        adam = torch.optim.AdamW(self.parameters, lr=config.learning_rate, weight_decay=0.0)
        self.optimizer = self.accelerator.prepare(adam)
        self.step = 0
        self.bank: Bank | None = None
        self.held_out: Bank | None = None
        self._resume()

    def load_banks(self) -> None:
        """Load the reference's samples, drawing what is missing."""
        self.bank, self.held_out = fill_banks(self.task, self.config)

    def evaluate(self) -> pd.DataFrame:
        """Measure the policy on the held-out prompts; see `evaluation.evaluate`."""
        generators = partial(seeded, self.config.seed, "evaluation", self.step)
        with self.accelerator.autocast():
            table = evaluate(
                self.policy,
                self.reference,
                self.task,
                self.held_out,
                self.config.evaluation_samples,
                banks.PROMPTS_A_PART,  # not micro_batch: the draws of a batch share a generator
                generators,
            )
        table.insert(0, "step", self.step)
        return table

    # -- one step ---------------------------------------------------------------------------------

    def update(self) -> dict[str, float]:
        """One optimiser step; returns its record."""
        started = time.perf_counter()
        index = self._prompts()
        texts = [self.task.train_prompts[i] for i in index]
        (anchors, anchor_rewards), (_, quantile_rewards) = self._reference_draws(index, texts)
        policy_draws, policy_rewards, log_ratio = self._policy_draws(texts)
        scores = Scores(
            anchor_rewards,
            policy_rewards,
            quantiles.empirical(policy_rewards, quantile_rewards)
            if self.algorithm.policy_draws
            else policy_rewards,
            log_ratio,
        )
        weights = self.algorithm.weights(scores)
        trained, weights = self._trained(anchors, policy_draws, weights)
        loss = self._backward(texts, trained, weights)
        norm = self.accelerator.clip_grad_norm_(self.parameters, self.config.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        row = self._record(loss, norm, scores, policy_draws)
        return row | {"seconds": round(time.perf_counter() - started, 3)}

    def _prompts(self) -> list[int]:
        """The step's prompts: shuffled passes over the training prompts, without a break."""
        total, size = len(self.task.train_prompts), self.config.prompts_per_step
        places = range(self.step * size, (self.step + 1) * size)
        return [int(self._pass(place // total)[place % total]) for place in places]

    def _pass(self, number: int) -> Tensor:
        generator = seeded(self.config.seed, "pass", number)
        return torch.randperm(len(self.task.train_prompts), generator=generator)

    def _generator(self, purpose: str, where: torch.device | str = "cpu") -> torch.Generator:
        return seeded(self.config.seed, purpose, self.step, device=where)

    def _reference_draws(
        self, index: list[int], texts: list[str]
    ) -> list[tuple[Completions, Tensor]]:
        """Best-of-N draws and quantile draws, disjoint: from the bank, or anew."""
        sizes = [self.algorithm.anchor_draws, self.algorithm.quantile_draws]
        source, rows = self.bank, torch.tensor(index)
        if self.config.fresh:
            with self.accelerator.autocast():
                source = Bank(*banks.draw(
                    self.reference, self.task.reward, texts, sum(sizes),
                    self._generator("reference", self.reference.device),
                ))  # fmt: skip
            rows = torch.arange(len(texts))
        return source.subset(rows, sizes, self._generator("subset"))

    def _policy_draws(self, texts: list[str]) -> tuple[Completions | None, Tensor, Tensor]:
        """The policy's completions, their rewards and log(pi/pi_ref), each [B, K]."""
        k = self.algorithm.policy_draws
        if not k:
            nothing = torch.zeros(len(texts), 0)
            return None, nothing, nothing
        prompts = self.policy.encode(texts)
        with torch.no_grad(), self.accelerator.autocast():
            drawn = self.policy.sample(prompts, k, self._generator("policy", self.policy.device))
            rewards = score(self.task.reward, texts, self.policy.decode(drawn))
            log_ratio = drawn.log_prob - self.reference(prompts, drawn).sum(-1)
        return drawn, rewards, log_ratio.cpu()

    def _trained(
        self, anchors: Completions, policy_draws: Completions | None, weights: Tensor
    ) -> tuple[Completions, Tensor]:
        """The completions whose weight is not 0 by plan, and their weights [B, trained + K]."""
        n, m = self.algorithm.anchor_draws, self.algorithm.trained_draws
        top = weights[:, :n].abs().topk(m, dim=1).indices
        parts = [anchors.take(top)] if m else []
        parts += [policy_draws] if policy_draws is not None else []
        where = self.policy.device
        kept = torch.cat([weights[:, :n].gather(1, top), weights[:, n:]], 1)
        return concatenate([part.to(where) for part in parts], dim=1), kept.to(where)

    def _backward(self, texts: list[str], trained: Completions, weights: Tensor) -> Tensor:
        """Gradient of -(1/B) sum w log pi, in micro-batches; returns the loss."""
        total = weights.new_zeros(())
        for start in range(0, len(texts), self.config.micro_batch):
            part = slice(start, start + self.config.micro_batch)
            with self.accelerator.autocast():
                log_probs = self.policy(self.policy.encode(texts[part]), trained.rows(part)).sum(-1)
            loss = -(weights[part] * log_probs).sum() / len(texts)
            self.accelerator.backward(loss)
            total += loss.detach()
        return total

    def _learning_rate(self) -> float:
        return self.config.learning_rate * min(1.0, (self.step + 1) / max(1, self.config.warmup))

    def _record(
        self, loss: Tensor, norm: Tensor, scores: Scores, drawn: Completions | None
    ) -> dict[str, float]:
        """One line of the record; the only place of a step that waits for the device.

        Raises:
            ValueError: the loss or the gradient is not finite.
        """
        values = {"loss": loss, "gradient_norm": norm}
        if drawn is not None:
            values |= {
                "reward": scores.policy_rewards.mean(),
                "log_quantile": scores.quantiles.log().mean(),
                "kl_to_reference": scores.log_ratio.mean(),
                "tokens": drawn.lengths.float().mean(),
            }
        if scores.anchor_rewards.shape[1]:
            values["best_reward"] = scores.anchor_rewards.amax(1).mean()
        numbers = torch.stack([v.detach().float().cpu() for v in values.values()]).tolist()
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError(
                f"step {self.step} gave {dict(zip(values, numbers, strict=True))}: lower "
                f"learning_rate (now {self.config.learning_rate}); the checkpoint before is kept"
            )
        return {"step": self.step, **dict(zip(values, numbers, strict=True))}

    # -- state ------------------------------------------------------------------------------------

    def save(self) -> None:
        """Keep weights, optimiser and step."""
        state = {
            "parameters": [p.detach().cpu() for p in self.parameters],
            "optimizer": self.optimizer.state_dict(),
        }
        checkpoints.save(self.run.path / "checkpoints", self.step, state)

    def _resume(self) -> None:
        found = checkpoints.load(self.run.path / "checkpoints")
        if found is None:
            return
        self.step, state = found
        with torch.no_grad():
            for parameter, value in zip(self.parameters, state["parameters"], strict=True):
                parameter.copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])
