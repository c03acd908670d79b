"""What of a language model costs memory and operations, from its configuration alone.

The model is made on torch's meta device, where tensors have shapes and no numbers, and reads a
prompt and a completion there: which layer sees which tokens, and what the cache then holds, is seen
and not assumed.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    GemmaConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.pytorch_utils import Conv1D

from bondlab.lm.adapters import quiet

# The paper's models (section 6), so that planning for them takes no network. The 7B is the default.
_GEMMA_2B = {
    "hidden_size": 2048, "intermediate_size": 16384, "num_hidden_layers": 18,
    "num_attention_heads": 8, "num_key_value_heads": 1,
}  # fmt: skip
PRESETS = {"gemma-2b": _GEMMA_2B, "gemma-7b": {}}
PROMPT, COMPLETION = 7, 3  # tokens that are read on the meta device
LINEAR = nn.Linear, Conv1D


@dataclass(frozen=True)
class Stack:
    """The layers that a token passes through, without the head; numbers are sums over them.

    Args:
        layers: how many linear ones.
        weights: their weights, each multiplied once per token.
        widths: their inputs and outputs.
        norms: what normalisations give a token.
    """

    layers: int = 0
    weights: int = 0
    widths: int = 0
    norms: int = 0


@dataclass(frozen=True)
class Attention:
    """One layer's: heads, widths of all its queries and of its keys, places that it sees."""

    heads: int
    queries: int
    keys: int
    window: float


@dataclass(frozen=True)
class Shape:
    """A language model as its costs see it.

    Args:
        name: for tables.
        parameters: all weights, tied ones once.
        head: rows and columns (V, D) of the head.
        prompt, completion: what a prompt's and a completion's tokens pass through: in a causal
            model the same; else the encoder, with the decoder's keys and values of its states, and
            the rest of the decoder.
        attention: one a layer; an encoder-decoder's is to the completion and to the prompt.
    """

    name: str
    parameters: int
    head: tuple[int, int]
    prompt: Stack
    completion: Stack
    attention: tuple[Attention, ...]
    is_encoder_decoder: bool

    @property
    def widths(self) -> int:
        """Of all linear layers but the head; an adapter of rank r has r times as many weights."""
        return self.prompt.widths + self.is_encoder_decoder * self.completion.widths

    def cache(self, prompt: int, completion: int, windows: bool) -> tuple[int, int]:
        """Keys and values, in numbers, of a prompt and of the tokens of one completion of it.

        Sliding windows, if they are kept to, drop the oldest: one place less than is seen stays.
        """
        total = own = 0
        for layer in self.attention:
            most = layer.window - 1 if windows else float("inf")
            places = min(prompt + completion, most)
            total += 2 * layer.keys * places
            own += 2 * layer.keys * min(completion, places)
        return total - own, own


def shape(model: str | Path | dict | PreTrainedConfig) -> Shape:
    """The shape of a model by name, folder or configuration; see `configuration`.

    Raises:
        ValueError: no configuration, or a model that is no decoder of linear layers with a cache of
            keys and values (Mamba, experts).
    """
    config = copy.deepcopy(configuration(model))  # transformers notes the attention in it
    name = Path(model).name if isinstance(model, str | Path) else config.model_type
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    try:
        with torch.device("meta"), quiet():
            return _seen(kind.from_config(config, attn_implementation="eager").eval(), name)
    except (AttributeError, RuntimeError, ValueError, TypeError) as error:  # as architectures do
        why = str(error).splitlines()[0]
        raise ValueError(f"{name} ({config.model_type}) cannot be planned: {why}") from error


def configuration(model: str | Path | dict | PreTrainedConfig) -> PreTrainedConfig:
    """Of a preset, a hub name, a folder, a JSON file or its content.

    Raises:
        ValueError: there is none.
    """
    if isinstance(model, PreTrainedConfig):
        return model
    try:
        if isinstance(model, dict):
            return AutoConfig.for_model(**model)
        if model in PRESETS:
            return GemmaConfig(**PRESETS[model])
        path = Path(model).expanduser()
        if path.is_file():
            return AutoConfig.for_model(**json.loads(path.read_text()))
        return AutoConfig.from_pretrained(path if path.exists() else model)
    except (OSError, ValueError, TypeError) as error:  # the hub's errors are OSErrors
        why = str(error).splitlines()[0]
        raise ValueError(
            f"no configuration of a model in {str(model)[:80]!r}: give {', '.join(PRESETS)}, a hub "
            f"name, a folder or a JSON file ({why})"
        ) from error


@torch.no_grad()
def _seen(model: PreTrainedModel, name: str) -> Shape:
    config, head = model.config.get_text_config(), model.get_output_embeddings()
    both, seen = config.is_encoder_decoder, {PROMPT: [], COMPLETION: []}

    def note(layer: nn.Module, given: tuple, out: torch.Tensor) -> None:
        tokens = PROMPT if PROMPT in given[0].shape[:3] else COMPLETION
        seen[tokens].append((layer, out.numel() // tokens))

    for layer in model.modules():
        if layer is not head and (isinstance(layer, LINEAR) or "Norm" in type(layer).__name__):
            layer.register_forward_hook(note)
    ids = torch.ones(1, PROMPT, dtype=torch.long)
    out = model(ids, **({"decoder_input_ids": ids[:, :COMPLETION]} if both else {}), use_cache=True)
    cache = getattr(out.past_key_values, "self_attention_cache", out.past_key_values)
    stacks = [_stack(seen[tokens]) for tokens in (PROMPT, COMPLETION)]
    parameters = sum(weight.numel() for weight in model.parameters())
    found = sum(w.numel() for w in model.parameters() if w.dim() == 2)  # with embeddings
    if parameters - found > 0.05 * parameters:
        raise ValueError("more than a twentieth of its weights are in no linear layer")
    return Shape(
        name=name,
        parameters=parameters,
        head=tuple(head.weight.shape),
        prompt=stacks[0],
        completion=stacks[1] if both else stacks[0],
        attention=tuple(_attention(config.num_attention_heads, layer) for layer in cache.layers),
        is_encoder_decoder=both,
    )


def _stack(seen: list[tuple[nn.Module, int]]) -> Stack:
    """Of layers and the number of numbers that each gives a token."""
    linear = [layer.weight for layer, _ in seen if isinstance(layer, LINEAR)]
    return Stack(
        layers=len(linear),
        weights=sum(weight.numel() for weight in linear),
        widths=sum(sum(weight.shape) for weight in linear),
        norms=sum(width for layer, width in seen if not isinstance(layer, LINEAR)),
    )


def _attention(heads: int, layer: object) -> Attention:
    """Of a layer of the cache, which holds [1, key heads, tokens, width]."""
    keys = layer.keys.shape
    window = getattr(layer, "sliding_window", None) or float("inf")
    return Attention(heads, heads * keys[-1], keys[1] * keys[-1], window)
