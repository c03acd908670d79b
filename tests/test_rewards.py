"""Rewards are checked where they enter; the entailment reward is the T5's own log-odds."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from bondlab.task import score
from bondlab.tasks import tiny
from bondlab.tasks.scorers import NO_CLAIM, EntailmentReward, Question

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


def reward_of(tied: bool = False, pairs_at_once: int = 64, **settings) -> EntailmentReward:
    question = Question(QUESTION, wordless=NO_CLAIM, **settings)
    reward = EntailmentReward(wide_t5(tied), tiny.tokenizer(), question)
    reward.pairs_at_once = pairs_at_once
    return reward


def own_log_odds(reward: EntailmentReward, text: str, answers=("yes", "no")) -> float:
    """Logit of one answer less that of the other, by transformers, for one unpadded text."""
    tokenizer, model = reward.tokenizer, reward.model
    ids = torch.tensor([[*tokenizer(text)["input_ids"], tokenizer.eos_token_id]])
    logits = model(input_ids=ids, decoder_input_ids=torch.zeros(1, 1, dtype=torch.int64)).logits
    yes, no = (logits[0, 0, tokenizer.convert_tokens_to_ids(word)] for word in answers)
    return (yes - no).item()


# -- any reward -----------------------------------------------------------------------------------


NUMBERS = [[1, 2], [3, 4], [5, 6]]
TEXTS = [["a", "b"], ["c", "d"], ["e", "f"]]


def scored(values) -> torch.Tensor:
    """What `score` makes of a reward that returns these values for three prompts."""
    return score(lambda prompts, texts: values, ["x", "y", "z"], TEXTS)


@pytest.mark.parametrize(
    "values",
    [
        NUMBERS,
        tuple(map(tuple, NUMBERS)),
        [torch.tensor(row) for row in NUMBERS],
        [[torch.tensor(float(x)) for x in row] for row in NUMBERS],
        [[np.float32(x) for x in row] for row in NUMBERS],
        np.array(NUMBERS, dtype=np.float16),
        pd.DataFrame(NUMBERS),
        torch.tensor(NUMBERS, dtype=torch.bfloat16),
        torch.tensor(NUMBERS) * torch.ones(3, 2, dtype=torch.float64, requires_grad=True),
    ],
)
def test_score_takes_any_matrix_of_numbers(values):
    """Tensors, arrays, tables, lists of rows: all come back as plain float64 [B, K]."""
    found = scored(values)
    assert found.dtype == torch.float64 and not found.requires_grad
    assert found.tolist() == NUMBERS


def test_a_large_constant_changes_no_rank():
    """1e9 + 1, ..., 6: float32 has steps of 64 there, and would make all of them equal."""
    found = scored(1e9 + torch.tensor(NUMBERS, dtype=torch.float64))
    assert (found - 1e9).tolist() == NUMBERS


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (None, r"None \(did it forget to return\?\)"),
        ([[1, None], [2, 3], [4, 5]], "nan for completion 1 of prompt 0"),
        ([[1], [2, 3], [4]], "a list .*equal size"),
        ((row for row in NUMBERS), "a generator"),
        ({"reward": NUMBERS}, "a dict"),
        ([["good", "bad"]] * 3, "a list .*'good'"),
        (1.0, r"shape \[\]"),
        ([], "a list"),
        (torch.zeros(3), r"shape \[3\]"),
        (torch.zeros(2, 3), r"shape \[2, 3\]"),
        (torch.zeros(3, 2, 1), r"shape \[3, 2, 1\]"),
    ],
)
def test_score_says_what_is_no_matrix_of_numbers(values, said):
    """One sentence for each: what came, and what was expected."""
    expected = r".*(expected a \[B, K\] = \[3, 2\]|return a finite number)"
    with pytest.raises(ValueError, match=rf"^the reward returned {said}{expected}"):
        scored(values)


def test_a_reward_computes_in_its_own_precision():
    """Inside a run's bfloat16 a product of float32 matrices stays float32, and numpy takes it; the
    run's precision is back afterwards."""
    left = torch.linspace(0, 1, 6).view(3, 2)

    def product(prompts, texts):
        return (100 + left @ torch.eye(2)).numpy()

    with torch.autocast("cpu", torch.bfloat16):
        found = score(product, ["x", "y", "z"], TEXTS)
        assert (left @ left.T).dtype == torch.bfloat16
    assert torch.equal(found, (100 + left).double())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_score_quotes_the_first_completion_without_a_number(bad):
    """The second completion of the second prompt is the first bad one of two."""
    with pytest.raises(ValueError, match=f"{bad} for completion 1 of prompt 1: 'd'"):
        scored([[0, 0], [0, bad], [bad, 0]])


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
    text = "law : {premise} case : {claim}"
    reward = EntailmentReward(wide_t5(), tiny.tokenizer(), Question(text, answers=("1", "2")))
    (value,) = reward.log_odds(["rain at sea"], ["the sea"]).tolist()
    filled = text.format(premise="rain at sea", claim="the sea")
    assert value == pytest.approx(own_log_odds(reward, filled, ("1", "2")), abs=1e-4)
    reward = EntailmentReward(wide_t5(), tiny.tokenizer(), Question(text, answers=("2", "1")))
    assert reward.log_odds(["rain at sea"], ["the sea"]).item() == pytest.approx(-value, abs=1e-6)


def test_weights_in_bfloat16_are_used_as_in_a_run():
    """The same numbers as under a run's own bfloat16, where layers such as norms stay in float32;
    a model in float32 is exact there, whatever the run."""
    reward = reward_of()
    exact = score(reward, PREMISES, [CLAIMS[:2]] * 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(score(reward, PREMISES, [CLAIMS[:2]] * 3), exact)
    reward.model.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        expected = reward(PREMISES, [CLAIMS[:2]] * 3)
    assert torch.equal(score(reward, PREMISES, [CLAIMS[:2]] * 3), expected.double())
    assert (exact - expected).abs().max() > 1e-3


def test_scores_carry_a_gradient():
    """The reward is trained through the same `scores`; `log_odds` builds no graph."""
    reward = reward_of()
    reward.model.requires_grad_(True)
    reward.scores(reward.encode(PREMISES, CLAIMS[:3])).sum().backward()
    for weight in (reward.model.get_output_embeddings(), reward.model.encoder.embed_tokens):
        assert weight.weight.grad.abs().sum() > 0
    assert not reward.log_odds(PREMISES, CLAIMS[:3]).requires_grad
