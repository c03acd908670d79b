"""One run's policy, anchor, optimiser and samples, and what a training step does with them."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import cached_property, partial

import pandas as pd
import torch
from accelerate.utils import send_to_device
from torch import Tensor

from bondlab import bank as banks
from bondlab import checkpoints, device, monitor, spread
from bondlab.algorithms import Algorithm
from bondlab.bank import Bank, BankFolder, passing, prompts_at, seeded
from bondlab.config import Config
from bondlab.evaluation import evaluate
from bondlab.lm.completions import Completions, Prompts, concatenate
from bondlab.lm.language_model import LanguageModel
from bondlab.quantile_model import Counted, LearnedQuantiles, QuantileModel
from bondlab.results import RunFolder
from bondlab.rules import Scores
from bondlab.task import Task


class Trainer:
    """Policy, anchor, optimiser and banks of one run, at some step.

    Attributes:
        reference: where the policy started; measured against, never changed.
        anchor: whose samples the algorithm sees: the reference, or a copy that follows the policy.
        quantiles: the estimator of p_<= under the anchor.

    The task's model is moved to where the accelerator computes, and stays there.
    """

    def __init__(
        self,
        task: Task,
        algorithm: Algorithm,
        config: Config,
        run: RunFolder,
        folders: Sequence[BankFolder],
    ) -> None:
        self.task, self.algorithm, self.config, self.run = task, algorithm, config, run
        self.folders = folders
        numbers = passing(len(task.train_prompts), config)
        self._rows = {number: row for row, number in enumerate(numbers)}  # of the bank
        self.accelerator = device.accelerator(config.precision)
        # Without dropout, also where the caller trained the model before.
        self.reference = task.model.to(self.accelerator.device).eval()
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
        self._resume()

    @cached_property
    def held_out(self) -> Bank:
        """The reference's samples of the held-out prompts; drawn when first asked for."""
        return self.folders[-1].filled(self.task, self.accelerator)

    @cached_property
    def bank(self) -> Bank | None:
        """Those of the training prompts; None where the anchor's are drawn anew at each step."""
        if len(self.folders) == 1:
            return None
        return self.folders[0].filled(self.task, self.accelerator)

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
        prompts = self.policy.encode(texts)
        (anchors, anchor_rewards), (_, others) = self._anchor_draws(index, texts, prompts)
        policy_draws, rewards, log_ratio = self._policy_draws(texts, prompts)
        scores = Scores(
            anchor_rewards,
            rewards,
            self._quantiles(prompts, policy_draws, rewards, others),
            log_ratio,
            self._anchor_log_ratio(prompts, anchors),
            self.reward_scale,
        )
        trained, weights = self._trained(anchors, policy_draws, self.algorithm.weights(scores))
        loss = self._backward(prompts, trained, weights)
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
        size = self.config.prompts_per_step
        places = range(self.step * size, (self.step + 1) * size)
        return prompts_at(places, len(self.task.train_prompts), self.config.seed)

    def _generator(self, purpose: str) -> torch.Generator:
        return seeded(self.config.seed, purpose, self.step)

    def _anchor_draws(
        self, index: list[int], texts: list[str], prompts: Prompts
    ) -> list[tuple[Completions | None, Tensor]]:
        """Best-of-N draws and quantile draws, disjoint: from the bank, or anew; none if none."""
        sizes = [self.algorithm.anchor_draws, self.algorithm.quantile_draws]
        if not any(sizes):
            return [(None, torch.zeros(len(texts), 0))] * 2
        if self.bank is not None:
            source, rows = self.bank, torch.tensor([self._rows[i] for i in index])
        else:
            generator = self._generator("anchor")
            with torch.no_grad(), self.accelerator.autocast():
                drawn = banks.draw(
                    self.anchor, self.task.reward, texts, sum(sizes), generator, prompts
                )
            source, rows = Bank(*drawn), torch.arange(len(texts))
        return source.subset(rows, sizes, self._generator("subset"))

    def _policy_draws(
        self, texts: list[str], prompts: Prompts
    ) -> tuple[Completions | None, Tensor, Tensor]:
        """The policy's completions, their rewards and log(pi/pi_anchor), each [B, K]."""
        k = self.algorithm.policy_draws
        if not k:
            nothing = torch.zeros(len(texts), 0)
            return None, nothing, nothing
        generator = self._generator("policy")
        with torch.no_grad(), self.accelerator.autocast():
            drawn, rewards = banks.draw(self.policy, self.task.reward, texts, k, generator, prompts)
            log_ratio = drawn.log_prob - self.anchor(prompts, drawn).sum(-1)
        return drawn, rewards, log_ratio.cpu()

    def _quantiles(
        self, prompts: Prompts, drawn: Completions | None, rewards: Tensor, others: Tensor
    ) -> Tensor | None:
        """p_<= of the policy's completions under the anchor, [B, K]; None where none are wanted."""
        if drawn is None:
            return torch.zeros_like(rewards)  # of no completions, [B, 0]
        if not self.algorithm.quantile_draws:
            return None
        return self.quantiles(prompts, drawn, rewards, others)

    def _anchor_log_ratio(self, prompts: Prompts, anchors: Completions | None) -> Tensor | None:
        """log(pi/pi_anchor) of the anchor's completions, [B, N], where the rule asks for it."""
        if not self.algorithm.scores_anchor_draws:
            return None
        drawn = anchors.to(self.policy.device)
        with torch.no_grad(), self.accelerator.autocast():
            log_prob = self.policy(prompts, drawn).sum(-1)
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
        weights = weights.to(self.policy.device)
        top = weights[:, :n].abs().topk(m, dim=1).indices
        parts = [anchors.to(self.policy.device).take(top)] if m else []
        parts += [policy_draws] if policy_draws is not None else []
        kept = torch.cat([weights[:, :n].gather(1, top), weights[:, n:]], 1)
        return concatenate(parts, dim=1), kept

    def _backward(self, prompts: Prompts, trained: Completions, weights: Tensor) -> Tensor:
        """Gradient of -(1/B) sum w log pi, in micro-batches; returns the loss."""
        total = weights.new_zeros(())
        for start in range(0, len(weights), self.config.micro_batch):
            part = slice(start, start + self.config.micro_batch)
            with self.accelerator.autocast():
                log_probs = self.policy(prompts.rows(part), trained.rows(part)).sum(-1)
            loss = -(weights[part] * log_probs).sum() / len(weights)
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
        clipped = (norm > self.config.clip).float()
        values = {"loss": loss, "gradient_norm": norm, "clipped": clipped, **self.quantiles.losses}
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
            "parameters": [p.detach() for p in self.parameters],
            "anchor": [p.detach() for p in self.anchor_parameters],
            "optimizer": self.optimizer.state_dict(),
            "quantiles": self.quantiles.state(),
        }
        state = send_to_device(state, "cpu")
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
