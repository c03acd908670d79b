"""Machines that a run may be planned for: data sheets, and this one, measured on the spot."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils.benchmark import Timer

from bondlab import device

TERA, GIGA = 1e12, 1e9
# Shares of a data sheet: not measured here. Training of large models reaches 0.4 to 0.6 of the rate
# (PaLM 0.46, arXiv:2204.02311, table 3), and copies 0.8 to 0.9 of the bandwidth.
REACHED, STREAMED = 0.5, 0.8
# Seconds for which a GPU is busy with, or waits for, one small kernel: replayed as part of a graph,
# started by Python. On an H200 a decoding step of a 30-layer model (210 linear layers) took 4.1 ms
# replayed and 18 ms by transformers' loop, 8.5 and 42 ms with adapters under autocast.
REPLAYED, STARTED = 2.7e-6, 13e-6

# A processor's allocator keeps and splits what was freed: resident memory grew by 1.2 to 1.4 times
# what torch had allocated at once, in steps of seven models of 20 to 135 million weights.
HEAP = 1.4
# Nor does a model reach there what products, sums and small kernels do that run by themselves: its
# products are narrower, and what they read is no longer at hand. So many times as long they took.
PRODUCTS, SUMS, SMALL = 0.9, 4.7, 5.2
SIDE, FEW = 1024, 16  # of the products that are timed


@dataclass(frozen=True)
class Machine:
    """What a plan asks of a machine.

    Args:
        memory: bytes.
        rate, exact: operations per second of products in bfloat16 and in float32.
        weights: bytes per second of weights that products of few rows go through.
        bandwidth: bytes per second of all else.
        started, replayed: seconds a kernel, started by Python or in a captured graph.
        heap: what comes and goes takes so many times its size.
        gpu: whether sampling replays graphs, whose caches stay.
    """

    name: str
    memory: float
    rate: float
    exact: float
    weights: float
    bandwidth: float
    started: float = STARTED
    replayed: float = REPLAYED
    heap: float = 1.0
    gpu: bool = True


def _sheet(name: str, gigabytes: int, rate: float, exact: float, bandwidth: float) -> Machine:
    """Of a data sheet: dense rates in 10^12, bandwidth in 10^9 a second."""
    reached = (REACHED * TERA * x for x in (rate, exact))
    streamed = STREAMED * GIGA * bandwidth
    return Machine(name, gigabytes * GIGA, *reached, streamed, streamed)


MACHINES = {
    "a100": _sheet("A100 80 GB", 80, 312, 19.5, 2039),
    "h100": _sheet("H100 SXM", 80, 989, 67, 3350),
    "h200": _sheet("H200", 141, 989, 67, 4800),
    "l4": _sheet("L4", 24, 121, 30.3, 300),
    "rtx4090": _sheet("RTX 4090", 24, 165, 82.6, 1008),
}


@torch.no_grad()
def here() -> Machine:
    """Where this process computes: what products and a copy reach, what a small kernel takes."""
    where = device.place()
    gpu = where.type == "cuda"

    def rate(dtype: torch.dtype, rows: int, width: int) -> float:
        """Weights times rows per second."""
        given, weight = (torch.ones(n, SIDE, device=where, dtype=dtype) for n in (rows, width))
        return rows * weight.numel() / _seconds(lambda: torch.nn.functional.linear(given, weight))

    def small() -> None:  # two casts and a product
        with torch.autocast(where.type, torch.bfloat16, cache_enabled=False):
            torch.nn.functional.linear(tiny, tiny)

    big, tiny = torch.ones(2**22, device=where), torch.ones(16, 16, device=where)
    products, sums = (1, 1) if gpu else (PRODUCTS, SUMS)
    pages = 0 if gpu else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(
        name=f"this machine ({device.kind()})",
        memory=torch.cuda.mem_get_info()[1] if gpu else pages,
        rate=2 * rate(torch.bfloat16, SIDE, SIDE) / products,
        exact=2 * rate(torch.float32, SIDE, SIDE) / products,
        weights=2 * rate(torch.bfloat16, FEW, 16 * SIDE) / FEW / products,
        bandwidth=2 * big.nbytes / _seconds(lambda: big + big) / sums,
        started=STARTED if gpu else _seconds(small, 100) / 3 * SMALL,
        heap=1.0 if gpu else HEAP,
        gpu=gpu,
    )


def _seconds(work: Callable[[], object], times: int = 1) -> float:
    """Of one call: the median of nine rounds of so many, each after calls that set things up."""
    timer = Timer("work()", globals={"work": work}, num_threads=torch.get_num_threads())
    return statistics.median(timer.timeit(times).mean for _ in range(9))
