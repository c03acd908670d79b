"""What the sentiment and chat scorers are trained and measured on, made from reviews and dialogues.

No corpus here holds people's preferences. For sentiment a label does; for chat a human reply stands
against a reply that does not belong: a chat reward knows fit, not helpfulness.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bondlab.assets.corpora import digest
from bondlab.tasks.entailment import has_word

PROMPT_WORDS = 8  # as many as the sentiment task's prompts have
REVIEW_WORDS = (12, 40)  # not stated; chosen because prompt and completion together have as many
DIALOGUE_WORDS = 50  # as many as the chat task's prompts have
CANDIDATES = 20  # foreign replies among which the one nearest in words is taken
DIFFERENT = ("other dialogue", "same dialogue", "similar words", "shuffled words")
# The judge's, with their shares; the reward knows the first two of DIFFERENT. Not stated; chosen
# because few shuffled replies teach fluency, and fit takes many: with a third of each the judge
# preferred the human reply to one near in words in 64 of 100 pairs only.
JUDGED = {"same dialogue": 0.45, "similar words": 0.45, "shuffled words": 0.1}
SAME_DIALOGUE = 0.25  # of the rejected replies; not stated; chosen because they share the topic

_SENTENCE = re.compile(r"[.!?][\"')]*$")
_PLACED_APART = re.compile(r"\s+(?=[,.;:!?)]|n't\b|'(?:s|re|ve|ll|d|m)\b)|(?<=\()\s+")


@dataclass(frozen=True)
class Judged:
    """A prompt, its completion, whether it is a good one, and how the pair was made."""

    prompt: str
    completion: str
    good: bool
    origin: str
    group: str  # what pairs are independent by: the review or the dialogue


@dataclass(frozen=True)
class Comparison:
    """A prompt with a better and a worse completion, and how the worse one was made."""

    prompt: str
    chosen: str
    rejected: str
    origin: str
    group: str


def reviews(rows: Sequence[Mapping], source: str, rng: random.Random) -> list[Judged]:
    """One extract of each review of a source ("imdb" or "rotten_tomatoes"): is it positive?

    It starts at a sentence drawn at random and is as long as a prompt with its completion. A label
    is the whole review's, so some extracts say nothing of it or the contrary.
    """
    made = []
    for row in rows:
        if row["source"] == source:
            words = extract(tidied(row["text"]), rng)
            cut = min(PROMPT_WORDS, len(words) // 2)
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


def halves(rows: Sequence[Mapping]) -> tuple[list[Mapping], list[Mapping]]:
    """Dialogue turns in two parts that share no dialogue; those of smaller digest come first."""
    names = sorted({row["dialogue"] for row in rows}, key=digest)
    first = set(names[: len(names) // 2])
    return [r for r in rows if r["dialogue"] in first], [
        r for r in rows if r["dialogue"] not in first
    ]


def dialogue(turns: Sequence[str]) -> str:
    """The last turns, a line each, that have DIALOGUE_WORDS words at most; always the last one.

    The chat task's prompts (`chat.last_turns`) are cut a little otherwise: the user speaks first,
    and a last turn that is too long makes no prompt. The rule here stays because the shipped
    scorers were trained by it, and another would make other adapters of the same settings.
    """
    kept, words = [], 0
    for turn in reversed(turns):
        words += len(turn.split())
        if kept and words > DIALOGUE_WORDS:
            break
        kept.append(" ".join(turn.split()))
    return "\n".join(reversed(kept))


def comparisons(rows: Sequence[Mapping], rng: random.Random) -> list[Comparison]:
    """Human reply against a random reply, a quarter of them from the same dialogue."""
    made, worse = [], _Worse(rows, rng)
    for row in worse.rows:
        origin = "same dialogue" if rng.random() < SAME_DIALOGUE else "other dialogue"
        rejected = worse.of(row, origin)
        if rejected:
            prompt = dialogue(row["context"])
            made.append(Comparison(prompt, row["reply"], rejected, origin, row["dialogue"]))
    return made


def replies(rows: Sequence[Mapping], rng: random.Random) -> list[Judged]:
    """Each human reply, and one that does not fit: of its dialogue, near in words, or shuffled.

    In shares of JUDGED.
    """
    made, worse = [], _Worse(rows, rng)
    for row in worse.rows:
        (origin,) = rng.choices(list(JUDGED), list(JUDGED.values()))
        rejected = worse.of(row, origin)
        if rejected:
            prompt, group = dialogue(row["context"]), row["dialogue"]
            made.append(Judged(prompt, row["reply"], True, "human", group))
            made.append(Judged(prompt, rejected, False, origin, group))
    return made


def every_reply(rows: Sequence[Mapping], count: int, rng: random.Random) -> list[Judged]:
    """`count` human replies, each with one of every kind that does not fit."""
    made, worse = [], _Worse(rows, rng)
    for row in rng.sample(worse.rows, min(count, len(worse.rows))):
        prompt, group = dialogue(row["context"]), row["dialogue"]
        made.append(Judged(prompt, row["reply"], True, "human", group))
        others = ((origin, worse.of(row, origin)) for origin in DIFFERENT)
        made += [Judged(prompt, text, False, origin, group) for origin, text in others if text]
    return made


def shuffled(text: str, rng: random.Random) -> str:
    """The words of a text in random order."""
    words = text.split()
    return " ".join(rng.sample(words, len(words)))


class _Worse:
    """Replies that do not belong to a turn."""

    def __init__(self, rows: Sequence[Mapping], rng: random.Random) -> None:
        self.rows, self.rng = [row for row in rows if has_word(row["reply"])], rng
        self.own: dict[str, list[str]] = defaultdict(list)
        for row in self.rows:
            self.own[row["dialogue"]].append(row["reply"])
        self.makers: dict[str, Callable[[Mapping], str | None]] = {
            "same dialogue": self._same,
            "other dialogue": lambda row: self._foreign(row, 1)[0],
            "similar words": self._similar,
            "shuffled words": lambda row: shuffled(row["reply"], self.rng),
        }

    def of(self, row: Mapping, origin: str) -> str | None:
        """Such a reply; None if there is none but the turn's own."""
        found = self.makers[origin](row)
        return None if found == row["reply"] else found

    def _same(self, row: Mapping) -> str | None:
        others = [text for text in self.own[row["dialogue"]] if text != row["reply"]]
        return self.rng.choice(others) if others else None

    def _foreign(self, row: Mapping, count: int) -> list[str]:
        found: list[str] = []
        while len(found) < count:
            other = self.rng.choice(self.rows)
            if other["dialogue"] != row["dialogue"]:
                found.append(other["reply"])
        return found

    def _similar(self, row: Mapping) -> str:
        known = _content(dialogue(row["context"]))
        return max(self._foreign(row, CANDIDATES), key=lambda text: len(known & _content(text)))


def _content(text: str) -> set[str]:
    """Words of more than three letters, in lower case: most others belong to no topic."""
    return {word for word in re.findall(r"[a-z]+", text.lower()) if len(word) > 3}
