"""One run's policy, anchor, optimiser and samples, and a training step: sample, score, descend.

Legend: B prompts, N anchor completions, M anchor completions behind quantiles, K policy ones.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import pandas as pd
import torch
from accelerate.utils import send_to_device
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from bondlab import anchors, device, processes
from bondlab.algorithms import Algorithm
from bondlab.bank import Bank, BankFolder, as_they_pass, measured_spread, prompts_at, seeded
from bondlab.config import Config
from bondlab.evaluation import evaluate, step_measures
from bondlab.lm.completions import Completions, Prompts, concatenate, micro_batches, trimmed
from bondlab.lm.language_model import LanguageModel
from bondlab.lm.sampler import forget
from bondlab.processes import Share
from bondlab.quantiles import Counted, LearnedQuantiles, QuantileModel
from bondlab.results import RunFolder
from bondlab.rules import Scores
from bondlab.task import Task, score


@dataclass(frozen=True)
class Batch:
    """What one step samples; rewards are float64 on the processor.

    Args:
        prompts: the B prompts as tokens.
        anchors, anchor_rewards: the N Best-of-N draws, their rewards [B, N]; None and [B, 0]
            where the algorithm wants none.
        quantile_rewards: of the M draws that quantiles rest on [B, M].
        policy, policy_rewards: the policy's K completions, their rewards [B, K]; None and [B, 0].
        share: which of the step's prompts these are; all of them where there is one process.
    """

    prompts: Prompts
    anchors: Completions | None
    anchor_rewards: Tensor
    quantile_rewards: Tensor
    policy: Completions | None
    policy_rewards: Tensor
    share: Share


class Trainer:
    """Policy, anchor, optimiser and banks of one run, at its last checkpoint.

    Attributes:
        reference: where the policy started; measured against, never changed.
        anchor: whose samples the algorithm sees: the reference, or a copy that follows the policy.
        quantiles: the estimator of p_<= under the anchor.

    The task's model is moved to where this process computes, and stays there.
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
        # Without dropout, also where the caller trained the model before.
        self.reference = task.model.to(device.place()).eval()
        self.policy = self._copy()
        self.parameters = self.policy.trainable()
        self.optimizer = device.adam(self.parameters, config.learning_rate)
        self.anchor, self.anchor_parameters = self.reference, []
        if algorithm.anchor_moves:
            adapter = config.lora_rank and [p.detach().clone() for p in self.parameters]
            self.start = adapter or list(self.reference.model.parameters())
            self.anchor = self._copy()
            self.anchor_parameters = self.anchor.trainable()
            self.anchor.requires_grad_(False)
        self.quantiles: Counted | LearnedQuantiles = Counted()
        if (learned := algorithm.quantile_model) is not None:
            model = QuantileModel(self.reference, config.lora_rank, config.seed)
            settings = learned, config.precision, config.clip, config.micro_batch
            self.quantiles = LearnedQuantiles(model, *settings)
        self.step = 0
        self._resume()

    def _copy(self) -> LanguageModel:
        model = self.task.model.trainable_copy(self.config.lora_rank, self.config.seed)
        return model.to(device.place())

    # -- what is stored of the reference -----------------------------------------------------------

    @cached_property
    def held_out(self) -> Bank:
        """The reference's samples of the held-out prompts; drawn when first asked for."""
        return self.folders[-1].filled(self.task)

    @cached_property
    def bank(self) -> Bank | BankFolder | None:
        """Those of the training prompts, if stored; on the disk where each row is read once."""
        if len(self.folders) == 1:
            return None
        folder, passing = self.folders[0], as_they_pass(len(self.task.train_prompts), self.config)
        return folder.complete(self.task) if passing else folder.filled(self.task)

    @cached_property
    def reward_scale(self) -> float:
        """The unit of rewards that the rule is given; 1 where it goes by ranks."""
        scales = self.algorithm.scales_rewards
        return measured_spread(self.task, self.config.precision) if scales else 1.0

    # -- one step ----------------------------------------------------------------------------------

    def update(self) -> dict[str, float]:
        """One optimiser step; returns its record."""
        started = time.perf_counter()
        batch = self.sample(self.places)
        scores = self.score(batch)
        loss = self.backward(batch, self.algorithm.weights(scores)[batch.share.rows])
        processes.add_gradients(self.parameters, loss)
        norm = self._descend()
        row = self._record(loss, norm, scores, batch.policy)
        return row | {"seconds": round(time.perf_counter() - started, 3)}

    @property
    def places(self) -> range:
        """The step's, among all at which training prompts pass by."""
        size = self.config.prompts_per_step
        return range(self.step * size, (self.step + 1) * size)

    @torch.no_grad()
    def sample(self, places: range) -> Batch:
        """Completions of this process's share of the prompts that pass by at some places: shuffled
        passes over the training prompts, no break."""
        share = processes.share(len(places))
        places = places[share.rows]
        index = prompts_at(places, len(self.task.train_prompts), self.config.seed)
        texts = [self.task.train_prompts[i] for i in index]
        prompts = self.policy.encode(texts)

        def generator(purpose: str) -> torch.Generator:
            return seeded(self.config.seed, purpose, self.step)

        def scored(drawn: Completions) -> tuple[Completions, Tensor]:
            return drawn, score(self.task.reward, texts, self.policy.decode(drawn))

        plan, nothing = self.algorithm, (None, torch.zeros(len(texts), 0))
        sizes, parts = [plan.anchor_draws, plan.quantile_draws], [nothing, nothing]
        fresh = sum(sizes) if self.bank is None else 0
        with device.autocast(self.config.precision):
            ks, generators = (plan.policy_draws, fresh), (generator("policy"), generator("anchor"))
            given = self.anchor, prompts, ks, generators, share, self.config.sampling_batch
            own, of_anchor = self.policy.sample_beside(*given)
        if any(sizes):
            if fresh:
                source, rows = Bank(*scored(of_anchor)), range(len(texts))
            elif isinstance(self.bank, BankFolder):
                source, rows = self.bank.around(places)
            else:
                source, rows = self.bank, index
            parts = source.subset(torch.tensor(rows), sizes, generator("subset"), share)
        own = scored(own) if plan.policy_draws else nothing
        (anchors, anchor_rewards), (_, others) = parts
        return Batch(prompts, anchors, anchor_rewards, others, *own, share)

    def score(self, batch: Batch) -> Scores:
        """What the rule sees of the whole step, of which this batch may be one process's share.

        A quantile model learns from it, once it has answered.
        """
        drawn, quantiles, anchor_log_ratio = batch.policy, None, None
        log_ratio = torch.zeros(batch.policy_rewards.shape)
        with torch.no_grad(), device.autocast(self.config.precision):
            if drawn is not None:
                log_pi_anchor = self.anchor(*trimmed(batch.prompts, drawn)).sum(-1)
                log_ratio = (drawn.log_prob - log_pi_anchor).cpu()
            if self.algorithm.scores_anchor_draws:
                anchors = batch.anchors.to(self.policy.device)
                log_pi = self.policy(*trimmed(batch.prompts, anchors)).sum(-1)
                anchor_log_ratio = (log_pi - anchors.log_prob).cpu()
        if drawn is None:
            quantiles = log_ratio  # of no completions, [B, 0]
        elif self.algorithm.quantile_draws:
            given = batch.policy_rewards, batch.quantile_rewards
            quantiles = self.quantiles(batch.prompts, drawn, *given, batch.share.total)
        rewards = batch.anchor_rewards, batch.policy_rewards
        whole = processes.joined([*rewards, quantiles, log_ratio, anchor_log_ratio])
        return Scores(*whole, self.reward_scale)

    def backward(self, batch: Batch, weights: Tensor) -> Tensor:
        """Add the gradient of the loss -(1/B) sum w log pi, weights [B, N+K]; returns the loss.

        Of a process's share of the prompts it is their part of the sum; B counts all prompts.
        Of a prompt's completions of the anchor only as many are passed through as have a weight.
        """
        n, parts = self.algorithm.anchor_draws, []
        if n:
            # No wait for the device: scores, and so the weights, are on the processor.
            most = max(int((weights[:, :n] != 0).sum(1).max()), batch.policy is None)
            top = weights[:, :n].abs().topk(most, dim=1).indices
            weights = torch.cat([weights[:, :n].gather(1, top), weights[:, n:]], 1)
            where = batch.anchors.tokens.device
            parts.append(batch.anchors.take(top.to(where)).to(self.policy.device))
        if batch.policy is not None:
            parts.append(batch.policy)
        trained, weights = concatenate(parts, dim=1), weights.to(self.policy.device)
        total = weights.new_zeros(())
        for places, *part in micro_batches(batch.prompts, trained, self.config.micro_batch):
            with device.autocast(self.config.precision):
                log_probs = self.policy(*part).sum(-1)
            loss = -(weights[places] * log_probs).sum() / batch.share.total
            loss.backward()
            total += loss.detach()
        return total

    def _descend(self) -> Tensor:
        """Take the step that the gradient says; returns its norm before clipping."""
        norm = clip_grad_norm_(self.parameters, self.config.clip)
        warmed = min(1.0, (self.step + 1) / max(1, self.config.warmup))
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * warmed
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        if self.algorithm.anchor_moves:
            self.algorithm.anchor.update(self.anchor_parameters, self.parameters, self.step)
        return norm

    def _record(
        self, loss: Tensor, norm: Tensor, scores: Scores, drawn: Completions | None
    ) -> dict[str, float]:
        """One line of the record, read from the device at once.

        Raises:
            ValueError: the loss or the gradient is not finite.
        """
        clipped = (norm > self.config.clip).float()
        values = {"loss": loss, "gradient_norm": norm, "clipped": clipped, **self.quantiles.losses}
        if drawn is not None:
            drawn = Completions(*processes.joined(drawn))
        values |= step_measures(scores, drawn)
        if self.algorithm.scales_rewards:
            values["reward_scale"] = torch.tensor(self.reward_scale)
        if self.algorithm.anchor_moves:
            anchor, policy = self.anchor_parameters, self.parameters
            values["anchor_share"] = anchors.followed(anchor, policy, self.start)
        numbers = torch.stack([v.detach().cpu().double() for v in values.values()]).tolist()
        row = dict(zip(values, numbers, strict=True))
        if not all(map(math.isfinite, numbers)):
            raise ValueError(
                f"step {self.step} gave {row}: lower learning_rate (now "
                f"{self.config.learning_rate}); the checkpoint before is kept"
            )
        if self.algorithm.anchor_moves:
            anchors.warn_if_stuck(self.algorithm.anchor, row["anchor_share"], self.step)
        return {"step": self.step, **row}

    # -- evaluation and state ----------------------------------------------------------------------

    def evaluate(self) -> pd.DataFrame:
        """Measure the policy on the held-out prompts; see `evaluation.evaluate`."""
        with device.autocast(self.config.precision):
            generators = partial(seeded, self.config.seed, "evaluation", self.step)
            models, samples = (self.policy, self.reference), self.config.evaluation_samples
            given = self.task, self.held_out, samples, generators, self.quantiles.predict
            table = evaluate(*models, *given, self.config.forward_kl, self.config.micro_batch)
        forget(self.policy)
        table.insert(0, "step", self.step)
        return table

    def save(self) -> None:
        """Keep weights, anchor, quantile model, optimisers and step; any one process can."""
        state = {
            "parameters": [p.detach() for p in (*self.parameters, *self.anchor_parameters)],
            "optimizer": self.optimizer.state_dict(),
            "quantiles": self.quantiles.state(),
        }
        self.run.save(self.step, send_to_device(state, "cpu"))

    @torch.no_grad()
    def _resume(self) -> None:
        if (found := self.run.load()) is None:
            return
        self.step, state = found
        parameters = *self.parameters, *self.anchor_parameters
        for parameter, value in zip(parameters, state["parameters"], strict=True):
            parameter.copy_(value)
        self.quantiles.load(state["quantiles"])
        self.optimizer.load_state_dict(state["optimizer"])
