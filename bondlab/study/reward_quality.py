"""How good the sentiment and chat tasks' rewards and judges are: every text scored by both.

A reward is measured before anything is trained on it: on labelled held-out texts, on the reference
policy's samples and on probes. The paper reports nothing of this for its own reward.
`reward_tables` makes tables of it and `reward_report` figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field
from tqdm.auto import tqdm

from bondlab import bank, device, tasks
from bondlab.making import prepare
from bondlab.study import judging, reward_texts, scored_texts, summaries
from bondlab.study.experiments import Profile
from bondlab.study.scored_texts import Results
from bondlab.tasks import Task, TaskSettings, scorers, tiny

EXPERIMENT = "alignment_rewards"
TASKS = ("sentiment", "chat")
PROMPTS_AT_ONCE = 4  # sampled together: as many completions as the larger profiles draw of each
Count = Annotated[int, Field(ge=1)]


class Settings(BaseModel):
    """What is measured.

    Args:
        tasks: sentiment and chat, by name; `evaluate` of each task's prompts are completed.
        samples: completions of each; headroom is drawn up to Best-of-16.
        labelled: held-out reviews of each source, and turns of dialogues.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    tasks: dict[str, TaskSettings]
    samples: Annotated[int, Field(ge=16)]
    labelled: Count
    seed: int = 0


def _settings(evaluate: int, samples: int, labelled: int, policy: str | None = None) -> Settings:
    chosen = {
        name: TaskSettings(name=name, train=1, evaluate=evaluate, policy=policy) for name in TASKS
    }
    return Settings(tasks=chosen, samples=samples, labelled=labelled)


# Sizes are not stated; laptop's take about five minutes on two cores.
SETTINGS = {
    "smoke": Settings(
        tasks=dict.fromkeys(TASKS, TaskSettings(name="tiny_causal", train=1, evaluate=6)),
        samples=16, labelled=24,
    ),
    "laptop": _settings(evaluate=24, samples=16, labelled=400),
    "study": _settings(evaluate=100, samples=32, labelled=2000),  # all reviews there are
    "paper": _settings(evaluate=128, samples=32, labelled=2000, policy="google/gemma-2b"),
}  # fmt: skip


def results(profile: Profile, seed: int = 0, retrain: bool = False) -> Results:
    """Measure at a profile, unless that was done before; "shipped" reads what is committed.

    The columns are task, source, origin, prompt, sample, good, reward, judge; for completions of
    prompts the measures of `summaries.describe`, and the text where the policy wrote it.

    Args:
        seed: of the samples, and of the extracts and replies chosen.
        retrain: train both rewards and both judges anew first.

    Raises:
        ValueError: `retrain` with a profile that does not use them.
        FileNotFoundError: nothing is committed, or a scorer was never trained.
    """
    if retrain and profile not in ("laptop", "study", "paper"):
        raise ValueError(f"profile {profile!r} does not use the trained scorers: no retrain")
    if profile == "shipped":
        return scored_texts.shipped(EXPERIMENT)
    if retrain:
        for name in scorers.SCORERS:
            prepare.prepare(retrain=True, only=name)
        scorers.load.cache_clear()
        tasks.build.cache_clear()
    settings = SETTINGS[profile].model_copy(update={"seed": seed})
    return scored_texts.computed(EXPERIMENT, profile, identity(settings), lambda: measure(settings))


def identity(settings: Settings) -> dict:
    """Everything that determines the table: settings, probes, precision, the scorers' digests."""
    real = any(chosen.name in TASKS for chosen in settings.tasks.values())
    return {
        "experiment": EXPERIMENT,
        "settings": settings.model_dump(mode="json"),
        "probes": {task: list(probes) for task, probes in reward_texts.PROBES.items()},
        "precision": device.resolve("auto"),
        "scorers": {name: scorers.identity(name) for name in scorers.SCORERS} if real else {},
    }


def measure(settings: Settings) -> pd.DataFrame:
    """Draw, score and describe every text of both tasks; the columns are those of `results`."""
    return pd.concat(
        [_measure(name, chosen, settings) for name, chosen in settings.tasks.items()],
        ignore_index=True,
    )


def _measure(name: str, chosen: TaskSettings, settings: Settings) -> pd.DataFrame:
    task, judge = tasks.build(chosen, device.resolve("auto")), judging.judge_of(chosen)
    with device.accelerator("auto").autocast():
        samples = sampled(task, settings.samples, settings.seed)
        made = reward_texts.written(name, task.eval_prompts, samples, task.eval_references)
        texts = pd.concat([_labelled(name, chosen, settings), made], ignore_index=True)
        texts["reward"] = scored_texts.scores(task.reward, texts["read"], texts["text"])
        texts["judge"] = scored_texts.scores(judge.score, texts["read"], texts["text"])
    texts = texts.join(_described(texts))
    # All but the policy's samples is other people's text: measured, not kept.
    texts["text"] = texts["text"].where(texts["source"] == "policy")
    return texts.drop(columns="read").assign(task=name)


def _labelled(name: str, chosen: TaskSettings, settings: Settings) -> pd.DataFrame:
    if chosen.name not in TASKS:
        return reward_texts.tiny_labelled(tiny.documents(settings.labelled, seed=1))
    return reward_texts.labelled(name, settings.labelled, settings.seed)


def sampled(task: Task, count: int, seed: int) -> list[list[str]]:
    """`count` completions of each held-out prompt by the reference policy."""
    texts: list[list[str]] = []
    starts = range(0, len(task.eval_prompts), PROMPTS_AT_ONCE)
    for start in tqdm(starts, desc="sampling", leave=False):
        generator = bank.seeded(seed, EXPERIMENT, start)
        prompts = task.model.encode(task.eval_prompts[start : start + PROMPTS_AT_ONCE])
        texts += task.model.decode(task.model.sample(prompts, count, generator))
    return texts


def _described(texts: pd.DataFrame) -> pd.DataFrame:
    """`summaries.describe` of completions of the task's prompts, on the rows' own index."""
    own = texts[~texts["source"].isin(["labelled", "hhh"])]
    described = summaries.describe(own["read"].tolist(), _alone(own["text"]))
    columns = ["words", "longest_copied_span", "novel_bigrams", "repetition"]
    return described[columns].set_index(own.index)


def _alone(texts: Sequence[str]) -> list[list[str]]:
    return [[text] for text in texts]
