"""How likely a model finds given texts: comparisons of replies, and bits per byte.

Legend: B prompts, K completions a prompt, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from bondlab.lm.completions import Completions
from bondlab.lm.language_model import LanguageModel
from bondlab.study.benchmark_texts import Pair

PROMPTS_AT_ONCE = 8


def preferences(chat: LanguageModel, comparisons: Sequence[Mapping[str, str]]) -> pd.DataFrame:
    """Of each comparison whether the preferred reply is the likelier (ties half), and by what.

    Sums of log-probabilities favour the shorter reply: compare policies, not a policy with 1/2.
    Comparisons have subset, query, chosen and rejected.
    """
    replies = [[pair["chosen"], pair["rejected"]] for pair in comparisons]
    nats = log_likelihood(chat, [pair["query"] for pair in comparisons], replies)[0]
    margin = nats[:, 0] - nats[:, 1]
    subsets = [pair["subset"] for pair in comparisons]
    right = (margin.sign() + 1) / 2
    return pd.concat([rows("preferences", subsets, right), rows("margin", subsets, margin)])


def bits_per_byte(model: LanguageModel, pairs: Mapping[str, Sequence[Pair]]) -> pd.DataFrame:
    """Bits that each byte of a text costs given its prompt, a row a text; lower is better."""
    tables = []
    for corpus, chosen in pairs.items():
        nats, size = log_likelihood(model, [p for p, _ in chosen], [[t] for _, t in chosen])
        bits = -nats[:, 0] / (size[:, 0] * math.log(2))
        tables.append(rows("bits_per_byte", [corpus] * len(chosen), bits))
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
    return pd.DataFrame(
        {"measure": measure, "group": list(groups), "item": items, "value": values.tolist()}
    )
