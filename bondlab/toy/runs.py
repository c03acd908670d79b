"""Any algorithm on the enumerable policy: many runs at once, each measured exactly.

Rule, draws and anchor are those that train language models; the policy has a table of logits for
each prompt, so that every measure is a finite sum. Runs lie side by side along a tensor's first
axis. Each has prompts of its own: another seed is another reference and another reward, too. What
is trained on is measured, as tables have nothing in common that could generalise.

Legend: S runs, B prompts of each, V sequences, G times that a prompt is in a step's batch,
N anchor and K policy completions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import pandas as pd
import torch
from torch import Tensor

from bondlab import best_of_n, quantiles, toy
from bondlab.algorithms import Algorithm
from bondlab.config import Config
from bondlab.rules import Scores
from bondlab.toy.descents import LENGTH, PROMPTS, VOCABULARY

# Of reward and judge beside what they share: a policy that learns the one's noise is caught by the
# other. Not stated; chosen as large as what one of the at most three pairs of tokens adds.
NOISE = 1.0


@dataclass(frozen=True)
class World:
    """The problems of S runs with `PROMPTS` prompts each.

    Args:
        reference: policy of all S B prompts.
        rewards: what is trained on, of every sequence [S B, V]; judge: another reward, whose pairs
            of tokens count the same and whose noise is its own. The reference's mean of both is 0.
        runs: S.
    """

    reference: toy.ToyPolicy
    rewards: Tensor
    judge: Tensor
    runs: int

    @classmethod
    def of(cls, seed: int, runs: int) -> World:
        """Random problems; seeded."""
        # Three streams: from one the reward would be the reference's own logits.
        reference = toy.ToyPolicy(runs * PROMPTS, VOCABULARY, LENGTH, seed=3 * seed)
        shared = toy.draw_rewards(reference, 0.0, 3 * seed + 1)
        generator = torch.Generator().manual_seed(3 * seed + 2)
        own = [torch.randn(shared.shape, dtype=shared.dtype, generator=generator) for _ in range(2)]
        probs = reference.log_probs().detach().exp()
        scores = [shared + NOISE * noise for noise in own]
        return cls(reference, *(s - (probs * s).sum(1, keepdim=True) for s in scores), runs)

    @cached_property
    def log_reference(self) -> Tensor:
        """[S B, V]."""
        return self.reference.log_probs().detach()

    @cached_property
    def spread(self) -> float:
        """Standard deviation of the reference's rewards within a prompt, over all prompts."""
        return (self.log_reference.exp() * self.rewards**2).sum(1).mean().sqrt().item()

    def cooled(self, temperature: float) -> Tensor:
        """Log-probabilities of the reference sampled at a temperature, [S B, V]."""
        logits = self.reference.logits.detach() / temperature
        return self.reference.sum_pairs(logits.log_softmax(-1))

    def best_of(self, n: int) -> Tensor:
        """Log-probabilities of the reference's Best-of-n (Theorem 1), [S B, V]."""
        return best_of_n.log_pmf(self.log_reference, self.rewards, n)

    def measured(self, log_probs: Tensor, n: int) -> pd.DataFrame:
        """Exact measures of distributions [S B, V], a row per run (`seed`) and prompt.

        Means of reward, judge, p_reward (the reward through the logistic function) and log_quantile
        (nats, under the reference); win_over_1, the judge's win rate over the reference, ties half;
        kl_to_reference, and backward_kl and forward_kl to Best-of-n of the reference, nats.
        """
        p, reference, target = log_probs.exp(), self.log_reference, self.best_of(n)
        beaten = best_of_n.log_quantiles(reference, self.judge).exp() - reference.exp() / 2
        of_each = {
            "reward": self.rewards,
            "judge": self.judge,
            "p_reward": self.rewards.sigmoid(),
            "log_quantile": best_of_n.log_quantiles(reference, self.rewards),
            "win_over_1": beaten,
            "kl_to_reference": log_probs - reference,
            "backward_kl": log_probs - target,
        }
        found = {name: (p * values).sum(1) for name, values in of_each.items()}
        found["forward_kl"] = (target.exp() * (target - log_probs)).sum(1)
        seeds, prompts = torch.arange(self.runs), torch.arange(PROMPTS)
        places = {"seed": seeds.repeat_interleave(PROMPTS), "prompt": prompts.repeat(self.runs)}
        return pd.DataFrame({k: v.numpy() for k, v in (places | found).items()})


def train(
    algorithm: Algorithm,
    world: World,
    config: Config,
    n: int,
    noise: bool = False,
) -> pd.DataFrame:
    """All runs of an algorithm: `World.measured` with the column step, from 0 to the last.

    Args:
        config: its steps, warmup, evaluate_every, prompts_per_step (a multiple of `PROMPTS`) and
            learning_rate, which is of Adam on logits, count.
        n: of the Best-of-n that divergences are measured to.
        noise: train on rewards that are random at each draw and say nothing.
    """
    policy = toy.ToyPolicy(world.runs * PROMPTS, VOCABULARY, LENGTH)
    policy.load_state_dict(world.reference.state_dict())
    anchor = policy.logits.detach().clone()
    optimizer = torch.optim.Adam(policy.parameters(), config.learning_rate)
    generator = torch.Generator().manual_seed(99)
    found = [world.measured(world.log_reference, n).assign(step=0)]
    for step in range(1, config.steps + 1):
        log_policy = policy.log_probs()
        log_anchor = policy.sum_pairs(anchor.log_softmax(-1))
        given = log_policy, log_anchor, config.prompts_per_step
        total = loss(algorithm, world, *given, noise, generator)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * min(1.0, step / max(1, config.warmup))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        algorithm.anchor.update([anchor], [policy.logits], step)
        if step % config.evaluate_every == 0 or step == config.steps:
            found.append(world.measured(policy.log_probs().detach(), n).assign(step=step))
    return pd.concat(found, ignore_index=True)


def loss(
    algorithm: Algorithm,
    world: World,
    log_policy: Tensor,
    log_anchor: Tensor,
    batch: int,
    noise: bool,
    generator: torch.Generator,
) -> Tensor:
    """The sum over runs of -(1/batch) sum w log pi of fresh draws: runs share no parameter."""
    sizes = algorithm.anchor_draws, algorithm.policy_draws, algorithm.quantile_draws
    sources = log_anchor, log_policy.detach(), log_anchor
    groups = batch // PROMPTS
    drawn = [
        toy.draw(log_probs, groups * k, generator)
        for log_probs, k in zip(sources, sizes, strict=True)
    ]

    def of(table: Tensor, which: int) -> Tensor:
        """Values of one kind of draws, [S, B G, k]."""
        return table.gather(1, drawn[which]).view(world.runs, batch, sizes[which])

    def rewards(which: int) -> Tensor:
        known = of(world.rewards, which)
        if not noise:
            return known
        return world.spread * torch.randn(known.shape, dtype=known.dtype, generator=generator)

    log_ratio = log_policy.detach() - log_anchor
    own, ratio, counted = rewards(1), of(log_ratio, 1), None
    if not sizes[1]:
        counted = ratio  # of no completions
    elif sizes[2]:
        counted = quantiles.empirical(own, rewards(2))
    scores = rewards(0), own, counted, ratio, of(log_ratio, 0)
    log_probs = torch.cat([of(log_policy, 0), of(log_policy, 1)], dim=2)
    return -(weights(algorithm, scores, world.spread) * log_probs).sum() / batch


def weights(algorithm: Algorithm, scores: tuple[Tensor | None, ...], scale: float) -> Tensor:
    """The rule on each run's batch by itself: weights [S, B G, N+K]."""

    def of_a_run(*given: Tensor) -> Tensor:
        given = iter(given)
        return algorithm.weights(Scores(*(s if s is None else next(given) for s in scores), scale))

    return torch.vmap(of_a_run)(*(s for s in scores if s is not None))
