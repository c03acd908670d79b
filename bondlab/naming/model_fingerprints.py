"""What names models, tokenizers and tables: importing this teaches `fingerprint` to name them.

Models count by class, weights, buffers and configuration, tokenizers by how they read a text. What
preparing a model for use sets is not among it: devices, gradients, hooks, the training flag, how
attention is computed, and the padding and truncation that a tokenizer's last call left behind.
"""

from __future__ import annotations

import json

import pandas as pd
from torch import nn
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase

from bondlab.lm.language_model import LanguageModel
from bondlab.naming.fingerprint import parts

# Parameters, hooks, training flag; where a model came from.
_NO_SETTING = {*vars(nn.Module()), "_is_hf_initialized", "name_or_path"}
_VOLATILE = {"transformers_version", "architectures", "use_cache", "dtype"}  # of a configuration
_LANGUAGE_MODEL = "model tokenizer template max_prompt_tokens max_new_tokens temperature".split()
_LEFT_BEHIND = (  # in a tokenizer: its origin, and what calls leave
    "init_kwargs init_inputs name_or_path vocab_file files_loaded backend deprecation_warnings "
    "verbose cache"
).split()


@parts.register
def _(value: pd.DataFrame | pd.Series | pd.Index) -> dict[str, object]:
    frame = value if isinstance(value, pd.DataFrame) else value.to_frame()
    return {"its types": [str(kind) for kind in frame.dtypes], "its cells": frame.to_dict("split")}


@parts.register
def _(value: LanguageModel) -> dict[str, object]:
    """The distribution that it samples from; of a user's own kind also whatever that adds."""
    known = {name: getattr(value, name) for name in _LANGUAGE_MODEL}
    if type(value) is LanguageModel:
        return known
    return parts.dispatch(nn.Module)(value) | known


@parts.register
def _(value: nn.Module) -> dict[str, object]:
    """The configuration stands for the attributes of transformers' own layers."""
    own = {name: held for name, held in vars(value).items() if name not in _NO_SETTING}
    if type(value).__module__.startswith("transformers."):
        own = {name: own.get(name) for name in ("config", "generation_config")}
    held = {**value._parameters, **value._buffers, **value._modules}
    return {"its class": type(value)} | own | held


@parts.register
def _(value: PreTrainedConfig | GenerationConfig) -> dict[str, object]:
    """Without where it came from and how it is computed, which are its private attributes."""
    named = {k: v for k, v in vars(value).items() if k not in _VOLATILE and not k.startswith("_")}
    return {"its class": type(value)} | named


@parts.register
def _(value: PreTrainedTokenizerBase) -> dict[str, object]:
    """Without the truncation and padding that the last call left set."""
    own = {k: v for k, v in vars(value).items() if k not in _LEFT_BEHIND and not k.startswith("_")}
    if value.is_fast:
        rules = json.loads(value.backend_tokenizer.to_str()) | {"truncation": 0, "padding": 0}
    else:
        rules = value.get_vocab()
    named = {"its class": type(value), "its special tokens": value.special_tokens_map}
    return own | named | {"its rules": json.dumps(rules)}
