"""What a model brings along: it is refused, followed or named in a warning where it enters."""

from __future__ import annotations

import warnings

import pytest
import torch
from test_agreement import LLAMA, MODELS, made
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
)

from bondlab.lm.language_model import LanguageModel
from bondlab.tasks import tiny

POSITIONS = {"GPT2": {"n_positions": 64}, "Bart": {"max_position_embeddings": 64}}


def llama(**changed) -> LlamaForCausalLM:
    return made("Llama", LLAMA | {"max_position_embeddings": 256} | changed)


def narrow(name: str) -> nn.Module:
    """A model of 64 positions."""
    return made(name, MODELS[name][0] | POSITIONS[name] | {"forced_eos_token_id": None})


# -- what is no language model --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "tokenizer", "message"),
    [
        (LlamaModel(LlamaConfig(**LLAMA)), tiny.tokenizer(), "LlamaModel has no .* head: pass"),
        ("gpt2", tiny.tokenizer(), "AutoModelForSeq2SeqLM.* not 'gpt2'"),
        (tiny.tokenizer(), tiny.gemma(), "model must be .* not TokenizersBackend"),
        (tiny.gemma(), None, "tokenizer must be .*AutoTokenizer.*; not None"),
        (tiny.gemma(), "gpt2", "tokenizer must be .* not 'gpt2'"),
    ],
)
def test_what_is_no_language_model_is_named(model, tokenizer, message):
    """The message says what was given and which class of transformers to load instead."""
    with pytest.raises(TypeError, match=message):
        LanguageModel(model, tokenizer)


# -- tokens ---------------------------------------------------------------------------------------


def test_end_tokens_are_the_model_s_or_else_the_tokenizer_s():
    """A model's own list counts; without one the tokenizer's end token 1; without both the message
    says what to set. A tokenizer whose end token is not the model's is named in a warning."""
    model = llama()
    model.generation_config.eos_token_id = [1, 5]
    assert LanguageModel(model, tiny.tokenizer()).end_tokens.tolist() == [1, 5]
    model = llama(eos_token_id=None)
    assert LanguageModel(model, tiny.tokenizer()).end_tokens.tolist() == [1]
    without = tiny.tokenizer()
    without.eos_token = None
    with pytest.raises(ValueError, match="set model.generation_config.eos_token_id"):
        LanguageModel(model, without)
    with pytest.warns(UserWarning, match=r"'</s>' \(1\) is not among the model's \(\[2\]\)"):
        LanguageModel(llama(eos_token_id=2), tiny.tokenizer())


def test_a_tokenizer_without_a_pad_token_is_no_obstacle():
    """As GPT-2's and Llama's: masked places are never read, neither as prompt nor as completion,
    before a pad token is set and after."""
    tokenizer = tiny.tokenizer()
    tokenizer.pad_token = None
    model = llama()
    model.generation_config.eos_token_id = list(range(1, 60))  # ends soon
    policy = LanguageModel(model, tokenizer, max_new_tokens=8)

    def drawn() -> tuple[list[list[str]], torch.Tensor]:
        prompts = policy.encode(["rain", "the old city", "a dog and a cat"])
        found = policy.sample(prompts, 4, torch.Generator().manual_seed(0))
        assert found.lengths.min() < 8
        return policy.decode(found), policy(prompts, found)

    before, scores = drawn()
    tokenizer.pad_token = tokenizer.eos_token
    after, again = drawn()
    assert after == before and torch.equal(scores, again)
    tokenizer.add_special_tokens({"pad_token": "<beyond>"})  # a token that the model has no row for
    assert drawn()[0] == before


# -- limits ---------------------------------------------------------------------------------------


def test_prompts_have_what_the_model_s_positions_leave():
    """None is 512 where the model knows no end (T5), or has room; else the positions less the
    completion in a causal model, all of them in an encoder. The longest prompt and completion then
    go through."""
    for make in (tiny.t5, tiny.gemma):
        assert LanguageModel(make(), tiny.tokenizer()).max_prompt_tokens == 512
    for name, limit in (("GPT2", 64 - 8), ("Bart", 64)):
        policy = LanguageModel(narrow(name), tiny.tokenizer(), max_new_tokens=8)
        prompts = policy.encode(["rain " * 90])
        assert prompts.ids.shape == (1, limit)
        found = policy.sample(prompts, 2, torch.Generator().manual_seed(0))
        assert policy.last_state(prompts, found).isfinite().all()


@pytest.mark.parametrize(
    ("name", "limits", "message"),
    [
        ("GPT2", (60, 8), "max_prompt_tokens = 60 and max_new_tokens = 8 do not fit into"),
        ("GPT2", (None, 64), "max_new_tokens = 64 do not fit into the model's 64 positions"),
        ("Bart", (65, 8), "max_prompt_tokens = 65 and max_new_tokens = 8 do not fit"),
        ("Bart", (None, 64), "max_new_tokens = 64 do not fit into the model's 64 positions"),
    ],
)
def test_limits_beyond_the_positions_are_refused(name, limits, message):
    """When the model is made, not by an index that is out of range, or worse, in the middle of a
    run. (A decoder's first position is its start token's.)"""
    prompt, new = limits
    with pytest.raises(ValueError, match=message):
        LanguageModel(narrow(name), tiny.tokenizer(), max_prompt_tokens=prompt, max_new_tokens=new)


# -- generation settings --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.9}, "temperature=0.6, top_p=0.9 of"),
        ({"top_k": 20, "repetition_penalty": 1.05}, "repetition_penalty=1.05, top_k=20 of"),
        ({"no_repeat_ngram_size": 3, "min_length": 5}, "no_repeat_ngram_size=3, min_length=5 of"),
        ({"bad_words_ids": [[7]], "forced_bos_token_id": 4}, "7.*, forced_bos_token_id=4 of"),
    ],
)
def test_settings_that_would_change_the_distribution_are_named(settings, named):
    """One warning; the distribution stays the model's own."""
    model = llama()
    model.generation_config = GenerationConfig(eos_token_id=1, pad_token_id=0, **settings)
    with pytest.warns(UserWarning, match=f"not used here: .*{named}") as caught:
        LanguageModel(model, tiny.tokenizer())
    assert len(caught) == 1


def test_settings_that_change_nothing_are_not_named():
    """Neutral values, lengths, caches and a temperature that is taken over: no warning."""
    model = llama()
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.7, top_k=0, top_p=1.0, repetition_penalty=1.0, min_length=0,
        suppress_tokens=[], max_length=99, use_cache=True, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LanguageModel(model, tiny.tokenizer(), temperature=0.7)
        for own in (tiny.t5(), tiny.gemma(), llama(), *map(narrow, POSITIONS)):
            LanguageModel(own, tiny.tokenizer(), max_new_tokens=8)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_generate_of_a_saved_policy_draws_the_trained_distribution(temperature, tmp_path):
    """Plain `generate`, without an argument, of a model whose own defaults were those of a chat
    model. Over 4,000 draws the total variation from the softmax of the logits over the temperature
    is noise, sum(sqrt(2 p (1 - p) / (4000 pi))) / 2 = 0.054 at most; the old settings keep to the
    20 likeliest words, at a distance of the probability of all the others."""
    model = llama()
    model.lm_head.weight.data *= 3
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.6, top_p=0.8, top_k=20, repetition_penalty=1.05,
        eos_token_id=[1, 5], pad_token_id=0,
    )  # fmt: skip
    with pytest.warns(UserWarning, match="not used here"):
        reference = LanguageModel(
            model, tiny.tokenizer(), max_new_tokens=3, temperature=temperature
        )
    reference.trainable_copy(2).save_pretrained(tmp_path)
    assert reference.model.generation_config.top_k == 20  # the user's own model stays
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        saved = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
        given = tiny.tokenizer()([reference.filled("music club")] * 4000, return_tensors="pt")
        given.pop("token_type_ids", None)
        torch.manual_seed(0)
        out = saved.generate(**given)[:, given["input_ids"].shape[1] :]
    assert out.shape[1] == 3
    assert saved.generation_config.eos_token_id == [1, 5]
    with torch.no_grad():
        logits = saved(input_ids=given["input_ids"][:1]).logits[0, -1]
    expected = (logits / temperature).softmax(-1)
    found = torch.bincount(out[:, 0], minlength=len(expected)) / len(out)
    assert (found - expected).abs().sum() / 2 < 0.08 < expected.sort().values[:-20].sum() - 0.08
