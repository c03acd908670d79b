"""What a run leaves: a folder named by a hash of everything that determines its result.

    config.json  record.jsonl (a line per step)  evaluation.parquet  manifest.json  checkpoints/

A finished run is never computed twice, an unfinished one continues, a changed setting is another
run. Evaluations hold one row per completion, so every measure can be taken from them later.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import zipfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd
import torch
from filelock import FileLock, Timeout

from bondlab import device, processes
from bondlab.paths import repository_root

RESULTS_VERSION = 3  # raise when the code's numbers change: old runs then no longer match
PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "pandas")
KEPT = 2  # checkpoints


def digest(identity: Any) -> str:
    """Twelve hex digits that name a JSON-able value."""
    text = json.dumps(identity, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def write_atomically(path: Path, data: bytes | Callable[[BinaryIO], object]) -> None:
    """Write a file, of these bytes or by this function, under another name and then rename it.

    A kill or a full disk leaves the earlier one.

    Raises:
        OSError: the disk is full or not writable; the message names the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Processes of several machines may have one number.
    partial = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.part")
    try:
        with partial.open("wb") as file:
            file.write(data) if isinstance(data, bytes) else data(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        told = f"could not write {path}: {error.strerror}; nothing earlier is lost"
        raise OSError(told) from None


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table, without its index, as `write_atomically` does."""
    write_atomically(path, table.to_parquet(index=False))


def save_tensors(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values, straight into the file; equal ones give equal bytes."""
    write_atomically(path, lambda file: torch.save(state, file))


def load_tensors(path: Path) -> dict[str, Any] | None:
    """What `save_tensors` wrote, on the processor; None where it is damaged or gone.

    torch writes zip archives, whose checksums tell.
    """
    if not path.exists():
        return None
    try:
        with path.open("rb") as file:
            if zipfile.ZipFile(file).testzip() is None:
                file.seek(0)
                return torch.load(file, map_location="cpu")
    except Exception as error:  # whatever a damaged archive raises
        if "allocate memory" in str(error):  # torch's words for too little of it
            raise
    return None


@dataclass(frozen=True)
class RunFolder:
    """The files of one run.

    Args:
        path: the folder; its name is the run id.
    """

    path: Path

    @classmethod
    def of(cls, parent: Path, identity: Mapping[str, Any]) -> RunFolder:
        """The folder of the run with this identity, made and described if new."""
        folder = (cls if processes.is_main() else Onlooker)(cls.place(parent, identity))
        if not (folder.path / "config.json").exists():
            folder._write("config.json", {"results_version": RESULTS_VERSION, **identity})
        return folder

    @staticmethod
    def place(parent: Path, identity: Mapping[str, Any]) -> Path:
        """Where that folder is or will be; not made here."""
        return parent / digest({"results_version": RESULTS_VERSION, **identity})

    @property
    def config(self) -> dict[str, Any]:
        """Everything that determines the result."""
        return json.loads((self.path / "config.json").read_text())

    def lock(self) -> AbstractContextManager:
        """Held while a process computes this run.

        Raises:
            RuntimeError: another process computes it now.
        """
        try:
            return FileLock(self.path / ".lock", timeout=0).acquire()
        except Timeout:
            raise RuntimeError(f"another process is computing {self.path}") from None

    # -- checkpoints ------------------------------------------------------------------------------

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Keep `state` as the checkpoint after `step` updates, beside the one before it."""
        newest = self.path / "checkpoints" / f"step-{step:06d}.pt"
        save_tensors(newest, state)
        files = self._checkpoints()  # of which later ones are damaged
        first = files.index(newest)
        for path in files[:first] + files[first + KEPT :]:
            path.unlink()

    def load(self) -> tuple[int, dict[str, Any]] | None:
        """The newest whole checkpoint as (step, state), or None when the run has none yet.

        Raises:
            ValueError: there are checkpoints and all are damaged.
        """
        files = self._checkpoints()
        for path in files:
            if (state := load_tensors(path)) is not None:
                return int(path.stem.removeprefix("step-")), state
        if files:  # to start again in silence would hide a dying disk
            raise ValueError(
                f"all checkpoints in {self.path} are damaged: delete it to start again"
            )
        return None

    def _checkpoints(self) -> list[Path]:
        """Newest first."""
        return sorted((self.path / "checkpoints").glob("step-*.pt"), reverse=True)

    # -- record and evaluations -------------------------------------------------------------------

    def append(self, row: Mapping[str, float]) -> None:
        """Add one step's line to the record."""
        with (self.path / "record.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")

    def record(self) -> pd.DataFrame:
        """The record as a table, one row per step; a line cut short by a kill is left out."""
        return pd.DataFrame(self._rows())

    @property
    def steps(self) -> int:
        """How many steps the record has."""
        path = self.path / "record.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def evaluation(self) -> pd.DataFrame:
        """All evaluations, one row a (step, source, prompt, sample); empty before the first."""
        path = self.path / "evaluation.parquet"
        return pd.read_parquet(path) if path.exists() else pd.DataFrame()

    def add_evaluation(self, table: pd.DataFrame) -> None:
        """Add one step's evaluation; the file is replaced whole."""
        table = pd.concat([self.evaluation(), table], ignore_index=True)
        write_table(self.path / "evaluation.parquet", table)

    def evaluated(self, step: int) -> bool:
        """Whether the evaluation after `step` updates is there."""
        return step in {*self.evaluation().get("step", ())}

    def rewind(self, step: int) -> None:
        """Forget record lines and evaluations past `step`, which the checkpoint has not seen."""
        text = "".join(json.dumps(row) + "\n" for row in self._rows() if row["step"] <= step)
        write_atomically(self.path / "record.jsonl", text.encode())
        if len(table := self.evaluation()):
            write_table(self.path / "evaluation.parquet", table[table["step"] <= step])

    def _rows(self) -> list[dict[str, Any]]:
        path, rows = self.path / "record.jsonl", []
        for line in path.read_text().splitlines() if path.exists() else []:
            with suppress(json.JSONDecodeError):
                rows.append(json.loads(line))
        return rows

    # -- the manifest -----------------------------------------------------------------------------

    @property
    def manifest(self) -> dict[str, Any]:
        """Run id, config, commit, versions, machine, seconds and status; {} before a start.

        The status is "finished", or else "running", also where its process was killed: `lock` says
        whether one is at work. In `seconds` is all but what a killed one did past its checkpoint.
        """
        path = self.path / "manifest.json"
        return json.loads(path.read_text()) if path.exists() else {}

    @property
    def finished(self) -> bool:
        return self.manifest.get("status") == "finished"

    def mark(self, status: str, seconds: float, banks: Iterable[str] = ()) -> None:
        """Write the manifest, as a process starts on the run ("running") and when all is there.

        Its `kinds` are those of machine that the run was computed on (`device.kind`), one a change,
        and `bank_kinds` the others of `banks`, which its samples were drawn on: numbers depend on
        them, and the run's name does not tell them apart. `seconds` of this process's work, as far
        as they are not counted yet, are added to the earlier ones.
        """
        earlier, kind = self.manifest, device.kind()
        kinds = earlier.get("kinds", [])
        kinds = kinds if kinds[-1:] == [kind] else [*kinds, kind]
        others = dict.fromkeys([*earlier.get("bank_kinds", []), *banks])
        now = datetime.now(UTC).isoformat(timespec="seconds")
        manifest = {
            "status": status,
            "run": self.path.name,
            "config": self.config,
            "started": earlier.get("started", now),
            "written": now,
            "seconds": round(earlier.get("seconds", 0.0) + seconds, 2),
            "starts": earlier.get("starts", 0) + (status == "running"),
            "process": os.getpid(),
            "machine": device.describe(),
            "kinds": kinds,
            "bank_kinds": [other for other in others if other not in kinds],
            "packages": _versions(),
            **commit(),
        }
        self._write("manifest.json", manifest)

    def spent(self, seconds: float) -> None:
        """Count seconds of work on a run that goes on."""
        manifest = self.manifest
        total = round(manifest["seconds"] + seconds, 2)
        self._write("manifest.json", manifest | {"seconds": total})

    def _write(self, name: str, value: Any) -> None:
        text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        write_atomically(self.path / name, text.encode())


class Onlooker(RunFolder):
    """A run in a process that reads it, and leaves the writing to the main process."""

    def lock(self) -> AbstractContextManager:
        return nullcontext()

    def _leave(self, *_: object) -> None:
        """The main process does it."""

    save = append = add_evaluation = rewind = mark = spent = _write = _leave


@cache
def _versions() -> dict[str, str]:
    """Of the packages that are there (the library does without the study's); asked once."""
    found = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def commit() -> dict[str, Any]:
    """The source's commit and whether the package was changed since; nulls outside a clone."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(repository_root()), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "bondlab")
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changed)}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}
