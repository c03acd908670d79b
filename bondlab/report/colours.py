"""Fixed looks for fixed things, in every figure of the study; what is unknown takes a palette.

Colours tell series apart in print and for colour-blind readers, lines and markers in a grey copy.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

OKABE_ITO = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
COLOURS = (*OKABE_ITO, "#882255", "#999933", "#332288")  # the last three are Paul Tol's
SPACED = ((5, 1, 1, 1, 1, 1), (7, 2), (1, 1), (9, 1, 1, 1), (3, 3), (12, 3))
LINES = ("-", "--", "-.", ":", *((0, dashes) for dashes in SPACED))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
HATCHES = ("", "//", "..", "xx", "\\\\", "++", "--", "oo", "||", "**")
BLUE, BLACK, GREY = "#0072b2", "#000000", "#7a7a7a"
SHORT, LONG = (0, (1, 1.5)), (0, (5, 2))  # dotted and dashed


@dataclass(frozen=True)
class Look:
    """How a series is drawn: a colour in hex, matplotlib's line style and marker."""

    color: str
    line: str | tuple = "-"
    marker: str = "o"


BEST, COOLED = Look(BLACK, "-", "D"), Look(GREY, LONG, "d")
REINFORCE = ("#7f2704", "#c8430a", "#f0802b", "#e0a84c")  # beta_RL from 0.001 to 1
ETA = ("#7fc8b2", "#2a9d7f", "#0b5345")  # the faster, the darker
GAMMA = ("#b39ddb", "#8654b8", "#4a148c")  # the larger, the darker; gamma = 0 is its eta
SIZES = ("#6baed6", "#2171b5", "#08306b")  # fixed N = 4, 8, 16
FIXED = {
    "interval": Look(BLACK),  # of what has rows and no series
    "the whole step": Look(GREY),
    "reference": Look(GREY, "-", "s"),
    "sampled Best-of-N": BEST,
    "sampled Best-of-2": Look(BLACK, "--", "d"),
    "sampled Best-of-8": BEST,
    "best of N policy samples": BEST,
    "best of 16": BEST,
    "best of 4": Look(BLACK, "--", "d"),
    "Best-of-N, formula": Look(BLACK, SHORT, ""),
    "cooled reference": COOLED,
    # Who wrote a summary: the policy at T = 1 is the reference.
    "human reference": Look("#882255", "-", "P"),
    "lead sentence": Look("#999933", ":", "X"),
    "before fine-tuning": Look("#b0b0b0", "-.", "v"),
    "policy, T = 1": Look(GREY, "-", "s"),
    "policy, T = 0.1": Look("#56b4e9", "--", "d"),
    "calibrated": Look(GREY, SHORT, ""),
    # J-BOND, and its parts.
    "J-BOND": Look(BLUE),
    "J-BOND: straight line after the warm-up": Look(BLACK, LONG, ""),
    "J-BOND, float32": Look("#56b4e9", "--", "s"),
    "copy every 50 steps": Look("#882255", "--", "s"),
    "J-BOND, frozen anchor": Look("#56b4e9", "-.", "v"),
    "J-BOND, noise reward": Look(GREY, SHORT, "x"),
    "REINFORCE, noise reward": Look("#a8a8a8", SHORT, "+"),
    "REINFORCE, beta_RL = 0.001": Look(REINFORCE[0], "--", "s"),
    "REINFORCE, beta_RL = 0.01": Look(REINFORCE[1], "-.", "^"),
    "REINFORCE, beta_RL = 0.1": Look(REINFORCE[2], ":", "D"),
    "REINFORCE, beta_RL = 1": Look(REINFORCE[3], LINES[4], "v"),
    "REINFORCE, moving anchor": Look(REINFORCE[2], "-", "<"),
    "rank REINFORCE": Look("#c2185b", "--", ">"),
    "rank REINFORCE, moving anchor": Look("#c2185b", "-", "P"),
    "eta = 0.01": Look(ETA[0], ":", "v"),
    "eta = 0.05": Look(ETA[1], "-.", "^"),
    "eta = 0.1": Look(ETA[2], "--", "s"),
    "eta = 0.05, gamma = 0.5": Look(GAMMA[0], ":", "v"),
    "eta = 0.05, gamma = 1": Look(GAMMA[1], "--", "D"),
    "eta = 0.05, gamma = 2": Look(GAMMA[2], "-", "s"),
    # The other baselines.
    "RLOO, K = 3": Look("#b8860b", "-", "p"),
    "RAFT": Look("#117733", "--", "s"),
    "vBoN": Look("#aa4499", "-.", "^"),
    "online DPO": Look("#cc6677", ":", "D"),
    "BoNBoN": Look("#332288", LINES[4], "v"),
    "WARP, first stage": Look("#999933", LINES[5], "P"),
    "WIND": Look("#17a2b8", "--", "v"),
    "QRPO": Look("#8c564b", "-.", "s"),
    "max@4 of 8": Look("#d87fb6", ":", "^"),
    # Estimates of a quantile: a colour for the rule, a line for the policy.
    "floor 1/(2k)": Look(BLUE),
    "floor 1/(2k), at the reference": Look(BLUE),
    "floor 1/(2k), part-way trained": Look(BLUE, "--", "s"),
    "add-one": Look("#d55e00", "-", "^"),
    "add-one, at the reference": Look("#d55e00", "-", "^"),
    "add-one, part-way trained": Look("#d55e00", "--", "D"),
    "learned": Look("#d55e00", "-", "o"),
    "counted, stored samples": Look(BLUE, "--", "s"),
    "counted, fresh samples": Look("#56b4e9", "-.", "^"),
    "counted in the store": Look(BLUE, "--", "s"),
    "counted in 16 samples": Look("#56b4e9", "-.", "^"),
    "always 1/2": Look(GREY, SHORT, "x"),
    # The autopsy's variants.
    "as published": Look("#882255", "-", "s"),
    "+ float32 anchor": Look("#e69f00", "--", "^"),
    "+ right sign": Look("#56b4e9", "-.", "D"),
    "+ continuous reward": Look(BLUE),
    # The three objectives have colours of no other series, and so have the two ways to an N.
    "beta = 0 (forward KL)": Look("#e69f00", "--", "s"),
    "beta = 0.5 (Jeffreys)": Look("#009e73"),
    "beta = 1 (backward KL)": Look("#cc79a7", "-.", "^"),
    "N = 4": Look(SIZES[0], ":", "v"),
    "N = 8": Look(SIZES[1], "-.", "^"),
    "N = 16": Look(SIZES[2], "--", "s"),
    r"Best-of-$n^t$ of the reference": Look(BLACK, SHORT, "D"),
    "policy, anchor moves each round": Look("#e6862e", "--", "o"),
    "policy, anchor never moves": Look(SIZES[1], "-.", "^"),
    "iterative, n = 2": Look("#e6862e", "--", "D"),
    "iterative, n = 4": Look("#a63603", "-", "o"),
}


def looks(names: Iterable[str]) -> dict[str, Look]:
    """The look of each series: its own, or the next of the palette that nothing known here has."""
    names = list(dict.fromkeys(names))
    taken = {FIXED[name].color for name in names if name in FIXED}
    every = zip(COLOURS, LINES, MARKERS, strict=True)
    free = (Look(*parts) for parts in every if parts[0] not in taken)
    return {name: FIXED.get(name) or next(free) for name in names}
