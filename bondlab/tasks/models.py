"""Models by name: read from their folders, placed, and named by what the folders hold."""

from __future__ import annotations

import functools
import hashlib
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
from bondlab.lm.adapters import Trainable, quiet

WEIGHTS = Path(__file__).parents[1] / "weights"  # the adapters that come with the package
BASE = "traceforge-title-model"  # the small T5 that most of them are of

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
    """Name and digest of a model's files: the name alone does not say what they hold now."""
    folder = assets.model_path(name)
    files = sorted(
        path for path in folder.iterdir() if path.suffix in _WEIGHTS or path.name in _SETTINGS
    )
    digests = [f"{path.name} {_digest(path)}" for path in files]
    digest = hashlib.sha256("\n".join(digests).encode()).hexdigest()
    return f"{Path(name).name}@{digest[:12]}"


def _digest(path: Path) -> str:
    """A file's digest, read once in a process while its size and time of change stay."""
    status = path.stat()
    return _digest_of(path, status.st_size, status.st_mtime_ns)


@functools.cache
def _digest_of(path: Path, size: int, changed: int) -> str:
    return assets.file_digest(path)
