"""The bank: samples of the reference with their rewards, drawn once and used by every run.

The reference does not move, so its completions of a prompt serve every N, beta and seed: Best-of-N
draws and quantile draws are random subsets of the bank. Where each time that a prompt passes by has
its own (`Config.fresh`), the bank is one seed's. Stored in parts of a few prompts each, so an
interrupted bank goes on where it stopped, and several processes may fill one.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from bondlab import device, paths, processes, results
from bondlab.config import Config
from bondlab.lm.completions import Completions, concatenate, slices
from bondlab.lm.language_model import LanguageModel
from bondlab.lm.sampler import forget
from bondlab.naming import fingerprint
from bondlab.processes import Share
from bondlab.task import Reward, Task, score

PROMPTS_A_PART = 8
# The spread is measured on so many. Not stated in the paper. 31 x 8 = 248 degrees of freedom, if
# every training prompt is as good as another, give the standard deviation to about 5 %.
SPREAD_PROMPTS, SPREAD_SAMPLES = 32, 8
# Streams of random numbers: 0 and 1 are those of the training and the held-out bank, 3 and further
# those of the training banks that the runs of a seed share.
SPREAD_STREAM, SHARED_STREAMS = 2, 3


@dataclass(frozen=True)
class Bank:
    """M completions of each of B prompts and their rewards [B, M]."""

    completions: Completions
    rewards: Tensor

    def subset(
        self,
        prompts: Tensor,
        sizes: Sequence[int],
        generator: torch.Generator,
        share: Share | None = None,
    ) -> list[tuple[Completions, Tensor]]:
        """Disjoint random subsets of the bank for prompts [b]: one (completions, rewards) a size.

        The sizes add up to M or less. Completions stay where they are, rewards on the processor.
        Prompts that are a share of a batch get what they would get in the whole one.
        """
        total, rows = (share.total, share.rows) if share else (len(prompts), slice(None))
        order = torch.rand(total, self.rewards.shape[1], generator=generator)[rows].argsort(1)
        where = self.completions.tokens.device
        completions = self.completions.rows(prompts.to(where))
        parts = order[:, : sum(sizes)].split(list(sizes), 1)
        return [(completions.take(p.to(where)), self.rewards[prompts].gather(1, p)) for p in parts]


@dataclass(frozen=True)
class BankFolder:
    """A bank on disk; `path` is named by a hash of what determines the samples.

    `at_once` prompts are drawn for together, which changes them by rounding alone.
    """

    path: Path
    prompts: Sequence[str]
    samples: int
    seed: int
    precision: device.Precision
    at_once: int

    @classmethod
    def of(
        cls,
        task: Task,
        prompts: Sequence[str],
        samples: int,
        seed: int,
        precision: device.Precision,
        at_once: int = PROMPTS_A_PART,
    ) -> BankFolder:
        """The folder for `samples` completions per prompt of the task's reference.

        `precision` is that of the computation: log-probabilities depend on it.
        """
        model = task.model
        try:
            template = fingerprint.of(model.template)
        except fingerprint.Unnamed:  # it goes with the policy's name
            template = "the policy's"
        # A policy whose name was given may still have been given another template, limit or end.
        identity = {
            "results_version": results.RESULTS_VERSION,
            "task": task.identity,
            "prompts": results.digest(list(prompts)),
            "samples": samples,
            "seed": seed,
            "template": template,
            "limits": [model.max_prompt_tokens, model.max_new_tokens],
            "ends": model.end_tokens.tolist(),
            "temperature": model.temperature,
            "weights": str(next(model.parameters()).dtype),
            "precision": device.resolve(precision),
        }
        path = paths.runs_folder() / "banks" / results.digest(identity)
        return cls(path, list(prompts), samples, seed, precision, at_once)

    def _files(self) -> list[Path]:
        """The file of each part."""
        parts = -(-len(self.prompts) // PROMPTS_A_PART)
        return [self.path / f"part-{part:04d}.pt" for part in range(parts)]

    def missing(self) -> list[int]:
        """Numbers of the parts not yet drawn."""
        return [part for part, file in enumerate(self._files()) if not file.exists()]

    def fill(self, task: Task, part: int) -> None:
        """Draw and score one part; the result depends on the part alone, not on who draws it.

        Raises:
            ValueError: the model gives NaN.
        """
        prompts = self.prompts[part * PROMPTS_A_PART : (part + 1) * PROMPTS_A_PART]
        model, found = task.model.to(device.place()), []
        for rows in slices(len(prompts), self.at_once):
            given = prompts[rows], self.samples, seeded(self.seed, "bank", part)
            with device.autocast(self.precision):
                found.append(draw(model, task.reward, *given, Share(rows, len(prompts))))
        parts, rewards = zip(*found, strict=True)
        drawn, rewards = concatenate(parts, dim=0), torch.cat(rewards)
        if not drawn.log_probs.isfinite().all():
            raise ValueError("the model gives NaN before any training: load it in another dtype")
        tensors = {**drawn._asdict(), "tokens": drawn.tokens.int(), "rewards": rewards}
        self.note_kind()
        tensors = {name: x.cpu().contiguous() for name, x in tensors.items()}
        results.save_tensors(self._files()[part], tensors)

    def load(self, parts: range | None = None) -> Bank:
        """The whole bank, or some of its parts, verified.

        Raises:
            ValueError: a part is missing or damaged (and removed, to be drawn again).
        """
        found, files = [], self._files()
        for file in files if parts is None else [files[part] for part in parts]:
            if (tensors := results.load_tensors(file)) is None:
                file.unlink(missing_ok=True)
                raise ValueError(f"{file} is missing or damaged; start again to draw it anew")
            found.append(tensors)
        completions = concatenate(
            [Completions(p["tokens"].long(), p["mask"], p["log_probs"]) for p in found], dim=0
        )
        return Bank(completions, torch.cat([p["rewards"] for p in found]))

    def around(self, rows: Sequence[int]) -> tuple[Bank, list[int]]:
        """The parts that hold neighbouring rows, and where these are there. Raises as `load`."""
        first = rows[0] // PROMPTS_A_PART
        parts = range(first, rows[-1] // PROMPTS_A_PART + 1)
        return self.load(parts), [row - first * PROMPTS_A_PART for row in rows]

    def complete(self, task: Task) -> BankFolder:
        """This folder, with what is missing of it drawn, by all processes together."""
        parts, hidden = processes.mine(processes.told(self.missing)), not processes.is_main()
        for part in tqdm(parts, desc="reference samples", leave=False, disable=hidden):
            self.fill(task, part)
        forget(task.model)
        processes.gathered(None)  # once all parts are there
        return self

    def filled(self, task: Task) -> Bank:
        """The bank, once it is `complete`.

        Warns where all completions of each prompt have one reward.
        """
        bank = self.complete(task).load()
        if self.samples > 1 and (bank.rewards == bank.rewards[:, :1]).all():
            warnings.warn(
                "the reward gives all completions of a prompt the same value: there is nothing to "
                "learn, and what changes in training is noise",
                stacklevel=2,
            )
        return bank

    @property
    def kinds(self) -> list[str]:
        """The kinds of machine that its parts were drawn on; see `device.kind`."""
        path = self.path / "kinds.json"
        return json.loads(path.read_text()) if path.exists() else []

    def note_kind(self) -> None:
        """Keep the kind of this machine, which something is about to be kept from."""
        kinds = list(dict.fromkeys([*self.kinds, device.kind()]))
        if kinds != self.kinds:
            results.write_atomically(self.path / "kinds.json", json.dumps(kinds).encode())


def draw(
    model: LanguageModel,
    reward: Reward,
    prompts: Sequence[str],
    k: int,
    generator: torch.Generator,
    share: Share | None = None,
) -> tuple[Completions, Tensor]:
    """Sample k completions per prompt and score them: completions and rewards [B, k].

    `share` as in `LanguageModel.sample`.
    """
    drawn = model.sample(model.encode(prompts), k, generator, share)
    return drawn, score(reward, prompts, model.decode(drawn))


def seeded(seed: int, *purpose: object) -> torch.Generator:
    """A generator of the processor whose stream depends on the seed and the purpose alone.

    Nothing of a generator needs saving: step 7 of a resumed run draws what step 7 always draws.
    """
    text = repr((seed, *purpose)).encode()
    number = int.from_bytes(hashlib.sha256(text).digest()[:7], "big")
    return torch.Generator().manual_seed(number)


def as_they_pass(total: int, config: Config) -> bool:
    """Whether a bank's rows are a run's training prompts as they pass by, each time that they do.

    Otherwise they are all of them, in order.
    """
    return config.fresh == "shared" or config.steps * config.prompts_per_step < total


def passing(total: int, config: Config) -> list[int]:
    """Numbers of the training prompts behind the rows of a run's bank."""
    places = range(config.steps * config.prompts_per_step)
    whole = not as_they_pass(total, config)
    return [*range(total)] if whole else prompts_at(places, total, config.seed)


def prompts_at(places: range, total: int, seed: int) -> list[int]:
    """Numbers of the training prompts at some places of the shuffled passes over all `total`."""
    passes = {
        number: torch.randperm(total, generator=seeded(seed, "pass", number)).tolist()
        for number in {place // total for place in places}
    }
    return [passes[place // total][place % total] for place in places]


def measured_spread(task: Task, precision: device.Precision) -> float:
    """The unit of rewards for rules that do not go by ranks, such as REINFORCE."""
    return spread(spread_bank(task, precision).filled(task).rewards)


def spread_bank(task: Task, precision: device.Precision) -> BankFolder:
    """The completions that it is measured on: of the first training prompts, for all runs of a
    task."""
    prompts = task.train_prompts[:SPREAD_PROMPTS]
    return BankFolder.of(task, prompts, SPREAD_SAMPLES, SPREAD_STREAM, precision)


def spread(rewards: Tensor) -> float:
    """Root of the mean over prompts of the variance over completions; rewards [B, K].

    Raises:
        ValueError: it is 0.
    """
    found = rewards.double().var(dim=1).mean().sqrt().item()
    if not found > 0:
        raise ValueError(
            "the reward gives all completions of a prompt the same value: beta_rl has no unit, and "
            "there is nothing to learn from"
        )
    return found
