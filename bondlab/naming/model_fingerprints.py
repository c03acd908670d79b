"""What names models, tokenizers and tables: importing this teaches `fingerprint` to name them.

Models count by class, weights, buffers and configuration, tokenizers by how they read a text. What
preparing a model for use sets is not among it: devices, gradients, hooks, the training flag, how
attention is computed, and the padding and truncation that a tokenizer's last call left behind.
"""

from __future__ import annotations

import json

import pandas as pd
import torch
from torch import nn
from transformers import (
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from bondlab.lm.language_model import LanguageModel
from bondlab.naming.fingerprint import Parts, named, parts

STATE = frozenset(vars(nn.Module()))  # parameters, hooks, training flag: not attributes
_VOLATILE = frozenset((  # of a configuration: where it came from and how it is computed
    "_name_or_path", "name_or_path", "transformers_version", "architectures", "use_cache",
    "dtype", "torch_dtype", "_attn_implementation", "attn_implementation",
    "_experts_implementation", "experts_implementation",
))  # fmt: skip
_TOKENIZER = (
    "special_tokens_map", "padding_side", "truncation_side", "model_max_length", "chat_template",
    "clean_up_tokenization_spaces", "split_special_tokens",
)  # fmt: skip
_TOKENIZER_STATE = frozenset((  # of a tokenizer in Python: its origin, and what calls leave behind
    "init_kwargs", "init_inputs", "name_or_path", "deprecation_warnings", "verbose", "files_loaded",
    "backend", "cache", "_in_target_context_manager", "_processor_class",
))  # fmt: skip


@parts.register(pd.DataFrame)
@parts.register(pd.Series)
@parts.register(pd.Index)
def _(value: pd.DataFrame | pd.Series | pd.Index, path: str) -> Parts:
    frame = value if isinstance(value, pd.DataFrame) else value.to_frame()
    yield [str(kind) for kind in frame.dtypes], path
    yield frame.to_dict("split"), path


@parts.register
def _(value: LanguageModel, path: str) -> Parts:
    """The distribution that it samples from; a copy of the head in float32 is working memory."""
    known = {
        "model": value.model,
        "tokenizer": value.tokenizer,
        "template": value.reader.template,
        "max_prompt_tokens": value.max_prompt_tokens,
        "max_new_tokens": value.max_new_tokens,
        "temperature": float(value.temperature),
        "end_tokens": value.end_tokens,
        "pad_token": value.pad_token,
    }
    yield from named(known, path)
    if type(value) is not LanguageModel:  # a user's own kind
        yield type(value), path
        own = {k: v for k, v in vars(value).items() if k not in STATE and not k.startswith("_")}
        yield from named({k: v for k, v in own.items() if k not in known}, path)


@parts.register
def _(value: nn.Module, path: str) -> Parts:
    yield type(value), path
    yield from named({k: v for k, v in vars(value).items() if k not in STATE}, path)
    for held in (value._parameters, value._buffers, value._modules):
        yield from named(held, path)


@parts.register
def _(value: PreTrainedModel, path: str) -> Parts:
    """The configuration stands for the attributes of transformers' and torch's own layers."""
    yield type(value), path
    settings = ("config", "generation_config")
    yield from named({name: getattr(value, name, None) for name in settings}, path)
    for name, module in value.named_modules():
        yield name
        yield type(module), f"{path}.{name}"
        if not type(module).__module__.startswith(("torch.", "transformers.")):  # adapters
            kept = {k: v for k, v in vars(module).items() if k not in STATE}
            yield from named(kept, f"{path}.{name}")
    yield from named(dict(value.named_parameters()), path)
    yield from named(dict(value.named_buffers()), path)


@parts.register(PreTrainedConfig)
@parts.register(GenerationConfig)
def _(value: PreTrainedConfig | GenerationConfig, path: str) -> Parts:
    yield type(value), path
    yield _lasting(value.to_dict()), path


def _lasting(value: object) -> object:
    if not isinstance(value, dict):
        return value
    return {str(k): _lasting(value[k]) for k in sorted(value, key=str) if k not in _VOLATILE}


@parts.register
def _(value: PreTrainedTokenizerBase, path: str) -> Parts:
    """Without the truncation and padding that the last call left set."""
    yield type(value), path
    yield from named({name: getattr(value, name, None) for name in _TOKENIZER}, path)
    if value.is_fast:
        rules = json.loads(value.backend_tokenizer.to_str())
        yield json.dumps({k: v for k, v in rules.items() if k not in ("truncation", "padding")})
    else:
        own = {k: v for k, v in vars(value).items() if k not in _TOKENIZER_STATE}
        yield from named(own, path)


# -- tensors of other kinds -----------------------------------------------------------------------


@parts.register(torch.TypedStorage)
@parts.register(torch.UntypedStorage)
def _(value: torch.TypedStorage | torch.UntypedStorage, path: str) -> Parts:
    raw = getattr(value, "_untyped_storage", value)
    yield str(getattr(value, "dtype", None))
    yield torch.empty(0, dtype=torch.uint8, device=raw.device).set_(raw), path


@parts.register(torch.layout)
@parts.register(torch.memory_format)
def _(value: torch.layout | torch.memory_format, path: str) -> Parts:
    yield str(value)
