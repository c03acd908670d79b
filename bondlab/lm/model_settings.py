"""What a transformers model brings along beside its weights: whether it is a language model at all,
its end tokens, its longest text, and generation settings; and those that a policy is saved with."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

USUAL_PROMPT = 512  # tokens of a prompt where the model sets no limit below it

# Generation settings that shape the distribution, and what leaves it alone beside None.
_NEUTRAL: dict[str, object] = {
    "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "top_h": None, "typical_p": 1.0,
    "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0,
    "min_length": 0, "min_new_tokens": 0, "guidance_scale": 1.0, "bad_words_ids": [],
    "sequence_bias": {}, "suppress_tokens": [], "begin_suppress_tokens": [], "stop_strings": [],
    "forced_bos_token_id": None, "forced_eos_token_id": None, "watermarking_config": None,
    "exponential_decay_length_penalty": None,
}  # fmt: skip


def check(model: nn.Module, tokenizer: Any) -> None:
    """Refuse what is no language model with its tokenizer.

    Raises:
        TypeError: it names what was given, and what to pass.
        ValueError: a model of peft's.
    """
    load = "AutoModelForCausalLM or AutoModelForSeq2SeqLM.from_pretrained(...)"
    if hasattr(model, "merge_and_unload"):
        raise ValueError(f"{_name(model)} carries an adapter: pass model.merge_and_unload()")
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
    settings = (model.generation_config, model.config, model.config.get_text_config(), tokenizer)
    given = [getattr(part, "eos_token_id", None) for part in settings]
    ends = next((ends for ends in given if ends is not None and ends != []), None)
    if ends is None:
        raise ValueError(
            "neither model nor tokenizer has an end token: set model.generation_config.eos_token_id"
        )
    return [ends] if isinstance(ends, int) else list(ends)


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
    used = []
    for name, neutral in _NEUTRAL.items():
        value = getattr(model.generation_config, name, None)
        plain = (None, neutral, temperature) if name == "temperature" else (None, neutral)
        if value not in plain:
            used.append(f"{name}={value}")
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
    if max_new_tokens < 1 or (max_prompt_tokens is not None and max_prompt_tokens < 1):
        raise ValueError("max_prompt_tokens and max_new_tokens must be at least 1")
    positions = _positions(config)
    if positions is None:
        return max_prompt_tokens or USUAL_PROMPT
    # A decoder of its own has its own positions, the first of them for the start token.
    apart = config.is_encoder_decoder
    if max_new_tokens >= positions:
        raise ValueError(
            f"max_new_tokens = {max_new_tokens} leaves no room in the model's {positions} "
            "positions (max_position_embeddings)"
        )
    room = positions if apart else positions - max_new_tokens
    if max_prompt_tokens is None:
        return min(USUAL_PROMPT, room)
    if max_prompt_tokens > room:
        more = "" if apart else f" + max_new_tokens = {max_prompt_tokens + max_new_tokens}"
        raise ValueError(
            f"max_prompt_tokens{more or f' = {max_prompt_tokens}'} is more than the model's "
            f"{positions} positions (max_position_embeddings)"
        )
    return max_prompt_tokens


def _positions(config: Any) -> int | None:
    """Positions of the longest text; None of models without such a limit, as T5."""
    config = config.get_text_config()
    for name in ("max_position_embeddings", "max_seq_len"):  # the latter is MPT's
        found = getattr(config, name, None)
        if isinstance(found, int) and found > 0:
            return found
    return None


def sampling(model: Any) -> GenerationConfig:
    """With these settings transformers' `generate` draws from a `LanguageModel`'s distribution."""
    before = model.model.generation_config or GenerationConfig()
    kept = {
        name: getattr(before, name, None) for name in ("bos_token_id", "decoder_start_token_id")
    }
    if model.is_encoder_decoder:
        kept["decoder_start_token_id"] = model.model.config.decoder_start_token_id
    ends = model.end_tokens.tolist()
    pads = (before.pad_token_id, model.tokenizer.pad_token_id, ends[0])
    return GenerationConfig(
        do_sample=True,
        temperature=model.temperature,
        top_k=0,  # None would be 50
        top_p=1.0,
        max_new_tokens=model.max_new_tokens,
        eos_token_id=ends if len(ends) > 1 else ends[0],
        pad_token_id=next(pad for pad in pads if pad is not None),
        **kept,
    )
