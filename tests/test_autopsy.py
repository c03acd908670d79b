"""The autopsy on a model: each arm has the fault that it is said to have; one measure for all."""

from __future__ import annotations

import pytest
import torch

from bondlab import rules
from bondlab.anchors import MovingAverage
from bondlab.rules import Scores
from bondlab.study import autopsy, evidence
from bondlab.study.experiment import RunSettings
from bondlab.tasks import TaskSettings
from bondlab.tasks.stand_ins import threshold
from bondlab.toy.autopsy import ARMS


def test_the_average_in_bfloat16_is_torchs_own():
    """Bit for bit what tensors of bfloat16 do in place; of a change of 1 % nothing arrives along
    the way, where the float32 average goes 1 - 0.98^50 of it."""
    start = torch.randn(500, generator=torch.Generator().manual_seed(0)).bfloat16()
    policy, own = start.float() * 1.01, start.clone()
    anchors = {kind: start.float() for kind in (autopsy.Bfloat16Average, MovingAverage)}
    for step in range(1, 51):
        own.mul_(0.98).add_(policy.bfloat16(), alpha=0.02)
        for kind, anchor in anchors.items():
            kind(0.02).update([anchor], [policy], step)
    coarse, fine = anchors.values()
    assert torch.equal(coarse, own.float())
    way = policy - start.float()
    shares = [((x - start.float()) @ way / (way @ way)).item() for x in (coarse, fine)]
    assert shares[0] < 0.1 and shares[1] == pytest.approx(1 - 0.98**50, rel=1e-2)


def test_the_printed_sign_turns_the_pull_round():
    """-gamma log ratio / K becomes + : their mean is J-BOND with gamma 0."""
    generator = torch.Generator().manual_seed(0)
    anchor, own, ratio = (torch.randn(3, k, generator=generator) for k in (2, 2, 2))
    scores = Scores(anchor, own, None, ratio)
    both = autopsy.printed_sign(scores, 0.5, 0.1), rules.j_bond(scores, 0.5, 0.1)
    torch.testing.assert_close(sum(both) / 2, rules.j_bond(scores, 0.5, 0.0))
    assert not torch.allclose(*both)


def test_a_binary_reward_is_known_by_its_name():
    """One that cannot be read a task refuses, before any work."""
    assert [threshold(name) for name in ("taste > 0.5", "taste", None)] == [0.5, None, None]
    with pytest.raises(ValueError, match="'taste > much' needs a number behind >"):
        TaskSettings(name="tiny", train=8, evaluate=4, reward="taste > much")


@pytest.fixture(scope="module")
def found(shared_folders):
    """The arms at profile smoke: their runs' folders by name, and the tables."""
    results = autopsy.results(RunSettings(profile="smoke", workers=1))
    wanted = autopsy.specs("smoke")
    folders = autopsy.EXPERIMENT.sweep(wanted)
    return {s.labels["series"]: f for s, f in zip(wanted, folders, strict=True)}, results


def test_every_arm_is_trained_on_what_it_says(found):
    """A binary reward names another run than scores do, though both are measured by scores."""
    folders, results = found
    assert [*folders] == [arm.name for arm in ARMS]
    trained = {name: folder.evaluation().query("step > 0") for name, folder in folders.items()}
    assert [set(t["reward"]) <= {0.0, 1.0} for t in trained.values()] == [a.binary for a in ARMS]
    named = [folder.manifest["config"]["task"]["reward"] for folder in folders.values()]
    assert named == ["tiny > 0.5" if arm.binary else "tiny" for arm in ARMS]
    assert not results["evaluations"]["reward"].isin([0, 1]).any()


def test_success_is_the_share_of_completions_above_the_threshold(found):
    """As each run stored it: the binary reward itself, or the last arm's score held against it.
    Before training all arms are the reference."""
    folders, results = found
    table = results["evaluations"]
    for arm in ARMS:
        own = folders[arm.name].evaluation().query("source == 'policy'")
        yes = own["reward"] if arm.binary else (own["reward"] > 0.5) * 1.0
        wanted = yes.groupby([own["step"], own["prompt"]]).mean()
        told = table[table["series"] == arm.name].set_index(["step", "prompt"])["success"]
        assert told.to_dict() == wanted.to_dict()
    first = table[table["step"] == 0].groupby("prompt")["reward"]
    assert first.nunique().eq(1).all()
    base = results["baselines"].set_index(["n", "prompt"])["success"]
    assert (base.loc[2] >= base.loc[1]).all() and base.between(0, 1).all()


def test_the_anchors_way_is_the_records(found):
    """0 before the first step. A step that a record lacks has none."""
    folders, results = found
    table = results["evaluations"].groupby(["series", "step"])["anchor_share"].first()
    for name, folder in folders.items():
        record = folder.record().set_index("step")["anchor_share"]
        assert table[name].to_dict() == {0: 0.0, 2: record[2], 4: record[4]}


def test_the_rule_tells_a_stuck_anchor_from_one_that_follows(found):
    """With success and the anchor's way made up, on the evidence that the smoke runs leave."""
    (claim,), (_, results) = autopsy.EXPERIMENT.claims, found
    table = evidence.of(results)

    def decided(stuck: float, gain: float, follows: float = 1.0) -> str:
        made, steady = table.copy(), MovingAverage(autopsy.ETA).share(4)
        first = made["series"] == autopsy.PUBLISHED
        made["anchor_share"] = steady * first.map({True: stuck, False: follows})
        made["success"] = first.map({True: 0.0, False: gain}) + made["prompt"] / 100
        return claim.decide(made).verdict

    assert decided(0.1, 0.2) == "one run: suggests yes"
    assert decided(0.9, 0.2) == decided(0.1, -0.2) == "one run: suggests no"
    assert decided(0.1, 0.2, follows=0.3) == "one run: suggests no"
