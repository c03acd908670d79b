"""Models by name: the right kind from a folder, in the asked precision, named by their files."""

from __future__ import annotations

import hashlib
import shutil

import pytest
import torch
from transformers import ViTConfig

from bondlab import assets
from bondlab.lm.language_model import LanguageModel
from bondlab.tasks import models, tiny


def saved(folder, family: str = "gemma", seed: int = 0) -> str:
    {"gemma": tiny.gemma, "t5": tiny.t5}[family](seed).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(("family", "both"), [("gemma", False), ("t5", True)])
@torch.no_grad()
def test_a_folder_is_read_as_the_kind_it_is(family, both, tmp_path):
    """Causal or encoder-decoder by its configuration; the law is that of the saved model."""
    model = LanguageModel(*models.load(saved(tmp_path, family)), max_new_tokens=5)
    assert model.is_encoder_decoder == both
    expected = tiny.language_model(family)
    prompts = model.encode(["the city council", "rain"])
    drawn = model.sample(prompts, 2, torch.Generator().manual_seed(0))
    torch.testing.assert_close(expected(prompts, drawn), drawn.log_probs, atol=1e-4, rtol=0)


def test_weights_are_stored_as_asked(tmp_path):
    """bfloat16 from the start, without a float32 copy in between; float32 if nothing is said."""
    name = saved(tmp_path)
    assert {p.dtype for p in models.load(name, torch.bfloat16)[0].parameters()} == {torch.bfloat16}
    model = LanguageModel(*models.load(name))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    placed = models.placed(model, "bf16")
    assert {p.dtype for p in placed.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in placed.parameters())


def test_a_model_is_named_by_its_files(tmp_path):
    """The folder's name and a digest: of the weights, of what ends a completion, and of how texts
    are read; a copy in another folder of the same name has the same one, a note beside the files
    changes nothing."""
    name = saved(tmp_path / "a" / "policy")
    first = models.identity(name)
    assert first.startswith("policy@")
    (tmp_path / "a" / "policy" / "README.md").write_text("a note")
    shutil.copytree(tmp_path / "a" / "policy", tmp_path / "b" / "policy")
    assert first == models.identity(name) == models.identity(str(tmp_path / "b" / "policy"))
    model = tiny.gemma()
    model.generation_config.eos_token_id = [1, 2]
    model.generation_config.save_pretrained(name)
    second = models.identity(name)
    saved(tmp_path / "a" / "policy", seed=1)
    third = models.identity(name)
    tokenizer = tiny.tokenizer()
    tokenizer.pad_token = "rain"
    tokenizer.save_pretrained(name)
    assert len({first, second, third, models.identity(name)}) == 4


def test_a_file_is_read_once_while_it_stays(tmp_path, monkeypatch):
    """Gigabytes of weights are not digested again for each task of a process; a file that was
    written anew is, also where its size stays."""
    file, read, digest = tmp_path / "weights", [], hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *given: read.append(1) or digest(*given))
    file.write_text("abc")
    first = assets.file_digest(file)
    assert assets.file_digest(file) == first == hashlib.sha256(b"abc").hexdigest()
    assert len(read) == 1
    file.write_text("abd")
    assert assets.file_digest(file) == hashlib.sha256(b"abd").hexdigest()


def test_a_folder_of_another_kind_is_refused(tmp_path):
    """An image classifier writes no text; a name that is nowhere is quoted."""
    ViTConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="ViTConfig"):
        models.load(str(tmp_path))
    with pytest.raises(assets.AssetError, match="no-such-model"):
        models.load("no-such-model")
