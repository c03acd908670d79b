"""A plan, and how plans are printed: tables in markdown, memory in 10^9 bytes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import replace

from bondlab.plan.costs import costs
from bondlab.plan.machines import GIGA, MACHINES, TERA, Machine
from bondlab.plan.setting import Setting

MANY = 2**14  # prompts; who samples for some at a time never fills the memory
FILLED = 0.95  # of a GPU's memory; the driver and pieces too small to be used have the rest


class Plan(Setting):
    """What a run takes on a machine."""

    @property
    def operations(self) -> dict[str, float]:
        """Of a step, by part."""
        return {name: c.operations + c.exact for name, c in costs(self).items()}

    @property
    def seconds(self) -> dict[str, float]:
        """Of a step, by part."""
        return {name: c.seconds(self.machine, self.size) for name, c in costs(self).items()}

    def on(self, machine: Machine, **changed: object) -> Plan:
        """The same on another machine, or with other settings of its `Config`."""
        return replace(self, machine=machine, config=self.config.model_copy(update=changed))

    def most(self, name: str, limit: int = MANY) -> int:
        """The largest `prompts_per_step` or `micro_batch` up to a limit that the machine holds; 0:
        none."""
        room = FILLED * self.machine.memory

        def too_large(size: int) -> bool:
            return self.on(self.machine, **{name: size}).peak > room

        return bisect_left(range(1, limit + 1), True, key=too_large)

    def __str__(self) -> str:
        """Memory and a step, by part; and what fits which GPU."""
        rule = getattr(self.algorithm.rule, "__name__", "an algorithm")
        head = (
            f"{self.shape.name}, {rule}, {_trained(self)}, {8 * self.size} bits: {self.prompts} "
            f"prompts of {self.prompt_tokens} tokens per step, completions of "
            f"{self.completion_tokens}, micro-batches of {self.micro_batch}, {self.machine.name}"
        )
        whole = {"at the peak": self.peak, "a checkpoint": self.checkpoint}
        parts = [(name, _number(x / GIGA)) for name, x in (self.memory | whole).items() if x]
        seconds, operations = self.seconds, self.operations
        seconds["all"], operations["all"] = sum(seconds.values()), sum(operations.values())
        step = [
            (name, _number(operations[name] / TERA), _number(taken))
            for name, taken in seconds.items()
            if taken
        ]
        return "\n\n".join([
            head,
            table(["memory", "GB"], parts),
            table(["a step", "10^12 operations", "seconds"], step),
            fitting(self),
        ])  # fmt: skip


def fitting(plan: Plan) -> str:
    """What fits one GPU, adapters and all weights: a table with a row per kind and choice."""
    rows = []
    for rank in (plan.config.lora_rank or 8, None):
        for machine in MACHINES.values():
            one = plan.on(machine, lora_rank=rank)
            size, most = one.most("micro_batch", one.prompts), one.most("prompts_per_step")
            seconds = _number(sum(one.seconds.values())) if size else "does not fit"
            told = "any" if most == MANY else str(most)
            rows.append((machine.name, _trained(one), str(size), told, seconds))
    columns = "GPU", "trained", "largest micro-batch", "most prompts per step", "seconds per step"
    return table(columns, rows)


def overview(plans: Iterable[Plan]) -> str:
    """A row a plan, with the GPUs of which one is enough and the largest micro-batch there."""
    rows = []
    for plan in plans:
        held = {m.name: plan.on(m).most("micro_batch", plan.prompts) for m in MACHINES.values()}
        enough = ", ".join(f"{name} ({most})" for name, most in held.items() if most)
        operations, seconds = sum(plan.operations.values()), sum(plan.seconds.values())
        sizes = plan.peak / GIGA, plan.checkpoint / GIGA, operations / TERA, seconds
        rows.append((plan.shape.name, _trained(plan), *map(_number, sizes), enough or "none"))
    columns = "model", "trained", "GB", "checkpoint, GB", "10^12 operations", "s/step", "one GPU"
    return table(columns, rows)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown: the first column to the left, the others to the right."""
    rows = list(rows)
    first, *others = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    marks = [":" + "-" * (first - 1), *("-" * (width - 1) + ":" for width in others)]

    def line(label: str, *cells: str) -> str:
        return f"| {' | '.join([label.ljust(first), *map(str.rjust, cells, others)])} |"

    return "\n".join(line(*cells) for cells in (columns, marks, *rows))


def _trained(plan: Setting) -> str:
    return "all weights" if plan.whole else f"LoRA rank {plan.config.lora_rank}"


def _number(value: float) -> str:
    """Three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
