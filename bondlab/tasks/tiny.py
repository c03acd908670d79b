"""Tiny models and synthetic documents made by code: the `smoke` profile and the fast tests."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from bondlab.lm.language_model import LanguageModel

if TYPE_CHECKING:
    from transformers import Gemma3ForCausalLM, T5ForConditionalGeneration

WORDS = (
    "the a of in to and is was for on with by from at it that city council river bridge school "
    "team player goal match league club music song film actor police court judge fire rain storm "
    "market price bank money report study doctor nurse hospital minister vote party law plan road "
    "train bus car ship port sea island farm field tree bird dog cat child family house street "
    "monday tuesday june july first second third new old big small red blue green said told found "
    "made won lost opened closed built moved called asked yes no 1 2 3 4 5 6 7 8 9 10 20 50 100"
).split()


def tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer over `WORDS`, with pad 0 and end 1."""
    vocabulary = {token: i for i, token in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def t5(seed: int = 0, tied: bool = False) -> T5ForConditionalGeneration:
    """A two-layer encoder-decoder with random weights."""
    from transformers import T5Config, T5ForConditionalGeneration  # the slow part of an import

    config = T5Config(
        vocab_size=len(WORDS) + 3, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu", tie_word_embeddings=tied, initializer_factor=1.0,
        pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
    )  # fmt: skip
    config.tie_word_embeddings = tied  # transformers 5 forces True when it builds the config
    return _seeded(T5ForConditionalGeneration, config, seed)


def gemma(seed: int = 0) -> Gemma3ForCausalLM:
    """A two-layer causal model of Gemma 3's kind (one sliding-window layer) with random weights."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    config = Gemma3TextConfig(
        vocab_size=len(WORDS) + 3, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, sliding_window=64,
        layer_types=["sliding_attention", "full_attention"], max_position_embeddings=1024,
        pad_token_id=0, eos_token_id=1, bos_token_id=1,
    )  # fmt: skip
    return _seeded(Gemma3ForCausalLM, config, seed)


def language_model(family: str = "t5", seed: int = 0, **limits) -> LanguageModel:
    """A tiny `LanguageModel`; family is "t5" or "gemma"."""
    makers = {"t5": t5, "gemma": gemma}
    settings = {"max_prompt_tokens": 24, "max_new_tokens": 8} | limits
    return LanguageModel(makers[family](seed), tokenizer(), **settings)


def documents(count: int, seed: int = 0, words: int = 20) -> list[str]:
    """Synthetic documents: random words, always the same for a seed."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(words // 2, words))) for _ in range(count)]


def reward(prompts: Sequence[str], completions: Sequence[Sequence[str]]) -> Tensor:
    """Share of a completion's words that its prompt has, plus a little for not repeating itself."""
    return torch.tensor([
        [_share(text.split(), set(prompt.split())) for text in texts]
        for prompt, texts in zip(prompts, completions, strict=True)
    ])  # fmt: skip


def _share(words: list[str], known: set[str]) -> float:
    fresh = len(set(words)) / max(1, len(words))
    return sum(word in known for word in words) / max(1, len(words)) + 0.01 * fresh


def _seeded(kind: type, config, seed: int):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(config).eval()
