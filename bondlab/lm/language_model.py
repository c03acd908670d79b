"""One face for encoder-decoder and causal language models: sample completions, score completions.

Both families are the same here: a *prefix* is computed once per prompt (the encoder's output and
the decoder's start token, or the causal prompt) and its key-value cache serves the K
completions (`network`). Shapes: B prompts, K completions per prompt, R = B*K rows, T tokens, D
hidden width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from bondlab.lm import agreement, model_settings, sampler, templates
from bondlab.lm.adapters import ADAPTER, Trainable, mixable, refuse_adapters
from bondlab.lm.completions import Completions, Prompts, concatenate, evenly
from bondlab.lm.network import Network, in_half

if TYPE_CHECKING:
    from bondlab.processes import Share

LOGITS_AT_ONCE = 2**24  # float32 logits alive at a time when scoring: 64 MiB


class LanguageModel(templates.Reader, Trainable, Network):
    """A transformers model with its tokenizer, a prompt template, a length limit and a temperature.

    The temperature belongs to the distribution: `sample` draws from it and `forward` scores under
    it, so both agree on pi(y|x). Dropout stays off for the same reason.

    Args:
        model: a transformers encoder-decoder or causal model.
        tokenizer: its tokenizer.
        template: string in which `{prompt}` is replaced, or a function from prompt to text (chat
            formats: `templates`).
        max_prompt_tokens: most tokens of the filled template. A longer prompt is cut, at its end in
            a string, at its start by a function: the last turns of a dialogue stay. None: 512, or
            what the model's positions leave room for.
        max_new_tokens: T, the longest completion; a longer one is cut without its end token.
        temperature: divides the logits (1.0: the model's own distribution).

    Raises:
        TypeError: model or tokenizer is something else.
        ValueError: the model carries an adapter or knows no end token; a limit is below 1 or beyond
            its positions; a temperature not above 0; or as `templates.check`.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer,
        template: templates.Template = "{prompt}",
        max_prompt_tokens: int | None = None,
        max_new_tokens: int = 64,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        refuse_adapters(model, but=ADAPTER)
        model_settings.check(model, tokenizer)
        templates.check(template)
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be above 0, not {temperature}")
        for name, given in {"max_prompt": max_prompt_tokens, "max_new": max_new_tokens}.items():
            if type(given) is not int and (given is not None or name == "max_new"):
                raise ValueError(f"{name}_tokens must be a whole number, not {given!r}")
        limit = model_settings.prompt_limit(model.config, max_prompt_tokens, max_new_tokens)
        model_settings.warn_of_unused(model, tokenizer, temperature)
        self.model, self.tokenizer = model.eval(), tokenizer
        self.template = template
        self.max_prompt_tokens, self.max_new_tokens = limit, max_new_tokens
        self.temperature = float(temperature)
        self.is_encoder_decoder = bool(model.config.is_encoder_decoder)
        agreement.settle(self)

    # -- text -------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def end_tokens(self) -> Tensor:
        """Ids [E] of the tokens that end a completion, as the configuration has them now."""
        ends = model_settings.end_tokens(self.model, self.tokenizer)
        return torch.tensor(ends, device=self.device)

    @property
    def pad_token(self) -> int:
        """What stands in masked places, which nobody reads: an end token, if the model has none."""
        pad, size = self.tokenizer.pad_token_id, self.model.config.get_text_config().vocab_size
        ends = model_settings.end_tokens(self.model, self.tokenizer)
        return ends[0] if pad is None or pad >= size else pad

    def encode(self, prompts: Sequence[str]) -> Prompts:
        """Tokens of B prompts: template filled, cut, padded (left for causal models, else right).

        Raises:
            ValueError: no prompts, an empty one (its position is named), one string alone, one
                without tokens or with one that the model does not know, or as `filled`.
        """
        if isinstance(prompts, str):
            raise ValueError(f"prompts must be a list of strings, not one string: {prompts!r}")
        if not prompts:
            raise ValueError("no prompts were given")
        for position, prompt in enumerate(prompts):
            if not isinstance(prompt, str) or not prompt.strip():
                raise ValueError(f"prompt {position} is empty or not a string: {prompt!r}")
        side = "right" if self.is_encoder_decoder else "left"
        rows = [self._tokens(prompt) for prompt in prompts]
        size, most = len(self.model.get_input_embeddings().weight), max(map(max, rows))
        if most >= size:
            raise ValueError(
                f"a prompt has the token {self.tokenizer.convert_ids_to_tokens(most)!r}, number "
                f"{most}, of which the model's {size} embeddings know nothing: "
                "model.resize_token_embeddings(len(tokenizer)), or another tokenizer"
            )
        return Prompts(*self._padded(rows, side))

    def encode_completions(self, texts: Sequence[str]) -> Completions:
        """Given completions as tokens [B, 1, T] with their end token; log_probs are zeros."""
        end = [int(self.end_tokens[0])]
        rows = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        ids, mask = self._padded([(row + end)[: self.max_new_tokens] for row in rows], "right")
        mask = mask.bool()[:, None]
        return Completions(ids[:, None], mask, torch.zeros_like(mask, dtype=torch.float32))

    def _padded(self, rows: Sequence[Sequence[int]], side: str) -> tuple[Tensor, Tensor]:
        """Token ids in rows of one length, and their mask."""
        ids = pad_sequence([torch.tensor(row) for row in rows], True, self.pad_token, side)
        mask = pad_sequence([torch.ones(len(row)).long() for row in rows], True, 0, side)
        return ids.to(self.device), mask.to(self.device)

    def decode(self, completions: Completions) -> list[list[str]]:
        """Texts, B lists of K, special tokens left out."""
        k, lengths = completions.tokens.shape[1], completions.lengths.flatten().tolist()
        rows = completions.tokens.flatten(0, 1).tolist()
        ids = [row[:length] for row, length in zip(rows, lengths, strict=True)]
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [texts[i : i + k] for i in range(0, len(texts), k)]

    # -- the distribution -------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self, prompts: Prompts, k: int, generator: torch.Generator, share: Share | None = None
    ) -> Completions:
        """Draw k completions per prompt, of T tokens at most.

        The uniform numbers come from the generator beforehand, wherever it lives: with one of the
        processor a seed means the same numbers on every device. Those of prompts that are a share
        of a batch are theirs of the whole batch's: the same for any number of processes.
        """
        return sampler.sample(self, prompts, k, self._uniforms(prompts, k, generator, share))

    @torch.no_grad()
    def sample_beside(
        self,
        other: LanguageModel,
        prompts: Prompts,
        ks: tuple[int, int],
        generators: tuple[torch.Generator, torch.Generator],
        share: Share | None = None,
        at_once: int | None = None,
    ) -> list[Completions | None]:
        """What `sample` draws from this model and from a copy of it that was trained otherwise, in
        one pass where that can be; None of one from which no completion is wanted.

        `at_once`: so many prompts are drawn for together, None for all. Their caches are what
        sampling takes of a device's memory.
        """
        models, parts = (self, other), []
        here = all(ks) and self.shared and self.device.type == "cpu"
        together = here and mixable(self.model, other.model)
        pairs = zip(ks, generators, strict=True)
        uniforms = [self._uniforms(prompts, k, generator, share) for k, generator in pairs]
        for rows in evenly(len(prompts.ids), at_once):
            some = prompts.rows(rows)
            own = [x[:, rows.start * k : rows.stop * k] for x, k in zip(uniforms, ks, strict=True)]
            if together:
                parts.append(sampler.sample_beside(models, some, ks, own))
            else:
                each = zip(models, ks, own, strict=True)
                parts.append([sampler.sample(m, some, k, x) if k else None for m, k, x in each])
        found = zip(ks, zip(*parts, strict=True), strict=True)
        return [concatenate(each, dim=0) if k else None for k, each in found]

    def _uniforms(
        self, prompts: Prompts, k: int, generator: torch.Generator, share: Share | None
    ) -> Tensor:
        """A number for each token [T, B*k, 1]."""
        total, rows = (share.total, share.rows) if share else (len(prompts.ids), slice(None))
        shape = self.max_new_tokens, total, k
        uniforms = torch.rand(shape, generator=generator, device=generator.device)[:, rows]
        return uniforms.flatten(1)[..., None].to(self.device, non_blocking=True)

    def forward(self, prompts: Prompts, completions: Completions) -> Tensor:
        """Token log-probabilities [B, K, T] of given completions, nats, 0 where masked."""
        tokens = completions.tokens
        read = self._follow(prompts, tokens[..., :-1])
        log_probs = self._token_log_probs(read.flatten(0, 2), tokens.flatten())
        return log_probs.view(tokens.shape).masked_fill(~completions.mask, 0.0)

    def score_beside(
        self, other: LanguageModel, prompts: Prompts, completions: Completions
    ) -> tuple[Tensor, Tensor]:
        """Another model's log-probabilities of completions, and how far it is along them.

        Returns:
            other's token log-probabilities [B, K, T], nats, 0 where masked; the divergence
            KL(self || other) of the two distributions of each next token [B, K, T], nats, 0 where
            masked. Its sum along completions that `self` drew estimates the divergence of whole
            completions as the sampled log ratio does, without bias, with less variance and never
            below 0: Rao-Blackwell (arXiv:2504.10637).
        """
        before, tokens = completions.tokens[..., :-1], completions.tokens
        reads = [model._follow(prompts, before).flatten(0, 2) for model in (self, other)]
        size = max(1, LOGITS_AT_ONCE // self.model.get_output_embeddings().weight.shape[0] // 2)
        split, pieces = [x.split(size) for x in (*reads, tokens.flatten())], []
        for own, others, y in zip(*split, strict=True):
            log_p, log_q = self._logits(own).log_softmax(-1), other._logits(others).log_softmax(-1)
            apart = (log_p.exp() * (log_p - log_q).masked_fill(log_p == -torch.inf, 0)).sum(-1)
            pieces.append((log_q.gather(-1, y[:, None])[:, 0], apart))
        found = (torch.cat(values).view(tokens.shape) for values in zip(*pieces, strict=True))
        return tuple(values.masked_fill(~completions.mask, 0.0) for values in found)

    def last_state(self, prompts: Prompts, completions: Completions) -> Tensor:
        """Hidden state [B, K, D] after prompt and completion have been read, end token included."""
        states = self._follow(prompts, completions.tokens, states=True)
        place = completions.lengths[..., None, None].expand(-1, -1, 1, states.shape[-1])
        return states.gather(2, place)[:, :, 0]

    def _token_log_probs(self, read: Tensor, tokens: Tensor) -> Tensor:
        """Log-probabilities [R*T] of tokens; no more than LOGITS_AT_ONCE logits live at a time."""
        head = self.model.get_output_embeddings().weight
        size = max(1, LOGITS_AT_ONCE // head.shape[0])
        pieces = list(zip(read.split(size), tokens.split(size), strict=True))
        if not (torch.is_grad_enabled() and read.requires_grad):
            return torch.cat([self._score(h, y) for h, y in pieces])
        if head.requires_grad or self.plain:
            return torch.cat(
                [checkpoint(self._score, h, y, use_reentrant=False) for h, y in pieces]
            )
        return torch.cat([_AtOnce.apply(h, y, self._score, head) for h, y in pieces])

    def _score(self, read: Tensor, tokens: Tensor) -> Tensor:
        logits = self._logits(read)
        return logits.gather(-1, tokens[:, None])[:, 0] - logits.logsumexp(-1)


class _AtOnce(torch.autograd.Function):
    """Scores of rows, each of its own row alone, and their gradients while the logits are there.

    So a frozen head is passed through once, and no logits wait for the backward pass.
    """

    @staticmethod
    def forward(ctx, read: Tensor, tokens: Tensor, score: Callable, head: Tensor) -> Tensor:
        with torch.enable_grad(), in_half(read, head):
            leaf = read.detach().requires_grad_()
            scores = score(leaf, tokens)
            ctx.save_for_backward(*torch.autograd.grad(scores.sum(), leaf))
        return scores.detach()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (slope,) = ctx.saved_tensors
        return (gradient[:, None] * slope).to(slope.dtype), None, None, None
