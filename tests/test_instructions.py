"""The rules that check instructions: each says yes and no where its words do."""

from __future__ import annotations

from collections import Counter

import pytest

from bondlab.study import instructions as rules
from bondlab.study.instructions import INSTRUCTIONS, followed


@pytest.mark.parametrize("instruction", INSTRUCTIONS, ids=lambda i: i.text[:30])
def test_its_own_example_follows_an_instruction(instruction):
    """The example is written to meet the words of the instruction."""
    assert followed(instruction, instruction.example)


def test_silence_follows_nothing():
    """Without a word "at most ten words" and "without commas" would hold, and mean nothing."""
    assert not any(followed(i, text) for i in INSTRUCTIONS for text in ("", " \n", "...", "?"))


def test_there_are_ten_of_each_kind_and_no_two_alike():
    assert Counter(i.kind for i in INSTRUCTIONS) == dict.fromkeys(
        ("length", "keyword", "format", "number"), 10
    )
    assert len({i.text for i in INSTRUCTIONS}) == 40


def test_a_rambling_answer_follows_few_instructions():
    """It has 24 words, one comma, no digit, two sentences and no end; so by hand it meets:
    twenty words or more; no digits; no word "moon"; not "cold" or "snow". The list is otherwise
    out of its reach, or the checks let everything pass."""
    text = (
        "Well, that is a very good thing to ask me and I will do my best. "
        "It is often said that some people like"
    )
    met = {i.text for i in INSTRUCTIONS if followed(i, text)}
    assert met == {
        "Describe your favourite season with twenty words or more.",
        "How long is a football match? Do not use any digits.",
        'Tell me about the moon without using the word "moon".',
        'Describe winter without the words "cold" and "snow".',
    }


CASES = [
    (rules.between(2, 3), ["two words", "now it's three"], ["one", "here are four words"]),
    (rules.sentences(2), ["One. Two!", " It is 3.5 km. So? "], ["One.", "A. B. and", "A. B. C."]),
    (rules.sentences(2), ['1. One.\n2. "Two."', "Dr. Who came. He left."], ["1. One.", "Mr. X."]),
    (rules.contains("a", "river"), ["A wide River.", "a river's bed"], ["rivers", "a riverbed"]),
    (rules.avoids("snow"), ["snowman"], ["Snow!", "no snow, no", "snow's deep", "cold.Snow"]),
    (rules.contains("tea", times=2), ["Tea or tea?"], ["tea", "teatea tea"]),
    (rules.opens_with("once", "upon"), ['"Once upon it'], ["At once upon", "Once"]),
    (
        rules.items(2, rules.DASHES),
        ["- a\n- b", "Two:\n–a\n – b\nend"],
        ["- a", "* a\n* b", "a - b"],
    ),
    (rules.items(2, rules.BULLETS), ["* a\n- b", "•a\n• b"], ["* a\n* b\n* c", "1. a\n2. b"]),
    (
        rules.numbered(2),
        ["1. a\n2. b", "So:\n 1) a\n2) b\n"],
        ["1. a\n3. b", "- a\n- b", "2. a\n1. b"],
    ),
    (rules.without("[A-Z]"), ["low 1"], ["Low"]),
    (rules.matches(r"\d"), ["a 1"], ["one"]),
]


@pytest.mark.parametrize(("check", "met", "failed"), CASES)
def test_a_check_tells_texts_apart(check, met, failed):
    """By the docstring of each check."""
    assert [check(text) for text in met] == [True] * len(met)
    assert [check(text) for text in failed] == [False] * len(failed)


@pytest.mark.parametrize(
    ("start", "met", "failed"),
    [
        ("Ask me about my day", ["Really? "], ["Really?!", "? no"]),
        ("Describe a house", ["A red door."], ["a, b", "a, b, c"]),
        ("Name three cities", ["Rome, Paris, Oslo\n"], ["Rome,\nParis,\nOslo", "a, b, c, d"]),
        ("Say what time", ["At 12:30pm.", "9:05"], ["99:99", "12:345", "noon"]),
        ("Describe a kitchen", ["Two spoons."], ["A teaspoon."]),
        ("How many days", ["It has 7.", "9"], ["seven", "77"]),
    ],
)
def test_a_pattern_tells_answers_apart(start, met, failed):
    """By the words of the instruction, not by their truth: one line, a time of day, one digit."""
    (chosen,) = (i for i in INSTRUCTIONS if i.text.startswith(start))
    assert all(followed(chosen, text) for text in met)
    assert not any(followed(chosen, text) for text in failed)
