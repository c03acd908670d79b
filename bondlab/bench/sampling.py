"""Completions drawn by `LanguageModel.sample` and by transformers' `generate`, of one model.

Both draw from the same distribution (temperature 1, nothing filtered), under the same autocast,
until an end token or the longest completion.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from bondlab import device
from bondlab.bench.cases import SEED, Case, Sizes
from bondlab.bench.timing import OURS, Side, alternated, timed
from bondlab.bench.workload import ends, folder, language_model, texts
from bondlab.lm import model_settings
from bondlab.lm.completions import Prompts
from bondlab.lm.language_model import LanguageModel


def measure(cases: Iterable[Case], profile: str, sizes: Sizes) -> list[dict]:
    """Rows of `timing.alternated` by case."""
    rows, models = [], {}
    for case in cases:
        if case.model not in models:  # the first case of a model has the most prompts
            models = {case.model: prepared(folder(case.model, profile), case)}
        model, prompts = models[case.model]
        sides = sides_of(case, model, prompts.rows(slice(case.shape.prompts)))
        with torch.no_grad(), device.autocast("auto"):
            rows += [{"case": case.name, **row} for row in alternated(sides, sizes.repeats)]
    return rows


def prepared(path: Path, case: Case) -> tuple[LanguageModel, Prompts]:
    """The model, with end tokens at which two completions of three end early, and its prompts."""
    model = language_model(path, case, device.dtype("auto"))
    given = texts(model.tokenizer, case.shape.prompts, case.shape.prompt_tokens)
    with device.autocast("auto"):
        found = ends(model, given, case.shape.new_tokens)
    model.model.generation_config.eos_token_id = [model.tokenizer.eos_token_id, *found]
    return model, model.encode(given)


def sides_of(case: Case, model: LanguageModel, prompts: Prompts) -> dict[str, Side]:
    """Ours and `generate`, asked for the same completions."""
    k, generator = case.shape.k, torch.Generator().manual_seed(SEED)
    config = model_settings.sampling(model)
    config.num_return_sequences = k
    given = {"input_ids": prompts.ids, "attention_mask": prompts.mask}

    def ours() -> torch.Tensor:
        return model.sample(prompts, k, generator).lengths

    def generate() -> torch.Tensor:
        return model.model.generate(**given, generation_config=config)

    def mean(lengths: torch.Tensor) -> dict[str, float]:
        return {"length": lengths.float().mean().item()}

    start = 1 if model.is_encoder_decoder else prompts.ids.shape[1]
    return {
        OURS: timed(ours, mean),
        "generate": timed(generate, lambda out: mean(_lengths(out[:, start:], model))),
    }


def _lengths(tokens: torch.Tensor, model: LanguageModel) -> torch.Tensor:
    """Of completions [R, T], their end token included."""
    ended = torch.isin(tokens, model.end_tokens)
    return (ended.cumsum(1) - ended.long() == 0).sum(1)
