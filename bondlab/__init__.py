"""BOND: distilling Best-of-N sampling into one-sample policies.

The library's face: `LanguageModel`, `Task`, an algorithm (`j_bond`, `bond` and the baselines),
an anchor where the algorithm takes one, `Config`, `train`. Each is imported when first asked for,
so that the command line starts without waiting for torch.

What is where, in reading order. The modules import from each other, from lm/ and from naming/; a
folder after these only from what stands above it, but `study` from neither `plan` nor `bench`:

    best_of_n   the exact distribution of Best-of-N, its quantiles and divergences
    rules       each algorithm as a function from scores to one weight per completion
    quantiles   p_<=, counted from samples or learned
    anchors     how the anchor follows the policy: never, by copies, as a moving average
    algorithms  an algorithm: a plan of who is sampled, and a rule; one constructor each
    measures    estimators of how far a policy is from Best-of-N
    task        what a run trains on: prompts, reference, reward; texts scored and checked
    config      settings of a run; device: where and how precisely it is computed; processes:
                what several of them, on one run, do and tell each other
    bank        samples of the reference, stored; which prompts pass by; the unit of rewards
    trainer     the loop, from the inside: one step of sampling, scoring, weighing, descending
    evaluation  what is measured of a policy, and of a step
    training    the loop, from the outside: `train`, and the run that it leaves
    results     what a run leaves on the disk, and checkpoints; paths: where
    lm/         one face for transformers' models: sampling, scoring, adapters, templates
    naming/     names of models, rewards and rules by what they compute: a run's id
    report/     how measures are shown: intervals, plots, kept tables, notebooks' parameters
    toy/        a policy whose every completion is listed: the test bed of 00, 00b, 06c and 10
    plan/       what a run will take, from a model's configuration: memory, operations, seconds
    assets/     models and data: fetched, verified, converted
    tasks/      XSum, sentiment, chat and tiny ones: prompts, reference and reward by name
    making/     how the adapters in weights/ were trained
    bench/      how fast it is: beside transformers and TRL, beside the machine's floor, by size
    study/      the paper's experiments, a file each: runs and claims as data; the sweep
"""

from importlib import import_module

_FACE = {
    "lm.language_model": "LanguageModel",
    "task": "Task",
    "algorithms": "j_bond bond reinforce warp raft vbon online_dpo bonbon wind qrpo max_at_k",
    "anchors": "Frozen Periodic MovingAverage",
    "quantiles": "Learned",
    "config": "Config",
    "training": "train",
}
_HOMES = {name: home for home, names in _FACE.items() for name in names.split()}
_CHAPTERS = {"templates": "lm.templates", "tiny": "tasks.tiny"}  # modules on the face
__all__ = [*_HOMES, *_CHAPTERS]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> object:
    if name in _CHAPTERS:
        return import_module(f"bondlab.{_CHAPTERS[name]}")
    if name not in _HOMES:
        raise AttributeError(f"module 'bondlab' has no attribute {name!r}")
    return getattr(import_module(f"bondlab.{_HOMES[name]}"), name)
