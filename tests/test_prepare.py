"""The package's adapters: supervised training learns, each recipe leaves what loads again."""

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
from bondlab.lm.language_model import LanguageModel
from bondlab.making import prepare
from bondlab.making.preferences import Comparison, Judged
from bondlab.making.prepare import RECIPES, Recipe, Supervised, bradley_terry, likelihood, pointwise
from bondlab.tasks import models, scorers, tiny, xsum

TOY = Supervised(steps=40, batch=4, learning_rate=2e-2, rank=4, warmup=4, check_every=20)
SHORT = Supervised(steps=3, batch=4, learning_rate=1e-2, rank=2, warmup=1, check_every=3)


def pairs(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Documents and a summary that hardly depends on them: quickly learnt."""
    return [(text, "the city council said no") for text in tiny.documents(count, seed)]


def fitted(settings: Supervised = TOY) -> tuple[LanguageModel, pd.DataFrame]:
    policy = LanguageModel(tiny.t5(), tiny.tokenizer(), max_prompt_tokens=24, max_new_tokens=6)
    policy.add_adapter(4)
    recipe = dataclasses.replace(RECIPES["xsum_reference"], settings=settings)
    return policy, prepare.fit(policy, recipe, pairs(16), pairs(6, 1))


# -- supervised training --------------------------------------------------------------------------


def test_fit_lowers_the_loss_on_held_out_pairs():
    """All pairs share a summary, so 40 steps bring the held-out loss per token from several nats
    (random weights) below 1. The curve has a row a step and one after the last, with the held-out
    loss at 0, 20 and 40; its last value is that of the policy returned."""
    policy, curve = fitted()
    assert curve["step"].tolist() == list(range(41))
    checked = curve.dropna(subset="held_out_loss")
    assert checked["step"].tolist() == [0, 20, 40]
    first, _, last = checked["held_out_loss"]
    assert first > 3 and last < 1
    assert math.isnan(curve["loss"].iloc[-1]) and curve["loss"].notna().sum() == 40
    assert curve["loss"].iloc[0] > 3 > 1 > curve["loss"].iloc[-2]
    with torch.no_grad():
        parts = [likelihood(policy, pairs(6, 1)[i : i + 4]).item() for i in (0, 4)]
    # bfloat16 where the processor multiplies it: two digits
    assert (4 * parts[0] + 2 * parts[1]) / 6 == pytest.approx(last, rel=0.05, abs=0.02)


def test_fit_repeats_for_a_seed():
    """Batches come from the seed: the same curve twice, another with another seed."""
    short = dataclasses.replace(TOY, steps=5)
    first, again, other = (
        fitted(settings)[1]["loss"].iloc[:5].tolist()
        for settings in (short, short, dataclasses.replace(short, seed=1))
    )
    assert first == again != other


def test_learning_rate_rises_and_falls(monkeypatch):
    """Over 6 steps Adam gets 1/2 and 1 of the rate (warm-up of 2), then 1, 3/4, 1/2 and 1/4 (decay
    that would reach 0 at step 6)."""
    rates, step = [], torch.optim.AdamW.step

    def recorded(self, *positional, **named):
        rates.append(self.param_groups[0]["lr"] / 1e-3)
        return step(self, *positional, **named)

    monkeypatch.setattr(torch.optim.AdamW, "step", recorded)
    fitted(dataclasses.replace(TOY, steps=6, warmup=2, learning_rate=1e-3))
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.75, 0.5, 0.25])


def test_batches_cover_the_data_and_are_alike_in_length():
    """35 items of lengths 0 to 34 in batches of 2: a pass has every item once. It is sorted in a
    window of 32, which lacks 3 of the lengths, so partners are at most 4 apart there; the last
    window has 3 items. Batches do not come in order of length."""
    recipe = Recipe(dataclasses.replace(TOY, batch=2), [], lambda rng: None, length=lambda x: x)
    stream = prepare.batches(list(range(35)), recipe)
    batches = [next(stream) for _ in range(18)]
    assert sorted(item for batch in batches for item in batch) == list(range(35))
    assert all(max(batch) - min(batch) <= 4 for batch in batches[:16])
    assert batches != sorted(batches)


# -- losses ---------------------------------------------------------------------------------------


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
    assert pointwise(Fixed(), batch).item() == pytest.approx(expected, abs=1e-6)


def compared(prompt: str, better: str, worse: str) -> Comparison:
    return tuple(Judged(prompt, text, text == better, "", "") for text in (better, worse))


@pytest.mark.parametrize("shift", [0, 5])
def test_bradley_terry_loss_sees_differences_alone(shift):
    """-log sigmoid(chosen - rejected), averaged: 3 - 1 and 0 - 1; adding 5 to both changes none."""
    numbers = [(3 + shift, 1 + shift), (0 + shift, 1 + shift)]
    batch = [compared("p", str(better), str(worse)) for better, worse in numbers]
    expected = (math.log1p(math.exp(-2)) + math.log1p(math.exp(1))) / 2
    assert bradley_terry(Fixed(), batch).item() == pytest.approx(expected, abs=1e-6)


# -- recipes --------------------------------------------------------------------------------------


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """Short recipes on tiny models and made-up data; weights in a temporary folder."""
    rows = [
        dict.fromkeys(("document", "evidence", "text"), text)
        | dict.fromkeys(("summary", "claim", "reply", "page"), text[:30])
        | {"context": [text], "dialogue": f"d{i // 5}"}
        | {"source": ("imdb", "rotten_tomatoes")[i // 2 % 2]}
        for i, text in enumerate(tiny.documents(60, words=30))
    ]

    def dataset(name: str) -> DatasetDict:
        labels = ("SUPPORTS", "REFUTES") if name == "vitaminc" else (0, 1)
        own = [row | {"label": labels[i % 2]} for i, row in enumerate(rows)]
        return DatasetDict(dict.fromkeys(("train", "validation", "test"), Dataset.from_list(own)))

    monkeypatch.setattr(assets, "dataset", dataset)
    monkeypatch.setattr(models, "WEIGHTS", tmp_path)
    monkeypatch.setattr(models, "load", lambda name: (tiny.t5(1), tiny.tokenizer()))
    monkeypatch.setattr(models, "encoder", lambda name: tiny_encoder())
    for name, recipe in RECIPES.items():
        monkeypatch.setitem(RECIPES, name, dataclasses.replace(recipe, settings=SHORT))


def loaded(name: str):
    if name == xsum.POLICY:
        return models.reference(xsum.policy, name, "fp32")
    return scorers.load(name, "fp32")


@pytest.mark.parametrize("name", RECIPES)
def test_training_leaves_a_model_that_loads(toy, name):
    """Adapter, curve and manifest with data, base and settings; what loads has the adapter folded
    in, and computes something else than before training."""
    with pytest.raises(FileNotFoundError, match=f"prepare --only {name}`"):
        loaded(name)
    folder = prepare.train(name, RECIPES[name])
    assert folder == models.WEIGHTS / name
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["data"] == RECIPES[name].data
    assert manifest["base"] == (scorers.ENCODER if (folder / "head.safetensors").exists()
                                else models.BASE)  # fmt: skip
    assert manifest["settings"] == dataclasses.asdict(SHORT)
    curve = pd.read_csv(folder / "training.csv")
    assert len(curve) == 4 and curve["held_out_loss"].notna().sum() == 2
    after, before = loaded(name), RECIPES[name].model(name)
    assert not any(parameter.requires_grad for parameter in after.parameters())
    assert set(after.state_dict()) == set(before.state_dict())
    state = before.state_dict()
    assert any((x.float() - state[key]).abs().max() > 1e-4 for key, x in after.state_dict().items())


def test_rewards_and_judges_share_no_training_data(toy):
    """Reviews by source; dialogues by half, none of the judge's among the reward's."""
    names = [name for name in RECIPES if not name.startswith("xsum")]
    made = {name: RECIPES[name].examples(random.Random(0))[0] for name in names}
    assert {x.origin for x in made["sentiment_reward"]} == {"imdb"}
    assert {x.origin for x in made["sentiment_judge"]} == {"rotten_tomatoes"}
    rewarded = {x.group for pair in made["chat_reward"] for x in pair}
    judged = {x.group for x in made["chat_judge"]}
    assert rewarded and judged and not rewarded & judged


def test_what_ships_is_what_there_are_recipes_for():
    assert set(RECIPES) == {path.name for path in models.WEIGHTS.iterdir() if path.is_dir()}
    assert {*scorers.SCORERS, xsum.POLICY} == set(RECIPES)


def test_prepare_makes_what_is_missing_or_asked_for(toy, monkeypatch, capsys):
    """From nothing all are trained and say so; then all are ready; `retrain` of one makes only
    that one anew; none is called x, which the message tells by naming those that there are."""
    trained = []
    monkeypatch.setattr(prepare, "train", lambda name, recipe: weigh(name) or trained.append(name))

    def weigh(name: str) -> None:
        (models.WEIGHTS / name).mkdir(exist_ok=True)
        (models.WEIGHTS / name / "adapter_model.safetensors").touch()

    for said in ("training", "ready"):
        prepare.prepare()
        assert capsys.readouterr().out.splitlines() == [f"{name}: {said}" for name in RECIPES]
    prepare.prepare(retrain=True, only="xsum_reward")
    assert trained == [*RECIPES, "xsum_reward"]
    with pytest.raises(assets.AssetError, match="no adapter is called 'x': choose .*_reference, x"):
        prepare.prepare(only="x")
