"""Altered claims are false in a known way, never the claim itself, and reproducible."""

from __future__ import annotations

import random
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bondlab.making.alterations import garble, names_of, numbers_of, swap_entities, swap_numbers

EVIDENCE = (
    "Police said 1,250 people met Angela Merkel in Berlin on Monday 12 March 2014. "
    "Mr Cameron will fly to Paris on Thursday, his 3rd visit since 2012. "
    "Three of the seven plans failed, the Bank of England said."
)
WORDS = ["Angela", "Merkel", "Berlin", "Monday", "March", "2014", "12", "1,250", "3rd", "seven"]
WORDS += ["Three", "the", "The", "police", "Police", "of", "3.5", "0", "Paris", "Cameron", "and"]


def draws(swap, claim: str, evidence: str = EVIDENCE, count: int = 40) -> set[str | None]:
    return {swap(claim, evidence, random.Random(seed)) for seed in range(count)}


@pytest.mark.parametrize(
    ("find", "text", "found"),
    [
        (numbers_of, "On 12 May 2014 two of 3.5m won a 1st.", ["12", "2014", "two", "3.5", "1st"]),
        (numbers_of, "COVID-19 and the G20 met U2.", []),  # inside names
        # Doctors also occurs in lower case, so it is no name; "Mr" and "The" never are.
        (
            names_of,
            "Doctors met Mr Cameron. The Bank of England told doctors so.",
            ["Cameron", "Bank of England"],
        ),
    ],
)
def test_numbers_and_names_are_found(find, text, found):
    assert find(text) == found


@pytest.mark.parametrize(
    ("swap", "claim", "evidence", "expected"),
    [
        # Of its kind: numerals are 1,250 and 12, years 2014 and 2012, words three and seven.
        (swap_numbers, "It took 12 days.", EVIDENCE, {"It took 1,250 days."}),
        (swap_numbers, "It was in 2014.", EVIDENCE, {"It was in 2012."}),
        (swap_numbers, "Two fell.", EVIDENCE, {"Three fell.", "Seven fell."}),
        # Made up, one to three units away; above zero.
        (swap_numbers, "a 2nd", "none", {"a 1st", "a 3rd", "a 4th", "a 5th"}),
        (swap_numbers, "at 0.2%", "none", {"at 0.1%", "at 0.3%", "at 0.4%", "at 0.5%"}),
        (swap_numbers, "only two", "none", {"only three", "only four", "only five"}),
        # Names of as many words that the claim has not; days for days.
        (swap_entities, "He was in Berlin.", EVIDENCE, {"He was in Cameron.", "He was in Paris."}),
        (swap_entities, "It rained on Monday.", EVIDENCE, {"It rained on Thursday."}),
        (swap_entities, "It rained in March.", EVIDENCE, {None}),
        # David Cameron is Cameron: swapping the two would leave the claim true.
        (swap_entities, "I met Cameron.", "David Cameron won.", {None}),
        # Only the part that the evidence knows changes, and everywhere.
        (
            swap_entities,
            "Chancellor Angela Merkel spoke.",
            "Angela Merkel met Theresa May.",
            {"Chancellor Theresa May spoke."},
        ),
        (swap_entities, "Berlin is Berlin.", "In Berlin and in Paris.", {"Paris is Paris."}),
        (swap_numbers, "nothing of that kind here", EVIDENCE, {None}),
        (swap_entities, "nothing of that kind here", EVIDENCE, {None}),
    ],
)
def test_what_a_swap_may_give(swap, claim, evidence, expected):
    assert draws(swap, claim, evidence, count=200) == expected


def test_equal_values_in_another_spelling_are_no_alteration():
    """1,250 equals 1250, so only a made-up number within a fifth (1000 to 1500) is left."""
    for altered in draws(swap_numbers, "We saw 1250 birds.", "They saw 1,250 birds."):
        value = int(altered.split()[2])
        assert value != 1250 and 1000 <= value <= 1500


def test_a_garbled_claim_is_a_word_a_shuffle_or_a_phrase_with_equal_chance():
    """Claim of six words that occur once each, evidence of two others. A word is repeated 2 to 12
    times, and all eight words get their turn; a shuffle has the claim's words in another order; a
    phrase of 2 (of 3) neighbours comes 6 / 2 = 3 times (3 times at least). A third each: of 900
    within 5 binomial deviations, 5 sqrt(900 / 3 * 2 / 3) = 71."""
    claim, evidence = "one two three four five six", "seven eight"
    words = claim.split()
    made = [garble(claim, evidence, random.Random(seed)).split() for seed in range(900)]
    repeated = [text for text in made if len(set(text)) == 1]
    shuffled = [text for text in made if len(text) == 6 and sorted(text) == sorted(words)]
    phrases = [text for text in made if len(set(text)) in (2, 3)]
    assert {len(text) for text in repeated} == set(range(2, 13))
    assert {text[0] for text in repeated} == {*words, *evidence.split()}
    assert words not in shuffled and len({tuple(text) for text in shuffled}) > 100
    neighbours = [words[i : i + size] * 3 for size in (2, 3) for i in range(7 - size)]
    assert {tuple(text) for text in phrases} == {tuple(text) for text in neighbours}
    for kind in (repeated, shuffled, phrases):
        assert abs(len(kind) - 300) < 71
    assert len(repeated) + len(shuffled) + len(phrases) == 900


def test_a_garbled_phrase_is_about_as_long_as_the_claim():
    """Ten words: a phrase of 2 comes 5 times, one of 3 comes round(10 / 3) = 3 times."""
    made = [text.split() for text in draws(garble, "a b c d e f g h i j", "", count=200)]
    assert {(len(set(text)), len(text)) for text in made if len(set(text)) in (2, 3)} == {
        (2, 10),
        (3, 9),
    }


def test_short_claims_and_claims_that_say_nothing_already_stay_out():
    """Three words are not garbled. "go go go go" in another order is itself, and "go" may be
    repeated four times: no false copy then, ever, since it would carry the true claim's words."""
    assert draws(garble, "it rained hard") == draws(garble, "") == {None}
    made = draws(garble, "go go go go", "go", count=200)
    assert "go go go go" not in made and None in made and "go go" in made


@pytest.mark.parametrize("swap", [swap_numbers, swap_entities, garble])
@settings(max_examples=150, deadline=None)
@given(
    claim=st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join),
    evidence=st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join),
    seed=st.integers(0, 2**32),
)
def test_never_the_claim_itself_and_reproducible(swap, claim, evidence, seed):
    altered = swap(claim, evidence, random.Random(seed))
    same = str.casefold if swap is not garble else str  # another order may differ in case alone
    assert altered is None or same(altered) != same(claim)
    assert altered == swap(claim, evidence, random.Random(seed))


@given(value=st.decimals(0, 5000, places=1), seed=st.integers(0, 2**32))
def test_a_made_up_number_stays_positive_and_differs(value, seed):
    altered = swap_numbers(f"{value}", "none", random.Random(seed))
    assert Decimal(altered) != value and Decimal(altered) > 0
