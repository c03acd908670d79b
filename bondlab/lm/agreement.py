"""Whether completions are sampled and scored under the model's own distribution.

Asked of the model itself, not of a list of names: two short prompts and their completions go
through the model's own forward, without padding, cache or sharing, and through `network`, as
sampling and as scoring do. What a model does to its logits, positions, padding or cache shows.

Legend: B prompts, K completions per prompt, T tokens of a completion, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bondlab.lm import attention
from bondlab.lm.completions import Prompts

if TYPE_CHECKING:
    from bondlab.lm.language_model import LanguageModel

LENGTHS = (5, 3)  # tokens of the two prompts: one is padded
K, T = 2, 4
NATS = 1e-3  # largest mean difference of log-probabilities that counts as the same, in float32
# 16-bit numbers round log-probabilities, each way in its own manner: the 135M SmolLM2 by 0.04 nat
# and the 77M T5 by 0.08 in bfloat16.
ROUNDED_NATS = 0.25


@torch.no_grad()
def settle(model: LanguageModel) -> None:
    """Choose the way in which a new model is read: the fast one, its prompts' cache shared where
    that can be, or its own forward (`plain`).

    Raises:
        ValueError: its own forward fails or gives NaN; or no way agrees with it, as where the
            prompt is kept in a state that cannot be repeated for its completions.
    """
    attention.register()
    name, found = type(model.model).__name__, []
    prompts, tokens = _probes(model)
    own_attention = model.model.config._attn_implementation
    # Another attention than torch's own may do what ours does not.
    can_share = model.is_encoder_decoder or own_attention == "sdpa"
    with torch.autocast(model.device.type, enabled=False):
        expected = _own(model, prompts, tokens, name)
        for model.plain, model.shared in ((False, can_share), (False, False), (True, False)):
            if model.is_encoder_decoder and not model.plain and not model.shared:
                continue
            chosen = attention.NAME if model.shared else own_attention
            if chosen != model.model.config._attn_implementation:
                model.model.set_attn_implementation(chosen)
            try:
                gap = _gap(model, prompts, tokens, expected)
            except Exception as error:  # whatever an architecture does not support
                found.append(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
                continue
            if gap <= _tolerance(model):
                return
            found.append(f"{gap:.2g} nat a token from the model's own forward")
    raise ValueError(
        f"{name} cannot be sampled here: its prompt must be read once and kept in a cache that its "
        f"completions share. Tried with the decoder ({found[0]}) and with the model's own forward "
        f"({found[-1]})"
    )


def _gap(model: LanguageModel, prompts: Prompts, tokens: Tensor, expected: Tensor) -> float:
    """Mean |log p - log q| under the mean of p and q, the largest over all places: of what is read
    at once, as in scoring, and one token after the other, as in sampling."""
    given = tokens[..., :-1]
    prefix = model._prefix(prompts, K, room=T)
    steps = [prefix.last[:, None]]
    steps += [model._extend(prefix, column) for column in given.flatten(0, 1).split(1, dim=1)]
    ways = torch.cat(steps, 1).unflatten(0, given.shape[:2]), model._follow(prompts, given)
    log_p = torch.stack([model._logits(way).log_softmax(-1) for way in ways])
    # Both -inf: the same; one alone: infinitely far.
    gap = (log_p - expected).abs().masked_fill(log_p == expected, 0.0)
    gap = gap * (log_p.exp() + expected.exp()) / 2
    return gap.nan_to_num(posinf=torch.inf).sum(-1).max().item()


def _own(model: LanguageModel, prompts: Prompts, tokens: Tensor, name: str) -> Tensor:
    """Log-probabilities [B, K, T, V] by the model's own forward over whole, unpadded rows."""
    rows = []
    for ids, mask, completions in zip(prompts.ids, prompts.mask, tokens[..., :-1], strict=True):
        prompt = ids[mask.bool()].expand(K, -1)
        named = {"input_ids": torch.cat([prompt, completions], 1)}
        if model.is_encoder_decoder:
            start = prompt.new_full((K, 1), model.model.config.decoder_start_token_id)
            named = {"input_ids": prompt, "decoder_input_ids": torch.cat([start, completions], 1)}
        try:
            rows.append(model.model(**named, use_cache=False, return_dict=True).logits[:, -T:])
        except Exception as error:  # whatever its code raises
            raise ValueError(
                f"{name} fails on a short text: {type(error).__name__}: {error}; bondlab needs a "
                "causal or encoder-decoder model that works on token ids alone"
            ) from error
    found = (torch.stack(rows).float() / model.temperature).log_softmax(-1)
    if found.isnan().any():
        raise ValueError(
            f"{name} gives NaN before any training, in {model.model.dtype}: load it in bfloat16 or "
            "float32, or look for broken weights"
        )
    return found


def _probes(model: LanguageModel) -> tuple[Prompts, Tensor]:
    """Two prompts, padded as `encode` pads, and tokens [B, K, T], of ordinary words alike."""
    size = model.model.get_input_embeddings().weight.shape[0]
    special = set(model.tokenizer.all_special_ids)
    words = torch.tensor([i for i in range(min(size, len(model.tokenizer))) if i not in special])
    b, p = len(LENGTHS), max(LENGTHS)
    chosen = words[torch.arange(b * (p + K * T)) * 7919 % len(words)].to(model.device)
    ids, tokens = chosen[: b * p].view(b, p), chosen[b * p :].view(b, K, T)
    mask = torch.arange(p) < torch.tensor(LENGTHS)[:, None]
    mask = (mask if model.is_encoder_decoder else mask.flip(1)).long().to(model.device)
    return Prompts(ids.masked_fill(mask == 0, model.pad_token), mask), tokens


def _tolerance(model: LanguageModel) -> float:
    """In the caller's "medium" mode float32 products, too, are rounded to 16 bits."""
    exact = torch.get_float32_matmul_precision() == "highest"
    whole = next(model.model.parameters()).dtype == torch.float32
    return NATS if exact and whole else ROUNDED_NATS
