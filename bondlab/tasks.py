"""A task: prompts, a reference model and a reward. The XSum task, and its tiny stand-in."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from bondlab import assets, device, prepare, tiny
from bondlab.language_model import LanguageModel
from bondlab.prepare import DOCUMENT_TOKENS, SUMMARY_TOKENS, WEIGHTS
from bondlab.rewards import EntailmentReward, Reward, score


@dataclass(frozen=True)
class Task:
    """What a run trains on and is measured on.

    Args:
        model: the reference policy; training freezes it, and changes a copy.
        reward: scores completions; see `rewards.Reward`.
        train_prompts, eval_prompts: texts; evaluation prompts are only ever measured on.
        eval_references: one human completion of each evaluation prompt, if there are any.
        identity: names the model and the reward in run ids, for example by digests. None derives
            it from the weights, and from the reward's code and its values for a few texts, so that
            another model or reward does not take up an earlier one's runs; rewards of one code that
            differ on rare texts alone need identities of their own. A given identity names the
            model and reward it was given with: `dataclasses.replace` of either derives another.

    Raises:
        ValueError: a list is a single string, or lacks prompts; a prompt is empty, or is in both
            lists; there are more or fewer references than evaluation prompts.
    """

    model: LanguageModel
    reward: Reward
    train_prompts: Sequence[str]
    eval_prompts: Sequence[str]
    eval_references: Sequence[str] | None = None
    identity: dict | None = None

    def __post_init__(self) -> None:
        for name in ("train_prompts", "eval_prompts", "eval_references"):
            if isinstance(getattr(self, name), str):
                raise ValueError(f"{name} is one string: pass a list of texts")
        for name in ("train_prompts", "eval_prompts"):
            texts = getattr(self, name)
            empty = [i for i, text in enumerate(texts) if not text.strip()]
            if not texts or empty:
                raise ValueError(f"{name} has no prompts or an empty one: positions {empty}")
        if shared := set(self.train_prompts) & set(self.eval_prompts):
            raise ValueError(f"{len(shared)} prompts are in train_prompts and in eval_prompts")
        if self.eval_references is not None:
            counts = len(self.eval_references), len(self.eval_prompts)
            if counts[0] != counts[1]:
                raise ValueError(
                    f"{counts[0]} eval_references for {counts[1]} eval_prompts: pass one for each"
                )
        object.__setattr__(self, "identity", _Identity.of(self))


class _Identity(dict):
    """A task's identity, and the model and reward that it was given for; None if derived."""

    given_for: tuple[LanguageModel, Reward] | None = None

    @classmethod
    def of(cls, task: Task) -> _Identity:
        """The identity given with the task's own model and reward, or one derived from them."""
        given, owners = task.identity, (task.model, task.reward)
        if isinstance(given, cls):  # of the task that this one replaces
            before = given.given_for
            kept = before is not None and all(a is b for a, b in zip(before, owners, strict=True))
            given = given if kept else None
        if given is None:
            return cls(policy=_weights(task.model), reward=_probe(task))
        named = cls(given)
        named.given_for = owners
        return named


class TaskSettings(BaseModel):
    """Which task, at which size. None takes the models and data that the study embeds.

    `policy` and `reward` name models by hub name or local folder; `data` names a data set with the
    splits train and test and the columns document and summary (and id).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Literal["xsum", "tiny"]
    train: Annotated[int, Field(ge=1)]
    evaluate: Annotated[int, Field(ge=1)]
    policy: str | None = None
    reward: str | None = None
    data: str | None = None
    document_tokens: Annotated[int, Field(ge=1)] = DOCUMENT_TOKENS
    summary_tokens: Annotated[int, Field(ge=1)] = SUMMARY_TOKENS


@lru_cache(maxsize=1)
def build(settings: TaskSettings, precision: str) -> Task:
    """The task with its first training and held-out prompts.

    Raises:
        ValueError: more prompts asked for than there are.
    """
    return {"xsum": _xsum, "tiny": _tiny}[settings.name](settings, precision)


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
    limits = {
        "max_prompt_tokens": settings.document_tokens,
        "max_new_tokens": settings.summary_tokens,
    }
    model = xsum_reference(precision, settings.policy, **limits)
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
    model = tiny.language_model("t5").requires_grad_(False).to(device.dtype(precision))
    held_out = texts[settings.train :]
    return Task(
        model=model,
        reward=tiny.reward,
        train_prompts=texts[: settings.train],
        eval_prompts=held_out,
        eval_references=[" ".join(text.split()[:5]) for text in held_out],
        identity={"policy": "tiny", "reward": "tiny"},
    )


def _weights(model: LanguageModel) -> str:
    """Digest of a model's parameters."""
    total = hashlib.sha256()
    for parameter in model.parameters():
        total.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy())
    return total.hexdigest()[:12]


def _probe(task: Task) -> str:
    """Digest of a reward: its code, and what it says of a few texts, to five digits."""
    prompts = list(task.train_prompts[:4])
    texts = [[prompt, " ".join(prompt.split()[:5]), "Yes.", "No 1 2 3"] for prompt in prompts]
    rewards = score(task.reward, prompts, texts).flatten().tolist()
    values = " ".join(f"{x:.5g}" for x in rewards)
    return hashlib.sha256(f"{_code(task.reward)}\n{values}".encode()).hexdigest()[:12]


def _code(reward: Reward) -> str:
    """The source of a reward's function or class, or its name where there is none to read.

    Two rewards that each look for a word of their own are equal on most texts.
    """
    made = reward if inspect.isroutine(reward) else type(reward)
    try:
        return inspect.getsource(made)
    except (OSError, TypeError):
        return made.__qualname__


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
