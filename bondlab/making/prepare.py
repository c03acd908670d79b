"""Make what ships with the package: the XSum task's two models, and the other tasks' rewards.

The rewards and judges of sentiment and chat are made by `scorer_training`. For XSum the paper takes
both models ready-made (a T5 fine-tuned on XSum, a T5 entailment model; section 6). Here:
1. Reference: LoRA on the small T5, maximum likelihood of one-sentence summaries (XSum and BBC).
2. Reward: LoRA on the same T5, binary cross-entropy of "does the evidence entail the claim?"
   (VitaminC), with negatives that keep the topic: a true claim with a number or a name changed, or
   garbled.
All lie in `bondlab/weights/`; `prepare --retrain` makes them again.
"""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from bondlab import assets, device
from bondlab.lm.language_model import LanguageModel
from bondlab.making import scorer_training
from bondlab.making.alterations import garble, swap_entities, swap_numbers
from bondlab.making.supervised import Supervised, fit, save
from bondlab.tasks import models, shipped, xsum
from bondlab.tasks.entailment import EntailmentReward
from bondlab.tasks.scorers import SCORERS

REFERENCE = Supervised(steps=680, batch=8, learning_rate=1e-3)  # two passes over the 2,712 pairs
REWARD = Supervised(steps=1200, batch=32, learning_rate=1e-3)  # 3 of 5 pairs, seen once


# Share of the true claims that get such a false copy. Not stated; chosen because names and numbers
# are what summaries get wrong, and a few garbled claims suffice.
ALTERATIONS = {
    "number": (swap_numbers, 0.5),
    "name": (swap_entities, 0.5),
    "garbled": (garble, 0.1),
}


@dataclass(frozen=True)
class Claim:
    """An evidence, a claim, whether the evidence entails it, and how the pair was made."""

    evidence: str
    claim: str
    entailed: bool
    origin: str


def train_reference(settings: Supervised = REFERENCE, folder: Path | None = None) -> Path:
    """Fine-tune the reference policy; writes adapter, curve and manifest into `folder`."""
    model, tokenizer = models.load(shipped.BASE)
    policy = xsum.summariser(model.to(device.dtype("auto")), tokenizer)
    policy.add_adapter(settings.rank, settings.seed)
    news, bbc = assets.dataset("xsum"), assets.dataset("bbc")["train"]
    pairs = [(r["document"], r["summary"]) for part in (news["train"], bbc) for r in part]
    held_out = [(r["document"], r["summary"]) for r in news["validation"]]

    def loss(batch: Sequence[tuple[str, str]]) -> Tensor:
        documents, summaries = zip(*batch, strict=True)
        completions = policy.encode_completions(summaries)
        return -policy(policy.encode(documents), completions).sum() / completions.mask.sum()

    curve = fit(policy, loss, pairs, held_out, settings, lambda pair: len(pair[1]))
    folder = folder or shipped.WEIGHTS / "xsum_reference"
    save(policy, folder, curve, settings, ["xsum train", "bbc train"])
    return folder


def train_reward(settings: Supervised = REWARD, folder: Path | None = None) -> Path:
    """Train the entailment reward; writes adapter, curve and manifest into `folder`."""
    model, tokenizer = models.load(shipped.BASE)
    model.to(device.dtype("auto"))
    policy = LanguageModel(model, tokenizer)  # for its adapter handling alone
    policy.add_adapter(settings.rank, settings.seed)
    reward = EntailmentReward(model, tokenizer)
    data = assets.dataset("vitaminc")
    rng = random.Random(settings.seed)
    pairs = claims(data["train"], rng, hard_negatives=True)
    held_out = claims(data["test"], rng, hard_negatives=True)

    def loss(batch: Sequence[Claim]) -> Tensor:
        rows = reward.encode([c.evidence for c in batch], [c.claim for c in batch])
        labels = torch.tensor([float(c.entailed) for c in batch], device=model.device)
        return nn.functional.binary_cross_entropy_with_logits(reward.scores(rows), labels)

    sample = rng.sample(held_out, 512)
    curve = fit(policy, loss, pairs, sample, settings, lambda claim: len(claim.evidence))
    folder = folder or shipped.WEIGHTS / "xsum_reward"
    save(policy, folder, curve, settings, ["vitaminc train"])
    return folder


def claims(rows: Sequence[dict], rng: random.Random, hard_negatives: bool) -> list[Claim]:
    """VitaminC rows as claims; with hard negatives also altered, foreign and longer ones.

    Of the true claims, one in two gets a copy with a changed number, one in two a copy with a
    changed name (where there is one to change), one in ten a garbled copy and one in ten a copy
    with foreign evidence. Of all pairs, 20 % have their evidence hidden among that of one to three
    others, because the reward later reads documents many times longer than VitaminC's sentences.
    """
    rows = list(rows)
    made = [Claim(r["evidence"], r["claim"], r["label"] == "SUPPORTS", "vitaminc") for r in rows]
    if not hard_negatives:
        return made
    for row in [r for r in rows if r["label"] == "SUPPORTS"]:
        evidence, claim = row["evidence"], row["claim"]
        for origin, (alter, share) in ALTERATIONS.items():
            altered = alter(claim, evidence, rng) if rng.random() < share else None
            if altered:
                made.append(Claim(evidence, altered, False, origin))
        if rng.random() < 0.1:
            foreign = rng.choice(rows)["evidence"]
            if foreign != evidence:
                made.append(Claim(foreign, claim, False, "foreign"))
    return [_hide(claim, rows, rng) if rng.random() < 0.2 else claim for claim in made]


def _hide(claim: Claim, rows: Sequence[dict], rng: random.Random) -> Claim:
    parts = [claim.evidence, *(rng.choice(rows)["evidence"] for _ in range(rng.randint(1, 3)))]
    rng.shuffle(parts)
    return dataclasses.replace(claim, evidence=" ".join(parts))


def prepare(retrain: bool = False, only: str | None = None) -> None:
    """Check that the shipped models are there and train what is missing; `retrain`: make anew.

    Args:
        only: the one to make, by its folder in `bondlab/weights/`.

    Raises:
        ValueError: `only` names none of them.
    """
    chosen = makers()
    if only is not None and only not in chosen:
        raise ValueError(f"only must be one of {sorted(chosen)}, not {only!r}")
    for name in [only] if only else chosen:
        there = (shipped.WEIGHTS / name / "adapter_model.safetensors").exists()
        print(f"{name}: {'training' if retrain or not there else 'ready'}")
        if retrain or not there:
            chosen[name]()


def makers() -> dict[str, Callable[[], Path]]:
    """What `prepare` can make, by its folder's name."""
    own = {"xsum_reference": train_reference, "xsum_reward": train_reward}
    return own | {name: functools.partial(scorer_training.train, name) for name in SCORERS}
