"""The task's two models: supervised training learns, false claims are labelled so, files return."""

from __future__ import annotations

import dataclasses
import json
import math
import random

import pandas as pd
import pytest
import torch
from datasets import Dataset, DatasetDict

from bondlab import assets
from bondlab.__main__ import SHIPPED
from bondlab.lm.language_model import LanguageModel
from bondlab.making import prepare, supervised
from bondlab.making.supervised import Supervised
from bondlab.tasks import models, settings, shipped, tiny, xsum
from bondlab.tasks.entailment import EntailmentReward
from bondlab.tasks.scorers import SCORERS

TOY = Supervised(steps=40, batch=4, learning_rate=2e-2, rank=4, warmup=4, check_every=20)


def policy_of(seed: int = 0) -> LanguageModel:
    policy = LanguageModel(tiny.t5(seed), tiny.tokenizer(), max_prompt_tokens=24, max_new_tokens=6)
    policy.add_adapter(4)
    return policy


def pairs(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Documents and a summary that hardly depends on them: quickly learnt."""
    return [(text, "the city council said no") for text in tiny.documents(count, seed)]


def likelihood(policy: LanguageModel):
    def loss(batch) -> torch.Tensor:
        documents, summaries = zip(*batch, strict=True)
        completions = policy.encode_completions(summaries)
        return -policy(policy.encode(documents), completions).sum() / completions.mask.sum()

    return loss


def fitted(settings: Supervised = TOY) -> tuple[LanguageModel, pd.DataFrame]:
    policy = policy_of()
    curve = supervised.fit(
        policy, likelihood(policy), pairs(16), pairs(6, 1), settings, lambda pair: len(pair[0])
    )
    return policy, curve


# -- supervised training --------------------------------------------------------------------------


def test_fit_lowers_the_loss_on_held_out_pairs():
    """All pairs share a summary, so 40 steps bring the held-out loss per token from several nats
    (random weights) below 1. The curve has a row a step and one after the last, with the held-out
    loss at 0, 20 and 40; its last value is that of the policy returned."""
    policy, curve = fitted()
    assert list(curve.columns) == ["step", "loss", "held_out_loss", "seconds"]
    assert curve["step"].tolist() == list(range(41))
    checked = curve.dropna(subset="held_out_loss")
    assert checked["step"].tolist() == [0, 20, 40]
    first, _, last = checked["held_out_loss"]
    assert first > 3 and last < 1
    assert math.isnan(curve["loss"].iloc[-1]) and curve["loss"].notna().sum() == 40
    assert curve["loss"].iloc[0] > 3 > 1 > curve["loss"].iloc[-2]
    with torch.no_grad():
        parts = [likelihood(policy)(pairs(6, 1)[i : i + 4]).item() for i in (0, 4)]
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
    settings = dataclasses.replace(TOY, batch=2)
    stream = supervised._batches(list(range(35)), settings, lambda item: item)
    batches = [next(stream) for _ in range(18)]
    assert sorted(item for batch in batches for item in batch) == list(range(35))
    assert all(max(batch) - min(batch) <= 4 for batch in batches[:16])
    again = supervised._batches(list(range(35)), settings, lambda item: item)
    assert [next(again) for _ in range(18)] == batches
    assert batches != sorted(batches)


# -- claims ---------------------------------------------------------------------------------------


def rows(count: int) -> list[dict]:
    """Evidence and claim share a name and a number that no other row has; every third claim is
    supported, every third refuted, every third not decided."""
    towns = ["Paris", "Oslo", "Lima", "Rome", "Cairo", "Quito", "Dakar", "Delhi"]
    labels = ["SUPPORTS", "REFUTES", "NOT ENOUGH INFO"]
    return [
        {
            "evidence": f"In row {i}, {towns[i % 8]} beat {towns[(i + 3) % 8]} by {i + 40} points.",
            "claim": f"The side from {towns[i % 8]} won by {i + 40} points.",
            "label": labels[i % 3],
        }
        for i in range(count)
    ]


def test_claims_without_hard_negatives_are_the_rows():
    """One a row in order; only SUPPORTS is entailed."""
    given = rows(9)
    made = prepare.claims(given, random.Random(0), hard_negatives=False)
    assert [(c.evidence, c.claim) for c in made] == [(r["evidence"], r["claim"]) for r in given]
    assert [c.entailed for c in made] == [True, False, False] * 3
    assert {c.origin for c in made} == {"vitaminc"}


def test_hard_negatives_are_false_and_come_in_the_stated_shares():
    """Of 400 true claims a half get a wrong number, a half a wrong name, a tenth are garbled and a
    tenth get foreign evidence (each within 5 binomial deviations). All are labelled false and
    differ from the true claim in just that; true claims stay as they were."""
    given = rows(1200)
    made = prepare.claims(given, random.Random(0), hard_negatives=True)
    true = {r["claim"]: r["evidence"] for r in given if r["label"] == "SUPPORTS"}
    by_origin = {name: [c for c in made if c.origin == name] for name in {c.origin for c in made}}
    assert set(by_origin) == {"vitaminc", "number", "name", "garbled", "foreign"}
    assert len(by_origin["vitaminc"]) == 1200
    for name, share in {"number": 0.5, "name": 0.5, "garbled": 0.1, "foreign": 0.1}.items():
        deviation = math.sqrt(400 * share * (1 - share))
        assert abs(len(by_origin[name]) - 400 * share) < 5 * deviation, name
        assert not any(claim.entailed for claim in by_origin[name])
    for claim in by_origin["vitaminc"]:
        assert claim.entailed == (claim.claim in true)
    for claim in by_origin["number"]:
        number = next(word for word in claim.claim.split() if word.isdigit())
        sources = [t for t, e in true.items() if e in claim.evidence]
        assert any(
            claim.claim.replace(number, "#") == text.replace(word, "#") and number != word
            for text in sources for word in text.split() if word.isdigit()
        )  # fmt: skip
    assert not any(claim.claim in true for claim in by_origin["name"] + by_origin["garbled"])
    for claim in by_origin["garbled"]:
        words = set(claim.claim.split())
        assert any(
            words <= {*text.split(), *evidence.split()}
            for text, evidence in true.items() if evidence in claim.evidence
        )  # fmt: skip
    assert all(claim.claim in true for claim in by_origin["foreign"])
    assert all(true[claim.claim] not in claim.evidence for claim in by_origin["foreign"])


def test_foreign_evidence_is_never_the_claims_own():
    """With two rows every second choice of "foreign" evidence would be the claim's own, and a true
    claim would be labelled false."""
    given = [r for r in rows(6) if r["label"] == "SUPPORTS"]
    own = {r["claim"]: r["evidence"] for r in given}
    found = [
        claim
        for seed in range(300)
        for claim in prepare.claims(given, random.Random(seed), hard_negatives=True)
        if claim.origin == "foreign" and claim.evidence in own.values()
    ]
    assert len(found) > 5
    assert all(claim.evidence != own[claim.claim] for claim in found)


def test_some_evidence_is_hidden_among_others():
    """A fifth of the pairs (5 deviations) have longer evidence that still contains their own."""
    given = rows(600)
    made = prepare.claims(given, random.Random(1), hard_negatives=True)[:600]
    longer = [(c, r) for c, r in zip(made, given, strict=True) if c.evidence != r["evidence"]]
    assert abs(len(longer) - 120) < 5 * math.sqrt(600 * 0.2 * 0.8)
    assert all(r["evidence"] in c.evidence and c.claim == r["claim"] for c, r in longer)
    assert {c.evidence.count("points.") for c, _ in longer} == {2, 3, 4}


# -- files ----------------------------------------------------------------------------------------


def test_adapter_curve_and_manifest_are_written(tmp_path):
    """What is loaded is what was saved (in bfloat16), beside its curve and its settings."""
    policy, curve = fitted(dataclasses.replace(TOY, steps=4, check_every=2))
    supervised.save(policy, tmp_path / "a", curve, TOY, ["toy train"])
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names >= {"adapter_model.safetensors", "adapter_config.json", "training.csv"}
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert manifest["data"] == ["toy train"] and manifest["base"] == shipped.BASE
    assert manifest["settings"] == dataclasses.asdict(TOY)
    stored = pd.read_csv(tmp_path / "a" / "training.csv")
    pd.testing.assert_frame_equal(stored, curve.round(4), check_dtype=False)
    loaded = LanguageModel(tiny.t5(), tiny.tokenizer())
    loaded.load_adapter(tmp_path / "a")
    for read, written in zip(loaded.trainable(), policy.trainable(), strict=True):
        assert torch.equal(read, written.bfloat16().float())


def test_load_reads_a_local_folder_in_float32(tmp_path):
    """Model and tokenizer of a folder; the summariser adds template and limits, overridable."""
    tiny.t5(3).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    model, tokenizer = models.load(str(tmp_path))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(model.lm_head.weight, tiny.t5(3).lm_head.weight)
    made = xsum.summariser(model, tokenizer, max_new_tokens=5)
    assert (made.max_prompt_tokens, made.max_new_tokens) == (settings.DOCUMENT_TOKENS, 5)
    assert made.template == xsum.TEMPLATE


@pytest.fixture
def toy_assets(monkeypatch, tmp_path):
    """Tiny models and toy data in the place of the real ones, weights in a temporary folder."""
    summaries = [{"id": str(i), "document": d, "summary": s} for i, (d, s) in enumerate(pairs(12))]
    half = Dataset.from_list(summaries)
    data = {
        "xsum": DatasetDict(train=half, validation=half.select(range(4)), test=half),
        "bbc": DatasetDict(train=half),
        "vitaminc": DatasetDict(
            train=Dataset.from_list(rows(60)), test=Dataset.from_list(rows(520))
        ),
    }
    monkeypatch.setattr(assets, "dataset", data.__getitem__)
    monkeypatch.setattr(models, "load", lambda name=shipped.BASE: (tiny.t5(2), tiny.tokenizer()))
    monkeypatch.setattr(shipped, "WEIGHTS", tmp_path / "weights")
    short = dataclasses.replace(TOY, steps=3, check_every=3)
    monkeypatch.setattr(prepare.train_reference, "__defaults__", (short, None))
    monkeypatch.setattr(prepare.train_reward, "__defaults__", (short, None))

    def train(name: str) -> None:  # `test_scorer_training` has the real one
        for file in ("manifest.json", "adapter_model.safetensors"):
            (tmp_path / "weights" / name).mkdir(exist_ok=True)
            (tmp_path / "weights" / name / file).touch()

    monkeypatch.setattr(prepare.scorer_training, "train", train)
    return tmp_path / "weights"


def test_prepare_makes_every_model_once(toy_assets, capsys):
    """From nothing all are trained and say so; then all are ready; `retrain` of one makes only
    that one anew; the task finds what was made and folds it in."""
    with pytest.raises(FileNotFoundError, match="prepare --only xsum_reference`"):
        xsum.reference("fp32")
    prepare.prepare()
    trained = ["xsum_reference", "xsum_reward", *SCORERS]
    assert capsys.readouterr().out.splitlines() == [f"{name}: training" for name in trained]
    made = {path: path.stat().st_mtime_ns for path in toy_assets.glob("*/manifest.json")}
    assert {path.parent.name for path in made} == {"xsum_reference", "xsum_reward", *SCORERS}
    prepare.prepare()
    assert capsys.readouterr().out.splitlines() == [f"{name}: ready" for name in trained]
    assert all(path.stat().st_mtime_ns == before for path, before in made.items())
    prepare.prepare(retrain=True, only="xsum_reward")
    changed = {path.parent.name for path, old in made.items() if path.stat().st_mtime_ns != old}
    assert changed == {"xsum_reward"}
    reference, reward = xsum.reference("fp32", max_new_tokens=5), xsum.reward("fp32")
    plain = tiny.t5(2)
    assert set(reference.model.state_dict()) == set(plain.state_dict())
    assert not torch.equal(
        reference.model.encoder.block[0].layer[0].SelfAttention.q.weight,
        plain.encoder.block[0].layer[0].SelfAttention.q.weight,
    )
    assert isinstance(reward, EntailmentReward)
    assert reward.log_odds(["rain at sea"], ["the sea"]).isfinite().all()


def test_prepare_names_what_it_can_make():
    """A model is called as its folder is; none is called x, which the message tells by naming
    those that there are. The command takes the same names."""
    assert set(SHIPPED) == set(prepare.makers())
    assert set(SHIPPED) == {path.name for path in shipped.WEIGHTS.iterdir() if path.is_dir()}
    known = r"only must be one of \['chat_judge', .*'xsum_reward'\], not 'x'"
    with pytest.raises(ValueError, match=known):
        prepare.prepare(only="x")
