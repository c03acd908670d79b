"""Claims, extracts and comparisons: what does not belong is wrong as it says."""

from __future__ import annotations

import math
import random
import re

import pytest

from bondlab.making import preferences
from bondlab.making.preferences import CANDIDATES, DIFFERENT, REVIEW_WORDS

TEXT = " ".join(f"Word{i}a b{i} c{i} d{i}." for i in range(30))  # 30 sentences of four words


def review(i: int, source: str = "imdb") -> dict:
    return {"text": f"Film{i}. {TEXT}", "label": i % 2, "source": source}


def turns(dialogues: int, length: int = 6) -> list[dict]:
    """Dialogues whose every reply has the dialogue's own word and a word of its own."""
    return [
        {
            "dialogue": f"d{d}",
            "context": [f"what about topic{chr(97 + d)} number {t}"],
            "reply": f"my topic{chr(97 + d)} answer is unique{d}x{t} today",
        }
        for d in range(dialogues)
        for t in range(length)
    ]


# -- claims ---------------------------------------------------------------------------------------


def facts(count: int) -> list[dict]:
    """Evidence and claim share a name and a number that no other row has; every third claim is
    supported, every third refuted, every third not decided."""
    towns = ["Paris", "Oslo", "Lima", "Rome", "Cairo", "Quito", "Dakar", "Delhi"]
    labels = ["SUPPORTS", "REFUTES", "NOT ENOUGH INFO"]
    return [
        {
            "evidence": f"In row {i}, {towns[i % 8]} beat {towns[(i + 3) % 8]} by {i + 40} points.",
            "claim": f"The side from {towns[i % 8]} won by {i + 40} points.",
            "label": labels[i % 3],
            "page": f"page {i // 2}",
        }
        for i in range(count)
    ]


def test_false_copies_are_as_many_and_as_false_as_stated():
    """Rows stay in order, only SUPPORTS is entailed. Of 400 true claims a half get a wrong number,
    a half a wrong name, a tenth are garbled and a tenth get foreign evidence (each within 5
    binomial deviations), all labelled false: another number in the same words, other words of the
    row, or other evidence."""
    given = facts(1200)
    made = preferences.claims(given, random.Random(0))
    assert [c.completion for c in made[:1200]] == [row["claim"] for row in given]
    assert [c.good for c in made[:1200]] == [True, False, False] * 400
    true = {row["claim"]: row["evidence"] for row in given[::3]}
    copies = made[1200:]
    assert not any(claim.good for claim in copies)
    for name, share in {"number": 0.5, "name": 0.5, "garbled": 0.1, "foreign": 0.1}.items():
        count = sum(claim.origin == name for claim in copies)
        assert abs(count - 400 * share) < 5 * math.sqrt(400 * share * (1 - share)), name
    patterns = {re.sub(r"\d+", "#", text) for text in true}
    for copy in copies:
        assert true.get(copy.completion, "absent") not in copy.prompt
        assert (copy.origin == "foreign") == (copy.completion in true)
        if copy.origin == "number":
            assert re.sub(r"\d+", "#", copy.completion) in patterns


def test_foreign_evidence_is_never_the_claims_own():
    """With two rows every second choice of "foreign" evidence would be the claim's own, and a true
    claim would be labelled false."""
    given = [row for row in facts(6) if row["label"] == "SUPPORTS"]
    own = {row["claim"]: row["evidence"] for row in given}
    found = [
        claim
        for seed in range(300)
        for claim in preferences.claims(given, random.Random(seed))
        if claim.origin == "foreign" and claim.prompt in own.values()
    ]
    assert len(found) > 5
    assert all(claim.prompt != own[claim.completion] for claim in found)


def test_some_evidence_is_hidden_among_others():
    """A fifth of the pairs (5 deviations) have longer evidence that still contains their own."""
    given = facts(600)
    made = preferences.claims(given, random.Random(1))[:600]
    longer = [(c, r) for c, r in zip(made, given, strict=True) if c.prompt != r["evidence"]]
    assert abs(len(longer) - 120) < 5 * math.sqrt(600 * 0.2 * 0.8)
    assert all(r["evidence"] in c.prompt and c.completion == r["claim"] for c, r in longer)
    assert {c.prompt.count("points.") for c, _ in longer} == {2, 3, 4}


# -- reviews --------------------------------------------------------------------------------------


def test_extracts_start_at_sentences_and_keep_the_length():
    """Of 400 draws all begin with a capital, lie in the text as they are, have 12 to 40 words, and
    both ends of the range and many starts occur."""
    rng, lengths, starts = random.Random(0), set(), set()
    for _ in range(400):
        words = preferences.extract(TEXT, rng)
        assert words[0].startswith("Word") and " ".join(words) in TEXT
        lengths.add(len(words))
        starts.add(words[0])
    assert (min(lengths), max(lengths)) == REVIEW_WORDS
    assert len(starts) > 20
    assert preferences.extract("Good.", rng) == ["Good."]


def test_reviews_are_of_one_source_with_their_label():
    """Half a prompt's words at most of a short text, eight of a long one; the pair together is the
    extract; texts without a second word are left out; each has its own group."""
    rows = [review(i) for i in range(6)] + [review(9, "rotten_tomatoes")]
    rows += [{"text": "bad film", "label": 0, "source": "imdb"}]
    rows += [{"text": "Good", "label": 1, "source": "imdb"}]
    made = preferences.reviews(rows, "imdb", random.Random(0))
    assert [x.good for x in made] == [False, True] * 3 + [False]
    assert all(len(x.prompt.split()) in (6, 7, 8) for x in made[:6])
    assert (made[-1].prompt, made[-1].completion) == ("Bad", "film")
    assert len({x.group for x in made}) == 7 and {x.origin for x in made} == {"imdb"}
    assert f"{made[0].prompt} {made[0].completion}" in rows[0]["text"]


def test_tidied_text_reads_as_written():
    """Spaces before marks and after an opening bracket go, the first letter is a capital."""
    given = "it isn't ( very ) good , and it 's long . do n't !"
    assert preferences.tidied(given) == "It isn't (very) good, and it's long. don't!"
    assert preferences.tidied("It's fine, really.") == "It's fine, really."


# -- dialogues ------------------------------------------------------------------------------------


def test_halves_share_no_dialogue():
    """Seven dialogues: three and four, every turn in one of them, whatever the order of rows."""
    rows = turns(7)
    first, second = preferences.halves(rows)
    names = [{row["dialogue"] for row in part} for part in (first, second)]
    assert [len(part) for part in names] == [3, 4] and not names[0] & names[1]
    assert len(first) + len(second) == len(rows)
    assert {row["dialogue"] for row in preferences.halves(rows[::-1])[0]} == names[0]


def test_a_dialogue_keeps_its_last_turns():
    """Turns of 20 words: two fit into 50, one of 60 stays alone; line breaks within are spaces."""
    twenty = " ".join(["word"] * 20)
    assert preferences.dialogue([twenty] * 5) == f"{twenty}\n{twenty}"
    assert preferences.dialogue(["a b", " ".join(["x"] * 60)]) == " ".join(["x"] * 60)
    assert preferences.dialogue(["hello\n you", "yes"]) == "hello you\nyes"
    assert preferences.dialogue(["yes", " "]) == ""


def test_comparisons_reject_another_reply():
    """All 600 turns get one; a quarter (5 deviations) of the turn's own dialogue, the others of
    another; never the chosen reply."""
    rows = turns(20, 30)
    made = preferences.comparisons(rows, random.Random(0))
    assert [human.completion for human, _ in made] == [row["reply"] for row in rows]
    same = [other for _, other in made if other.origin == "same dialogue"]
    assert abs(len(same) - 150) < 5 * math.sqrt(600 * 0.25 * 0.75)
    for human, other in made:
        own = human.completion.split()[1] in other.completion.split()
        assert own == (other.origin == "same dialogue") and other.completion != human.completion


def test_judged_replies_are_even_and_wrong_in_three_ways():
    """Each turn gives its human reply and a false one; each kind in its share (5 deviations).

    With this seed no shuffle puts the six words where they were, which would leave its turn out.
    """
    made = preferences.replies(turns(20, 15), random.Random(1))
    assert [x.good for x in made] == [True, False] * 300
    assert {x.origin for x in made if x.good} == {"human"}
    shares = {"same dialogue": 0.45, "similar words": 0.45, "shuffled words": 0.1}
    for kind, share in shares.items():
        count = sum(x.origin == kind for x in made)
        assert abs(count - 300 * share) < 5 * math.sqrt(300 * share * (1 - share))
    for true, false in zip(made[::2], made[1::2], strict=True):
        assert (true.prompt, true.group) == (false.prompt, false.group)


def test_every_kind_of_wrong_reply_is_made_of_a_turn():
    """For 30 turns a human reply and four false ones each, by kind: of its own dialogue, of
    another, its own words in another order."""
    made = preferences.every_reply(turns(5, 20), 30, random.Random(0))
    assert [x.origin for x in made] == ["human", *DIFFERENT] * 30
    for start in range(0, len(made), 5):
        human, other, same, similar, shuffled = made[start : start + 5]
        topic = human.completion.split()[1]
        assert topic in same.completion and topic not in other.completion + similar.completion
        assert sorted(shuffled.completion.split()) == sorted(human.completion.split())


def test_the_nearest_foreign_reply_shares_words():
    """One foreign reply in twenty names the prompt's topic; among CANDIDATES drawn at random it is
    there with probability 1 - 0.95^20 = 0.64, and then it is taken. 200 draws, 5 deviations."""
    foreign = [*(f"nothing at all {i}" for i in range(19)), "topica is fine"]
    rows = turns(1, 1) + [{"dialogue": "x", "context": ["hi"], "reply": text} for text in foreign]
    rng = random.Random(0)
    made = [preferences.comparisons(rows, rng, {"similar words": 1})[0] for _ in range(200)]
    found = sum(other.completion == "topica is fine" for _, other in made)
    chance = 1 - 0.95**CANDIDATES
    assert found == pytest.approx(200 * chance, abs=5 * math.sqrt(200 * chance * (1 - chance)))


@pytest.mark.parametrize("origin", ["same dialogue", "shuffled words"])
def test_no_reply_is_its_own_alternative(origin):
    """A lone turn of a dialogue has no other of its dialogue, a one-word reply no other order, and
    wordless replies are left out."""
    rows = [
        {"dialogue": name, "context": ["hi"], "reply": reply}
        for name, reply in (("a", "yes"), ("b", "..."))
    ]
    assert preferences.comparisons(rows, random.Random(0), {origin: 1}) == []
