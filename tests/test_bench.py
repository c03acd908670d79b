"""Speeds are compared in turns, of sides that were asked for the same work, and kept with their
machine and versions."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from contextlib import contextmanager
from dataclasses import replace

import pandas as pd
import pytest
import torch
from side import MEGABYTES, work

from bondlab import __main__ as cli
from bondlab import paths
from bondlab.bench import cases, figures, floor, measure, reading, sampling, steps, timing, workload
from bondlab.bench.cases import SIZES, Case, Shape

pytestmark = pytest.mark.usefixtures("runs")
RLOO, J_BOND = cases.steps(SIZES["smoke"])


def smoke(model: str = "causal"):
    return workload.folder(model, "smoke")


# -- turns and ratios ------------------------------------------------------------------------------


def test_sides_take_turns_and_the_first_of_each_does_not_count():
    calls, clock = [], itertools.count(1.0)

    def side(name):
        return lambda: calls.append(name) or {"seconds": next(clock)}

    rows = timing.alternated({"bondlab": side("ours"), "peer": side("theirs")}, 2)
    assert calls == ["ours", "theirs"] * 3
    assert [(r["side"], r["turn"], r["seconds"]) for r in rows] == [
        ("bondlab", 0, 3.0), ("peer", 0, 4.0), ("bondlab", 1, 5.0), ("peer", 1, 6.0),
    ]  # fmt: skip


def test_a_ratio_is_of_medians_and_its_range_over_pairs_of_turns():
    """Medians 6 and 2; pairs 2, 3 and 6."""
    found = timing.ratio([4.0, 6.0, 12.0], [2.0, 2.0, 2.0])
    assert (found.value, found.low, found.high) == (3.0, 2.0, 6.0)
    assert str(found) == "3.00 [2.00, 6.00]"


def measured(section: str, case: str, machine: str = "cpu", **turns: list[float]) -> pd.DataFrame:
    """Rows of known seconds by side; memory is a tenth of them."""
    rows = [
        {"section": section, "case": case, "machine": machine, "side": side, "turn": turn,
         "seconds": seconds, "memory": seconds / 10 * 1e9, "length": 3.0}
        for side, values in turns.items() for turn, seconds in enumerate(values)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_targets_are_held_against_the_ratios():
    """5 times is wanted of RLOO: 12/2 is enough, 4/2 is not. Steps of 1, 2 and 4 prompts that take
    1, 2 and 8 s are on no line, those of 2 + 3 s a prompt are."""
    grown = [{"section": "growth", "case": f"{n}", "machine": "cpu", "side": "bondlab", "turn": 0,
              "seconds": s, "prompts": n, "varied": "prompts" if n > 1 else ""}
             for n, s in ((1, 1.0), (2, 2.0), (4, 8.0))]  # fmt: skip
    both = {"bondlab": [2.0, 2.0, 3.0], "TRL": [12.0, 13.0, 12.0]}
    for theirs, verdict in (([12.0, 13.0, 12.0], "reached"), ([4.0] * 3, "missed")):
        parts = measured("steps", "RLOO, LoRA", **both | {"TRL": theirs}), pd.DataFrame(grown)
        found = reading.targets(pd.concat(parts)).set_index("target")
        assert found.loc["RLOO, LoRA: 5 times as fast as TRL", "verdict"] == verdict
    unknown = found.loc["J-BOND, LoRA: 3 times as fast as TRL", "verdict"]
    assert unknown.tolist() == 2 * ["not measured"]
    assert found["verdict"].iloc[1] == "missed"
    straight = pd.DataFrame(grown).assign(seconds=lambda t: 2 + 3 * t["prompts"])
    assert reading.targets(straight)["times [range]"].iloc[0] == "0.0 %"


def test_a_side_without_as_many_turns_is_no_peer():
    """TRL's one step with recomputation has a memory and no time."""
    sides = {"bondlab": [1.0, 2.0], "TRL": [4.0, 4.0], steps.LEAN: [math.nan]}
    table = measured("steps", "J-BOND, LoRA", **sides)
    table.loc[table["side"] == steps.LEAN, "memory"] = 0.3e9
    (row,) = reading.steps(table).to_dict("records")
    assert str(row["times as long"]) == "2.67 [2.00, 4.00]" and row["TRL, recomputing, GB"] == 0.3
    assert set(figures.steps(table)["series"]) == {"bondlab", "TRL"}


def test_a_floor_is_the_longer_of_operations_and_bytes():
    """10 operations and 100 bytes a second: 5 s for 50 operations, 3 s for 300 bytes."""
    rows = [
        (floor.MATRIX, "machine", 1.0, 10.0, None),
        (floor.MEMORY, "machine", 1.0, None, 100.0),
        ("scoring", "bondlab", 10.0, 50.0, 300.0),
        ("rest", "bondlab", 30.0, None, None),
    ]
    table = pd.DataFrame(rows, columns=["case", "side", "seconds", "operations", "bytes"])
    found = reading.parts(table.assign(section="floor", machine="cpu", turn=0)).set_index("part")
    assert found.loc["scoring", ["share", "floor", "set by", "floor / measured"]].tolist() == [
        0.25, 5.0, "operations", 0.5,
    ]  # fmt: skip
    assert found.index[0] == "rest" and math.isnan(found.loc["rest", "floor"])


# -- the same work ---------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [
    RLOO, J_BOND, Case("x", Shape(4, 2, 6, 4), algorithm="RLOO", lora_rank=None, passed=2),
])  # fmt: skip
def test_a_step_asks_both_sides_for_the_same(case, tmp_path):
    """So many samples of so many tokens a step, learned at the same rate in passes of one size."""
    trainer, asked = steps.trainer_of(case, smoke(), tmp_path), steps.asked(case)
    plan, config, shape = trainer.algorithm, trainer.config, case.shape
    passed, times = asked["per_device_train_batch_size"], asked["gradient_accumulation_steps"]
    assert plan.anchor_draws + plan.policy_draws == asked["num_generations"] == shape.k
    assert passed == config.micro_batch * shape.k
    assert passed * times == config.prompts_per_step * shape.k
    assert trainer.reference.max_new_tokens == asked["max_completion_length"] == shape.new_tokens
    assert trainer.reference.encode(trainer.task.train_prompts).mask.sum(1).unique() == 6
    for ours, theirs in {"learning_rate": "learning_rate", "clip": "max_grad_norm"}.items():
        assert getattr(config, ours) == asked[theirs]
    assert trainer.optimizer.param_groups[0]["weight_decay"] == asked["weight_decay"] == 0
    if case.lora_rank is None:
        assert steps.lora(case) is None and trainer.policy.model.dtype == torch.float32
    else:
        from peft import LoraConfig, get_peft_model

        theirs = get_peft_model(
            workload.loaded(smoke(), torch.float32)[0], LoraConfig(**steps.lora(case))
        )
        (own,), (other,) = (m.peft_config.values() for m in (trainer.policy.model, theirs))
        assert [own.r, own.lora_alpha] == [other.r, other.lora_alpha]
        assert theirs.get_nb_trainable_parameters()[0] == sum(x.numel() for x in trainer.parameters)
    assert trainer.update()["tokens"] == shape.new_tokens


@pytest.mark.parametrize("model", ["causal", "t5"])
def test_generate_is_asked_for_the_completions_that_ours_draws(model, monkeypatch):
    case = Case("some", Shape(2, 3, 6, 4), model)
    ours, prompts = sampling.prepared(smoke(model), case)
    seen = []
    generate = ours.model.generate
    monkeypatch.setattr(ours.model, "generate", lambda **g: seen.append(g) or generate(**g))
    rows = timing.alternated(sampling.sides_of(case, ours, prompts), 2)
    asked = seen[0]["generation_config"]
    assert (asked.num_return_sequences, asked.max_new_tokens) == (3, 4)
    assert (asked.do_sample, asked.temperature, asked.top_k, asked.top_p) == (True, 1.0, 0, 1.0)
    assert set(asked.eos_token_id) == set(ours.end_tokens.tolist()) and len(asked.eos_token_id) > 1
    assert torch.equal(seen[0]["input_ids"], prompts.ids)
    assert {row["side"] for row in rows} == {"bondlab", "generate"}
    assert all(1 <= row["length"] <= 4 for row in rows)


def test_lengths_count_up_to_the_first_end():
    """Of 7 7 9 9 with the end 9 three tokens, of 7 7 7 7 all four."""
    model = workload.language_model(smoke(), J_BOND, torch.float32)
    model.model.generation_config.eos_token_id = [9, 8]
    tokens = torch.tensor([[7, 7, 9, 9], [7, 7, 7, 7], [8, 9, 7, 7]])
    assert sampling._lengths(tokens, model).tolist() == [3, 4, 1]


@pytest.mark.parametrize("calibration", [1, 16])
def test_a_token_in_so_many_is_an_end(calibration, monkeypatch):
    """A tenth of the vocabulary, where every token is as likely; also where many were not met."""
    monkeypatch.setattr(workload, "CALIBRATION", calibration)
    case = Case("some", Shape(4, 1, 6, 32), "causal")
    model = workload.language_model(smoke(), case, torch.float32)
    model.temperature = 1e3
    found = workload.ends(model, workload.texts(model.tokenizer, 4, 6), 10.0)
    share = len(found) / len(model.tokenizer)
    assert len(set(found)) == len(found) and 0.06 < share < 0.14


# -- peers, processes, tables ----------------------------------------------------------------------


@contextmanager
def instant(sides):
    """In the place of processes."""
    yield {
        name: lambda own=work is steps.ours: {"seconds": 1.0 if own else 2.0, "memory": 1.0}
        for name, (work, *_) in sides.items()
    }


def test_without_trl_its_column_is_empty_and_a_line_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setattr(steps, "apart", instant)
    for installed, sides in ((True, ["bondlab", "TRL"]), (False, ["bondlab"])):
        monkeypatch.setattr(steps, "INSTALLED", installed)
        rows = steps.measure([RLOO], "smoke", replace(SIZES["smoke"], repeats=1))
        assert [row["side"] for row in rows] == sides
    assert cli.main(["bench", "--profile", "smoke", "--only", "steps"]) == 0
    assert "no peer for whole steps: pip install 'bondlab[bench]'" in capsys.readouterr().out


def test_a_side_in_its_own_process_has_its_own_peak_and_says_why_it_failed():
    with timing.apart({"side": (work,)}) as sides:
        first, second = sides["side"](), sides["side"]()
        assert (first["length"], second["length"]) == (0, 1)
        assert second["memory"] - first["memory"] > 0.9 * MEGABYTES * 2**20
        with pytest.raises(RuntimeError, match="no third turn"):
            sides["side"]()


def test_the_table_is_measured_once_and_names_its_machine(monkeypatch, tmp_path):
    """Parts of it keep the rest; a committed one is read with the others of its folder."""
    found = measure.results("smoke", ["sampling"])
    for section, rows in (
        ("sampling", lambda *_: pytest.fail("measured again")),
        ("growth", lambda *_: [{"case": "start", "side": "bondlab", "turn": 0, "seconds": 1.0}]),
    ):
        instead = measure.SECTIONS[section]._replace(measure=rows)
        monkeypatch.setitem(measure.SECTIONS, section, instead)
    measure.results("smoke", ["sampling"])
    both = measure.results("smoke", ["growth"])
    assert both["runs"]["section"].tolist() == ["sampling", "growth"]
    kept = both["measurements"].query("section == 'sampling'")[[*found["measurements"]]]
    pd.testing.assert_frame_equal(kept, found["measurements"])
    assert {"case", "side", "turn", "seconds", "length", "k"} < set(kept)
    config = json.loads(found["runs"]["manifest"].iloc[0])["config"]
    assert config["machine"]["kind"] and {"torch", "transformers", "trl"} == set(config["versions"])
    assert config["seed"] == cases.SEED and config["repeats"] == SIZES["smoke"].repeats
    assert [case["name"] for case in config["cases"]][:2] == ["causal, K = 1", "causal, K = 3"]
    monkeypatch.setattr(paths, "repository_root", lambda: tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no measurements: run the notebook"):
        measure.results("shipped")
    for name in ("cpu", "cuda"):
        ours, committed = (tmp_path / "figures" / each / "bench" for each in ("smoke", "study"))
        shutil.copytree(ours / "cpu", committed / name)
    assert len(measure.results("shipped")["runs"]) == 2 * len(both["runs"])


def test_the_operations_of_a_pass_are_those_of_its_products(tmp_path):
    """Two for each weight of a linear layer and token read: J-BOND passes two completions a prompt
    (its own, the anchor's better), of T tokens each but the last, behind the prompt. Attention adds
    a few in so short a text. A backward pass needs more; the parts' seconds are those of a step."""
    trainer = steps.trainer_of(J_BOND, smoke(), tmp_path)
    found = floor.counted(trainer, J_BOND)
    shape = J_BOND.shape
    layers = trainer.policy.model.get_decoder().modules()
    weights = sum(
        x.weight.numel() for x in layers if type(x) is torch.nn.Linear
    )  # LoRA's own among them
    head = trainer.policy.model.get_output_embeddings().weight.numel()
    tokens = shape.prompts * (shape.prompt_tokens + 2 * (shape.new_tokens - 1))
    scored = shape.prompts * 2 * shape.new_tokens
    least = 2.0 * (weights * tokens + head * scored)
    assert least <= found[floor.FORWARD]["operations"] < 1.2 * least
    assert found[floor.BACKWARD]["operations"] > found[floor.FORWARD]["operations"]
    assert found[floor.SAMPLING]["operations"] > found[floor.FORWARD]["operations"]
    assert set(floor.clocked(trainer)) == {*found, floor.REST}
