"""Tasks are checked where they enter, and the hub path runs on small local folders."""

from __future__ import annotations

import dataclasses
import json
import math
import threading
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset, DatasetDict
from lab import configured

from bondlab import assets, device, tasks, training
from bondlab.algorithms import bond
from bondlab.lm.language_model import LanguageModel
from bondlab.tasks import Task, TaskSettings, models, stand_ins, tiny, xsum
from bondlab.tasks.settings import LIMITS
from bondlab.training import train

pytestmark = pytest.mark.usefixtures("runs")

HUB = configured(
    steps=2, learning_rate=1e-3, lora_rank=None, fresh=True, evaluate_every=1, micro_batch=2
)


def hub_t5(seed: int, tied: bool) -> torch.nn.Module:
    """A T5 as the hub's checkpoints are: one embedding for both sides; own head or the same."""
    model = tiny.t5(seed, tied)
    model.encoder.embed_tokens.weight = model.decoder.embed_tokens.weight = model.shared.weight
    return model


def saved_t5(folder: Path, seed: int, tied: bool = False) -> str:
    hub_t5(seed, tied).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return str(folder)


def saved_data(folder: Path, overlap: bool = False) -> str:
    """Splits train (6 rows) and test (4), as XSum's: id, document, summary."""
    texts = tiny.documents(10, words=30)
    if overlap:
        texts[8] = texts[2]
    rows = [
        {"id": str(i), "document": text, "summary": " ".join(text.split()[:4])}
        for i, text in enumerate(texts)
    ]
    splits = {"train": rows[:6], "test": rows[6:]}
    DatasetDict({k: Dataset.from_list(v) for k, v in splits.items()}).save_to_disk(folder)
    return str(folder)


@pytest.fixture
def folders(tmp_path) -> dict[str, str]:
    return {
        "policy": saved_t5(tmp_path / "policy", 0),
        "reward": saved_t5(tmp_path / "reward", 1),
        "data": saved_data(tmp_path / "data"),
    }


def settings(folders: dict[str, str], **changed) -> TaskSettings:
    sizes = {"train": 5, "evaluate": 3, "prompt_tokens": 12, "completion_tokens": 6}
    return TaskSettings(name="xsum", **(sizes | folders | changed))


# -- any task -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["train_prompts", "eval_prompts"])
def test_an_empty_prompt_is_named(name):
    """The list and the positions are in the message; so is a list without prompts."""
    given = {"train_prompts": ["rain", "fire", "law"], "eval_prompts": ["port", "sea", "ship"]}
    for texts, places in ((["money", "", " \n\t"], r"\[1, 2\]"), ([], r"\[\]")):
        with pytest.raises(ValueError, match=f"{name} .* positions {places}"):
            Task(tiny.language_model(), tiny.reward, **(given | {name: texts}))


def test_held_out_prompts_are_held_out():
    """Two prompts in both lists are counted in the error."""
    with pytest.raises(ValueError, match="2 prompts are in train_prompts and in eval_prompts"):
        Task(tiny.language_model(), tiny.reward, ["a", "b", "c"], ["c", "d", "a"])


def test_a_model_comes_with_its_tokenizer():
    with pytest.raises(ValueError, match="no LanguageModel"):
        Task(tiny.gemma(), tiny.reward, ["a"], ["b"])


@pytest.mark.parametrize("references", [[], ["ship"], ["ship", "sea", "law"]])
def test_each_held_out_prompt_has_a_reference(references):
    """Two prompts take two references, or none are given at all."""
    given = [tiny.language_model(), tiny.reward, ["rain"], ["port", "fire"]]
    with pytest.raises(ValueError, match=f"^{len(references)} eval_references for 2 eval_prompts"):
        Task(*given, references)


@pytest.mark.parametrize("given", [None, {"policy": "mine", "reward": "mine"}])
def test_a_replaced_reward_or_model_is_another_task(given):
    """Whether the name was given or derived, it is no name of another model or reward; that of the
    other part stays, and other held-out prompts leave both. Derived, it is that of a task made with
    the same parts afresh; a name given along with the new reward stands."""

    def opposite(prompts, completions) -> torch.Tensor:
        return -tiny.reward(prompts, completions)

    texts, model = tiny.documents(6), tiny.language_model(seed=1)
    task = Task(tiny.language_model(), tiny.reward, texts[:4], texts[4:], identity=given)
    rewarded = dataclasses.replace(task, reward=opposite)
    other = dataclasses.replace(task, model=model)
    both = dataclasses.replace(rewarded, model=model)
    names = [json.dumps(each.identity) for each in (task, rewarded, other, both)]
    assert len(set(names)) == 4
    assert both.identity == Task(model, opposite, texts[:4], texts[4:]).identity
    assert dataclasses.replace(task, eval_prompts=["port"]).identity == task.identity
    assert dataclasses.replace(task, reward=opposite, identity={"a": 1}).identity["a"] == 1
    assert given is None or task.identity == given
    assert (rewarded.identity["policy"], other.identity["reward"]) == tuple(task.identity.values())


def test_a_task_is_named_by_its_weights_and_rewards():
    """Without an identity of its own: equal for equal parts, another for other weights (a single
    entry), for a full-precision copy in bfloat16, and for a reward of other code, which is asked
    nothing: it may cost money."""

    def named(reward=tiny.reward, change: float = 0.0, dtype=torch.float32) -> str:
        model = tiny.language_model().requires_grad_(False).to(dtype)
        next(model.parameters())[0, 0] += change
        return json.dumps(Task(model, reward, ["rain fire", "law"], ["port"]).identity)

    def other(prompts, completions) -> torch.Tensor:
        pytest.fail("asked")

    different = [{}, {"change": 1e-3}, {"dtype": torch.bfloat16}, {"reward": other}]
    names = [named(**given) for given in different]
    assert len(set(names)) == 4
    assert names == [named(**given) for given in different]


def locked(prompts, completions, lock=threading.Lock()) -> torch.Tensor:  # noqa: B008
    return tiny.reward(prompts, completions)


def test_what_cannot_be_named_is_never_found_again():
    """A reward with a lock: each task has a name of its own, with one warning that says why and
    what to do; with the name that it asks for there is none, and the policy's is still derived."""
    given, names = [tiny.language_model(), locked, ["rain"], ["port"]], []
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"found again.*reward\.lock cannot be") as seen:
            names.append(Task(*given).identity)
        assert len(seen) == 1 and 'Pass identity={"reward": "..."}' in str(seen[0].message)
        assert seen[0].filename == __file__
    assert names[0]["policy"] == names[1]["policy"] and names[0]["reward"] != names[1]["reward"]
    with warnings.catch_warnings(action="error"):
        named = Task(*given, identity={"reward": "v3"}).identity
    assert named == {"policy": names[0]["policy"], "reward": "v3"}


@pytest.mark.parametrize("wrong", ["v3", 3, [1], {"reward": object()}])
def test_an_identity_is_made_of_names(wrong):
    """It is written into files: what JSON cannot hold is refused with an example of what it can."""
    with pytest.raises(ValueError, match=r"identity must be a dictionary of names, such as"):
        Task(tiny.language_model(), tiny.reward, ["rain"], ["port"], identity=wrong)


@pytest.mark.parametrize(("family", "precision"), [("t5", "bf16"), ("gemma", "fp32")])
def test_training_leaves_the_name(family, precision):
    """What a run does to the model that it was given (frozen, tokenizer set, head copied in
    float32, adapters on copies) is no other model: the next task of it finds the same runs."""
    config = HUB.model_copy(update={"lora_rank": 2, "precision": precision, "fresh": False})
    model = tiny.language_model(family).to(device.dtype(precision))
    texts, names = tiny.documents(6), []
    for _ in range(2):
        task = Task(model, tiny.reward, texts[:4], texts[4:])
        names.append(task.identity)
        train(task, bond(2, 0.5, quantile_draws=3), config)
    assert names[0] == names[1]


TEXTS = ["rain", "fire"]


COLUMN = Dataset.from_dict({"prompt": TEXTS})
COLUMNS = [tuple(TEXTS), pd.Series(TEXTS), np.array(TEXTS), COLUMN["prompt"], iter(TEXTS)]


@pytest.mark.parametrize("prompts", [*COLUMNS, dict.fromkeys(TEXTS).keys()])
def test_any_column_of_texts_is_a_list_of_prompts(prompts):
    """Kept as a list of plain strings, of which nothing is used up by the first look at it."""
    task = Task(tiny.language_model(), tiny.reward, prompts, ["port"], np.array(["sea"]))
    assert task.train_prompts == TEXTS and task.eval_references == ["sea"]
    assert {type(text) for text in (*task.train_prompts, *task.eval_references)} == {str}


@pytest.mark.parametrize("name", ["train_prompts", "eval_prompts", "eval_references"])
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("rain at sea", "of type str"),  # the prompts r, a, i, n
        (set(TEXTS), "of type set"),
        ({"prompt": TEXTS}, "of type dict"),
        (pd.DataFrame({"prompt": TEXTS}), "of type DataFrame"),
        (7, "of type int"),
        (COLUMN, "no text but {'prompt"),
        ([[{"role": "user", "content": "rain"}]], "no text but "),
        ([*TEXTS, None], "no text but None"),
        ([*TEXTS, math.nan], "no text but nan"),
        ([b"rain"], "no text but b'rain'"),
    ],
)
def test_what_is_no_list_of_texts_is_named(name, wrong, said):
    """The list, what it is or holds, and what to pass, before anything is computed."""
    given = {"train_prompts": ["rain"], "eval_prompts": ["port"], "eval_references": ["ship"]}
    with pytest.raises(ValueError, match=f"^{name}.* is {said}.*: pass a list of strings"):
        Task(tiny.language_model(), tiny.reward, **(given | {name: wrong}))


def test_neither_prompts_nor_a_reward_may_be_left_out():
    with pytest.raises(ValueError, match="^eval_prompts is of type NoneType"):
        Task(tiny.language_model(), tiny.reward, TEXTS, None)
    with pytest.raises(ValueError, match="the reward is no function .*'length'"):
        Task(tiny.language_model(), "length", TEXTS, ["port"])


def test_settings_are_checked_where_they_enter():
    """Unknown tasks, names and impossible counts stop at once."""
    for wrong in ({"name": "chess"}, {"train": 0}, {"evaluate": "4"}, {"limit": 2}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            TaskSettings(**({"name": "tiny", "train": 4, "evaluate": 2} | wrong))


def test_the_tiny_task_is_always_the_same():
    """The first prompts are those of a smaller task; nothing is in both lists; the model is frozen
    and of the asked precision. The causal one has the same prompts and another name."""
    small, large = (
        tasks.build(TaskSettings(name="tiny", train=t, evaluate=2), "fp32") for t in (3, 5)
    )
    assert list(large.train_prompts[:3]) == list(small.train_prompts)
    assert len(large.train_prompts) == 5 and len(large.eval_references) == 2
    assert not any(p.requires_grad for p in large.model.parameters())
    half = tasks.build(TaskSettings(name="tiny", train=3, evaluate=2), "bf16")
    assert {p.dtype for p in half.model.parameters()} == {torch.bfloat16}
    causal = tasks.build(TaskSettings(name="tiny_causal", train=5, evaluate=2), "fp32")
    assert large.model.is_encoder_decoder and not causal.model.is_encoder_decoder
    assert causal.train_prompts == large.train_prompts and causal.identity != large.identity


def test_two_tasks_are_kept():
    """Asked for in turn, as a notebook does that compares two, neither is loaded again; a third
    takes the place of the one not used for longest."""
    chosen = [TaskSettings(name="tiny", train=train, evaluate=2) for train in (3, 4, 5)]
    first, second = (tasks.build(settings, "fp32") for settings in chosen[:2])
    assert tasks.build(chosen[0], "fp32") is first and tasks.build(chosen[1], "fp32") is second
    tasks.build(chosen[2], "fp32")
    assert tasks.build(chosen[1], "fp32") is second and tasks.build(chosen[0], "fp32") is not first


def test_limits_left_open_are_the_task_s_own():
    """A number given stands, the other is the default of `LIMITS`; written settings hold both."""
    given = {"name": "tiny_causal", "train": 3, "evaluate": 2, "completion_tokens": 5}
    chosen = TaskSettings(**given)
    prompt, _ = LIMITS["tiny_causal"]
    assert chosen.limits == {"max_prompt_tokens": prompt, "max_new_tokens": 5}
    written = {"policy": None, "reward": None, "data": None, "prompt_tokens": prompt}
    assert chosen.model_dump() == given | written
    model = tasks.build(chosen, "fp32").model
    assert (model.max_prompt_tokens, model.max_new_tokens) == (prompt, 5)


@pytest.mark.parametrize(
    ("name", "limits"),
    [
        ("xsum", {"document_tokens": 160, "summary_tokens": 40}),
        ("sentiment", {"prompt_tokens": 64, "completion_tokens": 24}),
        ("chat", {"prompt_tokens": 144, "completion_tokens": 32}),
    ],
)
def test_settings_are_written_as_they_were(name, limits):
    """Stored runs are named by these keys and numbers: another dictionary would be another run."""
    given = {"name": name, "train": 1, "evaluate": 100}
    written = given | dict.fromkeys(["policy", "reward", "data"]) | limits
    assert TaskSettings(**given).model_dump(mode="json") == written


def test_the_adapters_name_xsum_in_stored_runs():
    """Other digits for the same weights would be other runs than those that are stored."""
    found = [models.identity(name) for name in (xsum.POLICY, xsum.REWARD)]
    assert found == ["652963aca818", "e92eda73eff4"]


# -- the hub's path -------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
def test_a_task_of_local_folders_is_what_they_hold(tied, folders, tmp_path):
    """The policy has the folder's law under the task's template and limits, the reward asks with
    the hub models' wording, prompts and references are the first rows of the splits."""
    folders["policy"] = saved_t5(tmp_path / "another", 3, tied)
    task = tasks.build(settings(folders), "fp32")
    rows = assets.dataset(folders["data"])
    assert task.train_prompts == rows["train"]["document"][:5]
    assert task.eval_prompts == rows["test"]["document"][:3]
    assert task.eval_references == rows["test"]["summary"][:3]
    assert task.model.template.startswith("summarize")
    limits = {"max_prompt_tokens": 12, "max_new_tokens": 6}
    expected = LanguageModel(hub_t5(3, tied), tiny.tokenizer(), task.model.template, **limits)
    prompts = expected.encode(task.eval_prompts)
    drawn = task.model.sample(task.model.encode(task.eval_prompts), 2, torch.Generator())
    with torch.no_grad():
        torch.testing.assert_close(drawn.log_probs, expected(prompts, drawn), atol=1e-4, rtol=0)
    asked = task.reward.reading
    assert asked.answers == ("1", "0") and "hypothesis: {claim}" in asked.text
    assert task.reward(["rain", "fire"], [["law", "sea"], ["", "dog"]]).shape == (2, 2)


def test_two_steps_on_local_folders(folders, tmp_path):
    """The settings of the `paper` profile, small: all weights trained, fresh draws, evaluations
    before and after each step; the policy leaves as a folder that loads as a policy again."""
    task = tasks.build(settings(folders), "fp32")
    before = {name: x.clone() for name, x in task.model.state_dict().items()}
    run = train(task, bond(2, 0.5, quantile_draws=3), HUB)
    assert len(run.table) == 2 and run.folder.finished
    assert sorted(run.evaluation["step"].unique()) == [0, 1, 2]
    assert all(torch.equal(x, before[name]) for name, x in task.model.state_dict().items())
    assert len(run.policy.trainable()) == len(list(task.model.parameters()))
    run.save_pretrained(tmp_path / "trained")
    again = tasks.build(settings(folders, policy=str(tmp_path / "trained")), "fp32").model
    prompts = again.encode(task.eval_prompts)
    drawn = run.policy.sample(prompts, 2, torch.Generator())
    with torch.no_grad():
        torch.testing.assert_close(again(prompts, drawn), drawn.log_probs, atol=1e-4, rtol=0)
        assert (task.model(prompts, drawn) - drawn.log_probs).abs().max() > 1e-3


def test_another_model_in_the_same_folder_is_another_run(folders, tmp_path):
    """A path does not say what it holds: after the policy or the reward was trained again in place,
    runs and banks of the old one must not be taken for those of the new one."""
    algorithm = bond(2, 0.5, quantile_draws=3)

    def identity() -> str:
        tasks.build.cache_clear()
        task = tasks.build(settings(folders), "fp32")
        return json.dumps(training.identity(task, algorithm, HUB), sort_keys=True)

    names = {identity(), identity()}
    for seed, part in enumerate(("policy", "reward")):
        saved_t5(tmp_path / part, 7 + seed)
        names.add(identity())
    assert len(names) == 3


def test_too_many_prompts_are_refused(folders):
    """There are 6 and 4; the message says so before any model is loaded."""
    for wanted in ({"train": 7}, {"evaluate": 5}):
        with pytest.raises(ValueError, match="there are 6 and 4"):
            tasks.build(settings(folders | {"policy": "./nowhere"}, **wanted), "fp32")


def test_data_that_leak_are_refused(folders, tmp_path):
    """A test document that is also a training document would be measured on what was trained on."""
    folders["data"] = saved_data(tmp_path / "leaking", overlap=True)
    with pytest.raises(ValueError, match="1 prompts are in train_prompts and in eval_prompts"):
        tasks.build(settings(folders), "fp32")


def test_rewards_in_a_tasks_place():
    """Noise goes by prompt and text; a binary reward is 1 above its threshold alone."""
    found = stand_ins.noise(["rain", "fire"], [["a dog", "b"], ["a dog", "b"]])
    assert found.unique().numel() == 4 and found.dtype == torch.float64
    yes = stand_ins.Binary(lambda prompts, completions: [[0.5, 1.0, 1.5]], 1.0)
    assert yes([""], [[""] * 3]).tolist() == [[0, 0, 1]]


def test_a_threshold_is_part_of_a_binary_rewards_name():
    settings = TaskSettings(name="tiny", train=2, evaluate=2)
    rewards = ("tiny", "tiny > 1", "tiny > 2")
    made = [tasks.build(settings.model_copy(update={"reward": r}), "fp32") for r in rewards]
    assert len({task.identity["reward"] for task in made}) == 3
