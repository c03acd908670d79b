"""Completions drawn from a language model: two ways, one distribution.

On a GPU a decoding step of a small model waits for its hundreds of kernels to be started one by
one. There the whole step (network, head, draw) is captured once a shape as a CUDA graph over a
cache of fixed size, and replayed. Elsewhere, and for models whose cache has no fixed size (encoder-
decoders, texts longer than an attention's window, a model's own forward), a loop does it, which on
a processor drops rows that have ended.

Shapes: R rows (B prompts times K completions), T tokens, D hidden width, V vocabulary.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer, StaticLayer

from bondlab.lm import attention, model_settings
from bondlab.lm.adapters import Mixture, beside
from bondlab.lm.completions import Completions, Prompts
from bondlab.lm.network import Prefix, in_float32

if TYPE_CHECKING:
    from bondlab.lm.language_model import LanguageModel

BUCKET = 32  # prompts are padded to multiples of it, so that few shapes are captured
KEPT = 4  # captured shapes a model; each holds a cache
DROPPED = 0.9  # rows are dropped when no more than this share goes on: it costs a copy of the cache
_CAPTURED: WeakKeyDictionary[LanguageModel, OrderedDict[tuple, Captured]] = WeakKeyDictionary()


def sample(model: LanguageModel, prompts: Prompts, k: int, uniforms: Tensor) -> Completions:
    """K completions per prompt; no step waits for the device.

    Args:
        uniforms: one number in [0, 1) for each token, [T, R, 1].
    """
    if model.device.type == "cuda" and not model.is_encoder_decoder:
        prompts = _to_bucket(prompts, model.pad_token)
    prefix = model._prefix(prompts, k, room=len(uniforms))
    fixed = model.device.type == "cuda" and _fits(model, prefix, len(uniforms))
    drawn = (_replayed if fixed else _looped)(model, prefix, uniforms)
    shape = (len(prompts.ids), k, len(uniforms))
    return Completions(*(x.T.reshape(shape) for x in drawn))


def sample_beside(
    models: Sequence[LanguageModel], prompts: Prompts, ks: Sequence[int], uniforms: Sequence[Tensor]
) -> list[Completions]:
    """`sample` of two models that share their weights, in one pass over these.

    On a processor, where a pass costs little more for more rows; `mixable` models alone.

    Args:
        ks, uniforms: of each model, as for `sample`.
    """
    (one, other), count = models, len(prompts.ids)
    twice = Prompts(*(x.repeat(2, 1) for x in prompts))
    mixture, own = Mixture(count, 2 * count), count * ks[0]
    with beside(one.model, other.model, mixture):
        counts = [k for k in ks for _ in range(count)]
        prefix = one._prefix(twice, counts, room=len(uniforms[0]))
        drawn = _looped(one, prefix, torch.cat(list(uniforms), 1), (mixture, own))
    parts = zip(*(x.split([own, count * ks[1]], 1) for x in drawn), strict=True)
    return [
        Completions(*(x.T.reshape(count, k, -1) for x in part))
        for k, part in zip(ks, parts, strict=True)
    ]


def _looped(
    model: LanguageModel,
    prefix: Prefix,
    uniforms: Tensor,
    mixed: tuple[Mixture, int] | None = None,
) -> list[Tensor]:
    """Tokens, masks and log-probabilities [T, R], token by token.

    `mixed`: the mixture to keep up to date, and how many rows are its first model's at the start.
    """
    ends, padding, last = model.end_tokens, model.pad_token, prefix.last
    size, here = uniforms.shape[:2], last.device
    drawn = [
        torch.full(size, padding, device=here),
        torch.zeros(size, dtype=torch.bool, device=here),
        torch.zeros(size, device=here),
    ]
    rows = torch.arange(size[1], device=here)
    running = torch.ones_like(rows, dtype=torch.bool)
    for step, uniform in enumerate(uniforms):
        choice = _choose(model._logits(last), uniform[rows], running, ends, padding)
        for kept, new in zip(drawn, (choice[0], running, choice[1]), strict=True):
            kept[step, rows] = new
        token, _, running = choice
        if here.type == "cpu":  # elsewhere to ask would be to wait
            if not running.any():
                break
            if prefix.sharing and running.float().mean() <= DROPPED:
                going = running.nonzero()[:, 0]
                prefix.keep(going)
                token, rows, running = token[going], rows[going], running[going]
        if mixed:
            mixed[0].first, mixed[0].rows = int((rows < mixed[1]).sum()), len(rows)
        if step + 1 < len(uniforms):
            last = model._extend(prefix, token[:, None])[:, -1]
    return drawn


def _choose(
    logits: Tensor, uniform: Tensor, running: Tensor, ends: Tensor, padding: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens and log-probabilities [R], padded in rows that have ended, and which go on."""
    token, log_prob = draw(logits, uniform)
    still = running & ~torch.isin(token, ends)
    return token.masked_fill(~running, padding), log_prob.masked_fill(~running, 0.0), still


def draw(logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """One token a row from softmax(logits [R, V]): tokens [R] and their log-probabilities [R].

    By inversion of the cumulative distribution with one uniform number per row, [R, 1] in [0, 1): V
    times fewer random numbers than the exponential race of `torch.multinomial`, which costs more
    than the model's step on a CPU.
    """
    log_norm = logits.logsumexp(-1, keepdim=True)
    cumulative = (logits - log_norm).exp().cumsum(-1)
    token = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
    token = token.clamp(max=logits.shape[-1] - 1)
    return token[:, 0], (logits.gather(-1, token) - log_norm)[:, 0]


# -- steps of a fixed shape ------------------------------------------------------------------------


def _to_bucket(prompts: Prompts, padding: int) -> Prompts:
    more = -prompts.ids.shape[1] % BUCKET
    return Prompts(pad(prompts.ids, (more, 0), value=padding), pad(prompts.mask, (more, 0)))


def _fits(model: LanguageModel, prefix: Prefix, steps: int) -> bool:
    """Whether every layer sees all tokens before, and its attention takes a mask of ours."""
    length = prefix.mask.shape[1] + steps

    def sees_all(layer: object) -> bool:
        windowed = type(layer) is DynamicSlidingWindowLayer and layer.sliding_window >= length
        return windowed or type(layer) is DynamicLayer

    plain = model.plain or model.model.config._attn_implementation not in ("sdpa", attention.NAME)
    return not plain and all(map(sees_all, getattr(prefix.cache, "layers", [None])))


def _replayed(model: LanguageModel, prefix: Prefix, uniforms: Tensor) -> list[Tensor]:
    """As `_looped`, by a graph that is captured when its shape is new.

    A graph reads weights where they were: one of a model that was moved since is captured again.
    """
    weights = [*model.parameters()]
    if not model.plain:  # the head is read in float32
        weights.append(in_float32(model.model.get_output_embeddings().weight))
    kind = model.device.type
    autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    places = tuple(weight.data_ptr() for weight in weights)
    ends = tuple(model_settings.end_tokens(model.model, model.tokenizer))
    constants = places, ends, model.pad_token, model.temperature, autocast
    key = (*prefix.mask.shape, len(uniforms), hash(constants))
    kept = _CAPTURED.setdefault(model, OrderedDict())
    # Casts that autocast keeps would be read again by the graph after the weights have changed.
    casts = torch.autocast(kind, autocast, enabled=autocast is not None, cache_enabled=False)
    # What is kept is written again, which out of a caller's inference mode would be an error.
    with torch.inference_mode(False), torch.no_grad(), casts:
        if key not in kept:
            kept[key] = Captured(model, prefix, uniforms)
            if len(kept) > KEPT:
                kept.popitem(last=False)
        kept.move_to_end(key)
        return kept[key].sample(model, prefix, uniforms)


def forget(model: LanguageModel) -> None:
    """Free a model's graphs, and the caches that they hold, once their shapes will not come again
    soon: those of a bank's parts are larger than those of training."""
    _CAPTURED.pop(model, None)


class Captured:
    """Decoding after prompts of one width P, in tensors that keep their places.

    Args:
        prefix, uniforms: of the shapes that all later ones will have.
    """

    def __init__(self, model: LanguageModel, prefix: Prefix, uniforms: Tensor) -> None:
        (rows, self.width), steps = prefix.mask.shape, len(uniforms)
        length, device = self.width + steps, prefix.mask.device
        self.cache = Cache(layers=[StaticLayer(length) for _ in prefix.cache.layers])
        for mine, theirs in zip(self.cache.layers, prefix.cache.layers, strict=True):
            mine.lazy_initialization(theirs.keys, theirs.values)
        self.seen = torch.zeros(rows, 1, 1, length, dtype=torch.bool, device=device)
        self.last, self.uniforms = prefix.last.clone(), uniforms.clone()
        self.position = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self.step = torch.zeros(1, dtype=torch.long, device=device)  # tokens drawn so far
        self.running = torch.ones(rows, dtype=torch.bool, device=device)
        self.ends, self.padding = model.end_tokens, model.pad_token
        self.drawn = [
            torch.zeros(steps, rows, dtype=dtype, device=device)
            for dtype in (torch.long, torch.bool, torch.float32)
        ]
        self.graph = self._capture(model, prefix, uniforms) if device.type == "cuda" else None

    def _capture(
        self, model: LanguageModel, prefix: Prefix, uniforms: Tensor
    ) -> torch.cuda.CUDAGraph:
        self._start(prefix, uniforms)
        aside = torch.cuda.Stream()  # libraries set themselves up at their first calls
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(2):
                self._advance(model)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        self._start(prefix, uniforms)
        with torch.cuda.graph(graph):
            self._advance(model)
        return graph

    def sample(self, model: LanguageModel, prefix: Prefix, uniforms: Tensor) -> list[Tensor]:
        """Tokens, masks and log-probabilities [T, R]."""
        self._start(prefix, uniforms)
        for _ in uniforms:
            self.graph.replay() if self.graph else self._advance(model)
        return [x.clone() for x in self.drawn]

    def _start(self, prefix: Prefix, uniforms: Tensor) -> None:
        for mine, theirs in zip(self.cache.layers, prefix.cache.layers, strict=True):
            mine.keys[:, :, : self.width].copy_(theirs.keys)
            mine.values[:, :, : self.width].copy_(theirs.values)
            mine.cumulative_length.fill_(self.width)
        self.seen.zero_()[:, 0, 0, : self.width].copy_(prefix.mask)
        self.position.copy_(prefix.mask.sum(1, keepdim=True))
        self.last.copy_(prefix.last)
        self.uniforms.copy_(uniforms)
        self.step.zero_()
        self.running.fill_(True)

    def _advance(self, model: LanguageModel) -> None:
        """Draw a token a row and read it."""
        uniform = self.uniforms.index_select(0, self.step)[0]
        places = self.running, self.ends, self.padding
        token, log_prob, still = _choose(model._logits(self.last), uniform, *places)
        for kept, new in zip(self.drawn, (token, self.running, log_prob), strict=True):
            kept.index_copy_(0, self.step, new[None])
        self.running.copy_(still)
        self.seen.index_fill_(3, self.step + self.width, True)
        out = model.model.get_decoder()(
            input_ids=token[:, None],
            attention_mask=self.seen,
            position_ids=self.position,
            past_key_values=self.cache,
            use_cache=True,
        )
        self.last.copy_(out.last_hidden_state[:, -1])
        self.position.add_(1)
        self.step.add_(1)
