"""Save and resume, exactly: after each kept step a run can stop at any moment and go on from there.

A checkpoint is one file, written whole under another name and then renamed, so a kill or a full
disk leaves the earlier one in place. `latest.json` names the files kept with their digests; without
it the files' own checksums say which are whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

KEPT = 2


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is either whole or absent.

    Raises:
        OSError: the disk is full or not writable; the message names the file.
    """
    _atomically(path, lambda file: file.write(data))


def _atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        reason = f"{error.strerror}; nothing earlier is lost"
        raise OSError(f"could not write {path}: {reason}") from None


def save(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Keep `state` (tensors and plain values) as the checkpoint after `step` updates."""
    path = folder / f"step-{step:06d}.pt"
    _atomically(path, lambda file: torch.save(state, file))  # streamed: no second copy in memory
    entry = {"file": path.name, "step": step, "sha256": _digest(path)}
    kept = [entry, *(e for e in entries(folder) if e["step"] < step)][:KEPT]
    write_atomically(folder / "latest.json", json.dumps(kept, indent=2).encode())
    for path in _files(folder).values():
        if path.name not in {e["file"] for e in kept}:
            path.unlink()


def load(folder: Path) -> tuple[int, dict[str, Any]] | None:
    """The newest whole checkpoint as (step, state), or None when the run has none yet.

    A damaged file is passed over for the one before it.

    Raises:
        ValueError: there were checkpoints and all are damaged or gone.
    """
    for entry in entries(folder):
        path = folder / entry["file"]
        if path.exists() and _digest(path) == entry["sha256"]:
            return entry["step"], torch.load(path, map_location="cpu")
    if (folder / "latest.json").exists() or _files(folder):
        raise ValueError(f"all checkpoints in {folder} are damaged: delete its run to start again")
    return None


def entries(folder: Path) -> list[dict[str, Any]]:
    """The checkpoints kept (file, step, sha256), newest first: what `latest.json` lists.

    Where that is damaged or gone, the whole files there are.
    """
    try:
        listed = json.loads((folder / "latest.json").read_text())
        return [{key: entry[key] for key in ("file", "step", "sha256")} for entry in listed]
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return [
            {"file": path.name, "step": step, "sha256": _digest(path)}
            for step, path in sorted(_files(folder).items(), reverse=True)
            if _whole(path)
        ]


def _files(folder: Path) -> dict[int, Path]:
    return {int(path.stem.removeprefix("step-")): path for path in folder.glob("step-*.pt")}


def _whole(path: Path) -> bool:
    """Whether the file is what was saved: torch writes zip archives, which hold checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, EOFError):
        return False


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
