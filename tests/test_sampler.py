"""Every way of decoding draws what one row after the other draws.

In tensors that keep their places: the graph that a GPU replays is made of these steps; `placement`
runs it where there is one. On a processor: from one cache a prompt, without rows that have ended,
and with two models' rows in one pass.
"""

from __future__ import annotations

import pytest
import torch
from test_agreement import ENDS, LLAMA, made
from torch import nn

from bondlab.bank import seeded
from bondlab.lm import sampler
from bondlab.lm.adapters import mixable
from bondlab.lm.language_model import LanguageModel
from bondlab.lm.sampler import BUCKET, Captured
from bondlab.tasks import tiny

PROMPTS = tiny.documents(3, seed=5)


def both_ways(model: LanguageModel, k: int, captured: Captured | None = None, seed: int = 0):
    """Tokens, masks and log-probabilities by the loop and by steps of a fixed shape, which a GPU
    takes after a prompt's cache that is repeated for its completions."""
    model.shared = False
    prompts = sampler._to_bucket(model.encode(PROMPTS), model.pad_token)
    uniforms = torch.rand(model.max_new_tokens, 3 * k, 1, generator=seeded(seed, "sampler"))
    with torch.no_grad():
        looped = sampler._looped(model, model._prefix(prompts, k), uniforms)
        prefix = model._prefix(prompts, k)
        captured = captured or Captured(model, prefix, uniforms)
        return looped, captured.sample(model, prefix, uniforms), captured


def assert_equal(looped, fixed) -> None:
    for one, other in zip(looped[:2], fixed[:2], strict=True):
        assert torch.equal(one, other)
    torch.testing.assert_close(fixed[2], looped[2], atol=1e-4, rtol=0)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("k", [1, 4])
def test_fixed_places_draw_what_the_loop_draws(k, temperature):
    """The same uniforms give the same tokens; log-probabilities are equal but for the rounding of
    another order of sums. Some rows end early."""
    model = tiny.language_model("gemma", max_new_tokens=24, temperature=temperature)
    looped, fixed, _ = both_ways(model, k)
    assert not looped[1].all()
    assert_equal(looped, fixed)


def test_they_follow_weights_that_change_in_place():
    """A policy's step leaves its adapter where it is: the same places then hold new weights."""
    policy = tiny.language_model("gemma", max_new_tokens=8).trainable_copy(2)
    before, _, captured = both_ways(policy, 2)
    with torch.no_grad():
        for weight in policy.trainable():
            weight += 0.3 * torch.randn(weight.shape, generator=seeded(1, "weights"))
    looped, fixed, _ = both_ways(policy, 2, captured)
    assert not torch.equal(looped[2], before[2])
    assert_equal(looped, fixed)
    assert_equal(*both_ways(policy, 2, captured, seed=1)[:2])


def test_a_bucket_changes_no_distribution():
    """Prompts get wider to the left, where the mask is 0."""
    model = tiny.language_model("gemma", max_new_tokens=6)
    prompts = model.encode(PROMPTS)
    wide = sampler._to_bucket(prompts, model.pad_token)
    assert wide.ids.shape[1] % BUCKET == 0 and wide.ids.shape[1] > prompts.ids.shape[1]
    drawn = model.sample(prompts, 2, seeded(0, "bucket"))
    with torch.no_grad():
        scored = [model(p, drawn) for p in (prompts, wide)]
    torch.testing.assert_close(*scored, atol=1e-5, rtol=0)


def test_models_whose_cache_has_no_fixed_size_are_looped():
    """Gemma 3 attends to windows of 64 tokens; T5's decoder asks its encoder; no other attention
    than torch's own takes the mask."""
    gemma, t5 = tiny.language_model("gemma"), tiny.language_model("t5")
    gemma.shared = t5.shared = False  # as on a GPU
    with torch.no_grad():
        prefix = gemma._prefix(gemma.encode(PROMPTS), 1)
        steps = 64 - prefix.mask.shape[1]
        assert sampler._fits(gemma, prefix, steps) and not sampler._fits(gemma, prefix, steps + 1)
        assert not sampler._fits(t5, t5._prefix(t5.encode(PROMPTS), 1), 1)
    gemma.model.set_attn_implementation("eager")
    assert not sampler._fits(gemma, prefix, steps)


def changed(model: LanguageModel, seed: int) -> LanguageModel:
    """A policy of this model, some way from it."""
    policy = model.trainable_copy(2, seed)
    with torch.no_grad():
        for weight in policy.trainable():
            weight += 0.3 * torch.randn(weight.shape, generator=seeded(seed, "weights"))
    return policy


@pytest.mark.parametrize("kind", ["gemma", "t5"])
def test_a_shared_cache_draws_what_repeated_ones_draw(kind):
    """Rows end at different lengths, so prompts have one, two or no rows left: tokens are equal,
    and so are masks and log-probabilities behind the end."""
    model = tiny.language_model(kind, max_new_tokens=24)
    ends = list(range(1, 12))  # of 128 tokens
    model.model.generation_config.eos_token_id = ends
    prompts = model.encode(tiny.documents(5, seed=5))
    shared = model.sample(prompts, 3, seeded(0, "shared"))
    assert model.shared and shared.mask.any(2).all() and shared.lengths.unique().numel() > 3
    model.shared = False
    repeated = model.sample(prompts, 3, seeded(0, "shared"))
    assert_equal(shared, repeated)
    with torch.no_grad():
        torch.testing.assert_close(model(prompts, shared), shared.log_probs, atol=1e-4, rtol=0)


OPT = {"hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 64, "num_hidden_layers": 2,
       "num_attention_heads": 4, "max_position_embeddings": 64}  # fmt: skip
EXPERTS = {"moe_intermediate_size": 32, "shared_expert_intermediate_size": 32, "num_experts": 4,
           "num_experts_per_tok": 2}  # fmt: skip


def limited(new_tokens: int) -> dict[str, int]:
    return {"max_prompt_tokens": 24, "max_new_tokens": new_tokens}


def of_kind(kind: str, new_tokens: int) -> LanguageModel:
    """One of ours, or one some of whose layers see the tokens of all rows as so many rows."""
    if kind in ("gemma", "t5"):
        return tiny.language_model(kind, max_new_tokens=new_tokens)
    settings = {"OPT": ENDS | OPT, "Qwen2Moe": LLAMA | EXPERTS}[kind]
    return LanguageModel(made(kind, settings), tiny.tokenizer(), **limited(new_tokens))


@pytest.mark.parametrize("kind", ["gemma", "t5", "OPT", "Qwen2Moe"])
def test_two_models_draw_in_one_pass_what_each_draws_alone(kind, monkeypatch):
    """With other adapters over the same weights, and rows of both that end early."""
    model = of_kind(kind, 16)
    model.model.generation_config.eos_token_id = list(range(1, 12))
    models, ks = (changed(model, 1), changed(model, 2)), (1, 2)
    prompts = model.encode(tiny.documents(4, seed=5))
    alone = [m.sample(prompts, k, seeded(k, "row")) for m, k in zip(models, ks, strict=True)]
    monkeypatch.setattr(sampler, "sample", None)
    for at_once in (None, 3):
        seeds = seeded(1, "row"), seeded(2, "row")
        both = models[0].sample_beside(models[1], prompts, ks, seeds, at_once=at_once)
        for one, other in zip(both, alone, strict=True):
            assert_equal(one, other)


def test_models_that_share_no_weights_draw_one_after_the_other():
    model = tiny.language_model("gemma", max_new_tokens=4)
    policy, whole = model.trainable_copy(2), model.trainable_copy(None)
    for other in (model, whole, tiny.language_model("gemma").trainable_copy(2)):
        assert not mixable(policy.model, other.model)
    routed = made("Llama")  # an adapter on what sees its own choice of rows
    routed.model.layers[0].mlp.experts = nn.ModuleList([nn.Linear(32, 32)])
    ours = LanguageModel(routed, tiny.tokenizer(), **limited(4))
    assert not mixable(ours.trainable_copy(2).model, ours.trainable_copy(2).model)
    prompts, seeds = model.encode(PROMPTS), (seeded(0, "a"), seeded(0, "b"))
    both = policy.sample_beside(whole, prompts, (1, 2), seeds)
    expected = whole.sample(prompts, 2, seeded(0, "b"))
    assert torch.equal(both[1].tokens, expected.tokens) and both[0].tokens.shape[1] == 1


def test_steps_are_captured_again_where_what_they_hold_has_changed():
    """A graph's temperature, ends and the places of its weights are constants of it."""
    model, counts = tiny.language_model("gemma", max_new_tokens=4), []
    model.shared = False
    prompts = model.encode(PROMPTS)
    uniforms = torch.rand(4, len(PROMPTS), 1, generator=seeded(0, "x"))

    def replay() -> None:
        with torch.no_grad():
            sampler._replayed(model, model._prefix(prompts, 1), uniforms)
        counts.append(len(sampler._CAPTURED[model]))

    replay()
    replay()
    model.temperature = 0.5
    replay()
    model.model.generation_config.eos_token_id = [1, 2]
    replay()
    weight = next(model.parameters())
    weight.data = weight.data.clone()
    replay()
    assert counts == [1, 1, 2, 3, 4]
    sampler.forget(model)
    assert model not in sampler._CAPTURED
    with torch.inference_mode():
        replay()
    replay()  # what was captured there serves here, too
    assert counts[5:] == [1, 1]
