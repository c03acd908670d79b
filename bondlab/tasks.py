"""The tasks by name: XSum here, sentiment and chat in modules of their own, and tiny ones."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

import torch

from bondlab import assets, device, prepare, tiny
from bondlab.language_model import LanguageModel
from bondlab.prepare import WEIGHTS
from bondlab.rewards import EntailmentReward
from bondlab.task import Task, TaskSettings

__all__ = ["Task", "TaskSettings", "build", "xsum_documents", "xsum_reference", "xsum_reward"]


@lru_cache(maxsize=1)
def build(settings: TaskSettings, precision: str) -> Task:
    """The task with its first training and held-out prompts.

    Raises:
        ValueError: more prompts asked for than there are.
    """
    builders = {"xsum": _xsum, "tiny": _tiny, "tiny_causal": _tiny}
    return builders[settings.name](settings, precision)


def xsum_documents(data: str | None = None) -> tuple[list[dict], list[dict]]:
    """Training rows and held-out test rows, each with document and summary.

    The embedded data are XSum articles, and for training BBC News too, mixed in a fixed order.
    """
    xsum = assets.dataset(data or "xsum")
    train = list(xsum["train"])
    if data is None:
        train += list(assets.dataset("bbc")["train"])
        train.sort(key=lambda row: row["id"])  # ids are digests of the text, so this mixes
    return train, list(xsum["test"])


def xsum_reference(
    precision: device.Precision = "auto", policy: str | None = None, **limits
) -> LanguageModel:
    """The summariser: the small T5 fine-tuned on XSum's training split and BBC News."""
    if policy is None:
        return _prepared("xsum_reference", precision, **limits)
    return _placed(prepare.summariser(*prepare.load(policy), **limits), precision)


def xsum_reward(
    precision: device.Precision = "auto", reward: str | None = None
) -> EntailmentReward:
    """The entailment reward: the small T5 trained on VitaminC, or an entailment T5 by name.

    T5 entailment models of the hub read "premise: ... hypothesis: ..." and answer 1 or 0.
    """
    if reward is None:
        reader = _prepared("xsum_reward", precision)
        return EntailmentReward(reader.model, reader.tokenizer)
    reader = _placed(LanguageModel(*prepare.load(reward)), precision)
    return EntailmentReward(
        reader.model, reader.tokenizer, question="premise: {premise} hypothesis: {claim}",
        answers=("1", "0"), max_premise_tokens=448,
    )  # fmt: skip


def _prepared(name: str, precision: device.Precision, **limits) -> LanguageModel:
    """The base model with a shipped adapter folded in, in float32, then stored as asked."""
    folder = WEIGHTS / name
    if not (folder / "adapter_model.safetensors").exists():
        raise FileNotFoundError(
            f"{folder} has no adapter: run `python -m bondlab prepare --retrain` to train it"
        )
    model = prepare.summariser(*prepare.load(prepare.BASE), **limits)
    model.load_adapter(folder)
    model.merge_adapter()
    return _placed(model, precision)


def _placed(model: LanguageModel, precision: device.Precision) -> LanguageModel:
    target = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(target, device.dtype(precision)).requires_grad_(False)


def _xsum(settings: TaskSettings, precision: str) -> Task:
    train_rows, eval_rows = xsum_documents(settings.data)
    if settings.train > len(train_rows) or settings.evaluate > len(eval_rows):
        raise ValueError(
            f"asked for {settings.train} training and {settings.evaluate} held-out prompts; "
            f"there are {len(train_rows)} and {len(eval_rows)}"
        )
    train_rows, eval_rows = train_rows[: settings.train], eval_rows[: settings.evaluate]
    model = xsum_reference(precision, settings.policy, **settings.limits)
    return Task(
        model=model,
        reward=xsum_reward(precision, settings.reward),
        train_prompts=[row["document"] for row in train_rows],
        eval_prompts=[row["document"] for row in eval_rows],
        eval_references=[row["summary"] for row in eval_rows],
        identity={
            "policy": _identity(settings.policy, "xsum_reference"),
            "reward": _identity(settings.reward, "xsum_reward"),
        },
    )


def _tiny(settings: TaskSettings, precision: str) -> Task:
    texts = tiny.documents(settings.train + settings.evaluate)
    family = "gemma" if settings.name == "tiny_causal" else "t5"
    model = tiny.language_model(family, **settings.limits).requires_grad_(False)
    held_out = texts[settings.train :]
    return Task(
        model=model.to(device.dtype(precision)),
        reward=tiny.reward,
        train_prompts=texts[: settings.train],
        eval_prompts=held_out,
        eval_references=[" ".join(text.split()[:5]) for text in held_out],
        identity={"policy": settings.name, "reward": "tiny"},
    )


def _identity(name: str | None, adapter: str) -> str:
    """Name and digest of a model's files: the name alone does not say what they hold now."""
    if name is None:
        return assets.file_digest(WEIGHTS / adapter / "adapter_model.safetensors")[:12]
    kinds = (".safetensors", ".bin", ".model")
    files = sorted(
        path for path in assets.model_path(name).iterdir()
        if path.suffix in kinds or path.name in ("config.json", "tokenizer.json")
    )  # fmt: skip
    digests = [f"{path.name} {assets.file_digest(path)}" for path in files]
    digest = hashlib.sha256("\n".join(digests).encode()).hexdigest()
    return f"{Path(name).name}@{digest[:12]}"
