"""Sampling and scoring against transformers' own logits, on tiny models of both families.

The matrices of the models are widened so that their laws are far from uniform: a wrong mask,
position or cache then moves log-probabilities by far more than the tolerance of 1e-4 nat.
"""

from __future__ import annotations

import copy

import pytest
import torch
from lab import spied
from scipy import stats
from test_agreement import TEXTS, assert_its_own
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from bondlab.lm import language_model
from bondlab.lm.completions import Completions, concatenate, micro_batches
from bondlab.lm.language_model import LanguageModel
from bondlab.lm.network import in_half
from bondlab.lm.sampler import draw
from bondlab.tasks import models, tiny

VOCABULARY = len(tiny.tokenizer())
MAKERS = {"t5": tiny.t5, "t5_tied": lambda: tiny.t5(tied=True), "gemma": tiny.gemma}
TOLERANCE = {"atol": 1e-4, "rtol": 0.0}


def make(kind: str, **settings) -> LanguageModel:
    model = MAKERS[kind]()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data *= 10.0 if kind == "gemma" else 1.5
    limits = {"max_prompt_tokens": 16, "max_new_tokens": 7} | settings
    return LanguageModel(model, tiny.tokenizer(), **limits).requires_grad_(False)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sampled(model: LanguageModel, texts=TEXTS, k: int = 3, seed: int = 0):
    prompts = model.encode(texts)
    return prompts, model.sample(prompts, k, seeded(seed))


def train_a_little(policy: LanguageModel, steps: int = 2) -> None:
    """Some steps of Adam towards longer sampled texts, large enough to move the law."""
    prompts, drawn = sampled(policy)
    optimizer = torch.optim.Adam(policy.trainable(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        (-policy(prompts, drawn).sum()).backward()
        optimizer.step()


# -- the law --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampler_scorer_and_transformers_agree(kind, temperature):
    """One law, three ways: token by token with the cache, all at once, and transformers' logits
    of each unpadded sequence over the temperature."""
    model = make(kind, temperature=temperature)
    assert_its_own(model)
    assert sampled(model)[1].log_probs.std() > 0.3


@pytest.mark.parametrize("kind", MAKERS)
@torch.no_grad()
def test_what_follows_the_end_changes_nothing(kind):
    """Masked places score 0 whatever stands there, and more of them change no other place."""
    model = make(kind)
    prompts, drawn = sampled(model)
    lengths = drawn.lengths.clamp(max=torch.tensor([2, 5, 7]))
    mask = torch.arange(7) < lengths[..., None]
    expected = model(prompts, drawn).masked_fill(~mask, 0.0)
    junk = drawn.tokens.masked_fill(~mask, 50)
    tokens = torch.nn.functional.pad(junk, (0, 4), value=51)
    wider = Completions(tokens, torch.nn.functional.pad(mask, (0, 4)), torch.zeros(tokens.shape))
    scored = model(prompts, wider)
    assert (~mask).any() and not scored[..., 7:].any() and not scored[..., :7][~mask].any()
    torch.testing.assert_close(scored[..., :7], expected, **TOLERANCE)


@pytest.mark.parametrize("kind", ["t5", "gemma"])
def test_end_tokens_end_a_completion(kind):
    """With every fourth token an end token, each completion stops with its first one: the mask
    holds it and nothing later, where tokens are padding and log-probabilities 0."""
    ends = torch.arange(1, VOCABULARY, 4)
    inner = MAKERS[kind]()
    inner.generation_config.eos_token_id = ends.tolist()
    _, drawn = sampled(LanguageModel(inner, tiny.tokenizer(), max_new_tokens=6), k=40)
    assert drawn.tokens.shape == drawn.mask.shape == drawn.log_probs.shape == (3, 40, 6)
    ended_before = torch.isin(drawn.tokens, ends).long().cumsum(-1).roll(1, -1)
    ended_before[..., 0] = 0
    assert torch.equal(drawn.mask, ended_before == 0)
    assert not drawn.tokens[~drawn.mask].any() and not drawn.log_probs[~drawn.mask].any()
    assert (drawn.log_probs[drawn.mask] < 0).all()
    assert 60 < (drawn.lengths < 6).sum() < 120  # 1 - (3/4)^5 = 76 % of 120
    assert torch.equal(drawn.lengths, drawn.mask.sum(-1))
    torch.testing.assert_close(drawn.log_prob, drawn.log_probs.sum(-1))


@torch.no_grad()
def test_sampling_follows_the_law_of_the_first_token():
    """4,000 first tokens against the model's own probabilities: chi-square, rare tokens pooled."""
    model = make("t5", max_new_tokens=1)
    prompts = model.encode(TEXTS[:1])
    first = model.sample(prompts, 4000, seeded(1)).tokens.flatten()
    every = torch.arange(VOCABULARY)[None, :, None]
    filled = Completions(every, torch.ones_like(every, dtype=torch.bool), torch.zeros(every.shape))
    expected = 4000 * model(prompts, filled)[0, :, 0].double().softmax(0)
    counts, rare = torch.bincount(first, minlength=VOCABULARY).double(), expected < 5
    pooled = [torch.cat([x[~rare], x[rare].sum()[None]]).numpy() for x in (counts, expected)]
    assert stats.chisquare(*pooled).pvalue > 1e-3


def test_sampling_repeats_for_a_generator():
    """The same generator state, the same completions; another seed, others."""
    model = make("t5")
    first, same, other = (sampled(model, seed=s)[1].tokens for s in (3, 3, 4))
    assert torch.equal(first, same) and not torch.equal(first, other)


# -- one draw -------------------------------------------------------------------------------------


def test_draw_inverts_the_cumulative_law():
    """Uniforms (i + 1/2)/1000 turn a law of thousandths into its exact counts, and a token
    without probability, wherever it stands, gets none."""
    probs = torch.tensor([0.0, 0.125, 0.5, 0.0, 0.25, 0.12, 0.005, 0.0])
    uniform = ((torch.arange(1000) + 0.5) / 1000)[:, None]
    tokens, log_probs = draw(probs.log().expand(1000, 8) + 3.0, uniform)
    assert torch.bincount(tokens, minlength=8).tolist() == [0, 125, 500, 0, 250, 120, 5, 0]
    torch.testing.assert_close(log_probs, probs.log()[tokens], atol=1e-6, rtol=0)


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24])
def test_draw_never_takes_an_impossible_token(uniform):
    """The two outermost uniforms that exist must hit the first and the last possible token, also
    where rounding puts the cumulative law's end above or below 1 (500 laws are tried)."""
    logits = torch.randn(500, 40, generator=seeded(2)) * 3
    logits[:, :2] = logits[:, -2:] = -torch.inf
    tokens, log_probs = draw(logits, torch.full((500, 1), uniform))
    assert log_probs.isfinite().all()
    assert tokens.min() >= 2 and tokens.max() <= 37


# -- memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["t5_tied", "gemma"])
def test_scoring_in_pieces_changes_nothing(kind, monkeypatch):
    """Three rows of logits alive at a time (63 rows, 21 pieces): the same log-probabilities and the
    same gradient of a weighted sum as in one piece."""
    policy = make(kind).trainable_copy(2, seed=1)
    train_a_little(policy, 1)
    prompts, drawn = sampled(policy)
    weights = torch.randn(3, 3, generator=seeded(5))

    def scored() -> tuple[torch.Tensor, list[torch.Tensor]]:
        log_probs = policy(prompts, drawn)
        loss = (weights * log_probs.sum(-1)).sum()
        return log_probs.detach(), list(torch.autograd.grad(loss, policy.trainable()))

    expected = scored()
    monkeypatch.setattr(language_model, "LOGITS_AT_ONCE", 3 * VOCABULARY)
    rows = spied(monkeypatch, LanguageModel, "_logits", lambda self, read: len(read))
    actual = scored()
    assert max(rows) == 3
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)
    assert any(g.abs().max() > 0.1 for g in expected[1])


def test_logits_stay_float32_under_autocast():
    """The head is left out of autocast: log-probabilities of 8-bit mantissas would be 0.03 off."""
    model = make("t5")
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        prompts, drawn = sampled(model)
        assert drawn.log_probs.dtype == model(prompts, drawn).dtype == torch.float32
        assert model._logits(torch.randn(4, 32, dtype=torch.bfloat16)).dtype == torch.float32


# -- weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("rank", [2, None])
def test_training_the_policy_leaves_the_reference(kind, rank):
    """A policy starts as its reference bit for bit; an adapter's frozen weights are the reference's
    own memory. Trained, its law moves by nats where the reference's does not move by a bit."""
    model = make(kind)
    before = copy.deepcopy(model.state_dict())
    prompts, drawn = sampled(model)
    first, policy = model(prompts, drawn), model.trainable_copy(rank)
    frozen = {p.data_ptr() for p in policy.parameters() if not p.requires_grad}
    assert frozen == ({p.data_ptr() for p in model.parameters()} if rank else set())
    with torch.no_grad():  # with a gradient attention takes another kernel
        assert torch.equal(policy(prompts, drawn), first)
    train_a_little(policy)
    assert torch.equal(model(prompts, drawn), first)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert (policy(prompts, drawn).detach() - first).abs().max() > 0.1
    assert not any(p.requires_grad for p in model.parameters())
    assert policy.tokenizer is model.tokenizer


def test_adapters_repeat_for_a_seed_and_spare_the_global_generator():
    """The same seed gives the same adapter, another one another; the global generator stands."""
    model = make("t5")
    state = torch.get_rng_state()
    first, same, other = (model.trainable_copy(2, seed).trainable()[0] for seed in (0, 0, 1))
    assert torch.equal(first, same) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("kind", ["t5", "gemma"])
def test_adapter_survives_the_disk_and_the_merge(kind, tmp_path):
    """The loaded adapter is the saved one rounded to bfloat16, to the bit. Merged, it gives the
    same law as before within float32 rounding, under the names of the plain model."""
    model, loaded = make(kind), make(kind)
    policy = model.trainable_copy(2)
    train_a_little(policy)
    policy.save_adapter(tmp_path)
    loaded.load_adapter(tmp_path)
    for read, written in zip(loaded.trainable(), policy.trainable(), strict=True):
        assert read.dtype == torch.float32
        assert torch.equal(read, written.bfloat16().float())
    prompts, drawn = sampled(policy)
    before = loaded(prompts, drawn)
    assert (before - model(prompts, drawn)).abs().max() > 0.1
    loaded.merge_adapter()
    assert set(loaded.state_dict()) == set(model.state_dict())
    torch.testing.assert_close(loaded(prompts, drawn), before, **TOLERANCE)


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("rank", [2, None])
def test_saved_folder_loads_with_transformers(kind, rank, tmp_path):
    """`from_pretrained` of the folder, model and tokenizer, gives the policy's law, and saving
    leaves the policy itself as it was."""
    policy = make(kind).trainable_copy(rank)
    train_a_little(policy)
    policy.requires_grad_(False)
    prompts, drawn = sampled(policy)
    expected = policy(prompts, drawn)
    policy.save_pretrained(tmp_path)
    assert torch.equal(policy(prompts, drawn), expected)
    kinds = AutoModelForSeq2SeqLM if policy.is_encoder_decoder else AutoModelForCausalLM
    parts = kinds.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    loaded = LanguageModel(*parts, max_prompt_tokens=16, max_new_tokens=7)
    assert torch.equal(loaded.encode(TEXTS).ids, prompts.ids)
    assert torch.equal(loaded.end_tokens, policy.end_tokens)
    torch.testing.assert_close(loaded(prompts, drawn), expected, **TOLERANCE)


@pytest.mark.parametrize("kind", ["t5", "gemma"])
@torch.no_grad()
def test_a_saved_policy_keeps_updates_too_small_for_bfloat16(kind, tmp_path):
    """An update of a thousandth of a bfloat16 weight rounds to the weight itself. The folder holds
    the sum in float32: the law of the policy computed in float32, which has left the reference's by
    at least ten times the tolerance."""
    reference = make(kind).bfloat16()
    policy = reference.trainable_copy(2)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            parameter.fill_(3e-4 if kind == "t5" else 3e-3)
    policy.save_pretrained(tmp_path)
    saved = LanguageModel(*models.load(str(tmp_path)), max_prompt_tokens=16, max_new_tokens=7)
    prompts, drawn = sampled(reference.float())
    expected = policy.float()(prompts, drawn)
    torch.testing.assert_close(saved(prompts, drawn), expected, atol=1e-3, rtol=0)
    assert (reference(prompts, drawn) - expected).abs().max() > 1e-2


# -- text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "side"), [("t5", "right"), ("gemma", "left")])
def test_encode_fills_the_template_cuts_and_pads(kind, side):
    """ "said rain old" has 3 tokens; the longer prompt is cut to 8; the padding is on `side`."""
    model = make(kind, template="said {prompt} old", max_prompt_tokens=8)
    prompts = model.encode(["rain", TEXTS[1]])
    assert prompts.ids.shape == (2, 8) and prompts.mask.sum(1).tolist() == [3, 8]
    assert prompts.mask[0, 0 if side == "right" else -1] == 1
    kept = prompts.ids[0][prompts.mask[0].bool()]
    assert model.tokenizer.decode(kept) == "said rain old"
    # What follows the prompt is never cut: the prompt gives way, to 6 of its tokens.
    assert model.tokenizer.decode(prompts.ids[1]) == "said a dog and a cat by old"
    with pytest.raises(ValueError, match="the template alone takes more"):
        make(kind, template="{prompt} " + "old " * 9, max_prompt_tokens=8).encode([TEXTS[1]])


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "no prompts"),
        (["rain", ""], "prompt 1 is empty"),
        (["rain", " \n"], "prompt 1 is empty"),
        (["rain", "fire", 7], "prompt 2 is empty or not a string: 7"),
        ("rain", "list of strings"),
    ],
)
def test_encode_names_what_is_wrong(prompts, message):
    with pytest.raises(ValueError, match=message):
        make("t5").encode(prompts)


@pytest.mark.parametrize(
    ("name", "wrong", "least"),
    [("max_new_tokens", x, "") for x in (8.0, "8", None)]
    + [("max_prompt_tokens", 24.0, ""), ("temperature", float("inf"), "")]
    + [(name, 0, " at least 1") for name in ("max_new_tokens", "max_prompt_tokens")]
    + [("temperature", x, " above 0") for x in (0.0, float("nan"))],
)
def test_settings_are_checked(name, wrong, least):
    """Limits are whole numbers of 1 or more, a temperature is above 0 and finite."""
    with pytest.raises(ValueError, match=f"{name}.* must be{least}"):
        make("t5", **{name: wrong})


def test_given_completions_are_encoded_with_their_end():
    """ "rain" is its token and the end; a text of 9 words is cut at 7 tokens and has no end; what
    decodes is what was given."""
    model = make("t5")
    texts = ["rain", "the a of in to and is was for"]
    given = model.encode_completions(texts)
    assert given.tokens.shape == (2, 1, 7) and given.lengths.tolist() == [[2], [7]]
    assert given.tokens[0, 0, 1] == 1 and not (given.tokens[1] == 1).any()
    assert model.decode(given) == [["rain"], ["the a of in to and is"]]


def test_completions_are_taken_and_joined_by_position():
    """Column j of `take(index)` is the completion index[b, j]; halves joined along either axis are
    the whole."""
    _, drawn = sampled(make("t5"), k=4)
    taken = drawn.take(torch.tensor([[3, 0], [1, 1], [2, 3]]))
    rows = concatenate([drawn.rows([0]), drawn.rows(slice(1, 3))], 0)
    halves = [drawn.take(torch.tensor([columns] * 3)) for columns in ([0, 1], [2, 3])]
    for field in ("tokens", "mask", "log_probs"):
        whole = getattr(drawn, field)
        assert torch.equal(getattr(taken, field)[2], whole[2, [2, 3]])
        assert torch.equal(getattr(taken, field)[0], whole[0, [3, 0]])
        assert torch.equal(getattr(rows, field), whole)
        assert torch.equal(getattr(concatenate(halves, 1), field), whole)


@pytest.mark.parametrize("kind", ["t5", "gemma"])
@torch.no_grad()
def test_micro_batches_hold_every_prompt_once_and_little_padding(kind):
    """Each has no more tokens than `size` of the longest prompts would, no column of padding alone,
    like lengths side by side, and its scores are those of the whole batch."""
    model = make(kind)
    prompts, drawn = sampled(model, TEXTS * 3)
    whole, size = model(prompts, drawn).sum(-1), 2
    lengths = prompts.mask.sum(1) + drawn.lengths.sum(1)
    found, seen = micro_batches(prompts, drawn, size), []
    for places, own, completions in found:
        seen += places.tolist()
        assert len(places) * lengths[places].max() <= size * lengths.max()
        assert own.mask.bool().any(0).all() and completions.mask.any(0).any(0).all()
        torch.testing.assert_close(model(own, completions).sum(-1), whole[places], **TOLERANCE)
    assert sorted(seen) == [*range(len(whole))] and len(found) > 1
    assert lengths[seen].tolist() == sorted(lengths.tolist())


@pytest.mark.parametrize("kind", ["t5", "gemma"])
def test_a_divergence_along_completions_is_that_of_each_next_token(kind, monkeypatch):
    """KL(p || q) of the two models' next tokens, each from the log-probability of every token of
    the vocabulary at one place; 0 behind the end; whatever the pieces. Its mean is that of the log
    ratio within 4 standard errors of their difference, and its variance is less."""
    other = make(kind)
    policy = other.trainable_copy(2)
    train_a_little(policy)
    policy.requires_grad_(False)
    prompts, drawn = sampled(policy, k=200)
    log_q, kl = policy.score_beside(other, prompts, drawn)
    torch.testing.assert_close(log_q, other(prompts, drawn), **TOLERANCE)
    assert (kl[~drawn.mask] == 0).all() and (kl > -1e-6).all()
    monkeypatch.setattr(language_model, "LOGITS_AT_ONCE", 102 * VOCABULARY)
    torch.testing.assert_close(policy.score_beside(other, prompts, drawn)[1], kl, **TOLERANCE)
    tokens = drawn.tokens[:1, :1].expand(1, VOCABULARY, -1).clone()
    for place in range(int(drawn.lengths[0, 0])):
        tokens[0, :, place] = torch.arange(VOCABULARY)
        every = Completions(tokens, torch.ones_like(tokens).bool(), torch.zeros(tokens.shape))
        log_p, log_r = (m(prompts.rows([0]), every)[0, :, place] for m in (policy, other))
        expected = (log_p.exp() * (log_p - log_r)).sum()
        torch.testing.assert_close(kl[0, 0, place], expected, atol=1e-4, rtol=1e-3)
        tokens[0, :, place] = drawn.tokens[0, 0, place]
    exact, ratio = kl.sum(-1), drawn.log_prob - log_q.sum(-1)
    apart = exact - ratio
    assert apart.mean().abs() < 4 * apart.std() / apart.numel() ** 0.5
    assert exact.var(1).sum() < ratio.var(1).sum() and exact.mean() > 0.01
    bias = torch.zeros(VOCABULARY)
    bias[-1] = -torch.inf  # a token that both rule out adds nothing
    for model in (policy, other):
        monkeypatch.setattr(model, "_logits", lambda read, own=model._logits: own(read) + bias)
    drawn = policy.sample(prompts, 2, seeded(1))
    assert policy.score_beside(other, prompts, drawn)[1].isfinite().all()


def test_tiny_models_are_the_same_in_every_process():
    """Runs name the tiny model, not its weights: they must come from the seed alone."""
    first = tiny.t5().state_dict()
    torch.manual_seed(7)
    assert all(torch.equal(x, first[name]) for name, x in tiny.t5().state_dict().items())
    assert tiny.documents(3) == tiny.documents(5)[:3] != tiny.documents(3, seed=1)


@pytest.mark.parametrize("kind", ["gemma", "t5"])
def test_gradients_made_with_the_scores_are_those_of_the_backward_pass(kind):
    """A frozen head is passed through once: slopes of a row's score, times what comes back."""
    model = tiny.language_model(kind, max_new_tokens=6, temperature=0.7)
    policy, prompts = model.trainable_copy(2), model.encode(tiny.documents(3, seed=5))
    drawn = policy.sample(prompts, 3, seeded())
    weights = torch.randn(drawn.mask.shape, generator=seeded(1))

    adapter = policy.trainable()

    def gradients() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad((weights * policy(prompts, drawn)).sum(), adapter)

    found = gradients()
    policy.model.get_output_embeddings().weight.requires_grad_()  # then it is no longer frozen
    expected = gradients()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_who_samples_in_inference_mode_first_can_train_later():
    """The float32 copy of a frozen bfloat16 head is kept, and training reads it."""
    model = make("gemma").bfloat16().requires_grad_(False)
    prompts = model.encode(tiny.documents(3, seed=5))
    with torch.inference_mode():
        model.sample(prompts, 1, seeded())
    policy = model.trainable_copy(2)
    policy(prompts, policy.sample(prompts, 1, seeded())).sum().backward()
    assert all(weight.grad is not None for weight in policy.trainable())


def test_a_processor_multiplies_halves_without_loss_and_leaves_the_mode():
    """Products of bfloat16 numbers are float32 numbers; so only sums round, in any order."""
    generator = seeded()
    left, right = (torch.randn(8, 64, generator=generator).bfloat16() for _ in range(2))
    mode = torch.backends.mkldnn.matmul.fp32_precision
    with in_half(left, right):
        product = left.float() @ right.float().T
    assert torch.backends.mkldnn.matmul.fp32_precision == mode
    torch.testing.assert_close(
        product.double(), left.double() @ right.double().T, atol=1e-5, rtol=0
    )
    with in_half(left.float(), right):
        assert torch.backends.mkldnn.matmul.fp32_precision == mode


def test_a_token_without_an_embedding_is_refused_by_name():
    model = tiny.language_model("gemma")
    model.tokenizer.add_tokens(["zebra"])
    model.encode(["rain"])
    with pytest.raises(ValueError, match="'zebra', number .*resize_token_embeddings"):
        model.encode(["rain zebra"])
