"""BOND: distilling Best-of-N sampling into one-sample policies.

The library's face: `LanguageModel`, `Task`, an algorithm (`j_bond`, `bond` and the baselines),
an anchor where the algorithm takes one, `Config`, `train`. Each is imported when first asked for,
so that the command line starts without waiting for torch.
"""

from importlib import import_module

_HOMES = {
    "LanguageModel": "lm.language_model",
    "Task": "task",
    **dict.fromkeys(
        ("j_bond", "bond", "reinforce", "warp", "raft", "vbon", "online_dpo", "bonbon"),
        "algorithms",
    ),
    **dict.fromkeys(("Frozen", "Periodic", "MovingAverage"), "anchors"),
    "Learned": "quantiles",
    "Config": "config",
    "train": "training",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'bondlab' has no attribute {name!r}")
    return getattr(import_module(f"bondlab.{_HOMES[name]}"), name)
