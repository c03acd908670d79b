"""The scorers' trainings learn what they should, from the data they name, and leave their files."""

from __future__ import annotations

import dataclasses
import json
import math
import random

import pandas as pd
import pytest
import torch
from datasets import Dataset, DatasetDict
from encoders import tiny_encoder

from bondlab import assets
from bondlab.making import scorer_training, supervised
from bondlab.making.preferences import Comparison, Judged
from bondlab.tasks import models, scorers, shipped, tiny
from bondlab.tasks.scorers import SCORERS, EncoderReward

SHORT = supervised.Supervised(steps=3, batch=4, learning_rate=1e-2, rank=2, warmup=1, check_every=3)


class Fixed:
    """A scorer whose score of a text is the number that the text is."""

    def encode(self, prompts, completions):
        return list(completions)

    def scores(self, rows):
        return torch.tensor([float(row) for row in rows])


def test_pointwise_loss_is_the_cross_entropy():
    """-log sigmoid(s) of a good text, -log sigmoid(-s) of a bad one, averaged."""
    batch = [Judged("p", "2", True, "", ""), Judged("p", "-1", False, "", "")]
    expected = (math.log1p(math.exp(-2)) + math.log1p(math.exp(-1))) / 2
    assert scorer_training.pointwise(Fixed(), batch).item() == pytest.approx(expected, abs=1e-6)


def test_bradley_terry_loss_sees_differences_alone():
    """-log sigmoid(chosen - rejected), averaged: 3 - 1 and 0 - 1; adding 5 to both changes none."""
    batch = [Comparison("p", "3", "1", "", ""), Comparison("p", "0", "1", "", "")]
    expected = (math.log1p(math.exp(-2)) + math.log1p(math.exp(1))) / 2
    assert scorer_training.bradley_terry(Fixed(), batch).item() == pytest.approx(expected, abs=1e-6)
    moved = [dataclasses.replace(x, chosen=str(float(x.chosen) + 5),
                                 rejected=str(float(x.rejected) + 5)) for x in batch]  # fmt: skip
    assert scorer_training.bradley_terry(Fixed(), moved).item() == pytest.approx(expected, abs=1e-6)


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """Tiny models; reviews and dialogues of the tiny vocabulary; weights in a temporary folder."""
    texts = tiny.documents(60, words=30)
    reviews = [
        {"text": text, "label": i % 2, "source": ("imdb", "rotten_tomatoes")[i // 2 % 2]}
        for i, text in enumerate(texts)
    ]
    turns = [
        {"dialogue": f"d{i // 5}", "context": [text], "reply": texts[i - 1]}
        for i, text in enumerate(texts)
    ]

    def splits(rows, *names):
        return DatasetDict({name: Dataset.from_list(rows) for name in names})

    data = {"movie_reviews": splits(reviews, "train", "test"),
            "topical_chat": splits(turns, "train", "validation")}  # fmt: skip
    monkeypatch.setattr(assets, "dataset", data.__getitem__)
    monkeypatch.setattr(shipped, "WEIGHTS", tmp_path)
    monkeypatch.setattr(models, "load", lambda name: (tiny.t5(1), tiny.tokenizer()))
    monkeypatch.setattr(scorers, "encoder", tiny_encoder)
    scorers.load.cache_clear()
    yield tmp_path
    scorers.load.cache_clear()


@pytest.mark.parametrize("name", SCORERS)
def test_training_leaves_a_scorer_that_loads(toy, name):
    """Adapter, curve and manifest with the data's name; what loads scores texts differently from
    before training."""
    folder = scorer_training.train(name, SHORT)
    assert folder == toy / name
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["data"] == [scorer_training.SOURCES[name]]
    assert manifest["base"] == (scorers.ENCODER if name.endswith("reward") else shipped.BASE)
    assert len(pd.read_csv(folder / "training.csv")) == 4
    _, before = scorers.untrained(name)
    prompts, texts = ["the city council"], [["said no to the law", "won the match"]]
    change = scorers.load(name, "fp32")(prompts, texts) - before(prompts, texts)
    assert change.abs().max() > 1e-4


def test_rewards_and_judges_share_no_training_data(toy):
    """Reviews by source; dialogues by half, none of the judge's among the reward's."""
    made = {name: scorer_training.examples_of(name, random.Random(0))[0] for name in SCORERS}
    assert {x.origin for x in made["sentiment_reward"]} == {"imdb"}
    assert {x.origin for x in made["sentiment_judge"]} == {"rotten_tomatoes"}
    assert isinstance(made["chat_reward"][0], Comparison)
    groups = {name: {x.group for x in made[name]} for name in ("chat_reward", "chat_judge")}
    assert groups["chat_reward"] and groups["chat_judge"]
    assert not groups["chat_reward"] & groups["chat_judge"]


def test_the_encoder_learns_which_reply_is_better():
    """Of two replies the one that says "yes" is better: 40 steps on 32 comparisons bring the
    held-out loss from log 2 (all scores are 0) below a tenth."""
    torch.manual_seed(0)
    texts = tiny.documents(48, words=8)
    pairs = [Comparison(a, "yes " + a, "no " + a, "", "") for a in texts]
    reward = EncoderReward(*tiny_encoder(), separate=True)
    reward.add_adapter(4)
    settings = dataclasses.replace(SHORT, steps=40, batch=8, check_every=40)

    def loss(batch):
        return scorer_training.bradley_terry(reward, batch)

    curve = supervised.fit(reward, loss, pairs[:32], pairs[32:], settings, scorer_training._length)
    first, last = curve["held_out_loss"].dropna()
    assert first == pytest.approx(math.log(2), abs=1e-3) and last < 0.1


def test_curves_of_shipped_trainings_are_smoothed_and_named(toy):
    """The mean of the losses so far (fewer than 20 steps), and the held-out losses as they are."""
    scorer_training.train("chat_reward", SHORT)
    drawn = supervised.curves({"chat": "chat_reward"})
    curve = pd.read_csv(toy / "chat_reward" / "training.csv")
    smooth = drawn[drawn["series"] != "held out"]["mean"]
    assert smooth.tolist() == pytest.approx(curve["loss"].expanding().mean().tolist())
    held_out = drawn[drawn["series"] == "held out"]
    assert held_out["step"].tolist() == [0, 3] and drawn["panel"].unique().tolist() == ["chat"]
    first, last = supervised.before_and_after(drawn, {"chat": "nats"})
    assert [first["value"], last["value"]] == held_out["mean"].tolist()
