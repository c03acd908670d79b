"""Completions come from the model's own distribution, whatever it does to its logits, or none do.

Expected log-probabilities are transformers' own: the model's forward over one whole row of ids,
without padding, cache or sharing. Matrices are widened so that laws are far from uniform: models
whose own forward is asked were 0.3 to 45 nats a token off where only decoder and head were.
"""

from __future__ import annotations

import itertools

import pytest
import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, SiglipVisionConfig

from bondlab.lm.language_model import LanguageModel
from bondlab.tasks import models, tiny

WORDS = len(tiny.tokenizer())
TEXTS = ["the city council", "a dog and a cat by the river on monday in june", "rain"]
ENDS = {"vocab_size": WORDS, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
LLAMA = ENDS | {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
GEMMA = LLAMA | {
    "head_dim": 8, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"],
}  # fmt: skip
PICTURES = {
    "text_config": transformers.Gemma3TextConfig(**GEMMA), "image_token_index": 2,
    "vision_config": SiglipVisionConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                                        num_attention_heads=2, image_size=28, patch_size=14),
    "mm_tokens_per_image": 4,
}  # fmt: skip
BOTH = ENDS | {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
    "max_position_embeddings": 64, "decoder_start_token_id": 0,
}  # fmt: skip
MPT = ENDS | {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64, "logit_scale": 0.25}
LATENT = {
    "num_key_value_heads": 4, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4, "v_head_dim": 8,
}  # fmt: skip
PART = {k: x for k, x in LLAMA.items() if k != "pad_token_id"} | {"head_dim": 8, "bos_token_id": 3}
# (settings of the configuration, whether the model's own forward must be asked)
MODELS = {
    "Llama": (LLAMA, False),
    "Gemma": (LLAMA | {"head_dim": 8}, False),
    "Gemma2": (GEMMA | {"final_logit_softcapping": 2.0}, False),
    "Gemma3": (PICTURES, False),
    "Granite": (LLAMA | {"logits_scaling": 8.0}, True),  # divides its logits
    "Cohere": (LLAMA | {"logit_scale": 0.0625}, True),  # multiplies them
    "MiniCPM3": (LLAMA | LATENT, True),  # scales what goes into the head
    "Mpt": (MPT, False),  # has a setting of the logits' scale and ignores it
    "GPT2": (ENDS | {"n_embd": 32, "n_layer": 2, "n_head": 4}, False),
    "Bart": (BOTH, False),
    "Marian": (BOTH | {"forced_eos_token_id": None}, True),  # a bias behind the head
    "LED": (BOTH | {"max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 64,
                    "attention_window": 4}, True),  # its encoder pads to its window
    "T5Gemma": ({"encoder": PART, "decoder": PART, "vocab_size": WORDS, "bos_token_id": 3}, False),
}  # fmt: skip


def made(name: str, settings: dict | None = None) -> nn.Module:
    """A tiny model with random, widened weights, and with biases where it would start without."""
    config = getattr(transformers, f"{name}Config")(**(settings or MODELS[name][0]))
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    if name == "T5Gemma":
        config.decoder_start_token_id = 3
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = kind.from_config(config).eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter *= 4.0
        if name == "Marian":
            model.final_logits_bias.normal_()
    return model


def language_model(model: nn.Module) -> LanguageModel:
    return LanguageModel(model, tiny.tokenizer(), max_prompt_tokens=16, max_new_tokens=5)


def own_logits(model: nn.Module, ids: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """[T, V] by the model's forward over one row."""
    if model.config.is_encoder_decoder:
        start = torch.tensor([model.config.decoder_start_token_id])
        decoded = torch.cat([start, tokens])[None, :-1]
        return model(input_ids=ids[None], decoder_input_ids=decoded).logits[0].float()
    return model(input_ids=torch.cat([ids, tokens])[None]).logits[0, len(ids) - 1 : -1].float()


@torch.no_grad()
def assert_its_own(model: LanguageModel) -> None:
    """What was drawn, and what is scored, has the model's own log-probabilities."""
    prompts = model.encode(TEXTS)
    drawn = model.sample(prompts, 3, torch.Generator().manual_seed(0))
    scored = model(prompts, drawn)
    for b, k in itertools.product(range(len(TEXTS)), range(3)):
        mask = drawn.mask[b, k]
        tokens = drawn.tokens[b, k][mask]
        logits = own_logits(model.model, prompts.ids[b][prompts.mask[b].bool()], tokens)
        log_p = (logits / model.temperature).log_softmax(-1)
        expected = log_p.gather(1, tokens[:, None])[:, 0]
        for found in (drawn.log_probs[b, k], scored[b, k]):
            torch.testing.assert_close(found[mask], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_completions_come_from_the_models_own_distribution(name):
    """With decoder and head where that is all there is to it, else by the model's forward."""
    model = language_model(made(name))
    assert model.plain == MODELS[name][1]
    assert_its_own(model)


@pytest.mark.parametrize("name", ["Granite", "Marian"])
def test_a_policy_is_read_as_its_reference_is(name):
    """The copy that is trained takes the same way, and starts as the same distribution."""
    reference = language_model(made(name))
    policy = reference.trainable_copy(2)
    prompts = policy.encode(TEXTS)
    drawn = policy.sample(prompts, 2, torch.Generator().manual_seed(0))
    scored = policy(prompts, drawn)
    torch.testing.assert_close(scored, reference(prompts, drawn), atol=1e-5, rtol=0)
    scored.sum().backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in policy.trainable())
    assert policy.last_state(prompts, drawn).shape[-1] == 32  # what learned quantiles read


@pytest.mark.parametrize(("name", "tied"), [("Gemma3", False), ("Llama", True)])
@torch.no_grad()
def test_a_family_is_read_from_its_folder_and_saved_in_one(name, tied, tmp_path):
    """Of a model with pictures too, and where head and embeddings are one matrix."""
    settings = MODELS[name][0] | ({"tie_word_embeddings": True} if tied else {})
    made(name, settings).save_pretrained(tmp_path / "hub")
    tiny.tokenizer().save_pretrained(tmp_path / "hub")
    reference = LanguageModel(*models.load(str(tmp_path / "hub")), max_new_tokens=7)
    prompts = reference.encode(TEXTS)
    drawn = reference.sample(prompts, 3, torch.Generator().manual_seed(0))
    policy = reference.trainable_copy(2)
    for parameter in policy.trainable():
        parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator())
    policy.save_pretrained(tmp_path / "trained")
    again = LanguageModel(*models.load(str(tmp_path / "trained")), max_new_tokens=7)
    moved = policy(prompts, drawn)
    torch.testing.assert_close(again(prompts, drawn), moved, atol=1e-3, rtol=0)
    assert (moved - drawn.log_probs).abs().max() > 0.05


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("Mamba", ENDS | {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}),
        ("OpenAIGPT", {"vocab_size": WORDS, "n_embd": 32, "n_layer": 2, "n_head": 4,
                       "eos_token_id": 1}),
        ("Jamba", LLAMA | {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8,
                           "use_mamba_kernels": False, "num_experts": 2}),
    ],
)  # fmt: skip
def test_a_model_whose_prompt_cannot_be_shared_is_refused(name, settings):
    """When it enters, in words that say what is missing."""
    with pytest.raises(ValueError, match="kept in a cache that its completions share"):
        language_model(made(name, settings))


def test_a_broken_model_is_refused():
    """NaN from the first forward on is said of the model, not of the learning rate, later."""
    model = made("Llama")
    model.model.layers[1].mlp.down_proj.weight.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="LlamaForCausalLM gives NaN before any training, in .*32"):
        language_model(model)


def test_positions_that_go_their_own_way_are_noticed():
    """A decoder that cannot be told its positions counts padding as such: rows that stand alone
    agree, padded ones would not, so the model's forward, which can be told, is asked."""
    model = made("GPT2")
    forward = model.transformer.forward

    def untold(input_ids, attention_mask=None, past_key_values=None, **options):
        return forward(input_ids, attention_mask=attention_mask,
                       past_key_values=past_key_values, **options)  # fmt: skip

    model.transformer.forward = untold
    found = language_model(model)
    assert found.plain
    assert_its_own(found)


@pytest.mark.parametrize("name", ["Llama", "Granite"])
def test_bfloat16_is_no_disagreement(name):
    """Rounding of 16-bit weights is told from another distribution."""
    assert language_model(made(name).bfloat16()).plain == MODELS[name][1]
