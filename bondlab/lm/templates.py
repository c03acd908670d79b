"""What a model reads of a prompt: templates, chat formats, and prompts cut to fit into them.

A template is a string with `{prompt}` or a function from prompt to text. Special tokens, cutting
and their sides are decided here, whatever the tokenizer's own settings say.

A dialogue is one string with a turn a line; the speakers alternate and the last line is answered.
It begins with the user, as many formats demand: of an even number of turns the oldest is left out.
"""

from __future__ import annotations

import re
import warnings
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

FIELD = "{prompt}"
PLAIN_TURN = "A: {prompt}\nB:"
# Doubled braces, as of Jinja and str.format, and fields by other names; not after a letter or a
# brace, where LaTeX has its arguments: \boxed{}, \frac{a}{b}.
_UNFILLED = re.compile(r"\{\{[^{}]*\}{0,2}|(?<![\w\\}])\{(?!prompt\})\w*\}")

Template = str | Callable[[str], str]


@dataclass(frozen=True)
class ChatTemplate:
    """The format that a tokenizer brings along, its default system message included.

    The prompt is the user's one turn, or, if `dialogue`, the turns of both.
    """

    tokenizer: Any
    dialogue: bool = False

    def __call__(self, prompt: str) -> str:
        messages = [
            {"role": ("user", "assistant")[i % 2], "content": turn}
            for i, turn in enumerate(turns(prompt) if self.dialogue else [prompt])
        ]
        return self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )


def plain_dialogue(dialogue: str) -> str:
    """Lines of A and B, for models that were taught no format; B answers."""
    lines = [f"{'AB'[i % 2]}: {turn}" for i, turn in enumerate(turns(dialogue))]
    return "\n".join([*lines, "B:"])


def chat_template(tokenizer: Any, dialogue: bool = False) -> Template:
    """The tokenizer's own format; without one plain lines of A and B, with a warning.

    Args:
        tokenizer: a tokenizer of transformers.
        dialogue: a prompt is a dialogue with a turn a line; otherwise all of it is the user's turn.
    """
    if tokenizer.chat_template:
        return ChatTemplate(tokenizer, dialogue)
    warnings.warn(
        f"{tokenizer.name_or_path or 'the tokenizer'} has no chat template: its dialogues are "
        "plain lines of A and B",
        stacklevel=2,
    )
    return plain_dialogue if dialogue else PLAIN_TURN


def turns(dialogue: str) -> list[str]:
    """The turns, oldest first, beginning with the user.

    Raises:
        ValueError: there is none.
    """
    found = [line.strip() for line in dialogue.splitlines() if line.strip()]
    if not found:
        raise ValueError(f"a dialogue without a turn: {dialogue!r}")
    return found[1 - len(found) % 2 :]


def check(template: Template) -> None:
    """Refuse a template through which a prompt does not reach the model.

    Raises:
        TypeError: neither a string nor a function.
        ValueError: a string without exactly one `{prompt}`, or with other fields; a function that
            gives no text, or the same for two prompts.
    """
    if isinstance(template, str):
        if found := _UNFILLED.search(template):
            raise ValueError(
                f"{found[0]} in the template {template!r} would not be filled: write {FIELD} where "
                "the prompt goes, and other braces once, since they stay as they are; for any "
                "other format pass a function from prompt to text"
            )
        if template.count(FIELD) != 1:
            raise ValueError(f"the template must contain {FIELD} once; got {template!r}")
        return
    if not callable(template):
        raise TypeError(f"template must be a string with {FIELD} or a function; got {template!r}")
    try:
        texts = [template(prompt) for prompt in ("rain", "fire")]
    except (ValueError, LookupError):
        return  # it takes prompts of a form of its own: JSON, keys of a table
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"the template {template!r} must return text; it gave {texts[0]!r}")
    if texts[0] == texts[1]:
        raise ValueError(f"the template {template!r} drops the prompt: it gave {texts[0]!r}")


class Reader:
    """The part of `LanguageModel` that fills the template, cuts prompts and finds their tokens."""

    template: Template
    tokenizer: Any
    max_prompt_tokens: int  # of the whole, special ones included
    is_encoder_decoder: bool

    def filled(self, prompt: str) -> str:
        """The text with as much of the prompt as fits, where text follows it; else the whole.

        A string loses the prompt's end, a function its start: the last turns of a dialogue stay.

        Raises:
            ValueError: not even one token of the prompt fits.
        """
        fixed = isinstance(self.template, str)
        whole = self._fill(prompt)
        if fixed and self.template.endswith(FIELD) or self._fits(whole):
            return whole
        spans = self._spans(prompt)

        def text(cut: int) -> str:
            kept = spans[: len(spans) - cut] if fixed else spans[cut:]
            return self._fill(prompt[kept[0][0] : kept[-1][1]])

        # A turn that goes takes its markers along, so the excess is not the number to cut.
        counts = range(len(spans))
        fewest = bisect_left(counts, True, lo=1, key=lambda cut: self._fits(text(cut)))
        if fewest >= len(spans):
            raise self._too_long()
        return text(fewest)

    def _tokens(self, prompt: str) -> list[int]:
        """Token ids of what the model reads, `max_prompt_tokens` of them at most."""
        (before, after), own = self._around(), self._ids(self.filled(prompt))
        room = self.max_prompt_tokens - len(before) - len(after)
        if len(own) > room:  # the prompt stands at the end of a string, which is cut
            if room <= len(self._ids(self.template.removesuffix(FIELD).rstrip())):
                raise self._too_long()
            own = own[:room]
        if not own:
            raise ValueError(f"the tokenizer finds no token in the prompt {prompt!r}")
        return before + own + after

    def _fill(self, prompt: str) -> str:
        """The whole text, uncut; without a start token where the tokenizer adds it: never two."""
        template, start = self.template, self.tokenizer.bos_token
        text = template.replace(FIELD, prompt) if isinstance(template, str) else template(prompt)
        added = start and self._around()[0][:1] == [self.tokenizer.bos_token_id]
        return text.removeprefix(start) if added else text

    def _fits(self, text: str) -> bool:
        return len(self._ids(text)) + sum(map(len, self._around())) <= self.max_prompt_tokens

    def _too_long(self) -> ValueError:
        limit = self.max_prompt_tokens
        return ValueError(f"the template alone takes more than max_prompt_tokens = {limit}")

    def _spans(self, prompt: str) -> Sequence[tuple[int, int]]:
        """Where a prompt may be cut: its tokens, or its characters if the tokenizer has no offsets.

        Not by decoding tokens: the text may then lack the line breaks between turns.
        """
        if not self.tokenizer.is_fast:
            return [(i, i + 1) for i in range(len(prompt))]
        return self._encoded(prompt, return_offsets_mapping=True)["offset_mapping"]

    def _ids(self, text: str, special: bool = False) -> list[int]:
        return self._encoded(text, special)["input_ids"]

    def _encoded(self, text: str, special: bool = False, **options: bool) -> dict:
        options |= {"add_special_tokens": special, "truncation": False, "padding": False}
        return self.tokenizer(text, verbose=False, **options)

    def _around(self) -> tuple[list[int], list[int]]:
        """What the tokenizer puts before every text, and behind it where that belongs to a prompt.

        An encoder wants its end token; a causal model is not asked to go on behind one.
        """
        own, whole = self._ids("a"), self._ids("a", special=True)
        places = range(len(whole) - len(own) + 1)
        start = next((i for i in places if whole[i : i + len(own)] == own), 0)
        return whole[:start], whole[start + len(own) :] if self.is_encoder_decoder else []
