"""The autopsy's arms on a model: each is the fault that it is said to be."""

from __future__ import annotations

import pytest
import torch
from lab import configured, task_of, taste

from bondlab import rules
from bondlab.anchors import MovingAverage
from bondlab.rules import Scores
from bondlab.study import autopsy
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


@pytest.mark.usefixtures("runs")
def test_every_arm_trains():
    """On a model whose weights are all trained; verdicts are 0 or 1, and name another task."""
    task = task_of("gemma")
    verdicts = autopsy.binary(task, 0.5)
    given = verdicts.reward([""], [["a bridge", "rain", "the city council"]])
    assert torch.equal(given, (taste([""], [["a bridge", "rain", "the city council"]]) > 0.5) * 1.0)
    assert verdicts.identity != task.identity
    config = configured(steps=2, lora_rank=None, learning_rate=1e-3)
    runs = autopsy.train_all(verdicts, task, config)
    assert [*runs] == [arm.name for arm in ARMS]
    kinds = [set(run.evaluation["reward"]) <= {0.0, 1.0} for run in runs.values()]
    assert kinds == [arm.binary for arm in ARMS]
