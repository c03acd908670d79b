"""What alignment did elsewhere: measures of a policy that no training here optimised.

Section 1 of the paper says that J-BOND improves "several benchmarks" and names none; these are
chosen because small models can be told apart by them without a person or a larger model to judge:
  constraints    share of answers that meet the constraint of an instruction (`instructions`)
  preferences    share of HHH comparisons whose preferred reply is the likelier, as BIG-bench scores
  margin         log-probability of the preferred reply less that of the other, nats
  bits_per_byte  of held-out text, given its first words: did alignment cost ability?
A policy that summarises reads documents alone: of it, bits_per_byte of the human summaries.

All tables are long, a row a value: measure, group (kind, subset or corpus), item (unique within a
measure: what intervals resample) and value. Results are stored below `runs/benchmarks`.
Legend: B prompts, K completions a prompt.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from tqdm.auto import tqdm

from bondlab import device, measures, paths, results, training
from bondlab.bank import seeded
from bondlab.lm.language_model import LanguageModel
from bondlab.lm.templates import chat_template
from bondlab.results import write_atomically
from bondlab.study import benchmark_texts, instructions, likelihoods
from bondlab.study.decisions import REFERENCE
from bondlab.study.instructions import INSTRUCTIONS, followed
from bondlab.study.sweep import Spec
from bondlab.task import Task, score

VERSION = 1  # raise when a measure's numbers change: what is stored then no longer matches
PROMPTS_AT_ONCE = 8
COLUMNS = ["policy", "seed", "measure", "group", "item", "value"]
ASKED = [instruction.text for instruction in INSTRUCTIONS]
LONGEST_PROMPT, LONGEST_TEXT = 512, 256  # tokens; a tenth of the HHH replies are longer than 118
Count = Annotated[int, Field(ge=1)]


class Suite(BaseModel):
    """How much is measured; every instruction is, at any size.

    Args:
        corpora: "embedded" for the study's data sets, "made" for texts made by code.
        samples: answers of a policy to each instruction.
        reference_samples: the same of the reference, from which Best-of-N is chosen.
        answer_tokens: the longest answer.
        best_of: sizes of sampled Best-of-N, none above `reference_samples`.
        pairs: HHH comparisons; texts: held-out texts of each corpus. Fewer, if there are fewer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    corpora: Literal["embedded", "made"] = "embedded"
    samples: Count
    reference_samples: Count
    best_of: tuple[Count, ...] = (2, 8)
    answer_tokens: Count = 64
    pairs: Count
    texts: Count
    seed: int = 0


SUITES = {
    "smoke": Suite(
        corpora="made", samples=1, reference_samples=4, best_of=(2, 4), answer_tokens=8, pairs=6,
        texts=4,
    ),
    "laptop": Suite(samples=1, reference_samples=8, answer_tokens=32, pairs=32, texts=12),
    "study": Suite(samples=4, reference_samples=16, pairs=221, texts=100),
    "paper": Suite(samples=4, reference_samples=32, answer_tokens=256, pairs=221, texts=500),
}  # fmt: skip


def collect(specs: Sequence[Spec], parent: Path, suite: Suite) -> pd.DataFrame:
    """The measures of finished runs of one task, of their reference and of Best-of-N of it.

    Args:
        specs: the runs, with the labels series and seed; they lie below `parent`.

    Returns:
        Columns policy, seed, measure, group, item, value; the reference comes first.
    """
    tables = [of_reference(specs[0], suite).assign(seed=0)]
    for spec in tqdm(specs, "benchmarks", leave=False):
        labels = {"policy": spec.labels["series"], "seed": spec.labels["seed"]}
        tables.append(of_run(spec, parent, suite).assign(**labels))
    return pd.concat(tables, ignore_index=True)[COLUMNS]


def of_run(spec: Spec, parent: Path, suite: Suite) -> pd.DataFrame:
    """The measures of a finished run's policy."""
    precision = spec.config.precision

    def compute() -> pd.DataFrame:
        policy = training.train(spec.build(), spec.algorithm, spec.config, parent).policy
        answers = answer(policy, suite, suite.samples, precision)
        return measure(policy, answers, suite, precision)

    return _stored({"run": spec.folder(parent).path.name}, suite, compute)


def of_reference(spec: Spec, suite: Suite) -> pd.DataFrame:
    """The measures of a run's reference and of sampled Best-of-N of it; with a column policy.

    Best-of-N chooses by the task's reward among the reference's answers to the instructions. It has
    no likelihood of its own, so the other measures are the reference's alone.
    """
    task, precision = spec.build(), device.resolve(spec.config.precision)

    def compute() -> pd.DataFrame:
        answers = answer(task.model, suite, suite.reference_samples, precision)
        found = measure(task.model, answers, suite, precision).assign(policy=REFERENCE)
        chosen = [best_of_n(answers, task, n, precision) for n in suite.best_of if answers]
        return pd.concat([found, *chosen], ignore_index=True)

    return _stored({"task": task.identity, "precision": precision}, suite, compute)


def _stored(
    subject: Mapping[str, Any], suite: Suite, compute: Callable[[], pd.DataFrame]
) -> pd.DataFrame:
    """The table of a subject under a suite: read, or computed and kept."""
    identity = {
        "version": VERSION,
        "instructions": inspect.getsource(instructions),  # texts and the rules that check them
        "suite": suite.model_dump(),
        **subject,
    }
    path = paths.runs_folder() / "benchmarks" / f"{results.digest(identity)}.parquet"
    if not path.exists():
        write_atomically(path, compute().to_parquet(index=False))
    return pd.read_parquet(path)


@dataclass(frozen=True)
class Answers:
    """Answers to the instructions, B lists of K texts, and which of them follow [B, K]."""

    texts: list[list[str]]
    followed: Tensor


@torch.no_grad()
def measure(
    policy: LanguageModel, answers: Answers | None, suite: Suite, precision: str
) -> pd.DataFrame:
    """Every measure that suits a policy with these `answers`; a summariser has none."""
    with device.accelerator(precision).autocast():
        if answers is None:
            pairs = benchmark_texts.summaries(suite.corpora, suite.texts)
            return likelihoods.bits_per_byte(policy, pairs)
        plain = _face(policy, "{prompt}", LONGEST_TEXT)
        pairs = benchmark_texts.openings(suite.corpora, suite.texts)
        compared = benchmark_texts.comparisons(suite.corpora, suite.pairs)
        tables = [
            constraints(answers.followed.mean(-1)),
            likelihoods.preferences(_chat(policy, LONGEST_TEXT), compared),
            likelihoods.bits_per_byte(plain, pairs),
        ]
    return pd.concat(tables, ignore_index=True)


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


# -- constraints -----------------------------------------------------------------------------------


@torch.no_grad()
def answer(policy: LanguageModel, suite: Suite, samples: int, precision: str) -> Answers | None:
    """Draw answers to every instruction and check them; None of an encoder-decoder."""
    if policy.is_encoder_decoder:
        return None
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
    return Answers(texts, torch.tensor(met, dtype=torch.float64))


def constraints(shares: Tensor) -> pd.DataFrame:
    """Rows of the share of answers [B] that follow each instruction."""
    return likelihoods.rows("constraints", [i.kind for i in INSTRUCTIONS], shares)


def best_of_n(answers: Answers, task: Task, n: int, precision: str) -> pd.DataFrame:
    """The constraints of Best-of-n by the task's reward: the mean over all n-subsets of answers."""
    with device.accelerator(precision).autocast():
        rewards = score(task.reward, ASKED, answers.texts)
    shares = measures.best_of_n_value(answers.followed, rewards, n)
    return constraints(shares).assign(policy=f"sampled Best-of-{n}")
