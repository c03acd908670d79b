"""Averages of LoRA factors and of weights, by formulas and along a training of a tiny model."""

from __future__ import annotations

import pytest
import torch

from bondlab import tasks, training
from bondlab.algorithms import bond, j_bond
from bondlab.anchors import MovingAverage
from bondlab.bank import seeded
from bondlab.config import Config
from bondlab.study.lora_average import changed, follow, kl, moved, relative_error
from bondlab.tasks import TaskSettings, tiny
from bondlab.trainer import Trainer

pytestmark = pytest.mark.usefixtures("runs")

CONFIG = Config(
    steps=6, prompts_per_step=4, learning_rate=1e-2, warmup=1, lora_rank=2, evaluation_bank=4,
    precision="fp32",
)  # fmt: skip


def trainer_of(rate: float, **changed) -> Trainer:
    config = CONFIG.model_copy(update=changed)
    task = tasks.build(TaskSettings(name="tiny", train=8, evaluate=4), "fp32")
    algorithm = j_bond(anchor=MovingAverage(rate))
    return training.trainer(task, algorithm, config, training.paths.runs_folder())


def factors(scale: float, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """B and A after `step` steps of length `scale`: B from 0, A from a random start, as in LoRA."""
    generator = torch.Generator().manual_seed(0)
    start, a, b = (torch.randn(shape, generator=generator) for shape in [(2, 5), (2, 5), (4, 2)])
    return step * scale * b, start + step * scale * a


def error_of(scale: float, rate: float = 0.1, steps: int = 20) -> float:
    """The relative error after as many steps on a straight line."""
    average, (mean_b, mean_a) = {}, factors(scale, 0)
    for step in range(1, steps + 1):
        b, a = factors(scale, step)
        average = moved(average, {"layer": b @ a}, rate)
        mean_b, mean_a = mean_b.lerp(b, rate), mean_a.lerp(a, rate)
    return relative_error({"layer": mean_b @ mean_a}, average)


def test_the_error_is_the_covariance_of_the_factors():
    """Factors (B, A) = (0, a0), (b, a), weights 1/2 each: mean of products ba/2, product of means
    b (a0 + a)/4, so that the first exceeds the second by b (a - a0)/4, the covariance. With b = 1,
    a0 = 3, a = 1 the mean is 1/2 and the product 1: relative error 1."""
    average = moved({}, {"layer": torch.tensor([[1.0]])}, 0.5)
    assert average["layer"].item() == 0.5
    assert relative_error({"layer": torch.tensor([[1.0]])}, average) == 1


def test_it_falls_with_the_length_of_the_steps():
    """mean(BA) is of first order in the steps' length, as B starts at 0, and the gap of second:
    halving small steps halves the relative error (within 2 %)."""
    assert error_of(2e-3) == pytest.approx(2 * error_of(1e-3), rel=0.02)
    assert 0 < error_of(1e-3) < 0.02


def test_an_average_that_copies_has_no_error():
    """At rate 1 both are the policy: no error but rounding, and a KL of 0 within it."""
    table = follow(trainer_of(1.0), every=3)
    assert table["step"].tolist() == [3, 6]
    assert (table["relative_error"] < 1e-6).all() and (table["kl"].abs() < 1e-6).all()
    assert (table["kl_moved"] > 1e-3).all()


@pytest.mark.parametrize("family", ["t5", "gemma"])
def test_the_changes_are_what_the_adapter_adds(family):
    """The reference with an adapter's changes added to its weights has the adapter's law."""
    reference = tiny.language_model(family).requires_grad_(False)
    policy = reference.trainable_copy(2)
    with torch.no_grad():
        for parameter in policy.trainable():
            parameter += 0.1
    whole = changed(reference, policy.adapter_changes())
    prompts = policy.encode(tiny.documents(3))
    drawn = policy.sample(prompts, 4, seeded(0, "test"))
    assert abs(kl(policy, whole, prompts, drawn).mean) < 1e-6
    assert kl(policy, reference, prompts, drawn).mean > 1e-2
    assert not any(p.requires_grad for p in whole.parameters())


def test_the_kl_is_that_of_its_definition():
    """A policy and its reference, the KL estimated the plain way, mean(log p - log q), on 400
    completions of each of 3 prompts: equal within 5 standard errors of the plain one, which is far
    from 0."""
    other = tiny.language_model("t5", temperature=2.0).requires_grad_(False)
    one = other.trainable_copy(2)
    with torch.no_grad():
        for parameter in one.trainable():
            parameter += 0.05
    prompts = one.encode(tiny.documents(3))
    drawn = one.sample(prompts, 400, seeded(0, "test"))
    with torch.no_grad():
        plain = one(prompts, drawn).sum(-1) - other(prompts, drawn).sum(-1)
    error = plain.std().item() / plain.numel() ** 0.5
    found, simple = (kl(one, other, prompts, drawn, apart) for apart in (False, True))
    assert simple.mean == pytest.approx(plain.mean().item())
    assert found.mean == pytest.approx(simple.mean, abs=5 * error)
    assert found.mean > 10 * error and found.count == 3
    assert kl(one, one, prompts, drawn).mean == 0


def test_along_a_training_the_two_averages_stay_close():
    """Six large steps (learning rate 1e-2) at rate 0.1: there is an error, the anchor's law differs
    from that of the averaged weights, and by less than a tenth of how far it has moved."""
    table = follow(trainer_of(0.1), every=6)
    (row,) = table.to_dict("records")
    assert 1e-4 < row["relative_error"] < 0.5
    assert 0 < row["kl"] < row["kl_moved"] / 10
    assert row["kl_low"] <= row["kl"] <= row["kl_high"] and row["prompts"] == 4


def test_it_needs_factors_to_average():
    """All weights are averaged exactly, and other anchors average nothing."""
    with pytest.raises(ValueError, match="needs lora_rank"):
        follow(trainer_of(0.1, lora_rank=None), every=1)
    trainer = trainer_of(0.1)
    trainer.algorithm = bond(4, 0.5)
    with pytest.raises(ValueError, match="MovingAverage"):
        follow(trainer, every=1)
