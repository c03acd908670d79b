"""Rewards are checked where they enter; the entailment reward is the T5's own log-odds."""

from __future__ import annotations

import math

import pytest
import torch

from bondlab import tiny
from bondlab.rewards import NO_CLAIM, EntailmentReward, score

QUESTION = "the report {premise} told that {claim} yes no"
PREMISES = ["rain at the port", "a big fire by the river on monday", "the team won"]
CLAIMS = ["fire", "the new school lost 3 points in july", "rain by the sea", "law", "a dog won"]


def wide_t5(tied: bool = False):
    """A tiny T5 with wider matrices, so that its answers differ by whole nats."""
    model = tiny.t5(seed=1, tied=tied).requires_grad_(False)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.mul_(2.0)
    return model


def reward_of(tied: bool = False, **settings) -> EntailmentReward:
    return EntailmentReward(wide_t5(tied), tiny.tokenizer(), question=QUESTION, **settings)


def own_log_odds(reward: EntailmentReward, text: str, answers=("yes", "no")) -> float:
    """Logit of one answer less that of the other, by transformers, for one unpadded text."""
    tokenizer, model = reward.tokenizer, reward.model
    ids = torch.tensor([[*tokenizer(text)["input_ids"], tokenizer.eos_token_id]])
    logits = model(input_ids=ids, decoder_input_ids=torch.zeros(1, 1, dtype=torch.int64)).logits
    yes, no = (logits[0, 0, tokenizer.convert_tokens_to_ids(word)] for word in answers)
    return (yes - no).item()


# -- any reward -----------------------------------------------------------------------------------


def test_score_returns_float32_of_the_right_shape():
    """Lists, integers and tensors with gradients come back as plain float32 [B, K]."""
    given = [["a", "b"], ["c", "d"], ["e", "f"]]
    weight = torch.ones(3, 2, dtype=torch.float64, requires_grad=True)
    for values in ([[1, 2], [3, 4], [5, 6]], weight * 2):
        found = score(lambda prompts, texts, v=values: v, ["x", "y", "z"], given)
        assert found.shape == (3, 2) and found.dtype == torch.float32 and not found.requires_grad


@pytest.mark.parametrize("shape", [(3,), (2, 3), (3, 2, 1), (6,)])
def test_score_refuses_another_shape(shape):
    """Three prompts of two completions are [3, 2] and nothing else."""
    with pytest.raises(ValueError, match=r"returned shape .* expected \(3, 2\)"):
        score(lambda prompts, texts: torch.zeros(shape), ["x", "y", "z"], [["a", "b"]] * 3)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_score_quotes_the_first_completion_without_a_number(bad):
    """The second completion of the third prompt is the first bad one of two."""
    values = torch.zeros(4, 2)
    values[2, 1] = values[3, 0] = bad
    texts = [["a", "b"], ["c", "d"], ["e", "this one"], ["g", "h"]]
    with pytest.raises(ValueError, match=f"{bad} for completion 1 of prompt 2: 'this one'"):
        score(lambda prompts, completions: values, list("wxyz"), texts)


# -- entailment -----------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
def test_entailment_is_the_models_own_log_odds(tied):
    """log p(yes) - log p(no) at the first decoder position is the difference of two logits, which
    transformers gives for each text alone, without padding; also where T5 scales its logits."""
    reward = reward_of(tied)
    values = reward(PREMISES, [CLAIMS[:2], CLAIMS[1:3], CLAIMS[3:]])
    assert values.shape == (3, 2) and values.std() > 0.2
    for b, claims in enumerate([CLAIMS[:2], CLAIMS[1:3], CLAIMS[3:]]):
        for k, claim in enumerate(claims):
            text = QUESTION.format(premise=PREMISES[b], claim=claim)
            assert values[b, k].item() == pytest.approx(own_log_odds(reward, text), abs=1e-4)


@pytest.mark.parametrize("pairs_at_once", [1, 2, 64])
def test_entailment_ignores_the_batch(pairs_at_once):
    """In any order and any company a pair gets the same number (float32 rounding: 1e-4)."""
    pairs = [(premise, claim) for premise in PREMISES for claim in CLAIMS]
    expected = torch.cat([reward_of().log_odds([p], [c]) for p, c in pairs])
    reward = reward_of(pairs_at_once=pairs_at_once)
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))
    values = reward.log_odds(*zip(*[pairs[i] for i in order], strict=True))
    torch.testing.assert_close(values, expected[order], atol=1e-4, rtol=0)


def test_the_premise_is_cut_and_the_claim_is_not():
    """Opening and premise share 6 tokens: what the premise says later changes nothing, while the
    last of 100 words of a claim does, and so does the word after it."""
    reward = reward_of(max_premise_tokens=6)
    short, long = "rain at the port", "rain at the port and a fire in july"
    first, second, third = reward.log_odds([short, long, long[:7]], ["a dog won"] * 3).tolist()
    assert first == pytest.approx(second, abs=1e-5) and abs(first - third) > 1e-3
    words = "the new law on water " * 20
    ends = reward.log_odds([short] * 3, [words + end for end in ("dog", "cat", "cat lost")])
    assert (ends - ends.roll(1)).abs().min() > 1e-4
    (row,) = reward.encode([long], [words])
    assert len(row) == 6 + 2 + 100 + 2 + 1  # "told that", the claim, "yes no", the end


def test_the_premises_end_may_be_kept_instead():
    """With three tokens to spare the last three words of a dialogue are read, whatever came first:
    the same rows as for those words alone, whose opening is cut off with the rest."""
    reward = reward_of(max_premise_tokens=3, keep_end=True)
    rows = reward.encode(["rain at the port said a dog", "said a dog"], ["yes", "yes"])
    assert rows[0] == rows[1] and len(rows[0]) == 3 + 2 + 1 + 2 + 1
    assert rows[0][:3] == reward.tokenizer("said a dog")["input_ids"][:3]


def test_a_text_without_a_word_claims_nothing():
    """Punctuation and emptiness entail anything; they get the fixed lowest score."""
    reward = reward_of()
    values = reward(PREMISES[:1], [["", " ... ", "!?", "1", "law"]])[0]
    assert values[:3].tolist() == [NO_CLAIM] * 3
    assert (values[3:] > NO_CLAIM + 10).all()


def test_question_and_answers_may_be_others():
    """Another model's wording: the same log-odds as transformers' under that wording, and swapped
    answers change the sign."""
    question = "law : {premise} case : {claim}"
    reward = EntailmentReward(wide_t5(), tiny.tokenizer(), question=question, answers=("1", "2"))
    (value,) = reward.log_odds(["rain at sea"], ["the sea"]).tolist()
    text = question.format(premise="rain at sea", claim="the sea")
    assert value == pytest.approx(own_log_odds(reward, text, ("1", "2")), abs=1e-4)
    reward.answers = ("2", "1")
    assert reward.log_odds(["rain at sea"], ["the sea"]).item() == pytest.approx(-value, abs=1e-6)


def test_scores_carry_a_gradient():
    """The reward is trained through the same `scores`; `log_odds` builds no graph."""
    reward = reward_of()
    reward.model.requires_grad_(True)
    reward.scores(reward.encode(PREMISES, CLAIMS[:3])).sum().backward()
    assert reward.model.get_output_embeddings().weight.grad.abs().sum() > 0
    assert reward.model.encoder.embed_tokens.weight.grad.abs().sum() > 0
    assert not reward.log_odds(PREMISES, CLAIMS[:3]).requires_grad
