"""Checkpoints survive kills, damage and full disks."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from bondlab import checkpoints


def state(step: int) -> dict:
    return {"parameters": [torch.full((3,), step * 1.0)], "optimizer": {"state": {0: {"n": step}}}}


def saved(folder: Path, steps) -> Path:
    for step in steps:
        checkpoints.save(folder, step, state(step))
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def loaded_step(folder: Path) -> int:
    """The step on file, after checking that the state is that step's."""
    step, found = checkpoints.load(folder)
    assert found["parameters"][0].tolist() == [step * 1.0] * 3
    assert found["optimizer"]["state"][0]["n"] == step
    return step


def test_the_newest_is_loaded_and_two_are_kept(tmp_path):
    """After steps 1 to 4 the files of 3 and 4 are left, and nothing half-written."""
    assert checkpoints.load(tmp_path) is None
    saved(tmp_path, [1, 2, 3, 4])
    assert loaded_step(tmp_path) == 4
    assert names(tmp_path) == ["latest.json", "step-000003.pt", "step-000004.pt"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_newest_falls_back_to_the_one_before(damage, tmp_path):
    """Whatever happened to step 3, step 2 serves; the run then saves 3 again and all is well."""
    saved(tmp_path, [1, 2, 3])
    path = tmp_path / "step-000003.pt"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(data if damage == "flipped" else data[:-1])
    assert loaded_step(tmp_path) == 2
    saved(tmp_path, [3])
    assert loaded_step(tmp_path) == 3
    assert [entry["step"] for entry in checkpoints.entries(tmp_path)] == [3, 2]


def test_all_damaged_is_an_error_that_names_the_folder(tmp_path):
    """Starting again in silence would hide a dying disk."""
    saved(tmp_path, [1, 2])
    for path in tmp_path.glob("step-*.pt"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=f"all checkpoints in {tmp_path} are damaged: delete"):
        checkpoints.load(tmp_path)


@pytest.mark.parametrize(
    "text", [b"", b'[{"file": "step-00', b"\xff", b"null", b"[{}]", b"[1]", None],
    ids=["empty", "cut", "no text", "null", "no keys", "no entries", "gone"],
)  # fmt: skip
def test_a_damaged_list_loses_no_checkpoint(text, tmp_path):
    """The list of steps 2 and 3 is unreadable or gone: step 3 loads, and after step 4 the list is
    right again. Without it a damaged file is known by its own checksums: with one bit of its
    tensor changed, 4 is passed over for 3."""
    saved(tmp_path, [1, 2, 3])
    damage_list(tmp_path, text)
    assert loaded_step(tmp_path) == 3
    saved(tmp_path, [4])
    assert [entry["step"] for entry in checkpoints.entries(tmp_path)] == [4, 3]
    assert names(tmp_path) == ["latest.json", "step-000003.pt", "step-000004.pt"]
    damage_list(tmp_path, text)
    data = bytearray((tmp_path / "step-000004.pt").read_bytes())
    data[data.index(torch.full((3,), 4.0).numpy().tobytes())] ^= 1
    (tmp_path / "step-000004.pt").write_bytes(data)
    assert loaded_step(tmp_path) == 3


@pytest.mark.parametrize("files", [b"", b"cut", None], ids=["empty", "no archive", "gone"])
def test_a_list_and_files_all_damaged_are_an_error(files, tmp_path):
    """Nothing can be recovered: said in words, where starting again would hide the loss."""
    saved(tmp_path, [1, 2])
    damage_list(tmp_path, b"")
    for path in tmp_path.glob("step-*.pt"):
        path.unlink() if files is None else path.write_bytes(files)
    with pytest.raises(ValueError, match=f"all checkpoints in {tmp_path} are damaged: delete"):
        checkpoints.load(tmp_path)


def damage_list(folder: Path, text: bytes | None) -> None:
    path = folder / "latest.json"
    path.unlink() if text is None else path.write_bytes(text)


@pytest.mark.parametrize("call", [1, 2], ids=["in the file", "in the list"])
def test_a_full_disk_leaves_the_earlier_checkpoint(call, tmp_path, monkeypatch):
    """The first or the second write of step 2 meets a full disk: one error in words that names the
    file, no partial file stays, step 1 still loads, and with room again step 2 is kept."""
    saved(tmp_path, [1])
    calls, fsync = [], os.fsync

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == call:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left on device; nothing earlier") as raised:
            checkpoints.save(tmp_path, 2, state(2))
    assert str(tmp_path) in str(raised.value) and raised.value.__cause__ is None
    assert not list(tmp_path.glob("*.part")) and not list(tmp_path.glob(".*"))
    assert loaded_step(tmp_path) == 1
    saved(tmp_path, [2])
    assert loaded_step(tmp_path) == 2


def test_a_kill_between_file_and_list_leaves_the_earlier_checkpoint(tmp_path, monkeypatch):
    """The list is written last, so a file it does not name is not trusted, and later removed."""
    saved(tmp_path, [1])
    original = checkpoints.write_atomically

    def killed(path: Path, data: bytes) -> None:
        if path.name == "latest.json":
            raise KeyboardInterrupt
        original(path, data)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoints, "write_atomically", killed)
        checkpoints.save(tmp_path, 7, state(7))
    assert loaded_step(tmp_path) == 1 and (tmp_path / "step-000007.pt").exists()
    saved(tmp_path, [2])
    assert loaded_step(tmp_path) == 2
    assert names(tmp_path) == ["latest.json", "step-000001.pt", "step-000002.pt"]


def test_a_file_is_whole_or_absent(tmp_path, monkeypatch):
    """Until the rename the old content stands, in a folder that is made if need be."""
    path = tmp_path / "new" / "file.txt"
    checkpoints.write_atomically(path, b"old")
    seen = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append(path.read_bytes()))
    checkpoints.write_atomically(path, b"new")
    assert seen == [b"old"] and path.read_bytes() == b"new" and names(path.parent) == ["file.txt"]
