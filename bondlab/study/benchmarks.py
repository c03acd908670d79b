"""What alignment did elsewhere: measures of a policy that no training here optimised.

Section 1 of the paper says that J-BOND improves "several benchmarks" and names none; these are
chosen because small models can be told apart by them without a person or a larger model to judge:
  constraints    share of answers that meet the constraint of an instruction (`instructions`)
  preferences    share of HHH comparisons whose preferred reply is the likelier, as BIG-bench scores
  margin         log-probability of the preferred reply minus that of the other, nats
  bits_per_byte  of held-out text, given its first words: did alignment cost ability?

Tables are those of `items`: group is a kind, subset or corpus. Each policy is measured once.
Legend: B prompts, K completions per prompt.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from bondlab import device, measures, paths
from bondlab.lm.language_model import LanguageModel
from bondlab.lm.templates import chat_template
from bondlab.report.kept import Results, Tables, once
from bondlab.study import benchmark_texts as texts
from bondlab.study import j_bond
from bondlab.study.alignment import J_BOND, RUNS, AlignmentSettings, chosen, specs
from bondlab.study.audit import sampled
from bondlab.study.claims import Claim, Term
from bondlab.study.controls import ALONE
from bondlab.study.experiment import Experiment
from bondlab.study.instructions import INSTRUCTIONS
from bondlab.study.items import COLUMNS, REFERENCE
from bondlab.study.sweep import Spec
from bondlab.task import Reward, score
from bondlab.training import train

VERSION = 1  # raise when a measure's numbers or an instruction's rule change: all is measured anew
ASKED = [instruction.text for instruction in INSTRUCTIONS]
LONGEST_PROMPT, LONGEST_TEXT = 512, 256  # tokens; a tenth of the HHH replies are longer than 118
COST = 0.02  # bits per byte of held-out text that alignment may cost and still be cheap


@dataclass(frozen=True)
class Suite:
    """How much is measured; every instruction is, at any size.

    Args:
        samples: answers of a policy to each instruction.
        reference_samples: the same of the reference, from which Best-of-N is chosen.
        pairs: HHH comparisons; texts: held-out texts of each corpus. Fewer, if there are fewer.
        best_of: sizes of sampled Best-of-N, none above `reference_samples`.
        answer_tokens: the longest answer.
        corpora: "embedded" for the study's data sets, "made" for texts made by code.
    """

    samples: int
    reference_samples: int
    pairs: int
    texts: int
    best_of: tuple[int, ...] = (2, 8)
    answer_tokens: int = 64
    corpora: str = "embedded"
    seed: int = 0


SUITES = {
    "smoke": Suite(1, 4, pairs=6, texts=4, best_of=(2, 4), answer_tokens=8, corpora="made"),
    "laptop": Suite(1, 8, pairs=32, texts=12, answer_tokens=32),
    "study": Suite(4, 16, pairs=221, texts=100),
    "paper": Suite(4, 32, pairs=221, texts=500, answer_tokens=256),
}


def results(found: Results, settings: AlignmentSettings, series: Collection[str]) -> Results:
    """The results with the table benchmarks: items of the reference, Best-of-N and some series.

    The series' runs are finished. Nothing is measured twice. Raises as `Results.load`.
    """

    def compute() -> Tables:
        runs, suite = chosen(j_bond.EXPERIMENT, settings, series), SUITES[settings.profile]
        tables = [measured(runs[0], suite, trained=False).assign(seed=0)]
        for spec in tqdm(runs, "benchmarks", leave=False):
            labels = {"policy": spec.labels["series"], "seed": spec.labels["seed"]}
            tables.append(measured(spec, suite, trained=True).assign(**labels))
        table = pd.concat(tables, ignore_index=True)[COLUMNS]
        return {"benchmarks": table.assign(profile=settings.profile)}

    return found.load(["benchmarks"], compute)


def measured(spec: Spec, suite: Suite, trained: bool) -> pd.DataFrame:
    """`measure` of a finished run's policy, or of its reference and sampled Best-of-N; once."""
    task, precision = spec.build(), device.resolve(spec.config.precision)
    parent = paths.runs_folder() / RUNS

    def compute() -> pd.DataFrame:
        if trained:
            policy = train(task, spec.algorithm, spec.config, parent).policy
            return measure(policy, suite, suite.samples, precision)
        return measure(task.model, suite, suite.reference_samples, precision, task.reward)

    run, reference = spec.folder(parent).path.name, {"task": task.identity, "precision": precision}
    what = {
        "version": VERSION,
        "instructions": [[instruction.kind, instruction.text] for instruction in INSTRUCTIONS],
        "suite": asdict(suite),
        **({"run": run} if trained else reference),
    }
    return once("benchmarks", what, compute)[0]


# -- measures --------------------------------------------------------------------------------------


def measure(
    policy: LanguageModel, suite: Suite, samples: int, precision: str, reward: Reward | None = None
) -> pd.DataFrame:
    """Every measure of a policy, which gives so many answers to each instruction.

    With a reward also what sampled Best-of-N chooses among them: it has no likelihood of its own.
    """
    asked = _face(policy, suite.answer_tokens, dialogue=True)
    chat, plain = (_face(policy, LONGEST_TEXT, dialogue) for dialogue in (True, False))
    counts, stream = [samples] * len(ASKED), (suite.seed, "instructions")
    with device.autocast(precision):
        answers = sampled(asked, ASKED, counts, stream, texts.PROMPTS_AT_ONCE)
        likely = [
            texts.preferences(chat, texts.comparisons(suite.corpora, suite.pairs)),
            texts.bits_per_byte(plain, texts.openings(suite.corpora, suite.texts)),
        ]
        rewards = score(reward, ASKED, answers) if reward else None
    met = followed(answers)
    shares = {REFERENCE: met.mean(-1)}
    if reward:  # the mean over all n-subsets of the answers
        best = {n: measures.best_of_n_value(met, rewards, n) for n in suite.best_of}
        shares |= {f"sampled Best-of-{n}": share for n, share in best.items()}
    kinds = [instruction.kind for instruction in INSTRUCTIONS]
    tables = [texts.rows("constraints", kinds, x).assign(policy=who) for who, x in shares.items()]
    tables += [table.assign(policy=REFERENCE) for table in likely]
    return pd.concat(tables, ignore_index=True)


def followed(answers: Sequence[Sequence[str]]) -> Tensor:
    """Which of K answers follow each instruction, 0 or 1 [B, K]."""
    pairs = zip(INSTRUCTIONS, answers, strict=True)
    met = [[instruction.followed(text) for text in own] for instruction, own in pairs]
    return torch.tensor(met, dtype=torch.float64)


def _face(policy: LanguageModel, tokens: int, dialogue: bool) -> LanguageModel:
    """The same weights and distribution, reading dialogues or plain texts."""
    return LanguageModel(
        policy.model,
        policy.tokenizer,
        chat_template(policy.tokenizer, dialogue) if dialogue else "{prompt}",
        max_prompt_tokens=LONGEST_PROMPT,
        max_new_tokens=tokens,
        temperature=policy.temperature,
    )


# -- claims ----------------------------------------------------------------------------------------


def _gain(measure: str, items: pd.DataFrame) -> np.ndarray:
    """A measure of J-BOND's policy minus the reference's, on the same items, [S, items]."""
    values = items[items["measure"] == measure]
    own = values[values["series"] == J_BOND].pivot(index="seed", columns="item", values="value")
    base = values[values["series"] == REFERENCE].set_index("item")["value"]
    return own.to_numpy() - base[own.columns].to_numpy()


def _term(measure: str, **bounds: float) -> Term:
    what = f"{measure.replace('_', ' ')}, J-BOND minus reference"
    return Term(what, (J_BOND, REFERENCE), partial(_gain, measure), **bounds)


CLAIMS = (
    Claim(
        "ours-2",
        "J-BOND improves several benchmarks.",
        "abstract; the paper names and shows none",
        [_term("constraints", above=0), _term("preferences", above=0)],
        "Shares of the constraints met and of HHH's preferred replies found likelier.",
        short="J-BOND improves benchmarks",
    ),
    Claim(
        "ours-3",
        "J-BOND costs no ability.",
        "ours",
        [_term("bits_per_byte", below=COST)],
        "Of held-out text.",
        short="J-BOND costs no ability",
    ),
)


def both_tasks(profile: str) -> list[Spec]:
    """The runs of Figure 7 and, where runs may take hours, the same on chat."""
    tasks = ("sentiment", "chat") if profile in ("study", "paper") else ("sentiment",)
    made = partial(specs, j_bond.figure_7, "google/gemma-7b", profile)
    return [spec for task in tasks for spec in made(task)]


# Asked once more on chat: Figure 7's claims, and those on J-BOND alone.
ON_CHAT = (*j_bond.EXPERIMENT.claims, *ALONE)
# Its tables are beside Figure 7's, whose runs these are.
EXPERIMENT = Experiment(
    "benchmarks_and_chat",
    "What training never saw, and the other task",
    "07c_benchmarks_and_chat",
    both_tasks,
    runs=RUNS,
    claims=CLAIMS,
)
