"""The bank of reference samples: the same whoever fills it, verified when read, fairly dealt."""

from __future__ import annotations

import dataclasses
import itertools

import lab
import pandas as pd
import pytest
import torch
from scipy import stats

from bondlab import bank, device
from bondlab.bank import PROMPTS_A_PART, Bank, BankFolder, seeded
from bondlab.evaluation import evaluate
from bondlab.lm import sampler
from bondlab.lm.completions import Completions
from bondlab.tasks import Task, tiny

SAMPLES = 3


@pytest.fixture(scope="module")
def task() -> Task:
    """20 prompts: three parts of 8, 8 and 4."""
    return lab.task_of(train=20)


@pytest.fixture
def folder(task, runs) -> BankFolder:
    return BankFolder.of(task, task.train_prompts, SAMPLES, 0, "fp32")


def fill(folder: BankFolder, task: Task, parts) -> BankFolder:
    for part in parts:
        folder.fill(task, part)
    return folder


def files(folder: BankFolder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.path.iterdir()}


def numbered(prompts: int, samples: int) -> Bank:
    """A bank whose sample k of prompt b is 100 b + k in tokens, log_probs and rewards alike."""
    number = 100 * torch.arange(prompts)[:, None] + torch.arange(samples)
    tokens = number[..., None]
    return Bank(Completions(tokens, tokens >= 0, tokens.float()), number.float())


def test_bank_holds_scored_samples_of_the_reference(task, folder):
    """Rewards are those of the decoded texts and log-probabilities the reference's own."""
    loaded = fill(folder, task, folder.missing()).load()
    assert loaded.rewards.shape == (20, SAMPLES)
    assert loaded.completions.tokens.shape == (20, SAMPLES, task.model.max_new_tokens)
    assert loaded.completions.tokens.dtype == torch.int64
    texts = task.model.decode(loaded.completions)
    assert torch.equal(loaded.rewards, lab.taste([], texts).double())
    with torch.no_grad():
        scored = task.model(task.model.encode(task.train_prompts), loaded.completions)
    torch.testing.assert_close(loaded.completions.log_probs, scored, atol=1e-4, rtol=0)


def test_parts_may_be_filled_in_any_order(task, folder, tmp_path, monkeypatch):
    """Each part has random numbers of its own, so backwards gives the same bytes as forwards."""
    monkeypatch.setenv("BONDLAB_RUNS", str(tmp_path / "other"))
    other = BankFolder.of(task, task.train_prompts, SAMPLES, 0, "fp32")
    assert files(fill(folder, task, [0, 1, 2])) == files(fill(other, task, [2, 0, 1]))
    assert len(files(folder)) == 4  # of each part, and the kinds of machine


def test_fewer_prompts_at_once_are_the_same_draws(task, folder, tmp_path, monkeypatch):
    """Of a bank's part and of an evaluation: the same tokens, texts and rewards, for a device that
    does not hold eight prompts' completions; no more prompts pass together than it is told."""
    whole, ones = folder.filled(task), []
    monkeypatch.setenv("BONDLAB_RUNS", str(tmp_path / "other"))
    few = BankFolder.of(task, task.train_prompts, SAMPLES, 0, "fp32", at_once=3)
    encode, tables = task.model.encode, []
    monkeypatch.setattr(
        task.model, "encode", lambda texts: ones.append(len(texts)) or encode(texts)
    )
    found = few.filled(task)
    assert max(ones) == 3 and sum(ones) == len(task.train_prompts)
    assert torch.equal(found.completions.tokens, whole.completions.tokens)
    assert torch.equal(found.rewards, whole.rewards) and few.path.name == folder.path.name
    torch.testing.assert_close(found.completions.log_probs, whole.completions.log_probs)
    given = task.model, task.model, task, whole, 2, lambda start: bank.seeded(0, "x", start)
    for size in (8, 3):
        ones.clear()
        tables.append(evaluate(*given, at_once=size))
        assert max(ones) == min(size, len(task.eval_prompts))
    order = ["source", "prompt", "sample"]
    one, other = (table.sort_values(order, ignore_index=True) for table in tables)
    pd.testing.assert_frame_equal(one, other, rtol=1e-4, atol=1e-4)


def test_some_rows_are_read_with_no_more_than_their_parts(task, folder):
    """Rows 6 to 9 lie in the first two parts; the third need not be whole."""
    whole = folder.filled(task)
    folder._files()[2].write_bytes(b"")
    found, rows = folder.around(range(6, 10))
    assert len(found.rewards) == 2 * PROMPTS_A_PART and rows == [6, 7, 8, 9]
    found, rows = folder.around(range(9, 11))
    assert len(found.rewards) == PROMPTS_A_PART and rows == [1, 2]
    assert torch.equal(found.rewards[rows], whole.rewards[9:11])
    assert torch.equal(found.completions.tokens[rows], whole.completions.tokens[9:11])


def test_graphs_are_freed_once_their_shapes_are_over(task, folder):
    """Those of a bank's parts, and of evaluations, are larger than training's."""
    sampler._CAPTURED[task.model] = {}
    folder.filled(task)
    assert task.model not in sampler._CAPTURED


def test_only_missing_parts_are_left(task, folder):
    """A bank stopped after part 1 names parts 0 and 2, cannot be loaded, and is then completed."""
    assert folder.missing() == [0, 1, 2]
    fill(folder, task, [1])
    assert folder.missing() == [0, 2]
    with pytest.raises(ValueError, match="part-0000.pt is missing or damaged"):
        folder.load()
    assert len(folder.filled(task).rewards) == 20
    assert folder.missing() == []


@pytest.mark.parametrize("damage", ["flipped", "cut"])
def test_a_damaged_part_is_found_and_drawn_again(damage, task, folder):
    """One bit of a reward, or a lost tail: loading fails once, names the part, and leaves it to be
    drawn again, to the same bytes."""
    before = files(fill(folder, task, folder.missing()))
    path, number = folder.path / "part-0001.pt", folder.load().rewards[8].numpy().tobytes()
    data = bytearray(path.read_bytes())
    data[data.index(number)] ^= 1
    path.write_bytes(data if damage == "flipped" else data[:-5])
    with pytest.raises(ValueError, match="part-0001.pt is .* damaged"):
        folder.load()
    assert folder.missing() == [1]
    assert files(fill(folder, task, folder.missing())) == before
    folder.load()


def test_the_name_depends_on_what_determines_the_samples(task):
    """Seed, prompts and their order, count, model, template, limits, ends, temperature and
    precision, also where the policy's name was given and does not change with them."""

    def name(task=task, prompts=task.train_prompts, count=SAMPLES, seed=0, precision="fp32"):
        return BankFolder.of(task, prompts, count, seed, precision).path.name

    def changed(change=None, **settings) -> str:
        """The name with another model under the same given name."""
        model = tiny.language_model("t5", **({"temperature": 2.0} | settings))
        model = change(model) if change else model
        return name(dataclasses.replace(task, model=model, identity=dict(task.identity)))

    def stopping(model):
        model.model.generation_config.eos_token_id = 2
        limits = {"max_prompt_tokens": 24, "max_new_tokens": 8, "temperature": 2.0}
        return tiny.LanguageModel(model.model, tiny.tokenizer(), **limits)

    names = [
        name(),
        name(seed=1),
        name(count=4),
        name(prompts=task.train_prompts[:-1]),
        name(prompts=task.train_prompts[::-1]),
        name(precision="bf16"),
        name(task=dataclasses.replace(task, identity={"policy": "another"})),
        changed(temperature=1.0),
        changed(max_prompt_tokens=23),
        changed(max_new_tokens=7),
        changed(template="read {prompt}"),
        changed(template=lambda prompt: f"read {prompt}"),
        changed(template=lambda prompt: f"tell {prompt}"),
        changed(stopping),
        changed(lambda model: model.bfloat16()),
    ]
    assert len(set(names)) == len(names)
    assert name() == changed() == names[0]
    assert changed(template=lambda prompt: f"read {prompt}") == names[11]


@pytest.mark.parametrize("key", ["seed", "samples", "prompts", "template", "precision", "task"])
def test_names_that_a_user_gives_stay_apart_from_the_bank_s(key, task):
    """A name such as {"seed": 3} tells two tasks apart, whatever the bank calls its own parts."""
    given = [dataclasses.replace(task, identity={**task.identity, key: value}) for value in (3, 4)]
    paths = {BankFolder.of(t, t.train_prompts, SAMPLES, 0, "fp32").path for t in given}
    assert len(paths) == 2


def test_a_bank_says_on_what_it_was_drawn(task, folder, monkeypatch):
    """The kind of machine of its parts, and each further one once."""
    assert folder.kinds == []
    for part, kind in enumerate(["one", "other", "one"]):
        monkeypatch.setattr(device, "kind", lambda kind=kind: kind)
        fill(folder, task, [part])
    assert folder.kinds == ["one", "other"]


def test_seeds_and_parts_give_other_samples(task, runs):
    """Training and held-out banks use seeds 0 and 1. The same 8 prompts as parts 0 and 1 of both:
    with one stream two of the four would hold the same samples."""
    prompts = list(task.train_prompts[:8]) * 2
    folders = (BankFolder.of(task, prompts, SAMPLES, seed, "fp32") for seed in (0, 1))
    loaded = [fill(folder, task, [0, 1]).load().completions.tokens for folder in folders]
    parts = [part for tokens in loaded for part in tokens.split(8)]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(parts, 2))


# -- the spread -----------------------------------------------------------------------------------


def test_the_spread_is_the_root_of_the_mean_variance_within_prompts():
    """Variances 2 and 8: the root of 5, not the mean of the roots; how far prompts lie apart does
    not count."""
    assert bank.spread(torch.tensor([[1.0, 3.0], [10.0, 14.0]])) == pytest.approx(5**0.5)
    with pytest.raises(ValueError, match="same value"):
        bank.spread(torch.tensor([[1.0, 1.0], [5.0, 5.0]]))


def test_the_unit_is_the_spread_of_the_first_prompts_completions(runs):
    """A reward that numbers a prompt's 8 completions 0..7, plus 100 a prompt: the unbiased standard
    deviation of 0..7 is sqrt(6). 32 of the 40 prompts are scored, 8 completions each, and once for
    every run of the task."""
    seen = []

    def numbered(prompts, completions) -> torch.Tensor:
        seen.append((prompts, len(completions[0])))
        places = torch.arange(len(completions[0])).expand(len(prompts), -1)
        return places + 100.0 * torch.arange(len(prompts))[:, None]

    many = lab.task_of(train=40, reward=numbered)
    for _ in range(2):
        found = bank.measured_spread(many, "fp32")
        assert found == pytest.approx(6**0.5)
    assert sum((prompts for prompts, _ in seen), []) == many.train_prompts[:32]
    assert {k for _, k in seen} == {8}


# -- subsets --------------------------------------------------------------------------------------


def test_subsets_are_disjoint_and_belong_to_their_prompts():
    """Of 10 samples 4 and 5: nine different ones of the right prompt, each with its own reward;
    a prompt asked for twice gets its own subset each time."""
    stored = numbered(5, 10)
    prompts = torch.tensor([3, 0, 3])
    first, second, none = stored.subset(prompts, [4, 5, 0], seeded(0, "subset"))
    assert none[1].shape == (3, 0) and none[0].tokens.shape == (3, 0, 1)
    assert first[1].shape == (3, 4) and second[1].shape == (3, 5)
    for row, prompt in enumerate([3, 0, 3]):
        chosen = torch.cat([first[1][row], second[1][row]])
        assert len(set(chosen.tolist())) == 9
        assert ((chosen >= 100 * prompt) & (chosen < 100 * prompt + 10)).all()
    for completions, rewards in (first, second):
        assert torch.equal(completions.tokens[..., 0].float(), rewards)
        assert torch.equal(completions.log_probs[..., 0], rewards)
    assert first[1][0].tolist() != first[1][2].tolist()


def test_subsets_are_dealt_evenly():
    """4,000 subsets of 2 and 1 of 6: every sample in every place with probability 1/6 (chi-square),
    and every ordered pair of the first subset with 1/30."""
    stored = numbered(1, 6)
    one, other = stored.subset(torch.zeros(4000, dtype=torch.int64), [2, 1], seeded(1, "subset"))
    for place in (one[1][:, 0], one[1][:, 1], other[1][:, 0]):
        assert stats.chisquare(torch.bincount(place.long(), minlength=6)).pvalue > 1e-3
    pairs = torch.bincount((one[1][:, 0] * 6 + one[1][:, 1]).long(), minlength=36)
    assert stats.chisquare(pairs[pairs > 0]).pvalue > 1e-3 and (pairs > 0).sum() == 30


# -- random numbers -------------------------------------------------------------------------------


def test_streams_depend_on_seed_and_purpose_alone():
    """Every purpose has its own stream, the same in every process: the first number of one is
    pinned, since stored runs rely on it."""

    def first(*purpose: object) -> int:
        return int(torch.randint(10**9, (1,), generator=seeded(*purpose)))

    purposes = [(0,), (1,), (0, "policy", 1), (1, "bank", 0)]
    purposes += [(0, "bank", part) for part in (0, 1, 10, "0")]
    assert len({first(*p) for p in purposes}) == len(purposes)
    assert first(0, "bank", 0) == first(0, "bank", 0)
    number = int.from_bytes(bank.hashlib.sha256(b"(0, 'bank', 0)").digest()[:7], "big")
    assert seeded(0, "bank", 0).initial_seed() == number
    assert PROMPTS_A_PART == 8  # another number would make another bank under the same name


def test_a_reward_that_tells_nothing_apart_is_warned_of(runs):
    task = lab.task_of(reward=lambda prompts, texts: [[1.0] * len(row) for row in texts])
    with pytest.warns(match="nothing to learn"):
        BankFolder.of(task, task.eval_prompts, 2, 1, "fp32").filled(task)
