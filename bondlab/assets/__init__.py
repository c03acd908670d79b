"""Models and data: fetched once by name and version, verified, converted to ordinary folders.

`model_path(name)` and `dataset(name)` take a name of the catalogue, a hub name (organisation/name)
or a local folder (./name), so the study's own assets and anybody else's go through one face.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bondlab.assets.cache import AssetError, fetch, file_digest, folder_of, state, unknown
from bondlab.assets.catalogue import ARCHIVES, ASSETS

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset, DatasetDict

__all__ = ["AssetError", "dataset", "fetch", "file_digest", "listing", "model_path", "state"]

_OTHER_FRAMEWORKS = ["*.h5", "*.msgpack", "*.ot", "*.onnx", "*.gguf", "*.tflite"]


def model_path(name: str) -> Path:
    """An ordinary Hugging Face model folder for `name`, fetched and converted where it is missing.

    Raises AssetError for an unknown name, a data set's name, or when the model is missing and
    cannot be fetched.
    """
    if name in ASSETS:
        return _ready(name, "model")
    if Path(name).is_dir():
        return Path(name).resolve()
    from huggingface_hub import snapshot_download

    return Path(_from_hub(snapshot_download, name, ignore_patterns=_OTHER_FRAMEWORKS))


def dataset(name: str) -> Dataset | DatasetDict:
    """The data set of `name`, fetched and converted where it is missing.  Raises as `model_path`.

    A local folder is one written by `save_to_disk`, or anything that `load_dataset` reads.
    """
    import datasets

    if name in ASSETS:
        return datasets.load_from_disk(_ready(name, "dataset"))
    if not Path(name).is_dir():
        return _from_hub(datasets.load_dataset, name)
    saved = any((Path(name) / part).exists() for part in ("state.json", "dataset_dict.json"))
    return datasets.load_from_disk(name) if saved else datasets.load_dataset(name)


def _from_hub(load: Any, name: str, **options: Any) -> Any:
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise unknown(name)
    try:
        return load(name, **options)
    except (OSError, ValueError) as error:  # hub and network errors are among these
        raise AssetError(
            f"'{name}' is neither a local folder nor could it be had from the hub "
            f"({type(error).__name__}): check the name, connect to a network or give the path of "
            f"a local folder."
        ) from error


def _ready(name: str, kind: str) -> Path:
    """The folder of an asset of the right kind, made where it is not as it should be."""
    asset = ASSETS[name]
    if asset.kind != kind:
        use = "dataset" if asset.kind == "dataset" else "model_path"
        raise AssetError(f"'{name}' is a {asset.kind}, not a {kind}: use assets.{use}('{name}').")
    if state(name) != "ready":
        fetch([name])
    return folder_of(name)


def listing() -> pd.DataFrame:
    """One row an asset: kind, download in MB, state, origin, licence and packages."""
    import pandas as pd

    rows = []
    for asset in ASSETS.values():
        archives = [ARCHIVES[project] for project in asset.archives]
        rows.append(
            {
                "asset": asset.name,
                "kind": asset.kind,
                "download_mb": round(sum(archive.size for archive in archives) / 1e6, 1),
                "state": state(asset.name),
                "origin": asset.origin,
                "licence": asset.licence,
                "packages": ", ".join(archive.file for archive in archives),
            }
        )
    return pd.DataFrame(rows)
