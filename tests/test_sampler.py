"""Decoding in tensors that keep their places draws what the plain loop draws.

The graph that a GPU replays is made of these steps; `placement` runs it where there is one.
"""

from __future__ import annotations

import pytest
import torch

from bondlab.bank import seeded
from bondlab.lm import sampler
from bondlab.lm.completions import Prompts
from bondlab.lm.language_model import LanguageModel
from bondlab.lm.sampler import BUCKET, Captured
from bondlab.tasks import tiny

PROMPTS = tiny.documents(3, seed=5)


def both_ways(model: LanguageModel, k: int, captured: Captured | None = None, seed: int = 0):
    """Tokens, masks and log-probabilities by the loop and by steps of a fixed shape."""
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
    with torch.no_grad():
        prefix = gemma._prefix(gemma.encode(PROMPTS), 1)
        steps = 64 - prefix.mask.shape[1]
        assert sampler._fits(gemma, prefix, steps) and not sampler._fits(gemma, prefix, steps + 1)
        assert not sampler._fits(t5, t5._prefix(t5.encode(PROMPTS), 1), 1)
    gemma.model.set_attn_implementation("eager")
    assert not sampler._fits(gemma, prefix, steps)


def test_prompts_have_tokens_where_the_mask_is():
    prompts = Prompts(torch.tensor([[5, 6]]), torch.ones(1, 2, dtype=torch.long))
    wide = sampler._to_bucket(prompts, 3)
    assert wide.ids[0, -2:].tolist() == [5, 6] and wide.mask.sum() == 2
