"""`python -m bondlab plan`: from the command line's words to what is printed."""

from __future__ import annotations

import argparse
from ast import literal_eval
from collections.abc import Sequence

from bondlab import algorithms, anchors
from bondlab.algorithms import Algorithm
from bondlab.config import Config
from bondlab.plan import plan
from bondlab.plan.tables import overview
from bondlab.quantiles import Learned

# What the constructors ask for; numbers that cost nothing (strengths, rates) are the study's.
SETTINGS = {
    "j_bond": {},
    "bond": {"n": 8, "beta": 0.5},
    "reinforce": {"beta_rl": 0.1},
    "warp": {"beta_rl": 0.1, "rate": 0.01},
    "raft": {"n": 8, "anchor": anchors.FROZEN},
    "vbon": {"n": 8},
    "online_dpo": {"beta_dpo": 0.1},
    "bonbon": {"n": 8},
    "wind": {"beta": 0.1},
    "qrpo": {"beta": 0.1},
    "max_at_k": {"k": 4, "beta_rl": 0.1},
}
WORDS = {
    "frozen": anchors.FROZEN,
    "periodic": anchors.Periodic(50),
    "average": anchors.MovingAverage(0.02),
    "learned": Learned(),
}


def command(options: argparse.Namespace) -> str:
    """One model's plan, or a row per model, with adapters and with all weights trained.

    Raises:
        ValueError: no such model, device, algorithm or setting.
    """
    chosen = algorithm(options.algorithm)
    names = "prompts_per_step", "micro_batch", "sampling_batch", "fresh", "precision"
    given = {name: getattr(options, name) for name in names if getattr(options, name)}
    rank = None if options.all_weights else options.lora

    def planned(model: str, rank: int | None):
        config = Config(steps=1, lora_rank=rank, **given)
        lengths = options.prompt_tokens, options.completion_tokens
        return plan(model, chosen, config, *lengths, options.device)

    if len(options.models) == 1:
        return str(planned(options.models[0], rank))
    ranks = dict.fromkeys([rank, None])
    return overview(planned(model, rank) for model in options.models for rank in ranks)


def algorithm(words: Sequence[str]) -> Algorithm:
    """Of a name and settings: "bond", "n=4", "quantile_model=learned".

    Raises:
        ValueError: no such algorithm, or settings that it does not take.
    """
    name, *given = words
    if name not in SETTINGS:
        raise ValueError(f"no algorithm is called {name!r}: choose {', '.join(SETTINGS)}")
    settings = dict(SETTINGS[name])
    try:
        for word in given:
            key, _, value = word.partition("=")
            settings[key] = WORDS[value] if value in WORDS else literal_eval(value)
        return getattr(algorithms, name)(**settings)
    except (SyntaxError, TypeError, ValueError) as error:
        known = ", ".join(WORDS)
        raise ValueError(
            f"{' '.join(words)} is no algorithm ({error}): write settings as n=4; words: {known}"
        ) from error
