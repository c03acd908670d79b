"""One face for encoder-decoder and causal language models: sample completions, score completions.

Both families are the same here: a *prefix* is computed once per prompt (the encoder's output and
the decoder's start token, or the causal prompt) and its key-value cache is repeated for the K
completions (`reading`). Shapes: B prompts, K completions a prompt, R = B*K rows, T tokens, D hidden
width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bondlab import agreement
from bondlab.adapters import Trainable
from bondlab.completions import Completions, Prompts
from bondlab.reading import Reader
from bondlab.templates import fitted, once_started

LOGITS_AT_ONCE = 2**24  # float32 logits alive at a time when scoring: 64 MiB


class LanguageModel(Trainable, Reader):
    """A transformers model with its tokenizer, a prompt template, a length limit and a temperature.

    The temperature belongs to the law: `sample` draws from it and `forward` scores under it, so
    both agree on pi(y|x). Dropout stays off for the same reason.

    Args:
        model: a transformers encoder-decoder or causal model.
        tokenizer: its tokenizer.
        template: format string with `{prompt}`, or a function from prompt to text, whose repr names
            it (for chat formats see `templates`). The attribute holds the string or the repr.
        max_prompt_tokens: most tokens of the filled template. A longer prompt is cut, at its end in
            a format string, at its start by a function: the last turns of a dialogue stay.
        max_new_tokens: T, the longest completion; a longer one is cut without its end token.
        temperature: divides the logits (1.0: the model's own law).

    Raises:
        ValueError: a limit below 1, a temperature not above 0, or a template without `{prompt}`.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer,
        template: str | Callable[[str], str] = "{prompt}",
        max_prompt_tokens: int = 512,
        max_new_tokens: int = 64,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        if max_prompt_tokens < 1 or max_new_tokens < 1:
            raise ValueError("max_prompt_tokens and max_new_tokens must be at least 1")
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, not {temperature}")
        if isinstance(template, str) and "{prompt}" not in template:
            raise ValueError(f"the template must contain {{prompt}}; got {template!r}")
        self.model, self.tokenizer = model.eval(), tokenizer
        self.template = template if isinstance(template, str) else repr(template)
        self._function = None if isinstance(template, str) else template
        self.max_prompt_tokens, self.max_new_tokens = max_prompt_tokens, max_new_tokens
        self.temperature = temperature
        self.is_encoder_decoder = bool(model.config.is_encoder_decoder)
        self.pad_token = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        agreement.settle(self)

    # -- text -------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def end_tokens(self) -> Tensor:
        """Ids [E] of the tokens that end a completion, as the configuration has them now."""
        settings = self.model.generation_config
        ends = settings.eos_token_id if settings else None
        ends = self.model.config.eos_token_id if ends is None else ends
        return torch.tensor(ends, device=self.device).reshape(-1)

    def encode(self, prompts: Sequence[str]) -> Prompts:
        """Tokens of B prompts: template filled, cut, padded (left for causal models, else right).

        Raises:
            ValueError: no prompts, an empty one (its position is named), one string alone, or as
                `filled`.
        """
        if isinstance(prompts, str):
            raise ValueError(f"prompts must be a list of strings, not one string: {prompts!r}")
        if not prompts:
            raise ValueError("no prompts were given")
        for position, prompt in enumerate(prompts):
            if not isinstance(prompt, str) or not prompt.strip():
                raise ValueError(f"prompt {position} is empty or not a string: {prompt!r}")
        texts = [self.filled(prompt) for prompt in prompts]
        batch = self.tokenizer(
            texts,
            truncation=True,
            max_length=self.max_prompt_tokens,
            padding=True,
            padding_side="right" if self.is_encoder_decoder else "left",
            return_tensors="pt",
        )
        return Prompts(batch["input_ids"].to(self.device), batch["attention_mask"].to(self.device))

    def filled(self, prompt: str) -> str:
        """What the model reads: the template with as much of the prompt as the limit leaves room.

        Raises as `templates.fitted`.
        """
        text = self.template
        if self._function is None and text.endswith("{prompt}"):
            return once_started(text.format(prompt=prompt), self.tokenizer)  # cut by the tokenizer
        return fitted(
            self._function or (lambda cut: text.format(prompt=cut)),
            self.tokenizer,
            prompt,
            self.max_prompt_tokens,
            keep_end=self._function is not None,
        )

    def encode_completions(self, texts: Sequence[str]) -> Completions:
        """Given completions as tokens [B, 1, T] with their end token; log_probs are zeros."""
        limit, end = self.max_new_tokens, int(self.end_tokens[0])
        ids = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        ids = [(row + [end])[:limit] for row in ids]
        width = max(map(len, ids))
        tokens = torch.tensor([row + [self.pad_token] * (width - len(row)) for row in ids])
        mask = torch.arange(width) < torch.tensor([len(row) for row in ids])[:, None]
        tokens, mask = tokens[:, None].to(self.device), mask[:, None].to(self.device)
        return Completions(tokens, mask, torch.zeros(tokens.shape, device=self.device))

    def decode(self, completions: Completions) -> list[list[str]]:
        """Texts, B lists of K, special tokens left out."""
        tokens = completions.tokens.masked_fill(~completions.mask, self.pad_token).cpu()
        k = tokens.shape[1]
        texts = self.tokenizer.batch_decode(tokens.flatten(0, 1), skip_special_tokens=True)
        return [texts[i : i + k] for i in range(0, len(texts), k)]

    # -- the law ----------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(self, prompts: Prompts, k: int, generator: torch.Generator) -> Completions:
        """Draw k completions a prompt; always T decoding steps, so nothing waits for the device.

        The uniform numbers come from the generator beforehand, wherever it lives: with one of the
        processor a seed means the same numbers on every device.
        """
        prefix = self._prefix(prompts).repeat(k, shared=not self.plain)
        last, rows, ends = prefix.last, len(prefix.last), self.end_tokens
        shape = (self.max_new_tokens, rows, 1)
        uniforms = torch.rand(shape, generator=generator, device=generator.device).to(self.device)
        running = torch.ones(rows, dtype=torch.bool, device=self.device)
        tokens, masks, log_probs = [], [], []
        for step in range(self.max_new_tokens):
            token, log_prob = draw(self._logits(last), uniforms[step])
            tokens.append(token.masked_fill(~running, self.pad_token))
            masks.append(running)
            log_probs.append(log_prob.masked_fill(~running, 0.0))
            running = running & ~torch.isin(token, ends)
            if step + 1 < self.max_new_tokens:
                last = self._extend(prefix, tokens[-1][:, None], step)[:, -1]
        shape = (len(prompts.ids), k, self.max_new_tokens)
        return Completions(*(torch.stack(x, 1).view(shape) for x in (tokens, masks, log_probs)))

    def forward(self, prompts: Prompts, completions: Completions) -> Tensor:
        """Token log-probabilities [B, K, T] of given completions, nats, 0 where masked."""
        tokens = completions.tokens
        read = self._follow(prompts, tokens[..., :-1])
        log_probs = self._token_log_probs(read.flatten(0, 2), tokens.flatten())
        return log_probs.view(tokens.shape).masked_fill(~completions.mask, 0.0)

    def last_state(self, prompts: Prompts, completions: Completions) -> Tensor:
        """Hidden state [B, K, D] after prompt and completion have been read, end token included."""
        states = self._follow(prompts, completions.tokens, states=True)
        place = completions.lengths[..., None, None].expand(-1, -1, 1, states.shape[-1])
        return states.gather(2, place)[:, :, 0]

    def _token_log_probs(self, read: Tensor, tokens: Tensor) -> Tensor:
        """Log-probabilities [R*T] of tokens; no more than LOGITS_AT_ONCE logits live at a time."""
        size = max(1, LOGITS_AT_ONCE // self.model.get_output_embeddings().weight.shape[0])
        pieces = list(zip(read.split(size), tokens.split(size), strict=True))
        if len(pieces) == 1 or not torch.is_grad_enabled():
            return torch.cat([self._score(h, y) for h, y in pieces])
        return torch.cat([checkpoint(self._score, h, y, use_reentrant=False) for h, y in pieces])

    def _score(self, read: Tensor, tokens: Tensor) -> Tensor:
        logits = self._logits(read)
        return logits.gather(-1, tokens[:, None])[:, 0] - logits.logsumexp(-1)


def draw(logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """One token a row from softmax(logits [R, V]): tokens [R] and their log-probabilities [R].

    By inversion of the cumulative distribution with one uniform number a row, [R, 1] in [0, 1): V
    times fewer random numbers than the exponential race of `torch.multinomial`, which costs more
    than the model's step on a CPU.
    """
    log_norm = logits.logsumexp(-1, keepdim=True)
    cumulative = (logits - log_norm).exp().cumsum(-1)
    token = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
    token = token.clamp(max=logits.shape[-1] - 1)
    return token[:, 0], (logits.gather(-1, token) - log_norm)[:, 0]
