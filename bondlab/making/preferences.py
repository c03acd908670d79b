"""What the rewards and judges are trained and measured on: texts that are good, and others.

No corpus here holds people's preferences. For entailment and sentiment a label does; for chat a
human reply stands against a reply that does not belong: a chat reward knows fit, not helpfulness.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bondlab.assets.corpora import digest
from bondlab.making.alterations import garble, swap_entities, swap_numbers
from bondlab.tasks import chat, sentiment
from bondlab.tasks.scorers import has_word

# Share of the true claims that get such a false copy. Not stated; chosen because names and numbers
# are what summaries get wrong, and a few garbled claims suffice.
ALTERATIONS = {
    "number": (swap_numbers, 0.5),
    "name": (swap_entities, 0.5),
    "garbled": (garble, 0.1),
}
FOREIGN = 0.1  # of the true claims that get a copy with the evidence of another
HIDDEN = 0.2  # of all claims whose evidence lies among others

REVIEW_WORDS = (12, 40)  # not stated; chosen because prompt and completion together have as many
CANDIDATES = 20  # foreign replies among which the one nearest in words is taken
DIFFERENT = ("other dialogue", "same dialogue", "similar words", "shuffled words")
# Shares of the rejected replies. None is stated. The reward's: a quarter shares the topic. The
# judge's: few shuffled replies teach fluency, and fit takes many: with a third of each the judge
# preferred the human reply to one near in words in 64 of 100 pairs only.
REWARDED = {"same dialogue": 0.25, "other dialogue": 0.75}
JUDGED = {"same dialogue": 0.45, "similar words": 0.45, "shuffled words": 0.1}

_SENTENCE = re.compile(r"[.!?][\"')]*$")
_PLACED_APART = re.compile(r"\s+(?=[,.;:!?)]|n't\b|'(?:s|re|ve|ll|d|m)\b)|(?<=\()\s+")


@dataclass(frozen=True)
class Judged:
    """A prompt, its completion, whether it is a good one, and how the pair was made."""

    prompt: str
    completion: str
    good: bool
    origin: str
    group: str  # what pairs are independent by: the page, the review or the dialogue


Comparison = tuple[Judged, Judged]  # of one prompt: a human reply, and one that does not fit


# -- claims ---------------------------------------------------------------------------------------


def claims(rows: Sequence[Mapping], rng: random.Random) -> list[Judged]:
    """VitaminC claims after their evidence: is it entailed? With altered, foreign and longer ones.

    Of the true claims, one in two gets a copy with a changed number, one in two a copy with a
    changed name (where there is one to change), one in ten a garbled copy and one in ten a copy
    with foreign evidence. Of all pairs, 20 % have their evidence hidden among that of one to three
    others, because the reward later reads documents many times longer than VitaminC's sentences.
    """
    rows = list(rows)
    made = [
        Judged(r["evidence"], r["claim"], r["label"] == "SUPPORTS", "vitaminc", r["page"])
        for r in rows
    ]
    for true in [claim for claim in made if claim.good]:
        for origin, (alter, share) in ALTERATIONS.items():
            altered = alter(true.completion, true.prompt, rng) if rng.random() < share else None
            if altered:
                made.append(replace(true, completion=altered, good=False, origin=origin))
        if rng.random() < FOREIGN:
            foreign = rng.choice(rows)["evidence"]
            if foreign != true.prompt:
                made.append(replace(true, prompt=foreign, good=False, origin="foreign"))
    return [_hidden(claim, rows, rng) if rng.random() < HIDDEN else claim for claim in made]


def _hidden(claim: Judged, rows: Sequence[Mapping], rng: random.Random) -> Judged:
    parts = [claim.prompt, *(rng.choice(rows)["evidence"] for _ in range(rng.randint(1, 3)))]
    rng.shuffle(parts)
    return replace(claim, prompt=" ".join(parts))


# -- reviews --------------------------------------------------------------------------------------


def reviews(rows: Sequence[Mapping], source: str, rng: random.Random) -> list[Judged]:
    """One extract of each review of a source ("imdb" or "rotten_tomatoes"): is it positive?

    It starts at a sentence drawn at random and is as long as a prompt with its completion. A label
    is the whole review's, so some extracts say nothing of it or the contrary.
    """
    made = []
    for row in rows:
        if row["source"] == source:
            words = extract(tidied(row["text"]), rng)
            cut = min(sentiment.GIVEN_WORDS, len(words) // 2)
            prompt, completion = " ".join(words[:cut]), " ".join(words[cut:])
            made.append(Judged(prompt, completion, bool(row["label"]), source, digest(row["text"])))
    return [judged for judged in made if judged.prompt and has_word(judged.completion)]


def extract(text: str, rng: random.Random) -> list[str]:
    """Words of a text from the start of a sentence on, as many as REVIEW_WORDS allow."""
    words = text.split()
    starts = [i + 1 for i, word in enumerate(words) if _SENTENCE.search(word)]
    starts = [0, *(i for i in starts if len(words) - i >= REVIEW_WORDS[0])]
    first = rng.choice(starts)
    return words[first : first + rng.randint(*REVIEW_WORDS)]


def tidied(text: str) -> str:
    """Punctuation set apart, as Rotten Tomatoes' is, put back; a capital at the start."""
    text = _PLACED_APART.sub("", text)
    return text[:1].upper() + text[1:]


# -- dialogues ------------------------------------------------------------------------------------


def halves(rows: Sequence[Mapping]) -> tuple[list[Mapping], list[Mapping]]:
    """Dialogue turns in two parts that share no dialogue; those of smaller digest come first."""
    names = sorted({row["dialogue"] for row in rows}, key=digest)
    first = set(names[: len(names) // 2])
    parts = ([], [])
    for row in rows:
        parts[row["dialogue"] not in first].append(row)
    return parts


def dialogue(turns: Sequence[str]) -> str:
    """The last turns, a line each, that fit into a chat prompt; always the last one.

    The task's own prompts (`chat.last_turns`) are stricter: the user speaks first, and a last turn
    that is too long makes no prompt. The shipped scorers were trained by this rule.
    """
    return "\n".join(chat.fitting(turns) or [chat.line(turns[-1])])


def comparisons(
    rows: Sequence[Mapping], rng: random.Random, shares: Mapping[str, float] = REWARDED
) -> list[Comparison]:
    """Each human reply against one that does not fit, of a kind drawn by its share."""
    worse, kinds = _Worse(rows, rng), [*shares]
    made = (worse.than(row, *rng.choices(kinds, list(shares.values()))) for row in worse.rows)
    return [pair for pair in made if pair]


def replies(rows: Sequence[Mapping], rng: random.Random) -> list[Judged]:
    """Each human reply, and one that does not fit: of its dialogue, near in words, or shuffled."""
    return [reply for pair in comparisons(rows, rng, JUDGED) for reply in pair]


def every_reply(rows: Sequence[Mapping], count: int, rng: random.Random) -> list[Judged]:
    """`count` human replies, each with one of every kind that does not fit."""
    made, worse = [], _Worse(rows, rng)
    for row in rng.sample(worse.rows, min(count, len(worse.rows))):
        made.append(_human(row))
        against = [worse.than(row, origin) for origin in DIFFERENT]
        made += [pair[1] for pair in against if pair]
    return made


def shuffled(text: str, rng: random.Random) -> str:
    """The words of a text in random order."""
    words = text.split()
    return " ".join(rng.sample(words, len(words)))


def _human(row: Mapping) -> Judged:
    return Judged(dialogue(row["context"]), row["reply"], True, "human", row["dialogue"])


class _Worse:
    """Replies that do not belong to a turn."""

    def __init__(self, rows: Sequence[Mapping], rng: random.Random) -> None:
        self.rows, self.rng = [row for row in rows if has_word(row["reply"])], rng
        self.own: dict[str, list[str]] = defaultdict(list)
        for row in self.rows:
            self.own[row["dialogue"]].append(row["reply"])

    def than(self, row: Mapping, origin: str) -> Comparison | None:
        """The turn's reply against one of a kind; None if there is none but the turn's own."""
        human, group = _human(row), row["dialogue"]
        reply = human.completion
        if origin == "same dialogue":
            others = [text for text in self.own[group] if text != reply]
            rejected = self.rng.choice(others) if others else reply
        elif origin == "shuffled words":
            rejected = shuffled(reply, self.rng)
        elif origin == "other dialogue":
            rejected = self._foreign(group)
        else:
            known = _content(human.prompt)
            foreign = [self._foreign(group) for _ in range(CANDIDATES)]
            rejected = max(foreign, key=lambda text: len(known & _content(text)))
        bad = replace(human, completion=rejected, good=False, origin=origin)
        return (human, bad) if rejected != reply else None

    def _foreign(self, dialogue: str) -> str:
        while True:
            other = self.rng.choice(self.rows)
            if other["dialogue"] != dialogue:
                return other["reply"]


def _content(text: str) -> set[str]:
    """Words of more than three letters, in lower case: most others belong to no topic."""
    return {word for word in re.findall(r"[a-z]+", text.lower()) if len(word) > 3}
