"""Save and resume, exactly: after each kept step a run can stop at any moment and go on from there.

A checkpoint is one file, written whole under another name and then renamed, so a kill or a full
disk leaves the earlier one in place. `latest.json` names the files kept with their digests.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import torch

KEPT = 2


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is either whole or absent.

    Raises:
        OSError: the disk is full or not writable; the message names the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        reason = f"{error.strerror}; nothing earlier is lost"
        raise OSError(f"could not write {path}: {reason}") from None


def save(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Keep `state` (tensors and plain values) as the checkpoint after `step` updates."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    name = f"step-{step:06d}.pt"
    write_atomically(folder / name, data)
    entry = {"file": name, "step": step, "sha256": hashlib.sha256(data).hexdigest()}
    kept = [entry, *(e for e in entries(folder) if e["step"] < step)][:KEPT]
    write_atomically(folder / "latest.json", json.dumps(kept, indent=2).encode())
    for path in folder.glob("step-*.pt"):
        if path.name not in {e["file"] for e in kept}:
            path.unlink()


def load(folder: Path) -> tuple[int, dict[str, Any]] | None:
    """The newest whole checkpoint as (step, state), or None when the run has none yet.

    A damaged file is passed over for the one before it.

    Raises:
        ValueError: checkpoints exist and all are damaged.
    """
    kept = entries(folder)
    for entry in kept:
        path = folder / entry["file"]
        data = path.read_bytes() if path.exists() else b""
        if hashlib.sha256(data).hexdigest() == entry["sha256"]:
            return entry["step"], torch.load(io.BytesIO(data), map_location="cpu")
    if kept:
        raise ValueError(f"all checkpoints in {folder} are damaged: delete its run to start again")
    return None


def entries(folder: Path) -> list[dict[str, Any]]:
    """What `latest.json` lists, newest first."""
    path = folder / "latest.json"
    return json.loads(path.read_text()) if path.exists() else []
