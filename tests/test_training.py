"""`train`: exact resumption, runs that are named by all that matters, refusals, and that it learns.

float32 on the processor with one thread, where equal means equal to the last bit.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.tracking import GeneralTracker
from lab import (
    ALL,
    BOND,
    CONFIG,
    Killed,
    assert_same_results,
    configured,
    kill,
    spied,
    task_of,
    taste,
    trainer_of,
)

from bondlab import device, rules, training
from bondlab.algorithms import Algorithm, bonbon, bond, j_bond, reinforce, warp
from bondlab.anchors import MovingAverage, Periodic
from bondlab.bank import SPREAD_STREAM, BankFolder, prompts_at, spread_bank
from bondlab.config import Config
from bondlab.quantiles import Learned
from bondlab.report.intervals import paired_difference
from bondlab.results import RunFolder
from bondlab.tasks import tiny
from bondlab.trainer import Trainer
from bondlab.training import train


@pytest.fixture(autouse=True)
def folder(runs):
    """Where the runs of a test are."""
    return runs / "parts"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> training.Run:
    """The run that was not stopped, for all who only compare with it."""
    return apart(tmp_path_factory, CONFIG)


@pytest.fixture(scope="module")
def short(tmp_path_factory) -> training.Run:
    """The same with two steps."""
    return apart(tmp_path_factory, configured(steps=2))


def apart(tmp_path_factory, config: Config) -> training.Run:
    """An uninterrupted run in a folder of runs and banks that no test has."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("BONDLAB_RUNS", str(tmp_path_factory.mktemp("apart") / "runs"))
        return uninterrupted(config=config)


@pytest.fixture
def copied(whole, runs) -> Path:
    """A copy of the folder of `whole`, with its banks, where `uninterrupted` finds it."""
    shutil.copytree(whole.folder.path.parents[1], runs)
    return runs / "whole" / whole.folder.path.name


def uninterrupted(algorithm=BOND, config=CONFIG, family="t5") -> training.Run:
    return train(task_of(family), algorithm, config, training.paths.runs_folder() / "whole")


# -- stopping -------------------------------------------------------------------------------------

SAVE, UPDATE = (Trainer, "save"), (Trainer, "update")
STOPS = {
    "each time after a checkpoint": [(*SAVE, 1, False)] * 4,
    "between record line and checkpoint": [(*SAVE, 1, True), (*SAVE, 2, True)],
    "before an evaluation": [(Trainer, "evaluate", 2, True)],
    "between evaluation and next update": [(*UPDATE, 3, True)],
    "while the banks are filled": [(BankFolder, "fill", 1, False)],
}
NEAR = {"kl_limit": 1e-4, "checkpoint_seconds": 1e9}  # whose only checkpoint is that of the end
LATE = [(*UPDATE, 3, False)]  # lines and an evaluation past the last checkpoint must be forgotten
CASES = {name: (stops, "t5", BOND, {}) for name, stops in STOPS.items()} | {
    "rare checkpoints": (LATE, "t5", BOND, {"checkpoint_seconds": 1e9}),
    "fresh": (LATE, "t5", BOND, {"fresh": True}),
    "shared": (LATE, "t5", BOND, {"fresh": "shared"}),
    "as far as it may": ([(*SAVE, 1, True)], "t5", BOND, NEAR),
    "all weights": (LATE, "t5", BOND, ALL),
    "iterative": (LATE, "t5", bond(2, 0.5, quantile_draws=5, anchor=Periodic(2)), {}),
    "learned": (LATE, "t5", bond(3, 0.5, quantile_model=Learned(learning_rate=1e-2)), {}),
    "j_bond": (LATE, "gemma", j_bond(), {}),
    "j_bond, all": (LATE, "gemma", j_bond(), ALL),
    "warp": (LATE, "gemma", warp(0.1, 0.05), {}),
    "bonbon": (LATE, "gemma", bonbon(4), {}),
}


@pytest.mark.parametrize("name", CASES)
def test_resuming_equals_not_stopping(name, folder, whole, monkeypatch):
    """Wherever it is killed, a continued run leaves record, evaluations and weights to the bit as
    one that was never stopped: draws depend on seed and step alone, the rest is in a checkpoint."""
    stops, family, algorithm, changed = CASES[name]
    config = configured(**changed)
    for stop in stops:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill(patch, *stop)
            train(task_of(family), algorithm, config, folder)
    again = train(task_of(family), algorithm, config, folder)
    plain = (family, algorithm) == ("t5", BOND) and changed.keys() <= {"checkpoint_seconds"}
    assert_same_results(again, whole if plain else uninterrupted(algorithm, config, family))
    # Its manifest counts the seconds of every step it has, whichever process made it.
    assert again.folder.manifest["seconds"] >= again.folder.record()["seconds"].sum()


def test_a_finished_run_is_not_computed_again(copied, whole, monkeypatch):
    """Tables and policy come from the disk, without an update, an evaluation or a sample."""
    calls = [
        spied(monkeypatch, owner, name, lambda *_: None)
        for owner, name in [UPDATE, (Trainer, "evaluate"), (BankFolder, "fill")]
    ]
    again = uninterrupted()
    assert not any(calls) and again.folder.path == copied
    assert_same_results(again, whole)
    assert again.folder.finished and again.folder.manifest["starts"] == 1


def test_a_finished_run_without_its_last_checkpoint_is_finished_again(copied, whole):
    """The policy handed back must be the trained one: if its checkpoint is gone or damaged, the run
    goes on from the one before instead of passing an older policy off as the result."""
    max(copied.glob("checkpoints/step-*.pt")).write_bytes(b"cut")
    assert_same_results(uninterrupted(), whole)


def test_runs_of_one_seed_share_the_evaluation_before_the_first_step(monkeypatch):
    """Before training every policy is the reference, whatever its algorithm and rank: the second
    run evaluates twice (steps 2 and 4) where the first did three times, and what it takes over is
    to the bit what it would have measured. Another seed, and other weights, measure anew."""
    calls = spied(monkeypatch, Trainer, "evaluate", lambda trainer: trainer.step)
    first = uninterrupted()
    other = train(task_of(), bond(3, 0.0), configured(lora_rank=3))
    assert calls == [0, 2, 4, 2, 4]
    start, same = (run.evaluation.query("step == 0") for run in (first, other))
    pd.testing.assert_frame_equal(start, same)
    fresh = trainer_of(bond(3, 0.0), configured(lora_rank=3)).evaluate()
    pd.testing.assert_frame_equal(fresh, same)
    for changed in ({"seed": 1}, ALL):
        calls.clear()
        uninterrupted(config=configured(steps=2, **changed))
        assert calls == [0, 2]


def test_a_finished_run_without_its_files_is_not_passed_off_as_trained(copied, whole):
    """Record and checkpoints are gone, evaluations there: it is trained again, to the same."""
    shutil.rmtree(copied / "checkpoints")
    (copied / "record.jsonl").unlink()
    assert_same_results(uninterrupted(), whole)


def test_training_ends_as_far_from_the_reference_as_it_may(folder, whole, monkeypatch):
    """At the first evaluation beyond the limit: its steps and evaluations are those of a whole run,
    its policy is kept, and the same call again computes nothing. One never as far is whole."""
    own = whole.evaluation.query("source == 'policy'").groupby("step")["kl"].mean()
    assert own[0] < NEAR["kl_limit"] < own[2] < own[4]
    run = train(task_of(), BOND, configured(**NEAR), folder)
    assert run.folder.finished and run.table["step"].tolist() == [1, 2]
    expected = whole.evaluation[whole.evaluation["step"] <= 2]
    pd.testing.assert_frame_equal(run.evaluation, expected, check_exact=True)
    assert run.folder.load()[0] == 2
    updates = spied(monkeypatch, Trainer, "update", lambda *_: None)
    again = train(task_of(), BOND, configured(**NEAR), folder)
    assert not updates
    for one, other in zip(again.policy.trainable(), run.policy.trainable(), strict=True):
        assert torch.equal(one, other)
    assert_same_results(train(task_of(), BOND, configured(kl_limit=own[4] + 1), folder), whole)


# -- names ----------------------------------------------------------------------------------------


def test_settings_name_the_run():
    """Whatever changes numbers changes the name; what does not, does not."""
    task = task_of()

    def name(algorithm=BOND, task=task, **changed) -> str:
        return repr(training.identity(task, algorithm, configured(**changed)))

    same = name(micro_batch=1), name(sampling_batch=1), name(checkpoint_seconds=7)
    assert {*same} == {name()}
    changes = dict(steps=5, seed=1, learning_rate=2e-2, lora_rank=4, bank_samples=9, fresh=True)
    changes |= dict(evaluation_bank=5, evaluate_every=3, clip=2.0, warmup=3, kl_limit=0.5)
    fewer = dataclasses.replace(task, train_prompts=task.train_prompts[:-1])
    assert fewer.identity == task.identity
    others = [
        *(name(**{key: value}) for key, value in changes.items()),
        name(algorithm=bond(n=3, beta=0.25, quantile_draws=5)),
        name(algorithm=bond(n=4, beta=0.5, quantile_draws=4)),
        *(name(dataclasses.replace(BOND, anchor=a)) for a in (Periodic(2), MovingAverage(0.1))),
        name(fresh="shared"),
        name(task=task_of(evaluate=3)),
        name(task=fewer),
        name(task=fewer, fresh=True),  # without a training bank, whose name would tell
        name(task=dataclasses.replace(task, train_prompts=task.train_prompts[::-1])),
        name(task=dataclasses.replace(task, identity={"reward": "another"})),
        name(algorithm=dataclasses.replace(BOND, rule=lambda s, **_: rules.jeffreys(s, 3, 0.5))),
        name(algorithm=dataclasses.replace(BOND, scales_rewards=True)),
    ]
    assert len({name(), *others}) == 1 + len(others)


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_number_that_is_not_finite_stops_the_run_and_loses_nothing(
    factor, folder, whole, monkeypatch
):
    """A weight of the third update: the error says which step, two record lines and their
    checkpoint stay, and the same call ends as if nothing had happened."""
    factors, weights = iter([1, 1, factor]), Algorithm.weights
    with monkeypatch.context() as patch:
        patch.setattr(Algorithm, "weights", lambda self, s: weights(self, s) * next(factors))
        with pytest.raises(ValueError, match=r"step 3 gave .*lower learning_rate \(now 0.01\)"):
            train(task_of(), BOND, CONFIG, folder)
    (path,) = folder.iterdir()
    run = RunFolder(path)
    assert run.load()[0] == len(run.record()) == 2
    assert_same_results(train(task_of(), BOND, CONFIG, folder), whole)
    assert [p.name for p in folder.iterdir()] == [path.name]


def test_a_bank_that_is_too_small_says_so(runs):
    """3 Best-of-N draws and 5 quantile draws do not fit into 7."""
    with pytest.raises(ValueError, match="bank_samples of 8 or more, or fresh=True, not 7"):
        train(task_of(), BOND, configured(bank_samples=7))
    assert not runs.exists()


def test_a_log_that_is_no_function_is_refused_first(folder):
    with pytest.raises(ValueError, match="log must be a function .*, not 'tensorboard'"):
        train(task_of(), BOND, CONFIG, folder, log="tensorboard")
    assert not folder.exists()


def test_a_second_process_is_turned_away(folder):
    """While one holds the run's lock another gets an error, and gets in afterwards."""
    config = configured(steps=1)
    run = RunFolder.of(folder, training.identity(task_of(), BOND, config))
    with run.lock(), pytest.raises(RuntimeError, match="another process is computing"):
        train(task_of(), BOND, config, folder)
    assert train(task_of(), BOND, config, folder).folder.finished


@pytest.mark.parametrize(
    ("name", "value"), [("stepz", 1), ("learning_rate", "1e-4"), ("steps", 0), ("clip", 0.0)]
)
def test_settings_are_checked_where_they_enter(name, value):
    """Unknown, ill-typed and impossible values stop at once, with their name."""
    with pytest.raises(ValueError, match=name):
        Config(**{"steps": 2, name: value})


def test_a_new_run_asks_its_reward_first(runs, folder):
    """A reward that answers wrongly is refused before a sample is drawn; one that was asked before
    is not asked again for a run that is finished."""
    with pytest.raises(ValueError, match="the reward returned None"):
        train(task_of(reward=lambda prompts, completions: None), BOND, CONFIG, folder)
    assert not (runs / "banks").exists() and not folder.exists()
    train(task_of(), BOND, configured(steps=1), folder)
    train(task_of(reward=lambda *_: 1 / 0), BOND, configured(steps=1), folder)


def test_nothing_is_stored_of_a_model_that_gives_nan(runs):
    """A model that breaks on longer texts only: the bank stops before anything is written."""
    task = task_of()
    task.model.model.lm_head.weight.data[7] = torch.nan
    with pytest.raises(ValueError, match="gives NaN before any training"):
        train(task, BOND, CONFIG)
    assert not list(runs.glob("banks/*/*"))


# -- what is stored -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "changed", "more"),
    [(BOND, {"fresh": True}, 0), (j_bond(), {}, 0), (reinforce(0.1), {}, 1)],
    ids=["fresh", "moving anchor", "no anchor draws"],
)
def test_where_the_reference_is_not_dealt_no_training_bank_is_drawn(algorithm, changed, more, runs):
    """What is stored is the held-out prompts' bank (the other would be 20,000 x 32 samples on all
    of XSum), and the samples that REINFORCE's unit of rewards is measured on."""
    config = configured(steps=1, **changed)
    (held_out,) = training.banks(task_of(), algorithm, config)
    train(task_of(), algorithm, config)
    stored = list((runs / "banks").iterdir())
    assert held_out.path in stored and len(stored) == 1 + more


def test_only_prompts_that_will_pass_by_are_scored():
    """2 steps of 3 prompts out of 400 read 6 of them: the bank has 8 samples of these 6 and of no
    other, each with its own: a prompt's samples are those that the bank scored for it."""
    asked: dict[str, list[str]] = {}

    def reward(prompts, completions):
        asked.update(zip(prompts, completions, strict=True))
        return taste(prompts, completions)

    many = {"train_prompts": tiny.documents(400, seed=9), "identity": {"name": "many"}}
    many = dataclasses.replace(task_of(reward=reward), **many)
    trainer = trainer_of(task=many, config=configured(steps=2))
    assert len(trainer.bank.load().rewards) == 6
    stored, read = dict(asked), prompts_at(range(6), 400, trainer.config.seed)
    assert set(stored) == {many.train_prompts[i] for i in read} and len(stored) == 6
    for trainer.step in (1, 0):
        anchors = many.model.decode(trainer.sample(trainer.places).anchors)
        for row, found in zip(trainer.places, anchors, strict=True):
            assert set(found) <= set(stored[many.train_prompts[read[row]]])


def test_a_run_s_folder_may_begin_at_home(tmp_path, monkeypatch):
    """Written to, read from and found again in the user's own folder, not in one called `~`."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    run = train(task_of(), BOND, configured(steps=1), "~/case")
    assert run.folder.path.parent == tmp_path / "home" / "case"
    assert len(run.table) == 1 and len(run.evaluation)
    assert not (tmp_path / "~").exists()


# -- the outcome ----------------------------------------------------------------------------------


def test_bond_raises_the_log_quantile(tmp_path):
    """20 steps of BOND (N = 4, beta 0.5) move the held-out mean log quantile from about -1 towards
    -1/4: the paired 95 % interval over 32 prompts lies above 0."""
    sizes = {"steps": 20, "evaluate_every": 20, "evaluation_samples": 16}
    config = Config(**sizes, learning_rate=1e-2, warmup=2, precision="fp32")
    run = train(task_of(evaluate=32), bond(4, 0.5, policy_draws=4), config)
    own = run.evaluation.query("source == 'policy'").assign(log=lambda t: np.log(t["quantile"]))
    means = own.pivot_table(index="prompt", columns="step", values="log")
    gain = paired_difference(means[20], means[0])
    assert gain.low > 0.05
    assert -1.3 < means[0].mean() < -0.7
    assert list(run.table["step"]) == list(range(1, 21))
    run.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "model.safetensors").exists()


def test_the_record_says_whether_a_gradient_was_clipped(whole):
    """The norm before clipping stands beside it: 1 where it exceeds `clip`, else 0."""
    norms = whole.table["gradient_norm"]
    assert not whole.table["clipped"].any()
    between = float(norms.sort_values().iloc[:2].mean())
    record = uninterrupted(config=configured(clip=between)).table
    assert record["clipped"].tolist() == (record["gradient_norm"] > between).astype(float).tolist()
    assert 0 < record["clipped"].sum() <= len(record)


class Kept(GeneralTracker):
    """A tracker of accelerate's that keeps what it is told."""

    name, requires_logging_directory, tracker = "kept", False, None

    def __init__(self) -> None:
        super().__init__()
        self.told = []

    def store_init_configuration(self, values: dict) -> None: ...

    def log(self, values: dict, step: int) -> None:
        self.told.append((step, values))


def test_what_is_logged_is_what_the_run_leaves(folder, monkeypatch):
    """Each step's row and each evaluation's means, once and in order, by accelerate's own `log`;
    of a run that goes on those from there on, of a finished one nothing."""
    tracker = Kept()
    accelerator = Accelerator(log_with=tracker)
    accelerator.init_trackers("runs")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill(patch, *UPDATE, 3, True)
        train(task_of(), BOND, CONFIG, folder, accelerator.log)
    assert [step for step, _ in tracker.told] == [0, 1, 2, 2]
    run = train(task_of(), BOND, CONFIG, folder, accelerator.log)
    assert [step for step, _ in tracker.told] == [0, 1, 2, 2, 3, 4, 4]
    train(task_of(), BOND, CONFIG, folder, accelerator.log)
    rows = [(s, values) for s, values in tracker.told if "loss" in values]
    told = pd.DataFrame([{"step": step, **values} for step, values in rows])
    pd.testing.assert_frame_equal(told[run.table.columns], run.table)
    policy = run.evaluation[run.evaluation["source"] == "policy"]
    for step, values in (pair for pair in tracker.told if pair not in rows):
        own = policy[policy["step"] == step]
        assert values == {
            "evaluation/reward": pytest.approx(own["reward"].mean()),
            "evaluation/log_quantile": pytest.approx(np.log(own["quantile"]).mean()),
            "evaluation/kl_to_reference": pytest.approx(own["kl"].mean()),
        }


# -- what the caller has and keeps ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "around"),
    [("train mode, checkpointing", torch.no_grad), ("tuples", torch.inference_mode)],
)
def test_what_the_caller_left_changes_nothing(model, around, folder, short):
    """On the model, by a training of the caller's own or a setting, and around the call."""
    config, task = configured(steps=2), task_of()
    if model == "tuples":
        task.model.model.config.return_dict = False
    else:
        task.model.model.gradient_checkpointing_enable()
        task.model.model.train()
    with around():
        found = train(task, BOND, config, folder)
    assert_same_results(found, short)


def test_the_callers_accelerator_and_launcher_change_nothing_and_are_not_changed(
    monkeypatch, folder, short
):
    """Each run has its own precision, and its gradients are whole, whatever a script of the
    caller's, or accelerate's launcher, asks for its own training."""
    monkeypatch.setattr(AcceleratorState, "_shared_state", {})  # the process's own stay
    monkeypatch.setattr(GradientState, "_shared_state", {})
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    theirs = Accelerator(mixed_precision="bf16")
    for precision in ("bf16", "fp32"):
        one = torch.ones(2, 2, device=theirs.device)
        with device.autocast(precision):
            assert (one @ one).dtype == device.dtype(precision)
    assert_same_results(train(task_of(), BOND, configured(steps=2), folder), short)
    assert (theirs.mixed_precision, theirs.gradient_accumulation_steps) == ("bf16", 4)


def test_a_bf16_run_leaves_the_process_as_it_was():
    """torch's float32 matmul mode is the caller's: "medium" rounds products on some processors."""
    torch.set_float32_matmul_precision("medium")  # every test starts with "highest"
    train(task_of(), BOND, configured(steps=1, precision="bf16"))
    assert torch.get_float32_matmul_precision() == "medium"
    assert not torch.is_autocast_enabled("cpu")


def test_another_kind_of_machine_is_told(folder, monkeypatch):
    """Numbers of two kinds differ in the last digit; the run's name does not tell them apart."""
    first = train(task_of(), BOND, configured(steps=1), folder)
    monkeypatch.setattr(device, "kind", lambda: "another kind")
    with pytest.warns(match=f"{first.folder.path.name} was computed on .*, this is another kind"):
        train(task_of(), BOND, configured(steps=1), folder)


@pytest.mark.parametrize(("algorithm", "depends"), [(reinforce(0.1), True), (BOND, False)])
def test_the_machine_that_drew_the_unit_of_rewards_is_named(algorithm, depends, runs):
    """In the manifest of a run that counts rewards in it."""
    spread_bank(task_of(), "fp32").filled(task_of())
    (spread_bank(task_of(), "fp32").path / "kinds.json").write_text('["a machine"]')
    manifest = train(task_of(), algorithm, configured(steps=1)).folder.manifest
    assert ("a machine" in manifest["bank_kinds"]) == depends


def test_checkpoints_are_written_by_the_clock(folder, monkeypatch):
    """After each of two steps, or at the end alone where the run is shorter than the seconds."""
    steps = spied(monkeypatch, Trainer, "save", lambda trainer: trainer.step)
    for seconds, expected in ((0, [1, 2]), (1e9, [2])):
        steps.clear()
        config = configured(steps=2, checkpoint_seconds=seconds)
        train(task_of(), BOND, config, folder / str(seconds))
        assert steps == expected


@pytest.mark.parametrize(
    "given", [{"algorithm": bond}, {"config": CONFIG.model_dump()}, {"task": "a task"}]
)
def test_what_is_no_argument_of_its_kind_is_refused_first(given, folder):
    arguments = {"task": task_of(), "algorithm": BOND, "config": CONFIG} | given
    with pytest.raises(TypeError, match=r"an Algorithm, such as j_bond\(\)"):
        train(*arguments.values(), folder)


def test_stored_samples_have_streams_of_their_own():
    """Training's, held-out prompts' and those of the reward's unit."""
    seeds = [folder.seed for folder in training.banks(task_of(), BOND, CONFIG)]
    assert [*seeds, SPREAD_STREAM] == [0, 1, 2]


def test_runs_of_a_seed_share_what_is_drawn_anew():
    """5 steps of 3 of 8 prompts: 15 rows, each read once, with draws of their own each time that a
    prompt passes by. N, beta and rates of a seed share them; another seed and a bank that is read
    again and again have others."""
    config, task = configured(steps=5, fresh="shared"), task_of()
    trainer, seen = trainer_of(task=task, config=config), []
    kept, texts = trainer.bank.load().completions.tokens, trainer.folders[0].prompts
    assert texts == [task.train_prompts[i] for i in prompts_at(range(15), 8, config.seed)]
    for trainer.step in range(5):
        batch = trainer.sample(trainer.places)
        given = [texts[row] for row in trainer.places]
        assert torch.equal(batch.prompts.ids, trainer.policy.encode(given).ids)
        for row, drawn in zip(trainer.places, batch.anchors.tokens, strict=True):
            assert all((kept[row] == one).all(-1).any() for one in drawn)
            seen.append((texts[row], kept[row]))
    assert len(seen) == len(kept) == 15 and len({text for text, _ in seen}) == 8
    for (one, first), (other, second) in itertools.combinations(seen, 2):
        assert one != other or not torch.equal(first, second)

    def bank(algorithm=BOND, **changed) -> Path:
        return training.banks(task, algorithm, config.model_copy(update=changed))[0].path

    same = [bank(bond(2, beta, quantile_draws=6)) for beta in (0.0, 0.5)]
    assert {*same, bank(learning_rate=1.0)} == {bank()}
    moving = [training.identity(task, j_bond(), configured(fresh=x)) for x in ("shared", True)]
    assert moving[0] == moving[1]  # which has nothing to share
    assert len({bank(), bank(seed=1), bank(fresh=False), bank(bank_samples=9)}) == 4


def test_seeds_do_not_share_their_random_numbers():
    """A single prompt passes by in one order: its draws differ from seed to seed all the same."""
    rewards = []
    for seed in (0, 1):
        config = configured(steps=2, prompts_per_step=1, fresh="shared", seed=seed)
        rewards.append(trainer_of(task=task_of(train=1), config=config).bank.load().rewards)
    assert not torch.equal(*rewards)
