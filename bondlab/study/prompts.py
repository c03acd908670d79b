"""Six prompts written for this study, and what the reference draws for them.

Other people's articles and reviews cannot be shown in full; these can, so that a reader sees what
was asked, and can work a rule by hand. Nothing is trained or tested on them.

Three distributions draw for each prompt, `DRAWS` completions each, all of them the reference at a
temperature. The one called `POLICY` stands for a policy on its way: it is known exactly, differs
from the reference by a nat or two, and needs no training. `COOLED` is there to be read.
"""

from __future__ import annotations

import pandas as pd
import torch

from bondlab import device, paths
from bondlab.bank import seeded
from bondlab.report.kept import Results
from bondlab.study.cooling import cooled
from bondlab.study.judge import judge_of
from bondlab.study.summaries import longest_copied_span, words
from bondlab.task import score
from bondlab.tasks import TaskSettings, build

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
PROMPTS = {"xsum": NEWS, "sentiment": REVIEWS}
DRAWS = 24
REFERENCE, POLICY, COOLED = "reference", "policy", "cooled"
TEMPERATURES = {REFERENCE: 1.0, POLICY: 0.95, COOLED: 0.7}
PRECISION, SEED = "fp32", 0


def shipped() -> pd.DataFrame:
    """The committed draws, a row per completion.

    task, prompt (number), drawn_by (of `TEMPERATURES`), sample, text, reward (log-odds), judge (the
    second judge's score; for XSum, which has none, the longest span of words copied from the
    article), log_pi_reference and log_pi_policy (nats).
    """
    return Results("examples", "shipped").load(["prompts"], dict)["prompts"]


def measured() -> pd.DataFrame:
    """The same table, drawn and scored now by the real models."""
    return pd.concat(map(drawn, PROMPTS), ignore_index=True)


@torch.no_grad()
def drawn(task: str) -> pd.DataFrame:
    """A task's part of the table."""
    settings = TaskSettings(name=task, train=1, evaluate=1)
    made, texts, parts = build(settings, PRECISION), list(PROMPTS[task]), []
    made.model.to(device.place()).eval()
    models = {name: cooled(made.model, t) for name, t in TEMPERATURES.items()}
    prompts = made.model.encode(texts)
    for name, model in models.items():
        completions = model.sample(prompts, DRAWS, seeded(SEED, name))
        decoded = model.decode(completions)
        columns = {
            "reward": score(made.reward, texts, decoded),
            "judge": second(settings, texts, decoded),
            **{f"log_pi_{n}": models[n](prompts, completions).sum(-1) for n in (REFERENCE, POLICY)},
        }
        for place, own in enumerate(decoded):
            cells = {column: values[place].tolist() for column, values in columns.items()}
            part = pd.DataFrame({"sample": range(DRAWS), "text": own, **cells})
            parts.append(part.assign(task=task, prompt=place, drawn_by=name))
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
    """Draw again, and put the table where `shipped` reads it."""
    folder = paths.committed_folder("examples")
    folder.mkdir(parents=True, exist_ok=True)
    measured().to_parquet(folder / "results_prompts.parquet", index=False)
