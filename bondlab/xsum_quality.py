"""How good the XSum task's two models are: every text that is judged, scored once, in one table.

The reference policy is measured as a summariser beside the untrained model and the lead sentence.
The reward is measured on claims of held-out pages with false copies of the true ones, and on texts
that it should tell apart: a document's own and another document's reference, a sentence of the
document, the same sentence with a changed number or name, nothing at all. The paper reports none of
this for its own models.
`xsum_report` makes tables and figures of it.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field
from tqdm.auto import tqdm

from bondlab import assets, checkpoints, device, paths, prepare, tasks, tiny, xsum_texts
from bondlab.experiments import HUB, Profile
from bondlab.language_model import LanguageModel
from bondlab.results import RunFolder
from bondlab.rewards import Reward, score
from bondlab.tasks import Task, TaskSettings

EXPERIMENT = "xsum_task"
PAIRS_AT_ONCE = 256  # scored together; the reward sorts them by length
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
    untrained: str = prepare.BASE
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


@dataclass(frozen=True)
class Results:
    """Every scored text, and how the table was made.

    Args:
        profile: whose settings they are; never "shipped".
        table: a row a text: source, prompt (the document, or for claims the page), sample (for
            claims the pair), reward, entailed (claims), the measures of `summaries.describe`
            (summaries) and the text itself where the policy wrote it.
        manifest: the run's manifest: settings, weights, machine, seconds.
        shipped: read, not computed here.
    """

    profile: str
    table: pd.DataFrame
    manifest: dict
    shipped: bool = False

    def of(self, source: str) -> pd.DataFrame:
        """The rows of one source."""
        return self.table[self.table["source"] == source]


def results(profile: Profile, seed: int = 0, retrain: bool = False) -> Results:
    """Measure at a profile, unless that was done before; "shipped" reads what is committed.

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
        return _shipped()
    if retrain:
        prepare.prepare(retrain=True)
    settings = SETTINGS[profile].model_copy(update={"seed": seed})
    run = RunFolder.of(paths.runs_folder() / EXPERIMENT, identity(settings))
    if not run.finished:
        with run.lock():
            _compute(settings, run)
    found = Results(profile, run.evaluation().drop(columns="step"), run.manifest)
    stem = paths.figures_folder(EXPERIMENT) / f"results_{profile}"
    checkpoints.write_atomically(Path(f"{stem}_texts.parquet"), found.table.to_parquet(index=False))
    text = json.dumps(found.manifest, indent=1) + "\n"
    checkpoints.write_atomically(Path(f"{stem}_run.json"), text.encode())
    return found


def identity(settings: Settings) -> dict:
    """Everything that determines the table: settings, claims, precision, the adapters' digests."""
    chosen = {"xsum_reference": settings.task.policy, "xsum_reward": settings.task.reward}
    weights = {
        name: assets.file_digest(prepare.WEIGHTS / name / "adapter_model.safetensors")
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


def _shipped() -> Results:
    folder = paths.figures_folder(EXPERIMENT)
    for profile in ("study", "laptop"):
        run = folder / f"results_{profile}_run.json"
        if run.exists():
            table = pd.read_parquet(folder / f"results_{profile}_texts.parquet")
            return Results(profile, table, json.loads(run.read_text()), shipped=True)
    raise FileNotFoundError(f"{folder} holds no results: run the notebook at profile laptop")


def _compute(settings: Settings, run: RunFolder) -> None:
    started = time.perf_counter()
    run.mark("running", 0.0)
    if not run.evaluated(0):
        table = measure(settings)
        run.append({"step": 0, "texts": len(table), "seconds": time.perf_counter() - started})
        run.add_evaluation(table.assign(step=0))  # the models stand still: one step, number 0
    run.mark("finished", time.perf_counter() - started)


def measure(settings: Settings) -> pd.DataFrame:
    """Draw, score and describe every text; the columns are those of `Results.table`."""
    task, untrained, pairs = _subjects(settings)
    documents = task.eval_prompts
    counts = [settings.samples] * settings.headroom_documents
    counts += [1] * (len(documents) - len(counts))
    claims = xsum_texts.claims_of(pairs, settings.claims, settings.seed)
    with device.accelerator("auto").autocast():
        made = xsum_texts.summaries_of(task, untrained, counts, settings.seed)
        made["reward"] = _scores(task.reward, [documents[i] for i in made["prompt"]], made["text"])
        claims["reward"] = _scores(task.reward, claims.pop("evidence"), claims.pop("text"))
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
    untrained = tasks.xsum_reference("auto", settings.untrained, **chosen.limits)
    return task, untrained, list(assets.dataset("vitaminc")["test"])


def documents(profile: Profile) -> list[dict]:
    """The held-out rows of a profile, with document and summary: other people's text."""
    chosen = SETTINGS[profile].task
    if chosen.name == "tiny":
        articles = xsum_texts.tiny_articles(chosen.evaluate)
        return [{"document": text, "summary": text.splitlines()[-1]} for text in articles]
    return tasks.xsum_documents(chosen.data)[1]


def _scores(reward: Reward, premises: Sequence[str], texts: Sequence[str]) -> list[float]:
    """The reward of each text, read after its premise."""
    premises, values = list(premises), []
    texts = [[text] for text in texts]
    for start in tqdm(range(0, len(texts), PAIRS_AT_ONCE), desc="scoring", leave=False):
        part = slice(start, start + PAIRS_AT_ONCE)
        values += score(reward, premises[part], texts[part])[:, 0].tolist()
    return values
