"""Forty instructions whose following a rule can check: length, keywords, format, numbers.

Written for this study, in the manner of verifiable-instruction benchmarks; no reward here is
trained on such checks. A check reads the words alone, not their sense, so it says whether the
constraint was met and nothing about how good the answer is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from bondlab.study.summaries import words

Check = Callable[[str], bool]

_SENTENCE_END = re.compile(r"(?<!\bDr)(?<!\bMr)(?<!\bSt)(?<!\bMrs)[.!?]+[\"”')]*(?=\s|$)")
_NUMBER = re.compile(r"^\s*(\d+)[.)]\s*(?=\S)", re.MULTILINE)  # of an item in a list


@dataclass(frozen=True)
class Instruction:
    """What is asked: its kind, its text as the model reads it, and the rule that checks it."""

    kind: str
    text: str
    check: Check

    def followed(self, answer: str) -> bool:
        """Whether the answer meets the constraint; an answer without a word meets none.

        Silence would otherwise satisfy every "at most" and every "without".
        """
        return bool(words(answer)) and self.check(answer)


def length(least: int, most: float = inf) -> Check:
    """From `least` to `most` words."""
    return lambda answer: least <= len(words(answer)) <= most


def found(pattern: str, least: int = 1, most: float = inf) -> Check:
    """Where the regular expression matches from `least` to `most` times, in either case."""
    compiled = re.compile(pattern, re.IGNORECASE)
    return lambda answer: least <= len(compiled.findall(answer)) <= most


def lacks(pattern: str) -> Check:
    """Where the regular expression matches nowhere, in either case."""
    return found(pattern, 0, 0)


def opens_with(*first: str) -> Check:
    """The answer's first words are these."""
    return lambda answer: words(answer)[: len(first)] == list(first)


def numbered(count: int) -> Check:
    """A list whose lines open with the numbers 1 to `count`, in order."""
    numbers = [str(number) for number in range(1, count + 1)]
    return lambda answer: _NUMBER.findall(answer) == numbers


def sentences(count: int) -> Check:
    """Exactly `count` sentences, the last one ended; numbers of a list are no ends."""

    def check(answer: str) -> bool:
        text = _NUMBER.sub("", answer).strip()
        ends = [found.end() for found in _SENTENCE_END.finditer(text)]
        return len(ends) == count and ends[-1] == len(text)

    return check


KINDS = {
    "length": (
        ("Name a fruit. Answer with one word.", length(1, 1)),
        ("What is snow? Use at most ten words.", length(1, 10)),
        ("Describe a cat in at most five words.", length(1, 5)),
        ("Say why people sleep, in at most fifteen words.", length(1, 15)),
        ("What is a library? Answer in exactly one sentence.", sentences(1)),
        ("Describe the sea in exactly two sentences.", sentences(2)),
        ("Tell me about trains in exactly three sentences.", sentences(3)),
        ("Give me a name for a dog. Answer with one or two words.", length(1, 2)),
        ("Write a headline about rain with three to eight words.", length(3, 8)),
        ("Describe your favourite season with twenty words or more.", length(20)),
    ),
    "keyword": (
        ('Describe a farm. Use the word "horse".', found(r"\bhorse\b")),
        ('Write a sentence with the words "river" and "bridge".',
         found(r"(?s)^(?=.*\briver\b).*\bbridge\b")),
        ('Say something about music. Use the word "quiet".', found(r"\bquiet\b")),
        ("Describe a kitchen. Mention a spoon.", found(r"\bspoons?\b")),
        ('What do you do when it rains? Use the word "umbrella" at least twice.',
         found(r"\bumbrella\b", 2)),
        ('Tell me about the moon without using the word "moon".', lacks(r"\bmoons?\b")),
        ('Describe winter without the words "cold" and "snow".', lacks(r"\b(cold|snow)\b")),
        ('Describe a garden without using the word "and".', lacks(r"\band\b")),
        ('Give some advice about money. Begin with the word "Never".', opens_with("never")),
        ('Tell a very short story. Begin with "Once upon a time".',
         opens_with("once", "upon", "a", "time")),
    ),
    "format": (
        ("Write a list of three animals, one per line, each after a dash.",
         found(r"(?m)^\s*[-–—]\s*\w", 3, 3)),
        ("Give four reasons to walk, as a list numbered 1 to 4.", numbered(4)),
        ("List two drinks as bullet points.", found(r"(?m)^\s*[-–*•]\s*\w", 2, 2)),
        ("Describe the sky. Use lower case letters only.", lacks("(?-i:[A-Z])")),
        ("Say hello. Use capital letters only.", lacks("(?-i:[a-z])")),
        ("Ask me about my day. End with a question mark.", found(r"\?\s*$")),
        ("Wish me luck. End with an exclamation mark.", found(r"!\s*$")),
        ("Name three cities, separated by commas, on one line.",
         found(r"^\s*[^,\n]+(?:,[^,\n]+){2}\s*$")),
        ("Describe a house without using any commas.", lacks(",")),
        ("Say what friendship is. Put the whole answer in double quotation marks.",
         found(r"(?s)^\s*[\"“].+[\"”]\s*$")),
    ),
    "number": (
        ("How many days has a week? Answer with a digit.", found(r"\b\d\b")),
        ("How old can a dog become? Give a number in digits.", found(r"\d")),
        ("Write the year 2010 in a sentence about a holiday.", found(r"\b2010\b")),
        ("Give a made-up telephone number of digits and dashes.", found(r"\d+-\d+")),
        ("Say what time lunch is. Write the time like 12:30.",
         found(r"\b(?:[01]?\d|2[0-3]):[0-5]\d(?!\d)")),
        ("How long is a football match? Do not use any digits.", lacks(r"\d")),
        ("Write a price in dollars with the $ sign.", found(r"\$\s?\d")),
        ("State any percentage with the % sign.", found(r"\d\s?%")),
        ("Count from one to five in digits, with nothing else.",
         found(r"^\s*1\D{1,3}2\D{1,3}3\D{1,3}4\D{1,3}5\D{0,2}$")),
        ("How many legs have two horses? Answer with the number in digits alone.",
         found(r"^\s*\d+\s*\.?\s*$")),
    ),
}  # fmt: skip
INSTRUCTIONS = tuple(Instruction(kind, *row) for kind, rows in KINDS.items() for row in rows)
