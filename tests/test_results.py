"""Run folders: stable names; records and checkpoints that survive kills, damage, full disks."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pandas as pd
import pytest
import torch

from bondlab import device, results
from bondlab.results import RunFolder

IDENTITY = {"task": {"policy": "tiny"}, "config": {"steps": 4, "learning_rate": 1e-3}}


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return RunFolder.of(tmp_path, IDENTITY)


def evaluation(step: int) -> pd.DataFrame:
    return pd.DataFrame({"step": step, "prompt": [0, 1], "reward": [step + 0.5, step - 0.5]})


def test_a_run_is_named_by_its_identity(tmp_path, run):
    """The name is 12 hex digits of the SHA-256 of the sorted JSON with the results' version; it is
    the same in any order of keys and another for any other value. Made once, never rewritten."""
    text = json.dumps({"results_version": results.RESULTS_VERSION, **IDENTITY}, sort_keys=True)
    assert run.path.name == hashlib.sha256(text.encode()).hexdigest()[:12]
    before = (run.path / "config.json").stat().st_mtime_ns
    assert RunFolder.of(tmp_path, {key: IDENTITY[key] for key in reversed(IDENTITY)}) == run
    assert (run.path / "config.json").stat().st_mtime_ns == before
    assert RunFolder.of(tmp_path, IDENTITY | {"config": {"steps": 5}}).path != run.path
    assert run.config == json.loads(text) and run.manifest == {}


def test_a_record_line_cut_short_is_left_out(run):
    """A kill while the third line was written leaves two rows, before and after a rewind."""
    for step in (1, 2):
        run.append({"step": step, "loss": step / 3})
    with (run.path / "record.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    assert run.record()["loss"].tolist() == [1 / 3, 2 / 3]
    run.rewind(2)
    run.append({"step": 3, "loss": 1.0})
    assert run.record()["step"].tolist() == [1, 2, 3]


def test_rewinding_forgets_what_the_checkpoint_has_not_seen(run):
    """To step 2: record lines 3 and 4 and the evaluation of step 4 go; those up to 2 stay as they
    were, and numbers survive the rewriting to the last bit."""
    assert run.record().empty and run.evaluation().empty and not run.evaluated(0)
    for step in (1, 2, 3, 4):
        run.append({"step": step, "loss": 0.1 * step})
    for step in (0, 2, 4):
        run.add_evaluation(evaluation(step))
    assert run.evaluated(4)
    run.rewind(2)
    assert run.record()["loss"].tolist() == [0.1, 0.2]
    pd.testing.assert_frame_equal(
        run.evaluation(), pd.concat([evaluation(0), evaluation(2)], ignore_index=True)
    )
    assert run.evaluated(0) and run.evaluated(2) and not run.evaluated(4) and not run.evaluated(1)
    run.rewind(0)
    assert run.record().empty and run.evaluation()["step"].tolist() == [0, 0]


# -- checkpoints ----------------------------------------------------------------------------------


def saved(run: RunFolder, *steps: int) -> Path:
    """The folder of the checkpoints, with those of these steps kept one after the other."""
    for step in steps:
        state = {"parameters": [torch.full((3,), step * 1.0)], "optimizer": {0: {"n": step}}}
        run.save(step, state)
    return run.path / "checkpoints"


def loaded_step(run: RunFolder) -> int:
    """The step on file, after checking that the state is that step's."""
    step, found = run.load()
    assert found["parameters"][0].tolist() == [step * 1.0] * 3
    assert found["optimizer"][0]["n"] == step
    return step


def test_the_newest_is_loaded_and_two_are_kept(run):
    """After steps 1 to 4 the files of 3 and 4 are left, and nothing half-written."""
    assert run.load() is None
    folder = saved(run, 1, 2, 3, 4)
    assert loaded_step(run) == 4
    assert sorted(os.listdir(folder)) == ["step-000003.pt", "step-000004.pt"]


def test_whatever_damages_the_newest_the_one_before_serves(run):
    """Cut anywhere, or with any byte changed, step 3 is passed over for step 2, unless the byte has
    no meaning; the run then saves 3 again and all is well."""
    path = saved(run, 1, 2, 3) / "step-000003.pt"
    data = path.read_bytes()
    numbers = data.index(torch.full((3,), 3.0).numpy().tobytes())
    for place in (numbers, *range(0, len(data), 7)):
        path.write_bytes(data[:place])
        assert loaded_step(run) == 2
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert loaded_step(run) in ((2,) if place == numbers else (2, 3))
    path.unlink()
    assert loaded_step(run) == 2
    saved(run, 3)
    assert loaded_step(run) == 3


def test_what_fails_for_another_reason_is_no_damage(run, monkeypatch):
    """A whole file that does not fit into memory is neither passed over nor called damaged."""
    path = saved(run, 1, 2) / "step-000002.pt"

    def full(*args, **kwargs) -> None:
        raise RuntimeError("can't allocate memory")

    monkeypatch.setattr(torch, "load", full)
    with pytest.raises(RuntimeError, match="memory"):
        run.load()
    assert path.exists()


def test_all_damaged_is_an_error_that_names_the_folder(run):
    """Starting again in silence would hide a dying disk."""
    for path in saved(run, 1, 2).iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=f"all checkpoints in {run.path} are damaged: delete"):
        run.load()


def test_a_full_disk_leaves_the_earlier_checkpoint(run, monkeypatch):
    """The write of step 2 meets a full disk: one error in words that names the file, no partial
    file stays, step 1 still loads, and with room again step 2 is kept."""
    folder = saved(run, 1)
    with monkeypatch.context() as patch:
        full = OSError(errno.ENOSPC, "No space left on device")
        patch.setattr(os, "fsync", Mock(side_effect=full))
        with pytest.raises(OSError, match=rf"{folder}.*No space left on device; nothing earlier"):
            saved(run, 2)
    assert os.listdir(folder) == ["step-000001.pt"] and loaded_step(run) == 1
    saved(run, 2)
    assert loaded_step(run) == 2


def test_a_file_is_whole_or_absent(tmp_path, monkeypatch):
    """Until the rename the old content stands, in a folder that is made if need be."""
    path = tmp_path / "new" / "file.txt"
    results.write_atomically(path, b"old")
    seen = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append(path.read_bytes()))
    results.write_atomically(path, b"new")
    assert seen == [b"old"] and path.read_bytes() == b"new"
    assert os.listdir(path.parent) == [path.name]


# -- the manifest ---------------------------------------------------------------------------------


def test_a_lock_keeps_another_process_out(run):
    """A second holder is refused with the run's folder in the message, here and in another
    process; once released, it is free."""
    code = (  # what `lock` does, without its imports
        "import sys; from filelock import FileLock\n"
        "with FileLock(sys.argv[1], timeout=0): print('held', flush=True); sys.stdin.read()"
    )
    command, pipe = [sys.executable, "-c", code, str(run.path / ".lock")], subprocess.PIPE
    refused = f"another process is computing {run.path}"
    with run.lock(), pytest.raises(RuntimeError, match=refused):
        run.lock()
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RuntimeError, match=refused):
            run.lock()
    with run.lock():
        assert subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True).returncode


def test_the_manifest_says_how_a_run_came_about(run):
    """Status, identity, seconds of all starts, source, versions and machine."""
    run.mark("running", 0.0)
    assert run.manifest["status"] == "running" and not run.finished
    started = run.manifest["started"]
    run.spent(1.5)
    run.mark("running", 0.0)
    run.mark("finished", 2.25)
    manifest = run.manifest
    assert run.finished and manifest["seconds"] == 3.75 and manifest["starts"] == 2
    assert manifest["run"] == run.path.name and manifest["config"] == run.config
    assert manifest["started"] == started <= manifest["written"]
    assert set(manifest["packages"]) == set(results.PACKAGES) and "commit" in manifest
    assert manifest["machine"]["threads"] >= 1 and manifest["machine"]["cores"] >= 1


def test_a_run_says_on_what_it_was_computed(run, monkeypatch):
    """Two starts on one kind of machine, one on another, one back: three kinds, one a change; of
    its samples' kinds those that are not its own. Its name stays."""
    for kind in ("one", "one", "other", "one"):
        monkeypatch.setattr(device, "kind", lambda kind=kind: kind)
        run.mark("running", 0.0)
    run.mark("finished", 1.0, ["third", "other", "third"])
    manifest = run.manifest
    assert manifest["kinds"] == ["one", "other", "one"] and manifest["bank_kinds"] == ["third"]
    assert RunFolder.of(run.path.parent, IDENTITY) == run


def test_the_kind_of_a_processor_is_one_line(monkeypatch):
    """Vendor, family and model (a virtual machine's name of it may be another one's) and what
    rounds in its own way; where nothing is known of a processor, Python's name of it."""
    known = {"vendor_id": "GenuineIntel", "cpu family": "6", "model": "207"}
    known |= {"model name": "Xeon", "flags": "fpu avx2 amx_bf16 sse"}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: None)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(device, "processor", lambda: known)
    assert device.kind() == "GenuineIntel family 6 model 207: AVX512, amx_bf16"
    machine = device.describe()
    assert (machine["processor"], machine["kind"]) == ("Xeon", device.kind())
    for other in ({}, {"vendor_id": "IBM/S390"}):  # which have no family
        monkeypatch.setattr(device, "processor", lambda other=other: {"model name": "arm", **other})
        assert device.kind() == "arm: AVX512"
    monkeypatch.undo()
    assert device.processor()["model name"] and device.kind() == device.describe()["kind"]


def test_the_commit_is_that_of_the_source(tmp_path, monkeypatch):
    """A clean clone, one changed beside and in the package, and no clone at all."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@x", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    monkeypatch.setattr(results, "repository_root", lambda: tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert results.commit() == {"commit": None, "dirty": None}
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "first")
    assert results.commit() == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "notes").write_text("beside the package")
    assert results.commit()["dirty"] is False
    (tmp_path / "bondlab").mkdir()
    (tmp_path / "bondlab" / "rules.py").write_text("changed")
    assert results.commit()["dirty"] is True
    monkeypatch.setenv("PATH", str(Path("/nowhere")))
    assert results.commit() == {"commit": None, "dirty": None}
