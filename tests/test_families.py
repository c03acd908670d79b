"""Causal families of the hub, tiny and with random weights: one law, whatever the family adds."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    SiglipVisionConfig,
)

from bondlab.lm.language_model import LanguageModel
from bondlab.tasks import models, tiny

SIZES = {
    "vocab_size": len(tiny.tokenizer()), "hidden_size": 32, "intermediate_size": 64,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "max_position_embeddings": 256, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1,
}  # fmt: skip
WINDOW = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
PICTURES = SiglipVisionConfig(
    hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
    image_size=28, patch_size=14,
)  # fmt: skip
FAMILIES = {
    "gemma": GemmaConfig(**SIZES),  # google/gemma-2b, google/gemma-7b
    "gemma2": Gemma2Config(**SIZES, **WINDOW, final_logit_softcapping=2.0),
    "gemma3, with pictures": Gemma3Config(
        text_config=Gemma3TextConfig(**SIZES, **WINDOW), vision_config=PICTURES,
        mm_tokens_per_image=4, image_token_index=2,
    ),
    "llama": LlamaConfig(**SIZES),  # SmolLM2
    "llama, tied": LlamaConfig(**SIZES, tie_word_embeddings=True),
}  # fmt: skip
TEXTS = ["the city council", "a dog and a cat by the river on monday in june", "rain"]


def made(family: str) -> torch.nn.Module:
    """Matrices widened, so that laws are far from uniform and a wrong position is seen."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(FAMILIES[family]).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data *= 10.0
    return model


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rank", [2, None])
@torch.no_grad()
def test_a_family_has_one_law(family, rank, tmp_path):
    """Read from its folder, its sampler, its scorer and transformers' own pass over each unpadded
    sequence agree to 1e-4 nat; so does a policy of it, which is saved and read again."""
    made(family).save_pretrained(tmp_path / "hub")
    tiny.tokenizer().save_pretrained(tmp_path / "hub")
    reference = LanguageModel(*models.load(str(tmp_path / "hub")), max_new_tokens=7)
    prompts = reference.encode(TEXTS)
    drawn = reference.sample(prompts, 3, torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.log_probs, reference(prompts, drawn), atol=1e-4, rtol=0)
    assert drawn.log_probs[drawn.mask].std() > 0.3
    own = made(family)
    for b, text in enumerate(TEXTS):
        given = torch.tensor(reference.tokenizer(text)["input_ids"])
        for k in range(3):
            tokens = drawn.tokens[b, k, : drawn.lengths[b, k]]
            logits = own(input_ids=torch.cat([given, tokens])[None], use_cache=False).logits[0]
            expected = logits[len(given) - 1 : -1].log_softmax(-1).gather(1, tokens[:, None])[:, 0]
            actual = drawn.log_probs[b, k, : len(tokens)]
            torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)
    policy = reference.trainable_copy(rank)
    for parameter in policy.trainable():
        parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator()))
    policy.save_pretrained(tmp_path / "trained")
    again = LanguageModel(*models.load(str(tmp_path / "trained")), max_new_tokens=7)
    moved = policy(prompts, drawn)
    torch.testing.assert_close(again(prompts, drawn), moved, atol=1e-3, rtol=0)
    assert (moved - drawn.log_probs).abs().max() > 0.05
