"""How many reference samples does a quantile need? The real model and reward, before training.

The policy is then the reference, and one set of its samples serves twice. As a *bank* it stands for
the law itself, each sample equally likely, so that every quantile is known and the k samples of an
estimate are k draws from it: `sample_size` has the bias and variance of the update in closed form.
Some of the samples are the policy's completions, with their gradients of log pi.
`sample_size_toy` asks the same of a policy whose every sequence can be listed.

Legend: S samples with a gradient, M samples of a document in the bank, D parameters.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor
from tqdm.auto import tqdm

from bondlab import device, paths, tasks
from bondlab import results as records
from bondlab.bank import seeded
from bondlab.lm.completions import Completions
from bondlab.quantiles import empirical
from bondlab.results import RunFolder, write_atomically
from bondlab.study import sample_gradients
from bondlab.study.experiments import Profile
from bondlab.study.sample_size_toy import COMPLETIONS
from bondlab.study.xsum_runs import HUB, TINY
from bondlab.task import score
from bondlab.tasks import Task, TaskSettings
from bondlab.toy import sample_size
from bondlab.toy.sample_size import SIZES, SMOOTHINGS

EXPERIMENT = "xsum_quantiles"
TABLE, RUN = "results_sample_size.parquet", "results_sample_size.json"
N = 8  # Figure 9's; both errors, as shares, are the same for any at the reference
COLUMNS = 2**16  # of gradients multiplied at a time
GRADIENTS_AT_ONCE = 8  # completions whose activations are in memory together: about 2 GB
Count = Annotated[int, Field(ge=1)]


class Settings(BaseModel):
    """What is sampled: `task.train` documents, `bank_samples` of each; a gradient of some.

    `policy_samples` of each document get a gradient, with respect to a new LoRA adapter of `rank`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    task: TaskSettings
    policy_samples: Annotated[int, Field(ge=2)]
    bank_samples: Annotated[int, Field(ge=2)]
    rank: Count = 8  # training's
    seed: int = 0

    @model_validator(mode="after")
    def _check(self) -> Settings:
        if self.policy_samples > self.bank_samples:
            raise ValueError("policy_samples are taken from bank_samples: at most as many")
        if self.task.train < 3:
            raise ValueError("intervals leave one document out at a time: task.train of 3 or more")
        return self


SETTINGS = {
    "smoke": Settings(
        task=TINY.model_copy(update={"train": 4}), policy_samples=4, bank_samples=16, rank=2
    ),
    "laptop": Settings(
        task=TaskSettings(name="xsum", train=8, evaluate=1), policy_samples=32, bank_samples=64
    ),
    "study": Settings(
        task=TaskSettings(name="xsum", train=40, evaluate=1), policy_samples=32, bank_samples=128
    ),
    "paper": Settings(
        task=HUB.model_copy(update={"train": 32, "evaluate": 1}),
        policy_samples=16, bank_samples=256,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Results:
    """The errors of estimated quantiles, and how they were found.

    Args:
        profile: whose settings they are; never "shipped".
        errors: a row a k, smoothing and left_out (a document left out for the jackknife, or -1):
            the fields of `sample_size.UpdateError`; over all of the bank's samples the mean bias
            and variance of log p_hat, log_bias and log_variance (nats, nats squared), and as
            weights the spread of its bias as a share of that of log p: what is left of the bias
            after the baseline, without the gradients.
        manifest: the run's manifest and its profile, with seconds for a reference sample's
            "drawing" and for its reward, "scoring".
        shipped: read, not computed here.
    """

    profile: str
    errors: pd.DataFrame
    manifest: dict
    shipped: bool = False


def results(profile: Profile) -> Results:
    """The errors at a profile, sampled unless that was done before; "shipped" reads what is there.

    Raises:
        FileNotFoundError: nothing is committed, or an adapter is missing.
    """
    if profile == "shipped":
        return _shipped()
    settings = SETTINGS[profile]
    task = tasks.build(settings.task, device.resolve("auto"))
    run = RunFolder.of(paths.runs_folder() / EXPERIMENT, identity(settings, task))
    if not run.finished:
        with run.lock():
            _compute(settings, task, run)
    gram = torch.from_numpy(np.load(run.path / "gram.npy")).double()
    errors = pd.DataFrame(errors_of(rewards_of(run.evaluation()), gram))
    seconds = run.record().iloc[-1][["drawing", "scoring"]].to_dict()
    more = {"profile": profile, "seconds a sample": seconds}
    found = Results(profile, errors, run.manifest | more)
    _write(found)
    return found


def identity(settings: Settings, task: Task) -> dict:
    """Everything that determines what is sampled."""
    return {
        "experiment": "sample_size_xsum",
        "task": task.identity,
        "documents": records.digest(list(task.train_prompts)),
        "settings": settings.model_dump(mode="json"),
        "precision": device.resolve("auto"),
    }


def _write(found: Results) -> None:
    folder = paths.figures_folder(EXPERIMENT, found.profile)
    write_atomically(folder / TABLE, found.errors.to_parquet(index=False))
    text = json.dumps(found.manifest, indent=1) + "\n"
    write_atomically(folder / RUN, text.encode())


def _shipped() -> Results:
    folder = paths.figures_folder(EXPERIMENT, "shipped")
    errors = pd.read_parquet(paths.committed(folder / TABLE))
    manifest = json.loads(paths.committed(folder / RUN).read_text())
    return Results(manifest["profile"], errors, manifest, shipped=True)


# -- sampling --------------------------------------------------------------------------------------


def _compute(settings: Settings, task: Task, run: RunFolder) -> None:
    started = time.perf_counter()
    run.mark("running", 0.0)
    run.rewind(-1)  # what an interrupted start left
    rows, gradients, seconds = [], [], np.zeros(2)
    with device.accelerator("auto").autocast():
        for number, text in enumerate(tqdm(task.train_prompts, desc="documents", leave=False)):
            completions, rewards, spent = _draw(settings, task, number)
            for part in torch.arange(settings.policy_samples).split(GRADIENTS_AT_ONCE):
                own = completions.take(part[None].to(task.model.device))
                found = sample_gradients.of_new_adapter(
                    task.model, text, own, settings.rank, settings.seed
                )
                gradients.append(found.half())  # 1.3 MB a sample for the study's model
            rows += [(0, number, i, reward) for i, reward in enumerate(rewards.tolist())]
            seconds += spent
    drawing, scoring = seconds / len(rows)
    run.append({"step": 0, "drawing": drawing, "scoring": scoring})
    np.save(run.path / "gram.npy", _inner_products(torch.cat(gradients)).numpy())
    run.add_evaluation(pd.DataFrame(rows, columns=["step", "prompt", "sample", "reward"]))
    run.mark("finished", time.perf_counter() - started)


def _inner_products(vectors: Tensor) -> Tensor:
    """[S, D] in half precision -> [S, S], multiplied in float32, some columns at a time."""
    return sum(part.float() @ part.float().T for part in vectors.split(COLUMNS, dim=1))


def _draw(settings: Settings, task: Task, number: int) -> tuple[Completions, Tensor, np.ndarray]:
    """The bank of one document: completions [1, M], rewards [M], seconds to draw and to score."""
    texts, model = [task.train_prompts[number]], task.model
    generator = seeded(settings.seed, "sample size", number)
    times = [time.perf_counter()]
    drawn = model.sample(model.encode(texts), settings.bank_samples, generator)
    decoded = model.decode(drawn)
    times.append(time.perf_counter())
    rewards = score(task.reward, texts, decoded)[0]
    times.append(time.perf_counter())
    return drawn, rewards, np.diff(times)


# -- what it says ----------------------------------------------------------------------------------


def rewards_of(samples: pd.DataFrame) -> Tensor:
    """Rewards of the bank [documents, M] from a row a sample."""
    wide = samples.pivot(index="prompt", columns="sample", values="reward")
    return torch.from_numpy(wide.to_numpy(dtype="float64", copy=True))


def errors_of(rewards: Tensor, gram: Tensor) -> Iterator[dict[str, float]]:
    """The rows of `Results.errors`.

    Args:
        rewards: of the bank [B, M].
        gram: [S, S] of the gradients of the first S/B samples of each document.
    """
    quantiles = empirical(rewards, rewards)  # a sample beats itself, so none is 0
    size, count = len(rewards), len(gram) // len(rewards)
    prompts = torch.arange(size).repeat_interleave(count)
    log_p = quantiles.log()
    for (name, smoothing), k in product(SMOOTHINGS.items(), SIZES):
        # One by one for all of the bank, together for those that share a batch's samples.
        means, variance = sample_size.estimate_moments(quantiles[..., None], k, smoothing)
        bias = means[..., 0] - log_p
        covariance = sample_size.estimate_moments(quantiles[:, :count], k, smoothing)[1]
        shared = torch.block_diag(*covariance)
        for left_out in range(-1, size):
            kept = prompts != left_out
            own = log_p[:, :count].flatten()[kept]
            error = sample_size.quantile_error(
                sample_size.drawn(gram[kept][:, kept], prompts[kept]),
                torch.zeros_like(own),  # the policy is the reference
                own,
                (means[:, :count, 0].flatten()[kept], shared[kept][:, kept]),
                N,
                COMPLETIONS,
            )
            documents = torch.arange(size) != left_out
            yield {
                "k": k, "smoothing": name, "left_out": left_out, **dataclasses.asdict(error),
                "log_bias": bias[documents].mean().item(),
                "log_variance": variance[documents].mean().item(),
                "weights": (bias[documents].std() / log_p[documents].std()).item(),
            }  # fmt: skip
