"""How good the XSum task's two models are: every text that is judged, scored once, in one table.

The reference policy is measured as a summariser beside the untrained model and the lead sentence.
The reward is measured on claims of held-out pages with false copies of the true ones, and on texts
that it should tell apart: a document's own and another document's reference, a sentence of the
document, the same sentence with a changed number or name, nothing at all. The paper reports none of
this for its own models.
`xsum_tables` makes tables of it, `xsum_report` figures.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from bondlab import assets, device, tasks
from bondlab.lm.language_model import LanguageModel
from bondlab.making import prepare
from bondlab.study import scored_texts, xsum_texts
from bondlab.study.experiments import Profile
from bondlab.study.scored_texts import Results, scores
from bondlab.study.xsum_runs import HUB
from bondlab.tasks import Task, TaskSettings, models, tiny, xsum

EXPERIMENT = "xsum_task"
Count = Annotated[int, Field(ge=1)]


class Settings(BaseModel):
    """What is measured. `task.evaluate` documents are summarised once each.

    The first `headroom_documents` of them `samples` times each. `claims` held-out pairs are judged,
    with their false copies. `untrained` names the model before fine-tuning.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    task: TaskSettings
    claims: Count
    headroom_documents: Count
    samples: Annotated[int, Field(ge=16)]  # headroom is drawn up to Best-of-16
    untrained: str = models.BASE
    seed: int = 0


SETTINGS = {
    "smoke": Settings(
        task=TaskSettings(name="tiny", train=1, evaluate=12),
        claims=24, headroom_documents=6, samples=16,
    ),
    "laptop": Settings(
        task=TaskSettings(name="xsum", train=1, evaluate=100),
        claims=600, headroom_documents=24, samples=16,
    ),
    "study": Settings(
        task=TaskSettings(name="xsum", train=1, evaluate=201),
        claims=10_000, headroom_documents=100, samples=32,  # all claims there are
    ),
    # Flan-T5 ships no twin that never saw XSum; the plain T5 1.1 has seen no task at all.
    "paper": Settings(
        task=HUB.model_copy(update={"train": 1, "evaluate": 1000}),
        claims=10_000, headroom_documents=128, samples=32, untrained="google/t5-v1_1-large",
    ),
}  # fmt: skip


def results(profile: Profile, seed: int = 0, retrain: bool = False) -> Results:
    """Measure at a profile, unless that was done before; "shipped" reads what is committed.

    The columns are source, prompt (the document, or for claims the page), sample (for claims the
    pair), reward, entailed (claims), the measures of `summaries.describe` (summaries) and the text
    itself where the policy wrote it.

    Args:
        seed: of the samples and of the false claims.
        retrain: train both models anew first.

    Raises:
        ValueError: `retrain` with a profile that does not use the trained models.
        FileNotFoundError: nothing is committed, or an adapter is missing.
    """
    if retrain and profile not in ("laptop", "study"):
        raise ValueError(f"retrain makes the models of profiles laptop and study, not {profile!r}")
    if profile == "shipped":
        return scored_texts.shipped(EXPERIMENT)
    if retrain:
        for name in ("xsum_reference", "xsum_reward"):
            prepare.prepare(retrain=True, only=name)
        tasks.build.cache_clear()
    settings = SETTINGS[profile].model_copy(update={"seed": seed})
    return scored_texts.computed(EXPERIMENT, profile, identity(settings), lambda: measure(settings))


def identity(settings: Settings) -> dict:
    """Everything that determines the table: settings, claims, precision, the adapters' digests."""
    chosen = {"xsum_reference": settings.task.policy, "xsum_reward": settings.task.reward}
    weights = {
        name: assets.file_digest(models.WEIGHTS / name / "adapter_model.safetensors")
        for name, given in chosen.items()
        if given is None and settings.task.name == "xsum"
    }
    return {
        "experiment": EXPERIMENT,
        "settings": settings.model_dump(mode="json"),
        "claims": xsum_texts.CLAIMS,
        "precision": device.resolve("auto"),
        "weights": weights,
    }


def measure(settings: Settings) -> pd.DataFrame:
    """Draw, score and describe every text; the columns are those of `Results.table`."""
    task, untrained, pairs = _subjects(settings)
    documents = task.eval_prompts
    counts = [settings.samples] * settings.headroom_documents
    counts += [1] * (len(documents) - len(counts))
    claims = xsum_texts.claims_of(pairs, settings.claims, settings.seed)
    with device.accelerator("auto").autocast():
        made = xsum_texts.summaries_of(task, untrained, counts, settings.seed)
        made["reward"] = scores(task.reward, [documents[i] for i in made["prompt"]], made["text"])
        claims["reward"] = scores(task.reward, claims.pop("evidence"), claims.pop("text"))
    # All but our models' samples is other people's text: measured, not kept.
    made["text"] = made["text"].where(made["source"].isin(xsum_texts.SAMPLED))
    return pd.concat([made, claims], ignore_index=True)


def _subjects(settings: Settings) -> tuple[Task, LanguageModel, list[dict]]:
    """The task, the model before fine-tuning, and held-out pairs of evidence and claim."""
    chosen = settings.task
    task = tasks.build(chosen, device.resolve("auto"))
    if chosen.name == "tiny":
        rows = documents("smoke")
        articles, references = ([row[k] for row in rows] for k in ("document", "summary"))
        task = dataclasses.replace(task, eval_prompts=articles, eval_references=references)
        return task, tiny.language_model("t5", seed=1), xsum_texts.tiny_claims(articles)
    untrained = xsum.reference("auto", settings.untrained, **chosen.limits)
    return task, untrained, list(assets.dataset("vitaminc")["test"])


def documents(profile: Profile) -> list[dict]:
    """The held-out rows of a profile, with document and summary: other people's text."""
    chosen = SETTINGS[profile].task
    if chosen.name == "tiny":
        articles = xsum_texts.tiny_articles(chosen.evaluate)
        return [{"document": text, "summary": text.splitlines()[-1]} for text in articles]
    return xsum.documents(chosen.data)[1]
