"""What alignment did elsewhere: measures of a policy that no training here optimised.

Section 1 of the paper says that J-BOND improves "several benchmarks" and names none; these are
chosen because small models can be told apart by them without a person or a larger model to judge:
  constraints    share of answers that meet the constraint of an instruction (`instructions`)
  preferences    share of HHH comparisons whose preferred reply is the likelier, as BIG-bench scores
  margin         log-probability of the preferred reply less that of the other, nats
  bits_per_byte  of held-out text, given its first words: did alignment cost ability?

Tables are those of `items`: group is a kind, subset or corpus. Each policy is measured once.
Legend: B prompts, K completions a prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from bondlab import device, measures, paths
from bondlab.bank import seeded
from bondlab.lm.language_model import LanguageModel
from bondlab.lm.templates import chat_template
from bondlab.report.kept import Results, Tables, once
from bondlab.study import benchmark_texts
from bondlab.study.alignment import RUNS, AlignmentSettings, chosen
from bondlab.study.benchmark_texts import PROMPTS_AT_ONCE, rows
from bondlab.study.claims import Claim, Term
from bondlab.study.instructions import INSTRUCTIONS, followed
from bondlab.study.items import COLUMNS, REFERENCE
from bondlab.study.j_bond import EXPERIMENT, J_BOND
from bondlab.study.sweep import Spec
from bondlab.task import score
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

    The series' runs are finished. Nothing is measured twice.

    Raises:
        FileNotFoundError: "shipped" was asked for and nothing is.
    """

    def compute() -> Tables:
        specs, suite = chosen(EXPERIMENT, settings, series), SUITES[settings.profile]
        tables = [of_reference(specs[0], suite).assign(seed=0)]
        for spec in tqdm(specs, "benchmarks", leave=False):
            labels = {"policy": spec.labels["series"], "seed": spec.labels["seed"]}
            tables.append(of_run(spec, suite).assign(**labels))
        table = pd.concat(tables, ignore_index=True)[COLUMNS]
        return {"benchmarks": table.assign(profile=settings.profile)}

    return found.load(["benchmarks"], compute)


def of_run(spec: Spec, suite: Suite) -> pd.DataFrame:
    """The measures of a finished run's policy."""
    precision, parent = spec.config.precision, paths.runs_folder() / RUNS

    def compute() -> pd.DataFrame:
        policy = train(spec.build(), spec.algorithm, spec.config, parent).policy
        _, met = answer(policy, suite, suite.samples, precision)
        return measure(policy, met, suite, precision)

    return _once({"run": spec.folder(parent).path.name}, suite, compute)


def of_reference(spec: Spec, suite: Suite) -> pd.DataFrame:
    """The measures of a run's reference and of sampled Best-of-N of it; with a column policy.

    Best-of-N chooses by the task's reward among the reference's answers to the instructions. It has
    no likelihood of its own, so the other measures are the reference's alone.
    """
    task, precision = spec.build(), device.resolve(spec.config.precision)

    def compute() -> pd.DataFrame:
        texts, met = answer(task.model, suite, suite.reference_samples, precision)
        found = measure(task.model, met, suite, precision).assign(policy=REFERENCE)
        with device.accelerator(precision).autocast():
            rewards = score(task.reward, ASKED, texts)
        picked = [best_of_n(met, rewards, n) for n in suite.best_of]
        return pd.concat([found, *picked], ignore_index=True)

    return _once({"task": task.identity, "precision": precision}, suite, compute)


def _once(
    subject: Mapping[str, Any], suite: Suite, compute: Callable[[], pd.DataFrame]
) -> pd.DataFrame:
    asked = [[instruction.kind, instruction.text] for instruction in INSTRUCTIONS]
    what = {"version": VERSION, "instructions": asked, "suite": asdict(suite)}
    return once("benchmarks", {**what, **subject}, compute)[0]


# -- measures --------------------------------------------------------------------------------------


@torch.no_grad()
def measure(policy: LanguageModel, met: Tensor, suite: Suite, precision: str) -> pd.DataFrame:
    """Every measure of a policy whose answers met [B, K] of the constraints."""
    plain = _face(policy, "{prompt}", LONGEST_TEXT)
    openings = benchmark_texts.openings(suite.corpora, suite.texts)
    compared = benchmark_texts.comparisons(suite.corpora, suite.pairs)
    with device.accelerator(precision).autocast():
        tables = [
            constraints(met.mean(-1)),
            benchmark_texts.preferences(_chat(policy, LONGEST_TEXT), compared),
            benchmark_texts.bits_per_byte(plain, openings),
        ]
    return pd.concat(tables, ignore_index=True)


@torch.no_grad()
def answer(
    policy: LanguageModel, suite: Suite, samples: int, precision: str
) -> tuple[list[list[str]], Tensor]:
    """K answers to each of B instructions, and which of them follow it, 0 or 1 [B, K]."""
    chat, texts = _chat(policy, suite.answer_tokens), []
    for start in tqdm(range(0, len(ASKED), PROMPTS_AT_ONCE), "instructions", leave=False):
        prompts = chat.encode(ASKED[start : start + PROMPTS_AT_ONCE])
        generator = seeded(suite.seed, "instructions", start)
        with device.accelerator(precision).autocast():
            texts += chat.decode(chat.sample(prompts, samples, generator))
    met = [
        [followed(instruction, text) for text in answers]
        for instruction, answers in zip(INSTRUCTIONS, texts, strict=True)
    ]
    return texts, torch.tensor(met, dtype=torch.float64)


def best_of_n(met: Tensor, rewards: Tensor, n: int) -> pd.DataFrame:
    """The constraints of Best-of-n by rewards [B, K]: the mean over all n-subsets of answers."""
    return constraints(measures.best_of_n_value(met, rewards, n)).assign(
        policy=f"sampled Best-of-{n}"
    )


def constraints(shares: Tensor) -> pd.DataFrame:
    """Rows of the share of answers [B] that follow each instruction."""
    return rows("constraints", [instruction.kind for instruction in INSTRUCTIONS], shares)


def _chat(policy: LanguageModel, tokens: int) -> LanguageModel:
    return _face(policy, chat_template(policy.tokenizer, dialogue=True), tokens)


def _face(
    policy: LanguageModel, template: str | Callable[[str], str], tokens: int
) -> LanguageModel:
    """The same weights and law, reading other prompts."""
    limits = {"max_prompt_tokens": LONGEST_PROMPT, "max_new_tokens": tokens}
    face = LanguageModel(
        policy.model, policy.tokenizer, template, temperature=policy.temperature, **limits
    )
    return face.to(policy.device)


# -- claims ----------------------------------------------------------------------------------------


def _gain(measure: str, items: pd.DataFrame) -> np.ndarray:
    """A measure of J-BOND's policy less the reference's, on the same items, [S, items]."""
    values = items[items["measure"] == measure].set_index(["policy", "seed", "item"])["value"]
    own, base = (values[policy].unstack("item") for policy in (J_BOND, REFERENCE))
    return own.to_numpy() - base[own.columns].to_numpy()


CLAIMS = (
    Claim(
        "J-BOND improves several benchmarks.",
        "abstract; the paper names and shows none",
        [
            Term("constraints, J-BOND - reference", partial(_gain, "constraints"), above=0),
            Term("preferences, J-BOND - reference", partial(_gain, "preferences"), above=0),
        ],
        "Shares of the constraints met and of HHH's preferred replies found likelier.",
    ),
    Claim(
        "J-BOND costs no ability.",
        "ours",
        [Term("bits per byte, J-BOND - reference", partial(_gain, "bits_per_byte"), below=COST)],
        "Of held-out text.",
    ),
)
