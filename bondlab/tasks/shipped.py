"""The models that come with the package: small adapters, and the model that most of them are of."""

from __future__ import annotations

from pathlib import Path

WEIGHTS = Path(__file__).parents[1] / "weights"
BASE = "traceforge-title-model"


def folder(name: str) -> Path:
    """The folder of one of the package's adapters.

    Raises:
        FileNotFoundError: it was never trained.
    """
    found = WEIGHTS / name
    if not (found / "adapter_model.safetensors").exists():
        raise FileNotFoundError(
            f"{found} has no adapter: run `python -m bondlab prepare --only {name}` to train it"
        )
    return found
