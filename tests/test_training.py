"""The loop on the tiny task: exact resumption, invariances, errors, and that it learns.

float32 on the processor with one thread, where equal means equal to the last bit.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from bondlab import checkpoints, device, measures, quantiles, rules, tasks, training
from bondlab.algorithms import Algorithm, bond, reinforce
from bondlab.anchors import Periodic
from bondlab.bank import Bank, BankFolder
from bondlab.config import Config
from bondlab.lm.language_model import LanguageModel
from bondlab.quantiles import Learned
from bondlab.tasks import Task, TaskSettings, tiny
from bondlab.trainer import Trainer
from bondlab.training import train

pytestmark = pytest.mark.usefixtures("runs")

BOND = bond(n=3, beta=0.5, quantile_draws=5)
CONFIG = Config(
    steps=4, prompts_per_step=3, learning_rate=1e-2, warmup=2, lora_rank=2, bank_samples=8,
    evaluate_every=2, evaluation_samples=2, evaluation_bank=4, precision="fp32",
)  # fmt: skip
COLUMNS = ["step", "source", "prompt", "sample", "reward", "log_prob", "reference_log_prob",
           "tokens", "quantile", "predicted_quantile", "text"]  # fmt: skip


def score_of(word: str) -> float:
    """A fixed number in [0, 1) for every word."""
    return int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big") / 2**32


def taste(prompts, completions) -> torch.Tensor:
    """The mean of fixed scores of the words: learnable, and two texts hardly ever tie."""
    return torch.tensor([
        [sum(map(score_of, text.split())) / max(1, len(text.split())) for text in texts]
        for texts in completions
    ])  # fmt: skip


def task_of(evaluate: int = 4, reward: Callable = taste) -> Task:
    """The tiny task at temperature 2, where its law is broad enough that texts hardly repeat."""
    task = tasks.build(TaskSettings(name="tiny", train=8, evaluate=evaluate), "fp32")
    model = tiny.language_model("t5", temperature=2.0).requires_grad_(False)
    identity = {"policy": "tiny, temperature 2", "reward": "taste"}
    return dataclasses.replace(task, model=model, reward=reward, identity=identity)


def configured(**changed) -> Config:
    return CONFIG.model_copy(update=changed)


def trainer_of(algorithm: Algorithm = BOND, config: Config = CONFIG, task: Task | None = None):
    task = task or task_of()
    return training.trainer(task, algorithm, config, training.paths.runs_folder() / "x")


def results_of(run: training.Run) -> tuple[pd.DataFrame, pd.DataFrame, list[torch.Tensor]]:
    record = run.table.drop(columns="seconds")
    return record, run.evaluation, [p.detach().clone() for p in run.policy.trainable()]


def assert_same_results(actual: training.Run, expected: training.Run) -> None:
    """Record, evaluations and trained weights are equal to the last bit."""
    (record, evaluation, weights), others = results_of(actual), results_of(expected)
    pd.testing.assert_frame_equal(record, others[0], check_exact=True)
    pd.testing.assert_frame_equal(evaluation, others[1], check_exact=True)
    assert all(torch.equal(a, b) for a, b in zip(weights, others[2], strict=True))


# -- the start ------------------------------------------------------------------------------------


def test_policy_starts_as_the_reference():
    """Before the first update pi = pi_ref: every log ratio is 0 up to the rounding between the
    sampler and the scoring pass (about 1e-6 of 30 nats), and so is the recorded KL."""
    trainer = trainer_of()
    texts = list(trainer.task.train_prompts)
    drawn, _, log_ratio = trainer._policy_draws(texts, trainer.policy.encode(texts))
    assert log_ratio.shape == (8, 2) and log_ratio.abs().max() < 1e-4
    assert drawn.log_prob.mean() < -10
    assert abs(trainer.update()["kl_to_anchor"]) < 1e-4


def test_divergences_at_step_0_have_their_closed_forms(runs):
    """At pi = pi_ref the forward KL is log N - (N-1)/N exactly. The mean log quantile of M = 16
    floored draws is (log(1/2M) + sum_s log(s/M))/(M+1) = -1.009, so the backward KL is
    (N-1) 1.009 - log N: within 4 standard errors over 24 prompts of 8 samples."""
    n, m = 4, 16
    config = configured(evaluation_samples=8, evaluation_bank=m)
    table = trainer_of(BOND, config, task_of(evaluate=24)).evaluate()
    grids = {
        (source, name): torch.tensor(
            rows.pivot(index="prompt", columns="sample", values=name).to_numpy()
        )
        for source, rows in table.groupby("source")
        for name in ("log_prob", "reference_log_prob", "quantile", "reward")
    }
    own, other = (
        [grids[source, name] for name in ("log_prob", "reference_log_prob")]
        for source in ("policy", "reference")
    )
    backward = measures.mean_interval(measures.backward_kl(*own, grids["policy", "quantile"], n))
    forward = measures.forward_kl(*other, grids["reference", "reward"], n)
    floored = (math.log(1 / (2 * m)) + sum(math.log(s / m) for s in range(1, m + 1))) / (m + 1)
    assert backward.mean == pytest.approx(
        -(n - 1) * floored - math.log(n), abs=4 * backward.standard_error
    )
    assert backward.standard_error < 0.5
    torch.testing.assert_close(
        forward, torch.full_like(forward, math.log(n) - (n - 1) / n), atol=1e-4, rtol=0
    )


def test_evaluation_table_holds_every_completion():
    """4 prompts x 2 policy samples and x 4 bank samples; quantiles are multiples of 1/4 or the
    floor 1/8, texts score their rewards, and only the policy's rows have quantile and text."""
    trainer = trainer_of()
    table = trainer.evaluate()
    assert list(table.columns) == COLUMNS
    assert not table.duplicated(["source", "prompt", "sample"]).any()
    own, bank = (
        table[table["source"] == s].reset_index(drop=True) for s in ("policy", "reference")
    )
    assert (len(own), len(bank)) == (8, 16) and (table["step"] == 0).all()
    assert own["quantile"].isin([1 / 8, 1 / 4, 1 / 2, 3 / 4, 1.0]).all()
    rescored = taste([], [[text] for text in own["text"]]).flatten()
    assert own["reward"].tolist() == rescored.tolist()
    assert bank["text"].isna().all() and bank["quantile"].isna().all()
    assert bank["reward"].tolist() == trainer.held_out.rewards.flatten().tolist()
    assert np.allclose(bank["log_prob"], bank["reference_log_prob"], atol=1e-4)
    assert table["tokens"].between(1, 8).all() and (table["log_prob"] < 0).all()


def test_evaluation_tells_policy_from_reference(monkeypatch):
    """After two updates their laws differ. `log_prob` is the policy's and `reference_log_prob` the
    reference's, on the completions that the policy drew and on those of the bank alike."""
    trainer, drawn = trainer_of(), []
    trainer.update()
    trainer.update()
    bank = trainer.held_out
    sample = LanguageModel.sample
    monkeypatch.setattr(
        LanguageModel, "sample", lambda self, *a: (drawn.append(sample(self, *a)), drawn[-1])[1]
    )
    table = trainer.evaluate()
    prompts = trainer.policy.encode(trainer.task.eval_prompts)
    with torch.no_grad():
        for source, given in [("policy", drawn[0]), ("reference", bank.completions)]:
            rows = table[table["source"] == source]
            scores = [m(prompts, given).sum(-1) for m in (trainer.policy, trainer.reference)]
            for name, score in zip(("log_prob", "reference_log_prob"), scores, strict=True):
                assert np.allclose(rows[name], score.flatten(), atol=1e-3)
            assert (scores[0] - scores[1]).abs().max() > 0.1
            assert rows["tokens"].tolist() == given.lengths.flatten().tolist()


# -- the gradient ---------------------------------------------------------------------------------


def gradient_of(trainer: Trainer, order: list[int], micro_batch: int = 8) -> list[torch.Tensor]:
    """The gradient of one fixed batch, its prompts in this order; weights come from the rule."""
    trainer.config = trainer.config.model_copy(update={"micro_batch": micro_batch})
    texts = list(trainer.task.train_prompts)
    draws = trainer._anchor_draws(list(range(8)), texts, trainer.policy.encode(texts))
    drawn, rewards, log_ratio = trainer._policy_draws(texts, trainer.policy.encode(texts))
    ranks = quantiles.empirical(rewards, draws[1][1])
    given = rules.Scores(*(x[order] for x in (draws[0][1], rewards, ranks, log_ratio)))
    trained, weights = trainer._trained(
        draws[0][0].rows(order), drawn.rows(order), trainer.algorithm.weights(given)
    )
    assert weights.abs().min() > 0  # none of what is scored is scored in vain
    trainer._backward(trainer.policy.encode([texts[i] for i in order]), trained, weights)
    gradient = [p.grad.clone() for p in trainer.parameters]
    trainer.optimizer.zero_grad()
    return gradient


def test_gradient_ignores_prompt_order_and_micro_batches():
    """The loss is a sum over prompts: any order and any split give the same gradient but for
    float32 rounding (1e-5 of the largest entry). The rule's baseline sees the whole batch."""
    trainer = trainer_of()
    trainer.update()  # so that log ratios and both adapter matrices have left 0
    expected = gradient_of(trainer, list(range(8)))
    largest = max(g.abs().max().item() for g in expected)
    for order, micro_batch in [
        ([3, 1, 4, 0, 5, 7, 2, 6], 8),
        (list(range(8)), 1),
        ([7, 6, 5, 4, 3, 2, 1, 0], 3),
    ]:
        actual = gradient_of(trainer, order, micro_batch)
        torch.testing.assert_close(actual, expected, atol=1e-5 * largest, rtol=0)
    assert largest > 0.1


def test_update_follows_the_weighted_likelihood():
    """The loss recorded is -(1/B) sum w log pi over the best of the anchor's draws (weight 1-beta)
    and the policy's completions, with the weights of the jeffreys rule on the same draws."""
    trainer = trainer_of()
    trainer.update()
    index = trainer._prompts()
    texts = [trainer.task.train_prompts[i] for i in index]
    (anchors, anchor_rewards), (_, others) = trainer._anchor_draws(
        index, texts, trainer.policy.encode(texts)
    )
    drawn, rewards, log_ratio = trainer._policy_draws(texts, trainer.policy.encode(texts))
    ranks = quantiles.empirical(rewards, others)
    weights = rules.jeffreys(rules.Scores(anchor_rewards, rewards, ranks, log_ratio), 3, 0.5)
    with torch.no_grad():
        prompts = trainer.policy.encode(texts)
        log_pi = torch.cat([trainer.policy(prompts, x).sum(-1) for x in (anchors, drawn)], 1)
    row = trainer.update()
    assert row["loss"] == pytest.approx(-(weights * log_pi).sum().item() / 3, rel=1e-4)
    assert row["best_reward"] == pytest.approx(anchor_rewards.max(1).values.mean().item())
    assert row["reward"] == pytest.approx(rewards.mean().item())
    assert row["log_quantile"] == pytest.approx(ranks.log().mean().item())
    assert row["kl_to_anchor"] == pytest.approx(log_ratio.mean().item(), abs=1e-6)
    assert row["step"] == 2 and row["tokens"] == pytest.approx(drawn.lengths.float().mean().item())


def test_micro_batch_does_not_change_a_run(tmp_path):
    """8 x 1 and 1 x 8 prompts share a run id, so they must give the same numbers: the same texts
    before training, the record of 4 updates within 1e-3. Not to the bit: batches of other shapes
    are summed in another order (found: 1e-6 of a gradient, 1e-6 nat in the record)."""
    config = configured(prompts_per_step=8)
    first, second = (
        train(task_of(), BOND, config.model_copy(update={"micro_batch": size}), tmp_path / name)
        for name, size in [("a", 8), ("b", 1)]
    )
    assert first.folder.path.name == second.folder.path.name
    record, other = (run.table.drop(columns="seconds") for run in (first, second))
    pd.testing.assert_frame_equal(record, other, check_exact=False, rtol=1e-3, atol=1e-3)
    start, same = (run.evaluation[run.evaluation["step"] == 0] for run in (first, second))
    start, same = (t.sort_values(["source", "prompt", "sample"], ignore_index=True)
                   for t in (start, same))  # fmt: skip
    assert start["text"].dropna().tolist() == same["text"].dropna().tolist()
    assert np.allclose(start["log_prob"], same["log_prob"], atol=1e-4)


def test_prompts_pass_by_in_shuffled_passes():
    """24 places of 3 a step are three passes over 8 prompts: each prompt once a pass, and the
    passes in different orders that depend on the seed."""
    orders = []
    for seed in (0, 0, 1):
        trainer = trainer_of(config=configured(seed=seed))
        seen = []
        for step in range(8):
            trainer.step = step
            seen += trainer._prompts()
        orders.append(seen)
        assert all(sorted(seen[i : i + 8]) == list(range(8)) for i in (0, 8, 16))
        assert seen[:8] != seen[8:16]
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("fresh", [False, True])
def test_every_step_draws_anew(fresh):
    """The same prompts at steps 0 and 1, nothing learnt between: other completions of the policy,
    and other draws of the reference (another subset of the bank, or fresh ones)."""
    trainer, index, seen = trainer_of(config=configured(fresh=fresh)), [0, 1, 2], []
    texts = [trainer.task.train_prompts[i] for i in index]
    for step in (0, 1, 0):
        trainer.step = step
        (anchors, _), (others, _) = trainer._anchor_draws(
            index, texts, trainer.policy.encode(texts)
        )
        seen.append(
            [
                anchors.tokens,
                others.tokens,
                trainer._policy_draws(texts, trainer.policy.encode(texts))[0].tokens,
            ]
        )
    assert not any(torch.equal(a, b) for a, b in zip(seen[0], seen[1], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(seen[0], seen[2], strict=True))


def test_learning_rate_warms_up():
    """Warm-up over 2 steps: half, then whole."""
    trainer, rates = trainer_of(), []
    for _ in range(3):
        trainer.update()
        rates.append(trainer.optimizer.param_groups[0]["lr"])
    assert rates == [0.005, 0.01, 0.01]


# -- stopping -------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for a kill: nothing in the package catches it."""


def stop_after(monkeypatch, owner: type, name: str, calls: int, before: bool) -> None:
    """Make the method raise at its n-th call, before or after doing its work."""
    original, seen = getattr(owner, name), []

    def method(*positional, **named):
        seen.append(0)
        if before and len(seen) == calls:
            raise Killed
        result = original(*positional, **named)
        if len(seen) == calls:
            raise Killed
        return result

    monkeypatch.setattr(owner, name, method)


def uninterrupted(algorithm: Algorithm = BOND, config: Config = CONFIG) -> training.Run:
    return train(task_of(), algorithm, config, training.paths.runs_folder() / "whole")


def interrupted(monkeypatch, stops: list[tuple], algorithm=BOND, config=CONFIG) -> training.Run:
    """The run with one kill after the other, each as (owner, method, calls, before)."""
    folder = training.paths.runs_folder() / "parts"
    for stop in stops:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            stop_after(patch, *stop)
            train(task_of(), algorithm, config, folder)
    return train(task_of(), algorithm, config, folder)


STOPS = {
    "each time after a checkpoint": [(Trainer, "save", 1, False)] * 4,
    "between record line and checkpoint": [(Trainer, "save", 1, True), (Trainer, "save", 2, True)],
    "before an evaluation": [(Trainer, "evaluate", 2, True)],
    "between evaluation and next update": [(Trainer, "update", 3, True)],
    "while the banks are filled": [(BankFolder, "fill", 1, False)],
}


@pytest.mark.parametrize("stops", STOPS.values(), ids=STOPS)
def test_resuming_equals_not_stopping(stops, monkeypatch):
    """Wherever it is killed, a continued run leaves record, evaluations and weights to the bit as
    one that was never stopped: draws depend on seed and step alone, the rest is in a checkpoint."""
    assert_same_results(interrupted(monkeypatch, stops), uninterrupted())


ITERATIVE = bond(n=2, beta=0.5, quantile_draws=5, anchor=Periodic(2))
LEARNED = bond(n=3, beta=0.5, quantile_model=Learned(learning_rate=1e-2))
ALL_WEIGHTS = {"lora_rank": None, "learning_rate": 1e-3}


@pytest.mark.parametrize(
    ("algorithm", "changed"),
    [
        (BOND, {"checkpoint_every": 3}),
        (BOND, {"fresh": True}),
        (BOND, ALL_WEIGHTS),
        (ITERATIVE, {}),
        (ITERATIVE, ALL_WEIGHTS),
        (LEARNED, {}),
    ],
    ids=["rare checkpoints", "fresh", "all weights", "iterative", "iterative, all", "learned"],
)
def test_resuming_equals_not_stopping_in_other_modes(algorithm, changed, monkeypatch):
    """The same where lines and an evaluation past the last checkpoint must be forgotten (killed
    in step 3 before the checkpoint of step 3), for fresh draws and for all weights, for an anchor
    that moved at step 2 and is not the policy any more, for a quantile model with its Adam."""
    config = configured(**changed)
    run = interrupted(monkeypatch, [(Trainer, "update", 3, False)], algorithm, config)
    assert_same_results(run, uninterrupted(algorithm, config))


def test_a_record_line_cut_short_is_forgotten(monkeypatch):
    """A kill in the middle of writing a line leaves half; the continued run equals the whole."""
    folder = training.paths.runs_folder() / "parts"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_after(patch, Trainer, "save", 2, False)
        train(task_of(), BOND, CONFIG, folder)
    (record,) = folder.glob("*/record.jsonl")
    with record.open("a") as file:
        file.write('{"step": 3, "loss": 1.2')
    assert_same_results(train(task_of(), BOND, CONFIG, folder), uninterrupted())


def test_a_damaged_checkpoint_costs_a_step_and_no_more(monkeypatch):
    """With the newest file cut, the one before serves and the result is the same."""
    folder = training.paths.runs_folder() / "parts"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_after(patch, Trainer, "save", 3, False)
        train(task_of(), BOND, CONFIG, folder)
    newest = max(folder.glob("*/checkpoints/step-*.pt"))
    newest.write_bytes(newest.read_bytes()[:100])
    assert_same_results(train(task_of(), BOND, CONFIG, folder), uninterrupted())


def test_runs_of_one_seed_share_the_evaluation_before_the_first_step(monkeypatch):
    """Before training every policy is the reference, whatever its algorithm and rank: the second
    run evaluates twice (steps 2 and 4) where the first did three times, and what it takes over is
    to the bit what it would have measured. Another seed, and other weights, measure anew."""
    calls, evaluate = [], Trainer.evaluate
    monkeypatch.setattr(
        Trainer, "evaluate", lambda self: (calls.append(self.step), evaluate(self))[1]
    )
    first = uninterrupted()
    other = train(task_of(), bond(3, 0.0), configured(lora_rank=3))
    assert calls == [0, 2, 4, 2, 4]
    start, same = (run.evaluation.query("step == 0") for run in (first, other))
    pd.testing.assert_frame_equal(start, same)
    fresh = trainer_of(bond(3, 0.0), configured(lora_rank=3)).evaluate()
    pd.testing.assert_frame_equal(fresh, same)
    for config in (configured(seed=1), configured(**ALL_WEIGHTS)):
        calls.clear()
        uninterrupted(config=config)
        assert calls == [0, 2, 4]


def forbidden(*_, **__):
    raise AssertionError("a finished run was computed again")


def test_a_finished_run_is_not_computed_again(monkeypatch):
    """Update, evaluation and bank would fail if called; tables and policy come from the disk."""
    first = uninterrupted()
    for owner, name in [(Trainer, "update"), (Trainer, "evaluate"), (BankFolder, "fill")]:
        monkeypatch.setattr(owner, name, forbidden)
    second = uninterrupted()
    assert_same_results(second, first)
    assert second.folder.manifest["status"] == "finished"
    assert second.folder.manifest["starts"] == 1


def test_a_finished_run_without_its_last_checkpoint_is_finished_again():
    """The policy handed back must be the trained one: if its checkpoint is gone or damaged, the run
    goes on from the one before instead of passing an older policy off as the result."""
    first = uninterrupted()
    newest = max(first.folder.path.glob("checkpoints/step-*.pt"))
    newest.write_bytes(b"cut")
    assert_same_results(uninterrupted(), first)


def test_settings_name_the_run():
    """Whatever changes numbers changes the folder; what does not, does not."""
    task = task_of()

    def name(algorithm=BOND, config=CONFIG, task=task) -> str:
        return training.RunFolder.of(
            training.paths.runs_folder(), training.identity(task, algorithm, config)
        ).path.name

    same = [
        name(),
        name(config=configured(micro_batch=1)),
        name(config=configured(checkpoint_every=7)),
    ]
    assert len(set(same)) == 1
    others = [
        name(config=configured(**{key: value}))
        for key, value in [("steps", 5), ("seed", 1), ("learning_rate", 2e-2), ("lora_rank", 4),
                           ("bank_samples", 9), ("fresh", True), ("evaluation_bank", 5),
                           ("evaluate_every", 3), ("clip", 2.0), ("warmup", 3)]
    ]  # fmt: skip
    others += [
        name(algorithm=bond(n=3, beta=0.25, quantile_draws=5)),
        name(algorithm=bond(n=4, beta=0.5, quantile_draws=4)),
        name(task=task_of(evaluate=3)),
        name(task=dataclasses.replace(task, train_prompts=task.train_prompts[::-1])),
        name(task=dataclasses.replace(task, identity={"reward": "another"})),
        name(algorithm=dataclasses.replace(BOND, rule=lambda s, **_: rules.jeffreys(s, 3, 0.5))),
        name(algorithm=dataclasses.replace(BOND, trained_draws=2)),
    ]
    assert len({*same, *others}) == 1 + len(others)


# -- errors ---------------------------------------------------------------------------------------


def test_a_bad_reward_stops_the_run_and_loses_nothing():
    """The reward fails (NaN) in the third update: the error quotes the completion, two record lines
    and their checkpoint stay, and with a mended reward the run ends as if nothing had happened."""
    calls = []

    def failing(prompts, completions) -> torch.Tensor:
        values = taste(prompts, completions)
        calls.append(values.shape)
        if calls.count((3, 2)) == 3:  # an update scores 3 prompts x 2 completions
            values[1, 1] = math.nan
        return values

    folder = training.paths.runs_folder() / "parts"
    with pytest.raises(ValueError, match="nan for completion 1 of prompt 1: '.*finite number"):
        train(task_of(reward=failing), BOND, CONFIG, folder)
    (run,) = folder.iterdir()
    assert checkpoints.load(run / "checkpoints")[0] == 2
    assert len((run / "record.jsonl").read_text().splitlines()) == 2
    assert_same_results(train(task_of(), BOND, CONFIG, folder), uninterrupted())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run_and_loses_nothing(value):
    """The rule gives such a weight in the third update: the error names step and learning rate, and
    neither record nor checkpoint has seen that update. The count of calls is the rule's own, so
    that the same call goes on with the run, to the end that `rules.jeffreys` has."""
    calls = 0

    def failing(scores: rules.Scores, n: int, beta: float) -> torch.Tensor:
        nonlocal calls
        calls += 1
        weights = rules.jeffreys(scores, n, beta)
        return weights * value if calls == 3 else weights

    folder = training.paths.runs_folder() / "parts"
    failing = dataclasses.replace(BOND, rule=failing)
    with pytest.raises(ValueError, match=r"step 3 gave .*lower learning_rate \(now 0.01\)"):
        train(task_of(), failing, CONFIG, folder)
    (run,) = folder.iterdir()
    assert checkpoints.load(run / "checkpoints")[0] == 2
    assert len((run / "record.jsonl").read_text().splitlines()) == 2
    assert_same_results(train(task_of(), failing, CONFIG, folder), uninterrupted())
    assert [path.name for path in folder.iterdir()] == [run.name]


def test_a_bank_that_is_too_small_says_so():
    """3 Best-of-N draws and 5 quantile draws do not fit into 7."""
    with pytest.raises(ValueError, match="wants 8 samples .* bank of 7: raise bank_samples"):
        train(task_of(), BOND, configured(bank_samples=7))
    assert not (training.paths.runs_folder() / "banks").exists()


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"n": 1}, "Best-of-1"),
        ({"beta": 1.5}, "beta"),
        ({"beta": -0.1}, "beta"),
        ({"policy_draws": 0}, "policy_draws"),
        ({"quantile_draws": 0}, "quantile_draws"),
    ],
)
def test_a_plan_that_cannot_work_is_refused_at_once(wrong, named):
    """Before any model is loaded, in words that say what to change."""
    with pytest.raises(ValueError, match=named):
        bond(**({"n": 8, "beta": 0.5} | wrong))


def test_a_second_process_is_turned_away():
    """While one holds the run's lock another gets an error, and gets in afterwards."""
    run = training.RunFolder.of(
        training.paths.runs_folder() / "library", training.identity(task_of(), BOND, CONFIG)
    )
    lock = run.lock()
    with pytest.raises(RuntimeError, match="another process is computing"):
        train(task_of(), BOND, CONFIG)
    lock.release()
    assert train(task_of(), BOND, configured(steps=1)).folder.finished


def test_settings_are_checked_where_they_enter():
    """Unknown, ill-typed and impossible values stop at once, with their name."""
    for name, value in [("stepz", 1), ("learning_rate", "1e-4"), ("steps", 0), ("clip", 0.0)]:
        with pytest.raises(ValueError, match=name):
            Config(**{"steps": 2, name: value})
    with pytest.raises(ValueError, match="take n of 2 or more"):
        bond(1, 0.5)


# -- who is sampled -------------------------------------------------------------------------------


def samplers(monkeypatch, trainer: Trainer) -> list[tuple[str, int]]:
    """Fills with ("policy" or "reference", k) at each call of a model's sampler in a step."""
    assert trainer.bank is None or len(trainer.bank.rewards)  # drawn before, if there is one
    original, seen = LanguageModel.sample, []

    def sample(self, prompts, k, generator):
        seen.append(("policy" if self is trainer.policy else "reference", k))
        return original(self, prompts, k, generator)

    monkeypatch.setattr(LanguageModel, "sample", sample)
    return seen


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize(
    ("beta", "subsets", "policy", "trained"),
    [(0.0, [3, 0], 0, 1), (0.5, [3, 5], 2, 3), (1.0, [0, 5], 2, 2)],
)
def test_only_what_a_divergence_needs_is_sampled(
    fresh, beta, subsets, policy, trained, monkeypatch
):
    """beta 0: the best of 3 anchor draws alone is trained on and the policy is not sampled; beta 1:
    no Best-of-N draw is taken; `fresh` draws just these sums anew, else the bank gives them."""
    trainer = trainer_of(bond(3, beta, quantile_draws=5), configured(fresh=fresh))
    seen, sizes, widths = samplers(monkeypatch, trainer), [], []
    subset, backward = Bank.subset, Trainer._backward
    monkeypatch.setattr(
        Bank, "subset", lambda self, p, s, g: (sizes.append(list(s)), subset(self, p, s, g))[1]
    )
    monkeypatch.setattr(
        Trainer,
        "_backward",
        lambda self, t, c, w: (widths.append(c.tokens.shape[1]), backward(self, t, c, w))[1],
    )
    trainer.update()
    expected = [("reference", sum(subsets))] if fresh else []
    assert seen == expected + ([("policy", policy)] if policy else [])
    assert sizes == [subsets] and widths == [trained]


def test_fresh_draws_need_no_training_bank():
    """With `fresh` only the held-out prompts' bank is drawn (the other would be 20,000 x 32 samples
    on all of XSum); the runs differ from those off the bank and repeat."""
    config = configured(fresh=True, steps=2)
    (held_out,) = training.banks(task_of(), BOND, config)
    run = train(task_of(), BOND, config, training.paths.runs_folder() / "a")
    banks = {path.name for path in (training.paths.runs_folder() / "banks").iterdir()}
    assert banks == {held_out.path.name}
    assert_same_results(train(task_of(), BOND, config, training.paths.runs_folder() / "b"), run)
    banked = train(task_of(), BOND, configured(steps=2))
    assert banked.table["loss"].tolist() != run.table["loss"].tolist()


@pytest.mark.parametrize("changed", [{}, {"fresh": True}])
def test_other_training_prompts_are_another_run(changed):
    """With a training bank its name tells them apart, without one the prompts' own digest does: one
    prompt less, held-out prompts and everything else equal, never takes up the other's results."""
    task, config = task_of(), configured(steps=1, **changed)
    fewer = dataclasses.replace(task, train_prompts=task.train_prompts[:-1])
    assert fewer.identity == task.identity
    assert training.identity(fewer, BOND, config) != training.identity(task, BOND, config)


def test_an_algorithm_without_reference_draws_needs_no_training_bank():
    """REINFORCE samples the policy alone: what is stored is the held-out prompts' bank, and the
    samples that the reward's spread is measured on."""
    config, algorithm = configured(steps=1), reinforce(beta_rl=0.1)
    (held_out,) = training.banks(task_of(), algorithm, config)
    train(task_of(), algorithm, config)
    banks = [path for path in (training.paths.runs_folder() / "banks").iterdir()]
    assert held_out.path in banks and len(banks) == 2


# -- the outcome ----------------------------------------------------------------------------------


def test_bond_raises_the_log_quantile(tmp_path):
    """40 steps of BOND (N = 4, beta 0.5) move the held-out mean log quantile from about -1 towards
    -1/4: the paired 99.9 % interval over 32 prompts lies above 0. The saved policy
    is the trained one."""
    config = Config(
        steps=40, learning_rate=1e-2, warmup=2, evaluate_every=40, evaluation_samples=16,
        precision="fp32", checkpoint_every=10,
    )  # fmt: skip
    run = train(task_of(evaluate=32), bond(4, 0.5, policy_draws=4), config)
    own = run.evaluation.query("source == 'policy'").assign(log=lambda t: np.log(t["quantile"]))
    means = own.pivot_table(index="prompt", columns="step", values="log")
    gain = measures.paired_difference(means[40], means[0], level=0.999)
    assert gain.low > 0.05
    assert -1.3 < means[0].mean() < -0.7
    assert len(run.table) == 40 and list(run.table["step"]) == list(range(1, 41))
    run.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "model.safetensors").exists()


def test_a_run_s_folder_may_begin_at_home(runs, tmp_path, monkeypatch):
    """Written to, read from and found again in the user's own folder, not in one called `~`."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    run = train(task_of(), BOND, configured(steps=1), "~/case")
    assert run.folder.path.parent == tmp_path / "home" / "case"
    assert len(run.table) == 1 and len(run.evaluation)
    assert not (tmp_path / "~").exists()


def test_each_accelerator_keeps_its_precision(monkeypatch):
    """A notebook may train in bfloat16 and then in float32, with both still alive: whichever was
    made last, and whatever accelerator the caller has, each computes products as it was asked to.
    """
    monkeypatch.setattr(AcceleratorState, "_shared_state", {})  # the process's own stays
    theirs = Accelerator(mixed_precision="bf16")
    made = [(p, device.accelerator(p)) for p in ("bf16", "fp32", "bf16", "fp32")]
    for precision, accelerator in made:
        with accelerator.autocast():
            product = torch.ones(2, 2, device=accelerator.device) @ torch.ones(
                2, 2, device=accelerator.device
            )
        assert product.dtype == device.dtype(precision)
    assert theirs.mixed_precision == "bf16"


@pytest.mark.parametrize("mode", ["highest", "medium"])
def test_a_bf16_run_leaves_the_process_as_it_was(runs, mode):
    """torch's float32 matmul mode is the caller's: "medium" rounds products on some processors."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(mode)
    try:
        train(task_of(), BOND, configured(steps=1, precision="bf16"))
        assert torch.get_float32_matmul_precision() == mode
    finally:
        torch.set_float32_matmul_precision(before)
    assert not torch.is_autocast_enabled("cpu")


def test_only_prompts_that_will_pass_by_are_scored():
    """2 steps of 3 prompts out of 400 read 6 of them: the bank has 8 samples of these 6 and of no
    other, each with its own: a prompt's samples are those that the bank scored for it."""
    asked: dict[str, list[str]] = {}

    def reward(prompts, completions):
        asked.update(zip(prompts, completions, strict=True))
        return taste(prompts, completions)

    many = dataclasses.replace(
        task_of(reward=reward), train_prompts=tiny.documents(400, seed=9), identity={"name": "many"}
    )
    trainer = trainer_of(task=many, config=configured(steps=2))
    assert trainer.bank is not None
    read = []
    for trainer.step in (1, 0):
        read += trainer._prompts()
    assert set(asked) == {many.train_prompts[i] for i in read} and len(asked) == 6
    texts = [many.train_prompts[i] for i in read[3:]]
    (drawn, _), _ = trainer._anchor_draws(read[3:], texts, trainer.policy.encode(texts))
    for prompt, found in zip(texts, many.model.decode(drawn), strict=True):
        assert set(found) <= set(asked[prompt])


def checkpointing(task: Task) -> Task:
    """The caller's own training has left the model in train mode, with gradient checkpointing."""
    task.model.model.gradient_checkpointing_enable()
    task.model.model.train()
    return task


def tuples(task: Task) -> Task:
    task.model.model.config.return_dict = False
    return task


@pytest.mark.parametrize("state", [checkpointing, tuples])
def test_what_the_caller_left_on_the_model_changes_nothing(state, tmp_path):
    first, second = (
        train(made, BOND, configured(steps=2), tmp_path / name)
        for made, name in ((task_of(), "a"), (state(task_of()), "b"))
    )
    assert_same_results(second, first)


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_training_needs_no_gradients_of_the_caller(off, tmp_path):
    """Called where gradients are turned off, `train` turns them on for itself."""
    first = train(task_of(), BOND, configured(steps=2), tmp_path / "a")
    task = task_of()
    with off():
        second = train(task, BOND, configured(steps=2), tmp_path / "b")
    assert_same_results(second, first)


def test_the_record_says_whether_a_gradient_was_clipped(tmp_path):
    """The norm before clipping stands beside it: 1 where it exceeds `clip`, else 0."""
    norms = train(task_of(), BOND, configured(clip=1e9), tmp_path).table["gradient_norm"]
    between = float(norms.sort_values().iloc[:2].mean())
    record = train(task_of(), BOND, configured(clip=between), tmp_path).table
    assert record["clipped"].tolist() == (record["gradient_norm"] > between).astype(float).tolist()
    assert 0 < record["clipped"].sum() <= len(record)


def test_nothing_is_stored_of_a_model_that_gives_nan(tmp_path):
    """A model that breaks on longer texts only: the bank stops before anything is written."""
    task = task_of()
    task.model.model.lm_head.weight.data[7] = torch.nan
    with pytest.raises(ValueError, match="gives NaN before any training"):
        train(task, BOND, CONFIG, tmp_path)
    assert not list(training.paths.runs_folder().glob("banks/*/*"))


def test_a_run_of_another_machine_is_read_with_a_word(tmp_path, monkeypatch):
    """Asked for again where it was computed it comes back in silence, elsewhere with a warning."""
    train(task_of(), BOND, configured(steps=1), tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        train(task_of(), BOND, configured(steps=1), tmp_path)
    monkeypatch.setattr(device, "kind", lambda: "another kind")
    with pytest.warns(UserWarning, match="was computed on .* and is read on another kind"):
        train(task_of(), BOND, configured(steps=1), tmp_path)


def test_a_new_run_asks_its_reward_first(tmp_path):
    """A reward that answers wrongly is refused before a sample is drawn or a folder made; one that
    was asked before is not asked again for a run that is finished."""
    with pytest.raises(ValueError, match="the reward returned None"):
        train(task_of(reward=lambda prompts, completions: None), BOND, CONFIG, tmp_path)
    assert not list(tmp_path.iterdir()) and not (training.paths.runs_folder() / "banks").exists()
    train(task_of(), BOND, configured(steps=1), tmp_path)
    train(task_of(reward=lambda *_: 1 / 0), BOND, configured(steps=1), tmp_path)
