"""What a model reads of a prompt: chat formats, and prompts cut to fit into a template.

A dialogue is one string with a turn a line; the speakers alternate and the last line is answered.
It begins with the user, as many formats demand: of an even number of turns the oldest is left out.
"""

from __future__ import annotations

import hashlib
import warnings
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, repr=False)
class ChatTemplate:
    """The format that a tokenizer brings along, its default system message included.

    Its repr names the format by a digest and so stands for it where a law is named.
    """

    tokenizer: Any

    def __call__(self, dialogue: str) -> str:
        messages = [
            {"role": ("user", "assistant")[i % 2], "content": turn}
            for i, turn in enumerate(turns(dialogue))
        ]
        return self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )

    def __repr__(self) -> str:
        digest = hashlib.sha256(str(self.tokenizer.chat_template).encode()).hexdigest()
        return f"ChatTemplate({digest[:12]})"


@dataclass(frozen=True)
class PlainDialogue:
    """Lines of A and B, for models that were taught no format; B answers."""

    def __call__(self, dialogue: str) -> str:
        lines = [f"{'AB'[i % 2]}: {turn}" for i, turn in enumerate(turns(dialogue))]
        return "\n".join([*lines, "B:"])


def chat_template(tokenizer: Any) -> Callable[[str], str]:
    """The tokenizer's own format; without one lines of A and B, with a warning that says so."""
    if tokenizer.chat_template:
        return ChatTemplate(tokenizer)
    warnings.warn(
        f"{tokenizer.name_or_path or 'the tokenizer'} has no chat template: its dialogues are "
        "plain lines of A and B",
        stacklevel=2,
    )
    return PlainDialogue()


def turns(dialogue: str) -> list[str]:
    """The turns, oldest first, beginning with the user.

    Raises:
        ValueError: there is none.
    """
    found = [line.strip() for line in dialogue.splitlines() if line.strip()]
    if not found:
        raise ValueError(f"a dialogue without a turn: {dialogue!r}")
    return found[1 - len(found) % 2 :]


def fitted(
    fill: Callable[[str], str], tokenizer: Any, prompt: str, limit: int, keep_end: bool
) -> str:
    """The filled template with as many of the prompt's tokens as fit; all around them stays whole.

    Args:
        fill: from prompt to text.
        limit: most tokens of the whole, special ones included.
        keep_end: a longer prompt loses its first tokens; otherwise its last.

    Raises:
        ValueError: not even one token of the prompt fits.
    """
    # By characters: what a tokenizer decodes may lack the line breaks between turns.
    spans = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)
    spans = spans["offset_mapping"]

    def text(cut: int) -> str:
        kept = spans[cut:] if keep_end else spans[: len(spans) - cut]
        part = prompt[kept[0][0] : kept[-1][1]] if cut else prompt
        return once_started(fill(part), tokenizer)

    def fits(cut: int) -> bool:
        return len(tokenizer(text(cut))["input_ids"]) <= limit

    if fits(0):
        return text(0)
    # A turn that goes takes its markers along, so the excess is not the number to cut.
    fewest = bisect_left(range(len(spans)), True, lo=1, key=fits)
    if fewest >= len(spans):
        raise ValueError(f"the template alone takes more than max_prompt_tokens = {limit}")
    return text(fewest)


def once_started(text: str, tokenizer: Any) -> str:
    """The text without a start token of its own where the tokenizer adds one: never two."""
    start = tokenizer.bos_token
    adds_it = start and tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
    return text.removeprefix(start) if adds_it else text
