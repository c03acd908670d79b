"""Fetching, verifying and keeping assets, with archives made here and an index that is a stub."""

from __future__ import annotations

import dataclasses
import errno
import json
import shutil
import zipfile
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests
from datasets import Dataset, DatasetDict

from bondlab import assets
from bondlab.assets import archives, cache
from bondlab.assets.archives import Archive, AssetError, file_digest
from bondlab.assets.catalogue import ARCHIVES, ASSETS, Asset

NOTES = b"one\ntwo\nthree\n"


def wheel(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def notes(sources: dict[str, Path]) -> DatasetDict:
    lines = (sources["toy"] / "toy" / "notes.txt").read_text().split()
    return DatasetDict(train=Dataset.from_dict({"text": lines}))


class StubIndex:
    """An index that serves one file; `send` may cut, change or break off what it writes."""

    def __init__(self, file: Path, send=lambda content, path: path.write_bytes(content)):
        self.file, self.send, self.downloads = file, send, 0

    def get_project_page(self, project: str, timeout: float) -> SimpleNamespace:
        return SimpleNamespace(packages=[SimpleNamespace(filename=self.file.name)])

    def download_package(self, package, path: Path, **options) -> None:
        self.downloads += 1
        self.send(self.file.read_bytes(), path)


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("BONDLAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def index(tmp_path, monkeypatch, root) -> StubIndex:
    """The stub index of the asset `notes`, whose wheel also holds code that is not wanted."""
    file = wheel(
        tmp_path / "toy-1.0-py3-none-any.whl",
        {"toy/notes.txt": NOTES, "toy/__init__.py": b"raise SystemExit('ran')"},
    )
    pins = (file.stat().st_size, file_digest(file), ("toy/*.txt",), None)
    monkeypatch.setitem(ARCHIVES, "toy", Archive("toy", "1.0", file.name, *pins))
    asset = Asset("notes", "dataset", ("toy",), notes, "made here", "none")
    monkeypatch.setitem(ASSETS, "notes", asset)
    return StubIndex(file)


def leftovers(root: Path) -> list[str]:
    """Every file below the cache but the lock."""
    files = (path for path in root.rglob("*") if path.is_file() and path.name != ".lock")
    return sorted(path.relative_to(root).as_posix() for path in files)


def test_fetch_converts_once_and_keeps_only_the_result(index, root):
    """The second fetch downloads nothing; file and members go, as no other asset needs them."""
    (folder,) = assets.fetch(["notes"], index=index)
    assert assets.dataset("notes")["train"]["text"] == ["one", "two", "three"]
    record = json.loads((folder / "asset.json").read_text())
    assert record["licence"] == "none" and record["packages"] == ["toy 1.0"]
    assert all(name.startswith("assets/notes/") for name in leftovers(root))
    assets.fetch(["notes"], index=index)
    assert index.downloads == 1


def test_members_that_another_asset_needs_are_kept(index, root, monkeypatch):
    """Two assets of one package cost one download."""
    twin = dataclasses.replace(ASSETS["notes"], name="twin")
    monkeypatch.setitem(ASSETS, "twin", twin)
    assets.fetch(["notes"], index=index)
    assets.fetch(["twin"], index=index)
    assert index.downloads == 1
    assert not (root / "unpacked/toy-1.0/toy/__init__.py").exists()


@pytest.mark.parametrize(
    "send",
    [
        lambda content, path: path.write_bytes(content[: len(content) // 2]),
        lambda content, path: path.write_bytes(content[:-1] + b"x"),
    ],
    ids=["truncated", "changed"],
)
def test_a_file_with_another_digest_is_refused_and_nothing_is_kept(index, root, send):
    with pytest.raises(AssetError, match="thrown away"):
        assets.fetch(["notes"], index=StubIndex(index.file, send))
    assert leftovers(root) == [] and assets.state("notes") == "absent"
    assets.fetch(["notes"], index=index)
    assert assets.state("notes") == "ready"


def test_an_interrupted_download_starts_again_cleanly(index, root):
    """Ctrl-C leaves no part; what a killed process left is overwritten, not continued."""

    def interrupted(content: bytes, path: Path) -> None:
        path.write_bytes(content[:10])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        assets.fetch(["notes"], index=StubIndex(index.file, interrupted))
    assert leftovers(root) == []
    (root / "downloads" / f"{index.file.name}.part").write_bytes(b"of a killed process")
    assets.fetch(["notes"], index=index)
    assert assets.state("notes") == "ready"


@pytest.mark.parametrize("error", [RuntimeError("broken"), OSError(errno.ENOSPC, "full")])
def test_a_failing_conversion_leaves_nothing_half_made(index, root, monkeypatch, error):
    """It fails after its first file; the folder must not appear, and the next attempt succeeds."""

    def convert(sources, out):
        (out / "config.json").write_text("{}")
        raise error

    broken = dataclasses.replace(ASSETS["notes"], kind="model", convert=convert)
    with monkeypatch.context() as patch:
        patch.setitem(ASSETS, "notes", broken)
        with pytest.raises(AssetError if error.args[0] == errno.ENOSPC else RuntimeError):
            assets.fetch(["notes"], index=index)
    assert leftovers(root) == ["unpacked/toy-1.0/toy/notes.txt"]
    assets.fetch(["notes"], index=index)
    assert assets.state("notes") == "ready"


def test_what_a_killed_conversion_left_is_no_result_and_is_cleared(index, root):
    work = root / "tmp" / "notes-of-a-killed-process"
    work.mkdir(parents=True)
    (work / "data.arrow").write_bytes(b"half")
    assert assets.state("notes") == "absent"
    assets.fetch(["notes"], index=index)
    assert not work.exists()


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize("damage", [_truncate, _flip, Path.unlink])
def test_a_damaged_folder_is_found_at_load_and_made_anew_by_fetch(index, damage):
    (folder,) = assets.fetch(["notes"], index=index)
    damage(next(folder.rglob("*.arrow")))
    with pytest.raises(AssetError, match="damaged.*python -m bondlab fetch notes"):
        assets.dataset("notes")
    assets.fetch(["notes"], index=index)
    assert len(assets.dataset("notes")["train"]) == 3


@pytest.mark.parametrize("record", ["", "{}", "[]"])
def test_an_unreadable_record_is_damage(index, record):
    (folder,) = assets.fetch(["notes"], index=index)
    (folder / "asset.json").write_text(record)
    assert assets.state("notes").startswith("damaged")


def test_a_changed_recipe_makes_the_folder_anew(index, monkeypatch):
    assets.fetch(["notes"], index=index)
    asset = dataclasses.replace(ASSETS["notes"], revision=2)
    monkeypatch.setitem(ASSETS, "notes", asset)
    assert assets.state("notes") == "outdated"
    monkeypatch.setattr(archives, "open_index", lambda: index)
    assets.dataset("notes")
    assert index.downloads == 2


def unreachable(content: bytes, path: Path) -> None:
    raise requests.ConnectionError("no route")


def test_no_network_and_no_cache_gives_one_message_with_the_ways_out(index, root):
    """It names the package, its size, the file to put by hand and where, and the two settings."""
    with pytest.raises(AssetError) as caught:
        assets.fetch(["notes"], index=StubIndex(index.file, unreachable))
    for part in ("toy 1.0 (0.0 MB)", index.file.name, str(root / "downloads"), "PIP_INDEX_URL"):
        assert part in str(caught.value)
    assert "BONDLAB_CACHE" in str(caught.value) and "ConnectionError" in str(caught.value)


def test_a_file_put_by_hand_serves_without_network(index, root):
    (root / "downloads").mkdir(parents=True)
    shutil.copy(index.file, root / "downloads")
    assets.fetch(["notes"], index=StubIndex(index.file, unreachable))
    assert assets.state("notes") == "ready"


def test_sizes_are_told_before_the_download(index, capsys):
    def send(content: bytes, path: Path) -> None:
        assert "Fetching 0.0 MB" in capsys.readouterr().out
        path.write_bytes(content)

    assets.fetch(["notes"], index=StubIndex(index.file, send))


def test_a_disk_without_room_stops_before_the_download(index, monkeypatch):
    usage = namedtuple("usage", "total used free")(10, 9, 1)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(AssetError, match="2.0 GB of free disk.*BONDLAB_CACHE"):
        assets.fetch(["notes"], index=index)
    assert index.downloads == 0
