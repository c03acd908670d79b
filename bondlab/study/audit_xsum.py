"""The XSum task's two models: the policy as a summariser, the reward as a judge of texts.

The policy is measured beside the untrained model and the lead sentence. The reward is measured on
claims of held-out pages with false copies of the true ones, and on what it should tell apart: a
document's own and another's reference, a sentence of the document and the same with a changed
number or name, nothing at all.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

import pandas as pd

from bondlab import assets, device, tasks
from bondlab.lm.language_model import LanguageModel
from bondlab.making.alterations import garble, swap_entities, swap_numbers
from bondlab.report.intervals import accuracy_interval, auc_interval
from bondlab.report.kept import Results
from bondlab.study.audit import Audit, Settings, above, completions, of, sampled, scored
from bondlab.study.cooling import cooled
from bondlab.study.xsum import HUB
from bondlab.tasks import Task, TaskSettings, models, tiny, xsum

CHANGES = {"number": swap_numbers, "name": swap_entities}  # of claims and of lead sentences
FALSE_COPIES = {**CHANGES, "garbled": garble}  # of claims
COPIED = {"number": "number changed", "name": "name changed", "garbled": "garbled"}  # in words
CLAIMS = {"vitaminc": "as it came", **COPIED, "foreign": "another page's evidence"}
SAMPLED = ("policy", "cold", "untrained")  # written by our models
NAMES = {  # of sources, in words
    "policy": "policy, T = 1",
    "cold": "policy, T = 0.1",
    "untrained": "before fine-tuning",
    "reference": "human reference",
    "shuffled": "another article's reference",
    "lead": "lead sentence",
    "lead_number": "lead, number changed",
    "lead_name": "lead, name changed",
    "empty": "no text",
    "repeated": "one word ten times",
    "vitaminc": "claim, as it came",
    "number": "claim, number changed",
    "name": "claim, name changed",
    "garbled": "claim, garbled",
    "foreign": "claim, other evidence",
}
COLD = 0.1  # temperature near greedy decoding, the usual way to judge a summariser
DOCUMENTS_AT_ONCE = 8  # sampled together
TASK = TaskSettings(name="xsum", train=1, evaluate=100)
ALL = 10_000  # claims; all that there are
SETTINGS = {
    "smoke": Settings(
        tasks={"xsum": TaskSettings(name="tiny", train=1, evaluate=12)},
        samples=16, many=6, labelled=24,
    ),
    "laptop": Settings(tasks={"xsum": TASK}, samples=16, many=24, labelled=600),
    "study": Settings(
        tasks={"xsum": TASK.model_copy(update={"evaluate": 201})},
        samples=32, many=100, labelled=ALL,
    ),
    # Flan-T5 ships no twin that never saw XSum; the plain T5 1.1 has seen no task at all.
    "paper": Settings(
        tasks={"xsum": HUB.model_copy(update={"train": 1, "evaluate": 1000})},
        samples=32, many=128, labelled=ALL, untrained="google/t5-v1_1-large",
    ),
}  # fmt: skip


def measure(settings: Settings) -> pd.DataFrame:
    """Draw, score and describe every summary and claim; claims have the column entailed too."""
    chosen, seed = settings.tasks["xsum"], settings.seed
    task = tasks.build(chosen, device.resolve("auto"))
    if chosen.name == "tiny":
        articles, references = documents("smoke").values()
        task = dataclasses.replace(task, eval_prompts=articles, eval_references=references)
        untrained, pairs = tiny.language_model("t5", seed=1), tiny_claims(articles)
    else:
        untrained = models.reference(xsum.policy, settings.untrained, "auto", **chosen.limits)
        pairs = list(assets.dataset("vitaminc")["test"])
    counts = [settings.samples if i < settings.many else 1 for i in range(len(task.eval_prompts))]
    with device.autocast("auto"):
        own = summaries_of(task, untrained, counts, seed)
        texts = pd.concat([own, claims_of(pairs, settings.labelled, seed)])
        return scored(texts, {"reward": task.reward}, labelled=CLAIMS, written=SAMPLED)


AUDIT = Audit(
    "xsum_task", SETTINGS, measure, rules=[*CLAIMS], models=("xsum_reference", "xsum_reward")
)


# -- texts -----------------------------------------------------------------------------------------


def documents(profile: str) -> dict[str, list[str]]:
    """A profile's held-out articles and their references, other people's text, by a label."""
    chosen = SETTINGS[profile].tasks["xsum"]
    if chosen.name == "tiny":
        articles = [_tiny_article(text) for text in tiny.documents(chosen.evaluate, words=24)]
        return {"ARTICLE": articles, "REFERENCE": [text.splitlines()[-1] for text in articles]}
    articles, references = zip(*xsum.texts(chosen.data)[1], strict=True)
    return {"ARTICLE": list(articles), "REFERENCE": list(references)}


def _tiny_article(text: str) -> str:
    """A sentence a line, each with a name and a number that can be changed."""
    words = text.split()
    lines = [words[i : i + 4] for i in range(0, len(words) - 3, 4)]
    return "\n".join(f"{a} {b} {c.title()}x {d} {10 + i}." for i, (a, b, c, d) in enumerate(lines))


def tiny_claims(articles: Sequence[str]) -> list[dict]:
    """Each article with its own first sentence, entailed, and with the next article's, not."""
    leads = [lead_sentence(article) for article in articles]
    return [
        {"evidence": article, "claim": claim, "label": label, "page": article}
        for article, own, other in zip(articles, leads, [*leads[1:], leads[0]], strict=True)
        for claim, label in ((own, "SUPPORTS"), (other, "REFUTES"))
    ]


def summaries_of(
    task: Task, untrained: LanguageModel, counts: Sequence[int], seed: int
) -> pd.DataFrame:
    """Summaries of the task's held-out documents, as `scored` reads them.

    Sources are the reference policy ("policy", with `counts` samples of each document), the same
    near temperature 0 ("cold") and the untrained model, with one, and `texts_by_rule`.
    """
    articles, references = task.eval_prompts, task.eval_references
    cold = cooled(task.model, COLD)
    ones = [1] * len(articles)
    models = {"policy": (task.model, counts), "cold": (cold, ones), "untrained": (untrained, ones)}
    sources = {
        name: sampled(model, articles, each, (seed, name), DOCUMENTS_AT_ONCE)
        for name, (model, each) in models.items()
    }
    for name, texts in texts_by_rule(articles, references, random.Random(seed)).items():
        sources[name] = [[] if text is None else [text] for text in texts]
    rows = completions(articles, sources)
    return rows.assign(reference=[references[i] for i in rows["prompt"]])


def texts_by_rule(
    documents: Sequence[str], references: Sequence[str], rng: random.Random
) -> dict[str, list[str | None]]:
    """One text per document of each source; None where a lead sentence has nothing to change."""
    leads = [lead_sentence(document) for document in documents]
    changed = {
        f"lead_{kind}": [change(*pair, rng) for pair in zip(leads, documents, strict=True)]
        for kind, change in CHANGES.items()
    }
    return {
        "reference": list(references),
        # Documents stand in the order of their digests, so neighbours have nothing in common.
        "shuffled": [*references[1:], references[0]],
        "lead": leads,
        **changed,
        "empty": [""] * len(documents),
        "repeated": [" ".join([max(lead.split(), key=len)] * 10) for lead in leads],
    }


def lead_sentence(document: str) -> str:
    """The first sentence: XSum's documents hold one per line."""
    return document.strip().splitlines()[0].strip()


def claims_of(rows: Sequence[dict], count: int, seed: int) -> pd.DataFrame:
    """Random pairs as they are ("vitaminc"), and of each true claim up to four false copies.

    The copies are the claim with a changed "number" or "name", the claim "garbled", and the claim
    before the evidence of another page ("foreign"). Unlike in training every true claim gets each
    copy that it allows, and no evidence is lengthened.

    Args:
        rows: evidence, claim, label ("SUPPORTS" or another) and page.

    Returns:
        Columns source, prompt (the page's number), sample (the pair's), read, text, entailed.
    """
    rng, made = random.Random(seed), []
    pages = {page: i for i, page in enumerate(dict.fromkeys(row["page"] for row in rows))}
    for pair, row in enumerate(rng.sample(rows, min(count, len(rows)))):
        evidence, claim, true = row["evidence"], row["claim"], row["label"] == "SUPPORTS"
        found = [("vitaminc", evidence, claim, true)]
        if true:
            copies = {kind: change(claim, evidence, rng) for kind, change in FALSE_COPIES.items()}
            found += [(kind, evidence, text, False) for kind, text in copies.items() if text]
            other = row
            while other["page"] == row["page"]:
                other = rng.choice(rows)
            found.append(("foreign", other["evidence"], claim, False))
        made += [(pages[row["page"]], pair, *each) for each in found]
    return pd.DataFrame(made, columns=["prompt", "sample", "source", "read", "text", "entailed"])


# -- tables ----------------------------------------------------------------------------------------


def judge(found: Results) -> pd.DataFrame:
    """How the reward tells true claims from false: panels auc, accuracy (at p = 0.5) and pairs.

    The AUC sets each origin's false claims against the true ones; the accuracy of changed claims is
    the share that is rejected. A kind of text that the results do not hold is left out: few claims
    may allow no copy of a kind.
    """
    rows, held = [], set(found["texts"]["source"])
    true = of(found, source="vitaminc", entailed=True)
    for origin in [origin for origin in CLAIMS if origin in held]:
        own, group = of(found, source=origin), CLAIMS[origin]
        both = pd.concat([true, of(found, source=origin, entailed=False)])
        area = auc_interval(both["reward"], both["entailed"].astype(bool), both["prompt"])
        right = accuracy_interval((own["reward"] > 0) == own["entailed"], own["prompt"])
        rows += [area.row(panel="auc", group=group), right.row(panel="accuracy", group=group)]
    for kind in FALSE_COPIES:
        for what, own, changed in (("claim", "vitaminc", kind), ("lead", "lead", f"lead_{kind}")):
            if changed in held:
                share = above(of(found, source=own), of(found, source=changed))
                rows.append(share.row(panel="pairs", group=f"{COPIED[kind]}, {what}"))
    return pd.DataFrame(rows).assign(series="reward")
