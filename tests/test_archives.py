"""Unpacking as data: only what is pinned, and nothing outside its folder."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from bondlab.assets.archives import Archive, AssetError, atomic_folder, digest_of_members, unpack


def wheel(folder: Path, *members: tuple[str, bytes, str]) -> Path:
    path = folder / "toy-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        for name, content, kind in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = (stat.S_IFLNK if kind == "link" else stat.S_IFREG) << 16
            file.writestr(info, content)
    return path


def sdist(folder: Path, *members: tuple[str, bytes, str]) -> Path:
    kinds = {"file": tarfile.REGTYPE, "link": tarfile.SYMTYPE, "hard link": tarfile.LNKTYPE}
    path = folder / "toy-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as file:
        for name, content, kind in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kinds[kind], "/etc/hostname"
            info.size = len(content) if kind == "file" else 0
            file.addfile(info, io.BytesIO(content))
    return path


def archive(*members: str, digest: str | None = None) -> Archive:
    return Archive("toy", "1.0", "toy", 0, "0" * 64, members, digest)


@pytest.mark.parametrize("make", [wheel, sdist])
def test_only_the_wanted_members_are_written(tmp_path, make):
    file = make(tmp_path, ("toy/a.txt", b"a", "file"), ("toy/setup.py", b"code", "file"))
    unpack(archive("toy/*.txt"), file, tmp_path / "out")
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert [path.name for path in written] == ["a.txt"] and written[0].read_bytes() == b"a"


@pytest.mark.parametrize(
    ("make", "name", "kind"),
    [
        (wheel, "../evil.txt", "file"),
        (wheel, "toy/../../evil.txt", "file"),
        (wheel, "/evil.txt", "file"),
        (wheel, "toy/evil.txt", "link"),
        (sdist, "../evil.txt", "file"),
        (sdist, "/evil.txt", "file"),
        (sdist, "toy/evil.txt", "link"),
        (sdist, "toy/evil.txt", "hard link"),
    ],
)
def test_a_member_that_could_leave_the_folder_is_refused(tmp_path, make, name, kind):
    """The message names the member, and no file of that name exists anywhere afterwards."""
    file = make(tmp_path, (name, b"evil", kind))
    with pytest.raises(AssetError, match="unsafe member.*evil"):
        unpack(archive("*"), file, tmp_path / "deep" / "out")
    assert list(tmp_path.rglob("evil.txt")) == []


@pytest.mark.parametrize("make", [wheel, sdist])
def test_members_with_another_digest_are_refused(tmp_path, make):
    good = make(tmp_path, ("toy/a.txt", b"a", "file"))
    unpack(archive("toy/*"), good, tmp_path / "first")
    digest = digest_of_members(tmp_path / "first")
    unpack(archive("toy/*", digest=digest), good, tmp_path / "second")
    other = make(tmp_path, ("toy/a.txt", b"b", "file"))
    with pytest.raises(AssetError, match="instead of the pinned"):
        unpack(archive("toy/*", digest=digest), other, tmp_path / "third")


def test_the_digest_of_members_depends_on_paths_and_contents(tmp_path):
    """Two files, their names exchanged, their contents exchanged: three different digests, and the
    double exchange is the first again."""
    digests = []
    for number, (name, other) in enumerate([("x", "y"), ("y", "x")]):
        for swapped in (False, True):
            folder = tmp_path / f"{number}{swapped}"
            folder.mkdir()
            (folder / name).write_bytes(b"2" if swapped else b"1")
            (folder / other).write_bytes(b"1" if swapped else b"2")
            digests.append(digest_of_members(folder))
    assert digests[0] == digests[3] and digests[1] == digests[2] and digests[0] != digests[1]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    """A block that fails leaves the folder of before; one that ends well replaces it."""
    target, scratch = tmp_path / "target", tmp_path / "scratch"
    with atomic_folder(target, scratch) as work:
        (work / "old").touch()
    with pytest.raises(ValueError), atomic_folder(target, scratch) as work:
        (work / "new").touch()
        raise ValueError
    assert [path.name for path in target.iterdir()] == ["old"]
    with atomic_folder(target, scratch) as work:
        (work / "new").touch()
    assert [path.name for path in target.iterdir()] == ["new"]
    assert list(scratch.iterdir()) == []
