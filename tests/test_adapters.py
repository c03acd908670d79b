"""Adapters and saved policies: which layers are trained, and what other programs read of them."""

from __future__ import annotations

import warnings

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model, inject_adapter_in_model
from peft.tuners import lora
from safetensors.torch import load_file
from test_agreement import LLAMA, made
from torch import nn
from transformers import AutoModelForCausalLM

from bondlab.bank import seeded
from bondlab.lm.adapters import FEW_ROWS, adapted, quiet
from bondlab.lm.language_model import LanguageModel
from bondlab.tasks import models, tiny

LIMITS = {"max_prompt_tokens": 24, "max_new_tokens": 8}


class Stack(nn.Module):
    """An MLP whose layers have numbers for names, as those of the model itself."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


def stacked() -> nn.Module:
    model = made("Llama")
    for layer in model.model.layers:
        layer.mlp = Stack()
    return model


def tuned(folder) -> PeftModel:
    """A model with an adapter that its owner trained, saved in the folder's "tuned" too."""
    tiny.gemma().save_pretrained(folder / "base")
    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    peft = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    for name, parameter in peft.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3, generator=seeded(0, name))
    peft.save_pretrained(folder / "tuned")
    return peft


@torch.no_grad()
def move(policy: LanguageModel, scale: float) -> None:
    """Training's stand-in: noise on all that is trained."""
    for parameter in policy.trainable():
        parameter += scale * torch.randn(parameter.shape, generator=seeded(1, parameter.shape))


def drawn_from(model: LanguageModel):
    prompts = model.encode(tiny.documents(3))
    return prompts, model.sample(prompts, 2, seeded(0, "test"))


@pytest.mark.parametrize("family", ["t5", "gemma"])
@torch.no_grad()
def test_peft_reads_a_saved_adapter(family, tmp_path):
    """On a model with the reference's weights, `PeftModel.from_pretrained` gives the policy's
    log-probabilities, and no warning of weights that it misses. The factors hold bfloat16 numbers
    here, so that the file loses nothing."""
    reference = tiny.language_model(family).requires_grad_(False)
    policy = reference.trainable_copy(2)
    move(policy, 0.2)
    for parameter in policy.trainable():
        parameter.copy_(parameter.bfloat16())
    policy.save_adapter(tmp_path)
    plain = tiny.language_model(family)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*missing adapter keys.*")
        plain.model = PeftModel.from_pretrained(plain.model, tmp_path).get_base_model()
    prompts, drawn = drawn_from(policy)
    read, own, before = (m(prompts, drawn).sum(-1) for m in (plain, policy, reference))
    assert (own - before).abs().max() > 0.5
    torch.testing.assert_close(read, own, atol=1e-4, rtol=0)


def test_a_full_copy_shares_nothing_with_a_reference_that_has_sampled():
    """A bfloat16 reference keeps its head in float32 once it has sampled; copies of all weights
    must not take that head for their own, or training one would train the other."""
    reference = tiny.language_model("gemma").to(torch.bfloat16).requires_grad_(False)
    prompts, drawn = drawn_from(reference)
    before = reference(prompts, drawn)
    policy = reference.trainable_copy(None)
    assert len(policy.trainable()) == len(list(reference.parameters()))
    assert {p.dtype for p in reference.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in policy.trainable()} == {torch.float32}
    with torch.no_grad():
        for parameter in policy.trainable():
            parameter += 1.0
        assert torch.equal(reference(prompts, drawn), before)
        head = policy.model.get_output_embeddings().weight
        states = torch.ones(1, head.shape[1])
        torch.testing.assert_close(policy._logits(states), states @ head.T)
        policy.requires_grad_(False).bfloat16()  # as a reference of its own
        for _ in range(2):  # the copy of the head follows the weights
            torch.testing.assert_close(policy._logits(states), states @ head.float().T)
            head *= 2
    assert head is policy.model.get_input_embeddings().weight  # tied matrices stay one


# -- which layers are trained ---------------------------------------------------------------------


@pytest.mark.parametrize(("make", "count"), [(lambda: made("GPT2"), 2 * 4), (stacked, 2 * 6)])
@torch.no_grad()
def test_every_linear_layer_is_adapted(make, count, tmp_path):
    """GPT-2 writes its four linear layers as Conv1D; an nn.Sequential calls its own "0" and "2", as
    the list of layers does (four of attention and two of the MLP). A policy starts as its
    reference, moves when trained, and is saved and loaded as it was trained."""
    reference = LanguageModel(make(), tiny.tokenizer(), **LIMITS)
    policy = reference.trainable_copy(2)
    assert len(policy.trainable()) == 2 * count
    prompts, drawn = drawn_from(reference)
    assert torch.equal(policy(prompts, drawn), reference(prompts, drawn))
    move(policy, 0.3)
    expected = policy(prompts, drawn)
    assert (expected - reference(prompts, drawn)).abs().max() > 0.1
    policy.save_pretrained(tmp_path / "policy")
    plain = make()
    plain.load_state_dict(load_file(tmp_path / "policy" / "model.safetensors"), strict=False)
    plain.tie_weights()
    saved = LanguageModel(plain, tiny.tokenizer(), **LIMITS)
    torch.testing.assert_close(saved(prompts, drawn), expected, atol=1e-4, rtol=0)


# -- adapters of the model's owner ----------------------------------------------------------------


def test_an_adapter_of_the_model_s_owner_is_refused(tmp_path):
    """Training would replace it: the policy would not start as its reference, and the saved folder
    would lack it. All ways of having one are refused where the model enters, and so is a policy's
    own where it would become a reference; the message says what to call."""
    peft = tuned(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "tuned")
    injected = inject_adapter_in_model(LoraConfig(target_modules=["q_proj"]), tiny.gemma())
    for model in (peft, peft.get_base_model(), loaded, injected):
        with pytest.raises(ValueError, match="carries an adapter.*merge_and_unload"):
            LanguageModel(model, tiny.tokenizer())
    policy = tiny.language_model("gemma").trainable_copy(2)
    again = LanguageModel(policy.model, tiny.tokenizer())  # to read other prompts with
    with pytest.raises(ValueError, match=r"carries an adapter \(policy\)"):
        again.trainable_copy(2)


@pytest.mark.parametrize("rank", [2, None])
@torch.no_grad()
def test_a_folded_adapter_stays(rank, tmp_path):
    """What the message advises: the policy starts as the tuned model, far from the base, and the
    saved folder, which holds no adapter, loads as the policy."""
    folded = tuned(tmp_path).merge_and_unload()
    reference = LanguageModel(folded, tiny.tokenizer(), **LIMITS)
    prompts, drawn = drawn_from(reference)
    base = tiny.language_model("gemma")(prompts, drawn)
    policy = reference.trainable_copy(rank)
    assert torch.equal(policy(prompts, drawn), reference(prompts, drawn))
    assert (policy(prompts, drawn) - base).abs().max() > 0.1
    move(policy, 0.05)
    policy.save_pretrained(tmp_path / "policy")
    assert not (tmp_path / "policy" / "adapter_config.json").exists()
    saved = LanguageModel(*models.load(str(tmp_path / "policy")), **LIMITS)
    torch.testing.assert_close(saved(prompts, drawn), policy(prompts, drawn), atol=1e-4, rtol=0)


# -- folders --------------------------------------------------------------------------------------


def test_a_folder_s_name_may_be_text_and_may_begin_at_home(tmp_path, monkeypatch):
    """`~` is the user's own folder, not one of that name in the working directory."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    policy = tiny.language_model("gemma").trainable_copy(2)
    policy.save_adapter("~/adapter")
    policy.save_pretrained("~/policy")
    policy.save_adapter("beside")
    tiny.language_model("gemma").load_adapter("~/adapter")
    assert {path.name for path in (tmp_path / "home").iterdir()} == {"adapter", "policy"}
    assert {path.name for path in tmp_path.iterdir()} == {"beside", "home"}


def test_what_cannot_be_saved_says_so(tmp_path):
    """A file in the folder's place is named and stays. An adapter and a whole policy share no
    folder: transformers adds an adapter that it finds beside a model, so the change would be made
    twice; its own kind is written anew. Without an adapter the message says how to save."""
    policy = tiny.language_model("gemma").trainable_copy(2)
    (tmp_path / "notes").write_text("mine")
    files = {policy.save_adapter: "adapter_config.json", policy.save_pretrained: "config.json"}
    for save, file in files.items():
        save(tmp_path / save.__name__)
        save(tmp_path / save.__name__)
        with pytest.raises(FileExistsError, match="notes"):
            save(tmp_path / "notes")
        (other,) = files.keys() - {save}
        with pytest.raises(FileExistsError, match=f"{save.__name__} has a file {file}: save"):
            other(tmp_path / save.__name__)
    assert (tmp_path / "notes").read_text() == "mine"
    with pytest.raises(ValueError, match="lora_rank=None.*save_pretrained"):
        tiny.language_model("gemma").trainable_copy(None).save_adapter(tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_quiet_leaves_transformers_as_it_was():
    """A caller who turned its bars off finds them off again, also after an error."""
    logging = transformers.logging
    for switch in (logging.disable_progress_bar, logging.enable_progress_bar):
        switch()
        before = logging.is_progress_bar_enabled(), logging.get_verbosity()
        with pytest.raises(KeyError), quiet():
            assert not logging.is_progress_bar_enabled()
            raise KeyError
        assert (logging.is_progress_bar_enabled(), logging.get_verbosity()) == before


def test_adapters_around_each_other_are_folded_into_what_they_are_around(tmp_path):
    """On a layer of experts one adapter is around another: the saved policy computes the same."""
    model = made("Mixtral", LLAMA | {"num_local_experts": 2})
    policy = LanguageModel(model, tiny.tokenizer(), **LIMITS).trainable_copy(2)
    move(policy, 0.3)
    policy.save_pretrained(tmp_path)
    saved, ids = AutoModelForCausalLM.from_pretrained(tmp_path), torch.arange(3, 17).view(2, 7)
    with torch.no_grad():
        logits = [each(input_ids=ids).logits for each in (saved, policy.model, model)]
    torch.testing.assert_close(logits[0], logits[1], atol=1e-4, rtol=1e-4)
    assert (logits[0] - logits[2]).abs().max() > 0.1


@pytest.mark.parametrize("family", ["gemma", "t5"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_in_half_precision_take_an_adapter_where_nothing_is_cast(family, dtype):
    """As transformers loads what is stored so, and a run in float32 computes with it: the adapter
    stays in float32, draws and scores agree to the weights' precision, and a gradient comes."""
    model = tiny.language_model(family, max_new_tokens=6)
    model = LanguageModel(model.model.to(dtype), model.tokenizer, **LIMITS)
    policy = model.trainable_copy(2)
    move(policy, 0.01)
    prompts = policy.encode(tiny.documents(2))
    drawn = policy.sample(prompts, 2, seeded(0, "half"))
    log_probs = policy(prompts, drawn)
    torch.testing.assert_close(log_probs, drawn.log_probs, atol=0.1, rtol=0.05)
    log_probs.sum().backward()
    assert all(p.dtype == torch.float32 and p.grad.isfinite().all() for p in policy.trainable())


@pytest.mark.parametrize("rows", [3, FEW_ROWS + 1])
def test_lean_layers_compute_what_pefts_own_do(rows):
    """Also where an adapter from elsewhere has another scale; one that is no plain sum is left."""
    policy = tiny.language_model("gemma").trainable_copy(2)
    _, layer = adapted(policy.model)[0]
    layer.scaling["policy"] = 0.5
    with torch.no_grad():
        layer.lora_B["policy"].weight.normal_()
        x = torch.randn(rows, layer.in_features)
        lean, theirs = layer(x), lora.Linear.forward(layer, x)
    assert type(layer) is not lora.Linear
    torch.testing.assert_close(lean, theirs)


@pytest.mark.parametrize("name", ["Phimoe", "Llama4Text"])
def test_a_router_that_is_a_linear_layer_gets_no_adapter(name):
    """It gives choices, to which nothing can be added: the policy starts as the model, and all
    that it trains is asked."""
    experts = {"num_local_experts": 2, "num_experts_per_tok": 1, "head_dim": 8}
    settings = LLAMA | experts | {"intermediate_size_mlp": 64}
    model = LanguageModel(made(name, settings), tiny.tokenizer(), **LIMITS)
    policy, prompts = model.trainable_copy(2), model.encode(tiny.documents(2))
    drawn = policy.sample(prompts, 2, seeded(0, "routed"))
    log_probs = policy(prompts, drawn)
    torch.testing.assert_close(log_probs.detach(), model(prompts, drawn), atol=1e-5, rtol=0)
    log_probs.sum().backward()
    assert not any("router" in path for path, _ in adapted(policy.model))
    assert all(parameter.grad is not None for parameter in policy.trainable())
