"""One run's policy, anchor, optimiser and samples, and what a training step does with them."""

from __future__ import annotations

import math
import time
from functools import cached_property, partial

import pandas as pd
import torch
from torch import Tensor

from bondlab import bank as banks
from bondlab import checkpoints, device, monitor, spread
from bondlab.algorithms import Algorithm
from bondlab.bank import Bank, seeded
from bondlab.completions import Completions, concatenate
from bondlab.config import Config
from bondlab.evaluation import evaluate
from bondlab.language_model import LanguageModel
from bondlab.quantile_model import Counted, LearnedQuantiles, QuantileModel
from bondlab.results import RunFolder
from bondlab.rewards import score
from bondlab.rules import Scores
from bondlab.tasks import Task


class Trainer:
    """Policy, anchor, optimiser and banks of one run, at some step.

    Attributes:
        reference: where the policy started; measured against, never changed.
        anchor: whose samples the algorithm sees: the reference, or a copy that follows the policy.
        quantiles: the estimator of p_<= under the anchor.
        bank, held_out: the reference's stored samples; `bank` is None where the anchor's are drawn
            anew at each step.
    """

    def __init__(self, task: Task, algorithm: Algorithm, config: Config, run: RunFolder) -> None:
        self.task, self.algorithm, self.config, self.run = task, algorithm, config, run
        self.accelerator = device.accelerator(config.precision)
        self.reference = task.model
        self.policy = self._copy()
        self.parameters = self.policy.trainable()
        adam = torch.optim.AdamW(self.parameters, lr=config.learning_rate, weight_decay=0.0)
        self.optimizer = self.accelerator.prepare(adam)
        self.anchor, self.anchor_parameters = self.reference, []
        if algorithm.anchor_moves:
            self.anchor = self._copy()
            self.anchor_parameters = self.anchor.trainable()
            self.anchor.requires_grad_(False)
        self.quantiles = self._estimator()
        self.step = 0
        self.bank: Bank | None = None
        self.held_out: Bank | None = None
        self._resume()

    def use(self, stored: list[Bank]) -> None:
        """Take the reference's stored samples, as `training.banks` lists them."""
        *training, self.held_out = stored
        self.bank = training[0] if training else None

    def _copy(self) -> LanguageModel:
        model = self.task.model.trainable_copy(self.config.lora_rank, self.config.seed)
        return model.to(self.accelerator.device)

    def _estimator(self) -> Counted | LearnedQuantiles:
        learned, config = self.algorithm.quantile_model, self.config
        if learned is None:
            return Counted()
        model = QuantileModel(self.reference, config.lora_rank, config.seed)
        model.to(self.accelerator.device)
        return LearnedQuantiles(model, learned, self.accelerator, config.clip, config.micro_batch)

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
                self.quantiles.predict,
            )
        table.insert(0, "step", self.step)
        return table

    # -- one step ---------------------------------------------------------------------------------

    def update(self) -> dict[str, float]:
        """One optimiser step; returns its record."""
        started = time.perf_counter()
        index = self._prompts()
        texts = [self.task.train_prompts[i] for i in index]
        (anchors, anchor_rewards), (_, others) = self._anchor_draws(index, texts)
        policy_draws, rewards, log_ratio = self._policy_draws(texts)
        scores = Scores(
            anchor_rewards,
            rewards,
            self._quantiles(texts, policy_draws, rewards, others),
            log_ratio,
            self._anchor_log_ratio(texts, anchors),
            self.reward_scale,
        )
        trained, weights = self._trained(anchors, policy_draws, self.algorithm.weights(scores))
        loss = self._backward(texts, trained, weights)
        norm = self.accelerator.clip_grad_norm_(self.parameters, self.config.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        if self.algorithm.anchor_moves:
            self.algorithm.anchor.update(self.anchor_parameters, self.parameters, self.step)
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

    def _anchor_draws(
        self, index: list[int], texts: list[str]
    ) -> list[tuple[Completions | None, Tensor]]:
        """Best-of-N draws and quantile draws, disjoint: from the bank, or anew; none if none."""
        sizes = [self.algorithm.anchor_draws, self.algorithm.quantile_draws]
        source, rows = self.bank, torch.tensor(index)
        if not any(sizes):
            return [(None, torch.zeros(len(texts), 0))] * 2
        if source is None:
            with torch.no_grad(), self.accelerator.autocast():
                source = Bank(*banks.draw(
                    self.anchor, self.task.reward, texts, sum(sizes),
                    self._generator("anchor", self.anchor.device),
                ))  # fmt: skip
            rows = torch.arange(len(texts))
        return source.subset(rows, sizes, self._generator("subset"))

    def _policy_draws(self, texts: list[str]) -> tuple[Completions | None, Tensor, Tensor]:
        """The policy's completions, their rewards and log(pi/pi_anchor), each [B, K]."""
        k = self.algorithm.policy_draws
        if not k:
            nothing = torch.zeros(len(texts), 0)
            return None, nothing, nothing
        prompts = self.policy.encode(texts)
        with torch.no_grad(), self.accelerator.autocast():
            drawn = self.policy.sample(prompts, k, self._generator("policy", self.policy.device))
            rewards = score(self.task.reward, texts, self.policy.decode(drawn))
            log_ratio = drawn.log_prob - self.anchor(prompts, drawn).sum(-1)
        return drawn, rewards, log_ratio.cpu()

    def _quantiles(
        self, texts: list[str], drawn: Completions | None, rewards: Tensor, others: Tensor
    ) -> Tensor | None:
        """p_<= of the policy's completions under the anchor, [B, K], or None without draws."""
        if drawn is None:
            return rewards
        if not self.algorithm.quantile_draws:
            return None
        return self.quantiles(self.policy.encode(texts), drawn, rewards, others)

    def _anchor_log_ratio(self, texts: list[str], anchors: Completions | None) -> Tensor | None:
        """log(pi/pi_anchor) of the anchor's completions, [B, N], where the rule asks for it."""
        if not self.algorithm.scores_anchor_draws:
            return None
        drawn = anchors.to(self.policy.device)
        with torch.no_grad(), self.accelerator.autocast():
            log_prob = self.policy(self.policy.encode(texts), drawn).sum(-1)
        return (log_prob - drawn.log_prob).cpu()

    @cached_property
    def reward_scale(self) -> float:
        """The unit of rewards that the rule is given; 1 where it goes by ranks."""
        if not self.algorithm.scales_rewards:
            return 1.0
        precision = device.resolve(self.config.precision)
        return spread.measure(self.task, precision, self.accelerator)

    def _trained(
        self, anchors: Completions | None, policy_draws: Completions | None, weights: Tensor
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
        """One line of the record; beside the texts to be scored, all that waits for the device.

        Raises:
            ValueError: the loss or the gradient is not finite.
        """
        values = {"loss": loss, "gradient_norm": norm, **self.quantiles.losses}
        values |= monitor.measure(scores, drawn)
        if self.algorithm.scales_rewards:
            values["reward_scale"] = torch.tensor(self.reward_scale)
        numbers = torch.stack([v.detach().cpu().double() for v in values.values()]).tolist()
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError(
                f"step {self.step} gave {dict(zip(values, numbers, strict=True))}: lower "
                f"learning_rate (now {self.config.learning_rate}); the checkpoint before is kept"
            )
        return {"step": self.step, **dict(zip(values, numbers, strict=True))}

    # -- state ------------------------------------------------------------------------------------

    def save(self) -> None:
        """Keep weights, anchor, quantile model, optimisers and step."""
        state = {
            "parameters": [p.detach().cpu() for p in self.parameters],
            "anchor": [p.detach().cpu() for p in self.anchor_parameters],
            "optimizer": self.optimizer.state_dict(),
            "quantiles": self.quantiles.state(),
        }
        checkpoints.save(self.run.path / "checkpoints", self.step, state)

    def _resume(self) -> None:
        found = checkpoints.load(self.run.path / "checkpoints")
        if found is None:
            return
        self.step, state = found
        kept = [*state["parameters"], *state["anchor"]]
        with torch.no_grad():
            for parameter, value in zip(
                [*self.parameters, *self.anchor_parameters], kept, strict=True
            ):
                parameter.copy_(value)
        self.quantiles.load(state["quantiles"])
        self.optimizer.load_state_dict(state["optimizer"])
