"""The rules that check instructions: each says yes and no where its words do."""

from __future__ import annotations

from collections import Counter

import pytest

from bondlab.study.instructions import INSTRUCTIONS

# The start of an instruction, answers that follow it, and answers that do not.
CASES = [
    ("Name a fruit", ["Apple."], ["An apple.", "2 kiwis"]),
    ("What is snow", ["Snow is frozen water."], ["a b c d e f g h i j k"]),
    ("Describe a cat", ["A small furry hunter."], ["It has four legs, doesn't it?"]),
    ("Say why people", ["To rest and recover."], [" ".join("abcdefghijklmnop")]),
    ("What is a library", ["It lends books.", "1. It lends.", "Mr. X."], ["It lends", "A. B."]),
    ("Describe the sea", ["It is wide. It is blue!", " It is 3.5 km. So? ", '1. One.\n2. "Two."',
                          "Dr. Who came. He left."], ["One.", "A. B. and", "A. B. C.", "Mr. X."]),
    ("Tell me about trains", ["Trains are long. They run on rails. They carry people."], ["A. B."]),
    ("Give me a name", ["Rusty.", "Good boy"], ["A good boy"]),
    ("Write a headline", ["now it's three", "Rain floods the town"], ["Rain now"]),
    ("Describe your favourite", ["so " * 20, "so " * 999], ["so " * 19]),
    ("Describe a farm", ["A Horse eats.", "a horse's hay"], ["horses", "seahorse"]),
    ("Write a sentence with", ["Bridge\nand river."], ["river", "a riverbed bridge"]),
    ("Say something about music", ["A quiet song."], ["quietly"]),
    ("Describe a kitchen", ["Two spoons.", "A spoon"], ["A teaspoon."]),
    ("What do you do", ["My umbrella, an Umbrella."], ["umbrella", "umbrellaumbrella umbrella"]),
    ("Tell me about the moon", ["It circles us.", "moonlight"], ["Moons", "the moon's side"]),
    ("Describe winter", ["Snowmen freeze."], ["Snow!", "it's cold", "snow's deep", "dark.Cold"]),
    ("Describe a garden", ["Roses, sand."], ["Roses And a wall."]),
    ("Give some advice", ["Never spend.", '"never"'], ["I never spend", "Nevermore"]),
    ("Tell a very short", ['"Once upon a time it'], ["At once upon a time", "Once"]),
    ("Write a list of three", ["- a\n- b\n- c", "Three:\n–a\n – b\n—c\nend"],
     ["- a\n- b", "* a\n* b\n* c", "a - b - c", "- a\n- b\n- c\n- d"]),
    ("Give four reasons", ["1. a\n2. b\n3. c\n4. d", "So:\n 1) a\n2) b\n3) c\n 4) d"],
     ["1. a\n2. b\n3. c", "2. a\n1. b\n3. c\n4. d", "- a\n- b\n- c\n- d"]),
    ("List two drinks", ["* tea\n- milk", "•a\n• b"], ["* a\n* b\n* c", "1. a\n2. b"]),
    ("Describe the sky", ["low 1"], ["Low"]),
    ("Say hello", ["HELLO 1"], ["HELLo"]),
    ("Ask me about my day", ["Really? "], ["Really?!", "? no"]),
    ("Wish me luck", ["Good luck!\n"], ["Good luck."]),
    ("Name three cities", ["Rome, Paris, Oslo\n"], ["Rome,\nParis,\nOslo", "a, b, c, d"]),
    ("Describe a house", ["A red door."], ["a, b", "a, b, c"]),
    ("Say what friendship", ['"A friend\nstays."', " “It lasts.” "], ["It lasts.", '"No" no']),
    ("How many days", ["It has 7.", "9"], ["seven", "77"]),
    ("How old can", ["About 15 years."], ["fifteen"]),
    ("Write the year", ["In 2010 we went."], ["in 20101", "in 2011"]),
    ("Give a made-up", ["555-0134"], ["5550134", "a-b"]),
    ("Say what time", ["At 12:30pm.", "9:05"], ["99:99", "12:345", "noon"]),
    ("How long is", ["Ninety minutes."], ["90 minutes"]),
    ("Write a price", ["It costs $4.", "$ 10"], ["4 dollars", "4$"]),
    ("State any", ["Half of it, 50%.", "5 %"], ["% 5"]),
    ("Count from one", ["1, 2, 3, 4, 5", "1 2 3 4 5."], ["1 2 3 4", "So: 1 2 3 4 5", "1 2 3 5 4"]),
    ("How many legs", ["8", " 8. "], ["8 legs", "eight"]),
]  # fmt: skip


@pytest.mark.parametrize(("start", "met", "failed"), CASES, ids=[start for start, *_ in CASES])
def test_a_rule_tells_answers_apart(start, met, failed):
    """By the words of the instruction, not by their truth: one line, a time of day, one digit."""
    (chosen,) = (i for i in INSTRUCTIONS if i.text.startswith(start))
    assert [chosen.followed(text) for text in met] == [True] * len(met)
    assert [chosen.followed(text) for text in failed] == [False] * len(failed)


def test_there_are_ten_of_each_kind_and_all_are_tried():
    counts = Counter(instruction.kind for instruction in INSTRUCTIONS)
    assert counts == dict.fromkeys(("length", "keyword", "format", "number"), 10)
    assert len({i.text for i in INSTRUCTIONS}) == len({start for start, *_ in CASES}) == 40


def test_silence_follows_nothing():
    """Without a word "at most ten words" and "without commas" would hold, and mean nothing."""
    assert not any(i.followed(text) for i in INSTRUCTIONS for text in ("", " \n", "...", "?"))


def test_a_rambling_answer_follows_few_instructions():
    """It has 24 words, one comma, no digit, two sentences and no end; so by hand it meets:
    twenty words or more; no digits; no word "moon"; not "cold" or "snow". The list is otherwise
    out of its reach, or the checks let everything pass."""
    text = (
        "Well, that is a very good thing to ask me and I will do my best. "
        "It is often said that some people like"
    )
    starts = ("Describe your favourite", "How long is", "Tell me about the moon", "Describe winter")
    assert all(i.followed(text) == i.text.startswith(starts) for i in INSTRUCTIONS)
