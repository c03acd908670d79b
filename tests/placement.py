"""Where tensors are: whole programs on a second device, which refuses to mix with the processor.

`second_device` stands in for a GPU, with the processor's numbers, so a run there must equal the run
on the processor; where there is a real GPU the same programs run on that. `test_placement` runs
this file in a process of its own: torch must know a device before its first backward pass.
"""

from __future__ import annotations

from unittest.mock import patch

import pandas as pd
import pytest
import second_device
import torch
from accelerate import PartialState
from lab import Killed, configured, kill, taste
from safetensors.torch import load_file

from bondlab import device, rules, tasks, training
from bondlab.algorithms import bonbon, bond, j_bond, raft, reinforce, vbon
from bondlab.anchors import Periodic
from bondlab.lm.language_model import LanguageModel
from bondlab.quantiles import Learned
from bondlab.tasks import Task, TaskSettings, tiny
from bondlab.training import train

pytestmark = pytest.mark.usefixtures("runs")
DEVICE = "cuda" if torch.cuda.is_available() else second_device.NAME  # never both in a process
MAKERS = {"causal": tiny.gemma, "t5": tiny.t5}
ALGORITHMS = {
    "j_bond": j_bond(),
    "bond": bond(3, 0.5, quantile_draws=4),
    "iterative": bond(2, 0.5, quantile_draws=4, anchor=Periodic(1)),
    "learned": bond(3, 0.5, quantile_model=Learned()),
    "reinforce": reinforce(0.1),
    "raft": raft(4, Periodic(1)),
    "vbon": vbon(4, quantile_draws=4),
    "bonbon": bonbon(4),
}
README = (("bond", 2), ("j_bond", None))  # and which rank of adapter, None for all weights
TRAIN, HELD_OUT = tiny.documents(4, seed=1), tiny.documents(2, seed=2)


@pytest.fixture(params=[DEVICE])
def where(request):
    with second_device.in_use(request.param) as found:
        yield found


def language_model(family: str, moved: str = "never", where: object = "cpu") -> LanguageModel:
    """A tiny model; `moved` to the device "before" or "after" its `LanguageModel` is made."""
    model = MAKERS[family]()
    if moved == "before":
        model.to(where)
    made = LanguageModel(model, tiny.tokenizer(), max_prompt_tokens=24, max_new_tokens=3)
    return made.to(where) if moved == "after" else made


def trained(model: LanguageModel, algorithm, folder, reward=taste, **changed) -> training.Run:
    task = Task(model, reward, TRAIN, HELD_OUT)
    config = configured(**({"steps": 1, "prompts_per_step": 2, "evaluate_every": 1} | changed))
    return train(task, algorithm, config, folder)


def assert_equal(run: training.Run, expected: training.Run) -> None:
    """The same texts, and the same numbers up to the rounding of another device's kernels."""
    for found, wanted in ((run.table, expected.table), (run.evaluation, expected.evaluation)):
        columns = [name for name in wanted if name != "seconds"]
        pd.testing.assert_frame_equal(found[columns], wanted[columns], rtol=1e-3, atol=1e-3)


def as_on_processor(
    family: str, algorithm, folder, moved: str = "never", where: object = "cpu", **changed
) -> training.Run:
    """A run, compared with the same one where accelerate computes on the processor."""
    run = trained(language_model(family, moved, where), algorithm, folder / "there", **changed)
    with patch.dict(PartialState._shared_state, device=torch.device("cpu")):
        assert_equal(run, trained(language_model(family), algorithm, folder / "here", **changed))
    return run


@pytest.mark.parametrize(("name", "rank"), README)
@pytest.mark.parametrize("family", MAKERS)
def test_the_readmes_program(family, name, rank, where, tmp_path):
    """A model as `from_pretrained` gives it, on the processor: the run is computed on the device,
    equals the processor's, and what is saved are the policy's weights."""
    run = as_on_processor(family, ALGORITHMS[name], tmp_path, lora_rank=rank)
    assert {p.device for p in run.policy.parameters()} == {where}
    run.save_pretrained(tmp_path / "saved")
    loaded = language_model(family)
    state = load_file(tmp_path / "saved" / "model.safetensors")
    missing = loaded.model.load_state_dict(state, strict=False).missing_keys
    assert set(missing) <= {"lm_head.weight"}  # where it is the embeddings'
    prompts, drawn = drawn_from(run.policy)
    with torch.no_grad():
        again = loaded(loaded.encode(HELD_OUT), drawn.to("cpu"))
        expected = run.policy(prompts, drawn).cpu()
    torch.testing.assert_close(again, expected, atol=1e-3, rtol=0)


def drawn_from(model: LanguageModel):
    prompts = model.encode(HELD_OUT)
    return prompts, model.sample(prompts, 3, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("family", "moved"), [("causal", "before"), ("t5", "after")])
def test_whatever_device_the_model_came_on(family, moved, where, tmp_path):
    """Moved to the device before its `LanguageModel` was made, or after: the same run."""
    as_on_processor(family, j_bond(), tmp_path, moved, where)


@pytest.mark.parametrize("name", sorted({*ALGORITHMS} - {*dict(README)}))
def test_every_algorithm_takes_its_step(name, where, tmp_path):
    """Moving anchors, learned quantiles, rescored anchor draws, rewards over their spread."""
    as_on_processor("causal", ALGORITHMS[name], tmp_path, steps=2, evaluate_every=2)


def test_samples_drawn_anew(where, tmp_path):
    as_on_processor("t5", ALGORITHMS["bond"], tmp_path, fresh=True)


def test_a_stopped_run_goes_on(where, tmp_path, monkeypatch):
    """Killed after the checkpoint of step 1, whose tensors lie on the processor: step 2 is that of
    a run on the processor that was not stopped."""
    config = {"steps": 2, "evaluate_every": 2}
    with monkeypatch.context() as inner, pytest.raises(Killed):
        kill(inner, training.RunFolder, "append", 2, before=True)
        trained(language_model("causal"), j_bond(), tmp_path / "there", **config)
    as_on_processor("causal", j_bond(), tmp_path, **config)


def test_a_reward_on_the_device(where, tmp_path):
    """A reward that answers with a tensor there, or has weights of its own there."""
    weight = torch.nn.Linear(1, 1).to(where)

    @torch.no_grad()
    def learned(prompts, completions) -> torch.Tensor:
        return weight(taste(prompts, completions)[..., None].to(where))[..., 0]

    run = trained(language_model("causal"), j_bond(), tmp_path, reward=learned)
    rows = run.evaluation[run.evaluation["source"] == "policy"]
    texts = [[text] for text in rows["text"]]
    assert rows["reward"].tolist() == pytest.approx(learned([], texts)[:, 0].tolist())


@pytest.mark.parametrize(
    ("rule", "settings"),
    [
        (rules.jeffreys, {"n": 4, "beta": 0.5}),
        (rules.j_bond, {"beta": 0.5, "gamma": 1.0}),
        (rules.reinforce, {"beta_rl": 0.1}),
        (rules.online_dpo, {"beta_dpo": 0.1}),
        (rules.bonbon, {"alpha": 0.5}),
        (rules.wind, {"beta": 0.1}),
        (rules.qrpo, {"beta": 0.1}),
        (rules.max_at_k, {"k": 2, "beta_rl": 0.1}),
    ],
)
def test_weights_of_rules_on_the_device(rule, settings, where):
    """Rules work wherever their scores are; every tensor that they make follows."""
    generator = torch.Generator().manual_seed(0)
    anchors, own, ratio, other = (torch.rand(4, k, generator=generator) for k in (2, 3, 3, 2))
    given = anchors, own, own.clamp(min=0.1), ratio, other
    weights = rule(rules.Scores(*(x.to(where) for x in given)), **settings)
    assert weights.device == where
    torch.testing.assert_close(weights.cpu(), rule(rules.Scores(*given), **settings))


@pytest.mark.parametrize("family", MAKERS)
def test_adapters_are_saved_from_the_device(family, where, tmp_path):
    """What `save_adapter` writes, in bfloat16, makes the policy again on the processor."""
    policy = language_model(family).to(where).trainable_copy(2)
    with torch.no_grad():
        for parameter in policy.trainable():
            parameter += 0.25
    policy.save_adapter(tmp_path)
    again = language_model(family)
    again.load_adapter(tmp_path)
    prompts, drawn = drawn_from(policy)
    with torch.no_grad():
        found = again(again.encode(HELD_OUT), drawn.to("cpu"))
        torch.testing.assert_close(found, policy(prompts, drawn).cpu(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", ["tiny", "tiny_causal"])
def test_tasks_by_name_are_placed(name, where):
    """The study's tasks put their reference where the process computes."""
    task = tasks.build(TaskSettings(name=name, train=2, evaluate=2), "fp32")
    assert task.model.device == where == device.place()


def test_the_second_device_refuses_to_mix(where):
    """What this file rests on: an index or a mask left behind is an error there, as on a GPU, and
    a copy is not."""
    there, here = torch.arange(6.0, device=where), torch.arange(6.0)
    for mixed in (
        lambda: there + here,
        lambda: there.gather(0, torch.tensor([1])),
        lambda: torch.cat([there, here]),
        lambda: here[torch.tensor([1], device=where)],
    ):
        with pytest.raises(RuntimeError):
            mixed()
    assert torch.equal((there + here.to(where)).cpu(), here + here)
