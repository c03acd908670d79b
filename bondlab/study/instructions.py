"""Forty instructions whose following a rule can check: length, keywords, format, numbers.

Written for this study, in the manner of verifiable-instruction benchmarks; no reward here is
trained on such checks. A check reads the words alone, not their sense, so it says whether the
constraint was met and nothing about how good the answer is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from bondlab.study.summaries import words

Check = Callable[[str], bool]

_SENTENCE_END = re.compile(r"(?<!\bDr)(?<!\bMr)(?<!\bSt)(?<!\bMrs)[.!?]+[\"”')]*(?=\s|$)")
_NUMBER = re.compile(r"^\s*(\d+)[.)]\s*(?=\S)", re.MULTILINE)  # of an item in a list
DASHES, BULLETS = "-–—", "-–*•"


@dataclass(frozen=True)
class Instruction:
    """What is asked, and the rule that checks it.

    Args:
        kind: "length", "keyword", "format" or "number".
        text: the instruction as the model reads it.
        check: from the answer to whether its constraint is met.
        example: an answer that meets it.
    """

    kind: str
    text: str
    check: Check
    example: str


def followed(instruction: Instruction, answer: str) -> bool:
    """Whether the answer meets the constraint; an answer without a word meets none.

    Silence would otherwise satisfy every "at most" and every "without".
    """
    return bool(words(answer)) and instruction.check(answer)


# -- checks ----------------------------------------------------------------------------------------


def between(least: int, most: int) -> Check:
    """From `least` to `most` words."""
    return lambda answer: least <= len(words(answer)) <= most


def sentences(count: int) -> Check:
    """Exactly `count` sentences, the last one ended; numbers of a list are no ends."""

    def check(answer: str) -> bool:
        text = _NUMBER.sub("", answer).strip()
        ends = [found.end() for found in _SENTENCE_END.finditer(text)]
        return len(ends) == count and ends[-1] == len(text)

    return check


def contains(*wanted: str, times: int = 1) -> Check:
    """Each word occurs so often, as a word of its own, in either case ("moon's" has "moon")."""
    return lambda answer: all(_count(word, answer) >= times for word in wanted)


def avoids(*unwanted: str) -> Check:
    """None of the words occurs."""
    return lambda answer: not any(_count(word, answer) for word in unwanted)


def _count(word: str, answer: str) -> int:
    return len(re.findall(rf"\b{word}\b", answer.lower()))


def opens_with(*first: str) -> Check:
    """The answer's first words are these."""
    return lambda answer: words(answer)[: len(first)] == list(first)


def items(count: int, marks: str) -> Check:
    """A list of exactly `count` lines that open with one of the marks."""
    item = re.compile(rf"^\s*[{re.escape(marks)}]\s*\w", re.MULTILINE)
    return lambda answer: len(item.findall(answer)) == count


def numbered(count: int) -> Check:
    """A list whose lines open with the numbers 1 to `count`, in order."""
    numbers = [str(number) for number in range(1, count + 1)]
    return lambda answer: _NUMBER.findall(answer) == numbers


def without(pattern: str) -> Check:
    """Nothing in the answer matches the regular expression."""
    return lambda answer: re.search(pattern, answer) is None


def matches(pattern: str) -> Check:
    """Something in the answer matches the regular expression."""
    return lambda answer: re.search(pattern, answer) is not None


# -- the list --------------------------------------------------------------------------------------


def _of(kind: str, *rows: tuple[str, Check, str]) -> list[Instruction]:
    return [Instruction(kind, *row) for row in rows]


INSTRUCTIONS = (
    *_of(
        "length",
        ("Name a fruit. Answer with one word.", between(1, 1), "Apple."),
        ("What is snow? Use at most ten words.", between(1, 10), "Snow is frozen water."),
        ("Describe a cat in at most five words.", between(1, 5), "A small furry hunter."),
        ("Say why people sleep, in at most fifteen words.", between(1, 15), "To rest and recover."),
        ("What is a library? Answer in exactly one sentence.", sentences(1), "It lends books."),
        ("Describe the sea in exactly two sentences.", sentences(2), "It is wide. It is blue."),
        ("Tell me about trains in exactly three sentences.", sentences(3),
         "Trains are long. They run on rails. They carry people."),
        ("Give me a name for a dog. Answer with one or two words.", between(1, 2), "Rusty."),
        ("Write a headline about rain with three to eight words.", between(3, 8),
         "Heavy rain floods the town"),
        ("Describe your favourite season with twenty words or more.", between(20, 10_000),
         "I like autumn because the air is cool, the leaves turn red and gold, and the evenings "
         "smell of smoke and apples."),
    ),
    *_of(
        "keyword",
        ("Describe a farm. Use the word \"horse\".", contains("horse"), "A horse eats hay."),
        ("Write a sentence with the words \"river\" and \"bridge\".", contains("river", "bridge"),
         "The bridge crosses the river."),
        ("Say something about music. Use the word \"quiet\".", contains("quiet"), "A quiet song."),
        ("Describe a kitchen. Mention a spoon.", matches(r"(?i)\bspoons?\b"),
         "A spoon lies on the table."),
        ("What do you do when it rains? Use the word \"umbrella\" at least twice.",
         contains("umbrella", times=2), "I take my umbrella, as an umbrella keeps me dry."),
        ("Tell me about the moon without using the word \"moon\".", avoids("moon", "moons"),
         "It circles the Earth."),
        ("Describe winter without the words \"cold\" and \"snow\".", avoids("cold", "snow"),
         "Days are short and lakes freeze."),
        ("Describe a garden without using the word \"and\".", avoids("and"), "Roses by a wall."),
        ("Give some advice about money. Begin with the word \"Never\".", opens_with("never"),
         "Never spend all that you earn."),
        ("Tell a very short story. Begin with \"Once upon a time\".",
         opens_with("once", "upon", "a", "time"), "Once upon a time a fox met a crow."),
    ),
    *_of(
        "format",
        ("Write a list of three animals, one per line, each after a dash.", items(3, DASHES),
         "- cat\n- dog\n- cow"),
        ("Give four reasons to walk, as a list numbered 1 to 4.", numbered(4),
         "1. Health\n2. Fresh air\n3. It is free\n4. Quiet"),
        ("List two drinks as bullet points.", items(2, BULLETS), "* tea\n* milk"),
        ("Describe the sky. Use lower case letters only.", without("[A-Z]"), "it is blue today."),
        ("Say hello. Use capital letters only.", without("[a-z]"), "HELLO, MY FRIEND!"),
        ("Ask me about my day. End with a question mark.", matches(r"\?\s*$"), "How was your day?"),
        ("Wish me luck. End with an exclamation mark.", matches(r"!\s*$"), "Good luck tomorrow!"),
        ("Name three cities, separated by commas, on one line.",
         matches(r"^\s*[^,\n]+(?:,[^,\n]+){2}\s*$"), "Rome, Paris, Oslo"),
        ("Describe a house without using any commas.", without(","), "It has a red door."),
        ("Say what friendship is. Put the whole answer in double quotation marks.",
         matches(r"(?s)^\s*[\"“].+[\"”]\s*$"), '"A friend stays when others leave."'),
    ),
    *_of(
        "number",
        ("How many days has a week? Answer with a digit.", matches(r"\b\d\b"), "7"),
        ("How old can a dog become? Give a number in digits.", matches(r"\d"), "About 15 years."),
        ("Write the year 2010 in a sentence about a holiday.", matches(r"\b2010\b"),
         "In 2010 we went to the coast."),
        ("Give a made-up telephone number of digits and dashes.", matches(r"\d+-\d+"), "555-0134"),
        ("Say what time lunch is. Write the time like 12:30.",
         matches(r"\b(?:[01]?\d|2[0-3]):[0-5]\d(?!\d)"),
         "Lunch is at 12:15."),
        ("How long is a football match? Do not use any digits.", without(r"\d"), "Ninety minutes."),
        ("Write a price in dollars with the $ sign.", matches(r"\$\s?\d"), "It costs $4."),
        ("State any percentage with the % sign.", matches(r"\d\s?%"), "Half of it, 50%."),
        ("Count from one to five in digits, with nothing else.",
         matches(r"^\s*1\D{1,3}2\D{1,3}3\D{1,3}4\D{1,3}5\D{0,2}$"), "1, 2, 3, 4, 5"),
        ("How many legs have two horses? Answer with the number in digits alone.",
         matches(r"^\s*\d+\s*\.?\s*$"), "8"),
    ),
)  # fmt: skip
