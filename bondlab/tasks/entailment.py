"""A reward that asks a T5 a question about a text and a claim, and what scorers share.

Rows of like length are computed together; a text without a word has nothing to judge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bondlab.task import own_precision

QUESTION = "Premise: {premise} Hypothesis: {claim} Entailed? yes or no:"
NO_CLAIM = -30.0  # the logit of a completion without a word: below every real score


def has_word(text: str) -> bool:
    """Whether there is anything to judge in a text: a letter or a digit."""
    return any(character.isalnum() for character in text)


def in_batches(
    rows: Sequence[Sequence[int]], scores: Callable[[list], Tensor], at_once: int
) -> Tensor:
    """`scores` of all rows of token ids, [n] float32 on the processor, in the rows' own order.

    Rows of like length are computed together, at most `at_once` of them, so little is padding.
    """
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    values = torch.empty(len(rows))
    for start in range(0, len(rows), at_once):
        chosen = order[start : start + at_once]
        values[chosen] = scores([rows[i] for i in chosen]).float().cpu()
    return values


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows of token ids as ids and mask [n, longest], padded with zeros on the right."""
    width = max(map(len, rows))
    lengths = torch.tensor([len(row) for row in rows], device=device)
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)
    return ids, (torch.arange(width, device=device) < lengths[:, None]).long()


@dataclass
class EntailmentReward:
    """log-odds of "yes" against "no", from a T5 that reads a premise, a claim and a question.

    With the question as it stands: whether a document entails its summary. The paper's reward is a
    T5 entailment model (section 6; Roit et al. 2023). Only the first decoder position and two rows
    of the output head are computed.

    Args:
        model: T5 encoder-decoder; tokenizer: its tokenizer.
        max_premise_tokens: documents, with the question's opening before them, are cut to this
            many tokens; the claim is never cut.
        pairs_at_once: pairs scored together, sorted by length to save padding.
        question: what the model reads, with {premise} and then {claim}.
        answers: what it says for entailed and for not entailed; their first tokens count.
        wordless: the score of a completion without a letter or digit.
        keep_end: of a longer premise the end stays, not the start: a dialogue's last turn.
    """

    model: nn.Module
    tokenizer: object
    max_premise_tokens: int = 160
    pairs_at_once: int = 64
    question: str = QUESTION
    answers: tuple[str, str] = ("yes", "no")
    wordless: float = NO_CLAIM
    keep_end: bool = False

    def __call__(self, prompts: Sequence[str], completions: Sequence[Sequence[str]]) -> Tensor:
        k = len(completions[0])
        documents = [prompt for prompt in prompts for _ in range(k)]
        claims = [text for texts in completions for text in texts]
        return self.log_odds(documents, claims).view(len(prompts), k)

    @torch.no_grad()
    def log_odds(self, premises: Sequence[str], claims: Sequence[str]) -> Tensor:
        """Log-odds [n] of entailment of n pairs, float32 on the processor."""
        values = in_batches(self.encode(premises, claims), self.scores, self.pairs_at_once)
        empty = torch.tensor([not has_word(claim) for claim in claims])
        return values.masked_fill(empty, self.wordless)

    def encode(self, premises: Sequence[str], claims: Sequence[str]) -> list[list[int]]:
        """Token ids of each pair; the premise is cut, then the claim and the question follow."""

        def ids(texts: list[str]) -> list[list[int]]:
            return self.tokenizer(texts, add_special_tokens=False)["input_ids"]

        opening, rest = self.question.split("{premise}")
        middle, closing = rest.split("{claim}")
        most = self.max_premise_tokens
        kept = slice(-most, None) if self.keep_end else slice(most)
        before = ids([opening + text for text in premises])
        claim = ids([middle + text for text in claims])
        after = ids([closing])[0] + [self.tokenizer.eos_token_id]
        return [a[kept] + b + after for a, b in zip(before, claim, strict=True)]

    def scores(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Log-odds [n] of encoded pairs, differentiable; float32 at the end (logits are large)."""
        model = self.model
        ids, mask = padded(rows, model.device)
        start = ids.new_full((len(rows), 1), model.config.decoder_start_token_id)
        with own_precision(model):
            states = model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
            hidden = model.get_decoder()(
                input_ids=start, encoder_hidden_states=states, encoder_attention_mask=mask
            ).last_hidden_state[:, 0]
        if getattr(model.config, "scale_decoder_outputs", False):  # T5 with tied embeddings
            hidden = hidden * model.config.d_model**-0.5
        yes, no = model.get_output_embeddings().weight[self._answers].float()
        with torch.autocast(hidden.device.type, enabled=False):
            return hidden.float() @ (yes - no)

    @property
    def _answers(self) -> list[int]:
        encode = self.tokenizer.encode
        return [encode(word, add_special_tokens=False)[0] for word in self.answers]
