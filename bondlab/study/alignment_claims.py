"""What the paper claims of Figures 5, 6 and 7, and the rules that decide it, before their runs.

One rule was changed after its first run, and says so.

Sections and figures are those of arXiv 2407.14622; the runs are in `alignment`. How each rule
is computed stands in `alignment_decisions`.
"""

from __future__ import annotations

from bondlab.study import alignment_decisions as decisions
from bondlab.study.decisions import Claim

# -- anchor ablations (Figures 5 and 6) ------------------------------------------------------------

WITHIN = f"{decisions.SAME:g} spreads (standard deviations of the reference's rewards in a prompt)"
ANCHOR_CLAIMS = (
    Claim(
        "A moving average earns the same reward over training as periodic copies.",
        "section 6, Fig. 5 left",
        "Reproduced if the mean reward over the evaluations after the start, moving average less "
        f"copies, lies with its whole interval within {WITHIN}; not reproduced if it lies wholly "
        "outside; else inconclusive.",
        decisions.same_reward,
    ),
    Claim(
        "Its KL to the reference is markedly lower.",
        "section 6, Fig. 5 middle",
        "Reproduced if, after the last step, the KL with copies less that with the moving average "
        "has an interval above 0; not reproduced if below 0; else inconclusive.",
        decisions.less_kl,
    ),
    Claim(
        "So its trade-off is better.",
        "section 6, Fig. 5 right",
        "Reproduced if the mean height of the moving average's curve of reward against the root of "
        "the KL above the copies', over the KL that both reach, has an interval above 0; not "
        "reproduced if below 0; else inconclusive.",
        decisions.better_anchor,
    ),
    Claim(
        "A larger eta gives faster reward growth.",
        "section 6, Fig. 6 left",
        "Reproduced if the mean reward over the evaluations after the start rises with log eta "
        "(least squares over eta 0.01, 0.05, 0.1), with an interval above 0; not reproduced if "
        "below 0; else inconclusive.",
        decisions.faster_with_eta,
    ),
    Claim(
        "A larger gamma moves away from the reference more slowly.",
        "section 6, Fig. 6 middle",
        "Reproduced if the KL after the last step falls with gamma (least squares over gamma 0, "
        "0.5, 1, 2), with an interval above 0; not reproduced if below 0; else inconclusive.",
        decisions.slower_with_gamma,
    ),
    Claim(
        "A larger gamma improves the trade-off.",
        "section 6, Fig. 6 right",
        "Reproduced if the curves of gamma 1 and of gamma 2 both lie above that of gamma 0 over "
        "the KL they share, as for Figure 5, by intervals above 0; not reproduced if one lies "
        "below 0; else inconclusive.",
        decisions.better_with_gamma,
    ),
)

# -- J-BOND against REINFORCE (Figure 7) -----------------------------------------------------------

J_BOND_CLAIMS = (
    Claim(
        "REINFORCE depends strongly on beta_RL: a larger one ends with less reward and less KL.",
        "section 6, Fig. 7 left and middle",
        "Reproduced if reward and KL after the last step both fall with log beta_RL (least squares "
        "over the four values), each by an interval above 0; not reproduced if one lies below 0; "
        "else inconclusive.",
        decisions.depends_on_beta,
    ),
    Claim(
        "J-BOND improves continuously, without such a choice.",
        "section 6, Fig. 7 left",
        "Reproduced if its reward rises in both halves of training, each by an interval above 0; "
        "not reproduced if one lies below 0; else inconclusive.",
        decisions.improves_continuously,
    ),
    Claim(
        "Its KL grows steadily, about linearly in the steps.",
        "section 6, Fig. 7 middle",
        "Over the evaluations after the warm-up: reproduced if the slope of KL against steps has "
        "an interval above 0 and its change from the first half to the second, as a share of its "
        f"mean, one within {decisions.STRAIGHT:g}; not reproduced if the slope's interval lies "
        "below 0 or the change's wholly outside; else inconclusive.",
        decisions.grows_linearly,
    ),
    Claim(
        "Its curve of reward against KL lies above every REINFORCE run's.",
        "section 6, Fig. 7 right",
        "Reproduced if the mean height of J-BOND's curve, against the root of the KL, above that "
        "of each of the four runs, over the KL that both reach, has an interval above 0; not "
        "reproduced if one lies below 0; else inconclusive. (The first run was judged with curves "
        "straight in the KL itself, which favour the run with more points near the reference.)",
        decisions.above_reinforce,
    ),
    Claim(
        "What J-BOND gains a second judge sees too.",
        "ours; the paper's abstract claims better results beyond the trained reward",
        "Reproduced if, after the last step, the judge that no training sees prefers J-BOND's "
        "completion to one of the reference's with a win rate (ties half) whose interval lies "
        "above 1/2; not reproduced if below; else inconclusive.",
        decisions.judge_agrees,
    ),
)

# -- benchmarks ------------------------------------------------------------------------------------

BENCHMARK_CLAIMS = (
    Claim(
        "J-BOND improves several benchmarks.",
        "abstract; the paper names and shows none",
        "Reproduced if, on measures that no training saw, the policy meets more constraints of "
        "instructions and finds more of HHH's preferred replies likelier than the reference does, "
        "each by an interval above 0; not reproduced if one lies below 0; else inconclusive.",
        decisions.better_on_benchmarks,
    ),
    Claim(
        "J-BOND costs no ability.",
        "ours",
        "Reproduced if the bits that a byte of held-out text costs rise by less than "
        f"{decisions.COST:g}, with the whole interval; not reproduced if it lies wholly above; "
        "else inconclusive.",
        decisions.costs_no_ability,
    ),
)
