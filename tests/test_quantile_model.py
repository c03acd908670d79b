"""The learned quantile model (appendix B.1): what it is trained on, and that it learns."""

from __future__ import annotations

import math

import pytest
import torch

from bondlab import tasks, training
from bondlab.algorithms import bond
from bondlab.bank import draw, seeded
from bondlab.config import Config
from bondlab.lm.completions import Completions
from bondlab.quantiles import Counted, Learned, LearnedQuantiles, QuantileModel
from bondlab.tasks import TaskSettings, tiny
from bondlab.trainer import Trainer

pytestmark = pytest.mark.usefixtures("runs")

PROMPTS = tiny.documents(6)


def early(prompts, completions) -> torch.Tensor:
    """How early in the vocabulary a completion's first word stands: any model can read it off."""
    return torch.tensor([
        [-float(tiny.WORDS.index(t.split()[0])) if t.split() else -1000.0 for t in texts]
        for texts in completions
    ])  # fmt: skip


def estimator(learning_rate: float = 1e-2, micro_batch: int = 8, rank: int | None = 4):
    reference = tiny.language_model("t5", temperature=2.0).requires_grad_(False)
    model = QuantileModel(reference, rank)
    settings = Learned(learning_rate)
    found = LearnedQuantiles(model, settings, "fp32", 1.0, micro_batch)
    return reference, found


def batch(reference, k: int, step: int = 0):
    prompts = reference.encode(PROMPTS)
    completions, rewards = draw(reference, early, PROMPTS, k, seeded(0, "batch", step))
    return prompts, completions, rewards


@pytest.mark.parametrize("family", ["t5", "gemma"])
def test_it_starts_as_the_reference_and_says_one_half(family):
    """A zero head makes every first estimate 1/2; the adapter starts as the identity, so the state
    that the head reads is the reference's own."""
    reference = tiny.language_model(family).requires_grad_(False)
    model = QuantileModel(reference, rank=4)
    prompts, completions, _ = batch(reference, 3)
    assert torch.equal(model(prompts, completions), torch.zeros(6, 3))
    with torch.no_grad():
        states = reference.last_state(prompts, completions)
        torch.testing.assert_close(model.body.last_state(prompts, completions), states)


@pytest.mark.parametrize("family", ["t5", "gemma"])
def test_a_completion_is_read_to_its_last_token_and_no_padding(family):
    """Another last token is another state; of a completion that stands alone, without padding, the
    state is the same."""
    reference = tiny.language_model(family)
    prompts, drawn, _ = batch(reference, 4)
    last = (drawn.lengths - 1)[..., None]
    tokens = drawn.tokens.scatter(2, last, (drawn.tokens.gather(2, last) + 1) % 100)
    others = drawn._replace(tokens=tokens)
    whole, other = (reference.last_state(prompts, read) for read in (drawn, others))
    assert (whole - other).abs().amax(-1).min() > 1e-3
    for b, k in [(0, 0), (3, 2), (5, 3)]:
        one = drawn.rows([b]).take(torch.tensor([[k]]))
        fields = (x[..., : one.lengths] for x in (one.tokens, one.mask, one.log_probs))
        alone = reference.last_state(prompts.rows([b]), Completions(*fields))
        torch.testing.assert_close(alone[0, 0], whole[b, k], atol=1e-5, rtol=1e-4)


def test_it_estimates_first_and_learns_after():
    """The first call returns 1/2 throughout and leaves a model that says something else. Its loss
    is the cross-entropy of the labels at 1/2, log 2 whatever they are."""
    reference, found = estimator()
    prompts, completions, rewards = batch(reference, 3)
    others = rewards[:, :1] - 1.0
    assert torch.equal(found(prompts, completions, rewards, others), torch.full((6, 3), 0.5))
    assert found.losses["quantile_loss"].item() == pytest.approx(math.log(2))
    assert (found.predict(prompts, completions) - 0.5).abs().min() > 1e-4


def test_labels_count_ties_as_no_higher():
    """Z = 1{r(y') <= r(y)} (eq. 25): with one sample of equal reward everywhere each label is 1, so
    training raises every estimate; with a higher one each is 0 and lowers it."""
    for shift, sign in ((0.0, 1), (1.0, -1)):
        reference, found = estimator()
        prompts, completions, _ = batch(reference, 1)
        rewards = torch.zeros(6, 1)
        for _ in range(3):
            found(prompts, completions, rewards, rewards + shift)
        assert (sign * (found.predict(prompts, completions) - 0.5) > 0).all()


def test_the_floor_holds():
    """Trained towards 0, the estimate handed to the rule never falls below the floor."""
    reference, found = estimator(learning_rate=0.5)
    prompts, completions, rewards = batch(reference, 2)
    for _ in range(20):
        estimate = found(prompts, completions, rewards, rewards[:, :1] + 1000)
    assert estimate.min() == pytest.approx(1 / 32)
    assert found.predict(prompts, completions).min() < 1 / 32


def test_it_learns_the_quantiles():
    """After 50 steps with one reference sample a prompt, estimates for new completions correlate
    with their quantiles among 200 samples, and their squared error is under half of that of the
    constant 1/2 (1/12 for uniform quantiles)."""
    reference, found = estimator(learning_rate=1e-2)
    for step in range(50):
        prompts, completions, rewards = batch(reference, 5, step)
        own = completions.take(torch.arange(4).expand(6, 4))
        found(prompts, own, rewards[:, :4], rewards[:, 4:])
    prompts, completions, rewards = batch(reference, 8, step=1000)
    _, others = draw(reference, early, PROMPTS, 200, seeded(0, "others"))
    exact = (others[:, None] <= rewards[..., None]).double().mean(-1)
    estimate = found.predict(prompts, completions).double()
    error = ((estimate - exact) ** 2).mean()
    assert torch.corrcoef(torch.stack([estimate.flatten(), exact.flatten()]))[0, 1] > 0.6
    assert error < 0.5 * ((0.5 - exact) ** 2).mean()


def test_micro_batches_add_up():
    """Six prompts at once, or two at a time: the same parameters after a step but for rounding."""
    states = []
    for size in (8, 2):
        reference, found = estimator(micro_batch=size)
        prompts, completions, rewards = batch(reference, 3)
        for _ in range(3):
            found(prompts, completions, rewards, rewards[:, :1])
        states.append(found.state()["parameters"])
    for whole, parts in zip(*states, strict=True):
        torch.testing.assert_close(whole, parts, atol=1e-4, rtol=1e-3)


def trained(algorithm, steps: int = 2) -> Trainer:
    config = Config(
        steps=4, prompts_per_step=3, lora_rank=2, warmup=1, bank_samples=8, evaluation_bank=4,
        evaluation_samples=2, precision="fp32",
    )  # fmt: skip
    task = tasks.build(TaskSettings(name="tiny", train=8, evaluate=4), "fp32")
    trainer = training.trainer(task, algorithm, config, training.paths.runs_folder())
    for _ in range(steps):
        trainer.update()
    return trainer


def test_the_rule_gets_the_models_estimate():
    """In the first step every learned quantile is 1/2, so the recorded mean log is log 1/2, and the
    model has learnt from one reference sample a prompt; without a model quantiles are counted."""
    learned = trained(bond(3, 0.5, quantile_model=Learned()), steps=0)
    assert isinstance(learned.quantiles, LearnedQuantiles)
    assert learned.algorithm.quantile_draws == 1
    row = learned.update()
    assert row["log_quantile"] == pytest.approx(math.log(0.5))
    assert row["quantile_loss"] == pytest.approx(math.log(2))
    counted = trained(bond(3, 0.5, quantile_draws=5), steps=0)
    assert isinstance(counted.quantiles, Counted) and "quantile_loss" not in counted.update()


def test_the_policy_and_the_reference_are_left_alone():
    """What the quantile model learns changes neither: they share frozen weights alone."""
    trainer = trained(bond(3, 0.5, quantile_model=Learned()))
    own = {id(p) for p in trainer.quantiles.model.trainable()}
    assert not own & {id(p) for p in (*trainer.parameters, *trainer.reference.parameters())}
    prompts = trainer.reference.encode(PROMPTS)
    completions, _ = draw(trainer.reference, tiny.reward, PROMPTS, 2, seeded(0, "x"))
    with torch.no_grad():
        before = trainer.reference(prompts, completions)
        fresh = tiny.language_model("t5")(prompts, completions)
    torch.testing.assert_close(before, fresh)


def test_evaluation_holds_the_models_predictions():
    """A column of p_theta for the policy's and for the reference's completions, as `predict` gives
    it; counted runs have none."""
    trainer = trained(bond(3, 0.5, quantile_model=Learned()))
    table = trainer.evaluate()
    stored = table[table["source"] == "reference"]["predicted_quantile"]
    prompts = trainer.policy.encode(trainer.task.eval_prompts)
    expected = trainer.quantiles.predict(prompts, trainer.held_out.completions).flatten()
    torch.testing.assert_close(torch.tensor(stored.to_numpy()).float(), expected)
    assert table["predicted_quantile"].between(0, 1).all()
    counted = trained(bond(3, 0.5, quantile_draws=5), steps=0).evaluate()
    assert counted["predicted_quantile"].isna().all()


def test_without_a_backward_part_there_is_no_quantile_model():
    """beta 0 needs no quantile: nothing is learned in vain."""
    assert bond(3, 0.0, quantile_model=Learned()).quantile_model is None


@pytest.mark.parametrize("wrong", [{"learning_rate": 0.0}, {"floor": 0.0}, {"floor": 1.0}])
def test_settings_are_checked(wrong):
    """The error names the field."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Learned(**wrong)


def test_its_gradient_is_clipped():
    reference, found = estimator()
    prompts, completions, rewards = batch(reference, 3)
    norms, own = [], found.model.trainable()

    def norm(*_) -> None:
        norms.append(torch.cat([p.grad.flatten() for p in own]).norm().item())

    found.optimizer.register_step_pre_hook(norm)
    found.clip = 1e-3
    found(prompts, completions, rewards, rewards[:, :1])
    assert norms == [pytest.approx(1e-3, rel=1e-2)]


def test_each_prompt_has_its_own_estimates_back():
    """From passes of two prompts, which go by length."""
    reference, found = estimator(micro_batch=2)
    torch.nn.init.normal_(found.model.head.weight)
    prompts, completions, rewards = batch(reference, 3)
    expected = found.predict(prompts, completions).clamp(min=1 / 32)
    given = found(prompts, completions, rewards, rewards[:, :1])
    assert expected.std() > 0.01
    torch.testing.assert_close(given, expected, atol=1e-5, rtol=0)


def test_a_seed_makes_its_adapter():
    reference = tiny.language_model("t5").requires_grad_(False)
    first, same, other = (QuantileModel(reference, 2, s).trainable()[0] for s in (0, 0, 1))
    assert torch.equal(first, same) and not torch.equal(first, other)
