"""Plans against what runs: bytes, operations and caches of models that are really made."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
import torch
from lab import BOTH, configured, task_of, trainer_of
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MixtralConfig,
    T5Config,
    T5ForConditionalGeneration,
)

from bondlab import __main__ as cli
from bondlab import algorithms
from bondlab.lm.completions import Prompts
from bondlab.lm.language_model import LanguageModel
from bondlab.paths import repository_root
from bondlab.plan import plan
from bondlab.plan.command import algorithm
from bondlab.plan.costs import costs
from bondlab.plan.machines import here
from bondlab.plan.shape import shape
from bondlab.plan.tables import FILLED, Plan
from bondlab.quantiles import Learned
from bondlab.tasks import tiny
from bondlab.trainer import Trainer

LEARNED = algorithms.bond(n=3, beta=0.5, quantile_model=Learned())
FAMILIES = pytest.mark.parametrize(
    "family, chosen", [("t5", LEARNED), ("gemma", algorithms.j_bond())]
)


def trainer_and_plan(family: str, chosen, weights: dict, **changed) -> tuple[Trainer, Plan]:
    changed = {"fresh": True, "micro_batch": 2, "prompts_per_step": 4} | weights | changed
    task, config = task_of(family), configured(**changed)
    trainer = trainer_of(chosen, config, task)
    length = trainer.sample(trainer.places).prompts.ids.shape[1]
    lengths = length, task.model.max_new_tokens
    return trainer, on_processor(plan(task.model.model.config, chosen, config, *lengths, "h100"))


def on_processor(planned: Plan) -> Plan:
    """As a processor goes about it, which none is measured for."""
    return planned.on(dataclasses.replace(planned.machine, gpu=False))


def nbytes(tensors) -> int:
    return sum(x.nbytes for x in tensors)


def averages_of(optimizer) -> tuple[int, int]:
    """Bytes of Adam's averages, and of parameters without any: a head that is not asked, or the
    embedding that this tiny T5 has beside its encoder's and its decoder's."""
    state = optimizer.state
    known = [x for values in state.values() for x in values.values() if x.dim()]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return nbytes(known), nbytes(p for p in parameters if p not in state)


@FAMILIES
@BOTH
def test_bytes_are_those_of_a_run(runs, family, chosen, weights):
    trainer, planned = trainer_and_plan(family, chosen, weights)
    trainer.update()
    trainer.save()
    kept = planned.memory
    assert kept["frozen weights"] == nbytes(trainer.reference.parameters())
    assert kept["policy's trained weights"] == kept["gradients"] == nbytes(trainer.parameters)
    assert kept["moving anchor's"] == nbytes(trainer.anchor_parameters)
    averages, unread = averages_of(trainer.optimizer)
    assert kept["Adam's averages"] == averages + 2 * unread
    if chosen is LEARNED:
        assert kept["quantile model"] == 3 * nbytes(trainer.quantiles.model.trainable())
        unread += averages_of(trainer.quantiles.optimizer)[1]
    (saved,) = (trainer.run.path / "checkpoints").iterdir()
    saved = [x for x in tree_leaves(torch.load(saved)) if isinstance(x, torch.Tensor) and x.dim()]
    assert planned.checkpoint == nbytes(saved) + 2 * unread


@FAMILIES
@BOTH
def test_operations_are_those_of_the_passes(runs, family, chosen, weights):
    """Within 8 %: the first layer passes no gradient on, and attention's backward pass in these
    models does nothing again."""
    trainer, planned = trainer_and_plan(family, chosen, weights)
    operations = planned.operations

    def counted(work, *names: str):
        with FlopCounterMode(display=False) as counter:
            found = work()
        expected = sum(operations.pop(name) for name in names)
        assert counter.get_total_flops() == pytest.approx(expected, rel=0.08)
        return found

    drawn = "prompts before decoding", "decoding", "head of decoding"
    batch = counted(lambda: trainer.sample(trainer.places), *drawn)
    scored = "scoring", "head of scoring", "quantile model"
    scores = counted(lambda: trainer.score(batch), *scored)
    weighed = chosen.weights(scores)
    counted(lambda: trainer.backward(batch, weighed), "training", "head of training")
    assert operations == {"optimiser": 0}


@FAMILIES
def test_caches_are_as_large_as_planned(family, chosen):
    """Of three completions a prompt, of which five tokens were read; T5's also have a start token,
    which is not counted."""
    model, k, read = tiny.language_model(family), 3, 5
    prompts = model.encode(tiny.documents(2))
    prefix = model._prefix(prompts, k)
    with torch.no_grad():
        model._extend(prefix, torch.full((2 * k, read), 5))
    own, *across = [cache.layers for cache in prefix.caches]
    before = [layer.prompts for layer in (across[0] if across else own)]
    found = nbytes(x for pair in (*before, *(layer.own for layer in own)) for x in pair)
    config, length = configured(prompts_per_step=2), prompts.ids.shape[1]
    three = algorithms.reinforce(0.1, policy_draws=k)
    planned = on_processor(plan(model.model.config, three, config, length, read, "h100"))
    assert found == planned.memory["key-value caches"]


def test_every_size_of_a_step_keeps_its_graphs():
    """10 prompts, 4 at a time, are 4, 4 and 2: a GPU keeps caches of 4 and of 2, a processor of 4.
    Six at a time are five and five."""
    config = configured(prompts_per_step=10, precision="bf16")
    whole = plan("gemma-2b", algorithms.j_bond(), config, 64, 32, "h100")
    for most, sizes, kept in ((None, [10], 10), (4, [4, 4, 2], 6), (6, [5, 5], 5)):
        part = whole.on(whole.machine, sampling_batch=most)
        assert part.together == sizes
        caches = [p.sampling["key-value caches"] for p in (part, whole)]
        assert caches[0] == pytest.approx(caches[1] * kept / 10)
    four = whole.on(whole.machine, sampling_batch=4)
    assert on_processor(four).sampling["key-value caches"] * 2.5 == pytest.approx(
        on_processor(whole).sampling["key-value caches"]
    )


def test_who_samples_for_some_at_a_time_may_have_any_number_of_prompts(capsys):
    line = "plan gemma-2b --prompts 64 --device h100 --sampling-batch 8"
    assert cli.main(line.split()) == 0
    (row,) = re.findall(r"\| H100 SXM +\| LoRA.*", capsys.readouterr().out)
    assert row.split("|")[4].strip() == "any"


@FAMILIES
def test_sampling_for_fewer_at_once_takes_less_memory_and_more_passes(runs, family, chosen):
    """One of four prompts: a quarter of the caches, the same operations, weights read four times
    in what samples and as often as before in what trains."""
    _, planned = trainer_and_plan(family, chosen, {})
    fewer = planned.on(planned.machine, sampling_batch=1)
    for name, taken in planned.sampling.items():
        assert fewer.sampling[name] == taken / 4 > 0
    assert fewer.operations == planned.operations
    for (name, cost), more in zip(costs(planned).items(), costs(fewer).values(), strict=True):
        times = 4 if "decoding" in name else 1
        for part in ("weights", "kernels", "replayed"):
            assert getattr(more, part) == times * getattr(cost, part)


def test_a_window_bounds_a_cache():
    """As transformers' own cache does it, which a GPU keeps: one place fewer than is seen."""
    config = tiny.gemma().config
    config.sliding_window = 8
    found, full = shape(config), config.num_key_value_heads * config.head_dim
    cache = DynamicCache(config=config)
    for layer in range(config.num_hidden_layers):
        cache.update(*torch.zeros(2, 1, config.num_key_value_heads, 20, config.head_dim), layer)
    numbers = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
    assert sum(found.cache(16, 4, windows=True)) == numbers == 2 * full * (20 + 7)


LLAMA = LlamaConfig(
    vocab_size=200, hidden_size=256, intermediate_size=704, num_hidden_layers=2,
    num_attention_heads=8, num_key_value_heads=4, eos_token_id=1,
)  # fmt: skip
T5 = T5Config(
    vocab_size=200, d_model=256, d_kv=32, d_ff=512, num_layers=2, num_heads=8,
    feed_forward_proj="gated-gelu", decoder_start_token_id=0,
)  # fmt: skip


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("rank", [8, None], ids=["adapter", "all weights"])
@pytest.mark.parametrize("made", [LlamaForCausalLM(LLAMA), T5ForConditionalGeneration(T5)])
def test_activations_are_those_that_are_saved(made, rank, precision):
    """Within 20 %, which one rule for all architectures leaves."""
    model = LanguageModel(made, tiny.tokenizer(), max_new_tokens=24)
    model = model.to(torch.bfloat16 if precision == "bf16" else torch.float32).trainable_copy(rank)
    b, k, p, t = 2, 2, 48, model.max_new_tokens
    ids, kept = torch.full((b, p), 5), {}
    config = configured(lora_rank=rank, precision=precision)
    planned = on_processor(plan(made.config, algorithms.j_bond(), config, p, t, "h100"))

    def keep(x: torch.Tensor) -> torch.Tensor:
        kept[x.data_ptr()] = x
        return x

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
    ):
        model._follow(Prompts(ids, torch.ones_like(ids)), torch.full((b, k, t - 1), 5))
    own = {weight.data_ptr() for weight in model.parameters()}
    found = sum(x.untyped_storage().nbytes() for place, x in kept.items() if place not in own)
    expected = planned.activations(b, b * k) + planned.memory["weights cast to bfloat16"]
    assert found == pytest.approx(expected, rel=0.2)


GEMMA = {"gemma-2b": 1_981_884_416, "gemma-7b": 7_751_248_896}  # arXiv:2403.08295, table 2


@pytest.mark.parametrize("name", GEMMA)
def test_gemma_is_known_without_a_network(name):
    found = shape(name)
    vocabulary, width = found.head
    assert found.parameters - vocabulary * width == GEMMA[name]


def test_a_configuration_is_enough_and_stays_as_it_was(tmp_path):
    config = tiny.gemma().config
    before = config.to_dict()
    (tmp_path / "config.json").write_text(json.dumps(before))
    ways = config, before, tmp_path, str(tmp_path / "config.json")
    (found,) = {dataclasses.replace(shape(way), name="") for way in ways}
    assert found.parameters == sum(p.numel() for p in tiny.gemma().parameters())
    assert config.to_dict() == before
    assert config._attn_implementation != "eager"


@pytest.mark.parametrize(
    ("name", "draws", "weighed"),
    [
        ("j_bond", [2, 1], 2),
        ("bond n=4", [2], 3),
        ("bond quantile_model=learned anchor=periodic", [9, 2], 3),
        ("reinforce policy_draws=4", [4], 4),
        ("warp", [2], 2),
        ("raft", [], 1),
        ("vbon", [2], 2),
        ("online_dpo", [2], 2),
        ("bonbon", [], 2),
        ("wind", [2], 2),
        ("qrpo n=4", [], 4),
        ("max_at_k", [8], 8),
    ],
)
def test_what_an_algorithm_draws_and_passes_back(name, draws, weighed):
    """Of a fixed anchor a step draws none, and of its draws the best alone has a weight."""
    planned = plan(tiny.gemma().config, algorithm(name.split()), configured(), 16, 8, "h100")
    assert [draw.k for draw in planned.draws] == draws
    assert planned.weighed == weighed


def test_the_most_that_fits_is_the_most():
    config = configured(precision="bf16", prompts_per_step=64)
    one = plan("gemma-2b", algorithms.j_bond(), config, 256, 128, "l4")
    for name in ("prompts_per_step", "micro_batch"):
        most = one.most(name)
        peaks = [one.on(one.machine, **{name: size}).peak for size in (most, most + 1)]
        assert peaks[0] <= FILLED * one.machine.memory < peaks[1]


def test_this_machine_is_measured():
    found = here()
    assert found.memory > 1e9
    assert found.rate > found.bandwidth > 1e8 < found.exact
    assert 1e-8 < found.started < 1e-3


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("gemma-2x", "no configuration of a model in 'gemma-2x': give gemma-2b, gemma-7b, a hub"),
        ("gemma-2b --device b200", "no device is called 'b200': choose here, a100, h100, h200,"),
        ("gemma-2b --algorithm ppo", "no algorithm is called 'ppo': choose j_bond, bond,"),
        ("gemma-2b --algorithm bond n=1", "bond n=1 is no algorithm (Best-of-1 is the reference"),
    ],
)
def test_what_is_not_known_is_told_in_a_line(capsys, line, said):
    assert cli.main(["plan", *line.split()]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("config", [MixtralConfig(num_hidden_layers=1), MambaConfig()])
def test_what_cannot_be_planned_is_refused(config):
    with pytest.raises(ValueError, match="cannot be planned"):
        shape(config)


def test_the_readme_shows_what_the_command_prints(capsys):
    text = (repository_root() / "README.md").read_text(encoding="utf-8")
    command, shown = re.search(r"python -m bondlab (plan .*)\n\n((?:\|.*\n)+)", text).groups()
    assert cli.main(command.split()) == 0
    assert capsys.readouterr().out == shown
    (option,) = re.findall(r"`(--sampling-batch \d+)`", text)
    for given, fits in ("", False), (option, True):
        assert cli.main(f"{command} {given}".split()) == 0
        (line,) = re.findall(r"\| gemma-7b \| LoRA.*", capsys.readouterr().out)
        assert all((gpu in line) == fits for gpu in ("A100 80 GB", "H100 SXM"))


def test_a_plan_prints_its_parts(capsys):
    assert cli.main("plan gemma-2b --prompts 64 --device h100 --all-weights".split()) == 0
    printed = capsys.readouterr().out
    numbers = dict(re.findall(r"\| (.+?) +\| +([\d.]+) \|\n", printed))
    assert numbers["frozen weights"] == "5.01"
    assert numbers["a checkpoint"] == "40.1"  # policy, anchor, Adam's averages: 16 bytes a weight
    assert "| A100 80 GB | all weights |" in printed
