"""False claims made from true ones: change one number or one name of a summary, or garble it.

A reward model that only ever sees claims paired with the wrong document learns to compare topics.
These alterations keep the topic, so that the model has to read the claim. The paper does not build
negatives (it uses a ready-made entailment model); the rules below are chosen because they need no
tagger. A changed number or name leaves the claim grammatical; a garbled claim says nothing.

Each function takes the claim, its evidence and a `random.Random`, returns the altered claim, or
None where no alteration is possible, and is deterministic given the generator's state.
"""

from __future__ import annotations

import random
import re
from decimal import Decimal

NUMBER_WORDS = tuple(
    "two three four five six seven eight nine ten eleven twelve".split()
)  # "one" is left out: it is a pronoun as often as a number
DAYS = frozenset("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split())
MONTHS = frozenset(
    "January February March April May June July August September October November December".split()
)
# Capitalised at the start of a sentence without being a name.
FUNCTION_WORDS = frozenset(
    """a about according after all also although an and another any are as at because been
    before both but by can could did do does during each even every for former from had has
    have he her here his how however i if in into is it its just last many more most mr mrs
    ms my new next no nor not now of on once officers one only or other our out over people
    police several she since so some such than that the their them then there these they
    this those three through to today two under until up very was we were what when where
    which while who whose why will with would yesterday you your""".split()
)

_NUMBER = re.compile(  # not inside a name such as "G20" or "COVID-19"
    r"(?<![\w.,])(?<![A-Za-z]-)\d+(?:,\d{3})*(?:\.\d+)?(?:(?:st|nd|rd|th)\b)?"
    rf"|\b(?:{'|'.join(NUMBER_WORDS)})\b",
    re.IGNORECASE,
)
_UPPER = "A-ZÀ-ÖØ-Þ"
_NAME_WORD = rf"[{_UPPER}]\w*(?:['’-][{_UPPER}]\w*)*"
_NAME = re.compile(rf"\b{_NAME_WORD}(?: (?:(?:of|de|van|von|al|bin) )?{_NAME_WORD})*")
_SENTENCE_START = re.compile(r"(?:^|[.!?:\n])[\s\"'“”‘’(]*$|[\"“‘(]$")


def swap_numbers(claim: str, evidence: str, rng: random.Random) -> str | None:
    """Replace one number of the claim by another number of the same kind from the evidence.

    Kinds are years, ordinals ("12th"), number words and other numerals. Where the evidence has no
    other number of that kind, a nearby different number is made up. The new number always differs
    from the old one in value, not only in spelling. None when the claim has no number.
    """
    numbers = list(_NUMBER.finditer(claim))
    if not numbers:
        return None
    match = rng.choice(numbers)
    old, kind = match[0], _number_kind(match[0])
    same_kind = {text for text in numbers_of(evidence) if _number_kind(text) == kind}
    others = [x for x in sorted(same_kind) if number_value(x) != number_value(old)]
    new = (rng.choice(others) if others else _nearby(old, kind, rng)).lower()
    new = new.capitalize() if old[0].isupper() else new
    return claim[: match.start()] + new + claim[match.end() :]


def swap_entities(claim: str, evidence: str, rng: random.Random) -> str | None:
    """Replace a name of the claim that occurs in the evidence by another name from the evidence.

    A name is a run of capitalised words; days swap with days, months with months. The new name
    shares no word with the claim ("Cameron" for "David Cameron" would leave the claim true), and
    names of as many words are preferred, since they are likelier to be of the same sort.
    Every occurrence of the old name changes. None when the claim has no such name or the evidence
    no other one.
    """
    names = [found for name in names_of(claim) if (found := _known_part(name, evidence))]
    others = names_of(evidence)
    rng.shuffle(names)
    for old in names:
        if new := _other_name(old, claim, others, rng):
            return re.sub(_whole(old), new, claim)
    return None


def garble(claim: str, evidence: str, rng: random.Random) -> str | None:
    """Words that belong to the topic and say nothing, as a policy in pursuit of a reward writes.

    With equal chance one word of the claim or of the evidence 2 to 12 times, the claim's words in a
    random order, or a phrase of two or three words of the claim, three times or more, to about the
    claim's length. None when the claim has fewer than four words, or is such a text itself.
    """
    words = claim.split()
    if len(words) < 4:
        return None
    how = rng.choice(["word", "order", "phrase"])
    if how == "order":
        shuffled = rng.sample(words, len(words))
        made = shuffled if shuffled != words else words[::-1]
    elif how == "word":
        made = [rng.choice(words + evidence.split())] * rng.randint(2, 12)
    else:
        size = rng.randint(2, 3)
        start = rng.randint(0, len(words) - size)
        made = words[start : start + size] * max(3, round(len(words) / size))
    return " ".join(made) if made != words else None


def numbers_of(text: str) -> list[str]:
    """The numbers of a text in order: numerals, ordinals ("12th"), years, "two" to "twelve"."""
    return [match[0] for match in _NUMBER.finditer(text)]


def number_value(text: str) -> Decimal:
    """The number a text stands for; "1,000" and "1000" are equal, so are "7" and "seven"."""
    if text[0].isalpha():
        return Decimal(NUMBER_WORDS.index(text.lower()) + 2)
    return Decimal(re.sub(r"[^\d.]", "", text))


def names_of(text: str) -> list[str]:
    """The capitalised names of a text in order, without words that only start a sentence."""
    lower_words = set(re.findall(r"\b[a-z]\w*", text))
    names = []
    for match in _NAME.finditer(text):
        words, start = match[0].split(" "), match.start()
        first, opens = words[0].lower(), _SENTENCE_START.search(text[max(0, start - 8) : start])
        if first in FUNCTION_WORDS or (opens and first in lower_words):
            words.pop(0)
        if words and words[0][0].islower():  # a connective left over: "Many of England"
            words.pop(0)
        names.append(" ".join(words))
    return [name for name in names if len(name) > 1]


def _number_kind(text: str) -> str:
    if text[0].isalpha():
        return "word"
    if text[-1].isalpha():
        return "ordinal"
    return "year" if re.fullmatch(r"(?:1[5-9]|20)\d\d", text) else "numeral"


def _nearby(old: str, kind: str, rng: random.Random) -> str:
    """A different number of the same kind within a fifth of the old one, or one to three away."""
    value = number_value(old)
    if kind == "word":
        return rng.choice([w for w in NUMBER_WORDS if 0 < abs(number_value(w) - value) <= 3])
    unit = Decimal(1).scaleb(value.as_tuple().exponent)  # 0.1 for "3.5": keeps the decimals
    reach = 3 if kind == "year" else max(3, int(value / unit / 5))
    step = unit * rng.randint(1, reach)
    changed = value - step if rng.random() < 0.5 and value > step else value + step
    text = f"{changed:,}" if "," in old else f"{changed}"
    if kind != "ordinal":
        return text
    teens = changed % 100 in (11, 12, 13)
    return text + ("th" if teens else {1: "st", 2: "nd", 3: "rd"}.get(int(changed) % 10, "th"))


def _name_kind(name: str) -> str:
    if name in DAYS:
        return "day"
    return "month" if name in MONTHS else "name"


def _whole(text: str) -> str:
    """A pattern of a text that is no part of a longer word."""
    return rf"(?<!\w){re.escape(text)}(?!\w)"


def _known_part(name: str, evidence: str) -> str | None:
    """The longest run of the name's words that the evidence contains, or None."""
    words = name.split(" ")
    for size in range(len(words), 0, -1):
        for first in range(len(words) - size + 1):
            part = words[first : first + size]
            proper = part[0][0].isupper() and part[-1][0].isupper()
            if proper and re.search(_whole(" ".join(part)), evidence):
                return " ".join(part)
    return None


def _other_name(old: str, claim: str, others: list[str], rng: random.Random) -> str | None:
    taken = set(re.findall(r"\w+", claim.lower()))
    same_kind = {name for name in others if _name_kind(name) == _name_kind(old)}
    fitting = [x for x in sorted(same_kind) if not taken & {*re.findall(r"\w+", x.lower())}]
    alike = [name for name in fitting if name.count(" ") == old.count(" ")]
    return rng.choice(alike or fitting) if fitting else None
