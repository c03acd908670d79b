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
