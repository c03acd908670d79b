"""What a transformers model brings along beside its weights: whether it is a language model at all,
its end tokens, its longest text, and generation settings; and those that a policy is saved with."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import GenerationConfig, PreTrainedTokenizerBase

if TYPE_CHECKING:
    from transformers import PreTrainedModel

USUAL_PROMPT = 512  # tokens of a prompt where the model sets no limit below it

# Generation settings that shape the distribution: unless they are 1; unless they are 0 or empty.
_FACTORS = (
    "temperature", "top_p", "typical_p", "repetition_penalty", "encoder_repetition_penalty",
    "guidance_scale",
)  # fmt: skip
_FILTERS = (
    "top_k", "min_p", "top_h", "epsilon_cutoff", "eta_cutoff", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "min_length", "min_new_tokens", "bad_words_ids",
    "sequence_bias", "suppress_tokens", "begin_suppress_tokens", "stop_strings",
    "forced_bos_token_id", "forced_eos_token_id", "watermarking_config",
    "exponential_decay_length_penalty",
)  # fmt: skip


def check(model: nn.Module, tokenizer: Any) -> None:
    """Refuse what is no language model with its tokenizer.

    Raises:
        TypeError: it names what was given, and what to pass.
    """
    from transformers import PreTrainedModel  # loads as slowly as torch

    load = "AutoModelForCausalLM or AutoModelForSeq2SeqLM.from_pretrained(...)"
    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"model must be a transformers model, {load}; not {_name(model)}")
    if not model.can_generate() or model.get_output_embeddings() is None:
        raise TypeError(f"{_name(model)} has no language-model head: pass {load}")
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise TypeError(
            f"tokenizer must be the model's, AutoTokenizer.from_pretrained(...); "
            f"not {_name(tokenizer)}"
        )


def _name(given: object) -> str:
    return repr(given) if given is None or isinstance(given, str) else type(given).__name__


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end a completion: the model's, or else the tokenizer's.

    Raises:
        ValueError: neither has one.
    """
    for part in (model.generation_config, model.config, model.config.get_text_config(), tokenizer):
        ends = getattr(part, "eos_token_id", None)
        if ends is not None and ends != []:
            return [ends] if isinstance(ends, int) else list(ends)
    raise ValueError(
        "neither model nor tokenizer has an end token: set model.generation_config.eos_token_id"
    )


def warn_of_unused(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, temperature: float
) -> None:
    """Say which settings of model and tokenizer a plain draw from the model does not follow."""
    ends, own = end_tokens(model, tokenizer), tokenizer.eos_token_id
    if own is not None and own not in ends:
        warnings.warn(
            f"the tokenizer's end token {tokenizer.eos_token!r} ({own}) is not among the model's "
            f"({ends}), which end completions here as in transformers' generate: texts go on "
            "behind it unless it is added to model.generation_config.eos_token_id",
            stacklevel=3,
        )
    given = vars(model.generation_config)
    shaping = {name: given.get(name) for name in _FACTORS if given.get(name) != 1}
    shaping |= {name: given.get(name) for name in _FILTERS}
    if shaping.get("temperature") == temperature:
        del shaping["temperature"]
    used = [f"{name}={value}" for name, value in shaping.items() if value]
    if used:
        warnings.warn(
            f"not used here: {', '.join(used)} of the model's generation_config. The distribution "
            f"is the model's own at temperature {temperature}, which LanguageModel(temperature=...)"
            " sets",
            stacklevel=3,
        )


def prompt_limit(config: Any, max_prompt_tokens: int | None, max_new_tokens: int) -> int:
    """Most tokens of a prompt: as asked for, or what leaves room for a completion, 512 at most.

    Raises:
        ValueError: a limit is below 1, or more than the model has positions for.
    """
    asked = USUAL_PROMPT if max_prompt_tokens is None else max_prompt_tokens
    if min(asked, max_new_tokens) < 1:
        raise ValueError("max_prompt_tokens and max_new_tokens must be at least 1")
    text = config.get_text_config()
    known = [getattr(text, name, None) for name in ("max_position_embeddings", "max_seq_len")]
    positions = next((n for n in known if isinstance(n, int) and n > 0), None)  # none in T5
    if positions is None:
        return asked
    # A decoder of its own has its own positions, the first of them for the start token.
    room = positions if config.is_encoder_decoder else positions - max_new_tokens
    if max_new_tokens >= positions or (max_prompt_tokens or 1) > room:
        raise ValueError(
            f"max_prompt_tokens = {max_prompt_tokens} and max_new_tokens = {max_new_tokens} do not "
            f"fit into the model's {positions} positions (max_position_embeddings)"
        )
    return min(asked, room)


def sampling(model: Any) -> GenerationConfig:
    """With these settings transformers' `generate` draws from a `LanguageModel`'s distribution."""
    before = model.model.generation_config or GenerationConfig()
    start = model.model.config.decoder_start_token_id if model.is_encoder_decoder else None
    ends = model.end_tokens.tolist()
    return GenerationConfig(
        do_sample=True,
        temperature=model.temperature,
        top_k=0,  # None would be 50
        top_p=1.0,
        max_new_tokens=model.max_new_tokens,
        eos_token_id=ends if len(ends) > 1 else ends[0],
        pad_token_id=model.pad_token,
        bos_token_id=before.bos_token_id,
        decoder_start_token_id=start,
    )
