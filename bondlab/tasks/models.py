"""Models by name: read from their folders, placed, and named by what the folders hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
)

from bondlab import assets, device
from bondlab.assets.corpora import digest
from bondlab.lm.adapters import Trainable, quiet
from bondlab.lm.language_model import LanguageModel

WEIGHTS = Path(__file__).parents[1] / "weights"  # the adapters that come with the package
BASE = "traceforge-title-model"  # the small T5 that most of them are of
XSUM = ("xsum_reference", "xsum_reward")  # those that are named and loaded as models are

# What of a model's folder decides its distribution and its tokens.
_WEIGHTS = (".safetensors", ".bin", ".model", ".py", ".jinja")
_SETTINGS = (
    "config.json generation_config.json tokenizer.json tokenizer_config.json "
    "special_tokens_map.json added_tokens.json vocab.json vocab.txt merges.txt"
).split()

Model = TypeVar("Model", bound=Trainable)


def load(name: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, object]:
    """A causal or encoder-decoder model and its tokenizer.

    Args:
        name: of an asset or on the hub, or a local folder; see `assets.model_path`.
        dtype: in which the weights are stored; read so, a large model is never there twice.

    Raises:
        AssetError: there is no such model, or its terms are not accepted.
        ValueError: the folder's configuration is of neither kind of model.
    """
    folder = assets.model_path(name)
    with quiet():
        both = AutoConfig.from_pretrained(folder).is_encoder_decoder
        kind = AutoModelForSeq2SeqLM if both else AutoModelForCausalLM
        model = kind.from_pretrained(folder, dtype=dtype)
        return model, AutoTokenizer.from_pretrained(folder)


def encoder(name: str) -> tuple[nn.Module, object]:
    """A sentence encoder in float32 and its tokenizer. `name` and errors as for `load`."""
    folder = assets.model_path(name)
    with quiet():
        model = AutoModel.from_pretrained(folder, dtype=torch.float32, add_pooling_layer=False)
        return model, AutoTokenizer.from_pretrained(folder)


def reference(
    make: Callable[..., LanguageModel], name: str, precision: device.Precision, **limits: int
) -> LanguageModel:
    """What `make(model, tokenizer, **limits)` makes of a model by name, `placed`.

    The name is as for `load`, or "xsum_reference". Raises as `load` and `adapter`.
    """
    if name in XSUM:
        return adapted(make(*load(BASE), **limits), name, precision)
    return placed(make(*load(name, device.dtype(precision)), **limits), precision)


def placed(model: Model, precision: device.Precision) -> Model:
    """The model as a frozen reference: on the GPU if there is one, stored in the precision."""
    return model.to(device.place(), device.dtype(precision)).requires_grad_(False)


def adapted(model: Model, name: str, precision: device.Precision) -> Model:
    """The model with one of the package's adapters folded in, and then `placed`.

    Raises as `adapter`.
    """
    model.load_adapter(adapter(name))
    model.merge_adapter()
    return placed(model, precision)


def adapter(name: str) -> Path:
    """The folder of one of the package's adapters.

    Raises:
        FileNotFoundError: it was never trained.
    """
    folder = WEIGHTS / name
    if not (folder / "adapter_model.safetensors").exists():
        raise FileNotFoundError(
            f"{folder} has no adapter: run `python -m bondlab prepare --only {name}` to train it"
        )
    return folder


def identity(name: str) -> str:
    """What tells a model from others: a digest of the adapter for those of XSum, else its name and
    a digest of its files, since the name alone does not say what they hold now."""
    if name in XSUM:
        return assets.file_digest(adapter(name) / "adapter_model.safetensors")[:12]
    files = sorted(
        path
        for path in assets.model_path(name).iterdir()
        if path.suffix in _WEIGHTS or path.name in _SETTINGS
    )
    digests = [f"{path.name} {assets.file_digest(path)}" for path in files]
    found = digest("\n".join(digests))
    return f"{Path(name).name}@{found[:12]}"
