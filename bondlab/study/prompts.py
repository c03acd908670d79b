"""Nine prompts written for this study, and what the reference and trained policies draw for them.

Other people's articles, reviews and dialogues cannot be shown in full; these can, so that a reader
sees what was asked, and can work a rule by hand. Nothing is trained or tested on them.

Three distributions draw for each prompt, `DRAWS` completions each, all of them the reference at a
temperature. The one called `POLICY` stands for a policy on its way: it is known exactly, differs
from the reference by a nat or two, and needs no training. `COOLED` is there to be read. For reviews
the policies of `WRITERS` draw too, where their runs are finished. `write` makes the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import pandas as pd
import torch

from bondlab import device, paths
from bondlab.bank import seeded
from bondlab.lm.language_model import LanguageModel
from bondlab.report.kept import Results
from bondlab.report.notebook import ParameterError
from bondlab.results import write_table
from bondlab.study import alignment, controls, tuning
from bondlab.study.alignment import RUNS
from bondlab.study.cooling import cooled
from bondlab.study.judge import judge_of
from bondlab.study.summaries import longest_copied_span, words
from bondlab.study.sweep import Spec
from bondlab.task import score
from bondlab.tasks import Task, TaskSettings, build
from bondlab.training import train

NEWS = (
    "The only bridge over the river Arle will close for six weeks from Monday, the county council "
    "has said. Engineers found cracks in two of its stone arches during an inspection in March. "
    "Buses will be diverted through Marfield, which adds about 25 minutes to the journey to "
    "school. Shopkeepers in the old town fear that visitors will stay away in the summer. The "
    "repairs will cost 2.4 million pounds, of which the government pays half.",
    "A goalkeeper aged 41 saved two penalties as Harlow Rovers reached the cup final for the first "
    "time in their history. Dana Whitlock, who works as a nurse during the week, had come out of "
    "retirement in January after both of the club's keepers were injured. Rovers drew 1-1 with "
    "Eastbourne Town after extra time and won the shoot-out 4-2. They meet the holders, Leyton "
    "Athletic, at the national stadium on 12 May.",
    "Scientists have recorded the call of a small brown frog that had not been seen since 1987. A "
    "microphone left in a forest in northern Ecuador picked up the sound on three nights last "
    "autumn. The team from the university in Quito then found four adults beside a stream. The "
    "forest has no legal protection, and a mining company holds a licence for part of it. The "
    "researchers have asked the ministry to suspend the licence.",
)
REVIEWS = (
    "I watched this with my sister last night,",
    "The director's second film follows a retired pilot",
    "After the first twenty minutes I looked at",
)
DIALOGUES = (
    "I have two days in Lisbon next month. What should I not miss?",
    "Did you see the match on Saturday?\nOnly the second half. That last goal was lovely.\n"
    "It was! Do you play yourself?",
    "I am reading a book about octopuses.\nReally? I have heard that they are clever.\n"
    "They can open jars from the inside. Which animal do you think is the cleverest?",
)
PROMPTS = {"xsum": NEWS, "sentiment": REVIEWS, "chat": DIALOGUES}
DRAWS = 24
REFERENCE, POLICY, COOLED = "reference", "policy", "cooled"
TEMPERATURES = {REFERENCE: 1.0, POLICY: 0.95, COOLED: 0.7}
PRECISION, SEED = "fp32", 0
# The one that the study is about, and the one that leaves the language for the reward.
WRITERS = (alignment.J_BOND, controls.RAW_MOVING)


def shipped() -> pd.DataFrame:
    """The committed draws, a row per completion.

    task, prompt (number), drawn_by (of `TEMPERATURES`, or of a series' `writes`), sample, text,
    reward (log-odds; of a reply in a chat a score), judge (the second judge's score; for XSum,
    which has none, the longest span of words copied from the article), log_pi_reference and
    log_pi_policy (nats; not of `WRITERS`).
    """
    return Results("examples", "shipped").load(["prompts"], dict)["prompts"]


def drawn(task: str) -> pd.DataFrame:
    """A task's part of the table, of the reference."""
    settings = TaskSettings(name=task, train=1, evaluate=1)
    made = build(settings, PRECISION)
    made.model.to(device.place()).eval()
    models = {name: cooled(made.model, t) for name, t in TEMPERATURES.items()}
    under = {name: models[name] for name in (REFERENCE, POLICY)}
    return _draws(settings, made, models, under)


def finished() -> list[Spec]:
    """The study's runs whose policies write beside the reference, as far as they are finished."""
    found = alignment.specs(controls.runs, "", "study", tuned=False)
    own = [s for s in found if s.labels["series"] in WRITERS and s.labels["seed"] == SEED]
    done = []
    for spec in own:
        with suppress(ParameterError):  # a learning rate that was not chosen yet
            run = tuning.tuned(spec)
            if run.folder(paths.runs_folder() / RUNS).finished:
                done.append(run)
    return done


def trained(spec: Spec) -> pd.DataFrame:
    """A finished run's part, of its last policy: as it is, and at `COOLED`'s temperature."""
    task = spec.build()
    policy = train(task, spec.algorithm, spec.config, paths.runs_folder() / RUNS).policy
    models = {name: cooled(policy, t) for name, t in writes(spec.labels["series"]).items()}
    with device.autocast(spec.config.precision):
        return _draws(spec.task, task, models, {})


def writes(series: str) -> dict[str, float]:
    """The names under which a series' policy draws, with their temperatures."""
    cool = TEMPERATURES[COOLED]
    return {series: 1.0, f"{series}, T = {cool}": cool}


@torch.no_grad()
def _draws(
    settings: TaskSettings,
    made: Task,
    models: Mapping[str, LanguageModel],
    under: Mapping[str, LanguageModel],
) -> pd.DataFrame:
    """What models draw for a task's prompts, with its log-probabilities under some."""
    texts, parts = list(PROMPTS[settings.name]), []
    prompts = made.model.encode(texts)
    places = [place for place in range(len(texts)) for _ in range(DRAWS)]
    for name, model in models.items():
        completions = model.sample(prompts, DRAWS, seeded(SEED, name))
        decoded = model.decode(completions)
        measures = {
            "reward": score(made.reward, texts, decoded),
            "judge": second(settings, texts, decoded),
            **{f"log_pi_{n}": m(prompts, completions).sum(-1) for n, m in under.items()},
        }
        cells = {"sample": [*range(DRAWS)] * len(texts), "text": sum(decoded, [])}
        cells |= {column: values.flatten().tolist() for column, values in measures.items()}
        part = pd.DataFrame(cells).assign(task=settings.name, prompt=places, drawn_by=name)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def second(settings: TaskSettings, prompts: list[str], texts: list[list[str]]) -> torch.Tensor:
    """What is beside the reward [B, K]; see `shipped`."""
    if settings.name == "xsum":
        return torch.tensor([
            [longest_copied_span(words(prompt), words(text)) for text in own]
            for prompt, own in zip(prompts, texts, strict=True)
        ])  # fmt: skip
    return score(judge_of(settings, PRECISION)[0], prompts, texts)


def write() -> None:
    """Draw and score again by the real models, and put the table where `shipped` reads it."""
    table = pd.concat([*map(drawn, PROMPTS), *map(trained, finished())], ignore_index=True)
    write_table(paths.committed_folder("examples") / "results_prompts.parquet", table)
