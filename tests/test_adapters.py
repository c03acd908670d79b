"""An adapter by itself: what other programs read of it."""

from __future__ import annotations

import warnings

import pytest
import torch
from peft import PeftModel

from bondlab import tiny
from bondlab.bank import seeded


@pytest.mark.parametrize("family", ["t5", "gemma"])
@torch.no_grad()
def test_peft_reads_a_saved_adapter(family, tmp_path):
    """On a model with the reference's weights, `PeftModel.from_pretrained` gives the policy's
    log-probabilities, and no warning of weights that it misses. The factors hold bfloat16 numbers
    here, so that the file loses nothing."""
    reference = tiny.language_model(family).requires_grad_(False)
    policy, generator = reference.trainable_copy(2), torch.Generator().manual_seed(0)
    for parameter in policy.trainable():
        parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
        parameter.copy_(parameter.bfloat16())
    policy.save_adapter(tmp_path)
    plain = tiny.language_model(family)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*missing adapter keys.*")
        plain.model = PeftModel.from_pretrained(plain.model, tmp_path).get_base_model()
    prompts = policy.encode(tiny.documents(3))
    drawn = policy.sample(prompts, 4, seeded(0, "test"))
    read, own, before = (m(prompts, drawn).sum(-1) for m in (plain, policy, reference))
    assert (own - before).abs().max() > 0.5
    torch.testing.assert_close(read, own, atol=1e-4, rtol=0)


def test_a_full_copy_shares_nothing_with_a_reference_that_has_sampled():
    """A bfloat16 reference keeps its head in float32 once it has sampled; copies of all weights
    must not take that head for their own, or training one would train the other."""
    reference = tiny.language_model("gemma").to(torch.bfloat16).requires_grad_(False)
    prompts = reference.encode(tiny.documents(2))
    drawn = reference.sample(prompts, 2, seeded(0, "test"))
    before = reference(prompts, drawn)
    count = len(list(reference.model.parameters()))
    policy, anchor = reference.trainable_copy(None), reference.trainable_copy(None)
    anchor.requires_grad_(False)
    assert len(policy.trainable()) == count
    assert {p.dtype for p in reference.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        for parameter in policy.trainable():
            parameter += 1.0
        assert torch.equal(reference(prompts, drawn), before)
        head = policy.model.get_output_embeddings().weight
        states = torch.ones(1, head.shape[1])
        torch.testing.assert_close(policy._logits(states), states @ head.T)
