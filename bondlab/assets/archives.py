"""Pinned package files: found on the simple index, downloaded, verified and unpacked as data.

No package is installed and none of its code runs.  The table pins the SHA-256 of every file and of
the members taken from it; a file with another digest is refused.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol
from uuid import uuid4

_TIMEOUT = 60.0  # seconds without an answer or a further byte


class AssetError(RuntimeError):
    """What is wrong with a model or data set, and what to change, in one message."""


class IndexUnreachable(AssetError):
    """The package index gave no answer; the message names the cause only."""


@dataclass(frozen=True)
class Archive:
    """One file of the package index.

    `members` are glob patterns of the paths to unpack, `members_sha256` is `digest_of_members` of
    what they yield; None where the file was never opened here, so that `sha256` alone vouches.
    """

    project: str
    version: str
    filename: str
    size: int  # bytes
    sha256: str
    members: tuple[str, ...]
    members_sha256: str | None

    @property
    def folder(self) -> str:
        return f"{self.project}-{self.version}"

    @property
    def label(self) -> str:
        return f"{self.project} {self.version} ({self.size / 1e6:.1f} MB)"


class Index(Protocol):
    """The part of `pypi_simple.PyPISimple` that is used."""

    def get_project_page(self, project: str, timeout: float) -> Any: ...

    def download_package(self, pkg: Any, path: Path, **options: Any) -> None: ...


def open_index() -> Index:
    """The index that pip is set to use (PIP_INDEX_URL), else the public one."""
    from pypi_simple import PYPI_SIMPLE_ENDPOINT, PyPISimple

    return PyPISimple(endpoint=os.environ.get("PIP_INDEX_URL") or PYPI_SIMPLE_ENDPOINT)


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of_members(folder: Path) -> str:
    """One SHA-256 over the sorted lines "<sha256> <path>" of every file below `folder`."""
    lines = sorted(
        f"{file_digest(path)} {path.relative_to(folder).as_posix()}\n"
        for path in folder.rglob("*")
        if path.is_file()
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@contextmanager
def atomic_folder(target: Path, scratch: Path) -> Iterator[Path]:
    """An empty folder that becomes `target` when the block ends well and vanishes when it does not.

    `scratch` must be on the file system of `target`, so that the last step is one rename; what a
    killed process leaves there is never taken for a result.
    """
    work = scratch / f"{target.name}-{uuid4().hex}"
    work.mkdir(parents=True)
    try:
        yield work
        if target.exists():
            shutil.rmtree(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def download(archive: Archive, folder: Path, index: Index | None = None) -> Path:
    """The verified file of `archive` in `folder`; one that is there already is used.

    Raises IndexUnreachable when the index has no answer or lacks the file, AssetError when it sends
    another content.
    """
    from pypi_simple import tqdm_progress_factory

    target, part = folder / archive.filename, folder / f"{archive.filename}.part"
    if target.exists() and file_digest(target) == archive.sha256:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    part.unlink(missing_ok=True)  # an interrupted download starts anew
    bar = tqdm_progress_factory(desc=archive.filename, leave=False, unit="B", unit_scale=True)
    try:
        with _reported_network():
            index = index or open_index()
            index.download_package(
                _listed(archive, index), part, verify=False, progress=bar, timeout=_TIMEOUT
            )
        found = file_digest(part)
        if found != archive.sha256:
            raise AssetError(
                f"{archive.filename} came with {part.stat().st_size} bytes and SHA-256 {found} "
                f"instead of {archive.size} and {archive.sha256}, so it was thrown away: fetch "
                f"again, and if the digest stays wrong set PIP_INDEX_URL to another index."
            )
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target


def _listed(archive: Archive, index: Index) -> Any:
    for package in index.get_project_page(archive.project, timeout=_TIMEOUT).packages:
        if package.filename == archive.filename:
            return package
    raise IndexUnreachable(f"it does not list {archive.filename}")


@contextmanager
def _reported_network() -> Iterator[None]:
    """One error for every way in which an index can be out of reach."""
    from pypi_simple import NoSuchProjectError
    from requests import RequestException

    try:
        yield
    except (RequestException, NoSuchProjectError) as error:
        raise IndexUnreachable(type(error).__name__) from error


def unpack(archive: Archive, file: Path, out: Path) -> None:
    """Write the wanted members of `file` below `out`, reading the file once.

    Raises AssetError for a wanted member with an absolute path or "..", for one that is not a plain
    file (links, devices), and when the unpacked members do not have the pinned digest.
    """
    for name, plain, content in _members(file):
        if not any(fnmatchcase(name, pattern) for pattern in archive.members):
            continue
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or not plain:
            raise AssetError(
                f"{file.name} holds an unsafe member ({name}): nothing was unpacked; "
                f"delete the file and fetch it again."
            )
        target = out.joinpath(*path.parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        with content() as source, target.open("xb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
    found = digest_of_members(out)
    if archive.members_sha256 not in (None, found):
        raise AssetError(
            f"The members of {file.name} have digest {found} instead of the pinned "
            f"{archive.members_sha256}: delete the file and fetch it again."
        )


def _members(file: Path) -> Iterator[tuple[str, bool, Any]]:
    """(path, is a plain file, opener) of every member that is not a folder."""
    if file.suffix == ".whl":
        with zipfile.ZipFile(file) as wheel:
            for info in wheel.infolist():
                kind = stat.S_IFMT(info.external_attr >> 16)
                if not info.is_dir():
                    yield info.filename, kind in (0, stat.S_IFREG), lambda i=info: wheel.open(i)
    else:
        with tarfile.open(file, "r|gz") as source:  # a stream: one pass, whatever is wanted
            for member in source:
                if not member.isdir():
                    yield member.name, member.isreg(), lambda m=member: _plain(source, m)


def _plain(source: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = source.extractfile(member)
    assert content is not None  # only called for plain files
    return content


def unpacked(archive: Archive, root: Path, index: Index | None = None) -> Path:
    """The folder of the wanted members below `root`, fetched and unpacked where it is missing.

    The file itself is deleted once its members are out: the largest is 358 MB for 62 MB of use.
    """
    target = root / "unpacked" / archive.folder
    if target.exists() and archive.members_sha256 in (None, digest_of_members(target)):
        return target
    file = download(archive, root / "downloads", index)
    with atomic_folder(target, root / "tmp") as work:
        unpack(archive, file, work)
    file.unlink()
    return target
